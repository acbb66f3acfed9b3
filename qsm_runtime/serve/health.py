"""Health over HTTP, on this machine alone: GET /live, /ready and /status.

/live answers 200 as long as the process does; /ready 200 when a study would be taken, else 503; /status the state as
JSON. Whatever is sent, a request costs a few kilobytes and seconds at most: its head is bounded in length and in time,
its body is never read, and only so many are answered at once.
"""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from qsm_runtime.errors import UsageError

MAX_HEAD = 4096  # bytes of a request up to its empty line
HEAD_SECONDS = 5.0
MAX_AT_ONCE = 16
LOOPBACK = ("127.0.0.1", "::1", "localhost")
END = (b"\r\n\r\n", b"\n\n")


class HealthServer:
    """Answers on `host`:`port` from start() to stop(), in threads of its own. port 0: a free one, see `port`.

    state: called for every /ready and /status, from another thread; its "ready" decides. Raises UsageError for a host
    that others can reach, or a port that is taken.
    """

    def __init__(self, port: int, state: Callable[[], dict[str, Any]], host: str = "127.0.0.1") -> None:
        if host not in LOOPBACK:
            raise UsageError(f"health is answered on this machine alone: host must be one of {', '.join(LOOPBACK)}")
        if not 0 <= port <= 65535:
            raise UsageError(f"--health takes a port between 0 (any free one) and 65535, got {port}")
        try:
            self._server = _Server(host, port, state)
        except OSError as error:
            raise UsageError(f"--health {port}: {error.strerror or error}; choose another port") from error
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{self._server.host_text}:{self.port}"

    def start(self) -> None:
        serve = lambda: self._server.serve_forever(poll_interval=0.2)  # noqa: E731
        self._thread = threading.Thread(target=serve, name="health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, state: Callable[[], dict[str, Any]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host_text = f"[{host}]" if ":" in host else host
        self.state = state
        self.places = threading.BoundedSemaphore(MAX_AT_ONCE)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; what the state could not say was answered with 500."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        status, body, head_only = HTTPStatus.INTERNAL_SERVER_ERROR, b'{"error": "no state"}\n', False
        try:
            status, body, head_only = self._answer(self._head())
        finally:
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
            )
            self.request.settimeout(HEAD_SECONDS)
            self.request.sendall(head.encode("ascii") + (b"" if head_only else body))

    def _head(self) -> bytes | HTTPStatus:
        """The request up to its empty line, or what is wrong with it."""
        head, until = b"", time.monotonic() + HEAD_SECONDS
        while not any(end in head for end in END):
            left = until - time.monotonic()
            if left <= 0:
                return HTTPStatus.REQUEST_TIMEOUT
            if len(head) >= MAX_HEAD:
                return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.request.settimeout(left)
            try:
                more = self.request.recv(MAX_HEAD - len(head))
            except TimeoutError:
                return HTTPStatus.REQUEST_TIMEOUT
            if not more:
                return HTTPStatus.BAD_REQUEST
            head += more
        return head

    def _answer(self, head: bytes | HTTPStatus) -> tuple[HTTPStatus, bytes, bool]:
        if isinstance(head, HTTPStatus):
            return head, _said(error=head.phrase), False
        lines = head.decode("latin-1").splitlines()
        words = lines[0].split(" ") if lines else []
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return HTTPStatus.BAD_REQUEST, _said(error="no HTTP/1 request"), False
        method, path, _ = words
        if not _is_local(lines[1:]):  # a page in a browser that had its own name point here
            return HTTPStatus.MISDIRECTED_REQUEST, _said(error="not the name of this machine"), False
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _said(error="GET alone"), False
        only = method == "HEAD"
        match path.partition("?")[0]:
            case "/live":
                return HTTPStatus.OK, _said(live=True), only
            case "/ready":
                ready = bool(self.server.state().get("ready"))
                return (HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE), _said(ready=ready), only
            case "/status":
                return HTTPStatus.OK, _said(**self.server.state()), only
        return HTTPStatus.NOT_FOUND, _said(error="there are /live, /ready and /status"), only


def _is_local(lines: list[str]) -> bool:
    """Whether the Host header, if there is one, names this machine."""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "host":
            host = value.strip().lower()
            host = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
            return host in LOOPBACK
    return True


def _said(**fields: Any) -> bytes:
    return (json.dumps(fields, default=str) + "\n").encode()
