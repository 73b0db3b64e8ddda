"""An audit of networks on a folder of images, which has a folder for each class.

Needs torch and torchvision; see networks for how models are called.
"""

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdlib.asking.models import audit_models
from kdlib.asking.networks import IMAGENET, check_colours, metadata_of, named, network, timm_of
from kdlib.config import KdlibError, count_of
from kdlib.reading.inputs import titles
from kdlib.reading.read import source
from kdlib.reading.rows import joined_by_path
from kdlib.reading.sentences import AuditError, reason
from kdlib.study.files import available_cores

CIFAR = 32  # pixels of the images that kdlib's own networks are made for
SMALL = 64  # pixels up to which images are shown whole
MOST_WORKERS = 8  # processes that read images


def audit_folder(folder, models, *, batch=64, image_size=None, mean=None, std=None, **options):
    """The Audit of networks on the images of a folder, with a folder for each class.

    models: {role: list of LIBRARY:NAME@FILE}.
    batch: images at a time.
    image_size: the shorter side is resized to it and the square in the middle taken; by default
        what the file of weights says, else 256 and 224 for torchvision, 32 for kdlib, for timm what
        it says of the network.
    mean, std: of red, green and blue, from 0 to 1; by default those that the file of weights says,
        else ImageNet's, or what timm says.
    options: of kdlib.audit; groups, weights and search have a column that names the image, classes
        are names for those of the folders, in their order. The page shows images that the student
        lost.

    KdlibError, in one sentence, for anything that cannot be used.
    """
    check_colours(mean, std)
    images = Images(folder)
    for what in ("groups", "weights", "search"):
        if options.get(what) is not None:
            found = source(options[what], what)
            options[what] = joined_by_path(found, images.folder, images.paths)
    models, seen = _networks(images, models, image_size, mean, std)
    networks = [f"{title}: {one.text}." for title, one in seen.items()]
    read = (images.sentence(), *networks, *images.preparations)
    for sentence in read if options.get("say") else ():
        options["say"](sentence)
    device = torch.accelerator.current_accelerator(check_available=True)
    options |= {"device": device or "cpu", "images": [path for path, _ in images.samples]}
    options.setdefault("classes", images.classes)
    try:
        found = audit_models(**models, loader=_loader(images, batch), **options)
    except (RuntimeError, AssertionError, ValueError) as error:  # out of memory, a wrong size, ...
        where = getattr(error, "__notes__", [""])[0].removeprefix("kdlib: ")
        raise AuditError(
            f"{folder}: {where or 'while images were read'}: {reason(error)}; --image-size and "
            "--batch change what the networks are given."
        ) from None
    inputs = []
    for role, name, sha256 in found.inputs:
        if name in seen:
            sha256 = hashlib.sha256(seen[name].file.read_bytes()).hexdigest()
            name = seen[name].text
        inputs.append((role, str(folder) if role == "labels" else name, sha256))
    return dataclasses.replace(found, inputs=tuple(inputs), read=(*read, *found.read))


def _networks(images, asked, size, mean, std):
    """({role: [model of a batch of images]}, {title of each: Named}); asked: {role: texts}."""
    models, seen = {}, {}
    for role, texts in asked.items():
        models[role] = []
        for title, text in zip(titles(role, texts), texts, strict=True):
            one = named(text)
            module = network(one, len(images.classes), images.folder)
            how = images.prepare(*preparation(one, module, size, mean, std))
            models[role].append(_seeing(module, how))
            seen[title] = one
    return models, seen


def _loader(images, batch):
    """The loader of images, `batch` at a time."""
    return DataLoader(
        images,
        batch,
        num_workers=min(available_cores(), MOST_WORKERS) if len(images) > batch else 0,
        collate_fn=collated,
        pin_memory=torch.cuda.is_available(),
    )


def _seeing(module, place):
    """A model of a tuple of tensors, which are one image prepared in several ways."""
    return lambda prepared: module(prepared[place])


def preparation(asked, module, size=None, mean=None, std=None):
    """(transform from an image to a tensor, the same in words) for a network, a Named.

    A student of kdlib distill says in its file how it is to be shown images, whatever library it
    is of.
    """
    held = metadata_of(asked.file)
    mean, std = mean or held.get("mean"), std or held.get("std")
    if asked.library == "timm" and "size" not in held:
        data = timm_of(asked).data
        config = data.resolve_model_data_config(module)
        config |= {"mean": tuple(mean or config["mean"]), "std": tuple(std or config["std"])}
        if size:
            config |= {"input_size": (3, size, size), "crop_pct": 1.0}
        said = ", ".join(f"{name} {value}" for name, value in config.items())
        transform = data.create_transform(**config, is_training=False)
        return transform, f"Images are prepared for {asked.name} as timm does, with {said}."
    kept = size or held.get("size", CIFAR if asked.library == "kdlib" else 224)
    resized = kept if size or kept <= SMALL else round(kept * 256 / 224)
    colours = {"mean": tuple(mean or IMAGENET[0]), "std": tuple(std or IMAGENET[1])}
    steps = [transforms.Resize(resized), transforms.CenterCrop(kept), transforms.ToTensor()]
    said = (
        f"Images are resized to {resized} pixels on the shorter side, cropped to the central "
        f"{kept} x {kept}, and normalised with the mean {colours['mean']} and the standard "
        f"deviation {colours['std']}."
    )
    return transforms.Compose([*steps, transforms.Normalize(**colours)]), said


def collated(items):
    """A batch of (tensors, label, path); or the error of an image that cannot be read."""
    broken = [item for item in items if isinstance(item, KdlibError)]
    return broken[0] if broken else default_collate(items)


class Images(ImageFolder):
    """The images of a folder, each prepared in several ways, its label, and its path therein."""

    def __init__(self, folder):
        try:
            super().__init__(folder)
        except OSError as error:
            raise AuditError(f"{folder}: is no folder of images ({reason(error)}).") from None
        if len(self.classes) < 2:
            raise AuditError(f"{folder}: has one folder; an audit needs one for each class.")
        self.folder = Path(folder)
        self.paths = [Path(path).relative_to(folder).as_posix() for path, _ in self.samples]
        self.preparations = {}  # in words: the transform

    def __getitem__(self, index):
        path, label = self.samples[index]
        try:
            image = self.loader(path)
        # PIL raises a dozen classes on damaged bytes; raised in a worker, the sentence would be
        # wrapped into its traceback
        except Exception as error:
            return AuditError(f"{path}: is no readable image ({reason(error)}).")
        seen = tuple(transform(image) for transform in self.preparations.values())
        return seen, label, self.paths[index]

    def prepare(self, transform, said):
        """Prepare images in one way more, unless it is there; its place."""
        self.preparations.setdefault(said, transform)
        return [*self.preparations].index(said)

    def sentence(self):
        """What is in the folder, in words."""
        folders = count_of(len(self.classes), "folder")
        return (
            f"{self.folder}: {count_of(len(self), 'image')} in {folders}, which are the "
            f"classes, in the order of their names: {self.classes[0]} to {self.classes[-1]}."
        )
