"""What continuous integration gives to an audit and takes from it.

A file of conditions goes in; Markdown for a pull request and JUnit's XML come out.
"""

import os
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

from kdlib.auditing.facts import earlier
from kdlib.auditing.found import places as places_of_pages
from kdlib.auditing.found import write as write_text
from kdlib.auditing.gate import conditions
from kdlib.auditing.headline import words_of
from kdlib.auditing.tables import CHANGED
from kdlib.auditing.verdicts import MET, NOT_MET, UNKNOWN, shown
from kdlib.evidence.words import brief, p_value
from kdlib.reading.read import file_and_columns
from kdlib.reading.sentences import AuditError, encodable, printable, reason

LISTED = 10  # groups in the summary
SUITE = "kdlib audit"


# ---------------------------------------------------------------- what is asked


def asked(fail_if, gate=None, against=None, junit=None, students=()):
    """([text of each condition], the Earlier or None), checked before anything else is read.

    fail_if: texts. gate: a file with one condition per line; lines that are blank or begin with #
    do not count. against: the JSON file of an earlier audit, of several students if these have
    names. KdlibError for what cannot be asked.
    """
    before = None if against is None else earlier(against)
    if before and bool(before.students) != bool(students):
        has = "several students" if before.students else "one student without a name"
        name = encodable(str(against))
        raise AuditError(
            f"--against {name}: is of {has}; an audit of named students needs the JSON beside the "
            "page that compares them, an audit of one student the JSON of such an audit."
        )
    conditions(fail_if, before)
    texts = list(fail_if)
    if gate is not None:
        name = encodable(str(gate))
        lines = _lines(gate, name)
        for number, text in lines.items():
            conditions([text], before, printable(f"{name}, line {number}:", None))
        texts += lines.values()
    if junit is not None and not texts:
        raise AuditError("--junit: there are no conditions to report; give --fail-if or --gate.")
    return texts, before


def _lines(file, name):
    """{number of the line: condition} of a file."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise AuditError(f"--gate {name}: cannot be read ({reason(error)}).") from None
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1)}
    lines = {n: line for n, line in lines.items() if line and not line.startswith("#")}
    if not lines:
        raise AuditError(f"--gate {name}: contains no conditions.")
    return lines


def places(options, read, students=()):
    """{option: real path} of --summary and --junit, where they are given.

    read: files that the audit reads. students: names of those that are compared.

    AuditError if one would overwrite what the audit reads or writes, or --out what it reads.
    """
    read = [os.path.realpath(file_and_columns(file)[0]) for file in read]
    taken = dict.fromkeys(read, "this audit reads")
    for files in places_of_pages(options["out"], read, students).values():
        taken |= dict.fromkeys(map(os.path.realpath, files.values()), "--out writes")
    out = {}
    for option in ("summary", "junit"):
        if not (given := options[option]):
            continue
        if "\0" in given or given == "-":
            raise AuditError(f"--{option} {given}: must be the name of a file.")
        place = os.path.realpath(given)
        if place in taken:
            raise AuditError(f"--{option} {given}: would write over what {taken[place]}.")
        if os.path.exists(place) and not os.path.isfile(place):
            raise AuditError(f"--{option} {given}: is there and no ordinary file.")
        taken[place] = f"--{option} writes"
        out[option] = place
    return out


def write(place, option, text):
    """Write text to the file of an option; to one that $GITHUB_STEP_SUMMARY names, add it."""
    step = os.environ.get("GITHUB_STEP_SUMMARY")
    added = bool(step) and place == os.path.realpath(step)
    write_text(place, text, f"--{option}", added)


# ---------------------------------------------------------------- Markdown


def code(text, longest=80):
    """Text as code in Markdown: in there nothing is a tag, a mention or a link."""
    text = printable(text, longest)
    longest_run = max(map(len, re.findall("`+", text)), default=0)
    if text.startswith(("`", " ")) or text.endswith(("`", " ")):
        text = f" {text} "
    fence = "`" * (longest_run + 1)
    return f"{fence}{text}{fence}"


def prose(text):
    """A sentence as text in Markdown: names from data in it stay text."""
    text = printable(text.replace("\N{NO-BREAK SPACE}", " "), None)
    text = re.sub(r"[\\`*_\[\]~$#]", r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    # what would begin a list or a line under a heading
    text = re.sub(r"^(\d*)([-+=>.)])", r"\1\\\2", text)
    # a space without width keeps GitHub from making mentions, issues and links of names
    return re.sub(r"(?i)(@|#|:(?=//)|www(?=\.))", r"\1&#8203;", text)


def cell(text, longest=80):
    """Text as code in a table; where it holds the mark that ends a cell, as text."""
    return code(text, longest) if "|" not in text else prose(printable(text, longest))


def table(header, rows):
    """Lines of a table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    # renderers disagree on an escaped mark, but not on its number
    escaped = [[part.replace("|", "&#124;") for part in cells] for cells in lines]
    return [f"| {' | '.join(cells)} |" for cells in escaped]


def summary(found, judged, html):
    """An Audit, or Students, and its Judgement as Markdown for a pull request.

    html: name of the page.
    """
    answer, *more = found.headline()
    out = [f"## {prose(found.heading())}", ""]
    out.append(f"**{prose(answer)}** {prose(' '.join(more))}")
    out += [f"\n**Warning:** {prose(sentence)}" for sentence in found.warnings]
    if judged.verdicts:
        out += ["", f"### {judged.said().removesuffix('.')}", "", *_conditions(judged), ""]
        notes = [v.note for v in judged.verdicts if v.note and v.state != UNKNOWN]
        out += [f"- {prose(note)}" for note in dict.fromkeys(notes)]
    out += [f"- {prose(caution)}" for caution in judged.cautions]
    out += _of_each(found) if judged.each else _changed(found)
    inputs = [f"{role} {code(name)}" for role, name, _ in found.inputs[:LISTED]]
    if len(found.inputs) > LISTED:
        inputs.append(f"{len(found.inputs) - LISTED} more")
    out += ["", "### What was read", "", *(f"- {prose(sentence)}" for sentence in found.read)]
    out += [f"- {', '.join(inputs)}", "", f"The page with all of it: {code(html, None)}."]
    return "\n".join(out) + "\n\n"


def _of_each(found):
    """A table of the Students, and a section on each."""
    shown = found.look.overview(found).table
    rows = [[prose(str(value)) for value in row] for row in shown.itertuples(index=False)]
    out = ["", "### The students", "", *table(list(shown.columns), rows)]
    for name, a in found.audits.items():
        said = prose(" ".join(a.answer()))
        out += ["", f"### Student {prose(name)}", "", said, *_changed(a)]
    return out


def _conditions(judged):
    rows = []
    for v in judged.verdicts:
        state = v.state if v.state == NOT_MET else f"**{v.state}**"
        value = "–" if v.value is None else shown(v.value)
        rows.append([cell(v.condition, 200), state, value, prose(v.why)])
    return table(["condition", "state", "value", "why"], rows)


def _changed(a):
    """The groups that are harmed, or worse, those that lose most first; [] where there is none."""
    lost = CHANGED[a.reference][0]
    rows = a.groups[a.groups.finding == lost].sort_values(["gain", "group"], kind="stable")
    if not len(rows):
        return []
    cells = [
        [cell(r.group), f"{r.n:,}", brief(r), p_value(r.q)]
        for r in rows.assign(estimate=rows.gain).head(LISTED).itertuples()
    ]
    first = f" (first {LISTED} of {len(rows):,})" if len(rows) > LISTED else ""
    title = f"### Groups {words_of(a)[0]}, gain over the {a.reference}{first}"
    header = ["group", "examples", "points (95 % interval)", "q"]
    return ["", title, "", *table(header, cells)]


# ---------------------------------------------------------------- JUnit


def junit(judged, seconds):
    """A Judgement as JUnit's XML: a test case for each condition.

    Of students there is a suite each. A condition that is met is a failure; one that is unknown an
    error, since it was not tested and the exit code is not 0 either. seconds: that the audit took.
    """
    each = judged.each or {"": judged}
    root = ET.Element("testsuites", _numbers(SUITE, each.values(), seconds))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for student, own in each.items():
        numbers = _numbers(f"{SUITE} {student}".strip(), [own], seconds)
        suite = ET.SubElement(root, "testsuite", numbers | {"skipped": "0", "timestamp": now})
        classname = f"kdlib.audit.{student}".removesuffix(".")
        for v in own.verdicts:
            how = {"name": printable(v.condition, None), "classname": classname, "time": "0.000"}
            case = ET.SubElement(suite, "testcase", how)
            if v.state != NOT_MET:
                kind = "failure" if v.state == MET else "error"
                said = {"message": printable(f"{v.state}: {v.said()}", None), "type": v.state}
                ET.SubElement(case, kind, said).text = printable(v.note, None)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _numbers(name, judgements, seconds):
    """What a suite says of some Judgements: how many conditions there are, are met, are unknown."""
    return {
        "name": name,
        "tests": str(sum(len(judged.verdicts) for judged in judgements)),
        "failures": str(sum(judged.count(MET) for judged in judgements)),
        "errors": str(sum(judged.count(UNKNOWN) for judged in judgements)),
        "time": f"{seconds:.3f}",
    }
