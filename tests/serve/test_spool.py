"""Whatever the moment the process ends: nothing received is lost, no answer is given twice or in part."""

import json
import os
import threading
import time

import pytest

from qsm_runtime.errors import OutputError
from qsm_runtime.serve import delivery
from qsm_runtime.serve import spool as spools
from qsm_runtime.serve.attempts import Attempts
from qsm_runtime.serve.dicom_send import Destination
from qsm_runtime.serve.keep import DAY_S, GIB, GONE, Keep
from qsm_runtime.serve.spool import Limits, Spool, SpoolFull
from qsm_runtime.serve.spool_files import name_of, read_record

NAMES = [name_of(f"1.2.{i}") for i in range(4)]
TO = Destination("ARCHIVE", "127.0.0.1", 104)


class Killed(BaseException):
    """The process ends here."""


def opened(root, **limits):
    spool = Spool(root, Limits(reserve_mib=0, fsync="never", **limits))
    spool.open()
    return spool


def fill(spool, names=NAMES, size=100):
    for i, name in enumerate(names):
        spool.take(name, (b"head", bytes([i]) * size))


def answer(spool, job="job-1", names=NAMES):
    spool.claim(job, names)
    draft = spool.draft(job)
    for i in range(3):
        (draft / f"{i}.dcm").write_bytes(b"derived")
    spool.answer(job, {"study": "s"})


def everything(root):
    """Names of originals by state, and of derived objects."""
    found = {}
    for state in spools.STATES:
        for path in (root / state).rglob("*.dcm"):
            kind = "derived" if len(path.stem) < 10 else "original"
            found.setdefault((state, kind), set()).add(path.name)
    return found


def test_names_say_nothing_and_are_no_paths():
    assert name_of("../../etc/passwd") != name_of("../../etc/passwd ")
    for uid in ("1.2.3", "../../x", "\0", "a" * 5000):
        name = name_of(uid)
        assert len(name) == 44
        assert set(name.removesuffix(".dcm")) <= set("0123456789abcdef")


def test_a_scan_from_incoming_to_done(tmp_path):
    spool = opened(tmp_path)
    fill(spool)
    assert spool.state()["waiting"] == 4
    assert spool.path(NAMES[0]).read_bytes() == b"head" + bytes(100)
    assert spool.holds(NAMES[1], b"head" + b"\1" * 100)
    assert not spool.holds(NAMES[1], b"head" + b"\2" * 100)
    answer(spool)
    assert spool.outgoing() == ["job-1"]
    assert spool.state()["waiting"] == 0
    assert spool.path(NAMES[0]).parent == tmp_path / "done" / "job-1"
    spool.delivered("job-1")
    assert everything(tmp_path) == {("done", "original"): set(NAMES), ("done", "derived"): {"0.dcm", "1.dcm", "2.dcm"}}
    assert json.loads((tmp_path / "done" / "job-1" / "job.json").read_text()) == {"study": "s"}
    assert [child.name for child in (tmp_path / "outgoing").iterdir()] == []
    spool.close()
    assert opened(tmp_path).path(NAMES[2]).parent.name == "job-1"  # and is known after a restart


def test_failed_and_withdrawn(tmp_path):
    spool = opened(tmp_path)
    fill(spool)
    spool.claim("a", NAMES[:2])
    spool.give_back("a")
    assert spool.state()["waiting"] == 4
    spool.claim("b", NAMES[:2])
    spool.fail("b", {"reason": "slices are missing"})
    assert everything(tmp_path) == {("failed", "original"): set(NAMES[:2]), ("incoming", "original"): set(NAMES[2:])}
    assert read_record(tmp_path / "failed" / "b")["reason"] == "slices are missing"
    assert spool.path(NAMES[0]) is None  # sent again, it is new
    fill(spool, NAMES[:1])
    assert spool.state()["waiting"] == 3


def whole_life(spool):
    fill(spool)
    answer(spool)
    folder = spool.folder("outgoing", "job-1")
    for path in sorted(folder.glob("*.dcm")):
        delivery.acknowledge(folder / delivery.acks_name(TO), path.name)
    spool.delivered("job-1")


def test_killed_at_every_moment(tmp_path, monkeypatch):
    """Each rename and each folder made may be the last thing the process did, or just not have been done."""
    moments = 0
    for after in (False, True):
        for last in range(1, 100):
            root = tmp_path / f"{after}-{last}"
            spool = opened(root)
            count, took = 0, []

            def counted(real, spool=spool, last=last, after=after):
                def step(*arguments, **keywords):
                    nonlocal count
                    count += 1
                    if count == last and not after:
                        raise Killed
                    result = real(*arguments, **keywords)
                    if count == last:
                        raise Killed
                    return result

                return step

            real_take = spool.take
            spool.take = lambda name, parts, t=took, r=real_take: (r(name, parts), t.append(name))
            ended = False
            with monkeypatch.context() as patch:
                for target, name in ((os, "replace"), (spools.Path, "mkdir"), (spools.shutil, "rmtree")):
                    patch.setattr(target, name, counted(getattr(target, name)))
                try:
                    whole_life(spool)
                    ended = True
                except Killed:
                    pass
            spool.close()
            if ended:
                break
            moments += 1
            check_recovered(root, took)
    assert moments > 20


def check_recovered(root, took):
    """What was acknowledged is there once, in one state; an answer is whole or not there; the life can go on."""
    spool = opened(root)
    found = everything(root)
    originals = [name for (_, kind), names in found.items() if kind == "original" for name in names]
    assert set(took) <= set(originals)
    assert len(originals) == len(set(originals))
    assert not any("working" in key for key in found)
    derived = {state: names for (state, kind), names in found.items() if kind == "derived"}
    answered = bool(derived)
    assert sum(len(names) for names in derived.values()) in (0, 3)
    waiting = found.get(("incoming", "original"), set())
    assert waiting == (set() if answered else set(originals))
    assert spool.state()["waiting"] == len(waiting)
    assert spool.outgoing() == (["job-1"] if "outgoing" in derived else [])
    if not answered:  # as if the rest were sent again
        fill(spool, [name for name in NAMES if spool.path(name) is None])
        answer(spool)
    if spool.outgoing():
        spool.delivered("job-1")
    assert everything(root).keys() == {("done", "original"), ("done", "derived")}
    assert not list(root.rglob("*.part"))
    spool.close()


def test_an_acknowledgement_cut_short_is_none(tmp_path):
    acks = tmp_path / "x.acks"
    delivery.acknowledge(acks, "0.dcm")
    delivery.acknowledge(acks, "1.dcm")
    assert delivery.acknowledged(acks) == {"0.dcm", "1.dcm"}
    acks.write_text(acks.read_text()[:-1])  # the newline did not reach the disk
    assert delivery.acknowledged(acks) == {"0.dcm"}
    assert delivery.acknowledged(tmp_path / "none") == set()


def test_retention_of_done(tmp_path):
    spool = opened(tmp_path, keep=Keep(gib=600 / GIB))  # of 261 bytes each
    for i in range(4):
        names = [name_of(f"{i}.{k}") for k in range(2)]
        fill(spool, names)
        answer(spool, f"job-{i}", names)
        if i != 1:
            spool.delivered(f"job-{i}")
    # job-1 is still to be sent: it stays
    assert sorted(job.name for job in (tmp_path / "done").iterdir()) == ["job-1", "job-3"]
    assert spool.path(name_of("0.0")) is None
    assert spool.path(name_of("1.0")) is not None


def test_limits(tmp_path):
    spool = opened(tmp_path / "a", objects=3)
    with pytest.raises(SpoolFull, match="wait already"):
        fill(spool)
    assert spool.state()["waiting"] == 3
    spool = opened(tmp_path / "b", held_mib=1)
    fill(spool, NAMES[:2], 400_000)
    with pytest.raises(SpoolFull, match="remove what failed"):
        fill(spool, NAMES[2:], 400_000)
    answer(spool, names=NAMES[:2])
    spool.delivered("job-1")  # done does not count
    fill(spool, NAMES[2:], 400_000)


def test_full_disk_leaves_no_part(tmp_path, monkeypatch):
    spool = opened(tmp_path)
    real = os.replace

    def full(source, target):
        if str(source).endswith(".part"):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(SpoolFull, match="No space left"):
            fill(spool)
    assert list((tmp_path / "incoming").iterdir()) == []
    fill(spool)
    spool.claim("j", NAMES)
    (spool.draft("j") / "0.dcm").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="disk is full"):
            spool.answer("j", {})
        spool.fail("j", {"reason": "no room for the answer"})  # a rename needs no room
    assert everything(tmp_path)["failed", "original"] == set(NAMES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks of POSIX")
def test_one_server_a_spool(tmp_path):
    spool = opened(tmp_path)
    with pytest.raises(OutputError, match="another server"):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


def test_many_threads(tmp_path):
    spool = opened(tmp_path)
    names = [name_of(f"9.{i}") for i in range(80)]
    threads = [threading.Thread(target=fill, args=(spool, names[k::4])) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spool.state()["waiting"] == 80
    assert {path.name for path in (tmp_path / "incoming").iterdir()} == set(names)


def test_what_ended_long_ago_goes_and_what_waits_stays(tmp_path):
    told = []
    spool = Spool(tmp_path, Limits(reserve_mib=0, fsync="never"), lambda *said: told.append(said))
    spool.open()
    fill(spool)
    answer(spool, "answered", NAMES[:1])
    spool.delivered("answered")
    answer(spool, "unsent", NAMES[1:2])
    spool.claim("refused", NAMES[2:3])
    spool.fail("refused", {"reason": "slices are missing"})
    spool.claim("fresh", NAMES[3:])
    spool.fail("fresh", {})
    fill(spool, [name_of("waits")])
    long_ago = time.time() - 15 * DAY_S
    for job in ("done/answered", "done/unsent", "outgoing/unsent", "failed/refused", "incoming"):
        os.utime(tmp_path / job, (long_ago, long_ago))
    spool.retire()
    assert {(state, job) for state, job, _ in told} == {("done", "answered"), ("failed", "refused")}
    assert all(size > 100 for _, _, size in told)
    assert everything(tmp_path) == {
        ("done", "original"): {NAMES[1]}, ("outgoing", "derived"): {"0.dcm", "1.dcm", "2.dcm"},
        ("failed", "original"): {NAMES[3]}, ("incoming", "original"): {name_of("waits")},
    }  # fmt: skip
    assert spool.path(NAMES[0]) is None
    spool.close()
    again = opened(tmp_path, keep=Keep(days=float("inf"), gib=float("inf")))
    assert again.state()["failed"] == again.state()["done"] == 1


def test_ended_in_the_midst_of_a_removal(tmp_path):
    """A study goes in one rename: what it leaves counts for nothing and goes at the next look."""
    spool = opened(tmp_path)
    fill(spool)
    answer(spool)
    spool.delivered("job-1")
    spool.close()
    left = tmp_path / "done" / f".job-1{GONE}"
    os.rename(tmp_path / "done" / "job-1", left)
    (left / "job.json").unlink()
    spool = opened(tmp_path)
    assert not left.exists()
    assert spool.path(NAMES[0]) is None
    assert spool.state()["done"] == 0


def test_attempts_are_there_however_the_process_ends(tmp_path):
    path = tmp_path / "attempts.json"
    first = Attempts(path)
    for study in ("a", "a", "b", "c"):
        first.begin(study)  # again within one process: the same attempt
    first.ended("c")
    second = Attempts(path)  # the first was killed
    assert [second.before(study) for study in "abc"] == [1, 1, 0]
    second.begin("a")
    third = Attempts(path)
    assert third.before("a") == 2
    third.begin("a")
    third.close()  # in order: what it left is no attempt that never ended
    fourth = Attempts(path)
    assert (fourth.before("a"), len(fourth)) == (2, 2)
    fourth.keep({"a"})
    fourth.ended("a")
    assert len(Attempts(path)) == 0
    path.write_text("[1, {")  # damaged: counted from the beginning
    assert len(Attempts(path)) == 0


def test_a_full_disk_counts_no_attempt_and_stops_none(tmp_path, monkeypatch):
    attempts = Attempts(tmp_path / "attempts.json")

    def full(files, **options):
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("qsm_runtime.serve.attempts.write_files", full)
        attempts.begin("a")
    assert len(Attempts(tmp_path / "attempts.json")) == 0
    attempts.begin("b")
    assert Attempts(tmp_path / "attempts.json").before("a") == 1  # written with the next
