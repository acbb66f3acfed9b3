"""What the timing core adds to what it times: the same call by `bench.measure` and by a bare clock, in turn.

python -m benchmarks.harness --recipe fast --size small -o benchmarks/results/harness.jsonl

Each round makes as many calls of a reconstruction in a plain loop as `measure` makes warm ones; which of the two comes
first changes from round to round. Exit code 1 where the overhead is beyond the limit by more than its uncertainty.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import bench
from qsm_runtime.benching import inputs
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.pipeline import reconstruct
from qsm_runtime.recipe import load

LIMIT = 0.02


def overhead(call: Callable[[], Any], shape: tuple[int, int, int], *, rounds: int, calls: int) -> dict[str, Any]:
    """Median share that `measure` adds to a call, its two standard errors, and every raw time, wall and CPU."""
    raw: dict[str, list[float]] = {"bare_s": [], "measured_s": [], "bare_cpu_s": [], "measured_cpu_s": []}
    call()

    def bare() -> None:
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        raw["bare_s"].append((time.perf_counter() - start) / calls)
        raw["bare_cpu_s"].append((time.process_time() - start_cpu) / calls)

    def measured() -> None:
        record, _ = bench.measure(call, shape, repeats=calls, budget_s=float("inf"))
        raw["measured_s"].append(float(np.mean(record["time"]["warm_s"])))
        raw["measured_cpu_s"].append(float(np.mean(record["time"]["warm_cpu_s"])))

    for number in range(rounds):
        for one in (bare, measured) if number % 2 else (measured, bare):
            one()
    found: dict[str, Any] = {"raw": raw}
    for kind in ("", "cpu_"):
        ratios = np.array(raw[f"measured_{kind}s"]) / np.array(raw[f"bare_{kind}s"]) - 1
        spread = 1.4826 * float(np.median(np.abs(ratios - np.median(ratios))))
        found[f"{kind}overhead"] = float(np.median(ratios))
        found[f"{kind}uncertainty"] = 2 * 1.2533 * spread / np.sqrt(rounds)
    return found


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--recipe", default="fast")
    p.add_argument("--size", default="small", help="as of qsm bench --sizes")
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--calls", type=int, default=3, help="in a round, of each")
    p.add_argument("-o", "--output", type=Path, required=True, help="JSON lines, appended to")
    arguments = p.parse_args(words)
    grid, recipe = inputs.grid_of(arguments.size), load(arguments.recipe)
    scan = inputs.load({"head": str(inputs.head(grid))}).scan
    begin = bench.Ticks.now()
    found = overhead(
        lambda: reconstruct(scan, recipe), padded_shape(grid.shape), rounds=arguments.rounds, calls=arguments.calls
    )
    case = {"recipe": arguments.recipe, "size": arguments.size, "threads": get_threads()}
    load_seen = bench.load_between(begin, bench.Ticks.now())
    record = {"kind": "harness", "case": case, "status": "ok", **found, "load": load_seen}
    bench.append(arguments.output, {**record, "environment": bench.environment()})
    said = ", ".join(
        f"{100 * found[f'{kind}overhead']:+.2f} ± {100 * found[f'{kind}uncertainty']:.2f} % of {word} time"
        for kind, word in (("", "wall"), ("cpu_", "CPU"))
    )
    print(f"overhead of the harness: {said}" + ("; the machine was busy" if load_seen["noisy"] else ""))
    return int(found["overhead"] - found["uncertainty"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
