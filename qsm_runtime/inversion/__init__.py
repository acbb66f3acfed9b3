"""Dipole inversion: (local_ppm, mask, grid, *, options) -> chi_ppm."""

from collections.abc import Callable

from qsm_runtime.inversion.sdi import sdi
from qsm_runtime.inversion.tikhonov import tikhonov
from qsm_runtime.inversion.tkd import tkd
from qsm_runtime.inversion.tsvd import tsvd
from qsm_runtime.inversion.tv import tv

METHODS: dict[str, Callable] = {
    "tkd": tkd,
    "tsvd": tsvd,
    "sdi": sdi,
    "tikhonov": tikhonov,
    "tv": tv,
}
