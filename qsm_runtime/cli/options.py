"""Options that several commands share, and what they become."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from qsm_runtime.networks.runtime import Runtime

FILE_OPTIONS = ("--magnitude", "--phase", "--real", "--imaginary", "--complex", "--fields", "--masks", "--transform")
# several files may follow each

Input = Annotated[
    Path | None,
    typer.Argument(metavar="[INPUT]", help="BIDS dataset, subject, session or anat folder; or name files by option."),
]
Select = Annotated[
    str | None, typer.Option("--select", metavar="ENTITIES", help="Which scans of INPUT, such as sub-1_ses-2 or run-*.")
]
Magnitude = Annotated[
    list[Path] | None, typer.Option("--magnitude", metavar="FILE...", help="One 4-D file, or one file an echo.")
]
Phase = Annotated[list[Path] | None, typer.Option("--phase", metavar="FILE...", help="As --magnitude.")]
Real = Annotated[list[Path] | None, typer.Option("--real", metavar="FILE...", help="With --imaginary.")]
Imaginary = Annotated[list[Path] | None, typer.Option("--imaginary", metavar="FILE...", help="With --real.")]
Complex = Annotated[list[Path] | None, typer.Option("--complex", metavar="FILE...", help="Complex images.")]
EchoTimes = Annotated[
    str | None, typer.Option("--echo-times-ms", metavar="MS,MS,...", help="Instead of the sidecars' EchoTime.")
]
B0Tesla = Annotated[float | None, typer.Option("--b0-tesla", metavar="T", help="Field strength.")]
ImagingFrequency = Annotated[
    float | None, typer.Option("--imaging-frequency-mhz", metavar="MHZ", help="Instead of the field strength.")
]
PhaseScale = Annotated[
    str,
    typer.Option(
        "--phase-scale", metavar="SCALE", help="auto, rad, mrad, siemens, pm4096, minmax, or SLOPE,INTERCEPT to rad."
    ),
]
PhaseSign = Annotated[
    str, typer.Option("--phase-sign", metavar="SIGN", help="auto (by vendor), + or -; + has phase grow with the field.")
]
B0Dir = Annotated[
    str | None,
    typer.Option("--b0-dir", metavar="X,Y,Z", help="B0 in array axes, for files whose header has no orientation."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="FORMATS", help="nifti, dicom (series, of DICOM input), parametric-map; or several: a,b."
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Default: all that this process may use.")]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="Of networks: auto, cpu, cuda[:N] or tensorrt[:N].")
]
Precision = Annotated[
    str, typer.Option("--precision", metavar="P", help="Of networks: f32, or lower by choice: tf32, f16, bf16.")
]
Models = Annotated[
    list[Path] | None, typer.Option("--models", metavar="FOLDER", help="Look for networks there first. Repeatable.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Data outside what a network was trained on is an error, not a warning.")
]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        metavar="METHOD",
        help="METHOD or STAGE=METHOD,...: instead of a network outside what it was trained on.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory-mib",
        metavar="N",
        help="What a network may use: beyond it the volume goes through in patches. Default: what is free.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but warnings and errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the method; `qsm methods` lists them."),
]


def spread(arguments: list[str]) -> list[str]:
    """`--phase a b c` as `--phase a --phase b --phase c`, so that shell patterns work."""
    out: list[str] = []
    current, values = "", 0
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            current, values = (argument if argument in FILE_OPTIONS else ""), 0
        elif current:
            values += 1
            if values > 1:
                out.append(current)
        out.append(argument)
    return out


def numbers(text: str | None, option: str, count: int | None = None) -> tuple[float, ...] | None:
    """Numbers separated by commas or spaces; None stays None. Raises UsageError naming the option."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if not found or (count and len(found) != count):
        what = f"{count} numbers" if count else "numbers"
        raise UsageError(f"{option} takes {what} separated by commas, got {text!r}")
    return found


def runtime(
    device: str,
    precision: str,
    models: list[Path] | None,
    strict: bool = False,
    fallback: str | None = None,
    memory_mib: float | None = None,
) -> "Runtime":
    """How networks are run. Raises UsageError."""
    from qsm_runtime.networks.runtime import Runtime

    return Runtime(device, precision, tuple(models or ()), strict, fallback or "", memory_mib)


def settings(texts: list[str] | None) -> dict[str, str]:
    """`option=value` texts as a dict. Raises UsageError."""
    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set takes option=value, got {text!r}")
        found[name.strip()] = value.strip()
    return found
