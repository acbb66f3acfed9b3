"""Timing core: what one call costs in time and memory on this machine, as records that can be kept and compared.

A record is one JSON object a line, its layout versioned by SCHEMA. Every raw time is kept; medians and quartiles are
there for reading. A call is measured in a process of its own (`run_child`), so that its first run, with the loading
or compiling of kernels and the planning of transforms, and its memory are its own.

Two yardsticks are timed in the same process between the runs: a pair of FFTs (forward and inverse, real float32) and
a copy of one array, both of the FFT shape given. A time as a multiple of them carries over between machines.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qsm_runtime.benching.processes import children_s
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.threads import AVAILABLE, get_threads

from numba.core import event  # isort: skip  (threads sets the OpenMP wait policy first)

SCHEMA = "qsm-bench/1"
PACKAGES = ("qsm_runtime", "numpy", "scipy", "numba", "llvmlite", "pyfftw", "onnxruntime-gpu", "onnxruntime")
NOISY_STEAL, NOISY_OTHERS = 0.02, 0.05  # shares of all cores' time beyond which a run is called noisy
YARDSTICK_RUNS = 5
MIB = 2**20


class Ticks(NamedTuple):
    """Seconds since some start: wall, own CPU, and, all cores together, busy and stolen (None: unknown)."""

    wall: float
    own: float
    busy: float | None
    stolen: float | None

    @classmethod
    def now(cls) -> "Ticks":
        """Own is this process alone."""
        own, busy, stolen = time.process_time(), None, None
        try:
            fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):  # not Linux
            fields = []
        if len(fields) == 8:
            user, nice, system, _, _, irq, soft, steal = (n / os.sysconf("SC_CLK_TCK") for n in fields)
            busy, stolen = user + nice + system + irq + soft, steal
        return cls(time.perf_counter(), own, busy, stolen)

    @classmethod
    def with_children(cls) -> "Ticks":
        """Own is this process and its children: where they are what is measured, they are no load beside it."""
        alone = cls.now()
        return alone._replace(own=alone.own + children_s())


def environment() -> dict[str, Any]:
    """The machine and the software: CPU model, cores, memory, versions."""
    cpu, memory_mib = platform.processor() or platform.machine(), None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
        memory_mib = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB)
    except (OSError, ValueError, AttributeError):  # not Linux
        pass
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": AVAILABLE,
        "memory_mib": memory_mib,
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }


def load_between(start: Ticks, end: Ticks) -> dict[str, Any]:
    """What else the machine did: shares of all cores' time stolen by the host and used by other processes."""
    try:
        average = [round(n, 2) for n in os.getloadavg()]
    except (OSError, AttributeError):  # Windows
        average = None
    found: dict[str, Any] = {"average": average, "steal_share": None, "others_share": None, "noisy": None}
    if start.busy is None or end.busy is None or start.stolen is None or end.stolen is None:
        return found
    whole = max((end.wall - start.wall) * (os.cpu_count() or 1), 1e-9)
    found["steal_share"] = round((end.stolen - start.stolen) / whole, 4)
    found["others_share"] = round(max(0.0, end.busy - start.busy - (end.own - start.own)) / whole, 4)
    found["noisy"] = found["steal_share"] > NOISY_STEAL or found["others_share"] > NOISY_OTHERS
    return found


def memory_mib() -> tuple[float | None, float | None]:
    """Resident memory now, and the most there was since `reset_peak` (or, not on Linux, since the start).

    ru_maxrss would not do on Linux: a child starts with its parent's.
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return tuple(round(int(lines[key].split()[0]) / 1024, 1) for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None, round(used / MIB if sys.platform == "darwin" else used / 1024, 1)


def reset_peak() -> None:
    """Let the peak of `memory_mib` start again from here, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def yardsticks(shape: tuple[int, int, int]) -> dict[str, list[float]]:
    """Raw seconds of FFT pairs and of array copies of `shape` at the current thread count; nothing stays cached."""
    plan = fft.Plan(shape, get_threads())
    plan.real[:] = 1
    source = plan.real.copy()
    found: dict[str, list[float]] = {"fft_pair_s": [], "copy_s": []}
    for run in range(YARDSTICK_RUNS + 1):
        start = time.perf_counter()
        plan.forward()
        plan.inverse()
        middle = time.perf_counter()
        np.copyto(plan.real, source)
        end = time.perf_counter()
        if run:  # the first touches fresh memory
            found["fft_pair_s"].append(middle - start)
            found["copy_s"].append(end - middle)
    return found


def measure(
    call: Callable[[], Any], fft_shape: tuple[int, int, int], *, repeats: int, budget_s: float
) -> tuple[dict[str, Any], Any]:
    """Run `call` once cold and up to `repeats` times warm, until `budget_s` is spent; the record and the result.

    At least one warm run is made unless the first alone spent the budget. fft_shape: what the yardsticks are timed on.
    """
    begin = Ticks.now()
    planned = fft.planning_seconds
    reset_peak()
    baseline, _ = memory_mib()
    compiling = event.TimingListener()
    with event.install_listener("numba:compile", compiling):
        start, start_cpu = time.perf_counter(), time.process_time()
        result = call()
        first = (time.perf_counter() - start, time.process_time() - start_cpu)
    planning = fft.planning_seconds - planned
    _, peak_first = memory_mib()
    sticks = yardsticks(fft_shape)
    wall: list[float] = []
    cpu: list[float] = []
    spent = first[0]
    reset_peak()
    while len(wall) < repeats and spent < budget_s:
        result = None  # its memory is not the next run's
        start, start_cpu = time.perf_counter(), time.process_time()
        result = call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        spent += wall[-1]
    _, peak = memory_mib() if wall else (None, peak_first)
    again = yardsticks(fft_shape)
    sticks = {name: sticks[name] + again[name] for name in sticks}
    return {
        "time": {
            "first_s": first[0],
            "first_cpu_s": first[1],
            "compile_s": compiling.duration if compiling.done else 0.0,
            "planning_s": planning,
            "warm_s": wall,
            "warm_cpu_s": cpu,
            **summary(wall or [first[0]]),
        },
        "memory": {
            "baseline_mib": baseline,
            "peak_first_mib": peak_first,
            "peak_mib": peak,
            "own_mib": None if baseline is None or peak is None else round(peak - baseline, 1),
        },
        "yardstick": {"fft_shape": list(fft_shape), **sticks},
        "relative": relative(summary(wall or [first[0]])["median_s"], sticks),
        "load": load_between(begin, Ticks.now()),
    }, result


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 95th percentile and extremes of raw times."""
    low, p25, median, p75, p95, high = np.percentile(seconds, (0, 25, 50, 75, 95, 100))
    names = ("median_s", "p25_s", "p75_s", "p95_s", "min_s", "max_s")
    return dict(zip(names, map(float, (median, p25, p75, p95, low, high)), strict=True))


def relative(seconds: float, sticks: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """A time in FFT pairs and in array copies of the same process, by their medians."""
    pair, copy = (float(np.median(sticks[name])) for name in ("fft_pair_s", "copy_s"))
    return {"fft_pairs": seconds / pair, "copies": seconds / copy}


def run_child(command: Sequence[str], *, limit_s: float, cwd: Path | None = None) -> dict[str, Any]:
    """What a child process prints as its last line, a JSON object; or a status that says why there is none.

    status: "ok" unless the child says otherwise, "over_budget" where it was ended after `limit_s`, "crashed".
    `load` is the child's own, or what was seen from here where it did not come to say it.
    """
    start = Ticks.with_children()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, cwd=cwd, check=False)
    except subprocess.TimeoutExpired:
        return {
            "status": "over_budget",
            "error": f"ended after {limit_s:g} s",
            "load": load_between(start, Ticks.with_children()),
        }
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        error = f"exit code {done.returncode}: {' | '.join(said[-3:])}"
        return {"status": "crashed", "error": error, "load": load_between(start, Ticks.with_children())}
    return {"status": "ok", "load": load_between(start, Ticks.with_children()), **json.loads(lines[-1])}


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record to a JSON-lines file, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"schema": SCHEMA, "utc": when, **record}, default=float))
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file. Raises ValueError where one has another schema."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for record in records:
        if record.get("schema") != SCHEMA:
            raise ValueError(f"{path}: schema {record.get('schema')!r}, this version reads {SCHEMA!r}")
    return records
