"""The command line of an audit of small files, which several test files use."""

import functools

import pytest

from kdlib.__main__ import main
from kdlib.asking import given
from kdlib.auditing import page


@pytest.fixture
def command(files, request, tmp_path, monkeypatch, capsys):
    """Function of further arguments -> (exit code, stdout, stderr), in a folder of copies.

    files: the folder with y.npy, teacher.npy, student.npy; USUAL of the test file is added. Few
    resamples, and no figures by bucket, which take most of the time."""
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name in ("audit", "audit_students"):
        monkeypatch.setattr(given, name, functools.partial(getattr(given, name), resamples=2))
    monkeypatch.setattr(page, "by_bucket", lambda a: [])
    usual = ["audit", "--labels", "y.npy", "--teacher", "teacher.npy", "--student", "student.npy"]
    usual += getattr(request.module, "USUAL", [])

    def run(*more):
        code = main([*usual, *map(str, more)])
        return code, *capsys.readouterr()

    return run
