"""Where the time of our CPU path goes: self time of every operation of one training epoch, by part of the step."""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, record_function

from bench import inputs
from kdlib import train
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.teacher import frozen

LABELS = ("data path", "teacher", "loss")   # spans that we put around parts of the step
OPERATIONS = {  # part of a name -> part of the step; the first that fits
    "Optimizer": "optimizer", "convolution_backward": "convolution, backward", "conv": "convolution, forward",
    "batch_norm": "batch norm", "threshold_backward": "ReLU", "relu": "ReLU", "ReluBackward": "ReLU",
}
PARTS = ("teacher", "convolution, forward", "convolution, backward", "batch norm", "ReLU", "data path", "loss", "optimizer",
         "rest")


def labelled(name, function):
    """The function under a span of that name."""
    def call(*arguments):
        with record_function(name):
            return function(*arguments)
    return call


def part_of(event):
    """Part of the step that an event belongs to: by a span around it, else by its own name or that of the nearest parent."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    spans = [name for name in names if name in LABELS]   # a convolution inside the teacher is the teacher's
    known = (part for name in names for word, part in OPERATIONS.items() if word in name)
    return spans[0] if spans else next(known, "rest")


def shares(data, batch_size, student, teacher):
    """{what: {part of the step: share of the time}} of the student on labels and with a live teacher; no evaluation."""
    live = frozen(inputs.teacher_network(teacher, data))
    runs = {"labels only": (inputs.config(student, batch_size=batch_size), None),
            "live teacher": (inputs.config(student, teacher, batch_size=batch_size), live)}
    return {what: _shares(data, cfg, ask) for what, (cfg, ask) in runs.items()}


def _shares(data, cfg, teacher):
    loss = labelled("loss", method_loss(cfg))
    run = train.Run(cfg, build(cfg.student, data.classes, cfg.seed), loss, data, teacher and labelled("teacher", teacher))
    with ExitStack() as stack:
        for name in ("crop_and_flip", "normalise"):
            stack.enter_context(mock.patch.object(train, name, labelled("data path", getattr(train, name))))
        profiler = stack.enter_context(torch.profiler.profile(activities=[ProfilerActivity.CPU]))
        train.fit([run])
    times = Counter()
    for event in profiler.events():
        times[part_of(event)] += event.self_cpu_time_total
    return {part: times[part] / sum(times.values()) for part in PARTS}
