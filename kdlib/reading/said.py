"""What was read, in sentences, and what about it looks wrong: said before any result."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import hypergeom

from kdlib.config import count_of
from kdlib.reading.sentences import ends, listed, printable

MANY = 20  # examples that nobody gets right by chance
SIGMAS = 3  # by which a model must beat chance
MOST_ORDERED = 1000  # classes whose order is checked
OFTEN = 0.05  # share of examples that are predicted to be of classes that none is of
ROWS = "are its rows, and its classes, in the same order as the labels?"
EXCHANGED = 2  # times as often as now, examples must be right in another order
BY_CHANCE = 1e-3  # at most, that any classes of a model without knowledge look exchanged


def read(y, names, found, how):
    """Sentences on labels y (N,), classes, and models found {role: [Outputs]}; how: joined."""
    models = []
    for role, many in found.items():
        right = [100 * (x.predicted == y).mean() for x in many]
        kinds = sorted({x.kind for x in many})
        share = " to ".join(dict.fromkeys(f"{f(right):.1f}" for f in (min, max)))
        networks = f"{len(many)} {role}s" if len(many) > 1 else role
        of = f" ({' and '.join(kinds)})" if kinds != [""] else ""
        models.append(f"{networks} {share} % right{of}")
    occur = len(np.unique(y))
    some = f", of which {occur:,} occur" if occur < len(names) else ""
    return (
        f"{len(names):,} classes, {ends(names)}{some}; {count_of(len(y), 'example')} {how}; "
        f"{'; '.join(models)}; chance is {100 / len(names):.3g} %."
    )


def of_student(name, sentence, said):
    """A sentence on what was read of a student ("": of all), less what was `said` of another.

    "" if nothing is left; adds its parts to `said`.
    """
    parts = [part for part in sentence.removesuffix(".").split("; ") if part not in said]
    said.update(parts)
    whose = f"{name}: " if name else ""
    end = "" if sentence.endswith("?") else "."
    return f"{whose}{'; '.join(parts)}{end}" if parts else ""


def warnings(y, names, found, sources):
    """Sentences on models that are near chance, or right in another order of the classes.

    sources: {role: [Source of each]}.
    """
    yield from _strangers(y, names, found)
    yield from _marks(y, names, found)
    classes, n = len(names), len(y)
    shares = np.bincount(y, minlength=classes) / n
    for role, many in found.items():
        for x, s in zip(many, sources[role], strict=True):
            right = (x.predicted == y).mean()
            # of a model that knows nothing of the labels but how often each occurs
            given = np.bincount(x.predicted, minlength=classes) / n
            # the most that such a model gets right in any order of the classes
            chance, blind = shares @ given, np.sort(shares) @ np.sort(given)
            called = role if s.name == role else f"{role} {s.name}"
            other, where = _exchanged(y, x.predicted, names)
            whole = _in_another_order(y, x.predicted, classes)
            if whole > max(other, EXCHANGED * right, _above(blind, n)):
                other, where = whole, ""
            only = printable(names[x.predicted[0]])
            if n >= MANY and (x.predicted == x.predicted[0]).all() and not (y == y[0]).all():
                yield (
                    f"The {called} predicts {only} in every example: are its columns, "
                    "or its file, what was meant?"
                )
            elif other > right:
                yield (
                    f"The {called} is right in {100 * right:.1f} %, but would be in "
                    f"{100 * other:.1f} % if the classes came in another order{where}: "
                    "are they in the same order as the labels?"
                )
            elif right == 1 and n >= MANY and not x.scored:
                yield f"The {called} is right in every example: is its file one of labels?"
            elif right < _above(chance, n):
                yield (
                    f"The {called} is right in {100 * right:.1f} %, and would be in "
                    f"{100 * chance:.3g} % if its predictions were shuffled: {ROWS}"
                )


def _strangers(y, names, found):
    """Sentences on classes that models predict and no example has: columns that are none?"""
    never = np.bincount(y, minlength=len(names)) == 0
    for role, many in found.items():
        predicted = np.concatenate([x.predicted for x in many])
        share = np.bincount(predicted, minlength=len(names)) / len(predicted)
        share[~never] = 0
        which = printable(names[int(np.argmax(share))])
        if (more := np.count_nonzero(share) - 1) > 0:
            which += f" and {count_of(more, 'other class', 'other classes')}"
        if share.sum() > OFTEN:
            yield (
                f"The {role} predicts {which} in {100 * share.sum():.0f} % of examples, and none "
                f"is of {'these: are they classes' if more > 0 else 'this class: is it a class'}?"
            )


def _marks(y, names, found):
    """A sentence on a label far above all others that no model predicts, such as 255."""
    occur, counts = np.unique(y, return_counts=True)
    most = max(x.predicted.max() for many in found.values() for x in many)
    if len(occur) < 3 or occur[-1] <= max(most, 2 * occur[-2] + 1):
        return []
    return [
        f"Label {printable(names[occur[-1]])}, in {100 * counts[-1] / len(y):.2g} % of examples, "
        "lies far above all others, and no model predicts it: are these examples to be left out?"
    ]


def _exchanged(y, predicted, names):
    """(share right once classes given each other's labels are put right, which: ", for a, b").

    Examples of each are given the label of the next at least EXCHANGED times as often as their own,
    and are, of all that are given one of the two, less often given their own than others are: by
    Fisher's exact test, corrected for the pairs of classes.
    """
    size = len(names)
    if size > MOST_ORDERED:
        return 0.0, ""
    counts = np.bincount(y * size + predicted, minlength=size**2).reshape(size, size)
    label, most, own, total = counts.argmax(1), counts.max(1), counts.diagonal(), counts.sum(0)
    p = hypergeom.cdf(own, total + total[label], total, own + most)
    sure = (most > 0) & (most >= EXCHANGED * own) & (p < BY_CHANCE / size**2)
    after = {a: label[a] for a in np.flatnonzero(sure).tolist()}
    while after.keys() != (nexts := set(after.values())):  # until only rounds are left
        after = {a: b for a, b in after.items() if a in nexts and b in after}
    right = (own.sum() + (most - own)[[*after]].sum()) / len(y)
    return right, f", for {listed([names[a] for a in after])}" * bool(after)


def _above(chance, n):
    """What a share of n examples must reach to be clearly above one that chance gives."""
    return chance + SIGMAS * np.sqrt(chance * (1 - chance) / n)


def _in_another_order(y, predicted, classes):
    """Share of examples that is right once each predicted class is called by the label it suits.

    Chosen on every other example of a class, counted on the rest, so that chance gains nothing.
    """
    if classes > MOST_ORDERED:
        return 0.0
    half = np.empty(len(y), dtype=np.int64)
    half[np.argsort(y, kind="stable")] = np.arange(len(y)) % 2
    counts = np.zeros((2, classes, classes), dtype=np.int64)
    np.add.at(counts, (half, predicted, y), 1)
    best = [linear_sum_assignment(of, maximize=True) for of in counts]
    return sum(counts[1 - k][best[k]].sum() for k in (0, 1)) / len(y)
