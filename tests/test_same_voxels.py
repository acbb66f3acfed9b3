"""One scan, the same voxels by every way in: NIfTI, DICOM files and datasets, MRD, Python, and through the warm core.

A simulated head in the integers that a scanner stores: magnitude 0..4000, phase 0..4095 a turn. Straight, and oblique
in axial, sagittal and coronal cuts, where formats round the affine each in its own way: all agree to the bit.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import made_dicom
import made_mrd
import nibabel as nib
import numpy as np
import pytest
from patience import PATIENCE_S

from qsm_runtime import Grid, Scan, load_recipe, reconstruct
from qsm_runtime.io import read_mask, read_nifti
from qsm_runtime.io.dicom import assemble, find_dicom
from qsm_runtime.io.mrd.client import Outgoing
from qsm_runtime.io.mrd.parameters import Parameters
from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.phantom import simulate_head
from qsm_runtime.serve.core import Core, Settings
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.units import GAMMA_HZ_PER_T

SHAPE, VOXEL_MM = (40, 48, 40), 4.0
ECHO_TIMES_MS = (4.0, 9.0, 14.0)
FREQUENCY_MHZ = 123.25
LEVELS, FULL_SCALE = 4096, 4000
THREADS = 2
MAPS = ("chi_ppm", "mask", "total_ppm", "reliability")
LPS = np.diag([-1.0, -1.0, 1.0])
# direction of row, column and slice in array axes (0, 1, 2: right, anterior, superior), and their signs
CUTS = {
    "axial": ((0, -1), (1, -1), (2, 1)),
    "sagittal": ((1, -1), (2, -1), (0, 1)),
    "coronal": ((0, -1), (2, -1), (1, 1)),
}


@dataclass
class Stored:
    """What the scanner has: integers (echo, x, y, z) on a grid with an affine in RAS, and a mask."""

    magnitude: np.ndarray
    levels: np.ndarray
    affine: np.ndarray
    mask: np.ndarray

    def protocol(self, cut):
        """The planes of a cut, for the makers of DICOM and MRD."""
        axes = CUTS[cut]
        unit = LPS @ self.affine[:3, :3] / VOXEL_MM
        directions = [sign * unit[:, axis] for axis, sign in axes]
        first = [SHAPE[axis] - 1 if sign < 0 else 0 for axis, sign in sorted(axes)]
        if np.cross(directions[0], directions[1]) @ directions[2] < 0:  # slices are counted along the normal
            last = axes[2][0]
            first[last] = SHAPE[last] - 1 - first[last]
        back, here = np.linalg.inv(self.affine), self

        @dataclass
        class Cut(made_dicom.Protocol):
            def values(self, place, echo):
                ras = np.tensordot(LPS, place, 1)
                at = np.rint(np.tensordot(back[:3, :3], ras, 1) + back[:3, 3, None, None]).astype(int)
                levels = here.levels[(echo, *at)]
                return here.magnitude[(echo, *at)], levels / LEVELS * 2 * np.pi - np.pi

        return Cut(
            vendor="siemens",
            orientation=tuple(np.concatenate(directions[:2])),
            shape=tuple(SHAPE[axis] for axis, _ in axes),
            spacing_mm=(VOXEL_MM,) * 3,
            origin=tuple(LPS @ (self.affine[:3, :3] @ first + self.affine[:3, 3])),
            echo_times_ms=ECHO_TIMES_MS,
            acquisition="3D",
            frequency_mhz=FREQUENCY_MHZ,
        )


def scanner(affine):
    head = simulate_head(Grid.from_affine(SHAPE, affine), echo_times_s=tuple(t / 1000 for t in ECHO_TIMES_MS),
                         oversample=1)  # fmt: skip
    scan = head.scan
    magnitude = np.rint(scan.magnitude * (FULL_SCALE / scan.magnitude.max())).astype(np.uint16)
    levels = np.mod(np.rint((scan.phase_rad + np.pi) / (2 * np.pi) * LEVELS), LEVELS).astype(np.uint16)
    return Stored(magnitude, levels, affine, head.truth.mask)


@pytest.fixture(scope="module")
def stored():
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = (-77.5, -95.25, -80.0)
    return scanner(affine)


@pytest.fixture(scope="module")
def oblique():
    a, b = np.radians((12.0, 8.0))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_y @ about_x * VOXEL_MM
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) / 2) + (1.5, -2.25, 3.0)
    return scanner(affine)


def nifti_files(stored, folder):
    """A file for each echo and part, as a converter leaves them; returns magnitude and phase files, and the mask."""
    folder.mkdir(parents=True)
    files = {"mag": [], "phase": []}
    for echo, time_ms in enumerate(ECHO_TIMES_MS):
        meta = {"EchoTime": time_ms / 1000, "ImagingFrequency": FREQUENCY_MHZ, "Manufacturer": "Siemens"}
        for part, data in (("mag", stored.magnitude), ("phase", stored.levels)):
            path = folder / f"echo-{echo + 1}_part-{part}.nii.gz"
            nib.Nifti1Image(data[echo].astype(np.int16), stored.affine).to_filename(path)
            path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(meta))
            files[part].append(path)
    mask = folder / "mask.nii.gz"
    nib.Nifti1Image(stored.mask.astype(np.uint8), stored.affine).to_filename(mask)
    return files, mask


def ways_in(stored, cut, folder):
    """The scan by every way in, by name."""
    protocol = stored.protocol(cut)
    files, mask = nifti_files(stored, folder / "nifti")
    found = {"nifti": read_nifti(files["mag"], files["phase"], mask=mask, threads=THREADS)}
    made_dicom.save(made_dicom.classic(protocol), folder / "dicom")
    found["dicom files"] = find_dicom(folder / "dicom")[0].read(mask=mask, threads=1)
    found["dicom datasets"] = assemble(made_dicom.classic(protocol))[0].read(mask=mask, threads=1)
    enhanced = replace(protocol, vendor="siemens-xa")
    found["enhanced dicom"] = assemble(made_dicom.enhanced(enhanced))[0].read(mask=mask, threads=1)
    (study,) = made_mrd.studies(made_mrd.Fire(protocol))
    found["mrd"] = replace(study.acquisition, mask=read_mask(mask, study.acquisition)[0])
    found["mrd from our client"] = replace(from_client(found["nifti"]), mask=found["mrd"].mask)
    return found


def from_client(acquisition):
    """What the server reads of a scan that `qsm send mrd` sends."""
    out = io.BytesIO()
    Outgoing(acquisition).send(PipeStream(None, out))

    class Sent:
        stream = staticmethod(out.getvalue)

    (study,) = made_mrd.studies(Sent(), Parameters(phase_sign="+"))
    return study.acquisition


def by_hand(stored):
    """The Scan a user makes in Python."""
    phase_rad = stored.levels.astype(np.float32) * np.float32(2 * np.pi / LEVELS) + np.float32(-np.pi)
    grid = Grid.from_affine(SHAPE, stored.affine)
    b0_tesla = FREQUENCY_MHZ * 1e6 / GAMMA_HZ_PER_T
    return Scan(stored.magnitude.astype(np.float32), phase_rad, tuple(t / 1000 for t in ECHO_TIMES_MS), b0_tesla, grid)


def assert_same_scan(scan, wanted, name):
    assert scan.magnitude.tobytes() == wanted.magnitude.tobytes(), name
    assert scan.phase_rad.tobytes() == wanted.phase_rad.tobytes(), name
    assert scan.echo_times_s == wanted.echo_times_s, name
    assert scan.b0_tesla == wanted.b0_tesla, name
    assert scan.grid == wanted.grid, name


def test_every_way_in_is_one_scan(stored, tmp_path):
    wanted = by_hand(stored)
    for cut in CUTS:
        for name, acquisition in ways_in(stored, cut, tmp_path / cut).items():
            assert_same_scan(acquisition.scan, wanted, f"{cut} {name}")
            np.testing.assert_array_equal(acquisition.mask, stored.mask, err_msg=name)
            np.testing.assert_allclose(acquisition.affine, stored.affine, atol=1e-9, err_msg=name)


def test_oblique_scans_are_one_scan(oblique, tmp_path):
    """NIfTI and MRD hold the affine in float32, DICOM in text."""
    wanted = by_hand(oblique)
    affines = []
    for name, acquisition in ways_in(oblique, "coronal", tmp_path).items():
        assert_same_scan(acquisition.scan, wanted, name)
        np.testing.assert_allclose(acquisition.affine, oblique.affine, atol=2e-4, err_msg=name)
        affines.append(acquisition.affine[:3, :3].tobytes())
    assert len(set(affines)) > 1  # they do differ


def test_every_way_in_gives_the_same_voxels(oblique, tmp_path):
    """By recipe default, in this process and in the core's."""
    set_threads(THREADS)
    recipe = load_recipe("default")
    wanted = reconstruct(by_hand(oblique), recipe, mask=oblique.mask)
    assert np.abs(wanted.chi_ppm).max() > 0.1
    ways = ways_in(oblique, "sagittal", tmp_path)
    core = Core(Settings(threads=THREADS), StudyLog(io.StringIO()))
    core.start()
    try:
        for name in ("nifti", "dicom files", "mrd"):
            here = reconstruct(ways[name].scan, recipe, mask=ways[name].mask)
            there = core.submit(ways[name], "0123456789ab").result(PATIENCE_S).result
            for result in (here, there):
                for kind in MAPS:
                    assert getattr(result, kind).tobytes() == getattr(wanted, kind).tobytes(), (name, kind)
    finally:
        core.stop()


@pytest.mark.parametrize(
    ("name", "source", "magnitude", "phase"),
    [("siemens_6echo", ".", "6_*.nii", "7_*.nii"), ("siemens_xa30", "In", "8_*.nii", "9_*.nii")],
)
def test_real_scans_and_what_dcm2niix_makes_of_them(shared_data, tmp_path, name, source, magnitude, phase):
    folder = shared_data / name
    converted = folder / "Ref"
    if not converted.is_dir():
        tool = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if tool is None:
            pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
        converted = tmp_path
        command = [tool, "-b", "y", "-z", "n", "-f", "%s_%p", "-o", converted, folder]
        subprocess.run(command, check=True, capture_output=True)
    wanted = read_nifti(sorted(converted.glob(magnitude)), sorted(converted.glob(phase)))
    assert_same_scan(find_dicom(folder / source)[0].read().scan, wanted.scan, name)
