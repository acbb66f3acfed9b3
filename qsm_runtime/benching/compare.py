"""Machines side by side, and this build against an earlier one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsm_runtime.benching import noise, records
from qsm_runtime.benching.records import Record
from qsm_runtime.benching.tables import STARRED, Table

TOLERANCE, SIGMAS = 0.10, 2.0  # a slowdown below the first is none; `doubt` is two standard errors already
TIMED = ("recipe", "model", "method", "cold")
ACCURACY_LOSS, MEMORY_GROWTH = 0.005, 0.15
STAGE_SHARE = 0.05  # a stage is named as a cause where it grew by so much of the whole

Named = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Verdict:
    """A case of a build against the baseline. ratio: new over old median; margin: what noise and tolerance allow.

    failed: slower, larger or less accurate than the margins allow, or no longer made at all. undecided: the margin is
    so wide that a regression could hide in it.
    """

    name: str
    ratio: float | None
    margin: float
    failed: bool
    said: str
    undecided: bool = False


def side_by_side(named: Named) -> Table:
    """Median seconds of every case on each machine; the ratio is to the first that has it.

    Machines of unequal cores meet at `all` of theirs. ≈ marks a ratio that noise explains.
    """
    cores = {r["environment"]["cores"] for found in named.values() for r in found}
    order: dict[str, Record] = {}
    cells: dict[str, dict[str, Record]] = {}
    for name, found in named.items():
        for record in records.latest(found):
            if record["kind"] in TIMED:
                key = _across(record, len(cores) == 1)
                order.setdefault(key, record)
                cells.setdefault(key, {})[name] = record
    rows, pairs, agreed = [], 0, 0
    for key, record in order.items():
        row = [records.name_of(record), record["case"]["size"], records.place_of(record)]
        row.append(_threads(record, len(cores) == 1))
        first: Record | None = None
        for name in named:
            found_here = cells[key].get(name)
            row.append(_cell(found_here, first))
            if found_here is not None and found_here["status"] == "ok":
                if first is not None:
                    pairs, agreed = pairs + 1, agreed + explained(found_here, first)
                first = first or found_here
        rows.append((*row, "" if first is None else records.accuracy_of(first)))
    columns = ("what", "size", "place", "threads", *named, "accuracy")
    note = "Median seconds; × is to the first column with a time, ≈ where what the runs may be off by explains it"
    note += f" ({agreed} of {pairs} ratios). {STARRED}"
    return Table("Machines side by side", columns, rows, note)


def _cell(record: Record | None, first: Record | None) -> str:
    if record is None:
        return ""
    if record["status"] != "ok":
        return str(record["status"]).replace("_", " ")
    text = records.median(record)
    if first is None:
        return text
    ratio = record["time"]["median_s"] / max(first["time"]["median_s"], 1e-9)
    text += f" (×{ratio:.2f}{' ≈' if explained(record, first) else ''})"
    was, now = (_xsim(r) for r in (first, record))
    return f"{text}, XSIM {now:.3f}" if abs(now - was) > ACCURACY_LOSS else text


def explained(a: Record, b: Record) -> bool:
    """Whether two medians differ by no more than what they may be off by together."""
    x, y = a["time"]["median_s"], b["time"]["median_s"]
    return bool(abs(x - y) <= np.hypot(x * noise.doubt(a), y * noise.doubt(b)))


def bounds_beside(named: Named) -> Table:
    """What bounds each machine at its most threads: bandwidth and transforms."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, found in named.items():
        rated = [r for r in records.latest(found) if r["kind"] == "machine" and r["status"] == "ok"]
        for r in rated[-1:]:  # threads are counted upwards
            rows.setdefault(("copy GB/s", ""), {})[name] = f"{r['rates']['copy_gb_per_s']:.1f}{records.star(r)}"
            for one in r["rates"]["shapes"]:
                size = "×".join(map(str, one["shape"]))
                pair_ms = 1000 * float(np.median(one["fft_pair_s"]))
                rows.setdefault(("FFT pair ms", size), {})[name] = f"{pair_ms:.1f}{records.star(r)}"
                rows.setdefault(("convolutions/s", size), {})[name] = f"{one['convolutions_per_s']:.1f}"
    made = [(*key, *(cells.get(name, "") for name in named)) for key, cells in rows.items()]
    return Table("What bounds them", ("what", "size", *named), made, "At the most threads of each.")


def same_machine(new: Sequence[Record], old: Sequence[Record]) -> bool:
    """Whether both come from one kind of machine, so that their seconds can be held against each other."""
    kinds = [{(r["environment"]["cpu"], r["environment"]["cores"]) for r in one} for one in (new, old)]
    return kinds[0] == kinds[1]


def unmeasured(new: Sequence[Record], baseline: Sequence[Record]) -> list[str]:
    """Cases of the baseline that were not measured again."""
    again = {records.key_of(r) for r in new}
    missing = [r for r in records.latest(baseline) if r["kind"] in TIMED and r["status"] == "ok"]
    return [_name(r) for r in missing if records.key_of(r) not in again]


def check(new: Sequence[Record], baseline: Sequence[Record], tolerance: float = TOLERANCE) -> list[Verdict]:
    """Every case of the baseline that was measured again: slower, larger or less accurate beyond what noise explains.

    margin = tolerance, or the doubts about both medians together where they are more, and the change of the machine's
    pace between the two on top.
    """
    again = {records.key_of(r): r for r in records.latest(new)}
    verdicts = []
    for old in records.latest(baseline):
        found = again.get(records.key_of(old))
        if found is None or old["status"] != "ok" or old["kind"] not in TIMED:
            continue
        if found["status"] != "ok":
            said = f"{found['status']}: {found.get('error')}"
            verdicts.append(Verdict(_name(old), None, tolerance, True, said))
            continue
        verdicts.append(_verdict(found, old, tolerance))
    return verdicts


def _verdict(new: Record, old: Record, tolerance: float) -> Verdict:
    ratio = new["time"]["median_s"] / max(old["time"]["median_s"], 1e-9)
    margin = max(tolerance, SIGMAS * float(np.hypot(noise.doubt(new), noise.doubt(old))))
    pace = noise.pace(new, old)
    margin += max(pace, 1 / pace) - 1
    said = []
    failed = ratio > 1 + margin
    undecided = margin > 2 * tolerance and 1 / (1 + margin) <= ratio <= 1 + margin
    if failed:
        more = f"more than the {100 * margin:.0f} % that noise, pace and tolerance allow"
        said.append(f"slower: ×{ratio:.2f}, {more}{_causes(new, old)}")
    elif ratio < 1 / (1 + margin):
        said.append(f"faster: ×{ratio:.2f}")
    else:
        said.append(f"undecided within {100 * margin:.0f} %; run it again" if undecided else "as before")
        if undecided and max(pace, 1 / pace) > 1 + tolerance:
            said[-1] += f" (the FFT pair took ×{pace:.2f} of the baseline's: another pace, or slower FFTs)"
    was, now = _xsim(old), _xsim(new)
    if now < was - ACCURACY_LOSS:
        failed = True
        said.append(f"less accurate: XSIM {now:.3f}, was {was:.3f}")
    elif records.wrong(new) and not records.wrong(old):
        failed = True
        said.append(f"wrong: {records.wrong(new)}")
    before, after = (r["memory"].get("peak_mib") for r in (old, new))
    if before and after and after > before * (1 + MEMORY_GROWTH):
        failed = True
        said.append(f"more memory: {after:.0f} MiB, was {before:.0f}")
    return Verdict(_name(old), ratio, margin, failed, "; ".join(said), undecided and not failed)


def _causes(new: Record, old: Record) -> str:
    """The stages or parts of a start that took the time."""
    was, now = ({k: float(np.median(v)) for k, v in _parts(r).items()} for r in (old, new))
    grown = {k: now[k] - was.get(k, 0.0) for k in now}
    named = [k for k in sorted(grown, key=lambda k: -grown[k]) if grown[k] > STAGE_SHARE * old["time"]["median_s"]]
    return f" ({', '.join(f'{k} +{grown[k]:.2g} s' for k in named)})" if named else ""


def _parts(record: Record) -> Mapping[str, Any]:
    made: Mapping[str, Any] = record.get("stages", {}).get("warm_s") or record["time"].get("breakdown_s") or {}
    return made


def _xsim(record: Record) -> float:
    return float((record.get("accuracy") or {}).get("xsim_full", float("nan")))


def _name(record: Record) -> str:
    case = record["case"]
    where = (str(case["size"]), records.place_of(record), records.threads_said(case["threads"]))
    return f"{records.name_of(record)} ({', '.join(word for word in where if word)})"


def _threads(record: Record, same: bool) -> str:
    """How many, or `all` where machines of unequal cores are compared."""
    count = record["case"]["threads"]
    return "all" if not same and count == record["environment"]["cores"] else str(count)


def _across(record: Record, same: bool) -> str:
    """What makes a case the same on another machine."""
    case = {**record["case"], "threads": _threads(record, same)}
    return records.key_of({"kind": record["kind"], "case": case})
