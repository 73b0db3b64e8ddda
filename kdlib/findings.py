"""The four findings by the rules of PROTOCOL.md: records in, verdicts with generated sentences out. Nobody writes one by hand."""

from dataclasses import dataclass

import numpy as np

from kdlib import records
from kdlib.config import KdlibError
from kdlib.metrics import average, bucket_mean, panel
from kdlib.stats import Interval, above, agreement_elsewhere, interval, non_inferior, rank_correlation, sign_flip
from kdlib.studies import STUDIES, study

NAMES = {
    "one_hot": "one-hot", "placebo": "placebo", "kd": "distillation", "ada_alpha": "AdaAlpha", "ada_margin": "AdaMargin",
    "teacher": "teacher", "kd_mean_alpha": "distillation, AdaAlpha's mean alpha", "kd_tuned": "distillation, alpha tuned",
    "ada_alpha_01": "0/1 AdaAlpha", "label_smoothing": "label smoothing", "logit_adjusted": "logit adjustment",
    "post_hoc": "post-hoc adjustment", "group_dro": "group DRO", "balanced_kd": "class-balanced distillation",
    "decoupled_kd": "decoupled distillation", "long_tailed_kd": "long-tailed distillation", "robust_kd": "robust student",
    "kd_adjusted_teacher": "adjusted teacher"}
HARM = -0.5              # points: the smallest mean harm that F2 calls one
AVERAGE_MARGIN = 1.0     # points: F4 (a)
BUCKET_MARGIN = 1.5      # points: F4 (c)
LOWEST_ACCURACY = 5.0    # per cent on val: below it nothing can be harmed in a bucket
CLAIMS = {
    "F1": "Distillation raises the student's average accuracy.",
    "F2": "The gain is not uniform: the rarest classes lose.",
    "F3": "Teacher errors are transferred to the student, and amplified.",
    "F4": "Softening the teacher keeps the average gain and spares the rarest classes.",
}


@dataclass(frozen=True)
class Part:
    """One condition of a finding: "yes" it holds, "no" its contrary holds, "open"; and why, with numbers."""

    label: str
    holds: str
    sentence: str
    result: Interval | None = None   # of the number that decides, where it is one
    unit: str = "points"
    digits: int = 1

    @property
    def detectable(self):
        """The smallest true effect that this study would find, or NaN."""
        return self.result.detectable if self.result else float("nan")

    @property
    def brief(self):
        """For a table's cell: open, +0.1 (−1.8 to +2.0)."""
        known = self.result and not np.isnan(self.result.estimate)
        return f"{self.holds}, {brief(self.result, self.digits)}" if known else self.holds


def number(value, unit="points", digits=1):
    """A signed number with its unit: +1.2 points."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return f"{text} {unit}".strip()


def told(result, unit="points", digits=1):
    """An interval in words: +1.2 points (95 % interval −0.3 to +2.7)."""
    if np.isnan(result.estimate):
        return "not defined (every value tied, or nothing to count)"
    if np.isnan(result.se):
        return f"{number(result.estimate, unit, digits)} (one seed: no interval)"
    low, high = (number(v, "", digits) for v in (result.low, result.high))
    return f"{number(result.estimate, unit, digits)} (95 % interval {low} to {high})"


def brief(result, digits=1):
    """An interval, or a row of a table with one, in a cell, on one line: +1.2 (−0.3 to +2.7)."""
    estimate, low, high = (number(v, "", digits) for v in (result.estimate, result.low, result.high))
    return estimate if np.isnan(result.low) else f"{estimate} ({low} to {high})".replace(" ", "\u00a0")


def with_p(result):
    """The interval and the exact sign-flip p with its floor."""
    p, floor = sign_flip(result.per_seed)
    return told(result) + ("" if result.n == 1 else f", sign-flip p = {p:.3f} (floor {floor:.3f})")


def name_of(method):
    """A method of a study in words."""
    return NAMES.get(method, method)


def uses_extra_labels(p, method):
    """Whether a method reads val labels for every run: held-out margins, or an adjustment tuned there."""
    cfg = p.runs[method][0].config
    margins = cfg.method == "ada_alpha" or cfg.method == "ada_margin" and cfg.margin_reading != "B"
    return margins and cfg.margin_source == "val" or cfg.method == "post_hoc"


def verdict_bucket(p):
    """Index of the rarest bucket where one_hot is above 5 % on val, or None."""
    accuracy = p.val_accuracy("one_hot")
    for index in (2, 1, 0):
        members = p.buckets_by_seed == index
        if members.any() and accuracy[members].mean() >= LOWEST_ACCURACY:
            return index
    return None


# ---------------------------------------------------------------- the rules

def helps_on_average(p, method="kd"):
    """F1: average gain above 0."""
    result = interval(*p.gain(method).map(average))
    return [Part("average gain", above(result), f"{name_of(method)} changes the average by {with_p(result)}", result)]


def not_uniform(p, method="kd"):
    """F2: (a) the verdict bucket loses at least half a point; (b) seeds agree on which groups gain, on other examples."""
    bucket = verdict_bucket(p)
    result = interval(*p.gain(method).map(bucket_mean(p, bucket)))
    harmed = result.high < 0 and result.estimate <= HARM
    holds = "yes" if harmed else "no" if result.low > HARM else "open"
    a = Part(f"{p.bucket_names[bucket]} loses", holds,
             f"in the {p.bucket_names[bucket]} bucket it changes accuracy by {with_p(result)}", result)
    half = _halves(p.group)
    gains = p.right(method).astype(float) - p.right("one_hot")
    here, there = (_observed(gains[:, part], p.group[part], len(p.group_names)) for part in (half, ~half))
    covariance, value = agreement_elsewhere(here, there)
    agree = "yes" if value < 0.05 else "open"
    said = "needs two seeds" if np.isnan(value) else f"covariance {number(1e4 * covariance, 'points²', 2)}, p = {value:.3f}"
    return [a, Part("seeds agree on the classes", agree, f"agreement of seeds on which classes gain: {said}")]


def _halves(group):
    """(N,) bool: a fixed random half of each group's examples."""
    rng = np.random.default_rng(0)
    half = np.zeros(len(group), dtype=bool)
    for g in np.unique(group):
        members = rng.permutation(np.flatnonzero(group == g))
        half[members[: len(members) // 2]] = True
    return half


def _observed(values, group, groups):
    """(S, N) -> (S, G) means."""
    n = np.bincount(group, minlength=groups)
    return np.array([np.bincount(group, weights=row, minlength=groups) / n for row in values])


def others(values):
    """(S, G) -> (S, G): for each seed the mean over the other seeds."""
    return (values.sum(axis=0) - values) / (len(values) - 1)


def transferred_and_amplified(p, method="kd"):
    """F3: (a) gain follows the margin of other seeds' teachers; (b) the teacher's wrong label is copied more often than by
    the placebo; (c) in self-distillation, errors beyond the teacher's gather in its weakest fifth of groups."""
    reference = "placebo" if method != "placebo" else "one_hot"
    if p.seeds < 2:
        return [Part("margin predicts gain", "open", "the margin of other seeds' teachers needs two seeds")]
    result = interval(*p.gain(method).map(lambda gain: rank_correlation(others(p.teacher_margin()), gain)))
    parts = [Part("margin predicts gain", above(result), "rank correlation of teacher margin and gain: "
                  + told(result, "", 2), result, "", 2)]
    copied = interval(*(copied_share(p, method) - copied_share(p, reference)))
    parts.append(Part("teacher errors are copied", above(copied), "where the teacher is wrong, rate of its wrong label, "
                      f"{name_of(method)} minus {name_of(reference)}: {told(copied)}", copied))
    if p.pair[0] == p.pair[1]:
        mine, its = (amplification(p, m) for m in (method, reference))
        own, more = interval(*mine), interval(*(mine - its))
        holds = "yes" if above(own) == above(more) == "yes" else "no" if "no" in (above(own), above(more)) else "open"
        parts.append(Part("errors are amplified", holds, "error beyond the teacher's, weakest fifth of classes minus the rest: "
                          f"{told(own)}; more than {name_of(reference)}: {told(more)}", more))
    return parts


def copied_share(p, method):
    """Per cent of the teacher's errors (classes weigh alike) where the student gives the same wrong label: GroupMeans (S,)."""
    teacher = p.predicted("teacher")
    wrong = teacher != p.y
    copies = p.means(wrong & (p.predicted(method) == teacher)).map(average)
    return 100 * (copies / p.means(wrong).map(average))


def amplification(p, method):
    """(student error - teacher error), weakest fifth of groups minus the rest, in points: GroupMeans (S,).

    Weakest on val by the teachers of the other seeds."""
    accuracy = others(p.val_accuracy("teacher"))
    k = int(np.ceil(accuracy.shape[1] / 5))
    weak = np.argsort(np.argsort(accuracy, axis=1, kind="stable"), axis=1) < k
    excess = p.accuracy("teacher") - p.accuracy(method)
    return excess.map(lambda e: (e * weak).sum(axis=-1) / k - (e * ~weak).sum(axis=-1) / (e.shape[-1] - k))


def mitigated(p, method):
    """F4: (a) average not below kd by 1 point; (b) verdict bucket above kd; (c) verdict bucket not below one_hot by 1.5."""
    bucket = verdict_bucket(p)
    name = p.bucket_names[bucket]
    a = interval(*p.gain(method, "kd").map(average))
    b = interval(*p.gain(method, "kd").map(bucket_mean(p, bucket)))
    c = interval(*p.gain(method).map(bucket_mean(p, bucket)))
    return [Part("keeps the average", non_inferior(a, AVERAGE_MARGIN), f"average against distillation {told(a)}", a),
            Part(f"lifts the {name} bucket", above(b), f"{name} bucket against distillation {with_p(b)}", b),
            Part(f"spares the {name} bucket", non_inferior(c, BUCKET_MARGIN), f"{name} bucket against one-hot {told(c)}", c)]


# ---------------------------------------------------------------- verdicts

def verdict_word(parts, seeds, reconstructed=False):
    """The verdict of a finding from its parts. A reconstructed method is never "contradicted"."""
    held = [part.holds for part in parts]
    if seeds < 2:
        return "not testable"
    if all(h == "yes" for h in held):
        return "reproduced"
    if "yes" in held:
        return "partly reproduced"
    return ("not reproduced" if reconstructed else "contradicted") if "no" in held else "inconclusive"


def _card(p, finding, claim, parts, reconstructed=False, word=None):
    word = word or verdict_word(parts, p.seeds, reconstructed)
    sentence = "; ".join(part.sentence for part in parts) + "."
    if word == "partly reproduced":
        yes = ", ".join(part.label for part in parts if part.holds == "yes")
        rest = ", ".join(f"{part.label} ({'no' if part.holds == 'no' else 'open'})" for part in parts if part.holds != "yes")
        sentence = f"Holds: {yes}; does not or is open: {rest}. " + sentence[0].upper() + sentence[1:]
    elif word == "inconclusive" and np.isfinite(parts[0].detectable):
        sentence += (f" The smallest effect that this study would find (\"{parts[0].label}\"): "
                     f"{parts[0].detectable:.1f} {parts[0].unit}".rstrip() + ".")
    return {"study": p.study.name, "finding": finding, "pair": p.name, "claim": claim, "verdict": word,
            "sentence": sentence[0].upper() + sentence[1:], "preliminary": p.seeds < p.study.seeds,
            "seeds": p.seeds, "planned": p.study.seeds,
            "parts": parts}


def _on_the_floor(p, finding):
    floor = Part("floor", "open", "one-hot is below 5 % on val in every bucket: nothing can be harmed")
    return _card(p, finding, CLAIMS[finding], [floor], word="not testable")


def pair_verdicts(p):
    """The cards of one Panel: F1, F2, F3 and F4 for each mitigation."""
    average_card = _card(p, "F1", CLAIMS["F1"], helps_on_average(p))
    if verdict_bucket(p) is None:
        return [average_card, *(_on_the_floor(p, f) for f in ("F2", "F3", "F4"))]
    cards = [average_card, _card(p, "F2", CLAIMS["F2"], not_uniform(p)),
             _card(p, "F3", CLAIMS["F3"], transferred_and_amplified(p))]
    for method in p.study.methods:
        if method.startswith("ada_"):
            cards.append(_card(p, f"F4 {name_of(method)}", CLAIMS["F4"], mitigated(p, method), reconstructed=True))
    return cards


def placebo_verdicts(p):
    """Every rule run on the placebo in place of distillation or of the mitigation.

    F1 to F3 should not be reproduced; F4 may be, where distillation itself neither helps on average nor lifts the bucket."""
    rules = {"F1": helps_on_average, "F2": not_uniform, "F3": transferred_and_amplified, "F4": mitigated}
    floor = verdict_bucket(p) is None
    return [_on_the_floor(p, f) if floor and f != "F1" else _card(p, f, CLAIMS[f], rule(p, "placebo"))
            for f, rule in rules.items()]


def short(cards):
    """Verdict cards as a DataFrame: finding, pair, verdict, numbers."""
    import pandas as pd
    return pd.DataFrame([{"finding": c["finding"], "pair": c["pair"], "verdict": c["verdict"], "numbers": c["sentence"]}
                         for c in cards])


def complete_seeds(name):
    """How many first seeds of a study have all their records; 0 to the planned number."""
    done = 0
    while done < study(name).seeds and all(map(records.exists, study(name)(done + 1))):
        done += 1
    return done


def some_seeds(name):
    """complete_seeds, of which there must be one: else KdlibError saying how to get it."""
    if not (done := complete_seeds(name)):
        raise KdlibError(f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them.")
    return done


def at_hand():
    """The names of the studies with verdicts and a complete seed on record."""
    return [name for name, s in STUDIES.items() if s.kind == "findings" and complete_seeds(name)]


def panels(name, seeds=None):
    """The Panels of a study, one per setting and pair, over the first `seeds` (default: all that are complete)."""
    seeds, chosen = seeds or some_seeds(name), study(name)
    return [panel(chosen, pair, seeds, setting=setting) for setting in chosen.settings for pair in chosen.pairs]


def verdicts(name, seeds=None):
    """Verdict cards of a study: a list of dictionaries for the report's index, pair by pair. Empty unless its kind is "findings":
    everything else is sensitivity."""
    return [] if study(name).kind != "findings" else [card for p in panels(name, seeds) for card in pair_verdicts(p)]

