"""The data sets of the studies, dealt into train, val, test and left_out; see data/README.md."""

from dataclasses import replace

import numpy as np
import torch

from kdlib.data import SPLIT_SEED, Data, Split, fold_of, halves, long_tail_draw
from kdlib.study.readers import load_images

CIFAR100_STATISTICS = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def digits(cfg, data=None):
    """scikit-learn's 1,797 digits: 50 of a class for test, 24 for val, up to 100 to draw from.

    What is left goes to left_out."""
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
    looks = {"mean": (0.287,), "std": (0.354,), "pad": 0}
    return _assemble(cfg, x, y, names, drawn, val, test, left, **looks)


def _split(x, y, group=None):
    x, y = torch.from_numpy(np.ascontiguousarray(x)), _int64(y)
    return Split(x, y, y if group is None else _int64(group))


def _int64(values):
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


def shuffled_labels(y, share, seed):
    """Label noise: a random `share` of the labels y (N,) shuffled among themselves.

    Class sizes stay as they are."""
    generator = np.random.default_rng((seed or 0, SPLIT_SEED))  # no epoch's stream; see schedule
    chosen, noisy = generator.permutation(len(y))[: round(share * len(y))], y.copy()
    noisy[chosen] = y[generator.permutation(chosen)]
    return noisy


def _leave_fold_out(split, fold):
    """The split without one of the folds, which are stratified by class; None: all of it."""
    if fold is None:
        return split
    keep = fold_of(split.y) != fold
    return Split(split.x[keep], split.y[keep], split.group[keep])


def with_val(data):
    """The Data with val among its training images too, after those of the draw; val stays."""
    both = (data.train, data.val)
    x, y, group = (torch.cat([getattr(s, name) for s in both]) for name in ("x", "y", "group"))
    return replace(data, train=Split(x, y, group))


def _first_per_class(y, order, start, stop):
    members = [order[y[order] == c][start:stop] for c in range(int(y.max()) + 1)]
    return np.sort(np.concatenate(members))


def _assemble(cfg, x, y, names, train, val, test, left_out, group=None, group_names=None, **looks):
    """Data of index arrays into x and y. Without groups of their own, the classes are the groups.

    looks: mean, std and pad of the Data."""

    def split(of, labels):
        return _split(x[of], labels, None if group is None else group[of])

    drawn = split(train, shuffled_labels(y[train], cfg.label_noise, cfg.draw_seed))
    held = {"val": val, "test": test, "left_out": left_out}
    return Data(
        train=_leave_fold_out(drawn, cfg.fold),
        **{name: split(of, y[of]) for name, of in held.items()},
        class_names=names,
        group_names=group_names or names,
        **looks,
    )


def _cifar(cfg, data, name, largest, statistics):
    """The official training images to draw from; the official test set halved into val and test."""
    images = load_images(name, data)
    pool, official = np.flatnonzero(images.train), np.flatnonzero(~images.train)
    drawn, rest, beyond = (pool[i] for i in long_tail_draw(images.y[pool], largest, cfg))
    val, test = (official[i] for i in halves(images.y[official]))
    left = np.sort(np.concatenate([rest, beyond]))
    deal = (drawn, val, test, left)
    return _assemble(cfg, images.x, images.y, images.names, *deal, **statistics, pad=4)


def cifar100(cfg, data=None):
    """CIFAR-100: up to 500 images a class to draw from."""
    return _cifar(cfg, data, "cifar100", 500, CIFAR100_STATISTICS)


def cifar10(cfg, data=None):
    """CIFAR-10: up to 5,000 images a class to draw from."""
    return _cifar(cfg, data, "cifar10", 5000, CIFAR10_STATISTICS)


def cifar20(cfg, data=None):
    """The alphabetically first fine class of each superclass of CIFAR-100.

    400 images of a class to draw from, 100 more for val; the official test images for test."""
    images = load_images("cifar100", data)
    coarse = np.array([images.coarse[images.y == c][0] for c in range(100)])
    chosen = np.sort([np.flatnonzero(coarse == s).min() for s in range(20)])
    ours = np.flatnonzero(np.isin(images.y, chosen))
    x, y = images.x[ours], np.searchsorted(chosen, images.y[ours])
    train = images.train[ours]
    pool, test = np.flatnonzero(train), np.flatnonzero(~train)
    drawn, rest, val = (pool[i] for i in long_tail_draw(y[pool], 400, cfg))
    names = tuple(images.names[c] for c in chosen)
    return _assemble(cfg, x, y, names, drawn, val, test, rest, **CIFAR100_STATISTICS, pad=4)


def superclass(cfg, data=None):
    """CIFAR-100 with its 20 superclasses as labels and its 100 fine classes as groups.

    Inside each superclass there is a long tail."""
    images = load_images("cifar100", data)
    pool, official = np.flatnonzero(images.train), np.flatnonzero(~images.train)
    drawn, left = [], []
    for s in range(20):
        members = pool[images.coarse[pool] == s]
        inside = np.unique(images.y[members], return_inverse=True)[1]  # its fine classes, from 0
        chosen, rest, beyond = long_tail_draw(inside, 500, cfg, part=(s,))
        drawn.append(members[chosen])
        left += [members[rest], members[beyond]]
    val, test = (official[i] for i in halves(images.y[official]))
    drawn, left = (np.sort(np.concatenate(some)) for some in (drawn, left))
    groups = {"group": images.y, "group_names": images.names}
    deal = (images.coarse_names, drawn, val, test, left)
    return _assemble(cfg, images.x, images.coarse, *deal, **groups, **CIFAR100_STATISTICS, pad=4)


DATASETS = {
    "digits": digits,
    "cifar20": cifar20,
    "cifar100": cifar100,
    "cifar10": cifar10,
    "superclass": superclass,
}


def load(cfg, data=None):
    """The Data of a Config. `data`: folder to look in first, or Images; see readers.load_images."""
    loaded = DATASETS[cfg.dataset](cfg, data)
    return with_val(loaded) if cfg.with_val else loaded
