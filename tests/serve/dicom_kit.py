"""For tests of the DICOM node: made scans, a core that answers at once, peers of dcmtk."""

import importlib.util
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.pipeline import Result
from qsm_runtime.serve.core import Answer, Busy
from qsm_runtime.serve.dicom_jobs import Timing
from qsm_runtime.serve.dicom_node import DicomNode
from qsm_runtime.serve.dicom_send import Destination, object_of, send
from qsm_runtime.serve.dicom_settings import NodeSettings
from qsm_runtime.serve.log import StudyLog

_made = Path(__file__).parents[1] / "io" / "dicom" / "conftest.py"
_spec = importlib.util.spec_from_file_location("made_dicom", _made)
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

SETTLE_S = 0.4


def protocol(**changes):
    return made.Protocol(**{"shape": (12, 10, 6), "echo_times_ms": (4.0, 9.0, 14.0), **changes})


def scan_files(folder, **changes):
    """A made multi-echo scan in files, in the order of a console: part, echo, slice. 36 objects by default."""
    datasets = made.classic(protocol(**changes))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        paths.append(folder / f"{number:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


class Head:
    def __init__(self):
        self.fed, self.cancelled = [], False

    def echo(self, index, magnitude, phase_rad, **how):
        self.fed.append((index, magnitude.copy(), phase_rad.copy(), how))

    def cancel(self):
        self.cancelled = True


class FakeCore:
    """Answers with the mean of magnitude, or as told: delay_s, fail (a message), busy (times), gate (an event)."""

    def __init__(self, delay_s=0.0, fail="", busy=0, gate=None):
        self.delay_s, self.fail, self.busy, self.gate = delay_s, fail, busy, gate
        self.asked, self.heads, self.submitted = [], [], threading.Event()

    def early(self, study):
        self.heads.append(Head())
        return self.heads[-1]

    def submit(self, acquisition, study, *, early=None):
        if self.busy:
            self.busy -= 1
            raise Busy("later")
        future = Future()
        self.asked.append((study, acquisition, early))
        self.submitted.set()
        threading.Thread(target=self._answer, args=(acquisition, future), daemon=True).start()
        return future

    def _answer(self, acquisition, future):
        time.sleep(self.delay_s)
        if self.gate is not None:
            self.gate.wait(20)
        if not future.set_running_or_notify_cancel():
            return
        if self.fail:
            future.set_exception(ReconstructionError(self.fail))
            return
        chi = acquisition.scan.magnitude.mean(0) / 10000
        mask = chi > 0
        result = Result(chi, mask, mask, chi, chi, None, record={"recipe": {"name": "fake"}})
        future.set_result(Answer(result, "fake", False, {"all_s": self.delay_s}))


class Log(StudyLog):
    """Keeps what was logged."""

    def __init__(self):
        self.text = io.StringIO()
        super().__init__(self.text)

    def events(self, name):
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


def until(true, limit_s=15.0, what=""):
    """Wait until something holds; fail where it does not in time."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"waited {limit_s:g} s in vain {what}")


class Running:
    """A node on a free port with its core and log; a context that stops it."""

    def __init__(self, spool, core=None, **changes):
        self.core, self.log = core or FakeCore(), Log()
        timing = Timing(changes.pop("settle_s", SETTLE_S), changes.pop("timeout_s", 30.0))
        self.node = DicomNode(NodeSettings(spool, 0, timing=timing, **changes), self.core, self.log)
        self.spool = self.node.spool

    def __enter__(self):
        self.node.start()
        return self

    def __exit__(self, *error):
        self.node.stop()

    @property
    def address(self):
        return Destination("QSM", "127.0.0.1", self.node.port)

    def send(self, paths, calling="SCANNER"):
        """Send files; the statuses by name."""
        said = {}
        send([object_of(p) for p in paths], self.address, calling, lambda p, s: said.update({p.name: s}), 10.0)
        return said

    def jobs(self, state):
        return sorted(p.name for p in self.spool.folder(state).iterdir() if not p.name.startswith("."))

    def done(self, count=1):
        """Wait until so many jobs are done and delivered; their folders."""

        def ready():
            jobs = [self.spool.folder("done", name) for name in self.jobs("done")]
            jobs = [job for job in jobs if (job / "derived").is_dir()]
            return jobs if len(jobs) >= count else None

        return until(ready, what=self.log.text.getvalue())

    def failed(self, count=1):
        return until(
            lambda: (f := [self.spool.folder("failed", n) for n in self.jobs("failed")]) and len(f) >= count and f,
            what=self.log.text.getvalue(),
        )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool(name):
    """A program of dcmtk or Orthanc, or the test is skipped."""
    found = shutil.which(name) or (shutil.which(name, path="/usr/sbin:/usr/local/sbin"))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: dcmtk, orthanc)")
    return found


def storescu(port, paths, called="QSM", calling="SCANNER", more=()):
    command = [tool("storescu"), "-v", "-aet", calling, "-aec", called, *more, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Storescp:
    """dcmtk's storescp on a port, objects to a folder; a context that stops it."""

    def __init__(self, folder, port=None, ae="ARCHIVE"):
        folder.mkdir(exist_ok=True)
        self.folder, self.port, self.ae = folder, port or free_port(), ae
        self.command = [tool("storescp"), "-aet", ae, "-od", str(folder), str(self.port)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, what="for storescp")
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def destination(self):
        return Destination(self.ae, "127.0.0.1", self.port)

    def received(self):
        return sorted(self.folder.iterdir())


def chi_of(folder, pattern="*.dcm"):
    """Values (plane, row, column) and positions of derived objects, by InstanceNumber."""
    import pydicom

    read = sorted((pydicom.dcmread(p) for p in Path(folder).glob(pattern)), key=lambda ds: ds.InstanceNumber)
    stack = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in read])
    return SimpleNamespace(values=stack, headers=read)
