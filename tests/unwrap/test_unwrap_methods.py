"""Best-path and Laplacian unwrapping, and what all methods share."""

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.unwrap import METHODS
from qsm_runtime.unwrap.best_path import best_path, reliability_edges
from qsm_runtime.unwrap.laplacian import laplacian

CLASSICAL = [name for name in METHODS if name != "network"]

TURN = 2 * np.pi


def wrap(phase):
    return np.angle(np.exp(1j * np.asarray(phase, float))).astype(np.float32)


def smooth(shape, voxel_mm=(1, 1, 1)):
    x, y, z = (v * g for v, g in zip(voxel_mm, np.mgrid[tuple(slice(n) for n in shape)], strict=True))
    return 0.6 * x - 0.02 * (y - 9) ** 2 + 0.3 * z + 2 * np.sin(x / 6 + z / 8)


def shell(shape):
    distance = sum(((g - (n - 1) / 2) / (n / 2)) ** 2 for g, n in zip(np.ogrid[tuple(map(slice, shape))], shape))  # noqa: B905
    return (distance < 0.95) & (distance > 0.08)


def off_a_constant_turn(unwrapped, truth, mask):
    d = (unwrapped - truth)[mask]
    return d - TURN * np.rint(np.median(d) / TURN)


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("shape", [(22, 25, 20), (24, 21, 1), (1, 24, 20)])
def test_smooth_field_is_recovered(method, shape):
    truth, mask = smooth(shape), shell(shape)
    unwrapped = METHODS[method](wrap(truth)[None], mask, Grid(shape))
    assert unwrapped.shape == (1, *shape)
    assert unwrapped.dtype == np.float32
    assert not unwrapped[0][~mask].any()
    assert np.abs(off_a_constant_turn(unwrapped[0], truth, mask)).max() < 0.02


@pytest.mark.parametrize("method", CLASSICAL)
def test_parts_and_not_a_number(method):
    shape = (30, 16, 16)
    truth, mask = smooth(shape), np.ones(shape, bool)
    mask[14:16] = False
    phase = wrap(truth)
    phase[5, 5, 5] = np.nan
    given = mask.copy()
    unwrapped = METHODS[method](phase[None], mask, Grid(shape))[0]
    np.testing.assert_array_equal(mask, given)
    assert np.isnan(unwrapped[5, 5, 5])
    assert np.isnan(unwrapped).sum() == 1
    for part in (slice(0, 14), slice(16, None)):
        here = np.zeros(shape, bool)
        here[part] = True
        here[5, 5, 5] = False
        assert np.abs(off_a_constant_turn(unwrapped, truth, here)).max() < 0.02


@pytest.mark.parametrize("method", CLASSICAL)
def test_empty_masks_and_shapes_are_refused(method):
    grid = Grid((6, 6, 6))
    phase, mask = np.zeros((1, 6, 6, 6), np.float32), np.ones((6, 6, 6), bool)
    with pytest.raises(ReconstructionError):
        METHODS[method](phase, ~mask, grid)
    with pytest.raises(ShapeError):
        METHODS[method](phase, mask[:5], grid)
    with pytest.raises(ShapeError):
        METHODS[method](phase[:, :5], mask, grid)


@pytest.mark.parametrize("method", CLASSICAL)
def test_same_input_same_output(method):
    shape = (16, 18, 20)
    phase = wrap(smooth(shape) + 0.3 * np.random.default_rng(0).standard_normal(shape))[None]
    before, mask = phase.copy(), shell(shape)
    first = METHODS[method](phase, mask, Grid(shape))
    np.testing.assert_array_equal(first, METHODS[method](phase, mask, Grid(shape)))
    np.testing.assert_array_equal(phase, before)


def test_best_path_is_congruent_under_noise():
    shape = (24, 24, 24)
    truth = smooth(shape) + 0.25 * np.random.default_rng(1).standard_normal(shape)
    mask = shell(shape)
    unwrapped = best_path(wrap(truth), mask, Grid(shape))
    turns = (unwrapped - wrap(truth))[mask] / TURN
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-4)
    assert np.mean(np.abs(off_a_constant_turn(unwrapped, truth, mask)) > 1) < 1e-3


def test_best_path_ranks_by_second_differences():
    """Reliability of an inner voxel against its definition in float64."""
    phase = wrap(np.random.default_rng(2).normal(0, 1, (3, 3, 4)))
    edges = reliability_edges(phase, np.ones(phase.shape, bool))
    p = phase.astype(float)

    def g(x):
        return np.angle(np.exp(1j * x))

    reliability = np.full(phase.shape, 1 / np.sqrt(13 * np.pi**2))  # no line fits at the border but those within it
    for i in np.ndindex(phase.shape):
        terms = []
        for d in np.ndindex(3, 3, 3):
            step = np.array(d) - 1
            low, high = np.array(i) - step, np.array(i) + step
            fits = all(((end >= 0) & (end < phase.shape)).all() for end in (low, high))
            if fits and tuple(step) > (0, 0, 0):
                terms.append((g(p[tuple(low)] - p[i]) - g(p[i] - p[tuple(high)])) ** 2)
        if terms:
            reliability[i] = 1 / np.sqrt(13 * np.mean(terms))
    cost = np.sqrt(1 / (reliability[1, 1, 1] + reliability[1, 1, 2])) / (13 * np.pi**2) ** 0.25
    word = edges.words[12:].reshape(phase.shape)[1, 1, 1]
    assert (word >> 16) & 255 == int(1 + 254 * cost)


def test_laplacian_with_anisotropic_voxels_and_several_echoes():
    shape, voxel_mm = (20, 24, 14), (0.8, 0.8, 2.0)
    truth = np.stack([0.5 * smooth(shape, voxel_mm), smooth(shape, voxel_mm)])
    mask = shell(shape)
    unwrapped = laplacian(wrap(truth), mask, Grid(shape, voxel_mm), tolerance=1e-5)
    for e in range(2):
        assert np.abs(off_a_constant_turn(unwrapped[e], truth[e], mask)).max() < 2e-3


def test_laplacian_solves_its_least_squares_problem():
    """Noisy phase on a small mask, against a dense float64 solution."""
    shape, voxel_mm = (5, 6, 4), (1.0, 1.5, 2.0)
    phase = wrap(np.random.default_rng(3).uniform(-3, 3, shape))
    mask = shell(shape)
    index = -np.ones(shape, int)
    index[mask] = np.arange(mask.sum())
    rows, right = [], []
    for axis, v in enumerate(voxel_mm):
        for i in np.ndindex(shape):
            j = tuple(a + (n == axis) for n, a in enumerate(i))
            if j[axis] < shape[axis] and mask[i] and mask[j]:
                row = np.zeros(mask.sum())
                row[index[j]], row[index[i]] = 1 / v, -1 / v
                rows.append(row)
                right.append(wrap(float(phase[j]) - float(phase[i])) / v)
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    solved = laplacian(phase, mask, Grid(shape, voxel_mm), tolerance=1e-6)[mask]
    np.testing.assert_allclose(solved - solved.mean(), expected - expected.mean(), atol=1e-4)


def test_laplacian_options_are_checked():
    phase, mask, grid = np.zeros((1, 4, 4, 4), np.float32), np.ones((4, 4, 4), bool), Grid((4, 4, 4))
    with pytest.raises(UsageError, match="tolerance"):
        laplacian(phase, mask, grid, tolerance=0)
    with pytest.raises(UsageError, match="max_iterations"):
        laplacian(phase, mask, grid, max_iterations=0)
