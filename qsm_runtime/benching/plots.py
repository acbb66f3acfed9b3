"""Figures of a report as SVG: readable in grey and by the colour-blind (Okabe and Ito), series also told by shape."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from qsm_runtime.benching import records as said
from qsm_runtime.benching.axes import name_points, plain_ticks
from qsm_runtime.benching.records import Record

# in the order in which neighbours differ most, also as protanopes and deuteranopes see them
COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#999999")
# of lines alone: SVG holds a hatch of dots or circles as thousands of curves
MARKERS, HATCHES = "osD^vP*X", ("", "//", "||", "xx", "\\\\", "++", "|/", "--")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "qsm", "hatch.linewidth": 0.5, "text.parse_math": False,
}  # fmt: skip


def figures(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(caption, SVG) of the figures that the records allow."""
    done = [r for r in said.latest(records) if r["status"] == "ok"]
    made = []
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for caption, draw in (
            ("Latency by stage: medians of warm runs", by_stage),
            ("Cold start: from launch to the first map", by_part),
            ("Time against accuracy: up and to the left is better; bars are p5 to p95 of the runs", against_accuracy),
            ("Scaling with threads: dashed is ideal", with_threads),
            ("Scaling with volume: dashed is proportional", with_volume),
            ("Share of the machine's bound, by stage", shares),
        ):
            figure = draw(done)
            if figure is not None:
                made.append((caption, svg(figure)))
    return made


def beside(named: Mapping[str, Sequence[Record]]) -> list[tuple[str, str]]:
    """(caption, SVG) of several machines' recipes at their most threads."""
    times: dict[str, dict[str, float]] = {}
    for name, found in named.items():
        done = [r for r in said.latest(found) if r["status"] == "ok" and not said.wrong(r)]
        most = max((r["case"]["threads"] for r in done), default=1)
        for r in done:
            if r["kind"] in ("recipe", "cold") and r["case"]["threads"] == most:
                words = (said.name_of(r), said.place_of(r), r["case"]["size"])
                times.setdefault(", ".join(word for word in words if word), {})[name] = r["time"]["median_s"]
    if not times:
        return []
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        height = 0.8 / len(named)
        figure, axis = plt.subplots(figsize=(8.5, 1.2 + 0.22 * len(named) * len(times)), layout="constrained")
        for i, name in enumerate(named):
            at = [
                row + (i - (len(named) - 1) / 2) * height for row, found in enumerate(times.values()) if name in found
            ]
            took = [found[name] for found in times.values() if name in found]
            style: dict[str, Any] = {"color": COLOURS[i % 8], "hatch": HATCHES[i % 8], "edgecolor": "white"}
            bars = axis.barh(at, took, height, label=name, **style)
            axis.bar_label(bars, [f" {said.seconds(t)} s" for t in took], fontsize=8)
        axis.set_yticks(range(len(times)), list(times))
        axis.invert_yaxis()
        axis.set(xlabel="seconds (median)")
        axis.margins(x=0.12)
        axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
        return [("Median seconds at the most threads of each", svg(figure))]


def svg(figure: Figure) -> str:
    """The <svg> element of a figure, which is closed."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def by_stage(records: Sequence[Record]) -> Figure | None:
    rows = {
        _row(r): {s: float(np.median(t)) for s, t in r["stages"]["warm_s"].items()}
        for r in records
        if r["kind"] == "recipe"
    }
    return _stacked(rows, "seconds")


def by_part(records: Sequence[Record]) -> Figure | None:
    rows = {
        _row(r) + (", empty caches" if r["case"]["caches"] == "empty" else ""): r["time"]["breakdown_s"]
        for r in records
        if r["kind"] == "cold"
    }
    return _stacked(rows, "seconds")


def against_accuracy(records: Sequence[Record]) -> Figure | None:
    most = max((r["case"]["threads"] for r in records), default=1)
    scored = [
        r
        for r in records
        if r["kind"] in ("recipe", "model", "method")
        and "xsim_full" in (r.get("accuracy") or {})
        and r["case"]["threads"] == most
        and not said.wrong(r)
    ]
    if len(scored) < 2:
        return None
    figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    names = list(dict.fromkeys(said.name_of(r) for r in scored))
    sizes = list(dict.fromkeys(r["case"]["size"] for r in scored))
    points = []
    for r in scored:
        t, i, k = r["time"], names.index(said.name_of(r)), sizes.index(r["case"]["size"])
        low = float(np.percentile(t["warm_s"] or [t["median_s"]], 5))
        spread = [[max(0.0, t["median_s"] - low)], [max(0.0, t["p95_s"] - t["median_s"])]]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
        axis.errorbar(t["median_s"], r["accuracy"]["xsim_full"], xerr=spread, ls="", ms=8, capsize=3, **style)
        label = f"{said.name_of(r)} {said.place_of(r)}".strip()
        points.append((t["median_s"], r["accuracy"]["xsim_full"], label))
    for k, size in enumerate(sizes):
        axis.plot([], [], ls="", marker=MARKERS[k % len(MARKERS)], color="black", label=size)
    axis.set(xscale="log", xlabel="seconds (median)", ylabel="XSIM over the whole mask")
    axis.margins(x=0.15, y=0.25)
    axis.grid(alpha=0.3, which="both")
    axis.legend(title="size", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain_ticks(axis.xaxis)
    name_points(figure, axis, points)
    return figure


def with_threads(records: Sequence[Record]) -> Figure | None:
    found: dict[str, dict[int, float]] = {}
    for r in records:
        if r["kind"] == "recipe":
            found.setdefault(f"{r['case']['recipe']}, {r['case']['size']}", {})[r["case"]["threads"]] = r["time"][
                "median_s"
            ]
    found = {name: times for name, times in found.items() if len(times) > 1 and 1 in times}
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    most = 1
    for i, (name, times) in enumerate(found.items()):
        counts = sorted(times)
        most = max(most, counts[-1])
        axis.plot(
            counts, [times[1] / times[n] for n in counts], MARKERS[i % 8] + "-", color=COLOURS[i % 8], label=name, ms=8
        )
    axis.plot([1, most], [1, most], "k--", lw=1)
    axis.set(xlabel="threads", ylabel="times as fast as with one thread", xticks=range(1, most + 1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def with_volume(records: Sequence[Record]) -> Figure | None:
    most = max((r["case"]["threads"] for r in records), default=1)
    found: dict[str, dict[int, float]] = {}
    for r in records:
        if r["kind"] in ("recipe", "model") and "grid" in r and r["case"]["threads"] == most:
            name = f"{said.name_of(r)} {said.place_of(r)}".strip()
            found.setdefault(name, {})[int(np.prod(r["grid"]["shape"]))] = r["time"]["median_s"]
    found = {name: times for name, times in found.items() if len(times) > 1}
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
    for i, (name, times) in enumerate(found.items()):
        voxels = np.array(sorted(times))
        taken = np.array([times[n] for n in voxels])
        power = float(np.polyfit(np.log(voxels), np.log(taken), 1)[0])
        label = f"{name}: seconds ∝ voxels^{power:.2f}"
        axis.loglog(voxels / 1e6, taken, MARKERS[i % 8] + "-", color=COLOURS[i % 8], label=label, ms=8)
        if i == 0:
            axis.loglog(voxels / 1e6, taken[0] * voxels / voxels[0], "k--", lw=1)
    axis.set(xlabel="million voxels", ylabel="seconds (median)")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain_ticks(axis.xaxis)
    plain_ticks(axis.yaxis)
    return figure


def shares(records: Sequence[Record]) -> Figure | None:
    bounded = [r for r in records if r["kind"] == "recipe" and r.get("bound")]
    if not bounded:
        return None
    r = bounded[-1]
    bound = {s: b for s, b in r["bound"].items() if b["share_of_bound"] is not None}
    names = [s.replace("_", " ") for s in bound]
    figure, axis = plt.subplots(figsize=(7.5, 0.8 + 0.35 * len(names)), layout="constrained")
    for what, colour, hatch, key in (("FFTs", COLOURS[0], "", "fft_s"), ("memory", COLOURS[1], "//", "memory_s")):
        took = [float(np.median(r["stages"]["warm_s"][s])) or 1e-9 for s in bound]
        width = [100 * b[key] / t for b, t in zip(bound.values(), took, strict=True)]
        left = (
            [0.0] * len(names)
            if key == "fft_s"
            else [100 * b["fft_s"] / t for b, t in zip(bound.values(), took, strict=True)]
        )
        axis.barh(names, width, left=left, color=colour, hatch=hatch, edgecolor="white", label=what)
    axis.invert_yaxis()
    axis.set(xlabel=f"% of the stage's time ({_row(r)})", xlim=(0, 100))
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def _stacked(rows: dict[str, dict[str, float]], label: str) -> Figure | None:
    if not rows:
        return None
    parts = list(dict.fromkeys(p for row in rows.values() for p in row))
    figure, axis = plt.subplots(figsize=(8.5, 1.3 + 0.38 * len(rows)), layout="constrained")
    left = np.zeros(len(rows))
    for i, part in enumerate(parts):
        width = np.array([row.get(part, 0.0) for row in rows.values()])
        style: dict[str, Any] = {"color": COLOURS[i % 8], "hatch": HATCHES[i % 8]}
        axis.barh(list(rows), width, left=left, edgecolor="white", label=part.replace("_", " "), **style)
        left += width
    for y, total in enumerate(left):
        axis.annotate(f" {total:.3g} s", (total, y), va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel=label)
    axis.margins(x=0.1)
    axis.legend(frameon=False, fontsize=9, ncols=min(5, len(parts)), loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def _row(record: Record) -> str:
    case = record["case"]
    words = (case["recipe"], said.place_of(record), case["size"], said.threads_said(case["threads"]))
    return ", ".join(word for word in words if word)
