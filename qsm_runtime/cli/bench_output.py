"""What `qsm bench` reads and writes: records, pages, tables on the terminal, and what it says on the way."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.errors import InputError

if TYPE_CHECKING:
    from qsm_runtime.benching.records import Record
    from qsm_runtime.benching.tables import Table

Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also a page that needs nothing else.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also as Markdown.")]


def read(path: Path) -> "list[Record]":
    """The records of a file. Raises InputError."""
    from qsm_runtime import bench

    try:
        return list(bench.read(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: no records of `qsm bench`: {error}") from None


def write(files: Mapping[Path | None, Callable[[], str]]) -> None:
    """Each file's text, all files or none; what has no path is not made."""
    from qsm_runtime.io.atomic import write_files

    made = {path: [text().encode()] for path, text in files.items() if path is not None}
    if made:
        write_files(made, overwrite=True)


def show(records: "Sequence[Record]", extra: "Sequence[Table]", only: bool) -> None:
    """Tables on the terminal, doubts beside them; only: the extra ones alone."""
    from qsm_runtime.benching import records as said
    from qsm_runtime.benching import tables

    for table in extra if only else [*extra, *tables.report(records)]:
        print_table(table)
    for text in said.doubts(records):
        say(f"warning: {text}")


def print_table(table: "Table") -> None:
    """A table on standard output."""
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


def progress() -> "Callable[[Record], None]":
    """Says each case as it is done, with the time since now."""
    from qsm_runtime.benching import records

    start = time.perf_counter()

    def said(record: "Record") -> None:
        case, took = record["case"], record["wall_s"]
        where = ", ".join(
            str(part)
            for part in (case.get("size"), records.place_of(record), records.threads_said(case["threads"]))
            if part and record["kind"] != "machine"
        )
        text = f"{records.name_of(record)}{f' ({where})' if where else ''}: "
        if record["status"] != "ok":
            text += f"{record['status']}: {record.get('error')}"
        elif record["kind"] != "machine":
            off = records.seconds(record["time"]["uncertainty_s"])
            text += f"{records.seconds(record['time']['median_s'])} ± {off} s, {records.accuracy_of(record)}"
        else:
            text += f"{record['rates']['copy_gb_per_s']:.1f} GB/s"
        say(f"[{time.perf_counter() - start:5.0f} s] {text}  (measured in {took:.0f} s)")
        if record.get("doubt"):
            say(f"  warning: {record['doubt']}")

    return said


def say(text: str) -> None:
    """A line beside the output proper."""
    print(text, file=sys.stderr, flush=True)
