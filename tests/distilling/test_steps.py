"""Training on images that may lie on disk: the study's own loop, in one process or in two."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from together import normed, said, trained

from kdlib.asking.networks import named
from kdlib.data import Data
from kdlib.distilling import prepared
from kdlib.distilling.networks import fresh
from kdlib.distilling.steps import shared
from kdlib.distilling.views import Pictures
from kdlib.step import Run, Stepper, method_loss
from kdlib.teacher import frozen, weights_sha256
from kdlib.train import fit, predict

HERE = Path(__file__).parent


def weights(runs):
    return [weights_sha256(run.model) for run in runs]


def test_images_in_memory_give_the_very_weights_of_the_study_s_own_step(pictures):
    runs, curves, seen = trained(pictures)
    assert seen == 3 * 54 and curves[0]["loss"][-1] < curves[0]["loss"][0]
    own = runs[0].data
    names = ("train", "val", "test", "left_out", "class_names", "group_names", "mean", "std", "pad")
    plain = Data(**{name: getattr(own, name) for name in names})
    again = []
    for run in runs:
        loss = method_loss(run.cfg, None, plain.train)
        teacher = frozen(fresh(named("kdlib:resnet8"), 3, 7)) if run.cfg.teacher else None
        again.append(Run(run.cfg, fresh(named("kdlib:resnet8"), 3, 0), loss, plain, teacher))
    assert fit(again, Stepper) == curves
    assert weights(again) == weights(runs)
    assert torch.equal(predict(again[1].model, plain.test.x, plain), said(runs[1]))


def test_images_on_disk_give_the_very_weights_of_images_in_memory(pictures, monkeypatch):
    held, curves, _ = trained(pictures)
    assert isinstance(held[0].data.train.x, torch.Tensor)
    monkeypatch.setattr(prepared, "HELD", 0)
    read, again, _ = trained(pictures, workers=1)
    assert isinstance(read[0].data.train.x, Pictures)
    assert again == curves and weights(read) == weights(held)
    more = [replace(run, model=fresh(named("kdlib:resnet8"), 3, 0)) for run in read]
    fit(more, shared(lambda images: None))  # of the same images, as another seed does
    assert weights(more) == weights(held)
    assert torch.equal(said(read[1]), said(held[1]))


def test_a_network_that_draws_numbers_is_the_same_alone_and_beside_others(pictures):
    student = "torchvision:mobilenet_v3_small"  # drops units at random
    runs, *_ = trained(pictures, student, epochs=1)
    first = runs[0]
    alone = Run(first.cfg, fresh(named(student), 3, 0), first.loss, first.data)
    torch.manual_seed(123)
    fit([alone], shared(lambda images: None))
    assert weights([alone]) == weights([first])


@pytest.fixture(scope="module")
def in_two(pictures, tmp_path_factory):
    """What `together` wrote in each of two processes."""
    out = tmp_path_factory.mktemp("two") / "process"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += [HERE / "together.py", pictures, out]
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]


def test_two_processes_train_the_networks_of_one(pictures, in_two):
    runs, curves, seen = trained(pictures, epochs=1)
    for held, found, logits, images, _ in in_two:
        assert images == seen
        for run, state, curve, own in zip(runs, held, found, curves, strict=True):
            for name, values in run.model.state_dict().items():
                torch.testing.assert_close(state[name], values, rtol=1e-5, atol=1e-5)
            for name in own:
                assert curve[name] == pytest.approx(own[name], rel=1e-5)
        torch.testing.assert_close(logits, said(runs[1]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(*(p[0][1].values() for p in in_two), strict=True))
    assert torch.equal(in_two[0][2], in_two[1][2])


def test_a_batch_norm_of_two_processes_is_one_over_the_whole_batch(in_two):
    out, gradient, mean, variance = normed()
    parts = [part[-1] for part in in_two]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), out)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)
    for part in parts:
        torch.testing.assert_close(part[2], mean)
        torch.testing.assert_close(part[3], variance)
