"""For tests of the watched folder: made studies, a core that answers at once, and a watch with quick rules."""

import importlib.util
import io
import json
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.pipeline import Result
from qsm_runtime.serve.core import Answer, Busy
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.watch import Rules, Watch

_made = Path(__file__).parents[1] / "io" / "dicom" / "conftest.py"
_spec = importlib.util.spec_from_file_location("made_dicom_for_watch", _made)
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

QUICK = {"settle_s": 0.3, "give_up_s": 1.5, "poll_s": 0.05, "threads": 1, "disk_s": 0.2}


def study(folder, *, number=7, echo_times_ms=(4.0, 9.0), prefix="", keep=None, **changes):
    """A made scan as classic DICOM files. keep: how many of them are written."""
    protocol = made.Protocol(shape=(12, 10, 6), echo_times_ms=echo_times_ms, number=number, **changes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder / ".aside" if folder.is_dir() else folder.with_name(f".{folder.name}"[:255])
    aside.mkdir()
    for index, dataset in enumerate(made.classic(protocol)[:keep]):
        dataset.save_as(aside / f"{prefix}{index:04d}.dcm", enforce_file_format=True)
    names = sorted(path.name for path in aside.iterdir())
    if aside.parent == folder:
        for name in names:
            os.rename(aside / name, folder / name)
        aside.rmdir()
    else:
        os.rename(aside, folder)  # at once, however slow this machine is
    return [folder / name for name in names]


class FakeCore:
    """chi is the mean magnitude / 10000. fail: a message; busy: how often; gate: an event waited for."""

    def __init__(self, fail="", busy=0, gate=None, late=False):
        self.fail, self.busy, self.gate, self.late = fail, busy, gate, late
        self.asked, self.ready = [], True

    def start(self):
        return

    def stop(self, drain_s=60.0):
        self.ready = False

    def state(self):
        return {"ready": self.ready}

    def submit(self, acquisition, study):
        if self.busy:
            self.busy -= 1
            raise Busy("later")
        future = Future()
        self.asked.append((study, acquisition))
        threading.Thread(target=self._answer, args=(acquisition, future), daemon=True).start()
        return future

    def _answer(self, acquisition, future):
        if self.gate is not None:
            self.gate.wait(90)
        if self.fail:
            future.set_exception(ReconstructionError(self.fail))
            return
        chi = (acquisition.scan.magnitude.mean(0) / 10000).astype(np.float32)
        mask = chi > 0
        record = {
            "recipe": {"name": "fake", "inversion": {"method": "none"}}, "chosen": {}, "threads": 1, "seconds": {},
            "reference": {"region": "none", "value_ppm": 0.0, "voxels": 1},
        }  # fmt: skip
        result = Result(chi, mask, mask, chi, chi, None, record=record, warnings=["late"] if self.late else [])
        future.set_result(Answer(result, "fast" if self.late else "fake", self.late, {"all_s": 0.0}))


class Watching:
    """A watch of `root`/in that writes to `root`/out; a context that stops it."""

    def __init__(self, root, core=None, form="nifti", start=True, **rules):
        self.inbox, self.out = root / "in", root / "out"
        self.inbox.mkdir(exist_ok=True)
        self.core, self.text = core or FakeCore(), io.StringIO()
        self.log = StudyLog(self.text)
        self.watch = Watch(self.inbox, self.out, self.core, self.log, Rules(**{**QUICK, "form": form, **rules}))

    def __enter__(self):
        self.watch.start()
        return self

    def __exit__(self, *error):
        self.watch.stop()

    def events(self, name=None):
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [line for line in lines if name in (None, line["event"])]

    def ended(self, where, count=1, limit_s=90.0):
        """Wait for so many studies in done or failed; their folders and records."""

        def there():
            found = claims(self.inbox, where)
            return found if len(found) >= count else None

        found = until(there, limit_s, lambda: f"for {where}: {self.text.getvalue()}")
        return [(folder, json.loads((folder / "study.json").read_text())) for folder in found]


def claims(inbox, where):
    folder = inbox / where
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def until(true, limit_s=90.0, what=lambda: ""):
    """Wait until something holds; fail where it does not in time."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"waited {limit_s:g} s in vain {what()}")


def contents(folder):
    """Bytes of every file below, by path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
