"""In-painting continues a harmonic field and leaves trusted voxels alone."""

import numpy as np
import pytest

from qsm_runtime.background.repair import repair
from qsm_runtime.errors import ReconstructionError, ShapeError


def test_isolated_outliers_are_replaced(case):
    rng = np.random.default_rng(0)
    reliability = np.where(rng.random(case.mask.shape) < 0.03, 0, 50).astype(np.float32)
    spoilt = np.where(reliability == 0, case.external_ppm + rng.choice([-1, 1], case.mask.shape), case.external_ppm)
    spoilt[tuple(np.argwhere(case.mask & (reliability == 0))[7])] = np.nan
    field = repair(spoilt.astype(np.float32), case.mask, case.grid, reliability=reliability)
    assert field.dtype == np.float32
    trusted = case.mask & (reliability > 0)
    np.testing.assert_array_equal(field[trusted], spoilt.astype(np.float32)[trusted])
    assert not field[~case.mask].any()
    mended = case.mask & (reliability == 0)
    inner = mended.copy()
    inner[1:-1, 1:-1, 1:-1] &= case.mask[2:, 1:-1, 1:-1] & case.mask[:-2, 1:-1, 1:-1] & case.mask[1:-1, 2:, 1:-1]
    error = field - case.external_ppm
    assert np.median(np.abs(error[inner])) < 1e-3
    assert np.abs(error[mended]).max() < 0.3  # at the rim it can only continue


def test_a_ball_of_outliers_in_a_harmonic_field(case):
    x, y, z = np.indices(case.mask.shape)
    ball = (x - 24) ** 2 + (y - 22) ** 2 + (z - 23) ** 2 < 36
    field = repair(
        np.where(ball, np.inf, case.external_ppm).astype(np.float32),
        case.mask,
        case.grid,
        reliability=np.ones(case.mask.shape, np.float32),
    )
    np.testing.assert_allclose(field[ball], case.external_ppm[ball], atol=2e-3)


def test_nothing_to_repair_and_nothing_to_trust(case):
    reliability = np.ones(case.mask.shape, np.float32)
    np.testing.assert_array_equal(
        repair(case.total_ppm, case.mask, case.grid, reliability=reliability), case.total_ppm * case.mask
    )
    with pytest.raises(ReconstructionError, match="trusted"):
        repair(case.total_ppm, case.mask, case.grid, reliability=0 * reliability)
    with pytest.raises(ShapeError, match="reliability"):
        repair(case.total_ppm, case.mask, case.grid, reliability=reliability[1:])
