"""Notebooks -> executed notebooks -> pages -> one index: what is not up to date is made again."""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from kdlib.config import KdlibError
from kdlib.pages.render import TEMPLATE, links_of, render, write, write_index
from kdlib.pages.shown import HERE

STAMPS = ".stamps.json"
KERNEL = Config()
KERNEL.KernelManager = Config(transport="tcp", transport_encryption="auto")
# a kernel says otherwise that it was told to end
KERNEL.NotebookClient = Config(extra_arguments=["--log-level=CRITICAL"])
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
        links = links_of({study: [book.stem for book in some] for study, some in of.items()})
        for study, some in of.items():
            run = parameters[study], inputs[study], provenance[study]
            for book in some:
                page = _page(book, out / study, *run, links[study], stamps)
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
    write(folder.parent / STAMPS, json.dumps(stamps))  # lest a run cut short pass for a good one
    if not (old and old[0] == made_from and executed.exists()):
        try:
            execute(book, executed, parameters)
        except NotebookFailed as error:
            failure = str(error)
    render(executed, html, provenance, links, time.perf_counter() - began, failure)
    if not failure:
        stamps[name] = stamp
        write(folder.parent / STAMPS, json.dumps(stamps))
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
