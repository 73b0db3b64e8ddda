"""README's answer: which claims hold, study by study, and how far to trust that."""

import textwrap

import numpy as np
import pandas as pd

from kdlib.evidence.choice import LEAST_CHANGE, LEAST_FEW_SHOT, gate_of
from kdlib.evidence.findings import marked, pair_verdicts, share
from kdlib.evidence.rules import AVERAGE_MARGIN, LEAST_SEEDS, LEVEL, classes, verdict_bucket
from kdlib.evidence.significance import holm
from kdlib.evidence.words import all_of, brief, labels_read, number
from kdlib.pages.anchors import markdown_table, so_far
from kdlib.pages.drawing import captioned, drawn, in_words
from kdlib.pages.gains import changes, gain_by_bucket, rarest

SHOWN = ("F1", "F2b", "F3b", "F3c", "F4 AdaAlpha")
DECIDED = {  # what a verdict says; {size}: of the change, {rare}: the classes that F2b is about
    ("F1", "holds"): "distillation raises average accuracy by {size}",
    ("F1", "contradicted"): "distillation lowers average accuracy by {size}",
    ("F2b", "holds"): "{rare} lose {size}",
    ("F2b", "contradicted"): "{rare} lose less than half a point",
    ("F3b", "holds"): "students repeat their teacher's errors {size} more often than one-hot ones",
    ("F3b", "contradicted"): "students do not repeat errors of their own teacher",
    ("F3c", "holds"): "distillation helps the teacher's weakest classes {size} less than the rest",
    ("F3c", "contradicted"): "distillation helps the teacher's weakest classes as much as the rest",
    ("F4 AdaAlpha", "holds"): "AdaAlpha gives {rare} {size} over distillation, {over} over one-hot",
    ("F4 AdaAlpha", "not under this reading"): "AdaAlpha as we read it is no remedy",
}
TWO_NUMBERS = (
    "F3b, F3c and F4 need two numbers. F3b: how much more often students repeat a wrong label of "
    "their teacher than one-hot networks do, at equally many errors; and than students of other "
    "teachers do. F3c: how much less distillation helps in the teacher's weakest fifth of classes "
    "than in the rest; and, in self-distillation, how much more students exceed its errors there "
    "than in the rest. F4: the gain over distillation in the rarest classes; and on average, above "
    f"−{AVERAGE_MARGIN:g}."
)
TRAINING = {  # by whether it passes the gate
    "yes": "passes our test of sufficient training",
    "no": "fails our test of sufficient training",
    "not known": "sufficient training is not shown",
}


@captioned
def plot_side_by_side(panels):
    """Small dots are seeds, large marks their mean, bars its 95 % interval over seeds, baselines
    and test images; within a bucket every class counts alike."""
    methods = [m for m in panels[0].methods if all(m in p.methods for p in panels)]
    tables = [in_words(gain_by_bucket(p, methods)).assign(study=p.study.title) for p in panels]
    table = pd.concat(tables)

    def paint(width):
        titles = [textwrap.fill(title, 32) for title in table.study]
        named = table.assign(study=titles, bucket=table.bucket.str.replace("-", "-\n"))
        figure, axes = drawn(named, "bucket", "gain over one-hot, points", "study", width=width)
        lows, highs = zip(*(one.get_ylim() for one in axes), strict=True)
        for one in axes:
            one.set_ylim(min(lows), max(highs))
        return figure

    said = [f"{p.study.title}. {changes(p, methods[0], 'one_hot').capitalize()}" for p in panels]
    return paint, f"{'. '.join(said)}, compared with one-hot.", table


def decided(p):
    """What is decided in a study, as a line of a list."""
    cards = _cards(p).values()
    said = []
    for card in cards:
        if words := DECIDED.get((card["finding"], card["verdict"])):
            how = {"size": number(abs(card["result"].estimate), signed=False), "rare": _rare(p)}
            if card["finding"] == "F4 AdaAlpha":
                over = p.gain("ada_alpha", p.in_bucket(verdict_bucket(p)))
                how["over"] = number(over.estimate)
            said.append(words.format(**how) + "†" * bool(card["control"]))
    early = f"{p.seeds} of {p.study.seeds} planned seeds; " if p.seeds < p.study.seeds else ""
    where = f"- **In `{p.study.name}`** ({early}{TRAINING[gate_of(p)[0]]})"
    if not said:
        return f"{where} none of the claims below is decided."
    left = len(cards) - len(said)
    rest = f"; of the {len(cards)} claims below, {left} {'is' if left == 1 else 'are'} not decided"
    return f"{where} {all_of(said)}{rest if left else ''}."


def _cards(p):
    """{finding: card} of what is shown, see findings.pair_verdicts."""
    return {card["finding"]: card for card in pair_verdicts(p) if card["finding"] in SHOWN}


def compared(panels):
    """The claims as a Markdown table with a column for each study; below, what is marked there."""
    columns = {f"`{p.study.name}`": list(_cards(p).values()) for p in panels}
    return "\n\n".join(verdict_table("claim", columns, _rows([_beside(p) for p in panels])))


def _rows(cells):
    """Rows of a table from its columns: a list of {label: cell}."""
    labels = dict.fromkeys(label for column in cells for label in column)
    return [[label, *(column.get(label) or "–" for column in cells)] for label in labels]


def verdict_table(first, columns, more=()):
    """[Markdown table, a line for each mark in it]: a row for each finding, and `more` rows.

    columns: {heading: cards}; first: the heading before them. The row below the findings says how
    often any rule of a column fires on the matched control."""
    rows, marks = [], []
    for finding in dict.fromkeys(c["finding"] for cards in columns.values() for c in cards):
        own = {head: c for head, cards in columns.items() for c in cards if c["finding"] == finding}
        claims = list(dict.fromkeys(c["claim"] for c in own.values()))
        if len(claims) > 1:
            claims = [f"{c['claim']} ({head})" for head, c in own.items()]
        cells = dict.fromkeys(columns, "–")
        for head, c in own.items():
            cells[head] = "<br>".join([f"**{marked(c)}**", *c["numbers"]])
            marks += [f"† {finding}, {head}: {c['control']}"] * bool(c["control"])
        rows.append([f"**{finding}** {'<br>'.join(claims)}", *cells.values()])
    alarms = (share(cards[0]["any_alarm"]) for cards in columns.values())
    rows.append(["any finding decided, on the matched control", *alarms])
    return [markdown_table([first, *columns], [*rows, *more]), *marks]


def _beside(p):
    """{label: cell}: what else tells how to read the verdicts of a study."""
    sizes = {name: card.get("smallest", "").split()[:1] for name, card in _cards(p).items()}
    found = "; ".join(f"{name.split()[0]}: {size[0]}" for name, size in sizes.items() if size)
    enough = "; ".join(word or "not run" for word in gate_of(p))
    return {
        "effects that four of five such studies would find, points (of the first number)": found,
        "networks: distilled; one-hot": f"{p.seeds}; {len(p.runs['one_hot'])}",
        "passes our test of sufficient training; change by twice the epochs": enough,
    }


def beyond_verdicts(panels):
    """Rows of a table with a column for each Panel: what belongs to the verdicts, and is none."""
    return _rows([_beyond(p) for p in panels])


def _rare(p):
    """What claims call the rarest groups, in words."""
    rarest, least = "the rarest {}", "the {} its teacher knows least"
    return (rarest if p.study.bucket_edges else least).format(p.study.groups[1])


def _beyond(p):
    """{label: cell} of a Panel: the level of one-hot, and AdaAlpha in the rarest groups."""
    rare = _rare(p)
    bucket = verdict_bucket(p)
    tested = rarest(p)[1] if bucket is None else p.in_bucket(bucket)
    by_class = p.accuracy("one_hot").observed.mean(axis=0)
    level = [f"{by_class @ of.mean(axis=0):.1f}" for of in (p.average, tested)]
    found = {f"accuracy of one-hot, %: on average; in {rare}": "; ".join(level)}
    if bucket is None or "ada_alpha" not in p.runs:
        return found
    margins = np.array([r.facts["margins"] for r in p.runs["ada_alpha"]])
    weight = (tested[: len(margins)] * margins).sum(axis=1).mean()
    found[f"AdaAlpha minus one-hot, in {rare}"] = brief(p.gain("ada_alpha", tested))
    if "kd_tuned" in p.runs:
        over_tuned = brief(p.gain("ada_alpha", tested, "kd_tuned"))
        found[f"AdaAlpha minus distillation with one tuned weight, in {rare}"] = over_tuned
    return found | {f"weight of the teacher in AdaAlpha, in {rare}": f"{weight:.2f}"}


def explained(panels):
    """[(lead, sentence)]: what the table counts, the remedy, how sure all this is."""
    numbers = (
        " are differences in points, with 95 % intervals: the accuracy of distilled minus that of "
        f"one-hot networks, on average (F1) and in the rarest classes (F2b). {TWO_NUMBERS} F2b and "
        "F3c look at one pattern from two sides, since the teacher's weakest classes are mostly "
        "the rarest."
    )
    said = [("The numbers", numbers)]
    rare = [f"{_rarest(p)} of `{p.study.name}`" for p in panels if verdict_bucket(p) is not None]
    if rare:
        said.append(("The rarest classes", f" are {all_of(rare)}."))
    if _cards(panels[0]).get("F4 AdaAlpha", {}).get("result"):
        said.append(("AdaAlpha", _remedy(panels[0])))
    sure = (
        f" A verdict needs {LEAST_SEEDS} distilled networks, with which the tests are somewhat too "
        "bold (PROTOCOL.md, section 5); if fewer than planned are trained, it may change. Verdicts "
        "are corrected for the number of findings of a study, so an interval may exclude 0 where "
        f"nothing is decided{_over_all(panels)}. On the *matched control*, one-hot networks pose "
        "as distilled ones, so that what is decided there is a false alarm; only F2b may be "
        "contradicted. Our test of sufficient training asks that twice the epochs change average "
        f"accuracy by an estimate of less than {LEAST_CHANGE:g} point, that the teacher fits its "
        f"training images, and that no few-shot class is below {LEAST_FEW_SHOT:g} % on held-out "
        "images. Each study has one draw of its training images, and no interval covers another "
        f"draw. {so_far()}"
    )
    return [*said, ("How sure is this?", sure)]


def _over_all(panels):
    """What one correction for the findings of all studies together would change, in words."""
    if len(panels) == 1:
        return ""
    cards = [c for p in panels for c in pair_verdicts(p) if c["verdict"] != "not tested"]
    corrected = holm([c["p"] for c in cards])
    lost = {}
    for card, p in zip(cards, corrected, strict=True):
        if card["verdict"] != "not decided" and p > LEVEL:
            lost.setdefault(f"`{card['study']}`", []).append(card["finding"])
    if not lost:
        return "; one correction for all columns would change no verdict"
    names = all_of([f"{all_of(names)} in {study}" for study, names in lost.items()])
    return f"; corrected for all columns together, {names} would not be decided"


def _remedy(p):
    """What AdaAlpha is, and what it reads."""
    run = p.runs["ada_alpha"][0]
    reads = ""
    if labels_read(run.config):
        held_out = len(run.splits["val"].y)
        reads = (
            f"; in `{p.study.name}` it reads the labels of {held_out:,} of them, "
            f"{held_out // len(p.class_names):,} in each class, beside those of "
            f"{int(p.train_counts.sum()):,} training images"
        )
    return (
        " is our reconstruction of the paper's remedy. It gives the teacher a weight in each class "
        "that is smaller the less sure the teacher is of the right class on held-out images"
        f"{reads}. At a weight of 1 it is distillation, at 0 one-hot, so that with a small weight "
        "it does little more than leave the teacher out: RESULTS.md tells that weight."
    )


def _rarest(p):
    """The classes that F2b is about, in words."""
    bucket = verdict_bucket(p)
    few = p.study.bucket_edges and bucket == len(p.bucket_names) - 1
    how = f" (fewer than {p.study.bucket_edges[1]} training images each)" if few else ""
    if not p.study.bucket_edges:
        how = " by the teacher's margin"
    return f"the {classes(p, bucket)}{how}"
