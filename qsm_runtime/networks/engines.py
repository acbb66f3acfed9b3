"""Sessions as each provider of onnxruntime wants them: threads, memory, precision, caches."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native
from platformdirs import user_cache_path

from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.networks import devices, openvino_direct
from qsm_runtime.networks.card_words import Provider
from qsm_runtime.networks.openvino_direct import OpenVinoSession

NATIVE: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# onnxruntime flushes denormals on the threads of its pool and, of all others, only on the one that makes the process's
# first session; the flag is the processor's and would hold for numpy too. So one thread makes and runs all sessions.
worker = ThreadPoolExecutor(1, "networks")
ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,  # this and the next are what pybind11 makes of C++ errors
    ValueError,
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


def openvino_is_direct() -> bool:
    """Whether OpenVINO runs without onnxruntime. Never both: two copies of its library in one process would meet."""
    return openvino_direct.installed() and cpu_maker() != "Intel"


def cpu_maker() -> str:
    if not hasattr(ort, "get_ep_devices"):
        return "Intel"
    return next((d.device.vendor for d in ort.get_ep_devices() if d.ep_name == NATIVE["cpu"]), "unknown")


def openvino_devices() -> list[Any]:
    """The plugin's CPU devices."""
    found = [d for d in ort.get_ep_devices() if d.ep_name == NATIVE["openvino"]]
    return [d for d in found if d.ep_metadata.get("ov_device") == "CPU"]


def session_options() -> ort.SessionOptions:
    """Threads shared with the kernels, without spinning between them; denormals flushed; the same bits every time."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = get_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    settings.use_deterministic_compute = True
    settings.enable_mem_pattern = False  # plans memory for one shape: twice the peak at 128^3, and no faster
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return settings


def make_session(
    data: bytes,
    settings: ort.SessionOptions,
    provider: Provider,
    number: int,
    precision: str,
    *,
    folder: Path | None,
    server: bool,
    memory_mib: float | None = None,
) -> "ort.InferenceSession | OpenVinoSession":
    """A session on one provider. folder: where TensorRT keeps its engines. Raises ERRORS."""
    if provider == "openvino" and openvino_is_direct():
        return OpenVinoSession(data, precision, get_threads())
    if provider == "openvino":
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(get_threads())}
        settings.add_provider_for_devices(openvino_devices()[:1], {"load_config": json.dumps({"CPU": hints})})
        return ort.InferenceSession(data, settings, enable_fallback=0)
    if provider == "cpu":
        return ort.InferenceSession(data, settings, providers=[NATIVE["cpu"]], enable_fallback=0)
    cuda = {
        "device_id": str(number),
        "use_tf32": "1" if precision == "tf32" else "0",
        "arena_extend_strategy": "kNextPowerOfTwo" if server else "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE" if server else "HEURISTIC",
    }
    if memory_mib is not None:
        cuda["gpu_mem_limit"] = str(int(memory_mib * 2**20))
    chain: list[tuple[str, dict[str, str]]] = [(NATIVE["cuda"], cuda)]
    if provider == "tensorrt":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "1" if precision == "tf32" else "0"
        engine = {
            "device_id": str(number),
            "trt_fp16_enable": str(precision == "f16"),
            "trt_bf16_enable": str(precision == "bf16"),
        }
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            engine |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}
            engine |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(folder)}
        chain.insert(0, (NATIVE["tensorrt"], engine))
    # left to itself, onnxruntime prints a line and runs on the CPU where a provider fails
    return ort.InferenceSession(data, settings, providers=[*chain, NATIVE["cpu"]], enable_fallback=0)


def placed(session: "ort.InferenceSession | OpenVinoSession", provider: Provider) -> dict[str, int]:
    """How many of the graph's operators run on which provider; empty where onnxruntime does not tell."""
    if isinstance(session, OpenVinoSession) or not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    names = {native: name for name, native in NATIVE.items()} | {NATIVE[provider]: provider}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        name = names.get(part.ep_name, part.ep_name)
        counts[name] = counts.get(name, 0) + len(part.get_nodes())
    return counts


def engine_folder(sha256: str, number: int, precision: str) -> Path:
    """Where TensorRT's engines of a network are kept: another network, GPU, driver or version has another folder."""
    card = devices.gpu(number)
    name = "".join(c if c.isalnum() else "-" for c in card.name)
    capability = f"{card.capability[0]}.{card.capability[1]}"
    versions = f"driver{card.driver}_ort{ort.__version__}_trt{devices.tensorrt_version()}"
    base = os.environ.get("QSM_CACHE_DIR")
    folder = Path(base) if base else user_cache_path("qsm_runtime")
    return folder / "tensorrt" / f"{sha256[:16]}_{name}_sm{capability}_{versions}_{precision}"


def engine(provider: Provider) -> str:
    """The library that runs a provider, with its version."""
    if provider == "openvino" and openvino_is_direct():
        return f"openvino {openvino_direct.version()}"
    return f"onnxruntime {ort.__version__}"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
