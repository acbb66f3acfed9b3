"""Unrolled single step: background sources and susceptibility by joint_tv, then passes of one small network, each
followed by another look at the background.

    x_0, q_0  joint_tv's map in the mask M and its free sources outside (single_step/joint_tv.py)
    f_0       f - D q_0, the field less the background found so far; f itself less what its boundary values give
    z_k       x_k + CNN(x_k, h_k, g_k, sigma, s M)        as in networks/learned_proximal.py, with the field f_k
    q_k       a few conjugate-gradient steps of min_q |W (f_k - D z_k - D q)|^2, q = 0 in M, from q = 0
    f_k+1     f_k - D q_k                                 Liu 2011, 10.1002/nbm.1670: background by sources outside
    x_k+1     M (z_k + F^-1 [ D / (D^2 + nu) F W^2 (f_k+1 - D z_k) ])

Without the step in q_k, what the network takes out of a wrong background is put back by the last line. The map's level
is the network's: with sources free outside, no field tells it. All on the periodic grid that joint_tv solves on.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import part
from qsm_runtime.inversion._noise import noise_ppm
from qsm_runtime.kernels.convolve import Box, box_of, multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import plan
from qsm_runtime.networks.learned_proximal import RIDGE, Network, Prepared, deviation_ppm, refine
from qsm_runtime.single_step.levels import Level, coarse_to_fine
from qsm_runtime.single_step.prepare import chosen_regularisation, finished, interior_field, with_rim
from qsm_runtime.single_step.split import RHO_DATA, Fields, TotalVariation, solve, solve_in_box, solver_box

KNEE_PPM_PER_MM = 0.005  # these two as joint_tv has them
OUTLIER_SIGMAS = 6.0
COARSE_ITERATIONS = (100, 50)  # on voxels of 4 and 2 mm
ITERATIONS = 24  # of 1 mm
PASSES = 2
DATA_RIDGE = 0.1  # nu
FREE_STEPS = 4  # of the sources outside
LEAST_DEVIATION = 0.08  # sigma over s: a field without noise is not without error
START_SHARE = 0.6  # of the time
Progress = Callable[[float], None] | None


def prepare(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    reliability: np.ndarray | None = None,
    iterations: int = ITERATIONS,
    progress: Progress = None,
) -> Prepared:
    """f_0, weights, noise and x_0 of a total field (ppm), in the mask's box.

    Raises ShapeError, InputError, ReconstructionError where the mask has no interior.
    """
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    noise = noise_ppm(field, weight > 0, reliability)
    chosen = chosen_regularisation("auto", field, weight, grid, reliability, None)
    weight = with_rim(weight, mask, reliability)
    full = Level(field, weight, mask.astype(bool), grid.voxel_mm, (1, 1, 1))
    inner = box_of(mask).slices
    inside, known = full.mask[inner], weight[inner] > 0
    found: dict[str, np.ndarray] = {}

    def on(level: Level, count: int, start: np.ndarray | None) -> np.ndarray:
        box = solver_box(level.mask, level.voxel_mm)
        dipole = dipole_kernel(box.fft_shape, level.voxel_mm, grid.b0_dir)
        data = Fields([dipole], [level.field], [level.weight], box, OUTLIER_SIGMAS)
        prior = TotalVariation(level.mask, box, level.voxel_mm, KNEE_PPM_PER_MM)
        strength = chosen * level.edge_mm / full.edge_mm
        if level is not full:
            return solve(data, prior, box, level.mask.shape, level.voxel_mm, strength, count, start)
        x = solve_in_box(data, prior, box, level.voxel_mm, strength, count, start)
        low = tuple(slice(n) for n in box.size)
        chi = np.zeros(grid.shape, np.float32)
        chi[inner] = x[low]
        x[low][inside] = 0
        p = plan(box.fft_shape)
        dipole *= np.float32(p.scale)
        multiply(p.forward(x), dipole)
        k = data.k[0][low]  # W^2 / (W^2 + rho), W less what outliers lost
        found["local"] = np.where(known, field[inner] - p.inverse()[low], np.float32(0))
        found["kept2"] = np.where(known, np.float32(RHO_DATA) * k / (1 - k), np.float32(0))
        return chi

    chi = finished(coarse_to_fine(full, (*COARSE_ITERATIONS, iterations), on, progress), mask, grid)
    deviation = deviation_ppm(noise, None if reliability is None else reliability[inner], inside)
    least = LEAST_DEVIATION * float(np.abs(chi[full.mask]).mean(dtype=np.float64))
    np.maximum(deviation, np.float32(least), out=deviation, where=inside)
    box = solver_box(full.mask, grid.voxel_mm)
    return Prepared(box, grid, found["local"], np.square(weight[inner]), found["kept2"], deviation, chi[inner], inside)


def joint_proximal(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    network: Network,
    *,
    reliability: np.ndarray | None = None,
    passes: int = PASSES,
    ridge: float = RIDGE,
    iterations: int = ITERATIONS,
    progress: Progress = None,
) -> np.ndarray:
    """Susceptibility by the scheme above, float32 (x, y, z) in ppm, zero outside the mask, nothing of which is lost.

    total_ppm    float32 (x, y, z), total field in ppm; only its values inside the bool `mask` are used
    network      arrays by meaning (learned_proximal.CHANNELS) to {"chi": x_k + CNN(...)}
    reliability  float32 (x, y, z), inverse standard deviation of the field in 1/ppm; None: taken from the field itself
    ridge        mu of h_k; iterations: of joint_tv, on voxels of 1 mm
    Raises ShapeError, InputError, ReconstructionError.
    """
    first, rest = part(progress, 0.0, START_SHARE), part(progress, START_SHARE, 1.0)
    prepared = prepare(total_ppm, mask, grid, reliability=reliability, iterations=iterations, progress=first)
    background = FreeSources(prepared.box, grid, prepared.weight2, prepared.mask)
    return refine(
        prepared,
        network,
        passes=passes,
        ridge=ridge,
        data_ridge=DATA_RIDGE,
        level_step=0.0,
        background=background,
        progress=rest,
    )


class FreeSources:
    """The field D q of sources outside the mask that explain a residual; arrays are of the mask's box."""

    def __init__(self, box: Box, grid: Grid, weight2: np.ndarray, mask: np.ndarray, steps: int = FREE_STEPS) -> None:
        self.plan = plan(box.fft_shape)
        self.dipole = dipole_kernel(box.fft_shape, grid.voxel_mm, grid.b0_dir) * np.float32(self.plan.scale)
        self.low = tuple(slice(n) for n in box.size)
        self.weight2, self.mask, self.steps = weight2, mask, steps

    def __call__(self, residual: np.ndarray) -> np.ndarray:
        """D q, float32. Conjugate gradients for least squares; that they stop early keeps q small."""
        made, rest = np.zeros_like(residual), residual.copy()
        slope = self._sources(rest)
        way, size = slope, float(np.vdot(slope, slope))
        for k in range(self.steps):
            if size <= 0:
                break
            along = self._field(way)
            step = np.float32(size / float(np.vdot(self.weight2 * along, along)))
            made += step * along
            if k + 1 < self.steps:
                rest -= step * along
                slope = self._sources(rest)
                size, before = float(np.vdot(slope, slope)), size
                way = slope + np.float32(size / before) * way
        return made

    def _field(self, sources: np.ndarray) -> np.ndarray:
        multiply(self.plan.forward(sources), self.dipole)
        return self.plan.inverse()[self.low].copy()

    def _sources(self, residual: np.ndarray) -> np.ndarray:
        """(1 - M) D W^2 residual, on the whole grid of the transform."""
        self.plan.real[...] = 0
        self.plan.real[self.low] = self.weight2 * residual
        multiply(self.plan.forward(), self.dipole)
        out = self.plan.inverse().copy()
        out[self.low][self.mask] = 0
        return out
