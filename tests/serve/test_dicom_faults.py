"""What goes wrong, and its outcome: the node stays up, nothing received is lost, nothing wrong is sent."""

import contextlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest
from dicom_kit import GIVEN_UP, MORE_COMES, Destination, FakeCore, Running, Storescp, scan_files, storescu
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S, until
from serve_kit import Told, free_port

from qsm_runtime.errors import OutputError
from qsm_runtime.serve import dicom_job
from qsm_runtime.serve.attempts import Attempts
from qsm_runtime.serve.delivery import Delivery, acknowledged, acks_name
from qsm_runtime.serve.dicom_send import SendError, echo, object_of
from qsm_runtime.serve.keep import DAY_S
from qsm_runtime.serve.spool import Limits, Spool
from qsm_runtime.serve.spool_files import label_of, name_of, read_record

EXAMPLES = int(os.environ.get("QSM_FUZZ_EXAMPLES", "25"))  # more by hand
FUZZ = settings(max_examples=EXAMPLES)
MIB = 2**20


@pytest.fixture
def paths(tmp_path):
    return scan_files(tmp_path / "scan")


def serves(run):
    """Whether the node still answers and holds no connection."""
    echo(run.address, "SCANNER", PATIENCE_S)
    until(lambda: not run.node.state()["associations"])


def connect(run):
    return socket.create_connection(("127.0.0.1", run.node.port), PATIENCE_S)


def request(called=b"QSM", calling=b"SCANNER"):
    """An association request for MR Image Storage (PS3.8 9.3.2)."""

    def item(kind, data):
        return struct.pack(">BBH", kind, 0, len(data)) + data

    context = b"\1\0\0\0" + item(0x30, b"1.2.840.10008.5.1.4.1.1.4") + item(0x40, b"1.2.840.10008.1.2.1")
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return struct.pack(">BBL", 1, 0, len(body)) + body


def fragment(data, flags):
    """A P-DATA-TF unit with one fragment. flags: 1 command, 2 last."""
    value = struct.pack(">LBB", len(data) + 2, 1, flags) + data
    return struct.pack(">BBL", 4, 0, len(value)) + value


def store_command(uid=b"1.2.3\0"):
    def element(tag, data):
        return struct.pack("<HHL", 0, tag, len(data)) + data

    body = element(0x0002, b"1.2.840.10008.5.1.4.1.1.4\0") + element(0x0100, struct.pack("<H", 1))
    body += element(0x0110, struct.pack("<H", 1)) + element(0x0700, struct.pack("<H", 0))
    body += element(0x0800, struct.pack("<H", 1)) + element(0x1000, uid)
    return element(0, struct.pack("<L", len(body))) + body


def closed(peer):
    """Say that nothing more comes and wait until the other side has closed a connection."""
    with contextlib.suppress(OSError):  # the other side was faster
        peer.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while peer.recv(65536):
            pass


def test_wrong_titles_and_addresses(tmp_path, paths):
    with Running(tmp_path / "spool", calling=("SCANNER", "MR2")) as run:
        for called, calling in (("OTHER", "SCANNER"), ("QSM", "STRANGER"), ("QSM", "scanner")):
            assert storescu(run.node.port, paths[:1], called, calling).returncode != 0
        with pytest.raises(SendError, match="Calling AE title not recognised"):
            run.send(paths[:1], "STRANGER")
        assert storescu(run.node.port, paths[:1], calling="MR2").returncode == 0
        assert run.node.state()["received"] == 1
        assert len(run.log.events("association.rejected")) == 4
    with Running(tmp_path / "other", peers=("10.1.2.3",)) as run:
        with pytest.raises(SendError):
            run.send(paths[:1])
        assert run.log.events("peer.refused")


def test_client_vanishes(tmp_path, paths):
    """In the middle of an object; half of an object is none, and the rest may come later."""
    with Running(tmp_path / "spool") as run:
        run.send(paths[:20])
        with connect(run) as peer:
            peer.sendall(request())
            assert peer.recv(65536)[:1] == b"\2"
            peer.sendall(fragment(store_command(), 3) + fragment(bytes(5000), 0)[:3000])
        until(lambda: not all(one["orderly"] for one in run.log.events("association.ended")))
        serves(run)
        assert run.node.spool.state()["waiting"] == 20
        time.sleep(0.5)
        assert not run.core.asked
        run.send(paths[20:])
        run.done()


NOISE = [
    pytest.param(lambda rng: rng.randbytes(100 * MIB), id="random"),
    pytest.param(lambda rng: bytes(100 * MIB), id="zeros"),
    pytest.param(lambda rng: b"\1\0\xff\xff\xff\xff" + bytes(100 * MIB), id="request of 4 GiB"),
    pytest.param(lambda rng: b"\4\0\x7f\xff\xff\xff" + bytes(100 * MIB), id="data of 2 GiB"),
    pytest.param(lambda rng: request() + b"\4\0\x7f\xff\xff\xff" + bytes(100 * MIB), id="2 GiB after a greeting"),
    pytest.param(lambda rng: request() + fragment(bytes(60_000), 0) * 1700, id="an object without end"),
    pytest.param(lambda rng: request() + fragment(bytes(60_000), 1) * 1700, id="a command without end"),
    pytest.param(lambda rng: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="a browser"),
    pytest.param(lambda rng: request() + fragment(b"\xff" * 500, 3), id="a command that is none"),
    pytest.param(lambda rng: request()[:40] + rng.randbytes(400), id="a request that is none"),
]


@pytest.mark.parametrize("noise", NOISE)
def test_noise(tmp_path, noise):
    """100 MB of it end the connection and take no memory, and the next caller is served."""
    data = noise(random.Random(1))
    with Running(tmp_path / "spool", max_object_mib=8) as run:
        before = peak_mib()
        with connect(run) as peer:
            with contextlib.suppress(ConnectionError):
                peer.sendall(data)
            closed(peer)
        serves(run)
        assert peak_mib() - before < 60
        assert run.node.spool.state()["waiting"] == 0


def peak_mib():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    pytest.skip("memory is read from /proc")


def test_silent_connections(tmp_path, paths):
    """More than may be open are closed at once; a sender is served meanwhile."""
    with Running(tmp_path / "spool", max_associations=3) as run:
        idle = [connect(run) for _ in range(5)]
        assert run.send(paths[:3]) == {path.name: 0 for path in paths[:3]}
        idle += [connect(run) for _ in range(10)]
        until(lambda: len(select.select(idle, [], [], 0)[0]) >= 4)  # closed: the node says nothing to them
        for peer in idle:
            peer.close()
        until(lambda: _served(run))
        until(lambda: not run.node.state()["associations"])
        talking = [connect(run) for _ in range(4)]
        answers = []
        for peer in talking:
            peer.sendall(request())
            answers.append(peer.recv(65536)[:1])
        assert answers == [b"\2", b"\2", b"\2", b"\3"]  # accepted three times, then rejected
        for peer in talking:
            peer.close()


def _served(run):
    try:
        echo(run.address, "SCANNER")
    except SendError:
        return False
    return True


def test_duplicates(tmp_path, paths):
    """The same object again is accepted once; another of the same UID is refused and the first is kept."""
    changed = pydicom.dcmread(paths[0])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(tmp_path / "changed.dcm")
    with Running(tmp_path / "spool") as run:
        run.send(paths[:10] + paths[:10] + paths[5:20])
        assert run.node.state()["received"] == 20
        assert run.node.state()["again"] == 15
        assert run.send([tmp_path / "changed.dcm"]) == {"changed.dcm": 0xC001}
        run.send(paths)
        (job,) = run.done()
        kept = pydicom.dcmread(job / run_name(paths[0]))
        assert kept.PixelData == pydicom.dcmread(paths[0]).PixelData
        run.send(paths)  # answered already
        assert run.send([tmp_path / "changed.dcm"]) == {"changed.dcm": 0xC001}
        run.settle()
        time.sleep(0.5)
        assert len(run.core.asked) == 1
        assert run.jobs("done") == [job.name]


def run_name(path):
    return name_of(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ([3], "echo 1 (4 ms) lacks 1 of 6 slices"),
        ([3, 9, 15, 21, 27, 33], "1 of 6 slices is missing, the first after slice 3"),
        (list(range(12, 18)), "echo 3 (14 ms) missing"),
        (list(range(18)), "no magnitude images belong to it"),
        (list(range(18, 36)), "no phase"),
    ],
)
def test_what_is_missing_is_named(tmp_path, paths, absent, said):
    with Running(tmp_path / "spool") as run:
        run.send([path for i, path in enumerate(paths) if i not in absent])
        (job,) = run.failed()
        assert said in read_record(job)["reason"]
        assert len(list(job.glob("*.dcm"))) == len(paths) - len(absent)  # the originals are kept
        assert not run.core.asked
        assert run.log.events("scan.failed")[0]["level"] == "error"
        run.send(paths)  # and may be sent again
        run.done()


def test_slices_that_come_late_withdraw_the_answer(tmp_path, paths):
    """A part of the slices that looks whole is begun, and nothing of it is sent when the others come."""
    first = [path for i, path in enumerate(paths) if i % 6 < 4]
    with Running(tmp_path / "spool") as run:
        run.send(first)
        until(lambda: run.core.asked)
        run.send([path for path in paths if path not in first])
        (job,) = run.done()
        assert len(list((job / "derived").glob("*.dcm"))) == 6
        assert run.node.state()["withdrawn"] == 1
        assert [asked[1].scan.grid.shape[2] for asked in run.core.asked] == [4, 6]


def test_slices_that_come_after_the_answer_make_a_new_one(tmp_path, paths):
    first = [path for i, path in enumerate(paths) if i % 6 < 4]
    with Running(tmp_path / "spool") as run:
        run.send(first)
        run.done()
        run.send([path for path in paths if path not in first])
        jobs = run.done(2)
        assert [len(list((job / "derived").glob("*.dcm"))) for job in jobs] == [4, 6]
        assert [len(list(job.glob("*.dcm"))) for job in jobs] == [0, 36]
        assert run.log.events("scan.extended")


@pytest.mark.parametrize("kind", ["refused", "bug"])
def test_reconstruction_fails(tmp_path, paths, kind, monkeypatch):
    core = FakeCore(fail="the mask is empty; give one with --mask")
    if kind == "bug":
        monkeypatch.setattr(core, "submit", lambda *a, **k: 1 / 0)
    with Running(tmp_path / "spool", core) as run:
        run.send(paths)
        (job,) = run.failed()
        assert ("mask is empty" if kind == "refused" else "ZeroDivisionError") in read_record(job)["reason"]
        assert len(list(job.glob("*.dcm"))) == 36
        assert run.jobs("outgoing") == run.jobs("working") == []
        run.node.jobs._work.core = FakeCore()
        run.send(paths)
        run.done()


def test_busy_core(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(dicom_job, "BUSY_S", 0.05)
    with Running(tmp_path / "spool", FakeCore(busy=5)) as run:
        run.send(paths)
        run.done()
        assert run.core.busy == 0


def test_full_spool(tmp_path, paths):
    """A sender is told 0xA700 and may come again."""
    with Running(tmp_path / "spool", limits=Limits(objects=10)) as run:
        assert sorted(run.send(paths).values()) == [0] * 10 + [0xA700] * 26
        told = storescu(run.node.port, paths[10:11])
        assert "OutOfResources" in told.stdout + told.stderr
        run.node.spool.limits = Limits()
        assert set(run.send(paths).values()) == {0}
        run.done()


def test_full_disk(tmp_path, paths):
    """The system takes a part of each object only: no part is kept."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Running(tmp_path / "spool") as run:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
            said = run.send(paths[:5])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert set(said.values()) == {0xA700}
        assert list(run.node.spool.folder("incoming").iterdir()) == []
        run.send(paths)
        run.done()


def test_no_room_for_the_answer(tmp_path, paths, monkeypatch):
    """The answer waits until there is, and nothing of it is sent before."""
    monkeypatch.setattr(dicom_job, "DISK_S", 0.1)
    tries = []
    with Running(tmp_path / "spool") as run:
        real = run.node.jobs._work.write

        def write(*arguments):
            tries.append(1)
            if len(tries) < 4:
                raise OutputError("the disk is full")
            return real(*arguments)

        run.node.jobs._work.write = write
        run.send(paths)
        run.done()
        assert len(run.log.events("answer.not_written")) == 3
        monkeypatch.setattr(
            run.node.jobs._work, "write", lambda *a: (_ for _ in ()).throw(OutputError("the disk is full"))
        )
        run.send(scan_files(tmp_path / "next"))
        (job,) = run.failed()
        assert "disk is full" in read_record(job)["reason"]


def test_destination_down_and_up_again(tmp_path, paths):
    port = free_port()
    archive = Storescp(tmp_path / "archive", port)
    with Running(tmp_path / "spool", to=(archive.destination,)) as run:
        run.send(paths)
        run.settle()
        until(lambda: run.node.state()["waiting"])
        assert run.jobs("outgoing") == run.jobs("done") != []
        with archive:
            (_job,) = run.done()
        assert len(archive.received()) == 6
        assert run.jobs("outgoing") == []
        assert "is not there" in run.log.events("send.waits")[0]["reason"]
    # and across a restart
    archive = Storescp(tmp_path / "archive2", port)
    more = scan_files(tmp_path / "more")
    with Running(tmp_path / "spool2", to=(archive.destination,)) as run:
        run.send(more)
        run.settle()
        until(lambda: run.jobs("outgoing"))
    with archive, Running(tmp_path / "spool2", to=(archive.destination,)) as run:
        run.done()
        assert not run.core.asked
        assert len(archive.received()) == 6


def outgoing(tmp_path):
    """A spool with one answer of four objects to send."""
    spool = Spool(tmp_path / "spool", Limits(fsync="never"))
    spool.open()
    (objects := scan_files(tmp_path / "scan", shape=(12, 10, 2), echo_times_ms=(4.0,)))
    spool.take("0" * 40 + ".dcm", (b"x",))
    spool.claim("job", ["0" * 40 + ".dcm"])
    draft = spool.draft("job")
    for i, path in enumerate(objects):
        (draft / f"{i}.dcm").write_bytes(path.read_bytes())
    spool.answer("job", {})
    return spool


@pytest.mark.parametrize("fault", ["vanishes", "no room"])
def test_what_was_acknowledged_is_not_sent_again(tmp_path, fault):
    spool = outgoing(tmp_path)
    to = Destination("A", "127.0.0.1", 1)
    sent = []

    def send(objects, to, calling, took):
        for one in objects:
            if len(sent) == 2 and fault == "vanishes":
                sent.append("gone")
                raise SendError("went away")
            status = 0xA700 if len(sent) == 2 else 0
            sent.append(one.path.name if not status else "no room")
            took(one.path, status)

    delivery = Delivery(spool, (to,), "QSM", Told(), send=send, pause_s=0.01)
    delivery.start()
    until(lambda: (spool.folder("done", "job") / "derived").is_dir())
    delivery.stop()
    assert sorted(name for name in sent if name.endswith("dcm")) == ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    spool.close()


def test_each_destination_has_its_own_pace(tmp_path):
    """One is down: the other gets everything, once, and a restart sends the rest to the first alone."""
    spool = outgoing(tmp_path)
    here, down = Destination("A", "127.0.0.1", 1), Destination("B", "127.0.0.1", 2)
    sent = []

    def send(objects, to, calling, took, up=(here,)):
        if to not in up:
            raise SendError("is not there")
        for one in objects:
            took(one.path, 0)
            sent.append((to.ae, one.path.name))

    first = Delivery(spool, (here, down), "QSM", Told(), send=send, pause_s=0.01)
    first.start()
    until(lambda: len(acknowledged(spool.folder("outgoing", "job") / acks_name(here))) == 4)
    first.stop()
    assert spool.outgoing() == ["job"]
    again = Delivery(spool, (here, down), "QSM", Told(), send=lambda *a: send(*a, up=(here, down)), pause_s=0.01)
    again.start()
    until(lambda: not spool.outgoing())
    again.stop()
    assert sorted(sent) == [(ae, f"{i}.dcm") for ae in "AB" for i in range(4)]
    spool.close()


def test_an_object_that_is_refused_is_given_up(tmp_path):
    spool, log = outgoing(tmp_path), Told()
    to = Destination("A", "127.0.0.1", 1)

    def send(objects, to, calling, took):
        for one in objects:
            took(one.path, 0xA900 if one.path.name == "2.dcm" else 0)

    delivery = Delivery(spool, (to,), "QSM", log, send=send, pause_s=0.01)
    delivery.start()
    until(lambda: spool.folder("failed", "job").is_dir())
    delivery.stop()
    assert "0xA900" in read_record(spool.folder("failed", "job"))["reason"]
    assert log.events("answer.refused")
    assert len(acknowledged(spool.folder("failed", "job") / acks_name(to))) == 3
    spool.close()


class Child:
    """A node in a process of its own."""

    def __init__(self, spool, *to):
        script = Path(__file__).with_name("dicom_child.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(spool), *map(str, to)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = Destination("QSM", "127.0.0.1", int(self.process.stdout.readline()))

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9")
def test_killed_while_it_receives_and_reconstructs(tmp_path, paths):
    """Killed twice; the third process answers what was acknowledged to the first, once."""
    from qsm_runtime.serve.dicom_send import send

    spool, hold = tmp_path / "spool", tmp_path / "spool.hold"
    hold.touch()
    said = []
    with Storescp(tmp_path / "archive") as archive:
        child = Child(spool, archive.destination)
        send([object_of(p) for p in paths[:30]], child.address, "S", lambda p, s: said.append(s))
        child.kill()  # while it receives
        assert said == [0] * 30
        assert len(list((spool / "incoming").glob("*.dcm"))) == 30
        child = Child(spool, archive.destination)
        send([object_of(p) for p in paths[30:]], child.address, "S", lambda p, s: said.append(s))
        until(lambda: len(list((spool / "working").glob("*/*.dcm"))) == 36)
        child.kill()  # while it reconstructs
        assert not archive.received()
        hold.unlink()
        with Running(spool, to=(archive.destination,)) as run:
            (job,) = run.done()
            assert len(run.core.asked) == 1
        assert len(archive.received()) == 6
        assert len(list(job.glob("*.dcm"))) == 36
    with Running(spool) as run:
        time.sleep(0.5)
        assert not run.core.asked


def test_stopped_in_the_middle(tmp_path, paths):
    """A clean stop while a scan is reconstructed: it waits, gives up in time, and the next start answers."""
    gate = threading.Event()
    run = Running(tmp_path / "spool", FakeCore(gate=gate))
    run.node.start()
    run.send(paths)
    until(lambda: run.core.asked)
    run.settle()
    stopper = threading.Thread(target=run.node.stop)
    stopper.start()
    time.sleep(0.3)
    assert stopper.is_alive()
    gate.set()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    with Running(tmp_path / "spool") as run:
        (job,) = run.done()
        assert len(list(job.glob("*.dcm"))) == 36


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """One node for all that is thrown at it."""
    folder = tmp_path_factory.mktemp("fuzz")
    with Running(folder / "spool", timing=GIVEN_UP) as run:
        yield run, scan_files(folder / "scan"), folder
        run.pace(MORE_COMES)
        assert set(run.send(scan_files(folder / "last")).values()) == {0}
        run.pace(GIVEN_UP)
        until(lambda: any(len(list(job.glob("*.dcm"))) == 36 for job in run.done()), run.log.text.getvalue)


@FUZZ
@given(data=st.data())
def test_fuzzed_objects(lasting, data):
    """Bytes of the header changed, cut or put in: a status each time, and the next sound object is taken."""
    run, paths, folder = lasting
    changed = []
    for i in range(4):
        whole = bytearray(paths[data.draw(st.integers(0, 35))].read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(400, len(whole) - 1))
            junk = data.draw(st.binary(min_size=1, max_size=8))
            how = data.draw(st.sampled_from(["over", "in", "cut", "end"]))
            if how == "over":
                whole[at : at + len(junk)] = junk
            elif how == "in":
                whole[at:at] = junk
            elif how == "cut":
                del whole[at : at + len(junk)]
            elif len(whole) > 800:
                del whole[max(at, 700) :]
        changed.append(folder / f"fuzz{i}.dcm")
        changed[-1].write_bytes(whole)
    said = run.send(changed)
    assert len(said) == 4
    assert set(said.values()) <= {0, 0xA900, 0xC000, 0xC001}
    waiting = run.node.spool.folder("incoming")
    assert all(object_of(path) is not None or not path.exists() for path in waiting.glob("*.dcm"))


@FUZZ
@given(junk=st.binary(max_size=200), cut=st.integers(0, 300), kind=st.sampled_from(["greeting", "command", "data"]))
def test_fuzzed_protocol(lasting, junk, cut, kind):
    run, _, _ = lasting
    with connect(run) as peer:
        with contextlib.suppress(ConnectionError):
            if kind == "greeting":
                whole = request()
                peer.sendall(whole[:cut] + junk + whole[cut + len(junk) :])
            else:
                peer.sendall(request())
                peer.recv(65536)
                command = store_command()
                if kind == "command":
                    command = command[:cut] + junk + command[cut:]
                peer.sendall(fragment(command, 3) + fragment(junk, 2))
        closed(peer)
    echo(run.address, "SCANNER", PATIENCE_S)


def test_a_list_that_cannot_be_written(tmp_path, monkeypatch):
    """The disk is full when the peer acknowledges: this process knows all the same, and sends nothing again."""
    spool, sent = outgoing(tmp_path), []
    to = Destination("A", "127.0.0.1", 1)

    def send(objects, to, calling, took):
        for one in objects:
            sent.append(one.path.name)
            took(one.path, 0)

    def full(acks, name):
        raise OutputError("the disk is full")

    monkeypatch.setattr("qsm_runtime.serve.delivery.acknowledge", full)
    delivery = Delivery(spool, (to,), "QSM", Told(), send=send, pause_s=0.01)
    delivery.start()
    until(lambda: not spool.outgoing())
    delivery.stop()
    assert sent == ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    spool.close()


def deadly_node(spool):
    """A node in a process of its own that a scan of two echoes ends."""
    script = Path(__file__).with_name("dicom_deadly.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(spool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def died(process):
    """Wait for its end, by the hand of the scan."""
    code = process.wait(PATIENCE_S)
    process.communicate()
    return code == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9")
def test_a_study_that_ends_the_process_is_given_up_and_the_others_are_answered(tmp_path, paths):
    """Three times it does; the fourth start sets it aside. A sender may send it again, and then it is tried again."""
    from qsm_runtime.serve.dicom_send import send

    spool, deadly = tmp_path / "spool", scan_files(tmp_path / "deadly", echo_times_ms=(4.0, 9.0), number=9)
    process = deadly_node(spool)
    address = Destination("QSM", "127.0.0.1", int(process.stdout.readline()))
    with contextlib.suppress(SendError):  # it ends before it acknowledges the last
        send([object_of(p) for p in (*paths, *deadly)], address, "S", lambda p, s: None)
    for _ in range(2):
        assert died(process)
        process = deadly_node(spool)
    assert died(process)
    with Running(spool) as run:
        (job,) = run.failed()
        (done,) = run.done()
        state = run.node.state()
        (line,) = run.log.events("study.given_up")
        assert (len(list(job.glob("*.dcm"))), len(list(done.glob("*.dcm")))) == (24, 36)
        assert read_record(job)["reason"].startswith("the server ended 3 times while it worked on this study")
        assert (line["level"], line["tries"], line["objects"]) == ("error", 3, 24)
        assert (state["given_up"], state["spool"]["waiting"]) == (1, 0)
        until(lambda: run.node.state()["tried_before"] == 0)
        run.send(deadly)
        assert len(run.done(2)) == 2


def test_what_an_earlier_process_ended_at_is_worked_on_alone(tmp_path, paths):
    """Its neighbours wait, so that what ends the process next is counted alone."""
    more = scan_files(tmp_path / "more", number=9)
    with Running(tmp_path / "spool") as first:
        first.send(paths[:30])  # incomplete
        key = until(lambda: first.log.events("study.begun"))[0]["study"]
    uid = str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    Attempts(tmp_path / "spool" / "attempts.json").begin(label_of(uid))  # as if the process had ended
    gate = threading.Event()
    with Running(tmp_path / "spool", FakeCore(gate=gate)) as run:
        assert run.node.state()["tried_before"] == 1
        run.send(paths[30:])
        until(lambda: run.core.asked)
        run.send(more)
        run.settle()
        time.sleep(0.5)
        assert [study for study, _, _ in run.core.asked] == [key]
        gate.set()
        assert len(run.done(2)) == 2
        until(lambda: run.node.state()["tried_before"] == 0)


def test_what_is_removed_stands_in_the_log(tmp_path, paths):
    with Running(tmp_path / "spool") as run:
        run.send(paths)
        (job,) = run.done()
    long_ago = time.time() - 15 * DAY_S
    os.utime(job, (long_ago, long_ago))
    with Running(tmp_path / "spool") as run:
        (line,) = run.log.events("kept.removed")
        assert (line["state"], line["job"]) == ("done", job.name)
        assert not job.exists()
        run.send(paths)  # not known any more: answered anew
        run.done()


DIES = """
import os, signal, sys
from qsm_runtime.serve import dicom_receive, dicom_resume
dicom_receive.read_file = dicom_resume.read_file = lambda path: os.kill(os.getpid(), signal.SIGKILL)
from dicom_kit import Running
from pathlib import Path
with Running(Path(sys.argv[1])) as run:
    print(run.node.port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9")
def test_an_object_whose_header_ends_the_process_does_not_keep_the_node_down(tmp_path, paths):
    """Reading it ends the process when it comes and at the next starts; then it is set aside, and no other is."""
    from qsm_runtime.serve.dicom_send import send

    spool = tmp_path / "spool"
    with Running(spool) as run:
        run.send(paths[:20])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (spool / "incoming").rename(tmp_path / "aside")  # so that it comes up
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", DIES, str(spool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        if attempt == 0:
            address = Destination("QSM", "127.0.0.1", int(process.stdout.readline()))
            with pytest.raises(SendError):
                send([object_of(paths[20])], address, "S", lambda p, s: None)
            for path in (tmp_path / "aside").iterdir():
                path.rename(spool / "incoming" / path.name)
                os.utime(spool / "incoming" / path.name)  # later than the one that ends it, which is read first
        assert died(process)
    with Running(spool) as run:
        (job,) = run.failed()
        assert [path.name for path in job.glob("*.dcm")] == [run_name(paths[20])]
        assert "the server ended each time" in read_record(job)["reason"]
        assert run.node.state()["spool"]["waiting"] == 20
        run.send(paths)
        run.done()
