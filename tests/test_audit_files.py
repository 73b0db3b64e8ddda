"""What an audit reads: the same content in every form, hostile and clumsy input. The outcome is a
right answer or one sentence."""

import io
import itertools
import pickle
import string
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import kdlib
from kdlib.auditing import inputs as audit_inputs
from kdlib.auditing.files import AuditError, check_rows, printable, source
from kdlib.config import KdlibError

N, C = 30, 3
Y = np.arange(N) % C
LOGITS = np.random.default_rng(0).normal(size=(N, C)) + 2 * np.eye(C)[Y]
P = np.exp(log_softmax(LOGITS, axis=1))
OTHER = LOGITS[:, ::-1].copy()
NEVER = (np.arange(N)[:, None] == 0) & (
    np.arange(C) == 1
)  # the score of the first example for a class that is not its own
SURE = np.exp(log_softmax(np.where(NEVER, -40, LOGITS), axis=1))
CATS = ["cat", "dog", "=1+1"]
quick = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outputs(labels, model, classes=None, kind="auto"):
    """(names of the classes, Outputs) of one model, as an audit reads it."""
    y, first = audit_inputs.labels_of(labels)
    found = source(model, "student")
    check_rows(found, len(y), first)
    names = audit_inputs.classes_of(y, [found], classes)
    return names, audit_inputs.outputs(
        found, audit_inputs.coded(y, names, first.name, "label"), names, kind
    )


def audit(labels=Y, teacher=LOGITS, student=OTHER, **options):
    """An audit that is quick: two resamples."""
    return kdlib.audit(labels, teacher, student, **{"resamples": 2} | options)


def refused(call, *arguments, **options):
    """The sentence of a KdlibError: one line, one full stop at its end."""
    with pytest.raises(KdlibError) as error:
        call(*arguments, **options)
    said = str(error.value)
    assert "\n" not in said and said.endswith(".") and said == printable(said, None)
    return said


def as_expected(found, y, logits):
    """Whether Outputs are those of logits (N, C) by scipy's definition."""
    log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    np.testing.assert_array_equal(found.predicted, log_p.argmax(axis=1))
    floor = np.log(1e-12)
    np.testing.assert_allclose(
        found.log_p_label, np.maximum(log_p[np.arange(len(y)), y], floor), atol=1e-9
    )
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
    np.save(tmp_path / "s.npy", scores)
    np.savez(tmp_path / "s.npz", scores)
    frame.to_csv(tmp_path / "s.csv", index=False)
    frame.to_csv(tmp_path / "indexed.csv")
    frame.to_parquet(tmp_path / "s.parquet")
    forms = [
        *tmp_path.glob("*.*"),
        scores,
        scores.tolist(),
        frame,
        frame.astype(object),
        {"scores": scores},
        np.asfortranarray(scores),
        scores.astype(">f8"),
    ]
    found = [outputs(y, form, kind=kind)[1] for form in forms]
    for other in found:
        np.testing.assert_array_equal(other.predicted, found[0].predicted)
        np.testing.assert_array_equal(other.log_p_label, found[0].log_p_label)
        np.testing.assert_array_equal(other.log_p_predicted, found[0].log_p_predicted)
    as_expected(found[0], y, logits)


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y.tolist(),
        Y.astype("f2"),
        Y.astype("u8"),
        Y.astype("S3"),
        Y.astype(str),
        Y.astype(object),
        Y[:, None],
        pd.Series(Y, index=Y + 7),
        [f" {v} " for v in Y],
        pd.Series(Y).astype("Int64"),
        pd.Series(Y).astype("category"),
        {"y": Y, "more": Y},
        Y.astype(">i4"),
        pd.Series(Y.astype(float)).astype(object),
    ],
    ids=lambda x: type(x).__name__ + str(getattr(x, "dtype", "")),
)
def test_labels_of_every_type(labels):
    names, found = outputs(labels, LOGITS)
    assert names == ("0", "1", "2")
    as_expected(found, Y, LOGITS)


@pytest.mark.parametrize("columns", itertools.permutations(range(C)))
def test_columns_in_any_order_are_brought_into_that_of_the_classes(columns, tmp_path):
    order = list(columns)
    for names, labels in (
        (CATS, np.array(CATS)[Y]),
        (["0", "1", "2"], Y),
        (["3", "5", "7"], np.array([3, 5, 7])[Y]),
    ):
        frame = pd.DataFrame(LOGITS, columns=names).iloc[:, order]
        frame.to_csv(tmp_path / "s.csv", index=False)
        for model in (frame, tmp_path / "s.csv"):
            own, found = outputs(labels, model)
            at = [names.index(name) for name in own]
            as_expected(found, np.array([own.index(names[y]) for y in Y]), LOGITS[:, at])
    straight, turned = (
        pd.DataFrame(LOGITS, columns=CATS),
        pd.DataFrame(LOGITS, columns=CATS).iloc[:, order],
    )
    named = audit(np.array(CATS)[Y], straight, turned)
    assert (named.groups.teacher == named.groups.student).all()
    if order != [0, 1, 2]:  # numbers could mean either order
        assert "come in another order than those of teacher" in refused(audit, Y, straight, turned)
        given = audit(Y, straight, turned, classes=CATS)
        assert (given.groups.teacher == given.groups.student).all()


def test_names_and_numbers_agree():
    by_number = audit(Y, LOGITS.argmax(axis=1), OTHER.argmax(axis=1))
    text = np.array(["a", "b", "c"])
    by_name = audit(text[Y], text[LOGITS.argmax(axis=1)], text[OTHER.argmax(axis=1)])
    pd.testing.assert_frame_equal(
        by_number.groups.drop(columns="group"), by_name.groups.drop(columns="group")
    )
    assert list(by_name.groups.group) == ["a", "b", "c"]
    mixed = audit(
        text[Y], LOGITS.argmax(axis=1), text[OTHER.argmax(axis=1)], classes=["a", "b", "c"]
    )
    pd.testing.assert_frame_equal(mixed.groups, by_name.groups)
    assert refused(audit, text[Y], LOGITS.argmax(axis=1), OTHER.argmax(axis=1)) == (
        "teacher: of labels and predicted classes, one are names and the other numbers; give the names of the classes in the order "
        "that the numbers mean (--classes)."
    )


def test_class_names_that_are_numbers_are_names():
    """Labels 2 and columns called 2 are one class, wherever the column stands."""
    names, found = outputs(np.array([1, 2, 3])[Y], LOGITS, classes=["2", "3", "1"])
    as_expected(found, np.array([2, 0, 1])[Y], LOGITS)
    assert names == ("2", "3", "1")
    assert refused(outputs, Y, LOGITS, classes=["1", "x", "y"]) == (
        "labels: label 1 in row 1 is the name of a class, but may mean its place; call no class by a number, or every class."
    )
    said = refused(outputs, np.array([1, 2, 4])[Y], LOGITS, classes=["1", "2", "3"])
    assert said == "labels: label '4' in row 2 is no class; known are 1, 2, 3."


def test_named_arrays_of_an_npz_are_taken_by_name(tmp_path):
    features = np.random.default_rng(1).normal(size=(N, 8))
    np.savez(
        tmp_path / "s.npz", features=features, logits=LOGITS, label=Y, predicted=np.zeros(N, int)
    )
    as_expected(outputs(Y, tmp_path / "s.npz")[1], Y, LOGITS)
    np.savez(tmp_path / "s.npz", features=features, embedding=LOGITS)
    assert (
        "s.npz: holds features, embedding; call the one with the scores logits or probabilities."
        in refused(outputs, Y, tmp_path / "s.npz")
    )
    assert "called logits, but every row is a probability" in refused(outputs, Y, {"logits": P})
    as_expected(outputs(Y, {"probabilities": P})[1], Y, LOGITS)
    assert outputs(Y, {"logits": np.zeros((N, C))})[1].log_p_label == pytest.approx(
        np.full(N, -np.log(3))
    )  # the name says which


def test_kept_log_probabilities_are_enough():
    log_p = log_softmax(LOGITS, axis=1)
    kept = {
        "predicted": log_p.argmax(axis=1),
        "log_p_label": log_p[np.arange(N), Y],
        "log_p_predicted": log_p.max(axis=1),
    }
    as_expected(outputs(Y, kept)[1], Y, LOGITS)
    for spoil, words in (
        ({"log_p_label": -log_p[:, 0]}, "log_p_label is"),
        ({"log_p_label": np.full(N, np.nan)}, "is nan in row 0"),
        ({"log_p_label": CATS * 10}, "must be one column of numbers"),
    ):
        assert words in refused(outputs, Y, kept | spoil)
    kept.pop("log_p_predicted")
    assert refused(outputs, Y, kept) == "student: has log_p_label but no log_p_predicted."


def test_a_tensor_is_an_array_and_several_are_seeds():
    import torch

    for tensor in (torch.tensor(LOGITS), torch.tensor(LOGITS, requires_grad=True)):
        as_expected(outputs(Y, tensor)[1], Y, LOGITS)
    half = torch.tensor(LOGITS).bfloat16()
    as_expected(outputs(Y, half)[1], Y, half.double().numpy())
    assert audit(student=[torch.tensor(OTHER), torch.tensor(LOGITS)]).seeds == 2
    assert audit(student=[pd.Series(Y), pd.Series(Y)]).seeds == 2
    assert audit(student=OTHER.tolist()).seeds == 1
    for odd in (torch.tensor(LOGITS).to_sparse(), torch.zeros(N, C, device="meta")):
        assert refused(outputs, Y, odd).startswith("student: no array (")


# ---------------------------------------------------------------- what scores are


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (100 * P, "like per cent; divide by 100"),
        (0.9 * P, "like neither logits nor probabilities"),
        (np.zeros((N, C)), "like neither"),
        (np.array([-0.5, 0.5, 1.0]) + 0 * P, "like probabilities below 0"),
        (np.where(np.arange(N)[:, None] == 7, P / 2, P), "row 7 has values from"),
        (LOGITS > 0, "while other rows are probabilities"),
        (LOGITS + 0j, "scores must be numbers, not complex128"),
        (LOGITS.astype("M8[s]"), "not datetime64[s]"),
        (LOGITS.astype(object), "scores must be numbers, not object"),
        (LOGITS.astype(str), "scores must be numbers"),
        (np.where(np.arange(N)[:, None] == 5, [0, np.nan, 0], LOGITS), "nan in row 5, column 1"),
        (np.where(np.arange(N)[:, None] == 5, [0, 0, np.inf], LOGITS), "inf in row 5, column 2"),
        (np.where(np.arange(N)[:, None] == 5, -np.inf, LOGITS), "-inf in row 5, column 0"),
        (LOGITS[:, :1], "one column of fractions"),
        (LOGITS[:, 0], "one column of fractions"),
        (LOGITS[None], "1 rows, but labels has 30"),
        (LOGITS[:, :, None].astype(int), "must be one column, not of shape (30, 3, 1)"),
        (LOGITS[:, :0], "not of shape (30, 0)"),
        (LOGITS[:-1], "29 rows, but labels has 30"),
        (np.array(3.0), "is no path, array, table or dictionary"),
        (
            {"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": ["x"] * N},
            "column 'c' has 'x' in row 0, which is no number",
        ),
        (
            {"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": [*"1" * 4, "nan", *"1" * 25]},
            "column 'c' has 'nan' in row 4",
        ),
        (
            {"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": [*LOGITS[:4, 2], None, *LOGITS[5:, 2]]},
            "column 'c' has 'None' in row 4",
        ),
        (
            pd.DataFrame({"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": [[1, 2]] * N}),
            "column 'c' has '[1, 2]' in row 0, which is no number",
        ),
        (
            {"a": LOGITS[:, 0], "b": LOGITS[:, 1], "c": [[1, 2]] * N},
            "call the one with the scores logits or probabilities",
        ),
        ({"logits": LOGITS[:, :1]}, "with one class there is nothing to predict"),
    ],
)
def test_scores_that_are_none(scores, words):
    assert words in refused(outputs, Y, scores)


@pytest.mark.parametrize(
    ("scores", "same_as"),
    [
        (P, LOGITS),
        (np.where(NEVER, -1e-9, SURE), np.where(NEVER, -40, LOGITS)),
        (log_softmax(LOGITS, axis=1), LOGITS),
        (LOGITS * 1e300, LOGITS * 1e300),
        (np.where(np.eye(C)[Y] > 0, 0, -np.inf), np.where(np.eye(C)[Y] > 0, 0, -1e9)),
        (np.full((N, C), 1 / 3), np.zeros((N, C))),
        (np.eye(C, dtype=int)[Y], np.where(np.eye(C)[Y] > 0, 0, -1e9)),
        (LOGITS.astype("f2"), LOGITS.astype("f2")),
    ],
)
def test_scores_at_the_edge(scores, same_as):
    with warnings.catch_warnings(action="error"):
        as_expected_at_the_edge = outputs(Y, scores)[1]
    log_p = log_softmax(np.asarray(same_as, dtype=np.float64), axis=1)[np.arange(N), Y]
    np.testing.assert_allclose(
        as_expected_at_the_edge.log_p_label, np.maximum(log_p, np.log(1e-12)), atol=2e-8
    )


def test_half_precision_probabilities_of_a_thousand_classes():
    logits = np.random.default_rng(3).normal(size=(N, 1000)) * 3
    p = np.exp(log_softmax(logits, axis=1)).astype(np.float16)
    assert np.abs(p.astype(np.float64).sum(axis=1) - 1).max() > 1e-5  # they do not add up exactly
    found = outputs(np.arange(N), p)[1]
    np.testing.assert_allclose(np.exp(found.log_p_predicted), p.max(axis=1), rtol=0.01)


def test_huge_opposite_logits_do_not_overflow():
    with warnings.catch_warnings(action="error"):
        found = outputs(Y, np.where(np.eye(C)[Y] > 0, 1.7e308, -1.7e308))[1]
    assert (found.predicted == Y).all() and (found.log_p_label == 0).all()


# ---------------------------------------------------------------- labels and classes


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (Y + 0.5 * (Y == 1), "labels: label 1.5 in row 1 is no whole number."),
        (np.where(Y == 2, np.nan, Y), "labels: label nan in row 2 is"),
        (np.where(Y == 2, np.inf, Y), "labels: label inf in row 2 is missing or not finite."),
        (
            np.full(N, 2**63 + 5, np.uint64),
            "labels: label 9223372036854775813 in row 0 is too large.",
        ),
        (Y + 1, "labels: label 3 in row 2 is not from 0 to 2."),
        (Y - 1, "labels: label -1 in row 0 is not from 0 to 2."),
        (Y + 0j, "whole numbers or names, not complex128."),
        (Y.astype("M8[D]"), "not datetime64[D]."),
        (Y.astype("m8[s]"), "not timedelta64[s]."),
        (np.eye(C)[Y], "labels: label must be one column, not of shape (30, 3)."),
        (Y[None], "not of shape (1, 30)."),
        ([], "labels: holds no label."),
        (None, "labels: 'None', of type NoneType, is no path"),
        (7, "of type int, is no path"),
        (b"y.npy", "of type bytes"),
        ({1, 2}, "of type set"),
        ((i for i in Y), "of type generator"),
        ([[1], [1, 2]], "labels: no array ("),
        ([None] * N, "labels: label in row 0 is empty."),
        ([*"012"] * 9 + ["0", "", "1"], "labels: label in row 28 is empty."),
        (pd.Series(["a"] * (N - 1) + [pd.NA], dtype="string"), "labels: label in row 29 is empty."),
        (
            pd.Series([*Y[:-1], pd.NA], dtype="Int64"),
            "labels: label nan in row 29 is missing or not finite.",
        ),
        ([["a"], *[["b"]] * (N - 2), "c"], "labels: no array"),
        (pd.Series([[1, 2]] * N), "which is neither text nor a number."),
        (["a\ud800"] * N, "in row 0 is 'a\\ud800', which is neither text nor a number."),
        (np.ma.masked_equal(Y, 0), "some values are masked"),
        (pd.DataFrame(), "labels: holds no column."),
        (pd.DataFrame([[1, 2]] * N, columns=["a", "a"]), "labels: two columns are called 'a'."),
        ({1: Y, "1": Y}, "labels: two columns are called '1'."),
        ({"a": Y, "b": Y}, "holds a, b; call the one with the labels label or labels or y."),
        ({"y": [[1], [1, 2]]}, "labels: no array"),
        ([*"01"] * 14 + ["1", "x"], "the label in row 29 is 'x', so its columns must be called as"),
        (["²"] * N, "the label in row 0 is '²'"),
        (["+-1"] * N, "the label in row 0 is '+-1'"),
        (["9" * 5000] * N, "the label in row 0 is '999"),
    ],
)
def test_labels_that_are_none(labels, said):
    assert said in refused(audit, labels)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "a", "b"], "class names: 'a' is there twice; each class has its own name."),
        (["a", "b"], "not from 0 to 1"),
        (["a"], "with one class there is nothing to predict; an audit needs two at least."),
        ([], "with one class"),
        (3, "3 is no list of names"),
        (["a", None, "b"], "class names: the name in row 1 is empty."),
        (["a", " ", "b"], "the name in row 1 is empty"),
        (
            "nope.txt",
            "nope.txt: class names cannot be read (No such file or directory); one name per line.",
        ),
        (".", "(Is a directory)"),
        ("a\0b", "class names cannot be read"),
        ([[1], [2], [3]], "neither text nor a number"),
        (["a", "b", "\ud800"], "neither text nor a"),
    ],
)
def test_class_names_that_are_none(classes, said):
    assert said in refused(audit, classes=classes)


def test_a_file_of_class_names(tmp_path):
    for text in ("a\nb\nc", "a\nb\nc\n\n", "\ufeffa\r\nb\r\nc\r\n", " a \nb\nc"):
        assert audit(classes=write(tmp_path, "c.txt", text)).class_names == ("a", "b", "c")
    assert audit(classes=write(tmp_path, "c.txt", "a\u2028b\n\x0bb\nc")).class_names == (
        "a\u2028b",
        "b",
        "c",
    )
    assert "the name in row 1 is empty" in refused(
        audit, classes=write(tmp_path, "c.txt", "a\n\nb\nc")
    )
    assert "no UTF-8" in refused(audit, classes=write(tmp_path, "c.txt", b"\xff\xfe"))


@pytest.mark.parametrize("one", [np.zeros(N, int), np.zeros((N, 1), int), ["a"] * N])
def test_one_class_is_too_few(one):
    assert (
        refused(audit, one, one, one)
        == "with one class there is nothing to predict; an audit needs two at least."
    )


def test_very_many_class_numbers_and_very_long_names():
    assert "the classes run to 1000000000000; more than a million are not audited." in refused(
        audit, Y, Y * 5 * 10**11, Y
    )
    long = ["x" * 10**6, "y", "z"]
    names = np.array(long, dtype=object)[Y].tolist()
    assert audit(names, names, names).class_names == tuple(long)
    assert len(refused(audit, names, names, names, classes=["a", "b", "c"])) < 300


# ---------------------------------------------------------------- files

SUFFIXES = [".npy", ".npz", ".csv", ".parquet"]


def genuine(suffix):
    """Bytes of a file of three columns of scores."""
    out, frame = io.BytesIO(), pd.DataFrame(LOGITS, columns=CATS)
    {
        ".npy": lambda: np.save(out, LOGITS),
        ".npz": lambda: np.savez_compressed(out, logits=LOGITS),
        ".csv": lambda: frame.to_csv(out, index=False),
        ".parquet": lambda: frame.to_parquet(out),
    }[suffix]()
    return out.getvalue()


@settings(quick, max_examples=150)
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_any_bytes_in_any_file_are_an_answer_or_a_sentence(tmp_path, data, suffix):
    if data.draw(st.booleans()):
        content = data.draw(
            st.binary(max_size=200)
            | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass"))
        )
    else:
        content = bytearray(genuine(suffix))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(
                st.integers(0, min(len(content) - 1, data.draw(st.sampled_from([20, 200, 10**9]))))
            )
            content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        content = bytes(
            content[: data.draw(st.sampled_from([len(content), len(content) // 2, 10**9]))]
        )
    path = write(tmp_path, f"file{suffix}", content)
    try:
        found = source(path, "x")
    except AuditError as error:
        assert (
            str(error).startswith(f"{path}: ")
            and "\n" not in str(error)
            and "allow_pickle" not in str(error)
        )
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
        ("raw.npy", "is no npy file."),
        ("raw.npz", "is no npz file."),
    ):
        assert why in refused(audit, tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    np.load(tmp_path / "y.npy", allow_pickle=True)
    assert (tmp_path / "exploded").exists()  # the bomb works


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "y.txt",
            "1",
            "y.txt: ends in '.txt', but only npz, npy, CSV (.csv) and Parquet (.parquet) are read.",
        ),
        ("y", "1", "y: ends in 'nothing', but only"),
        ("y.npy", "", "y.npy: is no npy file."),
        ("y.npz", "hello", "y.npz: is no npz file."),
        ("y.csv", "", "y.csv: is empty."),
        ("y.csv", "\n1\n", "y.csv: its first line is empty; it must name the columns."),
        ("y.csv", "label\n", "y.csv: holds no label."),
        (
            "y.csv",
            "a;b\n1;2\n",
            "its first line is 'a;b'; commas must separate the columns, not ';'.",
        ),
        ("y.csv", "a\tb\n1\t2\n", "not '\\t'."),
        ("y.csv", "a,a\n1,2\n", "y.csv: two columns are called 'a'."),
        ("y.csv", "a,,b\n1,2,3\n", "y.csv: column 1 has no name in the first line."),
        ("y.csv", "a,b\n1,2,3\n", "not a readable csv file"),
        ("y.csv", "a,b\n1,2\n1,2,3\n", "not a readable csv file"),
        ("y.csv", 'a,b\n"1,2\n', "not a readable csv file"),
        ("y.csv", "label\n1\n\n2\n", "y.csv: label in row 1 is empty."),
        ("y.csv", "label,x\n1,\n\n", "y.csv: label in row 1 is empty."),
        ("y.csv", "0\n1\n", "y.csv: its first line, '0', is numbers; it must name the columns."),
        ("y.csv", "0.5,1\n1,2\n", "its first line, '0.5,1', is numbers"),
        ("y.csv", "1,1\n1,2\n", "its first line, '1,1', is numbers"),
        ("y.csv", b"\xe9\n1\n", "can't decode byte 0xe9"),
        ("y.csv", "label\n1\n".encode("utf-16"), "holds NUL bytes; save it as CSV in UTF-8."),
        ("y.csv", "a\nx\0y\n", "holds NUL bytes"),
        (
            "y.csv",
            "cat\ndog\ncat\n",
            "its first line has 'cat', which is also a value below it; the first line must name the columns.",
        ),
    ],
)
def test_files_that_are_none(tmp_path, name, content, said):
    path = write(tmp_path, name, content)
    got = refused(audit, path)
    assert got.startswith(f"{path}: ") and said in got


def test_paths_that_are_no_file(tmp_path):
    (tmp_path / "d.npy").mkdir()
    for path, said in (
        (tmp_path / "d.npy", "is a folder; name the file."),
        (tmp_path / "no.npy", "there is no such file."),
        ("a\0b.npy", "a\\x00b.npy: there is no such file."),
        ("\udcff.npy", "\\udcff.npy: there is no such file."),
        ("a" * 5000 + ".npy", "there is no such file."),
        ("", "ends in 'nothing'"),
        ("a\nb\x1b[31m.npy", "a\\nb\\x1b[31m.npy"),
    ):
        assert said in refused(audit, path)
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "z.npz: holds 'readme.txt', which is no array." in refused(audit, tmp_path / "z.npz")


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
    out = {
        ".npy": np.save,
        ".npz": lambda p, y: np.savez(p, y=y),
        ".csv": lambda p, y: pd.DataFrame({"y": y}).to_csv(p, index=False),
        ".parquet": lambda p, y: pd.DataFrame({"y": y}).to_parquet(p),
    }[(tmp_path / name).suffix.lower()]
    plain = tmp_path / f"plain{(tmp_path / name).suffix.lower()}"
    out(plain, Y)
    plain.rename(tmp_path / name)
    y, found = audit_inputs.labels_of(tmp_path / name)
    np.testing.assert_array_equal(y, Y)
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
        ("a\n0.1\n0.30000000000000004\n", {"a": [0.1, 0.30000000000000004]}),
        (",a\n0,5\n1,6\n", {"a": [5, 6]}),
    ],
)
def test_csv_that_is_odd_but_clear(tmp_path, text, columns):
    found = source(write(tmp_path, "q.csv", text), "x")
    assert {name: values.tolist() for name, values in found.columns.items()} == columns


# ---------------------------------------------------------------- rows and ids


def test_ids_in_another_order_are_refused(tmp_path):
    frame = pd.DataFrame(LOGITS, columns=CATS).assign(id=[f"img{i}" for i in range(N)])
    labels = pd.DataFrame({"label": np.array(CATS)[Y], "id": [f"img{i}" for i in range(N)]})
    assert audit(labels, frame, frame).n == N
    swapped = frame.iloc[[1, 0, *range(2, N)]].reset_index(drop=True)
    assert refused(audit, labels, frame, swapped) == (
        "student: row 0 has id 'img1', but labels has 'img0' there; the same examples must come in the same order."
    )
    assert (
        audit(pd.DataFrame({"label": Y, "id": Y * 1.0}), {"logits": LOGITS, "id": Y}, OTHER).n == N
    )  # 1.0 is 1
    assert "id has 29 rows, but labels has 30" in refused(
        audit, labels, {"logits": LOGITS, "id": np.arange(29)}
    )
    own = frame.drop(columns="id").assign(label=np.array(CATS)[(Y + 1) % 3])
    assert (
        "student: its own label in row 0 is 'dog', but the labels say 'cat'; the same"
        in refused(audit, labels, frame, own)
    )


def test_the_index_of_a_table_is_its_ids():
    order = np.random.default_rng(0).permutation(N)
    labels, groups = pd.Series(Y, index=order), pd.Series(Y, index=order)
    assert audit(labels, groups=groups).n == N
    assert "groups: row 0 has id" in refused(audit, labels, groups=groups.sort_index())


def test_one_file_as_two_models_is_refused(tmp_path):
    for name, scores in (("t.npy", LOGITS), ("s.npy", OTHER), ("copy.npy", OTHER)):
        np.save(tmp_path / name, scores)
    t, s, copy = (tmp_path / f"{name}.npy" for name in ("t", "s", "copy"))
    for models in (
        {"student": [s, copy]},
        {"student": s, "baseline": copy},
        {"student": t},
        {"student": s, "baseline": [s]},
    ):
        assert "every seed and every role has a file of its own" in refused(
            kdlib.audit, Y, t, **models
        )
    assert (
        kdlib.audit(Y, t, s, t, resamples=2).n == N
    )  # the teacher may be the baseline of the student


# ---------------------------------------------------------------- groups, weights, counts


def test_groups_of_every_form_are_one():
    letters = np.array(["a", "b", "c"])[Y]
    forms = [
        letters,
        letters.tolist(),
        letters.astype("S1"),
        pd.Series(letters),
        pd.Series(letters, dtype="category"),
        pd.DataFrame({"g": letters}),
        {"groups": np.eye(3, dtype=bool)[Y], "names": ["a", "b", "c"]},
    ]
    found = [audit(groups=form).groups for form in forms]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
    assert list(audit(groups=Y == 1).groups.group) == ["False", "True"]
    assert list(audit(groups=pd.cut(Y, [-1, 0, 2])).groups.group) == ["(-1, 0]", "(0, 2]"]
    assert list(audit(groups=Y / 4).groups.group) == ["0.0", "0.25", "0.5"]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.where(Y == 2, np.nan, Y), "groups: group nan in row 2 is missing or not finite."),
        ([None] * N, "groups: group in row 0 is empty."),
        (np.where(Y == 2, np.nan, Y + 0.5), "groups: group nan in row 2 is missing"),
        (["a", ""] * 15, "groups: group in row 1 is empty."),
        (Y[:-1], "groups: 29 rows, but labels has 30."),
        (Y.astype("M8[D]"), "not datetime64[D]."),
        (np.c_[Y, Y], "a matrix of groups holds 0 and 1 only"),
        (np.zeros((N, 0)), "holds 0 and 1 only"),
        (np.c_[Y == 0, Y == 7], "groups: 'group 1' has no example; leave empty groups out."),
        (np.zeros((N, 2, 2)), "not of shape (30, 2, 2)."),
        (
            {"m": np.c_[Y == 0, Y == 1], "names": ["a", "a"]},
            "groups: two groups have the same name.",
        ),
        ({"m": np.c_[Y == 0, Y == 1], "names": ["a"]}, "has names of shape (1,) for 2 groups."),
        (
            {"a": ["b=c"] * N, "a=b": ["c"] * N},
            "groups: two groups are called 'a=b=c'; rename a column.",
        ),
        (["\ud800"] * N, "neither text nor a"),
    ],
)
def test_groups_that_are_none(groups, said):
    assert said in refused(audit, groups=groups)


def test_up_to_fifty_fractions_are_groups():
    y = np.arange(60) % 3
    assert len(audit(y, y, y, groups=np.arange(60) % 50 + 0.5).groups) == 50
    assert "groups: column '' has 51 different numbers; cut it into ranges first." in refused(
        audit, y, y, y, groups=np.arange(60) % 51 + 0.5
    )


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (-np.ones(N), "weights: weight -1.0 in row 0; weights are finite and not negative."),
        (np.full(N, np.nan), "weight nan in row 0"),
        (np.full(N, np.inf), "weight inf in row 0"),
        (np.zeros(N), "weights: every weight is 0."),
        ((Y > 0) * 1.0, "all of group '0' have weight 0"),
        (["1"] * N, "must be one column of numbers"),
        (np.ones((N, 2)), "of shape (30, 2)"),
        (np.ones(N - 1), "29 rows"),
        (np.ones(N) + 0j, "complex"),
        (
            np.r_[1e300, np.ones(N - 1)],
            "the weight in row 1 is less than the largest by a factor above 1e+12; 0 leaves an example out.",
        ),
    ],
)
def test_weights_that_are_none(weights, said):
    assert said in refused(audit, weights=weights)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e308, 1])
def test_the_unit_of_weights_does_not_matter(scale):
    with warnings.catch_warnings(action="error", category=RuntimeWarning):
        found = audit(weights=np.full(N, scale))
    pd.testing.assert_frame_equal(found.groups, audit().groups)


@pytest.mark.parametrize(
    "counts",
    [
        [200, 50, 3],
        {"group": ["2", "0", "1"], "count": [3, 200, 50]},
        {"count": [3, 200, 50], "group": [2, 0, 1]},
        {"1": 50, "0": 200, "2": 3},
        pd.Series([50, 3, 200], index=["1", "2", "0"]),
        pd.Series([3, 50, 200], index=[2, 1, 0]),
        ["200", "50", "3"],
        {"group": ["0", "1", "2", "9"], "count": [200, 50, 3, 7]},
        {"class": ["1", "0", "2"], "n": [50, 200, 3]},
    ],
)
def test_counts_of_every_form_are_one(counts):
    assert list(audit(train_counts=counts).groups.n_train) == [200, 50, 3]


def test_value_counts_come_by_size_and_are_read_by_name():
    trained_on = pd.Series([2] * 9 + [0] * 5 + [1] * 7)
    assert list(audit(train_counts=trained_on.value_counts()).groups.n_train) == [5, 7, 9]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([200, 50], "training counts: has 2 counts for 3 groups."),
        ([-1, 2, 3], "count -1 in row 0 is negative."),
        ([1.5, 2, 3], "is no whole number."),
        ([np.nan, 2, 3], "count nan in row 0 is missing"),
        (["a", "1", "2"], "count 'a' in row 0 is no whole number."),
        (5, "is no path"),
        ({"group": ["0", "1"], "count": [1, 2]}, "has no count for group '2'."),
        (np.ones((3, 2)), "not of shape (3, 2)"),
        (
            {"group": ["0", "1", "2"], "count": [1, 2]},
            "needs one count for each group, and each group once.",
        ),
        ({"group": ["0", "1", "2", "0"], "count": [1, 2, 3, 4]}, "each group once."),
        ({"a": [1], "b": [1], "c": [1]}, "two columns are needed"),
    ],
)
def test_counts_that_are_none(counts, said):
    assert said in refused(audit, train_counts=counts)


# ---------------------------------------------------------------- options, and the smallest audits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "foo"}, "kind 'foo': Allowed: auto, logits"),
        ({"kind": "classes"}, "--kind classes needs one column"),
        ({"worst": 0}, "from 1 on."),
        ({"worst": 4}, "worst 4: must be from 1 to 3"),
        ({"worst": 1.5}, "worst 1.5: must be a whole number from 1 on."),
        ({"worst": "1"}, "worst '1'"),
        ({"resamples": 1}, "resamples 1: must be a whole number from 2 on."),
        ({"seed": -1}, "seed -1"),
        ({"edges": (20, 100)}, "edges (20, 100): two"),
        ({"edges": (1,)}, "two numbers are needed"),
        ({"edges": None}, "two numbers are needed"),
        ({"edges": ("a", "b")}, "two numbers are needed"),
        ({"edges": (np.nan, 1)}, "two numbers are needed"),
        ({"kind": "probabilities"}, "probabilities lie between 0 and 1 and add up to 1."),
        ({"student": None}, "an audit needs a teacher and a student."),
        ({"student": []}, "student: 0 rows, but labels has 30."),
        ({"student": [OTHER, OTHER[:-1]]}, "student 1: 29 rows"),
        ({"student": OTHER[:, :2]}, "student has 2 classes, but teacher has 3."),
        (
            {"student": [OTHER, OTHER + 1], "baseline": [OTHER] * 3},
            "student: 2 seeds, but there are 3 of another; give one for each seed, or only one.",
        ),
    ],
)
def test_options_that_are_none(options, said):
    assert said in refused(audit, **options)


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
    from kdlib.auditing.page import facts, page

    cells = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    y = data.draw(cells)
    models = {
        role: [data.draw(st.just(y) | cells) for _ in range(seeds)]
        for role in ("teacher", "student", "baseline")[: 2 + with_baseline]
    }
    group = {"classes": None, "each": list(range(n)), "one": [0] * n}[groups]
    w = (
        np.array(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
        if weighted
        else None
    )
    found = kdlib.audit(
        np.array(y),
        **{role: [np.array(of) for of in many] for role, many in models.items()},
        groups=group,
        weights=w,
        resamples=2,
        classes=[*"abc"[:classes]],
    )
    weight, inside = (np.ones(n) if w is None else w), np.array(y if group is None else group)
    for row, g in zip(found.groups.itertuples(), sorted(set(inside)), strict=True):
        some = inside == g
        for role, many in models.items():
            right = np.mean(
                [np.average((np.array(of) == y)[some], weights=weight[some]) for of in many]
            )
            assert getattr(row, role) == pytest.approx(100 * right)
        assert (
            row.n == some.sum()
            and row.low <= row.gain + 1e-9
            and row.high >= row.gain - 1e-9
            and 0 <= row.q <= 1
        )
    assert "<h1>" in page(found) and facts(found)["examples"] == n
