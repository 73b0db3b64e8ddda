"""A visit to a borrowed GPU: its two commands run on a CPU, and what fails there is survived."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import TINY, record

from bench import visit
from bench.checks import CHECKS
from kdlib.config import KdlibError
from kdlib.study import records
from kdlib.study.experiment import git_sha, run
from kdlib.study.grids import STUDIES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "bench/GPU.md").read_text()
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("timeout ")]


def made_up_images(folder):
    """Five files that are called like shards; the digits of the rehearsal read none of them."""
    (folder / "cifar100").mkdir(parents=True)
    for k in range(5):
        (folder / "cifar100" / f"train-{k:05}-of-00005.parquet").write_bytes(
            np.random.default_rng(k).bytes(1001)
        )


def rehearsed(command, tree, carry, machine, out, *more):
    """The finished process of a command of the page, in a bare tree, with folders of the test."""
    for old, new in (
        (r"timeout \d+", "timeout 900"),
        ("python3", sys.executable),
        (r"\.carry", carry),
        ("/tmp/kdlib", machine),
    ):
        command = re.sub(old, str(new), command)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KDLIB_")
    }
    environment |= {"OUT": str(out), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        " ".join([command, "--device cpu", *more]),
        shell=True,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )


def extracted(tar, home):
    """The finished process of the page's command that brings records home, with another folder."""
    command = re.search("^tar .*", PAGE, re.M)[0]
    command = command.replace("results.tar", str(tar)).replace("data/records", str(home))
    return subprocess.run(command, shell=True, capture_output=True, text=True)


def files_in(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )


def test_both_commands_of_the_page_run_on_a_cpu(tmp_path, monkeypatch, capsys):
    """Without .git and records. Nothing is written into the tree; the commit comes home."""
    tree, carry, machine, out, home = (
        tmp_path / name for name in ("tree", "carry", "machine", "out", "home")
    )
    monkeypatch.setenv("KDLIB_RECORDS", str(home))
    made_up_images(tmp_path / "data")
    first_pair = visit.configs("digits:1")
    teacher = run(next(cfg for cfg in first_pair if cfg.teacher).teacher_config())
    visit.main(["pack", "--data", str(tmp_path / "data"), "--to", str(carry), "--plan", "digits:1"])
    said = capsys.readouterr().out
    assert "1 records of the plan go along" in said and "of 64 MiB" in said
    for package in ("kdlib", "bench"):
        shutil.copytree(ROOT / package, tree / package)
    out.mkdir()
    before = files_in(tree)

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
    assert f"digits:1: {len(first_pair)} of {len(first_pair)} runs are on record" in done.stdout
    assert files_in(machine / "data") == files_in(tmp_path / "data") and files_in(tree) == before
    for name in files_in(machine / "data"):
        assert (machine / "data" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
    (tmp_path / "results.tar").write_bytes(
        b"".join(file.read_bytes() for file in sorted(out.glob("results.tar.*")))
    )
    before = {path: path.read_bytes() for path in home.iterdir()}
    done = extracted(tmp_path / "results.tar", home)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(path.read_bytes() == content for path, content in before.items())
    came = set(home.iterdir()) - set(before)
    assert len(came) == 2 * (len(first_pair) - 1)  # all but the teacher, which was here
    for cfg in first_pair:
        facts = records.read(cfg).facts
        assert facts["git"] == git_sha() != "unknown"
        assert facts.get("teacher_sha256") in (None, teacher.facts["weights_sha256"])


def test_the_page_says_what_is_so():
    first, second = (
        re.search(rf"visit {name} .*", command)[0]
        for name, command in zip(("first", "second"), COMMANDS, strict=True)
    )
    for words in (first, second):
        assert "--machine /tmp/kdlib --out $OUT" in words
    limits = [int(re.match(r"timeout (\d+)", command)[1]) for command in COMMANDS]
    assert limits == [90, 590] and sum(limits) + 120 < 900
    assert f"say nothing for {visit.SILENCE} s" in PAGE
    assert len(PAGE.splitlines()) < 90


def test_a_plan_names_studies_and_seeds_of_first_pairs():
    assert visit.configs("anchors-lt") == STUDIES["anchors-lt"]()
    some = visit.configs("cifar100-lt:2")
    assert {cfg.student for cfg in some if cfg.teacher} == {"resnet20"} and {
        cfg.teacher for cfg in some
    } == {"resnet56", None}
    assert all(visit.configs(item) for item in visit.PLAN)


def test_what_is_too_large_to_be_carried_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(KdlibError, match="no Parquet files in cifar100/"):
        visit.main(["pack", "--data", str(tmp_path), "--to", str(tmp_path / "carry")])
    made_up_images(tmp_path)
    monkeypatch.setattr(visit, "CARRIED", 1_500_000)
    with pytest.raises(KdlibError, match="carry/1 is too large"):
        visit.main(
            ["pack", "--data", str(tmp_path), "--to", str(tmp_path / "carry"), "--plan", "digits"]
        )


def test_a_part_that_is_on_another_machine_is_named(tmp_path):
    (tmp_path / "cifar100.tar.1").write_bytes(b"")
    with pytest.raises(KdlibError, match="Part 1 of the images is not in"):
        visit.images_of(tmp_path)


# ---------------------------------------------------------------- what is lost, and what is not


@pytest.fixture
def tiny(records_folder, monkeypatch):
    """A study of a teacher and five students, none of it on record."""
    monkeypatch.setitem(STUDIES, "tiny", TINY)
    return visit.configs("tiny:1")


def put(cfg):
    role = cfg.method if cfg.teacher or cfg.seed < 1000 else "teacher"
    records.write(record(cfg, role, cfg.seed, 0.7, margin=[0.5] * 10))
    (records.folder() / f"{cfg.key()}.pt").write_bytes(b"weights")
    time.sleep(0.01)  # so that the order in which they were done can be seen


def test_pieces_that_are_full_stay_and_a_kill_between_two_loses_only_the_later(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(visit, "PIECE", 7000)
    out = tmp_path / "out"
    brought, *others = tiny
    put(brought)
    seen = []
    for cfg in reversed(others):
        put(cfg)
        visit.save_results(["tiny:1"], out, {brought.key()})
        seen.append(
            [
                file.read_bytes()
                for file in sorted(out.glob("results.tar.*"), key=lambda f: int(f.suffix[1:]))
            ]
        )
    for earlier, later in zip(seen, seen[1:], strict=False):
        data = [b"".join(pieces).rstrip(b"\0") for pieces in (earlier, later)]
        assert data[1].startswith(data[0]) and all(len(piece) == 7000 for piece in later[:-1])
    whole, cut, results = (tmp_path / name for name in ("whole", "cut", "results.tar"))
    content = b"".join(seen[-1])
    last = len(content.rstrip(b"\0")) // 7000  # the last piece that is not only zeros
    results.write_bytes(content[: last * 7000])
    cut.mkdir()
    extracted(results, cut)  # its status is 0 where the cut is in the header of a file
    results.write_bytes(content)
    whole.mkdir()
    assert extracted(results, whole).returncode == 0
    teachers = {d.key() for cfg in tiny for d in cfg.dependencies()} - {brought.key()}
    expected = {f"{cfg.key()}{suffix}" for cfg in others for suffix in (".npz", ".json")}
    assert set(files_in(whole)) == expected | {f"{key}.pt" for key in teachers}
    with tarfile.open(results) as tar:
        names = tar.getnames()
    assert all((whole / n).read_bytes() == (records.folder() / n).read_bytes() for n in names)
    came = len(files_in(cut))
    assert 3 < came < len(names) and set(files_in(cut)) == set(names[:came])
    assert all((cut / n).read_bytes() == (whole / n).read_bytes() for n in names[: came - 1])


def test_a_tar_file_depends_only_on_names_contents_and_order(tmp_path):
    files = [tmp_path / "b.json", tmp_path / "a.npz"]
    for k, file in enumerate(files):
        file.write_bytes(bytes(1000 * (k + 1)))
    before = visit.tarred(files)
    files[0].chmod(0o600)
    os.utime(files[0], (0, 0))
    assert visit.tarred(files) == before != visit.tarred(files[::-1])


def test_records_that_are_brought_along_overwrite_nothing(tmp_path):
    for name in ("a.npz", "a.json", "b.json"):
        (tmp_path / name).write_text(f"brought {name}")
    (tmp_path / "records.tar").write_bytes(visit.tarred(sorted(tmp_path.iterdir())))
    folder = tmp_path / "new" / "records"
    visit.extract((tmp_path / "records.tar").read_bytes(), folder, "--skip-old-files")
    assert files_in(folder) == ["a.json", "a.npz", "b.json"]
    (folder / "a.json").write_text("done here")
    (folder / "b.json").unlink()
    visit.extract((tmp_path / "records.tar").read_bytes(), folder, "--skip-old-files")
    assert (folder / "a.json").read_text() == "done here"
    assert (folder / "b.json").read_text() == "brought b.json"


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
def test_studies_that_die_or_hang_begin_again_without_graphs(
    tmp_path, monkeypatch, statuses, tried, code
):
    left, seen, parts = list(statuses), [], tmp_path / "machine/parts"

    def watched(command, seconds, log, save):
        seen.append(os.environ["KDLIB_GRAPHS"])
        return left.pop(0)

    parts.mkdir(parents=True)
    (parts / "commit").write_text("0123456789ab")
    for name in ("records.tar", "cifar100.tar.0"):
        (parts / name).write_bytes(visit.tarred([]))
    (parts / "cifar100.tar.1").write_bytes(b"")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "environ", {**os.environ})
    os.environ.pop("KDLIB_GRAPHS", None)
    monkeypatch.setattr(visit, "watched", watched)
    folders = ["--machine", str(parts.parent), "--out", str(tmp_path / "out")]
    asked = ["second", *folders, "--plan", "digits:1", "--seconds", "100"]
    assert visit.main(asked) == code and seen == tried
    os.environ["KDLIB_GRAPHS"] = "0"  # by hand
    left.append(0)
    assert visit.main(asked) == 0 and seen == [*tried, "0"]
    assert os.environ["KDLIB_GIT"] == "0123456789ab"


def test_a_run_that_fails_stops_no_other_item(monkeypatch, capsys, records_folder):
    asked = []

    def sweep(configs, device, jobs, budget):
        asked.append((len(configs), jobs))
        raise KdlibError("Run x stopped.")

    monkeypatch.setattr(visit, "sweep", sweep)
    visit.studies(SimpleNamespace(plan=["digits:1", "digits:2"], seconds=9, device="cpu", jobs=3))
    assert [jobs for _, jobs in asked] == [3, 3] and capsys.readouterr().out.count(
        "Run x stopped."
    ) == 2
