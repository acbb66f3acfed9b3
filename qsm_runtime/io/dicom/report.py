"""What a folder of DICOM files holds, what of it would be used, and what is missing: nothing of it names a patient."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsm_runtime.errors import InputError
from qsm_runtime.io.dicom.find import FoundDicom, scans_of
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.read import read_folder
from qsm_runtime.io.dicom.stacks import Stack, series_label

UNNAMED = "-"


@dataclass(frozen=True)
class Series:
    """One part of one series. use: the scan that takes it, or why none does."""

    series: str
    description: str
    part: str
    images: int
    echo_times_ms: tuple[float, ...]
    matrix: tuple[int, int, int] | None
    voxel_mm: tuple[float, float, float] | None
    use: str


@dataclass(frozen=True)
class Contents:
    """Everything in a folder. aside: files that are no MR image of use, reason -> how many; copies: used once."""

    scans: list[FoundDicom]
    series: list[Series]
    aside: dict[str, int] = field(default_factory=dict)
    copies: int = 0

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "scans": [_scan(scan) for scan in self.scans],
            "series": [vars(series) for series in self.series],
            "set_aside": self.aside,
            "copies": self.copies,
        }


def inspect_folder(folder: Path | str, threads: int | None = None) -> Contents:
    """What the DICOM files in a folder and below are. Raises InputError where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    planes = read_folder(folder, threads or os.cpu_count() or 1)
    scans, unused, loose = scans_of(planes)
    series = [
        _series(stack, f"{scan.name}{'' if not scan.missing else ' (incomplete)'}")
        for scan in scans
        for stack in scan.stacks.values()
    ]
    series += [_series(stack, f"not used: {why}") for stack, why in unused]
    series += _loose(loose)
    unique = list(dict.fromkeys(series))
    aside = {why: len(names) for why, names in planes.aside.items()}
    return Contents(scans, unique, aside, planes.copies)


def _series(stack: Stack, use: str) -> Series:
    instance, frame = stack.first.instance, stack.first
    levels = stack.levels_mm
    step = float(levels[-1] - levels[0]) / (len(levels) - 1) if len(levels) > 1 else frame.slice_mm or 0.0
    return Series(
        stack.label,
        instance.description or UNNAMED,
        f"{stack.part}{f' {stack.repetition}' if stack.repetition else ''}",
        len(stack.frames),
        tuple(echo.time_ms for echo in stack.echoes if echo.time_ms is not None),
        (instance.columns, instance.rows, len(levels)),
        (frame.spacing[1], frame.spacing[0], round(step, 4)),
        use,
    )


def _loose(frames: list[tuple[Frame, str]]) -> list[Series]:
    """Planes in no stack, one line for each series and reason."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for frame, why in frames:
        key = (series_label(frame), frame.instance.description or UNNAMED, frame.part or UNNAMED, why)
        counts[key] = counts.get(key, 0) + 1
    return [
        Series(label, description, part, n, (), None, None, f"not used: {why}")
        for (label, description, part, why), n in counts.items()
    ]


def _scan(scan: FoundDicom) -> dict[str, Any]:
    first = scan.main.first.instance
    return {
        "name": scan.name,
        "complete": not scan.missing,
        "missing": list(scan.missing),
        "reason": scan.reason,
        "uses": [str(stack) for stack in scan.stacks.values()],
        "echo_times_ms": [echo.time_ms for echo in scan.main.echoes],
        "phase_difference": bool(scan.main.difference_ms),
        "manufacturer": first.manufacturer,
        "imaging_frequency_mhz": first.frequency_mhz,
        "field_strength_t": first.field_tesla,
    }
