"""The answer in README.md: verdicts, figure, sensitivity and anchors, generated from the committed records."""

from kdlib import anchors, plots, sensitivity, tables
from kdlib.findings import complete_seeds, pair_verdicts, panels
from kdlib.studies import STUDIES
from kdlib.words import name_of

FIGURE = "docs/answer.svg"
UNITS = "In the tables: points, with the 95 % interval over seeds and test examples; margin and gain: a rank correlation."


def answer():
    """(Markdown, SVG bytes or None) of the studies on record that are not demonstrations; the first one gives the figure."""
    lines, svg = [], None
    on_record = [s for s in STUDIES.values() if not s.demonstration and s.kind != "anchors" and complete_seeds(s.name)]
    for study in on_record:
        if study.kind != "findings":
            continue
        both = panels(study.name)
        if svg is None:
            headline, svg = _headline(both)
            lines += headline
        cards = [card for p in both for card in pair_verdicts(p)]
        lines += [_of(study, both[0].seeds), "", *_short(cards), "", *_bullets(both), "",
                  "<details><summary>Every condition in words, with its test</summary>", "", *_long(cards), "", "</details>", ""]
    for study in on_record:
        if study.kind != "findings":
            of = panels(study.name)
            lines += [_of(study, of[0].seeds), "", *_bullets(of), ""]
    text = "\n".join(lines) if lines else "No study is on record yet; `make report` shows the demonstration.\n"
    return f"{text}\nPublished numbers that a correct implementation must hit, beside ours:\n\n{anchors.markdown()}", svg


def _headline(panels):
    """(Markdown lines, SVG): for each pair what distillation does and what softening its teacher adds, and the first figure."""
    lines, figures = [], []
    for p in panels:
        ours = {"one_hot": [m for m in p.runs if m != "one_hot"], "kd": [m for m in p.runs if m.startswith("ada_")]}
        gain, softened = (plots.gain_by_bucket(tables.gain_by_bucket(p, methods, over), p.name, name_of(over))
                          for over, methods in ours.items())
        early = "" if p.seeds == p.study.seeds else f" (preliminary: {p.seeds} of {p.study.seeds} seeds)"
        lines += [f"**{gain.sentence}** {softened.sentence}{early}", ""]
        figures.append(gain)
    first = figures[0]
    return [*lines, f"![{first.sentence}]({FIGURE})", "", first.caption, "", UNITS, ""], first.svg()


def _of(study, seeds):
    early = ", preliminary" if seeds < study.seeds else ""
    return f"{study.title} (`{study.name}`), {seeds} of {study.seeds} planned seeds{early}:"


def _bullets(panels):
    return [f"- {sentence}" for sentence in sensitivity.headlines(panels)]


def _short(cards):
    """A row for each finding, a column for each pair."""
    pairs = list(dict.fromkeys(c["pair"] for c in cards))
    cells = {(c["finding"], c["pair"]): "<br>".join([f"**{c['verdict']}**", *(f"{p.label}: {p.brief}" for p in c["parts"])])
             for c in cards}
    rows = {c["finding"]: f"**{c['finding']}** {c['claim']}" for c in cards}
    return [f"| finding | {' | '.join(pairs)} |", "|---|" + "---|" * len(pairs),
            *(f"| {claim} | {' | '.join(cells[finding, pair] for pair in pairs)} |" for finding, claim in rows.items())]


def _long(cards):
    return ["| finding | teacher → student | verdict | what holds, and the numbers |", "|---|---|---|---|",
            *(f"| {c['finding']} | {c['pair']} | **{c['verdict']}** | "
              + "; ".join(f"*{part.label}: {part.holds}* ({part.sentence})" for part in c["parts"]) + " |" for c in cards)]
