"""The command line: python -m kdlib run | report | audit | status | data | doctor.

Imports torch only if needed.
"""

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
from kdlib.study.grids import KINDS, STUDIES, study

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
DATA_FROM = {  # source of each data set
    "digits": "digits (Alpaydin and Kaynak 1998, from scikit-learn)",
    "cifar10": "CIFAR-10 (Krizhevsky 2009)",
    **dict.fromkeys(("cifar100", "cifar20", "superclass"), "CIFAR-100 (Krizhevsky 2009)"),
}
ASK_ABOVE = 600  # seconds of work that are not started without a yes
NEEDED = ("torch", "numpy", "scikit-learn", "tqdm")  # by a run of digits
ALSO_USED = ("torchvision", "pandas", "scipy", "matplotlib", "papermill", "nbconvert")
NOT_A_BUG = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(args):
    """Do the runs of a study that have no record; exit code 1 if you decline."""
    start = time.monotonic()
    planned = study(args.study).seeds
    if args.seeds and args.seeds > planned:
        raise KdlibError(f"--seeds {args.seeds}: study {args.study} has {planned} planned seeds.")
    chosen, seeds = study(args.study), args.seeds
    if args.method:
        if not isinstance(chosen, Study):
            raise KdlibError(
                f"--method {args.method[0]}: study {args.study} has no methods to compare."
            )
        chosen = chosen.with_methods(args.method)
        seeds = seeds or _complete_or_planned(chosen)
    configs = args.configs = chosen(seeds)
    import torch

    from kdlib.study import sweep
    from kdlib.study.experiment import default_device

    if args.device == "cuda" and not torch.cuda.is_available():
        raise KdlibError(
            "--device cuda: torch cannot use a GPU here; `python -m kdlib doctor` says why."
        )
    todo = sweep.missing(configs)
    device = args.device or default_device()
    jobs = args.jobs or sweep.default_jobs(device)
    done = len(configs) - len(todo)
    print(f"{args.study}: {len(configs)} runs, {done} of them on record", flush=True)
    if todo:
        if device == "cpu":
            # as in the processes of a sweep, whose time is to be estimated
            torch.set_num_threads(1)
            count, rows = 1, jobs
        else:
            count, rows = min(jobs, sweep.MEASURED), 1
        seconds = sum(sweep.estimate(todo, args.data, device, count)) / min(rows, len(todo))
        about = f"about {_words(seconds)}"
        print(f"{len(todo)} to do: {about} here ({device}, {jobs} at a time)", flush=True)
        if seconds > ASK_ABOVE and not (args.yes or args.budget):
            if not sys.stdin.isatty():
                raise KdlibError(
                    f"this would take {about} and was not started; --yes starts it, and "
                    "--budget 9m does what fits into nine minutes."
                )
            print("Start? [y/N] ", end="", flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                return 1
    budget = args.budget and args.budget - (time.monotonic() - start)
    sweep.sweep(configs, args.data, device, jobs, budget)
    left = len(sweep.missing(configs))
    rest = "; time is up, and the same command goes on with the rest" if left else ""
    print(f"{len(configs) - left} of {len(configs)} runs are on record{rest}")
    if args.method and not left:
        _compare(chosen, seeds, ["kd", *args.method])


def _complete_or_planned(chosen):
    from kdlib.study.done import complete_seeds

    return complete_seeds(chosen.name) or chosen.seeds


def _compare(chosen, seeds, methods):
    """Print what methods gain over one-hot, on average and by bucket, in every pair and setting."""
    from kdlib.evidence.metrics import panel
    from kdlib.evidence.words import brief
    from kdlib.pages.tables import gain_by_bucket

    for setting in chosen.settings:
        for pair in chosen.pairs:
            p = panel(chosen, pair, seeds, setting=setting)
            networks = f"{len(p.runs['one_hot'])} one-hot networks"
            print(f"{p.name}: points over {networks}, with 95 % intervals")
            for row in gain_by_bucket(p, list(dict.fromkeys(methods))).itertuples():
                print(f"  {row.method}, {row.bucket}: {brief(row)}")


def report(args):
    """Build the pages of studies, digits trained first if need be; exit code 1 if a page failed."""
    from kdlib.evidence import findings
    from kdlib.study import sweep
    from kdlib.study.files import whole_file

    if args.readme:
        text = README.read_text(encoding="utf-8") if README.exists() else ""
        old_answer = r"(?<=<!-- answer:start -->\n).*?(?=<!-- answer:end -->)"
        parts = re.split(old_answer, text, flags=re.S)
        if len(parts) != 2:
            raise KdlibError(
                f"{README}: needs one line <!-- answer:start --> and later one <!-- answer:end -->."
            )
        from kdlib.pages import readme

        answer, figure = readme.answer()
        if figure:
            with whole_file(README.parent / readme.FIGURE) as temporary:
                temporary.write_bytes(figure)
        with whole_file(README) as temporary:
            temporary.write_text((answer.rstrip() + "\n").join(parts), encoding="utf-8")
        return 0
    # a recipe shown on digits is a hundred runs: on request
    usual = [s.name for s in STUDIES.values() if not (s.demonstration and s.kind == "recipe")]
    planned = {name: study(name).seeds for name in args.studies or usual}
    wanted = {name: min(args.seeds or n, n) for name, n in planned.items()}
    configs = {}  # by key, since studies share runs
    for name, n in wanted.items():
        if study(name).demonstration:
            configs |= {cfg.key(): cfg for cfg in study(name)(n)}
    args.configs = list(configs.values())
    if todo := len(sweep.missing(args.configs)):
        of_all = f"{todo} of {len(configs)} runs"
        print(f"digits: {of_all} have no record and are done first", flush=True)
        sweep.sweep(args.configs)
    from kdlib.pages.report import build
    from kdlib.study.done import complete_seeds, some_seeds

    seeds = {name: min(n, complete_seeds(name)) for name, n in wanted.items()}
    # all that are wanted of anchors: their page says which runs are missing
    seeds |= {name: n for name, n in wanted.items() if study(name).kind == "anchors"}
    seeds = {name: n for name, n in seeds.items() if n or args.studies}
    cards = {name: findings.verdicts(name, n or some_seeds(name)) for name, n in seeds.items()}
    sources = {name: _sources(name, n) for name, n in seeds.items()}
    # of all for each, since the overview reads them all
    inputs = dict.fromkeys(sources, [s["records sha256"] for s in sources.values()])
    books = {name: KINDS[study(name).kind] for name in seeds}
    pages = build(
        {name: {"seeds": n} for name, n in seeds.items()},
        args.out,
        NOTEBOOKS,
        books=books,
        inputs=inputs,
        provenance=sources,
        verdicts=cards,
        say=print if sys.stdout.isatty() else lambda line: None,
    )
    with_verdicts = [(name, found) for name, found in cards.items() if found]
    for name, found in with_verdicts[:4]:
        pair = found[0]["pair"]
        words = ", ".join(f"{c['finding']} {c['verdict']}" for c in found if c["pair"] == pair)
        print(f"{name} ({pair}, {seeds[name]} of {planned[name]} seeds): {words}")
    print(Path(args.out).resolve() / "index.html")
    failed = [
        f"kdlib: {page.html} failed: {page.message}\n" for page in pages if page.status == "failed"
    ]
    sys.stderr.writelines(failed)
    return min(1, len(failed))


def audit(args):
    """Say whom a distillation hurt, from predictions of your own.

    Exit code 1 if a --fail-if condition is met.
    """
    from kdlib.auditing import gate, given

    for text in args.fail_if:
        gate.condition(text)  # a typing error is said before anything is read
    files = {name: getattr(args, name) for name in (*given.FILES, "worst", "edges", "kind")}
    ours = {name: getattr(args, name) for name in ("pair", "method", "seeds")}
    if args.study:
        excluded, why = files, "--study, which takes everything from records."
    else:
        excluded, why = ours, "files, only with --study."
    for name, value in excluded.items():
        if value is not None:
            raise KdlibError(f"--{name.replace('_', '-')} does not go with {why}")
    for name in ("labels", "teacher", "student"):
        if not args.study and files[name] is None:
            raise KdlibError(
                f"an audit needs --{name} FILE; or --study NAME, which audits runs on record."
            )
    from kdlib.auditing import page

    read = []
    for some in files.values():
        read += some if isinstance(some, list) else [some]
    # refused before the work, not after it
    page.places(args.out, [file for file in read if isinstance(file, Path)])
    if args.study:
        found = given.audit_study(args.study, args.pair, args.method or "kd", args.seeds)
    else:
        found = given.audit(**{name: of for name, of in files.items() if of is not None})
    written = page.save(found, args.out, args.fail_if)
    html, facts, table = (page.printable(file, None) for file in written)
    print("\n".join([*page.headline(found), f"{html}, {Path(facts).name}, {Path(table).name}"]))
    said = [(page.printable(text, None), *gate.met(found, text)) for text in args.fail_if]
    failed = [
        f"kdlib: condition met: {text}; the value is {value:.3g}\n"
        for text, held, value in said
        if held
    ]
    sys.stderr.writelines(failed)
    return min(1, len(failed))


def _hardware(facts):
    """Where a run was done, as far as its last bits depend on it.

    Older records name the processor alone.
    """
    of = facts.get("processor")
    if not of or of["name"] != facts["device"]:
        return facts["device"]
    return f"{of['name']}, family {of['family']}, model {of['model']}, {of['capability']}"


def _sources(name, seeds):
    """Provenance of the pages of a study: {label: value}."""
    from kdlib.study import records
    from kdlib.study.experiment import git_sha

    commit = git_sha()
    chosen = study(name)
    configs = chosen(seeds)
    if isinstance(chosen, Study):  # whose pages depend on every baseline
        for pair in chosen.pairs:
            for setting in chosen.settings:
                configs += chosen.pool(pair, setting)
    configs = [cfg for cfg in dict.fromkeys(configs) if records.exists(cfg)]
    facts = [records.read(cfg).facts for cfg in configs]
    keys = [cfg.key() for cfg in configs]
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + (records.folder() / f"{key}.json").read_bytes())
    versions = {f"{of} {version}" for f in facts for of, version in f["versions"].items()}
    return {
        "commit": commit.rstrip("+"),
        "uncommitted changes": "yes" if commit.endswith("+") else "no",
        "commit of the runs": sorted({f["git"] for f in facts}),
        "command": f"python -m kdlib report {name} --seeds {seeds}",
        "configs sha256": hashlib.sha256(" ".join(keys).encode()).hexdigest(),
        "records sha256": digest.hexdigest(),
        "data": sorted({DATA_FROM[cfg.dataset] for cfg in configs}),
        "data sha256": sorted({f["data_sha256"] for f in facts}),
        "seeds": f"{seeds} of {chosen.seeds} planned",
        "versions": sorted(versions),
        "hardware": sorted({_hardware(f) for f in facts}),
        "number of runs": len(configs),
        "wall time of the runs": _words(sum(f["seconds"] for f in facts)),
    }


def status(args):
    """Say what is on record, from the names of files alone."""
    from kdlib.study.done import complete_seeds
    from kdlib.study.records import exists

    for s in [study(name) for name in args.studies or STUDIES]:
        done = [exists(cfg) for cfg in s()]
        complete = complete_seeds(s.name)
        runs = f"{sum(done)} of {len(done)} runs"
        print(f"{s.name}: {runs}, {complete} of {s.seeds} seeds complete")


def data(args):
    """Say where data sets are, or fetch one."""
    from kdlib.study import files, readers

    if args.action:
        folder = args.to or os.environ.get("KDLIB_DATA") or files.DATA
        print(readers.download(args.name, folder, args.url))
    else:
        print("\n".join(_data_found()))


def _data_found():
    """A line for each data set: where it is, or why it is not found."""
    from kdlib.study import files, readers

    yield "digits: comes with scikit-learn"
    for name in readers.DATASETS:
        cached = []
        if not os.environ.get("KDLIB_DATA"):  # load_images takes the cache unless it is set
            cached = list(files.cache_folder().glob(f"{name}-*.npy"))
        try:
            yield "{}: {} in {}".format(name, *readers.find(name))
        except readers.DataError as error:
            yield f"{name}: decoded in {cached[0]}" if cached else str(error)


def doctor(args):
    """Say what this machine has; exit code 1 if something stops digits from running."""
    from kdlib.study.files import available_cores
    from kdlib.study.records import folder

    lines = [f"kdlib {__version__}, python {sys.version.split()[0]} in {sys.prefix}"]
    wrong = []
    for name in (*NEEDED, *ALSO_USED):
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing = wrong if name in NEEDED else lines
            missing.append(f"{name} is missing: `make setup` installs it")
    driver_files = Path("/proc/driver/nvidia").glob("version")
    driver = "".join(file.read_text().splitlines()[0] for file in driver_files)
    try:
        import torch

        lines.append(f"GPU: {torch.cuda.get_device_name()}, {driver}")
    # AssertionError is of a torch that was built without CUDA
    except (RuntimeError, AssertionError) as error:
        why = f"{str(error).splitlines()[0]}; {driver or 'no driver'}"
        lines.append(f"GPU: none that torch can use ({why})")
    except (ImportError, OSError) as error:
        wrong.append(f"torch cannot be imported ({error}): `make setup` installs one that can")
    here = next(p for p in (folder().absolute(), *folder().absolute().parents) if p.exists())
    disk = os.statvfs(here)
    free = disk.f_bavail * disk.f_frsize / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = available_cores()
    lines.append(
        f"{cores} CPU cores, {memory:.1f} GB of memory, {free:.1f} GB of disk free in {here}"
    )
    if free < 0.1 or not here.is_dir() or not os.access(here, os.W_OK):
        wrong.append(
            f"records: {here} is full or cannot be written: set KDLIB_RECORDS to another folder"
        )
    lines += [f"records: {folder()}", *_data_found(), *(f"WRONG: {line}" for line in wrong)]
    print("\n".join(lines))
    return 1 if wrong else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise KdlibError(f"{message}; see: {self.prog} --help")


def _duration(text):
    """Seconds, float, of text such as 90s, 9m, 2h or 540."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no duration; allowed: 90s, 9m, 2h, or seconds as in 540"
        )
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _words(seconds):
    """A duration to read: hours and minutes, minutes, or below two minutes seconds."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if seconds >= 120 else f"{seconds:.0f} s"


def _parse(argv):
    """The arguments of one command, `command` among them; KdlibError for what is unknown."""
    parser = _Parser(prog="python -m kdlib", description="Whom does knowledge distillation hurt?")
    parser.add_argument("--version", action="version", version=f"kdlib {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), configs=())
    commands = {}
    subs = parser.add_subparsers(metavar="COMMAND")
    for command in (run, report, audit, status, data, doctor):
        said = command.__doc__
        commands[command] = subs.add_parser(command.__name__, help=said, description=said)
        commands[command].set_defaults(command=command)
    for command, every in ((report, "all with a complete seed"), (status, "all")):
        add = commands[command].add_argument
        add("studies", nargs="*", metavar="STUDY", help=f"default: {every}")
    commands[run].add_argument("study", metavar="STUDY", help=", ".join(STUDIES))
    for command in (run, report):
        add = commands[command].add_argument
        add("--seeds", type=_count, metavar="N", help="the first N; default: all planned")
    add = commands[run].add_argument
    only = "start only what ends in time: 90s, 9m, 2h"
    add("--budget", type=_duration, metavar="TIME", help=only)
    add("--device", choices=("cpu", "cuda"), help="default: cuda where torch can use it")
    at_once = "runs at a time; default: CPU cores, or 9 on a GPU"
    add("--jobs", type=_count, metavar="N", help=at_once)
    add("--data", metavar="DIR", help="default: $KDLIB_DATA, else data/")
    add("--yes", action="store_true", help="start also what takes more than ten minutes")
    add(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="also train this method, and compare it with what is on record; may be repeated",
    )
    add = commands[report].add_argument
    add("--out", default="reports", metavar="DIR", help="default: reports")
    add("--readme", action="store_true", help="only write the answer into README.md")
    _audit_options(commands[audit].add_argument)
    add = commands[data].add_argument
    add("action", nargs="?", choices=("get",), help="get: fetch the data set NAME")
    add("name", nargs="?", default="", metavar="NAME", help="cifar100 or cifar10")
    add("--to", metavar="DIR", help="of get: a folder; default: $KDLIB_DATA, else data/")
    add("--url", help="of get: a mirror of the archive")
    if argv and not argv[0].startswith("-") and argv[0] not in subs.choices:
        raise KdlibError(f"command {argv[0]!r} is unknown: {did_you_mean(argv[0], subs.choices)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        usage = commands.get(args.command, parser).format_help()
        options = dict.fromkeys(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", usage, re.M))
        raise KdlibError(f"{unknown[0]!r} is unknown: {did_you_mean(unknown[0], options)}")
    return args


def _audit_options(add):
    formats = "npz, npy, CSV or Parquet"
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help=f"true classes of the test examples: {formats}, as all that follows",
    )
    untaught = "of the same network trained without a teacher:"
    for name, whose in (("teacher", "its"), ("student", "its"), ("baseline", untaught)):
        add(
            f"--{name}",
            nargs="+",
            type=Path,
            metavar="FILE",
            help=f"{whose} logits, probabilities or classes; a file a seed",
        )
    add(
        "--groups",
        type=Path,
        metavar="FILE",
        help="a column of names, several columns, or a 0/1 matrix; default: the classes",
    )
    add("--weights", type=Path, metavar="FILE", help="of the examples")
    add(
        "--train-counts",
        type=Path,
        metavar="FILE",
        help="training examples of each group, for the buckets many, medium, few",
    )
    add(
        "--edges",
        nargs=2,
        type=_count,
        metavar=("MANY", "FEW"),
        help="of those buckets; default: 100 20",
    )
    add("--classes", type=Path, metavar="FILE", help="names of the classes, one per line")
    add(
        "--kind",
        choices=("auto", "logits", "probabilities", "classes"),
        help="of the scores; default: auto",
    )
    add("--worst", type=_count, metavar="K", help="groups in the worst-k metrics; default: a tenth")
    add(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="'groups_harmed > 0' or 'average_gain.high < 0'",
    )
    add("--study", metavar="STUDY", help="audit runs on record instead of files")
    add("--pair", metavar="TEACHER/STUDENT", help="of --study; default: its first")
    add("--method", help="of --study; default: kd")
    add("--seeds", type=_count, metavar="N", help="of --study; default: all that are complete")
    add(
        "--out",
        default="audit.html",
        metavar="FILE.html",
        help="default: audit.html; .json and .csv are written beside it",
    )


def main(argv=None):
    """Run one command and return its exit code.

    0, 1 (see the commands), 2 (error, one sentence), 130 (interrupted) or 141 (the reader of the
    output has gone).
    """
    args = argparse.Namespace(configs=())
    code = 2
    try:
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
            return args.command(args) or 0
        finally:
            sys.stdout.flush()
    except KdlibError as error:
        said = error
    except KeyboardInterrupt:
        from kdlib.study.records import exists

        done = ""
        if args.configs:
            recorded = sum(map(exists, args.configs))
            done = f"{recorded} of {len(args.configs)} runs are on record; "
        said = f"interrupted; {done}the same command resumes"
        code = 130
    except OSError as error:
        if error.errno not in NOT_A_BUG:
            raise
        # or what is left of the output fails again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:  # the reader has seen enough
            return 141
        said = (
            f"{error.filename or 'the output'} cannot be written: {error.strerror}; "
            "free space, then run it again"
        )
    print(f"kdlib: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # a terminal that lacks a minus or the letters of a name
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
