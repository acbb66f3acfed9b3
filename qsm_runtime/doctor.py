"""Is this machine ready: each part tried, not only looked up; each finding with what to do about it.

Nothing is installed, planned or compiled; what is written to try a folder is removed again.
"""

import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import numba
import pyfftw
from packaging.requirements import Requirement

from qsm_runtime import bench
from qsm_runtime.benching import providers as provider_trial
from qsm_runtime.benching import sensors
from qsm_runtime.errors import QsmError
from qsm_runtime.kernels import convolve, fft
from qsm_runtime.kernels.threads import AVAILABLE
from qsm_runtime.networks import devices, registry
from qsm_runtime.networks.runtime import Runtime

Status = Literal["ok", "note", "warning", "failed"]
LEAST_MEMORY_MIB, LEAST_FREE_MIB, LEAST_DISK_MIB = 2048, 1024, 512  # a 1 mm head takes about a gigabyte
PORTS = {"MRD": 9002, "DICOM": 11112}
TRIAL_LIMIT_S = 120.0
# the CUDA that a wheel of onnxruntime is built for -> the driver that serves it (NVIDIA's table of minimum versions)
LEAST_DRIVER = {12: "525", 13: "580"}
FIRST_CUDA_13 = "1.27"  # onnxruntime-gpu on PyPI from here on wants CUDA 13


@dataclass(frozen=True)
class Finding:
    """What was found of one part. note: absent, and not needed. remedy: what to do, "" where there is nothing."""

    name: str
    status: Status
    said: str
    remedy: str = ""


def examine(runtime: Runtime | None = None) -> list[Finding]:
    """Every finding, in the order of what depends on what. runtime: the device and models that are asked for."""
    runtime = runtime or Runtime()
    checks: tuple[Callable[[], list[Finding]], ...] = (
        versions,
        cpu,
        memory,
        fftw,
        wisdom,
        jit_cache,
        caches,
        onnxruntime_wheels,
        lambda: gpu(runtime),
        lambda: providers(runtime),
        lambda: models(runtime),
        ports,
    )
    return [finding for check in checks for finding in check()]


def versions() -> list[Finding]:
    """The packages that the runtime needs, against the ranges that it declares."""
    said, wrong, wanted = [f"Python {platform.python_version()}"], [], []
    for requirement in map(Requirement, requires("qsm_runtime") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}")
            wanted.append(f"'{requirement.name}{requirement.specifier}'")
        said.append(f"{requirement.name} {found}")
    if wrong:
        return [Finding("versions", "failed", f"do not fit: {', '.join(wrong)}", f"pip install {' '.join(wanted)}")]
    return [Finding("versions", "ok", f"qsm_runtime {version('qsm_runtime')}; {', '.join(said)}")]


def cpu() -> list[Finding]:
    """Model, cores, and the vector instructions that the kernels profit from."""
    said = bench.environment()
    flags = _cpu_flags()
    wide = [
        name for name in ("avx512f", "avx2", "fma", "f16c", "avx512_bf16", "amx_tile", "asimd", "sve") if name in flags
    ]
    text = f"{said['cpu']}, {AVAILABLE} cores to use of {os.cpu_count()}; {' '.join(wide) or 'features unknown'}"
    if flags and platform.machine() in ("x86_64", "AMD64") and "avx2" not in flags:
        return [
            Finding("CPU", "warning", f"{text}: no AVX2", "expect half the speed or less; use a CPU of 2014 or newer")
        ]
    if (os.cpu_count() or 1) > AVAILABLE:
        remedy = "give this process more cores (container limit, taskset, NUMBA_NUM_THREADS)"
        return [Finding("CPU", "note", text, remedy)]
    return [Finding("CPU", "ok", text)]


def memory() -> list[Finding]:
    """Installed and free memory."""
    whole = bench.environment()["memory_mib"]
    free = _free_mib()
    if whole is None:
        return [Finding("memory", "note", "the system does not say")]
    text = f"{whole} MiB" + ("" if free is None else f", {free} MiB free")
    if whole < LEAST_MEMORY_MIB:
        return [Finding("memory", "warning", text, f"a 1 mm head needs about {LEAST_FREE_MIB} MiB: take coarser scans")]
    if free is not None and free < LEAST_FREE_MIB:
        remedy = f"end other programs: a 1 mm head needs about {LEAST_FREE_MIB} MiB"
        return [Finding("memory", "warning", text, remedy)]
    return [Finding("memory", "ok", text)]


def fftw() -> list[Finding]:
    """Whether FFTW has threads."""
    kind = threading_of_fftw()
    text = f"pyfftw {pyfftw.__version__}, threads: {kind or 'none'}"
    if not kind:
        remedy = "pip install --force-reinstall --no-cache-dir --only-binary :all: pyfftw (its wheels have threads)"
        return [Finding("FFTW", "failed", f"{text}: transforms would use one core", remedy)]
    return [Finding("FFTW", "ok", text)]


def threading_of_fftw() -> str | None:
    """How pyfftw was built: OMP, PTHREADS, or None for no threads."""
    found: str | None = getattr(pyfftw.pyfftw, "_threading_type", None)
    return found


def wisdom() -> list[Finding]:
    """Whether FFT plans are remembered."""
    path = fft.wisdom_path()
    remedy = "qsm warmup (or qsm warmup SCAN, for your protocol's matrix)"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return [Finding("FFT plans", "warning", f"none kept at {path}: a first scan waits for planning", remedy)]
    except OSError as error:
        return [Finding("FFT plans", "warning", f"{path} cannot be read: {error.strerror}", "correct its permissions")]
    if not pyfftw.import_wisdom((b"", text, b""))[1]:
        said = f"{path} is damaged, or of another FFTW"
        return [Finding("FFT plans", "warning", said, f"delete it, then {remedy}")]
    return [Finding("FFT plans", "ok", f"kept in {path}, {len(text) // 1024} KiB")]


def jit_cache() -> list[Finding]:
    """Whether compiled kernels are kept, where, and whether there are any."""
    cache = getattr(convolve.multiply, "_cache", None)
    folder = Path(str(getattr(cache, "cache_path", "__pycache__")))
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return [Finding("JIT cache", "failed", "NUMBA_DISABLE_JIT is set: nothing is compiled", "unset it")]
    if problem := unwritable(folder):
        remedy = "set NUMBA_CACHE_DIR to a folder that can be written, or correct the permissions"
        return [Finding("JIT cache", "failed", f"{problem}: every process compiles anew, for half a minute", remedy)]
    if not any(folder.glob("*.nbi")):
        return [Finding("JIT cache", "warning", f"{folder} is empty: a first scan waits for compilation", "qsm warmup")]
    return [Finding("JIT cache", "ok", f"compiled kernels are kept in {folder}")]


def caches() -> list[Finding]:
    """Whether the folders that the runtime writes to can be written, and have room."""
    wanted = {
        "cache": (fft.wisdom_path().parent, "set QSM_CACHE_DIR to a folder that can be written"),
        "models folder": (registry.user_folder(), "set QSM_MODELS_DIR to a folder that can be written"),
        "temporary files": (Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written"),
    }
    found = []
    for name, (folder, remedy) in wanted.items():
        if problem := unwritable(folder):
            found.append(Finding(name, "failed", problem, f"{remedy}, or correct the permissions"))
            continue
        free = shutil.disk_usage(_existing(folder)).free // bench.MIB
        text = f"{folder}, {free} MiB free"
        short = free < LEAST_DISK_MIB
        found.append(Finding(name, "warning" if short else "ok", text, "free disk space" if short else ""))
    return found


def onnxruntime_wheels() -> list[Finding]:
    """One wheel of onnxruntime, and no more."""
    installed = devices.wheels()
    if not installed:
        remedy = "pip install onnxruntime-gpu (x86-64) or onnxruntime (elsewhere)"
        return [Finding("onnxruntime", "failed", "not installed: no network can be run", remedy)]
    if said := devices.clash(installed):
        what, _, remedy = said.partition(": ")
        return [Finding("onnxruntime", "failed", what, remedy)]
    return [Finding("onnxruntime", "ok", f"{installed[0]} {version(installed[0])}")]


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
    wanted = _cuda_of_onnxruntime()
    if wanted is None:
        remedy = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        return [Finding("GPU", "warning", f"{text}; this onnxruntime has no CUDA", remedy)]
    if found.driver // 1000 < wanted:
        return [Finding("GPU", "failed" if asked else "warning", *_mismatch(text, wanted, found.driver // 1000))]
    return [Finding("GPU", "ok", f"{text}; onnxruntime wants CUDA {wanted}")]


def _mismatch(text: str, wanted: int, served: int) -> tuple[str, str]:
    driver = LEAST_DRIVER.get(wanted, "a newer one")
    other = f", or pip install 'onnxruntime-gpu[cuda,cudnn]<{FIRST_CUDA_13}'" if wanted == 13 and served == 12 else ""
    return f"{text}; onnxruntime wants CUDA {wanted}", f"update the driver to {driver} or newer{other}"


def _cuda_of_onnxruntime() -> int | None:
    """Major version of CUDA that the installed onnxruntime is built for; asked of a process of its own."""
    code = "import onnxruntime as o, json; print(json.dumps({'cuda': getattr(o, 'cuda_version', '') or ''}))"
    said = bench.run_child([sys.executable, "-c", code], limit_s=TRIAL_LIMIT_S)
    major = str(said.get("cuda", "")).partition(".")[0]
    return int(major) if major.isdigit() else None


def providers(runtime: Runtime) -> list[Finding]:
    """Each provider with a tiny network, in a process of its own: one that crashes is a finding."""
    wanted = ["ort-cpu", "openvino", "cuda"] + (["tensorrt"] if runtime.kind == "tensorrt" else [])
    command = [sys.executable, "-m", provider_trial.__name__, *wanted]
    said = bench.run_child(command, limit_s=TRIAL_LIMIT_S)
    if said["status"] != "ok":
        remedy = "pip install --force-reinstall onnxruntime-gpu (onnxruntime where there is no x86-64)"
        return [Finding("providers", "failed", f"onnxruntime does not run: {said['error']}", remedy)]
    asked = {"cpu": "ort-cpu"}.get(runtime.kind, runtime.kind)
    found = []
    for name in wanted:
        precisions = [p for d, p in said["places"] if d == name]
        if precisions:
            lacking = [k.partition(" ")[2] for k in said["absent"] if k.startswith(f"{name} ")]
            text = f"runs, at {', '.join(precisions)}" + (f"; not {', '.join(lacking)}" if lacking else "")
            if name == asked and runtime.precision not in precisions:
                remedy = f"--precision {precisions[0]}"
                found.append(
                    Finding(f"provider {name}", "failed", f"{text}; {runtime.precision} was asked for", remedy)
                )
            else:
                found.append(Finding(f"provider {name}", "ok", text))
            continue
        reason, _, remedy = said["absent"][name].partition("; ")
        status: Status = "failed" if name in (asked, "ort-cpu") else "note"
        found.append(Finding(f"provider {name}", status, f"does not run: {reason}", remedy))
    return found


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
            good.append(one.name)
    ok = [Finding("models", "ok", f"{len(good)} with the hash of their card: {', '.join(good)}")] if good else []
    return ok + bad


def ports() -> list[Finding]:
    """The loopback ports that the servers would listen on."""
    found = []
    for name, port in PORTS.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            if os.name == "posix":  # on Windows the option lets two servers share a port
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError as error:
                remedy = "end the program that has it (ss -ltnp), or serve on another port"
                found.append(Finding(f"port {name}", "warning", f"127.0.0.1:{port}: {error.strerror}", remedy))
                continue
        found.append(Finding(f"port {name}", "ok", f"127.0.0.1:{port} is free"))
    return found


def unwritable(folder: Path) -> str:
    """Why nothing can be written in `folder`, which need not be there yet; "" where it can."""
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), []))


def _free_mib() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError):
        return None
