"""Whether a network runs on the whole volume or in patches, and how."""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.networks import adapt, patches
from qsm_runtime.networks.adapt import Sizes
from qsm_runtime.networks.card import Card

Progress = Callable[[float], None] | None


class Tiling:
    """Whole volume, or patches: decided from the card's sizes, its bytes a voxel and the memory limit.

    patch    voxels that a run sees, all of `shape` where that fits
    smaller  whether the graph gives only the middle of what it sees; found on the first patch
    """

    def __init__(self, card: Card, shape: Sizes, limit_mib: float) -> None:
        self.shape, self.how = shape, card.patching
        self.pad_mode, self.smaller = card.size.pad_mode, False
        size, needed = card.size, card.runtime.bytes_per_voxel
        free = size.fixed is None and (size.max is None or max(shape) <= size.max)
        if shape == size.fixed or (free and patches.fits(shape, needed, limit_mib)):
            self.patch = shape
            return
        if not self.how.allowed:
            if not free:
                raise ReconstructionError(
                    f"network {card.name} takes {_by(size.fixed) if size.fixed else size.max} voxels at most, the scan "
                    f"has {_by(shape)}, and its card allows no patches: crop the scan, or take another network"
                )
            raise ReconstructionError(
                f"network {card.name} must see the whole volume of {_by(shape)} voxels, which needs about "
                f"{np.prod(shape) * needed / patches.MIB:.0f} MiB, and {limit_mib:.0f} MiB may be used: free memory, "
                "allow more (--memory-mib), crop the scan, or take a network whose card allows patches"
            )
        fixed = size.fixed or self.how.patch
        if fixed is None:
            x, y, z = (min(n, size.max or n) for n in shape)
            shared = max(o + 2 * c for o, c in zip(self.how.overlap, self.how.crop, strict=True))
            fixed = patches.patch_sizes((x, y, z), needed, limit_mib, shared, (size.multiple,) * 3, (size.min,) * 3)
        x, y, z = (f if size.fixed else min(f, n) for f, n in zip(fixed, shape, strict=True))
        self.patch = (x, y, z)

    @property
    def count(self) -> int:
        """Patches that one pass takes."""
        halo, crop = self._margins()
        axes = [
            patches.tile(max(n, p - 2 * h), p - 2 * h, o, self.how.blend, c)
            for n, p, h, o, c in zip(self.shape, self.patch, halo, self.how.overlap, crop, strict=True)
        ]
        return int(np.prod([len(a.starts) for a in axes]))

    def _margins(self) -> tuple[Sizes, Sizes]:
        """What a patch sees beyond its output, and what of its output is not used."""
        return (self.how.crop, (0, 0, 0)) if self.smaller else ((0, 0, 0), self.how.crop)

    @property
    def whole(self) -> bool:
        return self.patch == self.shape

    def apply(
        self, network: Callable[[list[np.ndarray]], np.ndarray], inputs: list[np.ndarray], progress: Progress
    ) -> np.ndarray:
        """float32 (channel, x, y, z) of the shape."""
        how = self.how
        if self.whole:
            return network(inputs)
        if max(how.crop) and not self.smaller:
            sample = network([x[adapt.window((0, 0, 0), self.patch)] if self._spatial(x) else x for x in inputs])
            self.smaller = sample.shape[-3:] != self.patch
        halo, crop = self._margins()
        x, y, z = (p - 2 * h for p, h in zip(self.patch, halo, strict=True))
        target = tuple(max(n, p) for n, p in zip(self.shape, (x, y, z), strict=True))
        widths = [(0, 0), *((h, t - n + h) for t, n, h in zip(target, self.shape, halo, strict=True))]
        mode = adapt.PAD_MODES[self.pad_mode]
        ready = [np.pad(a, widths, mode) if self._spatial(a) else a for a in inputs]  # type: ignore[call-overload]
        made = patches.in_patches(
            network, ready, target, (x, y, z), how.overlap,  # type: ignore[arg-type]
            blend=how.blend, crop=crop, halo=halo, progress=progress,
        )  # fmt: skip
        return made[adapt.window((0, 0, 0), self.shape)]

    def _spatial(self, x: np.ndarray) -> bool:
        return x.ndim == 4 and x.shape[1:] == self.shape


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
