"""README.md and RESULTS.md from the records: nobody types a number."""

import math
import re
from dataclasses import dataclass

from kdlib.config import KdlibError
from kdlib.evidence import choice
from kdlib.evidence.findings import UNDECIDED, marked, pair_verdicts, panels
from kdlib.evidence.rules import AVERAGE_MARGIN, LEAST_SEEDS
from kdlib.pages import anchors, answer, hidden, people, sensitivity
from kdlib.pages.shown import TEMPLATES
from kdlib.study.done import complete_seeds
from kdlib.study.files import write_whole
from kdlib.study.grids import JUDGED, STUDIES, Study
from kdlib.study.provenance import provenance
from kdlib.study.studies import CLASSES

FIGURE = "docs/answer.svg"
ANSWERS = {"groups": people.answer, "hidden": hidden.answer}  # what else is said of a kind of study
OUTSIDE = re.compile(r"<!-- outside:start -->\n(.*?)\n<!-- outside:end -->", re.S)


@dataclass(frozen=True)
class OnRecord:
    """A study with complete seeds on record; panels and cards where it has verdicts."""

    study: Study
    seeds: int
    panels: list
    cards: list

    @property
    def title(self):
        """Title, name and how far it is."""
        early = ", preliminary" if self.seeds < self.study.seeds else ""
        said = f"{self.seeds} of {self.study.seeds} planned seeds{early}"
        return f"{self.study.title} (`{self.study.name}`), {said}"


def publish(page):
    """Write answer and claims between their marks in README.md, the figure, and RESULTS.md."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    for mark in ("answer", "claims"):
        _replaced(page, text, mark, "")
    beside = page.with_name("RESULTS.md")
    before = beside.read_text(encoding="utf-8") if beside.exists() else ""
    said, claims, figure, everything = texts(_anew() or kept(before))
    if figure:
        write_whole(page.parent / FIGURE, figure)
    write_whole(page, _replaced(page, _replaced(page, text, "answer", said), "claims", claims))
    write_whole(beside, everything)


def _replaced(page, text, mark, new):
    """The text of a page with what stands between the two lines of a mark replaced."""
    parts = re.split(f"(?<=<!-- {mark}:start -->\n).*?(?=<!-- {mark}:end -->)", text, flags=re.S)
    if len(parts) != 2:
        start, end = f"<!-- {mark}:start -->", f"<!-- {mark}:end -->"
        raise KdlibError(f"{page}: needs one line {start} and, below it, one {end}.")
    return new.join(parts)


def kept(everything):
    """What RESULTS.md says of studies whose records are outside the repository; "" if nothing."""
    found = OUTSIDE.search(everything)
    return found[1] if found else ""


def _anew():
    """The same, computed from their records where these are complete; else ""."""
    parts = []
    for study in (s for s in STUDIES.values() if s.outside and s.kind in JUDGED):
        if complete_seeds(study.name) < study.seeds:
            return ""
        parts += _study(_judged(study, study.seeds))
    return "\n\n".join(parts)


def texts(outside=""):
    """(answer and claims of README.md, figure as SVG bytes or None, RESULTS.md), Markdown.

    outside: see kept. The first study that has seeds enough for a test and is not superseded gives
    answer and figure; others like it stand beside it, the next one in the figure too."""
    found = [shown for shown in map(_shown, STUDIES.values()) if shown]
    judged = [shown for shown in found if shown.cards]
    judged.sort(key=lambda shown: (shown.study.superseded, shown.seeds < LEAST_SEEDS))  # stable
    beyond = [shown for shown in found if not shown.cards]
    said = "No study is on record yet; `make report` shows the demonstration."
    claims, svg = "", None
    numbers = {"choice": choice, "AVERAGE_MARGIN": AVERAGE_MARGIN, "LEAST_SEEDS": LEAST_SEEDS}
    parts = [TEMPLATES.get_template("results.md.j2").render(numbers)]
    if judged:
        alike = [s for s in judged[1:] if _alike(s, judged[0])]
        figure = answer.plot_side_by_side([shown.panels[0] for shown in (judged[0], *alike[:1])])
        first = [shown.panels[0] for shown in (judged[0], *alike)]
        said = _answer(first, figure)
        claims = _claims(first, beyond)
        svg = figure.svg()
    for shown in (s for s in judged if not s.study.superseded):
        parts += _study(shown)
    for shown in beyond:
        parts += [f"## {shown.title}", "\n".join(f"- {said}" for said in _said(shown))]
    if outside:
        parts.append(f"<!-- outside:start -->\n{outside}\n<!-- outside:end -->")
    if judged:
        claims += _others("\n".join(parts), {p.study.name for p in first}) + "\n"
    parts += _waiting([shown.study.name for shown in found])
    parts.append("## Published numbers that a correct implementation must reach, and ours")
    parts.append(anchors.markdown().rstrip())
    for shown in (s for s in judged if s.study.superseded):
        parts += _study(shown)
    return said + "\n", claims, svg, "\n\n".join(parts) + "\n"


def _others(everything, told):
    """What the studies decide that are in RESULTS.md and not `told`, in a sentence; or "".

    Of studies with seeds enough for a test."""
    said = []
    for section in re.split("^(?=## )", everything, flags=re.M):
        title = re.match(r"## .*?\(`(.+?)`\)", section)
        rows = re.findall(r"^\| (F[^|]*) \| ([^|]*) \| \*\*(.+?)†?\*\* \|", section, re.M)
        if {word for *_, word in rows} <= {"not tested"} or title[1] in told:
            continue
        several = len({pair for _, pair, _ in rows}) > 1
        found = [
            f"{finding} {'' if word == 'holds' else 'is '}{word}{f' ({pair})' if several else ''}"
            for finding, pair, word in rows
            if word not in UNDECIDED
        ]
        undecided = f"{len(rows) - len(found)} of {len(rows)} findings are not decided"
        fails = "recipe fails the training check" in section
        check = f" ({answer.TRAINING['no']})" if fails else ""
        said.append(f"in `{title[1]}`{check} {', '.join([*found, undecided])}")
    return f"\n\nOther studies with verdicts: {'; '.join(said)}." if said else ""


def _waiting(shown):
    """What studies have too few runs to be shown here, as a section; [] where there is none."""
    names = [s.name for s in STUDIES.values() if not (s.demonstration or s.outside)]
    begun = {name: complete_seeds(name) for name in names if name not in shown}
    some = [f"`{n}` ({k} of {STUDIES[n].seeds} seeds)" for n, k in begun.items() if k]
    none = [f"`{n}`" for n, k in begun.items() if not k]
    said = [f"- Begun: {', '.join(some)}."] if some else []
    said += [f"- Without a complete seed: {', '.join(none)}."] if none else []
    return ["## Studies that are not complete enough for verdicts", "\n".join(said)] if said else []


def _shown(study):
    """What is on record of a study, as OnRecord; None where nothing can be said about it."""
    unlisted = study.demonstration or study.outside or study.kind == "anchors"
    seeds = 0 if unlisted else complete_seeds(study.name)
    if study.kind != "findings":
        return OnRecord(study, seeds, [], []) if seeds else None
    if seeds < 2:  # one seed has no spread
        return None
    return _judged(study, seeds)


def _judged(study, seeds):
    both = panels(study.name)
    return OnRecord(study, seeds, both, [card for p in both for card in pair_verdicts(p)])


# ---------------------------------------------------------------- the answer of README.md


def _alike(shown, first):
    """Whether another study with seeds enough for a test is of rare and frequent classes too."""
    old = shown.study.superseded or shown.seeds < LEAST_SEEDS
    about = {(s.study.groups, bool(s.study.bucket_edges)) for s in (shown, first)}
    return not old and about == {(CLASSES, True)}


def _answer(first, figure):
    """What is decided in each of some Panels, and the figure of the first two, with its caption."""
    names = [f"`{p.study.name}`" for p in first]
    of = f"Left {names[0]}, right {names[1]}: a" if first[1:] else "A"
    caption = (
        f"*{of}ccuracy minus that of the same network trained on labels alone (one-hot), in the "
        "classes with many, a medium number of and few training images. Small dots are training "
        "runs, large marks their means, bars 95 % intervals.* [The claims one by one, and how sure "
        "this is.](#what-was-found-and-how-sure-is-it)"
    )
    found = "\n".join(map(answer.decided, first))
    picture = f'<img src="{FIGURE}" width="560" alt="{figure.sentence}">'
    return "\n\n".join([found, picture, caption])


def _claims(first, beyond):
    """The verdicts of some Panels side by side, and what to know about them."""
    points = answer.explained(first)
    for rivals in beyond:
        if rivals.study.name == f"{first[0].study.name}-rivals":
            said = sensitivity.ahead_of_ada_alpha(panels(rivals.study.name)[0])
            points.append(("Rivals.", f" {said}"))
    lines = "\n".join(f"- **{lead}**{sentence}" for lead, sentence in points)
    return f"{answer.compared(first)}\n\n{lines}"


# ---------------------------------------------------------------- RESULTS.md


def _study(shown):
    """The section of a study with verdicts."""
    baselines = len(shown.panels[0].runs["one_hot"])
    seeds = shown.panels[0].seeds
    splits = math.comb(baselines, seeds)
    by_pair, rows = {}, []
    for c in shown.cards:
        by_pair.setdefault(c["pair"], []).append(c)
        numbers = f"{c['sentence']} {c['alarm']}".rstrip()
        rows.append([c["finding"], c["pair"], f"**{marked(c)}**", numbers])
    answers = [ANSWERS[kind] for kind in shown.study.kinds if kind in ANSWERS]
    answers.append(choice.check_without_search)
    said = [f"- {sentence}" for p in shown.panels for of in answers for sentence in of(p)]
    machines = "; ".join(provenance(shown.study, shown.seeds)["hardware"])
    header = ["finding", "teacher → student", "verdict", "the numbers"]
    return [
        f"## {shown.title}",
        *["\n".join(said)] * bool(said),
        f"{shown.study.about} {baselines} baselines, which can be split for the matched control in "
        f"{splits:,} ways. Trained on, with the number of runs: {machines}.",
        *answer.verdict_table("finding", by_pair, answer.beyond_verdicts(shown.panels)),
        "<details><summary>Every finding in words, with its test</summary>",
        anchors.markdown_table(header, rows),
        "</details>",
    ]


def _said(shown):
    """What a study beyond the findings says."""
    if shown.study.kind == "recipe":
        return choice.headline(shown.study, shown.seeds)
    return sensitivity.headlines(panels(shown.study.name))
