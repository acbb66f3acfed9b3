"""Training: simulated samples hold together, the torch loop is the host's loop, runs resume."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.train import fit, losses, make_data, scenes, ship, simulate, totals
from export.train.dipole_net import MULTIPLE, DipoleNet, Loop, convolve, dipole
from export.train.unpaired import Unpaired
from qsm_runtime.grid import Grid
from qsm_runtime.metrics import correlation
from qsm_runtime.metrics import xsim as host_xsim
from qsm_runtime.networks import joint_proximal
from qsm_runtime.networks.learned_proximal import CHANNELS, learned_proximal, prepare, refine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small samples on disk."""
    out = tmp_path_factory.mktemp("samples")
    for k in (1, 2):
        rng = np.random.default_rng(k)
        made = simulate.sample(rng, scenes.shapes(rng, 40))
        assert made is not None
        make_data.save(out / f"{k:05d}_0.npz", made)
    return out


@pytest.fixture(scope="module")
def net() -> DipoleNet:
    torch.manual_seed(0)
    made = DipoleNet((8, 12, 16)).eval()
    with torch.no_grad():
        made.out.weight.mul_(10)
    return made


def as_host(net: DipoleNet):
    """The network as the host calls it."""

    def call(seen):
        stack = np.stack([seen[name] for name in CHANNELS])[None]
        pad = [(0, 0), (0, 0), *((0, -n % MULTIPLE) for n in stack.shape[2:])]
        with torch.no_grad():
            change = net(torch.from_numpy(np.pad(stack, pad)))[0, 0].numpy()
        return {"chi": seen["chi"] + change[tuple(slice(n) for n in seen["chi"].shape)]}

    return call


def field_case(shape=(41, 36, 30), voxel_mm=(1.0, 1.3, 2.0), b0_dir=(0.3, -0.2, 0.93)):
    """A field with noise, a mask that is no box, and its reliability."""
    rng = np.random.default_rng(5)
    grid = Grid(shape, voxel_mm, b0_dir)
    mask = scenes.blob(rng, shape)
    field = np.where(mask, 0.05 * scenes.grid_noise(rng, shape, 2.5), 0).astype(np.float32)
    reliability = (500 * np.exp(0.5 * scenes.grid_noise(rng, shape, 3))).astype(np.float32) * mask
    return field, mask, grid, reliability


def tensors(p):
    """A prepared sample as fit.load has it."""
    s = {
        "field": p.field, "weight2": p.weight2, "kept2": p.kept2, "deviation": p.deviation, "start": p.start,
        "mask": p.mask, "fft_shape": p.box.fft_shape, "voxel_mm": p.grid.voxel_mm, "b0_dir": p.grid.b0_dir,
    }  # fmt: skip
    return {k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in s.items()}


def test_host_loop_is_the_torch_loop(net):
    field, mask, grid, reliability = field_case((40, 32, 24))
    mask[[0, -1], 16, 12] = mask[20, [0, -1], 12] = mask[20, 16, [0, -1]] = True  # its box is the grid, as in a frame
    p = prepare(field, mask, grid, reliability=reliability)
    found = refine(p, as_host(net))
    with torch.no_grad():
        wanted = Loop(net, half=False)(tensors(p))[-1].numpy()
    assert np.abs(wanted - p.start).max() > 1e-3  # the network did something
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_host_loop_is_the_torch_loop_with_sources_outside(net):
    field, mask, grid, reliability = field_case((40, 32, 24))
    mask[[0, -1], 16, 12] = mask[20, [0, -1], 12] = mask[20, 16, [0, -1]] = True
    field += 0.3 * np.linspace(-1, 1, 40, dtype=np.float32)[:, None, None] * mask
    p = joint_proximal.prepare(field, mask, grid, reliability=reliability)
    found = joint_proximal.joint_proximal(field, mask, grid, as_host(net), reliability=reliability)
    with torch.no_grad():
        maps = Loop(net, half=False, **fit.SCHEMES["total"])(tensors(p), joint_proximal.PASSES)
        alone = Loop(net, half=False, **{**fit.SCHEMES["total"], "free_steps": 0})(tensors(p), joint_proximal.PASSES)
    wanted, size = maps[-1].numpy(), float(maps[-1].abs().max())
    assert np.abs(wanted - p.start).max() > 1e-3
    assert np.abs(found - wanted).max() < 1e-3 * size
    assert np.abs(alone[-1].numpy() - wanted).max() > 1e-2 * size  # the sources outside do something


def test_result_scales_with_the_field(net):
    field, mask, grid, reliability = field_case()
    one = learned_proximal(field, mask, grid, as_host(net), reliability=reliability)
    # tenfold field and tenfold noise: the same scan, in other units. TV's own floors are absolute: start from equal x_0
    p = prepare(field, mask, grid, reliability=reliability)
    q = type(p)(p.box, grid, 10 * p.field, p.weight2, p.kept2, 10 * p.deviation, 10 * p.start, p.mask)
    ten = refine(q, as_host(net))
    assert np.abs(ten - 10 * one).max() < 1e-4 * np.abs(ten).max()
    assert (one[~mask] == 0).all()


def test_turned_sample_keeps_its_physics(folder):
    s = fit.load(sorted(folder.glob("*.npz"))[0])

    def model(s):
        shape = tuple(int(n) for n in s["fft_shape"])
        return convolve(s["chi"], dipole(shape, s["voxel_mm"], s["b0_dir"]), shape)

    before = model(s)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        turned = fit.even(fit.turned(s, rng))
        again = np.random.default_rng(seed)
        order = again.permutation(3).tolist()
        flips = [a for a in range(3) if again.random() < 0.5]
        wanted = before.permute(order).flip(flips)
        # flips move the crop within the padded array: images of the sources differ, the field hardly
        assert float(torch.corrcoef(torch.stack((model(turned).ravel(), wanted.ravel())))[0, 1]) > 0.995


def test_sample_is_reproducible_and_consistent():
    def make():
        rng = np.random.default_rng(11)
        return simulate.sample(rng, scenes.shapes(rng, 40))

    one, two = make(), make()
    assert np.array_equal(one.chi_ppm, two.chi_ppm)
    assert np.array_equal(one.prepared.start, two.prepared.start)
    mask = one.prepared.mask
    assert (one.chi_ppm[~mask] == 0).all()
    assert correlation(one.prepared.start[mask], one.chi_ppm[mask]) > 0.4


def test_total_sample_has_its_background_taken_off():
    def make():
        rng = np.random.default_rng(13)
        return totals.shape_sample(rng, scenes.shapes(rng, 40))

    one, two = make(), make()
    assert np.array_equal(one.prepared.start, two.prepared.start)
    mask = one.prepared.mask
    assert (one.chi_ppm[~mask] == 0).all()
    assert correlation(one.prepared.start[mask], one.chi_ppm[mask]) > 0.3


def test_training_heads_are_not_the_held_out_ones():
    assert all(seed < scenes.FIRST_SEED < totals.FIRST_HEAD for seed in scenes.HELD_OUT_SEEDS)


def test_xsim_is_that_of_the_metrics():
    rng = np.random.default_rng(3)
    shape = (24, 20, 22)
    t = (0.05 * scenes.grid_noise(rng, shape, 2)).astype(np.float32)
    x = t + 0.02 * scenes.grid_noise(rng, shape, 1.5)
    every_second = np.zeros(shape, bool)
    every_second[::2, ::2, ::2] = True
    wanted = host_xsim(x.astype(float), t.astype(float), every_second)
    found = losses.xsim(torch.from_numpy(x), torch.from_numpy(t), torch.ones(shape))
    assert float(found) == pytest.approx(wanted, abs=1e-3)


def test_loss_is_zero_at_the_truth_and_grows_away_from_it(folder):
    s = fit.load(sorted(folder.glob("*.npz"))[0])
    at_truth = float(losses.loss(s["chi"], s)[0])
    near = float(losses.loss(0.9 * s["chi"], s)[0])
    far = float(losses.loss(0.5 * s["chi"], s)[0])
    assert at_truth == pytest.approx(0, abs=1e-3)
    assert 0.01 < near < far


def test_unpaired_loss_does_not_see_the_truth(folder):
    s = fit.load(sorted(folder.glob("*.npz"))[0])
    torch.manual_seed(0)
    unpaired = Unpaired()
    one = float(unpaired.loss(s["start"], s)[0])
    assert float(unpaired.loss(s["start"], {**s, "chi": torch.full_like(s["chi"], torch.nan)})[0]) == one
    assert float(unpaired.loss(2 * s["start"], s)[0]) > one  # twice the map does not explain the field
    first = unpaired.learn(s["start"], s["chi"])
    for _ in range(15):
        last = unpaired.learn(s["start"], s["chi"])
    assert last < first  # the critic tells them apart better


@pytest.mark.parametrize("options", [[], ["--unpaired"], ["--scheme", "total"]])
def test_training_resumes(folder, tmp_path, monkeypatch, options):
    def train(steps):
        words = ["fit", str(folder), str(tmp_path), "--steps", str(steps), "--every", "1", *options]
        monkeypatch.setattr("sys.argv", words)
        assert fit.main() == 0

    train(1)
    kept = torch.load(tmp_path / "latest.pt", weights_only=True)
    train(2)
    again = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert (kept["step"], again["step"]) == (1, 2)
    assert any(not torch.equal(kept["net"][k], again["net"][k]) for k in kept["net"])


def test_another_run_begins_from_a_checkpoint(folder, tmp_path):
    first = fit.Run(tmp_path, 1e-3, 1, False)
    first.keep()
    second = fit.Run(tmp_path / "other", 1e-3, 2, False, "total")
    second.begin_from(tmp_path / "latest.pt")
    for one, other in zip(first.mean.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ship.CARDS)
def test_ships_as_onnx_with_a_card(tmp_path, monkeypatch, name):
    torch.save({"mean": DipoleNet().state_dict()}, tmp_path / "latest.pt")
    words = ["ship", str(tmp_path / "latest.pt"), "--name", name, "-o", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    assert ship.main() == 0  # compares with torch at two unequal sizes
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {f"{name}.onnx", f"{name}.json"}
    assert (tmp_path / "out" / f"{name}.onnx").stat().st_size < 10e6
