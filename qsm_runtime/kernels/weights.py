"""Data weights from the field's standard deviation: equal where it is small, vanishing where it is large.

    w = 1 / sqrt(1 + (sigma / (SATURATION sigma_median))^2)
Inverse-deviation weights trust the quietest voxels most. But thermal noise differs little between voxels that are
well, and hardly matters once it is regularised; what a strong source (a calcification, a bleed) looks like is told
by the voxels right beside it, whose deviation is tens of times the median because the field is steep there. With
inverse deviations as weights a calcification keeps its moment and loses a third of its value (it is smeared);
saturating weights leave out only what is a guess.
"""

import numpy as np

SATURATION = 64.0  # in medians of the deviation


def data_weights(reliability: np.ndarray, mask: np.ndarray, saturation: float = SATURATION) -> np.ndarray:
    """Weights of 0..1, float32: `reliability` (inverse standard deviation, any unit; 0: none) as above.

    0 outside the mask and where reliability is 0 or not finite; all 0 where nothing can be trusted.
    """
    trusted = mask & (reliability > 0) & np.isfinite(reliability)
    weights = np.zeros(mask.shape, np.float32)
    if trusted.any():
        known = reliability[trusted]
        ratio = np.median(known) / (np.float32(saturation) * known)
        weights[trusted] = 1.0 / np.sqrt(1.0 + ratio * ratio)
    return weights
