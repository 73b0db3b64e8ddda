"""What both sides of a benchmark are given: images, networks, and the configuration."""

from dataclasses import replace

import numpy as np
import torch

from kdlib.config import Config
from kdlib.data import Data, Split, long_tail_counts, normalise
from kdlib.models import build
from kdlib.study.cifar import DataError, find
from kdlib.study.datasets import CIFAR100_STATISTICS, load

LONG_TAIL = Config(dataset="cifar100", imbalance=100)
CLASSES = 100
REAL, RANDOM = "CIFAR-100, long-tailed (imbalance 100)", "random images, as CIFAR-100 was not found"


def config(student, teacher=None, epochs=1, **more):
    """The Config of a benchmarked run.

    The rate is constant, so that a step costs and does the same on both sides."""
    fields = {"student": student, "epochs": epochs, "lr": 0.05, "decay": "step"}
    if teacher:
        fields |= {"method": "kd", "teacher": teacher, "alpha": 0.9, "temperature": 4.0}
    return replace(LONG_TAIL, **(fields | more))


def images(train=None, test=None, random=False):
    """(Data, which images they are): the long-tailed CIFAR-100, or random images of its shape.

    The latter if `random`, or if CIFAR-100 is not there. train, test: how many, the first of a
    seeded permutation; None: all (10,847 and 5,000)."""
    what = RANDOM
    if not random:
        try:
            find("cifar100")
            what = REAL
        except DataError:
            pass  # said in the results
    data = load(LONG_TAIL) if what == REAL else _random_images()
    return replace(data, train=_some(data.train, train), test=_some(data.test, test)), what


def _random_images():
    rng = np.random.default_rng(0)

    def split(y):
        x = torch.from_numpy(rng.integers(256, size=(len(y), 32, 32, 3), dtype=np.uint8))
        return Split(x, torch.from_numpy(y), torch.from_numpy(y))

    counts = long_tail_counts(500, LONG_TAIL.imbalance, CLASSES)
    train, held = np.repeat(np.arange(CLASSES), counts), np.repeat(np.arange(CLASSES), 50)
    splits = [split(y) for y in (train, held, held, np.arange(CLASSES))]
    names = tuple(f"class {c}" for c in range(CLASSES))
    return Data(*splits, names, names, **CIFAR100_STATISTICS, pad=4)


def _some(split, n):
    chosen = torch.from_numpy(np.random.default_rng(1).permutation(len(split))[:n])
    return Split(split.x[chosen], split.y[chosen], split.group[chosen])


@torch.no_grad()
def teacher_network(name, data):
    """A network with random weights, whose logits are of size 1.

    For that it has the batch-norm statistics of its own activations."""
    network = build(name, CLASSES, 1000).to(data.train.x.device).train()
    network(normalise(data.train.x[:256], data))
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what comes next
    network(normalise(data.train.x[:256], data))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()
