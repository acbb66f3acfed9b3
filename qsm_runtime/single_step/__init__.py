"""From the total field to susceptibility in one step: background and inversion share one problem."""

from collections.abc import Callable

from qsm_runtime.single_step.joint_tv import joint_tv
from qsm_runtime.single_step.tgv import tgv

METHODS: dict[str, Callable] = {"joint_tv": joint_tv, "tgv": tgv}
