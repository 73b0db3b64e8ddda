"""ImageNet-LT: the published lists of Liu et al. 2019, read over the usual folder of ImageNet.

"Large-scale long-tailed recognition in an open world": 115,846 training images with 5 to 1,280 of a
class; val are other images of ImageNet's train, test its official val. ImageNet itself is what
listing.listing reads: a folder with train and val, and in each a folder for each class.
"""

import os
from pathlib import Path

import numpy as np

from kdlib.config import count_of
from kdlib.distilling.examples import Files
from kdlib.distilling.listing import finished
from kdlib.distilling.sources import Found
from kdlib.distilling.splits import PARTS
from kdlib.reading.sentences import AuditError, quoted, reason, repeated

MANY, FEW = 100, 20  # training images of a class: above MANY many, below FEW few, else medium
PUBLISHED = {
    "training images": 115_846,
    "val images": 20_000,
    "test images": 50_000,
    "classes": 1000,
    "training images of the largest class": 1280,
    "training images of the smallest class": 5,
    "classes with many images (> 100)": 385,
    "classes with a medium number of images (20 to 100)": 479,
    "classes with few images (< 20)": 136,
}


def imagenet_lt(folder, lists=None, groups=None, skip_corrupt=False, say=None):
    """The Listing of ImageNet-LT; its classes are called like their folders, as n01440764.

    folder: ImageNet's, with train/n01440764/... and val/n01440764/...
    lists: the folder with ImageNet_LT_train.txt, _val.txt and _test.txt; by default `folder`.
    groups, skip_corrupt, say: as of listing.listing. KdlibError for lists whose counts are not the
    published ones, for lines that contradict each other, and for images that are not there.
    """
    folder = Path(folder).expanduser()
    files = [Path(lists or folder).expanduser() / f"ImageNet_LT_{name}.txt" for name in PARTS]
    held = [_lines_of(file) for file in files]
    names = [path for paths, _ in held for path in paths]
    y = np.concatenate([labels for _, labels in held])
    part = np.repeat(np.arange(len(PARTS), dtype=np.int8), [len(paths) for paths, _ in held])
    where = files[0].parent
    _check_counts(where, y, part)
    class_names = _class_names(where, names, y)
    if (twice := repeated(names)) is not None:
        raise AuditError(f"{where}: {quoted(twice)} is in the lists of ImageNet-LT twice.")
    gone = [name for name in names if not os.path.isfile(f"{folder}/{name}")]
    if gone:
        raise AuditError(
            f"{folder}: lacks {count_of(len(gone), 'image')} of {len(names):,} that ImageNet-LT "
            f"lists, the first {quoted(gone[0])}."
        )
    said = f"{folder}: ImageNet-LT by the lists in {where}, whose counts are the published ones."
    names = np.array(names, dtype=str)
    found = Found(folder, names, y, part, class_names, Files(folder), said)
    return finished(found, groups, skip_corrupt=skip_corrupt, say=say)


def _lines_of(file):
    """(paths, (N,) int64 labels) of a list, in which each line is a path and a label."""
    paths, labels = [], []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{file}: cannot be read ({reason(error)}); the lists of ImageNet-LT are published at "
            "https://github.com/zhmiao/OpenLongTailRecognition-OLTR."
        ) from None
    for number, line in enumerate(lines, 1):
        path, _, label = line.strip().rpartition(" ")
        if path.count("/") < 2 or not label.isdecimal():
            raise AuditError(
                f"{file}: line {number} is {quoted(line)}, not a path and a label, as "
                "train/n01440764/n01440764_190.JPEG 0."
            )
        paths.append(path)
        labels.append(int(label))
    return paths, np.array(labels, dtype=np.int64)


def counts_of(y, part):
    """{what: number} of labels y (N,) and parts (N,), as PUBLISHED has them."""
    of_part = np.bincount(part, minlength=len(PARTS)).tolist()
    by_class = np.bincount(y[part == 0], minlength=1)
    many, few = by_class > MANY, by_class < FEW
    counts = (*of_part, len(np.unique(y)), by_class.max(), by_class.min())
    shots = (many.sum(), (~many & ~few).sum(), few.sum())
    return dict(zip(PUBLISHED, map(int, (*counts, *shots)), strict=True))


def _check_counts(where, y, part):
    """AuditError unless the counts of the lists are the published ones."""
    found = counts_of(y, part)
    differ = [what for what in PUBLISHED if found[what] != PUBLISHED[what]]
    if differ:
        what = differ[0]
        raise AuditError(
            f"{where}: the lists of ImageNet-LT have {found[what]:,} {what}, but "
            f"{PUBLISHED[what]:,} were published."
        )


def _class_names(where, names, y):
    """The folder of each class, in the order of the labels; AuditError where a class has two."""
    folder_of = {}
    for name, label in zip(names, y.tolist(), strict=True):
        folder = name.split("/")[-2]
        if folder_of.setdefault(label, folder) != folder:
            raise AuditError(
                f"{where}: {quoted(name)} has label {label} in a list of ImageNet-LT, which is "
                f"that of {folder_of[label]} elsewhere."
            )
    class_names = tuple(folder_of[label] for label in sorted(folder_of))
    if (twice := repeated(class_names)) is not None:
        raise AuditError(f"{where}: {twice} has two labels in the lists of ImageNet-LT.")
    return class_names
