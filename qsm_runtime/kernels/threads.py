"""One thread count for FFTW, numba and onnxruntime together. Import this before numba.

OpenMP workers that spin after a parallel loop hold the core an FFTW thread wants next: a dipole convolution
took 37 ms with spinning and 26 ms without (168x210x210, 2 threads), so they are told to sleep instead.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import numba

from qsm_runtime.errors import UsageError

AVAILABLE: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def set_threads(count: int | None) -> int:
    """Use `count` threads everywhere (None or 0: all this process may use); returns the number set."""
    count = count or AVAILABLE
    if not 1 <= count <= AVAILABLE:
        raise UsageError(f"threads must lie between 1 and {AVAILABLE}, got {count}")
    numba.set_num_threads(count)
    return count


def get_threads() -> int:
    return int(numba.get_num_threads())
