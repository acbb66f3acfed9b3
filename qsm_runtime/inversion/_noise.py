"""How noisy the local field is, and the data weights that follow from it."""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.noise_level import noise_level
from qsm_runtime.kernels.weights import data_weights

Record = Callable[[str, object], None] | None
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


def weights(mask: np.ndarray, grid: Grid, reliability: np.ndarray | None) -> np.ndarray:
    """Data weight a voxel, float32 (kernels/weights); 1 where no reliability is known."""
    if reliability is None:
        return mask.astype(np.float32)
    grid.check(reliability, "reliability")
    found = data_weights(reliability, mask)
    if not found.any():
        raise ReconstructionError("reliability is zero throughout the mask: no voxel can be trusted")
    return found


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
