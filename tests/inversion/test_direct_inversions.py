"""TKD, TSVD, SDI and Tikhonov against their equations in plain float64 numpy."""

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion import METHODS
from qsm_runtime.inversion._direct import DIRECT_MARGIN_MM
from qsm_runtime.inversion.tikhonov import FLOOR
from qsm_runtime.kernels.fft import padded_shape

DIRECT = ("tkd", "tsvd", "sdi", "tikhonov")
GRIDS = {
    "isotropic": Grid((18, 20, 22)),
    "odd, anisotropic, oblique": Grid((17, 19, 15), (1.0, 1.5, 3.0), (0.3, -0.2, 0.9)),
}


def scene(grid, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros(grid.shape, bool)
    mask[2:-1, 3:-2, 1:-3] = True
    mask[4, 5, 6] = False
    return rng.standard_normal(grid.shape).astype(np.float32) * 0.05, mask


def dipole64(shape, voxel_mm, b0_dir):
    axes = [np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_mm, strict=True)]
    k = np.stack(np.meshgrid(*axes, indexing="ij"))
    k2 = (k**2).sum(0)
    with np.errstate(invalid="ignore"):
        d = 1 / 3 - np.tensordot(b0_dir, k, 1) ** 2 / k2
    d[0, 0, 0] = 0
    # the mean over both signs of every Nyquist frequency: the spectrum of the nearest real kernel
    for axis, n in enumerate(shape):
        if n % 2 == 0:
            flipped = k.copy()
            flipped[axis] = -flipped[axis]
            with np.errstate(invalid="ignore"):
                other = 1 / 3 - np.tensordot(b0_dir, flipped, 1) ** 2 / k2
            plane = [slice(None)] * 3
            plane[axis] = n // 2
            d[tuple(plane)] = (d[tuple(plane)] + other[tuple(plane)]) / 2
    return d


def reference(name, field, mask, grid, option):
    inside = np.argwhere(mask)
    lo, hi = inside.min(0), inside.max(0) + 1
    crop = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
    margin = tuple(int(np.ceil(DIRECT_MARGIN_MM / v)) for v in grid.voxel_mm)
    shape = padded_shape(tuple(hi - lo), margin)
    f = np.zeros(shape)
    f[tuple(slice(n) for n in hi - lo)] = np.where(mask, field, 0)[crop]
    d = dipole64(shape, grid.voxel_mm, grid.b0_dir)
    in_cone = np.abs(d) <= option
    with np.errstate(divide="ignore"):
        inverse = 1 / d
    if name == "tkd":
        h = np.where(in_cone, np.sign(d) / option, inverse)
    elif name == "tsvd":
        h = np.where(in_cone, 0, inverse)
    elif name == "sdi":
        h = np.where(in_cone, d / option**2, inverse)
    else:
        h = d / (d**2 + option)
    h[0, 0, 0] = 0
    chi = np.fft.ifftn(np.fft.fftn(f) * h).real / (d * h).mean()
    out = np.zeros(grid.shape)
    out[crop] = chi[tuple(slice(n) for n in hi - lo)]
    return np.where(mask, out, 0)


def run(name, field, mask, grid, option):
    key = "regularisation" if name == "tikhonov" else "threshold"
    return METHODS[name](field, mask, grid, **{key: option})


@pytest.mark.parametrize("name", DIRECT)
def test_agrees_with_the_equation(name):
    grid = GRIDS["isotropic"]
    field, mask = scene(grid)
    got = run(name, field, mask, grid, 0.12)
    want = reference(name, field, mask, grid, 0.12)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    assert not got[~mask].any()


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_linear_and_blind_to_the_field_outside(name, grid):
    a, mask = scene(grid, 1)
    b, _ = scene(grid, 2)
    a_before, mask_before = a.copy(), mask.copy()
    one, two = run(name, a, mask, grid, 0.1), run(name, b, mask, grid, 0.1)
    mixed = np.where(mask, 2 * a - 3 * b, np.float32(np.nan)).astype(np.float32)
    both = run(name, mixed, mask, grid, 0.1)
    np.testing.assert_allclose(both, 2 * one - 3 * two, atol=3e-5 * np.abs(both).max())
    np.testing.assert_array_equal(run(name, a, mask, grid, 0.1), one)
    np.testing.assert_array_equal(a, a_before)
    np.testing.assert_array_equal(mask, mask_before)


@pytest.mark.parametrize("name", DIRECT)
def test_axes_may_be_permuted_with_b0(name):
    grid = Grid((14, 21, 14), (1.0, 1.5, 3.0), (0.3, -0.2, 0.9))  # pads to (54, 48, 28): even whatever the order
    field, mask = scene(grid, 3)[0], np.ones(grid.shape, bool)
    order = (2, 0, 1)
    turned = Grid(*(tuple(np.take(v, order)) for v in (grid.shape, grid.voxel_mm, grid.b0_dir)))
    straight = run(name, field, mask, grid, 0.1).transpose(order)
    permuted = run(
        name, np.ascontiguousarray(field.transpose(order)), np.ascontiguousarray(mask.transpose(order)), turned, 0.1
    )
    np.testing.assert_allclose(permuted, straight, atol=2e-5 * np.abs(straight).max())


@pytest.mark.parametrize("name", DIRECT)
def test_a_point_source_keeps_its_strength(name):
    grid = Grid((40, 40, 40))
    chi = np.zeros((40, 40, 40))
    chi[20, 20, 20] = 1.0
    mask = np.ones(grid.shape, bool)
    field = np.fft.ifftn(np.fft.fftn(chi) * dipole64((40, 40, 40), grid.voxel_mm, grid.b0_dir)).real
    got = run(name, field.astype(np.float32), mask, grid, 0.15)
    assert got[20, 20, 20] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["tkd", "tsvd", "tikhonov"])
def test_strength_is_one_factor(name):
    grid = Grid((20, 22, 24))
    field = np.random.default_rng(6).standard_normal(grid.shape).astype(np.float32)
    mask = np.ones(grid.shape, bool)
    option = {"regularisation": 0.02} if name == "tikhonov" else {"threshold": 0.15}
    corrected, filtered = (METHODS[name](field, mask, grid, strength=s, **option) for s in ("corrected", "filtered"))
    factor = float((filtered * corrected).sum() / (corrected**2).sum())
    assert 0.5 < factor < 0.9
    np.testing.assert_allclose(filtered, factor * corrected, atol=1e-5 * np.abs(filtered).max())


def test_gradient_penalty_smooths_more_than_identity():
    grid = Grid((24, 24, 24))
    rng = np.random.default_rng(4)
    field = rng.standard_normal(grid.shape).astype(np.float32)
    mask = np.ones(grid.shape, bool)
    rough = []
    for penalty in ("identity", "gradient"):
        chi = METHODS["tikhonov"](field, mask, grid, regularisation=0.1, penalty=penalty)
        rough.append(np.abs(np.diff(chi, axis=0)).sum() / np.abs(chi).sum())
    assert rough[1] < rough[0]


def test_refusals():
    grid = Grid((8, 8, 8))
    field, mask = np.zeros(grid.shape, np.float32), np.ones(grid.shape, bool)
    for name in DIRECT:
        with pytest.raises(ReconstructionError, match="mask is empty"):
            METHODS[name](field, np.zeros_like(mask), grid)
        with pytest.raises(ShapeError, match="local_ppm"):
            METHODS[name](field[1:], mask, grid)
    for name in ("tkd", "tsvd", "sdi"):
        with pytest.raises(UsageError, match=name):
            METHODS[name](field, mask, grid, threshold=0.0)
    for name in ("tkd", "tsvd", "tikhonov"):
        with pytest.raises(UsageError, match="strength"):
            METHODS[name](field, mask, grid, strength="full")
    with pytest.raises(UsageError, match="penalty"):
        METHODS["tikhonov"](field, mask, grid, penalty="curl")
    with pytest.raises(UsageError, match="auto"):
        METHODS["tikhonov"](field, mask, grid, regularisation=-1.0)


def test_automatic_ridge_follows_the_noise_and_is_recorded():
    grid = Grid((32, 32, 32))
    rng = np.random.default_rng(5)
    mask = np.ones(grid.shape, bool)
    smooth = np.sin(np.arange(32) / 5)[:, None, None] * np.ones(grid.shape) * 0.05
    used = []
    for noise in (0.005, 0.02):
        field = (smooth + noise * rng.standard_normal(grid.shape)).astype(np.float32)
        METHODS["tikhonov"](field, mask, grid, record=lambda key, value: used.append((key, value)))
    assert [key for key, _ in used] == ["regularisation"] * 2
    for (_, value), noise in zip(used, (0.005, 0.02), strict=True):
        spread = np.hypot(smooth.std(), noise)
        assert value == pytest.approx(0.28 * noise * np.sqrt(4 / 45) / spread, rel=0.1)


def test_automatic_ridge_of_a_field_without_noise_is_the_floor():
    grid = Grid((24, 24, 24))
    smooth = (np.sin(np.arange(24) / 5)[:, None, None] * np.ones(grid.shape) * 0.05).astype(np.float32)
    used = {}
    METHODS["tikhonov"](smooth, np.ones(grid.shape, bool), grid, record=used.__setitem__)
    assert used["regularisation"] == FLOOR
