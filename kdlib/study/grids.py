"""The pre-registered grids: STUDIES[name](seeds) is the list of a study's Configs.

Each pair and method has one primary Config. PROTOCOL.md gives the reasons, and says when each
choice was made."""

import ast
import itertools
from dataclasses import dataclass, field, replace

from kdlib.config import Config, KdlibError, did_you_mean
from kdlib.methods import ARMS, METHODS, arms, entry, loss_fields
from kdlib.study.anchors import ANCHORS, ANCHORS_LT, LDAM
from kdlib.study.search import Search, Step

KINDS = {  # kind of a study: the notebooks that show it
    "findings": (
        "00_overview",
        "01_gains_are_not_uniform",
        "02_teacher_errors_are_amplified",
        "03_softening_the_teacher",
    ),
    "knobs": ("04_what_the_mitigation_depends_on",),
    "ablations": ("05_when_does_distillation_harm",),
    "rivals": ("06_rivals",),
    "anchors": ("90_anchors",),
    "recipe": ("91_choice_of_recipe",),
}
MOST_SEEDS = 64  # of a study


@dataclass(frozen=True)
class Study:
    """A named list of runs: settings x pairs x methods x seeds over shared fields."""

    name: str
    title: str
    about: str
    pairs: tuple  # of (teacher, student); the first one is the headline
    seeds: int  # planned
    shared: dict  # Config fields of every run
    distilled: dict  # Config fields of every run with a teacher
    # training images: many > first, few < second, medium between; (): tenths by teacher margin
    bucket_edges: tuple
    worst: tuple  # k of the worst-k metrics
    # name: Config fields; "method" if it is not the name itself
    methods: dict = field(default_factory=lambda: dict(PRIMARY))
    baselines: int = 0  # seeds of one_hot, if more than `seeds`
    fewer: dict = field(default_factory=dict)  # method: its seeds, if fewer than `seeds`
    # pair: seed of its first teacher, if it is not 1000
    teacher_seeds: dict = field(default_factory=dict)
    # of Config fields that differ from the above, for all methods alike; {}: none
    settings: tuple = ({},)
    # see KINDS; the verdicts are those of "findings", everything else is sensitivity
    kind: str = "findings"
    first_seed: int = 0
    demonstration: bool = False
    # shown after everything else, and never as the answer while there is another
    superseded: bool = False

    def config(self, pair, method, seed, setting=None):
        """The Config of a method for one (teacher, student), the seed-th seed and a setting."""
        teacher, student = pair
        fields = {"method": method, "student": student, "seed": self.first_seed + seed}
        changes = {"teacher": teacher, **self.distilled, **(setting or {}), **self.methods[method]}
        if pair in self.teacher_seeds:
            changes.setdefault("teacher_seed", self.teacher_seeds[pair] + self.first_seed + seed)
        knobs = METHODS[changes.get("method", method)].knobs
        idle = loss_fields() - set(knobs)
        used = {name: value for name, value in changes.items() if name not in idle}
        return Config(**(fields | self.shared | used))

    def seeds_of(self, method, seeds):
        """Which seeds of a method belong to the first `seeds` of the study.

        Further baselines are dealt out among them."""
        if method == "one_hot":
            return [k for k in range(max(self.baselines, self.seeds)) if k % self.seeds < seeds]
        return list(range(min(seeds, self.fewer.get(method, seeds))))

    def __call__(self, seeds=None, extras=True):
        """All runs of the first `seeds` seeds, each once, seed by seed.

        Teachers come before their students; last come the `extras`: methods of fewer seeds, which
        no seed has to wait for."""
        configs = {}
        seeds = self.seeds if seeds is None else seeds
        for extra, seed in itertools.product((False, True)[: 1 + extras], range(seeds)):
            configs |= {cfg.key(): cfg for cfg in self.of_seed(seed, extra)}
        return list(configs.values())

    def of_seed(self, seed, extra=False):
        """The runs of one seed, teachers before their students, some more than once.

        extra: those of methods of fewer seeds; else those of all others."""
        for setting, pair, method in itertools.product(self.settings, self.pairs, self.methods):
            if (method in self.fewer) != extra:
                continue
            for k in self.seeds_of(method, self.seeds):
                if k % self.seeds == seed:
                    cfg = self.config(pair, method, k, setting)
                    yield from cfg.dependencies()
                    yield cfg

    def with_methods(self, names):
        """The study with methods beside those it planned; they take part in no verdict."""
        for name in names:
            if not entry(name):
                known = (*METHODS, *ARMS)
                raise KdlibError(f"method {name!r} is unknown: {did_you_mean(name, known)}")
        return replace(self, methods=self.methods | arms(*names))

    def pool(self, pair, setting=None):
        """Configs of every network that may be a baseline of a pair.

        That is one_hot training of its student on the same data by the same recipe, whatever it
        was trained for (also as a teacher), but not the seeds that a recipe was chosen with."""
        first = self.config(pair, "one_hot", 0, setting)
        offsets = [*range(MOST_SEEDS), *range(1000, 1000 + MOST_SEEDS)]
        return [replace(first, seed=self.first_seed + k) for k in offsets]


def study(name):
    """The Study of that name, or KdlibError with the known ones."""
    if name not in STUDIES:
        raise KdlibError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def check_parameters(namespace):
    """The Study that a notebook's parameters `study` and `seeds` ask for.

    Call it as check_parameters(globals()). A notebook serves the studies of its `kind`, the first
    line of its parameters. KdlibError for an unknown name in papermill's injected cell (which
    papermill itself only warns of), a study that is unknown or of another kind, or seeds out of
    range."""
    check_names(namespace, ("study", "seeds"))
    name, seeds, kind = namespace["study"], namespace["seeds"], namespace["KIND"]
    fitting = [s.name for s in STUDIES.values() if s.kind == kind]
    if not isinstance(name, str) or name not in fitting:
        raise KdlibError(f"notebook parameter study={name!r}: {did_you_mean(name, fitting)}")
    chosen = study(name)
    if type(seeds) is not int or not 1 <= seeds <= chosen.seeds:
        raise KdlibError(
            f"notebook parameter seeds={seeds!r}: must be a whole number from 1 to {chosen.seeds} "
            f"for {name}."
        )
    return chosen


def check_names(namespace, known):
    """KdlibError if the cell that papermill injected sets a name that is not known.

    Papermill itself only warns of it."""
    for cell in namespace.get("In", ()):
        if not cell.startswith("# Parameters"):  # the first line papermill writes
            continue
        assignments = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
        names = [target.id for node in assignments for target in node.targets]
        for name in names:
            if name not in known:
                said = f"notebook parameter {name!r} is unknown"
                raise KdlibError(f"{said}: {did_you_mean(name, known)}")


DIGITS = {
    "dataset": "digits",
    "draw_seed": 0,
    "imbalance": 50.0,
    "epochs": 40,
    "warmup": 4,
    "batch_size": 32,
    "lr": 0.05,
    "weight_decay": 5e-4,
}
CIFAR20 = {
    "dataset": "cifar20",
    "draw_seed": 0,
    "imbalance": 20.0,
    "epochs": 640,  # until the gate has decided; see D19 of PROTOCOL.md
    "warmup": 5,
    "batch_size": 32,
    "lr": 0.2,
    "weight_decay": 5e-4,
}
# version 1: superseded (PROTOCOL.md, D19)
SHORT = {**CIFAR20, "epochs": 40, "warmup": 8, "batch_size": 128}
# Wang et al. 2023 (W): the schedule on the long tail, and the one on balanced classes. The peak
# rate is not stated there.
_W = {"warmup": 15, "decay": "step", "weight_decay": 1e-4}
W_TAIL = {**_W, "epochs": 256, "milestones": (96, 192, 224), "batch_size": 128, "lr": 0.1}
W_FULL = {**_W, "epochs": 450, "milestones": (200, 300, 400), "batch_size": 1024, "lr": 0.8}
CIFAR100_LT = {"dataset": "cifar100", "draw_seed": 0, "imbalance": 100.0, **W_TAIL}
T2 = {"temperature": 2.0}
R56 = (("resnet56", "resnet20"), ("resnet56", "resnet56"))

PRIMARY = arms("one_hot", "kd", "ada_alpha", "ada_margin")
RIVALS = PRIMARY | arms(
    "kd_mean_alpha",
    "kd_tuned",
    "ada_alpha_01",
    "label_smoothing",
    "logit_adjusted",
    "post_hoc",
    "group_dro",
    "balanced_kd",
    "decoupled_kd",
    "long_tailed_kd",
    "robust_kd",
    "kd_adjusted_teacher",
)
_ALPHA, _MARGIN = {"method": "ada_alpha"}, {"method": "ada_margin"}
_CROSSFIT = {**_ALPHA, "margin_source": "crossfit"}
KNOB_ARMS = {  # the primary methods, then one choice changed at a time
    **PRIMARY,
    "AdaAlpha, margin of train": {**_ALPHA, "margin_source": "train"},
    "AdaAlpha, margin by crossfit": _CROSSFIT,
    "AdaAlpha, per example by crossfit": {**_CROSSFIT, "margin_level": "example"},
    "AdaAlpha, margin over the largest": {**_ALPHA, "margin_kind": "max"},
    "AdaAlpha, margin at T = 2": {**_ALPHA, "margin_temperature": 2.0},
    "AdaAlpha, margin at T = 4": {**_ALPHA, "margin_temperature": 4.0},
    "AdaAlpha, margin at T = 16": {**_ALPHA, "margin_temperature": 16.0},
    "AdaMargin, reading A": {**_MARGIN, "margin_reading": "A"},
    "AdaMargin, reading C": {**_MARGIN, "margin_reading": "C"},
    "AdaMargin, reading C-inverse": {**_MARGIN, "margin_reading": "C-inverse"},
    "AdaMargin, half the scale": {**_MARGIN, "margin_scale": 0.5},
}
ABLATED = arms("one_hot", "kd", "ada_alpha")


def _settings(**levels):
    """The base setting, then one field changed at a time."""
    return ({}, *({name: value} for name, values in levels.items() for value in values))


_BEYOND = {  # kind of a study beyond the findings: title, about
    "rivals": (
        "Rivals",
        "All methods at equal budget: the same data, network, epochs, batches and starting "
        "weights.",
    ),
    "knobs": (
        "Knobs",
        "Each reconstructed choice of AdaAlpha and AdaMargin, changed one at a time.",
    ),
    "ablations": (
        "When does distillation harm?",
        "One field of the recipe or of the data changed at a time.",
    ),
    "length": (
        "How long were the networks trained?",
        "Whom distillation hurts, by the length of training.",
    ),
}


def _beyond(base, kind, **changes):
    """A study on the data, recipe and first pair of another; its name adds the kind."""
    title, about = _BEYOND[kind]
    mark = "" if title.endswith("?") else ":"
    return replace(
        base,
        name=f"{base.name}-{kind}",
        kind="ablations" if kind == "length" else kind,
        title=f"{title}{mark} {base.title}",
        about=about,
        pairs=base.pairs[:1],
        **{"baselines": 0, "fewer": {}, **changes},
    )


TEMPERATURES = tuple({"temperature": v} for v in (1.0, 2.0, 4.0))
_CHOSEN = "Rate, temperature, weight of the teacher: chosen on val, with seeds of no other study."


def _steps(temperature, lr):
    """A search without a gate: rate, then temperature, then a constant weight for `kd_tuned`."""
    rates = tuple({"lr": v} for v in lr)
    weights = tuple({"alpha": v} for v in (0.25, 0.5, 0.75))
    softened = {"temperature": temperature}
    return (
        Step("Learning rate", rates, ("one_hot", "kd"), softened),
        Step("Temperature", TEMPERATURES, ("kd",)),
        Step("Weight of the teacher", weights, ("kd",), softened),
    )


def _recipe(base, steps, about=_CHOSEN, **more):
    """The search for the recipe of a study, with its first pair."""
    return Search(
        f"{base.name}-recipe",
        f"Choice of the recipe: {base.title}",
        about,
        steps,
        base.shared,
        base.pairs[:1],
        base.bucket_edges,
        demonstration=base.demonstration,
        **more,
    )


_DIGITS = Study(
    name="digits",
    title="Handwritten digits, long-tailed",
    about="1,797 real 8x8 images of scikit-learn; a demonstration that runs on any computer, "
    "not a reproduction.",
    pairs=(("cnn", "cnn_small"), ("cnn_small", "cnn_small")),
    seeds=8,
    shared=DIGITS,
    distilled=T2,
    bucket_edges=(30, 7),
    worst=(1, 3),
    demonstration=True,
)
_CIFAR20 = Study(
    name="cifar20-lt",
    title="Twenty classes of CIFAR-100, long-tailed",
    about="The first fine class of each CIFAR-100 superclass, 400 down to 20 training images.",
    pairs=(("resnet8", "resnet8"), ("resnet8x2", "resnet8")),
    seeds=8,
    shared=CIFAR20,
    distilled={"temperature": 1.0},
    bucket_edges=(150, 45),
    worst=(1, 3, 6),
    baselines=16,
    fewer={"ada_alpha_crossfit": 4, "one_hot_with_val": 4},
    methods=arms(
        "one_hot",
        "kd",
        "kd_tuned",
        "ada_alpha",
        "ada_alpha_crossfit",
        "ada_margin",
        "one_hot_with_val",
    ),
)
_SHORT = Study(
    name="cifar20-short",
    title="Twenty classes of CIFAR-100, long-tailed, trained too little",
    about="The recipe of version 1, 40 epochs of batch 128: its networks do not fit their "
    "training images. Superseded.",
    superseded=True,
    pairs=(("resnet20", "resnet8"), ("resnet8", "resnet8")),
    seeds=6,
    shared=SHORT,
    distilled={"temperature": 1.0},
    bucket_edges=(150, 45),
    worst=(1, 3, 6),
)
_SELF = Study(
    name="cifar100-lt-self",
    title="CIFAR-100, long-tailed: a ResNet-20 teaches another",
    about="All 100 classes, 500 down to 5 training images, by the recipe of the ResNet-32 anchor "
    "(200 epochs).",
    pairs=(("resnet20", "resnet20"),),
    seeds=4,
    baselines=6,
    distilled=T2,
    bucket_edges=(100, 20),
    worst=(1, 10, 20),
    shared={name: value for name, value in LDAM.items() if name != "student"},
    methods=arms("one_hot", "kd", "ada_alpha"),
)
_SMALL = replace(
    _SELF,
    name="cifar100-lt-small",
    title="CIFAR-100, long-tailed: a ResNet-32 teaches a ResNet-20",
    pairs=(("resnet32", "resnet20"),),
    teacher_seeds={("resnet32", "resnet20"): 0},  # its teachers are the anchor's networks
    methods=arms("one_hot", "kd", "kd_tuned", "ada_alpha", "ada_margin"),
)
_CIFAR100_LT = Study(
    name="cifar100-lt",
    title="CIFAR-100, long-tailed",
    about="All 100 classes, 500 down to 5 training images, by the schedule of Wang et al. 2023.",
    pairs=R56,
    seeds=8,
    shared=CIFAR100_LT,
    distilled=T2,
    bucket_edges=(100, 20),
    worst=(1, 10, 20),
)
_CIFAR100 = replace(
    _CIFAR100_LT,
    name="cifar100",
    title="CIFAR-100, balanced",
    seeds=4,
    bucket_edges=(),
    about="All 100 classes with 500 training images each, by the schedule of Wang et al. 2023.",
    shared={"dataset": "cifar100", **W_FULL},
)

_EPOCHS = tuple({"epochs": e} for e in (80, 160, 320, 640, 1280))
_BATCHES = tuple(
    {"batch_size": size, "lr": rate}
    for size, rates in ((32, (0.05, 0.1, 0.2, 0.4)), (64, (0.1, 0.2)), (128, (0.2, 0.4)))
    for rate in rates
)
_CIFAR20_STEPS = (
    Step("Batch size and learning rate", _BATCHES, fields={"epochs": 80}),
    Step("Epochs at rate 0.1", _EPOCHS[:3], fields={"lr": 0.1}, seeds=4),
    Step("Epochs", _EPOCHS, seeds=4),
    Step("Teacher", ({"student": "resnet8"}, {"student": "resnet8x2"}), teachers=True),
    Step("Temperature", TEMPERATURES, ("kd",)),
    Step(
        "Weight of the teacher",
        tuple({"alpha": a} for a in (0.25, 0.5, 0.75, 0.9)),
        ("kd",),
        fields=dict(_CIFAR20.distilled),
    ),
)

_EVERY = (
    _CIFAR20,
    _SHORT,
    _SELF,
    _SMALL,
    _CIFAR100_LT,
    _CIFAR100,
    replace(
        _CIFAR100_LT,
        name="cifar10-lt",
        title="CIFAR-10, long-tailed",
        about="5,000 down to 50 training images a class: the worst class is not at its floor here.",
        pairs=R56[::-1],
        seeds=4,
        shared={**CIFAR100_LT, "dataset": "cifar10"},
        bucket_edges=(1000, 200),
        worst=(1, 3),
    ),
    replace(
        _CIFAR100_LT,
        name="cifar10",
        title="CIFAR-10, balanced",
        about="5,000 training images a class, by the schedule of Wang et al. 2023.",
        pairs=R56[::-1],
        seeds=4,
        shared={"dataset": "cifar10", **W_FULL},
        bucket_edges=(),
        worst=(1, 3),
    ),
    replace(
        _CIFAR100_LT,
        name="superclass",
        title="Rare subgroups that the label does not show",
        about="CIFAR-100 with its 20 superclasses as labels; the fine classes are the groups, "
        "with a long tail inside each.",
        pairs=R56[:1],
        shared={**CIFAR100_LT, "dataset": "superclass"},
    ),
    _recipe(
        _CIFAR20,
        _CIFAR20_STEPS,
        "The cheapest recipe that trains enough, then teacher, temperature, constant weight: "
        "chosen on val (PROTOCOL.md, D19).",
        epochs=(80, 160, 320, 640),
    ),
    _beyond(
        _CIFAR20,
        "rivals",
        seeds=6,
        methods=RIVALS | arms("ada_alpha_crossfit"),
        fewer={"ada_alpha_crossfit": 4},
    ),
    _beyond(_CIFAR20, "knobs", seeds=4, methods=KNOB_ARMS),
    _beyond(
        _CIFAR20,
        "ablations",
        seeds=4,
        methods=ABLATED,
        settings=_settings(
            temperature=(2.0, 4.0),
            alpha=(0.25, 0.5, 0.75),
            teacher=("resnet14", "resnet20"),
            imbalance=(1.0, 5.0, 50.0),
            label_noise=(0.2,),
            draw_seed=(1, 2),
        ),
    ),
    _beyond(
        _CIFAR20,
        "length",
        seeds=4,
        methods=ABLATED,
        settings=_settings(epochs=(20, 40, 80, 160, 320)),
    ),
    _recipe(_CIFAR100_LT, _steps(2.0, (0.05, 0.1, 0.2, 0.4))),
    _beyond(_CIFAR100_LT, "rivals", seeds=8, methods=RIVALS),
    _beyond(_CIFAR100_LT, "knobs", seeds=4, methods=KNOB_ARMS),
    _beyond(
        _CIFAR100_LT,
        "ablations",
        seeds=4,
        methods=ABLATED,
        settings=(
            *_settings(
                temperature=(1.0, 4.0),
                alpha=(0.25, 0.5, 0.75),
                teacher=("resnet8", "resnet14", "resnet32", "resnet110"),
                imbalance=(1.0, 10.0, 50.0, 200.0),
                profile=("step",),
                label_noise=(0.2, 0.4),
            ),
            # crossed with the seeds
            *({"draw_seed": d, "teacher_seed": 3000 + t} for d in range(3) for t in range(3)),
        ),
    ),
    _recipe(_CIFAR100, _steps(2.0, (0.2, 0.4, 0.8, 1.6)), seeds=1),
    _DIGITS,
    _recipe(_DIGITS, _steps(2.0, (0.05, 0.1, 0.2)), seeds=6),
    _beyond(_DIGITS, "rivals", seeds=3, methods=RIVALS),
    _beyond(
        _DIGITS,
        "knobs",
        seeds=3,
        # its rarest class has two images: no crossfit
        methods={name: fields for name, fields in KNOB_ARMS.items() if "crossfit" not in name},
    ),
    _beyond(
        _DIGITS,
        "ablations",
        seeds=3,
        methods=ABLATED,
        settings=_settings(
            temperature=(1.0, 4.0),
            alpha=(0.5,),
            imbalance=(10.0,),
            label_noise=(0.2,),
            draw_seed=(1,),
        ),
    ),
    ANCHORS,
    ANCHORS_LT,
)
STUDIES = {s.name: s for s in _EVERY}
