"""What is there before training begins: the images as batches, and the teacher with its margins."""

import hashlib
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from kdlib.config import FOLDS, KdlibError, count_of
from kdlib.data import Split, fold_of
from kdlib.distilling import processes
from kdlib.distilling.networks import Renormalised
from kdlib.distilling.splits import PARTS
from kdlib.distilling.views import PAD, OwnData, Pictures, in_memory
from kdlib.losses import label_margin
from kdlib.reading.sentences import listed, quoted
from kdlib.study.table_cache import free_memory
from kdlib.teacher import group_margins, near_chance

FIRST = 8  # images by which their size is judged
HELD = 2**31  # bytes of images that are held in memory at most, where their views are few


class Teacher(NamedTuple):
    """A trained network, and what it says of held-out images."""

    module: nn.Module  # takes images as students do
    sha256: str  # of its weights
    val: torch.Tensor  # (N_val, C) logits
    test: torch.Tensor
    said: tuple  # sentences on it


def data_of(listing, size, augment, mean, std, device, workers):
    """The OwnData of a Listing: in memory where views are few and the images fit, else Pictures."""
    splits = {}
    for name in PARTS:
        examples = getattr(listing, name)
        x = Pictures(examples, size, augment, workers)
        splits[name] = Split(x, *map(torch.from_numpy, (examples.y, examples.group)))
    images = sum(len(split) for split in splits.values())
    room = min(HELD, free_memory("cpu") // (4 * processes.local_count()))
    if augment != "resized" and images * size * size * 3 <= room:
        splits = {name: in_memory(split) for name, split in splits.items()}
    looks = {"mean": tuple(mean), "std": tuple(std), "pad": PAD if augment == "padded" else 0}
    names = {"class_names": listing.class_names, "group_names": listing.group_names}
    nothing = splits["test"][torch.arange(0)]
    data = OwnData(**splits, left_out=nothing, **names, **looks, augment=augment)
    return data.to(device)


def enlarged(examples, size):
    """A sentence, in a tuple, where the first images are far smaller than networks are shown."""
    sides = [max(examples.open(i).size) for i in range(min(FIRST, len(examples)))]
    if 2 * max(sides) > size:
        return ()
    return (
        f"--size {size}: the first {count_of(len(sides), 'image')} are at most {max(sides)} pixels "
        f"wide or high and will be enlarged; --size {max(sides)} takes less time and memory.",
    )


def repeated(listing, data):
    """Sentences on equal images in train and another split, or in several classes, by their pixels.

    None where images are not in memory."""
    if isinstance(data.train.x, Pictures):
        return []
    digests = {}
    classes = defaultdict(set)  # {digest of an image: its classes}
    for part in PARTS:
        split = getattr(data, part)
        digests[part] = [hashlib.sha256(image).digest() for image in split.x.cpu().numpy()]
        for digest, k in zip(digests[part], split.y.tolist(), strict=True):
            classes[digest].add(data.class_names[k])
    trained_on = set(digests["train"])
    said = []
    for part in PARTS[1:]:
        again = np.array([digest in trained_on for digest in digests[part]])
        if again.any():
            said.append(
                f"{count_of(int(again.sum()), f'{part} image')} of {len(again):,} "
                f"{'are' if again.sum() > 1 else 'is'} in train too (the first is "
                f"{quoted(getattr(listing, part).names[again][0])}), so results on {part} say too "
                "little about new images; keep each image in only one of train, val and test."
            )
    several = [names for names in classes.values() if len(names) > 1]
    if several:
        said.append(
            f"{count_of(len(several), 'image')} {'lie' if several[1:] else 'lies'} in more than "
            f"one class (the first in {listed(sorted(several[0]))})."
        )
    return said


def in_frame(module, data, mean, std):
    """A network whose images are normalised by (mean, std), as one that takes those of `data`."""
    return Renormalised(module, data.mean, data.std, mean, std).to(data.train.y.device).eval()


def asked(module, given, data, helps):
    """The Teacher of a Given whose module, in the frame of `data`, this is.

    KdlibError if it is near chance on val; helps: what may help then."""
    val, test = (processes.predicted(module, split.x, data) for split in (data.val, data.test))
    for logits in (val, test):
        if not logits.isfinite().all():
            raise KdlibError(
                "--teacher: its scores for held-out images are not finite numbers, so its weights "
                "are damaged, or it diverged in training."
            )
    y = data.val.y.cpu()
    right = (val.argmax(dim=1) == y).double()
    by_class = {k: right[y == k].mean().item() for k in y.unique().tolist()}
    accuracy = np.mean([*by_class.values()])
    least = min(by_class, key=by_class.get)
    chance = 1 / data.classes
    if near_chance(accuracy, data.classes):
        raise KdlibError(
            f"--teacher: is right in {100 * accuracy:.1f} % of the held-out images, mean over "
            f"{data.classes} classes, which is near chance ({100 * chance:.1f} %); {helps}."
        )
    how_often = (
        f"The teacher is right in {100 * right.mean().item():.1f} % of "
        f"{count_of(len(y), 'held-out image')}, least often in {data.class_names[least]} "
        f"({100 * by_class[least]:.1f} %); chance is {100 * chance:.1f} %."
    )
    return Teacher(module, given.sha256, val, test, (*given.said, how_often))


def margins_by_group(margins, group, names):
    """((G,) mean margin of each group in [0, 1], sentences); margins (N,), group (N,).

    A group without an example is given the mean of the others."""
    empty = torch.bincount(group, minlength=len(names)) == 0
    place = (~empty).cumsum(dim=0) - 1  # of each group among those with an example
    filled = group_margins(margins, place[group], range(int((~empty).sum())))
    mean = filled.mean().repeat(len(names))
    mean[~empty] = filled
    said = []
    if empty.any():
        first = names[int(empty.nonzero()[0])]
        said = [
            f"{count_of(int(empty.sum()), 'group')} without a held-out image (the first is "
            f"{first!r}): the teacher's margin there is taken to be the mean of the others."
        ]
    return mean, said


def margins(teacher, models, data, cfg):
    """((N,) margins of the teacher on val, or on train where it is a crossfit, in which models[k]
    scores the fold that it was not shown; (N,) the class or group of each, as they are looked up).
    """
    split, logits = data.val, teacher.val
    if cfg.margin_source == "crossfit":
        split = data.train
        logits = torch.zeros(len(data.train), data.classes)
        fold = fold_of(split.y.cpu())
        for k, model in enumerate(models):
            logits[fold == k] = processes.predicted(model, split[fold == k].x, data)
    y = split.y.cpu()
    of_each = label_margin(logits, y, cfg.margin_temperature, cfg.margin_kind)
    return of_each, y if cfg.margin_level == "class" else split.group.cpu()


def counts(examples, configs):
    """Numbers of images that networks are trained on: of all, and of all without each fold."""
    y = torch.from_numpy(examples.y)
    crossfit = any(cfg.margin_source == "crossfit" for cfg in configs)
    folds = range(FOLDS) if crossfit else ()
    return [len(y), *(int((fold_of(y) != k).sum()) for k in folds)]


def fingerprint(listing, data, size):
    """Hash of all that networks are shown: images, labels, groups, and how they are cut."""
    told = (listing.sha256(), data.mean, data.std, size, data.augment)
    return hashlib.sha256(repr(told).encode()).hexdigest()
