"""Draws, splits, schedule and views: published counts, torchvision, and the real data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms import functional as T

from kdlib import data
from kdlib.config import DATASETS, Config, KdlibError
from kdlib.study import datasets
from kdlib.study.cifar import load_images

TAIL = Config(imbalance=50, draw_seed=0)  # of digits
SUPERCLASS = Config(dataset="superclass", student="resnet8", imbalance=10)


def sizes(d):
    return [len(split) for split in d.splits().values()]


def pixels(*splits):
    """Every image of some splits as bytes, sorted: equal if no image is lost or there twice."""
    return sorted(bytes(image) for split in splits for image in split.x.numpy())


def rows(*splits):
    """Every example of some splits as (pixels, class, group), sorted."""
    examples = []
    for split in splits:
        images = map(bytes, split.x.numpy())
        examples += zip(images, split.y.tolist(), split.group.tolist(), strict=True)
    return sorted(examples)


def assert_same(a, b):
    """Two splits are equal."""
    assert all(torch.equal(getattr(a, of), getattr(b, of)) for of in ("x", "y", "group"))


# ---------------------------------------------------------------- draws


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
    many, few = (counts > 100).sum(), (counts < 20).sum()
    assert (many, 100 - many - few, few) == (35, 35, 30)


def test_a_draw_is_its_seed_and_none_is_canonical():
    y = np.repeat(np.arange(4), 10)
    draws = {s: data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=s)) for s in (None, 0, 1)}
    again = data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=0))
    assert all(map(np.array_equal, draws[0], again))
    assert not np.array_equal(draws[0][0], draws[1][0])
    for drawn, rest, beyond in draws.values():
        assert sorted(np.concatenate([drawn, rest, beyond])) == list(range(40)) and len(beyond) == 8
    in_order = [range(8), range(10, 15), range(20, 23), range(30, 32)]  # 8, 5, 3, 2
    assert np.array_equal(draws[None][0], np.concatenate(in_order))


def test_a_permuted_draw_gives_the_nth_class_of_the_order_the_nth_count():
    y = np.repeat(np.arange(6), 30)
    drawn = data.long_tail_draw(y, 30, Config(imbalance=10, draw_seed=5))[0]
    order = np.random.default_rng(5).permutation(6)
    # else a class and its rank could be confused unseen
    assert not np.array_equal(order, np.argsort(order))
    assert np.bincount(y[drawn])[order].tolist() == data.long_tail_counts(30, 10, 6)


def test_an_empty_rarest_class_is_refused():
    said = "imbalance=1000.0: the rarest class would be empty; at most 100 for digits"
    with pytest.raises(KdlibError, match=said):
        datasets.load(Config(imbalance=1000))


def test_halves_are_stratified_disjoint_and_fixed(monkeypatch):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    first, second = data.halves(y)
    assert sorted([*first, *second]) == list(range(200))
    assert np.bincount(y[first]).tolist() == np.bincount(y[second]).tolist() == [20] * 5
    assert np.array_equal(first, data.halves(y)[0])
    monkeypatch.setattr(data, "SPLIT_SEED", 1)
    assert not np.array_equal(first, data.halves(y)[0])


def test_halves_of_val_are_dealt_out_in_turn_within_each_group():
    d = datasets.load(TAIL)
    group = d.val.group.tolist()
    assert d.val_half.tolist() == [group[:i].count(g) % 2 for i, g in enumerate(group)]
    other = replace(d.val, group=torch.arange(len(d.val)) % 3)  # groups, not classes
    seen = replace(d, val=other).val_half
    assert [torch.bincount(seen[other.group == g]).tolist() for g in range(3)] == [[40, 40]] * 3


# ---------------------------------------------------------------- views


def test_every_view_is_torchvisions_crop_and_flip():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=generator)
    padded = data.padded(x, 4)
    assert (data.view_count(4), data.view_count(0)) == (162, 1)
    for view in range(162):
        ours = data.crop_and_flip(padded, torch.arange(3), torch.full((3,), view), 4)
        flip, top, left = view // 81, view // 9 % 9, view % 9
        theirs = T.crop(T.pad(x.permute(0, 3, 1, 2), 4), top, left, 32, 32)
        theirs = T.hflip(theirs) if flip else theirs
        assert torch.equal(ours.permute(0, 3, 1, 2), theirs), view


def test_schedule_is_pinned_and_uses_every_image_once():
    order, _ = data.schedule(3, 7, 10, 162)
    assert sorted(order.tolist()) == list(range(10))
    assert order.tolist() == [3, 4, 2, 6, 1, 9, 7, 0, 8, 5]
    assert not torch.equal(order, data.schedule(3, 8, 10, 162)[0])
    counts = torch.bincount(data.schedule(0, 0, 162_000, 162)[1], minlength=162)
    assert counts.min() > 850 and counts.max() < 1150  # equally likely


def test_normalised_batches_are_channels_last():
    digits = datasets.load(TAIL)
    x = data.normalise(digits.train.x, digits)
    assert x.is_contiguous(memory_format=torch.channels_last)
    by_hand = (digits.train.x.permute(0, 3, 1, 2).float() / 255 - digits.mean[0]) / digits.std[0]
    assert torch.allclose(x, by_hand, atol=1e-5)


# ---------------------------------------------------------------- data sets


def test_registries_agree():
    assert tuple(datasets.DATASETS) == DATASETS


def test_digits_splits_are_disjoint_and_complete():
    d = datasets.load(TAIL)
    assert sizes(d) == [276, 240, 500, 1797 - 276 - 240 - 500]
    for split, n in ((d.test, 50), (d.val, 24)):
        assert torch.bincount(split.y).tolist() == [n] * 10
    raw = (load_digits().images * 15).astype(np.uint8)
    assert pixels(*d.splits().values()) == sorted(map(bytes, raw))
    folds = [datasets.load(replace(TAIL, fold=k)).train for k in range(5)]
    assert sum(len(d.train) - len(part) for part in folds) == len(d.train)
    assert torch.equal(folds[2].x, d.train.x[data.fold_of(d.train.y) != 2])


def test_cifar20_is_the_first_class_of_each_superclass(data_root):
    d = datasets.load(replace(TAIL, dataset="cifar20", student="resnet8", imbalance=20), data_root)
    assert sizes(d) == [2615, 2000, 2000, 8000 - 2615]
    counts = torch.bincount(d.train.y).tolist()
    assert sorted(counts, reverse=True) == data.long_tail_counts(400, 20, 20)
    assert d.class_names[:3] == ("apple", "aquarium_fish", "baby") and len(d.class_names) == 20
    images = load_images("cifar100", data_root)
    raw = images.x[np.isin(np.array(images.names)[images.y], d.class_names)]
    assert pixels(*d.splits().values()) == sorted(map(bytes, raw))
    coarse = {name: images.coarse[images.y == c][0] for c, name in enumerate(images.names)}
    for name in d.class_names:
        assert name == min(n for n in coarse if coarse[n] == coarse[name])


def test_cifar100_lt_and_its_halves(data_root):
    d = datasets.load(Config(dataset="cifar100", student="resnet8", imbalance=100), data_root)
    assert len(d.train) == 10_847 and len(d.left_out) == 50_000 - 10_847
    assert torch.bincount(d.val.y).tolist() == torch.bincount(d.test.y).tolist() == [50] * 100
    assert torch.bincount(d.train.y).tolist() == data.long_tail_counts(500, 100, 100)


@pytest.mark.parametrize("draw_seed", [None, 0])
def test_superclass_has_a_long_tail_of_fine_classes_inside_each_superclass(data_root, draw_seed):
    d = datasets.load(replace(SUPERCLASS, imbalance=100, draw_seed=draw_seed), data_root)
    images = load_images("cifar100", data_root)
    assert d.classes == 20 and d.class_names == images.coarse_names
    assert d.group_names == tuple(images.names) and len(d.group_names) == 100
    of_group = {c: images.coarse_names[images.coarse[images.y == c][0]] for c in range(100)}
    for split in d.splits().values():
        pairs = set(zip(split.y.tolist(), split.group.tolist(), strict=True))
        assert all(d.class_names[y] == of_group[g] for y, g in pairs)
    counts, orders = torch.bincount(d.train.group, minlength=100), set()
    for name in d.class_names:
        mine = counts[[c for c in range(100) if of_group[c] == name]].tolist()
        assert sorted(mine, reverse=True) == [500, 158, 50, 15, 5]  # floor(500 * 100^(-k / 4))
        orders.add(tuple(np.argsort(mine)))
    # each superclass has its own order
    assert len(orders) == 1 if draw_seed is None else len(orders) > 10
    for split, n in ((d.val, 50), (d.test, 50)):
        assert torch.bincount(split.group).tolist() == [n] * 100
    assert torch.bincount(d.val.group[d.val_half == 0]).tolist() == [25] * 100
    assert pixels(*d.splits().values()) == sorted(map(bytes, images.x))


def official(d, group):
    """The official test images of a group, which val and test share."""
    return sorted(bytes(i) for s in (d.val, d.test) for i in s.x[s.group == group].numpy())


def test_superclass_small_is_a_part_of_superclass_with_a_tail_of_fifty(data_root):
    whole = datasets.load(replace(SUPERCLASS, draw_seed=0), data_root)
    cfg = replace(SUPERCLASS, dataset="superclass_small", imbalance=16, draw_seed=0)
    d = datasets.load(cfg, data_root)
    assert d.class_names == whole.class_names[:10] and sizes(d) == [960, 2500, 2500, 25_000 - 960]
    assert d.group_names == tuple(
        name
        for g, name in enumerate(whole.group_names)
        if whole.val.y[whole.val.group == g][0] < 10
    )
    for split in (d.val, d.test):
        assert torch.bincount(split.group).tolist() == [50] * 50
    for mine, name in enumerate(d.group_names):  # the same images, halved by a draw of its own
        theirs = whole.group_names.index(name)
        assert official(d, mine) == official(whole, theirs)
    for label in range(10):
        _, counts = d.train.group[d.train.y == label].unique(return_counts=True)
        assert sorted(counts.tolist(), reverse=True) == [50, 25, 12, 6, 3]  # floor(50 * 2^-k)
    images = load_images("cifar100", data_root)  # of which none is lost or there twice
    assert pixels(*d.splits().values()) == sorted(map(bytes, images.x[images.coarse < 10]))


def test_superclass_labels_are_what_cifar100_calls_the_same_images(data_root):
    """Group and split of an image do not depend on the labels in use: val and test are those of
    cifar100."""
    coarse = datasets.load(SUPERCLASS, data_root)
    fine = datasets.load(replace(SUPERCLASS, dataset="cifar100"), data_root)
    for name in ("val", "test"):
        assert torch.equal(getattr(fine, name).x, getattr(coarse, name).x)
        assert torch.equal(getattr(fine, name).y, getattr(coarse, name).group)
    noisy = datasets.load(replace(SUPERCLASS, label_noise=0.3), data_root)
    assert torch.equal(noisy.train.group, coarse.train.group)
    assert not torch.equal(noisy.train.y, coarse.train.y)


def test_the_hash_of_the_data_sees_pixels_labels_and_splits():
    d = datasets.load(TAIL)
    hashes = {d.sha256(), datasets.load(replace(TAIL, draw_seed=1)).sha256()}
    for name in ("train", "left_out"):
        split = getattr(d, name)
        x, y = split.x.clone(), split.y.clone()
        x[0, 0, 0] += 1
        y[0] = (y[0] + 1) % 10
        for changed in (replace(split, x=x), replace(split, y=y)):
            hashes.add(replace(d, **{name: changed}).sha256())
    assert len(hashes) == 6 and d.sha256() == datasets.load(TAIL).sha256()


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
    for seed, same in ((0, True), (None, True), (1, False)):
        assert np.array_equal(noisy, datasets.shuffled_labels(y, 0.2, seed)) == same
    changed = set(np.flatnonzero(noisy != y).tolist())
    for epoch in range(40):
        first = data.schedule(0, epoch, 1000, 1)[0][:200].tolist()
        assert len(changed.intersection(first)) < 0.5 * len(changed)


def test_label_noise_touches_the_labels_of_the_training_images_alone():
    noise = replace(TAIL, imbalance=10, label_noise=0.4)
    clean, noisy = datasets.load(replace(noise, label_noise=0.0)), datasets.load(noise)
    for name in ("val", "test", "left_out"):
        assert_same(getattr(clean, name), getattr(noisy, name))
    assert torch.equal(clean.train.x, noisy.train.x) and clean.sha256() != noisy.sha256()
    assert 0.25 < (clean.train.y != noisy.train.y).float().mean() <= 0.4
    assert torch.equal(noisy.train.group, noisy.train.y)
    assert torch.equal(noisy.train.y.bincount(), clean.train.y.bincount())
    fold = datasets.load(replace(noise, fold=2)).train  # a fold of the same noisy labels
    assert torch.equal(fold.y, noisy.train.y[data.fold_of(noisy.train.y) != 2])


# ---------------------------------------------------------------- val among the training images

WITH_VAL = {
    "digits": TAIL,
    "digits, noisy": Config(imbalance=10, draw_seed=1, label_noise=0.4),
    "cifar20": Config(dataset="cifar20", student="resnet8", imbalance=20, draw_seed=0),
    "superclass": SUPERCLASS,
}


@pytest.mark.parametrize("name", WITH_VAL)
def test_with_val_trains_on_train_and_val_of_the_plain_config_and_on_nothing_else(name, data_root):
    plain = datasets.load(WITH_VAL[name], data_root)
    both = datasets.load(replace(WITH_VAL[name], with_val=True), data_root)
    assert rows(both.train) == rows(plain.train, plain.val)
    for split in ("val", "test", "left_out"):
        assert_same(getattr(both, split), getattr(plain, split))
    assert (both.mean, both.std, both.pad) == (plain.mean, plain.std, plain.pad)
    if plain.pad == 0:  # in CIFAR-100 a few images are there twice
        shown = set(pixels(both.train))
        assert len(shown) == len(both.train) and not shown & set(pixels(both.test, both.left_out))
