"""The captured step on a CPU, where the capture is emulated. With a GPU, the same checks capture
for real."""

import contextlib
import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import checks
from kdlib import cuda
from kdlib.config import Config
from kdlib.data import padded
from kdlib.methods import METHODS
from kdlib.step import Stepper, learning_rate, method_loss
from kdlib.train import fit

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# without a GPU both sides of captured_is_eager are eager
EQUIVALENT = [c for c in checks.CHECKS if "cuda" in DEVICES or c is not checks.captured_is_eager]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", EQUIVALENT, ids=lambda c: c.__name__)
def test_equivalence(check, device):
    passed, seen = check(device)
    assert passed, seen


def test_a_check_that_raises_has_failed_and_the_others_go_on(monkeypatch):
    def breaks(device):
        raise RuntimeError("no such kernel")

    def differs(device):
        return False, "seen"

    def holds(device):
        return True, "seen"

    lines = []
    monkeypatch.setattr(checks, "CHECKS", (breaks, differs, holds))
    results = checks.run_all("cpu", lines.append)
    assert [line[:4] for line in lines] == ["FAIL", "FAIL", "PASS"]
    assert lines[0] == "FAIL breaks: RuntimeError: no such kernel"
    assert results["breaks"] == {"passed": False, "seen": "RuntimeError: no such kernel"}


class Capturing(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: values that go to the host or come from it, shapes
    that depend on values."""

    REFUSED = ("_local_scalar_dense", "lift_fresh", "nonzero", "unique", "masked_select", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.REFUSED), f"a captured step may not do {name}"
        return func(*args, **(kwargs or {}))


IMAGES = {"method": "ada_alpha", "margin_level": "example"}  # a margin for each image
KNOBS = [
    {"seed": 7, "nesterov": True},
    {"precision": "bf16"},
    {"student": "resnet8-conv"},
    {"method": "kd", "soften": "teacher", "alpha": 0.5},
    {"method": "ada_alpha", "margin_level": "all"},
    {**IMAGES, "margin_source": "train", "margin_kind": "max"},
    {**IMAGES, "margin_source": "train", "margin_kind": "hit"},
    {**IMAGES, "margin_source": "crossfit"},
    {"method": "ada_margin", "margin_kind": "max"},
    {"method": "ada_margin", "margin_reading": "A"},
    {"method": "ada_margin", "margin_reading": "C"},
    {"method": "ada_margin", "margin_reading": "C-inverse"},
    *({"method": method} for method in METHODS),
]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_a_step_never_asks_the_host(knobs):
    run = made(knobs)()
    steps = checks.Eager(run, padded(run.data.train.x, run.data.pad))  # warmed up
    steps.begin(0)
    with Capturing():
        steps.step(0)
        steps.step(steps.steps_per_epoch - 1)
    with pytest.raises(AssertionError, match="may not do _local_scalar_dense"), Capturing():
        steps.sums[0, 0].item()


class Recording(TorchDispatchMode):
    """Notes every operation with the tensors it read and wrote, like a CUDA graph: `undo` takes
    back what was written, as a capture computes nothing; `replay` does all of it again in the same
    places. No Python of the step runs then, so what the host decided or computed stays as it
    was."""

    # running mean and variance, of which its schema is silent
    ALSO_WRITTEN = {"native_batch_norm": (3, 4)}

    def __init__(self):
        super().__init__()
        self.done, self.before = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        also = self.ALSO_WRITTEN.get(func.overloadpacket.__name__, ())
        for k, (argument, value) in enumerate(zip(func._schema.arguments, args, strict=False)):
            if k in also or (argument.alias_info and argument.alias_info.is_write):
                for tensor in tree_leaves(value):
                    self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def undo(self):
        with torch.no_grad():
            for tensor, value in reversed(self.before.values()):
                tensor.copy_(value)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.done:
                again = func(*args, **kwargs)
                if any(r.alias_info for r in func._schema.returns):
                    continue  # a view, or written in place: there already
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@pytest.fixture
def emulated(monkeypatch):
    """As much of torch.cuda as Captured uses, on a CPU, with a Recording in the place of a
    graph."""

    class Stream:
        def __init__(self, device):
            pass

        def wait_stream(self, other):
            pass

    class Graph:
        def pool(self):
            return "pool"

        def replay(self):
            self.recording.replay()

    @contextlib.contextmanager
    def graph(of, pool, stream):
        of.recording = Recording()
        with of.recording:
            yield
        of.recording.undo()

    fakes = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device: None,
    }
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(cuda.Captured, "graphs", True)


def made(knobs, epochs=2):
    """A function that makes a run of some knobs."""
    taught = "teacher" in METHODS[knobs.get("method", "one_hot")].knobs
    teacher = {"teacher": "resnet8", "temperature": 2.0} if taught else {}
    cfg, data = replace(checks.CFG, epochs=epochs, **teacher, **knobs), checks.images("cpu")
    n = len(data.train) if knobs.get("margin_source") == "crossfit" else 10
    margins = torch.linspace(0, 1, n)
    return lambda: checks.new_run("cpu", cfg, method_loss(cfg, margins, data.train))


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_replayed_steps_are_the_eager_ones_bit_for_bit(emulated, knobs):
    run = made(knobs)
    ours, theirs, untrained = run(), run(), run()
    assert fit([ours], cuda.Captured) == fit([theirs], checks.Eager)
    assert checks.difference(ours, theirs) == 0 < checks.difference(ours, untrained)
    if hasattr(ours.loss, "state"):
        assert torch.equal(ours.loss.state, theirs.loss.state)


def test_what_the_host_decides_in_a_step_is_found_by_the_emulation(emulated):
    run, asked = made({}), []
    plain = run().loss

    def growing(logits, batch):
        asked.append(1)
        # of the host: a graph keeps the number of its capture
        return plain(logits, batch) * len(asked)

    ours, theirs = (replace(run(), loss=growing) for _ in range(2))
    fit([ours], cuda.Captured)
    asked.clear()
    fit([theirs], checks.Eager)
    assert checks.difference(ours, theirs) > 0


@pytest.mark.parametrize(
    "while_capturing, expected, said",
    [
        (RuntimeError("not permitted"), cuda.CaptureError, "not permitted.*KDLIB_GRAPHS=0"),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError, "invalidated"),
    ],
)
def test_a_capture_that_fails_says_so_and_memory_that_is_short_remains_that(
    monkeypatch, while_capturing, expected, said
):
    """torch ends the spoiled capture with an error of its own, behind which the first one hides."""

    @contextlib.contextmanager
    def graph(*arguments, **more):
        try:
            yield
        except BaseException:
            raise RuntimeError("capture invalidated")  # noqa: B904 as torch does

    def fails(self, size):
        raise while_capturing

    steps = checks.Eager(checks.new_run("cpu"), padded(checks.images("cpu").train.x, 4))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(checks.Eager, "_next", fails)
    steps.graphs, steps.pool, steps.stream = True, None, None
    with pytest.raises(expected, match=said):
        steps.captured(32)


HANGS = """
import time
from kdlib.cuda import watchdog
with watchdog(1):
    pass
time.sleep(1.2)
print("on", flush=True)
with watchdog(1):
    time.sleep(60)
"""


def test_a_hang_is_ended_and_shown():
    command = [sys.executable, "-c", HANGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and done.stdout == "on\n"
    assert "Timeout" in done.stderr and "line 9" in done.stderr


def test_warm_up_leaves_no_trace():
    run = checks.new_run("cpu")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    steps = checks.Eager(run, padded(run.data.train.x, 4))
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert len(steps.optimizer.state) == len(list(run.model.parameters()))
    assert not any(state["momentum_buffer"].any() for state in steps.optimizer.state.values())
    assert int(steps.done) == 0


ROBUST = ({"method": "group_dro"}, {"method": "robust_kd", "teacher": "resnet8"})


@pytest.mark.parametrize("robust", ROBUST, ids=lambda r: r["method"])
def test_warm_up_does_not_move_the_weights_of_groups_but_steps_do(robust):
    run = checks.new_run("cpu", replace(checks.CFG, **robust, step_size=0.5))
    first = run.loss.state.clone()
    steps = checks.Eager(run, padded(run.data.train.x, 4))
    assert torch.equal(run.loss.state, first) and len(set(first.tolist())) == 1
    steps.begin(0)
    steps.step(0)
    assert not torch.equal(run.loss.state, first)


PLAIN = [
    {"batch_size": 103},  # one batch an epoch
    {"batch_size": 4096},  # larger than the data
    {"nesterov": True},
    *({**robust, "step_size": 0.5} for robust in ROBUST),
]


@pytest.mark.parametrize("knobs", PLAIN, ids=str)
def test_the_captured_step_is_that_of_the_plain_loop(knobs):
    """Whose rate comes from the host, whose SGD is not fused, and which is never warmed up."""
    cfg = replace(checks.CFG, epochs=2, **knobs)
    ours, plain = (checks.new_run("cpu", cfg) for _ in range(2))
    fit([ours], checks.Eager)
    fit([plain])
    assert checks.difference(ours, plain) < 1e-3
    if hasattr(ours.loss, "state"):
        assert torch.allclose(ours.loss.state, plain.loss.state, atol=1e-3)
    if knobs.get("nesterov"):
        without = checks.new_run("cpu", replace(cfg, nesterov=False))
        fit([without])
        assert checks.difference(ours, plain) < 1e-5 < 1e-3 < checks.difference(ours, without)


def test_bf16_learns_about_what_fp32_does_and_keeps_fp32_weights():
    runs = [checks.new_run("cpu", replace(checks.KD, precision=p)) for p in ("fp32", "bf16")]
    full, half = fit(runs)
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1) and half["loss"] != full["loss"]
    dtypes = {t.dtype for t in runs[1].model.state_dict().values()}
    assert dtypes == {torch.float32, torch.int64}


def test_rates_are_those_of_the_schedule():
    tail = {"epochs": 3, "warmup": 1, "decay": "step", "milestones": (2,), "batch_size": 32}
    cfg = Config(dataset="cifar10", student="resnet8", imbalance=10, **tail)
    run, used = checks.new_run("cpu", cfg), []
    steps = checks.Eager(run, padded(run.data.train.x, 4))
    for epoch in range(3):
        steps.begin(epoch)
        for number in range(4):
            steps.step(number)
            used.append(float(steps.optimizer.param_groups[0]["lr"]))
    assert used == pytest.approx([learning_rate(cfg, s, 4) for s in range(12)])


def test_runs_of_different_length_share_a_lockstep():
    short, long = (replace(checks.CFG, epochs=e, seed=e, warmup=0) for e in (1, 2))
    curves = fit([checks.new_run("cpu", cfg) for cfg in (short, long)])
    assert [len(c["loss"]) for c in curves] == [1, 2]


@pytest.mark.parametrize("stepper", [Stepper, cuda.Captured])
@pytest.mark.parametrize("knobs", [{"method": "kd"}, {"method": "group_dro"}], ids=str)
def test_a_run_that_goes_on_from_a_kept_state_ends_in_the_same_weights(emulated, knobs, stepper):
    """Beside one that begins: each is at its own epoch."""
    run, kept = made(knobs, epochs=3), {}

    def after(epoch, curves, state):
        kept[epoch] = copy.deepcopy(state())

    whole = replace(run(), after_epoch=after)
    (curves,) = fit([whole], stepper)
    resumed, beginning, finished = (
        replace(run(), resume=state) for state in (kept[1], None, kept[2])
    )
    assert fit([resumed, beginning, finished], stepper) == [curves] * 3
    for other in (resumed, beginning, finished):
        assert checks.difference(whole, other) == 0
        if hasattr(whole.loss, "state"):
            assert torch.equal(whole.loss.state, other.loss.state)
    if stepper is Stepper:
        for part in (kept[1]["momentum"][0], kept[1]["model"]["conv.weight"]):
            torch.nn.init.ones_(part)
            spoiled = replace(run(), resume=kept[1])
            fit([spoiled], stepper)
            assert checks.difference(whole, spoiled) > 0
