"""Where planes lie, and the volume they make: array, affine and back.

Planes are sorted along the normal n = row x column of ImageOrientationPatient, never by name or number. The array
is the one dcm2niix writes: x along the row, y against the column (rows flipped), z along n; a 3-D acquisition is
turned to the axes order and signs nearest to right, anterior, superior. DICOM's patient axes point left,
posterior, superior (PS3.3 C.7.6.2.1.1); the affine's world is RAS.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.io.dicom.frames import Frame

UNIT_TOLERANCE = 1e-3  # direction cosines: length, angle between them, and from plane to plane
SAME_PLACE_MM = 0.01  # rounding of a position in text
SAME_SPACING = 1e-3  # relative
EVEN = 0.02  # share of the slice spacing by which neighbours may lie off
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """From planes (slice, row, column) to the array (x, y, z): axes of (column, row, slice), then which to flip."""

    axes: Triple
    flips: tuple[bool, bool, bool]

    def array(self, planes: np.ndarray) -> np.ndarray:
        """A view (x, y, z) of planes (slice, row, column)."""
        turned = planes.transpose(2, 1, 0).transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def planes(self, array: np.ndarray) -> np.ndarray:
        """A view (slice, row, column) of an array (x, y, z): the way back."""
        turned = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return turned.transpose(np.argsort(self.axes)).transpose(2, 1, 0)


def plane_fault(frame: Frame) -> str:
    """Why a frame has no usable place, empty where it has one."""
    if len(frame.position) != 3 or len(frame.orientation) != 6:
        return "no ImagePositionPatient or ImageOrientationPatient"
    if len(frame.spacing) != 2 or min(frame.spacing) <= 0:
        return "no PixelSpacing"
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(n - 1) for n in lengths) > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
        return "ImageOrientationPatient is no pair of orthogonal unit vectors"
    return ""


def same_plane(frame: Frame, other: Frame) -> bool:
    """Whether two frames are parallel and of one matrix and pixel size."""
    a, b = frame.instance, other.instance
    return (
        (a.rows, a.columns) == (b.rows, b.columns)
        and max(abs(p - q) for p, q in zip(frame.orientation, other.orientation, strict=True)) < UNIT_TOLERANCE
        and all(abs(p - q) < SAME_SPACING * q for p, q in zip(frame.spacing, other.spacing, strict=True))
    )


def normal(frame: Frame) -> np.ndarray:
    """Unit vector along which slices are counted, in LPS."""
    n = np.cross(frame.orientation[:3], frame.orientation[3:])
    return n / np.linalg.norm(n)


def heights(frames: Sequence[Frame], reference: Frame) -> np.ndarray:
    """Distance of each plane from the origin along the reference's normal, in mm."""
    return np.array([frame.position for frame in frames]) @ normal(reference)


def levels(heights_mm: np.ndarray) -> np.ndarray:
    """The distinct heights, ascending; planes nearer than SAME_PLACE_MM are one."""
    ordered = np.sort(heights_mm)
    return ordered[np.concatenate([[True], np.diff(ordered) > SAME_PLACE_MM])]


def spacing_fault(levels_mm: np.ndarray, nominal_mm: float | None) -> str:
    """What is wrong with a stack of distinct heights, empty where they are even."""
    if len(levels_mm) < 2:
        return ""
    steps = np.diff(levels_mm)
    step = float(np.median(steps)) if nominal_mm is None else _nearest_step(steps, nominal_mm)
    whole = np.rint(steps / step)
    if np.abs(steps - np.maximum(whole, 1) * step).max() > EVEN * step:
        return f"slices are unevenly spaced ({steps.min():.4g} to {steps.max():.4g} mm)"
    gaps = [(i, int(n) - 1) for i, n in enumerate(whole) if n > 1]
    if not gaps:
        return ""
    count, first = sum(n for _, n in gaps), gaps[0][0]
    return (
        f"{count} of {len(levels_mm) + count} slices {'is' if count == 1 else 'are'} missing, "
        f"the first after slice {first + 1} ({levels_mm[first]:.4g} mm along the normal)"
    )


def _nearest_step(steps: np.ndarray, nominal_mm: float) -> float:
    """The measured step that is the nominal one, else the median: gaps must not make the step."""
    near = steps[np.abs(steps - nominal_mm) < EVEN * nominal_mm]
    return float(np.median(near)) if near.size else float(np.median(steps))


def affine_of(ordered: Sequence[Frame], slice_mm: float) -> tuple[np.ndarray, Layout]:
    """The 4x4 affine (mm, RAS) of the array of planes in ascending order, and how the array is laid out.

    slice_mm: distance of slices where there is but one plane. The step from the first plane to the last gives the
    slice axis, as dcm2niix has it; Grid.from_affine refuses it where it is sheared.
    """
    first, last = ordered[0], ordered[-1]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    start = np.array(first.position)
    along = normal(first) * slice_mm if len(ordered) == 1 else (np.array(last.position) - start) / (len(ordered) - 1)
    rows = first.instance.rows
    lps = np.eye(4)
    lps[:3, 0] = row / np.linalg.norm(row) * first.spacing[1]
    lps[:3, 1] = -column / np.linalg.norm(column) * first.spacing[0]
    lps[:3, 2] = along
    lps[:3, 3] = start + column / np.linalg.norm(column) * first.spacing[0] * (rows - 1)
    affine = lps.copy()
    affine[:3] = LPS_TO_RAS @ lps[:3]
    flips = (False, True, False)
    if first.instance.acquisition_type != "3D":
        return affine, Layout((0, 1, 2), flips)
    return _canonical(affine, (first.instance.columns, rows, len(ordered)), flips)


def _canonical(affine: np.ndarray, shape: Triple, flips: tuple[bool, bool, bool]) -> tuple[np.ndarray, Layout]:
    """Axes permuted and flipped to lie nearest to RAS; shape: of the array before."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes = [0, 0, 0]
    left = np.abs(cosines)
    for _ in range(3):  # the nearest pair of world and array axis first
        nearest = divmod(int(np.argmax(left)), 3)
        axes[nearest[0]] = nearest[1]
        left[nearest[0], :] = left[:, nearest[1]] = -1
    turned = affine.copy()
    turned[:, :3] = affine[:, axes]
    order = (axes[0], axes[1], axes[2])
    out_flips = []
    for world, axis in enumerate(order):
        backwards = turned[world, world] < 0
        if backwards:
            turned[:3, 3] += turned[:3, world] * (shape[axis] - 1)
            turned[:3, world] *= -1
        out_flips.append(flips[axis] != bool(backwards))
    return turned, Layout(order, (out_flips[0], out_flips[1], out_flips[2]))
