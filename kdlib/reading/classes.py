"""What the classes are called, and which class a label or a predicted class is.

N examples, C classes. Whatever cannot be used raises an AuditError.
"""

import difflib
import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdlib.config import count_of
from kdlib.reading.read import Source
from kdlib.reading.sentences import AuditError, listed, printable, quoted, reason, repeated
from kdlib.reading.values import WHOLE, all_whole, texts

MOST_CLASSES = 2**20
ONE_CLASS = "with one class there is nothing to predict; two are needed at least."
NUMBERED = (  # a line of a number and a name, either first
    re.compile(r"\s*(?P<number>\d+)\s*[,;:\s]\s*(?P<name>.*\S)\s*"),
    re.compile(r"\s*(?P<name>.*\S)\s*[,;\t]\s*(?P<number>\d+)\s*"),
)
HEADERS = ("name", "names", "class", "classes", "class_name", "label", "labels")
GIVE_NAMES = "list the names of the classes in the order of their numbers (--classes)"


class Names(tuple):
    """Names of classes in order; start: the number of the first, as far as it is known."""

    start = 0


def given_names(given):
    """Names of the classes: of a list, the lines of a file, or a JSON file; () of None.

    Lines of a number and a name, such as 0,cat, are taken by the numbers, from 0 or 1 on.
    JSON: a list, {number: name}, {name: number}, or a configuration that holds such an id2label, or
    a list as label_names, as those of timm do.
    """
    start = 0
    if given is None:
        return Names()
    found = Source("class names", {})
    called = printable(given, None if isinstance(given, (str, os.PathLike)) else 60)
    try:
        if isinstance(given, (str, os.PathLike)):
            text = Path(given).read_text(encoding="utf-8-sig")
            is_json = Path(given).suffix.lower() == ".json"
            given = json.loads(text) if is_json else text.rstrip("\n").split("\n")
            if not is_json:
                given, start = _of_lines(given)
        if isinstance(given, dict):
            given = given.get("label_names") or _by_number(given)
        names = np.array([*given], dtype=object)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise found.error(
            f"{called} cannot be read ({reason(error)}); "
            "a list of names is needed, or a file with one name per line."
        ) from None
    names = Names(name.strip() for name in texts(found, names, "the name"))
    names.start = start
    if (name := repeated(names)) is not None:
        raise found.error(f"{quoted(name)} is there twice; each class has its own name.")
    if len(names) < 2:
        raise found.error(f"{called} names {count_of(len(names), 'class', 'classes')}; {ONE_CLASS}")
    return names


def _of_lines(lines):
    """(names, number of the first) in lines, by their numbers where all have some; no header."""
    header = re.search("[,;\t]", lines[0]) is not None
    for some, form in itertools.product((lines, lines[header:]), NUMBERED):
        found = [form.fullmatch(line) for line in some]
        if all(found) and len(some) > 1:
            names = {int(line["number"]): line["name"].strip('"') for line in found}
            counts = sorted(names) in ([*range(len(some))], [*range(1, len(some) + 1)])
            if counts and len(set(names.values())) == len(some):  # not of 1 star, 2 stars, 3 stars
                return [names[number] for number in sorted(names)], min(names)
    return lines[lines[0].lstrip("# ").casefold() in HEADERS :], 0


def _by_number(mapping):
    """Names in order, of {number: name} or {name: number}."""
    mapping = mapping.get("id2label", mapping)
    if not all(WHOLE.fullmatch(str(key)) for key in mapping):
        mapping = {number: name for name, number in mapping.items()}
    by_number = {int(number): name for number, name in mapping.items()}
    return [by_number[number] for number in range(len(by_number))]


def places_of(labels, y, answers, given):
    """(labels y of a Source, Answers) from 0 on, where their numbers count given names from 1."""
    if not given or all_whole(given) or y.dtype == object or y.min() < 1:
        return y, answers
    read = [{c: a.read(c) for c in (a.predicted, a.own_labels) if c is not None} for a in answers]
    read = [{c: of for c, of in one.items() if of.dtype != object} for one in read]
    numbers = [y, *(of for one in read for of in one.values())]
    if min(map(np.min, numbers)) < 1:
        return y, answers
    if max(map(np.max, numbers)) == len(given) or given.start:
        labels.note("numbers count the names of classes from 1.")
        y = y - 1
        out = []
        for a, one in zip(answers, read, strict=True):
            columns = a.source.columns | {c: of - 1 for c, of in one.items()}
            out.append(replace(a, source=replace(a.source, columns=columns)))
        return y, out
    if len(numbers) > 1:
        labels.note(
            f"class 0 is {quoted(given[0])}, which never occurs; if that should be class 1, write "
            "the names with their numbers, as in '1 cat'."
        )
    return y, answers


def classes_of(y, answers, given=()):
    """(names of the classes in the order of the scores, Answers whose columns are called so).

    Those given, else the columns' own, else the names that occur, else 0, 1, 2, ... as many as the
    scores have or the largest number says; from 1 on where no label or answer is 0.
    """
    names = given
    if known := set(given) or set(y if y.dtype == object else ()):
        answers = [_as_spelled(known, a) for a in answers]
    if not given:
        if len({frozenset(a.classes) for a in answers if a.classes}) > 1:
            # called in several ways, perhaps only by the stems
            answers = [replace(a, classes=a.keys or a.classes) for a in answers]
        answers = [_from_zero(y, a) for a in answers]
        scored = [a for a in answers if a.scores and not a.one_score]
        if named := [a for a in scored if _names_classes(a)]:
            names = _named_order(y, answers, named)
        else:
            names = _places(y, scored[0]) if scored else _names_that_occur(y, answers)
    if len(names) < 2:
        raise AuditError(ONE_CLASS)
    return names, answers


def folded(name):
    """A name as its spellings are compared; a - at its end stays, as B- is not B; 01 is 1."""
    if WHOLE.fullmatch(name):
        return str(int(name))
    return name.strip().casefold().replace("_", " ").replace("-", " ")


def _as_spelled(known, answers):
    """Answers that call a class as `known` does, where only capitals, spaces, _ and - differ.

    What could be two of them stays, and so do columns of which two would be one class.
    """
    spelled = {}
    for name in known:
        spelled[folded(name)] = None if folded(name) in spelled else name
    read = {answers.predicted, answers.own_labels} & answers.source.columns.keys()
    read = {column: answers.read(column) for column in read}
    own = {*answers.classes}.union(*(of for of in read.values() if of.dtype == object)) - known
    same = {name: spelled[folded(name)] for name in own if spelled.get(folded(name))}
    if not same or len({same.get(c, c) for c in answers.classes}) < len(answers.classes):
        return answers
    first = min(same)
    more = f", and {len(same) - 1} more that are spelled otherwise" if len(same) > 1 else ""
    answers.source.note(f"{quoted(first)} is taken as class {quoted(same[first])}{more}.")
    renamed = {c: np.array([same.get(v, v) for v in of], of.dtype) for c, of in read.items()}
    source = replace(answers.source, columns=answers.source.columns | renamed)
    classes, keys = (tuple(same.get(c, c) for c in of) for of in (answers.classes, answers.keys))
    return replace(answers, source=source, classes=classes, keys=keys)


def counted(names):
    """Whether names are 0, 1, 2, ... in some order, as pandas calls columns without names."""
    return set(names) == set(map(str, range(len(names))))


def _from_zero(y, answers):
    """Answers whose columns count from 1, called from 0 on where the labels do."""
    numbers = tuple(map(str, range(1, len(answers.classes) + 1)))
    if not numbers or answers.classes != numbers or y.dtype == object or not (y == 0).any():
        return answers
    answers.source.note("columns count from 1, labels from 0.")
    return replace(answers, classes=tuple(str(int(name) - 1) for name in numbers))


def _places(y, first):
    """Names of the classes by how many scores without names the first Answers have."""
    width = len(first.scores)
    if width == 1:
        width = np.shape(first.source.columns[first.scores[0]])[1]
    ones = y.dtype != object and len(y) and y.min() == 1 and y.max() == width
    return tuple(str(k + ones) for k in range(width))


def _names_classes(answers, numbers_do=False):
    """Whether Answers name the classes, by text or, if these do, by numbers; or only count them."""
    if answers.predicted is not None:
        return numbers_do or answers.read(answers.predicted).dtype == object
    return bool(answers.classes) and not counted(answers.classes)


def _named_order(y, answers, named):
    """Names of the classes by columns that are called so, in the order of the first that has one.

    named: the Answers of which columns are. What only counts the classes is taken in that order, as
    a note says. AuditError where that is, and columns come in several orders, or in none."""
    # of kind 0, kind 1, ... the numbers are the order
    by_number = [bool(a.keys) and counted(a.keys) for a in named]
    ordered = [a for a, own in zip(named, by_number, strict=True) if own or not a.source.unordered]
    first = (ordered or named)[0]
    order = first.classes if ordered else tuple(sorted(first.classes))
    numbers = y.dtype != object and not all_whole(order)
    by_name = [a.one_score or _names_classes(a, all_whole(order)) for a in answers]
    count = ["labels"] * numbers
    count += [a.source.name for a, own in zip(answers, by_name, strict=True) if not own]
    moved = [a for a in ordered if a.classes != order and set(a.classes) == set(order)]
    if count and (moved or not ordered):
        why = "its classes come in another order in each row"
        if moved:
            why = f"its columns come in another order than those of {first.source.name}"
        found = (moved or named)[0].source
        raise found.error(f"{why}, and {listed(count)} give classes only by number; {GIVE_NAMES}.")
    if [*map(str.casefold, order)] == ["true", "false"]:  # which labels have as 1 and 0
        order = order[::-1]
    if count and not all(by_number):
        first.source.note(f"its order of the classes, {listed(order)}, is that of {listed(count)}.")
    return order


def _names_that_occur(y, answers):
    """Names of the classes by the labels and the predicted classes."""
    every = [y]
    for a in answers:
        if a.predicted is None:
            continue
        every.append(a.read(a.predicted))
        if every[-1].dtype != y.dtype:
            raise a.source.error(
                "labels and predicted classes must both be names or both be numbers; otherwise "
                f"{GIVE_NAMES}."
            )
    every = np.concatenate(every)
    if every.dtype == object:
        return tuple(sorted(set(every)))
    least, largest = int(every.min()), int(every.max())
    if set(np.unique(every)) == {-1, 1}:
        return ("-1", "1")
    if largest >= MOST_CLASSES:
        raise AuditError(f"the classes run to {largest}; more than a million are not audited.")
    return tuple(map(str, range(1 if least == 1 else 0, largest + 1)))


def coded(found, values, names, what):
    """(N,) int64 index into the names of the classes.

    values (N,) are names, or whole numbers: each an index, or where every class is called by a
    number, a name. what: a label or predicted class; it is called so in sentences.
    """
    in_order = names == tuple(map(str, range(len(names))))
    if values.dtype == object or (all_whole(names) and not in_order):
        at = {name: k for k, name in enumerate(names)}
        if values.dtype != object:  # 1 is class 01, unless there is a class 1 beside it
            by_number = {str(int(name)): k for k, name in enumerate(names)}
            at = by_number if len(by_number) == len(names) else at
        index = np.array([at.get(str(value), -1) for value in values.tolist()], dtype=np.int64)
        if (index < 0).any():
            word = str(values[np.argmin(index)])
            near = difflib.get_close_matches(word[:200], names, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"known are {listed(names)}"
            if in_order:  # scores without names
                hint = f"known are {listed(names)}; {GIVE_NAMES}"
            found.refuse(index < 0, values, what, f"a class; {hint}")
        return index
    numbered = [] if in_order else [int(name) for name in names if WHOLE.fullmatch(name)]
    place = "an unambiguous class number, since it is also the name of a class; use numbers as "
    place += "names of all classes or of none"
    found.refuse(np.isin(values, numbered), values, what, place)
    outside = (values < 0) | (values >= len(names))
    allowed = f"a number from 0 to {len(names) - 1}"
    found_here = np.unique(values)
    if in_order and 0 not in found_here and len(found_here) == len(names):  # -1 and 1; 2, 4, 10
        allowed += "; where numbers are names, list them in the order of the scores (--classes)"
    if (values < 0).any():
        allowed += "; leave out examples that are marked to be ignored"
    found.refuse(outside, values, what, allowed)
    return values
