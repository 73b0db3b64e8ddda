"""The audit at the size it must serve, beside what a user has otherwise.

The size: 100,000 examples, 1,000 classes, three models, 1,000 resamples. The other: fairlearn's
bootstrap of one accuracy by class; a few resamples are timed and the rest projected."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "audit.json"
SIZES = {"examples": 100_000, "classes": 1000, "resamples": 1000, "peer resamples": 3}
QUICK = {"examples": 2000, "classes": 20, "resamples": 50, "peer resamples": 2}
MODELS = {"teacher": 3.2, "student": 3.0, "baseline": 2.8}  # logit of the label above the others


def make(folder, examples, classes):
    """Write labels and float32 logits of three models as npy files."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, examples)
    np.save(folder / "labels.npy", y)
    for name, above in MODELS.items():
        logits = rng.standard_normal((examples, classes), dtype=np.float32)
        logits[np.arange(examples), y] += above
        np.save(folder / f"{name}.npy", logits)


def ours(folder, resamples):
    """Seconds, and GB at most, of an audit; MB of its page.

    For a process of its own, which starts with nothing loaded."""
    start = time.perf_counter()
    from kdlib import audit

    labels, *models = (folder / f"{name}.npy" for name in ("labels", *MODELS))
    found = audit(labels, *models, resamples=resamples)
    numbers = time.perf_counter() - start
    written = found.save(folder / "page.html")
    return {
        "numbers": numbers,
        "all": time.perf_counter() - start,
        "harmed": found.metrics["groups_harmed"],
        "page": written[0].stat().st_size / 1e6,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def peer(folder, resamples):
    """Seconds for each resample of fairlearn's MetricFrame: the accuracy of one model by class."""
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    y = np.load(folder / "labels.npy")
    chosen = np.load(folder / "student.npy", mmap_mode="r").argmax(axis=1)
    start = time.perf_counter()
    MetricFrame(
        metrics=accuracy_score,
        y_true=y,
        y_pred=chosen,
        sensitive_features=y,
        n_boot=resamples,
        ci_quantiles=[0.025, 0.975],
        random_state=0,
    )
    # one more for the frame itself
    return {"seconds": (time.perf_counter() - start) / (resamples + 1)}


def measure(sizes):
    """Results of both sides, one after the other, each in its own process."""
    from bench.cpu import machine  # imports torch, which is not to count as memory of the audit

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), sizes["examples"], sizes["classes"])
        sides = {}
        for side, count in (("ours", sizes["resamples"]), ("peer", sizes["peer resamples"])):
            command = [sys.executable, "-m", "bench", "audit", "--side", side, folder, str(count)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            sides[side] = json.loads(said.splitlines()[-1])
    return {"sizes": sizes, **sides, "machine": machine()}


def table(results):
    """Markdown of the results."""
    sizes, mine, of = results["sizes"], results["ours"], results["machine"]
    projected = results["peer"]["seconds"] * sizes["resamples"]
    timed = f"{sizes['peer resamples']} resamples timed, {sizes['resamples']:,} projected"
    theirs = f"{projected / 60:.0f} minutes, {projected / mine['all']:.0f} times ours"
    every = "three models read, every gain, interval and test"
    lines = [
        "| what | measured | must |",
        "|---|---|---|",
        f"| numbers: {every} | {mine['numbers']:.1f} s | |",
        f"| with page, JSON and CSV | {mine['all']:.1f} s | 60 s |",
        f"| peak memory | {mine['memory']:.2f} GB | 4 GB |",
        f"| size of the page | {mine['page']:.2f} MB | 3 MB |",
        f"| fairlearn, accuracy of one model by class: {timed} | {theirs} | |",
        "",
        f"{sizes['examples']:,} examples, {sizes['classes']:,} classes, three models as float32 "
        f"npy files, {sizes['resamples']:,} resamples, once. {of['processor']}, {of['cores']} "
        f"cores; Python {of['python']}.",
        "",
    ]
    return "\n".join(lines)


def filled(text, results):
    """The text with the table between <!-- audit:start --> and <!-- audit:end -->."""
    start, end = "<!-- audit:start -->\n", "<!-- audit:end -->"
    return text.partition(start)[0] + start + table(results) + end + text.partition(end)[2]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench audit", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a small one: does it run? It writes nothing")
    add("--side", nargs=3, metavar=("SIDE", "FOLDER", "RESAMPLES"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        side, folder, count = given.side
        timed = {"ours": ours, "peer": peer}[side]
        print(json.dumps(timed(Path(folder), int(count))))
        return
    results = measure(QUICK if given.quick else SIZES)
    print(table(results))
    if not given.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        page = HERE / "README.md"
        page.write_text(filled(page.read_text(), results))
