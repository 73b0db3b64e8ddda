"""An Audit as JSON, as audit.schema.json describes it, and an earlier one read again."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import __version__
from kdlib.auditing.pictures import told_lost
from kdlib.evidence.stats import Interval
from kdlib.reading.sentences import AuditError, encodable, quoted, reason

SCHEMA = 1  # version of the format
NEEDED = {  # fields of an earlier audit that are used, and their types
    "examples": int,
    "classes": int,
    "reference": str,
    "inputs": list,
    "metrics": dict,
    "groups": list,
}


def facts(audited, judged=None):
    """The Audit as a dictionary for JSON, with the verdicts.Judgement of its conditions."""
    a = audited
    return plain(
        {
            "schema": SCHEMA,
            "kdlib": __version__,
            "title": a.title,
            "read": a.read,
            "warnings": a.warnings,
            "examples": a.n,
            "classes": len(a.class_names),
            "seeds": a.seeds,
            "student": a.student,
            "students_compared": a.compared,
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
            "subgroups": a.subgroups,
            "searched": a.searched,
            "lost": told_lost(a.lost),
            "limits": [*a.cautions(), *a.limits],
        }
        | _choice(a)
        | _gate(judged)
    )


def facts_of_students(found, judged):
    """Students as a dictionary for JSON, as students.schema.json describes it; judged: of all."""
    each = {name: facts(a, judged.each[name]) for name, a in found.audits.items()}
    return plain(
        {
            "schema": SCHEMA,
            "kdlib": __version__,
            "title": found.title,
            "reference": found.reference,
            "table": found.table,
            "differences": found.pairs,
            "students": each,
        }
        | _choice(found)
        | _gate(judged)
    )


def _choice(found):
    """Which student to ship, where that was asked."""
    return {"choice": vars(found.choice)} if found.choice else {}


def _gate(judged):
    """The earlier audit and the verdicts of a Judgement, or of None."""
    against = None
    verdicts = judged.verdicts if judged else ()
    if judged and judged.against:
        against = {"name": judged.against.name, "sha256": judged.against.sha256}
        against |= {"cautions": judged.cautions}
    met = {"met": True, "not met": False}
    rows = [dataclasses.asdict(v) | {"met": met.get(v.state)} for v in verdicts]
    return {"against": against, "fail_if": rows}


def plain(value):
    """A value of an Audit as JSON has it: tables as lists of rows, null for what is not known."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, Interval):
        names = ("estimate", "low", "high", "detectable", "per_seed")
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if pd.isna(value) or value in (np.inf, -np.inf) else value


# ---------------------------------------------------------------- an earlier audit


@dataclass(frozen=True)
class Earlier:
    """The JSON of an earlier audit."""

    name: str
    sha256: str
    facts: dict
    students: dict = dataclasses.field(default_factory=dict)  # {name: Earlier}, of several


def earlier(path):
    """The Earlier of a file; AuditError if it is not what an audit has written."""
    name = f"--against {encodable(str(path))}"
    try:
        content = Path(path).read_bytes()
        held = json.loads(content)
    except OSError as error:
        raise AuditError(f"{name}: cannot be read ({reason(error)}).") from None
    # bytes that are no text, a number of 5,000 digits, a thousand brackets
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{name}: is not valid JSON ({reason(error)}).") from None
    if not isinstance(held, dict) or "schema" not in held:
        raise AuditError(f"{name}: is not a JSON file that an audit has written.")
    if held["schema"] != SCHEMA:
        has = quoted(held["schema"])
        raise AuditError(f"{name}: has format version {has}; only version {SCHEMA} can be read.")
    several = held.get("students")
    for of_student in several.values() if isinstance(several, dict) else [held]:
        _check_facts(of_student, name)
    file = encodable(str(path))
    sha256 = hashlib.sha256(content).hexdigest()
    if not isinstance(several, dict):
        return Earlier(file, sha256, held)
    students = {student: Earlier(file, sha256, of) for student, of in several.items()}
    return Earlier(file, sha256, held, students)


def _check_facts(held, name):
    """AuditError for facts of a student that lack what is used of them."""
    for field, kind in NEEDED.items():
        if not isinstance(held, dict) or not isinstance(held.get(field), kind):
            raise AuditError(f"{name}: has no {field}, as the JSON file of an audit has.")
    for row in held["groups"]:
        if not isinstance(row, dict) or not isinstance(row.get("group"), str):
            raise AuditError(f"{name}: one of its groups has no name.")


def other_examples(now, before):
    """Sentences: how the facts of two audits show that they are not of the same examples."""
    out = []
    for field in ("examples", "classes"):
        if now[field] != before[field]:
            out.append(f"It has {before[field]:,} {field}, this one {now[field]:,}.")
    labels, earlier_labels = _labels(now), _labels(before)
    if labels and earlier_labels and labels != earlier_labels:
        out.append("The two files of labels differ.")
    return out


def differences(now, before):
    """Sentences: how the facts of two audits show that not all in them can be compared."""
    out = other_examples(now, before)
    if now["reference"] != before["reference"]:
        out.append(
            f"Its gains are over the {before['reference']}, those here over the "
            f"{now['reference']}, so changes of gains are unknown."
        )
    if now["worst_k"] != before.get("worst_k"):
        out.append("Its worst-k metrics take another number of groups.")
    return out


def _labels(held):
    """The hash of the labels' file, or None."""
    rows = [row for row in held["inputs"] if isinstance(row, dict)]
    return next((row.get("sha256") for row in rows if row.get("role") == "labels"), None)
