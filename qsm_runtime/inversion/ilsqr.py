"""LSQR, less the streaks that its cone of small D leaves.

Source: Li 2015 (iLSQR), 10.1016/j.neuroimage.2014.12.043.
1. x0: LSQR on min |W (D x - f)|, x = 0 outside the mask
2. streaks lie where |D| < delta and change where the tissue does not: with M = 1 there and G the differences at
   voxels where x0, smoothed by the clamped inverse, has no edge,
       minimise |G (x0 - F^-1 M y)|  over the half spectrum y, by LSMR;  x = x0 - F^-1 M y
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import mean_voxels
from qsm_runtime.inversion._direct import check, part
from qsm_runtime.inversion._noise import EARLY_STOP_SATURATION, noise_ppm, weights
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.kernels import cg
from qsm_runtime.kernels.convolve import extract, multiply
from qsm_runtime.kernels.differences import gradient, gradient_adjoint
from qsm_runtime.kernels.inverse_filters import threshold as clamped_inverse
from qsm_runtime.kernels.splitting import place

EDGE_SHARE = 0.3  # strongest differences taken for edges
REFERENCE_DELTA = 0.2  # clamp of the map whose edges are believed


def ilsqr(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    threshold: float = 0.1,
    tolerance: float = 0.01,
    max_iterations: int = 30,
    streak_iterations: int = 30,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Susceptibility by LSQR with streaks estimated and removed.

    local_ppm          float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask               bool (x, y, z)
    threshold          delta, above 0 and below 2/3: streaks lie where |D| is smaller
    tolerance          of both solvers
    max_iterations     LSQR steps; streak_iterations those of LSMR
    reliability        float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not 0 < threshold < 2 / 3:
        raise UsageError(f"ilsqr: threshold must lie between 0 and 2/3, got {threshold}")
    if not tolerance >= 0 or min(max_iterations, streak_iterations) < 1:
        raise UsageError("ilsqr: tolerance must not be negative, and both iteration counts at least 1")
    model = MaskedDipole(local_ppm, weights(mask, grid, reliability, EARLY_STOP_SATURATION), mask, grid)
    first, _ = cg.lsqr(
        model.apply,
        model.adjoint,
        model.field * model.weight,
        model.field,
        tolerance=tolerance,
        max_iterations=max_iterations,
        residual=model.stop_ppm(noise_ppm(local_ppm, mask, reliability), reliability),
        progress=part(progress, 0.0, 0.5),
    )
    p, voxel = model.plan, mean_voxels(grid)
    flat = _flat(model, mask[model.box.slices], voxel)
    root = np.float32(np.sqrt(p.scale))
    cone = (np.abs(model.dipole) < threshold * p.scale).astype(np.float32) * root

    def differences(y: np.ndarray, out: np.ndarray) -> None:
        np.multiply(y, cone, out=p.spectrum)
        gradient(p.inverse(), voxel, out)
        out *= flat

    def back(g: np.ndarray, out: np.ndarray) -> None:
        gradient_adjoint(g, voxel, p.real)  # all that is ever given is zero where `flat` is
        multiply(p.forward(p.real, out), cone)

    def flat_part() -> np.ndarray:
        place(first, model.support, p.real)
        g = gradient(p.real, voxel)
        g *= flat
        return g

    streaks, _ = cg.lsmr(
        differences,
        back,
        flat_part(),
        p.new_spectrum(),
        tolerance=tolerance,
        max_iterations=streak_iterations,
        spectrum_of=p.shape[2],
        progress=part(progress, 0.5, 1.0),
    )
    streaks *= cone
    return model.result(first - extract(p.inverse(streaks), model.box, grid.shape)[model.box.slices])


def _flat(model: MaskedDipole, mask: np.ndarray, voxel: tuple[float, float, float]) -> np.ndarray:
    """bool (3, padded box): differences inside the mask that are no edge of the clamped-inverse map."""
    p = model.plan
    place(model.field, model.support, p.real)
    inverse = model.dipole / np.float32(p.scale)
    clamped_inverse(inverse, REFERENCE_DELTA, 1, p.scale, p.shape[2])
    spectrum = p.forward(p.real)
    multiply(spectrum, inverse)
    strength = np.abs(gradient(p.inverse(spectrum), voxel))
    inside = np.zeros(p.shape, bool)
    nx, ny, nz = mask.shape
    inside[:nx, :ny, :nz] = mask
    flat = np.zeros(strength.shape, bool)
    for axis in range(3):
        both = inside & np.roll(inside, -1, axis)
        flat[axis][both] = strength[axis][both] <= np.quantile(strength[axis][both], 1 - EDGE_SHARE)
    return flat
