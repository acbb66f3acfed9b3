"""Every network that can be exported, by name."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from export import direct_cards, unrolled_cards
from export.checkpoints import keras_h5, tf_arrays, torch_state
from export.nets.iqsm import IQSM
from export.nets.iqsm_plus import IQSMPlus
from export.nets.ir2qsm import IR2QSM
from export.nets.octave import OctaveUNet
from export.nets.proximal_cnn import ProximalCNN
from export.nets.unet import QSMnet, UNet, VNet
from export.nets.unwrap_birnn import UnwrapBiRNN
from export.nets.vandi import VariationalPrior
from export.spec import Found, Spec

KERAS_EPS = 1e-3  # of its BatchNormalization; torch's is 1e-5
CHI = {"mean": ("CosTrnMean", "gt_mean", "out_mean"), "std": ("CosTrnStd", "gt_std", "out_std")}
FIELD_AND_CHI = {name: (name,) for name in ("input_mean", "input_std", "label_mean", "label_std")}
GRADIENT = {"step": 4.0, "mean": 0.0, "std": 0.03}


def _keras_unrolled(path: Path, net: nn.Module) -> Found:
    left = keras_h5.load(path, net)
    (step,) = (float(v) for name, v in left.items() if name.endswith("/step"))
    return {"step": step}


def _lpcnn(path: Path, net: nn.Module) -> Found:
    return {"step": torch_state.load(path, net)["alpha"]}


def _vandi(path: Path, net: nn.Module) -> Found:
    torch_state.load(path, net)
    return {"step": net.get_parameter("steps").tolist()}


def _qsmnet(path: Path, net: nn.Module) -> Found:
    tf_arrays.load(path, net, tf_arrays.qsmnet_names(net))
    return {}


_keras_cnn = partial(ProximalCNN, eps=KERAS_EPS, last_bias=True)
_qsmgan = partial(UNet, pool=partial(nn.AvgPool3d, 2), act=partial(nn.LeakyReLU, 0.2), last=nn.Tanh, residual=False)
_cycleqsm = partial(UNet, norm=partial(nn.InstanceNorm3d, affine=True), act=partial(nn.LeakyReLU, 0.2), residual=False)
_plain = partial(UNet, residual=False)


def _qsmnet_spec(card: object) -> Spec:
    neutral = {"input_mean": 0.0, "input_std": 0.02, "label_mean": 0.0, "label_std": 0.03}
    return Spec(QSMnet, partial(QSMnet, 2, 2), _qsmnet, card, 99_453_985, FIELD_AND_CHI, neutral)  # type: ignore[arg-type]


NETWORKS: dict[str, Spec] = {
    "deepqsm": Spec(
        partial(_plain, base=16), partial(_plain, depth=1, base=4), torch_state.load, direct_cards.deepqsm, 4_298_497
    ),
    "qsmnet": _qsmnet_spec(direct_cards.qsmnet),
    "qsmnet_plus": _qsmnet_spec(direct_cards.qsmnet_plus),
    "xqsm": Spec(OctaveUNet, partial(OctaveUNet, 1, 8), torch_state.load, direct_cards.xqsm, 5_215_681),
    "ir2qsm": Spec(IR2QSM, partial(IR2QSM, 2, 3, 4), torch_state.load, direct_cards.ir2qsm, 10_375_866),
    "cycleqsm": Spec(
        partial(_cycleqsm, 4, base=32), partial(_cycleqsm, 2, base=4), torch_state.load, direct_cards.cycleqsm,
        17_184_257,
    ),
    "qsmgan": Spec(
        partial(_qsmgan, 3, base=32), partial(_qsmgan, 2, base=4), torch_state.load, direct_cards.qsmgan, 4_269_057
    ),
    "autoqsm": Spec(VNet, partial(VNet, 4, 2), keras_h5.load, direct_cards.autoqsm, 1_400_561),
    "sharqnet": Spec(
        partial(_plain, base=16), partial(_plain, depth=2, base=4), torch_state.load, direct_cards.sharqnet, 4_298_497
    ),
    "bfrnet": Spec(
        partial(OctaveUNet, residual=False), partial(OctaveUNet, 1, 4, residual=False), torch_state.load,
        direct_cards.bfrnet, 5_215_681,
    ),
    "iqsm": Spec(IQSM, partial(IQSM, 4, 2), torch_state.load_parts, direct_cards.iqsm, 4_305_409),
    "iqsm_plus": Spec(IQSMPlus, partial(IQSMPlus, 4, 2), torch_state.load_parts, direct_cards.iqsm_plus, 4_347_780),
    "unwrap_birnn": Spec(UnwrapBiRNN, partial(UnwrapBiRNN, 8), torch_state.load, direct_cards.unwrap_birnn, 376_225),
    "lpcnn": Spec(
        ProximalCNN, partial(ProximalCNN, width=8, blocks=1), _lpcnn, unrolled_cards.lpcnn, 446_336, CHI, GRADIENT
    ),
    "mog": Spec(
        partial(_keras_cnn, 1), partial(_keras_cnn, 1, width=8, blocks=1), _keras_unrolled, unrolled_cards.mog,
        446_337, CHI, GRADIENT,
    ),
    "modl": Spec(
        partial(_keras_cnn, 2), partial(_keras_cnn, 2, width=8, blocks=1), _keras_unrolled, unrolled_cards.modl,
        447_234, CHI, {"step": 4.0, "mean": [0.0, 0.0], "std": [0.03, 0.004]},
    ),
    "spinet": Spec(
        partial(ProximalCNN, 2), partial(ProximalCNN, 2, width=8, blocks=1), torch_state.load, unrolled_cards.spinet,
        447_232, CHI, {"lambda_val": 0.04, "p": 1.6, "mean": 0.0, "std": 0.03},
    ),
    "vandi": Spec(
        VariationalPrior, partial(VariationalPrior, passes=3, filters=4, functions=3), _vandi, unrolled_cards.vandi,
        37_450, {"std": ("std",)}, {"step": torch.ones(10).tolist(), "std": 0.03},
    ),
}  # fmt: skip
