"""Single maps by path: fields, masks and susceptibility maps between stage commands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime.errors import InputError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.atomic import write_files
from qsm_runtime.io.image import Image, check_same_grid, grid_of, load, placement_of, stem_of
from qsm_runtime.io.mask_file import mask_of
from qsm_runtime.io.output import encode, json_bytes, sidecar_path


@dataclass(frozen=True)
class Map:
    """One real volume, float32 (x, y, z), in its frame; meta holds its sidecar."""

    array: np.ndarray
    grid: Grid
    placement: Placement
    path: Path
    meta: dict[str, Any]
    warnings: tuple[str, ...]


def read_map(path: Path | str, *, b0_dir: Sequence[float] | None = None) -> Map:
    """Read one 3-D map with its header's scale applied. Raises InputError, ShapeError or MetadataError."""
    image = load(path)
    if image.n_volumes != 1 or image.stored.dtype.kind == "c":
        raise InputError(f"{image.path}: one real 3-D volume is needed, got {image.n_volumes} volumes")
    warnings: list[str] = []
    grid = grid_of(image, b0_dir, warnings)
    array = image.volume(0, image.slope, image.intercept)
    return Map(array, grid, placement_of(image), image.path, image.meta, tuple(warnings))


def read_mask(path: Path | str, like: Path | str | Acquisition) -> tuple[np.ndarray, list[str]]:
    """A mask, bool (x, y, z), on the grid of the image at `like`, or of a scan, and warnings; see mask_of."""
    image = load(path)
    check_same_grid([_grid_only(like) if isinstance(like, Acquisition) else load(like), image])
    warnings: list[str] = []
    return mask_of(image, warnings), warnings


def write_map(
    path: Path | str,
    array: np.ndarray,
    placement: Placement,
    fields: Mapping[str, Any],
    *,
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    threads: int | None = None,
) -> None:
    """Write `array`, (x, y, z) or (echo, x, y, z), to a .nii or .nii.gz path with a sidecar of `fields`.

    float32; bool arrays as uint8. Raises OutputError, UsageError for another ending; see write_files.
    """
    path = Path(path)
    try:
        stem_of(path)
    except InputError as error:
        raise UsageError(f"{path}: give a name that ends in .nii.gz or .nii") from error
    dtype = "|u1" if array.dtype == bool else "<f4"
    files = {path: encode(array, placement, path, dtype, threads), sidecar_path(path): [json_bytes(fields)]}
    write_files(files, inputs=inputs, overwrite=overwrite)


def _grid_only(acquisition: Acquisition) -> Image:
    """A scan as an image that has a name and a place but no samples."""
    nothing = np.broadcast_to(np.uint8(0), (*acquisition.scan.grid.shape, 1))
    return Image(Path(acquisition.name), nothing, 1.0, 0.0, None, acquisition.affine, {})
