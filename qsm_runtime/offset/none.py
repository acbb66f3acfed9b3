"""Leave the phase as it is: for single echoes, and for readers that have removed the offset already."""

import numpy as np

from qsm_runtime.grid import Grid


def none(phase_rad: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """`phase_rad` itself."""
    return phase_rad
