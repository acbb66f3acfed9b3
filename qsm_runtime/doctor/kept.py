"""What is kept between runs, and where: FFT plans, compiled kernels, models, temporary files."""

import os
import shutil
import tempfile
from pathlib import Path

import numba
import pyfftw

from qsm_runtime.bench import MIB
from qsm_runtime.doctor.finding import Finding
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.threads import KERNELS_LAST
from qsm_runtime.networks import registry

LEAST_DISK_MIB = 512
MOVE_JIT = "set NUMBA_CACHE_DIR to a folder that can be written, or correct the permissions"


def wisdom() -> list[Finding]:
    """Whether FFT plans are remembered."""
    path = fft.wisdom_path()
    remedy = "qsm warmup (or qsm warmup SCAN, for your protocol's matrix)"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return [Finding("FFT plans", "warning", f"none kept at {path}: a first scan waits for planning", remedy)]
    except OSError as error:
        return [Finding("FFT plans", "warning", f"{path} cannot be read: {error.strerror}", "correct its permissions")]
    if not pyfftw.import_wisdom((b"", text, b""))[1]:
        said = f"{path} is damaged, or of another FFTW"
        return [Finding("FFT plans", "warning", said, f"delete it, then {remedy}")]
    return [Finding("FFT plans", "ok", f"kept in {path}, {len(text) // 1024} KiB")]


def jit_cache() -> list[Finding]:
    """Whether compiled kernels are kept, where, and whether there are any."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return [Finding("JIT cache", "failed", "NUMBA_DISABLE_JIT is set: nothing is compiled", "unset it")]
    folder = jit_folder()
    if not KERNELS_LAST:
        said = f"no folder can be written but {folder}: every process compiles anew, for half a minute"
        return [Finding("JIT cache", "failed", said, MOVE_JIT)]
    if problem := unwritable(folder):
        said = f"{problem}: every process compiles anew, for half a minute"
        return [Finding("JIT cache", "failed", said, MOVE_JIT)]
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    if wanted and Path(wanted).absolute() not in folder.absolute().parents:
        said = f"NUMBA_CACHE_DIR is {wanted}, where nothing can be written: kernels are kept in {folder}"
        return [Finding("JIT cache", "warning", said, MOVE_JIT)]
    if not any(folder.glob("*.nbi")):
        return [Finding("JIT cache", "warning", f"{folder} is empty: a first scan waits for compilation", "qsm warmup")]
    return [Finding("JIT cache", "ok", f"compiled kernels are kept in {folder}")]


def jit_folder() -> Path:
    """Where numba keeps this package's kernels."""
    from qsm_runtime.kernels import convolve  # numba chooses the folder as it meets the first kernel

    cache = getattr(convolve.multiply, "_cache", None)
    return Path(str(getattr(cache, "cache_path", "__pycache__")))


def folders() -> list[Finding]:
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
        free = shutil.disk_usage(_existing(folder)).free // MIB
        text = f"{folder}, {free} MiB free"
        short = free < LEAST_DISK_MIB
        found.append(Finding(name, "warning" if short else "ok", text, "free disk space" if short else ""))
    return found


def unwritable(folder: Path) -> str:
    """Why nothing can be written in `folder`, which need not be there yet; "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
