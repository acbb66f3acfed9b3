"""Checkpoints written here in the published layouts come back weight for weight; what does not fit is refused."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from torch import nn

from export.catalogue import NETWORKS
from export.checkpoints import keras_h5, tf_arrays, torch_state
from export.nets.proximal_cnn import ProximalCNN
from export.nets.unet import QSMnet, VNet
from export.spec import read_statistics
from export.to_onnx import random_weights

SHARED = Path(os.environ.get("QSM_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "weights"


def write_keras(path, net, scalars=(), start=30):
    """As Keras 2 saves weights: groups by layer, counters that run on, kernels (x, y, z, in, out)."""
    layers = []
    counts = {"conv3d": start, "conv3d_transpose": 1, "batch_normalization": start}
    for m in net.modules():
        if isinstance(m, nn.Conv3d | nn.ConvTranspose3d):
            kind = "conv3d" if isinstance(m, nn.Conv3d) else "conv3d_transpose"
            weights = {"kernel": m.weight.detach().numpy().transpose(2, 3, 4, 1, 0)}
            if m.bias is not None:
                weights["bias"] = m.bias.detach().numpy()
        elif isinstance(m, nn.BatchNorm3d):
            kind = "batch_normalization"
            names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            weights = {k: getattr(m, v).detach().numpy() for k, v in names.items()}
        else:
            continue
        layers.append((f"{kind}_{counts[kind]}", weights))
        counts[kind] += 1
    with h5py.File(path, "w") as file:
        groups = ["input_1", "model_6", *(name for name, _ in scalars)]
        file.attrs["layer_names"] = [g.encode() for g in groups]
        for group in groups:
            file.create_group(group).attrs["weight_names"] = []
        model = file["model_6"]
        model.attrs["weight_names"] = [f"{n}/{w}:0".encode() for n, ws in layers for w in ws]
        for name, weights in layers:
            for weight, value in weights.items():
                model[f"{name}/{weight}:0"] = value
        for name, value in scalars:
            file[name].attrs["weight_names"] = [f"{name}/step:0".encode()]
            file[name][f"{name}/step:0"] = np.float32(value)


def same(a, b):
    counters = "num_batches_tracked"
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert name.endswith(counters) or torch.equal(one, other), name


@pytest.mark.parametrize("make", [lambda: ProximalCNN(2, 8, 2, 1e-3, True), lambda: VNet(4, 2)])
def test_keras_round_trip(make, tmp_path):
    source, target = make(), make()
    random_weights(source, 3)
    write_keras(tmp_path / "w.h5", source, [("my_layer_2", 5.5)])
    assert keras_h5.load(tmp_path / "w.h5", target) == {"my_layer_2/step": np.float32(5.5)}
    same(source, target)


def test_keras_kernel_axes(tmp_path):
    """A kernel whose one weight sits at x + 1 takes the neighbour there, in Keras as in torch."""
    kernel = np.zeros((3, 3, 3, 1, 1), np.float32)
    kernel[2, 1, 1] = 1
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv3d_1"]
        file.create_group("conv3d_1").attrs["weight_names"] = [b"conv3d_1/kernel:0"]
        file["conv3d_1"]["conv3d_1/kernel:0"] = kernel
    net = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1, bias=False))
    keras_h5.load(tmp_path / "w.h5", net)
    x = torch.randn(1, 1, 5, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0, 0, :-1], x[0, 0, 1:])


def test_keras_of_another_network_is_refused(tmp_path):
    write_keras(tmp_path / "w.h5", ProximalCNN(1, 8, 2, 1e-3, True))
    with pytest.raises(ValueError, match="8 convolutions, the network has 6"):
        keras_h5.load(tmp_path / "w.h5", ProximalCNN(1, 8, 1, 1e-3, True))
    with pytest.raises(ValueError, match="shape"):
        keras_h5.load(tmp_path / "w.h5", ProximalCNN(2, 8, 2, 1e-3, True))
    with pytest.raises(ValueError, match="bias"):
        keras_h5.load(tmp_path / "w.h5", ProximalCNN(1, 8, 2, 1e-3, False))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dict_round_trip(wrap, prefix, tmp_path):
    source, target = ProximalCNN(2, 8, 1), ProximalCNN(2, 8, 1)
    random_weights(source, 4)
    state = {prefix + k: v for k, v in source.state_dict().items()}
    state[prefix + "p"] = torch.tensor([1.5])
    torch.save(wrap(state), tmp_path / "w.pth")
    assert torch_state.load(tmp_path / "w.pth", target) == {"p": 1.5}
    same(source, target)


def test_state_dict_of_another_network_is_refused(tmp_path):
    torch.save(ProximalCNN(1, 8, 1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="missing"):
        torch_state.load(tmp_path / "w.pth", ProximalCNN(1, 8, 2))
    with pytest.raises(ValueError, match="unknown"):
        torch_state.load(tmp_path / "w.pth", nn.Conv3d(1, 1, 3))


def test_parts_in_a_folder(tmp_path):
    """iQSM's authors keep the U-Net and the learned Laplacians apart, each saved from DataParallel."""
    spec = NETWORKS["iqsm_plus"]
    saved, loaded = spec.small(), spec.small()
    random_weights(saved, 1)
    for name, child in saved.named_children():
        state = {f"module.{k}": v for k, v in child.state_dict().items()}
        torch.save(state, tmp_path / f"{name}_published.pth")
    assert spec.load(tmp_path, loaded) == {}
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    (tmp_path / "LoT_Layer_published.pth").unlink()
    with pytest.raises(ValueError, match=r"0 of its \.pth files hold the part LoT_Layer"):
        spec.load(tmp_path, loaded)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"net": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        torch_state.load(tmp_path / "w.pth", nn.Conv3d(1, 1, 3))


def write_tf(path, net, extra=None):
    arrays = {}
    names = tf_arrays.qsmnet_names(net)
    for ours, theirs in names.items():
        value = net.state_dict()[ours].numpy()
        arrays[theirs] = value.transpose(2, 3, 4, 1, 0) if value.ndim == 5 else value
    slots = {f"{name}/Adam": np.zeros(1) for name in list(arrays)[:3]} | {"global_step": np.int64(5)}
    np.savez(path, **arrays, **slots, **(extra or {}))
    return arrays


def test_tensorflow_round_trip(tmp_path):
    source, target = QSMnet(2, 2), QSMnet(2, 2)
    random_weights(source, 5)
    arrays = write_tf(tmp_path / "w.npz", source)
    assert arrays["qsmnet/conv11/conv_weights"].shape == (5, 5, 5, 1, 2)
    assert arrays["qsmnet/deconv2/deconv_weights"].shape == (2, 2, 2, 4, 8)  # (x, y, z, out, in)
    assert {"qsmnet/conv11/bn/mean_sh", "qsmnet/out/weights", "qsmnet/l_conv2/biases"} <= set(arrays)
    NETWORKS["qsmnet"].load(tmp_path / "w.npz", target)
    same(source, target)


def test_tensorflow_variables_left_over_are_refused(tmp_path):
    write_tf(tmp_path / "w.npz", QSMnet(2, 2), {"qsmnet/conv99/biases": np.zeros(2)})
    with pytest.raises(ValueError, match="conv99"):
        NETWORKS["qsmnet"].load(tmp_path / "w.npz", QSMnet(2, 2))


def test_statistics_by_any_published_name(tmp_path):
    scipy.io.savemat(tmp_path / "n.mat", {"CosTrnMean": [[0.1, 0.2]], "CosTrnStd": [[3.0]]})
    aliases = NETWORKS["modl"].statistics
    assert read_statistics(tmp_path / "n.mat", aliases) == {"mean": [0.1, 0.2], "std": 3.0}
    scipy.io.savemat(tmp_path / "n.mat", {"other": [1.0]})
    with pytest.raises(ValueError, match="CosTrnMean"):
        read_statistics(tmp_path / "n.mat", aliases)


@pytest.mark.parametrize(
    ("name", "file", "scalar", "value"),
    [
        ("modl", "modl_qsm.h5", "step", 1.1019064),
        ("mog", "mog_qsm.h5", "step", 5.843313),
        ("spinet", "spinet_qsm.pth", "p", 1.5838474),
    ],
)
def test_published_checkpoints_load(name, file, scalar, value):
    if not (SHARED / file).is_file():
        pytest.skip(f"no published weights at {SHARED}")
    net = NETWORKS[name].build()
    found = NETWORKS[name].load(SHARED / file, net)
    assert found[scalar] == pytest.approx(value, rel=1e-6)
    assert all(torch.isfinite(p).all() and p.abs().max() > 0 for p in net.parameters())
