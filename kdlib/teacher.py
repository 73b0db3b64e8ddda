"""A frozen teacher, live or as a table of its logits, and how far each group can rely on it.

A teacher is a function: teacher(images (B, channels, H, W), index (B,), view (B,)) -> logits (B, C)
float32. The live one looks at the images, the table at index and view."""

import hashlib

import torch

from kdlib.arguments import checked
from kdlib.config import KdlibError
from kdlib.data import crop_and_flip, fold_of, normalise, padded, schedule
from kdlib.losses import label_margin
from kdlib.models import folded
from kdlib.train import EVALUATION_BATCH, keep_memory, predict


def frozen(model):
    """The model as a live teacher: a copy in eval mode with folded batch norm, never trained."""
    net = folded(model)
    return lambda images, index, view: net(images).float()


def planned(seed, epochs, n, views):
    """The (image, view) pairs a schedule shows, as sorted codes image * views + view: (P,)."""
    shown = (schedule(seed, epoch, n, views) for epoch in range(epochs))
    return torch.cat([order * views + view for order, view in shown]).unique()


class Table:
    """A teacher's logits for views of the training images: the live teacher, rounded to fp16.

    An image of a padded data set has 162 equally likely views, so a teacher in eval mode is a
    finite table: computed once, for every student and loss. fp16 logits have a relative error of
    2e-4; probabilities would lose the temperature."""

    def __init__(self, logits, codes, n, views):
        """logits (P, C) float16; codes (P,) int64, see planned; all n * views of them, or some."""
        self.logits = logits
        self.views = views
        self.row = None
        if len(codes) < n * views:
            row = torch.full((n * views,), -1, dtype=torch.int32)
            row[codes] = torch.arange(len(codes), dtype=torch.int32)
            self.row = row.to(logits.device)

    def __call__(self, images, index, view):
        at = index * self.views + view
        if self.row is not None:
            at = self.row[at].long()
            # on a GPU, where asking would wait, tables are complete
            if not at.is_cuda and (at < 0).any():
                raise KeyError("the teacher's table lacks views that were asked for")
        return self.logits[at].float()


@torch.no_grad()
def view_logits(model, data, codes):
    """Logits (P, C) float16 of the views of data.train that codes (P,) name, see planned."""
    keep_memory()
    net = folded(model)
    x = padded(data.train.x, data.pad)
    parts = []
    for some in codes.to(x.device).split(EVALUATION_BATCH[x.device.type]):
        images = normalise(crop_and_flip(x, some // data.views, some % data.views, data.pad), data)
        parts.append(net(images).half())
    return torch.cat(parts)


def near_chance(accuracy, classes):
    """Whether an accuracy, mean over the classes, is too low to teach: below twice chance, and of
    few classes, of which twice chance would be perfect, not a tenth of the way from it to 1."""
    chance = 1 / classes
    return accuracy < min(2 * chance, chance + 0.1 * (1 - chance))


def weights_sha256(model):
    """Hash of every parameter and buffer, by name, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


@checked
def group_margins(margins, group, group_names):
    """Mean margin of each group, clipped to [0, 1]: margins (N,), group (N,) -> (G,).
    KdlibError for a group without an example."""
    groups = len(group_names)
    n = torch.bincount(group, minlength=groups)
    if (n == 0).any():
        empty = group_names[int((n == 0).nonzero()[0])]
        raise KdlibError(f"Group {empty!r} has no example to measure the teacher's margin on.")
    total = torch.bincount(group, weights=margins.double(), minlength=groups)
    return (total / n).clamp(0, 1).float()


def measured_margins(
    data, model, source="val", level="group", kind="avg", temperature=1.0, fold_models=()
):
    """How reliable the teacher is: margins in [0, 1], (G,), (C,) or (N_train,) by level.

    level "group": the mean of each group; "class": of each class; "example": of each image.

    source: "val" (held-out), "train" (training images, un-augmented), or "crossfit": fold_models[k]
    scores the fold it was not trained on, which needs no labels beyond the training set.
    level "all": (G,) of one number, the mean of the group margins over the training images.
    kind, temperature: see losses.label_margin."""

    def score(net, split):
        return label_margin(predict(net, split.x, data), split.y.cpu(), temperature, kind)

    split = data.val if source == "val" else data.train
    if source == "crossfit":
        by_fold = torch.stack([score(net, split) for net in fold_models])
        margins = by_fold.gather(0, fold_of(split.y).cpu()[None]).squeeze(0)
    else:
        margins = score(model, split)
    if level == "class":
        margins = group_margins(margins, split.y.cpu(), data.class_names)
    elif level != "example":
        margins = group_margins(margins, split.group.cpu(), data.group_names)
    if level == "all":
        margins = margins[data.train.group.cpu()].mean().expand(len(margins))
    return margins.clamp(0, 1).to(data.train.x.device)
