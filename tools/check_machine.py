"""Can this machine hold the environment? Prints one sentence for each thing that is wrong.

    python3 tools/check_machine.py FOLDER GIGABYTES

FOLDER is where the environment will be; the exit code is 2 if it cannot. This runs before anything
is installed: standard library only, in words that the old Python it turns away can parse.
"""

import importlib.util
import os
import shutil
import sys

OLDEST = (3, 11)


def problems(version, has_ensurepip, free_gb, need_gb, folder):
    """Sentences saying what to do.

    `version`: (major, minor, ...) of this Python; `_gb` in 1e9 bytes."""
    here = "{}.{}".format(*version[:2])
    oldest = "{}.{}".format(*OLDEST)
    found = []
    if tuple(version[:2]) < OLDEST:
        found.append(
            "this Python is {}, but Python {} or later is needed: install one, or name one you "
            "have, as in `make test PYTHON=python{}`.".format(here, oldest, oldest)
        )
    if not has_ensurepip:
        found.append(
            "this Python cannot make environments with pip (no ensurepip module): install it "
            "(Debian, Ubuntu: `apt install python{}-venv`), or use the packages you have with "
            "VENV=none.".format(here)
        )
    if free_gb < need_gb:
        shown = int(free_gb * 10) / 10  # rounded down: 9.96 is not the 10.0 that was asked for
        found.append(
            "the environment needs {:.0f} GB, but {} has only {:.1f} GB free: free some space, or "
            "name a folder on another disk, as in `make test "
            "VENV=/other/disk/venv`.".format(need_gb, folder, shown)
        )
    return found


def free_gb(folder):
    """Free space, in 1e9 bytes, of the disk on which `folder` is or will be."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free / 1e9


def main(folder, need_gb):
    """Print the problems to stderr; returns the exit code."""
    folder = os.path.abspath(folder)
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    found = problems(sys.version_info, has_ensurepip, free_gb(folder), float(need_gb), folder)
    for sentence in found:
        sys.stderr.write("kdlib: " + sentence + "\n")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
