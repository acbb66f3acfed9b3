"""A server's life in a process of its own: signals in its midst, kill -9, health from the outside, systemd."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from patience import PATIENCE_S, until
from serve_kit import FakeCore
from watch_kit import claims, contents, study

from qsm_runtime.errors import OutputError
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.service import run_service

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
KITS = ":".join(str(folder) for folder in Path(__file__).parents[:2])
PROGRAM = """
import sys, time
from pathlib import Path
sys.path += sys.argv[1].split(":")
from serve_kit import FakeCore
from watch_kit import QUICK
from qsm_runtime.cli import app
from qsm_runtime.serve import service
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.service import run_service
from qsm_runtime.serve.watch import Rules, Watch

root = Path(sys.argv[2])
service.GRACE_S = 0.5  # what does not end in this test, does not end

class Gate:  # answers once the file `go` is there
    def wait(self, limit_s):
        while not (root / "go").exists():
            time.sleep(0.02)

class Core(FakeCore):
    def start(self):
        (root / "warming").touch()
        while (root / "hold").exists():
            time.sleep(0.02)

def serve(*arguments):
    log = StudyLog(root / "log")
    core = Core(gate=Gate())
    watch = Watch(root / "in", root / "out", core, log, Rules(**QUICK))
    run_service([watch], core, log, 0, drain_s=float(sys.argv[3]),
                ready=lambda s: (root / "port").write_text(s["health"]) and (root / "ready").touch())

class Command:
    def main(self, *arguments, **options):
        return serve()

app.typer.main.get_command = lambda app: Command()  # signals as `qsm` sets them
sys.exit(app.main(["x"]))
"""


class Server:
    def __init__(self, root, drain_s=PATIENCE_S, environment=None):
        self.root = root
        (root / "in").mkdir(exist_ok=True)
        for name in ("ready", "port"):
            (root / name).unlink(missing_ok=True)
        command = [sys.executable, "-c", PROGRAM, KITS, str(root), str(drain_s)]
        where = {**os.environ, "QSM_DATA_DIR": str(root / "data"), **(environment or {})}
        self.process = subprocess.Popen(command, env=where, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def ready(self):
        until(lambda: (self.root / "ready").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()
        return self

    def get(self, path):
        try:
            with urllib.request.urlopen((self.root / "port").read_text() + path, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def events(self):
        return [json.loads(line) for line in (self.root / "log").read_text().splitlines(True) if line.endswith("\n")]

    def said(self, name):
        """Wait for an event; it."""
        return until(lambda: [one for one in self.events() if one["event"] == name], lambda: name)[-1]

    def end(self):
        return self.process.wait(PATIENCE_S)

    @property
    def inbox(self):
        return self.root / "in"


def at_work(server):
    study(server.inbox / "drop")
    until(lambda: server.get("/status")[1]["front_ends"]["watch"]["working"] == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_midst_of_work_loses_nothing_and_exits_with_0(tmp_path, number):
    with Server(tmp_path) as server:
        server.ready()
        at_work(server)
        assert server.get("/ready") == (200, {"ready": True})
        server.process.send_signal(number)
        until(lambda: not server.get("/status")[1]["front_ends"]["watch"]["ready"])
        assert server.get("/status")[1]["phase"] == "draining"
        assert server.get("/live")[0] == 200
        assert server.get("/ready")[0] == 503
        study(server.inbox / "late")
        (tmp_path / "go").touch()
        assert server.end() == 0
        assert server.process.stderr.read() == ""
    assert len(claims(server.inbox, "done")) == 1
    assert len(list((tmp_path / "out").rglob("*_Chimap.nii.gz"))) == 1
    assert (server.inbox / "late").is_dir()
    said = [line["event"] for line in server.events()]
    assert said[:2] == ["service.start", "service.ready"]
    assert said[-1] == "service.stopped"
    assert {line["why"] for line in server.events() if line["event"] == "service.stopping"} == {number.name}


def test_a_second_signal_ends_at_once_and_the_next_start_goes_on(tmp_path):
    with Server(tmp_path) as server:
        server.ready()
        at_work(server)
        before = contents(claims(server.inbox, "working")[0] / "data")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/status")[1]["phase"] == "draining")
        server.process.send_signal(signal.SIGTERM)
        server.said("service.forced")
        (tmp_path / "go").touch()
        assert server.end() == 143
    (folder,) = claims(server.inbox, "working") + claims(server.inbox, "done")
    assert contents(folder / "data") == before
    with Server(tmp_path) as server:
        server.ready()
        until(lambda: claims(server.inbox, "done"))
        server.process.terminate()
        assert server.end() == 0


def test_what_does_not_end_in_time_stays_on_disk(tmp_path):
    with Server(tmp_path, drain_s=0.5) as server:
        server.ready()
        at_work(server)
        server.process.terminate()
        assert server.said("service.stopped")["unfinished"] == ["watch"]
        assert len(claims(server.inbox, "working")) == 1


def test_kill_9_in_the_midst_of_work_and_a_restart(tmp_path):
    with Server(tmp_path) as server:
        server.ready()
        at_work(server)
        before = contents(claims(server.inbox, "working")[0] / "data")
        server.process.kill()
        server.end()
    assert list((tmp_path / "out").rglob("*.nii.gz")) == []
    (tmp_path / "go").touch()
    with Server(tmp_path) as server:
        server.ready()
        (folder,) = until(lambda: claims(server.inbox, "done"))
        server.process.terminate()
        assert server.end() == 0
    assert contents(folder / "data") == before
    assert json.loads((folder / "study.json").read_text())["tries"] == 2
    assert len(list((tmp_path / "out").rglob("*_Chimap.nii.gz"))) == 1


def test_a_signal_while_it_warms_up_ends_it_cleanly(tmp_path):
    (tmp_path / "hold").touch()
    with Server(tmp_path) as server:
        until((tmp_path / "warming").exists)
        server.process.terminate()
        assert server.end() == 0
    assert not (tmp_path / "ready").exists()
    assert claims(server.inbox, "working") == []


def test_systemd_is_told_when_studies_are_taken_and_when_it_stops(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        path = f"/tmp/qsm-notify-{os.getpid()}"  # a socket's path must be short
        channel.bind(path)
        channel.settimeout(PATIENCE_S)
        try:
            with Server(tmp_path, environment={"NOTIFY_SOCKET": path}) as server:
                assert channel.recv(100) == b"READY=1"
                server.process.terminate()
                assert channel.recv(100) == b"STOPPING=1"
                assert server.end() == 0
        finally:
            os.unlink(path)


def test_studies_come_and_go_while_health_is_asked(tmp_path):
    (tmp_path / "go").touch()
    with Server(tmp_path) as server:
        server.ready()
        for number in range(3):
            study(tmp_path / "made" / str(number), number=number + 1)
            os.rename(tmp_path / "made" / str(number), server.inbox / f"drop{number}")
        until(lambda: (watch := server.get("/status")[1]["front_ends"]["watch"])["done"] == 3 and not watch["working"])
        assert server.get("/status")[1]["ready"] is True
        server.process.terminate()
        assert server.end() == 0
    assert len(claims(server.inbox, "done")) == 3


class FrontEnd:
    """Notes what is asked of it."""

    def __init__(self, name, error=None):
        self.name, self.error, self.asked = name, error, []

    def start(self):
        self.asked.append("start")
        if self.error is not None:
            raise self.error

    def accepting(self, yes):
        self.asked.append(f"accepting {yes}")

    def stop(self):
        self.asked.append("stop")

    def state(self):
        return {"where": "nowhere"}


def test_a_front_end_that_cannot_start_ends_the_others_and_the_core():
    before = signal.getsignal(signal.SIGTERM)
    first, second, third = FrontEnd("a"), FrontEnd("b", OutputError("no port")), FrontEnd("c")
    core, text = FakeCore(), io.StringIO()
    with pytest.raises(OutputError, match="no port"):
        run_service([first, second, third], core, StudyLog(text), 0)
    assert first.asked == ["start", "accepting False", "stop"]
    assert second.asked == ["start"]
    assert third.asked == []
    assert core.ready is False
    assert json.loads(text.getvalue().splitlines()[-1])["event"] == "service.failed"
    assert signal.getsignal(signal.SIGTERM) is before


def test_front_ends_stop_taking_before_any_of_them_is_stopped_and_the_core_last():
    order = []
    fronts = [FrontEnd("a"), FrontEnd("b")]
    for front in fronts:
        front.asked = order
    core = FakeCore()
    core.stop = lambda drain_s=60.0: order.append("core")
    run_service(fronts, core, StudyLog(io.StringIO()), ready=lambda state: os.kill(os.getpid(), signal.SIGTERM))
    assert order == ["start", "start", "accepting False", "accepting False", "stop", "stop", "core"]
