"""The command line: python -m kdlib run | report | audit | distill | status | data | doctor.

Imports torch only if needed.
"""

import argparse
import errno
import functools
import os
import re
import signal
import sys
import textwrap
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main listens: no traceback of an import

from kdlib import __version__
from kdlib.config import KdlibError, count_of, did_you_mean
from kdlib.study import stopping
from kdlib.study.done import complete_seeds
from kdlib.study.files import HELPS, check_writable, exists, folder
from kdlib.study.grids import STUDIES, study
from kdlib.study.part import lacking, part_of

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
ASK_ABOVE = 600  # seconds of work that are not started without a yes


def run(args):
    """Run whatever a study, or a part of it, is still missing; exit code 1 if you decline."""
    start = time.monotonic()
    if args.study in ("imagenet", "imagenet-lt"):
        raise KdlibError(
            f"{args.study} is a preset, since its images are read while it trains: "
            f"python -m kdlib distill --preset {args.study} --data DIR"
        )
    part = part_of(study(args.study), args.pair, args.method, args.seeds)
    configs = args.configs = part.configs
    import torch

    from kdlib.study import sweep

    place = sweep.place_of(args.ray)
    if args.device == "cuda" and not args.ray and not torch.cuda.is_available():
        raise KdlibError(
            "--device cuda: torch cannot use a GPU here; `python -m kdlib doctor` says why."
        )
    device = args.device or place.default_device()
    jobs = args.jobs or place.default_jobs(device)
    todo = sweep.missing(configs)
    done = len(configs) - len(todo)
    _say_if_new()
    print(f"{args.study}: {count_of(len(configs), 'run')}, {done} on record", flush=True)
    if todo and not _agreed(args, todo, place, device, jobs):
        return 1
    budget = args.budget and args.budget - (time.monotonic() - start)
    sweep.sweep(configs, args.data, device, jobs, budget, args.ray)
    left = len(sweep.missing(configs))
    rest = "; no time was left for the rest, with which the same command goes on" if left else ""
    print(f"{_on_record(configs)}{rest}")
    if part.compared and not left:
        from kdlib.pages.gains import compared

        of = part.compared, part.seeds
        print(lacking("comparison", *of) or "\n".join(compared(*of)))
        if not todo:
            print("all were read, not repeated; CONTRIBUTING.md says what to do after a change")
    elif not left and complete_seeds(args.study):
        print(f"python -m kdlib report {args.study} draws its pages")


def _say_if_new():
    """Say that the folder of records is not there: its name may be misspelt."""
    if not folder().is_dir():
        print(f"there are no records yet in {folder()} (KDLIB_RECORDS)")


def _on_record(configs):
    """How many runs are on record, in words."""
    done = sum(exists(cfg) for cfg in configs)
    return f"{done} of {count_of(len(configs), 'run')} on record"


def _agreed(args, todo, place, device, jobs):
    """Say how long the runs take; whether they may start, asked for if it is long."""
    seconds, about = _say_how_long(todo, args.data, place, device, jobs)
    if seconds <= ASK_ABOVE or args.yes or args.budget:
        return True
    if not sys.stdin.isatty():
        raise KdlibError(
            f"this would take {about} and was not started; --yes starts it, and "
            "--budget 9m does what fits into nine minutes."
        )
    print("Start? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say_how_long(todo, data, place, device, jobs):
    """Measure how long runs take at a place (sweep.place_of): the seconds, and in words."""
    check_writable(folder())  # measuring takes a while
    from kdlib.study import pace, sweep

    seconds = sweep.seconds_at(place, todo, data, device, jobs)
    about = f"about {pace.in_words(seconds)}"
    print(f"{len(todo)} to do: {about} {place.name} ({device}, {jobs} at a time)", flush=True)
    return seconds, about


def report(args):
    """Build the pages of studies, training digits first if needed; exit code 1 if a page failed."""
    # a recipe shown on digits is a hundred runs: on request
    usual = [s.name for s in STUDIES.values() if not (s.demonstration and s.kind == "recipe")]
    chosen = [study(name) for name in args.studies or usual]
    if args.readme and (args.studies or args.seeds):
        raise KdlibError("--readme is of all studies on record: leave out STUDY and --seeds.")
    say = functools.partial(print, flush=True)
    if not args.readme:
        say(f"looking at {count_of(len(chosen), 'study', 'studies')}")
    from kdlib.pages.report import pages_of
    from kdlib.pages.results import publish
    from kdlib.study import sweep
    from kdlib.study.records import RecordError

    if args.readme:
        publish(README)
        return 0
    wanted = {s.name: min(args.seeds or s.seeds, s.seeds) for s in chosen}
    configs = [cfg for s in chosen if s.demonstration for cfg in s(wanted[s.name])]
    args.configs = list(dict.fromkeys(configs))  # studies share runs
    refused = []  # a record without which others could not be trained
    if todo := sweep.missing(args.configs):
        of_all = f"{len(todo)} of {count_of(len(args.configs), 'run')}"
        say(f"digits comes first: {of_all} to train")
        device = sweep.default_device()
        _say_how_long(todo, None, sweep.place_of(), device, sweep.default_jobs(device))
        try:
            sweep.sweep(args.configs)
        except RecordError as error:  # the pages of other studies need none of it
            refused.append(str(error))
    said, failures = pages_of(wanted, args.studies, args.out, NOTEBOOKS, say)
    print("\n".join([*said, str(Path(args.out).resolve() / "index.html")]))
    failures += [error for error in refused if not any(error in failure for failure in failures)]
    for failure in failures:
        print(f"kdlib: {failure}", file=sys.stderr)
    return min(1, len(failures))


def audit(args):
    """Report which groups distillation hurt, from your own predictions.

    Exit code 1 if a condition of --fail-if or --gate is met, 3 if none is met but one is unknown.
    """
    from kdlib.asking import given
    from kdlib.auditing import ci, progress
    from kdlib.auditing.verdicts import NOT_MET
    from kdlib.reading.sentences import printable

    start = time.monotonic()
    # a typing error is said before anything is read
    named, students = given.students_of(vars(args))
    conditions, before = ci.asked(args.fail_if, args.gate, args.against, args.junit, students)
    places = ci.places(vars(args), given.read_by(vars(args), named), students)
    with progress.bar(len(students)) as begin:
        found = given.asked(vars(args), args.out, print, begin)
    judged = found.judge(conditions, before)
    html, *beside = (printable(file, None) for file in found.save(args.out, judged))
    if args.summary:
        ci.write(places["summary"], "summary", ci.summary(found, judged, html))
    if args.junit:
        ci.write(places["junit"], "junit", ci.junit(judged, time.monotonic() - start))
    print("\n".join([*found.headline(), *judged.cautions]))
    print(", ".join([html, *(Path(file).name for file in beside)]))
    for verdict in judged.verdicts:
        said = f"condition {verdict.state}: {printable(verdict.condition, None)}"
        where = sys.stdout if verdict.state == NOT_MET else sys.stderr
        print(f"kdlib: {said}; {printable(verdict.said(), None)}", file=where)
    return judged.code


def distill(args):
    """Train students of your own teacher on your own images, and audit them; see docs/distil.md.

    torchrun --nproc-per-node N -m kdlib distill does the same in N processes.
    """
    from kdlib.distilling.run import distil

    if args.data is None:
        raise KdlibError("distill needs --data PATH, a folder of images.")
    options = {name: value for name, value in vars(args).items() if name not in NO_OPTIONS}
    methods = [name.strip() for word in options.pop("methods") for name in word.split(",")]
    methods = [name for name in methods if name]
    found = distil(methods=methods, say=functools.partial(print, flush=True), **options)
    if found is not None:  # the first process of torchrun, or the only one
        print("\n".join([*found.headline(), str(Path(args.out).resolve() / "report.html")]))


def status(args):
    """Show how many runs of each study are on record."""
    chosen = [study(name) for name in args.studies or STUDIES]
    _say_if_new()
    for s in chosen:
        complete = f"{complete_seeds(s.name)} of {count_of(s.seeds, 'seed')} complete"
        print(f"{s.name}: {_on_record(s())}, {complete}")


def data(args):
    """Show where the data sets are, or download one."""
    from kdlib.study import adult, cifar

    if args.action and not args.name:
        raise KdlibError(f"data get needs a NAME: {', '.join(cifar.NAMES)} or adult.")
    if args.name == "adult":
        print(adult.download(args.to, args.url))
    elif args.action:
        print(cifar.download(args.name, args.to, args.url))
    else:
        print("\n".join([*cifar.found(), adult.found()]))


def doctor(args):
    """Check what this machine has; exit code 1 if something keeps studies from running."""
    from kdlib.study import adult, cifar
    from kdlib.study.doctor import examined

    lines, wrong = examined()
    print("\n".join([*lines, *cifar.found(), adult.found(), *(f"WRONG: {line}" for line in wrong)]))
    return 1 if wrong else 0


class _Help(argparse.HelpFormatter):
    """Breaks lines between words alone: names of studies have hyphens."""

    def _split_lines(self, text, width):
        return textwrap.wrap(text, width, break_on_hyphens=False)


class _Store(argparse.Action):
    """Stores an option's value; given again, a list goes on, and one value is refused."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.dest in parser.given:
            if self.nargs != "+":
                parser.error(f"{option_string} is given twice, and one of the two would be lost")
            values = [*getattr(namespace, self.dest), *values]
        parser.given.add(self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Options in full only: an abbreviation may be a typing error."""

    def __init__(self, **more):
        super().__init__(**more, allow_abbrev=False, formatter_class=_Help)
        self.given = set()  # what the options of a command line are stored as
        self.register("action", None, _Store)

    def error(self, message):
        raise KdlibError(f"{message}; see: {self.prog} --help")


def _duration(text):
    """Seconds, float, of text such as 90s, 9m, 2h or 540."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a duration such as 90s, 9m, 2h, or 540 (seconds)"
        )
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _whole(text, least=0):
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
    return int(text)


_count = functools.partial(_whole, least=1)


def _parse(argv):
    """The arguments of one command, `command` among them; KdlibError for what is unknown."""
    parser = _Parser(prog="python -m kdlib", description="Whom does knowledge distillation hurt?")
    parser.add_argument("--version", action="version", version=f"kdlib {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), configs=())
    commands = {}
    subs = parser.add_subparsers(metavar="COMMAND")
    options = {run: _run_options, report: _report_options, audit: _audit_options}
    options |= {distill: _distill_options, status: _studies("all"), data: _data_options}
    options[doctor] = lambda add: None
    for command, add_options in options.items():
        said = " ".join(command.__doc__.split())
        commands[command] = subs.add_parser(command.__name__, help=said, description=said)
        commands[command].set_defaults(command=command)
        add_options(commands[command].add_argument)
    if argv and not argv[0].startswith("-") and argv[0] not in subs.choices:
        raise KdlibError(f"command {argv[0]!r} is unknown: {did_you_mean(argv[0], subs.choices)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        of = commands.get(args.command, parser)
        known = dict.fromkeys(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", of.format_help(), re.M))
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            of.error(f"{word!r} is one word too many")
        raise KdlibError(f"{word!r} is unknown: {did_you_mean(word, known)}")
    return args


NO_OPTIONS = ("command", "configs")
COUNT = {"type": _count, "metavar": "N"}
FILE = {"type": Path, "metavar": "FILE"}
AGAIN = {"action": "append", "default": []}


def _run_options(add):
    add("study", metavar="STUDY", help=", ".join(STUDIES))
    pair = "only this pair, with its teachers; may be repeated; default: all"
    add("--pair", **AGAIN, metavar="TEACHER/STUDENT", help=pair)
    method = "only this method; one that is not planned is compared with what is on record; "
    add("--method", **AGAIN, metavar="NAME", help=method + "may be repeated; default: all")
    seeds = "only the first N seeds, or 2-5: seeds 2 to 5, where the first is 0; default: all"
    add("--seeds", metavar="N", help=seeds)
    only = "start only runs that will end in time: 90s, 9m, 2h"
    add("--budget", type=_duration, metavar="TIME", help=only)
    add("--device", choices=("cpu", "cuda"), help="default: cuda if torch can use it, else cpu")
    add("--jobs", **COUNT, help="runs at a time; default: one per CPU core, or 9 on a GPU")
    add("--data", metavar="DIR", help="where the data sets are; default: $KDLIB_DATA, else data/")
    ray = "do the runs on the nodes of a Ray cluster: auto (on one of them), local, or HOST:PORT"
    add("--ray", metavar="ADDRESS", help=ray)
    add("--yes", action="store_true", help="start without asking, even if it takes hours")


def _studies(default):
    return lambda add: add("studies", nargs="*", metavar="STUDY", help=f"default: {default}")


def _report_options(add):
    _studies("all with a complete seed")(add)
    add("--seeds", **COUNT, help="only the first N seeds; default: all planned")
    add("--out", default="reports", metavar="DIR", help="folder of the pages; default: reports")
    only = "build no pages; only write the results into README.md and RESULTS.md"
    add("--readme", action="store_true", help=only)


def _data_options(add):
    add("action", nargs="?", choices=("get",), help="get: download the data set NAME")
    add("name", nargs="?", metavar="NAME", help="cifar100, cifar10 or adult")
    to = "with get: the folder to put it in; default: $KDLIB_DATA, else data/"
    add("--to", metavar="DIR", help=to)
    add("--url", help="with get: a mirror of the archive")


def _audit_options(add):
    formats = "npz, npy, CSV, Parquet, JSON or others; FILE:COLUMN chooses a column"
    add("--labels", **FILE, help=f"true classes of the test examples: {formats}")
    untaught = "the same network trained without a teacher:"
    for name, whose in (("teacher", "its"), ("student", "its"), ("baseline", untaught)):
        scores = f"{whose} logits, probabilities or classes; one file per training run"
        if name == "student":
            scores += "; to compare several students, name them: kd=k0.npz k1.npz ada=a0.npz a1.npz"
        add(f"--{name}", nargs="+", **FILE, help=scores)
    groups = "the group of each example: a column of names, several columns, or a 0/1 matrix; "
    add("--groups", **FILE, help=groups + "default: the classes")
    add("--weights", **FILE, help="weights of the examples")
    counts = "training examples in each group, which sorts groups into many-, medium- and few-shot"
    add("--train-counts", **FILE, help=counts)
    edges = "a group is many-shot above MANY, few-shot below FEW; default: 100 20"
    add("--edges", nargs=2, type=_count, metavar=("MANY", "FEW"), help=edges)
    add("--classes", **FILE, help="names of the classes, one per line")
    absent = "examples without a group: leave them out, or make them a group of their own"
    add("--missing-groups", choices=("drop", "own"), help=absent)
    kinds = "what the scores are: auto, logits, probabilities or classes; per role: student=logits"
    add("--kind", nargs="+", metavar="KIND", help=kinds)
    worst = "how many groups count as the worst; default: a tenth of them"
    add("--worst", type=_count, metavar="K", help=worst)
    add("--title", help="title of the page")
    by = "columns of --groups to use: sex 'age:4' (four ranges) 'sex x age:4'; default: all"
    add("--by", nargs="+", metavar="COLUMN", help=by)
    search = "attributes of each example, to be searched for the subgroups that lost most"
    add("--search", **FILE, help=search)
    images = "paths of the images, to show which were lost; with --study: the folder of its data"
    add("--images", **FILE, help=images)
    conditions = "fail if this is met: 'groups_harmed > 0', 'gain[group=truck].high < 0'; "
    add("--fail-if", **AGAIN, metavar="CONDITION", help=conditions + "see docs/audit.md")
    add("--gate", **FILE, help="a file of such conditions, one per line; # begins a comment line")
    against = "JSON of an earlier audit, for conditions such as 'change(average_gain) < -1'"
    add("--against", **FILE, help=against)
    add("--study", metavar="STUDY", help="audit runs on record instead of files")
    add("--pair", metavar="TEACHER/STUDENT", help="with --study; default: its first pair")
    method = "with --study; default: kd; several methods are compared"
    add("--method", nargs="+", metavar="NAME", help=method)
    seeds = "with --study: only the first N seeds; default: all that are complete"
    add("--seeds", **COUNT, help=seeds)
    summary = "write Markdown for a pull request; $GITHUB_STEP_SUMMARY is appended to"
    add("--summary", metavar="FILE.md", help=summary)
    add("--junit", metavar="FILE.xml", help="write the conditions as test cases")
    out = "default: audit.html; .json and .csv are written beside it"
    add("--out", default="audit.html", metavar="FILE.html", help=out)
    models = "audit networks on a folder of images with one folder per class; models are then "
    models += "LIBRARY:NAME@FILE, as in torchvision:resnet50@weights.pt; or timm's, or kdlib's"
    add("--image-folder", type=Path, metavar="DIR", help=models)
    size = "with --image-folder: resize the shorter side to N and keep the centre; default: 256 "
    add("--image-size", **COUNT, help=size + "and 224, or what timm says of the network")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        colours = f"with --image-folder: {what} of the colours; default: ImageNet's, or timm's"
        add(f"--{name}", nargs=3, type=float, metavar=("R", "G", "B"), help=colours)
    add("--batch", **COUNT, help="with --image-folder: images at a time; default: 64")


def _distill_options(add):
    data = "a folder of images with a folder per class, in train/, val/, test/ or alone; or a "
    data += "table with the columns path and label, also group and split; or Parquet shards"
    add("--data", metavar="PATH", help=data)
    weights = "LIBRARY:NAME@FILE, as in timm:resnet50@my.safetensors; LIBRARY is torchvision, timm "
    weights += "or kdlib; FILE may be pretrained; without @FILE it is trained here first"
    add("--teacher", metavar="NETWORK", help=weights)
    start = "as --teacher; with @FILE it starts from those weights"
    add("--student", metavar="NETWORK", help=start)
    usual = ["one_hot", "kd", "ada_alpha"]
    names = "one_hot, the baseline, and others of kdlib/methods.py, such as ada_margin, kd_tuned; "
    names += "default: " + ",".join(usual)
    add("--methods", nargs="+", default=usual, metavar="NAME", help=names)
    out = "default: distilled; what is already there is kept, and the run continues from it"
    add("--out", default="distilled", metavar="DIR", help=out)
    groups = "the group of each image: columns path and group; default: the classes"
    add("--groups", **FILE, help=groups)
    add("--seeds", **COUNT, default=1, help="students of each method; default: 1")
    preset = "imagenet or imagenet-lt: recipe, networks, and the published lists of the long tail"
    add("--preset", metavar="NAME", help=preset)
    add("--epochs", **COUNT, help="default: 90")
    add("--size", **COUNT, help="pixels of an image's side; default: 224")
    add("--batch-size", **COUNT, help="images in all processes; default: 256")
    add("--lr", type=float, metavar="RATE", help="peak learning rate; default: 0.1 x batch / 256")
    add("--weight-decay", type=float, metavar="W", help="default: 0.0001")
    add("--warmup", type=_whole, metavar="N", help="epochs; default: 5, at most a tenth of all")
    add("--temperature", type=float, metavar="T", help="of teacher and student; default: 1")
    add("--alpha", type=float, metavar="A", help="kd's weight of the teacher; default: 1")
    add("--precision", choices=("fp32", "bf16"), help="of the student in training; default: fp32")
    looks = "padded (moved by 4 pixels), resized (cut at random) or none; default: by size"
    add("--augment", metavar="HOW", help=looks)
    for whose in ("", "teacher-"):
        for name, what in (("mean", "mean"), ("std", "standard deviation")):
            said = f"{what} of the colours that the {whose.strip('-') or 'student'} is shown"
            add(f"--{whose}{name}", nargs=3, type=float, metavar=("R", "G", "B"), help=said)
    order = "names of the teacher's classes in its order, one a line or JSON with id2label"
    add("--teacher-classes", **FILE, help=order)
    skip = "leave out images that cannot be read, which are looked for before training"
    add("--skip-corrupt", action="store_true", help=skip)
    add("--workers", type=_whole, metavar="N", help="processes that read images; default: by cores")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if torch can use it, else cpu")
    dry = "read everything, say how long the training would take here, and stop"
    add("--dry-run", action="store_true", help=dry)


def main(argv=None):
    """Run one command and return its exit code.

    0, 1 and 3 (see the commands), 2 (error, one sentence), 130 (interrupted), 143 (told to stop) or
    141 (the reader of the output has gone).
    """
    args = argparse.Namespace(configs=())
    try:
        try:
            if argv is None:
                stopping.listen()
            args = _parse(sys.argv[1:] if argv is None else argv)
            return args.command(args) or 0
        finally:
            sys.stdout.flush()
            if argv is None:
                stopping.ignore()
    except (KeyboardInterrupt, Exception) as error:
        code, said = _ended_by(error, args)
        if code is None:  # a fault of ours, which a traceback tells best
            raise
    if said and _speaks():
        print(f"kdlib: {said}", file=sys.stderr, flush=True)
    return code


def _ended_by(error, args):
    """(exit code, a sentence, "" if nobody reads it) of what ended a command; (None, "") if neither
    its user nor its machine did."""
    if isinstance(error, KdlibError):
        return 2, str(error)
    of_others = isinstance(error, ModuleNotFoundError) and error.name
    if of_others and not error.name.startswith("kdlib"):
        extra = "ray" if error.name == "ray" else "study"
        install = f'pip install ".[{extra}]" in the clone of kdlib installs all that it needs'
        return 2, f"this command needs {error.name}, which is not installed; {install}"
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, *HELPS):
        # or what is left of the output fails again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:  # the reader has seen enough
            return 141, ""
        cannot = "used" if isinstance(error, PermissionError) else "written"  # used: maybe read
        said = f"{error.filename or 'the output'} cannot be {cannot}: {error.strerror}"
        return 2, f"{said}; {HELPS[error.errno]}, then run it again"
    number = stopping.signal_behind(error)
    if number is None:
        return None, ""
    word = "interrupted" if number == signal.SIGINT else "told to stop"
    keeps = getattr(args, "command", None) is distill
    said = f"{word}; the same command {'goes on from what is kept' if keeps else 'starts again'}"
    if args.configs:
        kept = f"finished runs are kept ({_on_record(args.configs)})"
        said = f"{word}; {kept}, and the same command goes on with the rest"
    return 128 + number, said


def _speaks():
    """Whether this process says why it ends: of those of torchrun, one does."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return True
    from kdlib.distilling import processes

    return processes.speaks()


if __name__ == "__main__":
    # a terminal that lacks a minus or the letters of a name
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
