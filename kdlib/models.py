"""Networks: CIFAR ResNets (He et al. 2016, sec. 4.2), small CNNs for 8x8 digits, and for rows of a
table multilayer perceptrons, logistic regression and boosted trees."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdlib.config import DEPTHS, KdlibError


def _conv3x3(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    The shortcut pads new channels with zeros, or is a 1x1 convolution."""

    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs
        self.shortcut = None
        if shortcut == "conv" and (stride != 1 or inputs != outputs):
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        # in place: less memory to move, the same numbers
        out = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.new_channels:
            before = self.new_channels // 2
            # every stride-th pixel, like a slice, whose gradient would not be channels_last: slow
            x = F.avg_pool2d(x, 1, self.stride)
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu_(out.add_(x))


class ResNet(nn.Module):
    """6 n + 2 layers: three stages of n blocks on 32x32 images, global average, linear.

    Channels are 16, 32, 64, times `width`; "resnet8x2" has 32, 64, 128."""

    def __init__(self, classes, depth, shortcut="pad", width=1):
        super().__init__()
        n = (depth - 2) // 6
        stages = [16 * width, 32 * width, 64 * width]
        self.conv = _conv3x3(3, stages[0])
        self.bn = nn.BatchNorm2d(stages[0])
        widths = stages[:1] + [channels for channels in stages for _ in range(n)]
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2, shortcut) for a, b in pairs))
        self.linear = nn.Linear(stages[-1], classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):  # (B, 3, 32, 32)
        x = self.blocks(F.relu_(self.bn(self.conv(x))))  # (B, 64 width, 8, 8)
        # permuted, for a gradient in channels_last
        return self.linear(x.permute(0, 2, 3, 1).mean(dim=(1, 2)))  # (B, classes)


def cnn(classes, width):
    """Two convolutions and a linear layer, for (B, 1, 8, 8) digits."""
    layers = []
    for inputs, outputs in ((1, width), (width, 2 * width)):
        convolution = _conv3x3(inputs, outputs)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width, classes))


# ---------------------------------------------------------------- rows of a table

COLUMNS = 91  # of a row of `adult`, encoded
TREES, LEAVES, DEPTH = 100, 31, 6  # boosted trees; leaves and depth of each, at most


def mlp(classes, widths):
    """Hidden layers with ReLU, for (B, COLUMNS) rows; without any it is logistic regression."""
    layers = []
    inputs = COLUMNS
    for outputs in widths:
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class BoostedTrees(nn.Module):
    """Gradient-boosted trees for two classes, grown elsewhere, as a module that only predicts.

    The logits of a row are minus and plus half its score, which is the sum of one leaf of each tree
    and the base: their softmax is the probability that the booster gives."""

    def __init__(self, classes):
        super().__init__()
        if classes != 2:
            raise KdlibError(f"boosted_trees: for 2 classes, not {classes}.")
        nodes = TREES, 2 * LEAVES - 1
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int16))
        # float64: a threshold lies half-way between two float32 values
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("left", torch.zeros(nodes, dtype=torch.int16))  # leaves lead to
        self.register_buffer("right", torch.zeros(nodes, dtype=torch.int16))  # themselves
        self.register_buffer("value", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("base", torch.zeros(1, dtype=torch.float64))

    def forward(self, x):  # (B, COLUMNS)
        first = torch.arange(TREES, device=x.device) * self.value.shape[1]
        feature, left, right = (of.flatten().long() for of in (self.feature, self.left, self.right))
        threshold = self.threshold.flatten()
        x = x.double()
        at = first.repeat(len(x), 1)  # (B, TREES), node reached, counted through all trees
        for _ in range(DEPTH):
            goes_left = x.gather(1, feature[at]) <= threshold[at]
            at = first + torch.where(goes_left, left[at], right[at])
        half = (self.base + self.value.flatten()[at].sum(dim=1)) / 2
        return torch.stack([-half, half], dim=1).float()  # (B, 2)


MODELS = {
    "cnn": partial(cnn, width=16),
    "cnn_small": partial(cnn, width=4),
    **{f"resnet{d}": partial(ResNet, depth=d) for d in DEPTHS},
    **{f"resnet{d}-conv": partial(ResNet, depth=d, shortcut="conv") for d in DEPTHS},
    "resnet8x2": partial(ResNet, depth=8, width=2),
    "mlp": partial(mlp, widths=(128, 64)),
    "mlp_small": partial(mlp, widths=(16,)),
    "logistic": partial(mlp, widths=()),
    "boosted_trees": BoostedTrees,
}


def build(name, classes, seed):
    """The network MODELS[name](classes) with weights drawn from `seed`, in channels_last.
    The process's own random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](classes).to(memory_format=torch.channels_last)


def folded(model):
    """A frozen copy for prediction, every batch norm folded into the convolution before it.

    The same function of the images up to rounding, at about half the cost on a CPU. Only where a
    batch norm belongs to the convolution that is registered just before it: in the networks of this
    file and in every Sequential. Networks of other libraries may call theirs in another order."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in [m for m in model.modules() if type(m) in (ResNet, Block, nn.Sequential)]:
        children = list(module.named_children())
        for (conv_name, conv), (bn_name, bn) in zip(children, children[1:], strict=False):
            if type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d:
                setattr(module, conv_name, fuse_conv_bn_eval(conv, bn))
                setattr(module, bn_name, nn.Identity())
    return model.to(memory_format=torch.channels_last)
