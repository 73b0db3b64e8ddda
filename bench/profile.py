"""Where the time of our CPU path goes: one training epoch, by part of the step.

Self time of every operation is counted."""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, record_function

from bench import inputs
from kdlib import step
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.teacher import frozen
from kdlib.train import fit

LABELS = ("data path", "teacher", "loss")  # spans that we put around parts of the step
OPERATIONS = {  # part of a name -> part of the step; the first that fits
    "Optimizer": "optimizer",
    "convolution_backward": "convolution, backward",
    "conv": "convolution, forward",
    "batch_norm": "batch norm",
    "threshold_backward": "ReLU",
    "relu": "ReLU",
    "ReluBackward": "ReLU",
}
PARTS = (
    "teacher",
    "convolution, forward",
    "convolution, backward",
    "batch norm",
    "ReLU",
    "data path",
    "loss",
    "optimizer",
    "rest",
)


def labelled(name, function):
    """The function under a span of that name."""

    def call(*arguments):
        with record_function(name):
            return function(*arguments)

    return call


def part_of(event):
    """Part of the step that an event belongs to.

    By a span around it, else by its own name or that of the nearest parent."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    for name in names:
        if name in LABELS:  # a convolution inside the teacher is the teacher's
            return name
    for name in names:
        for word, part in OPERATIONS.items():
            if word in name:
                return part
    return "rest"


def shares(data, batch_size, student, teacher):
    """{what: {part of the step: share of the time}} of the student, without evaluations.

    It is trained on labels only, and with a live teacher."""
    live = frozen(inputs.teacher_network(teacher, data))
    runs = {
        "labels only": (inputs.config(student, batch_size=batch_size), None),
        "live teacher": (inputs.config(student, teacher, batch_size=batch_size), live),
    }
    return {what: _shares(data, cfg, ask) for what, (cfg, ask) in runs.items()}


def _shares(data, cfg, teacher):
    model, loss = build(cfg.student, data.classes, cfg.seed), labelled("loss", method_loss(cfg))
    run = step.Run(cfg, model, loss, data, teacher and labelled("teacher", teacher))
    with ExitStack() as stack:
        for name in ("crop_and_flip", "normalise"):
            spanned = labelled("data path", getattr(step, name))
            stack.enter_context(mock.patch.object(step, name, spanned))
        profiler = stack.enter_context(torch.profiler.profile(activities=[ProfilerActivity.CPU]))
        fit([run])
    times = Counter()
    for event in profiler.events():
        times[part_of(event)] += event.self_cpu_time_total
    return {part: times[part] / sum(times.values()) for part in PARTS}
