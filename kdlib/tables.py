"""The table behind each figure: a Panel in, a DataFrame out. Every number on a page is in one of these."""

import numpy as np
import pandas as pd

from kdlib.findings import amplification, name_of, uses_extra_labels, copied_share
from kdlib.metrics import CELLS, average, bucket_mean, calibration_error, eight_cells
from kdlib.stats import false_discovery, interval, moderated_t, worst


def _row(result, **labels):
    return {**labels, "estimate": result.estimate, "low": result.low, "high": result.high, "detectable": result.detectable,
            "seeds": result.n, "per_seed": result.per_seed}


def _filled_buckets(p):
    return [(index, name) for index, name in enumerate(p.bucket_names) if (p.bucket == index).any()]


def gain_by_bucket(p, methods, over="one_hot"):
    """Gain of each method in points, on average and in each bucket: one row per (bucket, method)."""
    places = [("average", average), *((name, bucket_mean(p, index)) for index, name in _filled_buckets(p))]
    return pd.DataFrame([_row(interval(*p.gain(method, over).map(f)), bucket=place, method=name_of(method))
                         for place, f in places for method in methods])


def gain_by_group(p, method="kd"):
    """Gain of each group in points with its moderated t over seeds and FDR q; one row per group, most frequent first."""
    gain = p.gain(method).observed
    t, pvalue, _ = moderated_t(gain) if p.seeds > 1 else (*[np.full(gain.shape[1], np.nan)] * 2, np.nan)
    mean, q = gain.mean(axis=0), false_discovery(pvalue)
    frame = pd.DataFrame({
        "group": p.group_names, "n_train": p.train_counts, "bucket": [p.bucket_names[b] for b in p.bucket],
        "n_test": np.bincount(p.group, minlength=len(p.group_names)), "margin": p.teacher_margin().mean(axis=0),
        "one_hot": p.accuracy("one_hot").observed.mean(axis=0), "gain": mean,
        "spread": gain.std(axis=0, ddof=1) if p.seeds > 1 else np.nan, "t": t, "p": pvalue, "q": q,
        "finding": np.where(q <= 0.05, np.where(mean < 0, "harmed", "helped"), "no clear difference")})
    return frame.sort_values("n_train", ascending=False, kind="stable", ignore_index=True)


def copied_errors(p, methods):
    """Per cent of the teacher's errors where a method gives the same wrong label: one row per method."""
    return pd.DataFrame([_row(interval(*copied_share(p, m)), where="teacher wrong", method=name_of(m)) for m in methods])


def amplified_errors(p, methods):
    """(student error - teacher error), weakest fifth of groups minus the rest: one row per method.

    None but in self-distillation with two seeds or more: "beyond the teacher" needs the same network, "weakest" other seeds."""
    if p.pair[0] != p.pair[1] or p.seeds < 2:
        return None
    return pd.DataFrame([_row(interval(*amplification(p, m)), where="weakest fifth − rest", method=name_of(m)) for m in methods])


def cells(p, method="kd"):
    """The eight outcomes (teacher, one-hot, distilled right?) in per cent of test examples, classes weighing alike."""
    outcomes = [p.right(m) for m in ("teacher", "one_hot", method)]
    code = 4 * outcomes[0].astype(int) + 2 * outcomes[1] + outcomes[2]
    totals = eight_cells(*(o.ravel() for o in outcomes))
    rows = []
    for (teacher, one_hot, distilled), name in CELLS.items():
        share = 100 * p.means(code == 4 * teacher + 2 * one_hot + distilled)
        yes = {True: "right", False: "wrong"}
        rows.append({"outcome": name, "teacher": yes[teacher], "one-hot": yes[one_hot], name_of(method): yes[distilled],
                     "count": totals[name], **{k: v for k, v in _row(interval(*share.map(average))).items()
                                               if k in ("estimate", "low", "high")}})
    return pd.DataFrame(rows)


def accuracies(p, methods):
    """Accuracy in per cent: average, each bucket, worst-k: one row per method, "estimate ± half-width" as numbers."""
    places = {"average": average, **{name: bucket_mean(p, index) for index, name in _filled_buckets(p)},
              **{f"worst {k}": (lambda v, k=k: worst(v, k)) for k in p.study.worst}}
    rows = []
    for method in methods:
        row = {"method": name_of(method)}
        for place, f in places.items():
            result = interval(*p.accuracy(method).map(f))
            row[place] = f"{result.estimate:.1f}" + ("" if np.isnan(result.se) else f" ± {result.high - result.estimate:.1f}")
        rows.append(row)
    return pd.DataFrame(rows)


def calibration(p, methods):
    """Expected calibration error in per cent by bucket, per seed and mean: one row per (bucket, method).

    Over seeds only (t interval): the error of a bin is not a mean of examples."""
    rows = []
    for index, name in _filled_buckets(p):
        members = np.isin(p.group, np.flatnonzero(p.bucket == index))
        n = np.bincount(p.group)[p.group]
        for method in methods:
            per_seed = np.array([100 * calibration_error(x, members / n)[0] for x in p.predictions(method)])
            still = np.broadcast_to(per_seed, (2, p.seeds))   # no resampling: the interval covers new seeds only
            rows.append(_row(interval(per_seed, still), bucket=name, method=name_of(method)))
    return pd.DataFrame(rows)


def margins(p):
    """The teacher's margin of each group, held-out and on its training images, mean over seeds: what AdaAlpha would use."""
    of_train = np.mean([r.facts["teacher_margin_train"] for r in p.runs["kd"]], axis=0)
    frame = pd.DataFrame({"group": p.group_names, "n_train": p.train_counts, "bucket": [p.bucket_names[b] for b in p.bucket],
                          "held_out": p.teacher_margin().mean(axis=0), "on_training": of_train})
    return frame.sort_values("n_train", ascending=False, kind="stable", ignore_index=True)


def deviations(p):
    """What is not as in the paper or its re-run, from the Configs: one row per choice."""
    kd, ada = (p.runs[m][0].config for m in ("kd", "ada_alpha"))
    rows = [
        ("data", f"{p.study.name}: {p.study.about}",
         "CIFAR-100, CIFAR-10, their long-tailed versions, ImageNet (re-run: Wang et al. 2023)"),
        ("networks", f"{p.name}, {kd.epochs} epochs, batch {kd.batch_size}, learning rate {kd.lr:g}, {kd.decay} decay",
         "ResNet-56 to ResNet-56 or -32, 256 epochs on the long tail (re-run)"),
        ("softening", f"T = {kd.temperature:g}, {kd.soften}, alpha = {kd.alpha:g}",
         "T in {1, 3, 5} on the teacher's side only (re-run)"),
        ("AdaAlpha", f"alpha is the margin of the group on {ada.margin_source}, T = {ada.margin_temperature:g}",
         "formula not published in what we could read: reconstructed"),
        ("AdaMargin", f"reading {p.runs['ada_margin'][0].config.margin_reading}",
         "reconstructed; other readings are sensitivity"),
        ("extra labels", "AdaAlpha reads the labels of val for its margins", "not stated in what we could read"),
        ("seeds", f"{p.seeds} of {p.study.seeds} planned", "not stated in what we could read"),
    ]
    if p.study.demonstration:
        rows.insert(0, ("status", "a demonstration, not a reproduction", "–"))
    return pd.DataFrame(rows, columns=["choice", "here", "in the paper or its re-run"])
