"""The orientations of `qsm orient`: local fields from files or made from scans, and how each one's head was turned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import io, pipeline, recipe, stages
from qsm_runtime.cli.map_stages import Case, read_case
from qsm_runtime.cli.source import Pending
from qsm_runtime.cli.stage_call import Calls
from qsm_runtime.errors import InputError, UsageError
from qsm_runtime.io import Placement
from qsm_runtime.orientation.align import check_rigid, unit_axes
from qsm_runtime.recipe import Recipe, Step

UNUSED = ("inversion", "single_step", "reference")  # stages after the local field


@dataclass(frozen=True)
class Frame:
    """Where one orientation was scanned: what is known of it before anything is computed."""

    name: str
    shape: tuple[int, int, int]
    placement: Placement
    b0_dir: np.ndarray
    inputs: tuple[Path, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Orientation:
    """A frame, and the function that gives its local field (float32, x y z, ppm), mask and fields for a sidecar."""

    frame: Frame
    field: Callable[[], tuple[np.ndarray, np.ndarray, dict[str, Any]]]


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def fields_of(
    fields: Sequence[Path],
    masks: Sequence[Path],
    units: str | None,
    b0_tesla: float | None,
    b0_dirs: np.ndarray | None,
    calls: Calls,
) -> list[Orientation]:
    """Local fields by path, each with its mask. Raises UsageError, InputError, MetadataError."""
    if not masks:
        raise UsageError("no masks: give one for each field with --masks FILE..., or one for all")
    if len(masks) not in (1, len(fields)):
        raise UsageError(f"{len(fields)} fields but {len(masks)} masks: give one for each field, or one for all")
    found = []
    for n, path in enumerate(fields):
        b0_dir = None if b0_dirs is None else ",".join(repr(b) for b in b0_dirs[n].tolist())
        case = read_case(path, masks[n if len(masks) > 1 else 0], units, b0_tesla, b0_dir, None, None, calls)
        frame = Frame(
            stem(path), case.grid.shape, case.placement, np.array(case.grid.b0_dir), tuple(case.inputs),
            tuple(p.name for p in case.inputs),
        )  # fmt: skip
        found.append(Orientation(frame, partial(_as_read, case)))
    return found


def _as_read(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    return case.field_ppm, case.inside, {}


def scans_of(pending: Sequence[Pending], masks: Sequence[Path], chosen: Recipe, calls: Calls) -> list[Orientation]:
    """Scans whose local fields `chosen` makes. Each is read once now, so that what cannot work shows before the long
    part, and again when its turn comes, so that one at a time is in memory. Raises what reading raises."""
    if masks and len(masks) != len(pending):
        raise UsageError(f"{len(pending)} scans but {len(masks)} masks: give one for each")
    found = []
    for n, one in enumerate(pending):
        acquisition = one.read()
        grid = acquisition.scan.grid
        frame = Frame(
            acquisition.name, grid.shape, acquisition.placement, np.array(grid.b0_dir), acquisition.source_paths,
            acquisition.sources,
        )  # fmt: skip
        said = f"{one.name} ({n + 1} of {len(pending)})"
        found.append(Orientation(frame, partial(_local_field, one, masks[n] if masks else None, chosen, calls, said)))
    return found


def local_recipe(name: str, mask: str | None, background: str | None, settings: dict[str, str]) -> Recipe:
    """The recipe `name` up to the local field: its own background method, or another. Raises UsageError."""
    loaded, default = recipe.load(name), recipe.load("default")
    own = {stage: step for stage, step in loaded.steps.items() if stage not in UNUSED}
    last = {"inversion": Step("tkd"), "reference": Step("none")}  # a fraction of a second, and its map is dropped
    steps = {"background": default.steps["background"], **own, **last}
    chosen = Recipe(loaded.name, steps, loaded.description)
    for stage, method in (("mask", mask), ("background", background)):
        if method is not None:
            chosen = chosen.with_method(stage, method)
    for key, value in settings.items():
        stage, _, option = key.partition(".")
        known = [s for s in stages.STAGES if s not in UNUSED]
        if not option or stage not in known:
            raise UsageError(f"--set takes stage.option=value with a stage of {', '.join(known)}; got {key}={value}")
        chosen = chosen.with_option(stage, option, value)
    return chosen


def _local_field(
    pending: Pending, mask: Path | None, chosen: Recipe, calls: Calls, said: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A scan taken through the chain up to its local field. Raises what the stages raise."""
    progress = calls.progress
    progress.say(said)
    with progress.step("read"):
        acquisition = pending.read()
        texts, inside = list(acquisition.warnings), acquisition.mask
        if mask is not None:
            inside, about = io.read_mask(mask, like=acquisition)
            texts += about

    def report(event: pipeline.Event) -> None:
        if event.stage not in UNUSED:
            progress.event(event)

    result = pipeline.reconstruct(acquisition.scan, chosen, mask=inside, extras=("local",), progress=report)
    for text in (*texts, *result.warnings):
        calls.warn(f"{pending.name}: {text}")
    if result.local_ppm is None:
        raise UsageError(f"recipe {chosen.name} makes no local field: choose a method with --background")
    made = {
        "Recipe": chosen.name,
        "Options": {k: v for k, v in result.record["recipe"].items() if isinstance(v, dict) and k not in UNUSED},
        "ChosenParameters": {k: v for k, v in result.record["chosen"].items() if k.split(".")[0] not in UNUSED},
        "PhaseScaling": acquisition.phase_scaling,
        "PhaseSign": acquisition.phase_sign,
        "MagneticFieldStrength": acquisition.scan.b0_tesla,
        "EchoTime": list(acquisition.scan.echo_times_s),
    }
    return result.local_ppm, result.mask, made


def read_transforms(paths: Sequence[Path], count: int) -> list[np.ndarray] | None:
    """Rigid 4x4 matrices from text files, the first scan's the identity where only the others' are given."""
    if not paths:
        return None
    if len(paths) not in (count, count - 1):
        raise UsageError(
            f"{len(paths)} transforms for {count} orientations: give one for each, or one for each but the first"
        )
    found = [check_rigid(_numbers(path, "a 4x4 matrix", lambda a: a.shape == (4, 4)), str(path)) for path in paths]
    return [np.eye(4)] * (count - len(paths)) + found


def read_directions(path: Path | None, count: int) -> np.ndarray | None:
    """B0 directions (n, 3) in each field's own array axes, from a text file with a line an orientation."""
    if path is None:
        return None
    found = _numbers(path, "three numbers a line", lambda a: a.ndim == 2 and a.shape[1] == 3)
    if len(found) != count:
        raise InputError(f"{path}: {len(found)} directions for {count} orientations")
    norms = np.linalg.norm(found, axis=1)
    if norms.min() == 0:
        raise InputError(f"{path}: line {int(norms.argmin()) + 1} is no direction")
    return np.asarray(found / norms[:, None])


def _numbers(path: Path, wanted: str, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    try:
        found = np.loadtxt(path, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {wanted} is needed as plain text ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not fits(found) or not np.isfinite(found).all():
        raise InputError(f"{path}: {wanted} is needed, got numbers of shape {found.shape}")
    return np.asarray(found, float)


def voxel_on_voxel(frames: Sequence[Frame], transforms: list[np.ndarray] | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Affines and B0 directions of fields that lie on one array grid already.

    Transforms turn B0 alone; without them each frame's own B0 stands. Raises InputError where grids differ.
    """
    first = frames[0]
    axes = [unit_axes(f.placement.affine, f.name) for f in frames]
    sizes = [np.linalg.norm(f.placement.affine[:3, :3], axis=0) for f in frames]
    for frame, size, own in zip(frames, sizes, axes, strict=True):
        if frame.shape != first.shape or np.abs(size / sizes[0] - 1).max() > 1e-3:
            raise InputError(
                f"{frame.name}: shape {frame.shape} and voxels of {tuple(size.round(4).tolist())} mm, but {first.name} "
                f"has {first.shape} and {tuple(sizes[0].round(4).tolist())}: not voxel on voxel; resample it, or give "
                "--align world"
            )
        if np.linalg.det(own) * np.linalg.det(axes[0]) < 0:
            raise InputError(f"{frame.name}: its arrays are mirrored against {first.name}: not voxel on voxel")
    b0_dirs = np.array([f.b0_dir for f in frames])
    if transforms is not None:
        world = [t[:3, :3] @ a @ b for t, a, b in zip(transforms, axes, b0_dirs, strict=True)]
        b0_dirs = np.array([(transforms[0][:3, :3] @ axes[0]).T @ b for b in world])
    return [first.placement.affine] * len(frames), b0_dirs
