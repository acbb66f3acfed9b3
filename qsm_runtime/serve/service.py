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
    begun = time.monotonic()
    phase = ["starting"]
    url: list[str] = []

    def state() -> dict[str, Any]:
        states = {front_end.name: front_end.state() for front_end in front_ends}
        taking = phase[0] == "serving" and core.ready and all(s.get("ready", True) for s in states.values())
        return {
            "ready": taking,
            "phase": phase[0],
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - begun, 1),
            **({"health": url[0]} if url else {}),
            "core": core.state(),
            "front_ends": states,
            "log_lines_lost": log.lost,
        }

    answering = None if health is None else HealthServer(health, state)
    port = None if answering is None else answering.port
    if answering is not None:
        url.append(answering.url)
        answering.start()
    started: list[FrontEnd] = []
    try:
        with _Signals() as signals:
            log.event("service.start", pid=os.getpid(), front_ends=[f.name for f in front_ends])
            try:
                core.start()
                for front_end in front_ends:
                    front_end.start()
                    started.append(front_end)
                signals.interrupting = False
            except KeyboardInterrupt:
                log.event("service.stopping", why="asked to while starting")
                for front_end in started:
                    front_end.accepting(False)
                    front_end.stop()
                core.stop(0.0)
                return
            phase[0] = "serving"
            log.event("service.ready", seconds=time.monotonic() - begun, health_port=port)
            _notify("READY=1")
            if ready is not None:
                ready(state())
            number = signals.wait()
            phase[0] = "draining"
            _notify("STOPPING=1")
            log.event("service.stopping", why=signal.Signals(number).name, drain_s=drain_s)
            left = _drain(front_ends, core, log, drain_s)
            phase[0] = "stopped"
            log.event("service.stopped", level="warning" if left else "info", unfinished=left or None)
    except KeyboardInterrupt:
        log.event("service.forced", level="warning")
        core.stop(0.0)
        raise
    except QsmError as error:
        log.event("service.failed", level="error", kind=type(error).__name__, message=str(error))
        for front_end in started:
            front_end.stop()
        core.stop(0.0)
        raise
    finally:
        if answering is not None:
            answering.stop()


def _drain(front_ends: Sequence[FrontEnd], core: WarmCore, log: StudyLog, drain_s: float) -> list[str]:
    """Stop every front end, then the core; the names of those that did not end in time."""
    until = time.monotonic() + drain_s
    for front_end in front_ends:
        front_end.accepting(False)
    threads = [threading.Thread(target=f.stop, name=f"stop-{f.name}", daemon=True) for f in front_ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    core.stop(max(0.0, until - time.monotonic()))
    until = time.monotonic() + GRACE_S  # those that waited for the core put off what they had
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [f.name for f, thread in zip(front_ends, threads, strict=True) if thread.is_alive()]


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
