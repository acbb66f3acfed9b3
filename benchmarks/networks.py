"""How networks generalise, bare and with physics: resolution, noise, B0 direction and range of susceptibility.

python -m benchmarks.networks --models DIR -o benchmarks/results/networks.jsonl
python -m benchmarks.networks --table benchmarks/results/networks.jsonl

The scenarios follow the generalisation tests of the reviews of deep learning for QSM (Jung 2020, 10.1002/nbm.4292) on
simulated heads: the true local field plus noise of the size that the scenario's own phase has. `bare` is the network as
its card says (with its own unrolled steps, where it has them); the others bring its map to the field afterwards.
Scores are those of qsm_runtime.metrics in the whole mask. What networks cost: benchmarks/network_costs.py.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.cases import kept
from benchmarks.inputs import Inputs, phantom
from benchmarks.methods import listed
from benchmarks.robustness import TIMES_S, noisy
from qsm_runtime import bench, stages
from qsm_runtime.errors import QsmError, QsmWarning
from qsm_runtime.grid import Grid
from qsm_runtime.inversion.network import Refinement, network, refined
from qsm_runtime.networks import registry
from qsm_runtime.networks.runtime import Runtime

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"small": (64, 76, 64), "medium": (112, 132, 112)}  # at 1 mm; other voxels keep the field of view
CLASSICAL = ("tkd", "tv")
BASE: dict[str, Any] = {"voxel_mm": (1.0, 1.0, 1.0), "degrees": 0.0, "b0_tesla": 3.0, "peak_snr": 100.0, "scale": 1.0}
SCENARIOS: dict[str, dict[str, Any]] = {
    "1 mm": {},
    "0.75 mm": {"voxel_mm": (0.75, 0.75, 0.75)},
    "1.5 mm": {"voxel_mm": (1.5, 1.5, 1.5)},
    "1x1x2 mm": {"voxel_mm": (1.0, 1.0, 2.0)},
    "SNR 30": {"peak_snr": 30.0},
    "B0 20deg": {"degrees": 20.0},
    "B0 45deg": {"degrees": 45.0},
    "B0 90deg": {"degrees": 90.0},
    "7 T": {"b0_tesla": 7.0},
    "chi x0.3": {"scale": 0.3},
    "chi x4": {"scale": 4.0},
}


def scene(name: str, size: str) -> tuple[Inputs, float]:
    """The prepared head of a scenario, and what its susceptibility is multiplied by."""
    wanted = {**BASE, **SCENARIOS[name]}
    x, y, z = (max(24, round(n / v / 2) * 2) for n, v in zip(SHAPES[size], wanted["voxel_mm"], strict=True))
    angle = np.radians(wanted["degrees"])
    towards = np.array((2.0, 1.0)) / np.sqrt(5) * np.sin(angle)
    grid = Grid((x, y, z), wanted["voxel_mm"], (*towards, np.cos(angle)))
    b0 = wanted["b0_tesla"]
    path = phantom(grid, b0_tesla=b0, echo_times_s=TIMES_S[b0], peak_snr=wanted["peak_snr"], seed=3)
    return Inputs(path), wanted["scale"]


def runs(
    inputs: Inputs, scale: float, models: list[str], runtime: Runtime
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(model or method, physics, the record's own part)."""
    noise, reliability = noisy(inputs)
    mask, grid = inputs.mask, inputs.grid
    field, truth = inputs["local_ppm"] * np.float32(scale) + noise, inputs["chi_ppm"] * np.float32(scale)

    def scored(chi: np.ndarray, seconds: float, said: list[str]) -> dict[str, Any]:
        return {"status": "ok", "cpu_s": seconds, "warnings": said, "accuracy": kept(chi, truth, inputs, mask)}

    for name in CLASSICAL:
        function = stages.method("inversion", name)
        extra = {"reliability": reliability} if "reliability" in stages.supplied(function) else {}
        start = time.process_time()
        yield name, "classical", scored(function(field, mask, grid, **extra), time.process_time() - start, [])
    for name in models:
        start = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", QsmWarning)
            try:
                chi = network(
                    field,
                    mask,
                    grid,
                    model=name,
                    reliability=reliability,
                    b0_tesla=inputs.b0_tesla,
                    echo_times_s=inputs.echo_times_s,
                    runtime=runtime,
                )
            except QsmError as error:
                yield name, "bare", {"status": "refused", "error": str(error)}
                continue
        seconds = time.process_time() - start
        for refine in get_args(Refinement):
            start = time.process_time()
            found = refined(chi, field, mask, grid, refine=refine, reliability=reliability)
            own = time.process_time() - start + seconds
            yield name, "bare" if refine == "none" else refine, scored(found, own, [str(w.message) for w in caught])


def table(records: list[dict[str, Any]], score: str = "xsim") -> str:
    """Markdown: a score of each network and physics over the scenarios."""
    scenarios = list(dict.fromkeys(r["case"]["scenario"] for r in records))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for r in records:
        case = r["case"]
        digits = 1 if score.endswith("_pct") else 3
        text = f"{r['accuracy'][score]:.{digits}f}" if r["status"] == "ok" else r["status"]
        rows.setdefault((case["model"], case["physics"]), {})[case["scenario"]] = text
    lines = ["| network | physics | " + " | ".join(scenarios) + " |", "|---|---|" + "--:|" * len(scenarios)]
    for (name, physics), cells in rows.items():
        lines.append(f"| {name} | {physics} | " + " | ".join(cells.get(s, "") for s in scenarios) + " |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--models", type=Path, action="append", default=[], help="folder searched for models first")
    p.add_argument("--network", type=listed, default=[], help="names; default every inversion model found")
    p.add_argument("--scenario", type=listed, default=list(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    p.add_argument("--size", choices=SHAPES, default="small")
    p.add_argument("--device", default="auto")
    p.add_argument("--table", type=Path, help="only print the tables of this file")
    p.add_argument("--score", default="xsim,correlation,nrmse_pct,slope", type=listed, help="of the tables")
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "networks.jsonl")
    a = p.parse_args(words)
    if a.table is None:
        runtime = Runtime(device=a.device, models=tuple(a.models), mode="server")
        every = (f for f in registry.every(a.models) if f.model is not None and not f.hidden)
        models = a.network or [f.name for f in every if f.model is not None and f.model.card.task == "inversion"]
        environment = bench.environment()
        for name in a.scenario:
            inputs, scale = scene(name, a.size)
            for model, physics, found in runs(inputs, scale, models, runtime):
                case = {"scenario": name, "size": a.size, "model": model, "physics": physics}
                bench.append(a.output, {"kind": "network", "case": case, **found, "environment": environment})
    records = [r for r in bench.read(a.table or a.output) if r["kind"] == "network"]
    for score in a.score:
        print(f"\n{score}\n\n{table(records, score)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
