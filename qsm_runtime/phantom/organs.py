"""The parts inside a procedural head: ventricles, deep nuclei, air-filled cavities, lesions."""

from itertools import pairwise

import numpy as np

from qsm_runtime.phantom.anatomy import Anatomy
from qsm_runtime.phantom.canvas import Canvas, Distance
from qsm_runtime.phantom.shapes import Points, capsule, ellipsoid, rotation

Place = tuple[float, float, float]


def _blob(canvas: Canvas, anatomy: Anatomy, tissue: str, centre: np.ndarray, radii: Place, angles_deg: Place) -> None:
    """An ellipsoid of random size with an uneven surface."""
    size = np.array(radii) * anatomy.rng.normal(1, 0.07, 3)
    turn = rotation(np.radians(angles_deg)) @ anatomy.turn
    at = anatomy.placed(centre)
    shift = anatomy.rng.normal(0, 40, 3)

    def distance(p: Points) -> np.ndarray:
        bump = anatomy.rough.at((p[0] + shift[0], p[1] + shift[1], p[2] + shift[2]))
        return ellipsoid(p, at, size, turn) + 0.05 * min(radii) * bump

    canvas.paint(tissue, distance, at, float(max(size)) + 2)


def _rod(a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> tuple[Distance, np.ndarray, float]:
    """A capsule's distance, its middle, and how far it reaches from there."""
    reach = float(np.abs(b - a).max()) / 2 + max(radius_a, radius_b) + 2
    return lambda p: capsule(p, a, b, radius_a, radius_b), (a + b) / 2, reach


def _tube(canvas: Canvas, anatomy: Anatomy, tissue: str, knots: list[tuple[Place, float]], wide: float = 1.0) -> None:
    """A chain of capsules through places, with a radius at each."""
    ends = [(anatomy.placed(anatomy.vary(place, 0.6)), radius * wide) for place, radius in knots]
    for (a, radius_a), (b, radius_b) in pairwise(ends):
        canvas.paint(tissue, *_rod(a, b, radius_a, radius_b))


def _dentate(canvas: Canvas, anatomy: Anatomy, side: int) -> None:
    """A crumpled sheet: the shell of an ellipsoid, with ripples."""
    centre = anatomy.placed(anatomy.vary((side * 15, -50, -38)))
    phase = anatomy.rng.uniform(0, 6)

    def distance(p: Points) -> np.ndarray:
        ripple = 0.9 * np.sin(1.1 * (p[1] - centre[1]) + 0.9 * (p[2] - centre[2]) + phase)
        return 1.5 - np.abs(ellipsoid(p, centre, np.array((7.0, 8.5, 5.5)), anatomy.turn) + ripple)

    canvas.paint("dentate", distance, centre, 12)


def paint_deep(canvas: Canvas, anatomy: Anatomy) -> None:
    """Ventricles and deep nuclei of both sides."""
    vary, wide = anatomy.vary, anatomy.ventricle
    for s in (-1, 1):
        _blob(canvas, anatomy, "thalamus", vary((s * 11.5, -15, 5)), (8.5, 15, 8.5), (0, 0, -s * 25))
        _blob(canvas, anatomy, "putamen", vary((s * 26, 4, 1)), (5.5, 16, 10), (0, s * 8, s * 10))
        _blob(canvas, anatomy, "pallidum", vary((s * 19, 0, -1)), (4.5, 9.5, 6.5), (0, s * 12, s * 18))
        head: list[tuple[Place, float]] = [((s * 13.5, 24, 4), 6.5), ((s * 15, 14, 13), 5.0)]
        _tube(canvas, anatomy, "caudate", [*head, ((s * 18, -8, 20), 3.2), ((s * 23, -26, 16), 2.3)])
        horn: list[tuple[Place, float]] = [((s * 7, 30, 4), 3.5), ((s * 9, 12, 13), 4.5)]
        _tube(canvas, anatomy, "csf", [*horn, ((s * 11, -8, 17), 4.5), ((s * 20, -34, 12), 6.0)], wide)
        _tube(canvas, anatomy, "csf", [((s * 20, -34, 12), 5.5), ((s * 20, -58, 4), 2.5)], wide)
        temporal: list[tuple[Place, float]] = [((s * 21, -34, 10), 4.5), ((s * 30, -22, -10), 2.8)]
        _tube(canvas, anatomy, "csf", [*temporal, ((s * 32, 4, -18), 2.0)], wide)
        _blob(canvas, anatomy, "red_nucleus", vary((s * 5, -18, -8), 0.5), (3.4, 3.6, 4.6), (0, 0, 0))
        _blob(canvas, anatomy, "substantia_nigra", vary((s * 9.5, -13, -12), 0.5), (2.6, 6.5, 3.8), (0, s * 20, s * 35))
        _dentate(canvas, anatomy, s)
    _blob(canvas, anatomy, "csf", vary((0, -5, 1), 0.5), (1.4 * wide, 13, 8.5), (0, 0, 0))
    _tube(canvas, anatomy, "csf", [((0, -24, -6), 1.0), ((0, -34, -26), 1.2)])
    _blob(canvas, anatomy, "csf", vary((0, -37, -33), 0.5), (5.0 * wide, 4.5, 9), (20, 0, 0))


def _cavity(
    canvas: Canvas, anatomy: Anatomy, keep_off: np.ndarray, tissue: str, centre: Place, radii: Place, rough_mm: float
) -> None:
    """An ellipsoid with a rough surface that stays off the brain."""
    at = anatomy.placed(anatomy.vary(centre, 1.5))
    size = np.array(radii) * anatomy.rng.normal(1, 0.08, 3) * (anatomy.sinus if tissue == "air" else 1)

    def distance(p: Points) -> np.ndarray:
        return ellipsoid(p, at, size, anatomy.turn) + rough_mm * anatomy.rough.at(p)

    canvas.paint(tissue, distance, at, float(max(size)) + 3 * rough_mm + 2, keep_off)


def paint_air(canvas: Canvas, anatomy: Anatomy, hull: np.ndarray) -> None:
    """Frontal, ethmoid, sphenoid and maxillary sinuses, nose and throat, ear canals and mastoid cells; the eyes."""
    keep_off = hull + np.float16(2.5)  # thin bone is left between air and brain
    middle: list[tuple[str, Place, Place, float]] = [
        ("bone", (0, 66, -44), (20, 22, 22), 1.0),
        ("bone", (0, 22, -42), (20, 18, 12), 1.0),
        ("air", (0, 58, -50), (11, 24, 16), 1.5),
        ("air", (0, 22, -42), (12, 11, 8), 1.0),
        ("air", (0, 15, -75), (9, 12, 26), 1.0),
    ]
    for tissue, centre, radii, rough_mm in middle:
        _cavity(canvas, anatomy, keep_off, tissue, centre, radii, rough_mm)
    for s in (-1, 1):
        _cavity(canvas, anatomy, keep_off, "csf", (s * 33, 66, -36), (12, 12, 12), 0.0)
        _cavity(canvas, anatomy, keep_off, "air", (s * 10, 86, -22), (11, 4.5, 11), 0.8)
        _cavity(canvas, anatomy, keep_off, "air", (s * 27, 55, -66), (12, 14, 15), 1.0)
        _cavity(canvas, anatomy, keep_off, "bone", (s * 58, -18, -42), (14, 18, 15), 1.0)
        _cavity(canvas, anatomy, keep_off, "air", (s * 58, -20, -42), (8, 10, 9), 3.5)
        inner, outer = anatomy.vary((s * 50, -8, -42)), anatomy.vary((s * 95, -6, -46))
        canvas.paint("air", *_rod(anatomy.placed(inner), anatomy.placed(outer), 2.5, 4.5), keep_off)
    throat, below = np.array((0.0, 8, -90)), np.array((0.0, 0.0, -400))
    canvas.paint("air", *_rod(anatomy.placed(throat), anatomy.placed(below), 9, 9), keep_off)


def paint_lesion(canvas: Canvas, anatomy: Anatomy, tissue: str, side: int) -> None:
    """One lesion at a random place of the white matter or cortex, 3 to 6 mm in radius."""
    rng = anatomy.rng
    low, high = (2.5, 4.0) if tissue == "calcification" else (3.5, 6.0)
    centre = anatomy.placed(
        np.array((side * rng.uniform(24, 46), rng.uniform(-48, 44), rng.uniform(8, 38))) * anatomy.size
    )
    radii = rng.uniform(low, high, 3)
    turn = rotation(rng.uniform(0, np.pi, 3))

    def distance(p: Points) -> np.ndarray:
        return ellipsoid(p, centre, radii, turn) + 0.5 * anatomy.rough.at(p)

    canvas.paint(tissue, distance, centre, high + 3)
