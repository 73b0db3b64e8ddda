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
from pathlib import Path

import numpy as np

from kdlib.auditing.gate import METRICS, ROLES
from kdlib.auditing.groups import counts_of, groups_of, in_pairs, weights_of
from kdlib.auditing.inputs import check_rows, classes_of, coded, labels_of
from kdlib.auditing.numbers import numbers
from kdlib.auditing.read import READERS, AuditError, Source, source
from kdlib.auditing.scores import KINDS, check_own_labels, outputs
from kdlib.config import did_you_mean


@dataclass(frozen=True)
class Audit:
    """What was found.

    Accuracies are in per cent, gains in points over `reference`: the baseline, or the teacher if
    there is none.
    """

    reference: str
    scored: dict  # role: whether it gave scores, not only predicted classes
    n: int  # examples
    seeds: int
    class_names: tuple
    disjoint: bool  # no example is in two groups
    metrics: dict  # name: Interval, or a number; see METRICS
    groups: object  # DataFrame, one row per group; see numbers._group_table
    buckets: object  # DataFrame, one row per bucket: gain with interval
    transfer: object  # DataFrame, one row per outcome
    calibration: object  # DataFrame, one row per (place, role)
    worst: int  # k of the worst-k metrics
    bucketed_by: str
    inputs: tuple  # (role, name, sha256) of what was read
    limits: tuple  # sentences: what this audit cannot say
    title: str = ""  # of the page, if you gave one
    read: tuple = ()  # sentences: what was read, how it was taken
    warnings: tuple = ()  # sentences: why what was read may not be what was meant

    @property
    def covers(self):
        """What the intervals speak of."""
        if self.seeds > 1:
            return "new seeds and new test examples"
        if self.metrics["average_gain"].baselines > 1:
            return "new test examples, in gains new seeds too"
        return "new test examples"

    def save(self, path):
        """Write path (HTML), beside it all as .json and the groups as .csv; the three paths."""
        from kdlib.auditing.page import save

        return save(self, path)

    def _repr_html_(self):
        from kdlib.auditing.page import glance

        return glance(self)


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
    worst=None,
    title="",
    resamples=1000,
    seed=0,
    progress=None,
):
    """The Audit of a student and its teacher on examples that neither was trained on.

    Everything is a path (npz, npy, CSV, Parquet) or an array.

    labels: (N,).
    teacher, student, baseline (the same network trained without a teacher): scores (N, C) or
        predicted classes (N,), or lists of them: students of several training runs, the teacher of
        each in the same order or one for all, and any number of baselines.
    groups: see groups.groups_of; by default the classes.
    weights: (N,).
    train_counts: training examples of each group; with it, buckets are many (above edges[0]),
        medium and few (below edges[1]), else thirds of the groups by the teacher's margin.
    classes: their names, or a file of them.
    kind: of the scores: auto, logits, probabilities, classes.
    worst: k, by default a tenth of the groups.
    title: of the page.
    progress: a function that is called with the name of each part of the work when it begins.

    KdlibError, in one sentence, for anything that cannot be used.
    """
    first = source(labels, "labels")
    y = labels_of(first)
    models = {}
    for role, given in zip(ROLES, (teacher, student, baseline), strict=True):
        if given is None:
            continue
        many = _several(given)
        titles = [f"{role} {i}" for i in range(len(many))] if len(many) > 1 else [role]
        models[role] = [source(one, title) for one, title in zip(many, titles, strict=True)]
    if not {"teacher", "student"} <= set(models):
        raise AuditError("an audit needs a teacher and a student.")
    seeds = len(models["student"])
    if len(models["teacher"]) not in (1, seeds):
        raise AuditError(
            f"teacher: {len(models['teacher'])} of them, but the number of students is {seeds}; "
            "give one for each student in their order, or one for all."
        )
    more = {"groups": groups, "weights": weights, "training counts": train_counts}
    more = {what: source(given, what) for what, given in more.items() if given is not None}
    everything = [s for many in models.values() for s in many]
    _check_options(kind, edges, worst, resamples, seed)
    _check_files(models)
    by_row = [first, *everything, *(more[what] for what in ("groups", "weights") if what in more)]
    by_row = [s for s in by_row if s is not more.get("groups") or not in_pairs(s)]
    with_ids = next((s for s in by_row if s.ids is not None), first)
    for s in by_row:
        check_rows(s, len(y), with_ids)
    names = classes_of(y, everything, classes)
    y = coded(first, y, names, "label")
    for s in everything:
        check_own_labels(s, y, names, first)
    found = {role: [outputs(s, y, names, kind) for s in many] for role, many in models.items()}
    w = weights_of(more.get("weights"), len(y))
    members = groups_of(more.get("groups"), y, names, with_ids.ids)
    heavy = members.sums(w) > 0
    if not heavy.all():
        weightless = members.names[int(np.argmin(heavy))]
        raise AuditError(f"{more['weights'].name}: all of group {weightless!r} have weight 0.")
    counts = None
    if "training counts" in more:
        counts = counts_of(more["training counts"], members)
    k = worst or max(1, round(len(members.names) / 10))
    if k > len(members.names):
        raise AuditError(
            f"worst {k}: must be from 1 to {len(members.names)}, the number of groups."
        )
    inputs = [("labels", first)]
    inputs += [(role, s) for role, many in models.items() for s in many]
    inputs += more.items()
    same = _same(models["teacher"], models.get("baseline", ()))
    of_groups = {"train_counts": counts, "edges": edges, "k": k}
    how = {"resamples": resamples, "seed": seed, "same": same, "progress": progress}
    result = numbers(y, found, len(names), members, w, **of_groups, **how)
    metrics = {name: result["metrics"][name] for name in METRICS if name in result["metrics"]}
    return Audit(
        **result | {"metrics": metrics},
        class_names=names,
        title=title,
        inputs=tuple((role, s.name, s.sha256) for role, s in inputs),
    )


def _several(given):
    """A list with one entry per seed of what may be one input or a list of them."""

    def whole(one):  # not a row of a list of lists, and no name of a class
        if isinstance(one, str):
            return Path(one).suffix.lower() in READERS
        is_table = hasattr(one, "columns") or getattr(one, "ndim", 0) > 0
        return isinstance(one, (Path, dict, Source)) or is_table

    several = isinstance(given, (list, tuple)) and given and all(map(whole, given))
    return list(given) if several else [given]


def _check_options(kind, edges, worst, resamples, seed):
    """AuditError for what the command line does not let through."""
    if kind not in KINDS:
        raise AuditError(f"kind {kind!r}: {did_you_mean(kind, KINDS)}")
    for name, value, least in (
        ("worst", 1 if worst is None else worst, 1),
        ("resamples", resamples, 2),
        ("seed", seed, 0),
    ):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise AuditError(f"{name} {value!r}: must be a whole number from {least} on.")
    try:
        ordered = len(edges) == 2 and np.inf > edges[0] >= edges[1] >= 0
    except (TypeError, LookupError):
        ordered = False
    if not ordered:
        raise AuditError(
            f"edges {edges!r}: two numbers are needed; "
            "many are above the first, few below the second, which is not larger."
        )


def _same(teachers, baselines):
    """(T, n) bool: which baselines are the network of a teacher, by their files; None: unknown."""
    if not all(s.sha256 for s in (*teachers, *baselines)):
        return None
    return np.array([[t.sha256 == b.sha256 for b in baselines] for t in teachers], dtype=bool)


def _check_files(models):
    """AuditError where one file is given as two models.

    A teacher may stand for several seeds, or be the baseline of another.
    """
    seen = {}
    for role in ("student", "baseline", "teacher"):
        for s in models.get(role, ()):
            other_role, other = seen.setdefault(s.sha256 or id(s), (role, s))
            if other is not s and (role != "teacher" or other_role == "student"):
                raise AuditError(
                    f"{s.name}: is given as {role} and holds the same as {other.name}, "
                    f"given as {other_role}; every seed and every role has a file of its own."
                )
