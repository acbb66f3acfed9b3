"""The worker process as the core sees it: started, told, heard, lost."""

import atexit
import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from qsm_runtime.errors import QsmError
from qsm_runtime.serve.messages import Done, LastWords, Message, Ready, Refused, Stop
from qsm_runtime.serve.shared import Region

START_LIMIT_S = 900.0  # a first start compiles everything
END_S = 10.0  # for a worker that was told to stop


class LostError(Exception):
    """The worker is gone; the text says why, as far as that can be told."""


class WorkerProcess:
    """A running worker. `tell` may be called from any thread, `hear` from one."""

    def __init__(self, main: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=main, args=(other, *arguments), name="qsm-worker", daemon=True)
        self._telling, self._ending = threading.Lock(), threading.RLock()
        self._words = ""
        self._process.start()
        other.close()
        atexit.register(self.kill)  # before multiprocessing's own, which would ask politely and wait

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def signals(self) -> list[Any]:
        """What to wait for: a message, or the worker's end."""
        return [self.connection, self._process.sentinel]

    def tell(self, message: Message, region: Region | None = None) -> None:
        """Send a message, and a region behind it. Raises LostError."""
        with self._telling:
            try:
                self.connection.send(message)
                if region is not None:
                    region.send(self.connection, self.pid)
            except OSError:
                raise LostError(self.why()) from None

    def hear(self, limit_s: float) -> tuple[Message, Region | None]:
        """The next message and the region behind it. Raises LostError where the worker ends or `limit_s` pass."""
        end = time.monotonic() + limit_s
        while True:
            if not wait(self.signals, max(0.0, end - time.monotonic())):
                self.kill()
                raise LostError(f"it did not answer within {limit_s:.0f} s")
            try:
                message = self.connection.recv() if self.connection.poll() else None
                region = Region.receive(self.connection) if isinstance(message, Done) else None
            except (EOFError, OSError, RuntimeError):  # it ended in the middle of a message
                raise LostError(self.why()) from None
            if message is None:
                raise LostError(self.why())
            if not isinstance(message, LastWords):
                return message, region
            self._words, end = message.reason, time.monotonic() + END_S

    def wait_ready(self) -> Ready:
        """Raises what the worker refused to start for, or LostError."""
        message, _ = self.hear(START_LIMIT_S)
        if isinstance(message, Refused):
            self.kill()
            raise message.error
        if not isinstance(message, Ready):
            raise QsmError(f"the worker began with {type(message).__name__}")
        return message

    def why(self) -> str:
        """Why it ended; waits for the end."""
        with self._ending:
            self._process.join(END_S)
            code = self._process.exitcode
            self.kill()
        if self._words:
            return self._words
        if code is None:
            return "it closed its connection"
        if code == -signal.SIGKILL:
            return "it was killed: the system was out of memory, or someone ended it"
        if code < 0:
            return f"it crashed ({signal.Signals(-code).name})"
        return f"it ended with exit code {code}"

    def stop(self) -> None:
        """Let it end by itself, for a while."""
        with contextlib.suppress(LostError):
            self.tell(Stop())
            self._process.join(END_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        atexit.unregister(self.kill)
        with self._ending:
            self._process.kill()
            self._process.join(END_S)
