"""Planes to complete scans: parts paired, echoes sorted, duplicates and gaps found. Nothing is guessed over.

Sets, repetitions, averages and phases of a cycle are scans of their own, each reconstructed by itself. Series are not
told apart where they need not be (a scanner may split one volume into several); where two of them hold the same
slices, as with and without distortion correction, the parameter `series` chooses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsm_runtime.errors import InputError
from qsm_runtime.io.dicom.geometry import SAME_PLACE_MM, SAME_SPACING, UNIT_TOLERANCE, levels, spacing_fault
from qsm_runtime.io.mrd.planes import Plane

PAIRS = (("phase", "magnitude"), ("real", "imaginary"), ("complex",))  # what a scan is made of; the first leads
LARGEST_NUMBER_OF_SCANS, LARGEST_NUMBER_OF_ECHOES = 16, 256


@dataclass(frozen=True)
class Scan:
    """One scan's planes by part, a tuple an echo, each sorted along the normal. number: of its scan counters."""

    parts: dict[str, tuple[tuple[Plane, ...], ...]]
    counters: tuple[int, int, int, int]
    warnings: tuple[str, ...]

    @property
    def main(self) -> tuple[tuple[Plane, ...], ...]:
        return next(self.parts[pair[0]] for pair in PAIRS if pair[0] in self.parts)

    @property
    def template(self) -> tuple[Plane, ...]:
        """The planes that maps are sent back in place of: of the first echo's magnitude, where there is one."""
        return self.parts.get("magnitude", self.main)[0]


def scans_of(planes: Sequence[Plane], series: str = "") -> list[Scan]:
    """The scans among planes, each complete. series: text that the series to be used has in its name or image type.

    Raises InputError naming what is missing, there twice or does not fit.
    """
    chosen = [p for p in planes if not series or _is_named(p, series)]
    if planes and not chosen:
        names = sorted({p.source.series_name for p in planes})
        raise InputError(f"no series fits {series!r}; here are {', '.join(names)}")
    by_scan: dict[tuple[int, int, int, int], list[Plane]] = {}
    for plane in chosen:
        by_scan.setdefault(plane.scan, []).append(plane)
    if len(by_scan) > LARGEST_NUMBER_OF_SCANS:
        raise InputError(f"{len(by_scan)} repetitions or sets, more than {LARGEST_NUMBER_OF_SCANS}: not one scan")
    return [_scan(by_scan[counters], counters) for counters in sorted(by_scan)]


def _is_named(plane: Plane, series: str) -> bool:
    wanted = series.upper()
    return wanted in plane.source.words or wanted in plane.source.series_name.upper()


def _scan(planes: list[Plane], counters: tuple[int, int, int, int]) -> Scan:
    warnings: list[str] = []
    by_part: dict[str, list[Plane]] = {}
    for plane in sorted(planes, key=lambda p: p.part):
        by_part.setdefault(plane.part, []).append(plane)
    if "unset" in by_part:
        if "phase" not in by_part or "magnitude" in by_part:
            raise InputError("images of no stated type; set image_type to 1 (magnitude) or 2 (phase)")
        warnings.append("images of no stated type were taken as the magnitude of the phase images")
        by_part["magnitude"] = [replace(p, part="magnitude") for p in by_part.pop("unset")]
    pair = next((pair for pair in PAIRS if pair[0] in by_part), None)
    if pair is None:
        raise InputError(
            f"{_listed(by_part)} but no phase (or real and imaginary, or complex) images; have the sequence "
            "reconstruct phase images too"
        )
    missing = [part for part in pair if part not in by_part]
    if missing:
        raise InputError(f"{_listed(by_part)} but no {missing[0]} images; have the sequence reconstruct them too")
    unused = [part for part in by_part if part not in pair]
    if unused:
        warnings.append(f"{', '.join(unused)} images were not used")
    _check_one_grid([p for part in pair for p in by_part[part]])
    parts = {part: _echoes(by_part[part], warnings) for part in pair}
    _check_complete(parts)
    return Scan(parts, counters, tuple(warnings))


def _listed(by_part: dict[str, list[Plane]]) -> str:
    return ", ".join(f"{len(planes)} {part} images" for part, planes in by_part.items())


def _check_one_grid(planes: list[Plane]) -> None:
    first = planes[0]
    for plane in planes[1:]:
        if plane.instance != first.instance:
            raise InputError(
                f"{plane} has {plane.instance.columns} x {plane.instance.rows} pixels, {first} has "
                f"{first.instance.columns} x {first.instance.rows}: not one scan; choose with the parameter series"
            )
        turned = max(abs(a - b) for a, b in zip(plane.orientation, first.orientation, strict=True))
        scaled = max(abs(a - b) / b for a, b in zip(plane.spacing, first.spacing, strict=True))
        if turned > UNIT_TOLERANCE or scaled > SAME_SPACING:
            raise InputError(f"{plane} and {first} differ in orientation or pixel size: not one scan")


def _heights(planes: Sequence[Plane]) -> np.ndarray:
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    return np.array([p.position for p in planes]) @ (normal / np.linalg.norm(normal))


def _echoes(planes: list[Plane], warnings: list[str]) -> tuple[tuple[Plane, ...], ...]:
    """Planes an echo, sorted along the normal; what came twice alike is dropped."""
    height = dict(zip(map(id, planes), _heights(planes), strict=True))
    by_echo: dict[int, list[Plane]] = {}
    for plane in planes:
        by_echo.setdefault(plane.echo, []).append(plane)
    if len(by_echo) > LARGEST_NUMBER_OF_ECHOES:
        raise InputError(f"{len(by_echo)} echoes, more than {LARGEST_NUMBER_OF_ECHOES}: not one scan")
    echoes = []
    for number in sorted(by_echo):
        ordered = sorted(by_echo[number], key=lambda p: height[id(p)])
        kept = ordered[:1]
        dropped = 0
        for plane in ordered[1:]:
            if height[id(plane)] - height[id(kept[-1])] > SAME_PLACE_MM:
                kept.append(plane)
            elif np.array_equal(plane.samples, kept[-1].samples):
                dropped += 1
            else:
                raise InputError(_twice(plane, kept[-1]))
        if dropped:
            warnings.append(f"{dropped} planes of {kept[0].part} echo {number + 1} came twice alike; one each was used")
        echoes.append(tuple(kept))
    return tuple(echoes)


def _twice(plane: Plane, other: Plane) -> str:
    names = plane.source.series_name, other.source.series_name
    if names[0] != names[1] or plane.source.series != other.source.series:
        which = f"in the series {names[0]!r} and {names[1]!r}" if names[0] != names[1] else "in two series"
        return f"{plane} is there twice, {which}; choose with the parameter series (a name, or a word such as ND)"
    return f"{plane} is there twice with different samples, at one place in one series"


def _check_complete(parts: dict[str, tuple[tuple[Plane, ...], ...]]) -> None:
    numbers = {part: [echo[0].echo for echo in echoes] for part, echoes in parts.items()}
    every = sorted({n for found in numbers.values() for n in found})
    for part, found in numbers.items():
        absent = [str(n + 1) for n in every if n not in found]
        if absent:
            raise InputError(f"{part}: echo {', '.join(absent)} of {len(every)} is missing")
    planes = [p for echoes in parts.values() for echo in echoes for p in echo]
    height = _heights(planes)
    places = levels(height)
    fault = spacing_fault(places, None)
    if fault:
        raise InputError(f"{fault}; the study did not come whole")
    start = 0
    for part, echoes in parts.items():
        for echo in echoes:
            own = height[start : start + len(echo)]
            start += len(echo)
            if len(own) < len(places):
                absent_at = [i + 1 for i, place in enumerate(places) if np.abs(own - place).min() > SAME_PLACE_MM]
                shown = ", ".join(map(str, absent_at[:3])) + (", ..." if len(absent_at) > 3 else "")
                raise InputError(
                    f"{part} echo {echo[0].echo + 1}: {len(absent_at)} of {len(places)} slices are missing "
                    f"(from below: {shown}); the study did not come whole"
                )


def as_frames(planes: Sequence[Plane]) -> Any:
    """Planes for qsm_runtime.io.dicom.geometry, which reads the same fields of both."""
    return planes
