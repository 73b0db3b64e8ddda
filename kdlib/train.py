"""The one training loop, and prediction. A method is the loss you hand it; a teacher is a function from views to logits."""

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from kdlib.config import Config, KdlibError
from kdlib.data import Data, crop_and_flip, normalise, padded, schedule
from kdlib.losses import Batch
from kdlib.models import folded

MOMENTUM = 0.9
EVALUATION_BATCH = {"cpu": 125, "cuda": 2000}   # images; a CPU gains nothing from more


class Diverged(KdlibError):
    """The loss is not a number."""


@dataclass(frozen=True)
class Run:
    """One network to be fitted. Model and data are on one device."""

    cfg: Config
    model: nn.Module
    loss: Callable                         # (logits (B, C), Batch) -> (B,)
    data: Data
    teacher: Callable | None = None        # (images (B, channels, H, W), index (B,), view (B,)) -> logits (B, C)
    # (epoch, curves, state); may look at the model but draws no random numbers. state() is what a later Run `resume`s from
    after_epoch: Callable | None = None
    resume: dict | None = None             # what state() gave after some epoch; tensors may be on another device


def learning_rate(cfg, step, steps_per_epoch):
    """Rate of one step: linear warm-up over cfg.warmup epochs, then cosine to 0, or steps at the milestones."""
    epoch = step / steps_per_epoch
    if epoch < cfg.warmup:
        return cfg.lr * (step + 1) / (cfg.warmup * steps_per_epoch)
    if cfg.decay == "step":
        return cfg.lr * cfg.decay_factor ** sum(epoch >= m for m in cfg.milestones)
    done = (epoch - cfg.warmup) / (cfg.epochs - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


class Stepper:
    """Takes one run through its schedule, step by step. cuda.Captured does the same steps from a graph."""

    def __init__(self, run, x):
        """x: the run's training images, padded."""
        self.run, self.x, self.device = run, x, x.device
        self.steps_per_epoch = math.ceil(len(run.data.train) / run.cfg.batch_size)
        self.sums = torch.zeros(self.steps_per_epoch, 2, device=x.device)   # loss, cross-entropy of each batch of an epoch
        self.curves = {"loss": [], "cross_entropy": []}
        self.epoch = 0                                                      # that comes next
        self.optimizer = self.sgd()

    def sgd(self, **more):
        cfg = self.run.cfg
        return torch.optim.SGD(self.run.model.parameters(), **{"lr": cfg.lr, "momentum": MOMENTUM,
                                                               "weight_decay": cfg.weight_decay, "nesterov": cfg.nesterov} | more)

    def on_stream(self):
        """Context in which the work of this run is issued."""
        return contextlib.nullcontext()

    def schedule(self, epoch):
        """The epoch's order and views; see data.schedule."""
        return schedule(self.run.cfg.seed, epoch, len(self.run.data.train), self.run.data.views)

    def begin(self, epoch):
        self.run.model.train()
        order, views = (t.to(self.device).split(self.run.cfg.batch_size) for t in self.schedule(epoch))
        self.batches = list(zip(order, views, strict=True))
        self.first = epoch * self.steps_per_epoch

    def step(self, number):
        """Step `number` of the epoch."""
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.run.cfg, self.first + number, self.steps_per_epoch)
        self.sums[number] = self.train_on(*self.batches[number])

    def train_on(self, index, view):
        """Forward, loss, backward, SGD on one batch of views. Returns its summed loss and cross-entropy, (2,)."""
        run, data, train = self.run, self.run.data, self.run.data.train
        images = normalise(crop_and_flip(self.x, index, view, data.pad), data)
        teacher_logits = run.teacher(images, index, view) if run.teacher else None
        batch = Batch(train.y[index], train.group[index], index, view, teacher_logits)
        # no cache: a captured step would keep the cast weights of its first replay
        with torch.autocast(self.device.type, torch.bfloat16, run.cfg.precision == "bf16", cache_enabled=False):
            logits = run.model(images)
        logits = logits.float()
        values = run.loss(logits, batch)
        self.optimizer.zero_grad()
        values.mean().backward()
        self.optimizer.step()
        with torch.no_grad():
            return torch.stack([values.sum(), F.cross_entropy(logits, batch.y, reduction="sum")])

    def end(self, epoch):
        """Means of the epoch into the curves: the only place that waits for the device. Raises Diverged."""
        sums, cfg = self.sums.double().cpu(), self.run.cfg
        if not (fine := sums[:, 0].isfinite()).all():
            bad = int(fine.int().argmin())   # the first one
            raise Diverged(f"Run {cfg.key()} stopped: its loss is {sums[bad, 0].item()} in epoch {epoch + 1} of {cfg.epochs}, "
                           f"step {bad + 1} of {self.steps_per_epoch}; a smaller lr than {cfg.lr} may help.")
        for curve, total in zip(self.curves.values(), sums.sum(dim=0).tolist(), strict=True):
            curve.append(total / len(self.run.data.train))
        self.epoch = epoch + 1
        if self.run.after_epoch:
            self.run.after_epoch(epoch, self.curves, self.state)

    def state(self):
        """All that the next epoch depends on beside the run itself, as tensors, numbers and lists."""
        memory = [self.optimizer.state[p]["momentum_buffer"] for p in self.run.model.parameters()]
        return {"epoch": self.epoch, "curves": self.curves, "model": self.run.model.state_dict(), "momentum": memory,
                "loss": getattr(self.run.loss, "state", None)}

    def resume(self, state):
        """Go on after the epoch at which a stepper of the same run gave this state; the same weights come out, bit for bit."""
        self.epoch = state["epoch"]
        for name, values in state["curves"].items():
            self.curves[name][:] = values
        self.run.model.load_state_dict(state["model"])
        for p, memory in zip(self.run.model.parameters(), state["momentum"], strict=True):
            kept = self.optimizer.state[p].setdefault("momentum_buffer", torch.empty_like(p))
            kept.copy_(memory)
        if state["loss"] is not None:
            self.run.loss.state.copy_(state["loss"])


def fit(runs, stepper=None):
    """Train the networks of all runs in place, in lockstep; the last epoch is the result. Nothing inside an epoch waits.

    Returns for each run, in order, {"loss": [...], "cross_entropy": [...]}, means per epoch over the training views; or the
    KdlibError that stopped it alone, such as Diverged. stepper: class of the steps; default Stepper, on CUDA cuda.Captured."""
    keep_memory()
    if stepper is None:
        stepper = Stepper
        if runs[0].data.train.x.is_cuda:
            from kdlib.cuda import Captured as stepper
    images = {id(run.data): run.data for run in runs}
    images = {key: padded(data.train.x, data.pad) for key, data in images.items()}   # runs of the same data share them
    steppers = [stepper(run, images[id(run.data)]) for run in runs]
    for s in steppers:
        if s.run.resume:
            with s.on_stream(), torch.no_grad():
                s.resume(s.run.resume)
    outcomes, going = [s.curves for s in steppers], dict(enumerate(steppers))

    def each(part):
        for k, s in list(going.items()):
            try:
                with s.on_stream():
                    getattr(s, part)(s.epoch)
            except KdlibError as error:
                outcomes[k] = error
                del going[k]

    while going := {k: s for k, s in going.items() if s.epoch < s.run.cfg.epochs}:
        each("begin")
        for number in range(max((s.steps_per_epoch for s in going.values()), default=0)):
            for s in going.values():
                if number < s.steps_per_epoch:
                    with s.on_stream():
                        s.step(number)
        each("end")
    return outcomes


@functools.cache
def keep_memory():
    """Let the C library keep freed blocks. By default glibc returns large ones to the system, which hands them out again page
    by page, zeroed, at every step: felt by small networks on a CPU. Other C libraries have no such setting."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**30)       # M_MMAP_THRESHOLD, bytes
        libc.mallopt(-1, 2**31 - 1)   # M_TRIM_THRESHOLD


@torch.no_grad()
def predict(model, x, data):
    """Logits (N, C) float32, on the CPU, of images x (N, H, W, C) uint8 in order, in eval mode; the model stays as it is."""
    keep_memory()
    net = folded(model)
    return torch.cat([net(normalise(images, data)).float() for images in x.split(EVALUATION_BATCH[x.device.type])]).cpu()
