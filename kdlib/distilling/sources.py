"""What images there are: in folders of classes, or in a table of paths and labels. N images."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdlib.config import count_of
from kdlib.distilling.examples import Files, Shards
from kdlib.distilling.splits import PART_OF, PARTS, TRAIN
from kdlib.reading.names import LABELS, called
from kdlib.reading.read import source
from kdlib.reading.rows import paths_below, rows_of, unique_ids
from kdlib.reading.sentences import AuditError, ends, listed, quoted, reason
from kdlib.reading.values import names_or_numbers, texts

PATHS = ("path", "filepath", "imagepath", "file", "filename", "image")  # an id may be beside it
SPLITS = ("split", "subset", "set")
GROUPS = ("group", "groups")
UNLABELLED = "ILSVRC2012_test_"  # how the names of ImageNet's test images begin
IN_TRAIN = "each class needs a folder in train, called alike"


@dataclass(frozen=True)
class Found:
    """All images of a data set in one list, before it is split where it does not say how."""

    data: Path  # what was read: a folder or a file
    names: np.ndarray  # (N,) of str, as in Examples
    y: np.ndarray  # (N,) int64
    part: np.ndarray  # (N,) int8, place in PARTS; all TRAIN where the data say nothing
    class_names: tuple
    home: Files | Shards
    said: str  # what was read
    groups: np.ndarray | None = None  # (N,) names or numbers


# ---------------------------------------------------------------- folders


def of_folders(folder):
    """The Found of a folder with train, val, test, or with a folder for each class itself."""
    class_names, names, y, part = (), [], [], []
    roots = _roots(folder)
    passed = []
    if roots[TRAIN] != folder:
        passed = [folder / name for name in _inside(folder)[0]]
        passed = [path for path in passed if path not in roots.values()]
    for k, root in roots.items():
        above = tuple(map(os.path.realpath, (folder, root)))
        inside, beside, _ = _inside(root)
        if not inside and beside and beside[0].startswith(UNLABELLED):
            passed.append(root)
            continue
        if not inside:
            raise AuditError(_without_folders(root, beside))
        passed += [root / name for name in beside]
        class_names = class_names or tuple(inside)  # those of train, which comes first
        if unknown := [name for name in inside if name not in class_names]:
            folders = count_of(len(unknown), "class folder")
            raise AuditError(
                f"{root}: has {folders} that train lacks: {listed(unknown)}; {IN_TRAIN}."
            )
        start = "" if root == folder else f"{root.name}/"
        for name in inside:
            images = [f"{start}{name}/{path}" for path in _images(root / name, passed, above)]
            names += images
            y += [class_names.index(name)] * len(images)
            part += [k] * len(images)
    said = (
        f"{folder}: {count_of(len(names), 'image')} in {count_of(len(class_names), 'class folder')}"
        f", in the order of their names: {ends(class_names)}."
    )
    if passed:
        several = count_of(len(passed), "file or folder", "files or folders")
        said += f" Passed over, as no image or in no class: {several}, first {passed[0]}."
    numbers = np.array(y, dtype=np.int64), np.array(part, dtype=np.int8)
    return Found(folder, np.array(names, dtype=str), *numbers, class_names, Files(folder), said)


def _roots(folder):
    """{place in PARTS: folder of class folders}, train first."""
    inside, *_ = _inside(folder)
    roots = {}
    for name in inside:
        part = PART_OF.get(name.lower())
        if part in roots:
            raise AuditError(
                f"{folder}: has {roots[part].name} and {name}, which are one part; leave one there."
            )
        if part is not None:
            roots[part] = folder / name
    others = [name for name in inside if name.lower() not in PART_OF]
    if not roots or others and not (TRAIN in roots and _inside(roots[TRAIN])[0]):
        return {TRAIN: folder}  # also where a class is called train
    roots = dict(sorted(roots.items()))
    if TRAIN not in roots:
        has = " and ".join(root.name for root in roots.values())
        raise AuditError(f"{folder}: has {has}, but no train; {IN_TRAIN}.")
    return roots


def _without_folders(root, images):
    """A sentence on a folder that has none."""
    if not images:
        return (
            f"{root}: holds no image; a folder for each class is needed, with files that end in "
            f"{', '.join(IMG_EXTENSIONS)}, or Parquet files with images, or a table of their paths."
        )
    said = (
        f"{root}: holds {count_of(len(images), 'image')} and no folder; put those of each class "
        "into a folder that is called like the class"
    )
    if images[0].startswith("ILSVRC2012_val_"):
        said += ", as valprep.sh of soumith/imagenetloader.torch does for ImageNet"
    return f"{said}."


def _inside(folder):
    """Names of folders, of images, and of other files in a folder, in order, but not the hidden.

    Hidden are .DS_Store, .ipynb_checkpoints, and the ._cat.jpg that macOS leaves on other disks."""
    folders, images, others = [], [], []
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                images.append(entry.name)
            else:
                others.append(entry.name)
    except OSError as error:
        raise AuditError(f"{folder}: cannot be read ({reason(error)}).") from None
    return sorted(folders), sorted(images), sorted(others)


def _images(folder, passed, above):
    """Paths of the images in a folder and in those below it, as ImageFolder finds them.

    passed: a list that other files are added to. above: real paths of the folders above it."""
    here = os.path.realpath(folder)
    if here in above:
        raise AuditError(f"{folder}: is a link to a folder above it; remove it.")
    folders, images, others = _inside(folder)
    passed += [folder / name for name in others]
    yield from images
    for name in folders:
        for path in _images(folder / name, passed, (*above, here)):
            yield f"{name}/{path}"


# ---------------------------------------------------------------- tables


def of_table(file):
    """The Found of a table with the columns path, label and perhaps group and split."""
    found = by_path(source(file, "data"))
    home = Files(Path(file).parent)
    if found.ids is None or not rows_of(found):
        raise found.error(
            f"holds {listed(found.columns)}; one row for each image is needed, with its path in a "
            "column path."
        )
    names = unique_ids(paths_below(found, home.folder))
    gone = [name for name in names if not os.path.isfile(os.path.join(home.folder, name))]
    if gone:
        raise found.error(
            f"{count_of(len(gone), 'path')} of {len(names):,} {'are' if gone[1:] else 'is'} no "
            f"file, the first {quoted(gone[0])}; paths start from the folder of the table."
        )
    y, class_names = numbered(found, label_column(found, found.columns), "label")
    said = (
        f"{file}: {count_of(len(names), 'image')} of "
        f"{count_of(len(class_names), 'class', 'classes')}: {ends(class_names)}."
    )
    groups = called(found.columns, GROUPS)
    if groups is not None:
        groups = names_or_numbers(found, found.columns[groups], "group")
    part = _parts_in(found, len(names))
    return Found(Path(file), names.astype(str), y, part, class_names, home, said, groups)


def by_path(found):
    """The Source, its ids the column of paths if there is one, also beside a column of ids."""
    columns = dict(found.columns)
    column = called(columns, PATHS)
    return found if column is None else replace(found, ids=columns.pop(column), columns=columns)


def label_column(found, names):
    """The name of the column with the labels among these."""
    column = called(names, ("label", "finelabel", *LABELS))
    if column is None:
        raise found.error(f"holds {listed(names)}; call the column with the labels label.")
    return column


def numbered(found, column, what):
    """((N,) int64, names): the values of a column; names by alphabet, whole numbers by size."""
    values = names_or_numbers(found, found.columns[column], what)
    names, index = np.unique(values, return_inverse=True)
    return index.astype(np.int64), tuple(map(str, names.tolist()))


def _parts_in(found, n):
    """(n,) int8 place in PARTS of each row, by the column split if there is one."""
    column = called(found.columns, SPLITS)
    if column is None:
        return np.full(n, TRAIN, dtype=np.int8)
    values = texts(found, found.columns[column], "split")
    part = np.array([PART_OF.get(name.strip().lower(), -1) for name in values], dtype=np.int8)
    found.refuse(part < 0, values, "split", f"one of {', '.join(PARTS)}")
    if TRAIN not in part:
        raise found.error("no image is in train.")
    return part
