"""Config: every knob of one run, frozen and checked; its key. Standard library alone."""

import dataclasses
import difflib
import functools
import hashlib
import json
import typing
from dataclasses import dataclass

from kdlib.methods import METHODS, loss_fields

FOLDS = 5  # of a crossfit
RECIPE = 1  # of what fields mean: records of another one do not answer to the keys of this one

DATASETS = ("digits", "cifar20", "cifar100", "cifar10", "superclass", "superclass_small", "adult")
HIDDEN = ("superclass", "superclass_small", "adult")  # their groups are not the classes
TABLES = ("adult",)  # rows of a table, not images
DEPTHS = (8, 14, 20, 32, 44, 56, 110)
RESNETS = [f"resnet{depth}{shortcut}" for shortcut in ("", "-conv") for depth in DEPTHS]
# networks, by what they read: digits in grey, images in colour, rows of a table
OF_DIGITS = ("cnn", "cnn_small")
OF_IMAGES = (*RESNETS, "resnet8x2")
OF_TABLES = ("mlp", "mlp_small", "logistic", "boosted_trees")
MODELS = (*OF_DIGITS, *OF_IMAGES, *OF_TABLES)


class KdlibError(Exception):
    """For the user: one sentence saying what is wrong, where, and what is allowed or helps."""

    def _render_traceback_(self):
        """What IPython shows of it: the sentence, and no traceback above it."""
        return [f"{type(self).__name__}: {self}"]


def did_you_mean(word, allowed):
    """The allowed values as a sentence, the likeliest one first if one is likely.

    That is the first one that begins with the word, else the nearest one."""
    word = str(word)
    names = [str(a) for a in allowed]
    begun = [name for name in names if word and name.startswith(word)]
    likely = begun or difflib.get_close_matches(word, names, n=1)
    begins = f"did you mean {likely[0]!r}? Allowed:" if likely else "allowed are"
    return f"{begins} {', '.join(names)}."


def count_of(number, noun, several=None):
    """A number with its noun: "1 seed", "2 seeds", "1,200 classes"; `several`: an odd plural."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def networks_of(dataset):
    """Names of the networks that read a data set."""
    if dataset in TABLES:
        return OF_TABLES
    return OF_DIGITS if dataset == "digits" else OF_IMAGES


def choice(default, words):
    """A field that is one of some words."""
    return dataclasses.field(default=default, metadata={"words": words})


def number(default, lowest, highest):
    """A field that lies in a range, ends included."""
    return dataclasses.field(default=default, metadata={"range": (lowest, highest)})


@dataclass(frozen=True)
class Config:
    """One run. A field that the method ignores must be at its default, so that one baseline serves
    all its students. Raises KdlibError naming the field and what is allowed."""

    dataset: str = choice("digits", DATASETS)
    student: str = choice("cnn_small", MODELS)  # the network being fitted, also without a teacher
    method: str = choice("one_hot", METHODS)
    seed: int = number(0, 0, 10**6)  # methods of one seed share the first weights and the batches
    # data
    draw_seed: int | None = number(None, 0, 10**6)  # of the long tail; None: canonical order
    imbalance: float = number(1.0, 1, 1e4)  # largest class / smallest class
    profile: str = choice("exp", ("exp", "step"))
    fold: int | None = number(None, 0, FOLDS - 1)  # of the training images, left out in a crossfit
    label_noise: float = number(0.0, 0, 1)  # share of the training images with shuffled labels
    with_val: bool = False  # train on val's labels too: curves on val are then of training images
    # teacher and loss
    teacher: str | None = choice(None, MODELS)
    teacher_seed: int | None = number(None, 0, 10**6)  # None: 1000 + seed, never the baseline
    teacher_method: str = choice("one_hot", ("one_hot", "logit_adjusted"))  # how it was trained
    alpha: float = number(1.0, 0, 1)  # weight of the teacher term
    temperature: float = number(1.0, 1e-3, 1e3)
    soften: str = choice("both", ("both", "teacher"))  # whose logits; see losses.distill
    margin_source: str = choice("val", ("val", "crossfit", "train"))  # where it is measured
    margin_level: str = choice("group", ("group", "class", "example", "all"))  # "all": one for all
    margin_kind: str = choice("avg", ("avg", "max", "hit"))  # see losses.margin
    margin_temperature: float = number(1.0, 1e-3, 1e3)
    margin_reading: str = choice("B", ("B", "A", "C", "C-inverse"))  # see losses.ada_margin_of
    margin_scale: float = number(1.0, 0, 50)
    # rivals; see rivals.py
    smoothing: float = number(0.1, 0, 1)
    tau: float = number(1.0, 0, 10)  # scale of the logit adjustment
    balance: float = number(0.9999, 0, 0.999999)  # beta of the effective number of samples
    beta: float = number(2.0, 0, 100)  # weight of the other classes in decoupled_kd
    step_size: float = number(0.01, 0, 10)  # of the weights of groups, per step
    # optimisation: SGD with momentum 0.9
    epochs: int = number(40, 1, 10_000)
    warmup: int = number(0, 0, 1000)  # epochs of linear warm-up, inside `epochs`
    decay: str = choice("cosine", ("cosine", "step"))
    milestones: tuple = ()  # epochs, rising, at which "step" multiplies the rate by decay_factor
    decay_factor: float = number(0.1, 0, 1)
    batch_size: int = number(128, 1, 65536)
    lr: float = number(0.1, 0, 100)
    weight_decay: float = number(5e-4, 0, 10)
    nesterov: bool = False
    precision: str = choice("fp32", ("fp32", "bf16"))  # of the network; losses stay fp32

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = checked(field.name, getattr(self, field.name), type(self))
            object.__setattr__(self, field.name, value)
        if self.teacher is not None and self.teacher_seed is None:
            object.__setattr__(self, "teacher_seed", checked("teacher_seed", 1000 + self.seed))
        self._check_knobs()
        self._check_teacher(METHODS[self.method].knobs)
        self._check_networks()
        self._check_training_images()
        self._check_schedule()

    def _check_knobs(self):
        knobs = METHODS[self.method].knobs
        for name in sorted(loss_fields()):
            if name not in DEFAULTS:
                known = did_you_mean(name, DEFAULTS)
                raise _wrong(f"{name!r} is unknown, but kdlib/methods.py has it as a knob: {known}")
            if name not in knobs and (value := getattr(self, name)) != DEFAULTS[name]:
                unused = f"method {self.method!r} does not use it; leave it at {DEFAULTS[name]!r}"
                raise _wrong(f"{name}={value!r}: {unused}.")

    def _check_teacher(self, knobs):
        if "teacher" in knobs and self.teacher is None:
            allowed = ", ".join(networks_of(self.dataset))
            raise _wrong(f"teacher: method {self.method!r} needs one of {allowed}.")
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
        reads_images = "margin_reading" in knobs and self.margin_reading == "B"
        if reads_images and self.margin_source != "val":
            raise _wrong(
                "margin_source: reading 'B' of ada_margin takes its margin from each training "
                "image; leave it at 'val'."
            )
        if self.dataset in HIDDEN and self.margin_reading != "B":
            raise _wrong(
                f"margin_reading={self.margin_reading!r}: a margin for each class needs groups "
                f"that are the classes; in {self.dataset!r} they are not."
            )

    def _check_networks(self):
        for name in ("student", "teacher"):
            network = getattr(self, name)
            allowed = networks_of(self.dataset)
            if network in MODELS and network not in allowed:  # not one of another library
                reads = f"does not read what {self.dataset!r} holds; {', '.join(allowed)} do"
                raise _wrong(f"{name}={network!r}: {reads}.")
        if self.dataset in TABLES and (self.imbalance != 1 or self.draw_seed is not None):
            raise _wrong(f"imbalance: {self.dataset!r} is used whole; leave it and draw_seed.")
        if self.student == "boosted_trees" and self.method != "one_hot":
            raise _wrong(
                f"student='boosted_trees': trees teach, they do not learn {self.method!r}."
            )

    def _check_training_images(self):
        if self.fold is not None and self.method != "one_hot":
            raise _wrong("fold: only teachers of a crossfit (method 'one_hot') leave a fold out.")
        chooses = METHODS[self.method].adjusted
        if self.with_val and (self.teacher or chooses or self.fold is not None):
            raise _wrong(
                "with_val: only a method without a teacher that chooses nothing on val, and no "
                "fold of a crossfit, may train on val's labels; leave it at False."
            )
        if self.margin_source == "crossfit" and self.teacher_method != "one_hot":
            raise _wrong("teacher_method: the teachers of a crossfit are trained by 'one_hot'.")
        if self.imbalance == 1 and self.profile != "exp":
            raise _wrong("profile: without imbalance there is no profile; leave it at 'exp'.")

    def _check_schedule(self):
        in_steps = self.milestones or self.decay_factor != DEFAULTS["decay_factor"]
        if self.decay != "step" and in_steps:
            raise _wrong("milestones: only decay='step' uses milestones and decay_factor.")
        epochs = [0, *self.milestones, self.epochs]
        if epochs != sorted(set(epochs)):
            allowed = f"must be in rising order, each above 0 and below epochs={self.epochs}"
            raise _wrong(f"milestones={_shown(self.milestones)}: {allowed}.")
        if self.warmup >= self.epochs:
            raise _wrong(f"warmup={self.warmup}: must be less than epochs={self.epochs}.")

    def fields(self):
        """{name: value} of every field."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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

    def teacher_config(self):
        """The run that trains this run's teacher: one_hot, or another teacher_method."""
        if self.teacher is None:
            raise KdlibError(f"Config {self.key()}: method {self.method!r} has no teacher.")
        loss = {knob: DEFAULTS[knob] for knob in method_of(self).knobs}
        teacher = {"student": self.teacher, "seed": self.teacher_seed, "with_val": False}
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
        if unknown := [name for name in fields if name not in DEFAULTS]:
            raise _wrong(f"{unknown[0]!r:.80} is unknown: {did_you_mean(unknown[0], DEFAULTS)}")
        return cls(**fields)


def method_of(cfg):
    """The Method of a Config; KdlibError where the Config came from a process that knows more."""
    if cfg.method not in METHODS:
        raise KdlibError(
            f"Config {cfg.key()}: this process has no method {cfg.method!r}; add it to "
            "kdlib/methods.py, or run it with one job in the process that has it."
        )
    return METHODS[cfg.method]


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}
_once = functools.lru_cache(maxsize=None, typed=True)(Config)


def built(fields):
    """The Config of these fields: studies share runs, and in a process each is built once."""
    return _once(**(DEFAULTS | fields))


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
KINDS |= {tuple: "a tuple of whole numbers", type(None): "nothing"}


def _wrong(about):
    return KdlibError(f"Config field {about}")


def _shown(value):
    """A value in a sentence: one line of at most 80 characters, whatever it is."""
    try:
        return " ".join(repr(value).split())[:80]
    except Exception:  # of a number with thousands of digits, or of somebody's class
        return f"a value of type {type(value).__name__}"


def checked(name, value, of=Config):
    """The value of a field in its canonical type, or KdlibError naming the field."""
    field = of.__dataclass_fields__[name]
    kinds = typing.get_args(field.type) or (field.type,)  # of `int | None`, or of `int`
    if value is None and type(None) in kinds:
        return None
    if type(value) is list and tuple in kinds:  # of JSON, which has no tuples
        value = tuple(value)
    words = field.metadata.get("words")
    low, high = field.metadata.get("range", (value, value))
    kind = float if type(value) is int and float in kinds else type(value)
    if kind not in kinds or (kind is tuple and any(type(v) is not int for v in value)):
        wrong = f"must be {' or '.join(map(KINDS.get, kinds))}."
    elif words and value not in words:
        wrong = did_you_mean(value, words)
    elif not low <= value <= high:
        wrong = f"must lie between {low} and {high}."
    else:
        return float(value) + 0.0 if kind is float else value  # of -0.0 the key would be another
    raise _wrong(f"{name}={_shown(value)}: {wrong}")
