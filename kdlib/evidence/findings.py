"""Verdicts: records in, a card for each finding out, with its word and its sentence.

None is written by hand."""

import functools

import numpy as np
import pandas as pd

from kdlib.evidence.false_alarms import false_alarms
from kdlib.evidence.panel import panel
from kdlib.evidence.rules import (
    LEAST_SEEDS,
    LEVEL,
    claim_of,
    decided,
    findings,
    names_of,
    verdict_bucket,
)
from kdlib.evidence.words import brief, told_p
from kdlib.study.done import some_seeds
from kdlib.study.grids import JUDGED, study

DEMONSTRATION = (
    "This is a demonstration, not evidence: its setting was chosen, on other images and with other "
    "seeds, to show a loss in the few-shot classes."
)
SEEN = {  # verdict of F2b: what a demonstration shows of the loss it was chosen for
    "holds": "is seen",
    "contradicted": "is not seen",
    "not decided": "is not decided",
    "not tested": "is not tested",
}
UNDECIDED = ("not decided", "not tested")


@functools.lru_cache(maxsize=32)  # a page asks for those of a pair again and again
def pair_verdicts(p):
    """The cards of one Panel: a dictionary for each finding, with its verdict in one word.

    Words: holds; contradicted ("not under this reading" for reconstructed methods); not decided;
    not tested."""
    if p.seeds < 2:
        why = "One seed has no spread, so nothing is tested."
        return [_untested(p, name, why) for name in names_of(p)]
    found = findings(p)
    if p.study.overrides:
        why = "Exploratory runs get no verdict."
        cards = {
            f.name: _untested(p, f.name, f"{_said(f)} {why}", f) | {"said": _said(f)} for f in found
        }
        return [cards.get(name) or _untested(p, name, why) for name in names_of(p)]
    alarms = false_alarms(p)
    judged = decided(found)
    cards = {
        f.name: _decided_card(p, f, word, corrected, len(judged), alarms)
        for f, word, corrected in judged
    }
    for finding in found:
        why = f"{_said(finding)} A verdict needs {LEAST_SEEDS} seeds; there are {finding.result.n}."
        cards.setdefault(finding.name, _untested(p, finding.name, why, finding))
    why = "One-hot networks stay below 5 % on val in every bucket, so nothing can be harmed."
    return [cards.get(name) or _untested(p, name, why) for name in names_of(p)]


def _untested(p, name, why, finding=None):
    return _card(p, name, "not tested", why, {}, finding)


def _said(finding):
    said = finding.say()
    return f"{said[0].upper()}{said[1:]}."


def _decided_card(p, finding, word, corrected, number_of, alarms):
    said = _said(finding)
    claim = "the claim" if finding.holds <= finding.contradicted else finding.opposite
    sentence = (
        f"{said} The test of {claim} gives {told_p(finding.p)} alone and {told_p(corrected)} after "
        f"correction for {number_of} findings (Holm)."
    )
    size = finding.result.smallest(LEVEL / number_of / finding.tests)
    smallest = ""
    if word == "not decided" and np.isfinite(size):
        besides = f", if {finding.besides} is shown as well" if finding.besides else ""
        smallest = f"{size:.{finding.digits}f} {finding.unit}".rstrip()
        sentence += (
            f" In four of five cases, a study like this one detects an effect of {smallest}"
            f"{besides}."
        )
    if word == "contradicted" and finding.name.startswith("F4"):
        word = "not under this reading"
    found = {"said": said, "smallest": smallest}
    return _card(p, finding.name, word, sentence, alarms, finding) | found


def _card(p, name, word, sentence, alarms, finding=None):
    planned, seeds = p.study.seeds, p.seeds
    if finding and finding.method in p.study.fewer:
        planned = p.study.fewer[finding.method]
        seeds = finding.result.n
    numbers = []
    if finding:
        found = filter(None, (finding.result, finding.second))
        numbers = [
            ("" if finding.unit else "correlation ") + brief(f, finding.digits) for f in found
        ]
    if (name, word) == ("F2b", "contradicted"):
        alarms = {}  # rightly so of what does nothing: no false alarm, and not counted
    return {
        "study": p.study.name,
        "finding": name,
        "pair": p.name,
        "claim": claim_of(p, name),
        "verdict": word,
        "sentence": sentence,
        "said": sentence,
        "preliminary": seeds < planned and not p.study.overrides,
        "seeds": seeds,
        "planned": planned,
        "baselines": len(p.runs["one_hot"]),
        "alarm": _alarm(alarms, name),
        "control": _control(alarms, name, word),
        "false_alarm": alarms.get(name),
        "idle": alarms.get(f"idle {name}"),
        "any_alarm": alarms.get("any"),
        "result": finding and finding.result,
        "p": finding and finding.p,
        "second": finding and finding.second,
        "numbers": numbers,  # result and second, in points, unless they say what they are
    }


def _alarm(alarms, name):
    """How often a rule fires where there is nothing to find, in words; "" where that is unknown."""
    if name not in alarms:
        return ""
    said = (
        f"When baselines pose as methods, this rule fires in {share(alarms[name])} of random splits"
    )
    idle = alarms.get(f"idle {name}")
    if idle is None:
        return f"{said}."
    return f"{said}; one-hot networks standing in for this remedy pass in {share(idle)}."


def _control(alarms, name, word):
    """What is said of a verdict whose rule also fires on its matched control; "" of any other.

    The control is networks that had no teacher, standing in for a method or for a remedy."""
    idle, fired = alarms.get(f"idle {name}", 0), alarms.get(name, 0)
    if word == "holds" and idle > LEVEL:
        return (
            "The matched control passes too: one-hot networks, which have no teacher, stand in for "
            f"this remedy and pass in {share(idle)} of random splits."
        )
    if word not in UNDECIDED and fired > LEVEL:
        return (
            "This rule also fires on the matched control: one-hot networks that pose as a method "
            f"trigger it in {share(fired)} of random splits."
        )
    return ""


def marked(card):
    """The word of a card's verdict, with a dagger where its matched control reaches it too."""
    return card["verdict"] + ("†" if card["control"] else "")


def demonstrated(panels, cards):
    """[sentence]: in which pairs the loss is seen that a demonstration was chosen for, see above.

    [] where nothing was chosen so. cards: those of the Panels, F2b among them."""
    first = panels[0]
    if not first.study.demonstration or first.study.overrides:
        return []
    rarest = len(first.bucket_names) - 1
    pairs = {}  # by what is said of them
    for p in panels:
        card = next(c for c in cards if c["finding"] == "F2b" and c["pair"] == p.name)
        word = card["verdict"] if verdict_bucket(p) == rarest else "not tested"
        pairs.setdefault(SEEN[word], []).append(p.name)
    said = " and ".join(f"{word} in {' and '.join(names)}" for word, names in pairs.items())
    return [f"On new images, that loss {said}."]


def short(cards):
    """Cards of one pair as a DataFrame, one row each; the last row is all its rules together.

    Columns: finding, claim, verdict, the numbers that decide, how often its rule fires where there
    is nothing to find, how often one-hot networks standing in for a remedy pass."""
    rows = []
    for c in cards:
        fires = share(c["false_alarm"]), share(c["idle"])
        rows.append((c["finding"], c["claim"], marked(c), "; ".join(c["numbers"]) or "–", *fires))
    any_alarm = share(cards[0]["any_alarm"])
    rows.append(("any", "At least one of the rules above.", "–", "–", any_alarm, "–"))
    columns = ["finding", "claim", "verdict", "estimate", "false alarms", "one-hot passes"]
    return pd.DataFrame(rows, columns=columns)


def share(value):
    """A share in per cent for a cell; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def panels(name, seeds=None):
    """The Panels of a study, given or by name: one per setting and pair, over the first `seeds`.

    By default over all complete seeds; KdlibError if there is none."""
    seeds = seeds or some_seeds(name)
    chosen = study(name)
    return [
        panel(chosen, pair, seeds, setting=setting)
        for setting in chosen.settings
        for pair in chosen.pairs
    ]


def verdicts(name, seeds=None):
    """Verdict cards of a study, pair by pair: a list of dictionaries, for the report's index.

    Empty unless its kind is one of JUDGED: everything else is sensitivity, or exploratory."""
    chosen = study(name)
    if chosen.kind not in JUDGED or chosen.overrides:
        return []
    return [card for p in panels(name, seeds) for card in pair_verdicts(p)]
