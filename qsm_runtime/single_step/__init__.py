"""From the total field to susceptibility in one step: background and inversion share one problem."""

from collections.abc import Callable

from qsm_runtime.single_step.joint_tv import joint_tv
from qsm_runtime.single_step.ln_qsm import ln_qsm
from qsm_runtime.single_step.network import network
from qsm_runtime.single_step.ss_tv import ss_tv
from qsm_runtime.single_step.tfi import tfi
from qsm_runtime.single_step.tgv import tgv
from qsm_runtime.single_step.wh_qsm import wh_qsm

METHODS: dict[str, Callable] = {
    "joint_tv": joint_tv,
    "ln_qsm": ln_qsm,
    "ss_tv": ss_tv,
    "tfi": tfi,
    "tgv": tgv,
    "wh_qsm": wh_qsm,
    "network": network,
}
