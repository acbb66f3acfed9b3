"""Is this machine ready: each part tried, not only looked up; each finding with what to do about it.

Nothing is installed, planned or compiled; what is written to try a folder is removed again.
"""

from collections.abc import Callable

from qsm_runtime.doctor import kept, machine, networks, ports, software
from qsm_runtime.doctor.finding import Finding
from qsm_runtime.networks.runtime import Runtime

__all__ = ["Finding", "examine"]


def examine(runtime: Runtime | None = None) -> list[Finding]:
    """Every finding, in the order of what depends on what. runtime: the device and models that are asked for."""
    runtime = runtime or Runtime()
    checks: tuple[Callable[[], list[Finding]], ...] = (
        software.versions,
        machine.cpu,
        machine.power,
        machine.memory,
        software.fftw,
        kept.wisdom,
        kept.jit_cache,
        kept.folders,
        software.onnxruntime_wheels,
        lambda: networks.gpu(runtime),
        lambda: networks.providers(runtime),
        lambda: networks.models(runtime),
        ports.ports,
    )
    return [finding for check in checks for finding in check()]
