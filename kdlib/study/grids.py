"""The pre-registered studies: STUDIES[name](seeds) is the list of a study's Configs.

Each pair and method has one primary Config. PROTOCOL.md says when each was chosen, and why."""

from dataclasses import replace

from kdlib.config import KdlibError, did_you_mean
from kdlib.methods import arms
from kdlib.study import recipes
from kdlib.study.anchors import ANCHORS, ANCHORS_LT
from kdlib.study.recipes import ABLATED, PRIMARY, QUICK_KNOBS, RIVALS_CROSSFIT, T1, T2, T4, each
from kdlib.study.studies import Grid, Search, Study

KINDS = {  # kind of a study: the notebooks that show it
    "findings": (
        "00_overview",
        "01_gains_are_not_uniform",
        "02_teacher_errors_are_amplified",
        "03_softening_the_teacher",
    ),
    "hidden": ("09_would_the_labels_show_it",),  # findings about groups that are not the labels
    "groups": ("08_groups_that_are_not_classes",),
    "knobs": ("04_what_the_mitigation_depends_on",),
    "ablations": ("05_when_does_distillation_harm",),
    "rivals": ("06_rivals",),
    "anchors": ("90_anchors",),
    "recipe": ("91_choice_of_recipe",),
}

JUDGED = ("findings", "groups")  # the kinds of studies that have verdicts

# ---------------------------------------------------------------- findings

_TUNED = arms("one_hot", "kd", "kd_tuned", "ada_alpha", "ada_margin")
_WIDE = Grid(
    name="cifar20-lt-wide",
    title="Twenty classes of CIFAR-100, long-tailed: a wider ResNet-8 teaches a ResNet-8",
    about="The first fine class of each CIFAR-100 superclass, 400 down to 20 training images.",
    pairs=(("resnet8x2", "resnet8"),),
    methods=_TUNED,
    seeds=4,
    shared=recipes.CIFAR20,
    distilled=T1,
    bucket_edges=(150, 45),
    worst=(1, 3, 6),
)
_CIFAR20 = replace(
    _WIDE,
    name="cifar20-lt",
    title="Twenty classes of CIFAR-100, long-tailed: a ResNet-8 teaches another",
    pairs=(("resnet8", "resnet8"),),
    methods=arms(
        *("one_hot", "kd", "kd_tuned", "ada_alpha", "ada_alpha_crossfit", "ada_margin"),
        "one_hot_with_val",
    ),
    seeds=8,
    baselines=16,
    fewer={"ada_alpha_crossfit": 4, "one_hot_with_val": 4},
)
_SHORT = replace(
    _WIDE,
    name="cifar20-short",
    title="Twenty classes of CIFAR-100, long-tailed, trained too little",
    about="The recipe of version 1, 40 epochs of batch 128: its networks do not fit their "
    "training images. Superseded.",
    superseded=True,
    pairs=(("resnet20", "resnet8"), ("resnet8", "resnet8")),
    methods=PRIMARY,
    seeds=6,
    shared=recipes.SHORT,
)
_SELF = Grid(
    name="cifar100-lt-self",
    title="CIFAR-100, long-tailed: a ResNet-20 teaches another",
    about="All 100 classes, 500 down to 5 training images, by the recipe of the ResNet-32 anchor "
    "(200 epochs).",
    pairs=(("resnet20", "resnet20"),),
    methods=ABLATED,
    seeds=4,
    baselines=6,
    shared=recipes.LDAM,
    distilled=T2,
    bucket_edges=(100, 20),
    worst=(1, 10, 20),
)
_SMALL = replace(
    _SELF,
    name="cifar100-lt-small",
    title="CIFAR-100, long-tailed: a ResNet-32 teaches a ResNet-20",
    pairs=(("resnet32", "resnet20"),),
    methods=_TUNED,
    teacher_seeds={("resnet32", "resnet20"): 0},  # its teachers are the anchor's networks
)
_CIFAR100_LT = Grid(
    name="cifar100-lt",
    title="CIFAR-100, long-tailed",
    about="All 100 classes, 500 down to 5 training images, by the schedule of Wang et al. 2023.",
    pairs=(("resnet56", "resnet20"), ("resnet56", "resnet56")),
    methods=PRIMARY,
    seeds=8,
    shared=recipes.CIFAR100_LT,
    distilled=T2,
    bucket_edges=(100, 20),
    worst=(1, 10, 20),
)
_CIFAR100 = replace(
    _CIFAR100_LT,
    name="cifar100",
    title="CIFAR-100, balanced",
    about="All 100 classes with 500 training images each, by the schedule of Wang et al. 2023.",
    seeds=4,
    shared=recipes.W,
    bucket_edges=(),
)
_CIFAR10_LT = replace(
    _CIFAR100_LT,
    name="cifar10-lt",
    title="CIFAR-10, long-tailed",
    about="5,000 down to 50 training images a class: the worst class is not at its floor here.",
    pairs=_CIFAR100_LT.pairs[::-1],
    seeds=4,
    shared={**recipes.CIFAR100_LT, "dataset": "cifar10"},
    bucket_edges=(1000, 200),
    worst=(1, 3),
)
_CIFAR10 = replace(
    _CIFAR10_LT,
    name="cifar10",
    title="CIFAR-10, balanced",
    about="5,000 training images a class, by the schedule of Wang et al. 2023.",
    shared={**recipes.W, "dataset": "cifar10"},
    bucket_edges=(),
)
_FINE = ("fine class", "fine classes")
_HIDDEN = arms("one_hot", "kd", "ada_alpha", "ada_alpha_by_label", "ada_margin")
_SUPERCLASS = replace(
    _CIFAR100_LT,
    name="superclass",
    title="Rare subgroups that the label does not show",
    about="CIFAR-100 with its 20 superclasses as labels; the fine classes are the groups, "
    "with a long tail inside each.",
    pairs=_CIFAR100_LT.pairs[:1],
    methods=_HIDDEN,
    shared={**recipes.CIFAR100_LT, "dataset": "superclass"},
    groups=_FINE,
)
_SUPERCLASS_SMALL = Grid(
    name="superclass-small",
    title="Rare subgroups that the label does not show, few images",
    about="Ten superclasses of CIFAR-100 as labels; their fine classes are the groups, 50 down to "
    "3 training images inside each.",
    pairs=(("resnet8", "resnet8"),),
    methods=_HIDDEN,
    seeds=4,
    shared=recipes.SUPERCLASS_SMALL,
    distilled=T4,
    bucket_edges=(20, 10),
    worst=(1, 5, 10),
    groups=_FINE,
)
_ADULT = Grid(
    name="adult",
    kind="groups",
    outside=True,
    title="Incomes in a survey: groups of people, not classes",
    about="UCI Adult: does a person earn more than 50,000 dollars a year? Groups are race and sex.",
    pairs=(("boosted_trees", "mlp_small"), ("boosted_trees", "logistic"), ("mlp", "mlp_small")),
    methods=PRIMARY,
    seeds=20,
    baselines=40,
    shared=recipes.ADULT,
    distilled=T4,
    bucket_edges=(1000, 200),
    worst=(1, 3),
    groups=("group", "groups"),
)
_DIGITS = Grid(
    name="digits",
    title="Handwritten digits, long-tailed (a demonstration)",
    about="1,797 real 8x8 images of scikit-learn; a demonstration that runs on any computer, "
    "not a reproduction.",
    demonstration=True,
    pairs=(("cnn", "cnn_small"), ("cnn_small", "cnn_small")),
    methods=PRIMARY,
    seeds=16,
    shared=recipes.DIGITS,
    distilled=T4,
    bucket_edges=(30, 7),
    worst=(1, 3),
)

# ---------------------------------------------------------------- beyond the findings


def _beyond(base, end, **changes):
    """A study on the data and recipe of another, with its first pair."""
    fields = {"pairs": base.pairs[:1], "baselines": 0, "fewer": {}, **recipes.BEYOND[end]}
    fields["name"] = f"{base.name}-{end}"
    fields["title"] = f"{recipes.BEYOND[end]['title']} {base.title}"
    return replace(base, **fields | changes)


# ---------------------------------------------------------------- choices of recipes

_CHOSEN = "Rate, temperature, weight of the teacher: chosen on val, with seeds of no other study."


def _recipe(base, steps, about=_CHOSEN, **more):
    """The search for the recipe of a study, with its first pair."""
    return Search(
        name=f"{base.name}-recipe",
        title=f"Choice of the recipe: {base.title}",
        about=about,
        steps=steps,
        shared=base.shared,
        pair=base.pairs[0],
        bucket_edges=base.bucket_edges,
        demonstration=base.demonstration,
        outside=base.outside,
        **more,
    )


_EVERY = (
    *(_CIFAR20, _WIDE, _SHORT, _SELF, _SMALL, _CIFAR100_LT, _CIFAR100, _CIFAR10_LT, _CIFAR10),
    _SUPERCLASS,
    _recipe(
        _CIFAR20,
        recipes.CIFAR20_STEPS,
        "The cheapest recipe that trains enough, then teacher, temperature, constant weight: "
        "chosen on val (PROTOCOL.md, D19).",
        epochs=(80, 160, 320, 640),
    ),
    _beyond(_CIFAR20, "rivals", seeds=6, methods=RIVALS_CROSSFIT, fewer={"ada_alpha_crossfit": 4}),
    _beyond(_CIFAR20, "knobs", seeds=4),
    _beyond(_CIFAR20, "ablations", seeds=4, settings=recipes.CIFAR20_SETTINGS),
    _beyond(_CIFAR20, "length", seeds=4, settings=({}, *each(epochs=(20, 40, 80, 160, 320)))),
    _recipe(_CIFAR100_LT, recipes.steps(0.05, 0.1, 0.2, 0.4)),
    _beyond(_CIFAR100_LT, "rivals", seeds=8),
    _beyond(_CIFAR100_LT, "knobs", seeds=4),
    _beyond(_CIFAR100_LT, "ablations", seeds=4, settings=recipes.LT_SETTINGS),
    _SUPERCLASS_SMALL,
    _recipe(
        _SUPERCLASS_SMALL,
        recipes.SUPERCLASS_SMALL_STEPS,
        "Length and temperature: chosen on val (PROTOCOL.md, D27).",
        epochs=(160, 320),
    ),
    _recipe(_CIFAR100, recipes.steps(0.2, 0.4, 0.8, 1.6), seeds=1),
    _ADULT,
    _recipe(_ADULT, recipes.ADULT_STEPS, "Rate and temperature (PROTOCOL.md, D29).", seeds=6),
    _DIGITS,
    _recipe(
        _DIGITS,
        recipes.DIGITS_STEPS,
        "Length of training, imbalance, temperature and teacher: chosen on val, in favour of an "
        "effect (PROTOCOL.md, D30).",
        epochs=(40, 80),
        seeds=12,
    ),
    _beyond(_DIGITS, "rivals", seeds=3),
    _beyond(_DIGITS, "knobs", seeds=3, methods=QUICK_KNOBS),
    _beyond(_DIGITS, "ablations", seeds=3, settings=recipes.DIGITS_SETTINGS),
    ANCHORS,
    ANCHORS_LT,
)
STUDIES = {s.name: s for s in _EVERY}

# ---------------------------------------------------------------- looking one up


def study(name) -> Study:
    """The Study of that name, or KdlibError with the known ones. A Study is returned as it is."""
    if isinstance(name, Study):
        return name
    if name not in STUDIES:
        raise KdlibError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def books_of(name):
    """Names of the notebooks that show a study."""
    return [book for kind in study(name).kinds for book in KINDS[kind]]
