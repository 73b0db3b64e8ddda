"""What an audit reads: labels, predictions, groups, weights, from arrays or npz, npy, CSV and Parquet. No torch.

Every refusal is one sentence: the file, the row (counted from 0, without a header), the value, what is allowed."""

import csv
import difflib
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlib.config import KdlibError

KINDS = ("auto", "logits", "probabilities", "classes")
ALLOWED = "npz, npy, CSV (.csv) and Parquet (.parquet) are read"
LABEL_NAMES = ("label", "labels", "y")
REDUCED = ("predicted", "log_p_label", "log_p_predicted")   # of who keeps no scores: all that an audit needs of them
SUM_ERROR = 0.01       # of the probabilities of a row: half precision, a thousand classes
FLOOR = np.log(1e-12)  # of log-probabilities, so that one certain mistake does not make the log-loss infinite
CHUNK = 1 << 23        # scores converted at once


class AuditError(KdlibError):
    """Input that an audit cannot use."""


@dataclass(frozen=True)
class Outputs:
    """What one model says of each example. The last two are None where only predicted classes are known."""

    predicted: np.ndarray                # (N,) int64
    log_p_label: np.ndarray | None       # (N,) float64, log-probability of the label
    log_p_predicted: np.ndarray | None   # (N,) float64, of the predicted class

    @property
    def scored(self):
        return self.log_p_label is not None


@dataclass(frozen=True)
class Groups:
    """Subgroups that may overlap: pairs of (example, group), sorted by group; every group has a member."""

    names: tuple
    example: np.ndarray   # (M,) int64
    group: np.ndarray     # (M,) int64, index into names

    @property
    def disjoint(self):
        """Whether no example is in two groups."""
        return len(np.unique(self.example)) == len(self.example)

    def sums(self, values):
        """(..., N) -> (..., G), the sum of each group."""
        starts = np.flatnonzero(np.diff(self.group, prepend=-1))
        return np.add.reduceat(values[..., self.example], starts, axis=-1)


@dataclass(frozen=True)
class Source:
    """One input as it lies there: columns by name, in order, and what it is called in sentences."""

    name: str
    columns: dict      # name: array; (N,) or (N, C)
    ids: np.ndarray | None
    sha256: str = ""   # of the file

    def one(self, wanted, what):
        """The array among `columns` that is named so, or the only one there is."""
        for name in wanted:
            if name in self.columns:
                return self.columns[name]
        if len(self.columns) == 1:
            return next(iter(self.columns.values()))
        raise AuditError(f"{self.name}: holds {_listed(self.columns)}; call the one with {what} {' or '.join(wanted)}.")


def _listed(names):
    names = [str(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


# ---------------------------------------------------------------- files

def source(given, role):
    """The Source of an argument: a path, an array, a DataFrame, or a dictionary of arrays; role names it if it has no file."""
    if isinstance(given, Source):
        return given
    if not isinstance(given, (str, Path)):
        return _in_memory(given, role)
    path = Path(given)
    read = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise AuditError(f"{path}: ends in {path.suffix or 'nothing'!r}, but only {ALLOWED}.")
    try:
        columns = read(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise AuditError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise AuditError(f"{path}: is a folder; name the file.") from None
    except AuditError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, MemoryError, csv.Error) as error:
        raise AuditError(f"{path}: not a readable {path.suffix[1:]} file ({_first_line(error)}).") from None
    return _with_ids(str(path), columns, sha256)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _npy(path):
    return {"": np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz(path):
    with np.load(path, allow_pickle=False) as arrays:
        if not hasattr(arrays, "files"):
            raise AuditError(f"{path}: is a npy file; rename it to end in .npy.")
        return {name: arrays[name] for name in arrays.files}


def _csv(path):
    import pandas as pd
    with open(path, newline="", encoding="utf-8-sig") as file:   # UnicodeDecodeError is a ValueError
        first = next(csv.reader(file), [])
    if not first:
        raise AuditError(f"{path}: is empty.")
    named = not all(_is_number(cell) for cell in first)
    if len(set(first)) < len(first) and named:
        raise AuditError(f"{path}: two columns are called {next(c for c in first if first.count(c) > 1)!r}.")
    frame = pd.read_csv(path, header=0 if named else None, keep_default_na=False, encoding="utf-8-sig", index_col=False,
                        low_memory=False)
    if named:
        frame.columns = first
    return _frame(frame)


def _is_number(text):
    try:
        float(text)
        return True
    except ValueError:
        return False


def _parquet(path):
    import pandas as pd
    try:
        return _frame(pd.read_parquet(path))
    except (OSError, ValueError, KeyError):
        raise
    except Exception as error:   # pyarrow's own classes, which would have to be imported to be named
        raise AuditError(f"{path}: not a readable parquet file ({_first_line(error)}).") from None


def _frame(frame):
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _in_memory(given, role):
    if isinstance(given, dict):
        columns = {str(name): np.asarray(values) for name, values in given.items()}
    elif hasattr(given, "columns"):
        columns = _frame(given)
    else:
        try:
            columns = {"": np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)}   # a tensor
        except (ValueError, TypeError) as error:   # ragged lists, among others
            raise AuditError(f"{role}: no array ({_first_line(error)}).") from None
    return _with_ids(role, columns)


def _with_ids(name, columns, sha256=""):
    ids = columns.pop("id", None) if len(columns) > 1 else None
    if not columns:
        raise AuditError(f"{name}: holds no column.")
    return Source(name, columns, ids, sha256)


# ---------------------------------------------------------------- labels and predictions

def labels_of(given):
    """(y as read, (N,) ints or strings; its Source)."""
    found = source(given, "labels")
    y = _one_column(found.one(LABEL_NAMES, "the labels"), found.name, "labels")
    if not len(y):
        raise AuditError(f"{found.name}: holds no label.")
    return y, found


def _one_column(values, name, what):
    """(N,) int64 or str; AuditError for anything else."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise AuditError(f"{name}: {what} must be one column, not of shape {values.shape}.")
    if values.dtype.kind in "OUST":
        text = np.array([v if isinstance(v, str) else str(v) for v in values.tolist()], dtype=object)
        numbers = [t for t in text if t.strip().lstrip("+-").isdecimal()]
        if len(numbers) == len(text):   # digits as text, of a column that was quoted
            return np.array([int(t) for t in text], dtype=object).astype(_safe(text, name, what))
        if (empty := np.flatnonzero(text == "")).size:
            raise AuditError(f"{name}: {what} in row {empty[0]} is empty.")
        return text.astype(str)
    return _whole(values, name, what)


def _safe(text, name, what):
    for row, t in enumerate(text):
        if abs(int(t)) > 2**62:
            raise AuditError(f"{name}: {what} {t[:40]} in row {row} is too large.")
    return np.int64


def _whole(values, name, what):
    """(N,) int64 of numbers without a fraction."""
    if values.dtype.kind not in "iufb":
        raise AuditError(f"{name}: {what} must be whole numbers or names, not {values.dtype}.")
    with np.errstate(invalid="ignore"):
        wrong = ~np.isfinite(values) | (np.abs(values.astype(np.float64)) > 2**62)
        wrong |= values != np.floor(values) if values.dtype.kind == "f" else False
    if wrong.any():
        row = int(np.argmax(wrong))
        raise AuditError(f"{name}: {what} {values[row]} in row {row} is no whole number.")
    return values.astype(np.int64)


def classes_of(y, sources, class_names=None):
    """Names of the classes, in the order of the scores: those given, else the columns' own, else the names that occur,
    else 0, 1, 2, ... as many as the scores have or the largest number says."""
    if class_names is not None:
        return _given_names(class_names)
    scores = [s for s in sources if _score_columns(s)]
    widths = {s.name: len(_score_columns(s)) if _score_columns(s)[0] else _matrix_of(s).shape[1] for s in scores}
    if len(set(widths.values())) > 1:
        (a, m), (b, n) = next((p, q) for p in widths.items() for q in widths.items() if p[1] != q[1])
        raise AuditError(f"{b} has {n} classes, but {a} has {m}.")
    for s in scores:
        names = _score_columns(s)
        if names[0] and not all(_is_number(name) for name in names):
            return tuple(names)
    chosen = [_one_column(s.one(("predicted",), "the predicted classes"), s.name, "class") for s in sources if s not in scores]
    if any(values.dtype.kind == "U" for values in (y, *chosen)):
        if scores:
            raise AuditError(f"{scores[0].name}: the labels are names, so the columns must be named after the classes, or "
                             "the names given in order (--classes).")
        return tuple(sorted({str(v) for values in (y, *chosen) for v in values.tolist()}))
    count = next(iter(widths.values()), 0) or 1 + max(int(values.max()) for values in (y, *chosen))
    if count > 2**20:
        raise AuditError(f"the labels run to {count - 1}; more than a million classes are not audited.")
    return tuple(str(k) for k in range(count))


def _given_names(names):
    if isinstance(names, (str, Path)):
        path = Path(names)
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise AuditError(f"{path}: class names cannot be read ({_first_line(error)}); one name per line.") from None
    names = tuple(str(name).strip() for name in names)
    for name in names:
        if not name or names.count(name) > 1:
            raise AuditError(f"class names: {name!r} is {'empty' if not name else 'there twice'}; each class has its own name.")
    return names


def _score_columns(found):
    """Names of the columns with scores, [""] if one array holds them all; [] if there are only classes."""
    if set(REDUCED) & set(found.columns):
        return []
    for name in ("logits", "probabilities", ""):
        if name in found.columns and np.ndim(found.columns[name]) == 2 and found.columns[name].shape[1] > 1:
            return [""]
    flat = [name for name in found.columns if name not in LABEL_NAMES]
    if len(flat) == 1 and np.ndim(found.columns[flat[0]]) == 2 and found.columns[flat[0]].shape[1] > 1:
        return [""]
    return flat if len(flat) > 1 and all(np.ndim(found.columns[name]) == 1 for name in flat) else []


def _matrix_of(found):
    names = _score_columns(found)
    if names == [""]:
        return next(v for k, v in found.columns.items() if k not in LABEL_NAMES and np.ndim(v) == 2)
    columns = []
    for name in names:
        values = found.columns[name]
        if values.dtype.kind not in "iufb":
            row = next((i for i, v in enumerate(values.tolist()) if not _is_number(v)), 0)
            raise AuditError(f"{found.name}: column {name!r} has {str(values[row])[:40]!r} in row {row}, which is no number.")
        columns.append(values)
    return np.column_stack(columns)


def coded(values, names, name, what):
    """(N,) int64 index into names of whole numbers or names."""
    if values.dtype.kind == "U":
        at = {known: k for k, known in enumerate(names)}
        missing = np.array([v not in at for v in values.tolist()])
        if missing.any():
            row = int(np.argmax(missing))
            near = difflib.get_close_matches(values[row], names, n=1)
            raise AuditError(f"{name}: {what} {values[row][:60]!r} in row {row} is no class" +
                             (f"; did you mean {near[0]!r}?" if near else f"; known are {_listed(names)}."))
        return np.array([at[v] for v in values.tolist()], dtype=np.int64)
    if (wrong := (values < 0) | (values >= len(names))).any():
        row = int(np.argmax(wrong))
        raise AuditError(f"{name}: {what} {values[row]} in row {row} is not from 0 to {len(names) - 1}.")
    return values


def check_rows(found, n, first):
    """AuditError unless a Source has n rows, the ids of the first Source that has some, and its labels if it repeats them."""
    for name, values in found.columns.items():
        if np.ndim(values) == 0 or len(values) != n:
            many = "no rows" if np.ndim(values) == 0 else f"{len(values)} rows"
            raise AuditError(f"{found.name}: {name + ' has ' if name else ''}{many}, but {first.name} has {n}.")
    if found.ids is not None and first.ids is not None:
        differ = np.array([str(a) != str(b) for a, b in zip(found.ids, first.ids, strict=True)])
        if differ.any():
            row = int(np.argmax(differ))
            raise AuditError(f"{found.name}: row {row} has id {found.ids[row]}, but {first.name} has {first.ids[row]} there; "
                             "the same examples must come in the same order.")


def outputs(found, y, names, kind="auto"):
    """Outputs of a Source of scores (N, C), of predicted classes (N,), or of the columns in REDUCED.

    y (N,) int64; names of the classes. kind: what scores are; "auto" calls them probabilities if every row is one."""
    for name in LABEL_NAMES:
        if name in found.columns and len(found.columns) > 1:
            again = coded(_one_column(found.columns[name], found.name, "label"), names, found.name, "label")
            if (differ := again != y).any():
                row = int(np.argmax(differ))
                raise AuditError(f"{found.name}: its own label in row {row} is {names[again[row]]}, but the labels say "
                                 f"{names[y[row]]}; the same examples must come in the same order.")
    if not _score_columns(found):
        return _unscored(found, names)
    if kind == "classes":
        raise AuditError(f"{found.name}: --kind classes needs one column of predicted classes.")
    scores = _matrix_of(found)
    if scores.shape[1] != len(names):
        raise AuditError(f"{found.name}: has {scores.shape[1]} columns of scores for {len(names)} classes.")
    own = _score_columns(found)
    if own != [""] and not all(map(_is_number, own)) and own != list(names):
        if set(own) != set(names):
            foreign = next(c for c in own if c not in names)
            raise AuditError(f"{found.name}: its column {foreign!r} is no class; known are {_listed(names)}.")
        scores = scores[:, [own.index(name) for name in names]]
    if scores.dtype.kind not in "iufb":
        raise AuditError(f"{found.name}: scores must be numbers, not {scores.dtype}.")
    likely = _likely_probabilities(scores, found.name, kind)
    return Outputs(*_reduced(scores, y, likely))


def _unscored(found, names):
    chosen = found.one(("predicted",), "the predicted classes")
    predicted = coded(_one_column(chosen, found.name, "class"), names, found.name, "class")
    if "log_p_label" not in found.columns:
        return Outputs(predicted, None, None)
    parts = []
    for name in REDUCED[1:]:
        if name not in found.columns:
            raise AuditError(f"{found.name}: has log_p_label but no {name}.")
        values = np.asarray(found.columns[name])
        if values.dtype.kind not in "iuf" or values.ndim != 1:
            raise AuditError(f"{found.name}: {name} must be one column of numbers.")
        values = values.astype(np.float64)
        if (wrong := ~(values <= 1e-6)).any():   # NaN too
            row = int(np.argmax(wrong))
            raise AuditError(f"{found.name}: {name} is {values[row]} in row {row}; a log-probability is 0 or less.")
        parts.append(np.clip(values, FLOOR, 0))
    return Outputs(predicted, *parts)


def _chunks(scores):
    rows = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(scores), rows):
        yield start, np.asarray(scores[start:start + rows], dtype=np.float64)


def _likely_probabilities(scores, name, kind):
    """Whether scores are probabilities; AuditError for NaN, +inf, a row that is none, or if it cannot be told."""
    like, odd = 0, None
    for start, part in _chunks(scores):
        wrong = np.isnan(part) | (part == np.inf)
        wrong[np.isneginf(part).all(axis=1)] = True
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise AuditError(f"{name}: {part[row, column]} in row {start + row}, column {column}; scores must be finite numbers.")
        with np.errstate(invalid="ignore"):   # inf - inf of a masked logit
            ok = (part >= 0).all(axis=1) & (part <= 1 + SUM_ERROR).all(axis=1) & (np.abs(part.sum(axis=1) - 1) <= SUM_ERROR)
        like += np.count_nonzero(ok)
        if not ok.all():
            at = int(np.argmin(ok))
            odd = odd or (start + at, part[at].min(), part[at].max(), part[at].sum())
            if kind == "logits" or kind == "auto" and not like:
                continue
            if kind == "probabilities" or like:
                break
    if kind == "logits" or not odd:
        return kind != "logits"
    row, low, high, total = odd
    said = f"row {row} has values from {low:.4g} to {high:.4g} with the sum {total:.4g}"
    if kind == "probabilities":
        raise AuditError(f"{name}: {said}; probabilities lie between 0 and 1 and add up to 1.")
    if like or (low >= 0 and high <= 1):
        raise AuditError(f"{name}: {said}, " + ("while other rows are probabilities" if like else "like neither logits nor "
                         "probabilities") + "; if these are logits, say so with --kind logits.")
    return False


def _reduced(scores, y, probabilities):
    """(predicted, log p of the label, log p of the predicted), each (N,), of scores (N, C) in chunks."""
    predicted, label, top = np.empty(len(scores), np.int64), np.empty(len(scores)), np.empty(len(scores))
    for start, part in _chunks(scores):
        part_y, some = y[start:start + len(part)], slice(start, start + len(part))
        rows = np.arange(len(part))
        best = part.argmax(axis=1)
        if probabilities:
            with np.errstate(divide="ignore"):
                value = lambda k, p=part, rows=rows: np.log(p[rows, k] / p.sum(axis=1))   # noqa: E731
                predicted[some], label[some], top[some] = best, value(part_y), value(best)
        else:
            highest = part[rows, best]
            total = highest + np.log(np.exp(part - highest[:, None]).sum(axis=1))
            predicted[some], label[some], top[some] = best, part[rows, part_y] - total, highest - total
    return predicted, np.clip(label, FLOOR, 0), np.clip(top, FLOOR, 0)


# ---------------------------------------------------------------- groups, weights, counts

def groups_of(found, n, y, names):
    """Groups from one column of names or numbers, several columns (each value of each is a group, called column=value), or
    a matrix (N, G) of 0 and 1 (its columns may overlap); None: the classes that occur."""
    if found is None:
        kept = np.unique(y)
        return _grouped(tuple(names[k] for k in kept), np.searchsorted(kept, y))
    matrix = next((v for v in found.columns.values() if np.ndim(v) == 2 and np.shape(v)[1] != 1), None)
    if matrix is not None:
        return _overlapping(np.asarray(matrix), found)
    names, example, group = [], [], []
    for column, values in found.columns.items():
        values = np.asarray(values)
        if values.dtype.kind == "f" and np.isfinite(values).all() and (values != np.floor(values)).any():
            if (many := len(np.unique(values))) > 50:
                raise AuditError(f"{found.name}: column {column!r} has {many} different numbers; cut it into ranges first.")
        else:
            values = _one_column(values, found.name, f"group {column!r}" if column else "group")
        there, index = np.unique(values, return_inverse=True)   # numbers by size, names by alphabet
        prefix = f"{column}=" if len(found.columns) > 1 else ""
        group.append(index + len(names))
        example.append(np.arange(n))
        names += [f"{prefix}{v:g}" if values.dtype.kind == "f" else f"{prefix}{v}" for v in there.tolist()]
    return _grouped(tuple(names), np.concatenate(group), np.concatenate(example))


def _grouped(names, group, example=None):
    example = np.arange(len(group)) if example is None else example
    order = np.argsort(group, kind="stable")
    return Groups(names, example[order].astype(np.int64), group[order].astype(np.int64))


def _overlapping(matrix, found):
    if matrix.dtype.kind not in "iufb" or not np.isin(matrix, (0, 1)).all():
        raise AuditError(f"{found.name}: a matrix of groups holds 0 and 1 only, one column for each group.")
    if "names" in found.columns and len(found.columns["names"]) != matrix.shape[1]:
        raise AuditError(f"{found.name}: has {len(found.columns['names'])} names for {matrix.shape[1]} groups.")
    names = [str(v) for v in found.columns.get("names", [f"group {g}" for g in range(matrix.shape[1])])]
    if (empty := np.flatnonzero(~(matrix > 0).any(axis=0))).size:
        raise AuditError(f"{found.name}: {names[empty[0]]!r} has no example; leave empty groups out.")
    group, example = np.nonzero(matrix.T)
    return _grouped(tuple(names), group, example)


def weights_of(found, n):
    """(N,) float64 of a Source, 1 where it is None; AuditError for negative or missing ones."""
    if found is None:
        return np.ones(n)
    values = np.asarray(found.one(("weight", "weights"), "the weights"))
    if values.dtype.kind not in "iufb" or values.ndim != 1:
        raise AuditError(f"{found.name}: weights must be one column of numbers.")
    values = values.astype(np.float64)
    if (wrong := ~(np.isfinite(values) & (values >= 0))).any():
        row = int(np.argmax(wrong))
        raise AuditError(f"{found.name}: weight {values[row]} in row {row}; weights are finite and not negative.")
    return values


def counts_of(found, groups):
    """(G,) training examples of each group: one number per group in order, or columns group and count."""
    columns = list(found.columns.values())
    if len(columns) == 2:
        named = dict(zip([str(v) for v in columns[0].tolist()], columns[1].tolist(), strict=True))
        if missing := [name for name in groups.names if name not in named]:
            raise AuditError(f"{found.name}: has no count for group {missing[0]!r}.")
        counts = np.array([named[name] for name in groups.names])
    else:
        counts = _one_column(found.one(("count", "counts"), "the counts"), found.name, "count")
    if len(counts) != len(groups.names):
        raise AuditError(f"{found.name}: has {len(counts)} counts for {len(groups.names)} groups.")
    counts = _whole(np.asarray(counts), found.name, "count")
    if (counts < 0).any():
        raise AuditError(f"{found.name}: count {counts.min()} in row {int(counts.argmin())} is negative.")
    return counts
