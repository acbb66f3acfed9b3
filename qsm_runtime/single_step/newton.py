"""Gauss-Newton with conjugate gradients for total-field problems with a scaled unknown x = S y.

    min_y 1/2 |W (D S y - f)|^2 + lambda sum c |g S y| + alpha/2 |y|^2,     |g x| -> sqrt(|g x|^2 + epsilon^2)
Each step solves (S D W^2 D S + S g^T lambda c/|g x| g S + alpha) dy = -gradient; differences count inside the mask.
W falls on the way where the residual is more than the model explains (Huber 1964, 10.1214/aoms/1177703732).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels import split_tv as loops
from qsm_runtime.kernels.cg import cg
from qsm_runtime.kernels.convolve import Box, convolve
from qsm_runtime.kernels.differences import gradient, gradient_adjoint
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.single_step.prepare import chosen_regularisation
from qsm_runtime.single_step.split import ROBUST

EPSILON_PPM_PER_MM = 1e-4
CG_TOLERANCE = 1e-2
RENEW_AFTER = 2  # steps: before that a residual tells how far the solution is, not what the model cannot explain
CONVEX_SHARE = 0.2  # of the weight that a levelling-off penalty takes: this one pulls at every edge in full


def chosen_convex(
    regularisation: float | Literal["auto"],
    field: np.ndarray,
    weight: np.ndarray,
    grid: Grid,
    reliability: np.ndarray | None,
    record: Callable[[str, object], None] | None,
) -> float:
    """lambda in ppm mm of a total variation without weights of its own (see prepare.chosen_regularisation)."""
    found = chosen_regularisation(regularisation, field, weight, grid, reliability, None)
    if regularisation != "auto":
        return found
    if record is not None:
        record("regularisation_auto", CONVEX_SHARE * found)
    return CONVEX_SHARE * found


def solve(
    field: np.ndarray,
    weight: np.ndarray,
    inside: np.ndarray,
    scaling: np.ndarray,
    penalty: np.ndarray,
    box: Box,
    voxel_mm: tuple[float, float, float],
    b0_dir: tuple[float, float, float],
    *,
    tikhonov: float,
    outlier_sigmas: float,
    steps: int,
    cg_iterations: int,
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """x = S y in ppm, float32. All arrays lie on the box's FFT shape; `penalty` is lambda c in ppm mm."""
    plan = fft.plan(box.fft_shape)
    dipole = dipole_kernel(box.fft_shape, voxel_mm, b0_dir, plan.scale)
    free = np.empty(box.fft_shape, np.uint8)
    loops.free_differences(inside, free)
    counted = np.stack([(free >> axis & 1) == 0 for axis in range(3)])
    weight2, alpha = weight * weight, np.float32(tikhonov)
    y, slopes, work = np.zeros_like(field), np.empty((3, *field.shape), np.float32), plan.new_real()

    def penalised(x: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        gradient(x, voxel_mm, slopes)
        np.multiply(slopes, counted, out=slopes)
        np.multiply(slopes, stiffness, out=slopes)
        return gradient_adjoint(slopes, voxel_mm)

    def made(x: np.ndarray) -> np.ndarray:
        """D x, in `work`."""
        np.copyto(work, x)
        return convolve(work, dipole, plan, work)

    def back() -> np.ndarray:
        """D W^2 of what `work` holds, in it."""
        np.multiply(work, weight2, out=work)
        return convolve(work, dipole, plan, work)

    for step in range(steps):
        x = scaling * y
        gradient(x, voxel_mm, slopes)
        length2 = (slopes * slopes * counted).sum(axis=0)
        stiffness = penalty / np.sqrt(length2 + np.float32(EPSILON_PPM_PER_MM**2))

        def apply(v: np.ndarray, out: np.ndarray, stiffness: np.ndarray = stiffness) -> None:
            x = scaling * v
            made(x)
            np.add(back(), penalised(x, stiffness), out=out)
            np.multiply(out, scaling, out=out)
            out += alpha * v

        np.subtract(made(x), field, out=work)
        if step >= RENEW_AFTER:
            residual = np.abs(weight * work)
            limit = np.float32(outlier_sigmas * ROBUST * np.median(residual[weight > 0]))
            if 0 < limit < np.inf:
                np.square(weight * np.square(limit / np.maximum(residual, limit)), out=weight2)
        downhill = -(scaling * (back() + penalised(x, stiffness)) + alpha * y)
        change, _ = cg(apply, downhill, tolerance=CG_TOLERANCE, max_iterations=cg_iterations)
        y += change
        if progress is not None:
            progress((step + 1) / steps)
    return scaling * y
