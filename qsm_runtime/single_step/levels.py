"""From the full grid to one of coarser voxels and back: where smooth parts of a solution are cheap to find."""

from typing import NamedTuple

import numpy as np

MOST = 0.8  # share of a block's voxels whose field must be known
TINY = np.float32(1e-12)
LONG = 1.5  # an axis this many times longer than the shortest is left as it is


class Level(NamedTuple):
    """Field, weight and mask on one grid, its voxel size, and how many voxels of the next finer grid it joins an axis."""

    field: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    voxel_mm: tuple[float, float, float]
    factors: tuple[int, int, int]


def _blocks(x: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """`x` padded with zeros and cut into blocks: (nx, fx, ny, fy, nz, fz)."""
    padded = np.pad(x, [(0, -n % f) for n, f in zip(x.shape, factors, strict=True)])
    return padded.reshape([s for n, f in zip(padded.shape, factors, strict=True) for s in (n // f, f)])


def coarser(level: Level) -> Level:
    """Block means: the field weighted, where most of a block has weight, the mask where any of it is in it."""
    field, weight, mask, voxel_mm, _ = level
    shortest = min(voxel_mm)
    fx, fy, fz = (2 if v < LONG * shortest else 1 for v in voxel_mm)
    factors = (fx, fy, fz)
    held = _blocks(weight > 0, factors).mean(axis=(1, 3, 5), dtype=np.float32)
    mean_weight = _blocks(weight, factors).mean(axis=(1, 3, 5))
    mean_field = _blocks(weight * field, factors).mean(axis=(1, 3, 5)) / np.maximum(mean_weight, TINY)
    whole = held > MOST
    vx, vy, vz = (v * f for v, f in zip(voxel_mm, factors, strict=True))
    zero = np.float32(0)
    return Level(
        np.where(whole, mean_field, zero), np.where(whole, mean_weight, zero),
        _blocks(mask, factors).any(axis=(1, 3, 5)), (vx, vy, vz), factors,
    )  # fmt: skip


def finer(x: np.ndarray, factors: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """`x` on the fine grid of `shape`: each voxel takes its block's value."""
    for axis, factor in enumerate(factors):
        x = np.repeat(x, factor, axis) if factor > 1 else x
    return np.ascontiguousarray(x[tuple(slice(n) for n in shape)])
