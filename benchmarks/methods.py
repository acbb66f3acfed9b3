"""Time, memory and accuracy of every method of every stage, each on its stage's true input.

python -m benchmarks.methods --sizes small,medium,large --threads 1,2 -o benchmarks/results/methods.jsonl

Each case runs in a process of its own; its record is on disk before the next starts. A case that crashes, refuses
its input or outlasts its limit is recorded as such, and the run goes on.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from qsm_runtime import bench, stages

ROOT = Path(__file__).resolve().parents[1]
LIMIT_START_S = 90.0  # of a child's limit: imports, reading its input, yardsticks, scoring


def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in this process: the record's own part."""
    from benchmarks.cases import keywords, prepare
    from benchmarks.inputs import Inputs
    from benchmarks.peers import PEERS
    from qsm_runtime.errors import QsmError
    from qsm_runtime.kernels.fft import padded_shape
    from qsm_runtime.kernels.threads import set_threads

    set_threads(spec["threads"])
    stage, name = spec["stage"], spec["method"]
    inputs = Inputs(Path(spec["input"]))
    start = time.perf_counter()
    peers = PEERS.get(stage, {})
    function = peers[name] if name in peers else stages.method(stage, name)
    imported = time.perf_counter() - start
    arguments, supplied, scored = prepare(stage, inputs, spec["variant"])
    chosen: dict[str, Any] = {}
    extra = keywords(function, supplied, chosen)
    try:
        record, result = bench.measure(
            lambda: function(*arguments, **extra, **spec["options"]),
            padded_shape(inputs.grid.shape),
            repeats=spec["repeats"],
            budget_s=spec["budget_s"],
        )
    except (QsmError, ModuleNotFoundError) as error:
        status = "refused" if isinstance(error, QsmError) else "not_installed"
        return {"status": status, "error": str(error)}
    record["time"]["import_s"] = imported
    grid = {"shape": inputs.grid.shape, "voxel_mm": inputs.voxel_mm, "mask_voxels": int(inputs.mask.sum())}
    return {**record, "grid": grid, "accuracy": scored(result), "chosen": chosen}


def cases(wanted_stages: list[str], wanted: list[str], peers: bool) -> list[tuple[str, str, str]]:
    """Stage, method and variant of each case; `network` only where it is named (its model is an option).

    Raises UsageError for a method that no stage has.
    """
    from benchmarks.cases import NETWORK, variants
    from benchmarks.peers import PEERS
    from qsm_runtime.errors import UsageError

    found, known = [], set()
    for stage in stages.STAGES:
        names = [*stages.methods(stage), *(PEERS.get(stage, {}) if peers else {})]
        known |= set(names)
        for name in names if stage in wanted_stages else ():
            if name in wanted or not (wanted or name == NETWORK):
                found += [(stage, name, variant) for variant in variants(stage, 4)]
    for name in wanted:
        if name not in known:
            raise UsageError(stages.unknown("method", name, known))
    return found


def run(arguments: argparse.Namespace) -> int:
    from benchmarks.inputs import dataset, grid_of, phantom

    environment, todo = bench.environment(), cases(arguments.stage, arguments.method, not arguments.no_peers)
    if arguments.data:
        inputs = [(arguments.data.resolve().name, dataset(arguments.data))]
    else:
        inputs = [(size, phantom(grid_of(size), seed=arguments.seed)) for size in arguments.sizes]
    failed = 0
    for size, path in inputs:
        for threads in arguments.threads:
            for stage, method, variant in todo:
                spec = {
                    "stage": stage,
                    "method": method,
                    "variant": variant,
                    "options": arguments.options,
                    "input": str(path),
                    "threads": threads,
                    "repeats": arguments.repeats,
                    "budget_s": arguments.budget_s,
                }
                command = [sys.executable, "-m", "benchmarks.methods", "--child", json.dumps(spec)]
                done = bench.run_child(command, limit_s=2 * arguments.budget_s + LIMIT_START_S, cwd=ROOT)
                case = {k: spec[k] for k in ("stage", "method", "variant", "options", "threads")}
                case |= {"size": size, "source": "data" if arguments.data else "phantom"}
                bench.append(arguments.output, {"kind": "method", "case": case, **done, "environment": environment})
                failed += done["status"] in ("crashed", "over_budget")
                if not arguments.quiet:
                    print(line(case, done), flush=True)
    return 1 if failed else 0


def line(case: dict[str, Any], done: dict[str, Any]) -> str:
    """One case on one line of the terminal."""
    name = f"{case['size']:>8} {case['threads']}t  {case['stage']}.{case['method']} {case['variant']}"
    if done["status"] != "ok":
        return f"{name:60s} {done['status']}: {done['error']}"
    times, noisy = done["time"], "  NOISY" if done["load"]["noisy"] else ""
    accuracy = " ".join(f"{k}={v:.4g}" for k, v in list(done["accuracy"].items())[:2])
    return (
        f"{name:60s} first {times['first_s']:7.3f} s  median {times['median_s']:7.3f} s  "
        f"{done['relative']['fft_pairs']:7.1f} FFT pairs  {done['memory']['own_mib'] or 0:6.0f} MiB  {accuracy}{noisy}"
    )


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def sizes(text: str) -> list[str]:
    return text.split() if "@" in text else listed(text)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=(__doc__ or "").split("\n")[0])
    said = "small, medium, large, commas between; or NX,NY,NZ@VX,VY,VZ with blanks between"
    p.add_argument("--sizes", type=sizes, default=["small"], help=said)
    p.add_argument("--data", type=Path, help="BIDS dataset with its truth, instead of the phantom")
    p.add_argument("--threads", type=lambda s: [int(n) for n in listed(s)], default=[2])
    p.add_argument("--stage", type=listed, default=list(stages.STAGES), help="commas between; default all")
    p.add_argument("--method", type=listed, default=[], help="commas between; default all")
    p.add_argument("--options", type=json.loads, default={}, help="JSON object of options for the methods")
    p.add_argument("--repeats", type=int, default=7, help="warm runs after the first")
    p.add_argument("--budget-s", type=float, default=60.0, help="no further run is started after so many seconds")
    p.add_argument("--seed", type=int, default=0, help="of the phantom")
    p.add_argument("--no-peers", action="store_true", help="leave out other implementations")
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "methods.jsonl")
    p.add_argument("-q", "--quiet", action="store_true")
    return p


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["--child"]:
        print(json.dumps(child(json.loads(words[1])), default=float))
        return 0
    return run(parser().parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
