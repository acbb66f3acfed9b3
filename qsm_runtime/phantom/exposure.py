"""From a painted head and its field to wrapped phase and magnitude.

signal(TE) = gain e^(i phi_0) mean over the voxel of [ rho e^(-TE R2*) e^(i 2 pi gamma B0 TE field) ]  + noise
The mean over fine voxels is what makes signal vanish where the field is steep.
"""

from dataclasses import dataclass

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.phantom.canvas import Canvas
from qsm_runtime.phantom.freespace import block_mean
from qsm_runtime.phantom.layout import Layout, Triple
from qsm_runtime.phantom.shapes import Upsampled, cubic_weights
from qsm_runtime.phantom.tissues import FAT_SHIFT_PPM, LABELS
from qsm_runtime.units import rad_per_ppm


@dataclass(frozen=True)
class Exposure:
    """Field strength (T), echo times (s), peak SNR and odd-even phase across the field of view (rad)."""

    b0_tesla: float
    echo_times_s: tuple[float, ...]
    peak_snr: float
    bipolar_rad: float


def shim_fields(grid: Grid) -> np.ndarray:
    """Harmonics up to second order (9, x, y, z), float32, about 1 at the ends of the longest edge."""
    half = max(n * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)) / 2
    lines = [(np.arange(n) - (n - 1) / 2) * v / half for n, v in zip(grid.shape, grid.voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*lines, indexing="ij")
    terms = (np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y)
    return np.stack(terms).astype(np.float32)


def shim(field_ppm: np.ndarray, mask: np.ndarray, basis: np.ndarray, factor: Triple, rng: np.random.Generator) -> None:
    """Add to the fine field, in place, a shim as scanners leave it: most of the low orders gone, not all."""
    coarse = block_mean(field_ppm, factor)
    fit = np.linalg.lstsq(basis[:, mask].T.astype(float), coarse[mask].astype(float), rcond=None)[0]
    amount = -fit * rng.uniform(0.7, 1.0, fit.size) + rng.normal(0, 0.05, fit.size)
    x, y, z = (
        cubic_weights((np.arange(n * f) + 0.5) / f - 0.5, 0, 1, n) for n, f in zip(mask.shape, factor, strict=True)
    )
    fine = Upsampled(np.tensordot(amount.astype(np.float32), basis, 1), (x, y, z))
    for i in range(0, field_ppm.shape[0], factor[0]):
        field_ppm[i : i + factor[0]] += fine.planes(slice(i, i + factor[0]))


def expose(
    exposure: Exposure,
    canvas: Canvas,
    field_ppm: np.ndarray,
    basis: np.ndarray,
    layout: Layout,
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase (rad), float32 (echo, x, y, z). `rng` draws the coil's gain and phase."""
    factor, inner = layout.factor, layout.inner
    signal, r2star_hz, label = canvas.signal[inner], canvas.r2star_hz[inner], canvas.label[inner]
    offset_rad = np.tensordot(rng.normal(0, (1.5, *(0.8,) * 3, *(0.4,) * 5)).astype(np.float32), basis, 1)
    gain = np.exp(np.tensordot(rng.normal(0, (0.0, *(0.15,) * 3, *(0.12,) * 5)).astype(np.float32), basis, 1))
    along_x = np.linspace(-0.5, 0.5, basis.shape[1], dtype=np.float32)[:, None, None]
    images = np.empty((len(exposure.echo_times_s), *basis.shape[1:]), np.complex64)
    for echo, te in enumerate(exposure.echo_times_s):
        image, per_ppm = images[echo], np.float32(rad_per_ppm(exposure.b0_tesla, te))
        for i in range(image.shape[0]):
            slab = slice(i * factor[0], (i + 1) * factor[0])
            shift_ppm = np.float32(FAT_SHIFT_PPM) * (label[slab] == LABELS["fat"])
            angle = per_ppm * (field_ppm[slab] + shift_ppm)
            size = signal[slab] * np.exp(np.float32(-te) * r2star_hz[slab])
            image[i].real = block_mean(size * np.cos(angle), factor)[0]
            image[i].imag = block_mean(size * np.sin(angle), factor)[0]
        readout_rad = np.float32(exposure.bipolar_rad * (-0.5 if echo % 2 == 0 else 0.5)) * along_x
        image *= gain * np.exp(1j * (offset_rad + readout_rad))
    sigma = np.float32(np.abs(images).max() / exposure.peak_snr)
    for image in images:
        image.real += sigma * noise_rng.standard_normal(image.shape, np.float32)
        image.imag += sigma * noise_rng.standard_normal(image.shape, np.float32)
    return np.abs(images), np.angle(images)
