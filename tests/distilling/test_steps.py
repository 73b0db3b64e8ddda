"""Training on images that may lie on disk: the study's own loop; and a batch norm of two processes.

What two processes leave of a whole distillation is tested in test_run."""

from dataclasses import replace

import torch
from torch import distributed, nn

from kdlib.asking.networks import named
from kdlib.data import Data
from kdlib.distilling import prepared, processes
from kdlib.distilling.listing import listing
from kdlib.distilling.networks import fresh
from kdlib.distilling.prepared import data_of
from kdlib.distilling.recipe import own, recipe
from kdlib.distilling.steps import once, shared
from kdlib.distilling.views import Pictures
from kdlib.step import Run, Stepper, method_loss
from kdlib.teacher import frozen, weights_sha256
from kdlib.train import fit, predict

COLOURS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def trained(folder, student="kdlib:resnet8", workers=0, epochs=3):
    """(Runs of one_hot and kd, trained in lockstep; their curves; images that were seen)."""
    data = data_of(listing(folder), 20, "padded", *COLOURS, "cpu", workers)
    teacher = once(frozen(fresh(named("kdlib:resnet8"), 3, 7)))
    fields = recipe(epochs=epochs, size=20, batch_size=16, lr=0.003)
    fields |= {"student": student, "teacher": "kdlib:resnet8", "augment": "padded"}
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
    """Logits of test."""
    return processes.predicted(run.model, run.data.test.x, run.data)


def weights(runs):
    return [weights_sha256(run.model) for run in runs]


def test_images_in_memory_give_the_very_weights_of_the_study_s_own_step(pictures):
    runs, curves, seen = trained(pictures)
    assert seen == 3 * 54 and curves[0]["loss"][-1] < curves[0]["loss"][0]
    own = runs[0].data
    names = ("train", "val", "test", "left_out", "class_names", "group_names", "mean", "std", "pad")
    plain = Data(**{name: getattr(own, name) for name in names})
    again = []
    for run in runs:
        loss = method_loss(run.cfg, None, plain.train)
        teacher = frozen(fresh(named("kdlib:resnet8"), 3, 7)) if run.cfg.teacher else None
        again.append(Run(run.cfg, fresh(named("kdlib:resnet8"), 3, 0), loss, plain, teacher))
    assert fit(again, Stepper) == curves
    assert weights(again) == weights(runs)
    assert torch.equal(predict(again[1].model, plain.test.x, plain), said(runs[1]))


def test_images_on_disk_give_the_very_weights_of_images_in_memory(pictures, monkeypatch):
    held, curves, _ = trained(pictures)
    assert isinstance(held[0].data.train.x, torch.Tensor)
    monkeypatch.setattr(prepared, "HELD", 0)
    read, again, _ = trained(pictures, workers=1)
    assert isinstance(read[0].data.train.x, Pictures)
    assert again == curves and weights(read) == weights(held)
    more = [replace(run, model=fresh(named("kdlib:resnet8"), 3, 0)) for run in read]
    fit(more, shared(lambda images: None))  # of the same images, as another seed does
    assert weights(more) == weights(held)
    assert torch.equal(said(read[1]), said(held[1]))


def test_a_network_that_draws_numbers_is_the_same_alone_and_beside_others(pictures):
    student = "torchvision:mobilenet_v3_small"  # drops units at random
    runs, *_ = trained(pictures, student, epochs=1)
    first = runs[0]
    alone = Run(first.cfg, fresh(named(student), 3, 0), first.loss, first.data)
    torch.manual_seed(123)
    fit([alone], shared(lambda images: None))
    assert weights([alone]) == weights([first])


def normed():
    """The output of a batch norm over a batch dealt out among processes, its gradient, its mean and
    variance."""
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


def normed_in(rank, folder):
    """The same in one of two processes, in a file."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(normed(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_a_batch_norm_of_two_processes_is_one_over_the_whole_batch(tmp_path):
    torch.multiprocessing.start_processes(normed_in, (tmp_path,), 2, start_method="fork")
    out, gradient, mean, variance = normed()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), out)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)
    for part in parts:
        torch.testing.assert_close(part[2], mean)
        torch.testing.assert_close(part[3], variance)
