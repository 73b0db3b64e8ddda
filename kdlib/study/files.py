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
ROOM = 10**6  # bytes that a folder must take before a run begins
FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def folder():
    """Where records are: $KDLIB_RECORDS, else data/records of the repository."""
    return Path(os.environ.get("KDLIB_RECORDS") or DATA / "records")


def exists(cfg, where=None):
    """Whether a record answers to this Config's key; records.read says if it can be believed."""
    return os.path.exists(f"{where or folder()}/{cfg.key()}.json")


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


def check_writable(where):
    """KdlibError if no file can be made in a folder of records, or not the folder; leaves nothing.

    To be called before work whose result will be written there."""
    made = [path for path in (where, *where.parents) if not os.path.exists(path)]
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".tmp-", dir=where) as file:
            file.write(bytes(ROOM))
    except OSError as e:
        why = "not a folder" if isinstance(e, FileExistsError) else os.strerror(e.errno)
        raise KdlibError(
            f"records: {where} cannot be written ({why}): set KDLIB_RECORDS to another folder, or "
            "see to its space and permissions."
        ) from e
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not there, or in use by now
                path.rmdir()


@contextlib.contextmanager
def claim(name, where):
    """Hold a run (its key) or another file to be made, so that one process makes it; others wait.

    The operating system releases the claim of a process that dies."""
    from filelock import FileLock  # here, since an audit needs none

    where.mkdir(parents=True, exist_ok=True)
    with FileLock(where / f".{name}.lock"):
        yield


def available_cores():
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_notebook():
    """Whether a notebook shows what is printed here; a package that came along tells nothing."""
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")
