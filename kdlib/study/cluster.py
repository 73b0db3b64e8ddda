"""Runs on a Ray cluster: this process plans, and workers on the nodes train.

A worker (node.py) writes into the records folder if its node sees that folder too; else files come
and go through Ray, and this process writes them. crew.py hires workers and asks them."""

import collections
import contextlib
import math
import os
import signal
import socket
from pathlib import Path

import ray
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib import cuda
from kdlib.config import KdlibError
from kdlib.study import files, records, stopping
from kdlib.study.crew import LOOK, Crew, room
from kdlib.study.machine import git_sha
from kdlib.study.node import RECORD, Told, packed, unpacked, versions
from kdlib.study.pace import falls_back
from kdlib.study.watch import log, log_file

TRIES = 3  # times that a run may be lost before it is given up
REACHED = 5.0  # seconds in which an address has to answer
STARTING = 10.0  # seconds until the first worker trains
LOCKSTEP = 9  # runs side by side on a GPU, as in sweep.default_jobs


def connect(address):
    """The Cluster at an address, which this process joins: "auto", "local" or HOST:PORT.

    A process joins one cluster, which later calls return. KdlibError if there is none."""
    if not ray.is_initialized():
        _join(address)
        Cluster.only = None
    Cluster.only = Cluster.only or Cluster()
    return Cluster.only


def _join(address):
    """Call ray.init, quietly. Nodes are sent this code, and its commit for their records."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise _no_cluster(address, "clients from outside are not served")
    if port.isdecimal():
        try:  # Ray would try for minutes
            socket.create_connection((host, int(port)), REACHED).close()
        except (OSError, OverflowError) as error:  # the latter: of a port that there cannot be
            raise _no_cluster(address, f"nothing answers there ({error})") from None
    code = {"py_modules": [str(Path(files.__file__).parents[1])], "excludes": ["__pycache__"]}
    code["env_vars"] = {"KDLIB_GIT": git_sha()}
    how = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": code}
    if address == "local":
        how["include_dashboard"] = False
    handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        ray.init(address, **how)
    except Exception as error:  # of many kinds
        why = str(error).splitlines()[0].rstrip(".")
        if address == "auto" and isinstance(error, ConnectionError):
            why = "no Ray node runs here"
        raise _no_cluster(address, why) from error
    finally:
        with contextlib.suppress(ValueError):  # in another thread Ray has set none
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _no_cluster(address, why):
    return KdlibError(
        f"--ray {address}: {why}; `ray start --head` begins a cluster, and on each of its nodes "
        "--ray auto finds it."
    )


class Cluster:
    """Where and how runs are done, as sweep.place_of has it for this machine."""

    name = "on the cluster"
    only = None  # of this process

    def __init__(self):
        self.crew = None
        self.most = 1  # runs that a worker does in lockstep
        self.measured = {}  # {(device, jobs, graphs): {key: seconds}}
        self.lost = collections.Counter()  # {key of a run: times}
        self.sent = {}  # {key of a teacher: reference to its files}

    def default_device(self):
        return "cuda" if ray.cluster_resources().get("GPU") else "cpu"

    def default_jobs(self, device):
        """Runs at a time: one for each core of the cluster, or side by side on each GPU."""
        return LOCKSTEP if device == "cuda" else max(1, room({"CPU": 1}))

    def starting(self, device):
        return STARTING

    def workers(self, configs, device, jobs):
        """How many of the seconds of `shares` pass in one."""
        if device == "cuda":
            return max(1, min(room({"CPU": 1, "GPU": 1}), math.ceil(len(configs) / jobs)))
        return max(1, min(room({"CPU": 1}), jobs, len(configs)))

    @falls_back
    def shares(self, configs, folder, device, jobs):
        """pace.shares, measured once, on the first node that answers."""
        known = self.measured.setdefault((device, jobs, cuda.Captured.graphs), {})
        if any(cfg.key() not in known for cfg in configs):
            self._have_crew(folder, device, jobs)
            if not room(self.crew.need):
                kind = "GPU" if device == "cuda" else "CPU"
                raise KdlibError(f"No node of the cluster has a {kind} for a run; add one to it.")
            known |= self._measured(configs, jobs)
        return {cfg.key(): known[cfg.key()] for cfg in configs}

    def _measured(self, configs, jobs):
        """pace.shares, measured by the first worker that can."""
        crew = self.crew
        while True:
            if not any(hand.node for hand in crew.asked.values()):
                if not crew.idle:
                    crew.hire(1)
                crew.hopeful()
                if crew.idle:
                    crew.ask(crew.idle.pop(), "shares", configs, jobs)
            for hand, answer in crew.answers(LOOK):
                if answer and answer.unfit:
                    crew.leave_out(hand, answer.unfit)
                elif answer:
                    crew.idle.append(hand)
                    for error in answer.failures:
                        raise error
                    return answer.shares

    def _have_crew(self, folder, device, jobs):
        """Make a Crew for such runs, unless the present one was told the same."""
        places = [folder, files.data_folder(), records.folder(), files.cache_folder()]
        places = [place and os.path.abspath(place) for place in places]
        told = Told(device, cuda.Captured.graphs, versions(), *places)
        need = {"CPU": 1}
        if device == "cuda":
            need["GPU"] = 1 if told.graphs else 1 / jobs  # without graphs a process for each run
        if self.crew is None or (told, need) != (self.crew.told, self.crew.need):
            self.close()
            self.crew = Crew(told, need)

    def close(self):
        """Send the workers away, and forget what was sent to them."""
        if self.crew:
            self.crew.close()
        self.crew = None
        self.lost.clear()
        self.sent.clear()

    def work(self, plan, jobs, how, failures):
        """Do what is planned on the workers; arguments and steps as of sweep._in_lockstep."""
        folder, device, _ = how
        self._have_crew(folder, device, jobs)
        crew = self.crew
        self.most = jobs if crew.need.get("GPU") == 1 else 1
        cap = jobs if device == "cpu" else math.inf
        try:
            while True:
                if crew.due():
                    left = len(plan.running) + len(plan.pending) + len(plan.others)
                    crew.hire(min(cap, math.ceil(left / self.most) or 1))
                while crew.idle and (configs := plan.next(self.most)):
                    self._give(crew.idle.pop(), configs, plan, failures)
                if not plan.running and (crew.idle or plan.left() <= 0):
                    if not plan.waits():  # what is pending waits for a failed teacher, or for time
                        return
                    plan.wait()
                crew.hopeful()
                pause = plan.pause() if crew.idle else None
                for hand, answer in crew.answers(LOOK if pause is None else min(LOOK, pause)):
                    self._note(hand, answer, plan, failures)
                yield
        finally:
            self.close()

    def _give(self, hand, configs, plan, failures):
        """Have a worker do runs. One whose teachers cannot be sent fails alone."""
        sent, hand.configs = [], []
        for cfg in configs:
            try:
                if not hand.shared:
                    sent += [self._sent(teacher.key()) for teacher in cfg.dependencies()]
                    sent.append(packed(cfg.key(), records.folder()))
                hand.configs.append(cfg)
            except KdlibError as error:
                failures.append(error)
                plan.ended([cfg])
        if hand.configs:
            self.crew.ask(hand, "do", hand.configs, plan.left(), sent)
        else:
            self.crew.idle.append(hand)

    def _sent(self, key):
        """A reference to the files of a teacher, which Ray keeps until the work ends."""
        if key not in self.sent:
            found = packed(key, records.folder())
            if absent := [f"{key}{suffix}" for suffix in RECORD if f"{key}{suffix}" not in found]:
                raise KdlibError(
                    f"{records.folder()}: {absent[0]} is missing, and without it no teacher can be "
                    "sent to a node that does not share this folder: share it, or put it back."
                )
            self.sent[key] = ray.put(found)
        return self.sent[key]

    def _note(self, hand, answer, plan, failures):
        """Tell the plan what came of a worker's runs; answer: None if the worker is lost."""
        configs = hand.configs
        if answer is None:
            self._put_back(hand, plan, failures, "its worker died")
            return
        if answer.unfit:
            plan.put_back(configs)
            self.crew.leave_out(hand, answer.unfit)
            return
        self.crew.idle.append(hand)
        try:
            for cfg in configs:
                unpacked(cfg, answer.files.get(cfg.key(), {}))
        except records.RecordError as error:
            self._put_back(hand, plan, failures, f"what came back is no record: {error}")
            return
        with contextlib.suppress(OSError), open(log_file(), "a") as file:
            file.write(answer.log)
        files.look_again(records.folder())
        failures += answer.failures
        if answer.full:
            plan.put_back(configs)
            self.most = len(configs) // 2
            short = f"out of GPU memory on node {hand.node}"
            tqdm.write(f"{short}; going on with {self.most} runs at once")
        else:
            plan.came(configs, answer)

    def _put_back(self, hand, plan, failures, why):
        """Put runs that were lost back into the plan; one that was lost TRIES times has failed."""
        files.look_again(records.folder())
        for cfg in hand.configs:
            key = cfg.key()
            self.lost[key] += 1
            log(f"{key} lost on node {hand.node}: {why}")
            if self.lost[key] < TRIES:
                plan.put_back([cfg])
                continue
            plan.ended([cfg])
            if not plan.exists(cfg):
                failures.append(
                    KdlibError(
                        f"Run {key} was lost {TRIES} times, last on node {hand.node} ({why}); "
                        "that node may be short of memory: use fewer --jobs or other nodes."
                    )
                )
