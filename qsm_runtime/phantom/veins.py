"""Veins as tubes: the large sinuses, the deep veins, cortical veins and the thin veins of the white matter."""

import numpy as np

from qsm_runtime.phantom.anatomy import Anatomy
from qsm_runtime.phantom.canvas import SLAB, Canvas

STEP_MM = 0.25  # between points along a vein


def veins(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Points along all veins, a quarter of a mm apart (n, 3) in array axes, and their radii in mm (n)."""
    rng = anatomy.rng
    paths: list[tuple[np.ndarray, float, float]] = []

    def hull(direction: np.ndarray, depth: float | np.ndarray) -> np.ndarray:
        """Points on the cerebrum's ellipsoid, `depth` mm under it."""
        unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        return np.array((0, 0, 6)) + unit * (np.array((67.0, 85, 64)) - depth)

    angle = np.linspace(0.15, np.pi + 0.12, 40)[:, None]
    sagittal = hull(np.hstack((0 * angle, np.cos(angle), np.sin(angle))), -3.0)
    paths.append((sagittal, 1.5, 3.6))
    for s in (-1.0, 1.0):
        back = np.array(
            [(s * 2, -84, -6), (s * 25, -76, -14), (s * 46, -58, -20), (s * 58, -34, -26), (s * 54, -22, -44)]
        )
        paths.append((back, 3.0, 3.4))
        inner = np.array([(s * 3, 18, 6), (s * 2.5, 2, 11), (s * 2, -18, 12), (s * 1.5, -32, 8)])
        paths.append((inner, 0.6, 1.2))
        paths.append((np.array([(s * 18, 10, 16), (s * 12, 0, 14), (s * 3, 6, 9)]), 0.5, 0.8))
        basal = np.array([(s * 20, 5, -16), (s * 17, -14, -12), (s * 10, -28, -3), (s * 2, -34, 6)])
        paths.append((basal, 0.6, 1.1))
    paths.append((np.array([(0.0, -32, 8), (0, -44, 8), (0, -64, 2), (0, -84, -6)]), 1.6, 2.4))
    for _ in range(rng.integers(50, 70)):  # from the cortex to the sagittal sinus, and down into a sulcus
        side, turn = rng.choice((-1, 1)), rng.uniform(-0.2, np.pi + 0.1)
        tilt = np.linspace(rng.uniform(0.5, 1.4), 0.05, 8)
        drift = turn + np.cumsum(rng.normal(0, 0.06, 8))
        way = np.stack((side * np.sin(tilt), np.cos(tilt) * np.cos(drift), np.cos(tilt) * np.sin(drift)), 1)
        depth = np.linspace(rng.uniform(6, 14), 0.0, 8)[:, None]
        paths.append((hull(way, depth), 0.3, rng.uniform(0.5, 1.1)))
    for _ in range(rng.integers(60, 90)):  # medullary veins, from the white matter to the ventricle
        side = rng.choice((-1, 1))
        y = rng.uniform(-45, 38)
        inner_end = np.array((side * rng.uniform(12, 20), 0.75 * y, rng.uniform(10, 18)))
        outer_end = np.array((side * rng.uniform(26, 44), y + rng.normal(0, 6), rng.uniform(12, 44)))
        t = np.linspace(0, 1, 6)[:, None]
        way = outer_end + t * (inner_end - outer_end) + rng.normal(0, 0.8, (6, 3)) * (t * (1 - t) * 4)
        paths.append((way, 0.2, rng.uniform(0.3, 0.5)))
    points, radii = [], []
    for way, start, end in paths:
        length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))))
        at = np.arange(0, length[-1], STEP_MM)
        points.append(np.stack([np.interp(at, length, way[:, a]) for a in range(3)], 1) * anatomy.size)
        radii.append(np.interp(at, (0, length[-1]), (start, end)))
    return anatomy.placed(np.concatenate(points)), np.concatenate(radii)


def paint_veins(canvas: Canvas, anatomy: Anatomy) -> None:
    """Tubes, also thinner than a voxel: a tube under a voxel wide keeps its cross-section, at a lower fraction."""
    points, radii = veins(anatomy)
    h = canvas.step_mm
    keep = np.sort(np.unique(np.floor(np.arange(len(points)) * STEP_MM / (h / 2)), return_index=True)[1])
    points, radii = points[keep], radii[keep]
    wide = np.maximum(radii, 0.56 * h)  # a disc of a voxel's face
    share = (radii / wide) ** 2
    fraction = np.zeros(canvas.label.shape, np.float32)
    steps = np.array([line[1] - line[0] for line in canvas.lines])
    origin = np.array([line[0] for line in canvas.lines])
    nearest = np.rint((points - origin) / steps).astype(int)
    for lo, hi in ((0, 0.75), (0.75, 1.5), (1.5, 3), (3, 9)):
        pick = (wide >= lo) & (wide < hi)
        if not pick.any():
            continue
        reach = [int(np.ceil((wide[pick].max() + h / 2) / s)) for s in steps]
        for i in range(-reach[0], reach[0] + 1):
            for j in range(-reach[1], reach[1] + 1):
                for k in range(-reach[2], reach[2] + 1):
                    at = nearest[pick] + (i, j, k)
                    ok = ((at >= 0) & (at < fraction.shape)).all(1)
                    d = np.linalg.norm(at * steps + origin - points[pick], axis=1)
                    value = share[pick] * np.clip(0.5 + (wide[pick] - d) / h, 0, 1)
                    ok &= value > 0
                    np.maximum.at(fraction, tuple(at[ok].T), value[ok].astype(np.float32))
    for i in range(0, len(fraction), SLAB):
        where = (slice(i, i + SLAB), slice(None), slice(None))
        canvas.blend(where, fraction[where], "vein")
