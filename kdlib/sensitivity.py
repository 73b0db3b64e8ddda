"""Tables and figures of the pages beyond the findings: rivals, knobs, ablations, the choice of the recipe.

Everything here is sensitivity: no verdict depends on it."""

import numpy as np
import pandas as pd

from kdlib.plots import LOOKS, Shown, axes_of, clear, in_style, legend, non_dominated, seeds_and_intervals
from kdlib.rules import labels_read, verdict_bucket
from kdlib.stats import interval, sign_flip
from kdlib.tables import filled_buckets, gain_by_bucket, row_of
from kdlib.words import brief, name_of, number, p_value

NO_LABELS = "no labels beyond training"


def headlines(panels):
    """The sentences of a study's main figures, by its kind; a list, empty for kinds that have none."""
    p, kind = panels[0], panels[0].study.kind
    methods = [m for m in p.runs if m != "one_hot"]
    if kind == "rivals":
        return [frontier(gain_by_bucket(p, methods), p.name).sentence,
                ahead_of_ada_alpha(p),
                *([weight_by_class(p)] if "kd_mean_alpha" in p.runs else [])]
    if kind == "knobs":
        return [collapse_curve(collapse(p, list(p.runs)), p.name).sentence,
                forest(gain_by_bucket(p, [m for m in methods if m != "kd"], "kd"), p.name, "distillation").sentence]
    if kind == "ablations":
        return [ablation_figure(part, p.name).sentence for _, part in ablations(panels, methods).groupby("field", sort=False)]
    return []


def ahead_of_ada_alpha(p):
    """Which rivals clearly beat AdaAlpha in the rarest bucket, by how much, and which labels they read, in one sentence."""
    name, weights = list(p.places().items())[-1]
    ahead = []
    for method in p.methods:
        gain = p.gain(method, weights, "ada_alpha")
        if gain.low > 0:
            labels = labels_read(p, method) or NO_LABELS
            ahead.append((-gain.estimate, f"{name_of(method)} by {number(gain.estimate)} ({labels})"))
    said = ", ".join(text for _, text in sorted(ahead)) or "none of them"
    mine = labels_read(p, "ada_alpha") or NO_LABELS
    return f"{p.name}: of {len(p.methods) - 1} methods these beat AdaAlpha ({mine}) in the {name} classes clearly: {said}."


def weight_by_class(p):
    """What AdaAlpha owes to choosing its weight class by class: AdaAlpha against one weight for all, the mean of its own."""
    table = gain_by_bucket(p, ["ada_alpha"], "kd_mean_alpha").set_index("bucket")
    rarest = table.index[-1]
    return (f"{p.name}: against distillation with one weight for all classes, the mean of its own, AdaAlpha shows "
            f"{clear(table.loc['average'])} on average and {clear(table.loc[rarest])} on the {rarest} classes.")


# ---------------------------------------------------------------- many methods: one row each


@in_style
def forest(table, pair, over):
    """tables.gain_by_bucket of any number of methods -> Shown: average and rarest bucket side by side, a row for each method."""
    rarest = table.bucket.iloc[-1]
    methods = list(dict.fromkeys(table.method))
    figure, both = axes_of(height=1.3 + 0.27 * len(methods), columns=2, sharey=True)
    for axes, place in zip(both, ("average", rarest), strict=True):
        rows = table[table.bucket == place].set_index("method").loc[methods]
        for y, (method, row) in enumerate(rows.iterrows()):
            colour, marker = LOOKS.get(method, ("#0072B2", "o"))
            axes.plot(row.per_seed, np.full(len(row.per_seed), y), ".", color=colour, alpha=0.4, markersize=4)
            error = None if np.isnan(row.low) else [[row.estimate - row.low], [row.high - row.estimate]]
            axes.errorbar([row.estimate], [y], xerr=error, fmt=marker, color=colour, capsize=2, markersize=6)
        axes.axvline(0, color="#444444", linewidth=1)
        axes.set_title("average" if place == "average" else f"{place} classes")
        axes.set_xlabel(f"gain over {over}, points")
    both[0].set_yticks(range(len(methods)), methods)
    both[0].invert_yaxis()
    last = table[table.bucket == rarest]
    best = last.loc[last.estimate.idxmax()]
    ahead = [row.method for row in last.itertuples() if row.low > 0]
    sentence = (f"{pair}: in the {rarest} bucket {best.method} gains most over {over}, {clear(best)}; "
                f"{len(ahead)} of {len(last)} methods gain clearly there.")
    return Shown(figure, sentence, "Small dots are seeds, large marks their mean, bars its 95 % interval over networks and test "
                 "examples, not corrected for the number of rows.", table)


@in_style
def frontier(table, pair):
    """tables.gain_by_bucket -> Shown: average against rarest bucket, numbered marks, the non-dominated set in orange."""
    rarest, best = table.bucket.iloc[-1], non_dominated(table)
    figure, axes = axes_of(height=4.4)
    for k, method in enumerate(dict.fromkeys(table.method), 1):
        x, y = (table[(table.method == method) & (table.bucket == b)].iloc[0] for b in ("average", rarest))
        colour = "#D55E00" if method in best else "#0072B2"
        if not np.isnan(x.low):
            axes.plot([x.low, x.high], [y.estimate] * 2, color=colour, alpha=0.25)
            axes.plot([x.estimate] * 2, [y.low, y.high], color=colour, alpha=0.25)
        axes.plot(x.estimate, y.estimate, "s" if method in best else "o", color=colour, markersize=15,
                  label=f"{k}  {method}")
        axes.annotate(str(k), (x.estimate, y.estimate), ha="center", va="center", color="white", fontsize=8, weight="bold")
    means = table.pivot(index="method", columns="bucket", values="estimate")
    for set_limits, values in ((axes.set_xlim, means.average), (axes.set_ylim, means[rarest])):
        low, high = min(0, values.min()), max(0, values.max())
        room = 0.25 * (high - low) or 1
        set_limits(low - room, high + room)   # of the marks; intervals may leave the picture
    axes.axhline(0, color="#444444", linewidth=1)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_xlabel("average gain over one-hot, points")
    axes.set_ylabel(f"gain of the {rarest} classes, points")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", markerscale=0.4, fontsize=8)
    return Shown(figure, f"{pair}: no other method has both a higher average and a higher mean in the {rarest} bucket than "
                 f"{', '.join(best)}.", "Up and right is better; one-hot is the origin. Squares in orange: the non-dominated set "
                 "of the means; the crosses are 95 % intervals and often overlap.", table)


CONDITIONS = ("The conditions of F4 on every method, against distillation with the exact sign-flip p over seeds, and its gain "
              "over one-hot, in points with 95 % intervals; and the labels it reads beyond those it trains on. Sensitivity: no "
              "verdict depends on it.")


def mitigations(p, methods):
    """The conditions of F4 for any method, its gain over one_hot, and what labels it reads: one row per method."""
    bucket = verdict_bucket(p)
    name, rare = list(p.places().items())[-1] if bucket is None else (p.bucket_names[bucket], p.in_bucket(bucket))
    rows = []
    for method in methods:
        rows.append({
            "method": name_of(method), "average, over distillation": brief(p.gain(method, p.average, "kd")),
            f"{name}, over distillation": brief(p.gain(method, rare, "kd")),
            f"p, {name}": p_value(sign_flip(p.gain(method, rare, "kd").per_seed)[0]),
            f"{name}, over one-hot": brief(p.gain(method, rare)), "labels beyond training": labels_read(p, method) or "none"})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- knobs: where the margin comes from


def mean_alpha(p, method):
    """Weight of the teacher term that a method gave the training images, mean over images, per seed (S,); None without one."""
    out = []
    for record in p.runs[method]:
        cfg, used = record.config, record.facts.get("margins")
        if cfg.method in ("one_hot", "kd"):
            out.append(0.0 if cfg.method == "one_hot" else cfg.alpha)
        elif cfg.method == "ada_alpha" and used:
            counts = p.train_counts
            out.append(np.average(used, weights=counts) if len(used) == len(counts) else np.mean(used))
        else:
            return None
    return np.array(out)


def collapse(p, methods):
    """How often a method predicts what kd and one_hot of the same seed do, beside its mean alpha: one row per (as, method)."""
    rows = []
    for method in methods:
        alpha = mean_alpha(p, method)
        if alpha is None:
            continue
        for other in ("kd", "one_hot"):
            same = 100 * p.means(np.equal(*p.paired(method, other))).map(lambda v: v.mean(axis=-1))
            rows.append({"as": name_of(other), "alpha": alpha.mean(), **row_of(interval(*same), method=name_of(method))})
    return pd.DataFrame(rows).sort_values("alpha", kind="stable", ignore_index=True)


NAME_WIDTH = 0.05   # of a name written upwards, in units of alpha


@in_style
def collapse_curve(table, pair):
    """collapse -> Shown."""
    figure, axes = axes_of(height=4.8)
    for other in dict.fromkeys(table["as"]):
        rows = table[table["as"] == other]
        colour, marker = LOOKS[other]
        axes.plot(rows.alpha, rows.estimate, marker=marker, color=colour, label=f"predicts the same as {other}")
    x = -1.0
    for alpha, rows in table.groupby("alpha"):
        for row in rows[rows["as"] == "distillation"].itertuples():
            x = max(x + NAME_WIDTH, alpha)   # names stand above the axes, side by side
            axes.annotate(row.method.removeprefix("AdaAlpha, "), (alpha, rows.estimate.max()), (x, 1.06), rotation=90, fontsize=8,
                          textcoords=axes.get_xaxis_transform(), ha="center", va="bottom",
                          arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6})
    axes.set_xlabel("mean weight of the teacher, alpha")
    axes.set_ylabel("% of test examples")
    legend(figure, axes)
    ada = table[table.method.str.startswith("AdaAlpha") & (table["as"] == "distillation")]
    most, least = ada.loc[ada.alpha.idxmax()], ada.loc[ada.alpha.idxmin()]
    sentence = (f"{pair}: AdaAlpha's mean weight of the teacher runs from {least.alpha:.2f} ({least.method}) to {most.alpha:.2f} "
                f"({most.method}), where it predicts the same as distillation on {most.estimate:.0f} % of test examples.")
    return Shown(figure, sentence, "Each mark is one variant, mean over seeds; two runs from the same starting weights and "
                 "batches agree more, the nearer their losses. Near alpha = 1 AdaAlpha is distillation, near 0 one-hot training.",
                 table)


def alphas(p, methods):
    """The alpha that each variant of AdaAlpha gave each group, mean over seeds: one row per (variant, group)."""
    frames = []
    for method in methods:
        used = [r.facts.get("margins") for r in p.runs[method]]
        if p.runs[method][0].config.method == "ada_alpha" and all(u and len(u) == len(p.group_names) for u in used):
            frames.append(pd.DataFrame({"variant": name_of(method), "group": p.group_names, "n_train": p.train_counts,
                                        "alpha": np.mean(used, axis=0)}).sort_values("n_train", ascending=False, kind="stable"))
    return pd.concat(frames, ignore_index=True)


@in_style
def alpha_by_group(table, pair):
    """alphas -> Shown: a line for each variant, most frequent class first."""
    figure, axes = axes_of(height=3.9)
    names = list(dict.fromkeys(table.variant))
    palette = ("#D55E00", "#0072B2", "#007a5a", "#8a4f7d", "#9a6a00", "#000000", "#767676")
    for k, name in enumerate(names):
        rows = table[table.variant == name]
        axes.plot(range(len(rows)), rows.alpha, marker="osDv^Px<>"[k % 9], color=palette[k % len(palette)], linewidth=1,
                  markersize=4, label=name.removeprefix("AdaAlpha, "))
    axes.set_xticks(range(len(rows)), [f"{g} ({n})" for g, n in zip(rows.group, rows.n_train, strict=True)], rotation=60,
                    ha="right", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("alpha of the class")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    mean = table.groupby("variant", sort=False).alpha.mean()
    sentence = (f"{pair}: the mean alpha over classes is lowest for {mean.idxmin()} ({mean.min():.2f}) and highest for "
                f"{mean.idxmax()} ({mean.max():.2f}).")
    return Shown(figure, sentence, "Classes from most to fewest training images, means over seeds.", table)


# ---------------------------------------------------------------- ablations: one field at a time


def steps(panels):
    """Which panels differ in one field alone: a list of (field, fixed, [(value, Panel), ...] in order).

    A setting of one field is compared with the primary one; of several, by its first field, with those that share the rest
    (`fixed`, a dictionary): {"lr": 0.1, "temperature": 2.0} with {"temperature": 2.0}. Crossed teacher seeds are not steps."""
    base, found = next(p for p in panels if not p.setting), {}
    changed = {name for p in panels for name in p.setting}

    def value(p, name):
        return getattr(p.runs["kd"][0].config, name)

    for setting in (p.setting for p in panels if p.setting and "teacher_seed" not in p.setting):
        field, *more = setting
        fixed = {name: setting[name] for name in more}
        wanted = {name: fixed.get(name, value(base, name)) for name in changed - {field, "teacher_seed"}}
        levels = [(value(p, field), p) for p in panels if "teacher_seed" not in p.setting
                  and all(value(p, name) == v for name, v in wanted.items())]
        found[field, str(fixed)] = field, fixed, sorted(levels, key=lambda level: _depth(level[0]))
    return list(found.values())


def ablations(panels, methods):
    """Gain over one_hot by setting: one row per (field, level, bucket, method); `base` marks the primary value. See steps."""
    base, rows = next(p for p in panels if not p.setting), []
    for field, fixed, levels in steps(panels):
        words = field + "".join(f" at {name} {value:g}" for name, value in fixed.items())
        for value, p in levels:
            table = gain_by_bucket(p, methods)
            keep = table[table.bucket.isin(("average", table.bucket.iloc[-1]))]
            rows.append(keep.assign(bucket=np.where(keep.bucket == "average", "average", "rarest bucket"), field=words,
                                    level=f"{value:g}" if isinstance(value, float) else str(value),
                                    base="yes" if value == getattr(base.runs["kd"][0].config, field) else ""))
    return pd.concat(rows, ignore_index=True)


def _depth(value):
    """Sorts resnet8 before resnet14, and no seed before the first."""
    return (len(value), value) if isinstance(value, str) else (-1 if value is None else value, "")


@in_style
def length(table, pair):
    """ablations of the epochs -> Shown: the gains against the number of epochs, and the shortest length that passes the gate."""
    figure, both = axes_of(columns=2, height=3.4, sharey=True)
    epochs = table.level.astype(int)
    gate = epochs[table.base == "yes"].iloc[0]
    for axes, place in zip(both, ("average", "rarest bucket"), strict=True):
        for method in dict.fromkeys(table.method):
            rows = table[(table.method == method) & (table.bucket == place)]
            colour, marker = LOOKS[method]
            spread = np.nan_to_num(np.array([rows.estimate - rows.low, rows.high - rows.estimate]))
            axes.errorbar(epochs[rows.index], rows.estimate, spread, fmt=f"{marker}-", color=colour, capsize=3, label=method)
        axes.axhline(0, color="#444444", linewidth=1)
        axes.axvline(gate, color="#444444", linewidth=1, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(epochs)), sorted(set(epochs)), minor=False)
        axes.minorticks_off()
        axes.set_title("average" if place == "average" else "rarest classes")
        axes.set_xlabel("epochs")
    both[0].set_ylabel("gain over one-hot, points")
    both[0].annotate("primary study", (gate, 1), xycoords=("data", "axes fraction"), xytext=(3, -10), textcoords="offset points",
                     fontsize=8)
    legend(figure, both[0])
    kd = table[table.method == "distillation"].set_index(["bucket", "level"])
    first, last = (str(f(epochs)) for f in (min, max))
    said = [f"{clear(kd.loc['average', level])} on average and {clear(kd.loc['rarest bucket', level])} on the rarest classes"
            for level in (first, last)]
    return Shown(figure, f"{pair}: after {first} epochs distillation shows {said[0]}; after {last} epochs {said[1]}.",
                 "Each length against one-hot training of the same length, teachers too. The dotted line is the length of the "
                 "primary study; page 91 says whether it passes the gate. "
                 "Bars are 95 % intervals.", table)


def ablation_figure(table, pair):
    """ablations of one field -> Shown, by what the field is."""
    return length(table, pair) if table.field.iloc[0] == "epochs" else ablation(table, pair)


@in_style
def ablation(table, pair):
    """ablations of one field -> Shown."""
    field = table.field.iloc[0]
    figure, both = axes_of(columns=2, height=3.4)
    for axes, place in zip(both, ("average", "rarest bucket"), strict=True):
        seeds_and_intervals(axes, table[table.bucket == place], "level")
        axes.set_title(place)
        axes.set_xlabel(field.replace("_", " "))
    both[0].set_ylabel("gain over one-hot, points")
    legend(figure, both[0])
    rows = table[(table.method == "distillation") & (table.bucket == "rarest bucket")]
    low, high = rows.loc[rows.estimate.idxmin()], rows.loc[rows.estimate.idxmax()]
    harmed = [row.level for row in rows.itertuples() if row.high < 0]
    words, base = field.replace("_", " "), rows[rows.base == "yes"].level.iloc[0]
    sentence = (f"{pair}: over {words}, the gain of distillation in the rarest bucket runs from {number(low.estimate)} at "
                f"{low.level} to {number(high.estimate)} at {high.level}; clear harm at {', '.join(harmed) or 'none of them'}.")
    return Shown(figure, sentence, f"Everything else as in the primary configuration, which has {base}; each level against "
                 "the mean of the one-hot networks on the same data. Dots are seeds, bars 95 % intervals.", table)


def variance_components(panels, method="kd"):
    """Variance of the gain by its source, in points squared: draw, teacher, student, and what is left (see moments).

    Method of moments for main effects in a crossed balanced design over the panels that differ in draw_seed or teacher_seed only;
    None if there are fewer than two draws. A negative estimate is 0. One row per (bucket, source)."""
    some = [p for p in panels if set(p.setting) <= {"draw_seed", "teacher_seed"}]
    crossed = [p for p in some if len(p.setting) == 2]
    some = crossed or [p for p in some if set(p.setting) <= {"draw_seed"}]
    draws = sorted({p.runs[method][0].config.draw_seed for p in some})
    teachers = sorted({p.setting.get("teacher_seed", -1) for p in some})
    if len(draws) < 2 or len(some) != len(draws) * len(teachers):
        return None
    rows = []
    for place in ("average", "rarest bucket"):
        gains, luck = np.full((len(draws), len(teachers), some[0].seeds), np.nan), []
        for p in some:
            weights = p.average if place == "average" else p.in_bucket(filled_buckets(p)[-1][0])
            at = draws.index(p.runs[method][0].config.draw_seed), teachers.index(p.setting.get("teacher_seed", -1))
            gains[at] = (p.group_gain(method) * weights).sum(axis=1)
            pool = p.accuracy("one_hot").observed @ weights.mean(axis=0)
            luck.append(pool.var(ddof=1) / len(pool))
        sources = moments(gains)
        # the seeds of a draw share its baselines, whose luck is not the draw's
        sources["draw"] = max(0.0, sources["draw"] - np.mean(luck))
        for source, variance in sources.items():
            rows.append({"bucket": place, "source": source, "variance": variance, "standard deviation": variance**0.5,
                         "levels": {"draw": len(draws), "teacher": len(teachers)}.get(source, gains.size)})
    return pd.DataFrame(rows)


def variances_of(panels):
    """[Shown] of the variance by source; empty where the panels are of one draw."""
    table = variance_components(panels)
    return [] if table is None else [variances(table, panels[0].name)]


def moments(gains):
    """{source: variance} of gains (draws, teachers, seeds) by the main-effects model; "teacher" only if there are two or more."""
    d, t, s = gains.shape
    effects = {"draw": (gains.mean(axis=(1, 2)), t * s)}
    if t > 1:
        effects["teacher"] = (gains.mean(axis=(0, 2)), d * s)
        effects["student"] = (gains.mean(axis=(0, 1)), d * t)
    sums = {name: n * ((mean - gains.mean())**2).sum() for name, (mean, n) in effects.items()}
    left = gains.size - 1 - sum(len(mean) - 1 for mean, _ in effects.values())
    residual = (((gains - gains.mean())**2).sum() - sum(sums.values())) / left
    out = {name: max(0.0, (sums[name] / (len(mean) - 1) - residual) / n) for name, (mean, n) in effects.items()}
    return out | {"what is left": residual}


@in_style
def variances(table, pair):
    """variance_components -> Shown."""
    figure, both = axes_of(columns=2, height=2.4, sharey=True)
    for axes, place in zip(both, ("average", "rarest bucket"), strict=True):
        rows = table[table.bucket == place]
        axes.barh(rows.source, rows["standard deviation"], color="#0072B2")
        axes.set_title(place)
        axes.set_xlabel("standard deviation, points")
    both[0].invert_yaxis()
    rows = table[table.bucket == "rarest bucket"]
    most = rows.loc[rows.variance.idxmax()]
    sentence = (f"{pair}: in the rarest bucket most of the spread of distillation's gain comes from {most.source} "
                f"(standard deviation {most['standard deviation']:.1f} points).")
    return Shown(figure, sentence, "Method of moments for main effects; a source that shows no more than the rest is 0. What is "
                 "left: what varies within a draw (and teacher), test examples included.", table)


# ---------------------------------------------------------------- the choice of the recipe, on val


@in_style
def search_steps(table, title):
    """search.scores -> Shown: a row for each level, step by step from above."""
    questions = list(dict.fromkeys(table.question))
    sizes = [int((table.question == q).sum()) for q in questions]
    figure, all_axes = axes_of(height=1.1 + 0.27 * (sum(sizes) + len(sizes)), rows=len(questions), sharex=True,
                               height_ratios=sizes)
    for axes, question in zip(np.atleast_1d(all_axes), questions, strict=True):
        rows = table[table.question == question].reset_index(drop=True)
        for y, row in rows.iterrows():
            axes.plot(row.per_seed, np.full(len(row.per_seed), y), ".", color="#767676", markersize=5)
            axes.plot(row["mean"], y, "*" if row.chosen else "o", color="#D55E00" if row.chosen else "#0072B2",
                      markersize=11 if row.chosen else 6)
        axes.set_yticks(range(len(rows)), rows.level, fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(question, loc="left", fontsize=9)
    np.atleast_1d(all_axes)[-1].set_xlabel("accuracy on val, %")
    chosen = "; ".join(table[table.chosen == "yes"].level)
    return Shown(figure, f"{title}: the search takes {chosen}.", "Small dots are seeds that no other study uses, large marks "
                 "their mean, a star the level that is taken. Each step has what the steps above it chose. Test images are not "
                 "looked at.", table)
