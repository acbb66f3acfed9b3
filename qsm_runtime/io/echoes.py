"""Which volume is which echo: order, echo times and pairing, from sidecars and names; never silently mis-paired."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.errors import InputError, MetadataError, ShapeError
from qsm_runtime.io.image import Image, stem_of
from qsm_runtime.io.sidecar import number

ECHO_IN_NAME = re.compile(r"(?:^|_)(?:echo-?|e)0*(\d+)(?=_|$|[a-z]$)", re.IGNORECASE)
SAME_TIME_S = 2e-5  # echo times of one echo's files differ by less (rounding in sidecars)


@dataclass(frozen=True)
class Echo:
    """One volume of an image with what is known of its echo."""

    image: Image
    index: int
    time_s: float | None
    number: int | None

    def __str__(self) -> str:
        volume = f" volume {self.index + 1}" if self.image.n_volumes > 1 else ""
        return self.image.name + volume


def echoes_of(images: Sequence[Image], part: str) -> list[Echo]:
    """Volumes of one part ("phase", ...) in order of echo time, else of echo number, else as given.

    Raises MetadataError where two volumes claim the same echo or times and numbers disagree on the order.
    """
    echoes = [echo for image in images for echo in _volumes(image)]
    times = [e.time_s for e in echoes]
    numbers = [e.number for e in echoes]
    order = numbers if None not in numbers else _varying_numbers(images) if len(echoes) == len(images) else None
    if None not in times:
        by_time = np.argsort(np.array(times, float), kind="stable")
        _distinct([times[i] for i in by_time], [echoes[i] for i in by_time], part, "echo time", SAME_TIME_S)
        if None not in numbers and any(np.diff(np.array(numbers, int)[by_time]) <= 0):
            raise MetadataError(f"{part}: echo numbers and echo times disagree on the order: {_listed(echoes)}")
        return [echoes[i] for i in by_time]
    if order is not None and None not in order:
        by_number = np.argsort(np.array(order, int), kind="stable")
        ordered = [echoes[i] for i in by_number]
        _distinct([order[i] for i in by_number], ordered, part, "echo number", 0)
        return ordered
    if len(images) > 1 and len(echoes) != len(images):
        raise MetadataError(
            f"{part}: the order of several 4-D files is unknown; give one file, or sidecars with EchoTime"
        )
    return echoes


def _volumes(image: Image) -> list[Echo]:
    stated = image.meta.get("EchoTime")
    if isinstance(stated, list):
        if len(stated) != image.n_volumes:
            raise MetadataError(f"{image.name}: {len(stated)} echo times in its sidecar for {image.n_volumes} volumes")
        times = [number({"EchoTime": t}, "EchoTime", image.name) for t in stated]
    elif image.n_volumes == 1:
        times = [number(image.meta, "EchoTime", image.name)]
    else:  # one echo time cannot describe several echoes
        times = [None] * image.n_volumes
    if image.n_volumes > 1:
        return [Echo(image, i, t, None) for i, t in enumerate(times)]
    return [Echo(image, 0, times[0], _echo_number(image))]


def _echo_number(image: Image) -> int | None:
    named = ECHO_IN_NAME.findall(stem_of(image.path))
    stated = number(image.meta, "EchoNumber", image.name)
    if named and stated is not None and int(named[-1]) != int(stated):
        raise MetadataError(f"{image.name}: the name says echo {named[-1]}, the sidecar says EchoNumber {stated:g}")
    if named:
        return int(named[-1])
    return None if stated is None else int(stated)


def _varying_numbers(images: Sequence[Image]) -> list[int] | None:
    """The one integer that differs between file names that are otherwise equal (mag1, mag2, ... mag10)."""
    fields = [re.split(r"(\d+)", stem_of(image.path)) for image in images]
    if len(images) < 2 or len({len(f) for f in fields}) > 1:
        return None
    varying = [i for i in range(len(fields[0])) if len({f[i] for f in fields}) > 1]
    if len(varying) != 1 or varying[0] % 2 == 0:
        return None
    return [int(f[varying[0]]) for f in fields]


def _distinct(values: Sequence, echoes: Sequence[Echo], part: str, what: str, tolerance: float) -> None:
    for a, b, echo, other in zip(values, values[1:], echoes, echoes[1:], strict=False):
        if b - a <= tolerance:
            raise MetadataError(f"{part}: {echo} and {other} have the same {what} ({a:g}); each must be given once")


def pair(phase: Sequence[Echo], other: Sequence[Echo], part: str) -> None:
    """Raise ShapeError or MetadataError unless the echoes of `other` match those of the phase one to one."""
    if len(phase) != len(other):
        raise ShapeError(
            f"{len(phase)} phase echoes ({_listed(phase)}) but {len(other)} {part} echoes ({_listed(other)}); "
            "give both parts of each echo"
        )
    for a, b in zip(phase, other, strict=True):
        if a.time_s is not None and b.time_s is not None and abs(a.time_s - b.time_s) > SAME_TIME_S:
            raise MetadataError(
                f"{a} has echo time {a.time_s:g} s, but {part} {b} has {b.time_s:g} s; pair the files by echo"
            )
        if a.number is not None and b.number is not None and a.number != b.number:
            raise MetadataError(f"{a} is echo {a.number}, but {part} {b} is echo {b.number}; pair the files by echo")


def check_pairing_known(parts: Mapping[str, tuple[Sequence[Image], Sequence[Echo]]]) -> None:
    """Refuse a pairing by order where one part was reordered and another could not be."""
    moved = [p for p, (images, echoes) in parts.items() if [e.image for e in echoes if e.index == 0] != list(images)]
    unknown = [
        p
        for p, (images, echoes) in parts.items()
        if len(images) > 1 and any(e.time_s is None and e.number is None for e in echoes)
        if _varying_numbers(images) is None
    ]
    if moved and unknown:
        raise MetadataError(
            f"the {moved[0]} files were given out of echo order and the {unknown[0]} files state no echo; "
            "give all in order of echo time, or sidecars with EchoTime"
        )


def echo_times(
    parts: Mapping[str, Sequence[Echo]], echo_times_s: Sequence[float] | None
) -> tuple[tuple[float, ...], list[str]]:
    """Echo times in s and warnings: the flag's, else the sidecars'. Raises MetadataError where they are missing."""
    stated: list[float | None] = [
        next((e.time_s for e in same if e.time_s is not None), None) for same in zip(*parts.values(), strict=True)
    ]
    if echo_times_s is None:
        missing = [str(parts[next(iter(parts))][i]) for i, t in enumerate(stated) if t is None]
        if missing:
            raise MetadataError(f"no echo time for {', '.join(missing)}; give --echo-times-ms, or sidecars")
        return tuple(t for t in stated if t is not None), []
    given = tuple(float(t) for t in echo_times_s)
    if len(given) != len(stated):
        raise MetadataError(f"{len(stated)} echoes but {len(given)} echo times given; give one for each echo")
    warnings = [
        f"echo time {flag:g} s of echo {i + 1} overrides {time:g} s of its sidecar"
        for i, (flag, time) in enumerate(zip(given, stated, strict=True))
        if time is not None and abs(flag - time) > SAME_TIME_S
    ]
    return given, warnings


def phase_difference_time(
    phase: Sequence[Echo], magnitude: Sequence[Echo], echo_times_s: Sequence[float] | None
) -> float | None:
    """TE2 - TE1 in s where the one phase volume is the difference of two echoes, None where it is a plain echo.

    Raises MetadataError where it must be a difference but its two echo times are nowhere stated.
    """
    if len(phase) != 1:
        return None
    image = phase[0].image
    first, second = (number(image.meta, f"EchoTime{i}", image.name) for i in (1, 2))
    guess = " ".join(str(g) for g in np.atleast_1d(image.meta.get("BidsGuess", "")))
    named = stem_of(image.path).endswith("_phasediff") or guess.endswith("_phasediff")
    if first is None and second is None and not named:
        return None
    if echo_times_s is not None and len(echo_times_s) == 1:
        return float(echo_times_s[0])
    if echo_times_s is not None and len(echo_times_s) == 2:
        first, second = (float(t) for t in echo_times_s)
    elif (first is None or second is None) and len(magnitude) == 2:
        first, second = magnitude[0].time_s, magnitude[1].time_s
    if first is None or second is None:
        raise MetadataError(
            f"{image.name} is a phase difference but EchoTime1 and EchoTime2 are not stated; give --echo-times-ms"
        )
    if second <= first:
        raise MetadataError(
            f"{image.name}: phase difference with EchoTime2 {second:g} s not after EchoTime1 {first:g} s"
        )
    if len(magnitude) > 2:
        raise InputError(
            f"{image.name} is a phase difference of two echoes, but {len(magnitude)} magnitudes were given"
        )
    return second - first


def _listed(echoes: Sequence[Echo]) -> str:
    return ", ".join(str(e) for e in echoes)
