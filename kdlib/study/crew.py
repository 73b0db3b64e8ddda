"""Workers on the nodes of a Ray cluster: hired where there is room, and replaced when lost."""

import contextlib
import os
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib.config import KdlibError
from kdlib.study import records
from kdlib.study.node import Answer, Worker
from kdlib.study.watch import warn

LOOK = 5.0  # seconds between two looks at what the cluster has
PATIENCE = 60.0  # seconds to wait for a worker
STARTS = 3  # workers that die as they start, after which one fewer is hired


def room(need):
    """How many workers the nodes that are up have room for. need: {resource: amount} of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(has.get(k, 0) / n + 1e-6) for k, n in need.items()) for has in nodes)


@dataclass(eq=False)
class Hand:
    """A worker as its driver knows it."""

    actor: object
    node: str = ""  # its name, with the first 6 letters of Ray's; "" until it has said hello
    shared: bool = False  # whether it sees the records folder
    configs: list = field(default_factory=list)  # that it is doing


class Crew:
    """Workers that were told the same. idle: the Hands of those that have nothing to do."""

    def __init__(self, told, need):
        self.told, self.need = told, need
        self.asked = {}  # {reference to an answer: the Hand that owes it}
        self.idle = []
        self.unfit = []  # they keep their places, or Ray would start others there
        self.stillborn = 0  # how many died before they said hello
        self.why = ""  # why the last one was of no use
        self.looked = 0.0  # when the cluster was last looked at
        self.hoped = time.monotonic()  # when there was last a worker
        self.waits = False  # whether it was said that none can be hired yet
        folder = records.folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, self.token = tempfile.mkstemp(prefix=".tmp-ray-", dir=folder)
        os.close(handle)
        self.forget = weakref.finalize(self, Path(self.token).unlink, missing_ok=True)

    def due(self):
        """Whether it is time to look at what the cluster has."""
        return time.monotonic() >= self.looked + LOOK

    def hire(self, wanted):
        """Have this many workers, as far as there is room; idle ones beyond it are dismissed."""
        self.looked = time.monotonic()
        with contextlib.suppress(OSError):
            os.utime(self.token)  # lest it be swept away as a leftover
        most = min(self._places(), wanted)
        options = {"num_cpus": self.need["CPU"], "num_gpus": self.need.get("GPU", 0)}
        options |= {"max_restarts": 0, "scheduling_strategy": "SPREAD"}
        while len(self.asked) + len(self.idle) < most:
            hand = Hand(ray.remote(Worker).options(**options).remote(self.told))
            self.ask(hand, "hello", self.token)
        while self.idle and len(self.asked) + len(self.idle) > wanted:
            self._dismiss(self.idle.pop())

    def _places(self):
        """For how many workers there is room that neither are unfit nor die as they start."""
        up = [node["NodeID"][:6] for node in ray.nodes() if node["Alive"]]
        unfit = [hand for hand in self.unfit if any(node in hand.node for node in up)]
        return room(self.need) - len(unfit) - self.stillborn // STARTS

    def ask(self, hand, what, *arguments):
        """Call a method of Worker; `answers` has what comes back."""
        self.asked[getattr(hand.actor, what).remote(*arguments)] = hand

    def hopeful(self):
        """KdlibError if there is no worker and can be none. A long wait is said once."""
        now = time.monotonic()
        if self.idle or any(hand.node for hand in self.asked.values()):
            self.hoped = now
        elif not self.asked and self.why and self._places() <= 0:
            raise KdlibError(self.why)
        elif now - self.hoped > PATIENCE and not self.asked:
            raise KdlibError("No node of the cluster has room for a run any more; add one to it.")
        elif now - self.hoped > PATIENCE and not self.waits:
            self.waits = True
            tqdm.write("waiting for room on the cluster (others hold its cores or GPUs)")

    def answers(self, timeout):
        """[(Hand, Answer)] of those that answered within some seconds; None if a worker is lost.

        Those that only said hello are idle from then on."""
        if not self.asked:
            time.sleep(min(timeout, 1.0))
            return []
        owed = list(self.asked)
        ray.wait(owed, timeout=timeout)
        done, _ = ray.wait(owed, num_returns=len(owed), timeout=0)
        return [answer for ref in done if (answer := self._answer(ref))]

    def _answer(self, ref):
        hand = self.asked.pop(ref)
        try:
            answer = ray.get(ref)
        except RayError as error:
            if hand.node and isinstance(error, RayTaskError):  # a fault of ours
                return hand, Answer(failures=[error.cause])
            self._dismiss(hand)
            self.looked = 0.0  # another may take its place at once
            if hand.node:
                return hand, None
            self.stillborn += 1
            self.why = f"A worker died as it started: {str(error).strip().splitlines()[-1]}"
            return None
        if hand.node:
            return hand, answer
        hand.node, hand.shared, wrong = answer
        if wrong:
            self.leave_out(hand, wrong)
        else:
            self.idle.append(hand)
        return None

    def leave_out(self, hand, why):
        """Ask a worker nothing more. Why is said once for each node."""
        if all(hand.node != other.node for other in self.unfit):
            warn(f"{why} The node is left out.")
        self.unfit.append(hand)
        self.why = why
        self.looked = 0.0

    def close(self):
        """Send all away."""
        for hand in [*self.asked.values(), *self.idle, *self.unfit]:
            self._dismiss(hand)
        self.forget()

    def _dismiss(self, hand):
        with contextlib.suppress(RayError, ValueError):  # it is gone already
            ray.kill(hand.actor)
