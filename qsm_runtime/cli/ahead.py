"""A first run compiles on two cores: a child process compiles the recipe's last stages while this one does the first.

Compilation holds one core and takes most of a first run; the child's work reaches this process through numba's
cache on disk. It is started once a version and machine, and ended with this process.
"""

import atexit
import os
import subprocess
import sys
from importlib.metadata import version
from zlib import crc32

import numpy as np

from qsm_runtime.kernels.fft import wisdom_path
from qsm_runtime.kernels.threads import KERNELS_LAST
from qsm_runtime.recipe import Recipe

LATE = ("background", "inversion", "single_step")
SIDE = 40  # voxels along an axis: enough for three grids of a multiresolution method


def compile_ahead(recipe: Recipe) -> None:
    """Start compiling what comes after the field in `recipe`, unless an earlier run did or there is no second core."""
    methods = [f"{s}:{recipe.steps[s].method}" for s in recipe.used if s in LATE]
    # numba keeps its cache beside the sources: another installation compiles anew
    installed = crc32(f"{__file__} {os.path.getmtime(__file__)}".encode())
    done = wisdom_path().with_name(f"compiled-{version('qsm_runtime')}-{version('numba')}-{installed:08x}")
    if done.exists() or (os.cpu_count() or 1) < 2 or not methods:
        return
    try:
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    except OSError:  # nowhere to remember it
        if KERNELS_LAST:
            return
    child = subprocess.Popen(
        [sys.executable, "-m", "qsm_runtime.cli.ahead", *methods],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_end, child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()  # it writes no kernel more


def main(names: list[str]) -> None:
    """Call each stage:method on a small ball with a source in it and one beside it."""
    from qsm_runtime import stages
    from qsm_runtime.grid import Grid
    from qsm_runtime.phantom import sphere_field_ppm

    grid = Grid((SIDE, SIDE, SIDE))
    x, y, z = np.meshgrid(*(np.arange(SIDE) - SIDE / 2,) * 3, indexing="ij")
    mask = x**2 + y**2 + z**2 < (SIDE / 2 - 3) ** 2
    inside = sphere_field_ppm(grid, (SIDE / 2, SIDE / 2, SIDE / 2), 4.0, 0.3)
    beside = sphere_field_ppm(grid, (SIDE / 2, SIDE / 2, SIDE - 2.0), 2.0, 5.0)
    noise = np.random.default_rng(0).normal(scale=1e-3, size=grid.shape)
    field = np.where(mask, inside + beside + noise, 0).astype(np.float32)
    supply = {
        "magnitude": np.ones((2, *grid.shape), np.float32),
        "reliability": mask.astype(np.float32) * 100,
        "echo_times_s": (0.01, 0.02),
        "b0_tesla": 3.0,
    }
    for name in names:
        stage, _, method = name.partition(":")
        function = stages.method(stage, method)
        function(field, mask, grid, **{key: supply.get(key) for key in stages.supplied(function)})


if __name__ == "__main__":
    main(sys.argv[1:])
