"""What an audit reads, as columns by name: files, arrays, tensors, tables. No torch.

Whatever cannot be used raises an AuditError: the input, the row (counted from 0, without a header),
the value, what is allowed.
"""

import fnmatch
import mmap
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.reading import formats
from kdlib.reading.names import IDS, UNNAMED, called, plain
from kdlib.reading.sentences import AuditError, encodable, listed, quoted, reason, repeated
from kdlib.reading.values import fractions


@dataclass(frozen=True)
class Source:
    """One input as it lies there: columns by name, in order, and what it is called in sentences."""

    name: str
    columns: dict  # name: array; (N,) or (N, C)
    ids: np.ndarray | None = None  # (N,) of the examples
    sha256: str = ""  # of the file
    notes: list = field(default_factory=list)  # how it was taken, parts of sentences
    start: int | None = None  # of a batch: the number of its first example
    unnamed: bool = False  # whether the ids have no name, as where pandas writes an index
    unordered: bool = False  # whether the order of the columns is only that of one row

    def error(self, sentence):
        """The AuditError that says it of this input."""
        return AuditError(f"{self.name}: {sentence}")

    def note(self, sentence):
        """Keep a sentence on how this input was taken, for the reader."""
        self.notes.append(sentence)

    def refuse(self, wrong, values, what, allowed):
        """AuditError that says what stands in the first row where `wrong` (N,) is true, if any."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            where = f"row {row}" if self.start is None else f"example {self.start + row}"
            raise self.error(f"{what} in {where} is {quoted(values[row])}, not {allowed}.")

    def one(self, wanted, what, names=None):
        """The name of the column that is called one of `wanted`, or of the only one there is.

        names: of the columns that may be meant; None: all.
        """
        names = list(self.columns if names is None else names)
        name = names[0] if len(names) == 1 else called(names, wanted)
        if name is None:
            raise self.error(
                f"holds {listed(self.columns)}; name the column with {what} {wanted[0]!r}, "
                "or choose it as FILE:COLUMN."
            )
        return name


def source(given, role):
    """The Source of a path, an array, a tensor, a table, or a dictionary of arrays.

    role names it if it has no file. A path may be followed by columns, as in preds.csv:student, or
    several with commas between them; a * stands for any letters. A Source is given back without
    what will be noted on it here.
    """
    if isinstance(given, Source):
        return replace(given, notes=list(given.notes))
    is_file = isinstance(given, (str, Path))
    name = encodable(str(given)) if is_file else role
    path, wanted = file_and_columns(given) if is_file else (None, "")
    try:
        held, sha256 = formats.read(path) if is_file else (given, "")
        columns, index = _columns(held)
        unordered = is_file and getattr(held, "attrs", {}).get(formats.UNORDERED, False)
    except AuditError as error:
        raise AuditError(f"{name}: {error}") from None
    except UnicodeDecodeError as error:
        why = f"is not text in UTF-8 ({reason(error)})"
        raise AuditError(f"{name}: {why}; save it so (in Excel: as CSV UTF-8).") from None
    # numpy, pandas, pyarrow and zipfile raise a dozen classes on damaged bytes, and an object of
    # another library may raise anything when it is asked for an array
    except Exception as error:
        what = f"not a readable {path.suffix[1:]} file" if is_file else "no array"
        raise AuditError(f"{name}: {what} ({reason(error)}).") from None
    found = _with_ids(Source(name, columns, None, sha256, unordered=unordered), index)
    if not found.columns:
        raise found.error("holds no column.")
    return replace(found, columns=_selected(found, wanted)) if wanted else found


def file_and_columns(given):
    """(Path, text of the columns behind it or "") of a path such as preds.csv:student."""
    text = str(given)
    file, colon, columns = text.rpartition(":")
    selects = colon and columns and "/" not in columns and formats.is_known(Path(file))
    if selects and not os.path.exists(text):  # also where the name is too long
        return Path(file), columns
    return Path(given), ""


def _selected(found, wanted):
    """{name: array} of the columns that are asked for."""
    out = {}
    for name in [wanted] if wanted in found.columns else wanted.split(","):
        name = name.strip()
        matching = [own for own in found.columns if fnmatch.fnmatchcase(own, name)]
        if name in found.columns:
            matching = [name]
        if not matching:
            raise found.error(f"has no column {quoted(name)}; it holds {listed(found.columns)}.")
        out |= {own: found.columns[own] for own in matching}
    return out


# ---------------------------------------------------------------- objects


def _columns(held):
    """({name: array}, ids of the rows by a table's index or None).

    Of a table, a dictionary of arrays, or an array, which is called "".
    """
    if hasattr(held, "_asdict"):  # what Trainer.predict of Hugging Face returns
        held = {k: v for k, v in held._asdict().items() if v is not None and k != "metrics"}
    if hasattr(held, "to_pandas"):  # of polars, pyarrow, or Hugging Face's datasets
        held = held.to_pandas()
    if hasattr(held, "to_frame"):  # a Series
        held = held.to_frame("")
    if hasattr(held, "toarray"):  # a sparse matrix of scipy
        held = held.toarray()
    if getattr(getattr(held, "dtype", None), "names", None):  # a structured array of numpy
        held = {name: held[name] for name in held.dtype.names}
    if not hasattr(held, "columns") and not isinstance(held, dict):
        array = as_array(held)
        if array.ndim == 0:
            raise AuditError(f"{quoted(held)} is no path, array, table or dictionary of arrays.")
        return {"": array}, None
    names = list(held) if isinstance(held, dict) else list(held.columns)
    own = [encodable(str(name)).strip(" ") for name in names]
    if (name := repeated(own)) is not None:
        raise AuditError(f"two columns are called {quoted(name)}.")
    columns = {text: as_array(held[name]) for text, name in zip(own, names, strict=True)}
    index = getattr(held, "index", None)  # a dictionary has none
    # one that does not just count the rows is the id of each; of tables put together it counts anew
    counts = getattr(index, "step", 0) == 1 and index.start == 0
    if index is not None and index.dtype.kind in "iu" and index.name is None:
        counts |= not index.is_unique
    return columns, None if index is None or counts else np.array(index, dtype=object)


def as_array(values):
    """An array of one column or object, of whatever library; lists in a column are rows."""
    if hasattr(values, "detach"):  # a tensor of torch
        values = values.detach().cpu()
        if values.is_floating_point() and values.itemsize < 4:  # which numpy lacks in part
            values = values.float()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if np.ma.is_masked(values):
        raise ValueError("some values are masked")
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, str) for v in values):
        # numpy's strings would end before a NUL, and all be as wide as the longest
        return np.array(values, dtype=object)
    array = np.asarray(values)
    if array.dtype == "V2" or array.dtype.name == "bfloat16":  # as numpy writes what it lacks
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if array.dtype.kind == "M":  # dates are names, as a CSV file has them
        dates = pd.Series(array)
        return dates.astype(str).astype(object).where(dates.notna(), None).to_numpy()
    if array.dtype == object and array.ndim == 1 and len(array):
        wide = [np.ndim(value) == 1 and np.shape(value) == np.shape(array[0]) for value in array]
        if all(wide):
            return np.array(array.tolist())
    return array


def _with_ids(found, index):
    """The Source with its ids apart: a column that is called like one, or a table's index.

    A column such as PassengerId is one if all its values differ; none is that holds {bytes, path},
    as data sets of Hugging Face hold images. One without a name is one if there is no other.
    """
    columns = dict(found.columns)
    single = [name for name, of in columns.items() if np.ndim(of) == 1]
    single = [name for name in single if not isinstance(next(iter(columns[name]), None), dict)]
    single = [name for name in single if not fractions(columns[name])]
    unnamed = UNNAMED in single and len(columns) > 1
    if unnamed:
        single.remove(UNNAMED)
        index = columns.pop(UNNAMED)
        if index.dtype.kind in "iu" and len(set(index.tolist())) < len(index):
            index, unnamed = None, False  # of tables that were put together
    name = None
    if len(columns) > 1:
        name = called(single, IDS)
        if name is None:
            name = next((own for own in single if _numbers_examples(own, columns[own])), None)
    ids = columns.pop(name) if name is not None else index
    return replace(found, columns=columns, ids=ids, unnamed=unnamed and name is None)


def _numbers_examples(name, values):
    """Whether a column called …id or …ids, but not of labels, has another value in each row."""
    short = plain(name)
    labels = any(word in short for word in ("label", "class", "pred", "target"))
    if not short.endswith(("id", "ids")) or labels or values.dtype.kind not in "iuUO":
        return False
    try:
        return len(set(values.tolist())) == len(values)
    except TypeError:  # lists
        return False


def let_go(array):
    """Give the memory back that parts of a file take which were read of an array that maps it."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.madvise(mmap.MADV_DONTNEED)
