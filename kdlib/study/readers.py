"""CIFAR-100 and CIFAR-10 from local files: one order whatever the layout, checked, cached.

Layouts (data/README.md): torchvision's pickles, Hugging Face Parquet, folders of PNG. Canonical
order: the 50,000 official training images first, then the 10,000 test images, each sorted by (fine
label, image name). Pixels and labels are checked by sha256.
"""

import functools
import hashlib
import io
import os
import pickle
import re
import sys
import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from kdlib.config import KdlibError, did_you_mean
from kdlib.study import files

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


class Published(NamedTuple):
    """What is known before a file is opened.

    The md5 sums are torchvision.datasets' own (a test compares)."""

    names: tuple  # of the classes; the label is the position
    per_class: dict  # part: images of each class
    sha256: str  # see _sha256; of files whose pixel mean and std are the published ones
    label: str  # column in Parquet; the pickles add an s
    folder: str  # of the pickles
    files: dict  # part: {pickle: md5}
    archive_md5: str


DATASETS = {
    "cifar100": Published(
        tuple(sorted(COARSE)),
        {"train": 500, "test": 100},
        "bf15e7effb6c5e19340f7c130355fc2aa4d52a67df1c6417bdd3788bc770f649",
        "fine_label",
        "cifar-100-python",
        {
            "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            "meta": {"meta": "7973b15100ade9c7d40fb424638fde48"},
        },
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    "cifar10": Published(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        {"train": 5000, "test": 1000},
        "094ac575692c0488fbb95292c3b169089b433411b7bff0bd33f534b369ea770b",
        "label",
        "cifar-10-batches-py",
        {
            "train": {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
            "meta": {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        },
        "c58f30108f718f92721af3b95e74349a",
    ),
}


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
    """Images of "cifar100" or "cifar10", from the folder `data`, else $KDLIB_DATA, else data/.

    DataError if they are not there whole. `data` may be Images, which are then used as they are.
    Decoding takes some 10 s, so the pixels are kept in $KDLIB_CACHE, else data/cache, and taken
    from there if their sha256 is right. A folder that was named must hold the data all the same."""
    if isinstance(data, Images):
        return data
    if data or os.environ.get("KDLIB_DATA"):
        find(name, data)
    published = _published(name)
    labels = np.arange(len(published.names))
    y = np.concatenate([np.repeat(labels, n) for n in published.per_class.values()])
    train = np.arange(len(y)) < len(labels) * published.per_class["train"]
    cache = files.cache_folder() / f"{name}-{published.sha256[:12]}.npy"
    x = _read_cache(cache, y, train, published.sha256)
    if x is None:
        layout, path = find(name, data)
        x = np.concatenate([_read_part(name, layout, path, part) for part in published.per_class])
        if (found := _sha256(x, y, train)) != published.sha256:
            raise _error(
                f"{path} has images enough but not those of {name}: sha256 of pixels and labels "
                f"{found[:12]}..., expected {published.sha256[:12]}...",
                name,
            )
        _write_cache(cache, x)
    if name != "cifar100":
        return Images(x, y, train, published.names, None, ())
    coarse = np.array([COARSE[c] for c in published.names])[y]
    return Images(x, y, train, published.names, coarse, tuple(SUPERCLASSES))


def find(name, data=None):
    """(layout, path) of a data set in the folder `data`, else $KDLIB_DATA, else data/.

    DataError if it is not there. Pickles come first: what `data get` fetches must win over a
    damaged copy beside it."""
    pickles = _published(name).folder
    folder = Path(data or os.environ.get("KDLIB_DATA") or files.DATA)
    if (folder / pickles).is_dir():
        return "pickles", folder / pickles
    if any((folder / name).glob("*.parquet")):
        return "parquet", folder / name
    if (folder / name / "train").is_dir():
        return "png", folder / name
    raise _error(
        f"{name} was not found: looked in {folder} for {pickles}/, {name}/*.parquet "
        f"and {name}/train/<class>/*.png",
        name,
    )


def _error(what, name):
    return DataError(f"{what}; get the data with: python -m kdlib data get {name}")


def _published(name):
    if name not in DATASETS:
        raise KdlibError(f"There are no images called {name!r}; {did_you_mean(name, DATASETS)}")
    return DATASETS[name]


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


def _md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# ---------------------------------------------------------------- layouts


def _read_part(name, layout, path, part):
    """Pixels of one part in canonical order, (n, 32, 32, 3) uint8.

    The number of images of each class is right, else DataError."""
    published = _published(name)
    try:
        x, y, image_names = READERS[layout](name, path, part)
    except OSError as error:
        raise _error(f"{path} cannot be read ({error})", name) from error
    for label in sorted({*y, *range(len(published.names))}):
        expected = published.per_class[part] if 0 <= label < len(published.names) else 0
        if (count := y.count(label)) != expected:
            raise _error(
                f"{path} is incomplete or not {name}: {count} {part} images with label {label}, "
                f"expected {expected}",
                name,
            )
    return x[np.lexsort((image_names, y))]


def _pickles(name, path, part):
    """The original files.

    A pickle can run code, so it is not opened before its md5 is the published one."""
    x, y, image_names = [], [], []
    for file, md5 in _published(name).files[part].items():
        content = (path / file).read_bytes() if (path / file).is_file() else b""
        if _md5(content) != md5:
            raise _error(
                f"{path / file} is missing, truncated or not the published file and was not "
                f"opened: {len(content):,} bytes with md5 {_md5(content)}, expected {md5}",
                name,
            )
        batch = pickle.loads(content, encoding="latin1")
        x.append(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        y += batch[_published(name).label + "s"]
        image_names += batch["filenames"]
    return np.ascontiguousarray(np.concatenate(x)), y, image_names


def _parquet(name, path, part):
    """Shards with img{bytes, path} and the label, rows in any order.

    The bytes are PNG or lossless WebP."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    shards = sorted(path.glob(f"{part}*.parquet")) or [path / f"{part}-00000-of-00001.parquet"]
    if total := re.fullmatch(part + r"-\d{5}-of-(\d{5})", shards[0].stem):
        # so that a missing shard is named
        shards = [path / f"{part}-{k:05}-of-{total[1]}.parquet" for k in range(int(total[1]))]
    label, x, y, image_names = _published(name).label, [], [], []
    for shard in shards:
        try:
            for batch in ParquetFile(shard).iter_batches(1000, columns=["img", label]):
                for row in batch.to_pylist():
                    x.append(_pixels(row["img"]["bytes"], f"{shard}, {row['img']['path']}", name))
                    y.append(int(row[label]))
                    image_names.append(row["img"]["path"])
        except (KeyError, TypeError) as error:
            expected = f"img{{bytes, path}} and {label}"
            raise _error(f"{shard} is not {name}: expected {expected}", name) from error
        except (OSError, ValueError, ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise _error(f"{shard} is missing, truncated or damaged ({reason})", name) from error
        if None in image_names:
            missing = "no image names (img.path), which fix the order of the images"
            raise _error(f"{shard} has {missing}", name)
    return np.array(x), y, image_names


def _png(name, path, part):
    """<part>/<class>/<image name>, where the image name ends in .png."""
    found = [
        (label, file)
        for label, fine in enumerate(_published(name).names)
        for file in (path / part / fine).glob("*.png")
    ]
    x = [_pixels(file.read_bytes(), file, name) for _, file in found]
    return np.array(x), [label for label, _ in found], [file.name for _, file in found]


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
    raise _error(f"{where} is {problem}", name)


READERS = {"pickles": _pickles, "parquet": _parquet, "png": _png}


# ---------------------------------------------------------------- cache


def _read_cache(file, y, train, sha256):
    """Pixels, or None.

    The file's header is skipped, not parsed: the sha256 says whether all is well."""
    size = len(y) * 32 * 32 * 3
    if not (os.path.isfile(file) and os.access(file, os.R_OK)):
        return None
    x = np.fromfile(file, np.uint8)[-size:]
    if len(x) == size and _sha256(x, y, train) == sha256:
        return x.reshape(-1, 32, 32, 3)
    _say(f"the cache {file} is damaged, so the data are read again")
    return None


def _write_cache(file, x):
    """Whole or not at all. A cache that cannot be written costs time, not the run."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as stream:
            np.save(stream, x)
        os.replace(draft, file)
    except OSError as error:
        _say(f"{file} cannot be written ({error}), so the data are decoded every time")
    finally:
        if os.path.exists(draft):
            os.unlink(draft)


# ---------------------------------------------------------------- download


def download(name, folder, url=None):
    """Fetch the original archive and unpack it in `folder`: the Path of the pickles.

    DataError if that fails. An interrupted download goes on where it broke off. Nothing is unpacked
    before the archive's md5 is the published one, and only files known by name are. `url`: a mirror
    of the address that torchvision knows."""
    published, folder = _published(name), Path(folder)
    files = {}
    for part in published.files.values():
        files |= part
    pickles, archive = folder / published.folder, folder / f"{published.folder}.tar.gz.part"
    paths = {pickles / file: md5 for file, md5 in files.items()}
    if all(path.is_file() and _md5(path.read_bytes()) == md5 for path, md5 in paths.items()):
        return pickles
    if url is None:
        from torchvision import datasets

        url = getattr(datasets, name.upper()).url
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(url, archive)
        if (found := _md5(archive.read_bytes())) != published.archive_md5:
            archive.unlink()
            raise DataError(
                f"{url} is not the published {name} and was thrown away: its md5 is {found}, "
                f"expected {published.archive_md5}; try again or another --url"
            )
        with tarfile.open(archive) as tar:
            pickles.mkdir(exist_ok=True)
            for member in tar:
                file = member.name.removeprefix(published.folder + "/")
                if file in files and member.isfile():
                    (pickles / f"{file}.part").write_bytes(tar.extractfile(member).read())
                    os.replace(pickles / f"{file}.part", pickles / file)
        archive.unlink()
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(
            f"{name} could not be fetched from {url} ({error}); what has arrived is kept in "
            f"{folder}, and the same command goes on from there"
        ) from error
    return pickles


def _fetch(url, file, tries=10):
    """Download `url` to `file`, going on from what is there.

    It gives up after `tries` broken connections."""
    from tqdm.auto import tqdm

    for left in reversed(range(tries)):
        start = file.stat().st_size if file.exists() else 0
        try:
            with urlopen(Request(url, headers={"Range": f"bytes={start}-"}), timeout=60) as reply:
                start = start if reply.status == 206 else 0  # 200: it sends everything
                size = start + int(reply.headers["Content-Length"] or 0)
                how = {"initial": start, "total": size, "unit": "B", "unit_scale": True}
                with (
                    open(file, "ab" if start else "wb") as stream,
                    tqdm(desc=url, **how, disable=None) as bar,
                ):
                    while block := reply.read(1 << 16):
                        bar.update(stream.write(block))
            if file.stat().st_size >= size:
                return
            raise ConnectionError(f"it broke off after {file.stat().st_size:,} of {size:,} bytes")
        except HTTPError as error:
            if error.code != 416:  # 416: nothing is left to send
                raise
            return
        except (OSError, HTTPException):
            if not left:
                raise
