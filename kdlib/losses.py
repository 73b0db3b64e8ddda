"""Losses: functions of plain tensors that return one number per example, (N,).

Symbols: logits f, teacher_logits t, both (N, C); q = softmax(f); p = softmax(t / T); y (N,) int64.
alpha is the weight of the teacher term, in [0, 1]; the T^2 factor lives inside the teacher term;
sums run over classes. Wrong arguments are a KdlibError, see arguments.py; the teacher gets no
gradient. The functions NAME_of bind losses to a Config, see methods.py."""

from typing import NamedTuple

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ModuleNotFoundError as error:
    sentence = 'kdlib.losses needs torch: pip install ".[torch]" in the clone of kdlib'
    raise ModuleNotFoundError(sentence, name=error.name) from None

from kdlib.arguments import checked
from kdlib.methods import needs_margins

FLOOR = 0.01  # smallest class margin under the logarithm of reading C


class Batch(NamedTuple):
    """What a loss may look at besides the logits."""

    y: Tensor  # (N,) int64, class
    group: Tensor  # (N,) int64, subgroup
    index: Tensor  # (N,) int64, position in the training split
    view: Tensor  # (N,) int64, which crop and flip
    teacher_logits: Tensor | None  # (N, C) of the same views


@checked
def one_hot(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with the label; (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the classes, of finite log-probabilities (N, C); (N,)."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


@checked
def distill(logits: Tensor, teacher_logits: Tensor, temperature: float, soften="both") -> Tensor:
    """The teacher term; (N,).

    soften="both": T^2 * KL(p || softmax(f / T)) (Hinton et al. 2015, sec. 2).
    soften="teacher": cross-entropy of p and softmax(f), no T^2 (Wang et al. 2023)."""
    log_p = F.log_softmax(teacher_logits / temperature, dim=1)
    if soften == "teacher":
        return -(log_p.exp() * F.log_softmax(logits, dim=1)).sum(dim=1)
    return temperature**2 * kl(log_p, F.log_softmax(logits / temperature, dim=1))


@checked
def kd(
    logits, teacher_logits, y, alpha: float | Tensor = 1.0, temperature: float = 1.0, soften="both"
) -> Tensor:
    """(1 - alpha) * one_hot + alpha * distill; alpha one number, or one per example (N,)."""
    teacher_term = distill(logits, teacher_logits, temperature, soften)
    return (1 - alpha) * one_hot(logits, y) + alpha * teacher_term


@checked
def ada_alpha(
    logits, teacher_logits, y, group, margin: Tensor, temperature: float = 1.0, soften="both"
) -> Tensor:
    """kd with alpha = margin[group], so less of the teacher where it is less reliable; (N,).
    margin (G,) in [0, 1]: all 1 is kd with alpha 1, all 0 is one_hot. (Reconstructed.)"""
    return kd(logits, teacher_logits, y, margin[group], temperature, soften)


@checked
def ada_margin(
    logits, teacher_logits, rho: Tensor, temperature: float = 1.0, soften="both"
) -> Tensor:
    """distill with a margin rho that the student's logits have to keep; (N,).

      sum_k p_k log(1 + sum_{j != k} exp(rho_k - (f_k - f_j)))
    = sum_k p_k [-log q_k + log(q_k + e^rho_k (1 - q_k))]

    The second form is exact and stable, and needs no (C, C) tensor. rho (N, C), or (C,), one per
    class; rho = 0 is exactly distill. (Reconstructed.)"""
    student_temperature = temperature if soften == "both" else 1.0
    log_q = F.log_softmax(logits / student_temperature, dim=1)
    p = F.softmax(teacher_logits / temperature, dim=1)
    not_q = -torch.expm1(log_q)  # 1 - q, exact near q = 1
    penalty = torch.log1p(torch.expm1(rho) * not_q)  # log(q + e^rho (1 - q))
    teacher_term = distill(logits, teacher_logits, temperature, soften)
    return teacher_term + student_temperature**2 * (p * penalty).sum(dim=1)


@checked
def margin(p: Tensor, kind="avg") -> Tensor:
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


@checked
def label_margin(teacher_logits: Tensor, y: Tensor, temperature=1.0, kind="avg") -> Tensor:
    """gamma(y, p) of each example, (N,); p softened by the margin's own temperature."""
    p = F.softmax(teacher_logits.float() / temperature, dim=1)
    return margin(p, kind).gather(1, y[:, None]).squeeze(1)


# ---------------------------------------------------------------- bound to a Config


def one_hot_of(cfg, margins, train):
    return lambda logits, batch: one_hot(logits, batch.y)


def kd_of(cfg, margins, train):
    soft = (cfg.alpha, cfg.temperature, cfg.soften)
    return lambda logits, batch: kd(logits, batch.teacher_logits, batch.y, *soft)


def ada_alpha_of(cfg, margins, train):
    soft = (cfg.temperature, cfg.soften)

    def measured(logits, batch):
        # with a margin for each class or example, that is what the margins are looked up by
        by = {"class": batch.y, "example": batch.index}
        group = by.get(cfg.margin_level, batch.group)
        return ada_alpha(logits, batch.teacher_logits, batch.y, group, margins, *soft)

    def from_batch(logits, batch):
        how = (cfg.margin_temperature, cfg.margin_kind)
        alpha = label_margin(batch.teacher_logits, batch.y, *how).clamp(0, 1)
        return kd(logits, batch.teacher_logits, batch.y, alpha, *soft)

    return measured if needs_margins(cfg) else from_batch


def ada_margin_of(cfg, margins, train):
    """What "uses that quantity as a margin" may mean. B: rho by example and class. A: by class.
    C: by pair of classes, log(c_k / c_j), where log sum_j exp(rho_kj - (f_k - f_j)) is the
    cross-entropy of the shifted logits f - log c."""
    soft = (cfg.temperature, cfg.soften)

    def a_or_b(logits, batch):
        rho = margins
        if cfg.margin_reading == "B":
            p = F.softmax(batch.teacher_logits / cfg.margin_temperature, dim=1)
            rho = margin(p, cfg.margin_kind)
        return ada_margin(logits, batch.teacher_logits, cfg.margin_scale * rho, *soft)

    def c(logits, batch):
        sign = -1 if cfg.margin_reading == "C-inverse" else 1
        shift = sign * cfg.margin_scale * margins.clamp(min=FLOOR).log()
        return distill(logits - shift, batch.teacher_logits, *soft)

    return a_or_b if cfg.margin_reading in ("A", "B") else c
