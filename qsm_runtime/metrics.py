"""How close a map is to its truth.

NRMSE      100 |x - t| / |t|, both less their mean in the region; detrended: after a linear fit, 100 sqrt(1/r^2 - 1)
HFEN       100 |L x - L t| / |L t|, L the Laplacian of a 1.5-voxel Gaussian; Ravishankar 2011, 10.1109/TMI.2010.2090538
XSIM       SSIM on ppm as they are, L = 1, K = (.01, .001); Milovic 2024, 10.1002/mrm.30271. The window is part of
           the figure: `xsim` has 5^3 uniform voxels, `xsim_gaussian` 7^3 with a Gaussian of 1.5 voxels
Lesions    moment and streaks as in the reconstruction challenge; Langkammer 2018, 10.1002/mrm.26830
Maps are zero outside the mask in every windowed figure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qsm_runtime.errors import InputError, ShapeError
from qsm_runtime.phantom.tissues import DEEP_GREY, LABELS

XSIM_C1, XSIM_C2 = 1e-4, 1e-6
SIGMA_VOXELS = 1.5
GAUSSIAN_RADIUS = 3
LEAST_ROI_VOXELS = 10  # a region must have more to count for the slope
HALO_VOXELS, RIM_VOXELS = 2.0, 6.0  # a lesion's blur is looked for within the halo, its streaks from there to the rim


@dataclass(frozen=True)
class Scores:
    """Figures of one map in one region; percent, ppm or pure numbers as named. None where no label says the place.

    voxels, coverage       of the region, and its share of the mask
    slope                  of the map against the truth, over voxels; 1 is right
    off_pct                voxels more than `off_ppm` from the truth
    deep_grey_slope        over the means of iron-rich nuclei; 1 is right
    *_moment_error_pct     of a lesion's summed susceptibility above its surroundings; 0 is right
    *_streak_ppm           standard deviation of the error in a rim around it
    """

    voxels: int
    coverage: float
    nrmse_pct: float
    detrended_nrmse_pct: float
    correlation: float
    slope: float
    hfen_pct: float
    xsim: float
    xsim_gaussian: float
    off_ppm: float
    off_pct: float
    deep_grey_slope: float | None = None
    calcification_moment_error_pct: float | None = None
    calcification_streak_ppm: float | None = None
    haemorrhage_moment_error_pct: float | None = None
    haemorrhage_streak_ppm: float | None = None


def score(
    recon: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    off_ppm: float = 0.1,
) -> Scores:
    """Compare two maps (x, y, z), ppm, in a region.

    mask    bool, where the truth counts; both maps are zero outside it
    valid   bool, where the map counts; the region is what lies in both. None: where the map is not zero
    labels  codes in qsm_runtime.phantom.LABELS: adds nuclei and lesions
    Raises ShapeError where shapes differ, InputError where there is nothing to compare.
    """
    x, t, region, box = _prepare(recon, truth, mask, valid)
    a, b = x[region], t[region]
    r = correlation(a, b)
    extra: dict[str, float | None] = {}
    if labels is not None:
        if labels.shape != truth.shape:
            raise ShapeError(f"labels {labels.shape} and maps {truth.shape} differ in shape")
        labels = labels[box]
        extra["deep_grey_slope"] = roi_slope(x, t, region, labels, tuple(LABELS[name] for name in DEEP_GREY))
        inside = mask[box]
        for lesion in ("calcification", "haemorrhage"):
            error = lesion_error(x, t, (labels == LABELS[lesion]) & inside, inside)
            extra[f"{lesion}_moment_error_pct"], extra[f"{lesion}_streak_ppm"] = error or (None, None)
    return Scores(
        voxels=int(region.sum()),
        coverage=float(region.sum() / mask.sum()),
        nrmse_pct=nrmse(a, b),
        detrended_nrmse_pct=100 * float(np.sqrt(max(1 / r**2 - 1, 0))) if r else float("inf"),
        correlation=r,
        slope=slope(a, b),
        hfen_pct=hfen(x, t, region),
        xsim=xsim(x, t, region),
        xsim_gaussian=xsim_gaussian(x, t, region),
        off_ppm=off_ppm,
        off_pct=100 * float((np.abs(a - b) > off_ppm).mean()),
        **extra,  # type: ignore[arg-type]
    )


def score_field(
    field_ppm: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    off_ppm: float = 0.1,
) -> Scores:
    """As `score`, for fields, which are known up to a constant: the median difference is removed first."""
    _, _, region, box = _prepare(field_ppm, truth, mask, valid)
    constant = np.median(field_ppm[box][region].astype(np.float64) - truth[box][region])
    shifted = np.where(mask, field_ppm - constant, 0)
    inside = np.zeros(mask.shape, bool)
    inside[box] = region
    return score(shifted, truth, mask, valid=inside, off_ppm=off_ppm)


def _prepare(
    recon: np.ndarray, truth: np.ndarray, mask: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[slice, ...]]:
    """Both maps in float64, zero outside the mask and cropped to it; the region in that crop; the crop."""
    for name, array in (("truth", truth), ("mask", mask), ("valid", recon if valid is None else valid)):
        if array.shape != recon.shape:
            raise ShapeError(f"{name} {array.shape} and map {recon.shape} differ in shape")
    if recon.ndim != 3:
        raise ShapeError(f"maps must be (x, y, z), got shape {recon.shape}")
    mask = mask.astype(bool)
    if not mask.any():
        raise InputError("the mask is empty: nothing to compare")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    mask = mask[box]
    x, t = (np.where(mask, a[box], 0).astype(np.float64) for a in (recon, truth))
    region = mask & ((x != 0) if valid is None else valid[box].astype(bool))
    if not region.any():
        raise InputError("the map is zero, or not valid, all over the mask: nothing to compare")
    if not (np.isfinite(x).all() and np.isfinite(t).all()):
        raise InputError("a map is not finite inside the mask")
    if t[region].min() == t[region].max():
        raise InputError("the truth is constant inside the region: nothing to compare with")
    return x, t, region, box


def nrmse(a: np.ndarray, b: np.ndarray) -> float:
    """Percent; `a` and the truth `b` are the values of a region."""
    a, b = a - a.mean(), b - b.mean()
    return 100 * float(np.linalg.norm(a - b) / np.linalg.norm(b))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, 0 where `a` is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0


def slope(a: np.ndarray, b: np.ndarray) -> float:
    """Of `a` against the truth `b`."""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (b @ b))


def hfen(x: np.ndarray, t: np.ndarray, region: np.ndarray) -> float:
    """Percent; volumes, zero outside the mask."""
    edges, true_edges = (ndimage.gaussian_laplace(v, SIGMA_VOXELS, mode="constant")[region] for v in (x, t))
    return 100 * float(np.linalg.norm(edges - true_edges) / np.linalg.norm(true_edges))


def _uniform(v: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(v, 5, mode="constant")


def _gaussian(v: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(v, SIGMA_VOXELS, mode="constant", radius=GAUSSIAN_RADIUS)


def _similarity(x: np.ndarray, t: np.ndarray, region: np.ndarray, window: Callable[[np.ndarray], np.ndarray]) -> float:
    mean_x, mean_t = window(x), window(t)
    var_x, var_t = window(x * x) - mean_x**2, window(t * t) - mean_t**2
    both = window(x * t) - mean_x * mean_t
    similar = (2 * mean_x * mean_t + XSIM_C1) * (2 * both + XSIM_C2)
    similar /= (mean_x**2 + mean_t**2 + XSIM_C1) * (var_x + var_t + XSIM_C2)
    return float(similar[region].mean())


def xsim(x: np.ndarray, t: np.ndarray, region: np.ndarray) -> float:
    """Mean over `region`, window 5^3 uniform; float64 volumes in ppm, zero outside the mask."""
    return _similarity(x, t, region, _uniform)


def xsim_gaussian(x: np.ndarray, t: np.ndarray, region: np.ndarray) -> float:
    """Mean over `region`, window 7^3 Gaussian; float64 volumes in ppm, zero outside the mask."""
    return _similarity(x, t, region, _gaussian)


def roi_slope(
    x: np.ndarray, t: np.ndarray, region: np.ndarray, labels: np.ndarray, codes: tuple[int, ...]
) -> float | None:
    """Slope of a line through the means of labelled regions; None with fewer than three of them."""
    places = [(labels == code) & region for code in codes]
    places = [p for p in places if p.sum() > LEAST_ROI_VOXELS]
    if len(places) < 3:
        return None
    return slope(np.array([x[p].mean() for p in places]), np.array([t[p].mean() for p in places]))


def lesion_error(x: np.ndarray, t: np.ndarray, lesion: np.ndarray, mask: np.ndarray) -> tuple[float, float] | None:
    """Error of a lesion's moment (percent) and of its surroundings (standard deviation, ppm); None without a lesion.

    The moment is the sum over the lesion and a halo of two voxels, which takes its blur in, above the rim's median.
    """
    if not lesion.any():
        return None
    distance = ndimage.distance_transform_edt(~lesion)
    halo = (distance <= HALO_VOXELS) & mask
    rim = (distance > HALO_VOXELS) & (distance <= RIM_VOXELS) & mask
    if not rim.any():
        return None
    moments = [float((v[halo] - np.median(v[rim])).sum()) for v in (x, t)]
    return 100 * (moments[0] / moments[1] - 1), float((x - t)[rim].std())
