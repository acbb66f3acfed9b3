"""How well a median time is known: from the spread within a process and between processes, and from what else ran."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST_SHARE = 0.01  # nothing here is known better than to a percent
MUCH_DRIFT = 0.15
MAD_TO_SIGMA, MEDIAN_SE = 1.4826, 1.2533  # of a normal distribution


def uncertainty_s(runs: Sequence[Sequence[float]]) -> float:
    """Two standard errors of the median: by the spread of all runs and between processes.

    runs: warm seconds of each process. A process keeps its luck (memory placement, plans), so its spread alone would
    promise too much; that of two or three processes is itself badly known, so the two are added.
    """
    every = np.concatenate([np.asarray(r, float) for r in runs if len(r)])
    median = float(np.median(every))
    if len(every) < 2:  # one run says nothing of its spread
        return 0.1 * median
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(every - median)))
    alone = 2 * MEDIAN_SE * sigma / np.sqrt(len(every))
    medians = [float(np.median(r)) for r in runs if len(r)]
    between = 2 * float(np.std(medians, ddof=1)) / np.sqrt(len(medians)) if len(medians) > 1 else 0.0
    return max(float(np.hypot(alone, between)), LEAST_SHARE * median)


def drift(record: Mapping[str, Any]) -> float:
    """Share by which the machine's own pace moved during a run: one FFT plan timed before it and after it.

    Neighbours on the same host are seen in no count of this machine, but they take its cache and its memory bandwidth.
    """
    pairs = (record.get("yardstick") or {}).get("fft_pair_s") or []
    half = len(pairs) // 2
    if half < 3:
        return 0.0
    before, after = float(np.median(pairs[:half])), float(np.median(pairs[half:]))
    return max(before, after) / max(min(before, after), 1e-12) - 1


def pace(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    """How much longer one FFT plan took beside `new` than beside `old`; 1 where either does not tell.

    The same machine has fast and slow hours, and what ran in them cannot be held against each other any closer.
    """
    times = [(r.get("yardstick") or {}).get("fft_pair_s") or [] for r in (new, old)]
    return float(np.median(times[0]) / np.median(times[1])) if min(map(len, times)) >= 3 else 1.0


def doubt(record: Mapping[str, Any]) -> float:
    """Share by which a record's median may be off: its own uncertainty, the load seen beside it, the pace's drift."""
    time, load = record["time"], record.get("load") or {}
    median = max(time["median_s"], 1e-9)
    own = time.get("uncertainty_s", max(time["p75_s"] - time["p25_s"], LEAST_SHARE * median)) / median
    others = (load.get("steal_share") or 0.0) + (load.get("others_share") or 0.0)
    return float(np.linalg.norm([own, others if load.get("noisy") else 0.0, drift(record)]))


def quality(record: Mapping[str, Any]) -> str:
    """What to say of a record taken on a busy or unsteady machine, with the remedy; "" where it can be trusted."""
    load, time = record.get("load") or {}, record.get("time") or {}
    said = []
    if load.get("noisy"):
        steal, others = (100 * (load.get(k) or 0) for k in ("steal_share", "others_share"))
        if steal > 2:
            said.append(f"the host took {steal:.0f} % of the CPU time (steal): use a dedicated machine or another hour")
        if others > 5:
            said.append(f"other processes used {others:.0f} % of the CPU time: end them and run again")
        if not said:
            said.append("the machine was busy: run again on a quiet one")
    median = time.get("median_s")
    if median and time.get("uncertainty_s", 0) > 0.1 * median:
        share = 100 * time["uncertainty_s"] / median
        said.append(f"runs differ (median known to {share:.0f} %): more --repeats, or fix the CPU's clock")
    if drift(record) > MUCH_DRIFT:
        said.append(f"the machine's own pace moved by {100 * drift(record):.0f} % meanwhile: run again in another hour")
    if record.get("thermal", {}).get("throttled"):
        said.append("the CPU was throttled for heat or power: cool it, or raise its limits")
    if (record.get("environment", {}).get("power") or {}).get("on_battery"):
        said.append("the machine ran on its battery, which may hold its clock down: plug it in")
    return "; ".join(said)
