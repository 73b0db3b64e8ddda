"""The plan of the house: what may know what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "kdlib"
FLOORS = [
    "",
    "study",
    "evidence",
    "pages",
    "reading",
    "auditing",
    "asking",
    "distilling",
    "__main__",
]  # each may know those before it
COMMAND_LINE = ("__main__", "options")  # modules of the room "__main__"
LIGHT = {"numpy", "torch"}  # what the helper module may import beside the standard library
# lines of a module, of the helper module, of kdlib (26,140 until the audit refused more tables)
LONGEST, HELPER, WHOLE = 300, 2000, 26_156

TOO_LONG = "take out as many lines as you add, or raise the limit here and say why"


def modules():
    """{(room, name): path} of every module; the helper module is room ""."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0] if path.parent != ROOT else ""
        name = path.stem
        found["__main__" if name in COMMAND_LINE else room, name] = path
    return found


def imported(path):
    """Dotted names that a module imports anywhere, those of kdlib as modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            folder = ROOT.parent / node.module.replace(".", "/")
            names |= set(inside) if folder.is_dir() else {node.module}
    return names


def known(path):
    """(room, name) of each module of kdlib that a module imports."""
    for name in imported(path):
        parts = name.split(".")[1:] if name.startswith("kdlib") else []
        if parts and (ROOT / parts[0]).is_dir():
            yield parts[0], parts[1]
        elif parts and (ROOT / f"{parts[0]}.py").exists():
            yield "", parts[0]


@pytest.mark.parametrize("at", modules(), ids=str)
def test_a_room_knows_only_those_below_it(at):
    if at == ("", "__init__"):
        return  # kdlib.audit and its kin, on demand
    for room, name in known(modules()[at]):
        assert FLOORS.index(room) <= FLOORS.index(at[0]), f"{at} knows {room}/{name}"


def test_no_modules_know_each_other_in_a_circle():
    below = {at: set(known(path)) for at, path in modules().items() if at != ("", "__init__")}
    while free := [at for at, others in below.items() if not others & below.keys()]:
        for at in free:
            del below[at]
    assert not below
    # nor hidden in a string
    assert not [at for at, path in modules().items() if "import_module" in path.read_text()]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_the_helper_module_needs_torch_and_numpy_alone_and_no_file(path):
    if path.stem in (*COMMAND_LINE, "__init__"):
        return
    others = {name.split(".")[0] for name in imported(path)} - {"kdlib"} - sys.stdlib_module_names
    assert others <= LIGHT
    assert "open(" not in path.read_text() and "pathlib" not in imported(path)


def lines():
    """{(room, name): lines} of every module, as ruff format at 100 columns lays them out."""
    return {at: len(path.read_text().splitlines()) for at, path in modules().items()}


def test_no_module_is_longer_than_a_reader_keeps_in_mind():
    assert {at: n for at, n in lines().items() if n > LONGEST} == {}


def test_the_helper_module_is_read_in_an_evening():
    assert sum(n for (room, _), n in lines().items() if room == "") <= HELPER, TOO_LONG


def test_the_whole_of_kdlib_keeps_its_budget():
    assert sum(lines().values()) <= WHOLE, TOO_LONG


@pytest.mark.parametrize("command", [("format", "--check"), ("check",)], ids=" ".join)
def test_code_and_notebooks_are_laid_out_and_linted_by_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--quiet", "."],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


HIDDEN = """
import builtins, os, sys
real = builtins.__import__
def without(name, *more, **named):
    if name == "fcntl":
        raise ImportError("no fcntl here")
    return real(name, *more, **named)
builtins.__import__ = without
sys.modules.pop("fcntl", None)
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
del os.sysconf
import numpy as np
import kdlib, kdlib.cuda, kdlib.losses, kdlib.rivals, kdlib.teacher, kdlib.train
from kdlib.__main__ import main
rng = np.random.default_rng(0)
y = np.arange(60) % 3
scores = np.eye(3)[y] + rng.normal(size=(60, 3))
found = kdlib.audit(y, scores, scores + 0.1, scores - 0.1 * rng.normal(size=(60, 3)), resamples=20)
print(found.metrics["student_accuracy"].estimate, main(["doctor"]) in (0, 1))
"""


def test_losses_audit_and_doctor_run_where_the_system_has_no_fcntl_affinity_or_sysconf():
    """As on Windows and macOS."""
    command = [sys.executable, "-c", HIDDEN]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].endswith("True"), done.stderr
