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
from kdlib import parcel, records
from kdlib.config import KdlibError
from kdlib.experiment import git_sha
from kdlib.studies import study
from kdlib.sweep import missing, sweep

MIB = 2**20
CARRIED = 64 * MIB  # in one call, the tree included
PIECE = 15 * MIB  # of the results; a file of at most 16 MiB comes back
SILENCE = 90  # seconds without a line in runs.log: the studies hang
EVERY = 30  # seconds between two savings of the results
SHARE = 0.4  # of the time of the first command, for the checks
# first pairs, two seeds at a time: the steps of a teacher alone would leave half of the GPU idle
PLAN = ("anchors-lt", "cifar100-lt:2", "cifar100-lt:4", "cifar100-lt:6", "cifar100-lt:8")
DATA = "cifar100"
BENCH = (sys.executable, "-m", "bench")
USUAL = {"KDLIB_GRAPHS": "1", "KDLIB_BATCH_NORM": "cudnn"}  # until the first command knows better


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
    content = io.BytesIO()
    parcel.write_tar(files, content)
    return content.getvalue()


def _files(plan, folder, besides=()):
    """Files of the records of a plan, in the order they were done; weights of teachers alone."""
    planned = [cfg for item in plan for cfg in configs(item)]
    teachers = {d.key() for cfg in planned for d in cfg.dependencies()}
    wanted = {cfg.key() for cfg in planned} - set(besides)
    done = [path for path in folder.glob("*.json") if path.stem in wanted]
    files = []
    for path in sorted(done, key=lambda path: path.stat().st_mtime_ns):
        for suffix in parcel.SUFFIXES:
            file = path.with_suffix(suffix)
            if file.exists() and (suffix != ".pt" or path.stem in teachers):
                files.append(file)
    return files


def _tree_bytes():
    """What always travels: tracked files and those that git does not ignore, without records."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=records.ROOT, text=True).splitlines()
    files = [records.ROOT / name for name in listed if not name.startswith("data/records/")]
    return sum(file.stat().st_size for file in files if file.is_file())


# ---------------------------------------------------------------- there


def store(args):
    """Keep what was carried in the machine folder."""
    shutil.copytree(args.carry, args.machine / "parts", dirs_exist_ok=True)


def first(args):
    """Keep the first part; checks, then speeds. What is chosen is kept for the second command."""
    end = time.monotonic() + args.seconds
    store(args)
    chosen = USUAL | _by_hand()
    checks = _bench(args, ["E"], "checks", SHARE * args.seconds, chosen)
    if not _captured(checks):
        say("Captured steps fail or hang here: now one kernel at a time, one process for each run.")
        chosen["KDLIB_GRAPHS"] = "0"
        checks = _bench(args, ["E"], "checks-eager", SHARE * args.seconds, chosen)
    _keep(args, chosen)
    speeds = _bench(args, ["norm", "pace", "G4"], "speeds", end - time.monotonic(), chosen)
    if "pace" not in speeds and chosen["KDLIB_GRAPHS"] == "1":
        chosen["KDLIB_GRAPHS"] = "0"  # the checks passed, but something hung or died under load
    chosen["KDLIB_BATCH_NORM"] = speeds.get("norm", {}).get("faster", "cudnn")
    _keep(args, chosen)
    say(table(checks, speeds, chosen))
    return int(not _passed(checks))


def _bench(args, sections, name, seconds, environment):
    """What `bench gpu` wrote about some sections until it ended or was ended; {} if nothing."""
    out = args.out / f"{name}.json"
    small = ["--train", "8", "--test", "16"] if args.quick else []
    how = f"--random --device {args.device} --minutes {seconds / 60:.2f}".split()
    _watched(["gpu", *sections, *how, *small, "--out", str(out)], seconds, environment)
    return json.loads(out.read_text()) if out.exists() else {}


def _passed(checks):
    """Whether every check ended, and well."""
    return all(checks.get("E", {}).get(c.__name__, {}).get("passed") for c in CHECKS)


def _captured(checks):
    """Whether captured steps train as they should; False if that never came out.

    Checks bit for bit do not decide: what differs in last bits is printed, and used."""
    needed = ("captured_is_the_plain_loop", "rate_zero_freezes", "every_image_is_seen")
    return all(checks.get("E", {}).get(name, {}).get("passed") for name in needed)


def _by_hand():
    """What is set outside wins."""
    return {name: os.environ[name] for name in USUAL if name in os.environ}


def _keep(args, chosen):
    (args.machine / "chosen.json").write_text(json.dumps(chosen))


def table(checks, speeds, chosen):
    """Markdown: the checks in a line, then images/s."""
    said = {c.__name__: checks.get("E", {}).get(c.__name__) for c in CHECKS}
    bad = [f", {name} failed" for name, c in said.items() if c and not c["passed"]]
    bad += [f", {name} did not end" for name, c in said.items() if not c]
    steps = "captured" if chosen["KDLIB_GRAPHS"] == "1" else "one kernel at a time"
    lines = [
        f"{speeds.get('device', 'no GPU')}: {len(CHECKS) - len(bad)} of {len(CHECKS)} checks passed"
        f"{''.join(bad)}; steps {steps}, batch norm {chosen['KDLIB_BATCH_NORM']}.",
        "",
        "| network | runs at once | images/s |",
        "|---|---|---|",
    ]
    for network, rates in speeds.get("pace", {}).get("images/s", {}).items():
        lines += [f"| {network} | {runs} | {rate:,.0f} |" for runs, rate in rates.items()]
    for norm, rate in speeds.get("norm", {}).get("images/s", {}).items():
        lines.append(f"| {speeds['norm']['network']}, batch norm {norm} | 8 | {rate:,.0f} |")
    return "\n".join(lines)


def second(args):
    """Join the parts and do the plan until time is up, with what is done in the out folder."""
    end = time.monotonic() + args.seconds
    store(args)
    file = args.machine / "chosen.json"
    chosen = (json.loads(file.read_text()) if file.exists() else USUAL) | _by_hand()
    os.environ |= {
        "KDLIB_DATA": str(args.machine / "data"),
        "KDLIB_RECORDS": str(args.machine / "records"),
        "KDLIB_CACHE": str(args.machine / "cache"),
        "KDLIB_GIT": (args.machine / "parts/commit").read_text(),
    }
    unpack(args.machine)
    taken = parcel.take_records(args.machine / "parts" / "records.tar").taken
    say(f"records brought along: {taken}")
    brought = {path.stem for path in records.folder().glob("*.json")}
    log = records.folder() / "runs.log"

    def save():
        count = save_results(args.plan, args.out, brought)
        if log.exists():
            shutil.copyfile(log, args.out / "runs.log")
        return count

    for graphs in dict.fromkeys((chosen["KDLIB_GRAPHS"], "0")):  # eager if it dies or hangs
        left, how = end - time.monotonic() - args.spare, {**chosen, "KDLIB_GRAPHS": graphs}
        words = f"visit studies --seconds {left:.0f} --device {args.device} --plan".split()
        status = _watched([*words, *args.plan], left + args.spare / 2, how, log, save)
        if status == 0 or end - time.monotonic() < 2 * args.spare:
            break
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


def studies(args):
    """Do the items of the plan in turn, in the time that is left. Runs that fail stop no others."""
    end = time.monotonic() + args.seconds
    for item in args.plan:
        wanted = configs(item)
        try:
            sweep(wanted, device=args.device, budget=max(0.0, end - time.monotonic()))
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
            with records.whole_file(file) as temporary:
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
            add("--carry", type=Path, required=True, metavar="DIR")
            add("--machine", type=Path, required=True, metavar="DIR", help="outlives a command")
            add("--out", type=Path, required=command is not store, metavar="DIR", help="comes back")
        seconds = {first: 190, second: 525}.get(command, 0)
        add("--seconds", type=float, default=seconds, help=f"of all it does; default: {seconds}")
        add("--spare", type=float, default=15, help="seconds of them kept for the last saving")
        add("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
        add("--quick", action="store_true", help="few images; the numbers mean nothing")
    args = parser.parse_args(arguments)
    return args.command(args)
