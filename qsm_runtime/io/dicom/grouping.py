"""Planes sorted into stacks: by series, part and grid, repetitions told apart, echoes in separate series joined."""

from collections.abc import Callable, Hashable, Sequence

from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.geometry import plane_fault, same_plane
from qsm_runtime.io.dicom.stacks import Stack

START_DIGITS = 14  # YYYYMMDDHHMMSS


def stacks_of(frames: Sequence[Frame]) -> tuple[list[Stack], list[tuple[Frame, str]]]:
    """Stacks in the order of their series numbers, and planes that belong to none with the reason."""
    aside: list[tuple[Frame, str]] = []
    groups: dict[tuple, list[list[Frame]]] = {}
    for frame in frames:
        why = frame.why_not or plane_fault(frame)
        if why:
            aside.append((frame, why))
            continue
        instance = frame.instance
        series = (instance.study_uid, instance.series_uid, instance.sop_class, frame.part)
        grids = groups.setdefault(series, [])
        grid = next((g for g in grids if _same_grid(frame, g[0])), None)
        if grid is None:
            grids.append([frame])
        else:
            grid.append(frame)
    stacks = [stack for grids in groups.values() for grid in grids for stack in _repetitions(grid)]
    stacks = _joined(stacks)
    return sorted(stacks, key=lambda s: (s.series[0], s.first.instance.series_number or 0, s.part, s.repetition)), aside


def _same_grid(frame: Frame, other: Frame) -> bool:
    exact = (frame.orientation, frame.spacing, frame.instance.rows, frame.instance.columns)
    if exact == (other.orientation, other.spacing, other.instance.rows, other.instance.columns):
        return True
    return same_plane(frame, other)


def _repetitions(frames: list[Frame]) -> list[Stack]:
    """One stack, or one for each repetition where the header tells planes at one place apart."""
    whole = Stack(frames[0].part, tuple(frames))
    if not whole.any_twice:
        return [whole]
    keys: list[Callable[[Frame], Hashable]] = [
        lambda f: f.repetition[0],
        lambda f: f.repetition[1],
        lambda f: f.repetition[2],
        lambda f: f.instance.acquired,
    ]
    for key in keys:
        split: dict[Hashable, list[Frame]] = {}
        for frame in frames:
            split.setdefault(key(frame), []).append(frame)
        if len(split) < 2 or None in split:
            continue
        ordered = sorted(split.items(), key=lambda item: item[0])  # type: ignore[arg-type, return-value]
        parts = [Stack(whole.part, tuple(group), i + 1) for i, (_, group) in enumerate(ordered)]
        if not any(part.any_twice for part in parts):
            return parts
    return [whole]


def _joined(stacks: list[Stack]) -> list[Stack]:
    """Stacks of one echo each become one where a scanner puts every echo of an acquisition into its own series.

    Only what began in the same second, of one name, image type and grid, with every echo time once.
    """
    groups: dict[Hashable, list[Stack]] = {}
    for stack in stacks:
        instance = stack.first.instance
        alone = len(stack.echoes) == 1 and stack.first.echo_time_ms is not None and len(stack.start) == START_DIGITS
        key: Hashable = id(stack)
        if alone and not stack.repetition and not stack.difference_ms:
            named = (instance.description, instance.protocol, stack.first.words)
            key = (stack.series[0], stack.series[2], stack.part, stack.start, named, len(stack.levels_mm))
        groups.setdefault(key, []).append(stack)
    joined = []
    for group in groups.values():
        whole = Stack(group[0].part, tuple(frame for stack in group for frame in stack.frames))
        one_grid = all(_same_grid(stack.first, group[0].first) for stack in group)
        if len(group) > 1 and one_grid and len(whole.echoes) == len(group):
            joined.append(whole)
        else:
            joined += group
    return joined
