"""Many runs: how long they will take, and sweep(configs), which does what is missing."""

import contextlib
import functools
import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib import cuda
from kdlib.config import Config, KdlibError
from kdlib.data import Split
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.step import Run
from kdlib.study import records
from kdlib.study.experiment import EVALUATIONS, OutOfTime, default_device, load, together
from kdlib.study.files import available_cores
from kdlib.study.kept import epochs_done
from kdlib.train import fit, predict


def missing(configs):
    """The Configs without a record."""
    return [cfg for cfg in configs if not records.exists(cfg)]


def default_jobs(device):
    """Runs at a time: one for each core, or nine side by side on a GPU, to keep it busy."""
    cores = available_cores()
    if device == "cpu":
        return cores
    return 9 if cuda.Captured.graphs else min(9, cores)


def _falls_back(function):
    """The function, called again without graphs, and saying so, where steps cannot be captured."""

    @functools.wraps(function)
    def either(*arguments, **more):
        try:
            return function(*arguments, **more)
        except cuda.CaptureError as error:
            cuda.graphs_off()
            tqdm.write(f"{error} Going on with these, one process for each run.")
            return function(*arguments, **more)

    return either


# ---------------------------------------------------------------- how long

MEASURED = 4  # runs side by side whose pace is measured; each takes seconds to be captured


@_falls_back
def estimate(configs, folder=None, device=None, count=1):
    """Seconds each Config takes on this machine (one thread on a CPU), from a few of its own steps.

    count: how many runs go side by side on a GPU; a run then takes its share of their time.
    Counted are the steps, the evaluations and, for the first student of each teacher, the teacher's
    table."""
    device, seconds, tables = device or default_device(), [], set()
    for cfg in configs:
        data = load(cfg, folder, device)[0]
        n = len(data.train)
        images = EVALUATIONS * len(data.val) + sum(map(len, data.splits().values()))
        how = {"batch_size": cfg.batch_size, "precision": cfg.precision, "count": count}
        step, forward = _pace(cfg.student, data=data, **how)
        left = cfg.epochs - epochs_done(cfg.key())
        total = left * math.ceil(n / cfg.batch_size) * step + images * forward
        table = (cfg.teacher_config(), cfg.seed, cfg.epochs) if cfg.teacher else None
        if table and table not in tables:
            tables.add(table)
            # part of an image's views, on average
            seen = 1 - (1 - 1 / data.views) ** cfg.epochs if device == "cpu" else 1
            _, of_teacher = _pace(cfg.teacher, data=data, **how)
            total += seen * n * data.views * of_teacher
        seconds.append(total)
    return seconds


_PACES = {}


def _pace(name, data, batch_size, precision, count=1):
    """(seconds of a training step, of the forward pass of one image) of a network.

    Each is measured once here. Of `count` runs side by side a step is one of all their steps."""
    key = (name, data.train.x.shape[1:], data.train.x.device, batch_size, precision, count)
    if key not in _PACES:
        n = min(len(data.train), batch_size * (20 if data.train.x.is_cuda else 1))
        some = replace(data, train=Split(data.train.x[:n], data.train.y[:n], data.train.group[:n]))
        # the first epoch warms up
        cfg = Config(student=name, batch_size=batch_size, precision=precision, epochs=3)
        models = [build(name, data.classes, 0).to(data.train.x.device) for _ in range(count)]
        ends, runs = [], [Run(cfg, m, method_loss(cfg), some) for m in models]
        runs[-1] = replace(runs[-1], after_epoch=lambda *_: ends.append(time.perf_counter()))
        for outcome in fit(runs):
            if isinstance(outcome, Exception):
                raise outcome
        # at the first call a GPU looks for its fastest kernels
        predict(models[0], some.train.x, some)
        start = time.perf_counter()
        predict(models[0], some.train.x, some)
        forward = (time.perf_counter() - start) / n
        epoch = min(b - a for a, b in zip(ends, ends[1:], strict=False))
        _PACES[key] = epoch / math.ceil(n / batch_size) / count, forward
    return _PACES[key]


# ---------------------------------------------------------------- doing it


def sweep(configs, folder=None, device=None, jobs=None, budget=None):
    """The records of Configs, in order; what is missing is done first.

    jobs: runs at a time; default: default_jobs. budget: seconds. A run that would not end in time
    is not started, one that does not end in time gives up, and the records are those at hand. A run
    fails alone: the others go on, and the first failure is raised at the end."""
    # a teacher is a run like any other
    needed = {c.key(): c for cfg in configs for c in (*cfg.dependencies(), cfg)}
    todo = missing(needed.values())
    if todo:
        deadline = None if budget is None else time.time() + budget
        _do_all(todo, folder, device or default_device(), jobs, deadline)
    return [records.read(cfg) for cfg in configs if budget is None or records.exists(cfg)]


class _Plan:
    """Which runs come next: those whose teachers are there, in order, and in time."""

    def __init__(self, todo, deadline, alone, shares=None):
        """alone: seconds of each key by itself; shares: in a lockstep. Both only for a deadline."""
        self.pending, self.deadline = list(todo), deadline
        self.alone, self.shares = alone, shares or alone
        self.taken = self.expected = 0.0

    def next(self, most, busy):
        """At most `most` runs, taken off the plan. What does not fit into the time stays.

        `busy`: teachers whose students are running; others first, because one process fills a
        teacher's table and a second would wait for it."""
        left = self.deadline - time.time() if self.deadline else math.inf
        ready = [c for c in self.pending if all(map(records.exists, c.dependencies()))]
        ready = [c for c in ready if self.needs([c]) <= left]
        ready.sort(key=lambda c: c.teacher is not None and c.teacher_config() in busy)  # stable
        if most > 1 and ready:
            ready = self._alike(ready, most)
        chosen = []
        for cfg in ready[:most]:
            if self.needs([*chosen, cfg]) <= left:
                chosen.append(cfg)
        self.pending = [c for c in self.pending if c not in chosen]
        return chosen

    def _alike(self, ready, most):
        """A group for a lockstep, of one length and one network.

        A longer run would go on alone, a larger network keep others waiting."""
        awaited = {d for c in self.pending for d in c.dependencies()}
        # teachers first: then all students of a seed can go together
        ready = sorted(ready, key=lambda c: c not in awaited)
        group = [c for c in ready if (c.epochs, c.student) == (ready[0].epochs, ready[0].student)]
        # ten, where nine may go together: five and five
        groups = math.ceil(len(group) / most)
        return group[: math.ceil(len(group) / groups)]

    def needs(self, configs):
        """Seconds of a lockstep of runs, as far as is known; without a deadline nothing is."""
        return self.slower() * self._expected(configs)

    def _expected(self, configs):
        """Their shares, but no less than the longest of them takes alone."""
        keys = [c.key() for c in configs]
        shares = sum(self.shares.get(key, 0.0) for key in keys)
        return max(shares, *(self.alone.get(key, 0.0) for key in keys))

    def took(self, configs, seconds):
        self.taken += seconds
        self.expected += self._expected(configs)

    def slower(self):
        """What the finished runs took corrects the estimates of the others."""
        return max(0.2, self.taken / self.expected) if self.expected else 1.0


def _timed(configs, folder, device, deadline):
    """(what `together` returns, its seconds).

    Data are loaded before the clock starts, once in a process."""
    for cfg in configs:
        load(cfg, folder, device)
    start = time.monotonic()
    return together(configs, folder, device, deadline), time.monotonic() - start


def _in_processes(device):
    return device == "cpu" or not cuda.Captured.graphs


@_falls_back
def _do_all(todo, folder, device, jobs, deadline):
    """Do the runs, on a CPU each in the next free process, on a GPU `jobs` at a time in lockstep.

    Raises the first failure when all that can be done is done."""
    todo, alone, shares = missing(todo), {}, {}  # again: it is called once more without graphs
    jobs = min(jobs or default_jobs(device), max(1, len(todo)))
    if deadline is not None:
        keys = [cfg.key() for cfg in todo]
        alone = dict(zip(keys, estimate(todo, folder, device), strict=True))
        if not _in_processes(device):
            beside = estimate(todo, folder, device, min(jobs, MEASURED))
            shares = dict(zip(keys, beside, strict=True))
    group = 1 if _in_processes(device) else jobs
    plan, failures, running = _Plan(todo, deadline, alone, shares), [], {}
    quiet = False if "ipykernel" in sys.modules else None  # None: where there is no terminal
    with (
        tqdm(total=len(todo), desc="runs", unit="run", disable=quiet) as bar,
        _pool(jobs, device) as pool,
    ):
        while True:
            while len(running) * group < jobs:
                going = [c for configs in running.values() for c in configs]
                busy = {c.teacher_config() for c in going if c.teacher}
                configs = plan.next(group, busy)
                if not configs:
                    break
                running[pool.submit(_timed, configs, folder, device, plan.deadline)] = configs
            if not running:  # what is pending waits for a teacher that failed or found no time
                break
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                configs, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise KdlibError(
                        f"A process died in run {configs[0].key()} or beside it (killed, or out of "
                        "memory); finished runs are kept: run it again, with fewer --jobs if "
                        "memory was short."
                    ) from error
                if isinstance(error, torch.OutOfMemoryError):
                    jobs = group = len(configs) // 2
                    short = f"out of GPU memory with {len(configs)} runs at once"
                    tqdm.write(f"{short}; going on with {group}")
                    plan.pending[:0] = configs
                    continue
                outcomes = [error]
                if not error:
                    outcomes, seconds = future.result()
                    plan.took(configs, seconds)
                    if stopped := [o for o in outcomes if isinstance(o, cuda.CaptureError)]:
                        raise stopped[0]
                failed = [o for o in outcomes if isinstance(o, Exception)]
                failures += [o for o in failed if not isinstance(o, OutOfTime)]
                bar.update(len(configs))
    if len(failures) > 1:
        raise KdlibError(f"{failures[0]} ({len(failures) - 1} more runs failed.)")
    if failures:
        raise failures[0]


class _Here:
    """The part of an executor that _do_all uses, in this process: for captured steps on a GPU."""

    def submit(self, function, *arguments):
        future = futures.Future()
        try:
            future.set_result(function(*arguments))
        except torch.OutOfMemoryError as error:
            # without its traceback, which would keep the memory
            future.set_exception(error.with_traceback(None))
        gc.collect()  # graphs and their memory may hang in cycles
        return future


@contextlib.contextmanager
def _pool(jobs, device):
    """Processes of one thread each, all stopped when the block is left, also by an interrupt.

    Results then do not depend on the number of cores, and two such processes do more than one with
    two threads. On a GPU with graphs everything is done in this process."""
    if not _in_processes(device):
        yield _Here()
        return
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(jobs, spawn, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    """One thread; an interrupt, or the end of its parent, ends the process at once and quietly."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
