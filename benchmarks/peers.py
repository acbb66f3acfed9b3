"""Other implementations, run beside the project's own where they happen to be installed; never needed."""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid


def scikit_image(phase_rad: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """unwrap_phase of scikit-image: path following by second differences (Herraez 2002), echo by echo."""
    from skimage.restoration import unwrap_phase

    grid.check(mask, "mask")
    out = np.zeros_like(phase_rad)
    for echo, phase in enumerate(phase_rad):
        out[echo] = unwrap_phase(np.ma.array(phase, mask=~mask)).filled(0)
    return out


PEERS: dict[str, dict[str, Callable[..., object]]] = {"unwrap": {"peer:scikit_image": scikit_image}}
