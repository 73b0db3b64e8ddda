"""Groups of chosen columns against pandas; the search against brute force, scikit-learn and
simulation."""

import itertools
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from refusals import refused
from sklearn.metrics import accuracy_score

import kdlib
from kdlib.__main__ import main
from kdlib.auditing import search as searching
from kdlib.auditing.page import page
from kdlib.auditing.slices import conditions_of
from kdlib.evidence.significance import change
from kdlib.reading.groups import groups_of, used_by
from kdlib.reading.read import source
from kdlib.reading.subgroups import ranges

N = 600


def people(n=N, seed=0):
    """A table with names that contain what --by splits at."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "sex": rng.choice(["f", "m"], n),
            "age": rng.integers(17, 90, n),
            "skin x tone": rng.choice(["dark", "light", "<b>"], n),
            "a:4": rng.choice(["u", "v"], n),
            "income": rng.normal(size=n),
        }
    )


def made(by, table=None):
    """{name: rows of its examples} of the groups that --by makes, and what is said of them."""
    table = people() if table is None else table
    found = source(table, "groups")
    members = groups_of(used_by(found, by), None, (), by=by)
    return dict(zip(members.names, members.examples, strict=True)), found.notes


def same(found, expected):
    """Whether two {name: examples} are one."""
    assert sorted(found) == sorted(expected)
    for name, rows in expected.items():
        np.testing.assert_array_equal(np.sort(found[name]), np.sort(rows))


# ---------------------------------------------------------------- --by


def test_values_and_combinations_are_those_of_pandas():
    table = people()
    found, said = made(["sex", ("sex", "skin x tone")])
    expected = {f"sex={sex}": rows for sex, rows in table.groupby("sex").indices.items()}
    for (sex, tone), rows in table.groupby(["sex", "skin x tone"]).indices.items():
        expected[f"sex={sex}, skin x tone={tone}"] = rows
    same(found, expected)
    assert not said


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
@pytest.mark.parametrize("column", ["income", "distinct"])
def test_ranges_without_ties_are_those_of_qcut(parts, column):
    table = people(84 * 5).assign(distinct=np.random.default_rng(1).permutation(84 * 5))
    found, _ = made(f"{column}:{parts}", table)
    cut = pd.qcut(table[column], parts, labels=False)
    assert len(found) == parts
    for k, rows in enumerate(found.values()):
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(cut == k))


def test_ranges_say_their_least_and_their_largest_number():
    table = people()
    found, _ = made(["sex", "age:4"], table)
    ages = {name: rows for name, rows in found.items() if name.startswith("age")}
    assert len(ages) == 4
    for name, rows in ages.items():
        inside = table.age.iloc[rows]
        assert name == f"age {inside.min()} to {inside.max()}"
    sizes = [len(rows) for rows in ages.values()]
    assert sum(sizes) == N and max(sizes) < 1.15 * min(sizes)


def audit_of_three(groups, by):
    """The audit of three random models of 60 examples, whose labels have ids, by some columns."""
    rng = np.random.default_rng(0)
    names = np.array([f"q{k}" for k in range(60)])
    files = [pd.DataFrame({"id": names, "label": rng.integers(0, 2, 60)})]
    files += [pd.DataFrame({"id": names, "pred": rng.integers(0, 2, 60)}) for _ in range(3)]
    return kdlib.audit(*files, groups, by=by, resamples=10)


def test_a_chosen_column_is_joined_by_id_whatever_is_left_beside_it():
    """Without the others, id and group would be pairs, in which an id may occur again."""
    table = pd.DataFrame({"id": [f"q{k}" for k in range(60)], "site": 1})
    table["group"] = np.where(np.arange(60) < 20, "a", "b")
    table["example"] = np.arange(60) // 6
    shuffled = table.sample(frac=1, random_state=0)
    expected = audit_of_three(table, ["group"]).groups
    pd.testing.assert_frame_equal(audit_of_three(shuffled, ["group"]).groups, expected)
    both = audit_of_three(shuffled, ["example", "group"]).groups.set_index("group")
    expected = expected.set_index("group")
    assert (both.gain[["group=a", "group=b"]].to_numpy() == expected.gain[["a", "b"]]).all()
    for twice in (table.assign(id=table.id.replace("q59", "q0")), pd.concat([table, table[:2]])):
        assert "id 'q0' is there twice" in refused(audit_of_three, twice, ["group"])


@pytest.mark.parametrize("share, parts", [(0.3, 4), (0.6, 3), (0.92, 2)])
def test_equal_numbers_stay_together_and_fewer_ranges_are_said(share, parts):
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(1000) < share, 0, rng.integers(1, 10**6, 1000))
    found, said = made("gain:4", pd.DataFrame({"gain": gain}))
    zero = found["gain 0"]
    np.testing.assert_array_equal(np.sort(zero), np.flatnonzero(gain == 0))
    assert sum(map(len, found.values())) == 1000
    assert len(found) == parts
    why = f"gain is cut into {parts} ranges, not 4: many examples have the same value."
    assert said == ([why] if parts < 4 else [])


def test_ranges_keep_the_order_of_any_numbers_and_have_names_of_their_own():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=rng.integers(1, 60)) * 10.0 ** rng.integers(-12, 12)
        values = np.round(values, rng.integers(0, 4)) if seed % 2 else values
        index, ends = ranges(values, int(rng.integers(2, 9)))
        order = np.argsort(values, kind="stable")
        assert (np.diff(index[order]) >= 0).all() and len(set(ends)) == len(ends)
        for value in np.unique(values):
            assert len(np.unique(index[values == value])) == 1


def test_a_column_is_what_is_named_so_before_a_text_is_cut():
    assert [*made("a:4")[0]] == ["u", "v"]
    assert [*made("skin x tone")[0]] == ["<b>", "dark", "light"]
    assert len(made([("skin x tone", "age:2")])[0]) == 6
    assert "'skin' (in 'skin x tone x age:2')" in refused(made, "skin x tone x age:2")
    same(made("sex x age:2")[0], made([("sex", "age:2")])[0])
    same(made("sex × age:2")[0], made([("sex", "age:2")])[0])


@pytest.mark.parametrize(
    "by, said",
    [
        ("sexx", "did you mean 'sex'?"),
        ("sex x agee", "(in 'sex x agee')"),
        ("agee:4", "did you mean 'age'?"),
        ("age:1", "is cut into 2 to 100 ranges"),
        ("age:101", "is cut into 2 to 100 ranges"),
        ("sex:3", "not a number"),
        ("sex x sex", "combines a column with itself"),
        (["sex", "sex"], "is there twice"),
        (3, "an entry is text such as"),
        ([3], "an entry is text such as"),
        ([("sex", 4)], "an entry is text such as"),
        ([()], "an entry is text such as"),
        ([], "needs one column"),
        ("", "no column is called so"),
        ("income", "--by 'income:4'"),
        ("a\nb\u202e", "no column is called so"),
    ],
)
def test_what_makes_no_groups_is_one_sentence(by, said):
    assert said in refused(made, by)


def test_a_number_that_is_missing_is_no_range_and_a_matrix_has_no_columns_to_name():
    table = people().assign(age=lambda t: t.age.where(t.index != 7, np.inf))
    assert "row 7" in refused(made, "age:4", table)
    assert "matrix" in refused(made, "sex", np.ones((5, 2)))


def test_missing_values_are_dropped_or_a_group_of_their_own_of_the_columns_used_alone():
    table, (y, predicted) = people(), models()
    table["age"] = table.age.where(table.index % 10 > 0)
    table["sex"] = table.sex.where(table.index % 7 > 0)

    def groups(by, how):
        found = kdlib.audit(y, *predicted, groups=table, by=by, missing_groups=how, resamples=2)
        return found.groups.set_index("group").n, " ".join(found.read)

    n, said = groups(["age:3"], "own")
    assert n["age=missing"] == 60 and n.sum() == N and len(n) == 4
    n, said = groups(["sex x age:3"], "own")
    known = table.age.notna() & table.sex.notna()
    assert (
        len(n) == 12 and n[[name for name in n.index if "missing" not in name]].sum() == known.sum()
    )
    n, said = groups(["age:3"], "drop")
    assert n.sum() == 540 and "Left out: 60 examples without 'age'." in said
    n, said = groups(["sex x age:3"], "drop")
    assert n.sum() == known.sum()
    assert groups(["a:4"], None)[0].sum() == N  # what is missing in other columns is no matter
    assert "missing in 60 of 600 rows" in refused(
        kdlib.audit, y, *predicted, groups=table, by=["age:4"]
    )
    table["sex"] = table.sex.where(table.index % 7 > 0, "N/A")
    n, said = groups(["sex", "age:3"], "drop")
    assert n.sum() == 2 * known.sum()
    lacking = f"Left out of every group: {N - known.sum()} examples without 'sex' or 'age'."
    table["age"] = np.arange(N) % 50
    n, said_of_one = groups(["sex", "age:3"], "drop")
    assert n.sum() == 2 * (table.sex != "N/A").sum()
    one = f"Left out of every group: {(table.sex == 'N/A').sum()} examples without 'sex'."
    assert one in said_of_one and lacking.replace(" of every group", "") in said


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_numbers_stand_by_size_and_what_is_missing_behind_them(shape):
    y, predicted = models()
    years = np.where(np.arange(N) % 5, np.arange(N) % 12, np.nan).reshape(shape)
    found = kdlib.audit(y, *predicted, groups=years, missing_groups="own", resamples=2)
    assert list(found.groups.group) == [*map(str, range(12)), "missing"]
    found = kdlib.audit(y, *predicted, groups=years, missing_groups="drop", resamples=2)
    assert found.n == N - 120 and len(found.groups) == 12
    text = np.where(np.arange(N) % 5, "missing", "")
    found = kdlib.audit(y, *predicted, groups=text, missing_groups="own", resamples=2)
    assert list(found.groups.group) == ["missing"]


def test_more_combinations_than_anybody_reads_are_refused():
    half = np.arange(12_000) // 2
    table = pd.DataFrame({"a": half, "b": half[::-1], "c": np.arange(12_000) % 2})
    assert "12,000 groups; more than 10,000 are not" in refused(made, ["a", "b"], table)
    assert "12,000 groups; more than 10,000 are not" in refused(made, "a x c", table)
    assert len(made("a", table)[0]) == 6000


def models(n=N, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return y, [np.where(rng.random(n) < 0.7, y, (y + 1) % classes) for _ in range(3)]


def test_an_audit_of_combinations_agrees_with_scikit_learn():
    table, (y, predicted) = people(), models()
    found = kdlib.audit(y, *predicted, groups=table, by=["sex x age:3"], resamples=20)
    part = pd.qcut(table.age, 3, labels=False, duplicates="drop")
    rows = found.groups.set_index("group")
    assert len(rows) == 6 and found.disjoint
    for name, row in rows.iterrows():
        sex, ages = name.split(", age ")
        low, high = map(int, ages.split(" to "))
        some = (table.sex == sex[4:]) & table.age.between(low, high)
        assert row.n == some.sum() and part[some].nunique() <= 2
        for role, chosen in zip(("teacher", "student", "baseline"), predicted, strict=True):
            assert abs(row[role] / 100 - accuracy_score(y[some], chosen[some])) < 1e-12


def test_without_by_every_column_makes_groups_as_before():
    table, (y, predicted) = people()[["sex", "a:4"]], models()
    usual = kdlib.audit(y, *predicted, groups=table, resamples=20).groups
    named = kdlib.audit(y, *predicted, groups=table, by=["sex", "a:4"], resamples=20).groups
    pd.testing.assert_frame_equal(usual, named)


def test_by_without_groups_is_refused():
    y, predicted = models()
    assert "there is none" in refused(kdlib.audit, y, *predicted, by=["sex"])


def test_of_many_tiny_groups_of_equal_models_none_is_harmed_by_chance():
    """Combinations of one to five examples: the exact test has no small p to be lucky with."""
    false = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(400), rng.integers(1, 6, 400))
        seeds = 1 + seed % 3
        p = rng.beta(2, 1, len(group))
        mine, other = (rng.random((seeds, len(group))) < p for _ in range(2))
        members = searching.Groups.of(group, [str(g) for g in range(400)])
        found = change(mine, members, np.ones(len(group)), other)
        false += (found.q <= 0.05).any()
    assert false <= 7  # 5 % of 60 is 3; 8 or more come by chance once in a hundred


# ---------------------------------------------------------------- the search


def equal_models(n, seeds, rng, p=None):
    p = rng.beta(0.6, 0.2, n) if p is None else p
    return {role: rng.random((seeds, n)) < p for role in ("teacher", "student", "baseline")}


def found_in(table, right, y=None, **options):
    n = len(next(iter(right.values()))[0])
    y = np.arange(n) % 10 if y is None else y
    return searching.search(source(table, "meta.csv"), y, right, np.ones(n), **options)


def planted(n, seeds, seed):
    """(table, right): of two columns together 10 % of examples lose 15 points."""
    rng = np.random.default_rng(seed)
    table = {f"c{i}": rng.choice([*"abcdef"[: 2 + i % 4]], n) for i in range(6)}
    table |= {f"x{i}": rng.normal(size=n) for i in range(4)}
    right = equal_models(n, seeds, rng)
    here = (table["c0"] == "a") & (table["c3"] == "b")
    right["student"] &= ~(here & (rng.random((seeds, n)) < 0.2))
    return table, right


def test_the_best_slice_is_that_of_a_brute_force_search_by_pandas():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({c: rng.choice([*"abc"], 400) for c in ("u", "v", "w")})
    right = equal_models(400, 2, rng)
    hurt = ((table.u == "a") & (table.w == "c")).to_numpy()
    right["student"] &= ~(hurt & (rng.random((2, 400)) < 0.7))
    y = rng.integers(0, 5, 400)
    half = searching.halves_of(searching.Groups.of(y, range(5)), 400, 0)
    d = right["student"].mean(axis=0) - right["baseline"].mean(axis=0)
    here = table[half == 0].assign(r=(d - d[half == 0].mean())[half == 0])
    scores = {}
    for columns in [*itertools.combinations("uvw", 1), *itertools.combinations("uvw", 2)]:
        for values, some in here.groupby([*columns]):
            if len(some) >= 10:
                words = " and ".join(f"{c}={v}" for c, v in zip(columns, values, strict=True))
                scores[words] = some.r.sum() / np.sqrt((some.r**2).sum())
    best = min(scores, key=scores.get)
    found, how = found_in(table, right, y)
    assert best == "u=a and w=c" and best in [*found.subgroup]
    row = found.set_index("subgroup").loc[best]
    assert (row.n, row.n_scored) == (hurt.sum(), (hurt & (half == 1)).sum())
    for name, some in (
        ("gain", hurt & (half == 1)),
        ("others", ~hurt & (half == 1)),
        ("gain_found", hurt & (half == 0)),
    ):
        assert row[name] == pytest.approx(100 * d[some].mean(), abs=1e-9)
    assert f" {len(scores)} subgroups of at least 10 examples" in how[0]


def test_every_pair_is_counted_as_by_hand():
    rng = np.random.default_rng(0)
    table = {
        "a": rng.choice([*"xyz"], 20_000),
        "b": rng.normal(size=20_000),
        "c": rng.integers(0, 3, 20_000),
    }
    conditions, _ = conditions_of(source(table, "meta"))
    deviation, some = rng.normal(size=20_000), np.arange(len(conditions.words))
    n, score = searching._pairs(conditions, some, deviation, np.arange(20_000))
    for i, j in itertools.product(some[::2], some[::3]):
        inside = conditions.members((i,)) & conditions.members((j,))
        assert n[i, j] == inside.sum()
        if inside.any():
            by_hand = deviation[inside].sum() / np.sqrt((deviation[inside] ** 2).sum())
            assert score[i, j] == pytest.approx(by_hand, abs=1e-3)


def test_a_planted_subgroup_is_found_and_confirmed():
    for n, seeds, of_ten in ((2000, 3, 6), (10_000, 1, 9), (10_000, 3, 9)):
        confirmed = 0
        for seed in range(10):
            found, _ = found_in(*planted(n, seeds, seed), seed=seed)
            harmed = found[found.finding == "harmed"]
            confirmed += "c0=a and c3=b" in [*harmed.subgroup]
            true = found[found.subgroup == "c0=a and c3=b"]
            if n == 10_000 and len(true):
                assert true.low.item() < -10 and true.high.item() > -20
        assert confirmed >= of_ten, (n, seeds, confirmed)


def test_of_equal_models_few_searches_confirm_anything():
    confirmed, covered, kept = 0, 0, 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        table, _ = planted(800, 1, seed)
        found, _ = found_in(table, equal_models(800, 1, rng), seed=seed)
        confirmed += (found.finding == "harmed").any()
        covered += ((found.low <= 0) & (found.high >= 0)).sum()
        kept += len(found)
    assert confirmed <= 14  # 5 % of 150 is 7.5; 15 or more come by chance once in a hundred
    assert covered / kept >= 0.92


def test_the_half_that_found_them_flatters_and_the_other_does_not():
    gains = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found, _ = found_in(planted(800, 1, seed)[0], equal_models(800, 1, rng), seed=seed)
        gains += [*found[["gain", "gain_found"]].to_numpy()]
    honest, lucky = np.mean(gains, axis=0)
    assert lucky < -5 and abs(honest) < 1


def test_a_student_that_loses_everywhere_is_not_a_list_of_everybody():
    """Against zero the largest slices would come first; here one lost more than the others."""
    rng = np.random.default_rng(0)
    table, right = planted(6000, 2, 0)
    right["student"] &= rng.random((2, 6000)) < 0.9
    found, _ = found_in(table, right)
    assert found.subgroup[0] == "c0=a and c3=b" and found.gain[0] < found.others[0] < -3


def test_a_subgroup_is_said_once_and_not_with_its_shadows():
    for seed in (1, 2, 3):
        found, _ = found_in(*planted(10_000, 3, seed))
        harmed = found[found.finding == "harmed"].subgroup
        assert [*harmed] == ["c0=a and c3=b"]  # not c0=a, c3=b, and each of them with others


def test_the_parts_of_a_large_loss_do_not_hide_a_small_one(monkeypatch):
    """Conditions within c2=b that do no better than it are no candidates of their own."""
    monkeypatch.setattr(searching, "LOOKED_AT", 12)
    table, right = planted(10_000, 3, 0)
    lost = (table["c2"] == "b") & (np.random.default_rng(0).random((3, 10_000)) < 0.4)
    right["student"] &= ~lost
    found, _ = found_in(table, right)
    assert {"c2=b", "c0=a and c3=b"} <= {*found[found.finding == "harmed"].subgroup}


def test_columns_that_make_no_groups_are_passed_over_and_said():
    rng, n = np.random.default_rng(0), 300
    table = pd.DataFrame(
        {
            "file of it": [f"f{k}" for k in range(n)],
            "row": rng.permutation(n),
            "split": "test",
            "note": [f"n{k // 2}" for k in range(n)],
            "empty": [None] * n,
            "light": rng.normal(size=n),
            "camera": rng.choice(["a", None], n),
            "age": np.where(rng.random(n) < 0.2, np.nan, rng.integers(0, 90, n)),
            "stars": rng.integers(1, 6, n),
            "flag": rng.random(n) < 0.5,
        }
    )
    conditions, passed_over = conditions_of(source(table, "meta"))
    assert passed_over == {
        "all values are different": ["file of it", "row"],
        "one value throughout": ["split", "empty"],
        "no value is frequent enough": ["note"],
    }
    words = set(conditions.words)
    assert {"camera=a", "camera is missing", "age is missing", "stars=5", "stars up to 2"} <= words
    assert {"flag=True", "flag=False", "stars 2 to 4", "stars from 4 on"} <= words
    for k, word in enumerate(conditions.words):
        mine = conditions.members((k,))
        if word.startswith("age up to "):
            np.testing.assert_array_equal(mine, table.age <= float(word.split()[-1]))
        if word.endswith(" is missing"):
            np.testing.assert_array_equal(mine, table[word.split()[0]].isna())
    _, how = found_in(table, equal_models(n, 1, rng))
    assert "file of it, row (all values are different)" in how[-1]


def test_a_table_without_a_column_of_use_finds_nothing_and_says_so():
    found, how = found_in({"split": ["test"] * 50}, equal_models(50, 1, np.random.default_rng(0)))
    assert len(found) == 0 and "None of them" in how[1] and "split" in how[2]


def test_weights_count_and_an_example_without_weight_does_not():
    table, right = planted(4000, 2, 0)
    table = pd.DataFrame(table)
    rng = np.random.default_rng(1)
    y, w = np.arange(4000) % 10, rng.uniform(0.5, 2, 4000)
    found, _ = searching.search(source(table, "m"), y, right, w)
    half = searching.halves_of(searching.Groups.of(y, range(10)), 4000, 0)
    d = right["student"].mean(axis=0) - right["baseline"].mean(axis=0)
    row = found.set_index("subgroup").loc["c0=a and c3=b"]
    some = ((table.c0 == "a") & (table.c3 == "b")).to_numpy() & (half == 1)
    assert row.gain == pytest.approx(100 * np.average(d[some], weights=w[some]))
    w[some] = 0
    found, _ = searching.search(source(table, "m"), y, right, w)
    assert "c0=a and c3=b" not in [*found.subgroup] and np.isfinite(found.gain).all()


def test_a_search_of_a_hundred_thousand_examples_is_quick():
    rng, n = np.random.default_rng(0), 100_000
    table = {f"c{i}": rng.choice([f"v{k}" for k in range(3 + 4 * i)], n) for i in range(10)}
    table |= {f"x{i}": rng.normal(size=n) for i in range(10)}
    right = equal_models(n, 2, rng)
    start = time.process_time()
    found_in(table, right)
    assert time.process_time() - start < 20


# ---------------------------------------------------------------- whole audits


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """(Audit, folder) with a subgroup of a hostile name, of files in an order of their own."""
    folder = tmp_path_factory.mktemp("search")
    table, right = planted(3000, 2, 0)
    table = pd.DataFrame(table).rename(columns={"c0": "<script>alert(1)</script>"})
    y = np.arange(3000) % 10
    models = {role: [np.where(r, y, (y + 1) % 10) for r in of] for role, of in right.items()}
    table.to_csv(folder / "meta.csv", index=False)
    found = kdlib.audit(y, **models, search=folder / "meta.csv", resamples=20)
    return found, folder


def test_what_was_found_stands_in_headline_page_and_json(audited):
    found, folder = audited
    name = "<script>alert(1)</script>=a and c3=b"
    assert found.subgroups.subgroup[0] == name and found.subgroups.finding[0] == "harmed"
    assert found.metrics["subgroups_harmed"] == (found.subgroups.finding == "harmed").sum()
    assert "confirmed on examples that had no part in the search" in " ".join(found.headline())
    html = page(found)
    assert "Subgroups found by a search" in html and "<script" not in html
    facts = json.loads(found.save(folder / "a.html")[1].read_text())
    assert facts["subgroups"][0]["subgroup"] == name and len(facts["searched"]) >= 2
    assert [i["role"] for i in facts["inputs"]][-1] == "search"


def test_without_a_baseline_a_subgroup_is_worse_than_the_teacher_not_harmed():
    table, right = planted(8000, 2, 0)
    y = np.arange(8000) % 10
    teacher, student = (
        [np.where(r, y, (y + 1) % 10) for r in right[role]] for role in ("teacher", "student")
    )
    found = kdlib.audit(y, teacher, student, search=table, resamples=2)
    assert found.subgroups.subgroup[0] == "c0=a and c3=b" and found.subgroups.finding[0] == "worse"
    assert found.metrics["subgroups_worse"] >= 1 and "subgroups_harmed" not in found.metrics
    assert "worse than the teacher, confirmed" in " ".join(found.headline())
    one_each = kdlib.audit(y, y, student[0], teacher[0], search=table, resamples=2)
    said = " ".join(one_each.headline())
    assert "worse than the baseline, confirmed" in said and "harmed" not in said
    row = found.subgroups.iloc[0]
    half = searching.halves_of(searching.Groups.of(y, range(10)), 8000, 0)
    some = (table["c0"] == "a") & (table["c3"] == "b") & (half == 1)
    d = (right["student"] * 1.0 - right["teacher"]).mean(axis=0)
    assert row.gain == pytest.approx(100 * d[some].mean())


def test_outputs_of_the_models_are_not_searched_where_they_stand_in_the_same_file(tmp_path):
    """They find themselves: where the student is unsure, it is wrong."""
    y, (teacher, student, baseline) = models()
    table = people().assign(label=y, t=teacher, s=student, b=baseline)
    table.to_csv(tmp_path / "all.csv", index=False)
    file = str(tmp_path / "all.csv")
    given = (f"{file}:{name}" for name in ("label", "t", "s", "b"))
    found = kdlib.audit(*given, search=file, resamples=2)
    assert found.read[-1].endswith("Not searched, as they are outputs of the models: b, s, t.")
    own = table.drop(columns=["t", "b"]).rename(columns={"s": "pred"}).assign(correct=y == student)
    own.to_csv(tmp_path / "student.csv", index=False)  # given whole
    whole = str(tmp_path / "student.csv")
    again = kdlib.audit(y, teacher, whole, baseline, search=whole, resamples=2)
    assert again.read[-1].endswith("outputs of the models: correct, pred.")
    assert again.subgroups.subgroup.tolist() == found.subgroups.subgroup.tolist()
    looked_at = " ".join([*found.subgroups.subgroup, *found.searched])
    assert not re.search(r"\b[tsb](=| up to| above)", looked_at)
    conditions, _ = conditions_of(source(file, "search"))
    assert any(word.startswith("s=") for word in conditions.words)  # it would be one


def test_an_audit_without_a_search_has_none():
    y, predicted = models()
    found = kdlib.audit(y, *predicted, resamples=2)
    assert found.subgroups is None and "search" not in " ".join(found.headline())


def test_the_command_line_takes_by_and_search(audited, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table, (y, predicted) = people(), models()
    table.to_csv("g.csv", index=False)
    names = ("labels", "teacher", "student", "baseline")
    for name, values in zip(names, (y, *predicted), strict=True):
        np.save(f"{name}.npy", values)
    files = [word for name in names for word in (f"--{name}", f"{name}.npy")]
    more = ["--groups", "g.csv", "--by", "sex", "age:3", "sex x age:3", "--search", "g.csv"]
    assert main(["audit", *files, *more, "--fail-if", "subgroups_harmed > 20"]) == 0
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert len(facts["groups"]) == 2 + 3 + 6 and facts["subgroups"] is not None
    capsys.readouterr()
    assert main(["audit", *files, "--groups", "g.csv", "--by", "sexx"]) == 2
    assert "did you mean 'sex'?" in capsys.readouterr().err
    assert main(["audit", "--study", "digits", "--by", "sex"]) == 2
    assert "--by does not go with --study" in capsys.readouterr().err
