"""What the field says and a map does not is brought back; what the map has right stays."""

import numpy as np
import pytest

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.networks import refine
from qsm_runtime.pipeline import forward_field

GRID = Grid((40, 44, 36), (1.0, 1.2, 1.5), (0.1, 0.2, 0.97))


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(
        *((np.arange(n) - n / 2) * v for n, v in zip(GRID.shape, GRID.voxel_mm, strict=True)), indexing="ij"
    )
    mask = (x / 16) ** 2 + (y / 21) ** 2 + (z / 22) ** 2 < 1
    chi = np.where(mask, 0.1 * np.sin(x / 3) * np.cos(y / 4), 0)
    chi = np.where((x - 4) ** 2 + y**2 + z**2 < 30, 0.3, chi).astype(np.float32)
    field = np.where(mask, forward_field(chi, GRID) + 0.002 * rng.standard_normal(GRID.shape), 0).astype(np.float32)
    return chi, field, mask, mask.astype(np.float32)


def error(x: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    return float(np.linalg.norm((x - truth)[mask]) / np.linalg.norm(truth[mask]))


@pytest.mark.parametrize("method", [refine.substitute, refine.gradient])
def test_a_map_half_as_strong_comes_back(method, case: tuple) -> None:
    chi, field, mask, weight = case
    before = chi.copy()
    found = method(0.5 * chi, field, weight, mask, GRID)
    assert error(found, chi, mask) < 0.35
    assert not found[~mask].any()
    assert found.dtype == np.float32
    assert np.array_equal(chi, before)


@pytest.mark.parametrize("method", [refine.substitute, refine.gradient])
def test_a_map_that_explains_the_field_stays(method, case: tuple) -> None:
    chi, _, mask, weight = case
    data = refine._Data(np.zeros_like(chi), weight, mask, GRID)
    exact = np.zeros_like(chi)
    inner = np.ascontiguousarray(chi[data.box.slices])
    exact[data.box.slices] = data.dipole.field(inner) - data.images(inner)
    assert error(method(chi, exact, weight, mask, GRID), chi, mask) < 1e-4


@pytest.mark.parametrize("method", [refine.substitute, refine.gradient])
def test_what_noise_explains_is_left_alone(method, case: tuple) -> None:
    """The truth's own field leaves nothing but noise: the map stays; a wrong map still comes nearer."""
    chi, field, mask, weight = case
    noise = 0.01 * np.random.default_rng(3).standard_normal(GRID.shape)
    noisy = np.where(mask, field + noise, 0).astype(np.float32)
    explained = float(np.hypot(0.01, 0.002) * np.sqrt(np.count_nonzero(mask)))
    assert np.array_equal(method(chi, noisy, weight, mask, GRID, explained_ppm=1.03 * explained), chi * mask)
    poor = 0.5 * chi
    found = method(poor, noisy, weight, mask, GRID, explained_ppm=explained)
    assert error(found, chi, mask) < 0.9 * error(poor, chi, mask)
    assert error(found, chi, mask) < error(method(poor, noisy, weight, mask, GRID), chi, mask)


def test_gradient_solves_its_normal_equations(case: tuple) -> None:
    """Against float64 numpy: (S D W^2 D S + mu) d = S D W^2 (f - D x0) on the same padded grid, D x0 of free space."""
    chi, field, mask, _ = case
    weight = np.where(mask, np.random.default_rng(1).uniform(0.3, 1, mask.shape), 0).astype(np.float32)
    x0 = 0.6 * chi
    found = refine.gradient(x0, field, weight, mask, GRID, steps=60)
    data = refine._Data(field, weight, mask, GRID)
    shape, inner = data.dipole.plan.shape, data.box.slices
    half = dipole_kernel(shape, GRID.voxel_mm, GRID.b0_dir).astype(float)
    low = tuple(slice(n) for n in data.box.size)

    def through(v: np.ndarray) -> np.ndarray:
        full = np.zeros(shape)
        full[low] = v
        return np.fft.irfftn(half * np.fft.rfftn(full), shape, axes=(0, 1, 2))[low]

    support, square = mask[inner], weight[inner].astype(float) ** 2 * mask[inner]
    change = (found - x0)[inner].astype(float)
    left = support * through(square * through(change)) + refine.MU * change
    free = through(x0[inner].astype(float)) - data.images(np.ascontiguousarray(x0[inner]))
    right = support * through(square * (field[inner] - free))
    assert np.linalg.norm(left - right) < 5e-3 * np.linalg.norm(right)


def test_total_variation_starts_from_a_map(case: tuple) -> None:
    chi, field, mask, weight = case
    state = Splitting(field, weight, mask, GRID)
    state.start_from(chi)
    low = tuple(slice(n) for n in state.box.size)
    assert np.array_equal(state.x[low], chi[state.box.slices] * mask[state.box.slices])
    inside = mask[state.box.slices]
    assert np.abs(state.y[low] - field[state.box.slices])[inside].max() < 0.02
