"""Figures of the page on when distillation must harm a minority; see theory.py."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator

from kdlib.evidence import ridge, smoothers
from kdlib.evidence.ridge import BOTH, EXAMPLES, ONLY_MAJORITY, ONLY_MINORITY
from kdlib.evidence.words import number
from kdlib.methods import BLACK, BLUE, GREEN, look_of
from kdlib.pages import theory
from kdlib.pages.drawing import DESK, LINE, axes_of, captioned, legend
from kdlib.pages.theory import ADAPTED, CHANGES, DISTILLED, GROUPS, KEPT_OUT, ON_A_LINE, ONE_HOT

TRUTH = "#d98cb8"
COLOURS = {name: look_of(name)[0] for name in (ONE_HOT, DISTILLED, ADAPTED)} | {KEPT_OUT: GREEN}
SHARES, PENALTIES = (0.02, 0.05, 0.1, 0.2, 0.4), (0.001, 0.01, 0.05, 0.5)  # in a table
CELLS = 90  # of a heat map, along either axis


@captioned
def plot_functions(setting):
    """Kernel ridge regression on a line. The minority has the inputs at the right, shaded.
    Lines are expected predictions, bands one standard deviation of them over the noise of the
    targets, strokes the inputs of the training examples. Majority only is distillation in which the
    examples of the minority keep their own targets; its line lies on that of distillation in the
    majority and on that of one-hot in the minority. Bars show by how many per cent a method changes
    the expected squared error of one-hot; AdaAlpha has bars only."""
    line, _, fitted = theory.on_the_line(setting)
    table = theory.errors(setting)
    every = table[table.model == ON_A_LINE].drop(columns="model")
    change_of = every.set_index("method")[CHANGES]

    def paint(width):
        shape = {"columns": 2, "width_ratios": (1.9, 1)}
        if width < DESK:
            shape = {"rows": 2, "height_ratios": (1.3, 1)}
        figure, (left, right) = axes_of(width, 3.0 if width >= DESK else 5.2, **shape)
        x = line.tests
        true = smoothers.truth(line.tests)
        left.axvspan(smoothers.EDGE, 1, color=BLACK, alpha=0.06, linewidth=0)
        left.plot(x, true, color=TRUTH, linewidth=4, label="truth")
        for method, style in ((ONE_HOT, "--"), (DISTILLED, "-"), (KEPT_OUT, ":")):
            _, matrix = fitted[method]
            mean, spread = smoothers.moments(matrix, smoothers.truth(line.inputs), setting.noise)
            left.plot(x, mean, style, color=COLOURS[method], label=method)
            if method != KEPT_OUT:
                ends = mean - spread, mean + spread
                left.fill_between(x, *ends, color=COLOURS[method], alpha=0.18, linewidth=0)
        strokes = np.full(EXAMPLES, left.get_ylim()[0])
        left.plot(line.inputs, strokes, "|", color="#444444", markersize=7, markeredgewidth=0.6)
        left.margins(y=0.13)
        left.set(xlabel="input", ylabel="target", xlim=(0, 1))
        for at, group in ((smoothers.EDGE / 2, "majority"), ((1 + smoothers.EDGE) / 2, "minority")):
            left.text(at, 0.94, group, ha="center", transform=left.get_xaxis_transform())
        for place, method, hatch in ((-1, DISTILLED, ""), (0, ADAPTED, "//"), (1, KEPT_OUT, "..")):
            look = {"color": COLOURS[method], "edgecolor": "white", "hatch": hatch}
            # the legend of the figure has the lines of the other methods
            look["label"] = ADAPTED if method == ADAPTED else None
            values = change_of.loc[method]
            bars = right.bar(np.arange(3) + 0.29 * place, values, 0.27, **look)
            words = [number(v, "", 0 if abs(v) >= 10 else 1) for v in values]
            right.bar_label(bars, words, padding=1, fontsize=6.5)
        right.margins(y=0.08)
        right.axhline(0, **LINE)
        right.set_xticks(range(3), GROUPS, fontsize=8.5)
        right.set_ylabel("change of squared error, %")
        how = {"loc": "outside upper left", "ncols": 5 if width >= DESK else 3}
        figure.legend(columnspacing=1.2, handletextpad=0.4, **how)
        return figure

    return paint, theory.said(table), every


# ---------------------------------------------------------------- the region


def limits(setting):
    """DataFrame: the lines of the region's figure, at some shares and at some teacher's penalties.

    What a row does not name is as in the setting."""
    shares = [*SHARES, *(setting.share for _ in PENALTIES)]
    penalties = [*(setting.teacher_penalty for _ in SHARES), *PENALTIES]
    at = replace(setting, share=np.array(shares), teacher_penalty=np.array(penalties))
    columns = {"share of the minority": shares, "teacher's penalty": penalties}
    for groups, name in ((ONLY_MINORITY, "minority"), (BOTH, "average")):
        columns[f"noise, limit of the {name}"] = ridge.noise_limit(at, groups)
        columns[f"weight, limit of the {name}"] = ridge.weight_limit(at, groups)
    columns["noise above which AdaAlpha spares the minority"] = ridge.adaptive_noise_limit(at)
    return pd.DataFrame(columns).drop_duplicates()


@captioned
def plot_region(setting):
    """Linear ridge regression. Coloured is the region where distillation lowers the average squared
    error and raises the minority's, by how many per cent of one-hot's, which is small where there
    is little noise; the limits of the region are lines from the formulas. Above the dotted line,
    AdaAlpha's weight does not harm the minority. The star is the setting of this page, if it lies
    within the axes. Where a limit of the weight is 0 or less, every weight raises that error; where
    it is 1 or more, none does."""
    shares, noises = np.geomspace(0.01, 0.5, CELLS), np.geomspace(0.02, 4, CELLS)
    penalties = np.geomspace(1e-4, 1, CELLS)
    weights = np.linspace(0.01, 1, CELLS)

    def paint(width):
        shape = {"columns": 2} if width >= DESK else {"rows": 2}
        figure, axes = axes_of(width, 3.9 if width >= DESK else 7.4, **shape)
        edges = replace(setting, share=shares), replace(setting, teacher_penalty=penalties)
        _heat(axes[0], shares, noises, replace(edges[0], noise=noises[:, None]))
        image = _heat(axes[1], penalties, weights, replace(edges[1], alpha=weights[:, None]))
        for groups, style, words in (
            (ONLY_MINORITY, "-", "limit of the minority"),
            (BOTH, "--", "limit of the average"),
        ):
            look = {"color": "black", "linestyle": style}
            axes[0].plot(shares, ridge.noise_limit(edges[0], groups), label=words, **look)
            limit = ridge.weight_limit(edges[1], groups)
            axes[1].plot(penalties, np.where(limit > 1, np.nan, limit), **look)
        spared = ridge.adaptive_noise_limit(edges[0])
        axes[0].plot(shares, spared, ":", color="black", label="above: AdaAlpha spares it")
        star = {"marker": "*", "color": BLUE, "markersize": 15, "linestyle": "none"}
        star |= {"markerfacecolor": "none", "markeredgewidth": 1.5}
        axes[0].plot(setting.share, setting.noise, label="this page", **star)
        axes[1].plot(setting.teacher_penalty, setting.alpha, **star)
        axes[0].set(xlabel="share of the minority", ylabel="noise")
        axes[1].set(xlabel="teacher's penalty", ylabel="weight of the teacher", ylim=(0, 1.04))
        _log(axes[0], "x", (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
        _log(axes[0], "y", (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4))
        _log(axes[1], "x", (0.0001, 0.001, 0.01, 0.1, 1))
        where = {"location": "right" if width >= DESK else "bottom", "aspect": 35}
        bar = figure.colorbar(image, ax=axes, label="harm to the minority, %", **where)
        bar.set_ticks([1, 10, 100, 1000], labels=["1", "10", "100", "1000"])
        bar.minorticks_off()
        legend(figure, axes[0])
        return figure

    least, most = (ridge.weight_limit(setting, groups) for groups in (ONLY_MINORITY, BOTH))
    least, most = max(least, 0), min(most, 1)
    where = "no weight of the teacher lowers the average error and harms the minority"
    if least < most:
        where = (
            "the average error falls and the minority’s rises if and only if the teacher’s weight "
            f"lies between {least:.2f} and {most:.2f}"
        )
    sentence = f"At the share, the noise and the penalties of this page, {where}."
    return paint, sentence, limits(setting)


def _heat(axes, x, y, grid):
    """Colour where the average falls and the minority is harmed, by how much. Returns the image."""
    before, after = ridge.risks(grid, (0, 0)), ridge.risks(grid)
    falls = ridge.average(grid, after) < ridge.average(grid, before)
    harm = np.broadcast_to(100 * (after[1] / before[1] - 1), falls.shape)
    shown = np.ma.masked_where(~(falls & (harm > 0)), harm)
    axes.set_facecolor("#eeeeee")
    axes.grid(visible=False)
    look = {"cmap": "YlOrRd", "norm": LogNorm(1, 1000), "rasterized": True}
    return axes.pcolormesh(x, y, shown, shading="nearest", **look)


def _log(axes, which, values):
    """Make an axis ("x" or "y") logarithmic, from the first to the last of the values it names."""
    names = [f"{value:g}" for value in values]
    limits = values[0], values[-1]
    axes.set(**{f"{which}scale": "log", f"{which}lim": limits, f"{which}ticks": values})
    axes.set(**{f"{which}ticklabels": names})
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())


# ---------------------------------------------------------------- a weight by group


@captioned
def plot_weights(setting):
    """Linear ridge regression: the weight of the teacher that is best for each group; the one that
    AdaAlpha gives it, which is the teacher's R² on held-out targets; and, in grey, the weights
    that harm the group."""
    noises = np.geomspace(0.05, 5, 60)
    grid = replace(setting, noise=noises)
    best = ridge.best_weights(grid)
    given = ridge.reliability(grid)
    limits = [ridge.weight_limit(grid, groups) for groups in (ONLY_MAJORITY, ONLY_MINORITY)]

    def paint(width):
        shape = {"columns": 2} if width >= DESK else {"rows": 2}
        height = 2.9 if width >= DESK else 5.0
        figure, axes = axes_of(width, height, sharex=True, sharey=True, **shape)
        for k, one in enumerate(axes):
            harmful = np.clip(limits[k], 0, 1)
            one.fill_between(noises, harmful, 1, color="#888888", alpha=0.3, label="harm")
            one.plot(noises, best[k], color=GREEN, label="best for the group")
            one.plot(noises, given[k], "--", color=COLOURS[ADAPTED], label="AdaAlpha's")
            one.set_title(GROUPS[k])
            one.set_ylim(-0.02, 1.02)
            _log(one, "x", (0.05, 0.2, 1, 5))
        axes[0].set_ylabel("weight of the teacher")
        figure.supxlabel("noise", fontsize=10)
        legend(figure, axes[0])
        return figure

    columns = {"noise": noises}
    for k, group in enumerate(GROUPS[:2]):
        columns |= {f"best, {group}": best[k], f"AdaAlpha's, {group}": given[k]}
        columns |= {f"harm above, {group}": limits[k]}
    table = pd.DataFrame(columns).iloc[::5]
    sentence = (
        f"From noise {noises[0]:.2f} to {noises[-1]:.0f}, the minority’s best weight goes from "
        f"{best[1][0]:.2f} to {best[1][-1]:.2f}, and AdaAlpha’s goes from "
        f"{given[1][0]:.2f} to {given[1][-1]:.2f} and harms the minority up to noise "
        f"{ridge.adaptive_noise_limit(setting):.2f}."
    )
    return paint, sentence, table


@captioned
def plot_shared(setting):
    """One weak input that both groups have, with another coefficient in the minority. Below the
    dashed line no weights by group lower the average error; up to the solid line, every choice of
    weights except (0, 0) raises the minority's; above it, some weights lower both. Share and
    penalties are those of this page."""
    relations = np.linspace(1, 4, CELLS)
    low = 0.02
    high = 5
    spared, average = ridge.shared_limits(setting, relations)
    rises, falls = np.clip(spared, low, high), np.clip(average, low, high)

    def paint(width):
        figure, axes = axes_of(width, 3.3)
        look = {"alpha": 0.5, "linewidth": 0}
        for below, above, colour, words in (
            (low, falls, "#cccccc", "the average cannot fall"),
            (falls, rises, "#f0a860", "it can, by harming the minority"),
            (rises, high, "#9fd3c0", "some weights lower both"),
        ):
            axes.fill_between(relations, below, above, color=colour, label=words, **look)
        axes.plot(relations, rises, color="black", label="limit of the minority")
        axes.plot(relations, falls, "--", color="black", label="limit of the average")
        axes.set(xlim=(1, 4), ylabel="noise", xlabel="minority's true coefficient (majority's: 1)")
        _log(axes, "y", (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5))
        legend(figure, axes)
        return figure

    columns = {"minority's true coefficient": relations, "limit of the minority": spared}
    table = pd.DataFrame(columns | {"limit of the average": average})
    above, below = map(float, ridge.shared_limits(setting, 2.0))
    sentence = "Where an input means twice as much in the minority, "
    if below < above:
        sentence += (
            f"and the noise lies between {below:.2f} and {above:.2f}, weights by group can lower "
            "the average, and all of them harm the minority."
        )
    else:
        sentence += "some weights by group lower the minority’s error, whatever the noise."
    return paint, sentence, table.iloc[::6], f"The input has variance {ridge.SHARED:g}."
