"""The processor, its power, and the memory."""

import os
import platform
from pathlib import Path

from qsm_runtime import bench
from qsm_runtime.benching import sensors
from qsm_runtime.doctor.finding import Finding
from qsm_runtime.kernels.threads import AVAILABLE

LEAST_MEMORY_MIB, LEAST_FREE_MIB = 2048, 1024  # a 1 mm head takes about a gigabyte
VECTORS = ("avx512f", "avx2", "fma", "f16c", "avx512_bf16", "amx_tile", "asimd", "sve")


def cpu() -> list[Finding]:
    """Model, cores, and the vector instructions that the kernels profit from."""
    flags, cores = cpu_flags(), os.cpu_count() or 1
    wide = " ".join(name for name in VECTORS if name in flags)
    text = f"{bench.environment()['cpu']}, {AVAILABLE} cores to use of {cores}; {wide or 'features unknown'}"
    if flags and platform.machine() in ("x86_64", "AMD64") and "avx2" not in flags:
        remedy = "expect half the speed or less; use a CPU of 2014 or newer"
        return [Finding("CPU", "warning", f"{text}: no AVX2", remedy)]
    if cores > AVAILABLE:
        remedy = "give this process more cores (container limit, taskset, NUMBA_NUM_THREADS)"
        return [Finding("CPU", "note", text, remedy)]
    return [Finding("CPU", "ok", text)]


def power() -> list[Finding]:
    """What holds the clocks down; nothing where nothing does or nobody says."""
    said = sensors.power()
    if said["on_battery"]:
        return [Finding("power", "warning", "runs on its battery: clocks may be held down", "plug it in")]
    if said["governor"] == "powersave" and said["driver"] not in sensors.SELF_GOVERNED:
        remedy = "cpupower frequency-set -g performance"
        return [Finding("power", "warning", "the CPU's governor is powersave: its clock stays low", remedy)]
    return []


def memory() -> list[Finding]:
    """Installed and free memory."""
    whole, free = bench.environment()["memory_mib"], free_mib()
    if whole is None:
        return [Finding("memory", "note", "the system does not say")]
    text = f"{whole} MiB" + ("" if free is None else f", {free} MiB free")
    if whole < LEAST_MEMORY_MIB:
        return [Finding("memory", "warning", text, f"a 1 mm head needs about {LEAST_FREE_MIB} MiB: take coarser scans")]
    if free is not None and free < LEAST_FREE_MIB:
        remedy = f"end other programs: a 1 mm head needs about {LEAST_FREE_MIB} MiB"
        return [Finding("memory", "warning", text, remedy)]
    return [Finding("memory", "ok", text)]


def cpu_flags() -> set[str]:
    """Instruction sets by their Linux names; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), []))


def free_mib() -> int | None:
    """Memory that a new program could have; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError):
        return None
