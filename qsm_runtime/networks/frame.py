"""The grid that a network sees: the mask's box with a margin, at the network's voxel size, B0 along z, padded.

Arrays are put on it and taken back to the scan's grid; each step is left out where the card does not ask for it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.networks import adapt
from qsm_runtime.networks.adapt import Sizes, Triple
from qsm_runtime.networks.card import Card

MAX_ANGLE_DEGREES = 5.0  # from z, up to which a network without B0 is taken as it is
LOSS_WARNED = 0.1  # relative error of the field after a turn there and back


class Frame:
    """`shape`, `voxel_mm`, `b0_dir` and `mask` (bool) of the network's grid; `put` and `take` go there and back.

    sizes_of  the network's sizes for a given shape
    margin    voxels of the scan kept around the mask's box, zeros where the scan ends
    """

    def __init__(
        self, card: Card, mask: np.ndarray, grid: Grid, sizes_of: Callable[[Sizes], Sizes], margin: Sizes = (0, 0, 0)
    ) -> None:
        self.grid, self.card = grid, card
        box = box_of(mask)
        self._box = [(a - m, b + m) for a, b, m in zip(box.lo, box.hi, margin, strict=True)]
        shape: Sizes = tuple(b - a for a, b in self._box)  # type: ignore[assignment]
        self._cut = shape
        voxel: Triple = grid.voxel_mm
        b0 = np.asarray(grid.b0_dir)
        self._resample = self._resampling(shape, voxel)
        if self._resample is not None:
            shape, voxel = self._resample.after, self._resample.voxel_mm
        self._rotation = self._turn(shape, voxel, b0)
        if self._rotation is not None:
            shape, voxel, b0 = self._rotation.after, self._rotation.voxel_after, self._rotation.matrix @ b0
        self._before_pad = shape
        self.shape: Sizes = sizes_of(shape)
        if any(n < m for n, m in zip(self.shape, shape, strict=True)):
            raise InputError(
                f"network {card.name} takes {'x'.join(map(str, self.shape))} voxels and the object fills "
                f"{'x'.join(map(str, shape))} of {voxel[0]:.2g} mm; use a network without size.fixed or size.max"
            )
        self.voxel_mm: Triple = voxel
        self.b0_dir: Triple = (float(b0[0]), float(b0[1]), float(b0[2]))
        self.mask = self.put(mask)

    @property
    def steps(self) -> dict[str, object]:
        """What is done to arrays on the way, for the record."""
        said: dict[str, object] = {"shape": list(self.shape), "voxel_mm": [round(v, 4) for v in self.voxel_mm]}
        if self._resample is not None:
            said["resampled"] = self.card.geometry.resample
        if self._rotation is not None:
            said["rotated_degrees"] = round(
                float(np.degrees(np.arccos(np.clip(self._rotation.matrix[2, 2], -1, 1)))), 2
            )
        return said

    def put(self, x: np.ndarray, *, wrapped: bool = False, magnitude: np.ndarray | None = None) -> np.ndarray:
        """(..., x, y, z), float32 or bool, from the scan's grid. Wrapped phase goes by phasors (of `magnitude`)."""
        x = self._boxed(x)
        if wrapped and (self._resample is not None or self._rotation is not None):
            phasor = np.exp(1j * x).astype(np.complex64)
            if magnitude is not None:
                phasor *= self._boxed(magnitude)
            real, imaginary = (self._moved(np.ascontiguousarray(part)) for part in (phasor.real, phasor.imag))
            x = np.arctan2(imaginary, real)
        else:
            x = self._moved(x)
        mode = "constant" if x.dtype == bool else self.card.size.pad_mode
        return np.ascontiguousarray(adapt.pad(x, self.shape, self.card.size.pad_side, mode))

    def take(self, y: np.ndarray) -> np.ndarray:
        """(..., x, y, z), float32 or bool, back on the scan's grid, zero beyond the margin."""
        y = adapt.unpad(y, self._before_pad, self.card.size.pad_side)
        if self._rotation is not None:
            y = adapt.rotate_back(y, self._rotation)
        if self._resample is not None:
            y = adapt.resample(y, self._resample.before, self.card.geometry.resample)
        out = np.zeros((*y.shape[:-3], *self.grid.shape), y.dtype)
        inside, outside = self._windows()
        out[outside] = y[inside]
        return out

    def rotation_loss(self, x: np.ndarray, mask: np.ndarray) -> float | None:
        """Relative error inside `mask` of an array that is turned and turned back; None without a turn."""
        if self._rotation is None:
            return None
        back = self.take(self.put(x))
        return float(np.linalg.norm((back - x)[mask]) / max(float(np.linalg.norm(x[mask])), 1e-30))

    def _boxed(self, x: np.ndarray) -> np.ndarray:
        inside, outside = self._windows()
        out = np.zeros((*x.shape[:-3], *self._cut), x.dtype)
        out[inside] = x[outside]
        return out

    def _windows(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where the scan lies in the box, and the box in the scan."""
        starts = [max(a, 0) for a, _ in self._box]
        sizes = [min(b, n) - a for (_, b), n, a in zip(self._box, self.grid.shape, starts, strict=True)]
        return adapt.window([s - a for s, (a, _) in zip(starts, self._box, strict=True)], sizes), adapt.window(
            starts, sizes
        )

    def _moved(self, x: np.ndarray) -> np.ndarray:
        if self._resample is not None:
            ends = [(0, 0)] * (x.ndim - 3)
            ends += [(0, m - n) for m, n in zip(self._resample.before, x.shape[-3:], strict=True)]
            x = adapt.resample(np.pad(x, ends), self._resample.after, self.card.geometry.resample)
        return x if self._rotation is None else adapt.rotate(x, self._rotation)

    def _resampling(self, shape: Sizes, voxel: Triple) -> adapt.Resample | None:
        wanted, how = self.card.geometry.voxel_mm, self.card.geometry.resample
        if wanted is None:
            return None
        found = adapt.resampling(shape, voxel, wanted, self.card.geometry.tolerance)
        if found.after == shape and found.before == shape:
            return None
        if how == "none":
            raise InputError(
                f"network {self.card.name} holds for voxels of {_text(wanted)} mm and its card forbids resampling; "
                f"the scan has {_text(voxel)} mm: resample the scan, or take another network"
            )
        return found

    def _turn(self, shape: Sizes, voxel: Triple, b0: np.ndarray) -> adapt.Rotation | None:
        policy = self.card.geometry.b0
        angle = float(np.degrees(np.arccos(min(1.0, abs(b0[2])))))
        if policy == "require_z" and angle > MAX_ANGLE_DEGREES:
            raise InputError(
                f"network {self.card.name} holds for B0 along the third axis only, and here B0 lies {angle:.0f} "
                "degrees off; check the affine, or take a network or method that takes any direction"
            )
        if policy != "rotate_to_z" or angle < 0.5:
            return None
        return adapt.rotation(adapt.rotation_to_z((b0[0], b0[1], b0[2])), shape, voxel)


def _text(voxel_mm: Triple) -> str:
    return "x".join(f"{v:.3g}" for v in voxel_mm)
