"""The large surfaces of a procedural head: scalp, skull, brain, folded cortex, all random and all smooth.

Coordinates are head mm: x to the right, y to the front, z up, from the middle of the cerebrum. The surfaces are
evaluated on a 2.5 mm lattice and interpolated, so that the same seed is the same head at any resolution.
"""

import numpy as np

from qsm_runtime.phantom.canvas import SLAB, Canvas
from qsm_runtime.phantom.shapes import Noise, Points, Upsampled, capsule, cubic_weights, ellipsoid, rotation, union

LATTICE_MM = 2.5


class Anatomy:
    """One head, drawn from a generator: everything below depends on it alone, never on the grid."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = rng.normal(0.97, 0.025, 3).clip(0.91, 1.02)
        self.turn = rotation(np.radians(rng.normal(0, (4.0, 2.0, 2.5))))
        self.fold = Noise(rng, rng.uniform(18, 22))
        self.folia = Noise(rng, 8.0, samples=64)
        self.wobble = Noise(rng, 45.0, band=0.5)
        self.rough = Noise(rng, 9.0)
        self.grain = tuple(Noise(rng, w, band=0.5, samples=96) for w in (24.0, 9.0, 4.0))
        self.gap_mm = rng.uniform(2.0, 3.2)
        self.bone_mm = rng.uniform(5.5, 7.5)
        self.scalp_mm = rng.uniform(4.0, 6.0)
        self.ventricle = rng.uniform(0.85, 1.5)
        self.sinus = rng.uniform(0.8, 1.2)

    def vary(self, point: tuple[float, float, float], spread_mm: float = 1.0) -> np.ndarray:
        """A place, moved a little and scaled with the head."""
        return (np.array(point) + self.rng.normal(0, spread_mm, 3)) * self.size

    def turned(self, p: Points) -> Points:
        """Points of the array's axes in the axes of the tilted head."""
        x, y, z = (row[0] * p[0] + row[1] * p[1] + row[2] * p[2] for row in self.turn)
        return x, y, z

    def placed(self, point: np.ndarray) -> np.ndarray:
        """A point of the head (or several, last axis) in the array's axes."""
        return point @ self.turn

    def surfaces(self, p: Points) -> dict[str, np.ndarray]:
        """Distances (mm, positive inside) at array-axis points that broadcast to a volume."""
        x, y, z = self.turned(p)
        x, y, z = x / self.size[0], y / self.size[1], z / self.size[2]
        wobble = self.wobble.at((x, y, z))
        q = (x + 1.2 * wobble, y, z + 1.5 * wobble)
        upper = ellipsoid(q, np.array((0, 0, 6)), np.array((67, 85, 64)))
        floor = z + 24 + 0.10 * y - 0.0015 * x**2  # orbital roof, rising to the front
        cerebrum = -union(-upper, -floor, 22.0)
        for side in (-1, 1):
            temporal = ellipsoid(q, np.array((side * 42, 8, -25)), np.array((24, 44, 23)))
            cerebrum = union(cerebrum, temporal, 5.0)
        cerebellum = ellipsoid(q, np.array((0, -50, -41)), np.array((49, 32, 24)))
        stem = capsule(q, np.array((0.0, -14, -12)), np.array((0.0, -30, -190)), 15, 9.0)
        skull = union(union(cerebrum, cerebellum, 14.0), stem, 14.0) + self.gap_mm + 0.5 * wobble
        vault = union(cerebrum, cerebellum, 30.0) + self.gap_mm + self.bone_mm + self.scalp_mm
        face = ellipsoid(q, np.array((0, 42, -58)), np.array((60, 52, 62)))
        neck = capsule(q, np.array((0.0, -18, -50)), np.array((0.0, -30, -400)), 60, 58)
        head = union(union(vault, face, 18.0), neck, 25.0)
        # sulci: the zero sheets of a noise drawn out radially, so that they stand on the surface
        r = np.sqrt((x / 67) ** 2 + (y / 85) ** 2 + ((z - 6) / 64) ** 2)
        pull = np.maximum(r, 0.35) ** -0.5
        fold = self._sheet(self.fold.at((x * pull, y * pull, z * pull)), p)
        folia = self._sheet(self.folia.at((x * 0.3, y, z)), p)
        callosum = 1 - np.sqrt(((y - 2) / 42) ** 2 + ((z + 2) / 28) ** 2)
        return {
            "head": head,
            "skull": skull,
            "cerebrum": cerebrum,
            "cerebellum": cerebellum,
            "stem": stem,
            "brain": np.maximum(np.maximum(cerebrum, cerebellum), np.minimum(stem, z + 62)),
            "fold": fold,
            "folia": folia,
            "midline": x + 1.5 * wobble,
            "callosum": 30 * callosum,
            "depth": 17 + 4 * wobble,
        }

    @staticmethod
    def _sheet(noise: np.ndarray, p: Points) -> np.ndarray:
        """Signed distance to the noise's zero sheet, to first order."""
        steps = [float(np.diff(a.ravel()[:2])[0]) for a in p]
        slope2 = sum(np.gradient(noise, step, axis=axis) ** 2 for axis, step in enumerate(steps))
        return noise / np.sqrt(slope2 + 0.002 * noise**2 + 1e-6)


def paint_large(canvas: Canvas, anatomy: Anatomy) -> np.ndarray:
    """Scalp, muscle, bone, fluid, cortex and white matter; returns the distance to the brain's hull (float16)."""
    pad = 2 * LATTICE_MM
    coarse = [np.arange(line[0] - pad, line[-1] + pad + LATTICE_MM, LATTICE_MM) for line in canvas.lines]
    points = (coarse[0][:, None, None], coarse[1][None, :, None], coarse[2][None, None, :])
    fields = anatomy.surfaces(points)
    wx, wy, wz = (cubic_weights(line, c[0], LATTICE_MM, c.size) for line, c in zip(canvas.lines, coarse, strict=True))
    surfaces = {k: Upsampled(v, (wx, wy, wz)) for k, v in fields.items()}
    grain = [n.on(canvas.lines) for n in anatomy.grain]
    hull = np.empty(canvas.label.shape, np.float16)
    h = canvas.step_mm

    def fraction(d: np.ndarray) -> np.ndarray:
        return np.clip(0.5 + d / h, 0, 1)

    for i in range(0, len(hull), SLAB):
        slab = slice(i, min(i + SLAB, len(hull)))
        f = {k: v.planes(slab) for k, v in surfaces.items()}
        where = (slab, slice(None), slice(None))
        canvas.texture[slab] = sum(a * n.planes(slab) for a, n in zip((0.6, 0.6, 0.55), grain, strict=True))
        # a sulcus is a sheet that ends at its depth below the hull
        deep = np.maximum(f["cerebrum"] - f["depth"], 0)
        sulcus = np.hypot(f["fold"], deep) - 0.75
        fissure = np.hypot(f["midline"], np.maximum(f["callosum"], 0)) - 0.9
        cerebrum = np.minimum(np.minimum(f["cerebrum"], sulcus), fissure)
        folium = np.hypot(f["folia"], np.maximum(f["cerebellum"] - 9, 0)) - 0.1
        cerebellum = np.minimum(f["cerebellum"], folium)
        canvas.blend(where, fraction(f["head"]), "skin")
        canvas.blend(where, fraction(f["head"] - 2.0), "fat")
        canvas.blend(where, fraction(f["head"] - anatomy.scalp_mm), "muscle")
        canvas.blend(where, fraction(f["skull"] + anatomy.bone_mm), "bone")
        canvas.blend(where, fraction(f["skull"]), "csf")
        canvas.blend(where, fraction(np.maximum(cerebrum, cerebellum)), "grey_matter")
        white = np.maximum(np.maximum(cerebrum - 2.6, cerebellum - 1.6), f["stem"])
        canvas.blend(where, fraction(white), "white_matter")
        hull[slab] = f["brain"]
    return hull
