"""The audit's numbers against definitions by hand, scikit-learn, fairlearn and simulation."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from scipy.stats import binom, binomtest, norm, spearmanr
from sklearn.metrics import accuracy_score, log_loss
from synthetic import made

import kdlib
from kdlib.asking import given
from kdlib.auditing import audit as auditing
from kdlib.auditing.halves import halves_of
from kdlib.config import KdlibError
from kdlib.evidence import counts, rules
from kdlib.evidence.panel import panel
from kdlib.evidence.resample import Groups, group_means
from kdlib.evidence.significance import called, change
from kdlib.evidence.stats import interval, welch, worst
from kdlib.reading.read import source
from kdlib.study.done import complete_seeds
from kdlib.study.grids import study

ROOT = Path(__file__).resolve().parents[2]


def world(n=2000, classes=6, shift=(2.0, 1.6, 1.4), seed=0):
    """(y, teacher, student, baseline): labels and logits; later classes are harder for all."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    out = []
    for by in shift:
        logits = rng.normal(size=(n, classes))
        logits[np.arange(n), y] += by - 0.15 * y
        out.append(logits)
    return y, *out


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def audited():
    return kdlib.audit(*world())


# ---------------------------------------------------------------- point estimates


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("overlapping", [False, True])
def test_groups_agree_with_fairlearn_and_scikit_learn(weighted, overlapping):
    y, *logits = world()
    rng = np.random.default_rng(1)
    w = rng.uniform(0.1, 3, len(y)) if weighted else None
    attributes = {
        "sex": rng.choice(["f", "m"], len(y)),
        "age": rng.choice(["old", "young", "middle"], len(y)),
    }
    if not overlapping:
        attributes.pop("age")
    found = kdlib.audit(y, *logits, groups=pd.DataFrame(attributes), weights=w).groups.set_index(
        "group"
    )
    for role, scores in zip(("teacher", "student", "baseline"), logits, strict=True):
        p, chosen = softmax(scores), scores.argmax(axis=1)
        for name, values in attributes.items():
            sample = {"sample_params": {"sample_weight": w}} if weighted else {}
            frame = MetricFrame(
                metrics=accuracy_score, y_true=y, y_pred=chosen, sensitive_features=values, **sample
            )
            for value, accuracy in frame.by_group.items():
                row = found.loc[f"{name}={value}" if overlapping else value]
                some = values == value
                assert abs(row[role] / 100 - accuracy) < 1e-12
                loss = log_loss(
                    y[some], p[some], labels=range(6), sample_weight=None if w is None else w[some]
                )
                assert abs(row[f"{role}_log_loss"] - loss) < 1e-12
                weights = np.ones(some.sum()) if w is None else w[some]
                over = np.average(p[some].max(axis=1) - (chosen == y)[some], weights=weights)
                assert abs(row[f"{role}_overconfidence"] / 100 - over) < 1e-12
                assert row.n == some.sum()
                if role == "teacher":
                    margin = np.average((6 * p[some, y[some]] - 1) / 5, weights=weights)
                    assert abs(row.teacher_margin - margin) < 1e-12
                    assert row.ada_alpha == max(0, row.teacher_margin)


def test_the_whole_agrees_with_scikit_learn(audited):
    y, *logits = world()
    for role, scores in zip(("teacher", "student", "baseline"), logits, strict=True):
        chosen = scores.argmax(axis=1)
        by_class = [accuracy_score(y[y == c], chosen[y == c]) for c in range(6)]
        assert (
            abs(audited.metrics[f"{role}_accuracy"].estimate / 100 - accuracy_score(y, chosen))
            < 1e-7
        )  # float32 sums
        assert abs(audited.metrics[f"{role}_average"].estimate / 100 - np.mean(by_class)) < 1e-7
        assert abs(audited.metrics[f"{role}_worst_k_same"].estimate / 100 - min(by_class)) < 1e-7
        assert abs(audited.metrics[f"{role}_log_loss"] - log_loss(y, softmax(scores))) < 1e-12
        p = softmax(scores)
        bins = np.minimum((p.max(axis=1) * 15).astype(int), 14)
        error = sum(abs((p.max(axis=1) - (chosen == y))[bins == b].sum()) for b in range(15)) / len(
            y
        )
        assert abs(audited.metrics[f"{role}_calibration_error"] / 100 - error) < 1e-9
    gain = audited.metrics["overall_gain"].estimate
    assert gain == pytest.approx(
        audited.metrics["student_accuracy"].estimate - audited.metrics["baseline_accuracy"].estimate
    )


def test_transfer_by_hand(audited):
    y, *logits = world()
    teacher, student, baseline = (scores.argmax(axis=1) for scores in logits)
    rows = audited.transfer.set_index("outcome")
    assert rows["count"].sum() == len(y) and rows["share"].sum() == pytest.approx(100)
    assert rows["count"]["transferred"] == ((teacher != y) & (baseline == y) & (student != y)).sum()
    assert rows["count"]["resisted"] == ((teacher != y) & (baseline == y) & (student == y)).sum()
    assert rows["count"]["new harm"] == ((teacher == y) & (baseline == y) & (student != y)).sum()
    assert rows["count"]["repaired"] == ((teacher == y) & (baseline != y) & (student == y)).sum()
    wrong = teacher != y

    def by_class(values):
        return np.mean([values[y == c].mean() for c in range(6)])

    copied, baselines = (
        100 * by_class(wrong & (x == teacher)) / by_class(wrong) for x in (student, baseline)
    )
    error, theirs = (by_class(x != y) for x in (student, baseline))
    assert audited.metrics["student_copies"].estimate == pytest.approx(copied)
    assert audited.metrics["baseline_copies"].estimate == pytest.approx(baselines)
    assert audited.metrics["copied_excess"].estimate == pytest.approx(
        copied - baselines * error / theirs
    )


def test_a_student_that_is_only_more_accurate_copies_nothing():
    """Students and baselines err in the same way, the students half as often."""
    rng, excess = np.random.default_rng(0), []
    for _ in range(20):
        y = np.repeat(np.arange(5), 200)
        wrong = (y + rng.integers(1, 5, (3, 1000))) % 5
        right = rng.random((3, 1000)) < np.array([[0.7], [0.85], [0.7]])
        found = kdlib.audit(y, *np.where(right, y, wrong), resamples=2).metrics
        assert found["student_copies"].estimate < found["baseline_copies"].estimate + 3
        excess.append(found["copied_excess"].estimate)
    assert abs(np.mean(excess)) < 3 * np.std(excess) / np.sqrt(20)


def test_a_copied_teacher_is_seen():
    y, teacher, _, baseline = world(seed=3)
    found = kdlib.audit(y, teacher, teacher.copy(), baseline)
    assert found.metrics["student_copies"].estimate == pytest.approx(100, abs=1e-9)
    assert set(found.transfer[found.transfer["count"] > 0].outcome) == {
        "all right",
        "repaired",
        "transferred",
        "all wrong",
    }


@pytest.mark.parametrize("students, baselines", [(1, 4), (5, 2)])
def test_no_student_is_left_out_of_the_outcomes_and_baselines_come_again(students, baselines):
    rng, y = np.random.default_rng(0), np.arange(300) % 3
    rates = np.linspace(0.3, 0.9, students)
    many = [np.where(rng.random(300) < rate, y, (y + 1) % 3) for rate in rates]
    pool = [np.where(rng.random(300) < 0.6, y, (y + 1) % 3) for _ in range(baselines)]
    found = kdlib.audit(y, pool[0], many, pool, resamples=50)
    rows = found.transfer[found.transfer.student == "right"]
    assert rows["share"].sum() == pytest.approx(found.metrics["student_average"].estimate)
    assert found.transfer["count"].sum() == 300 * students


def test_one_student_among_several_baselines_is_covered_over_training_runs_in_what_is_picked():
    """Every network has luck of its own in every group; nobody is better than another."""
    below = 0
    for k in range(120):
        rng = np.random.default_rng(k)
        group = np.repeat(np.arange(20), 60)
        rates = 0.6 + 0.1 * rng.standard_normal((6, 20))
        right = rng.random((6, 1200)) < rates[:, group]
        teacher, student, *pool = np.where(right, group % 10, (group + 1) % 10)
        names = np.array([f"g{g}" for g in group])
        found = kdlib.audit(group % 10, teacher, student, pool, groups=names, resamples=100)
        worst_bucket = found.metrics["worst_bucket_gain"]
        below += worst_bucket.high < 0 or worst_bucket.low > 0
    assert below / 120 <= 0.11  # 5 % and three standard errors; examples alone gave 30 %
    assert found.covers == "new test examples, in gains new seeds too"


def test_one_example_alone_and_examples_of_no_weight_leave_every_interval():
    y = np.r_[np.arange(90) % 3, 3]
    rng = np.random.default_rng(0)
    models = [np.where(rng.random(91) < 0.6, y, (y + 1) % 4) for _ in range(3)]
    found = kdlib.audit(y, *models, resamples=200)
    assert np.isfinite(found.transfer[["low", "high"]]).all(axis=None)
    for name in ("student_copies", "average_gain", "student_worst_k_same"):
        value = found.metrics[name]
        assert value.low <= value.estimate <= value.high and value.high - value.low > 5
    w = np.ones(91)
    w[:90:2] = 0
    kept = kdlib.audit(y[w > 0], *(x[w > 0] for x in models), classes=[*"abcd"], resamples=200)
    weighted = kdlib.audit(y, *models, classes=[*"abcd"], weights=w, resamples=200)
    mine, theirs = (a.metrics["average_gain"] for a in (weighted, kept))
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))
    one = kdlib.audit(
        y[:1], y[:1], y[:1], groups=np.ones((1, 2)), classes=[*"abcd"], kind="classes"
    )
    assert np.isnan(one.metrics["average_gain"].low)


def test_of_baselines_that_hardly_err_no_excess_is_extrapolated():
    y = np.arange(400) % 4
    teacher = np.where(np.arange(400) % 10 == 0, (y + 1) % 4, y)
    baseline = np.where(np.arange(400) == 0, teacher, y)
    found = kdlib.audit(y, teacher, (y + 2) % 4, baseline, resamples=50).metrics
    assert found["student_copies"].estimate == 0 and "copied_excess" not in found


@pytest.mark.parametrize("kinds", ["logits", "probabilities", "log-probabilities", "classes"])
def test_the_same_models_in_any_form(kinds):
    y, *logits = world()
    forms = {
        "logits": lambda x: x,
        "probabilities": softmax,
        "log-probabilities": lambda x: np.log(softmax(x)),
        "classes": lambda x: x.argmax(axis=1),
    }
    found, usual = (
        kdlib.audit(y, *map(forms[kinds], logits), classes=[*"abcdef"]),
        kdlib.audit(y, *logits, classes=[*"abcdef"]),
    )
    same = slice("group", "finding")
    pd.testing.assert_frame_equal(found.groups.loc[:, same], usual.groups.loc[:, same])
    if kinds == "classes":
        assert not any("calibration" in name or "log_loss" in name for name in found.metrics)
        accuracy = found.groups.teacher.to_numpy() / 100
        np.testing.assert_allclose(found.groups.teacher_margin, (6 * accuracy - 1) / 5)
        assert any("predicted classes" in sentence for sentence in found.limits)
    else:
        np.testing.assert_allclose(
            found.groups.teacher_margin, usual.groups.teacher_margin, atol=1e-12
        )


def test_without_a_baseline_gains_are_over_the_teacher():
    y, teacher, student, _ = world()
    found = kdlib.audit(y, teacher, student)
    assert found.reference == "teacher" and not any("baseline" in name for name in found.metrics)
    right = [(x.argmax(axis=1) == y) for x in (student, teacher)]
    np.testing.assert_allclose(
        found.groups.gain,
        [100 * (right[0][y == c].mean() - right[1][y == c].mean()) for c in range(6)],
    )
    assert list(found.transfer.outcome) == [
        "both right",
        "student lost it",
        "student surpassed",
        "both wrong",
    ]
    assert any("There is no baseline" in sentence for sentence in found.cautions())


def test_one_group_and_two_groups():
    y, *logits = world()
    for groups in (np.zeros(len(y), int), np.arange(len(y)) % 2):
        found = kdlib.audit(y, *logits, groups=groups)
        assert (
            len(found.groups) == 1 + groups.max()
            and "worst_bucket_gain" not in found.metrics
            and not len(found.buckets)
        )


# ---------------------------------------------------------------- weights and overlap


def test_whole_weights_are_repetitions_in_every_estimate():
    y, *logits = world(400)
    w = np.random.default_rng(4).integers(1, 4, len(y))
    weighted = kdlib.audit(y, *logits, weights=w)
    again = np.repeat(np.arange(len(y)), w)
    repeated = kdlib.audit(y[again], *(x[again] for x in logits))
    for name in ("teacher", "student", "baseline", "gain", "teacher_margin", "student_log_loss"):
        np.testing.assert_allclose(weighted.groups[name], repeated.groups[name], atol=1e-9)
    for name in ("overall_gain", "average_gain", "student_copies", "student_worst_k_same"):
        assert weighted.metrics[name].estimate == pytest.approx(
            repeated.metrics[name].estimate, abs=1e-4
        )
    assert (
        weighted.groups.high - weighted.groups.low > repeated.groups.high - repeated.groups.low
    ).all()  # no new examples


def test_weights_that_are_all_alike_change_nothing():
    y, *logits = world(400)
    plain, weighted = kdlib.audit(y, *logits), kdlib.audit(y, *logits, weights=np.full(len(y), 7.0))
    pd.testing.assert_frame_equal(plain.groups, weighted.groups)


def test_a_matrix_of_disjoint_groups_is_a_column_of_names():
    y, *logits = world(600)
    groups = np.arange(600) % 4
    named = kdlib.audit(y, *logits, groups=groups)
    matrix = kdlib.audit(y, *logits, groups=np.eye(4, dtype=bool)[groups])
    assert matrix.disjoint
    pd.testing.assert_frame_equal(
        named.groups.drop(columns="group"), matrix.groups.drop(columns="group")
    )
    assert named.metrics == matrix.metrics


def test_overlapping_groups_count_an_example_in_each():
    y, *logits = world(600)
    matrix = np.column_stack(
        [np.ones(600, bool), np.arange(600) < 100, np.arange(600) < 150, np.arange(600) % 2 == 0]
    )
    found = kdlib.audit(y, *logits, groups=matrix)
    assert not found.disjoint and list(found.groups.n) == [600, 100, 150, 300]
    right = logits[1].argmax(axis=1) == y
    np.testing.assert_allclose(
        found.groups.student, [100 * right[some].mean() for some in matrix.T]
    )
    assert found.metrics["student_average"].estimate == pytest.approx(
        found.groups.student.mean(), abs=1e-4
    )


# ---------------------------------------------------------------- intervals and tests


def test_the_interval_of_one_seed_is_agresti_and_min():
    rng = np.random.default_rng(5)
    student, baseline = rng.random(40) < 0.6, rng.random(40) < 0.5
    groups = Groups(("all",), np.arange(40), np.zeros(40, int))
    d = student.astype(float) - baseline
    found = change(student[None], groups, np.ones(40), baseline[None])
    b, c, n = (
        ((d > 0).sum() + 0.5),
        ((d < 0).sum() + 0.5),
        42,
    )  # half an example added to each of four cells
    difference, spread = (b - c) / n, np.sqrt((b + c) - (b - c) ** 2 / n) / n
    z = norm.ppf(0.975)
    np.testing.assert_allclose([found.estimate[0], found.se[0]], [d.mean(), spread], atol=1e-12)
    ends = difference - z * spread, difference + z * spread
    np.testing.assert_allclose([found.low[0], found.high[0]], ends, atol=1e-6)


def test_of_one_example_the_margin_has_no_interval_and_the_gain_a_wide_one():
    y, *logits = world(60)
    row = kdlib.audit(y, *logits, groups=np.r_[0, np.ones(59, int)]).groups.iloc[0]
    assert (
        row.n == 1
        and np.isnan(row.margin_low)
        and np.isnan(row.margin_high)
        and row.high - row.low > 100
    )
    assert row.low <= row.gain <= row.high


def test_p_is_mcnemars_mid_p():
    rng = np.random.default_rng(6)
    for _ in range(40):
        up, down, ties = rng.integers(0, 12, 3)
        d = np.r_[np.ones(up), -np.ones(down), np.zeros(ties + 1)]
        groups = Groups(("all",), np.arange(len(d)), np.zeros(len(d), int))
        got = change(d[None], groups, np.ones(len(d))).p[0]
        n, k = up + down, min(up, down)
        exact = binomtest(int(k), int(n)).pvalue if n else 1.0
        mid = 1.0 if up == down else exact - binom.pmf(k, n, 0.5)
        assert got == pytest.approx(mid, abs=1e-12) and got <= exact + 1e-12


def coverage(run, repeats):
    """Share of runs (truth, low, high), each (M,), whose interval holds the truth."""
    truth, low, high = (np.array(x) for x in zip(*[run(k) for k in range(repeats)], strict=True))
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize(("n", "weighted"), [(15, False), (60, False), (400, False), (200, True)])
def test_intervals_of_groups_cover_new_examples(n, weighted):
    """One seed: 300 groups of n examples, three rates of disagreement."""
    groups = Groups(tuple(map(str, range(300))), np.arange(300 * n), np.repeat(np.arange(300), n))

    def run(k):
        rng = np.random.default_rng([n, k])
        up, down = np.repeat([0.25, 0.1, 0.05], 100 * n), np.repeat([0.1, 0.1, 0.08], 100 * n)
        u = rng.random(300 * n)
        d = (u < up).astype(float) - (u > 1 - down)
        w = rng.uniform(0.2, 2, 300 * n) if weighted else np.ones(300 * n)
        found = change(d[None], groups, w)
        return np.repeat([0.15, 0.0, -0.03], 100), found.low, found.high

    assert (
        0.93 <= coverage(run, 12) <= (0.97 if n > 15 else 0.985)
    )  # small and rarely different: wide, never narrow


@pytest.mark.parametrize(("seeds", "baselines"), [(3, 3), (6, 2), (1, 5), (6, 12)])
def test_intervals_of_groups_cover_new_networks_and_examples(seeds, baselines):
    """A group's gain differs by seed, an example's by how easy it is for all seeds."""
    size, n = 40, 100
    groups = Groups(
        tuple(map(str, range(size))), np.arange(size * n), np.repeat(np.arange(size), n)
    )

    def run(k):
        rng = np.random.default_rng([seeds, k])
        shift = 0.1 + 0.05 * rng.standard_normal((seeds, size))
        ease = rng.normal(size=size * n)
        student = ease + rng.normal(size=(seeds, size * n)) + 2.5 * shift[:, groups.group] > 0
        other = 0.05 * rng.standard_normal((baselines, size))[:, groups.group]
        baseline = ease + rng.normal(size=(baselines, size * n)) + 2.5 * other > 0
        found = change(student, groups, np.ones(size * n), baseline)
        return np.full(size, TRUE_SHIFT), found.low, found.high

    truth = np.random.default_rng(0)
    total = truth.normal(size=400_000) * np.sqrt(2)
    TRUE_SHIFT = np.mean(total + 2.5 * (0.1 + 0.05 * truth.standard_normal(400_000)) > 0) - 0.5
    assert 0.93 <= coverage(run, 60) <= 0.975


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_a_group_is_that_of_its_resamples(paired):
    """One group, so that there is nothing to shrink towards: all three variances matter."""
    rng = np.random.default_rng(8)
    ease, by_seed = rng.normal(size=400), np.array([0.5, 0.3, 0.1, 0.0, 0.2])
    student = ease + rng.normal(size=(5, 400)) + by_seed[:, None] > 0
    baseline = 0.2 * ease + rng.normal(size=(5, 400)) - by_seed[::-1, None] > 0
    groups, w = Groups.everybody(400), np.ones(400)
    mine, other = (
        group_means(x, groups, resamples=4000).map(lambda m: m[..., 0]) for x in (student, baseline)
    )
    if paired:
        found = change(student.astype(float) - baseline, groups, w, pseudo=0)
        theirs = interval(*(mine - other))
    else:
        found, theirs = change(student, groups, w, baseline, pseudo=0), welch(mine, other)
    assert found.estimate[0] == pytest.approx(theirs.estimate)
    assert found.se[0] == pytest.approx(theirs.se, rel=0.02)
    # the variances over networks are pooled, those of welch are not
    assert found.df[0] == pytest.approx(theirs.df, rel=0.1 if paired else 0.3)
    ends = theirs.low, theirs.high
    assert (found.low[0], found.high[0]) == pytest.approx(ends, abs=0.15 * theirs.se)


@pytest.mark.parametrize("overlapping", [False, True])
def test_resampled_intervals_cover_new_examples(overlapping):
    """The average gain over groups, one seed."""
    n, size = 600, 6

    def run(k):
        rng = np.random.default_rng([int(overlapping), k])
        y = rng.integers(0, 3, n)
        group = np.arange(n) % size
        matrix = np.eye(size, dtype=bool)[group]
        if overlapping:
            matrix |= (np.arange(n) % 4 == 0)[:, None] & (np.arange(size) == 0)
        gain = np.linspace(-0.05, 0.25, size)
        student = np.where(rng.random(n) < 0.6 + gain[group], y, (y + 1) % 3)
        baseline = np.where(rng.random(n) < 0.6, y, (y + 1) % 3)
        found = kdlib.audit(
            y, baseline, student, baseline, groups=matrix, resamples=300, seed=k
        ).metrics["average_gain"]
        truth = 100 * np.mean([gain[group][some].mean() for some in matrix.T])
        return [truth], [found.low], [found.high]

    assert 0.91 <= coverage(run, 200) <= 0.985  # 95 % ± 2 standard errors of 200 runs


@pytest.mark.parametrize("seeds", [1, 3])
def test_null_models_harm_nobody(seeds):
    """Of 200 audits of models that are equally good everywhere, few may call any group harmed or
    helped."""
    false, y = 0, np.repeat(np.arange(20), 60)
    for k in range(200):
        rng = np.random.default_rng(k)
        student, baseline = (
            [np.where(rng.random(1200) < 0.7, y, (y + 1) % 20) for _ in range(seeds)]
            for _ in range(2)
        )
        found = kdlib.audit(y, baseline, student, baseline, resamples=2).metrics
        false += found["groups_harmed"] + found["groups_helped"] > 0
    assert false / 200 <= 0.08  # 5 % and two standard errors


def test_p_is_below_a_twentieth_where_the_interval_excludes_zero():
    """With several seeds both come from one t; with one they may differ next to the border."""
    y, *_ = world(300)
    for k in range(20):
        found = kdlib.audit(
            y,
            *([world(300, seed=10 * k + s)[1 + role] for s in range(3)] for role in range(3)),
            resamples=2,
        ).groups
        np.testing.assert_array_equal(found.p < 0.05, (found.low > 0) | (found.high < 0))


def test_a_harmed_group_is_found_and_only_that():
    rng = np.random.default_rng(7)
    y = np.repeat(np.arange(10), 200)
    baseline = np.where(rng.random(2000) < 0.8, y, (y + 1) % 10)
    student = np.where(rng.random(2000) < np.where(y == 3, 0.4, 0.8), y, (y + 1) % 10)
    found = kdlib.audit(y, baseline, student, baseline)
    assert list(found.groups[found.groups.finding == "harmed"].group) == ["3"]
    assert found.metrics["groups_harmed"] == 1 and found.metrics["worst_k_gain"].high < -20


def same(mine, theirs):
    """Whether two Intervals are the same to the last digit."""
    numbers = [[i.estimate, i.low, i.high, i.se, i.df, *i.per_seed] for i in (mine, theirs)]
    np.testing.assert_allclose(*numbers, rtol=1e-9)


@pytest.mark.parametrize("name, seeds", [("cifar100-lt-self", 2), ("cifar20-short", 6)])
def test_an_audit_of_a_pair_on_record_finds_the_numbers_of_its_study(name, seeds):
    """One engine: what the pages of a study and its audit both ask has one answer."""
    found = given.audit_study(name, seeds=seeds)
    p = panel(study(name), study(name).pairs[0], seeds)
    for place, weights in p.places().items():
        if place == "average":
            same(found.metrics["average_gain"], p.gain("kd", weights))
            continue
        mine, theirs = found.buckets.set_index("bucket").loc[place], p.gain("kd", weights)
        assert [mine.gain, mine.low, mine.high] == pytest.approx(
            [theirs.estimate, theirs.low, theirs.high], rel=1e-9
        )
    same(found.metrics["copied_excess"], rules.errors_transferred(p).result)
    same(found.metrics["student_copies"], interval(*p.copied_by_itself("kd")))
    same(found.metrics["baseline_copies"], interval(*p.copied_by_pool()[1]))
    for role, method in (("student", "kd"), ("baseline", "one_hot"), ("teacher", "teacher")):
        lowest = p.accuracy(method).map(worst, k=found.worst)
        for name, means in (("worst_k_same", lowest), ("average", p.accuracy(method).mean())):
            same(found.metrics[f"{role}_{name}"], interval(*means).within(0, 100))
    gain = change(
        p.predicted("kd") == p.y, p.members, np.ones(len(p.y)), p.predicted("one_hot") == p.y
    )
    np.testing.assert_allclose(found.groups.gain, p.group_gain("kd").mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.groups.q, gain.q, rtol=1e-9)
    assert list(found.groups.finding) == list(called(gain.estimate, gain.q))
    rights = [predicted == p.y for predicted in p.paired("teacher", "one_hot", "kd")]
    for row in found.transfer.itertuples():
        count, share = counts.outcomes(rights, p.averages)[row.outcome]
        assert row.count == count and row.share == pytest.approx(share.observed.mean(), rel=1e-9)
    few = found.calibration.set_index(["place", "role"]).loc["few", "student"]
    weights = np.isin(p.group, np.flatnonzero(p.bucket == 2)) / np.bincount(p.group)[p.group]
    errors = [
        counts.calibration_error(np.exp(x.log_p[:, 1].astype(float)), x.right, weights)
        for x in p.predictions("kd")
    ]
    assert few.calibration_error == pytest.approx(100 * np.mean(errors), rel=1e-6)
    assert (found.seeds, len(p.runs["one_hot"])) == (seeds, found.metrics["average_gain"].baselines)


def test_an_audit_of_a_study_takes_its_buckets_and_refuses_what_it_has_not(
    records_folder, monkeypatch
):
    from synthetic import TINY

    from kdlib.study import grids as studies

    p = made(shuffled=("kd", "one_hot"), kd=lambda seed, split: np.linspace(0.9, 0.4, 10))
    monkeypatch.setitem(studies.STUDIES, "tiny", TINY)
    found = given.audit_study("tiny")
    np.testing.assert_allclose(found.groups.gain, p.group_gain("kd").mean(axis=0), atol=1e-9)
    assert list(found.groups.bucket) == [p.bucket_names[b] for b in p.bucket]
    assert found.seeds == 4 and complete_seeds("tiny") == 4
    for what, words in (
        (dict(pair="a/b"), "no pair 'a/b'"),
        (dict(method="kdd"), "did you mean 'kd'"),
    ):
        with pytest.raises(KdlibError, match=words):
            given.audit_study("tiny", **what)


# ---------------------------------------------------------------- what is chosen


def test_honest_worst_k_is_unbiased_where_all_groups_are_alike():
    """Forty equal groups: the worst on its own examples looks bad, the honest one does not."""
    same, honest, by_bucket = [], [], []
    for k in range(120):
        rng = np.random.default_rng(k)
        y = np.repeat(np.arange(40), 50)
        chosen = [np.where(rng.random(2000) < 0.7, y, (y + 1) % 40) for _ in range(3)]
        found = kdlib.audit(y, *chosen, resamples=2).metrics
        same.append(found["student_worst_k_same"].estimate)
        honest.append(found["student_worst_k"].estimate)
        by_bucket.append(found["worst_k_gain"].estimate)
    assert np.mean(same) < 60 and abs(np.mean(honest) - 70) < 1.5 and abs(np.mean(by_bucket)) < 2


def equal_models(rng, y, classes, right=0.7):
    """Teacher, student and baseline that are equally good everywhere, as predicted classes."""
    wrong = (y + rng.integers(1, classes, (3, len(y)))) % classes
    return np.where(rng.random((3, len(y))) < right, y, wrong)


def test_the_worst_bucket_is_chosen_on_one_half_and_scored_on_the_other():
    """Of equal models its gain is about 0 on average, and seldom clearly below."""
    group, gains, below = np.repeat(np.arange(20), 30), [], 0
    for k in range(100):
        models = equal_models(np.random.default_rng(k), group % 10, 10)
        names = np.array([f"g{g}" for g in group])
        found = kdlib.audit(group % 10, *models, groups=names, resamples=100)
        gains.append(found.metrics["worst_bucket_gain"].estimate)
        below += found.metrics["worst_bucket_gain"].high < 0
    assert abs(np.mean(gains)) < 3 * np.std(gains) / 10 and below <= 8


@pytest.mark.parametrize(
    ("n", "groups", "spread"), [(300, 100, 0), (200, 0, 0), (300, 0, 0), (600, 20, 1), (600, 20, 2)]
)
def test_small_groups_and_weights_do_not_make_chance_look_clear(n, groups, spread):
    """Two students of one distribution differ clearly in 5 % of audits, on average over groups.

    300 examples in 100 classes; hundreds of groups of two and of three (groups 0: n/100 examples
    each); unequal weights. Before the bootstrap drew one example less and single ones borrowed, 27,
    18 and 13 % of the first three did."""
    clear, runs = 0, 200
    for k in range(runs):
        rng = np.random.default_rng([n, groups, k])
        group = rng.integers(groups, size=n) if groups else np.repeat(np.arange(100), n // 100)
        models = equal_models(rng, group % 10, 10)
        weights = np.exp(spread * rng.normal(size=n)) if spread else None
        names = np.array([f"g{g}" for g in group])
        found = kdlib.audit(group % 10, *models, groups=names, weights=weights, resamples=200)
        clear += not found.metrics["average_gain"].low <= 0 <= found.metrics["average_gain"].high
    assert 0.01 < clear / runs < 0.105  # 5 % to 7 %, and three standard errors


def test_a_constant_answer_has_an_interval_and_no_interval_leaves_its_range():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 300, p=[0.6, 0.2, 0.1, 0.1])
    constant, nearly = np.zeros(300, int), np.where(rng.random(300) < 0.99, y, 0)
    found = kdlib.audit(y, nearly, constant, nearly, resamples=200).metrics
    share = 100 * (y == 0).mean()
    half = 1.96 * np.sqrt(share * (100 - share) / 300)
    assert found["student_accuracy"].high - share == pytest.approx(half, rel=0.15)
    for name, value in found.items():
        most = 1 if name == "margin_gain_correlation" else 100
        if hasattr(value, "low") and np.isfinite(value.low):
            assert -most <= value.low <= value.high <= most, name
    assert found["teacher_accuracy"].high <= 100 and found["teacher_average"].high <= 100


def test_margin_and_gain_are_taken_from_different_halves():
    """Examples that are easy for teacher and student alike, but not for the baseline: groups do not
    differ."""
    naive, crossed, strong = [], [], []
    for k in range(30):
        rng = np.random.default_rng(k)
        y = np.repeat(np.arange(40), 20)
        easy = rng.random(800) < 0.6
        teacher = student = np.where(easy, y, (y + 1) % 40)
        baseline = np.where(rng.random(800) < 0.6, y, (y + 2) % 40)
        found = kdlib.audit(y, teacher, student, baseline, resamples=2)
        naive.append(spearmanr(found.groups.teacher_margin, found.groups.gain)[0])
        crossed.append(found.metrics["margin_gain_correlation"].estimate)
        strong.append(found.buckets.gain.iloc[0] - found.buckets.gain.iloc[-1])
    assert np.mean(naive) > 0.5 and abs(np.mean(crossed)) < 0.08
    assert (
        abs(np.mean(strong)) < 3
    )  # points between the teacher's strongest and weakest third; uncrossed it is about 20


def test_halves_are_even_in_every_group_and_cross_where_groups_do():
    members = Groups(("a", "b"), np.r_[0:60, 60:100], np.r_[np.zeros(60, int), np.ones(40, int)])
    half = halves_of(members, 100, 0)
    assert half[:60].sum() == 30 and half[60:].sum() == 20
    both = Groups(("a", "b"), np.r_[0:60, 40:100], np.r_[np.zeros(60, int), np.ones(60, int)])
    half = halves_of(both, 100, 0)
    assert abs(half[:60].sum() - 30) <= 1 and abs(half[40:].sum() - 30) <= 1
    assert (halves_of(both, 100, 1) != half).any()


def test_buckets_by_training_examples_and_by_margin():
    y, *logits = world()
    found = kdlib.audit(y, *logits, train_counts=[500, 120, 100, 30, 20, 5])
    assert list(found.groups.bucket) == [
        "many",
        "many",
        "medium",
        "medium",
        "medium",
        "few",
    ]  # above 100; below 20
    many = found.groups.gain[:2].mean()
    assert found.buckets.set_index("bucket").gain["many"] == pytest.approx(many, abs=1e-4)
    assert found.metrics["worst_bucket_gain"].estimate >= found.buckets.gain.min()
    by_margin = kdlib.audit(y, *logits)
    assert list(by_margin.groups.sort_values("teacher_margin").bucket) == [
        *["teacher weak"] * 2,
        *["teacher middling"] * 2,
        *["teacher strong"] * 2,
    ]
    named = kdlib.audit(
        y,
        *logits,
        classes=[*"abcdef"],
        train_counts=pd.DataFrame({"group": [*"fedcba"], "count": [5, 20, 30, 100, 120, 500]}),
    )
    assert list(named.groups.bucket) == list(found.groups.bucket)


# ---------------------------------------------------------------- seeds


def test_teachers_are_paired_with_students_in_order_and_baselines_are_pooled():
    y, *_ = world()
    runs = [world(shift=shift, seed=0)[1:] for shift in ((2.0, 1.6, 1.4), (1.9, 1.5, 1.3))]
    teachers, students, baselines = (list(models) for models in zip(*runs, strict=True))

    def average(scores):
        right = scores.argmax(axis=1) == y
        return 100 * np.mean([right[y == c].mean() for c in range(6)])

    found = kdlib.audit(y, teachers, students, [*baselines, teachers[0]])
    pool = np.mean([average(x) for x in (*baselines, teachers[0])])
    gain = found.metrics["average_gain"]
    assert found.seeds == 2 and gain.per_seed == pytest.approx(
        [average(s) - pool for s in students]
    )
    assert gain.baselines == 3 and found.covers == "new seeds and new test examples"
    paired = kdlib.audit(y, teachers, students).metrics["average_gain"]
    assert paired.per_seed == pytest.approx(
        [average(s) - average(t) for t, s in zip(teachers, students, strict=True)]
    )
    ranked = found.metrics["margin_gain_correlation"]  # each seed's too is a correlation
    assert np.arctanh(ranked.per_seed).mean() == pytest.approx(np.arctanh(ranked.estimate))
    one = kdlib.audit(y, teachers[0], students, baselines[0])
    assert any("One teacher serves all 2 students" in sentence for sentence in one.limits)
    assert any("spread over training runs is assumed" in sentence for sentence in one.limits)
    alone = kdlib.audit(y, teachers[0], students[0], baselines)
    assert any("One student: in gains, its spread" in sentence for sentence in alone.limits)
    with pytest.raises(KdlibError, match="teacher: 3 of them, but the number of students is 2"):
        kdlib.audit(y, [*teachers, baselines[0]], students)


# ---------------------------------------------------------------- without torch, and again the same


def test_the_audit_runs_without_torch(tmp_path):
    words = ["audit", "--out", str(tmp_path / "a.html")]
    for name, array in zip(("labels", "teacher", "student", "baseline"), world(200), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        words += [f"--{name}", str(tmp_path / f"{name}.npy")]
    script = (
        "import sys\nclass NoTorch:\n def find_spec(self, name, path=None, target=None):\n"
        "  if name.split('.')[0] in ('torch', 'torchvision'): raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, NoTorch())\nfrom kdlib.__main__ import "
        "main\nsys.exit(main(sys.argv[1:]))"
    )
    how = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", script, *words], **how)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["examples"] == 200


def test_the_same_inputs_give_the_same_numbers(audited):
    again = kdlib.audit(*world())
    assert again.metrics == audited.metrics
    pd.testing.assert_frame_equal(again.groups, audited.groups)


def test_the_package_names_only_what_it_has():
    assert kdlib.audit is auditing.audit
    with pytest.raises(AttributeError, match="audits"):
        kdlib.audits  # noqa: B018
    assert source({"a": [1]}, "x").columns["a"][0] == 1


@pytest.mark.parametrize("name", ["cifar100-lt-self", "cifar20-short"])
def test_one_run_of_each_tells_apart_networks_that_differ_in_their_seed(name):
    """What docs/audit.md says of pairs of one-hot networks, and of three against three."""
    p = panel(study(name), study(name).pairs[0], 4)
    right, w = p.predicted("one_hot") == p.y, np.ones(len(p.y))
    n, rng = len(right), np.random.default_rng(0)

    def harmed(mine, other):
        found = change(right[mine], p.members, w, right[other])
        return (called(found.estimate, found.q) == "harmed").any()

    alone = np.mean([harmed([i], [j]) for i, j in itertools.permutations(range(n), 2)])
    threes = [rng.permutation(n)[:6] for _ in range(60)]
    assert alone > 0.8  # the more images, the more
    assert np.mean([harmed(some[:3], some[3:]) for some in threes]) <= 0.1
