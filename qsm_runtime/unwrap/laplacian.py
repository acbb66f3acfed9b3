"""Laplacian unwrapping: the smooth phase whose differences are nearest to the wrapped ones.

Source: Schofield and Zhu 2003, 10.1364/OL.28.001194; least squares with a mask: Ghiglia and Romero 1994,
10.1364/JOSAA.11.000107. With g() the wrap to [-pi, pi] and v the voxel size, over the mask's inner edges:
  min sum ((phi_i - phi_j - g(p_i - p_j)) / v_ij)^2,   that is   A phi = b
Conjugate gradients, preconditioned by the Poisson equation of the whole box, which cosine transforms solve. Where
the differences are free of noise and no edge turns by more than half a turn, phi is the true phase; elsewhere it
is not equal to the measured phase modulo 2 pi.
"""

import numpy as np
from scipy import fft, ndimage

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.kernels.threads import get_threads


def laplacian(
    phase_rad: np.ndarray, mask: np.ndarray, grid: Grid, *, tolerance: float = 1e-3, max_iterations: int = 50
) -> np.ndarray:
    """Smooth unwrapped phase in rad, float32 (echo, x, y, z), zero outside the mask; not congruent with the input.

    phase_rad       float32 (echo, x, y, z) or (x, y, z), any range; a voxel that is not a number stays so
    mask            bool (x, y, z); each part is solved for by itself, up to a turn
    tolerance       norm of the residual over that of the right side at which to stop, 0..1
    max_iterations  of conjugate gradients, at least 1

    Raises UsageError, ShapeError, or ReconstructionError for an empty mask. Source: 10.1364/OL.28.001194.
    """
    grid.check(mask, "mask")
    if phase_rad.shape[-3:] != grid.shape:
        raise ShapeError(f"phase_rad has shape {phase_rad.shape}, expected (echo, *{grid.shape})")
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise UsageError(
            f"tolerance must lie between 0 and 1 and max_iterations be at least 1, got {tolerance} and {max_iterations}"
        )
    if not mask.any():
        raise ReconstructionError("the mask is empty; nothing to unwrap")
    box = box_of(mask)
    inside = mask[box.slices]
    out = np.zeros(phase_rad.shape, np.float32)
    for source, target in zip(phase_rad.reshape(-1, *grid.shape), out.reshape(-1, *grid.shape), strict=True):
        phase = np.ascontiguousarray(source[box.slices], np.float32)
        finite = inside & np.isfinite(phase)
        phase = np.where(finite, phase, np.float32(0))
        solved = _solve(phase, finite, grid.voxel_mm, tolerance, max_iterations)
        target[box.slices] = np.where(inside & ~finite, np.float32(np.nan), solved)
    return out


def _solve(phase, mask, voxel_mm, tolerance, max_iterations):
    edges = _inner_edges(mask, voxel_mm)
    poisson = _poisson_eigenvalues(mask.shape, voxel_mm)
    residual = _normal(phase, edges, _wrapped)
    phi = np.zeros_like(phase)
    stop = tolerance * np.linalg.norm(residual)
    direction, rho = None, 1.0
    for _ in range(max_iterations):
        if np.linalg.norm(residual) <= stop:
            break
        z = np.where(mask, _poisson_solve(residual, poisson), np.float32(0))
        rho, last = float(np.vdot(residual, z)), rho
        direction = z if direction is None else z + np.float32(rho / last) * direction
        image = _normal(direction, edges)
        step = np.float32(rho / float(np.vdot(direction, image)))
        phi += step * direction
        residual -= step * image
    return _nearest_to(phase, phi, mask)


def _inner_edges(mask, voxel_mm):
    """For each axis with neighbours: low and high slices, and 1/v^2 (float32) on edges within the mask."""
    edges = []
    for axis, v in enumerate(voxel_mm):
        if mask.shape[axis] > 1:
            low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
            high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
            edges.append((low, high, (mask[low] & mask[high]).astype(np.float32) * np.float32(1 / v**2)))
    return edges


def _wrapped(difference):
    turn = np.float32(2 * np.pi)
    return difference - turn * np.rint(difference / turn)


def _normal(x, edges, of_difference=None):
    """Sum over a voxel's edges of weight times its difference (or a function of it) to the neighbour."""
    out = np.zeros_like(x)
    for low, high, weight in edges:
        d = x[high] - x[low]
        d = weight * (d if of_difference is None else of_difference(d))
        out[high] += d
        out[low] -= d
    return out


def _poisson_eigenvalues(shape, voxel_mm):
    """Of the negative Laplacian with Neumann borders in the cosine basis: float32 `shape`; infinite for the mean."""
    x, y, z = ((2 - 2 * np.cos(np.pi * np.arange(n) / n)) / v**2 for n, v in zip(shape, voxel_mm, strict=True))
    total = x[:, None, None] + y[:, None] + z
    total[0, 0, 0] = np.inf
    return total.astype(np.float32)


def _poisson_solve(x, eigenvalues):
    spectrum = fft.dctn(x, workers=get_threads())
    spectrum /= eigenvalues
    return fft.idctn(spectrum, workers=get_threads(), overwrite_x=True)


def _nearest_to(phase, phi, mask):
    """phi with the constant added in each part that brings it nearest to the measured phase modulo 2 pi."""
    parts, n_parts = ndimage.label(mask)
    off = phase - phi
    sums = (np.bincount(parts.reshape(-1), f(off).reshape(-1), n_parts + 1) for f in (np.sin, np.cos))
    shift = np.arctan2(*sums)
    shift[0] = 0
    return np.where(mask, phi + shift.astype(np.float32)[parts], np.float32(0))
