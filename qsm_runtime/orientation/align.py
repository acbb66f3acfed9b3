"""Fields of several scans brought into the first one's frame, and B0 turned with the head.

A voxel r of the first scan lies at inv(T_n A_n) T_1 A_1 r in scan n: A_n is scan n's voxel-to-world affine, T_n a rigid
transform from its world to a common one (the identity where registration was written into the affines). B0 is given in
each scan's own array axes and turns with them, since the magnet stays and the head moves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from qsm_runtime.errors import InputError, ReconstructionError, ShapeError

RIGID_TOLERANCE = 1e-3  # of R^T R from the identity
INSIDE = 0.99  # share of an interpolated value that must come from masked voxels


class Aligned(NamedTuple):
    """Fields float32 (n, x, y, z), the mask they share bool (x, y, z), B0 directions (n, 3), all in the first frame."""

    local_ppm: np.ndarray
    mask: np.ndarray
    b0_dirs: np.ndarray


def check_rigid(transform: np.ndarray, name: str) -> np.ndarray:
    """`transform` as float64 (4, 4). Raises InputError where it is anything but a rotation and a shift."""
    matrix = np.asarray(transform, float)
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        raise InputError(f"{name} must be a finite 4x4 matrix, got shape {matrix.shape}")
    rotation = matrix[:3, :3]
    rigid = np.abs(rotation.T @ rotation - np.eye(3)).max() <= RIGID_TOLERANCE and np.linalg.det(rotation) > 0
    if not rigid or np.abs(matrix[3] - (0, 0, 0, 1)).max() > RIGID_TOLERANCE:
        raise InputError(
            f"{name} is not rigid (it scales, shears or mirrors): register with six degrees of freedom, between world "
            "coordinates in mm"
        )
    return matrix


def unit_axes(affine: np.ndarray, name: str) -> np.ndarray:
    """Unit columns (3, 3) of a 4x4 affine. Raises InputError where they are not orthogonal."""
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if affine.shape != (4, 4) or not np.all(np.isfinite(affine)) or lengths.min() <= 0:
        raise InputError(f"{name} must be a finite, invertible 4x4 matrix")
    axes = columns / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > RIGID_TOLERANCE:
        raise InputError(f"{name} is sheared: only rigid alignment keeps the field's physics")
    return axes


def directions_in_first(
    affines: Sequence[np.ndarray], b0_dirs: np.ndarray, transforms: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """B0 of every scan in the array axes of the first: float64 (n, 3). Arguments and errors as for `align`."""
    transforms = [np.eye(4)] * len(affines) if transforms is None else transforms
    axes = [
        check_rigid(transform, f"transform {n}")[:3, :3] @ unit_axes(np.asarray(affine, float), f"affine {n}")
        for n, (transform, affine) in enumerate(zip(transforms, affines, strict=True))
    ]
    return np.array([axes[0].T @ own @ b0 for own, b0 in zip(axes, np.asarray(b0_dirs, float), strict=True)])


def align(
    local_ppm: list[np.ndarray],
    masks: list[np.ndarray],
    affines: list[np.ndarray],
    b0_dirs: np.ndarray,
    *,
    transforms: list[np.ndarray] | None = None,
) -> Aligned:
    """Resample every field on the first one's grid by linear interpolation among masked voxels.

    local_ppm, masks  n arrays (x, y, z), float32 and bool, shapes may differ between scans
    affines           n matrices (4, 4), voxel to world in mm
    b0_dirs           (n, 3), B0 in each scan's own array axes
    transforms        n rigid matrices (4, 4), each scan's world to the common one; None: the affines share a world
    Raises ShapeError, InputError where a matrix is sheared or not rigid, ReconstructionError where masks do not meet.
    """
    count, b0_dirs = len(local_ppm), np.asarray(b0_dirs, float)
    transforms = [np.eye(4)] * count if transforms is None else transforms
    if not (len(masks) == len(affines) == len(transforms) == count) or b0_dirs.shape != (count, 3):
        raise ShapeError(f"{count} fields need {count} masks, affines, transforms and B0 directions")
    directions = directions_in_first(affines, b0_dirs, transforms)
    world = [np.asarray(t, float) @ np.asarray(a, float) for t, a in zip(transforms, affines, strict=True)]
    shape = local_ppm[0].shape
    fields, shared = np.zeros((count, *shape), np.float32), np.ones(shape, bool)
    for n, (field, mask) in enumerate(zip(local_ppm, masks, strict=True)):
        if field.shape != mask.shape:
            raise ShapeError(f"mask {n} has shape {mask.shape}, expected {field.shape}")
        to_scan = np.linalg.inv(world[n]) @ world[0]
        if np.allclose(to_scan, np.eye(4), atol=1e-6) and field.shape == shape:
            fields[n], inside = np.where(mask, field, 0), mask
        else:
            points = np.indices(shape, np.float32).reshape(3, -1)
            points = (to_scan[:3, :3] @ points + to_scan[:3, 3:]).reshape(3, *shape)
            clean = np.where(mask, field, 0).astype(np.float32)
            share = map_coordinates(mask.astype(np.float32), points, order=1)
            inside = share > INSIDE
            value = map_coordinates(clean, points, order=1)
            fields[n] = np.where(inside, value / np.maximum(share, INSIDE), 0)
        shared &= inside
    if not shared.any():
        raise ReconstructionError("the masks do not overlap after alignment: check the affines and transforms")
    return Aligned(np.where(shared, fields, np.float32(0)), shared, directions)
