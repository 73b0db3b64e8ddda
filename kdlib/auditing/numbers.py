"""The numbers of an audit: gains by group, tests, resampled statistics, transfer, calibration.

Axes: S seeds, N examples, G groups, B resamples, K quantities averaged by group, L averaged over
all examples. Groups may overlap and examples have weights; see groups.Groups.
"""

import functools
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from kdlib.evidence.metrics import BUCKETS, CELLS, buckets, calibration_error
from kdlib.evidence.stats import (
    Interval,
    borrowed,
    false_discovery,
    fisher,
    from_fisher,
    interval,
    lenders,
    rank_correlation,
    redraws,
    shrunk_variances,
)
from kdlib.study.records import Predictions

# thirds of the groups by the teacher's margin
MARGIN_BUCKETS = ("teacher strong", "teacher middling", "teacher weak")
PAIRED = {  # (teacher right, student right): name, where there is no baseline
    (True, True): "both right",
    (True, False): "student lost it",
    (False, True): "student surpassed",
    (False, False): "both wrong",
}
FEWEST = 3  # groups, below which nothing is picked or ranked
MANY = 1e9  # degrees of freedom where only examples are resampled
ROOM = 3e7  # numbers held at once while resampling
LEAST_EFFECTIVE = 1.25  # examples, where one weighs nearly all
CORRELATION = "margin_gain_correlation"
WHOLE = ("overall_gain", "copied_excess", "share: ")  # averages over all examples alike


def numbers(
    y, found, classes, members, w, counts=None, edges=(100, 20), k=1, resamples=1000, seed=0
):
    """{field: value} of an audit.Audit.

    y: labels (N,). found: {role: [Outputs, one per seed or one for all]}. classes: how many.
    members: Groups. w: weights (N,). counts (G,): training examples, for the buckets, cut at edges.
    k: of the worst-k metrics. seed: of the resamples and halves.
    """
    seeds = max(map(len, found.values()))
    # one that is alone stands for all seeds
    many = {role: of if len(of) > 1 else list(of) * seeds for role, of in found.items()}
    scored = {role: all(x.scored for x in of) for role, of in many.items()}
    predicted = {role: np.array([x.predicted for x in of]) for role, of in many.items()}  # (S, N)
    right = {role: values == y for role, values in predicted.items()}
    reference = "baseline" if "baseline" in many else "teacher"
    d = right["student"].astype(float) - right[reference]
    margin = np.array([_margin(x, y, classes) for x in many["teacher"]])
    groups = _group_table(d, right, margin, many, scored, members, w, counts)
    groups["bucket"] = _bucket_names(groups, counts, edges)
    totals = _totals(predicted, right)
    statistics = functools.partial(
        _statistics,
        roles=tuple(right),
        reference=reference,
        totals=tuple(totals),
        k=k,
        bucket=None if counts is None else buckets(counts, edges),
    )
    values = np.array([*right.values(), margin], dtype=np.float32)
    shares = np.array([*totals.values()], dtype=np.float32)
    results = _resample(statistics, values, shares, members, w, resamples, seed)
    calibration = _calibration(many, right, scored, y, groups, members, w)
    whole = calibration[calibration.place == "all"].set_index("role")
    metrics = {name: r for name, r in results.items() if ": " not in name}
    for what in ("harmed", "helped"):
        metrics[f"groups_{what}"] = int((groups.finding == what).sum())
    for role in [role for role in many if scored[role]]:
        for what in ("calibration_error", "log_loss"):
            metrics[f"{role}_{what}"] = float(whole[what][role])
    by = "training examples" if counts is not None else "the teacher's margin"
    return {
        "reference": reference,
        "scored": scored,
        "n": len(y),
        "seeds": seeds,
        "disjoint": members.disjoint,
        "metrics": metrics,
        "groups": groups,
        "buckets": _bucket_table(results, groups),
        "transfer": _transfer_table(results, totals),
        "calibration": calibration,
        "worst": k,
        "bucketed_by": by,
        "limits": _limits(found, scored, seeds, reference, members, groups, counts),
    }


def _margin(x, y, classes):
    """gamma_avg of the label (losses.margin), (N,), of one Outputs.

    Where only classes are known, as if the teacher were certain of them.
    """
    p = np.exp(x.log_p_label) if x.scored else (x.predicted == y).astype(float)
    return (classes * p - 1) / (classes - 1)


def mean_and_interval(values, members, w, pseudo):
    """Weighted mean of values in each group, with its 95 % interval.

    values (S, N), in [-1, 1]. Returns (estimate, low, high, se, df, t), each (G,). t is the
    interval's centre over se, so that it is beyond its 95 % quantile where the interval excludes 0.

    One seed: over new examples, by Agresti and Min (2005, Statistics in Medicine 24): `pseudo` = 1
    adds half an example to each of the four outcomes of two models, else intervals of small groups
    are too narrow, and empty where nobody differs. More seeds: also over new seeds, two-way as
    stats.interval, the variance over seeds shrunk (stats.shrunk_variances). Weights count by Kish's
    effective number of examples.
    """
    from scipy.special import stdtrit

    seeds = len(values)
    total = members.sums(w)
    n = total**2 / members.sums(w**2)
    n_more = n + 2 * pseudo

    def mean(v):
        return members.sums(w * v) / total

    def variance(v, m):  # of the mean m, over examples, with 2 * pseudo examples more
        m = m * n / n_more
        second = (mean(v**2) * n + pseudo) / n_more
        divisor = n_more if pseudo else n - 1
        with np.errstate(invalid="ignore", divide="ignore"):  # of one example: unknown
            return np.where(n + pseudo > 1, np.maximum(second - m**2, 0) / divisor, np.nan)

    each = mean(values)
    estimate = each.mean(axis=0)
    centre = estimate * n / n_more
    by_example = variance(values.mean(axis=0), estimate)
    if seeds == 1:
        total_variance, df = by_example, np.full(len(n), MANY)
    else:
        shrunk, df_seeds = shrunk_variances(each)
        by_seed = np.nan_to_num(shrunk) / seeds
        single = np.mean([variance(v, m) for v, m in zip(values, each, strict=True)], axis=0)
        in_both = np.maximum(0, (single - by_example) / (seeds - 1))
        total_variance = np.maximum(by_seed + by_example - in_both, np.maximum(by_seed, by_example))
        added = np.maximum(0, by_example - in_both)
        if not np.isfinite(df_seeds):
            df_seeds = 1
        with np.errstate(invalid="ignore", divide="ignore"):
            df = total_variance**2 / (by_seed**2 / df_seeds + added**2 / (n + 1))
        df = np.where(np.isfinite(df), df, MANY)
    se = np.sqrt(total_variance)
    half = stdtrit(df, 0.975) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(se > 0, centre / se, 0.0)
    return estimate, np.maximum(centre - half, -1), np.minimum(centre + half, 1), se, df, t


def _p_values(d, t, df, members, w):
    """Two-sided p of no change, (G,), from differences d (S, N).

    One seed: McNemar's exact mid-p, weighted the z of sign flips; else t of the interval.
    """
    from scipy.special import bdtr, ndtr, stdtr

    if len(d) > 1:
        return 2 * stdtr(df, -np.abs(t))
    d = d[0]
    if np.ptp(w) == 0:
        up = members.sums((d > 0).astype(int))
        down = members.sums((d < 0).astype(int))
        fewer = np.minimum(up, down)
        at_most = bdtr(fewer, up + down, 0.5)
        below = np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), up + down, 0.5), 0)
        return np.minimum(at_most + below, 1)
    spread = np.sqrt(members.sums((w * d) ** 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(members.sums(w * d) / spread)
        return np.where(spread > 0, 2 * ndtr(-z), 1.0)


def _group_table(d, right, margin, many, scored, members, w, counts):
    """DataFrame with one row per group, in their order."""
    from scipy.special import stdtrit

    total = members.sums(w)

    def mean(values):  # (S, N) -> (G,)
        return (members.sums(w * values) / total).mean(axis=0)

    gain, low, high, se, df, t = mean_and_interval(d, members, w, 1)
    of_margin, margin_low, margin_high, *_ = mean_and_interval(margin, members, w, 0)
    p = _p_values(d, t, df, members, w)
    q = false_discovery(p)
    if counts is None:
        counts = pd.array([None] * len(q), dtype="Int64")
    differs = np.where(gain < 0, "harmed", "helped")
    with_scores = {role: of for role, of in many.items() if scored[role]}
    log_losses, overconfidences = {}, {}
    for role, of in with_scores.items():
        log_losses[f"{role}_log_loss"] = mean(np.array([-x.log_p_label for x in of]))
        excess = np.exp([x.log_p_predicted for x in of]) - right[role]
        overconfidences[f"{role}_overconfidence"] = 100 * mean(excess)
    return pd.DataFrame(
        {
            "group": members.names,
            "n": members.sums(np.ones(len(w), int)),
            "n_train": counts,
            **{role: 100 * mean(of) for role, of in right.items()},
            "gain": 100 * gain,
            "low": 100 * low,
            "high": 100 * high,
            "p": p,
            "q": q,
            "finding": np.where(q <= 0.05, differs, "no clear difference"),
            "detectable": 100 * (stdtrit(df, 0.975) + stdtrit(df, 0.8)) * se,
            "teacher_margin": of_margin,
            "margin_low": margin_low,
            "margin_high": margin_high,
            "ada_alpha": np.clip(of_margin, 0, 1),
            **log_losses,
            **overconfidences,
        }
    )


def _bucket_names(table, counts, edges):
    """Name of the bucket of each group, (G,), or one for all."""
    if counts is not None:
        return np.array(BUCKETS)[buckets(counts, edges)]
    if len(table) < FEWEST:
        return "all"
    return np.array(MARGIN_BUCKETS)[_thirds(table.teacher_margin.to_numpy())]


def _thirds(margin):
    """(..., G) -> (..., G) index into MARGIN_BUCKETS; a group without a margin comes last."""
    margin = np.where(np.isnan(margin), -np.inf, margin)
    order = np.argsort(-margin, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    return rank * 3 // margin.shape[-1]


def _totals(predicted, right):
    """{name: (S, N)} of what is averaged over all examples alike."""
    wrong = ~right["teacher"]
    out = {"wrong": wrong}
    for role in [r for r in ("student", "baseline") if r in right]:
        out[f"{role} copies"] = wrong & (predicted[role] == predicted["teacher"])
    out |= {f"right: {role}": of for role, of in right.items()}
    if "baseline" in right:
        code = 4 * right["teacher"].astype(int) + 2 * right["baseline"] + right["student"]
        for (t, b, s), name in CELLS.items():
            out[f"share: {name}"] = code == 4 * t + 2 * b + s
    else:
        for (t, s), name in PAIRED.items():
            out[f"share: {name}"] = (right["teacher"] == t) & (right["student"] == s)
    return out


def _statistics(means, weight, totals_mean, *, roles, reference, bucket, k, totals):
    """{name: (..., S)} of every statistic that is resampled.

    means (..., K, S, 2, G): of the halves of groups, the roles in order, then the margin. weight
    (..., 1, 2, G): of those halves. totals_mean (..., L, S): of the quantities that totals names.
    bucket (G,): index of each group's; None: thirds by the margin. k of the worst-k metrics.
    """
    of = dict(zip((*roles, "margin"), np.moveaxis(means, -4, 0), strict=True))
    whole = {name: _over_halves(value, weight) for name, value in of.items()}
    at = dict(zip(totals, np.moveaxis(totals_mean, -2, 0), strict=True))
    out = {}
    for role in roles:
        out[f"{role}_accuracy"] = 100 * at[f"right: {role}"]
        out[f"{role}_average"] = 100 * np.nanmean(whole[role], axis=-1)
        out[f"{role}_worst_k"] = 100 * _lowest(of[role], k)
        out[f"{role}_worst_k_same"] = 100 * _mean_of_lowest(whole[role], k)
    gain = of["student"] - of[reference]
    whole_gain = whole["student"] - whole[reference]
    out["overall_gain"] = out["student_accuracy"] - out[f"{reference}_accuracy"]
    out["average_gain"] = 100 * np.nanmean(whole_gain, axis=-1)
    if whole_gain.shape[-1] >= FEWEST:
        out["worst_k_gain"] = 100 * _lowest(gain, k)
        if bucket is None:
            names, thirds = MARGIN_BUCKETS, _thirds(of["margin"])
            crossed = gain[..., ::-1, :]  # of the half that did not choose the thirds
            by_half = [_where(crossed, thirds == b) for b in range(len(names))]
            by = [np.nanmean(value, axis=-1) for value in by_half]
        else:
            used = [b for b in range(len(BUCKETS)) if (bucket == b).any()]
            names = [BUCKETS[b] for b in used]
            by_half = [_where(gain, bucket == b) for b in used]
            by = [_where(whole_gain, bucket == b) for b in used]
        out |= {f"gain: {name}": 100 * value for name, value in zip(names, by, strict=True)}
        out["worst_bucket_gain"] = 100 * _lowest(np.stack(by_half, axis=-1), 1)
        halves = [_rank_correlation(of["margin"][..., h, :], gain[..., 1 - h, :]) for h in (0, 1)]
        out[CORRELATION] = np.mean(halves, axis=0)
    for role in [role for role in roles if f"{role} copies" in at]:
        with np.errstate(invalid="ignore", divide="ignore"):
            out[f"{role}_copies"] = 100 * at[f"{role} copies"] / at["wrong"]
    if "baseline_copies" in out:
        out["copied_excess"] = out["student_copies"] - out["baseline_copies"]
    return out | {name: 100 * share for name, share in at.items() if name.startswith("share: ")}


def _over_halves(mean, weight):
    """(..., 2, G) means and weights of halves -> (..., G) means of the whole.

    A half without examples counts for nothing.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.nan_to_num(mean) * weight).sum(axis=-2) / weight.sum(axis=-2)


def _where(values, chosen):
    """Mean over the chosen of the trailing axis; NaN does not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = chosen & ~np.isnan(values)
        return np.where(kept, values, 0).sum(axis=-1) / kept.sum(axis=-1)


def _lowest(halves, k):
    """Mean of the k groups that are lowest on one half, scored on the other, both ways.

    (..., 2, G) -> (...).
    """
    full = np.where(np.isnan(halves), np.inf, halves)
    picks = np.argpartition(full, k - 1, axis=-1)[..., :k]
    scored = np.take_along_axis(halves[..., ::-1, :], picks, axis=-1)
    return np.nanmean(np.nanmean(scored, axis=-1), axis=-1)


def _mean_of_lowest(values, k):
    """Mean of the k lowest of the trailing axis, NaN last: (..., G) -> (...)."""
    full = np.where(np.isnan(values), np.inf, values)
    return np.nanmean(np.partition(full, k - 1, axis=-1)[..., :k], axis=-1)


def _rank_correlation(a, b):
    """stats.rank_correlation over the trailing axis: (..., G), (..., G) -> (...).

    Where there is NaN, each slice alone, so that a group that one resample left empty is not lost
    to all.
    """
    if not (np.isnan(a).any() or np.isnan(b).any()):
        return rank_correlation(a, b)
    slices = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), strict=True)
    return np.array([rank_correlation(x, z) for x, z in slices]).reshape(a.shape[:-1])


def halves_of(members, n, seed):
    """(N,) int64, 0 or 1: a random half of the examples of each group.

    Where groups overlap, of each combination of them.
    """
    rng = np.random.default_rng(seed)
    # a random number for each group; the sums over an example's groups tell combinations apart
    code = np.zeros(n)
    np.add.at(code, members.example, rng.random(len(members.names))[members.group])
    order = np.lexsort((rng.random(n), code))
    half = np.empty(n, dtype=np.int64)
    half[order] = np.arange(n) % 2
    return half


def _resample(statistics, values, totals, members, w, resamples, seed):
    """{name: Interval} of statistics(means, weight, totals) over resamples of the examples.

    values (K, S, N) are averaged by group: their examples are redrawn within it, and groups of one
    example borrow (stats.borrowed). totals (L, S, N) are averaged over all examples, which are
    redrawn among all; so are the former where groups overlap.

    A resampled mean is the observed one plus the mean of (count - 1) * (value - mean): the same as
    the mean of what was drawn where weights are alike, and stable where they are not.
    """
    from scipy.sparse import csr_matrix

    k, seeds, n = values.shape
    size = len(members.names)
    half = halves_of(members, n, seed)
    cell = half[members.example] * size + members.group
    cells = csr_matrix((w[members.example], (cell, members.example)), shape=(2 * size, n))
    weight = (cells @ np.ones(n)).reshape(2, size)
    strata = [np.arange(n)]
    if members.disjoint:
        strata = np.split(members.example, np.flatnonzero(np.diff(members.group)) + 1)
    lonely = [g for g, one in enumerate(strata) if len(one) == 1] if members.disjoint else []
    alone = np.array([strata[g][0] for g in lonely], dtype=np.int64)
    of_alone, place = values[..., alone], (half[alone], lonely)
    within = _excess(strata, n, w, resamples, seed)
    among = within
    if members.disjoint:
        among = _excess([np.arange(n)], n, w, resamples, seed + 1)
    lender = lenders(seed, len(alone), resamples) if len(alone) > 1 else None

    def summed(excess):
        """(b, K, S, 2, G): sums over the halves of groups of weight * excess * value."""
        sums = np.stack([[cells @ (excess * v[:, None]) for v in of_seeds] for of_seeds in values])
        return np.moveaxis(sums, -1, 0).reshape(-1, k, seeds, 2, size)

    share = totals @ w / w.sum()  # (L, S)
    total = summed(np.ones((n, 1)))
    with np.errstate(invalid="ignore"):  # an empty half
        mean = total / weight
    whole = (total.sum(axis=-2) / weight.sum(axis=0))[..., None, :]

    def redrawn(part):
        """{name: (b, S)} of a slice of the resamples."""
        excess, everywhere = within(part), among(part)
        beyond = (cells @ excess).T.reshape(-1, 1, 1, 2, size)
        means = mean + (summed(excess) - whole * beyond) / weight
        if lender is not None:
            means[:, :, :, *place] = borrowed(of_alone, lender[part])
        beyond = (w @ everywhere)[:, None, None]
        summed_shares = np.moveaxis((totals * w) @ everywhere, -1, 0)
        return statistics(means, weight, share + (summed_shares - share * beyond) / w.sum())

    with np.errstate(all="ignore"), _quiet():
        observed = {name: v[0] for name, v in statistics(mean, weight, share[None]).items()}
        step = max(1, int(ROOM / max(n, 2 * size * k * seeds)))
        parts = [redrawn(slice(start, start + step)) for start in range(0, resamples, step)]
    resampled = {name: np.concatenate([part[name] for part in parts]) for name in observed}
    df = _degrees([w[one] for one in strata])
    df_whole = max(1.0, effective_number(w) - 1)
    found = {}
    for name, value in observed.items():
        over_all = name.startswith(WHOLE) or name.endswith(("_accuracy", "_copies"))
        found[name] = _interval(name, value, resampled[name], df_whole if over_all else df)
    return found


def effective_number(w):
    """Kish's effective number of examples: as many with equal weights vary as much."""
    return w.sum() ** 2 / (w**2).sum()


def _degrees(weights):
    """Satterthwaite's degrees of freedom of a mean over groups, from the weights of each, (n,).

    Groups of one example have those of one group, of which they are the examples."""
    n = np.array([effective_number(w) for w in weights])
    lonely = np.sum(n == 1)
    n = np.maximum(n[n > 1], LEAST_EFFECTIVE)
    scatter = (n**-2 / (n - 1)).sum() + (lonely**2 / (lonely - 1) if lonely > 1 else 0)
    return max(1.0, (lonely + (1 / n).sum()) ** 2 / scatter) if scatter else 1.0


def _excess(strata, n, w, resamples, seed):
    """Function of a slice of the resamples: how much more than once each holds each example.

    (N, b) float. Examples are redrawn within each of the strata, index arrays; those of none, or
    alone in one, are always held once. Rescaled (Rao and Wu 1988), so that the mean of a stratum
    varies as that of its effective number of examples does.
    """
    counts = np.ones((n, resamples), dtype=np.uint8)
    drawn, scale = np.ones((2, n, 1))
    for k, stratum in enumerate(strata):
        size = len(stratum)
        if size == 1:
            continue
        counts[stratum] = redraws(seed, k, size, resamples).T
        drawn[stratum] = size / (size - 1)
        effective = max(effective_number(w[stratum]), LEAST_EFFECTIVE)
        scale[stratum] = np.sqrt(effective / (effective - 1) * (size - 1) / size)

    return lambda part: scale * (drawn * counts[:, part].astype(np.float64) - 1)


def _quiet():
    # mean of nothing: NaN, which is meant
    return warnings.catch_warnings(action="ignore", category=RuntimeWarning)


def _interval(name, observed, resampled, df):
    """stats.interval of observed (S,) and resampled (B, S); of one seed, over new examples alone.

    It stays where the statistic can be. Resamples without a value do not count. df: degrees of
    freedom of one seed.
    """
    if name == CORRELATION:
        return from_fisher(_unbounded(fisher(observed), fisher(resampled), df))
    found = _unbounded(observed, resampled, df)
    lowest = -100 if "gain" in name or name == "copied_excess" else 0
    low, high = np.clip([found.low, found.high], lowest, 100).tolist()
    return replace(found, low=low, high=high)


def _unbounded(observed, resampled, df):
    from scipy.special import stdtrit

    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    if len(observed) > 1 or len(resampled) < 100 or not np.isfinite(observed).all():
        if not len(resampled):
            resampled = np.full((2, len(observed)), np.nan)
        return interval(observed, resampled)
    estimate, se = float(observed[0]), float(resampled.std(ddof=1))
    half = float(stdtrit(df, 0.975)) * se
    bias = float(resampled.mean()) - estimate
    return Interval(estimate, estimate - half, estimate + half, se, df, bias, 1, (estimate,))


# ---------------------------------------------------------------- tables


def _bucket_table(results, table):
    """DataFrame with one row per bucket: its number of groups, gain, interval, gain per seed."""
    sizes = table.bucket.value_counts()
    rows = []
    for name in [name for name in results if name.startswith("gain: ")]:
        bucket, r = name.removeprefix("gain: "), results[name]
        size = int(sizes.get(bucket, 0))
        rows.append((bucket, size, r.estimate, r.low, r.high, r.detectable, r.per_seed))
    columns = ["bucket", "groups", "gain", "low", "high", "detectable", "per_seed"]
    return pd.DataFrame(rows, columns=columns)


def _transfer_table(results, totals):
    """DataFrame with one row per outcome: who was right, how often over all seeds, its share."""
    says = {True: "right", False: "wrong"}
    outcomes = {
        name: dict(zip(("teacher", "baseline", "student"), who, strict=True))
        for who, name in CELLS.items()
    }
    outcomes |= {
        name: dict(zip(("teacher", "student"), who, strict=True)) for who, name in PAIRED.items()
    }
    rows = []
    for name in [name for name in results if name.startswith("share: ")]:
        outcome, r = name.removeprefix("share: "), results[name]
        rows.append(
            {
                "outcome": outcome,
                **{role: says[was] for role, was in outcomes[outcome].items()},
                "count": int(totals[name].sum()),
                "share": r.estimate,
                "low": r.low,
                "high": r.high,
            }
        )
    return pd.DataFrame(rows)


def _calibration(many, right, scored, y, table, members, w):
    """DataFrame with one row per place, all or a bucket, and role with scores.

    Accuracy, confidence, their difference, calibration error, log-loss.
    """
    places = {"all": np.ones(len(y), bool)}
    for name in [b for b in (*BUCKETS, *MARGIN_BUCKETS) if (table.bucket == b).any()]:
        in_bucket = (table.bucket == name).to_numpy()
        places[name] = np.zeros(len(y), bool)
        places[name][members.example[in_bucket[members.group]]] = True
    columns = [
        "place",
        "role",
        "accuracy",
        "confidence",
        "overconfidence",
        "calibration_error",
        "log_loss",
    ]
    rows = []
    for place, inside in places.items():
        part = w[inside] / w[inside].sum()
        labels = y[inside]
        for role in [role for role in many if scored[role]]:
            errors = []
            for x in many[role]:
                log_p = np.column_stack([x.log_p_label, x.log_p_predicted, x.log_p_predicted])
                # calibration_error asks neither for the group nor for the runner-up
                p = Predictions(labels, labels, x.predicted[inside], log_p[inside])
                errors.append(calibration_error(p, part)[0])
            confidence = np.mean([np.exp(x.log_p_predicted[inside]) @ part for x in many[role]])
            accuracy = (right[role][:, inside] @ part).mean()
            rows.append(
                {
                    "place": place,
                    "role": role,
                    "accuracy": 100 * accuracy,
                    "confidence": 100 * confidence,
                    "overconfidence": 100 * (confidence - accuracy),
                    "calibration_error": 100 * np.mean(errors),
                    "log_loss": np.mean([-x.log_p_label[inside] @ part for x in many[role]]),
                }
            )
    return pd.DataFrame(rows, columns=columns)


def _limits(found, scored, seeds, reference, members, table, counts):
    """Sentences: what an audit of these inputs cannot say."""
    out = []
    if seeds == 1:
        out.append(
            "One seed: intervals cover new test examples of this one pair of models, not another "
            "training run; a difference may be the luck of this run."
        )
    elif seeds < 4:
        out.append(
            f"{seeds} seeds: the spread over training runs is known poorly, so intervals are wide."
        )
    for role, of in found.items():
        if len(of) < seeds:
            out.append(
                f"One {role} stands for all {seeds} seeds, so its own luck is not in the intervals."
            )
    if reference == "teacher":
        out.append(
            "No baseline: gains are over the teacher, so they mix what distillation did with what "
            "the smaller network cannot do; the same network trained without a teacher would tell "
            "the two apart."
        )
    blind = [role for role in scored if not scored[role]]
    if blind:
        also = ", and a margin and alpha from hits and misses" if "teacher" in blind else ""
        out.append(
            f"Only predicted classes of {' and '.join(blind)}: "
            f"no calibration or log-loss there{also}."
        )
    if not members.disjoint:
        out.append(
            "Groups overlap: examples were redrawn among all, and an example counts in each of its "
            "groups."
        )
    if counts is None and len(table) >= FEWEST:
        out.append(
            "Buckets are thirds of the groups by the teacher's margin, chosen on one half of the "
            "examples and scored on the other, both ways round."
        )
    if small := int((table.n < 10).sum()):
        out.append(
            f"{small} of {len(table)} groups have fewer than 10 examples: "
            "only large changes can be seen there."
        )
    out.append(
        "The examples must be new to teacher and student: on its training examples a teacher's "
        "margin is near 1 and says nothing."
    )
    return tuple(out)
