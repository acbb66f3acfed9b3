"""Axial, coronal and sagittal slices of a volume as they are looked at: radiological, in the patient's own planes.

The patient's right is on the left of the axial and coronal view, anterior on top of the axial one and on the left
of the sagittal one. The array axis nearest to each world axis is taken; nothing is resampled.
"""

from dataclasses import dataclass

import numpy as np

MARGIN_MM = 8.0


@dataclass(frozen=True)
class View:
    """Array axes and flips that bring a volume to (right to left, posterior to anterior, inferior to superior)."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    voxel_mm: tuple[float, float, float]

    @classmethod
    def of(cls, affine: np.ndarray) -> "View":
        """View of an image with a 4x4 voxel-to-world affine (RAS, mm)."""
        columns = np.asarray(affine, float)[:3, :3]
        lengths = np.linalg.norm(columns, axis=0)
        near = np.abs(columns / lengths)
        axes = [0, 0, 0]
        for _ in range(3):  # the best pair of world and array axis first
            world, axis = np.unravel_index(int(near.argmax()), (3, 3))
            axes[world] = int(axis)
            near[world, :] = -1
            near[:, axis] = -1
        # RAS grows to the right; here the first axis grows to the left
        grows = [columns[world, axis] > 0 for world, axis in enumerate(axes)]
        flips = (bool(grows[0]), not grows[1], not grows[2])
        return cls((axes[0], axes[1], axes[2]), flips, tuple(float(lengths[a]) for a in axes))  # type: ignore[arg-type]

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """The volume (x, y, z) in this view's order; no copy."""
        turned = volume.transpose(self.axes)
        return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)]


@dataclass(frozen=True)
class Cut:
    """Where the three slices go and the box that is shown, in a view's turned axes."""

    view: View
    centre: tuple[int, int, int]
    box: tuple[slice, slice, slice]

    @classmethod
    def through(cls, view: View, mask: np.ndarray) -> "Cut":
        """Through the middle of a mask (x, y, z), its box with a margin shown; an empty mask shows everything."""
        turned = view.turn(mask)
        if not turned.any():
            turned = np.ones(turned.shape, bool)
        centre, box = [], []
        for axis, voxel_mm in enumerate(view.voxel_mm):
            line = turned.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
            filled = np.flatnonzero(line)
            margin = round(MARGIN_MM / voxel_mm)
            centre.append(int(np.average(np.arange(line.size), weights=line) + 0.5))
            box.append(slice(max(0, int(filled[0]) - margin), min(line.size, int(filled[-1]) + 1 + margin)))
        return cls(view, (centre[0], centre[1], centre[2]), (box[0], box[1], box[2]))

    def planes(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Axial, coronal and sagittal slices, rows from top to bottom as on a screen."""
        turned = self.view.turn(volume)
        (x, y, z), (bx, by, bz) = self.centre, self.box
        axial = turned[bx, by, z].T[::-1]
        coronal = turned[bx, y, bz].T[::-1]
        sagittal = turned[x, by, bz][::-1].T[::-1]
        return axial, coronal, sagittal

    @property
    def sizes_mm(self) -> tuple[tuple[float, float], ...]:
        """Height and width of each plane."""
        x, y, z = ((b.stop - b.start) * v for b, v in zip(self.box, self.view.voxel_mm, strict=True))
        return (y, x), (z, x), (z, y)
