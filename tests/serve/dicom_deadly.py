"""A node in a process of its own that every scan of DEADLY_ECHOES echoes ends: python dicom_deadly.py SPOOL. Prints its
port; ends with its parent."""

import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # of the makers that all tests share

from dicom_kit import SETTLED, FakeCore, Running

DEADLY_ECHOES = 2


class DeadlyCore(FakeCore):
    def submit(self, acquisition, study, *, early=None, recipe=None):
        if acquisition.scan.n_echoes == DEADLY_ECHOES:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(acquisition, study, early=early, recipe=recipe)


if __name__ == "__main__":
    with Running(Path(sys.argv[1]), DeadlyCore(), timing=SETTLED) as run:
        print(run.node.port, flush=True)
        sys.stdin.read()
