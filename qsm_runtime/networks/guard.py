"""Is this input what the network was made for? Wrong units and a wrong B0 are refused; what lies outside the trained
domain is said.

Units       a field's median deviation is known within decades: ppm cannot be taken for Hz, rad or tesla
B0, voxels  a field made by susceptibility has nothing on the cone D = 0. Its power there, over that of its shell in
            k-space, is about 0.04 for a clean field (0.3 where noise is twice the signal) and 0.55 to 1.2 for a wrong
            direction; when another axis has far less, B0 is not where it is said to be
Sign        iron makes the upper tail of susceptibility the longer one, by 1.4 to 2 in a brain at 2 mm
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of, embed
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import plan
from qsm_runtime.kernels.signal import block_mean
from qsm_runtime.networks.card import Card
from qsm_runtime.units import rad_per_ppm

COARSE_MM = 2.0  # voxels that the look in k-space is taken at
LARGEST_PPM = {"local_field": 0.1, "total_field": 4.0, "background_field": 4.0}  # median deviation; brains have a tenth
SMALLEST_PPM = 2e-5
USUAL_PPM = 0.04  # local fields of brains: 0.005, 0.02 where noisy; in rad at 20 ms and 3 T sixteen times that
CONE = 0.07  # |D| below which k-space counts as on the cone
SHELLS, FIRST_SHELL, LAST_SHELL = 12, 3, 8  # of the largest frequency: the mask's shape is left out, and so is noise
MISPLACED, RIVAL = (
    0.4,
    0.5,
)  # power on the cone from which B0 is doubted, and the share of it that another axis must have
NO_DIPOLE = 0.6
LEAST_VOXELS = 8000  # coarse ones inside the mask, or the look says nothing
TAIL_PCT, SIGN_RATIO = 0.5, 0.75
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
SAMPLES = 200_000  # of a map, for its percentiles
SLACK = 0.01  # relative, on the ends of a trained range


@dataclass(frozen=True)
class Look:
    """What k-space says of a local field: power on the cone for the B0 given and for the axes, and the tails' ratio."""

    cone: float
    axes: dict[str, float]
    tails: float


def check_units(field_ppm: np.ndarray, mask: np.ndarray, meaning: str) -> list[str]:
    """Doubts about the unit. Raises InputError where `field_ppm` (x, y, z) cannot be in ppm."""
    if not np.isfinite(field_ppm[mask]).all():
        raise InputError(
            f"the {meaning.replace('_', ' ')} has values that are not finite inside the mask; mask them out"
        )
    values = _sampled(field_ppm, mask)
    spread = float(np.median(np.abs(values - np.median(values))))
    name = meaning.replace("_", " ")
    if spread > LARGEST_PPM[meaning]:
        raise InputError(
            f"the {name} deviates by {spread:.3g} (median) inside the mask, which is too much for ppm; it looks like "
            "Hz, rad or ppb: divide Hz by 42.577 x B0 in tesla, rad by that x 2 pi TE"
        )
    if 0 < spread < SMALLEST_PPM:
        raise InputError(
            f"the {name} deviates by {spread:.3g} (median) inside the mask, which is too little for ppm; it looks like "
            "tesla or a share of B0: multiply a share by 1e6"
        )
    if meaning == "local_field" and spread > USUAL_PPM:
        return [
            f"the {name} deviates by {spread:.3g} ppm (median) inside the mask, brains by 0.02 at most: is it phase in "
            "rad, or is there background left?"
        ]
    return []


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
    frequencies = [np.fft.fftfreq(n, v) for n, v in zip(p.shape[:2], voxel, strict=False)]
    frequencies.append(np.fft.rfftfreq(p.shape[2], voxel[2]))
    kx, ky, kz = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    shell = (np.sqrt(kx**2 + ky**2 + kz**2) * (2 * max(voxel) * SHELLS)).astype(int)
    used = (shell >= FIRST_SHELL) & (shell < LAST_SHELL)
    shell, power = shell[used], power[used]
    mean = np.bincount(shell, power) / np.maximum(np.bincount(shell), 1)
    relative = power / np.maximum(mean[shell], 1e-30)

    def on_cone(b0_dir: tuple[float, float, float]) -> float:
        dipole = dipole_kernel(p.shape, voxel, b0_dir)[used]
        found = relative[np.abs(dipole) < CONE]
        return float(found.mean()) if found.size else 0.0

    dipole = dipole_kernel(p.shape, voxel, grid.b0_dir)
    spectrum *= dipole / (dipole * dipole + np.float32(0.03)) * np.float32(p.scale)
    chi = p.inverse(spectrum)[tuple(slice(n) for n in box.size)][inside[box.slices]]
    below, middle, above = np.percentile(chi, (TAIL_PCT, 50, 100 - TAIL_PCT))
    tails = float((above - middle) / max(middle - below, 1e-30))
    return Look(on_cone(grid.b0_dir), {name: on_cone(axis) for name, axis in AXES.items()}, tails)


def check_b0(found: Look, grid: Grid) -> None:
    """Raises InputError where another axis explains the field and the given B0 does not."""
    name = min(found.axes, key=found.axes.__getitem__)
    if found.cone > MISPLACED and found.axes[name] < RIVAL * found.cone:
        said = ", ".join(f"{b:.2f}" for b in grid.b0_dir)
        raise InputError(
            f"the local field does not fit B0 along ({said}): it has the signature of B0 along the array's {name} axis "
            f"(power on the cone {found.axes[name]:.2f}, not {found.cone:.2f}); correct the affine or the B0 direction"
        )


def doubts(found: Look) -> list[str]:
    """What looks wrong and cannot be told for sure."""
    said = []
    if found.cone > NO_DIPOLE:
        said.append(
            f"the local field does not look like that of a dipole on this grid (power on the cone {found.cone:.2f}, "
            "clean fields have 0.1): check voxel size, B0 direction and background removal"
        )
    if found.tails < SIGN_RATIO:
        said.append(
            f"the susceptibility is skewed towards diamagnetic (tails {found.tails:.2f} to 1, brains have 1.4 and "
            "more): check the sign of the phase"
        )
    return said


def outside(
    card: Card,
    mask: np.ndarray,
    grid: Grid,
    *,
    b0_tesla: float | None = None,
    field_ppm: np.ndarray | None = None,
    reliability: np.ndarray | None = None,
    echo_times_s: Iterable[float] | None = None,
) -> list[str]:
    """How the input leaves the card's trained domain; what is not known, here or in the card, is not judged."""
    domain, said = card.domain, []

    def judge(name: str, unit: str, trained: tuple[float, float] | None, low: float, high: float | None = None) -> None:
        high = low if high is None else high
        if trained is None:
            return
        slack = SLACK * max(abs(trained[0]), abs(trained[1]))
        if low < trained[0] - slack or high > trained[1] + slack:
            here = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            said.append(
                f"{name} {here}{unit} is outside what network {card.name} was trained on "
                f"({trained[0]:.3g} to {trained[1]:.3g}{unit})"
            )

    if b0_tesla is not None:
        judge("field strength", " T", domain.b0_tesla, b0_tesla)
    judge("voxel size", " mm", domain.voxel_mm, min(grid.voxel_mm), max(grid.voxel_mm))
    angle = float(np.degrees(np.arccos(min(1.0, abs(grid.b0_dir[2])))))
    judge("the angle of B0 to z,", " degrees", domain.angle_deg, round(angle, 1))
    if field_ppm is not None:
        low, high = (float(v) for v in np.percentile(_sampled(field_ppm, mask), (0.1, 99.9)))
        judge("field", " ppm", domain.field_ppm, low, high)
    snr = _snr(mask, reliability, b0_tesla, echo_times_s)
    if snr is not None:
        judge("signal-to-noise ratio", "", domain.snr, snr)
    return said


def outside_chi(card: Card, chi_ppm: np.ndarray, mask: np.ndarray) -> list[str]:
    """As `outside`, for what came out."""
    trained = card.domain.chi_ppm
    if trained is None or not mask.any():
        return []
    low, high = (float(v) for v in np.percentile(_sampled(chi_ppm, mask), (0.1, 99.9)))
    if low >= trained[0] * (1 + SLACK) and high <= trained[1] * (1 + SLACK):
        return []
    return [
        f"susceptibility {low:.3g} to {high:.3g} ppm is outside what network {card.name} was trained on "
        f"({trained[0]:.3g} to {trained[1]:.3g} ppm)"
    ]


def _sampled(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values inside the mask, every n-th of them where there are many."""
    values = x[mask]
    return values[:: max(1, values.size // SAMPLES)]


def _snr(
    mask: np.ndarray, reliability: np.ndarray | None, b0_tesla: float | None, echo_times_s: Iterable[float] | None
) -> float | None:
    """Median over the mask of the magnitude's signal-to-noise ratio, from 1/sigma = SNR sqrt(sum rad_per_ppm^2)."""
    if reliability is None or b0_tesla is None or echo_times_s is None:
        return None
    known = _sampled(reliability, mask)
    known = known[known > 0]
    if known.size == 0:
        return None
    slope = float(np.sqrt(sum(rad_per_ppm(b0_tesla, t) ** 2 for t in echo_times_s)))
    return float(np.median(known)) / slope
