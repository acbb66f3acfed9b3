"""A server's life: warm up, take studies, and on SIGTERM or SIGINT take no more, finish what was taken and end.

What cannot be finished in time lies on disk and is taken up again by the next start. A second signal ends at once.
"""

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Protocol

from qsm_runtime.errors import QsmError
from qsm_runtime.serve.health import HealthServer
from qsm_runtime.serve.log import StudyLog

DRAIN_S = 60.0
GRACE_S = 5.0
WAKE_S = 1.0  # a waiting main thread looks for signals at least this often (Windows)


class FrontEnd(Protocol):
    """One way in for studies. Ports are bound and folders checked when it is made, so that a mistake is told at once.

    start      takes studies from now on; the core is warm; returns at once
    accepting  False: take no new study; what is on its way in may come to its end
    stop       finish what was taken (the core still works) and end; may take long, called from another thread.
               What cannot be finished must be on disk and be taken up by the next start.
    state      for /status; "where" is a line for the operator, such as an address; "ready": False, if it cannot take
               studies for now
    """

    name: str

    def start(self) -> None: ...
    def accepting(self, yes: bool) -> None: ...
    def stop(self) -> None: ...
    def state(self) -> dict[str, Any]: ...


class WarmCore(Protocol):
    """What of serve.core.Core the service needs."""

    @property
    def ready(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self, drain_s: float = ...) -> None: ...
    def state(self) -> dict[str, Any]: ...


def run_service(
    front_ends: Sequence[FrontEnd],
    core: WarmCore,
    log: StudyLog,
    health: int | None = None,
    *,
    drain_s: float = DRAIN_S,
    ready: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain for at most `drain_s`. For the main thread.

    health: port of the health server, 0 for a free one, None for no server; it answers from the very start.
    ready: called once, with the state, when studies are taken.
    Raises what a start raises, and KeyboardInterrupt on a second signal.
    """
    service = _Service(front_ends, core, log, health)
    try:
        with _Signals() as signals:
            if service.start(signals):
                if ready is not None:
                    ready(service.state())
                service.drain(signals.wait(), drain_s)
    except KeyboardInterrupt:
        log.event("service.forced", level="warning")
        core.stop(0.0)
        raise
    except QsmError as error:
        log.event("service.failed", level="error", kind=type(error).__name__, message=str(error))
        service.abandon()
        raise
    finally:
        service.close()


class _Service:
    """Front ends, core and health server together, and how far along they are."""

    def __init__(self, front_ends: Sequence[FrontEnd], core: WarmCore, log: StudyLog, health: int | None) -> None:
        self.front_ends, self.core, self.log = front_ends, core, log
        self.phase, self.begun = "starting", time.monotonic()
        self.started: list[FrontEnd] = []
        self.health = None if health is None else HealthServer(health, self.state)
        if self.health is not None:
            self.health.start()

    def state(self) -> dict[str, Any]:
        states = {front_end.name: front_end.state() for front_end in self.front_ends}
        taking = self.core.ready and all(state.get("ready", True) for state in states.values())
        return {
            "ready": taking and self.phase == "serving",
            "phase": self.phase,
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - self.begun, 1),
            **({} if self.health is None else {"health": self.health.url}),
            "core": self.core.state(),
            "front_ends": states,
            "log_lines_lost": self.log.lost,
        }

    def start(self, signals: "_Signals") -> bool:
        """Warm up and take studies; False where a signal came first."""
        try:
            self.log.event("service.start", pid=os.getpid(), front_ends=[f.name for f in self.front_ends])
            self.core.start()
            for front_end in self.front_ends:
                front_end.start()
                self.started.append(front_end)
            signals.interrupting = False
        except KeyboardInterrupt:
            self.log.event("service.stopping", why="asked to while starting")
            self.abandon()
            return False
        self.phase = "serving"
        port = None if self.health is None else self.health.port
        self.log.event("service.ready", seconds=time.monotonic() - self.begun, health_port=port)
        _notify("READY=1")
        return True

    def drain(self, number: int, drain_s: float) -> None:
        """Stop every front end, then the core, in `drain_s` at most."""
        self.phase = "draining"
        _notify("STOPPING=1")
        self.log.event("service.stopping", why=signal.Signals(number).name, drain_s=drain_s)
        until = time.monotonic() + drain_s
        for front_end in self.front_ends:
            front_end.accepting(False)
        threads = [threading.Thread(target=f.stop, name=f"stop-{f.name}", daemon=True) for f in self.front_ends]
        for thread in threads:
            thread.start()
        _join(threads, until)
        self.core.stop(max(0.0, until - time.monotonic()))
        _join(threads, time.monotonic() + GRACE_S)  # those that waited for the core put off what they had
        left = [f.name for f, thread in zip(self.front_ends, threads, strict=True) if thread.is_alive()]
        self.phase = "stopped"
        self.log.event("service.stopped", level="warning" if left else "info", unfinished=left or None)

    def abandon(self) -> None:
        """End what was started, where the start came to nothing."""
        for front_end in self.started:
            front_end.accepting(False)
            front_end.stop()
        self.core.stop(0.0)

    def close(self) -> None:
        if self.health is not None:
            self.health.stop()


def _join(threads: Sequence[threading.Thread], until: float) -> None:
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


class _Signals:
    """SIGTERM and SIGINT, queued; while `interrupting`, and from the second on, they interrupt as they did before."""

    def __init__(self) -> None:
        self.interrupting = True
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()  # the one queue a signal handler may put into
        self._count = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def wait(self) -> int:
        """The signal that asked to end."""
        while True:
            try:
                return self._asked.get(timeout=WAKE_S)
            except queue.Empty:
                continue

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self.interrupting:
            raise KeyboardInterrupt
        self._asked.put(number)
        if self._count > 1:
            previous = self._previous[number]
            if callable(previous):
                previous(number, frame)
            raise KeyboardInterrupt


def _notify(text: str) -> None:
    """Tell systemd (Type=notify), where it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or sys.platform == "win32":
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:  # nobody listens
        return
