"""README's answer: which claims hold, study by study, and how far to trust that."""

import textwrap

import numpy as np
import pandas as pd

from kdlib.evidence.choice import LEAST_CHANGE, LEAST_FEW_SHOT, check_of
from kdlib.evidence.findings import marked, pair_verdicts, share
from kdlib.evidence.rules import LEAST_SEEDS, LEVEL, classes, verdict_bucket
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
    ("F3b", "holds"): "students repeat their teacher's errors {size} more often than one-hot ones, "
    "at equally many errors (than students of other teachers: {second})",
    ("F3b", "contradicted"): "transfer of the teacher's errors is contradicted",
    ("F3c", "holds"): "distillation helps the teacher's weakest classes {size} less than the rest",
    ("F3c", "contradicted"): "amplification of the teacher's errors is contradicted",
    ("F4 AdaAlpha", "holds"): "AdaAlpha lifts {rare} by {size} over distillation (over one-hot: "
    "{over})",
    ("F4 AdaAlpha", "not under this reading"): "AdaAlpha as we read it is no remedy",
}
RARE = {"F2b": "distillation", "F4 AdaAlpha": "AdaAlpha over distillation"}  # who changes them
TRAINING = {  # by whether the training check is passed
    "yes": "passes our training check",
    "no": "fails our training check",
    "not known": "our training check is not complete",
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
            if card["second"]:
                how["second"] = number(card["second"].estimate, signed=False)
            if card["finding"] == "F4 AdaAlpha":
                over = p.gain("ada_alpha", p.in_bucket(verdict_bucket(p)))
                how["over"] = number(over.estimate)
            said.append(words.format(**how) + "†" * bool(card["control"]))
    early = f", {p.seeds} of {p.study.seeds} planned distilled networks" * (p.seeds < p.study.seeds)
    where = f"- **{p.study.title}** (`{p.study.name}`{early}; {TRAINING[check_of(p)[0]]})."
    if not said:
        return f"{where} None of the claims below is decided."
    left = len(cards) - len(said)
    rest = f"; of the {len(cards)} claims below, {left} {'is' if left == 1 else 'are'} not decided"
    told = all_of(said)
    return f"{where} {told[0].upper()}{told[1:]}{rest if left else ''}."


def _cards(p):
    """{finding: card} of what is shown, see findings.pair_verdicts."""
    return {card["finding"]: card for card in pair_verdicts(p) if card["finding"] in SHOWN}


def compared(panels):
    """The claims as a Markdown table with a column for each study; below, what is marked there."""
    columns = {f"`{p.study.name}`": list(_cards(p).values()) for p in panels}
    checks = ["; ".join(word or "not run" for word in check_of(p)) for p in panels]
    check = ["passes our training check; change of the average by twice the epochs", *checks]
    return "\n\n".join(verdict_table("claim", columns, [check]))


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


def beyond_verdicts(panels):
    """Rows of a table with a column for each Panel: what belongs to the verdicts, and is none."""
    cells = [_beyond(p) for p in panels]
    labels = dict.fromkeys(label for column in cells for label in column)
    return [[label, *(column.get(label) or "–" for column in cells)] for label in labels]


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
    found[f"AdaAlpha minus one-hot, in {rare}"] = brief(p.gain("ada_alpha", tested))
    if "kd_tuned" in p.runs:
        over_tuned = brief(p.gain("ada_alpha", tested, "kd_tuned"))
        found[f"AdaAlpha minus distillation with one tuned weight, in {rare}"] = over_tuned
    return found | {f"weight of the teacher in AdaAlpha, in {rare}": _weight(p, tested)}


def _weight(p, groups):
    """AdaAlpha's mean weight of the teacher in groups (S, G), in words."""
    margins = np.array([r.facts["margins"] for r in p.runs["ada_alpha"]])
    return f"{(groups[: len(margins)] * margins).sum(axis=1).mean():.2f}"


def explained(panels):
    """[(lead, sentence)]: what the table counts, the remedy, how sure all this is."""
    numbers = (
        " are points, with 95 % intervals; two numbers belong to the two parts of a claim, in its "
        "order ([RESULTS.md](RESULTS.md) defines them). Verdicts are corrected for the number of "
        "findings of a teacher and its student, so an interval may exclude 0 where nothing is "
        f"decided{_over_all(panels)}. The teacher's weakest classes are the fifth with the lowest "
        "accuracy on held-out images. F2b and F3c look at one pattern from two sides, since these "
        "are mostly the rarest."
    )
    judged = [p for p in panels if verdict_bucket(p) is not None]
    if judged:
        numbers += f" The rarest classes are {all_of([_rarest(p) for p in judged])}."
    said = [("The numbers", numbers)]
    remedied = [p for p in judged if "ada_alpha" in p.runs]
    if remedied:
        said.append(("AdaAlpha", _remedy(remedied)))
    said.append(("How many networks?", f" {_networks(panels)}"))
    training = (
        f" asks that twice the epochs change average accuracy by less than {LEAST_CHANGE:g} point "
        "(by the estimate), that the teacher fits its training images, and that no few-shot class "
        f"of one-hot networks is below {LEAST_FEW_SHOT:g} % on held-out images; RESULTS.md says "
        "what each study meets."
    )
    said.append(("Our training check", training))
    control = (
        " is a test of the rules: one-hot networks pose as distilled ones, so that whatever is "
        "decided there is a false alarm, except that F2b may rightly be contradicted. It cannot "
        "see a spread of a method's own, nor what makes all distilled students alike."
    )
    said.append(("The matched control", control))
    limits = " Each study has one draw of its training images; no interval covers another draw."
    return [*said, ("What else limits this?", f"{limits} {so_far()}")]


def _networks(panels):
    """How many networks the verdicts rest on, and what they would miss."""
    counts = [
        f"{p.seeds} distilled and {len(p.runs['one_hot'])} one-hot ones in `{p.study.name}`"
        for p in panels
    ]
    said = [
        f"{all_of(counts)}. A verdict needs {LEAST_SEEDS} distilled networks; the tests of so few "
        "are somewhat too bold (PROTOCOL.md, section 5)."
    ]
    if any(p.seeds < p.study.seeds for p in panels):
        said.append("A verdict may change until all planned runs are done.")
    for p in panels:
        cards = _cards(p)
        sizes = {name: cards.get(name, {}).get("smallest") for name in RARE}
        some = [f"of {size} by {RARE[name]}" for name, size in sizes.items() if size]
        if some:
            said.append(
                f"In `{p.study.name}`, four of five such studies would find a change in the rarest "
                f"classes {' or '.join(some)}; smaller ones less often."
            )
    return " ".join(said)


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


def _remedy(panels):
    """What AdaAlpha is, its weight in the rarest groups, and what it reads."""
    weights, reads = [], []
    for p in panels:
        weights.append(f"{_weight(p, p.in_bucket(verdict_bucket(p)))} in `{p.study.name}`")
        run = p.runs["ada_alpha"][0]
        if labels_read(run.config):
            held_out = len(run.splits["val"].y)
            reads.append(
                f"of {held_out:,} held-out images in `{p.study.name}` "
                f"({held_out // len(p.class_names):,} in each class, beside "
                f"{int(p.train_counts.sum()):,} training images in all)"
            )
    labels = f" It reads the labels {all_of(reads)}." if reads else ""
    return (
        " is our reconstruction of the paper's remedy. It gives the teacher a weight in each class "
        "that is smaller the less sure the teacher is of the right class on held-out images: at 1 "
        "a class is distilled, at 0 it is trained on labels alone. In the rarest classes the "
        f"weight is {all_of(weights)}.{labels}"
    )


def _rarest(p):
    """The classes that F2b is about, in words."""
    bucket = verdict_bucket(p)
    few = p.study.bucket_edges and bucket == len(p.bucket_names) - 1
    how = f" (fewer than {p.study.bucket_edges[1]} training images each)" if few else ""
    if not p.study.bucket_edges:
        how = " by the teacher's margin"
    return f"the {classes(p, bucket)}{how} of `{p.study.name}`"
