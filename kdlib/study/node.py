"""The worker that runs on a node of a cluster, with a core or a GPU of its own."""

import contextlib
import math
import os
import socket
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import ray
import torch

from kdlib import cuda
from kdlib.config import KdlibError
from kdlib.study import pace, records
from kdlib.study.experiment import Outcome, load, together
from kdlib.study.files import write_whole
from kdlib.study.kept import path_of
from kdlib.study.weights import SUFFIX

RECORD = (SUFFIX, ".npz", ".json")  # files of a run, in the order in which they are written


@dataclass(frozen=True)
class Told:
    """What a driver tells its workers; paths are those on its own machine."""

    device: str
    graphs: bool
    versions: dict
    data: str | None  # --data
    usual_data: str  # where a node has no KDLIB_DATA of its own
    records: str
    cache: str


@dataclass(frozen=True)
class Answer(Outcome):
    """What came of runs on a node, or of the question how long they take."""

    files: dict = field(default_factory=dict)  # key: as packed, where no folder is shared
    log: str = ""  # lines of runs.log, also where no folder is shared
    unfit: str = ""  # why this node can do no such runs
    shares: dict | None = None  # see pace.shares


def versions():
    """What must be the same on all nodes; for which GPU torch was built does not matter."""
    return {"torch": torch.__version__.partition("+")[0], "numpy": np.__version__}


def packed(key, where):
    """{name: bytes} of the files of a run: its record and weights, or its state when it stopped."""
    paths = [where / path_of(key).name, *(where / f"{key}{suffix}" for suffix in RECORD)]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def unpacked(cfg, found):
    """Write the files of a run as packed; RecordError, and none is written, if it is no record."""
    where = records.folder()
    key = cfg.key()
    whole = f"{key}.json" in found
    if whole and records.exists(cfg):  # somebody was faster
        return
    if whole:
        with tempfile.TemporaryDirectory(prefix="kdlib-") as own:
            for name, content in found.items():
                Path(own, name).write_bytes(content)
            records.read(cfg, Path(own))
    for name, content in found.items():
        write_whole(where / name, content)
    if whole:
        path_of(key).unlink(missing_ok=True)


class Worker:
    """Does runs on its node, one after another or in lockstep."""

    def __init__(self, told):
        self.told = told
        self.shared = False
        node_id = ray.get_runtime_context().get_node_id()
        self.node = f"{socket.gethostname()} ({node_id[:6]})"
        if told.device == "cpu":
            torch.set_num_threads(1)
        if not told.graphs:
            cuda.graphs_off()

    def hello(self, token):
        """(node, whether it sees the driver's records, why it can do nothing here or "").

        token: path of a file that the driver has just made beside them."""
        self.shared = os.path.exists(token)
        os.environ.setdefault("KDLIB_DATA", self.told.usual_data)
        own = os.path.join(tempfile.gettempdir(), "kdlib-cache")
        os.environ.setdefault("KDLIB_CACHE", self.told.cache if self.shared else own)
        return self.node, self.shared, self._other_versions()

    def _other_versions(self):
        for name, here in versions().items():
            asked = self.told.versions[name]
            if here != asked:
                return (
                    f"Node {self.node} has {name} {here} where this machine has {asked}, and "
                    f"would make other weights: install {name} {asked} there."
                )
        return ""

    def shares(self, configs, jobs):
        """An Answer with pace.shares; CaptureError is a failure."""
        told = self.told
        with self._records([]):
            try:
                found = pace.shares.__wrapped__(configs, told.data, told.device, jobs)
            except cuda.CaptureError as error:
                return Answer(failures=[error.with_traceback(None)])
            except KdlibError as error:
                return Answer(unfit=self._said(error))
            return Answer(shares=found)

    def do(self, configs, left, sent):
        """The Answer about runs that have `left` seconds.

        sent: files as packed, or references to them, for a worker that shares no folder."""
        told = self.told
        deadline = None if left == math.inf else time.monotonic() + left
        with self._records(sent) as own:
            try:
                for cfg in configs:
                    load(cfg, told.data, told.device)
            except KdlibError as error:
                return Answer(unfit=self._said(error))
            outcome = together(configs, told.data, told.device, deadline, wait=False)
            failures = [type(error)(self._said(error)) for error in outcome.failures]
            outcome = replace(outcome, failures=failures)
            if own is None:
                return Answer(**vars(outcome))
            files = {cfg.key(): packed(cfg.key(), own) for cfg in configs}
            log = own / "runs.log"  # which is not there if nothing was trained
            said = log.read_text() if log.exists() else ""
            return Answer(**vars(outcome), files=files, log=said)

    def _said(self, error):
        return f"Node {self.node}: {error}"

    @contextlib.contextmanager
    def _records(self, sent):
        """A block in which records go to the driver's folder, or to one with what was sent.

        Yields the path of the latter, else None."""
        if self.shared:
            os.environ["KDLIB_RECORDS"] = self.told.records
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="kdlib-") as own:
            os.environ["KDLIB_RECORDS"] = own
            for found in sent:
                found = ray.get(found) if isinstance(found, ray.ObjectRef) else found
                for name, content in found.items():
                    Path(own, name).write_bytes(content)
            yield Path(own)
