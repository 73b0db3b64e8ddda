"""Several students against one baseline: what is corrected for their number, how it is shown."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import referencing
from looking import HOSTILE, Document, look, requested, unfold
from scipy.stats import false_discovery_control

import kdlib
from kdlib.__main__ import main
from kdlib.asking import given
from kdlib.auditing import comparison
from kdlib.auditing.students import named_files
from kdlib.reading.sentences import AuditError

ROOT = Path(__file__).resolve().parents[2]
N, CLASSES = 480, 6


def scores(rng, by, y, lost=None):
    """(N, C) logits right the oftener the larger `by` is, but seldom for a class `lost`."""
    found = rng.normal(size=(len(y), CLASSES)) + by * np.eye(CLASSES)[y]
    found[y == lost] -= 2 * np.eye(CLASSES)[lost or 0]
    return found


@pytest.fixture(scope="module")
def made():
    """(labels, teacher, {student: arrays of two runs}, arrays of two baselines)."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % CLASSES
    students = {
        "kd": [scores(rng, 2.0, y, lost=3) for _ in range(2)],
        "ada_alpha": [scores(rng, 3.0, y) for _ in range(2)],
        "placebo": [scores(rng, 2.1, y) for _ in range(2)],
    }
    return y, scores(rng, 3, y), students, [scores(rng, 2, y) for _ in range(2)]


@pytest.fixture(scope="module")
def found(made):
    return kdlib.audit_students(*made, resamples=50)


@pytest.fixture(scope="module")
def alone(made):
    """{student: its Audit, without the others}."""
    y, teacher, students, baseline = made
    return {
        name: kdlib.audit(y, teacher, s, baseline, resamples=50) for name, s in students.items()
    }


def same(one, other):
    """Whether two Audits hold equal numbers, to 1e-12."""
    for name in ("groups", "buckets", "transfer", "calibration"):
        tables = getattr(one, name), getattr(other, name)
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-12)
    assert one.metrics.keys() == other.metrics.keys()
    for name, value in one.metrics.items():
        numbers = [
            dataclasses.astuple(v) if hasattr(v, "low") else (v,)
            for v in (value, other.metrics[name])
        ]
        for mine, its in zip(*numbers, strict=True):
            assert mine == pytest.approx(its, abs=1e-12, nan_ok=True), name


# ---------------------------------------------------------------- the numbers


def test_one_student_gives_exactly_its_audit(made, alone):
    y, teacher, students, baseline = made
    one = kdlib.audit_students(y, teacher, {"kd": students["kd"]}, baseline, resamples=50)
    same(one.audits["kd"], alone["kd"])
    assert one.audits["kd"].limits == alone["kd"].limits and not len(one.pairs)
    assert one.table.p_holm[0] == one.table.p[0] == alone["kd"].metrics["average_gain"].p()


def test_q_is_corrected_over_all_students_and_groups_and_nothing_else_changes(found, alone):
    p = np.concatenate([alone[name].groups.p for name in found.audits])
    q = false_discovery_control(p)
    np.testing.assert_allclose(found.groups.q, q, rtol=0, atol=1e-12)
    gain = np.concatenate([alone[name].groups.gain for name in found.audits])
    finding = np.where(gain < 0, "harmed", "helped")
    finding = np.where(q <= 0.05, finding, "no clear difference")
    assert found.groups.finding.tolist() == finding.tolist()
    assert {"harmed", "helped", "no clear difference"} <= set(finding)
    for name, a in found.audits.items():
        own = found.groups[found.groups.student == name]
        assert a.groups.q.tolist() == own.q.tolist()
        for word in ("harmed", "helped"):
            assert a.metrics[f"groups_{word}"] == (own.finding == word).sum()
        corrected = {"q": alone[name].groups.q, "finding": alone[name].groups.finding}
        counts = {f"groups_{w}": alone[name].metrics[f"groups_{w}"] for w in ("harmed", "helped")}
        as_alone = dataclasses.replace(
            a, groups=a.groups.assign(**corrected), metrics=a.metrics | counts
        )
        same(as_alone, alone[name])


def test_the_table_has_each_students_own_numbers_and_p_by_holm(found, alone):
    table = found.table.set_index("student")
    gains = {name: a.metrics["average_gain"] for name, a in alone.items()}
    for name, gain in gains.items():
        row = table.loc[name]
        assert (row.average_gain, row.low, row.high) == (gain.estimate, gain.low, gain.high)
        worst = alone[name].metrics["worst_k_gain"]
        assert (row.worst_k_gain, row.worst_k_high) == (worst.estimate, worst.high)
        assert row.groups_harmed == found.audits[name].metrics["groups_harmed"]
    least, highest = 0.0, []
    for rank, name in enumerate(sorted(gains, key=lambda name: gains[name].p())):
        least = max(least, min(1, gains[name].p() * (len(gains) - rank)))  # Holm 1979
        highest.append(table.p_holm[name] == pytest.approx(least, abs=1e-15))
    assert all(highest)


def test_a_difference_of_students_is_the_average_gain_of_one_over_the_other(made, found):
    y, teacher, students, _ = made
    for row in found.pairs.itertuples():
        gain = kdlib.audit(
            y, teacher, students[row.student], students[row.other], resamples=50
        ).metrics["average_gain"]
        assert (row.difference, row.low, row.high) == (gain.estimate, gain.low, gain.high)
        table = found.table.set_index("student").average_gain
        assert row.difference == pytest.approx(table[row.student] - table[row.other], abs=1e-9)


def test_equal_students_are_seldom_told_apart():
    rng = np.random.default_rng(1)
    y = np.arange(120) % CLASSES
    harmed = clear = 0
    for _ in range(20):
        students = {name: [scores(rng, 2, y) for _ in range(2)] for name in "abc"}
        baseline = [scores(rng, 2, y) for _ in range(2)]
        found = kdlib.audit_students(y, scores(rng, 3, y), students, baseline, resamples=50)
        harmed += int((found.table.groups_harmed > 0).any())
        clear += int((found.table.p_holm <= 0.05).any())
    assert harmed <= 4 and clear <= 4


def test_what_is_shared_is_noted_once_and_read_once(made, tmp_path, monkeypatch):
    y, teacher, students, baseline = made
    np.save(tmp_path / "y.npy", np.eye(CLASSES)[y])  # one-hot, which is noted
    np.save(tmp_path / "t.npy", teacher)
    read = []
    from kdlib.reading import formats

    real = formats.read
    monkeypatch.setattr(formats, "read", lambda path: read.append(path.name) or real(path))
    said = []
    files = tmp_path / "y.npy", tmp_path / "t.npy"
    found = kdlib.audit_students(*files, students, baseline, resamples=2, say=said.append)
    assert sorted(read) == ["t.npy", "y.npy"]
    assert all(sum("one-hot" in s for s in a.read) == 1 for a in found.audits.values())
    assert sum("one-hot" in s for s in said) == 1
    assert [s.split(":")[0] for s in said if "right" in s] == list(students)
    assert said[-1].startswith("placebo: 2 students ")


def test_what_is_noted_on_a_shared_file_stands_with_the_student_that_it_comes_from(made, tmp_path):
    y, teacher, students, _ = made
    ids = 10 * np.arange(N + 3)  # that do not count the labels, so a student's say their order
    shared = (
        pd.DataFrame(np.vstack([teacher, teacher[:3]])).add_prefix("logit_").assign(id=ids)[::-1]
    )
    files = {}
    for name in ("kd", "ada_alpha"):
        files[name] = tmp_path / f"{name}.csv"
        table = pd.DataFrame(students[name][0]).add_prefix("logit_").assign(id=ids[:N])
        table.to_csv(files[name], index=False)
    found = kdlib.audit_students(y, shared, files, resamples=2)
    for name, a in found.audits.items():
        [of] = [s for s in a.read if "Left out: " in s]
        assert f"3 rows with ids that {files[name]} lacks" in of
        assert a.metrics["teacher_accuracy"].estimate == 100 * (teacher.argmax(1) == y).mean()


def test_the_kind_of_scores_is_that_of_their_role_also_between_students(made):
    y, teacher, students, baseline = made
    odds = np.exp(baseline[0])
    kind = {"student": "logits", "baseline": "probabilities"}
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    some = {name: runs[0] for name, runs in students.items()}
    found = kdlib.audit_students(y, teacher, some, probabilities, kind=kind, resamples=20)
    usual = kdlib.audit_students(y, teacher, some, baseline[0], resamples=20)
    pd.testing.assert_frame_equal(found.pairs, usual.pairs)
    pd.testing.assert_frame_equal(found.table, usual.table)


# ---------------------------------------------------------------- in words


def test_the_answer_names_who_harmed_whom_and_what_is_not_decided(found):
    said = found.answer()
    assert re.match(r"Of 6 groups, kd harmed 1 and helped none; ada_alpha harmed none and", said[0])
    assert "corrected for 3 students x 6 groups" in said[0]
    assert said[1].startswith("On average over the groups, ada_alpha gains most: +")
    assert said[1].endswith("clearly better than every other student.")
    unclear = dataclasses.replace(found, pairs=found.pairs.assign(p_holm=0.06))
    assert unclear.answer()[1].endswith("better than kd or placebo is not decided.")


def test_one_run_of_each_speaks_of_networks_not_of_what_distillation_does(made):
    y, teacher, students, baseline = made
    alone = {name: of[0] for name, of in students.items()}
    found = kdlib.audit_students(y, teacher, alone, baseline[0], resamples=50)
    assert "kd is worse than this baseline in 1 and is better in none" in found.answer()[0]
    none = found.table.assign(groups_harmed=0, groups_helped=0)
    first = dataclasses.replace(found, table=none).answer()[0]
    assert first.startswith("No student is clearly worse or better than this baseline in any of 6 ")
    assert any("about these networks only" in sentence for sentence in found.cautions())


def test_worst_groups_are_decided_only_where_no_interval_overlaps(found):
    table = found.table.assign(
        worst_k_gain=[-20, 5, -3], worst_k_low=[-25, 1, -6], worst_k_high=[-15, 9, 0]
    )
    apart = dataclasses.replace(found, table=table).answer()[2]
    assert apart.endswith("its interval lies above those of all others.")
    table = table.assign(worst_k_high=[-15, 9, 2])
    overlap = dataclasses.replace(found, table=table).answer()[2]
    assert "overlaps that of placebo, so who is best there is not decided" in overlap


def test_the_page_has_the_gain_of_each_group_under_each_student(made, found, tmp_path):
    y, _, students, baseline = made
    found.save(tmp_path / "page.html")
    shown = comparison.by_group(found)
    cells = [*map(str, [*shown.columns, *shown.to_numpy().ravel()])]
    tables = Document((tmp_path / "page.html").read_text()).all("table")
    texts = ["".join(text.split()) for text, _ in tables]
    assert sum(text.endswith("".join(cells).replace(" ", "")) for text in texts) == 1
    assert [*shown.columns] == ["group", "examples", "baseline, %", *students]
    shown = shown.astype({"group": int, "baseline, %": float})

    def accuracy(networks):  # (C,), in per cent, counted for each class
        right = np.mean([z.argmax(axis=1) == y for z in networks], axis=0)
        return np.array([100 * right[y == c].mean() for c in range(CLASSES)])

    gains = {name: accuracy(of) - accuracy(baseline) for name, of in students.items()}
    assert [*shown["group"]] == [*np.argsort(np.min([*gains.values()], axis=0), kind="stable")]
    np.testing.assert_allclose(shown["baseline, %"], accuracy(baseline)[shown["group"]], atol=0.05)
    changed = found.groups[found.groups.finding.isin(["harmed", "helped"])]
    for name, of in gains.items():
        cells = shown[name].str.replace("−", "-")
        printed = cells.str.rstrip("*").astype(float)
        np.testing.assert_allclose(printed, of[shown["group"]], atol=0.051)
        stars = shown["group"][cells.str.endswith("*")]
        assert {*stars.astype(str)} == {*changed[changed.student == name].group.astype(str)}
    assert len(changed)


def test_classes_in_another_order_stand_in_their_own_rows(tmp_path):
    """Teacher and baseline are names alone, so that each student's columns say the order."""
    names, rng = np.array(["cat", "dog", "truck"]), np.random.default_rng(2)
    y = np.arange(300) % 3
    right = {"teacher": (1, 1, 1), "baseline": (0.9, 0.9, 0.9), "a": (0.9, 0.8, 0.9)}
    right["b"] = (0.9, 0.9, 0.1)  # truck is lost
    files, named = {}, {}
    for role, rates in right.items():
        p = np.where(rng.random(300) < np.array(rates)[y], y, (y + 1) % 3)
        table = pd.DataFrame(np.eye(3)[p] * 0.9 + 0.03, columns=names)
        files[role], named[role] = tmp_path / f"{role}.csv", names[p]
        table[table.columns[:: -1 if role == "b" else 1]].to_csv(files[role], index=False)
        right[role] = np.array([100 * (p == y)[y == c].mean() for c in range(3)])
    students = {name: files[name] for name in "ab"}
    of = kdlib.audit_students(names[y], named["teacher"], students, named["baseline"], resamples=50)
    assert of.audits["a"].class_names != of.audits["b"].class_names
    shown = comparison.by_group(of).set_index("group")
    for name in "ab":
        gains = shown[name].str.replace("−", "-").str.rstrip("*").astype(float)
        expected = dict(zip(names, right[name] - right["baseline"], strict=True))
        assert gains.to_dict() == pytest.approx(expected, abs=0.051)
    assert shown.b[shown.b.str.endswith("*")].index.tolist() == ["truck"]
    (row,) = of.pairs.itertuples()
    assert row.difference == pytest.approx((right["a"] - right["b"]).mean())


def test_a_gain_that_the_number_of_students_makes_unclear_is_called_so(found):
    table = found.table.assign(p=0.03, p_holm=0.09)
    said = dataclasses.replace(found, table=table).answer()[1]
    assert "which is not clear once it is corrected for 3 students" in said


def test_where_nothing_changed_the_answer_says_so(found):
    none = found.table.assign(groups_harmed=0, groups_helped=0)
    said = dataclasses.replace(found, table=none).answer()[0]
    assert said.startswith("No student clearly harmed or helped any of 6 groups, corrected for 3")


def test_a_misspelt_option_is_a_typing_error_before_anything_is_read():
    with pytest.raises(TypeError, match="wurst"):
        kdlib.audit_students("no.npy", "no.npy", {"kd": "no.npy"}, wurst=3)


def test_without_a_baseline_nobody_harms(made):
    y, teacher, students, _ = made
    found = kdlib.audit_students(y, teacher, students, resamples=20)
    said = " ".join(found.headline())
    assert "harm" not in said and "is worse than its teacher in" in said
    assert said.count("There is no baseline") == 1
    assert "groups_worse" in found.table and "groups_harmed" not in found.table


def test_every_student_says_on_its_own_page_that_it_is_one_of_several(found):
    from kdlib.auditing import page

    a = found.audits["kd"]
    assert a.heading().startswith("kd: ")
    assert any("corrected for 3 students x 6 groups" in s for s in a.cautions())
    assert "number of groups and of the 3 students that are compared" in page.page(a)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "-a", ".a", "é", "a" * 41, "a\n", 3])
def test_names_of_students_are_such_that_files_can_have_them(made, name):
    y, teacher, students, _ = made
    with pytest.raises(AuditError, match="a name has at most 40 letters"):
        kdlib.audit_students(y, teacher, {name: students["kd"]}, resamples=2)


def test_what_is_no_dictionary_of_students_or_has_one_file_twice_is_refused(made, tmp_path):
    y, teacher, students, _ = made
    for wrong in (students["kd"], {}, None):
        with pytest.raises(AuditError, match="students must be a dictionary"):
            kdlib.audit_students(y, teacher, wrong)
    with pytest.raises(AuditError, match="differs from 'kd' only in case"):
        kdlib.audit_students(y, teacher, {"kd": teacher, "KD": teacher})
    np.save(tmp_path / "s.npy", students["kd"][0])
    twice = {"kd": tmp_path / "s.npy", "ada": [tmp_path / "s.npy"]}
    with pytest.raises(AuditError, match="holds the same as a file of student kd"):
        kdlib.audit_students(y, teacher, twice, resamples=2)
    with pytest.raises(AuditError, match="^student ada: "):
        kdlib.audit_students(y, teacher, {"kd": teacher, "ada": teacher[:9]}, resamples=2)


def test_a_word_with_a_name_begins_a_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["kd=k0.npz", "k1.npz", "ada=a.csv:p_*"]
    assert named_files(words) == {"kd": ["k0.npz", "k1.npz"], "ada": ["a.csv:p_*"]}
    assert named_files(["k0.npz", "k1.npz"]) == {}
    (tmp_path / "lr=0.1.npz").touch()
    (tmp_path / "x=1.csv").touch()
    assert named_files(["lr=0.1.npz", "x=1.csv:p"]) == {}
    assert named_files(["kd=k0.npz", "lr=0.1.npz"]) == {"kd": ["k0.npz", "lr=0.1.npz"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["k0.npz", "kd=k1.npz"], "k0.npz: has no name and kd=k1.npz has one"),
        (["runs/lr=0.1.npz"], "there is no such file; in NAME=FILE a name has"),
        (["kd="], "names no file; write kd=FILE"),
        (["=k.npz"], "a name has at most"),
        (["kd=a.npz", "ada=b.npz", "kd=c.npz"], "kd was named before"),
        (["kd=a.npz", "KD=b.npz"], "only in case"),
    ],
)
def test_words_that_name_no_student_are_refused_in_one_sentence(words, said):
    with pytest.raises(AuditError, match=re.escape(said)):
        named_files(words)


# ---------------------------------------------------------------- the gate


def test_a_condition_is_met_if_any_student_meets_it_and_says_which(found):
    texts = ["groups_harmed > 0", "groups_harmed > 3", "any teacher_log_loss < -1"]
    judged = found.judge(texts)
    assert [v.state for v in judged.verdicts] == ["met", "not met", "not met"] and judged.code == 1
    assert judged.verdicts[0].why == "kd: the value is 1"
    assert "not by any of 3 students" in judged.verdicts[1].why


def test_a_condition_is_unknown_if_none_meets_it_and_one_does_not_know(found):
    metrics = {k: v for k, v in found.audits["kd"].metrics.items() if k != "student_log_loss"}
    audits = found.audits | {"kd": dataclasses.replace(found.audits["kd"], metrics=metrics)}
    judged = dataclasses.replace(found, audits=audits).judge(["student_log_loss > 99"])
    assert judged.code == 3 and judged.verdicts[0].why.startswith("kd: ")


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    y, teacher, students, baseline = made
    folder = tmp_path_factory.mktemp("files")
    arrays = {"y": y, "teacher": teacher, "b0": baseline[0], "b1": baseline[1]}
    for name, runs in students.items():
        arrays |= {f"{name}{k}": run for k, run in enumerate(runs)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


USUAL = {"--baseline": ["b0.npy", "b1.npy"]}
TWO = ("kd=kd0.npy", "kd1.npy", "ada=ada_alpha0.npy", "ada_alpha1.npy")


@pytest.fixture
def compare(command):
    """The same function, by default of two students."""
    return lambda *more, students=TWO: command("--student", *students, *more)


def schema():
    """The validator of students.schema.json."""
    folder = ROOT / "kdlib" / "auditing"
    held = {p.name: json.loads(p.read_text()) for p in folder.glob("*.schema.json")}
    resources = [(name, referencing.Resource.from_contents(of)) for name, of in held.items()]
    registry = referencing.Registry().with_resources(resources)
    return jsonschema.Draft202012Validator(held["students.schema.json"], registry=registry)


def test_pages_json_and_tables_are_written_for_all_and_for_each(compare, tmp_path):
    options = ["--summary", "s.md", "--junit", "j.xml", "--fail-if", "any gain < 0"]
    code, out, err = compare(*options)
    assert code == 1 and out.splitlines()[-1].startswith("audit.html, audit.json, audit.csv, ")
    names = {f"audit{of}.{kind}" for of in ("", "-kd", "-ada") for kind in ("html", "json", "csv")}
    assert names <= {path.name for path in tmp_path.iterdir()}
    facts = json.loads((tmp_path / "audit.json").read_text())
    schema().validate(facts)
    assert list(facts["students"]) == ["kd", "ada"]
    for name in ("kd", "ada"):
        own = json.loads((tmp_path / f"audit-{name}.json").read_text())
        assert own == facts["students"][name]
        assert own["student"] == name and own["students_compared"] == 2
    table = pd.read_csv(tmp_path / "audit.csv")
    assert len(table) == 2 * CLASSES and set(table.student) == {"kd", "ada"}
    document = Document((tmp_path / "audit.html").read_text())
    links = [attributes["href"] for _, attributes in document.all("a")]
    assert {"audit-kd.html", "audit-ada.html"} <= set(links)
    suites = ET.parse(tmp_path / "j.xml").getroot().findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["kdlib audit kd", "kdlib audit ada"]
    assert [len(suite.findall("testcase")) for suite in suites] == [1, 1]
    summary = (tmp_path / "s.md").read_text()
    for part in (
        "### Student kd",
        "### Student ada",
        "An estimate is not a test",
        "`ada_alpha0.npy`",
    ):
        assert part in summary


def test_the_earlier_audit_is_asked_by_name(compare, tmp_path):
    assert compare("--out", "before.html")[0] == 0
    change = ["--fail-if", "change(average_gain) < -1", "--against", "before.json"]
    code, _, _ = compare(*change)
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert code == 0 and facts["students"]["kd"]["fail_if"][0]["value"] == 0
    schema().validate(facts)
    renamed = ("kd=kd0.npy", "kd1.npy", "new=ada_alpha0.npy", "ada_alpha1.npy")
    code, out, err = compare(*change, students=renamed)
    assert code == 3 and "before.json has no student new" in out and "new: " in err
    for before, students in (("before-kd.json", renamed), ("before.json", ("kd0.npy", "kd1.npy"))):
        code, out, err = compare("--against", before, students=students)
        assert code == 2 and err.count("\n") == 1 and "--against" in err


def test_nothing_that_is_read_or_written_otherwise_is_written_over(compare, tmp_path):
    table = pd.DataFrame(np.load("kd0.npy")).add_prefix("p")
    for name in ("x.csv", "x-kd.csv"):
        table.to_csv(tmp_path / name, index=False)
        code, out, err = compare("--out", "x.html", students=("kd=" + name, "ada=ada_alpha0.npy"))
        assert code == 2 and f"would write over {name}" in err and not out
        code, out, err = compare("--out", "x.html", students=("kd=" + name + ":p*", "a=kd1.npy"))
        assert code == 2 and f"would write over {name}" in err and not out
    for option in ("--summary", "--junit"):
        code, _, err = compare(option, "audit-kd.html", "--fail-if", "groups_harmed > 0")
        assert code == 2 and "would write over what --out writes" in err
        code, _, err = compare(option, "kd0.npy", "--fail-if", "groups_harmed > 0")
        assert code == 2 and "would write over what this audit reads" in err


@pytest.mark.parametrize(
    "students",
    [
        ("kd0.npy", "ada=ada_alpha0.npy"),
        ("kd=kd0.npy", "ada=kd0.npy"),
        ("kd=kd0.npy", "ada=nothing.npy"),
        ("kd=y.npy:x", "ada=kd0.npy"),
        ("kd=",),
        ("kd=" + "a" * 300 + ".npy",),
        ("kd=" + "a" * 300 + ".csv:x",),
        ("a" * 300 + ".csv:x",),
        ("kd=" + "a/" * 3000,),
        ("k/d=kd0.npy",),
    ],
    ids=lambda words: ascii(" ".join(words))[:30],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(compare, students):
    code, out, err = compare(students=students)
    assert code == 2 and "points" not in out and err.count("\n") == 1 and err.startswith("kdlib: ")
    if "ada=nothing.npy" in students:
        assert not out  # not after the work on the first


def test_methods_of_a_study_on_record_are_students(records_folder, monkeypatch, tmp_path, capsys):
    from synthetic import TINY, write_study

    from kdlib.study import grids

    write_study(TINY, ada_alpha=lambda seed, split: np.linspace(0.9, 0.6, 10))
    monkeypatch.setitem(grids.STUDIES, "tiny", TINY)
    both = given.audit_study("tiny", method=["kd", "ada_alpha"])
    for name, a in both.audits.items():
        alone = given.audit_study("tiny", method=name).metrics["average_gain"]
        np.testing.assert_equal(vars(a.metrics["average_gain"]), vars(alone))
        assert a.compared == 2
    out = ["--out", str(tmp_path / "x.html")]
    assert main(["audit", "--study", "tiny", "--method", "kd", "ada_alpha", *out]) == 0
    assert (tmp_path / "x-ada_alpha.html").exists()
    for methods, said in ((["kd", "kd"], "is named twice"), (["kd", "kdd"], "no method 'kdd'")):
        assert main(["audit", "--study", "tiny", "--method", *methods, *out]) == 2
        assert said in capsys.readouterr().err


# ---------------------------------------------------------------- in a browser


def test_the_page_fits_its_window_shows_its_figure_first_and_links_to_each_student(
    browser, found, tmp_path
):
    hostile = dataclasses.replace(found, title=HOSTILE)
    [html, *_] = hostile.save(tmp_path / "my audit.html")
    for width, height in ((390, 844), (1280, 900), (1920, 1080)):
        look(browser, width)
        browser.get("about:blank")
        requested(browser)
        browser.get(html.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        figure = "return document.querySelector('.kd-figure img').getBoundingClientRect().top"
        assert browser.execute_script(figure) < height
        boxes = "[...document.querySelectorAll('.scroll')]"
        cut = f"return {boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).length"
        unfold(browser)
        assert width == 390 or browser.execute_script(cut) == 0
        assert len(requested(browser)) == 1
    browser.find_element("link text", "ada_alpha").click()
    assert browser.title.startswith("ada_alpha: ") and "my%20audit-ada_alpha" in browser.current_url
