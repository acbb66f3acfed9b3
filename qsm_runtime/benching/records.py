"""What a record says in words: its case, place, accuracy, machine; and whether its answer is one."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qsm_runtime.benching import noise

Record = Mapping[str, Any]
# beyond these a map is no answer, however fast it came
LEAST_CORRELATION, LEAST_DICE, SLOPES = 0.5, 0.5, (1 / 3, 3.0)
ANOTHER_MAP = {"f32": 0.01, "tf32": 0.05, "f16": 0.05, "bf16": 0.2}  # relative rms to the first provider's map


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
    classical = (case.get("device"), case.get("precision")) in ((None, None), ("cpu", "f32"))
    return "" if classical else f"{case['device']} {case['precision']}"


def wrong(record: Record) -> str:
    """Why the map that a case gave is no answer, so that its time is not worth having; "" where it is one."""
    a, test, other = record.get("accuracy") or {}, record.get("self_test"), record.get("agreement") or {}
    if test and not test["holds"]:
        return f"its self-test fails ({test['error']:.0e})"
    if not all(v is None or math.isfinite(v) for v in a.values()):
        return "its map is not finite"
    r, slope, dice = (a.get(k) for k in ("correlation", "slope", "dice"))
    if r is not None and r < LEAST_CORRELATION:
        return f"correlation {r:.2f} with the truth"
    if slope is not None and not SLOPES[0] <= slope <= SLOPES[1]:
        return f"slope {slope:.2f} against the truth"
    if dice is not None and dice < LEAST_DICE:
        return f"Dice {dice:.2f} with the true mask"
    precision = (record.get("session") or record["case"]).get("precision", "f32")
    if other.get("relative_rms", 0.0) > ANOTHER_MAP.get(precision, 0.01):
        return f"{100 * other['relative_rms']:.2g} % off the first provider's map"
    return ""


def accuracy_of(record: Record) -> str:
    """The accuracy that stands beside a time, in words."""
    said, reason = _scores(record), wrong(record)
    return f"WRONG: {reason}; {said}" if reason else said


def _scores(record: Record) -> str:
    a, test = record.get("accuracy") or {}, record.get("self_test")
    if "dice" in a:
        return f"Dice {a['dice']:.3f}"
    if "xsim" not in a:
        return f"self-test {'holds' if test['holds'] else 'FAILS'} ({test['error']:.0e})" if test else "no truth"
    full = f" ({a['xsim_full']:.3f} over the whole mask)" if abs(a["xsim_full"] - a["xsim"]) > 5e-4 else ""
    return f"XSIM {a['xsim']:.3f}{full}, r {a['correlation']:.3f}, slope {a['slope']:.2f}"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def star(record: Record) -> str:
    return "*" if noise.quality(record) else ""


def median(record: Record) -> str:
    """The median with its star; in brackets where the answer is wrong."""
    said = seconds(record["time"]["median_s"]) + star(record)
    return f"({said})" if wrong(record) else said


def machine_said(environment: Mapping[str, Any]) -> str:
    """A machine in a line."""
    gpu = environment.get("gpu") or {}
    named = gpu.get("name") or (f"no GPU ({gpu['absent'].partition(';')[0]})" if gpu else "")
    if gpu.get("driver_version"):
        named += f", driver {gpu['driver_version']}"
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    parts = [environment["cpu"], f"{environment['cores']} cores", f"{environment['memory_mib']} MiB", named]
    return f"{', '.join(p for p in parts if p)}; {environment['system']}; {versions}"


def machines_said(records: Iterable[Record]) -> list[str]:
    """The machines of records, a line each."""
    return list(dict.fromkeys(machine_said(r["environment"]) for r in records))


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
