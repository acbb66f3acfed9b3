"""`qsm bench compare` and `qsm bench check`: machines side by side, and this build against an earlier one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.bench_output import Markdown, Page, print_table, read, say, write
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_HELD = 8  # a check that did not hold
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines of earlier runs.")]


def compare(files: Files, html: Page = None, markdown: Markdown = None, as_json: options.AsJson = False) -> int:
    """Machines side by side: one column a file."""
    from qsm_runtime.benching import compare as comparing
    from qsm_runtime.benching import page, records

    if len(files) < 2:
        raise UsageError("compare takes two files or more")
    named = {_short(path, files): read(path) for path in files}
    made = [t for t in (comparing.side_by_side(named), comparing.bounds_beside(named)) if t.rows]
    write({html: lambda: page.beside(named, made), markdown: lambda: page.beside_markdown(named, made)})
    if as_json:
        tables = [[dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in made]
        print_json({"columns": made[0].columns if made else [], "rows": tables[0] if tables else [], "tables": tables})
        return 0
    for name, found in named.items():
        for text in records.machines_said(found):
            print(f"{name}: {text}")
    for table in made:
        print_table(table)
    for name, found in named.items():
        for text in records.doubts(found):
            say(f"warning: {name}: {text}")
    return 0


def check(
    files: Files,
    baseline: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="JSON lines to hold against.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="SHARE", min=0.0, help="A slowdown that is no regression.")
    ] = 0.1,
    as_json: options.AsJson = False,
) -> int:
    """Exit code 8 where a case became slower than noise and tolerance allow, larger, or less accurate."""
    from dataclasses import asdict

    from qsm_runtime.benching import compare as comparing

    new, old = [r for path in files for r in read(path)], read(baseline)
    verdicts = comparing.check(new, old, tolerance)
    if not verdicts:
        raise InputError(f"no case of {baseline} is in the new records; measure the same sizes, recipes and threads")
    missing, same = comparing.unmeasured(new, old), comparing.same_machine(new, old)
    failed = [v for v in verdicts if v.failed]
    code = NOT_HELD if failed else 0
    if as_json:
        said = {"same_machine": same, "not_measured_again": missing, "exit_code": code}
        print_json({"verdicts": [asdict(v) for v in verdicts], **said})
        return code
    for v in verdicts:
        print(f"{'FAILED' if v.failed else 'open  ' if v.undecided else 'holds '}  {v.name}: {v.said}")
    undecided = sum(v.undecided for v in verdicts)
    print(f"{len(failed)} of {len(verdicts)} cases failed" + (f", {undecided} undecided" if undecided else ""))
    if missing:
        say(f"not measured again: {', '.join(missing)}")
    if not same:
        say(f"warning: {baseline} is of another machine, which changes every time: measure a baseline on this one")
    return code


def _short(path: Path, every: "Sequence[Path]") -> str:
    return path.stem if [p.stem for p in every].count(path.stem) == 1 else str(path)
