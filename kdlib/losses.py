"""Losses: functions of plain tensors that return one number per example, (N,); METHODS binds them to a Config.

Symbols: logits f, teacher_logits t, both (N, C); q = softmax(f); p = softmax(t / T); y (N,) int64.
alpha is the weight of the teacher term, in [0, 1]; the T^2 factor lives inside the teacher term; sums run over classes."""

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
    "max": p_y - the largest other probability."""
    classes = p.shape[1]
    if kind == "avg":
        return (classes * p - 1) / (classes - 1)
    top = p.topk(2, dim=1)
    is_top = top.indices[:, :1] == torch.arange(classes, device=p.device)
    return p - torch.where(is_top, top.values[:, 1:2], top.values[:, 0:1])


def label_margin(teacher_logits: Tensor, y: Tensor, temperature: float = 1.0, kind: str = "avg") -> Tensor:
    """gamma(y, p) of each example, (N,); p softened by the margin's own temperature."""
    p = F.softmax(teacher_logits.float() / temperature, dim=1)
    return margin(p, kind).gather(1, y[:, None]).squeeze(1)


# ---------------------------------------------------------------- methods: a Config, the teacher's margins -> loss(logits, batch)

def _one_hot(cfg, margins):
    return lambda logits, batch: one_hot(logits, batch.y)


def _kd(cfg, margins):
    return lambda logits, batch: kd(logits, batch.teacher_logits, batch.y, cfg.alpha, cfg.temperature, cfg.soften)


def _ada_alpha(cfg, margins):
    def by_group(logits, batch):
        return ada_alpha(logits, batch.teacher_logits, batch.y, batch.group, margins, cfg.temperature, cfg.soften)

    def by_example(logits, batch):
        if cfg.margin_source == "crossfit":
            alpha = margins[batch.index]
        else:
            alpha = label_margin(batch.teacher_logits, batch.y, cfg.margin_temperature, cfg.margin_kind).clamp(0, 1)
        return kd(logits, batch.teacher_logits, batch.y, alpha, cfg.temperature, cfg.soften)

    return by_group if cfg.margin_level == "group" else by_example


def _ada_margin(cfg, margins):
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


METHODS = {"one_hot": _one_hot, "placebo": _one_hot, "kd": _kd, "ada_alpha": _ada_alpha, "ada_margin": _ada_margin}


def needs_margins(cfg):
    """Whether the loss reads margins measured beforehand (per group, or per training example by crossfit)."""
    return (cfg.method == "ada_alpha" and not (cfg.margin_level == "example" and cfg.margin_source == "train")
            or cfg.method == "ada_margin" and cfg.margin_reading != "B")


def method_loss(cfg, margins=None):
    """loss(logits, batch) -> (N,) of a Config. margins: (G,), or (N_train,) for crossfit per example; None if unused."""
    if needs_margins(cfg) and margins is None:
        raise KdlibError(f"Config {cfg.key()}: method {cfg.method!r} needs the teacher's margins.")
    return METHODS[cfg.method](cfg, margins)
