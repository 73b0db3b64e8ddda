"""Equivalence checks of the engine, PASS or FAIL for each, and its speed on a GPU; random images.

On a GPU the checks compare captured steps with the same steps taken eagerly; on a CPU, where
nothing can be captured, they check everything but the capture. Tests run them on the CPU."""

import functools
import json
import statistics
from dataclasses import replace

import torch

from bench import inputs
from kdlib.config import Config, KdlibError
from kdlib.cuda import Captured, settings
from kdlib.models import build
from kdlib.step import Run, Stepper, method_loss
from kdlib.teacher import frozen
from kdlib.train import fit

CFG = Config(
    dataset="cifar10", student="resnet8", imbalance=10, epochs=4, warmup=1, batch_size=32, lr=0.05
)
KD = replace(CFG, method="kd", teacher="resnet8", alpha=0.9, temperature=2.0)


class Eager(Captured):
    """The steps of Captured, without graphs."""

    graphs = False


@functools.cache
def images(device):
    """Random images of ten classes, small ones on a CPU; the last batch of 32 is short."""
    side = 8 if device == "cpu" else 32
    return inputs.images(train=103, test=103, classes=10, side=side).to(device)


def new_run(device, cfg=KD, loss=None):
    """A run of cfg from its initial weights, on `images`, with an untrained teacher."""
    data, margins = images(device), torch.linspace(0.1, 0.9, 10, device=device)
    model = build(cfg.student, data.classes, cfg.seed).to(device)
    teacher = frozen(build("resnet8", data.classes, 99).to(device)) if cfg.teacher else None
    return Run(cfg, model, loss or method_loss(cfg, margins, data.train), data, teacher)


def difference(run, other):
    """Largest difference of weights and buffers; 0.0 only if all are equal bit for bit."""
    pairs = zip(run.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


# ---------------------------------------------------------------- the checks

# Each returns (passed, what was seen).


def captured_is_the_plain_loop(device):
    """Two epochs, against the loop whose rate comes from the host and whose SGD is not fused."""
    cfg = replace(KD, epochs=2)
    ours, theirs = new_run(device, cfg), new_run(device, cfg)
    (mine,) = fit([ours], Captured if device != "cpu" else Eager)
    (plain,) = fit([theirs], Stepper)
    error = max(abs(a / b - 1) for a, b in zip(mine["loss"], plain["loss"], strict=True))
    apart = difference(ours, theirs)
    return error < 1e-4 and apart < 1e-3, f"losses differ by {error:.1e}, weights by {apart:.1e}"


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


def together_is_alone(device):
    """Runs of several methods, seeds and sizes of network in lockstep, against each alone."""
    ada = replace(KD, method="ada_alpha", alpha=1.0)
    larger = replace(CFG, student="resnet14", seed=2, epochs=3)
    cfgs = [KD, replace(KD, seed=1), ada, CFG, larger]
    group, alone = ([new_run(device, cfg) for cfg in cfgs] for _ in range(2))
    same = fit(group) == [fit([run])[0] for run in alone]
    apart = max(difference(a, b) for a, b in zip(group, alone, strict=True))
    return same and apart == 0, f"largest difference {apart:.1e} over {len(cfgs)} runs"


CHECKS = (captured_is_the_plain_loop, captured_is_eager, together_is_alone)


def run_all(device, say=print, results=None):
    """{name: {"passed": bool, "seen": str}} of every check; one that raises has failed.

    results: a dictionary to fill, so that what is known is there when a check hangs."""
    results = {} if results is None else results
    for check in CHECKS:
        try:
            passed, seen = check(device)
        except Exception as error:  # the first time on a new device: say it and go on
            passed, seen = False, f"{type(error).__name__}: {error}"
        results[check.__name__] = {"passed": bool(passed), "seen": seen}
        say(f"{'PASS' if passed else 'FAIL'} {check.__name__}: {seen}")
    return results


# ---------------------------------------------------------------- how fast


def pace(data, network, count):
    """Images/s of `count` runs side by side on labels; the first of three epochs warms up."""
    cfgs = [inputs.config(network, epochs=3, seed=seed) for seed in range(count)]
    _, ends = inputs.engine(data, cfgs)
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    return count * len(data.train) / statistics.median(seconds)


def measure(device, out, quick=False):
    """Checks, then images/s, into a JSON file as they come: True if all checks passed.

    quick: few images; the numbers mean nothing."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise KdlibError("torch cannot use a GPU here.")
        settings()  # before anything is computed there
    data = inputs.images(*((8, 16) if quick else ())).to(device)
    speeds = {network: {} for network in ("resnet20", "resnet56")}
    results = inputs.machine(device) | {"E": {}, "pace": {"images/s": speeds}}

    def say(line):
        print(line, flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")

    run_all(device, say, results["E"])
    for network, found in speeds.items():
        for count in (1, 8):
            found[count] = pace(data, network, count)
            say(f"{network}, {count} at once: {found[count]:,.0f} images/s")
    return all(check["passed"] for check in results["E"].values())
