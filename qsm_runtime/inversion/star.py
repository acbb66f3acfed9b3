"""Streaking artefact reduction: strong sources first, then what they hid.

Source: Wei 2015 (STAR-QSM), 10.1002/nbm.3383.
1. total variation with a large lambda; of its map x1 only what is beyond `strong_ppm` is kept
2. total variation with the usual lambda on f - D x1;  x = x1 + x2
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting
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
    max_iterations  of each level; the first takes half of them
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not strong_ppm > 0:
        raise UsageError(f"star: strong_ppm must be above 0, got {strong_ppm}")
    if not tolerance >= 0 or max_iterations < 2:
        raise UsageError("star: tolerance must not be negative and max_iterations at least 2")
    w = weights(mask, grid, reliability)
    value = chosen(
        "star", regularisation, lambda: regularisation_from_noise(noise_ppm(local_ppm, mask, reliability)), record
    )

    def level(field_ppm: np.ndarray, weight: float, iterations: int, first: float, last: float) -> np.ndarray:
        state = Splitting(field_ppm, w * w, mask, grid)
        state.start()
        state.run(
            squares_step,
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
    known = model.field_of(np.ascontiguousarray(strong[inner]), np.empty_like(model.field))
    rest = np.zeros(grid.shape, np.float32)
    rest[inner] = model.field - known
    return strong + level(rest, value, max_iterations, 0.4, 1.0)
