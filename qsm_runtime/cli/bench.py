"""`qsm bench`: what this machine needs for a map, at which accuracy; machines side by side; regressions; budgets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import bench_compare, options
from qsm_runtime.cli.bench_output import Markdown, Page, progress, read, say, show, write
from qsm_runtime.cli.bench_plan import DEVICES, planned
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsm_runtime.benching.records import Record

app = typer.Typer(
    help="Latency of recipes, stages and networks on this machine, with the accuracy beside every time.",
    rich_markup_mode=None,
    invoke_without_command=True,
)


@app.callback()
def bench(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="JSON lines; written after each case, appended to.")
    ] = Path("qsm-bench.jsonl"),
    scan: Annotated[
        Path | None,
        typer.Option("--scan", metavar="FOLDER", help="Your own scan (BIDS or DICOM) instead of simulated heads."),
    ] = None,
    select: options.Select = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes", metavar="SIZES", help="Of small,clinical,research [all]; or X,Y,Z@V,V,V in mm, blanks between."
        ),
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
        str | None,
        typer.Option("--device", metavar="DEVICES", help=f"Of networks; or tensorrt. Default: what runs of {DEVICES}."),
    ] = None,
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
    from qsm_runtime.benching import budget

    if from_file is not None:
        records: Sequence[Record] = read(from_file)
    else:
        from qsm_runtime.benching import suite

        if output.suffix not in (".jsonl", ".json"):
            raise UsageError(f"--output {output}: JSON lines are written, to a file that ends in .jsonl")
        plan = planned(
            scan, select, sizes, recipe, methods, networks, threads, device, models or [], repeats, cold_runs,
            new_machine, limit_s, budget_s is not None,
        )  # fmt: skip
        if not quiet:
            for name, reason in (plan.tried or {"absent": {}})["absent"].items():
                say(f"not measured: {name}: {reason}")
        records = suite.run(plan, output, (lambda r: None) if quiet else progress())
    fits = budget.fits(records, budget_s) if budget_s is not None else []
    extra = [budget.table(fits, budget_s)] if budget_s is not None else []
    from qsm_runtime.benching import page, tables

    write({html: lambda: page.page(records, extra), markdown: lambda: tables.markdown(records, extra)})
    if as_json:
        document: dict[str, Any] = {"records": records}
        if budget_s is not None:
            said = [
                {"recipe": f.recipe, "size": f.size, "fits": f.fits.startswith("yes"), "warm_s": f.warm_s,
                 "cold_s": f.cold_s, "xsim": f.xsim} for f in fits
            ]  # fmt: skip
            document |= {"budget_s": budget_s, "fits": said, "answers": budget.answers(fits, budget_s)}
        print_json(document)
        return 0
    show(records, extra, only=budget_s is not None)
    if from_file is None and not quiet:
        say(f"records: {output}")
    return 0


app.command("compare")(bench_compare.compare)
app.command("check")(bench_compare.check)
