"""What the core's tests share: a small study, a silent log, and workers that are quick to start or soon to end."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.scan import Scan
from qsm_runtime.serve import worker
from qsm_runtime.serve.core import Core

GRID = Grid((48, 56, 48), (4.0, 4.0, 4.0), (0.1, 0.05, 0.99))
THREADS = 2
MAPS = ("chi_ppm", "mask", "brain_mask", "total_ppm", "reliability")
PATIENCE_S = 120.0


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, *, level: str = "info", study: str = "", **fields: Any) -> None:
        self.events.append((name, {"level": level, "study": study, **fields}))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for what, fields in self.events if what == name]


def acquisition_of(scan: Scan, mask: np.ndarray | None = None) -> Acquisition:
    affine = np.eye(4)
    return Acquisition(scan, Placement(affine, affine, 1, affine, 0), "head", (), "rad", 1, "test", "test", mask=mask)


def assert_same(result, wanted) -> None:
    """Bit for bit, and said and chosen alike."""
    for name in MAPS:
        one, other = getattr(result, name), getattr(wanted, name)
        assert one.dtype == other.dtype, name
        assert one.tobytes() == other.tobytes(), name
    for key in ("recipe", "reference", "chosen", "mask_voxels", "threads"):
        assert result.record[key] == wanted.record[key], key


def until(happened: Callable[[], Any]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def cold(connection, recipe, cheaper, threads, runtime, shapes) -> None:
    """A worker that serves at once."""
    worker.main(connection, recipe, cheaper, threads, runtime, None)


def crashing(connection, recipe, cheaper, threads, runtime, shapes) -> None:
    """A worker that every study kills."""

    def work(task, ready):
        os.kill(os.getpid(), signal.SIGSEGV)

    worker.work = work
    cold(connection, recipe, cheaper, threads, runtime, shapes)


class ColdCore(Core):
    worker_main = staticmethod(cold)


class CrashingCore(Core):
    worker_main = staticmethod(crashing)
