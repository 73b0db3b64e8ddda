"""A frozen teacher, and how far it can be relied on in each group."""

import copy
import hashlib

import torch

from kdlib.config import FOLDS, KdlibError
from kdlib.data import fold_of
from kdlib.losses import label_margin
from kdlib.train import predict


def frozen(model):
    """The model as a function from images to logits: a copy in eval mode that nobody can train."""
    model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def teacher(images):
        return model(images)

    return teacher


def weights_sha256(model):
    """Hash of every parameter and buffer, by name, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def group_margins(margins, group, group_names):
    """Mean margin of each group, clipped to [0, 1]: margins (N,), group (N,) -> (G,). An empty group is an error."""
    groups = len(group_names)
    n = torch.bincount(group, minlength=groups)
    if (n == 0).any():
        raise KdlibError(f"Group {group_names[int((n == 0).nonzero()[0])]!r} has no example to measure the teacher's margin on.")
    return (torch.bincount(group, weights=margins.double(), minlength=groups) / n).clamp(0, 1).float()


def measured_margins(data, model, source="val", level="group", kind="avg", temperature=1.0, fold_models=()):
    """How reliable the teacher is: margins in [0, 1], (G,), or (N_train,) for level "example".

    source: "val" (held-out), "train" (training images, un-augmented), or "crossfit": fold_models[k] scores the fold it was
    not trained on, which needs no labels beyond the training set. kind, temperature: see losses.label_margin."""
    def score(net, split):
        return label_margin(predict(net, split.x, data), split.y.cpu(), temperature, kind)

    split = data.val if source == "val" else data.train
    if source == "crossfit":
        if len(fold_models) != FOLDS:
            raise KdlibError(f"margin_source 'crossfit' needs {FOLDS} fold teachers, got {len(fold_models)}.")
        by_fold = torch.stack([score(net, split) for net in fold_models])
        margins = by_fold.gather(0, fold_of(split.y).cpu()[None]).squeeze(0)
    else:
        margins = score(model, split)
    margins = margins if level == "example" else group_margins(margins, split.group.cpu(), data.group_names)
    return margins.clamp(0, 1).to(data.train.x.device)
