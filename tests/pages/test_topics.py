"""The tables of the pages, each by hand from the records that were made for it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic import (
    COUNTS,
    GROUPS,
    PAIR,
    SELF,
    TINY,
    baseline_of,
    but,
    made,
    write_study,
)

from kdlib.config import KdlibError
from kdlib.evidence import findings, words
from kdlib.evidence.panel import panel
from kdlib.evidence.significance import change
from kdlib.pages import anchors, classes, gains, transfer, trust
from kdlib.study import records

ITSELF = replace(TINY, pairs=(SELF,))
POOL = replace(TINY, baselines=7)  # four seeds of each method, seven baselines
FEWER = replace(TINY, fewer={"ada_alpha": 2})
ALL = ("one_hot", "kd", "ada_alpha", "ada_margin", "teacher")


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))


# ---------------------------------------------------------------- tables


def test_the_counts_have_every_network():
    p = made(POOL, one_hot=lambda seed, split: 0.4 + 0.05 * seed, kd=0.6)
    frame = classes.by_class_and_seed(p)
    assert len(frame) == (7 + 3 * 4 + 4) * GROUPS  # baselines, methods, teachers
    rows = frame[(frame.method == "distillation") & (frame.seed == 1)].set_index("class")
    columns = ["training images", "bucket", "test images", "correct"]
    assert rows.loc["class 9", columns].to_list() == [2, "few", 40, 24]
    own = frame[frame.method == "one-hot"]
    assert sorted(set(own.seed)) == list(range(7)) and len(own) == 7 * GROUPS
    np.testing.assert_allclose(own.correct, 40 * (0.4 + 0.05 * own.seed))


def test_gain_by_bucket_table():
    p = made(seeds=2, kd=but(0.8, few=0.5))
    frame = gains.gain_by_bucket(p, ["kd", "ada_alpha"])
    rows = frame[frame.method == "distillation"].set_index("bucket")
    assert list(rows.index) == ["average", "many", "medium", "few"]
    np.testing.assert_allclose(rows.estimate.astype(float), [4, 10, 10, -20])
    assert (rows.seeds == 2).all() and all(len(s) == 2 for s in rows.per_seed)
    over_kd = gains.gain_by_bucket(p, ["ada_alpha"], "kd")
    np.testing.assert_allclose(over_kd.estimate.astype(float), [-4, -10, -10, 20])


# Networks that are right on all images of a group or on none: their test images add nothing, so
# that the intervals and p-values
# are those of two samples of networks.


def all_or_none(chance, stream):
    """function (seed, split) -> (G,) of 0 and 1."""
    return lambda seed, split: (np.random.default_rng([stream, seed]).random(GROUPS) < chance) * 1.0


SHARP = {
    "one_hot": all_or_none(0.5, 1),
    "kd": all_or_none(0.7, 6),
    "ada_alpha": all_or_none(0.6, 3),
}
PLACES = {"average": range(10), "many": range(4), "medium": range(4, 8), "few": range(8, 10)}


def sharp_accuracy(method, seeds, place):
    """Per cent of each network of SHARP in a place, as it was made."""
    return [100 * SHARP[method](seed, "test")[list(PLACES[place])].mean() for seed in range(seeds)]


def test_gains_over_the_pool_are_those_of_welch_in_scipy():
    """Every baseline counts once, however many seeds the method has."""
    p = made(POOL, **SHARP)
    frame = gains.gain_by_bucket(p, ["kd", "ada_alpha"]).set_index(["bucket", "method"])
    for place, (method, name) in itertools.product(
        PLACES, (("kd", "distillation"), ("ada_alpha", "AdaAlpha"))
    ):
        mine, pool = sharp_accuracy(method, 4, place), sharp_accuracy("one_hot", 7, place)
        wanted = stats.ttest_ind(mine, pool, equal_var=False)
        row = frame.loc[(place, name)]
        assert row.estimate == pytest.approx(np.mean(mine) - np.mean(pool))
        assert (row.low, row.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
        assert row.per_seed == pytest.approx(np.subtract(mine, np.mean(pool))) and row.seeds == 4


def told(cell):
    """estimate ± half-width as two numbers."""
    return [float(part) for part in cell.replace("−", "-").split(" ± ")]


def test_differences_to_the_pool_have_the_p_of_welch_in_scipy():
    p = made(POOL, **SHARP)
    frame = gains.differences(p).table.set_index("method")
    assert list(frame.columns) == [c for place in PLACES for c in (place, f"p, {place}")]
    for place in PLACES:
        mine, pool = sharp_accuracy("kd", 4, place), sharp_accuracy("one_hot", 7, place)
        wanted = stats.ttest_ind(mine, pool, equal_var=False)
        half = np.ptp(wanted.confidence_interval(0.95)) / 2
        estimate = np.mean(mine) - np.mean(pool)
        assert told(frame.loc["distillation", place]) == pytest.approx([estimate, half], abs=0.051)
        assert frame.loc["distillation", place][0] in "+−"
        p_value = float(frame.loc["distillation", f"p, {place}"].replace("<0.001", "0.0005"))
        assert p_value == pytest.approx(wanted.pvalue, abs=0.00051)


def test_one_seed_has_no_p():
    row = gains.differences(made(seeds=1)).table.iloc[0]
    assert row.tolist() == ["distillation", *["0.0", "–"] * 4]


def test_gain_by_group_table_names_harm_and_help_by_their_sign():
    def kd(seed, split):
        return but(0.7, g2=1.0, g8=0.1) + np.where(np.arange(GROUPS) < 8, 0, 0.05 * (seed % 2))

    noise = ("one_hot", "kd")
    frame = classes.gain_by_group(
        made(kd=kd, shuffled=noise, one_hot=lambda seed, split: 0.7 + 0.05 * (seed % 3 - 1))
    )
    found = frame.set_index("group").finding
    assert (found["class 2"], found["class 8"], found["class 5"]) == (
        "helped",
        "harmed",
        "no clear difference",
    )
    assert list(frame.n_train) == sorted(COUNTS, reverse=True) and (frame.n_test == 40).all()
    single = classes.gain_by_group(made(seeds=1, kd=but(0.2)))
    assert (single.finding == "no clear difference").all() and single.q.isna().all()


def test_gain_by_group_tests_all_networks_against_all_baselines():
    """Accuracies as they were made, in whole images; the test is that of an audit."""

    def rates(stream, shift):
        return lambda seed, split: (
            np.random.default_rng([stream, seed]).integers(6, 13, GROUPS) / 20 + shift
        )

    one_hot, kd = rates(1, 0.0), rates(2, np.where(np.arange(GROUPS) == 3, 0.35, 0.0))
    counts = tuple(np.random.default_rng(0).permutation(COUNTS).tolist())  # not in order of size
    p = made(POOL, one_hot=one_hot, kd=kd)
    p = replace(
        p,
        teachers=tuple(
            replace(t, facts=t.facts | {"train_counts": list(counts)}) for t in p.teachers
        ),
    )
    mine, pool = (
        100 * np.array([rate(seed, "") for seed in range(n)]) for rate, n in ((kd, 4), (one_hot, 7))
    )
    of_p = change(p.predicted("kd") == p.y, p.members, np.ones(400), p.predicted("one_hot") == p.y)
    p_values, q = of_p.p, stats.false_discovery_control(of_p.p)
    frame = classes.gain_by_group(p)
    assert list(frame.n_train) == sorted(counts, reverse=True)
    for row in frame.itertuples():
        g = int(row.group.split()[1])
        assert row.n_train == counts[g]
        assert (row.p, row.q) == pytest.approx((p_values[g], q[g]))
        assert row.gain == pytest.approx(mine[:, g].mean() - pool[:, g].mean())
        assert row.one_hot == pytest.approx(pool[:, g].mean())
        assert row.spread == pytest.approx(mine[:, g].std(ddof=1))
        assert (row.finding == "helped") == (g == 3) == (q[g] <= 0.05)


def test_cells_table_sums_to_everything():
    p = made(seeds=2, teacher=0.8, one_hot=0.7, kd=0.5, shuffled=("teacher", "one_hot", "kd"))
    frame = transfer.cells(p).table
    assert frame["count"].sum() == 2 * 400 and frame.estimate.sum() == pytest.approx(100)
    right = {m: p.predicted(m) == p.y for m in ("teacher", "one_hot", "kd")}
    for row in frame.to_dict("records"):
        hits = sum(
            all(
                (row[column] == "right") == bool(right[m][s, i])
                for column, m in (
                    ("teacher", "teacher"),
                    ("one-hot", "one_hot"),
                    ("distillation", "kd"),
                )
            )
            for s in range(2)
            for i in range(400)
        )
        assert row["count"] == hits
        assert row["estimate"] == pytest.approx(100 * hits / 800)  # groups are of equal size here


def outcomes_by_names(p, method):
    """{(teacher, one-hot, distilled right?): count}, each student beside the two networks that its
    Config names."""
    known = {r.config.key(): r for some in (*p.runs.values(), p.teachers) for r in some}
    counts = dict.fromkeys(itertools.product((True, False), repeat=3), 0)
    for run in p.runs[method]:
        beside = (run.config.teacher_config(), baseline_of(run.config), run.config)
        for outcome in zip(*(known[cfg.key()].test_plus().right for cfg in beside), strict=True):
            counts[tuple(map(bool, outcome))] += 1
    return counts


@pytest.mark.parametrize("method", ["kd", "ada_alpha"])
def test_cells_stand_a_student_beside_its_own_teacher_and_the_baseline_of_its_seed(method):
    """Also where there are more baselines than seeds, and fewer students."""
    study = replace(ITSELF, baselines=6, fewer={"ada_alpha": 2})
    p = made(study, shuffled=ALL, teacher=0.8, one_hot=0.6, kd=0.5, ada_alpha=0.7)
    assert len(p.runs["one_hot"]) == 10  # six, and four teachers
    frame, expected = transfer.cells(p, method).table, outcomes_by_names(p, method)
    for row in frame.itertuples():
        count = expected[tuple(word == "right" for word in row[2:5])]
        assert row.count == count
        assert row.estimate == pytest.approx(100 * count / sum(expected.values()))


def test_accuracies_table():
    val = but(0.7, g0=0.05, g1=0.1, g9=0.15)  # else than on test, which is what is reported
    p = made(
        seeds=2, one_hot=lambda seed, split: val if split == "val" else but(0.7, g9=0.1, g8=0.3)
    )
    frame = gains.accuracies(p).table.set_index("method")
    numbers = [
        "average",
        "many",
        "medium",
        "few",
        "worst 1",
        "worst 3",
        "worst 1 by val",
        "worst 3 by val",
    ]
    assert list(frame.columns) == ["networks", "labels of val", *numbers]
    means = {c: float(frame.loc["one-hot", c].split(" ± ")[0]) for c in numbers}
    assert means == {
        "average": 60,
        "many": 70,
        "medium": 70,
        "few": 20,
        "worst 1": 10,
        "worst 3": 36.7,
        "worst 1 by val": 70,
        "worst 3 by val": 50,
    }
    assert all(" ± " in v for v in frame[numbers].to_numpy().ravel())
    single = gains.accuracies(made(seeds=1)).table.set_index("method")
    assert not any("±" in v for v in single.loc["distillation", numbers])


def test_accuracies_are_over_every_network_and_say_how_many():
    p = made(POOL, **SHARP)
    frame = gains.accuracies(p).table.set_index("method")
    assert frame.networks["one-hot"] == 7 and frame.networks["distillation"] == 4
    for place in PLACES:
        pool = np.array(sharp_accuracy("one_hot", 7, place))
        half = stats.t.ppf(0.975, 6) * stats.sem(pool)
        assert told(frame.loc["one-hot", place]) == pytest.approx([pool.mean(), half], abs=0.051)


def test_calibration_table_by_hand():
    """Everyone says 0.7: right 70 % of the time it is calibrated; a class counts the same however
    many images it has."""
    frame = trust.calibration(
        made(seeds=2, kd=but(0.7, g8=1.0, g9=0.0)), ("one_hot", "kd")
    ).set_index(["bucket", "method"])
    assert frame.loc[("few", "one-hot")].estimate == pytest.approx(0, abs=0.05)
    assert frame.loc[("few", "distillation")].estimate == pytest.approx(20, abs=0.05)
    assert frame.loc[("many", "distillation")].estimate == pytest.approx(0, abs=0.05)


def test_classes_count_alike_however_many_images_they_have():
    """Class 9 loses half of its test images: right never, against always in class 8, it still makes
    half of the bucket."""

    def thinner(run):
        left = run.splits["left_out"]
        kept = {name: getattr(left, name)[left.group != 9] for name in records.ARRAYS}
        return replace(run, splits=run.splits | {"left_out": records.Predictions(**kept)})

    p = made(seeds=2, kd=but(0.7, g8=1.0, g9=0.0))
    p = replace(
        p,
        runs={m: tuple(map(thinner, runs)) for m, runs in p.runs.items()},
        teachers=tuple(map(thinner, p.teachers)),
    )
    assert np.bincount(p.group).tolist() == [40] * 9 + [20]
    np.testing.assert_allclose((p.accuracy("kd").observed * p.in_bucket(2)).sum(axis=1), 50)
    assert p.gain("kd", p.in_bucket(2)).estimate == pytest.approx(50 - 70)
    assert trust.calibration(p, ("kd",)).iloc[-1].estimate == pytest.approx(20, abs=0.05)
    shares = transfer.cells(p).table.set_index("outcome")
    wrong = shares.loc[["new harm", "not learned", "transferred", "all wrong"]]
    assert wrong.estimate.sum() == pytest.approx((8 * 30 + 0 + 100) / 10)
    assert wrong["count"].sum() == 2 * (8 * 12 + 20)


def test_published_numbers_stand_beside_ours_only_where_the_setting_is_theirs(monkeypatch):
    p = made(seeds=2)
    assert "published" not in gains.accuracies(p).table
    monkeypatch.setitem(anchors.WANG, ("tiny", PAIR), {"kd": ("74.61±0.15", "43.81±0.58")})
    frame = gains.accuracies(p).table.set_index("method")
    columns = list(frame.columns)
    assert columns[columns.index("average") + 1] == "published"
    assert frame.published["distillation"] == "74.61 ± 0.15"
    assert set(frame.drop("distillation").published) == {"–"}
    assert "published" not in gains.accuracies(replace(p, setting={"temperature": 4.0})).table


def test_log_loss_table_by_hand():
    """A right label has probability 0.7, a wrong one (1 - 0.7) / 2."""
    frame = trust.log_loss(made(seeds=2, kd=but(0.7, g8=1.0, g9=0.0)), ("one_hot", "kd")).set_index(
        ["bucket", "method"]
    )
    for (bucket, method), right in {
        ("few", "one-hot"): 0.7,
        ("few", "distillation"): 0.5,
        ("average", "distillation"): 0.66,
    }.items():
        by_hand = -right * np.log(0.7) - (1 - right) * np.log(0.15)
        assert frame.loc[(bucket, method)].estimate == pytest.approx(
            by_hand, abs=1e-3
        )  # stored as float16
    assert list(dict.fromkeys(frame.index.get_level_values(0))) == [
        "average",
        "many",
        "medium",
        "few",
    ]


def test_power_of_networks_that_are_all_or_nothing_is_that_of_two_samples_of_networks():
    frame = gains.power(made(POOL, **SHARP), ["kd"]).set_index("bucket")
    for place in PLACES:
        mine, pool = (np.array(sharp_accuracy(m, n, place)) for m, n in (("kd", 4), ("one_hot", 7)))
        row = frame.loc[place]
        assert row["spread of students"] == pytest.approx(mine.std(ddof=1))
        assert row["spread of baselines"] == pytest.approx(pool.std(ddof=1))
        networks = np.hypot(stats.sem(mine), stats.sem(pool))
        assert row["from networks"] == pytest.approx(networks) == row["standard error"]
        assert row["from test images"] == pytest.approx(0, abs=1e-5)
        assert (row.seeds, row.baselines) == (4, 7)


def test_power_of_equal_networks_is_that_of_their_test_images():
    """kd is right on 36 of 40 images of each group, one_hot on 20 of these: a share of 0.4 of the
    images makes the gain."""
    row = gains.power(made(POOL, kd=0.9, one_hot=0.5), ["kd"]).set_index("bucket").loc["average"]
    assert row["from networks"] == pytest.approx(0, abs=1e-9)
    images = 100 * np.sqrt(0.4 * 0.6 / 40 / GROUPS)
    assert row["from test images"] == pytest.approx(images, rel=0.1)  # 1,000 resamples
    assert row["standard error"] == row["from test images"]
    single = gains.power(made(seeds=1), ["kd"])
    unknown = ["standard error", "from networks", "from test images", "smallest detectable"]
    assert single[unknown].isna().all(axis=None)


def test_tables_of_every_class():
    p = made(
        seeds=2, kd=but(0.8, few=0.5), names=["=first", *(f"class {g}" for g in range(1, GROUPS))]
    )
    frame = classes.by_class(p).set_index("class")
    assert (
        list(frame["training images"]) == sorted(COUNTS, reverse=True)
        and (frame["test images"] == 40).all()
    )
    assert frame.loc["class 9", "gain of distillation"] == pytest.approx(-20) and frame.loc[
        "=first", "gain of distillation"
    ] == pytest.approx(10)
    np.testing.assert_allclose(frame["one-hot, %"], 70)
    runs = classes.by_class_and_seed(p)
    assert len(runs) == 5 * 2 * GROUPS
    assert set(runs[runs.method != "teacher"].seed) == {0, 1}
    assert set(runs[runs.method == "teacher"].seed) == {1000, 1001}
    means = runs[runs.method == "distillation"].groupby("class").correct.mean() / 40
    assert means["=first"] == pytest.approx(0.8) and means["class 9"] == pytest.approx(0.5)


# ---------------------------------------------------------------- errors of the teacher


def copied(run, teacher):
    """Per cent of a teacher's errors where a run gives the same wrong label, groups weighing alike:
    in loops."""
    mine, its = run.test_plus(), teacher.test_plus()
    both, wrong = np.zeros(GROUPS), np.zeros(GROUPS)
    for label, group, a, b in zip(its.y, its.group, mine.predicted, its.predicted, strict=True):
        wrong[group] += b != label
        both[group] += b != label and a == b
    n = np.bincount(its.group)
    return 100 * np.mean(both / n) / np.mean(wrong / n)


def by_name(frame):
    return frame.set_index("method").loc


def test_a_student_copies_its_own_teacher_and_a_baseline_the_teachers_of_all_seeds():
    p = made(FEWER, shuffled=ALL, teacher=0.6, one_hot=0.3, kd=0.4, ada_alpha=0.2, copies=("kd",))
    frame = by_name(transfer.copied_errors(p, ["one_hot", "kd", "ada_alpha"]))
    for method, name, seeds in (("kd", "distillation", 4), ("ada_alpha", "AdaAlpha", 2)):
        shares = [copied(p.runs[method][s], p.teachers[s]) for s in range(seeds)]
        assert frame[name].per_seed == pytest.approx(shares) and frame[name].seeds == seeds
    shares = [
        np.mean([copied(run, teacher) for teacher in p.teachers]) for run in p.runs["one_hot"]
    ]
    assert frame["one-hot"].per_seed == pytest.approx(shares)
    assert frame["one-hot"].estimate == pytest.approx(np.mean(shares))


def test_the_only_teacher_is_no_baseline_of_its_own_errors(recwarn):
    p = made(ITSELF, seeds=1, shuffled=ALL, teacher=0.5, one_hot=0.1)
    row = by_name(transfer.copied_errors(p, ["one_hot"]))["one-hot"]
    expected = copied(p.runs["one_hot"][0], p.teachers[0])
    assert row.estimate == pytest.approx(expected) and 0 < expected < 50
    assert not recwarn.list


def test_amplified_errors_of_every_method_however_many_networks_it_has():
    """Weakest by val are classes 8 and 9 for every teacher; accuracies on test by hand."""
    study = replace(ITSELF, fewer={"ada_alpha": 2})
    rates = {"one_hot": but(0.8, few=0.6), "kd": but(0.7, few=0.2), "ada_alpha": but(0.9, few=0.8)}
    p = made(study, teacher=but(0.8, few=0.5), **rates)
    frame = by_name(transfer.amplified_errors(p, ["kd"]))
    assert frame["distillation"].estimate == pytest.approx((50 - 20) - (80 - 70))
    frame = by_name(transfer.amplified_errors(p, ["one_hot", "kd", "ada_alpha"]))  # as page 02 asks
    assert (
        frame["AdaAlpha"].estimate == pytest.approx((50 - 80) - (80 - 90))
        and frame["AdaAlpha"].seeds == 2
    )
    assert frame["one-hot"].estimate == pytest.approx(
        (50 - 60) - (80 - 80)
    )  # beside the teacher of its seed


def test_the_answer_on_errors_says_both_what_is_transferred_and_what_is_amplified():
    """The two numbers of the verdicts; with one seed that there are none."""
    cards = {
        card["finding"]: card
        for card in findings.pair_verdicts(made(seeds=2, kd=but(0.7, few=0.5)))
    }
    said = transfer.answer(cards.values())
    for name, of in (("F3b", "wrong label"), ("F3c", "minus that in the rest")):
        estimate, ends = cards[name]["numbers"][0].replace("\xa0", " ").split(" (")
        assert f"{of} by {estimate} points (95 % interval {ends}" in said
    second = cards["F3b"]["second"]
    assert f"and by {words.told(second)}, compared with students of other teachers." in said
    assert said.count("95 % interval") == 3
    (one, *_) = {c["said"] for c in findings.pair_verdicts(made(seeds=1)) if c["finding"] == "F3b"}
    assert transfer.answer(findings.pair_verdicts(made(seeds=1))) == one


# ---------------------------------------------------------------- a method with fewer seeds


def test_of_a_method_with_fewer_seeds_there_is_what_is_on_record():
    write_study(FEWER)
    assert {m: len(r) for m, r in panel(FEWER, PAIR, 4).runs.items()} == {
        "one_hot": 4,
        "kd": 4,
        "ada_alpha": 2,
        "ada_margin": 4,
    }
    path = records.folder() / f"{FEWER.config(PAIR, 'ada_alpha', 1).key()}.json"
    path.unlink()
    assert [r.config.seed for r in panel(FEWER, PAIR, 4).runs["ada_alpha"]] == [0]
    (records.folder() / f"{FEWER.config(PAIR, 'ada_alpha', 0).key()}.json").unlink()
    p = panel(FEWER, PAIR, 4)  # nobody waits for it
    assert p.methods == ["kd", "ada_margin"] and list(p.runs) == ["one_hot", *p.methods]
    (records.folder() / f"{FEWER.config(PAIR, 'ada_margin', 3).key()}.json").unlink()
    with pytest.raises(KdlibError, match="there is no record of this run"):
        panel(FEWER, PAIR, 4)  # of the others all must be there


def test_a_method_with_fewer_seeds_is_compared_with_the_pool_and_the_same_seeds_of_another():
    p = made(replace(POOL, fewer={"ada_alpha": 3}), **SHARP)
    frame = gains.gain_by_bucket(p, ["ada_alpha"]).set_index("bucket")
    paired = gains.gain_by_bucket(p, ["ada_alpha"], "kd").set_index("bucket")
    for place in PLACES:
        mine, kd = sharp_accuracy("ada_alpha", 3, place), sharp_accuracy("kd", 3, place)
        wanted = stats.ttest_ind(mine, sharp_accuracy("one_hot", 7, place), equal_var=False)
        assert (frame.low[place], frame.high[place]) == pytest.approx(
            tuple(wanted.confidence_interval(0.95))
        )
        assert paired.per_seed[place] == pytest.approx(np.subtract(mine, kd))
    assert set(frame.seeds) == set(paired.seeds) == {3}
    assert gains.accuracies(p).table.set_index("method").networks["AdaAlpha"] == 3
    assert gains.power(p, ["ada_alpha"]).seeds.tolist() == [3] * 4
    pooled = np.mean([SHARP["one_hot"](seed, "") for seed in range(7)], axis=0)
    by_hand = 100 * (np.mean([SHARP["ada_alpha"](seed, "") for seed in range(3)], axis=0) - pooled)
    np.testing.assert_allclose(classes.by_class(p)["gain of AdaAlpha"], by_hand)
    assert (classes.by_class_and_seed(p).method == "AdaAlpha").sum() == 3 * GROUPS
