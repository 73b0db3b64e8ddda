"""What images there are to distil with, how they are split, and what one of them looks like."""

import io
import json
import os
import pickle
import time
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader

from kdlib.data import halves
from kdlib.distilling import shards
from kdlib.distilling.listing import listing
from tests.refusals import refused

PARTS = ("train", "val", "test")


def image(path, k=0, size=(3, 2)):
    """An image of one colour, which says which it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (k % 256, 10, 20)).save(path)


def images(folder, counts):
    """Images 00.png, 01.png, ... in folders below `folder`: {name of the folder: how many}."""
    for name, n in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            image(folder / name / f"{i:02}.png", i)
    return folder


def sizes(found):
    """{part: [images of each class]}, counted from the paths where there is a folder a class."""
    classes = range(len(found.class_names))
    held = {part: getattr(found, part) for part in PARTS}
    return {part: [int((of.y == c).sum()) for c in classes] for part, of in held.items()}


def everything(found):
    return sorted(name for part in PARTS for name in getattr(found, part).names.tolist())


def in_three(folder, counts=None):
    """train, val and test with the same classes."""
    counts = counts or {"cat": 3, "dog": 2}
    return images(folder, {f"{part}/{name}": n for part in PARTS for name, n in counts.items()})


# ---------------------------------------------------------------- folders


def test_three_parts_are_read_as_image_folder_reads_each(tmp_path):
    counts = {"train/dog": 4, "train/cat": 3, "train/cat/more": 2, "val/cat": 2, "test/dog": 5}
    images(tmp_path, counts | {"val/dog": 1, "test/cat": 1})
    heard = []
    found = listing(tmp_path, say=heard.append)
    assert sizes(found) == {"train": [5, 4], "val": [2, 1], "test": [1, 5]}
    for part in PARTS:
        other = ImageFolder(tmp_path / part)
        held = getattr(found, part)
        assert other.classes == [*found.class_names]
        assert [str(held.path(i)) for i in range(len(held))] == [path for path, _ in other.samples]
        assert held.y.tolist() == held.group.tolist() == other.targets
    assert found.train.names[3] == "train/cat/more/00.png" and found.train.y.dtype == np.int64
    assert found.group_names == found.class_names == ("cat", "dog") and found.folder == tmp_path
    assert heard == [*found.read] and "18 images of 2 classes (cat … dog) in folders" in heard[0]
    assert "9 train, 3 val, 6 test" in heard[1]


@pytest.mark.parametrize("alias", ["val", "valid", "validation", "Validation"])
def test_val_alone_is_halved_by_class_as_the_studies_halve_cifar(tmp_path, alias):
    images(tmp_path, {f"{part}/{name}": 7 for part in ("train", alias) for name in "ab"})
    images(tmp_path, {f"{alias}/b": 12})
    found = listing(tmp_path, seed=3)
    assert sizes(found) == {"train": [7, 7], "val": [3, 6], "test": [4, 6]}
    names = [f"{alias}/{name}/{i:02}.png" for name, n in (("a", 7), ("b", 12)) for i in range(n)]
    first, second = halves(np.repeat([0, 1], [7, 12]))
    assert found.val.names.tolist() == [names[i] for i in first]
    assert found.test.names.tolist() == [names[i] for i in second]
    assert listing(tmp_path, seed=4).sha256() == found.sha256()  # by a fixed seed


def test_of_train_and_test_a_tenth_of_train_becomes_val(tmp_path):
    images(tmp_path, {"train/a": 40, "train/b": 4, "train/c": 1, "train/d": 25, "test/a": 2})
    found = listing(tmp_path)
    assert sizes(found) == {"train": [36, 3, 1, 22], "val": [4, 1, 0, 3], "test": [2, 0, 0, 0]}
    assert found.read[2:] == (
        "val has no image of 1 of 4 classes: c.",
        "test has no image of 3 of 4 classes: b, c, d.",
    )
    assert all(name.startswith("train/") for name in found.val.names)


def test_one_folder_is_split_by_class_and_nothing_is_lost_or_there_twice(tmp_path):
    images(tmp_path, {"a": 20, "b": 100, "c": 3, "d": 2, "e": 1})
    found = listing(tmp_path, seed=1)
    # 15 % of 20 and of 100; of three one each; of two train and test; of one train
    assert sizes(found) == {
        "train": [14, 70, 1, 1, 1],
        "val": [3, 15, 1, 0, 0],
        "test": [3, 15, 1, 1, 0],
    }
    assert everything(found) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")
    )
    assert "seed 1" in found.read[1]
    assert found.read[2:] == (
        "val has no image of 2 of 5 classes: d, e.",
        "test has no image of 1 of 5 classes: e.",
    )
    again, other = listing(tmp_path, seed=1), listing(tmp_path, seed=2)
    assert again.sha256() == found.sha256() != other.sha256()
    assert sizes(other) == sizes(found)
    (tmp_path / "a" / "99.png").write_bytes(b"")
    more = listing(tmp_path, seed=1)  # one class more does not move the others
    assert [n for n in more.val.names if n[0] != "a"] == [n for n in found.val.names if n[0] != "a"]


def test_one_image_a_class(tmp_path):
    folder = in_three(tmp_path / "three", {"cat": 1, "dog": 1})
    assert sizes(listing(folder)) == dict.fromkeys(PARTS, [1, 1])
    one = images(tmp_path / "one", {"cat": 1, "dog": 1})
    said = refused(listing, one)
    assert said.startswith(f"{one}: val has no image (70, 15 and 15 %")
    two = images(tmp_path / "two", {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    assert ": val has no image (val was halved by class" in refused(listing, two)


def test_classes_are_matched_by_the_names_of_their_folders(tmp_path):
    in_three(tmp_path, {"cat": 1, "dog": 1})
    image(tmp_path / "train" / "ant" / "0.png")
    found = listing(tmp_path)  # ant is missing in val and test, which moves no other class
    assert found.class_names == ("ant", "cat", "dog")
    assert found.val.y.tolist() == found.test.y.tolist() == [1, 2]
    assert "val has no image of 1 of 3 classes: ant." in found.read
    (tmp_path / "val" / "newt").mkdir()
    said = refused(listing, tmp_path)
    assert said.startswith(f"{tmp_path / 'val'}: has 1 class folder that train lacks: newt;")
    (tmp_path / "train" / "newt").mkdir()
    said = refused(listing, tmp_path)
    assert said.startswith(f"{tmp_path}: train has no image of 1 of 4 classes: newt;")


def test_folders_may_be_called_anything(tmp_path):
    names = ["big cat", "Ærø", "犬", "été d'or", "a#b,c;d", "100%", "نمر"]
    folder = images(tmp_path / "my images", {f"{name}": 4 for name in names})
    found = listing(folder)
    assert found.class_names == tuple(sorted(names))
    assert found.train.open(0).size == (3, 2)
    raw = os.fsdecode(b"caf\xe9")  # no UTF-8
    images(folder, {raw: 4})
    assert raw in listing(folder).class_names and len(listing(folder).sha256()) == 64


def test_what_is_no_image_and_what_is_hidden_is_passed_over(tmp_path):
    in_three(tmp_path)
    image(tmp_path / "train" / "cat" / "UPPER.JPEG")
    image(tmp_path / "train" / ".ipynb_checkpoints" / "0.png")
    for name in (".DS_Store", "._00.png"):
        (tmp_path / "train" / "cat" / name).write_text("no image")
    found = listing(tmp_path)
    assert found.class_names == ("cat", "dog") and sizes(found)["train"] == [4, 2]
    assert "assed over" not in found.read[0]
    for name in ("Thumbs.db", "photo.heic", "more.txt"):
        (tmp_path / "val" / "cat" / name).write_text("no image")
    image(tmp_path / "train" / "stray.png")
    image(tmp_path / "extra" / "cat" / "0.png")
    found = listing(tmp_path)
    assert found.class_names == ("cat", "dog") and sizes(found)["train"] == [4, 2]
    extra = tmp_path / "extra"
    said = f"Passed over, as no image or in no class: 5 files or folders, first {extra}."
    assert found.read[0].endswith(said)


def test_a_class_may_be_called_train(tmp_path):
    images(tmp_path, {"train": 4, "bus": 4, "test": 4})
    assert listing(tmp_path).class_names == ("bus", "test", "train")


def test_links_to_folders_are_followed_unless_they_lead_back(tmp_path):
    images(tmp_path / "real", {"cat": 5, "dog": 5})
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "data" / "train" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "data" / "val").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    found = listing(tmp_path / "link")
    assert sizes(found) == {"train": [5, 5], "val": [2, 2], "test": [3, 3]}
    assert found.train.names[0] == "train/cat/00.png" and found.train.open(0).size == (3, 2)
    loop = tmp_path / "real" / "dog" / "again"
    loop.symlink_to(tmp_path / "real" / "dog")
    loops = tmp_path / "link" / "train" / "dog" / "again"
    assert refused(listing, tmp_path / "link").startswith(f"{loops}: is a link to a folder that")
    loop.unlink()
    (tmp_path / "real" / "cat" / "round").symlink_to(tmp_path / "link")
    loops = tmp_path / "link" / "train" / "cat" / "round"
    assert f"{loops}/train/cat: is a link to a folder that" in refused(listing, tmp_path / "link")


def test_what_is_no_data_is_said_in_a_sentence(tmp_path):
    assert "does not exist" in refused(listing, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: holds no image;" in refused(listing, tmp_path / "empty")
    image(tmp_path / "cat.png")
    assert "cat.png: is neither a folder of images nor" in refused(listing, tmp_path / "cat.png")
    flat = images(tmp_path / "flat", {"train/cat": 1, "train/dog": 1, "val": 3})
    said = refused(listing, flat)
    assert said.startswith(f"{flat / 'val'}: holds 3 images and no folder; put those of each class")
    said = refused(listing, images(tmp_path / "all", {".": 2}))
    assert said.startswith(f"{tmp_path / 'all'}: holds 2 images and no folder")
    one = images(tmp_path / "one", {"train/cat": 4, "val/cat": 4})
    assert refused(listing, one).startswith(f"{one}: has 1 class;")
    without = images(tmp_path / "without", {"val/cat": 4, "test/cat": 4})
    assert "has val and test, but no train" in refused(listing, without)
    other = {f"{part}/{name}": 4 for part in ("training", "val", "test") for name in ("cat", "dog")}
    said = refused(listing, images(tmp_path / "other", other))
    assert "has val and test beside training, but no train; each class needs a folder" in said
    both = images(
        tmp_path / "both", {f"{p}/{c}": 2 for p in ("train", "val", "valid") for c in "ab"}
    )
    assert "has val and valid, which are the same split" in refused(listing, both)


def test_names_of_classes_that_spelling_alone_tells_apart_are_pointed_at(tmp_path):
    folder = images(tmp_path / "two", {"Cat": 9, "cat": 9, "dog": 9})
    assert "'Cat' and 'cat' are two classes" in " ".join(listing(folder).read)
    rows = [
        (f"{name}/{i:02}.png", name + " " * (i % 2)) for name in ("cat", "dog") for i in range(9)
    ]
    table = pd.DataFrame(rows, columns=["path", "label"])
    table.to_csv(folder / "images.csv", index=False)
    found = listing(folder / "images.csv")
    assert found.class_names == ("cat", "dog") and "two classes" not in " ".join(found.read)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_is_closed_to_us_is_named(tmp_path):
    in_three(tmp_path)
    (tmp_path / "train" / "cat").chmod(0)
    try:
        assert "cat: cannot be read (Permission denied)" in refused(listing, tmp_path)
    finally:
        (tmp_path / "train" / "cat").chmod(0o700)


def test_many_files_are_listed_in_seconds_and_little_memory(tmp_path):
    """20,000 files, less than 100 microseconds and 2 kB each: 100,000 take 10 s and 0.2 GB."""
    n = 20_000
    for k in range(20):
        (tmp_path / f"class {k:02}").mkdir()
    (tmp_path / "class 00" / "0.png").touch()
    for i in range(1, n):
        os.link(tmp_path / "class 00" / "0.png", tmp_path / f"class {i % 20:02}" / f"{i}.png")
    start = time.process_time()
    found = listing(tmp_path)
    assert time.process_time() - start < n * 100e-6
    tracemalloc.start()
    listing(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < n * 2000
    assert sizes(found) == {"train": [700] * 20, "val": [150] * 20, "test": [150] * 20}
    assert len(pickle.dumps(found)) < n * 200  # what a worker that loads images is sent


# ---------------------------------------------------------------- opening


def test_an_image_is_opened_as_torchvision_opens_it_whatever_its_colours(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(9, 11, 4), dtype=np.uint8)
    colour = Image.fromarray(pixels[..., :3])
    palette = colour.quantize(16)
    files = {
        "grey.png": Image.fromarray(pixels[..., 0]),
        "colour.png": colour,
        "black.png": Image.fromarray(pixels[..., 0]).convert("1"),
        "alpha.png": Image.fromarray(pixels),
        "grey_alpha.png": Image.fromarray(pixels[..., :2]),
        "cmyk.jpg": Image.fromarray(pixels, mode="CMYK"),
        "cmyk.tif": Image.fromarray(pixels, mode="CMYK"),
        "palette.png": palette,
        "clear.png": palette,
    }
    for name, held in files.items():
        folder = tmp_path / "train" / ("b" if name[0] in "cg" else "a")
        folder.mkdir(parents=True, exist_ok=True)
        more = {"transparency": bytes(range(0, 160, 10))} if name == "clear.png" else {}
        held.save(folder / name, **more)
    images(tmp_path, {"val/a": 2, "val/b": 2})
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter; ImageFolder does not turn it back
    colour.save(tmp_path / "train" / "a" / "turned.jpg", exif=exif)
    found = listing(tmp_path)
    assert len(found.train) == len(files) + 1
    for i in range(len(found.train)):
        with warnings.catch_warnings(action="ignore"):  # torchvision's, of transparency
            expected = np.asarray(pil_loader(found.train.path(i)))
        with warnings.catch_warnings(action="error"):
            opened = found.train.open(i)
        assert opened.mode == "RGB" and opened.size == (11, 9)
        assert np.array_equal(np.asarray(opened), expected), found.train.names[i]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "big_endian.tif", "deep.pgm"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path, name):
    deep = np.random.default_rng(0).integers(0, 65536, size=(6, 5)).astype(np.uint16)
    deep[0, :4] = 0, 255, 32768, 65535
    path = tmp_path / "train" / "a" / name
    in_three(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "train" / "a" / "00.png").unlink()
    if name == "deep.pgm":
        path.write_bytes(b"P5 5 6 65535\n" + deep.astype(">u2").tobytes())
    elif name == "big_endian.tif":
        Image.frombytes("I;16B", (5, 6), deep.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(deep).save(path)
    opened = np.asarray(listing(tmp_path).train.open(0))
    expected = np.rint(deep.astype(np.float64) * 255 / 65535)
    assert opened.shape == (6, 5, 3) and opened[0, :4, 0].tolist() == [0, 1, 128, 255]
    assert np.array_equal(opened, np.repeat(expected[..., None], 3, axis=2))


def broken(folder):
    """Images in three parts, three of which cannot be read."""
    in_three(folder, {"cat": 4, "dog": 4})
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        content, "JPEG"
    )
    (folder / "train" / "cat" / "cut.jpg").write_bytes(content.getvalue()[:900])
    (folder / "train" / "dog" / "empty.png").write_bytes(b"")
    (folder / "val" / "dog" / "text.jpg").write_text("<html>not found</html>")
    return folder


def test_a_corrupt_image_is_named_when_it_is_opened(tmp_path):
    found = listing(broken(tmp_path))  # opens none
    names = found.train.names.tolist()
    said = refused(found.train.open, names.index("train/cat/cut.jpg"))
    assert said.startswith(f"{tmp_path}/train/cat/cut.jpg: is no readable image (")
    assert "truncated" in said and "--skip-corrupt" in said
    said = refused(found.train.open, names.index("train/dog/empty.png"))
    assert f"{tmp_path}/train/dog/empty.png" in said and "0x" not in said
    Image.fromarray(np.zeros((2, 2), np.float32)).save(
        tmp_path / "train" / "cat" / "00.png", "TIFF"
    )
    assert "pixels of 32 bits" in refused(found.train.open, 0)
    os.remove(found.train.path(1))
    assert "No such file" in refused(found.train.open, 1) and found.train.sizes()[1] == -1


def test_corrupt_images_are_left_out_if_asked_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("kdlib.distilling.listing.BLOCK", 5)
    heard = []
    found = listing(broken(tmp_path), skip_corrupt=True, say=heard.append)
    assert sizes(found) == {"train": [4, 4], "val": [4, 4], "test": [4, 4]}
    said = "train/cat/cut.jpg, train/dog/empty.png, val/dog/text.jpg"
    assert f"Left out: 3 images that cannot be read: {said}." in heard
    for part in PARTS:
        assert all(getattr(found, part).can_be_read(i) for i in range(8))
    assert (
        "All 24 images can be read."
        in listing(in_three(tmp_path / "more", {"a": 4, "b": 4}), skip_corrupt=True).read
    )


def test_a_class_of_which_nothing_can_be_read_is_an_error(tmp_path):
    in_three(tmp_path)
    for path in (tmp_path / "train" / "cat").iterdir():
        path.write_bytes(b"")
    assert "train has no image of 1 of 2 classes: cat" in refused(
        listing, tmp_path, skip_corrupt=True
    )


def test_rows_of_examples_are_examples(tmp_path):
    train = listing(in_three(tmp_path)).train
    some = train[np.array([4, 0])]
    assert len(some) == 2 and some.names.tolist() == ["train/dog/01.png", "train/cat/00.png"]
    assert some.y.tolist() == some.group.tolist() == [1, 0]
    assert some.open(0).getpixel((0, 0)) == (1, 10, 20)
    assert len(train[train.y == 1]) == 2
    assert pickle.loads(pickle.dumps(some)).open(1).getpixel((0, 0)) == (0, 10, 20)


def test_the_hash_is_of_names_labels_groups_and_sizes_not_of_the_place(tmp_path):
    one, two = in_three(tmp_path / "one"), in_three(tmp_path / "two")
    assert listing(one).sha256() == listing(two).sha256()
    table = pd.DataFrame({"path": everything(listing(one)), "group": [0, 1, 1] * 5})
    hashes = {listing(one).sha256()}
    for column in ("group", "label"):  # of the same names, of other images
        table[column] = [0, 1, 1] * 5
        table["split"] = [path.split("/")[0] for path in table["path"]]
        for _ in range(3):
            table[column] = np.roll(table[column], 1)
            table.to_csv(one / "images.csv")
            data = one if column == "group" else one / "images.csv"
            hashes.add(listing(data, one / "images.csv").sha256())
    assert len(hashes) == 7
    image(two / "train" / "cat" / "00.png", size=(40, 40))
    assert listing(one).sha256() != listing(two).sha256()
    (one / "test" / "dog" / "01.png").rename(one / "test" / "dog" / "02.png")
    assert listing(one).sha256() != listing(in_three(tmp_path / "three")).sha256()


# ---------------------------------------------------------------- groups


@pytest.fixture
def grouped(tmp_path):
    """(folder of 15 images, table of their paths and groups, in another order)."""
    folder = in_three(tmp_path / "data")
    names = everything(listing(folder))
    rows = np.random.default_rng(0).permutation(len(names))
    kind = ["day" if name.endswith("00.png") else "night" for name in names]
    table = pd.DataFrame({"path": names, "group": kind}).iloc[rows].reset_index(drop=True)
    return folder, table


@pytest.mark.parametrize("how", ["csv", "tsv", "parquet", "below", "backslash", "ends"])
def test_groups_are_joined_by_path(grouped, tmp_path, how):
    folder, table = grouped
    if how == "below":
        table["path"] = [f"{folder}/{path}" for path in table["path"]]
    if how == "backslash":
        table["path"] = [path.replace("/", "\\") for path in table["path"]]
    if how == "ends":
        table["path"] = [f"elsewhere/{path}" for path in table["path"]]
    file = tmp_path / f"groups.{how if how in ('tsv', 'parquet') else 'csv'}"
    if how == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False, sep="\t" if how == "tsv" else ",")
    found = listing(folder, file)
    assert found.group_names == ("day", "night") and found.class_names == ("cat", "dog")
    for part in PARTS:
        assert getattr(found, part).group.tolist() == [0, 1, 1, 0, 1]  # 00, 01, 02; 00, 01
    assert f"{file}: 2 groups, joined by path." in found.read


def test_groups_are_numbered_in_order_of_names_and_numbers_by_size(grouped, tmp_path):
    folder, table = grouped
    table["group"] = [10 if path.endswith("00.png") else 9 for path in table["path"]]
    table.to_csv(tmp_path / "groups.csv", index=False)
    assert listing(folder, tmp_path / "groups.csv").group_names == ("9", "10")
    table["group"] = [f"g{number}" for number in table["group"]]
    table.to_csv(tmp_path / "groups.csv", index=False)
    assert listing(folder, tmp_path / "groups.csv").group_names == ("g10", "g9")


def test_groups_that_val_or_test_lack_are_said(grouped, tmp_path):
    folder, table = grouped
    table["group"] = [path.split("/")[0] for path in table["path"]]
    table.to_csv(tmp_path / "groups.csv", index=False)
    read = listing(folder, tmp_path / "groups.csv").read
    assert "val has no image of 2 of 3 groups: test, train." in read


def test_groups_of_other_images_are_refused(grouped, tmp_path):
    folder, table = grouped
    file = tmp_path / "groups.csv"

    def said(table):
        table.to_csv(file, index=False)
        return refused(listing, folder, file)

    more = pd.DataFrame({"path": ["train/cat/77.png", "train/cat/78.png"], "group": "day"})
    lost = pd.concat([table[table["path"] != "val/dog/00.png"], more])
    assert said(lost) == (
        f"{file}: has no row with the id 'val/dog/00.png', which stands in {folder}."
    )
    assert "is there twice" in said(pd.concat([table, table[:1]]))
    assert "must name the image of each row" in said(table[["group"]])
    assert "group in row 3 is '', not a name" in said(table.assign(group=["a"] * 3 + [""] * 12))
    named = table.rename(columns={"group": "place"}).assign(weather="wet")
    assert "name the column with the groups 'group'" in said(named)
    pd.concat([named, more.rename(columns={"group": "place"})]).to_csv(file, index=False)
    found = listing(folder, f"{file}:place")
    assert found.group_names == ("day", "night")
    assert f"Left out: 2 rows with ids that {folder} lacks." in found.read[1]


def test_groups_of_images_that_are_left_out_are_no_error(tmp_path):
    folder = broken(tmp_path / "data")
    names = everything(listing(folder))
    table = pd.DataFrame({"path": names, "group": [name.split("/")[1] for name in names]})
    table.to_csv(tmp_path / "groups.csv", index=False)
    found = listing(folder, tmp_path / "groups.csv", skip_corrupt=True)
    assert len(found.train) == 8 and found.train.group.tolist() == found.train.y.tolist()
    table["group"] = ["cut" if "cut" in name else "whole" for name in names]
    table.to_csv(tmp_path / "groups.csv", index=False)
    found = listing(folder, tmp_path / "groups.csv", skip_corrupt=True)
    assert found.group_names == ("whole",)  # of what is left


# ---------------------------------------------------------------- tables


def a_table(folder, n=20):
    """Images in one flat folder, and a table of their paths and labels."""
    images(folder, {"pictures": n})
    names = [f"pictures/{i:02}.png" for i in range(n)]
    labels = ["dog" if i % 2 else "cat" for i in range(n)]
    return pd.DataFrame({"path": names, "label": labels})


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_says_paths_labels_groups_and_parts(tmp_path, suffix):
    table = a_table(tmp_path)
    table["split"] = ["train", "Train", "validation", "test"] * 5
    table["group"] = [i % 5 for i in range(20)]
    table["id"] = range(100, 120)
    file = tmp_path / f"images.{suffix}"
    if suffix == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False, sep="\t" if suffix == "tsv" else ",")
    found = listing(file)
    assert found.folder == tmp_path and found.class_names == ("cat", "dog")
    assert found.group_names == ("0", "1", "2", "3", "4")
    assert found.train.names.tolist() == [f"pictures/{i:02}.png" for i in range(20) if i % 4 < 2]
    assert found.train.y.tolist() == [0, 1] * 5
    assert found.val.names[0] == "pictures/02.png" and found.val.group.tolist() == [2, 1, 0, 4, 3]
    assert sizes(found) == {"train": [5, 5], "val": [5, 0], "test": [0, 5]}
    assert found.test.open(0).getpixel((0, 0)) == (3, 10, 20)
    assert f"{file}: 20 images of 2 classes (cat … dog)." in found.read


def test_a_table_without_parts_is_split_as_one_folder(tmp_path):
    table = a_table(tmp_path, 40)
    table["label"] = [11 if label == "dog" else 2 for label in table["label"]]
    table["path"] = [f"./{path}" for path in table["path"]]
    table.to_csv(tmp_path / "images.csv", index=False)
    found = listing(tmp_path / "images.csv")
    assert found.class_names == found.group_names == ("2", "11")
    assert sizes(found) == {"train": [14, 14], "val": [3, 3], "test": [3, 3]}
    assert all(
        int(name[9:11]) % 2 == y for name, y in zip(found.train.names, found.train.y, strict=True)
    )
    table["path"] = [str(tmp_path / path) for path in table["path"]]
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "images.csv", index=False)
    assert listing(tmp_path / "tables" / "images.csv").train.open(0).size == (3, 2)


def test_what_a_table_lacks_is_said(tmp_path):
    table = a_table(tmp_path)
    file = tmp_path / "images.csv"

    def said(table):
        table.to_csv(file, index=False)
        return refused(listing, file)

    gone = table.assign(path=["gone.png", "lost.png", *table["path"][2:]])
    assert said(gone) == (
        f"{file}: 2 paths of 20 are no file below {tmp_path}, the first 'gone.png'."
    )
    assert "'pictures/00.png' is there twice, again in row 20" in said(
        pd.concat([table, table[:1]])
    )
    assert "call the column with the labels label" in said(table.rename(columns={"label": "kind"}))
    assert "with its path in a column path" in said(table.rename(columns={"path": "where"}))
    assert "label in row 0 is ''" in said(table.assign(label=["", *table["label"][1:]]))
    split = ["tset", *["train"] * 19]
    assert "split in row 0 is 'tset', not one of train, val, test." in said(
        table.assign(split=split)
    )
    assert "no image is in train" in said(table.assign(split="test"))
    split = ["train" if label == "cat" else "val" for label in table["label"]]
    without = f"{file}: train has no image of 1 of 2 classes: dog"
    assert said(table.assign(split=split)).startswith(without)
    file.write_bytes(b"\x00\xff\xfe")
    assert refused(listing, file).startswith(f"{file}: ")


# ---------------------------------------------------------------- Parquet


def shard(path, labels, more=None, names=None, column="img", label="label", start=0):
    """A file as the Hugging Face hub has them; image k is of colour start + k."""
    held = []
    for k in range(len(labels)):
        content = io.BytesIO()
        Image.new("RGB", (3, 2), (start + k, 0, 0)).save(content, "PNG")
        held.append({"bytes": content.getvalue(), "path": f"{k}.png"})
    table = pa.table({column: held, label: labels} | (more or {}))
    if names:
        features = {column: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("layout", ["", "data/", "folders"])
def test_parquet_files_of_the_hub_are_read(tmp_path, layout):
    names = ["newt", "cat"]  # in the order of the numbers, not of the alphabet
    at = "{part}/000{k}.parquet" if layout == "folders" else layout + "{part}-0000{k}-of-2.parquet"
    labels = {("train", 0): [0, 1, 1], ("train", 1): [1, 0], ("validation", 0): [1, 0]}
    labels["test", 0] = [0, 0, 1]
    for start, ((part, k), of) in enumerate(labels.items()):
        path = tmp_path / at.format(part=part, k=k)
        shard(path, of, names=names, column="image" if layout else "img", start=50 * start)
    found = listing(tmp_path)
    assert found.class_names == found.group_names == ("newt", "cat")
    assert sizes(found) == {"train": [2, 3], "val": [1, 1], "test": [2, 1]}
    assert found.train.y.tolist() == [0, 1, 1, 1, 0]
    second = at.format(part="train", k=1)
    assert found.train.names.tolist()[2:4] == [f"{at.format(part='train', k=0)}#2", f"{second}#0"]
    assert [found.train.open(i).getpixel((0, 0))[0] for i in range(5)] == [0, 1, 2, 50, 51]
    assert found.val.open(1).getpixel((0, 0)) == (101, 0, 0) and found.val.path(1) is None
    last = pickle.loads(pickle.dumps(found.test[np.array([2])]))
    assert last.open(0).getpixel((0, 0)) == (152, 0, 0) and last.sizes()[0] > 50
    assert "10 images of 2 classes (newt … cat) in 4 Parquet files." in found.read[0]


def test_one_parquet_file_with_groups_is_split(tmp_path):
    shard(tmp_path / "all.parquet", [0, 1] * 10, {"group": ["a", "b", "b", "b"] * 5})
    for found in (listing(tmp_path), listing(tmp_path / "all.parquet")):
        assert found.class_names == ("0", "1") and found.group_names == ("a", "b")
        assert sizes(found) == {"train": [6, 6], "val": [2, 2], "test": [2, 2]}
        for part in PARTS:
            held = getattr(found, part)
            rows = [int(name.rpartition("#")[2]) for name in held.names]
            assert held.group.tolist() == [int(row % 4 > 0) for row in rows]
    table = pd.DataFrame(
        {"path": [f"all.parquet#{i}" for i in range(20)], "group": list("xy") * 10}
    )
    table.to_csv(tmp_path / "groups.csv", index=False)
    assert listing(tmp_path, tmp_path / "groups.csv").group_names == ("x", "y")


def test_names_of_classes_come_from_a_file_too(tmp_path):
    shard(tmp_path / "train-0.parquet", [0, 1] * 20, label="fine_label")
    (tmp_path / "label_names.json").write_text('{"fine_label": ["bee", "ant"]}')
    assert listing(tmp_path).class_names == ("bee", "ant")
    (tmp_path / "label_names.json").write_text('{"fine_label": ["bee"]}')
    assert "label in row 1 is 1, not a number from 0 to 0" in refused(listing, tmp_path)
    (tmp_path / "label_names.json").write_text("[1")
    assert listing(tmp_path).class_names == ("0", "1")


def test_parquet_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    shard(tmp_path / "train-0.parquet", [0, 1] * 20)
    shard(tmp_path / "new.parquet", [0, 1])
    assert "new.parquet: its name does not say" in refused(listing, tmp_path)
    (tmp_path / "new.parquet").write_bytes(b"PAR1 no")
    assert refused(listing, tmp_path).startswith(f"{tmp_path / 'new.parquet'}: is no readable")
    (tmp_path / "new.parquet").unlink()
    (tmp_path / "train-0.parquet").rename(tmp_path / "test-0.parquet")
    assert "train has no image of 2 of 2 classes" in refused(listing, tmp_path)
    shard(tmp_path / "train-0.parquet", [0, 1] * 20, label="kind")
    said = f"{tmp_path / 'train-0.parquet'}: has no column label, which test-0.parquet has."
    assert refused(listing, tmp_path) == said
    (tmp_path / "test-0.parquet").unlink()
    assert "call the column with the labels label" in refused(listing, tmp_path)
    shard(tmp_path / "train-0.parquet", [0, 1] * 20)
    held = parquet.read_table(tmp_path / "train-0.parquet").to_pylist()
    held[3]["img"]["bytes"] = None
    parquet.write_table(pa.Table.from_pylist(held), tmp_path / "train-0.parquet")
    assert "train-0.parquet#3: holds no bytes of an image" in refused(listing, tmp_path)
    shard(tmp_path / "train-0.parquet", [0, 1] * 20)
    monkeypatch.setattr(shards, "free_memory", lambda device: 1000)
    assert "in one folder per class" in refused(listing, tmp_path)


def test_a_corrupt_image_of_parquet_is_named_by_its_row(tmp_path):
    shard(tmp_path / "train-0.parquet", [0, 1] * 20)
    held = parquet.read_table(tmp_path / "train-0.parquet").to_pylist()
    held[7]["img"]["bytes"] = b"no image"
    parquet.write_table(pa.Table.from_pylist(held), tmp_path / "train-0.parquet")
    found = listing(tmp_path, skip_corrupt=True)
    assert "Left out: 1 image that cannot be read: train-0.parquet#7." in found.read
    assert len(everything(found)) == 39
    shown = listing(tmp_path)
    for part in PARTS:
        held = getattr(shown, part)
        for i in np.flatnonzero(held.names == "train-0.parquet#7"):
            assert f"{tmp_path}/train-0.parquet#7: is no readable image" in refused(held.open, i)


def test_a_table_of_metadata_beside_the_folders_is_no_data(tmp_path):
    in_three(tmp_path)
    pd.DataFrame({"file_name": ["train/cat/00.png"]}).to_parquet(tmp_path / "metadata.parquet")
    assert listing(tmp_path).class_names == ("cat", "dog")


def test_real_cifar_10_is_read_with_its_names(data_root):
    if not any((data_root / "cifar10").glob("*.parquet")):
        pytest.skip("no CIFAR-10 in Parquet")
    found = listing(data_root / "cifar10")
    assert (len(found.train), len(found.val), len(found.test)) == (45_000, 5000, 10_000)
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    assert sizes(found)["train"] == [4500] * 10
    assert found.test.open(0).size == (32, 32)
