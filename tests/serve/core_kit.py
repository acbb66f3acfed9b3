"""What the core's tests share: small studies, and workers that are quick to start or soon to end."""

import atexit
import os
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyfftw

from qsm_runtime import load_recipe
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.phantom import simulate_head
from qsm_runtime.phantom.head import Head
from qsm_runtime.pipeline import Result, reconstruct
from qsm_runtime.scan import Scan
from qsm_runtime.serve import worker
from qsm_runtime.serve.core import Core, Early

GRID = Grid((48, 56, 48), (4.0, 4.0, 4.0), (0.1, 0.05, 0.99))
THREADS = 2
MAPS = ("chi_ppm", "mask", "brain_mask", "total_ppm", "reliability")
PLANS = "QSM_TEST_PLANS"  # folder of FFT plans that no other program renews meanwhile: another plan rounds otherwise


@cache
def head(seed: int = 3) -> Head:
    return simulate_head(GRID, seed=seed, oversample=1)


@cache
def expected(recipe: str, seed: int = 3) -> Result:
    """What the plain call gives; workers started later find its plans."""
    set_threads(THREADS)
    fft.release()
    result = reconstruct(head(seed).scan, load_recipe(recipe))
    if PLANS not in os.environ:
        os.environ[PLANS] = tempfile.mkdtemp(prefix="qsm-plans-")
        atexit.register(shutil.rmtree, os.environ[PLANS], ignore_errors=True)
    Path(os.environ[PLANS], fft.wisdom_path().name).write_bytes(pyfftw.export_wisdom()[1])
    return result


def acquisition_of(scan: Scan, mask: np.ndarray | None = None) -> Acquisition:
    affine = np.eye(4)
    return Acquisition(scan, Placement(affine, affine, 1, affine, 0), "head", (), "rad", 1, "test", "test", mask=mask)


def give(early: Early, scan: Scan, index: int) -> None:
    """Hand over an echo of a scan before the rest."""
    early.echo(
        index,
        scan.magnitude[index],
        scan.phase_rad[index],
        grid=scan.grid,
        echo_times_s=scan.echo_times_s,
        b0_tesla=scan.b0_tesla,
    )


def assert_same(result: Result, wanted: Result) -> None:
    """Bit for bit, and said and chosen alike."""
    for name in MAPS:
        one, other = getattr(result, name), getattr(wanted, name)
        assert one.dtype == other.dtype, name
        assert one.tobytes() == other.tobytes(), name
    for key in ("recipe", "reference", "chosen", "mask_voxels", "threads"):
        assert result.record[key] == wanted.record[key], key


def warm(connection, settings, shapes) -> None:
    """A worker with the tests' plans."""
    if PLANS in os.environ:
        os.environ["QSM_CACHE_DIR"] = os.environ[PLANS]
    worker.main(connection, settings, shapes)


def cold(connection, settings, shapes) -> None:
    """The same, serving at once."""
    warm(connection, settings, None)


def unplanned(connection, settings, shapes) -> None:
    """A worker without plans: QSM_CACHE_DIR is empty."""
    worker.main(connection, settings, None)


def crashing(connection, settings, shapes) -> None:
    """A worker that every study kills."""

    def work(task, ready):
        os.kill(os.getpid(), signal.SIGSEGV)

    worker.work = work
    unplanned(connection, settings, shapes)


class WarmCore(Core):
    worker_main = staticmethod(warm)


class ColdCore(Core):
    worker_main = staticmethod(cold)


class UnplannedCore(Core):
    worker_main = staticmethod(unplanned)


class CrashingCore(Core):
    worker_main = staticmethod(crashing)
