"""Susceptibility of random objects on a fine grid: simulated heads, a labelled head, and shapes of no anatomy.

A Scene is twice as fine as the grid that it will be sampled on. Nothing here knows B0 or noise; see simulate.py.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from qsm_runtime.grid import Grid
from qsm_runtime.phantom.anatomy import Anatomy
from qsm_runtime.phantom.freespace import block_mean
from qsm_runtime.phantom.head import _draw
from qsm_runtime.phantom.layout import Layout

FACTOR = 2  # fine voxels a sampled voxel, each axis
LESIONS = ("calcification", "haemorrhage")
HELD_OUT_SEEDS = (0, 1, 2, 7)  # heads of the benchmarks; training heads start at FIRST_SEED
FIRST_SEED = 1000
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """chi_ppm, signal, r2star_hz: float32 on the fine grid; mask: bool on the sampled grid; voxel_mm: of the latter."""

    chi_ppm: np.ndarray
    signal: np.ndarray
    r2star_hz: np.ndarray
    mask: np.ndarray
    voxel_mm: Vector


def random_voxel_mm(rng: np.random.Generator) -> Vector:
    """0.6 to 3 mm; half are cubes, else one axis is up to three times as long."""
    size = float(np.exp(rng.uniform(np.log(0.6), np.log(2.2))))
    voxel = [size] * 3
    if rng.random() < 0.5:
        axis = 2 if rng.random() < 0.7 else int(rng.integers(3))
        voxel[axis] = min(size * float(rng.uniform(1.2, 3.0)), 3.5)
    return voxel[0], voxel[1], voxel[2]


def grid_noise(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Smooth noise of unit variance, float32; made coarse where it is wide."""
    zoom = max(1, int(width / 2))
    coarse = [n // zoom + 4 for n in shape]
    values = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), width / zoom, mode="wrap")
    if zoom > 1:
        values = ndimage.zoom(values, zoom, order=1)
    values = values[tuple(slice(n) for n in shape)]
    return (values - values.mean()) / values.std()


def blob(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A rounded region that fills most of a box, with bites taken out of it."""
    lines = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    power = rng.uniform(2.0, 8.0)
    radii = rng.uniform(0.85, 1.0, 3)
    radius = sum(np.abs(a / r) ** power for a, r in zip(lines, radii, strict=True)) ** (1 / power)
    rough = grid_noise(rng, shape, rng.uniform(4, 12))
    return radius + rng.uniform(0.0, 0.08) * rough < 0.97


def heads(rng: np.random.Generator, seed: int, across: int, parts: int, side: int) -> list[Scene]:
    """Parts of one simulated head whose field of view spans `across` voxels; each at most `side` voxels wide."""
    voxel = random_voxel_mm(rng)
    mean = float(np.prod(voxel)) ** (1 / 3)
    # the longer axes get fewer voxels, so that the head keeps its shape
    shape = [max(24, round(across * share * mean / v)) for share, v in zip((1.0, 1.2, 1.0), voxel, strict=True)]
    grid = Grid((shape[0], shape[1], shape[2]), voxel)
    layout = Layout.of(grid, FACTOR)
    lesions = tuple(name for name in LESIONS if rng.random() < 0.6)
    canvas, hull = _draw(Anatomy(np.random.default_rng(seed)), layout, float(rng.choice((1.5, 3.0, 7.0))), lesions)
    inner = layout.inner
    brain = block_mean(hull[inner].astype(np.float32), layout.factor) > -1.0
    step = tuple(f for f in layout.factor)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    out = []
    for _ in range(parts):
        where = []
        for s in box:
            length = s.stop - s.start
            size = min(length, side)
            start = s.start + int(rng.integers(0, length - size + 1))
            where.append(slice(start, start + size))
        mask = brain[tuple(where)]
        if any(w.stop - w.start < b.stop - b.start for w, b in zip(where, box, strict=True)) or rng.random() < 0.2:
            mask = mask & blob(rng, mask.shape)
        if mask.sum() < 0.15 * mask.size:
            continue
        fine = tuple(
            slice(i.start + w.start * f, i.start + w.stop * f) for i, w, f in zip(inner, where, step, strict=True)
        )
        arrays = []
        for array in (canvas.chi_ppm, canvas.signal, canvas.r2star_hz):
            part = array[fine]
            for axis, f in enumerate(step):  # long axes are painted finer than FACTOR: bring them to it
                if f > FACTOR and f % FACTOR == 0:
                    block = [1, 1, 1]
                    block[axis] = f // FACTOR
                    part = block_mean(part, (block[0], block[1], block[2]))
                elif f > FACTOR:
                    block = [1, 1, 1]
                    block[axis] = f
                    part = np.repeat(block_mean(part, (block[0], block[1], block[2])), FACTOR, axis)
            arrays.append(np.ascontiguousarray(part))
        chi = arrays[0].copy()
        inside = grown(mask)
        if rng.random() < 0.5:  # other contrasts than the phantom's own
            chi *= np.float32(rng.uniform(0.5, 1.6))
        if rng.random() < 0.3:
            chi = chi + np.float32(rng.uniform(0.002, 0.015)) * grid_noise(rng, chi.shape, rng.uniform(1.5, 6))
        if rng.random() < 0.35:
            chi = chi + lesion_field(rng, chi.shape, int(rng.integers(1, 4)))
        out.append(Scene(np.where(inside, chi, 0).astype(np.float32), arrays[1], arrays[2], mask, voxel))
    return out


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask on the fine grid."""
    for axis in range(3):
        mask = np.repeat(mask, FACTOR, axis)
    return mask


def ellipsoid_at(rng: np.random.Generator, shape: tuple[int, ...], least: float, most: float) -> np.ndarray:
    """Volume fraction of a random ellipsoid with radii of `least` to `most` voxels."""
    lines = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    centre = [rng.uniform(0.1, 0.9) * n for n in shape]
    radii = np.exp(rng.uniform(np.log(least), np.log(most), 3))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    q = [a - c for a, c in zip(lines, centre, strict=True)]
    r2 = sum((sum(t * a for t, a in zip(row, q, strict=True)) / r) ** 2 for row, r in zip(turn, radii, strict=True))
    return np.clip(0.5 + (1 - np.sqrt(r2)) * float(radii.min()), 0, 1).astype(np.float32)


def lesion_field(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Bleeds and calcifications: compact, strong, of either sign."""
    out = np.zeros(shape, np.float32)
    for _ in range(count):
        value = float(rng.choice((-1, 1)) * np.exp(rng.uniform(np.log(0.15), np.log(4.0))))
        out += value * ellipsoid_at(rng, shape, 1.5, 9.0)
    return out


def tubes(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Volume fraction of wandering vessels, many thinner than a voxel."""
    seeds = np.zeros(shape, np.float32)
    thick = np.zeros(shape, np.float32)
    for _ in range(count):
        length = int(rng.integers(30, 160))
        way = rng.standard_normal(3)
        way /= np.linalg.norm(way)
        bend = np.cumsum(rng.normal(0, 0.05, (length, 3)), 0)
        steps = way + bend
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        points = np.rint(rng.uniform(0, 1, 3) * shape + np.cumsum(0.7 * steps, 0)).astype(int)
        points = points[((points >= 0) & (points < shape)).all(1)]
        (thick if rng.random() < 0.25 else seeds)[tuple(points.T)] = rng.uniform(0.4, 1.0)
    wide = ndimage.maximum_filter(thick, footprint=ndimage.generate_binary_structure(3, 1), mode="constant")
    if rng.random() < 0.5:
        wide = ndimage.maximum_filter(wide, footprint=ndimage.generate_binary_structure(3, 1), mode="constant")
    return np.minimum(ndimage.gaussian_filter(np.maximum(seeds, wide), 0.4) * 1.3, 1)


def textured(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return sum(rng.uniform(0, 1) * grid_noise(rng, shape, w) for w in (1.5, 4.0, 10.0)).astype(np.float32)


def decorated(rng: np.random.Generator, chi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds nuclei, vessels, texture, lesions; returns chi, signal and R2* that go with it."""
    shape = chi.shape
    for _ in range(int(rng.integers(2, 12))):
        part = ellipsoid_at(rng, shape, 3.0, 22.0)
        chi = chi + part * (float(rng.normal(0.07, 0.07)) - chi * float(rng.uniform(0, 1)))
    vessels = tubes(rng, shape, int(rng.integers(0, 90)))
    chi = chi + vessels * (float(rng.uniform(0.1, 0.45)) - chi)
    chi = chi + float(rng.uniform(0.002, 0.015)) * textured(rng, shape)
    if rng.random() < 0.4:
        chi = chi + lesion_field(rng, shape, int(rng.integers(1, 4)))
    signal = 0.75 + 0.1 * grid_noise(rng, shape, 12)
    r2star = 15 + 120 * np.abs(chi) + 4 * np.abs(grid_noise(rng, shape, 6))
    return chi.astype(np.float32), np.clip(signal, 0.05, 1.2).astype(np.float32), r2star.astype(np.float32)


def shapes(rng: np.random.Generator, side: int) -> Scene:
    """Regions between level sheets of random noise, boxes and ellipsoids: no anatomy at all."""
    size = tuple(int(n) for n in rng.integers(int(0.75 * side), side + 1, 3))
    fine = tuple(FACTOR * n for n in size)
    chi = np.zeros(fine, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        width = float(np.exp(rng.uniform(np.log(4), np.log(30))))
        noise = grid_noise(rng, fine, width)
        edges = np.sort(rng.normal(0, 0.8, int(rng.integers(1, 4))))
        values = rng.normal(0, 0.04, edges.size + 1).astype(np.float32)
        level = np.full(fine, values[0])
        slope = 1.0 / max(float(np.abs(np.diff(noise, axis=0)).mean()) * 1.5, 1e-6)
        for edge, before, after in zip(edges, values[:-1], values[1:], strict=True):
            level += np.clip(0.5 + (noise - edge) * slope, 0, 1) * (after - before)
        chi += level
    for _ in range(int(rng.integers(0, 6))):  # boxes
        where = []
        for n in fine:
            length = int(rng.integers(4, max(6, n // 3)))
            start = int(rng.integers(0, n - length))
            where.append(slice(start, start + length))
        chi[tuple(where)] += float(rng.normal(0, 0.1))
    chi, signal, r2star = decorated(rng, chi)
    mask = blob(rng, size)
    return Scene(np.where(grown(mask), chi, 0), signal, r2star, mask, random_voxel_mm(rng))


@cache
def label_image(path: Path) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(path).dataobj).astype(np.uint8)


def labelled(rng: np.random.Generator, path: Path, side: int) -> Scene:
    """A part of a labelled head (2 white, 3 grey, 4 fluid), its tissues given random susceptibilities."""
    labels = label_image(path)
    brain = (labels >= 2) & (labels <= 4)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    zoom = float(rng.uniform(0.5, 1.6))  # fine voxels a label voxel: 0.5 shows the whole head, 1.6 a part
    length = tuple(min(int(FACTOR * side / zoom), s.stop - s.start) for s in box)
    start = [s.start + int(rng.integers(0, s.stop - s.start - n + 1)) for s, n in zip(box, length, strict=True)]
    part = labels[tuple(slice(a, a + n) for a, n in zip(start, length, strict=True))]
    flip = tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))
    part = part[flip]
    fine = tuple(int(n * zoom) // FACTOR * FACTOR for n in part.shape)
    lines = [np.linspace(0, n - 1, m, dtype=np.float32) for n, m in zip(part.shape, fine, strict=True)]
    points = np.stack(np.meshgrid(*lines, indexing="ij"))
    points += np.stack([1.5 * grid_noise(rng, fine, 12) for _ in range(3)])  # another fold each time
    share = []
    for label in (2, 3, 4):
        soft = ndimage.gaussian_filter((part == label).astype(np.float32), 0.6)
        share.append(ndimage.map_coordinates(soft, points, order=1, mode="nearest"))
    tissue = np.stack(share)
    total = tissue.sum(0)
    sharp = tissue**4
    sharp /= sharp.sum(0) + 1e-9
    values = (rng.normal(-0.03, 0.015), rng.normal(0.02, 0.015), rng.normal(0.0, 0.01))
    chi = sum(float(v) * s for v, s in zip(values, sharp, strict=True)).astype(np.float32)
    mask = block_mean(total.astype(np.float32), (FACTOR,) * 3) > 0.5
    mask = ndimage.binary_opening(ndimage.binary_closing(mask, iterations=1), iterations=1)
    if rng.random() < 0.5:
        mask &= blob(rng, mask.shape)
    chi, signal, r2star = decorated(rng, chi)
    return Scene(np.where(grown(mask), chi, 0), signal, r2star, mask, random_voxel_mm(rng))
