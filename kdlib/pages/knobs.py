"""What a remedy depends on, sensitivity alone: how much of the teacher AdaAlpha keeps, where."""

import numpy as np
import pandas as pd

from kdlib.evidence.stats import interval
from kdlib.methods import look_of, name_of
from kdlib.pages.classes import by_frequency, name_classes
from kdlib.pages.drawing import DESK, axes_of, captioned, drawn, legend
from kdlib.pages.shown import row_of, within


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

    Each row has the method's mean alpha; methods without one are left out."""
    rows = []
    for method in methods:
        alpha = mean_alpha(p, method)
        if alpha is None:
            continue
        for other in ("kd", "one_hot"):
            same = 100 * p.means(np.equal(*p.paired(method, other)))
            labels = {"as": name_of(other), "alpha": alpha.mean(), "method": name_of(method)}
            rows.append(row_of(within(interval(*same.map(np.mean, axis=-1))), **labels))
    return pd.DataFrame(rows).sort_values("alpha", kind="stable", ignore_index=True)


@captioned
def plot_collapse(p):
    """Variants run from the lowest to the highest mean weight of the teacher, alpha (in brackets);
    the marks show on how many test images they predict the same as distillation or one-hot
    training. Bars are 95 % intervals over seeds and test images. Two runs from the same starting
    weights and batches agree more, the closer their losses are: AdaAlpha is close to distillation
    near alpha = 1, and to one-hot training near 0."""
    table = collapse(p, p.runs)
    short = table.method.str.removeprefix("AdaAlpha, ")
    rows = short + table.alpha.map(" ({:.2f})".format)
    marks = table.assign(row=rows, other="same as " + table["as"]).drop(columns="per_seed")
    looks = {f"same as {name}": look_of(name) for name in table["as"]}

    def paint(width):
        how = {"hue": "other", "looks": looks.get, "width": width, "height": 1.2 + 0.2 * len(table)}
        label = "equal predictions, %"
        figure, (axes,) = drawn(marks, "row", label, across=True, zero=False, **how)
        legend(figure, axes)
        if width < DESK:
            axes.tick_params(axis="y", labelsize=8)
        return figure

    ada = table[table.method.str.startswith("AdaAlpha") & (table["as"] == "distillation")]
    least, most = ada.iloc[0], ada.iloc[-1]
    sentence = (
        f"{p.name}: AdaAlpha's mean weight of the teacher ranges from {least.alpha:.2f} "
        f"({least.method}) to {most.alpha:.2f} ({most.method}), where it predicts the same as "
        f"distillation on {most.estimate:.0f} % of test examples."
    )
    return paint, sentence, table


def alphas(p, methods):
    """The alpha of each group, mean over seeds: one row per (variant of AdaAlpha, group)."""
    frames = []
    for method in methods:
        used = [r.facts.get("margins") for r in p.runs[method]]
        by_group = all(u and len(u) == len(p.group_names) for u in used)
        if p.runs[method][0].config.method == "ada_alpha" and by_group:
            frame = by_frequency(p, alpha=np.mean(used, axis=0)).drop(columns="bucket")
            frame.insert(0, "variant", name_of(method))
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


PALETTE = ("#D55E00", "#0072B2", "#007a5a", "#8a4f7d", "#9a6a00", "#000000", "#767676")
MARKERS = "osDv^Px<>"


@captioned
def plot_alphas(p):
    """Classes run from most to fewest training images; lines are means over seeds, without
    intervals. Alpha is the weight of the teacher in AdaAlpha: 1 is plain distillation, 0 one-hot
    training."""
    table = alphas(p, p.runs)
    if not len(table):
        return None

    def paint(width):
        figure, axes = axes_of(width, height=3.9)
        for k, (name, rows) in enumerate(table.groupby("variant", sort=False)):
            look = {"marker": MARKERS[k % len(MARKERS)], "color": PALETTE[k % len(PALETTE)]}
            look["label"] = name.removeprefix("AdaAlpha, ")
            axes.plot(range(len(rows)), rows.alpha, linewidth=1, markersize=4, **look)
        name_classes(axes, rows)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("weight of the teacher, alpha")
        legend(figure, axes, beside=True)
        return figure

    mean = table.groupby("variant", sort=False).alpha.mean()
    sentence = (
        f"{p.name}: the mean alpha over classes is lowest for {mean.idxmin()} ({mean.min():.2f}) "
        f"and highest for {mean.idxmax()} ({mean.max():.2f})."
    )
    return paint, sentence, table
