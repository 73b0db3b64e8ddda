"""Adult: read and encoded as pandas and scikit-learn do; boosted trees as scikit-learn's."""

import os
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from adult import PEOPLE, write_adult
from conftest import _missing
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from kdlib.config import Config, KdlibError
from kdlib.models import COLUMNS, TREES, build
from kdlib.study import adult, boosting, experiment, records
from kdlib.study.cifar import DataError
from kdlib.study.datasets import load
from kdlib.study.grids import STUDIES
from kdlib.train import predict

STUDY = STUDIES["adult"]
SHORT = STUDY.shared | {"epochs": 2, "batch_size": 128}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of made-up data in the shape of Adult, records and a cache of this test."""
    write_adult(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    experiment._load.cache_clear()
    yield tmp_path / "data"
    experiment._load.cache_clear()


@pytest.fixture(scope="session")
def real():
    folder = Path(os.environ.get("KDLIB_DATA") or Path(__file__).parents[2] / "data")
    if not (folder / "adult" / "adult.data").exists():
        _missing("data", f"no adult in {folder}; set KDLIB_DATA")
    return folder


def frames(folder):
    """(adult.data, adult.test) as pandas reads them."""
    how = {"names": adult.COLUMNS, "skipinitialspace": True, "comment": "|", "na_filter": False}
    return [pd.read_csv(folder / "adult" / name, **how) for name in ("adult.data", "adult.test")]


# ---------------------------------------------------------------- reading and splits


def test_the_published_files_have_the_published_counts(real):
    table, (data, test) = adult.load_table(real), frames(real)
    assert (table.train.sum(), len(table.y)) == (32_561, 48_842) == (len(data), len(data) + 16_281)
    assert table.y[table.train].sum() == (data.income == ">50K").sum() == 7_841
    assert table.y[~table.train].sum() == (test.income == ">50K.").sum() == 3_846
    both = pd.concat([data, test])
    counted = (both.race + ", " + both.sex).value_counts()
    assert dict(zip(adult.GROUPS, np.bincount(table.group), strict=True)) == dict(counted)
    missing = (both[["workclass", "occupation", "native-country"]] == "?").sum()
    columns = [f"{c}={w}" for c, words in adult.WORDS.items() for w in words.split()]
    ours = {c: table.words[:, columns.index(f"{c}=?")].sum() for c in missing.index}
    assert ours == dict(missing)


def test_real_splits_hold_every_group_and_both_labels(real):
    data = load(Config(dataset="adult", student="mlp"), str(real))
    sizes = {name: len(split) for name, split in data.splits().items()}
    assert sizes == {"train": 26_058, "val": 6_503, "test": 16_281, "left_out": 0}
    for name in ("train", "val", "test"):
        split = data.splits()[name]
        cells = torch.bincount(2 * split.group + split.y, minlength=20)
        assert cells.min() > 0, name


@pytest.mark.parametrize("folder", ["small", "real"])
def test_rows_are_encoded_as_scikit_learn_encodes_them(folder, request):
    folder = request.getfixturevalue(folder)
    table = adult.load_table(folder)
    data = load(Config(dataset="adult", student="mlp"), str(folder))
    both = pd.concat(frames(folder), ignore_index=True)
    words = OneHotEncoder(categories=[w.split() for w in adult.WORDS.values()])
    encoder = make_column_transformer(
        (StandardScaler(), list(adult.NUMBERS)), (words, list(adult.WORDS)), sparse_threshold=0
    )
    official = frames(folder)[0]
    # train is what val leaves of adult.data: found by its rows, not by our indices
    wanted = table.encoded(np.arange(len(official)))
    assert wanted.shape == (len(both), COLUMNS)
    encoder.fit(official)
    assert np.abs(wanted - encoder.transform(both)).max() < 2e-3  # mean and std have 4 digits
    assert np.allclose(data.train.x[:, :5].mean(dim=0), 0, atol=1e-3)
    spread = data.train.x[:, :5].std(dim=0, unbiased=False)
    assert ((spread - 1).abs() < 1e-3)[spread > 0].all()
    assert np.array_equal(data.test.x[:, 5:], wanted[len(official) :, 5:])


def test_val_is_a_fifth_of_each_group_and_label_and_every_row_is_used_once(small):
    data = load(Config(dataset="adult", student="mlp"), str(small))
    cells = [2 * split.group + split.y for split in (data.train, data.val)]
    train, val = (torch.bincount(cell, minlength=20) for cell in cells)
    assert torch.equal(val, (train + val) // 5)
    assert len(data.train) + len(data.val) == PEOPLE["adult.data"]
    official = adult.load_table(small)
    ours = np.vstack([data.train.x[:, 5:], data.val.x[:, 5:]])
    theirs = official.words[official.train].astype(np.float32)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_damaged_and_absent_files_are_said_in_one_sentence(small, tmp_path):
    (small / "adult" / "adult.test").write_text("39, Private")
    with pytest.raises(DataError, match="adult.test does not hold the published rows.*data get"):
        adult.load_table(small)
    with pytest.raises(DataError, match="adult was not found: there is no .*adult.data; get"):
        adult.find(tmp_path)
    assert adult.found().startswith("adult: in ")


def test_a_download_takes_what_is_missing_and_checks_it(small, tmp_path):
    there = tmp_path / "there"
    assert adult.download(there, (small / "adult").as_uri()) == there / "adult"
    assert (there / "adult" / "adult.test").read_bytes() == (
        small / "adult" / "adult.test"
    ).read_bytes()
    with pytest.raises(DataError, match="adult could not be fetched from .*nowhere"):
        adult.download(tmp_path / "other", (tmp_path / "nowhere").as_uri())


def test_a_download_repairs_what_is_damaged_and_keeps_nothing_that_is_wrong(small, tmp_path):
    there, wrong = tmp_path / "there" / "adult", tmp_path / "wrong"
    wrong.mkdir()
    for name in adult.FILES:
        (wrong / name).write_text("<html>not found</html>")
    with pytest.raises(DataError, match="wrong/adult.data does not hold the published rows"):
        adult.download(there.parent, wrong.as_uri())
    assert not there.exists()
    there.mkdir(parents=True)
    (there / "adult.data").write_text("39, Private")  # as a download cut short leaves it
    adult.download(there.parent, (small / "adult").as_uri())
    for name in adult.FILES:
        assert (there / name).read_bytes() == (small / "adult" / name).read_bytes()


def test_an_answer_that_is_cut_short_is_said(small, tmp_path, monkeypatch):
    def cut(address, timeout):
        raise IncompleteRead(b"39, Private")

    monkeypatch.setattr("urllib.request.urlopen", cut)
    with pytest.raises(DataError, match="could not be fetched .*IncompleteRead"):
        adult.download(tmp_path / "there", "http://example.org")


# ---------------------------------------------------------------- Config


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"dataset": "adult"}, "student='cnn_small': does not read what 'adult' holds; mlp,"),
        ({"student": "mlp"}, "student='mlp': does not read what 'digits' holds; cnn,"),
        (
            {"dataset": "adult", "student": "mlp", "method": "kd", "teacher": "cnn"},
            "teacher='cnn': does not read",
        ),
        (
            {"dataset": "adult", "student": "mlp", "imbalance": 2},
            "imbalance: 'adult' is used whole",
        ),
        (
            {"dataset": "adult", "student": "boosted_trees", "method": "kd", "teacher": "mlp"},
            "trees teach, they do not learn 'kd'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, says):
    with pytest.raises(KdlibError, match=says):
        Config(**fields)


# ---------------------------------------------------------------- networks


def fitted(small, student, **more):
    cfg = Config(**SHORT | {"student": student, "seed": 3} | more)
    record = experiment.run(cfg, str(small))
    return cfg, record, experiment.trained(cfg, str(small)), experiment.load(cfg, str(small))[0]


def test_boosted_trees_are_those_of_scikit_learn(small):
    cfg, record, model, data = fitted(small, "boosted_trees")
    x, y = data.train.x.numpy(), data.train.y.numpy()
    theirs = HistGradientBoostingClassifier(
        max_depth=6, max_features=0.5, early_stopping=False, random_state=3
    ).fit(x, y)
    for split in (data.train, data.test):
        logits = predict(model, split.x, data)
        score = theirs.decision_function(split.x.numpy())
        assert np.allclose((logits[:, 1] - logits[:, 0]).numpy(), score, atol=1e-5)
    probability = theirs.predict_proba(x)[np.arange(len(y)), y]
    assert record.facts["curves"]["loss"][-1] == pytest.approx(-np.log(probability).mean())
    halfway = list(theirs.staged_predict_proba(x))[TREES // 2 - 1][np.arange(len(y)), y]
    assert record.facts["curves"]["loss"][0] == pytest.approx(-np.log(halfway).mean())
    assert np.array_equal(record.splits["test"].predicted, theirs.predict(data.test.x.numpy()))


def test_seeds_of_boosted_trees_differ_and_repeat(small):
    hashes = [fitted(small, "boosted_trees", seed=s)[1].facts["weights_sha256"] for s in (0, 1)]
    assert hashes[0] != hashes[1]
    first = Config(**SHORT | {"student": "boosted_trees", "seed": 0})
    for file in records.folder().glob(f"{first.key()}*"):
        file.unlink()
    assert experiment.run(first, str(small)).facts["weights_sha256"] == hashes[0]


def test_logistic_regression_converges_to_that_of_scikit_learn(small):
    more = {"epochs": 120, "lr": 0.5, "weight_decay": 0.02}
    _, _, model, data = fitted(small, "logistic", **more)
    x, y = data.train.x.numpy(), data.train.y.numpy()
    ones = np.ones((len(y), 1), np.float32)  # weight decay is on the bias too
    # half of w between the two classes: decay (u / 2)^2 twice is decay u^2 / 2
    theirs = LogisticRegression(
        C=1 / (len(y) * 0.01), fit_intercept=False, tol=1e-8, max_iter=5000
    ).fit(np.hstack([x, ones]), y)
    both = torch.cat([model[0].weight, model[0].bias[:, None]], dim=1).detach().numpy()
    assert np.abs(both[1] - both[0] - theirs.coef_[0]).max() < 0.02


def test_a_student_of_boosted_trees_is_trained_and_recorded_like_any_other(small):
    cfg = Config(**SHORT, student="mlp_small", teacher="boosted_trees", method="ada_alpha")
    record = experiment.run(cfg, str(small))
    teacher = records.read(cfg.teacher_config())
    val = teacher.splits["val"]
    margin = 2 * np.exp(val.log_p[:, 0].astype(float)) - 1
    wanted = [margin[val.group == g].mean() for g in range(10)]
    assert np.allclose(record.facts["margins"], np.clip(wanted, 0, 1), atol=2e-3)
    assert record.facts["teacher_logits"] == "table"
    assert (
        record.facts["train_counts"]
        == np.bincount(experiment.load(cfg, str(small))[0].train.group).tolist()
    )


def test_networks_and_trees_may_be_asked_for_at_once(small):
    both = [Config(**SHORT, student=name) for name in ("boosted_trees", "logistic")]
    experiment.together(both, str(small))
    alone = [records.read(cfg).facts["weights_sha256"] for cfg in both]
    for file in records.folder().glob("adult*"):
        file.unlink()
    assert [experiment.run(cfg, str(small)).facts["weights_sha256"] for cfg in both] == alone


def test_a_teacher_that_says_the_same_of_everybody_is_refused(small, monkeypatch):
    monkeypatch.setattr(boosting, "take", lambda *_: None)
    with pytest.raises(KdlibError, match="near chance"):
        experiment.run(
            Config(**SHORT, student="logistic", teacher="boosted_trees", method="kd"), str(small)
        )


def test_untrained_networks_of_a_table_have_two_logits():
    x = torch.randn(5, COLUMNS)
    for name in ("mlp", "mlp_small", "logistic", "boosted_trees"):
        assert build(name, 2, 0)(x).shape == (5, 2)
    with pytest.raises(KdlibError, match="2 classes, not 3"):
        build("boosted_trees", 3, 0)
