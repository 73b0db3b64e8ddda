"""What images there are to distil with: train, val and test, their classes and groups, as lists.

N images. Whatever cannot be used raises a KdlibError that names it.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdlib.asking.models import with_progress
from kdlib.config import count_of
from kdlib.distilling.examples import Examples
from kdlib.distilling.shards import files_in, image_column, of_shards
from kdlib.distilling.sources import GROUPS, by_path, of_folders, of_table
from kdlib.distilling.splits import PARTS, TRAIN, counted, dealt, lacking
from kdlib.reading.formats import is_known
from kdlib.reading.read import source
from kdlib.reading.rows import paths_below, places_of, unique_ids
from kdlib.reading.sentences import AuditError, listed, quoted
from kdlib.reading.values import names_or_numbers
from kdlib.study.files import available_cores

BLOCK = 1024  # images that wait to be decoded, at most


@dataclass(frozen=True)
class Listing:
    """The images of a run, by split, and what is known of them."""

    train: Examples
    val: Examples
    test: Examples
    class_names: tuple
    group_names: tuple  # the classes, unless groups were given
    read: tuple  # sentences: what was read, how it was split
    folder: Path

    def sha256(self):
        """Hash of names, labels, groups and sizes of the images of all splits, in order."""
        digest = hashlib.sha256(repr((self.class_names, self.group_names)).encode())
        for name in PARTS:
            split = getattr(self, name)
            digest.update(f"{name} {len(split)}".encode())
            digest.update("\0".join(split.names.tolist()).encode("utf-8", "surrogateescape"))
            for numbers in (split.y, split.group, split.sizes()):
                digest.update(numbers.astype("<i8"))
        return digest.hexdigest()


def listing(data, groups=None, seed=0, skip_corrupt=False, say=None):
    """The Listing of a folder of images, of a folder of Parquet files, or of a table of paths.

    data: a folder with train, val and test, each with a folder for each class, or with a folder for
        each class itself; Parquet files as on the Hugging Face hub; or a table, such as CSV, with
        the columns path, label and perhaps group and split. What is not split is split here, see
        splits.dealt.
    groups: a table with the path and the group of each image of all splits.
    seed: of the split.
    skip_corrupt: decode every image now and leave out those that cannot be read; without it none
        is opened.
    say: a function that hears what was read, sentence by sentence.
    """
    return finished(_found(Path(data).expanduser()), groups, seed, skip_corrupt, say)


def _found(data):
    """The Found of whatever there is."""
    if data.is_dir():
        files = files_in(data)
        return of_shards(data, files) if files else of_folders(data)
    if not data.exists():
        raise AuditError(f"{data}: does not exist; a folder of images is needed, or a table.")
    if data.suffix == ".parquet" and image_column(data):
        return of_shards(data.parent, [data])
    if is_known(data):
        return of_table(data)
    raise AuditError(
        f"{data}: is neither a folder of images nor a table of their paths, such as images.csv."
    )


def finished(found, groups=None, seed=0, skip_corrupt=False, say=None):
    """The Listing of a Found; the other arguments are those of listing."""
    read = [found.said]
    values = found.groups
    if groups is not None:
        values, sentence = _given_groups(groups, found.names, found.home.folder)
        read.append(sentence)
    part = found.part
    pool = Examples(found.names, found.y, found.y, found.home)
    if skip_corrupt:
        whole, sentence = _readable(pool)
        read.append(sentence)
        pool = pool[whole]
        part = part[whole]
        values = None if values is None else values[whole]
    group_names = found.class_names
    if values is not None:  # of the images that are left
        held, group = np.unique(values, return_inverse=True)
        group_names = tuple(map(str, held.tolist()))
        pool = replace(pool, group=group.astype(np.int64))
    _check_classes(found, pool.y[part == TRAIN])
    part, how = dealt(pool.y, part, seed)
    read.append(f"Split: {counted(part)} images; {how}.")
    read += lacking(pool.y, part, found.class_names, "class", "classes")
    if group_names != found.class_names:
        read += lacking(pool.group, part, group_names, "group", "groups")
    splits = {name: pool[part == k] for k, name in enumerate(PARTS)}
    for name, split in splits.items():
        if not len(split):
            raise AuditError(
                f"{found.data}: {name} has no image ({how}); each of train, val and test "
                "needs some."
            )
    for sentence in read if say else ():
        say(sentence)
    names = found.class_names, group_names
    return Listing(*splits.values(), *names, tuple(read), found.home.folder)


def _check_classes(found, y):
    """AuditError unless there are two classes, and each is among the labels y of train."""
    classes = count_of(len(found.class_names), "class", "classes")
    if len(found.class_names) < 2:
        raise AuditError(f"{found.data}: has {classes}; a network needs two to tell apart.")
    held = np.bincount(y, minlength=len(found.class_names))
    without = [found.class_names[c] for c in np.flatnonzero(held == 0)]
    if without:
        raise AuditError(
            f"{found.data}: train has no image of {len(without):,} of {classes}: "
            f"{listed(without)}; add some, or remove the class everywhere."
        )


def _given_groups(groups, names, folder):
    """((N,) names or numbers of the groups of images by a table, how in words)."""
    found = by_path(source(groups, "groups"))
    if found.ids is None:
        raise found.error("must name the image of each row, in a column called path.")
    column = found.one(GROUPS, "the groups")
    values = names_or_numbers(found, found.columns[column], "group")
    ids = unique_ids(paths_below(found, folder))
    places = places_of(ids, names.astype(object))
    unknown = np.setdiff1d(np.arange(len(ids)), places)
    without = np.flatnonzero(places < 0)
    wrong = []
    if len(unknown):
        rows = count_of(len(unknown), "row")
        wrong.append(f"has {rows} of no image there, the first {quoted(ids[unknown[0]])}")
    if len(without):
        images = count_of(len(without), "image")
        wrong.append(f"lacks {images}, the first {quoted(str(names[without[0]]))}")
    if wrong:
        raise found.error(
            f"{', and '.join(wrong)}; it must have one row for each of the "
            f"{count_of(len(names), 'image')} of {folder}."
        )
    said = f"{found.name}: {count_of(len(set(values.tolist())), 'group')}, joined by path."
    return values[places], said


def _readable(pool):
    """((N,) bool, which images can be decoded; how many cannot, in words). Decodes every image."""

    def faults():
        with ThreadPoolExecutor(available_cores()) as threads:
            for start in range(0, len(pool), BLOCK):
                yield from threads.map(pool.fault, range(start, min(start + BLOCK, len(pool))))

    shown = {"desc": "images checked", "unit": "image", "total": len(pool)}
    whole = np.array([fault is None for fault in with_progress(faults(), **shown)], dtype=bool)
    broken = pool.names[~whole].tolist()
    if not broken:
        return whole, f"All {len(pool):,} images can be read."
    which = f"{count_of(len(broken), 'image')} that cannot be read: {listed(broken)}"
    return whole, f"Left out: {which}."
