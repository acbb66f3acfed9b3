"""The nineteen-point Laplacian takes harmonic fields to zero at fourth order, and falls back where it must."""

import numpy as np
import pytest

from qsm_runtime.kernels.laplacian import minus_laplacian, minus_laplacian_fourth_order


def _harmonic(shape, voxel_mm):
    """1/r of a source outside, scaled so that float32 resolves its Laplacian."""
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) * v for n, v in zip(shape, voxel_mm, strict=True)), indexing="ij")
    h = 100 / np.sqrt((x - 15) ** 2 + (y + 9) ** 2 + (z - 12) ** 2)
    return (h - h.mean()).astype(np.float32)


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (1.0, 1.4, 0.7)])
def test_fourth_order_for_harmonic_fields(voxel_mm):
    shape = (18, 16, 20)
    h = _harmonic(shape, voxel_mm)
    inner = np.zeros(shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    seven = minus_laplacian(h, inner, voxel_mm)
    nineteen = minus_laplacian_fourth_order(h, inner, np.ones(shape, bool), voxel_mm)
    assert np.abs(nineteen).max() < 0.1 * np.abs(seven).max()


def test_is_the_laplacian_of_a_smooth_field():
    voxel_mm, shape = (1.0, 0.8, 1.2), (12, 13, 14)
    x, y, z = np.meshgrid(*(np.arange(n) * v for n, v in zip(shape, voxel_mm, strict=True)), indexing="ij")
    u = (x**2 + 2 * y**2 - 0.5 * z**2 + x * y).astype(np.float32)  # Laplacian 2 + 4 - 1
    inner = np.zeros(shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    for got in (
        minus_laplacian(u, inner, voxel_mm),
        minus_laplacian_fourth_order(u, inner, np.ones(shape, bool), voxel_mm),
    ):
        np.testing.assert_allclose(got[inner], -5, atol=2e-3)
        assert not got[~inner].any()


def test_seven_points_where_a_diagonal_neighbour_is_not_known():
    shape, voxel_mm = (7, 7, 7), (1.0, 1.0, 1.0)
    u = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    inner = np.zeros(shape, bool)
    inner[2:5, 2:5, 2:5] = True
    known = np.ones(shape, bool)
    known[1, 1, 2] = False
    seven = minus_laplacian(u, inner, voxel_mm)
    whole = minus_laplacian_fourth_order(u, inner, np.ones(shape, bool), voxel_mm)
    part = minus_laplacian_fourth_order(u, inner, known, voxel_mm)
    np.testing.assert_allclose(part[2, 2, 2], seven[2, 2, 2], rtol=1e-5)
    part[2, 2, 2] = whole[2, 2, 2]
    np.testing.assert_array_equal(part, whole)
