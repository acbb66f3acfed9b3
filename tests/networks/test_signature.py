"""A local field knows its own B0, voxels and sign."""

import numpy as np
import pytest

from qsm_runtime.grid import Grid
from qsm_runtime.networks import signature
from qsm_runtime.phantom import simulate_head

OBLIQUE = (0.35, 0.2, 0.92)


@pytest.fixture(scope="module", params=[(0.0, 0.0, 1.0), OBLIQUE])
def head(request: pytest.FixtureRequest):
    grid = Grid((64, 76, 64), (2.6, 2.6, 2.6), request.param)
    truth = simulate_head(grid, oversample=1).truth
    return truth.local_ppm, truth.mask, grid


def said(field: np.ndarray, mask: np.ndarray, grid: Grid) -> str:
    seen = signature.look(field, mask, grid)
    assert seen is not None
    return "; ".join(signature.wrong(seen, grid) + signature.doubts(seen))


@pytest.mark.parametrize("noise_ppm", [0.0, 0.005])
def test_b0_and_voxels_are_found_where_they_are(head, noise_ppm: float) -> None:
    local, mask, grid = head
    noise = np.random.default_rng(0).standard_normal(local.shape).astype(np.float32)
    field = local + np.float32(noise_ppm) * noise
    assert said(field, mask, grid) == ""
    if grid.b0_dir[2] < 0.95:
        return
    for axis in ((1, 0, 0), (0, 1, 0)):
        assert "signature of B0 along the array's z axis" in said(field, mask, Grid(grid.shape, grid.voxel_mm, axis))
    for z_mm in (5.2, 1.3):
        found = said(field, mask, Grid(grid.shape, (2.6, 2.6, z_mm)))
        assert f"does not fit voxels of 2.6x2.6x{z_mm} mm: it has the signature of voxels of 2.6x2.6x2.6 mm" in found


def test_a_turned_sign_is_found(head) -> None:
    local, mask, grid = head
    assert "the sign of the phase is turned" in said(-local, mask, grid)
    assert said(0.3 * local, mask, grid) == said(4 * local, mask, grid) == ""


def test_noise_is_no_dipole(head) -> None:
    _, mask, grid = head
    noise = np.random.default_rng(1).standard_normal(grid.shape).astype(np.float32)
    found = said(0.01 * noise, mask, grid)
    assert "does not look like that of a dipole" in found
    assert "signature" not in found


def test_small_masks_are_not_judged() -> None:
    grid = Grid((20, 20, 20))
    assert signature.look(np.ones(grid.shape, np.float32), np.ones(grid.shape, bool), grid) is None


def test_large_voxels_tell_nothing_of_the_sign() -> None:
    grid = Grid((44, 52, 44), (4.0, 4.0, 4.0))
    truth = simulate_head(grid, oversample=1).truth
    seen = signature.look(-truth.local_ppm, truth.mask, grid)
    assert seen is not None
    assert seen.tails is None
    assert signature.wrong(seen, grid) == []
