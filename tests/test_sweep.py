"""Which runs go when: groups for a GPU, room and time running out; with runs that only pretend, and
with real ones."""

import contextlib
import os
import time
from dataclasses import replace

import pytest
import torch
from synthetic import record

from kdlib import cuda
from kdlib.config import Config, KdlibError
from kdlib.step import Diverged
from kdlib.study import experiment, records, sweep
from kdlib.study.experiment import OutOfTime, together
from kdlib.train import fit

CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn", temperature=2.0)
SEEDS = [replace(CFG, seed=s) for s in range(5)]


@pytest.fixture
def pretend(records_folder, monkeypatch):
    """Groups of runs as they were asked for; each run leaves a record. Set .fails[key] to an
    outcome, .seconds[key] to an estimate, .room to how many fit at once."""

    class Asked(list):
        """The groups, and how things are to go."""

    asked = Asked()
    asked.fails, asked.seconds, asked.deadlines, asked.room = {}, {}, [], 99

    def do(configs, folder, device, deadline):
        asked.append([c.key() for c in configs])
        asked.deadlines.append(deadline)
        if len(configs) > asked.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for c in configs:
            if c.key() not in asked.fails:
                records.write(
                    record(c, "kd" if c.teacher else "one_hot", c.seed, 0.5, margin=[0.5] * 10)
                )
        return [asked.fails.get(c.key()) for c in configs]

    monkeypatch.setattr(sweep, "together", do)
    monkeypatch.setattr(sweep, "load", lambda *a: None)
    monkeypatch.setattr(
        sweep, "estimate", lambda configs, *a: [asked.seconds.get(c.key(), 0.01) for c in configs]
    )
    return asked


def keys(configs):
    return [c.key() for c in configs]


def test_on_a_gpu_runs_whose_teachers_are_there_go_together(pretend):
    students = [replace(KD, seed=s, teacher_seed=None) for s in range(2)]
    done = sweep.sweep([*students, *SEEDS[:2]], device="cuda", jobs=3)
    teachers = [s.teacher_config() for s in students]
    assert pretend == [keys(teachers), keys(students), keys(SEEDS[:2])]
    assert [r.config for r in done] == [*students, *SEEDS[:2]]


def test_only_runs_of_equal_length_and_network_go_together(pretend):
    other, long = replace(SEEDS[3], student="cnn"), replace(SEEDS[1], epochs=9)
    sweep.sweep([SEEDS[0], long, other, SEEDS[2]], device="cuda", jobs=4)
    assert pretend == [keys([SEEDS[0], SEEDS[2]]), keys([long]), keys([other])]


@pytest.mark.parametrize("runs, groups", [(9, [9]), (10, [5, 5]), (19, [7, 6, 6]), (3, [3])])
def test_nine_runs_at_most_go_together_in_groups_of_one_size(pretend, runs, groups):
    sweep.sweep([replace(CFG, seed=s) for s in range(runs)], device="cuda")
    assert [len(group) for group in pretend] == groups and sweep.default_jobs("cuda") == 9


def test_a_run_that_does_not_fit_keeps_nobody_waiting(pretend):
    """Wherever it stands, and also where it is the only one of its length or alone in its group."""
    long = replace(SEEDS[4], epochs=9)
    pretend.seconds = {long.key(): 600.0, SEEDS[1].key(): 600.0}
    for jobs, order in (
        (1, [long, *SEEDS[:3]]),
        (3, [long, *SEEDS[:3]]),
        (3, [SEEDS[1], long, SEEDS[3]]),
    ):
        done = sweep.sweep(order, device="cuda", jobs=jobs, budget=60.0)
        assert [r.config for r in done] == [c for c in order if c not in (long, SEEDS[1])]


def test_what_fits_into_the_time_is_counted_without_what_does_not():
    seconds = dict(zip(keys(SEEDS), (40.0, 80.0, 30.0, 40.0, 20.0), strict=True))
    plan = sweep._Plan(SEEDS, time.time() + 100, seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.records, "exists", lambda cfg: True)
        assert plan.next(9, set()) == [SEEDS[0], SEEDS[2], SEEDS[4]]  # 40 + 30 + 20


def test_a_group_takes_the_shares_of_its_runs_and_no_less_than_its_longest_run_alone():
    alone, shares = (dict.fromkeys(keys(SEEDS), seconds) for seconds in (50.0, 20.0))
    plan = sweep._Plan(SEEDS, time.time() + 90, alone, shares)
    assert [plan.needs(SEEDS[:n]) for n in (1, 2, 3, 5)] == [50, 50, 60, 100]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.records, "exists", lambda cfg: True)
        assert plan.next(9, set()) == SEEDS[:4]
    plan.took(SEEDS[:4], 160.0)  # twice as long as was thought
    assert plan.needs(SEEDS[4:]) == 100


def test_shares_are_measured_side_by_side(monkeypatch):
    """Four networks in one lockstep, of which a run's share is a quarter."""
    plain, sizes = sweep.fit, []

    def fit(runs):
        sizes.append(len({id(run.model) for run in runs}))
        return plain(runs)

    monkeypatch.setattr(sweep, "fit", fit)
    monkeypatch.setattr(sweep, "_PACES", {})
    data = experiment.load(CFG)[0]
    alone, four = (sweep._pace("cnn_small", data, 32, "fp32", count)[0] for count in (1, 4))
    assert sizes == [1, 4] and 0.3 < four / alone < 3  # on a CPU they take turns


# ---------------------------------------------------------------- no graphs


@pytest.fixture
def graphs(monkeypatch):
    """Captures are asked for, as on a GPU."""
    monkeypatch.setattr(cuda.Captured, "graphs", True)
    monkeypatch.setenv("KDLIB_GRAPHS", "1")


@pytest.mark.parametrize("raised", [True, False])
def test_where_steps_cannot_be_captured_each_run_goes_on_in_its_own_process(
    pretend, graphs, monkeypatch, capsys, raised
):
    plain, pools, error = (
        sweep.together,
        [],
        cuda.CaptureError("A training step cannot be captured here."),
    )

    def first_fails(configs, *more):
        if cuda.Captured.graphs:
            if raised:
                raise error
            return [error for _ in configs]  # of a teacher that had to be trained again
        return plain(configs, *more)

    def here(jobs, device):
        pools.append((jobs, sweep._in_processes(device)))
        return contextlib.nullcontext(sweep._Here())

    monkeypatch.setattr(sweep, "together", first_fails)
    monkeypatch.setattr(sweep, "_pool", here)
    done = sweep.sweep(SEEDS, device="cuda", jobs=3)
    assert [r.config for r in done] == SEEDS and pretend == [[c.key()] for c in SEEDS]
    assert pools == [(3, False), (3, True)] and os.environ["KDLIB_GRAPHS"] == "0"
    assert (
        capsys.readouterr().out
        == "A training step cannot be captured here. Going on with these, one process for each run.\n"
    )


def test_an_estimate_falls_back_too(graphs, monkeypatch, capsys):
    def pace(name, **how):
        if cuda.Captured.graphs:
            raise cuda.CaptureError("no capture.")
        return 1.0, 0.0

    monkeypatch.setattr(sweep, "_pace", pace)
    steps = -(-len(experiment.load(CFG)[0].train) // 32)
    assert (
        sweep.estimate([CFG]) == [2 * steps] and "no capture. Going on" in capsys.readouterr().out
    )


def test_prediction_is_timed_warm(monkeypatch):
    """The first call on a GPU also looks for kernels; here it sleeps instead."""
    calls = []

    def predict(model, x, data):
        calls.append(len(x))
        time.sleep(0.3 if len(calls) == 1 else 0.0)

    monkeypatch.setattr(sweep, "predict", predict)
    monkeypatch.setattr(sweep, "_PACES", {})
    forward = sweep._pace(
        "cnn_small", data=experiment.load(CFG)[0], batch_size=32, precision="fp32"
    )[1]
    assert len(calls) == 2 and forward * calls[0] < 0.1


def test_out_of_memory_means_fewer_at_once_and_loses_nothing(pretend, capsys):
    pretend.room = 2
    done = sweep.sweep(SEEDS, device="cuda", jobs=5)
    assert [len(group) for group in pretend] == [5, 2, 2, 1]
    assert [r.config for r in done] == SEEDS
    assert capsys.readouterr().out.splitlines() == [
        "out of GPU memory with 5 runs at once; going on with 2"
    ]


def test_one_run_that_fails_stops_nothing_else(pretend):
    pretend.fails[SEEDS[1].key()] = Diverged("Run x stopped")
    with pytest.raises(Diverged, match="Run x stopped"):
        sweep.sweep(SEEDS, device="cuda", jobs=2)
    assert [records.exists(c) for c in SEEDS] == [True, False, True, True, True]


def test_a_budget_takes_what_fits_and_time_that_was_misjudged_is_learned(pretend):
    pretend.seconds = {SEEDS[1].key(): 600.0}
    start, others = time.time(), [SEEDS[0], *SEEDS[2:]]
    done = sweep.sweep(SEEDS, device="cuda", jobs=1, budget=60.0)
    assert pretend == [[c.key()] for c in others] and [r.config for r in done] == others
    assert pretend.deadlines == [pytest.approx(start + 60, abs=1)] * 4
    assert [r.config for r in sweep.sweep(SEEDS[:1], device="cuda", budget=0.0)] == SEEDS[
        :1
    ]  # what is there costs nothing
    plan = sweep._Plan(SEEDS, time.time() + 100, {c.key(): 10.0 for c in SEEDS})
    assert plan.next(2, set()) == SEEDS[:2]
    plan.took(SEEDS[:2], 120.0)  # six times as long as was thought
    assert plan.slower() == 6 and plan.next(2, set()) == SEEDS[2:3]
    plan = sweep._Plan(SEEDS, time.time() + 100, {c.key(): 10.0 for c in SEEDS})
    plan.took(SEEDS[:1], 110.0)
    assert (
        plan.next(2, set()) == [] and plan.pending == SEEDS
    )  # they may yet fit, if the next ones are quicker


def test_runs_that_gave_up_in_time_are_not_failures(pretend):
    pretend.fails[SEEDS[0].key()] = OutOfTime("its time is up")
    assert [r.config for r in sweep.sweep(SEEDS[:2], device="cuda", jobs=2, budget=60)] == SEEDS[
        1:2
    ]


def test_students_of_a_teacher_whose_table_is_being_filled_wait_for_other_work(records_folder):
    students = [
        replace(KD, seed=0),
        replace(KD, seed=0, alpha=0.5),
        replace(KD, seed=1, teacher_seed=None),
    ]
    for s in students:
        records.write(record(s.teacher_config(), "teacher", s.seed, 0.8))
    plan = sweep._Plan(students, None, {})
    (first,) = plan.next(1, set())
    assert plan.next(1, {first.teacher_config()}) == students[2:]
    assert plan.next(1, {first.teacher_config()}) == students[1:2]  # better than doing nothing


# ---------------------------------------------------------------- real runs


def test_together_is_alone_on_record(records_folder, monkeypatch, tmp_path):
    group = [CFG, KD, replace(KD, method="ada_alpha")]
    both = together(group)
    assert [r.config for r in both] == group and {r.facts["together"] for r in both} == {3}
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "alone"))
    for record_ in both:
        (alone,) = together([record_.config])
        assert (
            alone.facts["weights_sha256"] == record_.facts["weights_sha256"]
            and alone.facts["together"] == 1
        )
        assert alone.facts["curves"] == record_.facts["curves"]
    assert both[1].facts["teacher_logits"] == "table" and "teacher_logits" not in both[0].facts


def test_a_nan_stops_that_run_alone_and_says_where(records_folder):
    ill = replace(SEEDS[1], lr=100.0, weight_decay=10.0)
    outcomes = together([SEEDS[0], ill, SEEDS[2]])
    assert (
        isinstance(outcomes[1], Diverged)
        and f"Run {ill.key()} stopped" in str(outcomes[1])
        and "step" in str(outcomes[1])
    )
    assert [r.config for r in (outcomes[0], outcomes[2])] == [
        SEEDS[0],
        SEEDS[2],
    ] and not records.exists(ill)


def test_a_deadline_ends_a_run_between_epochs_but_never_a_finished_one(records_folder):
    (outcome,) = together([replace(CFG, epochs=3)], deadline=time.time() - 1)
    assert isinstance(outcome, OutOfTime) and "after epoch 1 of 3: its time is up" in str(outcome)
    assert not list(records_folder.glob("*.json"))
    (finished,) = together([replace(CFG, epochs=1)], deadline=time.time() - 1)
    assert finished.config.epochs == 1


def test_a_kill_in_the_middle_of_a_group_keeps_what_was_finished(records_folder, monkeypatch):
    plain, done = records.write, []

    def killed(record_, where=None):
        if done:
            raise KeyboardInterrupt
        plain(record_, where)
        done.append(record_.config)

    with monkeypatch.context() as m:
        m.setattr(records, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            together(SEEDS[:3])
    assert [records.exists(c) for c in SEEDS[:3]] == [True, False, False]
    stamp = (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns
    assert [r.config for r in together(SEEDS[:3])] == SEEDS[:3]
    assert (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns == stamp


def test_a_run_too_large_for_the_gpu_is_one_sentence(records_folder, monkeypatch):
    def full(runs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(experiment, "fit", full)
    (outcome,) = together([CFG])
    assert isinstance(outcome, KdlibError) and f"Run {CFG.key()} stopped: it does not fit" in str(
        outcome
    )
    with pytest.raises(torch.OutOfMemoryError):
        together(SEEDS[:2])
    monkeypatch.setattr(experiment, "fit", fit)
    assert [r.config for r in together(SEEDS[:2])] == SEEDS[:2]


def test_the_estimate_counts_steps_and_the_table_once(records_folder, monkeypatch):
    monkeypatch.setattr(
        sweep, "_pace", lambda name, **how: {"cnn_small": (1.0, 0.0), "cnn": (0.0, 1.0)}[name]
    )
    data = experiment.load(CFG)[0]
    steps = -(-len(data.train) // 32)
    assert sweep.estimate([CFG, KD, replace(KD, alpha=0.5), replace(KD, seed=1)]) == [
        2 * steps,
        2 * steps + len(data.train),
        2 * steps,
        2 * steps + len(data.train),
    ]


def test_a_real_budget_leaves_only_whole_records(records_folder):
    configs = [replace(CFG, seed=s, epochs=400) for s in range(6)]
    start = time.monotonic()
    done = sweep.sweep(configs, jobs=2, budget=12.0)
    assert time.monotonic() - start < 30 and len(done) < 6
    assert sorted(p.stem for p in records_folder.glob("*.json")) == sorted(
        r.config.key() for r in done
    )
    assert not list(records_folder.glob(".tmp*"))
