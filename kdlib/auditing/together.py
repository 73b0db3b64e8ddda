"""The gate of several students: each condition is asked of every one, and met if any meets it."""

import dataclasses

from kdlib.auditing.facts import Earlier, facts
from kdlib.auditing.verdicts import MET, NOT_MET, UNKNOWN, Judgement, Verdict, judge
from kdlib.reading.sentences import printable


def judge_each(found, texts, against=None):
    """{student: Judgement} of the texts on each Audit of Students.

    against: the Earlier, of several students, that change(...) is from.
    """
    before = dict(against.students) if against else {}
    out = {}
    for name, a in found.audits.items():
        earlier = against and (before.get(name) or _nothing(a, against))
        judged = judge(a, texts, earlier)
        if against and name not in before:
            file = printable(against.name, None)
            caution = f"{file} has no student {name}, so its changes are unknown."
            judged = dataclasses.replace(judged, cautions=(*judged.cautions, caution))
        out[name] = judged
    return out


def _nothing(a, against):
    """The Earlier of a student that the earlier audit lacks."""
    return Earlier(against.name, against.sha256, facts(a) | {"metrics": {}, "groups": []})


def together(each, against=None):
    """The Judgement of all students, whose verdicts name those that decide them.

    each: what judge_each returned.
    """
    of_condition = zip(*(judged.verdicts for judged in each.values()), strict=True)
    verdicts = tuple(_verdict(dict(zip(each, some, strict=True))) for some in of_condition)
    cautions = dict.fromkeys(c for judged in each.values() for c in judged.cautions)
    return Judgement(verdicts, against, tuple(cautions))


def _verdict(of_student):
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
