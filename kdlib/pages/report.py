"""Notebooks -> executed notebooks -> self-contained HTML pages, which load nothing -> one index."""

import ast
import hashlib
import json
import math
import os
import re
import time
import tokenize
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import nbformat
import papermill
from jinja2 import Environment, FileSystemLoader
from nbclient.exceptions import DeadKernelError
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import Highlight2HTML
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from kdlib.config import KdlibError, did_you_mean
from kdlib.pages.report_template.filters import markdown
from kdlib.pages.report_template.tidy import tidy
from kdlib.pages.shown import HEADLINE
from kdlib.study.grids import STUDIES

HERE = Path(__file__).parent
TEMPLATE, STAMPS = HERE / "report_template", ".stamps.json"
KERNEL = Config(
    {
        "KernelManager": {"transport": "tcp", "transport_encryption": "auto"},
        # a kernel says otherwise that it was told to end
        "NotebookClient": {"extra_arguments": ["--log-level=CRITICAL"]},
    }
)
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
    """{name: (default, allowed types in words, comment)} of a `parameters` cell.

    Parsed, so that neither an annotation nor a comment with "=" hides a name. KdlibError unless all
    are literals."""
    found = {}
    try:
        tokens = tokenize.generate_tokens(StringIO(source + "\n").readline)
        comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
        for line in ast.parse(source).body:
            (name,) = [line.target] if isinstance(line, ast.AnnAssign) else line.targets
            default = ast.literal_eval(line.value)
            kinds = [_kind(default)]
            if getattr(line, "annotation", None):
                kinds = re.sub(r"\[.*?\]", "", ast.unparse(line.annotation)).split(" | ")
            found[name.id] = (default, kinds, comments.get(line.end_lineno, ""))
    except (SyntaxError, tokenize.TokenError, ValueError, AttributeError) as error:
        raise KdlibError(
            f"{where}: parameters must be lines of one name = one literal: {error}"
        ) from error
    return found


def _kind(value):
    return "None" if value is None else type(value).__name__


def check_parameters(notebook_path, parameters):
    """KdlibError unless the notebook knows every parameter and its default has that type.

    Strict, because papermill only warns of unknown names and passes text on for numbers and
    booleans. An int may stand for a float."""
    cell = _tagged(_read(notebook_path), "parameters")
    if cell is None:
        raise KdlibError(
            f"{notebook_path}: tag one cell 'parameters', or its defaults beat what is passed."
        )
    known = read_parameters(cell.source, notebook_path)
    for name, value in parameters.items():
        if name not in known:
            raise KdlibError(
                f"{notebook_path}: parameter {name!r} is unknown: {did_you_mean(name, known)}"
            )
        default, allowed, _ = known[name]
        whole = ["int"] if "float" in allowed else []
        if _kind(value) not in (*allowed, *whole):
            raise KdlibError(
                f"{notebook_path}: parameter {name}={value!r} is {_kind(value)}, but must be "
                f"{' or '.join(allowed)}, like its default {default!r}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise KdlibError(
                f"{notebook_path}: parameter {name}={value!r} must be a finite number."
            )


def _read(path):
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise KdlibError(
            f"{path}: not a readable notebook: {str(error).splitlines()[0][:100]}"
        ) from error


def _tagged(notebook, tag):
    return next((cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])), None)


def execute(notebook, output, parameters):
    """Run a notebook in a fresh kernel and write it with its outputs, also when it fails.

    Returns `output`. Raises KdlibError for wrong parameters before a kernel starts, NotebookFailed
    if a cell fails. Runs in the repository it lies in, so that `import kdlib` needs no install;
    outside of one, in its own folder."""
    check_parameters(notebook, parameters)
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
    repositories = (p for p in notebook.parents if (p / "kdlib" / "__init__.py").exists())
    options = {
        "kernel_name": "python3",
        "language": "python",
        "cwd": next(repositories, notebook.parent),
        "progress_bar": False,
        "config": KERNEL,
    }
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

    provenance: {label: text, number, list or dict} for the footer, added to the notebook's own
    metadata `kdlib_provenance`; its `command` makes the page, and resumes it. links: (address,
    words) of other pages. seconds: how long it took. failure: why it stopped. Only the last line
    differs from build to build.

    What the notebook shows as a Headline stands under the title, where it is read first. Returns
    `html`."""
    notebook = _read(executed)
    ran, cell = notebook.metadata.get("papermill", {}), _tagged(notebook, "parameters")
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
    page, _ = exporter.from_notebook_node(
        notebook,
        {
            "stem": Path(executed).stem,
            "links": links,
            "headline": HEADLINE,
            "seconds": seconds,
            "now": datetime.now(UTC),
            "failure": failure,
            "errors": [output for output in outputs if output.output_type == "error"],
            "changed": ran.get("parameters", {}),
            "parameters": read_parameters(cell.source, executed) if cell else {},
            "provenance": notebook.metadata.get("kdlib_provenance", {}) | (provenance or {}),
        },
    )
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


def build(
    studies,
    out="reports",
    notebooks="notebooks",
    *,
    books=None,
    inputs=None,
    provenance=None,
    verdicts=None,
    say=print,
):
    """Run the notebooks of each study, write what is not up to date, then index.html.

    studies: names, or {name: parameters beside `study`}. By study: books, the names of its
    notebooks, by default all; inputs, a digest of what its notebooks read (its records);
    provenance, see render; verdicts, by default those of findings.verdicts. Returns [Page], a
    failed notebook among them. KdlibError if a parameter is wrong, before anything starts, or `out`
    cannot be written."""
    out, found, pages = Path(out), sorted(Path(notebooks).glob("*.ipynb")), []
    books, inputs, described = books or {}, inputs or {}, provenance or {}
    if not found:
        raise KdlibError(
            f"{notebooks}: no notebooks here; start in the repository, or name their folder."
        )
    every = [book.stem for book in found]
    of, parameters = {}, {}
    for study in studies:
        of[study] = [book for book in found if book.stem in books.get(study, every)]
        more = studies[study] if isinstance(studies, dict) else {}
        parameters[study] = {"study": study, **more}
    for study, some in of.items():
        for book in some:
            check_parameters(book, parameters[study])
    try:
        stamps = _stamps(out, say)
        for study, some in of.items():
            links = [("../index.html", "All findings")]
            links += [(f"{book.stem}.html", book.stem.replace("_", " ")) for book in some]
            run = parameters[study], inputs.get(study, ""), described.get(study, {})
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


def _stamps(out, say):
    """{page: [digest of what it is made from, of its looks]}; {} without a readable file."""
    try:
        stamps = json.loads((out / STAMPS).read_text(encoding="utf-8"))
        return {page: [str(made_from), str(looks)] for page, (made_from, looks) in stamps.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        say(f"{out / STAMPS}: damaged, so every page is built again.")
        return {}


def write_index(pages, html, verdicts=None, provenance=None):
    """Write index.html: by study its verdicts, and its pages with their first figure.

    verdicts: by study, by default those of findings.verdicts. Returns `html`."""
    html, studies = Path(html), []
    for study in dict.fromkeys(page.study for page in pages):
        said, why = (verdicts or {}).get(study), ""
        if said is None:
            # only here, as it needs the records of the whole study
            from kdlib.evidence import findings

            try:
                said = findings.verdicts(study)
            except KdlibError as error:
                said, why = [], str(error)
        own = [page for page in pages if page.study == study]
        glances = [(page, *GLANCE.search(page.html.read_text("utf-8")).groups()) for page in own]
        studies.append(
            {
                "name": study,
                "about": STUDIES.get(study),
                "verdicts": said,
                "why": why,
                "pages": glances,
                "provenance": (provenance or {}).get(study, {}),
            }
        )
    jinja = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    index = jinja.get_template("index.html.j2")
    text = index.render(studies=studies, root=html.parent, now=datetime.now(UTC))
    return _write(html, tidy(text))
