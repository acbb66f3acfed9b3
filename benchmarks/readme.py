"""The README's figures from kept records: the table between its two latency comments is written anew.

python -m benchmarks.readme benchmarks/results/latency.jsonl

The records are those of `qsm bench -o benchmarks/results/latency.jsonl`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qsm_runtime import bench
from qsm_runtime.benching import noise
from qsm_runtime.benching import records as said
from qsm_runtime.benching.records import Record

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- latency -->", "<!-- /latency -->"


def block(records: Sequence[Record]) -> str:
    """The table: a row a recipe and size, warm and cold, at the most threads; then the machine."""
    records = [r for r in said.latest(records) if r["status"] == "ok" and not said.wrong(r)]
    warm = [r for r in records if r["kind"] == "recipe"]
    most = max((r["case"]["threads"] for r in warm), default=1)
    starts = {
        (r["case"]["recipe"], r["case"]["size"], said.place_of(r)): r
        for r in records
        if r["kind"] == "cold" and r["case"]["caches"] == "filled"
    }
    lines = [
        "| recipe | matrix | in a running process | fresh process | peak | XSIM | correlation |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for r in warm:
        case = r["case"]
        if case["threads"] != most:
            continue
        start = starts.get((case["recipe"], case["size"], said.place_of(r)))
        cold = "" if start is None else f"{start['time']['median_s']:.1f} s"
        off = r["time"]["uncertainty_s"]
        seconds = f"{r['time']['median_s']:.3g} ± {f'{off:.1g}' if off < 1 else f'{off:.0f}'} s{said.star(r)}"
        a = r["accuracy"]
        scores = f"{a['xsim_full']:.3f} | {a['correlation']:.3f}" if a else " | "
        peak = "" if r["memory"]["peak_mib"] is None else f"{r['memory']['peak_mib'] / 1024:.2f} GiB"
        matrix = f"{case['size']}, {'×'.join(map(str, r['grid']['shape']))}"
        name = f"`{case['recipe']}` {said.place_of(r)}".strip()
        lines.append(f"| {name} | {matrix} | {seconds} | {cold} | {peak} | {scores} |")
    lines += ["", *said.machines_said(records)]
    if any(noise.quality(r) for r in warm):
        lines += ["", "\\* taken on a busy or unsteady machine."]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").split("\n")[0])
    p.add_argument("files", type=Path, nargs="+", help="JSON lines")
    p.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments = p.parse_args(words)
    made = block([r for path in arguments.files for r in bench.read(path)])
    text = arguments.readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        print(f"{arguments.readme} has no {BEGIN} and {END} to write between", file=sys.stderr)
        return 1
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    arguments.readme.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
