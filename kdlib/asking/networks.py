"""Networks that torchvision, timm or kdlib builds, with weights of your own. Needs torchvision.

They are called LIBRARY:NAME@FILE, as in torchvision:resnet50@weights.pt, or LIBRARY:NAME:FILE.
Nothing is downloaded here.
"""

import argparse
import difflib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision

from kdlib.config import OF_IMAGES, count_of
from kdlib.models import MODELS
from kdlib.reading.sentences import AuditError, reason

LIBRARIES = ("torchvision", "timm", "kdlib")
EXAMPLE = "as in torchvision:resnet50@weights.pt"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its colours
PRETRAINED = "pretrained"
FORM = re.compile(r"(\w+):([^:@]+)(?:([:@])(.+))?", re.DOTALL)
# what training scripts call the weights in a file, and what stands before their names
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # beside them, over many steps
PREFIX = re.compile(r"((module|_orig_mod|model|net)\.)+")
# heads of torchvision's googlenet and inception_v3 that serve training alone
AUXILIARY = ("aux1", "aux2", "AuxLogits")
METADATA = "kdlib"  # in a file of safetensors: what is needed to use the weights


@dataclass(frozen=True)
class Named:
    """A network as it is asked for."""

    text: str
    library: str
    name: str
    file: Path | str | None  # of weights; or "pretrained", those of the library; or None

    @property
    def network(self):
        """The text without the weights, as in torchvision:resnet50."""
        return f"{self.library}:{self.name}"


def named(text):
    """The Named of LIBRARY:NAME, LIBRARY:NAME@FILE, LIBRARY:NAME:FILE or LIBRARY:NAME@pretrained.

    FILE may hold colons and @ too, as on Windows.
    """
    found = FORM.fullmatch(str(text))
    if not found or found[1] not in LIBRARIES:
        raise AuditError(
            f"{text}: a network is LIBRARY:NAME@FILE, {EXAMPLE}, or where it is trained here "
            "LIBRARY:NAME; LIBRARY is torchvision, timm or kdlib."
        )
    library, name, mark, file = found.groups()
    if file is not None and (mark, file) != ("@", PRETRAINED):
        file = Path(file).expanduser()
    return Named(str(text), library, name, file)


def network(asked, classes, folder):
    """The module of a Named, with its weights; classes: the number of folders in folder."""
    if not isinstance(asked.file, Path):
        raise AuditError(
            f"{asked.text}: names no file of weights; nothing is downloaded, so give one, "
            f"{EXAMPLE}."
        )
    module = untrained(asked, classes)
    held = weights_of(asked.file)
    if differ := fill(module, asked, held, classes):
        own = count_of(len(held[differ[0]]), "class", "classes")
        raise AuditError(
            f"{asked.file}: its {differ[0]!r} is of {own}, but "
            f"{folder} has {count_of(classes, 'folder')}; an audit needs one for each class."
        )
    return module


def fill(module, asked, held, classes):
    """Load the weights {name: tensor} of a Named into a module of so many classes.

    Returns the names in the last layer where the weights are of another number of classes; there
    the module stays as it is. AuditError for weights of another network.
    """
    held = {name: of for name, of in held.items() if name.split(".")[0] not in AUXILIARY}
    own = module.state_dict()
    source = asked.text if asked.file == PRETRAINED else asked.file
    whose = f"those of {asked.library}'s {asked.name}"
    for names, others, what in ((own, held, "lacks"), (held, own, "has")):
        left = [name for name in names if name not in others]
        left = [name for name in left if not name.endswith("num_batches_tracked")]  # since 2018
        if left:
            raise AuditError(f"{source}: {what} {left[0]!r}, so the weights are not {whose}.")
    differ = [name for name in own if name in held and held[name].shape != own[name].shape]
    for name in differ:
        found, needed = tuple(held[name].shape), tuple(own[name].shape)
        if found[1:] != needed[1:] or needed[:1] != (classes,):
            raise AuditError(
                f"{source}: its {name!r} has shape {found}, but {whose} have {needed}."
            )
    fitting = {name: of for name, of in held.items() if name not in differ}
    module.load_state_dict(fitting, strict=False)
    return differ


def check_name(asked):
    """AuditError for a network that its library does not have."""
    if asked.library == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
    elif asked.library == "kdlib":
        known = OF_IMAGES
    else:
        timm = timm_of(asked)
        known = timm.list_models(include_tags=True) + timm.list_models()
    if asked.name not in known:
        near = difflib.get_close_matches(asked.name, known, n=3)
        hint = f"the nearest are {', '.join(near)}" if near else f"some are {', '.join(known[:3])}"
        raise AuditError(f"{asked.text}: {asked.library} has no {asked.name!r}; {hint}.")


def untrained(asked, classes):
    """The module of a Named as it is before training, without heads that serve training alone."""
    check_name(asked)
    with warnings.catch_warnings(action="ignore"):  # of a start that the weights replace
        if asked.library == "kdlib":
            return MODELS[asked.name](classes)
        if asked.library == "timm":
            return timm_of(asked).create_model(asked.name, pretrained=False, num_classes=classes)
        module = torchvision.models.get_model(asked.name, weights=None, num_classes=classes)
    if getattr(module, "aux_logits", False):
        module.aux_logits = False
        for head in AUXILIARY:
            if hasattr(module, head):
                setattr(module, head, None)
    return module


def timm_of(asked):
    """The module timm."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise AuditError(f"{asked.text}: needs {error.name}; pip install timm brings it.") from None
    return timm


def check_colours(mean, std, options=("--mean", "--std")):
    """AuditError for colours that no image has; None is not checked."""
    for option, values in zip(options, (mean, std), strict=True):
        if values is None:
            continue
        try:
            numbers = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.shape != (3,) or not ((numbers >= 0) & (numbers <= 1)).all():
            raise AuditError(f"{option}: must be three numbers from 0 to 1, red, green and blue.")
    if std is not None and not np.all(std):
        raise AuditError(f"{options[1]}: images are divided by it, so it must be above 0.")


def metadata_of(path):
    """What a student of kdlib distill says of its weights: class_names (list of text), mean and std
    (three numbers), size (px), network and kdlib (its version). Another file: {}."""
    if not isinstance(path, Path) or path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "{}"))
    # safetensors raises its own class on damaged bytes
    except Exception as error:
        raise AuditError(f"{path}: cannot be read ({reason(error)}).") from None


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
            raise AuditError(f"{path}: holds {inner[0]} and {averaged[0]}; save only one of them.")
        held = held[inner[0]]
    tensors = {}
    if isinstance(held, Mapping):
        tensors = {name: of for name, of in held.items() if isinstance(of, torch.Tensor)}
    if not tensors:
        raise AuditError(f"{path}: holds no tensors by name; write model.state_dict().")
    if all(map(PREFIX.match, tensors)):
        tensors = {PREFIX.sub("", name, count=1): of for name, of in tensors.items()}
    return tensors
