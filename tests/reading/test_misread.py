"""What was once read as something else without a word: each with a truth of its own."""

import numpy as np
import pandas as pd
import pytest
import refusals
import torch
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, log_loss, recall_score

import kdlib

N, C = 300, 4
RNG = np.random.default_rng(11)
Y = RNG.integers(C, size=N)
NAMES = np.array(["aquarium_fish", "Big truck", "cat", "oak-tree"], dtype=object)
OTHERWISE = np.array(["Aquarium fish ", "big_truck", "cat", "oak tree"], dtype=object)
ORDER = RNG.permutation(N)


def logits(accuracy, y=Y, classes=C):
    z = RNG.normal(size=(len(y), classes))
    z[np.arange(len(y)), y] += np.where(RNG.random(len(y)) < accuracy, 6, -6)
    return z


Z = {"teacher": logits(0.9), "student": logits(0.6)}
A = {role: z.argmax(axis=1) for role, z in Z.items()}


def audit(labels, make, **options):
    """An audit, quick; make gives what a role's model says."""
    return kdlib.audit(labels, make("teacher"), make("student"), **{"resamples": 2} | options)


def refused(labels, make, **options):
    return refusals.refused(audit, labels, make, **options)


def right(found, y=Y, answers=A):
    """The audit, if each model is right as often as scikit-learn says, in all and in each class."""
    for role, own in answers.items():
        true = 100 * accuracy_score(y, own)
        assert found.metrics[f"{role}_accuracy"].estimate == pytest.approx(true, abs=1e-9)
    of_class = 100 * recall_score(y, answers["student"], average=None, labels=np.unique(y))
    np.testing.assert_allclose(sorted(found.groups.student), sorted(of_class), atol=1e-9)
    return found


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    "make",
    [
        lambda role: OTHERWISE[A[role]],
        lambda role: {"pred": OTHERWISE[A[role]], "label": OTHERWISE[Y]},
        lambda role: pd.DataFrame(Z[role], columns=OTHERWISE),
        lambda role: pd.DataFrame(Z[role], columns=[f"logit_{name}" for name in OTHERWISE]),
    ],
)
def test_classes_spelled_in_two_ways_are_one(make):
    for given in ((), NAMES):
        found = right(audit(NAMES[Y], make, classes=given if len(given) else None))
        assert set(found.class_names) == set(NAMES)
        said = "'Aquarium fish' is taken as class 'aquarium_fish', and 2 more that are spelled"
        assert said in found.read[-1] and not found.warnings


def test_what_could_be_two_classes_is_joined_with_none():
    names = np.array(["B", "b", "B-", "c"])
    odd = np.array(["B", "_B", "B-", "C"])  # the second could be B or b, the fourth is c
    found = audit(names[Y], lambda role: odd[A[role]])
    wrong = np.where(A["student"] == 1, -1, A["student"])
    assert set(found.class_names) == {*names, "_B"}
    true = 100 * accuracy_score(Y, wrong)
    assert found.metrics["student_accuracy"].estimate == pytest.approx(true, abs=1e-9)
    twice = pd.DataFrame(Z["student"], columns=["B", "b", "B-", "c"]).assign(**{"b-": -9.0})
    assert set(audit(names[Y], lambda role: twice).class_names) == {*names, "b-"}


def test_many_classes_that_no_example_has_are_warned_of_together():
    """Each is predicted in less than a twentieth of the examples."""
    names = np.array([*"abcd", *(f"other {k}" for k in range(9))])
    odd = np.where(np.arange(N) % 9 == 0, 4 + np.arange(N) // 9 % 9, A["student"])
    models = {"teacher": A["teacher"], "student": odd}
    found = audit(names[Y], lambda role: names[models[role]])
    share = 100 * np.mean(odd >= 4)
    said = f" and 8 other classes in {share:.0f} % of examples, and none is of these: are they "
    assert [said in sentence for sentence in found.warnings] == [True]


@pytest.mark.parametrize("numbers", [[0, 1, 2, 4], [3, 5, 6, 9], [0, 1, 2, 3], [2, 3, 4, 5]])
def test_numbers_behind_a_word_for_scores_are_names_of_classes_not_places(numbers):
    """Also where the last class occurs nowhere, so that every label could be a place."""
    own = np.array([*numbers, numbers[-1] + 1])
    names = [f"logit_{number}" for number in own]
    for order in (np.arange(5), RNG.permutation(5)):

        def make(role, order=order):
            wide = np.c_[Z[role], np.full(N, -9.0)]
            return pd.DataFrame(wide, columns=names).iloc[:, order]

        found = right(audit(own[Y], make))
        assert found.class_names == tuple(map(str, own))
        sizes = dict(zip(found.groups.group, found.groups.n, strict=True))
        assert sizes == {str(own[k]): n for k, n in enumerate(np.bincount(Y))}


def test_a_label_that_no_column_is_numbered_by_is_refused():
    names = [f"prob_{k}" for k in (0, 1, 2, 4)]
    said = refused(Y, lambda role: pd.DataFrame(Z[role], columns=names))
    row = np.argmax(Y == 3)
    assert said == f"labels: label in row {row} is 3, not a class; known are 0, 1, 2, 4."


TWO = Y % 2
PAIR = {role: logits(share, TWO, 2) for role, share in (("teacher", 0.9), ("student", 0.7))}
OF_PAIR = {role: z.argmax(axis=1) for role, z in PAIR.items()}


@pytest.mark.parametrize(
    ("names", "column", "which"),
    [
        (["fake", "real"], "fake", 0),
        (["fake", "real"], "prob_fake", 0),
        (["fake", "real"], "P(Fake)", 0),
        (["fake", "real"], "score", 1),
        (["fake", "real"], "prob_real", 1),
        (["a b", "real"], "prob_a_b", 0),
        ([0, 1], "prob_0", 0),
        ([0, 1], "p1", 1),
        ([1, 2], "prob_1", 0),
        ([1, 2], "output", 1),
        ([-1, 1], "prob_-1", 0),
        ([-1, 1], "prob_1", 1),
    ],
)
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_one_score_is_of_the_class_that_its_column_is_called_after(names, column, which, kind):
    def make(role):
        score = PAIR[role][:, which] - PAIR[role][:, 1 - which]
        return {column: score if kind == "logits" else expit(score)}

    found = right(audit(np.array(names)[TWO], make), TWO, OF_PAIR)
    said = f"taken as that of class '{names[which]}', the {'second' if which else 'first'}."
    assert said in found.read[-1]
    loss = log_loss(TWO, softmax(PAIR["student"], axis=1))
    assert found.metrics["student_log_loss"] == pytest.approx(loss, abs=1e-9)


# ---------------------------------------------------------------- rows


def keyed(role, key, kind=int):
    return {key: (3 * ORDER).astype(kind), "logits": Z[role][ORDER]}


@pytest.mark.parametrize("key", ["idx", "indices", "key", "row", "Image Name", "image_ids"])
@pytest.mark.parametrize("kind", [int, str])
def test_a_column_of_numbers_that_labels_and_models_share_tells_rows_apart(key, kind, tmp_path):
    np.savez(tmp_path / "y.npz", **{key: (3 * np.arange(N)).astype(kind)}, label=Y)

    def make(role):
        np.savez(tmp_path / f"{role}.npz", **keyed(role, key, kind))
        return tmp_path / f"{role}.npz"

    found = right(audit(tmp_path / "y.npz", make))
    assert "joined by id" in found.read[0]
    table = pd.DataFrame({key: 3 * np.arange(N), "label": Y}).iloc[ORDER[::-1]]
    tables = audit(
        table.reset_index(drop=True),
        lambda role: pd.DataFrame({key: 3 * ORDER, "pred": A[role][ORDER]}),
        groups=pd.DataFrame({"id": 3 * np.arange(N), "group": NAMES[Y]}),
    )
    right(tables)


def test_ids_in_no_order_that_the_labels_lack_are_refused():
    said = refused(Y, lambda role: keyed(role, "image_ids"))
    assert said.startswith("teacher: its ids come in no order and labels has none;")


@pytest.mark.parametrize(
    "other",
    [ORDER + 1, np.r_[ORDER[:-1], ORDER[0]], ORDER + 0.5, [f"s{k}" for k in ORDER]],
    ids=["other values", "one value twice", "fractions", "text"],
)
def test_numbers_that_differ_between_labels_and_models_are_no_ids(other):
    labels = {"seconds": np.arange(N), "label": Y}
    found = right(audit(labels, lambda role: {"seconds": other, "logits": Z[role]}))
    assert "in the order of the rows" in found.read[0]
    turned = {"seconds": np.array(other), "label": Y}
    models = {role: {"seconds": np.arange(N), "logits": z} for role, z in Z.items()}
    assert "in the order of the rows" in right(audit(turned, models.get)).read[0]


def saved(role, folder, batch):
    """The file of a loader's batches, in ORDER; batch: one of its logits, a tensor, and paths."""
    path = folder / f"{role}.pt"
    z = torch.from_numpy(Z[role])[ORDER].split(64)
    paths = [[f"{k}.png" for k in some.tolist()] for some in torch.from_numpy(ORDER).split(64)]
    torch.save([batch(*both) for both in zip(z, paths, strict=True)], path)
    return path


def test_batches_with_paths_are_joined_by_these(tmp_path):
    labels = pd.DataFrame({"path": [f"test/{k}.png" for k in range(N)], "label": Y})
    for as_kept in (list, tuple):
        found = audit(
            labels,
            lambda role, kept=as_kept: saved(
                role,
                tmp_path,
                lambda z, of: {"logits": z, "path": kept(of), "loss": 0.5, "tokens": [[1], []]},
            ),
        )
        assert "joined by id" in right(found).read[0]


@pytest.mark.parametrize("batch", [lambda z, of: (z, of), lambda z, of: [z, 0.5]])
def test_batches_of_tensors_and_lists_are_refused(batch, tmp_path):
    said = refused(Y, lambda role: saved(role, tmp_path, batch))
    assert said == (
        f"{tmp_path}/teacher.pt: holds batches in which not all is a tensor; make each batch a "
        "dictionary, as in {'logits': tensor, 'path': list}."
    )


def test_a_column_without_a_name_that_counts_the_rows_is_no_id(tmp_path):
    def make(role):
        pd.DataFrame(Z[role], columns=NAMES).to_csv(tmp_path / f"{role}.csv")
        return tmp_path / f"{role}.csv"

    groups = pd.DataFrame({"Unnamed: 0": np.arange(N), "group": NAMES[Y]})
    for ids in ([f"{k}.png" for k in range(N)], ORDER):
        labels = pd.DataFrame({"id": ids, "label": Y})
        for how in (make, lambda role: pd.read_csv(make(role))):
            right(audit(labels, how, groups=groups))


def test_a_column_without_a_name_is_the_id_where_the_labels_have_it_or_it_has_an_order(tmp_path):
    tables = {role: pd.DataFrame({"pred": own}) for role, own in A.items()}

    def make(role):
        tables[role].to_csv(tmp_path / f"{role}.csv")
        return tmp_path / f"{role}.csv"

    labels = tmp_path / "y.csv"
    pd.DataFrame({"label": Y}).iloc[ORDER].to_csv(labels)
    assert "joined by id" in right(audit(labels, make)).read[0]  # though models only count
    tables["student"] = tables["student"].iloc[ORDER[::-1]]
    for first in (labels, Y):
        assert "joined by id" in right(audit(first, make)).read[0]


def test_another_id_goes_before_a_column_without_a_name(tmp_path):
    files = np.array([f"{k}.png" for k in range(N)])
    for key in ("filename", "id", "PassengerId"):

        def make(role, key=key):
            table = pd.DataFrame(Z[role], columns=NAMES).assign(**{key: files}).iloc[ORDER]
            table.reset_index(drop=True).to_csv(tmp_path / f"{role}.csv")
            return tmp_path / f"{role}.csv"

        found = right(audit(pd.DataFrame({"id": files, "label": Y}), make))
        assert "joined by id" in found.read[0]


# ---------------------------------------------------------------- numbers in text


def delimited(folder, rows, name="w.tsv", mark="\t"):
    path = folder / name
    path.write_text("".join(f"{mark.join(map(str, row))}\n" for row in rows), encoding="utf-8")
    return path


def test_commas_that_may_separate_thousands_are_refused(tmp_path):
    w = np.where(np.arange(N) % 3, 987, 12345 + np.arange(N))
    for mark in "\t;":
        path = delimited(
            tmp_path, [("id", "weight"), *((k, f"{v:,}") for k, v in enumerate(w))], mark=mark
        )
        assert refused(Y, Z.get, weights=path) == (
            f"{path}: column 'weight' holds '12,345', which may mean 12345 or 12.345; write "
            "numbers with a decimal point, or without any comma."
        )
    counts = [("class", "count"), *((k, f"{k + 1},000") for k in range(C))]
    said = refused(Y, Z.get, train_counts=delimited(tmp_path, counts))
    assert "column 'count' holds '1,000', which may mean 1000 or 1.000;" in said


def test_a_comma_is_a_decimal_one_where_a_number_says_so(tmp_path):
    """To three digits, of which one below 1 has no thousands; the first rows do not tell."""
    w = np.round(np.r_[1.25 + np.arange(N - 1) / 100, 0.125], 3)
    rows = [("id", "weight"), *((k, f"{v:.3f}".replace(".", ",")) for k, v in enumerate(w))]
    found = audit(Y, Z.get, weights=delimited(tmp_path, rows))
    pd.testing.assert_frame_equal(found.groups, audit(Y, Z.get, weights=w).groups)
    true = 100 * np.average(A["student"] == Y, weights=w)
    assert found.metrics["student_accuracy"].estimate == pytest.approx(true)


WITH_COMMAS = ["tench, Tinca tinca", "great white shark, white shark, man-eater", "cock", "hen"]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("s.tsv", {"sep": "\t"}),
        ("s.csv", {"sep": "\t"}),
        ("s.csv", {"sep": ";", "decimal": ","}),
        ("s.csv", {"sep": ";"}),
        ("s.csv", {"sep": "|", "decimal": ","}),
        ("s.tsv", {"sep": ","}),
        ("s.csv", {"sep": ","}),
    ],
)
def test_commas_in_names_and_numbers_separate_no_cells(name, how, tmp_path):
    def make(role):
        path = tmp_path / f"{role}_{name}"
        pd.DataFrame(Z[role], columns=WITH_COMMAS).to_csv(path, index=False, **how)
        return path

    found = right(audit(np.array(WITH_COMMAS)[Y], make))
    assert set(found.class_names) == set(WITH_COMMAS)


@pytest.mark.parametrize("names", [["a, b", "c", "d", "e"], ["a;b", "c", "d", "e"]])
def test_the_first_rows_say_what_separates_cells(names, tmp_path):
    """A comma and semicolons cut this header into as many cells, or more, than the right one."""
    for mark in ",;":
        rows = [[f'"{name}"' if mark in name else name for name in names], *Z["student"]]
        path = delimited(tmp_path, rows, "s.csv", mark)
        models = {"teacher": Z["teacher"], "student": path}
        right(audit(np.array(names)[Y], models.get, classes=names))


def test_one_column_may_hold_numbers_with_a_decimal_comma_but_no_unquoted_names_with_one(tmp_path):
    w = RNG.random(N)
    expected = audit(Y, Z.get, weights=w).groups
    for name in ("w.csv", "w.tsv"):
        path = tmp_path / name
        pd.DataFrame({"weight": w}).to_csv(path, index=False, sep=";", decimal=",")
        pd.testing.assert_frame_equal(audit(Y, Z.get, weights=path).groups, expected)
    names = [(name,) for name in np.array(WITH_COMMAS)[Y]]
    labels = delimited(tmp_path, [("label",), *names], "y.csv")
    assert "not a readable csv file" in refused(labels, Z.get)


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("word", ["NA", "nan", "NaN", "NULL", "None"])
def test_what_says_na_is_missing_among_numbers_and_in_text_where_it_is_asked(word, tmp_path):
    none = np.arange(N) % 10 == 3
    sex = np.where(none, word, np.where(Y % 2, "f", "m"))
    old = np.arange(N) // 10 % 2 == 1
    age = np.where(none, word, (np.where(old, 60, 30) + np.arange(N) % 3).astype(str))
    path = tmp_path / "g.csv"
    pd.DataFrame({"sex": sex, "age": age}).to_csv(path, index=False)

    def sizes(**how):
        found = audit(Y, Z.get, groups=path, **how)
        return found, dict(zip(found.groups.group, found.groups.n, strict=True))

    f, m = np.sum(~none & (Y % 2 == 1)), np.sum(~none & (Y % 2 == 0))
    assert sizes(by="sex", missing_groups="drop")[1] == {"f": f, "m": m}
    assert sizes(by="sex", missing_groups="own")[1] == {"f": f, "m": m, "missing": 30}
    found, of_text = sizes(by="sex")
    assert of_text == {"f": f, "m": m, word: 30}
    said = f"'sex' is '{word}' in 30 rows and is taken as a group; "
    assert f"{said}--missing-groups treats it as missing." in found.read[-1]
    ranges = {"age 30 to 32": np.sum(~none & ~old), "age 60 to 62": np.sum(~none & old)}
    assert sizes(by="age:2", missing_groups="drop")[1] == ranges
    assert sizes(by="age:2", missing_groups="own")[1] == ranges | {"age=missing": 30}
    for by in ("age", "age:2"):
        said = refused(Y, Z.get, groups=path, by=by)
        assert f"{path}: 'age' is missing in 30 of 300 rows, first in row 3;" in said


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(
    "lines",
    [
        "0,aquarium\n1,truck\n2,cat\n3,oak\n",
        "1 aquarium\n4 oak\n3 cat\n2 truck",
        "0: aquarium\r\n1: truck\r\n2: cat\r\n3: oak\r\n",
    ],
)
def test_numbered_lines_name_the_classes_by_their_numbers(tmp_path, lines):
    (tmp_path / "classes.txt").write_text(lines)
    found = right(audit(Y, Z.get, classes=tmp_path / "classes.txt"))
    students = found.groups.set_index("group").student.to_dict()
    of_class = recall_score(Y, A["student"], average=None)
    expected = dict(zip(["aquarium", "truck", "cat", "oak"], 100 * of_class, strict=True))
    assert students == pytest.approx(expected)


def test_numbers_that_do_not_count_the_lines_are_parts_of_names(tmp_path):
    names = ["1 euro", "2 euro", "5 euro", "10 euro"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    found = audit(Y, Z.get, classes=tmp_path / "classes.txt")
    assert sorted(found.groups.group) == sorted(names)


@pytest.mark.parametrize("options", [{"index": False}, {"index": False, "float_format": "%.6g"}])
def test_a_table_cut_by_spaces(tmp_path, options):
    def make(role):
        table = pd.DataFrame(Z[role]).add_prefix("logit_")
        table.to_csv(tmp_path / f"{role}.csv", sep=" ", **options)
        return tmp_path / f"{role}.csv"

    right(audit(Y, make))


def test_numbers_cut_by_spaces_lose_no_row_to_the_header(tmp_path):
    def make(role):
        np.savetxt(tmp_path / f"{role}.csv", Z[role])
        return tmp_path / f"{role}.csv"

    right(audit(Y, make))


def test_blank_lines_at_the_end_of_a_table_are_no_rows(tmp_path):
    def make(role):
        text = pd.DataFrame(Z[role]).add_prefix("logit_").assign(label=Y).to_csv(index=False)
        (tmp_path / f"{role}.csv").write_text(text + "\n\n")
        return tmp_path / f"{role}.csv"

    right(audit(f"{make('teacher')}:label", make))


@pytest.mark.parametrize("header", ["fine", "naive", "infant", "#label", ""])
def test_a_text_file_whose_header_has_the_letters_of_nan_and_inf_is_a_table(tmp_path, header):
    lines = [header] * bool(header) + [str(c) for c in Y]
    (tmp_path / "y.txt").write_text("\n".join(lines))
    right(audit(tmp_path / "y.txt", Z.get))


@pytest.mark.parametrize("row_names", [False, True])
def test_tables_as_r_writes_them(tmp_path, row_names):
    """write.table(d, file), and the same with row.names = FALSE."""

    def written(name, column, values):
        lines = [f'"{v}"' if not row_names else f'"{i}" "{v}"' for i, v in enumerate(values, 1)]
        (tmp_path / name).write_text("\n".join([f'"{column}"', *lines, ""]))
        return tmp_path / name

    labels = written("y.txt", "label", NAMES[Y])
    right(audit(labels, lambda role: written(f"{role}.txt", "pred", NAMES[A[role]])))
    groups = "\n".join(['"sex" "race"', *(f'"{"FM"[i % 2]}" "a b {i % 3}"' for i in range(N))])
    (tmp_path / "groups.txt").write_text(groups)
    found = audit(Y, Z.get, groups=tmp_path / "groups.txt", by=["race"])
    expected = [100 * (A["student"] == Y)[k::3].mean() for k in range(3)]
    np.testing.assert_allclose(found.groups.student, expected)


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_a_list_of_files_and_classes_cut_by_spaces_is_refused(tmp_path, suffix):
    """Its first row would be lost, and each line be a class."""
    listed = tmp_path / f"pred.{suffix}"
    listed.write_text("".join(f"img_{i}.jpg {c}\n" for i, c in enumerate(A["student"])))
    said = refused(Y, lambda role: Z[role] if role == "teacher" else listed)
    assert "spaces cut its rows, such as 'img_49.jpg " in said and "put tabs or commas" in said


def test_missing_values_of_all_columns_of_groups_are_rows(tmp_path):
    table = pd.DataFrame({"sex": ["F", "M"] * (N // 2), "race": ["a", "b", "b"] * (N // 3)})
    table.iloc[-2:] = ""
    table.to_csv(tmp_path / "groups.csv", index=False)
    groups = {"groups": tmp_path / "groups.csv", "missing_groups": "own"}
    assert audit(Y, Z.get, **groups).n == N


# ---------------------------------------------------------------- names of classes in a file


@pytest.mark.parametrize(
    "lines",
    [
        "id,name\n0,aquarium\n1,truck\n2,cat\n3,oak\n",
        ",name\n0,aquarium\n1,truck\n2,cat\n3,oak\n",
        "name\naquarium\ntruck\ncat\noak\n",
        "cat,2\noak,3\naquarium,0\ntruck,1\n",
        '0,"aquarium"\n1,truck\n2,cat\n3,"oak"\n',
    ],
)
def test_headers_numbers_and_quotes_are_no_names(tmp_path, lines):
    (tmp_path / "names.csv").write_text(lines)
    found = audit(Y, Z.get, classes=tmp_path / "names.csv")
    assert found.class_names == ("aquarium", "truck", "cat", "oak")


@pytest.mark.parametrize("unit", ["star{}", "to 9", "background{}"])
def test_names_that_begin_with_numbers_stay_whole_if_only_these_tell_them_apart(tmp_path, unit):
    names = [f"{k} {unit.format('s' if k > 1 else '')}" for k in range(1, 5)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert audit(Y, Z.get, classes=tmp_path / "names.txt").class_names == tuple(names)


def test_given_names_are_counted_from_where_labels_and_answers_count(tmp_path):
    names = ["aquarium", "truck", "cat", "oak"]
    found = right(audit(Y + 1, lambda role: A[role] + 1, classes=names))
    assert found.class_names == tuple(names)
    assert "labels: numbers count the names of classes from 1." in found.read
    found = audit(Y + 1, lambda role: A[role] + 1, classes=[*names, "yak"])
    assert (
        "class 0 is 'aquarium', which never occurs; if that should be class 1, write the names "
        "with their numbers, as in '1 cat'." in found.read[1]
    )
    lines = [f"{k} {name}" for k, name in enumerate([*names, "yak"], 1)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    found = audit(Y + 1, lambda role: A[role] + 1, classes=tmp_path / "classes.txt")
    assert right(found).groups.group.to_list() == names


# ---------------------------------------------------------------- scores


def test_the_only_column_of_a_table_without_names_is_the_second_class(tmp_path):
    y = (Y > 1).astype(int)
    p = {role: expit(RNG.normal(size=N) + 3 * y - 1.5) for role in ("teacher", "student")}

    def make(role):
        pd.DataFrame(p[role]).to_csv(tmp_path / f"{role}.csv")
        return tmp_path / f"{role}.csv"

    answers = {role: (of > 0.5).astype(int) for role, of in p.items()}
    right(audit(y, make), y, answers)


def test_labels_of_yes_and_no_are_columns_called_so(tmp_path):
    y = Y > 1
    p = {role: expit(RNG.normal(size=N) + 3 * y - 1.5) for role in ("teacher", "student")}
    pd.DataFrame({"label": y}).to_csv(tmp_path / "y.csv", index=False)
    answers = {role: of > 0.5 for role, of in p.items()}
    for order in (["True", "False"], ["False", "True"]):

        def make(role, order=order):
            table = pd.DataFrame({"prob_True": p[role], "prob_False": 1 - p[role]})
            return table[[f"prob_{name}" for name in order]]

        right(audit(tmp_path / "y.csv", make), y, answers)


@pytest.mark.parametrize("make", [lambda p: 5 * p, lambda p: np.round(500 * p)])
def test_sums_of_several_models_and_votes_are_probabilities(make):
    p = np.array([RNG.multinomial(500, row) for row in softmax(logits(0.8), axis=1)]) / 500
    found = audit(Y, lambda role: make(p) if role == "teacher" else Z[role])
    true = log_loss(Y, np.clip(p, 1e-12, 1), labels=range(C))
    assert found.metrics["teacher_log_loss"] == pytest.approx(true, rel=1e-3)


# ---------------------------------------------------------------- rows, groups, counts


def test_groups_of_tables_that_were_put_together_are_a_row_an_example(tmp_path):
    parts = [pd.DataFrame({"group": ["A"] * 200}), pd.DataFrame({"group": ["B"] * (N - 200)})]
    pd.concat(parts).to_csv(tmp_path / "groups.csv")
    found = audit(Y, Z.get, groups=tmp_path / "groups.csv")
    hits = A["student"] == Y
    expected = [100 * hits[:200].mean(), 100 * hits[200:].mean()]
    np.testing.assert_allclose(found.groups.student, expected)


def test_counts_go_by_the_column_that_names_the_groups(tmp_path):
    counts = pd.DataFrame({"class": range(C), "count": [5, 500, 60, 900]})
    counts = counts.assign(share=counts["count"] / 1465).sort_values("count")
    counts.to_csv(tmp_path / "counts.csv", index=False)
    found = audit(Y, Z.get, train_counts=tmp_path / "counts.csv")
    assert found.groups.n_train.to_list() == [5, 500, 60, 900]
    counts.drop(columns="class").assign(other=1).to_csv(tmp_path / "counts.csv", index=False)
    said = refused(Y, Z.get, train_counts=tmp_path / "counts.csv")
    assert "holds share, other beside the counts; call the groups' column group" in said


def test_rows_in_another_order_are_told_from_chance_also_where_classes_are_rare():
    y = (RNG.random(1500) < 0.08).astype(int)
    z = np.column_stack([np.zeros(1500), 6 * y - 3 + RNG.normal(size=1500)])
    moved = z[RNG.permutation(1500)]
    found = audit(y, lambda role: z if role == "teacher" else moved)
    assert any(
        "are its rows, and its classes, in the same order as the labels?" in w
        for w in found.warnings
    )
    assert not audit(y, lambda role: z).warnings


def test_text_in_another_order_is_no_misread_pair_of_rows(tmp_path):
    """Also where one text is there twice, so that it cannot tell rows apart."""
    text = [f"sentence {i}" for i in range(N)]
    text[200] = text[20]
    pd.DataFrame({"sentence": text, "label": Y}).to_csv(tmp_path / "y.csv", index=False)

    def make(role, order=slice(None)):
        table = pd.DataFrame(Z[role]).add_prefix("logit_").assign(sentence=text)
        table.iloc[order].to_csv(tmp_path / f"{role}.csv", index=False)
        return tmp_path / f"{role}.csv"

    right(audit(tmp_path / "y.csv", make))
    said = refused(tmp_path / "y.csv", lambda role: make(role, ORDER))
    assert "its rows come in another order; give both a column id" in said


def test_a_label_that_marks_what_is_to_be_ignored_is_pointed_at():
    y = np.where(np.arange(N) % 8, Y, 255)
    found = audit(y, A.get)
    assert any(
        w.startswith("Label 255, in 13 % of examples, lies far above") for w in found.warnings
    )
    assert not any("far above" in w for w in audit(Y, A.get).warnings)
    said = refused(np.where(np.arange(N) % 8, Y, -100), A.get)
    assert "-100, not a number from 0 to 3; leave out examples that are marked" in said


@pytest.mark.parametrize("in_text", [True, False])
def test_classes_that_are_called_by_numbers_with_zeros_in_front(tmp_path, in_text):
    """pandas reads 01 as 1."""
    names = [f"{k:02}" for k in range(1, C + 1)]
    pd.DataFrame({"label": np.array(names)[Y]}).to_csv(tmp_path / "y.csv", index=False)

    def make(role):
        pd.DataFrame(Z[role], columns=names).to_csv(tmp_path / f"{role}.csv", index=False)
        answers = pd.DataFrame({"prediction": np.array(names)[A[role]]})
        answers.to_csv(tmp_path / f"{role}-text.csv", index=False)
        return tmp_path / f"{role}{'-text' * in_text}.csv"

    (tmp_path / "names.txt").write_text("\n".join(names))
    for classes in (None, tmp_path / "names.txt"):
        found = right(audit(tmp_path / "y.csv", make, classes=classes))
        assert len(found.class_names) == C


def test_text_that_is_not_utf_8_is_told_how_to_be_saved(tmp_path):
    """As Excel writes CSV by default."""
    file = tmp_path / "y.csv"
    file.write_bytes("label\ncaf\xe9\ncat\n".encode("cp1252"))
    said = refused(file, lambda role: Z[role])
    assert said.startswith(f"{file}: is not text in UTF-8 (") and "CSV UTF-8" in said
