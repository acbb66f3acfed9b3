"""How susceptibility travels as pixels: stored * slope + intercept, fixed for every subject, in ppb or ppm.

    uint16   0..4095, 1 ppb a count, -2048 to 2047 ppb: the 12 bits that consoles keep. Rounding adds an error of at
             most 0.5 ppb, 0.29 ppb rms, some tenth of the noise of a map; what lies beyond is clipped and counted.
    int16    0.1 ppb a count, -3276.8 to 3276.7 ppb
    float32  ppm as reconstructed, to the bit

Consoles cut window values to whole numbers, so integers are in ppb.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

DataType = Literal["uint16", "int16", "float32"]
PPB_PER_PPM = 1000.0


@dataclass(frozen=True)
class Encoding:
    """unit: of the rescaled values, `per_ppm` of which are one ppm. lowest, highest: stored values."""

    dtype: np.dtype
    unit: str
    per_ppm: float
    slope: float
    intercept: float
    lowest: int | None = None
    highest: int | None = None

    def stored(self, chi_ppm: np.ndarray) -> np.ndarray:
        """Pixels of the same shape, clipped to what can be held."""
        if self.lowest is None or self.highest is None:
            return np.ascontiguousarray(chi_ppm, self.dtype)
        exact = np.rint((chi_ppm.astype(float) * self.per_ppm - self.intercept) / self.slope)
        return np.clip(exact, self.lowest, self.highest).astype(self.dtype)

    def clipped(self, chi_ppm: np.ndarray) -> int:
        """How many voxels `stored` clips."""
        if self.lowest is None or self.highest is None:
            return 0
        low, high = ((n * self.slope + self.intercept) / self.per_ppm for n in (self.lowest - 0.5, self.highest + 0.5))
        return int(np.count_nonzero(chi_ppm < low) + np.count_nonzero(chi_ppm > high))


ENCODINGS: dict[str, Encoding] = {
    "uint16": Encoding(np.dtype("<u2"), "ppb", PPB_PER_PPM, 1.0, -2048.0, 0, 4095),
    "int16": Encoding(np.dtype("<i2"), "ppb", PPB_PER_PPM, 0.1, 0.0, -32768, 32767),
    "float32": Encoding(np.dtype("<f4"), "ppm", 1.0, 1.0, 0.0),
}


def values_ppm(pixels: np.ndarray, slope: float, intercept: float, unit: str) -> np.ndarray:
    """float32 susceptibility in ppm of pixels with the rescale and unit of their Meta attributes."""
    if slope == 1.0 and intercept == 0.0 and unit == "ppm":
        return np.ascontiguousarray(pixels, np.float32)
    per_ppm = {"ppm": 1.0, "ppb": PPB_PER_PPM}[unit]
    return ((pixels.astype(float) * slope + intercept) / per_ppm).astype(np.float32)
