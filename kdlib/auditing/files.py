"""What an audit reads, as columns by name: npz, npy, CSV, Parquet, arrays, tensors, tables.

No torch; inputs.py says what the columns mean. Every refusal is one sentence: the file, the row
(counted from 0, without a header), the value, what is allowed.
"""

import csv
import hashlib
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlib.config import KdlibError

ALLOWED = "npz, npy, CSV (.csv) and Parquet (.parquet) are read"
MISSING = ("None", "nan", "<NA>", "NaT")  # as text, of values that are no text


def printable(name, longest=60):
    """A name as one line of text, cut where it is longer than `longest`.

    What cannot be seen, such as marks that turn the direction of writing, is spelled out.
    """
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
    if longest is None or len(seen) <= longest:
        return seen
    return seen[: longest - 1] + "…"


def quoted(value, longest=60):
    """A value in quotes, on one line, cut where it is long."""
    return repr(str(value)[:longest])


class AuditError(KdlibError):
    """Input that an audit cannot use: one line, whatever names stand in it."""

    def __init__(self, sentence):
        super().__init__(printable(sentence, None))


@dataclass(frozen=True)
class Outputs:
    """What one model says of each example.

    The log-probabilities are None where only predicted classes are known.
    """

    predicted: np.ndarray  # (N,) int64
    log_p_label: np.ndarray | None  # (N,) float64, log-probability of the label
    log_p_predicted: np.ndarray | None  # (N,) float64, of the predicted class

    @property
    def scored(self):
        return self.log_p_label is not None


@dataclass(frozen=True)
class Source:
    """One input as it lies there: columns by name, in order, and what it is called in sentences."""

    name: str
    columns: dict  # name: array; (N,) or (N, C)
    ids: np.ndarray | None
    sha256: str = ""  # of the file

    def one(self, wanted, what):
        """The array among `columns` that is named so, or the only one there is."""
        for name in wanted:
            if name in self.columns:
                return self.columns[name]
        if len(self.columns) == 1:
            return next(iter(self.columns.values()))
        raise AuditError(
            f"{self.name}: holds {listed(self.columns)}; "
            f"call the one with {what} {' or '.join(wanted)}."
        )


def listed(names):
    """At most eight names, with commas between them."""
    names = [printable(name, 40) for name in names]
    if not names:
        return "nothing"
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + rest


def texts(values, name, what):
    """(N,) object array of str, of names or numbers.

    AuditError for what is missing, empty or no single value.
    """
    # not of numpy's strings: one long name would widen them all
    out = np.empty(len(values), dtype=object)
    for row, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        is_text = isinstance(value, str)
        whole = isinstance(value, float) and value.is_integer()
        text = out[row] = str(int(value)) if whole else str(value)
        if not text.strip() or (not is_text and text in MISSING):
            raise AuditError(f"{name}: {what} in row {row} is empty.")
        if (hasattr(value, "__len__") and not is_text) or not encodable(text):
            raise AuditError(
                f"{name}: {what} in row {row} is {quoted(value)}, "
                "which is neither text nor a number."
            )
    return out


def encodable(text):
    """Whether text can be written as UTF-8; half a character, a lone surrogate, cannot."""
    return text == _encodable(text)


def _encodable(text):
    return text.encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------- files


def source(given, role):
    """The Source of an argument: a path, an array, a DataFrame, or a dictionary of arrays.

    role names it if it has no file.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, (str, Path)):
        return _from_file(Path(given))
    try:
        columns = _in_memory(given, role)
    except AuditError:
        raise
    # whatever an object of another library raises when it is asked for an array
    except Exception as error:
        raise AuditError(f"{role}: no array ({_why(error)}).") from None
    return _source_of(role, columns)


def _from_file(path):
    name = _encodable(str(path))
    read = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise AuditError(f"{name}: ends in {path.suffix or 'nothing'!r}, but only {ALLOWED}.")
    if os.path.isdir(path):
        raise AuditError(f"{name}: is a folder; name the file.")
    if not os.path.isfile(path):
        raise AuditError(f"{name}: there is no such file.")
    try:
        columns = read(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except AuditError as error:
        raise AuditError(f"{name}: {error}") from None
    # the parsers of numpy, zipfile, pandas and pyarrow raise a dozen classes on damaged bytes
    except Exception as error:
        raise AuditError(
            f"{name}: not a readable {path.suffix[1:]} file ({_why(error)})."
        ) from None
    return _source_of(name, columns, sha256)


def _why(error):
    said = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if "allow_pickle" in said or "Python objects" in said:
        return "it holds Python objects, which are not read"
    return said


def _npy(path):
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":  # numpy would take it for a pickle and say how to run it
            raise AuditError("is no npy file.")
    return {"": np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz(path):
    if not zipfile.is_zipfile(path):
        raise AuditError("is no npz file.")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    if foreign := [name for name, array in columns.items() if not isinstance(array, np.ndarray)]:
        raise AuditError(f"holds {quoted(foreign[0])}, which is no array.")
    return columns


def _csv(path):
    import pandas as pd

    with open(path, "rb") as file:
        if any(b"\0" in part for part in iter(lambda: file.read(1 << 20), b"")):
            raise AuditError("holds NUL bytes; save it as CSV in UTF-8.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        names = _header(next(csv.reader(file), None))
        file.seek(0)
        # rows that are too long, of which pandas only warns
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            frame = pd.read_csv(
                file,
                keep_default_na=False,
                index_col=False,
                low_memory=False,
                skip_blank_lines=False,
            )
    frame.columns = names
    for name in names:
        values = frame[name].to_numpy()
        if values.dtype == object and (values == name).any():
            raise AuditError(
                f"its first line has {quoted(name)}, which is also a value below it; "
                "the first line must name the columns."
            )
    return _table(frame)


def _header(first):
    """Names of the columns by the first line of a CSV file; None: there is no line.

    Whole numbers can be names, but not of one column: a file of labels that has lost its first row
    would go unnoticed.
    """
    if first is None:
        raise AuditError("is empty.")
    if not any(cell.strip() for cell in first):
        raise AuditError("its first line is empty; it must name the columns.")
    if len(first) == 1 and (marks := [mark for mark in ";\t|" if mark in first[0]]):
        raise AuditError(
            f"its first line is {quoted(first[0])}; "
            f"commas must separate the columns, not {marks[0]!r}."
        )
    several = len(set(first)) == len(first) > 1
    are_names = several and all(cell.strip().isdecimal() for cell in first)
    if all(map(is_number, first)) and not are_names:
        raise AuditError(
            f"its first line, {quoted(','.join(first))}, is numbers; it must name the columns."
        )
    names = [cell.strip() for cell in first]
    names[0] = names[0] or "id"  # how pandas writes an index
    if "" in names:
        raise AuditError(f"column {names.index('')} has no name in the first line.")
    _no_doubles(names)
    return names


def _no_doubles(names):
    seen = set()
    for name in names:
        if name in seen:
            raise AuditError(f"two columns are called {quoted(name)}.")
        seen.add(name)


def is_number(text, finite=False):
    """Whether float reads it, and, where asked, as a finite number."""
    try:
        return bool(np.isfinite(float(text))) or not finite
    except (ValueError, TypeError):
        return False


def _parquet(path):
    import pandas as pd

    with open(path, "rb") as file:
        return _table(pd.read_parquet(file))


# ---------------------------------------------------------------- in memory


def _table(frame):
    """Columns of a DataFrame; an index that does not just count the rows is the id of each."""
    names = [str(name) for name in frame.columns]
    _no_doubles(names)
    arrays = [frame[name].to_numpy() for name in frame.columns]
    columns = dict(zip(names, arrays, strict=True))
    index = getattr(frame, "index", None)  # polars has none; what has a step counts the rows
    counts = getattr(index, "step", 0) == 1 and index.start == 0
    if index is not None and columns and "id" not in columns and not counts:
        columns["id"] = np.array(index, dtype=object)
    return columns


def _in_memory(given, role):
    try:
        if hasattr(given, "columns"):
            return _table(given)
        if hasattr(given, "to_frame"):  # a Series
            return _table(given.to_frame(""))
        if isinstance(given, dict):
            _no_doubles([str(name) for name in given])
            return {str(name): _array(values) for name, values in given.items()}
    except AuditError as error:
        raise AuditError(f"{role}: {error}") from None
    array = _array(given)
    if array.ndim == 0:
        raise AuditError(
            f"{role}: {quoted(given, 40)}, of type {type(given).__name__}, "
            "is no path, array, table or dictionary of arrays."
        )
    return {"": array}


def _array(values):
    if hasattr(values, "detach"):  # a tensor of torch
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # numpy lacks it
            values = values.float()
    if np.ma.is_masked(values):
        raise ValueError("some values are masked")
    listed_text = isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)
    if listed_text and values:
        # numpy's strings would end before a NUL, and all be as wide as the longest
        return np.array(values, dtype=object)
    return np.asarray(values)


def _source_of(name, columns, sha256=""):
    ids = columns.pop("id", None) if len(columns) > 1 else None
    if not columns:
        raise AuditError(f"{name}: holds no column.")
    if foreign := [column for column in columns if not encodable(column)]:
        raise AuditError(f"{name}: column {quoted(foreign[0])} has a name that is no text.")
    return Source(name, columns, ids, sha256)


# ---------------------------------------------------------------- rows


def check_rows(found, n, first):
    """AuditError unless a Source has n rows and the ids of the first Source that has some."""
    matrix = any(np.ndim(values) == 2 for values in found.columns.values())
    named = found.columns if found.ids is None else found.columns | {"id": found.ids}
    for name, values in named.items():
        if name == "names" and matrix:  # of its columns
            continue
        if np.ndim(values) == 0 or len(values) != n:
            many = "no rows" if np.ndim(values) == 0 else f"{len(values)} rows"
            has = f"{name} has " if name else ""
            raise AuditError(f"{found.name}: {has}{many}, but {first.name} has {n}.")
    if found is first or found.ids is None or first.ids is None:
        return
    mine = texts(found.ids, found.name, "id")
    its = texts(first.ids, first.name, "id")
    if (differ := mine != its).any():
        row = int(np.argmax(differ))
        raise AuditError(
            f"{found.name}: row {row} has id {quoted(mine[row])}, "
            f"but {first.name} has {quoted(its[row])} there; "
            "the same examples must come in the same order."
        )
