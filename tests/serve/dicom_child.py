"""A node in a process of its own, to be killed: python dicom_child.py SPOOL [AE@host:port]. Its core never answers
while the file SPOOL.hold is there. Prints its port; ends with its parent."""

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # of the makers that all tests share

from dicom_kit import FakeCore, Running

from qsm_runtime.serve.dicom_send import Destination


class Gate:
    def __init__(self, path):
        self.path = path

    def wait(self, limit_s):
        while self.path.exists():
            time.sleep(0.02)


if __name__ == "__main__":
    spool = Path(sys.argv[1])
    to = tuple(Destination.parse(words) for words in sys.argv[2:])
    run = Running(spool, FakeCore(gate=Gate(spool.with_suffix(".hold"))), to=to)
    with run:
        print(run.node.port, flush=True)
        sys.stdin.read()
