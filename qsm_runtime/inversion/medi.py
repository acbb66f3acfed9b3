"""Morphology-enabled dipole inversion.

Source: Liu 2011, 10.1002/mrm.22816 and 10.1016/j.neuroimage.2011.08.082; MERIT: Liu 2013, 10.1002/mrm.24272.
minimise  |W (exp(i s D x) - exp(i s f))|^2 / (2 s^2) + lambda |M g x|_1,  x = 0 outside the mask, where M lets the
differences go free that the magnitude has too, at its strongest EDGE_SHARE of components. Solved by ADMM in rounds;
after each, voxels whose residual the model cannot explain lose weight.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.inversion._phase import phase_scale
from qsm_runtime.inversion.nltv import phase_data
from qsm_runtime.inversion.tv import NOISE_FACTOR as TV_FACTOR
from qsm_runtime.kernels.differences import NO_EDGES, gradient

EDGE_SHARE = 0.3
NOISE_FACTOR = 2 * TV_FACTOR  # what is left to shrink lies away from edges, and bears more
FLOOR_PPM = 5e-5
ROUNDS = 3


def regularisation_from_noise(noise_ppm: float) -> float:
    """lambda in ppm for a field with white noise of `noise_ppm`."""
    return max(NOISE_FACTOR * noise_ppm, FLOOR_PPM)


def edge_bits(magnitude: np.ndarray, mask: np.ndarray, step_size: tuple[float, float, float]) -> np.ndarray:
    """uint8 like `mask`: bit a is set where the difference along axis a is among the strongest EDGE_SHARE."""
    strength = np.abs(gradient(np.ascontiguousarray(magnitude, np.float32), step_size))
    bound = np.quantile(strength[:, mask], 1 - EDGE_SHARE)
    bits = np.zeros(mask.shape, np.uint8)
    for axis in range(3):
        bits |= ((strength[axis] > bound) & mask).astype(np.uint8) << axis
    return bits


def medi(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    tolerance: float = 0.005,
    max_iterations: int = 60,
    magnitude: np.ndarray | None = None,
    reliability: np.ndarray | None = None,
    b0_tesla: float | None = None,
    echo_times_s: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by morphology-enabled dipole inversion.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda in ppm; "auto" takes it from the noise
    tolerance       stop a round when an iteration changes the map by less than this share of its norm
    max_iterations  of all rounds together
    magnitude       float32 (echo, x, y, z), whose edges the map may share; without it no difference is free
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    b0_tesla, echo_times_s  set the phase that a ppm makes by the middle echo; without them 3 T and 20 ms are taken
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not tolerance >= 0 or max_iterations < ROUNDS:
        raise UsageError(f"medi: tolerance must not be negative and max_iterations at least {ROUNDS}")
    if magnitude is not None and magnitude.shape[-3:] != grid.shape:
        raise ShapeError(f"magnitude has shape {magnitude.shape}, expected (echo, {', '.join(map(str, grid.shape))})")
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("medi", regularisation, lambda: regularisation_from_noise(noise), record)
    state = Splitting(local_ppm, weights(mask, grid, reliability) ** 2, mask, grid)
    edges = NO_EDGES
    if magnitude is not None:
        inner = (..., *state.box.slices)
        power = (magnitude[inner].reshape(-1, *state.mask.shape) ** 2).sum(axis=0)
        edges = np.zeros(state.plan.shape, np.uint8)
        nx, ny, nz = state.mask.shape
        edges[:nx, :ny, :nz] = edge_bits(np.sqrt(power), state.mask, state.step_size)
    step = phase_data(phase_scale(b0_tesla, echo_times_s))
    state.start()
    state.run_rounds(
        step,
        rounds=ROUNDS,
        noise_ppm=noise,
        regularisation=value,
        tolerance=tolerance,
        max_iterations=max_iterations,
        edges=edges,
        progress=progress,
    )
    return state.result()
