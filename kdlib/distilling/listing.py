"""What images there are to distil with: train, val and test, their classes and groups, as lists.

N images. Whatever cannot be used raises a KdlibError that names it.
"""

import hashlib
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from kdlib.asking.models import with_progress
from kdlib.config import count_of
from kdlib.distilling.examples import Examples
from kdlib.distilling.shards import files_in, image_column, of_shards
from kdlib.distilling.sources import GROUPS, by_path, numbered, of_folders, of_table
from kdlib.distilling.splits import PARTS, TRAIN, counted, dealt, lacking
from kdlib.reading.formats import is_known
from kdlib.reading.read import source
from kdlib.reading.rows import joined_by_path
from kdlib.reading.sentences import AuditError, ends, listed
from kdlib.reading.values import names_or_numbers
from kdlib.study.files import available_cores

BLOCK = 64  # images that a thread decodes at a time


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
    images = count_of(len(found.names), "image")
    classes = f"{count_of(len(found.class_names), 'class', 'classes')} ({ends(found.class_names)})"
    read = [f"{found.data}: {images} of {classes}{found.said}."]
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
        group, group_names = numbered(values)
        pool = replace(pool, group=group)
    if len(found.class_names) < 2:
        raise AuditError(f"{found.data}: has 1 class; a network needs two to tell apart.")
    for said in lacking(pool.y, part, found.class_names, "class", "classes", [TRAIN]):
        raise AuditError(f"{found.data}: {said[:-1]}; add some, or remove the class everywhere.")
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


def _given_groups(groups, names, folder):
    """((N,) names or numbers of the groups of images by a table, how in words)."""
    found = by_path(source(groups, "groups"))
    column = found.one(GROUPS, "the groups")
    values = names_or_numbers(found, found.columns[column], "group")
    found = joined_by_path(replace(found, columns={"": values}), folder, names)
    [values] = found.columns.values()
    said = f"{found.name}: {count_of(len(set(values.tolist())), 'group')}, joined by path."
    return values, " ".join([said, *found.notes])


def _readable(pool):
    """((N,) bool, which images can be decoded; how many cannot, in words). Decodes every image."""
    shown = {"desc": "images checked", "unit": "image", "total": len(pool)}
    with ThreadPool(available_cores()) as threads:
        checked = threads.imap(pool.can_be_read, range(len(pool)), BLOCK)
        whole = np.fromiter(with_progress(checked, **shown), dtype=bool)
    broken = pool.names[~whole].tolist()
    if not broken:
        return whole, f"All {len(pool):,} images can be read."
    which = f"{count_of(len(broken), 'image')} that cannot be read: {listed(broken)}"
    return whole, f"Left out: {which}."
