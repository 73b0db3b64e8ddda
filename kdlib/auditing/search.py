"""A search for the subgroups that lost most, in a table of what is known of each example.

A slice is a condition on one column (a value of it, or a range of its numbers) or two conditions on
two columns. One half of the examples, drawn within each class, ranks all slices of at least
max(10, 0.5 %) of its examples: by the sum of (gain of the example - gain of everybody) over the
root of the sum of its squares. For n examples that is about sqrt(n) (mean of the slice - mean of
all) / spread, the quality of Klösgen (1996, Explora), which trades size and loss as a test would;
Chung et al. (2019, Slice Finder) search the errors of models so. Everybody's gain is taken off, or
where a student loses everywhere the largest slices would come first. Two conditions must do better
than each of them alone. From the lowest on, at most 20 slices are kept that lost, also on the
examples of no slice kept before (sequential covering, as in Lavrač et al. 2004, CN2-SD): else the
list would be one subgroup and its shadows.

The other half, which had no part in the choice, then tests these few as an audit tests groups
(significance.change), at a false discovery rate of 5 % among them. Only its gains are free of the
luck of having been picked.

The table must hold what was known before the predictions: a column made of them finds itself.
S students, N examples, M conditions.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.auditing.halves import halves_of
from kdlib.auditing.slices import conditions_of, least
from kdlib.auditing.tables import CHANGED
from kdlib.config import count_of
from kdlib.evidence.resample import Groups
from kdlib.evidence.significance import called, gain_of
from kdlib.evidence.words import number
from kdlib.reading.names import COMPUTED, plain
from kdlib.reading.sentences import listed, printable

MOST_IN_PAIRS = 500  # conditions that are combined: those that lost most by themselves
KEPT = 20  # slices that are tested on the other half
LOOKED_AT = 2000  # slices, lowest first, among which these are found
SCORE = -2.0  # as a z: what lost less is not kept
NEWS = -1.0  # as a z, on the examples of no slice that was kept before: what lost less is no news
BETTER = 1e-3  # by which two conditions must beat each alone: above rounding
CHUNK = 8192  # examples counted at once
COLUMNS = ["subgroup", "n", "n_scored", "gain", "low", "high", "p", "q", "finding"]
COLUMNS += ["others", "gain_found"]


def search(found, y, right, w, seed=0):
    """(DataFrame, sentences): subgroups that lost most, and how they were found.

    found: the Source of the table. y (N,) int64: classes. right: {role: (S, N) bool}. w (N,):
    weights.

    One row for each slice that was kept: subgroup in words; n examples, n_scored of them in the
    half that scores; of that half gain with low and high, p, q, finding, and the gain of all other
    examples; gain_found, of the half that found it, which is partly luck. Gains are in points, over
    the baseline, else the teacher.
    """
    conditions, passed_over = conditions_of(found)
    half = halves_of(Groups.of(y, range(y.max() + 1)), len(y), seed)
    reference = "baseline" if "baseline" in right else "teacher"
    d = right["student"].mean(axis=0) - right[reference].mean(axis=0)
    first, other = (np.flatnonzero(half == side) for side in (0, 1))
    kept = []
    compared = 0
    if len(conditions.words):
        kept, compared = _kept(conditions, d, w, first)
    table = _tested(conditions, kept, right, reference, w, (first, other))
    return table, _how(found, conditions, compared, table, len(first), passed_over)


def without_outputs(found, answers):
    """The Source of a table without the columns that are outputs of a model, or computed of them.

    answers: {role: [Answers]}; their files may be the table's own."""
    own = set()
    for a in itertools.chain(*answers.values()):
        if found.sha256 and a.source.sha256 == found.sha256:
            own |= {name for name in a.source.columns if name != a.own_labels}
            own |= {name for name in found.columns if plain(name) in COMPUTED}
    if own:
        found.note(f"Not searched, as they are outputs of the models: {listed(sorted(own))}.")
    return replace(found, columns={k: v for k, v in found.columns.items() if k not in own})


# ---------------------------------------------------------------- one half finds


def _kept(conditions, d, w, first):
    """([conditions of each slice that is kept], how many slices were compared)."""
    deviation = w[first] * (d[first] - np.average(d[first], weights=w[first]))
    slices, scores, compared = _candidates(conditions, deviation, first)
    kept = []
    new = np.ones(len(first), dtype=bool)  # examples of no slice that was kept
    for k in np.argsort(scores, kind="stable")[:LOOKED_AT]:
        if scores[k] > SCORE or len(kept) == KEPT:
            break
        mine = conditions.members(slices[k])[first]
        lost = (w * d)[first][mine].sum() < 0
        if lost and _score_of(deviation[mine & new]) <= NEWS:
            kept.append(slices[k])
            new &= ~mine
    return kept, compared


def _candidates(conditions, deviation, first):
    """([conditions of a slice], their scores, how many slices were compared)."""
    fewest = least(len(first))
    alone = _alone(conditions, deviation, first, fewest)
    single = np.flatnonzero(np.isfinite(alone))
    lowest = single[np.argsort(alone[single], kind="stable")]
    paired = np.sort(lowest[:MOST_IN_PAIRS])
    n, score = _pairs(conditions, paired, deviation, first)
    apart = conditions.column[paired][:, None] < conditions.column[paired]
    large = apart & (n >= fewest)
    better = score < np.minimum.outer(alone[paired], alone[paired]) - BETTER
    i, j = np.nonzero(large & better)
    slices = [(k,) for k in single]
    slices += zip(paired[i], paired[j], strict=True)
    return slices, np.r_[alone[single], score[i, j]], len(single) + int(large.sum())


def _alone(conditions, deviation, first, fewest):
    """(M,) scores of single conditions; inf where too few examples fulfil one."""
    scores = np.full(len(conditions.words), np.inf)
    for k in range(len(scores)):
        mine = conditions.members([k])[first]
        if mine.sum() >= fewest:
            scores[k] = _score_of(deviation[mine])
    return scores


def _pairs(conditions, some, deviation, first):
    """(n, score), both (m, m): of each two among some conditions."""
    sums = np.zeros((3, len(some), len(some)))
    values = np.float32([np.ones(len(first)), deviation, deviation**2])
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        inside = conditions.hold(some, first[part]).astype(np.float32)
        for total, value in zip(sums, values[:, part], strict=True):
            total += (inside * value) @ inside.T
    return sums[0], _score(sums[1], sums[2])


def _score(total, squares):
    return np.where(squares > 0, total / np.sqrt(np.maximum(squares, 1e-300)), 0.0)


def _score_of(deviation):
    return _score(deviation.sum(), (deviation**2).sum())


# ---------------------------------------------------------------- the other half tests


def _tested(conditions, kept, right, reference, w, halves):
    """DataFrame as search returns it, from the slices that were kept: harmed first."""
    first, other = halves
    inside = np.array([conditions.members(parts) for parts in kept]).reshape(len(kept), len(w))
    heavy = (w * inside)[:, other].any(axis=1)  # of no weight in this half: nothing to test
    if not heavy.any():
        return pd.DataFrame(columns=COLUMNS)
    inside = inside[heavy]
    kept = [parts for parts, some in zip(kept, heavy, strict=True) if some]
    names = [" and ".join(conditions.words[k] for k in parts) for parts in kept]
    scored = _gains(names, inside, right, w, other)
    rest = _gains(names, ~inside, right, w, other)
    finding = _gains(names, inside, right, w, first)
    table = pd.DataFrame(
        {
            "subgroup": names,
            "n": inside.sum(axis=1),
            "n_scored": inside[:, other].sum(axis=1),
            "gain": 100 * scored.estimate,
            "low": 100 * scored.low,
            "high": 100 * scored.high,
            "p": scored.p,
            "q": scored.q,
            "finding": called(scored.estimate, scored.q, CHANGED[reference]),
            "others": 100 * rest.estimate,
            "gain_found": 100 * finding.estimate,
        }
    )
    order = table.assign(last=table.finding != CHANGED[reference][0])
    order = order.sort_values(["last", "gain"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _gains(names, inside, right, w, examples):
    """The Change of slices, inside (G, N) bool, on some examples: as of the groups of an audit."""
    group, example = np.nonzero(inside[:, examples])
    members = Groups(tuple(names), example, group)
    of = {role: values[:, examples] for role, values in right.items()}
    return gain_of(of, members, w[examples])


# ---------------------------------------------------------------- in words


def _how(found, conditions, compared, table, n, passed_over):
    """Sentences on what was searched and how."""
    used = len(conditions.codes)
    columns = count_of(used, "column")
    how = [
        f"In one half of the examples ({n:,}, drawn at random within each class), {compared:,} "
        f"subgroups of at least {least(n):,} examples were compared: conditions on {columns} of "
        f"{printable(Path(found.name).name)}, and pairs of them.",
        f"Those that lost most compared with everybody ({len(table)}, without any that only repeat "
        "another) were then tested on the other half, which had no part in the choice. "
        "Gains, intervals and findings, at a false discovery rate of 5 %, come from that half.",
    ]
    if not len(table):
        how[1] = "None of them lost enough there to be tested on the other half."
    if passed_over:
        why = "; ".join(f"{listed(columns)} ({why})" for why, columns in passed_over.items())
        how.append(f"Columns left out: {why}.")
    return tuple(how)


def confirmed(table):
    """How many subgroups are harmed, or worse than the teacher, on the half that tests, too."""
    return int(table.finding.isin([lost for lost, _ in CHANGED.values()]).sum())


def told_subgroups(table, lost):
    """What a search found, as one sentence; lost: what its subgroups are called."""
    harmed = table.head(confirmed(table))
    if not len(harmed):
        return f"A search found no subgroup that other examples confirm as {lost}."
    most = "; ".join(
        f"{printable(r.subgroup)} ({number(r.gain)})" for r in harmed.head(3).itertuples()
    )
    them = "subgroup that is" if len(harmed) == 1 else "subgroups that are"
    return (
        f"A search found {len(harmed)} {them} {lost}, confirmed on examples that had no part in "
        f"the search: {most}."
    )
