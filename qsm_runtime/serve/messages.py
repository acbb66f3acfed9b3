"""What the core and its worker process tell each other; a region of shared memory may follow a message."""

from dataclasses import dataclass

from qsm_runtime.errors import QsmError
from qsm_runtime.grid import Grid
from qsm_runtime.serve.pace import Pace

# to the worker


@dataclass(frozen=True)
class Open:
    """Echoes of a study will come into the region that follows: float32 (magnitude | phase, echo, x, y, z).

    recipe: the name of what it asks for; empty: the server's.
    """

    number: int
    grid: Grid
    echo_times_s: tuple[float, ...]
    b0_tesla: float
    recipe: str = ""


@dataclass(frozen=True)
class Echo:
    """Both volumes of an echo are in the region."""

    number: int
    index: int


@dataclass(frozen=True)
class Drop:
    """The study that was opened will not be asked for."""

    number: int


@dataclass(frozen=True)
class Run:
    """Answer this study: one that was opened, or the packed (scan, mask) that follows, with its `text`.

    cheaper: by the cheaper recipe. asked_at, deadline: time.monotonic() of the question and of the latest answer.
    recipe: the name of what it asks for; empty: the server's.
    """

    number: int
    cheaper: bool
    asked_at: float
    deadline: float | None
    pace: Pace
    text: bytes = b""
    recipe: str = ""


@dataclass(frozen=True)
class Stop:
    """Nothing more will come."""


# from the worker


@dataclass(frozen=True)
class Ready:
    """The worker is warm, after `seconds`; `pace` holds what it learned about its own speed."""

    seconds: float
    pace: Pace


@dataclass(frozen=True)
class Done:
    """The packed Result that follows, with its `text`.

    late: the cheaper recipe answered because of the deadline. busy_s: from the beginning of the work to its end,
    overlapped_s of it before the study was asked for.
    """

    number: int
    text: bytes
    recipe: str
    late: bool
    busy_s: float
    overlapped_s: float
    peak_mib: float | None


@dataclass(frozen=True)
class Refused:
    """The study cannot be reconstructed, or the worker not be started, and why."""

    number: int
    error: QsmError


@dataclass(frozen=True)
class LastWords:
    """The worker ends because of this."""

    reason: str


Message = Open | Echo | Drop | Run | Stop | Ready | Done | Refused | LastWords
