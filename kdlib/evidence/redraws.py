"""How often each resample holds each example, and what single examples take: PROTOCOL.md, 7.

numpy only. Axes: B resamples, S networks, N examples, G groups.
"""

import functools
from collections.abc import Iterator

import numpy as np

HELD = 128_000_000  # counts held at once, a byte each
DRAWN = 500_000  # draws at once, which a processor's cache holds
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
    to as many as there are examples, times `scale`: see resample.scale_of."""
    total = np.zeros((len(deviations), counts.shape[1]))
    step = max(1, CONVERTED // counts.shape[1])
    for start in range(0, len(counts), step):
        some = slice(start, start + step)
        total += deviations[:, some] @ counts[some].astype(np.float64)
    more = drawn_among / (drawn_among - 1) * total - deviations.sum(axis=1, keepdims=True)
    return scale * more.T


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
