"""Notebooks -> executed notebooks -> self-contained HTML pages, which load nothing -> one index."""

import ast
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import Highlight2HTML
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from kdlib.config import KdlibError
from kdlib.pages.report_template.filters import markdown
from kdlib.pages.report_template.tidy import tidy
from kdlib.pages.shown import HEADLINE, HERE, TEMPLATES
from kdlib.study.grids import STUDIES

TEMPLATE, STAMPS = HERE / "report_template", ".stamps.json"
KERNEL = Config()
KERNEL.KernelManager = Config(transport="tcp", transport_encryption="auto")
# a kernel says otherwise that it was told to end
KERNEL.NotebookClient = Config(extra_arguments=["--log-level=CRITICAL"])
# the title of a page and its first figure
GLANCE = re.compile(r'<title>(.*?)</title>(?:.*?(<img\b(?:"[^"]*"|[^">])*>))?', re.S)
papermill.log.logger.setLevel("ERROR")  # it warns of names that only its own parser misses


class NotebookFailed(KdlibError):
    """A notebook stopped at an error; its output has the traceback and what was done until then."""


@dataclass(frozen=True)
class Page:
    """One page of the report."""

    study: str
    name: str  # the notebook's file name without .ipynb
    html: Path
    status: str  # "built", "unchanged" or "failed"
    seconds: float = 0
    message: str = ""  # why it failed


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


def _read(path):
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise KdlibError(
            f"{path}: not a readable notebook: {str(error).splitlines()[0][:100]}"
        ) from error


def execute(notebook, output, parameters):
    """Run a notebook in a fresh kernel and write it with its outputs, also when it fails.

    Returns `output`. NotebookFailed if a cell fails, as the first one does that checks a wrong
    parameter. Runs in the repository it lies in, so that `import kdlib` needs no install; outside
    of one, in its own folder."""
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
    repositories = (p for p in notebook.parents if (p / "kdlib" / "__init__.py").exists())
    options = {"kernel_name": "python3", "language": "python", "config": KERNEL}
    options |= {"cwd": next(repositories, notebook.parent), "progress_bar": False}
    # papermill formats the paths
    paths = [str(p).replace("{", "{{").replace("}", "}}") for p in (notebook, partial)]
    try:
        papermill.execute_notebook(*paths, parameters, **options)
    except PapermillExecutionError as error:
        raise NotebookFailed(f"{notebook.name}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise NotebookFailed(
            f"{notebook.name}: the kernel died, most often of too little memory."
        ) from error
    finally:
        if partial.exists():
            os.replace(partial, output)
    return output


def render(executed, html, provenance=None, links=(), seconds=None, failure=""):
    """Write an executed notebook as one page that opens from file:// and loads nothing.

    provenance: {label: text, number, list or dict} for the footer; its `command` makes the page,
    and resumes it. links: (address, words) of other pages. seconds: how long it took. failure: why
    it stopped. Only the last line differs from build to build.

    What the notebook shows as a Headline stands under the title, where it is read first. Returns
    `html`."""
    notebook = _read(executed)
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
        "provenance": provenance or {},
    }
    page, _ = exporter.from_notebook_node(notebook, facts)
    shown = [output.get("data", {}).get("text/html", "") for output in outputs]
    lifted = "".join(text for text in shown if text.startswith(HEADLINE))
    return _write(Path(html), tidy(page.replace("</h1>", f"</h1>\n{lifted}", 1)))


def _write(path, text):
    """Write a file whole or not at all. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def build(studies, out, notebooks, *, books, inputs, provenance, verdicts, say=print):
    """Run the notebooks of each study, write what is not up to date, then index.html.

    studies: {name: parameters beside `study`}. By study: books, the names of its notebooks; inputs,
    a digest of what they read (its records); provenance, see render; verdicts, the cards of
    findings.verdicts. Returns [Page], a failed notebook among them. KdlibError if `out` cannot be
    written."""
    out, found, pages = Path(out), sorted(Path(notebooks).glob("*.ipynb")), []
    if not found:
        raise KdlibError(
            f"{notebooks}: no notebooks here; start in the repository, or name their folder."
        )
    of = {study: [book for book in found if book.stem in books[study]] for study in studies}
    parameters = {study: {"study": study, **more} for study, more in studies.items()}
    try:
        stamps = _stamps(out)
        for study, some in of.items():
            links = [("../index.html", "All findings")]
            links += [(f"{book.stem}.html", book.stem.replace("_", " ")) for book in some]
            run = parameters[study], inputs[study], provenance[study]
            for book in some:
                page = _page(book, out / study, *run, links, stamps)
                pages.append(page)
                done = f"{page.study}/{page.name}: {page.status} ({page.seconds:.0f} s)"
                say(f"{done} {page.message}".strip())
        write_index(pages, out / "index.html", verdicts, provenance)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # of `say`
            raise
        raise KdlibError(
            f"{error.filename or out}: cannot write the report: {error.strerror}."
        ) from error
    return pages


def _page(book, folder, parameters, inputs, provenance, links, stamps):
    """One page: run if what it is made from changed, drawn if that or its looks did.

    Keeps the stamps."""
    executed, html = folder / book.name, folder / f"{book.stem}.html"
    name = f"{folder.name}/{book.stem}"
    page = (folder.name, book.stem, html)
    made_from = _digest(book, *_files(HERE), parameters, inputs)
    stamp = [made_from, _digest(*_files(TEMPLATE), provenance, links)]
    old, failure, began = stamps.get(name), "", time.perf_counter()
    if old == stamp and html.exists():
        return Page(*page, "unchanged")
    stamps.pop(name, None)
    _write(folder.parent / STAMPS, json.dumps(stamps))  # lest a run cut short pass for a good one
    if not (old and old[0] == made_from and executed.exists()):
        try:
            execute(book, executed, parameters)
        except NotebookFailed as error:
            failure = str(error)
    render(executed, html, provenance, links, time.perf_counter() - began, failure)
    if not failure:
        stamps[name] = stamp
        _write(folder.parent / STAMPS, json.dumps(stamps))
    return Page(*page, "failed" if failure else "built", time.perf_counter() - began, failure)


def _files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def _digest(*parts):
    """sha256 over values and files, by name and content."""
    parts = [
        [part.name, part.read_bytes().hex()] if isinstance(part, Path) else part for part in parts
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stamps(out):
    """{page: [digest of what it is made from, of its looks]}; {} without a readable file."""
    try:
        return json.loads((out / STAMPS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


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
    return _write(html, tidy(text))
