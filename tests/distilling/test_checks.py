"""What cannot work is said in one sentence, by the option that was typed, before data are read."""

import numpy as np
import pytest
import torch
from folders import write_folder
from safetensors.torch import load_file, save_file

from kdlib.__main__ import main
from kdlib.config import KdlibError
from kdlib.distilling import run
from kdlib.distilling.checks import check_command
from kdlib.distilling.recipe import check_batches, check_read
from kdlib.distilling.run import distil

NETWORKS = {"--teacher": "kdlib:resnet8", "--student": "kdlib:resnet8", "--device": "cpu"}


def with_networks(options):
    """The options, and of NETWORKS those that they leave out."""
    left = [[name, value] for name, value in NETWORKS.items() if name not in options]
    return [*options, *sum(left, [])]


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What the command says of wrong options. It must read no image, and leave nothing."""

    def refuse(options, data="data", out="out"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run, "listing", None)
        before = sorted(tmp_path.rglob("*"))
        command = ["distill", "--data", data, "--out", out, *with_networks(options.split())]
        assert main(command) == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err.strip()

    return refuse


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--lr nan", "--lr nan: must lie between 0 and 100."),
        ("--lr -1", "--lr -1.0: must lie between 0 and 100."),
        ("--size 7", "--size 7: must lie between 8 and 1024."),
        ("--batch-size 70000", "--batch-size 70000: must lie between 1 and 65536."),
        ("--epochs 3 --warmup 3", "--warmup 3: must be less than --epochs 3."),
        ("--augment paded", "--augment 'paded': did you mean 'padded'?"),
        ("--alpha 0.5 --methods one_hot,ada_alpha", "--alpha 0.5: none of the methods one_hot, "),
        ("--alpha 0.5 --methods one_hot,kd_tuned", "--alpha 0.5: none of the methods one_hot, "),
        ("--methods one_hot,kdd", "--methods 'kdd': did you mean 'kd'?"),
        ("--methods kd", "--methods: must name one_hot, the baseline"),
        ("--preset imagnet", "--preset 'imagnet': did you mean 'imagenet'?"),
        ("--seeds 1001", "--seeds 1001: must lie between 1 and 1000."),
        ("--workers -1", "argument --workers: '-1' must be a whole number, 0 or more"),
        ("--workers 1000", "--workers 1000: must lie between 0 and 256."),
        ("--teacher-std 0 0 0", "--teacher-std: images are divided by it"),
        ("--mean 1 2 3", "--mean: must be three numbers from 0 to 1"),
        ("--teacher kdlib:resnet9", "kdlib:resnet9: kdlib has no 'resnet9'"),
        ("--teacher kdlib:resnet8@no.pt", "kdlib:resnet8@no.pt: there is no file no.pt."),
        ("--teacher-classes no.txt", "--teacher-classes: there is no file no.txt."),
    ],
)
def test_an_option_that_cannot_work_is_named_as_it_was_typed(said, options, sentence):
    assert said(options).startswith(f"kdlib: {sentence}")


@pytest.mark.parametrize(
    "name, value", [("seeds", 2.0), ("seeds", "2"), ("workers", True), ("epochs", "90")]
)
def test_a_value_of_python_that_is_no_whole_number_is_refused(name, value):
    networks = "kdlib:resnet8", "kdlib:resnet8"
    with pytest.raises(KdlibError, match=rf"^--{name} {value!r}: must be a whole number\.$"):
        distil("nowhere", *networks, **{name: value})
    with pytest.raises(KdlibError, match="^nowhere: does not exist"):  # all else was right
        distil("nowhere", *networks, seeds=np.int64(2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(said):
    assert said("--device cuda").startswith("kdlib: --device cuda: torch cannot use a GPU here")


@pytest.mark.parametrize("out", ["data/run", "data", "data/../data/train/run"])
def test_a_run_is_not_written_among_the_images(said, tmp_path, out):
    (tmp_path / "data" / "train").mkdir(parents=True)
    assert said("", out=out).startswith(f"kdlib: --out {out}: lies in the folder of the images")


@pytest.mark.parametrize("name", ["README.md", "report.html", "report-kd.csv"])
def test_files_that_no_distillation_wrote_are_not_replaced(said, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("my own")
    assert said("", out="mine").startswith(
        f"kdlib: --out mine: holds {name}, which no distillation"
    )
    (tmp_path / "mine" / "students").mkdir()
    (tmp_path / "mine" / "students" / "kd-s0.json").write_text("{}")  # as one leaves it
    no_colours = (None, None)
    check_command("none", tmp_path / "mine", [], 1, None, no_colours, no_colours, None)
    assert (tmp_path / "mine" / name).read_text() == "my own"


def test_a_folder_without_a_name_is_refused(said):
    assert said("", out="") == "kdlib: --out: names no folder; give one, as in --out distilled."


def test_an_option_that_one_of_the_methods_reads_is_right():
    check_read(("one_hot", "kd", "kd_tuned"), {"alpha": 0.5, "temperature": 2.0})
    check_read(("one_hot", "ada_alpha"), {"alpha": None, "temperature": 2.0})


@pytest.mark.parametrize("methods", [["one_hot, kd"], ["one_hot,", "kd"], ["one_hot", "kd,,"]])
def test_spaces_and_commas_between_methods_are_alike(methods, capsys):
    command = ["distill", "--data", "nowhere", *with_networks(["--methods", *methods])]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("kdlib: nowhere: does not exist")


def test_batches_are_checked_without_each_fold_too():
    check_batches([54, 44, 43], 16, 1)
    with pytest.raises(KdlibError, match="of 43 training images it leaves 1 .* 13 works"):
        check_batches([54, 44, 43], 14, 1)
    check_batches([54, 44, 43], 13, 1)


def test_a_batch_size_that_works_is_found_above_where_none_is_below():
    with pytest.raises(KdlibError, match="--batch-size 3 works"):
        check_batches([5], 2, 1)
    check_batches([5], 3, 1)


def test_a_teacher_whose_scores_are_no_numbers_is_not_called_near_chance(pictures, tmp_path):
    from test_run import distilled, weights

    distilled(pictures, tmp_path / "first", ("one_hot", "kd"))
    [teacher] = (tmp_path / "first" / "teachers").glob("*.safetensors")
    held = load_file(teacher)
    held["linear.bias"][1] = float("nan")
    file = tmp_path / "nan.safetensors"
    save_file(held, file)
    with pytest.raises(KdlibError, match="not finite numbers"):
        distilled(pictures, tmp_path / "out", teacher=f"kdlib:resnet8@{file}")
    assert not weights(tmp_path / "out")


def test_a_last_batch_without_a_fold_is_refused_before_training(tmp_path):
    from test_run import distilled, weights

    data = write_folder(tmp_path / "d", {"train": (18, 18, 18), "val": (3,) * 3, "test": (3,) * 3})
    methods = ("one_hot", "ada_alpha_crossfit")
    with pytest.raises(KdlibError, match="of 42 training images it leaves 1"):
        distilled(data, tmp_path / "out", methods, batch_size=41)
    assert not weights(tmp_path / "out")
