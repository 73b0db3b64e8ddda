"""What a loss takes: what torch would let pass in silence is refused in one sentence.

An argument is checked by its name, which means the same in every loss. Types and shapes cost
nothing. Values are looked at on a CPU; on a GPU, where looking waits for the device, in calls 1, 2,
4, 8, ... alone; and never while a step is captured or compiled. kdlib's own loop is trusted: its
arguments were made here."""

import contextlib
import contextvars
import functools
import inspect
import itertools
import math
import sys
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from kdlib.config import KdlibError, did_you_mean


class Takes(NamedTuple):
    """What an argument may be."""

    shapes: tuple  # axes of a tensor, or several such; () is a single number
    low: float = -sys.float_info.max  # of every entry; -inf: any, and NaN
    high: float = sys.float_info.max
    help: str = "see the docstring"


LOGITS = (("examples", "classes"),)
EACH = (("examples",),)
CLASSES = (("classes",),)
NUMBER = ((),)
TINY = 1e-300
MOST = sys.float_info.max

TAKES = {
    # those of a student that diverges show in its loss
    "logits": Takes(LOGITS, -math.inf, help="each row holds the scores of an example"),
    "teacher_logits": Takes(LOGITS, help="teacher and student score the same examples"),
    "p": Takes(LOGITS, 0, 1, "logits.softmax(dim=1) makes probabilities"),
    "y": Takes(EACH, help="a label is the number of a class, as argmax(dim=1) gives it"),
    "group": Takes(EACH, help="groups are numbered from 0, and each has its margin or name"),
    "margin": Takes((("groups",),), 0, 1, "kdlib.teacher.group_margins makes them"),
    "margins": Takes(EACH, -1, 1, "kdlib.losses.label_margin makes one for each example"),
    "alpha": Takes((*EACH, ()), 0, 1, "0 is the label alone, 1 the teacher alone"),
    "rho": Takes((*LOGITS, *CLASSES), help="0 is no margin at all"),
    "prior": Takes(CLASSES, TINY, help="it is the share of each class in the training labels"),
    "weight": Takes(CLASSES, TINY, help="kdlib.rivals.effective_weights makes them"),
    "counts": Takes(CLASSES, TINY, help="each class needs a training example"),
    "part": Takes((("parts", "classes"),), 0, 1, "1 marks the classes of a part"),
    "temperature": Takes(NUMBER, TINY, help="1 leaves the logits as they are"),
    "tau": Takes(NUMBER, 0, help="0 leaves the logits as they are"),
    "beta": Takes(NUMBER, 0, help="it weighs the classes beside the label"),
    "balance": Takes(NUMBER, 0, 0.999999, "0 weighs all classes alike"),
}
WHOLE = ("y", "group")  # int64
WORDS = {"soften": ("both", "teacher"), "kind": ("avg", "max", "hit")}
ROUNDING = 1e-6  # allowed beyond a range
MANY = 32  # examples that are no coincidence

_trusting = contextvars.ContextVar("trusting", default=False)  # in this thread
_calls = itertools.count(1)  # on a GPU


@contextlib.contextmanager
def trusted():
    """A block in which losses take their arguments as they are: saves 0.1 ms a call on a CPU."""
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


def checked(function):
    """The function with its arguments checked, KdlibError if one is wrong; the teacher detached."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*values, **named):
        if _trusting.get():
            return function(*values, **named)
        given = signature.bind(*values, **named).arguments
        try:
            _check(given)
        except KdlibError as error:
            raise KdlibError(f"{function.__name__}: {error}") from None
        if "teacher_logits" in given:
            given["teacher_logits"] = given["teacher_logits"].detach()
        if torch.compiler.is_compiling():
            return function(**given)
        with trusted():  # what it calls in turn gets what was checked here
            return function(**given)

    return call


def _check(given):
    """KdlibError for the first of the arguments {name: value} that is wrong."""
    sizes = {}  # of axes, by their words
    tensors = {}
    if "group_names" in given:
        names = given["group_names"]
        try:
            sizes["groups"] = len(names)
        except TypeError:
            found = str(names)[:40]
            wanted = "must list a name for each group"
            raise KdlibError(f"group_names is {found}, but {wanted}.") from None
    for name, value in given.items():
        if name in WORDS and str(value) not in WORDS[name]:
            raise KdlibError(f"{name}={value!r}: {did_you_mean(value, WORDS[name])}")
        if name not in TAKES:
            continue
        takes = TAKES[name]
        if () in takes.shapes and isinstance(value, Real):
            if not takes.low <= value <= takes.high:
                raise _refused(name, f" is {value}", _between(takes.low, takes.high))
            continue
        _check_form(name, value, sizes)
        tensors[name] = value.detach()
        if name == "group" and value is given.get("y"):  # then groups are classes
            sizes["groups"] = sizes["classes"]
    if _may_look(next(iter(tensors.values()))):
        # under vmap, and of fake tensors, there is nothing to see
        with contextlib.suppress(RuntimeError):
            _check_values(tensors, sizes)


def _refused(name, found, wanted, help=None):
    return KdlibError(f"{name}{found}, but must {wanted}: {help or TAKES[name].help}.")


def _between(low, high):
    if high < MOST:
        return f"lie between {low} and {high}"
    if low < 0:
        return "be finite"
    return "be finite and above 0" if low else "be finite and 0 or more"


def _check_form(name, value, sizes):
    """Type and shape of a tensor; notes the sizes of its axes."""
    if not isinstance(value, Tensor):
        found = f" is of type {type(value).__name__}"
        number = "a number or " if () in TAKES[name].shapes else ""
        help = "torch.as_tensor makes one of a list or an array"
        raise _refused(name, found, f"be {number}a torch tensor", help)
    for axes in TAKES[name].shapes:
        wanted = [sizes.get(axis, n) for axis, n in zip(axes, value.shape, strict=False)]
        if len(axes) == value.ndim and wanted == list(value.shape):
            break
    else:
        wanted = " or ".join(_in_words(axes, sizes) for axes in TAKES[name].shapes)
        raise _refused(name, f" has the shape {tuple(value.shape)}", f"have the shape {wanted}")
    sizes.update(zip(axes, value.shape, strict=True))
    if sizes.get("classes", 2) < 2:
        help = "one score f of two classes becomes two by torch.cat([0 * f, f], dim=1)"
        found = f" has the shape {tuple(value.shape)}"
        raise _refused(name, found, "hold two classes or more", help)
    if name in WHOLE and value.dtype != torch.int64:
        raise _refused(name, f" is of {value.dtype}", "be of torch.int64", f"{name}.long() helps")
    if name not in (*WHOLE, "counts", "part") and not value.is_floating_point():
        help = f"{name}.float() helps"
        raise _refused(name, f" is of {value.dtype}", "be of a floating type", help)


def _in_words(axes, sizes):
    """A shape like (64 examples, 10 classes), with the sizes that are known."""
    words = [f"{sizes[axis]} {axis}" if axis in sizes else axis for axis in axes]
    return f"({', '.join(words)})"


def _may_look(tensor):
    """Whether the values of a tensor, and of those beside it, may be asked for."""
    if torch.compiler.is_compiling():
        return False
    if tensor.device.type == "cpu":
        return True
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    call = next(_calls)
    return call & (call - 1) == 0


def _check_values(tensors, sizes):
    ends = {"y": sizes.get("classes"), "group": sizes.get("groups")}
    for name, tensor in tensors.items():
        if name in ends:
            _check_entries(name, tensor, 0, ends[name] - 1)
        else:
            _check_entries(name, tensor, TAKES[name].low, TAKES[name].high)
        if name in ("logits", "teacher_logits") and _are_probabilities(tensor):
            help = "pass the scores before the softmax, or the logarithm of the probabilities"
            raise _refused(name, " holds probabilities", "hold logits", help)
    if "margin" in tensors and _are_of_examples(tensors["margin"], tensors["group"], sizes):
        each = f" has an entry for each of the {len(tensors['group'])} examples of the batch"
        raise _refused("margin", each, "have one for each group")


def _check_entries(name, tensor, low, high):
    """Every entry lies between low and high, and none is NaN."""
    if low == -math.inf or tensor.numel() == 0:
        return
    slack = ROUNDING if high < MOST else 0
    least, most = torch.aminmax(tensor)
    if least.item() >= low - slack and most.item() <= high + slack:
        return
    values = tensor.double()
    wrong = ~((values >= low - slack) & (values <= high + slack))
    at = wrong.nonzero()[0].tolist()
    found = f"{at or ''} is {values[tuple(at)].item():.6g}"
    raise _refused(name, found, _between(low, high))


def _are_probabilities(logits):
    """Whether no entry is below 0 and every row sums to 1, as no network's logits do; a single row
    may by chance. Many rows may be rounded, by half precision or in a file."""
    if len(logits) < 2 or logits.min().item() < 0:
        return False
    rounded = 1e-3 if len(logits) >= MANY else 1e-5
    off = (logits.double().sum(dim=1) - 1).abs().max()
    return off.item() < max(rounded, torch.finfo(logits.dtype).eps)


def _are_of_examples(margin, group, sizes):
    """Whether a batch has as many margins as examples, and no group from the upper three quarters
    of what would then be groups. Not told where these may be the classes, nor in small batches."""
    if len(margin) != len(group) or len(margin) == sizes["classes"] or len(group) < MANY:
        return False
    return 4 * (group.max().item() + 1) <= len(margin)
