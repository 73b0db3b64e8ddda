"""How often each resample holds each example, and what single examples take: PROTOCOL.md, 7.

numpy only. Axes: B resamples, S networks, N examples, G groups.
"""

import functools
from collections.abc import Iterator

import numpy as np

HELD = 128_000_000  # counts held at once, a byte each
LEAST_SPREAD = 2  # effective examples, below which one alone says nothing of how they vary
DRAWN = 500_000  # draws at once, which a processor's cache holds
LEAST_SEEN = 0.2  # of a variance, where one example weighs nearly all
CONVERTED = 1_000_000  # counts converted to float at once


def redraws(seed: int, sizes: tuple, resamples: int) -> Iterator[list[np.ndarray]]:
    """Counts (n, b) uint8 of each group of n examples, for b resamples after the other.

    A count is how often an example is drawn in n - 1 draws with replacement. One draw less, because
    a mean over n - 1 draws varies as much as the mean of n examples does (Rao and Wu 1988); over n
    draws it varies less, by (n - 1)/n. Each group has its own stream, so its redraws do not depend
    on the other groups, nor on how many are held at once."""
    at_once = max(1, HELD // max(1, sum(sizes)))
    if at_once >= resamples:
        yield _all_draws(seed, sizes, resamples)
        return
    streams = _streams(seed, sizes)
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        yield [_counts(rng, n, some) for rng, n in zip(streams, sizes, strict=True)]


def _streams(seed, sizes):
    return [np.random.default_rng([seed, g]) for g in range(len(sizes))]


@functools.lru_cache(maxsize=3)  # a page asks for the same ones dozens of times
def _all_draws(seed, sizes, resamples):
    return [_counts(rng, n, resamples) for rng, n in zip(_streams(seed, sizes), sizes, strict=True)]


def _counts(rng, n, resamples):
    """(n, resamples) uint8 of the next draws."""
    counts = np.zeros((resamples, n), dtype=np.uint8)
    if n < 2:
        return counts.T
    rows = max(1, DRAWN // n)
    for start in range(0, resamples, rows):
        part = counts[start : start + rows]
        draws = rng.integers(n, size=(len(part), n - 1))
        draws += n * np.arange(len(part))[:, None]
        part[:] = np.bincount(draws.ravel(), minlength=part.size).reshape(part.shape)
    return np.ascontiguousarray(counts.T)


def moved(deviations: np.ndarray, counts: np.ndarray, scale: float, drawn_among: int) -> np.ndarray:
    """(b, R): how resamples move R means, from deviations (R, n) and counts (n, b) of n examples.

    The sum over examples of (count - 1) * deviation, with counts of drawn_among - 1 draws scaled up
    to as many as there are examples, times `scale`: see scale_of."""
    total = np.zeros((len(deviations), counts.shape[1]))
    step = max(1, CONVERTED // counts.shape[1])
    for start in range(0, len(counts), step):
        some = slice(start, start + step)
        total += deviations[:, some] @ counts[some].astype(np.float64)
    more = drawn_among / max(1, drawn_among - 1) * total - deviations.sum(axis=1, keepdims=True)
    return scale * more.T


def scale_of(w: np.ndarray) -> float:
    """By how much the excess of counts is stretched, for examples with weights w (n,).

    So that the mean varies as it does where examples vary alike (Rao and Wu 1988)."""
    n = len(w)
    share = w / w.sum()
    # of the variance of a weighted mean, what deviations from that very mean show
    seen = 1 - 2 * (share**3).sum() / (share**2).sum() + (share**2).sum()
    return np.sqrt((n - 1) / n / max(seen, LEAST_SEEN))


def lent(values, others, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """What m groups of one example each take in resamples: deviations (S, k), and which (B, m).

    values (S, m): theirs. Of several, each takes the deviation of another from the mean of all: too
    wide where such groups differ, as collapsed strata are (Cochran 1977, section 5A.12). The only
    one takes that of an example of other groups, a list of (S, n); NaN where there is no other."""
    m = values.shape[1]
    rng = np.random.default_rng([seed, m, resamples])
    if m > 1:
        deviations = (values - values.mean(axis=1, keepdims=True)) * np.sqrt(m / (m - 1))
    elif others:
        scales = [np.sqrt(of.shape[1] / (of.shape[1] - 1)) for of in others]
        centred = [of - of.mean(axis=1, keepdims=True) for of in others]
        scaled = [c * scale for c, scale in zip(centred, scales, strict=True)]
        deviations = np.concatenate(scaled, axis=1)
    else:
        deviations = np.full((len(values), 1), np.nan)
    return deviations, rng.integers(deviations.shape[1], size=(resamples, m))


def effective_number(w: np.ndarray) -> float:
    """Kish's effective number of examples: as many with equal weights vary as much."""
    return w.sum() ** 2 / (w**2).sum()


class Sample:
    """Values (S, N) of the examples of groups, halved or not, whose means are taken and redrawn."""

    def __init__(self, values, members, weights, half):
        n = values.shape[1]
        w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
        # (sides, N): which examples are on which side
        side = np.ones((1, n), dtype=bool) if half is None else half == np.arange(2)[:, None]
        kept = w[members.example] > 0
        self.example, group = members.example[kept], members.group[kept]
        # group after group, as its examples are then read in one piece
        self.values, self.w = values[:, self.example], w[self.example]
        self.side = side[:, self.example]
        ends = np.searchsorted(group, np.arange(len(members.names) + 1))
        self.places = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        lengths = np.diff(ends)
        self.filled = np.flatnonzero(lengths)
        self.disjoint = members.disjoint
        self.among = n
        self.sizes = tuple(lengths.tolist()) if self.disjoint else (n,)
        self.alone = np.flatnonzero(lengths == 1) if self.disjoint else self.filled[:0]
        self.drawn = np.setdiff1d(self.filled, self.alone)
        self.scale = None if self.disjoint else scale_of(w)
        of_one = len(self.filled) == 1 or not self.disjoint  # no other group shows how it varies
        self.unknown = of_one and effective_number(w) < LEAST_SPREAD

    def means(self, g):
        """(means (S, sides) of a group, and what each example adds to them, (S * sides, n))."""
        place = self.places[g]
        values = self.values[:, place].astype(np.float64)
        w = self.w[place]
        weights = w * self.side[:, place]
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore"):  # an empty half
            means = values @ weights.T / total
            share = weights / total[:, None]
        apart = values - (values @ w / w.sum())[:, None]
        return means, (apart[:, None] * share).reshape(means.size, -1)

    def observed(self):
        """(S, sides, G): the means; NaN where there is no example."""
        out = np.full((len(self.values), len(self.side), len(self.places)), np.nan)
        for g in self.filled:
            out[..., g] = self.means(g)[0]
        return out

    def average(self):
        """The mean over groups that overlap, (S,), and what each example adds to it, (S, N)."""
        means = np.full((len(self.values), len(self.places)), np.nan)
        added = np.full((len(self.values), self.among), np.nan if self.unknown else 0.0)
        for g in self.filled:
            of_group, deviations = self.means(g)
            means[:, g] = of_group[:, 0]
            added[:, self.example[self.places[g]]] += deviations / len(self.places)
        return means.mean(axis=1), added

    def resampled(self, g, counts, rows):
        """(b, S, sides): the means of a group in some resamples, from all counts."""
        means, deviations = self.means(g)
        place = self.places[g]
        if self.unknown:
            return np.full((rows.stop - rows.start, *means.shape), np.nan)
        if self.disjoint:
            how = scale_of(self.w[place]), place.stop - place.start
            change = moved(deviations, counts[g][:, rows], *how)
        else:
            drawn = counts[0].take(self.example[place], axis=0)[:, rows]
            change = moved(deviations, drawn, self.scale, self.among)
        return means + change.reshape(-1, *means.shape)

    def lent(self, seed, resamples):
        """redraws.lent of the groups of one example: (deviations (S, k), which (B, m))."""
        values = self.values.astype(np.float64)
        others = [values[:, self.places[g]] for g in self.drawn]
        return lent(self.singles(), others, seed, resamples)

    def singles(self):
        """(S, m) float64: values of the groups of one example."""
        at = [self.places[g].start for g in self.alone]
        return self.values[:, at].astype(np.float64)
