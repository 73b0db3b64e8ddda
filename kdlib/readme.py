"""The answer in README.md: verdicts, figure, sensitivity and anchors, generated from the committed records."""

from kdlib import anchors, plots, search, sensitivity, tables
from kdlib.findings import complete_seeds, pair_verdicts, panels
from kdlib.records import exists
from kdlib.studies import STUDIES
from kdlib.words import name_of

FIGURE = "docs/answer.svg"
UNITS = (
    "In the tables: points, with the 95 % interval over networks and test examples; F3a is a rank correlation. A claim "
    "holds, is contradicted, or is not decided, corrected for the number of findings of a pair."
)


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations; the first one gives the figure."""
    lines, svg = [], None
    done = {
        s.name: complete_seeds(s.name)
        for s in STUDIES.values()
        if not s.demonstration and s.kind != "anchors"
    }
    on_record = [
        s for s in STUDIES.values() if done.get(s.name, 0) > (s.kind == "findings")
    ]  # of findings two seeds or more
    found = sorted(
        (s for s in on_record if s.kind == "findings"), key=lambda s: s.superseded
    )  # stable
    if found and found[0].superseded:
        lines += [_under_way(), ""]
    for study in found:
        both = panels(study.name)
        if svg is None:
            headline, svg = _headline(both)
            lines += headline
        cards = [card for p in both for card in pair_verdicts(p)]
        lines += [
            f"{_of(study, both[0].seeds)[:-1]}, {len(both[0].runs['one_hot'])} baselines:",
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
    for study in on_record:
        if study.kind != "findings":
            seeds = done[study.name]
            said = (
                search.headline(study, seeds)
                if study.kind == "recipe"
                else sensitivity.headlines(panels(study.name))
            )
            lines += [_of(study, seeds), "", *(f"- {sentence}" for sentence in said), ""]
    text = (
        "\n".join(lines)
        if lines
        else "No study is on record yet; `make report` shows the demonstration.\n"
    )
    return (
        f"{text}\nPublished numbers that a correct implementation must hit, beside ours:\n\n{anchors.markdown()}",
        svg,
    )


def _headline(panels):
    """(Markdown lines, SVG): for each pair what distillation does and what softening its teacher adds, and the first figure."""
    lines, figures = [], []
    for p in panels:
        ours = {
            "one_hot": [m for m in p.runs if m != "one_hot"],
            "kd": [m for m in p.runs if m.startswith("ada_")],
        }
        gain, softened = (
            plots.gain_by_bucket(tables.gain_by_bucket(p, methods, over), p.name, name_of(over))
            for over, methods in ours.items()
        )
        early = (
            ""
            if p.seeds == p.study.seeds
            else f" (preliminary: {p.seeds} of {p.study.seeds} seeds)"
        )
        lines += [f"**{gain.sentence}** {softened.sentence}{early}", ""]
        figures.append(gain)
    first = figures[0]
    return [*lines, f"![{first.sentence}]({FIGURE})", "", first.caption, "", UNITS, ""], first.svg()


def _under_way():
    """That the first study has no verdict yet, and what is on record of it."""
    first = next(s for s in STUDIES.values() if s.kind == "findings" and not s.superseded)
    runs = first()
    return (
        f"**The answer is being measured again, on networks that are trained enough.** {sum(map(exists, runs))} of "
        f"{len(runs)} runs of `{first.name}` are on record; verdicts are shown from the second seed on. What follows is "
        "superseded: networks that were trained too little to fit their training images."
    )


def _of(study, seeds):
    early = ", preliminary" if seeds < study.seeds else ""
    return f"{study.title} (`{study.name}`), {seeds} of {study.seeds} planned seeds{early}:"


def _short(cards):
    """A row for each finding, a column for each pair; last how often all rules of a pair together fire on nothing."""
    pairs = list(dict.fromkeys(c["pair"] for c in cards))
    cells = {
        (c["finding"], c["pair"]): f"**{c['verdict']}**<br>{c['brief']}".removesuffix("<br>")
        for c in cards
    }
    lines = [f"| finding | {' | '.join(pairs)} |", "|---|" + "---|" * len(pairs)]
    for finding, claim in {c["finding"]: c["claim"] for c in cards}.items():
        lines.append(
            f"| **{finding}** {claim} | {' | '.join(cells.get((finding, pair), '–') for pair in pairs)} |"
        )
    together = [next(c["any_alarm"] for c in cards if c["pair"] == pair) for pair in pairs]
    if None in together:
        return lines
    return [
        *lines,
        f"| share of random splits of the baselines in which any of these rules fires on nothing | "
        f"{' | '.join(f'{100 * share:.1f} %' for share in together)} |",
    ]


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
