"""Total field -> susceptibility: recovery, invariance to the background, symmetry, weights, refusals."""

import numpy as np
import pytest

from qsm_runtime.errors import InputError, ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.single_step import METHODS
from qsm_runtime.single_step.joint_tv import joint_tv

CLASSICAL = [name for name in METHODS if name != "network"]

SHAPE = (40, 44, 42)
FEW = {"joint_tv": {"iterations": (40, 20)}, "tgv": {"iterations": (40, 20)}, "ss_tv": {"iterations": (40, 20)},
       "tfi": {}, "ln_qsm": {"regularisation": 1.5e-4}, "wh_qsm": {}}  # fmt: skip
LEAST = {
    "joint_tv": 0.97,
    "tgv": 0.93,
    "ss_tv": 0.95,
    "tfi": 0.93,
    "ln_qsm": 0.92,
    "wh_qsm": 0.95,
}  # correlation with the truth


def field_of(chi: np.ndarray, grid: Grid) -> np.ndarray:
    """D x in float64 numpy on an array twice as wide, from the definition."""
    wide = [2 * n for n in chi.shape]
    k = np.meshgrid(*(np.fft.fftfreq(n, v) for n, v in zip(wide, grid.voxel_mm, strict=True)), indexing="ij")
    k2 = sum(a * a for a in k)
    k2[0, 0, 0] = 1
    dipole = 1 / 3 - sum(a * b for a, b in zip(k, grid.b0_dir, strict=True)) ** 2 / k2
    dipole[0, 0, 0] = 0
    out = np.fft.ifftn(np.fft.fftn(chi.astype(np.float64), wide) * dipole).real
    return out[tuple(slice(n) for n in chi.shape)].astype(np.float32)


def coordinates(grid: Grid) -> list[np.ndarray]:
    return np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)), indexing="ij"
    )


def scene(grid: Grid, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of susceptibility in a ball, air and bone around it: (chi in the mask, mask, total field)."""
    rng = np.random.default_rng(seed)
    x, y, z = coordinates(grid)
    reach = min(n * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)) / 2
    mask = x**2 + y**2 + (1.1 * z) ** 2 < (0.66 * reach) ** 2
    chi = np.zeros(grid.shape)
    for _ in range(9):
        centre, half = rng.uniform(-0.45, 0.45, 3) * reach, rng.uniform(0.12, 0.3, 3) * reach
        inside = (
            (np.abs(x - centre[0]) < half[0]) & (np.abs(y - centre[1]) < half[1]) & (np.abs(z - centre[2]) < half[2])
        )
        chi[inside] = rng.uniform(-0.1, 0.1)
    chi *= mask
    outside = 3.0 * ((x - 0.8 * reach) ** 2 + (y + 0.3 * reach) ** 2 + z**2 < (0.15 * reach) ** 2)
    outside -= 1.5 * (x**2 + (y - 0.85 * reach) ** 2 + (z - 0.3 * reach) ** 2 < (0.12 * reach) ** 2)
    assert not (mask & (outside != 0)).any()
    return chi.astype(np.float32), mask, field_of(chi + outside, grid)


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.corrcoef(a[mask], b[mask])[0, 1])


@pytest.mark.parametrize("method", CLASSICAL)
def test_recovers_the_inside_from_the_total_field(method):
    grid = Grid(SHAPE)
    chi, mask, total = scene(grid)
    before, before_mask = total.copy(), mask.copy()
    found = METHODS[method](total, mask, grid, **FEW[method])
    np.testing.assert_array_equal(total, before)
    np.testing.assert_array_equal(mask, before_mask)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.abs(found[~mask]).max() == 0
    assert abs(found[mask].mean(dtype=np.float64)) < 1e-6
    assert correlation(found, chi, mask) > LEAST[method]


@pytest.mark.parametrize("grid", [
    Grid((44, 40, 42), (1.0, 1.0, 1.0), (0.3, -0.4, 0.85)),
    Grid((40, 44, 20), (1.0, 1.0, 2.5), (0.0, 0.2, 0.98)),
    Grid((41, 39, 43), (0.7, 0.8, 0.9)),
], ids=["oblique", "thick slices", "odd sizes"])  # fmt: skip
def test_joint_tv_on_other_grids(grid):
    chi, mask, total = scene(grid, seed=1)
    assert correlation(joint_tv(total, mask, grid, iterations=(40, 20)), chi, mask) > 0.93


@pytest.mark.parametrize("method", CLASSICAL)
def test_a_harmonic_background_changes_nothing(method):
    """Shim terms up to the third order are harmonic, on the grid as well as in space."""
    grid = Grid(SHAPE)
    _, mask, total = scene(grid)
    x, y, z = coordinates(grid)
    shim = 0.5 + 0.02 * x - 0.03 * z + 1e-3 * (x * x - y * y) + 1e-3 * (2 * z * z - x * x - y * y) + 5e-5 * x * y * z
    plain = METHODS[method](total, mask, grid, **FEW[method])
    shimmed = METHODS[method]((total + shim).astype(np.float32), mask, grid, **FEW[method])
    # tfi's few Newton steps stop before the strongest shim is all gone, and where they stop depends on rounding
    assert np.abs(plain - shimmed)[mask].max() < (0.1 if method == "tfi" else 0.02) * np.ptp(plain)
    assert np.linalg.norm((plain - shimmed)[mask]) < 0.025 * np.linalg.norm(plain[mask])


def test_flipping_the_head_flips_the_map():
    grid = Grid(SHAPE)
    _, mask, total = scene(grid)
    flip = (slice(None, None, -1), slice(None), slice(None, None, -1))
    straight = joint_tv(total, mask, grid, iterations=(20,))
    flipped = joint_tv(np.ascontiguousarray(total[flip]), np.ascontiguousarray(mask[flip]), grid, iterations=(20,))[
        flip
    ]
    assert correlation(straight, flipped, mask) > 0.985  # forward differences are not symmetric, the problem nearly is


def test_same_input_same_bits():
    grid = Grid((24, 24, 24))
    _, mask, total = scene(grid)
    one, two = (joint_tv(total, mask, grid, iterations=(12, 12)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("method", ["joint_tv", "tgv", "wh_qsm"])
def test_voxels_of_no_reliability_do_no_harm(method):
    grid = Grid(SHAPE)
    chi, mask, total = scene(grid)
    bad = mask & (np.random.default_rng(2).random(mask.shape) < 0.02)
    spoiled = np.where(bad, np.float32(np.nan), total)
    reliability = np.where(mask & ~bad, np.float32(1000), np.float32(0))
    found = METHODS[method](spoiled, mask, grid, reliability=reliability, **FEW[method])
    assert correlation(found, chi, mask) > LEAST[method] - 0.02


def test_isolated_wraps_are_found_without_being_told():
    grid = Grid(SHAPE)
    chi, mask, total = scene(grid)
    bad = mask & (np.random.default_rng(3).random(mask.shape) < 0.002)
    assert bad.sum() > 10
    found = joint_tv(np.where(bad, total + np.float32(1.0), total), mask, grid, iterations=(40, 20))
    assert correlation(found, chi, mask) > 0.93


def test_two_objects_and_a_mask_at_the_border():
    grid = Grid((32, 60, 32))
    mask = np.zeros(grid.shape, bool)
    mask[4:28, 0:24, 4:28] = mask[6:26, 34:56, 6:26] = True
    chi = np.zeros(grid.shape, np.float32)
    chi[10:20, 8:16, 10:20], chi[12:18, 40:48, 12:18] = 0.1, -0.1
    found = joint_tv(field_of(chi, grid), mask, grid, iterations=(40, 20))
    assert found[10:20, 8:16, 10:20].mean() - found[12:18, 40:48, 12:18].mean() == pytest.approx(0.2, rel=0.15)


def test_automatic_regularisation_grows_with_the_noise_and_is_recorded():
    grid = Grid(SHAPE)
    _, mask, total = scene(grid)
    chosen: dict[float, dict[str, object]] = {}
    for noise in (0.0, 2e-3, 8e-3):
        noisy = total + noise * np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32)
        joint_tv(
            noisy, mask, grid, iterations=(1,), record=lambda name, value, n=noise: chosen.update({(name, n): value})
        )
    values = [chosen["regularisation_auto", n] for n in (0.0, 2e-3, 8e-3)]
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(0.28 * 8e-3, rel=0.1)
    told = {}
    joint_tv(total, mask, grid, iterations=(1,), reliability=np.full(SHAPE, 250, np.float32), record=told.__setitem__)
    assert told["regularisation_auto"] == pytest.approx(0.28 * np.hypot(4e-3, 6e-4), rel=1e-3)


@pytest.mark.parametrize("method", ["ln_qsm", "tfi"])
def test_a_penalty_that_does_not_level_off_is_weaker(method):
    grid, told = Grid((24, 24, 24)), {}
    _, mask, total = scene(grid)
    trusted = np.full(grid.shape, 250, np.float32)
    METHODS[method](total, mask, grid, steps=1, cg_iterations=1, reliability=trusted, record=told.__setitem__)
    assert told["regularisation_auto"] == pytest.approx(0.2 * 0.28 * np.hypot(4e-3, 6e-4), rel=1e-3)


def test_progress_ends_at_one():
    grid = Grid((24, 24, 24))
    _, mask, total = scene(grid)
    seen: list[float] = []
    joint_tv(total, mask, grid, iterations=(4, 4), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("method", CLASSICAL)
def test_wrong_input_is_refused(method):
    grid, run = Grid((20, 20, 20)), METHODS[method]
    _, mask, total = scene(grid)
    with pytest.raises(UsageError, match="regularisation"):
        run(total, mask, grid, regularisation=-1.0)
    with pytest.raises(ShapeError, match="total_ppm"):
        run(total[1:], mask, grid)
    with pytest.raises(ReconstructionError, match="mask"):
        run(total, np.zeros_like(mask), grid)
    thin = np.zeros_like(mask)
    thin[10] = True
    with pytest.raises(ReconstructionError, match="six neighbours"):
        run(total, thin, grid)
    with pytest.raises(InputError, match="finite"):
        run(np.where(mask, np.float32(np.inf), total), mask, grid)


def test_options_out_of_range_are_refused():
    grid = Grid((20, 20, 20))
    _, mask, total = scene(grid)
    for options in ({"iterations": ()}, {"iterations": (0,)}, {"knee_ppm_per_mm": 0.0}, {"outlier_sigmas": -1.0}):
        with pytest.raises(UsageError):
            joint_tv(total, mask, grid, **options)
    with pytest.raises(UsageError, match="radii"):
        METHODS["ss_tv"](total, mask, grid, radii_mm=())
    with pytest.raises(UsageError, match="ratio"):
        METHODS["tgv"](total, mask, grid, ratio_mm=0.0)
    with pytest.raises(UsageError, match="harmonic_weight"):
        METHODS["wh_qsm"](total, mask, grid, harmonic_weight=0.0)
    with pytest.raises(UsageError, match="edge_fraction"):
        METHODS["tfi"](total, mask, grid, edge_fraction=1.0)
