"""Executed notebooks -> self-contained HTML pages, which load nothing; their index."""

import ast
import re
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from mistune import HTMLRenderer
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from kdlib.config import KdlibError
from kdlib.evidence.findings import DEMONSTRATION
from kdlib.pages.shown import HERE, TEMPLATE, TEMPLATES, tidy
from kdlib.study.files import write_whole
from kdlib.study.grids import JUDGED, STUDIES
from kdlib.study.provenance import marked

HEADING = re.compile("^#+ +(.*)", re.M)  # the first one of a notebook
# of a page: its title, the sentences of its answer, its first figure
TITLE = re.compile("<title>(.*?)</title>", re.S)
ANSWER = re.compile('<p class="answer"><strong>(.*?)</strong></p>', re.S)
FIGURE = re.compile(r'<img\b(?:"[^"]*"|[^">])*>')
# the same with its drawing for a phone
PICTURE = re.compile(f"<picture>.*?</picture>|{FIGURE.pattern}", re.S)
THEORY, THEORY_BOOK = "theory", "07_when_distillation_must_harm"  # the page of no study
WORDS = {  # of a notebook in links
    "00_overview": "overview",
    "01_gains_are_not_uniform": "who gains, who loses",
    "02_teacher_errors_are_amplified": "the teacher’s errors",
    "03_softening_the_teacher": "softening the teacher",
    "04_what_the_mitigation_depends_on": "what softening depends on",
    "05_when_does_distillation_harm": "when distillation harms",
    "06_rivals": "rivals",
    THEORY_BOOK: "when distillation must harm",
    "08_groups_that_are_not_classes": "groups of people",
    "09_would_the_labels_show_it": "what the labels hide",
    "90_anchors": "published numbers",
    "91_choice_of_recipe": "choice of the recipe",
}

MATHML = (
    "math|m(row|i|o|n|text|space|s|frac|sqrt|root|sub|sup|subsup|under|over|underover|table|tr|td"
    "|style|padded|phantom|enclose|multiscripts)"
)


def read_parameters(source, where):
    """{name: (default, comment)} of a `parameters` cell; KdlibError unless all are literals."""
    found = {}
    lines = source.encode().splitlines()
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


def chapter(name):
    """The name of the study of findings whose data and recipe a study shares; else its own.

    "cifar20-lt-rivals" belongs to "cifar20-lt", and "anchors-lt" to "anchors"."""
    bases = ["anchors", *(s.name for s in STUDIES.values() if s.kind in JUDGED)]
    return max((base for base in bases if f"{name}-".startswith(f"{base}-")), key=len, default=name)


def links_of(books):
    """Links between the pages of a chapter: {study: {study: [(address, words)]}}.

    books: {study: names of its notebooks}. Addresses are those from a page of the first study."""
    links = {}
    for here in books:
        own = [study for study in books if chapter(study) == chapter(here)]
        own.sort(key=lambda study: study != chapter(study))
        links[here] = {}
        for study in own:
            folder = "" if study == here else f"../{study}/"
            words = [(book, WORDS.get(book, book.replace("_", " "))) for book in books[study]]
            links[here][study] = [(f"{folder}{book}.html", said) for book, said in words]
    return links


def render(executed, html, provenance=None, links=None, seconds=None, failure=""):
    """Write an executed notebook as one page that opens from file:// and loads nothing.

    provenance: {label: text, number, list or dict} for the footer; its `command` makes the page,
    and resumes it. links: {study: [(address, words)]} of pages on the same data. seconds: how long
    it took. failure: why it stopped. Only the last line differs from build to build.

    Cells come in the order of the notebook, parameters and code at the foot. Returns `html`."""
    notebook = read(executed)
    ran = notebook.metadata.get("papermill", {})
    tagged = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    outputs = [output for c in notebook.cells for output in c.get("outputs", [])]
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    heading = HEADING.search(prose)
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
        "heading": re.sub("[`*$]", "", heading[1]) if heading else "",
        "links": links or {},
        "seconds": seconds,
        "now": datetime.now(UTC),
        "failure": failure,
        "errors": [output for output in outputs if output.output_type == "error"],
        "changed": ran.get("parameters", {}),
        "parameters": read_parameters("".join(tagged[:1]), executed),
        "provenance": marked(ran.get("parameters", {}).get("overrides")) | (provenance or {}),
    }
    page, _ = exporter.from_notebook_node(notebook, facts)
    write_whole(Path(html), tidy(page))
    return Path(html)


def write_index(pages, html, verdicts, provenance):
    """Write index.html: theory, the main study with its answer, and every other one folded.

    The main study is the first with verdicts that is neither superseded nor a demonstration."""
    studies = []
    theory = [_glance(page, html.parent) for page in pages if page.study == THEORY]
    for name in dict.fromkeys(page.study for page in pages if page.study != THEORY):
        glances = [_glance(page, html.parent) for page in pages if page.study == name]
        facts = {"name": name, "about": STUDIES[name], "pages": glances}
        studies.append(facts | {"verdicts": verdicts[name], "provenance": provenance[name]})
    studies.sort(key=_place(studies))
    index = TEMPLATES.get_template("index.html.j2")
    facts = {"judged": JUDGED, "demonstration": DEMONSTRATION, "now": datetime.now(UTC)}
    text = index.render(theory=theory, studies=studies, **facts)
    write_whole(html, tidy(text))


def _glance(page, folder):
    """What the index in a folder shows of a page; HTML where it is text of the page."""
    text = page.html.read_text("utf-8")

    def first(pattern):
        found = pattern.search(text)
        return Markup(found[0]) if found else ""

    return {
        "address": page.html.relative_to(folder).as_posix(),
        "failed": page.status == "failed",
        "title": Markup(TITLE.search(text)[1]),
        "answer": [Markup(sentence) for sentence in ANSWER.findall(text)],
        "figure": first(FIGURE),
        "picture": first(PICTURE),
    }


def _place(studies):
    """Key that sorts studies of the index: chapters with verdicts first, those with too few seeds
    for a test after the others, then what no verdict depends on, then what is superseded,
    demonstrations last; in a chapter the findings first."""
    decided = {chapter(s["name"]) for s in studies if s["verdicts"]}
    words = {s["name"]: {card["verdict"] for card in s["verdicts"]} for s in studies}
    tested = {chapter(name) for name, found in words.items() if found - {"not tested"}}
    order = list(dict.fromkeys(chapter(s["name"]) for s in studies))

    def key(study):
        own = chapter(study["name"])
        about = study["about"]
        last = about.demonstration, about.superseded
        return *last, own not in tested, own not in decided, order.index(own), study["name"] != own

    return key


# ---------------------------------------------------------------- Markdown, with formulas as MathML


class MathMLRenderer(IPythonRenderer):
    """Markdown as Jupyter reads it, with formulas as MathML: no script has to draw them later."""

    # to embed pictures, nbconvert parses each tag of inline HTML alone, which closes it at once
    inline_html, block_html = HTMLRenderer.inline_html, HTMLRenderer.block_html

    def block_math(self, body):
        return formula(body, "block")

    def inline_math(self, body):
        return formula(body, "inline")

    def latex_environment(self, name, body):
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown(text, escape=False, **options):
    """HTML of Markdown; with `escape`, HTML inside it is text.

    options: of nbconvert's IPythonRenderer."""
    renderer = MathMLRenderer(
        escape=escape, allow_harmful_protocols=False, embed_images=True, **options
    )
    return MarkdownWithMath(renderer).render(text)


def formula(tex, display):
    """MathML of a formula, or its source where the converter cannot read it.

    display: "block" or "inline"."""
    try:
        found = convert(tex.replace("{aligned}", "{align*}"), display=display)
    except Exception:  # a dozen classes without a common base, IndexError among them
        found = ""
    if not found or "<mi>\\" in found:  # an unknown command comes back as a name
        return f'<code class="tex">{escape(tex)}</code>'
    # the converter does not escape what stands in \text{...}
    found = re.sub(r"&(?!#?\w+;)", "&amp;", found)
    return re.sub(rf"<(?!/?({MATHML})\b)", "&lt;", found)
