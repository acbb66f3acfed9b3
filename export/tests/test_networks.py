"""Every network: its published size, and an export that equals torch at sizes it was not traced at."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export import package, to_onnx, whole
from export.catalogue import NETWORKS
from qsm_runtime.errors import ModelError
from qsm_runtime.networks import card as cards
from qsm_runtime.networks.card_parts import Licence
from qsm_runtime.networks.verify import test_inputs as inputs_of

# as the papers or their authors' comparison state them, in millions
STATED = {"qsmnet": 99.5, "qsmnet_plus": 99.5, "xqsm": 5.2, "ir2qsm": 10.4, "modl": 0.447}


def small(name):
    torch.manual_seed(0)
    spec = NETWORKS[name]
    net = spec.small()
    to_onnx.random_weights(net, 1)
    return net, spec.card(spec.neutral)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_the_published_layout(name):
    with torch.device("meta"):
        count = sum(p.numel() for p in NETWORKS[name].build().parameters())
    assert count == NETWORKS[name].parameters
    if name in STATED:
        digits = 3 if STATED[name] < 1 else 1
        assert round(count / 1e6, digits) == STATED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_export_equals_torch_at_a_size_of_its_own(name, tmp_path):
    net, draft = small(name)
    card = package.write(tmp_path, net, draft)  # compares at both self-test sizes

    assert cards.load(tmp_path / f"{name}.json") == card
    first, second = (t.shape for t in card.self_test)
    assert all(a != b for a, b in zip(first, second, strict=True))

    m = card.size.multiple
    shape = (2 * m, 3 * m, 2 * m) if m > 8 else (3 * m + 8, 5 * m, 2 * m + 16) if m > 1 else (19, 30, 25)
    shape = tuple(-(-n // m) * m for n in shape)
    feed = inputs_of(card, shape, 7)
    wanted = to_onnx.reference(net, feed)
    assert wanted[0].shape[-3:] == shape
    assert wanted[0].std() > 1e-2 * np.abs(wanted[0]).max()  # the weights carry a signal through
    assert to_onnx.compare(tmp_path / card.file.name, feed, wanted) < to_onnx.TOLERANCE


def test_an_output_that_differs_is_refused(tmp_path):
    net, draft = small("lpcnn")
    card = package.write(tmp_path, net, draft)
    feed = inputs_of(card, (16, 20, 18), 3)
    wanted = to_onnx.reference(net, feed)
    wanted[0][0, 0, 3, 3, 3] += 1e-3 * np.abs(wanted[0]).max()
    with pytest.raises(ValueError, match="differs from torch"):
        to_onnx.compare(tmp_path / card.file.name, feed, wanted)


def test_subnormal_weights_become_zero(tmp_path):
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Mul", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])],
            [numpy_helper.from_array(np.array([1e-40, -1e-39, 2e-38], np.float32), "w")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", to_onnx.OPSET)],
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert to_onnx.flush(tmp_path / "m.onnx") == 2
    weights = numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0])
    np.testing.assert_array_equal(weights, np.array([0, 0, 2e-38], np.float32))


def test_torchscript_goes_through_the_tracing_exporter(tmp_path):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3, padding=1)
            self.norm = nn.InstanceNorm3d(2)

        def forward(self, x):
            return torch.softmax(self.norm(self.conv(x)), 1)

    from export.deepbet import describe

    script = torch.jit.trace(Halves().eval(), torch.randn(1, 1, 8, 8, 8))
    card = package.write(tmp_path, script, describe("deepbet_box", 2.0, "heads"))
    assert card.licence == Licence("MIT", True)
    assert card.self_test[0].shape != card.self_test[1].shape


def test_a_card_that_does_not_hold_is_refused_before_anything_is_written(tmp_path):
    net, draft = small("xqsm")
    draft["geometry"]["b0"] = "input_vector"
    with pytest.raises(ModelError, match="b0_dir"):
        package.write(tmp_path / "out", net, draft)
    assert not (tmp_path / "out").exists()


def test_random_weights_are_the_seeds():
    a, b = NETWORKS["xqsm"].small(), NETWORKS["xqsm"].small()
    to_onnx.random_weights(a, 5)
    to_onnx.random_weights(b, 5)
    for one, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("how", ["dft", "matmul"])
def test_whole_graph_is_the_unrolled_loop(how):
    """Against the equations in float64 numpy, at odd sizes, with MoDL's two channels."""
    cnn, draft = small("modl")
    net, _ = whole.whole(cnn.eval(), draft, how)
    rng = np.random.default_rng(0)
    shape = (15, 18, 13)
    field, mask = rng.standard_normal(shape) * 0.02, rng.random(shape) > 0.2
    k = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    with np.errstate(invalid="ignore"):
        kernel = np.nan_to_num(1 / 3 - k[2] ** 2 / sum(a**2 for a in k))
    step, rule = draft["physics"]["step"], draft["normalisation"]["inputs"]["x"]
    mean, std = (np.reshape(rule[name], (-1, 1, 1, 1)) for name in ("mean", "std"))

    def through(x):
        return np.fft.ifftn(np.fft.fftn(x) * kernel).real

    def adjoint(f):
        return np.stack([through(f), f])

    double = NETWORKS["modl"].small().double().eval()
    double.load_state_dict(cnn.state_dict())
    x = start = step * adjoint(field)
    for i in range(3):
        z = x if i == 0 else x + start - step * adjoint(through(x[0]) + x[1])
        with torch.no_grad():
            y = double(torch.from_numpy(((z - mean) / std * mask)[None]))[0].numpy()
        x = y * mask * std + mean
    wanted = x[0] * mask

    arrays = (torch.from_numpy(a[None, None].astype(np.float32)) for a in (field, mask, kernel))
    with torch.no_grad():
        found = net(*arrays)[0, 0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.ptp(wanted))


def test_whole_graph_exports(tmp_path):
    cnn, draft = small("mog")
    draft["physics"]["passes"] = 2
    net, draft = whole.whole(cnn.eval(), draft, "matmul")
    card = package.write(tmp_path, net, draft)
    assert card.physics is None
    assert {p.tensor for p in card.inputs} == {"field", "mask", "dipole"}


def test_whole_graph_of_other_physics_is_refused():
    cnn, draft = small("spinet")
    with pytest.raises(ValueError, match="proximal gradient"):
        whole.whole(cnn, draft, "dft")


def test_vandi_takes_the_weights_of_its_pass(tmp_path):
    net, draft = small("vandi")
    card = package.write(tmp_path, net, draft)
    session = onnxruntime.InferenceSession(str(tmp_path / "vandi.onnx"), providers=["CPUExecutionProvider"])
    feed = inputs_of(card, (12, 14, 10), 0)
    outputs = []
    for k in range(3):
        feed["pass_index"] = np.asarray(k, np.int64)
        outputs.append(session.run(None, feed)[0])
        np.testing.assert_allclose(outputs[k], to_onnx.reference(net, feed)[0], atol=1e-4)
    assert np.abs(outputs[1] - outputs[0]).max() > 1e-2
    assert dataclasses.asdict(card)["physics"]["scheme"] == "learned_gradient"
    assert json.loads((tmp_path / "vandi.json").read_text())["inputs"][2]["dtype"] == "int64"
