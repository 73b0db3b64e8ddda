"""Margins as a run measures and uses them, by hand from the teacher's own logits; the table of its
logits."""

import errno
from dataclasses import replace

import pytest
import torch

from kdlib import data
from kdlib.config import Config, KdlibError
from kdlib.losses import method_loss
from kdlib.models import build, folded
from kdlib.step import Run
from kdlib.study import experiment, records, table_cache
from kdlib.study.experiment import load, run, trained
from kdlib.study.table_cache import table_bytes, teacher_of
from kdlib.teacher import Table, frozen, measured_margins
from kdlib.train import fit, predict

CFG = Config(imbalance=50, draw_seed=0, epochs=4, batch_size=32, lr=0.05)
ADA = replace(CFG, method="ada_alpha", teacher="cnn", temperature=2.0)


def by_hand(logits, y, kind="avg", temperature=1.0):
    """Margin of each example in plain Python floats."""
    out = []
    for row, label in zip(
        (logits.double() / temperature).softmax(1).tolist(), y.tolist(), strict=True
    ):
        rest = [v for k, v in enumerate(row) if k != label]
        hit = float(row[label] > max(rest))
        out.append(
            hit
            if kind == "hit"
            else row[label] - (max(rest) if kind == "max" else sum(rest) / len(rest))
        )
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

    def watched(cfg, margins, train):
        if margins is not None:
            seen.append(margins)
        return plain(cfg, margins, train)

    monkeypatch.setattr(experiment, "method_loss", watched)
    return seen


@pytest.mark.parametrize(
    "source, kind, T",
    [("val", "avg", 1.0), ("val", "max", 3.0), ("train", "avg", 2.0), ("val", "hit", 2.0)],
)
def test_a_run_uses_and_records_the_margins_its_config_asks_for(
    records_folder, used, source, kind, T
):
    cfg = replace(ADA, margin_source=source, margin_kind=kind, margin_temperature=T)
    record, data = run(cfg), load(cfg)[0]
    teacher = trained(cfg.teacher_config())
    split = getattr(data, source)
    expected = by_group(by_hand(predict(teacher, split.x, data), split.y, kind, T), split.group)
    assert used[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert record.facts["margins"] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 3
    for name in ("val", "train"):  # always there, at T = 1
        split = getattr(data, name)
        plain = by_group(by_hand(predict(teacher, split.x, data), split.y), split.group)
        assert record.facts[f"teacher_margin_{name}"] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("level", ["group", "example"])
def test_crossfit_scores_every_image_by_the_teacher_that_did_not_see_it(
    records_folder, used, level
):
    cfg = replace(ADA, margin_source="crossfit", margin_level=level)
    record, data = run(cfg), load(cfg)[0]
    teacher, *folds = cfg.dependencies()
    assert record.facts["fold_teacher_keys"] == [c.key() for c in folds] and len(folds) == 5
    y = data.train.y.tolist()
    fold = [y[:i].count(c) % 5 for i, c in enumerate(y)]  # dealt out within a class
    margins = [0.0] * len(y)
    for k, fold_cfg in enumerate(folds):
        scores = by_hand(predict(trained(fold_cfg), data.train.x, data), data.train.y)
        margins = [s if f == k else m for s, m, f in zip(scores, margins, fold, strict=True)]
        counts = records.read(fold_cfg).facts["train_counts"]
        assert counts == [
            sum(c == g and f != k for c, f in zip(y, fold, strict=True)) for g in range(10)
        ]
    by_example = [min(1.0, max(0.0, m)) for m in margins]
    expected = by_group(margins, data.train.group) if level == "group" else by_example
    assert used[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("source", ["val", "train", "crossfit"])
def test_one_margin_for_all_is_the_mean_of_the_group_margins_over_the_training_images(source):
    cfg = replace(CFG, student="cnn", epochs=1)
    d, model, folds = load(cfg)[0], build("cnn", 10, 3), [build("cnn", 10, k) for k in range(5)]
    fit([Run(cfg, net, method_loss(cfg), d) for net in (model, *folds)])
    by_group = measured_margins(d, model, source, fold_models=folds).tolist()
    expected = sum(by_group[g] for g in d.train.group.tolist()) / len(d.train)
    found = measured_margins(d, model, source, "all", fold_models=folds)
    assert found.tolist() == pytest.approx([expected] * 10, abs=1e-6) and 0 < expected < 1
    assert abs(expected - sum(by_group) / 10) > 0.01  # not the mean over groups


def test_a_run_with_one_margin_for_all_is_kd_with_that_alpha(records_folder, used):
    cfg = replace(ADA, margin_level="all")
    (alpha,) = set(run(cfg).facts["margins"])
    (margins,) = used
    assert margins.shape == (10,) and set(margins.tolist()) == {margins[0].item()}
    ada, kd = run(cfg), run(replace(CFG, method="kd", teacher="cnn", temperature=2.0, alpha=alpha))
    assert (
        ada.facts["curves"]["loss"] == pytest.approx(kd.facts["curves"]["loss"], rel=1e-4)
        and 0.02 < alpha < 0.98
    )


def test_hit_margins_of_groups_are_recall():
    from sklearn.metrics import recall_score

    cfg = replace(CFG, student="cnn")
    d, model = load(cfg)[0], build("cnn", 10, 3)
    fit([Run(cfg, model, method_loss(cfg), d)])
    recall = recall_score(d.val.y, predict(model, d.val.x, d).argmax(dim=1), average=None)
    assert (
        measured_margins(d, model, kind="hit").tolist() == pytest.approx(recall.tolist())
        and len(set(recall)) > 3
    )


def test_margins_are_of_groups_where_these_are_not_the_classes():
    d, model = load(CFG)[0], build("cnn", 10, 3)
    third = replace(
        d,
        group_names=("a", "b", "c"),
        **{
            name: replace(split, group=torch.arange(len(split)) % 3)
            for name, split in d.splits().items()
        },
    )
    margins = by_hand(predict(model, d.val.x, d), d.val.y)
    means = [max(0.0, sum(margins[g::3]) / len(margins[g::3])) for g in range(3)]
    assert measured_margins(third, model).tolist() == pytest.approx(means, abs=1e-6)


def test_crossfit_wants_all_its_teachers():
    data = load(CFG)[0]
    with pytest.raises(KdlibError, match="needs 5 fold teachers, got 0"):
        measured_margins(data, torch.nn.Identity(), "crossfit")


# ---------------------------------------------------------------- the table


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def coloured():
    """Random 32x32 images of ten classes, augmented as CIFAR is."""
    g = torch.Generator().manual_seed(5)
    x, y = (
        torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8, generator=g),
        torch.arange(30) % 10,
    )
    split, names = data.Split(x, y, y), tuple("abcdefghij")
    return data.Data(
        split, split, split, split, names, names, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), pad=4
    )


AUGMENTED = Config(
    dataset="cifar10", student="resnet8", method="kd", teacher="resnet14", epochs=3, batch_size=8
)


def of(model, coloured, cfg=AUGMENTED, sha256="d" * 64):
    """(teacher, lines said, warnings) of teacher_of."""
    said, warned = [], []
    return teacher_of(model, coloured, sha256, cfg, said.append, warned.append), said, warned


@pytest.mark.parametrize(
    "name", ["cnn", "cnn_small", "resnet8", "resnet14", "resnet8-conv", "resnet56"]
)
def test_folding_changes_nothing_but_rounding(name):
    model, side = build(name, 10, 0), 8 if name.startswith("cnn") else 32
    x = torch.randn(16, 1 if side == 8 else 3, side, side)
    model.train()
    for _ in range(3):
        model(x)  # statistics that are not 0 and 1
    net = folded(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters()) and model.training
    with torch.no_grad():
        assert torch.allclose(net(x), model.eval()(x), rtol=1e-3, atol=1e-4)


def test_a_table_holds_what_the_schedule_shows_rounded_to_fp16(coloured, cache):
    model = build("resnet14", 10, 3)
    teacher, said, warned = of(model, coloured)
    codes = {
        int(i) * 162 + int(v)
        for epoch in range(3)
        for i, v in zip(*data.schedule(0, epoch, 30, 162), strict=True)
    }
    assert teacher.logits.shape == (len(codes), 10) and teacher.logits.dtype == torch.float16
    assert (
        said == [f"teacher table: {len(codes)} views, 0 MB of {said[0].split()[-3]} GB free"]
        and warned == []
    )
    x = data.padded(coloured.train.x, 4)
    for code in sorted(codes)[::7]:
        index, view = torch.tensor([code // 162]), torch.tensor([code % 162])
        with torch.no_grad():
            live = model.eval()(data.normalise(data.crop_and_flip(x, index, view, 4), coloured))
        assert torch.allclose(teacher(None, index, view), live, rtol=2e-3, atol=2e-4)
        assert teacher(None, index, view).dtype == torch.float32
    absent = next(c for c in range(30 * 162) if c not in codes)
    with pytest.raises(KeyError, match="lacks views"):
        teacher(None, torch.tensor([absent // 162]), torch.tensor([absent % 162]))


def test_a_student_learns_the_same_from_the_table_as_from_the_live_teacher(coloured, cache):
    model, students = build("resnet14", 10, 3), [build("resnet8", 10, 0) for _ in range(2)]
    table, live = of(model, coloured)[0], frozen(model)
    curves = [
        fit([Run(AUGMENTED, s, method_loss(AUGMENTED), coloured, t)])[0]
        for s, t in zip(students, (table, live), strict=True)
    ]
    assert curves[0]["loss"] == pytest.approx(curves[1]["loss"], rel=1e-3)
    assert curves[0] != curves[1]  # fp16: the table was asked


def test_a_table_is_read_again_only_if_it_is_whole_and_of_the_same_teacher_data_and_schedule(
    coloured, cache, monkeypatch
):
    model, other = build("resnet14", 10, 3), build("resnet14", 10, 4)
    first = of(model, coloured)[0]
    (path,) = cache.glob("teacher-*.npz")
    whole = path.read_bytes()
    with monkeypatch.context() as m:
        m.setattr(table_cache, "view_logits", lambda *a: pytest.fail("filled again"))
        assert torch.equal(of(model, coloured)[0].logits, first.logits)
    for more in (
        {"model": other},
        {"cfg": replace(AUGMENTED, seed=1)},
        {"cfg": replace(AUGMENTED, epochs=4)},
        {"sha256": "e" * 64},
    ):
        asked = {"model": model, "coloured": coloured} | more
        table, _, warned = of(**asked)  # another file, and silently
        assert warned == [] and (
            table.logits.shape != first.logits.shape
            or more == {"sha256": "e" * 64}
            or not torch.equal(table.logits, first.logits)
        )
    assert len(list(cache.glob("teacher-*.npz"))) == 5
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for wrong, reason in (
        (whole[:-200], "damaged"),
        (bytes(flipped), "damaged"),
        (b"", "damaged"),
        (b"PK\x05\x06" + bytes(18), "damaged"),
        (of_another(cache, path), "of another"),
    ):
        path.write_bytes(wrong)
        table, _, warned = of(model, coloured)
        assert (
            len(warned) == 1
            and str(path) in warned[0]
            and reason in warned[0]
            and warned[0].endswith("filled again")
        )
        assert torch.equal(table.logits, first.logits) and of(model, coloured)[2] == []


def of_another(cache, path):
    """A whole file of another teacher or schedule, as if renamed."""
    return next(p for p in sorted(cache.glob("teacher-*.npz")) if p != path).read_bytes()


def test_without_room_the_teacher_is_live_and_that_is_said(coloured, cache, monkeypatch):
    model, index = build("resnet14", 10, 3), torch.arange(5)
    monkeypatch.setattr(table_cache, "free_memory", lambda device: 20_000)
    teacher, _, warned = of(model, coloured)
    assert not isinstance(teacher, Table) and "do not fit" in warned[0] and "live" in warned[0]
    assert teacher(data.normalise(coloured.train.x[:5], coloured), index, index).shape == (5, 10)
    monkeypatch.undo()
    monkeypatch.setenv("KDLIB_CACHE", str(cache))
    with torch.no_grad():
        model.linear.bias += 1e6  # beyond fp16
    teacher, _, warned = of(model, coloured)
    assert not isinstance(teacher, Table) and "beyond the range of fp16" in warned[0]
    assert not list(cache.glob("teacher-*.npz"))


def test_a_full_disk_costs_the_cache_not_the_run(coloured, cache, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_cache.np, "savez", full)
    teacher, _, warned = of(build("resnet14", 10, 3), coloured)
    assert isinstance(teacher, Table) and "not kept on disk" in warned[0]


def test_a_cache_that_cannot_be_used_costs_the_cache_not_the_run(coloured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "file" / "cache"))
    teacher, _, warned = of(build("resnet14", 10, 3), coloured)
    assert (
        isinstance(teacher, Table)
        and "filled for this run alone" in warned[0]
        and "not kept on disk" in warned[1]
    )


def test_memory_of_a_table_is_what_is_said():
    assert (
        table_bytes(10_847 * 162, 10_847, 162, 100) == 10_847 * 162 * 100 * 2
    )  # 351 MB, performance.md
    model = build("resnet8", 10, 0)
    split = data.Split(
        torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.arange(4), torch.arange(4)
    )
    d = data.Data(
        split,
        split,
        split,
        split,
        ("a",) * 10,
        ("a",) * 10,
        (0.5, 0.4, 0.3),
        (0.2, 0.25, 0.3),
        pad=4,
    )
    some, whole = Table.fill(model, d, torch.tensor([3, 200, 647])), Table.fill(model, d)
    assert some.logits.nbytes + some.row.nbytes == table_bytes(3, 4, 162, 10)
    assert whole.row is None and whole.logits.nbytes == table_bytes(648, 4, 162, 10)
    assert torch.allclose(whole.logits[[3, 200, 647]].float(), some.logits.float(), atol=1e-3)
