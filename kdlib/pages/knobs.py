"""What a remedy depends on, sensitivity alone: how much of the teacher AdaAlpha keeps, where."""

import numpy as np
import pandas as pd

from kdlib.evidence.stats import interval
from kdlib.methods import look_of, name_of
from kdlib.pages.classes import by_frequency, name_classes
from kdlib.pages.shown import axes_of, captioned, legend, row_of


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

    Its mean alpha stands beside it; methods without one are left out."""
    rows = []
    for method in methods:
        alpha = mean_alpha(p, method)
        if alpha is None:
            continue
        for other in ("kd", "one_hot"):
            same = 100 * p.means(np.equal(*p.paired(method, other)))
            labels = {"as": name_of(other), "alpha": alpha.mean(), "method": name_of(method)}
            rows.append(row_of(interval(*same.map(np.mean, axis=-1)), **labels))
    return pd.DataFrame(rows).sort_values("alpha", kind="stable", ignore_index=True)


NAME_WIDTH = 0.05  # of a name written upwards, in units of alpha


@captioned
def plot_collapse(p):
    """Each mark is one variant, mean over seeds; two runs from the same starting weights and
    batches agree more, the nearer their losses. Near alpha = 1 AdaAlpha is distillation, near 0
    one-hot training."""
    table = collapse(p, p.runs)
    figure, axes = axes_of(height=4.8)
    for other, rows in table.groupby("as", sort=False):
        colour, marker = look_of(other)
        label = f"predicts the same as {other}"
        axes.plot(rows.alpha, rows.estimate, marker=marker, color=colour, label=label)
    upwards = {"rotation": 90, "fontsize": 8, "ha": "center", "va": "bottom"}
    upwards["arrowprops"] = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
    above = axes.get_xaxis_transform()
    x = -1.0
    for alpha, rows in table.groupby("alpha"):
        for method in rows.method.unique():
            x = max(x + NAME_WIDTH, alpha)  # names stand above the axes, side by side
            name = method.removeprefix("AdaAlpha, ")
            axes.annotate(
                name, (alpha, rows.estimate.max()), (x, 1.06), textcoords=above, **upwards
            )
    axes.set_xlabel("mean weight of the teacher, alpha")
    axes.set_ylabel("% of test examples")
    legend(figure, axes)
    ada = table[table.method.str.startswith("AdaAlpha") & (table["as"] == "distillation")]
    least, most = ada.iloc[0], ada.iloc[-1]
    sentence = (
        f"{p.name}: AdaAlpha's mean weight of the teacher runs from {least.alpha:.2f} "
        f"({least.method}) to {most.alpha:.2f} ({most.method}), where it predicts the same as "
        f"distillation on {most.estimate:.0f} % of test examples."
    )
    return figure, sentence, table


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
    """Classes from most to fewest training images, means over seeds."""
    table = alphas(p, p.runs)
    if not len(table):
        return None
    figure, axes = axes_of(height=3.9)
    for k, (name, rows) in enumerate(table.groupby("variant", sort=False)):
        look = {"marker": MARKERS[k % len(MARKERS)], "color": PALETTE[k % len(PALETTE)]}
        label = name.removeprefix("AdaAlpha, ")
        axes.plot(range(len(rows)), rows.alpha, linewidth=1, markersize=4, label=label, **look)
    name_classes(axes, rows)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("alpha of the class")
    legend(figure, axes, beside=True)
    mean = table.groupby("variant", sort=False).alpha.mean()
    sentence = (
        f"{p.name}: the mean alpha over classes is lowest for {mean.idxmin()} ({mean.min():.2f}) "
        f"and highest for {mean.idxmax()} ({mean.max():.2f})."
    )
    return figure, sentence, table
