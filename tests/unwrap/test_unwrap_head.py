"""Wrong turns counted on a simulated head whose field is known."""

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from qsm_runtime.grid import Grid
from qsm_runtime.units import rad_per_ppm
from qsm_runtime.unwrap.romeo import romeo

ECHO_TIMES_S = (0.005, 0.012)


@pytest.fixture(scope="module")
def head(shared_data):
    folder = shared_data / "head3t"
    truth = folder / "derivatives" / "truth" / "sub-1" / "anat"
    if not truth.is_dir():
        pytest.skip(f"no simulated head in {folder}")

    def volume(path):
        return nib.load(path).get_fdata(dtype=np.float32)

    def echoes(part):
        names = (f"sub-1_echo-{e}_part-{part}_MEGRE.nii.gz" for e in (1, 2))
        return np.stack([volume(folder / "sub-1" / "anat" / name) for name in names])

    phase = (echoes("phase") / 4096 * 2 * np.pi - np.pi).astype(np.float32)
    mask = volume(truth / "sub-1_mask.nii.gz") > 0
    field_ppm = volume(truth / "sub-1_desc-shimmed_fieldmap.nii.gz")
    return phase, echoes("mag"), mask, field_ppm


def share_of_wrong_turns(unwrapped, field_ppm, echo_time_s, mask):
    """Against the true field plus the smooth offset that remains, whose turns are the most frequent ones."""
    rest = np.where(mask, unwrapped - field_ppm * rad_per_ppm(3.0, echo_time_s), 0)
    smooth = gaussian_filter(rest, 8) / np.maximum(gaussian_filter(mask.astype(np.float32), 8), 1e-3)
    return np.mean(np.rint((rest - smooth)[mask] / (2 * np.pi)) != 0)


@pytest.mark.parametrize("mode", ["template", "individual"])
def test_few_wrong_turns_in_a_head(head, mode):
    phase, magnitude, mask, field_ppm = head
    unwrapped = romeo(phase, mask, Grid(mask.shape), magnitude=magnitude, echo_times_s=ECHO_TIMES_S, mode=mode)
    for e, echo_time_s in enumerate(ECHO_TIMES_S):
        assert share_of_wrong_turns(unwrapped[e], field_ppm, echo_time_s, mask) < 1e-3
