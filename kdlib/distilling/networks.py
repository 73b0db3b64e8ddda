"""Students, drawn from a seed, and the teacher, with the order of its classes and its colours.

Networks are called as kdlib.asking.networks says: LIBRARY:NAME, LIBRARY:NAME@FILE, or
LIBRARY:NAME@pretrained, of which the library fetches the weights. C classes.
"""

import copy
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from kdlib.asking.networks import (
    IMAGENET,
    PRETRAINED,
    check_colours,
    check_name,
    fill,
    metadata_of,
    timm_of,
    untrained,
    weights_of,
)
from kdlib.config import KdlibError, count_of
from kdlib.distilling.class_order import compared, config_beside, names_of
from kdlib.reading.sentences import reason
from kdlib.teacher import weights_sha256

GUESSED = (
    "ImageNet's, since nothing says what it was trained with; --teacher-mean and --teacher-std "
    "give others"
)


# ---------------------------------------------------------------- students


@torch.random.fork_rng(devices=[])
def fresh(asked, classes, seed, say=None):
    """The module of a Named in channels_last, its weights drawn from the seed.

    With a file, or "pretrained", it starts from those weights; a last layer of another number of
    classes is drawn anew. The process's own random state is untouched. say: is given a sentence on
    the weights that were read. KdlibError for what cannot be had.
    """
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
    module = untrained(asked, classes)
    if asked.file is not None:
        held = fetched(asked) if asked.file == PRETRAINED else weights_of(asked.file)
        differ = fill(module, asked, held, classes)
        said = f"{asked.text}: the student starts from these weights"
        if differ:
            own = count_of(len(held[differ[0]]), "class", "classes")
            said += (
                f"; its last layer ({', '.join(differ)}), there of {own}, is drawn anew for "
                f"{count_of(classes, 'class', 'classes')}"
            )
        if say:
            say(f"{said}.")
    return module.to(memory_format=torch.channels_last)


@torch.random.fork_rng(devices=[])
@torch.no_grad()
def check_output(module, classes, size, name="the network"):
    """KdlibError unless images (2, 3, size, size), on the CPU, give logits (2, classes).

    Of a module with parameters that can be trained, in training mode too. It is left as it is, and
    so is the process's random state. name: what it is called in the sentence.
    """
    probe = copy.deepcopy(module)
    trains = any(parameter.requires_grad for parameter in probe.parameters())
    for mode in (False, True) if trains else (False,):
        try:
            logits = probe.train(mode)(torch.zeros(2, 3, size, size))
        # whatever networks raise where images are too small, or not of the size they are made for
        except Exception as error:
            raise KdlibError(
                f"{name}: takes no images of {size} x {size} ({reason(error)}); choose another "
                "--size, or another network."
            ) from None
        shape = getattr(logits, "shape", None)
        if shape != (2, classes):
            found = f"a {type(logits).__name__}" if shape is None else f"shape {tuple(shape)}"
            raise KdlibError(
                f"{name}: gives {found} for 2 images{' in training' if mode else ''}; a network "
                f"that gives logits of shape (2, {classes}) is needed."
            )


# ---------------------------------------------------------------- what libraries offer


@dataclass(frozen=True)
class Offered:
    """What a library says of the weights that it fetches."""

    classes: int
    names: tuple  # of the classes, in order; () where it says none
    mean: tuple
    std: tuple
    source: str  # an address, or the name of a repository


def offered(asked):
    """What the library of a Named says of its pretrained weights, without fetching them."""
    check_name(asked)
    if asked.library == "torchvision":
        weights = torchvision.models.get_model_weights(asked.name).DEFAULT
        names = tuple(weights.meta["categories"])
        looks = weights.transforms()
        colours = tuple(looks.mean), tuple(looks.std)
        if asked.name in ("googlenet", "inception_v3"):
            colours = (0.5,) * 3, (0.5,) * 3  # to which they turn ImageNet's themselves
        return Offered(len(names), names, *colours, weights.url)
    known = timm_of(asked).get_pretrained_cfg(asked.name) if asked.library == "timm" else None
    if known is None or not known.has_weights:
        raise KdlibError(
            f"{asked.text}: {asked.library} has no weights of {asked.name}; give a file, as in "
            f"{asked.network}@weights.pt."
        )
    names = tuple(known.label_names or ())
    source = known.hf_hub_id or known.url or known.file
    return Offered(known.num_classes, names, tuple(known.mean), tuple(known.std), str(source))


def fetched(asked):
    """{name: tensor} of the weights that the library of a Named fetches, or has fetched before."""
    source = offered(asked).source
    try:
        if asked.library == "timm":
            module = timm_of(asked).create_model(asked.name, pretrained=True)
        else:
            module = torchvision.models.get_model(asked.name, weights="DEFAULT")
    # libraries let errors of the network, of files and of their own through
    except Exception as error:
        raise KdlibError(
            f"{asked.text}: {asked.library} cannot fetch its weights from {source} "
            f"({reason(error)}); without a connection give a file, as in "
            f"{asked.network}@weights.pt."
        ) from None
    return module.state_dict()


# ---------------------------------------------------------------- the teacher


@dataclass(frozen=True)
class Given:
    """A teacher: frozen, in eval mode, on the CPU."""

    module: nn.Module
    mean: tuple  # of red, green, blue: how it takes images
    std: tuple
    sha256: str  # of its weights; see kdlib.teacher.weights_sha256
    said: tuple  # sentences on its weights, the order of its classes, its colours


@torch.random.fork_rng(devices=[])  # modules are drawn before they are given weights
def given(asked, class_names, names_file=None, mean=None, std=None):
    """The Given of a Named, whose classes are class_names in their order.

    names_file: of the names of its classes in the order of its outputs, one a line or JSON, such as
    a config.json with id2label. Without it they are sought in the weights' own metadata, in a
    config.json beside them, and in what the library says of pretrained weights.
    mean, std: by which its images are normalised; without them the weights' own, or the library's.
    KdlibError for weights that cannot be had, of another number of classes, or of classes that are
    called otherwise. Where they come in another order, the outputs are put into that of the images.
    """
    check_colours(mean, std, ("--teacher-mean", "--teacher-std"))
    if asked.file is None:
        raise KdlibError(
            f"{asked.text}: a teacher needs weights; give a file, as in "
            f"{asked.network}@weights.pt, or {asked.network}@{PRETRAINED}."
        )
    pretrained = asked.file == PRETRAINED
    library = offered(asked) if pretrained else None
    if pretrained:  # refused before anything is fetched
        _check_count(asked, library.classes, class_names)
    config = {} if pretrained else config_beside(asked.file)
    held = metadata_of(asked.file)
    names, source = names_of(asked, class_names, names_file, held, config, library)
    told, order = compared(names, source, class_names)
    module = untrained(asked, len(class_names))
    weights = fetched(asked) if pretrained else weights_of(asked.file)
    if differ := fill(module, asked, weights, len(class_names)):
        _check_count(asked, len(weights[differ[0]]), class_names)
    module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    mean, std, said = _colours(asked, module, mean, std, held, config, library)
    colours = f"The teacher's images are {said}"
    if order:
        module = Reordered(module, order)
    sha256 = weights_sha256(module)  # of the order too
    source = f", fetched from {library.source}" if pretrained else ""
    read = f"The teacher is {asked.text}{source}; its weights are {sha256[:12]}."
    return Given(module, mean, std, sha256, (read, told, colours))


def _check_count(asked, own, class_names):
    """KdlibError unless a teacher of `own` classes has as many as the images."""
    if own != len(class_names):
        raise KdlibError(
            f"{asked.text}: the teacher has {count_of(own, 'class', 'classes')}, the images "
            f"{len(class_names)}; a teacher trained on these classes is needed."
        )


def colours(asked, module, mean=None, std=None):
    """(mean, std) of the images that a student is shown: as asked, or as its network takes them."""
    check_colours(mean, std)
    held = {}
    library = None
    if asked.file == PRETRAINED:
        library = offered(asked)
    elif asked.file is not None:
        held = metadata_of(asked.file)
    return _colours(asked, module, mean, std, held, {}, library)[:2]


def _colours(asked, module, mean, std, held, config, library):
    """(mean, std, how in words) of the colours that a network takes."""
    known = [("as asked", mean, std), ("as its file says", held.get("mean"), held.get("std"))]
    beside = config.get("pretrained_cfg") or {}
    check_colours(beside.get("mean"), beside.get("std"), ("config.json: mean", "config.json: std"))
    known.append(("as the config.json beside it says", beside.get("mean"), beside.get("std")))
    if library is not None:
        known.append((f"as {asked.library} says of its weights", library.mean, library.std))
    elif asked.library == "timm":
        said = timm_of(asked).data.resolve_model_data_config(module)
        known.append((f"as timm says of {asked.name}", said["mean"], said["std"]))
    known.append((GUESSED, *IMAGENET))
    why, mean = next((why, tuple(values)) for why, values, _ in known if values is not None)
    why_std, std = next((why, tuple(values)) for why, _, values in known if values is not None)
    source = why if why == why_std else f"{why}; the deviation {why_std}"
    return mean, std, f"normalised with the mean {mean} and the deviation {std}: {source}."


class Reordered(nn.Module):
    """A network whose outputs are put into another order: order[k] is the one that comes as k."""

    def __init__(self, module, order):
        super().__init__()
        self.module = module
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images):
        return self.module(images)[:, self.order]


class Renormalised(nn.Module):
    """A network that takes images normalised by (mean_a, std_a) and shows its own network the same
    images normalised by (mean_b, std_b); where these are equal, untouched."""

    def __init__(self, module, mean_a, std_a, mean_b, std_b):
        super().__init__()
        self.module = module
        looks = torch.tensor([mean_a, std_a, mean_b, std_b], dtype=torch.float64)
        mean_a, std_a, mean_b, std_b = looks.reshape(4, 1, -1, 1, 1)
        self.same = torch.equal(mean_a, mean_b) and torch.equal(std_a, std_b)
        # no part of the weights, so of no state_dict
        self.register_buffer("scale", (std_a / std_b).float(), persistent=False)
        self.register_buffer("shift", ((mean_a - mean_b) / std_b).float(), persistent=False)

    def forward(self, images):  # (B, 3, H, W)
        if not self.same:
            images = (images * self.scale + self.shift).to(images.dtype)
        return self.module(images)
