"""The pre-registered grids: STUDIES[name](seeds) -> list of Configs. Each pair and method has one primary Config.

PROTOCOL.md gives the reasons, and says when each choice was made."""

import ast
import itertools
from dataclasses import dataclass, field, replace

from kdlib.anchors import ANCHORS, ANCHORS_LT, LDAM
from kdlib.config import KNOBS, Config, KdlibError, did_you_mean
from kdlib.search import Search, Step

KINDS = {   # kind of a study: the notebooks that show it
    "findings": ("00_overview", "01_gains_are_not_uniform", "02_teacher_errors_are_amplified", "03_softening_the_teacher"),
    "knobs": ("04_what_the_mitigation_depends_on",), "ablations": ("05_when_does_distillation_harm",),
    "rivals": ("06_rivals",), "anchors": ("90_anchors",), "recipe": ("91_choice_of_recipe",),
}
PRIMARY = {"one_hot": {}, "kd": {}, "ada_alpha": {}, "ada_margin": {}}
MOST_SEEDS = 64   # of a study


@dataclass(frozen=True)
class Study:
    """A named list of runs: settings x pairs x methods x seeds over shared fields."""

    name: str
    title: str
    about: str
    pairs: tuple                 # of (teacher, student); the first one is the headline
    seeds: int                   # planned
    shared: dict                 # Config fields of every run
    distilled: dict              # Config fields of every run with a teacher
    bucket_edges: tuple          # training images: many > first, few < second, medium between; (): tenths by teacher margin
    worst: tuple                 # k of the worst-k metrics
    methods: dict = field(default_factory=lambda: dict(PRIMARY))   # name: Config fields; "method" if it is not the name itself
    baselines: int = 0           # seeds of one_hot, if more than `seeds`
    fewer: dict = field(default_factory=dict)   # method: its seeds, if fewer than `seeds`
    teacher_seeds: dict = field(default_factory=dict)   # pair: seed of its first teacher, if it is not 1000
    settings: tuple = ({},)      # of Config fields that differ from the above, for all methods alike; {}: none
    kind: str = "findings"       # see KINDS; the verdicts are those of "findings", everything else is sensitivity
    first_seed: int = 0
    demonstration: bool = False
    superseded: bool = False     # shown after everything else, and never as the answer while there is another

    def config(self, pair, method, seed, setting=None):
        """The Config of a method for one (teacher, student), the seed-th seed, and one of the settings."""
        teacher, student = pair
        fields = {"method": method, "student": student, "seed": self.first_seed + seed, **self.shared}
        changes = {"teacher": teacher, **self.distilled, **(setting or {}), **self.methods[method]}
        if pair in self.teacher_seeds:
            changes.setdefault("teacher_seed", self.teacher_seeds[pair] + self.first_seed + seed)
        knobs = KNOBS[changes.get("method", method)]
        losses = {k for ks in KNOBS.values() for k in ks}
        return Config(**{**fields, **{k: v for k, v in changes.items() if k in knobs or k not in losses}})

    def seeds_of(self, method, seeds):
        """Which seeds of a method belong to the first `seeds` of the study: further baselines are dealt out among them."""
        if method == "one_hot":
            return [k for k in range(max(self.baselines, self.seeds)) if k % self.seeds < seeds]
        return list(range(min(seeds, self.fewer.get(method, seeds))))

    def __call__(self, seeds=None, extras=True):
        """All runs of the first `seeds` seeds, each once, seed by seed, teachers before their students; last the `extras`:
        methods of fewer seeds, which no seed has to wait for."""
        configs = {}
        seeds = self.seeds if seeds is None else seeds
        for extra, seed in itertools.product((False, True)[: 1 + extras], range(seeds)):
            for setting, pair, method in itertools.product(self.settings, self.pairs, self.methods):
                some = self.seeds_of(method, seeds) if (method in self.fewer) == extra else ()
                for k in some:
                    if k % self.seeds == seed:
                        cfg = self.config(pair, method, k, setting)
                        for c in (*cfg.dependencies(), cfg):
                            configs.setdefault(c.key(), c)
        return list(configs.values())

    def pool(self, pair, setting=None):
        """Configs of every network that may be a baseline of a pair: one_hot training of its student on the same data by the
        same recipe, whatever it was trained for (also as a teacher), but not the seeds that a recipe was chosen with."""
        first = self.config(pair, "one_hot", 0, setting)
        start = self.first_seed
        return [replace(first, seed=seed) for block in (start, 1000 + start) for seed in range(block, block + MOST_SEEDS)]


def study(name):
    """The Study of that name, or KdlibError with the known ones."""
    if name not in STUDIES:
        raise KdlibError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def check_parameters(namespace):
    """The Study that a notebook's parameters `study` and `seeds` ask for; call it as check_parameters(globals()).

    A notebook serves the studies of its `kind`, the first line of its parameters. KdlibError for an unknown name in papermill's
    injected cell (which papermill itself only warns of), a study that is unknown or of another kind, or seeds out of range."""
    check_names(namespace, ("study", "seeds"))
    name, seeds, kind = namespace["study"], namespace["seeds"], namespace["KIND"]
    fitting = [s.name for s in STUDIES.values() if s.kind == kind]
    if not isinstance(name, str) or name not in fitting:
        raise KdlibError(f"notebook parameter study={name!r}: {did_you_mean(name, fitting)}")
    chosen = study(name)
    if type(seeds) is not int or not 1 <= seeds <= chosen.seeds:
        raise KdlibError(f"notebook parameter seeds={seeds!r}: must be a whole number from 1 to {chosen.seeds} for {name}.")
    return chosen


def check_names(namespace, known):
    """KdlibError if the cell that papermill injected sets a name that is not known, of which papermill itself only warns."""
    for cell in namespace.get("In", ()):
        if cell.startswith("# Parameters"):   # the first line papermill writes
            names = [t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for t in node.targets]
            for name in names:
                if name not in known:
                    raise KdlibError(f"notebook parameter {name!r} is unknown: {did_you_mean(name, known)}")


DIGITS = {"dataset": "digits", "draw_seed": 0, "imbalance": 50.0, "epochs": 40, "warmup": 4, "batch_size": 32,
          "lr": 0.05, "weight_decay": 5e-4}
CIFAR20 = {"dataset": "cifar20", "draw_seed": 0, "imbalance": 20.0, "epochs": 160, "warmup": 5, "batch_size": 32,
           "lr": 0.1, "weight_decay": 5e-4}
SHORT = {**CIFAR20, "epochs": 40, "warmup": 8, "batch_size": 128, "lr": 0.2}   # version 1: superseded (PROTOCOL.md, D19)
# Wang et al. 2023 (W): the schedule on the long tail, and the one on balanced classes. Peak rate: not stated there.
W_TAIL = {"epochs": 256, "warmup": 15, "decay": "step", "milestones": (96, 192, 224), "batch_size": 128, "lr": 0.1,
          "weight_decay": 1e-4}
W_FULL = {"epochs": 450, "warmup": 15, "decay": "step", "milestones": (200, 300, 400), "batch_size": 1024, "lr": 0.8,
          "weight_decay": 1e-4}
CIFAR100_LT = {"dataset": "cifar100", "draw_seed": 0, "imbalance": 100.0, **W_TAIL}
T2 = {"temperature": 2.0}
R56 = (("resnet56", "resnet20"), ("resnet56", "resnet56"))

_CROSSFIT = {"method": "ada_alpha", "margin_source": "crossfit"}
RIVALS = PRIMARY | {
    "kd_mean_alpha": {"method": "ada_alpha", "margin_level": "all"},     # does the choice by group matter, or labels as such?
    "kd_tuned": {"method": "kd", "alpha": 0.5},                          # chosen on val; see the recipe studies
    "ada_alpha_01": {"method": "ada_alpha", "margin_level": "example", "margin_source": "train", "margin_kind": "hit"},
    "label_smoothing": {}, "logit_adjusted": {}, "post_hoc": {}, "group_dro": {}, "balanced_kd": {}, "decoupled_kd": {},
    "long_tailed_kd": {}, "robust_kd": {},
    "kd_adjusted_teacher": {"method": "kd", "teacher_method": "logit_adjusted"},
}
_ALPHA, _MARGIN = {"method": "ada_alpha"}, {"method": "ada_margin"}
KNOB_ARMS = {   # the primary methods, then one choice changed at a time
    "one_hot": {}, "kd": {}, "ada_alpha": {}, "ada_margin": {},
    "AdaAlpha, margin of train": {**_ALPHA, "margin_source": "train"},
    "AdaAlpha, margin by crossfit": {**_ALPHA, "margin_source": "crossfit"},
    "AdaAlpha, per example by crossfit": {**_ALPHA, "margin_source": "crossfit", "margin_level": "example"},
    "AdaAlpha, margin over the largest": {**_ALPHA, "margin_kind": "max"},
    "AdaAlpha, margin at T = 2": {**_ALPHA, "margin_temperature": 2.0},
    "AdaAlpha, margin at T = 4": {**_ALPHA, "margin_temperature": 4.0},
    "AdaAlpha, margin at T = 16": {**_ALPHA, "margin_temperature": 16.0},
    "AdaMargin, reading A": {**_MARGIN, "margin_reading": "A"},
    "AdaMargin, reading C": {**_MARGIN, "margin_reading": "C"},
    "AdaMargin, reading C-inverse": {**_MARGIN, "margin_reading": "C-inverse"},
    "AdaMargin, half the scale": {**_MARGIN, "margin_scale": 0.5},
}
ABLATED = {"one_hot": {}, "kd": {}, "ada_alpha": {}}


def _settings(**levels):
    """The base setting, then one field changed at a time."""
    return ({}, *({name: value} for name, values in levels.items() for value in values))


_BEYOND = {   # kind of a study beyond the findings: title, about
    "rivals": ("Rivals", "All methods at equal budget: the same data, network, epochs, batches and starting weights."),
    "knobs": ("Knobs", "Each reconstructed choice of AdaAlpha and AdaMargin, changed one at a time."),
    "ablations": ("When does distillation harm?", "One field of the recipe or of the data changed at a time."),
    "length": ("How long were the networks trained?", "Whom distillation hurts, by the length of training."),
}


def _beyond(base, kind, **changes):
    """A study on the data, recipe and first pair of another one; its name is the base's and the kind."""
    title, about = _BEYOND[kind]
    return replace(base, name=f"{base.name}-{kind}", kind="ablations" if kind == "length" else kind, about=about,
                   title=f"{title} {base.title}" if title[-1] == "?" else f"{title}: {base.title}", pairs=base.pairs[:1],
                   **{"baselines": 0, "fewer": {}, **changes})


def _steps(temperature, lr):
    """The steps of a search without a gate: rate, then temperature, then a constant weight for `kd_tuned`."""
    return (Step("Learning rate", tuple({"lr": v} for v in lr), ("one_hot", "kd"), {"temperature": temperature}),
            Step("Temperature", TEMPERATURES, ("kd",)),
            Step("Weight of the teacher", tuple({"alpha": v} for v in (0.25, 0.5, 0.75)), ("kd",), {"temperature": temperature}))


TEMPERATURES = tuple({"temperature": v} for v in (1.0, 2.0, 4.0))


def _recipe(base, steps, about="Rate, temperature, weight of the teacher: chosen on val, with seeds of no other study.", **more):
    return Search(f"{base.name}-recipe", f"Choice of the recipe: {base.title}", about, steps, base.shared, base.pairs[:1],
                  base.bucket_edges, demonstration=base.demonstration, **more)


_DIGITS = Study(
    name="digits", title="Handwritten digits, long-tailed",
    about="1,797 real 8x8 images of scikit-learn; a demonstration that runs on any computer, not a reproduction.",
    pairs=(("cnn", "cnn_small"), ("cnn_small", "cnn_small")), seeds=8, shared=DIGITS, distilled=T2,
    bucket_edges=(30, 7), worst=(1, 3), demonstration=True)
_CIFAR20 = Study(
    name="cifar20-lt", title="Twenty classes of CIFAR-100, long-tailed",
    about="The first fine class of each CIFAR-100 superclass, 400 down to 20 training images; sized for a CPU.",
    pairs=(("resnet8", "resnet8"), ("resnet8x2", "resnet8")), seeds=8, shared=CIFAR20, distilled={"temperature": 1.0},
    bucket_edges=(150, 45), worst=(1, 3, 6), baselines=16, fewer={"ada_alpha_crossfit": 4, "one_hot_with_val": 4},
    methods={"one_hot": {}, "kd": {}, "kd_tuned": {"method": "kd", "alpha": 0.5}, "ada_alpha": {},
             "ada_alpha_crossfit": _CROSSFIT, "ada_margin": {}, "one_hot_with_val": {"method": "one_hot", "with_val": True}})
_SHORT = Study(
    name="cifar20-short", title="Twenty classes of CIFAR-100, long-tailed, trained too little",
    about="The recipe of version 1, 40 epochs of batch 128: its networks do not fit their training images. Superseded.",
    superseded=True,
    pairs=(("resnet20", "resnet8"), ("resnet8", "resnet8")), seeds=6, shared=SHORT, distilled={"temperature": 1.0},
    bucket_edges=(150, 45), worst=(1, 3, 6))
_SELF = Study(
    name="cifar100-lt-self", title="CIFAR-100, long-tailed: a ResNet-20 teaches another",
    about="All 100 classes, 500 down to 5 training images, by the recipe of the ResNet-32 anchor (200 epochs).",
    pairs=(("resnet20", "resnet20"),), seeds=4, distilled=T2, bucket_edges=(100, 20), worst=(1, 10, 20),
    shared={name: value for name, value in LDAM.items() if name != "student"},
    methods={"one_hot": {}, "kd": {}, "ada_alpha": {}})
_SMALL = replace(
    _SELF, name="cifar100-lt-small", title="CIFAR-100, long-tailed: a ResNet-32 teaches a ResNet-20",
    pairs=(("resnet32", "resnet20"),), teacher_seeds={("resnet32", "resnet20"): 0},   # its teachers are the anchor's networks
    methods={"one_hot": {}, "kd": {}, "kd_tuned": {"method": "kd", "alpha": 0.5}, "ada_alpha": {}, "ada_margin": {}})
_CIFAR100_LT = Study(
    name="cifar100-lt", title="CIFAR-100, long-tailed",
    about="All 100 classes, 500 down to 5 training images, by the schedule of Wang et al. 2023.",
    pairs=R56, seeds=8, shared=CIFAR100_LT, distilled=T2, bucket_edges=(100, 20), worst=(1, 10, 20))

_CIFAR100 = replace(
    _CIFAR100_LT, name="cifar100", title="CIFAR-100, balanced", seeds=4, bucket_edges=(),
    about="All 100 classes with 500 training images each, by the schedule of Wang et al. 2023.",
    shared={"dataset": "cifar100", **W_FULL})

STUDIES = {s.name: s for s in (
    _CIFAR20,
    _SHORT,
    _SELF,
    _SMALL,
    _CIFAR100_LT,
    _CIFAR100,
    replace(_CIFAR100_LT, name="cifar10-lt", title="CIFAR-10, long-tailed", seeds=4, bucket_edges=(1000, 200), worst=(1, 3),
            about="5,000 down to 50 training images a class: the worst class is not at its floor here.", pairs=R56[::-1],
            shared={**CIFAR100_LT, "dataset": "cifar10"}),
    replace(_CIFAR100_LT, name="cifar10", title="CIFAR-10, balanced", seeds=4, bucket_edges=(), worst=(1, 3), pairs=R56[::-1],
            about="5,000 training images a class, by the schedule of Wang et al. 2023.", shared={"dataset": "cifar10", **W_FULL}),
    replace(_CIFAR100_LT, name="superclass", title="Rare subgroups that the label does not show", pairs=R56[:1],
            about="CIFAR-100 with its 20 superclasses as labels; the fine classes are the groups, with a long tail inside each.",
            shared={**CIFAR100_LT, "dataset": "superclass"}),
    _recipe(_CIFAR20, (
        Step("Batch size and learning rate", tuple({"batch_size": b, "lr": lr} for b, lr in (
            (32, 0.05), (32, 0.1), (32, 0.2), (32, 0.4), (64, 0.1), (64, 0.2), (128, 0.2), (128, 0.4))), fields={"epochs": 80},
            taken={"batch_size": 32, "lr": 0.1}),   # 0.2 does not pass the gate
        Step("Epochs at rate 0.2", tuple({"epochs": e} for e in (80, 160, 320)), fields={"lr": 0.2}),
        Step("Epochs", tuple({"epochs": e} for e in (80, 160, 320)), seeds=4),
        Step("Teacher", tuple({"student": name} for name in ("resnet8", "resnet8x2")), teachers=True),
        Step("Temperature", TEMPERATURES, ("kd",)),
        Step("Weight of the teacher", tuple({"alpha": a} for a in (0.25, 0.5, 0.75, 0.9)), ("kd",),
             fields=dict(_CIFAR20.distilled))),
        "The cheapest recipe that trains enough, then teacher, temperature, constant weight: chosen on val (PROTOCOL.md, D19).",
        epochs=(80, 160)),
    _beyond(_CIFAR20, "rivals", seeds=6, methods=RIVALS | {"ada_alpha_crossfit": _CROSSFIT}, fewer={"ada_alpha_crossfit": 4}),
    _beyond(_CIFAR20, "knobs", seeds=4, methods=KNOB_ARMS),
    _beyond(_CIFAR20, "ablations", seeds=4, methods=ABLATED, settings=_settings(
        temperature=(2.0, 4.0), alpha=(0.25, 0.5, 0.75), teacher=("resnet14", "resnet20"), imbalance=(1.0, 5.0, 50.0),
        label_noise=(0.2,), draw_seed=(1, 2))),
    _beyond(_CIFAR20, "length", seeds=4, methods=ABLATED, settings=_settings(epochs=(20, 40, 80, 320))),
    _recipe(_CIFAR100_LT, _steps(2.0, (0.05, 0.1, 0.2, 0.4))),
    _beyond(_CIFAR100_LT, "rivals", seeds=8, methods=RIVALS),
    _beyond(_CIFAR100_LT, "knobs", seeds=4, methods=KNOB_ARMS),
    _beyond(_CIFAR100_LT, "ablations", seeds=4, methods=ABLATED, settings=(
        *_settings(temperature=(1.0, 4.0), alpha=(0.25, 0.5, 0.75), teacher=("resnet8", "resnet14", "resnet32", "resnet110"),
                   imbalance=(1.0, 10.0, 50.0, 200.0), profile=("step",), label_noise=(0.2, 0.4)),
        *({"draw_seed": d, "teacher_seed": t} for d in (0, 1, 2) for t in (3000, 3001, 3002)))),   # crossed with the seeds
    _recipe(_CIFAR100, _steps(2.0, (0.2, 0.4, 0.8, 1.6)), seeds=1),
    _DIGITS,
    _recipe(_DIGITS, _steps(2.0, (0.05, 0.1, 0.2)), seeds=6),
    _beyond(_DIGITS, "rivals", seeds=3, methods=RIVALS),
    _beyond(_DIGITS, "knobs", seeds=3,   # its rarest class has two images: no crossfit
            methods={name: fields for name, fields in KNOB_ARMS.items() if "crossfit" not in name}),
    _beyond(_DIGITS, "ablations", seeds=3, methods=ABLATED, settings=_settings(
        temperature=(1.0, 4.0), alpha=(0.5,), imbalance=(10.0,), label_noise=(0.2,), draw_seed=(1,))),
    ANCHORS, ANCHORS_LT,
)}
