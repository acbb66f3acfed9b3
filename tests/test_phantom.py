"""The simulated head: its physics against closed forms, its anatomy, its options."""

import dataclasses

import numpy as np
import pytest
from scipy import fft, ndimage

from qsm_runtime.errors import MetadataError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.phantom import DEEP_GREY, LABELS, Head, cylinder_field_ppm, simulate_head, sphere_field_ppm
from qsm_runtime.phantom.canvas import Canvas
from qsm_runtime.phantom.freespace import block_mean, free_space_field
from qsm_runtime.phantom.shapes import Noise, capsule, cubic_weights, ellipsoid, union
from qsm_runtime.units import rad_per_ppm

GRID = Grid((48, 58, 48), (3.5, 3.5, 3.5))
TIMES = (0.004, 0.010, 0.016)
OBLIQUE = (0.35, -0.45, 0.82)


@pytest.fixture(scope="module")
def head() -> Head:
    return simulate_head(GRID, echo_times_s=TIMES, seed=3)


def coordinates(shape, centre, voxel_mm) -> list[np.ndarray]:
    lines = [(np.arange(n) - c) * v for n, c, v in zip(shape, centre, voxel_mm, strict=True)]
    return np.meshgrid(*lines, indexing="ij", sparse=True)


# the field: the same painting, convolution and averaging as the head's, on sources known in closed form


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), (1, 0, 0), OBLIQUE])
@pytest.mark.parametrize("step_mm", [(1.0, 1.0, 1.0), (0.8, 1.0, 1.25)])
def test_sphere(b0_dir, step_mm):
    shape, centre, radius_mm = (64, 72, 56), (27.3, 40.1, 30.2), 11.0
    chi = np.zeros(shape, np.float32)
    d = ellipsoid(tuple(coordinates(shape, centre, step_mm)), np.zeros(3), np.full(3, radius_mm))
    chi[:] = np.clip(0.5 + d / np.prod(step_mm) ** (1 / 3), 0, 1)
    grid = Grid(shape, step_mm, b0_dir)
    field = block_mean(free_space_field(chi, step_mm, grid.b0_dir, (4, 4, 4)), (2, 2, 2))
    coarse = tuple(2 * v for v in step_mm)
    # the middle of a coarse voxel lies half a fine voxel beyond its first fine one
    at = tuple(c / 2 - 0.25 for c in centre)
    expected = sphere_field_ppm(Grid(field.shape, coarse, b0_dir), at, radius_mm, 1.0)
    r = np.sqrt(sum(o**2 for o in coordinates(field.shape, at, coarse)))
    outside = r > radius_mm + 3.5
    slope = np.vdot(field[outside], expected[outside]) / np.vdot(expected[outside], expected[outside])
    assert slope == pytest.approx(1, abs=0.01)
    assert np.linalg.norm((field - expected)[outside]) < 0.03 * np.linalg.norm(expected[outside])
    assert np.abs(field[r < radius_mm - 3.5]).max() < 0.015


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), (0, 1, 0), OBLIQUE])
def test_cylinder_that_goes_on_beyond_the_grid(b0_dir):
    shape, centre, radius_mm = (48, 48, 32), (23.2, 24.4, 0), 6.0
    grid = Grid(shape, (1, 1, 1), b0_dir)
    x, y, _ = coordinates(shape, centre, (1, 1, 1))
    rod = np.clip(0.5 + radius_mm - np.sqrt(x**2 + y**2), 0, 1)
    chi = np.ascontiguousarray(np.broadcast_to(rod, shape), np.float32)
    blocks = block_mean(chi, (4, 4, 4))
    far = np.repeat(blocks[:, :, :1], 8 + 60, axis=2)  # 120 mm further at both ends
    field = free_space_field(chi, (1.0, 1.0, 1.0), grid.b0_dir, (4, 4, 4), far, (0, 0, 30))
    expected = cylinder_field_ppm(grid, centre, (0, 0, 1), radius_mm, 1.0)
    rho = np.broadcast_to(np.sqrt(x**2 + y**2), shape)
    inside, outside = rho < radius_mm - 2, (rho > radius_mm + 2) & (rho < 20)
    cos2 = grid.b0_dir[2] ** 2
    assert field[inside].mean() == pytest.approx((3 * cos2 - 1) / 6, abs=0.02)
    assert np.abs((field - expected)[outside]).max() < 0.03


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), OBLIQUE])
def test_free_space_against_generous_padding(b0_dir):
    rng, shape, step_mm = np.random.default_rng(0), (48, 40, 56), (1.0, 1.2, 0.9)
    chi = np.zeros(shape, np.float32)
    chi[12:36, 10:32, 12:44] = -9.4
    chi[18:24, 15:20, 20:30] = 0
    chi += np.float32(0.05) * (chi != 0) * rng.normal(size=shape).astype(np.float32)
    b0_dir = Grid(shape, step_mm, b0_dir).b0_dir
    field = free_space_field(chi, step_mm, b0_dir, (4, 4, 4))
    padded = tuple(4 * n for n in shape)
    expected = fft.irfftn(fft.rfftn(chi, padded) * dipole_kernel(padded, step_mm, b0_dir), padded)
    expected = expected[tuple(slice(n) for n in shape)]
    # in the outer half of the border blocks the correction is extrapolated; heads have a margin for that
    inner = np.s_[4:-4, 4:-4, 4:-4]
    assert np.abs(field - expected)[inner].max() < 0.01 * np.ptp(expected)
    wrapped = fft.irfftn(fft.rfftn(chi) * dipole_kernel(shape, step_mm, b0_dir), shape)
    assert np.abs(wrapped - expected).max() > 0.05 * np.ptp(expected)  # what the correction is for


def test_painted_shapes_have_their_volume():
    line = np.arange(48) * 0.5
    canvas = Canvas.blank((line, line, line), 3.0)
    at = np.array((11.3, 12.1, 12.6))
    canvas.paint("fat", lambda p: ellipsoid(p, at, np.array((6.0, 4.0, 3.0))), at, 8)
    volume = canvas.signal.sum() * 0.125
    assert volume == pytest.approx(4 / 3 * np.pi * 6 * 4 * 3, rel=0.03)


# the parts


def test_shapes():
    p = tuple(coordinates((20, 20, 20), (10, 10, 10), (1, 1, 1)))
    r = np.sqrt(sum(a**2 for a in p))
    ball = ellipsoid(p, np.zeros(3), np.full(3, 6.0))
    np.testing.assert_allclose(ball, 6 - r, atol=1e-5)
    rod = capsule(p, np.array((-5.0, 0, 0)), np.array((5.0, 0, 0)), 3.0, 3.0)
    assert rod[10, 10, 10] == pytest.approx(3)
    assert rod[10, 14, 10] == pytest.approx(-1)
    assert rod[18, 10, 10] == pytest.approx(0)
    both = union(ball, rod, 4.0)
    assert (both >= np.maximum(ball, rod)).all()
    assert (both - np.maximum(ball, rod)).max() <= 1.0


def test_interpolation_is_exact_on_a_parabola():
    samples = np.arange(12.0)
    weights = cubic_weights(np.linspace(2, 9, 50), 0, 1, 12)
    np.testing.assert_allclose(weights @ samples**2, np.linspace(2, 9, 50) ** 2, rtol=1e-5)


def test_noise_is_a_function_of_position():
    noise = Noise(np.random.default_rng(0), 12.0)
    assert noise.lattice.std() == pytest.approx(1)
    coarse, fine = np.arange(0, 40, 2.0), np.arange(0, 40, 1.0)
    a = noise.on((coarse, coarse, coarse)).planes(slice(None))
    b = noise.on((fine, fine, fine)).planes(slice(None))
    np.testing.assert_allclose(a, b[::2, ::2, ::2], atol=1e-5)
    np.testing.assert_allclose(a, noise.on((coarse + 96, coarse, coarse - 96)).planes(slice(None)), atol=1e-4)


# the head


def test_shapes_and_types(head):
    assert head.scan.grid == GRID
    assert head.scan.magnitude.shape == (3, *GRID.shape)
    for f in dataclasses.fields(head.truth):
        array = getattr(head.truth, f.name)
        assert array.shape == GRID.shape
        assert array.dtype == {"mask": bool, "labels": np.uint8}.get(f.name, np.float32)
        assert np.isfinite(array).all()


def test_same_arguments_same_head(head):
    again = simulate_head(GRID, echo_times_s=TIMES, seed=3)
    np.testing.assert_array_equal(again.scan.phase_rad, head.scan.phase_rad)
    np.testing.assert_array_equal(again.truth.chi_ppm, head.truth.chi_ppm)


def test_another_seed_another_head(head):
    other = simulate_head(GRID, echo_times_s=TIMES, seed=4).truth
    both = head.truth.mask & other.mask
    assert np.corrcoef(head.truth.chi_ppm[both], other.chi_ppm[both])[0, 1] < 0.5
    for name in ("calcification", "haemorrhage"):
        places = [ndimage.center_of_mass(t.labels == LABELS[name]) for t in (head.truth, other)]
        assert np.abs(np.subtract(*places)).max() > 1


def test_another_grid_the_same_head(head):
    finer = simulate_head(Grid((60, 72, 60), (2.8, 2.8, 2.8)), echo_times_s=(0.01,), seed=3).truth
    volumes = [t.mask.sum() * v**3 for t, v in ((head.truth, 3.5), (finer, 2.8))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)
    for name in ("putamen", "csf", "white_matter"):
        share = [(t.labels[t.mask] == LABELS[name]).mean() for t in (head.truth, finer)]
        assert share[0] == pytest.approx(share[1], rel=0.25)


def test_it_is_a_head(head):
    t = head.truth
    litres = t.mask.sum() * GRID.voxel_volume_mm3 / 1e6
    assert 1.1 < litres < 1.8
    assert set(np.unique(t.labels)) == set(LABELS.values())
    assert ndimage.label(t.mask)[1] == 1
    share = {name: float((t.labels[t.mask] == LABELS[name]).mean()) for name in LABELS}
    assert 0.2 < share["grey_matter"] < 0.5
    assert 0.25 < share["white_matter"] < 0.6
    assert 0.05 < share["csf"] < 0.35
    assert share["air"] + share["bone"] < 0.001
    # nothing but air at the sides and above
    assert not t.labels[[0, -1]].any()
    assert not t.labels[:, :, -1].any()


def test_susceptibilities(head):
    t = head.truth
    brain = [name for name, code in LABELS.items() if code in np.unique(t.labels[t.mask])]
    mean = {name: t.chi_ppm[(t.labels == LABELS[name]) & t.mask].mean() for name in brain}
    assert mean["white_matter"] < 0 < mean["grey_matter"]
    assert mean["pallidum"] > mean["putamen"] > mean["thalamus"]
    assert mean["vein"] > 0.1
    assert mean["calcification"] < -0.5
    assert mean["haemorrhage"] > 0.4
    for name in (*DEEP_GREY, "white_matter", "grey_matter"):
        assert t.chi_ppm[t.labels == LABELS[name]].std() > 0.003  # nothing is piecewise constant
    assert not t.chi_ppm[~t.mask].any()


def test_the_fields_add_up(head):
    t = head.truth
    np.testing.assert_allclose(t.local_ppm + t.background_ppm, t.total_ppm, atol=1e-5)
    assert t.background_ppm[t.mask].std() > 5 * t.local_ppm[t.mask].std()
    assert 0.5 < np.abs(t.total_ppm[t.mask]).max() < 6  # the brain over the sinuses


def test_the_background_is_harmonic_inside_the_brain(head):
    t = head.truth
    inside = ndimage.binary_erosion(t.mask, iterations=4)
    curl = [ndimage.laplace(f)[inside].std() for f in (t.background_ppm, t.local_ppm)]
    assert curl[0] < 0.1 * curl[1]
    assert t.background_ppm[inside].std() > t.local_ppm[inside].std()


def test_the_local_field_is_the_dipole_field_but_not_by_the_same_kernel(head):
    t = head.truth
    shape = tuple(2 * n for n in GRID.shape)
    field = fft.irfftn(fft.rfftn(t.chi_ppm, shape) * dipole_kernel(shape, GRID.voxel_mm, GRID.b0_dir), shape)
    field = field[tuple(slice(n) for n in GRID.shape)][t.mask]
    truth = t.local_ppm[t.mask]
    assert np.corrcoef(field, truth)[0, 1] > 0.97
    assert np.std(field - truth) > 0.01 * np.std(truth)


@pytest.mark.parametrize("b0_dir", [(0, 1, 0), OBLIQUE])
def test_the_field_follows_b0(b0_dir):
    grid = Grid(GRID.shape, GRID.voxel_mm, b0_dir)
    t = simulate_head(grid, echo_times_s=(0.01,), seed=3).truth
    shape = tuple(2 * n for n in grid.shape)
    spectrum = fft.rfftn(t.chi_ppm, shape)
    inner = tuple(slice(n) for n in grid.shape)

    def agreement(direction) -> float:
        field = fft.irfftn(spectrum * dipole_kernel(shape, grid.voxel_mm, direction), shape)[inner]
        # smoothed: a kernel sampled for oblique B0 rings from voxel to voxel
        smooth = [ndimage.gaussian_filter(v * t.mask, 1.0)[t.mask] for v in (field, t.local_ppm)]
        return np.corrcoef(*smooth)[0, 1]

    assert agreement(grid.b0_dir) > 0.98
    assert agreement(Grid(GRID.shape, GRID.voxel_mm, (1, 0.2, 0)).b0_dir) < 0.7


def test_phase_carries_the_total_field(head):
    scan, t = head.scan, head.truth
    turned = np.angle(np.exp(1j * (scan.phase_rad[1] - scan.phase_rad[0])))
    expected = rad_per_ppm(3.0, TIMES[1] - TIMES[0]) * t.total_ppm
    off = np.abs(np.angle(np.exp(1j * (turned - expected))))
    deep = ndimage.binary_erosion(t.mask, iterations=3)
    assert np.median(off[deep]) < 0.05
    assert np.percentile(off[t.mask], 95) < 0.3


def test_receive_phase_is_smooth_and_not_zero(head):
    scan, t = head.scan, head.truth
    at_zero = np.exp(1j * (scan.phase_rad[0] - rad_per_ppm(3.0, TIMES[0]) * t.total_ppm))
    deep = ndimage.binary_erosion(t.mask, iterations=3)
    neighbours = np.abs(np.angle(at_zero[1:] * np.conj(at_zero[:-1])))[deep[1:] & deep[:-1]]
    assert np.median(neighbours) < 0.15
    assert np.angle(at_zero[deep]).std() > 0.1


def test_magnitude_decays(head):
    scan, t = head.scan, head.truth
    deep = ndimage.binary_erosion(t.labels == LABELS["white_matter"], iterations=2) & t.mask
    rate = np.log(scan.magnitude[0] / scan.magnitude[2])[deep] / (TIMES[2] - TIMES[0])
    assert np.median(rate) == pytest.approx(np.median(t.r2star_hz[deep]), rel=0.1)
    iron, white = (t.r2star_hz[t.labels == LABELS[name]].mean() for name in ("pallidum", "white_matter"))
    assert iron > white


def test_noise_is_as_asked(head):
    clean = simulate_head(GRID, echo_times_s=TIMES, seed=3, peak_snr=1e6)
    noisy, still = (h.scan.magnitude * np.exp(1j * h.scan.phase_rad) for h in (head, clean))
    sigma = np.abs(still).max() / 100  # the default
    for part in ((noisy - still).real, (noisy - still).imag):
        assert part.std() == pytest.approx(sigma, rel=0.02)
        assert abs(part.mean()) < 0.02 * sigma
    np.testing.assert_array_equal(clean.truth.total_ppm, head.truth.total_ppm)


def test_lesions_can_be_left_out(head):
    one = simulate_head(GRID, echo_times_s=TIMES, seed=3, lesions=("haemorrhage",)).truth
    assert (one.labels == LABELS["haemorrhage"]).any()
    assert not (one.labels == LABELS["calcification"]).any()
    same = one.labels == head.truth.labels
    assert same.mean() > 0.999  # the rest of the head stays as it was


def test_bipolar_readout_shifts_odd_against_even_echoes(head):
    bipolar = simulate_head(GRID, echo_times_s=TIMES, seed=3, bipolar_rad=2.0).scan
    shift = np.angle(np.exp(1j * (bipolar.phase_rad - head.scan.phase_rad)))
    deep = ndimage.binary_erosion(head.truth.mask, iterations=3)
    ramp = np.broadcast_to(np.linspace(-0.5, 0.5, GRID.shape[0])[:, None, None], GRID.shape)
    for echo, sign in enumerate((-1, 1, -1)):
        fit = np.polyfit(ramp[deep], shift[echo][deep], 1)
        assert fit[0] == pytest.approx(sign, abs=0.05)


def test_field_strength_scales_phase_and_not_ppm(head):
    strong = simulate_head(GRID, echo_times_s=TIMES, seed=3, b0_tesla=7.0)
    np.testing.assert_array_equal(strong.truth.chi_ppm, head.truth.chi_ppm)
    np.testing.assert_array_equal(strong.truth.total_ppm, head.truth.total_ppm)
    assert strong.scan.b0_tesla == 7.0
    nuclei = head.truth.labels == LABELS["pallidum"]
    assert strong.truth.r2star_hz[nuclei].mean() > head.truth.r2star_hz[nuclei].mean()


@pytest.mark.parametrize(
    "grid",
    [Grid((41, 49, 39), (4.1, 4.2, 4.2)), Grid((56, 64, 24), (3.0, 3.2, 7.0)), Grid((24, 28, 24), (2.0, 2.0, 2.0))],
    ids=["odd", "thick slices", "small field of view"],
)
def test_any_matrix(grid):
    made = simulate_head(grid, echo_times_s=(0.01,), seed=1)
    assert made.truth.mask.mean() > 0.1
    assert np.isfinite(made.truth.total_ppm).all()
    assert not made.truth.mask[[0, -1]].any()
    assert not made.truth.mask[:, [0, -1]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak_snr": 0}, "peak_snr"),
        ({"peak_snr": float("nan")}, "peak_snr"),
        ({"oversample": 0}, "oversample"),
        ({"oversample": 9}, "oversample"),
        ({"bipolar_rad": float("inf")}, "bipolar_rad"),
        ({"lesions": ("tumour",)}, "no such lesion: tumour"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        simulate_head(GRID, **options)


def test_bad_acquisitions_are_refused_before_the_work():
    with pytest.raises(MetadataError, match="echo times"):
        simulate_head(GRID, echo_times_s=(5.0, 10.0))
    with pytest.raises(MetadataError, match="field strength"):
        simulate_head(GRID, b0_tesla=0)


def test_analytic_sources_refuse_no_radius():
    with pytest.raises(UsageError, match="radius_mm"):
        sphere_field_ppm(GRID, (1, 1, 1), 0, 1.0)
    with pytest.raises(UsageError, match="radius_mm"):
        cylinder_field_ppm(GRID, (1, 1, 1), (0, 0, 1), -1, 1.0)
    with pytest.raises(UsageError, match="axis"):
        cylinder_field_ppm(GRID, (1, 1, 1), (0, 0, 0), 1, 1.0)
