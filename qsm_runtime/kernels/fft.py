"""The one FFT layer: float32 real-to-complex transforms by FFTW, planned once a shape and remembered on disk.

Plans are measured (FFTW_MEASURE): about a second for a new shape, and twice as fast ever after as plans that are
only estimated, or as planes and rows planned one by one.

A Plan owns one aligned real and one aligned half-spectrum array to work in. Transforms are not normalised:
multiply a filter by `plan.scale` (1/N) instead of spending a pass over memory. Inverse transforms destroy
their input. Plans are cached per thread of control, so two threads never share work arrays.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pyfftw
from platformdirs import user_cache_path

from qsm_runtime.kernels import memory  # noqa: F401
from qsm_runtime.kernels.threads import get_threads

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: two processes may plan one shape each for itself
    fcntl = None

MAX_PLANS = 4  # a thread; each holds two work arrays
_plans = threading.local()
_wisdom_lock = threading.Lock()
_wisdom_loaded = False
planning_seconds = 0.0  # spent in this process on shapes that no wisdom knew


def smooth_size(n: int, even: bool = False) -> int:
    """Smallest 2-3-5-7-smooth integer >= n (even where asked)."""
    m = max(int(n), 1)
    while True:
        r = m
        for p in (2, 3, 5, 7):
            while r % p == 0:
                r //= p
        if r == 1 and not (even and m % 2):
            return m
        m += 1


def padded_shape(shape: tuple[int, ...], margin: tuple[int, ...] = (0, 0, 0)) -> tuple[int, int, int]:
    """FFT shape that holds `shape` plus `margin` voxels an axis: smooth sizes, even in the last axis."""
    nx, ny, nz = (n + m for n, m in zip(shape, margin, strict=True))
    return smooth_size(nx), smooth_size(ny), smooth_size(nz, even=True)


def wisdom_path() -> Path:
    """File of FFTW's wisdom for this host; QSM_CACHE_DIR moves it."""
    base = os.environ.get("QSM_CACHE_DIR")
    return (Path(base) if base else user_cache_path("qsm_runtime")) / "fftw_wisdom_f32.txt"


def load_wisdom() -> bool:
    """Read wisdom kept by an earlier run; a missing or unreadable file is no error, planning is only slower."""
    global _wisdom_loaded
    _wisdom_loaded = True
    try:
        text = wisdom_path().read_bytes()
    except OSError:
        return False
    pyfftw.import_wisdom((b"", text, b""))
    return True


def save_wisdom() -> bool:
    """Keep what planning learned, beside what other processes kept; False where the cache cannot be written."""
    path = wisdom_path()
    load_wisdom()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(pyfftw.export_wisdom()[1])
        temporary.replace(path)
    except OSError:
        return False
    return True


@contextmanager
def _planner() -> Iterator[None]:
    """Only one process of this host plans at a time, where the cache can be written."""
    path = wisdom_path().with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    except OSError:
        yield
        return
    with lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Plan:
    """Forward and inverse real transform of one 3-D shape.

    real      float32 `shape`, work array
    spectrum  complex64 (nx, ny, nz//2 + 1), work array
    scale     1/N: what a filter must be multiplied by so that inverse(forward(x) * filter) is normalised
    """

    def __init__(self, shape: tuple[int, int, int], threads: int) -> None:
        self.shape = shape
        self.half_shape = (shape[0], shape[1], shape[2] // 2 + 1)
        self.threads = threads
        self.scale = 1.0 / (shape[0] * shape[1] * shape[2])
        self.real = self.new_real()
        self.spectrum = self.new_spectrum()
        known = ("FFTW_MEASURE", "FFTW_WISDOM_ONLY")
        if self._build(known):
            return
        # one process plans a shape and the others take its plan: another plan would round otherwise
        with _planner():
            if not (load_wisdom() and self._build(known)):
                start = time.perf_counter()
                self._build(("FFTW_MEASURE",))
                save_wisdom()
                global planning_seconds
                planning_seconds += time.perf_counter() - start

    def _build(self, flags: tuple[str, ...]) -> bool:
        """Plan both ways; False where `flags` ask for wisdom that there is none of."""
        forward, inverse = (self.real, self.spectrum), (self.spectrum, self.real)
        try:
            self._forward = pyfftw.FFTW(*forward, axes=(0, 1, 2), flags=flags, threads=self.threads)
            self._inverse = pyfftw.FFTW(
                *inverse,
                axes=(0, 1, 2),
                direction="FFTW_BACKWARD",
                flags=(*flags, "FFTW_DESTROY_INPUT"),
                threads=self.threads,
            )
        except RuntimeError:
            return False
        return True

    def new_real(self) -> np.ndarray:
        """Uninitialised aligned float32 array of the plan's shape."""
        return pyfftw.empty_aligned(self.shape, np.float32)

    def new_spectrum(self) -> np.ndarray:
        """Uninitialised aligned complex64 array of the plan's half-spectrum shape."""
        return pyfftw.empty_aligned(self.half_shape, np.complex64)

    def forward(self, x: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Transform `x` (default the plan's real array) into `out` (default its spectrum array). `x` is kept."""
        x = self.real if x is None else x
        out = self.spectrum if out is None else out
        self._forward.update_arrays(x, out)
        self._forward.execute()
        return out

    def inverse(self, c: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Transform `c` (default the plan's spectrum) into `out` (default its real array), unscaled; `c` is lost."""
        c = self.spectrum if c is None else c
        out = self.real if out is None else out
        self._inverse.update_arrays(c, out)
        self._inverse.execute()
        return out


def plan(shape: tuple[int, int, int]) -> Plan:
    """The cached plan of `shape` at the current thread count."""
    with _wisdom_lock:
        if not _wisdom_loaded:
            load_wisdom()
    cache: OrderedDict[tuple[tuple[int, int, int], int], Plan] = _plans.__dict__.setdefault("cache", OrderedDict())
    key = ((int(shape[0]), int(shape[1]), int(shape[2])), get_threads())
    if key not in cache:
        with _wisdom_lock:  # FFTW's planner is not thread-safe
            cache[key] = Plan(*key)
        while len(cache) > MAX_PLANS:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def release() -> None:
    """Drop this thread's plans and their work arrays."""
    _plans.__dict__.pop("cache", None)
