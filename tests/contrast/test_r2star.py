"""R2* against exact decays, scipy's least squares and the Rician bias."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from qsm_runtime.contrast import r2star
from qsm_runtime.contrast.r2star import noise_level
from qsm_runtime.errors import MetadataError, ShapeError, UsageError
from qsm_runtime.grid import Grid

GRID = Grid((9, 8, 7))
MASK = np.ones(GRID.shape, bool)
EQUAL = (0.005, 0.012, 0.019, 0.026)
UNEQUAL = (0.003, 0.007, 0.016, 0.022, 0.035)


def rates(grid=GRID):
    return np.linspace(2, 120, np.prod(grid.shape)).reshape(grid.shape)


def decay(times, rate, amplitude=1000.0):
    return (amplitude * np.exp(-np.asarray(times)[:, None, None, None] * rate)).astype(np.float32)


@pytest.mark.parametrize("times", [EQUAL, UNEQUAL, EQUAL[:2]])
def test_noiseless_decay_is_recovered_at_any_spacing(times):
    found = r2star(decay(times, rates()), MASK, GRID, echo_times_s=times)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rates(), rtol=2e-4)


def test_arlo_is_exact_but_for_simpsons_rule():
    # Simpson's error over two spacings d: (R2* d)^4 / 180 of the integral
    found = r2star(decay(EQUAL, rates()), MASK, GRID, echo_times_s=EQUAL, fit="arlo")
    error = np.abs(found / rates() - 1)
    assert np.all(error < 1e-3 + (rates() * 0.007) ** 4 / 60)
    assert error[rates() < 60].max() < 1e-3


def test_least_squares_agrees_with_scipy_on_noisy_decays():
    rng = np.random.default_rng(0)
    magnitude = decay(UNEQUAL, rates()) + 15 * rng.standard_normal((5, *GRID.shape)).astype(np.float32)
    found = r2star(magnitude, MASK, GRID, echo_times_s=UNEQUAL, noise=0.0)
    times = np.array(UNEQUAL)
    for index in [(1, 2, 3), (4, 4, 4), (6, 1, 5)]:
        signal = magnitude[(slice(None), *index)].astype(float)
        (_, rate), _ = curve_fit(lambda t, a, r: a * np.exp(-r * t), times, signal, p0=(1000, 30))
        np.testing.assert_allclose(found[index], rate, rtol=1e-3)


def test_noise_floor_is_taken_off():
    rng = np.random.default_rng(1)
    grid, noise, rate = Grid((24, 24, 24)), 40.0, 80.0
    times = (0.004, 0.010, 0.016, 0.022, 0.028, 0.034)
    inside = np.zeros(grid.shape, bool)
    inside[6:18, 6:18, 6:18] = True
    clean = decay(times, np.full(grid.shape, rate)) * inside
    real, imaginary = noise * rng.standard_normal((2, *clean.shape))
    magnitude = np.hypot(clean + real, imaginary).astype(np.float32)
    assert noise_level(magnitude, inside) == pytest.approx(noise, rel=0.03)
    aware = np.median(r2star(magnitude, inside, grid, echo_times_s=times)[inside])
    unaware = np.median(r2star(magnitude, inside, grid, echo_times_s=times, noise=0.0)[inside])
    assert abs(aware - rate) < 0.04 * rate
    assert abs(aware - rate) < 0.5 * abs(unaware - rate)


def test_noise_is_not_guessed_where_there_is_no_air():
    rng = np.random.default_rng(2)
    magnitude = (1000 + 30 * rng.standard_normal((20, 20, 20))).astype(np.float32)
    inside = np.zeros(magnitude.shape, bool)
    inside[5:15, 5:15, 5:15] = True
    assert noise_level(magnitude[None], inside) == 0
    assert noise_level((magnitude * inside)[None], inside) == 0


def test_zero_outside_the_mask_and_finite_for_bad_voxels():
    magnitude = decay(EQUAL, rates())
    magnitude[:, 0, 0, 0] = 0
    magnitude[2, 0, 0, 1] = np.nan
    magnitude[:, 0, 0, 2] = magnitude[::-1, 0, 0, 2]  # grows: no decay
    mask = MASK.copy()
    mask[-1] = False
    found = r2star(magnitude, mask, GRID, echo_times_s=EQUAL)
    assert np.isfinite(found).all()
    assert not found[-1].any()
    assert found[0, 0, 0] == 0
    assert found[0, 0, 2] == 0
    np.testing.assert_allclose(found[0, 0, 1], rates()[0, 0, 1], rtol=1e-3)


def test_errors_name_the_remedy():
    magnitude = decay(UNEQUAL, rates())
    with pytest.raises(MetadataError, match="two echoes"):
        r2star(magnitude[:1], MASK, GRID, echo_times_s=UNEQUAL[:1])
    with pytest.raises(MetadataError, match="least_squares"):
        r2star(magnitude, MASK, GRID, echo_times_s=UNEQUAL, fit="arlo")
    with pytest.raises(MetadataError, match="increase"):
        r2star(magnitude, MASK, GRID, echo_times_s=UNEQUAL[::-1])
    with pytest.raises(ShapeError, match="echoes"):
        r2star(magnitude, MASK, GRID, echo_times_s=EQUAL)
    with pytest.raises(UsageError, match="noise"):
        r2star(magnitude, MASK, GRID, echo_times_s=UNEQUAL, noise=-1.0)
