"""One volume through a network in pieces: overlapping patches, blended by ramps or cropped to their middles.

A patch's weight is a product of one weight an axis, and those of all patches on an axis are divided by their sum, so
that every voxel's weights add up to one without an array to count in.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.networks.adapt import window

Blend = Literal["crop", "linear", "cosine"]
Sizes = tuple[int, int, int]
MIB = 2**20


class Axis(NamedTuple):
    """Patches along one axis: first voxels, size, and each one's weights (patch, voxel), which sum to 1 anywhere."""

    starts: list[int]
    size: int
    weights: np.ndarray


def fits(shape: Sizes, bytes_per_voxel: float, limit_mib: float) -> bool:
    """Whether a network that takes `bytes_per_voxel` of working memory can run `shape` at once."""
    return float(np.prod(shape)) * bytes_per_voxel <= limit_mib * MIB


def patch_sizes(
    shape: Sizes, bytes_per_voxel: float, limit_mib: float, overlap: int, multiple: Sizes, smallest: Sizes
) -> Sizes:
    """The largest patch (multiples, no axis longer than `shape`) that fits: the longest axis is cut first.

    Raises ReconstructionError, with the remedy, where not even a patch of twice the overlap fits.
    """
    patch = list(shape)
    while not fits((patch[0], patch[1], patch[2]), bytes_per_voxel, limit_mib):
        axis = max(range(3), key=lambda a: patch[a])
        patch[axis] = (patch[axis] - 1) // multiple[axis] * multiple[axis]
        if patch[axis] < max(smallest[axis], 2 * overlap + multiple[axis], multiple[axis]):
            need = np.prod([max(s, 2 * overlap + m) for s, m in zip(smallest, multiple, strict=True)])
            raise ReconstructionError(
                f"the network needs about {need * bytes_per_voxel / MIB:.0f} MiB for its smallest patch, and "
                f"{limit_mib:.0f} MiB may be used; free memory, allow more (--memory-mib), or take a smaller network"
            )
    return patch[0], patch[1], patch[2]


def tile(n: int, size: int, overlap: int, blend: Blend, crop: int = 0) -> Axis:
    """Patches of `size` over an axis of `n` voxels, all inside it, so that the axis' own ends stay what they are.

    crop     voxels at a patch's inner sides that see too little and are not used
    overlap  voxels that neighbours share beyond that: `linear` and `cosine` weights rise and fall over them, with
             `crop` each gives up half
    """
    if size >= n:
        return Axis([0], n, np.ones((1, n), np.float32))
    shared = overlap + 2 * crop
    if not 0 <= shared < size:
        raise UsageError(f"patching.overlap and crop share {shared} voxels of a patch, which has {size} only")
    count = -(-(n - shared) // (size - shared))
    starts = [round(i * (n - size) / (count - 1)) for i in range(count)]
    weights = np.zeros((count, size))
    inside = np.arange(size)
    for i, start in enumerate(starts):
        rise, fall = np.ones(size), np.ones(size)
        if i:
            rise = _ramp(inside - crop, starts[i - 1] + size - start - 2 * crop, blend)
        if i + 1 < count:
            fall = _ramp(size - 1 - inside - crop, start + size - starts[i + 1] - 2 * crop, blend)
        weights[i] = np.minimum(rise, fall)
    total = np.zeros(n)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + size]
    return Axis(starts, size, weights.astype(np.float32))


def _ramp(at: np.ndarray, shared: int, blend: Blend) -> np.ndarray:
    """0 before voxel 0 of the `shared` ones, 1 after them; `crop` jumps in their middle."""
    if blend == "crop" or shared == 0:
        return (at >= shared // 2).astype(float)
    rise = np.clip((at + 0.5) / shared, 0, 1)
    return np.sin(np.pi / 2 * rise) ** 2 if blend == "cosine" else rise


def in_patches(
    network: Callable[[list[np.ndarray]], np.ndarray],
    inputs: list[np.ndarray],
    shape: Sizes,
    patch: Sizes,
    overlap: Sizes,
    *,
    blend: Blend = "linear",
    crop: Sizes = (0, 0, 0),
    halo: Sizes = (0, 0, 0),
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """The network's output over `shape`, put together from patches: float32 (channel, x, y, z).

    network  takes the inputs of one patch, gives float32 (channel, x, y, z) of its size, or of it less the halo
    inputs   arrays (..., x, y, z) of `shape` and a halo on both sides are cut; any others go along as they are
    patch    output voxels of one patch; with a halo it sees more and gives only these
    crop     voxels of the output that are not used, where another patch has them
    """
    axes = [tile(n, p, o, blend, c) for n, p, o, c in zip(shape, patch, overlap, crop, strict=True)]
    whole = tuple(n + 2 * h for n, h in zip(shape, halo, strict=True))
    places = list(product(*(range(len(a.starts)) for a in axes)))
    out = np.zeros((1, *shape), np.float32)
    for done, place in enumerate(places):
        lo = [a.starts[i] for a, i in zip(axes, place, strict=True)]
        seen = window(lo, [a.size + 2 * h for a, h in zip(axes, halo, strict=True)])
        y = network([np.ascontiguousarray(x[seen]) if x.shape[-3:] == whole else x for x in inputs])
        y = middle(y, [a.size for a in axes])
        if done == 0:
            out = np.zeros((*y.shape[:-3], *shape), np.float32)
        if len(places) == 1:
            return np.ascontiguousarray(y)
        x_weight, y_weight, z_weight = (a.weights[i] for a, i in zip(axes, place, strict=True))
        y = y * (y_weight[:, None] * z_weight)
        y *= x_weight[:, None, None]
        out[window(lo, [a.size for a in axes])] += y
        if progress is not None:
            progress((done + 1) / len(places))
    return out


def middle(y: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The central `sizes` of (..., x, y, z); a view. Raises ReconstructionError where `y` is smaller."""
    if any(n < s for n, s in zip(y.shape[-3:], sizes, strict=True)):
        raise ReconstructionError(
            f"the network gave {y.shape[-3:]} voxels where at least {tuple(sizes)} are needed: its card's "
            "patching.crop does not fit the file"
        )
    return y[window([(n - s) // 2 for n, s in zip(y.shape[-3:], sizes, strict=True)], sizes)]
