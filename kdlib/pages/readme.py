"""The answer in README.md, from the records: verdicts, figure, sensitivity and anchors."""

from kdlib.evidence import choice
from kdlib.evidence.findings import pair_verdicts, panels, share
from kdlib.pages import anchors, sensitivity
from kdlib.pages.gains import plot_gain_by_bucket
from kdlib.study.done import complete_seeds
from kdlib.study.grids import STUDIES

FIGURE = "docs/answer.svg"
UNITS = (
    "In the tables: points, with the 95 % interval over networks and test examples; F3a is a rank "
    "correlation. A claim holds, is contradicted, or is not decided, corrected for the number of "
    "findings of a pair."
)


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations.

    The first one gives the figure."""
    parts, svg = [], None
    shown = [s for s in STUDIES.values() if not s.demonstration and s.kind != "anchors"]
    done = {s.name: complete_seeds(s.name) for s in shown}
    found = [s for s in shown if s.kind == "findings" and done[s.name] > 1]
    found.sort(key=lambda s: s.superseded)  # stable
    for study in found:
        both = panels(study.name)
        cards = [card for p in both for card in pair_verdicts(p)]
        if svg is None:
            figure = plot_gain_by_bucket(both[0])
            svg = figure.svg()
            parts += _headline(cards)
            parts += [f"![{figure.sentence}]({FIGURE})", figure.caption, UNITS]
        baselines = len(both[0].runs["one_hot"])
        parts += [f"{_of(study, done[study.name])}, {baselines} baselines:", _short(cards)]
        parts.append("<details><summary>Every finding in words, with its test</summary>")
        parts += [_long(cards), "</details>"]
    for study in (s for s in shown if s.kind != "findings" and done[s.name]):
        parts += [f"{_of(study, done[study.name])}:", _said(study, done[study.name])]
    if not parts:
        parts = ["No study is on record yet; `make report` shows the demonstration."]
    parts.append("Published numbers that a correct implementation must hit, beside ours:")
    return "\n\n".join([*parts, anchors.markdown()]), svg


def _headline(cards):
    """A paragraph for each pair: distillation on average, the rarest classes, AdaAlpha."""
    paragraphs = []
    for pair in dict.fromkeys(c["pair"] for c in cards):
        own = {c["finding"]: c for c in cards if c["pair"] == pair}
        some = [own[name] for name in ("F1", "F2b", "F4 AdaAlpha") if name in own]
        said = [f"{c['said']} *{c['claim'].rstrip('.')}: {c['verdict']}.*" for c in some]
        paragraphs.append(f"**{pair}.** {' '.join(said)}")
    return paragraphs


def _said(study, seeds):
    """What a study beyond the findings says."""
    if study.kind == "recipe":
        said = choice.headline(study, seeds)
    else:
        said = sensitivity.headlines(panels(study.name))
    return "\n".join(f"- {sentence}" for sentence in said)


def _of(study, seeds):
    early = ", preliminary" if seeds < study.seeds else ""
    return f"{study.title} (`{study.name}`), {seeds} of {study.seeds} planned seeds{early}"


def _short(cards):
    """A row for each finding, a column for each pair.

    Last how often the rules of a pair fire on nothing, taken together."""
    pairs = {c["pair"]: c["any_alarm"] for c in cards}
    rows = []
    for finding in dict.fromkeys(c["finding"] for c in cards):
        own = {c["pair"]: c for c in cards if c["finding"] == finding}
        claims = " / ".join(dict.fromkeys(c["claim"] for c in own.values()))
        cells = {pair: f"**{c['verdict']}**<br>{c['brief']}" for pair, c in own.items()}
        cells = [cells.get(pair, "–").removesuffix("<br>") for pair in pairs]
        rows.append([f"**{finding}** {claims}", *cells])
    what = "share of random splits of the baselines in which any of these rules fires on nothing"
    rows.append([what, *map(share, pairs.values())])
    return anchors.markdown_table(["finding", *pairs], rows)


def _long(cards):
    rows = []
    for c in cards:
        numbers = f"{c['sentence']} {c['alarm']}".rstrip()
        rows.append([c["finding"], c["pair"], f"**{c['verdict']}**", numbers])
    return anchors.markdown_table(["finding", "teacher → student", "verdict", "the numbers"], rows)
