"""Students and teachers from torchvision, timm and kdlib."""

import json
import re
import urllib.error

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torchvision.transforms import functional as F

from kdlib import models
from kdlib.__main__ import main
from kdlib.asking import images, networks
from kdlib.asking.networks import metadata_of, named, untrained
from kdlib.config import KdlibError
from kdlib.distilling.networks import Renormalised, check_output, fetched, fresh, given
from kdlib.teacher import weights_sha256

CLASSES = ("cat", "dog", "great white shark", "newt")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = {  # one of each library, and its last layer
    "torchvision:mobilenet_v3_small": "classifier.3",
    "timm:test_resnet": "fc",
    "kdlib:resnet8": "linear",
}
WNIDS = ImageNetInfo("imagenet-1k").label_names()
WORDS = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]


def equal(one, other, but=()):
    """Whether all weights of two modules are the same."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left if name not in but)


def refused(says, function, *args, **more):
    with pytest.raises(KdlibError, match=re.escape(says)) as caught:
        function(*args, **more)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def saved(path, network, /, classes=4, seed=7, **metadata):
    """Weights of a network, drawn from a seed, in a file; the text that asks for them."""
    module = fresh(named(network), classes, seed)
    state = {name: of.contiguous() for name, of in module.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"kdlib": json.dumps(metadata)})
    else:
        torch.save(state, path)
    return f"{network}@{path}"


# ---------------------------------------------------------------- how networks are called


@pytest.mark.parametrize(
    "text, library, name, file",
    [
        ("torchvision:resnet18", "torchvision", "resnet18", None),
        ("timm:resnet50.a1_in1k@w.pt", "timm", "resnet50.a1_in1k", "w.pt"),
        ("timm:resnet50:w.pt", "timm", "resnet50", "w.pt"),
        (r"kdlib:resnet20@C:\my@weights\w.pt", "kdlib", "resnet20", r"C:\my@weights\w.pt"),
        (r"kdlib:resnet20:C:\my@weights\w.pt", "kdlib", "resnet20", r"C:\my@weights\w.pt"),
        ("timm:resnet50@./pretrained", "timm", "resnet50", "pretrained"),
        ("timm:resnet50:pretrained", "timm", "resnet50", "pretrained"),
    ],
)
def test_a_network_is_called_by_library_name_and_file(text, library, name, file):
    asked = named(text)
    assert (asked.library, asked.name, asked.text) == (library, name, text)
    assert asked.network == f"{library}:{name}"
    assert asked.file is None if file is None else asked.file == networks.Path(file)


def test_pretrained_is_a_word_after_an_at_alone():
    assert named("timm:resnet50@pretrained").file == "pretrained"
    assert not isinstance(named("timm:resnet50:pretrained").file, str)


@pytest.mark.parametrize(
    "text, near",
    [
        ("torchvision:resnet81", "resnet18"),
        ("timm:test_resnett", "test_resnet"),
        ("kdlib:resnet21", "resnet20"),
        ("kdlib:cnn", "some are resnet8"),  # of digits, in grey
        ("kdlib:mlp", "some are resnet8"),  # of rows of a table
    ],
)
@pytest.mark.parametrize("weights", ["", "@pretrained"])
def test_a_name_that_is_not_known_is_told_the_nearest(text, near, weights):
    with pytest.raises(KdlibError, match=near):
        fresh(named(text + weights), 4, 0)


# ---------------------------------------------------------------- students


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_are_drawn_from_the_seed_and_nothing_else_is(network):
    state = torch.get_rng_state()
    first, again, other = (fresh(named(network), 4, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert equal(first, untrained(named(network), 4))
    assert equal(first, again) and not equal(first, other)
    check_output(first, 4, 32)
    kernels = [of for of in first.parameters() if of.ndim == 4 and min(of.shape[1:]) > 1]
    assert all(of.is_contiguous(memory_format=torch.channels_last) for of in kernels) and kernels
    assert first.training and all(of.requires_grad for of in first.parameters())


def test_a_student_of_kdlib_is_the_study_s_own():
    assert equal(fresh(named("kdlib:resnet20"), 10, 5), models.build("resnet20", 10, 5))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_s_own_weights_come_back_with_equal_logits(tmp_path, network):
    own = fresh(named(network), 4, 7).eval()
    asked = named(saved(tmp_path / "w.safetensors", network))
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for module in (fresh(asked, 4, 0).eval(), given(asked, CLASSES).module):
            assert torch.equal(module(x), own(x))
    assert given(asked, CLASSES).sha256 == weights_sha256(own)


@pytest.mark.parametrize("network, last", NETWORKS.items())
def test_a_last_layer_of_other_classes_is_drawn_anew_and_said(tmp_path, network, last):
    asked, said = named(saved(tmp_path / "w.pt", network, classes=6)), []
    student = fresh(asked, 4, 1, said.append)
    names = [f"{last}.weight", f"{last}.bias"]
    assert equal(student, fresh(named(network), 4, 1), but=set(student.state_dict()) - set(names))
    old, new = fresh(named(network), 6, 7).state_dict(), student.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in new if name not in names)
    [sentence] = said
    assert f"its last layer ({', '.join(names)}), there of 6 classes, is drawn anew" in sentence


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_that_serve_training_alone_are_left_out(tmp_path, name):
    """And are skipped in files of torchvision's own, which have them."""
    asked = named(f"torchvision:{name}")
    student = fresh(asked, 4, 0)
    assert not [of for of in student.state_dict() if of.startswith(("aux", "Aux"))]
    with torch.no_grad():
        assert student.train()(torch.zeros(2, 3, 96, 96)).shape == (2, 4)
    whole = torchvision.models.get_model(name, weights=None, num_classes=4, init_weights=False)
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    teacher = given(named(f"torchvision:{name}@{tmp_path / 'w.pt'}"), CLASSES).module
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(teacher(x), whole.eval()(x), atol=1e-5)


class Answers(torch.nn.Module):
    """What gives something else than logits, in training or always."""

    def __init__(self, train, evaluation):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.norm = torch.nn.BatchNorm2d(3)
        self.said = {True: train, False: evaluation}

    def forward(self, x):
        torch.rand(1)
        return self.said[self.training](self.norm(x).sum((2, 3)) * self.weight)


def as_is(logits):
    return logits


def twice(logits):
    return logits, logits


@pytest.mark.parametrize(
    "train, evaluation, says",
    [
        (twice, as_is, "mine: gives a tuple for 2 images in training; a network that gives"),
        (as_is, twice, "mine: gives a tuple for 2 images; a network"),
        (as_is, torch.t, "mine: gives shape (3, 2) for 2 images; a network"),
        (as_is, as_is, ""),
    ],
)
def test_what_gives_no_logits_is_refused_and_left_as_it_was(train, evaluation, says):
    module = Answers(train, evaluation)
    before, state = weights_sha256(module), torch.get_rng_state()
    if says:
        refused(says, check_output, module, 3, 8, "mine")
    else:
        check_output(module, 3, 8, "mine")
        frozen = Answers(twice, as_is).requires_grad_(False).eval()
        check_output(frozen, 3, 8, "mine")  # which is never trained
        assert not frozen.training
    assert weights_sha256(module) == before and module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_a_size_that_a_network_does_not_take_are_one_sentence():
    vit = fresh(named("timm:test_vit"), 4, 0)
    check_output(vit, 4, 160)
    refused(
        "timm:test_vit: takes no images of 33 x 33 (", check_output, vit, 4, 33, "timm:test_vit"
    )


# ---------------------------------------------------------------- the teacher's weights


@pytest.mark.parametrize("network", NETWORKS)
def test_a_teacher_is_frozen_and_says_what_was_read(tmp_path, network):
    asked = named(saved(tmp_path / "w.pt", network))
    state = torch.get_rng_state()
    teacher = given(asked, CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part.training for part in teacher.module.modules())
    assert not any(of.requires_grad for of in teacher.module.parameters())
    read, order, colours = teacher.said
    assert asked.text in read and teacher.sha256[:12] in read
    assert "could not be compared" in order and "held-out images will tell" in order
    assert str(teacher.mean) in colours and str(teacher.std) in colours
    assert all(sentence.endswith(".") for sentence in teacher.said)


def test_weights_that_are_not_the_teacher_s_are_one_sentence(tmp_path):
    for network in NETWORKS:
        asked = named(saved(tmp_path / "six.pt", network, classes=6))
        refused("the teacher has 6 classes, the images 4; a", given, asked, CLASSES)
        other = named(saved(tmp_path / "other.pt", "torchvision:shufflenet_v2_x0_5"))
        other = named(f"{network}@{other.file}")
        for function, classes in ((given, CLASSES), (lambda *of: fresh(*of, 0), 4)):
            refused("so the weights are not those of", function, other, classes)
        refused("a teacher needs weights; give a file", given, named(network), CLASSES)
        refused("cannot be read (No such file", given, named(f"{network}@no.pt"), CLASSES)
    torch.save(fresh(named("kdlib:resnet8"), 4, 0), tmp_path / "whole.pt")
    asked = named(f"kdlib:resnet8@{tmp_path / 'whole.pt'}")
    refused("holds code, as a whole model does, which is not run", given, asked, CLASSES)
    refused("holds code, as a whole model does, which is not run", fresh, asked, 4, 0)


# ---------------------------------------------------------------- the order of its classes

SWAPPED = ("dog", "cat", *CLASSES[2:])
SPELT = ("Cat", "dog", "great_white_shark", "newt")
OTHERS = ("cat", "dog", "gnu", "newt")


def order_of(path, /, ours=CLASSES, names_file=None, **metadata):
    asked = named(saved(path, "kdlib:resnet8", len(ours), **metadata))
    return given(asked, ours, names_file).said[1]


def in_metadata(folder, names):
    return {"class_names": list(names)}


def in_lines(folder, names):
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    return {"names_file": folder / "names.txt"}


def in_id2label(folder, names):
    (folder / "own.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    return {"names_file": folder / "own.json"}


def beside(folder, names):
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    return {}


def beside_as_timm_writes_it(folder, names):
    said = {"architecture": "resnet8", "label_names": list(names), "num_classes": len(names)}
    (folder / "config.json").write_text(json.dumps(said))
    return {}


def timm_config_as_file(folder, names):
    beside_as_timm_writes_it(folder, names)
    (folder / "config.json").rename(folder / "moved.json")
    return {"names_file": folder / "moved.json"}


PLACES = [in_metadata, in_lines, in_id2label, beside, beside_as_timm_writes_it, timm_config_as_file]


@pytest.mark.parametrize("place", PLACES)
def test_classes_are_compared_by_name_wherever_the_names_are(tmp_path, place):
    path = tmp_path / "w.safetensors"
    for names in (CLASSES, SPELT):
        said = order_of(path, **place(tmp_path, names))
        assert said.startswith("The teacher's classes are those of the images, in the same order")
    said = order_of(path, **place(tmp_path, SWAPPED))
    assert "different order" in said and "its class 0 is 'dog', that of the images 'cat'" in said
    wrong = "the teacher has other classes: its class 2 is 'gnu', that of the images 'great white"
    refused(wrong, order_of, path, **place(tmp_path, OTHERS))
    refused("names 5 classes of the teacher", order_of, path, **place(tmp_path, (*CLASSES, "x")))


def test_outputs_in_another_order_are_put_into_that_of_the_images(tmp_path):
    """Grades, of which a - at the end makes another."""
    grades, theirs = ("A", "A-", "B", "B-"), ("A-", "B", "A", "B-")
    asked = named(saved(tmp_path / "w.safetensors", "kdlib:resnet8", 4))
    as_it_is = given(asked, grades, **in_lines(tmp_path, grades))
    turned = given(asked, grades, **in_lines(tmp_path, theirs))
    images = torch.rand(5, 3, 32, 32)
    by_name = dict(zip(theirs, as_it_is.module(images).T, strict=True))
    wanted = torch.stack([by_name[name] for name in grades], dim=1)
    assert torch.equal(turned.module(images), wanted)
    # students of one are not those of the other
    assert turned.sha256 != as_it_is.sha256


def test_names_that_were_given_go_before_those_that_were_found(tmp_path):
    beside(tmp_path, OTHERS)
    said = order_of(tmp_path / "w.safetensors", **in_lines(tmp_path, CLASSES))
    assert "names.txt" in said
    said = order_of(tmp_path / "w.safetensors", **in_metadata(tmp_path, CLASSES))
    assert "w.safetensors" in said  # metadata before what lies beside


def test_names_that_say_nothing_are_said_not_to_be_compared(tmp_path):
    path = tmp_path / "w.safetensors"
    placeholders = [f"LABEL_{k}" for k in range(4)]
    assert "could not be compared" in order_of(path, **in_metadata(tmp_path, placeholders))
    said = order_of(path, **in_metadata(tmp_path, WNIDS[:4]))
    assert "'n01440764' and so on" in said and "could not be compared" in said
    said = order_of(path, WNIDS[:4], **in_metadata(tmp_path, CLASSES))
    assert "could not be compared" in said
    (tmp_path / "config.json").write_text("not json")  # is of something else
    assert "could not be compared" in order_of(tmp_path / "w.pt")


def test_a_file_of_names_that_cannot_be_used_is_one_sentence(tmp_path):
    path = tmp_path / "w.pt"
    refused("no.txt cannot be read", order_of, path, names_file=tmp_path / "no.txt")
    lines = in_lines(tmp_path, ("cat", "cat", "dog", "newt"))
    refused("'cat' is there twice", order_of, path, **lines)


# ---------------------------------------------------------------- pretrained weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Weights that libraries find as if they had been fetched before: {text: module}."""
    modules = {}
    for network in ("torchvision:mobilenet_v3_small", "timm:test_resnet"):
        modules[network] = fresh(named(network), 1000, 9)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state = modules["torchvision:mobilenet_v3_small"].state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1])

    def from_hf(repository, *args, **more):
        assert repository == "timm/test_resnet.r160_in1k"
        return dict(modules["timm:test_resnet"].state_dict())

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", from_hf)
    return modules


@pytest.mark.parametrize("network", ["torchvision:mobilenet_v3_small", "timm:test_resnet"])
def test_pretrained_weights_are_the_library_s(hub, network):
    asked = named(f"{network}@pretrained")
    state = torch.get_rng_state()
    teacher = given(asked, WNIDS)
    assert torch.equal(torch.get_rng_state(), state) and equal(teacher.module, hub[network])
    assert "same order" in teacher.said[1]
    timm_s = network.startswith("timm")
    assert (teacher.mean, teacher.std) == (((0.5,) * 3,) * 2 if timm_s else IMAGENET)
    assert teacher.sha256 == weights_sha256(hub[network])
    said = given(asked, WNIDS[1:] + WNIDS[:1]).said[1]
    assert "its class 0 is 'n01440764', that of the images 'n01443537'" in said
    refused("the teacher has 1,000 classes, the images 4", given, asked, CLASSES)
    assert "same order" in given(asked, WORDS).said[1]
    says = "the teacher has other classes: its class 0 is 'tench', that"  # two cranes, two maillots
    refused(says, given, asked, sorted(WORDS))
    said = []
    assert equal(fresh(asked, 1000, 0, said.append), hub[network])
    assert not equal(fresh(asked, 4, 0, said.append), fresh(named(network), 4, 0))
    assert "drawn anew" not in said[0] and "there of 1,000 classes, is drawn anew for 4" in said[1]


def test_torchvision_s_words_come_in_the_order_of_wordnet_s_codes():
    """By which its teachers are compared with folders that are called so."""
    info = ImageNetInfo("imagenet-1k")
    described = (info.index_to_description(k, detailed=False).lower() for k in range(1000))
    pairs = zip(WORDS, described, strict=True)
    assert sum(word.lower() in called for word, called in pairs) > 900


@pytest.mark.parametrize("name, first", [("inception_v3", "Conv2d_1a_3x3"), ("googlenet", "conv1")])
def test_networks_that_turn_imagenet_s_colours_themselves_are_shown_them_turned(
    monkeypatch, name, first
):
    """torchvision's pretrained ones begin with a step that is no part of a state dict."""
    quick = {"init_weights": False, "num_classes": 1000}
    with_step = torchvision.models.get_model(name, weights=None, transform_input=True, **quick)
    bare = torchvision.models.get_model(name, weights=None, aux_logits=False, **quick)
    assert bare.transform_input is False
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **how: with_step)
    monkeypatch.setattr("kdlib.distilling.networks.untrained", lambda *_: bare)
    teacher = given(named(f"torchvision:{name}@pretrained"), WNIDS)
    raw = torch.rand(2, 3, 96, 96)
    seen = []
    for module, colours in ((with_step, IMAGENET), (teacher.module, (teacher.mean, teacher.std))):
        getattr(module, first).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            module.eval()(F.normalize(raw, *colours))
    assert torch.allclose(*seen, atol=1e-5)


def test_weights_that_cannot_be_fetched_are_one_sentence(tmp_path, monkeypatch):
    def offline(*args, **more):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    asked = named("torchvision:mobilenet_v3_small@pretrained")
    says = "cannot fetch its weights from https://download.pytorch.org/models/mobilenet_v3_small-"
    refused(says, given, asked, WNIDS)
    refused("without a connection give a file, as in torchvision:mobile", fresh, asked, 4, 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    says = "timm cannot fetch its weights from timm/test_resnet.r160_in1k ("
    refused(says, fetched, named("timm:test_resnet@pretrained"))
    says = "kdlib has no weights of resnet20; give a file, as in kdlib:resnet20@weights.pt"
    refused(says, given, named("kdlib:resnet20@pretrained"), CLASSES)
    refused(says, fresh, named("kdlib:resnet20@pretrained"), 4, 0)


# ---------------------------------------------------------------- colours

OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
AS_ASKED = (0.9, 0.9, 0.9), (0.8, 0.8, 0.8)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_teacher_takes_images_as_it_was_trained(tmp_path, network):
    path = tmp_path / "w.safetensors"
    asked = named(saved(path, network))
    teacher = given(asked, CLASSES)
    usual = ((0.5,) * 3, (0.5,) * 3) if network.startswith("timm") else IMAGENET
    assert (teacher.mean, teacher.std) == usual
    guessed = "since nothing says what it was trained with" in teacher.said[2]
    assert guessed == (not network.startswith("timm"))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": OWN}))
    teacher = given(asked, CLASSES)
    assert teacher.mean == (0.1, 0.2, 0.3) and "the config.json beside it says" in teacher.said[2]
    saved(path, network, mean=[0.3, 0.2, 0.1], std=[0.6, 0.5, 0.4])
    teacher = given(asked, CLASSES)
    assert (teacher.mean, teacher.std) == ((0.3, 0.2, 0.1), (0.6, 0.5, 0.4))
    assert "as its file says" in teacher.said[2]
    teacher = given(asked, CLASSES, None, *AS_ASKED)
    assert (teacher.mean, teacher.std) == AS_ASKED and "as asked" in teacher.said[2]
    teacher = given(asked, CLASSES, mean=AS_ASKED[0])
    assert (teacher.mean, teacher.std) == (AS_ASKED[0], (0.6, 0.5, 0.4))
    assert "as asked; the deviation as its file says" in teacher.said[2]
    refused("--teacher-std: images are divided", given, asked, CLASSES, None, (0, 0, 0), (1, 0, 1))
    refused("--teacher-mean: must be three numbers", given, asked, CLASSES, mean=(1, 2))


class Keeps(torch.nn.Module):
    def forward(self, x):
        self.seen = x
        return x


def test_images_are_normalised_anew_as_torchvision_does():
    raw = torch.rand(4, 3, 5, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    inner, other = Keeps(), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.9))
    wrapped = Renormalised(inner, *IMAGENET, *other)
    found = wrapped(F.normalize(raw, *IMAGENET).float())
    assert torch.allclose(found, F.normalize(raw, *other).float(), atol=1e-6)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert wrapped(raw.bfloat16()).dtype == torch.bfloat16
    x = F.normalize(raw, *IMAGENET).float()
    same = Renormalised(inner, *map(list, IMAGENET), *IMAGENET)
    same(x)
    assert inner.seen is x  # bit for bit: nothing was done


def test_a_network_in_another_frame_keeps_its_weights_as_they_are():
    own = fresh(named("kdlib:resnet8"), 4, 0)
    wrapped = Renormalised(own, *IMAGENET, *AS_ASKED)
    assert wrapped.state_dict().keys() == {f"module.{name}" for name in own.state_dict()}
    assert {name for name, _ in wrapped.named_buffers()} >= {"scale", "shift"}  # they move with it


# ---------------------------------------------------------------- metadata, and the audit

METADATA = {"class_names": CLASSES, **OWN, "size": 48, "network": "kdlib:resnet8", "kdlib": "0.9"}


def test_metadata_of_own_students_is_read(tmp_path):
    saved(tmp_path / "w.safetensors", "kdlib:resnet8", **METADATA)
    expected = METADATA | {"class_names": list(CLASSES)}
    assert metadata_of(tmp_path / "w.safetensors") == expected
    save_file({"w": torch.zeros(1)}, tmp_path / "none.safetensors", {"mean": "of another tool"})
    for file in ("none.safetensors", "w.pt"):
        assert metadata_of(tmp_path / file) == {}
    assert metadata_of(None) == metadata_of("pretrained") == {}
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    refused("w.safetensors: cannot be read (", metadata_of, tmp_path / "w.safetensors")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size, resized", [(48, 48), (112, 128), (None, None)])
def test_an_audit_shows_a_student_images_as_its_file_says(tmp_path, network, size, resized):
    said = OWN | ({"size": size} if size else {})
    asked = named(saved(tmp_path / "w.safetensors", network, **said))
    module = networks.network(asked, 4, "here")
    pixels = np.random.default_rng(0).integers(0, 256, size=(200, 300, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = images.preparation(asked, module)[0](image)
    if size is None and network == "timm:test_resnet":
        assert found.shape == (3, 160, 160)
        return
    if size is None:
        resized, size = (32, 32) if network == "kdlib:resnet8" else (256, 224)
    expected = F.to_tensor(F.center_crop(F.resize(image, resized), size))
    assert torch.allclose(found, F.normalize(expected, **OWN), atol=1e-6)
    asked_for = images.preparation(asked, module, 40, *AS_ASKED)[0](image)
    expected = F.to_tensor(F.center_crop(F.resize(image, 40), 40))
    assert torch.allclose(asked_for, F.normalize(expected, *AS_ASKED), atol=1e-6)


def test_the_audit_takes_networks_of_kdlib_and_an_at(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in CLASSES[:2]:
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(5):
            pixels = rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    teacher = saved(tmp_path / "t.safetensors", "kdlib:resnet14", 2, **OWN)
    student = saved(tmp_path / "s.pt", "kdlib:resnet8", 2).replace("@", ":")
    monkeypatch.chdir(tmp_path)
    words = ["audit", "--image-folder", "images", "--kind", "logits"]
    words += ["--teacher", teacher, "--student"]
    assert main([*words, student]) == 0
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert [of["name"] for of in facts["inputs"]][1:3] == [teacher, student]
    assert any(
        "32 x 32" in line and "with the mean (0.1, 0.2, 0.3)" in line for line in facts["read"]
    )
    capsys.readouterr()
    assert main([*words, "kdlib:resnet8@pretrained"]) == 2
    assert "names no file of weights; nothing is downloaded" in capsys.readouterr().err
    assert main([*words, student, "--summary", "t.safetensors"]) == 2
    assert "t.safetensors: would write over what this audit reads." in capsys.readouterr().err
    assert main(["audit", "--teacher", teacher, "--student", "s.npy", "--labels", "y.npy"]) == 2
    assert "a network needs --image-folder DIR." in capsys.readouterr().err
