"""The `qsm` command: its sub-commands, and what becomes of every error.

Exit codes: 0 done, 1 a bug, 2 usage, 3 unreadable or inconsistent input, 4 missing metadata, 5 no result or not
written, 6 a network or its card that does not hold, 7 a device that cannot run here, 8 a check that
did not hold (`qsm doctor`, `qsm bench check`), 130 interrupted, 143 terminated.
"""

import os
import signal
import sys
import traceback
import warnings
from types import FrameType, TracebackType
from typing import Annotated, TextIO

import typer

from qsm_runtime.cli import (
    analyse,
    bench,
    catalogue,
    doctor,
    inspect,
    map_stages,
    models,
    orient,
    run,
    scan_stages,
    send,
    serve,
    simulate,
    warmup,
)
from qsm_runtime.cli.options import spread
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import QsmError, QsmWarning

FAILED, INTERRUPTED, TERMINATED, PIPE_CLOSED = 5, 130, 143, 141
# the base of the parser's errors, wherever this typer version keeps it
CommandError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="qsm",
    help="Quantitative susceptibility mapping: from gradient-echo phase to susceptibility in seconds. "
    "Research software, no medical device.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"qsm_runtime {version('qsm_runtime')}")
        raise typer.Exit


@app.callback()
def _common(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also QSM_DEBUG=1).")] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("inspect")(inspect.inspect)
app.command("demo")(simulate.demo)
app.command("phantom")(simulate.phantom)
app.command("mask")(scan_stages.mask)
app.command("unwrap")(scan_stages.unwrap)
app.command("field")(scan_stages.field)
app.command("background")(map_stages.background)
app.command("invert")(map_stages.invert)
app.command("orient")(orient.orient)
app.command("compare")(analyse.compare)
app.command("picture")(analyse.picture)
app.command("methods")(catalogue.methods)
app.command("recipes")(catalogue.recipes)
app.command("warmup")(warmup.warmup)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(models.app, name="models")
app.add_typer(serve.app, name="serve")
app.add_typer(send.app, name="send")


def main(argv: list[str] | None = None) -> int:
    """Run `qsm` with `argv` (default: the process's own) and return its exit code."""
    arguments = spread(list(sys.argv[1:] if argv is None else argv)) or ["--help"]
    if "--debug" in arguments:  # wherever it stands
        arguments.remove("--debug")
        os.environ["QSM_DEBUG"] = "1"
    as_json = "--json" in arguments
    terminated: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    previous_signal = signal.signal(signal.SIGTERM, stop)
    previous_hook, sys.excepthook = sys.excepthook, _bug
    previous_show = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, QsmWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            previous_show(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="qsm", standalone_mode=False)
        sys.stdout.flush()
    except CommandError as error:
        code = _complain(_usage(error), "UsageError", 2, as_json)
    except QsmError as error:
        code = _complain(str(error), type(error).__name__, error.exit_code, as_json)
    except MemoryError:
        remedy = "not enough memory; use --recipe fast, fewer --save maps, or a machine with more"
        code = _complain(remedy, "MemoryError", FAILED, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{where}{error.strerror or error}", "OSError", FAILED, as_json)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous_signal)
        warnings.showwarning = previous_show
    sys.excepthook = previous_hook
    if code == INTERRUPTED:
        code = TERMINATED if terminated else INTERRUPTED
        _complain("stopped; nothing half-written is left", "Interrupted", code, as_json)
    return int(code or 0)


def _usage(error: Exception) -> str:
    """A parser's error, with where to read more."""
    context = getattr(error, "ctx", None)
    more = f"\nsee {context.command_path} --help" if context else ""
    return f"{error.format_message()}{more}"  # type: ignore[attr-defined]


def _complain(message: str, kind: str, code: int, as_json: bool) -> int:
    if os.environ.get("QSM_DEBUG"):
        traceback.print_exc()
    if as_json:
        print_json({"error": {"kind": kind, "message": message, "exit_code": code}})
    print(f"error: {message}", file=sys.stderr)
    return code


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For an error that nobody raised on purpose; Python then exits with 1."""
    if os.environ.get("QSM_DEBUG"):
        traceback.print_exception(kind, error, trace)
    text = f"this is a bug: {kind.__name__}: {error}"
    if "--json" in sys.argv:
        print_json({"error": {"kind": "bug", "message": text, "exit_code": 1}})
    print(f"error: {text}\nplease report it with the output of the same command and --debug", file=sys.stderr)
