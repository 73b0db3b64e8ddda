"""The CPU part: distillation, labels, the data path against the usual loop; and an audit.

The two sides take turns. The usual loop is timed in a process of its own: what this engine asks of
its process, such as to keep freed memory, is not the usual loop's to enjoy."""

import argparse
import functools
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

import kdlib
from bench import inputs, peer
from kdlib.data import crop_and_flip, normalise, padded, schedule
from kdlib.teacher import frozen, planned

HERE = Path(__file__).parent
RESULTS = HERE / "results/cpu.json"
WORKERS = (0, 1, 2)  # of the usual loop's loader
ROWS = (  # id, what, part of the results, our side there; must and aim, fixed beforehand
    ("C1 cached", "distillation ResNet-56 → ResNet-8, teacher from a table", "C1", "cached", 3, 4),
    ("C1 live", "the same, teacher asked at every step", "C1", "live", 1.6, 2),
    ("C2 R8", "ResNet-8 on labels", "C2 small", "ours", 1.7, 2.2),
    ("C2 R20", "ResNet-20 on labels", "C2 large", "ours", 1.5, 1.9),
    ("C3", "data path alone: the views of one epoch", "C3", "ours", 10, 20),
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    train: int = 1024  # images of a training epoch
    test: int = 1024  # images of the evaluation after each epoch
    path: int = 10_847  # images of the data path alone
    batch_size: int = 128
    epochs: int = 2  # of a timed run
    rounds: int = 3  # each times every side once
    teacher: str = "resnet56"
    students: tuple = ("resnet8", "resnet20")  # the first learns from the teacher, both from labels
    audit: tuple = (100_000, 1000, 1000)  # examples, classes, resamples


QUICK = Size(24, 16, 64, 16, 1, 1, "resnet14", ("resnet8", "resnet14"), (2000, 20, 50))


# ---------------------------------------------------------------- what is timed


def usual_views(data, cfg, workers):
    """The views of one epoch as torchvision and a DataLoader make them."""
    for _ in peer.training_batches(data, cfg, 0, workers):
        pass


def our_views(data, cfg):
    """The views of one epoch as kdlib makes them, padding of the images included."""
    x = padded(data.train.x, data.pad)
    order, views = schedule(cfg.seed, 0, len(data.train), data.views)
    for index, view in zip(order.split(cfg.batch_size), views.split(cfg.batch_size), strict=True):
        normalise(crop_and_flip(x, index, view, data.pad), data)


def three_models(examples, classes):
    """Labels, and the logits of a teacher, a student and a baseline: arrays for an audit."""
    rng = np.random.default_rng(0)
    y, models = rng.integers(0, classes, examples), []
    for above in (3.2, 3.0, 2.8):  # logit of the label above the others
        models.append(rng.standard_normal((examples, classes), dtype=np.float32))
        models[-1][np.arange(examples), y] += above
    return y, *models


def seconds(function, *arguments):
    """Wall time of a call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compared(pool, rounds, usual, **sides):
    """Seconds of calls (function, *arguments), {name: [one per round]}.

    The usual one, in the process of the pool, gets the number of workers that served it best. In a
    round each runs once, in order; before that once for warming up."""

    def theirs(workers):
        return pool.submit(seconds, *usual, workers).result()

    theirs(WORKERS[0])
    tried = {workers: theirs(workers) for workers in WORKERS}
    best = min(tried, key=tried.get)
    for side in sides.values():
        seconds(*side)
    found = {name: [] for name in ("peer", *sides)}
    for _ in range(rounds):
        found["peer"].append(theirs(best))
        for name, side in sides.items():
            found[name].append(seconds(*side))
    return {"workers": best, "workers_tried": tried, "seconds": found}


def measure(size):
    """All measurements, ready for JSON."""
    start, data = time.perf_counter(), inputs.images(size.train, size.test)
    results = {"machine": inputs.machine("cpu"), "images": "random ones", "size": asdict(size)}
    config = functools.partial(inputs.config, epochs=size.epochs, batch_size=size.batch_size)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        cfg, network = config(size.students[0], size.teacher), inputs.teacher(size.teacher, data)
        codes = planned(cfg.seed, cfg.epochs, len(data.train), data.views)
        results["C1"] = {"pairs": len(codes)} | compared(
            pool,
            size.rounds,
            (peer.train, data, cfg, network),
            cached=(inputs.engine, data, [cfg], inputs.table(network, data, codes)),
            live=(inputs.engine, data, [cfg], frozen(network)),
            fill=(inputs.table, network, data, codes),
        )
        for part, student in zip(("C2 small", "C2 large"), size.students, strict=True):
            cfg = config(student)
            usual = (peer.train, data, cfg, None)
            results[part] = compared(pool, size.rounds, usual, ours=(inputs.engine, data, [cfg]))
        path = inputs.images(size.path, 1), cfg
        usual = (usual_views, *path)
        results["C3"] = compared(pool, size.rounds, usual, ours=(our_views, *path))
    *shape, resamples = size.audit
    arrays = three_models(*shape)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        results["audit"] = seconds(lambda: kdlib.audit(*arrays, resamples=resamples).save(page))
    return json.loads(json.dumps(results | {"seconds": time.perf_counter() - start}))


# ---------------------------------------------------------------- how it is shown


def ratios(results, part, side):
    """Ratio of each round: seconds of the usual loop over ours."""
    found = results[part]["seconds"]
    return [peer / ours for peer, ours in zip(found["peer"], found[side], strict=True)]


def spread(values):
    """Median (lowest to highest)."""
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def verdict(value, must, aim):
    if value < must:
        return "not met"
    return "met" if value < aim else "met, and the aim"


def table(results):
    """Markdown: the ratios, and what has to be known with them."""
    header, rows = ["id", "what", "usual loop", "this engine", "ratio", "must", "aim", ""], []
    for name, what, part, side, must, aim in ROWS:
        found, ratio = results[part]["seconds"], ratios(results, part, side)
        times = [f"{median(found[who]):.2f} s" for who in ("peer", side)]
        met = verdict(median(ratio), must, aim)
        rows.append([name, what, *times, f"**{spread(ratio)}**", must, aim, met])
    m, size, c1 = results["machine"], results["size"], results["C1"]
    middle = {name: median(values) for name, values in c1["seconds"].items()}
    pays_after = middle["fill"] / (middle["live"] - middle["cached"])  # students
    workers = ", ".join(f"{part} {results[part]['workers']}" for part in results if part[0] == "C")
    return f"""{inputs.markdown(header, rows)}
Medians (range) of {size["rounds"]} rounds, in each of which every side ran once, in turn; ratios
are taken within a round. {size["train"]:,} training images ({size["path"]:,} for C3), batch
{size["batch_size"]}, {size["epochs"]} epochs a run, {size["test"]:,} test images after each;
images: {results["images"]}. DataLoader workers that served the usual loop best: {workers}.

The table of C1 takes {spread(c1["seconds"]["fill"])} s to fill for the {c1["pairs"]:,} pairs of
image and view that a run shows: cheaper than a live teacher from {pays_after:.2f} students on.

{m["device"]}, {m["cores"]} cores, {m["threads"]} threads; Python {m["python"]}, torch {m["torch"]};
{m["date"]}, commit {m["git"]}; load before the start {m["load_before"]:.1f};
{results["seconds"] / 60:.1f} minutes in all.
"""


def write(results):
    """results -> results/cpu.json and the table in README.md."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    inputs.put(HERE / "README.md", "cpu", table(results))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench cpu", description=__doc__)
    quick = "seconds instead of minutes: does it run? It measures and writes nothing"
    parser.add_argument("--quick", action="store_true", help=quick)
    given = parser.parse_args(arguments)
    results = measure(QUICK if given.quick else Size())
    print(table(results))
    print(f"An audit with its page: {results['audit']:.1f} s")
    if given.quick:
        print("A trial of the machinery: these numbers mean nothing.")
    else:
        write(results)
