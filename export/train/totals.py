"""Training samples whose field is a total one: simulated heads with their air and neck, and shapes between sources.

A head's field is what its phase gives (offset, unwrapping, fit), or the true one with the scan's noise. The loop's
starting point is joint_tv's, so that the network sees the background as it is left at inference.
"""

from dataclasses import replace

import numpy as np

from export.train import scenes
from export.train.simulate import CLEAN_SHARE, MOST_NOISE_PPM, TIMES_S, Sample, deviation_ppm, random_b0
from qsm_runtime import stages
from qsm_runtime.errors import QsmError
from qsm_runtime.grid import Grid
from qsm_runtime.networks.joint_proximal import prepare
from qsm_runtime.phantom import simulate_head
from qsm_runtime.phantom.freespace import block_mean, free_space_field
from qsm_runtime.phantom.head import Head
from qsm_runtime.scan import Scan

FIRST_HEAD = 50_000  # seeds: neither the benchmarks' nor those of scenes.heads
AIR_PPM = 9.4
LEAST_VOXELS = 8000


def random_head(rng: np.random.Generator, index: int) -> tuple[Head, float]:
    """A head on a grid of 56 to 112 voxels across, and its field strength."""
    voxel = scenes.random_voxel_mm(rng)
    mean = float(np.prod(voxel)) ** (1 / 3)
    across = int(rng.choice((56, 68, 80, 96, 112), p=(0.15, 0.25, 0.25, 0.25, 0.1)))
    shape = [max(24, round(across * share * mean / v)) for share, v in zip((1.0, 1.2, 1.0), voxel, strict=True)]
    grid = Grid((shape[0], shape[1], shape[2]), voxel, random_b0(rng))
    b0_tesla = float(rng.choice(list(TIMES_S), p=(0.2, 0.5, 0.3)))
    stretch = float(rng.uniform(0.8, 1.2))
    times = tuple(stretch * t for t in TIMES_S[b0_tesla][: int(rng.integers(3, 5))])
    snr = float(np.exp(rng.uniform(np.log(25), np.log(250))))
    lesions = tuple(name for name in scenes.LESIONS if rng.random() < 0.5)
    return simulate_head(
        grid, b0_tesla=b0_tesla, echo_times_s=times, peak_snr=snr, seed=FIRST_HEAD + index, lesions=lesions
    ), b0_tesla


def field_of(scan: Scan, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Total field and reliability as the default recipe has them."""
    phase = stages.method("offset", "mcpc3ds")(
        scan.phase_rad, mask, scan.grid, magnitude=scan.magnitude, echo_times_s=scan.echo_times_s
    )
    phase = stages.method("unwrap", "romeo")(
        phase, mask, scan.grid, magnitude=scan.magnitude, echo_times_s=scan.echo_times_s
    )
    return stages.method("field", "weighted")(phase, scan.magnitude, scan.echo_times_s, scan.b0_tesla, mask, scan.grid)


def head_samples(rng: np.random.Generator, index: int, parts: int) -> list[Sample]:
    """The whole brain, and `parts` pieces of it that see the rest of the head as background."""
    head, _ = random_head(rng, index)
    scan, truth = head.scan, head.truth
    mask = truth.mask
    if rng.random() < 0.4:
        try:
            mask = mask & stages.method("mask", "brain")(scan.magnitude, scan.phase_rad, scan.grid)
        except QsmError:
            mask = truth.mask
    try:
        total, reliability = field_of(scan, mask)
    except QsmError:
        return []
    true_field = rng.random() < 0.5
    clean = true_field and rng.random() < 0.5
    if true_field:  # the field as it is, with the noise that the scan has or without
        deviation = np.minimum(1 / np.maximum(reliability, 1e-6), MOST_NOISE_PPM)
        noise = deviation * rng.standard_normal(total.shape, np.float32)
        total = truth.total_ppm.copy() if clean else truth.total_ppm + noise
    told = None if rng.random() < (0.7 if clean else 0.1) else reliability
    found = [made(total, mask, scan.grid, told, truth.chi_ppm)]
    for _ in range(parts):
        size = [min(n, int(rng.integers(40, 73))) for n in mask.shape]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(mask.shape, size, strict=True)]
        where = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        piece = mask[where] & scenes.blob(rng, tuple(size))
        grid = replace(scan.grid, shape=(size[0], size[1], size[2]))
        some = None if told is None else told[where]
        found.append(made(total[where], piece, grid, some, truth.chi_ppm[where]))
    return [s for s in found if s is not None]


def outside_sources(rng: np.random.Generator, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Field in ppm of tissue, fat and air around a mask."""
    pad = 12
    around = np.pad(mask, pad)
    source = np.float32(rng.uniform(0.02, 0.3)) * scenes.grid_noise(rng, around.shape, 5)
    for _ in range(int(rng.integers(1, 6))):
        source -= np.float32(AIR_PPM) * scenes.ellipsoid_at(rng, around.shape, 3.0, 14.0)
    source = np.where(around, 0, np.maximum(source, -AIR_PPM)).astype(np.float32)
    return free_space_field(source, grid.voxel_mm, grid.b0_dir, (1, 1, 1))[(slice(pad, -pad),) * 3]


def shape_sample(rng: np.random.Generator, scene: scenes.Scene) -> Sample | None:
    """A scene of scenes.py with sources all around it."""
    if scene.mask.sum() < LEAST_VOXELS:
        return None
    grid = Grid(scene.mask.shape, scene.voxel_mm, random_b0(rng))
    factor = scenes.FACTOR
    step = tuple(v / factor for v in scene.voxel_mm)
    block = tuple(max(1, round(4.0 / s)) for s in step)
    fine = np.pad(scene.chi_ppm, [(0, -n % b) for n, b in zip(scene.chi_ppm.shape, block, strict=True)])
    field = free_space_field(fine, step, grid.b0_dir, block)[tuple(slice(n) for n in scene.chi_ppm.shape)]
    local = block_mean(field, (factor,) * 3)
    truth = np.where(scene.mask, block_mean(scene.chi_ppm, (factor,) * 3), 0).astype(np.float32)
    snr = float(np.exp(rng.uniform(np.log(25), np.log(250))))
    deviation = deviation_ppm(rng, scene, field, local, snr)
    reliability = np.where(scene.mask & (deviation < 1), 1 / deviation, 0).astype(np.float32)
    total = local + outside_sources(rng, scene.mask, grid)
    clean = rng.random() < CLEAN_SHARE
    if not clean:
        total += np.minimum(deviation, MOST_NOISE_PPM) * rng.standard_normal(grid.shape, np.float32)
    return made(total, scene.mask, grid, None if rng.random() < (0.7 if clean else 0.1) else reliability, truth)


def made(
    total_ppm: np.ndarray, mask: np.ndarray, grid: Grid, reliability: np.ndarray | None, chi_ppm: np.ndarray
) -> Sample | None:
    """What inference prepares, and the truth; None where there is too little to invert."""
    if mask.sum() < LEAST_VOXELS:
        return None
    total_ppm = np.ascontiguousarray(np.where(mask, total_ppm, 0), np.float32)
    told = None if reliability is None else np.ascontiguousarray(np.where(mask, reliability, 0), np.float32)
    try:
        prepared = prepare(total_ppm, np.ascontiguousarray(mask), grid, reliability=told)
    except QsmError:
        return None
    inner = prepared.box.slices
    return Sample(prepared, np.where(mask, chi_ppm, np.float32(0))[inner])
