"""A quarter of an hour on a borrowed GPU: what is carried, and two commands. Its page is GPU.md.

What outlives a command lies in the machine folder, outside the tree, because each transfer lays the
tree anew. The studies, which may hang, run in a child that is watched."""

import argparse
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

from bench import checks
from kdlib.config import KdlibError
from kdlib.study import records, weights
from kdlib.study.files import ROOT, write_whole
from kdlib.study.grids import study
from kdlib.study.machine import git_sha
from kdlib.study.sweep import missing, sweep

MIB = 2**20
CARRIED = 64 * MIB  # in one call, the tree included
PIECE = 15 * MIB  # of the results; a file of at most 16 MiB comes back
SILENCE = 90  # seconds without a line in runs.log: the studies hang
EVERY = 30  # seconds between two savings of the results
SPARE = 15  # seconds of the second command, for the last saving
# runs side by side: one fills a GPU to four fifths, and a lockstep is kept or lost as a whole
JOBS = 4
PLAN = ("cifar100-lt-self", "cifar100-lt-small", "anchors-lt", "cifar20-lt-recipe")
DATA = "cifar100"
say = functools.partial(print, flush=True)


def configs(item):
    """The Configs of an item of a plan: STUDY, or STUDY:SEEDS for its first pair and seeds."""
    name, _, seeds = item.partition(":")
    chosen = study(name)
    return replace(chosen, pairs=chosen.pairs[:1])(int(seeds)) if seeds else chosen()


def tarred(files):
    """The bytes of a tar file. They depend only on the names, contents and order of the files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(path.name)  # without the times and owner of this copy
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def record_files(plan, besides=()):
    """Files of the records of a plan, in the order they were done; weights of teachers alone."""
    planned = [cfg for item in plan for cfg in configs(item)]
    teachers = {d.key() for cfg in planned for d in cfg.dependencies()}
    wanted = {cfg.key() for cfg in planned} - set(besides)
    done = [path for path in records.paths() if path.stem in wanted]
    files = []
    for path in sorted(done, key=lambda path: path.stat().st_mtime_ns):
        # the JSON last, as it says the run is done
        for suffix in (weights.SUFFIX, ".npz", ".json"):
            file = path.with_suffix(suffix)
            if file.exists() and (suffix != weights.SUFFIX or path.stem in teachers):
                files.append(file)
    return files


# ---------------------------------------------------------------- at home


def pack(args):
    """Make the two folders to carry, of equal size: the images, and the records at hand."""
    data = Path(args.data or os.environ.get("KDLIB_DATA", "data")) / DATA
    shards = sorted(data.glob("*.parquet"))
    if not shards:
        raise KdlibError(f"There are no Parquet files in {DATA}/ of --data, else $KDLIB_DATA.")
    images, brought = tarred(shards), record_files(args.plan)
    say(f"{sum(file.suffix == '.json' for file in brought)} records of the plan go along")
    packed = tarred(brought)
    half = (len(images) + len(packed)) // 2
    carried = {
        args.to / "1": {f"{DATA}.tar.0": images[:half]},
        args.to / "2": {
            f"{DATA}.tar.1": images[half:],
            "records.tar": packed,
            "commit": git_sha().encode(),
        },
    }
    # what always travels: tracked files and those that git does not ignore, without records
    command = ["git", "ls-files", "-co", "--exclude-standard", ":!data/records"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    tree = sum((ROOT / name).stat().st_size for name in listed if (ROOT / name).is_file())
    for folder, files in carried.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        size = sum(map(len, files.values()))
        sizes = (
            f"{size / MIB:.1f} MiB, with the tree without data/records {(size + tree) / MIB:.1f}"
        )
        say(f"{folder}: {sizes} of {CARRIED / MIB:.0f} MiB")
        if size + tree > CARRIED:
            raise KdlibError(f"{folder} is too large to be carried.")


# ---------------------------------------------------------------- there


def store(args):
    """Keep what was carried in the machine folder."""
    if args.carry:
        shutil.copytree(args.carry, args.machine / "parts", dirs_exist_ok=True)


def first(args):
    """Keep the first part, if it is carried; checks, then speeds."""
    store(args)
    return int(not checks.measure(args.device, args.out / "speeds.json", args.quick))


def second(args):
    """Join the parts and do the plan until time is up, with what is done in the out folder.

    Without --carry it goes on where the last one stopped, on the same machine."""
    end = time.monotonic() + args.seconds
    store(args)
    parts = args.machine / "parts"
    extract(images_of(parts), args.machine / "data" / DATA)
    os.environ |= {
        "KDLIB_DATA": str(args.machine / "data"),
        "KDLIB_RECORDS": str(args.machine / "records"),
        "KDLIB_CACHE": str(args.machine / "cache"),
        "KDLIB_GIT": (parts / "commit").read_text(),
    }
    # what was done here stays as it is
    extract((parts / "records.tar").read_bytes(), records.folder(), "--skip-old-files")
    brought = {path.stem for path in records.paths()}
    say(f"records brought along: {len(brought)}")
    log = records.folder() / "runs.log"

    def save():
        count = save_results(args.plan, args.out, brought)
        if log.exists():
            shutil.copyfile(log, args.out / "runs.log")
        return count

    for graphs in dict.fromkeys((os.environ.get("KDLIB_GRAPHS", "1"), "0")):
        left = end - time.monotonic() - SPARE
        words = f"--seconds {left:.0f} --device {args.device} --jobs {args.jobs}".split()
        command = [sys.executable, "-m", "bench", "visit", "studies", *words, "--plan", *args.plan]
        os.environ["KDLIB_GRAPHS"] = graphs
        status = watched(command, left + SPARE / 2, log, save)
        if status == 0 or end - time.monotonic() < 2 * SPARE:
            break
        say("The studies died or hang: again, one kernel at a time, one process for each run.")
    say(f"{save()} files of new records in {args.out}")
    return int(status != 0)


def images_of(parts):
    """The tar file of the images. KdlibError if a part is missing."""
    files = [parts / f"{DATA}.tar.{k}" for k in range(2)]
    for k, file in enumerate(files):
        if not file.exists():
            raise KdlibError(
                f"Part {k + 1} of the images is not in {parts.parent}: this is another machine "
                "than before; carry that part and run `python -m bench visit store` first."
            )
    return b"".join(file.read_bytes() for file in files)


def extract(content, folder, *how):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", folder, *how], input=content, check=True)


def studies(args):
    """Do the items of the plan in turn, in the time that is left. Runs that fail stop no others."""
    end = time.monotonic() + args.seconds
    for item in args.plan:
        wanted, left = configs(item), max(0.0, end - time.monotonic())
        try:
            sweep(wanted, device=args.device, jobs=args.jobs, budget=left)
        except KdlibError as error:
            say(f"{item}: {error}")
        say(f"{item}: {len(wanted) - len(missing(wanted))} of {len(wanted)} runs on record")


def save_results(plan, out, brought):
    """Write records that were not brought along as pieces of a tar file: how many files.

    Its members are in the order in which the runs ended, so a later tar file begins like the one
    before it: pieces that are full stay as they are, and a kill between two of them costs only what
    the second would have added. The pieces are results.tar.0 and so on."""
    files = record_files(plan, brought)
    content = tarred(files)
    for k, start in enumerate(range(0, len(content), PIECE)):
        piece, file = content[start : start + PIECE], out / f"results.tar.{k}"
        if not (file.exists() and file.read_bytes() == piece):
            write_whole(file, piece)
    return len(files)


def watched(command, seconds, log, save):
    """Exit status of a child; None if it was ended: time was up, or `log` has not grown."""
    started = saved = heard = time.monotonic()
    size = None
    child = subprocess.Popen(command, process_group=0)
    try:
        while (status := child.poll()) is None:
            time.sleep(0.2)
            now, before = time.monotonic(), size
            size = log.stat().st_size if log.exists() else None
            if size != before:
                heard = now
            if now - started > seconds or now - heard > SILENCE:
                say(f"The studies were ended after {now - started:.0f} s: out of time, or silent.")
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
    commands = {command.__name__: command for command in (pack, store, first, second, studies)}
    parser = argparse.ArgumentParser(prog="python -m bench visit", description=__doc__)
    add = parser.add_argument
    add("command", choices=commands, help="GPU.md says what each of them needs")
    add("--plan", nargs="+", default=PLAN, metavar="STUDY[:SEEDS]", help=f"default: {PLAN}")
    add("--data", metavar="DIR", help="of pack; default: $KDLIB_DATA, else data/")
    add("--to", type=Path, default=".carry", metavar="DIR", help="of pack; default: .carry")
    add("--carry", type=Path, metavar="DIR", help="what was carried")
    add("--machine", type=Path, default="/tmp/kdlib", metavar="DIR", help="outlives a command")
    add("--out", type=Path, default=".", metavar="DIR", help="what comes back")
    add("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
    add("--quick", action="store_true", help="of first: few images; the numbers mean nothing")
    add("--seconds", type=float, default=585, help="of all that second does; default: 585")
    add("--jobs", type=int, default=JOBS, help=f"runs side by side; default: {JOBS}")
    args = parser.parse_args(arguments)
    return commands[args.command](args)
