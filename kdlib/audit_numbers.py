"""The numbers of an audit: gains by group with intervals, tests, resampled statistics, transfer, calibration.

Axes: S seeds, N examples, G groups, B resamples, K quantities averaged by group, L averaged over all examples. Groups may overlap
and examples have weights; see audit_files.Groups."""

import functools
import warnings

import numpy as np
import pandas as pd

from kdlib.metrics import BUCKETS, CELLS, buckets, calibration_error
from kdlib.records import Predictions
from kdlib.stats import Interval, false_discovery, interval, rank_correlation, redraws, shrunk_variances

MARGIN_BUCKETS = ("teacher strong", "teacher middling", "teacher weak")   # thirds of the groups by the teacher's margin
PAIRED = {(True, True): "both right", (True, False): "student lost it", (False, True): "student surpassed",
          (False, False): "both wrong"}   # (teacher right, student right): name, where there is no baseline
FEWEST = 3      # groups, below which nothing is picked or ranked
MANY = 1e9      # degrees of freedom where only examples are resampled
ROOM = 3e7      # numbers held at once while resampling


def numbers(y, found, classes, members, w, counts=None, edges=(100, 20), k=1, resamples=1000, seed=0):
    """{field: value} of an auditing.Audit from labels (N,), {role: [Outputs, one per seed or one for all]}, Groups, weights (N,).

    counts (G,): training examples, for the buckets. k of the worst-k metrics. seed: of the resamples and halves."""
    seeds = max(map(len, found.values()))
    many = {role: [of[min(s, len(of) - 1)] for s in range(seeds)] for role, of in found.items()}   # one stands for all
    scored = {role: all(x.scored for x in of) for role, of in many.items()}
    predicted = {role: np.array([x.predicted for x in of]) for role, of in many.items()}           # (S, N)
    right = {role: values == y for role, values in predicted.items()}
    reference = "baseline" if "baseline" in many else "teacher"
    d = right["student"].astype(float) - right[reference]
    margin = np.array([_margin(x, y, classes) for x in many["teacher"]])
    groups = _group_table(d, right, margin, many, scored, members, w, counts)
    groups["bucket"] = _bucket_names(groups, counts, edges)
    totals = _totals(predicted, right)
    statistics = functools.partial(_statistics, roles=tuple(right), reference=reference, totals=tuple(totals), k=k,
                                   bucket=None if counts is None else buckets(counts, edges))
    values, shares = (np.array(list(x), dtype=np.float32) for x in ([*right.values(), margin], totals.values()))
    results = _resample(statistics, values, shares, members, w, resamples, seed)
    if gains := [r for name, r in results.items() if name.startswith("gain: ") and np.isfinite(r.estimate)]:
        results["worst_bucket_gain"] = min(gains, key=lambda r: r.estimate)
    calibration = _calibration(many, right, scored, y, groups, members, w)
    whole = calibration[calibration.place == "all"].set_index("role")
    metrics = {name: r for name, r in results.items() if ": " not in name}
    metrics |= {f"groups_{what}": int((groups.finding == what).sum()) for what in ("harmed", "helped")}
    metrics |= {f"{role}_{what}": float(whole[what][role]) for role in many if scored[role]
                for what in ("calibration_error", "log_loss")}
    by = "training examples" if counts is not None else "the teacher's margin"
    return {"reference": reference, "scored": scored, "n": len(y), "seeds": seeds, "disjoint": members.disjoint,
            "metrics": metrics, "groups": groups, "buckets": _bucket_table(results, groups),
            "transfer": _transfer_table(results, totals), "calibration": calibration, "worst": k, "bucketed_by": by,
            "limits": _limits(found, scored, seeds, reference, members, groups, counts)}


def _margin(x, y, classes):
    """gamma_avg of the label (losses.margin), (N,); where only classes are known, as if the teacher were certain of them."""
    p = np.exp(x.log_p_label) if x.scored else (x.predicted == y).astype(float)
    return (classes * p - 1) / (classes - 1)


def mean_and_interval(values, members, w, pseudo):
    """Weighted mean of values (S, N) in [-1, 1] in each group, and 95 % interval: (estimate, low, high, se, df, t), each (G,).

    t: the interval's centre over se, so that it is beyond its 95 % quantile where the interval excludes 0.

    One seed: over new examples, by Agresti and Min (2005, Statistics in Medicine 24): `pseudo` = 1 adds half an example to
    each of the four outcomes of two models, else intervals of small groups are too narrow, and empty where nobody differs. More
    seeds: also over new seeds, two-way as stats.interval, the variance over seeds shrunk (stats.shrunk_variances). Weights
    count by Kish's effective number of examples."""
    seeds, total = len(values), members.sums(w)
    n = total**2 / members.sums(w**2)

    def mean(v):
        return members.sums(w * v) / total

    def variance(v, m):   # of the mean, over examples, with 2 * pseudo examples more
        m, second = m * n / (n + 2 * pseudo), (mean(v**2) * n + pseudo) / (n + 2 * pseudo)
        with np.errstate(invalid="ignore", divide="ignore"):   # of one example: unknown
            return np.where(n + pseudo > 1, np.maximum(second - m**2, 0) / (n + (2 * pseudo or -1)), np.nan)

    each = mean(values)
    estimate = each.mean(axis=0)
    centre = estimate * n / (n + 2 * pseudo)
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
        with np.errstate(invalid="ignore", divide="ignore"):
            df = total_variance**2 / (by_seed**2 / (df_seeds if np.isfinite(df_seeds) else 1) + added**2 / (n + 1))
        df = np.where(np.isfinite(df), df, MANY)
    se = np.sqrt(total_variance)
    from scipy.special import stdtrit
    half = stdtrit(df, 0.975) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(se > 0, centre / se, 0.0)
    return estimate, np.maximum(centre - half, -1), np.minimum(centre + half, 1), se, df, t


def _p_values(d, t, df, members, w):
    """Two-sided p of no change, (G,). One seed: McNemar's exact mid-p, weighted the z of sign flips; else t of the interval."""
    from scipy.special import bdtr, ndtr, stdtr
    if len(d) > 1:
        return 2 * stdtr(df, -np.abs(t))
    d = d[0]
    if np.ptp(w) == 0:
        up, down = members.sums((d > 0).astype(int)), members.sums((d < 0).astype(int))
        fewer = np.minimum(up, down)
        p = bdtr(fewer, up + down, 0.5) + np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), up + down, 0.5), 0)
        return np.minimum(p, 1)
    spread = np.sqrt(members.sums((w * d) ** 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, 2 * ndtr(-np.abs(members.sums(w * d) / spread)), 1.0)


def _group_table(d, right, margin, many, scored, members, w, counts):
    """DataFrame with one row per group, in their order."""
    from scipy.special import stdtrit
    total = members.sums(w)

    def mean(values):   # (S, N) -> (G,)
        return (members.sums(w * values) / total).mean(axis=0)

    gain, low, high, se, df, t = mean_and_interval(d, members, w, 1)
    of_margin, margin_low, margin_high, *_ = mean_and_interval(margin, members, w, 0)
    p = _p_values(d, t, df, members, w)
    q = false_discovery(p)
    frame = pd.DataFrame({
        "group": members.names, "n": members.sums(np.ones(len(w), int)),
        "n_train": counts if counts is not None else pd.array([None] * len(q), dtype="Int64"),
        **{role: 100 * mean(of) for role, of in right.items()},
        "gain": 100 * gain, "low": 100 * low, "high": 100 * high, "p": p, "q": q,
        "finding": np.where(q <= 0.05, np.where(gain < 0, "harmed", "helped"), "no clear difference"),
        "detectable": 100 * (stdtrit(df, 0.975) + stdtrit(df, 0.8)) * se,
        "teacher_margin": of_margin, "margin_low": margin_low, "margin_high": margin_high,
        "ada_alpha": np.clip(of_margin, 0, 1),
        **{f"{role}_log_loss": mean(np.array([-x.log_p_label for x in of])) for role, of in many.items() if scored[role]},
        **{f"{role}_overconfidence": 100 * mean(np.exp([x.log_p_predicted for x in of]) - right[role])
           for role, of in many.items() if scored[role]}})
    return frame


def _bucket_names(table, counts, edges):
    if counts is not None:
        return np.array(BUCKETS)[buckets(counts, edges)]
    if len(table) < FEWEST:
        return "all"
    return np.array(MARGIN_BUCKETS)[_thirds(table.teacher_margin.to_numpy())]


def _thirds(margin):
    """(..., G) -> (..., G) index into MARGIN_BUCKETS; a group without a margin comes last."""
    rank = np.argsort(np.argsort(-np.where(np.isnan(margin), -np.inf, margin), axis=-1, kind="stable"), axis=-1)
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
        out |= {f"share: {name}": code == 4 * t + 2 * o + s for (t, o, s), name in CELLS.items()}
    else:
        out |= {f"share: {name}": (right["teacher"] == t) & (right["student"] == s) for (t, s), name in PAIRED.items()}
    return out


def _statistics(means, weight, totals_mean, *, roles, reference, bucket, k, totals):
    """{name: (..., S)} from means (..., K, S, 2, G) of halves of groups, their weight (..., 1, 2, G), and totals (..., L, S)."""
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
            thirds = _thirds(of["margin"])
            crossed = gain[..., ::-1, :]   # of the half that did not choose
            by = {name: np.nanmean(_where(crossed, thirds == b), axis=-1) for b, name in enumerate(MARGIN_BUCKETS)}
        else:
            by = {name: _where(whole_gain, bucket == b) for b, name in enumerate(BUCKETS) if (bucket == b).any()}
        out |= {f"gain: {name}": 100 * value for name, value in by.items()}
        halves = [_rank_correlation(of["margin"][..., h, :], gain[..., 1 - h, :]) for h in (0, 1)]
        out["margin_gain_correlation"] = np.mean(halves, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        copies = {role: 100 * at[f"{role} copies"] / at["wrong"] for role in roles if f"{role} copies" in at}
    out |= {f"{role}_copies": share for role, share in copies.items()}
    if "baseline" in copies:
        out["copied_excess"] = copies["student"] - copies["baseline"]
    return out | {name: 100 * share for name, share in at.items() if name.startswith("share: ")}


def _over_halves(mean, weight):
    """(..., 2, G) means and weights of halves -> (..., G) means; a half without examples counts for nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.nan_to_num(mean) * weight).sum(axis=-2) / weight.sum(axis=-2)


def _where(values, chosen):
    """Mean over the chosen of the trailing axis; NaN does not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = chosen & ~np.isnan(values)
        return np.where(kept, values, 0).sum(axis=-1) / kept.sum(axis=-1)


def _lowest(halves, k):
    """Mean of the k groups that are lowest on one half, scored on the other, both ways: (..., 2, G) -> (...)."""
    full = np.where(np.isnan(halves), np.inf, halves)
    picks = np.argpartition(full, k - 1, axis=-1)[..., :k]
    scored = np.take_along_axis(halves[..., ::-1, :], picks, axis=-1)
    return np.nanmean(np.nanmean(scored, axis=-1), axis=-1)


def _mean_of_lowest(values, k):
    return np.nanmean(np.partition(np.where(np.isnan(values), np.inf, values), k - 1, axis=-1)[..., :k], axis=-1)


def _rank_correlation(a, b):
    """stats.rank_correlation of each slice alone, so that a group that one resample left empty is not lost to all."""
    if not (np.isnan(a).any() or np.isnan(b).any()):
        return rank_correlation(a, b)
    flat = [rank_correlation(x, z) for x, z in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), strict=True)]
    return np.array(flat).reshape(a.shape[:-1])


def halves_of(members, n, seed):
    """(N,) 0 or 1: a random half of the examples of each group, or of each combination of groups where they overlap."""
    rng = np.random.default_rng(seed)
    code = np.zeros(n)
    np.add.at(code, members.example, rng.random(len(members.names))[members.group])
    order = np.lexsort((rng.random(n), code))
    half = np.empty(n, dtype=np.int64)
    half[order] = np.arange(n) % 2
    return half


def _resample(statistics, values, totals, members, w, resamples, seed):
    """{name: Interval} of statistics(means, weight, totals) over resamples of the examples: values (K, S, N), totals (L, S, N).

    Examples are redrawn within their group; where groups overlap, among all."""
    from scipy.sparse import csr_matrix
    k, seeds, n = values.shape
    size = len(members.names)
    cell = halves_of(members, n, seed)[members.example] * size + members.group
    cells = csr_matrix((w[members.example], (cell, members.example)), shape=(2 * size, n))

    def apply(counts):   # (N, b)
        weight = (cells @ counts).T.reshape(-1, 2, size)
        sums = np.stack([[cells @ (counts * of[:, None]) for of in seed_values] for seed_values in values])   # (K, S, 2G, b)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.moveaxis(sums, -1, 0).reshape(-1, k, seeds, 2, size) / weight[:, None, None]
        weighted = w @ counts
        shares = np.moveaxis((totals * w) @ counts / weighted, -1, 0)                                         # (b, L, S)
        return statistics(means, weight[:, None], shares)

    def chunks(b):
        strata = np.split(members.example, np.flatnonzero(np.diff(members.group)) + 1) if members.disjoint else []
        rest = np.setdiff1d(np.arange(n), members.example) if members.disjoint else np.arange(n)
        counts = np.empty((n, resamples), dtype=np.uint8)
        for g, stratum in enumerate([*strata, rest]):
            if len(stratum):
                counts[stratum] = redraws(seed, g, len(stratum), resamples).T
        for start in range(0, resamples, b):
            yield apply(counts[:, start:start + b].astype(np.float64))

    with np.errstate(all="ignore"), _quiet():
        observed = {name: value[0] for name, value in apply(np.ones((n, 1))).items()}
        parts = list(chunks(max(1, int(ROOM / max(n, 2 * size * k * seeds)))))
    return {name: _interval(observed[name], np.concatenate([part[name] for part in parts])) for name in observed}


def _quiet():
    return warnings.catch_warnings(action="ignore", category=RuntimeWarning)   # mean of nothing: NaN, which is meant


def _interval(observed, resampled):
    """stats.interval; with one seed, an Interval over new examples alone. Resamples without a value do not count."""
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    if len(observed) > 1 or len(resampled) < 100 or not np.isfinite(observed).all():
        return interval(observed, resampled if len(resampled) else np.full((2, len(observed)), np.nan))
    estimate, se = float(observed[0]), float(resampled.std(ddof=1))
    return Interval(estimate, estimate - 1.959964 * se, estimate + 1.959964 * se, se, MANY, float(resampled.mean()) - estimate, 1,
                    (estimate,))


# ---------------------------------------------------------------- tables

def _bucket_table(results, table):
    sizes = table.bucket.value_counts()
    gains = {key.removeprefix("gain: "): r for key, r in results.items() if key.startswith("gain: ")}
    return pd.DataFrame([{"bucket": name, "groups": int(sizes.get(name, 0)), "gain": r.estimate, "low": r.low, "high": r.high,
                          "detectable": r.detectable, "per_seed": r.per_seed} for name, r in gains.items()],
                        columns=["bucket", "groups", "gain", "low", "high", "detectable", "per_seed"])


def _transfer_table(results, totals):
    says = {True: "right", False: "wrong"}
    outcomes = {name: dict(zip(("teacher", "baseline", "student"), who, strict=True)) for who, name in CELLS.items()}
    outcomes |= {name: dict(zip(("teacher", "student"), who, strict=True)) for who, name in PAIRED.items()}
    shares = {key.removeprefix("share: "): r for key, r in results.items() if key.startswith("share: ")}
    return pd.DataFrame([{"outcome": name, **{role: says[was] for role, was in outcomes[name].items()},
                          "count": int(totals[f"share: {name}"].sum()), "share": r.estimate, "low": r.low, "high": r.high}
                         for name, r in shares.items()])


def _calibration(many, right, scored, y, table, members, w):
    """DataFrame: for all and each bucket, of each role with scores: accuracy, confidence, their difference, ECE, log-loss."""
    places = {"all": np.ones(len(y), bool)}
    for name in [b for b in (*BUCKETS, *MARGIN_BUCKETS) if (table.bucket == b).any()]:
        inside = np.zeros(len(y), bool)
        inside[members.example[(table.bucket == name).to_numpy()[members.group]]] = True
        places[name] = inside
    columns = ["place", "role", "accuracy", "confidence", "overconfidence", "calibration_error", "log_loss"]
    rows = []
    for place, inside in places.items():
        part, labels = w[inside] / w[inside].sum(), y[inside]
        for role in [role for role in many if scored[role]]:
            errors = []
            for x in many[role]:
                log_p = np.column_stack([x.log_p_label, x.log_p_predicted, x.log_p_predicted])[inside]
                errors.append(calibration_error(Predictions(labels, labels, x.predicted[inside], labels, log_p), part)[0])
            confidence = np.mean([np.exp(x.log_p_predicted[inside]) @ part for x in many[role]])
            accuracy = (right[role][:, inside] @ part).mean()
            rows.append({"place": place, "role": role, "accuracy": 100 * accuracy, "confidence": 100 * confidence,
                         "overconfidence": 100 * (confidence - accuracy), "calibration_error": 100 * np.mean(errors),
                         "log_loss": np.mean([-x.log_p_label[inside] @ part for x in many[role]])})
    return pd.DataFrame(rows, columns=columns)


def _limits(found, scored, seeds, reference, members, table, counts):
    """Sentences: what an audit of these inputs cannot say."""
    out = []
    if seeds == 1:
        out.append("One seed: intervals cover new test examples of this one pair of models, not another training run; a "
                   "difference may be the luck of this run.")
    elif seeds < 4:
        out.append(f"{seeds} seeds: the spread over training runs is known poorly, so intervals are wide.")
    for role, of in found.items():
        if len(of) < seeds:
            out.append(f"One {role} stands for all {seeds} seeds, so its own luck is not in the intervals.")
    if reference == "teacher":
        out.append("No baseline: gains are over the teacher, so they mix what distillation did with what the smaller network "
                   "cannot do; the same network trained without a teacher would tell the two apart.")
    blind = [role for role in scored if not scored[role]]
    if blind:
        out.append(f"Only predicted classes of {' and '.join(blind)}: no calibration or log-loss there" +
                   (", and a margin and alpha from hits and misses." if "teacher" in blind else "."))
    if not members.disjoint:
        out.append("Groups overlap: examples were redrawn among all, and an example counts in each of its groups.")
    if counts is None and len(table) >= FEWEST:
        out.append("Buckets are thirds of the groups by the teacher's margin, chosen on one half of the examples and scored on "
                   "the other, both ways round.")
    if small := int((table.n < 10).sum()):
        out.append(f"{small} of {len(table)} groups have fewer than 10 examples: only large changes can be seen there.")
    out.append("The examples must be new to teacher and student: on its training examples a teacher's margin is near 1 and says "
               "nothing.")
    return tuple(out)
