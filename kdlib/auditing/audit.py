"""Whom did a distillation hurt? Predictions of teacher and student in, gains by group out.

Anybody's labels and predictions, gains of subgroups with intervals. No torch:

    found = kdlib.audit(
        "labels.npy",
        teacher="teacher.npz",
        student=["s0.npz", "s1.npz"],
        baseline=["b0.npz", "b1.npz"],
    )
    found.groups         # DataFrame, one row per group
    found.save("audit.html")

S seeds, N examples, G groups.
"""

from dataclasses import dataclass

import numpy as np

from kdlib.auditing import headline, verdicts
from kdlib.auditing.found import Found
from kdlib.auditing.gate import METRICS
from kdlib.auditing.numbers import numbers
from kdlib.auditing.pictures import pictures_of
from kdlib.auditing.search import confirmed, without_outputs
from kdlib.auditing.search import search as search_in
from kdlib.auditing.tables import CHANGED
from kdlib.config import did_you_mean
from kdlib.reading import said
from kdlib.reading.classes import given_names
from kdlib.reading.groups import counts_of, groups_of, used_by, weights_of
from kdlib.reading.inputs import controls, in_rows, models_of, notes, same_network
from kdlib.reading.names import ROLES
from kdlib.reading.read import source
from kdlib.reading.scores import KINDS, outputs
from kdlib.reading.sentences import AuditError


@dataclass(frozen=True)
class Audit(Found):
    """What was found.

    Accuracies are in per cent, gains in points over `reference`: the baseline, or the teacher if
    there is none.
    """

    reference: str
    scored: dict  # role: whether it gave scores, not only predicted classes
    n: int  # examples
    seeds: int
    averages: object  # GroupMeans (S,): each student's mean of the groups, redrawn
    df: float  # degrees of freedom of what was redrawn, where a single network stands alone
    class_names: tuple
    disjoint: bool  # no example is in two groups
    metrics: dict  # name: Interval, or a number; see METRICS
    groups: object  # DataFrame, one row per group; see tables.group_table
    buckets: object  # DataFrame, one row per bucket: gain with interval
    transfer: object  # DataFrame, one row per outcome
    calibration: object  # DataFrame, one row per (place, role)
    worst: int  # k of the worst-k metrics
    bucketed_by: str
    inputs: tuple  # (role, name, sha256) of what was read
    limits: tuple  # sentences: what this audit cannot say, beside its cautions
    title: str = ""  # of the page, if you gave one
    read: tuple = ()  # sentences: what was read, how it was taken
    warnings: tuple = ()  # sentences: why what was read may not be what was meant
    subgroups: object = None  # DataFrame of what a search found; see search.search
    searched: tuple = ()  # sentences: how it was found
    lost: tuple = ()  # of pages.pictures.Row: pictures of what the student lost
    student: str = ""  # its name, where several are compared
    compared: int = 1  # students; q is corrected for their number and that of the groups
    choice: object = None  # distilling.choice.Choice: which student to ship, if that was asked

    heading = headline.title
    findings = headline.answer
    cautions = headline.cautions
    about = headline.about
    judge = verdicts.judge

    @property
    def covers(self):
        """What the intervals speak of."""
        if self.seeds > 1:
            return "new seeds and new test examples"
        if self.metrics["average_gain"].baselines > 1:
            return "new test examples, in gains new seeds too"
        return "new test examples"

    @property
    def look(self):
        from kdlib.auditing import page  # here, since drawing takes long to import

        return page


def audit(
    labels,
    teacher,
    student,
    baseline=None,
    groups=None,
    *,
    weights=None,
    train_counts=None,
    edges=(100, 20),
    classes=None,
    kind="auto",
    missing_groups=None,
    worst=None,
    title="",
    by=None,
    search=None,
    images=None,
    say=None,
    progress=None,
    resamples=1000,
    seed=0,
):
    """The Audit of a student and its teacher on examples that neither was trained on.

    Everything is a path (formats.READERS; FILE:COLUMN chooses columns), an array or a table. Tables
    with ids, a column such as id or filename or a pandas index, may have their rows in any order.

    labels: (N,).
    teacher, student, baseline (the same network trained without a teacher): scores (N, C),
        predicted classes (N,), or scores of the second of two classes (N,); or lists of them:
        students of several training runs, the teacher of each in the same order or one for all,
        and any number of baselines.
    groups: see groups.groups_of; by default the classes.
    weights: (N,).
    train_counts: training examples of each group; with it, buckets are many (above edges[0]),
        medium and few (below edges[1]), else thirds of the groups by the teacher's margin.
    classes: their names, or a file of them.
    kind: of the scores: auto, logits, probabilities, classes; or {role: kind}.
    missing_groups: of examples without a group: drop leaves them out, own makes them a group.
    worst: k, by default a tenth of the groups.
    title: of the page.
    by: which columns of the groups make groups, cut and combined, such as
        ["sex", "age:4", ("sex", "age:4")]; see subgroups. By default each column, by its values.
    search: a table of what is known of each example, in which the subgroups are searched for that
        lost most; see search.
    images: paths of the examples' images, or (N, H, W, 3) or (N, H, W) uint8; see pictures.
    say: a function that is called with each sentence on what was read, before any number.
    progress: one that is called with the name of each part of the work when it begins.

    KdlibError, in one sentence, for anything that cannot be used.
    """
    kinds = kinds_of(kind)
    check_options(edges, worst, resamples, seed, missing_groups)
    first = source(labels, "labels")
    models = models_of(teacher, student, baseline)
    more = {"groups": groups, "weights": weights, "training counts": train_counts}
    more |= {"search": search, "images": images}
    more = {what: source(given, what) for what, given in more.items() if given is not None}
    if by is not None:
        more["groups"] = used_by(more.get("groups"), by)
    warned = controls(models)
    given = given_names(classes)
    y, names, answers, by_example, how = in_rows(first, models, more, given, missing_groups, by)
    if "search" in by_example:
        by_example["search"] = without_outputs(by_example["search"], answers)
    found = {
        role: [outputs(a, y, names, kinds[role]) for a in many] for role, many in answers.items()
    }
    members = groups_of(by_example.get("groups"), y, names, first.ids, by)
    read = (said.read(y, names, found, how), *notes(first, answers, by_example))
    warned += said.warnings(y, names, found, models)
    for sentence in [*read, *(f"Warning: {w}" for w in warned)] if say else ():
        say(sentence)
    w = weights_of(by_example.get("weights"), len(y), members)
    counts = counts_of(more.get("training counts"), members)
    how = {"train_counts": counts, "edges": edges, "k": _worst(worst, members)}
    how |= {"resamples": resamples, "seed": seed, "progress": progress}
    same = same_network(models["teacher"], models.get("baseline", ()))
    result = numbers(y, found, len(names), members, w, same=same, **how)
    _beyond_groups(result, by_example, y, found, names, members, w, seed)
    result["metrics"]["warnings"] = len(warned)
    metrics = {name: result["metrics"][name] for name in METRICS if name in result["metrics"]}
    inputs = [("labels", first)]
    inputs += [(role, s) for role, many in models.items() for s in many]
    inputs += more.items()
    return Audit(
        **result | {"metrics": metrics},
        class_names=names,
        inputs=tuple((role, s.name, s.sha256) for role, s in inputs),
        title=title,
        read=read,
        warnings=tuple(warned),
    )


def _worst(k, members):
    """k of the worst-k metrics, by default a tenth of the groups."""
    groups = len(members.names)
    if k and k > groups:
        raise AuditError(f"worst {k}: must be from 1 to {groups}, the number of groups.")
    return k or max(1, round(groups / 10))


def _beyond_groups(result, by_example, y, found, names, members, w, seed):
    """Add to the result what a search finds, and pictures, where they are asked for."""
    predicted = {role: np.array([x.predicted for x in of]) for role, of in found.items()}
    if "search" in by_example:
        right = {role: values == y for role, values in predicted.items()}
        table, result["searched"] = search_in(by_example["search"], y, right, w, seed)
        result["subgroups"] = table
        result["metrics"][f"subgroups_{CHANGED[result['reference']][0]}"] = confirmed(table)
    if "images" in by_example:
        images, groups = by_example["images"], result["groups"]
        result["lost"], unseen = pictures_of(images, y, predicted, names, members, groups)
        result["limits"] = (*result["limits"], *unseen)


def kinds_of(kind):
    """{role: kind of its scores}, of one kind for all or of some roles."""
    if not isinstance(kind, dict):
        kind = dict.fromkeys(ROLES, kind)
    for role, one in kind.items():
        if role not in ROLES:
            raise AuditError(f"kind of {role!r}: {did_you_mean(role, ROLES)}")
        if one not in KINDS:
            raise AuditError(f"kind {one!r}: {did_you_mean(one, KINDS)}")
    return dict.fromkeys(ROLES, "auto") | kind


def check_options(edges, worst, resamples, seed, missing_groups):
    """AuditError for what the command line does not let through."""
    if missing_groups not in (None, "drop", "own"):
        raise AuditError(f"missing_groups {missing_groups!r}: must be drop or own.")
    for name, value, least in (
        ("worst", 1 if worst is None else worst, 1),
        ("resamples", resamples, 2),
        ("seed", seed, 0),
    ):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise AuditError(f"{name} {value!r}: must be a whole number, {least} or more.")
    try:
        ordered = len(edges) == 2 and np.inf > edges[0] >= edges[1] >= 0
    except (TypeError, LookupError):
        ordered = False
    if not ordered:
        raise AuditError(
            f"edges {edges!r}: two numbers are needed, MANY and FEW: both finite, 0 or more, and "
            "MANY not below FEW."
        )
