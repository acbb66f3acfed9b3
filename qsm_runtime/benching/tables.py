"""Records as tables: the same rows for the terminal, Markdown and the page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qsm_runtime.benching import noise

Record = Mapping[str, Any]
# columns of words; the others hold numbers
WORDS = frozenset({"what", "on", "accuracy", "stage", "place", "note", "fits", "verdict", "agreement", "part", "size"})


class Table(NamedTuple):
    """A titled table; every row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each case, in the order in which cases first came."""
    found: dict[str, Record] = {}
    for record in records:
        found[key_of(record)] = record
    return list(found.values())


def key_of(record: Record) -> str:
    """What makes a case the same case."""
    return record["kind"] + " " + ", ".join(f"{k}={v}" for k, v in sorted(record["case"].items()) if k != "source")


def name_of(record: Record) -> str:
    """A case in words."""
    case = record["case"]
    if record["kind"] == "machine":
        return f"machine, {threads_said(case['threads'])}"
    name = str(case.get("recipe") or case.get("model") or f"{case.get('stage')}.{case.get('method')}")
    if record["kind"] == "cold":
        name += f", cold ({case['caches']} caches)"
    return name


def threads_said(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


def place_of(record: Record) -> str:
    """Where a network ran, as it was seen; "" for what runs none."""
    session = record.get("session")
    if session:
        return f"{session['provider']} {session['precision']}"
    case = record["case"]
    return f"{case['device']} {case['precision']}" if record["kind"] == "model" else ""


def accuracy_of(record: Record) -> str:
    """The accuracy that stands beside a time, in words."""
    a = record.get("accuracy") or {}
    if "xsim" not in a:
        test = record.get("self_test")
        if test:
            return f"self-test {'holds' if test['holds'] else 'FAILS'} ({test['error']:.0e})"
        return "no truth"
    full = f" ({a['xsim_full']:.3f} over the whole mask)" if abs(a["xsim_full"] - a["xsim"]) > 5e-4 else ""
    return f"XSIM {a['xsim']:.3f}{full}, r {a['correlation']:.3f}, slope {a['slope']:.2f}"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def star(record: Record) -> str:
    return "*" if noise.quality(record) else ""


def times(records: Sequence[Record]) -> Table:
    """Warm times of recipes, methods and models, with accuracy."""
    rows = []
    for r in records:
        if r["kind"] not in ("recipe", "model", "method"):
            continue
        case = r["case"]
        head = (name_of(r), case["size"], place_of(r), str(case["threads"]))
        if r["status"] != "ok":
            rows.append((*head, "", "", "", "", "", "", f"{r['status']}: {str(r.get('error'))[:120]}"))
            continue
        t, m = r["time"], r["memory"]
        rows.append(
            (
                *head,
                seconds(t["median_s"]) + star(r),
                f"±{seconds(t.get('uncertainty_s'))}",
                seconds(t["p95_s"]),
                f"{seconds(t['min_s'])}–{seconds(t['max_s'])}",
                seconds(t.get("first_slice_s")),
                "" if m.get("peak_mib") is None else f"{m['peak_mib']:.0f}",
                accuracy_of(r),
            )
        )
    columns = ("what", "size", "place", "threads", "median s", "±", "p95 s", "range s", "first slice s", "peak MiB")
    note = (
        "Warm runs in fresh processes; ± is how well the median is known. Methods work on whole volumes: the "
        "first slice is out with the last. * taken on a busy or unsteady machine."
    )
    return Table("Warm times", (*columns, "accuracy"), rows, note)


def cold(records: Sequence[Record]) -> Table:
    """From launch to the first map, by what the time went to."""
    found = [r for r in records if r["kind"] == "cold" and r["status"] == "ok"]
    parts = list(dict.fromkeys(p for r in found for p in r["time"]["breakdown_s"]))
    rows = [
        (
            name_of(r),
            r["case"]["size"],
            seconds(r["time"]["median_s"]) + star(r),
            *(seconds(r["time"]["breakdown_s"].get(p, 0.0)) for p in parts),
        )
        for r in found
    ]
    note = "Launch of a fresh process to its first map in memory; the parts are those of the start in the middle."
    return Table("Cold start", ("what", "size", "total s", *(f"{p} s" for p in parts)), rows, note)


def stages(records: Sequence[Record]) -> Table:
    """Medians of stages, with their share of the machine's bound."""
    import numpy as np

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
                    str(r["case"]["threads"]),
                    stage.replace("_", " "),
                    seconds(float(np.median(took))) + star(r),
                    seconds(float(np.percentile(took, 95))),
                    "" if count is None else str(count),
                    "" if bound is None else seconds(bound["fft_s"] + bound["memory_s"]),
                    "" if share is None else f"{100 * share:.0f} %",
                )
            )
    columns = ("what", "size", "threads", "stage", "median s", "p95 s", "FFTs", "bound s", "share of bound")
    note = (
        "The bound is the stage's own transforms at the machine's rate, inputs and outputs once at copy bandwidth;"
        " 100 % could not be beaten without fewer transforms."
    )
    return Table("Stages", columns, rows, note)


def machine(records: Sequence[Record]) -> Table:
    """What bounds the machine."""
    import numpy as np

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
    records = latest(records)
    made = [f(records) for f in (times, cold, stages, machine, agreement)]
    return [t for t in made if t.rows]


def machine_said(environment: Mapping[str, Any]) -> str:
    """A machine in a line."""
    gpu = environment.get("gpu") or {}
    named = gpu.get("name") or f"no GPU ({gpu['absent']})" if gpu else ""
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    parts = [environment["cpu"], f"{environment['cores']} cores", f"{environment['memory_mib']} MiB", named]
    return f"{', '.join(p for p in parts if p)}; {environment['system']}; {versions}"


def doubts(records: Sequence[Record]) -> list[str]:
    """What to know before the numbers are believed: how many cases are doubtful, and why."""
    records = latest(records)
    found: dict[str, list[int]] = {}
    for r in records:
        for said in filter(None, noise.quality(r).split("; ")):
            share = re.search(r"\d+ %", said)
            text = said.replace(share.group(), "{}", 1) if share else said
            found.setdefault(text, []).append(int(share.group()[:-2]) if share else 0)
    return [f"{len(n)} of {len(records)} cases: " + text.format(f"up to {max(n)} %") for text, n in found.items()]


def markdown(records: Sequence[Record]) -> str:
    """The whole report as Markdown."""
    out = ["# Latency on this machine", ""]
    for said in dict.fromkeys(machine_said(r["environment"]) for r in records):
        out += [said, ""]
    out += [f"- {text}" for text in doubts(records)] + [""]
    for table in report(records):
        out += [f"## {table.title}", "", *markdown_rows(table), ""]
        if table.note:
            out += [table.note, ""]
    return "\n".join(out)


def markdown_rows(table: Table) -> list[str]:
    rule = "|".join("---" if c in WORDS else "--:" for c in table.columns)
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in (table.columns, *table.rows)]
    return [rows[0], f"|{rule}|", *rows[1:]]
