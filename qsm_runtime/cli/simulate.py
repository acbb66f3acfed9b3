"""`qsm phantom` and `qsm demo`: a simulated head, and the whole job on it, scored against its truth."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import peak_memory_mib, print_json, print_table
from qsm_runtime.errors import OutputError, UsageError

DEMO_FOLDER = Path("qsm_demo")
SHOWN = (
    ("XSIM", "xsim", "{:.3f}"),
    ("correlation", "correlation", "{:.3f}"),
    ("slope", "slope", "{:.3f}"),
    ("deep-grey slope", "deep_grey_slope", "{:.3f}"),
    ("NRMSE", "nrmse_pct", "{:.1f} %"),
    ("HFEN", "hfen_pct", "{:.1f} %"),
    ("more than 0.1 ppm off", "off_pct", "{:.2f} %"),
)


def phantom(
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="A new BIDS dataset.")] = None,
    subject: Annotated[str, typer.Option(metavar="LABEL", help="sub-LABEL.")] = "sim",
    matrix: Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Voxels an axis.")] = None,
    voxel_mm: Annotated[str | None, typer.Option("--voxel-mm", metavar="X,Y,Z", help="Voxel size.")] = None,
    b0_tesla: Annotated[float, typer.Option("--b0-tesla", metavar="T", help="Field strength.")] = 3.0,
    b0_dir: Annotated[str, typer.Option("--b0-dir", metavar="X,Y,Z", help="B0 in array axes.")] = "0,0,1",
    echo_times_ms: Annotated[str, typer.Option("--echo-times-ms", metavar="MS,MS,...")] = "5,12,19,26",
    snr: Annotated[float, typer.Option(metavar="RATIO", help="Largest magnitude over the noise.")] = 100.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another head.")] = 0,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Simulate a multi-echo scan of a head, as a BIDS dataset with its truth."""
    if output is None:
        raise UsageError("no output: give a folder with -o")
    if not subject.isalnum():
        raise UsageError(f"--subject must be letters and digits, got {subject!r}")
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.grid import Grid
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.phantom import DEMO_GRID, simulate_head
    from qsm_runtime.simulated import write_head

    set_threads(threads)
    shape = options.numbers(matrix, "--matrix", 3) or DEMO_GRID.shape
    size = options.numbers(voxel_mm, "--voxel-mm", 3) or DEMO_GRID.voxel_mm
    direction = options.numbers(b0_dir, "--b0-dir", 3)
    times_ms = options.numbers(echo_times_ms, "--echo-times-ms")
    if any(n != int(n) for n in shape):
        raise UsageError(f"--matrix takes whole numbers, got {matrix}")
    grid = Grid(tuple(int(n) for n in shape), size, direction)  # type: ignore[arg-type]
    _check_new(output, overwrite)
    with Progress(quiet) as progress:
        with progress.step("simulate"):
            head = simulate_head(
                grid,
                b0_tesla=b0_tesla,
                echo_times_s=tuple(t / 1000 for t in times_ms or ()),
                peak_snr=snr,
                seed=seed,
            )
        with progress.step("write"):
            paths = write_head(output, head, subject, overwrite=overwrite)
    if as_json:
        print_json({"dataset": output, "images": paths, "seconds": progress.seconds})
    elif not quiet:
        print(output)
    return 0


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where all of it goes.")] = (
        DEMO_FOLDER
    ),
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="fast, default, best, or a .toml file.")] = (
        "default"
    ),
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Simulate a head, reconstruct it from its files, and score the map against its truth."""
    start = time.perf_counter()
    from qsm_runtime import io
    from qsm_runtime import recipe as recipes
    from qsm_runtime.cli.ahead import compile_ahead
    from qsm_runtime.cli.first_run import FirstRunCost
    from qsm_runtime.cli.job import Job, reconstruct_one
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.cli.run import said
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.metrics import score, score_field
    from qsm_runtime.phantom import simulate_head
    from qsm_runtime.simulated import write_head

    threads = set_threads(threads)
    chosen = recipes.load(recipe)
    compile_ahead(chosen)
    _check_new(output, overwrite)
    dataset = output / "dataset"
    job = Job(chosen, output, ("mask", "total"), overwrite=overwrite, threads=threads)
    with FirstRunCost() as once:
        with Progress(quiet) as progress:
            with progress.step("simulate"):
                head = simulate_head()
            with progress.step("write dataset"):
                write_head(dataset, head, "demo", overwrite=overwrite)
            scan = io.find_acquisitions(dataset)[0]
            # maps at the top of the output folder, as for plain files
            done = reconstruct_one(job, lambda: replace(scan.read(phase_sign="+"), folder=""), progress)
            with progress.step("score"):
                truth, result = head.truth, done.result
                chi = score(result.chi_ppm, truth.chi_ppm, truth.mask, valid=result.mask, labels=truth.labels)
                field = score_field(result.total_ppm, truth.total_ppm, truth.mask, valid=result.brain_mask)
        spent = once.as_dict()
    seconds = time.perf_counter() - start
    scores: dict[str, Any] = {"susceptibility": asdict(chi), "total_field": asdict(field)}
    if as_json:
        print_json(
            {
                **done.document,
                "scores": scores,
                "threads": threads,
                "total_seconds": round(seconds, 3),
                "one_time_seconds": spent,
                "peak_memory_mib": peak_memory_mib(),
            }
        )
    elif not quiet:
        rows = [("against the truth", "susceptibility", "total field")]
        for label, name, form in SHOWN:
            values = [getattr(s, name) for s in (chi, field)]
            rows.append((label, *("-" if v is None else form.format(v) for v in values)))  # type: ignore[arg-type]
        rows.append(("share of the brain", f"{100 * chi.coverage:.1f} %", f"{100 * field.coverage:.1f} %"))
        print_table(rows)
        print(f"\nmap      {done.document['outputs']['chi']}\npicture  {done.document['outputs']['picture']}")
        print(f"input    {dataset}  (try: qsm run {dataset} -o OUT)")
    progress.say(said(seconds, spent))
    return 0


def _check_new(output: Path, overwrite: bool) -> None:
    """A folder that is not there yet, is empty, or may be overwritten: before any work is done."""
    if output.is_file():
        raise OutputError(f"{output} is a file; choose a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputError(f"{output} is not empty; choose another folder with -o, or allow it with --overwrite")
    from qsm_runtime.io.atomic import check_writable

    check_writable([output / "dataset_description.json"], (), True)
