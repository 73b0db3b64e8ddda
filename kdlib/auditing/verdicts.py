"""Whether an Audit meets the conditions of the gate: met, not met, or unknown."""

import difflib
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from kdlib.auditing.facts import Earlier, differences, facts, other_examples
from kdlib.auditing.gate import conditions, written
from kdlib.auditing.tables import FEWEST
from kdlib.config import count_of
from kdlib.reading.sentences import printable

MET, NOT_MET, UNKNOWN = "met", "not met", "unknown"
WHOLE = ("_accuracy", "_calibration_error", "_log_loss")  # ends of metrics without groups
NAMED = 3  # groups in a sentence
BEYOND = 0.025  # share of 95 % intervals that lie on one given side of the truth
NO_ESTIMATES = ("n", "n_train", "q", "detectable")  # columns of the groups' table without luck


@dataclass(frozen=True)
class Verdict:
    """What a condition came to."""

    condition: str
    state: str  # MET, NOT_MET or UNKNOWN
    value: float | None  # of any group: the lowest where less is asked for, else the highest
    why: str = ""  # which groups meet it, or why it is unknown
    note: str = ""  # what such a condition cannot promise

    def said(self):
        """The value and the reason in words."""
        parts = [self.why] if self.why else []
        if self.value is not None:
            parts.insert(0, f"the value is {shown(self.value)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Judgement:
    """The verdicts on all conditions."""

    verdicts: tuple = ()
    against: Earlier | None = None
    cautions: tuple = ()  # sentences: how far the earlier audit can be compared
    each: dict = field(default_factory=dict)  # {student: Judgement}, of several

    @property
    def code(self):
        """Exit code: 1 if a condition is met, 3 if none is but one is unknown, else 0."""
        if self.count(MET):
            return 1
        return 3 if self.count(UNKNOWN) else 0

    def count(self, state):
        return sum(verdict.state == state for verdict in self.verdicts)

    def said(self):
        """What it comes to, in a sentence."""
        every = len(self.verdicts)
        met = self.count(MET)
        unknown = self.count(UNKNOWN)
        gate = {0: "The gate passes", 1: "The gate fails", 3: "The gate is undecided"}[self.code]
        are = "is" if met == 1 or every == 1 else "are"
        more = f", {unknown} unknown" if unknown else ""
        return f"{gate}: {met} of {count_of(every, 'condition')} {are} met{more}."


def judge(audited, texts, against=None):
    """The Judgement of texts, as gate.condition reads them, on an Audit.

    against: the Earlier that change(...) is from; without it such a text is a KdlibError.
    """
    asked = conditions(texts, against)
    now = facts(audited)
    cautions = ()
    if against is not None:
        cautions = (
            f"Changes are from the earlier audit in {printable(against.name, None)} and mean "
            "something only if both audits are of the same examples.",
            *differences(now, against.facts),
        )
    verdicts = tuple(_verdict(c, audited, now, against) for c in asked)
    return Judgement(verdicts, against, cautions)


def _verdict(c, audited, now, against):
    values = _values(c, now)
    if c.change:
        before = _values(c, against.facts)
        values = {
            name: values.get(name, np.nan) - before.get(name, np.nan)
            for name in {**values, **before}
        }
        if _apart(c, now, against):
            values = dict.fromkeys(values, np.nan)
    if c.group is not None:
        values = {c.group: values.get(c.group, np.nan)}
    known = {name: value for name, value in values.items() if np.isfinite(value)}
    # those that meet it most come first
    order = sorted(known, key=known.get, reverse=c.comparison in (">", ">="))
    # what is 0 but for rounding is not below it
    those = [name for name in order if c.holds(round(known[name], 9))]
    state = NOT_MET
    why = ""
    if those:
        state = MET
        why = _named("met by", those, known) if c.any else ""
    elif len(known) < len(values):
        state = UNKNOWN
        why = _why(c, audited, now, against, [name for name in values if name not in known])
    value = known[order[0]] if order else None
    return Verdict(c.text, state, value, why, _note(c, audited))


def _values(c, found):
    """{group, or "" for a metric: value} of the facts of an audit; NaN where it is not known."""
    if not c.of_groups:
        value = found["metrics"].get(c.name)
        return {"": _number(value.get(c.bound) if isinstance(value, dict) else value)}
    return {row["group"]: _number(row.get(c.column)) for row in found["groups"]}


def _number(value):
    """A value of a JSON file as float, NaN for what is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.nan


def _apart(c, now, against):
    """Why a condition means something else in the earlier audit; "" if it means the same."""
    before = against.facts
    name = printable(against.name, None)
    if other_examples(now, before):
        return f"{name} has other examples or labels"
    gain = "gain" in c.name or c.name.startswith("groups_") or c.name in ("q", "detectable")
    if gain and now["reference"] != before["reference"]:
        return f"gains in {name} are over the {before['reference']}"
    groups, earlier = ({row["group"] for row in of["groups"]} for of in (now, before))
    by_group = not c.of_groups and not c.name.startswith("overall") and not c.name.endswith(WHOLE)
    return f"{name} has other groups" if by_group and groups != earlier else ""


# ---------------------------------------------------------------- several students


def judge_students(found, texts, against=None):
    """The Judgement of texts on Students, whose verdicts name the students that decide them.

    A condition is asked of every one, and met if any meets it. against: of several students.
    """
    before = against.students if against else {}
    each = {}
    for name, a in found.audits.items():
        if against is None or name in before:
            each[name] = judge(a, texts, before.get(name))
            continue
        nothing = facts(a) | {"metrics": {}, "groups": []}
        judged = judge(a, texts, replace(against, facts=nothing))
        file = printable(against.name, None)
        caution = f"{file} has no student {name}, so its changes are unknown."
        each[name] = replace(judged, cautions=(*judged.cautions, caution))
    of_condition = zip(*(judged.verdicts for judged in each.values()), strict=True)
    verdicts = tuple(_together(dict(zip(each, some, strict=True))) for some in of_condition)
    cautions = dict.fromkeys(itertools.chain(*(judged.cautions for judged in each.values())))
    return Judgement(verdicts, against, tuple(cautions), each)


def _together(of_student):
    """The Verdict on one condition, of {student: Verdict}."""
    verdicts = list(of_student.values())
    states = {verdict.state for verdict in verdicts}
    state = next(state for state in (MET, UNKNOWN, NOT_MET) if state in states)
    deciding = {name: v for name, v in of_student.items() if v.state == state}
    of = {}  # students by what is said of them
    for name, v in deciding.items():
        of.setdefault(v.said() or state, []).append(name)
    why = "; ".join(f"{', '.join(names)}: {said}" for said, names in of.items())
    if len(of_student) > 1 and state == NOT_MET:
        why = f"not by any of {len(of_student)} students; {why}"
    notes = dict.fromkeys(v.note for v in deciding.values() if v.note)
    return Verdict(verdicts[0].condition, state, None, why, " ".join(notes))


# ---------------------------------------------------------------- in words


def shown(value):
    """A value in a sentence."""
    said = f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
    return said.replace("-", "−")


def _named(begin, names, values=None):
    """Groups in words, at most three by name: "met by 5 groups: a (-3), b (-2), c (-1), ..."."""
    some = []
    for name in names[:NAMED]:
        value = f" ({shown(values[name])})" if values else ""
        some.append(printable(name, 40) + value)
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{begin} {count_of(len(names), 'group')}: {', '.join(some)}{more}"


def _why(c, audited, now, against, unknown):
    """Why a condition is unknown; unknown: names of the groups without a value."""
    here = _values(c, now)
    if c.group is not None and c.group not in here:
        near = difflib.get_close_matches(c.group, here, n=1)
        hint = f"; did you mean [group={written(near[0])}]?" if near else ""
        return f"there is no such group{hint}"
    lacking = [name for name in unknown if np.isnan(here.get(name, 0))]
    if len(lacking) == len(here) or (lacking and not c.any):
        return why_unknown(audited, c.name)
    if lacking:
        return _named("not known in", lacking)
    # so it is the earlier audit that does not tell
    name = printable(against.name, None)
    if apart := _apart(c, now, against):
        return apart
    gone = [group for group in unknown if group not in here]
    if gone:  # what became of it is hidden
        return _named("in", gone) + f", of {name} alone"
    said = f"{name} has no such value"
    return _named(f"{said} of", unknown) if c.of_groups else said


def why_unknown(audited, name):
    """Why an Audit does not know a metric, or a column of its groups' table."""
    alone = audited.reference == "teacher"
    by_groups = ("worst_bucket_gain", "worst_k_gain", "margin_gain_correlation")
    role = name.split("_")[0]
    instead = {"groups_harmed": "groups_worse", "groups_helped": "groups_better"}
    if name in instead and alone:
        return f"there is no baseline; {instead[name]} compares with the teacher instead"
    if name in instead.values() and not alone:
        same = next(key for key in instead if instead[key] == name)
        return f"gains are over the baseline; {same} counts them"
    if alone and (role == "baseline" or name == "copied_excess"):
        return "there is no baseline"
    if name == "copied_excess":
        return "baselines hardly err or give the teacher's own answers, or the teacher never errs"
    if name in by_groups and len(audited.groups) < FEWEST:
        return f"at least {FEWEST} groups are needed; this audit has {len(audited.groups)}"
    scores = ("_calibration_error", "_log_loss", "_overconfidence")
    if name.endswith(scores) and not audited.scored.get(role, False):
        return f"only predicted classes were given for the {role}"
    if name.startswith("subgroups_"):
        return "no search was asked for (--search)"
    if name == "n_train":
        return "no training counts were given"
    return "it cannot be told from these inputs"


def _note(c, audited):
    """What such a condition cannot promise, in a sentence; "" if nothing need be said."""
    harmed = "groups_harmed" if audited.reference == "baseline" else "groups_worse"
    groups = len(audited.groups)
    if c.change and c.name not in NO_ESTIMATES:
        return (
            "A change is the difference of two estimates without an interval, so this is not a "
            "statistical test."
        )
    beyond = (c.bound, c.comparison[0]) in (("low", ">"), ("high", "<"))
    if c.any and beyond:
        rate = 100 * (1 - (1 - BEYOND) ** (groups * audited.compared))
        of = f"{audited.compared} students x " if audited.compared > 1 else ""
        return (
            f"Each group has its own 95 % interval, so chance alone can meet this condition in up "
            f"to {rate:.0f} % of audits of {of}{count_of(groups, 'group')}; {harmed} > 0 is "
            "corrected for their number."
        )
    if c.of_groups and c.bound == "estimate" and c.name not in NO_ESTIMATES:
        return (
            "An estimate is not a test: a small group can meet this condition by chance. "
            f"A test is {harmed} > 0 or, for one group, gain[group=NAME].high < 0."
        )
    return ""
