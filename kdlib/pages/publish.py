"""What the command line shows: pages of studies, the answer in README.md, a new method's gains."""

import functools
import math
import re

from kdlib.config import KdlibError, count_of
from kdlib.evidence import findings
from kdlib.evidence.panel import panel
from kdlib.evidence.words import brief
from kdlib.pages import results
from kdlib.pages.gains import gain_by_bucket
from kdlib.pages.report import build
from kdlib.study.cifar import found
from kdlib.study.done import complete_seeds, some_seeds
from kdlib.study.files import available_cores, whole_file
from kdlib.study.grids import KINDS, study
from kdlib.study.provenance import provenance

A_PAGE = 7  # seconds that one takes on one core


def answer(page):
    """Write the answer between the marks of README.md, its figure, and RESULTS.md beside it."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    old = r"(?<=<!-- answer:start -->\n).*?(?=<!-- answer:end -->)"
    parts = re.split(old, text, flags=re.S)
    if len(parts) != 2:
        raise KdlibError(
            f"{page}: needs one line <!-- answer:start --> and, below it, one <!-- answer:end -->."
        )
    new, figure, everything = results.texts()
    if figure:
        with whole_file(page.parent / results.FIGURE) as temporary:
            temporary.write_bytes(figure)
    for file, content in ((page, new.join(parts)), (page.with_name("RESULTS.md"), everything)):
        with whole_file(file) as temporary:
            temporary.write_text(content, encoding="utf-8")


def pages(wanted, named, out, notebooks, say):
    """Build the pages of studies: (pages, lines on the verdicts of each study and pair).

    wanted: {name: seeds}, of which those on record are shown. named: names that must not be left
    out even if none of their seeds is on record."""
    seeds = {name: min(n, complete_seeds(name)) for name, n in wanted.items()}
    # all that are wanted of anchors: their page says which runs are missing
    seeds |= {name: n for name, n in wanted.items() if study(name).kind == "anchors"}
    seeds = {name: n for name, n in seeds.items() if n or name in named}
    books = {name: KINDS[study(name).kind] for name in seeds}

    @functools.cache
    def cards(name):
        return findings.verdicts(name, seeds[name] or some_seeds(name))

    sources = {name: provenance(name, n) for name, n in seeds.items()}
    number = sum(map(len, books.values()))
    minutes = math.ceil(number * A_PAGE / 60 / available_cores())
    say(f"{count_of(number, 'page')}: about {minutes} min on an idle computer")
    built = build(
        {name: {"seeds": n} for name, n in seeds.items()},
        out,
        notebooks,
        books=books,
        # of all, since the overview reads them all; and whether there are images to show
        inputs=[s["records sha256"] for s in sources.values()] + [*found()],
        provenance=sources,
        verdicts=cards,
        say=say,
    )
    return built, [line for name in seeds for line in _verdicts(name, cards(name))]


def _verdicts(name, cards):
    """Lines: the verdicts of a study, pair by pair."""
    for pair in dict.fromkeys(card["pair"] for card in cards):
        own = [card for card in cards if card["pair"] == pair]
        words = ", ".join(f"{card['finding']} {findings.marked(card)}" for card in own)
        seeds = f"{own[0]['seeds']} of {count_of(own[0]['planned'], 'seed')}"
        yield f"{name} ({pair}, {seeds}): {words}"
        yield from (f"  † {c['finding']}: {c['control']}" for c in own if c["control"])


def compared(chosen, seeds, methods):
    """Lines: gains of methods over one-hot, on average and by bucket, in each pair and setting."""
    for setting in chosen.settings:
        for pair in chosen.pairs:
            p = panel(chosen, pair, seeds, setting=setting)
            networks = f"{len(p.runs['one_hot'])} one-hot networks"
            yield f"{p.name}: points over {networks}, with 95 % intervals"
            for row in gain_by_bucket(p, list(dict.fromkeys(methods))).itertuples():
                yield f"  {row.method}, {row.bucket}: {brief(row)}"
