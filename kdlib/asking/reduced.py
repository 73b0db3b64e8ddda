"""What one model says of the examples, batch by batch; nothing of N x C is kept. Needs torch.

N examples, B of them in a batch, C classes.
"""

import functools
import hashlib
import inspect
import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from kdlib.asking.batches import array_of
from kdlib.config import count_of
from kdlib.reading.names import REDUCED
from kdlib.reading.read import Source
from kdlib.reading.scores import Rows, kind_of_rows, with_other_class
from kdlib.reading.sentences import AuditError


class Reduced:
    """One model, and what is kept of what it has said so far."""

    def __init__(self, model, name, kind="auto"):
        self.model = model
        self.name = name
        self.kind = kind
        self.modules = modules_of(model)
        self.device = None  # of the module, when it was asked
        self.width = None  # scores of each example; one is that of the second of two classes
        self.parts = []  # of each batch the Rows; of single scores these, and the labels

    @property
    def single(self):
        return self.width == 1

    @property
    def classes(self):
        return max(2, self.width)

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
            raise AuditError(
                f"{self.name}: returns a {type(said).__name__} in which the scores cannot be told "
                "from the rest; give a function that picks them, as in lambda x: model(x)[0]."
            )
        scores = array_of(picked, self.name)
        if scores.ndim == 1:
            scores = scores[:, None]
        if scores.dtype.kind != "f" or scores.ndim != 2 or len(scores) != n or not scores.size:
            raise AuditError(
                f"{self.name}: returns {scores.dtype} of shape {tuple(np.shape(picked))} for {n} "
                "examples; one row of scores is needed for each, with a column for each class."
            )
        width = scores.shape[1]
        if self.width not in (None, width):
            raise AuditError(
                f"{self.name}: returns {count_of(width, 'score')} for each example in the batch "
                f"from example {start} on, but {self.width} before."
            )
        self.width = width
        return scores.astype(np.float64)

    def add(self, scores, y, start):
        """Reduce the scores of a batch whose labels are y (B,)."""
        found = Source(self.name, {}, start=start)
        if self.single:  # whose other score depends on what all of them are
            self.parts.append((scores[:, 0], y))
            most = scores[:, 0]
        else:
            self.parts.append(Rows.of(scores, y))
            most = self.parts[-1].most
        found.refuse(~np.isfinite(most), most, "a score", "a finite number")
        if self.kind == "probabilities" and not self.single:
            wrong = ~self.parts[-1].like_probabilities()
            found.refuse(wrong, scores, "the row of scores", "one of probabilities")

    def source(self, names=()):
        """The Source of all examples: the columns REDUCED; names: of the classes, if given.

        AuditError where it cannot be told what the scores are.
        """
        found = Source(self.name, {})
        rows, kind = self._rows(found)
        of = f"{kind} of {count_of(self.classes, 'class', 'classes')}"
        if self.single:
            word = {"logits": "logit", "probabilities": "probability"}[kind]
            of = f"its one score is the {word} of {names[1] if names else '1'!r}"
        what = "a function of no module that could be found, called as it is"
        if self.modules:
            what = f"{type(self.modules[0]).__name__} on {self.device or 'cpu'}"
        found.note(f"{what}; {of}.")
        reduced = (rows.predicted, *rows.log_probabilities(kind))
        digest = hashlib.sha256(b"".join(values.tobytes() for values in reduced))
        columns = dict(zip(REDUCED, reduced, strict=True))
        if names:  # which may be numbers, in another order
            columns["predicted"] = np.array(names, dtype=object)[rows.predicted]
        return replace(found, columns=columns, sha256=digest.hexdigest())

    def _rows(self, found):
        """(Rows of all examples, kind of their scores)."""
        if not self.single:
            rows = Rows.joined(self.parts)
            return rows, kind_of_rows(found, rows, self.kind)
        score, y = map(np.concatenate, zip(*self.parts, strict=True))
        kind = self.kind if self.kind != "auto" else "logits"
        if self.kind == "auto" and ((score >= 0) & (score <= 1)).all():
            raise found.error(
                "gives one number from 0 to 1 for each example, which may be a probability or "
                "a logit; say kind='logits' or kind='probabilities'."
            )
        return Rows.of(with_other_class(found, score, kind), y), kind


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
    tensors = (itertools.chain(module.parameters(), module.buffers()) for module in modules)
    return next((tensor.device for tensor in itertools.chain.from_iterable(tensors)), None)


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
