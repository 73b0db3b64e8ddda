"""Distillation as the usual codebases write it: the benchmark's other side, each habit a switch.

The habits are those of performance.md, section 1, found in RepDistiller, mdistiller, LDAM-DRW,
BalancedKD and pytorch-cifar100; the code is written here. It runs on whatever device the network is
on."""

import argparse
import copy
import dataclasses
import json
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from bench import inputs
from kdlib.config import Config
from kdlib.data import crop_and_flip, normalise, padded, schedule
from kdlib.models import build, folded
from kdlib.step import MOMENTUM, learning_rate
from kdlib.train import EVALUATION_BATCH


@dataclass(frozen=True)
class Traits:
    """The habits, in the order in which the ladder gives them up."""

    # PIL transforms in a DataLoader, workers forked anew each epoch; off: batched views of uint8
    loader: bool = True
    unfolded: bool = True  # the teacher keeps its batch norms
    # the teacher looks at every batch; off: its logits come from a table
    teacher_each_step: bool = True
    nchw: bool = True  # memory format of images and weights; off: channels_last
    features: bool = True  # networks return the features of all stages
    meters: bool = True  # loss.item() before backward, top-1 and top-5 accuracies of each batch
    small_evaluation: bool = True  # evaluation in batches of half the batch size


@dataclass(frozen=True)
class Job:
    """One run of the usual loop. Picklable, so that it can be done in a spawned process."""

    cfg: Config
    traits: Traits = Traits()
    workers: int = 0  # of the DataLoader; what is best depends on the machine
    threads: int | None = None  # None: all
    device: str = "cpu"
    train: int | None = None  # images; None: all of the long-tailed draw
    test: int | None = None
    random: bool = False  # random images even where the real ones are


class Staged(nn.Module):
    """A network of kdlib that returns its features, then its logits.

    Features are those after the first layer, after each stage, and averaged."""

    def __init__(self, network):
        super().__init__()
        self.network, self.stage = network, len(network.blocks) // 3

    def forward(self, x):
        net = self.network
        features = [F.relu(net.bn(net.conv(x)))]
        for start in range(0, len(net.blocks), self.stage):
            features.append(net.blocks[start : start + self.stage](features[-1]))
        features.append(features[-1].mean(dim=(2, 3)))
        return [*features, net.linear(features[-1])]


class Meter:
    """Mean of what it was told, weighted by the number of examples."""

    def __init__(self):
        self.total = self.n = 0

    def update(self, value, n):
        self.total, self.n = self.total + value * n, self.n + n

    def mean(self):
        return self.total / self.n


def top_k(logits, y, ks=(1, 5)):
    """Accuracies in percent among the k largest logits, as floats: each waits for the device."""
    hit = logits.topk(max(ks), dim=1).indices == y[:, None]
    return [100 * hit[:, :k].any(dim=1).float().mean().item() for k in ks]


# ---------------------------------------------------------------- batches


class Pictures(torch.utils.data.Dataset):
    """Images of a split as PIL sees them, each transformed by itself.

    An item is (image (3, H, W), y, index)."""

    def __init__(self, split, transform):
        self.x, self.y, self.transform = split.x.cpu().numpy(), split.y.tolist(), transform

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.x[index])), self.y[index], index


def pictures(split, data, augment):
    """The Pictures of a split of data, randomly cropped and flipped or as they are."""
    # here: a machine without torchvision can still run without the loader
    from torchvision import transforms as T

    steps = [T.ToTensor(), T.Normalize(data.mean, data.std)]
    if augment and data.pad:
        crop = T.RandomCrop(split.x.shape[1], padding=data.pad)
        steps = [crop, T.RandomHorizontalFlip(), *steps]
    return Pictures(split, T.Compose(steps))


def loader(dataset, batch_size, workers, device, order=None):
    """A DataLoader over the dataset in the given order.

    It forks its workers when iterated, and joins them at the end."""
    return torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=order,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None,
    )


def training_batches(data, cfg, epoch, traits, workers, dataset, x, device):
    """Batches (images, y, index, view) of one epoch in the order of kdlib's schedule.

    The loader draws its own views, so its view is None."""
    order, views = schedule(cfg.seed, epoch, len(data.train), data.views)
    if traits.loader:
        for images, y, index in loader(dataset, cfg.batch_size, workers, device, order.tolist()):
            yield images.to(device, non_blocking=True), y.to(device, non_blocking=True), index, None
        return
    batches = (t.to(device).split(cfg.batch_size) for t in (order, views))
    for index, view in zip(*batches, strict=True):
        images = normalise(crop_and_flip(x, index, view, data.pad), data)
        yield images, data.train.y[index], index, view


def evaluation_batches(data, batch_size, traits, workers, dataset, device):
    """Batches (images, y) of data.test in order."""
    if traits.loader:
        for images, y, _ in loader(dataset, batch_size, workers, device):
            yield images.to(device, non_blocking=True), y.to(device, non_blocking=True)
        return
    for images, y in zip(data.test.x.split(batch_size), data.test.y.split(batch_size), strict=True):
        yield normalise(images, data), y


# ---------------------------------------------------------------- the loop


def distillation_loss(logits, teacher_logits, y, cfg):
    """Mean of the batch: cross-entropy; with a teacher, also T^2 KL of the softened outputs."""
    cross_entropy = F.cross_entropy(logits, y)
    if teacher_logits is None:
        return cross_entropy
    t = cfg.temperature
    ours, theirs = F.log_softmax(logits / t, dim=1), F.softmax(teacher_logits / t, dim=1)
    kl = F.kl_div(ours, theirs, reduction="batchmean")
    return (1 - cfg.alpha) * cross_entropy + cfg.alpha * t**2 * kl


def train(model, data, cfg, traits=Traits(), teacher=None, table=None, workers=0, after_epoch=None):
    """Train `model` in place on data.train: top-1 accuracy on data.test per epoch, in percent.

    teacher: a network, used if traits.teacher_each_step; else table(images, index, view) -> logits.
    workers: of the loader. after_epoch(): called at the end of each. The weights are left in the
    memory format of the traits. ValueError for a table with the loader."""
    if table and traits.loader and not traits.teacher_each_step and data.views > 1:
        raise ValueError("a table needs to know the views, which the loader draws by itself")
    device = data.train.x.device
    layout = torch.contiguous_format if traits.nchw else torch.channels_last
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # usual, and to its advantage
    student = Staged(model) if traits.features else model
    student.to(memory_format=layout)
    ask = asked(teacher, table, traits, layout)
    x, datasets = padded(data.train.x, data.pad), (None, None)
    if traits.loader:
        x, datasets = None, (pictures(data.train, data, True), pictures(data.test, data, False))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=cfg.lr, momentum=MOMENTUM, weight_decay=cfg.weight_decay
    )
    steps_per_epoch, accuracies = -(-len(data.train) // cfg.batch_size), []
    for epoch in range(cfg.epochs):
        student.train()
        rate = learning_rate(cfg, epoch * steps_per_epoch, steps_per_epoch)
        optimizer.param_groups[0]["lr"] = rate
        losses, top1, top5 = Meter(), Meter(), Meter()
        batches = training_batches(data, cfg, epoch, traits, workers, datasets[0], x, device)
        for images, y, index, view in batches:
            images = images.contiguous(memory_format=layout)
            teacher_logits = ask(images, index, view)
            outputs = student(images)
            logits = outputs[-1] if traits.features else outputs
            loss = distillation_loss(logits, teacher_logits, y, cfg)
            if traits.meters:
                losses.update(loss.item(), len(y))
                for meter, accuracy in zip((top1, top5), top_k(logits.detach(), y), strict=True):
                    meter.update(accuracy, len(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies.append(evaluate(student, data, cfg, traits, workers, datasets[1], layout))
        if after_epoch:
            after_epoch()
    return accuracies


def asked(teacher, table, traits, layout):
    """ask(images, index, view) -> the teacher's logits, from its network or table; else None."""
    if teacher is None and table is None:
        return lambda images, index, view: None
    if not traits.teacher_each_step:
        return table
    network = copy.deepcopy(teacher).eval() if traits.unfolded else folded(teacher)
    network = (Staged(network) if traits.features else network).to(memory_format=layout)

    @torch.no_grad()
    def ask(images, index, view):
        outputs = network(images)
        return outputs[-1] if traits.features else outputs

    return ask


@torch.no_grad()
def evaluate(student, data, cfg, traits, workers, dataset, layout):
    """Top-1 accuracy on data.test, in percent."""
    student.eval()
    device = data.train.x.device
    batch_size = cfg.batch_size // 2 if traits.small_evaluation else EVALUATION_BATCH[device.type]
    losses, top1, top5, right = Meter(), Meter(), Meter(), []
    for images, y in evaluation_batches(data, batch_size, traits, workers, dataset, device):
        outputs = student(images.contiguous(memory_format=layout))
        logits = outputs[-1] if traits.features else outputs
        if traits.meters:
            losses.update(F.cross_entropy(logits, y).item(), len(y))
            for meter, accuracy in zip((top1, top5), top_k(logits, y), strict=True):
                meter.update(accuracy, len(y))
        else:
            right.append(logits.argmax(dim=1) == y)
    return top1.mean() if traits.meters else 100 * torch.cat(right).double().mean().item()


# ---------------------------------------------------------------- in a process of its own


def run(job):
    """Do a Job: {"seconds": [...], "accuracy": [...], "images": which, "n": how many}.

    Seconds of each epoch with its evaluation; accuracy: top-1 in percent after each."""
    if job.threads:
        torch.set_num_threads(job.threads)
    data, what = inputs.images(job.train, job.test, job.random)
    data = data.to(job.device)
    model = build(job.cfg.student, data.classes, job.cfg.seed).to(job.device)
    teacher = inputs.teacher_network(job.cfg.teacher, data) if job.cfg.teacher else None
    clock = [now(job.device)]

    def tick():
        clock.append(now(job.device))

    how = {"teacher": teacher, "workers": job.workers, "after_epoch": tick}
    accuracies = train(model, data, job.cfg, job.traits, **how)
    seconds = [after - before for before, after in zip(clock, clock[1:], strict=False)]
    return {"seconds": seconds, "accuracy": accuracies, "images": what, "n": len(data.train)}


def now(device):
    """Seconds on a clock that all processes share, when the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def main(arguments=None):
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.peer", description=about)
    habits = [f.name for f in dataclasses.fields(Traits)]
    add = parser.add_argument
    add("--student", default="resnet8")
    add("--teacher", help="none: train on labels only")
    add("--epochs", type=int, default=1)
    add("--without", nargs="*", default=[], choices=habits, help="habits to give up")
    add("--workers", type=int, default=2)
    add("--threads", type=int)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--train", type=int, help="number of training images; default: all")
    add("--test", type=int, help="number of test images; default: all")
    add("--random", action="store_true", help="random images")
    given = vars(parser.parse_args(arguments))
    cfg = inputs.config(given.pop("student"), given.pop("teacher"), given.pop("epochs"))
    traits = Traits(**dict.fromkeys(given.pop("without"), False))
    print(json.dumps(run(Job(cfg, traits, **given))))


if __name__ == "__main__":
    main()
