"""A long run that is stopped goes on where it was.

Its state after some epoch is kept beside the records until the run is one of them."""

import contextlib
import json
import pickle
import time

import torch

from kdlib.config import KdlibError
from kdlib.study.files import folder, whole_file

EVERY = 120.0  # seconds between two savings; a shorter run is never kept
# what torch.load raises of a file that is not whole, or not ours
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError)


def path_of(key):
    """Where the state of a run is, if there is one."""
    return folder() / f".{key}.kept"


def epochs_done(key):
    """How many epochs of a run that was stopped are behind it, for an estimate of the rest."""
    try:
        return torch.load(path_of(key), map_location="cpu", weights_only=True)["state"]["epoch"]
    except BROKEN:  # or not there
        return 0


class Kept:
    """The state of one run on disk, taken up only by the same run on the same kind of machine.

    plan: what must be the same, as JSON can say it; count: how many runs share the time of this
    one; warn(line) hears what is wrong with the file."""

    def __init__(self, key, plan, count, warn):
        self.path, self.plan = path_of(key), json.dumps(plan, sort_keys=True)
        self.count, self.warn = count, warn
        self.started = self.saved = time.monotonic()
        self.before = {"seconds": 0.0, "commits": []}
        if not self.path.exists():
            return
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            wrong = "of another run or machine" if found["plan"] != self.plan else ""
        except BROKEN as error:
            wrong = f"damaged ({type(error).__name__})"
        if wrong:
            warn(f"{self.path}: {wrong}; the run begins anew")
        else:
            self.before = found

    def due(self):
        return time.monotonic() - self.saved > EVERY

    def write(self, commit, **contents):
        """Keep the contents, the commits that were at work, and the seconds it took so far."""
        self.saved = time.monotonic()
        contents["plan"] = self.plan
        contents["commits"] = [*self.before["commits"], commit]
        contents["seconds"] = self.before["seconds"] + (self.saved - self.started) / self.count
        try:
            with whole_file(self.path) as temporary:
                torch.save(contents, temporary)
        except (KdlibError, OSError, RuntimeError) as error:  # torch's own for a full disk
            self.warn(f"{self.path}: not kept ({error}); the run goes on")

    def remove(self):
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
