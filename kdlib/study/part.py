"""A part of a study, as `python -m kdlib run` takes it: some pairs, methods and seeds."""

import re
import shlex
from typing import NamedTuple

from kdlib.config import KdlibError, count_of
from kdlib.study.done import complete_seeds
from kdlib.study.files import exists
from kdlib.study.studies import Study


class Part(NamedTuple):
    """Some runs of a study, and what to compare if they are of methods that it does not plan."""

    configs: list  # with their teachers
    compared: Study | None  # the pairs and methods of the part, with one_hot and kd
    seeds: int  # how many first ones it is compared over


def part_of(whole, pairs=(), methods=(), seeds=None):
    """The Part of a study with these pairs and methods, see Study.part, and seeds.

    seeds: "4", the first four; "2-5", both ends included; None: all, or for unplanned methods
    those whose one_hot and kd are on record. KdlibError for what the study does not have."""
    chosen = whole.part(pairs, methods)
    some = range(whole.seeds)
    compared = None
    if set(chosen.methods) - set(whole.methods):
        base = whole.part(pairs, ["one_hot", "kd"])
        some = range(complete_seeds(base) or whole.seeds)
        compared = base.with_methods(methods)
    if seeds is not None:
        some = _range_of(seeds, whole)
    configs = chosen(some)
    if not configs:
        most = count_of(max(whole.fewer[method] for method in methods), "seed")
        raise KdlibError(
            f"--seeds {seeds}: study {whole.name} plans {most} of {' and '.join(methods)}."
        )
    return Part(configs, compared, some.stop)


def _range_of(text, whole):
    found = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})", text)
    first, last = found.groups() if found else (None, 0)
    some = range(int(first), int(last) + 1) if first else range(int(last))
    if not some or some.stop > whole.seeds:
        planned = f"study {whole.name} has {count_of(whole.seeds, 'planned seed')}"
        raise KdlibError(
            f"--seeds {text}: must be a number from 1 to {whole.seeds}, for the first ones, or a "
            f"range such as 0-{whole.seeds - 1}, as {planned}."
        )
    return some


def lacking(what, chosen, seeds):
    """Why there is no comparison, say, of a Study's first seeds yet: how many runs they lack, and
    the command that does them. "" if they lack none."""
    missing = [cfg for cfg in chosen(seeds) if not exists(cfg)]
    if not missing:
        return ""
    words = ["python", "-m", "kdlib", "run", chosen.name]
    for pair in chosen.pairs:
        words += ["--pair", "/".join(pair)]
    for method in chosen.methods:
        words += ["--method", method]
    command = shlex.join([*words, "--seeds", str(seeds)])
    of_seeds = f"{what} of the first {count_of(seeds, 'seed')} yet"
    return f"no {of_seeds}, for want of {count_of(len(missing), 'run')}: {command}"
