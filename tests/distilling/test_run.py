"""A distillation from a folder of images to its report: what is trained, kept, resumed, told."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from folders import CLASSES
from safetensors.torch import load_file

import kdlib
from kdlib.__main__ import main
from kdlib.asking.networks import named
from kdlib.config import KdlibError
from kdlib.data import Data, Split, fold_of
from kdlib.distilling import prepared, training
from kdlib.distilling.listing import listing
from kdlib.distilling.networks import fresh
from kdlib.distilling.prepared import enlarged, margins_by_group
from kdlib.distilling.recipe import check_batches, check_methods, own, recipe
from kdlib.distilling.run import _margins, _within_memory, distil
from kdlib.models import build

ROOT = Path(__file__).parents[2]
NETWORKS = {"teacher": "kdlib:resnet8", "student": "kdlib:resnet8"}
RECIPE = {"epochs": 3, "size": 20, "batch_size": 16, "lr": 0.05}
SHORT = {"epochs": 1, "lr": 0.003}
ARGUMENTS = ["--student", "kdlib:resnet8", "--size", "20", "--device", "cpu", "--workers", "0"]
ARGUMENTS += ["--epochs", "1", "--batch-size", "16", "--lr", "0.003"]


def distilled(data, out, methods=("one_hot", "kd", "ada_alpha"), **more):
    """(found, sentences that were said)."""
    said = []
    how = NETWORKS | RECIPE | {"device": "cpu", "workers": 0, "say": said.append} | more
    return distil(data, methods=methods, out=out, **how), said


def test_it_is_a_function_of_the_package():
    assert kdlib.distil is distil


def weights(out):
    """{name: bytes} of all networks on disk."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*/*.safetensors"))}


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """(folder of a distillation, what was found, what was said, margins of each method)."""
    out, margins = tmp_path_factory.mktemp("distilled") / "run", {}
    make = training.method_loss

    def method_loss(cfg, margin, train):
        margins[cfg.name] = margin
        return make(cfg, margin, train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "method_loss", method_loss)
        methods = ("one_hot", "kd", "ada_alpha", "ada_alpha_crossfit")
        return out, *distilled(pictures, out, methods), margins


def teacher_of(run):
    """The teacher of that distillation, by the name of its file."""
    return f"kdlib:resnet8@{run[0] / 'teachers' / 'teacher-s1000.safetensors'}"


def test_every_student_is_kept_with_its_card_its_predictions_and_the_report(run):
    out, found, said, _ = run
    methods = ("ada_alpha", "ada_alpha_crossfit", "kd", "one_hot")
    kinds = (".json", ".md", ".safetensors")
    names = sorted(path.name for path in (out / "students").iterdir())
    assert names == sorted(f"{name}-s0{kind}" for name in methods for kind in kinds)
    folds = [f"teacher-fold{k}-s1000.safetensors" for k in range(5)]
    teachers = sorted(path.name for path in (out / "teachers").glob("*.safetensors"))
    assert teachers == [*folds, "teacher-s1000.safetensors"]
    assert set(found.audits) == {"kd", "ada_alpha", "ada_alpha_crossfit"}
    assert (out / "report.html").exists() and (out / "report-kd.html").exists()
    assert not list(out.glob(".*.kept"))
    assert any(sentence.startswith("The teacher is right in") for sentence in said)


def test_the_baseline_has_learned_and_the_report_counts_what_is_on_disk(run, pictures):
    out, found, *_ = run
    test = listing(pictures).test
    for name, role in (("one_hot-s0", "baseline"), ("teacher", "teacher")):
        with np.load(out / "predictions" / f"{name}-test.npz") as held:
            right = 100 * (held["predicted"] == test.y).mean()
        assert found.first.metrics[f"{role}_accuracy"].estimate == pytest.approx(right)
    assert right > 60


def by_hand(file, examples):
    """(N,) margin of a network on disk in float64: p of the label less the mean of the others."""
    model = build("resnet8", 3, 0)
    model.load_state_dict(load_file(file))
    model.eval()
    images = np.stack([np.asarray(examples.open(i))[:, 2:22] for i in range(len(examples))])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        p = model(x).double().softmax(dim=1).numpy()
    own = p[np.arange(len(p)), examples.y]
    return own - (1 - own) / 2


def means(values, group):
    return [values[group == g].mean().clip(0, 1) for g in range(3)]


def test_the_margins_of_ada_alpha_are_the_teacher_s_on_held_out_images(run, pictures):
    out, _, _, margins = run
    val = listing(pictures).val
    expected = means(by_hand(out / "teachers" / "teacher-s1000.safetensors", val), val.group)
    assert margins["ada_alpha"].tolist() == pytest.approx(expected, abs=1e-5)
    assert margins["kd"] is None


def test_the_margins_of_a_crossfit_are_of_teachers_that_never_saw_the_image(run, pictures):
    out, _, _, margins = run
    train = listing(pictures).train
    fold, values = fold_of(torch.from_numpy(train.y)).numpy(), np.zeros(len(train))
    for k in range(5):
        file = out / "teachers" / f"teacher-fold{k}-s1000.safetensors"
        values[fold == k] = by_hand(file, train[fold == k])
        facts = json.loads(file.with_suffix(".json").read_text())
        assert facts["config"]["fold"] == k
    expected = means(values, train.group)
    assert margins["ada_alpha_crossfit"].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_group_without_a_held_out_image_is_given_the_mean_of_the_others():
    values, group = torch.tensor([0.2, 0.4, 0.9, -0.5]), torch.tensor([0, 0, 2, 3])
    margins, said = margins_by_group(values, group, ("a", "b", "c", "d"))
    assert margins.tolist() == pytest.approx([0.3, 0.4, 0.9, 0.0])
    assert said == [
        "1 group without a held-out image (the first is 'b'): the teacher's margin there is taken "
        "to be the mean of the others."
    ]


def test_margins_by_label_are_means_over_labels_where_groups_are_others():
    """Three groups, two classes: label 0 holds the groups 0 and 1."""
    y, group = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 2, 2])
    logits = torch.tensor([[3.0, 0], [2, 0], [1, 0], [0, 1], [0, 2]])
    split = Split(torch.zeros(5, 1), y, group)
    data = Data(*[split] * 4, ("a", "b"), ("p", "q", "r"))
    setting = SimpleNamespace(data=data, say=print)
    names = "ada_alpha", "ada_alpha_by_label"
    configs = [own(name, teacher="kdlib:resnet8") for name in names]
    found, said = _margins(setting, configs, SimpleNamespace(val=logits), None)
    assert said == []  # every group has a held-out image
    each = 2 * logits.softmax(dim=1)[torch.arange(5), y].double().numpy() - 1
    by_group, by_label = (found[name].tolist() for name in names)
    assert by_group == pytest.approx([each[:2].mean(), each[2], each[3:].mean()])
    assert by_label == pytest.approx([each[:3].mean(), each[3:].mean()])


# ---------------------------------------------------------------- again, and gone on with


def test_the_same_command_again_trains_nothing_and_other_methods_only_themselves(
    pictures, tmp_path, monkeypatch, no_pages
):
    distilled(pictures, tmp_path, ("one_hot", "kd"))
    first = weights(tmp_path)
    trained = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda of, *how: trained.append(len(of)) or fit(of, *how))
    distilled(pictures, tmp_path, ("one_hot", "kd"))
    assert trained == []
    found, _ = distilled(pictures, tmp_path, ("one_hot", "kd", "decoupled_kd"))
    assert trained == [1] and set(found.audits) == {"kd", "decoupled_kd"}
    later = weights(tmp_path)
    assert {name: later[name] for name in first} == first


def test_a_method_alone_is_the_one_that_was_trained_beside_others(
    run, pictures, tmp_path, no_pages
):
    out, *_ = run
    distilled(pictures, tmp_path, ("one_hot", "ada_alpha"))
    both = weights(tmp_path)
    assert both.items() <= weights(out).items() and "ada_alpha-s0.safetensors" in both


@pytest.mark.parametrize("last", [1, 2])  # epoch whose state is kept before a stop behind 2
def test_a_distillation_that_was_stopped_goes_on_to_the_same_bytes(
    run, pictures, tmp_path, monkeypatch, no_pages, last
):
    out, *_ = run
    monkeypatch.setattr(training, "LEAST", -1.0)
    monkeypatch.setattr(training, "SHARE", -1.0)
    keeping = training._keeping

    def stopped(kept):
        def keep(going):
            if len(going) < 2 or going[0].epoch <= last:
                keeping(kept)(going)
            if len(going) == 2 and going[0].epoch == 2:
                raise KeyboardInterrupt

        return keep

    with monkeypatch.context() as patch:
        patch.setattr(training, "_keeping", stopped)
        with pytest.raises(KeyboardInterrupt):
            distilled(pictures, tmp_path, ("one_hot", "kd"))
    assert list(tmp_path.glob(".*.kept"))
    epochs = []
    begin = training.fit
    monkeypatch.setattr(
        training, "fit", lambda of, *how: epochs.append(of[0].resume["epoch"]) or begin(of, *how)
    )
    distilled(pictures, tmp_path, ("one_hot", "kd"))
    assert epochs == [last]
    assert weights(tmp_path).items() <= weights(out).items()
    assert not list(tmp_path.glob(".*.kept"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": 0.04}, "is of lr=0.05, and 0.04 is asked for; choose another --out"),
        ({"mean": (0.5, 0.5, 0.5)}, "is of other images"),
    ],
)
def test_another_distillation_in_the_same_folder_is_refused(run, pictures, change, sentence):
    out, *_ = run
    before = weights(out)
    with pytest.raises(KdlibError, match=sentence):
        distilled(pictures, out, **change)
    assert weights(out) == before


def test_facts_that_are_damaged_are_named(pictures, tmp_path):
    folder = tmp_path / "teachers"
    folder.mkdir()
    (folder / "teacher-s1000.json").write_text("{}")
    with pytest.raises(KdlibError, match=r"teacher-s1000\.json: is damaged"):
        distilled(pictures, tmp_path)


def test_a_dry_run_says_how_long_it_would_take_and_trains_nothing(pictures, tmp_path):
    methods = ("one_hot", "kd", "ada_alpha_crossfit")
    found, said = distilled(pictures, tmp_path / "out", methods, seeds=2, dry_run=True)
    assert found is None and not list(tmp_path.glob("out/*"))
    assert said[-1].startswith("Training would take about ")
    assert "one_hot, kd, ada_alpha_crossfit at " in said[-1] and "2 times; teacher at" in said[-1]
    assert said[-1].endswith("images a second, 5 times. Nothing was trained.")
    file = tmp_path / "five.pt"
    torch.save(fresh(named("kdlib:resnet8"), 5, 0).state_dict(), file)
    with pytest.raises(KdlibError, match="the teacher has 5 classes, the images 3"):
        distilled(pictures, tmp_path / "out", dry_run=True, teacher=f"kdlib:resnet8@{file}")


def test_a_dry_run_has_a_margin_for_each_class_and_each_group(pictures, tmp_path):
    table = tmp_path / "groups.csv"
    names = [path.relative_to(pictures).as_posix() for path in sorted(pictures.glob("*/*/*.png"))]
    lines = [f"{name},{'odd' if i % 2 else 'even'}" for i, name in enumerate(names)]
    table.write_text("\n".join(["path,group", *lines]))
    methods = ("one_hot", "ada_alpha_by_label", "ada_alpha")  # 3 classes, 2 groups
    _, said = distilled(pictures, tmp_path / "out", methods, groups=table, dry_run=True)
    assert said[-1].startswith("Training would take about ")


def test_images_that_would_be_enlarged_much_are_pointed_at(pictures):
    [said] = enlarged(listing(pictures).train, 200)
    assert said.startswith("--size 200: the first 8 images are at most ")
    assert enlarged(listing(pictures).train, 20) == ()


def test_images_in_two_parts_or_two_classes_are_pointed_at(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "images")
    for place in ("test/ant/a.png", "test/ant/b.png", "val/bee/a.png"):
        shutil.copy(folder / "train" / "ant" / "000.png", folder / place)
    _, said = distilled(folder, tmp_path / "out", dry_run=True)
    in_val, in_test, in_classes = said[-4:-1]
    assert in_val.startswith("1 val image of 31 is in train too (the first is 'val/bee/a.png')")
    assert in_test.startswith(
        "2 test images of 32 are in train too (the first is 'test/ant/a.png')"
    )
    assert in_classes == "1 image lies in more than one class (the first in ant, bee)."
    _, said = distilled(pictures, tmp_path / "out", dry_run=True)
    assert not any(" too (" in line for line in said)


def test_too_little_memory_is_a_sentence():
    """As torch says it of a CPU: no computer has 2^60 bytes."""
    said = "^--size 224, --batch-size 64: do not fit into memory;"
    with pytest.raises(KdlibError, match=said), _within_memory(224, 64):
        torch.empty(2**60, dtype=torch.uint8)


# ---------------------------------------------------------------- what is refused


def test_a_teacher_near_chance_stops_before_anything_is_trained(pictures, tmp_path):
    file = tmp_path / "random.pt"
    torch.save(fresh(named("kdlib:resnet8"), 3, 5).state_dict(), file)
    with pytest.raises(KdlibError, match="near chance"):
        distilled(pictures, tmp_path / "out", teacher=f"kdlib:resnet8@{file}")
    assert not weights(tmp_path / "out")


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (("kd", "ada_alpha"), "must name one_hot"),
        (("one_hot",), "at least one more"),
        (("one_hot", "kd", "kd"), "named twice"),
        (("one_hot", "kdd"), "did you mean 'kd'"),
        (("one_hot", "post_hoc"), "allowed are one_hot, kd"),
    ],
)
def test_methods_that_answer_no_question_are_refused(methods, sentence):
    with pytest.raises(KdlibError, match=sentence):
        check_methods(methods)


def test_methods_that_look_at_a_whole_batch_are_refused_in_several_processes():
    check_methods(("one_hot", "group_dro"))
    with pytest.raises(KdlibError, match="run it in one process"):
        check_methods(("one_hot", "group_dro"), 2)


@pytest.mark.parametrize(
    ("images", "batch", "processes", "works"), [(65, 16, 1, 15), (54, 16, 4, 15), (100, 16, 4, 15)]
)
def test_a_last_batch_that_is_too_small_is_refused_with_one_that_works(
    images, batch, processes, works
):
    with pytest.raises(KdlibError, match=f"--batch-size {works} works"):
        check_batches([images], batch, processes)
    check_batches([images], works, processes)


def test_recipes_are_those_that_are_published():
    usual = recipe()
    assert (usual["epochs"], usual["batch_size"], usual["lr"]) == (90, 256, 0.1)
    assert (usual["size"], usual["augment"], recipe(size=32)["augment"]) == (
        224,
        "resized",
        "padded",
    )
    w = recipe("imagenet")  # Wang et al. 2023
    assert (w["epochs"], w["batch_size"], w["milestones"]) == (90, 512, (30, 60, 80))
    assert w["decay"] == "step" and w["warmup"] == 5
    short = recipe("imagenet", epochs=9, batch_size=256)
    assert short["milestones"] == (3, 6, 8) and short["lr"] == 0.1 and short["warmup"] == 0
    with pytest.raises(KdlibError, match="did you mean 'imagenet'"):
        recipe("imagent")


# ---------------------------------------------------------------- the process it is called in


@pytest.mark.parametrize("more", [{}, {"dry_run": True}], ids=["trained", "dry run"])
def test_the_caller_draws_the_random_numbers_it_would_have_drawn(
    run, pictures, tmp_path, no_pages, monkeypatch, more
):
    def seeded():
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(5)

    def drawn():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    seeded()
    expected = drawn()
    monkeypatch.setattr(prepared, "HELD", 0)  # images are read by loaders, which draw a seed each
    filters = warnings.filters[:]
    seeded()
    distilled(pictures, tmp_path, ("one_hot", "kd"), **SHORT, teacher=teacher_of(run), **more)
    assert drawn() == expected and warnings.filters == filters


def filters_after(rank, port, *how):
    """Distil in one of two processes, and write which filters of warnings that has left."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    pictures, folder, teacher = how
    before = warnings.filters[:]
    distilled(pictures, folder / "out", ("one_hot", "kd"), **SHORT, teacher=teacher)
    left = [one for one in warnings.filters if one not in before]
    (folder / f"{rank}.txt").write_text(repr(left))


def test_two_processes_leave_no_filters_of_warnings(run, pictures, tmp_path, no_pages):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    how = (port, pictures, tmp_path, teacher_of(run))
    torch.multiprocessing.start_processes(filters_after, how, 2, start_method="fork")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["[]", "[]"]


# ---------------------------------------------------------------- the command line


def test_two_processes_leave_what_one_does_and_say_which_student_to_ship(
    run, pictures, tmp_path, capsys, no_pages
):
    options = ["distill", "--data", str(pictures), "--teacher", teacher_of(run), *ARGUMENTS]
    options += ["--methods", "one_hot,kd"]
    assert main([*options, "--out", str(tmp_path / "one")]) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[-1] == str((tmp_path / "one").resolve() / "report.html")
    assert main([*options[:-1], "kd", "--out", str(tmp_path / "one")]) == 2
    assert capsys.readouterr().err.startswith("kdlib: --methods: must name one_hot")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, "-m", "kdlib", *options, "--out", str(tmp_path / "two")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said in (first, done.stdout):
        assert said.count("Ship ") == 1
    for name in ("one_hot-s0", "kd-s0"):
        files = [tmp_path / n / "students" / name for n in ("one", "two")]
        one, two = (load_file(file.with_suffix(".safetensors")) for file in files)
        for tensor, values in one.items():
            torch.testing.assert_close(two[tensor], values, rtol=1e-5, atol=1e-5)
        one, two = (json.loads(file.with_suffix(".json").read_text())["curves"] for file in files)
        for of, values in one.items():
            assert two[of] == pytest.approx(values, rel=1e-4)
        one, two = (np.load(file.parents[1] / "predictions" / f"{name}-test.npz") for file in files)
        np.testing.assert_allclose(two["log_p_label"], one["log_p_label"], rtol=1e-4, atol=1e-4)
    assert (tmp_path / "two" / "report.html").exists()
    assert CLASSES[0] in (tmp_path / "two" / "students" / "kd-s0.md").read_text()


def test_the_command_refuses_in_one_sentence(pictures, tmp_path, capsys):
    options = ["--teacher", "kdlib:resnet8", "--methods", "kd", "--out", str(tmp_path / "out")]
    assert main(["distill", "--data", str(pictures), *ARGUMENTS, *options]) == 2
    assert capsys.readouterr().err.startswith("kdlib: --methods: must name one_hot")
