"""From the full grid to ones of coarser voxels and back: smooth parts of a solution are cheap to find there."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qsm_runtime.errors import UsageError

LONG = 1.5  # an axis this many times longer than the shortest is left as it is
MOST = 0.8  # share of a block's voxels whose field must be known
SMALLEST = 16  # voxels along an axis, below which a grid is not made coarser
TINY = np.float32(1e-12)


class Level(NamedTuple):
    """Field, weight and mask on one grid, its voxel size, and the next finer grid's voxels in one of its own."""

    field: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    voxel_mm: tuple[float, float, float]
    factors: tuple[int, int, int]

    @property
    def edge_mm(self) -> float:
        return float(np.prod(self.voxel_mm)) ** (1 / 3)


def _blocks(x: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """`x` padded with zeros and cut into blocks: (nx, fx, ny, fy, nz, fz)."""
    padded = np.pad(x, [(0, -n % f) for n, f in zip(x.shape, factors, strict=True)])
    return padded.reshape([s for n, f in zip(padded.shape, factors, strict=True) for s in (n // f, f)])


def coarser(level: Level) -> Level:
    """Block means: the field weighted, where most of a block has weight, the mask where any of it is in it."""
    field, weight, mask, voxel_mm, _ = level
    fx, fy, fz = (2 if v < LONG * min(voxel_mm) else 1 for v in voxel_mm)
    factors = (fx, fy, fz)
    held = _blocks(weight > 0, factors).mean(axis=(1, 3, 5), dtype=np.float32)
    mean_weight = _blocks(weight, factors).mean(axis=(1, 3, 5))
    mean_field = _blocks(weight * field, factors).mean(axis=(1, 3, 5)) / np.maximum(mean_weight, TINY)
    vx, vy, vz = (v * f for v, f in zip(voxel_mm, factors, strict=True))
    zero, known = np.float32(0), held > MOST
    return Level(
        np.where(known, mean_field, zero), np.where(known, mean_weight, zero),
        np.asarray(_blocks(mask, factors).any(axis=(1, 3, 5))), (vx, vy, vz), factors,
    )  # fmt: skip


def finer(x: np.ndarray, factors: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """`x` on the fine grid of `shape`: each voxel takes its block's value."""
    for axis, factor in enumerate(factors):
        x = np.repeat(x, factor, axis) if factor > 1 else x
    return np.ascontiguousarray(x[tuple(slice(n) for n in shape)])


def count_at(iterations: tuple[int, ...], edge_mm: float) -> int:
    """Iterations on voxels of `edge_mm`; `iterations` are those of ..., 4, 2, 1 mm."""
    place = len(iterations) - 1 - np.log2(edge_mm)
    return round(float(np.interp(place, np.arange(len(iterations)), iterations)))


def coarse_to_fine(
    full: Level,
    iterations: tuple[int, ...],
    solve: Callable[[Level, int, np.ndarray | None], np.ndarray],
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """`solve(level, count, start)` on as many grids as `iterations` has, coarsest first, each starting from the last.

    The counts are those of voxels of ..., 4, 2, 1 mm, the last for 1 mm and finer: what a grid has to settle is a
    matter of the size of things, not of how many grids lie below it. Other voxels take what lies between.
    Raises UsageError unless `iterations` holds one or more counts of 1 or more.
    """
    if not iterations or min(iterations) < 1:
        raise UsageError(f"iterations must be one or more counts of 1 or more, got {iterations}")
    grids = [full]
    while len(grids) < len(iterations) and min(grids[-1].mask.shape) > SMALLEST:
        grids.append(coarser(grids[-1]))
    counts = [count_at(iterations, level.edge_mm) for level in grids]
    work = [n * level.mask.size for n, level in zip(counts, grids, strict=False)]
    x = None
    for depth in range(len(grids) - 1, 0, -1):
        x = finer(solve(grids[depth], counts[depth], x), grids[depth].factors, grids[depth - 1].mask.shape)
        if progress is not None:
            progress(sum(work[depth:]) / sum(work))
    x = solve(full, counts[0], x)
    if progress is not None:
        progress(1.0)
    return x
