"""Files in the shape that other tools write: one truth in many forms, each read as it is, and what
could mean two things refused in a sentence."""

import bz2
import gzip
import io
import json
import lzma
import types
import zipfile
from collections import namedtuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import refusals
import torch
from safetensors.torch import save_file
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score

import kdlib
from kdlib.reading import formats

N, C = 240, 12
RNG = np.random.default_rng(5)
Y = RNG.integers(C, size=N)
NAMES = [f"kind {k}" for k in range(C)]
CATS12 = [f"animal {chr(97 + k)}" for k in range(C)]


def scores(accuracy, classes=C, y=Y):
    """Logits (N, C) that are right in about this share of examples."""
    z = RNG.normal(size=(len(y), classes))
    z[np.arange(len(y)), y] += np.where(RNG.random(len(y)) < accuracy, 6, -6)
    return z


Z = {"teacher": scores(0.9), "student": scores(0.6)}
P = {role: softmax(z, axis=1) for role, z in Z.items()}
TRUE = {role: 100 * accuracy_score(Y, z.argmax(axis=1)) for role, z in Z.items()}
ORDER = RNG.permutation(N)
FILES = [f"{k:04d}.png" for k in range(N)]


def audit(labels, models, **options):
    """An audit of {role: model}, quick."""
    return kdlib.audit(labels, **models, **{"resamples": 2} | options)


def refused(labels, models, **options):
    return refusals.refused(audit, labels, models, **options)


def same(found, true=None):
    """Whether the models are right as often as they truly are."""
    for role, share in (TRUE if true is None else true).items():
        assert found.metrics[f"{role}_accuracy"].estimate == pytest.approx(share, abs=1e-9)
    return found


def each(make):
    return {role: make(role) for role in Z}


def table(values, columns=NAMES, **more):
    return pd.DataFrame(values, columns=columns).assign(**more)


# ---------------------------------------------------------------- tables


TABLES = {
    "sorted as text": lambda r: table(P[r], [f"prob_{k}" for k in range(C)]).sort_index(axis=1),
    "from one on": lambda r: table(Z[r], [f"logit_{k + 1}" for k in range(C)]),
    "class names after a word": lambda r: table(P[r], [f"prob_{name}" for name in NAMES]),
    "beside loss and fold": lambda r: table(Z[r], loss=P[r][:, 0], fold=np.arange(N) % 5),
    "beside text and weights": lambda r: table(Z[r], split="test", weight=1.0),
    "answers by id": lambda r: pd.DataFrame(
        {"SampleId": np.arange(N) + 100, "Answer": Z[r].argmax(1)}
    ),
    "by the index": lambda r: table(Z[r]).iloc[ORDER],
    "by an index from one on": lambda r: table(Z[r]).set_axis(np.arange(1, N + 1)).iloc[ORDER],
    "a list in a cell": lambda r: pd.DataFrame({"filename": FILES, "prob": list(P[r])}),
    "predictions of a Trainer": lambda r: {"predictions": Z[r], "label_ids": Y},
    "a Trainer's tuple": lambda r: namedtuple("Output", "predictions label_ids metrics")(
        Z[r], Y, {"loss": 1.0}
    ),
    "top answer with its probability": lambda r: pd.DataFrame(
        {"filename": FILES, "label": Z[r].argmax(1), "prob": P[r].max(1)}
    ),
    "scores beside predicted classes": lambda r: table(Z[r], pred=Z[r].argmax(1)),
    "per cent": lambda r: table(100 * P[r]),
    "numbered names sorted as text": lambda r: table(Z[r]).sort_index(axis=1),  # labels are numbers
    "a column called like an id": lambda r: pd.DataFrame(
        {"PassengerId": np.arange(N) + 892, "Survived": Z[r].argmax(1)}
    ),
    "log-probabilities": lambda r: table(log_softmax(Z[r], axis=1)),
    "an arrow table": lambda r: pa.Table.from_pandas(table(Z[r])),
    "bfloat16 of numpy": lambda r: (
        torch.tensor(Z[r]).bfloat16().view(torch.int16).numpy().view("V2")
    ),
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_of_every_form_are_read_as_they_are(form):
    found = same(audit(Y, each(TABLES[form])))
    assert found.n == N and len(found.class_names) == C
    assert (
        f"{N} examples" in found.read[0]
        and f"teacher {TRUE['teacher']:.1f} % right" in found.read[0]
    )
    assert not found.warnings


def test_a_series_of_lists_is_what_a_matrix_is():
    lists = each(lambda r: pd.Series(list(Z[r])))
    assert audit(Y, lists).groups.equals(audit(Y, Z).groups)


def test_what_is_passed_over_is_said():
    found = audit(Y, each(TABLES["beside loss and fold"]))
    assert "teacher, student: scores kind 0 … kind 11; passed over: loss, fold." in found.read


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda r: table(Z[r], other=Z[r][:, 0]),
            "kind 0 … kind 11 look like one score for each class, but 'other' may be another;",
        ),
        (lambda r: table(Z[r], [*NAMES[:-1], "other"]), None),
        (
            lambda r: table(Z[r][:, :3], ["cat", "dog", "truck"], fold2=1),
            "column 'fold2' holds whole",
        ),
        (
            lambda r: table(
                np.c_[Z[r], P[r]], [f"{w}_{k}" for w in ("logit", "prob") for k in range(C)]
            ),
            "holds 2 sets of scores, logit, prob; choose one as in FILE:prob_*.",
        ),
        (
            lambda r: table(-np.sort(-P[r])[:, :5], [f"prob_{k}" for k in range(5)]),
            "in each row prob_0 … prob_4 fall, as the 5 highest scores do",
        ),
        (
            lambda r: table(np.c_[Y, Y, Y], [f"seed_{k}" for k in range(3)]),
            "seed_0 … seed_2 hold whole numbers, as the predicted classes of several networks do",
        ),
    ],
)
def test_columns_that_could_mean_two_things_are_refused(make, said):
    if said is None:
        same(audit(Y, each(make)))
    else:
        assert said in refused(Y, each(make), classes=None)


# ---------------------------------------------------------------- files


def packed(path, open_as):
    with open_as(f"{path}", "wb") as file:
        np.save(file, Z["student"])


WRITTEN = {
    "s.tsv": lambda path: table(Z["student"]).to_csv(path, sep="\t", index=False),
    "s.csv": lambda path: table(P["student"]).to_csv(path, sep=";", decimal=",", index=False),
    "bar.csv": lambda path: table(Z["student"]).to_csv(path, sep="|", index=False),
    "excel.csv": lambda path: table(Z["student"]).to_csv(
        path, sep="\t", index=False, encoding="utf-16"
    ),
    "bare.csv": lambda path: np.savetxt(path, Z["student"], delimiter=","),
    "s.txt": lambda path: np.savetxt(path, Z["student"]),
    "cells.csv": lambda path: pd.DataFrame({"logits": Z["student"].tolist()}).to_csv(
        path, index=False
    ),
    "s.csv.gz": lambda path: table(Z["student"]).to_csv(path, index=False),
    "s.csv.bz2": lambda path: table(Z["student"]).to_csv(path, index=False),
    "s.csv.xz": lambda path: table(Z["student"]).to_csv(path, index=False),
    "s.csv.zip": lambda path: table(Z["student"]).to_csv(path, index=False),
    "s.npy.gz": lambda path: packed(path, gzip.open),
    "s.npy.bz2": lambda path: packed(path, bz2.open),
    "s.npy.xz": lambda path: packed(path, lzma.open),
    "s.jsonl": lambda path: table(P["student"]).to_json(path, orient="records", lines=True),
    "split.json": lambda path: table(Z["student"]).to_json(
        path, orient="split", double_precision=15
    ),
    "s.json": lambda path: table(Z["student"]).to_json(path, double_precision=15),
    "pipeline.json": lambda path: path.write_text(
        json.dumps(
            [[{"label": str(k), "score": v} for k, v in enumerate(row)] for row in P["student"]]
        )
    ),
    "list.json": lambda path: path.write_text(json.dumps(Z["student"].tolist())),
    "s.feather": lambda path: table(Z["student"]).to_feather(path),
    "s.pt": lambda path: torch.save(torch.tensor(Z["student"]), path),
    "batches.pt": lambda path: torch.save([*torch.tensor(Z["student"]).split(50)], path),
    "named.pth": lambda path: torch.save({"logits": torch.tensor(Z["student"])}, path),
    "s.safetensors": lambda path: save_file({"logits": torch.tensor(Z["student"])}, path),
    "half.safetensors": lambda path: save_file({"x": torch.tensor(Z["student"]).bfloat16()}, path),
    "list.parquet": lambda path: pd.DataFrame({"p": list(P["student"])}).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_every_kind_are_read(name, tmp_path):
    WRITTEN[name](tmp_path / name)
    found = same(audit(Y, {"teacher": Z["teacher"], "student": tmp_path / name}))
    assert len(found.inputs[2][2]) == 64 and not found.warnings


def test_files_that_hold_too_much_or_would_run_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "a\n1\n")
    models = {"teacher": Z["teacher"], "student": tmp_path / "two.zip"}
    assert "holds 2 files; one that is read on its own is needed." in refused(Y, models)
    torch.save(types.SimpleNamespace(a=1), tmp_path / "s.pt")
    models["student"] = tmp_path / "s.pt"
    why = "it holds Python objects, which are not read; save numbers or text"
    assert f"s.pt: not a readable pt file ({why})." in refused(Y, models)
    for file in ("large.npz", "large.zip"):
        content = io.BytesIO()
        np.save(content, np.zeros((2**17, 16)))
        with zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("s.npy", content.getvalue())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "LARGEST", 10**7)
            models["student"] = tmp_path / file
            assert "GiB, more than the" in refused(Y, models)
    (tmp_path / "s.csv.gz").write_bytes(b"\x1f\x8bnothing")
    models["student"] = tmp_path / "s.csv.gz"
    assert "not a readable gz file" in refused(Y, models)


def test_columns_are_chosen_behind_the_name_of_the_file(tmp_path):
    path = tmp_path / "tidy.csv"
    tidy = pd.DataFrame({"id": ORDER, "y": Y[ORDER], "sex": np.where(Y[ORDER] % 2, "f", "m")})
    for role, z in Z.items():
        tidy[role] = z.argmax(axis=1)[ORDER]
        more = {f"{role}_p{k}": P[role][ORDER, k] for k in range(C)}
        tidy = pd.concat([tidy, pd.DataFrame(more)], axis=1)
    tidy.to_csv(path, index=False)
    for models in (
        each(lambda role: f"{path}:{role}"),
        each(lambda role: f"{path}:{role}_p*"),
        each(lambda role: f"{path}:" + ",".join(f"{role}_p{k}" for k in range(C))),
    ):
        found = same(audit(f"{path}:y", models, groups=f"{path}:sex"))
        assert list(found.groups.group) == ["f", "m"]
    wrong = each(lambda role: f"{path}:{role}_q*")
    assert f"{path}:teacher_q*: has no column 'teacher_q*'; it holds y, sex" in refused(Y, wrong)


# ---------------------------------------------------------------- two classes


TWO = Y % 2
BINARY = {role: scores(share, 2, TWO) / 6 for role, share in (("teacher", 0.9), ("student", 0.7))}
RIGHT = {role: 100 * accuracy_score(TWO, z.argmax(axis=1)) for role, z in BINARY.items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda z: z,
        lambda z: pd.DataFrame({"score": softmax(z, axis=1)[:, 1]}),
        lambda z: (z[:, 1] - z[:, 0])[:, None],
        lambda z: pd.DataFrame(
            {"id": ORDER, "label": TWO[ORDER], "p": softmax(z, axis=1)[ORDER, 1]}
        ),
        lambda z: {"logit": z[:, 1] - z[:, 0]},
    ],
)
def test_two_classes_by_two_scores_or_one(make):
    models = {role: make(z) for role, z in BINARY.items()}
    found = same(audit(TWO, models), RIGHT)
    expected = audit(TWO, {role: softmax(z, axis=1) for role, z in BINARY.items()})
    for name in ("student_log_loss", "student_calibration_error"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], abs=1e-9)


def test_one_score_is_that_of_the_second_class_whatever_it_is_called():
    models = {role: softmax(z, axis=1)[:, 1] for role, z in BINARY.items()}
    for labels in (np.array(["no", "yes"])[TWO], np.array([-1, 1])[TWO], TWO + 1, TWO == 1):
        found = same(audit(labels, models), RIGHT)
        assert f"taken as that of class '{found.class_names[1]}', the second." in found.read[-1]


def test_a_row_that_adds_up_by_chance_does_not_make_logits_probabilities():
    z = {role: values.copy() for role, values in BINARY.items()}
    for values in z.values():
        values[0] = [0.4, 0.6]
    assert "(logits)" in audit(TWO, z).read[0]


# ---------------------------------------------------------------- what scores are


def test_probabilities_rounded_to_two_decimals_are_divided_by_their_sum():
    rounded = each(lambda role: P[role].round(2))
    found = audit(Y, rounded)
    for role, p in rounded.items():
        sure = np.abs(p.sum(axis=1) - 1) >= 0  # ties made by rounding go to the first
        assert found.metrics[f"{role}_accuracy"].estimate == 100 * accuracy_score(
            Y[sure], p.argmax(1)
        )
        loss = -np.log(np.clip((p / p.sum(1, keepdims=True))[np.arange(N), Y], 1e-12, 1)).mean()
        assert found.metrics[f"{role}_log_loss"] == pytest.approx(loss, abs=1e-9)
    assert any("each row was divided by its sum" in sentence for sentence in found.read)


def test_a_kind_is_of_each_role_and_probabilities_are_not_softmaxed_again():
    mixed = {"teacher": P["teacher"], "student": Z["student"]}
    expected = audit(Y, Z).groups
    for kind in ("auto", {"teacher": "probabilities", "student": "logits"}):
        found = audit(Y, mixed, kind=kind)
        pd.testing.assert_frame_equal(found.groups, expected, rtol=1e-9)
    said = refused(Y, mixed, kind="logits")
    assert said == (
        "teacher: said to be logits, but every row is a probability already; a softmax would be "
        "taken twice."
    )
    assert "kind of 'pupil': " in refused(Y, mixed, kind={"pupil": "logits"})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.eye(C)[Y], [str(k) for k in range(C)]),
        (pd.DataFrame(np.eye(C, dtype=int)[Y], columns=NAMES), NAMES),
        (Y + 1, [str(k + 1) for k in range(C)]),
        (pd.DataFrame({"y_true": Y, "age": 3}), [str(k) for k in range(C)]),
        (np.array(NAMES)[Y], NAMES),
    ],
)
def test_labels_one_hot_or_from_one_on_or_by_name(labels, names):
    models = Z if labels is not None and names[0] in "01" else each(lambda role: table(Z[role]))
    assert list(same(audit(labels, models)).class_names) == names


def test_class_names_from_the_files_of_other_tools(tmp_path):
    mapping = {str(k): name for k, name in enumerate(NAMES)}
    for held in (mapping, {v: int(k) for k, v in mapping.items()}, {"id2label": mapping}, NAMES):
        path = tmp_path / "id2label.json"
        path.write_text(json.dumps(held))
        assert list(audit(Y, Z, classes=path).class_names) == NAMES
    path.write_text('{"0": "a", "2": "b"}')
    assert "cannot be read" in refused(Y, Z, classes=path)
    path.write_text("{")
    assert "cannot be read" in refused(Y, Z, classes=path)


# ---------------------------------------------------------------- rows


def by_file(role, order=ORDER, folder="test/"):
    files = [folder + FILES[k] for k in order]
    return table(Z[role][order], filename=files)


@pytest.mark.parametrize(
    ("ids", "folder"),
    [(FILES, ""), (FILES, "test/"), ([f[:-4] for f in FILES], "test/"), (range(N), "")],
    ids=["files", "paths", "stems", "numbers"],
)
def test_rows_in_any_order_are_joined_by_id(ids, folder):
    labels = pd.DataFrame({"id": ids, "label": Y}).iloc[ORDER[::-1]]
    models = each(lambda role: by_file(role, folder=folder))
    if isinstance(ids, range):
        models = each(lambda role: table(Z[role], id=np.arange(N)).iloc[ORDER])
    sex = pd.DataFrame({"id": ids, "sex": np.where(Y % 2, "f", "m")})
    found = same(audit(labels, models, groups=sex))
    assert "joined by id" in found.read[0]
    for name, odd in (("f", 1), ("m", 0)):
        row = found.groups.set_index("group").loc[name]
        some = odd == Y % 2
        right = accuracy_score(Y[some], Z["student"].argmax(axis=1)[some])
        assert row.n == some.sum() and row.student == pytest.approx(100 * right)


def test_rows_of_examples_without_a_label_are_left_out():
    labels = pd.DataFrame({"id": FILES[:100], "label": Y[:100]})
    found = audit(labels, each(lambda role: by_file(role, folder="")))
    assert found.n == 100
    assert "Left out: 140 rows with ids that labels lacks." in found.read[-1]


@pytest.mark.parametrize(
    ("labels", "make", "said"),
    [
        (
            pd.DataFrame({"id": [*FILES[1:], "new.png"], "label": Y}),
            lambda role: by_file(role, folder=""),
            "teacher: has no row with the id 'new.png', which stands in labels.",
        ),
        (
            pd.DataFrame({"id": ["a.png", "b.png", *FILES[2:]], "label": Y}),
            lambda role: by_file(role, folder=""),
            "teacher: has no row with the id 'a.png', which stands in labels, nor with 1 more of "
            "the 240 there.",
        ),
        (
            pd.DataFrame({"id": [f"x{file}" for file in FILES], "label": Y}),
            lambda role: by_file(role, folder=""),
            "teacher: has no row with the id 'x0000.png', which stands in labels; it has none of "
            "the ids there.",
        ),
        (
            pd.DataFrame({"id": FILES, "label": Y}),
            lambda role: table(Z[role], filename=[*FILES[:-1], FILES[0]]),
            "teacher: id '0000.png' is there twice, again in row 239.",
        ),
        (
            Y,
            lambda role: table(Z[role]).set_axis(ORDER * 3),
            "teacher: its ids come in no order and labels has none",
        ),
        (
            Y,
            lambda role: by_file(role, ORDER if role == "teacher" else ORDER[::-1]),
            "teacher: its ids come in no order and labels has none; give the labels a column id",
        ),
    ],
)
def test_rows_that_could_be_other_examples_are_refused(labels, make, said):
    assert said in refused(labels, each(make))


def test_rows_in_no_order_are_brought_into_that_of_a_table_whose_ids_have_one():
    found = same(
        audit(Y, each(lambda role: by_file(role, range(N) if role == "teacher" else ORDER)))
    )
    assert "as labels has no ids" in found.read[0]
    sex = pd.DataFrame({"filename": FILES, "sex": np.where(Y % 2, "f", "m")}).iloc[ORDER]
    said = refused(Y, Z, groups=sex.reset_index(drop=True))
    assert said.startswith("groups: its ids come in no order and labels has none;")
    natural = [f"img{k}.png" for k in range(N)]  # not that of the alphabet
    tables = each(lambda role: table(Z[role], filename=natural))
    same(audit(Y, tables))


def test_labels_without_ids_take_the_order_of_files_and_this_is_said():
    found = same(audit(Y, each(lambda role: by_file(role, range(N)))))
    assert "in the order of the rows, as labels has no ids" in found.read[0]


def test_a_model_without_ids_beside_one_with_ids_is_taken_in_order_and_this_is_said():
    labels = pd.DataFrame({"id": FILES, "label": Y})
    found = same(audit(labels, {"teacher": by_file("teacher", folder=""), "student": Z["student"]}))
    said = "student: has no ids; its rows are taken in the order of those of labels."
    assert said in found.read


def test_ids_of_groups_and_weights_may_come_in_any_order():
    w = RNG.random(N)
    weights = pd.DataFrame({"id": ORDER, "weight": w[ORDER]})
    expected = audit(Y, Z, weights=w).groups
    pd.testing.assert_frame_equal(audit(Y, Z, weights=weights).groups, expected)


# ---------------------------------------------------------------- groups


def test_a_column_that_names_examples_makes_no_groups():
    groups = pd.DataFrame({"filename": FILES, "sex": np.where(Y % 2, "f", "m")})
    assert list(audit(Y, Z, groups=groups).groups.group) == ["f", "m"]
    said = refused(Y, Z, groups=pd.DataFrame({"picture": FILES}))
    assert said.startswith("groups: group 'picture' has another value in each of 240 rows")


@pytest.mark.parametrize("nothing", [None, np.nan, ""])
def test_examples_without_a_group_are_left_out_or_a_group_of_their_own(nothing):
    empty = np.arange(N) % 10 == 3
    sex = pd.Series(np.where(Y % 2, "f", "m"), dtype=object)
    sex[empty] = nothing
    groups = pd.DataFrame({"sex": sex})
    assert "'sex' is missing in 24 of 240 rows, first in row 3;" in refused(Y, Z, groups=groups)
    left = audit(Y, Z, groups=groups, missing_groups="drop")
    kept = ~empty
    right = {role: 100 * accuracy_score(Y[kept], z[kept].argmax(1)) for role, z in Z.items()}
    assert same(left, right).n == N - 24
    own = same(audit(Y, Z, groups=groups, missing_groups="own"))
    sizes = dict(zip(own.groups.group, own.groups.n, strict=True))
    assert sizes == {
        "f": (kept & (Y % 2 == 1)).sum(),
        "m": (kept & (Y % 2 == 0)).sum(),
        "missing": 24,
    }


# ---------------------------------------------------------------- what looks wrong is said


def test_a_model_near_chance_and_classes_in_another_order_are_warnings():
    shuffled = audit(Y, Z | {"student": Z["student"][ORDER]})
    assert len(shuffled.warnings) == 1
    assert "are its rows, and its classes, in the same order as the labels?" in shuffled.warnings[0]
    turned = audit(Y, Z | {"student": Z["student"][:, RNG.permutation(C)]})
    assert (
        f"would be in {TRUE['student']:.1f} % if the classes came in another order"
        in turned.warnings[0]
    )
    assert "is its file one of labels?" in audit(Y, Z | {"student": Y}).warnings[0]


def test_chance_alone_is_seldom_taken_for_another_order():
    warned = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y, student = rng.integers(50, size=(2, 300))
        found = audit(y, {"teacher": (y + (rng.random(300) < 0.3)) % 50, "student": student})
        warned += any("another order" in sentence for sentence in found.warnings)
    assert warned == 0


def test_a_column_that_is_no_class_is_seen_by_what_is_predicted():
    more = each(lambda role: table(log_softmax(Z[role], axis=1), CATS12, other=Z[role][:, 0]))
    found = audit(Y, more)
    assert "The teacher predicts other in" in found.warnings[0]


@pytest.mark.parametrize("written", ["Prob({})", "{}_prob", "p: {}", "{}"])
def test_names_of_classes_may_stand_inside_those_of_columns(written):
    models = each(lambda role: table(P[role], [written.format(name) for name in CATS12]))
    assert list(same(audit(np.array(CATS12)[Y], models)).class_names) == CATS12
