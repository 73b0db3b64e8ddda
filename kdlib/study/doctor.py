"""What this machine has, and what keeps audits and studies from running here."""

import os
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kdlib import __version__
from kdlib.config import KdlibError
from kdlib.study import locks
from kdlib.study.files import available_cores, check_writable, folder, nearest

BY_AUDITS = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2", "safetensors")
NEEDED = ("torch", "numpy", "scikit-learn", "safetensors", "tqdm", "filelock")  # by a run of digits
INSTALL = '`make setup` or `pip install ".[study]"`'
ALSO_USED = ("torchvision", "pandas", "scipy", "matplotlib", "papermill", "nbconvert")


def examined():
    """(lines, wrong): what there is, and what keeps studies from running, each with the fix."""
    lines = [f"kdlib {__version__}, python {sys.version.split()[0]} in {sys.prefix}", _audits()]
    wrong = []
    for name in (*NEEDED, *ALSO_USED):
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing = wrong if name in NEEDED else lines
            missing.append(f"{name} is missing: {INSTALL} installs it")
    try:
        lines.append(f"GPU: {_gpu()}")
    except (ImportError, OSError) as error:
        wrong.append(f"torch cannot be imported ({error}): {INSTALL} installs one that works")
    here = nearest(folder())
    free = shutil.disk_usage(here).free / 1e9
    lines.append(f"{available_cores()} CPU cores{_memory()}, {free:.1f} GB of disk free in {here}")
    if free < 0.1:
        wrong.append(f"records: less than 0.1 GB is free in {here}: set KDLIB_RECORDS elsewhere")
    try:
        check_writable(folder())
        if find_spec("filelock"):
            told, bad = locks.examined(here)
            lines += told
            wrong += bad
    except KdlibError as error:
        wrong.append(str(error))
    return [*lines, f"records: {folder()}"], wrong


def _memory():
    """The memory built in, in words; "" on Windows, which does not tell."""
    if not hasattr(os, "sysconf"):
        return ""
    return f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB of memory"


def _audits():
    """Whether audits of your own predictions run here, in words."""
    absent = [name for name in BY_AUDITS if find_spec(name) is None]
    if absent:
        return f"audits: not here, for want of {', '.join(absent)}: `pip install .` installs it"
    return "audits: `python -m kdlib audit` runs here, and needs neither torch nor a GPU"


def _gpu():
    """The GPU and its driver, or why torch can use none."""
    files = Path("/proc/driver/nvidia").glob("version")
    driver = "".join(file.read_text().splitlines()[0] for file in files)
    import torch

    try:
        return f"{torch.cuda.get_device_name()}, {driver}"
    # AssertionError is of a torch that was built without CUDA
    except (RuntimeError, AssertionError) as error:
        why = f"{str(error).splitlines()[0]}; {driver or 'no driver'}"
        return f"none that torch can use ({why})"
