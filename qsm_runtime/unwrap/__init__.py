"""Unwrapping: (phase_rad, mask, grid, *, ...) -> phase_rad."""

from collections.abc import Callable

from qsm_runtime.unwrap.best_path import best_path
from qsm_runtime.unwrap.laplacian import laplacian
from qsm_runtime.unwrap.network import network
from qsm_runtime.unwrap.romeo import romeo

METHODS: dict[str, Callable] = {"romeo": romeo, "best_path": best_path, "laplacian": laplacian, "network": network}
