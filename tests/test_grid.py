"""Grid: what it accepts, normalises and refuses."""

import numpy as np
import pytest

from qsm_runtime.errors import InputError, ShapeError
from qsm_runtime.grid import Grid


def turned(axis: int, degrees: float) -> np.ndarray:
    """Rotation matrix about one world axis."""
    i, j = (a for a in range(3) if a != axis)
    out = np.eye(3)
    angle = np.radians(degrees)
    out[i, i] = out[j, j] = np.cos(angle)
    out[i, j], out[j, i] = -np.sin(angle), np.sin(angle)
    return out


def affine_of(matrix: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = matrix, origin
    return out


def test_b0_is_made_a_unit_vector():
    grid = Grid((4, 5, 6), (1, 1, 2), (0, 3, 4))
    assert grid.b0_dir == pytest.approx((0, 0.6, 0.8))
    assert grid.voxel_volume_mm3 == 2.0


def test_numpy_scalars_become_plain_numbers():
    grid = Grid(tuple(np.array((4, 5, 6))), tuple(np.float32((1, 1, 2))), np.array((0.0, 0, 1)))
    assert all(type(n) is int for n in grid.shape)
    assert all(type(v) is float for v in (*grid.voxel_mm, *grid.b0_dir))
    assert hash(grid) == hash(Grid((4, 5, 6), (1, 1, 2)))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 0), (4, 5, 6, 7), (4, -5, 6)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match="three positive sizes"):
        Grid(shape)


@pytest.mark.parametrize("voxel_mm", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, np.nan), (1, np.inf, 1)])
def test_bad_voxel_sizes_are_refused(voxel_mm):
    with pytest.raises(InputError, match="voxel size"):
        Grid((4, 5, 6), voxel_mm)


@pytest.mark.parametrize("b0_dir", [(0, 0, 0), (0, 0, np.nan), (0, 1), (0, 0, np.inf)])
def test_bad_b0_directions_are_refused(b0_dir):
    with pytest.raises(InputError, match="B0 direction"):
        Grid((4, 5, 6), (1, 1, 1), b0_dir)


def test_identity_affine():
    grid = Grid.from_affine((4, 5, 6), affine_of(np.diag((0.5, 1, 2)), (-10, 20, 30)))
    assert grid == Grid((4, 5, 6), (0.5, 1, 2), (0, 0, 1))


@pytest.mark.parametrize(("flip", "b0"), [((-1, 1, 1), (0, 0, 1)), ((1, -1, 1), (0, 0, 1)), ((1, 1, -1), (0, 0, -1))])
def test_flipped_axes(flip, b0):
    grid = Grid.from_affine((4, 5, 6), affine_of(np.diag(flip) @ np.diag((1.0, 2, 3))))
    assert grid.voxel_mm == pytest.approx((1, 2, 3))
    assert grid.b0_dir == pytest.approx(b0)


def test_permuted_axes():
    # array axes run along world y, z, x: a sagittal acquisition
    matrix = np.array([[0, 0, 1.5], [0.9, 0, 0], [0, -0.9, 0]])
    grid = Grid.from_affine((4, 5, 6), affine_of(matrix))
    assert grid.voxel_mm == pytest.approx((0.9, 0.9, 1.5))
    assert grid.b0_dir == pytest.approx((0, -1, 0))


def test_oblique_slab():
    # a slab tilted about the world's x axis: B0 leans over in the array's y-z plane, the voxel size does not matter
    tilt = turned(0, 30)
    grid = Grid.from_affine((4, 5, 6), affine_of(tilt @ np.diag((1.0, 1.0, 3.0))))
    assert grid.voxel_mm == pytest.approx((1, 1, 3))
    assert grid.b0_dir == pytest.approx((0, np.sin(np.radians(30)), np.cos(np.radians(30))), abs=1e-5)
    world = tilt @ np.array(grid.b0_dir)
    assert world == pytest.approx((0, 0, 1), abs=1e-5)


@pytest.mark.parametrize("degrees", [(10, 0, 0), (25, -40, 70), (0, 90, 0), (180, 0, 45)])
def test_b0_maps_back_to_world_z(degrees):
    matrix = turned(0, degrees[0]) @ turned(1, degrees[1]) @ turned(2, degrees[2])
    grid = Grid.from_affine((4, 5, 6), affine_of(matrix @ np.diag((0.7, 1.1, 2.0))))
    assert matrix @ np.array(grid.b0_dir) == pytest.approx((0, 0, 1), abs=1e-5)
    assert grid.voxel_mm == pytest.approx((0.7, 1.1, 2.0))


def test_sheared_affine_is_refused_by_name():
    sheared = affine_of(np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1.0]]))
    with pytest.raises(InputError, match=r"scan\.nii: the affine is sheared"):
        Grid.from_affine((4, 5, 6), sheared, "scan.nii")


def test_rounding_of_an_affine_is_no_shear():
    nearly = affine_of(turned(1, 20)).astype(np.float32)
    nearly[0, 1] += 1e-4
    assert Grid.from_affine((4, 5, 6), nearly).voxel_mm == pytest.approx((1, 1, 1), abs=1e-3)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_singular_affine_is_refused(value):
    affine = np.eye(4)
    affine[:, 1] = value
    with pytest.raises(InputError, match="singular"):
        Grid.from_affine((4, 5, 6), affine)


def test_two_parallel_axes_are_refused():
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    with pytest.raises(InputError, match="sheared"):
        Grid.from_affine((4, 5, 6), affine)


def test_check_names_the_array():
    grid = Grid((4, 5, 6))
    grid.check(np.zeros((4, 5, 6)), "mask")
    with pytest.raises(ShapeError, match=r"mask has shape \(4, 5\), expected \(4, 5, 6\)"):
        grid.check(np.zeros((4, 5)), "mask")


def test_one_grid_whichever_way_the_affine_was_rounded() -> None:
    """float32, or nine digits of text; with voxel sizes that lie halfway between two steps."""
    turn = np.radians(17)
    turned = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    for voxel_mm in ((0.859375, 0.421875, 0.7), (0.78125, 1.1, 3.4), (0.46875, 2.9999999999999996, 1 / 3)):
        affine = np.eye(4)
        affine[:3, :3] = turned * voxel_mm
        ways = [affine, affine.astype(np.float32), np.vectorize(lambda v: float(f"{v:.9g}"))(affine)]
        grids = {Grid.from_affine((4, 5, 6), way) for way in ways}
        assert len(grids) == 1
        assert grids.pop().voxel_mm == pytest.approx(voxel_mm, abs=1e-5)
