"""A fine grid on which shapes are painted one over the other, by the fraction of each voxel that they fill."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qsm_runtime.phantom.shapes import Points
from qsm_runtime.phantom.tissues import AIR_CHI_PPM, TISSUES

SLAB = 8  # planes handled at a time
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

    @classmethod
    def blank(cls, lines: Points, b0_tesla: float) -> "Canvas":
        """Nothing but air."""
        shape = tuple(line.size for line in lines)
        return cls(
            lines,
            np.full(shape, AIR_CHI_PPM, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.uint8),
            np.zeros(shape, np.float32),
            b0_tesla,
        )

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
