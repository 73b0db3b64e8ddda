"""Margins as a run measures and uses them, by hand from the teacher's own logits."""

from dataclasses import replace

import pytest
import torch

from kdlib import experiment, records
from kdlib.config import Config, KdlibError
from kdlib.experiment import load, run, trained
from kdlib.teacher import measured_margins
from kdlib.train import predict

CFG = Config(imbalance=50, draw_seed=0, epochs=4, batch_size=32, lr=0.05)
ADA = replace(CFG, method="ada_alpha", teacher="cnn", temperature=2.0)


def by_hand(logits, y, kind="avg", temperature=1.0):
    """Margin of each example in plain Python floats."""
    out = []
    for row, label in zip((logits.double() / temperature).softmax(1).tolist(), y.tolist(), strict=True):
        rest = [v for k, v in enumerate(row) if k != label]
        out.append(row[label] - (max(rest) if kind == "max" else sum(rest) / len(rest)))
    return out


def by_group(margins, group):
    means = []
    for g in range(10):
        mine = [m for m, k in zip(margins, group.tolist(), strict=True) if k == g]
        means.append(min(1.0, max(0.0, sum(mine) / len(mine))))
    return means


@pytest.fixture
def used(monkeypatch):
    """The margins handed to the loss, in the order of the runs that have any."""
    seen, plain = [], experiment.method_loss

    def watched(cfg, margins=None):
        if margins is not None:
            seen.append(margins)
        return plain(cfg, margins)

    monkeypatch.setattr(experiment, "method_loss", watched)
    return seen


@pytest.mark.parametrize("source, kind, T", [("val", "avg", 1.0), ("val", "max", 3.0), ("train", "avg", 2.0)])
def test_a_run_uses_and_records_the_margins_its_config_asks_for(records_folder, used, source, kind, T):
    cfg = replace(ADA, margin_source=source, margin_kind=kind, margin_temperature=T)
    record, data = run(cfg), load(cfg)[0]
    teacher = trained(cfg.teacher_config())
    split = getattr(data, source)
    expected = by_group(by_hand(predict(teacher, split.x, data), split.y, kind, T), split.group)
    assert used[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert record.facts["margins"] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 3
    for name in ("val", "train"):                                      # always there, at T = 1
        split = getattr(data, name)
        plain = by_group(by_hand(predict(teacher, split.x, data), split.y), split.group)
        assert record.facts[f"teacher_margin_{name}"] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("level", ["group", "example"])
def test_crossfit_scores_every_image_by_the_teacher_that_did_not_see_it(records_folder, used, level):
    cfg = replace(ADA, margin_source="crossfit", margin_level=level)
    record, data = run(cfg), load(cfg)[0]
    teacher, *folds = cfg.dependencies()
    assert record.facts["fold_teacher_keys"] == [c.key() for c in folds] and len(folds) == 5
    y = data.train.y.tolist()
    fold = [y[:i].count(c) % 5 for i, c in enumerate(y)]               # dealt out within a class
    margins = [0.0] * len(y)
    for k, fold_cfg in enumerate(folds):
        scores = by_hand(predict(trained(fold_cfg), data.train.x, data), data.train.y)
        margins = [s if f == k else m for s, m, f in zip(scores, margins, fold, strict=True)]
        counts = records.read(fold_cfg).facts["train_counts"]
        assert counts == [sum(c == g and f != k for c, f in zip(y, fold, strict=True)) for g in range(10)]
    by_example = [min(1.0, max(0.0, m)) for m in margins]
    expected = by_group(margins, data.train.group) if level == "group" else by_example
    assert used[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_crossfit_wants_all_its_teachers():
    data = load(CFG)[0]
    with pytest.raises(KdlibError, match="needs 5 fold teachers, got 0"):
        measured_margins(data, torch.nn.Identity(), "crossfit")
