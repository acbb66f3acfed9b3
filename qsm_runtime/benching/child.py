"""A cold start, or another case, in the process that this is started as; the record is the last line of its output.

Started with START, so that everything since the launch is seen; `launched` in the case is the parent's clock then.
"""

import json
import sys
import time
from typing import Any

# the clock is read before anything of this package is imported
START = "import time; began = time.time(); import sys; from qsm_runtime.benching.child import main; main(began)"


def cold(case: dict[str, Any], began: float) -> dict[str, Any]:
    """From the launch of this process to its first map, by what the time went to."""
    lap = time.perf_counter
    parts: dict[str, float] = {}
    at = lap()
    for name in ("numpy", "numba", "scipy.ndimage", "pyfftw"):
        __import__(name)
        parts[name], at = lap() - at, lap()
    from qsm_runtime import bench

    start = bench.Ticks.now()
    from qsm_runtime.benching import inputs
    from qsm_runtime.kernels import fft
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.pipeline import reconstruct
    from qsm_runtime.recipe import load

    recipe = load(case["recipe"])
    runtime = inputs.runtime_of(case)
    sessions = _Sessions()
    if any(recipe.steps[s].method == "network" for s in recipe.used):
        sessions.watch()
    parts["qsm_runtime"], at = lap() - at, lap()
    imports_s = sum(parts.values())
    set_threads(case["threads"])
    given = inputs.load(case["input"])
    read_s, at = lap() - at, lap()

    from numba.core import event

    compiling, locked = event.TimingListener(), event.TimingListener()
    planned = fft.planning_seconds
    with event.install_listener("numba:compile", compiling), event.install_listener("numba:compiler_lock", locked):
        result = reconstruct(given.scan, recipe, runtime=runtime)
    reconstruct_s, total_s = lap() - at, time.time() - case["launched"]
    compile_s, held_s = (one.duration if one.done else 0.0 for one in (compiling, locked))
    planning_s = fft.planning_seconds - planned
    load_s = max(0.0, held_s - compile_s)
    one_time = compile_s + load_s + planning_s + sessions.seconds
    breakdown = {
        "interpreter": began - case["launched"],
        "imports": imports_s + max(0.0, total_s - (began - case["launched"]) - imports_s - read_s - reconstruct_s),
        "read input": read_s,
        "JIT compile": compile_s,
        "JIT load": load_s,
        "FFT plans": planning_s,
        "model load": sessions.seconds,
        "first run": max(0.0, reconstruct_s - one_time),
    }
    _, peak = bench.memory_mib()
    from qsm_runtime.benching.warm import grid_said  # no part of a start

    return {
        "time": {
            "total_s": total_s,
            "breakdown_s": breakdown,
            "imports_s": parts,
            "stages_s": result.record["seconds"],
        },
        "memory": {"peak_mib": peak},
        "load": bench.load_between(start, bench.Ticks.now()),
        "accuracy": given.accuracy(result.chi_ppm, result.mask),
        "grid": grid_said(given.scan, result.brain_mask),
    }


class _Sessions:
    """Seconds spent making sessions of networks, once `watch` is called."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self) -> None:
        from qsm_runtime.networks import session

        made = session._make

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return made(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        session._make = timed  # type: ignore[assignment]


def _warm(case: dict[str, Any]) -> dict[str, Any]:
    from qsm_runtime.benching import warm, warm_network

    kinds = {
        "recipe": warm.recipe,
        "model": warm_network.model,
        "method": warm.method,
        "machine": warm.machine_rates,
    }
    return kinds[case["kind"]](case)


def main(began: float) -> None:
    """Measure the case that is this process's argument."""
    from qsm_runtime.errors import QsmError

    case = json.loads(sys.argv[1])
    try:
        record = cold(case, began) if case["kind"] == "cold" else _warm(case)
    except QsmError as error:
        record = {"status": "refused", "error": str(error)}
    sys.stdout.write(json.dumps(record, default=float) + "\n")
