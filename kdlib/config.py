"""Config: every knob of one run, frozen and checked; its key. Standard library alone."""

import dataclasses
import difflib
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass, replace

from kdlib.methods import METHODS, loss_fields

FOLDS = 5  # of a crossfit
RECIPE = 1  # of what fields mean: records of another one do not answer to the keys of this one

DATASETS = ("digits", "cifar20", "cifar100", "cifar10", "superclass")
DEPTHS = (8, 14, 20, 32, 44, 56, 110)
MODELS = (
    "cnn",
    "cnn_small",
    *(f"resnet{d}" for d in DEPTHS),
    *(f"resnet{d}-conv" for d in DEPTHS),
    "resnet8x2",
)

ALLOWED = {
    "dataset": DATASETS,
    "profile": ("exp", "step"),
    "student": MODELS,
    "teacher": MODELS,
    "method": METHODS,
    "teacher_method": ("one_hot", "logit_adjusted"),
    "soften": ("both", "teacher"),
    "margin_source": ("val", "crossfit", "train"),
    "margin_level": ("group", "example", "all"),
    "margin_kind": ("avg", "max", "hit"),
    "margin_reading": ("B", "A", "C", "C-inverse"),
    "decay": ("cosine", "step"),
    "precision": ("fp32", "bf16"),
}
RANGES = {  # field -> (lowest, highest allowed)
    "imbalance": (1, 1e4),
    "alpha": (0, 1),
    "temperature": (1e-3, 1e3),
    "margin_temperature": (1e-3, 1e3),
    "margin_scale": (0, 50),
    "epochs": (1, 10_000),
    "warmup": (0, 1000),
    "decay_factor": (0, 1),
    "batch_size": (1, 65536),
    "lr": (0, 100),
    "weight_decay": (0, 10),
    "seed": (0, 10**6),
    "teacher_seed": (0, 10**6),
    "draw_seed": (0, 10**6),
    "fold": (0, FOLDS - 1),
    "label_noise": (0, 1),
    "smoothing": (0, 1),
    "tau": (0, 10),
    "step_size": (0, 10),
    "balance": (0, 0.999999),
    "beta": (0, 100),
}


class KdlibError(Exception):
    """For the user: one sentence saying what is wrong, where, and what is allowed or helps."""


def did_you_mean(word, allowed):
    """The allowed values as a sentence, the nearest one first if there is a near one."""
    near = difflib.get_close_matches(str(word), [str(a) for a in allowed], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(map(str, allowed))}."


@dataclass(frozen=True)
class Config:
    """One run.

    A field that the method ignores must be at its default, so that one baseline serves all its
    students. Raises KdlibError naming the field and what is allowed."""

    dataset: str = "digits"
    student: str = "cnn_small"  # the network being fitted, also when there is no teacher
    method: str = "one_hot"
    seed: int = 0  # the methods of one seed share the weights at the start and the batches
    # data
    draw_seed: int | None = None  # of the long tail; None: classes and images in canonical order
    imbalance: float = 1.0  # largest class / smallest class
    profile: str = "exp"
    fold: int | None = None  # teachers of a crossfit leave out this fifth of the training images
    label_noise: float = 0.0  # share of the training images whose labels are shuffled among them
    with_val: bool = False  # train on val's labels too: curves on val are then of training images
    # teacher and loss
    teacher: str | None = None
    teacher_seed: int | None = None  # default 1000 + seed: never the baseline itself
    teacher_method: str = "one_hot"  # how the teacher was trained
    alpha: float = 1.0  # weight of the teacher term
    temperature: float = 1.0
    soften: str = "both"  # "both": T^2 KL of softened by softened; "teacher": cross-entropy, no T^2
    margin_source: str = "val"  # where a group's margin is measured
    margin_level: str = "group"  # "all": one for all, the mean over the training images
    margin_kind: str = "avg"  # "hit": 1 where the teacher is right, else 0
    margin_temperature: float = 1.0
    margin_reading: str = "B"  # of AdaMargin; see losses.ada_margin_of
    margin_scale: float = 1.0
    # rivals; see rivals.py
    smoothing: float = 0.1
    tau: float = 1.0  # scale of the logit adjustment
    balance: float = 0.9999  # beta of the effective number of samples
    beta: float = 2.0  # weight of the other classes in decoupled_kd
    step_size: float = 0.01  # of the weights of groups, per step
    # optimisation: SGD with momentum 0.9
    epochs: int = 40
    warmup: int = 0  # epochs of linear warm-up, inside `epochs`
    decay: str = "cosine"
    milestones: tuple = ()  # epochs at which "step" multiplies the rate by decay_factor
    decay_factor: float = 0.1
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    nesterov: bool = False
    precision: str = "fp32"  # "bf16": of the network; losses and batch-norm statistics stay fp32

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.teacher is not None and self.teacher_seed is None:
            object.__setattr__(self, "teacher_seed", 1000 + self.seed)
        self._check_combination()

    def _check_combination(self):
        knobs = METHODS[self.method].knobs
        for name in sorted(loss_fields() - set(knobs)):
            value, default = getattr(self, name), DEFAULTS[name]
            if value != default:
                raise _wrong(
                    f"{name}={value!r}: method {self.method!r} does not use it; leave it at "
                    f"{default!r}."
                )
        if "teacher" in knobs and self.teacher is None:
            raise _wrong(f"teacher: method {self.method!r} needs one of {', '.join(MODELS)}.")
        if self.teacher == self.student and self.teacher_seed == self.seed:
            raise _wrong(
                f"teacher_seed={self.teacher_seed}: in self-distillation the teacher would be the "
                f"baseline itself; choose another seed than {self.seed}."
            )
        if self.margin_level == "example" and self.margin_source == "val":
            raise _wrong(
                "margin_level='example': there are no held-out margins of training examples on "
                "val; use margin_source 'crossfit' or 'train'."
            )
        reads_images = self.method == "ada_margin" and self.margin_reading == "B"
        if reads_images and self.margin_source != "val":
            raise _wrong(
                "margin_source: reading 'B' of ada_margin takes its margin from each training "
                "image; leave it at 'val'."
            )
        if self.dataset == "superclass" and self.margin_reading != "B":
            raise _wrong(
                f"margin_reading={self.margin_reading!r}: a margin for each class needs groups "
                "that are the classes; in 'superclass' they are not."
            )
        if self.fold is not None and self.method != "one_hot":
            raise _wrong("fold: only teachers of a crossfit (method 'one_hot') leave a fold out.")
        reads_val = self.teacher is not None or self.method == "post_hoc"
        if self.with_val and (reads_val or self.fold is not None):
            raise _wrong(
                "with_val: only a method without a teacher that chooses nothing on val, and no "
                "fold of a crossfit, may train on val's labels; leave it at False."
            )
        if self.margin_source == "crossfit" and self.teacher_method != "one_hot":
            raise _wrong("teacher_method: the teachers of a crossfit are trained by 'one_hot'.")
        in_steps = self.milestones or self.decay_factor != DEFAULTS["decay_factor"]
        if self.decay != "step" and in_steps:
            raise _wrong("milestones: only decay='step' uses milestones and decay_factor.")
        if self.warmup >= self.epochs:
            raise _wrong(f"warmup={self.warmup}: must be less than epochs={self.epochs}.")
        if self.imbalance == 1 and self.profile != "exp":
            raise _wrong("profile: without imbalance there is no profile; leave it at 'exp'.")

    def fields(self):
        """{name: value} of every field."""
        return {name: getattr(self, name) for name in DEFAULTS}

    def key(self):
        """Stable, readable name of the run, with a hash of the fields that are not at defaults."""
        return self._key

    @functools.cached_property
    def _key(self):
        fields = {name: v for name, v in self.fields().items() if v != DEFAULTS[name]}
        text = json.dumps({"recipe": RECIPE, **fields}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        networks = f"{self.teacher}-{self.student}" if self.teacher else self.student
        return f"{self.dataset}_{networks}_{self.method}_s{self.seed}_{digest}"

    def baseline_config(self):
        """The one_hot run this run is compared with: same student, seed and data."""
        defaults = {knob: DEFAULTS[knob] for knob in METHODS[self.method].knobs}
        return replace(self, method="one_hot", with_val=False, **defaults)

    def teacher_config(self):
        """The run that trains this run's teacher: one_hot, or another teacher_method."""
        if self.teacher is None:
            raise KdlibError(f"Config {self.key()}: method {self.method!r} has no teacher.")
        teacher = {"student": self.teacher, "seed": self.teacher_seed, "with_val": False}
        loss = {knob: DEFAULTS[knob] for knob in METHODS[self.method].knobs}
        return built(self.fields() | loss | teacher | {"method": self.teacher_method})

    def dependencies(self):
        """The runs that have to exist before this one: its teachers, those of folds included."""
        if self.teacher is None:
            return []
        teacher = self.teacher_config()
        folds = range(FOLDS) if self.margin_source == "crossfit" else ()
        return [teacher, *(built(teacher.fields() | {"fold": k}) for k in folds)]

    @classmethod
    def from_dict(cls, fields):
        """Config from a dictionary; an unknown field is an error with the nearest known one."""
        for name in fields:
            if name not in DEFAULTS:
                raise _wrong(f"{name!r} is unknown: {did_you_mean(name, DEFAULTS)}")
        return cls(**fields)


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}
_HINTS = typing.get_type_hints(Config)
_WORDS = {type(None): "None", tuple: "tuple of int"}


def _wrong(about):
    return KdlibError(f"Config field {about}")


def _checked(field, value):
    """The value in its canonical type, or KdlibError naming the field."""
    name, hint = field.name, _HINTS[field.name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if tuple in kinds and isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
        return tuple(value)
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds or tuple in kinds:
        allowed = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise _wrong(f"{name}={value!r}: must be {allowed}.")
    if name in ALLOWED and value not in ALLOWED[name]:
        raise _wrong(f"{name}={value!r}: {did_you_mean(value, ALLOWED[name])}")
    low, high = RANGES.get(name, (value, value))
    if not low <= value <= high:
        raise _wrong(f"{name}={value!r}: must lie between {low} and {high}.")
    return value


_once = functools.cache(Config)


def built(fields):
    """The Config of these fields: studies share runs, and in a process each is built once."""
    return _once(**(DEFAULTS | fields))
