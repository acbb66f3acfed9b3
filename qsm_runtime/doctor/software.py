"""What is installed: versions, FFTW as it was built, and the wheels of onnxruntime."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version

import numpy as np
import pyfftw
from packaging.requirements import Requirement

from qsm_runtime.doctor.finding import Finding
from qsm_runtime.networks import devices

REINSTALL_FFTW = "pip install --force-reinstall --no-cache-dir --only-binary :all: pyfftw (its wheels have threads)"


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


def fftw() -> list[Finding]:
    """Whether FFTW transforms single precision, and has threads."""
    kind = threading_of_fftw()
    text = f"pyfftw {pyfftw.__version__}, threads: {kind or 'none'}"
    try:
        right = _transforms()
    except (NotImplementedError, ValueError, RuntimeError) as error:
        said = f"{text}: float32 is not transformed ({str(error).splitlines()[0]})"
        return [Finding("FFTW", "failed", said, REINSTALL_FFTW)]
    if not right:
        return [Finding("FFTW", "failed", f"{text}: a test transform is wrong", REINSTALL_FFTW)]
    if not kind:
        return [Finding("FFTW", "failed", f"{text}: transforms would use one core", REINSTALL_FFTW)]
    return [Finding("FFTW", "ok", text)]


def _transforms() -> bool:
    """Whether a small transform of float32 is right."""
    x = pyfftw.empty_aligned((4, 4, 4), np.float32)
    out = pyfftw.empty_aligned((4, 4, 3), np.complex64)
    plan = pyfftw.FFTW(x, out, axes=(0, 1, 2), flags=("FFTW_ESTIMATE",))
    x[:] = np.arange(64).reshape(4, 4, 4) % 7
    return bool(np.allclose(plan(), np.fft.rfftn(x), atol=1e-4))


def threading_of_fftw() -> str | None:
    """How pyfftw was built: OMP, PTHREADS, or None for no threads."""
    found: str | None = getattr(pyfftw.pyfftw, "_threading_type", None)
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
