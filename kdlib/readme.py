"""The answer in README.md: verdicts and figure, generated from the committed records."""

from kdlib import plots, tables
from kdlib.findings import complete_seeds, pair_verdicts, panels
from kdlib.studies import STUDIES

FIGURE = "docs/answer.svg"


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations; the first one gives the figure."""
    lines, svg = [], None
    for name, study in STUDIES.items():
        if study.demonstration or not complete_seeds(name):
            continue
        both = panels(name)
        if svg is None:
            methods = [m for m in study.methods if m != "one_hot"]
            shown = plots.gain_by_bucket(tables.gain_by_bucket(both[0], methods), both[0].name)
            svg = shown.svg()
            lines += [f"**{shown.sentence}**", "", f"![{shown.sentence}]({FIGURE})", "", shown.caption, ""]
        cards = [card for p in both for card in pair_verdicts(p)]
        early = ", preliminary" if cards[0]["preliminary"] else ""
        lines += [f"{study.title} (`{name}`), {cards[0]['seeds']} of {study.seeds} planned seeds{early}:", "",
                  "| finding | teacher → student | verdict | what holds, and the numbers |", "|---|---|---|---|"]
        lines += [f"| {c['finding']} | {c['pair']} | **{c['verdict']}** | {_numbers(c)} |" for c in cards] + [""]
    return ("\n".join(lines) if lines else "No study is on record yet; `make report` shows the demonstration.\n"), svg


def _numbers(card):
    return "; ".join(f"*{label}: {holds}* ({said})" for label, holds, said in card["parts"])
