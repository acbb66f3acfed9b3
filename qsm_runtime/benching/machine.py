"""What bounds this machine: bandwidth of memory, FFT pairs and convolutions, and how near a stage comes to that.

A stage's bound is the time of the FFTs that it makes, at the rate measured for their shapes alone, and of reading its
inputs and writing its outputs once at copy bandwidth. Its share of the bound is bound / time: 1 could not be beaten
without fewer transforms.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numba import njit, prange

from qsm_runtime import bench
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import multiply
from qsm_runtime.kernels.threads import get_threads

COPY_BYTES = 2**28  # well beyond any cache
RUNS = 7
Shape = tuple[int, int, int]
# float32 volumes that a stage reads and writes: (each echo, once)
TRAFFIC = {
    "mask": (2, 1),
    "offset": (2, 1),
    "unwrap": (3, 1),
    "field": (2, 3),
    "background": (0, 3),
    "inversion": (0, 3),
    "single_step": (0, 3),
    "reference": (0, 2),
}


@njit(parallel=True, cache=True)
def copy(source, out):
    """out = source; float32, one axis."""
    for i in prange(source.shape[0]):
        out[i] = source[i]


def rates(shapes: Sequence[Shape]) -> dict[str, Any]:
    """Raw seconds at the current thread count: copies of COPY_BYTES, and FFT pairs and convolutions of each shape."""
    source = np.ones(COPY_BYTES // 4, np.float32)
    out = np.zeros_like(source)
    copy(source, out)  # compiled, and the memory is there
    copies = _timed(partial(copy, source, out))
    del source, out
    found: dict[str, Any] = {"threads": get_threads(), "copy_bytes": COPY_BYTES, "copy_s": copies, "shapes": []}
    for shape in shapes:
        plan = fft.Plan(shape, get_threads())
        plan.real[:] = 1
        filter_ = np.full(plan.half_shape, plan.scale, np.float32)

        def pair(plan: fft.Plan = plan) -> None:
            plan.forward()
            plan.inverse()

        def convolution(plan: fft.Plan = plan, filter_: np.ndarray = filter_) -> None:
            plan.forward()
            multiply(plan.spectrum, filter_)
            plan.inverse()

        pair()
        convolution()
        pairs = _timed(pair)
        plan.real[:] = 1  # pairs are not normalised
        found["shapes"].append({"shape": list(shape), "fft_pair_s": pairs, "convolution_s": _timed(convolution)})
    found["copy_gb_per_s"] = 2 * COPY_BYTES / float(np.median(copies)) / 1e9
    for one in found["shapes"]:
        n = int(np.prod(one["shape"]))
        one["fft_gflop_per_s"] = 5 * n * np.log2(n) / float(np.median(one["fft_pair_s"])) / 1e9
        one["convolutions_per_s"] = 1 / float(np.median(one["convolution_s"]))
    return found


def _timed(call: Callable[[], Any]) -> list[float]:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


class Transforms:
    """Counts the transforms that plans make, by stage and shape; `stage` is set by whoever knows it."""

    def __init__(self) -> None:
        self.stage = ""
        self.count: Counter[tuple[str, Shape]] = Counter()

    @contextmanager
    def counted(self) -> Iterator["Transforms"]:
        """Counts within the block, in every thread; not for a run that is timed."""
        forward, inverse, count = fft.Plan.forward, fft.Plan.inverse, self.count

        def counting(transform: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
            def call(plan: fft.Plan, x: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
                count[self.stage, plan.shape] += 1
                return transform(plan, x, out)

            return call

        fft.Plan.forward, fft.Plan.inverse = counting(forward), counting(inverse)  # type: ignore[method-assign]
        try:
            yield self
        finally:
            fft.Plan.forward, fft.Plan.inverse = forward, inverse  # type: ignore[method-assign]


def bounds(
    transforms: Transforms, seconds: Mapping[str, float], *, echoes: int, voxels: int, gb_per_s: float | None = None
) -> dict[str, dict[str, Any]]:
    """Of each stage of `seconds`: transforms, seconds of those alone, of its traffic, and the share of the bound."""
    shapes = {shape for _, shape in transforms.count}
    pair_s = {shape: float(np.median(bench.yardsticks(shape)["fft_pair_s"])) for shape in shapes}
    if gb_per_s is None:
        gb_per_s = rates(())["copy_gb_per_s"]
    out = {}
    for stage, took in seconds.items():
        each, once = TRAFFIC.get(stage, (0, 2))
        memory_s = 4 * voxels * (each * echoes + once) / (gb_per_s * 1e9)
        counts = {shape: n for (name, shape), n in transforms.count.items() if name == stage}
        fft_s = sum(n / 2 * pair_s[shape] for shape, n in counts.items())
        out[stage] = {
            "transforms": [{"shape": list(shape), "count": n} for shape, n in counts.items()],
            "fft_s": fft_s,
            "memory_s": memory_s,
            "share_of_bound": min(1.0, (fft_s + memory_s) / took) if took > 0 else None,
        }
    return out
