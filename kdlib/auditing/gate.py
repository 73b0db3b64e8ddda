"""What an audit says of itself: its metrics by name, conditions on them, and the whole as JSON."""

import re

import numpy as np

from kdlib import __version__
from kdlib.config import KdlibError, did_you_mean
from kdlib.evidence.stats import Interval

ROLES = ("teacher", "student", "baseline")
METRICS = {  # name: what it is; gains over the reference, in points
    "overall_gain": "accuracy of the student minus the reference's, every example alike",
    "average_gain": "the same, every group alike",
    "worst_bucket_gain": (
        "gain of the bucket that gains least, chosen on the other half of the examples"
    ),
    "worst_k_gain": (
        "gain of the k groups that gain least, chosen on the other half of the examples"
    ),
    "groups_harmed": "groups harmed at a false discovery rate of 5 %",
    "groups_helped": "groups helped at a false discovery rate of 5 %",
    "student_accuracy": "accuracy of the student, every example alike",
    "student_average": "accuracy of the student, every group alike",
    "student_worst_k": (
        "accuracy in the student's k worst groups, chosen on the other half of the examples"
    ),
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
    **{
        f"{role}_copies": (
            f"per cent of the teacher's errors where the {role} gives the same wrong label, every "
            "group alike"
        )
        for role in ("student", "baseline")
    },
    "copied_excess": (
        "the student's copies beyond those of baselines of equal accuracy, points: F3b of a study"
    ),
    **{
        f"{role}_calibration_error": f"expected calibration error of the {role}, per cent, 15 bins"
        for role in ROLES
    },
    **{f"{role}_log_loss": f"log-loss of the {role}, nats" for role in ROLES},
}


def condition(text):
    """(metric, bound, comparison, number) of text such as "groups_harmed > 0".

    A bound of an interval follows a dot, as in "average_gain.high < 0"; without one it is
    "estimate". KdlibError for anything else.
    """
    match = re.fullmatch(
        r"\s*(\w+)(?:\.(low|high))?\s*(<=|>=|<|>)\s*([-−+]?[0-9]+(?:\.[0-9]+)?)\s*", text
    )
    if not match or not np.isfinite(float(match[4].replace("−", "-"))):
        raise KdlibError(
            f"--fail-if {text!r}: must be a metric, <, <=, > or >=, and a number, "
            "as in 'groups_harmed > 0'."
        )
    name, bound, comparison, number = match.groups()
    if name not in METRICS:
        raise KdlibError(f"--fail-if {text!r}: {did_you_mean(name, METRICS)}")
    return name, bound or "estimate", comparison, float(number.replace("−", "-"))


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
    holds = {
        "<": value < number,
        "<=": value <= number,
        ">": value > number,
        ">=": value >= number,
    }
    return holds[comparison], float(value)


def facts(audited, conditions=()):
    """The Audit as a dictionary for JSON, as audit.schema.json describes it."""

    def plain(value):
        if isinstance(value, Interval):
            return {
                "estimate": plain(value.estimate),
                "low": plain(value.low),
                "high": plain(value.high),
                "detectable": plain(value.detectable),
                "per_seed": [plain(v) for v in value.per_seed],
            }
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (float, np.floating)):
            return float(value) if np.isfinite(value) else None
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return int(value)
        return value if isinstance(value, (str, bool)) else None

    def rows(frame):
        tuples = frame.itertuples(index=False)
        return [dict(zip(frame.columns, map(plain, row), strict=True)) for row in tuples]

    a = audited
    inputs = [{"role": role, "name": name, "sha256": sha or None} for role, name, sha in a.inputs]
    asked = [{"condition": text, "met": held, "value": value} for text, (held, value) in conditions]
    return {
        "schema": 1,
        "kdlib": __version__,
        "examples": a.n,
        "classes": len(a.class_names),
        "seeds": a.seeds,
        "reference": a.reference,
        "intervals_cover": a.covers,
        "groups_overlap": not a.disjoint,
        "buckets_by": a.bucketed_by,
        "worst_k": a.worst,
        "inputs": inputs,
        "metrics": {name: plain(value) for name, value in a.metrics.items()},
        "groups": rows(a.groups),
        "buckets": rows(a.buckets),
        "transfer": rows(a.transfer),
        "calibration": rows(a.calibration),
        "limits": list(a.limits),
        "fail_if": asked,
    }
