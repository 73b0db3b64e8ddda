"""Whom did a distillation hurt? Anybody's labels, teacher and student in, gains by subgroup with intervals out. No torch.

    found = kdlib.audit("labels.npy", teacher="teacher.npz", student=["s0.npz", "s1.npz"], baseline=["b0.npz", "b1.npz"])
    found.groups         # DataFrame, one row per group
    found.save("audit.html")

S seeds, N examples, G groups."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlib import __version__, audit_inputs
from kdlib.audit_files import AuditError, Source, check_rows, source
from kdlib.audit_numbers import numbers
from kdlib.config import KdlibError, did_you_mean
from kdlib.stats import Interval
from kdlib.studies import check_names, study

ROLES = ("teacher", "student", "baseline")


@dataclass(frozen=True)
class Audit:
    """What was found. Accuracies in per cent, gains in points over `reference`: the baseline, or the teacher if there is none."""

    reference: str
    scored: dict           # role: whether it gave scores, not only predicted classes
    n: int                 # examples
    seeds: int
    class_names: tuple
    disjoint: bool         # no example is in two groups
    metrics: dict          # name: Interval, or a number; see METRICS
    groups: object         # DataFrame, one row per group; see _group_table
    buckets: object        # DataFrame, one row per bucket: gain with interval
    transfer: object       # DataFrame, one row per outcome
    calibration: object    # DataFrame, one row per (place, role)
    worst: int             # k of the worst-k metrics
    bucketed_by: str
    inputs: tuple          # (role, name, sha256) of what was read
    limits: tuple          # sentences: what this audit cannot say

    @property
    def covers(self):
        """What the intervals speak of."""
        return "new test examples" if self.seeds == 1 else "new seeds and new test examples"

    def save(self, path):
        """Write path (HTML), and beside it the same as .json and the groups as .csv; the three paths."""
        from kdlib.audit_page import save
        return save(self, path)

    def _repr_html_(self):
        from kdlib.audit_page import glance
        return glance(self)


METRICS = {   # name: what it is; gains over the reference, in points
    "overall_gain": "accuracy of the student minus the reference's, every example alike",
    "average_gain": "the same, every group alike",
    "worst_bucket_gain": "gain of the bucket that gains least, in the mean over seeds",
    "worst_k_gain": "gain of the k groups that gain least, chosen on the other half of the examples",
    "groups_harmed": "groups harmed at a false discovery rate of 5 %",
    "groups_helped": "groups helped at a false discovery rate of 5 %",
    "student_accuracy": "accuracy of the student, every example alike",
    "student_average": "accuracy of the student, every group alike",
    "student_worst_k": "accuracy in the student's k worst groups, chosen on the other half of the examples",
    "student_worst_k_same": "the same chosen on the examples that score it: too low",
    **{f"{role}_{what}": f"the same of the {role}" for role in ("teacher", "baseline")
       for what in ("accuracy", "average", "worst_k", "worst_k_same")},
    "margin_gain_correlation": "rank correlation over groups of the teacher's margin, on one half, and the gain, on the other",
    "student_copies": "per cent of the teacher's errors where the student gives the same wrong label",
    "baseline_copies": "per cent of the teacher's errors where the baseline gives the same wrong label",
    "copied_excess": "student_copies minus baseline_copies",
    **{f"{role}_calibration_error": f"expected calibration error of the {role}, per cent, 15 bins" for role in ROLES},
    **{f"{role}_log_loss": f"log-loss of the {role}, nats" for role in ROLES},
}


def audit(labels, teacher, student, baseline=None, groups=None, *, weights=None, train_counts=None, edges=(100, 20),
          classes=None, kind="auto", worst=None, resamples=1000, seed=0):
    """The Audit of a student and its teacher on examples that neither was trained on.

    Everything is a path (npz, npy, CSV, Parquet) or an array. labels (N,). teacher, student, baseline (the same network
    trained without a teacher): scores (N, C) or predicted classes (N,); lists of them, one per seed, are paired in order.
    groups: see audit_inputs.groups_of; by default the classes. weights (N,). train_counts: training examples of each group;
    with it, buckets are many (above edges[0]), medium and few (below edges[1]), else thirds of the groups by the teacher's
    margin. classes: their names, or a file of them. kind of the scores: auto, logits, probabilities, classes. worst: k,
    by default a tenth of the groups. KdlibError, in one sentence, for anything that cannot be used."""
    y, first = audit_inputs.labels_of(labels)
    models = {role: _several(given) for role, given in zip(ROLES, (teacher, student, baseline), strict=True) if given is not None}
    models = {role: [source(one, f"{role} {i}" if len(many) > 1 else role) for i, one in enumerate(many)]
              for role, many in models.items()}
    if not {"teacher", "student"} <= set(models):
        raise AuditError("an audit needs a teacher and a student.")
    seeds = max(map(len, models.values()))
    for role, many in models.items():
        if len(many) not in (1, seeds):
            raise AuditError(f"{role}: {len(many)} seeds, but there are {seeds} of another; give one for each seed, or only one.")
    more = {"groups": groups, "weights": weights, "training counts": train_counts}
    more = {what: source(given, what) for what, given in more.items() if given is not None}
    everything = [s for many in models.values() for s in many]
    _check_options(kind, edges, worst, resamples, seed)
    _check_files(models)
    by_row = [first, *everything, *(more[what] for what in ("groups", "weights") if what in more)]
    with_ids = next((s for s in by_row if s.ids is not None), first)
    for s in by_row:
        check_rows(s, len(y), with_ids)
    names = audit_inputs.classes_of(y, everything, classes)
    y = audit_inputs.coded(y, names, first.name, "label")
    found = {role: [audit_inputs.outputs(s, y, names, kind) for s in many] for role, many in models.items()}
    w = audit_inputs.weights_of(more.get("weights"), len(y))
    members = audit_inputs.groups_of(more.get("groups"), len(y), y, names)
    if not (heavy := members.sums(w) > 0).all():
        raise AuditError(f"{more['weights'].name}: all of group {members.names[int(np.argmin(heavy))]!r} have weight 0.")
    counts = audit_inputs.counts_of(more["training counts"], members) if "training counts" in more else None
    if (k := worst or max(1, round(len(members.names) / 10))) > len(members.names):
        raise AuditError(f"worst {k}: must be from 1 to {len(members.names)}, the number of groups.")
    inputs = [("labels", first), *((role, s) for role, many in models.items() for s in many), *more.items()]
    result = numbers(y, found, len(names), members, w, counts, edges, k, resamples, seed)
    metrics = {name: result["metrics"][name] for name in METRICS if name in result["metrics"]}
    return Audit(**result | {"metrics": metrics}, class_names=names, inputs=tuple((role, s.name, s.sha256) for role, s in inputs))


def _several(given):
    """A list with one entry per seed of what may be one input or a list of them."""
    def whole(one):   # not a row of a list of lists, and no name of a class
        if isinstance(one, str):
            return Path(one).suffix.lower() in (".npz", ".npy", ".csv", ".parquet")
        return isinstance(one, (Path, dict, Source)) or hasattr(one, "columns") or getattr(one, "ndim", 0) > 0

    return list(given) if isinstance(given, (list, tuple)) and given and all(map(whole, given)) else [given]


def _check_options(kind, edges, worst, resamples, seed):
    """AuditError for what the command line does not let through."""
    if kind not in audit_inputs.KINDS:
        raise AuditError(f"kind {kind!r}: {did_you_mean(kind, audit_inputs.KINDS)}")
    for name, value, least in (("worst", 1 if worst is None else worst, 1), ("resamples", resamples, 2), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise AuditError(f"{name} {value!r}: must be a whole number from {least} on.")
    try:
        ordered = len(edges) == 2 and np.inf > edges[0] >= edges[1] >= 0
    except (TypeError, LookupError):
        ordered = False
    if not ordered:
        raise AuditError(f"edges {edges!r}: two numbers are needed; many are above the first, few below the second, which is not "
                         "larger.")


def _check_files(models):
    """AuditError where one file is given as two models; a teacher may stand for several seeds, or be the baseline of another."""
    seen = {}
    for role in ("student", "baseline", "teacher"):
        for s in models.get(role, ()):
            other = seen.setdefault(s.sha256 or id(s), (role, s))
            if other[1] is not s and (role != "teacher" or other[0] == "student"):
                raise AuditError(f"{s.name}: is given as {role} and holds the same as {other[1].name}, given as {other[0]}; "
                                 "every seed and every role has a file of its own.")


def audit_study(name, pair=None, method="kd", seeds=None):
    """The Audit of a method of a study on record against its one-hot baseline, on all images that no run saw."""
    from kdlib.findings import some_seeds
    from kdlib.metrics import panel
    chosen = study(name)
    pair = pair or "/".join(chosen.pairs[0])
    pairs = {"/".join(p): p for p in chosen.pairs}
    for what, value, known in (("pair", pair, pairs), ("method", method, chosen.methods)):
        if value not in known:
            raise KdlibError(f"study {name} has no {what} {value!r}: {did_you_mean(value, known)}")
    p = panel(chosen, pairs[pair], seeds or some_seeds(name))

    def columns(role):
        runs = p.records(role)[: p.seeds]   # of the pooled baselines those of the same seeds, with which an audit pairs
        reduced = [(x.predicted, x.log_p[:, 0], x.log_p[:, 1]) for x in p.predictions(role)[: p.seeds]]
        return [Source(run.config.key(), dict(zip(audit_inputs.REDUCED, of, strict=True)), None, run.facts["weights_sha256"])
                for run, of in zip(runs, reduced, strict=True)]

    names = tuple(p.teachers[0].facts["class_names"])
    group_names = np.array(p.group_names)
    return audit(Source(f"labels of {name}", {"": np.asarray(p.y)}, None), columns("teacher"), columns(method),
                 columns("one_hot"), Source(f"groups of {name}", {"": group_names[p.group]}, None), classes=names,
                 train_counts={"group": group_names, "count": p.train_counts} if chosen.bucket_edges else None,
                 edges=chosen.bucket_edges or (100, 20))


# ---------------------------------------------------------------- from a notebook

FILES = ("labels", "teacher", "student", "baseline", "groups", "weights", "train_counts", "classes")
PARAMETERS = (*FILES, "kind", "study", "pair", "method", "out")


def check_parameters(namespace):
    """{name: value} of the parameters of notebooks/audit_your_model.ipynb; call it as check_parameters(globals()).

    A file is a path, "" for none; of the models also a list, or paths with commas between them, one per seed. KdlibError for a
    name that papermill was given and the notebook does not know, a value that is no text, or files that do not suffice."""
    check_names(namespace, PARAMETERS)
    given = {name: namespace[name] for name in PARAMETERS}
    for name, value in given.items():
        listed = name in ROLES and isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not (listed or isinstance(value, str)):
            raise KdlibError(f"notebook parameter {name}={value!r}: must be a path as text" +
                             (", or a list of paths." if name in ROLES else "."))
    needed = [name for name in ("labels", "teacher", "student") if not given[name]]
    if needed and any(given[name] for name in FILES):
        raise KdlibError(f"notebook parameter {needed[0]}: name its file; an audit needs labels, teacher and student.")
    return given


def audit_given(given):
    """The Audit of what check_parameters returned: of the files, or without any of a study on record."""
    if not given["labels"]:
        return audit_study(given["study"], given["pair"] or None, given["method"])
    files = {name: given[name] or None for name in FILES}
    for role in ROLES:
        if isinstance(files[role], str):
            files[role] = [part.strip() for part in files[role].split(",")]
    return audit(**files, kind=given["kind"])


# ---------------------------------------------------------------- conditions

def condition(text):
    """(metric, bound, comparison, number) of an expression such as "worst_bucket_gain < -2" or "average_gain.high < 0"."""
    match = re.fullmatch(r"\s*(\w+)(?:\.(low|high))?\s*(<=|>=|<|>)\s*([-−+]?[0-9]+(?:\.[0-9]+)?)\s*", text)
    if not match or not np.isfinite(float(match[4].replace("−", "-"))):
        raise KdlibError(f"--fail-if {text!r}: must be a metric, <, <=, > or >=, and a number, as in 'worst_bucket_gain < -2'.")
    name, bound, comparison, number = match.groups()
    if name not in METRICS:
        raise KdlibError(f"--fail-if {text!r}: {did_you_mean(name, METRICS)}")
    return name, bound or "estimate", comparison, float(number.replace("−", "-"))


def met(audited, text):
    """(whether a condition holds, the value it was asked of); KdlibError where this audit has no such value."""
    name, bound, comparison, number = condition(text)
    value = audited.metrics.get(name)
    if isinstance(value, Interval):
        value = getattr(value, bound)
    elif bound != "estimate" and value is not None:
        raise KdlibError(f"--fail-if {text!r}: {name} has no interval.")
    if value is None or not np.isfinite(value):
        raise KdlibError(f"--fail-if {text!r}: {name} is not known for these inputs; the page says why.")
    return {"<": value < number, "<=": value <= number, ">": value > number, ">=": value >= number}[comparison], float(value)


def facts(audited, conditions=()):
    """The Audit as a dictionary for JSON, as audit.schema.json describes it."""
    def plain(value):
        if isinstance(value, Interval):
            return {"estimate": plain(value.estimate), "low": plain(value.low), "high": plain(value.high),
                    "detectable": plain(value.detectable), "per_seed": [plain(v) for v in value.per_seed]}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (float, np.floating)):
            return float(value) if np.isfinite(value) else None
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return int(value)
        return value if isinstance(value, (str, bool)) else None

    def rows(frame):
        return [{k: plain(v) for k, v in zip(frame.columns, row, strict=True)} for row in frame.itertuples(index=False)]

    a = audited
    return {"schema": 1, "kdlib": __version__, "examples": a.n, "classes": len(a.class_names), "seeds": a.seeds,
            "reference": a.reference, "intervals_cover": a.covers, "groups_overlap": not a.disjoint, "buckets_by": a.bucketed_by,
            "worst_k": a.worst, "inputs": [{"role": role, "name": name, "sha256": sha or None} for role, name, sha in a.inputs],
            "metrics": {name: plain(value) for name, value in a.metrics.items()}, "groups": rows(a.groups),
            "buckets": rows(a.buckets), "transfer": rows(a.transfer), "calibration": rows(a.calibration),
            "limits": list(a.limits),
            "fail_if": [{"condition": text, "met": held, "value": value} for text, (held, value) in conditions]}
