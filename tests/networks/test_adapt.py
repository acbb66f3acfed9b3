"""Arrays to a network's grid and back: exact where it can be, of a known loss where it cannot."""

import json

import numpy as np
import pytest
from small_model import convolutions, fields_of

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.networks import adapt
from qsm_runtime.networks import card as cards
from qsm_runtime.networks.frame import Frame
from qsm_runtime.phantom import sphere_field_ppm


@pytest.mark.parametrize(("small", "large"), [((9, 10, 11), (14, 15, 16)), ((8, 7, 12), (11, 14, 24))])
def test_finer_and_back_is_exact(small: tuple, large: tuple) -> None:
    x = np.random.default_rng(0).normal(size=(2, *small)).astype(np.float32)
    back = adapt.fourier(adapt.fourier(x, large), small)
    assert back.dtype == np.float32
    assert np.abs(back - x).max() < 1e-5


@pytest.mark.parametrize("m", [10, 15, 24, 31])
def test_fourier_samples_a_wave_where_it_is(m: int) -> None:
    def wave(n: int) -> np.ndarray:
        t = 2 * np.pi * np.arange(n) / n
        return (np.cos(3 * t + 0.4)[:, None, None] * np.ones((1, 4, 5))).astype(np.float32)

    assert np.abs(adapt.fourier(wave(20), (m, 4, 5)) - wave(m)).max() < 1e-5


def test_linear_keeps_ramps_and_masks_half() -> None:
    ramp = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    found = adapt.linear(ramp, (24, 3, 3))[:, 0, 0]
    assert np.allclose(found[:23], np.arange(23) / 2)
    mask = np.zeros((12, 4, 4), bool)
    mask[3:7] = True
    assert adapt.resample(mask, (24, 4, 4), "fourier")[:, 0, 0].nonzero()[0].tolist() == list(range(6, 13))


@pytest.mark.parametrize("voxel", [(1.5, 0.7, 3.0), (1.06, 1.0, 1.3)])
def test_sizes_span_one_length(voxel: tuple) -> None:
    found = adapt.resampling((40, 51, 33), voxel, (1.0, 1.0, 1.0), 0.01)
    for n, v, before, after, got in zip((40, 51, 33), voxel, found.before, found.after, found.voxel_mm, strict=True):
        assert n <= before <= n + adapt.LARGEST_EXTRA
        assert before * v == pytest.approx(after * got)
        assert abs(got - 1) < 0.005
    assert adapt.resampling((40, 51, 33), (1, 1.04, 1), (1, 1, 1), 0.05).after == (40, 51, 33)


@pytest.mark.parametrize("how", ["fourier", "linear"])
def test_wrapped_phase_is_resampled_across_its_wraps(how: str) -> None:
    n, m = 32, 48

    def true(count: int) -> np.ndarray:
        t = np.arange(count) / count
        return (9 * np.cos(2 * np.pi * t))[:, None, None] * np.ones((1, 8, 8))

    geometry = {"voxel_mm": [2 / 3, 1, 1], "tolerance": 0.01, "resample": how, "b0": "any"}
    found_card = cards.parse(json.dumps(fields_of("small", convolutions()) | {"geometry": geometry}), "test")
    frame = Frame(found_card, np.ones((n, 8, 8), bool), Grid((n, 8, 8)), lambda shape: shape)
    assert frame.shape == (m, 8, 8)
    wrapped = np.angle(np.exp(1j * true(n))).astype(np.float32)
    found = frame.put(wrapped, wrapped=True, magnitude=np.full(wrapped.shape, 3, np.float32))
    assert np.abs(np.angle(np.exp(1j * (found - true(m))))).max() < (0.02 if how == "fourier" else 0.7)
    assert np.abs(np.angle(np.exp(1j * (frame.put(wrapped) - true(m))))).max() > 1


@pytest.mark.parametrize("side", ["end", "both"])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_padding_comes_off_again(side: str, mode: str) -> None:
    x = np.random.default_rng(1).normal(size=(2, 7, 9, 5)).astype(np.float32)
    sizes = adapt.padded_sizes((7, 9, 5), (8, 8, 4), (4, 16, 4))
    assert sizes == (8, 16, 8)
    y = adapt.pad(x, sizes, side, mode)
    assert y.shape == (2, *sizes)
    assert np.array_equal(adapt.unpad(y, (7, 9, 5), side), x)
    with pytest.raises(UsageError, match="pad_mode"):
        adapt.pad(x, sizes, side, "nothing")


def test_values_come_back() -> None:
    x = np.random.default_rng(2).normal(size=(2, 6, 5, 4)).astype(np.float32)
    mean, std = np.array([0.3, -2]), np.array([0.1, 5])
    y = adapt.affine(x, mean, std)
    assert np.allclose(y[1], (x[1] + 2) / 5, atol=1e-6)
    assert np.allclose(adapt.affine_inverse(y, mean, std), x, atol=1e-5)
    clipped = adapt.clipped(x, 10, 90)
    assert clipped.min() == 0
    assert clipped.max() == pytest.approx(1)
    inside = x[0] > 0
    z = adapt.standardised(x, 0, 100, inside)
    assert z[..., inside].mean() == pytest.approx(0, abs=1e-5)
    assert z[..., inside].std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("b0", [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0.3, -0.5, 0.8), (0.1, 0.2, -0.9)])
def test_rotation_takes_b0_to_z(b0: tuple) -> None:
    r = adapt.rotation_to_z(b0)
    assert np.allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1)
    assert abs((r @ (np.array(b0) / np.linalg.norm(b0)))[2]) == pytest.approx(1)


def test_a_quarter_turn_loses_nothing() -> None:
    x = np.random.default_rng(3).normal(size=(9, 12, 15)).astype(np.float32)
    r = adapt.rotation(adapt.rotation_to_z((1, 0, 0)), x.shape, (1.0, 2.0, 3.0))
    assert r.after == (15, 12, 9)
    assert np.allclose(r.voxel_after, (3, 2, 1))
    turned = adapt.rotate(x, r)
    assert np.abs(np.sort(turned.ravel()) - np.sort(x.ravel())).max() < 1e-4
    assert np.abs(adapt.rotate_back(turned, r) - x).max() < 1e-4


def test_a_turned_dipole_field_is_that_of_b0_along_z() -> None:
    shape, voxel, b0 = (60, 58, 56), (1.0, 1.0, 1.1), (0.5, -0.3, 0.81)
    centre = tuple((n - 1) / 2 for n in shape)

    def sphere(sizes: tuple, v: tuple, direction: tuple, at: tuple) -> np.ndarray:
        return sphere_field_ppm(Grid(sizes, v, direction), at, 9.0, 1.0)

    field = sphere(shape, voxel, b0, centre)
    r = adapt.rotation(adapt.rotation_to_z(b0), shape, voxel)
    there = adapt.rotate(field, r)
    at = tuple((n - 1) / 2 for n in r.after)
    wanted = sphere(r.after, r.voxel_after, (0, 0, 1), at)
    grid = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * v for n, v in zip(r.after, r.voxel_after, strict=True)), indexing="ij"
    )
    radius = np.sqrt(sum(a**2 for a in grid))
    shell = (radius > 14) & (radius < 24)
    assert np.abs(there - wanted)[shell].max() < 0.02 * np.abs(wanted[shell]).max()
    back = adapt.rotate_back(there, r)
    grid = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel, strict=True)), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in grid))
    shell = (radius > 12) & (radius < 22)
    assert np.linalg.norm((back - field)[shell]) < 0.01 * np.linalg.norm(field[shell])
