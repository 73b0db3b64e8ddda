"""What one model says of the examples, batch by batch; nothing of N x C is kept. Needs torch.

N examples, B of them in a batch, C classes.
"""

import functools
import hashlib
import inspect
from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import log_softmax

from kdlib.asking.batches import array_of, refuse
from kdlib.config import count_of
from kdlib.reading.columns import REDUCED
from kdlib.reading.read import Source
from kdlib.reading.scores import BELOW_ZERO, FLOOR, SUM_ERROR
from kdlib.reading.sentences import AuditError

POSSIBLE = {  # what scores may turn out to be, by the kind that is asked for
    "auto": ("probabilities", "logits"),
    "logits": ("logits",),
    "probabilities": ("probabilities",),
}
PICK = "give a function that picks the scores, as in lambda x: model(x)[0]"


class Reduced:
    """One model, and what is kept of what it has said so far.

    While every row may be a probability, it is reduced as one and as logits too.
    """

    def __init__(self, model, name, kind="auto"):
        self.model = model
        self.name = name
        self.kind = kind
        self.modules = modules_of(model)
        self.device = None  # of the module, when it was asked
        self.classes = None  # as many as the first scores have
        self.single = False  # one score, of the second of two classes
        self.inside = True  # no score below 0 or above 1
        self.summed = True  # every row is like probabilities
        self.parts = {possible: [] for possible in POSSIBLE[kind]}  # columns REDUCED, by batch

    def scores(self, args, named, n, start):
        """(n, C) float64, or (n, 1), of a batch that begins with example start."""
        self.device = home_of(self.modules)
        try:
            said = self.model(*moved(args, self.device), **moved(named, self.device))
        except Exception as error:
            error.add_note(f"kdlib: from the {self.name}, in the batch from example {start} on")
            raise
        if any(part.training for module in self.modules for part in module.modules()):
            raise AuditError(
                f"{self.name}: went into training mode in the batch from example {start} on, "
                "by its own code; an audit asks models in eval mode."
            )
        picked = _picked(said)
        if picked is None:
            what = f"{type(said).__name__} in which the scores cannot be told from the rest"
            raise AuditError(f"{self.name}: returns a {what}; {PICK}.")
        scores = array_of(picked, self.name)
        if scores.ndim == 1:
            scores = scores[:, None]
        if scores.dtype.kind != "f" or scores.ndim != 2 or len(scores) != n or not scores.size:
            raise AuditError(
                f"{self.name}: returns {scores.dtype} of shape {tuple(np.shape(picked))} for {n} "
                "examples; one row of scores is needed for each, with a column for each class."
            )
        self.single = scores.shape[1] == 1
        self.classes = max(2, scores.shape[1])
        return scores.astype(np.float64)

    def add(self, scores, y, start):
        """Reduce the scores of a batch whose labels are y (B,)."""
        most = self._of_all_classes(scores, "logits").max(axis=1)  # NaN if there is one
        refuse(self.name, ~np.isfinite(most), most, start, "which is no score")
        inside = self.inside and ((scores >= 0) & (scores <= 1)).all(axis=1)
        self.inside = bool(np.all(inside))
        like = inside
        if not self.single:
            like = np.abs(scores.sum(axis=1) - 1) <= SUM_ERROR
            like &= (scores >= -BELOW_ZERO).all(axis=1)
            self.summed = self.summed and bool(np.all(like))
        if "probabilities" in self.parts:
            if self.kind == "probabilities":
                refuse(self.name, ~like, scores, start, "which are not probabilities")
            elif not np.all(like):
                del self.parts["probabilities"]
        for kind, parts in self.parts.items():
            parts.append(reduced(self._of_all_classes(scores, kind), y, kind))

    def _of_all_classes(self, scores, kind):
        """(B, C) of scores (B, C), or of (B, 1), which are those of the second of two classes."""
        if not self.single:
            return scores
        other = 1 - scores if kind == "probabilities" else np.zeros_like(scores)
        return np.hstack([other, scores])

    @property
    def found_kind(self):
        """logits or probabilities; AuditError where it cannot be told."""
        asked = "say kind='logits' or kind='probabilities'"
        if self.kind == "auto" and self.single and self.inside:
            raise AuditError(
                f"{self.name}: gives one number from 0 to 1 for each example, which may be a "
                f"probability or a logit; {asked}."
            )
        if self.kind == "logits" and self.summed and not self.single:
            raise AuditError(
                f"{self.name}: said to be logits, but every row is a probability already; "
                "a softmax would be taken twice."
            )
        found = next(iter(self.parts))
        if self.kind == "auto" and found == "logits" and self.inside:
            raise AuditError(
                f"{self.name}: gives numbers from 0 to 1 that do not add up to 1 over the classes; "
                "if they are logits, say kind='logits'."
            )
        return found

    def source(self, names=()):
        """The Source of all examples: the columns REDUCED; names: of the classes, if given."""
        columns = {}
        parts = self.parts[self.found_kind]
        for name, arrays in zip(REDUCED, zip(*parts, strict=True), strict=True):
            columns[name] = np.concatenate(arrays)
        digest = hashlib.sha256()
        for values in columns.values():
            digest.update(values.tobytes())
        if names:  # which may be numbers, in another order
            columns["predicted"] = np.array(names, dtype=object)[columns["predicted"]]
        return Source(self.name, columns, None, digest.hexdigest())

    def sentence(self, names):
        """What the model is and how its scores were taken, without its name; names: of classes."""
        what = "a function of no module that could be found, called as it is"
        if self.modules:
            what = f"{type(self.modules[0]).__name__} on {self.device or 'cpu'}"
        if self.single:
            of = "logit" if self.found_kind == "logits" else "probability"
            return f"{what}; its one score is the {of} of {names[1]!r}."
        return f"{what}; {self.found_kind} of {count_of(self.classes, 'class', 'classes')}."


def reduced(scores, y, kind):
    """The columns REDUCED (B,) of scores (B, C) and labels y (B,), as an audit reads files."""
    if kind == "logits":
        log_p = log_softmax(scores, axis=1)
    else:
        positive = np.maximum(scores, 0)
        with np.errstate(divide="ignore"):  # log of 0
            log_p = np.log(positive) - np.log(positive.sum(axis=1, keepdims=True))
    log_p = np.clip(log_p, FLOOR, 0)
    predicted = scores.argmax(axis=1)
    rows = np.arange(len(y))
    return predicted, log_p[rows, y], log_p[rows, predicted]


def _picked(said):
    """The scores in what a model returned, or None."""
    if hasattr(said, "logits"):  # Hugging Face, or a named tuple
        return said.logits
    if isinstance(said, Mapping):
        if "logits" in said:
            return said["logits"]
        said = tuple(said.values())
    if not isinstance(said, (list, tuple)):
        return said
    if len(said) == 1:
        return said[0]
    matrices = [part for part in said if getattr(part, "ndim", 0) == 2]
    return matrices[0] if len(matrices) == 1 else None


# ---------------------------------------------------------------- modules and their devices


def modules_of(model):
    """The modules that a model is or, of a function, method or object, that it refers to."""
    if isinstance(model, torch.nn.Module):
        return [model]
    owner = getattr(model, "__self__", None)
    held = [owner, *getattr(owner, "__dict__", {}).values()]
    held += getattr(model, "__dict__", {}).values()
    if isinstance(model, functools.partial):
        held += [model.func, *model.args, *model.keywords.values()]
    if inspect.isfunction(model):
        seen = inspect.getclosurevars(model)
        held += [*seen.nonlocals.values(), *seen.globals.values()]
    several = []
    for one in held:
        several += one if isinstance(one, (list, tuple)) else [one]
    return [one for one in several if isinstance(one, torch.nn.Module)]


def home_of(modules):
    """The device of the first parameter or buffer of the modules, or None."""
    for module in modules:
        for tensors in (module.parameters(), module.buffers()):
            first = next(tensors, None)
            if first is not None:
                return first.device
    return None


def moved(held, device):
    """What a batch holds, on a device (None: where it is), all tensors copied.

    A model that changes its inputs in place changes them for no other.
    """
    if isinstance(held, torch.Tensor):
        return held.to(held.device if device is None else device, copy=True)
    if isinstance(held, Mapping):
        return {name: moved(part, device) for name, part in held.items()}
    if isinstance(held, tuple) and hasattr(held, "_fields"):
        return type(held)(*(moved(part, device) for part in held))
    if isinstance(held, (list, tuple)):
        return type(held)(moved(part, device) for part in held)
    return held
