"""Audits of networks with weights of one's own on a folder of images."""

import argparse
import builtins
import hashlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import log_softmax
from torchvision.transforms import functional as F

from kdlib.__main__ import main
from kdlib.asking import images, networks
from kdlib.config import KdlibError

CLASSES = ("cat", "dog", "newt")
NAME = "shufflenet_v2_x0_5"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def network(seed, classes=3, name=NAME):
    """A network that does not say the same of all images."""
    torch.manual_seed(seed)
    module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 1, 2)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of three classes, 20 in all, and weights of three networks beside them."""
    folder = tmp_path_factory.mktemp("audited")
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(7 if k < 2 else 6):
            pixels = rng.integers(0, 160, size=(50 + 10 * k, 60, 3))
            pixels[..., k] += 80
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "images" / name / f"{name}{i}.png")
    for seed, role in enumerate(("teacher", "student", "baseline")):
        torch.save(network(seed).state_dict(), folder / f"{role}.pt")
    return folder


@pytest.fixture
def audited(folder, tmp_path, monkeypatch, capsys):
    """A function that runs the command on that folder; (exit code, output, errors, facts)."""
    monkeypatch.chdir(tmp_path)

    def run(*more, baseline=True, folder=folder, **models):
        words = ["audit", "--image-folder", str(folder / "images")]
        for role in ("teacher", "student", "baseline"):
            if role != "baseline" or baseline:
                words += [f"--{role}", models.get(role, f"torchvision:{NAME}:{folder / role}.pt")]
        code = main([*words, *map(str, more)])
        said = capsys.readouterr()
        facts = json.loads((tmp_path / "audit.json").read_text()) if code < 2 else None
        return code, said.out, said.err, facts

    return run


def logits_by_hand(folder, role, size=None):
    """(labels (N,), logits (N, C)) of a network of the folder, an image at a time."""
    module = network(0)
    module.load_state_dict(torch.load(folder / f"{role}.pt"))
    module.eval()
    y, logits = [], []
    for k, name in enumerate(CLASSES):
        for path in sorted((folder / "images" / name).iterdir()):
            image = F.resize(Image.open(path), size or 256)
            image = F.to_tensor(F.center_crop(image, size or 224))
            with torch.no_grad():
                logits.append(module(((image - MEAN[:, None, None]) / STD[:, None, None])[None])[0])
            y.append(k)
    return np.array(y), torch.stack(logits).double()


@pytest.mark.parametrize("size", [None, 64])
def test_the_numbers_are_those_of_a_loop_written_by_hand(folder, audited, size):
    code, out, err, facts = audited(*(["--image-size", size, "--batch", 8] if size else []))
    assert (code, err) == (0, "") and "audit.html" in out
    assert facts["examples"] == 20 and facts["classes"] == 3
    assert [row["group"] for row in facts["groups"]] == list(CLASSES)
    for role in ("teacher", "student", "baseline"):
        y, logits = logits_by_hand(folder, role, size)
        right = logits.argmax(dim=1).numpy() == y
        loss = -log_softmax(logits, dim=1)[range(len(y)), y].mean().item()
        assert facts["metrics"][f"{role}_log_loss"] == pytest.approx(loss, abs=1e-4)
        for k, row in enumerate(facts["groups"]):
            assert row[role] == pytest.approx(100 * right[y == k].mean())
    kept = "64 x 64" if size else "224 x 224"
    assert any(kept in line for line in facts["read"])
    assert any("20 images in 3 folders" in line for line in facts["read"])
    [teacher] = [of for of in facts["inputs"] if of["role"] == "teacher"]
    assert teacher["name"] == f"torchvision:{NAME}:{folder / 'teacher.pt'}"
    assert teacher["sha256"] == hashlib.sha256((folder / "teacher.pt").read_bytes()).hexdigest()


def test_every_model_sees_its_own_preparation(folder):
    held = images.Images(folder / "images")
    assert [held.prepare(lambda image, k=k: k, said) for k, said in enumerate("aba")] == [0, 1, 0]
    assert held[19] == ((0, 1), 2, "newt/newt5.png")
    module = torch.nn.Linear(1, 1)
    first, second = (images._seeing(module, place) for place in (0, 1))
    seen = (torch.zeros(1), torch.ones(1))
    assert first(seen) == module(seen[0]) and second(seen) == module(seen[1])


@pytest.mark.parametrize("size, resized, kept", [(None, 256, 224), (64, 64, 64)])
def test_images_are_prepared_as_torchvision_evaluates(folder, size, resized, kept):
    image = Image.open(folder / "images" / "dog" / "dog1.png")
    asked = networks.named("torchvision:resnet18:w.pt")
    expected = F.to_tensor(F.center_crop(F.resize(image, resized), kept))
    expected = (expected - MEAN[:, None, None]) / STD[:, None, None]
    assert torch.allclose(images.preparation(asked, None, size)[0](image), expected)
    if size is None:
        preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
        assert torch.allclose(preset(image), expected)


def test_colours_are_as_asked(folder):
    asked = networks.named("torchvision:resnet18:w.pt")
    transform, said = images.preparation(asked, None, 8, [0, 0, 0], [1, 1, 0.5])
    pixels = np.full((8, 8, 3), 51, dtype=np.uint8)
    assert transform(Image.fromarray(pixels))[:, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.4])
    assert "mean (0, 0, 0)" in said and "(1, 1, 0.5)" in said


# ---------------------------------------------------------------- weights as people save them

FORMS = {
    "alone": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3, "best": 0.5},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}},
    "timm": lambda weights: {"state_dict": weights, "args": argparse.Namespace(lr=0.1)},
    "parallel": lambda weights: {f"module.{name}": of for name, of in weights.items()},
    "compiled": lambda weights: {f"module._orig_mod.{name}": of for name, of in weights.items()},
    "lightning": lambda weights: {
        "state_dict": {f"model.{name}": of for name, of in weights.items()},
        "hyper_parameters": {"lr": 0.1},
    },
    "half": lambda weights: {
        name: of.half() if of.is_floating_point() else of for name, of in weights.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_from_whatever_training_wrapped_them_in(tmp_path, form):
    own = network(3)
    torch.save(FORMS[form](own.state_dict()), tmp_path / "w.pth")
    found = networks.network(networks.named(f"torchvision:{NAME}:{tmp_path / 'w.pth'}"), 3, "here")
    for name, value in own.state_dict().items():
        expected = value.half().float() if form == "half" and value.is_floating_point() else value
        assert torch.equal(found.state_dict()[name], expected)


def test_two_sets_of_weights_in_one_file_are_refused(tmp_path):
    weights = network(3).state_dict()
    torch.save({"state_dict": weights, "state_dict_ema": weights}, tmp_path / "w.pt")
    with pytest.raises(
        KdlibError, match="holds state_dict and state_dict_ema; save only one of them"
    ):
        networks.weights_of(tmp_path / "w.pt")


def test_safetensors_are_read(tmp_path):
    own = network(3)
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    asked = networks.named(f"torchvision:{NAME}:{tmp_path / 'w.safetensors'}")
    found = networks.network(asked, 3, "here").state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.state_dict().items())


def test_timm_says_how_it_prepares_images(tmp_path):
    timm = pytest.importorskip("timm")
    own = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(own.state_dict(), tmp_path / "w.pt")
    asked = networks.named(f"timm:vit_tiny_patch16_224:{tmp_path / 'w.pt'}")
    module = networks.network(asked, 3, "here")
    transform, said = images.preparation(asked, module)
    assert "mean (0.5, 0.5, 0.5)" in said
    assert transform(Image.new("RGB", (300, 500))).shape == (3, 224, 224)
    assert images.preparation(asked, module, 64)[0](Image.new("RGB", (9, 99))).shape == (3, 64, 64)


def test_a_name_may_hold_colons_and_a_tilde(monkeypatch):
    asked = networks.named(r"timm:resnet18.a1_in1k:C:\weights\w.pt")
    assert (asked.library, asked.name) == ("timm", "resnet18.a1_in1k")
    assert str(asked.file) == r"C:\weights\w.pt"
    monkeypatch.setenv("HOME", "/home/me")
    assert networks.named("timm:resnet18:~/w.pt").file.as_posix() == "/home/me/w.pt"


# ---------------------------------------------------------------- groups by path


def table(folder, **columns):
    """A table of the images in another order, with their paths as id: half of them young."""
    paths = sorted(p.relative_to(folder / "images") for p in (folder / "images").rglob("*.png"))
    frame = pd.DataFrame({"path": [path.as_posix() for path in paths]})
    frame["age"] = ["young" if i % 2 else "old" for i in range(len(frame))]
    return frame.sample(frac=1, random_state=0)


SPELLINGS = {
    "relative": lambda folder, path: path,
    "with a dot": lambda folder, path: f"./{path}",
    "backslashes": lambda folder, path: path.replace("/", "\\"),
    "whole": lambda folder, path: f"{folder}/images/{path}",
    "name": lambda folder, path: path.split("/")[1],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("column", ["path", "filename", "file_name", "id"])
def test_groups_are_joined_by_the_path_of_the_image(folder, audited, tmp_path, spelling, column):
    frame = table(folder)
    frame.path = [SPELLINGS[spelling](folder, path) for path in frame.path]
    frame.rename(columns={"path": column}).to_csv(tmp_path / "groups.csv", index=False)
    held = images.Images(folder / "images")
    found = images.source(tmp_path / "groups.csv", "groups")
    found = images.joined_by_path(found, held.folder, held.paths)
    assert list(found.columns) == ["age"]
    assert found.columns["age"].tolist() == ["young" if i % 2 else "old" for i in range(20)]


def test_groups_and_weights_reach_the_audit(folder, audited, tmp_path):
    frame = table(folder).assign(weight=lambda frame: np.where(frame.age == "old", 1.0, 2.0))
    frame[["path", "age"]].to_csv(tmp_path / "groups.csv", index=False)
    frame[["path", "weight"]].to_csv(tmp_path / "weights.csv", index=False)
    small = ("--image-size", 64, "--groups", tmp_path / "groups.csv")
    _, _, err, facts = audited(*small, "--weights", tmp_path / "weights.csv")
    assert err == "" and [row["group"] for row in facts["groups"]] == ["old", "young"]
    y, logits = logits_by_hand(folder, "student", 64)
    right = logits.argmax(dim=1).numpy() == y
    assert facts["groups"][1]["student"] == pytest.approx(100 * right[1::2].mean())
    w = np.where(np.arange(20) % 2, 2.0, 1.0)
    accuracy = facts["metrics"]["student_accuracy"]["estimate"]
    assert accuracy == pytest.approx(100 * np.average(right, weights=w))


def test_tables_that_do_not_name_every_image_are_refused(folder, audited, tmp_path):
    frame = table(folder)
    for wrong, says in (
        (frame[["age"]], "must name the image of each row, in a column called path."),
        (frame[frame.path != "dog/dog3.png"], "has no row with the id 'dog/dog3.png', which"),
        (pd.concat([frame, frame[:1]]), f"id {frame.path.iloc[0]!r} is there twice"),
    ):
        wrong.to_csv(tmp_path / "groups.csv", index=False)
        code, _, err, _ = audited("--groups", tmp_path / "groups.csv")
        assert code == 2 and err.startswith(f"kdlib: {tmp_path / 'groups.csv'}: {says}")


# ---------------------------------------------------------------- refusals


def one_sentence(result, says):
    code, _, err, _ = result
    assert code == 2 and says in err
    assert err.count("\n") == 1 and err.endswith(".\n") and "Traceback" not in err


HERE = f"torchvision:{NAME}"


@pytest.mark.parametrize(
    "student, says",
    [
        ("student.npz", "student.npz: a network is LIBRARY:NAME@FILE"),
        (HERE, "names no file of weights; nothing is downloaded"),
        ("torchvision:resnet81:{}/student.pt", "has no 'resnet81'; the nearest are resnet"),
        (
            "torchvision:resnet18:{}/student.pt",
            "student.pt: lacks 'conv1.weight', so the weights are not those of",
        ),
        (HERE + ":{}/nowhere.pt", "nowhere.pt: cannot be read (No such file or directory)."),
        (HERE + ":{}/images", "images: cannot be read (Is a directory)."),
        (HERE + ":{}/ten.pt", "its 'fc.weight' is of 10 classes, but"),
        (HERE + ":{}/wider.pt", "wider.pt: its 'stage2.0.branch1.2.weight' has shape (58,"),
        (HERE + ":{}/whole.pt", "whole.pt: holds no weights (it is damaged, or holds code"),
        (HERE + ":{}/damaged.pt", "damaged.pt: holds no weights ("),
        (HERE + ":{}/number.pt", "number.pt: holds no tensors by name"),
        (HERE + ":{}/more.pt", "more.pt: has 'head.bias', so the weights are not"),
    ],
)
def test_networks_that_cannot_be_used_are_one_sentence(folder, audited, student, says):
    torch.save(network(0, 10).state_dict(), folder / "ten.pt")
    torch.save(network(0, name="shufflenet_v2_x1_0").state_dict(), folder / "wider.pt")
    torch.save(network(0), folder / "whole.pt")
    (folder / "damaged.pt").write_bytes((folder / "teacher.pt").read_bytes()[:1000])
    torch.save({"epoch": 1}, folder / "number.pt")
    more = network(0).state_dict() | {"head.bias": torch.zeros(3)}
    torch.save(more, folder / "more.pt")
    one_sentence(audited(student=student.format(folder)), says)


@pytest.mark.parametrize(
    "more, says",
    [
        (("--labels", "y.npy"), "--labels does not go with --image-folder"),
        (("--study", "digits"), "--study does not go with --image-folder"),
        (("--mean", "1", "2", "3"), "--mean: must be three numbers from 0 to 1"),
        (("--std", "0.5", "0", "0.5"), "--std: images are divided by it"),
        (("--std", "0.5", "nan", "0.5"), "--std: must be three numbers"),
        (("--out", "audit.htm"), "must be the name of a file and end in .html"),
        (("--worst", "4"), "worst 4: must be from 1 to 3"),
        (("--image-size", "0"), "'0' must be a whole number, 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_one_sentence(audited, more, says, monkeypatch):
    if more[0] == "--worst":
        more = (*more, "--image-size", "32")
    code, _, err, _ = audited(*more)
    assert code == 2 and says in err and err.count("\n") == 1


def test_options_of_a_folder_need_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = ["--labels", "y.npy", "--teacher", "t.npy", "--student", "s.npy"]
    for option, value in (("--image-size", "32"), ("--batch", "8")):
        assert main(["audit", *files, option, value]) == 2
        assert capsys.readouterr().err == f"kdlib: {option} goes with --image-folder only.\n"
    files[3] = "timm:resnet18:t.pt"
    assert main(["audit", *files]) == 2
    said = "kdlib: --teacher timm:resnet18:t.pt: a network needs --image-folder DIR.\n"
    assert capsys.readouterr().err == said
    assert main(["audit", "--image-folder", ".", "--teacher", "timm:a:b"]) == 2
    assert "needs --student LIBRARY:NAME@FILE." in capsys.readouterr().err
    models = ["--teacher", "timm:a:t.pt", "--student", "timm:a:s.pt", "--summary", "t.pt"]
    assert main(["audit", "--image-folder", ".", *models]) == 2
    assert "t.pt: would write over what this audit reads." in capsys.readouterr().err


@pytest.fixture
def spoiled(folder, tmp_path):
    """A copy of the folder to spoil, its weights beside it."""
    for role in ("teacher", "student"):
        (tmp_path / f"{role}.pt").symlink_to(folder / f"{role}.pt")
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for path in (folder / "images" / name).iterdir():
            (tmp_path / "images" / name / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("batch", [6, 64], ids=["workers", "no worker"])
def test_an_image_that_cannot_be_read_is_named(spoiled, audited, batch):
    path = spoiled / "images" / "dog" / "dog4.png"
    held = path.read_bytes()[:300]
    path.unlink()
    path.write_bytes(held)
    result = audited("--batch", batch, "--image-size", 32, baseline=False, folder=spoiled)
    one_sentence(result, f"{path}: is no readable image (")


def test_folders_that_cannot_be_used_are_one_sentence(spoiled, audited):
    (spoiled / "images" / "empty").mkdir()
    one_sentence(audited(folder=spoiled), "is no folder of images (Found no valid file for")
    (spoiled / "images").rename(spoiled / "moved")
    one_sentence(audited(folder=spoiled), "is no folder of images (")
    (spoiled / "images" / "one").mkdir(parents=True)
    (spoiled / "moved" / "cat" / "cat0.png").rename(spoiled / "images" / "one" / "cat0.png")
    one_sentence(audited(folder=spoiled), "has one folder; an audit needs one for each class.")


def test_an_error_of_torch_is_one_sentence(folder, audited, monkeypatch):
    torch.save(network(0, name="vit_b_16").state_dict(), folder / "vit.pt")
    result = audited("--image-size", 32, student=f"torchvision:vit_b_16:{folder / 'vit.pt'}")
    (folder / "vit.pt").unlink()
    one_sentence(result, "from the student, in the batch from example 0 on: Wrong image height!")


def test_timm_that_is_missing_is_one_sentence(folder, audited, monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("timm")]:
        monkeypatch.delitem(sys.modules, name)
    result = audited(student=f"timm:resnet18:{folder / 'student.pt'}")
    one_sentence(result, "needs timm; pip install timm brings it.")


def test_the_teacher_as_its_own_student_is_a_control(folder, audited):
    options = {"baseline": False, "student": f"{HERE}:{folder / 'teacher.pt'}"}
    code, _, _, facts = audited("--image-size", 32, **options)
    assert code == 0 and facts["metrics"]["overall_gain"]["estimate"] == 0
    assert any("a control" in line for line in facts["warnings"])


def test_a_search_columns_of_groups_and_pictures_of_a_folder(folder, audited, tmp_path):
    table(folder).assign(size=np.arange(20)).to_csv(tmp_path / "t.csv", index=False)
    tables = ("--search", tmp_path / "t.csv", "--groups", tmp_path / "t.csv", "--by", "size:2")
    code, _, err, facts = audited("--image-size", 32, *tables)
    assert (code, err) == (0, "")
    assert [row["group"] for row in facts["groups"]] == ["size 0 to 9", "size 10 to 19"]
    assert "1 column of t.csv" in facts["searched"][0] and "size (all" in facts["searched"][-1]
    assert {"search", "images"} <= {row["role"] for row in facts["inputs"]}
    held = images.Images(folder / "images")
    for row in facts["lost"]:
        assert held.paths[row["row"]].endswith(row["image"])
    assert not any("cannot be read" in limit for limit in facts["limits"])
