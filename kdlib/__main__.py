"""The command line: python -m kdlib run | report | status | data | doctor. It imports torch only where it must."""

import argparse
import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from kdlib import __version__
from kdlib.config import KdlibError, did_you_mean
from kdlib.studies import STUDIES, study

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, README = ROOT / "notebooks", ROOT / "README.md"
ANSWER = re.compile(r"(?<=<!-- answer:start -->\n).*?(?=<!-- answer:end -->)", re.S)
ASK_ABOVE = 600   # seconds of work that are not started without a yes
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
NEEDED = ("torch", "numpy", "scikit-learn", "tqdm")   # by a run of digits
ALSO_USED = ("torchvision", "pandas", "scipy", "matplotlib", "papermill", "nbconvert")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(args):
    """Do the runs of a study that have no record; 1 if the user, asked, declined."""
    start, planned = time.monotonic(), study(args.study).seeds
    if args.seeds and args.seeds > planned:
        raise KdlibError(f"--seeds {args.seeds}: study {args.study} has {planned} planned seeds; allowed: 1 to {planned}.")
    configs = study(args.study)(args.seeds)
    with _resumable(configs):
        from kdlib import sweep
        todo, device, jobs = sweep.missing(configs), args.device, args.jobs
        print(f"{args.study}: {len(configs)} runs, {len(configs) - len(todo)} of them on record", flush=True)
        if todo:
            device, jobs = _workers(device, jobs, len(todo))
            seconds = sum(sweep.estimate(todo, args.data, device)) / jobs
            print(f"{len(todo)} to do: about {_words(seconds)} here ({device}, {jobs} at a time)", flush=True)
            if seconds > ASK_ABOVE and not (args.yes or args.budget or _agreed(seconds)):
                return 1
        sweep.sweep(configs, args.data, device, jobs, args.budget and args.budget - (time.monotonic() - start))
        left = len(sweep.missing(configs))
    print(f"{len(configs) - left} of {len(configs)} runs are on record"
          + ("; time is up, and the same command goes on with the rest" if left else ""))
    return 0


@contextlib.contextmanager
def _resumable(configs):
    """An interrupt in the block carries how many runs are on record."""
    try:
        yield
    except KeyboardInterrupt:
        from kdlib.records import exists
        done = sum(map(exists, configs))
        raise KeyboardInterrupt(f"{done} of {len(configs)} runs are on record") from None


def _workers(device, jobs, todo):
    """(device, number of runs at a time), as asked for or as sweep would choose."""
    import torch

    from kdlib.experiment import default_device
    if device == "cuda" and (reason := _no_gpu()):
        raise KdlibError(f"--device cuda: torch cannot use a GPU here ({reason}); leave it out to use the CPU.")
    device = device or default_device()
    if device == "cpu":
        torch.set_num_threads(1)   # as in the processes of a sweep, whose time is to be estimated
    return device, min(jobs or (len(os.sched_getaffinity(0)) if device == "cpu" else 1), todo)


def _agreed(seconds):
    if not sys.stdin.isatty():
        raise KdlibError(f"this would take about {_words(seconds)} and was not started; --yes starts it, and "
                         "--budget 9m does what fits into nine minutes.")
    print("Start? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def report(args):
    """Build the pages of studies, digits trained first if need be; 1 if a page failed."""
    from kdlib import findings, sweep
    if args.readme:
        return _write_readme(findings.readme_answer())
    planned = {name: study(name).seeds for name in args.studies or STUDIES}
    wanted = {name: min(args.seeds or n, n) for name, n in planned.items()}
    if "digits" in wanted:
        configs = study("digits")(wanted["digits"])
        with _resumable(configs):
            if todo := sweep.missing(configs):
                print(f"digits: {len(todo)} of {len(configs)} runs have no record and are done first", flush=True)
                sweep.sweep(configs)
    seeds = {name: min(n, findings.complete_seeds(name)) for name, n in wanted.items()}
    if not args.studies:
        seeds = {name: n for name, n in seeds.items() if n}
    cards = {name: findings.verdicts(name, n) for name, n in seeds.items()}   # refuses a study without a seed
    sources = {name: _sources(name, n) for name, n in seeds.items()}
    from kdlib.report import build
    pages = build({name: {"seeds": n} for name, n in seeds.items()}, args.out, NOTEBOOKS,
                  inputs={name: source["records sha256"] for name, source in sources.items()}, provenance=sources,
                  verdicts=cards, say=print if sys.stdout.isatty() else lambda line: None)
    for name, found in list(cards.items())[:4]:
        words = ", ".join(f"{c['finding']} {c['verdict']}" for c in found if c["pair"] == found[0]["pair"])
        print(f"{name} ({found[0]['pair']}, {seeds[name]} of {planned[name]} seeds): {words}")
    print(Path(args.out).resolve() / "index.html")
    failed = [page for page in pages if page.status == "failed"]
    for page in failed:
        print(f"kdlib: {page.html} failed: {page.message}", file=sys.stderr)
    return 1 if failed else 0


def _sources(name, seeds):
    """Provenance of the pages of a study: {label: value}."""
    from kdlib import records
    from kdlib.experiment import git_sha
    commit, configs, digest = git_sha(), study(name)(seeds), hashlib.sha256()
    facts = [records.read(cfg).facts for cfg in configs]
    for cfg in configs:
        digest.update(cfg.key().encode() + (records.folder() / f"{cfg.key()}.json").read_bytes())
    return {"commit": commit.rstrip("+"), "uncommitted changes": "yes" if commit.endswith("+") else "no",
            "commit of the runs": sorted({f["git"] for f in facts}),
            "command": f"python -m kdlib report {name} --seeds {seeds}",
            "records sha256": digest.hexdigest(), "data sha256": sorted({f["data_sha256"] for f in facts}),
            "seeds": f"{seeds} of {study(name).seeds} planned",
            "versions": sorted({f"{of} {version}" for f in facts for of, version in f["versions"].items()}),
            "hardware": sorted({f["device"] for f in facts}), "number of runs": len(configs),
            "wall time of the runs": _words(sum(f["seconds"] for f in facts))}


def _write_readme(answer):
    from kdlib.records import whole_file
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    if len(ANSWER.findall(text)) != 1:
        raise KdlibError(f"{README}: needs one line `<!-- answer:start -->` and after it `<!-- answer:end -->`.")
    with whole_file(README) as temporary:
        temporary.write_text(ANSWER.sub(lambda _: answer.rstrip() + "\n", text), encoding="utf-8")
    return 0


def status(args):
    """What is on record, from the names of files alone."""
    from kdlib.findings import complete_seeds
    from kdlib.records import exists, folder
    for name in [study(name).name for name in args.studies or STUDIES]:
        configs, planned = study(name)(), study(name).seeds
        print(f"{name}: {sum(map(exists, configs))} of {len(configs)} runs on record in {folder()}, "
              f"{complete_seeds(name)} of {planned} seeds complete")
    return 0


def data(args):
    """Say where data sets are, or fetch one."""
    from kdlib import readers
    if args.action:
        print(readers.download(args.name, args.to or os.environ.get("KDLIB_DATA") or readers.DATA, args.url))
    else:
        print("\n".join(_data_found()))
    return 0


def _data_found():
    from kdlib import readers
    cache = Path(os.environ.get("KDLIB_CACHE") or readers.DATA / "cache")
    yield "digits: comes with scikit-learn"
    for name in readers.DATASETS:   # load_images takes the cache unless a folder was named
        cached = [] if os.environ.get("KDLIB_DATA") else list(cache.glob(f"{name}-*.npy"))
        try:
            yield "{}: {} in {}".format(name, *readers.find(name))
        except readers.DataError as error:
            yield f"{name}: decoded in {cached[0]}" if cached else str(error)


def doctor(args):
    """Print what is here; 1 if something stops digits from running."""
    from kdlib.records import folder
    lines, wrong = [f"kdlib {__version__}, python {sys.version.split()[0]} in {sys.prefix}"], []
    for name in (*NEEDED, *ALSO_USED):
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            (wrong if name in NEEDED else lines).append(f"{name} is missing: `make setup` installs it")
    try:
        lines.append("GPU: {0}{1}".format(*_gpu()))
    except (ImportError, OSError) as error:
        wrong.append(f"torch cannot be imported ({error}): `make setup` installs one that can")
    here = next(p for p in (folder().absolute(), *folder().absolute().parents) if p.exists())
    free, memory = shutil.disk_usage(here).free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines.append(f"{len(os.sched_getaffinity(0))} CPU cores, {memory / 1e9:.1f} GB of memory, "
                 f"{free / 1e9:.1f} GB of disk free")
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(1 << 20))
        lines.append(f"records: {folder()} can be written")
    except OSError as error:
        wrong.append(f"records: {here} cannot be written ({error.strerror}): set KDLIB_RECORDS to a folder that can")
    print("\n".join([*lines, *_data_found(), *(f"WRONG: {line}" for line in wrong)]))
    return 1 if wrong else 0


def _gpu():
    """(GPU that torch can use and its driver, "") or ("", why it can use none)."""
    import torch
    version = Path("/proc/driver/nvidia/version")
    driver = version.read_text().splitlines()[0] if version.exists() else "no NVIDIA driver found"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {driver}", ""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:   # a build of torch without CUDA is an AssertionError
        return "", f"none that torch {torch.__version__} can use ({str(error).splitlines()[0]}; {driver})"
    return "", f"none that torch can see ({driver}; see CUDA_VISIBLE_DEVICES)"


# ---------------------------------------------------------------- parsing

class _Parser(argparse.ArgumentParser):
    """Errors are KdlibErrors: one sentence, like all others."""

    def error(self, message):
        raise KdlibError(f"{message}; see: {self.prog} --help")


def _duration(text):
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; allowed: 90s, 9m, 2h, or seconds as in 540")
    return float(found[1]) * UNITS[found[2]]


def _count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _words(seconds):
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 120 else f"{seconds:.0f} s"


def _parser():
    parser = _Parser(prog="python -m kdlib", description=(__import__("kdlib").__doc__), allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kdlib {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    said = {}
    for command in (run, report, status, data, doctor):
        about = command.__doc__.split(";")[0].rstrip(".")
        said[command] = commands.add_parser(command.__name__, help=about, description=about, allow_abbrev=False)
        said[command].set_defaults(function=command, parser=said[command])
    for command in (report, status):
        said[command].add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    said[run].add_argument("study", metavar="STUDY", help=f"one of {', '.join(STUDIES)}")
    for command in (run, report):
        said[command].add_argument("--seeds", type=_count, metavar="N", help="the first N; default: all planned")
    option = said[run].add_argument
    option("--budget", type=_duration, metavar="TIME", help="start nothing that would not end in time: 90s, 9m, 2h")
    option("--device", choices=("cpu", "cuda"), help="default: cuda where torch can use it")
    option("--jobs", type=_count, metavar="N", help="runs at a time; default: the CPU cores, or 1 on a GPU")
    option("--data", metavar="DIR", help="default: $KDLIB_DATA, else data/")
    option("--yes", action="store_true", help="start also what takes longer than ten minutes")
    said[report].add_argument("--out", default="reports", metavar="DIR", help="default: reports")
    said[report].add_argument("--readme", action="store_true", help="only write the answer into README.md")
    option = said[data].add_argument
    option("action", nargs="?", choices=("get",), help="fetch the data set NAME")
    option("name", nargs="?", default="", metavar="NAME")
    option("--to", metavar="DIR", help="default: $KDLIB_DATA, else data/")
    option("--url", help="a mirror of the archive")
    return parser, said
