"""Ridge regression with a teacher, in closed form: whose risk falls, and whose must rise.

Assumed: a fixed design of n examples; a majority and a minority, each with inputs (directions)
that the other lacks, uncorrelated within their group; targets that are linear in the inputs, plus
independent noise of one variance; a teacher fitted to the same examples and targets. The risk of a
group is the expected squared error of predictions for its examples, over the noise. The theorems
here are this project's own; notebooks/07_when_distillation_must_harm.ipynb has the proofs.

A direction of variance v has curvature d = share · v. One-hot ridge multiplies the least-squares
weight by s = d / (d + penalty), a student by c = s (1 - alpha u), where u = teacher_penalty /
(d + teacher_penalty) is how far the teacher shrinks it: distillation is more shrinkage.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

EXAMPLES = 200  # n


class Group(NamedTuple):
    """The inputs of a group, direction by direction."""

    variances: np.ndarray  # (J,) v, of an input among the examples of the group
    signals: np.ndarray  # (J,) q = v w^2: the variance of the target that it explains


# the majority has weak inputs beside its two strong ones, which say nothing about the target
MAJORITY = Group(np.repeat([1.0, 0.02], [2, 40]), np.repeat([0.5, 0.0], [2, 40]))
MINORITY = Group(np.ones(2), np.full(2, 0.5))


@dataclass(frozen=True)
class Setting:
    """What the model is asked; each a number, or arrays that broadcast.

    share: of the minority among the examples. noise: standard deviation of the targets around what
    the inputs explain, which is 1 in either group. Penalties are those of the mean squared error.
    """

    share: float = 0.1
    noise: float = 0.5
    penalty: float = 0.0005  # of the student, with a teacher and without
    teacher_penalty: float = 0.01
    alpha: float = 1.0  # weight of the teacher in the student's targets

    @property
    def groups(self):
        """[(Group, its share)]: the majority, then the minority."""
        return [(MAJORITY, 1 - np.asarray(self.share)), (MINORITY, np.asarray(self.share))]


def _each(value):
    """A number or an array, with a last axis for directions."""
    return np.asarray(value, dtype=float)[..., None]


def factors(setting, group, share):
    """(s, u), each (..., J): what one-hot leaves of a weight, and what the teacher takes off it."""
    d = _each(share) * group.variances
    one_hot = d / (d + _each(setting.penalty))
    taken = _each(setting.teacher_penalty) / (d + _each(setting.teacher_penalty))
    return one_hot, taken


def risk(setting, group, share, left):
    """Expected squared error (...) of a group; left: (..., J), of the least-squares weights."""
    bias = (group.signals * (1 - left) ** 2).sum(-1)
    return bias + setting.noise**2 / (EXAMPLES * share) * (left**2).sum(-1)


def risks(setting, weights=None):
    """Risks (majority, minority) of a student with the teacher's weight `weights` in each group.

    weights: (majority's, minority's); without them, alpha in both. (0, 0) is one-hot."""
    weights = (setting.alpha, setting.alpha) if weights is None else weights
    found = []
    for (group, share), weight in zip(setting.groups, weights, strict=True):
        s, u = factors(setting, group, share)
        found.append(risk(setting, group, share, s * (1 - _each(weight) * u)))
    return tuple(found)


def average(setting, of_groups):
    """The mean over examples of what the majority and the minority have."""
    return (1 - setting.share) * of_groups[0] + setting.share * of_groups[1]


def teacher_risks(setting):
    """Risks (majority, minority) of the teacher."""
    found = []
    for group, share in setting.groups:
        _, u = factors(setting, group, share)
        found.append(risk(setting, group, share, 1 - u))
    return tuple(found)


# ---------------------------------------------------------------- where risks rise

BOTH, ONLY_MAJORITY, ONLY_MINORITY = (0, 1), (0,), (1,)  # groups, as setting.groups lists them


def noise_limit(setting, groups=BOTH):
    """The noise (standard deviation) below which distillation raises the risk of some groups.

    Above it the risk falls. With both groups, that of their average. The `noise` of the setting is
    not read."""
    bias, variance = 0.0, 0.0
    for group, share in [setting.groups[i] for i in groups]:
        s, u = factors(setting, group, share)
        c = s * (1 - _each(setting.alpha) * u)
        bias += share * (group.signals * (s - c) * (2 - s - c)).sum(-1)
        variance += ((s - c) * (s + c)).sum(-1)
    return np.sqrt(EXAMPLES * bias / variance)


def weight_limit(setting, groups=BOTH):
    """The weight of the teacher above which distillation raises the risk of some groups.

    Not above 0 if every weight does; half of it is the weight of the lowest risk, if that lies in
    [0, 1]. The `alpha` of the setting is not read."""
    slope, curvature = 0.0, 0.0
    for group, share in [setting.groups[i] for i in groups]:
        s, u = factors(setting, group, share)
        power = group.signals + _each(setting.noise**2 / (EXAMPLES * share))
        slope += share * (s * u * (power * s - group.signals)).sum(-1)
        curvature += share * (power * s**2 * u**2).sum(-1)
    return 2 * slope / curvature


# ---------------------------------------------------------------- a weight by group


def best_weights(setting):
    """The weights in [0, 1], (majority's, minority's), of the lowest risk in each group."""
    limits = (weight_limit(setting, groups) for groups in (ONLY_MAJORITY, ONLY_MINORITY))
    return tuple(np.clip(limit / 2, 0, 1) for limit in limits)


def r_squared(signal, error, noise):
    """R² on held-out targets: `signal` is the variance of the truth, `error` its squared error.

    Like the margin of a classifier, it is 1 where every held-out target is predicted, 0 where
    predictions are no better than a constant, and clipped to [0, 1]."""
    return np.clip((signal - error) / (signal + noise**2), 0, 1)


def reliability(setting):
    """AdaAlpha's weights here, (majority's, minority's): the teacher's R² on held-out targets."""
    errors = teacher_risks(setting)
    signals = [group.signals.sum() for group, _ in setting.groups]
    return tuple(r_squared(q, e, setting.noise) for q, e in zip(signals, errors, strict=True))


def adaptive_noise_limit(setting):
    """The noise (standard deviation) up to which AdaAlpha's weight harms the minority, to 0.1 %.

    Above it the minority is spared, since that weight falls with the noise, and the one above which
    it would be harmed rises. 0 if it is spared at any noise that is tried."""
    noises = np.geomspace(1e-3, 1e3, 14_001)
    each = {name: _each(getattr(setting, name)) for name in ("share", "teacher_penalty")}
    grid = replace(setting, noise=noises, **each)
    harmed = reliability(grid)[1] > np.maximum(weight_limit(grid, ONLY_MINORITY), 0)
    return np.concatenate([[0], noises])[harmed.sum(-1)]


# ---------------------------------------------------------------- penalties that are tuned

PENALTIES = np.logspace(-6, 1, 71)  # that are tried; the best lie inside, at any noise
FINE = np.logspace(-6, 1, 2801)  # of one-hot, which has one alone


def average_risk(setting):
    """The average risk (...) of a student."""
    return average(setting, risks(setting))


def tuned(setting, average_of=average_risk):
    """Settings of the lowest average error: (of one-hot, of its student, of any student).

    The second has the penalty of the first, and the best teacher's penalty and weight beside it;
    the third has all three at their best. Of the setting, share and noise are read. average_of:
    (Setting with arrays that broadcast) -> the average errors of its students."""

    def error(**fields):
        return average_of(replace(setting, **fields))

    best = float(FINE[error(penalty=FINE, alpha=0.0).argmin()])
    found = [replace(setting, penalty=best, alpha=0.0)]
    for penalties in (np.array([best]), np.append(best, PENALTIES)):
        grid = {"penalty": penalties[:, None], "teacher_penalty": PENALTIES}
        # an error is quadratic in the weight: none + slope * weight + bend * weight²
        none, half, whole = (error(**grid, alpha=weight) for weight in (0.0, 0.5, 1.0))
        bend = 2 * (none - 2 * half + whole)
        slope = whole - none - bend
        weights = np.clip(-slope / np.maximum(2 * bend, 1e-12), 0, 1)
        lowest = none + weights * (slope + weights * bend)
        i, j = np.unravel_index(lowest.argmin(), lowest.shape)
        values = penalties[i], PENALTIES[j], weights[i, j]
        found.append(Setting(setting.share, setting.noise, *map(float, values)))
    return tuple(found)


# ---------------------------------------------------------------- one direction for both groups

SHARED = 0.02  # variance of an input that both groups have; its coefficient in the majority is 1


def shared_limits(setting, relation):
    """Noise (standard deviation) in a shared direction: (of the minority, of the average).

    relation: the minority's true coefficient, in units of the majority's.
    Up to the first, whatever the weights by group, unless both are 0, the minority's risk is above
    one-hot's; above it, some weights lower it. Up to the second, no weights lower the average.
    0 where some weights lower it at any noise. The `noise` of the setting is not read."""
    s = SHARED / (SHARED + setting.penalty)
    t = SHARED / (SHARED + setting.teacher_penalty)
    mean = 1 + setting.share * (relation - 1)
    pulls = np.stack(np.broadcast_arrays(1 - t * mean, relation - t * mean))
    limits = []
    for wanting in (relation - s * mean, (1 - s) * mean):
        gap = (wanting * pulls).min(0)
        limits.append(np.sqrt(EXAMPLES * SHARED * np.maximum(gap, 0) / (s * (1 - t))))
    return tuple(limits)
