"""Many runs: sweep(configs) does what is missing, here. plan.py says in which order."""

import contextlib
import gc
import math
import multiprocessing
import os
import threading
import time
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import torch
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib import cuda
from kdlib.config import KdlibError, count_of
from kdlib.study import records, stopping
from kdlib.study.experiment import Outcome, together
from kdlib.study.files import available_cores, cache_folder, check_writable, free, sweep_leftovers
from kdlib.study.machine import default_device
from kdlib.study.pace import falls_back, in_words, one_thread, shares, starting, workers
from kdlib.study.plan import Plan
from kdlib.study.progress import shown
from kdlib.study.watch import OutOfTime

GRACE = 1.0  # seconds in which processes that are told to stop remove what they were writing
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # what is no cluster is found out in seconds, not minutes
    "RAY_gcs_server_port_wait_time_s": "1",
    "RAY_py_gcs_connect_timeout_s": "10",
}


def missing(configs):
    """The Configs without a record, by one look at the folder, whose disk may be slow."""
    there = {path.stem for path in records.paths()}
    return [cfg for cfg in configs if cfg.key() not in there]


def default_jobs(device):
    """Runs at a time: one for each core, or nine side by side on a GPU, to keep it busy."""
    cores = available_cores()
    if device == "cpu":
        return cores
    return 9 if cuda.Captured.graphs else min(9, cores)


def sweep(configs, folder=None, device=None, jobs=None, budget=None, ray=None, hours=None):
    """The records of Configs, in order; what is missing is done first.

    jobs: runs at a time; default: default_jobs. budget: seconds. A run that would not end in time
    is not started, one that does not end in time gives up, and the records are those at hand.
    hours: of a notebook, which asks nobody: what would take longer is refused as a whole. A run
    fails alone: the others go on, and the first failure is raised at the end. Several processes may
    share the work, also on several machines: what one has claimed the others leave to it, and wait
    for it when nothing else is left. ray: the address of a cluster whose nodes do the runs, see
    cluster.connect."""
    # a teacher is a run like any other
    needed = {c.key(): c for cfg in configs for c in (*cfg.dependencies(), cfg)}
    todo = missing(needed.values())
    if todo:
        check_writable(records.folder())
        sweep_leftovers(records.folder())
        sweep_leftovers(cache_folder())
        deadline = None if budget is None else time.monotonic() + budget
        place = place_of(ray)
        device = device or place.default_device()
        if hours:
            _refuse_longer(hours, todo, folder, device, jobs or place.default_jobs(device), place)
        _do_all(todo, folder, device, jobs, deadline, place)
    return [records.read(cfg) for cfg in configs if budget is None or records.exists(cfg)]


def place_of(ray=None):
    """Where and how runs are done: on this machine, or by a Cluster, which offers the same."""
    if ray is not None:
        for name, value in RAY.items():
            os.environ.setdefault(name, value)
        from kdlib.study import cluster  # needs Ray, which reads these when it is imported

        return cluster.connect(ray)
    return SimpleNamespace(
        name="here",
        default_device=default_device,
        default_jobs=default_jobs,
        shares=shares,
        workers=workers,
        starting=starting,
        work=_work,
    )


def seconds_at(place, configs, folder, device, jobs):
    """Seconds that all Configs take at a place, `jobs` at a time."""
    expected = place.shares(configs, folder, device, jobs)
    return place.starting(device) + sum(expected.values()) / place.workers(configs, device, jobs)


def _refuse_longer(hours, todo, folder, device, jobs, place):
    seconds = seconds_at(place, todo, folder, device, jobs)
    if seconds > 3600 * hours:
        runs = f"{count_of(len(todo), 'run')} that this page lacks would take"
        raise KdlibError(
            f"notebook parameter hours={hours}: the {runs} about {in_words(seconds)} here, and "
            f"none was started; hours={math.ceil(1.5 * seconds / 3600)} starts them, and goes on "
            "where it was interrupted."
        )


@falls_back
def _do_all(todo, folder, device, jobs, deadline, place):
    """Do the runs at a place. Raises the first failure when all that can be done is done."""
    todo = missing(todo)  # again: it is called once more without graphs
    jobs = min(jobs or place.default_jobs(device), max(1, len(todo)))
    plan = _planned(todo, folder, device, jobs, deadline, place)
    failures = []
    with (
        shown(plan, place.workers(todo, device, jobs), place.starting(device)) as ended,
        contextlib.closing(place.work(plan, jobs, (folder, device, deadline), failures)) as steps,
    ):
        for _ in steps:
            ended()
            for error in failures:
                if isinstance(error, cuda.CaptureError):
                    raise error
    failures = [error for error in failures if not isinstance(error, OutOfTime)]
    # a fault in the code, as it is, before anything that the user could mend
    failures.sort(key=lambda error: isinstance(error, KdlibError))
    if len(failures) > 1 and isinstance(failures[0], KdlibError):
        more = count_of(len(failures) - 1, "more run")
        raise KdlibError(f"{failures[0]} ({more} failed.)")
    if failures:
        raise failures[0]


def _planned(todo, folder, device, jobs, deadline, place):
    """The Plan of runs, with how long each takes, alone too where a deadline makes it matter."""
    beside = place.shares(todo, folder, device, jobs)
    alone = beside
    if deadline is not None and device != "cpu":
        alone = place.shares(todo, folder, device, 1)
    where = records.folder()
    return Plan(todo, records.exists, deadline, alone, beside, lambda cfg: free(cfg.key(), where))


def _needs_processes(device):
    return device == "cpu" or not cuda.Captured.graphs


def _work(plan, jobs, how, failures):
    """Do what is planned: on a CPU each run in the next free process, on a GPU in lockstep.

    One run at a time needs no other process, which would take seconds to start. For `how`, and when
    it yields, see _in_lockstep."""
    _, device, _ = how
    work = _in_processes if jobs > 1 and _needs_processes(device) else _in_lockstep
    with one_thread(device):
        yield from work(plan, jobs, how, failures)


def _in_lockstep(plan, jobs, how, failures):
    """Do what is planned in this process, up to `jobs` runs at once. Yields whenever some ended.

    how: the other arguments of experiment.together. What stops a run is appended to `failures`."""
    _, device, _ = how
    while (configs := plan.next(jobs)) or plan.waits():
        if not configs:
            plan.wait()
            yield
            continue
        outcome = together(configs, *how, wait=False)
        failures += outcome.failures
        if outcome.full:
            jobs = len(configs) // 2
            short = f"out of GPU memory with {len(configs)} runs at once"
            tqdm.write(f"{short}; going on with {jobs}")
            plan.put_back(configs)
        else:
            plan.came(configs, outcome)
        if device != "cpu":
            gc.collect()  # graphs and their memory may hang in cycles
        yield


def _in_processes(plan, jobs, how, failures):
    """The same as _in_lockstep, but each run in the next free one of `jobs` processes."""
    with _pool(jobs) as pool:
        running = {}
        while True:
            while len(running) < jobs and (configs := plan.next(1)):
                with stopping.held():
                    running[pool.submit(together, configs, *how, wait=False)] = configs
            if not running:
                if not plan.waits():  # what is pending waits for a teacher that failed, or for time
                    return
                plan.wait()
            # a process that is free may take over what others were doing
            until = plan.pause() if len(running) < jobs else None
            done, _ = futures.wait(running, until, futures.FIRST_COMPLETED)
            for future in done:
                configs = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise KdlibError(
                        f"A process died in run {configs[0].key()} or beside it (killed, or out of "
                        "memory); finished runs are kept: run it again, with fewer --jobs if "
                        "memory was short."
                    ) from error
                outcome = Outcome(failures=[error]) if error else future.result()
                failures += outcome.failures
                plan.came(configs, outcome)
            yield


@contextlib.contextmanager
def _pool(jobs):
    """Processes of one thread each, all stopped when the block is left, also by an interrupt.

    With one thread results do not depend on the number of cores, and two processes do more than one
    with two threads."""
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    with stopping.held():  # an interrupt here would leave its semaphores to nobody
        pool = futures.ProcessPoolExecutor(jobs, spawn, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        ours = set(multiprocessing.active_children()) - others
        for process in ours:
            process.terminate()  # see stopping.released
        late = time.monotonic() + GRACE
        for process in ours:
            process.join(max(0.0, late - time.monotonic()))
            process.kill()  # one that only starts hears nothing else
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    """One thread; an interrupt, or the end of its parent, ends the process at once and quietly."""
    torch.set_num_threads(1)
    stopping.released()
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
