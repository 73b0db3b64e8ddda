"""What every study costs: its runs, the images that its networks are trained on, and the time.

The time is that of the two machines whose speed was measured. Nothing is loaded or trained."""

import argparse
import functools
import json
import math
from collections import Counter
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.inputs import markdown, put
from kdlib.config import FOLDS
from kdlib.data import long_tail_counts
from kdlib.models import build
from kdlib.study.grids import STUDIES

HERE = Path(__file__).parent
POOLS = {  # images of a class to draw from, classes of a long tail, long tails, images of val
    "digits": (100, 10, 1, 240),
    "cifar20": (400, 20, 1, 2000),
    "cifar100": (500, 100, 1, 5000),
    "cifar10": (5000, 10, 1, 5000),
    "superclass": (500, 5, 20, 5000),
}


def images_an_epoch(cfg):
    """Training images of a run, from the formula of the draw; without a fold about four fifths."""
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


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write it into COST.md")
    given, found = parser.parse_args(arguments), table(rates())
    print(found)
    if given.write:
        put(HERE / "COST.md", "cost", found)
