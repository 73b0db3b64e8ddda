"""The data sets of the studies, dealt into train, val, test and left_out; see data/README.md."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from kdlib.data import SPLIT_SEED, Data, Split, dealt, fold_of, halves, long_tail_draw
from kdlib.study.adult import GROUPS, INCOMES, load_table
from kdlib.study.cifar import load_images

CIFAR100_STATISTICS = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def load(cfg, folder=None):
    """The Data of a Config; folder: where to look for CIFAR, see cifar.find."""
    loaded = DATASETS[cfg.dataset](cfg, folder)
    return with_val(loaded) if cfg.with_val else loaded


def with_val(data):
    """The Data with val among its training images too, after those of the draw; val stays."""
    both = (data.train, data.val)
    x, y, group = (torch.cat([getattr(s, name) for s in both]) for name in ("x", "y", "group"))
    return replace(data, train=Split(x, y, group))


def shuffled_labels(y, share, seed):
    """Label noise: a random `share` of the labels y (N,) shuffled among themselves.

    Class sizes stay as they are."""
    generator = np.random.default_rng((seed or 0, SPLIT_SEED))  # no epoch's stream; see schedule
    chosen = generator.permutation(len(y))[: round(share * len(y))]
    noisy = y.copy()
    noisy[chosen] = y[generator.permutation(chosen)]
    return noisy


def _data(cfg, x, y, deal, names, group=None, group_names=None, **looks):
    """Data of images x (N, 32, 32, C), or rows of a table (N, columns), and labels y (N,).

    deal: indices into them, by split; each split is given its own. The groups are the classes
    unless given. The labels of train get their noise, then a fold is left out of it. looks: mean,
    std and pad."""
    splits = {}
    for name, of in deal.items():
        labels = (
            shuffled_labels(y[of], cfg.label_noise, cfg.draw_seed) if name == "train" else y[of]
        )
        groups = labels if group is None else group[of]
        splits[name] = Split(torch.from_numpy(x[of]), _int64(labels), _int64(groups))
    if cfg.fold is not None:
        train = splits["train"]
        splits["train"] = train[fold_of(train.y) != cfg.fold]
    return Data(**splits, class_names=names, group_names=group_names or names, **looks)


def _int64(values):
    return torch.from_numpy(values.astype(np.int64))


def _joined(indices):
    return np.sort(np.concatenate(indices))


def digits(cfg, folder=None):
    """scikit-learn's 1,797 digits: 50 of a class for test, 24 for val, up to 100 to draw from.

    What is left goes to left_out."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = (raw.images * 15).astype(np.uint8)[..., None]
    y = raw.target
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    by_class = [shuffled[y[shuffled] == c] for c in range(10)]
    test, val = _joined([of[:50] for of in by_class]), _joined([of[50:74] for of in by_class])
    pool = np.setdiff1d(np.arange(len(y)), [*test, *val])
    drawn, rest, beyond = (pool[i] for i in long_tail_draw(y[pool], 100, cfg))
    deal = {"train": drawn, "val": val, "test": test, "left_out": _joined([rest, beyond])}
    names = tuple(str(d) for d in range(10))
    return _data(cfg, x, y, deal, names, mean=(0.287,), std=(0.354,), pad=0)


def _cifar(name, largest, statistics, cfg, folder=None):
    """Up to `largest` official training images a class to draw from; halves of the official test
    set for val and test."""
    images = load_images(name, folder)
    pool, official = np.flatnonzero(images.train), np.flatnonzero(~images.train)
    drawn, rest, beyond = (pool[i] for i in long_tail_draw(images.y[pool], largest, cfg))
    val, test = (official[i] for i in halves(images.y[official]))
    deal = {"train": drawn, "val": val, "test": test, "left_out": _joined([rest, beyond])}
    return _data(cfg, images.x, images.y, deal, images.names, **statistics, pad=4)


def cifar20(cfg, folder=None):
    """The alphabetically first fine class of each superclass of CIFAR-100.

    400 images of a class to draw from, 100 more for val; the official test images for test."""
    images = load_images("cifar100", folder)
    chosen = np.sort([images.y[images.coarse == s].min() for s in range(20)])
    ours = np.isin(images.y, chosen)
    pool, test = np.flatnonzero(ours & images.train), np.flatnonzero(ours & ~images.train)
    y = np.searchsorted(chosen, images.y)
    drawn, rest, val = (pool[i] for i in long_tail_draw(y[pool], 400, cfg))
    deal = {"train": drawn, "val": val, "test": test, "left_out": rest}
    names = tuple(images.names[c] for c in chosen)
    return _data(cfg, images.x, y, deal, names, **CIFAR100_STATISTICS, pad=4)


def _superclass(largest, superclasses, cfg, folder=None):
    """The first superclasses of CIFAR-100 as labels, their fine classes as groups.

    Inside each superclass there is a long tail, from up to `largest` images of a fine class."""
    images = load_images("cifar100", folder)
    ours = images.coarse < superclasses
    pool, official = np.flatnonzero(images.train & ours), np.flatnonzero(~images.train & ours)
    drawn, left = [], []
    for s in range(superclasses):
        members = pool[images.coarse[pool] == s]
        inside = np.unique(images.y[members], return_inverse=True)[1]  # its fine classes, from 0
        chosen, rest, beyond = long_tail_draw(inside, largest, cfg, part=(s,))
        drawn.append(members[chosen])
        left += [members[rest], members[beyond]]
    val, test = (official[i] for i in halves(images.y[official]))
    deal = {"train": _joined(drawn), "val": val, "test": test, "left_out": _joined(left)}
    fine = np.unique(images.y[pool])
    group = np.searchsorted(fine, images.y)
    groups = {"group": group, "group_names": tuple(images.names[c] for c in fine)}
    names = images.coarse_names[:superclasses]
    return _data(cfg, images.x, images.coarse, deal, names, **groups, **CIFAR100_STATISTICS, pad=4)


def adult(cfg, folder=None):
    """Incomes of a US survey of 1994; groups are race and sex. The published test part is test.

    Val is a fifth of the published training part, dealt within each group and label."""
    table = load_table(folder)
    cell = table.group * len(INCOMES) + table.y
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(table.train))
    last_fifth = dealt(_int64(cell[shuffled]), 5).numpy() == 4
    train, val = np.sort(shuffled[~last_fifth]), np.sort(shuffled[last_fifth])
    test = np.flatnonzero(~table.train)
    deal = {"train": train, "val": val, "test": test, "left_out": test[:0]}
    groups = {"group": table.group, "group_names": GROUPS}
    return _data(cfg, table.encoded(train), table.y, deal, INCOMES, **groups)


DATASETS = {
    "digits": digits,
    "cifar20": cifar20,
    "cifar100": partial(_cifar, "cifar100", 500, CIFAR100_STATISTICS),
    "cifar10": partial(_cifar, "cifar10", 5000, CIFAR10_STATISTICS),
    "superclass": partial(_superclass, 500, 20),
    "superclass_small": partial(_superclass, 50, 10),
    "adult": adult,
}
