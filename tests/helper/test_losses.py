"""Losses against their definitions summed by hand in float64, and their limit cases."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, recall_score

from kdlib import rivals
from kdlib.config import Config, KdlibError
from kdlib.losses import (
    Batch,
    ada_alpha,
    ada_margin,
    distill,
    kd,
    label_margin,
    margin,
    one_hot,
)
from kdlib.methods import METHODS
from kdlib.step import method_loss

N, C = 6, 5
COUNTS = (40, 20, 12, 6, 2)  # training images of each class
TRAIN = SimpleNamespace(y=torch.repeat_interleave(torch.arange(C), torch.tensor(COUNTS)))
TRAIN.group = TRAIN.y
BY_CLASS = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)


@pytest.fixture
def logits():
    """(student's, teacher's, labels)"""
    g = torch.Generator().manual_seed(0)
    f, t = (3 * torch.randn(N, C, dtype=torch.float64, generator=g) for _ in range(2))
    return f, t, torch.tensor([0, 1, 2, 3, 4, 0])


def softmax(row, T=1.0):
    e = [math.exp((float(v) - float(max(row))) / T) for v in row]
    return [v / sum(e) for v in e]


def normalised(values):
    return [v / sum(values) for v in values]


def kl(p, q):
    """KL(p || q) of two lists that sum to 1."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def cross_entropy(row, label):
    return -math.log(softmax(row)[label])


def assert_each(loss, by_hand, rel=1e-9):
    """Every example's loss is by_hand(i)."""
    assert loss.tolist() == pytest.approx([by_hand(i) for i in range(len(loss))], rel=rel)


def batch_of(y, t, group=None):
    return Batch(y, y if group is None else group, torch.arange(len(y)), torch.zeros(len(y)), t)


def bound(method, margins=None, train=TRAIN, **fields):
    """The loss of a method over TRAIN, with a teacher if it has one."""
    teacher = {"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}
    return method_loss(Config(method=method, **teacher, **fields), margins, train)


# ---------------------------------------------------------------- the paper's


@pytest.mark.parametrize("T", [1.0, 2.0, 4.0])
def test_distill_is_the_definition_summed_by_hand(logits, T):
    f, t, _ = logits
    assert_each(distill(f, t, T), lambda i: T**2 * kl(softmax(t[i], T), softmax(f[i], T)))

    def softened_teacher_alone(i):
        pairs = zip(softmax(t[i], T), softmax(f[i]), strict=True)
        return -sum(p * math.log(q) for p, q in pairs)

    assert_each(distill(f, t, T, "teacher"), softened_teacher_alone)


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
    group, weight = torch.tensor([0, 1, 0, 1, 2, 2]), torch.tensor([0.2, 0.7, 1.0]).double()
    alpha = [0.2, 0.7, 0.2, 0.7, 1.0, 1.0]
    rows = [kd(f[i, None], t[i, None], y[i, None], alpha[i], 2.0) for i in range(N)]
    assert torch.allclose(ada_alpha(f, t, y, group, weight, 2.0), torch.cat(rows))
    for limit, expected in ((1.0, distill(f, t, 2.0)), (0.0, one_hot(f, y))):
        same = torch.full((3,), limit).double()
        assert torch.allclose(ada_alpha(f, t, y, group, same, 2.0), expected)


@pytest.mark.parametrize("T, soften", [(1.0, "both"), (2.0, "both"), (3.0, "teacher")])
def test_ada_margin_is_the_sum_of_margin_losses(logits, T, soften):
    f, t, _ = logits
    rho = torch.rand(N, C, generator=torch.Generator().manual_seed(1)).double() * 2 - 0.2
    of_student = T if soften == "both" else 1.0

    def by_hand(i):
        p, s = softmax(t[i], T), (f[i] / of_student).tolist()
        total = 0.0
        for k in range(C):
            others = [math.exp(rho[i, k] - (s[k] - s[j])) for j in range(C) if j != k]
            total += p[k] * math.log(1 + sum(others))
        entropy = -sum(v * math.log(v) for v in p)
        return T**2 * (total - entropy) if soften == "both" else total  # no T^2

    assert_each(ada_margin(f, t, rho, T, soften), by_hand)
    none = torch.zeros(N, C).double()
    assert torch.allclose(ada_margin(f, t, none, T, soften), distill(f, t, T, soften))


@pytest.mark.parametrize("reading, c", [("C", BY_CLASS), ("C-inverse", 1 / BY_CLASS)])
def test_reading_c_is_a_margin_for_each_pair_of_classes(logits, reading, c):
    f, t, y = logits

    def by_hand(i):
        p = softmax(t[i])
        total = sum(v * math.log(v) for v in p)
        for k in range(C):
            pairs = [math.exp(math.log(c[k] / c[j]) - (f[i, k] - f[i, j])) for j in range(C)]
            total += p[k] * math.log(sum(pairs))
        return total

    assert_each(bound("ada_margin", BY_CLASS, margin_reading=reading)(f, batch_of(y, t)), by_hand)


@pytest.mark.parametrize("kind", ["avg", "max", "hit"])
def test_margins_by_hand(logits, kind):
    p = logits[1].softmax(dim=1)
    for i, row in enumerate(p.tolist()):
        for k, mine in enumerate(row):
            rest = row[:k] + row[k + 1 :]
            by_hand = {"avg": mine - sum(rest) / len(rest), "max": mine - max(rest)}
            by_hand["hit"] = float(mine == max(row))
            assert margin(p, kind)[i, k].item() == pytest.approx(by_hand[kind])
    assert torch.allclose(
        label_margin(torch.eye(C) * 1e4, torch.arange(C), 1.0, kind), torch.ones(C)
    )


def test_the_mean_hit_margin_of_a_class_is_its_recall():
    g = torch.Generator().manual_seed(4)
    t, y = torch.randn(300, C, generator=g), torch.randint(C, (300,), generator=g)
    hit = label_margin(t, y, 3.0, "hit")
    recall = recall_score(y, t.argmax(dim=1), average=None)
    assert [hit[y == c].mean().item() for c in range(C)] == pytest.approx(recall.tolist())


# ---------------------------------------------------------------- bound to a Config


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
            value = loss(leaf, batch_of(y, t))
            value.sum().backward()
        assert value.shape == (C,) and value.isfinite().all() and leaf.grad.isfinite().all()


IMAGES = {"margin_level": "example", "margin_source": "train"}  # margins from the batch


def test_every_knob_of_a_config_reaches_its_loss(logits):
    f, t, y = logits
    group, index = y.flip(0), torch.arange(N).flip(0)
    batch = Batch(y, group, index, torch.zeros(N), t)
    by_index = torch.linspace(0.1, 0.9, N, dtype=torch.float64)
    T2 = {"temperature": 2.0}

    def same(expected, *of, **fields):
        assert torch.allclose(bound(*of, **fields)(f, batch), expected, rtol=1e-6)

    same(kd(f, t, y, 0.3, 2.0), "kd", alpha=0.3, **T2)
    same(kd(f, t, y, 0.3, 2.0, "teacher"), "kd", alpha=0.3, soften="teacher", **T2)
    same(kd(f, t, y, BY_CLASS[group], 2.0), "ada_alpha", BY_CLASS, **T2)
    same(kd(f, t, y, BY_CLASS[y], 2.0), "ada_alpha", BY_CLASS, margin_level="class", **T2)
    crossfit = {"margin_source": "crossfit", "margin_level": "example"}
    same(kd(f, t, y, by_index[index], 2.0), "ada_alpha", by_index, **crossfit, **T2)
    how = {"margin_kind": "max", "margin_temperature": 4.0}
    alpha = margin((t / 4).softmax(1), "max").gather(1, y[:, None])[:, 0].clamp(0, 1)
    assert 0 == alpha.min() < alpha.max()
    same(kd(f, t, y, alpha, 2.0), "ada_alpha", **IMAGES, **how, **T2)
    rho = 2.5 * margin((t / 4).softmax(1), "max")
    same(ada_margin(f, t, rho, 2.0), "ada_margin", margin_scale=2.5, **how, **T2)
    reading_a = {"margin_reading": "A", "margin_scale": 2.5}
    same(
        ada_margin(f, t, 2.5 * BY_CLASS.expand(N, C), 2.0),
        "ada_margin",
        BY_CLASS,
        **reading_a,
        **T2,
    )
    shifted = f + 2.5 * BY_CLASS.log()
    inverse = {"margin_reading": "C-inverse", "margin_scale": 2.5}
    same(distill(shifted, t, 2.0), "ada_margin", BY_CLASS, **inverse, **T2)
    with pytest.raises(KdlibError, match="needs the teacher's margins"):
        bound("ada_alpha")


def test_0_1_ada_alpha_takes_the_teacher_where_it_is_right_and_the_label_elsewhere(logits):
    f, t, y = logits
    loss = bound("ada_alpha", margin_kind="hit", temperature=2.0, **IMAGES)(f, batch_of(y, t))
    right = t.argmax(dim=1) == y
    assert 0 < right.sum() < N
    assert torch.allclose(loss, torch.where(right, distill(f, t, 2.0), one_hot(f, y)))


# ---------------------------------------------------------------- rivals


def test_label_smoothing_is_cross_entropy_with_the_smoothed_label(logits):
    f, _, y = logits

    def by_hand(i):
        target = [0.3 / C + (0.7 if k == y[i] else 0) for k in range(C)]
        return -sum(w * math.log(q) for w, q in zip(target, softmax(f[i]), strict=True))

    assert_each(bound("label_smoothing", smoothing=0.3)(f, batch_of(y, None)), by_hand)
    none = bound("label_smoothing", smoothing=0.0)(f, batch_of(y, None))
    assert torch.equal(none, one_hot(f, y))


def test_logit_adjustment_weighs_each_class_by_its_share_of_the_training_images(logits):
    f, _, y = logits

    def by_hand(i):
        pairs = zip(COUNTS, f[i].tolist(), strict=True)
        weight = [(n / sum(COUNTS)) ** 1.5 * math.exp(v) for n, v in pairs]
        return -math.log(weight[y[i]] / sum(weight))

    assert_each(bound("logit_adjusted", tau=1.5)(f, batch_of(y, None)), by_hand, 1e-6)
    assert torch.allclose(bound("logit_adjusted", tau=0.0)(f, batch_of(y, None)), one_hot(f, y))


def test_post_hoc_tau_is_the_best_of_all_by_balanced_accuracy_and_the_smallest_of_equals():
    prior, chosen = np.array(COUNTS) / sum(COUNTS), set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        # classes weigh alike all the same
        y = np.concatenate([np.arange(C), rng.choice(C, 200, p=[0.6, 0.2, 0.1, 0.05, 0.05])])
        f = rng.normal(size=(len(y), C)) + 1.5 * np.eye(C)[y] + rng.uniform(-0.5, 3) * np.log(prior)
        adjusted = [(f - k / 4 * np.log(prior)).argmax(axis=1) for k in range(9)]
        score = [balanced_accuracy_score(y, predicted) for predicted in adjusted]
        best = min(k for k in range(9) if score[k] > max(score) - 1e-9) / 4
        assert rivals.post_hoc_tau(torch.tensor(f), torch.tensor(y), torch.tensor(prior)) == best
        chosen.add(best)
    assert len(chosen) > 3
    sure = 1e3 * F.one_hot(torch.arange(C)).double()  # every tau is right everywhere
    few = torch.tensor([0, 0, 1, 1])  # classes without an example count nothing
    for y in (torch.arange(C), few):
        assert rivals.post_hoc_tau(sure[y], y, torch.tensor(prior)) == 0


def test_between_equals_post_hoc_tau_is_not_decided_by_rounding():
    """One class gains what another loses: 3/9 + 8/9 is 5/9 + 6/9, though as floats the second sum
    is larger."""
    prior = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)  # tau = 0.25 lowers class 1 most
    right = {0.0: (3, 8, 0), 0.25: (5, 6, 0)}  # of nine examples a class
    threshold, rows = math.log(2) / 8, []
    lead = {
        (True, True): 9,
        (False, False): -9,
        (False, True): -threshold,
        (True, False): threshold,
    }
    for label, (before, after) in enumerate(zip(*right.values(), strict=True)):
        for i in range(9):
            row = [-99.0] * 3
            row[label] = lead[i < before, i < after]
            row[1 if label != 1 else 0] = 0.0
            rows.append(row)
    f, y = torch.tensor(rows, dtype=torch.float64), torch.arange(3).repeat_interleave(9)
    for tau, counts in right.items():
        hit = (f - tau * prior.log()).argmax(dim=1) == y
        assert torch.bincount(y[hit], minlength=3).tolist() == list(counts)
    assert rivals.post_hoc_tau(f, y, prior) == 0


@pytest.mark.parametrize("balance", [0.9, 0.9999])
def test_weights_by_the_effective_number_are_the_formula(balance):
    counts = torch.tensor(COUNTS)
    expected = normalised([(1 - balance) / (1 - balance**n) for n in COUNTS])
    got = rivals.effective_weights(counts, balance)
    assert (got / C).tolist() == pytest.approx(expected, rel=1e-6)
    assert rivals.effective_weights(counts, 0.0).tolist() == [1] * C
    inverse = normalised([1 / n for n in COUNTS])  # the limit towards balance 1
    nearly = rivals.effective_weights(counts, 0.999999) / C
    assert nearly.tolist() == pytest.approx(inverse, rel=1e-4)


def test_balanced_kd_reweighs_the_teacher(logits):
    f, t, y = logits
    weight = [0.1 / (1 - 0.9**n) for n in COUNTS]

    def by_hand(i):
        p = normalised([w * v for w, v in zip(weight, softmax(t[i], 2), strict=True)])
        return cross_entropy(f[i], y[i]) + 4 * kl(p, softmax(f[i], 2))

    loss = bound("balanced_kd", balance=0.9, temperature=2.0)(f, batch_of(y, t))
    assert_each(loss, by_hand, 1e-6)
    even = rivals.balanced_kd(f, t, y, torch.full((C,), 0.3), 2.0)
    assert torch.allclose(even, one_hot(f, y) + distill(f, t, 2.0), rtol=1e-6)


def test_decoupled_kd_is_label_against_the_rest_and_the_rest_among_themselves(logits):
    f, t, y = logits

    def by_hand(i):
        p, q = softmax(t[i], 2), softmax(f[i], 2)
        binary = kl([p[y[i]], 1 - p[y[i]]], [q[y[i]], 1 - q[y[i]]])
        others = kl(*(normalised([v[k] for k in range(C) if k != y[i]]) for v in (p, q)))
        return cross_entropy(f[i], y[i]) + 4 * (binary + 3 * others)

    assert_each(bound("decoupled_kd", beta=3.0, temperature=2.0)(f, batch_of(y, t)), by_hand, 1e-8)


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
    p, q = ([softmax(row, 2) for row in v] for v in (t, f))
    p_part, q_part = ([[sum(row[k] for k in m) for m in PARTS] for row in v] for v in (p, q))
    mean = np.mean(p_part, axis=0)  # over the batch

    def by_hand(i):
        across = kl(normalised(p_part[i] / mean), q_part[i])
        within = [kl(*(normalised([v[i][k] for k in part]) for v in (p, q))) for part in PARTS]
        return cross_entropy(f[i], y[i]) + 4 * (across + sum(within) / 3)

    assert_each(bound("long_tailed_kd", temperature=2.0)(f, batch_of(y, t)), by_hand, 1e-8)


def test_parts_of_long_tailed_kd_are_thirds_by_frequency_whatever_the_order_of_the_classes(logits):
    f, t, y = logits
    order = torch.tensor([3, 0, 4, 1, 2])  # new name of each class
    back = order.argsort()
    renamed = bound("long_tailed_kd", train=SimpleNamespace(y=order[TRAIN.y]))
    mine = renamed(f[:, back], batch_of(order[y], t[:, back]))
    assert torch.allclose(mine, bound("long_tailed_kd")(f, batch_of(y, t)))


@pytest.mark.parametrize("method", ["balanced_kd", "decoupled_kd", "long_tailed_kd"])
def test_logits_far_apart_lose_no_class(method):
    """Where float32 probabilities are 0, against the same in float64 from logarithms that are
    exact."""
    y = torch.tensor([0, 1])
    f = torch.tensor([[0.0, -300, -600, -150, -450], [-450, -150, 0, -600, -300]])
    t = f.flip(1) * 0.9
    exact = bound(method)(f.double(), batch_of(y, t.double()))
    assert bound(method)(f, batch_of(y, t)).tolist() == pytest.approx(exact.tolist(), rel=1e-5)


def test_the_others_of_decoupled_kd_do_not_hear_of_the_label_at_extreme_logits():
    """All others at -1e4: what is left among them is what it would be without the label."""
    rest = torch.tensor([[0.3, -0.2, 1.1, 0.0]], dtype=torch.float64)
    f, t = (F.pad(others, (1, 0), value=1e4) for others in (rest, rest.flip(1)))
    by_hand = kl(softmax(rest.flip(1)[0]), softmax(rest[0]))
    loss = rivals.decoupled_kd(f, t, torch.tensor([0]), 1.0)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


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
        f = 2 * torch.randn(size, C, dtype=torch.float64, generator=g)
        yield f, torch.randint(C, (size,), generator=g), group


def stepped(weight, f, y, group, step_size):
    """(weights after one step, mean cross-entropy of each group or 0) in plain floats."""
    mean = []
    for g in range(len(weight)):
        mine = [cross_entropy(f[i], y[i]) for i in range(len(y)) if group[i] == g]
        mean.append(sum(mine) / len(mine) if mine else 0.0)
    raised = [w * math.exp(step_size * m) for w, m in zip(weight, mean, strict=True)]
    return normalised(raised), mean


def test_group_dro_follows_the_algorithm_step_by_step():
    loss, weight = bound("group_dro", step_size=0.2), [1 / C] * C
    for f, y, group in steps_of(4):
        weight, mean = stepped(weight, f, y, group, 0.2)
        values = loss(f.requires_grad_(), batch_of(y, None, group))
        total = sum(w * m for w, m in zip(weight, mean, strict=True))
        assert values.mean().item() == pytest.approx(total, rel=1e-5)
        assert loss.state.exp().tolist() == pytest.approx(weight, rel=1e-5)
        share = torch.tensor(weight)[group] / torch.bincount(group, minlength=C)[group]
        by_hand = share * len(y) * F.cross_entropy(f, y, reduction="none")
        assert values.tolist() == pytest.approx(by_hand.tolist(), rel=1e-5)
        (gradient,) = torch.autograd.grad(values.mean(), f)  # the weights are numbers to it
        expected = share[:, None] * (f.softmax(1) - F.one_hot(y, C))
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert max(weight) - min(weight) > 0.05


def test_group_dro_without_a_step_is_the_mean_over_groups(logits):
    f, _, y = logits
    loss = bound("group_dro", step_size=0.0)
    expected = sum(one_hot(f, y)[y == c].mean().item() for c in range(C)) / C
    for _ in range(3):
        assert loss(f, batch_of(y, None)).mean().item() == pytest.approx(expected, rel=1e-6)


def test_robust_kd_moves_the_logits_by_the_weights_of_the_classes():
    loss, weight = bound("robust_kd", step_size=0.2, temperature=2.0), [1 / C] * C
    t, prior = torch.linspace(-2, 2, C).double(), normalised(COUNTS)
    for f, y, group in steps_of(4):
        weight, _ = stepped(weight, f, y, y, 0.2)  # by class: the groups do not matter
        shift = torch.tensor([math.log(w / p) for w, p in zip(weight, prior, strict=True)])
        values = loss(f, batch_of(y, t.expand(len(y), C), group))
        p, q = softmax(t, 2), [softmax(row - shift, 2) for row in f]
        assert values.tolist() == pytest.approx([4 * kl(p, row) for row in q], rel=1e-5)


def test_weights_of_groups_survive_losses_beyond_the_range_of_exp():
    loss, f = bound("group_dro", step_size=10.0), torch.zeros(C, C)
    f[2, 0] = 1e4  # exp(1e5) has no float
    values = loss(f, batch_of(torch.arange(C), None))
    assert values.isfinite().all() and loss.state.exp().tolist() == pytest.approx([0, 0, 1, 0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_with_a_state_starts_a_new_one_for_each_run(method):
    a, b = (bound(method, torch.full((C,), 0.5)) for _ in range(2))
    assert hasattr(a, "state") == (method in ("group_dro", "robust_kd"))
    if hasattr(a, "state"):
        assert a.state is not b.state and a.state.exp().tolist() == pytest.approx([1 / C] * C)
