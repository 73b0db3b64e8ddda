"""python -m bench faults: what damaged files and sudden ends do to records.

Good records are damaged in every way of damage.KINDS, then read. Each must be refused in a sentence
that names the file, or say what it said before. Then commands are ended by signals, see kills.py.
Exit code 1 if anything was bad. All that is random has a fixed seed."""

import argparse
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench import kills
from bench.damage import KINDS, OF_WEIGHTS
from kdlib.config import Config, KdlibError
from kdlib.study import experiment, records
from kdlib.study.files import DATA
from kdlib.teacher import weights_sha256

SECONDS, BYTES, LETTERS = 2.0, 200e6, 1000  # that reading, or what it says, may take
GUARD = 2**30  # bytes that reading may take before it is stopped
HARMLESS, REFUSED = "harmless", "refused"
CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
STUDENT = replace(CFG, method="ada_alpha", teacher="cnn", temperature=2.0)
SUFFIXES = {"json": ".json", "npz": ".npz", "weights": ".safetensors"}


class Good(NamedTuple):
    """A record and its files by kind, weights only where they are kept."""

    cfg: Config
    files: dict

    @classmethod
    def at(cls, path):
        """The record whose JSON file this is."""
        files = {kind: path.with_suffix(suffix) for kind, suffix in SUFFIXES.items()}
        there = {kind: file for kind, file in files.items() if file.exists()}
        return cls(Config.from_dict(json.loads(path.read_text())["config"]), there)

    def copied(self, folder):
        folder.mkdir()
        for file in self.files.values():
            shutil.copy(file, folder)
        return Good.at(folder / self.files["json"].name)


def good_records(folder):
    """Three records of digits, made in a folder, and some of those in the repository."""
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(folder), KDLIB_CACHE=f"{folder}/cache"):
        for cfg in (STUDENT, replace(CFG, method="post_hoc")):
            experiment.run(cfg, device="cpu")
    committed = records.paths(DATA / "records")
    some = committed[:: max(1, len(committed) // 6)]
    return [Good.at(path) for path in [*records.paths(folder), *some]]


def facts_of(good):
    """All that a record says, to be compared."""
    record = records.read(good.cfg, good.files["json"].parent)
    said = [json.dumps([record.config.fields(), record.facts], sort_keys=True)]
    for split in record.splits.values():
        arrays = [getattr(split, array) for array in records.ARRAYS]
        said += [(a.dtype.kind, a.shape, a.astype("f8").tobytes()) for a in arrays]
    return said


def weights_of(good):
    """The hash of the weights that students would learn from."""
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(good.files["json"].parent)):
        return weights_sha256(experiment.trained(good.cfg, device="cpu"))


class TooLong(BaseException):
    """Raised by the clock; no `except Exception` stops it."""


@contextlib.contextmanager
def guarded():
    """A block that ends in TooLong or MemoryError before it can harm this machine."""

    def ring(number, frame):
        raise TooLong

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (used + GUARD, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def verdict_on(good, ask, expected):
    """(HARMLESS, REFUSED or what is bad; what was said) of asking a damaged record."""
    verdict, said = HARMLESS, ""
    tracemalloc.start()
    try:
        with guarded():
            if ask(good) != expected:
                verdict = "believed"
    except KdlibError as error:
        said = str(error)
        clear = good.cfg.key() in said and "\n" not in said and len(said) < LETTERS
        verdict = REFUSED if clear else "unclear"
    except (TooLong, MemoryError) as error:
        verdict, said = "slow or large", type(error).__name__
    except Exception as error:
        verdict, said = "traceback", f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]  # of what was asked for, given or not
    tracemalloc.stop()
    if peak > BYTES:
        verdict, said = "slow or large", f"{peak / 1e6:.0f} MB; {said}"
    return verdict, said


def corruptions(count, seed=0):
    """({kind: Counter of verdicts}, sentences about the bad ones) of so many damaged records."""
    counts, bad = {kind: Counter() for kind in KINDS}, []
    with tempfile.TemporaryDirectory() as folder:
        goods = good_records(Path(folder))
        facts = [(good, facts_of(good)) for good in goods]
        weights = [(good, weights_of(good)) for good in goods if "weights" in good.files]
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            rng = random.Random(f"{seed} {kind} {number}")
            ask, known = (weights_of, weights) if kind in OF_WEIGHTS else (facts_of, facts)
            (good, expected), (other, _) = rng.sample(known, 2)
            case = Path(folder, f"case {number}")
            copy = good.copied(case)
            done = KINDS[kind](rng, copy, other)
            verdict, said = verdict_on(copy, ask, expected)
            if (case / "ran").exists():
                verdict = "ran code"
            counts[kind][verdict] += 1
            if verdict not in (HARMLESS, REFUSED):
                bad.append(f"{kind} ({number}; {done}): {verdict} {said[:300]!r}")
            shutil.rmtree(case)
    return counts, bad


def table(counts):
    """Markdown: a line for each kind of damage, and their sum."""
    counts = counts | {"all": sum(counts.values(), Counter())}
    lines = ["| damage | tried | harmless | refused | bad |", "|---|---|---|---|---|"]
    for kind, of in counts.items():
        worse = {verdict: n for verdict, n in of.items() if verdict not in (HARMLESS, REFUSED)}
        why = ", ".join(f"{n} {verdict}" for verdict, n in worse.items())
        lines.append(f"| {kind} | {of.total()} | {of[HARMLESS]} | {of[REFUSED]} | {why or 0} |")
    return "\n".join(lines)


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    add = functools.partial(parser.add_argument, type=int, metavar="N")
    add("--corruptions", default=3000, help="damaged records; default: 3000")
    add("--kills", default=300, help="commands that a signal ends; default: 300")
    add("--seed", default=0, help="of all that is random; default: 0")
    args = parser.parse_args(arguments)
    bad = []
    for tried, look, laid_out in (
        (args.corruptions, corruptions, table),
        (args.kills, kills.killed, kills.table),
    ):
        if tried:
            counts, wrong = look(tried, args.seed)
            bad += wrong
            print("\n".join([laid_out(counts), *(f"- {line}" for line in wrong)]), flush=True)
    return 1 if bad else 0
