"""HARPERELLA against its stated problem in plain float64: what surrounds the mask is found by conjugate gradients."""

import numpy as np
import pytest

from qsm_runtime.background import harperella
from qsm_runtime.background.harperella import ROOM
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.sphere import sphere_kernel

GRID = Grid((23, 20, 18), (1.0, 1.2, 1.4))
RADIUS_MM = 4.0


def scene():
    """Total field of a source inside an ellipsoid and of one outside it, and the mask."""
    at = [(i - (n - 1) / 2) * v for i, n, v in zip(np.indices(GRID.shape), GRID.shape, GRID.voxel_mm, strict=True)]
    mask = (at[0] / 9.5) ** 2 + (at[1] / 9.5) ** 2 + (at[2] / 10) ** 2 < 1

    def dipole(x, y, z, moment):
        away = [a - c for a, c in zip(at, (x, y, z), strict=True)]
        r2 = np.maximum(sum(a * a for a in away), 4.0)
        return moment * (3 * away[2] ** 2 / r2 - 1) / r2**1.5

    return np.where(mask, dipole(1, -2, 2, 1.0) + dipole(14, 3, -12, 400.0), 0).astype(np.float32), mask


def reference(field, mask, iterations):
    """f_local = L^-1 (M L f + q), q outside M: iterations on min |(1 - M) S L^-1 (M L f + q)|^2."""
    lo, hi = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
    inner, size = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True)), tuple(int(n) for n in hi - lo)
    shape = padded_shape(size, tuple(int(np.ceil(ROOM * RADIUS_MM / v)) for v in GRID.voxel_mm))

    def pad(x):
        out = np.zeros(shape)
        out[tuple(slice(n) for n in size)] = x[inner]
        return out

    def filtered(x, h):
        return np.fft.irfftn(np.fft.rfftn(x) * h, shape, axes=(0, 1, 2))

    f = pad(np.where(mask, field - field[mask].astype(float).mean(), 0))
    wide = np.pad(mask, 1)
    valid = mask.copy()
    for axis in range(3):
        valid &= (np.roll(wide, 1, axis) & np.roll(wide, -1, axis))[1:-1, 1:-1, 1:-1]
    inside = pad(valid) > 0
    laplacian = sum(
        (np.roll(f, 1, a) - 2 * f + np.roll(f, -1, a)) / v**2 for a, v in zip(range(3), GRID.voxel_mm, strict=True)
    )
    axes = [-((2 * np.sin(np.pi * np.fft.fftfreq(n)) / v) ** 2) for n, v in zip(shape, GRID.voxel_mm, strict=True)]
    below = axes[0][:, None, None] + axes[1][:, None] + axes[2][: shape[2] // 2 + 1]
    below[0, 0, 0] = np.inf
    smooth = sphere_kernel(shape, GRID.voxel_mm, RADIUS_MM).astype(float) / below

    def misfit(source):
        return np.where(inside, 0, filtered(source, smooth))

    known = np.where(inside, laplacian, 0)
    q, r = np.zeros(shape), -misfit(misfit(known))
    p, before = r.copy(), (r * r).sum()
    start = np.linalg.norm(misfit(known))
    for _ in range(iterations):
        hessian = misfit(misfit(p))
        alpha = before / (p * hessian).sum()
        q, r = q + alpha * p, r - alpha * hessian
        p, before = r + (r * r).sum() / before * p, (r * r).sum()
    local = np.zeros(GRID.shape)
    local[inner] = filtered(known + q, 1 / below)[tuple(slice(n) for n in size)]
    return np.where(valid, local, 0), valid, np.linalg.norm(misfit(known + q)) / start


@pytest.mark.parametrize("iterations", [1, 6])
def test_harperella(iterations):
    field, mask = scene()
    want, valid, left = reference(field, mask, iterations)
    assert left < (0.9 if iterations == 1 else 0.5)
    got, got_valid = harperella(field, mask, GRID, radius_mm=RADIUS_MM, max_iterations=iterations)
    np.testing.assert_array_equal(got_valid, valid)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
