"""A visit to a borrowed GPU: its two commands run on a CPU, and what fails there is survived."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import TINY, record

from bench import visit
from bench.checks import CHECKS
from kdlib.config import KdlibError
from kdlib.study import records
from kdlib.study.experiment import run
from kdlib.study.grids import STUDIES
from kdlib.study.machine import git_sha

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "bench/GPU.md").read_text()
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("timeout ")]


def made_up_images(folder):
    """Five files that are called like shards; the digits of the rehearsal read none of them."""
    (folder / "cifar100").mkdir(parents=True)
    for k in range(5):
        file = folder / "cifar100" / f"train-{k:05}-of-00005.parquet"
        file.write_bytes(np.random.default_rng(k).bytes(100_001))


def shell(command, **more):
    return subprocess.run(command, shell=True, capture_output=True, text=True, **more)


def rehearsed(command, tree, carry, machine, out, *more):
    """The finished process of a command of the page, in a bare tree, with folders of the test."""
    changes = {r"timeout \d+": "timeout 900", "python3": sys.executable}
    for old, new in (changes | {r"\.carry": carry, "/tmp/kdlib": machine}).items():
        command = re.sub(old, str(new), command)
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KDLIB_")}
    environment |= {"OUT": str(out), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return shell(" ".join([command, "--device cpu", *more]), cwd=tree, env=environment)


def extracted(content, home, tar):
    """The finished process of the page's command that brings records home, with another folder."""
    tar.write_bytes(content)
    command = re.search("^tar .*", PAGE, re.M)[0].replace("results.tar", str(tar))
    return shell(command.replace("data/records", str(home)))


def contents(folder):
    """{file: its bytes} of all files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pieces(out):
    return [contents(out)[f"results.tar.{k}"] for k in range(len(list(out.glob("results.tar.*"))))]


def test_both_commands_of_the_page_run_on_a_cpu(tmp_path, monkeypatch, capsys):
    """Without .git and records. Nothing is written into the tree; the commit comes home."""
    names = ("data", "tree", "carry", "machine", "out", "home")
    data, tree, carry, machine, out, home = (tmp_path / name for name in names)
    monkeypatch.setenv("KDLIB_RECORDS", str(home))
    made_up_images(data)
    first_pair = visit.configs("digits:1")
    teacher = run(next(cfg for cfg in first_pair if cfg.teacher).teacher_config())
    visit.main(["pack", "--data", str(data), "--to", str(carry), "--plan", "digits:1"])
    said = capsys.readouterr().out
    assert "1 records of the plan go along" in said and "of 64 MiB" in said
    sizes = [sum(map(len, contents(carry / part).values())) for part in "12"]
    assert abs(sizes[0] - sizes[1]) < 100  # so that both can travel
    for package in ("kdlib", "bench"):
        shutil.copytree(ROOT / package, tree / package)
    before = contents(tree)

    done = rehearsed(COMMANDS[0], tree, carry, machine, out, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    speeds = json.loads((out / "speeds.json").read_text())
    assert all(speeds["E"][check.__name__]["passed"] for check in CHECKS)
    found = {name: sorted(rates) for name, rates in speeds["pace"]["images/s"].items()}
    assert found == {"resnet20": ["1", "8"], "resnet56": ["1", "8"]}
    assert "resnet56, 8 at once: " in done.stdout and done.stdout.count("PASS") == len(CHECKS)

    shutil.rmtree(out)  # as before each command
    out.mkdir()
    done = rehearsed(COMMANDS[1], tree, carry, machine, out, "--plan digits:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"digits:1: {len(first_pair)} of {len(first_pair)} runs on record" in done.stdout
    assert contents(machine / "data") == contents(data) and contents(tree) == before
    had = contents(home)
    done = extracted(b"".join(pieces(out)), home, tmp_path / "results.tar")
    assert (done.returncode, done.stderr) == (0, "")
    came = contents(home)
    assert came == came | had
    assert len(came) - len(had) == 2 * (len(first_pair) - 1)  # all but the teacher, which was here
    for cfg in first_pair:
        facts = records.read(cfg).facts
        assert facts["git"] == git_sha() != "unknown"
        assert facts.get("teacher_sha256") in (None, teacher.facts["weights_sha256"])


def test_the_page_says_what_is_so():
    for name, limit, command in zip(("first", "second"), (90, 590), COMMANDS, strict=True):
        assert command.startswith(f"timeout {limit} python3 -m bench visit {name} --carry .carry/")
        assert command.endswith(" --machine /tmp/kdlib --out $OUT")
    assert f"say nothing for {visit.SILENCE} s" in PAGE


def test_a_plan_names_studies_and_seeds_of_first_pairs():
    assert visit.configs("anchors-lt") == STUDIES["anchors-lt"]()
    some = {(cfg.student, cfg.teacher) for cfg in visit.configs("cifar100-lt:2") if cfg.teacher}
    assert some == {("resnet20", "resnet56")} and all(map(visit.configs, visit.PLAN))


def test_what_is_too_large_to_be_carried_is_refused(tmp_path, monkeypatch):
    pack = ["pack", "--data", str(tmp_path), "--to", str(tmp_path / "carry"), "--plan", "digits"]
    with pytest.raises(KdlibError, match="no Parquet files in cifar100/"):
        visit.main(pack)
    made_up_images(tmp_path)
    monkeypatch.setattr(visit, "CARRIED", 500_000)
    with pytest.raises(KdlibError, match="carry/1 is too large"):
        visit.main(pack)


def test_a_part_that_is_on_another_machine_is_named(tmp_path):
    (tmp_path / "cifar100.tar.1").write_bytes(b"")
    with pytest.raises(KdlibError, match="Part 1 of the images is not in"):
        visit.images_of(tmp_path)


# ---------------------------------------------------------------- what is lost, and what is not


def put(cfg):
    role = cfg.method if cfg.teacher or cfg.seed < 1000 else "teacher"
    records.write(record(cfg, role, cfg.seed, 0.7, margin=[0.5] * 10))
    (records.folder() / f"{cfg.key()}.safetensors").write_bytes(b"weights")
    time.sleep(0.01)  # so that the order in which they were done can be seen


def test_pieces_that_are_full_stay_and_a_kill_between_two_loses_only_the_later(
    records_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(STUDIES, "tiny", TINY)  # a teacher and five students
    monkeypatch.setattr(visit, "PIECE", 6000)
    brought, *others = visit.configs("tiny:1")
    put(brought)
    seen, out = [], tmp_path / "out"
    for cfg in reversed(others):
        put(cfg)
        visit.save_results(["tiny:1"], out, {brought.key()})
        seen.append(pieces(out))
    for earlier, later in zip(seen, seen[1:], strict=False):
        data = [b"".join(parts).rstrip(b"\0") for parts in (earlier, later)]
        assert data[1].startswith(data[0]) and all(len(piece) == 6000 for piece in later[:-1])
    content, whole, cut = b"".join(seen[-1]), tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert extracted(content, whole, tmp_path / "results.tar").returncode == 0
    teachers = {d.key() for cfg in others for d in cfg.dependencies()} - {brought.key()}
    expected = {f"{cfg.key()}{suffix}" for cfg in others for suffix in (".npz", ".json")}
    there, here = contents(whole), contents(records_folder)
    assert there.keys() == expected | {f"{key}.safetensors" for key in teachers}
    assert here == here | there
    last = len(content.rstrip(b"\0")) // 6000  # the last piece that is not only zeros
    extracted(content[: last * 6000], cut, tmp_path / "results.tar")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = tar.getnames()
    came = contents(cut)
    assert 3 < len(came) < len(names) and set(came) == set(names[: len(came)])
    assert all(came[name] == there[name] for name in names[: len(came) - 1])


def test_a_child_is_watched_and_ended_with_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(visit, "SILENCE", 2)
    monkeypatch.setattr(visit, "EVERY", 0.3)
    saves, log, alive = [], tmp_path / "runs.log", tmp_path / "alive"

    def watched(code, seconds):
        command = [sys.executable, "-c", f"import subprocess, sys, time\n{code}"]
        return visit.watched(command, seconds, log, lambda: saves.append(1))

    assert watched("time.sleep(1); raise SystemExit(3)", 60) == 3 and saves
    writes = f"open({str(log)!r}, 'a').write('x'); time.sleep(0.7)"
    assert watched(f"for _ in range(6): {writes}", 60) == 0  # longer than SILENCE
    own = f"import pathlib, time\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.1)"
    start = time.monotonic()
    assert (
        watched(f"subprocess.Popen([sys.executable, '-c', {own!r}]); time.sleep(600)", 60) is None
    )
    assert "were ended after 2 s: out of time, or silent" in capsys.readouterr().out
    stopped = alive.stat().st_mtime_ns
    time.sleep(0.5)
    assert alive.stat().st_mtime_ns == stopped
    monkeypatch.setattr(visit, "SILENCE", 600)
    assert watched("time.sleep(600)", 1) is None and time.monotonic() - start < 30


@pytest.mark.parametrize(
    "statuses, tried, code", [([0], ["1"], 0), ([None, 0], ["1", "0"], 0), ([1, 1], ["1", "0"], 1)]
)
def test_studies_that_die_or_hang_begin_again_without_graphs_and_records_stay(
    tmp_path, monkeypatch, statuses, tried, code
):
    left, seen, parts = list(statuses), [], tmp_path / "machine/parts"

    def watched(command, seconds, log, save):
        seen.append(os.environ["KDLIB_GRAPHS"])
        return left.pop(0)

    names = [tmp_path / name for name in ("a.json", "b.json")]
    for file in names:
        file.write_text("brought")
    parts.mkdir(parents=True)
    brought = {"records.tar": visit.tarred(names), "commit": b"0123456789ab"}
    images = {"cifar100.tar.0": visit.tarred([]), "cifar100.tar.1": b""}
    for name, content in (brought | images).items():
        (parts / name).write_bytes(content)
    (tmp_path / "machine/records").mkdir()
    (tmp_path / "machine/records/a.json").write_text("done here")
    monkeypatch.setattr(os, "environ", {**os.environ, "KDLIB_GRAPHS": "1"})
    monkeypatch.setattr(visit, "watched", watched)
    folders = ["--machine", str(parts.parent), "--out", str(tmp_path / "out")]
    asked = ["second", *folders, "--plan", "digits:1", "--seconds", "100"]
    assert visit.main(asked) == code and seen == tried
    kept = contents(tmp_path / "machine/records")
    assert kept == {"a.json": b"done here", "b.json": b"brought"}
    os.environ["KDLIB_GRAPHS"] = "0"  # by hand
    left.append(0)
    assert visit.main(asked) == 0 and seen == [*tried, "0"]
    assert os.environ["KDLIB_GIT"] == "0123456789ab"


def test_a_run_that_fails_stops_no_other_item(monkeypatch, capsys, records_folder):
    def sweep(configs, device, jobs, budget):
        raise KdlibError(f"Run x stopped beside {jobs - 1}.")

    monkeypatch.setattr(visit, "sweep", sweep)
    asked = ["--plan", "digits:1", "digits:2", "--seconds", "9", "--jobs", "3"]
    visit.main(["studies", *asked, "--device", "cpu"])
    assert capsys.readouterr().out.count("Run x stopped beside 2.") == 2
