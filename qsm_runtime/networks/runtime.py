"""How networks are run: on which device, at which precision, from which folders. Checked when made."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from qsm_runtime import stages
from qsm_runtime.errors import UsageError
from qsm_runtime.networks.card_words import Precision

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino", "ort-cpu")
Implausible = Literal["refuse", "warn"]  # input that speaks against what is said of it
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class Runtime:
    """Device, precision and rules that hold for every network of a run.

    device      auto; cpu (OpenVINO's plugin where it is installed and runs, else onnxruntime's own provider); cuda[:N];
                tensorrt[:N]; openvino or ort-cpu: one of the two on the CPU and no other
    precision   f32, or lower where asked: f16, bf16, tf32
    models      folders searched before the packaged models and the user's
    strict      what is outside a card's trained domain is an error, not a warning
    fallback    method used instead of a network out of its domain, "" for none: NAME for each stage that has a method
                of this name, STAGE=NAME for one, several with commas between
    memory_mib  what a network may use; None: what is free
    mode        once: memory goes back at once; server: it is kept for the next scan
    """

    device: str = "auto"
    precision: str = "f32"
    models: tuple[Path, ...] = ()
    strict: bool = False
    fallback: str = ""
    memory_mib: float | None = None
    mode: Literal["once", "server"] = "once"

    def __post_init__(self) -> None:
        if self.kind not in DEVICES or not re.fullmatch(r"[a-z-]+|(cuda|tensorrt):\d+", self.device):
            named = (*(d for d in DEVICES if d not in ("cuda", "tensorrt")), "cuda[:N]", "tensorrt[:N]")
            raise UsageError(stages.unknown("device", self.device, named))
        if self.precision not in PRECISIONS:
            raise UsageError(stages.unknown("precision", self.precision, PRECISIONS))
        if self.memory_mib is not None and not 0 < self.memory_mib < math.inf:
            raise UsageError(f"memory_mib must be above 0 and finite (--memory-mib N, in MiB), got {self.memory_mib:g}")
        self.fallback_of("")

    def fallback_of(self, stage: str) -> str:
        """The method that takes over at a stage; "" for none. Raises UsageError for names that do not exist."""
        found = {}
        for part in filter(None, self.fallback.split(",")):
            where, given, name = part.strip().rpartition("=")
            known = {(s, m) for s in ([where] if given else stages.STAGES) for m in stages.methods(s) if m != "network"}
            having = [s for s, m in known if m == name]
            if not having:
                what = f"{where} method to fall back to" if given else "method to fall back to"
                raise UsageError(stages.unknown(what, name, {m for _, m in known}))
            found.update(dict.fromkeys(having, name))
        return found.get(stage, "")

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def number(self) -> int:
        """Of the GPU."""
        return int(self.device.partition(":")[2] or 0)
