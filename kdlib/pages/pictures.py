"""What harm looks like: test images that one side has right and the other wrong, class by class.

S students, each beside its own teacher; n baselines; N examples. An audit shows the same of files.
"""

import base64
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.config import KdlibError
from kdlib.evidence.words import number
from kdlib.methods import name_of
from kdlib.pages.shown import TEMPLATES
from kdlib.study.cifar import DataError

MOST = 24  # pictures in all
ROWS = 4  # groups
A_ROW = 8  # pictures of a group
SIDE = 128  # pixels of the longer side: twice what is shown, for sharp screens


@dataclass(frozen=True)
class Picture:
    """One example."""

    row: int  # of the example
    label: str
    wrong: str  # what is said instead
    students: int  # that say so; of what was won, that are right
    name: str  # of the file, or "row 17"
    data: str = ""  # as the address of an image, "" where it cannot be read


@dataclass(frozen=True)
class Row:
    """A group, what is said of it, and its pictures."""

    group: str
    note: str
    pictures: tuple  # of Picture


@dataclass(frozen=True)
class Pictures:
    """Test images by class, with a sentence, and a caption that says how to read them."""

    panel: str  # its name
    kind: str  # "lost" or "won"
    students: int  # networks of the method
    sentence: str
    caption: str
    rows: tuple = ()  # of Row

    @property
    def table(self):
        """What the pictures show: a row for each."""
        columns = ["group", "row", "label", "wrong", "students"]
        of = [
            (row.group, p.row, p.label, p.wrong, p.students)
            for row in self.rows
            for p in row.pictures
        ]
        return pd.DataFrame(of, columns=columns)

    def alt(self, p):
        """What is seen, as a sentence that no other picture of the page has."""
        networks = f"{p.students} of {self.students} networks"
        said = f"lost in {networks}, called {p.wrong}"
        if self.kind == "won":
            said = f"won in {networks}, called {p.wrong} without them"
        return f"{self.panel}: {p.name}, class {p.label}, {said}."

    def _repr_html_(self):
        return TEMPLATES.get_template("pictures.html.j2").render(shown=self)


# ---------------------------------------------------------------- of a study


@dataclass(frozen=True)
class _Found:
    """What one method gets right and another does not, or the other way round."""

    kind: str  # "lost" or "won"
    names: tuple  # of the method, and of what it is compared with
    right: tuple  # (S, N) and (n, N) bool: which of their networks are right
    some: np.ndarray  # (N,) bool: the examples to choose from
    order: tuple  # of arrays (N,): the largest come first
    wrong: Callable  # row -> label that most give instead

    def gain(self, group):
        """(G,) points of each group."""
        mine, base = (right.mean(axis=0) for right in self.right)
        return 100 * np.bincount(group, mine - base) / np.bincount(group)


def lost(p, method="kd", over="one_hot", groups=()):
    """Pictures of what a method loses: most networks of `over` are right, one of its own is not.

    With a teacher, that one gives its own teacher's wrong label. groups: names; by default those
    whose accuracy falls most. Without the data set, only a sentence."""
    mine, base = _networks(p, method, over)
    mistaken = mine != p.y
    whose = "a wrong label"
    if p.runs[method][0].config.teacher:
        mistaken &= mine == p.predicted("teacher")[: len(mine)]
        whose = "the wrong label of its own teacher"
    right = mine == p.y, base == p.y
    order = mistaken.sum(axis=0), right[1].mean(axis=0)
    some = (order[0] > 0) & (order[1] > 0.5)
    names = name_of(method), name_of(over)

    def wrong(row):
        return commonest(mine[mistaken[:, row], row])[0]

    caption = (
        f"Each picture is a test image that most of the {len(base)} {names[1]} networks get right "
        f"and to which at least one of the {len(mine)} {names[0]} networks gives {whose}. Below it "
        "are its class, after the arrow that label (the most common one, if there are several), "
        "and how many networks give it. Images that most networks get wrong come first. A few such "
        "images would be found even without any harm."
    )
    return _pictures(p, _Found("lost", names, right, some, order, wrong), groups, caption)


def won(p, method="kd", over="one_hot", groups=()):
    """Pictures of what a method wins: most networks of `over` are wrong, most of its own right.

    groups: names; by default those whose accuracy rises most. See lost."""
    mine, base = _networks(p, method, over)
    right = mine == p.y, base == p.y
    order = right[0].sum(axis=0), 1 - right[1].mean(axis=0)
    some = (order[0] > len(mine) / 2) & (order[1] > 0.5)
    names = name_of(method), name_of(over)

    def wrong(row):
        return commonest(base[~right[1][:, row], row])[0]

    caption = (
        f"Each picture is a test image that most of the {len(base)} {names[1]} networks get wrong "
        f"and most of the {len(mine)} {names[0]} networks get right. Below it are its class, after "
        "the arrow the label that most of the wrong networks give, and how many "
        f"{names[0]} networks are right. Images that most of these get right come first."
    )
    return _pictures(p, _Found("won", names, right, some, order, wrong), groups, caption)


def _networks(p, method, over):
    """What networks predict, (S, N) and (n, N): all baselines, or as many of another method."""
    if over == "one_hot":
        return p.predicted(method), p.predicted(over)
    return p.paired(method, over)


def _pictures(p, found, groups, caption):
    """The Pictures of what was found, group by group."""
    gain = found.gain(p.group)
    shown = _groups(p, found, gain, groups)
    verb, change = {"lost": ("loses", "falls"), "won": ("wins", "rises")}[found.kind]
    method, over = found.names
    said = f"{p.name}: compared with {over}, {method} {verb}"
    what = p.name, found.kind, len(found.right[0])
    if not shown:
        where = "of these classes" if groups else f"of a class whose accuracy {change}"
        return Pictures(*what, f"{said} no test image {where}.", caption)
    inside = np.isin(p.group, shown)
    count = f"{(found.some & inside).sum():,} of {inside.sum():,} test images"
    told = ", ".join(f"{p.group_names[g]} ({number(gain[g])})" for g in shown)
    why = "" if groups else f", where accuracy {change} most"
    sentence = f"{said} {count} of {told}{why}."
    try:
        images = images_of(p)
    except DataError:
        return Pictures(*what, sentence, _missing(p))
    except KdlibError as error:
        return Pictures(*what, sentence, f"The images are not shown. {error}")
    rows = tuple(_row(p, found, images, g, each_of(shown)) for g in shown)
    return Pictures(*what, sentence, caption, rows)


def _groups(p, found, gain, names):
    """Indices of the groups to show: those named, or those that changed most in that direction."""
    if names:
        wanted = [p.group_names.index(name) for name in names]
    else:
        change = gain if found.kind == "lost" else -gain
        wanted = [g for g in np.argsort(change, kind="stable").tolist() if change[g] < 0]
    return [g for g in wanted if found.some[p.group == g].any()][:ROWS]


def _row(p, found, images, g, most):
    """The Row of a group, with at most so many pictures."""
    names = p.teachers[0].facts["class_names"]
    members = np.flatnonzero(found.some & (p.group == g))
    pictures = []
    for row in first(members, *found.order)[:most]:
        said = names[p.y[row]], names[found.wrong(row)], int(found.order[0][row])
        pictures.append(Picture(row, *said, f"test image {row}", _address(images[row])))
    change = number(found.gain(p.group)[g])
    note = f"{change}; {len(pictures)} of {len(members):,} such images"
    return Row(p.group_names[g], note, tuple(pictures))


def _missing(p):
    data = p.teachers[0].config.dataset
    data = "cifar10" if data == "cifar10" else "cifar100"  # of which all others are parts
    return (
        f"The images are not shown, since {data} is missing or incomplete on this computer: run "
        f"`python -m kdlib data get {data}`, or set KDLIB_DATA to the folder of a copy."
    )


def images_of(p, folder=None):
    """(N, H, W, channels) uint8 of the examples of a Panel, from its data set.

    folder: where to look, see cifar.find. DataError if the data set is not there, KdlibError if it
    is not that of the records."""
    images, y = _unseen(p.teachers[0].config, folder)
    if not np.array_equal(y, p.y):
        where = f"--images {folder}" if folder else f"Study {p.study.name}"
        raise KdlibError(f"{where}: these are not the images of the study's records.")
    return images


@functools.lru_cache(maxsize=1)
def _unseen(config, folder):
    """Images and labels of test and left_out, as they stand in records."""
    from kdlib.study.datasets import load  # here, since an audit of files needs no torch

    data = load(config, folder)
    unseen = (data.test, data.left_out)
    images = np.concatenate([split.x for split in unseen])
    return images, np.concatenate([split.y for split in unseen])


# ---------------------------------------------------------------- of audits too


def first(rows, *keys):
    """Indices `rows` from the largest of the first of the keys (N,), then of the next."""
    order = np.lexsort((rows, *(-key[rows] for key in reversed(keys))))
    return rows[order].tolist()


def commonest(labels):
    """(label, count): the one that most of some networks give, ties to the smallest."""
    values, counts = np.unique(labels, return_counts=True)
    return int(values[counts.argmax()]), int(counts.max())


def each_of(groups):
    """How many pictures each of the groups may have."""
    return min(A_ROW, MOST // max(1, len(groups)))


def _address(pixels):
    import PIL.Image

    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if len(pixels) <= SIDE // 8:  # as squares: enlarged by a browser it is a blur
        pixels = pixels.repeat(SIDE // 2 // len(pixels), axis=0)
        pixels = pixels.repeat(SIDE // 2 // pixels.shape[1], axis=1)
    return thumbnail(PIL.Image.fromarray(pixels))


def thumbnail(image):
    """The address (data:) of a pillow image, SIDE pixels at most; small ones without loss."""
    import PIL.Image
    import PIL.ImageOps

    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: by its own range
        values = np.asarray(image, dtype=np.float64)
        span = max(np.ptp(values), 1e-12)
        image = PIL.Image.fromarray(np.uint8(255 * (values - values.min()) / span))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    image = image.convert("RGB")
    small = max(image.size) <= SIDE // 2
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
