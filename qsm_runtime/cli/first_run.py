"""What a first run pays once: compiling kernels and planning FFTs."""

import time
from types import TracebackType

import numba.core.event as numba_event

from qsm_runtime.kernels import fft

COMPILE = "numba:compile"


class _Compiling(numba_event.Listener):
    """Seconds spent compiling; nested compilations count once (one runs at a time, under numba's lock)."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    def on_start(self, event: numba_event.Event) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def on_end(self, event: numba_event.Event) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


class FirstRunCost:
    """Used with `with`; afterwards (or before) `as_dict` tells the seconds since it was entered."""

    def __enter__(self) -> "FirstRunCost":
        self._compiling = _Compiling()
        self._planned = fft.planning_seconds
        numba_event.register(COMPILE, self._compiling)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        numba_event.unregister(COMPILE, self._compiling)

    def as_dict(self) -> dict[str, float]:
        return {
            "compilation": round(self._compiling.seconds, 3),
            "fft_planning": round(fft.planning_seconds - self._planned, 3),
        }
