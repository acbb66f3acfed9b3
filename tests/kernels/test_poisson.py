"""Multigrid Poisson solver against dense solutions, closed forms and itself at other sizes."""

import numpy as np
import pytest

from qsm_runtime.kernels.laplacian import minus_laplacian
from qsm_runtime.kernels.poisson import PoissonSolver


def _blob(shape, voxel_mm):
    """A smooth, lobed object with a hole, away from any symmetry of the grid."""
    x, y, z = np.meshgrid(*((np.arange(n) - 0.47 * n) / (0.45 * n) for n in shape), indexing="ij")
    r2 = x**2 + y**2 + z**2
    return (r2 < (0.9 + 0.1 * np.sin(5 * np.arctan2(y, x)) * np.cos(4 * z)) ** 2) & (r2 > 0.05)


def _dense_minus_laplacian(mask, voxel_mm):
    index = -np.ones(np.array(mask.shape) + 2, int)
    index[1:-1, 1:-1, 1:-1][mask] = np.arange(mask.sum())
    matrix = np.zeros((mask.sum(),) * 2)
    for place in np.argwhere(index >= 0):
        row = index[tuple(place)]
        for axis in range(3):
            matrix[row, row] += 2 / voxel_mm[axis] ** 2
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                if index[tuple(other)] >= 0:
                    matrix[row, index[tuple(other)]] -= 1 / voxel_mm[axis] ** 2
    return matrix


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (2.0, 0.7, 1.1)])
def test_against_a_dense_float64_solution(voxel_mm):
    rng = np.random.default_rng(1)
    mask = (rng.random((11, 12, 9)) < 0.8) & (np.indices((11, 12, 9)).sum(0) % 13 > 1)  # holes; touches the border
    matrix = _dense_minus_laplacian(mask, voxel_mm)
    rhs = np.zeros(mask.shape, np.float32)
    rhs[mask] = rng.standard_normal(mask.sum())
    got, _ = PoissonSolver(mask, voxel_mm).solve(rhs, tolerance=1e-6)
    assert got.dtype == np.float32
    assert not got[~mask].any()
    np.testing.assert_allclose(got[mask], np.linalg.solve(matrix, rhs[mask].astype(float)), atol=2e-5)
    u = rng.standard_normal(mask.shape).astype(np.float32) * mask
    np.testing.assert_allclose(minus_laplacian(u, mask, voxel_mm)[mask], matrix @ u[mask], atol=1e-4)


def test_closed_forms():
    """In a box the discrete eigenfunctions are sines; in a ball -Laplacian u = 6 makes u = R^2 - r^2."""
    shape, voxel_mm = (30, 21, 26), (1.0, 1.5, 0.8)
    sines = [np.sin(np.pi * (m + 1) * np.arange(1, n + 1) / (n + 1)) for m, n in enumerate(shape)]
    u = np.einsum("i,j,k", *sines)
    halves = [np.pi * (m + 1) / 2 / (n + 1) for m, n in enumerate(shape)]
    eigenvalue = sum((2 * np.sin(h) / v) ** 2 for h, v in zip(halves, voxel_mm, strict=True))
    got, _ = PoissonSolver(np.ones(shape, bool), voxel_mm).solve((eigenvalue * u).astype(np.float32), tolerance=1e-7)
    np.testing.assert_allclose(got, u, atol=3e-6)

    radius = 14.0
    x = np.arange(33) - 16.0
    r = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    u, _ = PoissonSolver(r < radius, (1.0, 1.0, 1.0)).solve(np.full(r.shape, 6.0, np.float32), tolerance=1e-6)
    assert radius**2 < u[16, 16, 16] < (radius + 1) ** 2  # u vanishes on the first voxel centres outside
    np.testing.assert_allclose((u[16, 16, 16] - u)[r < 8], r[r < 8] ** 2, atol=0.5)


def test_harmonic_function_is_recovered_from_its_boundary():
    voxel_mm = (1.0, 1.2, 0.8)
    shape = (40, 36, 44)
    mask = _blob(shape, voxel_mm)
    x, y, z = np.meshgrid(*(n * v / 20 for n, v in zip(map(np.arange, shape), voxel_mm, strict=True)), indexing="ij")
    h = (x * y * z + x**2 - y**2 + 3 * z).astype(np.float32)  # the stencil is exact for cubic polynomials
    boundary = np.where(mask, 0, h)
    rhs = -minus_laplacian(boundary, mask, voxel_mm)
    u, _ = PoissonSolver(mask, voxel_mm).solve(rhs, tolerance=1e-7)
    np.testing.assert_allclose(u[mask], h[mask], atol=2e-5)


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 1.0, 1.7)])
def test_iterations_do_not_grow_with_size(voxel_mm):
    taken = []
    for n in (24, 48, 96):
        shape = tuple(int(n / v * min(voxel_mm)) + 1 for v in voxel_mm)
        mask = _blob(shape, voxel_mm)
        rhs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        taken.append(PoissonSolver(mask, voxel_mm).solve(rhs, tolerance=1e-5)[1])
    assert max(taken) <= 12
    assert taken[-1] <= taken[0] + 3


def test_solution_is_symmetric_linear_and_repeatable():
    mask = _blob((22, 26, 25), (1.0, 1.0, 1.0))
    solver = PoissonSolver(mask, (1.0, 1.0, 1.0))
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(mask.shape).astype(np.float32) for _ in range(2))
    ua, ub = solver.solve(a, tolerance=1e-7)[0], solver.solve(b, tolerance=1e-7)[0]
    np.testing.assert_array_equal(ua, solver.solve(a, tolerance=1e-7)[0])
    np.testing.assert_allclose(solver.solve(a - 2 * b, tolerance=1e-7)[0], ua - 2 * ub, atol=1e-4)
    assert np.vdot(ua, b * mask) == pytest.approx(np.vdot(a * mask, ub), rel=1e-4)
    flipped = PoissonSolver(mask[::-1, :, ::-1], (1.0, 1.0, 1.0)).solve(a[::-1, :, ::-1], tolerance=1e-7)[0]
    np.testing.assert_allclose(flipped[::-1, :, ::-1], ua, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 9), (5, 5, 1), (2, 3, 40)])
def test_thin_and_single_voxel_masks(shape):
    mask = np.ones(shape, bool)
    rhs = np.ones(shape, np.float32)
    u, _ = PoissonSolver(mask, (1.0, 2.0, 1.0)).solve(rhs, tolerance=1e-6, max_iterations=200)
    np.testing.assert_allclose(minus_laplacian(u, mask, (1.0, 2.0, 1.0)), rhs, atol=1e-4)
