"""Cropping, padding and filtering."""

import numpy as np
import pytest

from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import Box, box_of, convolve, embed, extract, keep, multiply

SHAPE = (9, 10, 11)


def mask_at(*points: tuple[int, int, int]) -> np.ndarray:
    out = np.zeros(SHAPE, bool)
    for point in points:
        out[point] = True
    return out


def test_box_is_the_tightest():
    box = box_of(mask_at((2, 3, 4), (5, 3, 9)))
    assert box.lo == (2, 3, 4)
    assert box.hi == (6, 4, 10)
    assert box.size == (4, 1, 6)
    assert box.slices == (slice(2, 6), slice(3, 4), slice(4, 10))
    assert box.fft_shape == (4, 1, 6)


def test_margin_is_room_for_the_kernel():
    box = box_of(mask_at((2, 3, 4), (5, 3, 9)), (3, 0, 5))
    assert box.size == (4, 1, 6)
    assert all(f >= s + m for f, s, m in zip(box.fft_shape, box.size, (3, 0, 5), strict=True))
    assert box.fft_shape[2] % 2 == 0


@pytest.mark.parametrize("corner", [(0, 0, 0), (8, 9, 10), (0, 9, 10)])
def test_single_voxel_at_the_border(corner):
    box = box_of(mask_at(corner))
    assert box.lo == corner
    assert box.size == (1, 1, 1)
    assert box.fft_shape == (1, 1, 2)


def test_full_mask_is_the_whole_array():
    box = box_of(np.ones(SHAPE, bool))
    assert (box.lo, box.hi) == ((0, 0, 0), SHAPE)
    assert box.fft_shape == (9, 10, 12)


def test_empty_mask_still_gives_a_box_that_can_be_transformed():
    box = box_of(np.zeros(SHAPE, bool))
    assert box.size == (1, 1, 1)
    out = embed(np.zeros(SHAPE, np.float32), box, np.empty(box.fft_shape, np.float32))
    assert not out.any()


def test_disconnected_parts_are_all_inside():
    mask = mask_at((0, 5, 1), (8, 2, 7), (4, 9, 0))
    box = box_of(mask)
    assert mask[box.slices].sum() == 3


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_embed_clears_what_was_there(dtype):
    x = (np.random.default_rng(0).normal(size=SHAPE) > 0).astype(dtype)
    box = box_of(mask_at((1, 2, 3), (6, 7, 8)), (4, 5, 6))
    out = np.full(box.fft_shape, np.nan, np.float32)
    assert embed(x, box, out) is out
    expected = np.zeros(box.fft_shape, np.float32)
    expected[:6, :6, :6] = x[1:7, 2:8, 3:9]
    np.testing.assert_array_equal(out, expected)


def test_extract_undoes_embed():
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    box = box_of(mask_at((1, 2, 3), (6, 7, 8)), (2, 2, 2))
    back = extract(embed(x, box, np.empty(box.fft_shape, np.float32)), box, SHAPE)
    inside = np.zeros(SHAPE, bool)
    inside[box.slices] = True
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, np.where(inside, x, 0))


def test_embed_may_be_larger_or_exact():
    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    exact = Box((0, 0, 0), SHAPE, SHAPE)
    np.testing.assert_array_equal(embed(x, exact, np.empty(SHAPE, np.float32)), x)


def test_multiply_is_in_place():
    rng = np.random.default_rng(3)
    spectrum = (rng.normal(size=(4, 5, 6)) + 1j * rng.normal(size=(4, 5, 6))).astype(np.complex64)
    real_filter = rng.normal(size=(4, 5, 6)).astype(np.float32)
    expected = spectrum * real_filter
    multiply(spectrum, real_filter)
    np.testing.assert_array_equal(spectrum, expected)


@pytest.mark.parametrize("shape", [(8, 9, 10), (7, 5, 9)])
def test_convolution_agrees_with_numpy(shape):
    rng = np.random.default_rng(4)
    kernel = np.abs(rng.normal(size=shape))
    for axis in range(3):  # even, as a dipole or a sphere is
        kernel = kernel + np.roll(np.flip(kernel, axis), 1, axis)
    transfer = np.fft.rfftn(kernel)
    assert np.abs(transfer.imag).max() < 1e-9
    p = fft.plan(shape)
    x = p.new_real()
    x[:] = rng.normal(size=shape)
    expected = np.fft.irfftn(np.fft.rfftn(x) * transfer, shape, axes=(0, 1, 2))
    real_filter = (transfer.real * p.scale).astype(np.float32)
    kept, out = x.copy(), p.new_real()
    assert convolve(x, real_filter, p, out) is out
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(convolve(x, real_filter, p), out)  # into the plan's own array
    convolve(x, real_filter, p, x)  # in place
    np.testing.assert_array_equal(x, out)


def test_a_margin_keeps_the_kernel_from_wrapping_around():
    mask = np.zeros((20, 20, 20), bool)
    mask[3:12, 4:10, 2:14] = True
    x = np.where(mask, np.random.default_rng(5).normal(size=mask.shape), 0).astype(np.float32)
    box = box_of(mask, (2, 2, 2))
    p = fft.plan(box.fft_shape)
    kernel = np.zeros(box.fft_shape)
    for axis in range(3):  # a cross that reaches two voxels
        for step in (-2, -1, 1, 2):
            at = [0, 0, 0]
            at[axis] = step
            kernel[tuple(at)] = 1 / 12
    real_filter = (np.fft.rfftn(kernel).real * p.scale).astype(np.float32)
    out = extract(convolve(embed(x, box, p.real), real_filter, p), box, mask.shape)
    expected = np.zeros(mask.shape)
    for axis in range(3):
        for step in (-2, -1, 1, 2):
            expected += np.roll(x, step, axis) / 12
    np.testing.assert_allclose(out[mask], expected[mask], atol=1e-6)


def test_keep_zeroes_all_but_the_mask_in_the_low_corner():
    x = np.random.default_rng(5).standard_normal((7, 8, 9)).astype(np.float32)
    mask = np.random.default_rng(6).random((5, 8, 6)) < 0.5
    expected = np.zeros_like(x)
    expected[:5, :, :6] = np.where(mask, x[:5, :, :6], 0)
    out = keep(x, mask)
    assert out is x
    np.testing.assert_array_equal(x, expected)
