"""Published numbers that a correct implementation must hit, our runs by the same recipes, and both side by side.

What passes was fixed in advance: PROTOCOL.md, section 8. Wang et al.'s numbers are a comparison, without pass or fail."""

from dataclasses import dataclass

from kdlib.config import Config, KdlibError

TOLERANCE = 1.0   # points either side of a published value; a published range is taken as it is
EDGES = (100, 20)  # training images of a class: many has more than the first, few under the second

_FULL = {"dataset": "cifar100"}   # canonical class order: draw_seed stays None
REPDISTILLER = {**_FULL, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 64, "epochs": 240, "decay": "step",
                "milestones": (150, 180, 210)}
CHENYAOFO = {**_FULL, "lr": 0.1, "weight_decay": 5e-4, "batch_size": 256, "epochs": 200, "nesterov": True}
LDAM = {**_FULL, "imbalance": 100.0, "student": "resnet32", "lr": 0.1, "weight_decay": 2e-4, "batch_size": 128, "epochs": 200,
        "warmup": 5, "decay": "step", "milestones": (160, 180), "decay_factor": 0.01}
W = {**_FULL, "student": "resnet56", "lr": 0.8, "weight_decay": 1e-4, "batch_size": 1024, "epochs": 450, "warmup": 15,
     "decay": "step", "milestones": (200, 300, 400)}   # its runs are those of study cifar100


@dataclass(frozen=True)
class Anchor:
    """A published accuracy in per cent on all 10,000 test images, and the Config fields of our runs."""

    setting: str
    source: str
    published: tuple           # of one value, or of the lowest and the highest
    fields: dict
    teacher: bool = False      # our run is the teacher of the run with these fields
    second_hand: bool = False  # quoted by others; the source itself was not read
    buckets: tuple = ()        # published accuracies in per cent of many, medium and few; (): none published

    def config(self, seed):
        """The Config of our run of a seed."""
        cfg = Config(seed=seed, **self.fields)
        return cfg.teacher_config() if self.teacher else cfg

    def word(self, accuracy, seeds, planned):
        """"pass" or "explain" (a finding to be explained before any study is believed); with fewer seeds no judgement."""
        if seeds < planned:
            return "preliminary" if seeds else "not run"
        low, high = self.published if len(self.published) == 2 else (self.published[0] - TOLERANCE, self.published[0] + TOLERANCE)
        return "pass" if low <= round(accuracy, 6) <= high else "explain"   # rounded: 73.34 is within a point of 72.34


_REPDISTILLER, _CHENYAOFO = "RepDistiller README, last epoch", "log of chenyaofo/pytorch-cifar-models, last epoch"
_W = "Nagarajan et al. 2023; Wang et al. 2023 on half of the test set; peak rate not stated"
_KD = {**REPDISTILLER, "method": "kd", "teacher": "resnet56-conv", "student": "resnet20-conv", "alpha": 0.9, "temperature": 4.0}
LONG_TAIL = (
    Anchor("CIFAR-100-LT 100, ResNet-32, one-hot", "LDAM-DRW line of work 38.32 (best epoch on test), Bag of tricks 37.73, "
           "MiSLAS 39.5", (37.0, 39.5), LDAM),
    Anchor("CIFAR-100-LT 100, ResNet-32, logit-adjusted loss", "table of the VS-loss paper", (42.87,),
           {**LDAM, "method": "logit_adjusted"}, second_hand=True),
    # Neither MODEL_ZOO.md nor a config there says how its cross-entropy row was trained (the heading of the table has 100
    # epochs, every config for CIFAR-100-LT 200). README.md: "switch the loss". The only config of one whole ResNet-32,
    # config_imbalance_cifar100_ldam_drw.json, is the recipe LDAM, so the runs are those of the first anchor.
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
    Anchor("CIFAR-100, ResNet-20, one-hot, 240 epochs", _REPDISTILLER, (69.06,), {**REPDISTILLER, "student": "resnet20-conv"}),
    Anchor("CIFAR-100, ResNet-56 → ResNet-20, distillation, 240 epochs", _REPDISTILLER, (70.66,), _KD),
    *(Anchor(f"CIFAR-100, ResNet-{depth}, one-hot, 200 epochs", _CHENYAOFO, (accuracy,),
             {**CHENYAOFO, "student": f"resnet{depth}-conv"})
      for depth, accuracy in ((20, 68.48), (32, 70.00), (44, 71.63), (56, 72.37))),
    Anchor("CIFAR-100, ResNet-56, one-hot, 450 epochs", _W, (72.5,), W, second_hand=True),
    Anchor("CIFAR-100, ResNet-56 → ResNet-56, distillation, 450 epochs", f"{_W}; temperature not stated", (74.6,),
           {**W, "method": "kd", "teacher": "resnet56", "temperature": 2.0}, second_hand=True),
)


@dataclass(frozen=True)
class Anchors:
    """Anchors as a study: called, it gives the Configs of its runs. It has no pairs of its own, so no verdicts."""

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
        """All runs of the first `seeds` seeds, each once, seed by seed, teachers before their students."""
        configs = {}
        for seed in range(self.seeds if seeds is None else seeds):
            for row in self.rows:
                cfg = row.config(seed)
                for c in (*cfg.dependencies(), cfg):
                    configs.setdefault(c.key(), c)
        return list(configs.values())


ANCHORS = Anchors("anchors", "Published numbers that must come out", "Published recipes on CIFAR-100, whole and long-tailed, in "
                  "canonical class order: is the implementation right?", EVERY)
ANCHORS_LT = Anchors("anchors-lt", "Published numbers that must come out, long tail", "The long-tailed anchors alone: the first "
                     "thing to run on a GPU.", LONG_TAIL)


# ---------------------------------------------------------------- beside ours

def _records(rows, seeds):
    """For each row the records of its seeds, as far as there are any.

    KdlibError naming a record that is of other data or of another teacher than those beside it."""
    from kdlib import records
    by_data, out = {}, []
    for row in rows:
        done = []
        for cfg in filter(records.exists, map(row.config, range(seeds))):
            record = records.read(cfg)
            records.check_pair(record, by_data.setdefault((cfg.dataset, cfg.draw_seed, cfg.imbalance), record))
            for teacher in filter(records.exists, cfg.dependencies()):
                records.check_pair(record, records.read(teacher))
            done.append(record)
        out.append(done)
    return out


def _official(record):
    """(right, class) of all official test images, (N,) bool and (N,) int: val and test together."""
    import numpy as np

    parts = [record.splits["val"], record.splits["test"]]
    right = np.concatenate([split.right for split in parts])
    return right, np.concatenate([split.y for split in parts])


def _accuracy(record):
    """Accuracy in per cent on all official test images."""
    right, _ = _official(record)
    return float(100 * right.sum() / len(right))


def _bucket_accuracies(record):
    """Accuracies in per cent of many, medium and few, (3,) float: classes of a bucket count alike, as in the sources."""
    import numpy as np

    from kdlib.metrics import buckets

    right, y = _official(record)
    counts = record.facts["train_counts"]
    of_class = 100 * np.bincount(y[right], minlength=len(counts)) / np.bincount(y, minlength=len(counts))
    bucket = buckets(counts, EDGES)
    return np.array([of_class[bucket == b].mean() for b in range(3)])


def _over_seeds(values):
    """(mean, low, high) of one number per seed, with the 95 % t interval: over seeds alone, no resampling of examples."""
    import numpy as np

    from kdlib.stats import interval

    if not len(values):
        return (np.nan,) * 3
    result = interval(values, np.broadcast_to(values, (2, len(values))))
    return result.estimate, result.low, result.high


def _seeds_of(study, seeds):
    """How many seeds are asked for, the planned ones by default; KdlibError beyond them."""
    seeds = study.seeds if seeds is None else seeds
    if not 1 <= seeds <= study.seeds:
        raise KdlibError(f"seeds={seeds}: must be between 1 and {study.seeds} for {study.name}.")
    return seeds


def _printed(estimate, low, high):
    """38.00 (37.10 to 38.90), without the interval where there is one seed; "not run" without any."""
    import math

    if math.isnan(estimate):
        return "not run"
    return f"{estimate:.2f}" + ("" if math.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _published(values):
    """A published value, or range, for a cell."""
    return " to ".join(f"{value:.2f}" for value in values)


def table(study=ANCHORS, seeds=None):
    """DataFrame, a row per anchor: setting, source, published, ours (mean over seeds, last epoch, all official test images) with
    its 95 % t interval, seeds on record, and "pass", "explain", "preliminary" (fewer seeds than planned) or "not run"."""
    import pandas as pd

    rows = []
    for row, done in zip(study.rows, _records(study.rows, _seeds_of(study, seeds)), strict=True):
        ours = _over_seeds([_accuracy(record) for record in done])
        rows.append({"setting": row.setting, "source": row.source + (" (second-hand)" if row.second_hand else ""),
                     "published": _published(row.published),
                     **dict(zip(("ours", "low", "high"), ours, strict=True)), "seeds": len(done),
                     "result": row.word(ours[0], len(done), study.seeds)})
    return pd.DataFrame(rows)


def by_bucket(study=ANCHORS, seeds=None):
    """DataFrame, for each long-tailed anchor a row for all classes and one per bucket: setting, classes, published ("–": not
    published), ours with its 95 % t interval over seeds or "not run", seeds on record. Per cent, all official test images."""
    import numpy as np
    import pandas as pd

    from kdlib.metrics import BUCKETS

    long_tailed = [row for row in study.rows if row.config(0).imbalance > 1]
    rows = []
    for row, done in zip(long_tailed, _records(long_tailed, _seeds_of(study, seeds)), strict=True):
        published = [_published(row.published)]
        published += [_published((value,)) for value in row.buckets] or ["–"] * len(BUCKETS)
        ours = np.array([[_accuracy(record), *_bucket_accuracies(record)] for record in done])
        ours = ours.reshape(len(done), 1 + len(BUCKETS))   # also where there are none
        for name, theirs, values in zip(("all", *BUCKETS), published, ours.T, strict=True):
            rows.append(
                {
                    "setting": row.setting,
                    "classes": name,
                    "published": theirs,
                    "ours": _printed(*_over_seeds(values)),
                    "seeds": len(done),
                }
            )
    return pd.DataFrame(rows)


def markdown(study=ANCHORS):
    """The table as Markdown, published beside ours."""
    lines = ["| setting | source | published | ours (95 % interval) | seeds | |", "|---|---|---|---|---|---|"]
    for row in table(study).itertuples():
        ours = _printed(row.ours, row.low, row.high) if row.seeds else "–"
        lines.append(f"| {row.setting} | {row.source} | {row.published} | {ours} | {row.seeds} of {study.seeds} | {row.result} |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- Wang et al. 2023: a comparison

SELF = ("resnet56", "resnet56")
WANG = {   # (study, pair): {method: (average, worst class)}, as printed there; PROTOCOL.md, section 1
    ("cifar100", SELF): {
        "one_hot": ("72.42±0.16", "42.22±0.90"), "kd": ("74.61±0.15", "43.81±0.58"), "ada_margin": ("73.58±0.11", "43.91±1.11"),
        "ada_alpha": ("74.15±0.08", "45.46±0.67"), "W's robust student": ("73.22", "48.40")},
    ("cifar100", ("resnet56", "resnet32")): {
        "kd": ("73.19±0.10", "41.82±1.12"), "ada_margin": ("71.92±0.17", "42.22±1.65"), "ada_alpha": ("72.93", "41.50")},
    ("cifar100-lt", SELF): {
        "one_hot": ("43.33±0.16", "0"), "kd": ("46.01±0.16", "0"), "ada_margin": ("31.26±0.21", "0"),
        "ada_alpha": ("42.52±0.08", "0"), "logit_adjusted": ("50.40±0.12", "4.39±0.66"),
        "W's robust student": ("43.94", "14.52")},
    ("cifar10", SELF): {
        "one_hot": ("93.74±0.05", "86.48±0.32"), "kd": ("94.34±0.07", "87.66±0.40"), "ada_margin": ("93.69±0.06", "88.42±0.36"),
        "ada_alpha": ("94.31±0.01", "88.33±0.14")},
    ("cifar10-lt", SELF): {
        "one_hot": ("76.27±0.20", "57.26±0.55"), "kd": ("77.39±0.10", "60.12±0.56"), "ada_margin": ("72.69±0.24", "47.52±0.95"),
        "ada_alpha": ("70.83±0.28", "43.64±1.09"), "logit_adjusted": ("81.36", "71.60")},
}


def comparison():
    """DataFrame: Wang et al.'s average and worst class beside ours on our test half, where a study has complete seeds.

    "not planned": our study has no such run. Peak rate, temperature, test half and (long tails) the draw differ."""
    import pandas as pd

    from kdlib.findings import complete_seeds
    from kdlib.metrics import panel
    from kdlib.stats import interval, worst
    from kdlib.studies import study
    from kdlib.words import name_of
    rows = []
    for (name, pair), methods in WANG.items():
        chosen, seeds = study(name), complete_seeds(name)
        ours = panel(chosen, pair, seeds, "test") if seeds and pair in chosen.pairs else None
        for method, (published, published_worst) in methods.items():
            said = ["not run" if pair in chosen.pairs and method in chosen.methods else "not planned"] * 2
            if ours and method in chosen.methods:
                found = [interval(*ours.accuracy(method).map(f)) for f in (lambda v: v.mean(axis=-1), lambda v: worst(v, 1))]
                said = [f"{r.estimate:.2f}" + ("" if seeds == 1 else f" ± {r.high - r.estimate:.2f}") for r in found]
            rows.append({"study": name, "pair": " → ".join(pair), "method": name_of(method), "W, average": published,
                         "ours, average": said[0], "W, worst class": published_worst, "ours, worst class": said[1],
                         "seeds": seeds if ours and method in chosen.methods else 0})
    return pd.DataFrame(rows)
