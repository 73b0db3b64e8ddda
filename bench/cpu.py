"""The CPU part: C1 (distillation), C2 (labels only) and C3 (the data path).

Each is measured against the usual loop, alternating in one run."""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision

from bench import inputs, profile
from bench.peer import Traits, pictures, train, training_batches
from kdlib.config import KdlibError
from kdlib.data import crop_and_flip, normalise, padded, schedule
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.step import Run
from kdlib.study import experiment
from kdlib.teacher import Table, frozen, planned
from kdlib.train import fit, predict

RESULTS = Path(__file__).with_name("results")
PEER, WORKERS = Traits(), (0, 1, 2)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    train: int = 1024  # images of a training epoch
    test: int = 1024  # images of the evaluation after each epoch
    path: int | None = None  # images of the data path alone; None: all of the long-tailed draw
    batch_size: int = 128
    epochs: int = 2  # of a timed run
    rounds: int = 3  # each times every side once
    teacher: str = "resnet56"
    students: tuple = ("resnet8", "resnet20")  # the first learns from the teacher, both from labels
    random: bool = False  # random images even where the real ones are


QUICK = Size(
    train=24,
    test=16,
    path=64,
    batch_size=16,
    epochs=1,
    rounds=1,
    teacher="resnet14",
    students=("resnet8", "resnet14"),
    random=True,
)


# ---------------------------------------------------------------- the two sides


def peer_seconds(data, cfg, teacher=None, workers=0, traits=PEER, table=None):
    """Wall time of one run of the usual loop, from initial weights."""
    model = build(cfg.student, data.classes, cfg.seed)
    start = time.perf_counter()
    train(model, data, cfg, traits, teacher, table, workers)
    return time.perf_counter() - start


def elsewhere(pool, *arguments, **options):
    """peer_seconds in a process of its own.

    What this engine asks of its process, such as to keep freed memory, is not the usual loop's to
    enjoy."""
    return pool.submit(peer_seconds, *arguments, **options).result()


def our_seconds(data, cfg, teacher=None):
    """Wall time of one run of kdlib's engine, from the same weights, with the same evaluations."""
    model, accuracies = build(cfg.student, data.classes, cfg.seed), []

    def evaluate(epoch, curves, state):
        right = predict(model, data.test.x, data).argmax(dim=1) == data.test.y
        accuracies.append(right.double().mean().item())

    start = time.perf_counter()
    (outcome,) = fit([Run(cfg, model, method_loss(cfg), data, teacher, evaluate)])
    seconds = time.perf_counter() - start
    if isinstance(outcome, KdlibError):
        raise outcome
    return seconds


def our_views_seconds(data, cfg):
    """Wall time of the views of one epoch as kdlib makes them, padding of the images included."""
    start = time.perf_counter()
    x = padded(data.train.x, data.pad)
    order, views = schedule(cfg.seed, 0, len(data.train), data.views)
    for index, view in zip(order.split(cfg.batch_size), views.split(cfg.batch_size), strict=True):
        normalise(crop_and_flip(x, index, view, data.pad), data)
    return time.perf_counter() - start


def peer_views_seconds(data, cfg, workers):
    """Wall time of the views of one epoch as torchvision and a DataLoader make them."""
    dataset = pictures(data.train, data, augment=True)
    start = time.perf_counter()
    for _ in training_batches(data, cfg, 0, PEER, workers, dataset, None, data.train.x.device):
        pass
    return time.perf_counter() - start


def alternate(sides, rounds):
    """Seconds of each side, {name: [one per round]}; in a round each side runs once, in order."""
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side())
    return seconds


def best_workers(seconds_with):
    """(number of workers that serves the usual loop best, {number: seconds}).

    The first call is a warm-up."""
    seconds_with(WORKERS[0])
    tried = {workers: seconds_with(workers) for workers in WORKERS}
    return min(tried, key=tried.get), tried


# ---------------------------------------------------------------- what is measured


def distillation(size, data, usual):
    """C1: usual loop, live teacher and table in turn; what the table costs; and the ladder.

    The ladder goes from one loop to the other. usual: peer_seconds, in its own process."""
    cfg = inputs.config(size.students[0], size.teacher, size.epochs, batch_size=size.batch_size)
    once = replace(cfg, epochs=1)
    teacher = inputs.teacher_network(size.teacher, data)
    codes = planned(cfg.seed, cfg.epochs, len(data.train), data.views)
    table, live = Table.fill(teacher, data, codes), frozen(teacher)
    workers, tried = best_workers(lambda n: usual(data, once, teacher, n))
    for warm in (table, live):
        our_seconds(data, once, warm)
    sides = {
        "peer": lambda: usual(data, cfg, teacher, workers),
        "cached": lambda: our_seconds(data, cfg, table),
        "live": lambda: our_seconds(data, cfg, live),
        "fill": lambda: fill_seconds(teacher, data, codes),
    }
    seconds = alternate(sides, size.rounds)
    rungs = {"usual loop": lambda: usual(data, once, teacher, workers)}
    given_up = {}
    for field, rung in zip(fields(Traits), RUNGS, strict=True):
        given_up[field.name] = False
        traits = Traits(**given_up)
        rungs[rung] = functools.partial(usual, data, once, teacher, workers, traits, table)
    rungs["this engine"] = lambda: our_seconds(data, once, table)
    return {
        "workers": workers,
        "workers_tried": tried,
        "pairs": len(codes),
        "seconds": seconds,
        "ladder": alternate(rungs, size.rounds),
    }


RUNGS = (  # of the ladder, in the order of Traits
    "views of uint8 in batches",
    "batch norm folded",
    "teacher from a table",
    "channels_last",
    "no features returned",
    "no meters",
    "large evaluation batches",
)


def fill_seconds(teacher, data, codes):
    start = time.perf_counter()
    Table.fill(teacher, data, codes)
    return time.perf_counter() - start


def labels_only(size, data, student, usual):
    """C2: one-hot training of a student."""
    cfg = inputs.config(student, epochs=size.epochs, batch_size=size.batch_size)
    once = replace(cfg, epochs=1)
    workers, tried = best_workers(lambda n: usual(data, once, workers=n))
    our_seconds(data, once)
    sides = {
        "peer": lambda: usual(data, cfg, workers=workers),
        "ours": lambda: our_seconds(data, cfg),
    }
    return {"workers": workers, "workers_tried": tried, "seconds": alternate(sides, size.rounds)}


def data_path(size):
    """C3: the views of one epoch, no network."""
    data, _ = inputs.images(size.path, 1, size.random)
    cfg = inputs.config(size.students[0], batch_size=size.batch_size)
    workers, tried = best_workers(lambda n: peer_views_seconds(data, cfg, n))
    our_views_seconds(data, cfg)
    sides = {
        "peer": lambda: peer_views_seconds(data, cfg, workers),
        "ours": lambda: our_views_seconds(data, cfg),
    }
    return {
        "workers": workers,
        "workers_tried": tried,
        "images": len(data.train),
        "seconds": alternate(sides, size.rounds),
    }


# ---------------------------------------------------------------- several processes


@functools.cache
def _prepared(size):
    """(data, cfg, teacher network, its table) in this process, made once."""
    data, _ = inputs.images(size.train, size.test, size.random)
    cfg = inputs.config(size.students[0], size.teacher, 1, batch_size=size.batch_size)
    teacher = inputs.teacher_network(size.teacher, data)
    codes = planned(cfg.seed, cfg.epochs, len(data.train), data.views)
    return data, cfg, teacher, Table.fill(teacher, data, codes)


def _join(barrier):
    global together
    together = barrier


def _span(size, side, threads, processes, workers):
    """(start, end) of one distillation run in this process, begun together with the others."""
    torch.set_num_threads(threads)
    data, cfg, teacher, table = _prepared(size)
    if processes > 1:
        together.wait(timeout=300)
    start = time.monotonic()
    if side == "peer":
        peer_seconds(data, cfg, teacher, workers)
    else:
        our_seconds(data, cfg, table)
    return start, time.monotonic()


ARRANGEMENTS = {  # side, processes, threads of each
    "ours": ("ours", 2, 1),
    "peer, 1 process": ("peer", 1, 2),
    "peer, 2 processes": ("peer", 2, 1),
}


def aggregate(size, workers):
    """Runs per second of all processes together, {arrangement: [one per round]}.

    C1 with one epoch, cached on our side."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {}
        for side in ("ours", "peer"):
            pool = ProcessPoolExecutor(2, context, _join, (context.Barrier(2),))
            pools[side] = stack.enter_context(pool)

        def rate(side, processes, threads):
            task = (_span, size, side, threads, processes, workers)
            asked = [pools[side].submit(*task) for _ in range(processes)]
            starts, ends = zip(*(future.result() for future in asked), strict=True)
            return processes / (max(ends) - min(starts))

        for side in pools:  # warm-up: data, teacher and table
            rate(side, 2, 1)
        sides = {name: functools.partial(rate, *how) for name, how in ARRANGEMENTS.items()}
        return alternate(sides, size.rounds)


def _peak(size, side, workers):
    """Bytes above the loaded base at the peak of one distillation run in this process.

    Filling the table is part of ours."""
    data, _ = inputs.images(size.train, size.test, size.random)
    cfg = inputs.config(size.students[0], size.teacher, size.epochs, batch_size=size.batch_size)
    teacher = inputs.teacher_network(size.teacher, data)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
    base = _status("VmRSS")
    if side == "peer":
        peer_seconds(data, cfg, teacher, workers)
        return {"bytes": _status("VmHWM") - base}
    codes = planned(cfg.seed, cfg.epochs, len(data.train), data.views)
    table = Table.fill(teacher, data, codes)
    our_seconds(data, cfg, table)
    held = [table.logits] + ([table.row] if table.row is not None else [])
    return {"bytes": _status("VmHWM") - base, "table": sum(t.nbytes for t in held)}


def _status(field):
    """Bytes of this process under a name of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def memory(size, workers):
    """Peak memory of each side in a process of its own; None where there is no /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    peaks = {}
    for side in ("peer", "ours"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks[side] = pool.submit(_peak, size, side, workers).result()
    return peaks


# ---------------------------------------------------------------- the whole


def machine():
    """What it ran on, and with what."""
    return {
        "processor": experiment.machine("cpu")["device"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }


def commit():
    """The git commit, with "+" if the code differs from it; None outside a clone."""

    def git(*arguments):
        how = {"cwd": RESULTS.parent.parent, "capture_output": True, "text": True, "check": True}
        return subprocess.run(["git", *arguments], **how).stdout

    try:
        changed = git("status", "--porcelain", "kdlib", "bench/*.py")
        return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def measure(size):
    """All measurements, ready for JSON."""
    start = time.perf_counter()
    data, what = inputs.images(size.train, size.test, size.random)
    results = {"machine": machine(), "images": what, "size": asdict(size)}
    say = functools.partial(_say, start)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        usual = functools.partial(elsewhere, pool)
        say("C1: distillation")
        results["C1"] = distillation(size, data, usual)
        for case, student in zip(("C2 small", "C2 large"), size.students, strict=True):
            say(f"C2: {student} on labels")
            results[case] = labels_only(size, data, student, usual)
    say("C3: data path")
    results["C3"] = data_path(size)
    say("profile")
    results["profile"] = profile.shares(data, size.batch_size, size.students[0], size.teacher)
    say("several processes")
    results["aggregate"] = aggregate(size, results["C1"]["workers"])
    say("memory")
    results["memory"] = memory(size, results["C1"]["workers"])
    results["seconds"] = time.perf_counter() - start
    return json.loads(json.dumps(results))


def _say(start, what):
    print(f"{time.perf_counter() - start:5.0f} s  {what}", flush=True)


def main(arguments=None):
    from bench import show

    parser = argparse.ArgumentParser(prog="python -m bench cpu", description=__doc__)
    add = parser.add_argument
    quick = "seconds instead of minutes, on random images; measures nothing"
    add("--quick", action="store_true", help=quick)
    out = "folder for cpu.json and cpu.svg; default: bench/results, for --quick none"
    add("--out", type=Path, help=out)
    given = parser.parse_args(arguments)
    results = measure(QUICK if given.quick else Size())
    print(show.table(results))
    if given.quick:
        print("A trial of the machinery: these numbers mean nothing.")
    out = given.out or (None if given.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "cpu.json").write_text(json.dumps(results, indent=1) + "\n")
        show.write(out)
