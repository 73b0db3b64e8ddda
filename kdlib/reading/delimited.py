"""Tables as text: what cuts their rows into cells, whether the first names the columns, numbers.

pandas does the parsing.
"""

import contextlib
import csv
import io
import itertools
import re
import warnings

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.reading.names import UNNAMED
from kdlib.reading.sentences import AuditError, as_number, quoted
from kdlib.reading.values import COMMA, decimal_comma

SEPARATORS = ("\t", "|", ";", ",")  # the last also stands in names and numbers
SOME = 50  # rows by which a table is judged
LIST = re.compile(r"\[[-+.,\seE0-9]*\]")  # how a list of numbers stands in a cell


def delimited(file):
    """A table with named columns, or an array of numbers that stand there without names."""
    start = file.read(2)
    file.seek(0)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with io.TextIOWrapper(file, newline="", encoding=encoding) as text:
        separator = _separator(text)
        text.seek(0)
        rows = csv.reader(text, delimiter=separator, skipinitialspace=True)
        first, second = next(rows, [""]), next(rows, ())
        if separator == " " and len(second) == len(first) + 1:  # as R writes names of rows
            first.insert(0, "")
        while len(first) > 1 and not first[-1].strip():  # commas at the end, as Excel leaves them
            first.pop()
        names = _header(first)
        comma = separator != "," and decimal_comma(itertools.chain([second], rows), first)
        text.seek(0)
        # rows that are too long, of which pandas only warns
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            frame = pd.read_csv(
                text,
                sep=separator,
                decimal="," if comma else ".",
                header=0 if names else None,
                names=range(len(first)) if separator == " " and names else None,
                low_memory=False,
                keep_default_na=False,
                skip_blank_lines=len(first) > 1,  # alone it is a row that says nothing
                index_col=False,
                skipinitialspace=True,
            )
    if not (frame.iloc[:, len(first) :] == "").all(axis=None):
        raise AuditError(
            f"its first line names {count_of(len(first), 'column')}, but others hold values too."
        )
    frame = frame.iloc[:, : len(first)]
    return _named(frame, names) if names else frame.to_numpy()


def _separator(text):
    """What cuts the first rows of a table alike, into several cells; else its first into most."""
    rows = {}
    for mark in SEPARATORS:
        text.seek(0)
        cut = csv.reader(text, delimiter=mark, skipinitialspace=True)
        with contextlib.suppress(csv.Error):  # a line is too long for one cell
            rows[mark] = [row for row in itertools.islice(cut, SOME) if row]
            if len(set(map(len, rows[mark]))) == 1 < len(rows[mark][0]):
                return mark
    if _is_spaced(text):
        return " "
    first = {mark: len(of[0]) for mark, of in rows.items() if of}
    commas = [cell for row in rows.get("\t", ()) for cell in row if "," in cell]
    if {*first.values()} == {1} and all(map(COMMA.fullmatch, commas)):  # one column of numbers
        return "\t"
    return max(reversed(SEPARATORS), key=lambda mark: first.get(mark, 0))


def _is_spaced(text):
    """Whether spaces cut the first rows alike: with quotes, as R writes them, or into numbers.

    AuditError where the last are whole numbers, since names may hold such, too."""
    text.seek(0)
    lines = [line for line in itertools.islice(text, SOME) if line.strip()]
    try:
        first, *rows = csv.reader(lines, delimiter=" ", skipinitialspace=True)
        [width] = {*map(len, rows)}
    except (csv.Error, ValueError):  # a cell is too long; no rows, or of several widths
        return False
    if width < 2 or len(first) not in (width, width - 1):
        return False
    if any('"' in line for line in lines):
        return True
    cells = list(itertools.chain(*rows))
    if any("." in cell for cell in cells) and not np.isnan([*map(as_number, cells)]).any():
        return len(first) == width
    if len(first) == width and all(row[-1].isdecimal() for row in rows):
        raise AuditError(
            f"spaces cut its rows, such as {quoted(lines[-1].strip())}, into {width} cells; "
            "put tabs or commas between them, or quotes around names that hold spaces."
        )
    return False


def _named(frame, names):
    """The table with names of its columns, and the lists in its cells as arrays."""
    frame = frame.set_axis(names, axis=1)
    for name, values in frame.items():
        if (values == name).any():
            raise AuditError(
                f"its first line has {quoted(name)}, which is also a value below it; "
                "the first line must name the columns."
            )
        if len(values) and LIST.fullmatch(str(values.iloc[0])):
            rows = [np.fromstring(text.strip("[]").replace(",", " "), sep=" ") for text in values]
            frame[name] = pd.Series(rows, index=frame.index, dtype=object)
    return frame


def _header(first):
    """Names of the columns by the first line of a table; [] where that is a row of numbers.

    Whole numbers can be names, but not of one column: a file of labels that has lost its first row
    would go unnoticed.
    """
    names = [cell.strip().removeprefix("# ") for cell in first]  # as np.savetxt begins
    named = any(names) and all(names[1:])
    numbers = not any(np.isnan(as_number(name.replace(",", "."))) for name in names)
    if len(names) == 1:
        named = named and not numbers
    elif numbers and not all(map(str.isdecimal, names)):
        return []
    if not named:
        raise AuditError(
            f"its first line is {quoted(','.join(first))}; "
            "it must hold the names of the columns, such as label."
        )
    names[0] = names[0] or UNNAMED  # how pandas writes an index
    return names
