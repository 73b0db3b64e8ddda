"""In which order classes come: taken where it is certain, said, and refused or warned of where not.

A wrong order of two classes looks exactly like harm to both."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import refusals

import kdlib
from kdlib.reading.read import Source
from kdlib.reading.said import warnings
from kdlib.reading.scores import Outputs

RECORDS = Path(__file__).parents[2] / "data" / "records"
NAMES = np.array(["negative", "neutral", "positive"], dtype=object)
Y = np.repeat([1, 0, 2], [30, 30, 140])
SIGNS = "the names of the classes in the order of their numbers (--classes)."


def model(seed):
    """Probabilities (200, 3), right in about 90 %."""
    rng = np.random.default_rng(seed)
    p = np.full((len(Y), 3), 0.1)
    p[np.arange(len(Y)), np.where(rng.random(len(Y)) < 0.9, Y, (Y + 1) % 3)] = 0.8
    return p


P = {"teacher": model(1), "student": model(3), "baseline": model(2)}
TRUE = {role: 100 * (p.argmax(axis=1) == Y).mean() for role, p in P.items()}


def audit(labels, **models):
    models = P | models
    return kdlib.audit(labels, **models, resamples=2)


def refused(labels, **models):
    return refusals.refused(audit, labels, **models)


def right(found):
    for role, share in TRUE.items():
        assert found.metrics[f"{role}_accuracy"].estimate == pytest.approx(share)
    assert not found.warnings
    return found


def table(role, order):
    return pd.DataFrame(P[role], columns=NAMES).iloc[:, order]


def pipeline(folder, role, names=NAMES):
    """The file of what a pipeline of Hugging Face gives: of each row, the largest score first."""
    rows = [
        [{"label": names[k], "score": row[k]} for k in np.argsort(-row, kind="stable")]
        for row in P[role]
    ]
    path = folder / f"{role}.json"
    path.write_text(json.dumps(rows))
    return path


# ---------------------------------------------------------------- columns with names, and without


@pytest.mark.parametrize("labels", [Y, NAMES[Y]])
def test_an_order_of_columns_that_others_do_not_share_is_said_and_warned_of(labels):
    """Labels that are numbers, or matrices without names, are taken in the order of the columns."""
    found = audit(labels, student=table("student", [1, 0, 2]))
    counting = "labels, teacher" if labels is Y else "teacher"
    order = "student: its order of the classes, neutral, negative, positive, is that of "
    assert f"{order}{counting}, baseline." in found.read
    wrong = ["student"] if labels is Y else ["teacher", "baseline"]
    for role, warning in zip(wrong, found.warnings, strict=True):
        assert f"{TRUE[role]:.1f} % if the classes came in another order, for n" in warning
    known = P | {"student": table("student", [1, 0, 2])}
    right(kdlib.audit(labels, **known, classes=NAMES))


@pytest.mark.parametrize("order", [["a", "b", "c"], ["wolf", "cat", "dog"], ["10", "9", "8"]])
def test_an_order_of_columns_that_fits_is_taken_and_said(order):
    """Also one that is not that of the alphabet, as frameworks have it."""
    named = pd.DataFrame(P["student"], columns=order)
    said = f"student: its order of the classes, {', '.join(order)}, is that of "
    found = right(audit(np.array(order, dtype=object)[Y], student=named))
    assert f"{said}teacher, baseline." in found.read
    if order[0] != "10":  # by which labels are called
        assert f"{said}labels, teacher, baseline." in right(audit(Y, student=named)).read
    every = {role: pd.DataFrame(p, columns=order) for role, p in P.items()}
    assert len(right(audit(np.array(order, dtype=object)[Y], **every)).read) == 1


def test_two_orders_beside_a_matrix_without_names_are_refused():
    models = {"student": table("student", [0, 1, 2]), "baseline": table("baseline", [2, 0, 1])}
    assert refused(NAMES[Y], **models) == (
        "baseline: its columns come in another order than those of student, and teacher give "
        f"classes only by number; list {SIGNS}"
    )


# ---------------------------------------------------------------- the order of one row


def test_the_order_of_a_row_is_none(tmp_path):
    files = {role: pipeline(tmp_path, role) for role in P}
    found = right(audit(NAMES[Y], **files))
    assert found.class_names == tuple(NAMES)
    assert refused(Y, student=files["student"]) == (
        f"{files['student']}: its classes come in another order in each row, and labels, teacher, "
        f"baseline give classes only by number; list {SIGNS}"
    )
    assert "and teacher, baseline give classes only by number" in refused(
        NAMES[Y], student=files["student"]
    )
    assert "and labels give classes only by number" in refused(Y, **files)
    right(kdlib.audit(Y, **P | {"student": files["student"]}, classes=NAMES))
    # a table beside it has the order
    mixed = {"teacher": files["teacher"], "baseline": table("baseline", [0, 1, 2])}
    right(audit(Y, **mixed, student=table("student", [0, 1, 2])))


def test_numbers_in_a_pipelines_names_are_the_order(tmp_path):
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    right(audit(Y, student=pipeline(tmp_path, "student", names)))


@pytest.mark.parametrize("form", ["records", "lines", "by id"])
def test_records_with_their_classes_in_several_orders_have_none(form, tmp_path):
    rows = [
        {NAMES[k]: row[k] for k in np.argsort(-row, kind="stable").tolist()} for row in P["student"]
    ]
    path = tmp_path / ("s.jsonl" if form == "lines" else "s.json")
    text = json.dumps(rows)
    if form == "lines":
        text = "\n".join(map(json.dumps, rows))
    elif form == "by id":
        text = json.dumps({f"{k}.png": row for k, row in enumerate(rows)})
    path.write_text(text)
    ids = [f"{k}.png" for k in range(len(Y))]
    said = refused(pd.DataFrame({"id": ids, "label": Y}), student=path)
    assert "give classes only by number" in said


# ---------------------------------------------------------------- classes that are exchanged


def warned(y, predicted, classes):
    """The warnings of a model whose predicted classes are known."""
    names = tuple(map(str, range(classes)))
    found = {"student": [Outputs(np.asarray(predicted))]}
    said = warnings(np.asarray(y), names, found, {"student": [Source("student", {})]})
    return [sentence for sentence in said if "order" in sentence and "rows" not in sentence]


def test_two_exchanged_classes_are_warned_of():
    swapped = P["student"][:, [1, 0, 2]]
    share = 100 * (swapped.argmax(axis=1) == Y).mean()
    found = audit(Y, student=swapped)
    assert found.warnings == (
        f"The student is right in {share:.1f} %, but would be in {TRUE['student']:.1f} % if the "
        "classes came in another order, for 0, 1: are they in the same order as the labels?",
    )


@pytest.mark.parametrize("places", [[1, 0, 2], [1, 2, 0]])
@pytest.mark.parametrize(("classes", "n", "accuracy"), [(10, 50, 0.9), (20, 200, 0.7), (4, 20, 1)])
def test_rounds_of_classes_are_found_whatever_the_accuracy(places, classes, n, accuracy):
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(classes), n)
    honest = np.where(rng.random(len(y)) < accuracy, y, rng.integers(classes, size=len(y)))
    assert not warned(y, honest, classes)
    moved = np.array([*places, *range(3, classes)])[honest]
    [said] = warned(y, moved, classes)
    assert (
        f"{100 * (honest == y).mean():.1f} % if the classes came in another order, for 0, 1" in said
    )


def test_poor_but_honest_models_are_not_warned_of():
    rng = np.random.default_rng(6)
    for trial in range(60):
        classes, n = (2, 3, 10)[trial % 3], (20, 100, 1000, 10_000)[trial % 4]
        y = np.repeat(np.arange(classes), n)
        confused = np.where(rng.random(len(y)) < 0.45, y, 1 - y)
        assert not warned(y, np.where(y < 2, confused, y), classes)
        shares = rng.dirichlet(np.ones(classes) / 2, size=2)
        at_random = [rng.choice(classes, len(y), p=p) for p in shares]
        assert not warned(*at_random, classes)
        rare = np.repeat(np.arange(4), [trial % 3 + 1, trial % 2 + 1, 500, 500])
        assert not warned(rare, np.array([1, 0, 2, 3])[rare], 4)


def test_no_network_on_record_is_warned_of():
    """Many have rare classes, which they get right in 0 to 10 %."""
    poor = 0
    for path in sorted(RECORDS.glob("*.npz")):
        with np.load(path) as held:
            y, predicted = (held[name].astype(np.int64) for name in ("test_y", "test_predicted"))
        classes = y.max() + 1
        hits = np.bincount(y[y == predicted], minlength=classes)
        poor += (hits < 0.1 * np.bincount(y, minlength=classes)).sum()
        assert not warned(y, predicted, classes), path
    assert poor > 100
