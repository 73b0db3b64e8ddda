"""Networks that torchvision or timm builds, with weights of your own. Nothing is downloaded.

They are called LIBRARY:NAME:FILE, as in torchvision:resnet50:weights.pt. Needs torch, torchvision.
"""

import argparse
import difflib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from kdlib.config import count_of
from kdlib.reading.sentences import AuditError, reason

LIBRARIES = ("torchvision", "timm")
EXAMPLE = "as in torchvision:resnet50:weights.pt"
# what training scripts call the weights in a file, and what stands before their names
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # beside them, over many steps
PREFIX = re.compile(r"((module|_orig_mod|model|net)\.)+")


@dataclass(frozen=True)
class Named:
    """A network as it is asked for."""

    text: str
    library: str
    name: str
    file: Path


def named(text):
    """The Named of LIBRARY:NAME:FILE, where FILE may hold colons too, as on Windows."""
    library, *rest = str(text).split(":", 2)
    if library not in LIBRARIES:
        raise AuditError(
            f"{text}: with a folder of images a model is LIBRARY:NAME:FILE, {EXAMPLE}; "
            f"LIBRARY is {' or '.join(LIBRARIES)}."
        )
    if len(rest) < 2 or not all(rest):
        raise AuditError(
            f"{text}: names no file of weights; nothing is downloaded, so give one, {EXAMPLE}."
        )
    return Named(str(text), library, rest[0], Path(rest[1]).expanduser())


def network(asked, classes, folder):
    """The module of a Named, with its weights; classes: the number of folders in folder."""
    module = _without_weights(asked, classes)
    held = weights_of(asked.file)
    own = module.state_dict()
    whose = f"those of {asked.library}'s {asked.name}"
    for names, others, what in ((own, held, "lacks"), (held, own, "has")):
        left = [name for name in names if name not in others]
        left = [name for name in left if not name.endswith("num_batches_tracked")]  # since 2018
        if left:
            raise AuditError(f"{asked.file}: {what} {left[0]!r}, so the weights are not {whose}.")
    differ = [name for name in own if name in held and held[name].shape != own[name].shape]
    for name in differ:
        found, needed = tuple(held[name].shape), tuple(own[name].shape)
        if found[1:] != needed[1:] or needed[:1] != (classes,):
            raise AuditError(
                f"{asked.file}: its {name!r} has shape {found}, but {whose} have {needed}."
            )
    if differ:
        own = count_of(len(held[differ[0]]), "class", "classes")
        raise AuditError(
            f"{asked.file}: its {differ[0]!r} is of {own}, but "
            f"{folder} has {count_of(classes, 'folder')}; an audit needs one for each class."
        )
    module.load_state_dict(held, strict=False)
    return module


def _without_weights(asked, classes):
    """A module of torchvision or timm as it is before training."""
    if asked.library == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
        make = torchvision.models.get_model
        options = {"weights": None}
    else:
        timm = timm_of(asked)
        known = timm.list_models(include_tags=True) + timm.list_models()
        make = timm.create_model
        options = {"pretrained": False}
    if asked.name not in known:
        near = difflib.get_close_matches(asked.name, known, n=3)
        hint = f"the nearest are {', '.join(near)}" if near else f"some are {', '.join(known[:3])}"
        raise AuditError(f"{asked.text}: {asked.library} has no {asked.name!r}; {hint}.")
    with warnings.catch_warnings(action="ignore"):  # of a start that the weights replace
        return make(asked.name, num_classes=classes, **options)


def timm_of(asked):
    """The module timm."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise AuditError(f"{asked.text}: needs {error.name}; pip install timm brings it.") from None
    return timm


def weights_of(path):
    """{name: tensor} of a file of torch or safetensors, as a network calls them itself."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held = load_file(path)
        else:
            # timm writes its options too; what is not read is said by the error, without a warning
            allowed = torch.serialization.safe_globals([argparse.Namespace])
            with allowed, warnings.catch_warnings(action="ignore"):
                held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read ({reason(error)}).") from None
    # torch, zipfile, pickle and safetensors raise a dozen classes on damaged bytes
    except Exception as error:
        why = reason(error)
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            why = "it is damaged, or holds code, as a whole model does, which is not run"
        raise AuditError(f"{path}: holds no weights ({why}); write model.state_dict().") from None
    while isinstance(held, Mapping):
        inner = [name for name in WRAPPERS if isinstance(held.get(name), Mapping)]
        if not inner:
            break
        if averaged := [name for name in AVERAGED if isinstance(held.get(name), Mapping)]:
            raise AuditError(
                f"{path}: holds {inner[0]} and {averaged[0]}; write one of them alone."
            )
        held = held[inner[0]]
    tensors = {}
    if isinstance(held, Mapping):
        tensors = {name: of for name, of in held.items() if isinstance(of, torch.Tensor)}
    if not tensors:
        raise AuditError(f"{path}: holds no tensors by name; write model.state_dict().")
    if all(map(PREFIX.match, tensors)):
        tensors = {PREFIX.sub("", name, count=1): of for name, of in tensors.items()}
    return tensors
