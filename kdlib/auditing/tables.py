"""The tables of an audit, and what it cannot say: a Compared in, DataFrames and sentences out."""

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.counts import (
    BUCKETS,
    CELLS,
    MARGIN_BUCKETS,
    PAIRED,
    alike,
    calibration_error,
    outcomes,
    thirds,
)
from kdlib.evidence.redraws import LEAST_SPREAD, effective_number
from kdlib.evidence.significance import called, change, gain_of
from kdlib.evidence.stats import interval

FEWEST = 3  # groups, below which nothing is picked or ranked
# what a group is called that changed, by what the student is compared with: only a baseline tells
# what distillation did
CHANGED = {"baseline": ("harmed", "helped"), "teacher": ("worse", "better")}


def group_table(of, train_counts, fixed):
    """DataFrame with one row per group, in their order; fixed (G,): bucket by training counts."""
    members, w, right = of.members, of.w, of.right
    total = members.sums(w)

    def mean(values):  # (S, N) -> (G,)
        return (members.sums(w * values) / total).mean(axis=0)

    gain = gain_of(right, members, w)
    margin = change(of.margin, members, w, pseudo=0)
    columns = {
        "group": members.names,
        "n": members.sums(np.ones(len(w), int)),
        "n_train": pd.array([None] * len(total), "Int64") if train_counts is None else train_counts,
        **{role: 100 * mean(of_role) for role, of_role in right.items()},
        "gain": 100 * gain.estimate,
        "low": 100 * gain.low,
        "high": 100 * gain.high,
        "p": gain.p,
        "q": gain.q,
        "finding": called(gain.estimate, gain.q, CHANGED[of.reference]),
        "detectable": 100 * gain.detectable,
        "teacher_margin": margin.estimate,
        "margin_low": margin.low,
        "margin_high": margin.high,
        "ada_alpha": np.clip(margin.estimate, 0, 1),
    }
    scored = [role for role, is_so in of.scored.items() if is_so]
    for role in scored:
        columns[f"{role}_log_loss"] = mean(np.array([-x.log_p_label for x in of.found[role]]))
    for role in scored:
        confidence = np.exp([x.log_p_predicted for x in of.found[role]])
        columns[f"{role}_overconfidence"] = 100 * mean(confidence - right[role])
    if fixed is not None:
        bucket = np.array(BUCKETS)[fixed]
    elif len(total) < FEWEST:
        bucket = "all"
    else:
        bucket = np.array(MARGIN_BUCKETS)[thirds(margin.estimate)]
    return pd.DataFrame(columns | {"bucket": bucket})


def bucket_table(gains, table):
    """DataFrame with one row per bucket: its number of groups, gain, interval, gain per seed."""
    sizes = table.bucket.value_counts()
    rows = [
        (name, int(sizes.get(name, 0)), r.estimate, r.low, r.high, r.detectable, r.per_seed)
        for name, r in gains.items()
    ]
    columns = ["bucket", "groups", "gain", "low", "high", "detectable", "per_seed"]
    return pd.DataFrame(rows, columns=columns)


def transfer_table(of):
    """DataFrame with one row per outcome: who was right, how often over all seeds, its share.

    Each student is compared with its own teacher and with the baseline at its place in the list;
    if there are fewer baselines, they are used again."""
    roles = ("teacher", "baseline", "student") if of.baselines else ("teacher", "student")
    rights = [np.resize(of.right[role], of.right["student"].shape) for role in roles]
    cells = CELLS if of.baselines else PAIRED
    found = outcomes(rights, of.averages, cells)
    # beside more students, baselines vary from one training run to the next as these do
    beside = of.baselines if of.baselines < of.seeds else 0
    rows = []
    for who, outcome in cells.items():
        count, share = found[outcome]
        r = interval(*share, beside, of.df).within(0, 100)
        said = {role: "right" if was else "wrong" for role, was in zip(roles, who, strict=True)}
        at = {"share": r.estimate, "low": r.low, "high": r.high}
        rows.append({"outcome": outcome, **said, "count": count, **at})
    return pd.DataFrame(rows)


def calibration(of, table):
    """DataFrame with one row per place and role with scores.

    Places: all examples alike, or the groups of a bucket alike. Accuracy, confidence, their
    difference, calibration error, log-loss."""
    places = {"all": of.w}
    for name in [b for b in (*BUCKETS, *MARGIN_BUCKETS) if (table.bucket == b).any()]:
        places[name] = alike(of.members, (table.bucket == name).to_numpy(), of.w)
    rows = []
    for place, weights in places.items():
        inside = np.flatnonzero(weights)
        part = weights[inside] / weights.sum()
        for role in [role for role, scored in of.scored.items() if scored]:
            means = []
            for x, right in zip(of.found[role], of.right[role], strict=True):
                confidence = np.exp(x.log_p_predicted[inside])
                error = calibration_error(confidence, right[inside], part)
                loss = -x.log_p_label[inside] @ part
                means.append((right[inside] @ part, confidence @ part, error, loss))
            accuracy, confidence, error, loss = np.mean(means, axis=0)
            over = 100 * (confidence - accuracy)
            rows.append((place, role, 100 * accuracy, 100 * confidence, over, 100 * error, loss))
    columns = ["place", "role", "accuracy", "confidence", "overconfidence", "calibration_error"]
    return pd.DataFrame(rows, columns=[*columns, "log_loss"])


def limits(of, table, metrics):
    """Sentences: what an audit of these inputs cannot say, beside headline.cautions."""
    return (
        *_limits_of_networks(of, metrics),
        *_limits_of_examples(of, table),
        "The examples must be new to the teacher and the student: on its training examples a "
        "teacher's margin is near 1 and says nothing.",
    )


def _limits_of_networks(of, metrics):
    if of.seeds == 1 and of.baselines > 1:
        yield (
            "One student: in gains, its spread over training runs is assumed to be that of the "
            "baselines; intervals of its own accuracy and of the outcomes cover new examples only."
        )
    if of.seeds == 3 and len(of.right[of.reference]) > 2:
        yield (
            "3 students: their spread over training runs is poorly known, so intervals are wide."
        )
    if len(of.members.names) >= FEWEST and not of.chosen_by_others:
        yield (
            "The groups that gain least are chosen on one half of the examples and scored on the "
            "other, but by the same networks: their gain is known for new examples with these "
            "networks, not for other networks."
        )
    if of.seeds > 1 and of.baselines == 1:
        yield (
            "One baseline: in gains and outcomes, its spread over training runs is assumed to be "
            "that of the students; the interval of its own accuracy covers new examples only."
        )
    if of.baselines and not np.isfinite(getattr(metrics.get("copied_excess"), "estimate", np.nan)):
        yield (
            "How many of the teacher's errors are copied beyond what accuracy explains is not "
            "known: baselines hardly err or give the teacher's own answers, or it never errs."
        )
    if of.seeds > len(of.found["teacher"]):
        yield (
            f"One teacher serves all {of.seeds} students, so the intervals do not include its own "
            "luck."
        )


def _limits_of_examples(of, table):
    blind = [role for role in of.scored if not of.scored[role]]
    if blind:
        also = ", and margin and alpha only reflect hits and misses" if "teacher" in blind else ""
        yield (
            f"Only predicted classes were given for {' and '.join(blind)}: "
            f"there is no calibration or log-loss{also}."
        )
    if effective_number(of.w) < LEAST_SPREAD:
        yield "One example carries nearly all weight, so overall accuracies have no interval."
    if not of.members.disjoint:
        yield (
            "Groups overlap: examples were resampled from all groups together, and an example "
            "counts in each of its groups."
        )
    if small := int((table.n < 10).sum()):
        yield (
            f"Fewer than 10 examples in {small} of {count_of(len(table), 'group')}: "
            "only large changes can be seen there."
        )
