"""Published numbers that a correct implementation must hit, and our runs by the same recipes."""

from dataclasses import dataclass

from kdlib.config import Config

TOLERANCE = 1.0  # points either side of a published value; a published range is taken as it is

_FULL = {"dataset": "cifar100"}  # canonical class order: draw_seed stays None
REPDISTILLER = {
    **_FULL,
    "lr": 0.05,
    "weight_decay": 5e-4,
    "batch_size": 64,
    "epochs": 240,
    "decay": "step",
    "milestones": (150, 180, 210),
}
CHENYAOFO = {
    **_FULL,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 256,
    "epochs": 200,
    "nesterov": True,
}
LDAM = {
    **_FULL,
    "imbalance": 100.0,
    "student": "resnet32",
    "lr": 0.1,
    "weight_decay": 2e-4,
    "batch_size": 128,
    "epochs": 200,
    "warmup": 5,
    "decay": "step",
    "milestones": (160, 180),
    "decay_factor": 0.01,
}
W = {  # its runs are those of study cifar100
    **_FULL,
    "student": "resnet56",
    "lr": 0.8,
    "weight_decay": 1e-4,
    "batch_size": 1024,
    "epochs": 450,
    "warmup": 15,
    "decay": "step",
    "milestones": (200, 300, 400),
}


@dataclass(frozen=True)
class Anchor:
    """A published accuracy, in per cent on all 10,000 test images, and our runs' Config fields."""

    setting: str
    source: str
    published: tuple  # of one value, or of the lowest and the highest
    fields: dict
    teacher: bool = False  # our run is the teacher of the run with these fields
    second_hand: bool = False  # quoted by others; the source itself was not read
    # published accuracies in per cent of many, medium and few; (): none published
    buckets: tuple = ()

    def config(self, seed):
        """The Config of our run of a seed."""
        cfg = Config(seed=seed, **self.fields)
        return cfg.teacher_config() if self.teacher else cfg

    def word(self, accuracy, seeds, planned):
        """The judgement of our mean accuracy, in per cent: "pass" or "explain".

        The latter is a finding to be explained before any study is believed. With fewer `seeds`
        than `planned` there is no judgement, but "preliminary" or "not run"."""
        if seeds < planned:
            return "preliminary" if seeds else "not run"
        if len(self.published) == 2:
            low, high = self.published
        else:
            (value,) = self.published
            low, high = value - TOLERANCE, value + TOLERANCE
        # rounded: 73.34 is within a point of 72.34
        return "pass" if low <= round(accuracy, 6) <= high else "explain"


_REPDISTILLER = "RepDistiller README, last epoch"
_CHENYAOFO = "log of chenyaofo/pytorch-cifar-models, last epoch"
_W = "Nagarajan et al. 2023; Wang et al. 2023 on half of the test set; peak rate not stated"
_KD = {
    **REPDISTILLER,
    "method": "kd",
    "teacher": "resnet56-conv",
    "student": "resnet20-conv",
    "alpha": 0.9,
    "temperature": 4.0,
}
LONG_TAIL = (
    Anchor(
        "CIFAR-100-LT 100, ResNet-32, one-hot",
        "LDAM-DRW line of work 38.32 (best epoch on test), Bag of tricks 37.73, MiSLAS 39.5",
        (37.0, 39.5),
        LDAM,
    ),
    Anchor(
        "CIFAR-100-LT 100, ResNet-32, logit-adjusted loss",
        "table of the VS-loss paper",
        (42.87,),
        {**LDAM, "method": "logit_adjusted"},
        second_hand=True,
    ),
    # Neither MODEL_ZOO.md nor a config there says how its cross-entropy row was trained (the
    # heading of the table has 100 epochs, every config for CIFAR-100-LT 200). README.md: "switch
    # the loss". The only config of one whole ResNet-32, config_imbalance_cifar100_ldam_drw.json, is
    # the recipe LDAM, so the runs are those of the first anchor.
    Anchor(
        "CIFAR-100-LT 100, ResNet-32, one-hot (RIDE)",
        "RIDE model zoo, cross-entropy; recipe not stated, that of its config for one ResNet-32",
        (39.1,),
        LDAM,
        buckets=(66.1, 37.3, 10.6),
    ),
)
EVERY = (
    *LONG_TAIL,
    Anchor("CIFAR-100, ResNet-56, one-hot, 240 epochs", _REPDISTILLER, (72.34,), _KD, teacher=True),
    Anchor(
        "CIFAR-100, ResNet-20, one-hot, 240 epochs",
        _REPDISTILLER,
        (69.06,),
        {**REPDISTILLER, "student": "resnet20-conv"},
    ),
    Anchor(
        "CIFAR-100, ResNet-56 → ResNet-20, distillation, 240 epochs", _REPDISTILLER, (70.66,), _KD
    ),
    *(
        Anchor(
            f"CIFAR-100, ResNet-{depth}, one-hot, 200 epochs",
            _CHENYAOFO,
            (accuracy,),
            {**CHENYAOFO, "student": f"resnet{depth}-conv"},
        )
        for depth, accuracy in ((20, 68.48), (32, 70.00), (44, 71.63), (56, 72.37))
    ),
    Anchor("CIFAR-100, ResNet-56, one-hot, 450 epochs", _W, (72.5,), W, second_hand=True),
    Anchor(
        "CIFAR-100, ResNet-56 → ResNet-56, distillation, 450 epochs",
        f"{_W}; temperature not stated",
        (74.6,),
        {**W, "method": "kd", "teacher": "resnet56", "temperature": 2.0},
        second_hand=True,
    ),
)


@dataclass(frozen=True)
class Anchors:
    """Anchors as a study: called, it gives the Configs of its runs.

    It has no pairs of its own, so no verdicts."""

    name: str
    title: str
    about: str
    rows: tuple
    seeds: int = 3
    kind: str = "anchors"
    demonstration: bool = False
    first_seed: int = 0
    pairs: tuple = ()
    settings: tuple = ({},)
    bucket_edges: tuple = ()
    worst: tuple = ()

    @property
    def methods(self):
        """{name: Config fields that differ}, as of any study."""
        return {row.config(0).method: {} for row in self.rows}

    @property
    def shared(self):
        """Config fields of every run."""
        return dict(_FULL)

    def __call__(self, seeds=None):
        """All runs of the first `seeds` seeds, each once, by seed, teachers before students."""
        configs = {}
        for seed in range(self.seeds if seeds is None else seeds):
            for row in self.rows:
                cfg = row.config(seed)
                for c in (*cfg.dependencies(), cfg):
                    configs.setdefault(c.key(), c)
        return list(configs.values())


ANCHORS = Anchors(
    "anchors",
    "Published numbers that must come out",
    "Published recipes on CIFAR-100, whole and long-tailed, in canonical class order: "
    "is the implementation right?",
    EVERY,
)
ANCHORS_LT = Anchors(
    "anchors-lt",
    "Published numbers that must come out, long tail",
    "The long-tailed anchors alone: the first thing to run on a GPU.",
    LONG_TAIL,
)
