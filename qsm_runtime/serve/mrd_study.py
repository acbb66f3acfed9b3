"""One MRD study while it arrives: what came, what is wrong with it, and echoes that are whole before the rest is there.

Whatever is wrong is remembered and the stream is read on: the images must go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qsm_runtime.errors import InputError, QsmError
from qsm_runtime.io.mrd.described import Measurement, measurement_of, meta_of
from qsm_runtime.io.mrd.exact import Exact
from qsm_runtime.io.mrd.parameters import Parameters, parameters_of, recipe_in, recipe_name
from qsm_runtime.io.mrd.planes import Plane, Received, planes_of, why_not
from qsm_runtime.io.mrd.protocol import Config, Header, Image, Message, Raw, Text
from qsm_runtime.io.mrd.read import Study, expected_times_ms, read_scan
from qsm_runtime.io.mrd.stacks import scans_of

if TYPE_CHECKING:
    from qsm_runtime.serve.early import Early

PAIRS = {"magnitude": "phase", "phase": "magnitude", "real": "imaginary", "imaginary": "real", "complex": "complex"}
FIRST = (0, 0, 0, 0)  # counters of the scan whose echoes may be worked on early


@dataclass
class Arriving:
    """early: opens the early work of this study. threads: for conversion."""

    early: Callable[[], Early]
    threads: int | None = None
    received: list[Received] = field(default_factory=list)
    raw: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    fault: QsmError | None = None
    config: str = ""
    measurement: Measurement = field(default_factory=Measurement)
    parameters: Parameters = field(default_factory=Parameters)
    opened: Early | None = None
    _planes: list[Plane] = field(default_factory=list)
    _aside: dict[str, int] = field(default_factory=dict)
    _whole: dict[tuple[str, int], int] = field(default_factory=dict)
    _ahead: ThreadPoolExecutor | None = None

    def take(self, message: Message) -> None:
        """One message of the client."""
        try:
            if isinstance(message, Image):
                self._image(message)
            elif isinstance(message, Header):
                self.measurement = measurement_of(message.text)
            elif isinstance(message, Text) or (isinstance(message, Config) and message.text.lstrip().startswith("{")):
                self.parameters, said = parameters_of(message.text, self.parameters)
                self.warn(said)
            elif isinstance(message, Config):
                self.config = message.text
            elif isinstance(message, Raw):
                self.raw[message.kind] = self.raw.get(message.kind, 0) + 1
        except QsmError as error:
            self.fault = self.fault or error

    @property
    def recipe(self) -> str:
        """The recipe that is asked for, by a parameter, by the header or by the configuration; empty: none is."""
        return self.parameters.recipe or recipe_name(self.measurement.recipe) or recipe_in(self.config)

    def studies(self) -> list[Study]:
        """The scans that came, read. Raises QsmError where they cannot be."""
        if self._ahead is not None:
            self._ahead.shutdown(wait=True)
        if self.fault is not None:
            raise self.fault
        if not self._planes:
            why = "; ".join(f"{n} x {reason}" for reason, n in self._aside.items())
            raise InputError(f"no image that could be used: {why or 'none came'}")
        self.warn(f"{n} images were not used: {reason}" for reason, n in self._aside.items())
        scans = scans_of(self._planes, self.parameters.series)
        expected, found = self.measurement.slices, len(scans[0].main[0])
        if expected is not None and expected > found:
            self.warn([f"{found} slices came, the header announced {expected}"])
        return [read_scan(scan, self.measurement, self.parameters, threads=self.threads) for scan in scans]

    def drop(self) -> None:
        """Nothing will be asked of it any more; its images go."""
        if self._ahead is not None:
            self._ahead.shutdown(wait=True, cancel_futures=True)
        if self.opened is not None:
            self.opened.cancel()
        self.received.clear()  # now, and not when cycles are collected
        self._planes.clear()

    def warn(self, messages: Iterable[str]) -> None:
        self.warnings += [m for m in messages if m not in self.warnings]

    def _image(self, image: Image) -> None:
        try:
            meta = meta_of(image.meta)
        except InputError as error:
            meta = {}
            self.warn([str(error)])
        one = Received(len(self.received), image, meta)
        self.received.append(one)
        why = why_not(one)
        if why:
            self._aside[why] = self._aside.get(why, 0) + 1
            return
        planes = planes_of(one, self.measurement.volumetric, self.measurement.slice_step_mm)
        self._planes += planes
        first = planes[0]
        if first.scan == FIRST:
            key = first.part, first.echo
            self._whole[key] = self._whole.get(key, 0) + len(planes)
            self._look_at(*key)

    def _look_at(self, part: str, echo: int) -> None:
        """Begin the early work on an echo that has just become whole."""
        slices, times = self.measurement.slices, expected_times_ms(self.measurement, self.parameters)
        other = PAIRS.get(part, "")
        if self.fault or slices is None or not 0 <= echo < len(times):
            return
        if not self._whole[part, echo] == self._whole.get((other, echo)) == slices:
            return
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, thread_name_prefix="mrd-early")
        planes = [p for p in self._planes if p.echo == echo and p.part in (part, other) and p.scan == FIRST]
        self._ahead.submit(self._feed, echo, planes, tuple(t / 1000 for t in times))

    def _feed(self, echo: int, planes: list[Plane], times_s: tuple[float, ...]) -> None:
        try:
            (scan,) = scans_of(planes, self.parameters.series)
            read = read_scan(scan, self.measurement, self.parameters, threads=self.threads, only=echo).acquisition.scan
            exact = Exact.of(self.measurement.exact)
        except (QsmError, ValueError):  # the whole study will show what is wrong
            return
        if self.opened is None:
            self.opened = self.early()
        self.opened.echo(
            echo, read.magnitude[0], read.phase_rad[0], grid=read.grid,
            echo_times_s=times_s if exact is None else exact.echo_times_s, b0_tesla=read.b0_tesla,
        )  # fmt: skip
