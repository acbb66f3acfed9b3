"""Several orientations of one head: fields in one frame -> susceptibility, or its tensor."""

from collections.abc import Callable

from qsm_runtime.orientation.cosmos import cosmos
from qsm_runtime.orientation.glta import glta
from qsm_runtime.orientation.sti import sti

METHODS: dict[str, Callable] = {"cosmos": cosmos, "glta": glta, "sti": sti}
