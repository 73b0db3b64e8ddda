"""What the command line shows: pages of studies, the answer in README.md, a new method's gains."""

import functools
import re

from kdlib.config import KdlibError
from kdlib.evidence import findings
from kdlib.evidence.panel import panel
from kdlib.evidence.words import brief
from kdlib.pages import readme
from kdlib.pages.gains import gain_by_bucket
from kdlib.pages.report import build
from kdlib.study.done import complete_seeds, some_seeds
from kdlib.study.files import whole_file
from kdlib.study.grids import KINDS, study
from kdlib.study.provenance import provenance


def answer(page):
    """Write the answer between the marks of README.md, and its figure."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    old = r"(?<=<!-- answer:start -->\n).*?(?=<!-- answer:end -->)"
    parts = re.split(old, text, flags=re.S)
    if len(parts) != 2:
        raise KdlibError(
            f"{page}: needs one line <!-- answer:start --> and later one <!-- answer:end -->."
        )
    new, figure = readme.answer()
    if figure:
        with whole_file(page.parent / readme.FIGURE) as temporary:
            temporary.write_bytes(figure)
    with whole_file(page) as temporary:
        temporary.write_text((new.rstrip() + "\n").join(parts), encoding="utf-8")


def pages(wanted, named, out, notebooks, say):
    """Build the pages of studies: (pages, sentences on the first studies with verdicts).

    wanted: {name: seeds}, of which those on record are shown. named: names that may not be left
    out, where no seed of theirs is on record."""
    seeds = {name: min(n, complete_seeds(name)) for name, n in wanted.items()}
    # all that are wanted of anchors: their page says which runs are missing
    seeds |= {name: n for name, n in wanted.items() if study(name).kind == "anchors"}
    seeds = {name: n for name, n in seeds.items() if n or name in named}

    @functools.cache
    def cards(name):
        return findings.verdicts(name, seeds[name] or some_seeds(name))

    sources = {name: provenance(name, n) for name, n in seeds.items()}
    built = build(
        {name: {"seeds": n} for name, n in seeds.items()},
        out,
        notebooks,
        books={name: KINDS[study(name).kind] for name in seeds},
        # of all for each, since the overview reads them all
        inputs=dict.fromkeys(sources, [s["records sha256"] for s in sources.values()]),
        provenance=sources,
        verdicts=cards,
        say=say,
    )
    said = []
    for name in [name for name in seeds if cards(name)][:4]:
        pair = cards(name)[0]["pair"]
        own = [c for c in cards(name) if c["pair"] == pair]
        words = ", ".join(f"{c['finding']} {c['verdict']}" for c in own)
        said.append(f"{name} ({pair}, {seeds[name]} of {study(name).seeds} seeds): {words}")
    return built, said


def compared(chosen, seeds, methods):
    """Lines: gains of methods over one-hot, on average and by bucket, in each pair and setting."""
    for setting in chosen.settings:
        for pair in chosen.pairs:
            p = panel(chosen, pair, seeds, setting=setting)
            networks = f"{len(p.runs['one_hot'])} one-hot networks"
            yield f"{p.name}: points over {networks}, with 95 % intervals"
            for row in gain_by_bucket(p, list(dict.fromkeys(methods))).itertuples():
                yield f"  {row.method}, {row.bucket}: {brief(row)}"
