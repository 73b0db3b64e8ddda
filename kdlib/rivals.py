"""Other people's losses, to compare with: one number per example, (N,). Symbols as in losses.py."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.arguments import checked
from kdlib.losses import distill, kl, one_hot, one_hot_of


def prior_of(train):
    """Share of each class in a training split, (C,) float32."""
    return (torch.bincount(train.y) / len(train.y)).float()


def label_smoothing_of(cfg, margins, train):
    """Cross-entropy of 1 - smoothing on the label, the rest on all alike (Szegedy et al. 2016)."""
    how = {"reduction": "none", "label_smoothing": cfg.smoothing}
    return lambda logits, batch: F.cross_entropy(logits, batch.y, **how)


@checked
def logit_adjusted(logits, y, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of f + tau log prior (Menon et al. 2021, eq. 10).
    prior (C,): share of each class among the training labels."""
    return one_hot(logits + tau * prior.log(), y)


def logit_adjusted_of(cfg, margins, train):
    prior = prior_of(train)
    return lambda logits, batch: logit_adjusted(logits, batch.y, prior, cfg.tau)


post_hoc_of = one_hot_of  # adjusted after training


@checked
def post_hoc_tau(logits, y, prior: Tensor) -> float:
    """The tau whose f - tau log prior has the best mean accuracy over classes: of 0, 0.25, ..., 2,
    the smallest of equals. Post-hoc adjustment (Menon et al. 2021, eq. 9); logits (N, C), y (N,) of
    held-out examples."""
    n = torch.bincount(y, minlength=len(prior))

    def accuracy(tau):
        right = (logits - tau * prior.log()).argmax(dim=1) == y
        share = (torch.bincount(y[right], minlength=len(prior)).double() / n)[n > 0]
        return round(share.mean().item(), 9)  # else rounding decides between equals

    return max((k / 4 for k in range(9)), key=accuracy)


@checked
def balanced_kd(logits, teacher_logits, y, weight: Tensor, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 KL(p' || q), p' = weight * p over its sum; weight (C,), see effective_weights.
    Class-balanced distillation (Zhang et al. 2021, arXiv 2104.10510), as in their code."""
    log_p = F.log_softmax(teacher_logits / temperature + weight.log(), dim=1)
    log_q = F.log_softmax(logits / temperature, dim=1)
    return one_hot(logits, y) + temperature**2 * kl(log_p, log_q)


def balanced_kd_of(cfg, margins, train):
    how = (effective_weights(torch.bincount(train.y), cfg.balance), cfg.temperature)
    return lambda logits, batch: balanced_kd(logits, batch.teacher_logits, batch.y, *how)


@checked
def effective_weights(counts: Tensor, balance: float = 0.9999) -> Tensor:
    """(1 - balance) / (1 - balance^n) of each class, scaled to mean 1 (Cui et al. 2019).
    counts (C,): n of each class; balance 0 weighs all alike."""
    if balance == 0:
        return torch.ones_like(counts).float()
    weight = (1 - balance) / -torch.expm1(counts.double() * math.log(balance))
    return (weight / weight.mean()).float()


@checked
def decoupled_kd(logits, teacher_logits, y, beta: float = 2.0, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 [KL of (label, the rest) + beta KL over the other classes alone].

    Zhao et al. 2022, eq. 7, without the warm-up of the teacher term in their code. beta = 2 is
    theirs for ResNet-56 -> ResNet-20."""
    label = y[:, None] == torch.arange(logits.shape[1], device=logits.device)
    binary, others = [], []
    for f in (teacher_logits, logits):
        log_p = F.log_softmax(f / temperature, dim=1)
        rest = log_p.masked_fill(label, -math.inf)
        of_label = log_p.gather(1, y[:, None]).squeeze(1)
        binary.append(torch.stack([of_label, rest.logsumexp(dim=1)], dim=1))
        # 0 in both counts nothing, where -inf - -inf would
        others.append(F.log_softmax(rest, dim=1).masked_fill(label, 0))
    return one_hot(logits, y) + temperature**2 * (kl(*binary) + beta * kl(*others))


def decoupled_kd_of(cfg, margins, train):
    how = (cfg.beta, cfg.temperature)
    return lambda logits, batch: decoupled_kd(logits, batch.teacher_logits, batch.y, *how)


@checked
def long_tailed_kd(logits, teacher_logits, y, part: Tensor, temperature: float = 1.0) -> Tensor:
    """one_hot + T^2 [KL over parts of the classes, rebalanced + mean of the KL within each part].

    part (P, C): membership of the classes, 0 or 1; here thirds by frequency. KL(p || q) is the KL
    over parts plus the KL within each, weighted by the teacher's probability of the part.
    Rebalanced: each part's probability over its mean in the batch, renormalised; and all parts
    weigh alike. (Kim 2025, arXiv 2506.18496, reconstructed from its abstract: its weights are not
    known here.)"""
    log_p = F.log_softmax(teacher_logits / temperature, dim=1)
    log_q = F.log_softmax(logits / temperature, dim=1)
    log_p_part = log_p[:, None].masked_fill(part == 0, -math.inf).logsumexp(dim=2)  # (N, P)
    log_q_part = log_q[:, None].masked_fill(part == 0, -math.inf).logsumexp(dim=2)
    # the size of the batch cancels
    balanced = F.log_softmax(log_p_part - log_p_part.logsumexp(dim=0), dim=1)
    within = []
    for k, member in enumerate(part > 0):
        inside = log_p - log_p_part[:, k, None], log_q - log_q_part[:, k, None]
        within.append(kl(*(v.where(member, 0) for v in inside)))  # 0 in both counts nothing
    across = kl(balanced, log_q_part)
    return one_hot(logits, y) + temperature**2 * (across + torch.stack(within).mean(dim=0))


def long_tailed_kd_of(cfg, margins, train):
    counts = torch.bincount(train.y)
    rank = counts.argsort(descending=True, stable=True).argsort()
    part = (rank * 3 // len(counts) == torch.arange(3, device=rank.device)[:, None]).float()
    how = (part, cfg.temperature)
    return lambda logits, batch: long_tailed_kd(logits, batch.teacher_logits, batch.y, *how)


class GroupDro:
    """A loss whose mean is sum_g weight_g * (mean cross-entropy of group g in the batch).

    Each step multiplies weight_g by exp(step_size * that mean) and renormalises (Sagawa et al.
    2020, algorithm 1). `state` is the log weight: one object serves one run. Unlike theirs, without
    extra weight decay or resampling, as every rival here."""

    def __init__(self, groups, step_size, device):
        self.step_size = step_size
        self.state = torch.full((groups,), -math.log(groups), device=device)

    @torch.no_grad()
    def weigh(self, values, group):
        """Move the weights by the mean of values (N,) in each group, 0 where there is none.
        Returns n of each group, at least 1. Nothing in it waits for the device."""
        member = group[:, None] == torch.arange(len(self.state), device=group.device)
        n = member.sum(dim=0).clamp(min=1)
        mean = (member * values[:, None]).sum(dim=0) / n
        self.state.copy_(F.log_softmax(self.state + self.step_size * mean, dim=0))
        return n

    def __call__(self, logits, batch):
        values = one_hot(logits, batch.y)
        n = self.weigh(values, batch.group)
        return values * (self.state.exp() / n)[batch.group] * len(values)


def group_dro_of(cfg, margins, train):
    return GroupDro(int(train.group.max()) + 1, cfg.step_size, train.y.device)


class RobustKd(GroupDro):
    """distill with logits f - log(weight / prior): classes of large weight have to win by more.

    After Wang et al. 2023, reconstructed: the weights follow the mean cross-entropy of each class
    as in GroupDro, where theirs follow held-out data."""

    def __init__(self, prior, cfg):
        super().__init__(len(prior), cfg.step_size, prior.device)
        self.prior = prior
        self.temperature = cfg.temperature

    def __call__(self, logits, batch):
        self.weigh(one_hot(logits.detach(), batch.y), batch.y)
        shifted = logits - self.state + self.prior.log()
        return distill(shifted, batch.teacher_logits, self.temperature)


def robust_kd_of(cfg, margins, train):
    return RobustKd(prior_of(train), cfg)
