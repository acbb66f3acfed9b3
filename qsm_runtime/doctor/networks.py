"""What networks run on: the GPU and its driver, each provider tried, and every model's hash."""

import sys
from typing import Any

from qsm_runtime import bench
from qsm_runtime.benching import providers as provider_trial
from qsm_runtime.benching import sensors
from qsm_runtime.doctor.finding import Finding, Status
from qsm_runtime.errors import QsmError
from qsm_runtime.networks import devices, registry
from qsm_runtime.networks.runtime import Runtime

TRIAL_LIMIT_S = 120.0
# the CUDA that a wheel of onnxruntime is built for -> the driver that serves it (NVIDIA's table of minimum versions)
LEAST_DRIVER = {12: "525", 13: "580"}
FIRST_CUDA_13 = "1.27"  # onnxruntime-gpu on PyPI from here on wants CUDA 13


def gpu(runtime: Runtime) -> list[Finding]:
    """The GPU, and whether its driver serves the CUDA that onnxruntime was built for."""
    asked = runtime.kind in ("cuda", "tensorrt")
    try:
        found = devices.gpu(runtime.number)
    except devices.NoGpu as error:
        what, _, remedy = str(error).partition("; ")
        if asked:
            remedy = f"{remedy or 'install the driver'}, or leave out --device {runtime.device}"
            return [Finding("GPU", "failed", f"{runtime.device} was asked for: {what}", remedy)]
        return [Finding("GPU", "note", f"{what}: networks run on the CPU")]
    said = sensors.gpu().get("driver_version")
    text = f"{found.name}, driver {said or '?'} (CUDA {found.driver // 1000}.{found.driver % 1000 // 10})"
    wanted = cuda_of_onnxruntime()
    if wanted is None:
        remedy = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        return [Finding("GPU", "failed" if asked else "warning", f"{text}; this onnxruntime has no CUDA", remedy)]
    if found.driver // 1000 < wanted:
        return [Finding("GPU", "failed" if asked else "warning", *_mismatch(text, wanted, found.driver // 1000))]
    return [Finding("GPU", "ok", f"{text}; onnxruntime wants CUDA {wanted}")]


def _mismatch(text: str, wanted: int, served: int) -> tuple[str, str]:
    driver = LEAST_DRIVER.get(wanted, "a newer one")
    other = f", or pip install 'onnxruntime-gpu[cuda,cudnn]<{FIRST_CUDA_13}'" if wanted == 13 and served == 12 else ""
    return f"{text}; onnxruntime wants CUDA {wanted}", f"update the driver to {driver} or newer{other}"


def cuda_of_onnxruntime() -> int | None:
    """Major version of CUDA that the installed onnxruntime is built for; asked of a process of its own."""
    code = "import onnxruntime as o, json; print(json.dumps({'cuda': getattr(o, 'cuda_version', '') or ''}))"
    said = bench.run_child([sys.executable, "-c", code], limit_s=TRIAL_LIMIT_S)
    major = str(said.get("cuda", "")).partition(".")[0]
    return int(major) if major.isdigit() else None


def providers(runtime: Runtime) -> list[Finding]:
    """Each provider with a tiny network, in a process of its own: one that crashes is a finding."""
    wanted = ["ort-cpu", "openvino", "cuda"] + (["tensorrt"] if runtime.kind == "tensorrt" else [])
    said = bench.run_child([sys.executable, "-m", provider_trial.__name__, *wanted], limit_s=TRIAL_LIMIT_S)
    if said["status"] != "ok":
        remedy = "pip install --force-reinstall onnxruntime-gpu (onnxruntime where there is no x86-64)"
        return [Finding("providers", "failed", f"onnxruntime does not run: {said['error']}", remedy)]
    return [_provider(name, said, runtime) for name in wanted]


def _provider(name: str, said: dict[str, Any], runtime: Runtime) -> Finding:
    asked = name == {"cpu": "ort-cpu"}.get(runtime.kind, runtime.kind)
    precisions = [p for d, p in said["places"] if d == name]
    if not precisions:
        # a provider that is there may lack every precision, each for its own reason
        reasons = [why for key, why in said["absent"].items() if key.partition(" ")[0] == name]
        reason, _, remedy = reasons[0].partition("; ")
        status: Status = "failed" if asked or name == "ort-cpu" else "note"
        return Finding(f"provider {name}", status, f"does not run: {reason}", remedy)
    lacking = [k.partition(" ")[2] for k in said["absent"] if k.startswith(f"{name} ")]
    text = f"runs, at {', '.join(precisions)}" + (f"; not {', '.join(lacking)}" if lacking else "")
    if asked and runtime.precision not in precisions:
        text, remedy = f"{text}; {runtime.precision} was asked for", f"--precision {precisions[0]}"
        return Finding(f"provider {name}", "failed", text, remedy)
    return Finding(f"provider {name}", "ok", text)


def models(runtime: Runtime) -> list[Finding]:
    """Every network on the search path: card, and hash of its file."""
    try:
        found = [one for one in registry.every(runtime.models) if not one.hidden]
    except QsmError as error:
        return [Finding("models", "failed", str(error), "correct --models")]
    if not found:
        where = ", ".join(str(folder) for folder in registry.folders(runtime.models))
        return [Finding("models", "note", f"none in {where}", "qsm models add CARD, or --models FOLDER")]
    good, bad = [], []
    for one in found:
        problem = one.problem
        if one.model is not None:
            try:
                one.model.read()
            except QsmError as error:
                problem = str(error)
        if problem:
            what, _, remedy = problem.partition("; ")
            bad.append(Finding(f"model {one.name}", "failed", what, remedy or f"correct or remove {one.path}"))
        else:
            good.append(f"{one.name} {one.model.card.version} ({one.model.card.file.sha256[:8]})" if one.model else "")
    ok = [Finding("models", "ok", f"{len(good)} with the hash of their card: {', '.join(good)}")] if good else []
    return ok + bad
