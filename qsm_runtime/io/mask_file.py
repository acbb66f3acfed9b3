"""A user's mask file: what counts as inside, and what is no mask."""

import numpy as np

from qsm_runtime.errors import InputError
from qsm_runtime.io.image import Image


def mask_of(image: Image, warnings: list[str]) -> np.ndarray:
    """A mask file's image as bool (x, y, z): one value and 0, or probabilities cut at 0.5; raises InputError."""
    if image.n_volumes != 1 or image.stored.dtype.kind == "c":
        raise InputError(f"{image.name}: a mask must be one real 3-D volume, got {image.n_volumes} volumes")
    values = image.volume(0, image.slope, image.intercept)
    if not np.isfinite(values).all():
        raise InputError(f"{image.name}: the mask holds values that are not finite")
    levels = values[values != 0]
    if levels.size == 0:
        raise InputError(f"{image.name}: the mask is empty")
    low, high = float(levels.min()), float(levels.max())
    if low == high:
        return values != 0
    if low < 0 or high > 1:
        raise InputError(f"{image.name}: values from {low:g} to {high:g}, a label image? A mask needs one value and 0")
    warnings.append(f"{image.name}: fractional mask cut at 0.5")
    inside = values >= 0.5
    if not inside.any():
        raise InputError(f"{image.name}: the mask is empty at 0.5")
    return inside
