"""For tests of the front ends: a core that answers at once or as it is told, and a log that can be asked."""

import contextlib
import io
import json
import secrets
import socket
import threading
from concurrent.futures import Future

import numpy as np
from patience import PATIENCE_S

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.pipeline import Result
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.settings import Answer, Busy


class Head:
    """Early work that only remembers."""

    def __init__(self):
        self.fed, self.cancelled = [], False

    def echo(self, index, magnitude, phase_rad, **how):
        self.fed.append((index, magnitude.copy(), phase_rad.copy(), how))

    def cancel(self):
        self.cancelled = True


def mean_magnitude(scan):
    return (scan.magnitude.mean(0) / 10000).astype(np.float32)


class FakeCore:
    """Keeps what it was asked as (study, acquisition, early), by which recipe in `wishes`, and answers with `chi_of`
    a scan.

    fail: answer with this reason instead; busy: so often, before the first study is taken; late: by the other recipe;
    gate: answer once it is open (an event; None: at once).
    """

    def __init__(self, fail="", busy=0, gate=None, late=False, chi_of=mean_magnitude):
        self.fail, self.busy, self.gate, self.late, self.chi_of = fail, busy, gate, late, chi_of
        self.asked, self.wishes, self.heads, self.ready = [], [], [], True

    def start(self):
        return

    def stop(self, drain_s=60.0):
        self.ready = False

    def state(self):
        return {"ready": self.ready}

    def early(self, study, recipe=None):
        self.heads.append(Head())
        return self.heads[-1]

    def submit(self, acquisition, study, *, early=None, recipe=None):
        if self.busy:
            self.busy -= 1
            raise Busy("the queue is full")
        future = Future()
        self.asked.append((study, acquisition, early))
        self.wishes.append(recipe)
        if self.gate is None:
            self._answer(acquisition.scan, future)
        else:
            threading.Thread(target=self._answer, args=(acquisition.scan, future), daemon=True).start()
        return future

    def _answer(self, scan, future):
        if self.gate is not None:
            self.gate.wait(PATIENCE_S)
        if not future.set_running_or_notify_cancel():
            return
        if self.fail:
            future.set_exception(ReconstructionError(self.fail))
            return
        chi, mask = self.chi_of(scan), np.ones(scan.grid.shape, bool)
        record = {
            "recipe": {"name": "fake", "inversion": {"method": "none"}}, "chosen": {}, "threads": 1, "seconds": {},
            "reference": {"region": "mask", "value_ppm": 0.25, "voxels": mask.size},
        }  # fmt: skip
        result = Result(chi, mask, mask, chi, chi, None, record=record, warnings=["late"] if self.late else [])
        recipe = "fast" if self.late else "fake"
        future.set_result(Answer(result, recipe, self.late, {"all_s": 0.1, "overlapped_s": 0.0}))


class Told(StudyLog):
    """Keeps what it is told."""

    def __init__(self):
        self.text = io.StringIO()
        super().__init__(self.text, "debug")

    def events(self, name=None):
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [line for line in lines if name in (None, line["event"])]


def free_port():
    """A port that nobody has, out of the range from which the system gives connections theirs."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", 20000 + secrets.randbelow(10000)))
            return probe.getsockname()[1]
