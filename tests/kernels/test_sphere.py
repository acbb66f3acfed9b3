"""Sphere kernels against a transform of their own weights, the mean-value property and a finely sampled ball."""

import numpy as np
import pytest

from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import sphere_fits, sphere_kernel, sphere_transform, sphere_weights

VOXELS = [(1.0, 1.0, 1.0), (0.7, 0.9, 1.3), (1.0, 1.0, 3.0)]


def _unfolded(weights):
    """All mirror images of the octant: the kernel in space, its centre in the middle."""
    for axis in range(3):
        weights = np.concatenate([np.flip(weights, axis), np.delete(weights, 0, axis)], axis)
    return weights


@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize("radius_mm", [0.4, 1.0, 2.5, 6.0])
def test_weights_are_a_mean_over_the_ball(voxel_mm, radius_mm):
    kernel = _unfolded(sphere_weights(voxel_mm, radius_mm))
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    index = np.meshgrid(*((np.arange(n) - n // 2) for n in kernel.shape), indexing="ij")
    distance = np.sqrt(sum((i * v) ** 2 for i, v in zip(index, voxel_mm, strict=True)))
    faces = sum(abs(i) for i in index) <= 1
    assert not kernel[(distance > radius_mm * 1.00001) & ~faces].any()
    assert kernel.min() > -0.2 * kernel.max()


@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize(("radius_mm", "degree"), [(1.0, 3), (3.0, 3), (9.0, 7)])
def test_mean_of_harmonic_polynomials_is_their_value(voxel_mm, radius_mm, degree):
    """(c . r)^n is harmonic for a complex null vector c, and its powers span the harmonic polynomials."""
    kernel = _unfolded(sphere_weights(voxel_mm, radius_mm))
    r = np.stack(
        np.meshgrid(*((np.arange(n) - n // 2) * v for n, v in zip(kernel.shape, voxel_mm, strict=True)), indexing="ij"),
        -1,
    )
    rng = np.random.default_rng(5)
    for _ in range(6):
        a, b = np.linalg.qr(rng.standard_normal((3, 2)))[0].T
        for n in range(1, degree + 1):
            field = (((r + np.array([0.3, -0.2, 0.1])) @ (a + 1j * b)) / 9) ** n
            centre = field[tuple(s // 2 for s in kernel.shape)]
            assert abs((kernel * field).sum() - centre) < 1e-10


@pytest.mark.parametrize("shape", [(20, 22, 24), (17, 21, 26), (8, 40, 12)])
def test_kernel_is_the_transform_of_the_weights(shape):
    voxel_mm, radius_mm = (1.0, 1.2, 2.0), 5.0
    kernel = _unfolded(sphere_weights(voxel_mm, radius_mm))
    expected = np.zeros(shape)
    for index, value in np.ndenumerate(kernel):  # wraps around where the ball is wider than the array
        where = tuple((i - n // 2) % s for i, n, s in zip(index, kernel.shape, shape, strict=True))
        expected[where] += value
    got = sphere_kernel(shape, voxel_mm, radius_mm, scale=0.5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 0.5 * np.fft.rfftn(expected).real, atol=3e-7)
    assert got[0, 0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("radius_mm", [0.3, 2.0, 5.3])
def test_continuous_transform_matches_a_finely_sampled_ball(radius_mm):
    shape, voxel_mm = (12, 10, 14), (1.0, 1.5, 0.8)
    rng = np.random.default_rng(0)
    points = rng.uniform(-radius_mm, radius_mm, (400_000, 3))
    points = points[(points**2).sum(1) <= radius_mm**2]
    got = sphere_transform(shape, voxel_mm, radius_mm)
    for i, j, k in [(0, 0, 0), (1, 0, 2), (11, 3, 0), (6, 5, 7), (3, 9, 1)]:
        freq = np.array([np.fft.fftfreq(n, v)[q] for n, v, q in zip(shape, voxel_mm, (i, j, k), strict=True)])
        assert got[i, j, k] == pytest.approx(np.cos(2 * np.pi * points @ freq).mean(), abs=5e-3)


def test_discrete_and_continuous_agree_for_large_balls_at_low_frequencies():
    shape, voxel_mm = (64, 64, 64), (1.0, 1.0, 1.0)
    low = (slice(0, 4),) * 3
    np.testing.assert_allclose(
        sphere_kernel(shape, voxel_mm, 10.0)[low], sphere_transform(shape, voxel_mm, 10.0)[low], atol=0.01
    )


@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize("radius_mm", [1.0, 2.0, 4.0])
def test_fits_exactly_where_every_weight_lies_in_the_mask(voxel_mm, radius_mm):
    mask = np.random.default_rng(2).random((22, 21, 20)) < 0.997
    support = np.argwhere(_unfolded(sphere_weights(voxel_mm, radius_mm)) != 0)
    support = support - (np.array(_unfolded(sphere_weights(voxel_mm, radius_mm)).shape) // 2)
    padded = np.pad(mask, 8)
    expected = np.ones_like(mask)
    for i, j, k in support:
        expected &= padded[8 + i : 30 + i, 8 + j : 29 + j, 8 + k : 28 + k]
    got = sphere_fits(mask, distance_inside(mask, voxel_mm), voxel_mm, radius_mm)
    assert expected.any()
    np.testing.assert_array_equal(got, expected)
