"""Executed notebooks -> self-contained HTML pages, which load nothing; their index."""

import ast
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import Highlight2HTML

from kdlib.config import KdlibError
from kdlib.pages.report_template.filters import markdown
from kdlib.pages.report_template.tidy import tidy
from kdlib.pages.shown import HEADLINE, HERE, TEMPLATES
from kdlib.study.grids import STUDIES
from kdlib.study.provenance import marked

TEMPLATE = HERE / "report_template"
# the title of a page and its first figure
GLANCE = re.compile(r'<title>(.*?)</title>(?:.*?(<img\b(?:"[^"]*"|[^">])*>))?', re.S)


def read_parameters(source, where):
    """{name: (default, comment)} of a `parameters` cell; KdlibError unless all are literals."""
    found, lines = {}, source.encode().splitlines()
    try:
        for line in ast.parse(source).body:
            (name,) = line.targets
            comment = lines[line.end_lineno - 1][line.end_col_offset :].decode()
            found[name.id] = ast.literal_eval(line.value), comment.lstrip(" #")
    except (SyntaxError, ValueError, AttributeError) as error:
        raise KdlibError(
            f"{where}: parameters must be lines of one name = one literal: {error}"
        ) from error
    return found


def read(path):
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise KdlibError(
            f"{path}: not a readable notebook: {str(error).splitlines()[0][:100]}"
        ) from error


def render(executed, html, provenance=None, links=(), seconds=None, failure=""):
    """Write an executed notebook as one page that opens from file:// and loads nothing.

    provenance: {label: text, number, list or dict} for the footer; its `command` makes the page,
    and resumes it. links: (address, words) of other pages. seconds: how long it took. failure: why
    it stopped. Only the last line differs from build to build.

    What the notebook shows as a Headline stands under the title, where it is read first. Returns
    `html`."""
    notebook = read(executed)
    ran = notebook.metadata.get("papermill", {})
    tagged = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    outputs = [output for c in notebook.cells for output in c.get("outputs", [])]
    # the folder of the pictures that the text shows
    here = str(Path(ran.get("input_path") or executed).parent)

    def authored(text, at):
        return markdown(text, path=here, attachments=at.get("attachments"))

    def generated(text):
        return markdown(text, escape=True)  # names from data are text there

    code = Highlight2HTML(pygments_lexer="ipython3")
    exporter = TemplateExporter(
        extra_template_basedirs=[str(HERE)],
        template_name=TEMPLATE.name,
        template_file="page.html.j2",
        filters={"code": code, "authored": authored, "generated": generated},
    )
    facts = {
        "stem": Path(executed).stem,
        "links": links,
        "headline": HEADLINE,
        "seconds": seconds,
        "now": datetime.now(UTC),
        "failure": failure,
        "errors": [output for output in outputs if output.output_type == "error"],
        "changed": ran.get("parameters", {}),
        "parameters": read_parameters("".join(tagged[:1]), executed),
        "provenance": marked(ran.get("parameters", {}).get("overrides")) | (provenance or {}),
    }
    page, _ = exporter.from_notebook_node(notebook, facts)
    shown = [output.get("data", {}).get("text/html", "") for output in outputs]
    lifted = "".join(text for text in shown if text.startswith(HEADLINE))
    page = said_once(page, lifted)
    return write(Path(html), tidy(page.replace("</h1>", f"</h1>\n{lifted}", 1)))


def said_once(page, headline):
    """The page, in whose captions what the headline says is left out, but for what it is of."""

    def shorter(match):
        start, sentence = match.groups()
        of, colon, _ = sentence.partition(": ")
        if f">{sentence}<" not in headline:
            return match[0]
        return f"{start}{of}.</strong>" if colon else start.removesuffix("<strong>")

    return re.sub(r"(<figcaption><strong>)(.*?)</strong>", shorter, page)


def write(path, text):
    """Write a file whole or not at all. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def write_index(pages, html, verdicts, provenance):
    """Write index.html: by study its verdicts, and its pages with their first figure.

    Returns `html`."""
    studies = []
    for name in dict.fromkeys(page.study for page in pages):
        own = [page for page in pages if page.study == name]
        glances = [(page, *GLANCE.search(page.html.read_text("utf-8")).groups()) for page in own]
        facts = {"name": name, "about": STUDIES.get(name), "pages": glances}
        studies.append(facts | {"verdicts": verdicts[name], "provenance": provenance[name]})
    index = TEMPLATES.get_template("index.html.j2")
    text = index.render(studies=studies, root=html.parent, now=datetime.now(UTC))
    return write(html, tidy(text))
