"""Fixtures that several files share. KDLIB_REQUIRE=data,browser turns their skips into failures."""

import os
import shutil
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Weights are compared bit for bit, which holds at equal thread count."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root():
    """The folder with the real CIFAR data."""
    folder = Path(os.environ.get("KDLIB_DATA") or ROOT / "data")
    if not any((folder / name).exists() for name in ("cifar100", "cifar-100-python")):
        _missing("data", f"no CIFAR-100 in {folder}; set KDLIB_DATA")
    return folder


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
