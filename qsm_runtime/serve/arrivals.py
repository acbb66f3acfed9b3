"""Studies as they arrive, object by object: which scans are complete, which echoes already are, what is missing."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qsm_runtime.io.dicom.find import FoundDicom, none_found, scans_of
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.read import Planes
from qsm_runtime.io.dicom.stacks import EchoStack, Stack

if TYPE_CHECKING:
    from concurrent.futures import Future

    from qsm_runtime.serve.core import Early

LEAST_PLANES = 4  # of an echo that is worth a head start


@dataclass
class HeadStart:
    """Echoes of one scan that the core has before the others. given: their indices; handing: those on their way."""

    early: "Early"
    given: set[int] = field(default_factory=set)
    handing: list["Future[None]"] = field(default_factory=list, repr=False)


@dataclass
class Study:
    """All that came with one StudyInstanceUID, answered scans included, while more of it may come.

    key, label: what stands for it in the log and in the spool. last: when the latest object came, on the monotonic
    clock; came: the same of each series. senders: associations that brought objects and are still open. ahead: head
    starts by the series of the phase.
    """

    key: str
    label: str = ""
    planes: Planes = field(default_factory=Planes, repr=False)
    last: float = field(default_factory=time.monotonic)
    came: dict[str, float] = field(default_factory=dict)
    senders: set[int] = field(default_factory=set)
    count: int = 0
    looked: int = 0  # count when complete scans were last sought, and when that was
    looked_at: float = 0.0
    cost_s: float = 0.0  # of looking
    answered: set[frozenset[str]] = field(default_factory=set, repr=False)
    ahead: dict[str, HeadStart] = field(default_factory=dict, repr=False)
    _echoes: dict[tuple, int] = field(default_factory=dict, repr=False)

    def add(self, frames: list[Frame]) -> bool:
        """Take one object's planes. Returns whether echoes may be whole now: another begins, or all have as many.

        Where slices come with all their echoes, only the first is true, and only before there is anything whole.
        """
        self.planes.add("", frames)
        self.count += 1
        first = frames[0]
        self.last = self.came[first.instance.series_uid] = time.monotonic()
        if first.why_not:
            return False
        key = (first.instance.series_uid, first.part, first.echo_time_ms, first.echo_number)
        self._echoes[key] = own = self._echoes.get(key, 0) + 1
        most = max(self._echoes.values())
        return most >= LEAST_PLANES and (own == 1 or (own == most and bool(self.ahead)))

    def scans(self) -> list[FoundDicom]:
        """The scans in it as it is now; incomplete ones say what they miss."""
        start = time.perf_counter()
        found = scans_of(self.planes)[0]
        self.cost_s = time.perf_counter() - start
        return found

    def quiet_s(self, found: FoundDicom, now: float) -> float:
        """For how long nothing has come to the series of a scan."""
        series = {frame.instance.series_uid for stack in found.stacks.values() for frame in stack.frames}
        return now - max(self.came[uid] for uid in series)

    def leave(self, names: frozenset[str]) -> None:
        """Take objects out of it."""
        self.planes.frames = [frame for frame in self.planes.frames if _name(frame) not in names]
        kept = {frame.instance.sop_uid for frame in self.planes.frames}
        self.planes.seen &= kept
        self.count -= len(names)
        self.looked = -1

    def names(self) -> frozenset[str]:
        return frozenset(_name(frame) for frame in self.planes.frames)

    def why_none(self) -> str:
        return none_found(self.planes)


def names_of(found: FoundDicom) -> frozenset[str]:
    """Names of the objects that a scan is made of."""
    return frozenset(_name(frame) for stack in found.stacks.values() for frame in stack.frames)


def placed(found: FoundDicom, places: Mapping[str, Path]) -> FoundDicom:
    """The same scan, its objects where they are now. places: name -> path."""
    moved: dict[int, Frame] = {}
    instances: dict[int, object] = {}

    def frame_at(frame: Frame) -> Frame:
        if id(frame) not in moved:
            old = frame.instance
            if id(old) not in instances:
                instances[id(old)] = replace(old, path=places[_name(frame)])
            moved[id(frame)] = frame._replace(instance=instances[id(old)])  # type: ignore[arg-type]
        return moved[id(frame)]

    stacks = {
        part: Stack(stack.part, tuple(frame_at(frame) for frame in stack.frames), stack.repetition)
        for part, stack in found.stacks.items()
    }
    return replace(found, stacks=stacks, files={})


def whole_echoes(found: FoundDicom) -> list[tuple[int, FoundDicom]]:
    """Echoes of a scan whose planes are all here, by index, each as a scan of its own.

    An echo is whole where its parts have the same planes and as many as the scan's fullest echo. One that is still
    coming may look so in its last moment only, when it is whole.
    """
    parts = list(found.stacks.values())
    if len(parts) != 2 or any(stack.difference_ms or stack.any_twice for stack in parts):
        return []
    most = max(len(echo.frames) for stack in parts for echo in stack.echoes)
    fullest = max(parts, key=lambda stack: len(stack.echoes))
    whole = []
    for index, echo in enumerate(fullest.echoes):
        pair = {stack.part: _same_echo(stack, echo) for stack in parts}
        if all(e is not None and len(e.frames) == most and e.time_ms is not None for e in pair.values()):
            stacks = {part: Stack(part, e.frames) for part, e in pair.items() if e is not None}
            whole.append((index, replace(found, stacks=stacks, missing=(), files={})))
    return whole


def echo_times_s(found: FoundDicom) -> tuple[float, ...]:
    """Times of every echo that has come in some part."""
    fullest = max(found.stacks.values(), key=lambda stack: len(stack.echoes))
    return tuple(echo.time_ms / 1000 for echo in fullest.echoes if echo.time_ms is not None)


def _same_echo(stack: Stack, echo: EchoStack) -> EchoStack | None:
    for other in stack.echoes:
        if echo.time_ms is not None and other.time_ms is not None and abs(other.time_ms - echo.time_ms) < 1e-3:
            return other
    return None


def _name(frame: Frame) -> str:
    path = frame.instance.path
    return "" if path is None else path.name
