"""The log: one JSON object a line, no patient in it, and never a reason for the server to end."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from qsm_runtime.errors import OutputError
from qsm_runtime.serve import salt as salts
from qsm_runtime.serve.log import StudyLog, hashed, scrubbed, without

UID = "1.2.840.113619.2.55.3.604688119.971.1700000000.123"


@pytest.fixture(autouse=True)
def own_salt(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_DATA_DIR", str(tmp_path / "data"))
    salts.salt.cache_clear()
    yield
    salts.salt.cache_clear()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_json_object_on_one_line():
    stream = io.StringIO()
    log = StudyLog(stream)
    log.event("taken", study="ab12", scans=2, seconds=1.23456789, text="two\nlines", none=None, nested={"a": [1, 2.5]})
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("utc"))
    assert found == {
        "level": "info", "event": "taken", "study": "ab12", "scans": 2, "seconds": 1.23457, "text": "two\nlines",
        "nested": {"a": [1, 2.5]},
    }  # fmt: skip


def test_values_that_json_lacks_are_written_all_the_same():
    import numpy as np

    stream = io.StringIO()
    StudyLog(stream).event(
        "odd", nan=float("nan"), inf=float("inf"), array=np.arange(2), scalar=np.float32(2), at=object
    )
    found = json.loads(stream.getvalue())
    assert (found["nan"], found["inf"], found["array"], found["scalar"]) == ("nan", "inf", [0, 1], 2.0)


@pytest.mark.parametrize(
    "text",
    [
        f"study {UID} is incomplete",
        f"({UID})",
        f"uid={UID}, series {UID}.4",
        "/data/in/SMITH^JOHN/IM0001: cannot be written",
        r"C:\export\SMITH^JOHN\IM0001.dcm is damaged",
        "SMITH^JOHN.nii.gz holds complex samples",
        "in/SMITH^JOHN/1.dcm has no phase",
        "sub-SMITH^JOHN_echo-1_part-phase_MEGRE.json: no EchoTime",
    ],
)
def test_uids_paths_and_names_of_files_become_hashes(text):
    said = scrubbed(text)
    assert "SMITH" not in said
    assert UID not in said
    assert re.search(r"(uid|file):[0-9a-f]{12}", said)


def test_what_an_error_says_stays_readable():
    for text in (
        "3 of 64 slices are missing; send the series again",
        "echo times 4.0, 9.25 and 14.5 ms; use --echo-times-ms",
        "version 1.2.3 needs 0.25 ppm and/or recipe fast",
    ):
        said = scrubbed(text)
        assert said == text or "and/or" in text


def test_names_that_are_known_are_taken_out_whatever_they_look_like():
    said = without(
        "SMITH, JOHN (2): no phase; SMITH is in /in/SMITH, JOHN (2)/a b.nii", ["SMITH", "SMITH, JOHN (2)", "a b.nii"]
    )
    assert "SMITH" not in said
    assert "JOHN" not in said
    assert "a b" not in said
    assert "no phase" in said


@given(st.text(max_size=300))
def test_any_text_is_scrubbed_and_logged(text):
    stream = io.StringIO()
    StudyLog(stream).event("any", text=text)
    assert len(stream.getvalue().splitlines()) == 1
    assert len(json.loads(stream.getvalue())["text"]) <= 500


def test_hashes_are_kept_by_the_installation_and_differ_between_installations(tmp_path, monkeypatch):
    first = hashed(UID)
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert hashed(UID + "1") != first
    salts.salt.cache_clear()
    assert hashed(UID) == first  # from the file
    monkeypatch.setenv("QSM_DATA_DIR", str(tmp_path / "other"))
    salts.salt.cache_clear()
    assert hashed(UID) != first


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_salt_is_the_owners_alone():
    hashed("x")
    path = salts.salt_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == salts.SALT_BYTES
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o644)
    salts.salt.cache_clear()
    hashed("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_cut_salt_is_replaced_and_one_that_cannot_be_kept_is_not_needed(tmp_path, monkeypatch):
    salts.salt_path().parent.mkdir()
    salts.salt_path().write_bytes(b"short")
    hashed("x")
    assert len(salts.salt_path().read_bytes()) == salts.SALT_BYTES
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QSM_DATA_DIR", str(tmp_path / "file" / "below"))
    salts.salt.cache_clear()
    assert hashed("x") == hashed("x")


def test_processes_that_start_together_agree_on_one_salt(tmp_path):
    program = "from qsm_runtime.serve.log import hashed; print(hashed('x'))"
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=PATIENCE_S)[0] for process in started}
    assert len(said) == 1


def test_a_file_is_appended_to_and_followed_when_it_is_rotated(tmp_path):
    path = tmp_path / "qsm.log"
    path.write_text('{"event": "old"}\n')
    log = StudyLog(path)
    log.event("one")
    os.rename(path, tmp_path / "qsm.log.1")
    log.event("two")
    with open(path, "r+") as stream:  # copytruncate
        stream.truncate(0)
    log.event("three")
    log.close()
    assert [line["event"] for line in lines(tmp_path / "qsm.log.1")] == ["old", "one"]
    assert [line["event"] for line in lines(path)] == ["three"]


def test_lines_of_many_threads_do_not_mix(tmp_path):
    log = StudyLog(tmp_path / "log")
    many = [
        threading.Thread(target=lambda n=n: [log.event("e", thread=n, text="x" * 200) for _ in range(50)])
        for n in range(8)
    ]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert len(lines(tmp_path / "log")) == 400


def test_levels_are_kept_apart():
    stream = io.StringIO()
    log = StudyLog(stream, "warning")
    log.event("small")
    log.event("large", level="error")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["large"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_loses_lines_and_no_more():
    log = StudyLog("/dev/full")
    for _ in range(3):
        log.event("lost")
    assert log.lost == 3


def test_lines_that_were_lost_are_told_when_there_is_room_again(tmp_path):
    path = tmp_path / "log"
    log = StudyLog(path)
    os.unlink(path)
    path.mkdir()  # it cannot be opened now
    log.event("lost")
    log.event("lost")
    path.rmdir()
    log.event("found")
    assert [(line["event"], line.get("lines")) for line in lines(path)] == [("log.lost", 2), ("found", None)]


def test_a_place_that_is_none_is_refused(tmp_path):
    with pytest.raises(OutputError, match="no log there"):
        StudyLog(tmp_path / "nowhere" / "log")


def test_a_closed_stream_does_not_raise():
    stream = io.StringIO()
    log = StudyLog(stream)
    stream.close()
    log.event("late")
    assert log.lost == 1
