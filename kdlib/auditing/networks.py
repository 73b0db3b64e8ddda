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

from kdlib.auditing.read import AuditError, reason

LIBRARIES = ("torchvision", "timm")
EXAMPLE = "as in torchvision:resnet50:weights.pt"
# what training scripts call the weights in a file, and what stands before their names
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
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
    held = weights_of(asked.file)
    module = _without_weights(asked, classes)
    own = module.state_dict()
    for name in own:
        if name in held and held[name].shape != own[name].shape:
            _refuse_shape(asked, name, held[name].shape, own[name].shape, folder)
    lacking, foreign = module.load_state_dict(held, strict=False)
    if lacking or foreign:
        what = f"lacks {lacking[0]!r}" if lacking else f"has {foreign[0]!r} too"
        raise AuditError(
            f"{asked.file}: {what}, so it does not hold the weights of {asked.library}'s "
            f"{asked.name}."
        )
    return module


def _refuse_shape(asked, name, found, own, folder):
    """AuditError for a layer of one shape in a file and another in the network."""
    is_head = len(found) == len(own) and found[1:] == own[1:]
    if is_head:
        raise AuditError(
            f"{asked.file}: its layer {name!r} gives {found[0]} classes, but {folder} has {own[0]} "
            "folders; an audit needs one for each class."
        )
    raise AuditError(
        f"{asked.file}: its layer {name!r} has shape {tuple(found)}, but that of {asked.library}'s "
        f"{asked.name} has {tuple(own)}."
    )


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
        raise AuditError(
            f"{asked.text}: needs {error.name}, which is not installed: pip install timm"
        ) from None
    return timm


def weights_of(path):
    """{name: tensor} of a file of torch or safetensors, as a network calls them itself."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # options, as timm does
                held = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise AuditError(
            f"{path}: needs {error.name}, which is not installed: pip install safetensors"
        ) from None
    # torch, zipfile, pickle and safetensors raise a dozen classes on damaged bytes
    except Exception as error:
        why = reason(error)
        if isinstance(error, pickle.UnpicklingError):
            why = "it is damaged, or holds Python objects, which are not read"
        raise AuditError(
            f"{path}: cannot be read as weights ({why}); write model.state_dict() alone."
        ) from None
    while isinstance(held, Mapping):
        inner = [name for name in WRAPPERS if isinstance(held.get(name), Mapping)]
        if not inner:
            break
        held = held[inner[0]]
    tensors = {}
    if isinstance(held, Mapping):
        tensors = {name: of for name, of in held.items() if isinstance(of, torch.Tensor)}
    if not tensors:
        raise AuditError(f"{path}: holds no weights by name; write model.state_dict().")
    if all(map(PREFIX.match, tensors)):
        tensors = {PREFIX.sub("", name, count=1): of for name, of in tensors.items()}
    return tensors
