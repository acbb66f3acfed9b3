"""The same array, affine and phase as dcm2niix: its stored results for real scans, and the tool itself where it is
installed, for made scans of every orientation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsm_runtime.io import find_acquisitions, read_nifti
from qsm_runtime.io.dicom import find_dicom

AFFINE_MM = 2e-4  # single precision of a NIfTI header
RAD = 1e-6


def convert(folder, out):
    tool = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if tool is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    out.mkdir()
    subprocess.run([tool, "-b", "y", "-z", "n", "-f", "%s_%p", "-o", out, folder], check=True, capture_output=True)
    return out


def stored(path):
    image = nib.load(path)
    return np.asarray(image.dataobj.get_unscaled(), float), np.asarray(image.dataobj), image.affine


def same(acq, magnitudes, phases, rad=RAD):
    """Affine, magnitude and phase of an acquisition equal NIfTI files of its echoes."""
    other = read_nifti(magnitudes, phases)
    np.testing.assert_allclose(acq.affine, other.affine, atol=AFFINE_MM)
    np.testing.assert_allclose(acq.scan.magnitude, other.scan.magnitude, rtol=1e-6)
    assert np.abs(acq.scan.phase_rad - other.scan.phase_rad).max() <= rad
    assert acq.scan.echo_times_s == pytest.approx(other.scan.echo_times_s, abs=1e-8)
    assert acq.scan.b0_tesla == pytest.approx(other.scan.b0_tesla, rel=1e-6)
    np.testing.assert_allclose(acq.scan.grid.b0_dir, other.scan.grid.b0_dir, atol=1e-6)
    np.testing.assert_allclose(acq.scan.grid.voxel_mm, other.scan.grid.voxel_mm, rtol=1e-5)
    assert (acq.phase_sign, acq.echo_difference) == (other.phase_sign, other.echo_difference)


@pytest.mark.parametrize("kind", ["cl", "enh"])
def test_philips(shared_data, kind):
    """The stored reference scales phase by the private slope (651.74 counts a rad), the header in mrad: a third of
    one stored step apart."""
    folder = shared_data / "philips_enh"
    (found,) = find_dicom(folder / "In" / kind)
    acq = found.read()
    magnitudes = sorted(folder.glob(f"Ref/*_{kind}_e[12].nii.gz"))
    same(acq, magnitudes, sorted(folder.glob(f"Ref/*_{kind}_e?_ph.nii.gz")), rad=5e-4)
    slope, intercept = 1.53455433455433e-3, -3.142
    for echo, path in enumerate(sorted(folder.glob(f"Ref/*_{kind}_e?_ph.nii.gz"))):
        counts, _, _ = stored(path)
        phase_rad = np.clip(counts * slope + intercept, -np.pi, np.pi)
        np.testing.assert_allclose(acq.scan.phase_rad[echo], phase_rad, atol=RAD)


def test_philips_classic_and_enhanced_are_one(shared_data):
    folder = shared_data / "philips_enh" / "In"
    one, two = (find_dicom(folder / kind)[0].read() for kind in ("cl", "enh"))
    np.testing.assert_array_equal(one.scan.phase_rad, two.scan.phase_rad)
    np.testing.assert_array_equal(one.scan.magnitude, two.scan.magnitude)
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-9)


def test_siemens_xa30(shared_data):
    folder = shared_data / "siemens_xa30"
    (found,) = find_dicom(folder / "In")
    acq = found.read()
    assert acq.scan.echo_times_s == pytest.approx((0.00246,))
    same(acq, sorted(folder.glob("Ref/8_*.nii")), sorted(folder.glob("Ref/9_*.nii")))


def test_siemens_e11_six_echoes(shared_data, tmp_path):
    folder = shared_data / "siemens_6echo"
    (found,) = find_dicom(folder)
    acq = found.read()
    assert acq.scan.echo_times_s == pytest.approx((0.0025, 0.0055, 0.0085, 0.0115, 0.0145, 0.0175))
    assert acq.scan.magnitude.shape == (6, 128, 76, 10)
    out = convert(folder, tmp_path / "nii")
    same(acq, sorted(out.glob("6_*.nii")), sorted(out.glob("7_*.nii")))


@pytest.mark.parametrize("acquisition", ["2D", "3D"])
@pytest.mark.parametrize("name", ["AXIAL", "SAGITTAL", "CORONAL", "oblique"])
def test_made_scans(kit, tmp_path, name, acquisition):
    orientation = kit.oblique() if name == "oblique" else getattr(kit, name)
    # a whole turn of phase in the volume, so that its scale is known from NIfTI too
    protocol = kit.Protocol(orientation=orientation, acquisition=acquisition, shape=(26, 24, 22), vendor="siemens-xa")
    folder = kit.save(kit.classic(protocol), tmp_path / "dicom")
    (found,) = find_dicom(folder)
    acq = found.read(threads=1)
    kit.check(acq, protocol)
    out = convert(folder, tmp_path / "nii")
    same(acq, sorted(out.glob("7_*.nii")), sorted(out.glob("8_*.nii")))


def test_folder_of_both_is_read_as_nifti(kit, tmp_path):
    """Converted files beside their DICOM: the named ones are taken."""
    kit.save(kit.classic(kit.Protocol(shape=(26, 24, 22), vendor="siemens-xa")), tmp_path / "dicom")
    out = convert(tmp_path / "dicom", tmp_path / "nii")
    for path in out.iterdir():
        shutil.copy(path, tmp_path / "dicom")
    found = find_acquisitions(tmp_path / "dicom")
    assert all(path.suffix == ".nii" for one in found for paths in one.files.values() for path in paths)
