"""How long runs take on this machine, from a few steps of their own."""

import contextlib
import functools
import math
import time
from dataclasses import replace

import torch
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib import cuda
from kdlib.config import DATASETS, Config, networks_of
from kdlib.models import build
from kdlib.step import Run, method_loss
from kdlib.study.boosting import fit
from kdlib.study.experiment import load
from kdlib.study.kept import epochs_done
from kdlib.study.watch import EVALUATIONS
from kdlib.train import predict

MEASURED = 4  # runs side by side whose pace is measured; each takes seconds to be captured
STARTING = 5.0  # seconds; see `starting`


def falls_back(function):
    """The function, which goes on without graphs, and says so, where steps cannot be captured."""

    @functools.wraps(function)
    def either(*arguments, **more):
        try:
            return function(*arguments, **more)
        except cuda.CaptureError as error:
            cuda.graphs_off()
            tqdm.write(f"{error} Going on with these, one process for each run.")
            return function(*arguments, **more)

    return either


@contextlib.contextmanager
def one_thread(device):
    """A block in which a CPU is given one thread, as in every process of a sweep."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@falls_back
def shares(configs, folder, device, jobs):
    """{key: seconds} that each Config takes on this machine beside others, `jobs` at a time.

    On a CPU each has a thread; on a GPU its share of the time of those that go side by side.
    Counted are steps, evaluations and, for the first student of each teacher, the table of that."""
    count = 1 if device == "cpu" else min(jobs, len(configs), MEASURED)
    found = {}
    tables = set()
    with one_thread(device):
        for cfg in configs:
            data = load(cfg, folder, device)[0]
            n = len(data.train)
            how = (data, cfg.batch_size, cfg.precision, count)
            images = EVALUATIONS * len(data.val) + sum(map(len, data.splits().values()))
            step, forward = _pace(cfg.student, *how)
            left = cfg.epochs - epochs_done(cfg.key())
            seconds = left * math.ceil(n / cfg.batch_size) * step + images * forward
            table = (cfg.teacher_config(), cfg.seed, cfg.epochs) if cfg.teacher else None
            if table and table not in tables:
                tables.add(table)
                # part of an image's views, on average
                seen = 1 - (1 - 1 / data.views) ** cfg.epochs if device == "cpu" else 1
                seconds += seen * n * data.views * _pace(cfg.teacher, *how)[1]
            found[cfg.key()] = seconds
    return found


def workers(configs, device, jobs):
    """How many of the seconds of `shares` pass in one: a GPU has one clock for all."""
    return min(jobs, len(configs)) if device == "cpu" else 1


def starting(device):
    """Seconds until the first process trains, which has to import torch and read the data."""
    return STARTING if device == "cpu" else 0.0


_PACES = {}  # what was measured here


def _pace(name, data, batch_size, precision, count=1):
    """(seconds of a training step, of the forward pass of one image) of a network.

    Of `count` runs side by side a step is one of all their steps."""
    train = data.train
    key = (name, train.x.shape[1:], train.x.device, batch_size, precision, count)
    if key in _PACES:
        return _PACES[key]
    n = min(len(train), batch_size * (20 if train.x.is_cuda else 1))
    some = replace(data, train=train[:n])
    # the first epoch warms up
    dataset = next(dataset for dataset in DATASETS if name in networks_of(dataset))
    how = {"dataset": dataset, "batch_size": batch_size, "precision": precision}
    cfg = Config(student=name, epochs=3, **how)
    models = [build(name, data.classes, 0).to(train.x.device) for _ in range(count)]
    ends = []
    runs = [Run(cfg, m, method_loss(cfg), some) for m in models]
    runs[-1] = replace(runs[-1], after_epoch=lambda *_: ends.append(time.perf_counter()))
    for outcome in fit(runs):
        if isinstance(outcome, Exception):
            raise outcome
    starts = []
    for _ in range(2):  # at the first call a GPU looks for its fastest kernels
        starts.append(time.perf_counter())
        predict(models[0], some.train.x, some)
    forward = (time.perf_counter() - starts[-1]) / n
    epoch = min(b - a for a, b in zip(ends, ends[1:], strict=False))
    _PACES[key] = epoch / math.ceil(n / batch_size) / count, forward
    return _PACES[key]


def in_words(seconds):
    """A duration to read: hours and minutes, minutes, or below two minutes seconds."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if seconds >= 120 else f"{seconds:.0f} s"
