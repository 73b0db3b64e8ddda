"""What own students predicted: on disk, in an audit, in the choice of one to ship, on its card."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import jsonschema
import mistune
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import referencing
import torch
import torchvision
from safetensors import safe_open
from torch import nn
from torch.nn import functional

import kdlib
from kdlib.__main__ import main
from kdlib.auditing.found import Found
from kdlib.config import KdlibError
from kdlib.distilling import cards, choice, results
from kdlib.distilling.audited import told_apart
from kdlib.distilling.examples import Examples, Files
from kdlib.distilling.listing import PARTS, Listing
from kdlib.models import build
from kdlib.study import records
from kdlib.study.records import Predictions
from kdlib.teacher import weights_sha256

CLASSES = ("apple", "b|a*n_a <b>`x`", "cherry", "date", "elder", "fig")
HARD = 3  # the class that distillation loses
ABOUT = {
    "teacher": "torchvision:resnet50@t.safetensors",
    "student": "torchvision:resnet18@start.safetensors",
    "epochs": 3,
    "size": 32,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.25, 0.3),
    "teacher_sha256": "ab" * 32,
}


def examples(split, each, classes=6, folder=Path("FOLDER")):
    y = np.repeat(np.arange(classes), each)
    names = np.array([f"{split}/{k}/é {i}.png" for i, k in enumerate(y)])
    return Examples(names, y, y, Files(folder))


def listing_of(names=CLASSES, folder=Path("FOLDER"), train=(150, 120, 60, 50, 10, 5), each=40):
    splits = [
        examples(part, n, len(names), folder)
        for part, n in zip(PARTS, (train, each, each), strict=True)
    ]
    read = ("FOLDER: 6 folders, split by seed 0.",)
    return Listing(*splits, tuple(names), tuple(names), read, folder)


def logits_of(seed, y, strength, lost=0.0, classes=6):
    """(N, C) scores that are right the oftener the larger `strength`, seldom for HARD if lost."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(len(y), classes)) + strength * np.eye(classes)[y]
    found[y == HARD, HARD % classes] -= lost
    return torch.tensor(found)


def network(seed, listing, strength, lost=0.0):
    return tuple(
        results.predictions(
            logits_of(seed + k, split.y, strength, lost, len(listing.class_names)), split
        )
        for k, split in enumerate((listing.val, listing.test))
    )


def trained(method, seed, listing, strength, lost=0.0):
    number = sum(map(ord, method)) * 10 + seed
    sha256 = hashlib.sha256(f"{method}{seed}".encode()).hexdigest()
    return results.Trained(method, seed, *network(number, listing, strength, lost), sha256)


def some_students(listing, methods=("one_hot", "kd", "ada_alpha"), seeds=2):
    how = {"one_hot": (2.0,), "kd": (2.6, 2.0), "ada_alpha": (2.6,)}
    return [trained(m, s, listing, *how[m]) for m in methods for s in range(seeds)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, listing, students, Students) of a run of three methods and two seeds."""
    out = tmp_path_factory.mktemp("run")
    listing = listing_of()
    students = some_students(listing)
    teacher = network(7, listing, 3.0)
    for split, which in (("val", 0), ("test", 1)):
        results.write_predictions(
            results.place(out, "teacher", split), getattr(listing, split), teacher[which]
        )
        for one in students:
            path = results.place(out, choice.stem(one.method, one.seed), split)
            results.write_predictions(path, getattr(listing, split), getattr(one, split))
    said = []
    found = results.finished(out, listing, teacher, students, ABOUT, said.append)
    return out, listing, students, found, said


# ---------------------------------------------------------------- predictions


def test_predictions_are_those_of_a_softmax_also_of_forty_thousand_classes():
    y = np.array([0, 39_999, 33_000])
    split = Examples(np.array(["a", "b", "c"]), y, y, None)
    logits = torch.zeros(3, 40_000)
    logits[[0, 1, 2], [5, 39_999, 35_000]] = 20.0
    x = results.predictions(logits, split)
    assert x.predicted.tolist() == [5, 39_999, 35_000] and x.right.tolist() == [False, True, False]
    by_hand = functional.log_softmax(logits.double(), dim=1).numpy()
    expected = np.column_stack([by_hand[range(3), y], by_hand.max(axis=1)])
    np.testing.assert_allclose(x.log_p, expected, rtol=1e-6, atol=1e-9)
    # as records have them, up to their precision
    few = Examples(np.array(["a"]), np.array([1]), np.array([0]), None)
    scores = torch.tensor([[1.0, 3.0, -2.0]])
    tensors = dataclasses.replace(few, y=torch.tensor([1]), group=torch.tensor([0]))
    ours, theirs = results.predictions(scores, few), records.predictions(scores, tensors)
    assert ours.predicted.tolist() == theirs.predicted.tolist()
    np.testing.assert_allclose(ours.log_p, theirs.log_p, rtol=1e-3)


def test_predictions_come_back_as_they_were_written(run):
    out, listing, students, *_ = run
    path = results.place(out, "ada_alpha-s1", "test")
    x = results.read_predictions(path, listing.test)
    wanted = students[-1].test
    for name in records.ARRAYS:
        np.testing.assert_array_equal(getattr(x, name), getattr(wanted, name))
    assert x.log_p.dtype == np.float32 and x.predicted.dtype == np.int64


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "not a readable npz file"),
        (lambda path: np.savez(path, y=np.arange(3)), "not of the images of this split"),
        (lambda path: np.savez(path, id=np.array([{}], object)), "Python objects"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: respelt(path, id=lambda a: a[::-1]), "not of the images of this split"),
        (lambda path: respelt(path, log_p_label=lambda a: a[1:]), "not of the images of this"),
        (lambda path: respelt(path, predicted=lambda a: a + 0.5), "does not hold log-prob"),
        (lambda path: respelt(path, log_p_label=lambda a: a * np.nan), "does not hold log-prob"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_sentence(spoil, why, tmp_path):
    split = examples("test", 3)
    path = tmp_path / "kd-s0-test.npz"
    results.write_predictions(path, split, results.predictions(logits_of(0, split.y, 2), split))
    spoil(path)
    with pytest.raises(KdlibError, match=why) as error:
        results.read_predictions(path, split)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def respelt(path, **changes):
    """Write an npz file again with some arrays changed."""
    held = dict(np.load(path))
    np.savez(path, **held | {name: change(held[name]) for name, change in changes.items()})


def test_a_network_that_diverged_is_named_with_its_first_image_and_nothing_is_written(tmp_path):
    split = examples("test", 3)
    logits = logits_of(0, split.y, 2)
    logits[4] = torch.nan
    path = tmp_path / "kd-s0-test.npz"
    with pytest.raises(KdlibError, match=r"no finite score for test/1/é 4.png and 0 more"):
        results.write_predictions(path, split, results.predictions(logits, split))
    assert not path.exists()


@pytest.mark.parametrize("methods", [("kd",), ("kd", "ada_alpha")])
def test_the_files_audited_by_hand_give_the_gains_of_the_page(run, methods):
    out, _, _, found, _ = run
    files = {
        m: [results.place(out, f"{m}-s{s}", "test") for s in (0, 1)] for m in (*methods, "one_hot")
    }
    labels = results.place(out, "labels", "test")
    shared = dict(teacher=results.place(out, "teacher", "test"), groups=f"{labels}:group")
    baseline = files.pop("one_hot")
    again = kdlib.audit_students(labels, students=files, baseline=baseline, **shared)
    for method in methods:
        mine = found.audits[method].groups.set_index("group")
        by_file = again.audits[method].groups.set_index("group").loc[mine.index]
        columns = ["n", "student", "baseline", "teacher", "gain", "teacher_margin"]
        pd.testing.assert_frame_equal(mine[columns], by_file[columns], rtol=1e-6, check_exact=False)
    assert "joined by id" in " ".join(again.read)
    if len(methods) == 2:
        assert found.groups.finding.tolist() == again.groups.finding.tolist()


# ---------------------------------------------------------------- the choice


def exactly(listing, methods):
    """Students whose validation accuracy in each class is as said: {method: [rates of a seed]}."""
    test = listing.test
    chance = results.predictions(logits_of(0, test.y, 2, 0, len(listing.class_names)), test)
    out = []
    for method, of_seeds in methods.items():
        for seed, shares in enumerate(of_seeds):
            y = listing.val.y
            n = np.bincount(y)
            place = np.concatenate([np.arange(k) for k in n])
            right = place < (np.array(shares) / 100 * n)[y]
            predicted = np.where(right, y, (y + 1) % len(listing.class_names))
            log_p = np.full((len(y), 2), -0.1)
            val = Predictions(y, listing.val.group, predicted, log_p)
            out.append(results.Trained(method, seed, val, chance, f"{method}{seed}"))
    return out


RATES = {
    # better in its worst class, but below the baseline on average
    "below on average": ({"one_hot": [50, 90, 90], "kd": [60, 70, 70]}, "one_hot"),
    "better in the worst": ({"one_hot": [50, 90, 90], "kd": [60, 90, 80]}, "kd"),
    "worse in the worst": ({"one_hot": [50, 90, 90], "kd": [40, 100, 100]}, "one_hot"),
    # each by its own worst class
    "another worst": ({"one_hot": [50, 90, 90], "kd": [90, 60, 80]}, "kd"),
    "tie, higher average": (
        {"one_hot": [50, 90, 90], "kd": [60, 90, 90], "ada_alpha": [60, 90, 100]},
        "ada_alpha",
    ),
    "nothing, and a better half": (
        {"one_hot": [0, 40, 100], "kd": [0, 50, 90], "ada_alpha": [0, 40, 100]},
        "kd",
    ),
    "all alike": (
        {"one_hot": [50, 90, 90], "kd": [90, 50, 90], "ada_alpha": [90, 90, 50]},
        "one_hot",
    ),
}


@pytest.mark.parametrize("case", RATES)
def test_the_rule_by_a_hand_count(case):
    listing = listing_of(("a", "b", "c"), train=(9, 9, 9), each=10)
    rates, wanted = RATES[case]
    students = exactly(listing, {m: [shares] for m, shares in rates.items()})
    table = choice.scores(choice.by_method(students), listing)
    assert choice.in_order(table).method.iloc[0] == wanted
    for row in table.itertuples(index=False):
        assert row.average == pytest.approx(np.mean(rates[row.method]))
        assert row[2] == pytest.approx(np.mean(sorted(rates[row.method])[:2]))
        assert row[3] == pytest.approx(min(rates[row.method]))
    assert bool(choice._hopeless(table, wanted)) == (case == "nothing, and a better half")
    why = choice._ship(wanted, table, 30)
    tied = case in ("tie, higher average", "nothing, and a better half")
    assert ("none that ties there" in why) == tied


def test_of_twenty_groups_the_two_worst_count_and_seeds_are_averaged_first():
    listing = listing_of([f"c{k:02}" for k in range(20)], train=[5] * 20, each=10)
    flat = np.full(20, 50.0)
    first, second = flat.copy(), flat.copy()
    first[[0, 1, 2]] = 10, 30, 40
    second[[0, 1, 2]] = 30, 30, 40  # means 20, 30, 40
    students = exactly(listing, {"one_hot": [flat], "kd": [first, second]})
    table = choice.scores(choice.by_method(students), listing).set_index("method")
    assert table["worst groups"]["kd"] == pytest.approx((20 + 30) / 2)
    assert table.average["kd"] == pytest.approx((20 + 30 + 40 + 17 * 50) / 20)
    assert table.allowed.to_dict() == {"one_hot": "yes", "kd": "no"}


def test_what_luck_may_have_chosen_is_said_with_its_size():
    listing = listing_of(("a", "b", "c"), train=(9, 9, 9), each=100)
    for worst, close in ((64, False), (63, True)):  # 1.96 sqrt(0.25 / 100 + p (1 - p) / 100): 13.6
        students = exactly(listing, {"one_hot": [[50, 90, 90]], "kd": [[worst, 90, 90]]})
        table = choice.scores(choice.by_method(students), listing)
        assert table.images.tolist() == [100, 100]
        said = " ".join(choice._how_close(table))
        assert bool(said) == close
    assert said == (
        "It was close: the baseline is next with 50.0 %, and on the 100 validation images of a "
        "method's worst groups a difference of up to 13.6 points may be luck."
    )


def test_what_was_chosen_on_val_and_fails_on_test_is_shipped_with_a_warning(tmp_path, no_pages):
    listing = listing_of()
    of_val = exactly(listing, {"one_hot": [[50] * 6] * 2, "kd": [[60] * 6] * 2})
    of_test = some_students(listing, ("one_hot", "kd"))
    students = [dataclasses.replace(b, val=a.val) for a, b in zip(of_val, of_test, strict=True)]
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), students, ABOUT)
    first = found.answer()[0]
    gain = found.groups.set_index("group").gain["date"]
    assert first.startswith("Ship kd: ") and found.groups.finding.tolist().count("harmed") == 1
    assert f"harms 1 of 6 groups: date (−{-gain:.1f}" in first
    bad = [dataclasses.replace(one, test=network(99, listing, 0.5)[1]) for one in students[2:]]
    found = results.finished(
        tmp_path, listing, network(7, listing, 3.0), [*students[:2], *bad], ABOUT
    )
    assert "clearly less accurate than the baseline, which the validation" in found.answer()[0]


@pytest.mark.parametrize("methods", [("one_hot", "kd"), ("one_hot", "kd", "ada_alpha")])
def test_one_run_of_each_is_nowhere_told_as_what_a_distillation_does(tmp_path, methods):
    listing = listing_of()
    students = some_students(listing, methods, seeds=1)
    rates = {name: [[50 + 10 * (name == "kd")] * 6] for name in methods}  # so kd is shipped
    of_val = exactly(listing, rates)
    students = [dataclasses.replace(b, val=a.val) for a, b in zip(of_val, students, strict=True)]
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), students, ABOUT)
    first = found.answer()[0].replace("\N{NO-BREAK SPACE}", " ")
    audits = {"kd": found} if len(methods) == 2 else found.audits
    gain = audits["kd"].groups.set_index("group").gain["date"]
    lost = f"is worse than the baseline in 1 of 6 groups: date (−{-gain:.1f} points)"
    assert first.startswith("Ship kd: ") and lost in first
    assert ("No such group can be seen with ada_alpha." in first) == (len(methods) == 3)
    card = (tmp_path / "students" / "kd-s0.md").read_text()
    assert f"It {lost}, at a false discovery rate of 5 %." in card
    assert rows_of(card, "Its worst groups")[0][4] == "worse"
    for text in (*found.headline(), card, (tmp_path / "README.md").read_text()):
        assert not re.search("harm|helped", text), text
    # files keep the word of the condition, which counts it
    held = json.loads((tmp_path / "report.json").read_text())
    held = held["students"]["kd"] if "students" in held else held
    assert [row["group"] for row in held["groups"] if row["finding"] == "harmed"] == ["date"]
    assert held["metrics"]["groups_harmed"] == 1
    assert "harmed" in (tmp_path / "report.csv").read_text()


def test_a_group_without_a_validation_image_does_not_count():
    listing = listing_of(("a", "b", "c"), train=(9, 9, 9), each=10)
    listing = dataclasses.replace(listing, val=listing.val[listing.val.y != 2])
    students = exactly(listing, {"one_hot": [[50, 70]], "kd": [[60, 70]]})
    table = choice.scores(choice.by_method(students), listing)
    assert table.average.tolist() == [60, 65] and table["worst groups"].tolist() == [50, 60]
    assert choice.in_order(table).method.iloc[0] == "kd"


def test_the_seed_to_ship_is_the_best_on_average_on_val_and_test_is_never_asked():
    listing = listing_of(("a", "b", "c"), train=(9, 9, 9), each=10)
    rates = {"one_hot": [[50, 60, 70]] * 3, "kd": [[60, 70, 70], [60, 90, 80], [70, 70, 70]]}
    students = exactly(listing, rates)
    audits = {"kd": audit_of(listing, students)}
    chosen = choice.choose(students, listing, audits)
    assert (chosen.method, chosen.seed, chosen.file) == ("kd", 1, "students/kd-s1.safetensors")
    worse = [dataclasses.replace(one, test=None) for one in students]
    assert choice.choose(worse, listing, audits).file == chosen.file


def audit_of(listing, students):
    """The Audit of kd among students."""
    y = listing.test.y

    def of(method):
        return [dict(predicted=one.test.predicted + 0) for one in students if one.method == method]

    rng = np.random.default_rng(0)
    noisy = [
        np.where(rng.random(len(y)) < 0.2, (y + 1) % 3, x["predicted"])
        for x in of("kd") + of("one_hot")
    ]
    return kdlib.audit(y, y, noisy[:3], noisy[3:], resamples=50)


@pytest.mark.parametrize(
    "method, source, reading, reads",
    [
        ("one_hot", "val", "B", False),
        ("kd", "val", "B", False),
        ("ada_alpha", "val", "B", True),
        ("ada_alpha", "crossfit", "B", False),
        ("ada_alpha_crossfit", "val", "B", False),
        ("kd_mean_alpha", "val", "B", True),
        ("ada_alpha_01", "val", "B", False),
        ("ada_margin", "val", "B", False),
        ("ada_margin", "val", "A", True),
        ("ada_margin", "crossfit", "A", False),
        ("balanced_kd", "val", "B", False),
    ],
)
def test_which_methods_read_labels_of_val(method, source, reading, reads):
    about = {"epochs": 3, "margin_source": source, "margin_reading": reading}
    assert choice.reads_val(method, about) == reads
    assert ("also reads those of the validation" in choice.labels_told([method], about)) == reads


# ---------------------------------------------------------------- the page


def test_the_page_begins_with_what_to_ship_and_says_what_was_read(run):
    out, listing, students, found, said = run
    first, file, close, *rest = found.answer()
    assert first.startswith("Ship ada_alpha: on 240 held-out validation images it is the most")
    gain = found.audits["ada_alpha"].metrics["average_gain"]
    assert f"its gain is +{gain.estimate:.1f}\u00a0points (95\u00a0% interval" in first
    harmed = found.audits["ada_alpha"].metrics["groups_harmed"]
    assert harmed == 0 and "harms none of 6 groups as far as can be seen" in first
    assert "ada_alpha also reads those of the validation images" in found.choice.labels
    assert close.startswith("It was close: the baseline is next with ")
    assert found.choice.file in file and "the one of 2 training runs of ada_alpha" in file
    html = (out / "report.html").read_text()
    assert html.index("Ship ada_alpha") < html.index("groups, kd harmed 1")
    for text in (
        choice.RULE,
        "FOLDER: 6 folders, split by seed 0.",
        "Recipe: teacher torchvision:resnet50@",
    ):
        assert (
            text in html
            and text in (out / "report-kd.html").read_text()
            or text in (choice.RULE, found.choice.labels)
        )
    assert "<dd>Recipe: teacher" in html and found.read[1] == listing.read[0]
    assert html.count("FOLDER: 6 folders, split by seed 0.") == 1
    # the listing has said its own sentences by then
    assert not {found.read[0], listing.read[0]} & set(said)  # both were said before training
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "report.json", "report.csv", "report-kd.html", "README.md"} <= names


def test_json_holds_the_choice_as_the_schema_says(run, tmp_path):
    out, listing, students, found, _ = run
    folder = Path(kdlib.__file__).parent / "auditing"
    held = {p.name: json.loads(p.read_text()) for p in folder.glob("*.schema.json")}
    resources = [(name, referencing.Resource.from_contents(of)) for name, of in held.items()]
    registry = referencing.Registry().with_resources(resources)

    def check(facts, schema):
        jsonschema.Draft202012Validator(held[schema], registry=registry).validate(facts)
        assert facts["choice"]["rule"] == choice.RULE and facts["choice"]["method"] == "ada_alpha"
        assert [row["method"] for row in facts["choice"]["table"]][-1] == "ada_alpha"

    facts = json.loads((out / "report.json").read_text())
    check(facts, "students.schema.json")
    inputs = {row["name"]: row["sha256"] for row in facts["students"]["kd"]["inputs"]}
    assert inputs["kd-s1"] == students[3].sha256 and inputs[ABOUT["teacher"]] == "ab" * 32
    assert "choice" not in facts["students"]["kd"]
    # of one method
    some = some_students(listing, ("one_hot", "ada_alpha"), 1)
    one = results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT)
    check(json.loads((tmp_path / "report.json").read_text()), "audit.schema.json")
    assert one.answer()[0].startswith("Ship ada_alpha") and "training runs" not in one.answer()[1]


def test_methods_that_come_to_the_same_weights_are_audited_all_the_same(tmp_path, no_pages):
    listing = listing_of()
    students = some_students(listing, ("one_hot", "kd"), 1)
    students.append(dataclasses.replace(students[1], method="ada_alpha"))
    students.append(dataclasses.replace(students[0], method="ada_margin"))
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), students, ABOUT)
    gains = found.table.set_index("student").average_gain
    assert gains["ada_alpha"] == gains["kd"] and gains["ada_margin"] == 0


def test_buckets_are_of_training_images_unless_all_groups_fall_into_one(run, tmp_path, no_pages):
    assert [*run[3].first.buckets.bucket] == ["many", "medium", "few"]
    listing = listing_of(train=[200, 150, 300, 250, 120, 110])
    some = some_students(listing, ("one_hot", "kd"), 1)
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT)
    assert found.bucketed_by == "the teacher's margin"
    assert found.groups.n_train.tolist() == [200, 150, 300, 250, 120, 110]


def test_subgroups_across_classes_and_those_without_a_test_image(tmp_path, no_pages):
    listing = listing_of()
    names = ("01", "1", "never seen")
    splits = {
        split: dataclasses.replace(of, group=of.y % 2)
        for split, of in (("val", listing.val), ("test", listing.test))
    }
    train = dataclasses.replace(listing.train, group=listing.train.y % 3)
    listing = dataclasses.replace(listing, train=train, group_names=names, **splits)
    some = some_students(listing, ("one_hot", "kd"), 1)
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT)
    assert found.groups.group.tolist() == ["group 01", "group 1"]  # "01" and "1" are two
    assert (
        "There are no test images of never seen, so the effect there is unknown."
        in found.headline()
    )
    n_train = np.bincount(train.group)[:2].tolist()
    assert found.groups.n_train.tolist() == n_train and found.groups.n.tolist() == [120, 120]


@pytest.mark.parametrize(
    "names", [("0", "1", "10", "2", "3", "4"), ("001", "002", "003", "004", "005", "006"),
              ("3", "5", "cat", "dog", "x", " y"), CLASSES]
)  # fmt: skip
def test_classes_that_are_called_by_numbers_keep_their_gains(names, tmp_path, no_pages):
    listing = listing_of(names)
    some = some_students(listing, ("one_hot", "kd"), 1)
    # one that only ever says the first two classes
    alone = results.predictions(logits_of(3, listing.test.y % 2, 9), listing.test)
    some[1] = dataclasses.replace(some[1], test=alone)
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT)
    right = [[one.test.right[listing.test.y == k].mean() for k in range(6)] for one in some]
    by_name = found.groups.set_index("group").gain[told_apart(names, "class")]
    np.testing.assert_allclose(by_name, 100 * (np.array(right[1]) - right[0]), atol=1e-9)


def test_pictures_are_shown_where_images_are_files(tmp_path, no_pages):
    listing = listing_of(each=20, folder=tmp_path)
    test = listing.test
    for i in range(len(test)):
        test.path(i).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (i, 0, 0)).save(test.path(i))
    some = some_students(listing, ("one_hot", "kd"), 1)
    teacher = network(7, listing, 1.5)
    some[1] = dataclasses.replace(some[1], test=teacher[1])  # takes over all its mistakes
    found = results.finished(tmp_path / "out", listing, teacher, some, ABOUT)
    pictures = [p for row in found.lost for p in row.pictures]
    assert pictures and all(p.data for p in pictures)
    for p in pictures:
        assert test.names[p.row].endswith(p.name) and CLASSES[test.y[p.row]] == p.label


def test_a_student_near_chance_is_not_said_to_be_in_another_order(tmp_path, no_pages):
    listing = listing_of()
    some = some_students(listing, ("one_hot", "kd", "ada_alpha"), 1)
    chance = results.predictions(logits_of(5, listing.test.y, 0), listing.test)
    some[1] = dataclasses.replace(some[1], test=chance)
    said = []
    found = results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT, said.append)
    for sentence in (*found.warnings, *said[-3:]):
        assert "rows" not in sentence or "in the order of the rows" in sentence
    [warning] = found.warnings
    assert (
        warning.endswith(": whether it has learned anything is not clear.") and "kd-s0" in warning
    )
    assert sum(line.endswith(warning.removeprefix("kd: ")) for line in said) == 1


def test_without_a_student_that_distils_there_is_nothing_to_audit(tmp_path):
    listing = listing_of()
    some = some_students(listing, ("one_hot",), 1)
    with pytest.raises(KdlibError, match="a method that distils"):
        results.finished(tmp_path, listing, network(7, listing, 3.0), some, ABOUT)


# ---------------------------------------------------------------- weights and cards


def test_weights_say_what_they_need_and_equal_weights_are_equal_bytes(run, tmp_path):
    _, listing, students, *_ = run
    about = ABOUT | {"student": "kdlib:resnet8", "mean": [0.5, 1 / 3, 0.25]}
    contents = set()
    for folder in ("a", "b", "c"):
        model = build("resnet8", 6, seed=4)  # in channels_last
        path = tmp_path / folder / "kd-s0.safetensors"
        results.save_weights(path, model, about, listing)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["kdlib"])
        held = {name: file.get_tensor(name) for name in file.offset_keys()}
    assert facts["class_names"] == list(CLASSES) and facts["size"] == 32
    assert facts["mean"] == [0.5, 1 / 3, 0.25] and facts["network"] == "kdlib:resnet8"
    assert facts["kdlib"] == kdlib.__version__
    again = build("resnet8", 6, seed=5)
    again.load_state_dict(held)
    assert weights_sha256(again) == weights_sha256(build("resnet8", 6, seed=4))


def test_weights_that_two_names_share_are_written(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight

    listing = listing_of()
    path = tmp_path / "tied.safetensors"
    results.save_weights(path, Tied(), ABOUT, listing)
    with safe_open(path, "pt") as file:
        assert {"a.weight", "b.weight"} <= set(file.offset_keys())


def rows_of(card, heading):
    """The cells of the table under a heading of a card."""
    part = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[text.strip() for text in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_card_names_the_worst_groups_of_this_network(run):
    out, listing, students, found, _ = run
    one = students[2]  # kd, seed 0
    card = (out / "students" / "kd-s0.md").read_text()
    y = listing.test.y
    right = pd.Series(one.test.predicted == y).groupby(y).mean().mul(100).sort_values(kind="stable")
    rows = rows_of(card, "Its worst groups")
    assert [float(row[2]) for row in rows] == pytest.approx(right.tolist(), abs=0.051)
    assert [int(row[1]) for row in rows] == [40] * 6
    assert rows[0][0] == "`date`" and rows[0][4] == "harmed"
    gain = found.audits["kd"].groups.set_index("group").gain["date"]
    assert rows[0][3].replace("−", "-").startswith(f"{gain:+.1f}")
    assert "It harms 1 of 6 groups: date (" in card and f"that is `{found.choice.file}`" in card
    assert (
        "**not**" in card
        and "**not**" not in (out / found.choice.file).with_suffix(".md").read_text()
    )


def test_the_accuracy_on_a_card_is_that_of_an_audit_of_this_network_alone(run):
    out, listing, students, *_ = run
    one = students[2]
    y, names = listing.test.y, list(CLASSES)
    alone = kdlib.audit(y, y, one.test.predicted, students[0].test.predicted, classes=names)
    wanted = [alone.metrics[f"student_{what}"] for what in ("accuracy", "average")]
    found = cards.accuracies(one.test)
    for mine, its in zip(found, wanted, strict=True):
        ends = [mine.estimate, mine.low, mine.high]
        assert ends == pytest.approx([its.estimate, its.low, its.high], abs=0.3)
        assert mine.estimate == pytest.approx(its.estimate, abs=1e-9)


def test_a_card_is_markdown_in_which_names_are_text(run):
    out, *_ = run
    for name in ("kd-s0", "one_hot-s0"):
        card = (out / "students" / f"{name}.md").read_text()
        front, body = card.removeprefix("---\n").split("\n---\n", 1)
        assert re.fullmatch(r"(\w+:.*|- [a-z-]+)(\n(\w+:.*|- [a-z-]+))*", front)
        html = mistune.create_markdown(plugins=["table"], escape=False)(body)
        assert "<b>" not in html and html.count("<table>") == 2
        assert html.count("b|a*n_a &lt;b&gt;") == 1
    assert "gain" not in html.split("worst groups")[1] and "knowledge-distillation" not in front


def test_the_five_lines_of_a_card_load_the_network(tmp_path, monkeypatch, no_pages):
    listing = listing_of()
    students = some_students(listing, ("one_hot", "kd"), 1)
    model = torchvision.models.get_model("resnet18", num_classes=6).eval()
    for one in students:
        path = tmp_path / "students" / f"{one.method}-s{one.seed}.safetensors"
        results.save_weights(path, model, ABOUT, listing)
    results.finished(tmp_path, listing, network(7, listing, 3.0), students, ABOUT)
    card = (tmp_path / "students" / "kd-s0.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(tmp_path / "students")
    loaded = {}
    exec(code, loaded)
    images = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(loaded["model"](images), model(images))


def test_the_index_has_a_command_that_audits_the_same_files(run, monkeypatch):
    out, _, _, found, _ = run
    text = (out / "README.md").read_text()
    command = text.split("```sh\n")[1].split("```")[0].replace("\\\n", " ").split()
    assert command[:3] == ["python", "-m", "kdlib"]
    monkeypatch.chdir(out)
    again = []
    monkeypatch.setattr(Found, "save", lambda of, *_: again.append(of) or ("page",))
    assert main([*command[3:], "--out", "again.html"]) == 0
    for name, a in found.audits.items():
        of_files = again[0].audits[name].groups
        gains = dict(zip(of_files.group, of_files.gain, strict=True))
        assert gains == pytest.approx(dict(zip(a.groups.group, a.groups.gain, strict=True)))
