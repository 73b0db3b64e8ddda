"""A folder of ImageNet-LT's shape: its long tail, its paths, its lists, in a few files."""

import os

import numpy as np
from PIL import Image

VAL, TEST = 20, 50  # images of each class


def published_counts():
    """1,000 numbers of training images with the published sums, largest, smallest and shots."""
    many = np.full(385, 101)
    medium = np.linspace(100, 20, 479).astype(int)
    few = np.linspace(19, 5, 136).astype(int)
    many[0] = 1280
    rest = 115_846 - many.sum() - medium.sum() - few.sum()
    many[1:] += rest // 384
    many[1 : 1 + rest % 384] += 1
    return [*many.tolist(), *medium.tolist(), *few.tolist()]


def generated(folder, counts, size=(3, 2)):
    """{part: lines of its list} of a folder with counts[c] training images of class c.

    The class folders are links to one folder for train and one for val, so that 1,000 classes take
    a few thousand files, whose images are links to one too: they show what they are of no more."""
    largest = max(counts)
    for part, n in (("train", largest + VAL), ("val", TEST)):
        images = folder / f"one {part}"
        images.mkdir(parents=True)
        Image.new("RGB", size, (9, 9, 9)).save(images / "0.JPEG")
        for i in range(1, n):
            os.link(images / "0.JPEG", images / f"{i}.JPEG")
        (folder / part).mkdir()
        for c in range(len(counts)):
            (folder / part / f"n{c:08}").symlink_to(images)
    lines = {"train": [], "val": [], "test": []}
    for c, n in enumerate(counts):
        train, test = f"train/n{c:08}", f"val/n{c:08}"
        lines["train"] += [f"{train}/{i}.JPEG {c}" for i in range(n)]
        lines["val"] += [f"{train}/{i}.JPEG {c}" for i in range(largest, largest + VAL)]
        lines["test"] += [f"{test}/{i}.JPEG {c}" for i in range(TEST)]
    write(folder, lines)
    return lines


def write(folder, lines):
    """The lists of a folder: {part: lines}."""
    for part, held in lines.items():
        (folder / f"ImageNet_LT_{part}.txt").write_text("\n".join(held) + "\n")
