"""Config, records and runs: keys, refusals by name, resuming, and processes side by side."""

import json
import multiprocessing
import os
import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import torch as safetensors
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score

from kdlib import train
from kdlib.config import Config, KdlibError
from kdlib.study import experiment, kept, machine, pace, records, sweep, watch
from kdlib.study.experiment import TeacherError, run, trained
from kdlib.study.facts import sealed
from kdlib.study.records import RecordError
from kdlib.study.watch import OutOfTime
from kdlib.study.weights import WeightsError
from kdlib.teacher import weights_sha256
from kdlib.train import predict

CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn_small", temperature=2.0)


# ---------------------------------------------------------------- configs


def test_keys_are_pinned_and_change_with_every_field():
    known = ["c65eca07e6", "1c42336146", "3358a54b6a"]
    assert [c.key()[-10:] for c in (Config(), CFG, KD)] == known
    assert CFG.key().startswith("digits_cnn_small_one_hot_s0_")
    assert Config(lr=1).key() == Config(lr=1.0).key()
    others = {"student": "cnn", "method": "group_dro", "seed": 1, "fold": 1}
    others |= {"draw_seed": 1, "imbalance": 2.0, "epochs": 3, "warmup": 1, "decay": "step"}
    others |= {"batch_size": 64, "lr": 0.2, "weight_decay": 0.0, "with_val": True}
    keys = {Config(**{name: value}).key() for name, value in others.items()}
    assert len(keys | {Config().key()}) == len(others) + 1


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"method": "kd", "teacher": "cnn_small", "teacher_seed": 0}, "baseline itself"),
        ({"warmup": 40}, "less than epochs"),
        (
            {"method": "ada_alpha", "teacher": "cnn", "margin_level": "example"},
            "no held-out margins of training examples",
        ),
        ({"milestones": [3]}, "only decay='step'"),
    ],
)
def test_fields_that_do_not_go_together_are_one_sentence(wrong, said):
    with pytest.raises(KdlibError, match=f"^Config field .*{said}[^\n]*$"):
        Config(**wrong)
    with pytest.raises(KdlibError, match="did you mean 'epochs'"):
        Config.from_dict({"epoch": 3})


def test_a_crossfit_depends_on_the_teacher_and_one_for_each_fold():
    cfg = replace(KD, method="ada_alpha", margin_source="crossfit")
    teacher = replace(CFG, seed=1000)
    assert cfg.dependencies() == [teacher, *(replace(teacher, fold=k) for k in range(5))]


# ---------------------------------------------------------------- records


def test_a_second_run_reads_the_record(records_folder, monkeypatch):
    first = run(KD)
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = run(KD)
    assert again.facts == json.loads(json.dumps(first.facts)) and again.config == KD
    for name, split in first.splits.items():
        for array in records.ARRAYS:
            assert np.array_equal(getattr(split, array), getattr(again.splits[name], array))
    model, data = trained(KD.teacher_config()), experiment.load(KD)[0]
    record = records.read(KD.teacher_config())
    log_p = experiment.predict(model, data.test.x, data).log_softmax(1)
    assert np.array_equal(record.splits["test"].predicted, log_p.argmax(1))
    label = log_p.gather(1, data.test.y[:, None])[:, 0]
    assert np.allclose(record.splits["test"].log_p[:, 0], label, rtol=2e-3, atol=1e-3)
    assert len(record.test_plus().y) == 500 + len(data.left_out)
    assert len(record.facts["curves"]["loss"]) == 2 and record.facts["val_accuracy_by_group"]


# ---------------------------------------------------------------- teachers


def test_weights_that_are_not_the_teachers_are_refused(records_folder):
    run(KD)
    teacher = KD.teacher_config()
    file, text = (records_folder / f"{teacher.key()}.{e}" for e in ("safetensors", "json"))
    content = file.read_bytes()
    state = safetensors.load(content)
    other = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    wider = {k: torch.cat([v, v]) if v.ndim else v for k, v in state.items()}
    pickled = pickle.dumps(state)
    for spoilt, said in (
        (safetensors.save(other), "not the weights of its record; "),
        (safetensors.save(wider), "not the weights of its record (Error(s) in loading"),
        (safetensors.save({}), "not the weights of its record (Error(s) in loading"),
        (content[:-100], "not the weights of its record ("),
        (pickled, "not the weights of its record ("),
        (b"", "not the weights of its record ("),
    ):
        file.write_bytes(spoilt)
        with pytest.raises(
            WeightsError, match=f"^{file}: {re.escape(said)}[^\n]*put the right file back"
        ) as e:
            trained(teacher)
        assert "\n" not in str(e.value)
    file.unlink()
    trained(teacher)  # trained again, here: the same weights, in the same bytes
    assert file.read_bytes() == content
    facts = json.loads(text.read_text())
    text.write_text(json.dumps(sealed({**facts, "weights_sha256": "e" * 64})))
    file.unlink()
    with pytest.raises(TeacherError, match="other weights than the one that 1 recorded students"):
        trained(teacher)


def test_a_teacher_near_chance_stops_the_run(records_folder):
    with pytest.raises(TeacherError, match="near chance"):
        run(replace(KD, lr=0.0))


def test_two_processes_share_a_study_and_its_weights_are_those_of_one(
    records_folder, tmp_path, monkeypatch
):
    """One trains in processes of its own, the other by itself."""
    configs = [CFG, *(replace(KD, seed=s, teacher_seed=1) for s in (0, 2, 3))]
    spawn = multiprocessing.get_context("spawn")
    # else the one that starts first is done before the other has imported torch
    start = spawn.Barrier(2, timeout=60)
    both = [spawn.Process(target=_all, args=(configs, start, own)) for own in (True, False)]
    for p in both:
        p.start()
    for p in both:
        p.join()
    assert [p.exitcode for p in both] == [0, 0]
    log = (records_folder / "runs.log").read_text()
    configs.append(configs[1].teacher_config())
    for cfg in configs:
        assert log.count(f"{cfg.key()} epoch 2/2") == 1
    shared = [records.read(cfg).facts["weights_sha256"] for cfg in configs]
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "alone"))
    assert [run(cfg).facts["weights_sha256"] for cfg in configs] == shared


def _all(configs, start, own):
    torch.set_num_threads(1)
    sweep._needs_processes = lambda device: own
    start.wait()
    sweep.sweep(configs, device="cpu", jobs=1)


def test_methods_of_a_seed_start_from_equal_weights_but_the_teacher_does_not(
    records_folder, monkeypatch
):
    start, plain = {}, experiment.fit

    def watched(runs):
        start.update({r.cfg.key(): weights_sha256(r.model) for r in runs})
        return plain(runs)

    monkeypatch.setattr(experiment, "fit", watched)
    taught = [replace(KD, method=method) for method in ("kd", "ada_alpha", "ada_margin")]
    runs = [CFG, *taught, replace(CFG, seed=7)]
    for cfg in runs:
        run(cfg)
    one_hot, *students, another = (start[cfg.key()] for cfg in runs)
    assert set(students) == {one_hot}
    # same network, three seeds
    assert len({one_hot, another, start[KD.teacher_config().key()]}) == 3


# ---------------------------------------------------------------- data


def test_a_fold_is_part_of_the_data(records_folder):
    fold, whole = experiment.load(replace(CFG, fold=0))[0], experiment.load(CFG)[0]
    assert len(fold.train) < len(whole.train) and len(fold.test) == len(whole.test)
    assert (
        experiment.load(replace(CFG, fold=0, seed=9))[0] is fold
    )  # data do not depend on the seed
    assert run(replace(CFG, fold=0)).facts["train_counts"] == torch.bincount(fold.train.y).tolist()


def test_a_student_is_refused_while_its_teachers_record_is_damaged(records_folder):
    teacher = KD.teacher_config()
    run(teacher)
    (records_folder / f"{teacher.key()}.npz").write_bytes(b"")
    with pytest.raises(RecordError, match=f"{teacher.key()}.npz: truncated or changed"):
        run(KD)
    assert not records.exists(KD)


# ---------------------------------------------------------------- rivals


def test_post_hoc_records_the_shifted_predictions_of_the_one_hot_network(records_folder):
    cfg = replace(CFG, method="post_hoc", epochs=8)
    record, plain, data = run(cfg), run(replace(cfg, method="one_hot")), experiment.load(cfg)[0]
    assert record.facts["weights_sha256"] == plain.facts["weights_sha256"]
    assert plain.facts["post_hoc_tau"] is None
    prior, model = np.bincount(data.train.y.numpy()) / len(data.train), trained(cfg)
    logits = {name: predict(model, getattr(data, name).x, data).numpy() for name in record.splits}

    def shifted(name, tau):
        return logits[name] - tau * np.log(prior)

    def balanced(tau):
        return balanced_accuracy_score(data.val.y, shifted("val", tau).argmax(axis=1))

    tau = record.facts["post_hoc_tau"]
    # chosen on val; max takes the first of equals
    assert tau == max(np.arange(9) / 4, key=balanced) > 0
    for name, split in record.splits.items():
        assert np.array_equal(split.predicted, shifted(name, tau).argmax(axis=1))
        log_p = log_softmax(shifted(name, tau), axis=1)[np.arange(len(split.y)), split.y]
        assert np.allclose(split.log_p[:, 0], log_p, rtol=2e-3, atol=1e-3)
        assert np.array_equal(plain.splits[name].predicted, logits[name].argmax(axis=1))
    assert not np.array_equal(record.splits["test"].predicted, plain.splits["test"].predicted)


@pytest.mark.parametrize(
    "base", [replace(CFG, method="group_dro"), replace(KD, method="robust_kd")]
)
def test_weights_of_groups_are_each_runs_own_in_lockstep(records_folder, base):
    configs = [replace(base, step_size=0.5, seed=s) for s in (0, 1)]
    experiment.together(configs)
    both = [records.read(cfg).facts["weights_sha256"] for cfg in configs]
    for path in records_folder.glob(f"*{base.method}*"):
        path.unlink()
    assert [run(cfg).facts["weights_sha256"] for cfg in configs] == both


def test_the_halves_of_val_average_to_its_classes(records_folder):
    cfg = replace(CFG, epochs=8)
    facts, y = run(cfg).facts, experiment.load(cfg)[0].val.y.tolist()
    by_half, by_group = facts["val_accuracy_by_half"], facts["val_accuracy_by_group"]
    images = pd.DataFrame({"y": y, "right": records.read(cfg).splits["val"].right})
    images["half"] = images.groupby("y").cumcount() % 2  # in turn within each class
    by_hand = images.groupby(["half", "y"]).right.mean().groupby("half").mean()
    assert by_half["8"] == pytest.approx(list(by_hand), abs=1e-4) and by_hand[0] != by_hand[1]
    assert list(by_half) == list(by_group)
    for epoch, halves in by_half.items():
        assert np.mean(halves) == pytest.approx(np.mean(by_group[epoch]), abs=1e-4)


def test_an_adjusted_teacher_is_trained_and_taught_from(records_folder):
    cfg = replace(KD, teacher="cnn", teacher_method="logit_adjusted")
    both = run(cfg), run(replace(KD, teacher="cnn"))
    teachers = [records.read(r.config.teacher_config()) for r in both]
    assert teachers[0].config == replace(CFG, student="cnn", seed=1000, method="logit_adjusted")
    for student, teacher in zip(both, teachers, strict=True):
        assert student.facts["teacher_key"] == teacher.config.key()
        assert student.facts["teacher_sha256"] == teacher.facts["weights_sha256"]
        records.check_pair(student, teacher)
    assert len({r.facts["weights_sha256"] for r in (*both, *teachers)}) == 4
    rare = np.argsort(teachers[0].facts["train_counts"])[:5]  # what the adjustment is for
    adjusted, plain = (np.isin(r.splits["test"].predicted, rare).mean() for r in teachers)
    assert adjusted > plain


def test_label_noise_is_part_of_the_data(records_folder):
    clean, noisy = run(CFG), run(replace(CFG, label_noise=0.5))
    assert clean.facts["data_sha256"] != noisy.facts["data_sha256"]
    assert clean.facts["train_counts"] == noisy.facts["train_counts"]
    assert noisy.facts["curves"]["loss"][-1] > clean.facts["curves"]["loss"][-1]
    with pytest.raises(RecordError, match="different data"):
        records.check_pair(noisy, clean)


def test_a_run_on_val_too_counts_val_and_pairs_with_runs_that_hold_val_out(records_folder):
    cfg = replace(CFG, with_val=True)
    data, plain = experiment.load(cfg)[0], experiment.load(CFG)[0]
    # each from its own place in the cache
    assert (len(data.train), len(plain.train)) == (276 + 240, 276)
    assert experiment.load(replace(cfg, seed=9))[0] is data
    both, held_out = run(cfg), run(CFG)
    of_val = np.bincount(held_out.splits["val"].y)
    assert both.facts["train_counts"] == (held_out.facts["train_counts"] + of_val).tolist()
    assert both.facts["weights_sha256"] != held_out.facts["weights_sha256"]
    records.check_pair(both, held_out)  # the same splits, which the Config says how to use
    assert both.facts["data_sha256"] == plain.sha256() != data.sha256()
    with pytest.raises(RecordError, match="different data"):
        records.check_pair(run(replace(cfg, draw_seed=1)), held_out)


def test_the_commit_comes_from_the_environment_where_there_is_no_clone(tmp_path, monkeypatch):
    commit = machine.git_sha.__wrapped__
    here = commit()
    monkeypatch.setenv("KDLIB_GIT", "0123456789ab")
    assert commit() == here  # a clone knows better
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert commit() == "0123456789ab"
    monkeypatch.delenv("KDLIB_GIT")
    assert commit() == "unknown"


@pytest.mark.parametrize("device, times", [("cpu", 0), ("cuda", 1)])
def test_settings_of_a_gpu_are_made_when_data_get_there(monkeypatch, device, times):
    """Before the first table or prediction, not only before the first step."""

    class Loaded:
        to, sha256 = (lambda self, device: f"on {device}"), (lambda self: "hash")

    made = []
    monkeypatch.setattr(experiment.datasets, "load", lambda *arguments: Loaded())
    monkeypatch.setattr(experiment.cuda, "settings", lambda: made.append(1))
    found = experiment._load.__wrapped__(CFG, None, device)
    assert found == (f"on {device}", "hash") and len(made) == times


# ---------------------------------------------------------------- states of runs


@pytest.fixture
def kept_each_epoch(records_folder, monkeypatch):
    """States are kept after each epoch; the folder they lie in."""
    monkeypatch.setattr(kept, "EVERY", -1.0)
    return records_folder


def stopped_after(epoch, cfg, monkeypatch):
    """The run of cfg, killed when it begins the epoch after `epoch`."""
    plain = watch.log

    def log(line):
        if f"epoch {epoch + 1}/" in line:
            raise KeyboardInterrupt
        plain(line)

    monkeypatch.setattr(watch, "log", log)
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    monkeypatch.setattr(watch, "log", plain)


@pytest.mark.parametrize(
    "cfg",
    [replace(CFG, epochs=5), replace(KD, epochs=5), replace(CFG, epochs=5, method="group_dro")],
    ids=lambda cfg: cfg.method,
)
def test_a_run_that_was_killed_goes_on_where_it_was(kept_each_epoch, monkeypatch, cfg):
    whole = run(cfg)
    assert not list(kept_each_epoch.glob(".*.kept"))
    for suffix in (".json", ".npz", ".safetensors"):
        (kept_each_epoch / f"{cfg.key()}{suffix}").unlink()
    stopped_after(3, cfg, monkeypatch)
    assert [file.name for file in kept_each_epoch.glob(".*.kept")] == [f".{cfg.key()}.kept"]
    assert kept.epochs_done(cfg.key()) == 3 and kept.epochs_done("another") == 0
    left, anew = pace.shares([cfg, replace(cfg, seed=9)], None, "cpu", 1).values()
    assert left < anew
    epochs = []
    monkeypatch.setattr(train.Stepper, "begin", wraps_begin(epochs, train.Stepper.begin))
    monkeypatch.setattr(machine, "git_sha", lambda: "another")
    again = run(cfg)
    assert epochs == [3, 4] and not list(kept_each_epoch.glob(".*.kept"))
    same = set(whole.facts) - {"git", "seconds"}
    assert {k: again.facts[k] for k in same} == {k: whole.facts[k] for k in same}
    assert again.facts["git"] == f"{whole.facts['git']} then another"
    for split, expected in whole.splits.items():
        assert np.array_equal(again.splits[split].log_p, expected.log_p)
    assert f"{cfg.key()} goes on after epoch 3/5" in (kept_each_epoch / "runs.log").read_text()


def wraps_begin(seen, plain):
    def begin(self, epoch):
        seen.append(epoch)
        plain(self, epoch)

    return begin


def flipped(content):
    """The bytes with one bit changed, far inside, which torch does not notice."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_state_that_is_damaged_or_of_another_machine_is_not_taken_up(
    kept_each_epoch, monkeypatch, capsys
):
    cfg = replace(CFG, epochs=3)
    whole = run(cfg)
    path, other = kept_each_epoch / f".{cfg.key()}.kept", replace(cfg, seed=1)
    stopped_after(2, other, monkeypatch)
    of_another = kept_each_epoch / f".{other.key()}.kept"
    for spoil, said in (
        (lambda: path.write_bytes(path.read_bytes()[:2000]), "damaged"),
        (lambda: path.write_bytes(b"x"), "damaged"),
        (lambda: path.write_bytes(kept.packed({"plan": "{}"})), "of another run or machine"),
        (lambda: path.write_bytes(flipped(path.read_bytes())), "damaged"),
        (lambda: path.write_bytes(of_another.read_bytes()), "of another run or machine"),
        (lambda: (path.unlink(), os.mkfifo(path)), "damaged"),
    ):
        (records.folder() / f"{cfg.key()}.json").unlink()
        stopped_after(2, cfg, monkeypatch)
        spoil()
        assert run(cfg).facts["weights_sha256"] == whole.facts["weights_sha256"]
        warned = capsys.readouterr().err
        assert str(path) in warned and said in warned and "the run begins anew" in warned


def test_a_short_run_is_not_kept_and_a_folder_that_cannot_be_written_stops_nothing(
    records_folder, tmp_path, monkeypatch, capsys
):
    plain = kept.Kept.write
    monkeypatch.setattr(kept.Kept, "write", None)
    run(CFG)
    monkeypatch.setattr(kept.Kept, "write", plain)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept, "path_of", lambda key, _: tmp_path / "file" / key)
    monkeypatch.setattr(kept, "EVERY", -1.0)
    assert run(replace(CFG, seed=1)).config.seed == 1
    assert "not kept" in capsys.readouterr().err


def test_a_run_whose_time_is_up_goes_on_the_next_time(records_folder, monkeypatch):
    cfg = replace(CFG, epochs=3)
    (late,) = experiment.together([cfg], deadline=1.0).failures
    assert isinstance(late, OutOfTime)
    seen = []
    monkeypatch.setattr(train.Stepper, "begin", wraps_begin(seen, train.Stepper.begin))
    run(cfg)
    assert seen == [1, 2]
