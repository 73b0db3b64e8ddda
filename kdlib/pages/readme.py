"""The answer in README.md, from the records: verdicts, figure, sensitivity and anchors."""

from kdlib.evidence import choice
from kdlib.evidence.findings import pair_verdicts, panels, share
from kdlib.pages import anchors, sensitivity
from kdlib.pages.gains import plot_gain_by_bucket
from kdlib.study.done import complete_seeds
from kdlib.study.grids import STUDIES
from kdlib.study.records import exists

FIGURE = "docs/answer.svg"
UNITS = (
    "In the tables: points, with the 95 % interval over networks and test examples; F3a is a rank "
    "correlation. A claim holds, is contradicted, or is not decided, corrected for the number of "
    "findings of a pair."
)


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations.

    The first one gives the figure."""
    lines, svg = [], None
    shown = [s for s in STUDIES.values() if not s.demonstration and s.kind != "anchors"]
    done = {s.name: complete_seeds(s.name) for s in shown}
    found = [s for s in shown if s.kind == "findings" and done[s.name] > 1]
    found.sort(key=lambda s: s.superseded)  # stable
    if found and found[0].superseded:
        lines += [_under_way(), ""]
    for study in found:
        both = panels(study.name)
        cards = [card for p in both for card in pair_verdicts(p)]
        if svg is None:
            lines += _headline(cards)
            figure = plot_gain_by_bucket(both[0])
            svg = figure.svg()
            lines += [f"![{figure.sentence}]({FIGURE})", "", figure.caption, "", UNITS, ""]
        lines += _of_findings(study, both[0], cards)
    for study in (s for s in shown if s.kind != "findings" and done[s.name]):
        seeds = done[study.name]
        said = [f"- {sentence}" for sentence in _sentences(study, seeds)]
        lines += [f"{_of(study, seeds)}:", "", *said, ""]
    text = "\n".join(lines) or "No study is on record yet; `make report` shows the demonstration.\n"
    text += "\nPublished numbers that a correct implementation must hit, beside ours:\n\n"
    return text + anchors.markdown(), svg


def _headline(cards):
    """A paragraph for each pair: distillation on average, the rarest classes, AdaAlpha."""
    lines = []
    for pair in dict.fromkeys(c["pair"] for c in cards):
        own = {c["finding"]: c for c in cards if c["pair"] == pair}
        said = []
        for c in (own[name] for name in ("F1", "F2b", "F4 AdaAlpha") if name in own):
            said.append(f"{c['said']} *{c['claim'].rstrip('.')}: {c['verdict']}.*")
        lines += [f"**{pair}.** {' '.join(said)}", ""]
    return lines


def _of_findings(study, panel, cards):
    return [
        f"{_of(study, panel.seeds)}, {len(panel.runs['one_hot'])} baselines:",
        "",
        *_short(cards),
        "",
        "<details><summary>Every finding in words, with its test</summary>",
        "",
        *_long(cards),
        "",
        "</details>",
        "",
    ]


def _sentences(study, seeds):
    """What a study beyond the findings says."""
    if study.kind == "recipe":
        return choice.headline(study, seeds)
    return sensitivity.headlines(panels(study.name))


def _under_way():
    """That the first study has no verdict yet, and what is on record of it and of its recipe."""
    first = next(s for s in STUDIES.values() if s.kind == "findings" and not s.superseded)
    both = [STUDIES[name] for name in (f"{first.name}-recipe", first.name) if name in STUDIES]
    counts = [f"{sum(map(exists, s()))} of {len(s())} runs of `{s.name}`" for s in both]
    return (
        "**The answer is being measured again, on networks that are trained enough.** On record: "
        f"{' and '.join(counts)}; numbers are shown from the second seed on, verdicts from the "
        "fourth. What follows is superseded: networks that were trained too little to fit their "
        "training images."
    )


def _of(study, seeds):
    early = ", preliminary" if seeds < study.seeds else ""
    return f"{study.title} (`{study.name}`), {seeds} of {study.seeds} planned seeds{early}"


def _short(cards):
    """A row for each finding, a column for each pair.

    Last how often the rules of a pair fire on nothing, taken together."""
    pairs = list(dict.fromkeys(c["pair"] for c in cards))
    lines = [f"| finding | {' | '.join(pairs)} |", "|---|" + "---|" * len(pairs)]
    for finding in dict.fromkeys(c["finding"] for c in cards):
        own = {c["pair"]: c for c in cards if c["finding"] == finding}
        claims = " / ".join(dict.fromkeys(c["claim"] for c in own.values()))
        cells = [_cell(own[pair]) if pair in own else "–" for pair in pairs]
        lines.append(f"| **{finding}** {claims} | {' | '.join(cells)} |")
    together = [share(next(c["any_alarm"] for c in cards if c["pair"] == pair)) for pair in pairs]
    what = "share of random splits of the baselines in which any of these rules fires on nothing"
    return [*lines, f"| {what} | {' | '.join(together)} |"]


def _cell(card):
    return f"**{card['verdict']}**<br>{card['brief']}".removesuffix("<br>")


def _long(cards):
    rows = [
        [c["finding"], c["pair"], f"**{c['verdict']}**", f"{c['sentence']} {c['alarm']}".rstrip()]
        for c in cards
    ]
    return [
        "| finding | teacher → student | verdict | the numbers |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
