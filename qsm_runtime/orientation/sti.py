"""Susceptibility tensor imaging: all six components from six or more orientations.

Source: Liu 2010, 10.1002/mrm.22482.
    F_i(k) = b_i^T (X/3) b_i - (b_i.k)(k^T X b_i)/|k|^2 = b_i^T T b_i
    T = (A X + X A)/2,  A = I/3 - P,  P = k k^T/|k|^2
The orientations measure the quadratic form T alone, the same at every k, so it is fitted once to the fields
themselves. T and X share a basis with k as an axis, where A is diagonal (1/3 across k, -2/3 along it), hence
    X = 3 Q T Q - 3/2 P T P - 6 (P T Q + Q T P),    Q = I - P,    X(0) = 0
is the least-squares solution: no matrix is inverted at any k.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import (
    fft,
    threads,  # noqa: F401  (sets the OpenMP wait policy first)
)
from qsm_runtime.kernels.convolve import box_of, embed, extract
from qsm_runtime.orientation.inputs import checked_orientations, fit_quadratic_form


@njit(parallel=True, cache=True, error_model="numpy")
def _tensor_of_form(t, kx, ky, kz, nyquist, scale):
    """t (6, half spectrum) <- X; with PTP = p P, QTP + PTQ from v = T k - p k, QTQ what is left.

    A Nyquist sample stands for +k and -k at once: the mean over both keeps the tensor real.
    """
    for i in prange(kx.size):
        k1, v = np.empty(3), np.empty(3, np.complex128)
        form, total = np.empty(6, np.complex128), np.empty(6, np.complex128)
        for j in range(ky.size):
            for k in range(kz.size):
                norm = np.sqrt(kx[i] ** 2 + ky[j] ** 2 + kz[k] ** 2)
                total[:] = 0
                form[:] = t[:, i, j, k]
                two = i == nyquist[0] or j == nyquist[1] or k == nyquist[2]
                for side in range((2 if two else 1) if norm > 0 else 0):
                    sign = 1.0 - 2.0 * side
                    k1[0] = kx[i] / norm * (sign if i == nyquist[0] else 1.0)
                    k1[1] = ky[j] / norm * (sign if j == nyquist[1] else 1.0)
                    k1[2] = kz[k] / norm * (sign if k == nyquist[2] else 1.0)
                    v[0] = form[0] * k1[0] + form[1] * k1[1] + form[2] * k1[2]
                    v[1] = form[1] * k1[0] + form[3] * k1[1] + form[4] * k1[2]
                    v[2] = form[2] * k1[0] + form[4] * k1[1] + form[5] * k1[2]
                    p = v[0] * k1[0] + v[1] * k1[1] + v[2] * k1[2]
                    c = 0
                    for a in range(3):
                        for b in range(a, 3):
                            along = p * k1[a] * k1[b]
                            mixed = (v[a] - p * k1[a]) * k1[b] + k1[a] * (v[b] - p * k1[b])
                            across = form[c] - along - mixed
                            total[c] += 3.0 * across - 1.5 * along - 6.0 * mixed
                            c += 1
                for c in range(6):
                    t[c, i, j, k] = total[c] * (scale / (2.0 if two else 1.0))


def sti(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    b0_dirs: np.ndarray,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Susceptibility tensor in ppm: float32 (6, x, y, z), xx xy xz yy yz zz in array axes, zero outside the mask.

    local_ppm  float32 (n, x, y, z): local fields in one frame, n >= 6
    mask       bool (x, y, z), where all of them are valid
    b0_dirs    (n, 3): direction of B0 in the axes of that frame, a scan each
    Raises InputError where the orientations are too few or do not determine a tensor, ShapeError.
    """
    directions = checked_orientations(local_ppm, mask, grid, b0_dirs, "sti")
    form = fit_quadratic_form(local_ppm, directions, mask)
    nx, ny, nz = box_of(mask).size
    box = box_of(mask, (nx // 4, ny // 4, nz // 4))
    plan = fft.plan(box.fft_shape)
    spectra = np.empty((6, *plan.half_shape), np.complex64)
    for component, spectrum in zip(form, spectra, strict=True):
        spectrum[:] = plan.forward(embed(component, box, plan.real))
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(box.fft_shape[:2], grid.voxel_mm[:2], strict=True))
    kz = np.fft.fftfreq(box.fft_shape[2], grid.voxel_mm[2])[: plan.half_shape[2]]
    nyquist = np.array([n // 2 if n % 2 == 0 else -1 for n in box.fft_shape])
    _tensor_of_form(spectra, kx, ky, kz, nyquist, plan.scale)
    for done, (component, spectrum) in enumerate(zip(form, spectra, strict=True)):
        np.copyto(plan.spectrum, spectrum)
        component[:] = extract(plan.inverse(), box, grid.shape) * mask
        if progress is not None:
            progress((done + 1) / 6)
    return form


def decompose(tensor_ppm: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean susceptibility, its anisotropy and the principal direction of a tensor (6, x, y, z) from `sti`.

    mean_ppm (x, y, z): a third of the trace; anisotropy_ppm (x, y, z): largest eigenvalue less the mean of the others;
    direction (3, x, y, z): unit vector of the largest eigenvalue, z component not negative. Zero outside the mask.
    """
    xx, xy, xz, yy, yz, zz = (component[mask] for component in tensor_ppm)
    matrices = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(matrices.astype(np.float64))
    mean, anisotropy = (np.zeros(mask.shape, np.float32) for _ in range(2))
    direction = np.zeros((3, *mask.shape), np.float32)
    mean[mask] = values.mean(axis=1)
    anisotropy[mask] = values[:, 2] - values[:, :2].mean(axis=1)
    principal = vectors[:, :, 2]
    principal *= np.where(principal[:, 2:] < 0, -1.0, 1.0)
    direction[:, mask] = principal.T
    return mean, anisotropy, direction
