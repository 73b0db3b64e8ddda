"""Numbers and methods in words: every sentence of a page or table is made of these."""

import numpy as np

NAMES = {
    "one_hot": "one-hot",
    "kd": "distillation",
    "ada_alpha": "AdaAlpha",
    "ada_margin": "AdaMargin",
    "ada_alpha_crossfit": "AdaAlpha, crossfit margins",
    "one_hot_with_val": "one-hot, also on the labels of val",
    "teacher": "teacher",
    "kd_mean_alpha": "distillation, AdaAlpha's mean alpha",
    "kd_tuned": "distillation, alpha tuned",
    "ada_alpha_01": "0/1 AdaAlpha",
    "label_smoothing": "label smoothing",
    "logit_adjusted": "logit adjustment",
    "post_hoc": "post-hoc adjustment",
    "group_dro": "group DRO",
    "balanced_kd": "class-balanced distillation",
    "decoupled_kd": "decoupled distillation",
    "long_tailed_kd": "long-tailed distillation",
    "robust_kd": "robust student",
    "kd_adjusted_teacher": "adjusted teacher",
}


def number(value, unit="points", digits=1):
    """A signed number with its unit: +1.2 points."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return f"{text} {unit}".strip()


def told(result, unit="points", digits=1):
    """An interval in words: +1.2 points (95 % interval −0.3 to +2.7)."""
    if np.isnan(result.estimate):
        return "not defined (every value tied, or nothing to count)"
    if np.isnan(result.se):
        why = "one seed: no interval" if result.n == 1 else "no interval"
        return f"{number(result.estimate, unit, digits)} ({why})"
    low, high = (number(v, "", digits) for v in (result.low, result.high))
    return f"{number(result.estimate, unit, digits)} (95 % interval {low} to {high})"


def brief(result, digits=1):
    """An interval, or a row of a table with one, in a cell, on one line: +1.2 (−0.3 to +2.7)."""
    estimate, low, high = (
        number(v, "", digits) for v in (result.estimate, result.low, result.high)
    )
    return (
        estimate if np.isnan(result.low) else f"{estimate} ({low} to {high})".replace(" ", "\u00a0")
    )


def p_value(p):
    """A p-value for a cell: 0.012, or <0.001."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def told_p(p):
    """A p-value in words: p = 0.012, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def name_of(method):
    """A method of a study in words."""
    return NAMES.get(method, method)
