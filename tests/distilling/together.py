"""What each of two processes does in test_processes: run by torchrun, it writes what came out."""

import sys
from pathlib import Path

import torch
from torch import nn

from kdlib.asking.networks import named
from kdlib.distilling import processes
from kdlib.distilling.listing import listing
from kdlib.distilling.networks import fresh
from kdlib.distilling.prepared import data_of
from kdlib.distilling.recipe import own, recipe
from kdlib.distilling.steps import Once, shared
from kdlib.step import Run, method_loss
from kdlib.teacher import frozen
from kdlib.train import fit

COLOURS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def trained(folder, student="kdlib:resnet8", augment="padded", workers=0, epochs=3):
    """(Runs of one_hot and kd, trained in lockstep; their curves; images that were seen)."""
    data = data_of(listing(folder), 20, augment, *COLOURS, "cpu", workers)
    teacher = Once(frozen(fresh(named("kdlib:resnet8"), 3, 7)))
    fields = recipe(epochs=epochs, size=20, batch_size=16, lr=0.003)
    fields |= {"student": student, "teacher": "kdlib:resnet8", "augment": augment}
    runs = []
    for name in ("one_hot", "kd"):
        cfg = own(name, **fields)
        model = fresh(named(student), 3, cfg.seed)
        loss = method_loss(cfg, None, data.train)
        runs.append(Run(cfg, model, loss, data, teacher if cfg.teacher else None))
    seen = []
    curves = fit(runs, shared(seen.append))
    return runs, curves, sum(seen)


def said(run):
    """Logits of test, of which each process does a part."""
    return processes.predicted(run.model, run.data.test.x, run.data)


def normed():
    """The output of a batch norm over a batch dealt out among processes, and its gradient."""
    torch.manual_seed(0)
    x = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    scale = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    if processes.count() > 1:
        processes._synchronised(norm)
    own = processes.part_of(x).clone().requires_grad_()
    out = norm(own)
    (out * processes.part_of(scale)).sum().backward()
    return out.detach(), own.grad, norm.running_mean, norm.running_var


if __name__ == "__main__":
    with processes.joined("cpu"):
        runs, curves, seen = trained(Path(sys.argv[1]), epochs=1)
        weights = [run.model.state_dict() for run in runs]
        result = (weights, curves, said(runs[1]), seen, normed())
        torch.save(result, f"{sys.argv[2]}.{processes.rank()}")
