"""Is a gain real, or a fault of the engine? The usual loop trains a pair of a study again.

`python -m bench replicate STUDY`. It has the study's images, recipe and starting weights, and none
of its loop, views, losses and evaluation: bench/peer.py with every habit, and crops and flips that
torchvision draws."""

import argparse
import functools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch

from bench import peer
from kdlib.config import KdlibError
from kdlib.data import Split, normalise
from kdlib.evidence.metrics import BUCKETS, buckets, panel
from kdlib.models import build
from kdlib.pages.shown import over_seeds
from kdlib.study import datasets
from kdlib.study.done import some_seeds
from kdlib.study.grids import study
from kdlib.study.sweep import default_jobs

PLACES = ("average", *BUCKETS)


def accuracies(predicted, split, bucket):
    """(average, many, medium, few) in per cent: mean over all classes, and over each bucket's."""
    right = (predicted == split.y).double()
    by_class = np.array([100 * right[split.group == g].mean().item() for g in range(len(bucket))])
    by_bucket = [by_class[bucket == k].mean() for k in range(len(BUCKETS))]
    return np.array([by_class.mean(), *by_bucket])


def gains(name, pair, seed, folder=None):
    """(average, many, medium, few): gain of distillation over one-hot training, in points.

    It takes the three networks of one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # crops and flips
    chosen = study(name)
    cfg = chosen.config(pair, "kd", seed)
    data = datasets.load(cfg, folder)
    both, names = (data.test, data.left_out), ("x", "y", "group")
    test = Split(*(torch.cat([getattr(part, name) for part in both]) for name in names))
    counts = torch.bincount(data.train.group, minlength=len(data.group_names)).numpy()
    bucket = buckets(counts, chosen.bucket_edges)
    one = Split(*(getattr(data.test, name)[:1] for name in names))
    seen = replace(data, test=one)  # the loop evaluates after every epoch

    def trained(cfg, teacher=None):
        model = build(cfg.student, data.classes, cfg.seed)
        peer.train(model, seen, cfg, teacher=teacher)
        return model.eval()

    @torch.no_grad()
    def accuracy(model):
        predicted = torch.cat([model(normalise(x, data)).argmax(dim=1) for x in test.x.split(500)])
        return accuracies(predicted, test, bucket)

    distilled = accuracy(trained(cfg, trained(cfg.teacher_config())))
    return distilled - accuracy(trained(cfg.baseline_config()))


def on_record(chosen, pair, seeds):
    """The same gains by the study's records, (S, 4)."""
    p = panel(chosen, pair, seeds)
    # as there: each with its own baseline
    gain = p.accuracy("kd").observed - p.accuracy("one_hot").observed[:seeds]
    return np.stack([(gain * weights).sum(axis=1) for weights in p.places().values()], axis=1)


def told(values):
    """Mean and 95 % interval over the seeds."""
    found = over_seeds(values)
    return f"{found.estimate:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def main(arguments=None):
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench replicate", description=about)
    parser.add_argument("study", metavar="STUDY")
    parser.add_argument("--pair", metavar="TEACHER/STUDENT", help="default: the study's first")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--data", metavar="DIR")
    args = parser.parse_args(arguments)
    chosen = study(args.study)
    pair = tuple(args.pair.split("/")) if args.pair else chosen.pairs[0]
    if pair not in chosen.pairs:
        allowed = ", ".join("/".join(p) for p in chosen.pairs)
        raise KdlibError(f"--pair {args.pair}: allowed: {allowed}.")
    if not chosen.bucket_edges or chosen.demonstration:
        raise KdlibError(
            f"study {chosen.name}: has no buckets by frequency, or no images that torchvision "
            "crops."
        )
    most = some_seeds(chosen.name)
    if not 2 <= args.seeds <= most:
        raise KdlibError(
            f"--seeds {args.seeds}: must be from 2 to {most}, the complete seeds on record."
        )
    of_seed = functools.partial(gains, chosen.name, pair, folder=args.data)
    with ProcessPoolExecutor(default_jobs("cpu"), get_context("spawn")) as pool:
        found = pool.map(of_seed, range(args.seeds))
        print(
            f"{' -> '.join(pair)}: gain of distillation over one-hot, points; mean and 95 % "
            f"interval over {args.seeds} seeds"
        )
        usual = np.array(list(found))
    ours = on_record(chosen, pair, args.seeds)
    for place, here, there in zip(PLACES, usual.T, ours.T, strict=True):
        print(
            f"{place:>8}: usual loop {told(here)}, records {told(there)}, difference "
            f"{told(here - there)}"
        )
    return 0
