"""Echoes handed over before their study is complete: copied, checked and worked on while the rest arrives."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.scan import Scan
from qsm_runtime.serve.messages import Drop, Echo, Open
from qsm_runtime.serve.process import LostError, WorkerProcess
from qsm_runtime.serve.shared import Region

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16  # values compared at once: they stay in the cache


class Early:
    """The volumes of a study's echoes as they become complete; what cannot be used early is ignored.

    One study at a time has a place in the worker (`claim`); any other's echoes are ignored. When the last echo is
    there the reconstruction begins, whether the study has been submitted or not.
    """

    def __init__(self, number: int, claim: Callable[[Early], WorkerProcess | None], recipe: str = "") -> None:
        self.number, self.recipe = number, recipe
        self.touched = time.monotonic()
        self.copied_s = 0.0
        self._claim = claim
        self._worker: WorkerProcess | None = None
        self._region: Region | None = None
        self._opened: Open | None = None
        self._present: set[int] = set()
        self._over = False
        self._lock = threading.Lock()

    def echo(
        self,
        index: int,
        magnitude: np.ndarray,
        phase_rad: np.ndarray,
        *,
        grid: Grid,
        echo_times_s: tuple[float, ...],
        b0_tesla: float,
    ) -> None:
        """Both volumes of echo `index` (from 0): float32 (x, y, z), phase in rad and of the project's sign.

        grid, echo_times_s and b0_tesla are those of the whole study. The arrays are copied. An echo that comes twice,
        or with another geometry than the ones before, ends the early work: which of the two is right will be known
        when the study is submitted.
        """
        opened = Open(self.number, grid, tuple(float(t) for t in echo_times_s), float(b0_tesla), self.recipe)
        with self._lock:
            if self._over:
                return
            start = self.touched = time.monotonic()
            if self._opened is None:
                self._open(opened)
            fits = self._opened == opened and index not in self._present and 0 <= index < len(opened.echo_times_s)
            if self._worker is None or self._region is None or not fits:
                self._end()
                return
            size = 4 * int(np.prod(grid.shape))
            try:
                for part, volume in enumerate((magnitude, phase_rad)):
                    values = np.ascontiguousarray(volume, np.float32)
                    grid.check(values, "an early echo")
                    self._region.write((part * len(opened.echo_times_s) + index) * size, values)
                self._worker.tell(Echo(self.number, index))
            except (LostError, OSError, ValueError):
                self._end()
                return
            self._present.add(index)
            self.copied_s += time.monotonic() - start

    def cancel(self) -> None:
        """The study will not be submitted."""
        with self._lock:
            self._end()

    @property
    def over(self) -> bool:
        """Whether nothing more can come of it."""
        return self._over

    @property
    def complete(self) -> bool:
        """Whether every echo is there."""
        return self._opened is not None and len(self._present) == len(self._opened.echo_times_s)

    def on(self, worker: WorkerProcess) -> bool:
        """Whether every echo has reached this worker."""
        return not self._over and self._worker is worker and self.complete

    def holds(self, scan: Scan) -> bool:
        """Whether what was given is this scan, bit for bit."""
        with self._lock:
            opened, region = self._opened, self._region
        if opened is None or region is None or not self.complete or not scan.finite.all():
            return False
        if (scan.grid, scan.echo_times_s, scan.b0_tesla) != (opened.grid, opened.echo_times_s, opened.b0_tesla):
            return False
        values = np.frombuffer(region.map(), np.uint32, scan.magnitude.size + scan.phase_rad.size)
        kept, given = np.split(values, 2), (scan.magnitude, scan.phase_rad)
        return all(_same(a, b.reshape(-1).view(np.uint32)) for a, b in zip(kept, given, strict=True))

    def _open(self, opened: Open) -> None:
        self._opened = opened
        worker = self._claim(self)
        if worker is None:
            return
        try:
            region = Region.new(2 * 4 * len(opened.echo_times_s) * int(np.prod(opened.grid.shape)))
            worker.tell(opened, region)
        except (LostError, OSError):
            return
        self._worker, self._region = worker, region

    def _end(self) -> None:
        if self._worker is not None and not self._over:
            with contextlib.suppress(LostError):
                self._worker.tell(Drop(self.number))
        self._over, self._region = True, None


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return all(np.array_equal(one[i : i + CHUNK], other[i : i + CHUNK]) for i in range(0, one.size, CHUNK))
