"""The light install: `pip install .` into a fresh environment with what it asks for and no more."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement

import kdlib

ROOT = Path(__file__).parents[1]


def asked_for(distribution):
    """Names of the packages that a distribution needs here, without any of its extras."""
    wanted = map(Requirement, distribution.requires or [])
    return [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]


def run(*command, **more):
    ours = ("PYTHONPATH", "PIP_CONSTRAINT")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **more)


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """Python of the environment. Nothing is fetched: packages are links to those that are here."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder / "env", symlinks=True)
    [site] = (folder / "env").glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "kdlib", folder / "kdlib")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--target", site, folder)
    assert done.returncode == 0, done.stderr
    [installed] = importlib.metadata.distributions(name="kdlib", path=[str(site)])
    wanted, linked = asked_for(installed), set()
    assert "torch" not in wanted and "numpy" in wanted
    while wanted:
        distribution = importlib.metadata.distribution(wanted.pop())
        if distribution.name in linked:
            continue
        linked.add(distribution.name)
        wanted += asked_for(distribution)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution.locate_file(top))
    return folder / "env" / "bin" / "python"


@pytest.fixture
def files(tmp_path):
    """The arguments of an audit, whose files are of three kinds."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    scores = [3 * np.eye(4)[y] + rng.normal(size=(120, 4)) for _ in range(3)]
    pd.DataFrame({"label": y}).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame(scores[0]).rename(columns=str).to_parquet(tmp_path / "teacher.parquet")
    np.save(tmp_path / "student.npy", scores[1])
    np.savez(tmp_path / "baseline.npz", logits=scores[2])
    return {file.stem: str(file) for file in sorted(tmp_path.iterdir())}


def test_it_audits_and_finds_what_the_whole_install_finds(light, files, tmp_path):
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    done = run(light, "-m", "kdlib", "audit", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "audit.html, audit.json, audit.csv" in done.stdout
    assert "data:image/svg+xml" in (tmp_path / "audit.html").read_text()
    assert len(pd.read_csv(tmp_path / "audit.csv")) == 4
    kdlib.audit(**files).save(tmp_path / "here.html")
    found, here = (json.loads((tmp_path / f"{f}.json").read_text()) for f in ("audit", "here"))
    assert found["metrics"] == here["metrics"] and len(found["metrics"]) > 10
    code = f"import kdlib; print(kdlib.audit(**{files})._repr_html_()[:1])"
    assert run(light, "-c", code, cwd=tmp_path).stdout == "<\n"


@pytest.mark.parametrize(
    "name", ["torch", "torchvision", "sklearn", "filelock", "tqdm", "nbconvert"]
)
def test_it_has_nothing_else(light, name, tmp_path):
    done = run(light, "-c", f"import {name}", cwd=tmp_path)
    assert f"No module named '{name}'" in done.stderr


def test_it_has_every_file_of_the_package(light):
    [installed] = light.parents[1].glob("lib/python*/site-packages/kdlib")
    for file in (ROOT / "kdlib").rglob("*.*"):
        assert file.suffix == ".pyc" or (installed / file.relative_to(ROOT / "kdlib")).exists(), (
            file
        )


@pytest.mark.parametrize("command", ["run digits", "report digits", "data get cifar10"])
def test_a_command_that_needs_more_says_what_to_install(light, command, tmp_path):
    done = run(light, "-m", "kdlib", *command.split(), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("kdlib: this command needs ")
    assert 'pip install ".[study]"' in done.stderr


def test_the_losses_say_what_to_install_and_doctor_what_is_missing(light, tmp_path):
    done = run(light, "-c", "import kdlib.losses", cwd=tmp_path)
    assert done.stderr.count("Traceback") == 1
    assert 'kdlib.losses needs torch: pip install ".[torch]"' in done.stderr.splitlines()[-1]
    done = run(light, "-m", "kdlib", "doctor", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert "audits: `python -m kdlib audit` runs here" in done.stdout
    assert 'WRONG: torch is missing: `make setup` or `pip install ".[study]"`' in done.stdout
