"""The one training loop, and prediction. A method is the loss you hand it; a teacher is a function from images to logits."""

import math

import torch
from torch.nn import functional as F

from kdlib.config import KdlibError
from kdlib.data import crop_and_flip, normalise, padded, schedule
from kdlib.losses import Batch

EVALUATION_BATCH = 500


class Diverged(KdlibError):
    """The loss is not a number."""


def learning_rate(cfg, step, steps_per_epoch):
    """Rate of one step: linear warm-up over cfg.warmup epochs, then cosine to 0, or steps at the milestones."""
    epoch = step / steps_per_epoch
    if epoch < cfg.warmup:
        return cfg.lr * (step + 1) / (cfg.warmup * steps_per_epoch)
    if cfg.decay == "step":
        return cfg.lr * cfg.decay_factor ** sum(epoch >= m for m in cfg.milestones)
    done = (epoch - cfg.warmup) / (cfg.epochs - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


def fit(model, loss, data, cfg, teacher=None, after_epoch=None):
    """Train `model` in place on data.train; the last epoch is the result.

    loss(logits, batch) -> (N,). teacher: images (N, C, H, W) -> logits, or None. after_epoch(epoch, curves) may look at the
    model but draws no random numbers. Model and data are on one device. Nothing inside an epoch waits for that device.
    Returns {"loss": [...], "cross_entropy": [...]}, means per epoch over the training views. Raises Diverged."""
    train, device = data.train, data.train.x.device
    x, n = padded(train.x, data.pad), len(train)
    steps_per_epoch = math.ceil(n / cfg.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr, momentum=0.9, weight_decay=cfg.weight_decay)
    curves = {"loss": [], "cross_entropy": []}
    for epoch in range(cfg.epochs):
        model.train()
        order, views = (t.to(device) for t in schedule(cfg.stream, epoch, n, data.views))
        totals = torch.zeros(2, device=device)
        for number, (index, view) in enumerate(zip(order.split(cfg.batch_size), views.split(cfg.batch_size), strict=True)):
            optimizer.param_groups[0]["lr"] = learning_rate(cfg, epoch * steps_per_epoch + number, steps_per_epoch)
            images = normalise(crop_and_flip(x, index, view, data.pad), data)
            batch = Batch(train.y[index], train.group[index], index, view, teacher(images) if teacher else None)
            logits = model(images)
            values = loss(logits, batch)
            optimizer.zero_grad()
            values.mean().backward()
            optimizer.step()
            with torch.no_grad():
                totals += torch.stack([values.detach().sum(), F.cross_entropy(logits.detach(), batch.y, reduction="sum")])
        for name, total in zip(curves, (totals / n).tolist(), strict=True):
            curves[name].append(total)
        if not math.isfinite(curves["loss"][-1]):
            raise Diverged(f"Run {cfg.key()} stopped: its loss is {curves['loss'][-1]} in epoch {epoch + 1} of {cfg.epochs}; "
                           f"a smaller lr than {cfg.lr} may help.")
        if after_epoch:
            after_epoch(epoch, curves)
    return curves


@torch.no_grad()
def predict(model, x, data):
    """Logits (N, C) float32, on the CPU, of images x (N, H, W, C) uint8 in order; the model is put in eval mode."""
    model.eval()
    return torch.cat([model(normalise(images, data)).float() for images in x.split(EVALUATION_BATCH)]).cpu()
