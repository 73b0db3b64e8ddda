"""Whom did a distillation hurt? Anybody's labels, teacher and student in, gains by subgroup with intervals out. No torch.

    found = kdlib.audit("labels.npy", teacher="teacher.npz", student=["s0.npz", "s1.npz"], baseline=["b0.npz", "b1.npz"])
    found.groups         # DataFrame, one row per group
    found.save("audit.html")

Axes: S seeds, N examples, G groups, B resamples of the examples."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlib import __version__
from kdlib.audit_files import (AuditError, Groups, Source, check_rows, classes_of, coded, counts_of, groups_of, labels_of,
                               outputs, source, weights_of)
from kdlib.config import KdlibError, did_you_mean
from kdlib.metrics import BUCKETS, CELLS, buckets, calibration_error
from kdlib.records import Predictions
from kdlib.stats import Interval, false_discovery, interval, rank_correlation, redraws, shrunk_variances

MARGIN_BUCKETS = ("teacher strong", "teacher middling", "teacher weak")   # thirds of the groups by the teacher's margin
FEWEST = 3                # groups, below which nothing is picked or ranked
ROLES = ("teacher", "student", "baseline")
MANY = 1e9                # degrees of freedom where only examples are resampled
ROOM = 3e7                # numbers held at once while resampling


@dataclass(frozen=True)
class Audit:
    """What was found. Accuracies in per cent, gains in points over `reference`: the baseline, or the teacher if there is none."""

    reference: str
    scored: dict           # role: whether it gave scores, not only predicted classes
    n: int                 # examples
    seeds: int
    class_names: tuple
    disjoint: bool         # no example is in two groups
    metrics: dict          # name: Interval, or a number; see METRICS
    groups: object         # DataFrame, one row per group; see _group_table
    buckets: object        # DataFrame, one row per bucket: gain with interval
    transfer: object       # DataFrame, one row per outcome
    calibration: object    # DataFrame, one row per (place, role)
    worst: int             # k of the worst-k metrics
    bucketed_by: str
    inputs: tuple          # (role, name, sha256) of what was read
    limits: tuple          # sentences: what this audit cannot say

    @property
    def covers(self):
        """What the intervals speak of."""
        return "new test examples" if self.seeds == 1 else "new seeds and new test examples"

    def save(self, path):
        """Write path (HTML), and beside it the same as .json and the groups as .csv; the three paths."""
        from kdlib.audit_page import save
        return save(self, path)

    def _repr_html_(self):
        from kdlib.audit_page import glance
        return glance(self)


METRICS = {   # name: what it is; gains over the reference, in points
    "overall_gain": "accuracy of the student minus the reference's, every example alike",
    "average_gain": "the same, every group alike",
    "worst_bucket_gain": "gain in the bucket that gains least",
    "worst_k_gain": "gain of the k groups that gain least, chosen on the other half of the examples",
    "groups_harmed": "groups harmed at a false discovery rate of 5 %",
    "groups_helped": "groups helped at a false discovery rate of 5 %",
    "student_accuracy": "accuracy of the student, every example alike",
    "student_average": "accuracy of the student, every group alike",
    "student_worst_k": "accuracy in the student's k worst groups, chosen on the other half of the examples",
    "student_worst_k_same": "the same chosen on the examples that score it: too low",
    **{f"{role}_{what}": f"the same of the {role}" for role in ("teacher", "baseline")
       for what in ("accuracy", "average", "worst_k", "worst_k_same")},
    "margin_gain_correlation": "rank correlation over groups of the teacher's margin, on one half, and the gain, on the other",
    "student_copies": "per cent of the teacher's errors where the student gives the same wrong label",
    "baseline_copies": "per cent of the teacher's errors where the baseline gives the same wrong label",
    "copied_excess": "student_copies minus baseline_copies",
    **{f"{role}_calibration_error": f"expected calibration error of the {role}, per cent, 15 bins" for role in ROLES},
    **{f"{role}_log_loss": f"log-loss of the {role}, nats" for role in ROLES},
}


def audit(labels, teacher, student, baseline=None, groups=None, *, weights=None, train_counts=None, edges=(100, 20),
          classes=None, kind="auto", worst=None, resamples=1000, seed=0):
    """The Audit of a student and its teacher on examples that neither was trained on.

    Everything is a path (npz, npy, CSV, Parquet) or an array. labels (N,). teacher, student, baseline (the same network
    trained without a teacher): scores (N, C) or predicted classes (N,); lists of them, one per seed, are paired in order.
    groups: see audit_files.groups_of; by default the classes. weights (N,). train_counts: training examples of each group;
    with it, buckets are many (above edges[0]), medium and few (below edges[1]), else thirds of the groups by the teacher's
    margin. classes: their names, or a file of them. kind of the scores: auto, logits, probabilities, classes. worst: k,
    by default a tenth of the groups. KdlibError, in one sentence, for anything that cannot be used."""
    y, first = labels_of(labels)
    n = len(y)
    given = {role: [source(one, f"{role} {i}" if len(many) > 1 else role) for i, one in enumerate(many)]
             for role, many in (("teacher", _several(teacher)), ("student", _several(student)), ("baseline", _several(baseline)))}
    if not (given["teacher"] and given["student"]):
        raise AuditError("an audit needs a teacher and a student.")
    everything = [s for many in given.values() for s in many]
    with_ids = next((s for s in (first, *everything) if s.ids is not None), first)
    for s in everything:
        check_rows(s, n, first)
        check_rows(s, n, with_ids)
    names = classes_of(y, everything, classes)
    if len(names) < 2:
        raise AuditError(f"{first.name}: one class only; an audit needs two or more.")
    y = coded(y, names, first.name, "label")
    seeds = max(map(len, given.values()))
    for role, many in given.items():
        if len(many) not in (0, 1, seeds):
            raise AuditError(f"{role}: {len(many)} seeds, but there are {seeds} of another; give one for each seed, or only one.")
    found = {role: [outputs(s, y, names, kind) for s in many] for role, many in given.items() if many}
    w, weighed = weights_of(weights, n)
    if weighed:
        check_rows(weighed, n, first)
        check_rows(weighed, n, with_ids)
    if groups is not None and not isinstance(groups, Groups):
        groups = source(groups, "groups")
        check_rows(groups, n, first)
        check_rows(groups, n, with_ids)
    members = groups if isinstance(groups, Groups) else groups_of(groups, n, y, names)
    if not (heavy := members.sums(w) > 0).all():
        raise AuditError(f"{weighed.name}: all examples of group {members.names[int(np.argmin(heavy))]!r} have weight 0.")
    counts, counted = counts_of(train_counts, members) if train_counts is not None else (None, None)
    if counts is not None and not edges[0] >= edges[1] >= 0:
        raise AuditError(f"edges {tuple(edges)}: first more than how many training examples are many, then fewer than how many few.")
    k = worst or max(1, round(len(members.names) / 10))
    if not 1 <= k <= len(members.names):
        raise AuditError(f"worst {k}: must be from 1 to {len(members.names)}, the number of groups.")
    of_files = [("labels", first), *((role, s) for role, many in given.items() for s in many), ("groups", groups),
                ("weights", weighed), ("training counts", counted)]
    inputs = tuple((role, s.name, s.sha256) for role, s in of_files if isinstance(s, Source))
    return _audited(y, found, seeds, names, members, w, counts, edges, k, resamples, seed, inputs)


def _several(given):
    """A list with one entry per seed of what may be one input or a list of them."""
    if given is None:
        return []
    if isinstance(given, (list, tuple)) and given:
        files = all(isinstance(one, str) and Path(one).suffix in (".npz", ".npy", ".csv", ".parquet") for one in given)
        if files or all(isinstance(one, (Path, np.ndarray, dict, Source)) or hasattr(one, "columns") for one in given):
            return list(given)
    return [given]


def audit_study(name, pair=None, method="kd", seeds=None):
    """The Audit of a method of a study on record against its one-hot baseline, on all images that no run saw."""
    from kdlib.findings import complete_seeds
    from kdlib.metrics import panel
    from kdlib.studies import study
    chosen = study(name)
    pair = pair or "/".join(chosen.pairs[0])
    pairs = {"/".join(p): p for p in chosen.pairs}
    for what, value, known in (("pair", pair, pairs), ("method", method, chosen.methods)):
        if value not in known:
            raise KdlibError(f"study {name} has no {what} {value!r}: {did_you_mean(value, known)}")
    seeds = seeds or complete_seeds(name)
    if not seeds:
        raise KdlibError(f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them.")
    p = panel(chosen, pairs[pair], seeds)

    def columns(role):
        runs = p.teachers if role == "teacher" else p.runs[role]
        return [Source(run.config.key(), {"predicted": x.predicted, "log_p_label": x.log_p[:, 0], "log_p_predicted": x.log_p[:, 1]},
                       None, run.facts["weights_sha256"]) for run, x in zip(runs, p.predictions(role), strict=True)]

    names = tuple(p.teachers[0].facts["class_names"])
    return audit(Source(f"labels of {name}", {"": np.asarray(p.y)}, None), columns("teacher"), columns(method), columns("one_hot"),
                 groups_of({"": np.array(p.group_names)[p.group]}, len(p.y), p.y, names), classes=names,
                 train_counts={"group": np.array(p.group_names), "count": p.train_counts} if chosen.bucket_edges else None,
                 edges=chosen.bucket_edges or (100, 20))


# ---------------------------------------------------------------- the numbers

def _audited(y, found, seeds, names, members, w, counts, edges, k, resamples, seed, inputs):
    many = {role: [of[min(s, len(of) - 1)] for s in range(seeds)] for role, of in found.items()}   # one stands for all
    scored = {role: all(x.scored for x in of) for role, of in many.items()}
    predicted = {role: np.array([x.predicted for x in of]) for role, of in many.items()}           # (S, N)
    right = {role: values == y for role, values in predicted.items()}
    reference = "baseline" if "baseline" in many else "teacher"
    d = right["student"].astype(float) - right[reference]
    margin = np.array([_margin(x, y, len(names)) for x in many["teacher"]])
    table = _group_table(d, right, margin, many, scored, members, w, counts)
    table["bucket"] = _bucket_names(table, counts, edges)
    bucket = None if counts is None else buckets(counts, edges)
    totals = _totals(predicted, right, y, d)
    statistics = functools.partial(_statistics, roles=tuple(right), reference=reference, bucket=bucket, k=k, totals=tuple(totals))
    values = np.array([*right.values(), margin], dtype=np.float32)
    results = _resample(statistics, values, np.array(list(totals.values()), dtype=np.float32), members, w, resamples, seed)
    cells = {name: results.pop(name) for name in list(results) if name.startswith("share: ")}
    gains = {name: results.pop(name) for name in list(results) if name.startswith("gain: ")}
    calibration = _calibration(many, right, scored, y, table, members, w)
    whole = calibration[calibration.place == "all"].set_index("role")
    metrics = results | {f"groups_{what}": int((table.finding == what).sum()) for what in ("harmed", "helped")}
    metrics |= {f"{role}_{short}": float(whole[column][role]) for role in many if scored[role]
                for short, column in (("calibration_error", "calibration_error"), ("log_loss", "log_loss"))}
    return Audit(reference, scored, len(y), seeds, names, members.disjoint, {m: metrics[m] for m in METRICS if m in metrics}, table,
                 _bucket_table(gains, table), _transfer_table(cells, totals), calibration, k,
                 "training examples" if counts is not None else "the teacher's margin", inputs,
                 _limits(found, scored, seeds, reference, members, table, counts))


def _margin(x, y, classes):
    """gamma_avg of the label (losses.margin), (N,); where only classes are known, as if the teacher were certain of them."""
    p = np.exp(x.log_p_label) if x.scored else (x.predicted == y).astype(float)
    return (classes * p - 1) / (classes - 1)


def mean_and_interval(values, members, w, pseudo):
    """Weighted mean of values (S, N) in [-1, 1] in each group, and 95 % interval: (estimate, low, high, se, df), each (G,).

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
        return np.maximum(second - m**2, 0) / (n + 2 * pseudo if pseudo else np.maximum(n - 1, 1e-9))

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
    return estimate, np.maximum(centre - half, -1), np.minimum(centre + half, 1), se, df


def _p_values(d, estimate, se, df, members, w):
    """Two-sided p of no change, (G,). One seed: McNemar's exact mid-p, or with weights the sign-flip z; more: t of the interval."""
    from scipy.special import bdtr, ndtr, stdtr
    if len(d) > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(se > 0, 2 * stdtr(df, -np.abs(estimate / se)), 1.0)
    d = d[0]
    if np.ptp(w) == 0:
        up, down = members.sums((d > 0).astype(float)), members.sums((d < 0).astype(float))
        fewer = np.minimum(up, down)
        p = bdtr(fewer, up + down, 0.5) + np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), up + down, 0.5), 0)
        return np.where(up == down, 1.0, np.minimum(p, 1))
    spread = np.sqrt(members.sums((w * d) ** 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, 2 * ndtr(-np.abs(members.sums(w * d) / spread)), 1.0)


def _group_table(d, right, margin, many, scored, members, w, counts):
    """DataFrame with one row per group, harmed first: see the columns."""
    import pandas as pd
    from scipy.special import stdtrit
    total = members.sums(w)

    def mean(values):   # (S, N) -> (G,)
        return (members.sums(w * values) / total).mean(axis=0)

    gain, low, high, se, df = mean_and_interval(d, members, w, 1)
    of_margin, margin_low, margin_high, _, _ = mean_and_interval(margin, members, w, 0)
    p = _p_values(d, gain, se, df, members, w)
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


def _totals(predicted, right, y, d):
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


PAIRED = {(True, True): "both right", (True, False): "student lost it", (False, True): "student surpassed",
          (False, False): "both wrong"}   # (teacher right, student right): name, where there is no baseline


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
            by = {name: _where(crossed, thirds == b).mean(axis=-1) for b, name in enumerate(MARGIN_BUCKETS)}
        else:
            by = {name: _where(whole_gain, bucket == b) for b, name in enumerate(BUCKETS) if (bucket == b).any()}
        out |= {f"gain: {name}": 100 * value for name, value in by.items()}
        out["worst_bucket_gain"] = 100 * np.min(list(by.values()), axis=0)
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
        strata = [members.example[members.group == g] for g in range(size)] if members.disjoint else []
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
    import warnings
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

def _bucket_table(gains, table):
    import pandas as pd
    sizes = table.bucket.value_counts()
    return pd.DataFrame([{"bucket": (name := key.removeprefix("gain: ")), "groups": int(sizes.get(name, 0)), "gain": r.estimate,
                          "low": r.low, "high": r.high, "detectable": r.detectable, "per_seed": r.per_seed}
                         for key, r in gains.items()],
                        columns=["bucket", "groups", "gain", "low", "high", "detectable", "per_seed"])


def _transfer_table(cells, totals):
    import pandas as pd
    says = {True: "right", False: "wrong"}
    rows = []
    for key, result in cells.items():
        name = key.removeprefix("share: ")
        triple = next((t for t, cell in CELLS.items() if cell == name), None)
        who = dict(zip(("teacher", "baseline", "student"), triple, strict=True)) if triple else dict(
            zip(("teacher", "student"), next(t for t, cell in PAIRED.items() if cell == name), strict=True))
        rows.append({"outcome": name, **{role: says[was] for role, was in who.items()}, "count": int(totals[key].sum()),
                     "share": result.estimate, "low": result.low, "high": result.high})
    return pd.DataFrame(rows)


def _calibration(many, right, scored, y, table, members, w):
    """DataFrame: for all and each bucket, of each role with scores: accuracy, confidence, their difference, ECE, log-loss."""
    import pandas as pd
    places = {"all": np.ones(len(y), bool)}
    for name in dict.fromkeys(table.bucket) if table.bucket.nunique() > 1 else ():
        inside = np.zeros(len(y), bool)
        inside[members.example[(table.bucket == name).to_numpy()[members.group]]] = True
        places[name] = inside
    rows = []
    for place, inside in places.items():
        part = w[inside] / w[inside].sum()
        for role in [role for role in many if scored[role]]:
            errors = []
            for x in many[role]:
                log_p = np.column_stack([x.log_p_label, x.log_p_predicted, x.log_p_predicted])[inside]
                errors.append(calibration_error(Predictions(y[inside], y[inside], x.predicted[inside], y[inside], log_p), part)[0])
            confidence = np.mean([np.exp(x.log_p_predicted[inside]) @ part for x in many[role]])
            accuracy = (right[role][:, inside] @ part).mean()
            rows.append({"place": place, "role": role, "accuracy": 100 * accuracy, "confidence": 100 * confidence,
                         "overconfidence": 100 * (confidence - accuracy), "calibration_error": 100 * np.mean(errors),
                         "log_loss": np.mean([-x.log_p_label[inside] @ part for x in many[role]])})
    return pd.DataFrame(rows, columns=["place", "role", "accuracy", "confidence", "overconfidence", "calibration_error", "log_loss"])


def _limits(found, scored, seeds, reference, members, table, counts):
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
        out.append("No baseline: gains are over the teacher, so they mix what distillation did with what the smaller network cannot "
                   "do; the same network trained without a teacher would tell the two apart.")
    blind = [role for role in scored if not scored[role]]
    if blind:
        out.append(f"Only predicted classes of {' and '.join(blind)}: no calibration or log-loss there" +
                   (", and a margin and alpha from hits and misses." if "teacher" in blind else "."))
    if not members.disjoint:
        out.append("Groups overlap: examples were redrawn among all, and an example counts in each of its groups.")
    if counts is None and len(table) >= FEWEST:
        out.append("Buckets are thirds of the groups by the teacher's margin, chosen on one half of the examples and scored on the "
                   "other, both ways round.")
    small = int((table.n < 10).sum())
    if small:
        out.append(f"{small} of {len(table)} groups have fewer than 10 examples: only large changes can be seen there.")
    out.append("The examples must be new to teacher and student: on its training examples a teacher's margin is near 1 and says nothing.")
    return tuple(out)


# ---------------------------------------------------------------- conditions

def condition(text):
    """(metric, bound, comparison, number) of an expression such as "worst_bucket_gain < -2" or "average_gain.high < 0"."""
    match = re.fullmatch(r"\s*(\w+)(?:\.(low|high))?\s*(<=|>=|<|>)\s*([-−+]?\d+(?:\.\d+)?)\s*", text)
    if not match:
        raise KdlibError(f"--fail-if {text!r}: must be a metric, <, <=, > or >=, and a number, as in 'worst_bucket_gain < -2'.")
    name, bound, comparison, number = match.groups()
    if name not in METRICS:
        raise KdlibError(f"--fail-if {text!r}: {did_you_mean(name, METRICS)}")
    return name, bound or "estimate", comparison, float(number.replace("−", "-"))


def met(audited, text):
    """(whether a condition holds, the value it was asked of); KdlibError where this audit has no such value."""
    name, bound, comparison, number = condition(text)
    value = audited.metrics.get(name)
    if isinstance(value, Interval):
        value = getattr(value, bound)
    elif bound != "estimate" and value is not None:
        raise KdlibError(f"--fail-if {text!r}: {name} has no interval.")
    if value is None or not np.isfinite(value):
        raise KdlibError(f"--fail-if {text!r}: {name} is not known for these inputs; the page says why.")
    return {"<": value < number, "<=": value <= number, ">": value > number, ">=": value >= number}[comparison], float(value)


def facts(audited, conditions=()):
    """The Audit as a dictionary for JSON, as audit.schema.json describes it."""
    def plain(value):
        if isinstance(value, Interval):
            return {"estimate": plain(value.estimate), "low": plain(value.low), "high": plain(value.high),
                    "detectable": plain(value.detectable), "per_seed": [plain(v) for v in value.per_seed]}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (float, np.floating)):
            return float(value) if np.isfinite(value) else None
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return int(value)
        return value if isinstance(value, (str, bool)) else None

    def rows(frame):
        return [{k: plain(v) for k, v in zip(frame.columns, row, strict=True)} for row in frame.itertuples(index=False)]

    a = audited
    return {"schema": 1, "kdlib": __version__, "examples": a.n, "classes": len(a.class_names), "seeds": a.seeds, "reference": a.reference,
            "intervals_cover": a.covers, "groups_overlap": not a.disjoint, "buckets_by": a.bucketed_by, "worst_k": a.worst,
            "inputs": [{"role": role, "name": name, "sha256": sha or None} for role, name, sha in a.inputs],
            "metrics": {name: plain(value) for name, value in a.metrics.items()}, "groups": rows(a.groups), "buckets": rows(a.buckets),
            "transfer": rows(a.transfer), "calibration": rows(a.calibration), "limits": list(a.limits),
            "fail_if": [{"condition": text, "met": held, "value": value} for text, (held, value) in conditions]}
