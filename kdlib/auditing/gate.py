"""The gate: what an audit measures, by name, and conditions on it.

    groups_harmed > 0              a metric
    average_gain.high < 0          an end of its 95 % interval
    gain[group=truck] < -2         a column of the groups' table, of one group
    any gain < -5                  the same of any group
    change(average_gain) < -1      now minus the earlier audit (--against)

A group's name stands as it is, or in double quotes as JSON writes text: so it must where it holds
"]", begins with a quote, or begins or ends with a blank.
"""

import json
import operator
import re
from dataclasses import dataclass

import numpy as np

from kdlib.config import KdlibError, did_you_mean
from kdlib.reading.names import ROLES

CHOSEN = "chosen on the other half of the examples"
COPIED = (
    "per cent of the teacher's errors to which the {} gives the same wrong label, with groups "
    "counted as if of equal size"
)
METRICS = {  # name: what it is; gains over the reference, in points
    "overall_gain": "accuracy of the student minus the reference's, every example counting alike",
    "average_gain": "the same, every group counting alike",
    "worst_bucket_gain": (
        f"gain of the bucket that gains least, {CHOSEN} and, if there are several students and "
        "baselines, by the other networks"
    ),
    "worst_k_gain": "the same of the k groups that gain least",
    "groups_harmed": "groups harmed (of one network each: worse) at a false discovery rate of 5 %",
    "groups_helped": "groups helped (of one network each: better) at a false discovery rate of 5 %",
    "groups_worse": "without a baseline: groups worse than the teacher, at the same rate",
    "groups_better": "without a baseline: groups better than the teacher, at the same rate",
    "subgroups_harmed": "subgroups that a search found and that other examples confirm as harmed",
    "subgroups_worse": "without a baseline: such subgroups that are worse than the teacher",
    "student_accuracy": "accuracy of the student, every example counting alike",
    "student_average": "accuracy of the student, every group counting alike",
    "student_worst_k": f"accuracy in the student's k worst groups, {CHOSEN}",
    "student_worst_k_same": "the same, but chosen on the examples that score it: too low",
    **{
        f"{role}_{what}": f"the same of the {role}"
        for role in ("teacher", "baseline")
        for what in ("accuracy", "average", "worst_k", "worst_k_same")
    },
    "margin_gain_correlation": (
        "rank correlation across groups between the teacher's margin, on one half of the examples, "
        "and the gain, on the other"
    ),
    "warnings": "warnings that what was read may not be what was meant",
    "student_copies": COPIED.format("student"),
    "baseline_copies": COPIED.format("baseline"),
    "copied_excess": "the student's copies beyond the baselines', scaled to as many errors, points",
    **{
        f"{role}_calibration_error": f"expected calibration error of the {role}, per cent, 15 bins"
        for role in ROLES
    },
    **{f"{role}_log_loss": f"mean log-loss of the {role}, natural logarithm" for role in ROLES},
}
# in the names of such metrics
NO_INTERVAL = ("groups_", "warnings", "_calibration_error", "_log_loss")
COLUMNS = {  # of the groups' table: what can be asked of a group
    "gain": "gain, points",
    **{role: f"accuracy of the {role}, per cent" for role in ROLES},
    "teacher_margin": "the teacher's margin",
    "ada_alpha": "alpha that AdaAlpha would use",
    "q": "whether the gain differs from 0, corrected for the number of groups",
    "detectable": "smallest gain that would be detected, points",
    "n": "examples",
    "n_train": "training examples",
    **{f"{role}_log_loss": f"mean log-loss of the {role}, natural logarithm" for role in ROLES},
    **{f"{role}_overconfidence": f"confidence of the {role} minus accuracy" for role in ROLES},
}
ENDS = {  # columns that hold the interval of one
    "gain": {"low": "low", "high": "high"},
    "teacher_margin": {"low": "margin_low", "high": "margin_high"},
}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(
    r"""\s*
    (?P<any>any\s+)?
    (?P<change>change\s*\(\s*)?
    (?P<name>\w+)
    (?:\[\s*group\s*=\s*(?P<group>"(?:[^"\\]|\\.)*"\s*|[^]"\s][^]]*)\])?
    (?:\.(?P<bound>low|high))?
    (?(change)\s*\))
    \s*(?P<comparison><=|>=|<|>)\s*
    (?P<number>[-−+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-−+]?[0-9]+)?)
    \s*""",
    re.VERBOSE | re.DOTALL,
)


# ---------------------------------------------------------------- conditions


@dataclass(frozen=True)
class Condition:
    """One condition, as it was read."""

    text: str
    name: str  # a metric, or of groups a column of their table
    bound: str  # estimate, or an end of its interval: low, high
    group: str | None  # its name, where the condition is on one group
    any: bool  # on any group
    change: bool  # on the difference from an earlier audit
    comparison: str
    number: float

    @property
    def of_groups(self):
        return self.any or self.group is not None

    @property
    def column(self):
        """Of the groups' table."""
        return self.name if self.bound == "estimate" else ENDS[self.name][self.bound]

    def holds(self, value):
        return bool(COMPARISONS[self.comparison](value, self.number))


def condition(text, where="--fail-if"):
    """The Condition that a text says; KdlibError, which begins with `where`, for anything else."""
    refused = f"{where} {text!r}:"
    match = CONDITION.fullmatch(text)
    number = float(match["number"].replace("−", "-")) if match else np.nan
    if not np.isfinite(number):
        raise KdlibError(
            f"{refused} must be a metric, then <, <=, > or >=, then a number, as in "
            "'groups_harmed > 0'; for groups as in 'gain[group=truck] < -2' or 'any gain < -5'; "
            "for changes since an earlier audit as in 'change(average_gain) < -1'. Put the name "
            'of a group in double quotes if it has ] or " in it.'
        )
    group = match["group"] and match["group"].strip()
    if group and group.startswith('"'):
        try:
            group = json.loads(group, strict=False)
        except ValueError:
            why = "the name in double quotes is not a valid JSON string."
            raise KdlibError(f"{refused} {why}") from None
    said = match.groupdict() | {"group": group, "number": number}
    said |= {"bound": match["bound"] or "estimate"}
    said |= {word: match[word] is not None for word in ("any", "change")}
    asked = Condition(text, **said)
    if wrong := _wrong(asked):
        raise KdlibError(f"{refused} {wrong}")
    return asked


def written(group):
    """The name of a group as a condition writes it."""
    plain = group and group == group.strip() and "]" not in group and not group.startswith('"')
    return group if plain and group.isprintable() else json.dumps(group)


def _wrong(c):
    """Why no audit can answer a Condition; "" if one can."""
    known = COLUMNS if c.of_groups else METRICS
    if c.any and c.group is not None:
        return "asks about any group and about one group; leave out one of them."
    if c.name in COLUMNS and c.name not in known:
        return f"{c.name} belongs to a group; write {c.name}[group=NAME], or any {c.name}."
    if c.name not in known:
        return did_you_mean(c.name, known)
    if c.change and c.bound != "estimate":
        return "the interval of a change is not known; change(...) takes neither .low nor .high."
    has_interval = not any(part in c.name for part in NO_INTERVAL)
    if c.of_groups:
        has_interval = c.name in ENDS
    if c.bound != "estimate" and not has_interval:
        return f"{c.name} has no interval."
    return ""


def conditions(texts, against, where="--fail-if"):
    """[Condition] of texts; KdlibError for one that needs an earlier audit where there is none."""
    asked = [condition(text, where) for text in texts]
    for c in asked:
        if c.change and against is None:
            raise KdlibError(
                f"{where} {c.text!r}: needs the JSON file of an earlier audit, --against FILE."
            )
    return asked
