"""One thread count for FFTW, numba and onnxruntime together. Import this before numba.

OpenMP workers that spin after a parallel loop hold the core an FFTW thread wants next: a dipole convolution
took 37 ms with spinning and 26 ms without (168x210x210, 2 threads), so they are told to sleep instead.

Compiled kernels are kept where numba finds a folder (NUMBA_CACHE_DIR, beside the sources, the user's cache), else in
QSM_CACHE_DIR, else in a temporary folder that goes with this process.
"""

import atexit
import os
import shutil
import tempfile
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import numba

from qsm_runtime.errors import OutputError, QsmWarning, UsageError

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


def _kept() -> bool:
    """Whether numba finds a folder to keep compiled kernels in: without one it refuses to decorate a function."""
    try:
        numba.njit(cache=True)(get_threads)
    except RuntimeError:
        return False
    return True


def _keep_in(folder: str) -> None:
    os.environ["NUMBA_CACHE_DIR"] = folder  # for the processes that this one starts
    numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]


def _settle_cache() -> bool:
    """Find a folder for compiled kernels; whether what is in it outlives this process."""
    if _kept():
        return True
    lasting = os.environ.get("QSM_CACHE_DIR")
    if lasting:
        _keep_in(os.path.abspath(os.path.join(lasting, "numba")))
        if _kept():
            return True
    remedy = "set QSM_CACHE_DIR to a folder that can be written"
    try:
        folder = tempfile.mkdtemp(prefix="qsm-kernels-")
    except OSError as error:
        raise OutputError(f"compiled kernels cannot be kept, not even for this process ({error}): {remedy}") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _keep_in(folder)
    said = "no cache folder can be written, so that every start compiles its kernels anew, for about half a minute"
    warnings.warn(f"{said}: {remedy}", QsmWarning, stacklevel=2)
    return False


KERNELS_LAST = _settle_cache()
