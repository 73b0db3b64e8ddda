"""What records say: by group, by bucket, worst, calibration, and the eight cells of transfer. Counts first, rates derived."""

import functools
from dataclasses import dataclass, field

import numpy as np

from kdlib import records
from kdlib.config import KdlibError
from kdlib.stats import group_means
from kdlib.studies import Study

BUCKETS = ("many", "medium", "few")                       # by training images
TENTHS = ("highest tenth", "middle", "lowest tenth")      # by the teacher's margin, where classes are balanced
CELLS = {  # (teacher right, one-hot right, distilled right): name
    (True, True, True): "all right", (True, True, False): "new harm", (True, False, True): "repaired",
    (True, False, False): "not learned", (False, True, True): "resisted", (False, True, False): "transferred",
    (False, False, True): "surpassed", (False, False, False): "all wrong",
}


def buckets(train_counts, edges):
    """Bucket of each group, (G,) index into BUCKETS: many has more than edges[0] training images, few under edges[1]."""
    counts = np.asarray(train_counts)
    return np.where(counts > edges[0], 0, np.where(counts < edges[1], 2, 1))


def tenths(margin):
    """Bucket of each group by a reliability, (G,) -> (G,) index into TENTHS: the highest tenth, the rest, the lowest tenth."""
    rank, k = np.argsort(np.argsort(-np.asarray(margin), kind="stable"), kind="stable"), max(1, round(len(margin) / 10))
    return np.where(rank < k, 0, np.where(rank >= len(margin) - k, 2, 1))


def by_group(predictions, groups, classes):
    """{n, correct, nll, margin} of each group, each (groups,); nll in nats and margin are means, NaN where n is 0."""
    group = predictions.group.astype(np.int64)
    n = np.bincount(group, minlength=groups)
    log_p = predictions.log_p[:, 0].astype(np.float64)
    margin = (classes * np.exp(log_p) - 1) / (classes - 1)   # gamma_avg, see losses.margin
    with np.errstate(invalid="ignore"):
        return {"n": n, "correct": np.bincount(group, weights=predictions.right, minlength=groups).astype(np.int64),
                "nll": np.bincount(group, weights=-log_p, minlength=groups) / n,
                "margin": np.bincount(group, weights=margin, minlength=groups) / n}


def calibration_error(predictions, weights=None, bins=15):
    """Expected calibration error with equal-width bins of confidence (Guo et al. 2017): (error, table per bin).

    weights (N,): of the examples, e.g. so that classes count alike. The table has rows (weight, confidence, accuracy)."""
    confidence = np.exp(predictions.log_p[:, 1].astype(np.float64))
    weights = np.ones(len(confidence)) if weights is None else np.asarray(weights, dtype=np.float64)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    total = np.bincount(which, weights, bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(which, weights * confidence, bins) / total
        accuracy = np.bincount(which, weights * predictions.right, bins) / total
    filled = total > 0
    error = (total[filled] * np.abs(accuracy - mean_confidence)[filled]).sum() / total.sum()
    return float(error), np.column_stack([total, mean_confidence, accuracy])


def eight_cells(teacher_right, one_hot_right, distilled_right):
    """{name: count} of the eight outcomes per example; each argument (N,) bool."""
    code = 4 * teacher_right.astype(int) + 2 * one_hot_right.astype(int) + distilled_right.astype(int)
    counts = np.bincount(code, minlength=8)
    return {name: int(counts[4 * t + 2 * o + d]) for (t, o, d), name in CELLS.items()}


@dataclass(frozen=True)
class Panel:
    """All records of one (teacher, student) pair and setting of a study over the first seeds, aligned by seed and example."""

    study: Study
    pair: tuple
    seeds: int
    runs: dict            # method -> tuple of Records, one per seed
    teachers: tuple       # Records, one per seed
    split: str            # "test_plus", or "test" for comparison with the literature
    setting: dict = field(default_factory=dict)   # Config fields that differ from the study's

    @property
    def name(self):
        changed = ", ".join(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                            for name, value in self.setting.items() if name != "teacher")
        pair = " → ".join((self.setting.get("teacher", self.pair[0]), self.pair[1]))
        return f"{pair}, {changed}" if changed else pair

    @functools.cached_property
    def group(self):
        return self._predictions(self.teachers[0]).group.astype(np.int64)

    @property
    def y(self):
        return self._predictions(self.teachers[0]).y

    @property
    def group_names(self):
        return tuple(self.teachers[0].facts["group_names"])

    @property
    def train_counts(self):
        return np.array(self.teachers[0].facts["train_counts"])

    @property
    def bucket_names(self):
        return BUCKETS if self.study.bucket_edges else TENTHS

    @functools.cached_property
    def bucket(self):
        """(G,) index into bucket_names; balanced: by the mean held-out margin of all seeds' teachers, for display only."""
        if self.study.bucket_edges:
            return buckets(self.train_counts, self.study.bucket_edges)
        return tenths(self.teacher_margin().mean(axis=0))

    @functools.cached_property
    def buckets_by_seed(self):
        """(S, G): as bucket; balanced: for each seed by the margins of the other seeds' teachers, whose luck is not its own."""
        if self.study.bucket_edges or self.seeds < 2:
            return np.tile(self.bucket, (self.seeds, 1))
        margins = self.teacher_margin()
        return np.array([tenths(np.delete(margins, s, axis=0).mean(axis=0)) for s in range(self.seeds)])

    def _predictions(self, record):
        return record.test_plus() if self.split == "test_plus" else record.splits[self.split]

    def predictions(self, method):
        """Predictions of each seed's run; method may be "teacher"."""
        return [self._predictions(r) for r in (self.teachers if method == "teacher" else self.runs[method])]

    def predicted(self, method):
        """Predicted class, (S, N)."""
        return np.array([p.predicted for p in self.predictions(method)])

    def right(self, method):
        """(S, N) bool."""
        return self.predicted(method) == self.y

    def means(self, values):
        """GroupMeans of values (S, N), paired by example with every other of this panel."""
        return group_means(values, self.group, len(self.group_names))

    @functools.lru_cache(maxsize=32)                     # noqa: B019 - panels are few and short-lived
    def accuracy(self, method):
        """GroupMeans of accuracy, in per cent."""
        return 100 * self.means(self.right(method))

    def gain(self, method, over="one_hot"):
        """GroupMeans of the accuracy gain over another method, in points."""
        return self.accuracy(method) - self.accuracy(over)

    def val_accuracy(self, method):
        """(S, G) per cent on val, which may choose."""
        out = []
        for record in self.teachers if method == "teacher" else self.runs[method]:
            table = by_group(record.splits["val"], len(self.group_names), len(record.facts["class_names"]))
            out.append(100 * table["correct"] / table["n"])
        return np.array(out)

    def teacher_margin(self):
        """(S, G) held-out margin (val) of each seed's teacher."""
        return np.array([r.facts["teacher_margin_val"] for r in self.runs["kd"]])

    def __hash__(self):
        return id(self)


def panel(study, pair, seeds, split="test_plus", setting=None):
    """The Panel of a pair and setting; every record is checked against its own teacher and the first baseline."""
    if not 1 <= seeds <= 1000:
        raise KdlibError(f"seeds={seeds}: must be between 1 and 1000; the study plans {study.seeds}.")
    setting = setting or {}
    runs = {method: tuple(records.read(study.config(pair, method, s, setting)) for s in range(seeds)) for method in study.methods}
    teachers = tuple(records.read(r.config.teacher_config()) for r in runs["kd"])
    for done in runs.values():
        for record in done:
            if record.config.teacher:
                records.check_pair(record, records.read(record.config.teacher_config()))
            records.check_pair(record, runs["one_hot"][0])
    return Panel(study, tuple(pair), seeds, runs, teachers, split, setting)


def bucket_mean(panel, index):
    """Statistic over values (..., S, G): mean of the groups of one bucket of each seed."""
    members = panel.buckets_by_seed == index
    return lambda values: (values * members).sum(axis=-1) / members.sum(axis=-1)


def average(values):
    """Statistic over the trailing group axis: every group counts alike."""
    return values.mean(axis=-1)


def table(panel):
    """DataFrame with one row per (method, seed, group): n_train, bucket, n, correct, accuracy, gain, nll, margin."""
    import pandas as pd
    rows = []
    sizes = len(panel.group_names), len(panel.teachers[0].facts["class_names"])
    base = [by_group(p, *sizes) for p in panel.predictions("one_hot")]
    for method in (*panel.runs, "teacher"):
        for seed, predictions in enumerate(panel.predictions(method)):
            t = by_group(predictions, *sizes)
            accuracy = 100 * t["correct"] / t["n"]
            rows.append(pd.DataFrame({
                "method": method, "seed": seed, "group": panel.group_names, "n_train": panel.train_counts,
                "bucket": [panel.bucket_names[b] for b in panel.bucket], **t, "accuracy": accuracy,
                "gain": accuracy - 100 * base[seed]["correct"] / base[seed]["n"]}))
    return pd.concat(rows, ignore_index=True)

