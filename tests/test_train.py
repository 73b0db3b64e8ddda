"""The loop against a loop written here, the networks against published sizes, and the teacher's
promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib import data, models
from kdlib.config import MODELS, Config, KdlibError
from kdlib.losses import Batch, method_loss
from kdlib.methods import METHODS
from kdlib.step import Diverged, Run, learning_rate
from kdlib.study.datasets import load
from kdlib.teacher import frozen, group_margins, measured_margins, weights_sha256
from kdlib.train import fit, predict

CFG = Config(imbalance=50, draw_seed=0, epochs=3, warmup=1, batch_size=32, lr=0.05)


@pytest.fixture(scope="module")
def digits():
    return load(CFG)


def curves_of(*run):
    """Fit one run; its curves, or what stopped it is raised."""
    (outcome,) = fit([Run(*run)])
    if isinstance(outcome, KdlibError):
        raise outcome
    return outcome


def test_the_loop_equals_a_plain_one(digits):
    cfg = replace(CFG, method="kd", teacher="cnn", temperature=2.0)
    teacher = models.build("cnn", 10, 9).eval()
    ours, theirs = (models.build("cnn_small", 10, 0) for _ in range(2))
    curves_of(cfg, ours, method_loss(cfg), digits, frozen(teacher))
    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=1, momentum=0.9, weight_decay=cfg.weight_decay
    )
    theirs.train()
    step = 0
    for epoch in range(cfg.epochs):
        order, _ = data.schedule(0, epoch, len(digits.train), 1)
        for start in range(0, len(order), 32):  # the last batch is short and is used
            index = order[start : start + 32]
            x = data.normalise(digits.train.x[index], digits)
            with torch.no_grad():
                t = teacher(x)
            f = theirs(x)
            loss = 4 * torch.nn.functional.kl_div(
                (f / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean"
            )
            optimizer.param_groups[0]["lr"] = learning_rate(cfg, step, 9)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    assert step == 27
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], atol=1e-4), name


def test_same_seed_same_weights_bit_for_bit(digits):
    hashes = []
    for seed in (0, 0, 1):
        model = models.build("cnn_small", 10, seed)
        curves_of(CFG, model, method_loss(CFG), digits)
        hashes.append(weights_sha256(model))
    assert hashes[0] == hashes[1] != hashes[2]


def test_all_methods_of_a_seed_see_the_same_batches(digits):
    seen = {}
    for method in METHODS:
        cfg = replace(
            CFG,
            epochs=1,
            warmup=0,
            method=method,
            **({"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}),
        )
        plain, batches = method_loss(cfg, torch.ones(10), digits.train), []

        def loss(logits, batch, plain=plain, batches=batches):
            batches.append(batch.index)
            return plain(logits, batch)

        curves_of(
            cfg,
            models.build("cnn_small", 10, cfg.seed),
            loss,
            digits,
            frozen(models.build("cnn", 10, 9)),
        )
        seen[method] = torch.cat(batches)
    same = {method for method, order in seen.items() if torch.equal(order, seen["one_hot"])}
    assert same == set(METHODS)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_torchs(digits, nesterov):
    """SGD by hand, as the formulas in torch's documentation: v = 0.9 v + g; w -= lr (g + 0.9 v)
    with Nesterov, else lr v."""
    cfg = replace(CFG, epochs=1, warmup=0, nesterov=nesterov, weight_decay=0.01)
    ours, theirs = (models.build("cnn_small", 10, 0) for _ in range(2))
    curves_of(cfg, ours, method_loss(cfg), digits)
    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=1, momentum=0.9, weight_decay=0.01, nesterov=nesterov
    )
    plain = models.build("cnn_small", 10, 0)
    velocity = [torch.zeros_like(p) for p in plain.parameters()]
    order, _ = data.schedule(0, 0, len(digits.train), 1)
    for step, index in enumerate(order.split(32)):
        x, rate = data.normalise(digits.train.x[index], digits), learning_rate(cfg, step, 9)
        optimizer.param_groups[0]["lr"] = rate
        for net in (theirs.train(), plain.train()):
            net.zero_grad()
            torch.nn.functional.cross_entropy(net(x), digits.train.y[index]).backward()
        optimizer.step()
        with torch.no_grad():
            for p, v in zip(plain.parameters(), velocity, strict=True):
                g = p.grad + 0.01 * p
                v.mul_(0.9).add_(g)
                p.sub_(rate * (g + 0.9 * v if nesterov else v))
    for a, b, c in zip(ours.parameters(), theirs.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5) and torch.allclose(a, c, atol=1e-5)


def test_it_learns(digits):
    cfg = replace(CFG, epochs=15)
    model = models.build("cnn_small", 10, 0)
    curves = curves_of(cfg, model, method_loss(cfg), digits)
    assert curves["loss"][-1] < 0.3 * curves["loss"][0] and curves["loss"] == pytest.approx(
        curves["cross_entropy"]
    )
    assert (predict(model, digits.test.x, digits).argmax(1) == digits.test.y).float().mean() > 0.5


def test_a_teacher_cannot_be_trained(digits):
    network = models.build("cnn", 10, 9)
    network.train()
    teacher, before = frozen(network), weights_sha256(network)
    cfg = replace(CFG, method="kd", teacher="cnn")
    x = data.normalise(digits.train.x[:8], digits)
    alone = teacher(x[:1], None, None)
    curves_of(cfg, models.build("cnn_small", 10, 0), method_loss(cfg), digits, teacher)
    assert weights_sha256(network) == before
    assert torch.equal(teacher(x[:1], None, None), alone) and torch.allclose(
        teacher(x, None, None)[:1], alone, atol=1e-5
    )  # eval mode: no batch statistics
    assert not teacher(x, None, None).requires_grad


def test_rate_zero_freezes_and_nan_is_named(digits):
    cfg = replace(CFG, lr=0.0)
    model = models.build("cnn_small", 10, 0)
    before = [p.clone() for p in model.parameters()]
    curves_of(cfg, model, method_loss(cfg), digits)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(
        Diverged, match=f"Run {CFG.key()} stopped: its loss is nan in epoch 1 of 3, step 1 of 9;"
    ):
        curves_of(CFG, model, lambda logits, batch: logits.sum(1) * float("nan"), digits)


def test_learning_rate():
    cfg = Config(epochs=10, warmup=2, lr=1.0)
    rates = [learning_rate(cfg, s, 5) for s in range(50)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for rate in rates[10:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    steps = Config(epochs=10, lr=1.0, decay="step", milestones=[4, 8])
    assert [learning_rate(steps, s, 1) for s in (3, 4, 8)] == pytest.approx([1, 0.1, 0.01])


def test_margins_come_from_the_split_they_should(digits):
    model = models.build("cnn", 10, 3)
    cfg = replace(CFG, student="cnn", epochs=15)
    curves_of(cfg, model, method_loss(cfg), digits)
    for source, split in (("val", digits.val), ("train", digits.train)):
        p = predict(model, split.x, digits).softmax(1)
        by_hand = [float((10 * p[i, split.y[i]] - 1) / 9) for i in range(len(split))]
        means = [
            sum(v for v, g in zip(by_hand, split.group.tolist(), strict=True) if g == k)
            / (split.group == k).sum().item()
            for k in range(10)
        ]
        got = measured_margins(digits, model, source)
        assert got.tolist() == pytest.approx([min(1, max(0, m)) for m in means], abs=1e-5)
    assert (
        measured_margins(digits, model, "train").mean()
        > measured_margins(digits, model, "val").mean()
    )
    folds = [models.build("cnn", 10, k) for k in range(5)]
    crossfit = measured_margins(digits, model, "crossfit", "example", fold_models=folds)
    fold = data.fold_of(digits.train.y)
    p = (
        predict(folds[3], digits.train.x, digits)
        .softmax(1)
        .gather(1, digits.train.y[:, None])[:, 0]
    )
    assert torch.allclose(crossfit[fold == 3], ((10 * p - 1) / 9).clamp(0, 1)[fold == 3], atol=1e-6)
    with pytest.raises(KdlibError, match="'b' has no example"):
        group_margins(torch.ones(2), torch.tensor([0, 0]), ("a", "b"))


@pytest.mark.parametrize(
    "depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_networks_have_the_published_number_of_parameters(depth, millions):
    n = sum(p.numel() for p in models.build(f"resnet{depth}", 10, 0).parameters())
    assert n / 1e6 == pytest.approx(
        millions, abs=0.05 if depth == 110 else 0.005
    )  # He et al. 2016, table 6


def test_building_is_its_seed_and_leaves_the_process_alone():
    state = torch.random.get_rng_state()
    a, b, c = (models.build("resnet8-conv", 7, s) for s in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert weights_sha256(a) == weights_sha256(b) != weights_sha256(c)
    assert a(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert models.build("resnet8", 7, 0)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert tuple(models.MODELS) == MODELS


def test_batch_names():
    assert Batch._fields == ("y", "group", "index", "view", "teacher_logits")


def coloured(n):
    """Random 32x32 images of three classes, augmented as CIFAR is."""
    g = torch.Generator().manual_seed(5)
    x, y = (
        torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=g),
        torch.arange(n) % 3,
    )
    split = data.Split(x, y, y)
    names = ("a", "b", "c")
    return data.Data(
        split, split, split, split, names, names, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), pad=4
    )


def test_augmented_training_equals_torchvisions_bit_for_bit():
    from torchvision.transforms import functional as T

    cfg = Config(
        dataset="cifar10",
        student="resnet8",
        seed=6,
        epochs=3,
        warmup=1,
        batch_size=8,
        lr=0.05,
        decay="step",
        milestones=(2,),
    )
    d = coloured(20)
    ours, theirs = (models.build("resnet8", 3, 0) for _ in range(2))
    curves_of(
        cfg, ours, method_loss(cfg), d, None, lambda epoch, curves, state: predict(ours, d.val.x, d)
    )  # looking changes nothing
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in (d.mean, d.std))
    rates = iter([0.05 / 3, 0.05 * 2 / 3, 0.05, 0.05, 0.05, 0.05, 0.005, 0.005, 0.005])
    for epoch in range(3):
        generator = np.random.default_rng((6, epoch))
        order, views = (
            generator.permutation(20),
            generator.integers(162, size=20),
        )  # the k-th of the order has the k-th view
        for start in (0, 8, 16):
            images = []
            for i, view in zip(order[start : start + 8], views[start : start + 8], strict=True):
                image = T.crop(
                    T.pad(d.train.x[i].permute(2, 0, 1), 4), view // 9 % 9, view % 9, 32, 32
                )
                images.append((T.hflip(image) if view >= 81 else image).float())
            x = ((torch.stack(images) - mean) * (1 / std)).to(memory_format=torch.channels_last)
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                theirs(x), d.train.y[order[start : start + 8]], reduction="none"
            ).mean().backward()
            optimizer.step()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_predictions_are_in_order_and_do_not_depend_on_the_batch(digits):
    model = models.build("cnn", 10, 2)
    curves_of(CFG, model, method_loss(CFG), digits)
    model.train()
    before = weights_sha256(model)
    whole = predict(model, digits.left_out.x, digits)  # more than one evaluation batch
    assert len(digits.left_out) > 500 and model.training
    single = torch.cat(
        [predict(model, digits.left_out.x[i : i + 1], digits) for i in range(0, 781, 60)]
    )
    assert torch.allclose(whole[:781:60], single, atol=1e-5)
    assert weights_sha256(model) == before  # batch-norm buffers too
