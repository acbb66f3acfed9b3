"""How much a spool takes and holds, and for how long it keeps what has ended."""

import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qsm_runtime.errors import OutputError
from qsm_runtime.serve.keep import Keep, Kept
from qsm_runtime.serve.spool_files import size_of
from qsm_runtime.serve.spool_repair import STATES

MIB = 2**20
Fsync = Literal["always", "soon", "never"]


class SpoolFull(OutputError):
    """There is no room for what came: the sender keeps it and may try again."""


@dataclass(frozen=True)
class Limits:
    """objects: waiting in incoming. held_mib: everything but done. keep: of done and failed.

    reserve_mib: of the disk, left free for results. fsync: whether an object is on the disk before it is acknowledged
    ("always"), is written out at once but acknowledged before ("soon": a power failure may take what came in the last
    moment, an ended process nothing), or when the system likes.
    """

    objects: int = 50_000
    held_mib: int = 65_536
    keep: Keep = field(default_factory=Keep)
    reserve_mib: int = 512
    fsync: Fsync = "soon"


class Room:
    """What a spool holds: objects that wait, bytes by state, and ended jobs that may go. For one thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept = Kept(root / "done", root / "failed")
        self.waiting = 0
        self.bytes: dict[str, int] = {}

    def measure(self, waiting: int) -> None:
        """Look at all there is. waiting: objects in incoming."""
        self.waiting = waiting
        self.bytes = {state: size_of(self._root / state) for state in STATES}

    def moved(self, size: int, source: str, target: str) -> None:
        self.bytes[source] -= size
        self.bytes[target] += size

    def check(self, size: int, limits: Limits) -> None:
        """Raise SpoolFull where so much more is beyond the limits."""
        if self.waiting >= limits.objects:
            raise SpoolFull(f"{self.waiting} objects wait already: {self._root} takes no more")
        held = sum(count for state, count in self.bytes.items() if state != "done")
        if held + size > limits.held_mib * MIB:
            raise SpoolFull(f"{self._root} holds {held // MIB} MiB: remove what failed")

    def fits(self, size: int, limits: Limits) -> bool:
        """Whether the disk has it, and the reserve beside."""
        return shutil.disk_usage(self._root).free >= size + limits.reserve_mib * MIB

    def overdue(self, limits: Limits, spared: Container[str]) -> list[Path]:
        """Ended jobs that are kept no longer, oldest first, but none of `spared`."""
        return self._kept.beyond(limits.keep, spared)

    def dispensable(self, spared: Container[str]) -> Iterator[Path]:
        """Answered jobs, oldest first, but none of `spared`; what failed may not be had again."""
        return (job for job in self._kept.beyond(Keep(gib=0.0), spared) if job.parent.name == "done")
