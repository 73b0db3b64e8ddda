"""Which runs go when: the plan by itself, a sweep of runs that only pretend, and real ones."""

import contextlib
import os
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from synthetic import record

from kdlib import cuda
from kdlib.config import Config, KdlibError
from kdlib.step import Diverged
from kdlib.study import experiment, pace, records, sweep
from kdlib.study.experiment import Outcome, TeacherError, together
from kdlib.study.files import claim
from kdlib.study.plan import Plan
from kdlib.study.watch import OutOfTime
from kdlib.train import fit

CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn", temperature=2.0)
SEEDS = [replace(CFG, seed=s) for s in range(5)]


def keys(configs):
    return [c.key() for c in configs]


def seconds(*values):
    return dict(zip(keys(SEEDS), values, strict=True))


# ---------------------------------------------------------------- the plan


def planned(todo, *estimates, left=None, there=True):
    """A Plan with `left` seconds; estimates: alone, and shares if they are others; there: runs on
    record, True for any that is not to be done."""
    deadline = left and time.monotonic() + left
    on_record = (lambda cfg: cfg not in todo) if there is True else there.__contains__
    return Plan(todo, on_record, deadline, *(2 * estimates)[:2])


def test_a_student_waits_for_its_teachers_and_no_run_comes_twice():
    there = set()
    plan = planned([KD, CFG], there=there)
    assert plan.next(1) == [CFG] and plan.next(1) == []
    there.add(KD.teacher_config())
    assert plan.next(1) == [KD] and plan.next(1) == []


def test_only_runs_of_equal_length_and_network_go_together():
    other, long = replace(SEEDS[3], student="cnn"), replace(SEEDS[1], epochs=9)
    plan = planned([SEEDS[0], long, other, SEEDS[2]])
    assert [plan.next(4) for _ in range(4)] == [[SEEDS[0], SEEDS[2]], [long], [other], []]


@pytest.mark.parametrize("runs, groups", [(9, [9]), (10, [5, 5]), (19, [7, 6, 6]), (3, [3])])
def test_nine_runs_at_most_go_together_in_groups_of_one_size(runs, groups):
    plan = planned([replace(CFG, seed=s) for s in range(runs)])
    assert [len(plan.next(9)) for _ in groups] == groups and plan.pending == []
    assert sweep.default_jobs("cuda") == 9


def test_what_fits_into_the_time_is_counted_without_what_does_not():
    plan = planned(SEEDS, seconds(40.0, 80.0, 30.0, 40.0, 20.0), left=100)
    assert plan.next(9) == [SEEDS[0], SEEDS[2], SEEDS[4]]  # 40 + 30 + 20
    long = replace(SEEDS[0], epochs=9)  # nobody waits for it, first as it is
    plan = planned([long, *SEEDS[1:3]], {long.key(): 600.0}, left=100)
    assert plan.next(1) == SEEDS[1:2] and plan.next(3) == SEEDS[2:3] and plan.pending == [long]


def test_a_group_takes_the_shares_of_its_runs_and_no_less_than_its_longest_run_alone():
    plan = planned(SEEDS, seconds(*[50.0] * 5), seconds(*[20.0] * 5), left=90)
    assert [plan.needs(SEEDS[:n]) for n in (1, 2, 3, 5)] == [50, 50, 60, 100]
    assert plan.next(9) == SEEDS[:4]
    plan.took(SEEDS[:4], 160.0)  # twice as long as was thought
    assert plan.needs(SEEDS[4:]) == 100


def test_time_that_was_misjudged_is_learned():
    plan = planned(SEEDS, seconds(*[10.0] * 5), left=100)
    assert plan.next(2) == SEEDS[:2]
    plan.took(SEEDS[:2], 120.0)  # six times as long as was thought
    assert plan.needs(SEEDS[2:3]) == 60 and plan.next(2) == SEEDS[2:3]
    plan = planned(SEEDS, seconds(*[10.0] * 5), left=100)
    plan.took(SEEDS[:1], 110.0)
    # they may yet fit, if the next ones are quicker
    assert plan.next(2) == [] and plan.pending == SEEDS


def test_students_of_a_teacher_whose_table_is_being_filled_wait_for_other_work():
    students = [KD, replace(KD, alpha=0.5), replace(KD, seed=1, teacher_seed=None)]
    plan = planned(students)
    assert plan.next(1) == students[:1] and plan.next(1) == students[2:]
    assert plan.next(1) == students[1:2]  # better than doing nothing
    plan = planned(students)
    plan.ended(plan.next(1))
    assert plan.next(1) == students[1:2]  # the table is there


# ---------------------------------------------------------------- the plan, with others at work


@pytest.fixture
def clock(monkeypatch):
    """The time of plans, in seconds, which sleeping alone moves."""
    now = SimpleNamespace(seconds=1000.0, slept=[])

    def sleep(seconds):
        now.slept.append(seconds)
        now.seconds += seconds

    fake = SimpleNamespace(monotonic=lambda: now.seconds, sleep=sleep)
    monkeypatch.setattr("kdlib.study.plan.time", fake)
    return now


def test_what_is_in_work_elsewhere_is_awaited_when_nothing_else_is_left(clock, capsys):
    there, free = [], []
    plan = Plan(SEEDS[:3], there.__contains__, free=free.__contains__)
    plan.elsewhere(plan.next(1))
    assert plan.next(1) == SEEDS[1:2] and not plan.waits()  # one of ours is running
    plan.ended(SEEDS[1:2])
    assert plan.next(1) == SEEDS[2:3]
    plan.elsewhere(SEEDS[2:3])
    assert plan.next(1) == [] and plan.waits() and plan.pending == []
    plan.wait()
    assert clock.slept == [pytest.approx(0.3)] and plan.next(1) == []
    plan.wait()
    free += SEEDS[2:3]  # its process has died
    there += SEEDS[:1]
    assert plan.next(1) == SEEDS[2:3] and not plan.others
    plan.ended(SEEDS[2:3])  # it fails here too
    assert plan.next(1) == [] and not plan.waits() and plan.pause() is None
    said = "waiting for 2 runs being done by other processes\n"
    assert capsys.readouterr().out == said


def test_what_is_awaited_long_is_looked_at_less_often_and_no_longer_than_there_is_time(clock):
    plan = Plan(SEEDS[:1], lambda cfg: False, clock.seconds + 100, free=lambda cfg: False)
    plan.elsewhere(plan.next(1))
    while plan.waits():
        plan.wait()
        assert plan.next(1) == []
    assert clock.seconds == 1100
    first, longest = clock.slept[:10], max(clock.slept)
    assert first == pytest.approx([0.3] * 10) and longest == pytest.approx(5.0)
    assert clock.slept[-1] < 4.9  # the last one ends with the time


def test_of_many_runs_in_work_elsewhere_some_are_looked_at_at_once(clock):
    asked = []
    many = [replace(CFG, seed=s) for s in range(50)]
    plan = Plan(many, lambda cfg: bool(asked.append(cfg)), free=lambda cfg: False)
    plan.elsewhere(plan.next(50))
    asked.clear()
    for _ in range(3):
        plan.wait()
        plan.next(1)
    assert asked == [*many, *many[:10]]


def test_a_teacher_done_elsewhere_frees_its_students(clock):
    there = []
    teacher = KD.teacher_config()
    plan = Plan([teacher, KD], there.__contains__, free=lambda cfg: False)
    plan.elsewhere(plan.next(1))
    assert plan.next(1) == [] and plan.waits()
    there.append(teacher)
    plan.wait()
    assert plan.next(1) == [KD] and plan.done == {teacher.key()}


def test_students_whose_teachers_table_is_filled_elsewhere_come_last(clock):
    students = [KD, replace(KD, alpha=0.5), replace(KD, seed=1, teacher_seed=None)]
    plan = Plan(students, lambda cfg: not cfg.teacher, free=lambda cfg: False)
    plan.elsewhere(plan.next(1))
    assert [plan.next(1) for _ in range(3)] == [students[2:], students[1:2], []]


def test_what_was_done_elsewhere_meanwhile_is_not_begun():
    there = []
    plan = Plan([*SEEDS[:3], KD.teacher_config(), KD], there.__contains__)
    there += [*SEEDS[:2], KD.teacher_config()]
    assert plan.next(1) == SEEDS[2:3] and plan.next(1) == [KD] and plan.next(1) == []
    assert plan.done == set(keys(there))


def test_a_teacher_that_fails_here_and_is_done_elsewhere_teaches():
    there = []
    teacher = KD.teacher_config()
    plan = Plan([teacher, KD], there.__contains__)
    plan.ended(plan.next(1))
    assert plan.next(1) == []
    there.append(teacher)
    assert plan.next(1) == [KD]


@pytest.mark.parametrize("most", [1, 9])
def test_a_plan_asks_the_disk_twice_for_each_run(most):
    """Before it is begun, and when it ended."""
    asked, there = [], set()
    students = [replace(KD, seed=s, teacher_seed=None) for s in range(100)]
    todo = [cfg for student in students for cfg in (student.teacher_config(), student)]
    plan = Plan(todo, lambda cfg: asked.append(cfg) or cfg in there)
    while configs := plan.next(most):
        there |= set(configs)
        plan.ended(configs)
    assert len(there) == 200 and len(asked) == 400


# ---------------------------------------------------------------- runs that only pretend


@pytest.fixture
def pretend(records_folder, monkeypatch):
    """Groups of runs as they were asked for; each run leaves a record. Set .fails[key] to an error,
    .seconds[key] to an estimate, .room to how many fit at once."""

    class Asked(list):
        """The groups, and how things are to go."""

    asked = Asked()
    asked.fails, asked.seconds, asked.deadlines, asked.room = {}, {}, [], 99

    def do(configs, folder, device, deadline, wait):
        assert not wait
        asked.append(keys(configs))
        asked.deadlines.append(deadline)
        if len(configs) > asked.room:
            return Outcome(full=True)
        for c in configs:
            if c.key() not in asked.fails:
                role = "kd" if c.teacher else "one_hot"
                records.write(record(c, role, c.seed, 0.5, margin=[0.5] * 10))
        failures = [asked.fails[key] for key in keys(configs) if key in asked.fails]
        return Outcome(0.01, failures=failures)

    monkeypatch.setattr(sweep, "together", do)

    def shares(configs, *how):
        return {cfg.key(): asked.seconds.get(cfg.key(), 0.01) for cfg in configs}

    monkeypatch.setattr(sweep, "shares", shares)
    return asked


def test_on_a_gpu_runs_whose_teachers_are_there_go_together(pretend):
    students = [replace(KD, seed=s, teacher_seed=None) for s in range(2)]
    done = sweep.sweep([*students, *SEEDS[:2]], device="cuda", jobs=3)
    teachers = [s.teacher_config() for s in students]
    assert pretend == [keys(teachers), keys(students), keys(SEEDS[:2])]
    assert [r.config for r in done] == [*students, *SEEDS[:2]]


def test_a_budget_takes_what_fits_and_what_is_there_costs_nothing(pretend):
    pretend.seconds = {SEEDS[1].key(): 600.0}
    start, others = time.monotonic(), [SEEDS[0], *SEEDS[2:]]
    done = sweep.sweep(SEEDS, device="cuda", jobs=1, budget=60.0)
    assert pretend == [[c.key()] for c in others] and [r.config for r in done] == others
    assert pretend.deadlines == [pytest.approx(start + 60, abs=1)] * 4
    assert [r.config for r in sweep.sweep(SEEDS[:1], budget=0.0)] == SEEDS[:1]


def test_a_page_refuses_what_would_take_longer_than_its_hours(pretend):
    pretend.seconds = dict.fromkeys(keys(SEEDS), 1800.0)
    with pytest.raises(KdlibError) as refused:
        sweep.sweep(SEEDS, device="cuda", jobs=1, hours=2)
    said = "the 5 runs that this page lacks would take about 2 h 30 min here"
    assert f"hours=2: {said}, and none was started; hours=4 starts them" in str(refused.value)
    assert pretend == [] and not any(map(records.exists, SEEDS))
    assert len(sweep.sweep(SEEDS, device="cuda", jobs=5, hours=2.6)) == 5
    pretend.seconds = dict.fromkeys(pretend.seconds, 1e9)
    assert len(sweep.sweep(SEEDS, hours=1)) == 5  # on record


def test_out_of_memory_means_fewer_at_once_and_loses_nothing(pretend, capsys):
    pretend.room = 2
    done = sweep.sweep(SEEDS, device="cuda", jobs=5)
    assert [len(group) for group in pretend] == [5, 2, 2, 1] and [r.config for r in done] == SEEDS
    said = "out of GPU memory with 5 runs at once; going on with 2\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("failed, said", [([1], "^no 1$"), ([1, 3], r"no 1 \(1 more run failed")])
def test_runs_that_fail_stop_nothing_else(pretend, failed, said):
    pretend.fails = {SEEDS[k].key(): Diverged(f"no {k}") for k in failed}
    with pytest.raises(KdlibError, match=said):
        sweep.sweep(SEEDS, device="cuda", jobs=2)
    assert [k for k in range(5) if not records.exists(SEEDS[k])] == failed


def test_a_fault_in_the_code_is_raised_as_it_is(pretend):
    fault = KeyError("mine")
    pretend.fails = {SEEDS[1].key(): Diverged("no 1"), SEEDS[3].key(): fault}
    with pytest.raises(KeyError) as raised:
        sweep.sweep(SEEDS, device="cuda", jobs=2)
    assert raised.value is fault


def test_runs_that_gave_up_in_time_are_not_failures(pretend):
    pretend.fails[SEEDS[0].key()] = OutOfTime("its time is up")
    done = sweep.sweep(SEEDS[:2], device="cuda", jobs=2, budget=60)
    assert [r.config for r in done] == SEEDS[1:2]


def test_what_a_group_left_to_others_is_not_lost_when_another_of_it_fails(pretend, monkeypatch):
    """Nor is it counted in how long runs take."""
    plain, claimed = sweep.together, SEEDS[1:2]

    def some_claimed(configs, *more, **wait):
        elsewhere = [cfg for cfg in configs if cfg in claimed]
        claimed.clear()
        outcome = plain([cfg for cfg in configs if cfg not in elsewhere], *more, **wait)
        return replace(outcome, elsewhere=elsewhere)

    took = []
    monkeypatch.setattr(sweep, "together", some_claimed)
    monkeypatch.setattr(Plan, "took", lambda plan, configs, seconds: took.append(configs))
    pretend.fails[SEEDS[0].key()] = Diverged("no 0")
    with pytest.raises(KdlibError, match="^no 0$"):
        sweep.sweep(SEEDS[:3], device="cuda", jobs=3)
    assert pretend == [keys([SEEDS[0], SEEDS[2]]), keys(SEEDS[1:2])] and took == [SEEDS[1:2]]


# ---------------------------------------------------------------- no graphs


@pytest.fixture
def graphs(monkeypatch):
    """Captures are asked for, as on a GPU."""
    monkeypatch.setattr(cuda.Captured, "graphs", True)
    monkeypatch.setenv("KDLIB_GRAPHS", "1")


def test_where_steps_cannot_be_captured_each_run_goes_on_in_its_own_process(
    pretend, graphs, monkeypatch, capsys
):
    said = "A training step cannot be captured here."
    plain, processes, in_lockstep = sweep.together, [], sweep._in_lockstep

    def first_fails(configs, *more, **wait):
        if cuda.Captured.graphs:
            return Outcome(failures=[cuda.CaptureError(said)])
        return plain(configs, *more, **wait)

    def here(plan, jobs, how, failures):
        processes.append(jobs)
        return in_lockstep(plan, 1, how, failures)

    monkeypatch.setattr(sweep, "together", first_fails)
    monkeypatch.setattr(sweep, "_in_processes", here)
    done = sweep.sweep(SEEDS, device="cuda", jobs=3)
    assert [r.config for r in done] == SEEDS and pretend == [[c.key()] for c in SEEDS]
    assert processes == [3] and os.environ["KDLIB_GRAPHS"] == "0"
    assert capsys.readouterr().out == f"{said} Going on with these, one process for each run.\n"


def test_an_estimate_falls_back_too(graphs, monkeypatch, capsys):
    def of_one(name, *how):
        if cuda.Captured.graphs:
            raise cuda.CaptureError("no capture.")
        return 1.0, 0.0

    monkeypatch.setattr(pace, "_pace", of_one)
    steps = -(-len(experiment.load(CFG)[0].train) // 32)
    assert pace.shares([CFG], None, "cpu", 1) == {CFG.key(): 2 * steps}
    assert "no capture. Going on" in capsys.readouterr().out


# ---------------------------------------------------------------- estimates


def test_the_estimate_counts_steps_and_the_table_once(records_folder, monkeypatch):
    known = {"cnn_small": (1.0, 0.0), "cnn": (0.0, 1.0)}
    monkeypatch.setattr(pace, "_pace", lambda name, *how: known[name])
    images = len(experiment.load(CFG)[0].train)
    steps = -(-images // 32)
    configs = [CFG, KD, replace(KD, alpha=0.5), replace(KD, seed=1)]
    found = pace.shares(configs, None, "cpu", 1)
    assert list(found.values()) == [2 * steps, 2 * steps + images, 2 * steps, 2 * steps + images]


@pytest.mark.parametrize("count", [1, 4])
def test_the_pace_is_that_of_warm_steps_and_a_run_has_its_share_of_them(monkeypatch, count):
    """By a clock of the test: a first epoch and a first prediction look for kernels."""
    clock = [0.0]

    def fit(runs):
        assert len({id(run.model) for run in runs}) == count
        for took in (100.0, 8.0, 8.0):
            clock[0] += took
            runs[-1].after_epoch(0, {}, None)
        return [{} for _ in runs]

    def predict(model, x, data):
        clock[0] += 100.0 if clock[0] == 116.0 else 3.2

    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(pace, "_PACES", {})
    monkeypatch.setattr(pace, "fit", fit)
    monkeypatch.setattr(pace, "predict", predict)
    found = pace._pace("cnn_small", experiment.load(CFG)[0], 32, "fp32", count)
    assert found == pytest.approx((8 / count, 0.1))


# ---------------------------------------------------------------- real runs


def test_measuring_that_fails_leaves_the_threads_as_they_were(monkeypatch):
    def fails(name, *how):
        assert torch.get_num_threads() == 1
        raise KdlibError("no pace")

    monkeypatch.setattr(pace, "_pace", fails)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KdlibError, match="no pace"):
            pace.shares(SEEDS[:1], None, "cpu", 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_together_is_alone_on_record(records_folder, monkeypatch, tmp_path):
    group = [CFG, KD, replace(KD, method="ada_alpha")]
    together(group)
    both = [records.read(cfg) for cfg in group]
    assert {r.facts["together"] for r in both} == {3}
    assert both[1].facts["teacher_logits"] == "table" and "teacher_logits" not in both[0].facts
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "alone"))
    for of_group in both:
        alone = experiment.run(of_group.config)
        assert alone.facts["together"] == 1
        for fact in ("weights_sha256", "curves"):
            assert alone.facts[fact] == of_group.facts[fact]


def test_a_nan_stops_that_run_alone_and_says_where(records_folder):
    ill = replace(SEEDS[1], lr=100.0, weight_decay=10.0)
    (failed,) = together([SEEDS[0], ill, SEEDS[2]]).failures
    assert isinstance(failed, Diverged)
    assert re.match(f"Run {ill.key()} stopped.* step ", str(failed))
    assert [records.exists(c) for c in (SEEDS[0], ill, SEEDS[2])] == [True, False, True]
    failures = together([ill, replace(ill, seed=2), SEEDS[3]]).failures
    assert [type(error) for error in failures] == [Diverged] * 2
    assert records.exists(SEEDS[3])
    with pytest.raises(Diverged, match=f"Run {ill.key()} stopped"):
        experiment.run(ill)


def test_a_deadline_ends_a_run_between_epochs_but_never_a_finished_one(records_folder):
    (late,) = together([replace(CFG, epochs=3)], deadline=time.monotonic() - 1).failures
    assert isinstance(late, OutOfTime)
    assert "after epoch 1 of 3: its time is up; it goes on from the" in str(late)
    assert not list(records_folder.glob("*.json"))
    finished = replace(CFG, epochs=1)
    together([finished], deadline=time.monotonic() - 1)
    assert records.exists(finished)


def test_a_kill_in_the_middle_of_a_group_keeps_what_was_finished(records_folder, monkeypatch):
    plain, done = records.write, []

    def killed(of_run, where=None):
        if done:
            raise KeyboardInterrupt
        plain(of_run, where)
        done.append(of_run.config)

    with monkeypatch.context() as m:
        m.setattr(records, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            together(SEEDS[:3])
    assert [records.exists(c) for c in SEEDS[:3]] == [True, False, False]
    stamp = (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns
    together(SEEDS[:3])
    assert all(map(records.exists, SEEDS[:3]))
    assert (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns == stamp


def test_a_run_too_large_for_the_gpu_is_one_sentence(records_folder, monkeypatch):
    def full(runs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(experiment, "fit", full)
    (failed,) = together([CFG]).failures
    assert str(failed).startswith(f"Run {CFG.key()} stopped: it does not fit")
    assert failed.__context__ is None  # whose traceback would keep the memory
    assert together(SEEDS[:2]) == Outcome(full=True)
    monkeypatch.setattr(experiment, "fit", fit)
    assert not together(SEEDS[:2]).failures
    assert all(map(records.exists, SEEDS[:2]))


def test_data_that_cannot_be_loaded_are_told_of_once(records_folder, monkeypatch):
    def missing(*_):
        raise KdlibError("no data")

    monkeypatch.setattr(experiment, "load", missing)
    assert [str(error) for error in together(SEEDS[:3]).failures] == ["no data"]


def test_a_run_whose_data_do_not_fit_into_the_gpu_is_one_sentence(records_folder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(experiment, "load", full)
    with pytest.raises(KdlibError, match=f"^Run {CFG.key()} stopped: it does not fit"):
        experiment.run(CFG)


def test_processes_do_what_is_missing_and_fits_and_a_failure_stops_nothing_else(records_folder):
    """A teacher near chance is the failure; what does not fit is not begun."""
    wrong = replace(KD, lr=0.0, epochs=1)
    long = replace(CFG, imbalance=1.0, batch_size=8, epochs=10_000)
    assert sweep.sweep(SEEDS[:1], budget=0) == [] and not records.exists(SEEDS[0])
    experiment.run(SEEDS[0])
    stamp = (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns
    with pytest.raises(TeacherError, match="near chance"):
        sweep.sweep([wrong, long, *SEEDS[:3]], jobs=2, budget=300.0)
    assert [records.exists(c) for c in (wrong, long, *SEEDS[:3])] == [False] * 2 + [True] * 3
    assert (records_folder / f"{SEEDS[0].key()}.json").stat().st_mtime_ns == stamp
    assert [r.config for r in sweep.sweep(SEEDS[:3])] == SEEDS[:3]
    left = [p.name for p in records_folder.iterdir() if p.suffix == ".kept" or ".tmp" in p.name]
    assert left == []


# ---------------------------------------------------------------- real runs, with others at work


@pytest.fixture(params=["in lockstep", "in processes"])
def jobs(request, records_folder, monkeypatch):
    """Runs at a time, in each of the two ways of working."""
    monkeypatch.setattr(sweep, "_needs_processes", lambda device: request.param == "in processes")
    return 2


@contextlib.contextmanager
def claimed(cfg, then=None):
    """Another process, as it seems, holds a run until another is on record, and does `then`."""
    with contextlib.ExitStack() as held:
        held.enter_context(claim(cfg.key(), records.folder()))

        def release():
            while not records.exists(SEEDS[1]) and not over.wait(0.05):
                pass
            if then:
                then()
            held.close()

        over = threading.Event()
        thread = threading.Thread(target=release)
        thread.start()
        try:
            yield over
        finally:
            over.set()
            thread.join()


def begun(cfg):
    """How often the first epoch of a run ended."""
    return (records.folder() / "runs.log").read_text().count(f"{cfg.key()} epoch 1/")


def test_a_run_that_is_done_elsewhere_is_awaited_and_not_done_again(jobs, capsys):
    def done():
        records.write(record(SEEDS[0], "one_hot", 0, 0.5, margin=[0.5] * 10))

    with claimed(SEEDS[0], done):
        found = sweep.sweep(SEEDS[:2], device="cpu", jobs=jobs)
    assert [r.config for r in found] == SEEDS[:2]
    assert begun(SEEDS[0]) == 0 and begun(SEEDS[1]) == 1
    # on a busy machine it may be done before anybody waits
    assert capsys.readouterr().out.count("waiting for 1 run being done by other processes") <= 1


def test_a_run_that_fails_elsewhere_is_tried_here_once_and_says_why(jobs):
    ill = replace(SEEDS[0], lr=100.0, weight_decay=10.0)
    with claimed(ill), pytest.raises(Diverged, match=f"Run {ill.key()} stopped.* step "):
        sweep.sweep([ill, *SEEDS[1:3]], device="cpu", jobs=jobs)
    assert [records.exists(cfg) for cfg in (ill, *SEEDS[1:3])] == [False, True, True]


def test_nobody_is_awaited_longer_than_there_is_time(records_folder, monkeypatch):
    monkeypatch.setattr(sweep, "_needs_processes", lambda device: False)
    with claim(SEEDS[0].key(), records.folder()):
        start = time.monotonic()
        found = sweep.sweep(SEEDS[:2], device="cpu", jobs=2, budget=5.0)
        took = time.monotonic() - start
    assert [r.config for r in found] == SEEDS[1:2] and 4.9 < took < 10


def test_without_waiting_what_is_claimed_is_left_alone_and_named(records_folder):
    ill = replace(SEEDS[2], lr=100.0, weight_decay=10.0)
    with claim(SEEDS[0].key(), records.folder()):
        assert together(SEEDS[:2], wait=False).elsewhere == SEEDS[:1]
        assert together(SEEDS[:1], wait=False).elsewhere == SEEDS[:1]
        failing = together([SEEDS[0], ill], wait=False)
    assert failing.elsewhere == SEEDS[:1]
    assert [type(error) for error in failing.failures] == [Diverged]
    assert not records.exists(SEEDS[0]) and records.exists(SEEDS[1])
    assert together(SEEDS[:1], wait=False).elsewhere == [] and records.exists(SEEDS[0])
