"""The command line, mostly on a digits study shrunk to three short runs a seed, kept in a folder of
its own."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from synthetic import write_study

from kdlib import __main__ as cli
from kdlib import __version__, options
from kdlib.evidence import findings
from kdlib.study import cifar, doctor, grids, pace, records, sweep
from kdlib.study.files import check_writable
from kdlib.study.grids import STUDIES
from kdlib.study.provenance import DATA_FROM

ROOT = Path(__file__).parents[1]
SMALL = dataclasses.replace(
    STUDIES["digits"],
    pairs=(("cnn_small", "cnn_small"),),
    methods={"one_hot": {}, "kd": {}},
    seeds=4,
    shared={**STUDIES["digits"].shared, "epochs": 2, "warmup": 1, "imbalance": 1.0},
)
IN_SMALL = """import sys, kdlib.study.grids
from test_cli import SMALL
from kdlib.__main__ import main
if __name__ == "__main__":
    kdlib.study.grids.STUDIES["digits"] = SMALL
    sys.exit(main(sys.argv[1:]))
"""


def environment(folder):
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    ours = {"KDLIB_RECORDS": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return os.environ | ours


def python(*words, folder, shell=""):
    """A finished Python process; `shell`: what stands behind the command in a shell."""
    command = [sys.executable, *words]
    if shell:
        command = ["bash", "-c", f'"$0" "$@" {shell}', *command]
    how = {"cwd": ROOT, "env": environment(folder), "capture_output": True, "text": True}
    return subprocess.run(command, **how)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of four seeds, interrupted after its first record; then the same command again, in a
    budget that is ample."""
    folder, script = (
        tmp_path_factory.mktemp("records"),
        tmp_path_factory.mktemp("script") / "small.py",
    )
    script.write_text(IN_SMALL)
    command = [str(script), "run", "digits", "--seeds", "4", "--jobs", "1"]
    first = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored under nohup
    )
    # not one that is being written
    while not list(folder.glob("digits_*.json")) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    kept = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("digits_*.json")}
    again = python(*command, "--budget", "2h", folder=folder)
    return folder, (first.returncode, out, err), kept, again


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder of records, and two studies; all come back in their order."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    whole = dict(STUDIES)
    STUDIES.clear()
    STUDIES.update({"cifar20-lt": whole["cifar20-lt"], "digits": SMALL})
    yield tmp_path / "records"
    STUDIES.clear()
    STUDIES.update(whole)


@pytest.fixture
def complete(interrupted, empty):
    shutil.copytree(interrupted[0], empty)
    return empty


# ---------------------------------------------------------------- run


def test_an_interrupt_is_one_sentence_that_counts_what_is_kept(interrupted):
    _, (code, out, err), kept, _ = interrupted
    counted = f"finished runs are kept ({len(kept)} of 12 runs on record)"
    rest = "and the same command goes on with the rest"
    assert (code, err) == (130, f"kdlib: interrupted; {counted}, {rest}\n")
    assert out.startswith("digits: 12 runs, 0 on record\n12 to do: about ")


def test_the_same_command_resumes_and_redoes_nothing(interrupted):
    folder, _, kept, again = interrupted
    assert (again.returncode, again.stderr) == (0, "")  # no progress bar: this is no terminal
    done, left = len(kept), 12 - len(kept)
    begin = f"digits: 12 runs, {done} on record\n{left} to do: about "
    assert again.stdout.startswith(begin)
    end = "12 of 12 runs on record\npython -m kdlib report digits draws its pages\n"
    assert again.stdout.endswith(end) and 1 <= done < 12
    assert kept == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}
    assert all(records.read(cfg, folder).config == cfg for cfg in SMALL(4))
    assert not list(folder.glob(".tmp-*"))


def test_a_complete_study_starts_nothing_and_refuses_a_damaged_record(
    complete, capsys, monkeypatch
):
    monkeypatch.setattr(sweep, "_pool", None)
    assert cli.main(["run", "digits"]) == 0
    said = "digits: 12 runs, 12 on record\n12 of 12 runs on record\n"
    assert capsys.readouterr().out == f"{said}python -m kdlib report digits draws its pages\n"
    (complete / f"{SMALL(1)[0].key()}.npz").write_bytes(b"PK")
    assert cli.main(["run", "digits"]) == 2
    assert "truncated or changed" in capsys.readouterr().err


def test_a_budget_stops_in_time(empty, capsys):
    assert cli.main(["run", "digits", "--budget", "0.001"]) == 0
    rest = "no time was left for the rest, with which the same command goes on"
    assert capsys.readouterr().out.endswith(f"0 of 12 runs on record; {rest}\n")
    assert not list(empty.glob("*.json"))


@pytest.fixture
def long(empty, monkeypatch):
    """A study that seems to take an hour a run. Yields the arguments of each sweep."""

    def an_hour_each(configs, *how):
        return {cfg.key(): 3600.0 for cfg in configs}

    monkeypatch.setattr(sweep, "shares", an_hour_each)
    sweeps = []
    monkeypatch.setattr(sweep, "sweep", lambda *arguments: sweeps.append(arguments))
    return sweeps


def test_a_long_run_is_not_started_without_a_yes(long, capsys):
    assert cli.main(["run", "digits", "--seeds", "1", "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert "3 to do: about 1 h 30 min here (cpu, 2 at a time)" in out
    assert err == (
        "kdlib: this would take about 1 h 30 min and was not started; --yes starts it, and "
        "--budget 9m does what fits into nine minutes.\n"
    )
    assert long == []


@pytest.mark.parametrize("option", [["--yes"], ["--budget", "9m"]])
def test_a_yes_or_a_budget_starts_a_long_run(long, option):
    more = ["--device", "cpu", "--jobs", "2", "--data", "here"]
    assert cli.main(["run", "digits", *more, *option]) == 0
    *rest, budget, ray = long[0]
    assert rest == [SMALL(4), "here", "cpu", 2] and ray is None
    # the time since the start is taken off
    assert budget is None if option == ["--yes"] else 400 < budget < 540


@pytest.mark.parametrize(
    "answer, code, started", [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0)]
)
def test_a_terminal_is_asked(long, monkeypatch, capsys, answer, code, started):
    class Terminal:
        isatty, readline = (lambda self: True), (lambda self: answer)

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert cli.main(["run", "digits"]) == code and len(long) == started
    assert capsys.readouterr().out.count("Start? [y/N]") == 1


def test_missing_data_are_one_sentence_before_anything_starts(empty, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    monkeypatch.setattr(sweep, "_pool", None)
    assert cli.main(["run", "cifar20-lt", "--yes"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"kdlib: cifar100 was not found: looked in {tmp_path} for ")
    assert err.endswith("get the data with: python -m kdlib data get cifar100\n")
    assert err.count("\n") == 1 and not empty.exists()


def test_a_gpu_that_is_not_there_is_refused(empty, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["run", "digits", "--device", "cuda"]) == 2
    assert "`python -m kdlib doctor` says why" in capsys.readouterr().err


def test_a_method_is_compared_with_what_is_on_record(complete, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "_in_processes", sweep._in_lockstep)
    command = ["run", "digits", "--method", "label_smoothing", "--jobs", "1"]
    assert cli.main([*command, "--seeds", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "2 of 2 runs on record" in said
    networks = "cnn_small → cnn_small, first 2 seeds"
    at = said.index(f"{networks}: points over 8 one-hot networks, with 95 % intervals")
    rows = [line.strip().partition(": ")[0] for line in said[at + 1 :]]
    assert rows[:2] == ["distillation, average", "label smoothing, average"] and len(rows) == 4
    (complete / f"{SMALL.config(SMALL.pairs[0], 'kd', 1).key()}.json").unlink()
    assert cli.main([*command, "--seeds", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "2 of 2 runs on record",
        "no comparison of the first 2 seeds yet, for want of 1 run: python -m kdlib run digits "
        "--pair cnn_small/cnn_small --method one_hot --method kd --method label_smoothing "
        "--seeds 2",
        "all were read, not repeated; CONTRIBUTING.md says what to do after a change",
    ]
    assert cli.main(command) == 0  # of as many seeds as can be compared
    assert "points over 8 one-hot networks" in capsys.readouterr().out
    assert cli.main(["run", "digits", "--method", "label_smooth"]) == 2
    assert "did you mean 'label_smoothing'" in capsys.readouterr().err


def test_an_audit_of_a_study_says_which_runs_it_lacks(complete, tmp_path, capsys):
    command = ["audit", "--study", "digits", "--out", str(tmp_path / "audit.html")]
    assert cli.main(command) == 0
    (complete / f"{SMALL.config(SMALL.pairs[0], 'kd', 1).key()}.json").unlink()
    assert cli.main(command) == 0  # of the one seed that is complete
    capsys.readouterr()
    assert cli.main([*command, "--seeds", "2"]) == 2
    assert capsys.readouterr().err == (
        "kdlib: study digits: no audit of the first 2 seeds yet, for want of 1 run: python -m "
        "kdlib "
        "run digits --pair cnn_small/cnn_small --method one_hot --method kd --seeds 2\n"
    )


def test_a_part_of_a_study_is_run_alone(long):
    part = ["--pair", "cnn_small/cnn_small", "--method", "one_hot", "--seeds", "1-2", "--yes"]
    assert cli.main(["run", "digits", *part]) == 0
    assert long[0][0] == [SMALL.config(SMALL.pairs[0], "one_hot", k) for k in (1, 2)]


@pytest.mark.parametrize("command", [["run", "digits"], ["report", "digits"]], ids=" ".join)
def test_records_that_cannot_be_written_are_said_before_anything_is_measured(
    command, empty, monkeypatch, capsys
):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sweep, "seconds_at", None)
    with monkeypatch.context() as m:
        m.setattr("pathlib.Path.write_bytes", full)
        assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kdlib: {empty}: cannot be written (No space left on device; ")
    assert "GB free on the disk mounted at /" in said and "KDLIB_RECORDS for records" in said
    assert not empty.exists()
    empty.touch()
    for folder, why in ((empty, "not a folder"), (empty / "below", "Not a directory")):
        monkeypatch.setenv("KDLIB_RECORDS", str(folder))
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"kdlib: {folder}: cannot be written ({why}; ")
        assert said.count("\n") == 1


def test_trying_whether_records_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record").touch()
    check_writable(tmp_path / "a")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "record"]


# ---------------------------------------------------------------- report


def card(finding, pair, verdict):
    words = {"claim": "A claim.", "sentence": "A sentence.", "preliminary": True, "control": ""}
    return {"finding": finding, "pair": pair, "verdict": verdict, "seeds": 4, "planned": 4} | words


CARDS = [
    card("F1", "a → b", "holds"),
    card("F2a", "a → b", "not decided"),
    card("F1", "b → b", "contradicted"),
]


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """One notebook that fails when told to, and verdicts made up."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    of_report = 'study = "digits"\nseeds = 1'
    fails = "import os\nprint(study, seeds)\nassert not os.environ.get('FAIL'), 'told to'"
    cells = [
        nbformat.v4.new_markdown_cell("# A page"),
        nbformat.v4.new_code_cell(of_report, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(fails),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "page.ipynb")
    monkeypatch.setattr(cli, "NOTEBOOKS", folder)
    monkeypatch.setitem(grids.KINDS, "findings", ("page",))
    monkeypatch.setattr(findings, "verdicts", lambda name, seeds: CARDS)


def test_report_draws_what_is_on_record_with_its_provenance(complete, notebooks, tmp_path, capsys):
    for path in complete.glob("digits_*_s3_*"):
        path.unlink()  # seed 3 is not complete
    out = tmp_path / "reports"
    assert cli.main(["report", "digits", "--seeds", "3", "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    first, pages, page, *verdicts, index = said.splitlines()
    assert (first, err) == ("looking at 1 study", "")
    assert pages == "1 page: about 1 min on an idle computer"
    assert page.startswith("digits/page: built (")
    assert verdicts == [
        "digits (a → b, 4 of 4 seeds): F1 holds, F2a not decided",
        "digits (b → b, 4 of 4 seeds): F1 contradicted",
    ]
    assert index == str(out / "index.html")
    page, index = (out / "digits" / "page.html").read_text(), (out / "index.html").read_text()
    facts = json.loads((complete / f"{SMALL(1)[0].key()}.json").read_text())
    for known in (
        *("digits 3", "python -m kdlib report digits --seeds 3", "3 of 4 planned"),
        *(facts["data_sha256"], facts["git"], f"torch {facts['versions']['torch']}"),
        *("digits (Alpaydin and Kaynak 1998", "configs sha256"),
    ):
        assert known in page, known
    assert "contradicted" in index


def test_a_record_that_is_refused_stops_the_pages_of_its_study_alone(
    complete, notebooks, tmp_path, monkeypatch, capsys
):
    longer = {**SMALL.shared, "epochs": 3}
    other = dataclasses.replace(SMALL, name="other", shared=longer, demonstration=False)
    monkeypatch.setitem(STUDIES, "other", other)
    write_study(other, seeds=1)
    path = complete / f"{SMALL(1)[0].key()}.json"
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 2'))
    out = tmp_path / "reports"
    assert cli.main(["report", "digits", "other", "--out", str(out)]) == 1
    said, err = capsys.readouterr()
    assert "other/page: built (" in said and (out / "other" / "page.html").exists()
    refused = f"{path}: changed since it was written (its seal is of other facts)"
    assert err.startswith(f"kdlib: digits has no pages: {refused}; delete {path.name} and ")


def test_a_run_that_a_refused_record_keeps_from_training_is_a_failure_of_the_report(
    complete, notebooks, tmp_path, monkeypatch, capsys
):
    def refused(configs):
        raise records.RecordError("the teacher's record: changed")

    monkeypatch.setattr(sweep, "missing", lambda configs: configs[:1])
    monkeypatch.setattr(cli, "_say_how_long", lambda *what: None)
    monkeypatch.setattr(sweep, "sweep", refused)
    assert cli.main(["report", "digits", "--seeds", "2", "--out", str(tmp_path / "out")]) == 1
    said, err = capsys.readouterr()
    assert "digits/page: built (" in said  # of what there is
    assert err == "kdlib: the teacher's record: changed\n"


def test_report_by_default_is_of_the_studies_with_a_complete_seed(complete, monkeypatch, capsys):
    built = {}

    def build(studies, *rest, **more):
        built.update(studies=studies, **more)
        return []

    monkeypatch.setattr("kdlib.pages.report.build", build)
    monkeypatch.setattr(findings, "pair_verdicts", lambda panel: CARDS[:1])
    # SMALL lacks methods that one needs
    monkeypatch.setattr(findings, "panel", lambda *some, **more: None)
    assert cli.main(["report"]) == 0
    assert built["studies"] == {"theory": {}, "digits": {"seeds": 4}}  # no record of cifar20-lt
    before = built["inputs"]
    path = complete / f"{SMALL(1)[0].key()}.json"
    path.write_text(path.read_text() + "\n")
    assert cli.main(["report"]) == 0 and built["inputs"] != before
    capsys.readouterr()
    without_verdicts = dataclasses.replace(STUDIES["cifar20-lt"], name="knobs", kind="knobs")
    monkeypatch.setitem(STUDIES, "knobs", without_verdicts)
    for name in ("cifar20-lt", "knobs"):
        built.clear()
        assert cli.main(["report", name]) == 2
        assert f"study {name} has no complete seed on record" in capsys.readouterr().err
        assert not built  # no page that would stop at its first cell


def test_report_does_missing_runs_of_digits_first(empty, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(sweep, "sweep", done.append)
    assert cli.main(["report", "--seeds", "2", "digits"]) == 2  # as this sweep leaves no record
    assert done == [SMALL(2)]
    assert "digits comes first: 6 of 6 runs to train\n6 to do: about" in capsys.readouterr().out


def test_a_page_that_fails_is_exit_code_1(complete, notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "1")
    out = tmp_path / "reports"
    assert cli.main(["report", "--out", str(out)]) == 1
    assert f"kdlib: {out / 'digits' / 'page.html'} failed: " in capsys.readouterr().err


def test_readme_changes_between_the_marks_only(empty, tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    monkeypatch.setattr(cli, "README", page)
    texts = ("| a \\1 |\n", "- b\n", b"<svg/>", "# Results\n")
    monkeypatch.setattr("kdlib.pages.results.texts", lambda kept: texts)
    marked = (
        "# é\n<!-- answer:start -->\n{}<!-- answer:end -->\nmore\n"
        "<!-- claims:start -->\n{}<!-- claims:end -->\nrest"
    )
    for old in ("", "old\nlines\n"):
        page.write_text(marked.format(old, old), encoding="utf-8")
        assert cli.main(["report", "--readme"]) == 0
        assert page.read_text(encoding="utf-8") == marked.format("| a \\1 |\n", "- b\n")
        assert (tmp_path / "docs" / "answer.svg").read_bytes() == b"<svg/>"
        assert (tmp_path / "RESULTS.md").read_text() == "# Results\n"
    for missing in ("answer", "claims"):
        page.write_text(unmarked := marked.replace(f"{missing}:end", ""))
        assert cli.main(["report", "--readme"]) == 2 and page.read_text() == unmarked
        assert f"one line <!-- {missing}:start -->" in capsys.readouterr().err


# ---------------------------------------------------------------- status, data, doctor


def test_status_counts_runs_and_complete_seeds(complete, capsys):
    assert cli.main(["status", "digits"]) == 0
    assert capsys.readouterr().out == "digits: 12 of 12 runs on record, 4 of 4 seeds complete\n"
    (complete / f"{SMALL.config(SMALL.pairs[0], 'kd', 1).key()}.json").unlink()
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == (
        "cifar20-lt: 0 of 84 runs on record, 0 of 8 seeds complete\n"
        "digits: 11 of 12 runs on record, 1 of 4 seeds complete\n"
    )


def test_a_folder_of_records_that_is_not_there_may_be_misspelt_and_is_named(empty, capsys):
    assert cli.main(["status", "digits"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"there are no records yet in {empty} (KDLIB_RECORDS)" and len(said) == 2


def test_data_says_what_is_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-100-python").mkdir()
    assert cli.main(["data"]) == 0
    digits, cifar100, cifar10, adult = capsys.readouterr().out.splitlines()
    assert "scikit-learn" in digits
    assert cifar100 == f"cifar100: pickles in {tmp_path / 'cifar-100-python'}"
    assert cifar10.startswith("cifar10 was not found") and cifar10.endswith(
        "python -m kdlib data get cifar10"
    )
    assert adult.startswith("adult was not found") and adult.endswith("kdlib data get adult")


def test_decoded_data_are_found_unless_a_folder_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setattr("kdlib.study.files.DATA", tmp_path)
    cache = tmp_path / f"cifar10-{cifar.SHA256['cifar10'][:12]}.npy"
    cache.touch()
    cli.main(["data"])
    assert f"cifar10: decoded in {cache}" in capsys.readouterr().out
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    cli.main(["data"])
    assert "decoded in" not in capsys.readouterr().out


def test_data_get_goes_where_it_is_told(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("kdlib.study.cifar.download", lambda *words: asked.append(words) or "there")
    assert cli.main(["data", "get", "cifar100", "--to", str(tmp_path), "--url", "file:///x"]) == 0
    assert cli.main(["data", "get", "cifar100"]) == 0
    assert asked == [("cifar100", str(tmp_path), "file:///x"), ("cifar100", None, None)]
    assert capsys.readouterr().out == "there\nthere\n"


def test_doctor_is_content_here(empty, capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    versions = (f"kdlib {__version__}", f"python {sys.version.split()[0]}", "torch 2", "nbconvert ")
    machine = ("GPU: ", "CPU cores", "of disk free", f"records: {empty}", "digits: comes with")
    assert [part for part in (*versions, *machine) if part not in out] == []
    assert "WRONG" not in out and not empty.exists()


def test_doctor_names_what_stops_digits_and_the_fix(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("KDLIB_RECORDS", str(file))
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "ALSO_USED", ("nor-this-one",))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG: ")]
    begins = (
        f"WRONG: no-such-package is missing: {doctor.INSTALL} installs it",
        "WRONG: torch cannot be imported (",
        f"WRONG: {file}: cannot be written (not a folder; ",
    )
    # nor-this-one does not stop digits
    assert all(line.startswith(begin) for line, begin in zip(wrong, begins, strict=True))


# ---------------------------------------------------------------- parsing, errors, output

NO_COUNT = "must be a whole number, 1 or more; see: python -m kdlib run --help"
DOWNLOADED = "is not one that kdlib downloads (digits come with scikit-learn)"
OF_RUN = "--help, --pair, --method, --seeds, --budget, --device, --jobs, --data, --ray, --yes"
SEEDS = "must be a number from 1 to 16, for the first ones, or a range such as 0-15"
OF_AUDIT = (
    "--help, --labels, --teacher, --student, --baseline, --groups, --weights, --train-counts, "
    "--edges, --classes, --missing-groups, --kind, --worst, --title, --by, --search, --images, "
    "--fail-if, --gate, --against, --study, --pair, --method, --seeds, --summary, --junit, "
    "--out, --image-folder, --image-size, --mean, --std, --batch"
)


TWICE = "is given twice, and one of the two would be lost; see"


def nearest(wrong, near, allowed):
    return f"{wrong} is unknown: did you mean {near!r}? Allowed: {allowed}."


@pytest.mark.parametrize(
    "line, sentence",
    [
        (
            "rnu",
            nearest("command 'rnu'", "run", "run, report, audit, distill, status, data, doctor"),
        ),
        ("run digit", nearest("study 'digit'", "digits", ", ".join(STUDIES))),
        ("status cifar", nearest("study 'cifar'", "cifar20-lt", ", ".join(STUDIES))),
        ("report digist", nearest("study 'digist'", "digits", ", ".join(STUDIES))),
        ("run", "the following arguments are required: STUDY; see: python -m kdlib run --help"),
        (
            "run digits --bugdet 9m",
            nearest("'--bugdet'", "--budget", OF_RUN),
        ),
        ("doctor --now", "'--now' is unknown: allowed are --help."),
        ("run digits adult", "'adult' is one word too many; see: python -m kdlib run --help"),
        (
            "run imagenet-lt",
            "imagenet-lt is a preset, since its images are read while it trains: python -m kdlib "
            "distill --preset imagenet-lt --data DIR",
        ),
        ("audit --fial-if x", nearest("'--fial-if'", "--fail-if", OF_AUDIT)),
        ("--verbose", nearest("'--verbose'", "--version", "--help, --version")),
        ("run digits --seeds 17", f"--seeds 17: {SEEDS}, as study digits has 16 planned seeds."),
        ("run digits --jobs 1.5", f"argument --jobs: '1.5' {NO_COUNT}"),
        (
            "run digits-recipe --method kd_tuned",
            "study digits-recipe has no pairs or methods to choose from.",
        ),
        ("audit --study anchors", "study anchors has no pairs or methods to choose from."),
        (
            "audit --study digits --method one_hot",
            "--method one_hot: it is the baseline; choose one to compare with it.",
        ),
        ("audit --study digits --seeds 17", "--seeds 17: study digits plans 16 seeds."),
        (
            "data get cifar11",
            f"data set 'cifar11' {DOWNLOADED}: did you mean 'cifar10'? Allowed: cifar100, cifar10, "
            "adult.",
        ),
        ("data get mnist", f"data set 'mnist' {DOWNLOADED}: allowed are cifar100, cifar10, adult."),
        ("data get", "data get needs a NAME: cifar100, cifar10 or adult."),
        ("run cifar20", nearest("study 'cifar20'", "cifar20-lt", ", ".join(STUDIES))),
        ("run digits --see 2", nearest("'--see'", "--seeds", OF_RUN)),
        ("run digits --see=2", nearest("'--see'", "--seeds", OF_RUN)),
        ("audit --fail x", nearest("'--fail'", "--fail-if", OF_AUDIT)),
        ("--vers", nearest("'--vers'", "--version", "--help, --version")),
        (
            "report digits --readme",
            "--readme is of all studies on record: leave out STUDY and --seeds.",
        ),
        ("run digits --jobs 1 --jobs 2", f"--jobs {TWICE}: python -m kdlib run --help"),
        ("audit --edges 9 1 --edges 8 2", f"--edges {TWICE}: python -m kdlib audit --help"),
        ("distill --lr=1 --lr=2", f"--lr {TWICE}: python -m kdlib distill --help"),
    ],
)
def test_a_wrong_command_is_one_sentence(line, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    assert cli.main(line.split()) == 2
    assert capsys.readouterr() == ("", f"kdlib: {sentence}\n")


def test_a_list_that_is_given_again_goes_on():
    """Also one by --method, which appends, and not behind a list that is there by default."""
    words = "--student a.npy b.npy --kind logits --student c.npy --student=d.npy"
    audit = options.parse(["audit", *words.split()], cli.COMMANDS)
    assert list(map(str, audit.student)) == ["a.npy", "b.npy", "c.npy", "d.npy"]
    assert (audit.kind, audit.teacher) == (["logits"], None)
    assert (
        options.parse(["audit", "--labels", "y.npy"], cli.COMMANDS).student is None
    )  # nothing is kept
    for words, methods in (
        ("", ["one_hot", "kd", "ada_alpha"]),
        ("--methods a --methods b", ["a", "b"]),
    ):
        assert options.parse(["distill", *words.split()], cli.COMMANDS).methods == methods
    assert options.parse(
        ["run", "digits", "--method", "kd", "--method", "dkd"], cli.COMMANDS
    ).method == [
        "kd",
        "dkd",
    ]
    assert options.parse(
        ["report", "--seeds", "2", "digits", "cifar20-lt"], cli.COMMANDS
    ).studies == [
        "digits",
        "cifar20-lt",
    ]


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("9m", 540), ("2h", 7200), ("1.5h", 5400), ("540", 540)]
)
def test_durations(text, seconds):
    assert options._duration(text) == seconds


@pytest.mark.parametrize("text", ["9x", "m", "-5", "0", "0h", "1h30m", "9 m", "inf"])
def test_wrong_durations_are_one_sentence(text, capsys):
    assert cli.main(["run", "digits", f"--budget={text}"]) == 2
    said = f"argument --budget: {text!r} must be a duration such as 90s, 9m, 2h, or 540 (seconds)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds, words", [(0.2, "0 s"), (119, "119 s"), (130, "2 min"), (3600, "1 h 0 min")]
)
def test_times_in_words(seconds, words):
    assert pace.in_words(seconds) == words


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in ("run", "report", "status", "data", "doctor"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"kdlib {__version__}\n"


def test_light_commands_do_not_import_torch(tmp_path):
    check = (
        "import sys, time; t = time.process_time(); import kdlib.__main__ as cli; "
        "t = time.process_time() - t; cli.main([]); cli.main(['status']); "
        "assert 'numpy' not in sys.modules; cli.main(['data']); "
        "assert 'torch' not in sys.modules; assert t < 0.2, t"
    )
    done = python("-c", check, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_builds_each_config_once(tmp_path):
    check = (
        "import sys; from kdlib.config import Config; built = []; plain = Config.__post_init__; "
        "Config.__post_init__ = lambda self: (plain(self), built.append(self)); "
        "from kdlib.__main__ import main; main(['status']); print(len(built), len(set(built)))"
    )
    done = python("-c", check, folder=tmp_path).stdout.splitlines()[-1]
    assert len(set(done.split())) == 1


def test_a_reader_that_stops_early_and_a_full_disk_are_no_tracebacks(tmp_path):
    gone = python("-m", "kdlib", "status", folder=tmp_path, shell="| true; exit ${PIPESTATUS[0]}")
    # 0 if it wrote before the other end closed
    assert gone.stderr == "" and gone.returncode in (0, 141)
    full = python("-m", "kdlib", "status", folder=tmp_path, shell="> /dev/full")
    said = "the output cannot be written: No space left on device; free space, then run it again"
    assert (full.returncode, full.stderr) == (2, f"kdlib: {said}\n")


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.EACCES, "a/file cannot be used: Permission denied; change its permissions"),
        (errno.EPERM, "a/file cannot be used: Operation not permitted; change its permissions"),
        (errno.EROFS, "a/file cannot be written: Read-only file system; choose another place"),
    ],
)
def test_what_may_have_been_a_failure_to_read_is_not_called_one_to_write(
    number, said, monkeypatch, capfd
):
    def refused(name):
        raise OSError(number, os.strerror(number), "a/file")

    monkeypatch.setattr(cli, "study", refused)
    monkeypatch.setattr(os, "dup2", lambda *files: None)  # the test's own output
    assert cli.main(["status", "digits"]) == 2
    assert capfd.readouterr().err == f"kdlib: {said}, then run it again\n"


def test_other_errors_of_the_machine_are_not_hidden(monkeypatch):
    def broken(name):
        raise ConnectionError("a bug")

    monkeypatch.setattr(cli, "study", broken)
    with pytest.raises(ConnectionError):
        cli.main(["status", "digits"])


def test_every_study_names_the_source_of_its_data():
    assert {cfg.dataset for s in STUDIES.values() for cfg in s()} == set(DATA_FROM)
    sources = {name: source.split(" (")[0] for name, source in DATA_FROM.items()}
    others = ("digits", "cifar10", "adult")
    assert [sources.pop(name) for name in others] == ["digits", "CIFAR-10", "Adult"]
    assert set(sources.values()) == {"CIFAR-100"}
