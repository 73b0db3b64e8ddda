"""Several students of one teacher, each audited against the same baseline, tested together.

found = kdlib.audit_students(
    "labels.npy",
    teacher="teacher.npz",
    students={"kd": ["k0.npz", "k1.npz"], "ada": ["a0.npz", "a1.npz"]},
    baseline=["b0.npz", "b1.npz"],
)
found.table         # DataFrame, one row per student
found.groups        # DataFrame, one row per student and group
found.audits["kd"]  # its Audit
"""

import contextlib
import functools
import inspect
import itertools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.auditing import standing, verdicts
from kdlib.auditing.audit import audit
from kdlib.auditing.found import Found
from kdlib.auditing.tables import CHANGED
from kdlib.evidence.significance import called, false_discovery, holm
from kdlib.evidence.stats import Interval, welch
from kdlib.reading.inputs import BY_EXAMPLE, models_of
from kdlib.reading.read import file_and_columns, source
from kdlib.reading.said import of_student
from kdlib.reading.sentences import AuditError, quoted

LONGEST = 40  # letters of a student's name
SIMPLE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
ALLOWED = f"a name has at most {LONGEST} letters, digits, dots, _ and -, and begins with a letter "
ALLOWED += "or digit"
UNKNOWN = Interval(*[np.nan] * 5, 0, ())
SHARED = dict(zip(BY_EXAMPLE, BY_EXAMPLE, strict=True)) | {"train_counts": "training counts"}
BY_GROUP = ["student", "group", "n", "gain", "low", "high", "p", "q", "finding"]  # columns


@dataclass(frozen=True)
class Students(Found):
    """What was found. Accuracies are in per cent, gains in points over `reference`."""

    audits: dict  # name: Audit, whose q and findings are corrected for all students and groups
    table: object  # DataFrame, one row per student; p_holm is corrected for their number
    groups: object  # DataFrame, one row per student and group
    pairs: object  # DataFrame, one row per two students: the first's average gain less the other's
    title: str = ""  # of the page, if you gave one
    shared: tuple = ()  # sentences on what was read, the first of every Audit, said once
    choice: object = None  # distilling.choice.Choice: which student to ship, if that was asked

    heading = standing.title
    findings = standing.answer
    cautions = standing.cautions
    about = standing.about
    judge = verdicts.judge_students

    @property
    def first(self):
        """The Audit of the first student: what all share can be read from it."""
        return next(iter(self.audits.values()))

    @property
    def reference(self):
        return self.first.reference

    @property
    def inputs(self):
        """(role, name, sha256) of what was read for any of them."""
        return tuple(dict.fromkeys(i for a in self.audits.values() for i in a.inputs))

    @property
    def read(self):
        """Sentences on what was read; what is the same of all stands with the first student."""
        if len(self.audits) == 1:
            return self.first.read
        said = set()
        of = [("", sentence) for sentence in self.shared]
        of += [(name, sentence) for name, a in self.audits.items() for sentence in a.read]
        return tuple(filter(None, (of_student(*named, said) for named in of)))

    @property
    def warnings(self):
        """The warnings of all, each behind the names of the students that it is of."""
        of = {}
        for name, a in self.audits.items():
            for sentence in a.warnings:
                of.setdefault(sentence, []).append(name)
        return tuple(f"{', '.join(names)}: {sentence}" for sentence, names in of.items())

    @property
    def look(self):
        from kdlib.auditing import comparison  # here, since drawing takes long to import

        return comparison


def audit_students(labels, teacher, students, baseline=None, groups=None, **options):
    """The Students of one teacher and one baseline, on the same examples.

    students: {name: scores, or a list of them, one per training run}, as `student` of kdlib.audit.
    Everything else: see there. What is shared is read once.

    Groups are called harmed or helped at a false discovery rate of 5 % over all students and groups
    (Benjamini and Hochberg); the p of average gains, and those of the differences between students,
    are corrected by Holm. KdlibError, in one sentence, for anything that cannot be used.
    """
    check_names(students)
    inspect.signature(audit).bind(None, None, None, **options)  # a misspelt one, before the work
    title, say = options.pop("title", ""), options.pop("say", None)
    shared = {"groups": groups} | options
    for option, what in SHARED.items():
        if shared.get(option) is not None:
            shared[option] = source(shared[option], what)
    labels = source(labels, "labels")
    for name, given in students.items():
        _check_there(given, name)
    audits, read, said = {}, {}, set()
    for name, given in students.items():
        with _naming(name):
            models = models_of(teacher, given, baseline)
            teacher, baseline = models["teacher"], models.get("baseline")
            _check_files(models["student"], name, read)
            tell = say
            if say and len(students) > 1:
                tell = functools.partial(_tell, say, name, said)
            files = labels, teacher, models["student"], baseline
            audits[name] = audit(*files, **shared, title=title, say=tell)
    pairs = _pairs(audits)
    audits = _together(audits)
    by_group = [a.groups.assign(student=name)[BY_GROUP] for name, a in audits.items()]
    return Students(audits, _table(audits), pd.concat(by_group, ignore_index=True), pairs, title)


# ---------------------------------------------------------------- names and files


def check_names(students):
    """AuditError for what is no dictionary of students by names that can be names of files."""
    if not isinstance(students, dict) or not students:
        raise AuditError("students must be a dictionary, {name: a file or array a training run}.")
    taken = {}
    for name in students:
        if not isinstance(name, str) or not SIMPLE.fullmatch(name):
            raise AuditError(f"student {quoted(name)}: {ALLOWED}.")
        other = taken.setdefault(name.lower(), name)
        if other != name:
            raise AuditError(
                f"student {name!r}: differs from {other!r} only in case, which some file systems "
                "do not distinguish."
            )


def named_files(tokens):
    """{student: [text of each file]} of words such as kd=k0.npz k1.npz ada=a0.npz; {} of no names.

    A word that is the name of a file is one, whatever stands in it. AuditError for what cannot be.
    """
    found = {}
    for place, token in enumerate(map(str, tokens)):
        name, equals, file = token.partition("=")
        is_file = not equals or os.path.exists(file_and_columns(token)[0])
        if is_file and found:
            found[list(found)[-1]].append(token)
        if is_file:
            continue
        if not SIMPLE.fullmatch(name):
            raise AuditError(f"--student {token}: there is no such file; in NAME=FILE {ALLOWED}.")
        if not file:
            raise AuditError(f"--student {token}: names no file; write {name}=FILE.")
        if place and not found:
            raise AuditError(
                f"--student {tokens[0]}: has no name and {token} has one; give each student one, "
                f"as in NAME={tokens[0]}."
            )
        if name in found:
            raise AuditError(
                f"--student {token}: {name} was named before; its files follow each other, as in "
                f"{name}=FILE FILE."
            )
        found[name] = [file]
    if found:
        check_names(found)
    return found


def _check_there(given, name):
    """AuditError for a file that does not exist, before the others are audited."""
    for one in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(one, Path) and not os.path.exists(file_and_columns(one)[0]):
            source(one, name)


def _check_files(sources, name, read):
    """AuditError where a file of another student is given again; adds these to those `read`."""
    for s in sources:
        content = (s.sha256, *s.columns)
        other = read.setdefault(content, name) if s.sha256 else name
        if other != name:
            raise AuditError(
                f"{s.name}: is given as student {name} and holds the same as a file of student "
                f"{other}; every student has files of its own."
            )


@contextlib.contextmanager
def _naming(name):
    """Within it, an AuditError on an array, which has no file's name, says whose student it is."""
    try:
        yield
    except AuditError as error:
        if not str(error).startswith(("student:", "student ")):
            raise
        raise AuditError(f"student {name}{str(error).removeprefix('student')}") from None


def _tell(say, name, said, sentence):
    """say what of a sentence on a student was not `said` before."""
    if shorter := of_student(name, sentence, said):
        say(shorter)


# ---------------------------------------------------------------- all students together


def _together(audits):
    """The same Audits with q, findings and their numbers corrected for all students and groups."""
    p = np.concatenate([a.groups.p for a in audits.values()])
    q = np.split(false_discovery(p), np.cumsum([len(a.groups) for a in audits.values()])[:-1])
    out = {}
    for (name, a), own in zip(audits.items(), q, strict=True):
        words = CHANGED[a.reference]
        finding = called(a.groups.gain, own, words)
        counts = {f"groups_{word}": int((finding == word).sum()) for word in words}
        within = ()
        if a.subgroups is not None and len(audits) > 1:
            within = ("What the search for subgroups found is not corrected for other students.",)
        out[name] = replace(
            a,
            limits=(*a.limits, *within),
            groups=a.groups.assign(q=own, finding=finding),
            metrics=a.metrics | counts,
            student=name,
            compared=len(audits),
        )
    return out


def _table(audits):
    """DataFrame, one row per student."""
    rows = []
    for name, a in audits.items():
        gain, worst = a.metrics["average_gain"], a.metrics.get("worst_k_gain", UNKNOWN)
        rows.append(
            {
                "student": name,
                "runs": a.seeds,
                "average_gain": gain.estimate,
                "low": gain.low,
                "high": gain.high,
                "p": gain.p(),
                "worst_k_gain": worst.estimate,
                "worst_k_low": worst.low,
                "worst_k_high": worst.high,
                "accuracy": a.metrics["student_accuracy"].estimate,
                "average_accuracy": a.metrics["student_average"].estimate,
                **{f"groups_{word}": a.metrics[f"groups_{word}"] for word in CHANGED[a.reference]},
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table.p))


def _pairs(audits):
    """DataFrame, one row per two students: how much more the first gains than the other.

    As if the other were the baseline. Where the files of the two have the classes in another order,
    their redraws are not paired, and the interval is wider than it had to be."""
    rows = []
    for (name, a), (other, b) in itertools.combinations(audits.items(), 2):
        gain = welch(a.averages, b.averages, a.df).within(-100, 100)
        rows.append((name, other, gain.estimate, gain.low, gain.high, gain.p()))
    columns = ["student", "other", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table.p))
