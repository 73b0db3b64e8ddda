"""Files as tools of machine learning write them, beyond those of test_forms: one truth, each form.

Also what in them would be wrong without a word: refused or warned of."""

import json

import numpy as np
import pandas as pd
import pytest
import refusals
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score

import kdlib
from kdlib.config import KdlibError

N, C = 120, 5
RNG = np.random.default_rng(7)
Y = RNG.integers(C, size=N)
NAMES = np.array(["cat", "dog", "truck", "ship", "frog"], dtype=object)
ORDER = RNG.permutation(N)
IDS = [f"{k}.png" for k in range(N)]


def logits(accuracy):
    z = RNG.normal(size=(N, C))
    z[np.arange(N), Y] += np.where(RNG.random(N) < accuracy, 6, -6)
    return z


Z = {"teacher": logits(0.9), "student": logits(0.6)}
P = {role: softmax(z, axis=1) for role, z in Z.items()}
A = {role: z.argmax(axis=1) for role, z in Z.items()}


def audit(labels, make):
    """An audit, quick; make gives what a role's model says."""
    return kdlib.audit(labels, make("teacher"), make("student"), resamples=2)


def right(found, y=Y, said=A):
    for role, answers in said.items():
        true = 100 * accuracy_score(y, answers)
        assert found.metrics[f"{role}_accuracy"].estimate == pytest.approx(true, abs=1e-9)
    return found


def refused(labels, make):
    return refusals.refused(audit, labels, make)


def written(folder, name, write):
    """What makes the file of a role, called so, by write(path, role)."""

    def make(role):
        path = folder / f"{role}{name}"
        write(path, role)
        return path

    return make


def as_text(make):
    return lambda path, role: path.write_text(make(role))


def as_torch(make):
    return lambda path, role: torch.save(make(role), path)


def by_name(role):
    return pd.DataFrame(P[role], columns=NAMES)


def batches(role):
    """Pairs of scores and labels."""
    parts = np.array_split(np.arange(N), 4)
    return [(torch.tensor(Z[role][part]), torch.tensor(Y[part])) for part in parts]


def by_id(values):
    return json.dumps({IDS[k]: values[k] for k in ORDER.tolist()})


FORMS = {  # suffix, how a role is written
    "a batch a dictionary": (".pt", as_torch(lambda r: [{"z": z, "y": y} for z, y in batches(r)])),
    "a batch a pair": (".pt", as_torch(batches)),
    "fastai": (".pt", as_torch(lambda r: (torch.tensor(P[r]), torch.tensor(Y)))),
    "GLUE": (".txt", as_text(lambda r: pd.DataFrame({"prediction": A[r]}).to_csv(sep="\t"))),
    "savetxt": (".csv", lambda p, r: np.savetxt(p, Z[r], delimiter=",", header=",".join(NAMES))),
    "spaces": (".csv", as_text(lambda r: by_name(r).to_csv(index=False).replace(",", ", "))),
    "Excel": (".txt", lambda p, r: by_name(r).to_csv(p, sep="\t", index=False, encoding="utf-16")),
    "commas at the end": (".csv", as_text(lambda r: by_name(r).assign(**{"": ""}).to_csv())),
    "per cent": (".csv", as_text(lambda r: by_name(r).map(lambda v: f"{100 * v}%").to_csv())),
    "H2O": (".csv", as_text(lambda r: by_name(r).assign(predict=NAMES[A[r]]).to_csv())),
    "caret": (".csv", as_text(lambda r: by_name(r).assign(obs=NAMES[Y], x=NAMES[Y]).to_csv())),
    "records": (".json", as_text(lambda r: by_name(r).to_json(orient="index"))),
    "schema": (".json", as_text(lambda r: by_name(r).to_json(orient="table"))),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_tools_write_is_read(form, tmp_path):
    labels = NAMES[Y] if form in ("H2O", "caret") else Y
    found = right(audit(labels, written(tmp_path, *FORMS[form])))
    assert not found.warnings


BY_ID = {
    "class": lambda r: by_id(A[r].tolist()),
    "name": lambda r: by_id(NAMES[A[r]].tolist()),
    "scores": lambda r: by_id(P[r].tolist()),
    "score of each class": lambda r: by_id(by_name(r).to_dict("records")),
}


@pytest.mark.parametrize("form", BY_ID)
def test_dictionaries_by_id_are_tables_turned_around(form, tmp_path):
    names = form in ("name", "score of each class")
    labels = pd.DataFrame({"id": IDS, "label": NAMES[Y] if names else Y})
    found = right(audit(labels, written(tmp_path, ".json", as_text(BY_ID[form]))))
    assert "joined by id" in found.read[0]
    path = tmp_path / "y.json"
    path.write_text(json.dumps(dict(zip(IDS, labels["label"].tolist(), strict=True))))
    right(audit(path, written(tmp_path, ".json", as_text(BY_ID[form]))))


def test_records_of_numpy_are_tables():
    table = right(audit(Y, lambda r: pd.DataFrame({"i": Y, "pred": A[r]}).to_records(index=False)))
    assert "passed over: i" in table.read[1]


def test_two_classes_may_be_called_true_and_false():
    y = Y > 1
    p = {
        role: np.column_stack([z[:, :2].max(axis=1), z[:, 2:].max(axis=1)]) for role, z in Z.items()
    }
    found = kdlib.audit(y, *(pd.DataFrame(p[r], columns=[False, True]) for r in Z), resamples=2)
    assert found.metrics["teacher_accuracy"].estimate == 100 * (p["teacher"].argmax(1) == y).mean()


def test_numbered_columns_and_labels_may_both_count_from_one():
    columns = [f"X{k + 1}" for k in range(C)]  # as R calls columns without names
    found = right(audit(Y + 1, lambda r: pd.DataFrame(P[r], columns=columns)))
    assert "5 classes, 1 … 5;" in found.read[0]


@pytest.mark.parametrize(
    ("labels", "models"),
    [
        (pd.date_range("2020-01-01 01:00", periods=N, freq="h"), str),  # dates and their text
        ([f"val/{NAMES[k % 2]}/{k // 2}.png" for k in range(N)], "/data/{}".format),
        ([f"val/{k}.png" for k in range(N)], "C:\\data\\{}".format),
        ([f"val/{k}.png" for k in range(N)], lambda name: f"C:\\data\\{name[4:]}"),
    ],
)
def test_ids_are_dates_or_the_ends_of_paths(labels, models):
    ids = np.array([models(name) for name in labels], dtype=object)[ORDER]
    table = pd.DataFrame({"id": labels, "label": Y})
    right(audit(table, lambda r: pd.DataFrame({"id": ids, "pred": A[r][ORDER]})))


@pytest.mark.parametrize("name", ["key", "text", "name"])
def test_text_that_differs_in_each_row_is_an_id_whatever_it_is_called(name):
    order = {"teacher": ORDER, "student": ORDER[::-1]}
    labels = pd.DataFrame({name: IDS, "label": Y})
    rows = {r: {name: np.array(IDS)[k], "pred": A[r][k]} for r, k in order.items()}
    assert "joined by id" in right(audit(labels, lambda r: pd.DataFrame(rows[r]))).read[0]


def test_text_in_one_file_alone_is_no_id():
    labels = pd.DataFrame({"text": IDS, "label": Y}).iloc[:, ::-1]
    right(audit(labels, lambda r: pd.DataFrame({"id": range(N), "pred": A[r]})))
    found = right(audit(Y, lambda r: pd.DataFrame({"text": IDS, "pred": A[r]})))
    assert "in the order of the rows" in found.read[0]


def test_dates_are_groups_too():
    days = pd.DataFrame({"day": pd.to_datetime(["2024-01-01", "2024-02-01"] * (N // 2))})
    found = kdlib.audit(Y, *A.values(), groups=days, resamples=2)
    assert list(found.groups["group"]) == ["2024-01-01", "2024-02-01"]


def test_timms_index_is_the_predicted_class():
    table = {r: pd.DataFrame({"filename": IDS, "index": A[r], "prob": P[r].max(1)}) for r in A}
    right(audit(Y, table.get))


def test_scores_that_the_predicted_class_contradicts_are_refused():
    columns = [f"prob_{k}" for k in range(C)]
    said = refused(Y, lambda r: pd.DataFrame(P["teacher"], columns=columns).assign(pred=A[r]))
    assert said.startswith("student: 'pred' is the class with the largest of prob_0 … ")


@pytest.mark.parametrize("classes", [C, 2])
def test_an_embedding_beside_the_predicted_class_is_no_scores(classes):
    """Also one of as many dimensions as there are classes, and scores of another model."""
    y, said = Y % classes, {r: a % classes for r, a in A.items()}
    columns = [f"umap_{k}" for k in range(classes)]
    z = np.eye(classes)[said["teacher"]] + RNG.normal(size=(N, classes))

    def make(role):
        return pd.DataFrame(z, columns=columns).assign(pred=said[role], label=y)

    found = right(audit(y, make), y, said)
    assert not any(found.scored.values()) and "; passed over: umap_0" in found.read[1]
    # scores they are where their largest is the predicted class
    scores = {r: pd.DataFrame(np.eye(classes)[a] * 9, columns=columns) for r, a in said.items()}
    found = right(audit(y, lambda r: scores[r].assign(pred=said[r])), y, said)
    assert all(found.scored.values())


# ---------------------------------------------------------------- two classes

YES = (Y > 1).astype(int)
P_YES = {role: p[:, 2:].sum(axis=1) for role, p in P.items()}
SAYS_YES = {role: (p > 0.5).astype(int) for role, p in P_YES.items()}


@pytest.mark.parametrize("other", ["logit", "age"])
def test_one_score_beside_another_column_of_numbers_is_not_two_classes(other):
    """Whichever is larger says nothing of the class."""
    z = {role: np.log(p / (1 - p)) for role, p in P_YES.items()}
    tables = {role: pd.DataFrame({"prob": P_YES[role], other: z[role]}) for role in z}
    assert refused(YES, tables.get).startswith(
        f"teacher: holds prob, {other}, of which 'prob' may be one score for the second of two "
    )


@pytest.mark.parametrize("names", [("no", "yes"), ("N", "Y"), ("incorrect", "correct")])
@pytest.mark.parametrize("by_name", [True, False])
def test_classes_may_be_called_like_what_else_stands_in_tables(names, by_name):
    y = np.array(names, dtype=object)[YES] if by_name else YES
    found = audit(y, lambda r: pd.DataFrame(np.c_[1 - P_YES[r], P_YES[r]], columns=names))
    right(found, YES, SAYS_YES)
    assert all(found.scored.values()) and not found.warnings


@pytest.mark.parametrize(
    "names",
    [
        ("answer", "header", "question", "other", "title"),
        ("image", "table", "text", "file", "path"),
        ("contradictory", "correct", "incorrect", "margin", "loss"),
        ("W", "X", "Y", "Z", "ID"),
    ],
)
def test_many_classes_may_be_so_called_too(names):
    found = audit(np.array(names, dtype=object)[Y], lambda r: pd.DataFrame(P[r], columns=names))
    assert all(right(found).scored.values())
    assert set(found.class_names) == set(names)


def test_the_label_of_a_pipeline_is_its_prediction_where_its_score_is_that_of_the_label(tmp_path):
    words = np.array(["NEGATIVE", "POSITIVE"], dtype=object)

    def make(role):
        rows = {"label": words[SAYS_YES[role]], "score": np.maximum(P_YES[role], 1 - P_YES[role])}
        path = tmp_path / f"{role}.json"
        path.write_text(json.dumps(pd.DataFrame(rows).to_dict("records")))
        return path

    right(audit(words[YES], make), YES, SAYS_YES)


# ---------------------------------------------------------------- which column, which rows


def test_two_columns_of_labels_that_differ_are_refused():
    noisy = np.where(np.arange(N) % 4 == 0, (Y + 1) % C, Y)
    both = {"label": noisy, "true_label": Y}
    assert refused(both, lambda role: A[role]) == (
        "labels: holds label, true_label, which differ; choose one, as in FILE:COLUMN."
    )
    right(
        audit({"label": NAMES[Y], "label_id": Y}, lambda role: NAMES[A[role]])
    )  # one in two forms


def test_blanks_around_a_name_are_none_of_it():
    spaced = np.where(np.arange(N) % 3 == 0, NAMES[Y] + " ", NAMES[Y])
    found = right(audit(spaced, lambda role: NAMES[A[role]]))
    assert sorted(found.class_names) == sorted(NAMES)
    groups = np.where(np.arange(N) % 3 == 0, "Male ", "Male")
    found = kdlib.audit(Y, *A.values(), groups=groups, resamples=2)
    assert found.groups.group.tolist() == ["Male"]


@pytest.mark.parametrize("make", [lambda a: (a, Y), lambda a: [(a[:60], Y[:60]), (a[60:], Y[60:])]])
def test_tensors_of_one_length_may_be_columns_or_batches(make, tmp_path):
    def write(path, role):
        torch.save(torch.utils._pytree.tree_map(torch.as_tensor, make(A[role])), path)

    said = refused(Y, written(tmp_path, ".pt", write))
    assert "which may be columns or batches; save a dictionary, as in {'predictions':" in said


def test_an_index_that_begins_anew_is_no_id(tmp_path):
    def write(path, role):
        table = pd.DataFrame(P[role], columns=NAMES)
        parts = [table[a:b].reset_index(drop=True) for a, b in ((0, 64), (64, N))]
        pd.concat(parts).to_parquet(path)

    right(audit(NAMES[Y], written(tmp_path, ".parquet", write)))


def test_another_threshold_than_a_half_is_said():
    p = {r: z[:, 2:].max(axis=1) for r, z in P.items()}
    table = {r: pd.DataFrame({"no": 1 - p[r], "yes": p[r], "pred": p[r] > 0.01}) for r in p}
    table = {r: of.assign(pred=np.where(of["pred"], "yes", "no")) for r, of in table.items()}
    found = audit(np.where(Y > 1, "yes", "no"), table.get)
    assert (
        found.metrics["teacher_accuracy"].estimate == 100 * ((p["teacher"] > 0.5) == (Y > 1)).mean()
    )
    assert any("'pred' is not the class with the largest score in" in said for said in found.read)


def test_a_model_that_says_one_class_is_warned_of():
    y = (Y > 2).astype(int)
    table = pd.DataFrame({"age": RNG.normal(50, 5, N), "income": RNG.normal(3, 1, N)})
    found = kdlib.audit(y, table, A["student"] > 2, resamples=2)
    assert any("teacher predicts age in every example" in said for said in found.warnings)


def test_classes_without_an_example_are_said():
    y = np.where(Y == 0, 9, 1)
    assert "9 classes, 1 … 9, of which 2 occur;" in kdlib.audit(y, y, y[::-1], resamples=2).read[0]


@pytest.mark.filterwarnings("error")
def test_lines_of_json_are_read_without_a_warning(tmp_path):
    lines = written(
        tmp_path, ".jsonl", lambda p, r: by_name(r).to_json(p, orient="records", lines=True)
    )
    right(audit(Y, lines))


def test_a_wrong_file_of_class_names_is_refused_briefly():
    wrong = {"columns": list(range(5000))}
    assert len(refusals.refused(kdlib.audit, Y, *A.values(), classes=wrong)) < 300


@pytest.mark.parametrize("mark", "\x1c\x1e\x85\u2003")
def test_spaces_that_int_does_not_read_make_no_number(mark):
    ids = [f"{k}{mark}" for k in range(N)]
    for table in ({"id": ids, "pred": A["teacher"]}, {"pred": [f"{a}{mark}" for a in Y]}):
        try:
            audit(Y, lambda r, table=table: pd.DataFrame(table))
        except KdlibError as error:
            assert "\n" not in str(error)
