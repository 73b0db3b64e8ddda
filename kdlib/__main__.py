"""The command line: python -m kdlib run | report | audit | status | data | records | doctor. Imports torch only if needed."""

import argparse
import errno
import hashlib
import os
import re
import sys
import time
from importlib import metadata
from pathlib import Path

from kdlib import __version__
from kdlib.config import KdlibError, did_you_mean
from kdlib.studies import KINDS, STUDIES, Study, study

NOTEBOOKS, README = (Path(__file__).resolve().parents[1] / name for name in ("notebooks", "README.md"))
DATA_FROM = {   # source of each data set
    "digits": "digits (Alpaydin and Kaynak 1998, from scikit-learn)", "cifar10": "CIFAR-10 (Krizhevsky 2009)",
    **dict.fromkeys(("cifar100", "cifar20", "superclass"), "CIFAR-100 (Krizhevsky 2009)")}
ASK_ABOVE = 600   # seconds of work that are not started without a yes
NEEDED = ("torch", "numpy", "scikit-learn", "tqdm")   # by a run of digits
ALSO_USED = ("torchvision", "pandas", "scipy", "matplotlib", "papermill", "nbconvert")
NOT_A_BUG = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(args):
    """Do the runs of a study that have no record; exit code 1 if you decline."""
    start, planned = time.monotonic(), study(args.study).seeds
    if args.seeds and args.seeds > planned:
        raise KdlibError(f"--seeds {args.seeds}: study {args.study} has {planned} planned seeds.")
    configs = args.configs = study(args.study)(args.seeds)
    import torch

    from kdlib import sweep
    from kdlib.experiment import default_device
    if args.device == "cuda" and not torch.cuda.is_available():
        raise KdlibError("--device cuda: torch cannot use a GPU here; `python -m kdlib doctor` says why.")
    todo, device = sweep.missing(configs), args.device or default_device()
    jobs = args.jobs or sweep.default_jobs(device)
    print(f"{args.study}: {len(configs)} runs, {len(configs) - len(todo)} of them on record", flush=True)
    if todo:
        if device == "cpu":
            torch.set_num_threads(1)   # as in the processes of a sweep, whose time is to be estimated
        count, rows = (1, jobs) if device == "cpu" else (min(jobs, sweep.MEASURED), 1)
        seconds = sum(sweep.estimate(todo, args.data, device, count)) / min(rows, len(todo))
        print(f"{len(todo)} to do: about {_words(seconds)} here ({device}, {jobs} at a time)", flush=True)
        if seconds > ASK_ABOVE and not (args.yes or args.budget):
            if not sys.stdin.isatty():
                raise KdlibError(f"this would take about {_words(seconds)} and was not started; --yes starts it, and "
                                 "--budget 9m does what fits into nine minutes.")
            print("Start? [y/N] ", end="", flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                return 1
    sweep.sweep(configs, args.data, device, jobs, args.budget and args.budget - (time.monotonic() - start))
    left = len(sweep.missing(configs))
    rest = "; time is up, and the same command goes on with the rest" if left else ""
    print(f"{len(configs) - left} of {len(configs)} runs are on record{rest}")


def report(args):
    """Build the pages of studies, digits trained first if need be; exit code 1 if a page failed."""
    from kdlib import findings, records, sweep
    if args.readme:
        text = README.read_text(encoding="utf-8") if README.exists() else ""
        parts = re.split(r"(?<=<!-- answer:start -->\n).*?(?=<!-- answer:end -->)", text, flags=re.S)
        if len(parts) != 2:
            raise KdlibError(f"{README}: needs one line <!-- answer:start --> and later one <!-- answer:end -->.")
        from kdlib import readme
        answer, figure = readme.answer()
        if figure:
            with records.whole_file(README.parent / readme.FIGURE) as temporary:
                temporary.write_bytes(figure)
        with records.whole_file(README) as temporary:
            temporary.write_text((answer.rstrip() + "\n").join(parts), encoding="utf-8")
        return 0
    usual = [s.name for s in STUDIES.values() if not (s.demonstration and s.kind == "recipe")]   # a hundred runs, on request
    planned = {name: study(name).seeds for name in args.studies or usual}
    wanted = {name: min(args.seeds or n, n) for name, n in planned.items()}
    demonstrated = [cfg for name, n in wanted.items() if study(name).demonstration for cfg in study(name)(n)]
    args.configs = list({cfg.key(): cfg for cfg in demonstrated}.values())   # studies share runs
    if todo := len(sweep.missing(args.configs)):
        print(f"digits: {todo} of {len(args.configs)} runs have no record and are done first", flush=True)
        sweep.sweep(args.configs)
    from kdlib.report import build
    seeds = {name: min(n, findings.complete_seeds(name)) for name, n in wanted.items()}
    seeds |= {name: wanted[name] for name in seeds if study(name).kind == "anchors"}   # its page says which runs are missing
    seeds = {name: n for name, n in seeds.items() if n or args.studies}
    cards = {name: findings.verdicts(name, n or findings.some_seeds(name)) for name, n in seeds.items()}
    sources = {name: _sources(name, n) for name, n in seeds.items()}
    inputs = dict.fromkeys(sources, [s["records sha256"] for s in sources.values()])   # the overview reads them all
    books = {name: KINDS[study(name).kind] for name in seeds}
    pages = build({name: {"seeds": n} for name, n in seeds.items()}, args.out, NOTEBOOKS, books=books, inputs=inputs,
                  provenance=sources, verdicts=cards, say=print if sys.stdout.isatty() else lambda line: None)
    for name, found in [item for item in cards.items() if item[1]][:4]:
        words = ", ".join(f"{c['finding']} {c['verdict']}" for c in found if c["pair"] == found[0]["pair"])
        print(f"{name} ({found[0]['pair']}, {seeds[name]} of {planned[name]} seeds): {words}")
    print(Path(args.out).resolve() / "index.html")
    failed = [f"kdlib: {page.html} failed: {page.message}\n" for page in pages if page.status == "failed"]
    sys.stderr.writelines(failed)
    return min(1, len(failed))


def audit(args):
    """Say whom a distillation hurt, from predictions of your own; exit code 1 if a --fail-if condition is met."""
    from kdlib import auditing
    for text in args.fail_if:
        auditing.condition(text)   # a typing error is said before anything is read
    given = {name: getattr(args, name) for name in (*auditing.FILES, "worst")}
    ours = {name: getattr(args, name) for name in ("pair", "method", "seeds")}
    for name, value in (given if args.study else ours).items():
        if value is not None:
            raise KdlibError(f"--{name.replace('_', '-')} does not go with " +
                             ("--study, which takes everything from records." if args.study else "files, only with --study."))
    for name in () if args.study else ("labels", "teacher", "student"):
        if given[name] is None:
            raise KdlibError(f"an audit needs --{name} FILE; or --study NAME, which audits runs on record.")
    from kdlib import audit_page
    read = [file for files in given.values() for file in (files if isinstance(files, list) else [files])]
    audit_page.places(args.out, [file for file in read if isinstance(file, Path)])   # before the work, not after it
    if args.study:
        found = auditing.audit_study(args.study, args.pair, args.method or "kd", args.seeds)
    else:
        found = auditing.audit(**given, edges=tuple(args.edges), kind=args.kind)
    page, facts, table = (audit_page.printable(file, None) for file in audit_page.save(found, args.out, args.fail_if))
    print("\n".join([*audit_page.headline(found), f"{page}, {Path(facts).name}, {Path(table).name}"]))
    said = [(audit_page.printable(text, None), *auditing.met(found, text)) for text in args.fail_if]
    failed = [f"kdlib: condition met: {text}; the value is {value:.3g}\n" for text, held, value in said if held]
    sys.stderr.writelines(failed)
    return min(1, len(failed))


def _hardware(facts):
    """Where a run was done, as far as its last bits depend on it; older records name the processor alone."""
    processor = facts.get("processor")
    if not processor or processor["name"] != facts["device"]:
        return facts["device"]
    return f"{processor['name']}, family {processor['family']}, model {processor['model']}, {processor['capability']}"


def _sources(name, seeds):
    """Provenance of the pages of a study: {label: value}."""
    from kdlib import records
    from kdlib.experiment import git_sha
    commit, digest, chosen = git_sha(), hashlib.sha256(), study(name)
    configs = chosen(seeds)
    if isinstance(chosen, Study):   # whose pages depend on every baseline
        configs += [cfg for pair in chosen.pairs for setting in chosen.settings for cfg in chosen.pool(pair, setting)]
    configs = [cfg for cfg in dict.fromkeys(configs) if records.exists(cfg)]
    facts = [records.read(cfg).facts for cfg in configs]
    for cfg in configs:
        digest.update(cfg.key().encode() + (records.folder() / f"{cfg.key()}.json").read_bytes())
    named = sorted({DATA_FROM[cfg.dataset] for cfg in configs})
    return {"commit": commit.rstrip("+"), "uncommitted changes": "yes" if commit.endswith("+") else "no",
            "commit of the runs": sorted({f["git"] for f in facts}),
            "command": f"python -m kdlib report {name} --seeds {seeds}",
            "configs sha256": hashlib.sha256(" ".join(cfg.key() for cfg in configs).encode()).hexdigest(),
            "records sha256": digest.hexdigest(), "data": named, "data sha256": sorted({f["data_sha256"] for f in facts}),
            "seeds": f"{seeds} of {study(name).seeds} planned",
            "versions": sorted({f"{of} {version}" for f in facts for of, version in f["versions"].items()}),
            "hardware": sorted({_hardware(f) for f in facts}), "number of runs": len(configs),
            "wall time of the runs": _words(sum(f["seconds"] for f in facts))}


def status(args):
    """Say what is on record, from the names of files alone."""
    from kdlib.findings import complete_seeds
    from kdlib.records import exists
    for s in [study(name) for name in args.studies or STUDIES]:
        done = [exists(cfg) for cfg in s()]
        print(f"{s.name}: {sum(done)} of {len(done)} runs, {complete_seeds(s.name)} of {s.seeds} seeds complete")


def data(args):
    """Say where data sets are, fetch one, or pack the images of a study into one file."""
    from kdlib import readers
    if args.action == "pack":
        _check_pack(args.name, args.to)
        from kdlib import parcel
        file, count, dataset = parcel.pack_images(args.name, args.to)
        print(f"{file}: {count:,} images of {dataset}, {file.stat().st_size / 1e6:.1f} MB; it is read where it lies in the "
              f"data folder as {dataset}-{args.name}.pack")
        return
    folder = args.to or os.environ.get("KDLIB_DATA") or readers.DATA
    print(readers.download(args.name, folder, args.url) if args.action else "\n".join(_data_found()))


def records(args):
    """Pack the records of a study into one file, or take those of such a file in; exit code 2 if one was refused."""
    if args.action == "pack":
        _check_pack(args.what, args.to)
    from kdlib import parcel
    if args.action == "pack":
        file, count = parcel.pack_records(args.what, args.to)
        print(f"{file}: {count} records, {file.stat().st_size / 1e6:.1f} MB")
        return 0
    taken, here, refused, damage = parcel.take_records(args.what)
    print(f"{taken} records taken, {here} already here, {len(refused)} refused")
    wrong = [*refused, damage] if damage else refused
    sys.stderr.writelines(f"kdlib: {sentence}\n" for sentence in wrong)
    return 2 if wrong else 0


def _check_pack(name, to):
    """KdlibError, before torch is imported, for an unknown study or no file to pack into."""
    study(name)
    if not to:
        raise KdlibError("pack needs --to FILE.")


def _data_found():
    from kdlib import readers
    yield "digits: comes with scikit-learn"
    for name in readers.DATASETS:   # load_images takes the cache unless a folder was named
        cached = [] if os.environ.get("KDLIB_DATA") else list(readers.cache_folder().glob(f"{name}-*.npy"))
        try:
            yield "{}: {} in {}".format(name, *readers.find(name))
        except readers.DataError as error:
            yield f"{name}: decoded in {cached[0]}" if cached else str(error)


def doctor(args):
    """Say what this machine has; exit code 1 if something stops digits from running."""
    from kdlib.records import folder
    lines, wrong = [f"kdlib {__version__}, python {sys.version.split()[0]} in {sys.prefix}"], []
    for name in (*NEEDED, *ALSO_USED):
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            (wrong if name in NEEDED else lines).append(f"{name} is missing: `make setup` installs it")
    driver = "".join(p.read_text().splitlines()[0] for p in Path("/proc/driver/nvidia").glob("version"))
    try:
        import torch
        lines.append(f"GPU: {torch.cuda.get_device_name()}, {driver}")
    except (RuntimeError, AssertionError) as error:   # the latter of a torch that was built without CUDA
        lines.append(f"GPU: none that torch can use ({str(error).splitlines()[0]}; {driver or 'no driver'})")
    except (ImportError, OSError) as error:
        wrong.append(f"torch cannot be imported ({error}): `make setup` installs one that can")
    here = next(p for p in (folder().absolute(), *folder().absolute().parents) if p.exists())
    disk, memory = os.statvfs(here), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free, cores = disk.f_bavail * disk.f_frsize / 1e9, len(os.sched_getaffinity(0))
    lines.append(f"{cores} CPU cores, {memory:.1f} GB of memory, {free:.1f} GB of disk free in {here}")
    if free < 0.1 or not here.is_dir() or not os.access(here, os.W_OK):
        wrong.append(f"records: {here} is full or cannot be written: set KDLIB_RECORDS to another folder")
    print("\n".join([*lines, f"records: {folder()}", *_data_found(), *(f"WRONG: {line}" for line in wrong)]))
    return 1 if wrong else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise KdlibError(f"{message}; see: {self.prog} --help")


def _duration(text):
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; allowed: 90s, 9m, 2h, or seconds as in 540")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _words(seconds):
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 120 else f"{seconds:.0f} s"


def _parse(argv):
    parser = _Parser(prog="python -m kdlib", description="Whom does knowledge distillation hurt?")
    parser.add_argument("--version", action="version", version=f"kdlib {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), configs=())
    commands, subs = {}, parser.add_subparsers(metavar="COMMAND")
    for command in (run, report, audit, status, data, records, doctor):
        commands[command] = subs.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        commands[command].set_defaults(command=command)
    for command, every in ((report, "all with a complete seed"), (status, "all")):
        commands[command].add_argument("studies", nargs="*", metavar="STUDY", help=f"default: {every}")
    commands[run].add_argument("study", metavar="STUDY", help=", ".join(STUDIES))
    for command in (run, report):
        commands[command].add_argument("--seeds", type=_count, metavar="N", help="the first N; default: all planned")
    add = commands[run].add_argument
    add("--budget", type=_duration, metavar="TIME", help="start only what ends in time: 90s, 9m, 2h")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where torch can use it")
    add("--jobs", type=_count, metavar="N", help="runs at a time; default: CPU cores, or 9 on a GPU")
    add("--data", metavar="DIR", help="default: $KDLIB_DATA, else data/")
    add("--yes", action="store_true", help="start also what takes more than ten minutes")
    commands[report].add_argument("--out", default="reports", metavar="DIR", help="default: reports")
    commands[report].add_argument("--readme", action="store_true", help="only write the answer into README.md")
    _audit_options(commands[audit].add_argument)
    add = commands[data].add_argument
    add("action", nargs="?", choices=("get", "pack"), help="get: fetch the data set NAME; pack: the images of the study NAME")
    add("name", nargs="?", default="", metavar="NAME", help="cifar100 or cifar10; of pack: a study")
    add("--to", metavar="PATH", help="of get: a folder, default $KDLIB_DATA, else data/; of pack: the file to write")
    add("--url", help="of get: a mirror of the archive")
    add = commands[records].add_argument
    add("action", choices=("pack", "take"), help="pack: write a file; take: bring in what a file holds")
    add("what", metavar="STUDY|FILE", help="the study to pack, or the file to take")
    add("--to", metavar="FILE", help="of pack: the file to write")
    if argv and not argv[0].startswith("-") and argv[0] not in subs.choices:
        raise KdlibError(f"command {argv[0]!r} is unknown: {did_you_mean(argv[0], subs.choices)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", commands.get(args.command, parser).format_help(), re.M)
        raise KdlibError(f"{unknown[0]!r} is unknown: {did_you_mean(unknown[0], dict.fromkeys(options))}")
    return args


def _audit_options(add):
    formats = "npz, npy, CSV or Parquet"
    add("--labels", type=Path, metavar="FILE", help=f"true classes of the test examples: {formats}, as all that follows")
    for name, whose in (("teacher", "its"), ("student", "its"), ("baseline", "of the same network trained without a teacher:")):
        add(f"--{name}", nargs="+", type=Path, metavar="FILE", help=f"{whose} logits, probabilities or classes; a file a seed")
    add("--groups", type=Path, metavar="FILE", help="a column of names, several columns, or a 0/1 matrix; default: the classes")
    add("--weights", type=Path, metavar="FILE", help="of the examples")
    add("--train-counts", type=Path, metavar="FILE", help="training examples of each group, for the buckets many, medium, few")
    add("--edges", nargs=2, type=_count, default=(100, 20), metavar=("MANY", "FEW"), help="of those buckets; default: 100 20")
    add("--classes", type=Path, metavar="FILE", help="names of the classes, one per line")
    add("--kind", choices=("auto", "logits", "probabilities", "classes"), default="auto", help="of the scores; default: auto")
    add("--worst", type=_count, metavar="K", help="groups in the worst-k metrics; default: a tenth")
    add("--fail-if", action="append", default=[], metavar="CONDITION", help="'worst_bucket_gain < -2' or 'average_gain.high < 0'")
    add("--study", metavar="STUDY", help="audit runs on record instead of files")
    add("--pair", metavar="TEACHER/STUDENT", help="of --study; default: its first")
    add("--method", help="of --study; default: kd")
    add("--seeds", type=_count, metavar="N", help="of --study; default: all that are complete")
    add("--out", default="audit.html", metavar="FILE.html", help="default: audit.html; .json and .csv are written beside it")



def main(argv=None):
    """Run one command. Returns 0, 1 (see the commands), 2 (error, one sentence), 130 (interrupted) or 141."""
    args, code = argparse.Namespace(configs=()), 2
    try:
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
            return args.command(args) or 0
        finally:
            sys.stdout.flush()
    except KdlibError as error:
        said = error
    except KeyboardInterrupt:
        from kdlib.records import exists
        done = f"{sum(map(exists, args.configs))} of {len(args.configs)} runs are on record; " if args.configs else ""
        said, code = f"interrupted; {done}the same command resumes", 130
    except OSError as error:
        if error.errno not in NOT_A_BUG:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)   # or what is left of the output fails again at the exit
        if error.errno == errno.EPIPE:   # the reader has seen enough
            return 141
        said = f"{error.filename or 'the output'} cannot be written: {error.strerror}; free space, then run it again"
    print(f"kdlib: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")   # a terminal that lacks a minus or the letters of a name
    sys.exit(main())
