"""What can be said of a command before anything is read, fetched or trained."""

from numbers import Integral
from pathlib import Path

from kdlib.asking.networks import check_colours, check_name
from kdlib.config import KdlibError
from kdlib.distilling.recipe import MOST_SEEDS

MOST_WORKERS = 256
TEACHER_COLOURS = ("--teacher-mean", "--teacher-std")


def check_command(data, out, networks, seeds, workers, looks, teacher_looks, teacher_classes):
    """KdlibError for what cannot be used.

    networks: Named of the student and the teacher. looks, teacher_looks: (mean, std) or None."""
    for asked in networks:
        check_name(asked)
        if isinstance(asked.file, Path):
            _check_file(asked.text, asked.file)
    check_colours(*looks)
    check_colours(*teacher_looks, TEACHER_COLOURS)
    if teacher_classes is not None:
        _check_file("--teacher-classes", Path(teacher_classes))
    _check_number("--seeds", seeds, 1, MOST_SEEDS)
    if workers is not None:
        _check_number("--workers", workers, 0, MOST_WORKERS)
    if not str(out).strip():
        raise KdlibError("--out: names no folder; give one, as in --out distilled.")
    out = Path(out).expanduser()
    others = [out / "README.md", *out.glob("report*")]
    others = [file.name for file in others if file.exists()]
    if others and not any(out.glob("students/*.json")):
        raise KdlibError(
            f"--out {out}: holds {others[0]}, which no distillation wrote and this one would "
            "replace; choose an empty folder."
        )
    folder = Path(data).expanduser().resolve()
    if folder.is_dir() and out.resolve().is_relative_to(folder):
        raise KdlibError(
            f"--out {out}: lies in the folder of the images, {data}, where the next run would "
            "look for images in it; choose one outside."
        )


def _check_file(option, file):
    if not file.is_file():
        raise KdlibError(f"{option}: there is no file {file}.")


def _check_number(option, value, lowest, highest):
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise KdlibError(f"{option} {value!r}: must be a whole number.")
    if not lowest <= value <= highest:
        raise KdlibError(f"{option} {value}: must lie between {lowest} and {highest}.")
