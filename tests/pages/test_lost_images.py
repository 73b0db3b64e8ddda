"""Pictures of test images that a method lost or won: the right ones, and what stands there without
them."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from looking import Document
from PIL import Image
from synthetic import GROUPS, baseline_of, but, made

from kdlib.pages import pictures

NOISY = {"shuffled": ("one_hot", "teacher"), "teacher": 0.6, "one_hot": but(0.8, g1=0.55, g2=0.6)}
BOTH = pytest.mark.parametrize("draw", [pictures.lost, pictures.won])


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))
    pictures._unseen.cache_clear()


@pytest.fixture
def p(monkeypatch):
    """A panel whose students copy half of their teachers' mistakes; each image has the shade of its
    row."""
    some = made(kd=but(0.7, few=0.5, g1=0.95, g2=0.95), copies=("kd",), **NOISY)
    n = len(some.y)
    shades = np.broadcast_to(
        (np.arange(n) % 256).astype(np.uint8)[:, None, None, None], (n, 4, 4, 1)
    )
    monkeypatch.setattr(pictures, "_unseen", lambda config, folder: (shades, some.y))
    return some


def by_hand(p, kind, i):
    """(whether image i is lost or won, in how many networks), in loops."""
    students = 0
    for s in range(p.seeds):
        mine = p.runs["kd"][s].test_plus().predicted[i]
        its = p.teachers[s].test_plus().predicted[i]
        students += mine == p.y[i] if kind == "won" else mine == its != p.y[i]
    right = np.mean([run.test_plus().predicted[i] == p.y[i] for run in p.runs["one_hot"]])
    if kind == "won":
        return students > p.seeds / 2 and right < 0.5, students
    return students > 0 and right > 0.5, students


def said_by(p, kind, picture):
    """How many networks are right, or take over the label that stands below a lost image."""
    wanted = p.group_names.index(picture.label if kind == "won" else picture.wrong)
    said = [run.test_plus().predicted[picture.row] == wanted for run in p.runs["kd"]]
    taught = [t.test_plus().predicted[picture.row] == wanted for t in p.teachers]
    return sum(said) if kind == "won" else sum(np.logical_and(said, taught))


def pictures_in(shown):
    return [picture for row in shown.rows for picture in row.pictures]


def gain_by_hand(p):
    """{group: points}"""
    return dict(zip(p.group_names, p.group_gain("kd").mean(axis=0), strict=True))


@BOTH
def test_what_is_shown_was_lost_or_won_and_most_networks_say_so(p, draw):
    shown = draw(p)
    kind = draw.__name__
    assert len(shown.rows) > 1 and len(pictures_in(shown)) > 4
    counted = 0
    for row in shown.rows:
        inside = np.flatnonzero(p.group == p.group_names.index(row.group))
        every = {i: by_hand(p, kind, i)[1] for i in inside if by_hand(p, kind, i)[0]}
        counted += len(every)
        assert row.note.endswith(f"{len(row.pictures)} of {len(every)} such images")
        assert {x.row for x in row.pictures} <= set(every)
        first = sorted(every.values())[::-1][: len(row.pictures)]
        assert [every[x.row] for x in row.pictures] == first
        assert all(x.students == said_by(p, kind, x) for x in row.pictures)
        assert all(x.label == row.group != x.wrong for x in row.pictures)
    assert f": of {40 * len(shown.rows)} test images of " in shown.sentence
    assert f", {counted} are images that most of the 4 one-hot networks get" in shown.sentence


def test_what_is_lost_has_the_label_of_a_teacher_and_what_is_won_that_of_a_baseline(p):
    for draw, of in ((pictures.lost, p.teachers), (pictures.won, p.runs["one_hot"])):
        for picture in pictures_in(draw(p)):
            said = [run.test_plus().predicted[picture.row] for run in of]
            assert p.group_names.index(picture.wrong) in said


@BOTH
def test_classes_are_those_that_change_most_in_that_direction(p, draw):
    gain = gain_by_hand(p)
    sign = 1 if draw is pictures.lost else -1
    shown = [row.group for row in draw(p).rows]
    ordered = sorted((g for g in gain if sign * gain[g] < 0), key=lambda g: sign * gain[g])
    assert shown == [g for g in ordered if g in shown] and shown[0] == ordered[0]
    (named,) = draw(p, groups=[shown[-1]]).rows
    assert named.group == shown[-1]


def test_a_class_that_is_named_is_shown_whichever_way_its_accuracy_changed(p):
    assert gain_by_hand(p)["class 2"] > 0
    (row,) = pictures.lost(p, groups=["class 2"]).rows
    assert row.group == "class 2" and row.note.startswith("+")


def test_where_nothing_changed_a_sentence_says_so():
    same = made(seeds=2)
    for draw in (pictures.lost, pictures.won):
        assert draw(same).rows == () and "no test image of a class whose" in draw(same).sentence
        assert "<img" not in draw(same)._repr_html_()


def test_a_method_without_a_teacher_loses_what_it_gets_wrong(p):
    runs = p.runs["kd"]
    rival = tuple(replace(run, config=baseline_of(run.config)) for run in runs)
    said = pictures.lost(p.posing(kd=rival)).sentence
    assert "gives a wrong label" in said and "teacher" not in said


def test_another_method_can_be_the_baseline(p):
    shown = pictures.won(p, "ada_alpha", "kd")
    assert "rises most compared with distillation, " in shown.sentence
    right = [p.predicted(method) == p.y for method in ("ada_alpha", "kd")]
    for picture in pictures_in(shown):
        mine, other = (correct[:, picture.row].mean() for correct in right)
        assert mine > 0.5 > other


# ---------------------------------------------------------------- the images


def test_the_pixels_are_those_of_the_example(p):
    page = Document(pictures.lost(p)._repr_html_())
    images = [a for _, a in page.all("img")]
    lost = pictures_in(pictures.lost(p))
    assert len(images) == len(lost) <= pictures.MOST
    for picture, image in zip(lost, images, strict=True):
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        seen = Image.open(io.BytesIO(data))
        assert seen.size == (64, 64) and seen.convert("L").getpixel((9, 9)) == picture.row % 256


@BOTH
def test_every_picture_has_a_sentence_of_its_own_and_the_bytes_are_the_same_every_time(p, draw):
    text = draw(p)._repr_html_()
    assert text == draw(p)._repr_html_() and len(text) < 200_000
    said = [a["alt"] for _, a in Document(text).all("img")]
    assert len(set(said)) == len(said) and all(len(s.split()) > 8 for s in said)
    assert not Document(text).all("script")


def test_a_page_without_the_data_says_how_to_get_them_and_does_not_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "no cache"))
    p = made(kd=but(0.7, few=0.5), copies=("kd",), **NOISY)
    of_images = {"dataset": "cifar20", "student": "resnet8"}
    coloured = [replace(t, config=replace(t.config, **of_images)) for t in p.teachers]
    shown = pictures.lost(replace(p, teachers=tuple(coloured)))
    assert "run python -m kdlib data get cifar100, or" in shown.caption
    assert str(tmp_path) not in shown._repr_html_() and shown.rows == ()


def test_images_of_other_data_are_not_shown():
    p = made(kd=but(0.7, few=0.5), copies=("kd",), **NOISY)
    assert len(p.y) == 40 * GROUPS  # which the digits are not
    shown = pictures.lost(p)
    assert shown.rows == () and "not the images of the study's records" in shown.caption
