"""What MRD holds rounded, exactly: this package's client adds it, so that a scan sent is the scan received, to the bit.

Positions and directions are float32 in MRD, the proton frequency is a whole number of Hz, and an affine may have any
order of axes. The user parameter qsm_exact of the header holds them in full, as JSON; it is used only where it agrees
with what the header and the images say, and never needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsm_runtime.errors import MetadataError
from qsm_runtime.io.dicom.geometry import LPS_TO_RAS, Layout
from qsm_runtime.io.image import displacement_voxels
from qsm_runtime.io.mrd.planes import Plane

AXES = "crs"  # column, row, slice: the axes of planes, as a layout names them
NEAR_VOXELS = 0.01
NEAR = 1e-5  # relative


@dataclass(frozen=True)
class Exact:
    """affine: 4x4, mm, RAS. layout: array axes in terms of the planes', such as +c-r+s. Times in s, field in T."""

    affine: np.ndarray
    layout: Layout
    echo_times_s: tuple[float, ...]
    b0_tesla: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Exact | None":
        """From the user parameter; None where it is not there. Raises MetadataError where it is malformed."""
        if not values:
            return None
        try:
            affine = np.vstack([np.array(values["affine"], float).reshape(3, 4), (0, 0, 0, 1)])
            times_s = tuple(float(t) for t in values["echo_times_s"])
            return cls(affine, _layout(str(values["layout"])), times_s, float(values["b0_tesla"]))
        except (KeyError, TypeError, ValueError):
            raise MetadataError("the user parameter qsm_exact of the MRD header is malformed; leave it out") from None

    def text(self) -> str:
        flips, axes = self.layout.flips, self.layout.axes
        values = {
            "affine": self.affine[:3].ravel().tolist(),
            "layout": "".join(("-" if flip else "+") + AXES[axis] for axis, flip in zip(axes, flips, strict=True)),
            "echo_times_s": list(self.echo_times_s),
            "b0_tesla": self.b0_tesla,
        }
        return json.dumps(values, allow_nan=False)

    def checked(
        self, echo: Sequence[Plane], times_s: tuple[float, ...], b0_tesla: float, index: int | None
    ) -> tuple[tuple[float, ...], float]:
        """Echo times and field in full. Raises MetadataError where anything here is not what MRD says, rounded.

        echo: planes of one echo in order. times_s: all echo times, or that of echo `index` alone.
        """
        own_times = self.echo_times_s if index is None else self.echo_times_s[index : index + 1]
        form = echo[0].instance
        sizes = (form.columns, form.rows, len(echo))
        shape = (sizes[self.layout.axes[0]], sizes[self.layout.axes[1]], sizes[self.layout.axes[2]])
        off = displacement_voxels(_affine(echo, self.layout), self.affine, shape)
        if not (_near(own_times, times_s) and _near([self.b0_tesla], [b0_tesla]) and off < NEAR_VOXELS):
            raise MetadataError("the user parameter qsm_exact of the MRD header contradicts the images; leave it out")
        return own_times, self.b0_tesla


def _affine(echo: Sequence[Plane], layout: Layout) -> np.ndarray:
    """Affine (RAS, mm) of the array that `layout` makes of planes in ascending order."""
    first, last = echo[0], echo[-1]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    start = np.array(first.position)
    steps = max(len(echo) - 1, 1)
    along = (np.array(last.position) - start) / steps if len(echo) > 1 else np.cross(row, column) * first.slice_mm
    axes = (row * first.spacing[1], column * first.spacing[0], along)
    sizes = (first.instance.columns, first.instance.rows, len(echo))
    lps = np.eye(4)
    for i, (axis, flip) in enumerate(zip(layout.axes, layout.flips, strict=True)):
        lps[:3, i] = -axes[axis] if flip else axes[axis]
        start = start + axes[axis] * (sizes[axis] - 1) * flip
    lps[:3, 3] = start
    lps[:3] = LPS_TO_RAS @ lps[:3]
    return lps


def _near(values: Sequence[float], others: Sequence[float]) -> bool:
    return len(values) == len(others) and bool(np.allclose(values, others, rtol=NEAR, atol=0))


def _layout(text: str) -> Layout:
    signs, letters = text[0::2], text[1::2]
    if sorted(letters) != sorted(AXES) or set(signs) - {"+", "-"} or len(signs) != 3:
        raise ValueError(text)
    axes = tuple(AXES.index(letter) for letter in letters)
    flips = tuple(sign == "-" for sign in signs)
    return Layout((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))
