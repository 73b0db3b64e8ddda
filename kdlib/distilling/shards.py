"""Images in Parquet files, as the Hugging Face hub keeps them. N images. Needs pyarrow."""

import contextlib
import json
import re

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from kdlib.config import count_of
from kdlib.distilling.examples import Shards
from kdlib.distilling.sources import GROUPS, Found, label_column
from kdlib.distilling.splits import PART_OF, PARTS, TRAIN
from kdlib.reading.names import called
from kdlib.reading.read import Source
from kdlib.reading.sentences import AuditError, ends, printable, reason
from kdlib.reading.values import names_or_numbers
from kdlib.study.table_cache import free_memory

IMAGES = ("img", "image")  # what a column of images is called, where there are several
NAMES = "label_names.json"  # {column of labels: names of the classes}


def files_in(folder):
    """The Parquet files with images in a folder, or in those in it, in the order of their names."""
    for pattern in ("*.parquet", "*/*.parquet"):
        files = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
        if files := [file for file in files if image_column(file)]:
            return files
    return []


def image_column(file):
    """The name of the column of a Parquet file that holds images, {bytes, path}; or None."""
    with _reading(file):
        schema = parquet.read_schema(file)
    names = []
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            names.append(field.name)
    return called(names, IMAGES) or next(iter(names), None)


@contextlib.contextmanager
def _reading(file):
    """AuditError for a Parquet file that cannot be read."""
    try:
        yield
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise AuditError(f"{file}: is no readable Parquet file ({reason(error)}).") from None


def of_shards(folder, files):
    """The Found of Parquet files of a folder; its images stay in memory as they are encoded."""
    _check_room(folder, files)
    names, labels, part, groups, chunks, first = [], [], [], [], [], {}
    for file in files:
        at = file.relative_to(folder).as_posix()
        first[at] = len(names)
        content, label, group = _columns(file)
        chunks += content.chunks
        labels.append(label)
        groups.append(group)
        names += [f"{at}#{row}" for row in range(len(content))]
        part += [part_of(file, folder)] * len(content)
    with _reading(folder):
        content = pa.chunked_array(chunks)
    y, class_names = _classes(folder, files[0], labels)
    said = (
        f"{folder}: {count_of(len(names), 'image')} of "
        f"{count_of(len(class_names), 'class', 'classes')} ({ends(class_names)}) in "
        f"{count_of(len(files), 'Parquet file')}."
    )
    part = np.array(part, dtype=np.int8)
    if (part < 0).any() and (part >= 0).any():
        raise AuditError(
            f"{folder}: {names[int(np.argmin(part))].rpartition('#')[0]} is called like no part, "
            f"as others are; begin its name with {', '.join(PARTS[:-1])} or {PARTS[-1]}."
        )
    part = np.maximum(part, TRAIN)
    groups = None if any(g is None for g in groups) else np.concatenate(groups)
    home = Shards(folder, content, first)
    return Found(folder, np.array(names, dtype=str), y, part, class_names, home, said, groups)


def part_of(file, folder):
    """The place in PARTS that the name of a file says, or that of its folder; -1 if neither."""
    for name in (file.name, file.parent.name if file.parent != folder else ""):
        word = re.match("[a-z]*", name.lower())[0]
        if word in PART_OF:
            return PART_OF[word]
    return -1


def _check_room(folder, files):
    """AuditError for images of which half of the free memory cannot hold the encoded bytes."""
    need = 0
    for file in files:
        with _reading(file):
            held = parquet.read_metadata(file)
        for group in map(held.row_group, range(held.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            start = f"{image_column(file)}.bytes"
            of_images = [c for c in columns if c.path_in_schema == start]
            need += sum(column.total_uncompressed_size for column in of_images)
    free = free_memory("cpu")
    if need > 0.5 * free:
        raise AuditError(
            f"{folder}: its images take {need / 1e9:.1f} GB as Parquet holds them, more than half "
            f"of the {free / 1e9:.1f} GB of memory that are free; write them as files, into a "
            "folder for each class, of which only those are read that are looked at."
        )


def _columns(file):
    """(encoded images, a ChunkedArray; labels (N,) as read; groups (N,) as read or None)."""
    image = image_column(file)
    if image is None:
        raise AuditError(f"{file}: has no column of images, {{bytes, path}}, as others have.")
    found = Source(str(file), {})
    with _reading(file):
        schema = parquet.read_schema(file)
    label = label_column(found, [name for name in schema.names if name != image])
    group = called(schema.names, GROUPS)
    wanted = [name for name in (image, label, group) if name is not None]
    with _reading(file):
        table = parquet.read_table(file, columns=wanted, partitioning=None)
        content = compute.struct_field(table[image], "bytes")
    if content.null_count:
        row = int(np.argmax(content.is_null().to_numpy()))
        raise found.error(f"holds no bytes of the image in row {row}.")
    labels = names_or_numbers(found, table[label].to_numpy(), "label")
    if group is None:
        return content, labels, None
    return content, labels, names_or_numbers(found, table[group].to_numpy(), "group")


def _classes(folder, file, labels):
    """((N,) int64, names of the classes) of the labels of each file, as read."""
    if len({own.dtype == object for own in labels}) > 1:
        raise AuditError(f"{folder}: labels are numbers in some Parquet files, names in others.")
    y = np.concatenate(labels)
    names = _given_names(folder, file)
    if y.dtype == object or not names:
        names, y = np.unique(y, return_inverse=True)
        return y.astype(np.int64), tuple(map(str, names.tolist()))
    allowed = f"a number from 0 to {len(names) - 1}, as it has {len(names)} names of classes"
    Source(str(folder), {}).refuse((y < 0) | (y >= len(names)), y, "label", allowed)
    return y, names


def _given_names(folder, file):
    """Names of the classes by the metadata of a file, or by label_names.json; () of neither."""
    with _reading(file):
        schema = parquet.read_schema(file)
    label = label_column(Source(str(file), {}), schema.names)
    held = {}
    path = folder / NAMES
    try:
        if b"huggingface" in (schema.metadata or {}):
            path = file
            info = json.loads(schema.metadata[b"huggingface"])["info"]
            held = {name: of.get("names") for name, of in info["features"].items()}
        if not held.get(label) and (folder / NAMES).exists():
            path = folder / NAMES
            held = json.loads(path.read_text(encoding="utf-8"))
        names = held.get(label) or ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = printable(reason(error))
        raise AuditError(f"{path}: names of the classes cannot be read ({why}).") from None
    return tuple(map(str, names))
