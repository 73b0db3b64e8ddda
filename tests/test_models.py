"""Networks: shapes, shortcuts and initial weights against definitions written here."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib import models
from kdlib.config import MODELS

SLOW = ("resnet56-conv", "resnet110", "resnet110-conv")


@pytest.mark.parametrize("name", [m for m in MODELS if m not in SLOW])
def test_every_network_maps_images_to_one_logit_a_class(name):
    shape = (3, 32, 32) if name.startswith("resnet") else (1, 8, 8)
    with torch.no_grad():
        out = models.build(name, 7, 0).eval()(torch.rand(2, *shape))
    assert out.shape == (2, 7) and out.isfinite().all() and not torch.equal(out[0], out[1])


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_layers_with_weights(depth):
    net = models.build(f"resnet{depth}", 10, 0)
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in net.modules()) == depth
    conv = models.build(f"resnet{depth}-conv", 10, 0)
    more = sum(p.numel() for p in conv.parameters()) - sum(p.numel() for p in net.parameters())
    assert (
        more == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    )  # two 1x1 convolutions, each with a batch norm


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


def test_initial_weights_have_hes_spread():
    net = models.build("resnet56", 10, 0)
    for block in (
        net.blocks[9],
        net.blocks[18],
    ):  # the first of a wider stage: fan-in is not fan-out
        weight = block.conv1.weight
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * weight.shape[0])), rel=0.05)


def test_a_seed_gives_equal_weights_whatever_was_drawn_before():
    a = models.build("resnet8", 10, 4)
    torch.rand(17)
    b = models.build("resnet8", 10, 4)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert a.conv.weight.is_contiguous(memory_format=torch.channels_last)
