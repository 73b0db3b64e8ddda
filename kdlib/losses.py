"""Losses: functions of plain tensors that return one number per example, (N,); METHODS binds them to a Config.

Symbols: logits f, teacher_logits t, both (N, C); q = softmax(f); p = softmax(t / T); y (N,) int64.
alpha is the weight of the teacher term, in [0, 1]; the T^2 factor lives inside the teacher term; sums run over classes."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.config import KdlibError

FLOOR = 0.01   # smallest class margin under the logarithm of reading C


class Batch(NamedTuple):
    """What a loss may look at besides the logits."""

    y: Tensor                        # (N,) int64, class
    group: Tensor                    # (N,) int64, subgroup
    index: Tensor                    # (N,) int64, position in the training split
    view: Tensor                     # (N,) int64, which crop and flip
    teacher_logits: Tensor | None    # (N, C) of the same views


# ---------------------------------------------------------------- the losses

def one_hot(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with the label; (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def distill(logits: Tensor, teacher_logits: Tensor, temperature: float, soften: str = "both") -> Tensor:
    """The teacher term; (N,).

    soften="both": T^2 * KL(p || softmax(f / T)) (Hinton et al. 2015, sec. 2).
    soften="teacher": cross-entropy of p and softmax(f), no T^2 (Wang et al. 2023)."""
    log_p = F.log_softmax(teacher_logits / temperature, dim=1)
    if soften == "teacher":
        return -(log_p.exp() * F.log_softmax(logits, dim=1)).sum(dim=1)
    log_q = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1)


def kd(logits, teacher_logits, y, alpha: float | Tensor = 1.0, temperature: float = 1.0, soften: str = "both") -> Tensor:
    """(1 - alpha) * one_hot + alpha * distill; alpha one number, or one per example (N,)."""
    return (1 - alpha) * one_hot(logits, y) + alpha * distill(logits, teacher_logits, temperature, soften)


def ada_alpha(logits, teacher_logits, y, group, margin: Tensor, temperature: float = 1.0, soften: str = "both") -> Tensor:
    """kd with alpha = margin[group]: less teacher where it is less reliable; margin (G,) in [0, 1]. (Reconstructed.)

    Every margin 1 is plain kd with alpha 1; every margin 0 is one_hot."""
    return kd(logits, teacher_logits, y, margin[group], temperature, soften)


def ada_margin(logits, teacher_logits, rho: Tensor, temperature: float = 1.0, soften: str = "both") -> Tensor:
    """distill with a margin rho that the student's logits must keep; rho (N, C), or (C,) one per class. (Reconstructed.)

    sum_k p_k log(1 + sum_{j != k} exp(rho_k - (f_k - f_j))) = sum_k p_k [-log q_k + log(q_k + e^rho_k (1 - q_k))]:
    the second form is exact, stable, and needs no (C, C) tensor. rho = 0 is exactly distill."""
    scale, student_t = (temperature, temperature) if soften == "both" else (1.0, 1.0)
    log_q = F.log_softmax(logits / student_t, dim=1)
    p = F.softmax(teacher_logits / temperature, dim=1)
    not_q = -torch.expm1(log_q)                                                   # 1 - q, exact near q = 1
    penalty = torch.log1p(torch.expm1(rho) * not_q)                               # log(q + e^rho (1 - q))
    return distill(logits, teacher_logits, temperature, soften) + scale**2 * (p * penalty).sum(dim=1)


# ---------------------------------------------------------------- the margin

def margin(p: Tensor, kind: str = "avg") -> Tensor:
    """gamma of every class as if it were the label: (N, C) probabilities -> (N, C).

    "avg": p_y - mean of the other probabilities = (C p_y - 1) / (C - 1) (Wang et al. 2023).
    "max": p_y - the largest other probability. "hit": 1 for the largest probability, else 0."""
    classes = p.shape[1]
    if kind == "hit":
        return (p == p.amax(dim=1, keepdim=True)).to(p.dtype)
    if kind == "avg":
        return (classes * p - 1) / (classes - 1)
    top = p.topk(2, dim=1)
    is_top = top.indices[:, :1] == torch.arange(classes, device=p.device)
    return p - torch.where(is_top, top.values[:, 1:2], top.values[:, 0:1])


def label_margin(teacher_logits: Tensor, y: Tensor, temperature: float = 1.0, kind: str = "avg") -> Tensor:
    """gamma(y, p) of each example, (N,); p softened by the margin's own temperature."""
    p = F.softmax(teacher_logits.float() / temperature, dim=1)
    return margin(p, kind).gather(1, y[:, None]).squeeze(1)


# ---------------------------------------------------------------- rivals

def label_smoothing(logits, y, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with (1 - smoothing) on the label and the rest spread evenly (Szegedy et al. 2016); (N,)."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def logit_adjusted(logits, y, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of f + tau log prior (Menon et al. 2021, eq. 10); prior (C,) of the training labels; (N,)."""
    return one_hot(logits + tau * prior.log(), y)


def post_hoc_tau(logits, y, prior: Tensor) -> float:
    """The tau in {0, 0.25, ..., 2} whose f - tau log prior has the best mean accuracy over classes; the smallest of equals.

    Post-hoc logit adjustment (Menon et al. 2021, eq. 9). logits (N, C), y (N,) of held-out examples."""
    n = torch.bincount(y, minlength=len(prior))

    def accuracy(tau):
        right = (logits - tau * prior.log()).argmax(dim=1) == y
        share = (torch.bincount(y[right], minlength=len(prior)).double() / n)[n > 0]
        return round(share.mean().item(), 9)   # else rounding decides between equals

    return max((k / 4 for k in range(9)), key=accuracy)


def balanced_kd(logits, teacher_logits, y, weight: Tensor, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 KL(p' || q), p' = weight * p over its sum; weight (C,), see effective_weights; (N,).

    Class-balanced distillation (Zhang et al. 2021, arXiv 2104.10510; the form of their published code)."""
    log_p = F.log_softmax(teacher_logits / temperature + weight.log(), dim=1)
    return one_hot(logits, y) + temperature**2 * _kl(log_p, F.log_softmax(logits / temperature, dim=1))


def effective_weights(counts: Tensor, balance: float = 0.9999) -> Tensor:
    """(1 - balance) / (1 - balance^n) of each class, scaled to mean 1 (Cui et al. 2019); counts (C,)."""
    weight = (1 - balance) / -torch.expm1(counts.double() * math.log(balance)) if balance else torch.ones_like(counts).double()
    return (weight / weight.mean()).float()


def decoupled_kd(logits, teacher_logits, y, beta: float = 2.0, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 [KL of (label, the rest) + beta KL over the other classes alone] (Zhao et al. 2022, eq. 7); (N,).

    Without the warm-up of the teacher term in their code. beta = 2 is theirs for ResNet-56 -> ResNet-20."""
    label = y[:, None] == torch.arange(logits.shape[1], device=logits.device)
    log_p, log_q = (F.log_softmax(f / temperature, dim=1) for f in (teacher_logits, logits))
    rest = [v.masked_fill(label, -math.inf) for v in (log_p, log_q)]
    binary = [torch.stack([v.gather(1, y[:, None]).squeeze(1), r.logsumexp(dim=1)], dim=1)
              for v, r in zip((log_p, log_q), rest, strict=True)]
    others = [F.log_softmax(r, dim=1).masked_fill(label, 0) for r in rest]   # 0 for both counts nothing, where -inf - -inf would
    return one_hot(logits, y) + temperature**2 * (_kl(*binary) + beta * _kl(*others))


def long_tailed_kd(logits, teacher_logits, y, part: Tensor, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 [KL over parts of the classes, the teacher rebalanced + mean over parts of KL within the part]; (N,).

    part (P, C) one-hot membership of the classes, here thirds by frequency. KL(p || q) is KL over parts plus the KL within each,
    weighted by the teacher's probability of it. Rebalanced: each part's probability over its mean in the batch, renormalised;
    and the parts weigh alike. (Kim 2025, arXiv 2506.18496; reconstructed from its abstract: its weights are not known here.)"""
    log_p, log_q = (F.log_softmax(f / temperature, dim=1) for f in (teacher_logits, logits))
    log_p_part, log_q_part = (v[:, None].masked_fill(part == 0, -math.inf).logsumexp(dim=2) for v in (log_p, log_q))   # (N, P)
    balanced = F.log_softmax(log_p_part - log_p_part.logsumexp(dim=0), dim=1)   # the batch's size cancels
    within = [_kl((log_p - a[:, None]).where(m > 0, 0), (log_q - b[:, None]).where(m > 0, 0))   # 0 for both counts nothing
              for m, a, b in zip(part, log_p_part.T, log_q_part.T, strict=True)]
    return one_hot(logits, y) + temperature**2 * (_kl(balanced, log_q_part) + torch.stack(within).mean(dim=0))


def _kl(log_p, log_q):
    """KL(p || q) over the last axis, of finite logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def by_group_mean(values, group, groups: int):
    """(mean of values (N,) in each group, 0 where there is none; n of each): both (groups,). On the device throughout."""
    member = group[:, None] == torch.arange(groups, device=group.device)
    n = member.sum(dim=0)
    return (member * values[:, None]).sum(dim=0) / n.clamp(min=1), n


class GroupDro:
    """loss(logits, batch) -> (N,) whose mean is sum_g weight_g * (mean cross-entropy of group g in the batch).

    Each step multiplies weight_g by exp(step_size * that mean) and renormalises (Sagawa et al. 2020, algorithm 1). `state` is
    log weight: one object serves one run. Unlike theirs, without extra weight decay or resampling, as every rival here."""

    def __init__(self, groups, step_size, device):
        self.step_size, self.state = step_size, torch.full((groups,), -math.log(groups), device=device)

    def weigh(self, mean):
        with torch.no_grad():
            self.state.copy_(F.log_softmax(self.state + self.step_size * mean, dim=0))

    def __call__(self, logits, batch):
        values = one_hot(logits, batch.y)
        mean, n = by_group_mean(values.detach(), batch.group, len(self.state))
        self.weigh(mean)
        return values * (self.state.exp() / n.clamp(min=1))[batch.group] * len(values)


class RobustKd(GroupDro):
    """distill with logits f - log(weight / prior): classes of large weight must win by more (after Wang et al. 2023).

    The weights follow the mean cross-entropy of each class as in GroupDro. (Reconstructed: theirs change on held-out data.)"""

    def __init__(self, prior, cfg):
        super().__init__(len(prior), cfg.step_size, prior.device)
        self.prior, self.cfg = prior, cfg

    def __call__(self, logits, batch):
        mean, _ = by_group_mean(one_hot(logits.detach(), batch.y), batch.y, len(self.state))
        self.weigh(mean)
        return distill(logits - self.state + self.prior.log(), batch.teacher_logits, self.cfg.temperature)


# ---------------------------------------------------------------- methods: (Config, margins, train) -> loss(logits, batch)

def _one_hot(cfg, margins, train):
    return lambda logits, batch: one_hot(logits, batch.y)


def _kd(cfg, margins, train):
    return lambda logits, batch: kd(logits, batch.teacher_logits, batch.y, cfg.alpha, cfg.temperature, cfg.soften)


def _ada_alpha(cfg, margins, train):
    def by_group(logits, batch):
        return ada_alpha(logits, batch.teacher_logits, batch.y, batch.group, margins, cfg.temperature, cfg.soften)

    def by_example(logits, batch):
        if cfg.margin_source == "crossfit":
            alpha = margins[batch.index]
        else:
            alpha = label_margin(batch.teacher_logits, batch.y, cfg.margin_temperature, cfg.margin_kind).clamp(0, 1)
        return kd(logits, batch.teacher_logits, batch.y, alpha, cfg.temperature, cfg.soften)

    return by_example if cfg.margin_level == "example" else by_group


def _ada_margin(cfg, margins, train):
    """Readings of "uses that quantity as a margin": B per example and class; A per class; C pairwise log(c_k / c_j)."""
    def reading_b(logits, batch):
        p = F.softmax(batch.teacher_logits / cfg.margin_temperature, dim=1)
        rho = cfg.margin_scale * margin(p, cfg.margin_kind)
        return ada_margin(logits, batch.teacher_logits, rho, cfg.temperature, cfg.soften)

    def reading_a(logits, batch):
        return ada_margin(logits, batch.teacher_logits, cfg.margin_scale * margins, cfg.temperature, cfg.soften)

    def reading_c(logits, batch):
        # log sum_j exp(rho_kj - (f_k - f_j)) with rho_kj = log(c_k / c_j) is cross-entropy of the shifted logits f - log c
        log_c = margins.clamp(min=FLOOR).log() * (-1 if cfg.margin_reading == "C-inverse" else 1)
        return distill(logits - cfg.margin_scale * log_c, batch.teacher_logits, cfg.temperature, cfg.soften)

    return {"B": reading_b, "A": reading_a}.get(cfg.margin_reading, reading_c)


def prior_of(train):
    """Share of each class in a training split, (C,) float32."""
    return (torch.bincount(train.y) / len(train.y)).float()


def _label_smoothing(cfg, margins, train):
    return lambda logits, batch: label_smoothing(logits, batch.y, cfg.smoothing)


def _logit_adjusted(cfg, margins, train):
    prior = prior_of(train)
    return lambda logits, batch: logit_adjusted(logits, batch.y, prior, cfg.tau)


def _group_dro(cfg, margins, train):
    return GroupDro(int(train.group.max()) + 1, cfg.step_size, train.y.device)


def _balanced_kd(cfg, margins, train):
    weight = effective_weights(torch.bincount(train.y), cfg.balance)
    return lambda logits, batch: balanced_kd(logits, batch.teacher_logits, batch.y, weight, cfg.temperature)


def _decoupled_kd(cfg, margins, train):
    return lambda logits, batch: decoupled_kd(logits, batch.teacher_logits, batch.y, cfg.beta, cfg.temperature)


def _long_tailed_kd(cfg, margins, train):
    counts = torch.bincount(train.y)
    rank = counts.argsort(descending=True, stable=True).argsort()
    part = (rank * 3 // len(counts) == torch.arange(3, device=rank.device)[:, None]).float()
    return lambda logits, batch: long_tailed_kd(logits, batch.teacher_logits, batch.y, part, cfg.temperature)


def _robust_kd(cfg, margins, train):
    return RobustKd(prior_of(train), cfg)


METHODS = {
    "one_hot": _one_hot, "kd": _kd, "ada_alpha": _ada_alpha, "ada_margin": _ada_margin,
    "label_smoothing": _label_smoothing, "logit_adjusted": _logit_adjusted, "post_hoc": _one_hot, "group_dro": _group_dro,
    "balanced_kd": _balanced_kd, "decoupled_kd": _decoupled_kd, "long_tailed_kd": _long_tailed_kd, "robust_kd": _robust_kd,
}


def needs_margins(cfg):
    """Whether the loss reads margins measured beforehand (per group, or per training example by crossfit)."""
    return (cfg.method == "ada_alpha" and not (cfg.margin_level == "example" and cfg.margin_source == "train")
            or cfg.method == "ada_margin" and cfg.margin_reading != "B")


def method_loss(cfg, margins=None, train=None):
    """loss(logits, batch) -> (N,) of a Config. margins: (G,), or (N_train,) for crossfit per example; None if unused.

    train: the training Split, for methods that count its classes or groups. A loss with `state` serves one run."""
    if needs_margins(cfg) and margins is None:
        raise KdlibError(f"Config {cfg.key()}: method {cfg.method!r} needs the teacher's margins.")
    return METHODS[cfg.method](cfg, margins, train)
