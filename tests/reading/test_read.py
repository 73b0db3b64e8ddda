"""What an audit reads: the same content in every form, hostile and clumsy input. The outcome is a
right answer or one sentence."""

import io
import itertools
import pickle
import string
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy.special import log_softmax

import kdlib
from kdlib.auditing.facts import facts
from kdlib.auditing.page import page
from kdlib.reading import classes, columns, rows
from kdlib.reading import scores as audit_scores
from kdlib.reading.read import source
from kdlib.reading.sentences import AuditError

N, C = 30, 3
Y = np.arange(N) % C
LOGITS = np.random.default_rng(0).normal(size=(N, C)) + 2 * np.eye(C)[Y]
P = np.exp(log_softmax(LOGITS, axis=1))
OTHER = LOGITS[:, ::-1].copy()
# the score of the first example for a class that is not its own
NEVER = (np.arange(N)[:, None] == 0) & (np.arange(C) == 1)
SURE = np.exp(log_softmax(np.where(NEVER, -40, LOGITS), axis=1))
ROW = np.arange(N)[:, None]
CATS = ["cat", "dog", "=1+1"]
LETTERS = np.array(["a", "b", "c"])[Y]
WRITE = {  # suffix: what writes a table as such a file
    ".npy": lambda file, table: np.save(file, table.to_numpy()),
    ".npz": lambda file, table: np.savez_compressed(file, table.to_numpy()),
    ".csv": lambda file, table: table.to_csv(file, index=False),
    ".parquet": lambda file, table: table.to_parquet(file),
}
quick = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outputs(labels, model, names=(), kind="auto"):
    """(names of the classes, Outputs) of one model, as an audit reads it."""
    first, found = source(labels, "labels"), source(model, "student")
    y = columns.labels_of(first)
    answers = columns.answers_of(found, y, tuple(names))
    (own,), _ = rows.aligned(first, [answers.source])
    names, (answers,) = classes.classes_of(y, [replace(answers, source=own)], tuple(names))
    y = classes.coded(first, y, names, "label")
    return names, audit_scores.outputs(answers, y, names, kind)


def audit(labels=Y, teacher=LOGITS, student=OTHER, **options):
    """An audit that is quick: two resamples."""
    return kdlib.audit(labels, teacher, student, **{"resamples": 2} | options)


def as_expected(found, y, logits, **tolerance):
    """Whether Outputs are those of logits (N, C) by scipy's definition."""
    log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    label = np.maximum(log_p[np.arange(len(y)), y], np.log(1e-12))
    np.testing.assert_array_equal(found.predicted, log_p.argmax(axis=1))
    np.testing.assert_allclose(found.log_p_label, label, **{"atol": 1e-9} | tolerance)
    np.testing.assert_allclose(found.log_p_predicted, log_p.max(axis=1), atol=1e-9)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------- one content, many forms


@quick
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    classes=st.integers(2, 5),
    scale=st.sampled_from([1e-3, 1, 30, 1e290]),
    kind=st.sampled_from(["logits", "probabilities"]),
)
def test_every_format_gives_identical_outputs_that_are_right(
    tmp_path, seed, n, classes, scale, kind
):
    rng = np.random.default_rng(seed)
    y, logits = rng.integers(0, classes, n), scale * rng.normal(size=(n, classes))
    scores = logits if kind == "logits" else np.exp(log_softmax(logits, axis=1))
    frame = pd.DataFrame(scores, columns=list(string.ascii_letters[:classes]))
    frame.to_csv(tmp_path / "indexed.csv")
    for suffix, write_to in WRITE.items():
        write_to(tmp_path / f"s{suffix}", frame)
    forms = [*tmp_path.glob("*.*"), scores, scores.tolist(), np.asfortranarray(scores)]
    forms += [frame, frame.astype(object), {"scores": scores}, scores.astype(">f8")]
    first, *others = [outputs(y, form, kind=kind)[1] for form in forms]
    for other in others:
        np.testing.assert_array_equal(other.predicted, first.predicted)
        np.testing.assert_array_equal(other.log_p_label, first.log_p_label)
        np.testing.assert_array_equal(other.log_p_predicted, first.log_p_predicted)
    as_expected(first, y, logits)


@pytest.mark.parametrize(
    "labels",
    [
        *map(Y.astype, ("f2", "u8", "S3", str, object, ">i4")),
        Y.tolist(),
        Y[:, None],
        [f" {v} " for v in Y],
        {"y": Y, "more": Y},
        pd.Series(Y, index=Y + 7),
        *map(pd.Series(Y).astype, ("Int64", "category")),
        pd.Series(Y.astype(float)).astype(object),
    ],
    ids=lambda x: type(x).__name__ + str(getattr(x, "dtype", "")),
)
def test_labels_of_every_type(labels):
    names, found = outputs(labels, LOGITS)
    assert names == ("0", "1", "2")
    as_expected(found, Y, LOGITS)


@pytest.mark.parametrize("order", itertools.permutations(range(C)))
def test_columns_in_any_order_are_brought_into_that_of_the_classes(order, tmp_path):
    order = list(order)
    for names in (CATS, ["0", "1", "2"], ["3", "5", "7"]):
        frame = pd.DataFrame(LOGITS, columns=names).iloc[:, order]
        frame.to_csv(tmp_path / "s.csv", index=False)
        for model in (frame, tmp_path / "s.csv"):
            own, found = outputs(np.array(names)[Y], model)
            at = [names.index(name) for name in own]
            as_expected(found, np.array([own.index(names[y]) for y in Y]), LOGITS[:, at])
    straight = pd.DataFrame(LOGITS, columns=CATS)
    turned = straight.iloc[:, order]
    named = audit(np.array(CATS)[Y], straight, turned)
    assert (named.groups.teacher == named.groups.student).all()
    if order != [0, 1, 2]:  # numbers could mean either order
        assert "come in another order than those of teacher" in refused(audit, Y, straight, turned)
        settled = audit(Y, straight, turned, classes=CATS)
        assert (settled.groups.teacher == settled.groups.student).all()


def test_names_and_numbers_agree():
    teacher, student = LOGITS.argmax(axis=1), OTHER.argmax(axis=1)
    text = np.array(["a", "b", "c"])
    by_number = audit(Y, teacher, student).groups
    by_name = audit(text[Y], text[teacher], text[student]).groups
    pd.testing.assert_frame_equal(by_number.assign(group=[*"abc"]), by_name)
    mixed = audit(text[Y], teacher, text[student], classes=[*"abc"]).groups
    pd.testing.assert_frame_equal(mixed, by_name)
    assert refused(audit, text[Y], teacher, student) == (
        "teacher: labels and predicted classes must both be names or both be numbers; otherwise "
        "list the names of the classes in the order of their numbers (--classes)."
    )


def test_class_names_that_are_numbers_are_names():
    """Labels 2 and columns called 2 are one class, wherever the column stands."""
    names, found = outputs(Y + 1, LOGITS, names=["2", "3", "1"])
    as_expected(found, np.array([2, 0, 1])[Y], LOGITS)
    assert names == ("2", "3", "1")
    assert refused(outputs, Y, LOGITS, names=["1", "x", "y"]) == (
        "labels: label in row 1 is 1, not an unambiguous class number, since it is also the name "
        "of a class; use numbers as names of all classes or of none."
    )
    said = refused(outputs, np.array([1, 2, 4])[Y], LOGITS, names=["1", "2", "3"])
    assert said == "labels: label in row 2 is 4, not a class; known are 1, 2, 3."


def test_named_arrays_of_an_npz_are_taken_by_name(tmp_path):
    path, features = tmp_path / "s.npz", np.ones((N, 8))
    np.savez(path, features=features, logits=LOGITS, label=Y, predicted=np.zeros(N, int))
    as_expected(outputs(Y, path)[1], Y, LOGITS)
    np.savez(path, features=features, embedding=LOGITS)
    assert refused(outputs, Y, path) == (
        f"{path}: holds features, embedding; name the column with the scores 'logits' or "
        "'probabilities'."
    )


def test_the_name_of_an_array_and_the_kind_say_what_scores_are():
    flat = np.zeros((N, C))
    as_expected(outputs(Y, {"probabilities": P})[1], Y, LOGITS)
    as_expected(outputs(Y, {"logits": flat})[1], Y, flat)
    as_expected(outputs(Y, {"logits": P}, kind="logits")[1], Y, P)
    as_expected(outputs(Y, {"logits": P}, kind="probabilities")[1], Y, LOGITS)
    assert "called logits, but every row is a probability" in refused(outputs, Y, {"logits": P})
    assert "probabilities lie between 0 and 1" in refused(outputs, Y, {"probabilities": LOGITS})


def test_kept_log_probabilities_are_enough():
    log_p = log_softmax(LOGITS, axis=1)
    kept = {"predicted": log_p.argmax(axis=1), "log_p_label": log_p[np.arange(N), Y]}
    assert "name the column with log-probabilities 'log_p_predicted'" in refused(outputs, Y, kept)
    kept["log_p_predicted"] = log_p.max(axis=1)
    as_expected(outputs(Y, kept)[1], Y, LOGITS)
    for spoilt, words in (
        (-log_p[:, 0], ", not 0 or less."),
        (np.full(N, np.nan), "log_p_label in row 0 is nan, not 0 or less"),
        (CATS * 10, "log_p_label in row 0 is 'cat', not a number"),
    ):
        assert words in refused(outputs, Y, kept | {"log_p_label": spoilt})


def test_a_tensor_is_an_array_and_several_are_seeds():
    for tensor in (torch.tensor(LOGITS), torch.tensor(LOGITS, requires_grad=True)):
        as_expected(outputs(Y, tensor)[1], Y, LOGITS)
    half = torch.tensor(LOGITS).bfloat16()
    as_expected(outputs(Y, half)[1], Y, half.double().numpy())
    assert audit(student=[torch.tensor(OTHER), torch.tensor(LOGITS)]).seeds == 2
    assert audit(student=[pd.Series(Y), pd.Series(Y)]).seeds == 2
    assert audit(student=OTHER.tolist()).seeds == 1
    for odd in (torch.tensor(LOGITS).to_sparse(), torch.zeros(N, C, device="meta")):
        assert refused(outputs, Y, odd).startswith("student: no array (")


@pytest.mark.parametrize(
    ("scores", "same_as"),
    [
        (P, LOGITS),
        (1.005 * P, LOGITS),
        (np.where(NEVER, -1e-9, SURE), np.where(NEVER, -40, LOGITS)),
        (log_softmax(LOGITS, axis=1), LOGITS),
        (LOGITS * 1e300, LOGITS * 1e300),
        (np.where(np.eye(C)[Y] > 0, 1.7e308, -1.7e308), 1e9 * np.eye(C)[Y]),
        (np.where(np.eye(C)[Y] > 0, 0, -np.inf), 1e9 * np.eye(C)[Y]),
        (np.full((N, C), 1 / 3), np.zeros((N, C))),
        (np.eye(C, dtype=int)[Y], 1e9 * np.eye(C)[Y]),
        (LOGITS.astype("f2"), LOGITS.astype("f2")),
        (pd.DataFrame(LOGITS, columns=CATS).astype(str), LOGITS),
    ],
)
def test_scores_at_the_edge(scores, same_as):
    with warnings.catch_warnings(action="error"):
        found = outputs(Y, scores)[1]
    as_expected(found, Y, same_as, atol=2e-8)


def test_half_precision_probabilities_of_a_thousand_classes():
    logits = np.random.default_rng(3).normal(size=(N, 1000)) * 3
    p = np.exp(log_softmax(logits, axis=1)).astype(np.float16)
    assert np.abs(p.astype(np.float64).sum(axis=1) - 1).max() > 1e-5  # they do not add up exactly
    found = outputs(np.arange(N), p)[1]
    np.testing.assert_allclose(np.exp(found.log_p_predicted), p.max(axis=1), rtol=0.01)


def test_scores_are_read_in_chunks(monkeypatch):
    monkeypatch.setattr(audit_scores, "CHUNK", 4 * C)
    as_expected(outputs(Y, LOGITS)[1], Y, LOGITS)
    as_expected(outputs(Y, P)[1], Y, LOGITS)
    assert "the score in column 1 in row 5 is nan" in refused(
        outputs, Y, np.where(ROW == 5, [0, np.nan, 0], P)
    )


# ---------------------------------------------------------------- what is refused


def columns_with(c):
    """Scores by column, of which the last is c."""
    return {"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": c}


GIVE = "list the names of the classes in the order of their numbers (--classes)."
WITHOUT_NAMES = f"not a class; known are 0, 1, 2; {GIVE}"
OVERLAP = np.c_[Y == 0, Y == 1]
REFUSED = {
    "student": [
        (0.9 * P, "like neither logits nor probabilities"),
        (np.zeros((N, C)), "like neither"),
        (np.array([-0.5, 0.5, 1.0]) + 0 * P, "but some are below 0"),
        (np.where(ROW == 7, P / 2, P), "row 7 has values from"),
        (LOGITS > 0, "like neither logits nor probabilities"),
        (LOGITS + 0j, "numbers, a column for each of 3 classes, not complex128 of shape (30, 3)"),
        (LOGITS.astype(object), "not object"),
        (np.where(ROW == 5, [0, np.nan, 0], LOGITS), "score in column 1 in row 5 is nan, not a f"),
        (np.where(ROW == 5, [0, 0, np.inf], LOGITS), "the score in column 2 in row 5 is inf"),
        (np.where(ROW == 5, -np.inf, LOGITS), "the score in column 0 in row 5 is -inf"),
        (LOGITS[:, :1], "predicted class in row 0 is 2.1257302210933933, not a whole number"),
        (LOGITS[None], "has scores of shape (1, 30, 3); a matrix"),
        (LOGITS[:, :, None].astype(int), "has scores of shape (30, 3, 1)"),
        (LOGITS[:, :2], "student: scores must be numbers, a column for each of 3 classes, not"),
        (LOGITS[:-1], "student: 29 rows, but labels has 30."),
        (np.array(3.0), "is no path, array, table or dictionary of arrays"),
        (columns_with(["x"] * N), "student: column 'c' in row 0 is 'x', not a number."),
        (columns_with([*"1" * 4, "nan", *"1" * 25]), "column 'c' in row 4 is 'nan'"),
        (columns_with([*LOGITS[:4, 2], None, *LOGITS[5:, 2]]), "column 'c' in row 4 is None"),
        (
            pd.DataFrame(columns_with(pd.date_range("2020", periods=N))),
            "column 'c' in row 0 is '2020-01-01', not a number.",
        ),
        (columns_with([[1, 2]] * N), "a column for each of 3 classes, not int64 of shape (30, 2)"),
        ([OTHER, OTHER[:-1]], "student 1: 29 rows"),
        ([], "student: 0 rows, but labels has 30."),
        (None, "an audit needs a teacher and a student."),
    ],
    "labels": [
        (Y + 0.5 * (Y == 1), "label in row 1 is 1.5, not a whole number of at most 18 digits."),
        (np.where(Y == 2, np.nan, Y), "labels: label in row 2 is nan, not a whole number of"),
        (np.full(N, 2**63 + 5, np.uint64), "label in row 0 is 9223372036854775813, not a whole"),
        (Y + 2, "labels: label in row 1 is 3, not a number from 0 to 2; where numbers are names, "),
        (Y + 3 * (Y == 2), "labels: label in row 2 is 5, not a number from 0 to 2."),
        (Y - 1, "labels: label in row 0 is -1, not a number from 0 to 2; leave out"),
        (Y + 0j, "labels: label must be one column of numbers or names, not complex128 of shape"),
        (np.eye(C)[Y] + 1, "not float64 of shape (30, 3)."),
        ([], "labels: holds no label."),
        (None, "labels: None is no path, array, table or dictionary of arrays."),
        ((i for i in Y), "labels: <generator object "),
        ([[1], [1, 2]], "labels: no array ("),
        (np.ma.masked_equal(Y, 0), "labels: no array (some values are masked)."),
        ([None] * N, "labels: label in row 0 is None, not a name or a number."),
        ([*"012"] * 9 + ["0", "", "1"], "labels: label in row 28 is '', not a name or a number."),
        (pd.Series(["a"] * 29 + [pd.NA], dtype="string"), "labels: label in row 29 is <NA>"),
        (pd.Series([*Y[:-1], pd.NA], dtype="Int64"), "labels: label in row 29 is nan"),
        (pd.Series([[1, 2], [3]] * 15), "labels: label in row 0 is [1, 2], not a name or a"),
        (pd.DataFrame(), "labels: holds no column."),
        (pd.DataFrame([[1, 2]] * N, columns=["a", "a"]), "labels: two columns are called 'a'."),
        ({1: Y, "1": Y}, "labels: two columns are called '1'."),
        (
            {"a": Y, "b": Y},
            "holds a, b; name the column with the labels 'label', or choose it as FILE:COLUMN.",
        ),
        ([*"01"] * 14 + ["1", "x"], f"labels: label in row 29 is 'x', {WITHOUT_NAMES}"),
        (["²"] * N, f"labels: label in row 0 is '²', {WITHOUT_NAMES}"),
        (["9" * 5000] * N, "labels: label in row 0 is '999"),
    ],
    "classes": [
        (["a", "a", "b"], "class names: 'a' is there twice; each class has its own name."),
        (["a", "b"], "labels: label in row 2 is 2, not a number from 0 to 1."),
        (
            ["a"],
            "names 1 class; with one class there is nothing to predict; two are needed at least.",
        ),
        ([], "with one class there is nothing to predict"),
        ({"id2label": {}}, "with one class there is nothing to predict"),
        (3, "class names: 3 cannot be read ("),
        (["a", None, "b"], "class names: the name in row 1 is None, not a name or a number."),
        (["a", " ", "b"], "class names: the name in row 1 is ' ', not a name"),
        ([[1], [1, 2], [3]], "class names: the name in row 0 is [1], not a name"),
        ("nope.txt", "class names: nope.txt cannot be read (No such file or directory); a list of"),
        ("a\0b", "class names: a\\x00b cannot be read ("),
    ],
    "groups": [
        (
            np.where(Y == 2, np.nan, Y),
            "groups: a group is missing in 10 of 30 rows, first in row 2",
        ),
        (
            {"sex": ["a", ""] * 15},
            "groups: 'sex' is missing in 15 of 30 rows, first in row 1; --mis",
        ),
        (np.arange(N), "groups: group has another value in each of 30 rows; ids must be called id"),
        (Y[:-1], "groups: 29 rows, but labels has 30."),
        (np.c_[Y, Y], "groups: a matrix of groups holds 0 and 1 only, one column for each group."),
        (np.zeros((N, 0)), "holds 0 and 1 only"),
        (np.c_[Y == 0, Y == 7], "groups: 'group 1' has no example; leave empty groups out."),
        (np.zeros((N, 2, 2)), "not float64 of shape (30, 2, 2)."),
        ({"m": OVERLAP, "names": ["a", "a"]}, "needs one name for each column of groups, and each"),
        ({"a": ["b=c"] * N, "a=b": ["c"] * N}, "two groups are called 'a=b=c'; rename a column."),
    ],
    "weights": [
        (-np.ones(N), "weights: weight in row 0 is -1.0, not a finite number, 0 or more."),
        (np.full(N, np.nan), "weight in row 0 is nan"),
        (np.full(N, np.inf), "weight in row 0 is inf"),
        (np.zeros(N), "weights: every weight is 0."),
        ((Y > 0) * 1.0, "all of group '0' have weight 0"),
        (["x"] * N, "weights: weight in row 0 is 'x', not a number."),
        (np.ones((N, 2)), "of shape (30, 2)"),
        (np.ones(N - 1), "29 rows"),
        (np.r_[1e300, np.ones(N - 1)], "weight in row 1 is 1.0, not 0 or within a factor of 1e+12"),
    ],
    "train_counts": [
        ([200, 50], "training counts: has 2 counts for 3 groups."),
        ([-1, 2, 3], "training counts: count in row 0 is -1, not a whole number, 0 or more."),
        ([1.5, 2, 3], "count in row 0 is 1.5, not a whole number"),
        ([np.nan, 2, 3], "count in row 0 is nan"),
        (["a", "1", "2"], "count in row 0 is 'a', not a whole number, 0 or more."),
        (5, "is no path"),
        ({"group": ["0", "1"], "count": [1, 2]}, "has no count for group '2'."),
        (np.ones((3, 2)), "not float64 of shape (3, 2)"),
        ({"group": [*"012"], "count": [1, 2]}, "needs one count for each group, and each group"),
        ({"group": [*"0120"], "count": [1, 2, 3, 4]}, "each group once."),
        ({"a": [1], "b": [1], "c": [1]}, "holds a, b, c; two columns are needed, group and count."),
    ],
    "kind": [
        ("foo", "kind 'foo': allowed are auto, logits"),
        ("classes", "--kind classes needs one column"),
        ("probabilities", "probabilities lie between 0 and 1 and add up to 1."),
    ],
    "worst": [
        (0, "1 or more."),
        (4, "worst 4: must be from 1 to 3"),
        (1.5, "worst 1.5: must be a whole number, 1 or more."),
        ("1", "worst '1'"),
    ],
    "resamples": [(1, "resamples 1: must be a whole number, 2 or more.")],
    "seed": [(-1, "seed -1")],
    "edges": [
        ((20, 100), "edges (20, 100): two"),
        ((1,), "two numbers are needed"),
        (None, "two numbers are needed"),
        (("a", "b"), "two numbers are needed"),
        ((np.nan, 1), "two numbers are needed"),
    ],
}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [(option, *case) for option, cases in REFUSED.items() for case in cases],
)
def test_what_cannot_be_used_is_refused_in_a_sentence_that_says_where_and_why(option, value, said):
    assert said in refused(audit, **{option: value})


@pytest.mark.parametrize("one", [np.zeros(N, int), np.zeros((N, 1), int), ["a"] * N])
def test_one_class_is_too_few(one):
    assert refused(audit, one, one, one).startswith("with one class there is nothing to predict")


def test_very_many_class_numbers_and_very_long_names():
    said = refused(audit, Y, Y * 5 * 10**11, Y)
    assert said == "the classes run to 1000000000000; more than a million are not audited."
    long = ["x" * 10**6, "y", "z"]
    names = np.array(long, dtype=object)[Y].tolist()
    assert audit(names, names, names).class_names == tuple(long)
    assert len(refused(audit, names, names, names, classes=["a", "b", "c"])) < 300


def test_a_name_that_is_nearly_a_class_is_told_the_nearest():
    said = refused(audit, np.array(["cats", "dog", "=1+1"])[Y], classes=CATS)
    assert said == "labels: label in row 0 is 'cats', not a class; the nearest is 'cat'."


def test_half_a_character_is_spelled_out():
    """A lone surrogate, which cannot be written to a file, stands in names as its code."""
    found = audit(classes=["a", "b", "\ud800"], groups=["g\udcff"] * N)
    assert found.class_names[2] == "\\ud800" and list(found.groups.group) == ["g\\udcff"]


def test_a_file_of_class_names(tmp_path):
    for text in ("a\nb\nc", "a\nb\nc\n\n", "\ufeffa\r\nb\r\nc\r\n", " a \nb\nc"):
        assert audit(classes=write(tmp_path, "c.txt", text)).class_names == ("a", "b", "c")
    odd = write(tmp_path, "c.txt", "a\u2028b\n\x0bb\nc")
    assert audit(classes=odd).class_names == ("a\u2028b", "b", "c")
    for text, said in (("a\n\nb", "the name in row 1 is ''"), (b"\xff\xfe", "can't decode")):
        assert said in refused(audit, classes=write(tmp_path, "c.txt", text))


# ---------------------------------------------------------------- files


@settings(quick, max_examples=150)
@given(data=st.data(), suffix=st.sampled_from(list(WRITE)))
def test_any_bytes_in_any_file_are_an_answer_or_a_sentence(tmp_path, data, suffix):
    if data.draw(st.booleans()):
        text = st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass"))
        content = data.draw(st.binary(max_size=200) | text)
    else:
        genuine = io.BytesIO()
        WRITE[suffix](genuine, pd.DataFrame(LOGITS, columns=CATS))
        content = bytearray(genuine.getvalue())
        for _ in range(data.draw(st.integers(1, 3))):
            last = min(len(content) - 1, data.draw(st.sampled_from([20, 200, 10**9])))
            at = data.draw(st.integers(0, last))
            content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        cut = data.draw(st.sampled_from([len(content), len(content) // 2, 10**9]))
        content = bytes(content[:cut])
    path = write(tmp_path, f"file{suffix}", content)
    try:
        found = source(path, "x")
    except AuditError as error:
        said = str(error)
        assert said.startswith(f"{path}: ") and "\n" not in said and "allow_pickle" not in said
    else:
        assert found.columns and all(isinstance(v, np.ndarray) for v in found.columns.values())


def test_what_is_unpickled_would_run_and_does_not(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    content = np.array([Bomb()] * N, dtype=object)
    np.save(tmp_path / "y.npy", content, allow_pickle=True)
    np.savez(tmp_path / "y.npz", y=content)
    write(tmp_path, "raw.npy", pickle.dumps(Bomb()))
    write(tmp_path, "raw.npz", pickle.dumps(Bomb()))
    for name, why in (
        ("y.npy", "it holds Python objects, which are not read"),
        ("y.npz", "it holds Python objects, which are not read"),
        ("raw.npy", "not a readable npy file"),
        ("raw.npz", "not a readable npz file"),
    ):
        assert why in refused(audit, tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    np.load(tmp_path / "y.npy", allow_pickle=True)
    assert (tmp_path / "exploded").exists()  # the bomb works


NO_NAMES = "it must hold the names of the columns, such as label."


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("y.pkl", "1", "ends in '.pkl', but only .npz, .npy, .csv, .tsv, "),
        ("y", "1", "ends in 'nothing', but only"),
        ("y.npy", "", "not a readable npy file ("),
        ("y.npz", "hello", "not a readable npz file (File is not a zip file)."),
        ("y.csv", "", f"its first line is ''; {NO_NAMES}"),
        ("y.csv", "\n1\n", f"its first line is ''; {NO_NAMES}"),
        ("y.csv", "label\n", "holds no label."),
        ("y.csv", "a;b\n1;2\n", "holds a, b; name the column with the labels 'label'"),
        ("y.csv", "a,,b\n1,2,3\n", f"its first line is 'a,,b'; {NO_NAMES}"),
        ("y.csv", "0\n1\n", f"its first line is '0'; {NO_NAMES}"),
        ("y.csv", "0.5,1\n1,2\n", "label must be one column of numbers or names, not float64"),
        ("y.csv", "1,1\n1,2\n", "two columns are called '1'."),
        ("y.csv", "a,a\n1,2\n", "two columns are called 'a'."),
        ("y.csv", "a,b\n1,2,3\n", "not a readable csv file (a row has more cells than the first"),
        ("y.csv", "a,b\n1,2\n1,2,3\n", "not a readable csv file ("),
        ("y.csv", 'a,b\n"1,2\n', "not a readable csv file ("),
        ("y.csv", "label\n1\n\n2\n", "label in row 1 is '', not a name or a number."),
        ("y.csv", "label,x\n1,\n,\n2,\n", "label in row 1 is '', not a name or a number."),
        ("y.csv", b"\xe9\n1\n", "can't decode byte 0xe9"),
        ("y.csv", "cat\ndog\ncat\n", "its first line has 'cat', which is also a value below it; "),
    ],
)
def test_files_that_are_none(tmp_path, name, content, said):
    path = write(tmp_path, name, content)
    got = refused(audit, path)
    assert got.startswith(f"{path}: ") and said in got


def test_paths_that_are_no_file(tmp_path):
    (tmp_path / "d.npy").mkdir()
    for path, said in (
        (tmp_path / "d.npy", "d.npy: is a folder; name the files in it, as in "),
        (tmp_path / "no.npy", "not a readable npy file (No such file or directory)."),
        ("a\0b.npy", "a\\x00b.npy: not a readable npy file (embedded null"),
        ("\udcff.npy", "\\udcff.npy: not a readable npy file (No such file or directory)."),
        ("a" * 5000 + ".npy", "(File name too long)."),
        ("no", "ends in 'nothing'"),
        ("a\nb\x1b[31m.npy", "a\\nb\\x1b[31m.npy"),
    ):
        assert said in refused(audit, path)
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "label must be one column of numbers or names" in refused(audit, tmp_path / "z.npz")


@pytest.mark.parametrize(
    "name",
    [
        "a b'\".npy",
        "$x$ <b>.csv",
        "\u202egpj.parquet",
        "\udcff.npz",
        "\udcff.parquet",
        "naïve—名.csv",
        "UP.NPY",
    ],
)
def test_odd_paths_are_read(tmp_path, name):
    path = tmp_path / name
    with open(path, "wb") as file:
        WRITE[path.suffix.lower()](file, pd.DataFrame({"y": Y}))
    found = source(path, "labels")
    np.testing.assert_array_equal(columns.labels_of(found), Y)
    assert len(found.sha256) == 64
    found.name.encode()  # whatever the path is, its name can be written


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("\ufefflabel\r\n1\r\n2\r\n", {"label": [1, 2]}),
        ("label\r1\r2\r", {"label": [1, 2]}),
        (" a , b \n 1 , 2 \n", {"a": [1], "b": [2]}),
        ("7,5\n4,5\n", {"7": [4], "5": [5]}),
        ("0,1,2\n4,5,6\n", {"0": [4], "1": [5], "2": [6]}),
        ('a\n"1"\n"2"\n', {"a": [1, 2]}),
        ("a\nNA\nnull\n", {"a": ["NA", "null"]}),
        ('a,b\n"x\n,y",2\n', {"a": ["x\n,y"], "b": [2]}),
        ("a\nx\0y\n", {"a": ["x\0y"]}),
        ("a\n0.1\n0.30000000000000004\n", {"a": [0.1, 0.30000000000000004]}),
        (",a\n0,5\n1,6\n", {"a": [5, 6]}),
    ],
)
def test_csv_that_is_odd_but_clear(tmp_path, text, columns):
    found = source(write(tmp_path, "q.csv", text), "x")
    assert {name: values.tolist() for name, values in found.columns.items()} == columns


# ---------------------------------------------------------------- rows and ids


def test_one_file_as_two_seeds_is_refused_and_as_two_roles_is_a_control(tmp_path):
    t, s, copy = (tmp_path / f"{name}.npy" for name in ("t", "s", "copy"))
    for path, scores in ((t, LOGITS), (s, OTHER), (copy, OTHER)):
        np.save(path, scores)
    for models in ({"student": [s, copy]}, {"student": [s, t], "baseline": copy}):
        assert "every training run has a file of its own" in refused(kdlib.audit, Y, t, **models)
    for models in ({"student": s, "baseline": copy}, {"student": t}):
        found = kdlib.audit(Y, t, **models, resamples=2)
        assert "This is a control" in found.warnings[0]
        assert (found.groups.gain == 0).all()
    beside = kdlib.audit(Y, t, s, t, resamples=2)  # the teacher may be a baseline
    assert "control" not in " ".join(beside.warnings)
    assert any("The teacher is also the baseline" in said for said in beside.warnings)
    pool = kdlib.audit(Y, t, s, [t, LOGITS * 2], resamples=2)  # as in self-distillation
    assert not any("also the baseline" in said for said in pool.warnings)


# ---------------------------------------------------------------- groups, weights, counts


def test_groups_of_every_form_are_one():
    forms = [
        LETTERS,
        LETTERS.tolist(),
        LETTERS.astype("S1"),
        pd.Series(LETTERS),
        pd.Series(LETTERS, dtype="category"),
        pd.DataFrame({"g": LETTERS}),
        {"groups": np.eye(3, dtype=bool)[Y], "names": ["a", "b", "c"]},
    ]
    first, *others = [audit(groups=form).groups for form in forms]
    for other in others:
        pd.testing.assert_frame_equal(first, other)
    for form, names in (
        (Y == 1, ["False", "True"]),
        (pd.cut(Y, [-1, 0, 2]), ["(-1, 0]", "(0, 2]"]),
        (Y / 4, ["0.0", "0.25", "0.5"]),
        ({"a": Y % 2, "b": LETTERS}, ["a=0", "a=1", "b=a", "b=b", "b=c"]),
    ):
        assert list(audit(groups=form).groups.group) == names


def test_up_to_fifty_fractions_are_groups():
    y = np.arange(60) % 3
    assert len(audit(y, y, y, groups=np.arange(60) % 50 + 0.5).groups) == 50
    said = refused(audit, y, y, y, groups=np.arange(60) % 51 + 0.5)
    why = "has 51 different numbers; cut it into ranges, as in a table with --by."
    assert said == f"groups: group {why}"


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e308, 1])
def test_the_unit_of_weights_does_not_matter(scale):
    with warnings.catch_warnings(action="error", category=RuntimeWarning):
        found = audit(weights=np.full(N, scale))
    pd.testing.assert_frame_equal(found.groups, audit().groups)


@pytest.mark.parametrize(
    "counts",
    [
        [200, 50, 3],
        ["200", "50", "3"],
        {"1": 50, "0": 200, "2": 3},
        {"group": ["2", "0", "1"], "count": [3, 200, 50]},
        {"count": [3, 200, 50], "group": [2, 0, 1]},
        {"group": ["0", "1", "2", "9"], "count": [200, 50, 3, 7]},
        {"class": ["1", "0", "2"], "n": [50, 200, 3]},
        {"group": ["2", "0", "1"], "share": [0.1, 0.7, 0.2], "count": [3, 200, 50]},
        pd.Series([50, 3, 200], index=["1", "2", "0"]),
        pd.Series([2] * 3 + [1] * 50 + [0] * 200).value_counts().sort_values(),
    ],
    ids=str,
)
def test_counts_of_every_form_are_one(counts):
    assert list(audit(train_counts=counts).groups.n_train) == [200, 50, 3]


# ---------------------------------------------------------------- the smallest audits


@settings(quick, max_examples=10)
@given(
    data=st.data(),
    n=st.integers(1, 8),
    classes=st.integers(2, 3),
    seeds=st.integers(1, 2),
    groups=st.sampled_from(["classes", "each", "one"]),
    with_baseline=st.booleans(),
    weighted=st.booleans(),
)
def test_small_and_degenerate_audits_are_right(
    data, n, classes, seeds, groups, with_baseline, weighted
):
    """One example, groups of one, models that are always or never right: counts by hand, whole page
    and JSON without a fault."""
    cells = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    y = data.draw(cells)
    models = {
        role: [np.array(data.draw(st.just(y) | cells)) for _ in range(seeds)]
        for role in ("teacher", "student", "baseline")[: 2 + with_baseline]
    }
    group = {"classes": None, "each": list(range(n)), "one": [0] * n}[groups]
    weights = st.lists(st.integers(1, 3), min_size=n, max_size=n)
    w = np.array(data.draw(weights)) if weighted else None
    how = {"groups": group, "weights": w, "resamples": 2, "classes": [*"abc"[:classes]]}
    found = kdlib.audit(np.array(y), **models, **how)
    weight, inside = (np.ones(n) if w is None else w), np.array(y if group is None else group)
    for row, g in zip(found.groups.itertuples(), sorted(set(inside)), strict=True):
        some = inside == g
        for role, many in models.items():
            shares = [np.average((of == y)[some], weights=weight[some]) for of in many]
            assert getattr(row, role) == pytest.approx(100 * np.mean(shares))
        assert row.n == some.sum() and 0 <= row.q <= 1
        assert row.low <= row.gain + 1e-9 and row.high >= row.gain - 1e-9
    assert "<h1>" in page(found) and facts(found)["examples"] == n
