"""Draws, splits, schedule and views: published counts, torchvision, and the real data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib import data
from kdlib.config import DATASETS, Config, KdlibError
from kdlib.study import datasets
from kdlib.study.cifar import load_images


@pytest.mark.parametrize(
    "largest, imbalance, classes, profile, total",
    [
        (500, 100, 100, "exp", 10_847),
        (500, 50, 100, "exp", 12_608),
        (500, 10, 100, "exp", 19_573),
        (500, 100, 100, "step", 25_250),
        (500, 10, 100, "step", 27_500),
        (5000, 100, 10, "exp", 12_406),
        (5000, 50, 10, "exp", 13_996),
        (5000, 10, 10, "exp", 20_431),
        (400, 20, 20, "exp", 2_615),
    ],
)
def test_long_tail_counts_are_the_published_ones(largest, imbalance, classes, profile, total):
    assert sum(data.long_tail_counts(largest, imbalance, classes, profile)) == total


def test_shots_of_cifar100_lt():
    counts = np.array(data.long_tail_counts(500, 100, 100))
    assert (
        (counts > 100).sum(),
        ((counts <= 100) & (counts >= 20)).sum(),
        (counts < 20).sum(),
    ) == (35, 35, 30)


def test_a_draw_is_its_seed_and_none_is_canonical():
    y = np.repeat(np.arange(4), 10)
    draws = {s: data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=s)) for s in (None, 0, 1)}
    again = data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=0))
    assert all(np.array_equal(a, b) for a, b in zip(draws[0], again, strict=True))
    assert not np.array_equal(draws[0][0], draws[1][0])
    for drawn, rest, beyond in draws.values():
        assert sorted(np.concatenate([drawn, rest, beyond])) == list(range(40)) and len(beyond) == 8
    assert list(draws[None][0]) == [
        *range(8),
        *range(10, 15),
        *range(20, 23),
        *range(30, 32),
    ]  # 8, 5, 3, 2


def test_every_view_is_torchvisions_crop_and_flip():
    from torchvision.transforms import functional as T

    x = torch.randint(
        0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    padded = data.padded(x, 4)
    assert data.view_count(4) == 162
    for view in range(162):
        ours = data.crop_and_flip(padded, torch.arange(3), torch.full((3,), view), 4)
        flip, top, left = view // 81, view // 9 % 9, view % 9
        theirs = T.crop(T.pad(x.permute(0, 3, 1, 2), 4), top, left, 32, 32)
        theirs = T.hflip(theirs) if flip else theirs
        assert torch.equal(ours.permute(0, 3, 1, 2), theirs), view


def test_schedule_is_pinned_and_uses_every_image_once():
    order, view = data.schedule(3, 7, 10, 162)
    assert sorted(order.tolist()) == list(range(10))
    assert order.tolist() == [3, 4, 2, 6, 1, 9, 7, 0, 8, 5]
    assert torch.equal(order, data.schedule(3, 7, 10, 162)[0]) and not torch.equal(
        order, data.schedule(3, 8, 10, 162)[0]
    )
    counts = torch.bincount(data.schedule(0, 0, 162_000, 162)[1], minlength=162)
    assert counts.min() > 850 and counts.max() < 1150  # equally likely


def test_normalised_batches_are_channels_last():
    digits = datasets.load(Config(imbalance=50, draw_seed=0))
    x = data.normalise(digits.train.x, digits)
    assert x.is_contiguous(memory_format=torch.channels_last)
    by_hand = (digits.train.x.permute(0, 3, 1, 2).float() / 255 - digits.mean[0]) / digits.std[0]
    assert torch.allclose(x, by_hand, atol=1e-5)


def test_digits_splits_are_disjoint_and_complete():
    d = datasets.load(Config(imbalance=50, draw_seed=0))
    assert [len(s) for s in d.splits().values()] == [276, 240, 500, 1797 - 276 - 240 - 500]
    assert (
        torch.bincount(d.test.y).tolist() == [50] * 10
        and torch.bincount(d.val.y).tolist() == [24] * 10
    )
    from sklearn.datasets import load_digits

    raw = (load_digits().images * 15).astype(np.uint8)
    ours = np.concatenate([s.x.numpy()[..., 0] for s in d.splits().values()])
    assert sorted(map(bytes, ours)) == sorted(
        map(bytes, raw)
    )  # every image once: nothing shared, nothing lost


def test_folds_are_stratified_and_left_out():
    whole = datasets.load(Config(imbalance=50, draw_seed=0)).train
    parts = [datasets.load(Config(imbalance=50, draw_seed=0, fold=k)).train for k in range(5)]
    assert sum(len(whole) - len(p) for p in parts) == len(whole)
    assert torch.equal(parts[2].x, whole.x[data.fold_of(whole.y) != 2])


def test_cifar20_is_the_first_class_of_each_superclass(data_root):
    d = datasets.load(Config(dataset="cifar20", imbalance=20, draw_seed=0), data_root)
    assert [len(s) for s in d.splits().values()] == [2615, 2000, 2000, 8000 - 2615]
    assert sorted(torch.bincount(d.train.y).tolist(), reverse=True) == data.long_tail_counts(
        400, 20, 20
    )
    assert d.class_names[:3] == ("apple", "aquarium_fish", "baby") and len(d.class_names) == 20
    images = load_images("cifar100", data_root)
    raw = images.x[np.isin(np.array(images.names)[images.y], d.class_names)]
    ours = np.concatenate([s.x.numpy() for s in d.splits().values()])
    assert sorted(map(bytes, ours)) == sorted(
        map(bytes, raw)
    )  # every image once: nothing shared, nothing lost
    coarse = {name: images.coarse[images.y == c][0] for c, name in enumerate(images.names)}
    assert all(
        name == min(n for n in coarse if coarse[n] == coarse[name]) for name in d.class_names
    )


def test_cifar100_lt_and_its_halves(data_root):
    d = datasets.load(Config(dataset="cifar100", imbalance=100), data_root)
    assert len(d.train) == 10_847 and len(d.left_out) == 50_000 - 10_847
    assert torch.bincount(d.val.y).tolist() == torch.bincount(d.test.y).tolist() == [50] * 100
    assert torch.bincount(d.train.y).tolist() == data.long_tail_counts(500, 100, 100)


def test_registries_agree():
    assert tuple(datasets.DATASETS) == DATASETS


def test_halves_are_stratified_disjoint_and_fixed():
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    first, second = data.halves(y)
    assert sorted([*first, *second]) == list(range(200))
    assert np.bincount(y[first]).tolist() == np.bincount(y[second]).tolist() == [20] * 5
    assert np.array_equal(first, data.halves(y)[0]) and not np.array_equal(
        first, data.halves(y, seed=1)[0]
    )


def test_a_permuted_draw_gives_the_nth_class_of_the_order_the_nth_count():
    y = np.repeat(np.arange(6), 30)
    drawn = data.long_tail_draw(y, 30, Config(imbalance=10, draw_seed=5))[0]
    order = np.random.default_rng(5).permutation(6)
    assert not np.array_equal(
        order, np.argsort(order)
    )  # else a class and its rank could be confused unseen
    assert np.bincount(y[drawn])[order].tolist() == data.long_tail_counts(30, 10, 6)


def test_an_empty_rarest_class_is_refused():
    with pytest.raises(
        KdlibError,
        match="imbalance=1000.0: the rarest class would be empty; at most 100 for digits",
    ):
        datasets.load(Config(imbalance=1000))


def test_the_hash_of_the_data_sees_pixels_labels_and_splits():
    d = datasets.load(Config(imbalance=50, draw_seed=0))
    hashes = {d.sha256(), datasets.load(Config(imbalance=50, draw_seed=1)).sha256()}
    for name in ("train", "left_out"):
        split = getattr(d, name)
        x, y = split.x.clone(), split.y.clone()
        x[0, 0, 0] += 1
        y[0] = (y[0] + 1) % 10
        hashes |= {
            replace(d, **{name: replace(split, x=x)}).sha256(),
            replace(d, **{name: replace(split, y=y)}).sha256(),
        }
    assert (
        len(hashes) == 6 and d.sha256() == datasets.load(Config(imbalance=50, draw_seed=0)).sha256()
    )


# ---------------------------------------------------------------- label noise


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_shuffled_labels_keep_class_sizes_and_change_the_share_that_chance_leaves(share):
    y = np.random.default_rng(1).choice(4, 20_000, p=[0.5, 0.3, 0.15, 0.05])
    before = y.copy()
    noisy = datasets.shuffled_labels(y, share, 3)
    assert np.array_equal(y, before) and np.array_equal(np.bincount(noisy), np.bincount(y))
    same = sum(p**2 for p in np.bincount(y) / len(y))  # an image may be given its own label back
    assert (noisy != y).mean() == pytest.approx(share * (1 - same), abs=0.01)
    for c in range(4):  # whatever the class
        assert (noisy != y)[y == c].mean() == pytest.approx(share * (1 - (y == c).mean()), abs=0.05)


def test_shuffled_labels_are_their_seed_and_not_the_order_of_the_batches():
    y = np.random.default_rng(1).choice(10, 1000)
    noisy = datasets.shuffled_labels(y, 0.2, 0)
    assert np.array_equal(noisy, datasets.shuffled_labels(y, 0.2, 0)) and np.array_equal(
        noisy, datasets.shuffled_labels(y, 0.2, None)
    )
    assert not np.array_equal(noisy, datasets.shuffled_labels(y, 0.2, 1))
    changed = set(np.flatnonzero(noisy != y).tolist())
    for epoch in range(40):
        first = data.schedule(0, epoch, 1000, 1)[0][:200].tolist()
        assert len(changed.intersection(first)) < 0.5 * len(changed)


def test_label_noise_touches_the_labels_of_the_training_images_alone():
    cfg = Config(imbalance=10, draw_seed=0)
    clean, noisy = datasets.load(cfg), datasets.load(replace(cfg, label_noise=0.4))
    assert all(
        torch.equal(a.x, b.x)
        for a, b in zip(clean.splits().values(), noisy.splits().values(), strict=True)
    )
    for name in ("val", "test", "left_out"):
        a, b = getattr(clean, name), getattr(noisy, name)
        assert torch.equal(a.y, b.y) and torch.equal(a.group, b.group)
    assert 0.25 < (clean.train.y != noisy.train.y).float().mean() <= 0.4
    assert torch.equal(noisy.train.group, noisy.train.y) and torch.equal(
        noisy.train.y.bincount(), clean.train.y.bincount()
    )
    assert clean.sha256() != noisy.sha256()
    fold = datasets.load(
        replace(cfg, label_noise=0.4, fold=2)
    ).train  # a fold of the same noisy labels
    assert torch.equal(fold.y, noisy.train.y[data.fold_of(noisy.train.y) != 2])


# ---------------------------------------------------------------- val among the training images

WITH_VAL = {
    "digits": {"imbalance": 50, "draw_seed": 0},
    "digits, noisy": {"imbalance": 10, "draw_seed": 1, "label_noise": 0.4},
    "cifar20": {"dataset": "cifar20", "student": "resnet8", "imbalance": 20, "draw_seed": 0},
    "superclass": {"dataset": "superclass", "student": "resnet8", "imbalance": 10},
}


def rows(*splits):
    """Every example of some splits as (pixels, class, group), sorted."""
    examples = []
    for split in splits:
        pixels = map(bytes, split.x.numpy())
        examples += zip(pixels, split.y.tolist(), split.group.tolist(), strict=True)
    return sorted(examples)


@pytest.mark.parametrize("name", WITH_VAL)
def test_with_val_trains_on_train_and_val_of_the_plain_config_and_on_nothing_else(name, data_root):
    cfg = Config(**WITH_VAL[name])
    plain = datasets.load(cfg, data_root)
    both = datasets.load(replace(cfg, with_val=True), data_root)
    assert rows(both.train) == rows(plain.train, plain.val)
    assert len(both.train) == len(plain.train) + len(plain.val)
    for split in ("val", "test", "left_out"):
        mine, theirs = getattr(both, split), getattr(plain, split)
        assert all(
            torch.equal(getattr(mine, of), getattr(theirs, of)) for of in ("x", "y", "group")
        )
    # Each image is in one split: nothing of test and left_out is trained on. (By pixels alone this
    # would not hold for
    # CIFAR-100, in which a few images are there twice.)
    everything = rows(plain.train, plain.val, plain.test, plain.left_out)
    assert rows(both.train, both.test, both.left_out) == everything
    assert (both.mean, both.std, both.pad) == (plain.mean, plain.std, plain.pad)
    assert torch.equal(both.val_half, plain.val_half)


def test_with_val_shares_no_digit_with_test_and_left_out():
    digits = datasets.load(Config(imbalance=50, draw_seed=0, with_val=True))
    trained_on = set(map(bytes, digits.train.x.numpy()))
    assert len(trained_on) == 276 + 240
    for split in (digits.test, digits.left_out):
        assert not trained_on & set(map(bytes, split.x.numpy()))


# ---------------------------------------------------------------- halves of val, superclasses


def test_halves_of_val_are_dealt_out_in_turn_within_each_group():
    d = datasets.load(Config(imbalance=10, draw_seed=0))
    group = d.val.group.tolist()
    assert d.val_half.tolist() == [group[:i].count(g) % 2 for i, g in enumerate(group)]
    assert (
        torch.bincount(d.val.y[d.val_half == 0]).tolist()
        == torch.bincount(d.val.y[d.val_half == 1]).tolist()
        == [12] * 10
    )
    other = data.Split(d.val.x, d.val.y, torch.arange(len(d.val)) % 3)  # groups, not classes
    seen = replace(d, val=other).val_half
    assert [torch.bincount(seen[other.group == g]).tolist() for g in range(3)] == [[40, 40]] * 3


@pytest.mark.parametrize("draw_seed", [None, 0])
def test_superclass_has_a_long_tail_of_fine_classes_inside_each_superclass(data_root, draw_seed):
    d = datasets.load(
        Config(dataset="superclass", student="resnet8", imbalance=100, draw_seed=draw_seed),
        data_root,
    )
    images = load_images("cifar100", data_root)
    assert (d.classes, len(d.group_names), d.group_names) == (
        20,
        100,
        tuple(images.names),
    ) and d.class_names == images.coarse_names
    of_group = {c: images.coarse_names[images.coarse[images.y == c][0]] for c in range(100)}
    for split in d.splits().values():
        assert all(
            d.class_names[y] == of_group[g]
            for y, g in set(zip(split.y.tolist(), split.group.tolist(), strict=True))
        )
    counts = torch.bincount(d.train.group, minlength=100)
    orders = set()
    for name in d.class_names:
        members = [c for c in range(100) if of_group[c] == name]
        mine = counts[members].tolist()
        assert sorted(mine, reverse=True) == [500, 158, 50, 15, 5]  # floor(500 * 100^(-k / 4))
        orders.add(tuple(np.argsort(mine)))
    assert (
        len(orders) == 1 if draw_seed is None else len(orders) > 10
    )  # each superclass has its own order
    assert (
        torch.bincount(d.val.group).tolist() == torch.bincount(d.test.group).tolist() == [50] * 100
    )
    assert torch.bincount(d.val.group[d.val_half == 0]).tolist() == [25] * 100
    ours = np.concatenate([s.x.numpy() for s in d.splits().values()])
    assert sorted(map(bytes, ours)) == sorted(
        map(bytes, images.x)
    )  # every image once: nothing shared, nothing lost


def test_superclass_labels_are_what_cifar100_calls_the_same_images(data_root):
    """Group and split of an image do not depend on the labels in use: val and test are those of
    cifar100."""
    fine, coarse = (
        datasets.load(Config(dataset=name, student="resnet8", imbalance=10), data_root)
        for name in ("cifar100", "superclass")
    )
    for name in ("val", "test"):
        assert torch.equal(getattr(fine, name).x, getattr(coarse, name).x)
        assert torch.equal(getattr(fine, name).y, getattr(coarse, name).group)
    noisy = datasets.load(
        Config(dataset="superclass", student="resnet8", imbalance=10, label_noise=0.3), data_root
    )
    assert torch.equal(noisy.train.group, coarse.train.group) and not torch.equal(
        noisy.train.y, coarse.train.y
    )
