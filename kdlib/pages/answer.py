"""README's answer: average, rarest classes, remedy, and how far to trust them."""

import textwrap

import numpy as np
import pandas as pd

from kdlib.evidence.choice import PASSES, gate_of
from kdlib.evidence.findings import UNDECIDED, marked, pair_verdicts, share
from kdlib.evidence.rules import LEAST_SEEDS, classes, verdict_bucket
from kdlib.evidence.words import labels_read, told
from kdlib.pages.drawing import captioned, drawn, in_words
from kdlib.pages.gains import changes, gain_by_bucket


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


def headline(p):
    """[(lead, sentence)]: average, rarest classes, cause, remedy, how sure all this is.

    Terms are explained."""
    cards = _cards(p)
    said = [
        (
            "On average,",
            " distillation, which trains a network (the *student*) on the predictions of another "
            f"(the *teacher*), {_moves(cards['F1'])} compared with the same network trained on "
            f"labels alone (*one-hot*). {_verdict(cards['F1'])}",
        )
    ]
    rare, copied, remedy = (cards.get(name) for name in ("F2b", "F3b", "F4 AdaAlpha"))
    if rare and rare["result"]:
        rarest, explained = _rarest(p)
        said.append((f"In {rarest}", f"{explained}, it {_moves(rare)}. {_verdict(rare)}"))
    if copied and copied["result"]:
        both = " ".join(_verdict(card | {"smallest": ""}) for card in (copied, cards["F3c"]))
        said.append(("The suspected cause.", f" {copied['said']} {both}"))
    if remedy and remedy["result"]:  # where F2b is untested, so is F4
        average = told(p.gain("ada_alpha", p.average, "kd"))
        run = p.runs["ada_alpha"][0]
        reads = ""
        if labels_read(run.config):
            held_out = len(run.splits["val"].y)
            reads = (
                f" (it reads the labels of {held_out:,}, {held_out // len(p.class_names):,} in "
                f"each class, beside those of {int(p.train_counts.sum()):,} training images)"
            )
        sentence = (
            " our reconstruction of the paper's remedy, weighs the teacher against the labels "
            "class by class: the less sure the teacher is of the right class on held-out images"
            f"{reads}, the less it counts: at a weight of 1 this is distillation, at 0 one-hot. In "
            f"{rarest}, {_of_remedy(p, remedy)}. On average it changes accuracy by {average} "
            # what it would have found hangs on two parts, which RESULTS.md says
            f"compared with distillation. {_verdict(remedy | {'smallest': ''})}"
        )
        if "kd_tuned" in p.runs:
            tuned = told(p.gain("ada_alpha", p.in_bucket(verdict_bucket(p)), "kd_tuned"))
            sentence += (
                " Outside the verdicts: compared with distillation at a weight of "
                f"{p.runs['kd_tuned'][0].config.alpha:g} in all classes, chosen on held-out images "
                f"for the best average, it changes accuracy in {rarest} by {tuned}."
            )
        said.append(("AdaAlpha,", sentence))
    return [*said, ("How sure is this?", f" {standing(p, cards)}")]


def elsewhere(p):
    """[(lead, sentence)] on the same in another study; [] if a part of it was not tested."""
    said = [_cards(p).get(name) for name in ("F1", "F2b", "F4 AdaAlpha")]
    if not all(card and card["result"] for card in said):
        return []
    rarest, explained = _rarest(p)
    sentence = (
        f" (`{p.study.name}`, whose training {PASSES[gate_of(p)]} the gate): distillation "
        f"{_moves(said[0])} on average; in {rarest}{explained} it {_moves(said[1])}. There "
        f"{_of_remedy(p, said[2])}."
    )
    return [(p.study.title, sentence)]


def _cards(p):
    """{finding: card} of a Panel, see findings.pair_verdicts."""
    return {card["finding"]: card for card in pair_verdicts(p)}


def _of_remedy(p, card):
    """What AdaAlpha does in the rarest classes, and how much of the teacher it leaves there."""
    weights = p.in_bucket(verdict_bucket(p))
    margins = np.array([r.facts["margins"] for r in p.runs["ada_alpha"]])
    untested = "; whether one smaller weight for all classes does as well was not tested"
    return (
        f"the teacher's weight is {(weights * margins).sum(axis=1).mean():.2f} on average, and "
        f"AdaAlpha {_moves(card)} compared with distillation, and changes it by "
        f"{told(p.gain('ada_alpha', weights))} compared with one-hot"
        f"{'' if 'kd_tuned' in p.runs else untested}"
    )


def standing(p, cards):
    """How far the verdicts of a pair can be trusted, in sentences."""
    if p.seeds < LEAST_SEEDS:
        seeds = f"A verdict needs {LEAST_SEEDS} seeds, and {p.seeds} are complete"
        return f"{seeds}: nothing is decided yet."
    said = (
        f"These are {p.seeds} distilled and {len(p.runs['one_hot'])} one-hot networks on one draw "
        f"of the training images. Their training {PASSES[gate_of(p)]} the *gate*, a test of "
        "whether it is long enough whose conditions were fixed beforehand."
    )
    if p.seeds < p.study.seeds:
        said += (
            f" All verdicts are preliminary: {p.study.seeds} seeds are planned, and what is not "
            "decided with fewer may be decided with all."
        )
    alarm = cards["F1"]["any_alarm"]
    if alarm is None:
        return f"{said} There are too few baselines to say how often these rules give false alarms."
    return (
        f"{said} On the *matched control*, where one-hot networks pose as distilled ones so that "
        f"there is nothing to find, at least one of the {len(cards)} rules of this study fires in "
        f"{share(alarm)} of random splits."
    )


def _rarest(p):
    """The classes that F2b is about, in words, and what these words mean."""
    bucket = verdict_bucket(p)
    if not p.study.bucket_edges:
        return f"the {classes(p, bucket)}", " by the teacher's margin"
    if bucket < len(p.bucket_names) - 1:
        return f"the {classes(p, bucket)}", ""
    images = p.study.bucket_edges[1]
    return "the rarest classes", f" (*few-shot*: fewer than {images} training images each)"


def _moves(card):
    """What happens to an accuracy: a direction only where the verdict is one."""
    result = card["result"]
    decided = card["verdict"] not in UNDECIDED
    if decided and (result.low > 0 or result.high < 0):
        size = told(result).removeprefix("+").removeprefix("−")
        return f"{'raises' if result.low > 0 else 'lowers'} accuracy by {size}"
    return f"changes accuracy by {told(result)}"


def _verdict(card):
    """A claim with its verdict, marked where the rule also fires on the matched control."""
    seen = card.get("smallest")
    power = f" (four of five such studies would find an effect of {seen})" if seen else ""
    return f"*{card['claim'].rstrip('.')}: {marked(card)}{power}.* {card['control']}".strip()
