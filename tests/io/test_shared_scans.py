"""Real scans: scale, pairing and sign against the scanners' own maps and against physics."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from qsm_runtime.errors import MetadataError
from qsm_runtime.io import find_acquisitions, read_map, read_nifti
from qsm_runtime.units import TWO_PI, hz_per_ppm

AIR_MINUS_TISSUE_PPM = 9.4


def files(folder, pattern):
    paths = sorted(folder.glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern} in {folder}")
    return paths


def turn_per_echo(scan):
    """exp(i phase difference of the first two echoes), and the frequency in Hz at which it wraps."""
    signal = np.exp(1j * scan.phase_rad.astype(float))
    if scan.n_echoes == 1:
        return signal[0], 1 / scan.echo_times_s[0]
    return signal[1] * signal[0].conj(), 1 / (scan.echo_times_s[1] - scan.echo_times_s[0])


def difference_hz(turn, wrap_hz, map_hz, mask):
    """Distance of a field to a map in Hz, modulo the wrap frequency, a constant removed."""
    distance = turn * np.exp(-1j * TWO_PI * map_hz / wrap_hz)
    distance *= np.exp(-1j * np.angle(distance[mask].sum()))
    return np.abs(np.angle(distance))[mask] / TWO_PI * wrap_hz


def test_ge_field_is_the_vendors(shared_data):
    folder = shared_data / "vendor_b0" / "ge_01"
    acq = read_nifti(files(folder, "00720*.nii.gz"), files(folder, "00721*.nii.gz"))
    assert acq.phase_sign == -1
    turn, wrap_hz = turn_per_echo(acq.scan)
    magnitude = acq.scan.magnitude.mean(0)
    strong = magnitude > np.median(magnitude)
    map_hz = read_map(files(folder, "00730*.nii.gz")[0]).array / 10
    assert np.mean(difference_hz(turn, wrap_hz, map_hz, strong) < 5) >= 0.99
    assert np.mean(difference_hz(turn.conj(), wrap_hz, map_hz, strong) < 5) < 0.1


def test_philips_sign_is_the_vendors(shared_data):
    """The vendor's map is of another breath-hold with another shim: only a linear term apart is comparable."""
    folder = shared_data / "vendor_b0" / "philips_01"
    acq = read_nifti(files(folder, "01001*_e[12].nii.gz"), files(folder, "01001*_ph.nii.gz"))
    turn, wrap_hz = turn_per_echo(acq.scan)
    strong = acq.scan.magnitude[0] > np.median(acq.scan.magnitude[0])
    map_hz = read_map(files(folder, "00501*_e1a.nii.gz")[0]).array
    medians = {}
    for sign, field_turn in ((1, turn), (-1, turn.conj())):
        distance = field_turn * np.exp(-1j * TWO_PI * map_hz / wrap_hz) * strong
        for axis, index in enumerate(np.meshgrid(*map(np.arange, strong.shape), indexing="ij", sparse=True)):
            step = np.take(distance, range(1, strong.shape[axis]), axis)
            slope = np.angle((step * np.take(distance, range(strong.shape[axis] - 1), axis).conj()).sum())
            distance = distance * np.exp(-1j * slope * index)
        medians[sign] = np.median(difference_hz(distance, wrap_hz, 0.0, strong))
    assert acq.phase_sign == 1
    assert medians[1] < 0.5 * medians[-1]


def outline_correlation(acq):
    """Correlation, per axis, of field gradients in tissue with those of a body of tissue in air."""
    scan = acq.scan
    turn, _ = turn_per_echo(scan)
    level = 0.08 * np.percentile(scan.magnitude[0], 99)
    body = ndimage.binary_opening(ndimage.binary_closing(scan.magnitude[0] > level))
    pad = 16
    chi_ppm = np.pad(-AIR_MINUS_TISSUE_PPM * body, pad, mode="edge")
    k = np.meshgrid(*map(np.fft.fftfreq, chi_ppm.shape, scan.grid.voxel_mm), indexing="ij")
    k_squared = sum(axis**2 for axis in k)
    k_squared[0, 0, 0] = np.inf
    dipole = 1 / 3 - sum(axis * b for axis, b in zip(k, scan.grid.b0_dir, strict=True)) ** 2 / k_squared
    model = np.fft.ifftn(np.fft.fftn(chi_ppm) * dipole).real[pad:-pad, pad:-pad, pad:-pad] * hz_per_ppm(scan.b0_tesla)
    inner = ndimage.binary_erosion(scan.magnitude[0] > 2 * level)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in body.shape), indexing="ij"), -1)
    correlations = []
    for axis in range(3):
        ahead = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        behind = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        both = inner[ahead] & inner[behind]
        shim = np.c_[place[ahead][both], np.ones(np.count_nonzero(both))]
        pair = []
        for gradient in (np.angle(turn[ahead] * turn[behind].conj())[both], (model[ahead] - model[behind])[both]):
            rest = gradient - shim @ np.linalg.lstsq(shim, gradient, rcond=None)[0]
            pair.append(np.clip(rest, *np.percentile(rest, [1, 99])))
        correlations.append(np.corrcoef(*pair)[0, 1])
    return correlations


def test_philips_head_air_is_paramagnetic(shared_data):
    folder = shared_data / "philips_enh" / "Ref"
    acq = read_nifti(files(folder, "*_cl_e[12].nii.gz"), files(folder, "*_cl_e?_ph.nii.gz"))
    assert "rad by the header" in acq.phase_scaling
    assert acq.name == "2001_WIP_fcMRI_Field_Mapping_cl"
    assert min(outline_correlation(acq)) > 0.2
    other = read_nifti(files(folder, "*_enh_e[12].nii.gz"), files(folder, "*_enh_e?_ph.nii.gz"))
    np.testing.assert_array_equal(other.scan.phase_rad, acq.scan.phase_rad)


def test_siemens_head_difference_air_is_paramagnetic(shared_data):
    folder = shared_data / "siemens_xa30" / "Ref"
    acq = read_nifti(files(folder, "8_*.nii"), files(folder, "9_*.nii"))
    assert acq.scan.echo_times_s == pytest.approx((0.00246,))
    assert acq.scan.b0_tesla == pytest.approx(2.895, abs=1e-3)
    assert min(outline_correlation(acq)) > 0.15


@pytest.mark.parametrize(
    ("folder", "magnitude", "phase"),
    [
        ("ge_01", "00720*.nii.gz", "00721*.nii.gz"),
        ("philips_01", "01001*_e[12].nii.gz", "01001*_ph.nii.gz"),
        ("siemens_02", "0039*.nii.gz", "0040*.nii.gz"),
    ],
)
def test_field_rises_towards_the_lung(shared_data, folder, magnitude, phase):
    """Below the air of the lung, along B0, the field grows: the sign, by physics alone."""
    folder = shared_data / "vendor_b0" / folder
    scan = read_nifti(files(folder, magnitude), files(folder, phase)).scan
    assert scan.grid.b0_dir[1] > 0.9  # coronal: the second axis runs from feet to head
    turn, _ = turn_per_echo(scan)
    depth = round(30 / scan.grid.voxel_mm[1])
    level = np.percentile(scan.magnitude[0], 95)
    below = np.lib.stride_tricks.sliding_window_view(scan.magnitude[0] > 0.25 * level, depth, 1).all(-1)
    above = np.lib.stride_tricks.sliding_window_view(scan.magnitude[0] < 0.12 * level, depth - 2, 1).all(-1)
    step = np.angle(turn[:, 1:] * turn[:, :-1].conj())
    count = scan.grid.shape[1] - 2 * depth
    edges = np.argwhere(below[:, :count] & above[:, depth + 2 : depth + 2 + count])
    rising = [np.median(step[x, y : y + depth - 1, z]) > 0 for x, y, z in edges]
    assert len(rising) > 100
    assert np.mean(rising) > 0.75


def test_siemens_abdomen_noise_fills_the_circle(shared_data):
    folder = shared_data / "vendor_b0" / "siemens_02"
    acq = read_nifti(files(folder, "0039*.nii.gz"), files(folder, "0040*.nii.gz"))
    assert acq.scan.echo_times_s == pytest.approx((0.004, 0.00646))
    magnitude = acq.scan.magnitude
    noise = np.sort(acq.scan.phase_rad[(magnitude > 0) & (magnitude < np.percentile(magnitude, 30))])
    uniform = np.linspace(-np.pi, np.pi, noise.size)
    assert np.abs(noise - uniform).max() < 0.1 * TWO_PI


def test_gre_crop(shared_data):
    folder = shared_data / "gre_crop"
    times = {"echo_times_s": (0.004, 0.008, 0.012), "b0_tesla": 3.0}
    acq = read_nifti([folder / "small" / "Mag.nii"], [folder / "small" / "Phase.nii"], **times)
    assert acq.scan.phase_rad.shape == (3, 51, 51, 41)
    assert acq.scan.phase_rad.max() == pytest.approx(np.pi, abs=1e-5)
    assert any("set aside" in w for w in acq.warnings)
    crop = [folder / "small2" / "Mag.nii"], [folder / "small2" / "Phase.nii"]
    with pytest.raises(MetadataError, match="states no orientation"):
        read_nifti(*crop, echo_times_s=[0.004], b0_tesla=3.0)
    assert read_nifti(*crop, echo_times_s=[0.004], b0_tesla=3.0, b0_dir=(0, 0, 1)).scan.n_echoes == 1


def test_gre_crop_with_nan(shared_data, tmp_path):
    """Its first echo reaches +-4.7: no convention's turn, so radians must be stated; then it is wrapped."""
    path = shared_data / "gre_crop" / "small" / "phase_with_nan.nii"
    phase = nib.load(path)
    ones = tmp_path / "magnitude.nii"
    nib.Nifti1Image(np.ones(phase.shape, np.float32), None, phase.header).to_filename(ones)
    flags = {"echo_times_s": (0.004, 0.008), "b0_tesla": 3.0, "b0_dir": (0, 0, 1)}
    with pytest.raises(MetadataError, match=r"ambiguous: values from -4\.657\d* to 4\.709\d*"):
        read_nifti([ones], [path], **flags)
    scan = read_nifti([ones], [path], phase_scale="rad", **flags).scan
    stored = np.moveaxis(phase.get_fdata(), -1, 0)
    assert scan.n_not_finite == np.count_nonzero(np.isnan(stored).any(0)) > 0
    turns = (stored - scan.phase_rad)[:, scan.finite] / TWO_PI
    assert np.abs(turns - np.rint(turns)).max() < 1e-3


def test_head3t_as_dataset_and_as_files(shared_data):
    (found,) = find_acquisitions(shared_data / "head3t")
    acq = found.read(threads=2)
    assert acq.folder == "sub-1/anat"
    assert acq.scan.echo_times_s == (0.005, 0.012, 0.019, 0.026)
    assert acq.scan.b0_tesla == 3
    assert acq.scan.phase_rad.min() == np.float32(-np.pi)
    assert acq.scan.phase_rad.max() == pytest.approx(np.pi - TWO_PI / 4096, abs=1e-6)
    single = read_nifti(found.files["mag"][2:3], found.files["phase"][2:3])
    np.testing.assert_array_equal(single.scan.phase_rad[0], acq.scan.phase_rad[2])
    np.testing.assert_array_equal(single.scan.magnitude[0], acq.scan.magnitude[2])


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("vendor_b0/siemens_02", ["0040_bh_b0map_default_bh_b0map_default"]),
        ("vendor_b0/philips_01", ["01001__B0_map_expiration_volume_2DMS_product_auto"]),
        ("philips_enh/Ref", ["2001_WIP_fcMRI_Field_Mapping_cl", "2001_WIP_fcMRI_Field_Mapping_enh"]),
        ("siemens_xa30/Ref", ["9_gre_field_mapping"]),
    ],
)
def test_folders_of_dcm2niix(shared_data, folder, names):
    found = find_acquisitions(shared_data / folder)
    assert [f.name for f in found] == names
    assert all(f.read().scan.finite.all() for f in found)
