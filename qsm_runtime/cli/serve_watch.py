"""`qsm serve watch`: a folder that consoles export into."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import serve_options as common
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsm_runtime.serve.core import Core
    from qsm_runtime.serve.log import StudyLog
    from qsm_runtime.serve.service import FrontEnd

FORMATS = ("nifti", "dicom", "both")


def watch(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="Where studies are dropped: folders, or loose files.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT", help="Where maps go.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="nifti, dicom or both.")] = "nifti",
    settle_s: Annotated[
        float, typer.Option("--settle-s", metavar="S", help="A study is taken when it did not change for so long.")
    ] = 10.0,
    give_up_s: Annotated[
        float,
        typer.Option("--give-up-s", metavar="S", help="An incomplete study that was quiet for so long has failed."),
    ] = 600.0,
    poll_s: Annotated[float, typer.Option("--poll-s", metavar="S", help="How often to look.")] = 1.0,
    keep_days: common.KeepDays = 14.0,
    keep_gib: common.KeepGib = 20.0,
    tries: common.Tries = 3,
    recipe: common.Recipe = "default",
    cheaper: common.Cheaper = "fast",
    deadline_s: common.Deadline = None,
    queue: common.Queue = 4,
    shape: common.Shape = None,
    device: common.Device = "auto",
    precision: common.Precision = "f32",
    models: common.Models = None,
    health: common.Health = None,
    log: common.LogFile = None,
    drain_s: common.Drain = 60.0,
    threads: common.Threads = None,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> int:
    """Take every study that is dropped into IN, and write its maps to OUT.

    \b
    qsm serve watch /data/export --out /data/maps
    """
    chosen = common.shared(
        recipe, cheaper, deadline_s, threads, queue, shape, device, precision, models, health, log, drain_s, quiet,
        as_json,
    )  # fmt: skip
    if out is None:
        raise UsageError("no output: give a folder with --out")
    if form not in FORMATS:
        raise UsageError(f"--format takes one of {', '.join(FORMATS)}, got {form!r}")
    common.check_seconds(settle_s=settle_s, give_up_s=give_up_s, poll_s=poll_s)
    common.check_above_zero(keep_days=keep_days, keep_gib=keep_gib, tries=tries)
    if give_up_s < settle_s:
        raise UsageError(f"--give-up-s {give_up_s:g} is shorter than --settle-s {settle_s:g}; make it longer")

    def build(core: "Core", log: "StudyLog") -> "Sequence[FrontEnd]":
        from qsm_runtime.cli.job import software_versions
        from qsm_runtime.serve.keep import Keep
        from qsm_runtime.serve.watch import Rules, Watch

        rules = Rules(
            form, settle_s, give_up_s, poll_s, threads, keep=Keep(keep_days, keep_gib), tries=tries,
            versions=software_versions(),
        )  # fmt: skip
        return [Watch(folder, out, core, log, rules)]

    return common.serve(chosen, build)
