"""Data of a run: splits, long-tailed draws, and the schedule of views. Images stay uint8 until they are looked at."""

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from kdlib.config import FOLDS, KdlibError
from kdlib.readers import load_images

SPLIT_SEED = 20_106_494   # halves the official test set and the digits, once and for all


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order, on one device."""

    x: torch.Tensor       # (N, H, W, channels) uint8
    y: torch.Tensor       # (N,) int64, class
    group: torch.Tensor   # (N,) int64, subgroup; here the class

    def __len__(self):
        return len(self.y)

    def to(self, device):
        return Split(self.x.to(device), self.y.to(device), self.group.to(device))


@dataclass(frozen=True)
class Data:
    """What one run sees. `left_out`: images of the long-tail draw nobody trains on; test_plus is test and left_out."""

    train: Split
    val: Split
    test: Split
    left_out: Split
    class_names: tuple
    group_names: tuple
    mean: tuple           # per channel, of pixels in [0, 1]
    std: tuple
    pad: int              # zero padding of the random crop, in pixels; 0: no augmentation

    @property
    def views(self):
        """Number of equally likely views of an image: crop offsets times flip; 162 for pad 4."""
        return view_count(self.pad)

    @property
    def classes(self):
        return len(self.class_names)

    def splits(self):
        return {"train": self.train, "val": self.val, "test": self.test, "left_out": self.left_out}

    @property
    def val_half(self):
        """(N_val,) int64: 0 or 1, dealt out in turn within each group; to choose on one half and score on the other."""
        return dealt(self.val.group, 2)

    def sha256(self):
        """Hash of every pixel and label of the run's splits, in order."""
        digest = hashlib.sha256()
        for name, split in self.splits().items():
            digest.update(f"{name} {tuple(split.x.shape)}".encode())
            digest.update(split.x.cpu().contiguous().numpy())
            digest.update(split.y.cpu().numpy())
        return digest.hexdigest()

    def to(self, device):
        return replace(self, **{name: split.to(device) for name, split in self.splits().items()})


# ---------------------------------------------------------------- views and the schedule

def view_count(pad):
    """Views of an image under zero padding by `pad`, a crop back to its size, and a flip; 1 without padding."""
    return 2 * (2 * pad + 1) ** 2 if pad else 1


def schedule(seed, epoch, n, views):
    """The order of the images and the view of each in one epoch: ((n,), (n,)) int64 tensors.

    From a CPU generator, so the same on every device; shared by all methods of a seed."""
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(n)
    return torch.from_numpy(order), torch.from_numpy(generator.integers(views, size=n))


def padded(x, pad):
    """(N, H, W, C) uint8 -> (N, H + 2 pad, W + 2 pad, C), zeros around, before any normalising (as torchvision)."""
    return F.pad(x, (0, 0, pad, pad, pad, pad))


def crop_and_flip(x, index, view, pad):
    """Views of images: x (N, H + 2 pad, W + 2 pad, C) uint8, index (B,), view (B,) -> (B, H, W, C) uint8.

    view = flip * (2 pad + 1)^2 + top * (2 pad + 1) + left: torchvision's crop at (top, left), then its horizontal flip."""
    if not pad:
        return x[index]
    offsets = 2 * pad + 1
    height, width = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    flip, top, left = view // offsets**2, view // offsets % offsets, view % offsets
    row = torch.arange(height, device=x.device)
    column = torch.arange(width, device=x.device)
    rows = top[:, None] + row                                                          # (B, H)
    columns = left[:, None] + torch.where(flip[:, None] == 1, width - 1 - column, column)  # (B, W)
    return x[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(x, data):
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 in channels_last, by the data set's mean and std."""
    mean, scale = _statistics(data.mean, data.std, x.device)
    return ((x.float() - mean) * scale).permute(0, 3, 1, 2)


@functools.cache   # a captured step may not copy from the host
def _statistics(mean, std, device):
    return torch.tensor(mean, device=device) * 255, 1 / (torch.tensor(std, device=device) * 255)


# ---------------------------------------------------------------- long-tailed draws

def long_tail_counts(largest, imbalance, classes, profile="exp"):
    """Training images per rank, most frequent first: floor(largest * imbalance^(-k / (classes - 1))), or two steps.

    The formula of Cui et al. 2019 and Cao et al. 2019 (LDAM), whose published counts a test repeats."""
    if profile == "step":
        return [largest] * (classes // 2) + [int(largest / imbalance)] * (classes - classes // 2)
    return [int(largest * (1 / imbalance) ** (k / (classes - 1.0))) for k in range(classes)]


def long_tail_draw(y, largest, cfg, part=()):
    """Which images of a pool are trained on: indices into y (N,) as (drawn, the rest of each class's first `largest`, beyond).

    An integer draw_seed permutes the classes and the images of each class; None keeps both in canonical order. part: numbers
    that tell draws of one seed apart."""
    classes = int(y.max()) + 1
    counts = long_tail_counts(largest, cfg.imbalance, classes, cfg.profile)
    if counts[-1] < 1:
        raise KdlibError(f"Config field imbalance={cfg.imbalance}: the rarest class would be empty; "
                         f"at most {largest} for {cfg.dataset}.")
    generator = np.random.default_rng((cfg.draw_seed, *part) if part and cfg.draw_seed is not None else cfg.draw_seed)
    permute = np.asarray if cfg.draw_seed is None else generator.permutation
    drawn, rest, beyond = [], [], []
    rank_of = np.argsort(permute(np.arange(classes)))   # the k-th class of the permuted order has rank k
    for c in range(classes):
        images = permute(np.flatnonzero(y == c))
        n = counts[rank_of[c]]
        drawn.append(images[:n])
        rest.append(images[n:largest])
        beyond.append(images[largest:])
    return tuple(np.sort(np.concatenate(part)) for part in (drawn, rest, beyond))


def halves(y, seed=SPLIT_SEED):
    """Indices of two halves of y (N,), stratified by class, by a fixed seed."""
    generator = np.random.default_rng(seed)
    first = np.concatenate([np.sort(generator.permutation(np.flatnonzero(y == c))[: (y == c).sum() // 2])
                            for c in range(int(y.max()) + 1)])
    return first, np.setdiff1d(np.arange(len(y)), first)


def _split(x, y, group=None):
    y, group = (torch.from_numpy(np.ascontiguousarray(v, dtype=np.int64)) for v in (y, y if group is None else group))
    return Split(torch.from_numpy(np.ascontiguousarray(x)), y, group)


def shuffled_labels(y, share, seed):
    """Label noise: a random `share` of the labels y (N,), shuffled among themselves, so that class sizes stay."""
    generator, noisy = np.random.default_rng((seed or 0, SPLIT_SEED)), y.copy()   # no epoch's stream; see schedule
    chosen = generator.permutation(len(y))[: round(share * len(y))]
    noisy[chosen] = y[generator.permutation(chosen)]
    return noisy


def _leave_fold_out(split, fold):
    """The split without one of FOLDS folds, stratified by class in order; unchanged for fold None."""
    if fold is None:
        return split
    keep = fold_of(split.y) != fold
    return Split(split.x[keep], split.y[keep], split.group[keep])


def with_val(data):
    """The Data with val among its training images too, after those of the draw; val itself stays what it was."""
    joined = (
        torch.cat([getattr(data.train, name), getattr(data.val, name)])
        for name in ("x", "y", "group")
    )
    return replace(data, train=Split(*joined))


def fold_of(y):
    """Fold of each example: (N,) int64 in [0, FOLDS), dealt out in turn within each class."""
    return dealt(y, FOLDS)


def dealt(y, hands):
    """(N,) int64 in [0, hands), dealt out in turn within each value of y."""
    out = torch.empty_like(y)
    for c in y.unique():
        members = y == c
        out[members] = torch.arange(int(members.sum()), device=y.device) % hands
    return out


# ---------------------------------------------------------------- data sets

def digits(cfg, data=None):
    """scikit-learn's 1,797 digits: per class 50 test, 24 val, up to 100 to draw from; what is left goes to left_out."""
    from sklearn.datasets import load_digits
    raw = load_digits()
    x, y = (raw.images * 15).astype(np.uint8)[..., None], raw.target
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    by_class = [np.sort(shuffled[y[shuffled] == c][:74]) for c in range(10)]
    held = np.concatenate(by_class)
    test, val = _first_per_class(y, shuffled, 0, 50), _first_per_class(y, shuffled, 50, 74)
    pool = np.setdiff1d(np.arange(len(y)), held)
    drawn, rest, beyond = (pool[i] for i in long_tail_draw(y[pool], 100, cfg))
    left = np.sort(np.concatenate([rest, beyond]))
    names = tuple(str(d) for d in range(10))
    return _assemble(cfg, x, y, drawn, val, test, left, names, mean=(0.287,), std=(0.354,), pad=0)


def _first_per_class(y, order, start, stop):
    return np.sort(np.concatenate([order[y[order] == c][start:stop] for c in range(int(y.max()) + 1)]))


def _assemble(cfg, x, y, train, val, test, left_out, names, mean, std, pad, group=None, group_names=None):
    """Data of index arrays into x and y. Without groups of their own, the groups are the classes (as labelled)."""
    def split(of, labels):
        return _split(x[of], labels, None if group is None else group[of])

    drawn = split(train, shuffled_labels(y[train], cfg.label_noise, cfg.draw_seed))
    return Data(train=_leave_fold_out(drawn, cfg.fold), **{name: split(of, y[of]) for name, of in (
        ("val", val), ("test", test), ("left_out", left_out))}, class_names=names, group_names=group_names or names,
        mean=mean, std=std, pad=pad)


CIFAR100_STATISTICS = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def _cifar(cfg, data, name, largest, statistics):
    """The official training images to draw from; the official test set halved into val and test."""
    images = load_images(name, data)
    pool, official = np.flatnonzero(images.train), np.flatnonzero(~images.train)
    drawn, rest, beyond = (pool[i] for i in long_tail_draw(images.y[pool], largest, cfg))
    val, test = (official[i] for i in halves(images.y[official]))
    return _assemble(cfg, images.x, images.y, drawn, val, test, np.sort(np.concatenate([rest, beyond])), images.names,
                     **statistics, pad=4)


def cifar100(cfg, data=None):
    """CIFAR-100: up to 500 images a class to draw from."""
    return _cifar(cfg, data, "cifar100", 500, CIFAR100_STATISTICS)


def cifar10(cfg, data=None):
    """CIFAR-10: up to 5,000 images a class to draw from."""
    return _cifar(cfg, data, "cifar10", 5000, CIFAR10_STATISTICS)


def cifar20(cfg, data=None):
    """The alphabetically first fine class of each CIFAR-100 superclass: 400 a class to draw from, 100 more for val."""
    images = load_images("cifar100", data)
    coarse = np.array([images.coarse[images.y == c][0] for c in range(100)])
    chosen = np.sort([np.flatnonzero(coarse == s).min() for s in range(20)])
    ours = np.flatnonzero(np.isin(images.y, chosen))
    x, y = images.x[ours], np.searchsorted(chosen, images.y[ours])
    train = images.train[ours]
    pool, test = np.flatnonzero(train), np.flatnonzero(~train)
    drawn, rest, val = (pool[i] for i in long_tail_draw(y[pool], 400, cfg))
    return _assemble(cfg, x, y, drawn, val, test, rest, tuple(images.names[c] for c in chosen), **CIFAR100_STATISTICS, pad=4)


def superclass(cfg, data=None):
    """CIFAR-100 with its 20 superclasses as labels and its 100 fine classes as groups; a long tail inside each superclass."""
    images = load_images("cifar100", data)
    pool, official = np.flatnonzero(images.train), np.flatnonzero(~images.train)
    drawn, left = [], []
    for s in range(20):
        members = pool[images.coarse[pool] == s]
        inside = np.unique(images.y[members], return_inverse=True)[1]   # its fine classes, from 0
        chosen, rest, beyond = long_tail_draw(inside, 500, cfg, part=(s,))
        drawn.append(members[chosen])
        left += [members[rest], members[beyond]]
    val, test = (official[i] for i in halves(images.y[official]))
    return _assemble(cfg, images.x, images.coarse, np.sort(np.concatenate(drawn)), val, test, np.sort(np.concatenate(left)),
                     images.coarse_names, **CIFAR100_STATISTICS, pad=4, group=images.y, group_names=images.names)


DATASETS = {"digits": digits, "cifar20": cifar20, "cifar100": cifar100, "cifar10": cifar10, "superclass": superclass}
PUBLISHED = {"cifar20": "cifar100", "cifar100": "cifar100", "cifar10": "cifar10", "superclass": "cifar100"}   # whose images


def load(cfg, data=None):
    """The Data of a Config. `data`: folder to look in first, or Images; see readers.load_images."""
    loaded = DATASETS[cfg.dataset](cfg, data)
    return with_val(loaded) if cfg.with_val else loaded
