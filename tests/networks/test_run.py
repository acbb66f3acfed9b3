"""A card and a scan's arrays: adapted, run and brought back, or refused, warned of or handed to the fallback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import ANYWHERE, FREE, PLAIN, card, conv, network, port, scaling, smoothing
from scipy import ndimage

from qsm_runtime.background.network import network as background
from qsm_runtime.errors import InputError, MetadataError, ModelError, QsmWarning, ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion.network import network as inversion
from qsm_runtime.inversion.tkd import tkd
from qsm_runtime.mask.network import network as find_mask
from qsm_runtime.networks import registry
from qsm_runtime.networks.compute import frame_of
from qsm_runtime.networks.ports import Net
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.offset.mcpc3ds import mcpc3ds as offset
from qsm_runtime.phantom import simulate_head
from qsm_runtime.pipeline import reconstruct
from qsm_runtime.recipe import load as load_recipe
from qsm_runtime.single_step.network import network as single_step
from qsm_runtime.units import hz_per_ppm
from qsm_runtime.unwrap.network import network as unwrap

GRID = Grid((22, 25, 19), (1.0, 1.0, 1.0))
B0 = 3.0


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) for n in GRID.shape), indexing="ij")
    mask = (x / 8) ** 2 + (y / 10) ** 2 + (z / 7) ** 2 < 1
    smooth = ndimage.gaussian_filter(rng.standard_normal(GRID.shape), 1.5)
    return np.where(mask, 0.2 * smooth, 0).astype(np.float32), mask


@pytest.fixture
def made(make_model) -> Callable[..., Runtime]:
    def make(data: bytes, name: str = "made", memory_mib: float | None = None, strict: bool = False,
             fallback: str = "", **fields) -> Runtime:  # fmt: skip
        path: Path = make_model(name, data, tests=False, **fields)
        return Runtime(device="ort-cpu", models=(path.parent,), strict=strict, fallback=fallback, memory_mib=memory_mib)

    return make


def test_a_network_sees_and_gives_what_its_card_says(made, scene) -> None:
    """Field in Hz with the other sign, axes turned, standardised; chi in ppb with a mean."""
    field, mask = scene
    hz = {"kind": "affine", "mean": 1.5, "std": 20.0}
    ppb = {"kind": "affine", "mean": -4.0, "std": 50.0}
    runtime = made(scaling(2.0), **card(
        port("x", "local_field", "Hz", sign=-1, axes="nczyx"), port("y", "chi", "ppb", axes="nczyx"),
        normalisation={"inputs": {"x": hz}, "outputs": {"y": ppb}, **PLAIN},
    ))  # fmt: skip
    before, record = field.copy(), {}
    chi = inversion(field, mask, GRID, model="made", runtime=runtime, b0_tesla=B0, record=record.__setitem__)
    wanted = 1e-3 * (2 * ((-field * hz_per_ppm(B0) - 1.5) / 20) * 50 - 4)
    assert np.abs(chi - np.where(mask, wanted, 0)).max() < 1e-5
    assert chi.dtype == np.float32
    assert np.array_equal(field, before)
    said = record["network"]
    assert (said["model"], said["provider"], said["precision"], said["patches"]) == ("made", "cpu", "f32", 1)
    with pytest.raises(MetadataError, match="field strength"):
        inversion(field, mask, GRID, model="made", runtime=runtime)


def test_residual_rules(made, scene) -> None:
    field, mask = scene
    for residual, wanted in (("add", 1.25 * field), ("subtract", 0.75 * field)):
        rules = {"inputs": {"x": {"kind": "none"}}, "outputs": {"y": {"kind": "none"}}, **PLAIN, "residual": residual}
        runtime = made(scaling(0.25), name=residual, **card(normalisation=rules))
        assert np.allclose(inversion(field, mask, GRID, model=residual, runtime=runtime), wanted, atol=1e-6)


@pytest.mark.parametrize(("mask_after", "outside"), [(False, 2.25), (True, 0.25), ("restored", 0.0)])
def test_where_the_mask_multiplies(make_model, scene, mask_after, outside) -> None:
    """Outside the mask the graph gives 4: restored by 0.5 x + 0.25, or masked before or after that."""
    _, mask = scene
    rules = {"inputs": {"x": {"kind": "none"}}, "outputs": {"y": {"kind": "affine", "mean": 0.25, "std": 0.5}}}
    fields = card(normalisation=rules | {"mask_before": False, "mask_after": mask_after, "residual": "none"})
    net_card = registry.load(make_model("made", scaling(1.0), tests=False, **fields)).card
    frame = frame_of(net_card, mask, GRID)
    net = Net(net_card, lambda tensors: {"y": np.full_like(tensors["x"], 4.0)}, frame, {}, 1000.0)
    found = net({"local_field": np.zeros(frame.shape, np.float32)})["chi"]
    assert np.allclose(found[frame.mask], 2.25)
    assert np.allclose(found[~frame.mask], outside)


@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_patches_of_little_memory_give_the_whole(made, scene, blend: str) -> None:
    field, mask = scene
    patching = {"allowed": True, "patch": None, "crop": [2, 2, 2], "overlap": [2, 2, 2], "blend": blend}
    kernels = [(np.full((1, 1, 3, 3, 3), 1 / 9), np.array([0.1]), True), (np.full((1, 1, 3, 3, 3), 1 / 9), None, False)]
    fields = card(patching=patching, size={"multiple": 4, "pad_side": "both", "pad_mode": "constant", "min": 4,
                                           "max": None, "fixed": None})  # fmt: skip
    whole, few = {}, {}
    a = inversion(field, mask, GRID, model="made", runtime=made(network(kernels), **fields), record=whole.__setitem__)
    runtime = made(network(kernels), memory_mib=16**3 * 100 / 2**20, **fields)
    b = inversion(field, mask, GRID, model="made", runtime=runtime, record=few.__setitem__)
    assert whole["network"]["patches"] == 1
    assert few["network"]["patches"] > 3
    assert np.abs(a).max() > 0.1
    assert np.abs(a - b).max() < 1e-5
    whole_only = made(network(kernels), memory_mib=0.01, **fields | {"patching": patching | {"allowed": False}})
    with pytest.raises(ReconstructionError, match="whole volume"):
        inversion(field, mask, GRID, model="made", runtime=whole_only)


def test_a_graph_that_gives_the_middle_of_its_patch(made, scene) -> None:
    field, mask = scene
    kernel = np.full((1, 1, 3, 3, 3), 1 / 27)
    fixed = {"multiple": 4, "pad_side": "end", "pad_mode": "constant", "min": 4, "max": None, "fixed": [16, 16, 16]}
    patching = {"allowed": True, "patch": None, "crop": [1, 1, 1], "overlap": [0, 0, 0], "blend": "crop"}
    tests = [{"file": f"m{i}.npz", "shape": [16, 16, 16], "tolerance": 1e-5, "seed": i} for i in range(2)]
    runtime = made(conv(kernel, pads=0), **card(size=fixed, patching=patching, self_test=tests))
    chi = inversion(field, mask, GRID, model="made", runtime=runtime)
    wanted = ndimage.uniform_filter(field, 3, mode="constant")
    assert np.abs(chi - np.where(mask, wanted, 0)).max() < 1e-6


def test_other_voxels_are_resampled_and_come_back(made, scene) -> None:
    field, mask = scene
    grid = Grid(GRID.shape, (1.0, 1.5, 2.0))
    geometry = {"voxel_mm": [0.8, 0.8, 0.8], "tolerance": 0.02, "resample": "fourier", "b0": "any"}
    record: dict = {}
    runtime = made(scaling(1.0), **card(geometry=geometry))
    chi = inversion(field, mask, grid, model="made", runtime=runtime, record=record.__setitem__)
    assert np.abs(chi - field).max() < 1e-5
    assert record["network"]["grid"]["voxel_mm"] == pytest.approx([0.8, 0.8, 0.8], abs=0.01)
    strict = made(scaling(1.0), name="fixed", **card(geometry=geometry | {"resample": "none"}))
    with pytest.raises(InputError, match=r"0\.8x0\.8x0\.8 mm"):
        inversion(field, mask, grid, model="fixed", runtime=strict)


def test_b0_policies(made, scene) -> None:
    field, mask = scene
    smooth = np.where(mask, ndimage.gaussian_filter(field, 2), 0).astype(np.float32)
    turned = Grid(GRID.shape, GRID.voxel_mm, (0, 1, 0))
    oblique = Grid(GRID.shape, GRID.voxel_mm, (0.2, 0.3, 0.9))
    needs_z = made(scaling(1.0), name="z", **card(geometry=FREE | {"b0": "require_z"}))
    for grid in (turned, oblique):
        with pytest.raises(InputError, match="third axis"):
            inversion(smooth, mask, grid, model="z", runtime=needs_z)
    # a kernel that looks along z only: along the turned array's y it must look when B0 is there
    along_z = np.zeros((1, 1, 3, 3, 3))
    along_z[0, 0, 1, 1] = 1 / 3
    turning = made(conv(along_z), name="turns", **card(geometry=FREE | {"b0": "rotate_to_z"}))
    record: dict = {}
    chi = inversion(smooth, mask, turned, model="turns", runtime=turning, record=record.__setitem__)
    wanted = np.where(mask, ndimage.uniform_filter1d(smooth, 3, axis=1, mode="constant"), 0)
    assert np.abs(chi - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert record["network"]["rotation_loss"] < 1e-4
    assert record["network"]["grid"]["rotated_degrees"] == 90
    whole = made(scaling(1.0), name="whole", **card(geometry=FREE | {"b0": "rotate_to_z"}))
    inversion(smooth, mask, oblique, model="whole", runtime=whole, record=record.__setitem__)
    assert 0 < record["network"]["rotation_loss"] < 0.5


@pytest.mark.filterwarnings("ignore:susceptibility")
def test_doubts_warn_or_stop_or_hand_over(made, scene) -> None:
    field, mask = scene
    domain = ANYWHERE | {"b0_tesla": [7, 7], "chi_ppm": [-1e-4, 1e-4]}
    fields = card(domain=domain)
    runtime, record = made(scaling(1.0), **fields), {}
    with pytest.warns(QsmWarning, match="field strength 3 T"):
        chi = inversion(field, mask, GRID, model="made", runtime=runtime, b0_tesla=B0, record=record.__setitem__)
    assert chi.any()
    assert "susceptibility" in record["network"]["doubts"][1]
    assert len(record["network"]["doubts"]) == 2
    strict = made(scaling(1.0), strict=True, **fields)
    with pytest.raises(ReconstructionError, match="--fallback"):
        inversion(field, mask, GRID, model="made", runtime=strict, b0_tesla=B0)
    record.clear()
    falls = made(scaling(1.0), fallback="tkd", **fields)
    with pytest.warns(QsmWarning, match="inversion by tkd instead"):
        chi = inversion(field, mask, GRID, model="made", runtime=falls, b0_tesla=B0, record=record.__setitem__)
    assert np.array_equal(chi, tkd(field, mask, GRID))
    assert record["fallback"]["method"] == "tkd"
    assert "7" in record["fallback"]["because"]


def test_a_fallback_is_for_the_stages_that_have_it(made, scene) -> None:
    """vsharp is no inversion: a network there warns; at the background it takes over; each stage may have its own."""
    field, mask = scene
    domain = ANYWHERE | {"b0_tesla": [7, 7]}
    runtime = made(scaling(1.0), fallback="vsharp", **card(domain=domain))
    with pytest.warns(QsmWarning, match="field strength 3 T"):
        inversion(field, mask, GRID, model="made", runtime=runtime, b0_tesla=B0)
    fields = card(port("x", "total_field"), port("y", "local_field"), task="background", domain=domain)
    runtime = made(scaling(0.4), name="removes", fallback="inversion=tkd,background=pdf", **fields)
    assert (runtime.fallback_of("inversion"), runtime.fallback_of("mask")) == ("tkd", "")
    with pytest.warns(QsmWarning, match="background by pdf instead"):
        background(field, mask, GRID, model="removes", runtime=runtime, b0_tesla=B0)


def test_what_cannot_be_right_is_refused(made, scene) -> None:
    field, mask = scene
    runtime = made(scaling(1.0), fallback="tkd", **card())
    with pytest.raises(InputError, match="Hz, rad or ppb"):
        inversion(field * np.float32(127.7), mask, GRID, model="made", runtime=runtime)
    with pytest.raises(UsageError, match=r"there are: .*made"):
        inversion(field, mask, GRID, runtime=runtime)
    with pytest.raises(UsageError, match="did you mean made"):
        inversion(field, mask, GRID, model="mad", runtime=runtime)
    with pytest.raises(UsageError, match="task inversion"):
        background(field, mask, GRID, model="made", runtime=runtime)
    with pytest.raises(ReconstructionError, match="empty"):
        inversion(field, mask & False, GRID, model="made", runtime=runtime)
    with pytest.raises(UsageError, match="refine"):
        inversion(field, mask, GRID, model="made", runtime=runtime, refine="more")  # type: ignore[arg-type]


def test_a_head_with_b0_elsewhere_is_refused(made) -> None:
    grid = Grid((64, 76, 64), (2.6, 2.6, 2.6))
    truth = simulate_head(grid, oversample=1).truth
    wrong = Grid(grid.shape, grid.voxel_mm, (1, 0, 0))
    runtime = made(scaling(1.0), **card())
    inversion(truth.local_ppm, truth.mask, grid, model="made", runtime=runtime)
    with pytest.raises(InputError, match="along the array's z axis"):
        inversion(truth.local_ppm, truth.mask, wrong, model="made", runtime=runtime)
    with pytest.raises(InputError, match="sign of the phase is turned"):
        inversion(-truth.local_ppm, truth.mask, grid, model="made", runtime=runtime)
    with pytest.warns(QsmWarning, match="sign of the phase is turned"):
        inversion(-truth.local_ppm, truth.mask, grid, model="made", runtime=runtime, implausible="warn")
    with pytest.raises(UsageError, match="implausible must be"):
        inversion(truth.local_ppm, truth.mask, grid, model="made", runtime=runtime, implausible="no")  # type: ignore[arg-type]


def test_a_wrong_tensor_name_or_file_is_refused_or_handed_over(made, scene) -> None:
    field, mask = scene
    runtime = made(scaling(1.0), **card(port("z", "local_field"), normalisation={
        "inputs": {"z": {"kind": "none"}}, "outputs": {"y": {"kind": "none"}}, **PLAIN}))  # fmt: skip
    with pytest.raises(ModelError, match="'z'"):
        inversion(field, mask, GRID, model="made", runtime=runtime)
    runtime = made(scaling(1.0), fallback="tkd", **card())
    (runtime.models[0] / "made.onnx").write_bytes(scaling(1.0)[:-40])
    with pytest.warns(QsmWarning, match="truncated"):
        assert inversion(field, mask, GRID, model="made", runtime=runtime).any()


def test_erosion_and_reference(made, scene) -> None:
    field, mask = scene
    rule = {"needed": True, "erode_mm": 1.5, "apply": True, "reference": "mask_mean"}
    chi = inversion(field, mask, GRID, model="made", runtime=made(scaling(1.0), **card(mask=rule)))
    kept = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2))
    assert np.array_equal(chi != 0, kept)
    assert chi[kept].mean() == pytest.approx(0, abs=1e-6)


def test_background_given_or_taken_off(made, scene) -> None:
    field, mask = scene
    for meaning, wanted in (("local_field", 0.25 * field), ("background_field", 0.75 * field)):
        fields = card(port("x", "total_field"), port("y", meaning), task="background")
        local, valid = background(field, mask, GRID, model=meaning, runtime=made(scaling(0.25), name=meaning, **fields))
        assert np.allclose(local, wanted, atol=1e-6)
        assert np.array_equal(valid, mask)


def test_total_field_and_phase_to_susceptibility(made, scene) -> None:
    field, mask = scene
    runtime = made(scaling(3.0), **card(port("x", "total_field"), task="single_step"))
    assert np.allclose(single_step(field, mask, GRID, model="made", runtime=runtime), 3 * field, atol=1e-6)
    fields = card(port("x", "wrapped_phase", "rad"), task="phase_to_chi", echoes={"combine": "magnitude_te2"})
    runtime = made(scaling(1.0), name="phase", **fields)
    phase = np.stack([field, 2 * field, 4 * field])
    magnitude = np.stack([np.full(GRID.shape, m, np.float32) for m in (3.0, 2.0, 1.0)])
    times = (0.004, 0.008, 0.012)
    given = {"phase_rad": phase, "echo_times_s": times, "magnitude": magnitude, "runtime": runtime}
    chi = single_step(field, mask, GRID, model="phase", **given)
    weights = np.array([(m * t) ** 2 for m, t in zip((3, 2, 1), times, strict=True)])
    assert np.allclose(chi, field * (weights @ (1, 2, 4)) / weights.sum(), atol=1e-6)
    chi = single_step(field, mask, GRID, model="phase", **{**given, "magnitude": None})
    weights = np.square(times)
    assert np.allclose(chi, field * (weights @ (1, 2, 4)) / weights.sum(), atol=1e-6)
    with pytest.raises(MetadataError, match="wrapped phase"):
        single_step(field, mask, GRID, model="phase", runtime=runtime)
    with pytest.raises(InputError, match="unwrapped already"):
        single_step(field, mask, GRID, model="phase", **{**given, "phase_rad": 40 * phase})


def test_a_whole_scan_by_a_network_that_takes_phase(made) -> None:
    """The pipeline hands it the phase less its offset: the graph's result is the phase itself."""
    head = simulate_head(Grid((40, 48, 40), (4.0, 4.0, 4.0)), seed=1, oversample=1)
    domain = card(port("x", "wrapped_phase", "rad"), task="phase_to_chi", domain=ANYWHERE)
    runtime = made(scaling(1.0), **domain)
    recipe = load_recipe("fast").with_method("single_step", "network").with_option("single_step", "model", "made")
    recipe = recipe.with_method("reference", "none")
    result = reconstruct(head.scan, recipe, mask=head.truth.mask, runtime=runtime)
    scan = head.scan
    known = {"magnitude": scan.magnitude, "echo_times_s": scan.echo_times_s}
    phase = offset(scan.phase_rad, head.truth.mask, scan.grid, **known)
    inside = result.mask & np.isfinite(phase[0])
    assert np.abs(result.chi_ppm - phase[0])[inside].max() < 0.05


def test_unwrapping_is_congruent(made, scene) -> None:
    """From a graph that gives 1.1 times the unwrapped phase's neighbour, and from class scores."""
    _, mask = scene
    x = np.linspace(-8, 8, GRID.shape[0])[:, None, None] * np.ones(GRID.shape)
    wrapped = np.angle(np.exp(1j * x)).astype(np.float32)
    fields = card(port("x", "wrapped_phase", "rad"), port("y", "wrap_count", "1"), task="unwrap")
    classes = np.zeros((3, 1, 1, 1, 1))
    classes[:, 0, 0, 0, 0] = (-1, 0, 1)  # the sign of the phase decides: -1, 0 or 1 turn
    out = unwrap(wrapped[None], mask, GRID, model="made", runtime=made(conv(classes), **fields))
    turns = (out[0] - wrapped) / (2 * np.pi)
    assert np.allclose(turns[mask], np.sign(wrapped)[mask], atol=1e-5)
    assert not out[0][~mask].any()
    fields = card(port("x", "wrapped_phase", "rad"), port("y", "unwrapped_phase", "rad"), task="unwrap")
    out = unwrap(wrapped, mask, GRID, model="three", runtime=made(scaling(3.0), name="three", **fields))
    turns = (out - wrapped) / (2 * np.pi)
    assert np.allclose(turns[mask], np.rint(2 * wrapped / (2 * np.pi))[mask], atol=1e-5)


def test_mask_from_a_network(made, scene) -> None:
    _, mask = scene
    magnitude = np.where(mask, 100.0, 5.0).astype(np.float32)[None]
    rule = {"inputs": {"x": {"kind": "quantile", "low_pct": 1, "high_pct": 99}}, "outputs": {}, **PLAIN}
    fields = card(
        port("x", "magnitude", "1"), port("y", "probability", "1"), task="mask", normalisation=rule,
        mask={"needed": False, "erode_mm": 0, "apply": False, "reference": "none"},
    )  # fmt: skip
    found = find_mask(magnitude, 0 * magnitude, GRID, model="made", runtime=made(smoothing(), **fields))
    overlap = 2 * np.count_nonzero(found & mask) / (np.count_nonzero(found) + np.count_nonzero(mask))
    assert overlap > 0.9


@pytest.mark.parametrize("refine", ["substitute", "gradient", "tv"])
def test_physics_beside_a_poor_network_helps(made, refine: str) -> None:
    """A network that gives thrice the field is no inversion: each refinement brings it much nearer to the truth."""
    grid = Grid((40, 48, 40), (4.0, 4.0, 4.0))
    truth = simulate_head(grid, oversample=1).truth
    noise = 0.001 * np.random.default_rng(1).standard_normal(grid.shape).astype(np.float32)
    field = np.where(truth.mask, truth.local_ppm + noise, 0).astype(np.float32)
    runtime = made(scaling(3.0), **card())

    def error(refinement: str) -> float:
        chi = inversion(field, truth.mask, grid, model="made", runtime=runtime, refine=refinement)  # type: ignore[arg-type]
        assert not chi[~truth.mask].any()
        off = (chi - truth.chi_ppm)[truth.mask]
        return float(off.std() / truth.chi_ppm[truth.mask].std())

    assert error(refine) < 0.7 * error("none")
