"""Planes to volumes: voxels land where the patient's coordinates say, for every orientation and order."""

import numpy as np
import pytest

from qsm_runtime.io.dicom import assemble, find_dicom

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "axial from the feet": (1, 0, 0, 0, -1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
}


@pytest.mark.parametrize("acquisition", ["2D", "3D"])
@pytest.mark.parametrize("name", [*ORIENTATIONS, *(f"oblique {n}" for n in ORIENTATIONS)])
def test_voxels_lie_where_the_patient_is(kit, name, acquisition):
    base = ORIENTATIONS[name.removeprefix("oblique ")]
    orientation = kit.oblique(base=base) if name.startswith("oblique") else base
    protocol = kit.Protocol(orientation=orientation, acquisition=acquisition)
    (found,) = assemble(kit.classic(protocol))
    acq = found.read(threads=1)
    kit.check(acq, protocol)
    grid = acq.scan.grid
    world_z = acq.affine[:3, :3] / np.linalg.norm(acq.affine[:3, :3], axis=0)
    np.testing.assert_allclose(grid.b0_dir, world_z[2], atol=1e-6)
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    assert sorted(np.abs(grid.b0_dir)) == pytest.approx(sorted(np.abs([row[2], column[2], normal[2]])), abs=1e-6)
    back = acq.dicom.planes(acq.scan.magnitude[0])
    for k, (_, position, place) in enumerate(protocol.planes()):
        np.testing.assert_allclose(np.array(acq.dicom.headers[k].ImagePositionPatient, float), position, atol=1e-6)
        np.testing.assert_array_equal(back[k], kit.magnitude_at(place, 0))


def test_array_of_a_2d_scan_is_the_one_of_dcm2niix(kit):
    """x along the row, y against the column, z along the normal: left-handed in RAS."""
    (found,) = assemble(kit.classic(kit.Protocol(orientation=kit.SAGITTAL)))
    affine = found.read(threads=1).affine
    assert np.linalg.det(affine) < 0
    (found,) = assemble(kit.classic(kit.Protocol(orientation=kit.SAGITTAL, acquisition="3D")))
    affine = found.read(threads=1).affine
    assert (np.diag(affine)[:3] > 0).all()
    np.testing.assert_allclose(affine[:3, :3], np.diag(np.diag(affine)[:3]), atol=1e-9)


def test_order_of_files_has_no_say(kit, tmp_path):
    protocol = kit.Protocol(orientation=kit.oblique())
    datasets = kit.classic(protocol)
    acqs = [assemble(list(order))[0].read(threads=1) for order in (datasets, datasets[::-1])]
    kit.save(datasets, tmp_path / "a", seed=1)
    kit.save(datasets[::-1], tmp_path / "b", seed=2, name=lambda i: f"IM{i % 7}/{i * 37 % 1009}")
    acqs += [find_dicom(tmp_path / folder)[0].read(threads=2) for folder in "ab"]
    for acq in acqs[1:]:
        np.testing.assert_array_equal(acq.scan.phase_rad, acqs[0].scan.phase_rad)
        np.testing.assert_array_equal(acq.scan.magnitude, acqs[0].scan.magnitude)
        np.testing.assert_array_equal(acq.affine, acqs[0].affine)


def test_slices_in_descending_order(kit):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    for number, ds in enumerate(reversed(datasets)):
        ds.InstanceNumber = number + 1
    kit.check(assemble(datasets)[0].read(threads=1), protocol)


def test_one_slice(kit):
    protocol = kit.Protocol(shape=(12, 10, 1), spacing_mm=(2.0, 2.0, 4.0))
    acq = assemble(kit.classic(protocol))[0].read(threads=1)
    assert acq.scan.grid.voxel_mm == pytest.approx((2, 2, 4))
    kit.check(acq, protocol)


def test_b0_given_by_hand(kit):
    acq = assemble(kit.classic(kit.Protocol()))[0].read(b0_dir=(0.0, 1.0, 0.0), threads=1)
    assert acq.scan.grid.b0_dir == (0.0, 1.0, 0.0)
