"""What images there are: in folders of classes, or in a table of paths and labels. N images."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from kdlib.config import count_of
from kdlib.distilling.examples import Files, Shards
from kdlib.distilling.splits import PART_OF, PARTS, TRAIN
from kdlib.reading.classes import folded
from kdlib.reading.names import LABELS, called
from kdlib.reading.read import source
from kdlib.reading.rows import paths_below, rows_of, unique_ids
from kdlib.reading.sentences import AuditError, listed, quoted, reason
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
    said: str = ""  # how they lie there
    groups: np.ndarray | None = None  # (N,) names or numbers


# ---------------------------------------------------------------- folders


def of_folders(folder):
    """The Found of a folder with train, val, test, or with a folder for each class itself."""
    class_names, names, y, part = (), [], [], []
    roots = _roots(folder)
    passed = []
    if roots[TRAIN] != folder:
        _, inside, _ = next(_walked(folder))
        passed = [folder / name for name in inside if folder / name not in roots.values()]
    for k, root in roots.items():
        _, inside, beside = next(_walked(root))
        if not inside and beside and beside[0].startswith(UNLABELLED):
            passed.append(root)
            continue
        if not inside:
            raise AuditError(_without_folders(root, list(filter(is_image_file, beside))))
        passed += [root / name for name in beside]
        class_names = class_names or tuple(inside)  # those of train, which comes first
        if unknown := [name for name in inside if name not in class_names]:
            folders = count_of(len(unknown), "class folder")
            raise AuditError(
                f"{root}: has {folders} that train lacks: {listed(unknown)}; {IN_TRAIN}."
            )
        start = "" if root == folder else f"{root.name}/"
        for name in inside:
            images = [f"{start}{name}/{path}" for path in _images(root / name, passed)]
            names += images
            y += [class_names.index(name)] * len(images)
            part += [k] * len(images)
    said = " in folders, in the order of their names"
    if passed:
        several = count_of(len(passed), "file or folder", "files or folders")
        said += f". Passed over, as no image or in no class: {several}, first {passed[0]}"
    said += alike(class_names)
    numbers = np.array(y, dtype=np.int64), np.array(part, dtype=np.int8)
    return Found(folder, np.array(names, dtype=str), *numbers, class_names, Files(folder), said)


def _roots(folder):
    """{place in PARTS: folder of class folders}, train first."""
    _, inside, _ = next(_walked(folder))
    roots = {}
    for name in inside:
        part = PART_OF.get(name.lower())
        if part in roots:
            raise AuditError(
                f"{folder}: has {roots[part].name} and {name}, which are the same split; keep one."
            )
        if part is not None:
            roots[part] = folder / name
    others = [name for name in inside if folder / name not in roots.values()]
    holds_classes = any(next(_walked(root))[1] for root in roots.values())
    if not roots or others and not holds_classes:
        return {TRAIN: folder}  # also where a class is called train
    if TRAIN not in roots:
        has = " and ".join(roots[part].name for part in sorted(roots))
        beside = f" beside {listed(others)}" if others else ""
        raise AuditError(f"{folder}: has {has}{beside}, but no train; {IN_TRAIN}.")
    return dict(sorted(roots.items()))


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


def _walked(folder):
    """(folder, names of folders in it, of files) of a folder, then of each below it, in order.

    Links are followed. Passed over is what is hidden: .DS_Store, .ipynb_checkpoints, and the
    ._cat.jpg that macOS leaves on other disks."""

    def refused(error):
        raise AuditError(f"{error.filename}: cannot be read ({reason(error)}).") from None

    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refused):
        real = os.path.realpath(here)
        if real in seen:
            raise AuditError(f"{here}: is a link to a folder that is read already; remove it.")
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, folders, sorted(name for name in files if not name.startswith("."))


def _images(folder, passed):
    """Paths of the images below the folder of a class; passed: a list that others are added to."""
    for here, _, files in _walked(folder):
        above = "" if here == str(folder) else f"{Path(here).relative_to(folder).as_posix()}/"
        yield from (f"{above}{name}" for name in files if is_image_file(name))
        passed += [Path(here, name) for name in files if not is_image_file(name)]


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
    check_files(found.name, home.folder, names)
    labels = found.columns[label_column(found, found.columns)]
    y, class_names = numbered(names_or_numbers(found, labels, "label"))
    groups = called(found.columns, GROUPS)
    if groups is not None:
        groups = names_or_numbers(found, found.columns[groups], "group")
    part = _parts_in(found, len(names))
    said = alike(class_names)
    return Found(Path(file), names.astype(str), y, part, class_names, home, said, groups)


def alike(class_names):
    """What is said of the first two classes of which spelling alone makes two, or ""."""
    taken = {}
    for name in class_names:
        other = taken.setdefault(folded(name), name)
        if other != name:
            return f". {quoted(other)} and {quoted(name)} are two classes"
    return ""


def check_files(source, folder, names):
    """AuditError unless all that a source names are files below a folder."""
    gone = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if gone:
        raise AuditError(
            f"{source}: {count_of(len(gone), 'path')} of {len(names):,} "
            f"{'are' if gone[1:] else 'is'} no file below {folder}, the first {quoted(gone[0])}."
        )


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


def numbered(values):
    """((N,) int64, names) of names or numbers (N,): names by alphabet, numbers by size.

    Spaces around a name say nothing."""
    if values.dtype == object:
        values = np.array([value.strip() for value in values], dtype=object)
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
