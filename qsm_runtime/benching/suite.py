"""A run of the benchmark: its cases one after another, each record on disk before the next case starts."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import bench
from qsm_runtime.benching import noise, sensors
from qsm_runtime.benching.child import START
from qsm_runtime.benching.plan import Plan, Record

LIMIT_START_S = 120.0  # of a child's limit: imports, reading, yardsticks, scores, the counted run


def run(plan: Plan, path: Path, said: Callable[[Record], None]) -> list[Record]:
    """Measure every case of a plan; each record is appended to `path` and given to `said`."""
    environment, records = bench.environment() | {"gpu": sensors.gpu(), "power": sensors.power()}, []
    if plan.tried is not None:
        environment["providers"] = dict(plan.tried)
    with tempfile.TemporaryDirectory(prefix="qsm-bench-") as scratch:
        maps: dict[str, np.ndarray] = {}
        for case in plan.cases():
            kind = case["kind"]
            before, start = sensors.read(), time.perf_counter()
            record = _measured(plan, case, Path(scratch), maps)
            record["thermal"] = sensors.between(before, sensors.read())
            record["wall_s"] = time.perf_counter() - start
            named = {key: value for key, value in case.items() if key not in ("kind", "shapes")}
            record = {"kind": kind, "case": named, **record, "environment": environment}
            if warning := noise.quality(record):
                record["doubt"] = warning
            bench.append(path, record)
            records.append({"schema": bench.SCHEMA, **record})
            said(records[-1])
    return records


def _measured(plan: Plan, case: Record, scratch: Path, maps: dict[str, np.ndarray]) -> Record:
    given = {"input": dict(plan.inputs[case["size"]][0])} if "size" in case else {}
    spec = {**case, **given, "limit_s": plan.limit_s, "models": list(plan.folders)}
    if case["kind"] == "machine":
        return child(spec, plan.limit_s + LIMIT_START_S)
    if case["kind"] == "cold":
        if case["caches"] == "empty":
            with tempfile.TemporaryDirectory(dir=scratch) as empty:
                moved = {"NUMBA_CACHE_DIR": f"{empty}/numba", "QSM_CACHE_DIR": f"{empty}/qsm"}
                return _cold([child(spec, 10 * LIMIT_START_S, moved)])
        return _cold([child(spec, plan.limit_s + LIMIT_START_S) for _ in range(plan.cold_runs)])
    each = -(-plan.repeats // plan.processes)
    done = []
    for number in range(plan.processes):
        extra: Record = {"repeats": each, "bound": number == 0 and case["threads"] == max(plan.threads)}
        if case["kind"] == "model" or (case["kind"] == "recipe" and len(plan.places) > 1):
            extra["keep"] = str(scratch / "map.npy") if number == 0 else ""
        done.append(child({**spec, **extra}, 2 * plan.limit_s + LIMIT_START_S))
        if done[-1]["status"] != "ok":
            return done[-1]
    record = merged(done)
    _agreement(case, scratch / "map.npy", maps, record)
    return record


def child(spec: Mapping[str, Any], limit_s: float, variables: Mapping[str, str] | None = None) -> Record:
    """One case in a process of its own; the time of its launch goes with it."""
    previous = {name: os.environ.get(name) for name in variables or {}}
    os.environ.update(variables or {})
    try:
        words = json.dumps({**spec, "launched": time.time()}, default=float)
        return bench.run_child([sys.executable, "-c", START, words], limit_s=limit_s)
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def merged(done: Sequence[Record]) -> Record:
    """One record of several processes that measured the same: all raw times, and how well the median is known."""
    record, runs = dict(done[0]), [one["time"]["warm_s"] or [one["time"]["first_s"]] for one in done]
    every = [t for one in runs for t in one]
    record["time"] = {
        **done[0]["time"],
        "first_s": float(np.median([one["time"]["first_s"] for one in done])),
        "firsts_s": [one["time"]["first_s"] for one in done],
        "by_process_s": runs,
        "warm_s": every,
        "warm_cpu_s": [t for one in done for t in one["time"].get("warm_cpu_s", [])],
        **bench.summary(every),
        "uncertainty_s": noise.uncertainty_s(runs),
    }
    if "first_slice_s" in done[0]["time"]:
        record["time"]["first_slice_s"] = record["time"]["median_s"]
    if "harness_s" in done[0]["time"]:
        record["time"]["harness_share"] = record["time"]["harness_s"] / max(record["time"]["median_s"], 1e-9)
    if "stages" in done[0]:
        warm = {s: [t for one in done for t in one["stages"]["warm_s"][s]] for s in done[0]["stages"]["warm_s"]}
        record["stages"] = {**done[0]["stages"], "warm_s": warm}
    if "yardstick" in done[0]:
        sticks = {k: [t for one in done for t in one["yardstick"][k]] for k in ("fft_pair_s", "copy_s")}
        record["yardstick"] = {**done[0]["yardstick"], **sticks}
        record["relative"] = bench.relative(record["time"]["median_s"], sticks)
    record["load"] = _worst([one["load"] for one in done])
    return record


def _cold(done: Sequence[Record]) -> Record:
    """One record of several cold starts: every total, and the breakdown of the one in the middle."""
    for one in done:
        if one["status"] != "ok":
            return dict(one)
    totals = [one["time"]["total_s"] for one in done]
    middle = dict(done[int(np.argsort(totals)[(len(totals) - 1) // 2])])
    middle["time"] = {
        **middle["time"],
        "totals_s": totals,
        **bench.summary(totals),
        "uncertainty_s": noise.uncertainty_s([[t] for t in totals]),
    }
    middle["load"] = _worst([one["load"] for one in done])
    return middle


def _worst(loads: Sequence[Record]) -> Record:
    """The load of the busiest of several processes."""
    return max(loads, key=lambda one: (one.get("steal_share") or 0.0) + (one.get("others_share") or 0.0))


def _agreement(case: Record, path: Path, maps: dict[str, np.ndarray], record: Record) -> None:
    """How far the map is from the one that the first place gave; the first one's is kept in `maps`."""
    if not path.exists():
        return
    array = np.load(path).astype(np.float32)  # masks too
    path.unlink()
    key = f"{case['kind']} {case.get('model') or case.get('recipe')} {case['size']} {case['threads']}"
    if key not in maps:
        maps.clear()  # cases of one model follow one another
        maps[key] = array
        record["agreement"] = {"reference": True}
        return
    off = float(np.linalg.norm(array - maps[key]) / max(float(np.linalg.norm(maps[key])), 1e-30))
    record["agreement"] = {"relative_rms": off, "max_abs": float(np.abs(array - maps[key]).max())}
