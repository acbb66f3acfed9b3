"""`qsm bench`: what this machine needs for a map, at which accuracy; machines side by side; regressions; budgets."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.bench_plan import SIZES, planned
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsm_runtime.benching.tables import Record, Table

NOT_HELD = 8  # a check that did not hold

app = typer.Typer(
    help="Latency of recipes, stages and networks on this machine, with the accuracy beside every time.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines of earlier runs.")]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also a page that needs nothing else.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also as Markdown.")]


@app.callback()
def bench(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="JSON lines; written after each case, appended to.")
    ] = Path("qsm-bench.jsonl"),
    scan: Annotated[
        Path | None, typer.Option("--scan", metavar="FOLDER", help="Your own scan (BIDS) instead of simulated heads.")
    ] = None,
    select: options.Select = None,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", metavar="SIZES", help=f"Of {SIZES}; or X,Y,Z@V,V,V in mm, blanks between. [all three]"),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="NAME", help="May be repeated. Default: every one.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="STAGE.METHOD,...", help="Also methods on their true input; all for all."),
    ] = None,
    networks: Annotated[
        str, typer.Option("--networks", metavar="NAMES", help="all, none, or names with commas between.")
    ] = "all",
    threads: Annotated[
        str | None, typer.Option("--threads", metavar="N,N,...", help="The first recipe runs with each. [1,2,4..all]")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="DEVICES", help="ort-cpu,openvino,cuda,tensorrt; default those that run here."
        ),
    ] = "ort-cpu,openvino,cuda",
    models: options.Models = None,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Warm runs of a case.")] = 6,
    cold_runs: Annotated[int, typer.Option("--cold-runs", metavar="N", min=0, help="Fresh processes of a case.")] = 2,
    new_machine: Annotated[
        bool, typer.Option("--new-machine", help="Once also with empty caches: compilation and planning included.")
    ] = False,
    limit_s: Annotated[
        float, typer.Option("--limit-s", metavar="S", min=1.0, help="No further run of a case starts after S seconds.")
    ] = 60.0,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", metavar="S", help="Which recipe fits S seconds, at which accuracy.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Measure nothing: report these JSON lines.")
    ] = None,
    html: Page = None,
    markdown: Markdown = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure this machine: every recipe and network at three sizes, cold and warm.

    \b
    qsm bench -o this.jsonl --html this.html
    qsm bench --budget-s 10
    qsm bench compare this.jsonl that.jsonl
    qsm bench check this.jsonl --baseline before.jsonl
    """
    if context.invoked_subcommand:
        return 0
    if budget_s is not None and not budget_s > 0:
        raise UsageError(f"--budget-s must be above 0, got {budget_s:g}")
    for path in (html, markdown):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: its folder does not exist; make it first")
    from qsm_runtime.benching import compare as comparing

    if from_file is not None:
        records: Sequence[Record] = _read(from_file)
    else:
        from qsm_runtime.benching import suite

        absent: dict[str, str] = {}
        plan = planned(
            scan, select, sizes, recipe, methods, networks, threads, device, models or [], repeats, cold_runs,
            new_machine, limit_s, budget_s is not None, absent,
        )  # fmt: skip
        if output.suffix not in (".jsonl", ".json"):
            raise UsageError(f"--output {output}: JSON lines are written, to a file that ends in .jsonl")
        if not quiet:
            for name, reason in absent.items():
                _say(f"not measured: {name}: {reason}")
        records = suite.run(plan, output, (lambda r: None) if quiet else _progress())
    fits = comparing.fits(records, budget_s) if budget_s is not None else []
    extra = [comparing.budget_table(fits, budget_s)] if budget_s is not None else []
    _write(records, extra, html, markdown)
    if as_json:
        document: dict[str, Any] = {"records": records}
        if budget_s is not None:
            said = [
                {"recipe": f.recipe, "size": f.size, "fits": f.fits != "no", "warm_s": f.warm_s, "cold_s": f.cold_s,
                 "xsim": f.xsim} for f in fits
            ]  # fmt: skip
            document |= {"budget_s": budget_s, "fits": said}
        print_json(document)
        return 0
    _show(records, extra, only=budget_s is not None)
    if from_file is None and not quiet:
        _say(f"records: {output}")
    return 0


@app.command("compare")
def compare(files: Files, html: Page = None, markdown: Markdown = None, as_json: options.AsJson = False) -> int:
    """Machines side by side: one column a file."""
    from qsm_runtime.benching import compare as comparing

    if len(files) < 2:
        raise UsageError("compare takes two files or more")
    named = {_short(path, files): _read(path) for path in files}
    table = comparing.side_by_side(named)
    every = [r for records in named.values() for r in records]
    _write(every, [table], html, markdown)
    if as_json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        print_json({"columns": table.columns, "rows": rows})
        return 0
    from qsm_runtime.benching import tables

    for name, records in named.items():
        for text in dict.fromkeys(tables.machine_said(r["environment"]) for r in records):
            print(f"{name}: {text}")
    _print(table)
    return 0


@app.command("check")
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

    new = [r for path in files for r in _read(path)]
    verdicts = comparing.check(new, _read(baseline), tolerance)
    if not verdicts:
        raise InputError(f"no case of {baseline} is in the new records; measure the same sizes, recipes and threads")
    failed = [v for v in verdicts if v.failed]
    code = NOT_HELD if failed else 0
    if as_json:
        print_json({"verdicts": [asdict(v) for v in verdicts], "exit_code": code})
        return code
    for v in verdicts:
        print(f"{'FAILED' if v.failed else 'holds '}  {v.name}: {v.said}")
    print(f"{len(failed)} of {len(verdicts)} cases failed")
    return code


def _read(path: Path) -> "list[Record]":
    from qsm_runtime import bench

    try:
        return list(bench.read(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: no records of `qsm bench`: {error}") from None


def _short(path: Path, every: "Sequence[Path]") -> str:
    return path.stem if [p.stem for p in every].count(path.stem) == 1 else str(path)


def _write(records: "Sequence[Record]", extra: "Sequence[Table]", html: Path | None, markdown: Path | None) -> None:
    if html is None and markdown is None:
        return
    from qsm_runtime.benching import tables
    from qsm_runtime.io.atomic import write_files

    files = {}
    if html is not None:
        from qsm_runtime.benching.page import page

        files[html] = [page(records, extra).encode()]
    if markdown is not None:
        head = [f"## {t.title}\n\n" + "\n".join(tables.markdown_rows(t)) + f"\n\n{t.note}\n" for t in extra]
        files[markdown] = ["\n".join([tables.markdown(records), *head]).encode()]
    write_files(files, overwrite=True)


def _show(records: "Sequence[Record]", extra: "Sequence[Table]", only: bool) -> None:
    from qsm_runtime.benching import tables

    for table in extra if only else [*extra, *tables.report(records)]:
        _print(table)
    for text in tables.doubts(records):
        _say(f"warning: {text}")


def _print(table: "Table") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Rich

    from qsm_runtime.benching.tables import WORDS

    shown = Rich(title=table.title, caption=table.note or None, box=box.SIMPLE_HEAD, title_justify="left")
    for name in table.columns:
        shown.add_column(name, justify="left" if name in WORDS else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)  # a file has no width of its own
    console.print(shown)


def _progress() -> Any:
    from qsm_runtime.benching import tables

    start = time.perf_counter()

    def said(record: "Record") -> None:
        case, took = record["case"], record["wall_s"]
        where = ", ".join(
            str(part)
            for part in (case.get("size"), tables.place_of(record), tables.threads_said(case["threads"]))
            if part and record["kind"] != "machine"
        )
        text = f"{tables.name_of(record)}{f' ({where})' if where else ''}: "
        if record["status"] != "ok":
            text += f"{record['status']}: {record.get('error')}"
        elif record["kind"] != "machine":
            off = record["time"]["uncertainty_s"]
            text += (
                f"{tables.seconds(record['time']['median_s'])} ± {tables.seconds(off)} s, {tables.accuracy_of(record)}"
            )
        else:
            text += f"{record['rates']['copy_gb_per_s']:.1f} GB/s"
        _say(f"[{time.perf_counter() - start:5.0f} s] {text}  (measured in {took:.0f} s)")
        if record.get("doubt"):
            _say(f"  warning: {record['doubt']}")

    return said


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
