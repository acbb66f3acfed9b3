"""The dipole filters against a float64 reference, and the symmetries that a dipole has."""

import itertools

import numpy as np
import pytest

from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import convolve
from qsm_runtime.kernels.dipole import dipole_kernel, green_kernel

SHAPES = [(8, 10, 12), (7, 9, 12), (8, 9, 11)]
VOXELS = [(1.0, 1.0, 1.0), (0.7, 1.0, 2.5)]
OBLIQUE = tuple(np.array((0.3, -0.5, 0.8)) / np.linalg.norm((0.3, -0.5, 0.8)))
DIRECTIONS = [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), OBLIQUE]


def reference(shape, voxel_mm, b0_dir) -> np.ndarray:
    """Full spectrum in float64, the mean over both signs of every Nyquist frequency."""
    out = np.zeros(shape)
    lines = [np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_mm, strict=True)]
    flips = [(1, -1)] * 3
    for signs in itertools.product(*flips):
        k = []
        for line, n, sign in zip(lines, shape, signs, strict=True):
            line = line.copy()
            if n % 2 == 0:
                line[n // 2] *= sign
            k.append(line)
        x, y, z = np.meshgrid(*k, indexing="ij")
        k2 = x**2 + y**2 + z**2
        k2[0, 0, 0] = 1
        d = 1 / 3 - (x * b0_dir[0] + y * b0_dir[1] + z * b0_dir[2]) ** 2 / k2
        d[0, 0, 0] = 0
        out += d / 8
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_kernel_agrees_with_float64(shape, voxel_mm, b0_dir):
    expected = reference(shape, voxel_mm, b0_dir)[..., : shape[2] // 2 + 1]
    kernel = dipole_kernel(shape, voxel_mm, b0_dir, 0.5)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, 0.5 * expected, atol=1e-7)
    assert kernel[0, 0, 0] == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_field_agrees_with_a_complex_transform(shape, b0_dir):
    # a full complex transform keeps what a half spectrum would lose: its imaginary part must vanish
    chi = np.random.default_rng(0).normal(size=shape)
    full = np.fft.ifftn(reference(shape, (1, 1.2, 0.8), b0_dir) * np.fft.fftn(chi))
    assert np.abs(full.imag).max() < 1e-12
    p = fft.plan(shape)
    p.real[:] = chi
    field = convolve(p.real, dipole_kernel(shape, (1, 1.2, 0.8), b0_dir, p.scale), p)
    np.testing.assert_allclose(field, full.real, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_source_in_a_mirrored_b0_has_the_mirrored_field(shape, axis):
    chi = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    mirrored = list(OBLIQUE)
    mirrored[axis] *= -1
    p = fft.plan(shape)
    fields = []
    for source, b0_dir in ((chi, OBLIQUE), (np.flip(chi, axis), tuple(mirrored))):
        p.real[:] = source
        fields.append(convolve(p.real, dipole_kernel(shape, (1, 1, 1.5), b0_dir, p.scale), p).copy())
    np.testing.assert_allclose(np.flip(fields[1], axis), fields[0], atol=2e-6)


def test_convolution_is_symmetric():
    # <D x, y> = <x, D y>
    shape, rng = (8, 9, 10), np.random.default_rng(2)
    p = fft.plan(shape)
    kernel = dipole_kernel(shape, (1, 1, 2), OBLIQUE, p.scale)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    p.real[:] = x
    dx = convolve(p.real, kernel, p).astype(float)
    p.real[:] = y
    dy = convolve(p.real, kernel, p).astype(float)
    assert np.vdot(dx, y) == pytest.approx(np.vdot(x, dy), abs=1e-4)


@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_green_kernel_is_the_dipole_of_a_point(voxel_mm, b0_dir):
    shape, at = (24, 24, 24), (5, 6, 4)
    p = fft.plan(shape)
    kernel = green_kernel(shape, voxel_mm, b0_dir, p.scale)
    p.real[:] = 0
    p.real[at] = 1
    field = convolve(p.real, kernel, p)[:12, :12, :12]
    offsets = np.meshgrid(*[(np.arange(12) - a) * v for a, v in zip(at, voxel_mm, strict=True)], indexing="ij")
    r2 = sum(o**2 for o in offsets)
    r2[at] = 1
    cos2 = sum(b * o for b, o in zip(b0_dir, offsets, strict=True)) ** 2 / r2
    expected = np.prod(voxel_mm) * (3 * cos2 - 1) / (4 * np.pi * r2**1.5)
    expected[at] = 0
    np.testing.assert_allclose(field, expected, atol=1e-6)


def test_both_kernels_give_the_same_far_field():
    shape = (64, 64, 64)
    p = fft.plan(shape)
    x = np.arange(64) - 20
    r2 = x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2
    blob = np.exp(-r2 / (2 * 2.0**2)).astype(np.float32)
    near = (r2 > 6**2) & (r2 < 14**2)
    fields = []
    for kernel in (dipole_kernel, green_kernel):
        filtered = kernel(shape, (1, 1, 1), OBLIQUE, p.scale)  # before p.real is filled: planning shares it
        p.real[:] = blob
        fields.append(convolve(p.real, filtered, p)[near].copy())
    error = fields[0] - fields[1]
    assert np.linalg.norm(error - error.mean()) < 0.05 * np.linalg.norm(fields[1])
