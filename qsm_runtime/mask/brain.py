"""Brain in a whole head, from signal and phase alone: no atlas, no network.

1. A surface grows from the middle of the head until it meets the dark skull (S. M. Smith, Hum. Brain Mapp. 17:143,
   2002, 10.1002/hbm.10062), on the magnitude at about 2 mm.
2. Inside it, tissue is what has a share of the signal that is usual around it; an opening cuts what hangs on by thin
   bridges (scalp, eyes, neck), and what is left keeps its veins and lesions: closed at the rim, holes filled.
3. The rim is cut back to where the phase can be trusted; deep inside, lesions and fluid without signal are kept.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import gaussian_filter

from qsm_runtime.errors import QsmWarning, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.kernels.distance import distance_outside
from qsm_runtime.kernels.morphology import dilate, erode, fill_holes, largest_component
from qsm_runtime.kernels.signal import block_mean, exceeds
from qsm_runtime.kernels.surface import enclosed, evolve, geodesic_sphere, walled_share
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.mask.quality import checked_quality, quality
from qsm_runtime.mask.threshold import FAINT, combined_signal, eroded, signal_threshold

COARSE_MM = 2.0  # about the surface's voxels, rather more than less: on finer ones it stops at sulci, and takes longer
COMPRESSION = 0.6  # exponent of the magnitude that drives the surface: dark fluid is less of a wall than bone
CLOSE_MM = 3.0  # gaps bridged when the head's middle is sought: sulci and vessels, not the skull
DEEP_MM = 6.0  # how far inside the surface such gaps are closed: nearer to it they may part brain from scalp
START = 0.75  # of the largest ball that fits into the head: where the surface starts
ITERATIONS = 400
LEVEL = 4  # 2562 vertices, about 5 mm apart on a brain
LARGEST_MM = 95.0  # no head holds a larger ball
WALL, WALL_MM = 0.5, 8.0  # a skull: less than this share of the usual signal, within this distance of the surface
MIN_WALLED = 0.75  # of the surface; heads have 0.93 and more, an abdomen about 0.4
MIN_VERTICES = 32  # of the surface within the field of view, or nothing is known about walls
MIN_OF_HEAD = 0.25  # of the volume with signal; a liver in an abdomen has a fifth
MARGIN_MM = 25.0  # how far the surface may leave the field of view where that cuts the brain
BIAS_MM = 15.0  # scale of receive sensitivity
RIM_MM = 2.0  # closing at full resolution


def brain(
    magnitude: np.ndarray,
    phase_rad: np.ndarray,
    grid: Grid,
    *,
    brightness: float = 0.6,
    fraction: float = 0.4,
    bridge_mm: float = 5.0,
    min_quality: float = 0.5,
    erode_mm: float = 0.0,
) -> np.ndarray:
    """Brain of a head; warns (QsmWarning) and falls back on `quality` where no brain-like structure is found.

    magnitude, phase_rad: float32 (echo, x, y, z), any unit and rad (wrapped).
    brightness: share of the local signal under which the surface stops, 0..1; larger means a smaller brain.
    fraction: of the usual signal nearby under which a voxel is no tissue, 0..1.
    bridge_mm: radius up to which connections to the brain are cut, >= 0.
    min_quality: phase quality that the rim must have, 0..1; 0 keeps all of it.
    erode_mm: how far the surface is moved inwards at the end, >= 0.
    Returns a bool mask (x, y, z). Raises ReconstructionError where nothing is left.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"fraction must lie in [0, 1), got {fraction}")
    if not 0 < brightness < 1 or not (np.isfinite(bridge_mm) and bridge_mm >= 0):
        raise UsageError(f"brightness must lie in (0, 1), bridge_mm be >= 0; got {brightness} and {bridge_mm}")
    combined = combined_signal(magnitude, grid)
    empty = signal_threshold(combined, 0.5 * fraction)
    straight = checked_quality(magnitude, phase_rad, combined > 0.5 * empty, min_quality)
    x, y, z = (max(1, int(COARSE_MM / v + 0.7)) for v in grid.voxel_mm)
    factor = (x, y, z)
    coarse_mm = (x * grid.voxel_mm[0], y * grid.voxel_mm[1], z * grid.voxel_mm[2])
    coarse = block_mean(combined, factor)
    inside = _inside(coarse**COMPRESSION * block_mean(straight, factor), coarse_mm, brightness)
    if inside is None:
        warnings.warn(
            "no brain was found: the mask holds all that has trustworthy phase (mask method quality); "
            "give a mask, or choose the method quality or threshold to silence this",
            QsmWarning,
            stacklevel=2,
        )
        return quality(magnitude, phase_rad, grid, erode_mm=erode_mm)
    level = np.maximum(fraction * _usual(coarse, inside, coarse_mm), np.float32(empty))
    body = _cut_bridges(inside & (coarse > level), inside, coarse_mm, bridge_mm)
    near = dilate(body, 1.01 * max(coarse_mm), coarse_mm)
    level[~near] = np.inf
    # the rest at full resolution, in the brain's box and two blocks around it
    box = box_of(near)
    blocks = tuple(slice(max(0, a - 2), b + 2) for a, b in zip(box.lo, box.hi, strict=True))
    crop = tuple(slice(s.start * f, s.stop * f) for s, f in zip(blocks, factor, strict=True))
    tissue = exceeds(combined[crop], level[blocks], factor)
    whole = fill_holes(_closed(tissue, RIM_MM, grid.voxel_mm))
    rim = _closed(largest_component(whole & (straight[crop] >= min_quality)), RIM_MM, grid.voxel_mm)
    mask = np.zeros(grid.shape, bool)
    mask[crop] = fill_holes(rim & whole)
    mask[crop] |= _deep(mask[crop], factor, coarse_mm)
    return eroded(mask, grid, erode_mm)


def _deep(mask: np.ndarray, factor: tuple[int, int, int], coarse_mm: tuple[float, float, float]) -> np.ndarray:
    """What lies deep in the mask's closed hull: a dark lesion or ventricle that a thin path joins to the outside."""
    hull = _closed(block_mean(mask.astype(np.float32), factor) > 0.5, DEEP_MM, coarse_mm)
    deep = distance_outside(~hull, coarse_mm) > DEEP_MM
    for axis, times in enumerate(factor):
        deep = np.repeat(deep, times, axis)
    return deep[tuple(slice(n) for n in mask.shape)]


def _closed(mask: np.ndarray, radius_mm: float, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    return erode(dilate(mask, radius_mm, voxel_mm), radius_mm, voxel_mm)


def _inside(drive: np.ndarray, voxel_mm: tuple[float, float, float], brightness: float) -> np.ndarray | None:
    """Voxels in the surface that met the skull; None where what it found cannot be a brain."""
    nothing, most = np.percentile(drive, (2, 98))
    faint = nothing + FAINT * (most - nothing)
    head = drive > faint
    closed = _closed(head, CLOSE_MM, voxel_mm)
    depth = distance_outside(~closed, voxel_mm)
    radius = float(depth.max())
    if not 0 < radius <= LARGEST_MM:
        return None
    centre = np.array(np.unravel_index(int(depth.argmax()), drive.shape))
    x, y, z = (((np.arange(n) - c) * v) ** 2 for n, c, v in zip(drive.shape, centre, voxel_mm, strict=True))
    ball = x[:, None, None] + y[:, None] + z < radius**2
    typical = float(np.median(drive[head & ball]))
    sphere, faces, rings = geodesic_sphere(LEVEL)
    start = centre * voxel_mm + START * radius * sphere
    low = (float(nothing), float(faint))
    points = evolve(start, rings, drive, voxel_mm, typical, low, brightness, ITERATIONS, MARGIN_MM)
    count, share = walled_share(points, drive, np.array(voxel_mm), WALL * typical, WALL_MM)
    inside = enclosed(points, faces, drive.shape, voxel_mm)
    if count < MIN_VERTICES or share < MIN_WALLED or (inside & closed).sum() < MIN_OF_HEAD * closed.sum():
        return None
    return inside


def _usual(coarse: np.ndarray, inside: np.ndarray, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Mean signal nearby inside the surface: a normalised Gaussian convolution, float32."""
    sigma = [BIAS_MM / v for v in voxel_mm]
    images = (np.where(inside, coarse, np.float32(0)), inside.astype(np.float32))
    with ThreadPoolExecutor(get_threads()) as pool:
        signal, weight = pool.map(lambda image: gaussian_filter(image, sigma, truncate=2.5), images)
    return signal / np.maximum(weight, 1e-6)


def _cut_bridges(
    tissue: np.ndarray, inside: np.ndarray, voxel_mm: tuple[float, float, float], bridge_mm: float
) -> np.ndarray:
    """The largest part that an opening leaves of the tissue, sulci closed before so that gyri survive it."""
    deep = distance_outside(~inside, voxel_mm) > DEEP_MM
    solid = fill_holes(tissue | (_closed(tissue, CLOSE_MM, voxel_mm) & deep))
    core = largest_component(distance_outside(~solid, voxel_mm) > bridge_mm)
    return solid & (distance_outside(core, voxel_mm) <= bridge_mm)
