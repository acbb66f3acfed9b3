"""ADMM for  min_x 1/2 |W (D x - f)|^2 + lambda sum c |g x|  with differences counted inside the mask alone.

Both D x and g x are split off, so that x has a closed form in k-space; a mask in W or in g costs nothing then.
The loops, and what one array holds of each split, are in kernels/split_tv.
"""

import numpy as np

from qsm_runtime.kernels import fft
from qsm_runtime.kernels import split_tv as loops
from qsm_runtime.kernels.convolve import box_of, convolve, embed, extract
from qsm_runtime.kernels.differences import gradient_power
from qsm_runtime.kernels.dipole import dipole_kernel

MARGIN_MM = 10.0  # free sources around the mask's box
RHO_DATA = 0.1  # multiplier step of v = D x, the weights W being about 1
RHO_TV_PER_LAMBDA = 40.0  # of z = g x: thresholds start at 0.025 ppm/mm, about the slope at an edge between tissues
RELAXATION = 1.6
RENEW_EVERY = 4  # iterations between renewals of the weights
RENEW_AFTER = 8  # before that a residual tells how far the solution is, not what the model cannot explain
ROBUST = 1.4826  # standard deviation over median magnitude, Gaussian


def solve(
    field: np.ndarray,
    weight: np.ndarray,
    mask: np.ndarray,
    voxel_mm: tuple[float, float, float],
    b0_dir: tuple[float, float, float],
    regularisation: float,
    iterations: int,
    start: np.ndarray | None,
    *,
    knee: float,
    outlier_sigmas: float,
) -> np.ndarray:
    """x in ppm on the field's grid, float32, meaningful in the mask.

    field, weight, start  float32 (x, y, z): ppm, 1, ppm (None: zero);  mask  bool;  regularisation  ppm mm
    knee                  ppm/mm: c = knee / (knee + |g x|);  outlier_sigmas  Huber's limit in robust deviations
    """
    nx, ny, nz = (int(np.ceil(MARGIN_MM / v)) for v in voxel_mm)
    box = box_of(mask, (nx, ny, nz))
    plan = fft.plan(box.fft_shape)
    dipole, power = dipole_kernel(box.fft_shape, voxel_mm, b0_dir), gradient_power(box.fft_shape, voxel_mm)
    f, w_data = embed(field, box, plan.new_real()), embed(weight, box, plan.new_real())
    free = np.empty(box.fft_shape, np.uint8)
    loops.free_differences(embed(mask, box, plan.real) > 0, free)
    rho_tv = np.float32(RHO_TV_PER_LAMBDA * regularisation)
    threshold = np.float32(regularisation / rho_tv)
    rho, relax, scale, knee = (np.float32(v) for v in (RHO_DATA, RELAXATION, plan.scale, knee))
    inverse_mm = tuple(np.float32(1.0 / v) for v in voxel_mm)

    x, second = plan.new_real(), plan.new_spectrum()
    q, w = np.zeros(box.fft_shape, np.float32), np.zeros((3, *box.fft_shape), np.float32)
    sparsity, k_data = np.ones(box.fft_shape, np.float32), np.empty(box.fft_shape, np.float32)
    trusted = w_data > 0

    def renew_data(ax: np.ndarray) -> None:
        spread = ROBUST * float(np.median(np.abs(w_data * (ax - f))[trusted]))
        limit = np.float32(outlier_sigmas * spread) if spread > 0 else np.float32(np.inf)
        loops.data_factor(ax, f, w_data, limit, rho, k_data)

    loops.data_factor(f, f, w_data, np.float32(np.inf), rho, k_data)
    if start is not None:
        embed(start, box, x)
        q[:] = convolve(x, dipole * scale, plan)
        loops.sparsity_weight(x, free, *inverse_mm, knee, sparsity)
        loops.update_differences(x, w, np.float32(0), sparsity, free, *inverse_mm, np.float32(1))
    for iteration in range(iterations):
        loops.reflect_data(q, f, k_data, plan.real)
        plan.forward()
        loops.reflect_differences(w, threshold, sparsity, free, *inverse_mm, plan.real)
        plan.forward(plan.real, second)
        loops.solve_spectrum(plan.spectrum, second, dipole, power, rho, rho_tv, scale, second, plan.spectrum)
        plan.inverse(second, x)
        ax = plan.inverse()
        loops.update_data(ax, q, f, k_data, relax)
        loops.update_differences(x, w, threshold, sparsity, free, *inverse_mm, relax)
        done = iteration + 1
        if done % RENEW_EVERY == 0 and done < iterations:
            if done >= RENEW_AFTER:
                renew_data(ax)
            if done >= RENEW_AFTER or start is not None:
                loops.sparsity_weight(x, free, *inverse_mm, knee, sparsity)
    return extract(x, box, field.shape)
