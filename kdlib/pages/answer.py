"""README's answer: which claims hold, study by study, and how far to trust that."""

import textwrap

import numpy as np
import pandas as pd

from kdlib.evidence.choice import LEAST_CHANGE, LEAST_FEW_SHOT, gate_of
from kdlib.evidence.findings import marked, pair_verdicts, share
from kdlib.evidence.rules import AVERAGE_MARGIN, LEAST_SEEDS, classes, verdict_bucket
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
    ("F3b", "holds"): "students repeat errors of their teacher",
    ("F3b", "contradicted"): "students repeat fewer errors of their teacher than one-hot networks",
    ("F3c", "holds"): "errors grow in the teacher's weakest classes",
    ("F3c", "contradicted"): "errors do not grow in the teacher's weakest classes",
    ("F4 AdaAlpha", "holds"): "AdaAlpha gives {rare} {size} more than distillation",
    ("F4 AdaAlpha", "not under this reading"): "AdaAlpha as we read it is no remedy",
}
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
    rare = "the rarest classes" if p.study.bucket_edges else "the classes its teacher knows least"
    said = []
    for card in cards:
        if words := DECIDED.get((card["finding"], card["verdict"])):
            size = number(abs(card["result"].estimate), signed=False)
            said.append(words.format(size=size, rare=rare) + "†" * bool(card["control"]))
    early = f"{p.seeds} of {p.study.seeds} planned seeds; " if p.seeds < p.study.seeds else ""
    where = f"- **In `{p.study.name}`** ({early}{TRAINING[gate_of(p)]})"
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
        rows.append([f"**{finding}** {'<br>'.join(claims)}", *cells.values()])
    alarms = (share(cards[0]["any_alarm"]) for cards in columns.values())
    rows.append(["any finding decided, on the matched control", *alarms])
    return [markdown_table([first, *columns], [*rows, *more]), *marks]


def _beside(p):
    """{label: cell, "" for none}: what else tells how to read the verdicts of a study."""
    cards = _cards(p)
    sizes = {name: cards[name].get("smallest") for name in ("F1", "F2b")}
    found = "; ".join(f"{name}: {size}" for name, size in sizes.items() if size)
    bucket = verdict_bucket(p)
    tested = rarest(p)[1] if bucket is None else p.in_bucket(bucket)
    weight = less = over_one_hot = over_tuned = ""
    if cards.get("F4 AdaAlpha", {}).get("result"):
        margins = np.array([r.facts["margins"] for r in p.runs["ada_alpha"]])
        weight = f"{(tested * margins).sum(axis=1).mean():.2f}"
        less = brief(p.gain("ada_alpha", p.average, "kd"))
        over_one_hot = brief(p.gain("ada_alpha", tested))
        over_tuned = "not run"
        if "kd_tuned" in p.runs:
            over_tuned = brief(p.gain("ada_alpha", tested, "kd_tuned"))
    by_class = p.accuracy("one_hot").observed.mean(axis=0)
    level = [f"{by_class @ of.mean(axis=0):.1f}" for of in (p.average, tested)]
    return {
        f"AdaAlpha minus distillation, on average (F4: above −{AVERAGE_MARGIN:g} too)": less,
        "AdaAlpha minus one-hot, in the rarest classes": over_one_hot,
        "AdaAlpha minus distillation with one tuned weight, in the rarest classes": over_tuned,
        "weight of the teacher in AdaAlpha, in the rarest classes": weight,
        "accuracy of one-hot, %: on average; in the rarest classes": "; ".join(level),
        "effects that four of five such studies would find": found,
        "networks: distilled; one-hot": f"{p.seeds}; {len(p.runs['one_hot'])}",
        "training passes the *gate*": gate_of(p),
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
    rare = [f"{_rarest(p)} of `{p.study.name}`" for p in panels if verdict_bucket(p) is not None]
    if rare:
        said.append(("The rarest classes", f" are {all_of(rare)}."))
    if _cards(panels[0]).get("F4 AdaAlpha", {}).get("result"):
        said.append(("AdaAlpha", _remedy(panels[0])))
    sure = (
        f" A verdict needs {LEAST_SEEDS} distilled networks; if fewer than planned are trained, it "
        "is preliminary and may change. Verdicts are corrected for the number of findings, and "
        "F3c and F4 each have a second condition, so an interval may exclude 0 where nothing is "
        "decided. On the *matched control*, one-hot networks pose as distilled ones, so that every "
        "finding decided there is a false alarm. The *gate* is our test of sufficient training: "
        f"twice the epochs change average accuracy by less than {LEAST_CHANGE:g} point, the "
        "teacher fits its training images, and no few-shot class is below "
        f"{LEAST_FEW_SHOT:g} % on held-out images. Each study has one draw of its training images, "
        f"and no interval covers another draw. {so_far()}"
    )
    return [*said, ("How sure is this?", sure)]


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
        "it does little more than leave the teacher out. Its comparisons with one-hot and with one "
        "tuned weight are part of no verdict."
    )


def _rarest(p):
    """The classes that F2b is about, in words."""
    bucket = verdict_bucket(p)
    few = p.study.bucket_edges and bucket == len(p.bucket_names) - 1
    how = f" (fewer than {p.study.bucket_edges[1]} training images each)" if few else ""
    if not p.study.bucket_edges:
        how = " by the teacher's margin"
    return f"the {classes(p, bucket)}{how}"
