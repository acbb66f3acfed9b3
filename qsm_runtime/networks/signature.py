"""What a local field says of its own B0, voxels and sign, before a network that cannot know better sees it.

B0, voxels  a field made by susceptibility has nothing on the cone D = 0. Its power there, over that of its shell in
            k-space, is about 0.04 for a clean field (0.3 where noise is twice the signal), 0.55 to 1.2 for a wrong
            direction, 0.5 to 0.9 for an axis twice too long or too short; when another direction or another length of
            one axis has far less, it is that
Sign        iron makes the upper tail of susceptibility the longer one: 1.3 to 1.7 times in a brain, 0.86 with the
            largest of simulated calcifications; noise takes it towards 1
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of, embed
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import plan
from qsm_runtime.kernels.signal import block_mean

Sizes = tuple[int, int, int]
Triple = tuple[float, float, float]
COARSE_MM = 2.0  # voxels that the look in k-space is taken at
CONE = 0.07  # |D| below which k-space counts as on the cone
SHELLS, FIRST_SHELL, LAST_SHELL = 12, 3, 8  # of the largest frequency: the mask's shape is left out, and so is noise
MISPLACED, RIVAL = 0.4, 0.5  # power on the cone from which B0 and voxels are doubted, share of it that a rival has
LENGTHS = (1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0)  # of one axis, tried as rivals of the voxels given
NO_DIPOLE = 0.6
LEAST_VOXELS = 8000  # coarse ones inside the mask, or the look says nothing
TAIL_PCT, SIGN_RATIO = 0.5, 0.75
SIGN_MM = 3.0  # larger voxels blur veins and nuclei: tails say nothing of the sign
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclass(frozen=True)
class Look:
    """What k-space says of a local field.

    cone    power on the cone of the B0 and the voxels given
    axes    the same of B0 along each array axis
    voxels  the same of other voxels (mm), where `cone` is high
    tails   upper over lower tail of a rough inversion; None where voxels are too large for it
    """

    cone: float
    axes: dict[str, float]
    voxels: dict[Triple, float]
    tails: float | None


def look(local_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> Look | None:
    """Power on the cone and tails of a rough inversion, at about 2 mm; None where the mask is too small to tell."""
    x, y, z = (max(1, round(COARSE_MM / v)) for v in grid.voxel_mm)
    inside = block_mean(mask.astype(np.float32), (x, y, z)) > 0.5
    if np.count_nonzero(inside) < LEAST_VOXELS:
        return None
    voxel = (x * grid.voxel_mm[0], y * grid.voxel_mm[1], z * grid.voxel_mm[2])
    field = block_mean(np.where(mask, local_ppm, np.float32(0)), (x, y, z))
    low, high = np.percentile(field[inside], (0.05, 99.95))
    field = np.where(inside, np.clip(field, low, high) - np.float32(np.median(field[inside])), np.float32(0))
    box = box_of(inside)
    p = plan(box.fft_shape)
    spectrum = p.forward(embed(field, box, p.real))
    power = spectrum.real**2 + spectrum.imag**2
    shells = _Shells(power, p.shape, voxel)
    cone = shells.on_cone(grid.b0_dir)
    axes = {name: shells.on_cone(axis) for name, axis in AXES.items()}
    voxels = {}
    for axis, length in product(range(3), LENGTHS if cone > MISPLACED else ()):
        other = _Shells(power, p.shape, _longer(voxel, axis, length))
        voxels[_longer(grid.voxel_mm, axis, length)] = other.on_cone(grid.b0_dir)
    dipole = dipole_kernel(p.shape, voxel, grid.b0_dir)
    spectrum *= dipole / (dipole * dipole + np.float32(0.03)) * np.float32(p.scale)
    chi = p.inverse(spectrum)[tuple(slice(n) for n in box.size)][inside[box.slices]]
    below, middle, above = np.percentile(chi, (TAIL_PCT, 50, 100 - TAIL_PCT))
    tails = float((above - middle) / max(middle - below, 1e-30))
    return Look(cone, axes, voxels, tails if max(voxel) <= SIGN_MM else None)


class _Shells:
    """Power in k-space over the mean of its shell, in the shells that a look takes in."""

    def __init__(self, power: np.ndarray, shape: Sizes, voxel_mm: Triple) -> None:
        self.shape, self.voxel_mm = shape, voxel_mm
        frequencies = [np.fft.fftfreq(n, v) for n, v in zip(shape[:2], voxel_mm, strict=False)]
        frequencies.append(np.fft.rfftfreq(shape[2], voxel_mm[2]))
        kx, ky, kz = np.meshgrid(*frequencies, indexing="ij", sparse=True)
        shell = (np.sqrt(kx**2 + ky**2 + kz**2) * (2 * max(voxel_mm) * SHELLS)).astype(int)
        self.used = (shell >= FIRST_SHELL) & (shell < LAST_SHELL)
        shell, power = shell[self.used], power[self.used]
        mean = np.bincount(shell, power) / np.maximum(np.bincount(shell), 1)
        self.relative = power / np.maximum(mean[shell], 1e-30)

    def on_cone(self, b0_dir: Triple) -> float:
        dipole = dipole_kernel(self.shape, self.voxel_mm, b0_dir)[self.used]
        found = self.relative[np.abs(dipole) < CONE]
        return float(found.mean()) if found.size else 0.0


def wrong(found: Look, grid: Grid) -> list[str]:
    """What is wrong as far as can be told: B0 or voxels where others explain the field far better, a turned sign."""
    said = []
    if found.cone > MISPLACED:
        b0 = ", ".join(f"{b:.2f}" for b in grid.b0_dir)
        rivals = [(cone, f"B0 along ({b0})", f"B0 along the array's {name} axis") for name, cone in found.axes.items()]
        mm = f"voxels of {_by(grid.voxel_mm)} mm"
        rivals += [(cone, mm, f"voxels of {_by(v)} mm") for v, cone in found.voxels.items()]
        cone, given, there = min(rivals)
        if cone < RIVAL * found.cone:
            said.append(
                f"the local field does not fit {given}: it has the signature of {there} (power on the cone {cone:.2f}, "
                f"not {found.cone:.2f}); correct the affine, the voxel size or the B0 direction"
            )
    if found.tails is not None and found.tails < SIGN_RATIO:
        said.append(
            f"the susceptibility is skewed towards diamagnetic (tails {found.tails:.2f} to 1, brains have 1.3 to 1.7): "
            "the sign of the phase is turned, as far as can be told"
        )
    return said


def doubts(found: Look) -> list[str]:
    """What looks wrong and cannot be told for sure."""
    if found.cone <= NO_DIPOLE:
        return []
    return [
        f"the local field does not look like that of a dipole on this grid (power on the cone {found.cone:.2f}, "
        "clean fields have 0.1): check voxel size, B0 direction and background removal"
    ]


def _longer(voxel_mm: Triple, axis: int, length: float) -> Triple:
    x, y, z = (v * (length if i == axis else 1.0) for i, v in enumerate(voxel_mm))
    return x, y, z


def _by(voxel_mm: Triple) -> str:
    return "x".join(f"{v:.3g}" for v in voxel_mm)
