"""The one training loop, and prediction.

A method is the loss you hand it; a teacher is a function from views to logits."""

import contextlib
import ctypes
import functools

import torch

from kdlib.config import KdlibError
from kdlib.cuda import Captured
from kdlib.data import normalise
from kdlib.models import folded
from kdlib.step import Run, Stepper

EVALUATION_BATCH = {"cpu": 125, "cuda": 2000}  # images; a CPU gains nothing from more


def fit(runs: list[Run], stepper: type[Stepper] | None = None, after_all=None):
    """Train the networks of all runs in place, in lockstep; the last epoch is the result.

    Nothing inside an epoch waits for the device. Returns for each run, in order,
    {"loss": [...], "cross_entropy": [...]}, means per epoch over the training views; or the
    KdlibError that stopped it alone, such as Diverged. stepper: default Captured on a GPU.
    after_all(steppers): called when all have ended an epoch, with those that no error stopped."""
    keep_memory()
    if stepper is None:
        stepper = Captured if runs[0].data.train.x.is_cuda else Stepper
    data = {id(run.data): run.data for run in runs}  # runs of the same data share its images
    images = {key: stepper.held(of) for key, of in data.items()}
    steppers = [stepper(run, images[id(run.data)]) for run in runs]
    for s in steppers:
        if s.run.resume:
            with s.on_stream(), torch.no_grad():
                s.resume(s.run.resume)
    stopped = {}  # by what, of each stepper
    while going := [s for s in steppers if s not in stopped and s.epoch < s.run.cfg.epochs]:
        for s in going:
            with s.on_stream():
                s.begin(s.epoch)
        for number in range(max(s.steps_per_epoch for s in going)):
            for s in going:
                if number < s.steps_per_epoch:
                    with s.on_stream():
                        s.step(number)
        for s in going:
            try:
                with s.on_stream():
                    s.end(s.epoch)
            except KdlibError as error:
                stopped[s] = error
        if after_all:
            after_all([s for s in going if s not in stopped])
    return [stopped.get(s, s.curves) for s in steppers]


@functools.cache
def keep_memory():
    """Let the C library keep freed blocks.

    By default glibc returns large ones to the system, which hands them out again page by page,
    zeroed, at every step: felt by small networks on a CPU. Other C libraries cannot be told."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@torch.no_grad()
def predict(model, x, data):
    """Logits (N, C) float32, on the CPU, of images x (N, H, W, C) uint8 in order, in eval mode.
    The model stays as it is. data: where mean and std are from. x: a tensor, or what has its
    `device`, and `split` into batches of at most so many images."""
    keep_memory()
    net = folded(model)
    size = EVALUATION_BATCH[x.device.type]
    return torch.cat([net(normalise(images, data)).float() for images in x.split(size)]).cpu()
