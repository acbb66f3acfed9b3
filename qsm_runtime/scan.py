"""A multi-echo gradient-echo scan, validated once."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from qsm_runtime.errors import InputError, MetadataError, ShapeError
from qsm_runtime.grid import Grid

PHASE_SLACK_RAD = 0.01  # phase may lie this far outside [-pi, pi] through rounding of its stored scale


@dataclass(frozen=True)
class Scan:
    """Magnitude (arbitrary unit) and wrapped phase (rad), both float32 (echo, x, y, z); echo times in s; B0 in T.

    Voxels that are not finite in any echo are set to zero magnitude and phase and counted in `n_not_finite`;
    `finite` (bool, x, y, z) says where the rest is. Raises ShapeError, MetadataError or InputError.
    """

    magnitude: np.ndarray
    phase_rad: np.ndarray
    echo_times_s: tuple[float, ...]
    b0_tesla: float
    grid: Grid
    finite: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        magnitude, phase_rad = (self._volume(a) for a in (self.magnitude, self.phase_rad))
        echo_times_s = tuple(float(t) for t in np.atleast_1d(np.asarray(self.echo_times_s, float)))
        if magnitude.shape != phase_rad.shape:
            raise ShapeError(f"magnitude {magnitude.shape} and phase {phase_rad.shape} differ in shape")
        if magnitude.shape[1:] != self.grid.shape:
            raise ShapeError(f"images of shape {magnitude.shape[1:]} on a grid of shape {self.grid.shape}")
        if len(echo_times_s) != len(magnitude):
            raise MetadataError(f"{len(magnitude)} echoes but {len(echo_times_s)} echo times; give one for each echo")
        if not all(np.isfinite(t) and 0 < t < 1 for t in echo_times_s):
            raise MetadataError(f"echo times must be seconds between 0 and 1, got {echo_times_s} (in ms by mistake?)")
        if any(b <= a for a, b in pairwise(echo_times_s)):
            raise MetadataError(f"echo times must increase, got {echo_times_s}")
        if not (np.isfinite(self.b0_tesla) and 0.01 <= self.b0_tesla <= 30):
            raise MetadataError(f"field strength must lie between 0.01 and 30 T, got {self.b0_tesla}")
        finite = np.isfinite(magnitude).all(0) & np.isfinite(phase_rad).all(0)
        if not finite.all():
            magnitude, phase_rad = (np.where(finite, a, np.float32(0)) for a in (magnitude, phase_rad))
        if not finite.any():
            raise InputError("no voxel is finite in every echo")
        known = phase_rad if finite.all() else phase_rad[:, finite]  # zeros put in where it is not finite are no phase
        low, high = float(known.min()), float(known.max())
        if low < -np.pi - PHASE_SLACK_RAD or high > np.pi + PHASE_SLACK_RAD:
            raise MetadataError(
                f"phase spans [{low:.4g}, {high:.4g}] rad, expected wrapped phase in [-pi, pi]; give its scaling"
            )
        if high == low:
            raise InputError("phase is constant; is this a phase image?")
        if float(magnitude.min()) < 0 or float(magnitude.max()) <= 0:
            raise InputError("magnitude must not be negative and must have signal; is this a magnitude image?")
        for name, value in (
            ("magnitude", magnitude),
            ("phase_rad", phase_rad),
            ("echo_times_s", echo_times_s),
            ("b0_tesla", float(self.b0_tesla)),
            ("finite", finite),
        ):
            object.__setattr__(self, name, value)

    @staticmethod
    def _volume(array: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(array):
            raise InputError("images are complex; give magnitude and phase")
        array = np.ascontiguousarray(array, np.float32)
        if array.ndim == 3:
            array = array[None]
        if array.ndim != 4:
            raise ShapeError(f"images must be (echo, x, y, z) or (x, y, z), got shape {array.shape}")
        return array

    @property
    def n_echoes(self) -> int:
        return len(self.echo_times_s)

    @property
    def n_not_finite(self) -> int:
        return int(self.finite.size - np.count_nonzero(self.finite))
