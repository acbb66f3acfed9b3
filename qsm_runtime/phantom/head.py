"""A whole head with its truth, simulated on a finer grid than it is sampled.

The susceptibility has no staircase edges and the field no coarse kernel: nobody inverts with what made the data.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.phantom.anatomy import Anatomy, paint_large
from qsm_runtime.phantom.canvas import Canvas
from qsm_runtime.phantom.exposure import Exposure, expose, shim, shim_fields
from qsm_runtime.phantom.freespace import block_mean, free_space_field
from qsm_runtime.phantom.layout import BLOCK_MM, Layout
from qsm_runtime.phantom.organs import paint_air, paint_deep, paint_lesion
from qsm_runtime.phantom.tissues import AIR_CHI_PPM, TISSUES
from qsm_runtime.phantom.veins import paint_veins
from qsm_runtime.scan import Scan

DEMO_GRID = Grid((96, 112, 96), (2.0, 2.0, 2.0))
BELOW_MM = 150.0  # of neck under the fine grid
Lesion = Literal["calcification", "haemorrhage"]


@dataclass(frozen=True)
class Truth:
    """What the scan was made from, on the scan's grid; arrays float32 unless said.

    chi_ppm         relative to soft tissue, zero outside the mask
    mask            bool, the brain with the fluid in its sulci
    labels          uint8, the commonest tissue of the voxel, codes in qsm_runtime.phantom.LABELS
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
    lesions: tuple[Lesion, ...] = get_args(Lesion),
    bipolar_rad: float = 0.0,
    oversample: int = 2,
) -> Head:
    """Simulate a head that fills `grid`, x to its right, y to its front and z up, as an RAS image has them.

    The same arguments give the same head, another seed another one, another grid the same one sampled otherwise;
    where the field of view is too small for a head, the head is made smaller.
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
    if not np.isfinite(bipolar_rad):
        raise UsageError(f"bipolar_rad must be finite, got {bipolar_rad}")
    unknown = sorted(set(lesions) - set(get_args(Lesion)))
    if unknown:
        raise UsageError(f"no such lesion: {', '.join(unknown)}; there are {', '.join(get_args(Lesion))}")
    # a scan of two voxels refuses bad echo times and field strengths before the work, and says so as any scan does
    tiny = np.tile((0.0, 1.0), (np.size(echo_times_s), 1, 1, 1))
    Scan(tiny, tiny, echo_times_s, b0_tesla, Grid((1, 1, 2)))
    shape_rng, field_rng, noise_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    anatomy, layout = Anatomy(shape_rng), Layout.of(grid, oversample)
    canvas, hull = _draw(anatomy, layout, b0_tesla, lesions)
    factor, inner = layout.factor, layout.inner

    mask = block_mean(hull[inner].astype(np.float32), factor) > -1.0
    labels = _commonest(canvas.label[inner], factor)
    chi_ppm = np.where(mask, block_mean(canvas.chi_ppm[inner], factor), np.float32(0))
    local = free_space_field(_within(mask, canvas, layout), layout.step_mm, grid.b0_dir, layout.block)
    local_ppm = block_mean(local[inner], factor)
    del local, hull

    canvas.chi_ppm -= np.float32(AIR_CHI_PPM)  # so that beyond the grid lies air
    far, start = _neck(anatomy, layout)
    field_ppm = free_space_field(canvas.chi_ppm, layout.step_mm, grid.b0_dir, layout.block, far, start)[inner]
    field_ppm = np.ascontiguousarray(field_ppm)
    canvas.chi_ppm = np.empty(0, np.float32)

    basis = shim_fields(grid)
    shim(field_ppm, mask, basis, factor, field_rng)
    exposure = Exposure(b0_tesla, echo_times_s, peak_snr, bipolar_rad)
    magnitude, phase_rad = expose(exposure, canvas, field_ppm, basis, layout, field_rng, noise_rng)
    total_ppm = block_mean(field_ppm, factor)
    r2star_hz = block_mean(canvas.r2star_hz[inner], factor)
    truth = Truth(chi_ppm, mask, labels, total_ppm, local_ppm, total_ppm - local_ppm, r2star_hz)
    return Head(Scan(magnitude, phase_rad, echo_times_s, b0_tesla, grid), truth)


def _draw(anatomy: Anatomy, layout: Layout, b0_tesla: float, lesions: tuple[Lesion, ...]) -> tuple[Canvas, np.ndarray]:
    """The painted head, and the distance to the brain's hull."""
    canvas = Canvas.blank(layout.lines(), b0_tesla)
    hull = paint_large(canvas, anatomy)
    paint_deep(canvas, anatomy)
    paint_air(canvas, anatomy, hull)
    paint_veins(canvas, anatomy)
    for side, lesion in zip((1, -1), get_args(Lesion), strict=True):
        if lesion in lesions:
            paint_lesion(canvas, anatomy, lesion, side)
    canvas.texture = np.empty(0, np.float32)
    return canvas, hull


def _within(mask: np.ndarray, canvas: Canvas, layout: Layout) -> np.ndarray:
    """The fine susceptibility inside the scan's mask, zero elsewhere."""
    fine = mask
    for axis, count in enumerate(layout.factor):
        fine = np.repeat(fine, count, axis)
    out = np.zeros(layout.shape, np.float32)
    out[layout.inner] = np.where(fine, canvas.chi_ppm[layout.inner], 0)
    return out


def _neck(anatomy: Anatomy, layout: Layout) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Susceptibility of blocks relative to air, down the neck and without details; which is the fine grid's first."""
    below = round(BELOW_MM / BLOCK_MM)
    x, y, z = layout.block_lines(below)
    head = anatomy.surfaces((x[:, None, None], y[None, :, None], z[None, None, :]))["head"]
    return (-AIR_CHI_PPM * np.clip(0.5 + head / BLOCK_MM, 0, 1)).astype(np.float32), (0, 0, below)


def _commonest(fine: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """The commonest label of each block; air where there is a tie with it."""
    shape = tuple(n // f for n, f in zip(fine.shape, factor, strict=True))
    out = np.zeros(shape, np.uint8)
    for i in range(shape[0]):
        slab, best = fine[i * factor[0] : (i + 1) * factor[0]], np.zeros(shape[1:], np.float32)
        present = np.bincount(slab.ravel(), minlength=256) > 0
        for tissue in TISSUES.values():
            if present[tissue.label]:
                share = block_mean((slab == tissue.label).astype(np.float32), factor)[0]
                out[i][share > best] = tissue.label
                np.maximum(best, share, out=best)
    return out
