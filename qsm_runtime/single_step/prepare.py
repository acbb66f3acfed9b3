"""What every single-step method asks of its input: a checked field, freed of the background that boundaries give."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.ndimage import uniform_filter

from qsm_runtime.errors import InputError, ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.inpaint import inpaint
from qsm_runtime.kernels.isolated import isolated
from qsm_runtime.kernels.laplacian import minus_laplacian, minus_laplacian_fourth_order
from qsm_runtime.kernels.noise_level import noise_level
from qsm_runtime.kernels.poisson import PoissonSolver
from qsm_runtime.kernels.sphere import six_neighbours
from qsm_runtime.kernels.weights import data_weights

POISSON_TOLERANCE = 1e-3  # of the Laplacian's norm: what is left is harmonic enough, and the free sources take it
CORRECTIONS = 2  # towards a fourth-order Laplacian, by the seven-point solver
CORRECTION_TOLERANCE = 1e-1
RAW_SPIKE_PPM = 0.3  # the same before the background is off
FILL_PASSES = 8
RIM_WEIGHT = 0.3  # of the mask's outermost layer, where only the sources' own near field is left to be explained
SATURATION = 40.0  # of data_weights: lower, a calcification is smeared; higher, voxels near air make streaks
RIM_SATURATION = 4.0  # the same near the mask's rim, where a steep field is that of air outside and no source's own
RIM_MM = 6.0  # how far from what is not in the mask that is
SPIKE_PPM = 0.1  # from most neighbours: more than a vein's field changes over a voxel, less than a wrap
REGULARISATION_PER_NOISE = 0.28  # lambda over noise times voxel size: a flat optimum on simulated heads
MODEL_ERROR_PPM = 6e-4  # a voxel is no point dipole: what a noise-free field still leaves unexplained


def require_positive(**options: float) -> None:
    """Raise UsageError that names the first option that is not a positive number."""
    for name, value in options.items():
        if not value > 0:
            raise UsageError(f"{name} must be positive, got {value}")


def checked_field(
    total_ppm: np.ndarray, mask: np.ndarray, grid: Grid, reliability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The field less its mean over trusted voxels (float32, zero elsewhere), and the trusted voxels (bool).

    Raises ShapeError, InputError where a trusted voxel is not finite, ReconstructionError where none is left.
    """
    grid.check(total_ppm, "total_ppm")
    grid.check(mask, "mask")
    trusted = mask.astype(bool)
    if reliability is not None:
        grid.check(reliability, "reliability")
        trusted = trusted & (reliability > 0)
    if not trusted.any():
        raise ReconstructionError("the mask holds no voxel to be trusted: give a mask that covers the object")
    mean = float(total_ppm.mean(where=trusted, dtype=np.float64))
    if not np.isfinite(mean):
        bad = int(np.count_nonzero(~np.isfinite(total_ppm) & trusted))
        raise InputError(
            f"total_ppm is not finite in {bad} voxels of the mask: repair them or take them out of the mask"
        )
    return np.where(trusted, total_ppm - np.float32(mean), np.float32(0)).astype(np.float32, copy=False), trusted


def _filled(field: np.ndarray, mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`field` with masked voxels that are not `known` set to the mean of what is known around them."""
    field = np.where(known, field, np.float32(0))
    for _ in range(FILL_PASSES):
        missing = mask & ~known
        if not missing.any():
            break
        share, total = (uniform_filter(a.astype(np.float32), 3, mode="constant") for a in (known, field))
        found = missing & (share > 0.5 / 27)
        field[found] = total[found] / share[found]
        known = known | found
    return field


def interior_field(
    total_ppm: np.ndarray, mask: np.ndarray, grid: Grid, reliability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The field less the harmonic function that its boundary values give, and the weight of each voxel.

    field   float32 (x, y, z): zero except at voxels whose six neighbours are in the mask. What was taken off is
            harmonic there whatever the boundary values are, so voxels not to be trusted spoil nothing but themselves
    weight  float32 (x, y, z): of the data at those voxels (kernels/weights; 1 without reliability); zero elsewhere
            and at spikes
    """
    box = box_of(mask).slices  # what follows costs memory: only where it matters
    field, trusted = checked_field(total_ppm, mask, grid, reliability)
    inside, field, trusted = mask[box].astype(bool), field[box], trusted[box]
    trusted = trusted & ~isolated(field, trusted, RAW_SPIKE_PPM)
    field = _filled(field, inside, trusted)  # a wild boundary value's harmonic function is hard to explain
    interior = six_neighbours(inside)
    weight = (interior & trusted).astype(np.float32)
    if not weight.any():
        raise ReconstructionError("no trusted voxel has all six neighbours in the mask: give a larger, filled mask")
    solver = PoissonSolver(interior, grid.voxel_mm)
    # the seven-point solution keeps what oscillates; what is left, smooth, is then made harmonic to fourth order
    free, _ = solver.solve(minus_laplacian(field, interior, grid.voxel_mm), tolerance=POISSON_TOLERANCE)
    for _ in range(CORRECTIONS):
        rhs = minus_laplacian_fourth_order(field - free, interior, inside, grid.voxel_mm)
        free += solver.solve(rhs, tolerance=CORRECTION_TOLERANCE)[0]
    field = free
    weight[isolated(field, weight > 0, SPIKE_PPM)] = 0
    if reliability is not None:
        weight = _weights(reliability[box], weight > 0, inside, grid.voxel_mm)
    full_field, full_weight = np.zeros((2, *grid.shape), np.float32)
    full_field[box], full_weight[box] = field, weight
    return full_field, full_weight


def _weights(
    reliability: np.ndarray, trusted: np.ndarray, mask: np.ndarray, voxel_mm: tuple[float, float, float]
) -> np.ndarray:
    """data_weights of `trusted` voxels: a steep field near the rim is doubted, deep inside it is some source's own."""
    deep = distance_inside(mask, voxel_mm, limit_mm=RIM_MM) >= RIM_MM
    near = data_weights(reliability, trusted, RIM_SATURATION)
    return np.where(deep, data_weights(reliability, trusted, SATURATION), near)


def with_rim(weight: np.ndarray, mask: np.ndarray, reliability: np.ndarray | None) -> np.ndarray:
    """`weight` of interior_field, and some for the outermost layer of the mask too.

    There the boundary values take all of the field off, so that the model has to make none. Without that, a source in
    the layer and one beside it outside are the same to the voxels further in, and either may be as strong as it likes.
    The weight is small because the two are told apart by the near field, which a voxel's dipole gives roughly.
    """
    rim = mask.astype(bool) & ~six_neighbours(mask.astype(bool))
    trust = rim.astype(np.float32) if reliability is None else data_weights(reliability, rim, RIM_SATURATION)
    return weight + np.float32(RIM_WEIGHT) * trust


def chosen_regularisation(
    regularisation: float | Literal["auto"],
    field: np.ndarray,
    weight: np.ndarray,
    grid: Grid,
    reliability: np.ndarray | None,
    record: Callable[[str, object], None] | None,
) -> float:
    """lambda in ppm mm; "auto": in proportion to the field's noise (1 / median reliability, or measured) and recorded.

    The proportion is that of voxel-wise differences: a threshold that noise passes as rarely on any grid.
    """
    if regularisation != "auto":
        if not (isinstance(regularisation, int | float) and regularisation > 0):
            raise UsageError(f'regularisation must be positive or "auto", got {regularisation!r}')
        return float(regularisation)
    inside = weight > 0
    noise = noise_level(field, inside) if reliability is None else float(1.0 / np.median(reliability[inside]))
    chosen = REGULARISATION_PER_NOISE * float(np.hypot(noise, MODEL_ERROR_PPM)) * grid.voxel_volume_mm3 ** (1 / 3)
    if record is not None:
        record("regularisation_auto", chosen)
    return chosen


def finished(chi_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """`chi_ppm` with a rim that follows from the inside, less its mean over the mask (D(0) = 0: no field tells it).

    Boundary values take all of its field off the outermost layer, so that a voxel there is told by its neighbours'
    fields alone, from one side, and is a guess several times as wrong as tissue differs: harmonic continuation of the
    layers below is the better estimate.
    """
    mask = mask.astype(bool)
    interior = six_neighbours(mask)
    chi_ppm = inpaint(chi_ppm, interior, mask & ~interior, grid.voxel_mm)
    mean = np.float32(chi_ppm.mean(where=mask, dtype=np.float64))
    return np.where(mask, chi_ppm - mean, np.float32(0)).astype(np.float32, copy=False)
