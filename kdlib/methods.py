"""METHODS and ARMS: everything about a method in one entry, and nothing about it anywhere else.

Standard library alone: Config reads it, and so does the command line before torch is there."""

from collections.abc import Callable
from dataclasses import dataclass

# Okabe and Ito's palette, darkened for print
BLACK, GREY, BLUE, ORANGE = "#000000", "#767676", "#0072B2", "#D55E00"
GREEN, PURPLE, OCHRE = "#007a5a", "#8a4f7d", "#9a6a00"

_TEACHER = ("teacher", "teacher_seed", "teacher_method", "temperature")
_SOFT = (*_TEACHER, "soften")
_MARGIN = (*_SOFT, "margin_source", "margin_kind", "margin_temperature")
_READING = ("margin_reading", "margin_scale")
_ADA_ALPHA = {"method": "ada_alpha"}
_LUKASIK = "Lukasik et al. 2021, reconstructed"


@dataclass(frozen=True)
class Method:
    """A way to train a student. One that is added at run time is known to this process alone; one
    that stands in this file also to those of a sweep."""

    title: str  # in figures and sentences
    look: tuple  # (colour, marker): never colour alone
    knobs: tuple = ()  # the loss fields of Config that it reads; all others stay at their defaults
    about: str = ""  # what it is, and whose
    loss: Callable | None = None  # see step.method_loss; None: NAME_of in losses.py or rivals.py
    remedy: bool = False  # softens the teacher where it is unreliable: F4 is about it
    whole_batch: bool = False  # its loss looks at all examples of a batch together
    adjusted: bool = False  # after training, by a number that is chosen on val


@dataclass(frozen=True)
class Arm:
    """A method of a study under a name of its own."""

    title: str
    look: tuple
    fields: dict  # of Config: the method, and what else is set
    about: str = ""
    remedy: bool = False


METHODS = {
    "one_hot": Method("one-hot", (BLACK, "x"), (), "cross-entropy of the label"),
    "kd": Method("distillation", (BLUE, "o"), (*_SOFT, "alpha"), "Hinton et al. 2015"),
    "ada_alpha": Method(
        "AdaAlpha", (ORANGE, "s"), (*_MARGIN, "margin_level"), _LUKASIK, remedy=True
    ),
    "ada_margin": Method("AdaMargin", (GREEN, "^"), (*_MARGIN, *_READING), _LUKASIK, remedy=True),
    # rivals
    "label_smoothing": Method(
        "label smoothing", (GREY, "v"), ("smoothing",), "Szegedy et al. 2016, 0.1"
    ),
    "logit_adjusted": Method(
        "logit adjustment", (OCHRE, "H"), ("tau",), "Menon et al. 2021, eq. 10, tau = 1"
    ),
    "post_hoc": Method(
        "post-hoc adjustment",
        (OCHRE, "1"),
        (),
        "Menon et al. 2021, eq. 9; tau of each run chosen on val: uses extra labels",
        adjusted=True,
    ),
    "group_dro": Method(
        "group DRO", (OCHRE, "2"), ("step_size",), "Sagawa et al. 2020, step 0.01", whole_batch=True
    ),
    "balanced_kd": Method(
        "class-balanced distillation",
        (PURPLE, "<"),
        (*_TEACHER, "balance"),
        "Zhang et al. 2021 (2104.10510), as their code: CE + T² KL to the reweighted teacher, "
        "beta 0.9999",
    ),
    "decoupled_kd": Method(
        "decoupled distillation",
        (BLUE, "h"),
        (*_TEACHER, "beta"),
        "Zhao et al. 2022, weights 1 and 2 (theirs for R56 → R20), without warm-up",
    ),
    "long_tailed_kd": Method(
        "long-tailed distillation",
        (PURPLE, ">"),
        _TEACHER,
        "Kim 2025 (2506.18496), reconstructed from the abstract",
        whole_batch=True,
    ),
    "robust_kd": Method(
        "robust student",
        (PURPLE, "X"),
        (*_TEACHER, "step_size"),
        "Wang et al. 2023, reconstructed; weights follow the training loss",
        whole_batch=True,
    ),
}

ARMS = {
    "ada_alpha_crossfit": Arm(
        "AdaAlpha, crossfit margins",
        (ORANGE, "D"),
        {**_ADA_ALPHA, "margin_source": "crossfit"},
        "AdaAlpha with margins that need no labels of val",
        remedy=True,
    ),
    "ada_alpha_by_label": Arm(
        "AdaAlpha, margins by label",
        (ORANGE, "3"),
        {**_ADA_ALPHA, "margin_level": "class"},
        "AdaAlpha of somebody who has the labels but not the groups",
        remedy=True,
    ),
    "one_hot_with_val": Arm(
        "one-hot, also on the labels of val", (BLACK, "+"), {"method": "one_hot", "with_val": True}
    ),
    "kd_mean_alpha": Arm(
        "distillation, AdaAlpha's mean alpha",
        (BLUE, "p"),
        {**_ADA_ALPHA, "margin_level": "all"},
        "one weight for all, the mean of AdaAlpha's over the training images: what is left of "
        "AdaAlpha without the choice by group",
    ),
    "kd_tuned": Arm(
        "distillation, alpha tuned",
        (BLUE, "d"),
        {"method": "kd", "alpha": 0.5},
        "the constant weight below 1 that val chooses (recipe study)",
    ),
    "ada_alpha_01": Arm(
        "0/1 AdaAlpha",
        (ORANGE, "*"),
        {**_ADA_ALPHA, "margin_level": "example", "margin_source": "train", "margin_kind": "hit"},
        "the teacher counts only where it is right on the training image",
        remedy=True,
    ),
    "kd_adjusted_teacher": Arm(
        "adjusted teacher",
        (PURPLE, "8"),
        {"method": "kd", "teacher_method": "logit_adjusted"},
        "plain distillation from a teacher trained with logit adjustment",
    ),
}
TEACHER = Arm("teacher", (PURPLE, "P"), {})  # where it stands beside its students


def entry(name):
    """The Method or Arm of that name; None for names that a study made up."""
    return METHODS.get(name) or ARMS.get(name) or (TEACHER if name == "teacher" else None)


def name_of(name):
    """A method of a study in words."""
    known = entry(name)
    return known.title if known else name


def look_of(title):
    """(colour, marker) of a method by its name in words."""
    looks = {known.title: known.look for known in (*METHODS.values(), *ARMS.values(), TEACHER)}
    return looks.get(title, (BLUE, "o"))


def loss_fields():
    """Every field of Config that belongs to a loss."""
    return {knob for method in METHODS.values() for knob in method.knobs}


def idle_fields(method):
    """Those that the loss of a method does not read."""
    return loss_fields() - set(METHODS[method].knobs)


def needs_margins(cfg):
    """Whether the loss reads margins that are measured before training; else from each batch."""
    knobs = METHODS[cfg.method].knobs
    if "margin_reading" in knobs and cfg.margin_reading == "B":
        return False
    by_image = cfg.margin_level == "example" and cfg.margin_source == "train"
    return "margin_source" in knobs and not by_image


def arms(*names):
    """{name: Config fields} as a study lists its methods."""
    return {name: ARMS[name].fields if name in ARMS else {} for name in names}
