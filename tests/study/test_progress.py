"""What is said of a sweep while it goes on, by a clock and a log of the test."""

import io
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kdlib.config import Config
from kdlib.study import pace, plan, progress, sweep
from kdlib.study.files import in_notebook
from kdlib.study.plan import Plan
from kdlib.study.watch import log

CFG = Config(imbalance=50, draw_seed=0, epochs=4, batch_size=32, lr=0.05)
RUNS = [replace(CFG, seed=seed) for seed in range(3)]
SECONDS = {cfg.key(): 100.0 for cfg in RUNS}


@pytest.fixture
def clock(records_folder, monkeypatch):
    """The time of progress, in seconds, to be set."""
    records_folder.mkdir()
    now = SimpleNamespace(seconds=0.0)
    fake = SimpleNamespace(monotonic=lambda: now.seconds)
    for module in (progress, plan):
        monkeypatch.setattr(module, "time", fake)
    return now


def followed(deadline=None, there=(), **more):
    """A Plan of RUNS and its Progress; there: runs on record, which may become more."""
    plan = Plan(RUNS, there.__contains__, deadline, SECONDS, SECONDS, lambda cfg: False)
    return plan, progress.Progress(plan, **{"workers": 2, "starting": 5.0} | more)


def epoch(cfg, number):
    log(f"{cfg.key()} epoch {number}/{cfg.epochs} loss 1.0")


def test_the_first_estimate_is_the_one_that_was_told_before(clock, monkeypatch):
    _, follow = followed()
    assert follow.told() == "0/3 runs, 0/12 epochs, about 3 min left"
    monkeypatch.setattr(sweep, "shares", lambda *some: SECONDS)
    assert follow.left == sweep.seconds_at(sweep.place_of(), RUNS, None, "cpu", 2) == 155.0
    clock.seconds = 60.0  # still starting: it cannot be less than the work
    follow.look()
    assert follow.told().endswith("about 2 min left") and follow.least == 150.0


def test_a_run_is_named_by_its_networks_whatever_its_data_set_is_called(clock):
    cfg = replace(RUNS[0], dataset="superclass_small", student="resnet8", imbalance=1.0)
    plan = Plan([cfg], lambda cfg: False, None, *[{cfg.key(): 1.0}] * 2, lambda cfg: False)
    follow = progress.Progress(plan, workers=1, starting=0.0)
    plan.next(1)
    assert follow.names() == "resnet8_one_hot_s0"


def test_a_run_that_gave_up_or_failed_is_not_counted_as_done(clock):
    there = []
    plan, follow = followed(there=there)
    plan.next(9)
    epoch(RUNS[0], 3)
    there.append(RUNS[1])
    plan.ended(RUNS[:2])
    follow.look()
    assert follow.told().startswith("1/3 runs, 7/12 epochs, ")
    plan.ended(RUNS[2:])
    follow.look()
    assert follow.ended == 1 and "all done" not in follow.told()


def test_what_is_in_work_elsewhere_is_counted_by_the_log_and_awaited_in_words(clock):
    there = []
    plan, follow = followed(there=there)
    plan.elsewhere(plan.next(2))
    plan.next(1)
    epoch(RUNS[0], 3)
    epoch(RUNS[1], 4)  # its record is still to be written
    follow.look()
    assert follow.told().startswith("0/3 runs, 7/12 epochs, ")
    assert follow.names() == "cnn_small_one_hot_s2"
    there += RUNS[1:]
    plan.ended(RUNS[2:])
    follow.look()
    assert follow.told().startswith("2/3 runs, 11/12 epochs, ")
    assert follow.names() == "waiting for 2 runs elsewhere"  # as far as the plan has looked
    clock.seconds = 1.0
    assert plan.next(1) == []
    assert follow.names() == "waiting for 1 run elsewhere"


def test_epochs_are_counted_from_the_log_and_the_pace_is_learned(clock):
    log(f"{RUNS[2].key()} epoch 3/4 loss 1.0")  # of an earlier sweep
    there = []
    plan, follow = followed(there=there)
    plan.next(2)
    clock.seconds = 20.0
    epoch(RUNS[0], 1)
    log("another_run_s0_00 epoch 3/4 loss 1.0")
    follow.look()
    assert follow.done == 25 and follow.told().startswith("0/3 runs, 1/12 epochs, ")
    clock.seconds = 70.0  # a quarter of each run took 50 s, twice as long as was thought
    epoch(RUNS[0], 2)
    epoch(RUNS[1], 1)
    follow.look()
    assert follow.left == pytest.approx((50 + 15) / (25 + 15) * 225 / 2)
    clock.seconds = 80.0  # between epochs the time goes on
    before = follow.left
    follow.look()
    assert follow.told().endswith(f"about {pace.in_words(before - 10)} left")
    there += RUNS
    plan.ended(RUNS[:2])
    assert plan.next(1) == []
    follow.look()
    assert follow.told() == "3/3 runs, 12/12 epochs, all done"


def test_a_run_that_goes_on_counts_what_is_left_of_it(clock):
    plan, follow = followed()
    log(f"{RUNS[0].key()} goes on after epoch 2/4")
    follow.look()
    assert follow.done == 0 and follow.told().startswith("0/3 runs, 2/12 epochs, ")
    epoch(RUNS[0], 3)
    follow.look()
    assert follow.done == 50


def test_a_budget_that_ends_first_is_what_is_said(clock):
    _, follow = followed(deadline=90.0)
    assert follow.told() == "0/3 runs, 0/12 epochs, 90 s until time is up"


def test_runs_in_work_are_named_by_their_keys(clock):
    plan, follow = followed()
    plan.next(9)
    assert follow.names() == "cnn_small_one_hot_s0, cnn_small_one_hot_s1, cnn_small_one_hot_s2"
    plan.running.append(RUNS[0])
    assert follow.names().endswith("_s2, 1 more")


def test_a_notebook_is_told_by_its_kernel_not_by_its_packages(monkeypatch):
    import ipykernel.zmqshell  # noqa: F401, as whoever imports widgets does
    import IPython

    assert not in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=1))
    assert in_notebook()


def test_without_a_terminal_there_is_a_line_now_and_then(clock, monkeypatch, capsys):
    there = []
    plan, _ = followed(there=there)
    with progress.shown(plan, 2, 5.0) as ended:
        for seconds in (10.0, 40.0, 41.0):
            clock.seconds = seconds
            there += plan.next(1)
            plan.ended(plan.running)
            ended()
    out, err = capsys.readouterr()
    assert out.startswith("2/3 runs, 8/12 epochs, about ") and out.count("\n") == 1
    assert err == ""


def test_on_a_terminal_a_bar_moves_while_runs_are_going_on(records_folder, monkeypatch):
    """In the thread that works nothing is called meanwhile, as in a lockstep."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "BEAT", 0.01)
    records_folder.mkdir()
    plan, _ = followed()
    with progress.shown(plan, 2, 5.0):
        plan.next(1)
        for number in (1, 2, 3):
            epoch(RUNS[0], number)
            until = time.monotonic() + 5
            while f"{number}/12 epochs" not in screen.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
    for number in (1, 2, 3):
        assert f"0/3 runs, {number}/12 epochs, about " in screen.getvalue()
    assert ": cnn_small_one_hot_s0" in screen.getvalue()


def test_the_bar_of_a_sweep_ends_with_all_runs_done(records_folder, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sweep, "_needs_processes", lambda device: False)
    short = [replace(cfg, epochs=2) for cfg in RUNS[:2]]
    sweep.sweep(short, device="cpu", jobs=2)
    last = screen.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith("100% |") and last.endswith("2/2 runs, 4/4 epochs, all done")
