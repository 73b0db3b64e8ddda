"""What an audit says of itself: its metrics by name, conditions on them, and the whole as JSON."""

import operator
import re

import numpy as np
import pandas as pd

from kdlib import __version__
from kdlib.config import KdlibError, did_you_mean
from kdlib.evidence.stats import Interval

ROLES = ("teacher", "student", "baseline")
CHOSEN = "chosen on the other half of the examples"
COPIED = (
    "per cent of the teacher's errors where the {} gives the same wrong label, the groups counting "
    "as if of equal size"
)
METRICS = {  # name: what it is; gains over the reference, in points
    "overall_gain": "accuracy of the student minus the reference's, every example alike",
    "average_gain": "the same, every group alike",
    "worst_bucket_gain": f"gain of the bucket that gains least, {CHOSEN}",
    "worst_k_gain": f"gain of the k groups that gain least, {CHOSEN}",
    "groups_harmed": "groups harmed at a false discovery rate of 5 %",
    "groups_helped": "groups helped at a false discovery rate of 5 %",
    "groups_worse": "without a baseline: groups worse than the teacher, at the same rate",
    "groups_better": "without a baseline: groups better than the teacher, at the same rate",
    "student_accuracy": "accuracy of the student, every example alike",
    "student_average": "accuracy of the student, every group alike",
    "student_worst_k": f"accuracy in the student's k worst groups, {CHOSEN}",
    "student_worst_k_same": "the same chosen on the examples that score it: too low",
    **{
        f"{role}_{what}": f"the same of the {role}"
        for role in ("teacher", "baseline")
        for what in ("accuracy", "average", "worst_k", "worst_k_same")
    },
    "margin_gain_correlation": (
        "rank correlation over groups of the teacher's margin, on one half, "
        "and the gain, on the other"
    ),
    "student_copies": COPIED.format("student"),
    "baseline_copies": COPIED.format("baseline"),
    "copied_excess": (
        "the student's copies beyond those of baselines of equal accuracy, points: F3b of a study"
    ),
    **{
        f"{role}_calibration_error": f"expected calibration error of the {role}, per cent, 15 bins"
        for role in ROLES
    },
    **{f"{role}_log_loss": f"log-loss of the {role}, nats" for role in ROLES},
}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(r"\s*(\w+)(?:\.(low|high))?\s*(<=|>=|<|>)\s*([-−+]?[0-9]+(?:\.[0-9]+)?)\s*")


def condition(text):
    """(metric, bound, comparison, number) of text such as "groups_harmed > 0".

    A bound of an interval follows a dot, as in "average_gain.high < 0"; without one it is
    "estimate". KdlibError for anything else.
    """
    match = CONDITION.fullmatch(text)
    number = float(match[4].replace("−", "-")) if match else np.nan
    if not np.isfinite(number):
        raise KdlibError(
            f"--fail-if {text!r}: must be a metric, <, <=, > or >=, and a number, "
            "as in 'groups_harmed > 0'."
        )
    name, bound, comparison, _ = match.groups("estimate")
    if name not in METRICS:
        raise KdlibError(f"--fail-if {text!r}: {did_you_mean(name, METRICS)}")
    return name, bound, comparison, number


def met(audited, text):
    """(whether a condition holds, the value it was asked of).

    KdlibError where this audit has no such value.
    """
    name, bound, comparison, number = condition(text)
    value = audited.metrics.get(name)
    if isinstance(value, Interval):
        value = getattr(value, bound)
    elif bound != "estimate" and value is not None:
        raise KdlibError(f"--fail-if {text!r}: {name} has no interval.")
    if value is None or not np.isfinite(value):
        raise KdlibError(
            f"--fail-if {text!r}: {name} is not known for these inputs; the page says why."
        )
    return bool(COMPARISONS[comparison](value, number)), float(value)


def facts(audited, conditions=()):
    """The Audit as a dictionary for JSON, as audit.schema.json describes it."""
    a = audited
    return _plain(
        {
            "schema": 1,
            "kdlib": __version__,
            "title": a.title,
            "read": a.read,
            "warnings": a.warnings,
            "examples": a.n,
            "classes": len(a.class_names),
            "seeds": a.seeds,
            "reference": a.reference,
            "intervals_cover": a.covers,
            "groups_overlap": not a.disjoint,
            "buckets_by": a.bucketed_by,
            "worst_k": a.worst,
            "inputs": [
                {"role": role, "name": name, "sha256": sha or None} for role, name, sha in a.inputs
            ],
            "metrics": a.metrics,
            "groups": a.groups,
            "buckets": a.buckets,
            "transfer": a.transfer,
            "calibration": a.calibration,
            "limits": a.limits,
            "fail_if": [
                {"condition": text, "met": held, "value": value}
                for text, (held, value) in conditions
            ],
        }
    )


def _plain(value):
    """A value of an Audit as JSON has it: tables as lists of rows, null for what is not known."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, Interval):
        names = ("estimate", "low", "high", "detectable", "per_seed")
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if pd.isna(value) or value in (np.inf, -np.inf) else value
