"""A run, and its training step: the loop in train.py takes it, cuda.py captures it."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from kdlib import losses, rivals
from kdlib.arguments import trusted
from kdlib.config import Config, KdlibError, method_of
from kdlib.data import Data, crop_and_flip, normalise, padded, schedule
from kdlib.losses import Batch
from kdlib.methods import needs_margins

MOMENTUM = 0.9


class Diverged(KdlibError):
    """The loss is not a number."""


@dataclass(frozen=True)
class Run:
    """One network to be fitted. Model and data are on one device."""

    cfg: Config
    model: nn.Module
    loss: Callable  # (logits (B, C), Batch) -> (B,)
    data: Data
    teacher: Callable | None = None  # (images (B, channels, H, W), index (B,), view (B,)) -> logits
    after_epoch: Callable | None = None  # (epoch, curves, state): looks, and draws no random number
    resume: dict | None = None  # state() of an earlier run of this Config, on whatever device


def method_loss(cfg, margins=None, train=None):
    """loss(logits, batch) -> (N,) of a Config; one with a `state` serves one run.

    Made by METHODS[cfg.method].loss, or else by the function of its name, from the Config and
    margins: (G,), or (N_train,) for a crossfit by example; None if it needs none.
    train: the training Split, for methods that count its classes or groups."""
    made = method_of(cfg).loss
    if needs_margins(cfg) and margins is None:
        raise KdlibError(f"Config {cfg.key()}: method {cfg.method!r} needs the teacher's margins.")
    name = f"{cfg.method}_of"
    make = made or getattr(losses, name, None) or getattr(rivals, name, None)
    if make is None:
        raise KdlibError(
            f"method {cfg.method!r} needs a function {name} in losses.py or rivals.py."
        )
    return make(cfg, margins, train)


def learning_rate(cfg, step, steps_per_epoch):
    """Rate of a step: linear warm-up over cfg.warmup epochs, then cosine to 0, or milestones."""
    epoch = step / steps_per_epoch
    if epoch < cfg.warmup:
        return cfg.lr * (step + 1) / (cfg.warmup * steps_per_epoch)
    if cfg.decay == "step":
        return cfg.lr * cfg.decay_factor ** sum(epoch >= m for m in cfg.milestones)
    done = (epoch - cfg.warmup) / (cfg.epochs - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


class Stepper:
    """Takes one run through its schedule, step by step; cuda.Captured does so from a graph."""

    def __init__(self, run, x):
        """x: of `held`."""
        self.run = run
        self.x = x
        self.device = x.device
        self.net = run.model  # what is called in a step
        self.steps_per_epoch = math.ceil(len(run.data.train) / run.cfg.batch_size)
        self.sums = torch.zeros(self.steps_per_epoch, 2, device=x.device)  # see train_on
        self.curves = {"loss": [], "cross_entropy": []}
        self.epoch = 0  # that comes next
        self.optimizer = self.sgd()

    @staticmethod
    def held(data):
        """The training images, as the steps of all runs on these Data want them."""
        return padded(data.train.x, data.pad)

    def sgd(self, **more):
        cfg = self.run.cfg
        usual = {"lr": cfg.lr, "momentum": MOMENTUM, "nesterov": cfg.nesterov}
        parameters = self.run.model.parameters()
        return torch.optim.SGD(parameters, weight_decay=cfg.weight_decay, **usual | more)

    def on_stream(self):
        """Context in which the work of this run is issued."""
        return contextlib.nullcontext()

    def schedule(self, epoch):
        """The epoch's order and views; see data.schedule."""
        return schedule(self.run.cfg.seed, epoch, len(self.run.data.train), self.run.data.views)

    def begin(self, epoch):
        self.run.model.train()
        size = self.run.cfg.batch_size
        order, views = (t.to(self.device).split(size) for t in self.schedule(epoch))
        self.batches = list(zip(order, views, strict=True))
        self.first = epoch * self.steps_per_epoch

    def step(self, number):
        """Step `number` of the epoch."""
        rate = learning_rate(self.run.cfg, self.first + number, self.steps_per_epoch)
        self.optimizer.param_groups[0]["lr"] = rate
        self.sums[number] = self.train_on(*self.batches[number])

    def images(self, index, view):
        """(B, channels, H, W) float32: views of the training images, normalised."""
        data = self.run.data
        return normalise(crop_and_flip(self.x, index, view, data.pad), data)

    def mean(self, values):
        """The loss of a step, of its values (B,) for each example."""
        return values.mean()

    def train_on(self, index, view):
        """Forward, loss, backward, SGD on a batch of views; its summed loss and cross-entropy."""
        run, train = self.run, self.run.data.train
        images = self.images(index, view)
        teacher_logits = run.teacher(images, index, view) if run.teacher else None
        batch = Batch(train.y[index], train.group[index], index, view, teacher_logits)
        half = run.cfg.precision == "bf16"
        # no cache: a captured step would keep the cast weights of its first replay
        with torch.autocast(self.device.type, torch.bfloat16, half, cache_enabled=False):
            logits = self.net(images)
        logits = logits.float()
        with trusted():
            values = run.loss(logits, batch)
        if values.shape != batch.y.shape:
            raise KdlibError(
                f"method {run.cfg.method!r}: its loss has the shape {tuple(values.shape)}, but "
                f"must be one number for each of the {len(batch.y)} images; leave out the mean."
            )
        self.optimizer.zero_grad()
        self.mean(values).backward()
        self.optimizer.step()
        with torch.no_grad():
            cross_entropy = F.cross_entropy(logits, batch.y, reduction="sum")
            return torch.stack([values.sum(), cross_entropy])

    def end(self, epoch):
        """Means of the epoch into the curves: all that waits for the device. Raises Diverged."""
        sums = self.sums.double().cpu()
        cfg = self.run.cfg
        for step, loss in enumerate(sums[:, 0].tolist(), start=1):
            if not math.isfinite(loss):
                raise Diverged(
                    f"Run {cfg.key()} stopped: its loss is {loss} in epoch {epoch + 1} of "
                    f"{cfg.epochs}, step {step} of {self.steps_per_epoch}; a smaller lr than "
                    f"{cfg.lr} may help."
                )
        for curve, total in zip(self.curves.values(), sums.sum(dim=0).tolist(), strict=True):
            curve.append(total / len(self.run.data.train))
        self.epoch = epoch + 1
        if self.run.after_epoch:
            self.run.after_epoch(epoch, self.curves, self.state)

    def state(self):
        """What the next epoch depends on beside the run itself; tensors are not copied."""
        momenta = [self.optimizer.state[p]["momentum_buffer"] for p in self.run.model.parameters()]
        return {
            "epoch": self.epoch,
            "curves": self.curves,
            "model": self.run.model.state_dict(),
            "momentum": momenta,
            "loss": getattr(self.run.loss, "state", None),
        }

    def resume(self, state):
        """Go on from the state of another stepper of the same run: the same weights come out."""
        self.epoch = state["epoch"]
        for name, values in state["curves"].items():
            self.curves[name][:] = values
        self.run.model.load_state_dict(state["model"])
        # in place: a graph knows no other memory
        for p, momentum in zip(self.run.model.parameters(), state["momentum"], strict=True):
            kept = self.optimizer.state[p].setdefault("momentum_buffer", torch.empty_like(p))
            kept.copy_(momentum)
        if state["loss"] is not None:
            self.run.loss.state.copy_(state["loss"])
