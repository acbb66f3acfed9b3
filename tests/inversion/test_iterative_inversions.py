"""Iterative inversions against plain float64 numpy versions of their iteration, and on scenes with known truth."""

import inspect

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion import METHODS, _admm
from qsm_runtime.inversion._direct import crop
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.noise_level import noise_level

ITERATIVE = ("lsqr", "ilsqr", "ndi", "rts", "tv", "nltv", "weak_harmonic", "hdqsm", "medi", "star")
GRIDS = {
    "isotropic": Grid((18, 20, 22)),
    "odd, anisotropic, oblique": Grid((21, 19, 13), (1.0, 1.2, 2.5), (0.3, -0.2, 0.9)),
}


def spectral(x, h):
    return np.fft.irfftn(np.fft.rfftn(x) * h, x.shape, axes=(0, 1, 2))


def scene(grid, noise=0.0, seed=0):
    """A sphere of 0.1 ppm and a smaller one of -0.2 ppm in an ellipsoid, and the field of both inside it."""
    rng = np.random.default_rng(seed)
    index = np.indices(grid.shape).astype(float)
    centre = (np.array(grid.shape) - 1) / 2
    at = [(i - c) * v for i, c, v in zip(index, centre, grid.voxel_mm, strict=True)]
    size = [(n - 3) / 2 * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)]
    mask = sum((a / s) ** 2 for a, s in zip(at, size, strict=True)) <= 1
    chi = np.zeros(grid.shape, np.float32)
    chi[(at[0] - 3) ** 2 + at[1] ** 2 + at[2] ** 2 <= 9] = 0.1
    chi[(at[0] + 4) ** 2 + (at[1] - 1) ** 2 + at[2] ** 2 <= 5] = -0.2
    wide = tuple(2 * n + n % 2 for n in grid.shape)
    full = np.zeros(wide)
    full[tuple(slice(n) for n in grid.shape)] = chi
    field = spectral(full, dipole_kernel(wide, grid.voxel_mm, grid.b0_dir))[tuple(slice(n) for n in grid.shape)]
    field = field + noise * rng.standard_normal(grid.shape)
    return chi, np.where(mask, field, 0).astype(np.float32), mask


def padded(array, box):
    out = np.zeros(box.fft_shape)
    out[tuple(slice(n) for n in box.size)] = array[box.slices]
    return out


def difference(x, steps):
    return np.stack([(np.roll(x, -1, a) - x) / s for a, s in enumerate(steps)])


def difference_adjoint(g, steps):
    return sum((np.roll(g[a], 1, a) - g[a]) / s for a, s in enumerate(steps))


def tv_reference(field, mask, grid, lam, iterations, data_step, trust_beyond=None):
    """ADMM with every variable and multiplier spelled out, and h, where asked for, solved beside x."""
    box, _ = crop(mask, grid)
    d = dipole_kernel(box.fft_shape, grid.voxel_mm, grid.b0_dir).astype(float)
    steps = np.array(grid.voxel_mm) / np.prod(grid.voxel_mm) ** (1 / 3)
    f, m = padded(np.where(mask, field, 0), box), padded(mask, box) > 0
    rho, r, rs = _admm.GRADIENT_PENALTY * lam, _admm.DATA_PENALTY, _admm.SUPPORT_PENALTY
    axes = [2 * np.sin(np.pi * np.fft.fftfreq(n)) / s for n, s in zip(box.fft_shape, steps, strict=True)]
    power = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2
    power = power + axes[2][None, None, : box.fft_shape[2] // 2 + 1] ** 2
    beta = 0 if trust_beyond is None else r / (2 * np.pi / trust_beyond) ** 4
    x = spectral(f, d / (d**2 + 1e-2))
    y, h = spectral(x, d), 0.0
    w_u, y_u, p_u, z = np.zeros((3, *x.shape)), 0 * x, 0 * x, None
    for _ in range(iterations):
        g = difference(x, steps) + w_u
        length = np.maximum(np.sqrt((g**2).sum(0)), 1e-30)
        z = g * np.maximum(0, 1 - lam / rho / length)
        w_u = g - z
        q = y + h + y_u
        v = np.where(m, data_step(q, f, r), q)
        y_u = q - v
        p = np.where(m, x + p_u, 0)
        p_u = x + p_u - p
        target = np.fft.rfftn(v - y_u)
        share = 1.0 if trust_beyond is None else beta * power**2 / (r + beta * power**2)
        rhs = r * share * d * target + np.fft.rfftn(rho * difference_adjoint(z - w_u, steps) + rs * (p - p_u))
        spectrum = rhs / (r * share * d**2 + rho * power + rs)
        x, y = (np.fft.irfftn(s, x.shape, axes=(0, 1, 2)) for s in (spectrum, d * spectrum))
        if trust_beyond is not None:  # h minimises r |v - u - y - h|^2 + beta |K h|^2
            h = np.fft.irfftn(r / (r + beta * power**2) * (target - d * spectrum), x.shape, axes=(0, 1, 2))
    out = np.zeros(grid.shape)
    out[box.slices] = x[tuple(slice(n) for n in box.size)]
    return np.where(mask, out, 0)


def squares(q, f, r):
    return (f + r * q) / (1 + r)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_tv_follows_its_iteration(grid):
    _, field, mask = scene(grid, 0.002)
    got = METHODS["tv"](field, mask, grid, regularisation=5e-4, tolerance=0, max_iterations=12, outlier_rounds=0)
    want = tv_reference(field, mask, grid, 5e-4, 12, squares)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
    assert got.dtype == np.float32


def test_weak_harmonic_follows_its_iteration():
    grid = GRIDS["isotropic"]
    _, field, mask = scene(grid, 0.002)
    got = METHODS["weak_harmonic"](
        field, mask, grid, regularisation=5e-4, harmonic_mm=30.0, tolerance=0, max_iterations=12, outlier_rounds=0
    )
    want = tv_reference(field, mask, grid, 5e-4, 12, squares, trust_beyond=30.0)
    np.testing.assert_allclose(got, want, atol=5e-4 * np.abs(want).max())


def test_nonlinear_tv_follows_its_iteration():
    grid, scale = GRIDS["isotropic"], 2 * np.pi * 42.577478518 * 3 * 0.02
    _, field, mask = scene(grid, 0.002)

    def cosine(q, f, r):
        v = (f + r * q) / (1 + r)
        for _ in range(40):  # Newton to the end
            slope = np.sin(scale * (v - f)) / scale + r * (v - q)
            v = v - slope / (np.maximum(np.cos(scale * (v - f)), 0) + r)
        return v

    got = METHODS["nltv"](field, mask, grid, regularisation=5e-4, tolerance=0, max_iterations=12, outlier_rounds=0)
    want = tv_reference(field, mask, grid, 5e-4, 12, cosine)
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def test_tv_reaches_the_minimum_of_its_objective():
    grid = GRIDS["isotropic"]
    _, field, mask = scene(grid, 0.003)
    box, _ = crop(mask, grid)
    d = dipole_kernel(box.fft_shape, grid.voxel_mm, grid.b0_dir).astype(float)
    lam = 1e-3

    def objective(chi):
        x = padded(chi, box)
        misfit = (spectral(x, d) - padded(field, box))[padded(mask, box) > 0]
        return 0.5 * (misfit**2).sum() + lam * np.sqrt((difference(x, (1, 1, 1)) ** 2).sum(0)).sum()

    best = METHODS["tv"](field, mask, grid, regularisation=lam, tolerance=0, max_iterations=1500, outlier_rounds=0)
    best = best.astype(float)
    value = objective(best)
    rng = np.random.default_rng(9)
    for size in (1e-3, 1e-2):
        for _ in range(4):
            other = best + size * np.where(mask, rng.standard_normal(grid.shape), 0)
            assert objective(other) > value
    assert objective(0.98 * best) > value * (1 - 1e-5)
    assert objective(1.02 * best) > value * (1 - 1e-5)
    assert value < 0.999 * objective(METHODS["tv"](field, mask, grid, regularisation=lam, max_iterations=3))


def dense_model(mask, grid):
    """W D S as a float64 matrix over the mask's voxels."""
    box, _ = crop(mask, grid)
    d = dipole_kernel(box.fft_shape, grid.voxel_mm, grid.b0_dir).astype(float)
    inside = padded(mask, box) > 0
    columns = []
    for at in np.argwhere(inside):
        point = np.zeros(box.fft_shape)
        point[tuple(at)] = 1
        columns.append(spectral(point, d)[inside])
    return np.array(columns).T


def test_masked_dipole_is_the_dense_model_and_its_adjoint():
    grid = Grid((6, 5, 7), (1.0, 1.5, 2.0), (0.2, 0.3, 0.9))
    mask = np.zeros(grid.shape, bool)
    mask[1:5, 1:4, 1:6] = True
    mask[2, 2, 2] = False
    rng = np.random.default_rng(11)
    matrix = dense_model(mask, grid)
    field = np.where(mask, rng.standard_normal(grid.shape), 0).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, grid.shape).astype(np.float32)
    model = MaskedDipole(field, weight, mask, grid)
    inner = mask[model.box.slices]
    x = np.where(inner, rng.standard_normal(inner.shape), 0).astype(np.float32)
    got = model.apply(x, np.empty_like(x))
    w = weight[mask]
    np.testing.assert_allclose(got[inner], w * (matrix @ x[inner]), atol=1e-6)
    got = model.adjoint(x, np.empty_like(x))
    np.testing.assert_allclose(got[inner], matrix.T @ (w * x[inner]), atol=1e-6)
    # least squares with enough steps solves the normal equations in the directions the data determine
    solved = model.least_squares(60)
    residual = matrix.T @ (w**2 * (matrix @ solved[inner] - field[mask]))
    assert np.linalg.norm(residual) < 2e-2 * np.linalg.norm(matrix.T @ (w**2 * field[mask]))


def test_lsqr_agrees_with_scipy():
    from scipy.sparse import linalg

    grid = Grid((6, 5, 7))
    mask = np.ones(grid.shape, bool)
    field = np.random.default_rng(12).standard_normal(grid.shape).astype(np.float32)
    certain = np.full(grid.shape, 1e9, np.float32)
    got = METHODS["lsqr"](field, mask, grid, tolerance=0, max_iterations=6, reliability=certain)
    want = linalg.lsqr(dense_model(mask, grid), field.ravel().astype(float), iter_lim=6, atol=0, btol=0, conlim=0)[0]
    np.testing.assert_allclose(got.ravel(), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_recovers_the_spheres(name, grid):
    chi, field, mask = scene(grid, 0.0005)
    fields_before, mask_before = field.copy(), mask.copy()
    got = METHODS[name](field, mask, grid)
    assert got.dtype == np.float32
    assert got.shape == grid.shape
    assert not got[~mask].any()
    assert np.corrcoef(got[mask], chi[mask])[0, 1] > 0.85
    slope = float((got[mask] * chi[mask]).sum() / (chi[mask] ** 2).sum())
    assert 0.6 < slope < 1.25
    np.testing.assert_array_equal(METHODS[name](field, mask, grid), got)  # bit by bit
    np.testing.assert_array_equal(field, fields_before)
    np.testing.assert_array_equal(mask, mask_before)


@pytest.mark.parametrize("name", ITERATIVE)
def test_field_outside_the_mask_is_not_read(name):
    grid = GRIDS["isotropic"]
    _, field, mask = scene(grid, 0.001)
    noisy = np.where(mask, field, np.float32(np.nan))
    options = {"regularisation": 1e-3} if "regularisation" in inspect.signature(METHODS[name]).parameters else {}
    np.testing.assert_array_equal(
        METHODS[name](noisy, mask, grid, **options), METHODS[name](field, mask, grid, **options)
    )


@pytest.mark.parametrize("name", ["tv", "rts", "lsqr", "weak_harmonic", "star"])
def test_opposite_field_gives_opposite_map(name):
    grid = GRIDS["isotropic"]
    _, field, mask = scene(grid, 0.001)
    np.testing.assert_allclose(METHODS[name](-field, mask, grid), -METHODS[name](field, mask, grid), atol=1e-6)


def test_axes_may_be_permuted_with_b0():
    grid = Grid((14, 17, 14), (1.0, 1.5, 3.0), (0.3, -0.2, 0.9))  # pads to (30, 28, 20): even whatever the order
    field = np.random.default_rng(4).standard_normal(grid.shape).astype(np.float32) * 0.02
    mask = np.ones(grid.shape, bool)
    order = (2, 0, 1)
    turned = Grid(*(tuple(np.take(v, order)) for v in (grid.shape, grid.voxel_mm, grid.b0_dir)))
    for name in ("tv", "rts", "lsqr"):
        options = {} if name == "lsqr" else {"regularisation": 1e-3}
        straight = METHODS[name](field, mask, grid, tolerance=0, max_iterations=10, **options).transpose(order)
        permuted = METHODS[name](
            np.ascontiguousarray(field.transpose(order)),
            mask.transpose(order).copy(),
            turned,
            tolerance=0,
            max_iterations=10,
            **options,
        )
        np.testing.assert_allclose(permuted, straight, atol=1e-3 * np.abs(straight).max(), err_msg=name)


@pytest.mark.parametrize("name", ["tv", "hdqsm", "medi", "nltv", "star"])
def test_wrong_voxels_are_left_out(name):
    grid = Grid((24, 24, 24))
    chi, field, mask = scene(grid, 0.0005)
    bad = field.copy()
    bad[12, 16, 14] += 1.0
    bad[9, 8, 10] -= 1.0
    plain, robust = METHODS["tv"](bad, mask, grid, outlier_rounds=0), METHODS[name](bad, mask, grid)
    assert np.linalg.norm((robust - chi)[mask]) < 0.7 * np.linalg.norm((plain - chi)[mask])


def test_reliability_zero_leaves_a_voxel_out():
    grid = Grid((24, 24, 24))
    _, field, mask = scene(grid, 0.0005)
    reliability = np.full(grid.shape, 1000, np.float32)
    reliability[12, 16, 14] = 0
    bad = field.copy()
    bad[12, 16, 14] = np.nan
    for name in ITERATIVE:
        options = {"reliability": reliability}
        np.testing.assert_array_equal(
            METHODS[name](bad, mask, grid, **options), METHODS[name](field, mask, grid, **options), err_msg=name
        )


def test_regularisation_follows_the_noise_and_is_recorded():
    grid = Grid((32, 32, 32))
    used = []
    for noise in (0.002, 0.01):
        _, field, mask = scene(grid, noise)
        assert noise_level(field, mask) == pytest.approx(noise, rel=0.15)
        METHODS["tv"](field, mask, grid, max_iterations=1, record=lambda key, value: used.append((key, value)))
        assert used[-1] == ("regularisation", pytest.approx(regularisation_from_noise(noise), rel=0.15))
    reliability = np.full(grid.shape, 100, np.float32)
    METHODS["tv"](field, mask, grid, max_iterations=1, reliability=reliability, record=lambda *r: used.append(r))
    assert used[-1][1] == pytest.approx(regularisation_from_noise(0.01))


def test_medi_lets_edges_of_the_magnitude_stand():
    grid = Grid((24, 24, 24))
    chi, field, mask = scene(grid, 0.004)
    magnitude = np.stack([1 + 5 * np.abs(chi)] * 2).astype(np.float32)
    plain, guided = METHODS["medi"](field, mask, grid), METHODS["medi"](field, mask, grid, magnitude=magnitude)
    assert np.linalg.norm((guided - chi)[mask]) < np.linalg.norm((plain - chi)[mask])


def test_progress_rises_to_the_end():
    grid = GRIDS["isotropic"]
    _, field, mask = scene(grid, 0.001)
    for name in ITERATIVE:
        seen = []
        METHODS[name](field, mask, grid, progress=seen.append)
        assert seen, name
        assert seen == sorted(seen), name
        assert 0 < seen[-1] <= 1, name


def test_refusals():
    grid = Grid((8, 8, 8))
    field, mask = np.zeros(grid.shape, np.float32), np.ones(grid.shape, bool)
    for name in ITERATIVE:
        with pytest.raises(ReconstructionError, match="mask is empty"):
            METHODS[name](field, np.zeros_like(mask), grid)
        with pytest.raises(UsageError, match=name):
            METHODS[name](field, mask, grid, max_iterations=0)
        with pytest.raises(ReconstructionError, match="reliability"):
            METHODS[name](field, mask, grid, reliability=np.zeros(grid.shape, np.float32))


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_field_of_zeros_gives_zeros(name):
    grid = Grid((9, 8, 7))
    mask = np.ones(grid.shape, bool)
    got = METHODS[name](np.zeros(grid.shape, np.float32), mask, grid)
    assert not got.any()
