"""Files that are there whole or not at all, work that is claimed by one process, and the cache."""

import contextlib
import errno
import os
import shutil
import stat
import sys
import time
import uuid
from pathlib import Path

from kdlib.config import KdlibError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
LEFT = ".tmp-"  # with which the names of files that are being written begin
A_DAY = 24 * 3600  # seconds after which nobody can still be writing such a file
ROOM = 10**6  # bytes that a folder must take before a run begins
_being_written = set()  # temporary paths of this process
HELPS = {errno.EROFS: "choose another place"}  # where a disk is full, or closed to us
HELPS |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space")
HELPS |= dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system


def folder():
    """Where records are: $KDLIB_RECORDS, else data/records of the repository."""
    return Path(os.environ.get("KDLIB_RECORDS") or DATA / "records")


def data_folder(given=None):
    """Where data sets are: in the folder that is given, else $KDLIB_DATA, else data/."""
    return Path(given or os.environ.get("KDLIB_DATA") or DATA)


def exists(cfg, where=None):
    """Whether a record answers to this Config's key; records.read says if it can be believed."""
    return os.path.exists(f"{where or folder()}/{cfg.key()}.json")


def cache_folder():
    """Where files are that can be made again: $KDLIB_CACHE, else data/cache."""
    return Path(os.environ.get("KDLIB_CACHE") or DATA / "cache")


def read_file(path, most=2**32):
    """The bytes of a regular file of at most `most` bytes; ValueError for anything else.

    OSError as of open. A device or a pipe might have no end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")
    if found.st_size > most:
        size = f"{found.st_size / 2**20:,.0f} MiB"
        raise ValueError(f"{size}, of which no more than {most / 2**20:,.0f} are read")
    return Path(path).read_bytes()


@contextlib.contextmanager
def _temporary(where, suffix=""):
    """A path in a folder at which nothing is left when the block ends."""
    path = where / f"{LEFT}{uuid.uuid4().hex}{suffix}"
    _being_written.add(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        _being_written.discard(path)


def remove_unfinished():
    """Remove the files that this process is writing, as a signal is about to end it."""
    for path in list(_being_written):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def whole_file(path):
    """A temporary path beside `path` that takes its place when the block ends well.

    KdlibError when the disk is full or closed to us."""
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent, path.suffix) as temporary:
            yield temporary
            os.replace(temporary, path)


def write_whole(path, content):
    """Write bytes, or text in UTF-8, whole or not at all; errors as of whole_file."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _written(path, errors=HELPS):
    """A block that writes a path. Such errors become a KdlibError, as others may be of reading."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise
        raise KdlibError(_cannot_write(path, error)) from error


def _cannot_write(path, error):
    """A sentence about an OSError: which file, why, how full its disk is, what helps."""
    there = disk = nearest(path)
    while not os.path.ismount(disk):
        disk = disk.parent
    why = "not a folder" if isinstance(error, FileExistsError) else os.strerror(error.errno)
    free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free on the disk mounted at {disk}"
    if error.errno == errno.ENOSPC and hasattr(os, "statvfs") and not os.statvfs(there).f_favail:
        free += ", which has no room for the names of further files (inodes)"
    places = {"KDLIB_RECORDS for records": folder(), "KDLIB_CACHE for the cache": cache_folder()}
    option = next((name for name, of in places.items() if path.is_relative_to(of)), "")
    return (
        f"{path}: cannot be written ({why}; {free}); see to its space and permissions or choose "
        f"another folder{option and f' ({option})'}, then run the same command again."
    )


def nearest(path):
    """A path as far as it exists: the folder above it in which the rest would be made."""
    there = path.absolute()
    while not os.path.exists(there):
        there = there.parent
    return there


def sweep_leftovers(where):
    """Remove from a folder what processes left that were killed while they wrote."""
    for path in Path(where).glob(f"{LEFT}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > A_DAY:
                path.unlink()


def check_writable(where):
    """KdlibError unless files can be made in a folder, or the folder itself; leaves nothing there.

    Called before work whose results will be written there."""
    made = [path for path in (where, *where.parents) if not os.path.exists(path)]
    try:
        with _written(where, errno.errorcode):  # all errors, as nothing is read here
            where.mkdir(parents=True, exist_ok=True)
            with _temporary(where) as path:
                path.write_bytes(bytes(ROOM))
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not there, or in use by now
                path.rmdir()


@contextlib.contextmanager
def claim(name, where, wait=True):
    """Claim a run (its key) or another file, so that only one process makes it; others wait.

    Yields True, or with wait=False False if another process holds the claim. The operating system
    releases the claims of a process that dies. KdlibError where a folder has no locks: a file in
    place of a lock would outlive a process that is killed, and keep everybody out."""
    from filelock import FileLock, Timeout  # here, since an audit needs none

    path = where / f".{name}.lock"
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        with _written(path):
            where.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise KdlibError(
                f"{path}: cannot be locked ({os.strerror(error.errno)}); remove it, or choose "
                "another folder."
            ) from error
        raise KdlibError(
            f"{where}: files cannot be locked there ({os.strerror(error.errno)}), and without "
            "locks two processes would do the same run; `python -m kdlib doctor` says what helps."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def free(name, where):
    """Whether nobody holds this claim at the moment."""
    with claim(name, where, wait=False) as held:
        return held


def look_again(where):
    """Make the system ask a file server what is in a folder, by making a file there.

    Else it may answer from memory, for half a minute, that a record which another machine has just
    written is not there."""
    with contextlib.suppress(OSError), _temporary(where) as path:
        path.touch()


def available_cores():
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_notebook():
    """Whether a notebook shows what is printed here. That IPython is installed is no sign of it."""
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")
