"""Records by themselves: what they keep, the order they are written in, and what a pair must
share."""

import errno
import hashlib
import itertools
import json
import math
import os
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import facts_of

from kdlib.config import Config, KdlibError
from kdlib.data import Split
from kdlib.study import facts, records, watch
from kdlib.study.facts import SPLITS
from kdlib.study.files import DATA, claim, sweep_leftovers, whole_file
from kdlib.study.grids import STUDIES
from kdlib.study.records import Record, RecordError

ROOT = Path(__file__).parents[2]
CFG = Config(imbalance=50, draw_seed=0)
N, C = 40, 10


def predictions(seed, n=N):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (n,), generator=g)
    logits = 3 * torch.randn(n, C, generator=g)
    return records.predictions(logits, Split(torch.zeros(n), y, y % 3)), logits, y


def record(cfg=CFG, **facts):
    splits = {name: predictions(i)[0] for i, name in enumerate(SPLITS)}
    names = [f"class {k}" for k in range(C)]
    return Record(cfg, facts_of(cfg, names, [0.5] * C, [9] * C) | facts, splits)


def test_predictions_by_hand():
    kept, logits, y = predictions(7)
    for i, row in enumerate(logits.double().softmax(1).tolist()):
        best = max(range(C), key=row.__getitem__)
        assert kept.predicted[i] == best
        log_p = np.log([row[y[i]], row[best]])
        assert kept.log_p[i] == pytest.approx(log_p, rel=2e-3, abs=1e-3)
        assert kept.right[i] == (best == y[i])
    assert kept.group.tolist() == (y % 3).tolist() and kept.y.tolist() == y.tolist()


def test_many_classes_and_hopeless_labels_fit_into_the_small_types():
    logits = torch.full((1, 300), -1e6)
    logits[0, 299], logits[0, 298] = 1e6, 0
    y = torch.tensor([5])
    kept = records.predictions(logits, Split(torch.zeros(1), y, y))
    assert kept.predicted[0] == 299 and np.isfinite(kept.log_p).all()


def test_what_is_written_is_read_and_others_may_read_it(records_folder):
    rates = {
        "val_accuracy_by_group": {"40": [0.5] * C},
        "val_accuracy_by_half": {"40": [1.0, None]},
    }
    mine = record(seconds=7.25, **rates)
    records.write(mine)
    again = records.read(CFG)
    assert again.config == CFG and again.facts == mine.facts
    for name in SPLITS:
        for array in records.ARRAYS:
            a, b = getattr(mine.splits[name], array), getattr(again.splits[name], array)
            assert a.dtype == b.dtype and np.array_equal(a, b)
    plus = again.test_plus()
    assert plus.y.tolist() == [*again.splits["test"].y, *again.splits["left_out"].y]
    files = sorted(records_folder.iterdir())
    assert [p.name for p in files] == [f"{CFG.key()}.json", f"{CFG.key()}.npz"]
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o644 for p in files)


def test_the_arrays_are_whole_before_the_json_file_exists(records_folder, monkeypatch):
    order, plain = [], os.replace

    def watched(source, target):
        order.append(target.suffix)
        if target.suffix == ".json":
            np.load(target.with_suffix(".npz")).close()
        assert not records.exists(CFG)
        plain(source, target)

    monkeypatch.setattr(os, "replace", watched)
    records.write(record())
    assert order == [".npz", ".json"]


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_at_either_step_leaves_no_record_and_a_second_try_works(
    records_folder, monkeypatch, nth
):
    calls, plain = [], os.replace

    def killed(source, target):
        calls.append(target)
        if len(calls) == nth:
            raise KeyboardInterrupt
        plain(source, target)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            records.write(record())
    assert not records.exists(CFG) and not list(records_folder.glob(".tmp*"))
    with pytest.raises(RecordError, match="there is no record of this run"):
        records.read(CFG)
    records.write(record())
    assert records.read(CFG).facts == record().facts


def test_a_new_writing_that_fails_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EACCES"])
def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path, monkeypatch, code):
    number = getattr(errno, code)
    for where, helps in (
        ("records", "another folder (KDLIB_RECORDS for records)"),
        ("", "folder,"),
    ):
        monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
        path = tmp_path / where / "a.json"
        with pytest.raises(KdlibError, match="cannot be written") as e, whole_file(path):
            raise OSError(number, os.strerror(number))
        said = str(e.value)
        assert os.strerror(number) in said and helps in said and "\n" not in said
    (tmp_path / "records").rmdir()
    with pytest.raises(OSError) as e, whole_file(tmp_path / "a.json"):
        raise OSError(errno.EIO, "a broken disk is not a full one")
    assert e.value.errno == errno.EIO and not list(tmp_path.iterdir())


def refused(records_folder):
    """What is said of the record of CFG as it now is."""
    with pytest.raises(RecordError) as error:
        records.read(CFG)
    said = str(error.value)
    assert said.startswith(f"{records_folder / CFG.key()}.") and "\n" not in said
    return said


def test_damaged_and_foreign_records_are_refused_by_name(records_folder):
    records.write(record())
    text, arrays = (records_folder / f"{CFG.key()}.{e}" for e in ("json", "npz"))
    good, whole = json.loads(text.read_text()), arrays.read_bytes()
    other, unknown = good["config"] | {"lr": 0.2}, good["config"] | {"lrr": 1}
    for wrong, said in (
        ("{", "cut short or changed, so that it is no JSON"),
        ("[]", "it holds no facts by name"),
        ("[" * 100_000, "its brackets are nested too deeply"),
        (text.read_bytes().replace(b"digits", b"\xff"), "it is not text"),
        (json.dumps(good | {"seconds": math.nan}), "it holds NaN, which is no number"),
        (json.dumps(good | {"recipe": 0}), "made with recipe 0"),
        (json.dumps(good | {"config": other}), "field lr is 0.2, asked for was 0.1"),
        (json.dumps(good | {"config": unknown}), "'lrr' is unknown"),
        (json.dumps(good | {"config": 5}), "config is 5, must be fields"),
        (json.dumps(good | {"config": good["config"] | {"lr": 10**400}}), "field lr=1000"),
        (json.dumps(good | {"seconds": 2.0}), "changed since it was written"),
        (json.dumps({n: v for n, v in good.items() if n != "sha256"}), "it has no seal"),
    ):
        text.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        assert said in refused(records_folder)
    broken = b"not an archive"
    right = facts.sealed(good | {"npz_sha256": hashlib.sha256(broken).hexdigest()})
    for of_json, of_arrays, said in (
        (good, whole[:-100], "truncated or changed"),
        (right, broken, "not the arrays of a record"),
        (right, None, "missing beside its JSON file"),
    ):
        text.write_text(json.dumps(of_json))
        arrays.unlink()
        if of_arrays:
            arrays.write_bytes(of_arrays)
        told = refused(records_folder)
        assert f"{CFG.key()}.npz: {said}" in told
        assert f"; delete {text.name} and {arrays.name} there and run again" in told
        arrays.touch()
    with pytest.raises(RecordError, match="there is no record of this run"):
        records.read(replace(CFG, seed=5))


@pytest.mark.parametrize("name", [name for name in facts.FACTS if name != "npz_sha256"])
def test_a_fact_that_no_run_leaves_is_refused_by_name_even_where_the_seal_is_right(
    records_folder, name
):
    kd = replace(CFG, method="kd", teacher="cnn")
    records.write(record(kd))
    text = records_folder / f"{kd.key()}.json"
    good = json.loads(text.read_text())
    right = {"post_hoc_tau": [None], "margins": [None], "kernels": [{}, {"a": None}]}
    right |= {"device": ["text"], "git": ["text"]}
    right |= {"versions": [{}], "val_accuracy_by_group": [{}], "val_accuracy_by_half": [{}]}
    right |= {"fold_teacher_keys": [[]]}
    for value in (None, [], {}, "text", "\ud800", -1, 10**400, [10**400], True, {"a": None}):
        text.write_text(json.dumps(facts.sealed(good | {name: value})))
        if value in right.get(name, []):
            assert records.read(kd).facts[name] == value
        else:
            with pytest.raises(RecordError, match=f"{kd.key()}.json: {name} is "):
                records.read(kd)
    if name in good:
        del good[name]
        text.write_text(json.dumps(facts.sealed(good)))
        with pytest.raises(RecordError, match=f"it lacks {name}"):
            records.read(kd)


def test_what_would_be_refused_is_not_written(records_folder):
    for wrong in ({"seconds": math.inf}, {"train_counts": [1] * 9}, {"note": "of mine"}):
        with pytest.raises(RecordError, match=f"not written: .*{'|'.join(['no number', *wrong])}"):
            records.write(record(**wrong))
    few = record()
    split = few.splits["val"]
    for array, wrong in (("y", split.y + C), ("log_p", split.log_p[:, :1]), ("group", split.y[1:])):
        splits = few.splits | {"val": replace(split, **{array: wrong})}
        with pytest.raises(RecordError, match=f"not written: val_{array}"):
            records.write(replace(few, splits=splits))
    assert not list(records_folder.glob("*"))


def test_what_is_no_file_or_far_too_large_is_not_read(records_folder):
    records.write(record())
    text, arrays = (records_folder / f"{CFG.key()}.{e}" for e in ("json", "npz"))
    content, good = text.read_bytes(), arrays.read_bytes()
    for path, whole in ((arrays, good), (text, content)):
        path.unlink()
        path.mkdir()
        assert f"{path.name}: not a file; delete " in refused(records_folder)
        path.rmdir()
        os.mkfifo(path)
        assert f"{path.name}: not a file; delete " in refused(records_folder)
        path.unlink()
        with open(path, "wb") as sparse:
            sparse.truncate(5 * 2**30)
        assert f"{path.name}: 5,120 MiB, of which no more than" in refused(records_folder)
        path.write_bytes(whole)
    assert records.read(CFG).facts == record().facts


def test_a_log_that_is_a_folder_holds_nobody_up(records_folder):
    records_folder.mkdir()
    watch.log_file().mkdir()
    watch.log("nowhere")


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink(path, path)])
def test_a_lock_that_is_none_is_one_sentence(tmp_path, make):
    make(tmp_path / ".a.lock")
    with (
        pytest.raises(KdlibError, match=r"\.a\.lock: cannot be locked \(.*\); remove it, or choo"),
        claim("a", tmp_path),
    ):
        pass


def test_a_link_to_nothing_is_no_record_and_gives_way_to_one(records_folder):
    records_folder.mkdir()
    path = records_folder / f"{CFG.key()}.json"
    path.symlink_to(records_folder / "nowhere")
    assert not records.exists(CFG) and records.paths() == []
    records.write(record())
    assert records.paths() == [path] and records.read(CFG).facts == record().facts


def test_leftovers_are_no_records_and_old_ones_are_swept(records_folder):
    records.write(record())
    new, old = records_folder / ".tmp-new.json", records_folder / ".tmp-old.json"
    for path in (new, old, records_folder / ".hidden.json"):
        path.write_text("{}")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    sweep_leftovers(records_folder)
    assert new.exists() and not old.exists()
    assert [path.name for path in records.paths()] == [f"{CFG.key()}.json"]


def test_a_pair_shares_data_labels_groups_and_the_teachers_weights():
    kd = replace(CFG, method="kd", teacher="cnn")
    mine, other = record(kd), record()
    records.check_pair(mine, other)
    for name, array in itertools.product(SPLITS, ("y", "group")):
        split = other.splits[name]
        changed = getattr(split, array) + (np.arange(N) == 3)
        wrong = replace(other, splits={**other.splits, name: replace(split, **{array: changed})})
        said = f"{kd.key()} and {CFG.key()} have different {name} labels"
        with pytest.raises(RecordError, match=said):
            records.check_pair(mine, wrong)
    shared = {"data_sha256": "data", "class_names": "classes", "group_names": "groups"}
    for name, what in (shared | {"train_counts": "counts of training images"}).items():
        with pytest.raises(RecordError, match=f"are of different {what}; delete"):
            records.check_pair(mine, record(**{name: "other"}))
    # which train on more images
    for more in (replace(CFG, with_val=True), replace(CFG, fold=1)):
        records.check_pair(mine, record(more, train_counts=[10] * C))
    # the baseline, whose weights are its own
    records.check_pair(mine, record(weights_sha256="other"))
    with pytest.raises(RecordError, match="learned from other weights"):
        records.check_pair(mine, record(kd.teacher_config(), weights_sha256="other"))


def test_a_claim_is_held_by_one_the_next_waits_and_an_error_frees_it(records_folder):
    entered = threading.Event()

    def next_one():
        with claim(CFG.key(), records.folder()):
            entered.set()

    waiting = threading.Thread(target=next_one, daemon=True)
    another = replace(CFG, seed=1)  # does not wait
    with (
        pytest.raises(ZeroDivisionError),
        claim(CFG.key(), records.folder()),
        claim(another.key(), records.folder()),
    ):
        waiting.start()
        assert not entered.wait(0.3)
        raise ZeroDivisionError
    assert entered.wait(10)
    waiting.join()


# ---------------------------------------------------------------- the ones in the repository

COMMITTED = sorted(
    path for path in (DATA / "records").glob("*.json") if not path.name.startswith("digits_")
)


def test_every_committed_record_is_a_run_of_a_study_on_real_images():
    """Records made by hand once lay among them: of no study, with a hash of nothing and ten test
    images a class."""
    planned = {cfg.key(): cfg for study in STUDIES.values() for cfg in study()}
    data = {}
    assert COMMITTED
    for path in COMMITTED:
        cfg = Config.from_dict(json.loads(path.read_text())["config"])
        assert cfg.key() == path.stem
        # of a search: PROTOCOL.md names what was tried beyond the recipe studies
        searched = 900 <= cfg.seed < 1000
        assert searched or planned.get(cfg.key()) == cfg, f"{path.name} belongs to no study"
        kept = records.read(cfg, path.parent)
        sha256, weights = kept.facts["data_sha256"], kept.facts["weights_sha256"]
        drawn = (cfg.dataset, cfg.draw_seed, cfg.imbalance, cfg.profile, cfg.fold, cfg.label_noise)
        assert data.setdefault(drawn, sha256) == sha256, path.name
        assert len(set(weights)) > 8 and len(weights) == 64, path.name
        if cfg.dataset == "cifar20":  # official test images and the pool, each once
            assert np.bincount(kept.splits["test"].y).tolist() == [100] * 20, path.name
            left_out = np.bincount(kept.splits["left_out"].y, minlength=20)
            pool = 400 + 100 * cfg.with_val  # images of a class that are drawn from, and val's
            of_class = (left_out + kept.facts["train_counts"]).tolist()
            assert cfg.fold is not None or of_class == [pool] * 20, path.name
    assert len(set(data.values())) == len(data)
