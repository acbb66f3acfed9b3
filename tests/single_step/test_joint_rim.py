"""joint_tv near the mask's rim and strong sources; iterations by voxel size."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.sphere import six_neighbours
from qsm_runtime.metrics import lesion_error
from qsm_runtime.phantom import sphere_field_ppm
from qsm_runtime.single_step import joint_tv, ln_qsm, tfi
from qsm_runtime.single_step.levels import Level, coarse_to_fine, count_at
from qsm_runtime.single_step.prepare import (
    RIM_MM,
    RIM_SATURATION,
    RIM_WEIGHT,
    SATURATION,
    finished,
    interior_field,
    with_rim,
)

SHAPE = (40, 44, 42)
CENTRE = (19.0, 21.0, 20.0)


def ball(radius):
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return (x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (z - CENTRE[2]) ** 2 <= radius**2


@pytest.mark.parametrize(("edge_mm", "count"), [(1.0, 4), (2.0, 16), (4.0, 30), (8.0, 30), (0.5, 4), (2**0.5, 10)])
def test_iterations_belong_to_a_voxel_size(edge_mm, count):
    assert count_at((30, 16, 4), edge_mm) == count


def test_one_count_serves_every_size():
    assert {count_at((7,), e) for e in (0.3, 1.0, 3.0)} == {7}


def test_the_same_counts_whatever_the_finest_grid():
    seen = {}
    for edge in (1.0, 2.0):
        full = Level(*np.ones((2, 72, 72, 72), np.float32), np.ones((72,) * 3, bool), (edge,) * 3, (1, 1, 1))

        def solve(level, count, start, edge=edge):
            seen.setdefault(edge, {})[round(level.edge_mm, 6)] = count
            return np.zeros(level.mask.shape, np.float32)

        coarse_to_fine(full, (30, 16, 4), solve, None)
    assert seen[1.0] == {4.0: 30, 2.0: 16, 1.0: 4}
    assert seen[2.0] == {8.0: 30, 4.0: 30, 2.0: 16}


def test_the_rim_weighs_little_and_only_where_trusted():
    mask = ball(10)
    rim = mask & ~six_neighbours(mask)
    inside = (mask & ~rim).astype(np.float32)
    assert np.array_equal(with_rim(inside, mask, None), np.where(rim, np.float32(RIM_WEIGHT), inside))
    reliability = np.where(mask, np.float32(100), np.float32(0))
    reliability[:20] = 0
    weight = with_rim(inside, mask, reliability)
    assert not weight[:20][rim[:20]].any()
    assert np.allclose(weight[20:][rim[20:]], RIM_WEIGHT / np.sqrt(1 + RIM_SATURATION**-2), atol=1e-6)


def test_noise_is_doubted_more_near_the_rim_than_deep_inside():
    grid = Grid(SHAPE, (2.0, 1.5, 1.0))
    mask = ball(15)
    reliability = np.where(mask, np.float32(100), np.float32(0))
    noisy = (np.random.default_rng(1).random(SHAPE) < 0.2) & mask
    reliability[noisy] = 5  # twenty medians of the deviation
    _, weight = interior_field(np.zeros(SHAPE, np.float32), mask, grid, reliability)
    deep = distance_transform_edt(mask, grid.voxel_mm) >= RIM_MM
    near = (weight > 0) & ~deep
    assert np.allclose(weight[noisy & near], 1 / np.hypot(1, 20 / RIM_SATURATION), atol=1e-5)
    assert np.allclose(weight[noisy & deep], 1 / np.hypot(1, 20 / SATURATION), atol=1e-5)


def test_the_rim_is_continued_harmonically_from_the_inside():
    grid = Grid(SHAPE, (1.0, 1.2, 0.9))
    mask = ball(12)
    rim = mask & ~six_neighbours(mask)
    x, y, z = (a.astype(np.float32) for a in np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]])
    smooth = 0.01 * (x - 19) + 0.02 * (y - 21) - 0.015 * (z - 20)
    speckled = np.where(rim, np.random.default_rng(0).normal(0, 1, SHAPE), smooth).astype(np.float32)
    found = finished(speckled, mask, grid)
    assert not found[~mask].any()
    assert abs(found[mask].mean()) < 1e-6
    inside = mask & ~rim
    shift = found[inside] - smooth[inside]
    assert np.ptp(shift) < 1e-5  # nothing but a constant
    assert np.abs(found[rim] - shift.mean() - smooth[rim]).max() < 0.05  # no flux outwards: a voxel's slope at most
    assert np.array_equal(found, finished(np.where(rim, 0, speckled).astype(np.float32), mask, grid))


@pytest.mark.parametrize("method", [ln_qsm, tfi])
def test_newton_steps_leave_out_what_the_model_cannot_explain(method):
    grid = Grid(SHAPE)
    field, mask, chi = scene(grid, 40)
    streak = [
        lesion_error(method(field, mask, grid, outlier_sigmas=s).astype(float), chi.astype(float), ball(3), mask)[1]
        for s in (6.0, float("inf"))
    ]
    assert streak[0] < 0.8 * streak[1]


def scene(grid, wild):
    """A strong ball of -1 ppm in a mask, and a source outside; `wild` voxels beside it carry a field that is wrong."""
    mask, rng = ball(17), np.random.default_rng(0)
    chi = np.where(ball(3), np.float32(-1), np.float32(0))
    field = sphere_field_ppm(grid, CENTRE, 3.03, -1.0) + sphere_field_ppm(grid, (19.0, 44.0, 30.0), 5.0, 3.0)
    field += rng.normal(0, 0.001, SHAPE).astype(np.float32)
    shell = ball(6) & ~ball(4)
    at = np.flatnonzero(shell)[rng.permutation(np.count_nonzero(shell))[:wild]]
    field.flat[at] += rng.choice((-1, 1), wild).astype(np.float32) * np.float32(0.09)  # less than a spike
    return field.astype(np.float32), mask, chi


def test_voxels_that_the_model_cannot_explain_make_no_streak():
    grid = Grid(SHAPE)
    field, mask, chi = scene(grid, 40)
    errors = {}
    for sigmas in (6.0, float("inf")):
        found = joint_tv(field, mask, grid, outlier_sigmas=sigmas).astype(float)
        errors[sigmas] = lesion_error(found, chi.astype(float), ball(3), mask)
    assert abs(errors[6.0][0]) < 12
    assert errors[6.0][1] < 0.7 * errors[float("inf")][1]
