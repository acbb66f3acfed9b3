"""`qsm orient`: several orientations of one head to a susceptibility map (COSMOS, GLTA) or tensor (STI)."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import peak_memory_mib, print_json
from qsm_runtime.errors import UsageError

Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where maps go.")]


def orient(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INPUT]...", help="BIDS folders whose scans are the orientations; or --fields."),
    ] = None,
    output: Output = None,
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="cosmos, sti or glta.")] = "cosmos",
    fields: Annotated[
        list[Path] | None, typer.Option("--fields", metavar="FILE...", help="Local fields, one an orientation.")
    ] = None,
    masks: Annotated[
        list[Path] | None, typer.Option("--masks", metavar="FILE...", help="A mask for each, or one for all.")
    ] = None,
    align: Annotated[
        str,
        typer.Option(
            "--align",
            metavar="HOW",
            help="world: affines and transforms place every scan, which is resampled; voxels: the arrays match voxel "
            "by voxel already (the slab was turned with the head, or it was resampled).",
        ),
    ] = "world",
    transforms: Annotated[
        list[Path] | None,
        typer.Option(
            "--transform",
            metavar="FILE...",
            help="4x4 text files: rigid, from each scan's world (mm, RAS) to the first's. The first may be left out.",
        ),
    ] = None,
    b0_dirs: Annotated[
        Path | None,
        typer.Option("--b0-dirs", metavar="FILE", help="With --fields: B0 in each one's array axes, a line each."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="For scans: the stages up to the local field.")
    ] = "default",
    mask: Annotated[str | None, typer.Option("--mask", metavar="METHOD", help="For scans: a mask method.")] = None,
    background: Annotated[
        str | None, typer.Option("--background", metavar="METHOD", help="For scans: a background method.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="For scans: an option of a stage's method."),
    ] = None,
    reference: Annotated[
        str, typer.Option("--reference", metavar="METHOD", help="What becomes zero: whole_mask, region or none.")
    ] = "whole_mask",
    region: Annotated[Path | None, typer.Option("--region", metavar="FILE", help="With --reference region.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Stem of the maps; default: what the inputs share.")
    ] = None,
    select: options.Select = None,
    units: Annotated[
        str | None, typer.Option("--units", metavar="UNIT", help="Of fields whose sidecars do not say: ppm, Hz, rad/s.")
    ] = None,
    b0_tesla: options.B0Tesla = None,
    echo_times_ms: options.EchoTimes = None,
    phase_scale: options.PhaseScale = "auto",
    phase_sign: options.PhaseSign = "auto",
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """One map from several orientations of a head: COSMOS, susceptibility tensor, GLTA.

    \b
    qsm orient --fields ori*_local.nii.gz --masks ori*_mask.nii.gz --transform ori*_to_first.txt -o OUT
    qsm orient DATASET -o OUT --method sti --transform to_first_*.txt
    """
    from qsm_runtime.orientation.geometry import LEAST_ORIENTATIONS
    from qsm_runtime.stages import unknown

    if output is None:
        raise UsageError("no output: give a folder with -o")
    if method not in LEAST_ORIENTATIONS:
        raise UsageError(unknown("orientation method", method, LEAST_ORIENTATIONS))
    if align not in ("world", "voxels"):
        raise UsageError(unknown("way to align", align, ("world", "voxels")))
    if (region is not None) != (reference == "region"):
        raise UsageError("--reference region and --region FILE belong together")
    if reference not in ("whole_mask", "region", "none"):
        raise UsageError(unknown("reference method", reference, ("whole_mask", "region", "none")))
    if bool(folders) == bool(fields):
        raise UsageError("give the orientations as folders of scans, or as local fields with --fields FILE...")
    files = [str(f) for f in folders or () if f.is_file()]
    if files:
        raise UsageError(f"{files[0]} is a file: name local fields with --fields")
    only_scans = {"--mask": mask, "--background": background, "--set": settings, "--select": select,
                  "--echo-times-ms": echo_times_ms}  # fmt: skip
    for option, value in (only_scans if fields else {"--b0-dirs": b0_dirs, "--units": units}).items():
        if value:
            raise UsageError(f"{option} is for {'folders of scans, not --fields' if fields else '--fields'}")

    if name is not None and (not name or Path(name).name != name):
        raise UsageError(f"--name takes the stem of a file name, got {name!r}")

    from qsm_runtime.cli.orient_inputs import fields_of, local_recipe, read_directions, read_transforms, scans_of
    from qsm_runtime.cli.orient_job import Request, combine
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.cli.stage_call import Calls
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.orientation.geometry import check_count

    threads = set_threads(threads)
    start = time.perf_counter()
    with Progress(quiet) as progress:
        calls = Calls(progress)
        with progress.step("read"):
            stated = None
            if fields:
                check_count(method, len(fields))
                stated = read_directions(b0_dirs, len(fields))
                found = fields_of(fields, masks or (), units, b0_tesla, stated, calls)
            else:
                chosen = local_recipe(recipe, mask, background, options.settings(settings))
                pending = _pending(folders or [], select, echo_times_ms, b0_tesla, phase_scale, phase_sign, threads)
                check_count(method, len(pending))
                found = scans_of(pending, masks or (), chosen, calls)
            turns = read_transforms(transforms or (), len(found))
        beside = [*(transforms or ()), *(masks or ()), *(p for p in (b0_dirs, region) if p is not None)]
        request = Request(
            method, found, output, name, align, turns, stated is not None, reference, region, beside, overwrite, threads
        )
        document = combine(request, calls)
    seconds = round(time.perf_counter() - start, 3)
    progress.say(f"done in {seconds:.1f} s")
    if as_json:
        print_json({**document, "threads": threads, "seconds": seconds, "peak_memory_mib": peak_memory_mib()})
    elif not quiet:
        for path in document["outputs"].values():
            print(path)
    return 0


def _pending(
    folders: list[Path],
    select: str | None,
    echo_times_ms: str | None,
    b0_tesla: float | None,
    phase_scale: str,
    phase_sign: str,
    threads: int,
) -> list[Any]:
    """The scans of all folders, in the order of the folders, then by name."""
    from qsm_runtime.cli.source import find, source

    found = []
    for folder in folders:
        wanted = source(
            folder, select, None, None, None, None, None, None, echo_times_ms, b0_tesla, None, phase_scale, phase_sign,
            None, threads,
        )  # fmt: skip
        found += find(wanted)
    return found
