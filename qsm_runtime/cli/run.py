"""`qsm run`: from scans to referenced susceptibility maps."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import peak_memory_mib, print_json
from qsm_runtime.errors import QsmError, UsageError

SHOWN_FROM_S = 1.0  # one-time cost worth a line


def _method(stage: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{stage}", metavar="METHOD", help=f"Another {stage.replace('-', ' ')} method (`qsm methods`)."
    )
    return option


def run(
    folder: options.Input = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where maps go.")] = None,
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="fast, default, best, or a .toml file.")] = (
        "default"
    ),
    mask: Annotated[
        str | None, typer.Option("--mask", metavar="METHOD|FILE", help="A mask method, or your own mask.")
    ] = None,
    offset: Annotated[str | None, _method("offset")] = None,
    unwrap: Annotated[str | None, _method("unwrap")] = None,
    field: Annotated[str | None, _method("field")] = None,
    background: Annotated[str | None, _method("background")] = None,
    inversion: Annotated[str | None, _method("inversion")] = None,
    single_step: Annotated[str | None, _method("single-step")] = None,
    reference: Annotated[str | None, _method("reference")] = None,
    region: Annotated[
        Path | None, typer.Option("--region", metavar="FILE", help="Mask of the region that becomes zero.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any option of any method; may be repeated."),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option("--save", metavar="MAPS", help="More maps: total,local,reliability,mask,r2star,swi or all."),
    ] = None,
    format_: options.Format = "nifti",
    select: options.Select = None,
    magnitude: options.Magnitude = None,
    phase: options.Phase = None,
    real: options.Real = None,
    imaginary: options.Imaginary = None,
    complex_: options.Complex = None,
    echo_times_ms: options.EchoTimes = None,
    b0_tesla: options.B0Tesla = None,
    imaging_frequency_mhz: options.ImagingFrequency = None,
    phase_scale: options.PhaseScale = "auto",
    phase_sign: options.PhaseSign = "auto",
    b0_dir: options.B0Dir = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Write no PNG.")] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    models: options.Models = None,
    strict: options.Strict = False,
    fallback: options.Fallback = None,
    memory_mib: options.Memory = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """From scans to susceptibility maps: every scan of a BIDS folder, or one given as files.

    \b
    qsm run DATASET -o OUT
    qsm run --magnitude mag*.nii.gz --phase ph*.nii.gz --echo-times-ms 5,12,19 --b0-tesla 3 -o OUT
    """
    from qsm_runtime.cli.source import find, source

    if output is None:
        raise UsageError("no output: give a folder with -o")
    if region is not None and reference not in (None, "region"):
        raise UsageError(f"--region is for --reference region, not {reference}")

    how = options.runtime(device, precision, models, strict, fallback, memory_mib)
    from qsm_runtime.cli.ahead import compile_ahead
    from qsm_runtime.cli.choices import choose, split_mask
    from qsm_runtime.cli.formats import parse_formats
    from qsm_runtime.cli.job import Job, parse_save, reconstruct_one
    from qsm_runtime.kernels.threads import set_threads

    threads = set_threads(threads)
    mask_method, mask_file = split_mask(mask)
    chosen = choose(
        recipe,
        {
            "mask": mask_method,
            "offset": offset,
            "unwrap": unwrap,
            "field": field,
            "background": background,
            "inversion": inversion,
            "single_step": single_step,
            "reference": reference if region is None else "region",
        },
        options.settings(settings),
    )
    if chosen.steps["reference"].method == "region" and region is None:
        raise UsageError("reference method region needs its mask: give --region FILE")
    wanted = source(
        folder, select, magnitude, phase, real, imaginary, complex_, mask_file, echo_times_ms, b0_tesla,
        imaging_frequency_mhz, phase_scale, phase_sign, b0_dir, threads,
    )  # fmt: skip
    save_also, formats = parse_save(save or []), parse_formats(format_)
    job = Job(chosen, output, save_also, region, overwrite, not no_picture, threads, how, formats)
    compile_ahead(chosen)

    from qsm_runtime.cli.first_run import FirstRunCost
    from qsm_runtime.cli.progress import Progress

    start = time.perf_counter()
    pending = find(wanted)
    scans: list[dict[str, Any]] = []
    failures: list[QsmError] = []
    with FirstRunCost() as once:
        for number, scan in enumerate(pending, 1):
            with Progress(quiet) as progress:
                if folder is not None:
                    progress.say(f"{scan.name} ({number} of {len(pending)})")
                try:
                    done = reconstruct_one(job, scan.read, progress)
                except QsmError as error:
                    if len(pending) == 1:
                        raise
                    failures.append(error)
                    progress.error(f"{scan.name}: {error}")
                    scans.append({"name": scan.name, "error": failure(error)})
                    continue
            scans.append(done.document)
            if not as_json and not quiet:
                for path in done.document["outputs"].values():
                    print(path)
        spent = once.as_dict()
    seconds = time.perf_counter() - start
    code = failures[0].exit_code if failures else 0
    if failures:
        progress.error(f"{len(failures)} of {len(pending)} scans failed; exit code {code} is that of the first")
    progress.say(said(seconds, spent))
    if as_json:
        print_json(
            {
                "scans": scans,
                "exit_code": code,
                "threads": threads,
                "seconds": round(seconds, 3),
                "one_time_seconds": spent,
                "peak_memory_mib": peak_memory_mib(),
            }
        )
    return code


def failure(error: QsmError) -> dict[str, Any]:
    """An error for JSON."""
    return {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}


def said(seconds: float, one_time: dict[str, float]) -> str:
    """How long it took, and what of it a next run is spared."""
    from qsm_runtime.kernels.threads import KERNELS_LAST

    once = sum(one_time.values())
    if once < SHOWN_FROM_S:
        return f"done in {seconds:.1f} s"
    spent = f"compilation {one_time['compilation']:.1f} s, FFT planning {one_time['fft_planning']:.1f} s"
    if KERNELS_LAST:
        spent, what = f"{spent}; `qsm warmup` moves this to install time", "were one-time"
    else:
        what = "each start pays again"
    return f"done in {seconds:.1f} s, of which {once:.1f} s {what}: {spent}"
