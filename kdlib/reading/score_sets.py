"""Columns with one score for each class: which of a table's columns form such a set.

A set is named as the classes are, has one stem and consecutive numbers (prob_0, prob_1, …), or is
all there is. N examples. What could mean two things raises an AuditError.
"""

import re

import numpy as np

from kdlib.reading.names import BESIDE, LABELS, PREDICTED, SCORES, called, kind_of, plain
from kdlib.reading.sentences import as_number, ends, listed, quoted
from kdlib.reading.values import as_numbers

CALLED = re.compile(r"(.*?)[ _.:/-]*(\d+)")  # such as prob_10
SUM_ERROR = 0.01  # of the probabilities of a row: half precision, a thousand classes
AGREES = 0.9  # share of predicted classes that must have the largest score
ENOUGH = 20  # rows in which an order says something


def score_set(found, names, y, given):
    """(columns, names of their classes, what is behind their stem, their kind if they say it).

    None if no columns of a Source form a set. names: of the columns that may. y: labels (N,) as
    read. given: names of the classes.
    """
    if len(given) > 1 and set(given) <= set(names):
        return tuple(given), tuple(given), (), ""
    own = names if _add_up(found, names) else set(y) if y.dtype == object else ()
    names = [n for n in names if n in own or plain(n) not in (*BESIDE, *PREDICTED)]
    return (
        _called_scores(found, names) or _numbered(found, names, y) or _all_there_is(found, names, y)
    )


def _add_up(found, names):
    """Whether columns are probabilities that add up to 1 in each row, whatever they are called."""
    values = [found.columns[name] for name in names]
    if len(values) < 2 or any(of.dtype.kind != "f" for of in values):
        return False
    return all(of.min() >= 0 for of in values) and np.abs(sum(values) - 1).max() <= SUM_ERROR


def _is_text(values):
    """Whether a column holds names: none of its values is a number, if only per cent."""
    some = values[:1000].tolist() if values.dtype.kind in "OUS" else []
    texts = [isinstance(v, str) and np.isnan(as_number(v.strip(" %"))) for v in some]
    return bool(texts) and all(texts) and any(some)


def _called_scores(found, names):
    """score_set of columns such as prob_0 or prob_cat; None without them."""
    families = _families(names, SCORES)
    if len(families) > 1:
        raise found.error(
            f"holds {len(families)} sets of scores, {listed(families)}; "
            "choose one as in FILE:prob_*."
        )
    for stem, members in families.items():
        columns, keys = _in_order(found, members)
        if plain(stem) != "class" and len(columns) > 2:
            some = [as_numbers(found, found.columns[name][:1000], name) for name in columns]
            falls = np.diff(np.column_stack(some), axis=1) <= 0
            if len(falls) >= ENOUGH and falls.all():
                raise found.error(
                    f"in each row {ends(columns)} fall, as the {len(columns)} highest scores do; "
                    "the scores of all classes are needed, or one column of predicted classes."
                )
        return columns, keys, keys, kind_of(stem)
    return None


def _numbered(found, names, y):
    """score_set of columns such as 0, 1, 2 or kind 0, kind 1; None without them."""
    families = _families(names, None)
    if len(families) != 1:
        return None
    ((stem, members),) = families.items()
    beside = called(found.columns, PREDICTED)
    if stem and beside and not _chosen_by(found, members, beside):
        return None
    columns, keys = _in_order(found, members)
    values = [found.columns[name] for name in columns]
    if all(of.dtype.kind in "iu" for of in values) and np.max(values, initial=0) > 1:
        raise found.error(
            f"{ends(columns)} hold whole numbers, as the predicted classes of several networks "
            "do; choose one of them, as in FILE:COLUMN, or call scores logit_0, logit_1, …."
        )
    left = [name for name in names if name not in columns]
    left = [name for name in left if found.columns[name].dtype.kind == "f"]
    labels = set(np.unique(y).astype(str))
    if left and stem and (labels <= set(keys) or labels <= set(columns)):
        raise found.error(
            f"{ends(columns)} look like one score for each class, but {quoted(left[0])} may be "
            "another; choose the scores, as in FILE:kind*, or name the classes (--classes)."
        )
    if left and stem:  # some labels are not in the set, so that it is not one
        return None
    by_number = keys[0] == "1" and y.dtype != object and y.min() > 0 and y.max() == len(keys)
    return columns, keys if by_number or not stem else columns, keys, ""


def _chosen_by(found, members, predicted):
    """Whether the largest of columns {number: name} is, in most rows, the class in `predicted`.

    If not they are no scores, but such as the two dimensions of an embedding."""
    scores = [found.columns[name] for name in members.values()]
    if any(of.dtype.kind not in "iuf" for of in scores):
        return False
    said = found.columns[predicted]
    keys = np.array([*members]).astype(said.dtype if said.dtype.kind in "iuf" else object)
    return (said == keys[np.column_stack(scores).argmax(axis=1)]).mean() >= AGREES


def _all_there_is(found, names, y):
    """score_set of columns that are named like classes; None of fewer than two."""
    named = y.dtype == object and set(y) <= set(names)
    if named:
        own = set(y)
        names = [name for name in names if name in own or not _is_text(found.columns[name])]
    if len(names) < 2 or not (named or called(found.columns, PREDICTED) is None):
        return None
    alone = [name for name in names if plain(name) in SCORES]
    if alone and not named:
        raise found.error(
            f"holds {listed(names)}, of which {quoted(alone[0])} may be one score for the second "
            "of two classes; choose one, as in FILE:COLUMN, or name the classes (--classes)."
        )
    if odd := _odd_whole_numbers(found, names):
        raise found.error(
            f"column {quoted(odd[0])} holds whole numbers, {quoted(odd[1])} does not; name the "
            "columns with scores, as in FILE:cat,dog,truck, or the classes (--classes)."
        )
    classes = tuple(names) if named or y.dtype != object else _named_inside(names, set(y))
    return tuple(names), classes, (), ""


def _named_inside(names, labels):
    """The names of the classes in those of columns, such as cat in Prob(cat).

    The names as they are where labels do not stand in them so.
    """
    longest = max(labels, key=len)
    for name in names:
        begin, found, end = name.partition(longest)
        if found and all(other.startswith(begin) and other.endswith(end) for other in names):
            inside = tuple(other[len(begin) : len(other) - len(end)] for other in names)
            if labels <= set(inside):
                return inside
    return tuple(names)


def _families(names, words):
    """{stem: {number or name: column}} of columns with one stem and numbers from 0 or 1 on.

    words: the stems that mean scores, behind which names or any numbers may stand; None: any.
    """
    found = {}
    for name in names:
        if plain(name) in LABELS:
            continue
        match = CALLED.fullmatch(name)
        stem, number = match.groups() if match else ("", "")
        if words and not (match and plain(stem) in words):
            stem, _, number = name.partition("_")
        if number and (words is None or plain(stem) in words):
            found.setdefault(stem, {})[number] = name
    sets = {}
    for stem, members in found.items():
        numbered = {key: name for key, name in members.items() if key.isdecimal()}
        numbers = sorted(map(int, numbered))
        counted = list(range(numbers[0], numbers[0] + len(numbers))) if numbers else []
        if len(numbers) > 1 and numbers == counted and numbers[0] in (0, 1):
            sets[stem] = numbered
        elif len(members) > 1 and words:
            sets[stem] = members
    return sets


def _in_order(found, members):
    """(columns, keys) of a family, by number where every key is one."""
    keys = list(members)
    if all(map(str.isdecimal, keys)):
        keys.sort(key=int)
    columns = tuple(members[key] for key in keys)
    if list(columns) != [name for name in found.columns if name in columns]:
        found.note(f"scores {ends(columns)}, ordered by their numbers.")
    return columns, tuple(keys)


def _odd_whole_numbers(found, names):
    """The first column of whole numbers among others that are none, and the first of these.

    None where all are alike, or all are from 0 to 1, as probabilities are.
    """
    values = [found.columns[name] for name in names]
    whole = [of.dtype.kind in "iu" for of in values]
    if all(whole) or not any(whole):
        return None
    if all(of.dtype.kind in "iuf" and ((of >= 0) & (of <= 1)).all() for of in values):
        return None
    return names[whole.index(True)], names[whole.index(False)]
