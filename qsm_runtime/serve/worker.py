"""The process that reconstructs: one study after another, told what to do through a pipe.

The main thread works; a second one listens, so that a study can be dropped, or be given its deadline, while it is
being worked on. A study whose echoes came early is worked on before anyone asks for it: then it is half done.
The process ends when its parent does, and after an exhausted memory, whose arrays it cannot be sure to have freed.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
import time
from errno import ENOMEM, ENOSPC
from multiprocessing.connection import Connection
from types import TracebackType

from qsm_runtime.errors import QsmError
from qsm_runtime.serve.messages import Done, Drop, Echo, LastWords, Message, Open, Ready, Refused, Run, Stop
from qsm_runtime.serve.pace import Pace
from qsm_runtime.serve.settings import Settings
from qsm_runtime.serve.shared import Packed, Region
from qsm_runtime.serve.task import DroppedError, Outcome, Task, work
from qsm_runtime.serve.warm import Prepared, prepare, warm_up

OUT_OF_MEMORY = "it ran out of memory"
ORPHANED = 3  # exit code where the parent is gone
_PR_SET_PDEATHSIG = 1  # prctl.h


def main(connection: Connection, settings: Settings, shapes: tuple[tuple[int, int, int], ...] | None) -> None:
    """Serve until told to stop. shapes: matrix sizes to be warm for; None: begin cold, someone is waiting."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the parent, which then lets this process finish its work
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # a kernel that never returns would not notice a closed pipe
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    desk = Desk(connection)
    with desk:
        start, pace = time.monotonic(), Pace()
        try:
            ready = prepare(settings)
            if shapes is not None:
                warm_up(ready, shapes, pace)
        except QsmError as error:
            desk.tell(Refused(0, error.with_traceback(None)))
            return
        desk.tell(Ready(time.monotonic() - start, pace))
        while (task := desk.next_task()) is not None:
            serve(desk, task, ready)
            del task  # its arrays go before the next one's come


def serve(desk: "Desk", task: Task, ready: Prepared) -> None:
    """Do what can be done for a task now: work on it if it is complete, answer it if it was asked for."""
    if task.dropped:
        return
    ready = ready.asked(task.recipe)
    if not task.complete:
        task.rehearse(ready)
        return
    try:
        if task.outcome is None:
            task.outcome = work(task, ready)
    except DroppedError:
        return
    if task.run is not None and not task.answered:
        task.answered = True
        desk.answer(task, task.outcome)


class Desk:
    """Where messages come in and tasks go out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._early: Task | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None:
            return False
        out_of_memory = issubclass(kind, MemoryError) or getattr(error, "errno", None) in (ENOMEM, ENOSPC)
        self.tell(LastWords(OUT_OF_MEMORY if out_of_memory else f"an unexpected {kind.__name__} ended it"))
        return out_of_memory

    def next_task(self) -> Task | None:
        """Waits for it; None when there will be no more."""
        return self._tasks.get()

    def tell(self, message: Message, region: Region | None = None) -> None:
        self._connection.send(message)
        if region is not None:
            region.send(self._connection, os.getppid())

    def answer(self, task: Task, outcome: Outcome) -> None:
        """Send what became of a task that was asked for."""
        if outcome.result is None:
            self.tell(Refused(task.number, outcome.error or QsmError("no result")))
            return
        asked_at = outcome.start if task.run is None else task.run.asked_at
        ahead_s = task.spared_s + max(0.0, min(outcome.end, asked_at) - outcome.start)
        packed = Packed(outcome.result)
        done = Done(
            task.number,
            packed.text,
            outcome.recipe,
            outcome.late,
            outcome.end - outcome.start,
            ahead_s,
            outcome.peak_mib,
        )
        self.tell(done, packed.region)

    def _listen(self) -> None:
        """Turn messages into tasks; what concerns the task that is being worked on reaches it at its next event."""
        while True:
            try:
                message = self._connection.recv()
                comes = isinstance(message, Open) or (isinstance(message, Run) and message.text)
                region = Region.receive(self._connection) if comes else None
            except (EOFError, OSError):
                os._exit(ORPHANED)
            if isinstance(message, Stop):
                self._tasks.put(None)
            elif region is not None and isinstance(message, Open):
                self._early = Task(message.number, region, message)
            elif region is not None and isinstance(message, Run):
                self._ask(Task(message.number, region), message)
            elif self._early is not None and self._early.number == message.number:
                self._concerning(self._early, message)

    def _concerning(self, early: Task, message: Message) -> None:
        if isinstance(message, Echo):
            early.arrived[message.index] = time.monotonic()
            self._tasks.put(early)
        elif isinstance(message, Drop):
            early.dropped, self._early = True, None
        elif isinstance(message, Run):
            self._early = None
            self._ask(early, message)

    def _ask(self, task: Task, message: Run) -> None:
        task.run = message
        if self._early is not None:
            self._early.hurried = True
        self._tasks.put(task)
