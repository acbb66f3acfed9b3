"""The process may end before any rename: nothing is lost, nothing is there twice, and the next start ends the study."""

import itertools
import os
import threading
import time

import pytest
from patience import PATIENCE_S
from watch_kit import Watching, claims, contents, study


class Killed(BaseException):
    """As the process sees it: nothing after this runs."""


def killed_before(monkeypatch, step):
    """Let the main thread do `step` changes to folders, and end it before the next. Returns what counts them."""
    steps = itertools.count()
    done = []

    def ending(function):
        def instead(*arguments, **options):
            if threading.current_thread() is threading.main_thread():
                if next(steps) == step:
                    raise Killed
                done.append(function.__name__)
            return function(*arguments, **options)

        return instead

    for name in ("rename", "replace", "mkdir"):
        monkeypatch.setattr(os, name, ending(getattr(os, name)))
    return done


def turn_until_done(watching):
    end = time.monotonic() + PATIENCE_S
    while not claims(watching.inbox, "done"):
        watching.watch._turn()
        assert time.monotonic() < end, watching.said


@pytest.mark.parametrize("loose", [False, True])
def test_an_end_before_any_change_of_a_folder_loses_nothing(tmp_path, monkeypatch, loose):
    monkeypatch.setenv("QSM_DATA_DIR", str(tmp_path / "data"))
    quick = {"settle_s": 0.05, "poll_s": 0.01}
    made = {os.path.basename(p): p.read_bytes() for p in study(tmp_path / "made")}
    ends = 0
    for step in itertools.count():
        if loose and 4 < step < 24:  # one file after the other: the middle is like its ends
            continue
        root = tmp_path / f"step{step}"
        root.mkdir()
        first = Watching(root, **quick)
        study(first.inbox if loose else first.inbox / "drop")
        before = sorted(data for path, data in contents(first.inbox).items() if path.endswith(".dcm"))
        with monkeypatch.context() as patched:
            done = killed_before(patched, step)
            try:
                turn_until_done(first)
            except Killed:
                ends += 1
            else:
                assert len(done) == step
                break
        first.watch._studies.close()  # other threads end with the process, and the lock goes with it
        first.watch._claims.close()
        files = {path: data for path, data in contents(first.inbox).items() if path.endswith(".dcm")}
        assert sorted(files.values()) == before, step
        with Watching(root, **quick) as second:
            ((folder, record),) = second.ended("done")
        assert record["state"] == "done", step
        assert len(claims(second.inbox, "done")) == 1, step
        assert [p for p in contents(second.inbox) if p.endswith(".dcm") and "done" not in p] == [], step
        assert sorted(d for p, d in contents(folder / "data").items()) == before, step
        assert len(list(second.out.rglob("*_Chimap.nii.gz"))) == 1, step
        assert sorted(p.name for p in second.out.iterdir()) == [folder.name], step
    assert len(made) == 24
    assert ends > (12 if loose else 6)
