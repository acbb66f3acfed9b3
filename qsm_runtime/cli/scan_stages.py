"""`qsm mask`, `qsm unwrap` and `qsm field`: single stages that start from a scan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from qsm_runtime.networks.runtime import Runtime

Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A .nii.gz or .nii file.")]
Method = Annotated[str | None, typer.Option("--method", metavar="METHOD", help="Default: the default recipe's.")]
Mask = Annotated[
    str | None, typer.Option("--mask", metavar="METHOD|FILE", help="Default: the default recipe's method.")
]


def mask(
    folder: options.Input = None,
    output: Output = None,
    method: Method = None,
    settings: options.Settings = None,
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
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    models: options.Models = None,
    strict: options.Strict = False,
    memory_mib: options.Memory = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """A mask from magnitude and phase."""
    from qsm_runtime.cli.source import source
    from qsm_runtime.cli.stage_call import step_of

    wanted = source(
        folder, select, magnitude, phase, real, imaginary, complex_, None, echo_times_ms, b0_tesla,
        imaging_frequency_mhz, phase_scale, phase_sign, b0_dir, threads,
    )  # fmt: skip
    steps = {"mask": step_of("mask", method, options.settings(settings))}
    how = options.runtime(device, precision, models, strict, None, memory_mib)
    return _run("mask", wanted, steps, output, None, how, overwrite, threads, as_json, quiet)


def unwrap(
    folder: options.Input = None,
    output: Output = None,
    method: Method = None,
    settings: options.Settings = None,
    mask: Mask = None,
    offset: Annotated[
        str, typer.Option("--offset", metavar="METHOD", help="Remove the phase offset first (mcpc3ds).")
    ] = "none",
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
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    models: options.Models = None,
    strict: options.Strict = False,
    memory_mib: options.Memory = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Unwrapped phase in rad of every echo."""
    from qsm_runtime.cli.choices import split_mask
    from qsm_runtime.cli.source import source
    from qsm_runtime.cli.stage_call import step_of

    mask_method, mask_file = split_mask(mask)
    wanted = source(
        folder, select, magnitude, phase, real, imaginary, complex_, mask_file, echo_times_ms, b0_tesla,
        imaging_frequency_mhz, phase_scale, phase_sign, b0_dir, threads,
    )  # fmt: skip
    steps = {
        "mask": step_of("mask", mask_method),
        "offset": step_of("offset", offset),
        "unwrap": step_of("unwrap", method, options.settings(settings)),
    }
    how = options.runtime(device, precision, models, strict, None, memory_mib)
    return _run("unwrap", wanted, steps, output, None, how, overwrite, threads, as_json, quiet)


def field(
    folder: options.Input = None,
    output: Output = None,
    method: Method = None,
    settings: options.Settings = None,
    mask: Mask = None,
    offset: Annotated[str | None, typer.Option("--offset", metavar="METHOD", help="Phase offset method.")] = None,
    unwrap: Annotated[str | None, typer.Option("--unwrap", metavar="METHOD", help="Unwrapping method.")] = None,
    reliability: Annotated[
        Path | None, typer.Option("--reliability", metavar="FILE", help="Also write 1 / standard deviation, 1/ppm.")
    ] = None,
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
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    models: options.Models = None,
    strict: options.Strict = False,
    memory_mib: options.Memory = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Total field in ppm, from wrapped phase."""
    from qsm_runtime.cli.choices import split_mask
    from qsm_runtime.cli.source import source
    from qsm_runtime.cli.stage_call import step_of

    mask_method, mask_file = split_mask(mask)
    wanted = source(
        folder, select, magnitude, phase, real, imaginary, complex_, mask_file, echo_times_ms, b0_tesla,
        imaging_frequency_mhz, phase_scale, phase_sign, b0_dir, threads,
    )  # fmt: skip
    steps = {
        "mask": step_of("mask", mask_method),
        "offset": step_of("offset", offset),
        "unwrap": step_of("unwrap", unwrap),
        "field": step_of("field", method, options.settings(settings)),
    }
    how = options.runtime(device, precision, models, strict, None, memory_mib)
    return _run("field", wanted, steps, output, reliability, how, overwrite, threads, as_json, quiet)


def _run(
    last: str,
    wanted: Any,
    steps: dict[str, Any],
    output: Path | None,
    reliability: Path | None,
    how: "Runtime",
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """The stages up to `last` on one scan, and their result written."""
    if output is None:
        raise UsageError("no output: give a .nii.gz file with -o")
    from qsm_runtime import io
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.cli.source import find_one
    from qsm_runtime.cli.stage_call import Calls
    from qsm_runtime.errors import ReconstructionError
    from qsm_runtime.io.atomic import check_writable
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.recipe import Step

    set_threads(threads)
    with Progress(quiet) as progress:
        calls = Calls(progress, how)
        pending = find_one(wanted)
        with progress.step("read"):
            acquisition = pending.read()
        for text in acquisition.warnings:
            progress.warn(text)
        outputs = [output] if reliability is None else [output, reliability]
        paths = [q for p in outputs for q in (p, io.sidecar_path(p))]
        check_writable(paths, acquisition.source_paths, overwrite)
        scan = acquisition.scan
        supply = {"echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla, "magnitude": scan.magnitude}
        inside = acquisition.mask
        if inside is None:
            inside = calls("mask", steps["mask"], (scan.magnitude, scan.phase_rad, scan.grid), {})
        inside = inside & scan.finite
        if not inside.any():
            raise ReconstructionError("the mask is empty; give one with --mask, or another mask method")
        made: list[tuple[Path, Any, str]] = [(output, inside, "")]
        if last != "mask":
            phase_rad = scan.phase_rad
            if scan.n_echoes == 1 and steps["offset"].method != "none":
                calls.warn("a single echo: its phase offset cannot be told from the field and is left in")
                steps["offset"] = Step("none")
            phase_rad = calls("offset", steps["offset"], (phase_rad, inside, scan.grid), supply)
            phase_rad = calls("unwrap", steps["unwrap"], (phase_rad, inside, scan.grid), supply)
            made = [(output, phase_rad, "rad")]
        if last == "field":
            arguments = (phase_rad, scan.magnitude, scan.echo_times_s, scan.b0_tesla, inside, scan.grid)
            total_ppm, weight = calls("field", steps["field"], arguments, supply)
            made = [(output, total_ppm, "ppm")] + ([(reliability, weight, "1/ppm")] if reliability else [])
        fields = {
            "Sources": list(acquisition.sources),
            "EchoTime": list(scan.echo_times_s),
            "MagneticFieldStrength": scan.b0_tesla,
            "PhaseScaling": acquisition.phase_scaling,
            "PhaseSign": acquisition.phase_sign,
            **calls.record(),
        }
        fields["Warnings"] = [*acquisition.warnings, *calls.warnings]
        with progress.step("write"):
            for path, array, units in made:
                own = {"Units": units} if units else {}
                io.write_map(
                    path, array, acquisition.placement, {**own, **fields}, inputs=acquisition.source_paths,
                    overwrite=overwrite, threads=threads,
                )  # fmt: skip
    if as_json:
        said = {k.lower(): v for k, v in fields.items() if k in ("Options", "Warnings")}
        print_json({"outputs": outputs, "networks": calls.networks, **said})
    elif not quiet:
        for path in outputs:
            print(path)
    return 0
