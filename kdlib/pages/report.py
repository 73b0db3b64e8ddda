"""Notebooks -> executed notebooks -> pages -> one index: what is not up to date is made again."""

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kdlib.config import KdlibError, count_of
from kdlib.evidence import findings
from kdlib.pages.render import THEORY, THEORY_BOOK, links_of, render, write_index
from kdlib.pages.shown import HERE, TEMPLATE
from kdlib.pages.warm import KERNEL, side_by_side
from kdlib.study import cifar, grids
from kdlib.study.done import complete_seeds, some_seeds
from kdlib.study.files import available_cores, write_whole
from kdlib.study.provenance import of_code
from kdlib.study.provenance import provenance as provenance_of
from kdlib.study.records import RecordError

STAMPS = ".stamps.json"
# what pages are made with; of the helper module they take words, such as the names of methods
CODE = (HERE, HERE.parent / "evidence", HERE.parent / "study", HERE.parent)
A_PAGE = 7  # seconds that one takes on one core
MOST_AT_ONCE = 8  # kernels; each takes half a gigabyte
# it warns of names that only its own parser misses; what is an error is raised too
papermill.log.logger.setLevel("CRITICAL")


class NotebookFailed(KdlibError):
    """A notebook stopped at an error; its output has the traceback and what was done until then."""


@dataclass(frozen=True)
class Page:
    """A page of the report: what it is made from, and what became of it."""

    study: str
    book: Path  # its notebook
    folder: Path  # of the page
    parameters: dict
    provenance: dict
    links: dict
    stamp: list  # digests of what it is made from and of its looks
    status: str = "unchanged"  # or "built" or "failed"
    seconds: float = 0
    message: str = ""  # why it failed

    @property
    def name(self):
        return f"{self.study}/{self.book.stem}"

    @property
    def executed(self):
        return self.folder / self.book.name

    @property
    def html(self):
        return self.executed.with_suffix(".html")


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
    repositories = (p for p in notebook.parents if (p / "kdlib" / "__init__.py").exists())
    folder = next(repositories, notebook.parent)
    options |= {"km": kernel.ready(folder)} if kernel else {"cwd": folder}
    # papermill formats the paths
    paths = [str(p).replace("{", "{{").replace("}", "}}") for p in (notebook, partial)]
    try:
        papermill.execute_notebook(*paths, parameters, progress_bar=False, **options)
    except PapermillExecutionError as error:
        said = " ".join(f"{error.ename}: {error.evalue}".split())
        raise NotebookFailed(f"{notebook.name}: {said}") from error
    # that of jupyter_client, before the first cell, has no class of its own
    except RuntimeError as error:
        dead = "the kernel died, most likely because memory ran out."
        said = dead if isinstance(error, DeadKernelError) else f"{error}."
        raise NotebookFailed(f"{notebook.name}: {said}") from error
    finally:
        if partial.exists():
            os.replace(partial, output)
    return output


def pages_of(wanted, named, out, notebooks, say):
    """Build theory and pages of studies: (lines on the verdicts of each study and pair, failures).

    wanted: {name: seeds}, of which those on record are shown. named: names that must not be left
    out: KdlibError if none of their seeds is on record. A record that is refused stops its studies
    alone: a sentence for each among the failures."""
    seeds = {name: min(n, complete_seeds(name)) for name, n in wanted.items()}
    # all that are wanted of anchors: their page says which runs are missing
    seeds |= {name: n for name, n in wanted.items() if grids.study(name).kind == "anchors"}
    for name in named:
        if not seeds[name]:
            some_seeds(name)
    seeds = {name: n for name, n in seeds.items() if n}
    sources, failures = {}, []
    for name, n in list(seeds.items()):
        try:
            sources[name] = provenance_of(name, n)
        except RecordError as error:
            failures.append(f"{name} has no pages: {error}")
            del seeds[name]
    books = {name: grids.books_of(name) for name in seeds}
    asked = {name: {"seeds": n} for name, n in seeds.items()}
    inputs = [s["records sha256"] for s in sources.values()]
    if (Path(notebooks) / f"{THEORY_BOOK}.ipynb").exists():
        books, asked = {THEORY: [THEORY_BOOK], **books}, {THEORY: {}, **asked}
        data = {"data": "none: formulas, and noise that is drawn to check them"}
        sources[THEORY] = {**of_code(), "command": "python -m kdlib report", **data}

    @functools.cache
    def cards(name):
        return findings.verdicts(name, seeds[name])

    number = sum(map(len, books.values()))
    minutes = math.ceil(number * A_PAGE / 60 / available_cores())
    if number:
        say(f"{count_of(number, 'page')}: about {minutes} min on an idle computer")
    built = build(
        asked,
        out,
        notebooks,
        books=books,
        # of all, since the overview reads them all; and whether there are images to show
        inputs=[*inputs, *cifar.found()],
        provenance=sources,
        verdicts=lambda name: [] if name == THEORY else cards(name),
        say=say,
    )
    failures += [f"{page.html} failed: {page.message}" for page in built if page.status == "failed"]
    return [line for name in seeds for line in _verdicts(name, cards(name))], failures


def _verdicts(name, cards):
    """Lines: the verdicts of a study, pair by pair."""
    for pair in dict.fromkeys(card["pair"] for card in cards):
        own = [card for card in cards if card["pair"] == pair]
        words = ", ".join(f"{card['finding']} {findings.marked(card)}" for card in own)
        seeds = f"{own[0]['seeds']} of {count_of(own[0]['planned'], 'seed')}"
        yield f"{name} ({pair}, {seeds}): {words}"
        yield from (f"  † {c['finding']}: {c['control']}" for c in own if c["control"])


def build(studies, out, notebooks, *, books, inputs, provenance, verdicts, say=print):
    """Run the notebooks of each study, write what is not up to date, then index.html.

    studies: {name: parameters beside `study`}, with theory, which has none. By study: books, the
    names of its notebooks, and provenance, see render. inputs: digests of what any of them reads.
    verdicts(study): the cards of findings.verdicts, asked for when the pages are there, since those
    compute what it needs. Pages are built side by side, one for each core. Returns [Page], a failed
    notebook among them. KdlibError if `out` cannot be written."""
    out = Path(out)
    found = sorted(Path(notebooks).glob("*.ipynb"))
    planned = []
    if not found:
        raise KdlibError(
            f"{notebooks}: no notebooks here; run this in the repository, or name their folder."
        )
    of = {study: [book for book in found if book.stem in books[study]] for study in studies}
    links = links_of({study: [book.stem for book in some] for study, some in of.items()})
    for study, more in studies.items():
        run = more if study == THEORY else {"study": study, **more}
        looks = _digest(*_files(TEMPLATE), provenance[study], links[study])
        for book in of[study]:
            code = itertools.chain.from_iterable(map(_files, CODE))
            stamp = [_digest(book, *code, run, inputs), looks]
            made_from = run, provenance[study], links[study]
            planned.append(Page(study, book, out / study, *made_from, stamp))
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
    """What is planned, with what became of it; stamps are kept of what is up to date."""
    stamps, pages = {}, {}  # stamps: {page: [digest of what it is made from, of its looks]}
    with contextlib.suppress(FileNotFoundError, ValueError):
        stamps = json.loads(stamps_file.read_text(encoding="utf-8"))

    def ended(page):
        pages[page.name] = page
        say(f"{page.name}: {page.status} ({page.seconds:.0f} s) {page.message}".strip())

    old = dict(stamps)
    todo = []
    for page in planned:
        if old.get(page.name) == page.stamp and page.html.exists():
            ended(page)
        else:
            todo.append(page)
            stamps.pop(page.name, None)  # lest a run cut short pass for a good one
    if todo:
        write_whole(stamps_file, json.dumps(stamps))
    at_once = min(available_cores(), MOST_AT_ONCE, len(todo))
    make = functools.partial(_page, old=old)
    with contextlib.closing(side_by_side(todo, make, at_once)) as steps:
        for _, page in steps:
            if page.status == "built":
                stamps[page.name] = page.stamp
                write_whole(stamps_file, json.dumps(stamps))
            ended(page)
    return [pages[page.name] for page in planned]


def _page(page, kernel, old):
    """The Page, run if its sources changed since the stamps `old`, and drawn."""
    began = time.perf_counter()
    failure = ""
    stamp = old.get(page.name)
    if not (stamp and stamp[0] == page.stamp[0] and page.executed.exists()):
        try:
            execute(page.book, page.executed, page.parameters, kernel)
        except NotebookFailed as error:
            if kernel.stopped:
                raise
            failure = str(error)
            kernel.end()  # whatever it has done to it
    seconds = time.perf_counter() - began
    status = "failed" if failure else "built"
    render(page.executed, page.html, page.provenance, page.links, seconds, failure)
    return replace(page, status=status, seconds=seconds, message=failure)


def _files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def _digest(*parts):
    """sha256 over values and files, by name and content."""
    parts = [
        [part.name, part.read_bytes().hex()] if isinstance(part, Path) else part for part in parts
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
