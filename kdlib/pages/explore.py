"""Exploring: menus over what is on record, which train nothing; the banner of exploratory pages."""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdlib.config import KdlibError, did_you_mean
from kdlib.evidence.choice import check_failed
from kdlib.evidence.findings import DEMONSTRATION
from kdlib.evidence.panel import panel
from kdlib.evidence.rules import LEAST_SEEDS
from kdlib.evidence.rules import classes as in_words
from kdlib.evidence.stats import interval
from kdlib.evidence.words import brief, number
from kdlib.methods import ARMS, METHODS, name_of
from kdlib.pages import classes, gains, pictures
from kdlib.pages.shown import Headline, Table, plus_minus
from kdlib.study import files
from kdlib.study.done import complete_seeds, some_seeds
from kdlib.study.files import exists
from kdlib.study.grids import STUDIES, study
from kdlib.study.parameters import check_names
from kdlib.study.studies import told

ENDS = 3  # classes at either end of the gains that the table has

# ---------------------------------------------------------------- pages of overrides


def banner(chosen):
    """The Headline of a page whose study has overrides: nothing on the page is counted.

    Else it says what groups are, where they are not the labels, that the recipe fails the check, if
    it does, and that the study is a demonstration or superseded. None: nothing of that is so."""
    if not chosen.overrides:
        said = check_failed(chosen)
        notes = [DEMONSTRATION] * chosen.demonstration + [chosen.about] * chosen.superseded
        if "hidden" in chosen.kinds:
            one, many = chosen.groups
            said.insert(
                0,
                f"The groups of this study are {many}, which its labels do not tell apart; where "
                f"a page says class, it means a {one}.",
            )
        return Headline(said, notes=notes) if said or notes else None
    base = chosen.name.removesuffix("-exploratory")
    said = (
        f"Exploratory: {base} with {told(chosen.overrides)}. These runs were not planned in "
        "advance, so this page has no verdict, and none of its numbers is counted anywhere."
    )
    return Headline([said])


# ---------------------------------------------------------------- what can be chosen


class Choice(NamedTuple):
    """What is shown."""

    study: str
    pair: str  # teacher/student
    method: str
    over: str  # the method that it is compared with
    group: str  # "": those that change most


def on_record():
    """The names of the studies that compare methods and have a complete seed.

    First come those with enough seeds for a verdict, last superseded ones and demonstrations."""
    found = [s for s in STUDIES.values() if s.pairs and s.methods and complete_seeds(s.name)]

    def last(s):
        return s.demonstration, s.superseded, complete_seeds(s.name) < LEAST_SEEDS

    return [s.name for s in sorted(found, key=last)]


def panel_of(name, pair):
    """The Panel of a study's pair, without any change of setting, over all complete seeds.

    It has further methods that were run for all of these."""
    chosen, pair, seeds = study(name), tuple(pair.split("/")), complete_seeds(name)
    more = [m for m in (*METHODS, *ARMS) if m not in chosen.methods]
    whole = chosen.with_methods(more)
    some = [m for m in more if all(exists(whole.config(pair, m, s)) for s in range(seeds))]
    return panel(chosen.with_methods(some), pair, seeds)


def menus(given, strict=False):
    """(Choice, {parameter: {value: its words}}) of what is given, {parameter: value}.

    "" stands for the first that there is, and so does what is not there, unless `strict`: then it
    is a KdlibError, as is a study without records."""
    chosen, allowed = {}, {}
    for name in Choice._fields:
        allowed[name] = _options(name, **chosen)
        value = given.get(name, "")
        value = str(value) if type(value) is int else value or ""  # papermill's -p group 7
        if not value:
            value = next(iter(allowed[name]))
        if value not in list(allowed[name]):  # which lists have no hash for
            if strict and name == "study" and value in list(STUDIES):
                some_seeds(value)
            if strict:
                known = [word for word in allowed[name] if word]
                said = f"notebook parameter {name}={value!r}"
                raise KdlibError(f"{said}: {did_you_mean(value, known)}")
            value = next(iter(allowed[name]))
        chosen[name] = value
    return Choice(**chosen), allowed


def _options(name, study="", pair="", method="", over=""):
    """{value: its words} of a parameter, after those before it were chosen."""
    if name == "study":
        if not (names := on_record()):
            raise KdlibError(
                f"{files.folder()}: no study has a complete seed on record; "
                "`python -m kdlib run digits` makes some."
            )
        return {name: f"{name}: {STUDIES[name].title}" for name in names}
    if name == "pair":
        return {"/".join(pair): " → ".join(pair) for pair in STUDIES[study].pairs}
    p = panel_of(study, pair)
    if name == "method":
        return {m: name_of(m) for m in p.methods}
    if name == "over":
        return {m: name_of(m) for m in p.runs if m != method}
    gain = p.group_gain(method, over).mean(axis=0)
    order = np.argsort(gain, kind="stable")  # those that lose most come first
    names = {p.group_names[g]: f"{p.group_names[g]} ({number(gain[g], '')})" for g in order}
    return {"": "those that change most", **names}


def check_parameters(namespace):
    """The Choice of the parameters of notebooks/explore.ipynb: check_parameters(globals()).

    KdlibError for a name that the notebook does not know, and for what is not on record."""
    check_names(namespace, Choice._fields)
    return menus({name: namespace[name] for name in Choice._fields}, strict=True)[0]


# ---------------------------------------------------------------- what is shown


def parts(choice):
    """What is shown of a Choice, one thing after the other, quick ones first: always as many."""
    name, pair, method, over, group = choice
    p = panel_of(name, pair)
    by_bucket, by_class = _figures(p, method, over)
    yield Headline([answer(p, by_class)])
    yield by_bucket
    yield by_class
    yield table(p, method, over, group)
    groups = (group,) if group else ()
    yield pictures.lost(p, method, over, groups)
    yield pictures.won(p, method, over, groups)
    yield source(choice)


def source(choice):
    """Table of where the numbers come from, and of the command that shows them again."""
    from kdlib.study.provenance import provenance  # here, since it needs torch

    given = [f"-p {name} '{value}'" for name, value in choice._asdict().items() if value]
    command = {"command": " ".join(["papermill notebooks/explore.ipynb out.ipynb", *given])}
    facts = provenance(choice.study, complete_seeds(choice.study)) | command
    rows = [(label, ", ".join(np.atleast_1d(value).astype(str))) for label, value in facts.items()]
    return Table(pd.DataFrame(rows, columns=["what", "which"]), "Where these numbers come from")


@functools.lru_cache(maxsize=32)
def _figures(p, method, over):
    by_bucket = gains.plot_gain_by_bucket(p, [method], over)
    return by_bucket, classes.plot_gain_by_group(p, method, over)


def answer(p, figure):
    """What the figure of the classes says, and how many seeds it is of."""
    few = ", too few to tell a gain from chance" if p.seeds < 2 else ""
    seeds = f"{p.seeds} of {p.study.seeds} planned seeds are on record{few}."
    return f"{p.study.name}, {figure.sentence} {seeds}"


def table(p, method, over, group=""):
    """Table of accuracy and gain: on average, in each bucket, in a group.

    Without a group, in those that lose and gain most."""
    rows = []
    for place, weights in p.places().items():
        row = {"classes": f"mean of all {p.study.groups[1]}"}
        if place != "average":
            row["classes"] = in_words(p, p.bucket_names.index(place))
        for m in (over, method):
            mean = interval(*p.contrast(m, weights.mean(axis=0)))
            row[f"{name_of(m)}, %"] = plus_minus(mean)
        rows.append(row | {"gain, points": brief(p.gain(method, weights, over))})
    found = classes.gain_by_group(p, method, over).sort_values("gain", kind="stable")
    some = pd.concat([found.head(ENDS), found.tail(ENDS)]).drop_duplicates("group")
    if group:
        some = found[found.group == group]
    for of in some.assign(estimate=some.gain).itertuples():
        row = {"classes": f"{of.group}, {of.n_train} training images"}
        for m in (over, method):
            accuracy = p.accuracy(m).observed[:, p.group_names.index(of.group)].mean()
            row[f"{name_of(m)}, %"] = f"{accuracy:.1f}"
        rows.append(row | {"gain, points": brief(of)})
    caption = (
        f"Accuracy and gain with their 95 % intervals, {p.name}. At the end: "
        f"{group or f'the {p.study.groups[1]} that lose and gain most'}"
    )
    return Table(pd.DataFrame(rows), caption)


# ---------------------------------------------------------------- menus


class Menus:
    """Menus that depend on each other: `box` is the widget, `choice` what is chosen.

    draw(choice) is called when the choice changes."""

    def __init__(self, choice, draw):
        import ipywidgets  # here, since the pages of a report need none

        layout, style = {"width": "40rem", "max_width": "100%"}, {"description_width": "8rem"}
        words = ("study", "networks", "method", "compared with", "class")
        self.menus = {}
        for name, of in zip(Choice._fields, words, strict=True):
            menu = ipywidgets.Dropdown(description=of, layout=layout, style=style)
            self.menus[name] = menu
        self.said = ipywidgets.Label()
        self.box = ipywidgets.VBox([*self.menus.values(), self.said])
        self.choice = choice
        self.draw = draw
        self.filling = False
        self._fill(choice)
        for menu in self.menus.values():
            menu.observe(self._chosen, "value")

    def _fill(self, wanted):
        """Fill every menu with what there is, and choose what is wanted where it is there."""
        self.choice, allowed = menus(dict(wanted._asdict()))
        self.filling = True
        for name, menu in self.menus.items():
            menu.options = [(words, value) for value, words in allowed[name].items()]
            menu.value = getattr(self.choice, name)
        self.filling = False

    def _chosen(self, _):
        if self.filling:
            return
        self.said.value = "Drawing …"
        try:
            self._fill(Choice(**{name: menu.value for name, menu in self.menus.items()}))
            self.draw(self.choice)
            self.said.value = ""
        except KdlibError as error:
            self.said.value = str(error)


def explorer(choice):
    """Show menus and, below them, what is chosen; returns the Menus.

    A new choice replaces what was shown. Without a kernel, as on a page, nothing changes."""
    from IPython.display import display

    now = []

    def draw(choice):
        for slot, (place, part) in zip(slots, enumerate(parts(choice)), strict=True):
            if part is not now[place]:  # a figure of the same methods, say, stays
                slot.update(part)
            now[place] = part

    chosen = Menus(choice, draw)
    display(chosen.box)
    slots = []
    for part in parts(choice):
        now.append(part)
        slots.append(display(part, display_id=True))
    return chosen
