"""What a network costs: with its physics on the host or in the graph, and on one device against another.

python -m benchmarks.network_costs whole --models DIR --network mog -o benchmarks/results/network_costs.jsonl
python -m benchmarks.network_costs devices --models DIR --device cuda -o benchmarks/results/network_costs.jsonl

whole    an unrolled network as its CNN with the dipole steps on the host (NAME), against the same as one graph
         (NAME_dft, NAME_matmul: `python -m export NAME --whole` makes them), on cubes whose mask fills nearly all
devices  a network's map from a simulated head on a device, against the one of onnxruntime's own CPU provider
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import Inputs, grid_of, phantom
from benchmarks.methods import listed, sizes
from qsm_runtime import bench, stages
from qsm_runtime.errors import QsmError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import plan
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.networks import registry
from qsm_runtime.networks.runtime import Runtime

ROOT = Path(__file__).resolve().parents[1]
FORMS = {"host": "{}", "dft": "{}_dft", "matmul": "{}_matmul"}  # and what they are called
REFERENCE = "ort-cpu"
LIMIT_START_S = 120.0
B0_TESLA, TIMES_S = 3.0, (0.006, 0.013, 0.020)


class Watched:
    """Seconds, of the clock and of the processor, that sessions of networks ran."""

    def __init__(self) -> None:
        from qsm_runtime.networks.session import NetSession

        self.wall = self.cpu = 0.0
        run = NetSession.run

        def timed(session: NetSession, inputs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return run(session, inputs)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        NetSession.run = timed  # type: ignore[assignment, method-assign]


def whole(spec: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """One form of a network on noise in a cube; the map is kept, or compared with the one that is."""
    from qsm_runtime.networks.compute import Known, computed
    from qsm_runtime.networks.frame import Frame

    n = spec["size"]
    grid = Grid((n, n, n), (1.0, 1.0, 1.0))
    x = np.linspace(-1, 1, n)
    mask = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 < 0.9
    noise = np.random.default_rng(0).standard_normal(grid.shape, np.float32)
    field = np.where(mask, np.float32(0.02) * noise, np.float32(0))
    model = registry.find(FORMS[spec["form"]].format(spec["model"]), runtime.models)
    frame = Frame(model.card, np.ones_like(mask), grid, lambda shape: shape)
    frame.mask = mask
    plan(grid.shape)  # in every form, so that none pays for what is kept on disk
    watched, about = Watched(), {}

    def call() -> np.ndarray:
        made, said = computed(model, {"local_field": field}, frame, runtime, Known(b0_tesla=B0_TESLA), None)
        about.update(said)
        return made["chi"] * mask

    record, chi = bench.measure(call, grid.shape, repeats=spec["repeats"], budget_s=spec["budget_s"])
    runs = 1 + len(record["time"]["warm_s"])
    record["network"] = {"wall_s": watched.wall / runs, "cpu_s": watched.cpu / runs}
    kept, accuracy = Path(spec["kept"]), {}
    if kept.exists():
        other = np.load(kept)
        accuracy = {"relative_difference": float(np.abs(chi - other).max() / np.ptp(other))}
    else:
        np.save(kept, chi)
    return {**record, "about": about, "accuracy": accuracy}


def devices(spec: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """A network's map of a simulated head on the device asked for, and the reference's."""
    inputs = Inputs(Path(spec["input"]))
    model = registry.find(spec["model"], runtime.models)
    stage, field = {"inversion": ("inversion", "local_ppm"), "single_step": ("single_step", "total_ppm")}[
        model.card.task
    ]
    function, about = stages.method(stage, "network"), {}
    known = {"echo_times_s": inputs.echo_times_s, "b0_tesla": inputs.b0_tesla, "model": spec["model"]}

    def map_by(chosen: Runtime) -> np.ndarray:
        def record(name: str, value: Any) -> None:
            about[name] = value

        return function(inputs[field], inputs.mask, inputs.grid, runtime=chosen, record=record, **known)

    repeats, budget_s = spec["repeats"], spec["budget_s"]
    measured, chi = bench.measure(lambda: map_by(runtime), inputs.grid.shape, repeats=repeats, budget_s=budget_s)
    here = about["network"]
    reference = Runtime(device=REFERENCE, models=runtime.models, mode=runtime.mode)
    other, expected = bench.measure(lambda: map_by(reference), inputs.grid.shape, repeats=1, budget_s=budget_s)
    gap = np.abs(chi - expected)[inputs.mask]
    accuracy = {"largest_difference_ppm": float(gap.max()), "rms_difference_ppm": float(np.sqrt(np.mean(gap**2)))}
    return {**measured, "about": here, "accuracy": accuracy, "reference_time": other["time"]}


MODES = {"whole": whole, "devices": devices}


def child(spec: dict[str, Any]) -> dict[str, Any]:
    set_threads(spec["threads"])
    folders = tuple(Path(folder) for folder in spec["models"])
    try:
        runtime = Runtime(device=spec["device"], precision=spec["precision"], models=folders, mode="server")
        return MODES[spec["mode"]](spec, runtime)
    except QsmError as error:
        return {"status": "refused", "error": str(error)}


def cases(a: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every case with what its child needs to know beside."""
    shared = {"device": a.device, "precision": a.precision, "threads": a.threads}
    if a.mode == "whole":
        return [
            {"model": model, "form": form, "size": int(n), **shared, "kept": str(folder / f"{model}_{n}.npy")}
            for model in a.network
            for n in a.sizes
            for form in a.form
        ]
    found = [f for f in registry.every(a.models) if f.model is not None and not f.hidden]
    names = [f.name for f in found if f.model is not None and f.model.card.task in ("inversion", "single_step")]
    made = []
    for size in a.sizes:
        path = phantom(grid_of(size), b0_tesla=B0_TESLA, echo_times_s=TIMES_S, seed=3)
        made += [{"model": name, "size": size, **shared, "input": str(path)} for name in a.network or names]
    return made


def run(a: argparse.Namespace) -> int:
    environment, failed = bench.environment(), 0
    rest = {"mode": a.mode, "repeats": a.repeats, "budget_s": a.budget_s, "models": [str(f) for f in a.models]}
    with tempfile.TemporaryDirectory() as folder:
        for spec in cases(a, Path(folder)):
            command = [sys.executable, "-m", "benchmarks.network_costs", "--child", json.dumps(spec | rest)]
            done = bench.run_child(command, limit_s=4 * a.budget_s + LIMIT_START_S, cwd=ROOT)
            case = {k: v for k, v in spec.items() if k not in ("kept", "input")}
            record = {"kind": f"network_{a.mode}", "case": case, **done, "environment": environment}
            bench.append(a.output, record)
            failed += done["status"] != "ok"
            print(line(case, done), flush=True)
    print("\n" + tables(bench.read(a.output)))
    return 1 if failed else 0


def line(case: dict[str, Any], done: dict[str, Any]) -> str:
    """One case on one line of the terminal."""
    name = " ".join(str(case[k]) for k in ("model", "form", "size", "device", "precision") if k in case)
    if done["status"] != "ok":
        return f"{name:36s} {done['status']}: {done['error']}"
    times, noisy = done["time"], "  NOISY" if done["load"]["noisy"] else ""
    accuracy = "  ".join(f"{k} {v:.2g}" for k, v in done["accuracy"].items())
    return f"{name:36s} {times['median_s']:7.2f} s  {done['memory']['peak_mib'] or 0:6.0f} MiB  {accuracy}{noisy}"


def tables(records: list[dict[str, Any]]) -> str:
    """Markdown: what the last record of each case says."""
    last = {json.dumps([r["kind"], r["case"]], sort_keys=True): r for r in records if r["status"] == "ok"}
    heads = {
        "network_whole": (
            "| network | size | dipole steps | provider | s | CPU s | of it the network | peak MiB | differs by |",
            "|---|--:|---|---|--:|--:|--:|--:|--:|",
        ),
        "network_devices": (
            "| network | size | provider | s | s by the CPU provider | largest difference, ppm |",
            "|---|---|---|--:|--:|--:|",
        ),
    }
    rows = {kind: [_row(r) for r in last.values() if r["kind"] == kind] for kind in heads}
    return "\n\n".join("\n".join([*heads[kind], *found]) for kind, found in rows.items() if found)


def _row(r: dict[str, Any]) -> str:
    case, about, times = r["case"], r["about"], r["time"]
    cells = [case["model"], f"{case['size']}", f"{about['provider']} {about['precision']}", f"{times['median_s']:.2f}"]
    if r["kind"] == "network_devices":
        gap = r["accuracy"]["largest_difference_ppm"]
        return "| " + " | ".join([*cells, f"{r['reference_time']['median_s']:.2f}", f"{gap:.1e}"]) + " |"
    cells[1:2] = [f"{case['size']}³", "host" if case["form"] == "host" else f"in the graph, {case['form']}"]
    cpu = float(np.median(times["warm_cpu_s"] or [times["first_cpu_s"]]))
    gap = r["accuracy"].get("relative_difference")
    rest = [f"{cpu:.1f}", f"{r['network']['cpu_s']:.1f}", f"{r['memory']['peak_mib']:.0f}", f"{gap:.1e}" if gap else ""]
    return "| " + " | ".join([*cells, *rest]) + " |"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.network_costs", description=(__doc__ or "").split("\n")[0])
    p.add_argument("mode", choices=MODES)
    p.add_argument("--models", type=Path, action="append", default=[], help="folder searched for models first")
    p.add_argument("--network", type=listed, default=[], help="names; devices: default every one from a field to chi")
    p.add_argument("--form", type=listed, default=list(FORMS), help=f"whole: of {', '.join(FORMS)}, host first")
    p.add_argument("--sizes", type=sizes, default=[], help="whole: 96,128,160; devices: small")
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="f32")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=3, help="warm runs after the first")
    p.add_argument("--budget-s", type=float, default=120.0, help="no further run is started after so many seconds")
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "network_costs.jsonl")
    return p


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["--child"]:
        print(json.dumps(child(json.loads(words[1])), default=float))
        return 0
    a = parser().parse_args(words)
    a.sizes = a.sizes or (["96", "128", "160"] if a.mode == "whole" else ["small"])
    if a.mode == "whole" and not a.network:
        parser().error("whole needs --network NAME, of which NAME_dft and NAME_matmul are there too")
    return run(a)


if __name__ == "__main__":
    sys.exit(main())
