"""Machines side by side, this build against an earlier one, and which recipe fits a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsm_runtime.benching import noise, tables
from qsm_runtime.benching.tables import Record, Table

TOLERANCE, SIGMAS = 0.10, 2.0  # a slowdown below the first is none; `doubt` is two standard errors already
TIMED = ("recipe", "model", "method", "cold")
ACCURACY_LOSS, MEMORY_GROWTH = 0.005, 0.15


@dataclass(frozen=True)
class Verdict:
    """A case of a build against the baseline. ratio: new over old median; margin: what noise and tolerance allow.

    failed: slower, larger or less accurate than the margins allow, or no longer made at all.
    """

    name: str
    ratio: float | None
    margin: float
    failed: bool
    said: str


def side_by_side(named: Mapping[str, Sequence[Record]]) -> Table:
    """Median seconds of every case on each machine; the ratio is to the first that has it."""
    order: dict[str, Record] = {}
    cells: dict[str, dict[str, Record]] = {}
    for name, records in named.items():
        for record in tables.latest(records):
            if record["kind"] in TIMED and record["status"] == "ok":
                key = _across(record)
                order.setdefault(key, record)
                cells.setdefault(key, {})[name] = record
    rows = []
    for key, record in order.items():
        row = [tables.name_of(record), record["case"]["size"], tables.place_of(record), str(record["case"]["threads"])]
        first: float | None = None
        for name in named:
            found = cells[key].get(name)
            if found is None:
                row.append("")
                continue
            median = found["time"]["median_s"]
            ratio = "" if first is None else f" (×{median / first:.2f})"
            first = median if first is None else first
            row.append(f"{tables.seconds(median)}{tables.star(found)}{ratio}")
        rows.append((*row, tables.accuracy_of(record)))
    columns = ("what", "size", "place", "threads", *named, "accuracy")
    note = "Median seconds; × is to the first column with a time. * taken on a busy or unsteady machine."
    return Table("Machines side by side", columns, rows, note)


def check(new: Sequence[Record], baseline: Sequence[Record], tolerance: float = TOLERANCE) -> list[Verdict]:
    """Every case of the baseline that was measured again: slower, larger or less accurate beyond what noise explains.

    margin = tolerance, or the doubts about both medians together where they are more.
    """
    again = {tables.key_of(r): r for r in tables.latest(new)}
    verdicts = []
    for old in tables.latest(baseline):
        found = again.get(tables.key_of(old))
        if found is None or old["status"] != "ok" or old["kind"] not in TIMED:
            continue
        where = f"{old['case']['size']}, {tables.threads_said(old['case']['threads'])}"
        name = f"{tables.name_of(old)} ({where})"
        if found["status"] != "ok":
            verdicts.append(Verdict(name, None, tolerance, True, f"{found['status']}: {found.get('error')}"))
            continue
        verdicts.append(_verdict(name, found, old, tolerance))
    return verdicts


def _verdict(name: str, new: Record, old: Record, tolerance: float) -> Verdict:
    ratio = new["time"]["median_s"] / max(old["time"]["median_s"], 1e-9)
    noisy = SIGMAS * float(sum(noise.doubt(r) ** 2 for r in (new, old)) ** 0.5)
    margin = max(tolerance, noisy)
    said = []
    failed = ratio > 1 + margin
    if failed:
        said.append(f"slower: ×{ratio:.2f}, more than the {100 * margin:.0f} % that noise and tolerance allow")
    elif ratio < 1 / (1 + margin):
        said.append(f"faster: ×{ratio:.2f}")
    else:
        said.append("as before" if margin <= 2 * tolerance else f"undecided within {100 * margin:.0f} %; run it again")
    was, now = (float((r.get("accuracy") or {}).get("xsim_full", float("nan"))) for r in (old, new))
    if now < was - ACCURACY_LOSS:
        failed = True
        said.append(f"less accurate: XSIM {now:.3f}, was {was:.3f}")
    before, after = (r["memory"].get("peak_mib") for r in (old, new))
    if before and after and after > before * (1 + MEMORY_GROWTH):
        failed = True
        said.append(f"more memory: {after:.0f} MiB, was {before:.0f}")
    return Verdict(name, ratio, margin, failed, "; ".join(said))


@dataclass(frozen=True)
class Fit:
    """A recipe against a budget. warm_s and cold_s include the doubt about them; xsim None: no truth is known."""

    recipe: str
    size: str
    place: str
    warm_s: float
    cold_s: float | None
    xsim: float | None
    fits: str
    record: Record


def fits(records: Sequence[Record], budget_s: float) -> list[Fit]:
    """Recipes at the most threads, the most accurate first: which fit in a running process, which also as a command."""
    records = [r for r in tables.latest(records) if r["status"] == "ok"]
    most: dict[tuple[Any, ...], Record] = {}
    cold: dict[tuple[Any, ...], Record] = {}
    for r in records:
        case = r["case"]
        key = (case.get("recipe"), case.get("size"), case.get("device"), case.get("precision"))
        if r["kind"] == "cold" and case["caches"] == "filled":
            cold[key] = r
        if r["kind"] == "recipe" and (key not in most or case["threads"] > most[key]["case"]["threads"]):
            most[key] = r
    out = []
    for key, r in most.items():
        warm_s = r["time"]["median_s"] * (1 + noise.doubt(r))
        start = cold.get(key)
        cold_s = None if start is None else start["time"]["median_s"] * (1 + noise.doubt(start))
        if warm_s > budget_s:
            said = "no"
        elif cold_s is not None and cold_s <= budget_s:
            said = "yes, also as a fresh command"
        else:
            said = "yes, in a running process"
        xsim = (r.get("accuracy") or {}).get("xsim_full")
        place = "" if r["case"].get("device") in (None, "cpu", "ort-cpu") else f"{key[2]} {key[3]}"
        out.append(Fit(str(key[0]), str(key[1]), place, warm_s, cold_s, xsim, said, r))
    return sorted(out, key=lambda f: (f.size, f.fits == "no", -(f.xsim or 0.0), f.warm_s))


def budget_table(found: Sequence[Fit], budget_s: float) -> Table:
    rows = [
        (
            f.recipe,
            f.size,
            f.place,
            tables.seconds(f.warm_s) + tables.star(f.record),
            tables.seconds(f.cold_s),
            f.fits,
            tables.accuracy_of(f.record),
        )
        for f in found
    ]
    columns = ("what", "size", "place", "warm s, at most", "cold s, at most", "fits", "accuracy")
    note = "Times are medians plus what they may be off by. The first row of a size that fits is the answer."
    return Table(f"What fits {budget_s:g} s", columns, rows, note)


def _across(record: Record) -> str:
    """What makes a case the same on another machine: a provider is one's own, the thread count too."""
    case = {k: v for k, v in record["case"].items() if k != "source"}
    return record["kind"] + " " + ", ".join(f"{k}={v}" for k, v in sorted(case.items()))
