"""Finite differences: adjointness, spectrum, and the fused total-variation loops against their definition."""

import numpy as np
import pytest

from qsm_runtime.kernels.differences import gradient, gradient_adjoint, gradient_power, tv_reflect, tv_update

VOXEL_MM = (0.7, 1.0, 3.0)
SHAPES = [(6, 5, 8), (5, 7, 9), (1, 4, 6)]


def clip(w, t, edges=None):
    free = np.zeros(w.shape, bool)
    if edges is not None:
        free = np.stack([(edges >> axis) & 1 for axis in range(3)]).astype(bool)
    kept = np.where(free, 0, w).astype(float)
    length = np.sqrt((kept**2).sum(0))
    return kept * np.minimum(1, t / np.maximum(length, 1e-30))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_periodic_forward_difference(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    g = gradient(x, VOXEL_MM)
    for axis, v in enumerate(VOXEL_MM):
        np.testing.assert_allclose(g[axis], (np.roll(x, -1, axis) - x) / v, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_and_adjoint_are_adjoint(shape):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    y = rng.standard_normal((3, *shape)).astype(np.float32)
    left = (gradient(x, VOXEL_MM).astype(float) * y).sum()
    assert left == pytest.approx((x.astype(float) * gradient_adjoint(y, VOXEL_MM)).sum(), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gradient_power_is_the_spectrum_of_both(shape):
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    want = gradient_adjoint(gradient(x, VOXEL_MM), VOXEL_MM)
    spectrum = np.fft.rfftn(x) * gradient_power(shape, VOXEL_MM)
    np.testing.assert_allclose(np.fft.irfftn(spectrum, shape, axes=(0, 1, 2)), want, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_edges", [False, True], ids=["plain", "edges"])
def test_fused_loops_follow_their_definition(shape, with_edges):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((3, *shape)).astype(np.float32)
    edges = rng.integers(0, 8, shape).astype(np.uint8) if with_edges else None
    extra = () if edges is None else (edges,)
    out = np.empty_like(x)
    tv_reflect(w, 0.7, VOXEL_MM, 2.5, out, *extra)
    want = 2.5 * gradient_adjoint((w - 2 * clip(w, 0.7, edges)).astype(np.float32), VOXEL_MM)
    np.testing.assert_allclose(out, want, atol=2e-5)
    want = gradient(x, VOXEL_MM) + clip(w, 0.7, edges)
    tv_update(x, w, 0.7, VOXEL_MM, *extra)
    np.testing.assert_allclose(w, want, atol=1e-5)
