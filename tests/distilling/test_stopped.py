"""Whatever ends a distillation, or its processes: nothing hangs, is lost, or is said twice."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_run import ARGUMENTS, distilled, weights

from kdlib.config import KdlibError
from kdlib.distilling import training, written
from kdlib.distilling.listing import listing
from kdlib.distilling.processes import Synced
from kdlib.distilling.run import _within_memory
from kdlib.distilling.views import Pictures, reading
from kdlib.study import stopping
from kdlib.study.files import claim

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begun(pictures):
    """Pictures in training, read by one worker, and that worker."""
    x = Pictures(listing(pictures).train, 20, "none", workers=1)
    batches = [(torch.arange(k, k + 2), torch.zeros(2, dtype=torch.int64)) for k in range(0, 40, 2)]
    before = multiprocessing.active_children()
    with reading(x):
        x.begin(batches)
        x.batch()
        [worker] = [one for one in multiprocessing.active_children() if one not in before]
        yield x, worker
    worker.join(10)
    assert not worker.is_alive()


def test_a_worker_that_dies_is_told_in_one_sentence(begun):
    x, worker = begun
    os.kill(worker.pid, signal.SIGKILL)
    said = "--workers: a process that reads images has died"
    with pytest.raises(KdlibError, match=said), _within_memory(20, 16):
        for _ in range(19):
            x.batch()
        time.sleep(10)  # torch tells of it wherever we are


def test_ctrl_c_is_not_for_workers_which_sigterm_ends(begun):
    x, worker = begun
    os.kill(worker.pid, signal.SIGINT)
    for _ in range(19):
        assert x.batch().shape == (2, 20, 20, 3)
    worker.terminate()
    with contextlib.suppress(RuntimeError):  # torch tells of it at once
        worker.join(10)
    worker.join(10)
    assert worker.exitcode == -signal.SIGTERM


def test_a_signal_while_workers_are_ended_is_not_lost(pictures):
    class Ending:
        def __del__(self):  # an exception here would be printed and ignored
            signal.raise_signal(signal.SIGTERM)

    handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    x = Pictures(listing(pictures).train, 20, "none", workers=0)
    try:
        stopping.listen()
        with pytest.raises(stopping.Stopped), reading(x):
            x.loader = Ending()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- the folder of a run


def test_two_commands_do_not_write_into_one_folder(pictures, tmp_path):
    with claim("distill", tmp_path), pytest.raises(KdlibError, match="another command is at work"):
        distilled(pictures, tmp_path)
    assert not weights(tmp_path)


def test_a_stop_between_two_students_that_are_written_leaves_nothing_and_trains_nothing_again(
    pictures, tmp_path, monkeypatch
):
    distilled(pictures, tmp_path / "whole", ("one_hot", "kd"))
    monkeypatch.setattr(training, "LEAST", -1.0)
    monkeypatch.setattr(training, "SHARE", -1.0)
    write = written.write

    def stopped(setting, run, *more):
        if run.cfg.name == "kd":
            raise KeyboardInterrupt
        write(setting, run, *more)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(written, "write", stopped)
        distilled(pictures, out, ("one_hot", "kd"))
    assert list(out.glob(".*.kept"))
    done, fit = [], training.fit
    monkeypatch.setattr(
        training, "fit", lambda of, *how: done.append(of[0].resume["epoch"]) or fit(of, *how)
    )
    distilled(pictures, out, ("one_hot", "kd"))
    assert done == [3] and not list(out.glob(".*.kept"))
    assert weights(out) == weights(tmp_path / "whole")


def test_what_is_lost_of_a_run_is_made_again_the_same(pictures, tmp_path):
    distilled(pictures, tmp_path, ("one_hot", "kd"))
    before = weights(tmp_path)
    (tmp_path / "teachers" / "teacher-s1000.safetensors").unlink()
    (tmp_path / "students" / "kd-s0.safetensors").unlink()
    (tmp_path / "predictions" / "one_hot-s0-val.npz").unlink()
    _, said = distilled(pictures, tmp_path, ("one_hot", "kd"))
    assert weights(tmp_path) == before
    assert not any(sentence.startswith("Trained before") for sentence in said)


def test_weights_that_a_student_begins_with_count_by_content_not_by_path(
    pictures, tmp_path, monkeypatch
):
    methods = ("one_hot", "kd")
    distilled(pictures, tmp_path / "first", methods)
    [file] = (tmp_path / "first" / "teachers").glob("*.safetensors")
    start = tmp_path / "start.safetensors"
    start.write_bytes(file.read_bytes())
    network = f"kdlib:resnet8@{file}"
    how = {"teacher": network, "epochs": 1}
    distilled(pictures, tmp_path / "out", methods, student=f"kdlib:resnet8@{start}", **how)
    monkeypatch.chdir(tmp_path)
    again = how | {"student": "kdlib:resnet8@start.safetensors"}
    _, said = distilled(pictures, tmp_path / "out", methods, **again)
    assert "Trained before, and kept: one_hot-s0, kd-s0." in said
    save_file({name: 2 * values for name, values in load_file(file).items()}, start)
    with pytest.raises(KdlibError, match="a student that began with other weights"):
        distilled(pictures, tmp_path / "out", methods, **again)


# ---------------------------------------------------------------- several processes


def test_an_error_of_two_processes_is_said_once(tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    wrong = [*ARGUMENTS[:-1], "-1"]
    command = [*start, "-m", "kdlib", "distill", *wrong, "--data", str(tmp_path)]
    command += ["--teacher", "kdlib:resnet8"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode and done.stderr.count("kdlib: ") == 1
    assert "kdlib: --lr -1.0: must lie between" in done.stderr


@pytest.mark.parametrize("more", [{}, {"affine": False}, {"momentum": None}, {"momentum": 0.0}])
def test_a_batch_norm_of_one_process_is_torch_s_own(more):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    norms = [torch.nn.BatchNorm2d(3, **more).double() for _ in range(2)]
    norms[1].__class__ = type("Synced", (Synced, torch.nn.BatchNorm2d), {})
    for _ in range(2):
        outs = [norm(x) for norm in norms]
        torch.testing.assert_close(*outs)
    for own, other in zip(*(norm.buffers() for norm in norms), strict=True):
        torch.testing.assert_close(own, other)


def test_a_batch_norm_of_timm_keeps_its_activation():
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    norms = [layers.BatchNormAct2d(3).double() for _ in range(2)]
    norms[1].__class__ = type("Synced", (Synced, layers.BatchNormAct2d), {})
    outs = [norm(x) for norm in norms]
    torch.testing.assert_close(*outs)
    assert outs[1].min() == 0


@pytest.mark.parametrize("name", ["students/kd-s0.safetensors", "predictions/kd-s0-val.npz"])
def test_a_file_that_changed_since_it_was_written_is_named(pictures, tmp_path, name):
    methods = ("one_hot", "kd")
    distilled(pictures, tmp_path, methods)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(KdlibError, match=rf"{name}: .*; delete it and run again\.$"):
        distilled(pictures, tmp_path, methods)
