"""Commands that a signal ends at any moment: what is on disk then, and whether the next goes on.

A life is a folder of records and the commands that work on it, one after another. All but the last
send themselves a signal: some time after their start, or while a file is being written."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from kdlib.config import Config, KdlibError
from kdlib.study import experiment, kept, records, weights
from kdlib.study.files import LEFT
from kdlib.study.grids import STUDIES

# torch imports _dynamo for its first optimizer, which takes longer than all runs of a command
PRELOADED = ["bench.kills", "kdlib.study.sweep", "sklearn.datasets", "torch._dynamo"]
TOUCHED = ("open", "os.rename", "os.remove")  # Python tells of each before it is done
MOST, LAST = 4, 40  # commands of a life that are struck; the last touch at which one is
FOLLOWED = 10.0  # seconds in which the processes of a command must end after it
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WAYS = [(KILL, "all"), (KILL, "command"), (KILL, "worker"), (TERM, "all"), (TERM, "command")]
WAYS += [(TERM, "worker"), (INT, "all"), (INT, "command")]


class Strike(NamedTuple):
    """A signal to "all" processes of a command, to the "command", or to the "worker" that strikes.

    It comes `seconds` after the nth touch of a file that is being written; 0: after the start."""

    number: signal.Signals
    whom: str
    touch: int
    seconds: float
    jobs: int

    @classmethod
    def drawn(cls, rng):
        number, whom = rng.choice(WAYS)
        touch, seconds = rng.randrange(1, LAST), rng.choice([0.0, rng.uniform(0.0, 0.005)])
        if rng.random() < 0.3:
            touch, seconds = 0, rng.uniform(0.0, 2.0)
        return cls(number, whom, touch, seconds, rng.choice([1, 2]))


def study():
    """Four short runs of digits: a teacher, a baseline and two students, one with margins."""
    shared = {"dataset": "digits", "imbalance": 50.0, "draw_seed": 0, "epochs": 3, "lr": 0.05}
    methods = {name: STUDIES["digits"].methods[name] for name in ("one_hot", "kd", "ada_alpha")}
    changes = {"pairs": (("cnn_small", "cnn_small"),), "methods": methods, "shared": shared}
    return replace(STUDIES["digits"], name="faults", seeds=1, distilled={}, **changes)


def command(folder, strike):
    """`kdlib run` of the study in a process group of its own; states are kept of every epoch."""
    import torch

    from kdlib import __main__ as cli

    os.setsid()
    said = os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ |= {"KDLIB_RECORDS": str(folder), "KDLIB_CACHE": str(folder.parent / "cache")}
    signal.signal(INT, signal.SIG_DFL)  # until the command listens, as `python -m kdlib` has it
    torch.set_num_threads(1)
    kept.EVERY = -1.0
    STUDIES["faults"] = study()
    # workers that strike as this process does, and start at once
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    if strike:
        _arm(folder, strike)
    jobs = strike.jobs if strike else 1
    sys.argv = ["kdlib", "run", "faults", "--device", "cpu", "--jobs", str(jobs), "--yes"]
    sys.exit(cli.main())


def _arm(folder, strike):
    """Have this process, and each of its workers, strike."""
    group, touches = os.getpid(), 0

    def hit():
        if leftovers(folder):
            (folder.parent / "inside").touch()
        if strike.whom == "all":
            os.killpg(group, strike.number)
        else:
            os.kill(group if strike.whom == "command" else os.getpid(), strike.number)

    def later():
        thread = threading.Timer(strike.seconds, hit)
        thread.daemon = True
        thread.start()

    def heard(event, arguments):
        nonlocal touches
        path = str(arguments[0]) if event in TOUCHED else ""
        if f"/{LEFT}" in path and os.path.exists(path):
            touches += 1
            if touches == strike.touch:
                later() if strike.seconds else hit()

    if strike.touch:
        sys.addaudithook(heard)
    else:
        later()


def leftovers(folder):
    """Files that are being written, or were when their process was killed."""
    return list(folder.parent.rglob(f"{LEFT}*"))


def lived(folder, strike):
    """(exit code, what was said, whether a file was being written) of one command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=command, args=(folder, strike))
    process.start()
    process.join()
    said = (folder.parent / "said").read_text(errors="replace")
    late = time.monotonic() + FOLLOWED
    while _alive(process.pid):
        if time.monotonic() > late:
            os.killpg(process.pid, KILL)
            said += "\nkdlib: Traceback: a process was left"
        time.sleep(0.05)
    inside = folder.parent / "inside"
    struck = inside.exists()
    inside.unlink(missing_ok=True)
    return process.exitcode, said, struck


def _alive(session):
    """Processes of a session, without those that have ended and await their parents."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True)
    return [line for line in listed.stdout.split() if not line.startswith(b"Z")]


def wrong_files(folder, expected):
    """(sentences about what is torn or of no run, {name: bytes} of records) of a folder.

    expected: {key: hash of the weights} of all runs."""
    wrong, found = [], {}
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix == ".json":
            found[path.name] = path.read_bytes()
        if path.stem not in expected and path.name != "runs.log":
            wrong.append(f"{path.name} is of no run")
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(folder)):
        for name, content in found.items():
            try:
                cfg = Config.from_dict(json.loads(content)["config"])
                if not weights.path_of(cfg.key()).exists():
                    wrong.append(f"{name} is without weights")
                experiment.trained(cfg, device="cpu")  # reads its record too
                if records.read(cfg).facts["weights_sha256"] != expected[cfg.key()]:
                    wrong.append(f"{name} is of other weights")
            except (KdlibError, ValueError, KeyError) as error:
                wrong.append(f"{name} is torn: {error}")
        for key in expected:
            if kept.path_of(key).exists() and not kept.epochs_done(key):
                wrong.append(f"{kept.path_of(key).name} is torn")
    return wrong, found


def wrong_end(strike, code, said, left):
    """Sentences about what is wrong with how a command ended."""
    wrong = []
    lines = said.strip().splitlines() or [""]
    if "Traceback" in said or (code > 0 and not lines[-1].startswith("kdlib: ")):
        wrong.append(f"said {said[-300:]!r}")
    allowed = {0}
    if strike:
        allowed |= {-strike.number, 128 + strike.number}
        if strike.whom != "command":
            allowed.add(2)  # a worker died
    if code not in allowed:
        wrong.append(f"exit code {code}")
    if left and not (strike and strike.number == KILL):
        wrong.append(f"left {', '.join(path.name for path in left)}")
    return wrong


def killed(count, seed=0):
    """({way: Counter of what came of it}, sentences about what was bad) of so many strikes."""
    rng, ends, wrong = random.Random(f"{seed} kills"), {}, []
    with tempfile.TemporaryDirectory() as place:
        expected = in_peace(Path(place, "peace"))
        while sum(of["struck"] for of in ends.values()) < count:
            strikes = [Strike.drawn(rng) for _ in range(MOST)]
            wrong += life(Path(place, f"life {rng.random()}"), strikes, expected, ends)
    return ends, wrong


def in_peace(place):
    """{key: hash of the weights} of the runs when nothing interrupts them."""
    code, said, _ = lived(_records(place), None)
    if code:
        raise KdlibError(f"The runs that are to be struck do not end in peace: {said}")
    found = {cfg.key(): records.read(cfg, place / "records") for cfg in study()()}
    return {key: record.facts["weights_sha256"] for key, record in found.items()}


def life(place, strikes, expected, ends):
    """Sentences about what was bad in a life; what came of its strikes is added to `ends`.

    It ends with a command that completes the study, at the latest the one after the last strike."""
    folder, wrong, before = _records(place), [], {}
    for strike in [*strikes, None]:
        code, said, inside = lived(folder, strike)
        torn, found = wrong_files(folder, expected)
        lost = [f"{name} was lost" for name in before if found.get(name) != before[name]]
        bad = [*wrong_end(strike, code, said, leftovers(folder)), *torn, *lost]
        wrong += [f"{strike}: {line}" for line in bad]
        before = found
        for path in leftovers(folder):
            path.unlink()  # each is counted once
        if not code:
            break
        if strike:
            of = ends.setdefault(f"{strike.number.name} to {strike.whom}", Counter())
            of.update(struck=1, inside=int(inside), torn=len(torn), lost=len(lost), bad=len(bad))
    if code or len(found) < len(expected):
        wrong.append(f"{len(found)} of {len(expected)} runs in the end: {said[-300:]!r}")
    return wrong


def _records(place):
    folder = place / "records"
    folder.mkdir(parents=True)
    return folder


def table(ends):
    """Markdown: a line for each way of ending a command, and their sum."""
    ends = dict(sorted(ends.items())) | {"all": sum(ends.values(), Counter())}
    head = "| ended by | commands | inside a write | files torn | records lost | bad |"
    lines = [head, "|---|---|---|---|---|---|"]
    for way, of in ends.items():
        numbers = [of[name] for name in ("struck", "inside", "torn", "lost", "bad")]
        lines.append(f"| {way} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)
