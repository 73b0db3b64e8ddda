"""Records made by hand for a tiny study, so that the right verdict is known by construction."""

import hashlib
import itertools
import os
from dataclasses import replace

import numpy as np
import torch

from kdlib.config import Config
from kdlib.data import Data, Split
from kdlib.evidence import resample
from kdlib.evidence.panel import panel
from kdlib.evidence.resample import Groups
from kdlib.methods import loss_fields, needs_margins
from kdlib.study.facts import CURVES, SPLITS
from kdlib.study.grids import STUDIES
from kdlib.study.records import Predictions, Record, write

GROUPS = 10
# with edges (30, 7): four many, four medium, two few
COUNTS = (90, 60, 40, 31, 30, 20, 10, 7, 6, 2)
FEW = np.arange(GROUPS) >= 8
PER_GROUP = {"val": 20, "test": 20, "left_out": 20}
PAIR, SELF = ("cnn", "cnn_small"), ("cnn_small", "cnn_small")
TINY = replace(STUDIES["digits"], name="tiny", title="Tiny", pairs=(PAIR,), seeds=4)
USUAL = {"teacher": 0.8, "one_hot": 0.7, "kd": 0.7, "ada_alpha": 0.7, "ada_margin": 0.7}
ROLES = tuple(USUAL)


def coloured(n, classes):
    """Data of n random 32x32 images of some classes, augmented as CIFAR is, the same everywhere."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
    y, names = torch.arange(n) % classes, tuple("abcdefghij")[:classes]
    looks = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "pad": 4}
    return Data(*[Split(x, y, y)] * 4, names, names, **looks)


def but(usual, **places):
    """Accuracy of each group, (G,): `usual` but in the bucket `few`, or in group g as g8=0.1."""
    rates = np.full(GROUPS, float(usual))
    for place, rate in places.items():
        rates[FEW if place == "few" else int(place[1:])] = rate
    return rates


def predicted(role, seed, split, rates, shuffled, copies):
    """(y, predicted) of a split: in every group exactly `rates` of the examples are right.

    By default it is the same examples that are hard for everyone, so that accuracies that are equal
    differ by nothing; shuffled: another random part for each role and seed. Wrong labels are
    random, or those of the teacher (copies)."""
    n, number = PER_GROUP[split], 10 * seed + (ROLES.index(role) if role in ROLES else len(ROLES))
    y = np.repeat(np.arange(GROUPS), n)
    rng, of_teacher = np.random.default_rng([number, n]), np.random.default_rng([seed, 77])
    rank = np.tile(np.arange(n), GROUPS)
    if shuffled:
        rank = np.concatenate([rng.permutation(n) for _ in range(GROUPS)])
    wrong = rank < n - np.rint(n * np.broadcast_to(rates, GROUPS))[y]
    other = (of_teacher if copies or role == "teacher" else rng).integers(1, GROUPS, len(y))
    return y, np.where(wrong, (y + other) % GROUPS, y)


def predictions(y, chosen, confidence=0.7):
    """Predictions that give `confidence` to what is predicted and half of the rest to the label."""
    right, rest = chosen == y, (1 - confidence) / 2
    p = np.column_stack([np.where(right, confidence, rest), np.full(len(y), confidence)])
    return Predictions(
        y.astype(np.int16),
        y.astype(np.int16),
        chosen.astype(np.int8),
        np.log(np.maximum(p, 1e-300)).astype(np.float16),
    )


def record(cfg, role, seed, rates, shuffled=False, copies=False, margin=None, names=None, **facts):
    """The Record of one run. rates: a number, (G,), or function (seed, split) -> either."""
    splits = {}
    for split in SPLITS:
        here = rates(seed, split) if callable(rates) else rates
        splits[split] = predictions(*predicted(role, seed, split, here, shuffled, copies))
    names = list(names or [f"class {g}" for g in range(GROUPS)])
    known = facts_of(cfg, names, margin) | facts
    return Record(cfg, known, splits)


def weights_of(key):
    """A hash that stands for the weights of a run."""
    return hashlib.sha256(key.encode()).hexdigest()


def facts_of(cfg, names, margin=None, train_counts=COUNTS):
    """Every fact that a run leaves, none of them measured."""
    known = {
        "data_sha256": "d" * 64,
        "weights_sha256": weights_of(cfg.key()),
        "class_names": names,
        "group_names": names,
        "train_counts": list(train_counts),
        "curves": {name: [1.0] * cfg.epochs for name in CURVES},
        "post_hoc_tau": None,
        "val_accuracy_by_group": {},
        "val_accuracy_by_half": {},
        "seconds": 1.0,
        "together": 1,
        "device": "a processor",
        "threads": 1,
        "precision": cfg.precision,
        "git": "a commit",
        "versions": {"torch": "2"},
    }
    if not cfg.teacher:
        return known
    by_group = needs_margins(cfg) and cfg.margin_level == "group"
    teacher, *folds = [run.key() for run in cfg.dependencies()]
    return known | {
        "teacher_key": teacher,
        "teacher_sha256": weights_of(teacher),
        "teacher_logits": "table",
        "teacher_margin_val": [float(m) for m in margin],
        "teacher_margin_train": [1.0] * len(names),
        "margins": [float(m) for m in margin] if by_group else None,
        "fold_teacher_keys": folds,
    }


def write_study(
    study=TINY,
    seeds=None,
    shuffled=(),
    copies=(),
    margin=None,
    names=None,
    by_setting=None,
    facts=None,
    alter=None,
    **rates,
):
    """Write every record of a study into $KDLIB_RECORDS. Accuracies by role: see record; the rest
    as in USUAL, others 0.7.

    shuffled, copies: roles. margin: function seed -> (G,) held-out margin of that seed's teacher.
    by_setting: function setting -> rates that differ there. facts: function (method, seed) ->
    further facts of a record. alter: function record -> record, before it is written."""
    assert "KDLIB_RECORDS" in os.environ  # never among the real ones
    margin = margin or (lambda seed: np.linspace(0.9, 0.1, GROUPS))
    facts = facts or (lambda method, seed: {})
    by_setting = by_setting or (lambda setting: {})
    alter = alter or (lambda done: done)
    seeds = study.seeds if seeds is None else seeds
    for setting, pair, method in itertools.product(study.settings, study.pairs, study.methods):
        here = USUAL | rates | by_setting(setting)

        def put(cfg, role, seed, here=here, **more):
            how = {"shuffled": role in shuffled, "copies": role in copies, "names": names}
            more |= facts(role, seed)
            write(alter(record(cfg, role, seed, here.get(role, 0.7), **how, **more)))

        for seed in study.seeds_of(method, seeds):
            cfg = study.config(pair, method, seed, setting)
            put(cfg, method, seed, margin=margin(seed))
            if cfg.teacher:
                put(cfg.teacher_config(), "teacher", seed)


def halves(done):
    """A Record whose labels hold two groups each: label k the groups 2 k and 2 k + 1."""
    splits = {
        name: replace(split, y=split.y // 2, predicted=split.predicted // 2)
        for name, split in done.splits.items()
    }
    names = [f"label {k}" for k in range(GROUPS // 2)]
    return replace(done, facts=done.facts | {"class_names": names}, splits=splits)


def made(study=TINY, seeds=None, split="test_plus", **how):
    """write_study, then the Panel of the first pair."""
    write_study(study, seeds, **how)
    return panel(study, study.pairs[0], study.seeds if seeds is None else seeds, split)


def group_means(values, group, groups, resamples=1000, seed=0):
    """resample.group_means of groups that do not overlap."""
    members = Groups.of(group, range(groups))
    return resample.group_means(values, members, resamples=resamples, seed=seed)


def baseline_of(cfg):
    """The one_hot Config that a run is compared with: the same student, seed, data and recipe."""
    kept = {name: v for name, v in cfg.fields().items() if name not in loss_fields()}
    return Config(**kept | {"method": "one_hot", "with_val": False})
