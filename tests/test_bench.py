"""The benchmark is fair: both sides train the same thing, and what is shown is computed from what
was measured."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from bench import cost, cpu, gpu, inputs, peer, precision, profile, replicate, show
from bench.peer import Traits
from kdlib.config import MODELS, Config, KdlibError
from kdlib.data import Split, crop_and_flip, normalise, padded, schedule
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.step import Run
from kdlib.study.datasets import load
from kdlib.study.grids import STUDIES
from kdlib.teacher import Table, frozen, planned
from kdlib.train import fit, predict

ROOT = Path(__file__).parents[1]
NAMES = [f.name for f in fields(Traits)]
CFG = inputs.config("resnet8", "resnet14", batch_size=16, lr=0.2)  # large steps: what differs shows
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def augmented():
    return inputs.images(40, 24, random=True)[0]  # the last batch is short


@pytest.fixture(scope="module")
def plain(augmented):
    """Without crops and flips both sides see the same pictures."""
    return replace(augmented, pad=0)


@pytest.fixture(scope="module")
def teacher(augmented):
    return inputs.teacher_network("resnet14", augmented)


def by_peer(data, traits, cfg=CFG, **more):
    model = build(cfg.student, data.classes, cfg.seed)
    accuracies = peer.train(model, data, cfg, traits, **more)
    return model.state_dict(), accuracies


def by_engine(data, cfg=CFG, teacher=None):
    model = build(cfg.student, data.classes, cfg.seed)
    fit([Run(cfg, model, method_loss(cfg), data, teacher)])
    right = predict(model, data.test.x, data).argmax(1) == data.test.y
    return model.state_dict(), [100 * right.double().mean().item()]


def assert_same(one, other):
    (weights, accuracies), (expected, expected_accuracies) = one, other
    for name, value in expected.items():
        assert torch.allclose(weights[name], value, atol=1e-4, rtol=1e-4), name
    assert accuracies == pytest.approx(expected_accuracies)


# ---------------------------------------------------------------- the same training


def test_usual_loop_and_engine_train_the_same_network(plain, teacher):
    before = build("resnet8", plain.classes, CFG.seed).state_dict()
    ours = by_engine(plain, teacher=frozen(teacher))
    assert not torch.allclose(
        ours[0]["linear.weight"], before["linear.weight"], atol=0.02
    )  # it did train
    assert_same(by_peer(plain, Traits(), teacher=teacher), ours)


def test_also_on_labels_alone(plain):
    cfg = inputs.config("resnet8", batch_size=16)
    assert_same(by_peer(plain, Traits(), cfg), by_engine(plain, cfg))


@pytest.mark.parametrize("name", NAMES)
def test_a_switch_changes_cost_not_result(plain, teacher, name):
    base = Traits(loader=name != "teacher_each_step")  # a table needs to know the views
    more = {"teacher": teacher, "table": Table.fill(teacher, plain)}
    assert_same(
        by_peer(plain, replace(base, **{name: False}), **more), by_peer(plain, base, **more)
    )


@pytest.mark.parametrize("given_up", range(1, len(NAMES) + 1))
def test_every_rung_of_the_ladder_trains_what_the_engine_trains(augmented, teacher, given_up):
    traits = Traits(
        **dict.fromkeys(NAMES[:given_up], False)
    )  # without the loader both sides draw the same views
    codes = planned(CFG.seed, CFG.epochs, len(augmented.train), augmented.views)
    more = {
        "teacher": teacher if traits.teacher_each_step else None,
        "table": Table.fill(teacher, augmented, codes),
    }
    assert_same(by_peer(augmented, traits, **more), by_engine(augmented, teacher=frozen(teacher)))


def test_a_table_is_refused_where_the_views_are_unknown(augmented):
    with pytest.raises(ValueError, match="needs to know the views"):
        by_peer(augmented, Traits(teacher_each_step=False), table=lambda images, index, view: None)


def test_the_teacher_is_asked_at_every_step_unfolded_and_stays_as_it_is(plain, teacher):
    before, seen = copy.deepcopy(teacher.state_dict()), []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: (
            seen.append(len(out))
            if isinstance(module, torch.nn.BatchNorm2d) and not module.training
            else None
        )
    )
    try:
        by_peer(replace(plain, test=plain.train), Traits(small_evaluation=False), teacher=teacher)
    finally:
        handle.remove()
    norms = {
        net: sum(isinstance(m, torch.nn.BatchNorm2d) for m in build(net, 100, 0).modules())
        for net in ("resnet8", "resnet14")
    }
    steps = 3 * norms["resnet14"]
    assert (
        len(seen) == steps + norms["resnet8"]
        and seen[:steps] == [16] * (2 * norms["resnet14"]) + [8] * norms["resnet14"]
    )
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


# ---------------------------------------------------------------- the habits are what they say


def test_the_loader_shows_random_views_of_the_right_images_in_order(augmented):
    order, _ = schedule(CFG.seed, 0, 40, augmented.views)
    dataset = peer.pictures(augmented.train, augmented, augment=True)
    torch.manual_seed(0)
    batches = list(peer.training_batches(augmented, CFG, 0, Traits(), 0, dataset, None, CPU))
    assert [len(y) for _, y, _, _ in batches] == [16, 16, 8]
    assert torch.equal(torch.cat([index for _, _, index, _ in batches]), order)
    assert torch.equal(torch.cat([y for _, y, _, _ in batches]), augmented.train.y[order])
    x, view = padded(augmented.train.x, 4), torch.arange(162)
    shown = []
    for image, index in zip(batches[0][0], batches[0][2], strict=True):
        views = normalise(crop_and_flip(x, index.expand(162), view, 4), augmented)
        (matching,) = ((views - image).abs().amax(dim=(1, 2, 3)) < 1e-5).nonzero()
        shown.append(int(matching))
    assert len(set(shown)) > 10  # drawn anew for each image


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_are_forked_for_an_epoch_and_gone_after_it(plain, workers):
    dataset = peer.pictures(plain.test, plain, augment=False)
    loader = peer.loader(dataset, 8, workers, CPU)
    assert not loader.persistent_workers
    batches = iter(loader)
    assert len(getattr(batches, "_workers", [])) == workers
    assert torch.allclose(
        torch.cat([x for x, _, _ in batches]), normalise(plain.test.x, plain), atol=1e-6
    )
    del batches
    assert not torch.multiprocessing.active_children()


def test_staged_networks_return_the_features_of_every_stage(plain, teacher):
    x = normalise(plain.test.x, plain)
    *features, logits = peer.Staged(teacher)(x)
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 32, 32),
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (64,),
    ]
    assert torch.allclose(logits, teacher(x), atol=1e-5)


def test_meters_hold_the_accuracies_of_scikit_learn():
    logits, y = (
        torch.randn(50, 10, generator=torch.Generator().manual_seed(0)),
        torch.arange(50) % 10,
    )
    meter = peer.Meter()
    for part in (slice(0, 32), slice(32, 50)):
        meter.update(peer.top_k(logits[part], y[part])[1], len(y[part]))
    assert meter.mean() == pytest.approx(100 * top_k_accuracy_score(y, logits, k=5))
    assert peer.top_k(logits, y)[0] == pytest.approx(100 * top_k_accuracy_score(y, logits, k=1))


def test_the_usual_loop_runs_alone(capsys):
    peer.main(
        [
            "--teacher=resnet14",
            "--epochs=2",
            "--workers=0",
            "--device=cpu",
            "--train=24",
            "--test=16",
            "--random",
            "--without",
            "meters",
            "nchw",
        ]
    )
    said = json.loads(capsys.readouterr().out)
    assert (
        len(said["seconds"]) == len(said["accuracy"]) == 2
        and said["n"] == 24
        and said["images"] == inputs.RANDOM
    )


# ---------------------------------------------------------------- what goes in


def test_random_images_stand_in_for_missing_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    data, what = inputs.images()
    assert (
        what == inputs.RANDOM
        and tuple(data.train.x.shape) == (10_847, 32, 32, 3)
        and len(data.test) == 5000
    )


def test_real_images_are_some_of_the_long_tailed_draw(data_root, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(data_root))
    everything, what = inputs.images()
    some, _ = inputs.images(64, 32)
    assert what == inputs.REAL and len(everything.train) == 10_847
    pixels = {x.numpy().tobytes() for x in everything.train.x}
    assert len(some.train) == 64 and all(x.numpy().tobytes() in pixels for x in some.train.x)
    assert len(some.train.y.unique()) > 20  # not the first classes only


def test_the_teacher_of_the_benchmark_has_logits_of_ordinary_size(augmented):
    logits = predict(inputs.teacher_network("resnet56", augmented), augmented.train.x, augmented)
    assert 0.1 < logits.std() < 10


# ---------------------------------------------------------------- what is measured and shown


def test_sides_take_turns():
    calls = []
    seconds = cpu.alternate(
        {"a": lambda: calls.append("a") or 1, "b": lambda: calls.append("b") or 2}, 3
    )
    assert calls == list("ababab") and seconds == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_the_best_number_of_workers_is_chosen_after_a_warm_up():
    calls = []

    def seconds(workers):
        calls.append(workers)
        return {0: 0.1 if len(calls) == 1 else 3.0, 1: 2.0, 2: 2.5}[workers]

    assert cpu.best_workers(seconds) == (1, {0: 3.0, 1: 2.0, 2: 2.5})
    assert calls == [0, 0, 1, 2]


def made(peer_seconds, ours):
    return {
        "seconds": {
            "peer": peer_seconds,
            "ours": ours,
            "cached": ours,
            "live": [2 * s for s in ours],
            "fill": [3.0, 5.0, 4.0],
        }
    }


def test_ratios_are_taken_within_a_round():
    results = {"C1": made([6.0, 8.0, 9.0], [1.0, 2.0, 3.0])}
    cached, live = show.ROWS[:2]
    assert show.ratios(results, cached) == [6, 4, 3] and show.ratios(results, live) == [3, 2, 1.5]
    assert show.spread(show.ratios(results, cached)) == "4.00 (3.00–6.00)"
    assert show.pays_after(results) == 4 / (4 - 2)
    rates = {
        "ours": [8.0, 9.0, 8.0],
        "peer, 1 process": [2.0, 3.0, 9.0],
        "peer, 2 processes": [4.0, 4.0, 2.0],
    }
    assert show.best_peer(rates) == "peer, 2 processes"
    assert show.aggregate_ratios({"aggregate": rates}) == [2, 2.25, 4]


@pytest.mark.parametrize(
    "value, said", [(1.49, "not met"), (1.5, "met"), (1.89, "met"), (1.9, "met, and the aim")]
)
def test_a_target_is_met_or_not(value, said):
    assert show.verdict(value, 1.5, 1.9) == said


def test_targets_are_those_of_the_specification():
    assert {row.id: (row.must, row.aim) for row in show.ROWS} == {
        "C1 cached": (3, 4),
        "C1 live": (1.6, 2),
        "C2 R8": (1.7, 2.2),
        "C2 R20": (1.5, 1.9),
        "C3": (10, 20),
    }


def test_profile_tells_the_parts_of_a_step_apart(augmented):
    shares = profile.shares(augmented, 16, "resnet8", "resnet14")
    assert list(shares) == ["labels only", "live teacher"]
    for share in shares.values():
        assert sum(share.values()) == pytest.approx(1) and all(
            v > 0 for part, v in share.items() if part != "teacher"
        )
    assert shares["labels only"]["teacher"] == 0 and shares["live teacher"]["teacher"] > 0.1


def test_the_committed_table_is_the_measured_one():
    results, readme = (
        json.loads((ROOT / "bench/results/cpu.json").read_text()),
        (ROOT / "bench/README.md").read_text(),
    )
    assert show.filled(readme, results) == readme
    assert (
        results["images"] == inputs.REAL
        and results["size"]["rounds"] >= 3
        and results["seconds"] < 600
    )
    assert (ROOT / "bench/results/cpu.svg").exists() and "results/cpu.svg" in readme
    for row in show.ROWS:  # by hand, from the JSON
        seconds = results[row.part]["seconds"]
        middle = sorted(a / b for a, b in zip(seconds["peer"], seconds[row.ours], strict=True))[
            len(seconds["peer"]) // 2
        ]
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {row.id} |")]
        assert f"**{middle:.2f}**" in line and f"| {row.must:g} | {row.aim:g} | " in line
        assert ("not met" in line) == (middle < row.must)


def test_the_figure_shows_what_was_measured():
    results = json.loads((ROOT / "bench/results/cpu.json").read_text())
    left, right = show.figure(results).axes
    marks = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert marks == pytest.approx([show.median(show.ratios(results, row)) for row in show.ROWS])
    assert [bar.get_width() for bar in right.patches] == pytest.approx(
        [s for _, s in show.ladder(results)]
    )


def test_quick_runs_end_to_end_and_leaves_the_results_alone(tmp_path):
    committed = [ROOT / "bench/README.md", *sorted((ROOT / "bench/results").iterdir())]
    before = [file.read_bytes() for file in committed]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "cpu", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "cpu.json").read_text())
    assert results["images"] == inputs.RANDOM and "these numbers mean nothing" in done.stdout
    assert (
        all(f"| {row.id} |" in done.stdout for row in show.ROWS) and (tmp_path / "cpu.svg").exists()
    )
    assert list(results["C1"]["ladder"])[1:-1] == list(cpu.RUNGS) and len(cpu.RUNGS) == len(NAMES)
    assert [file.read_bytes() for file in committed] == before


# ---------------------------------------------------------------- the GPU part, rehearsed; and bf16


def test_checks_that_are_done_are_written_before_one_that_hangs(tmp_path, monkeypatch):
    def hangs(device):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "TEACHER", "resnet8")
    monkeypatch.setattr(gpu.checks, "CHECKS", (gpu.checks.views_are_torchvisions, hangs))
    with pytest.raises(KeyboardInterrupt):
        gpu.main(
            [
                "E",
                "--device",
                "cpu",
                "--random",
                "--train",
                "8",
                "--test",
                "8",
                "--out",
                str(tmp_path / "gpu.json"),
            ]
        )
    assert json.loads((tmp_path / "gpu.json").read_text())["E"]["views_are_torchvisions"]["passed"]


def test_the_gpu_part_is_rehearsed_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TEACHER", "resnet8")
    monkeypatch.setattr(gpu, "STUDENT", "resnet8")
    out, size = (
        tmp_path / "new" / "gpu.json",
        ["--device", "cpu", "--random", "--train", "40", "--test", "16", "--rounds", "1"],
    )
    assert gpu.main(["G5", "G4", "G1", "memory", *size, "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert (
        results["images"] == inputs.RANDOM
        and results["n"] == 40
        and results["G4"]["views"] == 40 * 162
    )
    g1 = results["G1"]
    assert g1["ratio"]["median"] == pytest.approx(g1["ours"]["median"] / g1["peer"]["median"])
    assert 0 < results["G5"]["seconds"] < 120


def test_a_section_that_fails_or_comes_too_late_is_said_and_the_others_go_on(tmp_path, monkeypatch):
    def broken(bench):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "TEACHER", "resnet8")
    monkeypatch.setattr(
        gpu, "SECTIONS", {"E": (broken, 0), "G3": (broken, 10**6), "memory": (gpu.memory, 0)}
    )
    out = tmp_path / "gpu.json"
    assert (
        gpu.main(
            [*["--device", "cpu", "--random", "--train", "40", "--test", "16", "--out"], str(out)]
        )
        == 1
    )
    results = json.loads(out.read_text())
    assert (
        results["E"]["failed"] == "RuntimeError: no such kernel"
        and "needed" in results["G3"]["skipped"]
    )
    assert "failed" not in results["memory"]
    with pytest.raises(SystemExit):
        gpu.main(["G9", "--device", "cpu"])


def test_equivalence_is_two_one_sided_tests():
    from scipy import stats

    d = np.array([0.1, -0.2, 0.3, 0.05, 0.0])
    mean, low, high, equivalent = precision.compare(d, 0.3)
    interval = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    assert (mean, low, high) == pytest.approx(
        (d.mean(), interval.low, interval.high)
    ) and equivalent
    for bound in (0.1, 0.15, 0.2, 0.25):
        p = max(
            stats.ttest_1samp(d, -bound, alternative="greater").pvalue,
            stats.ttest_1samp(d, bound, alternative="less").pvalue,
        )
        assert precision.compare(d, bound)[3] == (p < 0.05)


@pytest.mark.parametrize("lost, code", [(0.0, 0), (0.3, 1)])
def test_bf16_passes_only_if_no_bucket_loses(monkeypatch, capsys, lost, code):
    def sweep(configs, *more):
        return [
            synthetic.record(
                c,
                c.method,
                c.seed,
                synthetic.but(0.7, few=0.7 - lost * (c.precision == "bf16")),
                margin=[0.5] * 10,
            )
            for c in configs
        ]

    monkeypatch.setattr(precision, "sweep", sweep)
    assert precision.main(["digits", "--seeds", "3"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "kd many" in line or "kd medium" in line] == [
        "PASS",
        "PASS",
    ]
    few = next(line for line in lines if "kd few" in line)
    assert few.startswith("PASS kd few: +0.00" if code == 0 else "FAIL kd few: -30.00")


# ---------------------------------------------------------------- a pair again, by the usual loop

REPLICATED = replace(
    STUDIES["cifar20-lt"],
    bucket_edges=(1, 1),
    distilled={"temperature": 2.0},
    shared={
        "dataset": "cifar20",
        "imbalance": 20.0,
        "epochs": 6,
        "batch_size": 16,
        "lr": 0.05,
        "decay": "step",
    },
)


def test_a_replicated_gain_is_the_engines_where_both_see_the_same_pictures(plain, monkeypatch):
    monkeypatch.setattr(replicate, "study", lambda name: REPLICATED)
    plain = replace(plain, test=plain.train)  # so that the networks know more than chance
    monkeypatch.setattr(replicate.datasets, "load", lambda cfg, folder: plain)
    found = replicate.gains("any", ("resnet8", "resnet8"), 0)
    kd, test = (
        REPLICATED.config(("resnet8", "resnet8"), "kd", 0),
        {part: getattr(plain, part) for part in ("test", "left_out")},
    )
    y = np.concatenate([split.y for split in test.values()])

    def trained(cfg, teacher=None):
        model = build(cfg.student, plain.classes, cfg.seed)
        fit([Run(cfg, model, method_loss(cfg), plain, teacher)])
        return model

    predicted = [
        torch.cat([predict(model, split.x, plain).argmax(dim=1) for split in test.values()]).numpy()
        for model in (
            trained(kd, frozen(trained(kd.teacher_config()))),
            trained(kd.baseline_config()),
        )
    ]
    after, before = (100 * balanced_accuracy_score(y, p) for p in predicted)
    assert found[0] == pytest.approx(after - before) and not np.array_equal(*predicted)


def test_accuracies_of_a_replication_are_scikit_learns_by_bucket():
    rng = np.random.default_rng(0)
    y, bucket = (
        rng.permutation(np.repeat(np.arange(6), [9, 8, 7, 6, 5, 4])),
        np.array([0, 0, 1, 1, 2, 2]),
    )
    predicted = np.where(rng.random(len(y)) < 0.6, y, 0)
    group = np.array([4, 2, 0, 5, 3, 1])  # of each class
    split = Split(torch.zeros(len(y)), torch.from_numpy(y), torch.from_numpy(group[y]))
    expected, of = [balanced_accuracy_score(y, predicted)], bucket[group[y]]
    with pytest.warns(UserWarning):  # some predicted classes are not in a bucket
        expected += [balanced_accuracy_score(y[of == k], predicted[of == k]) for k in range(3)]
    assert replicate.accuracies(torch.from_numpy(predicted), split, bucket) == pytest.approx(
        100 * np.array(expected)
    )


def test_a_replication_stands_beside_the_records(tmp_path, monkeypatch, capsys):
    from scipy import stats

    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))
    study = replace(synthetic.TINY, demonstration=False)
    monkeypatch.setitem(STUDIES, "tiny", study)
    synthetic.write_study(
        study, one_hot=synthetic.but(0.6, few=0.5), kd=synthetic.but(0.8, few=0.2)
    )
    found = {
        0: [10.0, 20.0, 20.0, -30.0],
        1: [11.0, 22.0, 20.0, -30.0],
        2: [15.0, 24.0, 20.0, -27.0],
    }

    monkeypatch.setattr(replicate, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(replicate, "gains", lambda name, pair, seed, folder: np.array(found[seed]))
    assert replicate.main(["tiny", "--seeds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    low, high = stats.ttest_1samp([10.0, 11.0, 15.0], 0).confidence_interval(0.95)
    assert (
        f"average: usual loop +12.0 ({low:+.1f} to {high:+.1f}), records +10.0 (+10.0 to +10.0), difference +2.0"
        in lines[1]
    )
    assert (
        "few: usual loop -29.0" in lines[-1]
        and "records -30.0 (-30.0 to -30.0), difference +1.0" in lines[-1]
    )
    monkeypatch.setitem(
        STUDIES, "empty", replace(study, name="empty", shared={**study.shared, "lr": 0.01})
    )
    for wrong, said in (
        (["empty"], "study empty has no complete seed on record"),
        (["tiny", "--pair", "a/b"], "allowed: cnn/cnn_small"),
        (["tiny", "--seeds", "1"], "from 2 to 4"),
        (["digits"], "no images that torchvision crops"),
        (["cifar100"], "no buckets by frequency"),
    ):
        with pytest.raises(KdlibError, match=said):
            replicate.main(wrong)


# ---------------------------------------------------------------- what studies cost


@pytest.mark.parametrize(
    "fields, images",
    [  # published counts; see protocol
        ({"dataset": "cifar100", "imbalance": 100}, 10_847),
        ({"dataset": "cifar100", "imbalance": 50}, 12_608),
        ({"dataset": "cifar100", "imbalance": 100, "profile": "step"}, 25_250),
        ({"dataset": "cifar100"}, 50_000),
        ({"dataset": "cifar10", "imbalance": 100}, 12_406),
        ({"dataset": "cifar20", "imbalance": 20}, 2615),
    ],
)
def test_images_of_an_epoch_are_the_published_counts(fields, images):
    assert cost.images_an_epoch(Config(student="resnet8", **fields)) == images


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "digits", "imbalance": 50},
        {"dataset": "digits"},
        {"dataset": "cifar20", "imbalance": 20, "fold": 1},
        {"dataset": "cifar100", "imbalance": 100, "fold": 0},
        {"dataset": "superclass", "imbalance": 100},
        {"dataset": "superclass", "imbalance": 50, "fold": 0},
    ],
    ids=str,
)
def test_images_of_an_epoch_are_those_that_are_loaded(data_root, fields):
    cfg = Config(student="resnet8", **fields)
    assert cost.images_an_epoch(cfg) == len(
        load(cfg, None if cfg.dataset == "digits" else data_root).train
    )


@pytest.mark.parametrize("network", [name for name in MODELS if name.startswith("resnet")])
def test_multiplications_are_those_of_the_network(network):
    counted = []

    def count(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            counted.append(module.weight.numel() * output[0, 0].numel())
        elif isinstance(module, torch.nn.Linear):
            counted.append(module.weight.numel())

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        build(network, 100, 0).eval()(torch.zeros(1, 3, 32, 32))
    finally:
        handle.remove()
    assert cost.multiplications(network) == sum(counted)


def test_a_run_and_a_table_are_counted_where_they_come_first():
    """One seed, two pairs, with n images: four runs of each student but for shared ones, a teacher
    and a table for each pair."""
    first = replace(
        STUDIES["cifar100"], name="first", seeds=1, shared={"dataset": "cifar100", "epochs": 10}
    )
    second = replace(
        first,
        name="second",
        pairs=first.pairs[:1],
        methods={**first.methods, "half": {"method": "kd", "alpha": 0.5}},
    )
    longer = replace(
        first,
        name="longer",
        pairs=first.pairs[:1],
        methods={"one_hot": {}},
        shared={**first.shared, "epochs": 20},
    )
    with pytest.MonkeyPatch.context() as patch:
        for study in (first, second, longer):
            patch.setitem(cost.STUDIES, study.name, study)
        found = cost.works(["first", "second", "longer"])
    assert [(w.runs, w.new) for w in found.values()] == [(9, 9), (6, 1), (1, 1)]
    assert found["first"].trained == {"resnet20": 4 * 500_000, "resnet56": 5 * 500_000}
    assert found["first"].gpu_tables == {"resnet56": 50_000 * 162}
    shown = 50_000 * 162 * (1 - (161 / 162) ** 10)
    assert found["first"].cpu_tables == {"resnet56": pytest.approx(shown, abs=1)}
    assert (
        found["second"].trained == {"resnet20": 500_000}
        and not found["second"].cpu_tables + found["second"].gpu_tables
    )
    assert found["longer"].trained == {"resnet20": 1_000_000}


def test_time_is_images_over_measured_or_scaled_rates():
    work = cost.Work(
        trained=cost.Counter(resnet20=1000),
        cpu_tables=cost.Counter(resnet56=600),
        gpu_tables=cost.Counter(resnet56=1),
    )
    machine = cost.Machine(
        "any", {"resnet20": 100.0, "resnet56": 30.0}, {"resnet56": 200.0}, "cpu_tables"
    )
    assert machine.seconds(work) == 10 + 3
    work.trained["resnet32"] = 500  # nearer to resnet20 than to resnet56
    slower = cost.multiplications("resnet32") / cost.multiplications("resnet20")
    assert machine.seconds(work) == pytest.approx(13 + 5 * slower) and 1.6 < slower < 1.8
    work.trained["cnn"] = 1
    assert machine.seconds(work) is None
    assert [cost.duration(s) for s in (90, 3599, 3600, 172_000, 200_000)] == [
        "2 min",
        "60 min",
        "1.0 h",
        "47.8 h",
        "2 days",
    ]


def test_rates_are_read_from_what_was_measured(tmp_path):
    size = {"train": 1024, "epochs": 2, "students": ["resnet8", "resnet20"], "teacher": "resnet56"}
    cpu_json = {
        "size": size,
        "machine": {"processor": "P", "cores": 2},
        "C1": {"pairs": 2000, "seconds": {"fill": [4.0, 9.0, 2.0]}},
        "C2 small": {"seconds": {"ours": [2.0, 1.0, 4.0]}},
        "C2 large": {"seconds": {"ours": [8.0]}},
    }
    rates = {"resnet20": {"1": 2.0, "8": 7.0}, "resnet56": {"1": 1.0, "8": 5.0}}
    gpu_json = {
        "device": "G",
        "pace": {"images/s": rates},
        "G4": {"views": 100, "seconds": [4.0, 2.0]},
    }
    (tmp_path / "cpu.json").write_text(json.dumps(cpu_json))
    assert cost.machines(tmp_path)["GPU"] is None and "\nGPU: not measured." in cost.table(
        cost.machines(tmp_path)
    )
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_json))
    found = cost.machines(tmp_path)
    assert found["CPU"] == cost.Machine(
        "P, 2 cores", {"resnet8": 1024, "resnet20": 256}, {"resnet56": 500}, "cpu_tables"
    )
    assert found["GPU"] == cost.Machine(
        "G", {"resnet20": 7, "resnet56": 5}, {"resnet56": 50}, "gpu_tables"
    )
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_json | {"G4": {"skipped": "x"}}))
    assert cost.machines(tmp_path)["GPU"].forward == {"resnet20": 21, "resnet56": 15}
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_json | {"pace": {"failed": "x"}}))
    assert cost.machines(tmp_path)["GPU"] is None


def test_the_cost_on_its_page_is_computed_from_the_studies():
    """After a change of a study or of the rates: python -m bench cost --write."""
    page = (ROOT / "bench/COST.md").read_text()
    assert cost.filled(page) == page
    rows = [
        line.split("`")[1]
        for line in page.split("<!-- cost:start -->")[1].splitlines()
        if line.startswith("| `")
    ]
    assert sorted(rows) == sorted(STUDIES) and tuple(rows[: len(cost.ORDER)]) == cost.ORDER


# ---------------------------------------------------------------- the audit


def test_the_audit_is_measured_end_to_end_and_a_trial_leaves_the_results_alone(capsys):
    from bench import audit

    before = audit.RESULTS.read_bytes(), (ROOT / "bench" / "README.md").read_bytes()
    audit.main(["--quick"])
    assert before == (audit.RESULTS.read_bytes(), (ROOT / "bench" / "README.md").read_bytes())
    assert "2,000 examples, 20 classes" in capsys.readouterr().out


def test_the_committed_table_of_the_audit_is_the_measured_one():
    from bench import audit

    page, results = (
        (ROOT / "bench" / "README.md").read_text(),
        json.loads(audit.RESULTS.read_text()),
    )
    assert audit.filled(page, results) == page and results["sizes"] == audit.SIZES
    assert f"{results['ours']['all']:.1f} s | 60 s" in page
