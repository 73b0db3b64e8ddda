"""Parcels: what comes out of a pack or a tar file is what went in, or it is refused by name."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import SELF, TINY, record

from kdlib import __main__ as cli
from kdlib import data as datasets
from kdlib import pack, parcel, readers, records
from kdlib.config import Config
from kdlib.models import build
from kdlib.readers import DATASETS, DataError, load_images
from kdlib.studies import STUDIES
from kdlib.teacher import weights_sha256

ROOT = Path(__file__).parents[1]
CIFAR = {name: STUDIES[name] for name in ("cifar20-lt", "cifar20-lt-ablations", "cifar100-lt", "superclass")}   # parts first


# ---------------------------------------------------------------- the code of a pack

def smooth(n, seed=0):
    """(n, 32, 32, 3) uint8 that look like photographs to a compressor, with all byte values."""
    steps = np.random.default_rng(seed).normal(0, 5, (n, 32, 32, 3))
    return (128 + steps.cumsum(1).cumsum(2)).astype(np.int64).astype(np.uint8)


def test_residuals_are_differences_by_hand_and_are_undone():
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    x[0], x[1] = 0, 255
    coded = pack._residuals(x)
    for c, n, i, j in [(0, 2, 0, 0), (1, 2, 0, 7), (2, 2, 9, 0), (0, 2, 31, 31), (1, 2, 5, 6)]:
        def value(i, j, c=c, n=n):
            if i < 0 or j < 0:
                return 0
            return int(x[n, i, j, c]) - (int(x[n, i, j, 1]) if c != 1 else 0)
        by_hand = value(i, j) - value(i - 1, j) - value(i, j - 1) + value(i - 1, j - 1)
        assert coded[c, n, i, j] == by_hand % 256
    assert (pack._pixels(coded) == x).all() and coded.dtype == np.uint8


# ---------------------------------------------------------------- packs of a made-up data set

@pytest.fixture
def made(tmp_path, monkeypatch):
    """Images in the place of CIFAR-100 with the published counts; its sha256 is patched. Its pack may be found in `data`."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    monkeypatch.setattr(readers, "DATA", tmp_path / "nothing here")
    (tmp_path / "data").mkdir()
    published = DATASETS["cifar100"]
    y = np.concatenate([np.repeat(np.arange(100), n) for n in published.per_class.values()])
    train = np.arange(60_000) < 50_000
    x = np.broadcast_to(smooth(1), (60_000, 32, 32, 3)).copy()
    x[:, 0, 0] = np.arange(60_000)[:, None] // [1, 256, 7] % 256   # each image is its own
    monkeypatch.setitem(DATASETS, "cifar100", published._replace(sha256=readers._sha256(x, y, train)))
    coarse = np.array([readers.COARSE[c] for c in published.names])[y]
    return readers.Images(x, y, train, published.names, coarse, tuple(readers.SUPERCLASSES))


@pytest.fixture
def packed(made, tmp_path):
    """(images, pack of cifar20-lt in tmp_path / "data")."""
    file, count, dataset = parcel.pack_images("cifar20-lt", tmp_path / "data", made)
    assert (file, count, dataset) == (tmp_path / "data" / "cifar100-cifar20-lt.pack", 12_000, "cifar100")
    return made, file


def test_every_study_of_cifar_gives_the_same_splits(made, tmp_path):
    for name, study in CIFAR.items():
        folder = tmp_path / name
        folder.mkdir()
        parcel.pack_images(name, folder, made)
        for cfg in {(c.draw_seed, c.imbalance): c for c in study()}.values():
            assert datasets.load(cfg, folder).sha256() == datasets.load(cfg, made).sha256()
        assert (tmp_path / "cache").exists() == ("20" not in name)   # no pack of a part has filled it


def test_all_draws_and_splits_are_counted(made, tmp_path, monkeypatch):
    """A data set whose splits are a few images, others for each draw."""
    def few(cfg, data):
        images = load_images("cifar100", data)
        parts = (np.array([k + 10 * (cfg.draw_seed or 0)]) for k in range(4))
        return datasets._assemble(cfg, images.x, images.y, *parts, images.names, (0.5,) * 3, (0.2,) * 3, 4)

    monkeypatch.setitem(datasets.DATASETS, "cifar20", few)
    runs = [Config(dataset="cifar20", student="resnet8", draw_seed=seed) for seed in (None, 3, 5)]
    monkeypatch.setitem(STUDIES, "cifar20-lt", replace(CIFAR["cifar20-lt"], seeds=0))
    monkeypatch.setattr(parcel, "study", lambda name: lambda: runs)
    file, count, _ = parcel.pack_images("few", tmp_path / "data", made)
    held = [0, 1, 2, 3, 30, 31, 32, 33, 50, 51, 52, 53]
    assert count == 12 and np.flatnonzero(pack.read(file, "cifar100", 60_000)[1]).tolist() == held
    x = load_images("cifar100", tmp_path / "data").x
    assert (x[np.array(held)] == made.x[held]).all()


def test_images_that_are_not_held_are_refused_and_never_zeros(packed, tmp_path):
    made, file = packed
    images = load_images("cifar100", tmp_path / "data")
    assert (images.y == made.y).all() and (images.coarse == made.coarse).all() and (images.train == made.train).all()
    full = Config(dataset="cifar100", student="resnet8", draw_seed=0, imbalance=100)
    with pytest.raises(DataError) as caught:
        datasets.load(full, tmp_path / "data")
    said = str(caught.value)
    assert said == (f"{file} was made for study cifar20-lt and has not all images that are asked for, but 12,000 of the 60,000 of "
                    "cifar100; pack the study you want: python -m kdlib data pack STUDY --to FILE")
    with pytest.raises(AttributeError):
        images.x.mean()   # it is no array, in which the absent would be black

def test_packs_in_one_folder_complement_each_other_and_a_whole_one_is_checked_and_cached(packed, made, tmp_path, monkeypatch):
    _, file = packed
    rest = ~pack.read(file, "cifar100", 60_000)[1]
    other = file.with_name("cifar100-rest.pack")
    pack.write(other, "cifar100", "rest", rest, made.x[rest])
    assert not (tmp_path / "cache").exists()
    assert (load_images("cifar100", tmp_path / "data").x == made.x).all()
    [cached] = (tmp_path / "cache").iterdir()
    cached.unlink()
    changed = made.x[rest]
    changed[5, 5, 5, 0] ^= 1
    pack.write(other, "cifar100", "rest", rest, changed)
    with pytest.raises(DataError, match="not those of cifar100: sha256"):
        load_images("cifar100", tmp_path / "data")
    assert not list((tmp_path / "cache").iterdir())


def test_packs_come_last_and_are_of_one_data_set(packed, tmp_path, monkeypatch):
    _, file = packed
    data = file.parent
    assert readers.find("cifar100", data) == ("pack", data)
    with pytest.raises(DataError, match="cifar10 was not found"):
        readers.find("cifar10", data)
    shutil.copy(file, data / "cifar10-x.pack")
    with pytest.raises(DataError, match="cifar10-x.pack is a pack of 12,000 images of cifar100, not of cifar10"):
        load_images("cifar10", data)
    (data / "cifar100" / "train").mkdir(parents=True)
    assert readers.find("cifar100", data)[0] == "png"


def test_damaged_foreign_and_newer_packs_are_refused_by_name(packed):
    _, file = packed
    whole, rng = file.read_bytes(), random.Random(0)
    kinds = {"empty": (b"", "is not a pack"), "foreign": (b"PK\x03\x04" + whole, "is not a pack"),
             "cut": (whole[:-1], "truncated or changed"), "cut short": (whole[:300], "truncated or changed"),
             "longer": (whole + b"\0", "truncated or changed"),
             "newer": (whole.replace(b"pack 1 ", b"pack 2 ", 1), "is a pack of format 2, this kdlib reads format 1")}
    for place in [*range(0, 150, 7), *rng.sample(range(len(whole)), 10)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        kinds[f"bit of byte {place}"] = bytes(flipped), ""
    for kind, (content, said) in kinds.items():
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_images("cifar100", file.parent)
        sentence = str(caught.value)
        assert sentence.startswith(f"{file} ") and said in sentence and "\n" not in sentence, (kind, sentence)
        assert sentence.endswith("copy or make it again: python -m kdlib data pack STUDY --to FILE")
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_images("cifar100", file.parent)


def test_a_pack_that_lies_about_itself_is_refused(made, tmp_path):
    """With the right sha256: made so, by a bug or on purpose."""
    import hashlib
    import zlib
    file = tmp_path / "data" / "cifar100-x.pack"
    bits = bytes(7500)
    for header, body in [({}, bits), ({"dataset": "cifar100", "study": "x", "images": 1}, bits),
                         ({"dataset": "cifar100", "study": "x", "images": 1}, bits + bytes(3072)), ([], bits),
                         ({"dataset": "cifar100", "study": "x", "images": "1"}, bits)]:
        for squeezed in (zlib.compress(body), body):
            content = json.dumps(header).encode() + b"\n" + squeezed
            file.write_bytes(b"kdlib pack 1 " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            with pytest.raises(DataError, match="cifar100-x.pack is (not )?a pack of"):
                load_images("cifar100", tmp_path / "data")


def test_real_images(data_root, tmp_path, monkeypatch):
    """From the original files, by way of the command, to the splits; sizes and times as data/README.md says."""
    monkeypatch.setenv("KDLIB_DATA", str(data_root))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    name, study = next(iter(CIFAR.items()))
    cfg = study()[0]
    expected = datasets.load(cfg).sha256()
    file = tmp_path / "moved" / f"cifar100-{name}.pack"
    assert cli.main(["data", "pack", name, "--to", str(file)]) == 0
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "other cache"))
    monkeypatch.setenv("KDLIB_DATA", str(file.parent))
    start = time.process_time()
    assert datasets.load(cfg).sha256() == expected
    assert time.process_time() - start < 15
    assert file.stat().st_size < 22e6 and not (tmp_path / "other cache").exists()
    recorded = records.ROOT / "data" / "records" / f"{cfg.key()}.json"
    if recorded.exists():   # what the study was run on
        assert json.loads(recorded.read_text())["data_sha256"] == expected


def test_a_pack_is_read_with_numpy_alone(packed):
    blocked = ["torch", "torchvision", "pandas", "pyarrow", "PIL", "matplotlib", "scipy", "tqdm"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked})); import numpy as np\n"
            "from kdlib.readers import load_images; print(load_images('cifar100').x[np.arange(500)].sum())")
    made, file = packed
    inside = np.flatnonzero(pack.read(file, "cifar100", 60_000)[1])[:500]
    done = subprocess.run([sys.executable, "-c", code.replace("np.arange(500)", f"np.array({inside.tolist()})")], cwd=ROOT,
                          capture_output=True, text=True, env=os.environ | {"KDLIB_DATA": str(file.parent)})
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == made.x[inside].sum()


# ---------------------------------------------------------------- records

STUDY = replace(TINY, name="digits", pairs=(SELF,), seeds=2, methods={"one_hot": {}, "kd": {}})
KD = STUDY.config(SELF, "kd", 0)
TEACHER, BASELINE = KD.teacher_config(), KD.baseline_config()


def write(cfg, **facts):
    """A record, and the weights of a teacher, in the records folder in use."""
    if cfg.teacher:
        records.write(record(cfg, cfg.method, cfg.seed, 0.7, margin=np.ones(10), **facts))
        return
    model = build(cfg.student, 10, cfg.seed)
    records.write(record(cfg, "one_hot", cfg.seed % 1000, 0.7, **{"weights_sha256": weights_sha256(model)} | facts))
    torch.save(model.state_dict(), records.folder() / f"{cfg.key()}.pt")


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """(tar file, folder of its records); the records folder in use is another one, empty."""
    monkeypatch.setitem(STUDIES, "digits", STUDY)
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "there"))
    for cfg in STUDY():
        teacher = cfg.teacher and weights_sha256(build(cfg.teacher, 10, cfg.teacher_config().seed))
        write(cfg, **({"teacher_sha256": teacher} if teacher else {}))
    (tmp_path / "there" / "runs.log").write_text("not of the study")
    assert cli.main(["records", "pack", "digits", "--to", str(tmp_path / "r.tar")]) == 0
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "here"))
    return tmp_path / "r.tar", tmp_path / "there"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def take(file, capsys):
    """(exit code, counts, sentences) of `records take`."""
    capsys.readouterr()
    code = cli.main(["records", "take", str(file)])
    said, err = capsys.readouterr()
    words = said.split()
    assert words[1:3] == ["records", "taken,"] and words[4:6] == ["already", "here,"] and words[7:] == ["refused"]
    assert said.count("\n") == 1 and all(line.startswith("kdlib: ") for line in err.splitlines())
    assert "/tmp/tmp" not in err and "delete" not in err   # the staging folder is gone by now
    return code, tuple(int(words[k]) for k in (0, 3, 6)), err


def repacked(file, change):
    """The tar file again with its members {name: content} changed by a function; without the sha256 of the original."""
    with tarfile.open(file) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    change(members)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_records_come_back_byte_for_byte_and_a_second_time_nothing_happens(sent, tmp_path, capsys):
    file, there = sent
    assert take(file, capsys) == (0, (6, 0, 0), "")
    mine, teachers = files(tmp_path / "here"), {c.key() for cfg in STUDY() for c in cfg.dependencies()}
    kept = {name: content for name, content in files(there).items()
            if name != "runs.log" and (not name.endswith(".pt") or name[:-3] in teachers)}
    assert mine == kept and sum(name.endswith(".pt") for name in mine) == 2
    assert all(records.read(cfg).config == cfg for cfg in STUDY())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").iterdir() if path.suffix != ".lock"}
    assert take(file, capsys) == (0, (0, 6, 0), "")
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_the_same_records_give_the_same_bytes(sent, tmp_path, monkeypatch):
    file, there = sent
    monkeypatch.setenv("KDLIB_RECORDS", str(shutil.copytree(there, tmp_path / "copy")))
    assert parcel.pack_records("digits", tmp_path) == (tmp_path / "digits.tar", 6)
    assert (tmp_path / "digits.tar").read_bytes() == file.read_bytes()
    with tarfile.open(file) as tar:
        names = tar.getnames()
        assert names == sorted(names) and {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}


def test_json_comes_last(sent, monkeypatch, capsys):
    order, plain = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(b), plain(a, b)))
    take(sent[0], capsys)
    of_teacher = [path.suffix for path in order if path.stem == TEACHER.key()]
    assert of_teacher == [".pt", ".npz", ".json"] and len(order) == 14


def test_weights_that_are_missing_here_are_taken(sent, tmp_path, capsys):
    take(sent[0], capsys)
    weights = tmp_path / "here" / f"{TEACHER.key()}.pt"
    weights.unlink()
    assert take(sent[0], capsys) == (0, (1, 5, 0), "") and weights.exists()


@pytest.mark.parametrize("missing", ["", ".npz"])
def test_another_record_that_is_here_is_left_and_the_others_go_in(sent, tmp_path, capsys, missing):
    write(BASELINE, seconds=1.0)
    if missing:
        (tmp_path / "here" / f"{BASELINE.key()}{missing}").unlink()
    before = files(tmp_path / "here")
    code, counts, err = take(sent[0], capsys)
    assert (code, counts) == (2, (5, 0, 1)) and err.count("\n") == 1
    assert f"{BASELINE.key()}: another record of this run is in {tmp_path / 'here'} already and was left" in err
    assert before.items() <= files(tmp_path / "here").items()


def test_a_file_that_is_cut_anywhere_keeps_what_was_whole_and_says_so(sent, tmp_path, monkeypatch, capsys):
    file, there = sent
    whole, original = file.read_bytes(), files(there)
    with tarfile.open(file) as tar:
        ends = [member.offset_data + member.size for member in tar]
    for cut in [10_000, ends[3], ends[4] + 1, ends[5] + 700, -(-ends[6] // 512) * 512, ends[-1] - 1]:
        file.write_bytes(whole[:cut])
        monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / f"here {cut}"))
        code, (taken, here, _), err = take(file, capsys)
        assert code == 2 and here == 0 and taken <= sum(end <= cut for end in ends)
        assert err.splitlines()[-1].startswith(f"kdlib: {file} is truncated or damaged behind its first ")
        got = files(tmp_path / f"here {cut}") if taken else {}
        assert got.items() <= original.items() and sum(name.endswith(".json") for name in got) == taken
    assert taken == 5   # the last cut is in the last file
    file.write_bytes(whole[:ends[3]] + bytes(100) + whole[ends[3] + 100:])   # a header in the middle
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "here damaged"))
    assert take(file, capsys)[0] == 2


def test_what_is_no_tar_file_is_refused(tmp_path, records_folder, capsys):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.json"))
    for content in (b"", b"no", whole.getvalue()[:500], b"PK" * 5000):
        (tmp_path / "x").write_bytes(content)
        assert cli.main(["records", "take", str(tmp_path / "x")]) == 2
        assert f"kdlib: {tmp_path / 'x'} is not a tar file of records (" in capsys.readouterr().err
    assert cli.main(["records", "take", str(tmp_path / "absent")]) == 2
    assert not records_folder.exists()


def test_hostile_names_are_refused(sent, tmp_path, capsys):
    file, _ = sent
    with tarfile.open(file, "a") as tar:
        names = ["../evil.json", str(tmp_path / "evil.json"), "a/b.json", "..json", ".hidden.json", "evil.py", "runs.log", "evil"]
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
        for kind, name in ((tarfile.SYMTYPE, "link.json"), (tarfile.LNKTYPE, "hard.json"), (tarfile.DIRTYPE, "folder.json"),
                           (tarfile.FIFOTYPE, "fifo.json")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo(f"{KD.key()}.json")   # a second one of the same name
        tar.addfile(member)
    before = {path for path in tmp_path.rglob("*") if tmp_path / "here" not in path.parents}
    code, counts, err = take(file, capsys)
    assert (code, counts) == (2, (6, 0, len(names) + 5))
    for name in [*names, "link.json", "hard.json", "folder.json", "fifo.json"]:
        assert f"{name!r} is not a file of a record" in err
    assert f"'{KD.key()}.json' is there twice" in err
    assert before | {tmp_path / "here"} == {path for path in tmp_path.rglob("*") if tmp_path / "here" not in path.parents}
    assert {Path(name).stem for name in files(tmp_path / "here")} == {cfg.key() for cfg in STUDY()}


def json_with(**facts):
    return lambda text: json.dumps(json.loads(text) | facts).encode()


def without(fact):
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != fact}).encode()


def weights(**change):
    def new(_):
        model, stream = build(change.get("name", "cnn_small"), 10, change.get("seed", 1)), io.BytesIO()
        torch.save(model.state_dict(), stream)
        return stream.getvalue()
    return new


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def trap(_):
    stream = io.BytesIO()
    torch.save(Trap(), stream)
    return stream.getvalue()


WRONG = {
    "no json": (f"{KD.key()}.json", lambda _: b"{", "not a record (JSONDecodeError"),
    "no config": (f"{KD.key()}.json", lambda _: b"{}", "not a record (KeyError"),
    "a list": (f"{KD.key()}.json", lambda _: b"[1]", "not a record (TypeError"),
    "unknown field": (f"{KD.key()}.json", json_with(config={"epoch": 3}), "'epoch' is unknown"),
    "of another run": (f"{KD.key()}.json", json_with(config={}), f"is the record of {Config().key()}"),
    "recipe": (f"{KD.key()}.json", json_with(recipe=0), "made with recipe 0"),
    "labels": (f"{KD.key()}.json", json_with(labels_sha256={}), "the labels of val are not those"),
    "npz": (f"{KD.key()}.npz", lambda old: old[:-1] + b"!", "truncated or changed"),
    "other teacher": (f"{KD.key()}.json", json_with(teacher_key="x"), "names another teacher"),
    "no teacher": (f"{KD.key()}.json", without("teacher_sha256"), "has no teacher_sha256"),
    "no data": (f"{TEACHER.key()}.json", without("data_sha256"), "has no data_sha256"),
    "other weights": (f"{TEACHER.key()}.pt", weights(), "not the weights of its record"),
    "other network": (f"{TEACHER.key()}.pt", weights(name="cnn"), "not the weights of a cnn_small (RuntimeError)"),
    "no weights": (f"{TEACHER.key()}.pt", lambda _: b"no", "not the weights of a cnn_small (UnpicklingError)"),
    "a trap": (f"{TEACHER.key()}.pt", trap, "not the weights of a cnn_small (UnpicklingError)"),
    "learned from others": (f"{KD.key()}.json", json_with(teacher_sha256="w"), "learned from other weights"),
    "other data": (f"{KD.key()}.json", json_with(data_sha256="d"), "are of different data"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_record_is_refused_by_name_and_the_others_go_in(sent, tmp_path, monkeypatch, capsys, kind):
    name, change, said = WRONG[kind]
    monkeypatch.chdir(tmp_path)
    repacked(sent[0], lambda members: members.update({name: change(members[name])}))
    code, counts, err = take(sent[0], capsys)
    assert (code, counts) == (2, (5, 0, 1)) and err.count("\n") == 1
    assert name.rpartition(".")[0] in err and said in err
    assert not [path for path in files(tmp_path / "here") if path.startswith(name.rpartition(".")[0])]
    assert not (tmp_path / "sprung").exists()


def test_a_file_changed_on_the_way_is_noticed(sent, capsys):
    content = sent[0].read_bytes()
    place = content.index(b'"seconds"') if b'"seconds"' in content else content.index(b'"train_counts"')
    sent[0].write_bytes(content[:place + 1] + b"S" + content[place + 2:])
    code, (taken, _, refused), err = take(sent[0], capsys)
    assert (code, taken, refused) == (2, 5, 2) and "was changed on the way" in err and "files without the JSON" in err


def test_a_student_fits_the_teacher_here_and_a_teacher_the_students_here(sent, tmp_path, monkeypatch, capsys):
    file, there = sent
    write(TEACHER, weights_sha256="of another machine")
    code, counts, err = take(file, capsys)
    assert (code, counts) == (2, (4, 0, 2))   # the teacher and its student
    assert f"{TEACHER.key()}: another record" in err and f"Record {KD.key()} learned from other weights" in err
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "students"))
    write(KD, teacher_sha256="of another machine")
    code, counts, err = take(file, capsys)
    assert (code, counts) == (2, (4, 0, 2)) and f"Record {KD.key()} learned from other weights" in err
    assert not records.exists(TEACHER) and not (tmp_path / "students" / f"{TEACHER.key()}.pt").exists()


def test_packing_refuses_what_is_wrong(sent, tmp_path, monkeypatch, capsys):
    assert cli.main(["records", "pack", "digits", "--to", str(tmp_path / "none.tar")]) == 2
    assert "study digits has no record in" in capsys.readouterr().err
    monkeypatch.setenv("KDLIB_RECORDS", str(sent[1]))
    (sent[1] / f"{TEACHER.key()}.pt").write_bytes(weights()(None))
    for line, said in [("records pack digits --to none.tar", f"{TEACHER.key()}.pt: not the weights of its record"),
                       ("data pack digits --to none.pack", "study digits needs no pack: its images come with scikit-learn."),
                       ("records pack digist --to x", "study 'digist' is unknown: did you mean 'digits'?"),
                       ("data pack digist --to x", "study 'digist' is unknown: did you mean 'digits'?"),
                       ("records pack digits", "pack needs --to FILE."), ("data pack digits", "pack needs --to FILE."),
                       ("records put digits", "invalid choice: 'put'"), ("records", "are required: ")]:
        monkeypatch.chdir(tmp_path)
        assert cli.main(line.split()) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not list(tmp_path.glob("none*"))
