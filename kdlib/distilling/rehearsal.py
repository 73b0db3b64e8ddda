"""How long a distillation would take here, from a few steps of its own; nothing of it is kept."""

import time
from dataclasses import replace

import numpy as np

from kdlib.asking.networks import named
from kdlib.config import count_of
from kdlib.distilling import processes
from kdlib.distilling.networks import fresh
from kdlib.distilling.steps import once, shared
from kdlib.methods import needs_margins
from kdlib.step import Run, method_loss
from kdlib.study.pace import in_words
from kdlib.teacher import frozen
from kdlib.train import fit

STEPS = 4  # that are timed, after as many that warm up


def seconds_an_image(data, configs, device):
    """What an image of an epoch takes, all methods side by side, with an untrained teacher."""
    n = min(len(data.train), STEPS * configs[0].batch_size)
    rows = np.random.default_rng(0).permutation(len(data.train))[:n].tolist()
    few = replace(data, train=data.train[rows])
    # one for each class or group, whichever a method looks up
    most = max(len(data.class_names), len(data.group_names))
    margins = few.train.y.new_ones(most).float()
    teacher = next((cfg.teacher for cfg in configs if cfg.teacher), None)
    ask = teacher and once(frozen(fresh(named(teacher), data.classes, 0).to(device)))
    runs = []
    for cfg in configs:
        short = replace(cfg, epochs=1, warmup=0, milestones=())
        network = fresh(named(cfg.student), data.classes, cfg.seed).to(device)
        loss = method_loss(short, margins if needs_margins(cfg) else None, data.train)
        runs.append(Run(short, network, loss, few, ask if cfg.teacher else None))
    for _ in range(2):
        start = time.monotonic()
        fit(runs, shared(lambda images: None))
    return (time.monotonic() - start) / n


def told(setting, parts):
    """A sentence: how long the parts take, (Configs side by side, how many times)."""
    data = setting.data
    total = 0.0
    shown = []
    for configs, times in parts:
        pace = seconds_an_image(data, configs, setting.device)
        total += times * pace * len(data.train) * configs[0].epochs
        names = ", ".join(cfg.name for cfg in configs)
        often = f", {count_of(times, 'time')}" if times > 1 else ""
        shown.append(f"{names} at {1 / pace:,.0f} images a second{often}")
    where = count_of(processes.count(), "process", "processes")
    epochs = count_of(parts[0][0][0].epochs, "epoch")
    return (
        f"Training would take about {in_words(total)} here, in {where} ({setting.device}): "
        f"{epochs} of {len(data.train):,} images, {'; '.join(shown)}. Nothing was trained."
    )
