"""Readers: every layout gives the same arrays, these are the published ones, and bad data get one
sentence.

Damage is done to a small set of random images that `DATASETS` is patched to expect; real data are
read whole.
"""

import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdlib.config import KdlibError
from kdlib.study import files, readers
from kdlib.study.readers import DATASETS, DataError, download, find, load_images

NAMES = ("cifar100", "cifar10")
LAYOUTS = ("pickles", "parquet", "png")
COMMAND = "python -m kdlib data get cifar"
SMALL = {"train": 3, "test": 2}  # images of each class


def md5(content):
    return hashlib.md5(content).hexdigest()


# ---------------------------------------------------------------- writing the three layouts


def encoded(pixels, **how):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **how)
    return stream.getvalue()


def write_parquet(folder, name, rows, shards=3, formats=("PNG",)):
    """Rows are (part, label, image name, pixels); the formats take turns."""
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        mine = [row for row in rows if row[0] == part]
        for k in range(shards):
            img = [
                {
                    "bytes": encoded(x, format=formats[i % len(formats)], lossless=True),
                    "path": image,
                }
                for i, (_, _, image, x) in enumerate(mine[k::shards])
            ]
            table = pa.table(
                {"img": img, DATASETS[name].label: [row[1] for row in mine[k::shards]]}
            )
            pq.write_table(
                table, folder / f"{part}-{k:05}-of-{shards:05}.parquet", row_group_size=50
            )


def write_png(folder, name, rows):
    for part, label, image, x in rows:
        place = folder / part / DATASETS[name].names[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / image).write_bytes(encoded(x, format="PNG", compress_level=0))


def python2_pickle(content):
    """A dict as Python 2 pickled it: byte strings and an array, like the original files."""

    def string(value):
        value = value if isinstance(value, bytes) else value.encode("latin1")
        return b"T" + struct.pack("<I", len(value)) + value

    def piece(value):
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(piece, value)) + b"e"
        if isinstance(value, str):
            return string(value)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + b"".join(map(piece, value.shape))
            + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
            + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            + string(value.tobytes())
            + b"tb"
        )

    return (
        b"\x80\x02}("
        + b"".join(string(key) + piece(value) for key, value in content.items())
        + b"u."
    )


def write_pickles(folder, name, rows):
    """Returns the md5 of every file, to be patched in: what is written here cannot have the
    published one."""
    folder.mkdir(parents=True)
    published = DATASETS[name]
    sums = {"meta": {file: md5(b"meta") for file in published.files["meta"]}}
    for file in published.files["meta"]:
        (folder / file).write_bytes(b"meta")
    for part in ("train", "test"):
        mine, sums[part] = [row for row in rows if row[0] == part], {}
        for k, file in enumerate(published.files[part]):
            batch = mine[k :: len(published.files[part])]
            x = np.stack([row[3] for row in batch]).transpose(0, 3, 1, 2).reshape(len(batch), 3072)
            content = python2_pickle(
                {
                    "data": x,
                    published.label + "s": [int(row[1]) for row in batch],
                    "filenames": [row[2] for row in batch],
                }
            )
            (folder / file).write_bytes(content)
            sums[part][file] = md5(content)
    return sums


def write(layout, data, name, rows, monkeypatch):
    if layout == "parquet":
        write_parquet(data / name, name, rows, formats=("PNG", "WEBP"))
    elif layout == "png":
        write_png(data / name, name, rows)
    else:
        sums = write_pickles(data / DATASETS[name].folder, name, rows)
        monkeypatch.setitem(DATASETS, name, DATASETS[name]._replace(files=sums))


# ---------------------------------------------------------------- a small set


def hashed(rows):
    """The definition of the sha256, row by row."""
    digest = hashlib.sha256(b"".join(row[3].tobytes() for row in rows))
    digest.update(b"".join(struct.pack("<q", row[1]) for row in rows))
    digest.update(bytes(row[0] == "train" for row in rows))
    return digest.hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    monkeypatch.setattr(files, "DATA", tmp_path / "nothing here")
    readers._say.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """small(name): (rows, rows in order), which DATASETS then expects. Classes share image
    names."""

    def make(name):
        rng, rows = np.random.default_rng(0), []
        for part, count in SMALL.items():
            for label in range(len(DATASETS[name].names)):
                rows += [
                    (part, label, f"{part}_{label // 2}_s_{k:06}.png", x)
                    for k, x in enumerate(rng.integers(0, 256, (count, 32, 32, 3), np.uint8))
                ]
        ordered = sorted(rows, key=lambda row: (row[0] == "test", row[1], row[2]))
        monkeypatch.setitem(
            DATASETS, name, DATASETS[name]._replace(per_class=SMALL, sha256=hashed(ordered))
        )
        random.Random(0).shuffle(rows)
        return rows, ordered

    return make


def refused(*said, name="cifar100", data=None, command=True):
    """load_images raises one sentence that says all of `said`."""
    with pytest.raises(DataError) as caught:
        load_images(name, data)
    sentence = str(caught.value)
    assert "\n" not in sentence and (COMMAND in sentence or not command), sentence
    for words in said:
        assert words in sentence, sentence


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(name, layout, small, tmp_path, monkeypatch):
    rows, ordered = small(name)
    write(layout, tmp_path / "data", name, rows, monkeypatch)
    images = load_images(name, tmp_path / "data")
    assert find(name, tmp_path / "data")[0] == layout
    assert (images.x == np.stack([row[3] for row in ordered])).all()
    assert images.x.dtype == np.uint8 and images.x.flags.c_contiguous and images.x.flags.writeable
    assert images.y.tolist() == [row[1] for row in ordered] and images.y.dtype == np.int64
    assert (
        images.train.tolist() == [row[0] == "train" for row in ordered]
        and images.train.dtype == bool
    )
    assert images.names == tuple(sorted(images.names)) and f"cifar{len(images.names)}" == name
    if name == "cifar10":
        assert images.coarse is None and images.coarse_names == ()
    else:
        assert images.coarse.dtype == np.int64 and len(images.coarse) == len(images.y)
        wolf = np.flatnonzero(images.y == images.names.index("wolf"))[0]
        assert images.coarse_names[images.coarse[wolf]] == "large_carnivores"


# ---------------------------------------------------------------- the real data


@functools.cache
def real(name, data_root, folder):
    """(Images, peak memory in kB of the process that decoded them), once for all tests; cache:
    `folder`."""
    # VmHWM, because ru_maxrss starts from what the parent process had
    code = (
        f"from kdlib.study.readers import load_images; load_images({name!r}, {str(data_root)!r})\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"KDLIB_CACHE": str(folder)},
    )
    assert done.stderr == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_CACHE", str(folder))
        images = load_images(name, data_root)
    images.x.flags.writeable = False  # shared by the tests
    return images, int(done.stdout)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache of the real data")


@pytest.fixture
def images(name, data_root, real_cache):
    return real(name, data_root, real_cache)[0]


@functools.cache
def rows_on_disk(name, data_root):
    """(part, label, image name, superclass or None, bytes) of the Parquet files, not through the
    reader."""
    rows = []
    for shard in sorted((data_root / name).glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            rows.append(
                (
                    shard.name.partition("-")[0],
                    row[DATASETS[name].label],
                    row["img"]["path"],
                    row.get("coarse_label"),
                    row["img"]["bytes"],
                )
            )
    return rows


# of training pixels in [0, 1]: the constants that papers and code bases quote
PUBLISHED_STATISTICS = {
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def test_statistics_are_the_published_ones(name, images):
    for channel, (mean, std) in enumerate(zip(*PUBLISHED_STATISTICS[name], strict=True)):
        pixels = images.x[images.train, ..., channel]
        average = pixels.mean(dtype=np.float64)
        square = np.square(pixels, dtype=np.uint16).mean(dtype=np.float64)
        assert average / 255 == pytest.approx(mean, abs=6e-5)
        assert np.sqrt(square - average**2) / 255 == pytest.approx(std, abs=6e-5)


def test_counts_are_the_published_ones(name, images):
    classes = len(images.names)
    assert images.x.shape == (60_000, 32, 32, 3)
    assert images.train.sum() == 50_000 and images.train[:50_000].all()
    assert (np.bincount(images.y[images.train]) == 50_000 // classes).all()
    assert (np.bincount(images.y[~images.train]) == 10_000 // classes).all()
    if name == "cifar100":
        assert (np.bincount(images.coarse) == 3000).all() and len(images.coarse_names) == 20


def test_order_labels_and_pixels_are_those_on_disk(name, images, data_root):
    rows = rows_on_disk(name, data_root)
    assert (
        len({(label, image) for _, label, image, _, _ in rows}) == 60_000
    )  # so no tie has to be broken
    rows = sorted(rows, key=lambda row: (row[0] == "test", row[1], row[2]))
    assert images.y.tolist() == [row[1] for row in rows]
    if name == "cifar100":
        assert images.coarse.tolist() == [row[3] for row in rows]
    for i in random.Random(0).sample(range(60_000), 500):
        assert (images.x[i] == np.asarray(Image.open(io.BytesIO(rows[i][4])))).all()


def test_class_names_are_those_on_disk(name, images, data_root):
    names = json.loads((data_root / name / "label_names.json").read_text())
    assert list(images.names) == names[DATASETS[name].label]
    assert list(images.coarse_names) == names.get("coarse_label", [])


def test_memory_and_time(name, images, data_root, real_cache, monkeypatch):
    _, peak = real(name, data_root, real_cache)
    assert 200_000 < peak < 1e9 / 1024
    monkeypatch.setenv("KDLIB_CACHE", str(real_cache))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert (load_images(name, data_root).x[::1000] == images.x[::1000]).all()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def test_pickles_of_the_real_images_give_the_same(data_root, real_cache, tmp_path, monkeypatch):
    """All 60,000, in another order, in the original format; only their md5 is not the published
    one."""
    images = real("cifar100", data_root, real_cache)[0]
    ordered = sorted(
        (part == "test", *row) for part, *row, _, _ in rows_on_disk("cifar100", data_root)
    )
    rows = [
        ("test" if test else "train", label, image, x)
        for (test, label, image), x in zip(ordered, images.x, strict=True)
    ]
    random.Random(0).shuffle(rows)
    write("pickles", tmp_path, "cifar100", rows, monkeypatch)
    assert find("cifar100", tmp_path)[0] == "pickles"
    assert (load_images("cifar100", tmp_path).x == images.x).all()


def test_png_of_the_test_images_give_the_same(data_root, real_cache, tmp_path):
    images = real("cifar10", data_root, real_cache)[0]
    rows = [
        (part, label, image, np.asarray(Image.open(io.BytesIO(content))))
        for part, label, image, _, content in rows_on_disk("cifar10", data_root)
        if part == "test"
    ]
    write_png(tmp_path, "cifar10", rows)
    assert (readers._read_part("cifar10", "png", tmp_path, "test") == images.x[~images.train]).all()


# ---------------------------------------------------------------- damage


def test_md5_sums_are_torchvisions(name):
    from torchvision import datasets

    theirs, ours = getattr(datasets, name.upper()), DATASETS[name]
    assert list(ours.files["train"].items()) == [tuple(pair) for pair in theirs.train_list]
    assert list(ours.files["test"].items()) == [tuple(pair) for pair in theirs.test_list]
    assert ours.files["meta"] == {theirs.meta["filename"]: theirs.meta["md5"]}
    assert (ours.archive_md5, ours.folder) == (theirs.tgz_md5, theirs.base_folder)


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_foreign_pickle_is_not_opened(tmp_path):
    folder, sprung = tmp_path / "cifar-100-python", tmp_path / "sprung"
    folder.mkdir()
    for file in ("train", "test"):
        (folder / file).write_bytes(pickle.dumps(Trap(sprung)))
    refused(
        f"{folder / 'train'} is", "16019d7e3df5f24257cddd939b257f8d", "not opened", data=tmp_path
    )
    assert not sprung.exists()
    pickle.loads((folder / "train").read_bytes())
    assert sprung.exists()  # the trap works: had it been opened, the test would have seen it


def test_missing_or_truncated_pickle(small, tmp_path, monkeypatch):
    rows, _ = small("cifar100")
    write("pickles", tmp_path, "cifar100", rows, monkeypatch)
    file = tmp_path / "cifar-100-python" / "test"
    file.write_bytes(file.read_bytes()[:-1])
    refused(f"{file} is missing, truncated", data=tmp_path)
    file.unlink()
    refused(f"{file} is missing", data=tmp_path)


def rewrite(shard, change):
    columns = pq.read_table(shard).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), shard)


def invert(content):
    return encoded(255 - np.asarray(Image.open(io.BytesIO(content))), format="PNG")


def image_of(shape):
    return encoded(np.zeros(shape, np.uint8), format="PNG")


def column(name, value):
    """The sixth row of a column gets another value, or what a function makes of it."""

    def change(columns):
        columns[name][5] = value(columns[name][5]) if callable(value) else value

    return lambda shard: rewrite(shard, change)


def content(value):
    """The sixth image gets other bytes, or what a function makes of them."""
    return column(
        "img", lambda img: img | {"bytes": value(img["bytes"]) if callable(value) else value}
    )


SCHEMA, BROKEN = "expected img{bytes, path} and fine_label", "truncated or damaged"
DAMAGE = {
    "truncated": (lambda shard: shard.write_bytes(shard.read_bytes()[:-9]), BROKEN),
    "empty": (lambda shard: shard.write_bytes(b""), BROKEN),
    "text": (lambda shard: shard.write_bytes(b"<html>404 Not Found</html>"), BROKEN),
    "missing": (lambda shard: shard.unlink(), "is missing"),
    "folder": (lambda shard: (shard.unlink(), shard.mkdir()), BROKEN),
    "no label": (lambda shard: rewrite(shard, lambda columns: columns.pop("fine_label")), SCHEMA),
    "no image": (lambda shard: rewrite(shard, lambda columns: columns.pop("img")), SCHEMA),
    "null image": (column("img", None), SCHEMA),
    "null label": (column("fine_label", None), SCHEMA),
    "null name": (column("img", lambda img: img | {"path": None}), "no image names"),
    "null bytes": (content(None), "not a whole PNG or WebP image"),
    "cut image": (content(lambda image: image[: len(image) // 2]), "not a whole PNG or WebP image"),
    "grey image": (content(image_of((32, 32))), "L of 32 x 32 pixels, expected RGB of 32 x 32"),
    "large image": (
        content(image_of((28, 30, 3))),
        "RGB of 30 x 28 pixels, expected RGB of 32 x 32",
    ),
}
CHANGED = {
    "label out of range": (column("fine_label", 100), "expected 3"),
    "negative label": (column("fine_label", -1), "1 train images with label -1, expected 0"),
    "row missing": (
        lambda shard: rewrite(shard, lambda columns: [c.pop() for c in columns.values()]),
        ": 2 train images with label",
    ),
    "row twice": (
        lambda shard: rewrite(shard, lambda columns: [c.append(c[0]) for c in columns.values()]),
        ": 4 train images with label",
    ),
    "no rows": (
        lambda shard: pq.write_table(pq.read_table(shard)[:0], shard),
        "train images with label",
    ),
    "foreign image": (content(invert), "sha256"),
    "name changed": (column("img", lambda img: img | {"path": "a.png"}), "sha256"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_shard_is_named(kind, small, tmp_path):
    rows, _ = small("cifar100")
    write_parquet(tmp_path / "cifar100", "cifar100", rows)
    damage, said = DAMAGE[kind]
    shard = tmp_path / "cifar100" / "train-00001-of-00003.parquet"
    damage(shard)
    refused(str(shard), said, data=tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", CHANGED)
def test_changed_content_is_noticed(kind, small, tmp_path):
    rows, _ = small("cifar100")
    write_parquet(tmp_path / "cifar100", "cifar100", rows)
    change, said = CHANGED[kind]
    change(tmp_path / "cifar100" / "train-00001-of-00003.parquet")
    refused(str(tmp_path / "cifar100"), said, data=tmp_path)


def test_no_shards_of_a_part(small, tmp_path):
    rows, _ = small("cifar100")
    write_parquet(tmp_path / "cifar100", "cifar100", rows, shards=1)
    (tmp_path / "cifar100" / "test-00000-of-00001.parquet").unlink()
    refused("test-00000-of-00001.parquet is missing", data=tmp_path)


def test_the_other_data_set_is_refused(small, tmp_path):
    rows, _ = small("cifar10")
    write_parquet(tmp_path / "cifar100", "cifar10", rows)
    refused("train-00000-of-00003.parquet is not cifar100", data=tmp_path)


def test_random_damage_never_gives_a_traceback(small, tmp_path, monkeypatch):
    """A changed bit or a cut anywhere: a DataError, or the right images (some bytes do not
    matter)."""
    rows, ordered = small("cifar10")
    monkeypatch.setattr(readers, "_write_cache", lambda *_: None)
    write_parquet(tmp_path / "cifar10", "cifar10", rows, shards=1)
    shard, rng, outcomes = (
        tmp_path / "cifar10" / "test-00000-of-00001.parquet",
        random.Random(0),
        [],
    )
    whole = shard.read_bytes()
    for attempt in range(200):
        damaged = bytearray(whole)
        # half of the changes fall near the end, where Parquet describes itself
        place = rng.randrange(len(whole) - 1500 if attempt % 2 else 0, len(whole))
        damaged[place] ^= 1 << rng.randrange(8)
        shard.write_bytes(damaged[:place] if attempt % 10 == 0 else damaged)
        try:
            same = load_images("cifar10", tmp_path).x == np.stack([row[3] for row in ordered])
            outcomes.append(bool(same.all()))
        except DataError as error:
            assert "\n" not in str(error)
            outcomes.append("refused")
    assert False not in outcomes and outcomes.count("refused") > 50


def test_damaged_png_folders(small, tmp_path):
    rows, _ = small("cifar100")
    write_png(tmp_path / "cifar100", "cifar100", rows)
    file = next((tmp_path / "cifar100" / "test" / "wolf").iterdir())
    content = file.read_bytes()
    file.write_bytes(content[:500])
    refused(f"{file} is not a whole PNG", data=tmp_path)
    file.unlink()
    refused("1 test images with label 97, expected 2", data=tmp_path)
    file.write_bytes(content)
    (tmp_path / "cifar100" / "test" / "wolf").rename(tmp_path / "cifar100" / "test" / "wolves")
    refused("0 test images with label 97, expected 2", data=tmp_path)


# ---------------------------------------------------------------- where it is looked for


def test_missing_data(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        find("cifar10", tmp_path)
    sentence = str(caught.value)
    for said in (
        str(tmp_path),
        "cifar-10-batches-py/",
        "cifar10/*.parquet",
        "cifar10/train/",
        "python -m kdlib data get cifar10",
    ):
        assert said in sentence
    refused(str(tmp_path / "no such folder"), data=tmp_path / "no such folder")
    refused("nothing here")


def test_unknown_name(tmp_path):
    for look in (find, load_images, download):
        with pytest.raises(KdlibError, match="'cifar1000'.*cifar100, cifar10"):
            look("cifar1000", tmp_path)


def test_argument_goes_before_environment_before_the_repository(small, tmp_path, monkeypatch):
    rows, _ = small("cifar10")
    for place in ("a", "b", "c"):
        write_parquet(tmp_path / place / "cifar10", "cifar10", rows)
    monkeypatch.setattr(files, "DATA", tmp_path / "c")
    assert find("cifar10")[1] == tmp_path / "c" / "cifar10"
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "b"))
    assert find("cifar10")[1] == tmp_path / "b" / "cifar10"
    assert find("cifar10", tmp_path / "a")[1] == tmp_path / "a" / "cifar10"
    refused(
        "cifar10 was not found", name="cifar10", data=tmp_path
    )  # what was named is not passed over


def test_pickles_win_over_a_damaged_copy(small, tmp_path, monkeypatch):
    """So that the command that the error names does help."""
    rows, ordered = small("cifar10")
    write_parquet(tmp_path / "cifar10", "cifar10", rows)
    (tmp_path / "cifar10" / "train-00000-of-00003.parquet").unlink()
    refused("is missing", name="cifar10", data=tmp_path)
    write("pickles", tmp_path, "cifar10", rows, monkeypatch)
    assert (load_images("cifar10", tmp_path).x == np.stack([row[3] for row in ordered])).all()


# ---------------------------------------------------------------- cache


@pytest.fixture
def cached(small, tmp_path):
    """(data folder, cache file, pixels) after a first read."""
    rows, ordered = small("cifar10")
    write_parquet(tmp_path / "data" / "cifar10", "cifar10", rows)
    load_images("cifar10", tmp_path / "data")
    [file] = (tmp_path / "cache").iterdir()
    return tmp_path / "data", file, np.stack([row[3] for row in ordered])


def forbid_reading(monkeypatch):
    def read(*_):
        raise AssertionError("the source was read")

    monkeypatch.setattr(readers, "READERS", dict.fromkeys(LAYOUTS, read))


def test_second_load_reads_the_cache(cached, monkeypatch, capfd):
    data, file, x = cached
    assert file.name == f"cifar10-{DATASETS['cifar10'].sha256[:12]}.npy"
    assert (np.load(file, allow_pickle=False) == x).all()
    forbid_reading(monkeypatch)
    assert (load_images("cifar10", data).x == x).all()
    assert (load_images("cifar10").x == x).all()  # no folder was named: the cache is enough
    refused("cifar10 was not found", name="cifar10", data=data / "elsewhere")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["byte", "cut", "empty", "zip", "pickle", "header"])
def test_damaged_cache_is_read_again_and_mended(kind, cached, tmp_path, monkeypatch, capfd):
    data, file, x = cached
    whole = bytearray(file.read_bytes())
    changed = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    stream = io.BytesIO()
    np.save(stream, np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    file.write_bytes(
        {
            "byte": changed,
            "cut": whole[:-1],
            "empty": b"",
            "zip": b"PK\x03\x04" + changed,
            "pickle": stream.getvalue(),
            "header": b"\x93NUMPY\x01\x00\xff\xff" + whole[:9],
        }[kind]
    )
    assert (load_images("cifar10", data).x == x).all()
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and f"{file} is damaged" in said.err
    assert not (tmp_path / "sprung").exists()
    forbid_reading(monkeypatch)
    assert (load_images("cifar10", data).x == x).all()


def test_unwritable_cache_is_said_once(small, tmp_path, monkeypatch, capfd):
    rows, _ = small("cifar10")
    write_parquet(tmp_path / "cifar10", "cifar10", rows)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "a file" / "cache"))
    assert len(load_images("cifar10", tmp_path).x) == len(load_images("cifar10", tmp_path).x) == 50
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "cannot be written" in said and "a file" in said


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_cache_is_written_whole_or_not_at_all(error, small, tmp_path, monkeypatch, capfd):
    rows, _ = small("cifar10")
    write_parquet(tmp_path / "cifar10", "cifar10", rows)

    def save(stream, x):
        stream.write(bytes(1000))
        stream.flush()
        assert len(list((tmp_path / "cache").iterdir())) == 1
        raise error

    monkeypatch.setattr(np, "save", save)
    if isinstance(error, OSError):
        load_images("cifar10", tmp_path)
        assert "No space left" in capfd.readouterr().err
    else:
        with pytest.raises(KeyboardInterrupt):
            load_images("cifar10", tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_import_is_light():
    code = (
        "import sys, kdlib.study.readers\n"
        "print(sorted({'torch', 'torchvision', 'pandas', 'pyarrow', 'PIL', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- download


@pytest.fixture
def server(monkeypatch):
    """A loopback server: `.content`, `.breaks` (bytes sent before each of the next connections
    breaks), `.resumes`, `.status`; `.ranges` lists what was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            here, asked = self.server, self.headers.get("Range", "bytes=0-")
            here.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if here.resumes else 0
            if here.status or start and start >= len(here.content):
                self.send_error(here.status or 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(here.content) - start))
            if start:
                last = len(here.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            self.end_headers()
            end = start + here.breaks.pop(0) if here.breaks else None
            self.wfile.write(here.content[start:end])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    here = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.ranges, here.breaks, here.resumes, here.status = [], [], True, None
    here.url = f"http://127.0.0.1:{here.server_port}/cifar-10-python.tar.gz"
    thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    here.shutdown()
    thread.join()
    here.server_close()


@pytest.fixture
def archive(small, server, tmp_path, monkeypatch):
    """Serves a small cifar10 in the original layout, with members that try to get out of it; its
    pixels."""
    rows, ordered = small("cifar10")
    write("pickles", tmp_path / "made", "cifar10", rows, monkeypatch)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        inside = "cifar-10-batches-py"
        for evil in ("../evil", f"{inside}/../../evil", str(tmp_path / "evil"), f"{inside}/x"):
            member = tarfile.TarInfo(evil)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("cifar-10-batches-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    server.content = stream.getvalue()
    monkeypatch.setitem(
        DATASETS, "cifar10", DATASETS["cifar10"]._replace(archive_md5=md5(server.content))
    )
    return np.stack([row[3] for row in ordered])


def all_is_there(folder, x):
    files = {file for part in DATASETS["cifar10"].files.values() for file in part}
    assert {path.name for path in folder.iterdir()} == {"cifar-10-batches-py"}
    assert {path.name for path in (folder / "cifar-10-batches-py").iterdir()} == files
    assert (load_images("cifar10", folder).x == x).all()


def test_download(archive, server, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(
        datasets.CIFAR10, "url", server.url
    )  # without a url, the address is torchvision's
    assert download("cifar10", tmp_path / "got") == tmp_path / "got" / "cifar-10-batches-py"
    all_is_there(tmp_path / "got", archive)
    assert not (tmp_path / "evil").exists()
    download("cifar10", tmp_path / "got", server.url)
    assert len(server.ranges) == 1  # what is there and whole is not fetched again
    (tmp_path / "got" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"damaged")
    download("cifar10", tmp_path / "got", server.url)
    all_is_there(tmp_path / "got", archive)


def test_broken_connections_are_resumed(archive, server, tmp_path):
    server.breaks = [70_000, 0, 30_000]
    download("cifar10", tmp_path / "got", server.url)
    assert server.ranges == ["bytes=0-", "bytes=70000-", "bytes=70000-", "bytes=100000-"]
    all_is_there(tmp_path / "got", archive)


def test_the_next_call_goes_on(archive, server, tmp_path):
    server.breaks = [1000] * 10
    size = f"{len(server.content):,}"
    with pytest.raises(
        DataError, match=f"broke off after 10,000 of {size} bytes.*goes on from there"
    ):
        download("cifar10", tmp_path / "got", server.url)
    refused("cifar10 was not found", name="cifar10", data=tmp_path / "got")  # a part is no whole
    server.ranges.clear()
    download("cifar10", tmp_path / "got", server.url)
    assert server.ranges == ["bytes=10000-"]
    all_is_there(tmp_path / "got", archive)


def test_a_server_that_cannot_resume(archive, server, tmp_path):
    server.resumes, server.breaks = False, [50_000]
    download("cifar10", tmp_path / "got", server.url)
    all_is_there(tmp_path / "got", archive)


def test_whole_archive_left_by_an_interruption(archive, server, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "cifar-10-batches-py.tar.gz.part").write_bytes(server.content)
    download("cifar10", tmp_path / "got", server.url)
    all_is_there(tmp_path / "got", archive)


def test_wrong_checksum_is_not_unpacked(archive, server, tmp_path, monkeypatch):
    right = server.content
    server.content = right[:-1] + b"!"
    with pytest.raises(DataError, match=f"{md5(server.content)}, expected {md5(right)}"):
        download("cifar10", tmp_path / "got", server.url)
    assert list((tmp_path / "got").iterdir()) == []
    server.content = right
    download("cifar10", tmp_path / "got", server.url)
    all_is_there(tmp_path / "got", archive)


def test_download_errors_are_one_sentence(archive, server, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match=f"cifar10 could not be fetched from {server.url}.*404"):
        download("cifar10", tmp_path / "got", server.url)
    assert len(server.ranges) == 1
    for url in ("http://127.0.0.1:9/x", "nonsense", "ftp//x"):
        with pytest.raises(DataError, match="could not be fetched"):
            download("cifar10", tmp_path / "got", url)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be fetched"):
        download("cifar10", tmp_path / "file", server.url)
