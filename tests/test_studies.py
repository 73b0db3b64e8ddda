"""The grids: what is in each study, which runs are shared, and one short run of every method and
network in any of them."""

import collections
import itertools
from dataclasses import replace

import pytest
import torch

from kdlib import data
from kdlib.config import DEFAULTS, FOLDS, MODELS, Config, KdlibError
from kdlib.data import Data, Split
from kdlib.methods import METHODS, loss_fields
from kdlib.models import build
from kdlib.study import experiment
from kdlib.study.experiment import run, trained
from kdlib.study.grids import KINDS, STUDIES, Study, check_parameters, study

GRIDS = {name: s for name, s in STUDIES.items() if isinstance(s, Study)}
POOL = {
    "digits": (100, 10),
    "cifar20": (400, 20),
    "cifar100": (500, 100),
    "cifar10": (5000, 10),
    "superclass": (500, 5),
}


def cells(s, seeds):
    """Every (seed, setting, pair, method) of a study."""
    return [
        (seed, *cell)
        for cell in itertools.product(s.settings, s.pairs, s.methods)
        for seed in s.seeds_of(cell[2], seeds)
    ]


# ---------------------------------------------------------------- the grids


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_each_run_once_and_teachers_before_their_students(name):
    configs = STUDIES[name](2)
    keys = [c.key() for c in configs]
    assert len(set(keys)) == len(keys) and len(set(configs)) == len(configs)
    for cfg in configs:
        assert all(keys.index(d.key()) < keys.index(cfg.key()) for d in cfg.dependencies())
    assert (
        STUDIES[name].name == name and study(name) is STUDIES[name] and STUDIES[name].kind in KINDS
    )


@pytest.mark.parametrize("name", GRIDS)
def test_a_study_holds_every_method_of_every_setting_pair_and_seed_and_nothing_else(name):
    s = GRIDS[name]
    keys, wanted = {c.key() for c in s(2)}, {}
    for seed, setting, pair, method in cells(s, 2):
        cfg = s.config(pair, method, seed, setting)
        assert (cfg.student, cfg.seed) == (pair[1], s.first_seed + seed) and pair[0] in MODELS
        assert cfg.teacher in (None, setting.get("teacher", pair[0]))
        assert cfg.baseline_config() == s.config(
            pair, "one_hot", seed, setting
        )  # which is in the study, so paired
        wanted |= {c.key(): c for c in (cfg, *cfg.dependencies())}
    assert keys == set(wanted)


@pytest.mark.parametrize("name", GRIDS)
def test_methods_of_a_setting_are_different_runs(name):
    s = GRIDS[name]
    for setting, pair in itertools.product(s.settings, s.pairs):
        keys = [s.config(pair, method, 0, setting).key() for method in s.methods]
        assert len(set(keys)) == len(s.methods)


@pytest.mark.parametrize("name", [name for name, s in GRIDS.items() if len(s.settings) > 1])
def test_a_setting_changes_the_runs_that_read_it_and_shares_the_others(name):
    s = GRIDS[name]
    base, *others = s.settings
    assert base == {}
    for setting, pair, method in itertools.product(others, s.pairs, s.methods):
        cfg, plain = s.config(pair, method, 0, setting), s.config(pair, method, 0)
        of_loss = loss_fields()
        fixed = s.methods[method]
        read = {
            k: v
            for k, v in setting.items()
            if (k not in of_loss or k in METHODS[cfg.method].knobs) and k not in fixed
        }
        assert cfg == replace(plain, **read)
    for setting in others:
        changed = [
            s.config(pair, m, 0, setting).key() != s.config(pair, m, 0).key()
            for pair in s.pairs
            for m in s.methods
        ]
        same_draw_teacher = set(setting) == {"draw_seed", "teacher_seed"}
        assert any(changed) or same_draw_teacher  # else nothing is learned from it


def test_methods_of_fewer_seeds_come_last_and_further_baselines_with_the_seeds():
    s = STUDIES["cifar20-lt"]
    seeds = [c.seed for c in s() if c == s.config(s.pairs[0], "one_hot", c.seed)]
    assert seeds == [seed for k in range(8) for seed in (k, 8 + k, 1000 + k)]
    extras = [c for c in s() if c not in s(extras=False)]
    assert s() == s(extras=False) + extras
    assert {c.margin_source == "crossfit" or c.fold is not None or c.with_val for c in extras} == {
        True
    }
    assert {c.seed for c in extras if c.teacher} == {0, 1, 2, 3}


def test_the_small_studies_of_cifar100_lt_share_baselines_and_teachers():
    itself, small = STUDIES["cifar100-lt-self"], STUDIES["cifar100-lt-small"]
    (own,), (other,) = itself.pairs, small.pairs
    assert [small.config(other, "kd", k).teacher_config() for k in range(3)] == [
        STUDIES["anchors-lt"].rows[0].config(k) for k in range(3)
    ]
    assert itself.config(own, "kd", 2).teacher_seed == 1002
    assert itself.pool(own) == small.pool(other)
    wanted = {c.key() for c in itself() if c.method == "one_hot"}
    assert len(wanted) == 10  # six seeds and four teachers
    assert wanted <= {c.key() for c in small.pool(other)}


def test_the_pool_is_every_seed_of_the_student_but_those_of_a_search():
    s = STUDIES["cifar20-lt"]
    pool = s.pool(s.pairs[1])
    assert {c.student for c in pool} == {"resnet8"} and {c.method for c in pool} == {"one_hot"}
    assert not {c.key() for c in STUDIES["cifar20-lt-recipe"]()} & {c.key() for c in pool}
    wanted = {
        c.key()
        for c in s()
        if c.method == "one_hot" and c.student == "resnet8" and c.fold is None and not c.with_val
    }
    assert wanted <= {c.key() for c in pool} and len(wanted) == 24


def test_a_study_drops_the_loss_fields_that_a_method_does_not_read():
    s = STUDIES["cifar20-lt-rivals"]
    (pair,) = s.pairs
    fields = {**s.shared, "student": "resnet8"}
    taught = {**fields, "teacher": "resnet8", **s.distilled}
    changed = {
        "temperature": 4.0,
        "alpha": 0.5,
        "teacher": "resnet14",
        "teacher_seed": 7,
        "lr": 0.3,
    }
    assert s.config(pair, "one_hot", 0) == Config(**fields)
    assert s.config(pair, "one_hot", 3, changed) == Config(**{**fields, "seed": 3, "lr": 0.3})
    assert s.config(pair, "kd", 0, changed) == Config(**{**taught, **changed, "method": "kd"})
    del changed["alpha"]  # not read by the others
    assert s.config(pair, "decoupled_kd", 0, {**changed, "alpha": 0.5}) == Config(
        **{**taught, **changed, "method": "decoupled_kd"}
    )
    assert s.config(pair, "kd_mean_alpha", 0) == Config(
        **taught, method="ada_alpha", margin_level="all"
    )
    assert s.config(pair, "ada_alpha_01", 0) == Config(
        **taught,
        method="ada_alpha",
        margin_level="example",
        margin_source="train",
        margin_kind="hit",
    )
    assert s.config(pair, "kd_adjusted_teacher", 0).teacher_config() == Config(
        **fields, seed=1000, method="logit_adjusted"
    )
    for method in ("label_smoothing", "logit_adjusted", "post_hoc", "group_dro"):
        assert s.config(pair, method, 1) == Config(**fields, method=method, seed=1)
    for method in ("balanced_kd", "long_tailed_kd", "robust_kd"):
        assert s.config(pair, method, 1) == Config(**taught, method=method, seed=1)


SIZES = {  # runs of one seed: methods, teachers, and the fold teachers of a crossfit, once each
    "digits": 4 + 1 + 3 + 1,
    "cifar20-short": 4 + 1 + 3 + 1,
    "superclass": 4 + 1,
    "cifar20-lt": 2 + 1 + 2 * (5 + 1 + FOLDS),
    "cifar100-lt-self": 4 + 1,  # of six baselines two
    "cifar100-lt-small": 6 + 1,
    # resnet56 is the teacher, and the student whose one_hot is of other seeds
    **{name: 4 + 1 + 4 for name in ("cifar100-lt", "cifar100", "cifar10-lt", "cifar10")},
    **{f"{name}-rivals": 16 + 2 for name in ("digits", "cifar100-lt")},
    "cifar20-lt-rivals": 16 + 2 + 1 + FOLDS,
    "digits-knobs": 13 + 1,
    "cifar20-lt-knobs": 15 + 1 + FOLDS,
    "cifar100-lt-knobs": 15 + 1 + FOLDS,
}


def size_of_settings(s):
    """Runs of one seed: all methods and a teacher for each recipe and data; else what reads the
    field, and a new teacher."""
    levels = collections.Counter(",".join(sorted(setting)) for setting in s.settings)
    crossed = levels.pop("draw_seed,teacher_seed", 0)
    anew = sum(
        levels.pop(f, 0) for f in ("", "epochs", "imbalance", "profile", "label_noise", "draw_seed")
    )
    taught = len(s.methods) - 1
    size = (
        anew * (taught + 2)
        + levels.pop("temperature", 0) * taught
        + levels.pop("alpha", 0)
        + levels.pop("teacher", 0) * (taught + 1)
    )
    assert not levels
    return (
        size + crossed * (taught + 1) + (2 if crossed else 0)
    )  # three draws crossed: two new ones for the baseline


@pytest.mark.parametrize("name", GRIDS)
def test_sizes_are_those_counted_by_hand(name):
    s = GRIDS[name]
    assert len(s(1)) == (SIZES[name] if s.settings == ({},) else size_of_settings(s))


@pytest.mark.parametrize("name", GRIDS)
def test_every_draw_of_a_study_has_an_image_of_each_class_and_of_each_fold(name):
    for cfg in GRIDS[name](1):
        largest, classes = POOL[cfg.dataset]
        assert data.long_tail_counts(largest, cfg.imbalance, classes, cfg.profile)[-1] >= (
            1 if cfg.fold is None else FOLDS
        )


def test_no_seed_of_a_recipe_study_occurs_in_any_other_study():
    def seeds(configs):
        return {c.seed for c in configs}

    recipe = set().union(*(seeds(s()) for s in STUDIES.values() if s.kind == "recipe"))
    others = set().union(*(seeds(s()) for s in STUDIES.values() if s.kind != "recipe"))
    assert not recipe & others and min(recipe) == 900


@pytest.mark.parametrize("name", GRIDS)
def test_no_teacher_shares_network_and_seed_with_a_student(name):
    configs = GRIDS[name]()
    taught = {c.teacher_config() for c in configs if c.teacher}
    students = {(c.student, c.seed) for c in configs if c not in taught and c.fold is None}
    assert not students & {(c.student, c.seed) for c in taught}


def test_studies_beyond_the_findings_share_data_recipe_and_first_pair_with_theirs():
    for s in GRIDS.values():
        if s.kind != "findings":
            base = STUDIES[s.name.rpartition("-")[0]]
            for field in ("shared", "distilled", "bucket_edges", "worst", "demonstration"):
                assert getattr(s, field) == getattr(base, field)
            assert s.pairs == base.pairs[:1] and s.name != base.name and base.kind == "findings"
            assert s.config(s.pairs[0], "kd", 0) in base(1)  # runs in common are made once


# ---------------------------------------------------------------- parameters of a notebook


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_takes_the_studies_of_its_kind_alone(kind):
    fitting = [s for s in STUDIES.values() if s.kind == kind]
    for s in fitting:
        assert check_parameters({"study": s.name, "seeds": s.seeds, "KIND": kind}) is s
        with pytest.raises(
            KdlibError,
            match=f"seeds={s.seeds + 1}: must be a whole number from 1 to {s.seeds} for {s.name}",
        ):
            check_parameters({"study": s.name, "seeds": s.seeds + 1, "KIND": kind})
    for s in (s for s in STUDIES.values() if s.kind != kind):
        with pytest.raises(KdlibError, match=f"notebook parameter study={s.name!r}: ") as e:
            check_parameters({"study": s.name, "seeds": 1, "KIND": kind})
        assert str(e.value).endswith(f"Allowed: {', '.join(f.name for f in fitting)}.")


def test_an_unknown_study_is_named_with_the_nearest():
    with pytest.raises(KdlibError, match="study 'cifar20' is unknown: did you mean 'cifar10'"):
        study("cifar20")


# ---------------------------------------------------------------- a short run of everything


def small(dataset):
    """Images in the place of a data set, with its classes and groups: a few of each, most of the
    first half and least of the last.

    4x4 pixels are enough for a ResNet. The digits, the cheapest, are many enough for a teacher to
    be right about some."""
    groups = 100 if dataset in ("cifar100", "superclass") else 20 if dataset == "cifar20" else 10
    classes = 20 if dataset == "superclass" else groups
    side, channels, copies = (8, 1, 12) if dataset == "digits" else (4, 3, 1)
    generator = torch.Generator().manual_seed(8)
    look = torch.randint(0, 200, (classes, side, side, channels), generator=generator)

    def split(group):
        y = group * classes // groups
        x = look[y] + torch.randint(0, 56, (len(y), side, side, channels), generator=generator)
        return Split(x.to(torch.uint8), y, group)

    each = torch.arange(groups)
    train = split(torch.cat([each, each[: groups // 2], each[: groups // 4]]).repeat(copies))
    names = [
        tuple(f"{kind} {k}" for k in range(n))
        for kind, n in (("class", classes), ("group", groups))
    ]
    return Data(
        train,
        split(each.repeat(2)),
        split(each),
        split(each),
        *names,
        (0.5,) * channels,
        (0.25,) * channels,
        pad=0 if dataset == "digits" else 1,
    )


def short(cfg):
    """One epoch of a config's network and loss, taught by the smallest of its teacher's family;
    without weight decay, so that only a gradient can move a weight."""
    loss = {
        name: getattr(cfg, name) for name in METHODS[cfg.method].knobs if name != "teacher_seed"
    }
    if cfg.teacher:
        loss["teacher"] = (
            "resnet8-conv"
            if "-conv" in cfg.teacher
            else "resnet8"
            if "resnet" in cfg.teacher
            else "cnn"
        )
    size = 32 if cfg.dataset == "digits" else 64
    return Config(
        dataset=cfg.dataset,
        student=cfg.student,
        method=cfg.method,
        epochs=1,
        batch_size=size,
        lr=0.05,
        weight_decay=0.0,
        **loss,
    )


def name_of(cfg):
    knobs = {
        k: getattr(cfg, k)
        for k in METHODS[cfg.method].knobs
        if k not in ("teacher", "teacher_seed")
    }
    return " ".join(
        [
            cfg.dataset,
            cfg.student,
            cfg.method,
            *(f"{k}={v}" for k, v in knobs.items() if v != DEFAULTS[k]),
        ]
    )


def everything():
    """A short Config of each (student, method with its knobs) of all studies, and of those whose
    groups are not the classes."""
    found = {}
    for s in STUDIES.values():
        for cfg in s(1):
            knobs = tuple(
                getattr(cfg, k)
                for k in METHODS[cfg.method].knobs
                if k not in ("teacher", "teacher_seed")
            )
            found.setdefault(
                (cfg.student, cfg.method, knobs, cfg.dataset == "superclass"), short(cfg)
            )
    return list(found.values())


EVERYTHING = everything()


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """Small data in the place of all data sets, and a records folder that the runs share, as they
    share teachers."""
    folder = tmp_path_factory.mktemp("dry")
    made = {cfg.dataset: small(cfg.dataset) for cfg in EVERYTHING}
    with pytest.MonkeyPatch.context() as m:
        m.setenv("KDLIB_RECORDS", str(folder / "records"))
        m.setenv("KDLIB_CACHE", str(folder / "cache"))
        m.setattr(experiment, "load", lambda cfg, *_: (made[cfg.dataset], cfg.dataset))
        # after one epoch a teacher is near chance, which would stop the run
        m.setattr(
            experiment,
            "_checked_teacher",
            lambda cfg, data, *where: trained(cfg.teacher_config(), *where),
        )
        yield made


@pytest.mark.parametrize("cfg", EVERYTHING, ids=name_of)
def test_every_method_and_network_of_any_study_trains_from_data_to_record(dry, cfg):
    record, made = run(cfg), dry[cfg.dataset]
    model, start = trained(cfg), build(cfg.student, made.classes, cfg.seed)
    for (name, after), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert after.isfinite().all() and not torch.equal(after, before), f"{name} does not learn"
    assert all(torch.tensor(curve).isfinite().all() for curve in record.facts["curves"].values())
    for name, split in record.splits.items():
        assert (
            split.y.tolist() == getattr(made, name).y.tolist()
            and split.group.tolist() == getattr(made, name).group.tolist()
        )
        assert (split.log_p <= 0).all()
    assert record.facts.get("teacher_key") == (cfg.teacher_config().key() if cfg.teacher else None)
    assert len(record.facts["val_accuracy_by_half"]["1"]) == 2 and record.config == cfg


def test_runs_that_differ_in_any_knob_end_in_different_weights(dry):
    """Of the digits, whose teacher knows something; elsewhere margins may all be 0 after one
    epoch."""
    by_weights = {}
    for cfg in EVERYTHING:
        if (cfg.dataset, cfg.student) == ("digits", "cnn_small"):
            by_weights.setdefault(run(cfg).facts["weights_sha256"], []).append(name_of(cfg))
    same = [sorted(names) for names in by_weights.values() if len(names) > 1]
    assert same == [
        ["digits cnn_small one_hot", "digits cnn_small post_hoc"]
    ]  # which adjusts predictions alone
    assert len(by_weights) > 25
