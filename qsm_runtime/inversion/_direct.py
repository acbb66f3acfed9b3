"""What the direct methods share: crop to the mask, one transform, one real filter, one transform back.

chi = F^-1 (H F (mask f)) / c, with H ~ 1/D given by the method and c = mean of D H, the strength that a point
source keeps (Schweser 2013, 10.1002/mrm.24405): without it every direct method underestimates. What an elongated
object keeps depends on how it lies to B0, and is c only on average: nuclei end up within some 10 % of their value.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box, box_of, embed, extract, multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import Plan, plan

Strength = Literal["corrected", "filtered"]
MARGIN_MM = 16.0  # zeros beyond the mask: keeps the periodic images of the sources away
DIRECT_MARGIN_MM = 40.0  # where one transform pair is all: nothing else undoes what the images do


def part(progress: Callable[[float], None] | None, first: float, last: float) -> Callable[[float], None] | None:
    """`progress` for a part of the work that runs from `first` to `last` of the whole."""
    if progress is None:
        return None
    return lambda done: progress(first + (last - first) * done)


def check(local_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
    """Shapes fit and the mask is not empty."""
    grid.check(local_ppm, "local_ppm")
    grid.check(mask, "mask")
    if not mask.any():
        raise ReconstructionError("the mask is empty: there is nothing to invert; check the masking step")


def crop(mask: np.ndarray, grid: Grid, margin_mm: float = MARGIN_MM) -> tuple[Box, Plan]:
    """The mask's box padded by `margin_mm`, and its transform."""
    margin_x, margin_y, margin_z = (int(np.ceil(margin_mm / v)) for v in grid.voxel_mm)
    box = box_of(mask, (margin_x, margin_y, margin_z))
    return box, plan(box.fft_shape)


def invert(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    inverse: Callable[[np.ndarray, float, int], float],
    strength: Strength = "corrected",
) -> np.ndarray:
    """`inverse(d, scale, last_size)` turns the dipole into scale * H in place and returns c."""
    check(local_ppm, mask, grid)
    if strength not in ("corrected", "filtered"):
        raise UsageError(f'strength must be "corrected" or "filtered", got {strength!r}')
    box, p = crop(mask, grid, DIRECT_MARGIN_MM)
    embed(
        np.where(mask[box.slices], local_ppm[box.slices], np.float32(0)),
        box._replace(lo=(0, 0, 0), hi=box.size),
        p.real,
    )
    dipole = dipole_kernel(p.shape, grid.voxel_mm, grid.b0_dir)
    kept = inverse(dipole, p.scale, p.shape[2])
    spectrum = p.forward()
    multiply(spectrum, dipole)
    chi = extract(p.inverse(spectrum), box, grid.shape)
    chi *= mask
    if strength == "corrected":
        chi /= np.float32(kept)
    return chi
