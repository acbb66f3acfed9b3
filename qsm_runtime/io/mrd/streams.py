"""Ways for MRD to travel: a TCP connection with limits on silence, and a pair of pipes."""

import socket
import time
from collections.abc import Callable
from typing import BinaryIO

from qsm_runtime.io.mrd.protocol import Ended, Silent

LOOK_S = 0.5  # a wait between messages looks this often whether it is still wanted


def _never() -> bool:
    return False


class SocketStream:
    """A connection. idle_s: longest silence between messages; stall_s: within one, or while the other does not read.

    stopping: asked while waiting between messages; True ends the wait as silence does.
    """

    def __init__(
        self, connection: socket.socket, idle_s: float, stall_s: float, stopping: Callable[[], bool] = _never
    ) -> None:
        self._connection, self._idle_s, self._stall_s, self._stopping = connection, idle_s, stall_s, stopping
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(stall_s)

    def read_into(self, view: memoryview, *, between: bool) -> int:
        try:
            if between:
                return self._wait_into(view)
            return self._connection.recv_into(view)
        except TimeoutError:
            raise Silent(f"nothing came for {self._stall_s:g} s in the middle of a message") from None
        except OSError as error:
            raise Ended(f"the connection broke ({error.strerror or error})") from None

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._connection.sendall(data)
        except TimeoutError:
            raise Silent(f"the other side did not read for {self._stall_s:g} s") from None
        except OSError as error:
            raise Ended(f"the connection broke ({error.strerror or error})") from None

    def finish(self, most_bytes: int, most_s: float) -> None:
        """Close without throwing away what was written: what still comes is read past, within limits."""
        until = time.monotonic() + most_s
        scratch = bytearray(1 << 16)
        try:
            self._connection.shutdown(socket.SHUT_WR)
            while most_bytes > 0 and (left := until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                got = self._connection.recv_into(scratch)
                if not got:
                    break
                most_bytes -= got
        except OSError:  # gone, or it neither reads nor closes
            pass
        finally:
            self._connection.close()

    def _wait_into(self, view: memoryview) -> int:
        until = time.monotonic() + self._idle_s
        try:
            while True:
                left = until - time.monotonic()
                if self._stopping():
                    raise Silent("the server is stopping")
                if left <= 0:
                    raise Silent(f"nothing came for {self._idle_s:g} s")
                self._connection.settimeout(min(left, LOOK_S))
                try:
                    return self._connection.recv_into(view)
                except TimeoutError:
                    continue
        finally:
            self._connection.settimeout(self._stall_s)


class PipeStream:
    """Two pipes or files, one to read from and one to write to; the other end decides how long anything takes."""

    def __init__(self, source: BinaryIO | None, target: BinaryIO | None) -> None:
        self._source, self._target = source, target

    def read_into(self, view: memoryview, *, between: bool) -> int:
        if self._source is None:
            raise Ended("nothing to read from")
        return self._source.readinto(view)  # type: ignore[attr-defined, no-any-return]

    def write(self, data: bytes | memoryview) -> None:
        if self._target is None:
            raise Ended("nothing to write to")
        try:
            self._target.write(data)
        except (BrokenPipeError, ValueError):
            raise Ended("the pipe was closed") from None

    def flush(self) -> None:
        if self._target is not None:
            self._target.flush()
