"""Where and with what a run is done."""

import contextlib
import functools
import os
import platform
import subprocess
import sys

import numpy as np
import torch

from kdlib import cuda
from kdlib.study.files import ROOT


def default_device():
    """The device of runs: "cuda" where torch can use it, else "cpu".

    An NVIDIA device that torch cannot use is worth a warning."""
    if torch.cuda.is_available():
        return "cuda"
    if os.path.exists("/proc/driver/nvidia/version"):
        print(
            "warning: there is an NVIDIA device but torch cannot use it (`python -m kdlib doctor` "
            "says why); using the CPU",
            file=sys.stderr,
        )
    return "cpu"


def machine(device, precision="fp32"):
    """Where and with what a run was done, for its record.

    fp32 on a GPU lets convolutions and products use TF32. Runs repeat bit for bit where `processor`
    and `versions` are the same, and differ where its kernels differ."""
    processor = _processor()
    name = processor["name"]
    kernels = {}
    if str(device).startswith("cuda"):
        name = torch.cuda.get_device_name()
        kernels = {"kernels": {"graphs": cuda.Captured.graphs}}
    python = platform.python_version()
    numpy = np.__version__
    return {
        "device": name,
        **kernels,
        "processor": processor,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "git": git_sha(),
        "versions": {"python": python, "torch": torch.__version__, "numpy": numpy},
    }


@functools.cache
def _processor():
    """{name, family, model, capability} of the processor; None: not known here.

    The last is that of torch's kernels, such as AVX2 or AVX512."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        lines = [line.split(":", 1) for line in f if ":" in line]
    facts = {key.strip(): value.strip() for key, value in reversed(lines)}  # of the first core
    return {
        "name": facts.get("model name", platform.processor() or platform.machine()),
        "family": facts.get("cpu family"),
        "model": facts.get("model"),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


@functools.cache
def git_sha():
    """Commit of the code, with "+" where tracked code differs from it.

    Outside a clone it is what $KDLIB_GIT says, else "unknown"."""

    def git(*words):
        how = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        return subprocess.run(["git", *words], **how).stdout.strip()

    try:
        if not (ROOT / ".git").exists():  # git would look in the folders above
            raise FileNotFoundError
        changed = git("status", "--porcelain", "--untracked-files=no", "kdlib")
        return git("rev-parse", "HEAD")[:12] + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KDLIB_GIT") or "unknown"
