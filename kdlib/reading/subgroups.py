"""Groups that chosen columns make: their values, ranges of their numbers, and combinations (--by).

An entry of --by is the name of a column; column:K, its numbers in K ranges of about equal size; or
several of these with " x " between them, for the combinations that occur:

    --by sex "age:4" "sex x age:4"
    kdlib.audit(..., groups=table, by=["sex", "age:4", ("sex", "age:4")])

A text that is the name of a column means that column, whatever else it could mean. Only then it is
cut at " x ", and a part at its last colon. A tuple is a combination, of which no part is cut at
" x ": for columns that have it in their names. N examples.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kdlib.config import count_of, did_you_mean
from kdlib.reading.groups import OWN, _group_values, _grouped
from kdlib.reading.pairs import in_pairs
from kdlib.reading.sentences import AuditError, quoted, repeated
from kdlib.reading.values import as_numbers, missing

MOST_GROUPS = 10_000
MOST_RANGES = 100
BETWEEN = re.compile(r"\s+[x×]\s+")
RANGES = re.compile(r"(.+):\s*(\d{1,9})", re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """One column as groups."""

    index: np.ndarray  # (N,) int64: of each example, its place among the names
    values: list  # names of the groups where no other column makes any
    named: list  # the same with the name of the column


def groups_by(found, by):
    """Groups of the columns of a Source.

    by: what --by is given, a list of texts and tuples of texts. AuditError for what names no
    column, and for more groups than anybody reads.
    """
    wanted = _entries(found, by)
    parts = dict.fromkeys(part for entry in wanted for part in entry)
    cuts = {part: _cut(found, *part) for part in parts}
    names = []
    columns = []
    for entry in wanted:
        index, own = _combined([cuts[part] for part in entry], alone=len(wanted) == 1)
        columns.append(index + len(names))
        names += own
        if len(names) > MOST_GROUPS:
            raise found.error(
                f"--by makes {len(names):,} groups; more than {MOST_GROUPS:,} are not audited. "
                "Leave a column out, or cut numbers into ranges, as in 'age:4'."
            )
    if (name := repeated(names)) is not None:
        raise found.error(f"two groups are called {quoted(name)}; rename a column.")
    return _grouped(names, columns)


def used_by(found, by):
    """The Source, or None, with those columns alone that --by names; AuditError as groups_by."""
    if found is None:
        raise AuditError("--by names columns of --groups, and there is none.")
    used = {column for entry in _entries(found, by) for column, _ in entry}
    return found.with_columns({name: of for name, of in found.columns.items() if name in used})


# ---------------------------------------------------------------- what an entry says


def _entries(found, by):
    """[((column, number of ranges, or None for each value), ...)] of the entries of --by."""
    entries = [*by] if isinstance(by, (list, tuple)) else [by]
    if not entries:
        raise AuditError("--by needs one column of --groups at least.")
    wanted = [_parts(found, entry) for entry in entries]
    if (twice := repeated(wanted)) is not None:
        raise AuditError(f"--by {quoted(entries[wanted.index(twice)])}: is there twice.")
    return wanted


def _parts(found, entry):
    """((column, number of ranges or None), ...) of one entry."""
    columns = found.columns
    matrix = any(np.ndim(values) == 2 and np.shape(values)[1] != 1 for values in columns.values())
    if matrix or in_pairs(found) or [*columns] == [""]:
        raise found.error(
            "--by chooses among columns with names and a row for each example, not in a matrix, "
            "pairs of example and group, or one column without a name."
        )
    if isinstance(entry, str):
        texts = [entry] if entry in columns else BETWEEN.split(entry.strip())
    elif isinstance(entry, (tuple, list)):
        texts = [*entry]
    else:
        texts = []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise AuditError(
            f"--by {quoted(entry)}: an entry is text such as 'sex', 'age:4' or 'sex x age:4', "
            "or a tuple of such texts."
        )
    parts = tuple(_part(found, text, entry) for text in texts)
    if repeated(column for column, _ in parts) is not None:
        raise AuditError(f"--by {quoted(entry)}: combines a column with itself.")
    return parts


def _part(found, text, entry):
    """(column, number of ranges or None) of a text without combinations."""
    if text in found.columns:
        return text, None
    match = RANGES.fullmatch(text)
    if match and match[1] in found.columns:
        if not 2 <= int(match[2]) <= MOST_RANGES:
            raise AuditError(
                f"--by {quoted(text)}: a column is cut into 2 to {MOST_RANGES} ranges."
            )
        return match[1], int(match[2])
    known = did_you_mean(match[1] if match else text, found.columns)
    whole = "" if text == entry else f" (in {quoted(entry)})"
    raise found.error(f"--by {quoted(text)}{whole}: no column is called so; {known}")


# ---------------------------------------------------------------- columns into groups


def _cut(found, column, parts):
    """The Cut of a column: each value a group, or its numbers in some ranges."""
    if parts is None:
        # numbers by size, names by alphabet
        there, index = np.unique(_group_values(found, column), return_inverse=True)
        values = [str(value) for value in there]
        return Cut(index, values, [f"{column}={value}" for value in values])
    what = f"group {quoted(column)}"
    values = found.columns[column].ravel()
    empty = missing(values)  # only where these were asked to be a group of their own
    filled = values.copy()
    filled[empty] = 0
    numbers = np.asarray(as_numbers(found, filled, what), dtype=np.float64)
    found.refuse(~np.isfinite(numbers), numbers, what, "a number, which a range needs")
    index = np.full(len(values), -1)
    index[~empty], ends = ranges(numbers[~empty], parts)
    if len(ends) < parts:
        how = f"{count_of(len(ends), 'range')}, not {parts}"
        found.note(f"{column} is cut into {how}: many examples have the same value.")
    named = [f"{column} {low}" + f" to {high}" * (low != high) for low, high in ends]
    if empty.any():
        missed = count_of(int(empty.sum()), "example")
        found.note(f"{quoted(column)} is missing in {missed}, a group that is called {OWN}.")
        index[empty] = len(named)
        named.append(f"{column}={OWN}")
    return Cut(index, named, named)


def ranges(numbers, parts):
    """Numbers (N,) in at most `parts` ranges of about equal size; equal numbers stay together.

    (of each number its range, (N,) int64; the ends of each range as text). A number is in the range
    where the middle of its ties would be, so that a value that half of the examples have is one
    range, and there are fewer.
    """
    share = (rankdata(numbers) - 0.5) / len(numbers)
    _, index = np.unique((share * parts).astype(np.int64), return_inverse=True)
    by_range = pd.Series(numbers).groupby(index)
    return index, written(np.column_stack([by_range.min(), by_range.max()]))


def written(ends):
    """[(low, high)] as text, of ends (K, 2) in order, with as few digits as tell ranges apart.

    Neighbours may share an end, rounded.
    """
    for digits in range(3, 18):
        texts = [(_written(low, digits), _written(high, digits)) for low, high in ends]
        collapsed = [low == high for low, high in texts]
        if len(set(texts)) == len(texts) and np.array_equal(collapsed, ends[:, 0] == ends[:, 1]):
            break
    return texts


def _written(value, digits):
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"
    if not 1e-4 < abs(value) < 1e15:
        return f"{value:.{digits}g}"
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def _combined(cuts, alone):
    """(index (N,), names): the combinations of some Cuts that occur, ordered as the Cuts are."""
    if len(cuts) == 1:
        return cuts[0].index, cuts[0].values if alone else cuts[0].named
    table = pd.DataFrame({k: cut.index for k, cut in enumerate(cuts)})
    index = table.groupby([*table], sort=True).ngroup().to_numpy()
    there = table.drop_duplicates().sort_values([*table])
    names = []
    for row in there.itertuples(index=False):
        names.append(", ".join(cut.named[k] for cut, k in zip(cuts, row, strict=True)))
    return index, names
