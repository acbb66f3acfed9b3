"""Nonlinear dipole inversion: gradient descent on the phase's own misfit, stopped early.

Source: Polak 2020, 10.1002/nbm.4271.
minimise  |W (exp(i s D x) - exp(i s f))|^2 / (2 s^2),  x = 0 outside the mask,  s rad a ppm
by  x <- x - tau S D W^2 sin(s (D x - f)) / s, with Nesterov's momentum, so that n steps go as far as about n^2 / 4
plain ones; the number of steps is the regularisation: it stops where the residual is what the noise explains.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import EARLY_STOP_SATURATION, noise_ppm, noise_to_signal, weights
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.inversion._phase import phase_scale
from qsm_runtime.kernels.cg import Product, combine
from qsm_runtime.kernels.splitting import phase_residual

START_STEPS = 2  # of least squares: brings strong sources within half a turn, from where the descent leads on


def ndi(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    step: float = 2.0,
    max_iterations: int = 25,
    reliability: np.ndarray | None = None,
    b0_tesla: float | None = None,
    echo_times_s: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Susceptibility by nonlinear dipole inversion.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    step            tau, above 0 and below 2 / max D^2 = 4.5; divided by max W^2
    max_iterations  steps at most: more of them resolve more and carry more noise
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    b0_tesla, echo_times_s  set the phase that a ppm makes by the middle echo; without them 3 T and 20 ms are taken
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not 0 < step < 4.5 or max_iterations < 1:
        raise UsageError(f"ndi: step must lie between 0 and 4.5 and max_iterations be at least 1, got {step}")
    w = weights(mask, grid, reliability, EARLY_STOP_SATURATION)
    step /= max(float(w.max()), 1.0) ** 2
    model = MaskedDipole(local_ppm, w, mask, grid)
    scale = phase_scale(b0_tesla, echo_times_s)
    noise = noise_ppm(local_ppm, mask, reliability)
    explained = model.stop_ppm(noise, reliability)
    x = model.least_squares(START_STEPS, damping=noise_to_signal(noise, local_ppm, mask, reliability))
    y = x.copy()
    residual, gradient, old = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    momentum = 1.0
    for iteration in range(max_iterations):
        model.field_of(y, residual)
        phase_residual(residual, model.field, model.weight, scale)
        if Product()(residual, residual) <= explained**2:
            break
        model.adjoint(residual, gradient)
        old[...] = x
        x[...] = y
        combine(gradient, x, -step, 1.0)
        momentum, previous = (1 + (1 + 4 * momentum**2) ** 0.5) / 2, momentum
        ahead = (previous - 1) / momentum
        y[...] = x
        combine(old, y, -ahead, 1 + ahead)
        if progress is not None:
            progress((iteration + 1) / max_iterations)
    if progress is not None:
        progress(1.0)
    return model.result(x)
