"""Which recipe fits a budget on this machine, and at which accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsm_runtime.benching import noise, records
from qsm_runtime.benching.records import Record, seconds
from qsm_runtime.benching.tables import Table


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


def fits(found: Sequence[Record], budget_s: float) -> list[Fit]:
    """Recipes at the most threads, the most accurate first: which fit in a running process, which also as a command."""
    done = [r for r in records.latest(found) if r["status"] == "ok"]
    most: dict[tuple[Any, ...], Record] = {}
    cold: dict[tuple[Any, ...], Record] = {}
    for r in done:
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
        if records.wrong(r):
            said = "no: a wrong answer"
        elif warm_s > budget_s:
            said = "no"
        elif cold_s is not None and cold_s <= budget_s:
            said = "yes, also as a fresh command"
        else:
            said = "yes, in a running process"
        xsim = (r.get("accuracy") or {}).get("xsim_full")
        out.append(Fit(str(key[0]), str(key[1]), records.place_of(r), warm_s, cold_s, xsim, said, r))
    return sorted(out, key=lambda f: (f.size, not f.fits.startswith("yes"), -(f.xsim or 0.0), f.warm_s))


def answers(found: Sequence[Fit], budget_s: float) -> list[str]:
    """A sentence a size: the most accurate recipe that fits, or what to do where none does."""
    said = []
    for size in dict.fromkeys(f.size for f in found):
        first, *rest = (f for f in found if f.size == size)
        if first.fits.startswith("yes"):
            accuracy = "no truth known" if first.xsim is None else f"XSIM {first.xsim:.3f}"
            where = "also as a fresh command" if "command" in first.fits else "in a running process"
            said.append(f"{size}: {first.recipe} fits {budget_s:g} s ({seconds(first.warm_s)} s, {accuracy}), {where}")
        else:
            least = min((f.warm_s for f in (first, *rest)), default=0.0)
            said.append(
                f"{size}: no recipe fits {budget_s:g} s; the fastest needs {seconds(least)} s: more cores, fewer "
                "voxels, or a larger budget"
            )
    return said


def table(found: Sequence[Fit], budget_s: float) -> Table:
    rows = [
        (
            f.recipe,
            f.size,
            f.place,
            seconds(f.warm_s) + records.star(f.record),
            seconds(f.cold_s),
            f.fits,
            records.accuracy_of(f.record),
        )
        for f in found
    ]
    columns = ("what", "size", "place", "warm s, at most", "cold s, at most", "fits", "accuracy")
    note = "Times are medians plus what they may be off by. The first row of a size that fits is the answer."
    return Table(f"What fits {budget_s:g} s", columns, rows, f"{'. '.join(answers(found, budget_s))}. {note}")
