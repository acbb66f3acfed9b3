"""`qsm serve mrd`: where a scanner's FIRE or OpenRecon connects."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import serve_options as common
from qsm_runtime.errors import ReconstructionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsm_runtime.serve.core import Core
    from qsm_runtime.serve.log import StudyLog
    from qsm_runtime.serve.mrd_pipe import MrdPipe
    from qsm_runtime.serve.service import FrontEnd

GIB = 2**30
LARGEST_GIB = 1024


def mrd(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Listen there; 0.0.0.0: on every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0: any free one.")] = 9002,
    clients: Annotated[int, typer.Option("--clients", metavar="N", help="Connections at one time.")] = 4,
    idle_s: Annotated[
        float, typer.Option("--idle-s", metavar="S", help="Longest silence of a client: as long as a scan may take.")
    ] = 3600.0,
    stall_s: Annotated[
        float, typer.Option("--stall-s", metavar="S", help="Longest pause within a message, or in reading an answer.")
    ] = 60.0,
    answer_s: Annotated[
        float, typer.Option("--answer-s", metavar="S", help="After that a client gets its images back alone.")
    ] = 900.0,
    study_gib: Annotated[
        float, typer.Option("--study-gib", metavar="GIB", help="Most that the images of one study may take.")
    ] = 4.0,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="One study from standard input, the answer to standard output; no port.")
    ] = False,
    recipe: common.Recipe = "default",
    cheaper: common.Cheaper = "fast",
    allow_recipe: Annotated[
        list[str] | None,
        typer.Option("--allow-recipe", metavar="NAME", help="A study may ask for it too. Repeatable."),
    ] = None,
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
    """Answer MRD image streams with their susceptibility maps, as FIRE and OpenRecon send them.

    \b
    qsm serve mrd --host 0.0.0.0 --port 9002
    qsm send mrd SCAN --to - | qsm serve mrd --stdin | qsm send mrd SCAN --stdin -o OUT
    """
    chosen = common.shared(
        recipe, cheaper, deadline_s, threads, queue, shape, device, precision, models, health, log, drain_s, quiet,
        as_json, allow_recipe,
    )  # fmt: skip
    if stdin and as_json:
        raise UsageError("--json has no place beside --stdin: standard output carries the answer")
    common.check_port(port=port)
    if not 1 <= clients <= 1000:
        raise UsageError(f"--clients takes 1 to 1000, got {clients}")
    common.check_seconds(idle_s=idle_s, stall_s=stall_s, answer_s=answer_s)
    if not 0 < study_gib <= LARGEST_GIB:
        raise UsageError(f"--study-gib takes more than 0 and up to {LARGEST_GIB}, got {study_gib:g}")
    pipes: list[MrdPipe] = []

    def build(core: "Core", log: "StudyLog") -> "Sequence[FrontEnd]":
        from qsm_runtime.io.mrd.protocol import Limits
        from qsm_runtime.serve.mrd_conversation import Rules

        most = int(study_gib * GIB)
        rules = Rules(
            Limits(image=min(most, Limits().image), study=most), answer_s, threads=threads, recipes=core.recipes
        )
        if stdin:
            from qsm_runtime.serve.mrd_pipe import MrdPipe

            answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing but the answer may go there
            pipes.append(MrdPipe(core, log, sys.stdin.buffer, answer, rules))
            return pipes
        from qsm_runtime.serve.mrd_server import Listening, MrdServer

        return [MrdServer(core, log, Listening(host, port, clients, idle_s, stall_s, rules))]

    code = common.serve(chosen, build)
    if any(pipe.outcome in ("refused", "gone") for pipe in pipes):
        raise ReconstructionError("no map was made; the answer and the log say why")
    return code
