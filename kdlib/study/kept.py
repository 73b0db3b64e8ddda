"""A long run that is stopped goes on where it was.

Its state after some epoch is kept beside the records until the run is one of them."""

import contextlib
import hashlib
import io
import json
import time

import torch

from kdlib.config import KdlibError
from kdlib.study.files import folder, read_file, write_whole

EVERY = 120.0  # seconds between two savings; a shorter run is never kept
HASH = 64  # bytes in front: the hash of all that follows, since torch checks none


def path_of(key, where=None):
    """Where the state of a run is, if there is one: by default beside the records."""
    return (where or folder()) / f".{key}.kept"


def packed(contents):
    """The bytes of a file that keeps contents."""
    written = io.BytesIO()
    torch.save(contents, written)
    content = written.getvalue()
    return hashlib.sha256(content).hexdigest().encode() + content


def _read(path):
    """What was kept; an exception of any kind for a file that is not whole, or not ours."""
    held = read_file(path, 2**33)
    content = held[HASH:]
    if hashlib.sha256(content).hexdigest().encode() != held[:HASH]:
        raise ValueError("changed since it was written")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def epochs_done(key):
    """How many epochs of a run that was stopped are behind it, for an estimate of the rest."""
    try:
        return int(_read(path_of(key))["state"]["epoch"])
    except Exception:  # torch, zipfile and pickle raise a dozen classes; or it is not there
        return 0


class Kept:
    """The state of one run on disk, taken up only by the same run on the same kind of machine.

    plan: what must be the same, as JSON can say it; count: how many runs share the time of this
    one; warn(line) hears what is wrong with the file; where: its folder."""

    def __init__(self, key, plan, count, warn, where=None):
        self.path = path_of(key, where)
        self.plan = json.dumps({"run": key, **plan}, sort_keys=True)
        self.count, self.warn = count, warn
        self.started = self.saved = time.monotonic()
        self.before = {"seconds": 0.0, "commits": []}
        if not self.path.exists():
            return
        try:
            found = _read(self.path)
            wrong = "of another run or machine" if found["plan"] != self.plan else ""
        except Exception as error:
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
        content = packed(contents)
        try:
            write_whole(self.path, content)
        except (KdlibError, OSError) as error:
            self.warn(f"{self.path}: not kept ({error}); the run goes on")

    def remove(self):
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
