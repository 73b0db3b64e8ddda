"""Fixtures that several files share. KDLIB_REQUIRE=data,browser turns their skips into failures."""

import functools
import itertools
import os
import shutil
from pathlib import Path

import pytest

# Before numpy or torch is imported: weights are compared bit for bit, which holds at equal thread
# count; and on small arrays two threads of a process, which wait for each other, cost twice one.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def _missing(what, reason):
    if what in os.environ.get("KDLIB_REQUIRE", "").split(","):
        pytest.fail(f"KDLIB_REQUIRE asks for {what}: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_root():
    """The folder with the real CIFAR data."""
    folder = Path(os.environ.get("KDLIB_DATA") or ROOT / "data")
    if not any((folder / name).exists() for name in ("cifar100", "cifar-100-python")):
        _missing("data", f"no CIFAR-100 in {folder}; set KDLIB_DATA")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 54 + 30 + 30 images in three classes, unequal in train."""
    from folders import write_folder

    counts = {"train": (30, 16, 8), "val": (10, 10, 10), "test": (10, 10, 10)}
    return write_folder(tmp_path_factory.mktemp("pictures"), counts)


@pytest.fixture
def records_folder(tmp_path, monkeypatch):
    """An empty records folder, in use."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium with its console log and, as "performance", what it asked the network
    for."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        _missing("browser", "chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in (*CHROMIUM, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def command(files, request, tmp_path, monkeypatch, capsys):
    """Function of further arguments -> (exit code, stdout, stderr), in a folder of copies.

    files: the folder with y.npy, teacher.npy, student.npy; USUAL of the test file is added. Few
    resamples, and no figures by bucket, which take most of the time. Options that are given replace
    the usual ones."""
    from kdlib.__main__ import main
    from kdlib.asking import given
    from kdlib.auditing import page

    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name in ("audit", "audit_students"):
        monkeypatch.setattr(given, name, functools.partial(getattr(given, name), resamples=2))
    monkeypatch.setattr(page, "by_bucket", lambda a: [])
    usual = {f"--{role}": [f"{role}.npy"] for role in ("teacher", "student")}
    usual |= {"--labels": ["y.npy"]} | getattr(request.module, "USUAL", {})

    def run(*more):
        left = [[option, *values] for option, values in usual.items() if option not in more]
        code = main(["audit", *itertools.chain(*left), *map(str, more)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_pages(monkeypatch):
    """What an audit draws takes longer than what it finds."""
    from kdlib.auditing.found import Found

    monkeypatch.setattr(Found, "save", lambda *_: ())
