"""For tests of the DICOM node: made scans, a node whose studies settle when a test says so, peers of dcmtk."""

import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import made_dicom as made
import numpy as np
import pytest
from patience import PATIENCE_S, until
from serve_kit import FakeCore, Told, free_port

from qsm_runtime.serve.dicom_jobs import Timing
from qsm_runtime.serve.dicom_node import DicomNode
from qsm_runtime.serve.dicom_send import Destination, object_of, send
from qsm_runtime.serve.dicom_settings import NodeSettings

MORE_COMES = Timing(settle_s=PATIENCE_S, timeout_s=PATIENCE_S)
SETTLED = Timing(settle_s=0.05, timeout_s=PATIENCE_S)
GIVEN_UP = Timing(settle_s=0.05, timeout_s=0.3)


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


class Running:
    """A node on a free port with its core and log; a context that stops it.

    Without a timing of its own, it takes studies to go on while a test sends, and to have come to their end when the
    test waits for what becomes of them: then nothing depends on how quickly the objects came.
    """

    def __init__(self, spool, core=None, *, timing=None, **changes):
        self.core, self.log, self.timing = core or FakeCore(), Told(), timing
        self.node = DicomNode(NodeSettings(spool, 0, timing=timing or MORE_COMES, **changes), self.core, self.log)
        self.node.delivery._pause_s = 0.1  # before a peer that is down is tried again
        self.spool = self.node.spool

    def __enter__(self):
        self.node.start()
        return self

    def __exit__(self, *error):
        self.settle()
        self.node.stop()

    @property
    def address(self):
        return Destination("QSM", "127.0.0.1", self.node.port)

    def pace(self, timing):
        """Let this be the timing for whatever came so far and will come."""
        self.node.jobs._inbox.put(lambda: setattr(self.node.jobs, "timing", timing))

    def settle(self):
        """Nothing more comes for now."""
        if self.timing is None:
            self.pace(SETTLED)

    def send(self, paths, calling="SCANNER"):
        """Send files; the statuses by name."""
        if self.timing is None:
            self.pace(MORE_COMES)
        said = {}
        send([object_of(p) for p in paths], self.address, calling, lambda p, s: said.update({p.name: s}), PATIENCE_S)
        return said

    def jobs(self, state):
        return sorted(p.name for p in self.spool.folder(state).iterdir() if not p.name.startswith("."))

    def done(self, count=1):
        """Wait until so many jobs are done and delivered; their folders."""
        self.settle()
        return self._ended("done", count, lambda job: (job / "derived").is_dir())

    def failed(self, count=1):
        """Wait until so many jobs have failed, incomplete ones too; their folders."""
        if self.timing is None:
            self.pace(GIVEN_UP)
        return self._ended("failed", count, lambda job: True)

    def _ended(self, state, count, whole):
        def there():
            found = [job for name in self.jobs(state) if whole(job := self.spool.folder(state, name))]
            return found if len(found) >= count and not self.node.state()["jobs"] else None

        return until(there, self.log.text.getvalue)


def tool(name):
    """A program of dcmtk or Orthanc, or the test is skipped."""
    found = shutil.which(name) or (shutil.which(name, path="/usr/sbin:/usr/local/sbin"))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: dcmtk, orthanc)")
    return found


def storescu(port, paths, called="QSM", calling="SCANNER", more=()):
    command = [tool("storescu"), "-v", "-aet", calling, "-aec", called, *more, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


class Storescp:
    """dcmtk's storescp on a port, objects to a folder; a context that stops it."""

    def __init__(self, folder, port=None, ae="ARCHIVE"):
        folder.mkdir(exist_ok=True)
        self.folder, self.port, self.ae = folder, port or free_port(), ae
        self.command = [tool("storescp"), "-aet", ae, "-od", str(folder), str(self.port)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, lambda: "for storescp")
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
