"""Bulk susceptibility and local anisotropy side by side: the generalised Lorentzian tensor approach.

Source: Yablonskiy and Sukstanskii 2015, 10.1002/mrm.25538; He and Yablonskiy 2009, 10.1073/pnas.0904899106.
    F_i(k) = D_i(k) X(k) + b_i^T L(k) b_i
A scalar bulk susceptibility X acts as a dipole; the Lorentzian tensor L of a tissue's own structure acts in its own
voxel alone. Both are quadratic forms in b (D_i = b_i^T A b_i, A = I/3 - k k^T/|k|^2), so the orientations measure
T = A X + L, and which part is bulk is settled by the smallest L that explains the fields:
    X = <A, T> / <A, A>,  <A, A> = 2/3,        L = T - A X,        X(0) = 0
"""

from typing import NamedTuple

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, embed, extract
from qsm_runtime.orientation.geometry import PAIRS
from qsm_runtime.orientation.inputs import checked_orientations, fit_quadratic_form


class BulkAndLorentz(NamedTuple):
    """Bulk susceptibility, float32 (x, y, z), and Lorentzian tensor, float32 (6, x, y, z), xx xy xz yy yz zz; ppm."""

    chi_ppm: np.ndarray
    lorentz_ppm: np.ndarray


def glta(local_ppm: np.ndarray, mask: np.ndarray, grid: Grid, *, b0_dirs: np.ndarray) -> BulkAndLorentz:
    """Bulk susceptibility and the tensor of local anisotropy in ppm, zero outside the mask.

    local_ppm  float32 (n, x, y, z): local fields in one frame, n >= 6
    mask       bool (x, y, z), where all of them are valid
    b0_dirs    (n, 3): direction of B0 in the axes of that frame, a scan each
    Raises InputError where the orientations are too few or do not determine a tensor, ShapeError.
    """
    directions = checked_orientations(local_ppm, mask, grid, b0_dirs, "glta")
    lorentz = fit_quadratic_form(local_ppm, directions, mask)
    nx, ny, nz = box_of(mask).size
    box = box_of(mask, (nx // 4, ny // 4, nz // 4))
    plan = fft.plan(box.fft_shape)
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(box.fft_shape[:2], grid.voxel_mm[:2], strict=True))
    k = np.meshgrid(kx, ky, np.fft.rfftfreq(box.fft_shape[2], grid.voxel_mm[2]), indexing="ij", sparse=True)
    k2 = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k2[0, 0, 0] = np.inf
    bulk = np.zeros(plan.half_shape, np.complex64)
    # a Nyquist sample stands for +k and -k at once: products with the other axes average to nothing there
    odd = [np.where(np.abs(f) * v < 0.5, f, 0) for f, v in zip(k, grid.voxel_mm, strict=True)]
    parts = [((a == b) / 3.0 - (k[a] ** 2 if a == b else odd[a] * odd[b]) / k2).astype(np.float32) for a, b in PAIRS]
    for (a, b), part, component in zip(PAIRS, parts, lorentz, strict=True):
        bulk += (1.0 if a == b else 2.0) * 1.5 * part * plan.forward(embed(component, box, plan.real))
    bulk[0, 0, 0] = 0
    for part, component in zip(parts, lorentz, strict=True):
        np.multiply(bulk, part * np.float32(plan.scale), out=plan.spectrum)
        component -= extract(plan.inverse(), box, grid.shape) * mask
    np.multiply(bulk, np.float32(plan.scale), out=plan.spectrum)
    return BulkAndLorentz(extract(plan.inverse(), box, grid.shape) * mask, lorentz)
