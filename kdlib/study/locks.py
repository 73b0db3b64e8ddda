"""Whether locks in a folder keep other processes out, also those on other machines."""

import os
import re
import subprocess
import sys
from pathlib import Path

from kdlib.config import KdlibError
from kdlib.study.files import ROOT, claim

SECOND = """import pathlib, sys
from kdlib.study.files import free
print(free(sys.argv[1], pathlib.Path(sys.argv[2])))"""
ANOTHER = "or set KDLIB_RECORDS to a folder on another disk"
REMOUNT = "have it mounted with locks"
# network file systems beside NFS and Lustre; no option tells what their locks are worth
NETWORKS = ("cifs", "smb3", "fuse.", "9p", "virtiofs", "afs", "beegfs", "ceph", "gpfs", "glusterfs")


def examined(where):
    """(lines, wrong) about the locks of a folder, which exists and can be written."""
    kind, options = mount_of(where)
    if wrong := _of_mount(kind, options) or _tried(where, kind):
        return [], [f"records: {where}: {wrong}"]
    lines = [f"locks: a second process is kept out of what the first has claimed in {where}"]
    if kind.startswith(NETWORKS):
        lines.append(
            f"locks: {where} is shared ({kind}); before machines share a study, ask its "
            "administrators whether flock holds between them"
        )
    return lines, []


def _tried(where, kind):
    """What is wrong, as a second process finds it, with a claim of this one; "" if nothing.

    Two claims of one process would prove nothing, because on NFS they are taken for one."""
    name = f"doctor-{os.getpid()}"
    command = [sys.executable, "-c", SECOND, name, str(where)]
    try:
        with claim(name, where):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except KdlibError as error:
        why = f"{kind or 'of unknown kind'}: {os.strerror(error.__cause__.errno)}"
        return f"files cannot be locked there ({why}): {REMOUNT}, {ANOTHER}"
    finally:
        (where / f".{name}.lock").unlink(missing_ok=True)
    if done.returncode:
        why = done.stderr.strip() or f"exit code {done.returncode}"
        return f"locks could not be tried, as a second process failed ({why.splitlines()[-1]})"
    if done.stdout.strip() == "True":
        return (
            "a second process got a lock that the first one held, so that both would do the same "
            f"run ({kind or 'of unknown kind'}): {REMOUNT}, {ANOTHER}"
        )
    return ""


def mount_of(where, mounts="/proc/self/mounts"):
    """(kind, options) of the file system of a folder: ("nfs4", ["rw", "local_lock=none"]).

    ("", []) where the system does not tell, as on macOS and Windows."""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return "", []
    here = os.path.realpath(where)
    found = ("", [])
    longest = -1
    for line in lines:
        _, point, kind, options, *_ = line.split()
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)  # spaces
        # of two at one place the later one hides the other
        if os.path.commonpath([here, point]) == point and len(point) >= longest:
            found = (kind, options.split(","))
            longest = len(point)
    return found


def _of_mount(kind, options):
    """What is wrong with the locks of a file system by the options of its mount; "" if nothing."""
    local = "its locks hold on one machine alone, and a second one would do the same runs"
    if kind in ("nfs", "nfs4"):
        bad = {"nolock", "local_lock=all", "local_lock=flock"}.intersection(options)
        if bad:
            return (
                f"{local} ({kind} with {', '.join(sorted(bad))}): have it mounted with lock "
                f"and local_lock=none, {ANOTHER} that all machines share"
            )
    if kind == "lustre" and "localflock" in options:
        return (
            f"{local} (lustre with localflock): have it mounted with flock, {ANOTHER} that all "
            "machines share"
        )
    if kind == "lustre" and "flock" not in options:
        return f"it has no locks (lustre without flock): have it mounted with flock, {ANOTHER}"
    return ""
