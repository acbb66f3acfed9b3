"""A whole head with its truth: multi-echo complex signal, simulated on a finer grid than it is sampled.

signal(TE) = mean over the voxel of  rho exp(-TE R2*) exp(i (phi_0 + 2 pi gamma B0 TE (field + shim)))  + noise
The susceptibility has no staircase edges and the field no coarse kernel: nobody inverts with what made the data.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import smooth_size
from qsm_runtime.phantom.anatomy import (
    Anatomy,
    Canvas,
    paint_air,
    paint_deep,
    paint_large,
    paint_lesion,
    paint_veins,
)
from qsm_runtime.phantom.freespace import block_mean, free_space_field
from qsm_runtime.phantom.shapes import Upsampled, cubic_weights
from qsm_runtime.phantom.tissues import AIR_CHI_PPM, FAT_SHIFT_PPM, TISSUES
from qsm_runtime.scan import Scan
from qsm_runtime.units import rad_per_ppm

DEMO_GRID = Grid((96, 112, 96), (2.0, 2.0, 2.0))
HEAD_MM = (158.0, 196.0, 156.0)  # least field of view that holds a head of ordinary size
MARGIN_MM = 12.0  # of head beyond the field of view kept in full detail
BLOCK_MM = 4.0
BELOW_MM = 150.0  # of neck below that
Lesion = Literal["calcification", "haemorrhage"]


@dataclass(frozen=True)
class Truth:
    """What the scan was made from, on the scan's grid; arrays float32 unless said.

    chi_ppm         relative to soft tissue, zero outside the mask
    mask            bool, the brain with the fluid in its sulci
    labels          uint8, codes in qsm_runtime.phantom.LABELS
    total_ppm       field that the phase carries, shim included
    local_ppm       field of the susceptibility inside the mask alone
    background_ppm  total_ppm - local_ppm
    r2star_hz       decay without dephasing across a voxel
    """

    chi_ppm: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    total_ppm: np.ndarray
    local_ppm: np.ndarray
    background_ppm: np.ndarray
    r2star_hz: np.ndarray


@dataclass(frozen=True)
class Head:
    """A simulated scan and its truth."""

    scan: Scan
    truth: Truth


def simulate_head(
    grid: Grid = DEMO_GRID,
    *,
    b0_tesla: float = 3.0,
    echo_times_s: tuple[float, ...] = (0.005, 0.012, 0.019, 0.026),
    peak_snr: float = 100.0,
    seed: int = 0,
    lesions: tuple[Lesion, ...] = ("calcification", "haemorrhage"),
    bipolar_rad: float = 0.0,
    oversample: int = 2,
) -> Head:
    """Simulate a head that fills `grid`; the same arguments give the same head, and another seed another one.

    peak_snr     largest magnitude over the noise's standard deviation in each of the real and imaginary parts; > 0
    lesions      which to place, any of "calcification", "haemorrhage"
    bipolar_rad  phase across the field of view along x between odd and even echoes; 0 is a monopolar readout
    oversample   fine voxels along the shortest edge of a voxel, 1 to 4
    Field strength and echo times are checked as for any scan. Raises UsageError on options out of range.
    """
    if not peak_snr > 0:
        raise UsageError(f"peak_snr must be positive, got {peak_snr}")
    if not 1 <= oversample <= 4:
        raise UsageError(f"oversample must lie between 1 and 4, got {oversample}")
    unknown = [name for name in lesions if name not in ("calcification", "haemorrhage")]
    if unknown:
        raise UsageError(f"no such lesion: {unknown}; there are calcification and haemorrhage")
    shape_seed, field_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    anatomy = Anatomy(np.random.default_rng(shape_seed))
    layout = _layout(grid, oversample)
    canvas, hull = _draw(anatomy, layout, b0_tesla, lesions)
    return _expose(
        grid, layout, canvas, hull, anatomy, b0_tesla, echo_times_s, peak_snr, bipolar_rad, field_seed, noise_seed
    )


@dataclass(frozen=True)
class _Layout:
    """How the fine grid lies over the scan's: fine = factor x coarse, `inner` the field of view in it."""

    factor: tuple[int, int, int]
    block: tuple[int, int, int]
    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    step_mm: tuple[float, float, float]  # of the fine grid, in real mm
    scale: float  # real mm a head mm
    origin_mm: tuple[float, float, float]  # head mm of fine voxel (0, 0, 0)
    inner: tuple[slice, slice, slice]


def _layout(grid: Grid, oversample: int) -> _Layout:
    fov = [n * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)]
    scale = min(1.0, *(f / need for f, need in zip(fov, HEAD_MM, strict=True)))
    base = max(min(grid.voxel_mm), scale)
    factor = [int(np.clip(round(oversample * v / base), oversample, 4 * oversample)) for v in grid.voxel_mm]
    step = [v / f for v, f in zip(grid.voxel_mm, factor, strict=True)]
    block = [max(1, round(BLOCK_MM * scale / s)) for s in step]
    margin = [int(np.ceil(MARGIN_MM * scale / v)) * f for v, f in zip(grid.voxel_mm, factor, strict=True)]
    need = [n * f + 2 * m for n, f, m in zip(grid.shape, factor, margin, strict=True)]
    shape = [b * smooth_size(-(-n // b)) for n, b in zip(need, block, strict=True)]
    lift = min(14.0, fov[2] / scale / 2 - 76)  # the brain sits high in a tall field of view, under its top in a low one
    middle = (0.0, 0.0, -lift)
    origin = [c - f / scale / 2 + (0.5 - m) * s / scale for c, f, m, s in zip(middle, fov, margin, step, strict=True)]
    return _Layout(
        (factor[0], factor[1], factor[2]),
        (block[0], block[1], block[2]),
        (shape[0], shape[1], shape[2]),
        (margin[0], margin[1], margin[2]),
        (step[0], step[1], step[2]),
        scale,
        (origin[0], origin[1], origin[2]),
        (
            slice(margin[0], margin[0] + grid.shape[0] * factor[0]),
            slice(margin[1], margin[1] + grid.shape[1] * factor[1]),
            slice(margin[2], margin[2] + grid.shape[2] * factor[2]),
        ),
    )


def _draw(anatomy: Anatomy, layout: _Layout, b0_tesla: float, lesions: tuple[Lesion, ...]) -> tuple[Canvas, np.ndarray]:
    lines = [
        o + np.arange(n) * s / layout.scale
        for o, n, s in zip(layout.origin_mm, layout.shape, layout.step_mm, strict=True)
    ]
    canvas = Canvas(
        (lines[0], lines[1], lines[2]),
        np.full(layout.shape, AIR_CHI_PPM, np.float32),
        np.zeros(layout.shape, np.float32),
        np.zeros(layout.shape, np.float32),
        np.zeros(layout.shape, np.uint8),
        np.empty(layout.shape, np.float32),
        b0_tesla,
    )
    hull = paint_large(canvas, anatomy)
    paint_deep(canvas, anatomy)
    paint_air(canvas, anatomy, hull)
    paint_veins(canvas, anatomy)
    for tissue, side in (("calcification", 1), ("haemorrhage", -1)):
        if tissue in lesions:
            paint_lesion(canvas, anatomy, tissue, side)
    return canvas, hull


def _neck(anatomy: Anatomy, layout: _Layout) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Blocks of a larger domain, down the neck; susceptibility relative to air, without the details."""
    below = round(BELOW_MM / BLOCK_MM)
    lines = []
    for o, n, s, b, extra in zip(
        layout.origin_mm, layout.shape, layout.step_mm, layout.block, (0, 0, below), strict=True
    ):
        size = b * s / layout.scale
        lines.append(o + (b - 1) / 2 * s / layout.scale + np.arange(-extra, n // b) * size)
    points = (lines[0][:, None, None], lines[1][None, :, None], lines[2][None, None, :])
    head = anatomy.surfaces(points)["head"]
    return (-AIR_CHI_PPM * np.clip(0.5 + head / BLOCK_MM, 0, 1)).astype(np.float32), (0, 0, below)


def _harmonics(grid: Grid) -> np.ndarray:
    """Shim fields up to second order (9, x, y, z), axes scaled to [-1, 1] along the longest edge."""
    half = max(n * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)) / 2
    lines = [(np.arange(n) - (n - 1) / 2) * v / half for n, v in zip(grid.shape, grid.voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*lines, indexing="ij")
    terms = (np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y)
    return np.stack(terms).astype(np.float32)


def _expose(
    grid: Grid,
    layout: _Layout,
    canvas: Canvas,
    hull: np.ndarray,
    anatomy: Anatomy,
    b0_tesla: float,
    echo_times_s: tuple[float, ...],
    peak_snr: float,
    bipolar_rad: float,
    field_seed: np.random.SeedSequence,
    noise_seed: np.random.SeedSequence,
) -> Head:
    """Fields, shim, signal and noise of a painted head."""
    factor, inner = layout.factor, layout.inner
    mask = block_mean(hull[inner].astype(np.float32), factor) > -1.0
    del hull
    labels = _majority(canvas.label[inner], factor)
    chi_ppm = np.where(mask, block_mean(np.ascontiguousarray(canvas.chi_ppm[inner]), factor), np.float32(0))
    r2star_hz = block_mean(np.ascontiguousarray(canvas.r2star_hz[inner]), factor)
    canvas.texture = np.empty(0, np.float32)

    inside = np.zeros(layout.shape, bool)
    inside[inner] = _repeat(mask, factor)
    local = free_space_field(np.where(inside, canvas.chi_ppm, 0), layout.step_mm, grid.b0_dir, layout.block)
    local_ppm = block_mean(np.ascontiguousarray(local[inner]), factor)
    del local, inside
    far, start = _neck(anatomy, layout)
    canvas.chi_ppm -= np.float32(AIR_CHI_PPM)
    total = free_space_field(canvas.chi_ppm, layout.step_mm, grid.b0_dir, layout.block, far, start)
    canvas.chi_ppm = np.empty(0, np.float32)
    total = np.ascontiguousarray(total[inner])

    rng = np.random.default_rng(field_seed)
    basis = _harmonics(grid)
    unshimmed = block_mean(total, factor)
    fit = np.linalg.lstsq(basis[:, mask].T.astype(float), unshimmed[mask].astype(float), rcond=None)[0]
    shim = -fit * rng.uniform(0.7, 1.0, len(fit)) + rng.normal(0, 0.05, len(fit))
    lines = [(np.arange(n * f) + 0.5) / f - 0.5 for n, f in zip(grid.shape, factor, strict=True)]
    x, y, z = (cubic_weights(line, 0, 1, n) for line, n in zip(lines, grid.shape, strict=True))
    shim_ppm = Upsampled(np.tensordot(shim.astype(np.float32), basis, 1), (x, y, z))
    for i in range(0, total.shape[0], factor[0]):
        total[i : i + factor[0]] += shim_ppm.planes(slice(i, i + factor[0]))
    total_ppm = block_mean(total, factor)

    offset = np.tensordot(rng.normal(0, (1.5, *(0.8,) * 3, *(0.4,) * 5)).astype(np.float32), basis, 1)
    gain = np.exp(np.tensordot(rng.normal(0, (0.0, *(0.15,) * 3, *(0.12,) * 5)).astype(np.float32), basis, 1))
    signal, r2star, fat = canvas.signal[inner], canvas.r2star_hz[inner], canvas.label[inner] == TISSUES["fat"].label
    ramp = basis[1] / max(float(np.abs(basis[1]).max()), 1e-6) / 2 + np.float32(0.1)
    volumes = []
    for echo, te in enumerate(echo_times_s):
        image = np.empty(grid.shape, np.complex64)
        per_ppm = np.float32(rad_per_ppm(b0_tesla, te))
        for i in range(grid.shape[0]):
            slab = slice(i * factor[0], (i + 1) * factor[0])
            phase = per_ppm * (total[slab] + np.float32(FAT_SHIFT_PPM) * fat[slab])
            size = signal[slab] * np.exp(np.float32(-te) * r2star[slab])
            image[i].real = block_mean(size * np.cos(phase), factor)[0]
            image[i].imag = block_mean(size * np.sin(phase), factor)[0]
        readout = np.float32(bipolar_rad * (-0.5 if echo % 2 == 0 else 0.5)) * ramp
        image *= gain * np.exp(1j * (offset + readout))
        volumes.append(image)
    rng = np.random.default_rng(noise_seed)
    sigma = np.float32(max(float(np.abs(v).max()) for v in volumes) / peak_snr)
    for image in volumes:
        image.real += sigma * rng.standard_normal(grid.shape, np.float32)
        image.imag += sigma * rng.standard_normal(grid.shape, np.float32)
    magnitude = np.stack([np.abs(v) for v in volumes])
    phase_rad = np.stack([np.angle(v) for v in volumes])
    scan = Scan(magnitude, phase_rad, echo_times_s, b0_tesla, grid)
    truth = Truth(chi_ppm, mask, labels, total_ppm, local_ppm, total_ppm - local_ppm, r2star_hz)
    return Head(scan, truth)


def _repeat(coarse: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    for axis, count in enumerate(factor):
        coarse = np.repeat(coarse, count, axis)
    return coarse


def _majority(fine: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """The commonest label of each block."""
    shape = tuple(n // f for n, f in zip(fine.shape, factor, strict=True))
    best, out = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for tissue in TISSUES.values():
        share = np.zeros(shape, np.float32)
        for i in range(shape[0]):
            slab = fine[i * factor[0] : (i + 1) * factor[0]] == tissue.label
            if slab.any():
                share[i] = block_mean(slab.astype(np.float32), factor)[0]
        better = share > best
        best[better], out[better] = share[better], tissue.label
    return out
