"""Tables and figures from the records of the other benchmarks.

python -m benchmarks.report benchmarks/results/*.jsonl -o benchmarks/results

Writes report.md and, where the records allow, accuracy_time_SIZE.png (accuracy against time, one panel a stage),
growth.png (time against volume, with the exponent) and threads.png (speed-up). A later record of a case replaces an
earlier one; a star marks times taken while the machine was busy with something else.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks import pathology, robustness
from qsm_runtime import bench

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito: colour-blind safe
MARKERS = "osD^vP*Xh<>pd8H"
MEASURE = {  # what stands for accuracy in a stage: key, label, whether less is better
    "mask": ("dice", "Dice overlap", False),
    "offset": ("rms_rad", "error of the phase / rad", True),
    "unwrap": ("wrong_pct", "wrong turns / %", True),
}
WORDS = {
    "dice": "Dice",
    "missed_pct": "missed %",
    "outside_pct": "outside %",
    "wrong_pct": "wrong turns %",
    "wrong_worst_echo_pct": "worst echo %",
    "rms_rad": "rms rad",
    "relative_error": "error",
    "max_error_ppm": "max error ppm",
    "value_ppm": "value ppm",
}
COLUMNS = 2
BESIDE: dict[str, Any] = {  # a legend that covers no curve or point
    "fontsize": 8, "title_fontsize": 8, "frameon": False, "loc": "center left", "bbox_to_anchor": (1.0, 0.5),
}  # fmt: skip
DEFAULT_MEASURE = ("xsim", "XSIM, valid mask", False)
Records = list[dict[str, Any]]


def latest(records: Records) -> Records:
    """The last record of each case."""
    found = {(r["kind"], str(sorted(r["case"].items(), key=lambda kv: kv[0]))): r for r in records}
    return list(found.values())


def accuracy(record: dict[str, Any]) -> str:
    """The accuracy that stands beside a time, in words."""
    a = record["accuracy"]
    if "xsim" in a:
        full = f" ({a['xsim_full']:.3f})" if abs(a["xsim_full"] - a["xsim"]) > 5e-4 else ""
        return f"XSIM {a['xsim']:.3f}{full}, r {a['correlation']:.3f}, slope {a['slope']:.2f}"
    return ", ".join(f"{WORDS.get(k, k)} {v:.3g}" for k, v in a.items())


def name_of(record: dict[str, Any]) -> str:
    case = record["case"]
    name = case.get("kernel") or case["method"] + ("" if case["variant"] == "default" else f", {case['variant']}")
    options = ", ".join(f"{k}={v}" for k, v in case.get("options", {}).items())
    return (name + (f" ({options})" if options else "")).replace("_", " ")


def times_table(records: Records) -> list[str]:
    """One row a case: first call, median and quartiles, multiples of the yardsticks, memory, accuracy."""
    out = [
        "| stage | method | first s | median s | quartiles | FFT pairs | copies | peak MiB (own) | accuracy |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for r in records:
        stage = r["case"].get("stage", "kernel")
        if r["status"] != "ok":
            said = r["error"].replace("|", "/")[:90]
            out.append(f"| {stage} | {name_of(r)} | | | | | | | {r['status'].replace('_', ' ')}: {said} |")
            continue
        t, m = r["time"], r["memory"]
        star = "*" if r["load"]["noisy"] else ""
        memory = "" if m["peak_mib"] is None else f"{m['peak_mib']:.0f} ({m['own_mib'] or 0:.0f})"
        times = f"{t['first_s']:.3g} | {t['median_s']:.3g}{star} | {t['p25_s']:.3g}–{t['p75_s']:.3g}"
        pairs, copies = (f"{r['relative'][k]:.3g}" for k in ("fft_pairs", "copies"))
        out.append(f"| {stage} | {name_of(r)} | {times} | {pairs} | {copies} | {memory} | {accuracy(r)} |")
    return out


def yardstick_line(records: Records) -> str:
    """What one FFT pair and one copy were, over all cases of a table."""
    sticks = [r["yardstick"] for r in records if r["status"] == "ok"]
    if not sticks:
        return ""
    pair, copy = (1000 * float(np.median([t for s in sticks for t in s[k]])) for k in ("fft_pair_s", "copy_s"))
    shape = "×".join(map(str, sticks[0]["fft_shape"]))
    noisy = sum(bool(r.get("load", {}).get("noisy")) for r in records)
    said = f"One FFT pair of {shape}: {pair:.3g} ms; one copy: {copy:.3g} ms."
    return said + (f" {noisy} of {len(records)} cases ran on a busy machine (*)." if noisy else "")


def growth(records: Records) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, float]]:
    """Voxels, medians and exponent of time = c voxels^p of each method with several sizes, at most threads."""
    points: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    most = max((r["case"]["threads"] for r in records), default=1)
    for r in records:
        if r["status"] == "ok" and r["case"]["threads"] == most and r["case"].get("source") != "data":
            key = (r["case"].get("stage", "kernel"), name_of(r))
            points[key][int(np.prod(r["grid"]["shape"]))] = r["time"]["median_s"]
    out = {}
    for key, sized in points.items():
        if len(sized) > 1:
            voxels, seconds = np.array(sorted(sized)), np.array([sized[n] for n in sorted(sized)])
            out[key] = (voxels, seconds, float(np.polyfit(np.log(voxels), np.log(seconds), 1)[0]))
    return out


def speedup(records: Records) -> dict[tuple[str, str], float]:
    """Median at one thread over median at the most, at the largest size that has both."""
    seconds: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for r in records:
        if r["status"] == "ok":
            where = int(np.prod(r["grid"]["shape"])), r["case"]["threads"]
            seconds[r["case"].get("stage", "kernel"), name_of(r)][where] = r["time"]["median_s"]
    out = {}
    for key, found in seconds.items():
        for voxels in sorted({v for v, _ in found}, reverse=True):
            threads = [t for v, t in found if v == voxels]
            if 1 in threads and max(threads) > 1:
                out[key] = found[voxels, 1] / found[voxels, max(threads)]
                break
    return out


def scatter(records: Records, path: Path, title: str) -> None:
    """Accuracy against time, one panel a stage; better is up and to the left."""
    panels: dict[str, Records] = defaultdict(list)
    for r in records:
        if r["status"] == "ok" and r["case"]["stage"] != "reference" and r["case"]["method"] != "none":
            panels[r["case"]["stage"]].append(r)
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.8 * columns, 4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (stage, found) in zip(axes.flat, panels.items(), strict=False):
        key, label, less = MEASURE.get(stage, DEFAULT_MEASURE)
        for i, r in enumerate(sorted(found, key=lambda r: r["time"]["median_s"])):
            t, y = r["time"], max(r["accuracy"][key], 1e-4) if less else r["accuracy"][key]
            spread = [[max(0.0, t["median_s"] - t["min_s"])], [max(0.0, t["max_s"] - t["median_s"])]]
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axis.errorbar(t["median_s"], y, xerr=spread, ls="", ms=8, capsize=2, label=name_of(r), **style)
        axis.set(title=stage.replace("_", " "), xlabel="time / s (median, extremes)", ylabel=label, xscale="log")
        low, high = axis.get_xlim()
        axis.set_xlim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        axis.xaxis.set_minor_formatter(NullFormatter())
        if less:
            axis.set_yscale("log")
            axis.invert_yaxis()
        axis.grid(alpha=0.3, which="both")
        axis.legend(**BESIDE)
    figure.suptitle(f"{title} (up and left is better)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def growth_plot(found: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, float]], path: Path) -> None:
    panels = list(dict.fromkeys(stage for stage, _ in found))
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.8 * columns, 4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, stage in zip(axes.flat, panels, strict=False):
        for i, (name, (voxels, seconds, power)) in enumerate((n, v) for (s, n), v in found.items() if s == stage):
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axis.loglog(voxels / 1e6, seconds, label=f"{name}: {power:.2f}", **style)
        axis.set(title=stage.replace("_", " "), xlabel="volume / million voxels", ylabel="time / s")
        axis.grid(alpha=0.3, which="both")
        axis.legend(title="p of time ∝ voxels^p", **BESIDE)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def speedup_plot(found: dict[tuple[str, str], float], threads: int, path: Path) -> None:
    stages = list(dict.fromkeys(stage for stage, _ in found))
    names = [f"{stage.replace('_', ' ')}: {name}" for stage, name in found]
    colours = [COLOURS[stages.index(stage) % len(COLOURS)] for stage, _ in found]
    figure, axis = plt.subplots(figsize=(8, 1 + 0.22 * len(names)), layout="constrained")
    axis.barh(names, list(found.values()), color=colours)
    axis.axvline(1, color="black", lw=1)
    axis.axvline(threads, color="black", lw=1, ls="--")
    axis.invert_yaxis()
    axis.set(xlabel=f"time with 1 thread / time with {threads} (dashed: ideal)")
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(records: Records, folder: Path) -> Path:
    """report.md and the figures; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    records = latest(records)
    text = ["# Benchmarks", ""]
    for said in dict.fromkeys(machine(r["environment"]) for r in records):
        text += [said, ""]
    timed = [r for kind in ("method", "kernel") for r in records if r["kind"] == kind]
    for kind in ("method", "kernel"):
        groups: dict[tuple[str, int], Records] = defaultdict(list)
        for r in timed:
            if r["kind"] == kind:
                groups[r["case"]["size"], r["case"]["threads"]].append(r)
        for (size, threads), found in groups.items():
            text += [
                f"## {kind.capitalize()}s: {size}, {threads} thread{'s' * (threads > 1)}",
                "",
                yardstick_line(found),
                "",
            ]
            text += [*times_table(found), ""]
        for size in dict.fromkeys(size for size, _ in groups) if kind == "method" else ():
            most = max(threads for s, threads in groups if s == size)
            picture = folder / f"accuracy_time_{size.replace(',', 'x').replace('@', '_')}.png"
            if any(r["status"] == "ok" and r["case"]["stage"] != "reference" for r in groups[size, most]):
                scatter(groups[size, most], picture, f"{size}, {most} threads")
                text += [f"![accuracy against time, {size}]({picture.name})", ""]
    grown, faster = growth(timed), speedup(timed)
    if grown:
        growth_plot(grown, folder / "growth.png")
        text += ["## Growth with volume", "", "![time against volume](growth.png)", ""]
        text += ["| stage | method | exponent |", "|---|---|--:|"]
        text += [f"| {stage} | {name} | {p:.2f} |" for (stage, name), (_, _, p) in grown.items()] + [""]
    if faster:
        most = max(r["case"]["threads"] for r in timed)
        speedup_plot(faster, most, folder / "threads.png")
        text += ["## Threads", "", f"![speed-up with {most} threads](threads.png)", ""]
    text += robustness.tables([r for r in records if r["kind"] == "robustness"])
    text += pathology.tables([r for r in records if r["kind"] == "pathology"])
    if (folder / "pathology.png").exists():
        text += ["![slices through the lesions of one head](pathology.png)", ""]
    path = folder / "report.md"
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def machine(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    return f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_mib']} MiB; {versions}."


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").split("\n")[0])
    p.add_argument("files", type=Path, nargs="+", help="JSON lines")
    p.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    arguments = p.parse_args(words)
    print(write([r for path in arguments.files for r in bench.read(path)], arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
