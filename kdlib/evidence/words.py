"""Numbers and methods in words: every sentence of a page or table is made of these."""

import numpy as np

from kdlib.methods import METHODS, needs_margins


def number(value, unit="points", digits=1, signed=True):
    """A number with its unit and sign: +1.2 points. What rounds to zero has no sign.

    −0.01, the end of an interval that holds zero, would else be +0.0."""
    rounded = round(value, digits) or 0.0
    plus = "+" if signed and rounded else ""
    return f"{rounded:{plus}.{digits}f} {unit}".strip().replace("-", "−")


def told(result, unit="points", digits=1):
    """An interval in words: +1.2 points (95 % interval −0.3 to +2.7)."""
    if np.isnan(result.estimate):
        return "not defined (every value tied, or nothing to count)"
    if np.isnan(result.low):
        why = "one seed: no interval" if result.n == 1 else "no interval"
        if result.se == 0:
            why = "no interval, as nothing varies"
        return f"{number(result.estimate, unit, digits)} ({why})"
    low, high = (number(v, "", digits) for v in (result.low, result.high))
    return f"{number(result.estimate, unit, digits)} (95 % interval {low} to {high})"


def brief(result, digits=1, signed=True):
    """An interval, or a row of a table with one, in a cell, on one line: +1.2 (−0.3 to +2.7)."""
    ends = (result.estimate, result.low, result.high)
    estimate, low, high = (number(v, "", digits, signed) for v in ends)
    if np.isnan(result.low):
        return "–" if np.isnan(result.estimate) else estimate
    return f"{estimate} ({low} to {high})".replace(" ", "\u00a0")


def p_value(p):
    """A p-value for a cell: 0.012, <0.001, or – for none."""
    if np.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def told_p(p):
    """A p-value in words: p = 0.012, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def all_of(parts, word="and"):
    """Parts of a sentence as one: a, b and c."""
    *first, last = parts
    return f"{', '.join(first)} {word} {last}" if first else last


def labels_read(cfg):
    """Which labels a run of a Config reads beyond those of its training images, or ""."""
    if cfg.with_val:
        return "labels of val, to train on"
    if METHODS[cfg.method].adjusted:
        return "labels of val, for one number"
    if needs_margins(cfg) and cfg.margin_source == "val":
        return "labels of val, for its margins"
    return ""
