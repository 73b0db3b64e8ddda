"""Files as they are written by the tools people have: bytes in, what they hold out. No torch, but
for its own files.

What a file holds is an array, a table, or a dictionary of arrays; pandas, pyarrow, scipy and
safetensors do the parsing. What the columns mean is said in columns.
"""

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import re
import zipfile

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.reading.delimited import delimited
from kdlib.reading.sentences import AuditError

LARGEST = 2**32  # bytes of an archive, as unpacked
UNORDERED = "unordered"  # attribute of a table whose columns stand in the order of one row


# ---------------------------------------------------------------- text


def _numbers(file):
    """Numbers without a header, as np.savetxt writes them; else a table."""
    first = file.readline()
    file.seek(0)
    words = re.sub(rb"(?i)\b(nan|inf)\b", b"", first.partition(b"#")[0])
    if re.search(rb"[^-+.\seE0-9,]", words):
        return delimited(file)
    return np.loadtxt(file, delimiter="," if b"," in first else None, ndmin=1)


def _json_lines(file):
    return _records([json.loads(line) for line in file if line.strip()])


def _records(rows, unordered=False):
    """The table of dictionaries, UNORDERED also where they hold their keys in several orders."""
    frame = pd.DataFrame(rows)
    frame.attrs[UNORDERED] = unordered or _differ(rows)
    return frame


def _differ(rows):
    """Whether those of rows that are dictionaries have what all of them hold in several orders."""
    rows = [row for row in rows if isinstance(row, dict)]
    shared = set.intersection(*map(set, rows)) if rows else ()
    return len({tuple(key for key in row if key in shared) for row in rows}) > 1


def _json(file):
    """Values, records, {column: list}, or a table as pandas and its kin write it."""
    held = json.loads(file.read().decode("utf-8-sig"))
    if isinstance(held, dict) and {"columns", "data"} <= held.keys():
        return pd.DataFrame(held["data"], held.get("index"), held["columns"])
    if isinstance(held, dict) and {"schema", "data"} <= held.keys():
        return pd.DataFrame(held["data"])
    if isinstance(held, list) and held and isinstance(held[0], list):
        first = held[0][0] if held[0] else None
        if isinstance(first, dict) and {"label", "score"} <= first.keys():  # a pipeline's
            rows = [{one["label"]: one["score"] for one in row} for row in held]
            return _records(rows, unordered=True)  # the largest score of each row is the first
    if isinstance(held, list) and held and all(isinstance(row, dict) for row in held):
        return _records(held)
    if isinstance(held, dict) and any(isinstance(of, dict) for of in held.values()):
        frame = pd.DataFrame(held)
        frame.attrs[UNORDERED] = _differ(held.values())
        counts = list(frame.index) == list(map(str, range(len(frame))))
        return frame.reset_index(drop=True) if counts else frame
    return held


# ---------------------------------------------------------------- arrays


def _npy(file):
    if isinstance(file, io.BufferedReader):  # a file of its own: what is not used is not read
        return np.lib.format.open_memmap(file.name, mode="r")  # refuses pickles
    return np.lib.format.read_array(file, allow_pickle=False)


def _npz(file):
    arrays = np.lib.npyio.NpzFile(file)  # refuses pickles
    _check_unpacked(arrays.zip.infolist())
    return dict(arrays)


def _check_unpacked(members):
    """AuditError for what would fill the memory, before it does."""
    size = sum(member.file_size for member in members)
    if size > LARGEST:
        raise AuditError(
            f"unpacks to {size / 2**30:.1f} GiB, more than the {LARGEST / 2**30:.0f} GiB that are "
            "read; save npy files instead, of which only the parts that are needed are read."
        )


def _safetensors(file):
    from safetensors.numpy import load

    content = file.read()
    try:
        return load(content)
    except KeyError:  # bfloat16, which numpy lacks
        from safetensors.torch import load as load_tensors

        return load_tensors(content)


def _torch(file):
    import torch

    held = torch.load(file, map_location="cpu", weights_only=True)  # refuses pickles
    return _joined(held) if isinstance(held, (list, tuple)) and held else held


def _joined(batches):
    """Batches of a loader as one: tensors, pairs of scores and labels, dictionaries, with lists."""
    import torch

    first = batches[0]
    if all(map(torch.is_tensor, batches)):
        if [batch.ndim for batch in batches] == [2, 1] and len(first) == len(batches[1]):
            return {"predictions": first, "labels": batches[1]}  # as fastai gives them
        if len(batches) < 4 and len(first) > 1 and {b.shape for b in batches} == {first.shape[:1]}:
            raise AuditError(
                f"holds {len(batches)} tensors of {len(first):,} values, which may be columns or "
                "batches; save a dictionary, as in {'predictions': tensor, 'labels': tensor}."
            )
        return torch.cat([torch.atleast_1d(batch) for batch in batches])
    if all(isinstance(batch, dict) for batch in batches):
        names = [name for name in first if torch.is_tensor(first[name]) and first[name].ndim]
        lists = [name for name in first if isinstance(first[name], (list, tuple))]
        lists = [name for name in lists if all(isinstance(v, (str, int)) for v in first[name])]
        joined = {name: torch.cat([batch[name] for batch in batches]) for name in names}
        return joined | {name: [*itertools.chain(*(b[name] for b in batches))] for name in lists}
    if all(isinstance(batch, (list, tuple)) for batch in batches):
        if not all(torch.is_tensor(part) for batch in batches for part in batch):
            raise AuditError(
                "holds batches in which not all is a tensor; make each batch a dictionary, as in "
                "{'logits': tensor, 'path': list}."
            )
        return _joined([_joined(part) for part in zip(*batches, strict=True)])
    return batches


# ---------------------------------------------------------------- files


def _unzipped(file):
    with zipfile.ZipFile(file) as archive:
        inside = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
        suffix = f".{inside[0].rpartition('.')[2].lower()}" if len(inside) == 1 else ""
        if suffix not in READERS:
            held = count_of(len(inside), "file")
            raise AuditError(f"holds {held}; one that is read on its own is needed.")
        _check_unpacked([archive.getinfo(inside[0])])
        return READERS[suffix](io.BytesIO(archive.read(inside[0])))


# suffix: what reads such an open file
READERS = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": delimited,
    ".tsv": delimited,
    ".txt": _numbers,
    ".parquet": pd.read_parquet,
    ".feather": pd.read_feather,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".zip": _unzipped,
}
PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def _suffix(path):
    """The suffix of a file as it is once it is unpacked."""
    packed = path.suffix.lower() in PACKED
    return (path.with_suffix("") if packed else path).suffix.lower()


def is_known(path):
    """Whether the name of a file says that it is one that is read."""
    return _suffix(path) in READERS


def read(path):
    """(what a file holds, its SHA-256); AuditError for a file of another kind."""
    if path.is_dir():
        raise AuditError(f"is a folder; name the files in it, as in {path}/*.npz.")
    if not is_known(path):
        allowed = ", ".join([*READERS, *PACKED])
        raise AuditError(
            f"ends in {path.suffix or 'nothing'!r}, but only {allowed} are read; save it so."
        )
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        unpack = PACKED.get(path.suffix.lower())
        return READERS[_suffix(path)](unpack(file) if unpack else file), sha256
