"""Groups that columns make: their values, ranges of their numbers, and combinations (--by).

An entry of --by is the name of a column; column:K, its numbers in K ranges of about equal size; or
several of these with " x " between them, for the combinations that occur:

    --by sex "age:4" "sex x age:4"
    kdlib.audit(..., groups=table, by=["sex", "age:4", ("sex", "age:4")])

A text that is the name of a column means that column, whatever else it could mean. Only then it is
cut at " x ", and a part at its last colon. A tuple is a combination, of which no part is cut at
" x ": for columns that have it in their names. N examples.
"""

import re

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kdlib.config import count_of, did_you_mean
from kdlib.evidence.resample import Groups
from kdlib.reading.sentences import AuditError, quoted, repeated
from kdlib.reading.values import as_numbers, missing, names_or_numbers, vector

MOST_GROUPS = 10_000  # of --by
MOST_RANGES = 100
MOST_VALUES = 50  # different fractions in a column of groups
NUMBERS = 20  # in a column of groups, above which ranges are proposed
MANY = 20  # examples from which a column without a value twice is no column of groups
OWN = "missing"  # what the group of examples without a value is called
BETWEEN = re.compile(r"\s+[x×]\s+")
RANGES = re.compile(r"(.+):\s*(\d{1,9})", re.DOTALL)


def groups_by(found, by=None):
    """Groups of the columns of a Source, each with a row for each example.

    by: what --by is given, a list of texts and tuples of texts; None: each column by its values.
    AuditError for what names no column, and for more groups than anybody reads.
    """
    wanted = [((column, None),) for column in found.columns]
    if by is not None:
        wanted = entries(found, by)
    parts = dict.fromkeys(part for entry in wanted for part in entry)
    alone = len(wanted) == len(parts) == 1
    cuts = {part: _cut(found, *part, alone) for part in parts}
    names = []
    groups = []
    for entry in wanted:
        index, own = _combined([cuts[part] for part in entry])
        groups.append(index + len(names))
        names += own
        column = entry[0][0]
        many = by is None and column and len(own) > NUMBERS
        if many and found.columns[column].dtype.kind in "iuf":
            found.note(
                f"{quoted(column)} has {len(own)} numbers, each of them a group; --by "
                f"{quoted(f'{column}:4')} makes ranges."
            )
        if by is not None and len(names) > MOST_GROUPS:
            raise found.error(
                f"--by makes {len(names):,} groups; more than {MOST_GROUPS:,} are not audited. "
                "Leave a column out, or cut numbers into ranges, as in 'age:4'."
            )
    if (name := repeated(names)) is not None:
        raise found.error(f"two groups are called {quoted(name)}; rename a column.")
    group = np.concatenate(groups)
    order = np.argsort(group, kind="stable")
    return Groups(tuple(names), order % len(groups[0]), group[order])


# ---------------------------------------------------------------- what an entry says


def entries(found, by):
    """[((column, number of ranges, or None for each value), ...)] of the entries of --by."""
    given = [*by] if isinstance(by, (list, tuple)) else [by]
    if not given:
        raise AuditError("--by needs one column of --groups at least.")
    wanted = [_parts(found, entry) for entry in given]
    if (twice := repeated(wanted)) is not None:
        raise AuditError(f"--by {quoted(given[wanted.index(twice)])}: is there twice.")
    return wanted


def _parts(found, entry):
    """((column, number of ranges or None), ...) of one entry."""
    if isinstance(entry, str):
        texts = [entry] if entry in found.columns else BETWEEN.split(entry.strip())
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


def _cut(found, column, parts, alone):
    """((N,) int64, names): the values of a column as groups, or its numbers in `parts` ranges.

    alone: no other column makes groups, so that values need not say whose they are.
    """
    called = f"group {quoted(column)}" if column else "group"
    values = vector(found, found.columns[column], called)
    empty = missing(values)  # only where these were asked to be a group of their own
    index = np.empty(len(values), dtype=np.int64)
    prefix = "" if alone and not parts else f"{column}="
    if parts:
        index[~empty], names = _in_ranges(found, column, values, empty, parts)
    else:
        read = _checked(found, column, values[~empty], called)
        there, index[~empty] = np.unique(read, return_inverse=True)  # by size, or by alphabet
        names = [f"{prefix}{value}" for value in there]
    if empty.any():
        of = quoted(column) if column else "a group"
        missed = count_of(int(empty.sum()), "example")
        found.note(f"{of} is missing in {missed}, a group that is called {OWN}.")
        own = f"{prefix}{OWN}"
        names += [own] if own not in names else []
        index[empty] = names.index(own)
    return index, names


def _checked(found, column, values, called):
    """Values of a column as names or numbers; AuditError for those that can be no groups."""
    finite = values.dtype.kind == "f" and np.isfinite(values).all()
    if finite and (values != np.floor(values)).any():
        if (many := len(np.unique(values))) > MOST_VALUES:
            how = f"as --by {quoted(f'{column}:4')} does" if column else "as in a table with --by"
            raise found.error(f"{called} has {many} different numbers; cut it into ranges, {how}.")
        return values
    if values.dtype.kind == "b":  # groups called False and True
        values = values.astype(object)
    read = names_or_numbers(found, values, called)
    if len(read) >= MANY and len(np.unique(read)) == len(found.columns[column]):
        raise found.error(
            f"{called} has another value in each of {len(read):,} rows; "
            "ids must be called id, and groups have more than one example."
        )
    return read


def _in_ranges(found, column, values, empty, parts):
    """(range of each number that is not empty, (N,) bool; their names)."""
    what = f"group {quoted(column)}"
    filled = np.where(empty, 0, values)
    numbers = np.asarray(as_numbers(found, filled, what), dtype=np.float64)
    found.refuse(~np.isfinite(numbers), numbers, what, "a number, which a range needs")
    index, ends = ranges(numbers[~empty], parts)
    if len(ends) < parts:
        how = f"{count_of(len(ends), 'range')}, not {parts}"
        found.note(f"{column} is cut into {how}: many examples have the same value.")
    return index, [f"{column} {low}" + f" to {high}" * (low != high) for low, high in ends]


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


def _combined(cuts):
    """(index (N,), names): the combinations of some cuts that occur, ordered as the cuts are."""
    if len(cuts) == 1:
        return cuts[0]
    table = pd.DataFrame({k: index for k, (index, _) in enumerate(cuts)})
    index = table.groupby([*table], sort=True).ngroup().to_numpy()
    names = []
    for row in table.drop_duplicates().sort_values([*table]).itertuples(index=False):
        names.append(", ".join(own[k] for (_, own), k in zip(cuts, row, strict=True)))
    return index, names
