"""The set-up: pyproject, lock, environment.yml agree; make, machine check, .ci/run do as said.

Nothing here needs a network: where `make` would install, a stand-in for Python writes down what it
is asked.
"""

import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
EVERY = map(Requirement, sum(EXTRAS.values(), PROJECT["dependencies"]))
DIRECT = [r for r in EVERY if r.name != "kdlib"]  # an extra names the smaller ones
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^[a-z0-9-]+==[^\s\\]+(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n", re.MULTILINE
)
LOCKED = [Requirement(entry.split(" \\\n")[0]) for entry in ENTRY.findall(LOCK)]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
# tested together; CUDA builds that need no extra index
PAIR = {"torch": "2.15.0", "torchvision": "0.29.2"}


def version(requirement):
    """The version that `name==version` pins."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def locked(name, python):
    """Versions of package `name` that the lock installs on Linux under this Python, as "3.11"."""
    machine = {"python_full_version": f"{python}.9", "python_version": python}
    machine |= {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"}
    machine |= {"implementation_name": "cpython"}
    ours = [r for r in LOCKED if r.name == name]
    return [version(r) for r in ours if r.marker is None or r.marker.evaluate(machine)]


def test_lock_holds_names_versions_markers_and_hashes_only():
    assert ENTRY.sub("", LOCK) == ""  # nothing between the entries, and no entry without a hash
    assert len(LOCKED) > 100 and "://" not in LOCK and "#" not in LOCK


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("wanted", DIRECT, ids=lambda r: r.name)
def test_each_direct_dependency_is_locked_once_and_in_range(wanted, python):
    found = locked(wanted.name, python)
    assert len(found) == 1, f"the lock has {found or 'nothing'}; run `make lock`"
    assert found[0] in wanted.specifier


def test_environment_yml_pins_the_locked_versions():
    [python] = [d.removeprefix("python=") for d in ENVIRONMENT if str(d).startswith("python=")]
    [lines] = [d["pip"] for d in ENVIRONMENT if isinstance(d, dict)]
    pins = {r.name: version(r) for r in map(Requirement, lines[:-1])}
    assert pins == {r.name: locked(r.name, python)[0] for r in DIRECT} and lines[-1] == "-e ."
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_each_extra_holds_the_smaller_ones_and_an_audit_asks_for_little():
    light = {Requirement(line).name for line in PROJECT["dependencies"]}
    readers = {"numpy", "pandas", "pyarrow", "safetensors"}
    assert light == readers | {"scipy", "matplotlib", "jinja2"}
    assert [Requirement(line).name for line in EXTRAS["torch"]] == ["torch"]
    assert "kdlib[torch]" in EXTRAS["study"] and "kdlib[study]" in EXTRAS["ray"]
    assert {"kdlib[study]", "kdlib[ray]"} <= set(EXTRAS["dev"])
    assert len({r.name for r in DIRECT}) == len(DIRECT)  # each stands in one place


def test_torch_and_torchvision_are_the_tested_pair():
    pinned = {r.name: version(r) for r in LOCKED if r.name in PAIR}
    assert pinned == PAIR
    assert all(r.marker is None for r in LOCKED if r.name in PAIR)


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    (paper,) = citation["references"]
    families = [author["family-names"] for author in paper["authors"]]
    assert families == ["Lukasik", "Bhojanapalli", "Menon", "Kumar"]
    assert paper["identifiers"][0]["value"] == "arXiv:2106.10494"


# --- the Makefile


def run(*command, folder=ROOT, **more):
    """Run it without what an outer `make test VENV=none` hands down; the finished process."""
    from_make = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    ours = from_make | {"VENV", "PYTHON", "PYTHONPATH", "NEED_GB", "KDLIB_DATA"}
    kept = {k: v for k, v in os.environ.items() if k not in ours}
    environment = kept | {k: str(v) for k, v in more.items()}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def make(*arguments, **more):
    return run("make", *arguments, **more)


def test_help_is_the_default_and_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = set(phony[1].split())
    assert {"report", "test", "lab", "help"} <= targets
    listed = make()
    assert listed.returncode == 0
    assert set(re.findall(r"^  make ([a-z-]+) +\w", listed.stdout, re.MULTILINE)) == targets
    assert make("help").stdout == listed.stdout


TESTS = "-m pytest -q -n auto --maxprocesses 8 --dist loadfile --durations 20"


@pytest.mark.parametrize(
    "target, command",
    [("test", TESTS), ("report", "-m kdlib report"), ("lab", "-m jupyterlab notebooks")],
)
def test_without_environment_the_current_python_runs_and_nothing_is_installed(target, command):
    made = make("--dry-run", target, "VENV=none", "PYTHON=my-python")
    assert made.stdout == f"my-python {command}\n"


STAND_IN = """#!/bin/sh
# In place of Python: `-m venv FOLDER` copies itself there; every call is written down.
echo "PIP_CONSTRAINT=$PIP_CONSTRAINT $*" >> "$CALLS"
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
case "$*" in *"$FAIL_AT"*) exit 7;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A function that runs make in a copy with the stand-in: target -> exit code, calls of Python,
    output."""
    for name in ["Makefile", "requirements.lock", "pyproject.toml"]:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def call(target, fail_at="nothing"):
        calls.write_text("")
        done = make(target, f"PYTHON={python}", folder=tmp_path, CALLS=calls, FAIL_AT=fail_at)
        return done.returncode, calls.read_text().splitlines(), done.stdout

    return call


def test_the_first_call_checks_and_installs_the_lock_and_the_second_starts_at_once(checkout):
    rc, calls, said = checkout("test")
    assert rc == 0
    assert [call.partition(" ")[2] for call in calls] == [
        "tools/check_machine.py .venv 10",
        "-m venv .venv",
        "-m pip install --require-hashes -r requirements.lock",
        "-m pip install --no-deps --no-build-isolation --editable .",
        TESTS,
    ]
    pips = [call for call in calls if " pip " in call]
    assert len(pips) == 2 and all(call.startswith("PIP_CONSTRAINT=/dev/null ") for call in pips)
    assert said.index("torch: several GB, 2-4 minutes") < said.index("--require-hashes")
    rc, calls, _ = checkout("report")
    assert rc == 0 and [call.partition(" ")[2] for call in calls] == ["-m kdlib report"]


@pytest.mark.parametrize("step", ["check_machine", "-m venv", "--require-hashes", "--editable"])
def test_a_step_that_fails_stops_the_rest_and_leaves_no_valid_stamp(checkout, tmp_path, step):
    rc, calls, _ = checkout("test", fail_at=step)
    stamp = tmp_path / ".venv/.stamp"
    assert rc != 0 and step in calls[-1] and not stamp.exists()
    assert checkout("test")[0] == 0 and stamp.exists()
    later = stamp.stat().st_mtime + 5
    os.utime(tmp_path / "requirements.lock", (later, later))  # the old stamp is not enough
    rc, calls, _ = checkout("test", fail_at=step)
    assert rc != 0 and step in calls[-1] and "-m pytest -q" not in calls[-1]
    assert any("--require-hashes" in call for call in checkout("test")[1])


# --- the check of the machine

CHECK = runpy.run_path(str(ROOT / "tools/check_machine.py"))


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (((3, 11, 0), True, 10.0, 10, "/x"), []),
        (((4, 0, 1), True, 90.0, 10, "/x"), []),
        (((3, 10, 13), True, 90.0, 10, "/x"), ["this Python is 3.10, but Python 3.11 or later"]),
        (((3, 12, 1), False, 90.0, 10, "/x"), ["apt install python3.12-venv"]),
        (((3, 12, 1), True, 9.96, 10, "/x"), ["needs 10 GB, but /x has only 9.9 GB free"]),
        (((2, 7, 18), False, 0.0, 10, "/x"), ["this Python is 2.7", "no ensurepip", "only 0.0 GB"]),
    ],
)
def test_check_says_one_sentence_for_each_thing_that_is_wrong(machine, says):
    found = CHECK["problems"](*machine)
    assert len(found) == len(says)
    for sentence, expected in zip(found, says, strict=True):
        assert expected in sentence and "\n" not in sentence and sentence.endswith(".")


def test_oldest_python_is_the_one_of_pyproject():
    assert PROJECT["requires-python"] == ">={}.{}".format(*CHECK["OLDEST"])


def test_too_little_disk_stops_make_with_one_sentence(tmp_path):
    enough = make("check", f"VENV={tmp_path}/not/there", "NEED_GB=0")
    assert (enough.returncode, enough.stderr) == (0, "")
    small = make("check", f"VENV={tmp_path}/not/there", "NEED_GB=1000000")
    assert small.returncode != 0
    (sentence,) = [line for line in small.stderr.splitlines() if line.startswith("kdlib: ")]
    assert f"needs 1000000 GB, but {tmp_path}/not/there has only" in sentence


# --- .ci/run


STAND_IN_CI = """#!/bin/sh
echo "$* in $PWD: $KDLIB_REQUIRE; $KDLIB_DATA" >> "$CALLS"; [ "$1" != "$FAIL_AT" ]
"""


def run_ci(folder, **more):
    """Run a copy of .ci/run with stand-ins for make and browser: the finished process, the calls of
    make."""
    clone, tools, calls = folder / "clone", folder / "bin", folder / "calls"
    for place in (folder / "shared/data", clone / ".ci", tools):
        place.mkdir(parents=True)
    (clone / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    for name in ["make", "chromium", "chromedriver"]:
        (tools / name).write_text(STAND_IN_CI)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = run("bash", clone / ".ci/run", folder=folder, PATH=path, CALLS=calls, **more)
    return done, calls.read_text().splitlines()


def test_ci_runs_the_commands_with_data_and_browser_required(tmp_path):
    assert os.access(ROOT / ".ci/run", os.X_OK)
    done, calls = run_ci(tmp_path)
    assert done.returncode == 0
    where = f"in {tmp_path}/clone: data,browser; {tmp_path}/shared/data"
    targets = ["test", "test-cluster", "report"]
    assert calls == [f"{target} {where}" for target in targets]
    timed = re.findall(r"ci: make (\S+) took \d+ s", done.stdout)
    assert timed == targets


def test_ci_keeps_a_data_folder_that_is_set_and_stops_at_failing_tests(tmp_path):
    done, calls = run_ci(tmp_path, KDLIB_DATA="/mine", FAIL_AT="test")
    assert done.returncode != 0
    assert calls == [f"test in {tmp_path}/clone: data,browser; /mine"]
