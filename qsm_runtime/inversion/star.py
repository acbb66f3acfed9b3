"""Streaking artefact reduction: strong sources first, then what they hid.

Source: Wei 2015 (STAR-QSM), 10.1002/nbm.3383.
1. total variation with a large lambda; of its map x1 only what is beyond `strong_ppm` is kept
2. total variation with the usual lambda on f - D x1;  x = x1 + x2
With outlier_rounds a level begins with absolute differences, and voxels whose residual it cannot explain lose weight
before its squares, as in tv.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check, part
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.splitting import squares_step

STRONG_FACTOR = 20.0  # lambda of the first level over that of the second
FIRST_SHARE = 0.5  # of the iterations


def star(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    strong_ppm: float = 0.3,
    tolerance: float = 0.005,
    max_iterations: int = 60,
    outlier_rounds: int = 1,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility in two levels of total variation.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda of the second level in ppm; "auto" takes it from the noise
    strong_ppm      susceptibility beyond which a voxel belongs to the first level, above 0
    tolerance       stop a level when an iteration changes the map by less than this share of its norm
    max_iterations  of each level, all rounds together; the first takes half of them
    outlier_rounds  how often voxels with a residual beyond 6 standard deviations lose weight in a level, after a first
                    round of absolute differences; 0 trusts every voxel and takes squares alone
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not strong_ppm > 0:
        raise UsageError(f"star: strong_ppm must be above 0, got {strong_ppm}")
    if not tolerance >= 0 or max_iterations < 2 or outlier_rounds < 0:
        raise UsageError("star: tolerance and outlier_rounds must not be negative, max_iterations at least 2")
    w = weights(mask, grid, reliability)
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("star", regularisation, lambda: regularisation_from_noise(noise), record)

    def level(field_ppm: np.ndarray, weight: float, iterations: int, first: float, last: float) -> np.ndarray:
        state = Splitting(field_ppm, w * w, mask, grid)
        state.start()
        state.run_rounds(
            squares_step,
            rounds=outlier_rounds + 1,
            noise_ppm=noise,
            first=absolute_data(noise),
            regularisation=weight,
            tolerance=tolerance,
            max_iterations=iterations,
            progress=part(progress, first, last),
        )
        return state.result()

    strong = level(local_ppm, STRONG_FACTOR * value, int(FIRST_SHARE * max_iterations), 0.0, 0.4)
    strong[np.abs(strong) < strong_ppm] = 0
    if not strong.any():
        return level(local_ppm, value, max_iterations, 0.4, 1.0)
    model = MaskedDipole(local_ppm, w, mask, grid)
    inner = model.box.slices
    sources = np.ascontiguousarray(strong[inner])
    known = model.field_of(sources, np.empty_like(model.field)) - model.images(sources)
    rest = np.zeros(grid.shape, np.float32)
    rest[inner] = model.field - known
    return strong + level(rest, value, max_iterations, 0.4, 1.0)
