"""How an audit says what is wrong with its input: one sentence, whatever names stand in it."""

import collections

import numpy as np

from kdlib.config import KdlibError

JOINERS = "\u200c\u200d"


class AuditError(KdlibError):
    """Input that an audit cannot use: one line, whatever names stand in it."""

    def __init__(self, sentence):
        super().__init__(printable(sentence, None))


def printable(name, longest=60):
    """A name as one line of text, cut where it is longer than `longest`.

    What cannot be seen, such as marks that turn the direction of writing, is spelled out; but not
    what joins letters, as in Persian, or emoji.
    """
    shown = [c if c.isprintable() or c in JOINERS else repr(c)[1:-1] for c in str(name)]
    seen = "".join(shown)
    if longest is None or len(seen) <= longest:
        return seen
    return seen[: longest - 1] + "…"


def quoted(value):
    """A value as it stands in sentences: text in quotes, cut where it is long."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4, threshold=8)[:60]
    return repr(value[:60]) if isinstance(value, str) else str(value)[:60]


def listed(names):
    """At most eight names, with commas between them."""
    some = ", ".join(printable(name, 40) for name in list(names)[:8])
    return some + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def ends(names):
    """Names by the first and the last: cat … truck."""
    first, last = (printable(names[k], 40) for k in (0, -1))
    return first if len(names) == 1 else f"{first} … {last}"


def encodable(text):
    """Text as it can be written in UTF-8: half a character, a lone surrogate, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_number(value):
    """A value, or text, as float; NaN where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def repeated(names):
    """The first name that is there twice, or None."""
    counts = collections.Counter(names)
    return next((name for name in counts if counts[name] > 1), None)


def reason(error):
    """Why reading failed, in a few words."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"this needs {error.name}, which is not installed"
    if any(mark in said for mark in ("allow_pickle", "Python objects", "weights_only")):
        return "it holds Python objects, which are not read; save numbers or text"
    if "index_col=False" in said:  # of pandas
        return "a row has more cells than the first line names"
    return said.splitlines()[0][:120]
