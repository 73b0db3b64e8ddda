"""Runs as a sweep has them done, here or on a node: what came of them is told, not raised."""

import time
from dataclasses import dataclass, field

import torch

from kdlib.config import KdlibError
from kdlib.study.experiment import collected, load, no_room, together


@dataclass(frozen=True)
class Outcome:
    """What came of runs that were begun together."""

    seconds: float = 0.0
    elsewhere: list = field(default_factory=list)  # Configs that other processes have claimed
    failures: list = field(default_factory=list)  # exceptions, each of which stopped a run
    full: bool = False  # they do not fit into the memory of a GPU at once


def attempt(configs, folder, device, deadline):
    """The Outcome of Configs that are done in lockstep; arguments as of experiment.together.

    Data are loaded before the clock starts: once in a process, which says nothing of a run."""
    start = time.monotonic()
    failures = []
    elsewhere = []
    full = False
    with collected(failures):
        try:
            for cfg in configs:
                load(cfg, folder, device)
            start = time.monotonic()
            elsewhere = together(configs, folder, device, deadline, wait=False)
        except torch.OutOfMemoryError:
            full = len(configs) > 1
            if not full:
                failures.append(no_room(configs[0]))
        except (KdlibError, ExceptionGroup) as error:
            elsewhere = getattr(error, "elsewhere", [])
            raise
    return Outcome(time.monotonic() - start, elsewhere, failures, full)
