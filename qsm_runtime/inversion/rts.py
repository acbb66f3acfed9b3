"""Rapid two-step inversion: least squares where the dipole is well conditioned, total variation where it is not.

Source: Kames 2018, 10.1016/j.neuroimage.2017.11.018.
1. a few steps of least squares on min |W (D x - f)|^2 + eta |x|^2, x = 0 outside the mask: what the data determine,
   before the noise comes; eta is DAMPING times the noise's variance over the susceptibility's. The paper steps by
   LSMR; conjugate gradients preconditioned by the dipole's own inverse get as far in a quarter of the steps. With
   outlier_rounds, voxels whose residual lies beyond the others' lose weight on the way (MERIT: Liu 2013,
   10.1002/mrm.24272).
2. minimise lambda |g x|_1 + 1/2 |M (F x - F x1)|^2, x = 0 outside the mask, M = 1 where |D| > delta:
   ADMM with z = g x (penalty rho) and p = x on the support, two transforms an iteration
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import GRADIENT_PENALTY, NO_TRUST, SUPPORT_PENALTY, axis_powers, mean_voxels
from qsm_runtime.inversion._direct import check, part
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, noise_to_signal, weights
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.kernels import splitting
from qsm_runtime.kernels.convolve import extract
from qsm_runtime.kernels.differences import tv_reflect, tv_update

NOISE_FACTOR = 0.35  # lambda over the noise of the field: step 1 has amplified it
FLOOR_PPM = 2e-4
OUTLIER_SHARE = 0.25  # of the first part's steps, before each reweighting: outliers show early, tissue takes the rest
DAMPING = 0.25  # below 1: step 2 takes out much of the noise that step 1 lets in


def regularisation_from_noise(noise_ppm: float) -> float:
    """lambda in ppm for a field with white noise of `noise_ppm`."""
    return max(NOISE_FACTOR * noise_ppm, FLOOR_PPM)


def rts(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    threshold: float = 0.12,
    first_iterations: int = 8,
    tolerance: float = 0.01,
    max_iterations: int = 20,
    outlier_rounds: int = 1,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by rapid two-step inversion.

    local_ppm         float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask              bool (x, y, z)
    regularisation    lambda in ppm; "auto" takes it from the noise
    threshold         delta, above 0 and below 2/3: where |D| is larger, step 1 is believed
    first_iterations  steps of the first part, all rounds together
    tolerance         stop when an iteration changes the map by less than this share of its norm
    outlier_rounds    how often voxels with a residual beyond 6 standard deviations lose weight in the first part;
                      0 trusts every voxel
    reliability       float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record            called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not 0 < threshold < 2 / 3:
        raise UsageError(f"rts: threshold must lie between 0 and 2/3, got {threshold}")
    if not tolerance >= 0 or min(max_iterations, first_iterations) < 1 or outlier_rounds < 0:
        raise UsageError("rts: tolerance and outlier_rounds must not be negative, both iteration counts at least 1")
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("rts", regularisation, lambda: regularisation_from_noise(noise), record)
    model = MaskedDipole(local_ppm, weights(mask, grid, reliability), mask, grid)
    damping = DAMPING * noise_to_signal(noise, local_ppm, mask, reliability)
    few = max(1, int(OUTLIER_SHARE * first_iterations))
    steps = [few] * outlier_rounds + [max(1, first_iterations - few * outlier_rounds)]

    def fit(done: int, start: np.ndarray | None) -> np.ndarray:
        at = part(progress, 0.6 * done / len(steps), 0.6 * (done + 1) / len(steps))
        return model.least_squares(steps[done], penalty=threshold**2, damping=damping, start=start, progress=at)

    first = fit(0, None)
    for done in range(1, len(steps)):
        model.reweight(first, noise)
        first = fit(done, first)
    return _fill_cone(model, first, grid, value, threshold, tolerance, max_iterations, part(progress, 0.6, 1.0))


def _fill_cone(
    model: MaskedDipole,
    first: np.ndarray,
    grid: Grid,
    regularisation: float,
    threshold: float,
    tolerance: float,
    max_iterations: int,
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """Step 2 from the map `first` over the mask's box; returns the map on the full grid."""
    p, voxel = model.plan, mean_voxels(grid)
    rho = GRADIENT_PENALTY * regularisation
    x, rhs, spectrum = p.new_real(), p.real, p.spectrum
    splitting.place(first, model.support, x)
    known = model.dipole  # is not needed any more
    np.greater(np.abs(known), threshold * p.scale, out=known, casting="unsafe")
    anchor = p.forward(x, p.new_spectrum())
    anchor *= known
    given = np.float32(1), float(rho), np.float32(SUPPORT_PENALTY), np.float32(p.scale)
    power_x, power_y, power_z = axis_powers(p.shape, voxel)
    splitting.inverse_diagonal(known, NO_TRUST, power_x, power_y, power_z, *given, known)
    solve = known
    w, u = np.zeros((3, *p.shape), np.float32), np.zeros(p.shape, np.float32)
    mask, old = model.support > 0, np.zeros_like(model.field)
    sums = np.empty((mask.shape[0], 2))
    for iteration in range(1, max_iterations + 1):
        tv_update(x, w, regularisation / rho, voxel)
        tv_reflect(w, regularisation / rho, voxel, rho, rhs)
        splitting.support_step(x, u, mask, np.float32(SUPPORT_PENALTY), rhs)
        p.forward(rhs, spectrum)
        splitting.spectral_anchor(spectrum, anchor, solve)
        p.inverse(spectrum, x)
        splitting.change(x, old, mask, sums)
        difference, size = sums.sum(axis=0)
        if progress is not None:
            progress(iteration / max_iterations)
        if difference <= tolerance**2 * size:
            break
    chi = extract(x, model.box, grid.shape)
    chi[model.box.slices] *= mask
    return chi
