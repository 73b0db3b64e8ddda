"""Means by group, as measured and with the test examples redrawn: PROTOCOL.md, section 7.

Studies and audits draw here. numpy only. Axes: B resamples, S networks, N examples, G groups.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdlib.config import KdlibError

CHUNK = 4_000_000  # draws held at once: about 100 MB
LEAST_EFFECTIVE = 1.25  # examples, where one weighs nearly all
LEAST_SEEN = 0.2  # of a variance, there


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
        whole = np.issubdtype(group.dtype, np.integer)
        if not whole or group.min(initial=0) < 0 or group.max(initial=0) >= len(names):
            raise KdlibError(f"groups must be whole numbers from 0 to {len(names) - 1}.")
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
    resamples and seed. Groups of one example take each other's deviations, see borrowed. KdlibError
    on wrong shapes and NaN.

    A resampled mean is the observed one plus the mean of (count - 1) * (value - mean): the same as
    the mean of what was drawn where weights are alike, and stable where they are not.
    """
    values = np.asarray(values, dtype=np.float64)
    _check(values, members, resamples)
    seeds, n = values.shape
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    sides = 1 if half is None else 2
    side = np.zeros(n, dtype=int) if half is None else half
    size = len(members.names)
    observed = np.full((seeds, sides, size), np.nan)
    resampled = np.full((resamples, seeds, sides, size), np.nan)
    examples = [some[w[some] > 0] for some in members.examples]
    sizes = tuple(map(len, examples)) if members.disjoint else (n,)
    draws = _draws(seed, sizes, resamples)
    alone = []
    for g, some in enumerate(examples):
        if not len(some):
            continue
        of_side = w[some] * (side[some] == np.arange(sides)[:, None])  # (sides, n)
        total = of_side.sum(axis=1)
        with np.errstate(invalid="ignore"):  # an empty half
            share = of_side / total[:, None]
            observed[..., g] = values[:, some] @ of_side.T / total
        if members.disjoint and len(some) == 1:
            alone.append(g)
            continue
        mean = values[:, some] @ w[some] / w[some].sum()
        deviations = share * (values[:, some] - mean[:, None])[:, None]  # (S, sides, n)
        deviations = deviations.reshape(seeds * sides, -1)
        for rows in _chunks(resamples, len(some)):
            if members.disjoint:
                excess = _excess(draws[g][rows], w[some])
            else:
                excess = _excess(draws[0][rows][:, some], w)
            moved = (excess @ deviations.T).reshape(-1, seeds, sides)
            resampled[rows, ..., g] = observed[..., g] + moved
    if alone:
        single = [examples[g][0] for g in alone]
        if len(alone) == 1:
            others = [values[:, some] for some in examples if len(some) > 1]
            found = borrowed_by_one(values[:, single], others, seed, resamples)
        else:
            found = borrowed(values[:, single], lenders(seed, len(alone), resamples))
        resampled[:, :, side[single], alone] = found
    if half is None:
        return GroupMeans(observed[:, 0], resampled[:, :, 0])
    return GroupMeans(observed, resampled)


def _check(values: np.ndarray, members: Groups, resamples: int) -> None:
    if values.ndim != 2 or not values.size:
        raise KdlibError(
            f"group_means needs values (S, N) of one network and one example at least, not of "
            f"shape {values.shape}."
        )
    if members.example.max(initial=0) >= values.shape[1]:
        raise KdlibError(
            f"group_means has groups of {members.example.max() + 1} examples and values of "
            f"{values.shape[1]}."
        )
    if resamples < 2:
        raise KdlibError(f"group_means needs at least 2 resamples, got {resamples}.")
    if not np.isfinite(values).all():
        row, example = np.argwhere(~np.isfinite(values))[0]
        raise KdlibError(
            f"group_means needs finite values, got {values[row, example]} in row {row}, "
            f"example {example}."
        )


def _chunks(resamples: int, n: int):
    return [slice(k, k + CHUNK // n + 1) for k in range(0, resamples, CHUNK // n + 1)]


def _excess(counts: np.ndarray, w: np.ndarray) -> np.ndarray:
    """How much more than once each resample holds each example, (b, n), rescaled.

    counts (b, n): of draws as redraws makes them. w: weights of all that were drawn among. Rescaled
    (Rao and Wu 1988) so that the mean varies as it does where examples vary alike."""
    n = len(w)
    if n == 1:
        return np.full(counts.shape, np.nan)  # one example says nothing of its spread
    share = w / w.sum()
    # of the variance of a weighted mean, what deviations from that very mean show
    seen = 1 - 2 * (share**3).sum() / (share**2).sum() + (share**2).sum()
    scale = np.sqrt((n - 1) / n / max(seen, LEAST_SEEN))
    return scale * (n / (n - 1) * counts - 1)


def effective_number(w: np.ndarray) -> float:
    """Kish's effective number of examples: as many with equal weights vary as much."""
    return w.sum() ** 2 / (w**2).sum()


def redraws(seed: int, group: int, n: int, resamples: int) -> np.ndarray:
    """(resamples, n) uint8: how often each of n examples is drawn in n - 1 draws with replacement.

    One draw less, because a mean over n - 1 draws varies as much as the mean of n examples does
    (Rao and Wu 1988); over n draws it varies less, by (n - 1)/n. Each group has its own stream, so
    its redraws do not depend on the other groups."""
    rng = np.random.default_rng([seed, group])
    counts = np.zeros((resamples, n), dtype=np.uint8)
    if n < 2:
        return counts
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        part = counts[start : start + rows]
        draws = rng.integers(n, size=(len(part), n - 1))
        draws += n * np.arange(len(part))[:, None]
        part[:] = np.bincount(draws.ravel(), minlength=part.size).reshape(part.shape)
    return counts


@functools.lru_cache(maxsize=3)  # a page asks for the same ones dozens of times
def _draws(seed: int, sizes: tuple, resamples: int) -> list[np.ndarray]:
    """The redraws of groups of some sizes."""
    return [redraws(seed, g, n, resamples) for g, n in enumerate(sizes)]


def lenders(seed: int, m: int, resamples: int) -> np.ndarray:
    """(resamples, m): of m groups of one example, whose deviation each takes in a resample."""
    return np.random.default_rng([seed, m, resamples]).integers(m, size=(resamples, m))


def borrowed(values: np.ndarray, lender: np.ndarray) -> np.ndarray:
    """Resampled values (B, S, m) of m groups of one example each, from values (S, m).

    Each takes the deviation of another from the mean of all: too wide where such groups differ, as
    collapsed strata are (Cochran 1977, section 5A.12). lender (B, m): see lenders."""
    m = values.shape[-1]
    deviations = (values - values.mean(axis=-1, keepdims=True)) * np.sqrt(m / (m - 1))
    return values + np.moveaxis(deviations[:, lender], 1, 0)


def borrowed_by_one(value, others, seed: int, resamples: int) -> np.ndarray:
    """Resampled values (B, S, 1) of the only group of one example, from its value (S, 1): with the
    deviations of the examples of other groups, a list of (S, n). NaN where there is no other."""
    if not others:
        return np.full((resamples, *value.shape), np.nan)
    scales = [np.sqrt(of.shape[1] / (of.shape[1] - 1)) for of in others]
    centred = [of - of.mean(axis=1, keepdims=True) for of in others]
    pooled = np.concatenate([c * scale for c, scale in zip(centred, scales, strict=True)], axis=1)
    drawn = np.random.default_rng([seed, 1, resamples]).integers(pooled.shape[1], size=resamples)
    return value + pooled[:, drawn].T[..., None]


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
