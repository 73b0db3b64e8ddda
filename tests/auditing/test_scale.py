"""Groups as pairs, many groups at once, and what several networks choose: against dense matrices,
definitions by hand and simulation."""

import itertools
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import spearmanr

import kdlib
from kdlib.auditing import progress
from kdlib.auditing.compared import Compared
from kdlib.auditing.halves import crossed_correlation, lowest, lowest_gain
from kdlib.auditing.numbers import PARTS, _gains, _of_halves
from kdlib.config import KdlibError
from kdlib.evidence import redraws
from kdlib.evidence.resample import Groups
from kdlib.reading.groups import groups_of
from kdlib.reading.read import source
from kdlib.reading.scores import Outputs


def world(n=300, groups=6):
    """(y, teacher, student, matrix (n, groups) of bool): predicted classes, overlapping groups."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=n)
    teacher, student = (np.where(rng.random(n) < 0.7, y, (y + 1) % 4) for _ in range(2))
    return y, teacher, student, rng.random((n, groups)) < 0.3


# ---------------------------------------------------------------- groups as pairs


def as_table(matrix):
    """The pairs of a matrix in a random order."""
    pairs = np.argwhere(matrix)[np.random.default_rng(1).permutation(matrix.sum())]
    names = [f"group {g}" for g in pairs[:, 1]]
    return pd.DataFrame({"example": pairs[:, 0], "group": names})


@pytest.mark.parametrize("form", [as_table, sparse.csr_array, sparse.coo_matrix])
def test_groups_as_pairs_are_the_matrix_of_0_and_1(form):
    y, teacher, student, matrix = world()
    dense = kdlib.audit(y, teacher, student, groups=matrix, resamples=50)
    pairs = kdlib.audit(y, teacher, student, groups=form(matrix), resamples=50)
    assert pairs.metrics == dense.metrics
    pd.testing.assert_frame_equal(pairs.groups, dense.groups)


def test_pairs_name_examples_by_the_ids_of_the_labels():
    y, teacher, student, matrix = world()
    table = as_table(matrix)
    ids = np.array([f"image {k}" for k in range(len(y))])
    table = pd.DataFrame({"id": ids[table.example], "group": table.group})
    labels = pd.DataFrame({"id": ids, "label": y})
    named = kdlib.audit(labels, teacher, student, groups=table, resamples=50)
    assert named.metrics == kdlib.audit(y, teacher, student, groups=matrix, resamples=50).metrics
    row = {"example": ["image 3", "image 300"], "group": ["a", "b"]}
    with pytest.raises(KdlibError, match="row 1 is 'image 300', not an id of the labels"):
        kdlib.audit(labels, teacher, student, groups=pd.DataFrame(row))


def test_a_table_with_an_id_once_is_a_row_for_each_example():
    y, teacher, student, _ = world()
    ids = [f"image {k}" for k in range(len(y))]
    table = pd.DataFrame({"id": ids, "group": np.where(y % 2, "odd", "even")})
    labels = pd.DataFrame({"id": ids, "label": y})
    assert list(kdlib.audit(labels, teacher, student, groups=table).groups.n) == [
        (y % 2 == 0).sum(),
        (y % 2 == 1).sum(),
    ]


def test_groups_as_pairs_are_in_the_order_of_numbers_or_of_the_alphabet():
    y = np.zeros(4, dtype=int)
    for group, names in (([10, 9, 9, 100], "9 10 100"), (["b", "a", "c", "a"], "a b c")):
        pairs = pd.DataFrame({"example": [0, 1, 2, 3], "group": group})
        assert groups_of(source(pairs, "groups"), y, ("x",)).names == tuple(names.split())


def pairs(example, group):
    return pd.DataFrame({"example": example, "group": group})


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (pairs([0, 300], ["a", "b"]), "example in row 1 is 300, not the number of a row"),
        (pairs([0, -1], ["a", "b"]), "example in row 1 is -1, not the number of a row"),
        (pairs(["x", 0], ["a", "b"]), "example in row 0 is 'x', not the number of a row"),
        (pairs([0, 1.5], ["a", "b"]), "example in row 1 is 1.5, not a whole number"),
        (pairs([0, 0], ["a", "a"]), "row 1 puts an example into group 'a' a second time"),
        (pairs([0, 1], ["a", None]), "group in row 1 is "),
        (pairs([0, 1], ["a", " "]), "group in row 1 is ' ', not a name"),
        (pairs([], []), "holds no pair"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_in_a_sentence(groups, said):
    with pytest.raises(KdlibError, match=said):
        kdlib.audit(*world()[:3], groups=groups)


def test_a_matrix_in_a_file_is_not_held_in_memory(tmp_path):
    matrix = np.lib.format.open_memmap(tmp_path / "m.npy", "w+", np.uint8, (40_000, 1000))
    rows = np.arange(40_000)
    matrix[rows, rows % 1000] = 1
    matrix[rows, (rows + 7) % 1000] = 1
    matrix.flush()
    found = source(tmp_path / "m.npy", "groups")
    tracemalloc.start()
    members = groups_of(found, rows * 0, ("x",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6 < matrix.nbytes * 1.6 and not members.disjoint
    assert np.array_equal(members.sums(np.ones(40_000)), np.full(1000, 80.0))
    assert np.array_equal(members.examples[0], np.sort(np.r_[rows[::1000], rows[993::1000]]))


def test_means_of_many_resamples_networks_and_groups_are_not_held_at_once(monkeypatch):
    """Halves of 3 networks, 2,000 overlapping groups, 300 resamples: all would be 115 MB."""
    n, size = 6000, 2000
    rows = np.arange(n)
    groups = np.concatenate([rows % size, (rows * 7 + 3) % size])
    members = Groups(tuple(map(str, range(size))), np.tile(rows, 2), groups)
    order = np.argsort(groups, kind="stable")
    members = Groups(members.names, members.example[order], members.group[order])
    rng = np.random.default_rng(0)
    found = {role: [Outputs(rng.integers(2, size=n))] for role in ("teacher", "student")}
    redraws._all_draws.cache_clear()
    tracemalloc.start()
    of = Compared(rows % 2, found, 2, members, np.ones(n), 300, 0)
    with np.errstate(all="ignore"):
        of.of_halves(lambda means: {"mean": means["student"].mean(axis=(-1, -2))})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# ---------------------------------------------------------------- what is chosen and ranked


def test_the_lowest_gain_is_chosen_by_other_examples_students_and_baselines():
    rng = np.random.default_rng(0)
    students, baselines = rng.normal(size=(3, 2, 8)), rng.normal(size=(4, 2, 8))
    found = lowest_gain(students, baselines[None], 2)
    for s, b in itertools.product(range(3), range(4)):
        by_hand = []
        for half in range(2):
            others = np.delete(students, s, 0)[:, half].mean(axis=0)
            pool = np.delete(baselines, b, 0)[:, half].mean(axis=0)
            chosen = np.argsort(others - pool)[:2]
            by_hand.append((students[s] - baselines[b])[1 - half, chosen].mean())
        assert found[s, b] == pytest.approx(np.mean(by_hand), abs=1e-12)
    alone = lowest_gain(students[:1], baselines[None, :1], 2)
    assert alone[0, 0] == lowest(students[0] - baselines[0], 2)


def test_a_group_that_is_empty_on_a_half_is_not_chosen():
    halves = np.array([[-9.0, 0.0, 1.0, 2.0], [np.nan, 5.0, 4.0, 3.0]])
    assert lowest(halves, 1) == np.mean([5, 2])  # group 1, and group 3 on the other


def test_each_slice_is_ranked_without_the_groups_that_it_lacks():
    rng = np.random.default_rng(0)
    margin, gain = rng.normal(size=(2, 5, 2, 12)).round(1)
    margin[0, 0, 3], gain[2, 1, :4] = np.nan, np.nan
    found = crossed_correlation(margin, gain)
    for k in range(5):
        both = [spearmanr(margin[k, h], gain[k, 1 - h], nan_policy="omit")[0] for h in range(2)]
        assert found[k] == pytest.approx(np.mean(both), abs=1e-12)


def gains_of_lucky_networks(teachers, students, baselines, seed):
    """numbers._gains of equal networks, each with luck of its own in each of 50 groups."""
    size, each, numbers = 50, 30, (teachers, students, baselines)
    group = np.repeat(np.arange(size), each)
    rng = np.random.default_rng([*numbers, seed])
    luck = np.sqrt(0.21 / each) * rng.standard_normal((sum(numbers), size))
    right = rng.random((sum(numbers), len(group))) < np.clip(0.7 + luck, 0, 1)[:, group]
    models = [Outputs(np.where(row, group % 10, (group + 1) % 10)) for row in right]
    found = {"teacher": models[:teachers], "student": models[teachers : teachers + students]}
    if baselines:
        found["baseline"] = models[teachers + students :]
    members = Groups.of(group, range(size))
    with np.errstate(all="ignore"):
        of = Compared(group % 10, found, 10, members, np.ones(len(group)), 100, 0)
        return _gains(of, of.of_halves(lambda means: _of_halves(of, means, 5, None)))


@pytest.mark.parametrize(("students", "baselines"), [(3, 3), (4, 4), (2, 3)])
def test_of_equal_networks_that_differ_by_group_the_worst_groups_are_seldom_below_0(
    students, baselines
):
    """Each network has luck of its own in every group, as much as its examples have noise.

    Chosen by the networks that are scored, the k worst of 50 groups were below 0 in 20 to 40 % of
    audits, and their gain about -9 points."""
    gains, below, runs = [], 0, 60
    for k in range(runs):
        worst = gains_of_lucky_networks(1, students, baselines, k)["worst_k_gain"]
        gains.append(worst.estimate)
        below += worst.high < 0
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(runs)
    assert below / runs <= 0.09  # 2.5 % and three standard errors


def test_a_teachers_luck_in_a_group_is_no_sign_that_students_lose_there():
    """Three pairs without baselines: the margins of the same teachers gave -0.2."""
    found = [gains_of_lucky_networks(3, 3, 0, k) for k in range(30)]
    ranked = [gains["margin_gain_correlation"].estimate for gains in found]
    assert abs(np.mean(ranked)) < 0.06


def test_a_page_says_whom_the_worst_groups_speak_of():
    y, teacher, student, _ = world()
    rng = np.random.default_rng(0)
    more = [np.where(rng.random(300) < 0.7, y, (y + 1) % 4) for _ in range(3)]
    for students, baselines, said in (
        (student, more[:1], True),
        (student, more[:2], True),
        ([student, more[0]], more[1:2], True),
        ([student, more[0]], more[1:], False),
    ):
        limits = kdlib.audit(y, teacher, students, baselines, resamples=5).limits
        assert any("not for other networks" in sentence for sentence in limits) == said


def test_groups_that_truly_lose_are_found_by_several_networks():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 60)
    rates = np.where(np.arange(20) < 2, 0.4, 0.7), np.full(20, 0.7)
    models = [
        [np.where(rng.random(1200) < rate[group], group, (group + 1) % 20) for _ in range(3)]
        for rate in rates
    ]
    found = kdlib.audit(group, models[1][0].copy(), models[0], models[1], resamples=200)
    worst = found.metrics["worst_k_gain"]
    assert worst.high < -15 and -40 < worst.estimate < -20 and worst.baselines == 3


# ---------------------------------------------------------------- weights, outcomes, progress


@pytest.mark.parametrize("overlapping", [False, True])
def test_where_one_example_weighs_nearly_all_there_is_no_interval_of_no_width(overlapping):
    y, teacher, student, matrix = world()
    w = np.ones(len(y))
    w[7] = 1000
    groups = matrix if overlapping else None
    found = kdlib.audit(y, teacher, student, groups=groups, weights=w, resamples=100)
    for name in ("overall_gain", "student_accuracy"):
        assert np.isnan(found.metrics[name].low) and np.isfinite(found.metrics[name].estimate)
    average = found.metrics["average_gain"]
    assert np.isnan(average.low) or average.high - average.low > 20
    assert any("One example carries nearly all weight" in sentence for sentence in found.limits)


def test_outcomes_beside_fewer_baselines_count_what_these_vary():
    y, teacher, _, _ = world()
    rng = np.random.default_rng(2)
    rates = (0.5, 0.6, 0.7, 0.8, 0.65, 0.65, 0.65, 0.65)
    networks = [np.where(rng.random(300) < rate, y, (y + 1) % 4) for rate in rates]
    widths = []
    for baselines in (1, 4):
        models = teacher, networks[:4], networks[4 : 4 + baselines]
        table = kdlib.audit(y, *models, resamples=100).transfer
        widths.append((table.high - table.low).mean())
    assert widths[0] > 1.3 * widths[1]


def test_every_part_is_told_once_and_in_order():
    told = []
    kdlib.audit(*world()[:3], resamples=5, progress=told.append)
    assert tuple(told) == PARTS


def test_a_bar_is_drawn_in_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    for in_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_one=in_terminal: is_one, raising=False)
        with progress.bar() as begin:
            for part in PARTS:
                begin(part)
        assert ("transfer: part 5 of 6" in capsys.readouterr().err) == in_terminal


def test_two_networks_that_agree_everywhere_are_two_if_their_files_differ(tmp_path):
    y, teacher, student, _ = world()
    scores = 5 * np.eye(4)[teacher]
    for name, values in (("teacher", scores), ("baseline", 2 * scores), ("student", student)):
        np.save(tmp_path / f"{name}.npy", values)
    files = {name: tmp_path / f"{name}.npy" for name in ("teacher", "baseline", "student")}
    found = kdlib.audit(y, **files, resamples=20).metrics
    assert found["baseline_copies"].estimate == pytest.approx(100)
    own = kdlib.audit(y, **files | {"baseline": files["teacher"]}, resamples=20).metrics
    assert "baseline_copies" not in own and "student_copies" in own
