"""What Students found, in a few sentences: who harmed whom, who gains most, what is not decided."""

import itertools
from dataclasses import replace

from kdlib.auditing.headline import or_none, words_of
from kdlib.auditing.tables import CHANGED
from kdlib.config import count_of
from kdlib.evidence.words import all_of, told
from kdlib.reading.sentences import printable

QUESTIONS = {
    "baseline": "Whom did these distillations hurt?",
    "teacher": "Where are these students worse than their teacher?",
}
LISTED = 5  # students in a sentence
DECIDED = 0.05  # p_holm of a difference


def title(found):
    """The title that was given, or the question that this page answers."""
    return printable(found.title, 200) or QUESTIONS[found.reference]


def cautions(found):
    """Those of the students' Audits, each once; that they are compared, the page says itself."""
    each = (replace(a, compared=1).cautions() for a in found.audits.values())
    return list(dict.fromkeys(itertools.chain(*each)))


def about(found, today):
    """{what: words} of the first screen, where a student's files stand behind its name."""
    return found.first.about(today, found.audits)


def answer(found):
    """List of sentences: who harmed whom, who gains most on average and in the worst groups."""
    if len(found.audits) == 1:
        return found.first.findings()
    said = [_whom(found), _on_average(found)]
    if found.table.worst_k_gain.notna().all():
        said.append(_in_the_worst(found))
    return [sentence for sentence in said if sentence]


def _whom(found):
    lost, gained = CHANGED[found.reference]
    counts = found.table[["student", f"groups_{lost}", f"groups_{gained}"]]
    counts = counts.set_axis(["student", "lost", "gained"], axis=1)
    groups = len(found.first.groups)
    corrected = f"corrected for {len(counts)} students x {count_of(groups, 'group')}"
    verbs, clearly = ("harmed", "helped"), "clearly harmed or helped"
    if words_of(*found.audits.values()) == CHANGED["teacher"]:
        other = "its teacher" if found.reference == "teacher" else "this baseline"
        verbs = f"is worse than {other} in", "is better in"
        clearly = f"is clearly worse or better than {other} in"
    if not counts[["lost", "gained"]].to_numpy().any():
        return f"No student {clearly} any of {groups:,} groups, {corrected}."
    counts = counts.sort_values("lost", ascending=False, kind="stable")
    some = [
        f"{r.student} {verbs[0]} {or_none(r.lost)} and {verbs[1]} {or_none(r.gained)}"
        for r in counts.head(LISTED).itertuples()
    ]
    more = len(counts) - LISTED
    also = f"; {count_of(more, 'more student')} in the table" if more > 0 else ""
    return (
        f"Of {groups:,} groups, {'; '.join(some)}{also}. This is {corrected}; at most one in "
        "twenty is expected to be a false alarm."
    )


def _on_average(found):
    best = found.table.loc[found.table.average_gain.idxmax()]
    verb = "gains most" if best.average_gain > 0 else "loses least"
    gain = told(found.audits[best.student].metrics["average_gain"])
    said = f"On average over the groups, {best.student} {verb}: {gain}"
    if best.p <= DECIDED < best.p_holm:
        said += f", which is not clear once it is corrected for {len(found.table)} students"
    open_ = _undecided(found.pairs, best.student)
    if not open_:
        others = "every other student" if len(found.table) > 2 else "the other student"
        return f"{said}, clearly better than {others}."
    return f"{said}; whether that is better than {_names(open_)} is not decided."


def _undecided(pairs, best):
    """The students whose average gain does not clearly differ from that of the best."""
    own = pairs[(pairs.student == best) | (pairs.other == best)]
    unclear = own[~(own.p_holm <= DECIDED)]
    return [r.other if r.student == best else r.student for r in unclear.itertuples()]


def _in_the_worst(found):
    table, k = found.table, found.first.worst
    best = table.loc[table.worst_k_gain.idxmax()]
    groups = f"In the {k:,} groups" if k > 1 else "In the group"
    groups += " where each student gains least"
    verb = "gains most" if best.worst_k_gain > 0 else "loses least"
    gain = told(found.audits[best.student].metrics["worst_k_gain"])
    if best.worst_k_gain > best.average_gain:
        return ""  # groups hardly differ: those that were chosen are no worse than the others
    # an interval that overlaps, or is not known
    others = table[(table.student != best.student) & ~(table.worst_k_high < best.worst_k_low)]
    said = f"{groups}, {best.student} {verb}: {gain}"
    if not len(others):
        return f"{said}, and its interval lies above those of all others."
    return (
        f"{said}; its interval overlaps that of {_names(list(others.student))}, so who is best "
        "there is not decided."
    )


def _names(students):
    if len(students) > LISTED:
        return f"{all_of(students[:LISTED])} or {len(students) - LISTED} more"
    return all_of(students, "or")
