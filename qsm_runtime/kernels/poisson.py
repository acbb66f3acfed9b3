"""Poisson's equation in a mask of any shape, u = 0 around it: conjugate gradients on a multigrid V-cycle.

Source: McAdams, Sifakis and Teran 2010, 10.2312/SCA/SCA10/065-073 (multigrid as preconditioner in irregular domains).
    sum_a (u(r + e_a) - 2 u(r) + u(r - e_a)) / v_a^2 = rhs(r)  in the mask,   u = 0 elsewhere

A coarse cell holds two fine cells an axis and belongs to the coarse mask where all of them belong to the fine one;
coarse operators are the same stencil at the coarse spacing. Long axes wait until the short ones have caught up, so
point relaxation smooths anisotropic voxels too. Residuals go down by the transpose of trilinear interpolation and
relaxation is red-black Gauss-Seidel, in the opposite order on the way up, which keeps the cycle symmetric.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.cg import cg
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.kernels.laplacian import mask_spans, minus_laplacian_spans

COARSEST_SWEEPS = 16
SWEEPS = 1  # of both colours, before and after each visit to a coarser grid
LONG = 1.5  # an axis this many times longer than the shortest is not coarsened yet


@njit(parallel=True, cache=True)
def _residual(u, rhs, mask, spans, wx, wy, wz, out):
    """out = rhs + Laplacian u in the mask, 0 elsewhere."""
    for i in prange(u.shape[0]):
        for j in range(u.shape[1]):
            out[i, j] = 0
            for k in range(spans[i, j, 0], spans[i, j, 1]):
                centre = u[i, j, k]
                across = wx * ((u[i - 1, j, k] - centre) + (u[i + 1, j, k] - centre))
                across += wy * ((u[i, j - 1, k] - centre) + (u[i, j + 1, k] - centre))
                across += wz * ((u[i, j, k - 1] - centre) + (u[i, j, k + 1] - centre))
                out[i, j, k] = rhs[i, j, k] + across if mask[i, j, k] else np.float32(0)


@njit(parallel=True, cache=True)
def _relax(u, rhs, mask, spans, wx, wy, wz, colour):
    """Solve -Laplacian u = rhs for each mask voxel of one colour, its neighbours being of the other."""
    weight = np.float32(0.5) / (wx + wy + wz)
    for i in prange(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            lo = spans[i, j, 0]
            for k in range(lo + (np.int64(i) + j + lo + colour) % 2, spans[i, j, 1], 2):
                if mask[i, j, k]:
                    u[i, j, k] = weight * (
                        rhs[i, j, k]
                        + wx * (u[i - 1, j, k] + u[i + 1, j, k])
                        + wy * (u[i, j - 1, k] + u[i, j + 1, k])
                        + wz * (u[i, j, k - 1] + u[i, j, k + 1])
                    )


@njit(parallel=True, cache=True)
def _restrict(fine, mask, fx, fy, fz, coarse):
    """Coarse right-hand side: 1/8 (1 3 3 1) of the residual along each axis whose factor is 2."""
    full = np.array([0.125, 0.375, 0.375, 0.125], np.float32)
    one = np.array([1.0], np.float32)
    tx, ty = full if fx == 2 else one, full if fy == 2 else one
    # the coarse array may end in one more unused voxel, to make its size even
    nx = fine.shape[0] // 2 if fx == 2 else coarse.shape[0] - 1
    ny = fine.shape[1] // 2 if fy == 2 else coarse.shape[1] - 1
    nz = fine.shape[2] // 2 if fz == 2 else coarse.shape[2] - 1
    for i in prange(1, nx):
        row = np.empty(fine.shape[2], np.float32)
        for j in range(1, ny):
            row[:] = 0
            for a in range(tx.size):
                for b in range(ty.size):
                    w = tx[a] * ty[b]
                    source = fine[2 * i - 2 + a if fx == 2 else i, 2 * j - 2 + b if fy == 2 else j]
                    for k in range(row.size):
                        row[k] += w * source[k]
            for k in range(1, nz):
                if not mask[i, j, k]:
                    coarse[i, j, k] = 0
                elif fz == 2:
                    coarse[i, j, k] = full[0] * (row[2 * k - 2] + row[2 * k + 1]) + full[1] * (
                        row[2 * k - 1] + row[2 * k]
                    )
                else:
                    coarse[i, j, k] = row[k]


@njit(parallel=True, cache=True)
def _add_interpolated(coarse, fx, fy, fz, mask, spans, fine):
    """fine += trilinear interpolation of `coarse`, in the fine mask."""
    near, far = np.float32(0.75), np.float32(0.25)
    for i in prange(1, fine.shape[0] - 1):
        row = np.empty(coarse.shape[2], np.float32)
        fi = np.int64(i)  # numba's prange counts in uint64
        ci = (fi + 1) // 2 if fx == 2 else fi
        oi = (ci + 1 if fi % 2 == 0 else ci - 1) if fx == 2 else ci
        for j in range(1, fine.shape[1] - 1):
            lo, hi = spans[i, j, 0], spans[i, j, 1]
            if lo >= hi:
                continue
            cj = (j + 1) // 2 if fy == 2 else j
            oj = (cj + 1 if j % 2 == 0 else cj - 1) if fy == 2 else cj
            for k in range(row.size):
                row[k] = near * (near * coarse[ci, cj, k] + far * coarse[ci, oj, k]) + far * (
                    near * coarse[oi, cj, k] + far * coarse[oi, oj, k]
                )
            for k in range(lo, hi):
                if mask[i, j, k]:
                    if fz == 2:
                        ck = (k + 1) // 2
                        fine[i, j, k] += near * row[ck] + far * row[ck + 1 if k % 2 == 0 else ck - 1]
                    else:
                        fine[i, j, k] += row[k]


class _Level:
    """One grid of the hierarchy. Arrays have a rim that never belongs to the mask, and even sizes.

    u, rhs  of the coarser grids; on the finest they are the solver's own
    """

    u: np.ndarray
    rhs: np.ndarray

    def __init__(self, mask: np.ndarray, voxel_mm: tuple[float, ...]) -> None:
        self.mask = mask
        self.voxel_mm = voxel_mm
        self.spans = mask_spans(mask)
        self.weights = tuple(np.float32(1.0 / v**2) for v in voxel_mm)
        self.factors = tuple(
            2 if v < LONG * min(voxel_mm) and n > 4 else 1 for v, n in zip(voxel_mm, mask.shape, strict=True)
        )
        self.work = np.zeros(mask.shape, np.float32)

    def coarser(self) -> "_Level":
        """The next grid: a cell belongs to its mask where all the fine cells in it do."""
        inner = self.mask[1:-1, 1:-1, 1:-1]
        for axis, factor in enumerate(self.factors):
            if factor == 2:
                even, odd = (inner[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
                inner = even & odd
        level = _Level(_with_rim(inner), tuple(v * f for v, f in zip(self.voxel_mm, self.factors, strict=True)))
        level.u, level.rhs = (np.zeros(level.mask.shape, np.float32) for _ in range(2))
        return level

    def minus_laplacian(self, u: np.ndarray, out: np.ndarray) -> None:
        wx, wy, wz = self.weights
        minus_laplacian_spans(u, self.mask, self.spans, wx, wy, wz, out)

    def relax(self, u: np.ndarray, rhs: np.ndarray, colour: int) -> None:
        wx, wy, wz = self.weights
        _relax(u, rhs, self.mask, self.spans, wx, wy, wz, colour)


def _with_rim(mask: np.ndarray) -> np.ndarray:
    """`mask` with a rim of False one voxel wide, two at the far end of an odd axis."""
    return np.pad(mask, [(1, 1 + n % 2) for n in mask.shape])


class PoissonSolver:
    """-Laplacian u = rhs in a mask, u = 0 around it; built once, it solves for any right-hand side.

    mask      bool (x, y, z); beyond the array u is 0 too
    voxel_mm  spacings in mm
    """

    def __init__(self, mask: np.ndarray, voxel_mm: tuple[float, float, float]) -> None:
        self.box = box_of(mask)
        self.shape = mask.shape
        self.levels = [_Level(_with_rim(mask[self.box.slices]), tuple(float(v) for v in voxel_mm))]
        while max(self.levels[-1].factors) == 2:
            coarse = self.levels[-1].coarser()
            if not coarse.mask.any():
                break
            self.levels.append(coarse)

    def cycle(self, rhs: np.ndarray, u: np.ndarray, depth: int = 0) -> None:
        """u <- one V-cycle for `rhs` from zero, a symmetric approximation of the inverse."""
        level = self.levels[depth]
        u.fill(0)
        if depth + 1 == len(self.levels):
            for sweep in range(2 * COARSEST_SWEEPS):
                level.relax(u, rhs, sweep % 2)
            for sweep in range(2 * COARSEST_SWEEPS):
                level.relax(u, rhs, 1 - sweep % 2)
            return
        coarse = self.levels[depth + 1]
        for sweep in range(2 * SWEEPS):
            level.relax(u, rhs, sweep % 2)
        (wx, wy, wz), (fx, fy, fz) = level.weights, level.factors
        _residual(u, rhs, level.mask, level.spans, wx, wy, wz, level.work)
        _restrict(level.work, coarse.mask, fx, fy, fz, coarse.rhs)
        self.cycle(coarse.rhs, coarse.u, depth + 1)
        _add_interpolated(coarse.u, fx, fy, fz, level.mask, level.spans, u)
        for sweep in range(2 * SWEEPS):
            level.relax(u, rhs, 1 - sweep % 2)

    def solve(
        self,
        rhs: np.ndarray,
        *,
        tolerance: float = 1e-5,
        max_iterations: int = 50,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[np.ndarray, int]:
        """u (float32, the mask's shape) and the iterations taken until |residual| <= tolerance |rhs|."""
        level = self.levels[0]
        inner = tuple(slice(1, 1 + n) for n in self.box.size)

        def with_rim() -> np.ndarray:
            out = np.zeros(level.mask.shape, np.float32)
            np.multiply(rhs[self.box.slices], level.mask[inner], out=out[inner])
            return out

        u, iterations = cg(
            level.minus_laplacian,
            with_rim(),
            tolerance=tolerance,
            max_iterations=max_iterations,
            precondition=self.cycle,
            progress=progress,
        )
        out = np.zeros(self.shape, np.float32)
        out[self.box.slices] = u[inner]
        return out, iterations
