"""Which scans a command works on, and how each is read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsm_runtime.cli.options import numbers
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from qsm_runtime.io import Acquisition


@dataclass(frozen=True)
class Source:
    """What the user named: a folder, or files by part, and what overrides their metadata."""

    folder: Path | None = None
    select: str | None = None
    magnitude: tuple[Path, ...] = ()
    phase: tuple[Path, ...] = ()
    real: tuple[Path, ...] = ()
    imaginary: tuple[Path, ...] = ()
    complex_: tuple[Path, ...] = ()
    mask: Path | None = None
    reading: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """A scan that was found, not yet read."""

    name: str
    read: Callable[[], "Acquisition"]


def source(
    folder: Path | None,
    select: str | None,
    magnitude: list[Path] | None,
    phase: list[Path] | None,
    real: list[Path] | None,
    imaginary: list[Path] | None,
    complex_: list[Path] | None,
    mask: Path | None,
    echo_times_ms: str | None,
    b0_tesla: float | None,
    imaging_frequency_mhz: float | None,
    phase_scale: str,
    phase_sign: str,
    b0_dir: str | None,
    threads: int | None,
) -> Source:
    """A command's options, checked against each other. Raises UsageError."""
    parts = {"magnitude": magnitude, "phase": phase, "real": real, "imaginary": imaginary, "complex_": complex_}
    files = {part: tuple(paths) for part, paths in parts.items() if paths}
    if folder is None and not files:
        raise UsageError("no input: give a BIDS folder, or files with --magnitude and --phase")
    if folder is not None and files:
        raise UsageError(f"give a folder or files by option, not both (folder {folder})")
    if folder is not None and folder.is_file():
        raise UsageError(f"{folder} is a file: INPUT is a folder; name files with --magnitude and --phase")
    if folder is None and select is not None:
        raise UsageError("--select chooses scans of a folder, and no folder is given")
    times_ms = numbers(echo_times_ms, "--echo-times-ms")
    reading = {
        "echo_times_s": None if times_ms is None else tuple(t / 1000 for t in times_ms),
        "b0_tesla": b0_tesla,
        "imaging_frequency_mhz": imaging_frequency_mhz,
        "phase_scale": phase_scale,
        "phase_sign": phase_sign,
        "b0_dir": numbers(b0_dir, "--b0-dir", 3),
        "threads": threads,
    }
    return Source(folder, select, **files, mask=mask, reading=reading)


def find(wanted: Source) -> list[Pending]:
    """The scans of a source, sorted by name. Raises InputError or UsageError where there is none."""
    from qsm_runtime import io

    if wanted.folder is None:

        def read() -> "Acquisition":
            return io.read_nifti(
                wanted.magnitude,
                wanted.phase,
                real=wanted.real,
                imaginary=wanted.imaginary,
                complex_=wanted.complex_,
                mask=wanted.mask,
                **wanted.reading,
            )

        first = (wanted.phase or wanted.real or wanted.complex_ or wanted.magnitude or wanted.imaginary)[0]
        return [Pending(first.name.removesuffix(".gz").removesuffix(".nii"), read)]
    found = io.find_acquisitions(wanted.folder)
    chosen = [scan for scan in found if wanted.select is None or matches(scan.name, wanted.select)]
    if not chosen:
        names = ", ".join(scan.name for scan in found)
        raise UsageError(f"--select {wanted.select} fits none of the scans in {wanted.folder}: {names}")

    def reader(scan: io.Found) -> Callable[[], "Acquisition"]:
        return lambda: scan.read(mask=wanted.mask, **wanted.reading)

    return [Pending(scan.name, reader(scan)) for scan in chosen]


def find_one(wanted: Source) -> Pending:
    """The single scan of a source. Raises UsageError where there are several."""
    found = find(wanted)
    if len(found) > 1:
        raise UsageError(f"{len(found)} scans here, choose one with --select: {', '.join(s.name for s in found)}")
    return found[0]


def matches(name: str, pattern: str) -> bool:
    """Whether every entity of `pattern` (* and ? allowed) is one of `name`'s: sub-1 is not sub-10."""
    entities = name.split("_")
    return all(any(fnmatch(entity, part) for entity in entities) for part in pattern.split("_"))
