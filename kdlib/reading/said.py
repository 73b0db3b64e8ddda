"""What was read, in sentences, and what about it looks wrong: said before any result."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdlib.config import count_of
from kdlib.reading.sentences import ends, printable

MANY = 20  # examples that nobody gets right by chance
SIGMAS = 3  # by which a model must beat chance
MOST_ORDERED = 1000  # classes whose order is checked
OFTEN = 0.05  # share of examples that are predicted to be of classes that none is of
ROWS = "are its rows in the same order as the labels?"
GAINED = 10  # points that another order of the classes must add


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
            chance = shares @ np.bincount(x.predicted, minlength=classes) / n
            called = role if s.name == role else f"{role} {s.name}"
            other = 0.0
            if right < 1 / 1.5 and classes <= MOST_ORDERED:
                other = _in_another_order(y, x.predicted, classes)
            only = printable(names[x.predicted[0]])
            if n >= MANY and (x.predicted == x.predicted[0]).all() and not (y == y[0]).all():
                yield (
                    f"The {called} predicts {only} in every example: are its columns, "
                    "or its file, what was meant?"
                )
            elif other > right + GAINED / 100 and other > 1.5 * right:
                yield (
                    f"The {called} is right in {100 * right:.1f} %, but would be in "
                    f"{100 * other:.1f} % if the classes came in another order: "
                    "are they in the same order as the labels?"
                )
            elif right == 1 and n >= MANY and not x.scored:
                yield f"The {called} is right in every example: is its file one of labels?"
            elif right < chance + SIGMAS * np.sqrt(chance * (1 - chance) / n):
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


def _in_another_order(y, predicted, classes):
    """Share of examples that is right once each predicted class is called by the label it suits.

    Chosen on every other example of a class, counted on the rest, so that chance gains nothing.
    """
    order = np.argsort(y, kind="stable")
    half = np.empty(len(y), dtype=np.int64)
    half[order] = np.arange(len(y)) % 2
    right = 0
    counts = np.zeros((2, classes, classes), dtype=np.int64)
    np.add.at(counts, (half, predicted, y), 1)
    for k in (0, 1):
        own, label = linear_sum_assignment(counts[k], maximize=True)
        right += counts[1 - k][own, label].sum()
    return right / len(y)
