"""Tables and figures of the pages beyond the findings: rivals, knobs, ablations, the recipe.

Everything here is sensitivity: no verdict depends on it."""

import numpy as np
import pandas as pd

from kdlib.evidence.rules import labels_read, verdict_bucket
from kdlib.evidence.significance import sign_flip
from kdlib.evidence.stats import interval
from kdlib.evidence.words import brief, number, p_value
from kdlib.methods import look_of, name_of
from kdlib.pages.plots import (
    Shown,
    axes_of,
    bars,
    clear,
    in_style,
    legend,
    non_dominated,
    seeds_and_intervals,
)
from kdlib.pages.tables import filled_buckets, gain_by_bucket, row_of

NO_LABELS = "no labels beyond training"


def headlines(panels):
    """The sentences of a study's main figures, by its kind; [] for kinds that have none."""
    p, kind = panels[0], panels[0].study.kind
    methods = [m for m in p.runs if m != "one_hot"]
    if kind == "rivals":
        said = [frontier(gain_by_bucket(p, methods), p.name).sentence, ahead_of_ada_alpha(p)]
        return [*said, weight_by_class(p)] if "kd_mean_alpha" in p.runs else said
    if kind == "knobs":
        variants = gain_by_bucket(p, [m for m in methods if m != "kd"], "kd")
        return [
            collapse_curve(collapse(p, list(p.runs)), p.name).sentence,
            forest(variants, p.name, "distillation").sentence,
        ]
    if kind == "ablations":
        by_field = ablations(panels, methods).groupby("field", sort=False)
        return [ablation_figure(part, p.name).sentence for _, part in by_field]
    return []


def ahead_of_ada_alpha(p):
    """Which rivals clearly beat AdaAlpha in the rarest bucket, in one sentence.

    It says by how much, and which labels they read."""
    name, weights = list(p.places().items())[-1]
    ahead = []
    for method in p.methods:
        gain = p.gain(method, weights, "ada_alpha")
        if gain.low > 0:
            labels = labels_read(p, method) or NO_LABELS
            text = f"{name_of(method)} by {number(gain.estimate)} ({labels})"
            ahead.append((-gain.estimate, text))
    said = ", ".join(text for _, text in sorted(ahead)) or "none of them"
    mine = labels_read(p, "ada_alpha") or NO_LABELS
    return (
        f"{p.name}: of {len(p.methods) - 1} methods these beat AdaAlpha ({mine}) in the {name} "
        f"classes clearly: {said}."
    )


def weight_by_class(p):
    """What AdaAlpha owes to choosing its weight class by class, in one sentence.

    AdaAlpha against one weight for all classes, the mean of its own."""
    table = gain_by_bucket(p, ["ada_alpha"], "kd_mean_alpha").set_index("bucket")
    rarest = table.index[-1]
    return (
        f"{p.name}: against distillation with one weight for all classes, the mean of its own, "
        f"AdaAlpha shows {clear(table.loc['average'])} on average and {clear(table.loc[rarest])} "
        f"on the {rarest} classes."
    )


# ---------------------------------------------------------------- many methods: one row each


@in_style
def forest(table, pair, over):
    """tables.gain_by_bucket of any number of methods -> Shown: a row for each method.

    The average and the rarest bucket stand side by side."""
    rarest = table.bucket.iloc[-1]
    methods = list(dict.fromkeys(table.method))
    figure, both = axes_of(height=1.3 + 0.27 * len(methods), columns=2, sharey=True)
    for axes, place in zip(both, ("average", rarest), strict=True):
        rows = table[table.bucket == place].set_index("method").loc[methods]
        for y, (method, row) in enumerate(rows.iterrows()):
            colour, marker = look_of(method)
            level = np.full(len(row.per_seed), y)
            axes.plot(row.per_seed, level, ".", color=colour, alpha=0.4, markersize=4)
            mark = {"fmt": marker, "color": colour, "capsize": 2, "markersize": 6}
            axes.errorbar([row.estimate], [y], xerr=bars(row), **mark)
        axes.axvline(0, color="#444444", linewidth=1)
        axes.set_title("average" if place == "average" else f"{place} classes")
        axes.set_xlabel(f"gain over {over}, points")
    both[0].set_yticks(range(len(methods)), methods)
    both[0].invert_yaxis()
    last = table[table.bucket == rarest]
    best = last.loc[last.estimate.idxmax()]
    ahead = [row.method for row in last.itertuples() if row.low > 0]
    sentence = (
        f"{pair}: in the {rarest} bucket {best.method} gains most over {over}, {clear(best)}; "
        f"{len(ahead)} of {len(last)} methods gain clearly there."
    )
    caption = (
        "Small dots are seeds, large marks their mean, bars its 95 % interval over networks and "
        "test examples, not corrected for the number of rows."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def frontier(table, pair):
    """tables.gain_by_bucket -> Shown: average against rarest bucket, with numbered marks.

    The non-dominated set is orange."""
    rarest, best = table.bucket.iloc[-1], non_dominated(table)
    figure, axes = axes_of(height=4.4)
    inside = {"ha": "center", "va": "center", "color": "white", "fontsize": 8, "weight": "bold"}
    for k, method in enumerate(dict.fromkeys(table.method), 1):
        rows = table[table.method == method].set_index("bucket")
        x, y = rows.loc["average"], rows.loc[rarest]
        colour, marker = ("#D55E00", "s") if method in best else ("#0072B2", "o")
        if not np.isnan(x.low):
            axes.plot([x.low, x.high], [y.estimate] * 2, color=colour, alpha=0.25)
            axes.plot([x.estimate] * 2, [y.low, y.high], color=colour, alpha=0.25)
        mark = {"color": colour, "markersize": 15, "label": f"{k}  {method}"}
        axes.plot(x.estimate, y.estimate, marker, **mark)
        axes.annotate(str(k), (x.estimate, y.estimate), **inside)
    means = table.pivot(index="method", columns="bucket", values="estimate")
    for set_limits, values in ((axes.set_xlim, means.average), (axes.set_ylim, means[rarest])):
        low, high = min(0, values.min()), max(0, values.max())
        room = 0.25 * (high - low) or 1
        set_limits(low - room, high + room)  # of the marks; intervals may leave the picture
    axes.axhline(0, color="#444444", linewidth=1)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_xlabel("average gain over one-hot, points")
    axes.set_ylabel(f"gain of the {rarest} classes, points")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", markerscale=0.4, fontsize=8)
    sentence = (
        f"{pair}: no other method has both a higher average and a higher mean in the {rarest} "
        f"bucket than {', '.join(best)}."
    )
    caption = (
        "Up and right is better; one-hot is the origin. Squares in orange: the non-dominated set "
        "of the means; the crosses are 95 % intervals and often overlap."
    )
    return Shown(figure, sentence, caption, table)


CONDITIONS = (
    "The conditions of F4 on every method, against distillation with the exact sign-flip p over "
    "seeds, and its gain over one-hot, in points with 95 % intervals; and the labels it reads "
    "beyond those it trains on. Sensitivity: no verdict depends on it."
)


def mitigations(p, methods):
    """The conditions of F4 for any method: one row per method.

    Its gain over one_hot and what labels it reads stand beside them."""
    bucket = verdict_bucket(p)
    if bucket is None:
        name, rare = list(p.places().items())[-1]
    else:
        name, rare = p.bucket_names[bucket], p.in_bucket(bucket)
    rows = []
    for method in methods:
        over_kd = p.gain(method, rare, "kd")
        p_of_signs, _ = sign_flip(over_kd.per_seed)
        rows.append(
            {
                "method": name_of(method),
                "average, over distillation": brief(p.gain(method, p.average, "kd")),
                f"{name}, over distillation": brief(over_kd),
                f"p, {name}": p_value(p_of_signs),
                f"{name}, over one-hot": brief(p.gain(method, rare)),
                "labels beyond training": labels_read(p, method) or "none",
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- knobs: the source of the margin


def mean_alpha(p, method):
    """Weight (S,) that a method gave the teacher, mean over training images; None without one."""
    out = []
    for record in p.runs[method]:
        cfg, used = record.config, record.facts.get("margins")
        if cfg.method == "one_hot":
            out.append(0.0)
        elif cfg.method == "kd":
            out.append(cfg.alpha)
        elif cfg.method == "ada_alpha" and used:
            by_group = len(used) == len(p.train_counts)  # else one margin for all
            out.append(np.average(used, weights=p.train_counts if by_group else None))
        else:
            return None
    return np.array(out)


def collapse(p, methods):
    """How often a method predicts what kd and one_hot of its seed do: one row per (as, method).

    Its mean alpha stands beside it."""
    rows = []
    for method in methods:
        alpha = mean_alpha(p, method)
        if alpha is None:
            continue
        for other in ("kd", "one_hot"):
            same = 100 * p.means(np.equal(*p.paired(method, other))).map(lambda v: v.mean(axis=-1))
            labels = {"as": name_of(other), "alpha": alpha.mean(), "method": name_of(method)}
            rows.append(row_of(interval(*same), **labels))
    return pd.DataFrame(rows).sort_values("alpha", kind="stable", ignore_index=True)


NAME_WIDTH = 0.05  # of a name written upwards, in units of alpha


@in_style
def collapse_curve(table, pair):
    """collapse -> Shown."""
    figure, axes = axes_of(height=4.8)
    for other in dict.fromkeys(table["as"]):
        rows = table[table["as"] == other]
        colour, marker = look_of(other)
        label = f"predicts the same as {other}"
        axes.plot(rows.alpha, rows.estimate, marker=marker, color=colour, label=label)
    upwards = {"rotation": 90, "fontsize": 8, "ha": "center", "va": "bottom"}
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
    above = axes.get_xaxis_transform()
    x = -1.0
    for alpha, rows in table.groupby("alpha"):
        top = alpha, rows.estimate.max()
        for row in rows[rows["as"] == "distillation"].itertuples():
            x = max(x + NAME_WIDTH, alpha)  # names stand above the axes, side by side
            name = row.method.removeprefix("AdaAlpha, ")
            axes.annotate(name, top, (x, 1.06), textcoords=above, arrowprops=line, **upwards)
    axes.set_xlabel("mean weight of the teacher, alpha")
    axes.set_ylabel("% of test examples")
    legend(figure, axes)
    ada = table[table.method.str.startswith("AdaAlpha") & (table["as"] == "distillation")]
    most, least = ada.loc[ada.alpha.idxmax()], ada.loc[ada.alpha.idxmin()]
    sentence = (
        f"{pair}: AdaAlpha's mean weight of the teacher runs from {least.alpha:.2f} "
        f"({least.method}) to {most.alpha:.2f} ({most.method}), where it predicts the same as "
        f"distillation on {most.estimate:.0f} % of test examples."
    )
    caption = (
        "Each mark is one variant, mean over seeds; two runs from the same starting weights and "
        "batches agree more, the nearer their losses. Near alpha = 1 AdaAlpha is distillation, "
        "near 0 one-hot training."
    )
    return Shown(figure, sentence, caption, table)


def alphas(p, methods):
    """The alpha of each group, mean over seeds: one row per (variant of AdaAlpha, group)."""
    frames = []
    for method in methods:
        used = [r.facts.get("margins") for r in p.runs[method]]
        by_group = all(u and len(u) == len(p.group_names) for u in used)
        if p.runs[method][0].config.method == "ada_alpha" and by_group:
            frame = pd.DataFrame(
                {
                    "variant": name_of(method),
                    "group": p.group_names,
                    "n_train": p.train_counts,
                    "alpha": np.mean(used, axis=0),
                }
            )
            frames.append(frame.sort_values("n_train", ascending=False, kind="stable"))
    return pd.concat(frames, ignore_index=True)


@in_style
def alpha_by_group(table, pair):
    """alphas -> Shown: a line for each variant, most frequent class first."""
    figure, axes = axes_of(height=3.9)
    names = list(dict.fromkeys(table.variant))
    palette = ("#D55E00", "#0072B2", "#007a5a", "#8a4f7d", "#9a6a00", "#000000", "#767676")
    markers = "osDv^Px<>"
    for k, name in enumerate(names):
        rows = table[table.variant == name]
        look = {"marker": markers[k % len(markers)], "color": palette[k % len(palette)]}
        label = name.removeprefix("AdaAlpha, ")
        axes.plot(range(len(rows)), rows.alpha, linewidth=1, markersize=4, label=label, **look)
    classes = [f"{g} ({n})" for g, n in zip(rows.group, rows.n_train, strict=True)]
    axes.set_xticks(range(len(rows)), classes, rotation=60, ha="right", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("alpha of the class")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    mean = table.groupby("variant", sort=False).alpha.mean()
    sentence = (
        f"{pair}: the mean alpha over classes is lowest for {mean.idxmin()} ({mean.min():.2f}) and "
        f"highest for {mean.idxmax()} ({mean.max():.2f})."
    )
    caption = "Classes from most to fewest training images, means over seeds."
    return Shown(figure, sentence, caption, table)


# ---------------------------------------------------------------- ablations: one field at a time


def steps(panels):
    """Which panels differ in one field alone: [(field, fixed, [(value, Panel), ...] in order)].

    A setting of one field is compared with the primary one; of several, by its first field, with
    those that share the rest (`fixed`, a dictionary): {"lr": 0.1, "temperature": 2.0} with
    {"temperature": 2.0}. Crossed teacher seeds are not steps."""
    base, found = next(p for p in panels if not p.setting), {}
    some = [p for p in panels if "teacher_seed" not in p.setting]
    changed = {name for p in panels for name in p.setting} - {"teacher_seed"}

    def value(p, name):
        return getattr(p.runs["kd"][0].config, name)

    for setting in (p.setting for p in some if p.setting):
        field, *more = setting
        fixed = {name: setting[name] for name in more}
        wanted = {name: fixed.get(name, value(base, name)) for name in changed - {field}}
        levels = [
            (value(p, field), p)
            for p in some
            if all(value(p, name) == v for name, v in wanted.items())
        ]
        found[field, str(fixed)] = field, fixed, sorted(levels, key=lambda level: _depth(level[0]))
    return list(found.values())


def ablations(panels, methods):
    """Gain over one_hot by setting: one row per (field, level, bucket, method).

    `base` marks the primary value. See steps."""
    base, rows = next(p for p in panels if not p.setting), []
    for field, fixed, levels in steps(panels):
        words = field + "".join(f" at {name} {value:g}" for name, value in fixed.items())
        for value, p in levels:
            table = gain_by_bucket(p, methods)
            keep = table[table.bucket.isin(("average", table.bucket.iloc[-1]))]
            rows.append(
                keep.assign(
                    bucket=np.where(keep.bucket == "average", "average", "rarest bucket"),
                    field=words,
                    level=f"{value:g}" if isinstance(value, float) else str(value),
                    base="yes" if value == getattr(base.runs["kd"][0].config, field) else "",
                )
            )
    return pd.concat(rows, ignore_index=True)


def _depth(value):
    """Sorts resnet8 before resnet14, and no seed before the first."""
    if isinstance(value, str):
        return len(value), value
    return (-1 if value is None else value), ""


@in_style
def length(table, pair):
    """ablations of the epochs -> Shown: the gains against the number of epochs.

    A line marks the length of the primary study."""
    figure, both = axes_of(columns=2, height=3.4, sharey=True)
    epochs = table.level.astype(int)
    gate = epochs[table.base == "yes"].iloc[0]
    for axes, place in zip(both, ("average", "rarest bucket"), strict=True):
        for method in dict.fromkeys(table.method):
            rows = table[(table.method == method) & (table.bucket == place)]
            colour, marker = look_of(method)
            spread = np.nan_to_num(np.array([rows.estimate - rows.low, rows.high - rows.estimate]))
            mark = {"fmt": f"{marker}-", "color": colour, "capsize": 3}
            axes.errorbar(epochs[rows.index], rows.estimate, spread, label=method, **mark)
        axes.axhline(0, color="#444444", linewidth=1)
        axes.axvline(gate, color="#444444", linewidth=1, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(epochs)), sorted(set(epochs)), minor=False)
        axes.minorticks_off()
        axes.set_title("average" if place == "average" else "rarest classes")
        axes.set_xlabel("epochs")
    both[0].set_ylabel("gain over one-hot, points")
    both[0].annotate(
        "primary study",
        (gate, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -10),
        textcoords="offset points",
        fontsize=8,
    )
    legend(figure, both[0])
    kd = table[table.method == "distillation"].set_index(["bucket", "level"])

    def shows(level):
        average, rarest = clear(kd.loc["average", level]), clear(kd.loc["rarest bucket", level])
        return f"{average} on average and {rarest} on the rarest classes"

    first, last = str(min(epochs)), str(max(epochs))
    sentence = (
        f"{pair}: after {first} epochs distillation shows {shows(first)}; "
        f"after {last} epochs {shows(last)}."
    )
    caption = (
        "Each length against one-hot training of the same length, teachers too. The dotted line is "
        "the length of the primary study; page 91 says whether it passes the gate. Bars are 95 % "
        "intervals."
    )
    return Shown(figure, sentence, caption, table)


def ablation_figure(table, pair):
    """ablations of one field -> Shown, by what the field is."""
    return length(table, pair) if table.field.iloc[0] == "epochs" else ablation(table, pair)


@in_style
def ablation(table, pair):
    """ablations of one field -> Shown."""
    words = table.field.iloc[0].replace("_", " ")
    figure, both = axes_of(columns=2, height=3.4)
    for axes, place in zip(both, ("average", "rarest bucket"), strict=True):
        seeds_and_intervals(axes, table[table.bucket == place], "level")
        axes.set_title(place)
        axes.set_xlabel(words)
    both[0].set_ylabel("gain over one-hot, points")
    legend(figure, both[0])
    rows = table[(table.method == "distillation") & (table.bucket == "rarest bucket")]
    low, high = rows.loc[rows.estimate.idxmin()], rows.loc[rows.estimate.idxmax()]
    harmed = ", ".join(row.level for row in rows.itertuples() if row.high < 0)
    base = rows[rows.base == "yes"].level.iloc[0]
    sentence = (
        f"{pair}: over {words}, the gain of distillation in the rarest bucket runs from "
        f"{number(low.estimate)} at {low.level} to {number(high.estimate)} at {high.level}; clear "
        f"harm at {harmed or 'none of them'}."
    )
    caption = (
        f"Everything else as in the primary configuration, which has {base}; each level against "
        "the mean of the one-hot networks on the same data. Dots are seeds, bars 95 % intervals."
    )
    return Shown(figure, sentence, caption, table)


def variance_components(panels, method="kd"):
    """Variance of the gain by its source, in points squared: one row per (bucket, source).

    Sources: draw, teacher, student, and what is left (see moments). Method of moments for main
    effects in a crossed balanced design over the panels that differ in draw_seed or teacher_seed
    only; None if there are fewer than two draws. A negative estimate is 0."""
    some = [p for p in panels if set(p.setting) <= {"draw_seed", "teacher_seed"}]
    crossed = [p for p in some if len(p.setting) == 2]
    some = crossed or [p for p in some if set(p.setting) <= {"draw_seed"}]

    def draw_of(p):
        return p.runs[method][0].config.draw_seed

    def teacher_of(p):
        return p.setting.get("teacher_seed", -1)

    draws, teachers = sorted(set(map(draw_of, some))), sorted(set(map(teacher_of, some)))
    if len(draws) < 2 or len(some) != len(draws) * len(teachers):
        return None
    rows, levels = [], {"draw": len(draws), "teacher": len(teachers)}
    for place in ("average", "rarest bucket"):
        gains, luck = np.full((len(draws), len(teachers), some[0].seeds), np.nan), []
        for p in some:
            weights = p.average if place == "average" else p.in_bucket(filled_buckets(p)[-1][0])
            at = draws.index(draw_of(p)), teachers.index(teacher_of(p))
            gains[at] = (p.group_gain(method) * weights).sum(axis=1)
            pool = p.accuracy("one_hot").observed @ weights.mean(axis=0)
            luck.append(pool.var(ddof=1) / len(pool))
        sources = moments(gains)
        # the seeds of a draw share its baselines, whose luck is not the draw's
        sources["draw"] = max(0.0, sources["draw"] - np.mean(luck))
        for source, variance in sources.items():
            rows.append(
                {
                    "bucket": place,
                    "source": source,
                    "variance": variance,
                    "standard deviation": variance**0.5,
                    "levels": levels.get(source, gains.size),
                }
            )
    return pd.DataFrame(rows)


def variances_of(panels):
    """[Shown] of the variance by source; empty where the panels are of one draw."""
    table = variance_components(panels)
    return [] if table is None else [variances(table, panels[0].name)]


def moments(gains):
    """{source: variance} of gains (draws, teachers, seeds) by the main-effects model.

    "teacher" and "student" only if there are two teachers or more."""
    d, t, s = gains.shape
    effects = {"draw": (gains.mean(axis=(1, 2)), t * s)}  # means of the levels, gains in each
    if t > 1:
        effects["teacher"] = (gains.mean(axis=(0, 2)), d * s)
        effects["student"] = (gains.mean(axis=(0, 1)), d * t)
    sums = {name: n * ((means - gains.mean()) ** 2).sum() for name, (means, n) in effects.items()}
    left = gains.size - 1 - sum(len(means) - 1 for means, _ in effects.values())
    residual = (((gains - gains.mean()) ** 2).sum() - sum(sums.values())) / left
    out = {}
    for name, (means, n) in effects.items():
        out[name] = max(0.0, (sums[name] / (len(means) - 1) - residual) / n)
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
    sentence = (
        f"{pair}: in the rarest bucket most of the spread of distillation's gain comes from "
        f"{most.source} (standard deviation {most['standard deviation']:.1f} points)."
    )
    caption = (
        "Method of moments for main effects; a source that shows no more than the rest is 0. What "
        "is left: what varies within a draw (and teacher), test examples included."
    )
    return Shown(figure, sentence, caption, table)


# ---------------------------------------------------------------- the choice of the recipe, on val


@in_style
def search_steps(table, title):
    """choice.scores -> Shown: a row for each level, step by step from above."""
    questions = list(dict.fromkeys(table.question))
    sizes = [int((table.question == q).sum()) for q in questions]
    height = 1.1 + 0.27 * (sum(sizes) + len(sizes))
    rows_of_steps = {"rows": len(questions), "height_ratios": sizes}
    figure, subplots = axes_of(height=height, sharex=True, **rows_of_steps)
    all_axes = np.atleast_1d(subplots)
    for axes, question in zip(all_axes, questions, strict=True):
        rows = table[table.question == question].reset_index(drop=True)
        for y, row in rows.iterrows():
            level = np.full(len(row.per_seed), y)
            axes.plot(row.per_seed, level, ".", color="#767676", markersize=5)
            marker, colour, size = ("*", "#D55E00", 11) if row.chosen else ("o", "#0072B2", 6)
            axes.plot(row["mean"], y, marker, color=colour, markersize=size)
        axes.set_yticks(range(len(rows)), rows.level, fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(question, loc="left", fontsize=9)
    all_axes[-1].set_xlabel("accuracy on val, %")
    chosen = "; ".join(table[table.chosen == "yes"].level)
    caption = (
        "Small dots are seeds that no other study uses, large marks their mean, a star the level "
        "that is taken. Each step has what the steps above it chose. Test images are not looked at."
    )
    return Shown(figure, f"{title}: the search takes {chosen}.", caption, table)
