"""A visit to a borrowed GPU of a quarter of an hour: what is carried, and two commands there. Its page is GPU.md.

What outlives a command lies in the machine folder, outside the tree, because each transfer lays the tree anew. What may
hang runs in a child that is watched."""

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

from kdlib import parcel, records
from kdlib.config import KdlibError
from kdlib.experiment import git_sha
from kdlib.studies import study
from kdlib.sweep import missing, sweep

MIB = 2**20
CARRIED = 64 * MIB   # in one call, the tree included
PIECE = 15 * MIB     # of the results; a file of at most 16 MiB comes back
SILENCE = 90         # seconds without a line in runs.log: the studies hang
EVERY = 30           # seconds between two savings of the results
CHECKS = 0.4         # of the time of the first command, for the equivalence checks
# first pairs, two seeds at a time: the steps of a teacher alone would leave half of the GPU idle
PLAN = ("anchors-lt", "cifar100-lt:2", "cifar100-lt:4", "cifar100-lt:6", "cifar100-lt:8")
DATA = "cifar100"


def configs(item):
    """The Configs of an item of a plan: STUDY, or STUDY:SEEDS for those of its first pair and first seeds."""
    name, _, seeds = item.partition(":")
    chosen = study(name)
    return replace(chosen, pairs=chosen.pairs[:1])(int(seeds)) if seeds else chosen()


# ---------------------------------------------------------------- at home

def pack(args):
    """Make the two folders to carry: halves of the images, and the records that are there. Prints their MiB."""
    shards = sorted((Path(args.data or os.environ.get("KDLIB_DATA", "data")) / DATA).glob("*.parquet"))
    if not shards:
        raise KdlibError(f"There are no Parquet files in {DATA}/ of --data, else $KDLIB_DATA: they are what is carried.")
    folders = [args.to / "1", args.to / "2"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    images = _tar(shards)
    half = len(images) // 2
    (folders[0] / f"{DATA}.tar.0").write_bytes(images[:half])
    (folders[1] / f"{DATA}.tar.1").write_bytes(images[half:])
    (folders[1] / "records.tar").write_bytes(_tar(_files(args.plan, records.folder())))
    (folders[1] / "commit").write_text(git_sha())
    tree = _tree_bytes()
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / MIB:.1f} MiB, with the tree without data/records {(size + tree) / MIB:.1f} of "
              f"{CARRIED / MIB:.0f} MiB")
        if size + tree > CARRIED:
            raise KdlibError(f"{folder} is too large to be carried.")


def _tar(files):
    content = io.BytesIO()
    parcel.write_tar(files, content)
    return content.getvalue()


def _files(plan, folder, besides=()):
    """Files of the records of a plan, in the order in which they were done, with the weights of teachers alone."""
    planned = [cfg for item in plan for cfg in configs(item)]
    teachers = {d.key() for cfg in planned for d in cfg.dependencies()}
    done = [folder / f"{key}.json" for key in dict.fromkeys(cfg.key() for cfg in planned) if key not in besides]
    done = sorted((path for path in done if path.exists()), key=lambda path: path.stat().st_mtime_ns)
    files = [path.with_suffix(suffix) for path in done for suffix in parcel.SUFFIXES
             if suffix != ".pt" or path.stem in teachers]
    return [file for file in files if file.exists()]


def _tree_bytes():
    """What travels in any case: tracked files and those that git does not ignore, without the records."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=records.ROOT, capture_output=True,
                            text=True, check=True).stdout.splitlines()
    files = [records.ROOT / name for name in listed if not name.startswith("data/records/")]
    return sum(file.stat().st_size for file in files if file.is_file())


# ---------------------------------------------------------------- there

def store(args):
    """Keep what was carried in the machine folder."""
    shutil.copytree(args.carry, args.machine / "parts", dirs_exist_ok=True)


def first(args):
    """Keep the first part; equivalence checks; speeds. What is chosen is kept for the second command."""
    end = time.monotonic() + args.seconds
    store(args)
    chosen = {"KDLIB_GRAPHS": "1", "KDLIB_BATCH_NORM": "cudnn"}
    checks = _bench(args, ["E"], "checks", CHECKS * args.seconds, chosen)
    if not _captured(checks):
        print("Captured steps fail or hang here: from now on one kernel at a time, one process for each run.", flush=True)
        chosen["KDLIB_GRAPHS"] = "0"
        checks = _bench(args, ["E"], "checks-eager", CHECKS * args.seconds, chosen)
    _keep(args, chosen)
    speeds = _bench(args, ["norm", "pace", "G4"], "speeds", end - time.monotonic(), chosen)
    if "pace" not in speeds and chosen["KDLIB_GRAPHS"] == "1":
        chosen["KDLIB_GRAPHS"] = "0"   # the checks passed, but something hung or died under load
    chosen["KDLIB_BATCH_NORM"] = speeds.get("norm", {}).get("faster", "cudnn")
    _keep(args, chosen)
    print(table(checks, speeds, chosen), flush=True)
    return int(not _passed(checks))


def _bench(args, sections, name, seconds, environment):
    """What `bench gpu` wrote about some sections until it ended or was ended; {} if nothing."""
    out = args.out / f"{name}.json"
    small = ["--train", "8", "--test", "16"] if args.quick else []
    words = ["gpu", *sections, "--random", "--device", args.device, "--minutes", f"{seconds / 60:.2f}", *small, "--out", out]
    _watched([sys.executable, "-m", "bench", *map(str, words)], seconds, environment)
    return json.loads(out.read_text()) if out.exists() else {}


def _passed(checks):
    return bool(checks.get("E")) and all(c["passed"] for c in checks["E"].values() if isinstance(c, dict))


def _captured(checks):
    """Whether captured steps train as they should; False if that never came out. Last bits do not decide: they are said."""
    needed = ("captured_is_the_plain_loop", "rate_zero_freezes", "every_image_is_seen")
    return all(checks.get("E", {}).get(name, {}).get("passed") for name in needed)


def _keep(args, chosen):
    (args.machine / "chosen.json").write_text(json.dumps(chosen))


def table(checks, speeds, chosen):
    """Markdown: the checks in a line, then images/s."""
    found = {name: c for name, c in checks.get("E", {}).items() if isinstance(c, dict)}
    failed = [name for name, c in found.items() if not c["passed"]]
    lines = [f"{speeds.get('device', 'no GPU')}: {len(found) - len(failed)} of {len(found)} checks passed"
             f"{''.join(f', {name} failed' for name in failed)}; steps "
             f"{'captured' if chosen['KDLIB_GRAPHS'] == '1' else 'one kernel at a time'}, batch norm {chosen['KDLIB_BATCH_NORM']}.",
             "", "| network | runs at once | images/s |", "|---|---|---|"]
    for network, rates in speeds.get("pace", {}).get("images/s", {}).items():
        lines += [f"| {network} | {runs} | {rate:,.0f} |" for runs, rate in rates.items()]
    for norm, rate in speeds.get("norm", {}).get("images/s", {}).items():
        lines.append(f"| {speeds['norm']['network']}, batch norm {norm} | 8 | {rate:,.0f} |")
    return "\n".join(lines)


def second(args):
    """Join the parts and do the plan until time is up; what is done lies in the out folder every half minute."""
    end = time.monotonic() + args.seconds
    store(args)
    chosen = {"KDLIB_GRAPHS": "1", "KDLIB_BATCH_NORM": "cudnn"}
    if (args.machine / "chosen.json").exists():
        chosen = json.loads((args.machine / "chosen.json").read_text())
    os.environ |= {"KDLIB_DATA": str(args.machine / "data"), "KDLIB_RECORDS": str(args.machine / "records"),
                   "KDLIB_CACHE": str(args.machine / "cache"), "KDLIB_GIT": (args.machine / "parts/commit").read_text()}
    unpack(args.machine)
    print(f"records brought along: {parcel.take_records(args.machine / 'parts' / 'records.tar').taken}", flush=True)
    brought = {path.stem for path in records.folder().glob("*.json")}
    log = records.folder() / "runs.log"

    def save():
        count = save_results(args.plan, args.out, brought)
        if log.exists():
            shutil.copyfile(log, args.out / "runs.log")
        return count

    for graphs in dict.fromkeys((chosen["KDLIB_GRAPHS"], "0")):   # once more without graphs if it dies or hangs
        left = end - time.monotonic() - args.spare
        words = ["visit", "studies", "--seconds", f"{left:.0f}", "--device", args.device, "--plan", *args.plan]
        status = _watched([sys.executable, "-m", "bench", *words], left + args.spare / 2, {**chosen, "KDLIB_GRAPHS": graphs},
                          log, save)
        if status == 0 or end - time.monotonic() < 2 * args.spare:
            break
    print(f"{save()} files of new records in {args.out}", flush=True)
    return int(status != 0)


def unpack(machine):
    """The images in data/ of the machine folder. KdlibError if a part is missing."""
    parts = [machine / "parts" / f"{DATA}.tar.{k}" for k in range(2)]
    for k, part in enumerate(parts):
        if not part.exists():
            raise KdlibError(f"Part {k + 1} of the images is not in {machine}: this is another machine than before; carry "
                             f"that part and run `python -m bench visit store` first.")
    content = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=content) as tar:
        tar.extractall(machine / "data" / DATA, filter="data")


def studies(args):
    """Do the items of the plan in turn, in the time that is left. A run that fails is said and stops nothing."""
    end = time.monotonic() + args.seconds
    for item in args.plan:
        wanted = configs(item)
        try:
            sweep(wanted, device=args.device, budget=max(0.0, end - time.monotonic()))
        except KdlibError as error:
            print(f"{item}: {error}", flush=True)
        print(f"{item}: {len(wanted) - len(missing(wanted))} of {len(wanted)} runs are on record", flush=True)


def save_results(plan, out, brought):
    """Write the records that were not brought along as pieces of one tar file, results.tar.0 and so on: how many files.

    Its members are in the order in which the runs ended, so a later tar file begins like the one before it: pieces that are
    full stay as they are, and a kill between two pieces costs only what the second would have added."""
    files = _files(plan, records.folder(), brought)
    content = _tar(files)
    for k, start in enumerate(range(0, len(content), PIECE)):
        piece, file = content[start:start + PIECE], out / f"results.tar.{k}"
        if not (file.exists() and file.read_bytes() == piece):
            with records.whole_file(file) as temporary:
                temporary.write_bytes(piece)
    return len(files)


def _watched(command, seconds, environment, log=None, save=lambda: None):
    """Exit status of a child; None if it was ended, because time was up or `log` has not grown for long."""
    started = saved = time.time()
    child = subprocess.Popen(command, env={**os.environ, **environment}, process_group=0)
    try:
        while (status := child.poll()) is None:
            time.sleep(0.2)
            now = time.time()
            heard = max(started, log.stat().st_mtime if log and log.exists() else now if not log else 0)
            if now - started > seconds or now - heard > SILENCE:
                why = "its time is up" if now - started > seconds else f"nothing was heard of it for {SILENCE} s"
                print(f"ended {' '.join(command[1:5])}: {why}", flush=True)
                return None
            if now - saved > EVERY:
                save()
                saved = now
        return status
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)   # its own processes too
            child.wait()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench visit", description=__doc__.partition("\n")[0])
    subs = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (pack, store, first, second, studies):
        sub = subs.add_parser(command.__name__, help=command.__doc__.partition("\n")[0])
        sub.set_defaults(command=command)
        sub.add_argument("--plan", nargs="+", default=PLAN, metavar="STUDY[:SEEDS]", help=f"default: {' '.join(PLAN)}")
        if command is pack:
            sub.add_argument("--data", metavar="DIR", help="default: $KDLIB_DATA, else data/")
            sub.add_argument("--to", type=Path, default=Path(".carry"), metavar="DIR", help="default: .carry")
            continue
        sub.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
        sub.add_argument("--seconds", type=float, default={first: 190, second: 525}.get(command), help="of all it does")
        sub.add_argument("--spare", type=float, default=15, help="seconds kept for the last saving")
        sub.add_argument("--quick", action="store_true", help="few images; the numbers mean nothing")
        for name in () if command is studies else ("carry", "machine", "out"):
            sub.add_argument(f"--{name}", type=Path, required=command is not store or name != "out", metavar="DIR")
    args = parser.parse_args(arguments)
    return args.command(args)
