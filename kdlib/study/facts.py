"""The facts in the JSON file of a record: what each must be, their layout, and their seal."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from kdlib.config import KdlibError, did_you_mean

SEAL = "sha256"  # the last fact: a hash over all the others
SPLITS = ("val", "test", "left_out")
MOST = 2**53  # no count is larger
LARGEST = sys.float_info.max
CURVES = ("loss", "cross_entropy")
PROCESSOR = ("name", "family", "model", "capability")


class Fact(NamedTuple):
    """right(value, config, facts): whether a value can be believed; must: what it has to be.

    needed: whether a record is refused without it; student: whether only students have it."""

    right: Callable
    must: str
    needed: bool = True
    student: bool = False


def whole(value, lowest=0):
    return type(value) is int and lowest <= value <= MOST


def finite(value, low=-LARGEST, high=LARGEST):
    return type(value) in (int, float) and low <= value <= high


def text(value):
    """Whether a value is text that can be shown: no lone surrogates, no codes for a terminal."""
    return type(value) is str and value != "" and value.isprintable()


def list_of(right, value, length):
    """Whether a value is a list of such things, as many as `length`."""
    return type(value) is list and len(value) == length and all(map(right, value))


def table_of(right, value, names=None):
    """Whether a value is {text: such things}, of just these names if they are known."""
    named = type(value) is dict and (names is None or set(value) == set(names))
    return named and all(map(right, value.values()))


def is_share(value):
    return finite(value, 0, 1)


def nothing_or(right):
    return lambda value: value is None or right(value)


def is_hash(value):
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def names(value):
    return type(value) is list and all(map(text, value)) and len(set(value)) == len(value) > 0


def alone(right):
    """right(value) as a Fact asks it, which tells the config and the other facts too."""
    return lambda value, cfg, facts: right(value)


def by_group(right):
    """The same of a list, which has such a value for each group."""
    return lambda value, cfg, facts: list_of(right, value, len(facts["group_names"]))


def by_epoch(value, cfg, length):
    """Whether a value is {epoch: list of `length` rates} of some epochs."""
    if not table_of(lambda rates: list_of(nothing_or(is_share), rates, length), value):
        return False
    return set(value) <= {str(epoch) for epoch in range(1, cfg.epochs + 1)}


def of_curves(value, cfg, facts):
    return table_of(lambda curve: list_of(finite, curve, cfg.epochs), value, CURVES)


def of_margins(value, cfg, facts):
    lengths = {"example": sum(facts["train_counts"]), "class": len(facts["class_names"])}
    length = lengths.get(cfg.margin_level, len(facts["group_names"]))
    return value is None or list_of(is_share, value, length)


HASH = Fact(alone(is_hash), "64 hexadecimal digits")
NAMES = Fact(alone(names), "a list of different names")
TEXT = Fact(alone(text), "text")
COUNT = Fact(alone(lambda value: whole(value, 1)), "a whole number, 1 or more")
MARGINS = Fact(by_group(is_share), "a number from 0 to 1 for each group", student=True)

# in an order in which none needs one that comes later
FACTS = {
    "data_sha256": HASH,
    "class_names": NAMES,
    "group_names": NAMES,
    "train_counts": Fact(by_group(whole), "a whole number for each group"),
    "weights_sha256": HASH,
    "curves": Fact(of_curves, f"a finite number for each epoch, of {' and '.join(CURVES)}"),
    "post_hoc_tau": Fact(alone(nothing_or(lambda value: finite(value, 0))), "nothing, or a number"),
    "val_accuracy_by_group": Fact(
        lambda value, cfg, facts: by_epoch(value, cfg, len(facts["group_names"])),
        "a number from 0 to 1 for each group, by epoch",
    ),
    "val_accuracy_by_half": Fact(
        lambda value, cfg, facts: (
            by_epoch(value, cfg, 2) and list(value) == list(facts["val_accuracy_by_group"])
        ),
        "two numbers from 0 to 1, by the same epochs",
    ),
    "seconds": Fact(alone(lambda value: finite(value, 0)), "a number, 0 or more"),
    "together": COUNT,
    "device": TEXT,
    "processor": Fact(
        alone(lambda value: table_of(nothing_or(text), value, PROCESSOR)),
        f"text or nothing for each of {', '.join(PROCESSOR)}",
        needed=False,
    ),
    "kernels": Fact(alone(lambda value: type(value) is dict), "names and values", needed=False),
    "threads": COUNT,
    "precision": Fact(lambda value, cfg, facts: value == cfg.precision, "that of its config"),
    "git": TEXT,
    "versions": Fact(alone(lambda value: table_of(text, value)), "names and versions"),
    "teacher_key": Fact(
        lambda value, cfg, facts: value == cfg.teacher_config().key(),
        "the run that its config names",
        student=True,
    ),
    "teacher_sha256": HASH._replace(student=True),
    "teacher_logits": Fact(
        alone(lambda value: value in ("table", "live")), "'table' or 'live'", student=True
    ),
    "teacher_margin_val": MARGINS,
    "teacher_margin_train": MARGINS,
    "margins": Fact(
        of_margins, "nothing, or a number from 0 to 1 for each group, class or image", student=True
    ),
    "fold_teacher_keys": Fact(
        lambda value, cfg, facts: value == [teacher.key() for teacher in cfg.dependencies()[1:]],
        "the runs that its config names",
        student=True,
    ),
    "npz_sha256": HASH,
    "labels_sha256": Fact(
        alone(lambda value: table_of(is_hash, value, SPLITS)),
        f"64 hexadecimal digits for each of {', '.join(SPLITS)}",
    ),
}


def check(facts, cfg):
    """KdlibError, a sentence about one fact, unless these can be the facts of the run of a Config.

    facts: {name: value} as JSON gives them, without recipe, config and seal."""
    for name in facts:
        if name not in FACTS:
            raise KdlibError(f"{name!r} is not a fact of a record: {did_you_mean(name, FACTS)}")
    for name, fact in FACTS.items():
        if fact.student and cfg.teacher is None:
            if name in facts:
                raise KdlibError(f"it has {name}, but its config has no teacher")
        elif name in facts:
            if not fact.right(facts[name], cfg, facts):
                raise KdlibError(f"{name} is {facts[name]!r:.60}, must be {fact.must}")
        elif fact.needed:
            raise KdlibError(f"it lacks {name}")


def sealed(facts):
    """The facts with their seal, which comes last, whether or not they had one.

    It is a hash of all the others, however they are laid out in a file."""
    others = {name: value for name, value in facts.items() if name != SEAL}
    canonical = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return others | {SEAL: hashlib.sha256(canonical.encode()).hexdigest()}


def laid_out(facts):
    """The text of a JSON file: one line for each fact."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parsed(content):
    """The facts in the bytes of a JSON file. ValueError saying what is wrong with it."""

    def refuse(word):
        raise ValueError(f"it holds {word}, which is no number")

    try:
        facts = json.loads(content.decode(), parse_constant=refuse)
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    if type(facts) is not dict:
        raise ValueError("it holds no facts by name")
    return facts
