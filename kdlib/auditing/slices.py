"""What slices are made of: conditions on the columns of a table, a value or a range of numbers.

Nothing is refused: missing values are a value of their own, and what cannot make a group is passed
over, with the reason. N examples, M conditions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.reading.sentences import encodable
from kdlib.reading.subgroups import ranges, written
from kdlib.reading.values import MISSING

RANGES = 4  # of numbers, of which neighbours are also taken together
EACH_VALUE = 6  # different numbers, up to which each is a range of its own
LEAST, LEAST_SHARE = 10, 0.005  # examples of a slice in the half that is searched
BLANK = ("", "NA", "N/A", "NaN", "nan", "null", *MISSING)  # where the rest of a column is numbers


@dataclass(frozen=True)
class Conditions:
    """M conditions: that the code of a column lies in a range."""

    codes: np.ndarray  # (columns, N) int32
    column: np.ndarray  # (M,) row of codes
    low: np.ndarray  # (M,)
    high: np.ndarray  # (M,), included
    words: tuple  # (M,) text

    def hold(self, some, examples):
        """(m, n) bool: which of some conditions hold for which examples; both are indices."""
        codes = self.codes[np.ix_(self.column[some], examples)]
        return (codes >= self.low[some, None]) & (codes <= self.high[some, None])

    def members(self, parts):
        """(N,) bool: where all of some conditions hold."""
        return self.hold(np.array(parts), np.arange(self.codes.shape[1])).all(axis=0)


def conditions_of(found):
    """(Conditions, {reason: columns that are passed over}) of a Source."""
    codes = []
    parts = []  # (column, low, high, words)
    passed_over = {}
    for name, values in found.columns.items():
        column, runs = _coded(name or "value", values)
        if column is None:
            passed_over.setdefault(runs, []).append(name)
            continue
        sizes = np.r_[0, np.bincount(column).cumsum()]
        fewest = least(len(column))
        large = [run for run in runs if sizes[run[1] + 1] - sizes[run[0]] >= fewest]
        if not large:
            passed_over.setdefault("no value is frequent enough", []).append(name)
            continue
        parts += [(len(codes), *run) for run in large]
        codes.append(column)
    column, low, high, words = zip(*parts, strict=True) if parts else ((), (), (), ())
    where = (np.array(values, dtype=np.int64) for values in (column, low, high))
    return Conditions(np.array(codes, dtype=np.int32), *where, words), passed_over


def least(n):
    """Examples that a slice of n examples has at least."""
    return max(LEAST, int(np.ceil(LEAST_SHARE * n)))


def _coded(name, values):
    """(codes (N,), [(low, high, words)]) of a column, or (None, why it is passed over).

    Missing values have a code of their own, the last.
    """
    if np.ndim(values) != 1:
        return None, "several values an example"
    values = pd.Series(values, dtype=object)
    words = values.map(lambda value: encodable(str(value)).strip())
    missing = (values.isna() | words.isin(BLANK)).to_numpy()
    numbers = pd.to_numeric(words.where(~missing), errors="coerce").to_numpy(np.float64)
    numeric = np.isfinite(numbers[~missing]).all()
    if not numeric:  # then NA and null may be names
        missing = (values.isna() | (words == "")).to_numpy()
    known = ~missing
    different = pd.Series(numbers if numeric else words)[known].nunique()
    if different + missing.any() < 2:
        return None, "one value throughout"
    fractions = numeric and (numbers[known] != np.floor(numbers[known])).any()
    if different == known.sum() and not fractions:
        return None, "all values are different"
    codes = np.empty(len(values), dtype=np.int64)
    if numeric:
        codes[known], runs = _number_runs(name, numbers[known], different)
    else:
        codes[known], there = pd.factorize(words[known], sort=True)
        runs = [(k, k, f"{name}={word}") for k, word in enumerate(there)]
    codes[missing] = codes[known].max() + 1
    if missing.any():
        runs.append((codes.max(), codes.max(), f"{name} is missing"))
    return codes, runs


def _number_runs(name, numbers, different):
    """(codes, [(low, high, words)]): ranges of numbers, and neighbouring ranges together."""
    if different <= EACH_VALUE:
        there, codes = np.unique(numbers, return_inverse=True)
        ends = written(np.column_stack([there, there]))
    else:
        codes, ends = ranges(numbers, RANGES)
    runs = []
    last = len(ends) - 1
    for low in range(last + 1):
        for high in range(low, last + 1):
            if (low, high) != (0, last):
                runs.append((low, high, _in_words(name, ends, low, high)))
    return codes, runs


def _in_words(name, ends, low, high):
    least_there, most = ends[low][0], ends[high][1]
    if least_there == most:
        return f"{name}={most}"
    if low == 0:
        return f"{name} up to {most}"
    if high == len(ends) - 1:
        return f"{name} from {least_there} on"
    return f"{name} {least_there} to {most}"
