"""Field of the periodic images: against a box twice as wide at full resolution, and against a sphere's own field."""

import numpy as np
import pytest
from scipy import fft, ndimage

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box, box_of
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.images import Images, divisor

OBLIQUE = (0.36, -0.48, 0.8)


def field(chi, shape, grid):
    full = fft.irfftn(fft.rfftn(chi, shape) * dipole_kernel(shape, grid.voxel_mm, grid.b0_dir), shape)
    return full[tuple(slice(n) for n in chi.shape)]


def tissue(shape, seed=0):
    """Susceptibility in an ellipsoid that fills the box, with a strong source off its middle.

    Not white: with B0 oblique the sampled dipole jumps at the highest frequencies, and a wider box does so elsewhere.
    """
    rng = np.random.default_rng(seed)
    lines = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(a * a for a in lines) < 1
    chi = 0.02 + 0.3 * ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    chi[tuple(slice(n // 4, n // 4 + 4) for n in shape)] = -1.0
    return ndimage.gaussian_filter((chi * inside).astype(np.float32), 1.5), inside


CASES = [
    ((50, 42, 36), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (4, 4, 4)),
    ((45, 50, 40), (1.0, 1.0, 1.0), OBLIQUE, (16, 13, 10)),
    ((49, 44, 30), (0.7, 0.9, 2.4), OBLIQUE, (0, 5, 2)),
    ((33, 30, 25), (2.0, 2.0, 2.0), (1.0, 0.0, 0.0), (2, 5, 3)),
]


@pytest.mark.parametrize(("size", "voxel_mm", "b0_dir", "margin"), CASES)
def test_is_the_periodic_field_less_that_of_a_wide_box(size, voxel_mm, b0_dir, margin):
    chi, inside = tissue(size)
    grid = Grid(size, voxel_mm, b0_dir)
    box = box_of(np.ones(size, bool), margin)
    wide = tuple(2 * n for n in box.fft_shape)
    wanted = (field(chi, box.fft_shape, grid) - field(chi, wide, grid))[inside]
    found = Images(box, grid)(chi)
    assert found.shape == size
    assert found.dtype == np.float32
    rest = found[inside] - wanted
    assert np.sqrt((rest**2).mean()) < 0.1 * np.sqrt((wanted**2).mean())
    assert np.abs(rest.mean()) < 0.01 * np.sqrt((wanted**2).mean())


def test_a_sphere_keeps_its_field():
    """chi a^3 / 3r^3 (3 cos^2 - 1) outside, nothing inside: 10.1002/cmr.b.20034; on the periodic grid it does not."""
    n, radius = 48, 12.0
    grid = Grid((n, n, n), (1.0, 1.0, 1.0), OBLIQUE)
    at = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for _ in range(3)), indexing="ij"))
    r = np.sqrt((at**2).sum(axis=0))
    sphere = np.clip(radius + 0.5 - r, 0, 1).astype(np.float32)
    volume = float(sphere.sum())
    cosine = np.tensordot(OBLIQUE, at, 1) / r
    exact = np.where(r > radius, volume / (4 * np.pi) * (3 * cosine**2 - 1) / r**3, 0)
    box = box_of(np.ones(grid.shape, bool))
    away = np.abs(r - radius) > 5  # the sampled dipole rings about the surface
    periodic = field(sphere, box.fft_shape, grid)
    free = periodic - Images(box, grid)(sphere)
    wrong, left = ((np.square(a - exact)[away].mean()) ** 0.5 for a in (periodic, free))
    assert wrong > 0.01
    assert left < 0.2 * wrong


def test_is_linear_and_takes_arrays_that_are_larger_or_in_another_order():
    chi, _ = tissue((30, 28, 24))
    other, _ = tissue((30, 28, 24), seed=1)
    grid = Grid(chi.shape, (1.0, 1.0, 1.5))
    images = Images(box_of(np.ones(chi.shape, bool), (5, 4, 8)), grid)
    one, two = images(chi), images(other)
    both = images(2 * chi - 3 * other)
    assert np.abs(both - (2 * one - 3 * two)).max() < 1e-5 * np.abs(both).max() + 1e-7
    larger = np.full((35, 32, 32), np.nan, np.float32)
    larger[:30, :28, :24] = chi
    assert np.array_equal(images(larger), one)
    assert np.array_equal(images(np.asfortranarray(chi)), one)


def test_divisors():
    assert [divisor(147, 4.0), divisor(160, 4.0), divisor(125, 4.9), divisor(7, 0.5)] == [3, 4, 1, 1]
    box = Box((0, 0, 0), (25, 20, 14), (25, 20, 14))
    assert Images(box, Grid((25, 20, 14), (1.0, 1.0, 4.0))).factor == (1, 4, 1)
