"""Options that every `qsm serve` shares, and the server they make."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.options import Device, Models, Precision, Quiet, Threads
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import UsageError

__all__ = [
    "AsJson", "Cheaper", "Deadline", "Device", "Drain", "Health", "KeepDays", "KeepGib", "LogFile", "Models",
    "Precision", "Queue", "Quiet", "Recipe", "Shape", "Shared", "Threads", "Tries", "check_above_zero", "check_port",
    "check_seconds", "readiness", "serve", "shared",
]  # fmt: skip

if TYPE_CHECKING:
    from qsm_runtime.serve.core import Core
    from qsm_runtime.serve.log import StudyLog
    from qsm_runtime.serve.service import FrontEnd

Recipe = Annotated[
    str,
    typer.Option("--recipe", metavar="NAME", help="fast, default, best, or a .toml file; read at the start."),
]
Cheaper = Annotated[
    str, typer.Option("--cheaper", metavar="NAME", help="The recipe that answers when the deadline or memory is short.")
]
Deadline = Annotated[
    float | None,
    typer.Option("--deadline-s", metavar="S", help="A study that --recipe would answer later goes to --cheaper."),
]
Queue = Annotated[
    int, typer.Option("--queue", metavar="N", help="Studies that may wait for the one at work; more are put off.")
]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="X,Y,Z", help="Plan FFTs for this matrix before the first study. Repeatable."),
]
Health = Annotated[
    int | None,
    typer.Option(
        "--health", metavar="PORT", help="Answer /live, /ready, /status there, to this machine alone; 0: any."
    ),
]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="JSON lines are appended there. Default: standard error.")
]
Drain = Annotated[
    float,
    typer.Option("--drain-s", metavar="S", help="Time after SIGTERM for what was taken; the rest stays on disk."),
]
KeepDays = Annotated[
    float,
    typer.Option("--keep-days", metavar="D", help="How long ended studies are kept, failed ones too; inf: for ever."),
]
KeepGib = Annotated[
    float, typer.Option("--keep-gib", metavar="GIB", help="How much of them is kept, the oldest go first; inf: all.")
]
Tries = Annotated[
    int, typer.Option("--tries", metavar="N", help="A study at which the server ended so often is given up.")
]
AsJson = Annotated[bool, typer.Option("--json", help="When ready, one JSON document on standard output: ports, pid.")]


@dataclass(frozen=True)
class Shared:
    """The shared options of one command."""

    recipe: str = "default"
    cheaper: str = "fast"
    deadline_s: float | None = None
    threads: int | None = None
    queue: int = 4
    shapes: tuple[tuple[int, int, int], ...] = ()
    device: str = "auto"
    precision: str = "f32"
    models: tuple[Path, ...] = ()
    health: int | None = None
    log: Path | None = None
    drain_s: float = 60.0
    quiet: bool = False
    as_json: bool = False
    allowed: tuple[str, ...] = ()


def shared(
    recipe: str,
    cheaper: str,
    deadline_s: float | None,
    threads: int | None,
    queue: int,
    shape: list[str] | None,
    device: str,
    precision: str,
    models: list[Path] | None,
    health: int | None,
    log: Path | None,
    drain_s: float,
    quiet: bool,
    as_json: bool,
    allowed: list[str] | None = None,
) -> Shared:
    """The options, checked. Raises UsageError for what has no meaning."""
    if deadline_s is not None and not deadline_s > 0:
        raise UsageError(f"--deadline-s takes seconds above 0, got {deadline_s:g}")
    if deadline_s is not None and cheaper == recipe:
        raise UsageError(f"--deadline-s needs another recipe to go to than {recipe}: give --cheaper or --recipe")
    if not 1 <= queue <= 1000:
        raise UsageError(f"--queue takes 1 to 1000 studies, got {queue}")
    check_port(health=0 if health is None else health)
    if not drain_s >= 0:
        raise UsageError(f"--drain-s takes seconds, 0 or more, got {drain_s:g}")
    if log is not None and log.is_dir():
        raise UsageError(f"--log {log} is a folder; give the name of a file")
    sizes = [options.numbers(text, "--shape", 3) or () for text in shape or []]
    for text, three in zip(shape or [], sizes, strict=True):
        if any(n != int(n) or n < 1 for n in three):
            raise UsageError(f"--shape takes three whole numbers above 0, got {text!r}")
    shapes = tuple((int(x), int(y), int(z)) for x, y, z in sizes)
    return Shared(
        recipe, cheaper, deadline_s, threads, queue, shapes, device, precision, tuple(models or ()), health, log,
        drain_s, quiet, as_json, tuple(allowed or ()),
    )  # fmt: skip


def check_seconds(**by_option: float) -> None:
    """Raises UsageError for times that are not above 0; `idle_s` is the option --idle-s."""
    for name, value in by_option.items():
        if not 0 < value < 1e6:
            raise UsageError(f"{_option(name)} takes seconds above 0, got {value:g}")


def check_above_zero(**by_option: float) -> None:
    """Raises UsageError for amounts that are not above 0."""
    for name, value in by_option.items():
        if not value > 0:
            raise UsageError(f"{_option(name)} takes a number above 0, got {value:g}")


def check_port(**by_option: int) -> None:
    """Raises UsageError for what is no port."""
    for name, value in by_option.items():
        if not 0 <= value <= 65535:
            raise UsageError(f"{_option(name)} takes a port from 0 (any free one) to 65535, got {value}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def serve(chosen: Shared, build: "Callable[[Core, StudyLog], Sequence[FrontEnd]]") -> int:
    """Run a server of the front ends that `build` makes until it is asked to end. Returns the exit code."""
    from qsm_runtime import recipe as recipes

    for name in {chosen.recipe, chosen.cheaper, *chosen.allowed}:
        recipes.load(name)  # a wrong name is told now
    how = replace(options.runtime(chosen.device, chosen.precision, list(chosen.models)), mode="server")
    from qsm_runtime.serve.core import Core, Settings
    from qsm_runtime.serve.log import StudyLog
    from qsm_runtime.serve.service import run_service

    settings = Settings(
        recipe=chosen.recipe, cheaper=chosen.cheaper, allowed=chosen.allowed, deadline_s=chosen.deadline_s,
        threads=chosen.threads, queue=chosen.queue, runtime=how, warm_shapes=chosen.shapes,
    )  # fmt: skip
    log = StudyLog(chosen.log, "warning" if chosen.quiet and chosen.log is None else "info")
    core = Core(settings, log)
    front_ends = build(core, log)

    def ready(state: dict[str, Any]) -> None:
        if chosen.as_json:
            print_json(state)
            sys.stdout.flush()
        if not chosen.quiet:
            print(readiness(chosen, state), file=sys.stderr, flush=True)

    if not chosen.quiet:
        print(f"warming up for recipe {chosen.recipe} ...", file=sys.stderr, flush=True)
    logging.captureWarnings(True)  # a DICOM library's would show values of headers, names of patients among them
    try:
        run_service(front_ends, core, log, chosen.health, drain_s=chosen.drain_s, ready=ready)
    finally:
        logging.captureWarnings(False)
        log.close()
    return 0


def readiness(chosen: Shared, state: dict[str, Any]) -> str:
    """The line that says that studies are taken, where and how."""
    where = "; ".join(f"{name} {front.get('where', '')}".strip() for name, front in state["front_ends"].items())
    deadline = "" if chosen.deadline_s is None else f", {chosen.cheaper} after {chosen.deadline_s:g} s"
    asked = f" ({', '.join(chosen.allowed)} if asked for)" if chosen.allowed else ""
    health = f"; health {state['health']}/status" if "health" in state else ""
    return f"ready: {where}; recipe {chosen.recipe}{asked}{deadline}{health}; end with Ctrl-C or SIGTERM"
