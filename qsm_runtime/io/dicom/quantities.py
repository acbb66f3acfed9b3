"""How each map is stored: one scale for every subject and scanner, its unit and its code.

A count is a fixed step far below the noise of the map, so that two series compare count for count; what lies beyond
the range of 16 bits is clipped, counted and said. Units are UCUM, concepts DCM (PS3.16 CID 7180 and 7181) where the
standard has one.
"""

from dataclasses import dataclass

import numpy as np

from qsm_runtime.errors import OutputError

Code = tuple[str, str, str]  # value, scheme, meaning

PRIVATE_SCHEME = "99QSMRUNTIME"
NO_UNIT: Code = ("1", "UCUM", "no units")
PPM: Code = ("ppm", "UCUM", "ppm")
PER_SECOND: Code = ("/s", "UCUM", "/s")
PER_PPM: Code = ("ppm-1", "UCUM", "/ppm")


@dataclass(frozen=True)
class Quantity:
    """A kind of map. value = stored * step; words: of ImageType after PRIMARY.

    window: centre and width in values, the same for every subject; None: of the map's own range, as its unit is.
    """

    label: str
    words: tuple[str, ...]
    dtype: str
    step: str
    unit: Code
    concept: Code
    window: tuple[float, float] | None

    @property
    def signed(self) -> bool:
        return self.dtype[1] == "i"

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest stored value."""
        return (-(1 << 15), (1 << 15) - 1) if self.signed else (0, (1 << 16) - 1)

    @property
    def range_text(self) -> str:
        low, high = (value * float(self.step) for value in self.limits)
        return f"{low:g} to {high:g} {self.unit[2]}"

    def window_of(self, array: np.ndarray) -> tuple[float, float]:
        """Centre and width in values for a map."""
        if self.window is not None:
            return self.window
        top = float(np.ceil(max(float(array.max()), 1.0)))
        return top / 2, top

    def stored(self, plane: np.ndarray) -> tuple[np.ndarray, int]:
        """Samples of values, and how many were clipped. Raises OutputError where one is not finite."""
        counts = np.rint(plane.astype(np.float64) / float(self.step))
        if not np.isfinite(counts).all():
            raise OutputError(f"{self.label}: the map holds values that are not finite; nothing was written")
        low, high = self.limits
        beyond = int(np.count_nonzero((counts < low) | (counts > high)))
        return counts.clip(low, high).astype(self.dtype), beyond


def _private(value: str, meaning: str) -> Code:
    return value, PRIVATE_SCHEME, meaning


QUANTITIES: dict[str, Quantity] = {
    # 0.1 ppb a count to +-3.2767 ppm: tissue and blood lie within +-1, noise is some ppb
    "chi": Quantity(
        "chi ppm", ("QSM",), "<i2", "0.0001", PPM, ("126396", "DCM", "Magnetic Susceptibility"), (0, 0.4)
    ),
    "local": Quantity(
        "local field ppm", ("OTHER", "LOCAL FIELD"), "<i2", "0.0001", PPM,
        _private("LOCALFIELD", "Local magnetic field relative to B0"), (0, 0.2),
    ),
    # 0.5 ppb a count to +-16 ppm: air makes up to 9
    "total": Quantity(
        "total field ppm", ("OTHER", "TOTAL FIELD"), "<i2", "0.0005", PPM,
        _private("TOTALFIELD", "Magnetic field offset relative to B0"), (0, 4),
    ),
    "r2star": Quantity("R2* 1/s", ("R2_STAR MAP",), "<u2", "0.05", PER_SECOND, ("126395", "DCM", "R2*"), (50, 100)),
    "reliability": Quantity(
        "reliability 1/ppm", ("OTHER", "RELIABILITY"), "<u2", "0.5", PER_PPM,
        _private("FIELDRELIABILITY", "Inverse standard deviation of the field"), (500, 1000),
    ),
    "mask": Quantity(
        "mask", ("OTHER", "MASK"), "<u2", "1", NO_UNIT, ("110853", "DCM", "Binary Segmentation"), (0.5, 1)
    ),
    "swi": Quantity(
        "SWI", ("OTHER", "SWI"), "<u2", "1", NO_UNIT, ("110852", "DCM", "MR signal intensity"), None
    ),
}  # fmt: skip
