"""What an Audit and Students have in common: both are told, looked at and saved alike."""

import html
import os
from pathlib import Path

from kdlib.auditing.headline import unbroken
from kdlib.auditing.verdicts import Judgement
from kdlib.config import KdlibError
from kdlib.reading.read import file_and_columns
from kdlib.reading.sentences import AuditError, reason
from kdlib.study.files import whole_file


class Found:
    """Has title, read, warnings, inputs, choice (distilling.choice.Choice, or None), and is told by
    heading, findings, cautions, about and judge.

    look: the module that shows it, with overview (a Table) and files ({suffix: text})."""

    def answer(self):
        """List of sentences: which student to ship, if that was asked, and what was found."""
        return [*map(unbroken, self.choice.said if self.choice else ()), *self.findings()]

    def headline(self):
        """List of sentences: the answer, and what it cannot be taken for."""
        return [*self.answer(), *self.cautions()]

    def save(self, path, conditions=()):
        """Write path (HTML), beside it all as .json and the groups as .csv; the paths, in a tuple.

        Of several students also the same of each: of one called kd, audit-kd.html beside
        audit.html. conditions: texts, or their Judgement. KdlibError if writing fails.
        """
        judged = conditions if isinstance(conditions, Judgement) else self.judge(conditions)
        inputs = [name for _, name, sha256 in self.inputs if sha256]
        out = places(path, inputs, judged.each)
        for suffix, text in self.look.files(self, judged, out).items():
            write(out[""][suffix], text, f"--out {path}")
        saved = [*out[""].values()]
        for name, own in judged.each.items():
            saved += self.audits[name].save(out[name][".html"], own)
        return tuple(saved)

    def __str__(self):
        return "\n".join([*self.read, *self.warnings, *self.headline()])

    def _repr_html_(self):
        """Warnings, the headline, what was read and an overview, in a notebook."""
        first = [*(f"Warning: {sentence}" for sentence in self.warnings), *self.headline()]
        said = [f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in first]
        said += [f"<p>{html.escape(sentence)}</p>" for sentence in self.read]
        return "".join(said) + self.look.overview(self)._repr_html_()


def places(path, inputs=(), students=()):
    """{"" or name of a student: {".html": path, ".json": ..., ".csv": ...}}: where save writes.

    AuditError if path does not end in .html, or one of the files is an input.
    """
    path = Path(path)
    if path.suffix != ".html" or "\0" in str(path):
        raise AuditError(
            f"--out {path}: must be the name of a file and end in .html; "
            ".json and .csv are written beside it."
        )
    read = {os.path.realpath(file_and_columns(name)[0]) for name in inputs}
    out = {}
    for student in ("", *students):
        page = path.with_stem(f"{path.stem}-{student}") if student else path
        out[student] = {suffix: page.with_suffix(suffix) for suffix in (".html", ".json", ".csv")}
        for file in out[student].values():
            if os.path.realpath(file) in read:
                raise AuditError(f"--out {page}: would write over {file}, which this audit reads.")
    return out


def write(file, text, asked, add=False):
    """Write text to a file, which is then there whole, or add it to one.

    asked: the option that names the file, for the AuditError where that fails.
    """
    how = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        if add:
            with open(file, "a", **how) as there:
                there.write(text)
            return
        with whole_file(Path(file)) as temporary:
            temporary.write_text(text, **how)
    # a full disk, a folder or a file in the way, a name too long
    except (OSError, ValueError, KdlibError) as error:
        why = reason(error.__cause__ or error)
        raise AuditError(f"{asked}: {file} cannot be written ({why}).") from None
