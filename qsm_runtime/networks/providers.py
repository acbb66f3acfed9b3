"""Which provider of onnxruntime runs a network, tried before it is trusted: a tiny convolution must really have run on
it, with the precision that was asked for. What was asked for and cannot be met is an error, never another provider.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime as ort

from qsm_runtime.errors import DeviceError, QsmWarning
from qsm_runtime.networks import devices, engines
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.card_words import Provider
from qsm_runtime.networks.onnx_file import TINY_SHAPE, tiny_kernel, tiny_model
from qsm_runtime.networks.runtime import Runtime

PRECISIONS: dict[str, tuple[str, ...]] = {
    "cpu": ("f32",),
    "openvino": ("f32", "bf16"),
    "cuda": ("f32", "tf32"),
    "tensorrt": ("f32", "tf32", "f16", "bf16"),
}
# largest relative error of the tiny model: a few rounding steps of the precision
ROUNDING = {"f32": 3e-6, "tf32": 3e-3, "f16": 3e-3, "bf16": 3e-2}
ORDER: dict[str, tuple[Provider, ...]] = {
    "auto": ("cuda", "openvino", "cpu"),  # TensorRT builds engines for minutes: only where asked
    "cpu": ("openvino", "cpu"),
    "cuda": ("cuda",),
    "tensorrt": ("tensorrt",),
    "openvino": ("openvino",),
    "ort-cpu": ("cpu",),
}


@dataclass(frozen=True)
class Choice:
    """A provider that runs here. passed_over: why better ones do not."""

    provider: Provider
    number: int
    precision: str
    passed_over: tuple[str, ...]


def choose(runtime: Runtime, card: Card, trial: Callable[[Choice], str]) -> Choice:
    """The first provider of the runtime's device that has the precision, runs here, and is known to run this network
    well: its card lists it, or `trial` (the card's self-test) says nothing against it.

    Raises DeviceError with the remedy.
    """
    wrong = devices.clash(devices.wheels())
    if wrong:
        warnings.warn(wrong, QsmWarning, stacklevel=3)
    reasons: list[str] = []
    for provider in ORDER[runtime.kind]:
        choice = Choice(provider, runtime.number, runtime.precision, tuple(reasons))
        reason = f"it has no precision {runtime.precision}, only {', '.join(PRECISIONS[provider])}"
        if runtime.precision in PRECISIONS[provider]:
            reason = absent(provider, runtime.number, runtime.precision)
            if not reason and provider not in (*card.runtime.providers, "cpu"):  # the CPU is what others are held to
                reason = trial(choice)
        if not reason:
            return choice
        reasons.append(f"{provider}: {reason}")
    asked = f"--device {runtime.device}" + (f" --precision {runtime.precision}" if runtime.precision != "f32" else "")
    said = "; ".join([*reasons, wrong] if wrong else reasons)
    raise DeviceError(f"{asked} cannot be met: {said}. Nothing was run; --device auto takes what there is")


@cache
def absent(provider: Provider, number: int = 0, precision: str = "f32") -> str:
    """Why a provider does not run here, with the remedy; "" where a session really ran on it."""
    reason = _missing(provider, number)
    if reason:
        return reason
    kernel = tiny_kernel()[0, 0]
    x = np.cos(np.arange(np.prod(TINY_SHAPE), dtype=np.float64)).reshape(TINY_SHAPE).astype(np.float32)
    try:
        used, y = engines.worker.submit(_try, provider, number, precision, x).result()
    except engines.ERRORS as error:
        return f"a session does not run on it ({engines.first_line(error)}); {_remedy(provider)}"
    if used[0] != engines.NATIVE[provider]:
        return f"onnxruntime used {used[0]} instead; {_remedy(provider)}"
    padded = np.pad(x.astype(np.float64), 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
    expected = np.maximum(np.einsum("xyzabc,abc->xyz", windows, kernel.astype(np.float64)), 0)
    off = float(np.abs(y - expected).max() / expected.max())
    if not off <= ROUNDING[precision]:
        return f"it computes at less than {precision} (relative error {off:.1e} of a test convolution)"
    return ""


def _try(provider: Provider, number: int, precision: str, x: np.ndarray) -> tuple[list[str], np.ndarray]:
    settings = engines.session_options()
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if provider == "cpu" else "1")
    session = engines.make_session(tiny_model(), settings, provider, number, precision, folder=None, server=False)
    return session.get_providers(), session.run(None, {"x": x[None, None]})[0][0, 0]


def _missing(provider: Provider, number: int) -> str:
    if provider in ("cuda", "tensorrt"):
        if engines.NATIVE[provider] not in ort.get_available_providers():
            return f"the installed {ort.package_name} has none; pip install onnxruntime-gpu (without onnxruntime)"
        try:
            devices.gpu(number)
        except devices.NoGpu as error:
            return str(error)
        if provider == "tensorrt" and not devices.tensorrt_version():
            return _remedy(provider)
        with _silent():
            ort.preload_dlls()
    if provider == "openvino":
        return _openvino()
    return ""


def _remedy(provider: Provider) -> str:
    cuda = (getattr(ort, "cuda_version", "") or "12").partition(".")[0]
    return {
        "cpu": "reinstall onnxruntime",
        "openvino": f"pip install -U {devices.PLUGIN}",
        "cuda": f"pip install 'onnxruntime-gpu[cuda,cudnn]' (CUDA {cuda} and cuDNN 9, with a driver that serves them)",
        "tensorrt": f"pip install tensorrt-cu{cuda}",
    }[provider]


@cache
def _openvino() -> str:
    """Why there is no OpenVINO here: neither its plugin's device for this processor, nor its own runtime."""
    if engines.openvino_is_direct():
        return ""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        return f"its plugin is not installed ({_remedy('openvino')})"
    if not hasattr(ort, "register_execution_provider_library"):
        return f"onnxruntime {ort.__version__} takes no plugins; pip install -U {ort.package_name}"
    try:
        ort.register_execution_provider_library("qsm_openvino", plugin.get_library_path())
    except engines.ERRORS as error:
        return f"its plugin does not load ({engines.first_line(error)}); {_remedy('openvino')}"
    if not engines.openvino_devices():
        return f"its plugin offers no device for the {engines.cpu_maker()} processor; pip install openvino"
    return ""


class _silent:
    """preload_dlls prints what it does not find; the session that fails afterwards says it better."""

    def __enter__(self) -> None:
        self._kept, self._sink = sys.stdout, open(os.devnull, "w")
        sys.stdout = self._sink

    def __exit__(self, *unused: object) -> None:
        sys.stdout = self._kept
        self._sink.close()
