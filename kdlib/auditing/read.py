"""What an audit reads, as columns by name: files, arrays, tensors, tables. No torch.

The modules inputs, scores and groups say what the columns mean. Every refusal is one sentence: the
input, the row (counted from 0, without a header), the value, what is allowed.
"""

import collections
import csv
import hashlib
import io
import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.config import KdlibError

MISSING = ("None", "nan", "<NA>", "NaT")  # how missing values that are not text are printed


class AuditError(KdlibError):
    """Input that an audit cannot use: one line, whatever names stand in it."""

    def __init__(self, sentence):
        super().__init__(printable(sentence, None))


@dataclass(frozen=True)
class Source:
    """One input as it lies there: columns by name, in order, and what it is called in sentences."""

    name: str
    columns: dict  # name: array; (N,) or (N, C)
    ids: np.ndarray | None = None  # (N,) of the examples
    sha256: str = ""  # of the file

    def error(self, sentence):
        """The AuditError that says it of this input."""
        return AuditError(f"{self.name}: {sentence}")

    def refuse(self, wrong, values, what, allowed):
        """AuditError that says what stands in the first row where `wrong` (N,) is true, if any."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise self.error(f"{what} in row {row} is {quoted(values[row])}, not {allowed}.")

    def one(self, wanted, what):
        """The array among `columns` that is named so, or the only one there is."""
        for name in wanted:
            if name in self.columns:
                return self.columns[name]
        if len(self.columns) == 1:
            return next(iter(self.columns.values()))
        called = " or ".join(wanted)
        raise self.error(f"holds {listed(self.columns)}; call the one with {what} {called}.")


# ---------------------------------------------------------------- values in sentences


def printable(name, longest=60):
    """A name as one line of text, cut where it is longer than `longest`.

    What cannot be seen, such as marks that turn the direction of writing, is spelled out.
    """
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
    if longest is None or len(seen) <= longest:
        return seen
    return seen[: longest - 1] + "…"


def quoted(value):
    """A value as it stands in sentences: text in quotes, cut where it is long."""
    return repr(value[:60]) if isinstance(value, str) else str(value)[:60]


def listed(names):
    """At most eight names, with commas between them."""
    some = ", ".join(printable(name, 40) for name in list(names)[:8])
    return some + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def encodable(text):
    """Text as it can be written in UTF-8: half a character, a lone surrogate, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_number(value):
    """A value, or text, as float; NaN where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def repeated(names):
    """The first name that is there twice, or None."""
    counts = collections.Counter(names)
    return next((name for name in counts if counts[name] > 1), None)


# ---------------------------------------------------------------- files


def _csv(file):
    with io.TextIOWrapper(file, newline="", encoding="utf-8-sig") as text:
        names = _header(next(csv.reader(text), [""]))
        text.seek(0)
        # rows that are too long, of which pandas only warns
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            as_it_is = {"keep_default_na": False, "skip_blank_lines": False, "index_col": False}
            frame = pd.read_csv(text, low_memory=False, **as_it_is)
    frame.columns = names
    for name, values in frame.items():
        if (values == name).any():
            raise AuditError(
                f"its first line has {quoted(name)}, which is also a value below it; "
                "the first line must name the columns."
            )
    return frame


def _header(first):
    """Names of the columns by the first line of a CSV file.

    Whole numbers can be names, but not of one column: a file of labels that has lost its first row
    would go unnoticed.
    """
    names = [cell.strip() for cell in first]
    named = any(names) and all(names[1:])
    numbers = not any(np.isnan(as_number(name)) for name in names)
    if len(names) == 1:
        named = named and not numbers and not any(mark in names[0] for mark in ";\t|")
    if not named or (numbers and not all(map(str.isdecimal, names))):
        raise AuditError(
            f"its first line is {quoted(','.join(first))}; "
            "it must hold the names of the columns, with commas between them."
        )
    return [names[0] or "id", *names[1:]]  # how pandas writes an index


# suffix: what reads such an open file, as an array, a dictionary of arrays or a table
READERS = {
    ".npz": lambda file: dict(np.lib.npyio.NpzFile(file)),  # refuses pickles
    ".npy": lambda file: np.lib.format.open_memmap(file.name, mode="r"),  # and so does this
    ".csv": _csv,
    ".parquet": pd.read_parquet,
}


def _read(path):
    """(what a file holds, its SHA-256)."""
    if path.suffix.lower() not in READERS:
        allowed = ", ".join(READERS)
        raise AuditError(f"ends in {path.suffix or 'nothing'!r}, but only {allowed} are read.")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return READERS[path.suffix.lower()](file), sha256


# ---------------------------------------------------------------- files and objects alike


def source(given, role):
    """The Source of a path, an array, a tensor, a table, or a dictionary of arrays.

    role names it if it has no file.
    """
    if isinstance(given, Source):
        return given
    is_file = isinstance(given, (str, Path))
    name = encodable(str(given)) if is_file else role
    try:
        held, sha256 = _read(Path(given)) if is_file else (given, "")
        columns = _columns(held)
    except AuditError as error:
        raise AuditError(f"{name}: {error}") from None
    # numpy, pandas, pyarrow and zipfile raise a dozen classes on damaged bytes, and an object of
    # another library may raise anything when it is asked for an array
    except Exception as error:
        what = f"not a readable {Path(given).suffix[1:]} file" if is_file else "no array"
        raise AuditError(f"{name}: {what} ({reason(error)}).") from None
    ids = columns.pop("id", None) if len(columns) > 1 else None
    found = Source(name, columns, ids, sha256)
    if not columns:
        raise found.error("holds no column.")
    return found


def reason(error):
    """Why reading failed, in a few words."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "allow_pickle" in said or "Python objects" in said:
        return "it holds Python objects, which are not read"
    return said.splitlines()[0][:120]


def _columns(held):
    """{name: array} of a table, a dictionary of arrays, or an array, which is called ""."""
    if hasattr(held, "to_frame"):  # a Series
        held = held.to_frame("")
    if hasattr(held, "tocsr"):  # sparse, of scipy
        return sparse_columns(held)
    if not hasattr(held, "columns") and not isinstance(held, dict):
        array = _array(held)
        if array.ndim == 0:
            raise AuditError(f"{quoted(held)} is no path, array, table or dictionary of arrays.")
        return {"": array}
    names = list(held) if isinstance(held, dict) else list(held.columns)
    if (name := repeated(map(str, names))) is not None:
        raise AuditError(f"two columns are called {quoted(name)}.")
    columns = {encodable(str(name)): _array(held[name]) for name in names}
    index = getattr(held, "index", None)  # of pandas; a dictionary and polars have none
    # one that does not just count the rows is the id of each
    counts = getattr(index, "step", 0) == 1 and index.start == 0
    if index is not None and columns and "id" not in columns and not counts:
        columns["id"] = np.array(index, dtype=object)
    return columns


def sparse_columns(matrix):
    """{name: array} of a sparse matrix of scipy, as scipy.sparse.save_npz names them."""
    rows = matrix.tocsr()
    arrays = {"indices": rows.indices, "indptr": rows.indptr, "data": rows.data}
    return arrays | {"format": np.array("csr"), "shape": np.array(rows.shape)}


def _array(values):
    """An array of one column or object, of whatever library."""
    if hasattr(values, "detach"):  # a tensor of torch
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # numpy lacks it
            values = values.float()
    if hasattr(values, "to_numpy"):
        return values.to_numpy()
    if np.ma.is_masked(values):
        raise ValueError("some values are masked")
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, str) for v in values):
        # numpy's strings would end before a NUL, and all be as wide as the longest
        return np.array(values, dtype=object)
    return np.asarray(values)


def let_go(array):
    """Give the memory back that parts of a file take which were read of an array that maps it."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.madvise(mmap.MADV_DONTNEED)
