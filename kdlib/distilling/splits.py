"""Which images are train, val and test, where the data do not say it themselves. N images."""

import numpy as np

from kdlib.config import count_of
from kdlib.data import SPLIT_SEED, halves
from kdlib.reading.sentences import listed

PARTS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)  # places of these
# what they are called, in small letters
PART_OF = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


def dealt(y, part, seed):
    """((N,) int8 part of each image, how they were dealt in words).

    y: (N,) int64 classes. part: (N,) int8 of what the data say, all TRAIN where they say nothing.
    Of train and val, val is halved by a fixed seed, as the studies halve CIFAR's official test
    images; of train and test, a tenth of train becomes val; of train alone, 15 % each become val
    and test. All by class, at least one image each; of a class with too few, train comes first,
    then test, then val.
    """
    there = set(np.unique(part).tolist())
    if there == {TRAIN, VAL}:
        part = part.copy()
        val = np.flatnonzero(part == VAL)
        part[val[halves(y[val])[1]]] = TEST
        return part, "val was halved by class, by a fixed seed, into val and test"
    if there == {TRAIN, TEST}:
        drawn = _drawn(y, part, {VAL: 10}, seed)
        return drawn, f"a tenth of train, by class and by seed {seed}, became val"
    if there == {TRAIN}:
        drawn = _drawn(y, part, {TEST: 15, VAL: 15}, seed)
        return drawn, f"70, 15 and 15 % by class, by seed {seed}"
    return part, "as the data say"


def _drawn(y, part, percents, seed):
    """part, with so many percent of the training images of each class given to other parts.

    Each class draws for itself, so that images of one class do not move those of another."""
    part = part.copy()
    train = np.flatnonzero(part == TRAIN)
    train = train[np.argsort(y[train], kind="stable")]
    classes, starts = np.unique(y[train], return_index=True)
    for c, members in zip(classes.tolist(), np.split(train, starts[1:]), strict=True):
        drawn = np.random.default_rng((SPLIT_SEED, seed, c)).permutation(members)
        taken = 0
        for to, percent in percents.items():
            share = max(1, (len(members) * percent + 50) // 100)
            n = min(share, len(members) - 1 - taken)
            part[drawn[taken : taken + n]] = to
            taken += n
    return part


def counted(part):
    """How many images each part has, in words."""
    numbers = np.bincount(part, minlength=len(PARTS)).tolist()
    return ", ".join(f"{n:,} {name}" for n, name in zip(numbers, PARTS, strict=True))


def lacking(index, part, names, noun, several, parts=(VAL, TEST)):
    """Sentences on what some parts have no image of: classes or groups, index (N,) into names."""
    for k in parts:
        held = np.bincount(index[part == k], minlength=len(names))
        without = [names[c] for c in np.flatnonzero(held == 0)]
        if without:
            of = count_of(len(names), noun, several)
            yield f"{PARTS[k]} has no image of {len(without):,} of {of}: {listed(without)}."
