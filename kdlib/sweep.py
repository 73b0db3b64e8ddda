"""Many runs: how long they will take, and sweep(configs), which does what is missing and returns the records."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib import records
from kdlib.config import KdlibError
from kdlib.experiment import default_device, load, run
from kdlib.models import build


def missing(configs):
    """The Configs without a record."""
    return [cfg for cfg in configs if not records.exists(cfg)]


def estimate(configs, folder=None, device=None):
    """Seconds each Config takes on this machine (one thread on a CPU), from a few timed batches of its networks."""
    device = device or default_device()
    seconds = []
    for cfg in configs:
        data = load(cfg, folder, device)[0]
        image = data.train.x.shape[1:]
        per_image = _seconds_per_image(cfg.student, image, cfg.batch_size, device, True)
        if cfg.teacher:
            per_image += _seconds_per_image(cfg.teacher, image, cfg.batch_size, device, False)
        seconds.append(cfg.epochs * len(data.train) * per_image)
    return seconds


@functools.cache
def _seconds_per_image(name, image, batch_size, device, training):
    height, width, channels = image
    model = build(name, 10, 0).to(device).train(training)
    x = torch.zeros(batch_size, channels, height, width, device=device).to(memory_format=torch.channels_last)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            out = model(x).sum()
        if training:
            out.backward()
        out.item()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / batch_size


def sweep(configs, folder=None, device=None, jobs=None, budget=None):
    """The records of Configs, in order; what is missing is done first, `jobs` at a time (default: every CPU core, or one GPU).

    budget: seconds after which no further run is started that would not end in time; the records are then those at hand.
    A run fails alone: the others go on, and the first failure is raised at the end."""
    needed = {c.key(): c for cfg in configs for c in (*cfg.dependencies(), cfg)}   # a teacher is a run like any other
    todo = missing(needed.values())
    if todo:
        device = device or default_device()
        jobs = jobs or (len(os.sched_getaffinity(0)) if device == "cpu" else 1)
        _do_all(todo, folder, device, min(jobs, len(todo)), budget)
    return [records.read(cfg) for cfg in configs if budget is None or records.exists(cfg)]


def _do_all(todo, folder, device, jobs, budget):
    """Greedy: the first run whose teachers are there goes to the next free process."""
    start, pending, failures, running = time.monotonic(), list(todo), [], {}
    needed = dict(zip([cfg.key() for cfg in todo], estimate(todo, folder, device), strict=True)) if budget is not None else {}
    quiet = False if "ipykernel" in sys.modules else None   # None: where there is no terminal
    with tqdm(total=len(todo), desc="runs", unit="run", disable=quiet) as bar, _pool(jobs, device) as pool:
        while pending or running:
            for cfg in [c for c in pending if all(map(records.exists, c.dependencies()))][: jobs - len(running)]:
                pending.remove(cfg)
                if budget is None or time.monotonic() - start + needed[cfg.key()] <= budget:
                    running[pool.submit(run, cfg, folder, device)] = cfg
            if not running:
                break   # what is pending waits for a teacher that failed or did not fit into the budget
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                cfg, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise KdlibError(f"A process died in run {cfg.key()} or beside it (killed, or out of memory); finished "
                                     "runs are kept: run it again, with fewer --jobs if memory was short.") from error
                if error:
                    failures.append(error)
                bar.update()
    if failures:
        raise failures[0] if len(failures) == 1 else KdlibError(f"{failures[0]} ({len(failures) - 1} more runs failed.)")


class _Here:
    """The part of an executor that _do_all uses, in this process: for one job, and for a GPU."""

    def submit(self, function, *arguments):
        future = futures.Future()
        try:
            future.set_result(function(*arguments))
        except KdlibError as e:
            future.set_exception(e)
        return future


@contextlib.contextmanager
def _pool(jobs, device):
    """Processes of one thread each: results then do not depend on the number of cores, and two such processes do more
    than one with two threads. All are stopped when the block is left, also by an interrupt."""
    if jobs == 1 and device != "cpu":
        yield _Here()
        return
    others = set(multiprocessing.active_children())
    pool = futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    """One thread; an interrupt ends the process at once and quietly; and so does the end of its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
