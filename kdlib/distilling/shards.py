"""Images in Parquet files, as the Hugging Face hub keeps them. N images. Needs pyarrow."""

import contextlib
import json
import re

import numpy as np
import pyarrow as pa
from pyarrow import compute, dataset, parquet

from kdlib.config import count_of
from kdlib.distilling.examples import Shards
from kdlib.distilling.sources import GROUPS, Found, label_column, numbered
from kdlib.distilling.splits import PART_OF, PARTS, TRAIN
from kdlib.reading.names import called
from kdlib.reading.read import Source
from kdlib.reading.sentences import AuditError, reason
from kdlib.reading.values import names_or_numbers
from kdlib.study.table_cache import free_memory

IMAGES = ("img", "image")  # what a column of images is called, where there are several
NAMES = "label_names.json"  # {column of labels: names of the classes}, where files hold none


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
        fields = parquet.read_schema(file)
    structs = [field for field in fields if pa.types.is_struct(field.type)]
    names = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    return called(names, IMAGES) or next(iter(names), None)


@contextlib.contextmanager
def _reading(file):
    """AuditError for a Parquet file that cannot be read."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise AuditError(f"{file}: is no readable Parquet file ({reason(error)}).") from None


def of_shards(folder, files):
    """The Found of Parquet files of a folder; its images stay in memory as they are encoded."""
    _check_room(folder, files)
    found = Source(str(folder), {})
    image = image_column(files[0])
    schema = parquet.read_schema(files[0])
    label = label_column(found, [name for name in schema.names if name != image])
    group = called(schema.names, GROUPS)
    wanted = [name for name in (image, label, group) if name is not None]
    for file in files:
        if lacking := [name for name in wanted if name not in parquet.read_schema(file).names]:
            raise AuditError(f"{file}: has no column {lacking[0]}, which {files[0].name} has.")
    with _reading(folder):
        rows = [parquet.read_metadata(file).num_rows for file in files]
        table = dataset.dataset(files, format="parquet").to_table(columns=wanted)
        content = compute.struct_field(table[image], "bytes")
    at = [file.relative_to(folder).as_posix() for file in files]
    first = dict(zip(at, np.cumsum([0, *rows[:-1]]).tolist(), strict=True))
    names = [f"{file}#{row}" for file, n in zip(at, rows, strict=True) for row in range(n)]
    if content.null_count:
        name = names[int(np.argmax(content.is_null().to_numpy()))]
        raise AuditError(f"{folder / name}: holds no bytes of an image.")
    y, class_names = _classes(found, table[label].to_numpy(), _given_names(folder, schema, label))
    groups = group and names_or_numbers(found, table[group].to_numpy(), "group")
    said = f" in {count_of(len(files), 'Parquet file')}"
    part = np.repeat(_parts(folder, files), rows)
    home = Shards(folder, content, first)
    return Found(folder, np.array(names, dtype=str), y, part, class_names, home, said, groups)


def _parts(folder, files):
    """(files,) int8 place in PARTS that each file's name says, or that of its folder."""
    part = []
    for file in files:
        called_by = (file.parent.name if file.parent != folder else "", file.name)
        words = [re.match("[a-z]*", name.lower())[0] for name in called_by]
        part.append(next((PART_OF[word] for word in words[::-1] if word in PART_OF), -1))
    if min(part) < 0 <= max(part):
        raise AuditError(
            f"{files[part.index(-1)]}: its name does not say which split it is, as others do; "
            f"begin it with {', '.join(PARTS[:-1])} or {PARTS[-1]}."
        )
    return np.maximum(part, TRAIN).astype(np.int8)


def _check_room(folder, files):
    """AuditError for images that half of the free memory cannot hold, as they are encoded."""
    need = sum(file.stat().st_size for file in files)
    free = free_memory("cpu")
    if need > 0.5 * free:
        raise AuditError(
            f"{folder}: its images take {need / 1e9:.1f} GB in Parquet, more than half of the "
            f"{free / 1e9:.1f} GB of free memory; save them as image files, in one folder per "
            "class, which are read only when they are needed."
        )


def _classes(found, labels, names):
    """((N,) int64, names of the classes) of labels as read; names: of their numbers, or ()."""
    labels = names_or_numbers(found, labels, "label")
    if labels.dtype == object or not names:
        return numbered(labels)
    allowed = f"a number from 0 to {len(names) - 1}, as it has {len(names)} names of classes"
    found.refuse((labels < 0) | (labels >= len(names)), labels, "label", allowed)
    return labels, names


def _given_names(folder, schema, label):
    """Names of the classes by the metadata of a file, or by NAMES; () of neither."""
    with contextlib.suppress(TypeError, ValueError, KeyError):
        info = json.loads(schema.metadata[b"huggingface"])["info"]
        return tuple(map(str, info["features"][label]["names"]))
    with contextlib.suppress(OSError, TypeError, ValueError, KeyError):
        return tuple(map(str, json.loads((folder / NAMES).read_text(encoding="utf-8"))[label]))
    return ()
