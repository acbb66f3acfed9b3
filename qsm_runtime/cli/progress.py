"""Progress on standard error: a bar for the stage at work on a terminal, a line for each stage that is done."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol


class StageEvent(Protocol):
    """What the pipeline reports (pipeline.Event)."""

    @property
    def stage(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def fraction(self) -> float: ...
    @property
    def seconds(self) -> float: ...


class Progress:
    """Shows stages while they run; used with `with`. Quiet shows warnings alone."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}  # of the steps timed here
        self._bars: Any = None
        self._task: Any = None
        self._ended = ""  # a method may say itself that it is done, before the pipeline does

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bars = Bars(*columns, console=Console(stderr=True, highlight=False), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def say(self, text: str) -> None:
        """A line, unless quiet."""
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """A warning, also when quiet."""
        self._print(f"warning: {text}")

    def error(self, text: str) -> None:
        """An error that does not end the command."""
        self._print(f"error: {text}")

    def event(self, event: StageEvent) -> None:
        """For pipeline.reconstruct."""
        name = event.stage if event.method == event.stage else f"{event.stage} {event.method}"
        self._show(name, event.fraction, event.seconds)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens outside the pipeline: reading, writing, the picture."""
        start = time.perf_counter()
        self._show(name, 0.0, 0.0)
        yield
        seconds = time.perf_counter() - start
        self.seconds[name] = round(seconds, 4)
        self._show(name, 1.0, seconds)

    def _show(self, name: str, fraction: float, seconds: float) -> None:
        if self.quiet:
            return
        if self._bars and fraction < 1:
            if self._task is None:
                self._task = self._bars.add_task(name, total=None)
            self._bars.update(self._task, description=name, total=1 if fraction else None, completed=fraction)
        if fraction < 1:
            self._ended = ""
        elif self._ended != name:
            self._ended = name
            if self._bars and self._task is not None:
                self._bars.remove_task(self._task)
                self._task = None
            self._print(f"  {name:<24} {seconds:6.1f} s")

    def _print(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
