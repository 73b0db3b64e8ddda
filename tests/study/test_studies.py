"""The grids: what is in each study, which runs are shared, and one short run of every method and
network in any of them."""

import collections
import hashlib
import itertools
from dataclasses import replace

import pytest
import torch
from synthetic import baseline_of, weights_of

from kdlib import data
from kdlib.config import DEFAULTS, FOLDS, HIDDEN, MODELS, TABLES, Config, KdlibError
from kdlib.data import Data, Split
from kdlib.methods import METHODS, loss_fields
from kdlib.models import COLUMNS, build
from kdlib.study import done, experiment
from kdlib.study.experiment import run, trained
from kdlib.study.grids import JUDGED, KINDS, STUDIES, study
from kdlib.study.parameters import check_parameters
from kdlib.study.studies import Grid

GRIDS = {name: s for name, s in STUDIES.items() if isinstance(s, Grid)}
CROSSED = {name: s for name, s in GRIDS.items() if len(s.settings) > 1}
POOL = {  # images of the largest class to draw from, classes
    "digits": (100, 10),
    "cifar20": (400, 20),
    "cifar100": (500, 100),
    "cifar10": (5000, 10),
    "superclass": (500, 5),
    "superclass_small": (50, 5),
}


# ---------------------------------------------------------------- the grids


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_each_run_once_and_teachers_before_their_students(name):
    s, planned = STUDIES[name], STUDIES[name]()
    assert s.name == name and study(name) is s and s.kind in KINDS
    for configs in (planned, s(1)):
        at = {cfg.key(): place for place, cfg in enumerate(configs)}
        assert len(at) == len(set(configs)) == len(configs)
        for cfg in configs:
            assert all(at[d.key()] < at[cfg.key()] for d in cfg.dependencies())
    # fewer seeds are a part of more
    for seeds in range(1, s.seeds):
        assert set(s(seeds)) < set(s(seeds + 1))


@pytest.mark.parametrize("name", GRIDS)
def test_a_study_holds_every_method_of_every_setting_pair_and_seed_and_nothing_else(name):
    s, wanted = GRIDS[name], set()
    for setting, pair, method in itertools.product(s.settings, s.pairs, s.methods):
        for seed in s.seeds_of(method, 2):
            cfg = s.config(pair, method, seed, setting)
            assert (cfg.student, cfg.seed) == (pair[1], seed) and pair[0] in MODELS
            assert cfg.teacher in (None, setting.get("teacher", pair[0]))
            # which is in the study, so paired
            assert baseline_of(cfg) == s.config(pair, "one_hot", seed, setting)
            wanted |= {cfg, *cfg.dependencies()}
    assert set(s(2)) == wanted


@pytest.mark.parametrize("name", GRIDS)
def test_methods_of_a_setting_are_different_runs(name):
    s = GRIDS[name]
    for setting, pair in itertools.product(s.settings, s.pairs):
        assert len({s.config(pair, m, 0, setting) for m in s.methods}) == len(s.methods)


@pytest.mark.parametrize("name", CROSSED)
def test_a_setting_changes_the_runs_that_read_it_and_shares_the_others(name):
    s = CROSSED[name]
    base, *others = s.settings
    assert base == {}
    for setting in others:
        changed = []
        for pair, method in itertools.product(s.pairs, s.methods):
            cfg, plain = s.config(pair, method, 0, setting), s.config(pair, method, 0)
            ignored = loss_fields() - set(METHODS[cfg.method].knobs) | set(s.methods[method])
            read = {name: value for name, value in setting.items() if name not in ignored}
            assert cfg == replace(plain, **read)
            changed.append(cfg != plain)
        # else nothing is learned from it; of the nine crossed ones, one is the first draw
        assert any(changed) or set(setting) == {"draw_seed", "teacher_seed"}


def test_methods_of_fewer_seeds_come_last_and_further_baselines_with_the_seeds():
    s = STUDIES["cifar20-lt"]
    (student,) = {pair[1] for pair in s.pairs}
    plain = [c.seed for c in s() if c == s.config(s.pairs[0], "one_hot", c.seed)]
    assert student == "resnet8" and plain == [n for k in range(8) for n in (k, 8 + k, 1000 + k)]
    first = {r.config for r in s.runs if not r.extra}
    extras = [c for c in s() if c not in first]
    assert s()[-len(extras) :] == extras
    assert all(c.margin_source == "crossfit" or c.fold is not None or c.with_val for c in extras)
    assert {c.seed for c in extras if c.teacher} == {0, 1, 2, 3}


def test_a_seed_is_complete_without_the_extras(monkeypatch):
    s = STUDIES["cifar20-lt"]
    there = {r.config for r in s.runs if r.seed < 3 and not r.extra}
    monkeypatch.setattr(done, "exists", there.__contains__)
    assert done.complete_seeds(s.name) == 3
    # pages neither wait for extras nor train them
    assert set(done.needed(s, 3)) == there
    extra = next(r.config for r in s.runs if r.extra and r.seed == 0)
    there.add(extra)
    assert set(done.needed(s, 3)) == there
    there.remove(s.config(s.pairs[0], "kd", 1).teacher_config())
    assert done.complete_seeds(s.name) == 1
    there.clear()
    with pytest.raises(KdlibError, match=f"{s.name} has no complete seed .* run {s.name}`"):
        done.some_seeds(s.name)


def test_the_small_studies_of_cifar100_lt_share_baselines_and_teachers():
    itself, small = STUDIES["cifar100-lt-self"], STUDIES["cifar100-lt-small"]
    (own,), (other,) = itself.pairs, small.pairs
    teachers = [small.config(other, "kd", k).teacher_config() for k in range(3)]
    assert teachers == [STUDIES["anchors-lt"].rows[0].config(k) for k in range(3)]
    assert itself.config(own, "kd", 2).teacher_seed == 1002
    assert itself.pool(own) == small.pool(other)
    wanted = {c for c in itself() if c.method == "one_hot"}
    assert len(wanted) == 10 and wanted <= set(small.pool(other))  # six seeds and four teachers


def test_the_pool_is_every_seed_of_the_student_but_those_of_a_search():
    s, wide = STUDIES["cifar20-lt"], STUDIES["cifar20-lt-wide"]
    pool = set(s.pool(s.pairs[0]))
    assert pool == set(wide.pool(wide.pairs[0]))
    assert {(c.student, c.method) for c in pool} == {("resnet8", "one_hot")}
    assert not set(STUDIES["cifar20-lt-recipe"]()) & pool
    plain = [c for c in s() if (c.student, c.method) == ("resnet8", "one_hot")]
    wanted = {c for c in plain if c.fold is None and not c.with_val}
    assert wanted <= pool and len(wanted) == 24


def test_a_study_drops_the_loss_fields_that_a_method_does_not_read():
    s = STUDIES["cifar20-lt-rivals"]
    (pair,) = s.pairs
    fields = {**s.shared, "student": "resnet8"}
    taught = {**fields, "teacher": "resnet8", **s.distilled}
    changed = {"temperature": 4.0, "teacher": "resnet14", "teacher_seed": 7, "lr": 0.3}
    both = {**changed, "alpha": 0.5}
    assert s.config(pair, "one_hot", 0) == Config(**fields)
    assert s.config(pair, "one_hot", 3, both) == Config(**fields | {"seed": 3, "lr": 0.3})
    assert s.config(pair, "kd", 0, both) == Config(**taught | both | {"method": "kd"})
    decoupled = Config(**taught | changed | {"method": "decoupled_kd"})
    assert s.config(pair, "decoupled_kd", 0, both) == decoupled
    of_one = {"method": "ada_alpha", "margin_level": "all"}
    assert s.config(pair, "kd_mean_alpha", 0) == Config(**taught | of_one)
    hits = {"margin_level": "example", "margin_source": "train", "margin_kind": "hit"}
    assert s.config(pair, "ada_alpha_01", 0) == Config(**taught, **hits, method="ada_alpha")
    adjusted = Config(**fields, seed=1000, method="logit_adjusted")
    assert s.config(pair, "kd_adjusted_teacher", 0).teacher_config() == adjusted
    for method in ("label_smoothing", "logit_adjusted", "post_hoc", "group_dro"):
        assert s.config(pair, method, 1) == Config(**fields, method=method, seed=1)
    for method in ("balanced_kd", "long_tailed_kd", "robust_kd"):
        assert s.config(pair, method, 1) == Config(**taught, method=method, seed=1)


SIZES = {  # runs of one seed: methods, teachers, and the fold teachers of a crossfit, once each
    "digits": 4 + 1 + 3 + 1,
    "cifar20-short": 4 + 1 + 3 + 1,
    "superclass": 5 + 1,
    "superclass-small": 5 + 1,
    "adult": 2 + 2 * 2 + 3 * 3,  # teachers, of 40 baselines two of each student, other methods
    "cifar20-lt": 2 + 1 + 5 + 1 + FOLDS,
    "cifar20-lt-wide": 5 + 1,
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
    anew = ("", "epochs", "imbalance", "profile", "label_noise", "draw_seed")
    taught = len(s.methods) - 1
    size = (taught + 2) * sum(levels.pop(field, 0) for field in anew)
    size += levels.pop("temperature", 0) * taught + levels.pop("alpha", 0)
    size += levels.pop("teacher", 0) * (taught + 1)
    if crossed := levels.pop("draw_seed,teacher_seed", 0):
        size += crossed * (taught + 1) + 2  # three draws: two new ones for the baseline
    assert not levels
    return size


def test_the_runs_of_all_studies_are_those_that_were_registered():
    """In order. Who changes the grid on purpose says so in PROTOCOL.md, and here."""
    keys = " ".join(cfg.key() for s in STUDIES.values() for cfg in s())
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == "9dc4178c8a356c9b"


@pytest.mark.parametrize("name", GRIDS)
def test_sizes_are_those_counted_by_hand(name):
    s = GRIDS[name]
    assert len(s(1)) == (SIZES[name] if s.settings == ({},) else size_of_settings(s))


@pytest.mark.parametrize("name", [n for n, s in GRIDS.items() if s.shared["dataset"] not in TABLES])
def test_every_draw_of_a_study_has_an_image_of_each_class_and_of_each_fold(name):
    for cfg in GRIDS[name](1):
        largest, classes = POOL[cfg.dataset]
        smallest = data.long_tail_counts(largest, cfg.imbalance, classes, cfg.profile)[-1]
        assert smallest >= (1 if cfg.fold is None else FOLDS)


def test_no_seed_of_a_recipe_study_occurs_in_any_other_study():
    seeds = {True: set(), False: set()}
    for s in STUDIES.values():
        seeds[s.kind == "recipe"] |= {c.seed for c in s()}
    assert not seeds[True] & seeds[False] and min(seeds[True]) == 900


@pytest.mark.parametrize("name", GRIDS)
def test_no_teacher_shares_network_and_seed_with_a_student(name):
    configs = GRIDS[name]()
    taught = {c.teacher_config() for c in configs if c.teacher}
    students = {(c.student, c.seed) for c in configs if c not in taught and c.fold is None}
    assert not students & {(c.student, c.seed) for c in taught}


def test_studies_beyond_the_findings_share_data_recipe_and_first_pair_with_theirs():
    for s in (s for s in GRIDS.values() if s.kind not in JUDGED):
        base = STUDIES[s.name.rpartition("-")[0]]
        for field in ("shared", "distilled", "bucket_edges", "worst", "demonstration"):
            assert getattr(s, field) == getattr(base, field)
        assert s.pairs == base.pairs[:1] and s.name != base.name and base.kind == "findings"
        assert s.title.endswith(base.title)
        assert s.config(s.pairs[0], "kd", 0) in base(1)  # runs in common are made once


# ---------------------------------------------------------------- parameters of a notebook


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_takes_the_studies_of_its_kind_alone(kind):
    fitting = [s.name for s in STUDIES.values() if kind in s.kinds]
    for s in STUDIES.values():
        asked = {"study": s.name, "seeds": s.seeds, "KIND": kind}
        if s.name in fitting:
            assert check_parameters(asked) == (s, s.seeds)
            most = f"seeds={s.seeds + 1}: must be a whole number from 1 to {s.seeds} for {s.name}"
            with pytest.raises(KdlibError, match=most):
                check_parameters(asked | {"seeds": s.seeds + 1})
        else:
            with pytest.raises(KdlibError, match=f"notebook parameter study={s.name!r}: ") as e:
                check_parameters(asked)
            known = ", ".join(fitting)
            assert str(e.value).endswith((f"? Allowed: {known}.", f": allowed are {known}."))


def test_an_unknown_study_is_named_with_the_nearest():
    with pytest.raises(KdlibError, match="study 'cifar20' is unknown: did you mean 'cifar20-lt'"):
        study("cifar20")


# ---------------------------------------------------------------- a short run of everything


def small(dataset):
    """Images in the place of a data set, with its classes and groups: a few of each, most of the
    first half and least of the last.

    4x4 pixels are enough for a ResNet. The digits, the cheapest, are many enough for a teacher to
    be right about some."""
    if dataset == "adult":
        return rows_of_a_table()
    many = {"cifar100": 100, "superclass": 100, "superclass_small": 50, "cifar20": 20}
    groups = many.get(dataset, 10)
    classes = groups // 5 if dataset in HIDDEN else groups
    side, channels, copies = (8, 1, 12) if dataset == "digits" else (4, 3, 1)
    generator = torch.Generator().manual_seed(8)
    look = torch.randint(0, 200, (classes, side, side, channels), generator=generator)

    def split(group):
        y = group * classes // groups
        x = look[y] + torch.randint(0, 56, (len(y), side, side, channels), generator=generator)
        return Split(x.to(torch.uint8), y, group)

    each = torch.arange(groups)
    train = split(torch.cat([each, each[: groups // 2], each[: groups // 4]]).repeat(copies))
    held_out = split(each.repeat(2)), split(each), split(each)
    names = [[f"{kind} {k}" for k in range(n)] for kind, n in (("c", classes), ("g", groups))]
    looks = ((0.5,) * channels, (0.25,) * channels)
    return Data(train, *held_out, *map(tuple, names), *looks, pad=int(dataset != "digits"))


def rows_of_a_table():
    """Rows in the place of Adult: ten groups, two labels in each."""
    generator = torch.Generator().manual_seed(8)

    def split(copies):
        cell = torch.arange(20).repeat(copies)
        x = torch.randn(len(cell), COLUMNS, generator=generator)
        x[:, 0] += 3.0 * (cell % 2)
        return Split(x, cell % 2, cell // 2)

    names = [tuple(f"{kind} {k}" for k in range(n)) for kind, n in (("c", 2), ("g", 10))]
    return Data(split(12), split(2), split(2), split(0), *names)


def knobs_of(cfg):
    """{name: value} of what a run's loss reads, whoever the teacher is."""
    names = set(METHODS[cfg.method].knobs) - {"teacher", "teacher_seed"}
    return {name: getattr(cfg, name) for name in sorted(names)}


def short(cfg):
    """One epoch of a config's network and loss, taught by the smallest of its teacher's family;
    without weight decay, so that only a gradient can move a weight."""
    how = {"epochs": 1, "batch_size": 64, "lr": 0.05, "weight_decay": 0.0}
    if cfg.dataset == "digits":
        how |= {"batch_size": 32}
    if cfg.teacher:
        conv = "-conv" if "-conv" in cfg.teacher else ""
        how |= {"teacher": f"resnet8{conv}" if "resnet" in cfg.teacher else "cnn"}
        if cfg.dataset == "adult":
            how |= {"teacher": cfg.teacher}
    run = {"dataset": cfg.dataset, "student": cfg.student, "method": cfg.method}
    return Config(**run, **how, **knobs_of(cfg))


def name_of(cfg):
    knobs = [f"{name}={v}" for name, v in knobs_of(cfg).items() if v != DEFAULTS[name]]
    return " ".join([cfg.dataset, cfg.student, cfg.method, *knobs])


def everything():
    """A short Config of each (student, method with its knobs) of all studies, and of those whose
    groups are not the classes."""
    found = {}
    for cfg in itertools.chain.from_iterable(s(1) for s in STUDIES.values()):
        knobs = tuple(knobs_of(cfg).values())
        found.setdefault((cfg.student, cfg.method, knobs, cfg.dataset in HIDDEN), short(cfg))
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
        m.setattr(experiment, "load", lambda cfg, *_: (made[cfg.dataset], weights_of(cfg.dataset)))
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
        assert split.y.tolist() == getattr(made, name).y.tolist()
        assert split.group.tolist() == getattr(made, name).group.tolist()
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
    # which adjusts predictions alone
    assert same == [["digits cnn_small one_hot", "digits cnn_small post_hoc"]]
    assert len(by_weights) > 25
