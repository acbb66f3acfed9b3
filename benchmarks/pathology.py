"""What a calcification, a haemorrhage and air cost: every method and recipe near sources far stronger than tissue.

python -m benchmarks.pathology -o benchmarks/results/pathology.jsonl --picture benchmarks/results/pathology.png

Each head is simulated twice, with its two lesions and without. What a lesion adds to the error around it is its streak;
what the error is there in the same head without it is the floor. Methods get their stage's true input with the noise
that the scan's own phase has, recipes start from phase. Methods that give less weight to what their model cannot
explain are also run with that switched off. Figures are those of qsm_runtime.metrics.lesion_error.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy import ndimage

from benchmarks.cases import NETWORK, keywords, prepare
from benchmarks.inputs import Inputs, phantom
from benchmarks.methods import listed
from benchmarks.robustness import TIMES_S, attempt, noisy
from qsm_runtime import bench, stages
from qsm_runtime import recipe as recipes
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.metrics import lesion_error
from qsm_runtime.phantom import LABELS
from qsm_runtime.pipeline import reconstruct
from qsm_runtime.scan import Scan

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("inversion", "single_step", "recipe")
LESIONS = ("calcification", "haemorrhage")
REWEIGHTING = {"outlier_rounds": 0, "outlier_sigmas": float("inf")}  # option -> the value that switches it off
NEAR_AIR_MM = 8.0  # brain closer to air than this lies at a sinus or an ear canal; the scalp is farther
NEAR_AIR = "near air"
SCENARIOS: dict[str, dict[str, Any]] = {  # lesions differ with the seed; a head too large for its grid is made smaller
    "3T": {},
    "3T seed 1": {"seed": 1},
    "3T seed 2": {"seed": 2},
    "1.5T": {"b0_tesla": 1.5, "seed": 3},
    "7T": {"b0_tesla": 7.0, "seed": 4},
    "3T 1mm small": {"shape": (112, 132, 112), "voxel_mm": (1.0, 1.0, 1.0), "seed": 5},
}
TINY = {"shape": (40, 48, 40), "voxel_mm": (5.0, 5.0, 5.0)}
SHOWN = ("inversion.tkd", "inversion.lsqr", "inversion.medi", "inversion.weak_harmonic", "single_step.joint_tv")
SHOWN_OFF = ("inversion.weak_harmonic outlier_rounds=0", "recipe.fast", "recipe.default", "recipe.best")
HALF_WIDTH_MM = 32.0
GREY_PPM = 0.25


def scene(name: str, lesions: tuple[str, ...]) -> Inputs:
    """A scenario's head with these lesions."""
    given = TINY if name == "tiny" else SCENARIOS[name]
    wanted = {"shape": (96, 116, 96), "voxel_mm": (1.75, 1.75, 1.75), "b0_tesla": 3.0, "seed": 0, **given}
    grid = Grid(wanted["shape"], wanted["voxel_mm"])
    parameters = {"b0_tesla": wanted["b0_tesla"], "echo_times_s": TIMES_S[wanted["b0_tesla"]], "seed": wanted["seed"]}
    return Inputs(phantom(grid, **parameters, lesions=lesions))


def regions(inputs: Inputs) -> dict[str, np.ndarray]:
    """Bool (x, y, z) of each lesion, and of the brain near air."""
    labels, mask = inputs["labels"], inputs.mask
    found = {name: (labels == LABELS[name]) & mask for name in LESIONS}
    found[NEAR_AIR] = mask & (ndimage.distance_transform_edt(labels != 0, inputs.voxel_mm) < NEAR_AIR_MM)
    return found


def switches(stage: str, name: str) -> list[dict[str, Any]]:
    """Options to run a method with: none, and those that switch its reweighting off."""
    known = {} if stage == "recipe" else stages.options(stages.method(stage, name))
    return [{}, *({option: off} for option, off in REWEIGHTING.items() if option in known)]


def run_of(stage: str, name: str, options: dict[str, Any], inputs: Inputs) -> Callable[[], np.ndarray]:
    """The call that gives a method's or recipe's map, ppm."""
    if stage == "recipe":
        scan = Scan(inputs["magnitude"], inputs["phase_rad"], inputs.echo_times_s, inputs.b0_tesla, inputs.grid)
        return lambda: reconstruct(scan, recipes.load(name)).chi_ppm
    noise, reliability = noisy(inputs)
    (first, *rest), supplied, _ = prepare(stage, inputs)
    function = stages.method(stage, name)
    extra = keywords(function, {**supplied, "reliability": reliability}, {})
    return lambda: function(first + noise, *rest, **extra, **options)


def figures(chi_ppm: np.ndarray, inputs: Inputs, where: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Moment error (percent) and standard deviation of the error in the rim (ppm), of each region that is there."""
    x, t = (np.where(inputs.mask, a, 0).astype(np.float64) for a in (chi_ppm, inputs["chi_ppm"]))
    found = {name: lesion_error(x, t, region, inputs.mask) for name, region in where.items()}
    return {name: error for name, error in found.items() if error is not None}


def measured(
    stage: str, name: str, options: dict[str, Any], heads: tuple[Inputs, Inputs], pool: ThreadPoolExecutor
) -> tuple[dict[str, Any], np.ndarray | None]:
    """A record's own part, and the map of the head with lesions; `heads` are with them and without."""
    ill, well = heads
    done, chi_ppm = attempt(pool, run_of(stage, name, options, ill))
    healthy, control_ppm = attempt(pool, run_of(stage, name, options, well))
    if chi_ppm is None or control_ppm is None:
        return done if chi_ppm is None else healthy, None
    where = regions(ill)
    seen, floor = figures(chi_ppm, ill, where), figures(control_ppm, well, where)
    done["accuracy"] = {
        region: {
            **({} if region == NEAR_AIR else {"moment_error_pct": seen[region][0]}),
            "voxels": int(np.count_nonzero(where[region])),
            "streak_ppm": seen[region][1],
            "floor_ppm": floor[region][1],
        }
        for region in seen
        if region in floor
    }
    return done, chi_ppm


def wanted_runs(arguments: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for stage in arguments.stage:
        for name in recipes.names() if stage == "recipe" else stages.methods(stage):
            if name != NETWORK and (not arguments.method or name in arguments.method):
                for options in switches(stage, name):
                    yield stage, name, options


def label_of(stage: str, name: str, switch: str) -> str:
    return f"{stage}.{name} {switch}".strip()


def run(arguments: argparse.Namespace) -> int:
    environment = bench.environment()
    # numba's thread count and the FFT plans belong to the thread that calls: all calls are one worker's
    with ThreadPoolExecutor(1, initializer=set_threads, initargs=(arguments.threads,)) as pool:
        for place, scenario in enumerate(arguments.scenario or SCENARIOS):
            heads, shown = (scene(scenario, LESIONS), scene(scenario, ())), {}
            for stage, name, options in wanted_runs(arguments):
                switch = ", ".join(f"{key}={value:g}" for key, value in options.items())
                done, chi_ppm = measured(stage, name, options, heads, pool)
                case = {"scenario": scenario, "stage": stage, "method": name, "switched_off": switch}
                bench.append(arguments.output, {"kind": "pathology", "case": case, **done, "environment": environment})
                if label_of(stage, name, switch) in (*SHOWN, *SHOWN_OFF) and chi_ppm is not None:
                    shown[label_of(stage, name, switch)] = chi_ppm
                if not arguments.quiet:
                    said = done.get("error") or "; ".join(
                        f"{r} {v.get('moment_error_pct', 0):+.1f} % {v['streak_ppm']:.4f} ({v['floor_ppm']:.4f})"
                        for r, v in done["accuracy"].items()
                    )
                    print(f"{scenario:12s} {label_of(stage, name, switch):40s} {said}", flush=True)
            if arguments.picture and place == 0:
                picture(heads[0], shown, arguments.picture)
    return 0


def picture(inputs: Inputs, maps: dict[str, np.ndarray], path: Path) -> None:
    """Coronal cut-outs through the lesions that are there: the truth and each map above, errors below it."""
    truth, where = inputs["chi_ppm"], regions(inputs)
    columns = {"truth": truth, **maps}
    lesions = [lesion for lesion in LESIONS if where[lesion].any()]
    if not lesions:
        return
    height = 2 * len(lesions)
    figure, axes = plt.subplots(height, len(columns), figsize=(1.7 * len(columns), 1.8 * height), squeeze=False)
    for row, lesion in enumerate(lesions):
        centre = np.rint(ndimage.center_of_mass(where[lesion])).astype(int)
        half = [int(HALF_WIDTH_MM / v) for v in inputs.voxel_mm]
        x, z = (slice(max(0, centre[a] - half[a]), centre[a] + half[a] + 1) for a in (0, 2))
        for column, (name, chi_ppm) in enumerate(columns.items()):
            shift = np.median((chi_ppm - truth)[inputs.mask])
            for below, image in enumerate((chi_ppm - shift, chi_ppm - truth - shift)):
                axis = axes[2 * row + below, column]
                cut = np.where(inputs.mask, image, 0)[x, centre[1], z].T
                axis.imshow(cut, cmap="gray", vmin=-GREY_PPM, vmax=GREY_PPM, origin="lower")
                axis.set_xticks([])
                axis.set_yticks([])
                if not row and not below:
                    axis.set_title(name.replace(".", "\n", 1).replace(" ", "\n"), fontsize=8)
                if not column:
                    axis.set_ylabel(f"{lesion}\n{'error' if below else 'map'}", fontsize=8)
    figure.suptitle(f"±{GREY_PPM} ppm, coronal, B0 upwards", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def tables(records: list[dict[str, Any]]) -> list[str]:
    """Markdown: medians over the scenarios of moment error and streak, and the worst moment error."""
    if not records:
        return []
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in records:
        case = r["case"]
        rows[case["stage"], case["method"], case["switched_off"]].append(r)
    scenarios = list(dict.fromkeys(r["case"]["scenario"] for r in records))
    out = ["## Pathology", ""]
    out += [
        f"Medians over {len(scenarios)} heads ({', '.join(scenarios)}): moment error of the lesion, percent (of the",
        "farthest off in brackets); streak: standard deviation of the error around it, 10⁻³ ppm (in brackets, of the",
        "same head without lesions). Near air: the same in what borders on the brain within "
        f"{NEAR_AIR_MM:g} mm of air.",
        "",
        "| stage | method | switched off | calcification % | streak | haemorrhage % | streak | near air |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for (stage, name, switch), found in rows.items():
        good = [r["accuracy"] for r in found if r["status"] == "ok"]
        cells = []
        for region in (*LESIONS, NEAR_AIR):
            here = [a[region] for a in good if region in a]
            if not here:
                cells += [""] if region == NEAR_AIR else ["", ""]
                continue
            streak, floor = (1000 * float(np.median([a[k] for a in here])) for k in ("streak_ppm", "floor_ppm"))
            if region != NEAR_AIR:
                errors = np.array([a["moment_error_pct"] for a in here])
                cells.append(f"{np.median(errors):+.1f} ({errors[np.abs(errors).argmax()]:+.0f})")
            cells.append(f"{streak:.0f} ({floor:.0f})" if region != NEAR_AIR else f"{streak:.0f}")
        out.append(f"| {stage} | {name} | {switch} | " + " | ".join(cells) + " |")
    return [*out, ""]


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.pathology", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--scenario", type=listed, default=[], help=f"default all: {', '.join(SCENARIOS)}; tiny")
    p.add_argument("--stage", type=listed, default=[*STAGES], help="commas between; default all")
    p.add_argument("--method", type=listed, default=[], help="methods or recipes; default all")
    p.add_argument("--threads", type=int, default=None)
    p.add_argument("--picture", type=Path, default=None, help="PNG of the first scenario's lesions to write")
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "pathology.jsonl")
    p.add_argument("-q", "--quiet", action="store_true")
    return run(p.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
