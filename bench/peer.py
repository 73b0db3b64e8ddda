"""Distillation as the usual codebases write it: the benchmark's other side, on a CPU.

Its habits are those of RepDistiller, mdistiller, LDAM-DRW, BalancedKD and pytorch-cifar100: images
are PIL's, cropped and flipped one by one in a DataLoader whose workers are forked anew each epoch;
the teacher keeps its batch norms and looks at every batch; memory is in the default format; the
loss and two accuracies are asked of each batch; evaluation is in batches of half the size. The code
is written here."""

import copy

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms as T

from kdlib.data import schedule
from kdlib.models import build
from kdlib.step import MOMENTUM


class Pictures(torch.utils.data.Dataset):
    """Images of a split as PIL sees them, each cropped and flipped by itself if `augment`."""

    def __init__(self, split, data, augment):
        self.x, self.y = split.x.numpy(), split.y.tolist()
        steps = [T.ToTensor(), T.Normalize(data.mean, data.std)]
        if augment and data.pad:
            crop = T.RandomCrop(split.x.shape[1], padding=data.pad)
            steps = [crop, T.RandomHorizontalFlip(), *steps]
        self.transform = T.Compose(steps)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.x[index])), self.y[index]


def loader(split, data, batch_size, workers, order=None):
    """Batches (images, y) of a split, in order; with an `order`, for training, also augmented."""
    dataset, fork = Pictures(split, data, order is not None), "fork" if workers else None
    how = {"num_workers": workers, "multiprocessing_context": fork}
    return torch.utils.data.DataLoader(dataset, batch_size, sampler=order, **how)


def training_batches(data, cfg, epoch, workers):
    """One epoch in the order of kdlib's schedule; the loader draws its own crops and flips."""
    order, _ = schedule(cfg.seed, epoch, len(data.train), data.views)
    return loader(data.train, data, cfg.batch_size, workers, order.tolist())


class Meters:
    """Means over examples of what each batch is asked: loss, top-1 and top-5 accuracy in %."""

    def __init__(self):
        self.totals, self.n = np.zeros(3), 0

    def update(self, loss, logits, y):
        hit = logits.topk(5, dim=1).indices == y[:, None]
        values = loss, 100 * hit[:, 0].float().mean(), 100 * hit.any(dim=1).float().mean()
        self.totals += [len(y) * value.item() for value in values]
        self.n += len(y)

    def means(self):
        return self.totals / self.n


def distillation_loss(logits, teacher_logits, y, cfg):
    """Mean of the batch: cross-entropy; with a teacher, also T^2 KL of the softened outputs."""
    cross_entropy = F.cross_entropy(logits, y)
    if teacher_logits is None:
        return cross_entropy
    t = cfg.temperature
    ours, theirs = F.log_softmax(logits / t, dim=1), F.softmax(teacher_logits / t, dim=1)
    kl = F.kl_div(ours, theirs, reduction="batchmean")
    return (1 - cfg.alpha) * cross_entropy + cfg.alpha * t**2 * kl


def train(data, cfg, teacher=None, workers=0):
    """A network trained on data.train; its top-1 accuracies on data.test after each epoch, in %.

    teacher: a network; None: on labels alone. workers: of the loader."""
    model = build(cfg.student, data.classes, cfg.seed).to(memory_format=torch.contiguous_format)
    if teacher:
        teacher = copy.deepcopy(teacher).eval().to(memory_format=torch.contiguous_format)
    decay = {"momentum": MOMENTUM, "weight_decay": cfg.weight_decay}
    optimizer, accuracies = torch.optim.SGD(model.parameters(), lr=cfg.lr, **decay), []
    for epoch in range(cfg.epochs):
        model.train()
        meters = Meters()
        for images, y in training_batches(data, cfg, epoch, workers):
            teacher_logits = None
            if teacher:
                with torch.no_grad():
                    teacher_logits = teacher(images)
            logits = model(images)
            loss = distillation_loss(logits, teacher_logits, y, cfg)
            meters.update(loss, logits.detach(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies.append(evaluate(model, data, cfg.batch_size // 2, workers))
    return model, accuracies


@torch.no_grad()
def evaluate(model, data, batch_size, workers):
    """Top-1 accuracy on data.test, in percent."""
    model.eval()
    meters = Meters()
    for images, y in loader(data.test, data, batch_size, workers):
        logits = model(images)
        meters.update(F.cross_entropy(logits, y), logits, y)
    return meters.means()[1]
