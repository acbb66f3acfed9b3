"""A procedural head: a few dozen smooth shapes with random sizes, places and folding, painted on a fine grid.

Coordinates are head mm: x to the right, y to the front, z up, from the middle of the cerebrum. Large surfaces are
evaluated on a 2.5 mm lattice and interpolated; nuclei, ventricles, sinuses, veins and lesions directly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qsm_runtime.phantom.shapes import Noise, Points, Upsampled, capsule, cubic_weights, ellipsoid, rotation, union
from qsm_runtime.phantom.tissues import TISSUES

LATTICE_MM = 2.5
SLAB = 8
Distance = Callable[[Points], np.ndarray]


@dataclass
class Canvas:
    """Fine grid being painted: coordinate lines in head mm, and what each fine voxel is made of."""

    lines: Points
    chi_ppm: np.ndarray
    signal: np.ndarray
    r2star_hz: np.ndarray
    label: np.ndarray
    texture: np.ndarray
    b0_tesla: float

    @property
    def step_mm(self) -> float:
        """Edge of a cube of the fine voxel's volume."""
        return float(np.prod([line[1] - line[0] for line in self.lines]) ** (1 / 3))

    def blend(self, where: tuple[slice, slice, slice], fraction: np.ndarray, tissue: str) -> None:
        """Fill `fraction` of the voxels with `tissue`."""
        t = TISSUES[tissue]
        texture = self.texture[where]
        chi = t.chi_ppm + t.texture_ppm * texture
        r2star = t.r2star_hz * (1 + 0.1 * texture) + t.r2prime_hz_per_ppm * self.b0_tesla / 3 * np.abs(chi)
        for array, value in (
            (self.chi_ppm, chi),
            (self.signal, t.signal * (1 - 0.03 * texture)),
            (self.r2star_hz, r2star),
        ):
            part = array[where]
            part += fraction * (value - part)
        self.label[where][fraction > 0.5] = t.label

    def paint(
        self, tissue: str, distance: Distance, centre: np.ndarray, reach_mm: float, keep_off: np.ndarray | None = None
    ) -> None:
        """Paint the shape that `distance` describes, within `reach_mm` of `centre`, not where `keep_off` > 0."""
        where = []
        for line, c in zip(self.lines, centre, strict=True):
            lo, hi = np.searchsorted(line, (c - reach_mm, c + reach_mm))
            if lo >= hi:
                return
            where.append(slice(int(lo), int(hi)))
        box = (where[0], where[1], where[2])
        x, y, z = (line[s] for line, s in zip(self.lines, box, strict=True))
        d = distance((x[:, None, None], y[None, :, None], z[None, None, :]))
        if keep_off is not None:
            d = np.minimum(d, -keep_off[box])
        self.blend(box, np.clip(0.5 + d / self.step_mm, 0, 1).astype(np.float32), tissue)


class Anatomy:
    """One head, drawn from a generator: everything below depends on it alone, never on the grid."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = rng.normal(1, 0.03, 3).clip(0.94, 1.06)
        self.turn = rotation(np.radians(rng.normal(0, (4.0, 2.0, 2.5))))
        self.fold = Noise(rng, rng.uniform(21, 26))
        self.folia = Noise(rng, 8.0, samples=64)
        self.wobble = Noise(rng, 45.0, band=0.5)
        self.rough = Noise(rng, 9.0)
        self.grain = tuple(Noise(rng, w, band=0.5, samples=96) for w in (24.0, 9.0, 4.0))
        self.gap_mm = rng.uniform(2.0, 3.2)
        self.bone_mm = rng.uniform(5.5, 7.5)
        self.scalp_mm = rng.uniform(4.0, 6.0)
        self.ventricle = rng.uniform(0.75, 1.35)
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

    for i in range(0, hull.shape[0], SLAB):
        slab = slice(i, min(i + SLAB, hull.shape[0]))
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


def _rod(a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> tuple[Distance, np.ndarray, float]:
    reach = float(np.abs(b - a).max()) / 2 + max(radius_a, radius_b) + 2
    return lambda p: capsule(p, a, b, radius_a, radius_b), (a + b) / 2, reach


def paint_deep(canvas: Canvas, anatomy: Anatomy) -> None:
    """Ventricles and deep nuclei of both sides."""
    vary, rng = anatomy.vary, anatomy.rng

    def blob(tissue: str, centre: np.ndarray, radii: tuple[float, float, float], angles_deg: tuple[float, float, float]) -> None:
        size = np.array(radii) * rng.normal(1, 0.07, 3)
        turn = rotation(np.radians(angles_deg)) @ anatomy.turn
        at = anatomy.placed(centre)
        bump = rng.normal(0, 40, 3)

        def distance(p: Points) -> np.ndarray:
            d = ellipsoid(p, at, size, turn)
            return d + 0.05 * min(radii) * anatomy.rough.at((p[0] + bump[0], p[1] + bump[1], p[2] + bump[2]))

        canvas.paint(tissue, distance, at, float(max(size)) + 2)

    def tube(tissue: str, points: list[tuple[tuple[float, float, float], float]], scale: float = 1.0) -> None:
        knots = [(anatomy.placed(vary(point, 0.6)), radius * scale) for point, radius in points]
        for (a, ra), (b, rb) in zip(knots, knots[1:], strict=False):
            distance, centre, reach = _rod(a, b, ra, rb)
            canvas.paint(tissue, distance, centre, reach)

    wide = anatomy.ventricle
    for s in (-1, 1):
        blob("thalamus", vary((s * 11.5, -15, 5)), (8.5, 15, 8.5), (0, 0, -s * 25))
        blob("putamen", vary((s * 26, 4, 1)), (5.5, 16, 10), (0, s * 8, s * 10))
        blob("pallidum", vary((s * 19, 0, -1)), (4.5, 9.5, 6.5), (0, s * 12, s * 18))
        tube("caudate", [((s * 13.5, 24, 4), 6.5), ((s * 15, 14, 13), 5.0), ((s * 18, -8, 20), 3.2), ((s * 23, -26, 16), 2.3)])
        lateral = [((s * 7, 30, 4), 3.5), ((s * 9, 12, 13), 4.5), ((s * 11, -8, 17), 4.5), ((s * 20, -34, 12), 6.0)]
        tube("csf", lateral, wide)
        tube("csf", [((s * 20, -34, 12), 5.5), ((s * 20, -58, 4), 2.5)], wide)
        tube("csf", [((s * 21, -34, 10), 4.5), ((s * 30, -22, -10), 2.8), ((s * 32, 4, -18), 2.0)], wide)
        blob("red_nucleus", vary((s * 5, -18, -8), 0.5), (3.4, 3.6, 4.6), (0, 0, 0))
        blob("substantia_nigra", vary((s * 9.5, -13, -12), 0.5), (2.6, 6.5, 3.8), (0, s * 20, s * 35))
        centre, phase = vary((s * 15, -50, -38)), rng.uniform(0, 6)

        def shell(p: Points, centre: np.ndarray = anatomy.placed(centre), phase: float = phase) -> np.ndarray:
            # the dentate is a crumpled sheet: the shell of an ellipsoid with ripples
            ripple = 0.9 * np.sin(1.1 * (p[1] - centre[1]) + 0.9 * (p[2] - centre[2]) + phase)
            return 1.5 - np.abs(ellipsoid(p, centre, np.array((7.0, 8.5, 5.5)), anatomy.turn) + ripple)

        canvas.paint("dentate", shell, anatomy.placed(centre), 12)
    blob("csf", vary((0, -5, 1), 0.5), (1.4 * wide, 13, 8.5), (0, 0, 0))
    tube("csf", [((0, -24, -6), 1.0), ((0, -34, -26), 1.2)])
    blob("csf", vary((0, -37, -33), 0.5), (5.0 * wide, 4.5, 9), (20, 0, 0))


def paint_air(canvas: Canvas, anatomy: Anatomy, hull: np.ndarray) -> None:
    """Frontal, ethmoid, sphenoid and maxillary sinuses, nose and throat, ear canals and mastoid cells; the eyes."""
    vary, rng, wide = anatomy.vary, anatomy.rng, anatomy.sinus
    keep_off = hull + np.float16(2)  # thin bone is left between air and brain

    def cavity(tissue: str, centre: tuple[float, float, float], radii: tuple[float, float, float], rough: float) -> None:
        at, size = anatomy.placed(vary(centre, 1.5)), np.array(radii) * rng.normal(1, 0.08, 3)
        size = size * (wide if tissue == "air" else 1)

        def distance(p: Points) -> np.ndarray:
            return ellipsoid(p, at, size, anatomy.turn) + rough * anatomy.rough.at(p)

        canvas.paint(tissue, distance, at, float(max(size)) + 3 * rough + 2, keep_off)

    cavity("bone", (0, 66, -44), (20, 22, 22), 1.0)
    cavity("bone", (0, 22, -42), (20, 18, 12), 1.0)
    cavity("air", (0, 58, -50), (11, 24, 16), 1.5)
    cavity("air", (0, 22, -42), (12, 11, 8), 1.0)
    cavity("air", (0, 15, -75), (9, 12, 26), 1.0)
    for s in (-1, 1):
        cavity("csf", (s * 33, 66, -36), (12, 12, 12), 0.0)
        cavity("air", (s * 10, 88, -22), (11, 4.5, 11), 0.8)
        cavity("air", (s * 27, 55, -66), (12, 14, 15), 1.0)
        cavity("bone", (s * 58, -18, -42), (14, 18, 15), 1.0)
        cavity("air", (s * 58, -20, -42), (8, 10, 9), 3.5)
        distance, centre, reach = _rod(
            anatomy.placed(vary((s * 50, -8, -42))), anatomy.placed(vary((s * 95, -6, -46))), 2.5, 4.5
        )
        canvas.paint("air", distance, centre, reach, keep_off)
    distance, centre, reach = _rod(
        anatomy.placed(np.array((0.0, 8, -90))), anatomy.placed(np.array((0.0, 0.0, -400))), 9, 9
    )
    canvas.paint("air", distance, centre, reach, keep_off)


def veins(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Points along all veins, a quarter of a mm apart (n, 3) in array axes, and their radii in mm (n)."""
    rng = anatomy.rng
    paths: list[tuple[np.ndarray, float, float]] = []

    def hull(direction: np.ndarray, depth: float) -> np.ndarray:
        """Points on the cerebrum's ellipsoid, `depth` mm under it."""
        unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        return np.array((0, 0, 6)) + unit * (np.array((67, 85, 64)) - depth)

    angle = np.linspace(0.15, np.pi + 0.12, 40)[:, None]
    sagittal = hull(np.hstack((0 * angle, np.cos(angle), np.sin(angle))), -3.0)
    paths.append((sagittal, 1.5, 3.6))
    for s in (-1.0, 1.0):
        back = np.array([(s * 2, -84, -6), (s * 25, -76, -14), (s * 46, -58, -20), (s * 58, -34, -26), (s * 54, -22, -44)])
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
        at = np.arange(0, length[-1], 0.25)
        points.append(np.stack([np.interp(at, length, way[:, a]) for a in range(3)], 1) * anatomy.size)
        radii.append(np.interp(at, (0, length[-1]), (start, end)))
    return anatomy.placed(np.concatenate(points)), np.concatenate(radii)


def paint_veins(canvas: Canvas, anatomy: Anatomy) -> None:
    """Tubes, also thinner than a voxel: a tube under a voxel wide keeps its cross-section, at a lower fraction."""
    points, radii = veins(anatomy)
    h = canvas.step_mm
    keep = np.sort(np.unique(np.floor(np.arange(len(points)) * 0.25 / (h / 2)), return_index=True)[1])
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
    for i in range(0, fraction.shape[0], SLAB):
        where = (slice(i, i + SLAB), slice(None), slice(None))
        canvas.blend(where, fraction[where], "vein")


def paint_lesion(canvas: Canvas, anatomy: Anatomy, tissue: str, side: int) -> None:
    """One lesion at a random place of the white matter or cortex, 3 to 6 mm in radius."""
    rng = anatomy.rng
    low, high = (2.5, 4.0) if tissue == "calcification" else (3.5, 6.0)
    centre = anatomy.placed(np.array((side * rng.uniform(24, 46), rng.uniform(-48, 44), rng.uniform(8, 38))) * anatomy.size)
    radii = rng.uniform(low, high, 3)
    turn = rotation(rng.uniform(0, np.pi, 3))

    def distance(p: Points) -> np.ndarray:
        return ellipsoid(p, centre, radii, turn) + 0.5 * anatomy.rough.at(p)

    canvas.paint(tissue, distance, centre, high + 3)
