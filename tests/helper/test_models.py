"""Networks: sizes and shapes against the paper, shortcuts and initial weights against definitions
written here."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib import config, models

SLOW = ("resnet56-conv", "resnet110", "resnet110-conv")
MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}  # He et al. 2016, table 6


def size(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", [m for m in config.MODELS if m not in (*SLOW, *config.OF_TABLES)])
def test_every_network_maps_images_to_one_logit_a_class_and_folds(name):
    assert tuple(sorted(models.MODELS)) == tuple(sorted(config.MODELS))
    net = models.build(name, 7, 0)
    x = torch.randn(4, *((3, 32, 32) if name.startswith("resnet") else (1, 8, 8)))
    with torch.no_grad():
        for _ in range(3):
            net.train()(x)  # batch-norm statistics that are not 0 and 1
        frozen = models.folded(net)
        assert net.training and not any(p.requires_grad for p in frozen.parameters())
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())
        out = net.eval()(x)
        assert out.shape == (4, 7) and out.isfinite().all() and not torch.equal(out[0], out[1])
        assert torch.allclose(frozen(x), out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("depth", MILLIONS)
def test_depth_counts_the_layers_with_weights_and_size_is_the_published_one(depth):
    net, conv = (models.build(f"resnet{depth}{kind}", 10, 0) for kind in ("", "-conv"))
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in net.modules()) == depth
    assert size(net) / 1e6 == pytest.approx(MILLIONS[depth], abs=0.05 if depth == 110 else 0.005)
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # two, each with a batch norm
    assert size(conv) - size(net) == projections


def residual(block, x):
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


@torch.no_grad()
def test_zero_padded_shortcut_by_hand():
    block = models.build("resnet8", 10, 0).eval().blocks[1]  # 16 -> 32 channels, half the size
    x = torch.randn(2, 16, 32, 32)
    shortcut = torch.zeros(2, 32, 16, 16)
    shortcut[:, 8:24] = x[:, :, ::2, ::2]  # as many new channels before as behind
    assert torch.allclose(block(x), F.relu(residual(block, x) + shortcut), atol=1e-6)


@torch.no_grad()
def test_convolution_shortcut_by_hand_and_identity_where_nothing_changes():
    net = models.build("resnet20-conv", 10, 0).eval()
    block = next(b for b in net.blocks if b.shortcut is not None)
    x = torch.randn(2, 16, 32, 32)
    weight, bn = block.shortcut[0].weight[:, :, 0, 0], block.shortcut[1]
    shortcut = torch.einsum("oi,bihw->bohw", weight, x[:, :, ::2, ::2])
    shortcut = shortcut / math.sqrt(1 + bn.eps)  # a new batch norm: mean 0, variance 1
    assert torch.allclose(block(x), F.relu(residual(block, x) + shortcut), atol=1e-4)
    assert sum(b.shortcut is not None for b in net.blocks) == 2
    assert torch.allclose(net.blocks[0](x), F.relu(residual(net.blocks[0], x) + x), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet8", "resnet8-conv"])
def test_every_gradient_stays_in_channels_last(name):
    net, formats = models.build(name, 10, 0), []

    def look(gradient):
        formats.append(gradient.is_contiguous(memory_format=torch.channels_last))

    def watch(module, images, out):
        out.register_hook(look)

    for module in (net.conv, *net.blocks):
        module.register_forward_hook(watch)
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    F.cross_entropy(net(images), torch.tensor([3, 4])).backward()
    assert formats == [True] * 4


@pytest.mark.parametrize("first_of_stage", [9, 18])  # where fan-in is not fan-out
def test_initial_weights_have_hes_spread(first_of_stage):
    weight = models.build("resnet56", 10, 0).blocks[first_of_stage].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * weight.shape[0])), rel=0.05)


def test_a_seed_gives_equal_weights_whatever_was_drawn_before_and_leaves_the_process_alone():
    a = models.build("resnet8", 10, 4)
    torch.rand(17)
    state = torch.random.get_rng_state()
    b, other = models.build("resnet8", 10, 4), models.build("resnet8", 10, 5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.conv.weight, other.conv.weight)
    assert a.conv.weight.is_contiguous(memory_format=torch.channels_last)
