"""A Panel: the records of one comparison, as arrays and means by group."""

import functools
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from kdlib.config import KdlibError
from kdlib.evidence import counts
from kdlib.evidence.counts import BUCKETS, TENTHS, by_group, by_half, others, tenths
from kdlib.evidence.resample import Groups, average_means, group_means, stack
from kdlib.evidence.stats import interval, welch
from kdlib.study import records
from kdlib.study.done import baselines
from kdlib.study.studies import Study, told

HALVES = 200  # random splits of the examples in F2a


@dataclass(frozen=True, eq=False)
class Panel:
    """All records of one (teacher, student) pair and setting of a study, over the first seeds.

    They are aligned by example. Baselines are pooled: runs["one_hot"] holds every one_hot network
    of the student, data and recipe on record, those of the panel's seeds first. Other methods have
    one network for each seed, or fewer seeds (Study.fewer)."""

    study: Study
    pair: tuple
    seeds: int
    runs: dict  # method -> tuple of Records
    teachers: tuple  # Records, one per seed
    margins: np.ndarray  # (S, G) held-out margin (val) of each seed's teacher
    split: str  # "test_plus", or "test" for comparison with the literature
    setting: dict = field(default_factory=dict)  # Config fields that differ from the study's

    @property
    def name(self):
        changed = told({n: v for n, v in self.setting.items() if n != "teacher"})
        pair = " → ".join((self.setting.get("teacher", self.pair[0]), self.pair[1]))
        return f"{pair}, {changed}" if changed else pair

    @property
    def methods(self):
        """Every method on record but the baselines."""
        return [method for method in self.runs if method != "one_hot"]

    def posing(self, **runs):
        """The same panel with other records in the place of some methods; (): without it.

        For example baselines that pose as a method."""
        return replace(self, runs={m: some for m, some in (self.runs | runs).items() if some})

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
    def class_names(self):
        return tuple(self.teachers[0].facts["class_names"])

    @property
    def train_counts(self):
        return np.array(self.teachers[0].facts["train_counts"])

    @property
    def bucket_names(self):
        return BUCKETS if self.study.bucket_edges else TENTHS

    @functools.cached_property
    def bucket(self):
        """(G,) index into bucket_names.

        Balanced: by the mean held-out margin of all seeds' teachers, for display only."""
        if self.study.bucket_edges:
            return counts.buckets(self.train_counts, self.study.bucket_edges)
        return tenths(self.margins.mean(axis=0))

    @functools.cached_property
    def buckets_by_seed(self):
        """(S, G): as bucket, for each seed.

        Balanced: by the margins of the other seeds' teachers, whose luck is not its own."""
        if self.study.bucket_edges or self.seeds < 2:
            return np.tile(self.bucket, (self.seeds, 1))
        return np.array([tenths(margin) for margin in others(self.margins)])

    def _predictions(self, record):
        return record.test_plus() if self.split == "test_plus" else record.splits[self.split]

    def records(self, method):
        """Records of a method; "teacher": of the teachers."""
        return self.teachers if method == "teacher" else self.runs[method]

    def predictions(self, method):
        """Predictions of each record of a method; it may be "teacher"."""
        return [self._predictions(r) for r in self.records(method)]

    def predicted(self, method):
        """Predicted class, (S, N)."""
        return np.array([p.predicted for p in self.predictions(method)])

    def paired(self, *methods):
        """Predicted class of each method, (S, N) each, over the seeds that all of them have.

        One network stands beside another."""
        seeds = min(self.seeds, *(len(self.records(m)) for m in methods))
        return [self.predicted(m)[:seeds] for m in methods]

    @functools.cached_property
    def members(self):
        """Groups of the test examples."""
        return Groups.of(self.group, self.group_names)

    def means(self, values):
        """GroupMeans of values (S, N), paired by example with every other of this panel."""
        return group_means(values, self.members)

    def averages(self, values):
        """GroupMeans (S,) of values (S, N): the mean over groups of `means`."""
        return average_means(values, self.members)

    def remembered(self, what, records, compute):
        """Values of single records, computed once for all panels that hold them.

        compute(list of the new ones) -> a list with a value for each."""
        key = what, self.split
        new = [record for record in dict.fromkeys(records) if key not in record.memory]
        if new:
            for record, value in zip(new, compute(new), strict=True):
                record.memory[key] = value
        return [record.memory[key] for record in records]

    def accuracy(self, method):
        """GroupMeans of accuracy, in per cent."""
        return stack(self._accuracies(method))

    def _accuracies(self, method):
        def compute(records):
            right = np.array([self._predictions(r).right for r in records])
            return (100 * self.means(right)).networks()

        return self.remembered("accuracy", self.records(method), compute)

    def contrast(self, method, weights):
        """GroupMeans (S,) of a weighted sum of accuracies over groups, in per cent.

        weights: (G,) for every network of the method, or (S, G) for the first S of them."""
        networks = zip(self.records(method), self._accuracies(method), strict=True)
        rows = weights if weights.ndim == 2 else itertools.repeat(weights)
        found = []
        for (record, accuracy), w in zip(networks, rows, strict=False):
            key = "contrast", w.tobytes(), self.split
            if key not in record.memory:  # thousands of panels ask for the same few
                record.memory[key] = accuracy.map(np.dot, b=w)
            found.append(record.memory[key])
        return stack(found)

    def halves(self, method):
        """(K, 2, S, G) per cent: accuracy on two halves of each group's examples, split K times."""

        def compute(records):
            right = 100.0 * np.array([self._predictions(r).right for r in records])
            return list(by_half(right, self.group, len(self.group_names), HALVES).swapaxes(0, 2))

        kept = self.remembered("halves", self.records(method), compute)
        return np.array(kept).swapaxes(0, 2)

    def copied_share(self, method, seed):
        """counts.copied_share of the networks of a method, from the teacher of a seed."""
        record = self.teachers[seed]
        teacher = self._predictions(record).predicted

        def compute(runs):
            predicted = np.array([self._predictions(r).predicted for r in runs])
            return counts.copied_share(teacher, predicted, self.y, self.averages).networks()

        return stack(self.remembered(("copied from", record), self.records(method), compute))

    def copied_by_itself(self, method):
        """GroupMeans (S,): the copied share of each network of a method, from its own teacher."""
        seeds = range(len(self.runs[method]))
        return stack([self.copied_share(method, s).seeds(s) for s in seeds])

    def copied_by_pool(self, seeds=None):
        """counts.copied_by_pool of the baselines and the teachers of the first seeds, or of all."""
        return counts.copied_by_pool(*self._copied(seeds or self.seeds, "one_hot"))

    def copied_of_own(self, method):
        """counts.of_own_teacher of the networks of a method."""
        return counts.of_own_teacher(*self._copied(len(self.runs[method]), method))

    def _copied(self, seeds, method):
        """(copied_share of a method from each of the first teachers, (seeds, networks) bool: where
        the two are not the same network)."""
        keys = np.array([r.config.key() for r in self.runs[method]])
        keep = np.array([keys != t.config.key() for t in self.teachers[:seeds]])
        return [self.copied_share(method, s) for s in range(seeds)], keep

    # ---------------------------------------------------------------- gains: contrasts over groups

    @property
    def average(self):
        """Weights (S, G) of the mean over groups."""
        return np.full(self.buckets_by_seed.shape, 1 / len(self.group_names))

    def in_bucket(self, index):
        """Weights (S, G) of the mean over the groups of one bucket."""
        members = self.buckets_by_seed == index
        return members / members.sum(axis=1, keepdims=True)

    def places(self):
        """{name: weights} of the average and of each bucket with a group, most frequent first."""
        found = {"average": self.average}
        for index, name in enumerate(self.bucket_names):
            if (self.bucket == index).any():
                found[name] = self.in_bucket(index)
        return found

    def gain(self, method, weights, over="one_hot"):
        """Interval of a contrast of accuracies, in points: a method minus another.

        weights (S, G): of the groups. By default over the pooled baselines; another method is
        paired with it by seed (same teacher, starting weights and batches)."""
        if over == "one_hot":
            weights = weights[: len(self.records(method))]
            return welch(self.contrast(method, weights), self.contrast(over, weights.mean(axis=0)))
        weights = weights[: min(len(self.records(m)) for m in (method, over))]
        return interval(*(self.contrast(method, weights) - self.contrast(over, weights)))

    def group_gain(self, method, over="one_hot"):
        """(S, G) points: each network of a method minus another, as in `gain`."""
        mine, base = (np.array([a.observed for a in self._accuracies(m)]) for m in (method, over))
        if over == "one_hot":
            return mine - base.mean(axis=0)
        return np.array([m - b for m, b in zip(mine, base, strict=False)])  # seeds that both have

    def val_accuracy(self, method):
        """(S, G) per cent on val, which may choose."""

        def compute(records):
            sizes = len(self.group_names), len(self.class_names)
            tables = [by_group(r.splits["val"], *sizes) for r in records]
            return [100 * t["correct"] / t["n"] for t in tables]

        return np.array(self.remembered("val accuracy", self.records(method), compute))


def panel(study, pair, seeds, split="test_plus", setting=None):
    """The Panel of a pair and setting.

    Every record is checked against its own teacher and the first baseline. KdlibError if `seeds` is
    out of range, a record is missing or does not fit, or a group has no test example."""
    if not 1 <= seeds <= 1000:
        raise KdlibError(
            f"seeds={seeds}: must be between 1 and 1000; the study plans {study.seeds}."
        )
    setting = setting or {}
    wanted = {}
    for method in (m for m in study.methods if m != "one_hot"):
        some = study.seeds_of(method, seeds)
        wanted[method] = [study.config(pair, method, s, setting) for s in some]
        if method in study.fewer:  # the study does not wait for it: what is there
            wanted[method] = list(itertools.takewhile(records.exists, wanted[method]))
    runs = {method: tuple(map(records.read, some)) for method, some in wanted.items() if some}
    own = [study.config(pair, "one_hot", s, setting) for s in range(seeds)]
    more = [cfg for cfg in baselines(study, pair, setting) if cfg not in own]
    runs = {"one_hot": tuple(records.read(cfg) for cfg in (*own, *more)), **runs}
    return _aligned(study, tuple(pair), seeds, split, tuple(setting.items()), tuple(runs.items()))


@functools.lru_cache(maxsize=32)  # a page asks for the same ones time and again
def _aligned(study, pair, seeds, split, setting, runs):
    """The Panel of records: a dictionary as pairs of its names and values."""
    setting, runs = dict(setting), dict(runs)
    teachers = tuple(records.read(r.config.teacher_config()) for r in runs["kd"])
    for done in runs.values():
        for record in done:
            if record.config.teacher:
                records.check_pair(record, records.read(record.config.teacher_config()))
            records.check_pair(record, runs["one_hot"][0])
    first = teachers[0]
    tested = set((first.test_plus() if split == "test_plus" else first.splits[split]).group)
    names = first.facts["group_names"]
    for g, group in enumerate(names):
        if g not in tested:
            raise KdlibError(
                f"study {study.name}: group {group!r} has no test example, so it has no gain."
            )
    margins = np.array([r.facts["teacher_margin_val"] for r in runs["kd"]])
    return Panel(study, pair, seeds, runs, teachers, margins, split, setting)
