"""What an Audit found, in a few sentences: the answer, and what it cannot be taken for.

Terms are explained where they are first met, since these sentences are read first.
"""

import os
from unicodedata import bidirectional, east_asian_width

import numpy as np

from kdlib.auditing.search import told_subgroups
from kdlib.auditing.tables import CHANGED
from kdlib.config import count_of
from kdlib.evidence.stats import Interval
from kdlib.evidence.words import all_of, number, told
from kdlib.reading.names import ROLES
from kdlib.reading.sentences import printable

NAMED = 3  # groups that lost most, or files of a role
LONGEST = 40  # letters of a file's name
QUESTIONS = {
    "baseline": "Whom did this distillation hurt?",
    "teacher": "Where is this student worse than its teacher?",
}


def title(a):
    """The title that was given, or the question that this audit answers."""
    asked = printable(a.title, 200) or QUESTIONS[a.reference]
    return f"{a.student}: {asked}" if a.student else asked


# ---------------------------------------------------------------- the answer


def answer(a):
    """List of sentences: which groups lost, the average, the bucket that gains least."""
    if np.allclose(a.groups.gain, 0, rtol=0, atol=1e-9):
        return [
            f"Every gain is 0: the student and the {a.reference} are right equally often in every "
            "group, as when a model is compared with itself."
        ]
    said = [_whom(a), _on_average(a)]
    if len(a.buckets) and a.buckets.gain.notna().all():
        said.append(_by_bucket(a))
    if a.subgroups is not None:
        lost = words_of(a)[0]
        lost = f"worse than the {a.reference}" if lost == "worse" else lost
        said.append(told_subgroups(a.subgroups, lost))
    return [unbroken(sentence) for sentence in said]


def unbroken(sentence):
    """The sentence with its numbers on the line of their units."""
    for unit in ("%", "points"):
        sentence = sentence.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}")
    return sentence


def _whom(a):
    lost, gained = CHANGED[a.reference]
    worse, better = (int((a.groups.finding == word).sum()) for word in (lost, gained))
    every = count_of(len(a.groups), "group")
    other = "its teacher" if a.reference == "teacher" else "this baseline"
    of_networks = words_of(a) == CHANGED["teacher"]
    if not worse + better:
        said = f"None of {every} is clearly {lost} or {gained}"
        if of_networks:
            said = f"In none of {every} is the student clearly worse or better than {other}"
        return f"{said}{_would_have_been_found(a)}."
    if of_networks:
        said = f"The student is worse than {other} in {or_none(worse)} of {every} and better in "
    else:
        said = f"This distillation harmed {or_none(worse)} of {every} and helped "
    said += f"{or_none(better)}; at most one in twenty of these is expected to be a false alarm"
    said += " about these two networks." if one_each(a) else "."
    if worse:
        most = a.groups[a.groups.finding == lost].sort_values("gain").head(NAMED)
        named = [f"{_name(r.group)} ({number(r.gain)})" for r in most.itertuples()]
        said += f" The largest losses are in {all_of(named)}."
    return said


def _name(group):
    """The name of a group; in quotes if it could be mistaken for a number of the sentence."""
    name = within_text(group)
    return name if any(map(str.isalpha, name)) else f"“{name}”"


def or_none(number):
    return f"{number:,}" if number else "none"


def _would_have_been_found(a):
    """How large a change of a group would have to be, so that "none" is not taken for proof."""
    if a.compared > 1:  # of which detectable does not know
        return ""
    enough = np.nanmedian(a.groups.detectable) if a.groups.detectable.notna().any() else np.nan
    if not np.isfinite(enough):
        return ""
    which = "in half of them" if len(a.groups) > 1 else "in it"
    if enough > 100:
        return f"; {which}, not even the largest possible change would have been detected"
    return f"; {which}, a change of {enough:.1f} points would probably have been detected"


def _on_average(a):
    # of groups that overlap, an example would count as often as it has groups
    gain = a.metrics["average_gain" if a.disjoint else "overall_gain"]
    over = "On average over the groups" if a.disjoint else "Over all examples"
    other = "its teacher"
    if a.reference == "baseline":
        other = "the baseline, the same network trained without a teacher"
    if gain.low > 0:
        clearly = "more accurate than"
    elif gain.high < 0:
        clearly = "less accurate than"
    else:
        clearly = "neither clearly more nor clearly less accurate than"
    return f"{over}, the student is {clearly} {other}: {told(gain)}."


def _by_bucket(a):
    least, most = (a.buckets.loc[at] for at in (a.buckets.gain.idxmin(), a.buckets.gain.idxmax()))
    cut = "Split into thirds by how sure the teacher is of the right class"
    if a.bucketed_by != "the teacher's margin":
        cut = "Split by their number of training examples"
    if not least.high < most.low:
        gains = [f"{r.bucket} {number(r.gain)}" for r in a.buckets.itertuples()]
        return f"{cut}, the groups do not clearly differ in gain: {all_of(gains)}."
    return f"{cut}, the groups called “{least.bucket}” gain least: {gain_in_words(least)}."


# ---------------------------------------------------------------- what it cannot be taken for


def cautions(a):
    """List of sentences that change how the answer is read; Audit.limits are the others."""
    out = []
    if a.reference == "teacher":
        out.append(
            "There is no baseline (the same network trained without a teacher), so gains over the "
            "teacher mix the effect of distillation with what a smaller network cannot do."
        )
    sides = {"student": a.seeds, a.reference: len(_given(a, a.reference))}
    if one_each(a):
        out.append(
            "With one training run on either side, this is about these networks only: two runs of "
            "the same training often differ in some groups. Only three or more runs of each can "
            "tell what distillation does."
        )
    elif min(sides.values()) <= 2:
        runs = " and ".join(f"{n} of the {role}" for role, n in sides.items())
        out.append(
            f"With so few training runs ({runs}), it is poorly known how much runs differ; another "
            "training run may give another result."
        )
    if a.compared > 1:
        out.append(
            f"This is one of {a.compared} students that are compared. Which groups are called "
            f"{' or '.join(words_of(a))} is corrected for {a.compared} students x "
            f"{count_of(len(a.groups), 'group')}."
        )
    if _given(a, "weights"):
        out.append(
            f"Examples count according to their weights ({short_name(a, 'weights')}); if a few "
            "carry most of it, intervals are wide."
        )
    return out


# ---------------------------------------------------------------- what was audited


def about(a, today, students=None):
    """{what: words} of the first screen: models, examples, training runs, intervals, date.

    students: {name: Audit} of those that are compared, of which a is the first.
    """
    models, runs = [], []
    for role in [role for role in ROLES if _given(a, role)]:
        named = students if students and role == "student" else {f"the {role}": a}
        for name, of in named.items():
            models.append(f"{name.removeprefix('the ')} {short_name(of, role)}")
            runs.append(f"{len(_given(of, role))} of {name}")
    of_groups = short_name(a, "groups") if _given(a, "groups") else "the classes"
    return {
        "Models": "; ".join(models),
        "Groups": f"{len(a.groups):,} ({of_groups})",
        "Training runs": ", ".join(runs),
        "Intervals": f"95 %, covering {a.covers.replace('seeds', 'training runs')}",
        "Date": f"{today.day} {today:%B %Y}",
    }


def one_each(a):
    """Whether there is one training run on either side: this is about two networks."""
    return max(a.seeds, len(_given(a, a.reference))) == 1


def words_of(*audits):
    """What pages and cards call groups that changed. Two networks are worse or better than each
    other: what distillation does, more of them would tell."""
    return CHANGED["teacher"] if any(map(one_each, audits)) else CHANGED[audits[0].reference]


def in_words(table, words):
    """A table with its findings in the words of words_of. In files they keep those of conditions,
    so that groups_harmed > 0 counts what the column there calls harmed."""
    own = {word: said for pair in CHANGED.values() for word, said in zip(pair, words, strict=True)}
    return table.assign(finding=table.finding.replace(own))


def _given(a, wanted):
    return [name for role, name, _ in a.inputs if role == wanted]


def short_name(a, role):
    """Names of a role's files, without the folder that all files of the audit share; a few."""
    names = _given(a, role)
    if names[0] in (role, f"{role} 0"):
        return "in memory"
    every = [name for _, name, sha256 in a.inputs if sha256]
    shared = os.path.join(os.path.dirname(os.path.commonprefix(every)), "")
    some = [printable(name.removeprefix(shared), None) for name in names[:NAMED]]
    # of a long one the end, which tells it from others
    some = [name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}" for name in some]
    more = len(names) - NAMED
    return ", ".join(some) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- names and numbers in words


def gain_in_words(row):
    """The gain of a group or bucket with its interval."""
    return told(Interval(row.gain, row.low, row.high, np.nan, np.nan, 0, ()))


def within_text(name, columns=60):
    """A name as one line, at most so many columns wide, of which letters of China, Japan and Korea
    take two; one that runs from right to left is kept from turning the text around it."""
    name = printable(name, None)
    ends = np.cumsum([1 + (east_asian_width(letter) in "WF") for letter in name])
    if len(ends) and ends[-1] > columns:
        name = name[: int((ends < columns).sum())] + "…"
    if any(bidirectional(letter) in ("R", "AL") for letter in name):
        return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"
    return name
