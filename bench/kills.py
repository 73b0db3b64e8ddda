"""Runs that a signal ends at any moment: what is on disk then, and whether the next one goes on.

A life is a folder of records and the commands that work on it, one after another. All but the last
strike themselves: some time after their start, or at an access to a file that is being written."""

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
from kdlib.study import kept, records
from kdlib.study.grids import STUDIES

DRAFT = ".tmp-"  # how the name of a file begins that is not yet whole
ACCESSES = ("open", "os.rename", "os.remove")  # Python tells of each before it happens
MOST, LAST = 4, 24  # commands of a life that are struck; the last access with a strike
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WAYS = [(KILL, "all"), (KILL, "command"), (KILL, "worker"), (TERM, "command"), (TERM, "all")]
WAYS += [(TERM, "worker"), (INT, "all"), (INT, "command")]
# torch imports _dynamo for its first optimizer, which takes longer than all four runs
PRELOADED = ["bench.kills", "kdlib.study.sweep", "sklearn.datasets", "torch._dynamo"]
ENDED = 10.0  # seconds in which the processes of a command must follow it


class Strike(NamedTuple):
    """A signal to "all" processes of a command, to the "command", or to the "worker" that strikes.

    It comes `seconds` after the nth `access` to a file being written; 0: after the start."""

    number: signal.Signals
    whom: str
    access: int
    seconds: float
    jobs: int

    @classmethod
    def drawn(cls, rng):
        number, whom = rng.choice(WAYS)
        early = rng.random() < 0.3
        access = 0 if early else rng.randrange(1, LAST)
        seconds = rng.uniform(0.0, 2.0) if early else rng.choice([0.0, rng.uniform(0.0, 0.005)])
        return cls(number, whom, access, seconds, rng.choice([1, 2]))


def study():
    """Four short runs of digits: a teacher, a baseline and two students, one with margins."""
    shared = {"imbalance": 50.0, "draw_seed": 0, "epochs": 3, "batch_size": 64, "lr": 0.05}
    pairs = (("cnn_small", "cnn_small"),)
    methods = {name: STUDIES["digits"].methods[name] for name in ("one_hot", "kd", "ada_alpha")}
    short = {"pairs": pairs, "methods": methods, "shared": {"dataset": "digits", **shared}}
    return replace(STUDIES["digits"], name="faults", seeds=1, distilled={}, **short)


def command(folder, strike, jobs):
    """`kdlib run` of the study, in a process with a group of its own; it keeps every epoch."""
    import torch

    from kdlib import __main__ as cli

    os.setsid()
    said = os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ |= {"KDLIB_RECORDS": str(folder), "KDLIB_CACHE": str(folder.parent / "cache")}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    kept.EVERY = -1.0
    STUDIES["faults"] = study()
    # so that its workers strike as it does, and start at once
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    if strike:
        _arm(folder, strike)
    how = ["--device", "cpu", "--jobs", str(jobs), "--yes"]
    sys.argv = ["kdlib", "run", "faults", *how]
    sys.exit(cli.main())


def _arm(folder, strike):
    """Have this process, and its workers each, strike."""
    group, count = os.getpid(), 0

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
        nonlocal count
        path = str(arguments[0]) if event in ACCESSES else ""
        if f"/{DRAFT}" in path and os.path.exists(path):
            count += 1
            if count == strike.access:
                later() if strike.seconds else hit()

    if strike.access:
        sys.addaudithook(heard)
    else:
        later()


def leftovers(folder):
    """Files that were being written, records or tables of a teacher."""
    return list(folder.parent.rglob(f"{DRAFT}*"))


def lived(folder, strike, jobs):
    """(exit code, what was said, whether a file was being written) of one process of a life."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=command, args=(folder, strike, jobs))
    process.start()
    process.join()
    deadline = time.monotonic() + ENDED
    while (alive := _alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    said = (folder.parent / "said").read_text(errors="replace")
    if alive:
        os.killpg(process.pid, KILL)
        said += "\nTraceback: processes were left"
    inside = folder.parent / "inside"
    struck_inside = inside.exists()
    inside.unlink(missing_ok=True)
    return process.exitcode, said, struck_inside


def _alive(session):
    """Processes of a session, but those that nobody has waited for yet."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True)
    return [line for line in listed.stdout.split() if not line.startswith(b"Z")]


def wrong_files(folder, expected):
    """Sentences about what is torn or counts as a record and is none; {file: bytes} of records.

    expected: {key: hash of the weights}."""
    from kdlib.study.experiment import trained

    wrong, found = [], {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix == ".json":
            found[path.name] = path.read_bytes()
        if path.stem not in expected and path.name != "runs.log":
            wrong.append(f"{path.name} is of no run")
    with mock.patch.dict(os.environ, KDLIB_RECORDS=str(folder)):
        for name in found:
            try:
                cfg = Config.from_dict(json.loads(found[name])["config"])
                weights = records.read(cfg).facts["weights_sha256"]
                trained(cfg, device="cpu")
                if weights != expected[cfg.key()]:
                    wrong.append(f"{name}: other weights")
            except (KdlibError, ValueError, KeyError) as error:
                wrong.append(f"{name}: torn: {error}")
        for key in expected:
            if kept.path_of(key).exists() and not kept.epochs_done(key):
                wrong.append(f"the state of {key} is torn")
    return wrong, found


def wrong_end(strike, code, said, left):
    """What is wrong with how a command ended; an empty list if nothing is."""
    wrong = []
    last = said.strip().splitlines()[-1:] or [""]
    killed = strike and strike.number == KILL
    if "Traceback" in said or (code and code > 0 and not last[0].startswith("kdlib: ")):
        wrong.append(f"said {said[-300:]!r}")
    allowed = {0}
    if strike:
        allowed |= {-KILL} if killed else {128 + strike.number}
        allowed |= {2} if strike.whom != "command" else set()  # its worker died
    if code not in allowed:
        wrong.append(f"exit code {code}")
    if left and not killed:
        wrong.append(f"left {', '.join(path.name for path in left)}")
    return wrong


def undisturbed(folder):
    """{key: hash of the weights} of the study, done in peace by one process."""
    code, said, _ = lived(folder, None, 1)
    if code:
        raise KdlibError(f"bench: the runs that are to be killed do not end by themselves: {said}")
    configs = study()()
    return {cfg.key(): records.read(cfg, folder).facts["weights_sha256"] for cfg in configs}


def killed(count, seed=0):
    """({signal and whom: Counter of struck, inside, torn, lost, bad}, [what was wrong])."""
    rng, ends, wrong = random.Random(f"{seed} kills"), {}, []
    with tempfile.TemporaryDirectory() as place:
        expected = undisturbed(_new(place, "peace"))
        while sum(of["struck"] for of in ends.values()) < count:
            folder = _new(place, f"life {rng.random()}")
            wrong += _life(folder, rng, expected, ends, count)
    return ends, wrong


def _new(place, name):
    folder = Path(place, name, "records")
    folder.mkdir(parents=True)
    return folder


def _life(folder, rng, expected, ends, count):
    """Sentences about what went wrong in a life; its strikes are counted in `ends`."""
    wrong, before = [], {}
    for number in range(MOST + 1):
        strike = Strike.drawn(rng) if number < MOST else None
        code, said, inside = lived(folder, strike, strike.jobs if strike else 1)
        torn, found = wrong_files(folder, expected)
        lost = [f"{name} was lost" for name in before if found.get(name) != before[name]]
        here = [*wrong_end(strike, code, said, leftovers(folder)), *torn, *lost]
        before = found
        for path in leftovers(folder):
            path.unlink()  # each is counted once
        if strike and code:
            way = f"{strike.number.name} to {strike.whom}"
            of = ends.setdefault(way, Counter())
            of.update(struck=1, inside=int(inside), torn=len(torn), lost=len(lost), bad=len(here))
        wrong += [f"{strike}: {line}" for line in here]
        if not code:
            break
    if len(before) < len(expected):
        wrong.append(f"{len(before)} of {len(expected)} runs on record at the end: {said[-300:]}")
    return wrong


def table(ends):
    """Markdown: a line for each way of ending a command, and their sum."""
    ends = dict(sorted(ends.items())) | {"all": sum(ends.values(), Counter())}
    head = "| ended by | commands | inside a write | records torn | records lost | bad |"
    lines = [head, "|---|---|---|---|---|---|"]
    for way, of in ends.items():
        numbers = [of[name] for name in ("struck", "inside", "torn", "lost", "bad")]
        lines.append(f"| {way} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)
