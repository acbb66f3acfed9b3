"""`qsm warmup`: pay at install time what a first run would."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import OutputError

if TYPE_CHECKING:
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.pipeline import Result
    from qsm_runtime.recipe import Recipe
    from qsm_runtime.scan import Scan

SHAPE, VOXEL_MM = (48, 56, 48), (4.0, 4.0, 4.0)


def warmup(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]", help="A scan of your protocol: plans the FFTs of its size too; writes nothing."
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="NAME", help="May be repeated. Default: every one.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="X,Y,Z", help="Plan FFTs that hold this matrix. Repeatable.")
    ] = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Compile kernels and plan FFTs now, so that the first scan does not wait for it."""
    from qsm_runtime import io
    from qsm_runtime import recipe as recipes
    from qsm_runtime.cli.ahead import compile_ahead
    from qsm_runtime.cli.first_run import FirstRunCost
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.grid import Grid
    from qsm_runtime.kernels import fft
    from qsm_runtime.kernels.threads import KERNELS_LAST, set_threads
    from qsm_runtime.phantom import simulate_head
    from qsm_runtime.report.picture import overview
    from qsm_runtime.simulated import placement_of

    threads = set_threads(threads)
    if not KERNELS_LAST:
        raise OutputError("what is compiled now cannot be kept: set QSM_CACHE_DIR to a folder that can be written")
    chosen = [recipes.load(name) for name in recipe or recipes.names()]
    compile_ahead(chosen[0])
    shapes = [options.numbers(text, "--shape", 3) or () for text in shape or []]
    found = io.find_acquisitions(folder) if folder is not None else []
    start = time.perf_counter()
    with FirstRunCost() as once, Progress(quiet) as progress:
        with progress.step("simulate"):
            grid = Grid(SHAPE, VOXEL_MM)
            scans = [simulate_head(grid).scan]
        if found:
            scans.append(found[0].read(threads=threads).scan)
        results = [_reconstruct(scan, one, progress) for scan in scans for one in chosen]
        with progress.step("picture"):
            overview(scans[0], results[0], placement_of(grid).affine, "warmup", "")
        for sizes in shapes:
            with progress.step(f"plan {'x'.join(f'{n:.0f}' for n in sizes)}"):
                fft.plan(fft.padded_shape(tuple(int(n) for n in sizes)))
        spent = once.as_dict()
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"seconds": round(seconds, 3), "one_time_seconds": spent, "threads": threads})
    else:
        progress.say(
            f"ready: {spent['compilation']:.1f} s of compilation and {spent['fft_planning']:.1f} s of FFT planning "
            f"will not be paid again on this machine (in {seconds:.1f} s)"
        )
    return 0


def _reconstruct(scan: "Scan", recipe: "Recipe", progress: "Progress") -> "Result":
    from qsm_runtime import pipeline

    with progress.step(f"recipe {recipe.name} {'x'.join(str(n) for n in scan.grid.shape)}"):
        return pipeline.reconstruct(scan, recipe, extras=pipeline.EXTRAS if scan.n_echoes > 1 else ())
