"""The notebook on own images: its parameters, its example, what it shows, what it leaves."""

import re
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kdlib.config import KdlibError
from kdlib.distilling import example, training
from kdlib.distilling.listing import listing
from kdlib.distilling.notebook import PARAMETERS, check_parameters
from kdlib.pages import render, report

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "10_distil_your_own.ipynb"
OWN = {"teacher": "kdlib:resnet8", "student": "kdlib:resnet8", "epochs": 3, "size": 20}
OWN |= {"batch_size": 16, "lr": 0.05}


def cells():
    return [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]


@pytest.fixture
def usual():
    """The parameters as the notebook has them."""
    known = render.read_parameters(cells()[0].source, NOTEBOOK)
    return {name: default for name, (default, _) in known.items()}


# ---------------------------------------------------------------- parameters


def test_without_parameters_networks_and_recipe_are_those_of_the_example(usual):
    methods = {"methods": ["one_hot", "kd", "ada_alpha"], "out": "distilled"}
    assert tuple(usual) == PARAMETERS
    assert check_parameters(usual) == example.RECIPE | methods
    changed = usual | {"epochs": 2, "student": "torchvision:resnet18", "lr": 1}
    asked = {"epochs": 2, "student": "torchvision:resnet18", "lr": 1.0}
    assert check_parameters(changed) == example.RECIPE | methods | asked


def test_own_images_are_never_trained_on_by_the_recipe_of_the_example(usual):
    networks = {"teacher": "torchvision:resnet50", "student": "torchvision:resnet18"}
    found = check_parameters(usual | networks | {"data": "my/images", "methods": ["one_hot", "kd"]})
    assert found == networks | {"methods": ["one_hot", "kd"], "out": "distilled"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"In": ["# Parameters\nepoch = 3\n"]}, "'epoch' is unknown: did you mean 'epochs'? All"),
        ({"data": "images"}, "teacher='': must name a network, such as torchvision:resnet18"),
        ({"data": "images", "teacher": "kdlib:resnet8"}, "parameter student='': must name a net"),
        ({"data": 3}, "notebook parameter data=3: must be text."),
        ({"out": " "}, "notebook parameter out=' ': must name a folder."),
        ({"methods": 3}, "notebook parameter methods=3: must be text, or a list of texts."),
        ({"methods": ["one_hot", 1]}, "must be text, or a list of texts."),
        ({"methods": ""}, "methods='': must name one_hot, the baseline, and others."),
        ({"methods": "one_hot, kdd"}, "notebook parameter methods 'kdd': did you mean 'kd'?"),
        ({"methods": "kd"}, "notebook parameter methods: must name one_hot, the baseline"),
        ({"seeds": 0}, "notebook parameter seeds 0: must lie between 1 and 1000."),
        ({"seeds": True}, "notebook parameter seeds True: must be a whole number."),
        ({"seeds": "2"}, "notebook parameter seeds '2': must be a whole number."),
        ({"epochs": "3"}, "notebook parameter epochs='3': must be a whole number."),
        ({"epochs": 3.0}, "notebook parameter epochs=3.0: must be a whole number."),
        ({"size": 4}, "notebook parameter size=4: must lie between 8 and 1024."),
        ({"lr": "1e-3"}, "notebook parameter lr='1e-3': must be a number."),
        (
            {"methods": "one_hot,label_smoothing", "temperature": 2},
            "notebook parameter temperature 2",
        ),
        ({"teacher_classes": "no.txt"}, "parameter teacher_classes: there is no file no.txt."),
        ({"student": "torchvision:resnet18@no.pt"}, "there is no file no.pt."),
        ({"augment": "pad"}, "notebook parameter augment='pad': did you mean 'padded'?"),
        ({"student": "resnet18"}, "notebook parameter student resnet18: "),
        ({"student": "torchvision:resnet81"}, "has no 'resnet81'; the nearest are resnet18"),
    ],
)
def test_bad_parameters(usual, changed, said):
    with pytest.raises(KdlibError) as caught:
        check_parameters(usual | changed)
    assert said in str(caught.value)


# ---------------------------------------------------------------- the example


def pixels_of(image):
    return np.asarray(image)[:: example.TIMES, :: example.TIMES].tobytes()


def test_the_example_is_every_digit_of_scikit_learn_once_with_a_long_tail(tmp_path):
    folder = example.example_folder(tmp_path / "images")
    digits = load_digits()
    expected = Counter()
    for image, label in zip(digits.images, digits.target, strict=True):
        expected[str(label), (image * 15).astype(np.uint8).tobytes()] += 1
    held = Counter()
    for file in folder.rglob("*.png"):
        with Image.open(file) as image:
            assert image.size == (16, 16)
            held[file.parent.name, pixels_of(image)] += 1
    assert held == expected
    found = listing(folder)
    counts = np.bincount(found.train.y)
    assert counts[0] == 100 and counts[-1] == 5 and (np.diff(counts) < 0).all()
    assert len(found.val) == 240 and np.bincount(found.test.y).min() >= 50
    before = {file: file.read_bytes() for file in folder.rglob("*.png")}
    example.example_folder(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*.png")} == before


# ---------------------------------------------------------------- run


def test_the_notebook_distils_own_images_and_begins_with_the_answer(pictures, tmp_path):
    out = tmp_path / "out & more"
    asked = OWN | {"data": str(pictures), "out": str(out), "methods": "one_hot,kd,ada_alpha"}
    done = nbformat.read(report.execute(NOTEBOOK, tmp_path / "a.ipynb", asked), as_version=4)
    outputs = [o for c in done.cells if c.cell_type == "code" for o in c.outputs]
    assert {o.output_type for o in outputs} == {"display_data"}  # neither bars nor lines are left
    shown = [o.data["text/html"] for o in outputs]
    assert re.match('<div class="kd-headline"><p class="answer"><strong>Ship ', shown[0])
    assert "digits" not in "".join(shown)
    names = ("Gain on average over the groups", "kd: ", "ada_alpha: ")
    assert all(f'alt="{name}' in page for name, page in zip(names, shown[2:5], strict=True))
    links = re.findall('<a href="([^"]+)">', shown[5])
    assert len(links) == 5 and links[0].endswith("out%20%26%20more/report.html")
    read = shown[-1]
    assert "114 images of 3 classes" in read and "The teacher is right in" in read

    page = render.render(tmp_path / "a.ipynb", tmp_path / "a.html").read_text()
    assert page.count('<figure class="kd-figure">') == 3 and "Messages" not in page
    assert page.index("Ship ") < page.index("<figure")
    assert "<math" in page and 'class="tex"' not in page  # every formula is one
    assert (out / "report-kd.html").exists() and (out / "students" / "kd-s0.md").exists()


def as_script(asked, monkeypatch):
    """([HTML of what the cells show], their names), run here one after the other."""
    shown, space = [], {}
    monkeypatch.setattr("IPython.display.display", lambda *parts: shown.extend(parts))
    parameters, *others = cells()
    exec(parameters.source, space)
    space |= asked
    for cell in others:
        exec(cell.source, space)
    return [part._repr_html_() for part in shown], space


def test_the_notebook_shows_one_method_and_a_second_time_what_is_there(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = OWN | {"data": str(pictures), "methods": "one_hot,kd"}
    shown, space = as_script(asked, monkeypatch)
    page = "".join(shown)
    assert page.count("<figure") == 1 and 'alt="kd: ' in page
    links = re.findall('<a href="([^"]+)">', page)
    ship = space["found"].choice.file
    card = ship.replace(".safetensors", ".md")
    assert links == [f"distilled/{file}" for file in ("report.html", ship, card)]
    assert all(Path(link).exists() for link in links)

    trained = []
    monkeypatch.setattr(training, "fit", lambda *of: trained.append(of))
    again, _ = as_script(asked, monkeypatch)
    assert again[:-1] == shown[:-1] and trained == []
    assert "<p>Trained before, and kept: one_hot-s0, kd-s0.</p>" in again[-1]


# ---------------------------------------------------------------- progress


def test_a_bar_in_a_notebook_leaves_few_states(monkeypatch, capsys):
    monkeypatch.setattr(training, "in_notebook", lambda: True)
    with training.progress("kd-s0", 64 * 100, 0, None) as told:
        for _ in range(100):
            time.sleep(0.005)
            told(64)
    said = capsys.readouterr().err
    assert said.count("\r") == 2  # its first, and its last
    assert "kd-s0: 100%" in said and " images/s" in said
