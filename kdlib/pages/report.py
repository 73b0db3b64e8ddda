"""Notebooks -> executed notebooks -> pages -> one index: what is not up to date is made again."""

import contextlib
import functools
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kdlib.config import KdlibError
from kdlib.pages.render import TEMPLATE, links_of, render, write, write_index
from kdlib.pages.shown import HERE
from kdlib.pages.warm import KERNEL, side_by_side
from kdlib.study.files import available_cores

STAMPS = ".stamps.json"
MOST_AT_ONCE = 8  # kernels; each takes half a gigabyte
# it warns of names that only its own parser misses; what is an error is raised too
papermill.log.logger.setLevel("CRITICAL")


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


@dataclass(frozen=True)
class _Planned:
    """A page that may have to be built: what it is made from, how it looks, and its stamps."""

    study: str
    book: Path
    folder: Path  # of the page
    parameters: dict
    provenance: dict
    links: list
    stamp: list  # digests of what it is made from and of its looks

    @property
    def name(self):
        return f"{self.study}/{self.book.stem}"

    @property
    def executed(self):
        return self.folder / self.book.name

    def page(self, status, *more):
        """The Page."""
        html = self.folder / f"{self.book.stem}.html"
        return Page(self.study, self.book.stem, html, status, *more)


def execute(notebook, output, parameters, kernel=None):
    """Run a notebook and write it with its outputs, also when it fails. Returns `output`.

    It runs in a fresh kernel, or in a Kernel that others may have run in. NotebookFailed if a cell
    fails, such as the one that checks parameters. The folder is the repository that it lies in, so
    that `import kdlib` needs no install; outside of one, its own folder."""
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
    options = {"kernel_name": "python3", "language": "python", "config": KERNEL}
    # papermill changes the folder of the whole process, which others work in beside it
    folder = _folder_of(notebook)
    options |= {"km": kernel.ready(folder)} if kernel else {"cwd": folder}
    # papermill formats the paths
    paths = [str(p).replace("{", "{{").replace("}", "}}") for p in (notebook, partial)]
    try:
        papermill.execute_notebook(*paths, parameters, progress_bar=False, **options)
    except PapermillExecutionError as error:
        said = " ".join(f"{error.ename}: {error.evalue}".split())
        raise NotebookFailed(f"{notebook.name}: {said}") from error
    except DeadKernelError as error:
        raise NotebookFailed(
            f"{notebook.name}: the kernel died, most likely because memory ran out."
        ) from error
    finally:
        if partial.exists():
            os.replace(partial, output)
    return output


def _folder_of(notebook):
    """The repository that a notebook lies in; outside of one, its own folder."""
    repositories = (p for p in notebook.parents if (p / "kdlib" / "__init__.py").exists())
    return next(repositories, notebook.parent)


def build(studies, out, notebooks, *, books, inputs, provenance, verdicts, say=print):
    """Run the notebooks of each study, write what is not up to date, then index.html.

    studies: {name: parameters beside `study`}. By study: books, the names of its notebooks; inputs,
    a digest of what they read (its records); provenance, see render. verdicts(study): the cards of
    findings.verdicts, asked for when the pages are there, since those compute what it needs. Pages
    are built side by side, one for each core. Returns [Page], a failed notebook among them.
    KdlibError if `out` cannot be written."""
    out, found, planned = Path(out), sorted(Path(notebooks).glob("*.ipynb")), []
    if not found:
        raise KdlibError(
            f"{notebooks}: no notebooks here; run this in the repository, or name their folder."
        )
    of = {study: [book for book in found if book.stem in books[study]] for study in studies}
    links = links_of({study: [book.stem for book in some] for study, some in of.items()})
    for study, more in studies.items():
        run = {"study": study, **more}
        looks = _digest(*_files(TEMPLATE), provenance[study], links[study])
        for book in of[study]:
            stamp = [_digest(book, *_files(HERE), run, inputs[study]), looks]
            plan = out / study, run, provenance[study], links[study], stamp
            planned.append(_Planned(study, book, *plan))
    try:
        pages = _built(planned, out / STAMPS, say)
        cards = {study: verdicts(study) for study in studies}
        write_index(pages, out / "index.html", cards, provenance)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # of `say`
            raise
        raise KdlibError(
            f"{error.filename or out}: cannot write the report: {error.strerror}."
        ) from error
    return pages


def _built(planned, stamps_file, say):
    """The Pages of what is planned, in its order; stamps are kept of what is up to date."""
    stamps, pages = _stamps(stamps_file), {}

    def ended(plan, page):
        pages[plan.name] = page
        say(f"{plan.name}: {page.status} ({page.seconds:.0f} s) {page.message}".strip())

    old = {plan.name: stamps.get(plan.name) for plan in planned}
    todo = []
    for plan in planned:
        page = plan.page("unchanged")
        if old[plan.name] == plan.stamp and page.html.exists():
            ended(plan, page)
        else:
            todo.append(plan)
            stamps.pop(plan.name, None)  # lest a run cut short pass for a good one
    if todo:
        write(stamps_file, json.dumps(stamps))
    at_once = min(available_cores(), MOST_AT_ONCE, len(todo))
    make = functools.partial(_page, old=old)
    with contextlib.closing(side_by_side(todo, make, at_once)) as steps:
        for plan, page in steps:
            if page.status == "built":
                stamps[plan.name] = plan.stamp
                write(stamps_file, json.dumps(stamps))
            ended(plan, page)
    return [pages[plan.name] for plan in planned]


def _page(plan, kernel, old):
    """The Page of a plan: run if its sources changed since the stamps `old`, and drawn."""
    began, failure, stamp = time.perf_counter(), "", old[plan.name]
    if not (stamp and stamp[0] == plan.stamp[0] and plan.executed.exists()):
        try:
            execute(plan.book, plan.executed, plan.parameters, kernel)
        except NotebookFailed as error:
            if kernel.stopped:
                raise
            failure = str(error)
            kernel.end()  # whatever it has done to it
    page = plan.page("failed" if failure else "built", time.perf_counter() - began, failure)
    how = plan.provenance, plan.links, page.seconds, failure
    render(plan.executed, page.html, *how)
    return page


def _files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def _digest(*parts):
    """sha256 over values and files, by name and content."""
    parts = [
        [part.name, part.read_bytes().hex()] if isinstance(part, Path) else part for part in parts
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stamps(file):
    """{page: [digest of what it is made from, of its looks]}; {} without a readable file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
