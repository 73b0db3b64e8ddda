"""What harm looks like: examples that one side has right and the other wrong, group by group.

An audit chooses and shows them as a study does. S networks of a method, n of what it is compared
with, N examples.
"""

import functools
import io
from dataclasses import dataclass

import numpy as np

from kdlib.config import TABLES, KdlibError
from kdlib.evidence.words import number
from kdlib.methods import name_of
from kdlib.pages.shown import base64_of, html_of
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


# ---------------------------------------------------------------- which examples


@dataclass(frozen=True)
class Found:
    """Examples that a method lost, or won, against what it is compared with."""

    kind: str  # "lost" or "won"
    some: np.ndarray  # (N,) bool: which these are
    networks: np.ndarray  # (N,) how many of the method lost, or won, each example
    share: np.ndarray  # (N,) of the others that have it right, or wrong
    wrong: np.ndarray  # (S or n, N) what is said instead of the label; -1 where nothing is

    def pictures(self, rows, most, y, names, image):
        """Pictures of some of the examples `rows`: of what most networks lost, or won, first.

        names: of the classes. image: row -> (name, address)."""
        order = np.lexsort((rows, -self.share[rows], -self.networks[rows]))
        return tuple(
            self._picture(row, names[y[row]], names, image) for row in rows[order[:most]].tolist()
        )

    def _picture(self, row, label, names, image):
        said = self.wrong[:, row]
        counts = np.bincount(said[said >= 0])
        wrong = counts.argmax()  # the label that most say, of several the first
        students = counts[wrong] if self.kind == "lost" else self.networks[row]
        return Picture(row, label, names[wrong], int(students), *image(row))


def lost_by(y, mine, others, teachers=None):
    """What at least one network gets wrong and most of the others right, as a Found.

    y (N,); mine (S, N); others (n, N), or None where nothing is compared. teachers (S, N): with
    these, only their wrong labels count, each for its own student."""
    mistaken = mine != y
    if teachers is not None:
        mistaken &= mine == teachers
    networks = mistaken.sum(axis=0)
    share = np.ones(len(y)) if others is None else (others == y).mean(axis=0)
    some = (networks > 0) & (share > 0.5)
    return Found("lost", some, networks, share, np.where(mistaken, mine, -1))


def won_by(y, mine, others):
    """What most networks get right and most of the others wrong, as a Found."""
    networks = (mine == y).sum(axis=0)
    share = (others != y).mean(axis=0)
    some = (networks > len(mine) / 2) & (share > 0.5)
    return Found("won", some, networks, share, np.where(others != y, others, -1))


def each_of(groups):
    """How many pictures each of the groups may have."""
    return min(A_ROW, MOST // max(1, len(groups)))


# ---------------------------------------------------------------- of a study


@dataclass(frozen=True)
class Pictures:
    """Test images by class, with a sentence, and a caption that says how to read them."""

    panel: str  # its name
    kind: str  # "lost" or "won"
    students: int  # networks of the method
    sentence: str
    caption: str
    rows: tuple = ()  # of Row

    def alt(self, p):
        """What is seen, as a sentence that no other picture of the page has."""
        networks = f"{p.students} of {self.students} networks"
        said = f"lost in {networks}, called {p.wrong}"
        if self.kind == "won":
            said = f"won in {networks}, called {p.wrong} without them"
        return f"{self.panel}: {p.name}, class {p.label}, {said}."

    def _repr_html_(self):
        return html_of("pictures", self)


def lost(p, method="kd", over="one_hot", groups=()):
    """Pictures of what a method loses: most networks of `over` are right, one of its own is not.

    With a teacher, that one gives its own teacher's wrong label. groups: names; by default those
    whose accuracy falls most. Without the data set, only a sentence."""
    mine, base = _networks(p, method, over)
    teachers, whose = None, "a wrong label"
    if p.runs[method][0].config.teacher:
        teachers = p.predicted("teacher")[: len(mine)]
        whose = "the wrong label of its own teacher"
    own = f"{name_of(method)} network"
    own = f"the {own}" if len(mine) == 1 else f"at least one of the {len(mine)} {own}s"
    which = f"that most of the {len(base)} {name_of(over)} networks get right and to which "
    which += f"{own} gives {whose}"
    caption = (
        "Below each picture are its class, after the arrow that label (the most common one, if "
        "there are several), and how many networks give it. Images that most networks get wrong "
        "come first. A few such images would be found even without any harm."
    )
    found = lost_by(p.y, mine, base, teachers)
    return _pictures(p, method, over, groups, found, len(mine), which, caption)


def won(p, method="kd", over="one_hot", groups=()):
    """Pictures of what a method wins: most networks of `over` are wrong, most of its own right.

    groups: names; by default those whose accuracy rises most. See lost."""
    mine, base = _networks(p, method, over)
    which = (
        f"that most of the {len(base)} {name_of(over)} networks get wrong and most of the "
        f"{len(mine)} {name_of(method)} networks get right"
    )
    caption = (
        "Below each picture are its class, after the arrow the label that most of the wrong "
        f"networks give, and how many {name_of(method)} networks are right. Images that most of "
        "these get right come first."
    )
    found = won_by(p.y, mine, base)
    return _pictures(p, method, over, groups, found, len(mine), which, caption)


def _networks(p, method, over):
    """What networks predict, (S, N) and (n, N): all baselines, or as many of another method."""
    if over == "one_hot":
        return p.predicted(method), p.predicted(over)
    return p.paired(method, over)


def _pictures(p, method, over, groups, found, students, which, caption):
    """The Pictures of what was found, group by group. which: what each is, in words."""
    gain = p.group_gain(method, over).mean(axis=0)
    shown = _groups(p, found, gain, groups)
    change = {"lost": "falls", "won": "rises"}[found.kind]
    what = p.name, found.kind, students
    if not shown:
        where = "of these classes" if groups else f"of a class whose accuracy {change}"
        return Pictures(*what, f"{p.name}: there is no test image {where} {which}.", caption)
    inside = np.isin(p.group, shown)
    told = ", ".join(f"{p.group_names[g]} ({number(gain[g])})" for g in shown)
    why = "" if groups else f", whose accuracy {change} most compared with {name_of(over)}"
    sentence = (
        f"{p.name}: of {inside.sum():,} test images of {told}{why}, "
        f"{(found.some & inside).sum():,} are images {which}."
    )
    try:
        images = images_of(p)
    except DataError:
        data = p.teachers[0].config.dataset
        data = "cifar10" if data == "cifar10" else "cifar100"  # of which all others are parts
        caption = (
            f"The images are not shown, since {data} is missing or incomplete on this computer: "
            f"run python -m kdlib data get {data}, or set KDLIB_DATA to the folder of a copy."
        )
        return Pictures(*what, sentence, caption)
    except KdlibError as error:
        return Pictures(*what, sentence, f"The images are not shown. {error}")

    def image(row):
        return f"test image {row}", address(images[row])

    rows = []
    for g in shown:
        some = np.flatnonzero(found.some & (p.group == g))
        pictures = found.pictures(some, each_of(shown), p.y, p.class_names, image)
        note = f"{number(gain[g])}; {len(pictures)} of {len(some):,} such images"
        rows.append(Row(p.group_names[g], note, pictures))
    return Pictures(*what, sentence, caption, tuple(rows))


def _groups(p, found, gain, names):
    """Indices of the groups to show: those named, or those that changed most in that direction."""
    if names:
        wanted = [p.group_names.index(name) for name in names]
    else:
        change = gain if found.kind == "lost" else -gain
        wanted = [g for g in np.argsort(change, kind="stable").tolist() if change[g] < 0]
    return [g for g in wanted if found.some[p.group == g].any()][:ROWS]


def images_of(p, folder=None):
    """(N, H, W, channels) uint8 of the examples of a Panel, from its data set.

    folder: where to look, see cifar.find. DataError if the data set is not there, KdlibError if it
    is not that of the records, or holds rows of a table."""
    if p.teachers[0].config.dataset in TABLES:
        raise KdlibError(f"Study {p.study.name}: its examples are rows of a table, not images.")
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


# ---------------------------------------------------------------- images as addresses


def address(pixels):
    """The address of an image of (H, W), (H, W, 1) or (H, W, 3) uint8; see thumbnail."""
    import PIL.Image

    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return thumbnail(PIL.Image.fromarray(pixels))


def thumbnail(image):
    """The address (data:) of a pillow image, SIDE pixels at most; small ones without loss.

    The smallest are enlarged as squares: by a browser they would become a blur."""
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
    if max(image.size) <= SIDE // 8:
        factor = SIDE // 2 // max(image.size)
        image = PIL.ImageOps.scale(image, factor, PIL.Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64_of(buffer.getvalue())}"
