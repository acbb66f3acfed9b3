"""How much a spool takes, and for how long it keeps what has ended."""

from dataclasses import dataclass, field
from typing import Literal

from qsm_runtime.errors import OutputError
from qsm_runtime.serve.keep import Keep

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
