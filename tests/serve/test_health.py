"""Health over HTTP: right answers, and no request that costs more than a moment."""

import contextlib
import json
import select
import socket
import threading
import urllib.error
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S, until

from qsm_runtime.errors import UsageError
from qsm_runtime.serve import health
from qsm_runtime.serve.health import HealthServer


class State:
    def __init__(self):
        self.fields = {"ready": True, "queued": 0, "path": "x"}

    def __call__(self):
        return self.fields


@pytest.fixture
def state():
    return State()


@pytest.fixture
def server(state):
    server = HealthServer(0, state)
    server.start()
    yield server
    server.stop()


def get(server, path):
    try:
        with urllib.request.urlopen(f"{server.url}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def raw(server, data):
    """What comes back for bytes; empty where the connection was only closed."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):  # the answer may be there before all is sent
            connection.sendall(data)
        return rest(connection)


def rest(connection):
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            got += part
    return got


def status(answer):
    return int(answer.split()[1])


def test_live_ready_and_status(server, state):
    assert get(server, "/live") == (200, {"live": True})
    assert get(server, "/ready") == (200, {"ready": True})
    assert get(server, "/status") == (200, state.fields)
    state.fields = {"ready": False}
    assert get(server, "/live") == (200, {"live": True})
    assert get(server, "/ready") == (503, {"ready": False})


def test_a_head_request_has_no_body(server):
    got = raw(server, b"HEAD /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(got) == 200
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"POST /live HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /status HTTP/1.1\r\n\r\n", 405),
        (b"GET /live\r\n\r\n", 400),
        (b"GET /live HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello \r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /live HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", 200),
        (b"GET /live HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        (b"GET /live?x=1 HTTP/1.0\n\n", 200),
    ],
)
def test_every_request_has_its_answer(server, request_bytes, code):
    assert status(raw(server, request_bytes)) == code


def test_a_long_head_is_cut_off(server):
    assert raw(server, b"GET /" + b"a" * 50_000_000)[:12] in (b"", b"HTTP/1.1 431")
    assert status(raw(server, b"GET /" + b"a" * (health.MAX_HEAD - 5))) == 431
    assert get(server, "/live")[0] == 200


def test_a_slow_head_is_given_up_in_all_and_not_byte_by_byte(server, monkeypatch):
    monkeypatch.setattr(health, "HEAD_SECONDS", 0.5)
    sent = []

    def answered():
        """Another byte, until there is something to read."""
        if not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"G")
            sent.append(1)
        return select.select([connection], [], [], 0)[0]

    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):  # it was closed just now
            until(answered)
        assert status(rest(connection)) == 408
    assert len(sent) < health.MAX_HEAD


def test_only_so_many_are_answered_at_once_and_then_it_recovers(server, monkeypatch):
    monkeypatch.setattr(health, "HEAD_SECONDS", PATIENCE_S)
    before = threading.active_count()
    held = [connect(server) for _ in range(3 * health.MAX_AT_ONCE)]
    until(lambda: len(select.select(held, [], [], 0)[0]) == 2 * health.MAX_AT_ONCE)  # closed at once
    assert threading.active_count() <= before + health.MAX_AT_ONCE
    for connection in held:
        connection.close()
    until(lambda: b"200" in raw(server, b"GET /live HTTP/1.1\r\n\r\n"))
    assert get(server, "/live")[0] == 200


def test_a_state_that_fails_is_an_answer_too(server, state, capfd):
    state.fields = {"ready": True, "what": object()}
    assert get(server, "/status")[0] == 200
    state.__class__.__call__, kept = (lambda self: 1 / 0), state.__class__.__call__
    try:
        assert get(server, "/status")[0] == 500
        assert get(server, "/live")[0] == 200
    finally:
        state.__class__.__call__ = kept
    assert "Traceback" not in capfd.readouterr().err


@settings(max_examples=40)
@given(data=st.binary(max_size=6000))
def test_noise_never_ends_it(server, data):
    got = raw(server, data + b"\r\n\r\n")
    assert got == b"" or 200 <= status(got) < 500
    assert status(raw(server, b"GET /live HTTP/1.1\r\n\r\n")) == 200


def test_others_cannot_reach_it_and_a_taken_port_is_said(server, state):
    with pytest.raises(UsageError, match="this machine alone"):
        HealthServer(0, state, host="0.0.0.0")
    with pytest.raises(UsageError, match="choose another port"):
        HealthServer(server.port, state)
    with pytest.raises(UsageError, match="between 0"):
        HealthServer(70000, state)


def test_its_port_is_free_again_after_the_end(state):
    first = HealthServer(0, state)
    first.start()
    port = first.port
    get(first, "/live")
    first.stop()
    second = HealthServer(port, state)
    second.start()
    assert get(second, "/live")[0] == 200
    second.stop()
