"""Which series make a scan: every phase with its magnitude, real with imaginary, and why these and no others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.io.dicom.geometry import SAME_PLACE_MM, heights, same_plane
from qsm_runtime.io.dicom.stacks import SAME_TIME_MS, Stack

PARTNER = {"phase": "magnitude", "real": "imaginary"}
CRITERIA = (  # what decides between candidates, the first that differs
    "echo times", "the same series", "slice positions", "frame of reference", "start of acquisition",
    "image type", "protocol name", "distance of series numbers", "order of series numbers",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Stacks by part that make one scan. reason: why these; missing: what they lack, each with its remedy."""

    parts: dict[str, Stack]
    reason: str
    missing: tuple[str, ...]


def choose(stacks: Sequence[Stack]) -> tuple[list[Choice], list[tuple[Stack, str]]]:
    """Scans among the stacks, and the stacks that belong to none with the reason."""
    choices = [_pair(stack, stacks) for stack in stacks if stack.part == "phase"]
    polar = {choice.parts["phase"].series for choice in choices if not choice.missing}
    for stack in stacks:
        if stack.part == "real" and stack.series not in polar:
            choices.append(_pair(stack, stacks))
    used = [stack for choice in choices for stack in choice.parts.values()]
    unused = []
    for stack in stacks:
        if any(stack is other for other in used):
            continue
        if stack.part in ("real", "imaginary") and stack.series in polar:
            why = "magnitude and phase of the same series need no further sums"
        elif stack.part == "imaginary":
            why = "no real images belong to it"
        else:
            why = _why_unused(stack, choices)
        unused.append((stack, why))
    return choices, unused


def _why_unused(stack: Stack, choices: Iterable[Choice]) -> str:
    for choice in choices:
        phase = choice.parts.get("phase")
        if phase is not None and phase.series[0] == stack.series[0] and same_plane(stack.first, phase.first):
            return f"{phase} has a closer magnitude" if "magnitude" in choice.parts else f"not that of {phase}"
    return "no phase belongs to it"


def _pair(stack: Stack, stacks: Sequence[Stack]) -> Choice:
    """The stack with its best partner, magnitude for phase and imaginary for real."""
    wanted = PARTNER[stack.part]
    possible, refused = [], []
    for other in stacks:
        if other.part != wanted or other.series[0] != stack.series[0] or other.series[2] != stack.series[2]:
            continue
        if stack.repetition and other.repetition and stack.repetition != other.repetition:
            continue
        if not same_plane(other.first, stack.first):
            refused.append(f"{other.label} has another grid")
        elif not stack.difference_ms and not _shared_times(stack, other):
            refused.append(f"{other.label} has other echo times")
        else:
            possible.append(other)
    if not possible:
        why = f" ({'; '.join(dict.fromkeys(refused))})" if refused else ""
        alone = f"{stack}: no {wanted} images belong to it{why}; transfer or export them"
        return Choice({stack.part: stack}, "", (*stack.faults(), alone))
    scored = sorted(((_score(stack, other), i) for i, other in enumerate(possible)))
    best = possible[scored[0][1]]
    parts = {wanted: best, stack.part: stack} if wanted == "magnitude" else {stack.part: stack, wanted: best}
    missing = [*best.faults(), *stack.faults()]
    if not missing:
        missing = [*_unpaired_echoes(stack, best), *_unpaired_planes(parts)]
    return Choice(parts, _reason(stack, best, scored), tuple(missing))


def _reason(stack: Stack, best: Stack, scored: Sequence[tuple[tuple, int]]) -> str:
    score = scored[0][0]
    agree = [name for name, value in zip(CRITERIA[:7], score, strict=False) if value == 0]
    reason = f"{best} for {stack}: agree in {', '.join(agree)}" if agree else f"{best} for {stack}: the only one"
    if len(scored) > 1:
        decided = next((name for name, a, b in zip(CRITERIA, score, scored[1][0], strict=True) if a != b), "order")
        reason += f"; of {len(scored)} candidates by {decided}"
    return reason


def _score(stack: Stack, other: Stack) -> tuple:
    """Lower is closer; one value for each of CRITERIA."""
    a, b = stack.first.instance, other.first.instance
    if stack.difference_ms:
        echoes = abs(len(other.echoes) - 2)
    else:
        echoes = len(stack.echoes) + len(other.echoes) - 2 * _shared_times(stack, other)
    distance = (a.series_number or 0) - (b.series_number or 0)
    return (
        echoes,
        stack.series != other.series,
        _levels_apart(stack, other),
        a.frame_of_reference != b.frame_of_reference,
        stack.start != other.start,
        len(stack.first.words ^ other.first.words),
        a.protocol != b.protocol,
        abs(distance),
        distance < 0,
    )


def _shared_times(stack: Stack, other: Stack) -> int:
    """Echoes of one that the other has too; by place in order where no time is stated."""
    times = [[echo.time_ms for echo in s.echoes] for s in (stack, other)]
    if None in times[0] or None in times[1]:
        return min(len(times[0]), len(times[1]))
    return sum(any(abs(t - u) <= SAME_TIME_MS for u in times[1] if u and t) for t in times[0] if t)


def _levels_apart(stack: Stack, other: Stack) -> int:
    if stack.levels_mm.shape != other.levels_mm.shape:
        return abs(len(stack.levels_mm) - len(other.levels_mm)) + 1
    there = heights(other.frames, stack.first)
    low, high = float(there.min()), float(there.max())
    return int(max(abs(low - stack.levels_mm[0]), abs(high - stack.levels_mm[-1])) > SAME_PLACE_MM)


def _unpaired_echoes(stack: Stack, other: Stack) -> list[str]:
    if stack.difference_ms:
        return []
    faults = []
    for one, two in ((stack, other), (other, stack)):
        for i, echo in enumerate(one.echoes):
            if echo.time_ms is None:
                there = i < len(two.echoes)
            else:
                there = any(e.time_ms is None or abs(e.time_ms - echo.time_ms) <= SAME_TIME_MS for e in two.echoes)
            if not there:
                faults.append(f"{two}: {echo} missing, {one} has it; transfer it again")
    return faults


def _unpaired_planes(parts: dict[str, Stack]) -> list[str]:
    """Planes that some echo of some part lacks or has elsewhere, against all others."""
    reference = next(iter(parts.values())).first
    columns = [(stack, echo, heights(echo.frames, reference)) for stack in parts.values() for echo in stack.echoes]
    every = np.sort(np.concatenate([h for _, _, h in columns]))
    union = every[np.concatenate([[True], np.diff(every) > SAME_PLACE_MM])]
    lacking = [(stack, echo, len(union) - len(h)) for stack, echo, h in columns if len(h) < len(union)]
    if lacking:
        return [
            f"{stack}: {echo} lacks {n} of {len(union)} slices; transfer the series again" for stack, echo, n in lacking
        ]
    first = np.array([frame.position for frame in columns[0][1].frames])
    tolerance_mm = 0.05 * min(reference.spacing)
    for stack, echo, _ in columns[1:]:
        shift = np.abs(np.array([frame.position for frame in echo.frames]) - first).max()
        if shift > tolerance_mm:
            return [f"{stack}: {echo} lies {shift:.3g} mm off the first echo; these are images of different planes"]
    return []
