"""python -m bench faults: what damaged files and sudden ends do to records.

Good records are damaged in the ways of KINDS and read. Each must be refused by one sentence that
names the file, or give what it gave before. Then runs are killed, see kills.py. Seeds are fixed."""

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

SECONDS, BYTES, LETTERS = 2.0, 200e6, 1000  # that a record, or the sentence about it, may take
GUARD = 2**30  # bytes that reading may take before it is stopped
HARMLESS, REFUSED = "harmless", "refused"
CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
TAUGHT = replace(CFG, method="ada_alpha", teacher="cnn", temperature=2.0)


class Good(NamedTuple):
    """A record with its files by kind: "json", "npz", "weights" (where they are kept)."""

    cfg: Config
    files: dict

    @classmethod
    def at(cls, json_file):
        """The record whose JSON file this is."""
        cfg = Config.from_dict(json.loads(json_file.read_text())["config"])
        beside = {"json": json_file, "npz": json_file.with_suffix(".npz")}
        for suffix in (".safetensors", ".pt"):
            if json_file.with_suffix(suffix).exists():
                beside["weights"] = json_file.with_suffix(suffix)
        return cls(cfg, beside)

    def copied(self, folder):
        copies = {kind: shutil.copy(path, folder) for kind, path in self.files.items()}
        return Good(self.cfg, {kind: Path(path) for kind, path in copies.items()})


def good_records(folder):
    """Records of digits made in a folder, with weights; and some of those in the repository."""
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(folder), KDLIB_CACHE=f"{folder}/cache"):
        for cfg in (TAUGHT, replace(CFG, method="post_hoc")):
            experiment.run(cfg, device="cpu")
    made = [Good.at(path) for path in sorted(folder.glob("[!.]*.json"))]
    committed = sorted((DATA / "records").glob("c*.json"))
    return made + [Good.at(path) for path in committed[:: max(1, len(committed) // 6)]]


def facts_of(good):
    """All that a record says: text and bytes, to be compared."""
    record = records.read(good.cfg, good.files["json"].parent)
    said = [json.dumps([record.config.fields(), record.facts], sort_keys=True)]
    for name, split in record.splits.items():
        arrays = [getattr(split, array) for array in records.ARRAYS]
        said += [(name, str(a.dtype), a.shape, a.tobytes()) for a in arrays]
    return said


def weights_of(good):
    """The hash of the weights that students would learn from."""
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(good.files["json"].parent)):
        return weights_sha256(experiment.trained(good.cfg, device="cpu"))


class TooLong(BaseException):
    """Raised by the clock: no `except Exception` stops it."""


@contextlib.contextmanager
def guarded():
    """A block that ends in TooLong or MemoryError before it can harm this machine."""

    def ring(number, frame):
        raise TooLong

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GUARD, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def verdict_on(good, ask, expected):
    """(HARMLESS, REFUSED or what is bad, what was said) of asking a damaged record."""
    verdict, said = HARMLESS, ""
    tracemalloc.start()
    try:
        with guarded():
            if ask(good) != expected:
                verdict = "accepted with other facts"
    except KdlibError as error:
        said = str(error)
        clear = good.cfg.key() in said and "\n" not in said and len(said) < LETTERS
        verdict = REFUSED if clear else "no clear sentence"
    except (TooLong, MemoryError) as error:
        verdict, said = "slow or large", type(error).__name__
    except Exception as error:
        verdict, said = "traceback", f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > BYTES:
        verdict, said = "slow or large", f"{peak / 1e6:.0f} MB {said}"
    return verdict, said[:LETTERS]


def corruptions(count, seed=0, kinds=KINDS):
    """({kind: Counter of verdicts}, [(kind, what was done, verdict, what was said)] of the bad)."""
    counts, bad = {kind: Counter() for kind in kinds}, []
    with tempfile.TemporaryDirectory() as folder:
        goods = good_records(Path(folder))
        expected = {ask: {} for ask in (facts_of, weights_of)}
        for good in goods:
            expected[facts_of][good.cfg] = facts_of(good)
            if "weights" in good.files:
                expected[weights_of][good.cfg] = weights_of(good)
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            rng = random.Random(f"{seed} {kind} {number}")
            ask = weights_of if kind in OF_WEIGHTS else facts_of
            chosen = [good for good in goods if good.cfg in expected[ask]]
            good, other = rng.sample(chosen, 2)
            # of its own: what was read is remembered by path
            case = Path(folder, f"case {number}")
            case.mkdir()
            copy = good.copied(case)
            done = kinds[kind](rng, copy, other)
            verdict, said = verdict_on(copy, ask, expected[ask][good.cfg])
            if (case / "ran").exists():
                verdict = "ran code"
            counts[kind][verdict] += 1
            if verdict not in (HARMLESS, REFUSED):
                bad.append((kind, f"{good.cfg.key()}: {done}", verdict, said))
            shutil.rmtree(case)
    return counts, bad


def table(counts):
    """Markdown: a line for each kind of damage, and their sum."""
    counts = counts | {"all": sum(counts.values(), Counter())}
    lines = ["| damage | tried | harmless | refused | bad |", "|---|---|---|---|---|"]
    for kind, of in counts.items():
        worse = {verdict: n for verdict, n in of.items() if verdict not in (HARMLESS, REFUSED)}
        why = ", ".join(f"{n} {verdict}" for verdict, n in worse.items())
        bad = f"{sum(worse.values())} ({why})" if worse else "0"
        lines.append(f"| {kind} | {of.total()} | {of[HARMLESS]} | {of[REFUSED]} | {bad} |")
    return "\n".join(lines)


def told(bad, most):
    """At most so many lines for each kind of damage and what came of it."""
    seen, lines = Counter(), []
    for kind, done, verdict, said in bad:
        seen[kind, verdict] += 1
        if seen[kind, verdict] <= most:
            lines.append(f"- {kind}: {done}: {verdict} {said[:300]!r}")
    return "\n".join(lines)


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    add = functools.partial(parser.add_argument, type=int, metavar="N")
    add("--corruptions", default=3000, help="damaged files; default: 3000")
    add("--kills", default=300, help="commands that are ended; default: 300")
    add("--seed", default=0, help="of the damage and of the moments of the signals; default: 0")
    add("--show", default=3, help="bad cases of a kind that are told one by one; default: 3")
    args = parser.parse_args(arguments)
    bad, wrong = [], []
    if args.corruptions:
        counts, bad = corruptions(args.corruptions, args.seed)
        print(f"{table(counts)}\n{told(bad, args.show)}", flush=True)
    if args.kills:
        ends, wrong = kills.killed(args.kills, args.seed)
        print("\n".join([kills.table(ends), *(f"- {line}" for line in wrong)]))
    return 1 if bad or wrong else 0
