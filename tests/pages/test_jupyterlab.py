"""JupyterLab itself: a notebook of the study opened in a browser, run by its menu, its figures
seen."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from conftest import ROOT
from synthetic import halves, write_study

from kdlib.study.grids import STUDIES

BOOK, EXPLORER = "01_gains_are_not_uniform.ipynb", "explore.ipynb"
OWN = "10_distil_your_own.ipynb"
THEORY, HIDDEN = "07_when_distillation_must_harm.ipynb", "09_would_the_labels_show_it.ipynb"
FEWER = {"seeds": "1", "epochs": "5", "methods": '"one_hot,kd"'}  # of its parameters
TOKEN = "for-this-test-only"
PICTURES = """return [...document.querySelectorAll('.jp-OutputArea-output img')]
    .filter(e => e.naturalWidth > 0).map(e => e.alt)"""


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """(address, process, log) of JupyterLab on loopback, on a folder with three notebooks and their
    records, with settings of its own."""
    tmp_path = tmp_path_factory.mktemp("lab")
    source = (ROOT / "notebooks" / BOOK).read_text(encoding="utf-8")
    assert source.count("seeds = None ") == 1
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / BOOK).write_text(
        source.replace("seeds = None ", "seeds = 2 "), encoding="utf-8"
    )
    for name in (EXPLORER, THEORY, HIDDEN):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    book = nbformat.read(ROOT / "notebooks" / OWN, as_version=4)
    book.cells[1].source += "".join(f"\n{name} = {value}" for name, value in FEWER.items())
    nbformat.write(book, tmp_path / "notebooks" / OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
        of = {"git": "abc", "versions": {}, "device": "cpu", "seconds": 1.0}
        write_study(STUDIES["digits"], 2, shuffled=("kd", "one_hot"), facts=lambda *_: of)
        own = {
            f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower())
            for kind in ("CONFIG", "DATA", "RUNTIME")
        }
        env = (
            os.environ
            | own
            | {
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",  # two that wait for each other beside other tests crawl
                "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
            }
        )
    arguments = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={tmp_path / 'notebooks'}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--KernelManager.transport_encryption=auto",
    ]
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments], env=env, stdout=log, stderr=log
        )
    try:
        said = waited(
            lambda: list((tmp_path / "runtime").glob("jpserver-*.json")), process, tmp_path / "log"
        )
        yield json.loads(said[0].read_text())["url"].rstrip("/"), process, tmp_path / "log"
    finally:
        process.kill()  # nothing left to do where it was shut down
        process.wait()


def waited(for_what, process, log, seconds=180):  # of a busy machine
    """What `for_what` returns once that is true; fails with the server's log after too long."""
    end = time.time() + seconds
    while not (found := for_what()):
        assert time.time() < end and process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.1)
    return found


def api(address, what, method="GET"):
    """The text that the server answers."""
    request = urllib.request.Request(
        f"{address}/api/{what}", method=method, headers={"Authorization": f"token {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def one(browser, selector):
    """The first element in sight, or None."""
    found = browser.find_elements("css selector", selector)
    return next((e for e in found if e.is_displayed()), None)


def prompts(browser):
    cells = browser.find_elements("css selector", ".jp-CodeCell .jp-InputPrompt")
    return [e.text for e in cells]


def run_all_cells(browser, lab, place):
    """Open a notebook and run it by the menu."""
    address, process, log = lab
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1100, "height": 6000, "deviceScaleFactor": 1, "mobile": False},
    )  # tall: JupyterLab draws what is in sight
    browser.get_log("performance")
    browser.get(f"{address}/lab/{place}?token={TOKEN}")

    def connected():
        with contextlib.suppress(
            urllib.error.HTTPError
        ):  # 500, asked at the moment when a kernel is being started
            return [
                kernel for kernel in json.loads(api(address, "kernels")) if kernel["connections"]
            ]

    # before its kernel has answered, JupyterLab says "idle" too, but would ask which kernel to run
    waited(connected, process, log)
    idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
    waited(lambda: one(browser, idle), process, log)
    next(
        e
        for e in browser.find_elements("css selector", "#jp-MainMenu .lm-MenuBar-item")
        if e.text == "Run"
    ).click()
    run_all = '.lm-Menu [data-command="runmenu:run-all"]'
    waited(lambda: one(browser, run_all), process, log).click()


def pictures_of(browser, lab, count, start="cnn"):
    """The descriptions of the figures, when there are so many or something went wrong."""
    _, process, log = lab
    wrong = "[data-mime-type*=error], [data-mime-type*=stderr]"
    waited(
        lambda: len(browser.execute_script(PICTURES)) == count or one(browser, wrong), process, log
    )
    waited(lambda: "[*]:" not in prompts(browser), process, log)
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) == len(set(pictures)) == count
    assert all(alt.startswith(start) and alt.endswith(".") for alt in pictures)
    assert not browser.find_elements("css selector", wrong)
    return pictures


def test_the_explorer_shows_what_is_on_record_and_follows_its_menus(browser, lab):
    _, process, log = lab
    began = time.monotonic()
    run_all_cells(browser, lab, f"workspaces/explorer/tree/{EXPLORER}")
    waited(lambda: browser.execute_script(PICTURES), process, log)
    print(f"first figure {time.monotonic() - began:.1f} s after the notebook was asked for")
    by_bucket, by_class = pictures_of(browser, lab, 2)
    assert "distillation changes accuracy" in by_bucket and "distillation harms" in by_class
    menus = browser.find_elements("css selector", ".jp-OutputArea-output select")
    assert [len(menu.find_elements("css selector", "option")) for menu in menus] == [1, 2, 3, 3, 11]
    began = time.monotonic()
    menus[2].find_element("xpath", ".//option[. = 'AdaAlpha']").click()
    waited(lambda: browser.execute_script(PICTURES)[0] != by_bucket, process, log)
    print(f"new figure {time.monotonic() - began:.1f} s after a choice")
    by_bucket, by_class = pictures_of(browser, lab, 2)
    assert "AdaAlpha changes accuracy" in by_bucket
    browser.get("about:blank")


def test_own_images_are_distilled_and_the_answer_comes_first(browser, lab):
    _, process, log = lab
    run_all_cells(browser, lab, f"workspaces/own/tree/{OWN}")
    wrong = "[data-mime-type*=error], [data-mime-type*=stderr]"
    waited(lambda: "[*]:" in prompts(browser), process, log)
    waited(lambda: "[*]:" not in prompts(browser), process, log, 240)
    assert prompts(browser) == [f"[{i}]:" for i in range(1, 7)]
    first, *_ = browser.find_elements("css selector", ".jp-OutputArea-output")
    assert first.text.startswith(("Ship ", "No student here is fit to ship"))  # of so few epochs
    assert not browser.find_elements("css selector", wrong)  # nor the bar, once it has ended
    [picture] = browser.execute_script(PICTURES)
    assert picture.startswith("kd: gains range from")
    link = one(browser, '.jp-OutputArea-output a[href*="report.html"]')
    assert link.text == "distilled/report.html"
    assert "/files/distilled/report.html" in link.get_attribute("href")
    browser.get("about:blank")


def test_the_page_without_a_study_is_calculated_on_the_spot(browser, lab):
    run_all_cells(browser, lab, f"workspaces/theory/tree/{THEORY}")
    effect, *_ = pictures_of(
        browser, lab, 4, start=("Computed", "At the share", "From noise", "Where an")
    )
    assert effect in one(browser, ".kd-headline").text
    browser.get("about:blank")


def test_groups_that_are_not_labels(browser, lab, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(lab[2].parent / "records"))
    write_study(STUDIES["superclass-small"], 4, shuffled=("kd", "one_hot"), alter=halves)
    run_all_cells(browser, lab, f"workspaces/hidden/tree/{HIDDEN}")
    pictures_of(browser, lab, 2, start="resnet8")
    assert "counted by label" in one(browser, ".kd-headline").text
    browser.get("about:blank")


def test_run_all_cells_shows_the_figures(browser, lab):
    address, process, _ = lab
    run_all_cells(browser, lab, f"tree/{BOOK}")
    pictures = pictures_of(browser, lab, 4)
    assert prompts(browser) == [f"[{i}]:" for i in range(1, 7)]
    found = browser.find_elements("css selector", ".kd-headline")
    note, headline = (e.text for e in found if e.is_displayed())
    assert note.startswith("This is a demonstration") and pictures[0] in headline
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        e["params"]["request"]["url"] for e in asked if e["method"] == "Network.requestWillBeSent"
    }
    assert urls and not [url for url in urls if not url.startswith((address, "data:", "blob:"))]

    browser.get("about:blank")
    assert not [
        kernel
        for kernel in json.loads(api(address, "kernels"))
        if kernel["execution_state"] != "idle"
    ]
    api(address, "shutdown", "POST")
    assert process.wait(timeout=30) == 0
