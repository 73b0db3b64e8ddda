"""A quarter of an hour on a borrowed GPU: what is carried, and two commands. Its page is GPU.md.

What outlives a command lies in the machine folder, outside the tree, because each transfer lays the
tree anew. What may hang runs in a child that is watched."""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

from bench.checks import CHECKS
from kdlib.config import KdlibError
from kdlib.study import records
from kdlib.study.files import ROOT, whole_file
from kdlib.study.grids import study
from kdlib.study.machine import git_sha
from kdlib.study.sweep import missing, sweep

MIB = 2**20
CARRIED = 64 * MIB  # in one call, the tree included
PIECE = 15 * MIB  # of the results; a file of at most 16 MiB comes back
SILENCE = 90  # seconds without a line in runs.log: the studies hang
EVERY = 30  # seconds between two savings of the results
# runs side by side: one fills a GPU to four fifths, and a lockstep is kept or lost as a whole
JOBS = 4
PLAN = ("cifar100-lt-self", "cifar100-lt-small", "anchors-lt", "cifar20-lt-recipe")
DATA = "cifar100"
SUFFIXES = (".pt", ".npz", ".json")  # of a run; its JSON comes last, as it says the run is done
BENCH = (sys.executable, "-m", "bench")


def configs(item):
    """The Configs of an item of a plan: STUDY, or STUDY:SEEDS for its first pair and seeds."""
    name, _, seeds = item.partition(":")
    chosen = study(name)
    return replace(chosen, pairs=chosen.pairs[:1])(int(seeds)) if seeds else chosen()


def say(line):
    print(line, flush=True)


# ---------------------------------------------------------------- at home


def pack(args):
    """Make the two folders to carry: halves of the images, and the records at hand."""
    shards = sorted(
        (Path(args.data or os.environ.get("KDLIB_DATA", "data")) / DATA).glob("*.parquet")
    )
    if not shards:
        raise KdlibError(f"There are no Parquet files in {DATA}/ of --data, else $KDLIB_DATA.")
    folders = [args.to / "1", args.to / "2"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    images = _tar(shards)
    half = len(images) // 2
    (folders[0] / f"{DATA}.tar.0").write_bytes(images[:half])
    (folders[1] / f"{DATA}.tar.1").write_bytes(images[half:])
    brought = _files(args.plan, records.folder())
    (folders[1] / "records.tar").write_bytes(_tar(brought))
    say(f"{sum(file.suffix == '.json' for file in brought)} records of the plan go along")
    (folders[1] / "commit").write_text(git_sha())
    tree = _tree_bytes()
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(
            f"{folder}: {size / MIB:.1f} MiB, with the tree without data/records "
            f"{(size + tree) / MIB:.1f} of {CARRIED / MIB:.0f} MiB"
        )
        if size + tree > CARRIED:
            raise KdlibError(f"{folder} is too large to be carried.")


def _tar(files):
    """The bytes of a tar file. They depend only on the names, contents and order of the files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(path.name)  # without the times and owner of this copy
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _files(plan, folder, besides=()):
    """Files of the records of a plan, in the order they were done; weights of teachers alone."""
    planned = [cfg for item in plan for cfg in configs(item)]
    teachers = {d.key() for cfg in planned for d in cfg.dependencies()}
    wanted = {cfg.key() for cfg in planned} - set(besides)
    done = [path for path in folder.glob("*.json") if path.stem in wanted]
    files = []
    for path in sorted(done, key=lambda path: path.stat().st_mtime_ns):
        for suffix in SUFFIXES:
            file = path.with_suffix(suffix)
            if file.exists() and (suffix != ".pt" or path.stem in teachers):
                files.append(file)
    return files


def _tree_bytes():
    """What always travels: tracked files and those that git does not ignore, without records."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    files = [ROOT / name for name in listed if not name.startswith("data/records/")]
    return sum(file.stat().st_size for file in files if file.is_file())


# ---------------------------------------------------------------- there


def store(args):
    """Keep what was carried in the machine folder."""
    shutil.copytree(args.carry, args.machine / "parts", dirs_exist_ok=True)


def first(args):
    """Keep the first part; checks, then speeds."""
    end = time.monotonic() + args.seconds
    store(args)
    small = ["--train", "8", "--test", "16"] if args.quick else []
    out = args.out / "speeds.json"
    how = f"--random --device {args.device} --minutes {args.seconds / 60:.2f}".split()
    _watched(["gpu", "E", "pace", *how, *small, "--out", str(out)], end - time.monotonic(), {})
    found = json.loads(out.read_text()) if out.exists() else {}
    checks = found.get("E", {})
    say(table(found))
    return int(not all(checks.get(c.__name__, {}).get("passed") for c in CHECKS))


def table(found):
    """Markdown: the checks in a line, then images/s."""
    said = {c.__name__: found.get("E", {}).get(c.__name__) for c in CHECKS}
    failed = [f"{name} failed: {c['seen']}" for name, c in said.items() if c and not c["passed"]]
    unknown = [f"{name} did not end" for name, c in said.items() if not c]
    passed = len(CHECKS) - len(failed) - len(unknown)
    lines = [
        f"{found.get('device', 'no GPU')}: {passed} of {len(CHECKS)} checks passed",
        *failed,
        *unknown,
        "",
        "| network | runs at once | images/s |",
        "|---|---|---|",
    ]
    for network, rates in found.get("pace", {}).get("images/s", {}).items():
        lines += [f"| {network} | {runs} | {rate:,.0f} |" for runs, rate in rates.items()]
    return "\n".join(lines)


def second(args):
    """Join the parts and do the plan until time is up, with what is done in the out folder.

    Without --carry it goes on where the last one stopped, on the same machine."""
    end = time.monotonic() + args.seconds
    if args.carry:
        store(args)
    unpack(args.machine)
    os.environ |= {
        "KDLIB_DATA": str(args.machine / "data"),
        "KDLIB_RECORDS": str(args.machine / "records"),
        "KDLIB_CACHE": str(args.machine / "cache"),
        "KDLIB_GIT": (args.machine / "parts/commit").read_text(),
    }
    take_records(args.machine / "parts" / "records.tar", records.folder())
    brought = {path.stem for path in records.folder().glob("*.json")}
    say(f"records brought along: {len(brought)}")
    log = records.folder() / "runs.log"

    def save():
        count = save_results(args.plan, args.out, brought)
        if log.exists():
            shutil.copyfile(log, args.out / "runs.log")
        return count

    for graphs in dict.fromkeys((os.environ.get("KDLIB_GRAPHS", "1"), "0")):
        left = end - time.monotonic() - args.spare
        words = f"--seconds {left:.0f} --device {args.device} --jobs {args.jobs}".split()
        command = ["visit", "studies", *words, "--plan", *args.plan]
        how = {"KDLIB_GRAPHS": graphs}
        status = _watched(command, left + args.spare / 2, how, log, save)
        if status == 0 or end - time.monotonic() < 2 * args.spare:
            break
        say("The studies died or hang: again, one kernel at a time, one process for each run.")
    say(f"{save()} files of new records in {args.out}")
    return int(status != 0)


def unpack(machine):
    """The images in data/ of the machine folder. KdlibError if a part is missing."""
    parts = [machine / "parts" / f"{DATA}.tar.{k}" for k in range(2)]
    for k, part in enumerate(parts):
        if not part.exists():
            raise KdlibError(
                f"Part {k + 1} of the images is not in {machine}: this is another machine than "
                "before; carry that part and run `python -m bench visit store` first."
            )
    content = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=content) as tar:
        tar.extractall(machine / "data" / DATA, filter="data")


def take_records(file, folder):
    """Extract the records of a tar file into a folder. What is there already stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file) as tar:
        for member in tar:
            if not (folder / member.name).exists():
                tar.extract(member, folder, filter="data")


def studies(args):
    """Do the items of the plan in turn, in the time that is left. Runs that fail stop no others."""
    end = time.monotonic() + args.seconds
    for item in args.plan:
        wanted = configs(item)
        try:
            left = max(0.0, end - time.monotonic())
            sweep(wanted, device=args.device, jobs=args.jobs, budget=left)
        except KdlibError as error:
            say(f"{item}: {error}")
        done = len(wanted) - len(missing(wanted))
        say(f"{item}: {done} of {len(wanted)} runs are on record")


def save_results(plan, out, brought):
    """Write records that were not brought along as pieces of a tar file: how many files.

    Its members are in the order in which the runs ended, so a later tar file begins like the one
    before it: pieces that are full stay as they are, and a kill between two of them costs only what
    the second would have added. The pieces are results.tar.0 and so on."""
    files = _files(plan, records.folder(), brought)
    content = _tar(files)
    for k, start in enumerate(range(0, len(content), PIECE)):
        piece, file = content[start : start + PIECE], out / f"results.tar.{k}"
        if not (file.exists() and file.read_bytes() == piece):
            with whole_file(file) as temporary:
                temporary.write_bytes(piece)
    return len(files)


def _watched(words, seconds, environment, log=None, save=lambda: None):
    """Exit status of a child; None if it was ended: time was up, or `log` has not grown."""
    started = saved = time.time()
    child = subprocess.Popen([*BENCH, *words], env={**os.environ, **environment}, process_group=0)
    try:
        while (status := child.poll()) is None:
            time.sleep(0.2)
            now = heard = time.time()
            if log:
                heard = max(started, log.stat().st_mtime if log.exists() else 0)
            if now - started > seconds or now - heard > SILENCE:
                late = now - started > seconds
                why = "its time is up" if late else f"nothing was heard of it for {SILENCE} s"
                say(f"ended {' '.join(words[:2])}: {why}")
                return None
            if now - saved > EVERY:
                save()
                saved = now
        return status
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # its own processes too
            child.wait()


def main(arguments=None):
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench visit", description=about)
    subs = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (pack, store, first, second, studies):
        sub = subs.add_parser(command.__name__, help=command.__doc__.partition("\n")[0])
        sub.set_defaults(command=command)
        add = sub.add_argument
        add("--plan", nargs="+", default=PLAN, metavar="STUDY[:SEEDS]", help=f"default: {PLAN}")
        if command is pack:
            add("--data", metavar="DIR", help="default: $KDLIB_DATA, else data/")
            add("--to", type=Path, default=Path(".carry"), metavar="DIR", help="default: .carry")
            continue
        if command is not studies:
            add("--carry", type=Path, required=command is not second, metavar="DIR")
            add("--machine", type=Path, required=True, metavar="DIR", help="outlives a command")
            add("--out", type=Path, required=command is not store, metavar="DIR", help="comes back")
        seconds = {first: 85, second: 585}.get(command, 0)
        add("--seconds", type=float, default=seconds, help=f"of all it does; default: {seconds}")
        add("--spare", type=float, default=15, help="seconds of them kept for the last saving")
        add("--jobs", type=int, default=JOBS, help=f"runs side by side; default: {JOBS}")
        add("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
        add("--quick", action="store_true", help="few images; the numbers mean nothing")
    args = parser.parse_args(arguments)
    return args.command(args)
