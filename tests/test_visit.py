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
from kdlib.config import KdlibError
from kdlib.study import records
from kdlib.study.experiment import run
from kdlib.study.grids import STUDIES
from kdlib.study.machine import git_sha

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

    done = rehearsed(COMMANDS[0], tree, carry, machine, out, "--quick", "--seconds 800")
    assert done.returncode == 0, done.stdout + done.stderr
    speeds = json.loads((out / "speeds.json").read_text())
    assert all(speeds["E"][check.__name__]["passed"] for check in visit.CHECKS)
    assert {name: sorted(rates) for name, rates in speeds["pace"]["images/s"].items()} == {
        "resnet20": ["1", "8"],
        "resnet56": ["1", "8"],
    }
    assert "| resnet56 | 8 |" in done.stdout and "10 of 10 checks passed" in done.stdout

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
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cifar100.tar.1").write_bytes(b"")
    with pytest.raises(KdlibError, match="Part 1 of the images is not in"):
        visit.unpack(tmp_path)


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
    before = visit._tar(files)
    files[0].chmod(0o600)
    os.utime(files[0], (0, 0))
    assert visit._tar(files) == before != visit._tar(files[::-1])


def test_records_that_are_brought_along_overwrite_nothing(tmp_path):
    for name in ("a.npz", "a.json", "b.json"):
        (tmp_path / name).write_text(f"brought {name}")
    (tmp_path / "records.tar").write_bytes(visit._tar(sorted(tmp_path.iterdir())))
    folder = tmp_path / "new" / "records"
    visit.take_records(tmp_path / "records.tar", folder)
    assert files_in(folder) == ["a.json", "a.npz", "b.json"]
    (folder / "a.json").write_text("done here")
    (folder / "b.json").unlink()
    visit.take_records(tmp_path / "records.tar", folder)
    assert (folder / "a.json").read_text() == "done here"
    assert (folder / "b.json").read_text() == "brought b.json"


def test_a_child_is_watched_and_ended_with_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(visit, "BENCH", (sys.executable, "-c"))
    monkeypatch.setattr(visit, "SILENCE", 2)
    monkeypatch.setattr(visit, "EVERY", 0.3)
    saves, log, alive = [], tmp_path / "runs.log", tmp_path / "alive"
    code = "import os, time; time.sleep(1); raise SystemExit(3 + (os.environ['A'] == 'b'))"
    assert visit._watched([code], 60, {"A": "b"}, None, lambda: saves.append(1)) == 4
    assert saves

    grandchild = (
        "import pathlib, time\n"
        f"while True: pathlib.Path({str(alive)!r}).write_text(str(time.time())); time.sleep(0.1)"
    )
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        "time.sleep(600)"
    )
    start = time.monotonic()
    assert visit._watched([code], 3, {}) is None
    assert "its time is up" in capsys.readouterr().out
    stopped = alive.read_text()
    time.sleep(0.5)
    assert alive.read_text() == stopped

    assert visit._watched(["import time; time.sleep(600)"], 600, {}, log) is None
    assert "nothing was heard of it for 2 s" in capsys.readouterr().out
    assert time.monotonic() - start < 30
    code = f"import time\nfor _ in range(6): open({str(log)!r}, 'a').write('x'); time.sleep(0.7)"
    assert visit._watched([code], 600, {}, log) == 0  # it writes


def arguments(tmp_path, **more):
    carry = tmp_path / "carry"
    carry.mkdir()
    return SimpleNamespace(
        carry=carry,
        machine=tmp_path / "machine",
        out=tmp_path / "out",
        device="cpu",
        quick=True,
        seconds=100,
        spare=1,
        jobs=2,
        plan=["digits:1"],
        **more,
    )


def test_checks_that_failed_or_did_not_end_are_named_and_nothing_is_concluded_from_them(
    tmp_path, monkeypatch, capsys
):
    args = arguments(tmp_path)
    args.out.mkdir()
    names = [check.__name__ for check in visit.CHECKS]
    for seen, code in ((True, 0), (False, 1), (None, 1)):
        found = {name: {"passed": True, "seen": "x"} for name in names}
        if seen is None:
            del found[names[-1]]
        else:
            found[names[-1]]["passed"] = seen
        written = {"device": "G", "E": found, "pace": {"images/s": {"n": {"8": 1234.5}}}}

        def bench(*asked, written=written):
            (args.out / "speeds.json").write_text(json.dumps(written))

        monkeypatch.setattr(visit, "_watched", bench)
        assert visit.first(args) == code
        said = capsys.readouterr().out
        assert f"G: {10 - code} of 10 checks passed" in said and "| n | 8 | 1,234 |" in said
        assert (f"{names[-1]} failed: x" in said) == (seen is False)
        assert (f"{names[-1]} did not end" in said) == (seen is None)
    (args.out / "speeds.json").unlink()
    monkeypatch.setattr(visit, "_watched", lambda *asked: None)
    assert visit.first(args) == 1 and "no GPU: 0 of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    "statuses, tried, code", [([0], ["1"], 0), ([None, 0], ["1", "0"], 0), ([1, 1], ["1", "0"], 1)]
)
def test_studies_that_die_or_hang_begin_again_without_graphs(
    tmp_path, monkeypatch, statuses, tried, code
):
    left, seen, args = list(statuses), [], arguments(tmp_path)

    def watched(command, seconds, environment, log, save):
        seen.append(environment["KDLIB_GRAPHS"])
        return left.pop(0)

    (args.carry / "commit").write_text("0123456789ab")
    (args.carry / "records.tar").write_bytes(visit._tar([]))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(visit, "unpack", lambda machine: None)
    monkeypatch.setattr(visit, "_watched", watched)
    args.out.mkdir()
    assert visit.second(args) == code and seen == tried
    os.environ["KDLIB_GRAPHS"] = "0"  # by hand
    left.append(0)
    assert visit.second(args) == 0 and seen == [*tried, "0"]
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
