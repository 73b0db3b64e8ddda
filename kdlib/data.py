"""Data of a run: splits, long-tailed draws, and the schedule of views.

Images stay uint8 until they are looked at; rows of a table have one view, as they are."""

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from kdlib.config import FOLDS, KdlibError

SPLIT_SEED = 20_106_494  # halves the official test set and the digits, once and for all


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order, on one device."""

    x: torch.Tensor  # (N, H, W, channels) uint8; of a table (N, columns) float32, encoded
    y: torch.Tensor  # (N,) int64, class
    group: torch.Tensor  # (N,) int64, subgroup; mostly the class

    def __len__(self):
        return len(self.y)

    def __getitem__(self, rows):
        """The Split of some rows: a slice, numbers or a mask."""
        return Split(self.x[rows], self.y[rows], self.group[rows])

    def to(self, device):
        return Split(self.x.to(device), self.y.to(device), self.group.to(device))


@dataclass(frozen=True)
class Data:
    """What one run sees."""

    train: Split
    val: Split
    test: Split
    left_out: Split  # images of the long-tail draw nobody trains on; test_plus is test and left_out
    class_names: tuple
    group_names: tuple
    mean: tuple = ()  # per channel, of pixels in [0, 1]; rows of a table are encoded already
    std: tuple = ()
    pad: int = 0  # zero padding of the random crop, in pixels; 0: no augmentation

    @property
    def views(self):
        """Number of equally likely views of an image."""
        return view_count(self.pad)

    @property
    def classes(self):
        return len(self.class_names)

    @property
    def val_half(self):
        """(N_val,) int64, 0 or 1: halves of each group, to choose on one and score on the other."""
        return dealt(self.val.group, 2)

    def splits(self):
        return {"train": self.train, "val": self.val, "test": self.test, "left_out": self.left_out}

    def to(self, device):
        return replace(self, **{name: split.to(device) for name, split in self.splits().items()})

    def sha256(self):
        """Hash of every pixel and label of the run's splits, in order."""
        digest = hashlib.sha256()
        for name, split in self.splits().items():
            digest.update(f"{name} {tuple(split.x.shape)}".encode())
            digest.update(split.x.cpu().contiguous().numpy())
            digest.update(split.y.cpu().numpy())
        return digest.hexdigest()


def view_count(pad):
    """Views of an image: crop offsets under zero padding by `pad`, times flip; 162 for pad 4."""
    return 2 * (2 * pad + 1) ** 2 if pad else 1


def schedule(seed, epoch, n, views):
    """The order of the images and the view of each in one epoch: ((n,), (n,)) int64 tensors.
    From a CPU generator, so the same on every device; shared by all methods of a seed."""
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(n)
    return torch.from_numpy(order), torch.from_numpy(generator.integers(views, size=n))


def padded(x, pad):
    """(N, H, W, C) uint8 -> (N, H + 2 pad, W + 2 pad, C): zeros around, as torchvision does."""
    if not pad:
        return x
    return F.pad(x, (0, 0, pad, pad, pad, pad))


def crop_and_flip(x, index, view, pad):
    """Views of padded images x (N, H + 2 pad, W + 2 pad, C) -> (B, H, W, C), all uint8.

    index (B,) says which images, view (B,) which views: flip * (2 pad + 1)^2 + top * (2 pad + 1)
    + left is torchvision's crop at (top, left), then its horizontal flip."""
    if not pad:
        return x[index]
    offsets = 2 * pad + 1
    height, width = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    flip, top, left = view // offsets**2, view // offsets % offsets, view % offsets
    row = torch.arange(height, device=x.device)
    column = torch.arange(width, device=x.device)
    rows = top[:, None] + row  # (B, H)
    columns = left[:, None] + torch.where(flip[:, None] == 1, width - 1 - column, column)  # (B, W)
    return x[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(x, data):
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 in channels_last, by mean and std of the data.
    Rows of a table, (B, columns), are returned as they are."""
    if x.ndim == 2:
        return x
    mean, scale = _statistics(data.mean, data.std, x.device)
    return ((x.float() - mean) * scale).permute(0, 3, 1, 2)


@functools.cache  # a captured step may not copy from the host
def _statistics(mean, std, device):
    return torch.tensor(mean, device=device) * 255, 1 / (torch.tensor(std, device=device) * 255)


def long_tail_counts(largest, imbalance, classes, profile="exp"):
    """Training images of each class, most frequent first.

    "exp": floor(largest * imbalance^(-k / (classes - 1))), the formula of Cui et al. 2019 and Cao
    et al. 2019 (LDAM), whose published counts a test repeats. "step": two halves."""
    if profile == "step":
        return [largest] * (classes // 2) + [int(largest / imbalance)] * (classes - classes // 2)
    return [int(largest * (1 / imbalance) ** (k / (classes - 1.0))) for k in range(classes)]


def long_tail_draw(y, largest, cfg, part=()):
    """Which images of a pool are trained on: indices into the labels y (N,).

    Returns (drawn, the rest of each class's first `largest`, beyond). An integer draw_seed permutes
    the classes and the images of each class; None keeps both in canonical order.
    part: numbers that tell draws of one seed apart."""
    classes = int(y.max()) + 1
    counts = long_tail_counts(largest, cfg.imbalance, classes, cfg.profile)
    if counts[-1] < 1:
        raise KdlibError(
            f"Config field imbalance={cfg.imbalance}: the rarest class would be empty; "
            f"at most {largest} for {cfg.dataset}."
        )
    permute = np.asarray
    if cfg.draw_seed is not None:
        seed = (cfg.draw_seed, *part) if part else cfg.draw_seed
        permute = np.random.default_rng(seed).permutation
    rank_of = np.argsort(permute(np.arange(classes)))  # 0 for the first class in permuted order
    drawn, rest, beyond = [], [], []
    for c in range(classes):
        images = permute(np.flatnonzero(y == c))
        n = counts[rank_of[c]]
        drawn.append(images[:n])
        rest.append(images[n:largest])
        beyond.append(images[largest:])
    return tuple(np.sort(np.concatenate(images)) for images in (drawn, rest, beyond))


def halves(y):
    """Indices of two halves of y (N,), stratified by class, by a fixed seed."""
    generator = np.random.default_rng(SPLIT_SEED)
    first = []
    for c in range(int(y.max()) + 1):
        members = generator.permutation(np.flatnonzero(y == c))
        first.append(np.sort(members[: len(members) // 2]))
    first = np.concatenate(first)
    return first, np.setdiff1d(np.arange(len(y)), first)


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
