"""The table behind each figure: a Panel in, a DataFrame out.

Every number on a page is in one of these."""

import functools

import numpy as np
import pandas as pd

from kdlib.evidence.counts import CELLS, calibration_error, outcomes
from kdlib.evidence.panel import table as every_run
from kdlib.evidence.rules import amplification, labels_read, weakest_fifth
from kdlib.evidence.significance import change
from kdlib.evidence.stats import interval, worst
from kdlib.evidence.words import number, p_value
from kdlib.methods import name_of
from kdlib.pages.anchors import WANG


def row_of(result, **labels):
    """An Interval as the columns every table of estimates has."""
    return {
        **labels,
        "estimate": result.estimate,
        "low": result.low,
        "high": result.high,
        "detectable": result.detectable,
        "seeds": result.n,
        "per_seed": result.per_seed,
    }


def over_seeds(per_seed):
    """Interval of numbers (S,) that are no means of examples.

    Without resampling, so it covers new seeds only."""
    return interval(per_seed, np.broadcast_to(per_seed, (2, len(per_seed))))


def filled_buckets(p):
    """[(index, name)] of the buckets with a group, most frequent first."""
    return [(index, name) for index, name in enumerate(p.bucket_names) if (p.bucket == index).any()]


def statistics(p):
    """{name: statistic over (..., G)} of the average and of each bucket."""
    return {
        name: functools.partial(np.dot, b=weights.mean(axis=0))
        for name, weights in p.places().items()
    }


def gain_by_bucket(p, methods, over="one_hot"):
    """Gain in points, on average and in each bucket: one row per (bucket, method)."""
    rows = []
    for place, weights in p.places().items():
        for method in methods:
            gain = p.gain(method, weights, over)
            rows.append(row_of(gain, bucket=place, method=name_of(method)))
    return pd.DataFrame(rows)


def gain_by_group(p, method="kd"):
    """Gain in points, its moderated t over networks and FDR q: one row per group.

    Most frequent first."""
    right, baseline = (p.predicted(m) == p.y for m in (method, "one_hot"))
    found = change(right, p.members, np.ones(len(p.y)), baseline)
    gain, tested = p.group_gain(method), p.seeds > 1  # one seed has no spread
    frame = pd.DataFrame(
        {
            "group": p.group_names,
            "n_train": p.train_counts,
            "bucket": [p.bucket_names[b] for b in p.bucket],
            "n_test": np.bincount(p.group, minlength=len(p.group_names)),
            "margin": p.margins.mean(axis=0),
            "one_hot": p.accuracy("one_hot").observed.mean(axis=0),
            "gain": gain.mean(axis=0),
            "low": 100 * found.low if tested else np.nan,
            "high": 100 * found.high if tested else np.nan,
            "spread": gain.std(axis=0, ddof=1) if tested else np.nan,
            "p": found.p if tested else np.nan,
            "q": found.q if tested else np.nan,
            "finding": found.finding if tested else "no clear difference",
        }
    )
    return frame.sort_values("n_train", ascending=False, kind="stable", ignore_index=True)


def copied_errors(p, methods):
    """Per cent of the teacher's errors with the same wrong label: one row per method.

    A student is compared with its own teacher; a baseline with the teachers of all seeds but
    itself, on average."""
    rows = []
    for method in methods:
        share = p.copied_by_pool()[1] if method == "one_hot" else p.copied_by_itself(method)
        rows.append(row_of(interval(*share), where="teacher wrong", method=name_of(method)))
    return pd.DataFrame(rows)


def amplified_errors(p, methods):
    """(student error - teacher error), weakest fifth of groups minus the rest: one row per method.

    None but in self-distillation with two seeds or more: "beyond the teacher" needs the same
    network, "weakest" other seeds."""
    if p.pair[0] != p.pair[1] or p.seeds < 2:
        return None
    weights, rows = weakest_fifth(p), []
    for method in methods:
        result = interval(*amplification(p, method, weights))
        rows.append(row_of(result, where="weakest fifth − rest", method=name_of(method)))
    return pd.DataFrame(rows)


def cells(p, method="kd"):
    """The eight outcomes (teacher, one-hot, distilled right?) in per cent of test examples.

    Classes weigh alike. Each distilled network stands beside its own teacher and the one-hot
    network of the same seed."""
    rights = [predicted == p.y for predicted in p.paired("teacher", "one_hot", method)]
    found, words, rows = outcomes(rights, p.means), {True: "right", False: "wrong"}, []
    for (teacher, one_hot, distilled), name in CELLS.items():
        count, share = found[name]
        result = interval(*share)
        rows.append(
            {
                "outcome": name,
                "teacher": words[teacher],
                "one-hot": words[one_hot],
                name_of(method): words[distilled],
                "count": count,
                "estimate": result.estimate,
                "low": result.low,
                "high": result.high,
            }
        )
    return pd.DataFrame(rows)


def accuracies(p, methods):
    """Accuracy in per cent, average, each bucket and worst-k: one row per method.

    Cells are "estimate ± half-width". Worst-k picked on the examples that score it is too low;
    beside it stand the k groups that are lowest on val under one_hot. Where Wang et al. (2023) ran
    the same setting, "published" has their average."""
    lowest = np.argsort(p.val_accuracy("one_hot").mean(axis=0), kind="stable")
    places = statistics(p)
    for k in p.study.worst:
        places[f"worst {k}"] = functools.partial(worst, k=k)
    for k in p.study.worst:
        places[f"worst {k} by val"] = lambda v, k=k: v[..., lowest[:k]].mean(axis=-1)
    published = {} if p.setting else WANG.get((p.study.name, p.pair), {})
    rows = []
    for method in methods:
        labels = "–"
        if method != "teacher":
            labels = labels_read(p, method).removeprefix("labels of val, ") or "no"
        networks = len(p.records(method))
        row = {"method": name_of(method), "networks": networks, "labels of val": labels}
        for place, f in places.items():
            result = interval(*p.accuracy(method).map(f))
            row[place] = f"{result.estimate:.1f}{_half_width(result)}"
            if place == "average" and published:
                row["published"] = published.get(method, ("–",))[0].replace("±", " ± ")
        rows.append(row)
    return pd.DataFrame(rows)


def _half_width(result):
    return "" if np.isnan(result.se) else f" ± {result.high - result.estimate:.1f}"


def differences(p, methods):
    """Difference to the pooled baselines in points: one row per method.

    "estimate ± half-width" on average and in each bucket, each with its p."""
    rows = []
    for method in methods:
        row = {"method": name_of(method)}
        for place, weights in p.places().items():
            result = p.gain(method, weights)
            row[place] = f"{number(result.estimate, '')}{_half_width(result)}"
            row[f"p, {place}"] = "–" if np.isnan(result.se) else p_value(result.p())
        rows.append(row)
    return pd.DataFrame(rows)


def calibration(p, methods):
    """Expected calibration error in per cent by bucket: one row per (bucket, method).

    Over seeds only (t interval): the error of a bin is not a mean of examples."""
    rows = []
    n = np.bincount(p.group)[p.group]
    for index, name in filled_buckets(p):
        weights = np.isin(p.group, np.flatnonzero(p.bucket == index)) / n
        for method in methods:
            errors = [
                calibration_error(np.exp(x.log_p[:, 1].astype(float)), x.right, weights)[0]
                for x in p.predictions(method)
            ]
            per_seed = 100 * np.array(errors)
            rows.append(row_of(over_seeds(per_seed), bucket=name, method=name_of(method)))
    return pd.DataFrame(rows)


def log_loss(p, methods):
    """Mean -log probability of the label in nats: one row per (bucket, method).

    On average and by bucket, classes weighing alike."""
    nats = {
        m: p.means(np.array([-x.log_p[:, 0].astype(np.float64) for x in p.predictions(m)]))
        for m in methods
    }
    rows = []
    for place, f in statistics(p).items():
        for m in methods:
            rows.append(row_of(interval(*nats[m].map(f)), bucket=place, method=name_of(m)))
    return pd.DataFrame(rows)


def learning_curves(p, methods):
    """Accuracy on val in per cent by epoch: one row per (place, method, epoch).

    Mean over seeds."""
    # a method that trains on val has no accuracy on it to show
    methods = [m for m in methods if not p.runs[m][0].config.with_val]
    rows, members = [], {"average": np.ones(len(p.bucket), bool)}
    rarest, name = filled_buckets(p)[-1]
    members[name] = p.bucket == rarest
    for method in methods:
        runs = [r.facts["val_accuracy_by_group"] for r in p.runs[method]]
        for epoch in sorted(runs[0], key=int):
            accuracy = 100 * np.mean([run[epoch] for run in runs], axis=0)
            for place, some in members.items():
                at = {"place": place, "method": name_of(method), "epoch": int(epoch)}
                rows.append(at | {"accuracy": accuracy[some].mean()})
    return pd.DataFrame(rows)


def optimism(p, methods):
    """What choosing the best epoch adds to the last one: one row per (scored on, method).

    In points on val, of the epochs on record. Chosen on one half of val; "the same half" scores it
    there, "the other half" honestly; both ways round, then averaged. None if a record has no
    halves."""
    rows = []
    for method in (m for m in methods if not p.runs[m][0].config.with_val):
        halves = [r.facts.get("val_accuracy_by_half") for r in p.runs[method]]
        if not all(halves):
            return None
        # (S, epochs, 2)
        curves = 100 * np.array([[run[e] for e in sorted(run, key=int)] for run in halves])
        gains = curves - curves[:, -1:]
        best = curves.argmax(axis=1)  # (S, 2)
        seeds = np.arange(len(gains))
        for where, side in (("the same half", [0, 1]), ("the other half", [1, 0])):
            scored = [gains[seeds, best[:, half], side[half]] for half in (0, 1)]
            per_seed = np.mean(scored, axis=0)
            rows.append(row_of(over_seeds(per_seed), where=where, method=name_of(method)))
    frame = pd.DataFrame(rows)
    return frame.sort_values("where", ascending=False, kind="stable", ignore_index=True)


def power(p, methods):
    """How uncertain each gain is and why: one row per (bucket, method).

    "smallest detectable" is the smallest effect that would have been found. "from networks" is the
    standard error that the spread over students and baselines alone would give, "from test images"
    what the test examples add: their squares add up to that of "standard error"."""
    rows = []
    for place, weights in p.places().items():
        pooled = (p.accuracy("one_hot").observed * weights.mean(axis=0)).sum(axis=-1)
        for method in methods:
            result = p.gain(method, weights)
            spread, baselines = _spread(result.per_seed), _spread(pooled)
            networks = np.sqrt(spread**2 / result.n + baselines**2 / len(pooled))
            rows.append(
                {
                    "bucket": place,
                    "method": name_of(method),
                    "gain": result.estimate,
                    "standard error": result.se,
                    "from networks": networks,
                    "from test images": np.sqrt(np.maximum(0.0, result.se**2 - networks**2)),
                    "spread of students": spread,
                    "spread of baselines": baselines,
                    "smallest detectable": result.detectable,
                    "seeds": result.n,
                    "baselines": len(pooled),
                }
            )
    return pd.DataFrame(rows)


def _spread(values):
    return np.std(values, ddof=1) if len(values) > 1 else np.nan


def by_class(p, methods):
    """One row per group, most frequent first.

    Images, the teacher's held-out margin, accuracy of one_hot, gain of each method."""
    frame = pd.DataFrame(
        {
            "class": p.group_names,
            "training images": p.train_counts,
            "bucket": [p.bucket_names[b] for b in p.bucket],
            "test images": np.bincount(p.group, minlength=len(p.group_names)),
            "teacher's margin": p.margins.mean(axis=0),
            "one-hot, %": p.accuracy("one_hot").observed.mean(axis=0),
            **{f"gain of {name_of(m)}": p.group_gain(m).mean(axis=0) for m in methods},
        }
    )
    return frame.sort_values("training images", ascending=False, kind="stable", ignore_index=True)


def by_class_and_seed(p):
    """What was counted, before any mean over seeds: one row per (method, seed, group).

    The teacher is among the methods."""
    columns = ["method", "seed", "group", "n_train", "bucket", "n", "correct", "nll", "margin"]
    names = {
        "group": "class",
        "n_train": "training images",
        "n": "test images",
        "nll": "log-loss, nats",
    }
    frame = every_run(p)[columns]
    return frame.assign(method=frame.method.map(name_of)).rename(columns=names)


def margins(p):
    """The teacher's margin, held-out and on its training images: one row per group.

    Mean over seeds: what AdaAlpha would use."""
    of_train = np.mean([r.facts["teacher_margin_train"] for r in p.runs["kd"]], axis=0)
    frame = pd.DataFrame(
        {
            "group": p.group_names,
            "n_train": p.train_counts,
            "bucket": [p.bucket_names[b] for b in p.bucket],
            "held_out": p.margins.mean(axis=0),
            "on_training": of_train,
        }
    )
    return frame.sort_values("n_train", ascending=False, kind="stable", ignore_index=True)


def deviations(p):
    """What is not as in the paper or its re-run, from the Configs: one row per choice."""
    kd, ada = (p.runs[m][0].config for m in ("kd", "ada_alpha"))
    rows = [
        (
            "data",
            f"{p.study.name}: {p.study.about}",
            "CIFAR-100, CIFAR-10, their long-tailed versions, ImageNet (re-run: Wang et al. 2023)",
        ),
        (
            "networks",
            f"{p.name}, {kd.epochs} epochs, batch {kd.batch_size}, learning rate {kd.lr:g}, "
            f"{kd.decay} decay",
            "ResNet-56 to ResNet-56 or -32, 256 epochs on the long tail (re-run)",
        ),
        (
            "softening",
            f"T = {kd.temperature:g}, {kd.soften}, alpha = {kd.alpha:g}",
            "T in {1, 3, 5} on the teacher's side only (re-run)",
        ),
        (
            "AdaAlpha",
            f"alpha is the margin of the group on {ada.margin_source}, "
            f"T = {ada.margin_temperature:g}",
            "formula not published in what we could read: reconstructed",
        ),
        (
            "extra labels",
            "AdaAlpha reads the labels of val for its margins, where they are not by crossfit",
            "not stated in what we could read",
        ),
        (
            "seeds",
            f"{p.seeds} of {p.study.seeds} planned, {len(p.runs['one_hot'])} baselines",
            "not stated in what we could read",
        ),
    ]
    if "ada_margin" in p.runs:
        reading = f"reading {p.runs['ada_margin'][0].config.margin_reading}"
        rows.insert(4, ("AdaMargin", reading, "reconstructed; other readings are sensitivity"))
    if p.study.demonstration:
        rows.insert(0, ("status", "a demonstration, not a reproduction", "–"))
    return pd.DataFrame(rows, columns=["choice", "here", "in the paper or its re-run"])
