"""Dipole inversion: (local_ppm, mask, grid, *, options) -> chi_ppm."""

from collections.abc import Callable

from qsm_runtime.inversion.hdqsm import hdqsm
from qsm_runtime.inversion.ilsqr import ilsqr
from qsm_runtime.inversion.lsqr import lsqr
from qsm_runtime.inversion.medi import medi
from qsm_runtime.inversion.ndi import ndi
from qsm_runtime.inversion.network import network
from qsm_runtime.inversion.nltv import nltv
from qsm_runtime.inversion.rts import rts
from qsm_runtime.inversion.sdi import sdi
from qsm_runtime.inversion.star import star
from qsm_runtime.inversion.tikhonov import tikhonov
from qsm_runtime.inversion.tkd import tkd
from qsm_runtime.inversion.tsvd import tsvd
from qsm_runtime.inversion.tv import tv
from qsm_runtime.inversion.weak_harmonic import weak_harmonic

METHODS: dict[str, Callable] = {
    "tkd": tkd,
    "tsvd": tsvd,
    "sdi": sdi,
    "tikhonov": tikhonov,
    "lsqr": lsqr,
    "ilsqr": ilsqr,
    "ndi": ndi,
    "rts": rts,
    "tv": tv,
    "nltv": nltv,
    "weak_harmonic": weak_harmonic,
    "hdqsm": hdqsm,
    "medi": medi,
    "star": star,
    "network": network,
}
