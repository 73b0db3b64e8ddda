"""What the command line takes: the options of each command, and how they are read."""

import argparse
import functools
import re
import textwrap
from pathlib import Path

from kdlib import __version__
from kdlib.config import KdlibError, did_you_mean
from kdlib.study.grids import STUDIES


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


def parse(argv, commands):
    """The arguments of one command, `command` among them; KdlibError for what is unknown.

    commands: functions, each with its options in OPTIONS below; its docstring is its help."""
    parser = _Parser(prog="python -m kdlib", description="Whom does knowledge distillation hurt?")
    parser.add_argument("--version", action="version", version=f"kdlib {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), configs=())
    parsers = {}
    subs = parser.add_subparsers(metavar="COMMAND")
    for command in commands:
        said = " ".join(command.__doc__.split())
        parsers[command] = subs.add_parser(command.__name__, help=said, description=said)
        parsers[command].set_defaults(command=command)
        OPTIONS[command.__name__](parsers[command].add_argument)
    if argv and not argv[0].startswith("-") and argv[0] not in subs.choices:
        raise KdlibError(f"command {argv[0]!r} is unknown: {did_you_mean(argv[0], subs.choices)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        of = parsers.get(args.command, parser)
        known = dict.fromkeys(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", of.format_help(), re.M))
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            of.error(f"{word!r} is one word too many")
        raise KdlibError(f"{word!r} is unknown: {did_you_mean(word, known)}")
    return args


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


OPTIONS = {  # of each command, by its name
    "run": _run_options,
    "report": _report_options,
    "audit": _audit_options,
    "distill": _distill_options,
    "status": _studies("all"),
    "data": _data_options,
    "doctor": lambda add: None,
}
