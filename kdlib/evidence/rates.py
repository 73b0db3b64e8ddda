"""Whom two-class networks select: rates of groups and their largest differences. numpy only.

The second class is the positive one, as in fairlearn; whom a network gives it is *selected*. Axes:
S networks, N examples, G groups.
"""

import numpy as np

from kdlib.evidence.resample import Groups, group_means

SELECTION, TPR, FPR = RATES = ("selection rate", "true positive rate", "false positive rate")
PARITY, ODDS = DIFFERENCES = ("demographic parity difference", "equalised odds difference")


def rates(predicted, y, group, names):
    """{rate: GroupMeans (S, G), in per cent} of networks by group.

    predicted (S, N), y (N,): 0 or 1; group (N,): index into names. A true positive rate is that of
    the group's examples of class 1, a false positive rate of those of class 0; NaN where there are
    none. Test examples are redrawn within a group, and within group and class for the last two."""
    cells = Groups.of(2 * np.asarray(group) + y, [f"{g}, {c}" for g in names for c in (0, 1)])
    by_class = 100 * group_means(predicted, cells)
    return {
        SELECTION: 100 * group_means(predicted, Groups.of(group, names)),
        TPR: by_class.map(lambda values: values[..., 1::2]),
        FPR: by_class.map(lambda values: values[..., 0::2]),
    }


def spread(values):
    """(..., G) -> (...): the highest group minus the lowest, of those that have a value."""
    return np.nanmax(values, axis=-1) - np.nanmin(values, axis=-1)


def differences(found):
    """{difference: GroupMeans (S,), in points} of `rates`.

    The largest difference between groups in selection rates (demographic parity difference), and
    the larger of those in true and in false positive rates (equalised odds difference; Agarwal et
    al. 2018 as in fairlearn)."""

    def odds(tpr, fpr):
        return np.maximum(spread(tpr), spread(fpr))

    return {PARITY: found[SELECTION].map(spread), ODDS: found[TPR].map(odds, found[FPR])}
