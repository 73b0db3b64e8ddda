"""Draws, splits, schedule and views: published counts, torchvision, and the real data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib import data
from kdlib.config import DATASETS, Config, KdlibError
from kdlib.readers import load_images


@pytest.mark.parametrize("largest, imbalance, classes, profile, total", [
    (500, 100, 100, "exp", 10_847), (500, 50, 100, "exp", 12_608), (500, 10, 100, "exp", 19_573),
    (500, 100, 100, "step", 25_250), (500, 10, 100, "step", 27_500), (5000, 100, 10, "exp", 12_406),
    (5000, 50, 10, "exp", 13_996), (5000, 10, 10, "exp", 20_431), (400, 20, 20, "exp", 2_615)])
def test_long_tail_counts_are_the_published_ones(largest, imbalance, classes, profile, total):
    assert sum(data.long_tail_counts(largest, imbalance, classes, profile)) == total


def test_shots_of_cifar100_lt():
    counts = np.array(data.long_tail_counts(500, 100, 100))
    assert ((counts > 100).sum(), ((counts <= 100) & (counts >= 20)).sum(), (counts < 20).sum()) == (35, 35, 30)


def test_a_draw_is_its_seed_and_none_is_canonical():
    y = np.repeat(np.arange(4), 10)
    draws = {s: data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=s)) for s in (None, 0, 1)}
    again = data.long_tail_draw(y, 8, Config(imbalance=4, draw_seed=0))
    assert all(np.array_equal(a, b) for a, b in zip(draws[0], again, strict=True))
    assert not np.array_equal(draws[0][0], draws[1][0])
    for drawn, rest, beyond in draws.values():
        assert sorted(np.concatenate([drawn, rest, beyond])) == list(range(40)) and len(beyond) == 8
    assert list(draws[None][0]) == [*range(8), *range(10, 15), *range(20, 23), *range(30, 32)]   # 8, 5, 3, 2


def test_every_view_is_torchvisions_crop_and_flip():
    from torchvision.transforms import functional as T
    x = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
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
    assert torch.equal(order, data.schedule(3, 7, 10, 162)[0]) and not torch.equal(order, data.schedule(3, 8, 10, 162)[0])
    counts = torch.bincount(data.schedule(0, 0, 162_000, 162)[1], minlength=162)
    assert counts.min() > 850 and counts.max() < 1150   # equally likely


def test_normalised_batches_are_channels_last():
    digits = data.load(Config(imbalance=50, draw_seed=0))
    x = data.normalise(digits.train.x, digits)
    assert x.is_contiguous(memory_format=torch.channels_last)
    by_hand = (digits.train.x.permute(0, 3, 1, 2).float() / 255 - digits.mean[0]) / digits.std[0]
    assert torch.allclose(x, by_hand, atol=1e-5)


def test_digits_splits_are_disjoint_and_complete():
    d = data.load(Config(imbalance=50, draw_seed=0))
    assert [len(s) for s in d.splits().values()] == [276, 240, 500, 1797 - 276 - 240 - 500]
    assert torch.bincount(d.test.y).tolist() == [50] * 10 and torch.bincount(d.val.y).tolist() == [24] * 10
    from sklearn.datasets import load_digits
    raw = (load_digits().images * 15).astype(np.uint8)
    ours = np.concatenate([s.x.numpy()[..., 0] for s in d.splits().values()])
    assert sorted(map(bytes, ours)) == sorted(map(bytes, raw))   # every image once: nothing shared, nothing lost


def test_folds_are_stratified_and_left_out():
    whole = data.load(Config(imbalance=50, draw_seed=0)).train
    parts = [data.load(Config(imbalance=50, draw_seed=0, fold=k)).train for k in range(5)]
    assert sum(len(whole) - len(p) for p in parts) == len(whole)
    assert torch.equal(parts[2].x, whole.x[data.fold_of(whole.y) != 2])


def test_cifar20_is_the_first_class_of_each_superclass(data_root):
    d = data.load(Config(dataset="cifar20", imbalance=20, draw_seed=0), data_root)
    assert [len(s) for s in d.splits().values()] == [2615, 2000, 2000, 8000 - 2615]
    assert sorted(torch.bincount(d.train.y).tolist(), reverse=True) == data.long_tail_counts(400, 20, 20)
    assert d.class_names[:3] == ("apple", "aquarium_fish", "baby") and len(d.class_names) == 20
    images = load_images("cifar100", data_root)
    raw = images.x[np.isin(np.array(images.names)[images.y], d.class_names)]
    ours = np.concatenate([s.x.numpy() for s in d.splits().values()])
    assert sorted(map(bytes, ours)) == sorted(map(bytes, raw))   # every image once: nothing shared, nothing lost
    coarse = {name: images.coarse[images.y == c][0] for c, name in enumerate(images.names)}
    assert all(name == min(n for n in coarse if coarse[n] == coarse[name]) for name in d.class_names)


def test_cifar100_lt_and_its_halves(data_root):
    d = data.load(Config(dataset="cifar100", imbalance=100), data_root)
    assert len(d.train) == 10_847 and len(d.left_out) == 50_000 - 10_847
    assert torch.bincount(d.val.y).tolist() == torch.bincount(d.test.y).tolist() == [50] * 100
    assert torch.bincount(d.train.y).tolist() == data.long_tail_counts(500, 100, 100)


def test_registries_agree():
    assert tuple(data.DATASETS) == DATASETS


def test_halves_are_stratified_disjoint_and_fixed():
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    first, second = data.halves(y)
    assert sorted([*first, *second]) == list(range(200))
    assert np.bincount(y[first]).tolist() == np.bincount(y[second]).tolist() == [20] * 5
    assert np.array_equal(first, data.halves(y)[0]) and not np.array_equal(first, data.halves(y, seed=1)[0])


def test_a_permuted_draw_gives_the_nth_class_of_the_order_the_nth_count():
    y = np.repeat(np.arange(6), 30)
    drawn = data.long_tail_draw(y, 30, Config(imbalance=10, draw_seed=5))[0]
    order = np.random.default_rng(5).permutation(6)
    assert not np.array_equal(order, np.argsort(order))     # else a class and its rank could be confused unseen
    assert np.bincount(y[drawn])[order].tolist() == data.long_tail_counts(30, 10, 6)


def test_an_empty_rarest_class_is_refused():
    with pytest.raises(KdlibError, match="imbalance=1000.0: the rarest class would be empty; at most 100 for digits"):
        data.load(Config(imbalance=1000))


def test_the_hash_of_the_data_sees_pixels_labels_and_splits():
    d = data.load(Config(imbalance=50, draw_seed=0))
    hashes = {d.sha256(), data.load(Config(imbalance=50, draw_seed=1)).sha256()}
    for name in ("train", "left_out"):
        split = getattr(d, name)
        x, y = split.x.clone(), split.y.clone()
        x[0, 0, 0] += 1
        y[0] = (y[0] + 1) % 10
        hashes |= {replace(d, **{name: replace(split, x=x)}).sha256(), replace(d, **{name: replace(split, y=y)}).sha256()}
    assert len(hashes) == 6 and d.sha256() == data.load(Config(imbalance=50, draw_seed=0)).sha256()
