"""How far any teacher can be relied on in each group: its margins on a loader of held-out examples.

N examples, B of them in a batch, C classes, G groups."""

import torch

from kdlib.asking.batches import array_of, labels_of, parts_of
from kdlib.asking.models import as_asked
from kdlib.asking.reduced import Reduced
from kdlib.config import KdlibError
from kdlib.distilling import processes
from kdlib.losses import label_margin
from kdlib.teacher import group_margins


def margins_of(teacher, loader, group_of=None, limit=None):
    """Mean margin of a teacher in each group, in [0, 1]: (G,) float32, on the teacher's device.

    teacher: a module or function that gives logits; asked in eval mode, and left as it was.
    loader: batches as kdlib.audit_models takes them, of held-out examples, without augmentation.
        Their labels are read.
    group_of: the group of each class, (C,) whole numbers. By default groups are what the batches
        hold beside inputs and labels, (B,) whole numbers from 0 on; without these, the classes.
    limit: how many examples count; the rest fills the last batches of a process of several.

    Of several processes each shows the part that its own loader holds; all get the margins of the
    whole. KdlibError for a group without an example, and for whatever cannot be used."""
    model = Reduced(teacher, "teacher")
    of_class = None if group_of is None else _numbers(group_of)
    margins = []
    groups = []
    n = 0
    with as_asked([model]):
        for batch in loader:
            args, named, labels, more = parts_of(batch)
            y = torch.from_numpy(labels_of(labels, n))
            logits = torch.from_numpy(model.scores(args, named, len(y), n))
            margins.append(label_margin(logits, y))
            if of_class is not None:
                if of_class.shape != (model.classes,):
                    raise KdlibError(
                        f"group_of: has the shape {tuple(of_class.shape)}, must hold the group of "
                        f"each of the {model.classes} classes."
                    )
                y = of_class[y]
            groups.append(y if more is None or group_of is not None else _numbers(more))
            n += len(y)
    if not n:
        raise KdlibError("loader: yields no example to measure the teacher's margin on.")
    parts = processes.gathered((torch.cat(margins)[:limit], torch.cat(groups)[:limit]))
    margin, group = (torch.cat(of) for of in zip(*parts, strict=True))
    if of_class is not None:
        number = int(of_class.max()) + 1
    else:
        number = model.classes if more is None else int(group.max()) + 1
    return group_margins(margin, group, range(number)).to(model.device or "cpu")


def _numbers(groups):
    """int64 of the groups of a batch, or of the classes."""
    numbers = array_of(groups, "groups")
    if numbers.dtype.kind not in "iu":
        raise KdlibError(f"groups: must be whole numbers from 0 on, not {numbers.dtype}.")
    return torch.from_numpy(numbers).long()
