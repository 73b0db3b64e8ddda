"""A frozen teacher, live or as a table of its logits, and how far it can be relied on in each group.

A teacher is a function: teacher(images (B, channels, H, W), index (B,), view (B,)) -> logits (B, C) float32. The live one
looks at the images, the table at index and view."""

import contextlib
import hashlib
import json
import os
import zipfile

import numpy as np
import torch

from kdlib import records
from kdlib.config import FOLDS, KdlibError
from kdlib.data import crop_and_flip, fold_of, normalise, padded, schedule
from kdlib.losses import label_margin
from kdlib.models import folded
from kdlib.readers import cache_folder
from kdlib.train import EVALUATION_BATCH, keep_memory, predict


def frozen(model):
    """The model as a live teacher: a copy in eval mode with folded batch norm that nobody can train."""
    net = folded(model)

    @torch.no_grad()
    def teacher(images, index, view):
        return net(images).float()

    return teacher


# ---------------------------------------------------------------- the table

def planned(stream, epochs, n, views):
    """The (image, view) pairs that a schedule shows, as sorted codes image * views + view, (P,) int64."""
    codes = [order * views + view for order, view in (schedule(stream, epoch, n, views) for epoch in range(epochs))]
    return torch.cat(codes).unique()


class Table:
    """A teacher's logits for views of the training images: the same function as the live teacher, rounded to fp16.

    An image of a padded data set has 162 equally likely views, so a teacher in eval mode is a finite table: computed once,
    for every student and loss. fp16 logits have a relative error of 2e-4; probabilities would lose the temperature."""

    def __init__(self, logits, codes, n, views):
        """logits (P, C) float16; codes (P,) int64, see planned; all n * views of them, or some."""
        self.logits, self.views, self.row = logits, views, None
        if len(codes) < n * views:
            row = torch.full((n * views,), -1, dtype=torch.int32)
            row[codes] = torch.arange(len(codes), dtype=torch.int32)
            self.row = row.to(logits.device)

    def __call__(self, images, index, view):
        at = index * self.views + view
        if self.row is not None:
            at = self.row[at].long()
            if not at.is_cuda and (at < 0).any():   # on a GPU, where asking would wait, tables are complete
                raise KeyError("the teacher's table lacks views that were asked for")
        return self.logits[at].float()

    @classmethod
    def fill(cls, model, data, codes=None):
        """The table of a model over the views of data.train that `codes` names; default: all."""
        n, views = len(data.train), data.views
        codes = torch.arange(n * views) if codes is None else codes
        return cls(_logits(model, data, codes), codes, n, views)


@torch.no_grad()
def _logits(model, data, codes):
    keep_memory()
    net, x, parts = folded(model), padded(data.train.x, data.pad), []
    for some in codes.to(x.device).split(EVALUATION_BATCH[x.device.type]):
        images = normalise(crop_and_flip(x, some // data.views, some % data.views, data.pad), data)
        parts.append(net(images).half())
    return torch.cat(parts)


def table_bytes(pairs, n, views, classes):
    """Memory of a table of `pairs` views: fp16 logits, and where to find them unless all views are there."""
    return pairs * classes * 2 + (n * views * 4 if pairs < n * views else 0)


def teacher_of(model, data, data_sha256, cfg, say=print, warn=print):
    """The teacher of a run of cfg: its table, from the cache or filled now; live if there is no room for a table.

    On a GPU the table is complete and serves all seeds; on a CPU it holds what the schedule of cfg.seed shows, and serves
    all methods of that seed. say(line) hears what memory it takes before it is taken; warn(line) why a cached file was
    refused, or why the teacher is live after all."""
    n, device = len(data.train), data.train.x.device
    plan = {"teacher": weights_sha256(model), "data": data_sha256, "pairs": "all"}
    codes = torch.arange(n * data.views)
    if device.type == "cpu":
        codes = planned(cfg.seed, cfg.epochs, n, data.views)
        plan["pairs"] = f"seed {cfg.seed}, {cfg.epochs} epochs"
    need, free = table_bytes(len(codes), n, data.views, data.classes), free_memory(device)
    say(f"teacher table: {len(codes)} views, {need / 1e6:.0f} MB of {free / 1e9:.1f} GB free")
    if need > 0.5 * free:
        warn(f"teacher table: {need / 1e6:.0f} MB do not fit into {free / 1e6:.0f} MB free; the teacher is asked live")
        return frozen(model)
    name = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
    path = cache_folder() / f"teacher-{name}.npz"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(records.claim(path.stem, path.parent))   # two processes that need it fill it once
        except OSError as error:
            warn(f"teacher table: {path.parent} cannot be used ({error.strerror}); filled for this run alone")
        logits = _read(path, plan, (len(codes), data.classes), warn)
        if logits is None:
            logits = _logits(model, data, codes)
            if not logits.isfinite().all():
                warn("teacher table: logits beyond the range of fp16; the teacher is asked live")
                return frozen(model)
            _write(path, plan, logits, warn)
    return Table(logits.to(device), codes, n, data.views)


def _read(path, plan, shape, warn):
    """Cached logits of just this plan, or None."""
    if not path.exists():
        return None
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:   # compares the file's own checksums
            found, logits = json.loads(str(file["plan"])), file["logits"]
        wrong = next((f"of another {part}" for part in plan if found.get(part) != plan[part]), None)
        if wrong is None and (logits.shape != shape or logits.dtype != np.float16):
            wrong = f"{logits.shape} {logits.dtype}, expected {shape} float16"
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        wrong = f"damaged ({type(error).__name__})"
    if wrong:
        warn(f"{path}: {wrong}; filled again")
        return None
    return torch.from_numpy(logits)


def _write(path, plan, logits, warn):
    try:
        with records.whole_file(path) as temporary:
            np.savez(temporary, logits=logits.cpu().numpy(), plan=json.dumps(plan))
    except (KdlibError, OSError) as error:
        warn(f"teacher table: not kept on disk ({error})")


def free_memory(device):
    """Bytes that can be allocated on a device; where the system does not tell, half of what is built in."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


# ---------------------------------------------------------------- what it is, and how reliable

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
    not trained on, which needs no labels beyond the training set. level "all": (G,) of one number, the mean of the group margins
    over the training images. kind, temperature: see losses.label_margin."""
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
    if level != "example":
        margins = group_margins(margins, split.group.cpu(), data.group_names)
    if level == "all":
        margins = margins[data.train.group.cpu()].mean().expand(len(margins))
    return margins.clamp(0, 1).to(data.train.x.device)
