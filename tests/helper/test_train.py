"""The loop against loops written here, and the promises of steps, rates and predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from synthetic import coloured
from torchvision.transforms import functional as T

from kdlib import data, models
from kdlib.config import Config, KdlibError
from kdlib.losses import Batch
from kdlib.methods import METHODS
from kdlib.step import Diverged, Run, learning_rate, method_loss
from kdlib.study.datasets import load
from kdlib.teacher import frozen, weights_sha256
from kdlib.train import fit, predict

CFG = Config(imbalance=50, draw_seed=0, epochs=3, warmup=1, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn", temperature=2.0)


@pytest.fixture(scope="module")
def digits():
    return load(CFG)


def fitted(d, cfg=CFG, teacher=None, loss=None, seed=0):
    """(network, curves) of one run; what stopped it is raised."""
    model = models.build(cfg.student, d.classes, seed)
    (outcome,) = fit([Run(cfg, model, loss or method_loss(cfg, None, d.train), d, teacher)])
    if isinstance(outcome, KdlibError):
        raise outcome
    return model, outcome


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_loop_equals_a_plain_one_with_torchs_sgd(digits, nesterov):
    cfg = replace(KD, nesterov=nesterov, weight_decay=0.01)
    teacher = models.build("cnn", 10, 9).eval()
    ours, _ = fitted(digits, cfg, frozen(teacher))
    theirs = models.build("cnn_small", 10, 0).train()
    how = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer, step = torch.optim.SGD(theirs.parameters(), lr=1, **how), 0
    for epoch in range(3):
        order, _ = data.schedule(0, epoch, len(digits.train), 1)
        for start in range(0, len(order), 32):  # the last batch is short and is used
            x = data.normalise(digits.train.x[order[start : start + 32]], digits)
            q, p = (theirs(x) / 2).log_softmax(1), (teacher(x).detach() / 2).softmax(1)
            optimizer.param_groups[0]["lr"] = learning_rate(cfg, step, 9)
            optimizer.zero_grad()
            (4 * F.kl_div(q, p, reduction="batchmean")).backward()
            optimizer.step()
            step += 1
    assert step == 27
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], atol=1e-4), name


def test_augmented_training_equals_torchvisions_bit_for_bit():
    recipe = {"epochs": 3, "warmup": 1, "decay": "step", "milestones": (2,), "lr": 0.05}
    cfg = Config(dataset="cifar10", student="resnet8", seed=6, batch_size=8, **recipe)
    d = coloured(20, 3)
    ours, theirs = (models.build("resnet8", 3, 0) for _ in range(2))

    def look(epoch, curves, state):  # changes nothing
        predict(ours, d.val.x, d)

    fit([Run(cfg, ours, method_loss(cfg), d, None, look)])
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in (d.mean, d.std))
    rates = iter([0.05 / 3, 0.05 * 2 / 3, 0.05, 0.05, 0.05, 0.05, 0.005, 0.005, 0.005])
    for epoch in range(3):
        generator = np.random.default_rng((6, epoch))
        order, views = generator.permutation(20), generator.integers(162, size=20)
        for start in (0, 8, 16):
            batch, images = order[start : start + 8], []
            # the k-th of the order has the k-th view
            for i, view in zip(batch, views[start : start + 8], strict=True):
                padded = T.pad(d.train.x[i].permute(2, 0, 1), 4)
                image = T.crop(padded, view // 9 % 9, view % 9, 32, 32)
                images.append((T.hflip(image) if view >= 81 else image).float())
            x = ((torch.stack(images) - mean) * (1 / std)).to(memory_format=torch.channels_last)
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), d.train.y[batch], reduction="none").mean().backward()
            optimizer.step()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_same_seed_same_weights_bit_for_bit(digits):
    hashes = [weights_sha256(fitted(digits, seed=seed)[0]) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_all_methods_of_a_seed_see_the_same_batches(digits):
    assert Batch._fields == ("y", "group", "index", "view", "teacher_logits")
    teacher, seen = frozen(models.build("cnn", 10, 9)), {}
    for method in METHODS:
        fields = {"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}
        cfg = replace(CFG, epochs=1, warmup=0, method=method, **fields)
        plain, batches = method_loss(cfg, torch.ones(10), digits.train), []

        def loss(logits, batch, plain=plain, batches=batches):
            batches.append(batch.index)
            return plain(logits, batch)

        fitted(digits, cfg, teacher, loss)
        seen[method] = torch.cat(batches).tolist()
    assert all(order == seen["one_hot"] for order in seen.values())


def test_it_learns(digits):
    model, curves = fitted(digits, replace(CFG, epochs=15))
    assert curves["loss"][-1] < 0.3 * curves["loss"][0]
    assert curves["loss"] == pytest.approx(curves["cross_entropy"])
    assert (predict(model, digits.test.x, digits).argmax(1) == digits.test.y).float().mean() > 0.5


def test_a_teacher_cannot_be_trained(digits):
    network = models.build("cnn", 10, 9).train()
    teacher, before = frozen(network), weights_sha256(network)
    x = data.normalise(digits.train.x[:8], digits)
    alone = teacher(x[:1], None, None)
    fitted(digits, KD, teacher)
    assert weights_sha256(network) == before and not alone.requires_grad
    assert torch.equal(teacher(x[:1], None, None), alone)
    assert torch.allclose(teacher(x, None, None)[:1], alone, atol=1e-5)  # no batch statistics


def test_rate_zero_moves_no_weight_but_the_batch_statistics(digits):
    model, _ = fitted(digits, replace(CFG, lr=0.0))
    fresh = models.build("cnn_small", 10, 0)
    assert all(map(torch.equal, model.parameters(), fresh.parameters()))
    moved = [n for n, b in model.named_buffers() if not torch.equal(b, fresh.get_buffer(n))]
    assert len(moved) == len(list(fresh.buffers()))


def test_a_loss_that_is_no_number_stops_its_run_alone_and_its_step_is_named(digits):
    spoiled = digits.train.y.tolist().index(3)
    plain = method_loss(CFG)

    def ill(logits, batch):
        return plain(logits, batch) / (batch.index != spoiled).float()

    nets = [models.build("cnn_small", 10, 0) for _ in range(2)]
    stopped, _ = fit([Run(CFG, net, f, digits) for net, f in zip(nets, (ill, plain), strict=True)])
    order, _ = data.schedule(0, 0, len(digits.train), 1)
    step = order.tolist().index(spoiled) // 32 + 1
    assert isinstance(stopped, Diverged)
    said = f"Run {CFG.key()} stopped: its loss is inf in epoch 1 of 3, step {step} of 9; a smaller"
    assert str(stopped).startswith(said)
    assert weights_sha256(nets[1]) == weights_sha256(fitted(digits)[0])


def test_half_precision_learns_the_same_and_leaves_weights_and_statistics_whole():
    cfg = Config(dataset="cifar10", student="resnet8", epochs=3, batch_size=8, lr=0.05)
    (_, full), (net, half) = (
        fitted(coloured(20, 3), replace(cfg, precision=precision)) for precision in ("fp32", "bf16")
    )
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1) and half != full
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32, torch.int64}


def test_rates_warm_up_then_follow_torchs_cosine_or_the_milestones():
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


def test_predictions_are_in_order_and_do_not_depend_on_the_batch(digits):
    model, _ = fitted(digits)
    model.train()
    before, x = weights_sha256(model), digits.left_out.x
    whole = predict(model, x, digits)
    assert len(x) > 500 and model.training  # more than one evaluation batch
    single = torch.cat([predict(model, x[i : i + 1], digits) for i in range(0, 781, 60)])
    assert torch.allclose(whole[:781:60], single, atol=1e-5)
    assert weights_sha256(model) == before  # batch-norm buffers too
    plain = model.eval()(data.normalise(x, digits)).detach()
    assert torch.allclose(whole, plain, atol=1e-4)
