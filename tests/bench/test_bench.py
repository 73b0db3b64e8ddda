"""The benchmark is fair: both sides train the same thing, and what is shown is computed from what
was measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from bench import checks, cost, cpu, inputs, peer
from bench.__main__ import main
from kdlib.config import Config
from kdlib.data import crop_and_flip, normalise, padded, schedule
from kdlib.models import build
from kdlib.study.datasets import load
from kdlib.study.grids import STUDIES
from kdlib.teacher import frozen
from kdlib.train import predict

ROOT = Path(__file__).parents[2]
CFG = inputs.config("resnet8", "resnet14", batch_size=16, lr=0.2)  # large steps: what differs shows


@pytest.fixture(scope="module")
def augmented():
    return inputs.images(40, 24)  # the last batch is short


@pytest.fixture(scope="module")
def plain(augmented):
    """Without crops and flips both sides see the same pictures."""
    return replace(augmented, pad=0)


@pytest.fixture(scope="module")
def teacher(augmented):
    return inputs.teacher("resnet14", augmented)


# ---------------------------------------------------------------- the same training


@pytest.mark.parametrize("teaching", ["none", "live", "table"])
def test_usual_loop_and_engine_train_the_same_network(plain, teacher, teaching):
    cfg = inputs.config("resnet8", batch_size=16) if teaching == "none" else CFG
    ask = {"none": None, "live": frozen(teacher), "table": inputs.table(teacher, plain)}[teaching]
    (ours,), ends = inputs.engine(plain, [cfg], ask)
    theirs, accuracies = peer.train(plain, cfg, teacher if ask else None)
    before = build("resnet8", plain.classes, cfg.seed).linear.weight
    assert not torch.allclose(ours.linear.weight, before, atol=0.01)  # it did train
    for name, value in ours.state_dict().items():
        close = (
            {"atol": 1e-2, "rtol": 1e-2} if teaching == "table" else {"atol": 1e-4, "rtol": 1e-4}
        )
        assert torch.allclose(theirs.state_dict()[name], value, **close), name
    right = predict(ours, plain.test.x, plain).argmax(dim=1) == plain.test.y
    assert accuracies == pytest.approx([100 * right.double().mean().item()]) and len(ends) == 1


def test_the_teacher_is_asked_at_every_step_unfolded_and_stays_as_it_is(plain, teacher):
    before, seen = {name: v.clone() for name, v in teacher.state_dict().items()}, []

    def norm(module, _, out):
        if isinstance(module, torch.nn.BatchNorm2d) and not module.training:
            seen.append(len(out))

    handle = torch.nn.modules.module.register_module_forward_hook(norm)
    try:
        peer.train(plain, CFG, teacher)
    finally:
        handle.remove()
    norms = [
        sum("running_mean" in k for k in build(n, 9, 0).state_dict())
        for n in (CFG.teacher, CFG.student)
    ]
    steps, evaluations = [16, 16, 8], [8, 8, 8]
    assert seen == np.repeat(steps, norms[0]).tolist() + np.repeat(evaluations, norms[1]).tolist()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_loader_shows_random_views_of_the_right_images_in_order(augmented):
    order, _ = schedule(CFG.seed, 0, 40, augmented.views)
    torch.manual_seed(0)
    images, labels = zip(*peer.training_batches(augmented, CFG, 0, 0), strict=True)
    assert [len(y) for y in labels] == [16, 16, 8]
    assert torch.equal(torch.cat(labels), augmented.train.y[order])
    x, view, shown = padded(augmented.train.x, 4), torch.arange(162), []
    for image, index in zip(images[0], order, strict=False):
        views = normalise(crop_and_flip(x, index.expand(162), view, 4), augmented)
        (matching,) = ((views - image).abs().amax(dim=(1, 2, 3)) < 1e-5).nonzero()
        shown.append(int(matching))
    assert len(set(shown)) > 10  # drawn anew for each image
    assert min(shown) < 81 <= max(shown)  # some are flipped


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_are_forked_for_an_epoch_and_gone_after_it(plain, workers):
    batches = iter(peer.loader(plain.test, plain, 8, workers))
    assert len(getattr(batches, "_workers", [])) == workers
    seen = torch.cat([x for x, _ in batches])
    assert torch.allclose(seen, normalise(plain.test.x, plain), atol=1e-6)
    del batches
    assert not torch.multiprocessing.active_children()


def test_meters_hold_what_scikit_learn_says():
    logits, y = (
        torch.randn(50, 10, generator=torch.Generator().manual_seed(0)),
        torch.arange(50) % 10,
    )
    meters = peer.Meters()
    for part in (slice(0, 32), slice(32, 50)):
        loss = torch.nn.functional.cross_entropy(logits[part], y[part])
        meters.update(loss, logits[part], y[part])
    top = [100 * top_k_accuracy_score(y, logits, k=k) for k in (1, 5)]
    probabilities = logits.double().softmax(dim=1)
    assert meters.means() == pytest.approx([log_loss(y, probabilities), *top])


def test_images_are_as_many_as_in_the_long_tail_and_the_teacher_has_ordinary_logits():
    long_tail = Config(dataset="cifar100", student="resnet8", imbalance=100)
    assert len(inputs.images().train) == cost.images_an_epoch(long_tail) == 10_847
    some = inputs.images(64, 8)
    assert 0.1 < predict(inputs.teacher("resnet56", some), some.train.x, some).std() < 10


# ---------------------------------------------------------------- what is measured and shown


class Here:
    """A pool whose process is this one."""

    def submit(self, function, *arguments):
        self.result = lambda: function(*arguments)
        return self


def test_sides_take_turns_after_a_warm_up_and_the_loader_has_its_best_number_of_workers(
    monkeypatch,
):
    calls, took = [], {"w0": 3.0, "w1": 2.0, "w2": 2.5, "a": 1.0, "b": 4.0}

    def call(name, workers=None):
        calls.append(name if workers is None else f"w{workers}")

    def seconds(function, *arguments):
        function(*arguments)
        return took[calls[-1]]

    monkeypatch.setattr(cpu, "seconds", seconds)
    found = cpu.compared(Here(), 2, (call, "usual"), a=(call, "a"), b=(call, "b"))
    assert calls == ["w0", "w0", "w1", "w2", "a", "b", *["w1", "a", "b"] * 2]
    assert found["seconds"] == {"peer": [2, 2], "a": [1, 1], "b": [4, 4]}
    assert found["workers"] == 1 and found["workers_tried"] == {0: 3, 1: 2, 2: 2.5}


@pytest.mark.parametrize(
    "value, said", [(1.49, "not met"), (1.5, "met"), (1.89, "met"), (1.9, "met, and the aim")]
)
def test_a_target_is_met_or_not(value, said):
    assert cpu.verdict(value, 1.5, 1.9) == said


def test_the_committed_table_is_of_what_was_measured():
    results = json.loads(cpu.RESULTS.read_text())
    page = (ROOT / "bench/README.md").read_text()
    assert f"<!-- cpu:start -->\n{cpu.table(results)}<!-- cpu:end -->" in page
    assert results["size"]["rounds"] >= 3 and results["seconds"] < 600
    for name, _, part, side, must, aim in cpu.ROWS:  # by hand, from the JSON
        seconds = results[part]["seconds"]
        ratio = sorted(a / b for a, b in zip(seconds["peer"], seconds[side], strict=True))[1]
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert f"**{ratio:.2f} (" in line and f"| {must:g} | {aim:g} |" in line
        assert ("not met" in line) == (ratio < must)


def test_quick_runs_end_to_end_and_leaves_the_results_alone(capsys, monkeypatch):
    monkeypatch.setattr(cpu, "write", None)
    assert not main(["cpu", "--quick"])
    said = capsys.readouterr().out
    assert "these numbers mean nothing" in said and "An audit with its page: " in said
    assert all(f"| {row[0]} |" in said for row in cpu.ROWS)


def test_a_section_of_a_page_is_written_anew(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- cpu:start -->\nold\n<!-- cpu:end -->\nafter\n")
    inputs.put(page, "cpu", "new\n")
    assert page.read_text() == "before\n<!-- cpu:start -->\nnew\n<!-- cpu:end -->\nafter\n"


def test_unknown_commands_and_wrong_requests_are_answered_in_a_sentence(capsys):
    assert main(["profile"]) == 1 and not main(["--help"])
    assert main(["visit", "pack", "--plan", "nonsense", "--data", str(ROOT)]) == 2
    assert "bench: There are no Parquet files" in capsys.readouterr().err


def test_checks_that_are_done_are_written_before_one_that_hangs(tmp_path, monkeypatch):
    def passes(device):
        return True, "nothing"

    def hangs(device):
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "CHECKS", (passes, hangs))
    with pytest.raises(KeyboardInterrupt):
        checks.measure("cpu", tmp_path / "new" / "speeds.json", quick=True)
    written = json.loads((tmp_path / "new" / "speeds.json").read_text())
    assert written["E"] == {"passes": {"passed": True, "seen": "nothing"}}


# ---------------------------------------------------------------- what studies cost


@pytest.mark.parametrize(
    "fields, images",
    [  # published counts; see protocol
        ({"dataset": "cifar100", "imbalance": 100}, 10_847),
        ({"dataset": "cifar100", "imbalance": 50}, 12_608),
        ({"dataset": "cifar100", "imbalance": 100, "profile": "step"}, 25_250),
        ({"dataset": "cifar10", "imbalance": 100}, 12_406),
    ],
)
def test_images_of_an_epoch_are_the_published_counts(fields, images):
    assert cost.images_an_epoch(Config(student="resnet8", **fields)) == images


@pytest.mark.parametrize("fields", [{}, {"with_val": True}, {"fold": 1}], ids=str)
@pytest.mark.parametrize("dataset", ["digits", "cifar20", "superclass"])
def test_images_of_an_epoch_are_those_that_are_loaded(data_root, dataset, fields):
    student = "cnn" if dataset == "digits" else "resnet8"
    cfg = Config(student=student, dataset=dataset, imbalance=20, **fields)
    exact = 0.05 if "fold" in fields else 0  # folds are dealt out class by class
    loaded = load(cfg, None if dataset == "digits" else data_root).train
    assert cost.images_an_epoch(cfg) == pytest.approx(len(loaded), rel=exact)


def test_a_run_is_counted_where_it_comes_first(monkeypatch):
    """One seed, two pairs, with n images: four runs of each student but for shared ones, and a
    teacher for each pair."""
    recipe = {"dataset": "cifar100", "epochs": 10}
    first = replace(STUDIES["cifar100"], name="first", seeds=1, shared=recipe)
    half = {**first.methods, "half": {"method": "kd", "alpha": 0.5}}
    second = replace(first, name="second", pairs=first.pairs[:1], methods=half)
    longer = {"shared": {**recipe, "epochs": 20}, "methods": {"one_hot": {}}}
    third = replace(first, name="third", pairs=first.pairs[:1], **longer)
    monkeypatch.setattr(cost, "STUDIES", {s.name: s for s in (first, second, third)})
    assert cost.works() == {
        "first": (9, 9, {"resnet20": 4 * 500_000, "resnet56": 5 * 500_000}),
        "second": (6, 1, {"resnet20": 500_000}),
        "third": (1, 1, {"resnet20": 1_000_000}),
    }


def test_time_is_images_over_measured_or_scaled_rates():
    rates, images = {"resnet20": 100.0, "resnet56": 30.0}, {"resnet20": 1000, "resnet56": 60}
    assert cost.seconds(rates, images) == pytest.approx(10 + 2)
    layers = {20: 16**2 * 9 * 32**2 * (6 + 5.5 + 5.5), 32: 16**2 * 9 * 32**2 * (10 + 9.5 + 9.5)}
    slower = layers[32] / layers[20]  # convolutions alone; nearer to resnet20 than to resnet56
    assert cost.seconds(rates, {"resnet32": 500}) == pytest.approx(5 * slower, rel=0.02)
    said = [cost.duration(s) for s in (90, 3599, 3600, 172_000, 200_000)]
    assert said == ["2 min", "60 min", "1.0 h", "47.8 h", "2 days"]


def test_rates_are_read_from_what_was_measured(tmp_path):
    measured = {
        "cpu": {
            "size": {"train": 1024, "epochs": 2, "students": ["resnet8", "resnet20"]},
            "machine": {"device": "P"},
            "C2 small": {"seconds": {"ours": [2.0, 1.0, 4.0]}},
            "C2 large": {"seconds": {"ours": [8.0]}},
        },
        "gpu": {"device": "G", "pace": {"images/s": {"resnet20": {"1": 2.0, "8": 7.0}}}},
    }
    for name, results in measured.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    expected = {"CPU, P": {"resnet8": 1024, "resnet20": 256}, "GPU, G": {"resnet20": 7}}
    assert cost.rates(tmp_path) == expected


def test_the_cost_on_its_page_is_computed_from_the_studies():
    """After a change of a study or of the rates: python -m bench cost --write."""
    table, page = cost.table(cost.rates()), (ROOT / "bench/COST.md").read_text()
    assert f"<!-- cost:start -->\n{table}<!-- cost:end -->" in page
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == list(STUDIES)
