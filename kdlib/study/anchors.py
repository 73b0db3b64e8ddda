"""Published numbers that a correct implementation must hit, and our runs by the same recipes."""

from dataclasses import dataclass

from kdlib.config import built
from kdlib.study.recipes import CHENYAOFO, LDAM, REPDISTILLER, W
from kdlib.study.studies import Planned, Study

TOLERANCE = 1.0  # points either side of a published value; a published range is taken as it is


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
        cfg = built(self.fields | {"seed": seed})
        return cfg.teacher_config() if self.teacher else cfg

    def word(self, accuracy, seeds, planned):
        """The judgement of our mean accuracy, in per cent: "pass" or "explain".

        The latter is a finding to be explained before any study is believed. With fewer `seeds`
        than `planned` there is no judgement, but "preliminary" or "not run"."""
        if seeds < planned:
            return "preliminary" if seeds else "not run"
        low = min(self.published)
        high = max(self.published)
        if len(self.published) == 1:
            low, high = low - TOLERANCE, high + TOLERANCE
        # rounded: 73.34 is within a point of 72.34
        return "pass" if low <= round(accuracy, 6) <= high else "explain"


@dataclass(frozen=True, kw_only=True)
class Anchors(Study):
    """Published numbers, each with our runs; no pairs are compared, so there are no verdicts."""

    kind: str = "anchors"
    seeds: int = 3
    rows: tuple  # of Anchor

    def plan(self):
        for seed in range(self.seeds):
            for row in self.rows:
                yield Planned(row.config(seed), seed)


_RESNET32 = {**LDAM, "student": "resnet32"}
LONG_TAIL = (
    Anchor(
        "CIFAR-100-LT 100, ResNet-32, one-hot",
        "LDAM-DRW line of work 38.32 (best epoch on test), Bag of tricks 37.73, MiSLAS 39.5",
        (37.0, 39.5),
        _RESNET32,
    ),
    Anchor(
        "CIFAR-100-LT 100, ResNet-32, logit-adjusted loss",
        "table of the VS-loss paper",
        (42.87,),
        {**_RESNET32, "method": "logit_adjusted"},
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
        _RESNET32,
        buckets=(66.1, 37.3, 10.6),
    ),
)
_REPDISTILLER = "RepDistiller README, last epoch"
_CHENYAOFO = "log of chenyaofo/pytorch-cifar-models, last epoch"
_W = "Nagarajan et al. 2023; Wang et al. 2023 on half of the test set; peak rate not stated"
_R20 = {**REPDISTILLER, "student": "resnet20-conv"}
_KD = {**_R20, "method": "kd", "teacher": "resnet56-conv", "alpha": 0.9, "temperature": 4.0}
_R56 = {**W, "student": "resnet56"}  # the runs of study cifar100
_SELF = {**_R56, "method": "kd", "teacher": "resnet56", "temperature": 2.0}
EVERY = (
    *LONG_TAIL,
    Anchor("CIFAR-100, ResNet-56, one-hot, 240 epochs", _REPDISTILLER, (72.34,), _KD, teacher=True),
    Anchor("CIFAR-100, ResNet-20, one-hot, 240 epochs", _REPDISTILLER, (69.06,), _R20),
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
    Anchor("CIFAR-100, ResNet-56, one-hot, 450 epochs", _W, (72.5,), _R56, second_hand=True),
    Anchor(
        "CIFAR-100, ResNet-56 → ResNet-56, distillation, 450 epochs",
        f"{_W}; temperature not stated",
        (74.6,),
        _SELF,
        second_hand=True,
    ),
)
ANCHORS = Anchors(
    name="anchors",
    title="Published numbers, and ours",
    about="Published recipes on CIFAR-100, whole and long-tailed, in canonical class order: "
    "is the implementation right?",
    rows=EVERY,
)
ANCHORS_LT = Anchors(
    name="anchors-lt",
    title="Published numbers on long-tailed data, and ours",
    about="The long-tailed anchors alone: the first thing to run on a GPU.",
    rows=LONG_TAIL,
)
