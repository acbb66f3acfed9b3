"""The phase that a ppm of field makes: what nonlinear data terms compare."""

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.units import rad_per_ppm

USUAL_B0_TESLA = 3.0
USUAL_ECHO_TIME_S = 0.020


def phase_scale(b0_tesla: float | None, echo_times_s: np.ndarray | None) -> np.float32:
    """rad a ppm by the middle echo; at 3 T and 20 ms where the scan does not say."""
    b0 = USUAL_B0_TESLA if b0_tesla is None else float(b0_tesla)
    echo = USUAL_ECHO_TIME_S if echo_times_s is None else float(np.median(echo_times_s))
    if not (b0 > 0 and echo > 0):
        raise UsageError(f"b0_tesla and echo_times_s must be positive, got {b0} T and {echo} s")
    return np.float32(rad_per_ppm(b0, echo))
