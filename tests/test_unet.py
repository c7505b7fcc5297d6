"""U-Nets: their parts against PyTorch's, derivatives in both modes, precision, compilation, and known sizes."""

import os
import shutil
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import ndm
from ndm.nn.blocks import Attention, GroupNorm, attend, num_groups

SHAPE = (2, 8, 8)
UNet = partial(ndm.nn.UNet, SHAPE, channels=8, depth=1, multipliers=(1, 2), attention=(4,), heads=2)
FlatUNet = partial(ndm.nn.FlatUNet, SHAPE, channels=8, depth=1, attention=True, heads=2)
NETS = [pytest.param(UNet, id="unet"), pytest.param(FlatUNet, id="flat")]


def randomised(module):
    """The module with random parameters, also those that start at zero, of a size that keeps signals alive."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5 / max(1, p[0].numel()) ** 0.5)
    return module.eval()


def inputs(batch=3):
    return torch.randn(batch, *SHAPE), torch.rand(batch)


@pytest.mark.parametrize("make", NETS)
def test_shapes_and_zero_start(make):
    z, t = inputs()
    for options in ({}, {"fourier": (1, 2)}, {"embedding": 24}):
        net = make(multiplier=3, **options)
        assert net(z, t).shape == (3, 6, 8, 8)
        assert (net(z, t) == 0).all()


@pytest.mark.parametrize("make", NETS)
def test_rows_are_independent_and_time_matters(make):
    net, (z, t) = randomised(make()), inputs()
    torch.testing.assert_close(net(z, t)[1:2], net(z[1:2], t[1:2]))
    assert (net(z, t) - net(z, t + 0.1)).abs().max() > 1e-3
    with pytest.raises(ndm.InputError, match="embedding=0"):
        net(z)
    without = randomised(make(embedding=0))
    assert torch.equal(without(z, t), without(z))
    assert not any("time" in name or "modulation" in name for name, _ in without.named_parameters())


@pytest.mark.parametrize("make", NETS)
def test_every_pixel_depends_on_every_pixel(make):
    """These few convolutions do not reach across the image.

    The attention in the middle does, so it must be there, and it must not be masked.
    """
    net, (z, t) = randomised(make(depth=1)), inputs(1)
    far = torch.autograd.functional.jacobian(lambda z: net(z, t)[0, 0, 0, 0], z)
    assert (far != 0).all()


def test_blocks_attend_where_they_are_asked_to():
    """One block on the way down and two on the way up have attention at a level, and the middle always has it."""

    def count(net):
        return sum(isinstance(module, Attention) for module in net.modules())

    assert [count(UNet(attention=a)) for a in ((), (8,), (4,), (8, 4))] == [1, 4, 4, 7]
    assert [count(FlatUNet(attention=a)) for a in (False, True)] == [1, 4]


@pytest.mark.parametrize("make", NETS)
def test_dropout_is_of_training_only(make):
    net, (z, t) = randomised(make(dropout=0.5)), inputs()
    assert torch.equal(net(z, t), net(z, t))
    net.train()
    assert not torch.equal(net(z, t), net(z, t))


@pytest.mark.parametrize("make", NETS)
def test_forward_mode_in_time_and_in_z(make):
    net, (z, t), h = randomised(make(fourier=(0,))), inputs(), 1e-6
    for f, at in ((lambda t: net(z, t), t), (lambda z: net(z, t), z)):
        tangent = torch.randn_like(at)
        _, derivative = torch.func.jvp(f, (at,), (tangent,))
        expected = (f(at + h * tangent) - f(at - h * tangent)) / (2 * h)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(derivative, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_are_put_back_where_they_were(patch):
    """The network's head is replaced by its own input, so only the rearrangement is left."""
    net, (z, t) = ndm.nn.UNet(SHAPE, channels=8, depth=1, multipliers=(1,), patch=patch), inputs()
    seen = []
    net.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net.head.register_forward_hook(lambda module, args, output: seen[0])
    assert torch.equal(net(z, t), z)
    assert seen[0].shape == (3, 2 * patch**2, 8 // patch, 8 // patch)


def test_patched_outputs_lie_side_by_side():
    """The head's channels are (multiplier, C, patch, patch), so each output is an image of its own."""
    net = ndm.nn.UNet(SHAPE, multiplier=2, channels=8, depth=1, multipliers=(1,), patch=2)
    z, t = inputs()
    assert net(z, t).shape == (3, 4, 8, 8)
    with torch.no_grad():
        net.head.conv.bias[:8] = 1.0
    assert (net(z, t)[:, :2] == 1).all() and (net(z, t)[:, 2:] == 0).all()


def test_group_norm_is_pytorchs():
    h = torch.randn(3, 24, 5, 5) * 3 + 1
    ours, theirs = GroupNorm(24), nn.GroupNorm(num_groups(24), 24)
    for p in (*theirs.parameters(), ours.affine):
        nn.init.normal_(p)
    with torch.no_grad():
        theirs.weight.copy_(1 + ours.affine[0, :24])
        theirs.bias.copy_(ours.affine[0, 24:])
    torch.testing.assert_close(ours(h), theirs(h))
    low = ours.to(torch.bfloat16)(h.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low, theirs(h).bfloat16(), rtol=0.02, atol=0.05)
    assert [num_groups(c) for c in (1, 7, 8, 24, 48, 128, 256)] == [1, 1, 2, 6, 12, 32, 32]


def test_group_norm_given_by_an_embedding():
    h, embedding = torch.randn(3, 8, 5, 5), torch.randn(3, 6)
    norm = GroupNorm(8, 6)
    scale, shift = norm.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
    torch.testing.assert_close(norm(h, embedding), functional.group_norm(h, 2) * (1 + scale) + shift)


def test_attention_is_pytorchs():
    q, k, v = torch.randn(3, 2, 4, 5, 9)  # (batch, heads, d, N)
    expected = functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    torch.testing.assert_close(attend(q, k, v), expected)


def test_attention_moves_with_the_positions():
    """Permuting the positions permutes the output, because attention treats them as a set."""
    module, h = randomised(Attention(8, 2)), torch.randn(3, 8, 3, 3)
    order = torch.randperm(9)
    permuted = h.flatten(2)[:, :, order].view_as(h)
    torch.testing.assert_close(module(permuted).flatten(2), module(h).flatten(2)[:, :, order])


@pytest.mark.parametrize("make", NETS)
def test_bfloat16_autocast_stays_close(make):
    net, (z, t) = randomised(make()).float(), inputs()
    z, t = z.float(), t.float()
    exact = net(z, t)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(z, t)
        _, derivative = torch.func.jvp(lambda t: net(z, t), (t,), (torch.ones_like(t),))
    _, exact_derivative = torch.func.jvp(lambda t: net(z, t), (t,), (torch.ones_like(t),))
    assert (low - exact).norm() < 0.03 * exact.norm()  # bfloat16 rounds by 0.004, a dozen times in a row
    assert (derivative - exact_derivative).norm() < 0.06 * exact_derivative.norm()


def wrapped(make, transform):
    """A whole model with random networks, in evaluation mode."""
    f = {"network": lambda: ndm.Network(make()), "time_basis": lambda: ndm.TimeBasis(make(2, embedding=0), 2)}
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), f[transform]())
    return randomised(ndm.NDM(process, ndm.Predictor(make()), ndm.GaussianDecoder()))


def bound_gradients(model, x, bound=ndm.bound):
    """The mean bound, followed by its gradients for every parameter, always with the same noise."""
    torch.manual_seed(0)
    mean = bound(model, x).total.mean()
    return mean, *torch.autograd.grad(mean, list(model.parameters()))


@pytest.mark.parametrize("transform", ["network", "time_basis"])
@pytest.mark.parametrize("make", NETS)
def test_save_and_load(make, transform, tmp_path):
    model, (z, t) = wrapped(partial(make, fourier=(1,), dropout=0.1), transform), inputs()
    model.save_pretrained(tmp_path)
    loaded = ndm.NDM.from_pretrained(tmp_path)
    assert torch.equal(loaded.predictor.net(z, t), model.predictor.net(z, t))
    for one, other in zip(bound_gradients(model, z), bound_gradients(loaded, z), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("transform", ["network", "time_basis"])
@pytest.mark.parametrize("make", NETS)
def test_every_parameter_is_trained(make, transform):
    """The bound has a gradient in every parameter.

    With a Network transform this goes through the time derivative: reverse over forward mode.
    """
    model, (x, _) = wrapped(make, transform), inputs()
    _, *gradients = bound_gradients(model, x)
    assert [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if (g == 0).all()] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", NETS)
def test_compiled_bound(make):
    """The whole loss is compiled. The transform's derivative is a forward-mode pass through the network."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile is NOT tested: there is no C++ compiler here (g++, or what CXX names)")
    torch._dynamo.reset()
    model, (x, _) = wrapped(make, "network"), inputs()
    model.predictor.net = randomised(ndm.nn.MLP(SHAPE, width=8, depth=1))  # compiles sooner, and F is the hard part
    expected = bound_gradients(model, x)
    with torch._inductor.config.patch(fallback_random=True):  # else the compiled noise is another
        compiled = bound_gradients(model, x, torch.compile(ndm.bound))
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_sizes_that_do_not_fit_are_refused():
    for shape, options, message in (
        ((1, 28, 28), {"multipliers": (1, 2, 2, 2)}, "28 x 28.*divided by 8"),
        ((1, 28, 28), {"patch": 4, "multipliers": (1, 2)}, "28 x 28.*divided by 8"),
        ((1, 28, 28), {"patch": 3, "multipliers": (1,)}, "divided by 3"),
        ((1, 28, 28), {"attention": (16,)}, r"height 16.*\[28, 14, 7\]"),
        ((1, 28, 28), {"heads": 3}, "heads must divide the 128 channels"),
        ((1, 28, 28), {"multipliers": ()}, "at least one"),
        ((1, 28, 28), {"patch": 0}, "patch must be a whole number and at least 1"),
        ((1, 28, 28), {"heads": 0}, "heads must be a whole number and at least 1"),
        ((64,), {}, r"\(channels, height, width\)"),
    ):
        with pytest.raises(ndm.InputError, match=message):
            ndm.nn.UNet(shape, **options)
    with pytest.raises(ndm.InputError, match="depth must be a whole number and at least 1"):
        ndm.nn.FlatUNet(SHAPE, depth=0)
    with pytest.raises(ndm.InputError, match=r"\(channels, height, width\)"):
        ndm.nn.FlatUNet((5,))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        # ADM's own code at Flow Matching's CIFAR-10 sizes has 153,094,915: 229,376 more in its time embedding and
        # 19,968 more where it learns a scale and shift both before and after the embedding's.
        (
            partial(ndm.nn.UNet, channels=256, depth=2, multipliers=(1, 2, 2, 2), attention=(16,), heads=4),
            153_094_915 - 229_376 - 19_968,
        ),
        # VDM's sizes for CIFAR-10 and ImageNet 32.
        (partial(ndm.nn.FlatUNet, channels=128, depth=32, fourier=(7, 8)), 34_919_427),
        (partial(ndm.nn.FlatUNet, channels=256, depth=32, fourier=(7, 8)), 139_470_851),
    ],
)
def test_known_sizes_without_memory(make, count):
    with torch.device("meta"):
        net = make((3, 32, 32))
        assert net(torch.rand(2, 3, 32, 32), torch.rand(2)).shape == (2, 3, 32, 32)
    assert sum(p.numel() for p in net.parameters()) == count
