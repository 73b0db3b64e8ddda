"""An audit of own students on test images, in memory: labels, groups, networks by their names.

N examples, G groups.
"""

import numpy as np

from kdlib.auditing.audit import audit
from kdlib.auditing.students import audit_students
from kdlib.config import KdlibError
from kdlib.distilling.choice import BASELINE, stem
from kdlib.evidence.counts import buckets
from kdlib.reading.names import REDUCED
from kdlib.reading.read import Source
from kdlib.reading.said import ROWS
from kdlib.reading.sentences import AuditError, encodable
from kdlib.reading.values import WHOLE

EDGES = (100, 20)  # training images: many above the first, few below the second


def audited(listing, teacher, methods, called_teacher, say):
    """The Audit of one method that distils, or the Students of several, on test images.

    teacher: its Predictions. methods: {method: [results.Trained]}, BASELINE among them. Inputs are
    called as choice.stem says, called_teacher, and called(listing); they have no hash."""
    test = listing.test
    class_names = np.array(told_apart(listing.class_names, "class"), dtype=object)
    given = {}
    for method, runs in methods.items():
        named = {stem(one.method, one.seed): one.test for one in runs}
        given[method] = [_source(name, x, class_names) for name, x in named.items()]
    baseline = given.pop(BASELINE)
    paths = [test.path(i) for i in range(len(test))]  # None of what is no file
    labels = Source(called(listing), {"": class_names[test.y]})
    compare = audit_students
    if len(given) == 1:
        [given] = given.values()
        compare = audit
    try:
        return compare(
            labels,
            _source(called_teacher, teacher, class_names),
            given,
            baseline,
            _groups(listing),
            classes=class_names,
            train_counts=_counts_for_buckets(listing),
            edges=EDGES,
            images=None if None in paths else list(map(str, paths)),
            say=say and (lambda sentence: say(apt(sentence))),
        )
    except AuditError as error:
        raise KdlibError(f"The students are trained, but not audited: {error}") from None


def _source(name, x, class_names):
    """The Source of what a network predicted. Without a hash: where two methods come to the same
    weights, an audit would take their files for a mistake."""
    columns = (class_names[x.predicted], x.log_p[:, 0], x.log_p[:, 1])
    return Source(name, dict(zip(REDUCED, columns, strict=True)))


def apt(sentence):
    """A sentence on what was read; the rows of networks that were asked here are in order."""
    return sentence.replace(ROWS, "whether it has learned anything is not clear.")


def called(listing):
    """What the labels of test images are called."""
    return f"test images of {listing.folder}"


def _groups_are_classes(listing):
    return tuple(listing.group_names) == tuple(listing.class_names)


def group_names(listing):
    """The names of the groups as an audit has them."""
    what = "class" if _groups_are_classes(listing) else "group"
    return told_apart(listing.group_names, what)


def _groups(listing):
    """The Source of the groups of test images, or None: the classes."""
    if _groups_are_classes(listing) and (listing.test.group == listing.test.y).all():
        return None
    names = np.array(group_names(listing), dtype=object)
    return Source("given by --groups", {"": names[listing.test.group]})


def train_counts(listing):
    """{group, as an audit has it: its training images}"""
    counts = np.bincount(listing.train.group, minlength=len(listing.group_names))
    return dict(zip(group_names(listing), counts.tolist(), strict=True))


def _counts_for_buckets(listing):
    """What train_counts returns, or None: where all groups are in one bucket of EDGES, as in
    balanced data, thirds by the teacher's margin say more."""
    counts = train_counts(listing)
    tested = np.array([*counts.values()])[np.unique(listing.test.group)]
    return counts if len(np.unique(buckets(tested, EDGES))) > 1 else None


def told_apart(names, what):
    """Names as an audit can read them, each still another.

    It takes "01" for the number 1, and a number among words for a place; and drops blanks at the
    ends. Such numbers are called "class 01" or "group 01", by what they name."""
    names = list(map(encodable, names))
    whole = [bool(WHOLE.fullmatch(name)) for name in names]
    if all(whole) and all(name == str(int(name)) for name in names):
        return names
    out = []
    for name, is_number in zip(names, whole, strict=True):
        if name != name.strip() or not name:
            name = repr(name)
        out.append(f"{what} {name}" if is_number else name)
    return out
