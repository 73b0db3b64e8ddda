"""What the batches of a loader hold: inputs, labels, and groups or ids. Needs torch.

N examples, B of them in a batch. Examples are counted from 0 in the order of the loader.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from kdlib.config import count_of
from kdlib.reading.columns import one_hot
from kdlib.reading.read import Source, as_array
from kdlib.reading.rows import rows_of
from kdlib.reading.sentences import AuditError, listed, reason
from kdlib.reading.values import names_or_numbers

LABEL_NAMES = ("labels", "label", "y", "target", "targets")
MORE_NAMES = ("group", "groups", "id", "ids")


def array_of(values, name):
    """The array of a tensor, of any device and precision, or of whatever numpy can convert.

    name: what it is called in the AuditError for what is no array.
    """
    try:
        return as_array(values)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of many lengths, sparse tensors
        raise AuditError(f"{name}: a batch holds what is no array ({reason(error)}).") from None


def parts_of(batch):
    """(inputs by place, inputs by name, labels, what else is known of each example or None)."""
    if isinstance(batch, Mapping):
        return _parts_by_name(batch)
    several = isinstance(batch, (list, tuple))
    if not several or len(batch) < 2:
        kind = type(batch).__name__
        what = f"a {kind} of {len(batch)}" if several else f"one {kind}"
        raise AuditError(
            f"loader: a batch is {what} and has no labels; it must be (inputs, labels), "
            "(inputs, labels, groups) or a dictionary."
        )
    return (batch[0],), {}, batch[1], batch[2] if len(batch) > 2 else None


def _parts_by_name(batch):
    """What parts_of returns, of a dictionary."""
    label = next((name for name in LABEL_NAMES if name in batch), None)
    if label is None:
        raise AuditError(
            f"loader: a batch holds {listed(batch)}; call its labels {' or '.join(LABEL_NAMES)}."
        )
    more = next((batch[name] for name in MORE_NAMES if name in batch), None)
    inputs = {name: of for name, of in batch.items() if isinstance(of, torch.Tensor)}
    inputs = {name: inputs[name] for name in inputs if name not in (*LABEL_NAMES, *MORE_NAMES)}
    if not inputs:
        raise AuditError(f"loader: a batch holds {listed(batch)}; no tensor is left for the model.")
    if len(inputs) == 1:  # whatever the model calls it
        return tuple(inputs.values()), {}, batch[label], more
    return (), inputs, batch[label], more


def labels_of(values, start):
    """(B,) int64 of the labels of a batch: whole numbers (B,) or (B, 1), or one-hot rows (B, C)."""
    y = array_of(values, "labels")
    if y.ndim == 0:
        raise AuditError("loader: yields single examples; an audit needs batches of them.")
    if y.dtype.kind not in "iufb" or y.ndim > 2:
        raise AuditError(
            f"labels: must be whole numbers, one for each example, not {y.dtype} "
            f"of shape {y.shape}."
        )
    found = Source("labels", {}, start=start)
    if y.ndim == 2 and y.shape[1] != 1:
        found.refuse(~one_hot(y), y, "label", "one class; an audit needs one for each example")
        return y.argmax(axis=1)
    return names_or_numbers(found, y, "label")


def check_order(loader, tables):
    """AuditError where rows of tables, Sources or none, are not the examples in their order."""
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise AuditError(f"loader: {type(loader).__name__} yields no batches.")
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    # of a loader that is given batch_sampler, sampler is there, but is not asked
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if getattr(sampler, "replacement", False):
        raise AuditError("loader: draws examples with replacement; an audit needs each once.")
    as_stored = isinstance(sampler, SequentialSampler)
    as_stored &= loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    for table in tables:
        if not as_stored:
            raise table.error(
                "is given in the order of the examples, but the loader draws them in another; "
                "take shuffle=False, or groups=a function of each batch."
            )
        n = len(loader.dataset)
        if table.ids is None and rows_of(table) != n:
            rows = count_of(rows_of(table), "row")
            raise table.error(f"has {rows}, but the loader {count_of(n, 'example')}.")


def _column_of(values, n, start):
    """(B,) names or numbers, or (B, G) of 0 and 1, of what is known of a batch of n examples."""
    column = array_of(values, "groups")
    if column.shape[:1] != (n,):
        raise AuditError(
            f"groups: {column.shape} is their shape in a batch of {count_of(n, 'example')} from "
            f"example {start} on; one is needed for each."
        )
    if column.shape[1:] == (1,):
        column = column[:, 0]
    if column.ndim > 2 or (column.ndim == 2 and not np.isin(column, (0, 1)).all()):
        raise AuditError(
            f"groups: a batch has {column.dtype} of shape {column.shape}, which are no groups; say "
            "which column is, as in groups=lambda batch: batch[2][:, 0]."
        )
    return column


class Examples:
    """The labels of the examples so far, and what else is known of them."""

    def __init__(self, groups=None):
        """groups: a function of a batch, or a table of all, or None: what the batches hold."""
        self.group_of = groups if callable(groups) else None
        self.known = groups is not None and not callable(groups)
        self.n = 0
        self.labels = []
        self.columns = {}  # name: arrays of each batch

    def add(self, y, more, batch):
        """Take over a batch of labels y (B,)."""
        if self.group_of is not None:
            more = self.group_of(batch)
        columns = more if isinstance(more, Mapping) else {"": more}
        for name, values in columns.items():
            no_ids = self.known and getattr(values, "ndim", 1) != 1
            if values is None or no_ids:
                continue
            column = _column_of(values, len(y), self.n)
            parts = self.columns.setdefault(str(name), [])
            if parts and parts[0].shape[1:] != column.shape[1:]:
                raise AuditError(f"groups: batches differ in shape from example {self.n} on.")
            parts.append(column)
        self.labels.append(y)
        self.n += len(y)

    def sources(self, names=()):
        """(Source of the labels, Source of the groups or None), names: of the classes, if given."""
        y = np.concatenate(self.labels)
        if names:  # which may be numbers, in another order
            y = np.array(names, dtype=object)[y]
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        ids = None
        said = "each batch of the loader was shown once to every model"
        held = columns.get("") if self.group_of is None else None
        if held is not None and held.ndim == 1 and len(set(held.tolist())) == self.n > 1:
            ids = columns.pop("")
            said += "; what the batches hold besides differs everywhere and is taken for ids"
        elif columns and self.group_of is None and not self.known:
            said += "; the groups are what the batches hold besides inputs and labels"
        labels = Source("labels", {"": y}, ids)
        labels.note(f"{said}.")
        return labels, Source("groups", columns) if columns else None
