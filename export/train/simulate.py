"""From a scene to a training sample: the field a scan would give, its reliability, and the loop's starting point.

The field is that of the fine grid in free space, averaged over voxels: but for a fifth of the samples, the inversion
never sees its own kernel.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from export.train.scenes import FACTOR, Scene, grid_noise
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import smooth_size
from qsm_runtime.networks.learned_proximal import Prepared, prepare
from qsm_runtime.phantom.freespace import block_mean, free_space_field
from qsm_runtime.units import rad_per_ppm

TIMES_S = {1.5: (0.010, 0.024, 0.038, 0.052), 3.0: (0.005, 0.012, 0.019, 0.026), 7.0: (0.004, 0.009, 0.014, 0.019)}
MOST_NOISE_PPM = 0.3
DEPHASING = 0.1
SAMPLED_SHARE = 0.2  # of the samples whose field is that of the sampled dipole
CLEAN_SHARE = 0.35  # of the samples without noise
PEAK_SNR = (20.0, 1500.0)


@dataclass(frozen=True)
class Sample:
    """One training example: what inference prepares, and the truth (float32, zero outside the mask) in the same box."""

    prepared: Prepared
    chi_ppm: np.ndarray


def random_b0(rng: np.random.Generator) -> tuple[float, float, float]:
    """Along z in a third of the cases, else any direction; more of them within 45 degrees of z."""
    if rng.random() < 0.33:
        return 0.0, 0.0, 1.0
    b = rng.standard_normal(3)
    if rng.random() < 0.6:
        b = np.array((0.0, 0.0, 1.0)) + rng.uniform(0, 0.8) * b / np.linalg.norm(b)
    b /= np.linalg.norm(b)
    return float(b[0]), float(b[1]), float(b[2])


def deviation_ppm(
    rng: np.random.Generator, scene: Scene, field_ppm: np.ndarray, local_ppm: np.ndarray, peak_snr: float
) -> np.ndarray:
    """Standard deviation of the combined field of a multi-echo scan (qsm_runtime.field.weighted's model)."""
    b0_tesla = float(rng.choice(list(TIMES_S)))
    stretch = float(rng.uniform(0.7, 1.3))
    times_s = [t * stretch for t in TIMES_S[b0_tesla][: int(rng.integers(2, 5))]]
    receive = np.exp(0.25 * grid_noise(rng, local_ppm.shape, 14))
    block = (FACTOR,) * 3
    spread = np.sqrt(sum(np.gradient(local_ppm, axis=a) ** 2 for a in range(3)))
    precision, peak = np.zeros(local_ppm.shape), 0.0
    magnitudes = []
    for te in times_s:
        angle = np.float32(rad_per_ppm(b0_tesla, te)) * field_ppm
        size = scene.signal * np.exp(-np.float32(te) * scene.r2star_hz)
        m = np.hypot(block_mean(size * np.cos(angle), block), block_mean(size * np.sin(angle), block)) * receive
        magnitudes.append(m)
        peak = max(peak, float(m.max()))
    noise = max(peak, 0.9) / peak_snr
    for te, m in zip(times_s, magnitudes, strict=True):
        bias = DEPHASING * (rad_per_ppm(b0_tesla, te) * spread) ** 2
        precision += rad_per_ppm(b0_tesla, te) ** 2 / ((noise / np.maximum(m, 1e-6)) ** 2 + bias**2)
    misfit = rng.chisquare(len(times_s) - 1, local_ppm.shape) / (len(times_s) - 1)
    return np.sqrt(np.maximum(misfit, 1) / precision).astype(np.float32)


def outliers(rng: np.random.Generator, shape: tuple[int, ...], most: float) -> np.ndarray:
    """Patches of field that are plainly wrong and that no reliability tells of."""
    out = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 15))):
        at = [int(rng.integers(0, n)) for n in shape]
        size = rng.integers(1, 4, 3)
        out[tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))] += float(rng.normal(0, most))
    return out


def leftover_background(rng: np.random.Generator, scene: Scene, grid: Grid, rms_ppm: float) -> np.ndarray:
    """A harmonic field from beyond the mask, as background removal leaves some of."""
    pad = 10
    shape = tuple(n + 2 * pad for n in grid.shape)
    outside = ~ndimage.binary_dilation(np.pad(scene.mask, pad), iterations=3)
    source = np.where(outside, grid_noise(rng, shape, 5), 0).astype(np.float32)
    field = free_space_field(source, grid.voxel_mm, grid.b0_dir, (1, 1, 1))[(slice(pad, -pad),) * 3]
    size = float(field[scene.mask].std())
    return (field * np.float32(rms_ppm / size)).astype(np.float32) if size > 0 else np.zeros(grid.shape, np.float32)


def sampled_field(chi_ppm: np.ndarray, grid: Grid) -> np.ndarray:
    """Field by the sampled dipole on the map's own grid: what many public simulations take for the truth."""
    x, y, z = (smooth_size(2 * n, even=True) for n in grid.shape)
    spectrum = fft.rfftn(chi_ppm, (x, y, z)) * dipole_kernel((x, y, z), grid.voxel_mm, grid.b0_dir)
    field = fft.irfftn(spectrum, (x, y, z))[tuple(slice(n) for n in grid.shape)]
    return np.ascontiguousarray(field, np.float32)


def sample(rng: np.random.Generator, scene: Scene) -> Sample | None:
    """A sample with a B0 direction, noise and faults of its own; None where the scene is empty."""
    if scene.mask.sum() < 5000:
        return None
    grid = Grid(scene.mask.shape, scene.voxel_mm, random_b0(rng))
    step = tuple(v / FACTOR for v in scene.voxel_mm)
    block = tuple(max(1, round(4.0 / s)) for s in step)
    widths = [(0, -n % b) for n, b in zip(scene.chi_ppm.shape, block, strict=True)]
    fine = np.pad(scene.chi_ppm, widths)
    field = free_space_field(fine, step, grid.b0_dir, block)[tuple(slice(n) for n in scene.chi_ppm.shape)]
    local = block_mean(field, (FACTOR,) * 3)
    truth = np.where(scene.mask, block_mean(scene.chi_ppm, (FACTOR,) * 3), 0).astype(np.float32)
    if rng.random() < SAMPLED_SHARE:
        local = sampled_field(truth, grid)
    snr = float(np.exp(rng.uniform(*np.log(PEAK_SNR))))
    deviation = deviation_ppm(rng, scene, field, local, snr)
    reliability = np.where(scene.mask & (deviation < 1), 1 / deviation, 0).astype(np.float32)
    noisy = local.copy()
    clean = rng.random() < CLEAN_SHARE
    if not clean:
        noisy += np.minimum(deviation, MOST_NOISE_PPM) * rng.standard_normal(grid.shape, np.float32)
    spread = float(local[scene.mask].std())
    if rng.random() < 0.2:
        noisy += outliers(rng, grid.shape, 4 * spread)
    if rng.random() < 0.25:
        noisy += leftover_background(rng, scene, grid, float(rng.uniform(0.02, 0.3)) * spread)
    told = None if rng.random() < (0.7 if clean else 0.15) else reliability
    noisy = np.where(scene.mask, noisy, 0).astype(np.float32)
    if not np.isfinite(noisy).all() or spread <= 0:
        return None
    prepared = prepare(noisy, scene.mask, grid, reliability=told)
    return Sample(prepared, truth[prepared.box.slices])
