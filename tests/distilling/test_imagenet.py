"""ImageNet-LT by its published lists, over a folder of ImageNet's shape."""

import numpy as np
import pytest

from kdlib.distilling.audited import EDGES
from kdlib.distilling.imagenet import imagenet_lt
from kdlib.distilling.listing import listing
from kdlib.evidence.counts import buckets
from tests.distilling.generated import generated, published_counts, write
from tests.refusals import refused


@pytest.fixture(scope="module")
def shape(tmp_path_factory):
    """(folder, {part: lines of its list}) of ImageNet-LT's published counts."""
    folder = tmp_path_factory.mktemp("imagenet")
    return folder, generated(folder, published_counts())


def test_the_published_counts_are_found_and_the_images_opened(shape):
    folder, _ = shape
    found = imagenet_lt(folder)
    assert (len(found.train), len(found.val), len(found.test)) == (115_846, 20_000, 50_000)
    assert found.class_names == found.group_names == tuple(f"n{c:08}" for c in range(1000))
    counts = np.bincount(found.train.y)
    assert (counts.max(), counts.min(), counts.sum()) == (1280, 5, 115_846)
    assert np.bincount(buckets(counts, EDGES)).tolist() == [385, 479, 136]  # as published
    assert (np.bincount(found.val.y) == 20).all() and (np.bincount(found.test.y) == 50).all()
    assert found.val.names[20] == "train/n00000001/1280.JPEG"
    assert found.train.open(115_845).getpixel((0, 0)) == (9, 9, 9)
    assert found.read[1] == (
        "Split: 115,846 train, 20,000 val, 50,000 test images; as the data say."
    )


@pytest.mark.parametrize(
    "part, change, what",
    [
        ("train", lambda held: held[:-1], "115,845 training images, but 115,846"),
        ("val", lambda held: held[1:], "19,999 val images, but 20,000"),
        ("test", lambda held: [*held, "val/n00000000/51.JPEG 0"], "50,001 test images"),
        ("train", lambda held: [*held[1:], held[-1]], "1,279 training images of the largest"),
        ("train", lambda held: [*held[:-1], held[1280]], "4 training images of the smallest"),
        ("test", lambda held: [*held[:-1], held[-1] + "9"], "1,001 classes, but 1,000"),
        ("train", lambda held: one_more(held, 385), "386 classes of more than 100 training"),
    ],
)
def test_a_count_that_differs_is_named(shape, tmp_path, part, change, what):
    _, lines = shape
    write(tmp_path, lines | {part: change(lines[part])})
    said = refused(imagenet_lt, tmp_path)
    assert said.startswith(f"{tmp_path}: the lists of ImageNet-LT have {what}"), said


def one_more(lines, c):
    """The lines of train, of which a class has another image instead of the second class."""
    place = next(i for i, line in enumerate(lines) if line.startswith("train/n00000001/"))
    return [*lines[:place], f"train/n{c:08}/9999.JPEG {c}", *lines[place + 1 :]]


def test_lists_that_cannot_be_right_are_named(shape, tmp_path):
    _, lines = shape
    where = f"{tmp_path}: the lists of ImageNet-LT"
    write(tmp_path, lines | {"val": ["train/n00000000/1280.JPEG", *lines["val"][1:]]})
    assert refused(imagenet_lt, tmp_path).startswith(f"{tmp_path}/ImageNet_LT_val.txt: cannot be")
    write(tmp_path, lines | {"val": [lines["train"][0], *lines["val"][1:]]})
    assert refused(imagenet_lt, tmp_path) == f"{where} hold 'train/n00000000/0.JPEG' twice."
    moved = lines["test"][-1].replace("n00000999", "n00000998")
    write(tmp_path, lines | {"test": [*lines["test"][:-1], moved.replace("49.", "99.")]})
    said = refused(imagenet_lt, tmp_path)
    assert said == f"{where} give 'val/n00000998/99.JPEG' the label 999, unlike others there."
    write(tmp_path, lines)
    assert refused(imagenet_lt, tmp_path) == (
        f"{where}: 185,846 paths of 185,846 are no file below {tmp_path}, the first "
        "'train/n00000000/0.JPEG'."
    )
    (tmp_path / "ImageNet_LT_test.txt").unlink()
    said = refused(imagenet_lt, tmp_path)
    assert said.startswith(f"{tmp_path / 'ImageNet_LT_test.txt'}: cannot be read (No such file")


def test_imagenet_itself_is_a_folder_with_train_and_val(tmp_path):
    """And with test images without labels, as they are published."""
    for name in ("n01440764", "n01443537"):
        for part, n in (("train", 3), ("val", 4)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                (tmp_path / part / name / f"{name}_{i}.JPEG").touch()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    found = listing(tmp_path)
    assert (len(found.train), len(found.val), len(found.test)) == (6, 4, 4)
    assert found.class_names == ("n01440764", "n01443537")
    assert f"in no class: 1 file or folder, first {tmp_path / 'test'}." in found.read[0]


def test_val_without_class_folders_says_what_to_do(tmp_path):
    for name in ("n01440764", "n01443537"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.JPEG").touch()
    (tmp_path / "val").mkdir()
    for i in range(1, 51):
        (tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG").touch()
    assert refused(listing, tmp_path) == (
        f"{tmp_path / 'val'}: holds 50 images and no folder; put those of each class into a folder "
        "that is called like the class, as valprep.sh of soumith/imagenetloader.torch does for "
        "ImageNet."
    )
