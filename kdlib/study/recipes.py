"""What studies are made of: data with a recipe, methods, steps of a choice. Fields of Config."""

from itertools import product

from kdlib.methods import arms
from kdlib.study.studies import Step

# ---------------------------------------------------------------- published recipes

_FULL = {"dataset": "cifar100"}  # canonical class order: draw_seed stays None
REPDISTILLER = {
    **_FULL,
    **{"epochs": 240, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4},
    **{"decay": "step", "milestones": (150, 180, 210)},
}
CHENYAOFO = {
    **_FULL,
    **{"epochs": 200, "batch_size": 256, "lr": 0.1, "weight_decay": 5e-4, "nesterov": True},
}
LDAM = {
    **_FULL,
    "imbalance": 100.0,
    **{"epochs": 200, "warmup": 5, "batch_size": 128, "lr": 0.1, "weight_decay": 2e-4},
    **{"decay": "step", "milestones": (160, 180), "decay_factor": 0.01},
}
W = {  # Wang et al. 2023 on balanced classes. The peak rate is not stated there.
    **_FULL,
    **{"epochs": 450, "warmup": 15, "batch_size": 1024, "lr": 0.8, "weight_decay": 1e-4},
    **{"decay": "step", "milestones": (200, 300, 400)},
}

# ---------------------------------------------------------------- recipes of our own

DIGITS = {
    # imbalance: see D30 of PROTOCOL.md
    **{"dataset": "digits", "draw_seed": 0, "imbalance": 20.0},
    **{"epochs": 40, "warmup": 4, "batch_size": 32, "lr": 0.05, "weight_decay": 5e-4},
}
CIFAR20 = {
    **{"dataset": "cifar20", "draw_seed": 0, "imbalance": 20.0},
    # epochs: until the training check has decided; see D19 of PROTOCOL.md
    **{"epochs": 640, "warmup": 5, "batch_size": 32, "lr": 0.2, "weight_decay": 5e-4},
}
SUPERCLASS_SMALL = {
    **{"dataset": "superclass_small", "draw_seed": 0, "imbalance": 16.0},
    # of the search of cifar20-lt; epochs: see D27 of PROTOCOL.md
    **{"epochs": 320, "warmup": 5, "batch_size": 32, "lr": 0.2, "weight_decay": 5e-4},
}
ADULT = {
    **{"dataset": "adult", "epochs": 10, "warmup": 1},
    **{"batch_size": 512, "lr": 0.4, "weight_decay": 1e-4},
}
# version 1: superseded (PROTOCOL.md, D19)
SHORT = {**CIFAR20, "epochs": 40, "warmup": 8, "batch_size": 128}
CIFAR100_LT = {  # the schedule of Wang et al. 2023 on the long tail
    **{"dataset": "cifar100", "draw_seed": 0, "imbalance": 100.0},
    **{"epochs": 256, "warmup": 15, "batch_size": 128, "lr": 0.1, "weight_decay": 1e-4},
    **{"decay": "step", "milestones": (96, 192, 224)},
}
T1 = {"temperature": 1.0}
T2 = {"temperature": 2.0}
T4 = {"temperature": 4.0}

# ---------------------------------------------------------------- methods

PRIMARY = arms("one_hot", "kd", "ada_alpha", "ada_margin")
ABLATED = arms("one_hot", "kd", "ada_alpha")
RIVALS = PRIMARY | arms(
    *("kd_mean_alpha", "kd_tuned", "ada_alpha_01", "label_smoothing", "logit_adjusted"),
    *("post_hoc", "group_dro", "balanced_kd", "decoupled_kd", "long_tailed_kd", "robust_kd"),
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
RIVALS_CROSSFIT = RIVALS | arms("ada_alpha_crossfit")
# too long for a demonstration: no crossfit
QUICK_KNOBS = {name: fields for name, fields in KNOB_ARMS.items() if "crossfit" not in name}

# ---------------------------------------------------------------- beyond the findings


def each(**levels):
    """One field at a time: its values, each as Config fields."""
    return tuple({name: value} for name, values in levels.items() for value in values)


def crossed(**levels):
    """Every combination of the values of fields, each as Config fields; the last varies first."""
    return tuple(dict(zip(levels, values, strict=True)) for values in product(*levels.values()))


CIFAR20_SETTINGS = (
    {},
    *each(temperature=(2.0, 4.0), alpha=(0.25, 0.5, 0.75), teacher=("resnet14", "resnet20")),
    *each(imbalance=(1.0, 5.0, 50.0), label_noise=(0.2,), draw_seed=(1, 2)),
)
LT_SETTINGS = (
    {},
    *each(temperature=(1.0, 4.0), alpha=(0.25, 0.5, 0.75)),
    *each(teacher=("resnet8", "resnet14", "resnet32", "resnet110")),
    *each(imbalance=(1.0, 10.0, 50.0, 200.0), profile=("step",), label_noise=(0.2, 0.4)),
    # crossed with the seeds
    *({"draw_seed": d, "teacher_seed": 3000 + t} for d in range(3) for t in range(3)),
)
DIGITS_SETTINGS = (
    {},
    *each(temperature=(1.0, 2.0), alpha=(0.5,)),
    *each(imbalance=(50.0,), label_noise=(0.2,), draw_seed=(1,)),
)
BEYOND = {  # what a study beyond the findings is about, by the end of its name
    "rivals": {
        "kind": "rivals",
        "title": "Is there a better way than softening?",  # followed by that of the other study
        "about": "All methods at equal budget: the same data, network, epochs, batches and "
        "starting weights.",
        "methods": RIVALS,
    },
    "knobs": {
        "kind": "knobs",
        "title": "What does softening depend on?",
        "about": "Each reconstructed choice of AdaAlpha and AdaMargin, changed one at a time.",
        "methods": KNOB_ARMS,
    },
    "ablations": {
        "kind": "ablations",
        "title": "When does distillation harm?",
        "about": "One field of the recipe or of the data changed at a time.",
        "methods": ABLATED,
    },
    "length": {
        "kind": "ablations",
        "title": "How long were the networks trained?",
        "about": "Whom distillation hurts, by the length of training.",
        "methods": ABLATED,
    },
}

# ---------------------------------------------------------------- how recipes are chosen

_TEMPERATURES = each(temperature=(1.0, 2.0, 4.0))


def steps(*rates):
    """Without a training check: rate, then temperature, then a constant weight for `kd_tuned`."""
    return (
        Step("Learning rate", each(lr=rates), ("one_hot", "kd"), T2),
        Step("Temperature", _TEMPERATURES, ("kd",)),
        Step("Weight of the teacher", each(alpha=(0.25, 0.5, 0.75)), ("kd",), T2),
    )


_BATCHES = (
    *crossed(batch_size=(32,), lr=(0.05, 0.1, 0.2, 0.4)),
    *crossed(batch_size=(64,), lr=(0.1, 0.2)),
    *crossed(batch_size=(128,), lr=(0.2, 0.4)),
)
_SHORTER = {"epochs": 160}  # for want of CPU hours; see D19 of PROTOCOL.md
CIFAR20_STEPS = (
    Step("Batch size and learning rate", _BATCHES, fields={"epochs": 80}),
    Step("Epochs at rate 0.1", each(epochs=(80, 160, 320)), fields={"lr": 0.1}, seeds=4),
    Step("Weight decay", each(weight_decay=(2.5e-4, 5e-4, 1e-3, 2e-3)), fields=_SHORTER),
    Step("Epochs", each(epochs=(80, 160, 320, 640, 1280)), seeds=4),
    Step("Teacher", each(student=("resnet8", "resnet8x2")), fields=_SHORTER, teachers=True),
    Step("Temperature", _TEMPERATURES, ("kd",), _SHORTER),
    Step("Weight of the teacher", each(alpha=(0.25, 0.5, 0.75, 0.9)), ("kd",), T1 | _SHORTER),
)
ADULT_STEPS = (
    Step("Learning rate", each(lr=(0.05, 0.1, 0.2, 0.4))),
    Step("Temperature", _TEMPERATURES, ("kd",)),
)
SUPERCLASS_SMALL_STEPS = (
    Step("Epochs", each(epochs=(160, 320, 640))),
    Step("Temperature", _TEMPERATURES, ("kd",)),
)
# D30 of PROTOCOL.md: a setting in which an effect is seen, if there is one
DIGITS_STEPS = (
    Step("Imbalance and epochs", crossed(imbalance=(20.0, 50.0, 100.0), epochs=(40, 80))),
    Step(
        "Setting of the demonstration",
        crossed(
            imbalance=(20.0, 50.0),
            epochs=(40,),
            temperature=(1.0, 2.0, 4.0),
            teacher=("cnn", "cnn_small"),
        ),
        ("kd",),
        shows=True,
    ),
)
