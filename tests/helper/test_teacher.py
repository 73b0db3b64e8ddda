"""Margins as a run measures and uses them, by hand from the teacher's own logits; the table of its
logits."""

import errno
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import recall_score
from synthetic import coloured

from kdlib import data
from kdlib.config import Config, KdlibError
from kdlib.models import build
from kdlib.step import Run, method_loss
from kdlib.study import experiment, records, table_cache
from kdlib.study.experiment import load, run, trained
from kdlib.study.table_cache import table_bytes, teacher_of
from kdlib.teacher import Table, frozen, group_margins, measured_margins, near_chance, view_logits
from kdlib.train import fit, predict

CFG = Config(imbalance=50, draw_seed=0, epochs=4, batch_size=32, lr=0.05)
ADA = replace(CFG, method="ada_alpha", teacher="cnn", temperature=2.0)


@pytest.mark.parametrize(
    "classes, least", [(2, 0.55), (3, 0.4), (10, 0.19), (20, 0.1), (100, 0.02)]
)
def test_what_is_near_chance(classes, least):
    assert near_chance(least - 1e-9, classes) and not near_chance(least + 1e-9, classes)


def by_hand(network, split, d, kind="avg", temperature=1.0):
    """Margin of each example in plain Python floats."""
    p = (predict(network, split.x, d).double() / temperature).softmax(1).tolist()
    out = []
    for row, label in zip(p, split.y.tolist(), strict=True):
        rest = row[:label] + row[label + 1 :]
        other = {"avg": sum(rest) / len(rest), "max": max(rest), "hit": max(rest)}[kind]
        out.append(float(row[label] > other) if kind == "hit" else row[label] - other)
    return out


def by_group(margins, group):
    means = []
    for g in sorted(set(group.tolist())):
        mine = [m for m, k in zip(margins, group.tolist(), strict=True) if k == g]
        means.append(min(1.0, max(0.0, sum(mine) / len(mine))))
    return means


@pytest.fixture
def used(monkeypatch):
    """The margins handed to the loss, in the order of the runs that have any."""
    seen, plain = [], experiment.method_loss

    def watched(cfg, margins, train):
        if margins is not None:
            seen.append(margins)
        return plain(cfg, margins, train)

    monkeypatch.setattr(experiment, "method_loss", watched)
    return seen


@pytest.fixture(scope="module")
def taught():
    """(digits, a network after an epoch, five more)"""
    cfg = replace(CFG, student="cnn", epochs=1)
    d, nets = load(cfg)[0], [build("cnn", 10, k) for k in range(6)]
    fit([Run(cfg, net, method_loss(cfg), d) for net in nets])
    return d, nets[0], nets[1:]


# ---------------------------------------------------------------- margins


@pytest.mark.parametrize(
    "source, kind, T", [("val", "avg", 1.0), ("train", "max", 2.0), ("val", "hit", 2.0)]
)
def test_margins_of_groups_by_hand(taught, source, kind, T):
    d, net, _ = taught
    split = getattr(d, source)
    found = measured_margins(d, net, source, kind=kind, temperature=T).tolist()
    expected = by_group(by_hand(net, split, d, kind, T), split.group)
    assert found == pytest.approx(expected, abs=1e-5) and len(set(expected)) > 3
    if kind == "hit":
        predicted = predict(net, split.x, d).argmax(dim=1)
        assert found == pytest.approx(recall_score(split.y, predicted, average=None).tolist())


@pytest.mark.parametrize("source", ["val", "train", "crossfit"])
def test_one_margin_for_all_is_the_mean_of_the_group_margins_over_the_training_images(
    taught, source
):
    d, net, folds = taught
    groups = measured_margins(d, net, source, fold_models=folds).tolist()
    expected = sum(groups[g] for g in d.train.group.tolist()) / len(d.train)
    found = measured_margins(d, net, source, "all", fold_models=folds)
    assert found.tolist() == pytest.approx([expected] * 10, abs=1e-6) and 0 < expected < 1
    assert abs(expected - sum(groups) / 10) > 0.01  # not the mean over groups


def test_margins_are_of_groups_where_these_are_not_the_classes(taught):
    d, net, _ = taught
    thirds = {n: replace(s, group=torch.arange(len(s)) % 3) for n, s in d.splits().items()}
    third = replace(d, group_names=("a", "b", "c"), **thirds)
    expected = by_group(by_hand(net, d.val, d), third.val.group)
    assert measured_margins(third, net).tolist() == pytest.approx(expected, abs=1e-6)


def test_margins_are_of_classes_where_they_are_asked_for_by_class(taught):
    d, net, _ = taught
    thirds = {n: replace(s, group=torch.arange(len(s)) % 3) for n, s in d.splits().items()}
    third = replace(d, group_names=("a", "b", "c"), **thirds)
    expected = by_group(by_hand(net, d.val, d), d.val.y)
    found = measured_margins(third, net, level="class").tolist()
    assert found == pytest.approx(expected, abs=1e-6) and len(found) == 10


def test_a_group_without_an_example_is_refused():
    with pytest.raises(KdlibError, match="'b' has no example"):
        group_margins(torch.ones(2), torch.tensor([0, 0]), ("a", "b"))


@pytest.mark.parametrize("source, kind, T", [("val", "max", 3.0), ("train", "avg", 2.0)])
def test_a_run_uses_and_records_the_margins_its_config_asks_for(
    records_folder, used, source, kind, T
):
    cfg = replace(ADA, margin_source=source, margin_kind=kind, margin_temperature=T)
    record, d = run(cfg), load(cfg)[0]
    teacher = trained(cfg.teacher_config())
    split = getattr(d, source)
    expected = by_group(by_hand(teacher, split, d, kind, T), split.group)
    assert used[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert record.facts["margins"] == pytest.approx(expected, abs=1e-5)
    for name in ("val", "train"):  # always there, at T = 1
        split = getattr(d, name)
        plain = by_group(by_hand(teacher, split, d), split.group)
        assert record.facts[f"teacher_margin_{name}"] == pytest.approx(plain, abs=1e-5)


def test_crossfit_scores_every_image_by_the_teacher_that_did_not_see_it(records_folder, used):
    cfg = replace(ADA, margin_source="crossfit", margin_level="example")
    teacher, *folds = cfg.dependencies()
    records_of = [run(cfg), run(replace(cfg, margin_level="group"))]
    for record in records_of:
        assert record.facts["fold_teacher_keys"] == [c.key() for c in folds] and len(folds) == 5
    d = load(cfg)[0]
    y = d.train.y.tolist()
    fold = [y[:i].count(c) % 5 for i, c in enumerate(y)]  # dealt out within a class
    margins = [0.0] * len(y)
    for k, fold_cfg in enumerate(folds):
        scores = by_hand(trained(fold_cfg), d.train, d)
        margins = [s if f == k else m for s, m, f in zip(scores, margins, fold, strict=True)]
        trained_on = [c for c, f in zip(y, fold, strict=True) if f != k]
        counts = [trained_on.count(c) for c in range(10)]
        assert records.read(fold_cfg).facts["train_counts"] == counts
    by_example = [min(1.0, max(0.0, m)) for m in margins]
    assert used[0].tolist() == pytest.approx(by_example, abs=1e-5)
    assert used[1].tolist() == pytest.approx(by_group(margins, d.train.group), abs=1e-5)


def test_a_run_with_one_margin_for_all_is_kd_with_that_alpha(records_folder, used):
    ada = run(replace(ADA, margin_level="all"))
    (alpha,) = set(ada.facts["margins"])
    assert used[0].tolist() == pytest.approx([alpha] * 10) and 0.02 < alpha < 0.98
    kd = run(replace(CFG, method="kd", teacher="cnn", temperature=2.0, alpha=alpha))
    assert ada.facts["curves"]["loss"] == pytest.approx(kd.facts["curves"]["loss"], rel=1e-4)


# ---------------------------------------------------------------- the table

AUGMENTED = Config(
    dataset="cifar10", student="resnet8", method="kd", teacher="resnet14", epochs=3, batch_size=8
)
IMAGES = coloured(30, 10)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def of(model, cfg=AUGMENTED, sha256="d" * 64):
    """(teacher, lines said, warnings) of teacher_of."""
    said, warned = [], []
    return teacher_of(model, IMAGES, sha256, cfg, said.append, warned.append), said, warned


def test_a_table_holds_what_the_schedule_shows_rounded_to_fp16(cache):
    model, codes = build("resnet14", 10, 3), set()
    teacher, (said,), warned = of(model)
    for epoch in range(3):
        order, views = data.schedule(0, epoch, 30, 162)
        codes |= set((order * 162 + views).tolist())
    assert teacher.logits.shape == (len(codes), 10) and teacher.logits.dtype == torch.float16
    assert said.startswith(f"teacher table: {len(codes)} views, 0 MB of ") and warned == []
    x = data.padded(IMAGES.train.x, 4)
    for code in sorted(codes)[::7]:
        index, view = torch.tensor([code // 162]), torch.tensor([code % 162])
        with torch.no_grad():
            live = model.eval()(data.normalise(data.crop_and_flip(x, index, view, 4), IMAGES))
        assert torch.allclose(teacher(None, index, view), live, rtol=2e-3, atol=2e-4)
        assert teacher(None, index, view).dtype == torch.float32
    absent = min(set(range(30 * 162)) - codes)
    with pytest.raises(KeyError, match="lacks views"):
        teacher(None, torch.tensor([absent // 162]), torch.tensor([absent % 162]))


def test_a_student_learns_the_same_from_the_table_as_from_the_live_teacher(cache):
    model, curves = build("resnet14", 10, 3), []
    for teacher in (of(model)[0], frozen(model)):
        student = build("resnet8", 10, 0)
        curves += fit([Run(AUGMENTED, student, method_loss(AUGMENTED), IMAGES, teacher)])
    assert curves[0]["loss"] == pytest.approx(curves[1]["loss"], rel=1e-3)
    assert curves[0] != curves[1]  # fp16: the table was asked


def test_a_table_is_read_again_if_it_is_whole_and_of_the_same_teacher_data_and_schedule(
    cache, monkeypatch
):
    model = build("resnet14", 10, 3)
    first = of(model)[0]
    with monkeypatch.context() as m:
        m.setattr(table_cache, "view_logits", lambda *a: pytest.fail("filled again"))
        assert torch.equal(of(model)[0].logits, first.logits)
    (path,) = cache.glob("teacher-*.npz")
    whole = path.read_bytes()
    for more in (
        {"model": build("resnet14", 10, 4)},
        {"cfg": replace(AUGMENTED, seed=1)},
        {"cfg": replace(AUGMENTED, epochs=4)},
        {"sha256": "e" * 64},
    ):
        table, _, warned = of(**{"model": model, **more})  # another file, and silently
        same = table.logits.shape == first.logits.shape and torch.equal(table.logits, first.logits)
        assert warned == [] and same == ("sha256" in more)
    others = sorted(set(cache.glob("teacher-*.npz")) - {path})
    assert len(others) == 4
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged = (whole[:-200], bytes(flipped), b"", b"PK\x05\x06" + bytes(18))
    for wrong in (*damaged, others[0].read_bytes()):
        path.write_bytes(wrong)
        table, _, (warned,) = of(model)
        assert ("damaged" if wrong in damaged else "of another") in warned
        assert str(path) in warned and warned.endswith("filled again")
        assert torch.equal(table.logits, first.logits) and of(model)[2] == []


def test_without_room_the_teacher_is_live_and_that_is_said(cache, monkeypatch):
    model, index = build("resnet14", 10, 3), torch.arange(5)
    with monkeypatch.context() as m:
        m.setattr(table_cache, "free_memory", lambda device: 20_000)
        teacher, _, (warned,) = of(model)
    assert not isinstance(teacher, Table) and "do not fit" in warned and "live" in warned
    assert teacher(data.normalise(IMAGES.train.x[:5], IMAGES), index, index).shape == (5, 10)
    with torch.no_grad():
        model.linear.bias += 1e6  # beyond fp16
    teacher, _, (warned,) = of(model)
    assert not isinstance(teacher, Table) and "beyond the range of fp16" in warned
    assert not list(cache.glob("teacher-*.npz"))


def test_a_cache_that_is_full_or_cannot_be_used_costs_the_cache_not_the_run(
    cache, tmp_path, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(table_cache.np, "savez", full)
        teacher, _, (warned,) = of(build("resnet14", 10, 3))
    assert isinstance(teacher, Table) and "not kept on disk" in warned
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "file" / "cache"))
    teacher, _, warned = of(build("resnet14", 10, 3))
    assert isinstance(teacher, Table) and "filled for this run alone" in warned[0]
    assert "not kept on disk" in warned[1]


def test_memory_of_a_table_is_what_is_said():
    assert table_bytes(10_847 * 162, 10_847, 162, 100) == 10_847 * 162 * 100 * 2  # 351 MB
    model, d = build("resnet8", 10, 0), coloured(4, 10)
    codes = torch.tensor([3, 200, 647]), torch.arange(648)
    some, whole = (Table(view_logits(model, d, of), of, 4, 162) for of in codes)
    assert some.logits.nbytes + some.row.nbytes == table_bytes(3, 4, 162, 10)
    assert whole.row is None and whole.logits.nbytes == table_bytes(648, 4, 162, 10)
    assert torch.allclose(whole.logits[[3, 200, 647]].float(), some.logits.float(), atol=1e-3)
