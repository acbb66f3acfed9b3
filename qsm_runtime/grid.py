"""The voxel grid of a scan, and the conventions every stage keeps.

Axes    C-ordered arrays (x, y, z), echoes first: (echo, x, y, z). Nothing is resampled or reoriented silently.
Units   stand in names: local_ppm, voxel_mm, echo_times_s. Fields and susceptibilities are ppm of B0 and ppm (SI).
Sign    paramagnetic is positive, and phase = +2 pi gamma dB TE.
B0      a unit vector in array axes: the world's z axis seen from the array, R^T z with R the affine's unit columns.
Dipole  D(k) = 1/3 - (k.b)^2 / |k|^2 on physical frequencies, D(0) = 0.
"""

from dataclasses import dataclass

import numpy as np

from qsm_runtime.errors import InputError, ShapeError

SHEAR_TOLERANCE = 1e-3  # largest cosine between two axes of an affine still taken as orthogonal
PER_STEP = 1e5  # steps of a mm or a unit vector's length: what an affine in text, float32 and float64 agrees in


@dataclass(frozen=True)
class Grid:
    """Shape (3 ints), voxel size in mm (3 floats > 0) and B0 direction (unit vector in array axes)."""

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    b0_dir: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        voxel_mm = tuple(float(v) for v in self.voxel_mm)
        b0_dir = np.asarray(self.b0_dir, float)
        if len(shape) != 3 or min(shape) < 1:
            raise ShapeError(f"a grid needs three positive sizes, got {self.shape}")
        if len(voxel_mm) != 3 or not all(np.isfinite(v) and v > 0 for v in voxel_mm):
            raise InputError(f"voxel size must be three positive lengths in mm, got {self.voxel_mm}")
        norm = float(np.linalg.norm(b0_dir))
        if b0_dir.shape != (3,) or not np.isfinite(norm) or norm == 0:
            raise InputError(f"B0 direction must be a vector of three finite numbers, not all zero, got {self.b0_dir}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "voxel_mm", voxel_mm)
        object.__setattr__(self, "b0_dir", tuple(float(b) for b in b0_dir / norm))

    @classmethod
    def from_affine(cls, shape: tuple[int, int, int], affine: np.ndarray, name: str = "image") -> "Grid":
        """Grid of an image with a 4x4 voxel-to-world affine in mm (RAS or LPS: B0 is along z in both).

        Raises InputError, naming `name`, where the affine is singular or sheared: voxels that are no boxes
        have no dipole kernel here, and resampling is not done silently.
        """
        columns = np.asarray(affine, float)[:3, :3]
        lengths = np.linalg.norm(columns, axis=0)
        if not np.all(np.isfinite(columns)) or lengths.min() <= 0:
            raise InputError(f"{name}: the affine is singular; write a valid sform or qform")
        axes = columns / lengths
        shear = np.abs(axes.T @ axes - np.eye(3)).max()
        if shear > SHEAR_TOLERANCE:
            raise InputError(
                f"{name}: the affine is sheared (axes {np.degrees(np.arcsin(min(1.0, shear))):.2f} degrees off "
                "orthogonal); resample the complex images to an orthogonal grid first"
            )
        return cls(shape, tuple(_rounded(lengths)), tuple(_rounded(axes[2])))

    @property
    def voxel_volume_mm3(self) -> float:
        return self.voxel_mm[0] * self.voxel_mm[1] * self.voxel_mm[2]

    def check(self, array: np.ndarray, name: str) -> None:
        """Raise ShapeError unless `array` has this grid's shape."""
        if array.shape != self.shape:
            raise ShapeError(f"{name} has shape {array.shape}, expected {self.shape}")


def _rounded(values: np.ndarray) -> np.ndarray:
    """To 1e-5, so that one scan is one grid whichever format its affine came by: formats part at 1e-6 and below.

    Not at halves: voxel sizes such as 220/256 mm lie there, and would fall to either side by the last digit.
    """
    rounded: np.ndarray = np.floor(values * PER_STEP + 0.55) / PER_STEP
    return rounded
