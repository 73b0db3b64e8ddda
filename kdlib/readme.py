"""The answer in README.md: verdicts, figure, sensitivity and anchors, generated from the committed records."""

from kdlib import anchors, plots, sensitivity, tables
from kdlib.findings import complete_seeds, pair_verdicts, panels
from kdlib.studies import STUDIES

FIGURE = "docs/answer.svg"


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations; the first one gives the figure."""
    lines, svg = [], None
    on_record = [s for s in STUDIES.values() if not s.demonstration and s.kind != "anchors" and complete_seeds(s.name)]
    for study in on_record:
        if study.kind != "findings":
            continue
        both = panels(study.name)
        if svg is None:
            methods = [m for m in study.methods if m != "one_hot"]
            shown = plots.gain_by_bucket(tables.gain_by_bucket(both[0], methods), both[0].name)
            svg = shown.svg()
            early = "" if both[0].seeds == study.seeds else f" (preliminary: {both[0].seeds} of {study.seeds} seeds)"
            lines += [f"**{shown.sentence}**{early}", "", f"![{shown.sentence}]({FIGURE})", "", shown.caption, ""]
        cards = [card for p in both for card in pair_verdicts(p)]
        lines += [_of(study, both[0].seeds), "",
                  "| finding | teacher → student | verdict | what holds, and the numbers |", "|---|---|---|---|"]
        lines += [f"| {c['finding']} | {c['pair']} | **{c['verdict']}** | {_numbers(c)} |" for c in cards] + [""]
    for study in on_record:
        if study.kind != "findings":
            of = panels(study.name)
            lines += [_of(study, of[0].seeds), "", *(f"- {sentence}" for sentence in sensitivity.headlines(of)), ""]
    text = "\n".join(lines) if lines else "No study is on record yet; `make report` shows the demonstration.\n"
    return f"{text}\nPublished numbers that a correct implementation must hit, beside ours:\n\n{anchors.markdown()}", svg


def _of(study, seeds):
    early = ", preliminary" if seeds < study.seeds else ""
    return f"{study.title} (`{study.name}`), {seeds} of {study.seeds} planned seeds{early}:"


def _numbers(card):
    return "; ".join(f"*{label}: {holds}* ({said})" for label, holds, said in card["parts"])
