"""What every study costs: its runs, the images that its networks are trained on, and the time.

The time is that of the two machines whose speed was measured. Nothing is loaded or trained."""

import argparse
import functools
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.inputs import markdown, put
from kdlib.asking.networks import named, untrained
from kdlib.config import FOLDS
from kdlib.data import long_tail_counts
from kdlib.distilling.recipe import PRESET_STUDENT, PRESET_TEACHERS, PRESETS
from kdlib.models import build
from kdlib.study.grids import STUDIES

HERE = Path(__file__).parent
ADULT = 26_058  # training rows
POOLS = {  # images of a class to draw from, classes of a long tail, long tails, images of val
    "digits": (100, 10, 1, 240),
    "cifar20": (400, 20, 1, 2000),
    "cifar100": (500, 100, 1, 5000),
    "cifar10": (5000, 10, 1, 5000),
    "superclass": (500, 5, 20, 5000),
    "superclass_small": (50, 5, 10, 2500),
}


def images_an_epoch(cfg):
    """Training images of a run, from the formula of the draw; without a fold about four fifths."""
    if cfg.dataset == "adult":
        return ADULT
    largest, classes, tails, val = POOLS[cfg.dataset]
    drawn = tails * sum(long_tail_counts(largest, cfg.imbalance, classes, cfg.profile))
    if cfg.fold is not None:
        drawn -= drawn // FOLDS
    return drawn + (val if cfg.with_val else 0)


def works():
    """{study: (its runs, how many no study before has, images these are trained on by network)}."""
    seen, found = set(), {}
    for name, study in STUDIES.items():
        runs = {c.key(): c for run in study() for c in (*run.dependencies(), run)}
        new, trained = [cfg for key, cfg in runs.items() if key not in seen], Counter()
        for cfg in new:
            trained[cfg.student] += cfg.epochs * images_an_epoch(cfg)
        seen |= runs.keys()
        found[name] = len(runs), len(new), trained
    return found


def rates(folder=HERE / "results"):
    """{machine: {network: images/s in training}}, as measured on the CPU and on the GPU."""
    cpu, gpu = (json.loads((folder / f"{kind}.json").read_text()) for kind in ("cpu", "gpu"))
    size, shown = cpu["size"], cpu["size"]["train"] * cpu["size"]["epochs"]
    parts = zip(size["students"], ("C2 small", "C2 large"), strict=True)
    of_cpu = {student: shown / median(cpu[part]["seconds"]["ours"]) for student, part in parts}
    of_gpu = {net: max(measured.values()) for net, measured in gpu["pace"]["images/s"].items()}
    return {f"CPU, {cpu['machine']['device']}": of_cpu, f"GPU, {gpu['device']}": of_gpu}


@functools.cache
def operations(network):
    """Of the forward pass of an image: what rates are scaled by."""
    with FlopCounterMode(display=False) as counter:
        build(network, 100, 0).eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops()


def seconds(measured, trained):
    """Of images by network, at rates scaled from the measured network that is nearest in work."""
    total = 0.0
    for network, images in trained.items():
        work = operations(network)
        near = min(measured, key=lambda name: abs(math.log(operations(name) / work)))
        total += images / measured[near] * work / operations(near)
    return total


def duration(seconds):
    """In words: 12 min, 3.4 h, 56 days."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def table(measured):
    """Markdown: a row per study, and the rates behind the times."""
    rows = []
    for name, (runs, new, trained) in works().items():
        times = ["not measured"] * len(measured)
        if all(network.startswith("resnet") for network in trained):
            times = [duration(seconds(known, trained)) for known in measured.values()]
        images = ", ".join(f"{net} {n / 1e6:.3g}" for net, n in sorted(trained.items()))
        rows.append([f"`{name}`", runs, new, images or "–", *times])
    lines = [markdown(["study", "runs", "new", "million images", *measured], rows)]
    for machine, known in measured.items():
        told = ", ".join(f"{network} {rate:,.0f}" for network, rate in known.items())
        lines.append(f"{machine}: {told} images/s.\n")
    return "\n".join(lines)


# ---------------------------------------------------------------- ImageNet, which nobody ran yet

SHOWN = {"imagenet": 1_281_167, "imagenet-lt": 115_846}  # training images
METHODS = 3  # one_hot, kd and ada_alpha, side by side
GPUS = 8
PACE = 6e13  # operations a second of a GPU in training: 2,400 images of ResNet-50
DECODED = 150  # images a second that a core reads, cuts and resizes
CORES = 64


def forward(network):
    """Operations of torchvision's network for an image of 224 x 224 pixels."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        untrained(named(network), 1000).eval()(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops()


def imagenet():
    """Markdown: what a seed of kdlib distill --preset costs on GPUS, by arithmetic alone."""
    rows = []
    for (name, n), teacher in itertools.product(SHOWN.items(), PRESET_TEACHERS):
        images = n * PRESETS[name]["epochs"]
        student = forward(PRESET_STUDENT)
        # backward costs twice the forward pass; the teacher has none
        steps = METHODS * 3 * student + forward(teacher)
        teaching = 3 * forward(teacher)  # it is trained first, by the same recipe
        hours = [images * work / (GPUS * PACE) / 3600 for work in (steps, teaching)]
        read = 2 * images / (CORES * DECODED) / 3600
        pair = f"{teacher} → {PRESET_STUDENT}"
        shown = [f"{value:.1f} h" for value in (*hours, read)]
        rows.append([f"`{name}`", pair, f"{images / 1e6:.3g}", *shown])
    titles = ["preset", "pair", "million images", "students", "teacher", "reading, of both"]
    return markdown(titles, rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write it into COST.md")
    given, found = parser.parse_args(arguments), table(rates())
    print(found)
    if given.write:
        put(HERE / "COST.md", "cost", found)
        put(HERE / "COST.md", "imagenet", imagenet())
