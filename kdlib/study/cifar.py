"""CIFAR-100 and CIFAR-10 from local files: one order whatever the layout, checked, cached.

Layouts (data/README.md): the original pickles, and Parquet as on the Hugging Face hub. Canonical
order: the 50,000 official training images first, then the 10,000 test images, each sorted by (fine
label, original image name). Files need not hold the names: cifar_order.npz says where each image
stands when those of its class are sorted by their pixels.
"""

import functools
import hashlib
import io
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdlib.config import KdlibError, did_you_mean
from kdlib.study import files

PARTS = {"train": 50_000, "test": 10_000}  # images in each, equally many of each class
ORDER = Path(__file__).with_name("cifar_order.npz")  # {data set: (60,000,) uint16}, see above

SUPERCLASSES = {  # name: its classes, from https://www.cs.toronto.edu/~kriz/cifar.html
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
COARSE = {fine: k for k, classes in enumerate(SUPERCLASSES.values()) for fine in classes.split()}
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = {"cifar100": tuple(sorted(COARSE)), "cifar10": TEN}  # the label is the position
SHA256 = {  # see _sha256; of images whose mean and std are the published ones
    "cifar100": "bf15e7effb6c5e19340f7c130355fc2aa4d52a67df1c6417bdd3788bc770f649",
    "cifar10": "094ac575692c0488fbb95292c3b169089b433411b7bff0bd33f534b369ea770b",
}
PICKLES = {"cifar100": "cifar-100-python", "cifar10": "cifar-10-batches-py"}  # folders
LABEL = {"cifar100": "fine_label", "cifar10": "label"}  # columns in Parquet
PATIENCE = 60  # seconds that a download waits for a byte; torchvision would wait for ever


class DataError(KdlibError):
    """Data that are missing, damaged or not the published ones."""


class Images(NamedTuple):
    """A whole data set in canonical order (see the top of this file); N = 60,000."""

    x: np.ndarray  # (N, 32, 32, 3) uint8, RGB
    y: np.ndarray  # (N,) int64, fine label
    train: np.ndarray  # (N,) bool, official training image
    names: tuple  # of the classes
    coarse: np.ndarray | None  # (N,) int64, superclass; None for CIFAR-10
    coarse_names: tuple  # of the superclasses; empty for CIFAR-10


def load_images(name, data=None):
    """Images of "cifar100" or "cifar10", found as `find` says; DataError if they are not whole.

    Decoding takes some 10 s, so the pixels are kept in $KDLIB_CACHE, else data/cache, and taken
    from there if their sha256 is right."""
    layout, path = find(name, data)
    classes = np.arange(len(NAMES[name]))
    y = np.concatenate([np.repeat(classes, n // len(classes)) for n in PARTS.values()])
    train = np.arange(len(y)) < PARTS["train"]
    x = _read_cache(_cache(name), y, train, SHA256[name])
    if x is None:
        x = _read(name, layout, path, y, train)
        if (found := _sha256(x, y, train)) != SHA256[name]:
            raise unusable(
                f"{path} has images enough but not those of {name}: sha256 of pixels and labels "
                f"{found[:12]}..., expected {SHA256[name][:12]}...",
                name,
            )
        _write_cache(_cache(name), x)
    if name != "cifar100":
        return Images(x, y, train, NAMES[name], None, ())
    coarse = np.array([COARSE[c] for c in NAMES[name]])[y]
    return Images(x, y, train, NAMES[name], coarse, tuple(SUPERCLASSES))


def find(name, data=None):
    """(layout, path) of a data set in the folder `data`, else $KDLIB_DATA, else data/.

    DataError if it is not there. Pickles come first: what `data get` fetches must win over a
    damaged copy beside it. Where no folder is named, what the cache holds will do."""
    folder = _folder(name, data)
    pickles = folder / PICKLES[name]
    if pickles.is_dir():
        return "pickles", pickles
    if any((folder / name).rglob("*.parquet")):
        return "parquet", folder / name
    if not (data or os.environ.get("KDLIB_DATA")) and _cache(name).exists():
        return "decoded", _cache(name)
    looked = f"looked in {folder} for {PICKLES[name]}/ and {name}/*.parquet"
    raise unusable(f"{name} was not found: {looked}", name)


def found():
    """A line for each data set: where it is, or why it is not found."""
    yield "digits: comes with scikit-learn"
    for name in NAMES:
        try:
            yield "{}: {} in {}".format(name, *find(name))
        except DataError as error:
            yield str(error)


def download(name, folder=None, url=None):
    """Have torchvision fetch the original archive, verify and unpack it: the Path of the pickles.

    folder: else $KDLIB_DATA, else data/. url: a mirror. DataError if it fails."""
    folder = _folder(name, folder)
    from torchvision import datasets

    original = getattr(datasets, name.upper())
    url = url or original.url
    print(f"kdlib: {name}: 170 MB from {url} to {folder}, if not there already", file=sys.stderr)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        type(name, (original,), {"url": url})(folder, download=True)
    except Exception as error:  # torchvision lets errors of many kinds through
        raise DataError(
            f"{name} could not be fetched from {url} to {folder} ({error}): try again, name a "
            f"mirror with --url, put {original.filename} there yourself, or set KDLIB_DATA to the "
            "folder of a copy that you have, in a layout of data/README.md"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return folder / original.base_folder


def _folder(name, data):
    if name not in NAMES:
        raise KdlibError(
            f"data set {name!r} is not one that kdlib downloads (digits come with scikit-learn): "
            f"{did_you_mean(name, [*NAMES, 'adult'])}"
        )
    return files.data_folder(data)


def unusable(what, name):
    """The DataError of a data set that cannot be read, which says how to get it."""
    return DataError(f"{what}; get the data with: python -m kdlib data get {name}")


def _sha256(x, y, train):
    """Of pixels, labels (little-endian int64) and training flags, in canonical order."""
    digest = hashlib.sha256(x)
    digest.update(y.astype("<i8"))
    digest.update(train)
    return digest.hexdigest()


@functools.cache
def _say(sentence):
    """A line on stderr; the same one is not said twice."""
    print(f"kdlib: {sentence}", file=sys.stderr)


# ---------------------------------------------------------------- layouts


def _read(name, layout, path, y, train):
    """Pixels (N, 32, 32, 3) uint8 in canonical order, of which y and train are known.

    The number of images of each class is right, else DataError."""
    if layout == "decoded":
        raise unusable(f"nothing but {path} was found", name)
    with np.load(ORDER) as places:
        place = places[name]
    x = np.empty((len(y), 32, 32, 3), np.uint8)
    for part, inside in (("train", train), ("test", ~train)):
        pixels, labels = READERS[layout](name, path, part)
        for label in range(len(NAMES[name])):
            ours = inside & (y == label)
            theirs = np.flatnonzero(labels == label)
            if len(theirs) != ours.sum():
                raise unusable(
                    f"{path} is incomplete or not {name}: {len(theirs)} {part} images with label "
                    f"{label}, expected {ours.sum()}",
                    name,
                )
            ordered = np.array(sorted(theirs, key=lambda i: pixels[i].tobytes()))
            x[ours] = pixels[ordered[place[ours]]]
    return x


def _pickles(name, path, part):
    """(pixels, labels) of the original files.

    A pickle can run code; torchvision opens none whose md5 is not the published one."""
    from torchvision import datasets

    try:
        read = getattr(datasets, name.upper())(path.parent, train=part == "train")
    except (OSError, RuntimeError) as error:
        wrong = "lacks a file, or has one that is truncated or not the published one"
        raise unusable(f"{path} {wrong}, and was not opened", name) from error
    return read.data, np.array(read.targets)


def _parquet(name, path, part):
    """(pixels, labels) of files with the label and img{bytes}, PNG or lossless WebP."""
    from pyarrow import ArrowException, compute
    from pyarrow.parquet import read_table

    x, y = [], []
    for file in sorted(path.rglob("*.parquet")):
        if part not in str(file.relative_to(path)):
            continue
        try:
            table = read_table(file, columns=["img", LABEL[name]])
            images = compute.struct_field(table["img"], "bytes").to_pylist()
        except (OSError, ValueError, KeyError, ArrowException) as error:
            expected = f"{name}, with img{{bytes}} and {LABEL[name]}"
            reason = str(error).partition("\n")[0]
            raise unusable(f"{file} is damaged or not {expected} ({reason})", name) from error
        x += [_pixels(image, f"row {row} of {file}", name) for row, image in enumerate(images)]
        y += table[LABEL[name]].to_pylist()
    return np.array(x), np.array(y)


def _pixels(content, where, name):
    """(32, 32, 3) uint8 of one PNG or WebP."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "WEBP"))
        if (image.size, image.mode) == ((32, 32), "RGB"):
            return np.asarray(image)
        problem = f"{image.mode} of {image.width} x {image.height} pixels, expected RGB of 32 x 32"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        problem = "not a whole PNG or WebP image"
    raise unusable(f"{where} is {problem}", name)


READERS = {"pickles": _pickles, "parquet": _parquet}


# ---------------------------------------------------------------- cache


def _cache(name):
    return files.cache_folder() / f"{name}-{SHA256[name][:12]}.npy"


def _read_cache(file, y, train, sha256):
    """Pixels, or None.

    The file's header is skipped, not parsed: the sha256 says whether all is well."""
    size = len(y) * 32 * 32 * 3
    try:
        content = files.read_file(file)
    except (OSError, ValueError):  # not there, or no file
        return None
    x = np.frombuffer(content, np.uint8)[-size:]
    if len(x) == size and _sha256(x, y, train) == sha256:
        return x.reshape(-1, 32, 32, 3)
    _say(f"the cache {file} is damaged, so the data are read again")
    return None


def _write_cache(file, x):
    """Whole or not at all. A cache that cannot be written costs time, not the run."""
    try:
        with files.whole_file(file) as temporary:
            np.save(temporary, x)
    except (OSError, KdlibError) as error:
        reason = error.__cause__ or error
        _say(f"{file} cannot be written ({reason}), so the data are decoded every time")
