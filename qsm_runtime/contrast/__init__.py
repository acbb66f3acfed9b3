"""Contrasts beside susceptibility: maps made from the same scan."""

from collections.abc import Callable

from qsm_runtime.contrast.r2star import r2star
from qsm_runtime.contrast.swi import swi

METHODS: dict[str, Callable] = {"r2star": r2star, "swi": swi}
