"""Losses against their definitions summed by hand in float64, and their limit cases."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib import losses
from kdlib.config import KNOBS, Config, KdlibError
from kdlib.losses import Batch, ada_alpha, ada_margin, distill, kd, label_margin, margin, method_loss, one_hot

N, C = 6, 5


@pytest.fixture
def logits():
    g = torch.Generator().manual_seed(0)
    f, t = (3 * torch.randn(N, C, dtype=torch.float64, generator=g) for _ in range(2))
    return f, t, torch.tensor([0, 1, 2, 3, 4, 0])


def softmax(row):
    top = max(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


def test_distill_is_the_definition_summed_by_hand(logits):
    f, t, _ = logits
    for T in (1.0, 2.0, 4.0):
        for i in range(N):
            p, q = softmax((t[i] / T).tolist()), softmax((f[i] / T).tolist())
            by_hand = T**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))   # KL(teacher || student)
            assert distill(f, t, T)[i].item() == pytest.approx(by_hand, rel=1e-10)
            q1 = softmax(f[i].tolist())
            assert distill(f, t, T, "teacher")[i].item() == pytest.approx(
                -sum(a * math.log(b) for a, b in zip(p, q1, strict=True)), rel=1e-10)


def test_limits_of_kd(logits):
    f, t, y = logits
    assert torch.equal(kd(f, t, y, 0.0, 3.0), one_hot(f, y))
    assert torch.equal(kd(f, t, y, 1.0, 3.0), distill(f, t, 3.0))
    assert torch.allclose(distill(f, f, 2.0), torch.zeros(N, dtype=f.dtype), atol=1e-12)
    certain = 1e3 * F.one_hot(y, C).double()
    assert torch.allclose(distill(f, certain, 1.0), F.cross_entropy(f, y, reduction="none"))


def test_gradient_does_not_shrink_with_temperature(logits):
    f, t, _ = logits
    sizes = []
    for T in (10.0, 100.0):
        leaf = f.clone().requires_grad_()
        distill(leaf, t, T).sum().backward()
        sizes.append(leaf.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)   # without T^2 it would be a hundredth


def test_alpha_of_a_group_is_the_alpha_of_its_rows(logits):
    f, t, y = logits
    group, weight = torch.tensor([0, 1, 0, 1, 2, 2]), torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    rows = torch.cat([kd(f[i:i + 1], t[i:i + 1], y[i:i + 1], weight[group[i]].item(), 2.0) for i in range(N)])
    assert torch.allclose(ada_alpha(f, t, y, group, weight, 2.0), rows)
    assert torch.allclose(ada_alpha(f, t, y, group, torch.ones(3).double(), 2.0), distill(f, t, 2.0))
    assert torch.allclose(ada_alpha(f, t, y, group, torch.zeros(3).double(), 2.0), one_hot(f, y))


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_ada_margin_is_the_sum_of_margin_losses(logits, T):
    f, t, _ = logits
    rho = torch.rand(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 0.2
    for i in range(N):
        p, s = softmax((t[i] / T).tolist()), (f[i] / T).tolist()
        by_hand = sum(p[k] * math.log(1 + sum(math.exp(rho[i, k].item() - (s[k] - s[j])) for j in range(C) if j != k))
                      for k in range(C))
        entropy = -sum(v * math.log(v) for v in p)
        assert ada_margin(f, t, rho, T)[i].item() == pytest.approx(T**2 * (by_hand - entropy), rel=1e-9)
    assert torch.allclose(ada_margin(f, t, torch.zeros(N, C).double(), T), distill(f, t, T))


def test_readings_a_and_c_by_hand(logits):
    f, t, y = logits
    c = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    batch = Batch(y, y, torch.arange(N), torch.zeros(N), t)

    def loss(reading):
        return method_loss(Config(method="ada_margin", teacher="cnn", margin_reading=reading), c)(f, batch)

    assert torch.allclose(loss("A"), ada_margin(f, t, c.expand(N, C)))
    for reading, m in (("C", c), ("C-inverse", 1 / c)):
        for i in range(N):
            p = softmax(t[i].tolist())
            by_hand = sum(p[k] * math.log(sum(math.exp(math.log(m[k] / m[j]) - (f[i, k] - f[i, j]).item()) for j in range(C)))
                          for k in range(C)) + sum(v * math.log(v) for v in p)
            assert loss(reading)[i].item() == pytest.approx(by_hand, rel=1e-9)


def test_margins_by_hand(logits):
    p = logits[1].softmax(dim=1)
    for i in range(N):
        for k in range(C):
            rest = [p[i, j].item() for j in range(C) if j != k]
            assert margin(p, "avg")[i, k].item() == pytest.approx(p[i, k].item() - sum(rest) / len(rest))
            assert margin(p, "max")[i, k].item() == pytest.approx(p[i, k].item() - max(rest))
    certain = torch.eye(C) * 1e4
    assert torch.allclose(label_margin(certain, torch.arange(C)), torch.ones(C))


@pytest.mark.parametrize("method", [m for m in KNOBS])
def test_every_method_is_finite_at_extreme_logits_and_returns_one_number_per_example(method):
    y = torch.arange(C)
    f = torch.eye(C).roll(1, 0) * 1e4
    t = torch.eye(C) * -1e4
    cfg = Config(method=method, **({"teacher": "cnn", "temperature": 2.0} if KNOBS[method] else {}))
    leaf = f.clone().requires_grad_()
    value = method_loss(cfg, torch.full((C,), 0.5))(leaf, Batch(y, y, y, y, t))
    value.sum().backward()
    assert value.shape == (C,) and value.isfinite().all() and leaf.grad.isfinite().all()


def test_registries_agree():
    assert tuple(losses.METHODS) == tuple(KNOBS)


def test_ada_margin_softening_only_the_teacher(logits):
    f, t, _ = logits
    rho = torch.rand(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for i in range(N):
        p, s = softmax((t[i] / 3).tolist()), f[i].tolist()
        by_hand = sum(p[k] * math.log(1 + sum(math.exp(rho[i, k].item() - (s[k] - s[j])) for j in range(C) if j != k))
                      for k in range(C))
        assert ada_margin(f, t, rho, 3.0, "teacher")[i].item() == pytest.approx(by_hand, rel=1e-9)   # no T^2


def test_every_knob_of_a_config_reaches_its_loss(logits):
    f, t, y = logits
    group, index = y.flip(0), torch.arange(N).flip(0)
    batch = Batch(y, group, index, torch.zeros(N), t)
    by_label = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    by_index = torch.linspace(0.1, 0.9, N, dtype=torch.float64)

    def loss(margins=None, **fields):
        return method_loss(Config(teacher="cnn", **fields), margins)(f, batch)

    assert torch.equal(loss(method="kd", alpha=0.3, temperature=2.0), kd(f, t, y, 0.3, 2.0))
    assert torch.equal(loss(method="kd", alpha=0.3, temperature=2.0, soften="teacher"), kd(f, t, y, 0.3, 2.0, "teacher"))
    assert torch.allclose(loss(by_label, method="ada_alpha", temperature=2.0), kd(f, t, y, by_label[group], 2.0))
    crossfit = {"method": "ada_alpha", "margin_source": "crossfit", "margin_level": "example", "temperature": 2.0}
    assert torch.allclose(loss(by_index, **crossfit), kd(f, t, y, by_index[index], 2.0))
    live = loss(method="ada_alpha", margin_source="train", margin_level="example", margin_kind="max", margin_temperature=2.0,
                temperature=3.0)
    for i in range(N):
        p = softmax((t[i] / 2).tolist())
        alpha = min(1, max(0, p[y[i]] - max(v for k, v in enumerate(p) if k != y[i])))
        assert live[i].item() == pytest.approx(kd(f, t, y, alpha, 3.0)[i].item(), rel=1e-5)
    rho = 2.5 * margin((t / 4).softmax(1), "max")
    assert torch.allclose(loss(method="ada_margin", margin_kind="max", margin_temperature=4.0, margin_scale=2.5, temperature=2.0),
                          ada_margin(f, t, rho, 2.0))
    assert torch.allclose(loss(by_label, method="ada_margin", margin_reading="A", margin_scale=2.5, temperature=2.0),
                          ada_margin(f, t, 2.5 * by_label, 2.0))
    with pytest.raises(KdlibError, match="needs the teacher's margins"):
        loss(method="ada_alpha")
