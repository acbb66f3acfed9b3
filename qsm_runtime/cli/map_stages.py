"""`qsm background` and `qsm invert`: single stages that start from a field map."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import InputError, MetadataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from qsm_runtime.grid import Grid
    from qsm_runtime.io import Placement

UNITS = ("ppm", "Hz", "rad/s")
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A .nii.gz or .nii file.")]
Method = Annotated[str | None, typer.Option("--method", metavar="METHOD", help="Default: the default recipe's.")]
Field = Annotated[Path, typer.Argument(metavar="FIELD", help="A field map (.nii, .nii.gz).")]
Mask = Annotated[Path | None, typer.Option("--mask", metavar="FILE", help="Where the field is known. Needed.")]
Units = Annotated[
    str | None, typer.Option("--units", metavar="UNIT", help="ppm, Hz or rad/s, where no sidecar says which.")
]
Reliability = Annotated[
    Path | None, typer.Option("--reliability", metavar="FILE", help="1 / standard deviation of the field, 1/ppm.")
]
Magnitude = Annotated[
    Path | None, typer.Option("--magnitude", metavar="FILE", help="3-D magnitude, for methods that use its edges.")
]


@dataclass(frozen=True)
class Case:
    """A field map, read and in ppm, with what may come beside it."""

    field_ppm: "np.ndarray"
    inside: "np.ndarray"
    grid: "Grid"
    placement: "Placement"
    supply: dict[str, Any]
    inputs: list[Path]
    warnings: list[str]


def background(
    field_path: Field,
    output: Output = None,
    mask: Mask = None,
    mask_output: Annotated[
        Path | None,
        typer.Option("--mask-output", metavar="FILE", help="Where the local field is valid. Default: OUTPUT_mask."),
    ] = None,
    method: Method = None,
    settings: options.Settings = None,
    units: Units = None,
    b0_tesla: options.B0Tesla = None,
    b0_dir: options.B0Dir = None,
    reliability: Reliability = None,
    magnitude: Magnitude = None,
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
    """Local field in ppm, from a total field, and the mask in which it is valid."""
    from qsm_runtime.cli.stage_call import Calls, step_of

    how = options.runtime(device, precision, models, strict, None, memory_mib)
    step = step_of("background", method, options.settings(settings))
    output = _needed(output)
    mask_output = mask_output or _beside(output, "_mask")
    with _progress(quiet, threads) as progress:
        calls = Calls(progress, how)
        case = read_case(field_path, mask, units, b0_tesla, b0_dir, reliability, magnitude, calls)
        _check([output, mask_output], case.inputs, overwrite)
        local_ppm, valid = calls("background", step, (case.field_ppm, case.inside, case.grid), case.supply)
        _write({output: (local_ppm, "ppm"), mask_output: (valid, "")}, case, calls, overwrite, threads, {})
    return _tell([output, mask_output], calls, {}, as_json, quiet)


def invert(
    field_path: Field,
    output: Output = None,
    mask: Mask = None,
    method: Method = None,
    single_step: Annotated[
        str | None, typer.Option("--single-step", metavar="METHOD", help="FIELD is the total field; no --method.")
    ] = None,
    settings: options.Settings = None,
    reference: Annotated[
        str, typer.Option("--reference", metavar="METHOD", help="What becomes zero, such as whole_mask.")
    ] = "none",  # a stage alone; a level that the field told (kernels/images.py) is not to be lost
    region: Annotated[Path | None, typer.Option("--region", metavar="FILE", help="With --reference region.")] = None,
    units: Units = None,
    b0_tesla: options.B0Tesla = None,
    b0_dir: options.B0Dir = None,
    reliability: Reliability = None,
    magnitude: Magnitude = None,
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
    """Susceptibility in ppm, from a local field (or a total one, with --single-step)."""
    from qsm_runtime import io
    from qsm_runtime.cli.stage_call import Calls, step_of

    if single_step is not None and method is not None:
        raise UsageError("--method names an inversion of the local field, --single-step one of the total: give one")
    if (region is not None) != (reference == "region"):
        raise UsageError("--reference region and --region FILE belong together")
    how = options.runtime(device, precision, models, strict, fallback, memory_mib)
    stage = "inversion" if single_step is None else "single_step"
    step = step_of(stage, single_step or method, options.settings(settings))
    referencing = step_of("reference", reference)
    output = _needed(output)
    with _progress(quiet, threads) as progress:
        calls = Calls(progress, how)
        case = read_case(field_path, mask, units, b0_tesla, b0_dir, reliability, magnitude, calls)
        _check([output], case.inputs, overwrite)
        if region is not None:
            case.supply["region"], said = io.read_mask(region, like=field_path)
            for text in said:
                calls.warn(text)
        chi_ppm = calls(stage, step, (case.field_ppm, case.inside, case.grid), case.supply)
        chi_ppm, value_ppm, voxels = calls("reference", referencing, (chi_ppm, case.inside, case.grid), case.supply)
        told = {"ReferenceRegion": reference, "ReferenceValue": float(value_ppm), "ReferenceVoxels": int(voxels)}
        _write({output: (chi_ppm, "ppm")}, case, calls, overwrite, threads, told)
    return _tell([output], calls, told, as_json, quiet)


def _progress(quiet: bool, threads: int | None) -> Any:
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.kernels.threads import set_threads

    set_threads(threads)
    return Progress(quiet)


def _needed(output: Path | None) -> Path:
    if output is None:
        raise UsageError("no output: give a .nii.gz file with -o")
    return output


def _beside(path: Path, suffix: str) -> Path:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    return path.with_name(f"{stem}{suffix}{path.name[len(stem) :]}")


def _check(outputs: list[Path], inputs: list[Path], overwrite: bool) -> None:
    from qsm_runtime import io
    from qsm_runtime.io.atomic import check_writable

    check_writable([q for p in outputs for q in (p, io.sidecar_path(p))], inputs, overwrite)


def read_case(
    path: Path,
    mask: Path | None,
    units: str | None,
    b0_tesla: float | None,
    b0_dir: str | None,
    reliability: Path | None,
    magnitude: Path | None,
    calls: Any,
) -> Case:
    """The field in ppm inside its mask. Raises MetadataError where its unit is not known."""
    import numpy as np

    from qsm_runtime import io
    from qsm_runtime.units import TWO_PI, hz_per_ppm

    if mask is None:
        raise UsageError("no mask: give the voxels where the field is known with --mask FILE")
    field = io.read_map(path, b0_dir=options.numbers(b0_dir, "--b0-dir", 3))
    inside, said = io.read_mask(mask, like=path)
    for text in (*field.warnings, *said):
        calls.warn(text)
    unit = units or field.meta.get("Units")
    by_name = {known.lower(): known for known in UNITS}
    if unit is None:
        raise MetadataError(f"{path}: no sidecar says the unit of this field; give --units {', '.join(UNITS)}")
    if str(unit).lower() not in by_name:
        raise MetadataError(f"{path}: unit {unit!r} is none of {', '.join(UNITS)}; give the field's with --units")
    unit = by_name[str(unit).lower()]
    b0_tesla = b0_tesla or field.meta.get("MagneticFieldStrength")
    array = field.array
    if unit != "ppm":
        if b0_tesla is None:
            raise MetadataError(f"{path}: a field in {unit} needs the field strength; give --b0-tesla")
        per_ppm = hz_per_ppm(float(b0_tesla)) * (TWO_PI if unit == "rad/s" else 1.0)
        array = (array / np.float32(per_ppm)).astype(np.float32)
    if not np.isfinite(array[inside]).all():
        raise InputError(f"{path}: values inside the mask are not finite; take those voxels out of the mask")
    if not inside.any():
        raise InputError(f"{mask}: the mask is empty")
    array = np.where(inside, array, np.float32(0))
    supply: dict[str, Any] = {"b0_tesla": None if b0_tesla is None else float(b0_tesla)}
    inputs = [path, mask]
    for name, extra in (("reliability", reliability), ("magnitude", magnitude)):
        if extra is not None:
            found = io.read_map(extra, b0_dir=field.grid.b0_dir)
            if found.grid.shape != field.grid.shape:
                raise InputError(f"{extra}: shape {found.grid.shape}, but the field has {field.grid.shape}")
            supply[name] = found.array if name == "reliability" else found.array[None]
            inputs.append(extra)
    return Case(array, inside, field.grid, field.placement, supply, inputs, calls.warnings)


def _write(
    maps: dict[Path, tuple[Any, str]],
    case: Case,
    calls: Any,
    overwrite: bool,
    threads: int | None,
    told: dict[str, Any],
) -> None:
    from qsm_runtime import io

    record = {"Sources": [p.name for p in case.inputs], **told, **calls.record()}
    if case.supply["b0_tesla"] is not None:
        record["MagneticFieldStrength"] = case.supply["b0_tesla"]
    with calls.progress.step("write"):
        for path, (array, unit) in maps.items():
            fields = {"Units": unit, **record} if unit else record
            io.write_map(path, array, case.placement, fields, inputs=case.inputs, overwrite=overwrite, threads=threads)


def _tell(outputs: list[Path], calls: Any, told: dict[str, Any], as_json: bool, quiet: bool) -> int:
    if as_json:
        told = {"networks": calls.networks, "warnings": calls.warnings, **told}
        print_json({"outputs": outputs, "options": calls.methods, **told})
    elif not quiet:
        for path in outputs:
            print(path)
    return 0
