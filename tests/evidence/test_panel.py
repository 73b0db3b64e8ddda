"""What a Panel is made of, what it refuses, what it remembers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from synthetic import (
    COUNTS,
    FEW,
    GROUPS,
    PAIR,
    SELF,
    TINY,
    but,
    made,
    record,
    write_study,
)

from kdlib.config import KdlibError
from kdlib.evidence import counts
from kdlib.evidence import panel as panels
from kdlib.evidence.counts import (
    buckets,
    tenths,
)
from kdlib.evidence.panel import panel
from kdlib.evidence.resample import Groups, group_means
from kdlib.study import records

ITSELF = replace(TINY, pairs=(SELF,))
POOL = replace(TINY, baselines=7)  # four seeds of each method, seven baselines
FEWER = replace(TINY, fewer={"ada_alpha": 2})
ALL = ("one_hot", "kd", "ada_alpha", "ada_margin", "teacher")


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))


# ---------------------------------------------------------------- panel


def test_test_plus_is_test_then_left_out():
    first = made(seeds=1, kd=lambda seed, split: {"val": 0.1, "test": 0.4, "left_out": 0.8}[split])
    run = first.runs["kd"][0]
    both = run.test_plus()
    for name in records.ARRAYS:
        expected = np.concatenate([getattr(run.splits[s], name) for s in ("test", "left_out")])
        np.testing.assert_array_equal(getattr(both, name), expected)
    np.testing.assert_allclose(first.accuracy("kd").observed, 60)  # of both, never of val
    on_test = panel(TINY, PAIR, 1, split="test")
    np.testing.assert_allclose(on_test.accuracy("kd").observed, 40)
    assert len(on_test.y) == 200 and len(first.y) == 400


def test_panel_reads_each_role_from_its_own_records():
    rates = {"teacher": 0.95, "one_hot": 0.3, "kd": 0.5, "ada_alpha": 0.6, "ada_margin": 0.8}
    p = made(seeds=2, margin=lambda seed: np.full(GROUPS, 0.1 * (seed + 1)), **rates)
    for role, rate in rates.items():
        np.testing.assert_allclose(p.accuracy(role).observed, 100 * rate)
        np.testing.assert_allclose(p.val_accuracy(role), 100 * rate)
    np.testing.assert_allclose(p.group_gain("kd"), 20)
    assert p.gain("kd", p.average).estimate == pytest.approx(20)
    assert p.gain("ada_alpha", p.average, "kd").estimate == pytest.approx(10)
    np.testing.assert_allclose(p.margins, [[0.1] * GROUPS, [0.2] * GROUPS])
    assert p.name == "cnn → cnn_small" and p.predicted("kd").shape == (2, 400)


def test_bucket_means_weigh_groups_alike():
    p = made(seeds=1, kd=but(0.7, g8=0.9, g9=0.0))
    (accuracy,) = p.accuracy("kd").observed
    assert accuracy @ p.in_bucket(2)[0] == pytest.approx(45)
    assert accuracy @ p.average[0] == pytest.approx((8 * 70 + 90) / 10)
    assert list(p.places()) == ["average", "many", "medium", "few"]
    np.testing.assert_array_equal(p.bucket == 2, FEW)
    np.testing.assert_array_equal(p.train_counts, COUNTS)


def rewritten(cfg, **facts):
    """Replace facts of a record on disk."""
    old = records.read(cfg)
    records.write(replace(old, facts=old.facts | facts))


@pytest.mark.parametrize("method", ["one_hot", "kd", "ada_margin"])
def test_panel_refuses_other_data(method):
    write_study(seeds=2)
    cfg = TINY.config(PAIR, method, 1)
    rewritten(cfg, data_sha256="e" * 64)
    with pytest.raises(KdlibError, match="are of different data") as caught:
        panel(TINY, PAIR, 2)
    assert cfg.key() in str(caught.value)
    if method != "one_hot":
        panel(TINY, PAIR, 1)  # the first seed has nothing to do with it


def test_a_baseline_beyond_the_seeds_is_checked_like_every_other():
    write_study(seeds=2)
    cfg = TINY.config(PAIR, "one_hot", 1)
    rewritten(cfg, data_sha256="e" * 64)
    with pytest.raises(KdlibError, match="are of different data") as caught:
        panel(TINY, PAIR, 1)  # it is in the pool of the first seed too
    assert cfg.key() in str(caught.value)


def test_panel_refuses_another_teacher_by_name():
    write_study(seeds=2)
    kd = TINY.config(PAIR, "kd", 1)
    rewritten(kd, teacher_sha256="e" * 64)
    with pytest.raises(KdlibError, match="learned from other weights") as caught:
        panel(TINY, PAIR, 2)
    assert kd.key() in str(caught.value) and kd.teacher_config().key() in str(caught.value)


def test_panel_refuses_other_labels():
    write_study(seeds=1)
    old = records.read(TINY.config(PAIR, "kd", 0))
    test = old.splits["test"]
    swapped = replace(test, y=test.y[::-1], group=test.group[::-1])
    records.write(replace(old, splits=old.splits | {"test": swapped}))
    with pytest.raises(KdlibError, match="have different test labels"):
        panel(TINY, PAIR, 1)


def test_panel_says_which_record_is_missing_and_what_makes_it():
    write_study(seeds=1)
    with pytest.raises(
        KdlibError, match=r"_s1_\w+\.json: there is no record of this run; `python -m kdlib run"
    ):
        panel(TINY, PAIR, 2)


@pytest.mark.parametrize("seeds", [0, -1, 1001])
def test_panel_refuses_seeds_out_of_range(seeds):
    with pytest.raises(
        KdlibError, match=f"seeds={seeds}: must be between 1 and 1000; the study plans 4"
    ):
        panel(TINY, PAIR, seeds)


# ---------------------------------------------------------------- balanced studies, settings

BALANCED = replace(TINY, bucket_edges=())


def erratic(seed):
    """Margins of a seed's teacher: group 4 is the lowest of all but for seed 2, group `seed` the
    highest for its own seed alone."""
    margin = np.linspace(0.5, 0.6, GROUPS)
    margin[4] = 0.95 if seed == 2 else 0.1
    margin[seed] = 0.8 if seed != 2 else margin[seed]
    return margin


def test_tenths_of_a_seed_are_by_the_teachers_of_the_others():
    p = made(BALANCED, seeds=3, margin=erratic)
    margins = [erratic(seed) for seed in range(3)]
    for seed in range(3):
        others = [sum(margins[s][g] for s in range(3) if s != seed) / 2 for g in range(GROUPS)]
        assert np.flatnonzero(p.buckets_by_seed[seed] == 2).tolist() == [
            min(range(GROUPS), key=lambda g, m=others: m[g])
        ]
        assert np.flatnonzero(p.buckets_by_seed[seed] == 0).tolist() == [
            max(range(GROUPS), key=lambda g, m=others: m[g])
        ]
    of_all = np.mean(margins, axis=0)
    assert (
        np.argmin(of_all) == 4 == np.flatnonzero(p.bucket == 2)[0]
        and p.bucket_names == counts.TENTHS
    )
    own = np.array([tenths(m) for m in margins])
    assert (p.buckets_by_seed != own).any(axis=1).all()  # a seed's own teacher would say otherwise


def test_buckets_of_one_seed_and_of_a_long_tail_are_the_same_for_all_seeds():
    alone = made(BALANCED, seeds=1, margin=erratic)
    np.testing.assert_array_equal(alone.buckets_by_seed, [tenths(erratic(0))])
    tail = made(seeds=3, margin=erratic)
    np.testing.assert_array_equal(tail.buckets_by_seed, [buckets(COUNTS, (30, 7))] * 3)
    assert tail.bucket_names == counts.BUCKETS


def test_the_gain_of_a_bucket_follows_each_seeds_own_buckets():
    """Each network minus the mean baseline, in the groups that are of the bucket for its own
    seed."""

    def rates(shift):
        return lambda seed, split: np.roll(np.linspace(0.3, 0.75, GROUPS), shift + 3 * seed)

    p = made(BALANCED, seeds=3, margin=erratic, kd=rates(0), one_hot=rates(1))
    accuracy = {
        m: [
            [100 * np.mean(right[p.group == g]) for g in range(GROUPS)]
            for right in p.predicted(m) == p.y
        ]
        for m in ("kd", "one_hot")
    }
    for index in range(3):
        gains = []
        for s in range(3):
            members = [g for g in range(GROUPS) if p.buckets_by_seed[s][g] == index]
            usual = [np.mean([run[g] for run in accuracy["one_hot"]]) for g in members]
            gains.append(np.mean([accuracy["kd"][s][g] for g in members]) - np.mean(usual))
        assert p.gain("kd", p.in_bucket(index)).estimate == pytest.approx(np.mean(gains))


def write_setting(setting, seeds, **rates):
    """Records of TINY under a setting, accuracies by method; the teacher's are 0.8."""
    margin = np.linspace(0.9, 0.1, GROUPS)
    for seed, method in itertools.product(range(seeds), TINY.methods):
        cfg = TINY.config(PAIR, method, seed, setting)
        records.write(record(cfg, method, seed, rates.get(method, 0.5), margin=margin))
        if cfg.teacher:
            records.write(record(cfg.teacher_config(), "teacher", seed, 0.8, margin=margin))


def test_a_panel_of_a_setting_reads_the_runs_of_that_setting_and_shares_those_that_do_not_read_it():
    base = made(seeds=2, kd=0.6)
    hot, tail = {"temperature": 8.0}, {"imbalance": 10.0}
    write_setting(hot, 2, kd=0.9, one_hot=0.7)
    write_setting(tail, 2, kd=0.2, one_hot=0.3)
    for setting, kd, one_hot in (({}, 60, 70), (hot, 90, 70), (tail, 20, 30)):
        p = panel(TINY, PAIR, 2, setting=setting)
        np.testing.assert_allclose(p.accuracy("kd").observed, kd)
        np.testing.assert_allclose(p.group_gain("kd"), kd - one_hot)
        assert p.setting == setting
        assert all(getattr(r.config, k) == v for r in p.runs["kd"] for k, v in setting.items())
    assert [r.config for r in panel(TINY, PAIR, 2, setting=hot).runs["one_hot"]] == [
        r.config for r in base.runs["one_hot"]
    ]
    with pytest.raises(KdlibError, match="there is no record of this run"):
        panel(TINY, PAIR, 2, setting={"temperature": 3.0})


@pytest.mark.parametrize(
    "setting, name",
    [
        ({}, "cnn → cnn_small"),
        ({"temperature": 4.0}, "cnn → cnn_small, temperature = 4"),
        ({"alpha": 0.25}, "cnn → cnn_small, alpha = 0.25"),
        ({"teacher": "resnet14"}, "resnet14 → cnn_small"),
        ({"profile": "step"}, "cnn → cnn_small, profile = step"),
        (
            {"draw_seed": 1, "teacher_seed": 3000},
            "cnn → cnn_small, draw_seed = 1, teacher_seed = 3000",
        ),
    ],
)
def test_a_panel_is_named_by_its_pair_and_what_its_setting_changes(setting, name):
    assert panels.Panel(TINY, PAIR, 1, {}, (), np.empty((0, GROUPS)), "test", setting).name == name


# ---------------------------------------------------------------- memory


def test_what_is_computed_of_a_record_is_computed_once_and_shared_by_posing():
    p = made(seeds=2)
    asked = []

    def seed_of(some):
        asked.append([(r.config.method, r.config.seed) for r in some])
        return [10 * r.config.seed for r in some]

    assert p.remembered("ten", p.runs["kd"][1:], seed_of) == [10]
    assert p.remembered("ten", p.runs["kd"], seed_of) == [0, 10]
    assert p.posing(kd=p.runs["one_hot"]).remembered("ten", p.runs["one_hot"], seed_of) == [0, 10]
    assert p.remembered("ten", (*p.runs["one_hot"], p.runs["kd"][0]), seed_of) == [0, 10, 0]
    assert asked == [[("kd", 1)], [("kd", 0)], [("one_hot", 0), ("one_hot", 1)]]
    assert p.remembered("twenty", p.runs["kd"], lambda some: [20] * len(some)) == [20, 20]
    assert (
        replace(p, split="test").remembered("ten", p.runs["kd"], lambda some: ["test"] * 2)
        == ["test"] * 2
    )
    fewer = panel(TINY, PAIR, 1)  # another panel of the same records
    assert fewer.remembered("ten", fewer.runs["kd"], seed_of) == [0]
    assert panel(TINY, PAIR, 2) is p  # it is in memory too
    write_study(TINY, 2)  # all records are new ones
    assert panel(TINY, PAIR, 2).runs["kd"][0].memory == {}


def test_a_record_is_read_again_only_where_its_files_have_changed(records_folder):
    made(seeds=1)
    cfg = TINY.config(PAIR, "kd", 0)
    first = records.read(cfg)
    assert records.read(cfg) is first
    records.write(replace(first, facts=first.facts | {"seconds": 7}))
    second = records.read(cfg)
    assert second.facts["seconds"] == 7 and second.memory == {}
    npz = records_folder / f"{cfg.key()}.npz"
    npz.write_bytes(npz.read_bytes()[:-1])
    with pytest.raises(records.RecordError, match="truncated or changed"):
        records.read(cfg)
    npz.unlink()
    with pytest.raises(records.RecordError, match="missing beside its JSON file"):
        records.read(cfg)


def test_accuracy_is_that_of_the_records_whoever_poses_as_whom():
    p = made(seeds=3, shuffled=("one_hot", "kd"), kd=lambda seed, split: 0.5 + 0.1 * seed)
    p.accuracy("one_hot"), p.accuracy("kd")
    one_hot, kd = p.runs["one_hot"], p.runs["kd"]
    fake = p.posing(kd=(one_hot[2], kd[0]), one_hot=(one_hot[1], one_hot[0], kd[1]))
    for method, some in (("kd", (one_hot[2], kd[0])), ("one_hot", (one_hot[1], one_hot[0], kd[1]))):
        right = np.array([r.test_plus().predicted == r.test_plus().y for r in some])
        wanted = group_means(right, Groups.of(p.group, range(GROUPS)))
        np.testing.assert_allclose(fake.accuracy(method).observed, 100 * wanted.observed)
        np.testing.assert_allclose(fake.accuracy(method).resampled, 100 * wanted.resampled)
    np.testing.assert_allclose(
        p.accuracy("kd").observed, [[50] * GROUPS, [60] * GROUPS, [70] * GROUPS]
    )
    assert fake.val_accuracy("kd")[1].mean() == pytest.approx(50)


def test_a_contrast_weighs_the_accuracy_of_each_network_wherever_it_stands():
    p = made(seeds=3, shuffled=("one_hot", "kd"), kd=lambda seed, split: 0.5 + 0.1 * seed)
    rng = np.random.default_rng(0)
    by_seed, alike = rng.normal(size=(3, GROUPS)), rng.normal(size=GROUPS)
    turned = p.posing(kd=p.runs["kd"][::-1])
    for view in (p, turned, p):  # what is kept of a network is asked for in another place
        observed, resampled = view.accuracy("kd")
        for weights, rows in ((by_seed, by_seed), (alike, [alike] * 3), (by_seed[:2], by_seed[:2])):
            found = view.contrast("kd", weights)
            for k, row in enumerate(rows):
                assert found.observed[k] == pytest.approx(sum(observed[k] * row))
                by_hand = [sum(values * row) for values in resampled[:20, k]]
                np.testing.assert_allclose(found.resampled[:20, k], by_hand)
            assert len(found.observed) == len(rows)
