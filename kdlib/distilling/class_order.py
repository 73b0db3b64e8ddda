"""What a teacher's classes are called, in the order of its outputs, against those of the images."""

import json
import re
from pathlib import Path

import torchvision

from kdlib.config import KdlibError, count_of
from kdlib.reading.classes import folded, given_names
from kdlib.reading.sentences import quoted

WNID = re.compile(r"n\d{8}")  # what ImageNet calls a class: a noun of WordNet
PLACEHOLDER = re.compile(r"LABEL_\d+")  # what Hugging Face calls classes without names
UNKNOWN = "the accuracy of the teacher on held-out images will tell"
HELP = "--teacher-classes FILE gives their names in the order of its outputs"


def config_beside(file):
    """What the config.json beside a file of weights says, as timm and Hugging Face write it."""
    try:
        said = json.loads((file.parent / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):  # of something else
        return {}
    return said if isinstance(said, dict) else {}


def names_of(asked, class_names, names_file, held, config, library):
    """(names of the teacher's classes in order, or (); what says so).

    names_file: that was given. held: what the file of weights says. config: of config_beside.
    library: networks.Offered, of weights that it fetches, or None."""
    if names_file is not None:
        return given_names(Path(names_file)), f"{names_file}"
    if "class_names" in held:
        return given_names(held["class_names"]), f"{asked.file}"
    if config.get("label_names") or config.get("id2label"):
        return given_names(config), f"{asked.file.parent / 'config.json'}"
    if library is None:
        return (), ""
    if library.classes == 1000:  # ImageNet's, in one order everywhere; some names are there twice
        return _imagenet(class_names), asked.library
    return library.names, asked.library


def _imagenet(class_names):
    """The 1,000 classes of ImageNet: in words, or as its folders are called where these are so."""
    if all(map(WNID.fullmatch, class_names)):
        try:
            from timm.data import ImageNetInfo
        except ModuleNotFoundError:
            return ()
        return tuple(ImageNetInfo("imagenet-1k").label_names())
    return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def compared(names, source, class_names):
    """(A sentence on a teacher's names, from a source, against class_names; which of its outputs is
    that of each class, or None where they come in the same order or nobody knows).

    KdlibError where they are others; case, spaces and _ do not matter.
    """
    unknown = f"their order could not be compared with that of the folders; {UNKNOWN} ({HELP})."
    if not names or all(map(PLACEHOLDER.fullmatch, names)):
        return f"Nothing says what the teacher's classes are called, so {unknown}", None
    if len(names) != len(class_names):
        raise KdlibError(
            f"{source}: names {count_of(len(names), 'class', 'classes')} of the teacher, but the "
            f"images have {len(class_names)}; {HELP}."
        )
    if all(map(WNID.fullmatch, names)) != all(map(WNID.fullmatch, class_names)):
        return (
            f"{source} calls the teacher's classes {quoted(names[0])} and so on, the folders are "
            f"called {quoted(class_names[0])}, so {unknown}"
        ), None
    ours, theirs = (list(map(folded, several)) for several in (class_names, names))
    differ = [k for k, our in enumerate(ours) if our != theirs[k]]
    if not differ:
        said = f"The teacher's classes are those of the images, in the same order (by {source})."
        return said, None
    k = differ[0]
    which = f"its class {k} is {quoted(names[k])}, that of the images {quoted(class_names[k])}"
    if sorted(set(ours)) == sorted(theirs):
        return (
            "The teacher's classes come in a different order from those of the images (by "
            f"{source}: {which}); its outputs are reordered to match the images."
        ), tuple(map(theirs.index, ours))
    raise KdlibError(
        f"{source}: the teacher has other classes: {which}; if they are called otherwise, {HELP}."
    )
