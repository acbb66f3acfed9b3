"""Each method against its paper's equation in plain float64 NumPy on a small volume, without the repetitions."""

import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve

from qsm_runtime.background import ismv, lbv, resharp, sharp, vsharp
from qsm_runtime.background.sources import DELTA, Sources, sources_box
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import sphere_fits, sphere_kernel, sphere_weights

SHAPE, VOXEL_MM, RADIUS_MM = (24, 22, 20), (1.0, 1.1, 1.3), 3.0
GRID = Grid(SHAPE, VOXEL_MM)


@pytest.fixture(scope="module")
def mask():
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in SHAPE), indexing="ij")
    return (x / 10.5) ** 2 + (y / 9.5) ** 2 + (z / 8.5) ** 2 < 1


@pytest.fixture(scope="module")
def field(mask):
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    field = np.where(mask, noise + 4 * np.linspace(-1, 1, SHAPE[0])[:, None, None] ** 3, 0)
    return np.where(mask, field - field[mask].mean(), 0)


def padded(x, by=12):
    return np.pad(x.astype(float), [(0, by)] * 3)


def filtered(x, filter_):
    return np.fft.irfftn(np.fft.rfftn(x) * filter_, x.shape, axes=(0, 1, 2))


def cropped(x):
    return x[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def ball(radius_mm, shape):
    return sphere_kernel(shape, VOXEL_MM, radius_mm).astype(float)


def fits(mask, radius_mm):
    return sphere_fits(mask, distance_inside(mask, VOXEL_MM), VOXEL_MM, radius_mm)


def test_sharp(mask, field):
    """The reference is periodic over another box, so only filters of short reach agree: a high threshold."""
    local, valid = sharp(field.astype(np.float32), mask, GRID, radius_mm=RADIUS_MM, threshold=0.6, source_passes=0)
    f = padded(field)
    s = ball(RADIUS_MM, f.shape)
    np.testing.assert_array_equal(valid, fits(mask, RADIUS_MM))
    inner = padded(valid) > 0
    difference = np.where(inner, f - filtered(f, s), 0)
    expected = filtered(difference, np.where(np.abs(1 - s) < 0.6, 0, 1 / np.where(s == 1, 2, 1 - s)))
    scale = np.abs(cropped(expected)[valid]).max()
    np.testing.assert_allclose(local[valid], cropped(expected)[valid], atol=0.05 * scale)
    assert np.corrcoef(local[valid], cropped(expected)[valid])[0, 1] > 0.9995


def test_vsharp(mask, field):
    local, valid = vsharp(
        field.astype(np.float32), mask, GRID, radius_mm=4.0, smallest_radius_mm=2.0, threshold=0.6, source_passes=0
    )
    f = padded(field)
    difference, todo = np.zeros(f.shape), np.ones(f.shape, bool)
    for radius_mm in (4.0, 3.0, 2.0):
        here = todo & (padded(fits(mask, radius_mm)) > 0)
        difference[here] = (f - filtered(f, ball(radius_mm, f.shape)))[here]
        todo &= ~here
    s = ball(4.0, f.shape)
    expected = cropped(filtered(difference, np.where(np.abs(1 - s) < 0.6, 0, 1 / np.where(s == 1, 2, 1 - s))))
    np.testing.assert_array_equal(valid, fits(mask, 2.0))
    np.testing.assert_allclose(local[valid], expected[valid], atol=0.05 * np.abs(expected[valid]).max())
    assert np.corrcoef(local[valid], expected[valid])[0, 1] > 0.9995


def spatial(radius_mm):
    """The ball in space, its centre in the middle."""
    weights = sphere_weights(VOXEL_MM, radius_mm)
    for axis in range(3):
        weights = np.concatenate([np.flip(weights, axis), np.delete(weights, 0, axis)], axis)
    return weights


def test_resharp(mask, field):
    """The normal equations must hold: (d - S)' M (d - S) (x - f) + lambda x = 0."""
    regularisation, kernel = 0.05, spatial(RADIUS_MM)
    local, valid = resharp(
        field.astype(np.float32),
        mask,
        GRID,
        radius_mm=RADIUS_MM,
        regularisation=regularisation,
        tolerance=1e-6,
        max_iterations=200,
        source_passes=0,
    )

    def normal(x):
        x = padded(x, 8) if x.shape == SHAPE else x
        difference = np.where(np.pad(valid, [(0, 8)] * 3), x - convolve(x, kernel, mode="constant"), 0)
        return difference - convolve(difference, kernel, mode="constant")

    # x is known where it is valid only, so the reference is solved for: steepest descent converges at this lambda
    rhs = normal(field)
    x = np.zeros_like(rhs)
    for _ in range(400):
        x -= 0.6 * (normal(x) + regularisation * x - rhs)
    np.testing.assert_allclose(local[valid], cropped(x)[valid], atol=2e-4 * np.abs(x).max())


def test_ismv(mask, field):
    local, valid = ismv(
        field.astype(np.float32), mask, GRID, radius_mm=RADIUS_MM, tolerance=1e-6, max_iterations=500, source_passes=0
    )
    background = field.copy()
    for _ in range(500):
        background = np.where(valid, convolve(background, spatial(RADIUS_MM), mode="constant"), field)
    np.testing.assert_allclose(local[valid], (field - background)[valid], atol=1e-4)


def test_lbv(mask, field):
    """Against a direct sparse solution of the same stencil, seven points at the edge and nineteen within."""
    local, valid = lbv(field.astype(np.float32), mask, GRID, source_passes=0, tolerance=1e-6)
    seven, nineteen = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    second = np.array([1.0, -2.0, 1.0])
    along = [second[:, None, None], second[None, :, None], second[None, None, :]]
    unit = [np.array([0.0, 1.0, 0.0]).reshape(a.shape) for a in along]
    w = [1 / v**2 for v in VOXEL_MM]
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        seven += w[a] * along[a] * unit[b] * unit[c]
        nineteen += (w[a] + w[b]) / 12 * along[a] * along[b] * unit[c]
    whole = np.ones(SHAPE, bool)
    for offset in np.argwhere(nineteen) - 1:
        whole &= np.roll(mask, offset, (0, 1, 2))  # the mask does not touch the border
    index = np.cumsum(valid.ravel()).reshape(SHAPE) - 1
    rows, columns, values, rhs = [], [], [], np.zeros(valid.sum())
    for place in np.argwhere(valid):
        stencil = seven + nineteen if whole[tuple(place)] else seven
        for offset in np.argwhere(stencil):
            there = tuple(place + offset - 1)
            rhs[index[tuple(place)]] += stencil[tuple(offset)] * field[there]
            if valid[there]:
                rows.append(index[tuple(place)])
                columns.append(index[there])
                values.append(stencil[tuple(offset)])
    expected = spsolve(coo_matrix((values, (rows, columns))).tocsc(), rhs)
    # the method corrects for the stencil's order once only: a part of the difference between the two is left
    assert np.linalg.norm(local[valid] - expected) < 0.15 * np.linalg.norm(expected)
    zhou = coo_matrix((values, (rows, columns))).tocsr()
    assert np.linalg.norm(zhou @ local[valid] - rhs) < 0.15 * np.linalg.norm(rhs)


def test_field_of_the_sources(mask, field):
    sources = Sources(mask, GRID, sources_box(mask, GRID))
    shape = sources.plan.shape
    d = dipole_kernel(shape, VOXEL_MM, GRID.b0_dir).astype(float)
    f = np.zeros(shape)
    size = sources.box.size
    f[: size[0], : size[1], : size[2]] = field[sources.box.slices]
    chi = filtered(f, d / (d**2 + DELTA))
    inside = np.zeros(shape, bool)
    inside[: size[0], : size[1], : size[2]] = mask[sources.box.slices]
    expected = filtered(np.where(inside, chi, 0), d)[: size[0], : size[1], : size[2]]
    got = sources.field_of(field.astype(np.float32))
    crop = mask[sources.box.slices]
    np.testing.assert_allclose(got[sources.box.slices][crop], expected[crop], atol=1e-5)
    assert not got[~mask].any()
