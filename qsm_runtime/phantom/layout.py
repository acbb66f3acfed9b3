"""How the fine grid that a head is painted on lies over the grid of its scan."""

from dataclasses import dataclass

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import smooth_size

HEAD_MM = (166.0, 202.0, 160.0)  # least field of view that holds a head of ordinary size
TOP_MM = 89.0  # of the head above its origin
MARGIN_MM = 12.0  # of head beyond the field of view kept in full detail
BLOCK_MM = 4.0  # edge of the blocks that far fields are computed on

Triple = tuple[int, int, int]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """factor     fine voxels a scan voxel, along each axis
    shape      of the fine grid, the field of view and a margin; a multiple of `block`
    inner      the field of view in it
    block      fine voxels a block
    step_mm    of the fine grid
    scale      mm in the scan for a mm of the head: under 1 where the field of view is too small for one
    origin_mm  head coordinates of fine voxel (0, 0, 0)
    """

    factor: Triple
    shape: Triple
    inner: tuple[slice, slice, slice]
    block: Triple
    step_mm: Vector
    scale: float
    origin_mm: Vector

    @classmethod
    def of(cls, grid: Grid, oversample: int) -> "Layout":
        """Cover `grid` with fine voxels: `oversample` along the shortest edge, more along longer ones."""
        fov = tuple(n * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True))
        scale = min(1.0, *(f / need for f, need in zip(fov, HEAD_MM, strict=True)))
        edge = max(min(grid.voxel_mm), scale)
        # the brain sits high in a tall field of view, and right under the top of a low one
        lift = min(14.0, fov[2] / scale / 2 - TOP_MM)
        axes = []
        for n, v, f, middle in zip(grid.shape, grid.voxel_mm, fov, (0.0, 0.0, -lift), strict=True):
            factor = int(np.clip(round(oversample * v / edge), oversample, 4 * oversample))
            step = v / factor
            block = max(1, round(BLOCK_MM * scale / step))
            margin = int(np.ceil(MARGIN_MM * scale / v)) * factor
            shape = block * smooth_size(-(-(n * factor + 2 * margin) // block))
            origin = middle + ((0.5 - margin) * step - f / 2) / scale
            axes.append((factor, shape, slice(margin, margin + n * factor), block, step, origin))
        factors, shapes, inner, blocks, steps, origins = zip(*axes, strict=True)
        return cls(factors, shapes, inner, blocks, steps, scale, origins)

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Head coordinates of the fine voxels along each axis, in mm."""
        x, y, z = (
            o + np.arange(n) * s / self.scale for o, n, s in zip(self.origin_mm, self.shape, self.step_mm, strict=True)
        )
        return x, y, z

    def block_lines(self, below: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Head coordinates of the blocks' centres, with `below` more blocks under the lowest."""
        lines = []
        for line, b, extra in zip(self.lines(), self.block, (0, 0, below), strict=True):
            step = line[1] - line[0]
            lines.append(line[0] + (b - 1) / 2 * step + np.arange(-extra, line.size // b) * (b * step))
        x, y, z = lines
        return x, y, z
