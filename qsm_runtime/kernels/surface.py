"""A deformable closed surface in an image: geodesic sphere, its evolution, and the voxels that it encloses.

S. M. Smith, Hum. Brain Mapp. 17:143 (2002), 10.1002/hbm.10062: each vertex moves by
    u = 1/2 s_t + f2 s_n + 1/20 f3 l n,
where s points to the mean of its neighbours (s_t along, s_n across the surface), n is the outward normal, l the
mean edge, f2 = (1 + tanh(F (1/r - E))) / 2 smooths only what is sharper than a brain (radius of curvature r), and
f3 = 2 (Imin - tl) / (Imax - t2) drives it outwards until the darkest sample on the way in falls under the local
threshold tl = t2 + brightness (Imax - t2).
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401

CURVATURE_MIN_MM, CURVATURE_MAX_MM = 3.33, 10.0  # radii between which smoothing fades in (Smith 2002)
SEARCH_MM = 20.0  # how far inwards the darkest sample is sought; the brightest is sought half as far


def geodesic_sphere(level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Icosahedron split `level` times: unit vertices (n, 3), outward faces (m, 3), neighbours (n, 6; -1 where 5)."""
    golden = (1 + 5**0.5) / 2
    flat = [(-1.0, golden, 0.0), (1.0, golden, 0.0), (-1.0, -golden, 0.0), (1.0, -golden, 0.0)]
    points = [(*p[3 - shift :], *p[: 3 - shift]) for shift in range(3) for p in flat]
    vertices = np.array(points, float)
    vertices /= np.linalg.norm(vertices[0])
    edge = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    near = (edge > 0.1) & (edge < 1.1)
    faces = np.array(
        [(i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]]
    )
    for _ in range(level):
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        edges, inverse = np.unique(edges, axis=0, return_inverse=True)
        middle = vertices[edges].sum(axis=1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        ab, bc, ca = len(vertices) + inverse.reshape(3, -1)
        a, b, c = faces.T
        vertices = np.concatenate([vertices, middle])
        faces = np.concatenate([np.stack(f, axis=1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    corners = vertices[faces]
    inward = np.einsum(
        "ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), corners[:, 0]
    )
    faces[inward < 0] = faces[inward < 0][:, ::-1]
    return vertices, faces, _rings(faces, len(vertices))


def _rings(faces: np.ndarray, count: int) -> np.ndarray:
    """Neighbours of each vertex in the order in which its faces turn around it."""
    following: list[dict[int, int]] = [{} for _ in range(count)]
    for a, b, c in faces.tolist():
        following[a][b], following[b][c], following[c][a] = c, a, b
    rings = np.full((count, 6), -1, np.int32)
    for ring, turn in zip(rings, following, strict=True):
        vertex = min(turn)
        for i in range(len(turn)):
            ring[i] = vertex
            vertex = turn[vertex]
    return rings


@njit(cache=True)
def _edge_length(points, rings):
    total, count = 0.0, 0
    for v in range(points.shape[0]):
        for i in range(6):
            w = rings[v, i]
            if w >= 0:
                d0, d1, d2 = points[w, 0] - points[v, 0], points[w, 1] - points[v, 1], points[w, 2] - points[v, 2]
                total += np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
                count += 1
    return total / count


@njit(cache=True)
def _sample(image, voxel_mm, x, y, z):
    """Nearest voxel; what lies beyond the image repeats its edge."""
    i = min(max(int(x / voxel_mm[0] + 0.5), 0), image.shape[0] - 1)
    j = min(max(int(y / voxel_mm[1] + 0.5), 0), image.shape[1] - 1)
    k = min(max(int(z / voxel_mm[2] + 0.5), 0), image.shape[2] - 1)
    return image[i, j, k]


@njit(parallel=True, cache=True)
def _step(points, rings, image, voxel_mm, typical, low, brightness, edge, stride, lo, hi, out):
    e = (1 / CURVATURE_MIN_MM + 1 / CURVATURE_MAX_MM) / 2
    f = 6 / (1 / CURVATURE_MIN_MM - 1 / CURVATURE_MAX_MM)
    t2, t = low
    for v in prange(points.shape[0]):
        x, y, z = points[v]
        count = 6 if rings[v, 5] >= 0 else 5
        s0 = s1 = s2 = n0 = n1 = n2 = 0.0
        for i in range(count):
            a, b = rings[v, i], rings[v, (i + 1) % count]
            a0, a1, a2 = points[a, 0] - x, points[a, 1] - y, points[a, 2] - z
            b0, b1, b2 = points[b, 0] - x, points[b, 1] - y, points[b, 2] - z
            s0, s1, s2 = s0 + a0, s1 + a1, s2 + a2
            n0, n1, n2 = n0 + a1 * b2 - a2 * b1, n1 + a2 * b0 - a0 * b2, n2 + a0 * b1 - a1 * b0
        norm = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2) + 1e-12
        n0, n1, n2 = n0 / norm, n1 / norm, n2 / norm
        s0, s1, s2 = s0 / count, s1 / count, s2 / count
        across = s0 * n0 + s1 * n1 + s2 * n2
        f2 = (1 + np.tanh(f * (2 * abs(across) / (edge * edge) - e))) / 2
        darkest, brightest = typical, t
        depth = 0.5 * stride
        while depth <= SEARCH_MM:
            value = _sample(image, voxel_mm, x - depth * n0, y - depth * n1, z - depth * n2)
            darkest = min(darkest, value)
            if depth <= SEARCH_MM / 2:
                brightest = max(brightest, value)
            depth += stride
        darkest, brightest = max(t2, darkest), min(typical, brightest)
        f3 = 2 * (darkest - (t2 + brightness * (brightest - t2))) / max(brightest - t2, 1e-12)
        along = f2 * across + 0.05 * f3 * edge - 0.5 * across
        out[v, 0] = min(max(x + 0.5 * s0 + along * n0, lo[0]), hi[0])
        out[v, 1] = min(max(y + 0.5 * s1 + along * n1, lo[1]), hi[1])
        out[v, 2] = min(max(z + 0.5 * s2 + along * n2, lo[2]), hi[2])


def evolve(
    points: np.ndarray,
    rings: np.ndarray,
    image: np.ndarray,
    voxel_mm: tuple[float, float, float],
    typical: float,
    low: tuple[float, float],
    brightness: float,
    iterations: int,
    margin_mm: float,
) -> np.ndarray:
    """Vertices in mm (voxel (0, 0, 0)'s centre is the origin) after `iterations` steps in a float32 image.

    `typical` is the object's median signal, `low` the signals (t2, t) of nothing and of the faintest object.
    Vertices stay within `margin_mm` of the image: an object cut by the field of view goes on outside it.
    """
    size = np.array(voxel_mm)
    lo, hi = np.full(3, -margin_mm), size * (np.array(image.shape) - 1) + margin_mm
    stride = float(size.min())
    here, there = points.copy(), np.empty_like(points)
    edge = 1.0
    for iteration in range(iterations):
        if iteration % 10 == 0:
            edge = _edge_length(here, rings)
        _step(here, rings, image, size, typical, low, brightness, edge, stride, lo, hi, there)
        here, there = there, here
    return here


@njit(cache=True)
def _crossings(points, faces, winding):
    """Add +-1 from the voxel on where a column along z leaves or enters the surface through a face."""
    nx, ny, nz = winding.shape
    for face in range(faces.shape[0]):
        a, b, c = faces[face]
        ax, ay, az = points[a]
        bx, by, bz = points[b]
        cx, cy, cz = points[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        sign = -1 if area > 0 else 1
        for i in range(max(0, int(np.ceil(min(ax, bx, cx)))), min(nx - 1, int(np.floor(max(ax, bx, cx)))) + 1):
            for j in range(max(0, int(np.ceil(min(ay, by, cy)))), min(ny - 1, int(np.floor(max(ay, by, cy)))) + 1):
                u = ((i - ax) * (cy - ay) - (j - ay) * (cx - ax)) / area
                w = ((bx - ax) * (j - ay) - (by - ay) * (i - ax)) / area
                if u >= 0 and w >= 0 and u + w < 1:
                    z = az + u * (bz - az) + w * (cz - az)
                    k = max(0, int(np.ceil(z)))
                    if k < nz:
                        winding[i, j, k] += sign


def enclosed(
    points: np.ndarray, faces: np.ndarray, shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> np.ndarray:
    """Bool mask of the voxels whose centres the surface winds around (points in mm, outward faces)."""
    winding = np.zeros(shape, np.int8)
    # a shift far below a voxel keeps columns off vertices and edges, where a crossing could count twice or not at all
    _crossings(points / np.array(voxel_mm) + np.array([1.37e-6, 2.71e-6, 0.0]), faces, winding)
    return np.cumsum(winding, axis=2, dtype=np.int8) > 0


@njit(cache=True)
def walled_share(
    points: np.ndarray, image: np.ndarray, voxel_mm: np.ndarray, wall: float, reach_mm: float
) -> tuple[int, float]:
    """Vertices (mm) within the image, and the share of them with a signal under `wall` within `reach_mm` outwards.

    Half that reach inwards counts too: the surface rests in the wall or on it.
    """
    inside, walled = 0, 0
    middle = np.zeros(3)
    for v in range(points.shape[0]):
        middle += points[v]
    middle /= points.shape[0]
    for v in range(points.shape[0]):
        at = points[v] / voxel_mm
        if at.min() < 0 or np.any(at > np.array(image.shape) - 1):
            continue
        inside += 1
        outwards = points[v] - middle
        outwards /= np.sqrt((outwards * outwards).sum()) + 1e-12
        depth = -0.5 * reach_mm
        while depth <= reach_mm:
            here = points[v] + depth * outwards
            if _sample(image, voxel_mm, here[0], here[1], here[2]) < wall:
                walled += 1
                break
            depth += 1.0
    return inside, walled / max(inside, 1)
