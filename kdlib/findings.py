"""Verdicts: records in, a card for each finding out, with its word and its sentence. Nobody writes one by hand."""

import numpy as np
import pandas as pd

from kdlib import records
from kdlib.config import KdlibError
from kdlib.false_alarms import false_alarms
from kdlib.metrics import panel
from kdlib.rules import CLAIMS, decided, findings, verdict_bucket
from kdlib.studies import STUDIES, Study, study
from kdlib.words import brief, told_p


def pair_verdicts(p):
    """The cards of one Panel: a dictionary for each finding, with its verdict in one word.

    Words: holds; contradicted ("not under this reading" for reconstructed methods); not decided; not tested."""
    if p.seeds < 2:
        return [
            _card(p, f, claim, "not tested", "One seed has no spread, so nothing is tested.")
            for f, claim in CLAIMS.items()
        ]
    results, alarms = decided(findings(p)), false_alarms(p)
    cards = [_decided_card(p, *result, len(results), alarms) for result in results]
    if verdict_bucket(p) is None:
        why = "One-hot is below 5 % on val in every bucket: nothing can be harmed."
        cards += [
            _card(p, f, claim, "not tested", why)
            for f, claim in CLAIMS.items()
            if not f.startswith("F1")
        ]
    return cards


def _decided_card(p, finding, word, corrected, number_of, alarms):
    said = finding.say()
    said = f"{said[0].upper()}{said[1:]}."
    sentence = f"{said} {told_p(finding.p)} alone, {told_p(corrected)} corrected for {number_of} findings (Holm)."
    if word == "not decided" and np.isfinite(finding.result.detectable):
        smallest = f"{finding.result.detectable:.{finding.digits}f} {finding.unit}".rstrip()
        sentence += f" The smallest effect that this study would have found: {smallest}."
    if word == "contradicted" and finding.name.startswith("F4"):
        word = "not under this reading"
    return _card(
        p, finding.name, finding.claim, word, sentence, alarms, finding.result, finding.digits
    ) | {"said": said}


def _card(p, finding, claim, word, sentence, alarms=None, result=None, digits=1):
    baselines, (alarm, any_alarm) = (
        len(p.runs["one_hot"]),
        ((alarms or {}).get(name) for name in (finding, "any")),
    )
    return {
        "study": p.study.name,
        "finding": finding,
        "pair": p.name,
        "claim": claim,
        "verdict": word,
        "sentence": sentence,
        "said": sentence,
        "preliminary": p.seeds < p.study.seeds,
        "seeds": p.seeds,
        "planned": p.study.seeds,
        "baselines": baselines,
        "alarm": _said(alarm),
        "false_alarm": alarm,
        "any_alarm": any_alarm,
        "result": result,
        "brief": "" if result is None else brief(result, digits),
    }


def short(cards):
    """Cards of one pair as a DataFrame: finding, claim, verdict, the number that decides, how often its rule fires on nothing;
    last all rules of the pair together."""
    rows = [
        {
            "finding": c["finding"],
            "claim": c["claim"],
            "verdict": c["verdict"],
            "estimate": c["brief"] or "–",
            "fires on nothing": _share(c["false_alarm"]),
        }
        for c in cards
    ]
    rows.append(
        {
            "finding": "any",
            "claim": "At least one of the rules above.",
            "verdict": "–",
            "estimate": "–",
            "fires on nothing": _share(cards[0]["any_alarm"]),
        }
    )
    return pd.DataFrame(rows)


def _share(alarm):
    return "–" if alarm is None else f"{100 * alarm:.1f} %"


def _said(alarm):
    """How often a rule fires on nothing, in words; "" where too few baselines can say."""
    return (
        ""
        if alarm is None
        else f"On baselines that pose as methods this rule fires in {_share(alarm)} of random splits."
    )


def complete_seeds(name):
    """How many first seeds of a study have all their records; 0 to the planned number."""
    done, chosen = 0, study(name)
    core = {"extras": False} if isinstance(chosen, Study) else {}
    while done < chosen.seeds and all(map(records.exists, chosen(done + 1, **core))):
        done += 1
    return done


def some_seeds(name):
    """complete_seeds, of which there must be one: else KdlibError saying how to get it."""
    if not (done := complete_seeds(name)):
        raise KdlibError(
            f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them."
        )
    return done


def at_hand():
    """The names of the studies with verdicts and a complete seed on record."""
    return [name for name, s in STUDIES.items() if s.kind == "findings" and complete_seeds(name)]


def panels(name, seeds=None):
    """The Panels of a study, one per setting and pair, over the first `seeds` (default: all that are complete)."""
    seeds, chosen = seeds or some_seeds(name), study(name)
    return [
        panel(chosen, pair, seeds, setting=setting)
        for setting in chosen.settings
        for pair in chosen.pairs
    ]


def verdicts(name, seeds=None):
    """Verdict cards of a study: a list of dictionaries for the report's index, pair by pair. Empty unless its kind is
    "findings": everything else is sensitivity."""
    return (
        []
        if study(name).kind != "findings"
        else [card for p in panels(name, seeds) for card in pair_verdicts(p)]
    )
