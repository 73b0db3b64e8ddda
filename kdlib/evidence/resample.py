"""Means by group, as measured and with the test examples redrawn: PROTOCOL.md, section 7.

Studies and audits draw here. numpy only. Axes: B resamples, S networks, N examples, G groups.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdlib.evidence.redraws import Sample, effective_number, moved, redraws

BLOCK = 4_000_000  # resampled means held at once: 32 MB
LEAST_EFFECTIVE = 1.25  # examples, where one weighs nearly all


@dataclass(frozen=True, eq=False)
class Groups:
    """Subgroups that may overlap, as M pairs of (example, group), sorted by group."""

    names: tuple
    example: np.ndarray  # (M,) int64
    group: np.ndarray  # (M,) int64, index into names

    @classmethod
    def of(cls, group, names):
        """Groups that do not overlap, from the group of each example, (N,) ints."""
        group = np.asarray(group)
        order = np.argsort(group, kind="stable")
        return cls(tuple(names), order, group[order].astype(np.int64))

    @classmethod
    def everybody(cls, n):
        """One group of n examples."""
        return cls(("all",), np.arange(n), np.zeros(n, dtype=np.int64))

    @functools.cached_property
    def disjoint(self):
        """Whether no example is in two groups."""
        return len(np.unique(self.example)) == len(self.example)

    @functools.cached_property
    def examples(self):
        """The examples of each group: a list of arrays."""
        ends = np.searchsorted(self.group, np.arange(len(self.names) + 1))
        return [self.example[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def sums(self, values):
        """(..., N) -> (..., G), the sum of each group; 0 of an empty one."""
        values = np.asarray(values)
        out = np.zeros((*values.shape[:-1], len(self.names)), dtype=values.dtype)
        filled, starts = np.unique(self.group, return_index=True)
        out[..., filled] = np.add.reduceat(values[..., self.example], starts, axis=-1)
        return out


class GroupMeans(NamedTuple):
    """A statistic per network and group, as measured and on resampled test examples.

    NaN: empty group. +, -, *, / work on both parts at once, with another GroupMeans, a number or an
    array that broadcasts, e.g. `100 * (student - one_hot)`. Two are paired by example if they come
    from equal groups, weights, seed and number of resamples.
    """

    observed: np.ndarray  # (S, G); (S,) after map with a statistic over groups
    resampled: np.ndarray  # (B, S, G); (B, S) after map

    def map(self, statistic: Callable, *others: "GroupMeans", **options) -> "GroupMeans":
        """Apply `statistic` over the trailing group axis, (..., G) -> (...), to both parts.

        With others: statistic(self, *others), part by part, e.g.
        `margin.map(rank_correlation, gain)`.
        """
        parts = zip(self, *others, strict=True)
        return GroupMeans(*(statistic(*part, **options) for part in parts))

    def mean(self) -> "GroupMeans":
        """The mean over groups, which weigh alike."""
        return self.map(lambda values: values.mean(axis=-1))

    def seeds(self, some) -> "GroupMeans":
        """Those of some networks alone, of means over groups, (S,): a slice or a mask."""
        return self.map(lambda values: values[..., some])

    def networks(self) -> list["GroupMeans"]:
        """Those of each network: see stack."""
        return [
            GroupMeans(*pair)
            for pair in zip(self.observed, self.resampled.swapaxes(0, 1), strict=True)
        ]

    def _with(self, other, operation: Callable) -> "GroupMeans":
        pair = other if isinstance(other, GroupMeans) else (other, other)
        # 0 / 0 is NaN, and interval passes NaN on
        with np.errstate(divide="ignore", invalid="ignore"):
            return GroupMeans(*(operation(mine, its) for mine, its in zip(self, pair, strict=True)))

    __array_ufunc__ = None  # array * means must come to __rmul__, not treat means as a tuple of two

    def __add__(self, other):
        return self._with(other, np.add)

    def __sub__(self, other):
        return self._with(other, np.subtract)

    def __mul__(self, other):
        return self._with(other, np.multiply)

    def __truediv__(self, other):
        return self._with(other, np.divide)

    __rmul__ = __mul__


def stack(parts: list[GroupMeans]) -> GroupMeans:
    """GroupMeans of several networks, (S,) or (S, G), from one of each, () or (G,)."""
    observed, resampled = zip(*parts, strict=True)
    return GroupMeans(np.array(observed), np.stack(resampled, axis=1))


def group_means(values, members, weights=None, half=None, resamples=1000, seed=0) -> GroupMeans:
    """Mean of `values` in every group, and its bootstrap over examples within the group.

    values (S, N) float or bool: one per network and test example, e.g. 1 where right. weights (N,).
    half (N,), 0 or 1: of each group's examples; then the means are those of the halves, (S, 2, G).
    Each resample redraws the examples of every group with replacement, those of overlapping groups
    among all; the same redraw for all networks and for every call with equal groups, weights,
    resamples and seed. Groups of one example take each other's deviations, see redraws.lent.

    A resampled mean is the observed one plus the mean of (count - 1) * (value - mean): the same as
    the mean of what was drawn where weights are alike, and stable where they are not.
    """
    observed, *blocks = mean_blocks(values, members, weights, half, resamples, seed)
    return GroupMeans(observed, np.concatenate(blocks))


def average_means(values, members, weights=None, resamples=1000, seed=0) -> GroupMeans:
    """The mean over groups, which weigh alike, of group_means: (S,) and (B, S)."""
    if members.disjoint:
        blocks = mean_blocks(values, members, weights, None, resamples, seed)
        return reduced(blocks, lambda means: {"average": means.mean(axis=-1)})["average"]
    values = np.asarray(values)
    # the same for far less work: redrawn among all, it is one sum over examples
    sample = Sample(values, members, weights, None)
    observed, deviations = sample.average()
    parts = [
        moved(deviations, counts[0], sample.scale, sample.among)
        for counts in redraws(seed, sample.sizes, resamples)
    ]
    return GroupMeans(observed, observed + np.concatenate(parts))


def reduced(blocks: Iterator[np.ndarray], reduce: Callable) -> dict[str, GroupMeans]:
    """{name: GroupMeans} of what `reduce` makes of each of mean_blocks, one after the other.

    reduce: (..., S, G) -> {name: (..., S)}. The means of all resamples are never held at once."""
    parts = [reduce(block) for block in blocks]
    return {
        name: GroupMeans(observed, np.concatenate([part[name] for part in parts[1:]]))
        for name, observed in parts[0].items()
    }


def mean_blocks(
    values, members, weights=None, half=None, resamples=1000, seed=0
) -> Iterator[np.ndarray]:
    """What group_means returns, in parts that are small.

    First the observed means, (S, G) or with half (S, 2, G); then those of resamples, (b, S, G) or
    (b, S, 2, G), for b resamples after the other."""
    values = np.asarray(values)
    sample = Sample(values, members, weights, half)
    sides = slice(None) if half is not None else 0
    observed = sample.observed()
    yield observed[:, sides]
    alone = sample.alone
    if len(alone):
        deviations, taken = sample.lent(seed, resamples)
        side = np.isfinite(observed[0][:, alone]).argmax(axis=0)
    size = max(1, BLOCK // observed.size)
    start = 0
    for counts in redraws(seed, sample.sizes, resamples):
        held = counts[0].shape[1]
        for first in range(0, held, size):
            last = min(held, first + size)
            block = np.full((last - first, *observed.shape), np.nan)
            for g in sample.drawn:
                block[..., g] = sample.resampled(g, counts, slice(first, last))
            if len(alone):
                borrowed = deviations[:, taken[start + first : start + last]].swapaxes(0, 1)
                block[:, :, side, alone] = sample.singles() + borrowed
            yield block[:, :, sides]
        start += held


def degrees_of_examples(members: Groups, w: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of a mean over groups, from the weights of their examples.

    Groups of one example count as one group, of which they are the examples, and a single one as
    the examples that it borrows from; overlapping groups are redrawn among all."""
    if not members.disjoint:
        return max(1.0, effective_number(w) - 1)
    positive = [w[some][w[some] > 0] for some in members.examples]
    lonely = sum(len(some) == 1 for some in positive)
    n = np.array([effective_number(some) for some in positive if len(some) > 1])
    n = np.maximum(n, LEAST_EFFECTIVE)
    scatter = (n**-2 / (n - 1)).sum()
    if lonely > 1:
        scatter += lonely**2 / (lonely - 1)
    elif lonely and len(n):
        scatter += 1 / (n - 1).sum()
    return max(1.0, (lonely + (1 / n).sum()) ** 2 / scatter) if scatter else 1.0
