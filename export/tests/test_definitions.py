"""What the papers say of a layer and no count of parameters shows."""

import numpy as np
import torch

from export.nets.iqsm import IQSM
from export.nets.iqsm_plus import IQSMPlus
from export.nets.ir2qsm import IR2QSM
from export.nets.octave import OctaveUNet
from export.nets.unet import UNet
from export.nets.unwrap_birnn import UnwrapBiRNN
from export.to_onnx import random_weights


def test_iqsm_does_not_see_wraps_and_its_border_is_zero():
    net = IQSM(4, 1).eval()
    phase = torch.linspace(-4, 4, 12 * 14 * 16).reshape(1, 1, 12, 14, 16) + torch.randn(1, 1, 12, 14, 16) * 0.1
    wrapped = torch.remainder(phase + torch.pi, 2 * torch.pi) - torch.pi
    mask, te, b0 = torch.ones_like(phase), torch.tensor(0.02), torch.tensor(3.0)
    with torch.no_grad():
        one, other = (net.LoT_Layer(p, mask, te, b0) for p in (phase, wrapped))
    assert (phase - wrapped).abs().max() > 6
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert one[..., 0, :].abs().max() == 0
    assert one[:, :, -1].abs().max() == 0
    assert one[:, :, 1:-1, 1:-1, 1:-1].abs().min(0).values.max() > 0


def test_iqsm_laplacian_of_a_quadratic_phase_is_its_curvature():
    net = IQSM(4, 1)
    x = torch.arange(10.0) - 4.5
    phase = (0.01 * x**2)[:, None, None].expand(10, 10, 10)[None, None]
    with torch.no_grad():
        made = net.LoT_Layer(phase, torch.ones_like(phase), torch.tensor(0.02), torch.tensor(3.0))
    inner = made[0, 0, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.02), atol=1e-4, rtol=0)


def test_iqsm_plus_sees_the_direction_of_b0():
    net = IQSMPlus(4, 2).eval()
    random_weights(net, 0)
    phase = torch.randn(1, 1, 16, 32, 16, generator=torch.Generator().manual_seed(0))
    given = (phase, torch.ones_like(phase), torch.tensor(0.02), torch.tensor(3.0))
    with torch.no_grad():
        along, across = (net(*given, torch.tensor([b0])) for b0 in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    assert (along - across).abs().max() > 1e-3 * along.abs().max()


def test_ir2qsm_does_not_depend_on_chance():
    net = IR2QSM(2, 3, 4).eval()
    random_weights(net, 0)
    x = torch.randn(1, 1, 8, 16, 8)
    with torch.no_grad():
        first = net(x)
        torch.manual_seed(123)
        assert torch.equal(first, net(x))


def test_residual_networks_give_their_input_where_weights_are_zero():
    for net in (UNet(2, base=4), OctaveUNet(1, 4), IR2QSM(2, 3, 4)):
        with torch.no_grad():
            for p in net.parameters():
                p.zero_()
        x = torch.randn(1, 1, 8, 16, 8)
        np.testing.assert_array_equal(net.eval()(x).detach().numpy(), x.numpy())


def test_recurrent_unwrapping_reaches_across_a_whole_slice():
    """A voxel answers to one at the far corner of its slice, beyond any convolution here, and to no other slice."""
    net = UnwrapBiRNN(8).eval()
    random_weights(net, 0)
    x = torch.randn(1, 1, 64, 64, 2)
    moved = x.clone()
    moved[0, 0, 0, 0, 0] += 1.0
    with torch.no_grad():
        change = (net(moved) - net(x)).abs()[0, 0]
    assert change[-1, :, 0].max() > 0
    assert change[..., 1].max() == 0
