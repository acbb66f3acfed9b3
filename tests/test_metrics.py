"""Figures of merit against closed forms, plain loops, and what each must not care about."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from qsm_runtime import metrics
from qsm_runtime.errors import InputError, ShapeError
from qsm_runtime.metrics import Scores, score, score_field
from qsm_runtime.phantom import DEEP_GREY, LABELS

SHAPE = (18, 20, 22)


@pytest.fixture(scope="module")
def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A map, its truth, and a mask that is no box."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.05, SHAPE)
    recon = 0.9 * truth + rng.normal(0, 0.01, SHAPE) + 0.02
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return recon.astype(np.float32), truth.astype(np.float32), x**2 + y**2 + z**2 < 0.9


def plain_xsim(x: np.ndarray, t: np.ndarray, region: np.ndarray, weights: np.ndarray) -> float:
    """Windowed similarity voxel by voxel; `weights` a cube that sums to one."""
    half, values = len(weights) // 2, []
    px, pt = (np.pad(v.astype(np.float64), half) for v in (x, t))
    for i, j, k in np.argwhere(region):
        cut = np.s_[i : i + len(weights), j : j + len(weights), k : k + len(weights)]
        a, b = px[cut], pt[cut]
        ma, mb = (weights * a).sum(), (weights * b).sum()
        va, vb = (weights * a * a).sum() - ma**2, (weights * b * b).sum() - mb**2
        cab = (weights * a * b).sum() - ma * mb
        values.append((2 * ma * mb + 1e-4) * (2 * cab + 1e-6) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 1e-6)))
    return float(np.mean(values))


def test_a_perfect_map(maps):
    _, truth, mask = maps
    s = score(truth, truth, mask)
    assert (s.nrmse_pct, s.hfen_pct, s.off_pct) == (0, 0, 0)
    assert s.correlation == pytest.approx(1)
    assert s.detrended_nrmse_pct == pytest.approx(0, abs=1e-4)
    assert s.slope == pytest.approx(1)
    assert s.xsim == pytest.approx(1)
    assert s.xsim_gaussian == pytest.approx(1)
    assert s.voxels == mask.sum()
    assert s.coverage == 1


def test_figures_by_hand(maps):
    recon, truth, mask = maps
    s = score(recon, truth, mask, off_ppm=0.03)
    a, b = recon[mask].astype(float), truth[mask].astype(float)
    fit = np.polyfit(b, a, 1)
    assert s.slope == pytest.approx(fit[0], rel=1e-6)
    assert s.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-6)
    assert s.nrmse_pct == pytest.approx(100 * np.std(a - b) / np.std(b), rel=1e-6)
    assert s.off_pct == pytest.approx(100 * np.mean(np.abs(a - b) > 0.03))
    # after a linear fit of the map to the truth
    a_fit = np.polyval(np.polyfit(a, b, 1), a)
    assert 100 * np.std(a_fit - b) / np.std(a_fit) == pytest.approx(s.detrended_nrmse_pct, rel=1e-6)


def test_xsim_voxel_by_voxel(maps):
    recon, truth, mask = maps
    x, t = (np.where(mask, v, 0) for v in maps[:2])
    s = score(recon, truth, mask)
    assert s.xsim == pytest.approx(plain_xsim(x, t, mask, np.full((5, 5, 5), 1 / 125)), abs=1e-6)
    line = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    line /= line.sum()
    gaussian = line[:, None, None] * line[None, :, None] * line[None, None, :]
    assert s.xsim_gaussian == pytest.approx(plain_xsim(x, t, mask, gaussian), abs=1e-6)


def test_what_is_outside_the_mask_does_not_matter(maps):
    recon, truth, mask = maps
    dirty = np.where(mask, recon, 1e3)
    clean = np.where(mask, recon, 0)
    assert score(dirty, truth, mask) == score(clean, truth, mask)
    dirty[~mask] = np.nan
    assert score(dirty, truth, mask) == score(clean, truth, mask)


def test_figures_do_not_depend_on_the_empty_space_around(maps):
    wide = [np.pad(v, ((3, 4), (7, 1), (2, 2))) for v in maps]
    small, large = (dataclasses.astuple(s) for s in (score(*maps), score(*wide)))
    assert [v for v in small if v is not None] == pytest.approx([v for v in large if v is not None], rel=1e-9)


def test_a_constant_and_a_scale(maps):
    recon, truth, mask = maps
    inside = np.ones(SHAPE, bool)
    one, raised = (score(v, truth, mask, valid=inside) for v in (recon, recon + 0.1))
    assert raised.nrmse_pct == pytest.approx(one.nrmse_pct, rel=1e-4)
    assert raised.xsim < one.xsim  # ppm as they are: the reference of a map matters
    doubled = score(2 * truth, truth, mask)
    assert doubled.nrmse_pct == pytest.approx(100, rel=1e-5)
    assert doubled.detrended_nrmse_pct == pytest.approx(0, abs=0.01)
    assert doubled.slope == pytest.approx(2, rel=1e-5)
    assert score(-truth, truth, mask).slope == pytest.approx(-1, rel=1e-5)


def test_blur_is_seen_by_hfen(maps):
    _, truth, mask = maps
    truth = ndimage.gaussian_filter(truth, 1.5)
    blurred = ndimage.gaussian_filter(truth, 1.5)
    s = score(blurred, truth, mask)
    assert s.hfen_pct > s.nrmse_pct
    assert score(0.5 * truth, truth, mask).hfen_pct == pytest.approx(50, rel=1e-5)


def test_valid_region(maps):
    recon, truth, mask = maps
    eroded = mask.copy()
    eroded[:9] = False
    cut = np.where(eroded, recon, 0)
    by_zero, given, full = (
        score(cut, truth, mask),
        score(cut, truth, mask, valid=eroded),
        score(cut, truth, mask, valid=mask),
    )
    assert by_zero == given
    assert given.voxels == eroded.sum()
    assert given.coverage == pytest.approx(eroded.sum() / mask.sum())
    assert full.coverage == 1
    assert full.xsim < given.xsim


def test_field_is_compared_but_for_a_constant(maps):
    _, truth, mask = maps
    s = score_field(truth + 0.7, truth, mask)
    assert s.off_pct == 0
    assert s.xsim == pytest.approx(1, abs=1e-6)
    outlier = truth + 0.7
    outlier[9, 10, 11] += 1
    assert score_field(outlier, truth, mask).off_pct == pytest.approx(100 / mask.sum())


def labelled(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and labels with six nuclei, of known susceptibility, in slabs of the mask."""
    labels = np.zeros(SHAPE, np.uint8)
    truth = np.zeros(SHAPE, np.float32)
    for i, name in enumerate(DEEP_GREY):
        labels[6 + i, 6:14, 6:14] = LABELS[name]
        truth[6 + i, 6:14, 6:14] = 0.05 + 0.02 * i
    return truth, labels


def test_deep_grey_slope(maps):
    mask = maps[2]
    truth, labels = labelled(mask)
    assert score(0.8 * truth + 0.3, truth, mask, labels=labels).deep_grey_slope == pytest.approx(0.8, rel=1e-4)
    labels[labels > 2] = 0
    assert score(truth, truth, mask, labels=labels).deep_grey_slope is None
    assert score(truth, truth, mask).deep_grey_slope is None


@pytest.mark.parametrize(("lesion", "chi_ppm"), [("calcification", -2.0), ("haemorrhage", 1.0)])
def test_lesion_moment_and_streak(maps, lesion, chi_ppm):
    mask = maps[2]
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:11, 9:12, 10:13] = LABELS[lesion]
    truth = np.random.default_rng(1).normal(0, 1e-4, SHAPE).astype(np.float32)
    truth[labels > 0] = chi_ppm
    s = dataclasses.asdict(score(truth, truth, mask, labels=labels, valid=mask))
    assert s[f"{lesion}_moment_error_pct"] == pytest.approx(0, abs=1e-6)
    assert s[f"{lesion}_streak_ppm"] == 0
    half = np.where(labels > 0, truth / 2, truth)
    s = dataclasses.asdict(score(half, truth, mask, labels=labels, valid=mask))
    assert s[f"{lesion}_moment_error_pct"] == pytest.approx(-50, abs=1)
    # blur within the halo keeps the moment
    blurred = ndimage.uniform_filter(truth, 3)
    s = dataclasses.asdict(score(blurred, truth, mask, labels=labels, valid=mask))
    assert s[f"{lesion}_moment_error_pct"] == pytest.approx(0, abs=1)
    # a streak in the rim is no moment
    streaked = truth.copy()
    streaked[9, 10, 16] += 0.5
    s = dataclasses.asdict(score(streaked, truth, mask, labels=labels, valid=mask))
    assert s[f"{lesion}_moment_error_pct"] == pytest.approx(0, abs=0.5)
    assert s[f"{lesion}_streak_ppm"] > 0.005
    other = "haemorrhage" if lesion == "calcification" else "calcification"
    assert s[f"{other}_streak_ppm"] is None


def test_scores_are_plain_numbers(maps):
    values = dataclasses.asdict(score(*maps))
    assert all(v is None or type(v) in (int, float) for v in values.values())


def test_nothing_to_compare(maps):
    recon, truth, mask = maps
    with pytest.raises(InputError, match="mask is empty"):
        score(recon, truth, np.zeros(SHAPE, bool))
    with pytest.raises(InputError, match="zero, or not valid"):
        score(recon * 0, truth, mask)
    with pytest.raises(InputError, match="truth is constant"):
        score(recon, truth * 0, mask)
    broken = recon.copy()
    broken[9, 10, 11] = np.nan
    with pytest.raises(InputError, match="not finite"):
        score(broken, truth, mask)


def test_shapes_that_differ(maps):
    recon, truth, mask = maps
    for bad in (
        lambda: score(recon[1:], truth, mask),
        lambda: score(recon, truth, mask[1:]),
        lambda: score(recon, truth, mask, valid=mask[1:]),
        lambda: score(recon, truth, mask, labels=np.zeros((2, 2, 2), np.uint8)),
        lambda: score(recon[0], truth[0], mask[0]),
    ):
        with pytest.raises(ShapeError):
            bad()


def test_a_map_that_is_constant_has_no_correlation(maps):
    _, truth, mask = maps
    s = score(np.ones(SHAPE), truth, mask)
    assert isinstance(s, Scores)
    assert s.correlation == 0
    assert s.detrended_nrmse_pct == float("inf")
    assert metrics.nrmse(np.zeros(5), np.arange(5.0)) == pytest.approx(100)


def test_agreement_with_the_common_ruler(maps, shared_data, tmp_path):
    ruler = shared_data.parent / "tools" / "score.py"
    if not ruler.is_file():
        pytest.skip(f"no {ruler}")
    nibabel = pytest.importorskip("nibabel")
    recon, truth, mask = maps
    _, labels = labelled(mask)
    recon = np.where(mask & (np.arange(SHAPE[0]) > 3)[:, None, None], recon, 0).astype(np.float32)
    files = []
    for name, array in (("recon", recon), ("truth", truth), ("mask", mask.astype(np.uint8)), ("labels", labels)):
        files.append(str(tmp_path / f"{name}.nii"))
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), files[-1])
    command = [sys.executable, str(ruler), *files[:3], "--seg", files[3]]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for s, theirs in (
        (score(recon, truth, mask, labels=labels), printed["valid"]),
        (score(recon, truth, mask, valid=mask), printed["full"]),
    ):
        assert s.voxels == theirs["n"]
        assert s.xsim == pytest.approx(theirs["xsim"], abs=1e-4)
        assert s.correlation == pytest.approx(theirs["corr"], abs=1e-4)
        assert s.slope == pytest.approx(theirs["slope"], abs=1e-4)
        assert s.nrmse_pct == pytest.approx(theirs["nrmse"], abs=0.01)
    s = score(recon, truth, mask, labels=labels)
    assert s.deep_grey_slope == pytest.approx(printed["dgm_slope"], abs=1e-4)
    assert s.coverage == pytest.approx(printed["coverage"], abs=1e-4)
