"""How figures are drawn: in one style, for a desk and for a phone, as accessible HTML.

A figure function gives (paint, sentence, table). paint(width) draws it so many inches wide; it is
called when the figure is looked at, so that a sentence alone costs no drawing.
"""

import contextlib
import functools
import io
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib.style
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from kdlib.evidence.counts import BUCKETS
from kdlib.methods import look_of
from kdlib.pages.shown import HERE, base64_of, html_of, table_html

STYLE = str(HERE / "paper.mplstyle")
LINE = {"color": "#444444", "linewidth": 1}  # of zero
DESK, PHONE = 7.2, 4.0  # inches; on a phone 390 px wide 8 points are then 9.8 px
LETTER, HANDLE = 0.062, 0.45  # inches: of a legend a usual letter, and a mark with its room
THIN = "1234"  # markers of lines alone
MANY = 1500  # marks, above which they are a picture, and names may cover some
BESIDE = 8  # points: size of names that stand in a figure


@contextlib.contextmanager
def _style():
    """Draw in the project's style; a letter that the font lacks becomes a box."""
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph .* missing")
        yield


@dataclass(frozen=True)
class Shown:
    """A figure with its sentence (also its alternative text), its caption and its data."""

    paint: Callable = field(repr=False)  # (width in inches) -> Figure
    sentence: str
    caption: str
    table: pd.DataFrame

    def drawn(self, width):
        """The Figure at a width, laid out, so that every later drawing is the same."""
        with _style():
            figure = self.paint(width)
            lay_out(figure)
        return figure

    @functools.cached_property
    def figure(self):
        return self.drawn(DESK)

    def svg(self, narrow=False):
        """The figure as SVG bytes: identical for identical input. narrow: for a phone.

        Letters are text, which takes half the room and has every script that the browser has."""
        figure = self.drawn(PHONE) if narrow else self.figure
        buffer = io.BytesIO()
        with _style():
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def _repr_html_(self):
        pictures = [base64_of(self.svg(narrow)) for narrow in (False, True)]
        data = Markup(table_html(in_words(self.table), self.caption))
        return html_of("figure", self.sentence, self.caption, *pictures, data)


def captioned(draw):
    """Make a function that gives (paint, sentence, table), or None, into one that gives a Shown.

    Its docstring is the caption, so that what a figure shows is said once; what more the caption
    says of the data comes as a fourth value."""
    docstring = " ".join(draw.__doc__.split())

    @functools.wraps(draw)
    def shown(*arguments, **options):
        found = draw(*arguments, **options)
        if found is None:
            return None
        paint, sentence, table, *more = found
        return Shown(paint, sentence, " ".join([docstring, *filter(None, more)]), table)

    return shown


# ---------------------------------------------------------------- words


def shot(name):
    """A bucket in words: few-shot for "few"; other names as they are."""
    return f"{name}-shot" if name in BUCKETS else name


def in_words(table):
    """A table with its buckets in words."""
    return table.assign(bucket=table.bucket.map(shot)) if "bucket" in table else table


# ---------------------------------------------------------------- axes


def axes_of(width=DESK, height=3.6, columns=1, rows=1, **options):
    """(Figure, its axes): one, or an array of `columns` or `rows`."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def lay_out(figure):
    """Give everything its place, once and for all."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def legend(figure, axes, beside=False):
    """The legend of some axes: in rows above, or in a column `beside` them if there is room."""
    handles, labels = axes.get_legend_handles_labels()
    # of a mark with its bar, the mark
    handles = [h.lines[0] if isinstance(h, ErrorbarContainer) else h for h in handles]
    width = figure.get_figwidth()
    if beside and width >= DESK:
        where = {"loc": "outside right upper", "fontsize": 8}
    else:
        rooms = sorted((HANDLE + LETTER * len(label) for label in labels), reverse=True)
        columns = max(1, int((np.cumsum(rooms) < width).sum()))
        where = {"loc": "outside upper left", "ncols": columns, "columnspacing": 1.2}
    figure.legend(handles, labels, handletextpad=0.3, **where)


def places_of(table, place, hue="method"):
    """((N,) where the mark of each row is, the room of one): hues are side by side in a place."""
    at = pd.factorize(table[place])[0].astype(float)
    if not table[place].duplicated().any():
        return at, 0.8
    number, names = pd.factorize(table[hue])
    room = 0.8 / len(names)
    return at + (number - (len(names) - 1) / 2) * room, room


def points(axes, table, place, label, hue="method", looks=look_of, across=False):
    """A mark for each method (`hue`) at each place, its interval as a bar, each seed as a dot.

    table: columns `place`, `hue`, estimate, and low, high, per_seed where there are any. label: of
    the axis of the values, which runs `across` if places are one below the other. looks: name ->
    (colour, marker)."""
    at, room = places_of(table, place, hue)
    room /= 4
    names = table[place].drop_duplicates()
    crowded = len(names) > 40
    for name in table[hue].drop_duplicates():
        mine = (table[hue] == name).to_numpy()
        rows = table[mine]
        colour, marker = looks(name)
        look = {"color": colour, "zorder": 3, "elinewidth": 1.4, "markeredgewidth": 1.4}
        size = 9 if marker in THIN else 6
        look |= {"fmt": marker, "label": name, "markersize": 3 if crowded else size}
        ends = None
        if "low" in rows:
            # not below 0, by rounding
            ends = np.maximum([rows.estimate - rows.low, rows.high - rows.estimate], 0)
            look["capsize"] = 1.5 if crowded else 3
        bars = {"xerr" if across else "yerr": ends}
        axes.errorbar(*_turned(at[mine], rows.estimate, across), **bars, **look)
        if "per_seed" in rows:
            for spot, seeds in zip(at[mine], rows.per_seed, strict=True):
                spots = spot + np.linspace(-room, room, len(seeds))  # not under the bar
                dots = _turned(spots, seeds, across)
                axes.plot(*dots, "o", color=colour, alpha=0.4, markersize=3.5, markeredgewidth=0)
    ticks = axes.set_yticks if across else axes.set_xticks
    ticks(range(len(names)), names)
    limits = (len(names) - 0.5, -0.5) if across else (-0.5, len(names) - 0.5)
    if across:
        axes.set(ylim=limits, xlabel=label)
        axes.grid(visible=True)
    else:
        axes.set(xlim=limits, ylabel=label)
        axes.tick_params(axis="x", length=0)


def _turned(places, values, across):
    return (values, places) if across else (places, values)


def drawn(table, place, label, by=None, zero=True, across=False, width=DESK, height=3.6, **how):
    """(figure, its axes): `points` with a line at zero and a legend.

    by: a column, each of whose values has axes of its own, side by side; one above the other where
    they are narrow, unless they run `across`. how: see points."""
    parts = [(None, table)] if by is None else list(table.groupby(by, sort=False))
    shape = {"columns": len(parts)}
    if width < DESK and not across:
        shape = {"rows": len(parts)}
        height *= 0.4 + 0.6 * len(parts)
    names = [textwrap.fill(str(name), 20) for name in parts[0][1][place].unique()]
    if width < DESK and across and by:  # names of three lines need more room
        height += 0.12 * len(names) * max(0, max(n.count("\n") for n in names) - 1)
    figure, all_axes = axes_of(width, height, sharey=across and "row", squeeze=False, **shape)
    all_axes = all_axes.ravel()
    for axes, (title, rows) in zip(all_axes, parts, strict=True):
        points(axes, rows, place, "" if across and by else label, across=across, **how)
        axes.set_title(title)
        if zero:
            (axes.axvline if across else axes.axhline)(0, **LINE)
        if across and width >= DESK:
            axes.locator_params(axis="x", nbins=6)  # −12.5 and −10.0 would touch
    if across and by:
        figure.supxlabel(label, fontsize=10)
        if width < DESK:
            all_axes[0].set_yticks(range(len(names)), names, fontsize=8, linespacing=0.9)
    if not across:
        for axes in all_axes[1:] if "columns" in shape else ():
            axes.set_ylabel("")
        legend(figure, all_axes[0])
    return figure, all_axes


def margin_against_gain(width, table, hue, looks, over):
    """Figure: the teacher's margin in each group against its gain over another method.

    table: columns group, margin, gain and `hue`; looks: {hue: (colour, marker)}. Named are the
    groups that gain most and least, and the one of the lowest margin."""
    figure, axes = axes_of(width, height=4.0)
    size = 6 if len(table) < 200 else 3
    for name, (colour, marker) in looks.items():
        rows = table[table[hue] == name]
        if len(rows):
            look = {"color": colour, "alpha": 0.8, "label": name, "rasterized": len(table) > MANY}
            axes.plot(rows.margin, rows.gain, marker, markersize=size, **look)
    axes.axhline(0, **LINE)
    label = f"gain over {over}, points"
    axes.set(xlabel="teacher's margin (1: certain and right)", ylabel=label)
    legend(figure, axes)
    named = dict.fromkeys([table.gain.argmin(), table.gain.argmax(), table.margin.argmin()])
    names = [(r.margin, r.gain, r.group, "#333333") for r in table.iloc[[*named]].itertuples()]
    zero = [(x, 0) for x in np.linspace(*axes.get_xlim(), 40)]  # no name on the line either
    name_marks(axes, names, [*table[["margin", "gain"]].head(MANY).to_numpy(), *zero])
    return figure


# ---------------------------------------------------------------- names beside marks

AWAY = (9, 14, 22, 34, 48, 64, 84, 110, 140, 180)  # points from a mark to its name
AROUND = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))  # off bars first
PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}  # under a name
SIDES = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


def name_marks(axes, marks, others=()):
    """Write names beside marks: none covers another or a mark, and none leaves the axes.

    marks: (x, y, name, colour) each. others: (x, y) of marks without a name. A name without such a
    place goes where it covers least; one far from its mark has a line to it. Call this last, since
    it fixes the layout."""
    lay_out(axes.figure)
    to_pixels = axes.transData.transform
    spots = to_pixels([mark[:2] for mark in marks])
    scale = axes.figure.dpi / 72
    half = 5 * scale
    dots = to_pixels(np.reshape(others, (-1, 2)))
    taken = np.hstack(
        [[*(spots - half), *(dots - half / 2)], [*(spots + half), *(dots + half / 2)]]
    )
    inside = axes.get_window_extent().extents
    for (x, y, name, colour), spot in zip(marks, spots, strict=True):
        draft = axes.text(x, y, name, fontsize=BESIDE)
        size = np.array(draft.get_window_extent().size)
        draft.remove()
        tried = []
        for away in AWAY:
            for toward in AROUND:
                offset = away * np.array(toward) / np.hypot(*toward)
                corner = spot + offset * scale + size * (np.array(toward) - 1) / 2
                box = np.hstack([corner, corner + size])
                outside = size.prod() - _shared(box, inside)
                covered = round(outside + _shared(box, taken).sum(), 3)
                tried.append((covered, away, len(tried), toward, offset, box))
        _, away, _, toward, offset, box = min(tried, key=lambda t: (t[0] > 0, t[0], t[2]))
        taken = np.vstack([taken, box])
        line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6} if away > 14 else None
        how = {"textcoords": "offset points", "arrowprops": line, "color": colour}
        how |= {"ha": SIDES[toward[0]][0], "va": SIDES[toward[1]][1], "fontsize": BESIDE}
        how |= {"bbox": PLATE, "zorder": 4}
        axes.annotate(name, (x, y), offset, **how)


def _shared(box, others):
    """Square pixels that a box (left, bottom, right, top) shares with some others, (..., 4)."""
    sides = np.minimum(box[2:], others[..., 2:]) - np.maximum(box[:2], others[..., :2])
    return np.maximum(sides, 0).prod(axis=-1)
