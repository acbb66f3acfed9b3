"""Calculation of susceptibility through multiple orientation sampling: least squares over the orientations.

Source: Liu, Spincemaille, de Rochefort, Kressler and Wang 2009, 10.1002/mrm.21828.
    X(k) = sum_i D_i(k) F_i(k) / sum_i D_i(k)^2,       X(0) = 0
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, embed, extract, multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.orientation.geometry import dipole_power
from qsm_runtime.orientation.inputs import checked_orientations


def cosmos(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    b0_dirs: np.ndarray,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm: float32 (x, y, z), zero outside the mask.

    local_ppm  float32 (n, x, y, z): local fields in one frame, n >= 3
    mask       bool (x, y, z), where all of them are valid
    b0_dirs    (n, 3): direction of B0 in the axes of that frame, a scan each
    Raises InputError where the orientations are too few or too much alike, ShapeError.
    """
    directions = checked_orientations(local_ppm, mask, grid, b0_dirs, "cosmos")
    if record is not None:
        record("least_dipole_power", dipole_power(directions)[0])
    nx, ny, nz = box_of(mask).size
    box = box_of(mask, (nx // 4, ny // 4, nz // 4))
    plan = fft.plan(box.fft_shape)
    above, below = plan.new_spectrum(), np.zeros(plan.half_shape, np.float32)
    above.fill(0)
    for done, (field, direction) in enumerate(zip(local_ppm, directions, strict=True)):
        dipole = dipole_kernel(box.fft_shape, grid.voxel_mm, tuple(direction))
        plan.forward(embed(np.where(mask, field, 0).astype(np.float32), box, plan.real))
        multiply(plan.spectrum, dipole)
        above += plan.spectrum
        below += dipole * dipole
        if progress is not None:
            progress((done + 1) / len(directions))
    below[0, 0, 0] = 1
    multiply(above, np.float32(plan.scale) / below)
    return extract(plan.inverse(above), box, grid.shape) * mask
