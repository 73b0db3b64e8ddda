"""The commands: python -m kdlib run | report | audit | distill | status | data | doctor.

Imports torch only if needed.
"""

import argparse
import errno
import functools
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main listens: no traceback of an import

from kdlib.config import KdlibError, count_of
from kdlib.options import parse
from kdlib.study import stopping
from kdlib.study.done import complete_seeds, on_record
from kdlib.study.files import HELPS, check_writable, folder
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
    print(f"{on_record(configs)}{rest}")
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
    options = {n: value for n, value in vars(args).items() if n not in ("command", "configs")}
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
        print(f"{s.name}: {on_record(s())}, {complete}")


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


COMMANDS = (run, report, audit, distill, status, data, doctor)


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
            args = parse(sys.argv[1:] if argv is None else argv, COMMANDS)
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
        kept = f"finished runs are kept ({on_record(args.configs)})"
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
