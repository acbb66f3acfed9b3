"""Planes grouped to stacks: one series, part, orientation, matrix and repetition, its echoes in order of time."""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.geometry import SAME_PLACE_MM, heights, levels, spacing_fault
from qsm_runtime.io.dicom.instance import CLASSIC_MR
from qsm_runtime.io.dicom.pixels import decoder_missing
from qsm_runtime.io.echoes import SAME_TIME_S

SAME_TIME_MS = 1000 * SAME_TIME_S
MAX_SHOWN = 3


@dataclass(frozen=True)
class EchoStack:
    """The planes of one echo, sorted along the normal; time and number are None where no header states them."""

    time_ms: float | None
    number: int | None
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        number = "echo" if self.number is None else f"echo {self.number}"
        return number if self.time_ms is None else f"{number} ({self.time_ms:g} ms)"


@dataclass(frozen=True)
class Stack:
    """One part of one series on one grid. repetition: 0, or its number where the series repeats."""

    part: str
    frames: tuple[Frame, ...]
    repetition: int = 0

    @property
    def first(self) -> Frame:
        return self.frames[0]

    @property
    def series(self) -> tuple[str, str, bool]:
        """What tells series apart: study, series, and whether the objects are enhanced."""
        instance = self.first.instance
        return instance.study_uid, instance.series_uid, instance.sop_class != CLASSIC_MR

    def __str__(self) -> str:
        repetition = f" repetition {self.repetition}" if self.repetition else ""
        return f"{self.label} {self.part}{repetition}"

    @cached_property
    def label(self) -> str:
        """The series by number; several where each echo is a series of its own."""
        numbers = {frame.instance.series_number for frame in self.frames}
        if len(numbers) == 1:
            return series_label(self.first)
        return f"series {', '.join(str(n) for n in sorted(n or 0 for n in numbers))}"

    @cached_property
    def echoes(self) -> tuple[EchoStack, ...]:
        height = heights(self.frames, self.first)
        by_echo: dict[Hashable, list[int]] = {}
        key = _echo_key(self.frames)
        for i, frame in enumerate(self.frames):
            by_echo.setdefault(key(frame), []).append(i)
        found = []
        for chosen in by_echo.values():
            ordered = tuple(self.frames[i] for i in sorted(chosen, key=lambda i: height[i]))
            numbers = {frame.echo_number for frame in ordered}
            number = numbers.pop() if len(numbers) == 1 else None
            found.append(EchoStack(ordered[0].echo_time_ms, number, ordered))
        return tuple(sorted(found, key=lambda e: (e.time_ms or 0.0, e.number or 0)))

    @cached_property
    def levels_mm(self) -> np.ndarray:
        """Distinct heights of the planes along the normal, ascending, in mm."""
        return levels(heights(self.frames, self.first))

    @cached_property
    def start(self) -> str:
        """Date and time of acquisition, to the second."""
        return min(frame.instance.acquired for frame in self.frames)[:14]

    @property
    def difference_ms(self) -> tuple[float, ...]:
        """Echo times of the two echoes whose difference this phase is, zeros where unknown; empty for plain phase."""
        stated = self.first.instance.difference_ms
        return stated if self.part == "phase" and len(self.echoes) == 1 else ()

    @property
    def any_twice(self) -> bool:
        """Whether two planes of one echo lie at one place."""
        return any(_twice(echo.frames, self.first) for echo in self.echoes)

    def faults(self) -> list[str]:
        """What the stack lacks to be read by itself, in words that name the remedy."""
        faults = []
        damaged = [f.instance for f in self.frames if f.instance.damage]
        if damaged:
            shown = ", ".join(str(i) for i in damaged[:MAX_SHOWN])
            faults.append(f"{self}: {len(damaged)} planes cannot be read ({shown}: {damaged[0].damage})")
        for syntax in sorted({frame.instance.syntax for frame in self.frames}):
            if missing := decoder_missing(syntax):
                faults.append(f"{self}: {missing}")
        formats = {(frame.instance.dtype, frame.instance.bits_stored) for frame in self.frames}
        if len(formats) > 1:
            faults.append(f"{self}: planes are stored in different formats; export the series again")
        for echo in self.echoes:
            twice = _twice(echo.frames, self.first)
            if twice:
                faults.append(
                    f"{self}: {len(twice)} planes of {echo} are there twice (the first: {twice[0][0].instance} and "
                    f"{twice[0][1].instance}, at one place); remove one of each, or uncombined coils"
                )
        fault = spacing_fault(self.levels_mm, self.first.slice_mm)
        if fault:
            faults.append(f"{self}: {fault}; transfer the series again")
        stated = self.first.instance.slices_stated
        if not fault and stated is not None and len(self.levels_mm) < stated:
            faults.append(f"{self}: {len(self.levels_mm)} of {stated} slices are here; transfer the series again")
        return faults + self._echo_faults()

    def _echo_faults(self) -> list[str]:
        if self.difference_ms:
            return []
        numbers = [echo.number for echo in self.echoes]
        known = sorted({n for n in numbers if n is not None})
        stated = self.first.instance.echoes_stated or 0
        if len(known) == len(numbers):
            absent = sorted(set(range(1, max(stated, known[-1]) + 1)) - set(known))
        else:
            absent = list(range(len(numbers), stated))
        if not absent:
            return []
        which = ", ".join(map(str, absent)) if len(known) == len(numbers) else f"{len(absent)} of {stated}"
        return [
            f"{self}: echo {which} missing ({len(numbers)} are here); transfer it, or convert to NIfTI to use fewer"
        ]


def series_label(frame: Frame) -> str:
    number = frame.instance.series_number
    return "a series without number" if number is None else f"series {number}"


def slug(words: str) -> str:
    """Letters, digits and dashes for a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:40].strip("-")


def _twice(ordered: Sequence[Frame], reference: Frame) -> list[tuple[Frame, Frame]]:
    """Neighbours in an ordered echo that lie at one place."""
    near = np.flatnonzero(np.diff(heights(ordered, reference)) <= SAME_PLACE_MM).tolist()
    return [(ordered[i], ordered[i + 1]) for i in near]


def _echo_key(frames: Sequence[Frame]) -> Callable[[Frame], Hashable]:
    """What tells echoes apart: the time, where every plane has one, else the number."""
    times = sorted({frame.echo_time_ms for frame in frames if frame.echo_time_ms is not None})
    if any(frame.echo_time_ms is None for frame in frames) or not times:
        return lambda frame: frame.echo_number
    cluster, number = {times[0]: 0}, 0
    for before, time in pairwise(times):
        number += time - before > SAME_TIME_MS
        cluster[time] = number
    return lambda frame: cluster[frame.echo_time_ms or 0.0]
