"""CIFAR: every layout gives the same arrays, the published ones; bad data get one sentence.

Damage is done to a small set of random images that the reader is patched to expect; real data are
read whole. What torchvision should fetch lies in a local archive.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import shutil
import socket
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
from torchvision import datasets

from kdlib.config import Config, KdlibError
from kdlib.study import cifar, files
from kdlib.study.cifar import DataError, download, find, load_images
from kdlib.study.datasets import load

PER_CLASS = {"train": 3, "test": 2}  # images of the small sets
COMMAND = "python -m kdlib data get cifar"


@pytest.fixture(scope="module", params=["cifar100", "cifar10"])
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    monkeypatch.setattr(files, "DATA", tmp_path / "nothing here")
    cifar._say.cache_clear()


# ---------------------------------------------------------------- a small set, in every layout


@pytest.fixture
def small(tmp_path, monkeypatch):
    """small(name): rows (part, label, image name, pixels) in random order, and in canonical order.

    The reader expects them. Classes share image names."""

    def make(name):
        rng, ordered, place = np.random.default_rng(0), [], []
        for part, count in PER_CLASS.items():
            for label in range(len(cifar.NAMES[name])):
                images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
                # how many of its class have smaller pixels
                place += [sum(bytes(other) < bytes(x) for other in images) for x in images]
                file = f"{part}_{label // 2}_s_{{:06}}.png"
                ordered += [(part, label, file.format(k), x) for k, x in enumerate(images)]
        np.savez(tmp_path / "order.npz", **{name: np.array(place, np.uint16)})
        parts = {part: n * len(cifar.NAMES[name]) for part, n in PER_CLASS.items()}
        monkeypatch.setattr(cifar, "PARTS", parts)
        monkeypatch.setattr(cifar, "ORDER", tmp_path / "order.npz")
        monkeypatch.setitem(cifar.SHA256, name, hashed(ordered))
        return random.Random(0).sample(ordered, len(ordered)), ordered

    return make


def hashed(rows):
    """The definition of the sha256, row by row."""
    digest = hashlib.sha256(b"".join(row[3].tobytes() for row in rows))
    digest.update(b"".join(struct.pack("<q", row[1]) for row in rows))
    digest.update(bytes(row[0] == "train" for row in rows))
    return digest.hexdigest()


def pixels(rows):
    return np.stack([row[3] for row in rows])


def encoded(x, format="PNG"):
    stream = io.BytesIO()
    Image.fromarray(x).save(stream, format=format, lossless=True)
    return stream.getvalue()


def write_parquet(data, name, rows, where="{}-{:05}-of-00003", named=False, format="PNG"):
    """By default as copies of the hub are, three files of each part without image names."""
    for part in PER_CLASS:
        for k in range(3):
            shard = [row for row in rows if row[0] == part][k::3]
            files = [row[2] if named else None for row in shard]
            coded = [encoded(row[3], format) for row in shard]
            img = [{"bytes": x, "path": file} for x, file in zip(coded, files, strict=True)]
            table = pa.table({"img": img, cifar.LABEL[name]: [row[1] for row in shard]})
            path = data / name / f"{where.format(part, k)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)


def write_pickles(data, name, rows, monkeypatch):
    """torchvision is patched to expect their md5."""
    original = getattr(datasets, name.upper())
    folder = data / original.base_folder
    folder.mkdir(parents=True)

    def write(file, content):
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for part in PER_CLASS:
        sums = []
        batches = getattr(original, f"{part}_list")
        mine = [row for row in rows if row[0] == part]
        for k, (file, _) in enumerate(batches):
            batch = mine[k :: len(batches)]
            x = pixels(batch).transpose(0, 3, 1, 2).reshape(len(batch), 3072)
            labels = [row[1] for row in batch]
            sums.append([file, write(file, {"data": x, cifar.LABEL[name] + "s": labels})])
        monkeypatch.setattr(original, f"{part}_list", sums)
    meta = original.meta["filename"], {original.meta["key"]: cifar.NAMES[name]}
    monkeypatch.setattr(original, "meta", original.meta | {"md5": write(*meta)})


@pytest.fixture
def copy(small, tmp_path):
    """(Rows in random order, pixels) of a small cifar10, of which Parquet files are in tmp_path."""
    rows, ordered = small("cifar10")
    write_parquet(tmp_path, "cifar10", rows)
    return rows, pixels(ordered)


PARQUET = {
    "of the hub": {},
    "of a clone of it": {"where": "plain_text/{}-{:05}-of-00003"},
    "converted by it": {"where": "{}/{:04}"},
    "with names": {"named": True, "format": "WEBP"},
}


def refused(*said, name="cifar10", data=None):
    """load_images raises one sentence that says all of `said`."""
    with pytest.raises(DataError) as caught:
        load_images(name, data)
    sentence = str(caught.value)
    assert "\n" not in sentence and COMMAND + name[5:] in sentence, sentence
    for words in said:
        assert words in sentence, sentence


@pytest.mark.parametrize("kind", ["pickles", *PARQUET])
def test_every_layout_gives_the_same(name, kind, small, tmp_path, monkeypatch):
    rows, ordered = small(name)
    if kind == "pickles":
        write_pickles(tmp_path / "data", name, rows, monkeypatch)
    else:
        write_parquet(tmp_path / "data", name, rows, **PARQUET[kind])
    images = load_images(name, tmp_path / "data")
    assert find(name, tmp_path / "data")[0] == (kind if kind == "pickles" else "parquet")
    assert (images.x == pixels(ordered)).all() and images.x.dtype == np.uint8
    assert images.x.flags.c_contiguous and images.x.flags.writeable
    assert images.y.tolist() == [row[1] for row in ordered] and images.y.dtype == np.int64
    assert images.train.tolist() == [row[0] == "train" for row in ordered]
    assert images.names == tuple(sorted(images.names)) and f"cifar{len(images.names)}" == name
    if name == "cifar10":
        assert images.coarse is None and images.coarse_names == ()
    else:
        wolf = np.flatnonzero(images.y == images.names.index("wolf"))[0]
        assert images.coarse_names[images.coarse[wolf]] == "large_carnivores"


# ---------------------------------------------------------------- the real data


@pytest.fixture(scope="module")
def real(name, data_root, tmp_path_factory):
    """(Images, their cache folder, peak memory in kB of the process that decoded them)."""
    folder = tmp_path_factory.mktemp("cache")
    # VmHWM, because ru_maxrss starts from what the parent process had
    code = (
        f"from kdlib.study.cifar import load_images; load_images({name!r}, {str(data_root)!r})\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    env = os.environ | {"KDLIB_CACHE": str(folder)}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True)
    assert done.stderr == b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_CACHE", str(folder))
        images = load_images(name, data_root)
    images.x.flags.writeable = False  # shared by the tests
    return images, folder, int(done.stdout)


# of training pixels in [0, 1]: the constants that papers and code bases quote
PUBLISHED_STATISTICS = {
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def test_statistics_and_counts_are_the_published_ones(name, real):
    images = real[0]
    for channel, (mean, std) in enumerate(zip(*PUBLISHED_STATISTICS[name], strict=True)):
        values = images.x[images.train, ..., channel]
        average = values.mean(dtype=np.float64)
        square = np.square(values, dtype=np.uint16).mean(dtype=np.float64)
        assert average / 255 == pytest.approx(mean, abs=6e-5)
        assert np.sqrt(square - average**2) / 255 == pytest.approx(std, abs=6e-5)
    classes = len(images.names)
    assert images.x.shape == (60_000, 32, 32, 3)
    assert images.train.sum() == 50_000 and images.train[:50_000].all()
    assert (np.bincount(images.y[images.train]) == 50_000 // classes).all()
    assert (np.bincount(images.y[~images.train]) == 10_000 // classes).all()
    if name == "cifar100":
        assert (np.bincount(images.coarse) == 3000).all() and len(images.coarse_names) == 20


def test_order_is_that_of_class_and_image_name_on_disk(name, real, data_root):
    """The reader never sees the names."""
    images, rows = real[0], []
    for shard in (data_root / name).glob("*.parquet"):
        for row in pq.read_table(shard).to_pylist():
            key = (shard.name[:4] == "test", row[cifar.LABEL[name]], row["img"]["path"])
            rows.append((*key, row.get("coarse_label"), row["img"]["bytes"]))
    rows.sort()
    assert len({row[:3] for row in rows}) == 60_000  # so no tie has to be broken
    assert images.y.tolist() == [row[1] for row in rows]
    if name == "cifar100":
        assert images.coarse.tolist() == [row[3] for row in rows]
    for i in random.Random(0).sample(range(60_000), 500):
        assert (images.x[i] == np.asarray(Image.open(io.BytesIO(rows[i][4])))).all()
    names = json.loads((data_root / name / "label_names.json").read_text())
    assert list(images.names) == names[cifar.LABEL[name]]
    assert list(images.coarse_names) == names.get("coarse_label", [])


SEEN = {  # start of the sha256; of the first two it stands in data/records
    "cifar100": [
        (Config(dataset="cifar100", student="resnet8", imbalance=100), "d690f20f97594b7b"),
        (
            Config(dataset="cifar20", student="resnet8", imbalance=20, draw_seed=0),
            "c0d8157b585b1783",
        ),
        (
            Config(dataset="superclass", student="resnet8", imbalance=100, draw_seed=0),
            "e18043bb5723cc35",
        ),
    ],
    "cifar10": [
        (
            Config(dataset="cifar10", student="resnet8", imbalance=100, draw_seed=1),
            "fd484d5a638b2567",
        ),
        (Config(dataset="digits", imbalance=10), "c8c9c00f83a165fa"),
    ],
}


def test_splits_are_those_that_runs_on_record_saw(name, real, data_root, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(real[1]))
    for cfg, sha256 in SEEN[name]:
        assert load(cfg, data_root).sha256().startswith(sha256), cfg.dataset


def test_memory_and_time(name, real, data_root, monkeypatch):
    images, folder, peak = real
    assert 200_000 < peak < 1e9 / 1024
    monkeypatch.setenv("KDLIB_CACHE", str(folder))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert (load_images(name, data_root).x[::1000] == images.x[::1000]).all()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


# ---------------------------------------------------------------- damage


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_foreign_pickle_is_not_opened(tmp_path):
    folder, sprung = tmp_path / "cifar-100-python", tmp_path / "sprung"
    folder.mkdir()
    for file in ("train", "test", "meta"):
        (folder / file).write_bytes(pickle.dumps(Trap(sprung)))
    said = f"{folder} lacks a file, or has one that is truncated or not the published one"
    refused(said, "was not opened", name="cifar100", data=tmp_path)
    assert not sprung.exists()
    pickle.loads((folder / "train").read_bytes())
    assert sprung.exists()  # the trap works: had it been opened, the test would have seen it


def test_missing_or_truncated_pickle(small, tmp_path, monkeypatch):
    write_pickles(tmp_path, "cifar10", small("cifar10")[0], monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    refused(f"{file.parent} lacks a file", data=tmp_path)
    file.unlink()
    refused(f"{file.parent} lacks a file", data=tmp_path)


def sixth(**change):
    """A damage of the sixth row."""
    return lambda rows: rows[:5] + [rows[5] | change] + rows[6:]


def sixth_image(x):
    return sixth(img={"bytes": x if x is None else encoded(np.resize(np.uint8(7), x))})


SCHEMA, WHOLE = (
    "not cifar10, with img{bytes} and label",
    "row 5 of SHARD is not a whole PNG or WebP",
)
DAMAGE = {  # what becomes of the rows of a file, and what is said
    "no label": (lambda rows: [{"img": row["img"]} for row in rows], SCHEMA),
    "no image": (lambda rows: [{"label": row["label"]} for row in rows], SCHEMA),
    "bare image": (lambda rows: [row | {"img": "x"} for row in rows], SCHEMA),
    "null image": (sixth(img=None), WHOLE),
    "null bytes": (sixth_image(None), WHOLE),
    "cut image": (sixth(img={"bytes": encoded(np.zeros((32, 32, 3), np.uint8))[:50]}), WHOLE),
    "grey image": (sixth_image((32, 32)), "SHARD is L of 32 x 32 pixels, expected RGB of 32 x 32"),
    "large image": (sixth_image((28, 30, 3)), "SHARD is RGB of 30 x 28 pixels"),
    "foreign image": (sixth_image((32, 32, 3)), "images enough but not those of cifar10: sha256"),
    "null label": (sixth(label=None), ": 2 train images with label"),
    "label out of range": (sixth(label=-1), ": 2 train images with label"),
    "text label": (lambda rows: [row | {"label": "1"} for row in rows], "train images with label"),
    "row missing": (lambda rows: rows[1:], ": 2 train images with label"),
    "row twice": (lambda rows: rows + rows[:1], ": 4 train images with label"),
}


SHARD = "cifar10/train-00001-of-00003.parquet"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_row_is_one_sentence_and_is_not_cached(kind, copy, tmp_path):
    damage, said = DAMAGE[kind]
    rows = pq.read_table(tmp_path / SHARD).to_pylist()
    pq.write_table(pa.Table.from_pylist(damage(rows)), tmp_path / SHARD)
    said = said.replace("SHARD", str(tmp_path / SHARD))
    refused(str(tmp_path / "cifar10"), said, data=tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_or_missing_file_is_one_sentence(copy, tmp_path):
    shard = tmp_path / SHARD
    for content in (shard.read_bytes()[:-9], b"", b"<html>404 Not Found</html>"):
        shard.write_bytes(content)
        refused(f"{shard} is damaged or not cifar10", data=tmp_path)
    shard.unlink()
    refused(f"{shard.parent} is incomplete or not cifar10: ", "expected 3", data=tmp_path)


def test_the_other_data_set_and_half_a_data_set_are_refused(small, tmp_path):
    write_parquet(tmp_path / "other", "cifar100", small("cifar100")[0])
    (tmp_path / "other" / "cifar100").rename(tmp_path / "other" / "cifar10")
    write_parquet(tmp_path, "cifar10", small("cifar10")[0])
    refused("train-00000-of-00003.parquet is damaged or not cifar10", data=tmp_path / "other")
    for shard in (tmp_path / "cifar10").glob("test-*"):
        shard.unlink()
    refused("incomplete or not cifar10: 0 test images with label 0, expected 2", data=tmp_path)


def test_random_damage_never_gives_a_traceback(copy, tmp_path, monkeypatch):
    """A changed bit or a cut anywhere: a DataError, or the right images, as some do not matter."""
    monkeypatch.setattr(cifar, "_write_cache", lambda *_: None)
    shard, rng, outcomes = tmp_path / SHARD, random.Random(0), []
    whole = shard.read_bytes()
    for attempt in range(200):
        damaged = bytearray(whole)
        # half of the changes fall near the end, where Parquet describes itself
        place = rng.randrange(len(whole) - 1500 if attempt % 2 else 0, len(whole))
        damaged[place] ^= 1 << rng.randrange(8)
        shard.write_bytes(damaged[:place] if attempt % 10 == 0 else damaged)
        try:
            outcomes.append(bool((load_images("cifar10", tmp_path).x == copy[1]).all()))
        except DataError as error:
            assert "\n" not in str(error)
            outcomes.append("refused")
    assert False not in outcomes and outcomes.count("refused") > 50


# ---------------------------------------------------------------- where it is looked for


def test_missing_data_and_unknown_names(name, tmp_path):
    refused(f"{name} was not found", str(tmp_path), cifar.PICKLES[name], name=name, data=tmp_path)
    refused(f"{name}/*.parquet", "no such folder", name=name, data=tmp_path / "no such folder")
    refused("nothing here", name=name)
    for look in (find, load_images, download):
        with pytest.raises(KdlibError, match="'cifar1000'.*cifar100, cifar10"):
            look("cifar1000", tmp_path)


def test_argument_goes_before_environment_before_the_repository(copy, tmp_path, monkeypatch):
    a, b, c = (tmp_path / place for place in "abc")
    for place in (a, b, c):
        shutil.copytree(tmp_path / "cifar10", place / "cifar10")
    monkeypatch.setattr(files, "DATA", c)
    assert find("cifar10") == ("parquet", c / "cifar10")
    monkeypatch.setenv("KDLIB_DATA", str(b))
    assert find("cifar10") == ("parquet", b / "cifar10")
    assert find("cifar10", a) == ("parquet", a / "cifar10")
    refused("was not found", data=a / "cifar10")  # what was named is not passed over


def test_what_the_command_fetches_wins_over_a_damaged_copy(copy, tmp_path, monkeypatch):
    """So that the command that the error names does help."""
    (tmp_path / SHARD).unlink()
    refused("incomplete", data=tmp_path)
    write_pickles(tmp_path, "cifar10", copy[0], monkeypatch)
    assert (load_images("cifar10", tmp_path).x == copy[1]).all()


# ---------------------------------------------------------------- cache


@pytest.fixture
def cached(copy, tmp_path):
    """(data folder, cache file, pixels) after a first read."""
    load_images("cifar10", tmp_path)
    [file] = (tmp_path / "cache").iterdir()
    return tmp_path, file, copy[1]


def forbid_reading(monkeypatch):
    monkeypatch.setitem(cifar.READERS, "parquet", lambda *_: pytest.fail("the source was read"))


def test_second_load_reads_the_cache(cached, monkeypatch, capfd):
    data, file, x = cached
    assert file.name == f"cifar10-{cifar.SHA256['cifar10'][:12]}.npy"
    assert (np.load(file, allow_pickle=False) == x).all()
    forbid_reading(monkeypatch)
    assert (load_images("cifar10", data).x == x).all()
    assert (load_images("cifar10").x == x).all()  # no folder was named: the cache is enough
    refused("cifar10 was not found", data=data / "elsewhere")
    assert capfd.readouterr() == ("", "")
    file.write_bytes(b"")
    refused("nothing but", str(file))


@pytest.mark.parametrize("kind", ["byte", "cut", "empty", "zip", "pickle", "header"])
def test_damaged_cache_is_read_again_and_mended(kind, cached, tmp_path, monkeypatch, capfd):
    data, file, x = cached
    whole = bytearray(file.read_bytes())
    changed = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    trap = io.BytesIO()
    np.save(trap, np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    damaged = {
        "byte": changed,
        "cut": whole[:-1],
        "empty": b"",
        "zip": b"PK\x03\x04" + changed,
        "pickle": trap.getvalue(),
        "header": b"\x93NUMPY\x01\x00\xff\xff" + whole[:9],
    }
    file.write_bytes(damaged[kind])
    assert (load_images("cifar10", data).x == x).all()
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and f"{file} is damaged" in said.err
    assert not (tmp_path / "sprung").exists()
    forbid_reading(monkeypatch)
    assert (load_images("cifar10", data).x == x).all()


def test_unwritable_cache_is_said_once(copy, tmp_path, monkeypatch, capfd):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "a file" / "cache"))
    for _ in range(2):
        assert (load_images("cifar10", tmp_path).x == copy[1]).all()
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "cannot be written" in said and "a file" in said


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_cache_is_written_whole_or_not_at_all(error, copy, tmp_path, monkeypatch, capfd):
    def save(file, x):
        Path(file).write_bytes(bytes(1000))
        assert len(list((tmp_path / "cache").iterdir())) == 1
        raise error

    monkeypatch.setattr(np, "save", save)
    stops = isinstance(error, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt) if stops else contextlib.nullcontext():
        load_images("cifar10", tmp_path)
    assert ("No space left" in capfd.readouterr().err) != stops
    assert list((tmp_path / "cache").iterdir()) == []


# ---------------------------------------------------------------- download


@pytest.fixture
def archive(small, tmp_path, monkeypatch):
    """(URL of a small cifar10 that torchvision is patched to expect, its pixels)."""
    rows, ordered = small("cifar10")
    write_pickles(tmp_path / "made", "cifar10", rows, monkeypatch)
    (tmp_path / "served").mkdir()
    file = tmp_path / "served" / "cifar.tar.gz"
    with tarfile.open(file, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    (tmp_path / "served" / "wrong.tar.gz").write_bytes(b"not the archive")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(file.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.01]).start()
    yield f"http://127.0.0.1:{server.server_port}/cifar.tar.gz", pixels(ordered)
    server.shutdown()
    server.server_close()


def test_torchvision_fetches_what_is_not_there_whole(archive, tmp_path, monkeypatch, capfd):
    url, x = archive
    place = tmp_path / "got"
    monkeypatch.setattr(datasets.CIFAR10, "url", url)  # without --url, the address is torchvision's
    assert download("cifar10", place) == place / "cifar-10-batches-py"
    said = f"kdlib: cifar10: 170 MB from {url} to {place}, if not there already\n"
    assert capfd.readouterr().err.startswith(said)
    assert (load_images("cifar10", place).x == x).all()
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/x")
    (place / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"damaged")
    download("cifar10", place)  # from the archive, which was kept or put there
    (place / "cifar-10-python.tar.gz").unlink()
    download("cifar10", place)  # nothing is left to do
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "other"))
    assert download("cifar10", url=url) == tmp_path / "other" / "cifar-10-batches-py"
    assert (load_images("cifar10").x == x).all()


def test_a_failed_download_is_one_sentence(archive, tmp_path, monkeypatch):
    place, url = tmp_path / "got", archive[0]
    monkeypatch.setattr(cifar, "PATIENCE", 0.2)
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reasons = {
            f"http://127.0.0.1:{silent.getsockname()[1]}/x": "timed out",
            "http://127.0.0.1:9/x": "refused",
            url.replace("cifar", "nothing"): "404",
            url.replace("cifar", "wrong"): "corrupted",
            "file:///dev/null": "length",
            "nonsense": "unknown url type",
        }
        for address, reason in reasons.items():
            with pytest.raises(DataError) as caught:
                download("cifar10", place, address)
            said = str(caught.value)
            assert said.startswith(f"cifar10 could not be fetched from {address} to {place} (")
            assert reason in said and "cifar-10-python.tar.gz" in said and "\n" not in said
    with pytest.raises(DataError, match=f"could not be fetched.* to {tmp_path / 'file'} "):
        download("cifar10", tmp_path / "file", url)
    refused("cifar10 was not found", data=place)
    assert socket.getdefaulttimeout() is None
    download("cifar10", place, url)  # what is left does not hinder


def test_folders_are_those_that_torchvision_unpacks(name):
    assert cifar.PICKLES[name] == getattr(datasets, name.upper()).base_folder
