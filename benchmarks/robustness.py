"""Accuracy of every method and recipe at its defaults, over field strengths, voxels, B0 directions, noise and heads.

python -m benchmarks.robustness --set full -o benchmarks/results/robustness.jsonl

Methods get their stage's true input plus noise of the size that the scenario's own phase has (reliability from its
field stage); recipes start from phase and make their own mask. Methods with regularisation="auto" are also run at
multiples of the value chosen, to show how near the best it is. Figures of the table are XSIM in the valid mask.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import NETWORK, kept, keywords, prepare
from benchmarks.inputs import Inputs, phantom
from benchmarks.methods import listed
from qsm_runtime import bench, stages
from qsm_runtime import recipe as recipes
from qsm_runtime.errors import QsmError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.pipeline import reconstruct
from qsm_runtime.scan import Scan

ROOT = Path(__file__).resolve().parents[1]
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
STAGES = ("background", "inversion", "single_step")
OURS = {"inversion": "dipole", "single_step": "total"}  # packaged networks
MOST_NOISE_PPM = 0.3  # where a voxel is not to be trusted at all, or nearly so
NEAR_BEST = 0.9
BASE: dict[str, Any] = {
    "shape": (96, 116, 96),
    "voxel_mm": (1.75, 1.75, 1.75),
    "b0_degrees": 0.0,
    "b0_tesla": 3.0,
    "peak_snr": 100.0,
    "seed": 0,
}
TIMES_S = {1.5: (0.010, 0.024, 0.038, 0.052), 3.0: (0.005, 0.012, 0.019, 0.026), 7.0: (0.004, 0.009, 0.014, 0.019)}
SCENARIOS: dict[str, dict[str, Any]] = {
    "3T 1.75mm": {},
    "1.5T": {"b0_tesla": 1.5},
    "7T": {"b0_tesla": 7.0},
    "0.7mm": {"shape": (112, 132, 112), "voxel_mm": (0.7, 0.7, 0.7)},
    "1mm": {"shape": (112, 132, 112), "voxel_mm": (1.0, 1.0, 1.0)},
    "2mm": {"shape": (96, 112, 96), "voxel_mm": (2.0, 2.0, 2.0)},
    "1x1x3mm": {"shape": (144, 172, 48), "voxel_mm": (1.0, 1.0, 3.0)},
    "B0 20deg": {"b0_degrees": 20.0},
    "B0 45deg": {"b0_degrees": 45.0},
    "SNR 30": {"peak_snr": 30.0},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
}
SETS = {
    "full": list(SCENARIOS),
    "quick": ["1.5T", "7T", "2mm", "1x1x3mm", "B0 45deg", "SNR 30"],
    "tiny": ["tiny"],
}
TINY = {"shape": (40, 48, 40), "voxel_mm": (5.0, 5.0, 5.0)}


def scene(name: str) -> Path:
    """The prepared input of a scenario. B0 is turned from z towards x and, half as far, y."""
    wanted = {**BASE, **(TINY if name == "tiny" else SCENARIOS[name])}
    angle = np.radians(wanted["b0_degrees"])
    towards = np.array((2.0, 1.0)) / np.sqrt(5) * np.sin(angle)
    grid = Grid(wanted["shape"], wanted["voxel_mm"], (*towards, np.cos(angle)))
    times_s = TIMES_S[wanted["b0_tesla"]]
    return phantom(
        grid, b0_tesla=wanted["b0_tesla"], echo_times_s=times_s, peak_snr=wanted["peak_snr"], seed=wanted["seed"]
    )


def noisy(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Noise of a field (ppm) and its reliability, as the scan's own phase has it."""
    phase, magnitude = inputs.unwrapped_rad(), inputs["magnitude"]
    field = stages.method("field", "weighted")
    _, reliability = field(phase, magnitude, inputs.echo_times_s, inputs.b0_tesla, inputs.mask, inputs.grid)
    deviation = np.minimum(1 / np.maximum(reliability, 1e-6), MOST_NOISE_PPM)
    noise = np.random.default_rng(7).standard_normal(inputs.grid.shape, np.float32) * deviation
    return np.where(inputs.mask, noise, 0).astype(np.float32), reliability


def attempt(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Status, error and CPU seconds of a call, and its result; one that fails does not end the run."""
    start = time.process_time()
    future = pool.submit(call)
    error = future.exception()
    if error is not None:
        status = "refused" if isinstance(error, QsmError) else "crashed"
        return {"status": status, "error": f"{type(error).__name__}: {error}"}, None
    return {"status": "ok", "cpu_s": time.process_time() - start}, future.result()


def functions(stage: str) -> dict[str, Callable[..., Any]]:
    """The stage's methods, and our network for it by its name."""
    methods = dict(stages.methods(stage))
    network = methods.pop(NETWORK, None)
    if network is not None and stage in OURS:
        methods[OURS[stage]] = partial(network, model=OURS[stage])
    return methods


def method_runs(
    inputs: Any, wanted: Callable[[str, str], bool], sweep: bool, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, str, float | None, dict[str, Any]]]:
    """(stage, method, factor on the automatic value or None, record's own part) of each run."""
    noise, reliability = noisy(inputs)
    for stage in STAGES:
        for name, function in functions(stage).items():
            if not wanted(stage, name):
                continue
            (first, *rest), supplied, scored = prepare(stage, inputs)
            arguments = (first + noise, *rest)
            chosen: dict[str, Any] = {}
            extra = keywords(function, {**supplied, "reliability": reliability}, chosen)

            def once(function=function, arguments=arguments, extra=extra, scored=scored, **options):
                done, result = attempt(pool, lambda: function(*arguments, **extra, **options))
                return done | ({"accuracy": scored(result)} if done["status"] == "ok" else {})

            done = once()
            auto = next((float(v) for k, v in chosen.items() if k.startswith("regularisation")), None)
            yield stage, name, None, {**done, "chosen": dict(chosen)}
            if sweep and auto is not None and done["status"] == "ok":
                for factor in FACTORS:
                    value = auto * factor
                    again = done if factor == 1 else once(regularisation=value)
                    yield stage, name, factor, {**again, "chosen": {"regularisation": value}}


def recipe_runs(
    inputs: Any, wanted: Callable[[str, str], bool], pool: ThreadPoolExecutor
) -> Iterator[tuple[str, str, None, dict[str, Any]]]:
    """Each packaged recipe from the scenario's phase."""
    scan = Scan(inputs["magnitude"], inputs["phase_rad"], inputs.echo_times_s, inputs.b0_tesla, inputs.grid)
    for name in recipes.names():
        if wanted("recipe", name):
            done, result = attempt(pool, lambda name=name: reconstruct(scan, recipes.load(name)))
            if result is not None:
                done["accuracy"] = kept(result.chi_ppm, inputs["chi_ppm"], inputs, result.mask)
            yield "recipe", name, None, done


def run(arguments: argparse.Namespace) -> int:
    environment = bench.environment()

    def wanted(stage: str, method: str) -> bool:
        return stage in arguments.stage and (not arguments.method or method in arguments.method)

    # numba's thread count and the FFT plans belong to the thread that calls: all calls are one worker's
    with ThreadPoolExecutor(1, initializer=set_threads, initargs=(arguments.threads,)) as pool:
        for scenario in arguments.scenario or SETS[arguments.set]:
            start = time.perf_counter()
            inputs = Inputs(scene(scenario))
            runs = chain(method_runs(inputs, wanted, not arguments.no_sweep, pool), recipe_runs(inputs, wanted, pool))
            for stage, method, factor, done in runs:
                case = {"scenario": scenario, "stage": stage, "method": method, "factor": factor}
                bench.append(arguments.output, {"kind": "robustness", "case": case, **done, "environment": environment})
                if not arguments.quiet and factor is None:
                    said = f"{done['accuracy']['xsim']:.3f}" if done["status"] == "ok" else done["error"]
                    print(f"{scenario:10s} {stage}.{method:14s} {said}", flush=True)
            if not arguments.quiet:
                print(f"{scenario}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


def tables(records: list[dict[str, Any]]) -> list[str]:
    """Markdown: XSIM of each method over the scenarios, and how near the automatic regularisation is to the best."""
    if not records:
        return []
    scenarios = list(dict.fromkeys(r["case"]["scenario"] for r in records))
    plain: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    swept: dict[tuple[str, str], dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        case = r["case"]
        key = (case["stage"], case["method"])
        if case["factor"] is None:
            ok = r["status"] == "ok"
            full = f" ({r['accuracy']['xsim_full']:.2f})" if ok and r["accuracy"]["coverage"] < 0.995 else ""
            plain[key][case["scenario"]] = f"{r['accuracy']['xsim']:.2f}{full}" if ok else r["status"]
        elif r["status"] == "ok":
            swept[key][case["scenario"]][case["factor"]] = r["accuracy"]["xsim"]
    head = ["| stage | method | " + " | ".join(scenarios) + " |", "|---|---|" + "--:|" * len(scenarios)]
    out = [
        "## Accuracy at the defaults",
        "",
        "XSIM in the valid mask (over the full mask where that is smaller).",
        "",
        *head,
    ]
    for (stage, name), row in plain.items():
        out.append(f"| {stage} | {name} | " + " | ".join(row.get(s, "") for s in scenarios) + " |")
    if not swept:
        return [*out, ""]
    out += ["", "## Automatic regularisation", ""]
    out += [
        "XSIM at the automatic value, as percent of the best of ×" + ", ×".join(f"{f:g}" for f in FACTORS) + " of it;"
    ]
    out += [f"in brackets the best factor. Below {100 * NEAR_BEST:.0f} % is set in bold.", "", *head]
    for (stage, name), by_scenario in swept.items():
        cells = []
        for scenario in scenarios:
            found = by_scenario.get(scenario, {})
            best = max(found, key=found.__getitem__, default=1.0)
            if len(found) < 2 or 1.0 not in found or found[best] <= 0:
                cells.append("")
                continue
            share = found[1.0] / found[best]
            text = f"{100 * share:.0f} (×{best:g})"
            cells.append(f"**{text}**" if share < NEAR_BEST else text)
        out.append(f"| {stage} | {name} | " + " | ".join(cells) + " |")
    return [*out, ""]


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--set", choices=SETS, default="quick", help="of scenarios")
    p.add_argument("--scenario", type=listed, default=[], help=f"instead of a set: {', '.join(SCENARIOS)}")
    p.add_argument("--stage", type=listed, default=[*STAGES, "recipe"], help="commas between; default all")
    p.add_argument("--method", type=listed, default=[], help="methods or recipes; default all")
    p.add_argument("--no-sweep", action="store_true", help="leave out the multiples of the automatic regularisation")
    p.add_argument("--threads", type=int, default=None)
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "robustness.jsonl")
    p.add_argument("-q", "--quiet", action="store_true")
    return run(p.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
