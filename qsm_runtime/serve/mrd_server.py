"""The MRD front end: listens where a scanner's FIRE or OpenRecon connects, one conversation a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

from qsm_runtime.errors import UsageError
from qsm_runtime.io.mrd.protocol import MIB, ProtocolError
from qsm_runtime.io.mrd.streams import SocketStream
from qsm_runtime.io.mrd.writer import write_close, write_text
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.mrd_conversation import Conversation, Rules, Submits

ACCEPT_LOOK_S = 0.5
LINGER_BYTES, LINGER_S = 512 * MIB, 5.0  # of what a client still sends after CLOSE was said to it
OUTCOMES = ("answered", "refused", "empty", "gone")


@dataclass(frozen=True)
class Listening:
    """Where, for how many. idle_s: longest silence between messages, as long as a scan takes; stall_s: within one."""

    host: str = "127.0.0.1"
    port: int = 9002
    clients: int = 4
    idle_s: float = 3600.0
    stall_s: float = 60.0
    rules: Rules = field(default_factory=Rules)


class MrdServer:
    """Takes studies as MRD images; a front end of serve.service."""

    name = "mrd"

    def __init__(self, core: Submits, log: StudyLog, listening: Listening | None = None) -> None:
        """Binds the port. Raises UsageError where it cannot be had."""
        self._core, self._log, self._listening = core, log, listening or Listening()
        self._taking, self._stopping = True, threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._counts = dict.fromkeys((*OUTCOMES, "turned_away"), 0)
        wanted = self._listening
        try:
            self._socket = socket.create_server((wanted.host, wanted.port), backlog=16)
        except OSError as error:
            raise UsageError(
                f"{wanted.host}:{wanted.port} cannot be listened on ({error.strerror}); choose another port"
            ) from error
        self._socket.settimeout(ACCEPT_LOOK_S)
        self.host, self.port = self._socket.getsockname()[:2]
        self._accepting = threading.Thread(target=self._accept, name="mrd-accept", daemon=True)

    def start(self) -> None:
        self._accepting.start()

    def accepting(self, yes: bool) -> None:
        self._taking = yes

    def stop(self) -> None:
        """Wait for the conversations that have begun; those that have brought nothing yet are ended."""
        self._taking = False
        self._stopping.set()
        if self._accepting.is_alive():
            self._accepting.join()
        self._socket.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def state(self) -> dict[str, Any]:
        with self._lock:
            counts = dict(self._counts)
            held = len(self._threads)
        return {"where": f"MRD on {self.host}:{self.port}", "connections": held, **counts}

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:  # too many open files, or a client gone before it was taken
                self._log.event("mrd.accept", level="warning", reason=str(error.strerror))
                self._stopping.wait(ACCEPT_LOOK_S)
                continue
            with self._lock:
                room = self._taking and len(self._threads) < self._listening.clients
                thread = threading.Thread(
                    target=self._talk if room else self._turn_away, args=(connection,), name="mrd-client", daemon=True
                )
                if room:
                    self._threads.add(thread)
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        wanted = self._listening
        outcome = "gone"
        stream = None
        try:
            conversation: list[Conversation] = []
            stream = SocketStream(
                connection, wanted.idle_s, wanted.stall_s,
                lambda: self._stopping.is_set() and not (conversation and conversation[0].images),
            )  # fmt: skip
            conversation.append(Conversation(stream, self._core, self._log, wanted.rules))
            self._log.event("mrd.connected", study=conversation[0].study)
            outcome = conversation[0].hold()
        finally:
            if stream is not None:
                stream.finish(LINGER_BYTES, LINGER_S)
            with self._lock:
                self._threads.discard(threading.current_thread())
                self._counts[outcome] += 1

    def _turn_away(self, connection: socket.socket) -> None:
        """Say that there is no room, and CLOSE."""
        with self._lock:
            self._counts["turned_away"] += 1
        self._log.event("mrd.turned_away", level="warning", stopping=not self._taking)
        stream = SocketStream(connection, ACCEPT_LOOK_S, self._listening.stall_s)
        why = "is stopping" if not self._taking else f"has {self._listening.clients} clients already"
        with contextlib.suppress(ProtocolError):
            write_text(stream, f"ERR the server {why}; send the images again later")
            write_close(stream)
        stream.finish(LINGER_BYTES, LINGER_S)
