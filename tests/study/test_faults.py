"""Damage and sudden ends, in small: `python -m bench faults` does thousands. And what looks for
them sees them."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from bench import damage, faults, kills
from kdlib.config import KdlibError
from kdlib.study import records

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is watched by what Linux tells"
)
TERM = kills.Strike(signal.SIGTERM, "command", 1, 0.0, 1)


def test_damage_of_every_kind_is_refused_by_name_or_changes_nothing():
    counts, bad = faults.corruptions(len(damage.KINDS))
    assert bad == [] and {of.total() for of in counts.values()} == {1}
    refused = {kind for kind, of in counts.items() if of[faults.REFUSED]}
    assert len(refused) > 0.8 * len(damage.KINDS), faults.table(counts)


def test_commands_that_are_ended_tear_nothing_and_the_next_one_ends_with_the_same_weights(tmp_path):
    kill, interrupt = (TERM._replace(number=n) for n in (signal.SIGKILL, signal.SIGINT))
    strikes = [kill._replace(touch=6), TERM._replace(touch=3), interrupt._replace(whom="all")]
    ends = {}
    bad = kills.life(tmp_path / "life", strikes, kills.in_peace(tmp_path / "peace"), ends)
    assert bad == [] and [(of["struck"], of["inside"]) for of in ends.values()] == [(1, 1)] * 3


# ---------------------------------------------------------------- what looks, sees


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with three records of digits."""
    folder = tmp_path_factory.mktemp("made")
    faults.good_records(folder)
    return folder


@pytest.fixture
def good(made):
    return faults.Good.at(records.paths(made)[0])


def refuse(sentence):
    raise KdlibError(sentence)


@pytest.mark.parametrize(
    "ask, verdict",
    [
        (lambda good: "expected", "harmless"),
        (lambda good: "anything else", "believed"),
        (lambda good: refuse(f"{good.files['json']}: damaged."), "refused"),
        (lambda good: refuse("damaged."), "unclear"),
        (lambda good: refuse(f"{good.files['json']}:\nTraceback"), "unclear"),
        (lambda good: refuse(f"{good.files['json']}: {'x' * 1000}"), "unclear"),
        (lambda good: {}["labels_sha256"], "traceback"),
        (lambda good: time.sleep(5), "slow or large"),
        (lambda good: bytes(300 * 10**6), "slow or large"),
        (lambda good: bytes(5 * 2**30), "slow or large"),
    ],
)
def test_each_fault_of_a_reader_has_its_verdict(good, monkeypatch, ask, verdict):
    monkeypatch.setattr(faults, "SECONDS", 0.3)
    assert faults.verdict_on(good, ask, "expected")[0] == verdict
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_reader_that_asks_for_the_seal_alone_is_found_out(monkeypatch):
    monkeypatch.setattr(records, "check", lambda facts, cfg: None)
    kinds = {
        kind: of for kind, of in damage.KINDS.items() if kind.endswith("a number out of range")
    }
    monkeypatch.setattr(faults, "KINDS", kinds)
    counts, bad = faults.corruptions(3)
    assert [of["believed"] for of in counts.values()] == [3] == [len(bad)]


def test_torn_files_and_strange_ones_are_seen(made, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("cache"))
    paths = records.paths(folder)
    facts = {p.stem: records.read(faults.Good.at(p).cfg, folder).facts for p in paths}
    expected = {key: of["weights_sha256"] for key, of in facts.items()}
    (folder / ".tmp-x.json").write_text("{")  # counts as nothing
    wrong, found = kills.wrong_files(folder, expected)
    assert wrong == [] and sorted(found) == sorted(p.name for p in paths)
    torn, other, bare = paths
    os.truncate(torn, 500)
    expected[other.stem] = "f" * 64
    bare.with_suffix(".safetensors").unlink()
    (folder / "leftover.json").write_text("{}")
    (folder / f".{other.stem}.kept").write_bytes(b"PK")
    said = " ".join(kills.wrong_files(folder, expected)[0])
    for line in (
        f"{torn.name} is torn",
        f"{other.name} is of other weights",
        f"{bare.name} is without weights",
        "leftover.json is of no run",
        f".{other.stem}.kept is torn",
    ):
        assert line in said


@pytest.mark.parametrize(
    "strike, code, said, left, wrong",
    [
        (TERM, 143, "kdlib: told to stop", [], False),
        (TERM, 143, "kdlib: told to stop", [Path(".tmp-x.npz")], True),
        (TERM, 143, "Traceback: no\nkdlib: told to stop", [], True),
        (TERM, 130, "kdlib: interrupted", [], True),
        (TERM, 2, "kdlib: A process died", [], True),
        (TERM._replace(whom="worker"), 2, "kdlib: A process died", [], False),
        (TERM._replace(number=signal.SIGKILL), -9, "", [Path(".tmp-x.npz")], False),
        (None, 0, "4 of 4 runs on record", [Path(".tmp-x.npz")], True),
    ],
)
def test_how_a_command_ends_is_judged(strike, code, said, left, wrong):
    assert bool(kills.wrong_end(strike, code, said, left)) is wrong
