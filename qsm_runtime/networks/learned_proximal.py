"""Unrolled inversion that starts from a few steps of total variation and refines by one small network.

    x_0      a few alternating-direction steps of TV, voxels that fit no susceptibility losing weight on the way
    h_k      F^-1 [ D / (D^2 + mu) F W^2 (f - D x_k) ]   the step that explains the data, where the dipole is
                                                  well-conditioned; every voxel has the weight W of its noise
    g_k      F^-1 [ D F V^2 (f - D x_k) ]         the gradient with the weights V that TV ended with: outliers are out,
                                                  and so may be the surroundings of a source that TV did not reach
    z_k      x_k + CNN(x_k, h_k, g_k, sigma, s mask)
    x_k+1    mask (z_k + F^-1 [ D / (D^2 + nu) F W^2 (f - D z_k) ]) + c mask     what the network left unexplained
    c        argmin |V (D (x + c mask) - f)|^2            the map's level: of the field, the mask's edge alone tells it

D x is the field of free space: of the periodic grid, less that of the map's images (kernels/images.py). sigma is the
field's standard deviation and s the mean size of x_0. Every channel scales with the field and the network is
homogeneous (no bias, no normalisation), so the result scales with the field too. Voxel size and B0 direction enter by D
alone. The scheme is in the spirit of Lai 2020, 10.1007/978-3-030-59713-9_13 (learned proximal operator) and Adler 2018,
10.1109/TMI.2018.2799231 (learned primal-dual: gradients are given to the network, not added for it).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import noise_ppm, weights
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.convolve import Box, multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import plan
from qsm_runtime.kernels.images import Images
from qsm_runtime.kernels.splitting import squares_step

CHANNELS = ("chi", "data_step", "data_gradient", "deviation", "chi_scale")
ITERATIONS = 24  # of the starting point
PASSES = 2
RIDGE = 0.03  # mu
DATA_RIDGE = 0.2  # nu
LEVEL_STEP = 1.0
MOST_DEVIATION = 64.0  # in medians: what is noisier counts as this noisy
Network = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Prepared:
    """What the loop needs, in the mask's box of `grid`; float32 (x, y, z) but for `mask`, which is bool.

    field      local field in ppm, zero where it has no weight
    weight2    squared data weight, 0..1; kept2: the same, less that of outliers
    deviation  standard deviation of the field in ppm, zero outside the mask
    start      x_0 in ppm
    """

    box: Box
    grid: Grid
    field: np.ndarray
    weight2: np.ndarray
    kept2: np.ndarray
    deviation: np.ndarray
    start: np.ndarray
    mask: np.ndarray

    @property
    def size_ppm(self) -> float:
        """s, the mean of |x_0| over the mask."""
        return float(np.abs(self.start[self.mask]).mean(dtype=np.float64))


def prepare(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    reliability: np.ndarray | None = None,
    iterations: int = ITERATIONS,
) -> Prepared:
    """Weights, noise and starting point of a local field (ppm). Raises ShapeError, ReconstructionError."""
    check(local_ppm, mask, grid)
    w = weights(mask, grid, reliability)
    noise = noise_ppm(local_ppm, mask, reliability)
    w *= w
    state = Splitting(local_ppm, w, mask, grid)
    state.start()
    state.run_rounds(
        squares_step,
        rounds=2,
        noise_ppm=noise,
        first=absolute_data(noise),
        regularisation=regularisation_from_noise(noise),
        tolerance=0.0,
        max_iterations=iterations,
    )
    inner, low = state.box.slices, tuple(slice(n) for n in state.box.size)
    deviation = deviation_ppm(noise, None if reliability is None else reliability[inner], state.mask)
    start = np.where(state.mask, state.x[low], np.float32(0))
    return Prepared(state.box, grid, state.measured, w[inner] * state.mask, state.weight2, deviation, start, state.mask)


def deviation_ppm(noise_ppm: float, reliability: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
    """Standard deviation of the field, float32, zero outside the bool `mask`; `noise_ppm` where none is told."""
    if reliability is None:
        return np.where(mask, np.float32(noise_ppm), np.float32(0))
    with np.errstate(divide="ignore"):
        deviation = np.minimum(1 / reliability, np.float32(MOST_DEVIATION * noise_ppm))
    return np.where(mask, deviation, np.float32(0)).astype(np.float32, copy=False)


def learned_proximal(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    network: Network,
    *,
    reliability: np.ndarray | None = None,
    passes: int = PASSES,
    ridge: float = RIDGE,
    iterations: int = ITERATIONS,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Susceptibility by the scheme above, float32 (x, y, z) in ppm, zero outside the mask.

    local_ppm    float32 (x, y, z); only its values inside the bool `mask` are used
    network      arrays by meaning (CHANNELS), float32 on the grid, in ppm, to {"chi": x_k + CNN(...)}
    reliability  float32 (x, y, z), inverse standard deviation of the field in 1/ppm; None: taken from the field itself
    ridge        mu; iterations: of the starting point
    Raises ShapeError, ReconstructionError.
    """
    prepared = prepare(local_ppm, mask, grid, reliability=reliability, iterations=iterations)
    return refine(prepared, network, passes=passes, ridge=ridge, progress=progress)


def refine(
    prepared: Prepared,
    network: Network,
    *,
    passes: int = PASSES,
    ridge: float = RIDGE,
    data_ridge: float = DATA_RIDGE,
    level_step: float = LEVEL_STEP,
    background: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """The loop from a starting point on.

    ridge, data_ridge  mu and nu
    level_step  share of the level's step c that is taken
    background  gives of a residual field (in the mask's box) what sources outside the mask make: it is taken off the
                field after each pass. None: the field is a local one
    """
    grid, inner, low = prepared.grid, prepared.box.slices, tuple(slice(n) for n in prepared.box.size)
    p = plan(prepared.box.fft_shape)
    dipole = dipole_kernel(p.shape, grid.voxel_mm, grid.b0_dir)
    step = dipole / (dipole * dipole + np.float32(ridge))
    close = dipole / (dipole * dipole + np.float32(data_ridge))
    for real_filter in (dipole, step, close):
        real_filter *= np.float32(p.scale)
    seen = {name: np.zeros(grid.shape, np.float32) for name in CHANNELS}
    chi, field = prepared.start.copy(), prepared.field
    seen["deviation"][inner] = prepared.deviation
    seen["chi_scale"][inner] = prepared.mask * np.float32(prepared.size_ppm)

    def filtered(x: np.ndarray, real_filter: np.ndarray) -> np.ndarray:
        """A view of the plan's own array."""
        p.real[...] = 0
        p.real[low] = x
        multiply(p.forward(), real_filter)
        return p.inverse()[low]

    # with sources free outside, those make the images' field too
    images = Images(prepared.box, grid) if background is None else np.zeros_like
    of_mask = images(prepared.mask.astype(np.float32))
    edge = filtered(prepared.mask, dipole) - of_mask
    weighted = prepared.kept2 * edge
    power = float(np.vdot(weighted, edge))

    def residual() -> np.ndarray:
        """Puts the level right and returns f - D x."""
        rest = periodic - filtered(chi, dipole)
        level = np.float32(level_step * np.vdot(weighted, rest) / power) if power > 0 else np.float32(0)
        chi[prepared.mask] += level
        rest -= level * edge
        np.add(periodic, level * of_mask, out=periodic)
        return rest

    periodic = field + images(chi)  # the field that the transform's grid would show
    rest = residual()
    for k in range(passes):
        seen["chi"][inner] = chi
        seen["data_step"][inner] = filtered(prepared.weight2 * rest, step) * prepared.mask
        seen["data_gradient"][inner] = filtered(prepared.kept2 * rest, dipole) * prepared.mask
        chi = np.where(prepared.mask, network(seen)["chi"][inner], np.float32(0))
        periodic = field + images(chi)
        left = periodic - filtered(chi, dipole)
        if background is not None:
            found = background(left)
            field = field - found
            periodic -= found
            left -= found
        chi += filtered(prepared.weight2 * left, close) * prepared.mask
        rest = residual()
        if progress is not None:
            progress((k + 1) / passes)
    out = np.zeros(grid.shape, np.float32)
    out[inner] = chi
    return out
