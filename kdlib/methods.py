"""METHODS and ARMS: everything about a method in one entry, and nothing about it anywhere else.

Standard library alone: Config reads it, and so does the command line before torch is there."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

BLACK, GREY, BLUE, ORANGE = "#000000", "#767676", "#0072B2", "#D55E00"
GREEN, PURPLE, OCHRE = (
    "#007a5a",
    "#8a4f7d",
    "#9a6a00",
)  # Okabe and Ito's palette, darkened for print

_TEACHER = ("teacher", "teacher_seed", "teacher_method", "temperature")
_MARGIN = ("margin_source", "margin_kind", "margin_temperature")


@dataclass(frozen=True)
class Method:
    """A way to train a student.

    loss: (Config, margins, train Split) -> loss(logits, Batch) -> (N,), as a function or as
    "module:function" of this package. An entry that is added at run time is known to this process
    alone; one that stands in this file also to those of a sweep."""

    title: str  # in figures and sentences
    loss: Callable | str
    colour: str
    marker: str  # never colour alone
    knobs: tuple = ()  # the loss fields of Config that it reads; all others stay at their defaults
    about: str = ""  # what it is, and whose

    def bound(self, cfg, margins, train):
        """The loss of a run."""
        make = self.loss
        if isinstance(make, str):
            module, _, name = make.partition(":")
            make = getattr(importlib.import_module(f"kdlib.{module}"), name)
        return make(cfg, margins, train)


@dataclass(frozen=True)
class Arm:
    """A method of a study under a name of its own: another method with some fields of Config
    set."""

    title: str
    method: str
    colour: str
    marker: str
    fields: dict = field(default_factory=dict)
    about: str = ""


METHODS = {
    "one_hot": Method(
        "one-hot", "losses:one_hot_of", BLACK, "x", about="cross-entropy of the label"
    ),
    "kd": Method(
        "distillation",
        "losses:kd_of",
        BLUE,
        "o",
        (*_TEACHER, "soften", "alpha"),
        "Hinton et al. 2015",
    ),
    "ada_alpha": Method(
        "AdaAlpha",
        "losses:ada_alpha_of",
        ORANGE,
        "s",
        (*_TEACHER, "soften", *_MARGIN, "margin_level"),
        "Lukasik et al. 2021, reconstructed",
    ),
    "ada_margin": Method(
        "AdaMargin",
        "losses:ada_margin_of",
        GREEN,
        "^",
        (*_TEACHER, "soften", *_MARGIN, "margin_reading", "margin_scale"),
        "Lukasik et al. 2021, reconstructed",
    ),
    # rivals
    "label_smoothing": Method(
        "label smoothing",
        "rivals:label_smoothing_of",
        GREY,
        "v",
        ("smoothing",),
        "Szegedy et al. 2016, 0.1",
    ),
    "logit_adjusted": Method(
        "logit adjustment",
        "rivals:logit_adjusted_of",
        OCHRE,
        "H",
        ("tau",),
        "Menon et al. 2021, eq. 10, tau = 1",
    ),
    "post_hoc": Method(
        "post-hoc adjustment",
        "losses:one_hot_of",
        OCHRE,
        "1",
        about="Menon et al. 2021, eq. 9; tau of each run chosen on val: uses extra labels",
    ),
    "group_dro": Method(
        "group DRO",
        "rivals:group_dro_of",
        OCHRE,
        "2",
        ("step_size",),
        "Sagawa et al. 2020, step 0.01",
    ),
    "balanced_kd": Method(
        "class-balanced distillation",
        "rivals:balanced_kd_of",
        PURPLE,
        "<",
        (*_TEACHER, "balance"),
        "Zhang et al. 2021 (2104.10510), as their code: CE + T² KL to the reweighted teacher, "
        "beta 0.9999",
    ),
    "decoupled_kd": Method(
        "decoupled distillation",
        "rivals:decoupled_kd_of",
        BLUE,
        "d",
        (*_TEACHER, "beta"),
        "Zhao et al. 2022, weights 1 and 2 (theirs for R56 → R20), without warm-up",
    ),
    "long_tailed_kd": Method(
        "long-tailed distillation",
        "rivals:long_tailed_kd_of",
        PURPLE,
        ">",
        _TEACHER,
        "Kim 2025 (2506.18496), reconstructed from the abstract",
    ),
    "robust_kd": Method(
        "robust student",
        "rivals:robust_kd_of",
        PURPLE,
        "X",
        (*_TEACHER, "step_size"),
        "Wang et al. 2023, reconstructed; weights follow the training loss",
    ),
}

ARMS = {
    "ada_alpha_crossfit": Arm(
        "AdaAlpha, crossfit margins",
        "ada_alpha",
        ORANGE,
        "D",
        {"margin_source": "crossfit"},
        "AdaAlpha with margins that need no labels of val",
    ),
    "one_hot_with_val": Arm(
        "one-hot, also on the labels of val", "one_hot", BLACK, "+", {"with_val": True}
    ),
    "kd_mean_alpha": Arm(
        "distillation, AdaAlpha's mean alpha",
        "ada_alpha",
        BLUE,
        "p",
        {"margin_level": "all"},
        "one weight for all, the mean of AdaAlpha's over the training images: what is left of "
        "AdaAlpha without the choice by group",
    ),
    "kd_tuned": Arm(
        "distillation, alpha tuned",
        "kd",
        BLUE,
        "h",
        {"alpha": 0.5},
        "the constant weight below 1 that val chooses (recipe study)",
    ),
    "ada_alpha_01": Arm(
        "0/1 AdaAlpha",
        "ada_alpha",
        ORANGE,
        "*",
        {"margin_level": "example", "margin_source": "train", "margin_kind": "hit"},
        "the teacher counts only where it is right on the training image",
    ),
    "kd_adjusted_teacher": Arm(
        "adjusted teacher",
        "kd",
        PURPLE,
        "8",
        {"teacher_method": "logit_adjusted"},
        "plain distillation from a teacher trained with logit adjustment",
    ),
}
TEACHER = Arm("teacher", "one_hot", PURPLE, "P")  # where it stands beside its students


def entry(name):
    """The Method or Arm of that name; None for names that a study made up."""
    return METHODS.get(name) or ARMS.get(name) or (TEACHER if name == "teacher" else None)


def name_of(name):
    """A method of a study in words."""
    known = entry(name)
    return known.title if known else name


def look_of(shown):
    """(colour, marker) of a method by its name in words."""
    for known in (*METHODS.values(), *ARMS.values(), TEACHER):
        if known.title == shown:
            return known.colour, known.marker
    return BLUE, "o"


def loss_fields():
    """Every field of Config that belongs to a loss."""
    return {knob for method in METHODS.values() for knob in method.knobs}


def arms(*names):
    """{name: Config fields} as a study lists its methods."""
    out = {}
    for name in names:
        arm = ARMS.get(name)
        out[name] = {"method": arm.method, **arm.fields} if arm else {}
    return out
