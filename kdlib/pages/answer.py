"""README's answer: which claims hold, study by study, and how far to trust that."""

import textwrap
from collections import Counter

import numpy as np
import pandas as pd

from kdlib.evidence.choice import gate_of
from kdlib.evidence.findings import UNDECIDED, marked, pair_verdicts, share
from kdlib.evidence.rules import LEAST_SEEDS, classes, verdict_bucket
from kdlib.evidence.words import brief, labels_read
from kdlib.pages.anchors import markdown_table
from kdlib.pages.drawing import captioned, drawn, in_words
from kdlib.pages.gains import changes, gain_by_bucket

SHOWN = ("F1", "F2b", "F3b", "F3c", "F4 AdaAlpha")
VERDICTS = ("holds", "contradicted", "not under this reading", *UNDECIDED)
TRAINING = {  # by whether it passes the gate
    "yes": "training is long enough",
    "no": "training may be too short",
    "not known": "whether training is long enough is not known",
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


def counted(panels):
    """How many of the claims hold in each study, and whether its training is long enough."""
    said = []
    for p in panels:
        words = Counter(card["verdict"] for card in _cards(p).values())
        parts = [_count(words[word], word) for word in sorted(words, key=VERDICTS.index)]
        last = f" and {parts.pop()}" if len(parts) > 1 else ""
        early = f"{p.seeds} of {p.study.seeds} planned seeds; " if p.seeds < p.study.seeds else ""
        said.append(f"{', '.join(parts)}{last} in `{p.study.name}` ({early}{TRAINING[gate_of(p)]})")
    return f"**Of the claims in the table, {'; '.join(said)}.**"


def _count(n, word):
    """n claims and their verdict: 1 holds, 2 are not decided."""
    if word == "holds":
        return f"{n} hold{'s' if n == 1 else ''}"
    said = word.replace("not under", "contradicted under")  # of a method that is reconstructed
    return f"{n} {'is' if n == 1 else 'are'} {said}"


def _cards(p):
    """{finding: card} of what is shown, see findings.pair_verdicts."""
    return {card["finding"]: card for card in pair_verdicts(p) if card["finding"] in SHOWN}


def compared(panels):
    """The claims as a Markdown table with a column for each study; below, what is marked there."""
    columns = {f"`{p.study.name}`": list(_cards(p).values()) for p in panels}
    beside = [_beside(p) for p in panels]
    rows = [[label, *(of[label] or "–" for of in beside)] for label in beside[0]]
    return "\n\n".join(verdict_table("claim", columns, rows))


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
            cells[head] = f"**{marked(c)}**<br>{c['brief']}".removesuffix("<br>")
            marks += [f"† {finding}, {head}: {c['control']}"] * bool(c["control"])
        rows.append([f"**{finding}** {' '.join(claims)}", *cells.values()])
    alarms = (share(cards[0]["any_alarm"]) for cards in columns.values())
    rows.append(["any rule fires, on the matched control", *alarms])
    return [markdown_table([first, *columns], [*rows, *more]), *marks]


def _beside(p):
    """{label: cell, "" for none}: what else tells how to read the verdicts of a study."""
    cards = _cards(p)
    sizes = {name: cards[name].get("smallest") for name in ("F1", "F2b")}
    found = "; ".join(f"{name}: {size}" for name, size in sizes.items() if size)
    weight = less = over_one_hot = over_tuned = ""
    if cards.get("F4 AdaAlpha", {}).get("result"):  # where F2b is untested, so is F4
        rarest = p.in_bucket(verdict_bucket(p))
        margins = np.array([r.facts["margins"] for r in p.runs["ada_alpha"]])
        weight = f"{(rarest * margins).sum(axis=1).mean():.2f}"
        less = brief(p.gain("ada_alpha", p.average, "kd"))
        over_one_hot = brief(p.gain("ada_alpha", rarest))
        over_tuned = "not run"
        if "kd_tuned" in p.runs:
            over_tuned = brief(p.gain("ada_alpha", rarest, "kd_tuned"))
    return {
        "training passes the *gate*": gate_of(p),
        "networks: distilled, one-hot": f"{p.seeds} and {len(p.runs['one_hot'])}",
        "effect that four of five such studies would find, where undecided": found,
        "weight of the teacher in AdaAlpha, rarest classes": weight,
        "AdaAlpha minus distillation, on average": less,
        "AdaAlpha minus one-hot, rarest classes": over_one_hot,
        "AdaAlpha minus distillation at one tuned weight, rarest classes": over_tuned,
    }


def explained(panels):
    """[(lead, sentence)]: what the table counts, the remedy, how sure all this is."""
    said = [
        (
            "The numbers",
            " are differences in points, with 95 % intervals: the accuracy of distilled minus that "
            "of one-hot networks, on average (F1) and in the rarest classes (F2b); how much more "
            "often they repeat a wrong label of their teacher, at equally many errors (F3b); how "
            "much more their errors grow in its weakest fifth of classes than in the rest (F3c); "
            "the accuracy of AdaAlpha minus that of distillation in the rarest classes (F4).",
        )
    ]
    rarest = [f"{_rarest(p)} of `{p.study.name}`" for p in panels if verdict_bucket(p) is not None]
    if rarest:
        said.append(("The rarest classes", f" are {' and '.join(rarest)}."))
    if _cards(panels[0]).get("F4 AdaAlpha", {}).get("result"):
        said.append(("AdaAlpha,", _remedy(panels[0])))
    sure = (
        " Each study has one draw of its training images. The *gate* is a test of whether training "
        "is long enough, whose conditions were fixed beforehand. On the *matched control*, one-hot "
        "networks pose as distilled ones, so that there is nothing to find. A verdict needs "
        f"{LEAST_SEEDS} distilled networks; with fewer than planned it is preliminary, and what is "
        "not decided may be decided with all."
    )
    return [*said, ("How sure is this?", sure)]


def _remedy(p):
    """What AdaAlpha is, and what it reads."""
    run = p.runs["ada_alpha"][0]
    reads = ""
    if labels_read(run.config):
        held_out = len(run.splits["val"].y)
        reads = (
            f" (in `{p.study.name}` it reads the labels of {held_out:,}, "
            f"{held_out // len(p.class_names):,} in each class, beside those of "
            f"{int(p.train_counts.sum()):,} training images)"
        )
    return (
        " our reconstruction of the paper's remedy, weighs the teacher against the labels class by "
        f"class: the less sure the teacher is of the right class on held-out images{reads}, the "
        "less it counts. At a weight of 1 this is distillation, at 0 one-hot. The last rows of the "
        "table are outside the verdicts."
    )


def _rarest(p):
    """The classes that F2b is about, in words."""
    bucket = verdict_bucket(p)
    few = p.study.bucket_edges and bucket == len(p.bucket_names) - 1
    how = f" (fewer than {p.study.bucket_edges[1]} training images each)" if few else ""
    if not p.study.bucket_edges:
        how = " by the teacher's margin"
    return f"the {classes(p, bucket)}{how}"
