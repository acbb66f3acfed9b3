"""Masks from magnitude and phase: (magnitude, phase_rad, grid, *, ...) -> bool mask."""

from collections.abc import Callable

from qsm_runtime.mask.brain import brain
from qsm_runtime.mask.network import network
from qsm_runtime.mask.quality import quality
from qsm_runtime.mask.threshold import threshold

METHODS: dict[str, Callable] = {"brain": brain, "quality": quality, "threshold": threshold, "network": network}
