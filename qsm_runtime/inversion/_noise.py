"""How noisy the local field is, and the data weights that follow from it."""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.noise_level import noise_level
from qsm_runtime.kernels.weights import SATURATION, data_weights

Record = Callable[[str, object], None] | None
OUTLIER = 6.0  # standard deviations of the residual
EARLY_STOP_SATURATION = 4.0  # of weights where the stop alone keeps noise out: few voxels must not be most of it
DIPOLE_POWER = 4 / 45  # mean of D^2 over directions: the field's variance over that of white susceptibility


def noise_ppm(local_ppm: np.ndarray, mask: np.ndarray, reliability: np.ndarray | None) -> float:
    """Standard deviation of the field's noise: the median of 1/reliability, or from the field's second differences."""
    if reliability is not None:
        trusted = reliability[mask]
        trusted = trusted[trusted > 0]
        if trusted.size == 0:
            raise ReconstructionError("reliability is zero throughout the mask: no voxel can be trusted")
        return 1.0 / float(np.median(trusted))
    return noise_level(local_ppm, mask)


def noise_to_signal(noise_ppm: float, local_ppm: np.ndarray, mask: np.ndarray, reliability: np.ndarray | None) -> float:
    """Variance of the noise over that of the susceptibility, taken from the field's own: eta of a Wiener filter."""
    trusted = mask if reliability is None else mask & (reliability > 0)
    field = float(local_ppm[trusted].var())
    return noise_ppm**2 * DIPOLE_POWER / field if field > 0 else 0.0


def weights(mask: np.ndarray, grid: Grid, reliability: np.ndarray | None, saturation: float = SATURATION) -> np.ndarray:
    """Data weight a voxel, float32 (kernels/weights); 1 where no reliability is known."""
    if reliability is None:
        return mask.astype(np.float32)
    grid.check(reliability, "reliability")
    found = data_weights(reliability, mask, saturation)
    if not found.any():
        raise ReconstructionError("reliability is zero throughout the mask: no voxel can be trusted")
    return found


def explained_ppm(weight: np.ndarray, noise_ppm: float, reliability: np.ndarray | None) -> float:
    """Norm of the weighted residual that noise alone leaves, sqrt(sum w^2 sigma^2): where a solver is to stop.

    `weight` and `reliability` are of one shape; `noise_ppm` is sigma where no reliability is known.
    """
    known = weight > 0
    deviation = noise_ppm if reliability is None else 1 / reliability[known]
    return float(np.linalg.norm(weight[known] * deviation))


def outlier_factor(residual_ppm: np.ndarray, weight: np.ndarray, noise_ppm: float) -> np.ndarray:
    """MERIT (Liu 2013, 10.1002/mrm.24272): what to multiply data weights by, float32 of at most 1.

    It falls as the square of the weighted residual beyond OUTLIER standard deviations, robustly taken.
    """
    residual = np.abs(residual_ppm) * weight
    seen = residual[weight > 0]
    if seen.size == 0:
        return np.ones_like(residual)
    limit = np.float32(max(OUTLIER * max(1.4826 * float(np.median(seen)), noise_ppm), 1e-12))
    return np.square(np.minimum(limit / np.maximum(residual, limit), np.float32(1)))


def chosen(name: str, given: float | str, automatic: Callable[[], float], record: Record) -> float:
    """The weight to use: `given`, or where it is "auto" what `automatic` finds; handed to `record` either way."""
    if given == "auto":
        value = automatic()
    elif isinstance(given, str) or not given > 0:
        raise UsageError(f'{name}: regularisation must be "auto" or a number above 0, got {given!r}')
    else:
        value = float(given)
    if record is not None:
        record("regularisation", value)
    return value
