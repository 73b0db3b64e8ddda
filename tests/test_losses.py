"""Losses against their definitions summed by hand in float64, and their limit cases."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, recall_score

from kdlib import losses, rivals
from kdlib.config import Config, KdlibError
from kdlib.losses import (
    Batch,
    ada_alpha,
    ada_margin,
    distill,
    kd,
    label_margin,
    margin,
    method_loss,
    one_hot,
)
from kdlib.methods import METHODS

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
            by_hand = T**2 * sum(
                a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)
            )  # KL(teacher || student)
            assert distill(f, t, T)[i].item() == pytest.approx(by_hand, rel=1e-10)
            q1 = softmax(f[i].tolist())
            assert distill(f, t, T, "teacher")[i].item() == pytest.approx(
                -sum(a * math.log(b) for a, b in zip(p, q1, strict=True)), rel=1e-10
            )


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
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)  # without T^2 it would be a hundredth


def test_alpha_of_a_group_is_the_alpha_of_its_rows(logits):
    f, t, y = logits
    group, weight = (
        torch.tensor([0, 1, 0, 1, 2, 2]),
        torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64),
    )
    rows = torch.cat(
        [
            kd(f[i : i + 1], t[i : i + 1], y[i : i + 1], weight[group[i]].item(), 2.0)
            for i in range(N)
        ]
    )
    assert torch.allclose(ada_alpha(f, t, y, group, weight, 2.0), rows)
    assert torch.allclose(
        ada_alpha(f, t, y, group, torch.ones(3).double(), 2.0), distill(f, t, 2.0)
    )
    assert torch.allclose(ada_alpha(f, t, y, group, torch.zeros(3).double(), 2.0), one_hot(f, y))


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_ada_margin_is_the_sum_of_margin_losses(logits, T):
    f, t, _ = logits
    rho = (
        torch.rand(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 0.2
    )
    for i in range(N):
        p, s = softmax((t[i] / T).tolist()), (f[i] / T).tolist()
        by_hand = sum(
            p[k]
            * math.log(
                1 + sum(math.exp(rho[i, k].item() - (s[k] - s[j])) for j in range(C) if j != k)
            )
            for k in range(C)
        )
        entropy = -sum(v * math.log(v) for v in p)
        assert ada_margin(f, t, rho, T)[i].item() == pytest.approx(
            T**2 * (by_hand - entropy), rel=1e-9
        )
    assert torch.allclose(ada_margin(f, t, torch.zeros(N, C).double(), T), distill(f, t, T))


def test_readings_a_and_c_by_hand(logits):
    f, t, y = logits
    c = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    batch = Batch(y, y, torch.arange(N), torch.zeros(N), t)

    def loss(reading):
        return method_loss(Config(method="ada_margin", teacher="cnn", margin_reading=reading), c)(
            f, batch
        )

    assert torch.allclose(loss("A"), ada_margin(f, t, c.expand(N, C)))
    for reading, m in (("C", c), ("C-inverse", 1 / c)):
        for i in range(N):
            p = softmax(t[i].tolist())
            by_hand = sum(
                p[k]
                * math.log(
                    sum(
                        math.exp(math.log(m[k] / m[j]) - (f[i, k] - f[i, j]).item())
                        for j in range(C)
                    )
                )
                for k in range(C)
            ) + sum(v * math.log(v) for v in p)
            assert loss(reading)[i].item() == pytest.approx(by_hand, rel=1e-9)


def test_margins_by_hand(logits):
    p = logits[1].softmax(dim=1)
    for i in range(N):
        for k in range(C):
            rest = [p[i, j].item() for j in range(C) if j != k]
            assert margin(p, "avg")[i, k].item() == pytest.approx(
                p[i, k].item() - sum(rest) / len(rest)
            )
            assert margin(p, "max")[i, k].item() == pytest.approx(p[i, k].item() - max(rest))
    certain = torch.eye(C) * 1e4
    assert torch.allclose(label_margin(certain, torch.arange(C)), torch.ones(C))


COUNTS = (40, 20, 12, 6, 2)  # training images of each class
TRAIN = SimpleNamespace(y=torch.repeat_interleave(torch.arange(C), torch.tensor(COUNTS)))
TRAIN.group = TRAIN.y


def bound(method, margins=None, **fields):
    """The loss of a method over TRAIN, with a teacher if it has one."""
    return method_loss(
        Config(
            method=method,
            **({"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}),
            **fields,
        ),
        margins,
        TRAIN,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_finite_at_extreme_logits_and_returns_one_number_per_example(
    method, size, dtype
):
    y = torch.arange(C)
    t = torch.eye(C, dtype=dtype) * -size
    softened = {"temperature": 2.0} if "temperature" in METHODS[method].knobs else {}
    for f in (torch.eye(C, dtype=dtype).roll(1, 0) * size, -t, t):
        leaf, loss = f.clone().requires_grad_(), bound(method, torch.full((C,), 0.5), **softened)
        for _ in range(3):  # the state of those that have one grows
            value = loss(leaf, Batch(y, y, y, y, t))
            value.sum().backward()
        assert value.shape == (C,) and value.isfinite().all() and leaf.grad.isfinite().all()


def test_registries_agree():
    assert tuple(losses.METHODS) == tuple(METHODS)


def test_ada_margin_softening_only_the_teacher(logits):
    f, t, _ = logits
    rho = torch.rand(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for i in range(N):
        p, s = softmax((t[i] / 3).tolist()), f[i].tolist()
        by_hand = sum(
            p[k]
            * math.log(
                1 + sum(math.exp(rho[i, k].item() - (s[k] - s[j])) for j in range(C) if j != k)
            )
            for k in range(C)
        )
        assert ada_margin(f, t, rho, 3.0, "teacher")[i].item() == pytest.approx(
            by_hand, rel=1e-9
        )  # no T^2


def test_every_knob_of_a_config_reaches_its_loss(logits):
    f, t, y = logits
    group, index = y.flip(0), torch.arange(N).flip(0)
    batch = Batch(y, group, index, torch.zeros(N), t)
    by_label = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    by_index = torch.linspace(0.1, 0.9, N, dtype=torch.float64)

    def loss(margins=None, **fields):
        return method_loss(Config(teacher="cnn", **fields), margins)(f, batch)

    assert torch.equal(loss(method="kd", alpha=0.3, temperature=2.0), kd(f, t, y, 0.3, 2.0))
    assert torch.equal(
        loss(method="kd", alpha=0.3, temperature=2.0, soften="teacher"),
        kd(f, t, y, 0.3, 2.0, "teacher"),
    )
    assert torch.allclose(
        loss(by_label, method="ada_alpha", temperature=2.0), kd(f, t, y, by_label[group], 2.0)
    )
    crossfit = {
        "method": "ada_alpha",
        "margin_source": "crossfit",
        "margin_level": "example",
        "temperature": 2.0,
    }
    assert torch.allclose(loss(by_index, **crossfit), kd(f, t, y, by_index[index], 2.0))
    live = loss(
        method="ada_alpha",
        margin_source="train",
        margin_level="example",
        margin_kind="max",
        margin_temperature=2.0,
        temperature=3.0,
    )
    for i in range(N):
        p = softmax((t[i] / 2).tolist())
        alpha = min(1, max(0, p[y[i]] - max(v for k, v in enumerate(p) if k != y[i])))
        assert live[i].item() == pytest.approx(kd(f, t, y, alpha, 3.0)[i].item(), rel=1e-5)
    rho = 2.5 * margin((t / 4).softmax(1), "max")
    assert torch.allclose(
        loss(
            method="ada_margin",
            margin_kind="max",
            margin_temperature=4.0,
            margin_scale=2.5,
            temperature=2.0,
        ),
        ada_margin(f, t, rho, 2.0),
    )
    assert torch.allclose(
        loss(by_label, method="ada_margin", margin_reading="A", margin_scale=2.5, temperature=2.0),
        ada_margin(f, t, 2.5 * by_label, 2.0),
    )
    with pytest.raises(KdlibError, match="needs the teacher's margins"):
        loss(method="ada_alpha")


# ---------------------------------------------------------------- rivals


def kl(p, q):
    """KL(p || q) of two lists that sum to 1."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def cross_entropy(row, label):
    return -math.log(softmax(row)[label])


def batch_of(y, t, group=None):
    return Batch(y, y if group is None else group, torch.arange(len(y)), torch.zeros(len(y)), t)


def test_label_smoothing_is_cross_entropy_with_the_smoothed_label(logits):
    f, _, y = logits
    loss = bound("label_smoothing", smoothing=0.3)(f, batch_of(y, None))
    for i in range(N):
        target = [0.3 / C + (0.7 if k == y[i] else 0) for k in range(C)]
        by_hand = -sum(w * math.log(q) for w, q in zip(target, softmax(f[i].tolist()), strict=True))
        assert loss[i].item() == pytest.approx(by_hand, rel=1e-10)
    assert torch.equal(rivals.label_smoothing(f, y, 0.0), one_hot(f, y))


def test_logit_adjustment_weighs_each_class_by_its_share_of_the_training_images(logits):
    f, _, y = logits
    loss = bound("logit_adjusted", tau=1.5)(f, batch_of(y, None))
    for i in range(N):
        weight = [
            (n / sum(COUNTS)) ** 1.5 * math.exp(v)
            for n, v in zip(COUNTS, f[i].tolist(), strict=True)
        ]
        assert loss[i].item() == pytest.approx(-math.log(weight[y[i]] / sum(weight)), rel=1e-6)
    assert torch.allclose(bound("logit_adjusted", tau=0.0)(f, batch_of(y, None)), one_hot(f, y))


def test_post_hoc_tau_is_the_best_of_all_by_balanced_accuracy_and_the_smallest_of_equals():
    chosen = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = np.concatenate(
            [np.arange(C), rng.choice(C, 200, p=[0.6, 0.2, 0.1, 0.05, 0.05])]
        )  # classes weigh alike all the same
        prior = np.array(COUNTS) / sum(COUNTS)
        f = rng.normal(size=(len(y), C)) + 1.5 * np.eye(C)[y] + rng.uniform(-0.5, 3) * np.log(prior)
        score = [
            balanced_accuracy_score(y, (f - k / 4 * np.log(prior)).argmax(axis=1)) for k in range(9)
        ]
        best = min(k for k in range(9) if score[k] > max(score) - 1e-9) / 4
        assert rivals.post_hoc_tau(torch.tensor(f), torch.tensor(y), torch.tensor(prior)) == best
        chosen.add(best)
    assert len(chosen) > 3
    sure = 1e3 * F.one_hot(torch.arange(C)).double()
    assert (
        rivals.post_hoc_tau(sure, torch.arange(C), torch.tensor(prior)) == 0
    )  # every tau is right everywhere
    few = torch.tensor([0, 0, 1, 1])  # classes without an example count nothing
    assert rivals.post_hoc_tau(sure[few], few, torch.tensor(prior)) == 0


def test_between_equals_post_hoc_tau_is_not_decided_by_rounding():
    """One class gains what another loses: 3/9 + 8/9 is 5/9 + 6/9, though as floats the second sum
    is larger."""
    right = {0.0: (3, 8, 0), 0.25: (5, 6, 0)}  # of nine examples a class
    threshold, rows, labels = math.log(2) / 8, [], []
    prior = torch.tensor(
        [0.25, 0.5, 0.25], dtype=torch.float64
    )  # tau = 0.25 lowers class 1 by 0.17 less others
    for label, (before, after) in enumerate(zip(*right.values(), strict=True)):
        for i in range(9):
            first, then = i < before, i < after
            other = 1 if label != 1 else 0
            lead = {
                (True, True): 9,
                (False, False): -9,
                (False, True): -threshold,
                (True, False): threshold,
            }[first, then]
            row = [-99.0] * 3
            row[label], row[other] = lead, 0.0
            rows.append(row)
            labels.append(label)
    f, y = torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)
    for tau, counts in right.items():
        predicted = (f - tau * prior.log()).argmax(dim=1)
        assert tuple(int(((predicted == y) & (y == c)).sum()) for c in range(3)) == counts
    assert rivals.post_hoc_tau(f, y, prior) == 0


@pytest.mark.parametrize("balance", [0.9, 0.9999])
def test_weights_by_the_effective_number_are_the_formula(balance):
    raw = [(1 - balance) / (1 - balance**n) for n in COUNTS]
    expected = [w * C / sum(raw) for w in raw]
    assert rivals.effective_weights(torch.tensor(COUNTS), balance).tolist() == pytest.approx(
        expected, rel=1e-6
    )
    assert rivals.effective_weights(torch.tensor(COUNTS), 0.0).tolist() == [1] * C
    nearly = [
        sum(1 / n for n in COUNTS) / C * n
        for n in rivals.effective_weights(torch.tensor(COUNTS), 0.999999).tolist()
    ]
    assert nearly == pytest.approx([1 / n for n in COUNTS], rel=1e-4)  # towards one over the count


def test_balanced_kd_reweighs_the_teacher(logits):
    f, t, y = logits
    loss = bound("balanced_kd", balance=0.9, temperature=2.0)(f, batch_of(y, t))
    raw = [0.1 / (1 - 0.9**n) for n in COUNTS]
    for i in range(N):
        p = [w * v for w, v in zip(raw, softmax((t[i] / 2).tolist()), strict=True)]
        by_hand = cross_entropy(f[i].tolist(), y[i]) + 4 * kl(
            [v / sum(p) for v in p], softmax((f[i] / 2).tolist())
        )
        assert loss[i].item() == pytest.approx(by_hand, rel=1e-6)
    for equal in (torch.ones(C), torch.full((C,), 0.3)):
        assert torch.allclose(
            rivals.balanced_kd(f, t, y, equal, 2.0), one_hot(f, y) + distill(f, t, 2.0), rtol=1e-6
        )


def test_decoupled_kd_is_label_against_the_rest_and_the_rest_among_themselves(logits):
    f, t, y = logits
    loss = bound("decoupled_kd", beta=3.0, temperature=2.0)(f, batch_of(y, t))
    for i in range(N):
        p, q = softmax((t[i] / 2).tolist()), softmax((f[i] / 2).tolist())
        rest = [k for k in range(C) if k != y[i]]
        binary = kl([p[y[i]], 1 - p[y[i]]], [q[y[i]], 1 - q[y[i]]])
        others = kl(*([v[k] / sum(v[j] for j in rest) for k in rest] for v in (p, q)))
        assert loss[i].item() == pytest.approx(
            cross_entropy(f[i].tolist(), y[i]) + 4 * (binary + 3 * others), rel=1e-8
        )


def test_decoupled_parts_make_up_kd_when_the_others_weigh_what_the_teacher_gives_them(logits):
    """KL = KL(label, rest) + (1 - p_y) KL of the others, and beta = 1 is that without the
    factor."""
    f, t, y = logits
    binary = rivals.decoupled_kd(f, t, y, 0.0, 2.0) - one_hot(f, y)
    others = rivals.decoupled_kd(f, t, y, 1.0, 2.0) - rivals.decoupled_kd(f, t, y, 0.0, 2.0)
    not_label = 1 - (t / 2).softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    assert torch.allclose(binary + not_label * others, distill(f, t, 2.0))


PARTS = ((0, 1), (2, 3), (4,))  # of the classes of TRAIN by rank, as rank * 3 // 5


def test_long_tailed_kd_is_rebalanced_parts_and_the_mean_within_them(logits):
    f, t, y = logits
    loss = bound("long_tailed_kd", temperature=2.0)(f, batch_of(y, t))
    p, q = ([softmax((v[i] / 2).tolist()) for i in range(N)] for v in (t, f))
    p_part, q_part = (
        [[sum(row[k] for k in part) for part in PARTS] for row in rows] for rows in (p, q)
    )
    mean = [sum(row[k] for row in p_part) / N for k in range(3)]
    for i in range(N):
        scaled = [v / m for v, m in zip(p_part[i], mean, strict=True)]
        parts = kl([v / sum(scaled) for v in scaled], q_part[i])
        within = [
            kl([p[i][k] / p_part[i][j] for k in part], [q[i][k] / q_part[i][j] for k in part])
            for j, part in enumerate(PARTS)
        ]
        by_hand = cross_entropy(f[i].tolist(), y[i]) + 4 * (parts + sum(within) / 3)
        assert loss[i].item() == pytest.approx(by_hand, rel=1e-8)


def test_parts_of_long_tailed_kd_are_thirds_by_frequency_whatever_the_order_of_the_classes(logits):
    f, t, y = logits
    order = torch.tensor([3, 0, 4, 1, 2])  # new name of each class
    train = SimpleNamespace(y=order[TRAIN.y], group=order[TRAIN.y])
    renamed = method_loss(Config(method="long_tailed_kd", teacher="cnn"), None, train)
    back = order.argsort()
    assert torch.allclose(
        renamed(f[:, back], batch_of(order[y], t[:, back])),
        bound("long_tailed_kd")(f, batch_of(y, t)),
    )


def test_kl_is_that_of_the_parts_plus_that_within_them_and_long_tailed_kd_has_these_terms(logits):
    """KL = KL of the parts + sum of p_part * KL within; an example alone in its batch has
    rebalanced parts of a third each."""
    f, t, y = logits
    part = torch.zeros(3, C)
    for j, members in enumerate(PARTS):
        part[j, list(members)] = 1
    for i in range(N):
        row = slice(i, i + 1)
        q_part = (part.double() @ f[i].softmax(0)).tolist()
        within = (
            rivals.long_tailed_kd(f[row], t[row], y[row], part) - one_hot(f[row], y[row])
        ).item() - kl([1 / 3] * 3, q_part)
        p, p_part = t[i].softmax(0).tolist(), (part.double() @ t[i].softmax(0)).tolist()
        q = f[i].softmax(0).tolist()
        each = [
            kl([p[k] / p_part[j] for k in m], [q[k] / q_part[j] for k in m])
            for j, m in enumerate(PARTS)
        ]
        assert within == pytest.approx(sum(each) / 3, abs=1e-9)
        whole = kl(p_part, q_part) + sum(w * v for w, v in zip(p_part, each, strict=True))
        assert distill(f, t, 1.0)[i].item() == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("method", ["balanced_kd", "decoupled_kd", "long_tailed_kd"])
def test_logits_far_apart_lose_no_class(method):
    """Where float32 probabilities are 0, against the same in float64 from logarithms that are
    exact."""
    y, f = (
        torch.tensor([0, 1]),
        torch.tensor([[0.0, -300, -600, -150, -450], [-450, -150, 0, -600, -300]]),
    )
    t = f.flip(1) * 0.9
    loss, exact = (
        bound(method)(f, batch_of(y, t)),
        bound(method)(f.double(), batch_of(y, t.double())),
    )
    assert loss.tolist() == pytest.approx(exact.tolist(), rel=1e-5)


def test_the_others_of_decoupled_kd_do_not_hear_of_the_label_at_extreme_logits():
    """All others at -1e4: what is left among them is what it would be without the label."""
    y, rest = torch.tensor([0]), torch.tensor([[0.3, -0.2, 1.1, 0.0]], dtype=torch.float64)
    f, t = (
        torch.cat([torch.tensor([[1e4]], dtype=torch.float64), r], dim=1)
        for r in (rest, rest.flip(1))
    )
    by_hand = kl(softmax(rest.flip(1)[0].tolist()), softmax(rest[0].tolist()))
    assert rivals.decoupled_kd(f, t, y, 1.0).item() == pytest.approx(by_hand, rel=1e-6)


# ---------------------------------------------------------------- the state of the robust ones


def steps_of(n, seed=3):
    """n batches (logits, y, group) of different sizes; group 3 is in none but the first, group 4 in
    the last alone."""
    g = torch.Generator().manual_seed(seed)
    for number in range(n):
        size = 5 + number
        group = torch.arange(size) % 3
        group[0] = 3 if number == 0 else group[0]
        group[-1] = 4 if number == n - 1 else group[-1]
        yield (
            2 * torch.randn(size, C, dtype=torch.float64, generator=g),
            torch.randint(C, (size,), generator=g),
            group,
        )


def risen(weight, mean, step_size):
    """The weights after one step in plain floats."""
    raised = [w * math.exp(step_size * m) for w, m in zip(weight, mean, strict=True)]
    return [w / sum(raised) for w in raised]


def means_by_hand(f, y, group, groups):
    out = []
    for g in range(groups):
        mine = [cross_entropy(f[i].tolist(), y[i]) for i in range(len(y)) if group[i] == g]
        out.append(sum(mine) / len(mine) if mine else 0.0)
    return out


def test_group_dro_follows_the_algorithm_step_by_step():
    loss, weight = bound("group_dro", step_size=0.2), [1 / C] * C
    for f, y, group in steps_of(4):
        mean = means_by_hand(f, y, group, C)
        weight = risen(weight, mean, 0.2)
        values = loss(f.requires_grad_(), batch_of(y, None, group))
        assert values.mean().item() == pytest.approx(
            sum(w * m for w, m in zip(weight, mean, strict=True)), rel=1e-5
        )
        assert loss.state.exp().tolist() == pytest.approx(weight, rel=1e-5)
        for i in range(len(y)):
            share = weight[group[i]] / sum(int(g == group[i]) for g in group) * len(y)
            assert values[i].item() == pytest.approx(
                share * cross_entropy(f[i].tolist(), y[i]), rel=1e-5
            )
        (gradient,) = torch.autograd.grad(values.mean(), f)  # the weights are numbers to it
        share = (
            torch.tensor(weight, dtype=f.dtype)[group] / torch.bincount(group, minlength=C)[group]
        )
        expected = share[:, None] * (f.softmax(1) - F.one_hot(y, C)).detach()
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert max(weight) - min(weight) > 0.05


def test_group_dro_without_a_step_is_the_mean_over_groups(logits):
    f, _, y = logits
    loss = bound("group_dro", step_size=0.0)
    expected = sum(one_hot(f, y)[y == c].mean().item() for c in range(C)) / C
    for _ in range(3):
        assert loss(f, batch_of(y, None)).mean().item() == pytest.approx(expected, rel=1e-6)


def test_robust_kd_moves_the_logits_by_the_weights_of_the_classes():
    loss, weight, t = (
        bound("robust_kd", step_size=0.2, temperature=2.0),
        [1 / C] * C,
        torch.linspace(-2, 2, C).double(),
    )
    for f, y, group in steps_of(4):
        weight = risen(weight, means_by_hand(f, y, y, C), 0.2)  # by class: the groups do not matter
        values = loss(f, batch_of(y, t.expand(len(y), C), group))
        shift = [math.log(w / (n / sum(COUNTS))) for w, n in zip(weight, COUNTS, strict=True)]
        for i in range(len(y)):
            q = softmax([(v - s) / 2 for v, s in zip(f[i].tolist(), shift, strict=True)])
            assert values[i].item() == pytest.approx(4 * kl(softmax((t / 2).tolist()), q), rel=1e-5)


def test_weights_of_groups_survive_losses_beyond_the_range_of_exp():
    loss, y = bound("group_dro", step_size=10.0), torch.arange(C)
    f = torch.zeros(C, C)
    f[2, 0] = 1e4  # exp(1e5) has no float
    values = loss(f, batch_of(y, None))
    assert values.isfinite().all() and loss.state.exp().tolist() == pytest.approx([0, 0, 1, 0, 0])


def test_every_method_with_a_state_starts_a_new_one_for_each_run():
    for method in METHODS:
        a, b = (bound(method, torch.full((C,), 0.5)) for _ in range(2))
        if hasattr(a, "state"):
            assert a.state is not b.state and a.state.exp().tolist() == pytest.approx([1 / C] * C)
            assert method in ("group_dro", "robust_kd")


# ---------------------------------------------------------------- margin "hit"


def test_the_hit_margin_is_recall(logits):
    g = torch.Generator().manual_seed(4)
    t, y = torch.randn(300, C, generator=g), torch.randint(C, (300,), generator=g)
    hit = label_margin(t, y, 3.0, "hit")
    assert set(hit.tolist()) == {0.0, 1.0}
    recall = recall_score(y, t.argmax(dim=1), average=None)
    assert [hit[y == c].mean().item() for c in range(C)] == pytest.approx(recall.tolist())
    p = logits[1].softmax(dim=1)
    assert margin(p, "hit").tolist() == [[float(v == max(row)) for v in row] for row in p.tolist()]


def test_0_1_ada_alpha_takes_the_teacher_where_it_is_right_and_the_label_elsewhere(logits):
    f, t, y = logits
    loss = bound(
        "ada_alpha",
        margin_level="example",
        margin_source="train",
        margin_kind="hit",
        temperature=2.0,
    )(f, batch_of(y, t))
    right = t.argmax(dim=1) == y
    assert 0 < right.sum() < N
    assert torch.allclose(loss, torch.where(right, distill(f, t, 2.0), one_hot(f, y)))
