"""README's answer: average, rarest classes, remedy, and how far to trust them."""

import textwrap

import pandas as pd

from kdlib.evidence.choice import PASSES, gate_of
from kdlib.evidence.findings import UNDECIDED, marked, share
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

    said = [f"{p.study.title}: {changes(p, methods[0], 'one_hot')}" for p in panels]
    return paint, f"{'. '.join(said)}, compared with one-hot.", table


def elsewhere(p, cards):
    """(lead, sentence) on the same in another study; None if a part of it was not tested."""
    said = [cards[name] for name in ("F1", "F2b", "F4 AdaAlpha") if name in cards]
    if len(said) < 3 or not all(card["result"] for card in said):
        return None
    average, rare, remedy = map(_moves, said)
    rarest, explained = _rarest(p)
    sentence = (
        f" (`{p.study.name}`, whose training {PASSES[gate_of(p)]} the gate, see below): "
        f"distillation {average} on average; in {rarest}{explained} it {rare}, and there AdaAlpha "
        f"{remedy} compared with distillation."
    )
    return p.study.title, sentence


def headline(p, cards):
    """[(lead, sentence)]: the average, the rarest classes, the remedy, with their terms explained.

    cards: {finding: card} of the pair, see findings.pair_verdicts."""
    said = [
        (
            "On average,",
            " distillation, which trains a network (the *student*) on the predictions of another "
            f"(the *teacher*), {_moves(cards['F1'])} compared with the same network trained on "
            f"labels alone (*one-hot*). {_verdict(cards['F1'])}",
        )
    ]
    rare, remedy = cards.get("F2b"), cards.get("F4 AdaAlpha")
    if rare and rare["result"]:
        rarest, explained = _rarest(p)
        said.append((f"In {rarest}", f"{explained}, it {_moves(rare)}. {_verdict(rare)}"))
    if remedy and remedy["result"]:  # where F2b is untested, so is F4
        in_rarest = p.in_bucket(verdict_bucket(p))
        average = told(p.gain("ada_alpha", p.average, "kd"))
        runs = p.runs["ada_alpha"]
        held_out = "held-out images"
        if labels_read(runs[0].config):
            held_out = (
                f"{len(runs[0].splits['val'].y):,} held-out images, whose labels it reads beside "
                f"those of the {int(p.train_counts.sum()):,} training images"
            )
        weight = (in_rarest.mean(axis=0) * [r.facts["margins"] for r in runs]).sum(axis=1).mean()
        sentence = (
            " the remedy of the paper that is reproduced here, trusts the teacher less in classes "
            f"where it is often wrong on {held_out}. Compared with distillation, it "
            f"{_moves(remedy)} in {rarest}, and the average by {average}; compared with one-hot, "
            f"it changes accuracy in {rarest} by {told(p.gain('ada_alpha', in_rarest))}: there its "
            f"weight of the teacher is {weight:.2f} on average, where 0 is one-hot and 1 is "
            f"distillation. {_verdict(remedy)} "
        )
        if "kd_tuned" in p.runs:
            tuned = told(p.gain("ada_alpha", in_rarest, "kd_tuned"))
            sentence += (
                "Compared with distillation by one weight of the teacher for all classes, chosen "
                f"on held-out images, it changes accuracy there by {tuned}."
            )
        else:
            sentence += (
                "Whether its weight by class matters, or any smaller weight of the teacher would "
                "do as well, was not tested here."
            )
        said.append(("AdaAlpha,", sentence))
    return said


def standing(p, cards):
    """How far the verdicts of a pair can be trusted, in one sentence."""
    if p.seeds < LEAST_SEEDS:
        seeds = f"A verdict needs {LEAST_SEEDS} seeds, and {p.seeds} are complete"
        return f"{seeds}: nothing is decided yet."
    alarm = cards["F1"]["any_alarm"]
    if alarm is None:
        return "There are too few baselines to say how often these rules give false alarms."
    return (
        f"These are {p.seeds} distilled and {len(p.runs['one_hot'])} one-hot networks on one draw "
        f"of the training images. Their training {PASSES[gate_of(p)]} the *gate*, a test of "
        "whether it is long enough that was fixed beforehand. On the *matched control*, where "
        "one-hot networks pose as distilled ones so that there is nothing to find, at least one of "
        f"the {len(cards)} rules of this study fires in {share(alarm)} of random draws."
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
    return f"*{card['claim'].rstrip('.')}: {marked(card)}.* {card['control']}".strip()
