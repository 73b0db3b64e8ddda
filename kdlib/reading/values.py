"""One column of an input as names or numbers, or an AuditError that says which row is neither."""

import re

import numpy as np

from kdlib.reading.sentences import AuditError, as_number, encodable, quoted

MISSING = ("None", "nan", "<NA>", "NaT")  # how missing values that are not text are printed
ABSENT = (*MISSING, "NA", "N/A", "#N/A", "NaN", "NULL", "?")  # how these are written as text
WHOLE = re.compile(r"[ \t\r\n]*[+-]?[0-9]{1,18}[ \t\r\n]*")  # what int reads

COMMA = re.compile(r"\s*[-+]?\d+,\d+(?:[eE][-+]?\d+)?\s*")  # in a number
THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*")  # what could be separated by it


def is_single(values):
    """Whether a column holds one value a row."""
    return np.shape(values)[1:] in ((), (1,))


def vector(found, values, what):
    """One column as an array (N,) of numbers, text or objects."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iufbOUST":
        has = f"{values.dtype} of shape {values.shape}"
        raise found.error(f"{what} must be one column of numbers or names, not {has}.")
    return values


def texts(found, values, what):
    """(N,) object array of str, of names or numbers; AuditError for what is missing or neither.

    Blanks around a name are none of it. Not an array of numpy's strings: one long name would widen
    them all.
    """
    values = vector(found, values, what)
    out = np.empty(len(values), dtype=object)
    wrong = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        out[row] = encodable(str(value)).strip(" ")
        if isinstance(value, str):
            wrong[row] = not value.strip()
        else:
            wrong[row] = hasattr(value, "__len__") or out[row] in MISSING
    found.refuse(wrong, values, what, "a name or a number")
    return out


def fractions(values):
    """Whether a column holds numbers that are not all whole."""
    if values.dtype.kind != "f":
        return False
    some = values[np.isfinite(values)]
    return bool((some != np.floor(some)).any())


def names_or_numbers(found, values, what):
    """(N,) int64 of whole numbers, also as text, or an object array of str."""
    values = vector(found, values, what)
    if values.dtype.kind not in "iufb":
        names = texts(found, values, what)
        return np.array([int(name) for name in names]) if all_whole(names) else names
    broken = (values != np.floor(values)) | (np.abs(values.astype(np.float64)) > 1e18)
    for wrong in (~np.isfinite(values), broken):
        found.refuse(wrong, values, what, "a whole number of at most 18 digits")
    return values.astype(np.int64)


def as_numbers(found, values, what):
    """(N,) array of numbers, finite or not; a column of objects or text may hold them."""
    values = vector(found, values, what)
    if values.dtype.kind in "iufb":
        return values
    texts = [v.removesuffix("%") if isinstance(v, str) else v for v in values.tolist()]
    read = np.array([as_number(text) for text in texts])
    found.refuse(np.isnan(read), values, what, "a number")
    return read


def decimal_comma(rows, names):
    """Whether numbers in cells of text have one; AuditError where all could be thousands."""
    cells = ((n, c.strip()) for row in rows for n, c in zip(names, row, strict=False) if "," in c)
    cells = ((name, cell) for name, cell in cells if COMMA.fullmatch(cell))
    name, cell = next(cells, ("", ""))
    if not THOUSANDS.fullmatch(cell) or not all(THOUSANDS.fullmatch(other) for _, other in cells):
        return bool(cell)
    raise AuditError(
        f"column {quoted(name.strip())} holds {quoted(cell)}, which may mean "
        f"{cell.replace(',', '')} or {cell.replace(',', '.')}; write numbers with a decimal point, "
        "or without any comma."
    )


def all_whole(names):
    """Whether every name is a whole number."""
    return all(map(WHOLE.fullmatch, names))


def missing(values, words=False):
    """(N,) bool: where a column says nothing; NA says so among numbers, in text if `words`."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "iub":
        return np.zeros(len(values), dtype=bool)
    empty = [not str(v).strip() or str(v) in MISSING and not isinstance(v, str) for v in values]
    absent = np.array([str(v).strip() in ABSENT for v in values], dtype=bool) | empty
    numbers = absent.any() and not any(np.isnan(as_number(v)) for v in values[~absent])
    return absent if words or numbers else np.array(empty, dtype=bool)
