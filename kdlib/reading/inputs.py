"""All inputs of an audit together: models by role, everything in the order of the labels.

S students, N examples. Whatever cannot be used raises an AuditError.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kdlib.reading.classes import classes_of, coded, places_of
from kdlib.reading.columns import answers_of, labels_of
from kdlib.reading.formats import is_known
from kdlib.reading.groups import in_pairs, with_group
from kdlib.reading.names import ROLES
from kdlib.reading.read import Source, file_and_columns, source
from kdlib.reading.rows import aligned, by_column, by_example, take
from kdlib.reading.scores import check_own_labels
from kdlib.reading.sentences import AuditError, repeated

BY_EXAMPLE = ("groups", "weights", "search", "images")  # inputs with a row an example


def models_of(teacher, student, baseline):
    """{role: [Source, one per network]}; AuditError where the numbers of networks do not fit."""
    models = {}
    for role, given in zip(ROLES, (teacher, student, baseline), strict=True):
        if given is None:
            continue
        many = _several(given)
        models[role] = [source(*pair) for pair in zip(many, titles(role, many), strict=True)]
    check_roles(models)
    return models


def titles(role, many):
    """What each network of a role is called in sentences."""
    return [f"{role} {i}" for i in range(len(many))] if len(many) > 1 else [role]


def check_roles(models):
    """AuditError unless {role: [one per network]} has a student, and a teacher for all or each."""
    if not {"teacher", "student"} <= set(models):
        raise AuditError("an audit needs a teacher and a student.")
    if len(models["teacher"]) not in (1, len(models["student"])):
        raise AuditError(
            f"teacher: {len(models['teacher'])} of them, but the number of students is "
            f"{len(models['student'])}; give one for each student in their order, or one for all."
        )


def in_rows(first, models, more, given, missing_groups=None, by=None):
    """What is known of each example, in the order of the labels.

    (labels (N,) int64, names of the classes, {role: [Answers]}, {groups, weights, ...: Source}, how
    the rows were joined). given: names of the classes. missing_groups: see audit. by: what --by is
    given, which chooses among columns with a row for each example.
    """
    known = {what: more[what] for what in BY_EXAMPLE if what in more}
    members = {}
    if "groups" in known and by is None and in_pairs(known["groups"]):
        members["groups"] = known.pop("groups")
    others = [*(s for many in models.values() for s in many), *known.values()]
    first, others = by_column(by_example(first, None), others)
    y = labels_of(first)
    others = [by_example(s, len(y)) for s in others]
    count = len(others) - len(known)
    answers = [answers_of(s, y, given) for s in others[:count]]
    others[:count] = [a.source for a in answers]
    others, how = aligned(replace(first, columns={"": y}), others)
    answers = [replace(a, source=s) for a, s in zip(answers, others, strict=False)]
    known = members | dict(zip(known, others[count:], strict=True))
    y, answers = places_of(first, y, answers, given)
    names, answers = classes_of(y, answers, given)
    y = coded(first, y, names, "label")
    for a in answers:
        check_own_labels(a, y, names, first)
    if "groups" in known and "groups" not in members:
        known["groups"], kept = with_group(known["groups"], missing_groups)
        y = y[kept]
        answers = [replace(a, source=take(a.source, kept)) for a in answers]
        known = {what: take(s, kept) for what, s in known.items()}
    one_by_one = iter(answers)
    by_role = {role: [next(one_by_one) for _ in many] for role, many in models.items()}
    return y, names, by_role, known, how


def notes(first, answers, by_example):
    """Sentences on how inputs were taken, each once, behind the names of those it is of."""
    sources = [first, *(a.source for many in answers.values() for a in many)]
    names = {}
    for s in [*sources, *by_example.values()]:
        for note in s.notes:
            names.setdefault(note, {})[s.name] = None
    return tuple(f"{', '.join(of)}: {note}" for note, of in names.items())


def _several(given):
    """A list with one entry per seed of what may be one input or a list of them."""

    def whole(one):  # not a row of a list of lists, and no name of a class
        if isinstance(one, str):
            return is_known(file_and_columns(one)[0])
        is_table = hasattr(one, "columns") or getattr(one, "ndim", 0) > 0
        return isinstance(one, (Path, dict, Source)) or is_table

    several = type(given) in (list, tuple) and given and all(map(whole, given))
    return list(given) if several else [given]


def controls(models):
    """Sentences on roles that were given the same files, so that nothing can differ.

    AuditError where one file stands for two training runs, or some students are baselines. A
    teacher may stand for several students, and among the baselines.
    """
    contents = {role: [_content(s) for s in many] for role, many in models.items()}
    for role in ("student", "baseline"):
        if (twice := repeated(contents.get(role, ()))) is not None:
            first, again = [s.name for s in models[role] if _content(s) == twice][:2]
            raise AuditError(
                f"{again}: is given as {role} and holds the same as {first}; every training run "
                "has a file of its own."
            )
    out = []
    for other in [other for other in ("baseline", "teacher") if other in models]:
        shared = set(contents["student"]) & set(contents[other])
        if shared and set(contents["student"]) == set(contents[other]):
            said = "This is a control, in which nothing is gained or lost."
            if other == "teacher" and "baseline" in models:
                said = "Is one of the files wrong?"
            name = models["student"][0].name
            out.append(f"The student and the {other} are the same: {name}. {said}")
        elif shared:
            name = next(s.name for s in models["student"] if _content(s) in shared)
            raise AuditError(
                f"{name}: is given as student and as {other}, beside others; every training run "
                "has a file of its own."
            )
    if set(contents.get("baseline", ())) <= set(contents["teacher"]) and "baseline" in models:
        name = models["baseline"][0].name  # beside others, as in self-distillation, it may be one
        out.append(
            f"The teacher is also the baseline: {name}. That is right only where teacher and "
            "student are networks of one kind: a baseline is the student's, trained without a "
            "teacher."
        )
    return out


def _content(found):
    """What tells whether two Sources are one: the file's digest and its columns, or the object."""
    return (found.sha256, *found.columns) if found.sha256 else id(found)


def same_network(teachers, baselines):
    """(T, n) bool: which baselines are the network of a teacher, by their files; None: unknown."""
    if not all(s.sha256 for s in (*teachers, *baselines)):
        return None
    return np.array([[t.sha256 == b.sha256 for b in baselines] for t in teachers], dtype=bool)
