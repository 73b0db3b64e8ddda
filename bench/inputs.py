"""What the parts share: images, networks, Configs, this engine, the machine, tables."""

import functools
import os
import time

import numpy as np
import torch

from kdlib.config import Config
from kdlib.data import Data, Split, normalise
from kdlib.models import build
from kdlib.step import Run, method_loss
from kdlib.study import experiment
from kdlib.teacher import Table, view_logits
from kdlib.train import fit, predict


def config(student, teacher=None, epochs=1, **more):
    """The Config of a benchmarked run.

    The rate is constant, so that a step costs and does the same on both sides."""
    fields = {"dataset": "cifar100", "imbalance": 100, "lr": 0.05, "decay": "step", **more}
    if teacher:
        fields |= {"method": "kd", "teacher": teacher, "alpha": 0.9, "temperature": 4.0}
    return Config(student=student, epochs=epochs, **fields)


@functools.cache
def images(train=10_847, test=5000, classes=100, side=32):
    """Data of random images; by default as many and as large as long-tailed CIFAR-100 has."""
    generator = np.random.default_rng(0)

    def split(n):
        x = torch.from_numpy(generator.integers(256, size=(n, side, side, 3), dtype=np.uint8))
        y = torch.arange(n) % classes
        return Split(x, y, y)

    held, names = split(test), tuple(f"class {c}" for c in range(classes))
    looks = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "pad": 4}
    return Data(split(train), held, held, held, names, names, **looks)


@torch.no_grad()
def teacher(name, data):
    """A network with random weights, whose logits are of size 1.

    For that it has the batch-norm statistics of its own activations."""
    network = build(name, data.classes, 1000).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what comes next
    network(normalise(data.train.x[:256], data))
    return network.eval()


def table(model, data, codes=None):
    """The Table of a model over the views of data.train that `codes` names; default: all."""
    n, views = len(data.train), data.views
    codes = torch.arange(n * views) if codes is None else codes
    return Table(view_logits(model, data, codes), codes, n, views)


def engine(data, cfgs, teacher=None):
    """This engine trains networks side by side, with an evaluation after each epoch.

    Returns the networks, and the times at which the epochs ended."""
    runs, ends = [], []
    for cfg in cfgs:
        model = build(cfg.student, data.classes, cfg.seed).to(data.train.x.device)

        def after(epoch, curves, state, model=model, last=cfg is cfgs[-1]):
            predict(model, data.test.x, data)  # waits for the device
            if last:
                ends.append(time.monotonic())

        runs.append(Run(cfg, model, method_loss(cfg), data, teacher, after))
    for outcome in fit(runs):
        if isinstance(outcome, Exception):
            raise outcome
    return [run.model for run in runs], ends


def machine(device):
    """What it is measured on, and with what."""
    about = experiment.machine(device)
    about |= {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    return about | about.pop("versions") | {"date": time.strftime("%Y-%m-%d")}


def markdown(header, rows):
    lines = [f"| {' | '.join(map(str, row))} |\n" for row in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|\n")
    return "".join(lines)


def put(page, name, content):
    """Write `content` into a page, between <!-- name:start --> and <!-- name:end -->."""
    start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
    before, _, after = page.read_text().partition(start)
    page.write_text(before + start + content + end + after.partition(end)[2])
