"""Susceptibility weighting against Haacke's formula, and what must not change the image."""

import numpy as np
import pytest

from qsm_runtime.contrast import swi
from qsm_runtime.contrast.swi import high_pass_phase, minimum_projection
from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid

GRID = Grid((40, 40, 24), (1.0, 1.0, 1.5))
MASK = np.ones(GRID.shape, bool)
TIMES = (0.010, 0.020)
FREQUENCY = 60.0  # rad/s of the vein


def scan(times=TIMES, frequency=FREQUENCY, background=0.0):
    """A thin vein along z in even tissue; `background` is a linear field in rad/s across the image."""
    vein = np.zeros(GRID.shape, bool)
    vein[20, 20] = True
    ramp = background * np.linspace(-1, 1, GRID.shape[0])[:, None, None]
    phase = np.stack([t * (frequency * vein + ramp) for t in times])
    magnitude = np.stack([np.full(GRID.shape, 100.0 * np.exp(-t / 0.05)) for t in times])
    return magnitude.astype(np.float32), np.angle(np.exp(1j * phase)).astype(np.float32), vein


def test_weight_is_haackes_with_paramagnetic_phase_positive():
    magnitude, phase, vein = scan()
    image = swi(magnitude, phase, MASK, GRID, echo_times_s=TIMES)
    combined = np.sqrt((magnitude.astype(float) ** 2).sum(axis=0))
    # the low-pass holds next to nothing of one voxel: the vein keeps its phase at the last echo
    expected = (1 - FREQUENCY * TIMES[-1] / np.pi) ** 4
    np.testing.assert_allclose(image[vein] / combined[vein], expected, rtol=0.08)
    np.testing.assert_allclose(image[~vein], combined[~vein], rtol=0.03)


def test_diamagnetic_phase_is_not_darkened():
    magnitude, phase, vein = scan(frequency=-FREQUENCY)
    image = swi(magnitude, phase, MASK, GRID, echo_times_s=TIMES)
    np.testing.assert_allclose(image[vein], np.sqrt((magnitude**2).sum(axis=0))[vein], rtol=1e-5)


def test_wrapped_smooth_background_is_taken_off():
    magnitude, phase, vein = scan()
    _, wrapped, _ = scan(background=250.0)
    assert np.abs(np.diff(wrapped[-1], axis=0)).max() > 5
    there = swi(magnitude, wrapped, MASK, GRID, echo_times_s=TIMES)
    flat = swi(magnitude, phase, MASK, GRID, echo_times_s=TIMES)
    inner = (slice(12, -12), slice(None), slice(None))
    np.testing.assert_allclose(there[inner], flat[inner], rtol=0.05)
    assert vein[inner].any()


def test_echoes_are_averaged_with_the_inverse_variance():
    rng = np.random.default_rng(0)
    magnitude, _, _ = scan()
    phase = 0.2 * rng.standard_normal(magnitude.shape).astype(np.float32)
    both = high_pass_phase(magnitude, phase, MASK, GRID.voxel_mm, TIMES, 3.0)
    single = [
        high_pass_phase(m[None], p[None], MASK, GRID.voxel_mm, (t,), 3.0)
        for m, p, t in zip(magnitude, phase, TIMES, strict=True)
    ]
    weight = [(m[0, 0, 0] * t) ** 2 for m, t in zip(magnitude, TIMES, strict=True)]
    expected = (weight[0] * single[0] * 2 + weight[1] * single[1]) / sum(weight)
    np.testing.assert_allclose(both, expected, atol=1e-5)


def test_sigmoid_is_one_half_times_one_plus_tanh():
    magnitude, phase, _ = scan(TIMES[1:])
    image = swi(magnitude, phase, MASK, GRID, echo_times_s=TIMES[1:], phase_mask="sigmoid")
    high = high_pass_phase(magnitude, phase, MASK, GRID.voxel_mm, TIMES[1:], 3.0)
    middle = 10 * np.median(high[high > 0]) / 4
    np.testing.assert_allclose(image, magnitude[0] * (1 + np.tanh(1 - high / middle)) / 2, rtol=1e-4, atol=1e-3)


def test_outside_the_mask_is_zero_and_nan_does_no_harm():
    magnitude, phase, _ = scan()
    mask = np.zeros(GRID.shape, bool)
    mask[5:35, 5:35, 4:20] = True
    phase[0, 10, 10, 10] = np.nan
    magnitude[:, 0] = np.nan
    image = swi(magnitude, phase, mask, GRID, echo_times_s=TIMES)
    assert np.isfinite(image).all()
    assert not image[~mask].any()
    assert image[mask].min() > 0


def test_single_slice():
    magnitude, phase, vein = scan()
    grid = Grid((40, 40, 1), GRID.voxel_mm)
    image = swi(magnitude[..., :1], phase[..., :1], MASK[..., :1], grid, echo_times_s=TIMES)
    assert image[vein[..., :1]].max() < 0.3 * image.max()


@pytest.mark.parametrize(("axis", "slices"), [(0, 7), (2, 5)])
def test_minimum_projection_is_the_sliding_minimum_in_mm(axis, slices):
    rng = np.random.default_rng(1)
    image = rng.random(GRID.shape).astype(np.float32)
    mask = MASK.copy()
    mask[:3] = False
    projected = minimum_projection(image, mask, GRID, thickness_mm=7.2, axis=axis)
    bright = np.moveaxis(np.where(mask, image, np.inf), axis, 0)
    half = slices // 2
    for k in (4, 10):
        expected = np.where(np.moveaxis(mask, axis, 0)[k], bright[k - half : k + half + 1].min(axis=0), 0)
        np.testing.assert_array_equal(np.moveaxis(projected, axis, 0)[k], expected)


def test_errors():
    magnitude, phase, _ = scan()
    with pytest.raises(ShapeError, match="phase"):
        swi(magnitude, phase[:1], MASK, GRID, echo_times_s=TIMES)
    with pytest.raises(UsageError, match="low_pass_mm"):
        swi(magnitude, phase, MASK, GRID, echo_times_s=TIMES, low_pass_mm=0.0)
    with pytest.raises(ReconstructionError, match="empty"):
        swi(magnitude, phase, ~MASK, GRID, echo_times_s=TIMES)
    with pytest.raises(UsageError, match="axis"):
        minimum_projection(magnitude[0], MASK, GRID, axis=3)
