"""Files that are there whole or not at all, work that is claimed by one process, and the cache."""

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path

from kdlib.config import KdlibError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system


def folder():
    """Where records are: $KDLIB_RECORDS, else data/records of the repository."""
    return Path(os.environ.get("KDLIB_RECORDS") or DATA / "records")


def exists(cfg, where=None):
    """Whether a record answers to this Config's key; records.read says if it can be believed."""
    return os.path.exists(f"{where or folder()}/{cfg.key()}.json")


def on_record(where=None):
    """The keys of all records, by one look at the folder: for many runs, on a slow disk."""
    try:
        names = os.listdir(where or folder())
    except FileNotFoundError:
        return set()
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def cache_folder():
    """Where files are that can be made again: $KDLIB_CACHE, else data/cache."""
    return Path(os.environ.get("KDLIB_CACHE") or DATA / "cache")


@contextlib.contextmanager
def whole_file(path):
    """A temporary path beside `path` that takes its place when the block ends well.

    KdlibError when the disk is full or closed to us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        if e.errno not in FULL_OR_CLOSED:
            raise
        raise KdlibError(
            f"{path}: cannot be written ({os.strerror(e.errno)}); free some space or choose "
            "another folder (KDLIB_RECORDS for records), then run the same command again."
        ) from e
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def claim(name, where, wait=True):
    """Hold a run (its key) or another file to be made, so that one process makes it; others wait.

    The block is told whether it holds the claim, which with wait=False another process may do. The
    operating system releases the claim of a process that dies. KdlibError where it has no locks: a
    file in place of a lock would stay when its process is killed, and keep everybody out."""
    from filelock import FileLock, Timeout  # here, since an audit needs none

    where.mkdir(parents=True, exist_ok=True)
    path = where / f".{name}.lock"
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise KdlibError(
            f"{where}: files cannot be locked there ({os.strerror(error.errno)}), and without "
            "locks two processes would do the same run; `python -m kdlib doctor` says what helps."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def free(name, where):
    """Whether no process has claimed it, at this moment."""
    with claim(name, where, wait=False) as held:
        return held


def look_again(where):
    """Have the system ask a server what is in a folder, not what it remembers of half a minute ago.

    It does so when it has made a file there: of a run that another machine has just done, and for
    which this one looked before, it would else still say that there is no record."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(prefix=".tmp-", dir=where):
        pass


def available_cores():
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_notebook():
    """Whether a notebook shows what is printed here; a package that came along tells nothing."""
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")
