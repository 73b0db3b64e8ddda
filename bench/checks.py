"""Equivalence checks of the engine: PASS or FAIL for each, on synthetic images.

No record is touched. On a GPU they compare captured steps with the same steps taken eagerly; on a
CPU, where nothing can be captured, they check everything but the capture. `python -m bench gpu`
starts with them; tests run them on the CPU."""

import functools
from dataclasses import replace

import torch

from kdlib.config import Config
from kdlib.cuda import Captured
from kdlib.data import Data, Split, crop_and_flip, normalise, padded, schedule
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.step import Diverged, Run, Stepper
from kdlib.teacher import Table, frozen
from kdlib.train import fit, predict

CFG = Config(
    dataset="cifar10", student="resnet8", imbalance=10, epochs=4, warmup=1, batch_size=32, lr=0.05
)
KD = replace(CFG, method="kd", teacher="resnet8", alpha=0.9, temperature=2.0)


class Eager(Captured):
    """The steps of Captured, without graphs."""

    graphs = False


@functools.cache
def images(device, n=32 * 3 + 7, classes=10):
    """Random 32x32 images with classes to be learned from colour; the last batch of 32 is short."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % classes
    x = torch.randint(0, 128, (n, 32, 32, 3), generator=generator)
    x += (y[:, None] * torch.tensor([12, 5, 9]) % 128)[:, None, None]
    splits = [Split(x.to(torch.uint8), y, y)] * 4
    names = tuple(f"c{c}" for c in range(classes))
    looks = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "pad": 4}
    return Data(*splits, names, names, **looks).to(device)


def new_run(device, cfg=KD, loss=None):
    """A run of cfg from its initial weights, on `images`, with an untrained teacher."""
    data, margins = images(device), torch.linspace(0.1, 0.9, 10, device=device)
    model = build(cfg.student, data.classes, cfg.seed).to(device)
    teacher = frozen(build("resnet8", data.classes, 99).to(device)) if cfg.teacher else None
    loss = loss or method_loss(cfg, margins, data.train)
    return Run(cfg, model, loss, data, teacher)


def difference(run, other):
    """Largest difference of weights and buffers; 0.0 only if all are equal bit for bit."""
    pairs = zip(run.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


# ---------------------------------------------------------------- the checks

# Each returns (passed, what was seen).


def views_are_torchvisions(device):
    from torchvision.transforms import functional as T

    x, views = images(device).train.x[:1], torch.arange(162, device=device)
    seen = crop_and_flip(padded(x, 4), torch.zeros_like(views), views, 4)
    whole = T.pad(x[0].cpu().permute(2, 0, 1), 4)
    wrong = 0
    for view, image in enumerate(seen.cpu()):
        expected = T.crop(whole, view // 9 % 9, view % 9, 32, 32)
        if view >= 81:
            expected = T.hflip(expected)
        wrong += not torch.equal(image.permute(2, 0, 1), expected)
    return wrong == 0, f"{wrong} of 162 views differ"


def table_is_the_live_teacher(device):
    data, generator = images(device), torch.Generator().manual_seed(4)
    network = build("resnet8", data.classes, 99).to(device)
    index = torch.randint(len(data.train), (500,), generator=generator).to(device)
    view = torch.randint(162, (500,), generator=generator).to(device)
    views = normalise(crop_and_flip(padded(data.train.x, 4), index, view, 4), data)
    live = frozen(network)(views, index, view)
    cached = Table.fill(network, data)(None, index, view)
    error = float((cached - live).abs().max() / live.abs().max())
    return error < 2e-3, f"largest difference {error:.1e} of the largest logit (fp16 keeps 5e-4)"


def captured_is_eager(device):
    """100 steps with short batches among them, bit for bit.

    Compared are weights, batch-norm statistics and their count. On a CPU both sides are eager:
    there it says only that the steps repeat and that the warm-up is not counted."""
    cfg = replace(KD, epochs=25)
    ours, theirs = new_run(device, cfg), new_run(device, cfg)
    fit([ours], Captured if device != "cpu" else Eager)
    fit([theirs], Eager)
    apart, counted = difference(ours, theirs), int(ours.model.bn.num_batches_tracked)
    return apart == 0 and counted == 100, f"{counted} steps, largest difference {apart:.1e}"


def captured_is_the_plain_loop(device):
    """Two epochs, against the loop whose rate comes from the host and whose SGD is not fused."""
    cfg = replace(KD, epochs=2)
    ours, theirs = new_run(device, cfg), new_run(device, cfg)
    (mine,) = fit([ours], Captured if device != "cpu" else Eager)
    (plain,) = fit([theirs], Stepper)
    error = max(abs(a / b - 1) for a, b in zip(mine["loss"], plain["loss"], strict=True))
    apart = difference(ours, theirs)
    return error < 1e-4 and apart < 1e-3, f"losses differ by {error:.1e}, weights by {apart:.1e}"


def together_is_alone(device):
    """Runs of several methods, seeds and sizes of network in lockstep, against each alone."""
    ada = replace(KD, method="ada_alpha", alpha=1.0)
    larger = replace(CFG, student="resnet14", seed=2, epochs=3)
    cfgs = [KD, replace(KD, seed=1), ada, CFG, larger]
    group, alone = ([new_run(device, cfg) for cfg in cfgs] for _ in range(2))
    curves = fit(group)
    singles = [fit([run])[0] for run in alone]
    apart = max(difference(a, b) for a, b in zip(group, alone, strict=True))
    seen = f"largest difference {apart:.1e} over {len(cfgs)} runs"
    return apart == 0 and curves == singles, seen


def rate_zero_freezes(device):
    run = new_run(device, replace(KD, lr=0.0))
    # detached: no graph that a capture would meet
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    buffer = run.model.bn.running_mean.clone()
    fit([run])
    moved = [name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])]
    buffers = not torch.equal(buffer, run.model.bn.running_mean)
    what = "moved" if buffers else "stood still"
    return not moved and buffers, f"{len(moved)} weights moved; batch-norm statistics {what}"


def every_image_is_seen(device):
    """Each image once an epoch, the short last batch included, in the views of the schedule."""
    plain, n = method_loss(CFG), len(images(device).train)
    seen, views = torch.zeros(2, n, device=device)

    def loss(logits, batch):
        seen.index_add_(0, batch.index, torch.ones_like(batch.index, dtype=torch.float32))
        views.index_add_(0, batch.index, batch.view.float())
        return plain(logits, batch)

    run, expected = new_run(device, CFG, loss), torch.zeros(n)
    steps = (Captured if device != "cpu" else Eager)(run, padded(run.data.train.x, 4))
    with steps.on_stream():
        seen.zero_()  # what the warm-up saw
        views.zero_()
        for epoch in range(2):
            steps.begin(epoch)
            for number in range(steps.steps_per_epoch):
                steps.step(number)
            steps.end(epoch)
            order, view = steps.schedule(epoch)
            expected[order] += view.float()
    right = bool((seen == 2).all()) and torch.equal(views.cpu(), expected)
    return right, f"counts {sorted(set(seen.int().tolist()))}, expected [2]"


def nan_stops_one_run_alone(device):
    """The run stops with the step of the image that spoiled it.

    The run beside it is as if it had been alone."""
    plain, spoiled = method_loss(CFG), 7

    def loss(logits, batch):
        return plain(logits, batch) / (batch.index != spoiled).float()

    ill = new_run(device, replace(CFG, seed=5), loss)
    well, alone = new_run(device, CFG), new_run(device, CFG)
    stopped, _ = fit([ill, well])
    fit([alone])
    order, _ = schedule(5, 0, len(ill.data.train), 162)
    step = int((order == spoiled).nonzero()) // CFG.batch_size + 1
    right = isinstance(stopped, Diverged) and f"epoch 1 of 4, step {step} of 4" in str(stopped)
    return right and difference(well, alone) == 0, str(stopped)


def bf16_learns(device):
    runs = [new_run(device, replace(KD, precision=precision)) for precision in ("fp32", "bf16")]
    full, half = fit(runs)
    error = max(abs(a / b - 1) for a, b in zip(half["loss"], full["loss"], strict=True))
    dtypes = {t.dtype for t in runs[1].model.state_dict().values()}
    kept = dtypes == {torch.float32, torch.int64}
    return 0 < error < 0.1 and kept, f"losses of {KD.epochs} epochs differ by {error:.1e}"


def prediction_folds(device):
    run = new_run(device)
    fit([run])
    with torch.no_grad():
        plain = run.model.eval()(normalise(run.data.val.x, run.data)).cpu()
    apart = (predict(run.model, run.data.val.x, run.data) - plain).abs().max()
    error = float(apart / plain.abs().max())
    bound = 1e-5 if device == "cpu" else 2e-3
    return error < bound, f"largest difference {error:.1e} of the largest logit"


# first those by which a visit decides, bench/visit.py
CHECKS = (
    captured_is_the_plain_loop,
    rate_zero_freezes,
    every_image_is_seen,
    captured_is_eager,
    views_are_torchvisions,
    table_is_the_live_teacher,
    together_is_alone,
    nan_stops_one_run_alone,
    bf16_learns,
    prediction_folds,
)


def run_all(device, say=print, results=None):
    """{name: {"passed": bool, "seen": str}} of every check; one that raises has failed.

    The others go on. results: a dictionary to fill, so that what is known is there when a check
    hangs."""
    results = {} if results is None else results
    for check in CHECKS:
        try:
            passed, seen = check(device)
        except Exception as error:  # the first time on a new device: say it and go on
            passed, seen = False, f"{type(error).__name__}: {error}"
        results[check.__name__] = {"passed": bool(passed), "seen": seen}
        say(f"{'PASS' if passed else 'FAIL'} {check.__name__}: {seen}")
    return results
