"""Records as tables: the same rows for the terminal, Markdown and the page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qsm_runtime.benching import records as said
from qsm_runtime.benching.records import Record, accuracy_of, name_of, place_of, seconds, star

# columns of words; the others hold numbers
WORDS = frozenset({"what", "on", "accuracy", "stage", "place", "note", "fits", "agreement", "part", "size", "provider"})
STARRED = "* taken on a busy or unsteady machine."


class Table(NamedTuple):
    """A titled table; every row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def times(records: Sequence[Record]) -> Table:
    """Warm times of recipes, methods and models, with accuracy; wrong answers last."""
    found = [r for r in records if r["kind"] in ("recipe", "model", "method")]
    rows = [_time(r) for r in sorted(found, key=lambda r: r["status"] == "ok" and bool(said.wrong(r)))]
    columns = ("what", "size", "place", "threads", "median s", "±", "p95 s", "range s", "first slice s", "peak MiB")
    note = (
        "Warm runs in fresh processes; ± is how well the median is known. Methods work on whole volumes: the "
        f"first slice is out with the last. {STARRED}"
    )
    if any(r["status"] == "ok" and said.wrong(r) for r in found):
        note += " The time of a wrong answer stands in brackets and counts for nothing."
    return Table("Warm times", (*columns, "accuracy"), rows, note)


def _time(r: Record) -> tuple[str, ...]:
    head = (name_of(r), r["case"]["size"], place_of(r), str(r["case"]["threads"]))
    if r["status"] != "ok":
        return (*head, "", "", "", "", "", "", f"{r['status']}: {str(r.get('error'))[:120]}")
    t, m = r["time"], r["memory"]
    return (
        *head,
        said.median(r),
        f"±{seconds(t.get('uncertainty_s'))}",
        seconds(t["p95_s"]),
        f"{seconds(t['min_s'])}–{seconds(t['max_s'])}",
        seconds(t.get("first_slice_s")),
        "" if m.get("peak_mib") is None else f"{m['peak_mib']:.0f}",
        accuracy_of(r) + (f"; {r['note']}" if r.get("note") else ""),
    )


def cold(records: Sequence[Record]) -> Table:
    """From launch to the first map, by what the time went to."""
    found = [r for r in records if r["kind"] == "cold" and r["status"] == "ok"]
    parts = list(dict.fromkeys(p for r in found for p in r["time"]["breakdown_s"]))
    rows = [
        (
            name_of(r),
            r["case"]["size"],
            place_of(r),
            said.median(r),
            *(seconds(r["time"]["breakdown_s"].get(p, 0.0)) for p in parts),
        )
        for r in found
    ]
    note = "Launch of a fresh process to its first map in memory; the parts are those of the start in the middle."
    return Table("Cold start", ("what", "size", "place", "total s", *(f"{p} s" for p in parts)), rows, note)


def stages(records: Sequence[Record]) -> Table:
    """Medians of stages, with their share of the machine's bound."""
    rows = []
    for r in records:
        if r["kind"] != "recipe" or r["status"] != "ok":
            continue
        for stage, took in r["stages"]["warm_s"].items():
            bound = r.get("bound", {}).get(stage)
            count = sum(t["count"] for t in bound["transforms"]) if bound else None
            share = bound["share_of_bound"] if bound else None
            rows.append(
                (
                    r["case"]["recipe"],
                    r["case"]["size"],
                    place_of(r),
                    str(r["case"]["threads"]),
                    stage.replace("_", " "),
                    seconds(float(np.median(took))) + star(r),
                    seconds(float(np.percentile(took, 95))),
                    "" if count is None else str(count),
                    "" if bound is None else seconds(bound["fft_s"] + bound["memory_s"]),
                    "" if share is None else f"{100 * share:.0f} %",
                )
            )
    columns = ("what", "size", "place", "threads", "stage", "median s", "p95 s", "FFTs", "bound s", "share of bound")
    note = (
        "The bound is the stage's own transforms at the machine's rate, inputs and outputs once at copy bandwidth;"
        " 100 % could not be beaten without fewer transforms."
    )
    return Table("Stages", columns, rows, note)


def machine(records: Sequence[Record]) -> Table:
    """What bounds the machine."""
    rows = []
    for r in records:
        if r["kind"] == "machine" and r["status"] == "ok":
            rates = r["rates"]
            for one in rates["shapes"]:
                rows.append(
                    (
                        "×".join(map(str, one["shape"])),
                        str(rates["threads"]),
                        f"{rates['copy_gb_per_s']:.1f}{star(r)}",
                        f"{1000 * float(np.median(one['fft_pair_s'])):.1f}{star(r)}",
                        f"{one['fft_gflop_per_s']:.1f}",
                        f"{one['convolutions_per_s']:.1f}",
                    )
                )
    columns = ("size", "threads", "copy GB/s", "FFT pair ms", "FFT GFLOP/s", "convolutions/s")
    return Table("The machine's bound", columns, rows, "Copies count what is read and written; medians of 7.")


def providers(records: Sequence[Record]) -> Table:
    """What networks can run on here, each tried; and why the rest cannot."""
    rows: dict[tuple[str, ...], None] = {}
    for r in records:
        found = r["environment"].get("providers") or {"places": [], "absent": {}}
        ran: dict[str, list[str]] = {}
        for device, precision in found["places"]:
            ran.setdefault(device, []).append(precision)
        for device, precisions in ran.items():
            rows[device, f"runs: {', '.join(precisions)}"] = None
        for name, reason in found["absent"].items():
            rows[name, f"does not run: {reason}"] = None
    return Table("Providers", ("provider", "note"), list(rows))


def agreement(records: Sequence[Record]) -> Table:
    """Maps of the same model on other providers, against the first."""
    rows = []
    for r in records:
        found = r.get("agreement")
        if found and not found.get("reference"):
            off = f"{found['relative_rms']:.1e}", f"{found['max_abs']:.1e}"
            rows.append((name_of(r), r["case"]["size"], place_of(r) or r["case"]["device"], *off))
    columns = ("what", "size", "place", "relative rms", "max ppm")
    return Table("Agreement of maps between providers", columns, rows, "Against the first provider's map.")


def report(records: Sequence[Record]) -> list[Table]:
    """The tables that have rows."""
    records = said.latest(records)
    made = [f(records) for f in (times, cold, stages, machine, providers, agreement)]
    return [t for t in made if t.rows]


def markdown(records: Sequence[Record], extra: Sequence[Table] = ()) -> str:
    """The whole report as Markdown. extra: tables that come first, such as a budget's."""
    out = ["# Latency on this machine", ""]
    for text in said.machines_said(records):
        out += [text, ""]
    out += [f"- {text}" for text in said.doubts(records)] + [""]
    for table in [*extra, *report(records)]:
        out += markdown_table(table)
    return "\n".join(out)


def markdown_table(table: Table) -> list[str]:
    """A table with its title and note."""
    return [f"## {table.title}", "", *markdown_rows(table), "", *([table.note, ""] if table.note else [])]


def markdown_rows(table: Table) -> list[str]:
    rule = "|".join("---" if c in WORDS else "--:" for c in table.columns)
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in (table.columns, *table.rows)]
    return [rows[0], f"|{rule}|", *rows[1:]]
