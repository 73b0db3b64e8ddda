"""ImageNet-LT: the published lists of Liu et al. 2019, read over the usual folder of ImageNet.

"Large-scale long-tailed recognition in an open world": 115,846 training images with 5 to 1,280 of a
class; val are other images of ImageNet's train, test its official val. ImageNet itself is what
listing.listing reads: a folder with train and val, and in each a folder for each class.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.distilling.examples import Files
from kdlib.distilling.listing import finished
from kdlib.distilling.sources import Found, check_files
from kdlib.distilling.splits import PARTS
from kdlib.reading.sentences import AuditError, quoted, reason

PUBLISHED = {
    "training images": 115_846,
    "val images": 20_000,
    "test images": 50_000,
    "classes": 1000,
    "training images of the largest class": 1280,
    "training images of the smallest class": 5,
    "classes of more than 100 training images": 385,
    "classes of 20 to 100 training images": 479,
    "classes of fewer than 20 training images": 136,
}


def imagenet_lt(folder, groups=None, skip_corrupt=False, say=None):
    """The Listing of ImageNet-LT; its classes are called like their folders, as n01440764.

    folder: ImageNet's, with train/n01440764/... and val/n01440764/..., and beside these the lists
        ImageNet_LT_train.txt, _val.txt and _test.txt.
    groups, skip_corrupt, say: as of listing.listing. KdlibError for lists whose counts are not the
    published ones, or that contradict each other, and for images that are not there.
    """
    folder = Path(folder).expanduser()
    held = [_read(folder / f"ImageNet_LT_{name}.txt") for name in PARTS]
    lists = pd.concat(held, ignore_index=True)
    part = np.repeat(np.arange(len(PARTS), dtype=np.int8), list(map(len, held)))
    where = f"{folder}: the lists of ImageNet-LT"
    _check_counts(where, held)
    if (twice := lists.path[lists.path.duplicated()]).size:
        raise AuditError(f"{where} hold {quoted(twice.iloc[0])} twice.")
    classes = lists.assign(folder=lists.path.str.split("/").str[-2]).drop_duplicates(
        ["label", "folder"]
    )
    mixed = classes.label.duplicated() | classes.folder.duplicated()
    if mixed.any():
        path, label, _ = classes[mixed].iloc[0]
        raise AuditError(f"{where} give {quoted(path)} the label {label}, unlike others there.")
    check_files(where, folder, lists.path.tolist())
    class_names = tuple(classes.sort_values("label").folder)
    said = ", by the lists of ImageNet-LT, whose counts are the published ones"
    names, y = lists.path.to_numpy(str), lists.label.to_numpy()
    found = Found(folder, names, y, part, class_names, Files(folder), said)
    return finished(found, groups, skip_corrupt=skip_corrupt, say=say)


def _read(file):
    """DataFrame: path and label in each line of a list."""
    how = {"sep": " ", "names": ["path", "label"], "dtype": {"path": str, "label": np.int64}}
    try:
        return pd.read_csv(file, **how, index_col=False)
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{file}: cannot be read ({reason(error)}); the lists of ImageNet-LT are published at "
            "https://github.com/zhmiao/OpenLongTailRecognition-OLTR."
        ) from None


def _check_counts(where, held):
    """AuditError unless the counts of the lists, of train, val and test, are the published ones."""
    by_class = held[0].label.value_counts()
    classes = pd.concat(held).label.nunique()
    many, few = int((by_class > 100).sum()), int((by_class < 20).sum())
    shots = (many, len(by_class) - many - few, few)
    counts = (*map(len, held), classes, int(by_class.max()), int(by_class.min()), *shots)
    for (what, published), found in zip(PUBLISHED.items(), counts, strict=True):
        if found != published:
            raise AuditError(f"{where} have {found:,} {what}, but {published:,} were published.")
