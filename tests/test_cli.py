"""The command line, mostly on a digits study shrunk to three short runs a seed, kept in a folder of
its own."""

import dataclasses
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

from kdlib import __main__ as cli
from kdlib import __version__
from kdlib.evidence import findings
from kdlib.study import cifar, records, sweep
from kdlib.study.grids import STUDIES

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


def environment(folder, **more):
    return {
        **os.environ,
        "KDLIB_RECORDS": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        **more,
    }


def python(*words, folder, shell="", **more):
    """A finished Python process; `shell`: what stands behind the command in a shell."""
    command = (
        [sys.executable, *words]
        if not shell
        else ["bash", "-c", f'"$0" "$@" {shell}', sys.executable, *words]
    )
    return subprocess.run(
        command, cwd=ROOT, env=environment(folder, **more), capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of four seeds, interrupted after its first record, and the same command again."""
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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # ignored under nohup
    while not list(folder.glob("*.json")) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    kept = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("digits_*.json")
    }
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
    assert code == 130
    assert (
        err
        == f"kdlib: interrupted; {len(kept)} of 12 runs are on record; the same command resumes\n"
    )
    assert out.startswith("digits: 12 runs, 0 of them on record\n12 to do: about ")


def test_the_same_command_resumes_and_redoes_nothing(interrupted):
    folder, _, kept, again = interrupted
    assert (again.returncode, again.stderr) == (
        0,
        "",
    )  # no progress bar either: this is not a terminal
    assert again.stdout.startswith(
        f"digits: 12 runs, {len(kept)} of them on record\n{12 - len(kept)} to do: about "
    )
    assert again.stdout.endswith("12 of 12 runs are on record\n")
    assert 1 <= len(kept) < 12
    assert kept == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}
    assert all(records.read(cfg, folder).config == cfg for cfg in SMALL(4))
    assert not list(folder.glob(".tmp-*"))


def test_a_complete_study_starts_nothing_and_refuses_a_damaged_record(
    complete, capsys, monkeypatch
):
    monkeypatch.setattr(sweep, "_pool", None)
    assert cli.main(["run", "digits"]) == 0
    assert (
        capsys.readouterr().out
        == "digits: 12 runs, 12 of them on record\n12 of 12 runs are on record\n"
    )
    (complete / f"{SMALL(1)[0].key()}.npz").write_bytes(b"PK")
    assert cli.main(["run", "digits"]) == 2
    assert "truncated or changed" in capsys.readouterr().err


def test_a_budget_stops_in_time(empty, capsys):
    assert cli.main(["run", "digits", "--budget", "0.001"]) == 0
    assert capsys.readouterr().out.endswith(
        "0 of 12 runs are on record; time is up, and the same command goes on with the rest\n"
    )
    assert not list(empty.glob("*.json"))


@pytest.fixture
def long(empty, monkeypatch):
    """A study that seems to take an hour a run. Yields the arguments of each sweep."""
    monkeypatch.setattr(sweep, "estimate", lambda configs, *rest: [3600.0] * len(configs))
    sweeps = []
    monkeypatch.setattr(sweep, "sweep", lambda *arguments: sweeps.append(arguments))
    return sweeps


def test_a_long_run_is_not_started_without_a_yes(long, capsys):
    assert cli.main(["run", "digits", "--seeds", "1", "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert "3 to do: about 1 h 30 min here (cpu, 2 at a time)" in out
    assert err == (
        "kdlib: this would take about 1 h 30 min and was not started; --yes starts it, and --budget 9m does "
        "what fits into nine minutes.\n"
    )
    assert long == []


@pytest.mark.parametrize("option", [["--yes"], ["--budget", "9m"]])
def test_a_yes_or_a_budget_starts_a_long_run(long, option):
    assert (
        cli.main(["run", "digits", "--device", "cpu", "--jobs", "2", "--data", "here", *option])
        == 0
    )
    configs, data, device, jobs, budget = long[0]
    assert (configs, data, device, jobs) == (SMALL(4), "here", "cpu", 2)
    assert (
        budget is None if option == ["--yes"] else 400 < budget < 540
    )  # the time since the start is taken off


@pytest.mark.parametrize(
    "answer, code, started", [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0)]
)
def test_a_terminal_is_asked(long, monkeypatch, capsys, answer, code, started):
    class Terminal:
        isatty, readline = (lambda self: True), (lambda self: answer)

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert cli.main(["run", "digits"]) == code
    assert capsys.readouterr().out.count("Start? [y/N]") == 1
    assert len(long) == started


def test_missing_data_are_one_sentence_before_anything_starts(empty, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    monkeypatch.setattr(sweep, "_pool", None)
    assert cli.main(["run", "cifar20-lt", "--yes"]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"kdlib: cifar100 was not found: looked in {tmp_path} for ")
        and err.count("\n") == 1
    )
    assert err.endswith("get the data with: python -m kdlib data get cifar100\n")
    assert not empty.exists()


def test_a_gpu_that_is_not_there_is_refused(empty, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["run", "digits", "--device", "cuda"]) == 2
    assert "`python -m kdlib doctor` says why" in capsys.readouterr().err


# ---------------------------------------------------------------- report


def card(finding, pair, verdict):
    return {
        "finding": finding,
        "pair": pair,
        "claim": "A claim.",
        "verdict": verdict,
        "sentence": "A sentence.",
        "preliminary": True,
        "seeds": 4,
        "planned": 4,
    }


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """One notebook that fails when told to, and verdicts made up."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("# A page"),
        nbformat.v4.new_code_cell('study = "digits"\nseeds = 1', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import os\nprint(study, seeds)\nassert not os.environ.get('FAIL'), 'told to'"
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "page.ipynb")
    monkeypatch.setattr(cli, "NOTEBOOKS", folder)
    monkeypatch.setitem(cli.KINDS, "findings", ("page",))
    monkeypatch.setattr(
        findings,
        "verdicts",
        lambda name, seeds: [
            card("F1", "a → b", "holds"),
            card("F2a", "a → b", "not decided"),
            card("F1", "b → b", "contradicted"),
        ],
    )


def test_report_draws_what_is_on_record_with_its_provenance(complete, notebooks, tmp_path, capsys):
    for path in complete.glob("digits_*_s3_*"):
        path.unlink()  # seed 3 is not complete
    out = tmp_path / "reports"
    assert cli.main(["report", "digits", "--seeds", "3", "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    assert (
        said == f"digits (a → b, 3 of 4 seeds): F1 holds, F2a not decided\n{out / 'index.html'}\n"
    )
    assert err == ""
    page, index = (out / "digits" / "page.html").read_text(), (out / "index.html").read_text()
    facts = json.loads((complete / f"{SMALL(1)[0].key()}.json").read_text())
    for known in (
        "digits 3",
        "python -m kdlib report digits --seeds 3",
        facts["data_sha256"],
        facts["git"],
        f"torch {facts['versions']['torch']}",
        "3 of 4 planned",
        "digits (Alpaydin and Kaynak 1998",
        "configs sha256",
    ):
        assert known in page, known
    assert "contradicted" in index


def test_report_by_default_is_of_the_studies_with_a_complete_seed(
    complete, monkeypatch, tmp_path, capsys
):
    built = {}
    monkeypatch.setattr(
        "kdlib.pages.report.build",
        lambda studies, *rest, **more: built.update(studies=studies, **more) or [],
    )
    monkeypatch.setattr(findings, "pair_verdicts", lambda panel: [card("F1", "a → b", "holds")])
    monkeypatch.setattr(
        findings, "panel", lambda *some, **more: None
    )  # SMALL lacks methods that one needs
    assert cli.main(["report"]) == 0
    assert built["studies"] == {"digits": {"seeds": 4}}  # no record of cifar20-lt
    before = built["inputs"]["digits"]
    path = complete / f"{SMALL(1)[0].key()}.json"
    path.write_text(path.read_text() + "\n")
    assert cli.main(["report"]) == 0
    assert built["inputs"]["digits"] != before
    capsys.readouterr()
    monkeypatch.setitem(
        cli.STUDIES, "knobs", dataclasses.replace(STUDIES["cifar20-lt"], name="knobs", kind="knobs")
    )  # without verdicts
    for name in ("cifar20-lt", "knobs"):
        assert cli.main(["report", name]) == 2
        assert f"study {name} has no complete seed on record" in capsys.readouterr().err


def test_report_does_missing_runs_of_digits_first(empty, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(sweep, "sweep", done.append)
    assert cli.main(["report", "--seeds", "2", "digits"]) == 2  # as this sweep leaves no record
    assert done == [SMALL(2)]
    assert "digits: 6 of 6 runs have no record and are done first" in capsys.readouterr().out


def test_a_page_that_fails_is_exit_code_1(complete, notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "1")
    assert cli.main(["report", "--out", str(tmp_path / "reports")]) == 1
    assert (
        f"kdlib: {tmp_path / 'reports' / 'digits' / 'page.html'} failed: "
        in capsys.readouterr().err
    )


def test_readme_changes_between_the_marks_only(empty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "README", tmp_path / "README.md")
    monkeypatch.setattr("kdlib.pages.readme.answer", lambda: ("| a \\1 |\n\n", b"<svg/>"))
    for old in ("", "old\nlines\n"):
        cli.README.write_text(
            f"# é\n<!-- answer:start -->\n{old}<!-- answer:end -->\nrest", encoding="utf-8"
        )
        assert cli.main(["report", "--readme"]) == 0
        new = "# é\n<!-- answer:start -->\n| a \\1 |\n<!-- answer:end -->\nrest"
        assert cli.README.read_text(encoding="utf-8") == new
        assert (tmp_path / "docs" / "answer.svg").read_bytes() == b"<svg/>"
    cli.README.write_text("no marks")
    assert cli.main(["report", "--readme"]) == 2
    assert (
        cli.README.read_text() == "no marks" and "<!-- answer:start -->" in capsys.readouterr().err
    )


# ---------------------------------------------------------------- status, data, doctor


def test_status_counts_runs_and_complete_seeds(complete, capsys):
    assert cli.main(["status", "digits"]) == 0
    assert capsys.readouterr().out == "digits: 12 of 12 runs, 4 of 4 seeds complete\n"
    (complete / f"{SMALL.config(SMALL.pairs[0], 'kd', 1).key()}.json").unlink()
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == (
        "cifar20-lt: 0 of 148 runs, 0 of 8 seeds complete\n"
        "digits: 11 of 12 runs, 1 of 4 seeds complete\n"
    )


def test_data_says_what_is_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-100-python").mkdir()
    assert cli.main(["data"]) == 0
    digits, cifar100, cifar10 = capsys.readouterr().out.splitlines()
    assert "scikit-learn" in digits
    assert cifar100 == f"cifar100: pickles in {tmp_path / 'cifar-100-python'}"
    assert cifar10.startswith("cifar10 was not found") and cifar10.endswith(
        "python -m kdlib data get cifar10"
    )


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
    for part in (
        f"kdlib {__version__}",
        f"python {sys.version.split()[0]}",
        "torch 2",
        "nbconvert ",
        "GPU: ",
        "CPU cores",
        "of disk free",
        f"records: {empty}",
        "digits: comes with",
    ):
        assert part in out, part
    assert "WRONG" not in out and not empty.exists()


def test_doctor_names_what_stops_digits_and_the_fix(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "file"))
    monkeypatch.setattr(cli, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(cli, "ALSO_USED", ("nor-this-one",))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG: ")]
    assert wrong[0] == f"WRONG: no-such-package is missing: {cli.INSTALL} installs it"
    assert wrong[1].startswith("WRONG: torch cannot be imported (")
    assert wrong[2].startswith(
        f"WRONG: records: {tmp_path / 'file'} is full or cannot be written: set KDLIB_RECORDS"
    )
    assert len(wrong) == 3  # nor-this-one does not stop digits


# ---------------------------------------------------------------- parsing, errors, output


@pytest.mark.parametrize(
    "line, sentence",
    [
        (
            "rnu",
            "command 'rnu' is unknown: did you mean 'run'? Allowed: run, report, audit, status, data, doctor.",
        ),
        (
            "run digit",
            f"study 'digit' is unknown: did you mean 'digits'? Allowed: {', '.join(STUDIES)}.",
        ),
        (
            "status cifar",
            f"study 'cifar' is unknown: did you mean 'cifar10'? Allowed: {', '.join(STUDIES)}.",
        ),
        (
            "report digist",
            f"study 'digist' is unknown: did you mean 'digits'? Allowed: {', '.join(STUDIES)}.",
        ),
        ("run", "the following arguments are required: STUDY; see: python -m kdlib run --help"),
        (
            "run digits --bugdet 9m",
            "'--bugdet' is unknown: did you mean '--budget'? Allowed: "
            "--help, --seeds, --budget, --device, --jobs, --data, --yes, --method.",
        ),
        ("doctor --now", "'--now' is unknown: Allowed: --help."),
        (
            "audit --fial-if x",
            "'--fial-if' is unknown: did you mean '--fail-if'? Allowed: --help, --labels, --teacher, --student, --baseline, "
            "--groups, --weights, --train-counts, --edges, --classes, --kind, --worst, --fail-if, --study, --pair, --method, --seeds, "
            "--out.",
        ),
        (
            "--verbose",
            "'--verbose' is unknown: did you mean '--version'? Allowed: --help, --version.",
        ),
        ("run digits --seeds 9", "--seeds 9: study digits has 8 planned seeds."),
        (
            "run digits --seeds 0",
            "argument --seeds: '0' is no whole number from 1 on; see: python -m kdlib run --help",
        ),
        (
            "run digits --jobs 1.5",
            "argument --jobs: '1.5' is no whole number from 1 on; see: python -m kdlib run --help",
        ),
        (
            "data get cifar11",
            "There are no images called 'cifar11'; did you mean 'cifar10'? Allowed: cifar100, cifar10.",
        ),
    ],
)
def test_a_wrong_command_is_one_sentence(line, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    assert cli.main(line.split()) == 2
    assert capsys.readouterr() == ("", f"kdlib: {sentence}\n")


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("9m", 540), ("2h", 7200), ("1.5h", 5400), ("540", 540)]
)
def test_durations(text, seconds):
    assert cli._duration(text) == seconds


@pytest.mark.parametrize("text", ["9x", "m", "-5", "0", "0h", "1h30m", "9 m", "inf"])
def test_wrong_durations_are_one_sentence(text, capsys):
    assert cli.main(["run", "digits", f"--budget={text}"]) == 2
    assert (
        f"argument --budget: {text!r} is no duration; allowed: 90s, 9m, 2h"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "seconds, words", [(0.2, "0 s"), (119, "119 s"), (130, "2 min"), (3600, "1 h 0 min")]
)
def test_times_in_words(seconds, words):
    assert cli._words(seconds) == words


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in ("run", "report", "status", "data", "doctor"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"kdlib {__version__}\n"


def test_light_commands_do_not_import_torch(tmp_path):
    check = (
        "import sys, time; t = time.process_time(); import kdlib.__main__ as cli; t = time.process_time() - t; "
        "assert 'numpy' not in sys.modules; cli.main([]); cli.main(['status']); cli.main(['data']); "
        "assert 'torch' not in sys.modules; assert t < 0.2, t"
    )
    done = python("-c", check, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_stops_early_and_a_full_disk_are_no_tracebacks(tmp_path):
    gone = python("-m", "kdlib", "status", folder=tmp_path, shell="| true; exit ${PIPESTATUS[0]}")
    assert gone.stderr == "" and gone.returncode in (
        0,
        141,
    )  # 0 if it wrote before the other end closed
    full = python("-m", "kdlib", "status", folder=tmp_path, shell="> /dev/full")
    assert (full.returncode, full.stderr) == (
        2,
        "kdlib: the output cannot be written: No space left on device; free space, then run it again\n",
    )


def test_other_errors_of_the_machine_are_not_hidden(monkeypatch):
    def broken(name):
        raise ConnectionError("a bug")

    monkeypatch.setattr(cli, "study", broken)
    with pytest.raises(ConnectionError):
        cli.main(["status", "digits"])


def test_every_study_names_the_source_of_its_data():
    assert {cfg.dataset for s in STUDIES.values() for cfg in s()} == set(cli.DATA_FROM)


def test_a_method_is_compared_with_what_is_on_record(tmp_path):
    script = tmp_path / "small.py"
    script.write_text(IN_SMALL)
    done = python(
        str(script),
        "run",
        "digits",
        "--seeds",
        "2",
        "--method",
        "label_smoothing",
        "--jobs",
        "1",
        folder=tmp_path / "r",
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "8 of 8 runs are on record" in said  # one_hot, kd, label smoothing and a teacher, twice
    at = said.index("cnn_small → cnn_small: points over 4 one-hot networks, with 95 % intervals")
    rows = [line.strip().partition(": ")[0] for line in said[at + 1 :]]
    assert rows[:2] == ["distillation, average", "label smoothing, average"] and len(rows) == 4
    wrong = python(str(script), "run", "digits", "--method", "label_smooth", folder=tmp_path / "r")
    assert wrong.returncode == 2 and "did you mean 'label_smoothing'" in wrong.stderr
