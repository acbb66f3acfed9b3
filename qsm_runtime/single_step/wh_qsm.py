"""Weak-harmonic QSM of the total field: susceptibility and a background that is nearly harmonic, found together.

Source: Milovic, Bilgic, Zhao, Langkammer, Tejos and Acosta-Cabronero 2019, 10.1002/mrm.27483.
    min_(x, h) 1/2 |W (D x + h - f)|^2 + lambda sum c |g x| + beta/2 |M lap h|^2
M is the mask: h curves freely outside it, where its sources are. What boundary values alone tell of the background is
taken off first (Zhou 2014, 10.1002/nbm.3064), so that h is what they leave. The weights c = knee / (knee + |g x|) are
renewed on the way (Candes 2008, 10.1007/s00041-008-9045-x), Huber's weight (1964, 10.1214/aoms/1177703732) is put on
voxels that the model cannot explain. Solved by ADMM with x and h updated together in k-space.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft, split_harmonic
from qsm_runtime.kernels import split_tv as loops
from qsm_runtime.kernels.convolve import embed, extract
from qsm_runtime.kernels.differences import gradient_power
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.single_step.prepare import chosen_regularisation, finished, interior_field, require_positive
from qsm_runtime.single_step.split import (
    RELAXATION,
    RENEW_AFTER,
    RENEW_EVERY,
    RHO_DATA,
    RHO_TV_PER_LAMBDA,
    ROBUST,
    TotalVariation,
    solver_box,
)

RHO_HARMONIC = 1.0  # multiplier step of l = lap h, in voxels


def wh_qsm(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    harmonic_weight: float = 150.0,
    knee_ppm_per_mm: float = 0.005,
    outlier_sigmas: float = 6.0,
    iterations: int = 60,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm, mean zero in the mask: float32 (x, y, z), zero outside.

    total_ppm        total field in ppm, float32 (x, y, z)
    mask             bool (x, y, z); nothing of it is lost, its outermost layer is continued from the inside
    regularisation   lambda (ppm mm), or "auto": from the noise of the field
    harmonic_weight  beta, > 0, for a Laplacian in mean voxels
    knee_ppm_per_mm  slope above which the penalty levels off; "inf" is the plain total variation
    outlier_sigmas   residual, in robust standard deviations, from which a voxel's weight falls
    reliability      inverse standard deviation of the field in 1/ppm; voxels of 0 carry no data
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(harmonic_weight=harmonic_weight, knee_ppm_per_mm=knee_ppm_per_mm)
    require_positive(outlier_sigmas=outlier_sigmas, iterations=iterations)
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_regularisation(regularisation, field, weight, grid, reliability, record)
    box = solver_box(mask, grid.voxel_mm)
    plan = fft.plan(box.fft_shape)
    f, w, m = (embed(a, box, plan.new_real()) for a in (field, weight, mask))
    inside, k_data = m > 0, plan.new_real()
    loops.data_factor(f, f, w, np.float32(np.inf), np.float32(RHO_DATA), k_data)
    prior = TotalVariation(mask, box, grid.voxel_mm, knee_ppm_per_mm)
    power = gradient_power(box.fft_shape, grid.voxel_mm)
    laplacian = power * np.float32(grid.voxel_volume_mm3 ** (2 / 3))
    dipole = dipole_kernel(box.fft_shape, grid.voxel_mm, grid.b0_dir)
    share = np.float32(harmonic_weight / (harmonic_weight + RHO_HARMONIC))
    rho = [np.float32(v) for v in (RHO_DATA, RHO_TV_PER_LAMBDA * chosen, RHO_HARMONIC, plan.scale)]
    x, q, p = plan.new_real(), np.zeros_like(f), np.zeros_like(f)
    data, differences, curvature = (plan.new_spectrum() for _ in range(3))
    for done in range(1, iterations + 1):
        loops.reflect_data(q, f, k_data, plan.real)
        plan.forward(plan.real, data)
        prior.reflect(plan.real)
        plan.forward(plan.real, differences)
        split_harmonic.reflect_curvature(p, inside, share, plan.real)
        plan.forward(plan.real, curvature)
        split_harmonic.solve_pair(data, differences, curvature, dipole, power, laplacian, *rho)
        explained = plan.inverse(differences, x)
        loops.update_data(explained, q, f, k_data, RELAXATION)
        renew = done % RENEW_EVERY == 0 and RENEW_AFTER <= done < iterations
        if renew:
            spread = ROBUST * float(np.median(np.abs(w * (explained - f))[w > 0]))
            limit = np.float32(outlier_sigmas * spread) if spread > 0 else np.float32(np.inf)
            loops.data_factor(explained, f, w, limit, rho[0], k_data)
        split_harmonic.update_curvature(plan.inverse(curvature, x), p, inside, share, RELAXATION)
        plan.inverse(data, x)
        if renew:
            prior.renew(x)
        prior.update(x)
        if progress is not None:
            progress(done / iterations)
    return finished(extract(x, box, mask.shape), mask, grid)
