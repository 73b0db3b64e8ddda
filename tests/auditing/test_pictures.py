"""Pictures of what the student lost: the right examples, whatever the files are; their looks."""

import base64
import builtins
import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from looking import CONTRAST, Document, look, requested
from PIL import Image
from refusals import refused

import kdlib
from kdlib.asking import given
from kdlib.auditing import pictures
from kdlib.auditing.page import page
from kdlib.pages.pictures import MOST, ROWS, Picture
from kdlib.study import grids
from kdlib.study.datasets import load

N, CLASSES = 400, ("cat", "dog", "<script>alert(1)</script>", "ship")
ROLES = ("teacher", "student", "baseline")


def predictions(students=3, baselines=2, teachers=1, seed=0, n=N):
    """(y, {role: (S, N)}) of which students take over a part of the teachers' mistakes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)

    def model():
        return np.where(rng.random(n) < 0.7, y, rng.integers(0, 4, n))

    teacher = np.array([model() for _ in range(teachers)])
    copied = teacher[np.arange(students) % teachers]
    student = np.where(rng.random((students, n)) < 0.5, copied, [model() for _ in range(students)])
    return y, {
        "teacher": teacher,
        "student": student,
        "baseline": np.array([model() for _ in range(baselines)]),
    }


def audited(images, y=None, predicted=None, **options):
    if y is None:
        y, predicted = predictions()
    models = {role: [*of] for role, of in predicted.items()}
    return kdlib.audit(y, **models, classes=CLASSES, images=images, resamples=2, **options)


def arrays(n=N, shape=(8, 8, 3)):
    """(n, ...) uint8, each image of one shade: that of its row."""
    shade = (np.arange(n) % 256).astype(np.uint8)
    return np.broadcast_to(shade.reshape(-1, *(1,) * len(shape)), (n, *shape)).copy()


def shown(picture):
    """The pillow image of a Picture, from its address."""
    kind, data = picture.data.split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


def every(found):
    return [picture for row in found.lost for picture in row.pictures]


# ---------------------------------------------------------------- which examples


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("with_baseline", [True, False])
def test_copies_by_hand(teachers, with_baseline):
    y, predicted = predictions(teachers=teachers)
    if not with_baseline:
        predicted.pop("baseline")
    found = pictures.lost_in(y, predicted)
    for i in range(N):
        took_over = 0
        for s in range(3):
            says = predicted["teacher"][s % teachers, i]
            took_over += says != y[i] and predicted["student"][s, i] == says
        baselines = predicted.get("baseline", np.full((1, N), y[i]))[:, i]
        assert found.networks[i] == took_over and found.share[i] == np.mean(baselines == y[i])
        assert found.some[i] == (took_over > 0 and np.mean(baselines == y[i]) > 0.5)


@pytest.mark.parametrize("teachers", [1, 3])
def test_what_is_shown_is_what_most_students_lost_and_what_it_says_is_so(teachers):
    y, predicted = predictions(teachers=teachers)
    found = audited(arrays(), y, predicted)
    lost = pictures.lost_in(y, predicted)
    seen = [p.row for p in every(found)]
    assert len(seen) == len(set(seen)) <= MOST and len(seen) >= 12
    for row in found.lost:
        inside = np.flatnonzero(lost.some & (y == CLASSES.index(row.group)))
        assert row.note.endswith(f"; {len(row.pictures)} of {len(inside)} such examples")
        assert "harmed" not in row.note  # which may be so of one student, and not among several
        assert {p.row for p in row.pictures} <= set(inside)
        left = set(inside) - {p.row for p in row.pictures}
        least = min(lost.networks[p.row] for p in row.pictures)
        assert least >= max(lost.networks[[*left]], default=0)
        for p in row.pictures:
            assert p.label == CLASSES[y[p.row]] == row.group
            says = CLASSES.index(p.wrong)
            copied = predicted["teacher"][np.arange(3) % teachers, p.row] == says
            assert p.students == (copied & (predicted["student"][:, p.row] == says)).sum() > 0
            assert shown(p).convert("L").getpixel((0, 0)) == p.row % 256


def test_harmed_groups_come_first_and_alone_and_the_lowest_gain_leads():
    y, predicted = predictions(n=4000)
    hurt = np.isin(y, [1, 3]) & (np.random.default_rng(0).random(4000) < np.where(y == 3, 0.6, 0.4))
    predicted["student"] = np.where(hurt, predicted["teacher"], predicted["student"])
    predicted["teacher"] = np.where(hurt, (y + 1) % 4, predicted["teacher"])
    predicted["student"] = np.where(hurt, (y + 1) % 4, predicted["student"])
    found = audited(arrays(4000), y, predicted)
    table = found.groups.set_index("group")
    harmed = table[table.finding == "harmed"].sort_values("gain").index
    assert {"ship", "dog"} <= set(harmed)
    assert [row.group for row in found.lost] == [*harmed][:ROWS]
    y, predicted = predictions()
    lucky = np.random.default_rng(1).random((3, N)) < 0.85  # nobody is harmed
    predicted["student"] = np.where(lucky, y, predicted["teacher"])
    found = audited(arrays(), y, predicted)
    assert "harmed" not in [*found.groups.finding]
    lowest = found.groups.sort_values(["gain", "group"]).group
    some = [row.group for row in found.lost]
    assert len(some) > 1 and some == [group for group in lowest if group in some]


def test_overlapping_groups_show_no_example_twice():
    y, predicted = predictions()
    table = pd.DataFrame({"a": ["x", "y"] * (N // 2), "b": ["u", "u", "v", "v"] * (N // 4)})
    found = audited(arrays(), y, predicted, groups=table)
    rows = [p.row for p in every(found)]
    assert len(rows) == len(set(rows)) > 6 and len(found.lost) > 2


def test_that_no_group_shown_has_clearly_lost_is_said():
    said = "None of these groups has clearly lost"
    y, predicted = predictions()
    found = audited(arrays(), y, predicted)
    assert set(found.groups.finding) == {"no clear difference"} and said in page(found)
    predicted["baseline"] = np.array([y, y])
    predicted["student"][:, y == 0] = predicted["teacher"][0, y == 0]
    found = audited(arrays(), y, predicted)
    assert "harmed" in set(found.groups.finding) and said not in page(found)


def test_of_a_student_that_copies_nothing_there_is_no_section():
    y, predicted = predictions()
    predicted["teacher"] = y[None]
    found = audited(arrays(), y, predicted)
    assert found.lost == () and "Mistakes taken over from the teacher" not in page(found)
    assert "Mistakes taken over from the teacher" not in page(audited(None))


# ---------------------------------------------------------------- what files are


def saved(folder):
    """A CSV file of paths relative to it, in an order of its own columns."""
    (folder / "pictures").mkdir(exist_ok=True)
    names = []
    for row, pixels in enumerate(arrays(shape=(40, 200, 3))):
        names.append(f"pictures/{row}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    pd.DataFrame({"path": names, "size": 3}).to_csv(folder / "images.csv", index=False)
    return folder / "images.csv"


def test_paths_are_relative_to_their_file_and_large_pictures_become_small(tmp_path):
    found = audited(saved(tmp_path))
    assert not [limit for limit in found.limits if "cannot be read" in limit]
    for p in every(found):
        image = shown(p)
        assert image.size == (128, 26) and image.format == "JPEG"
        assert abs(image.convert("L").getpixel((64, 13)) - p.row % 256) <= 2
        assert p.name == f"{p.row}.png"
    same = audited([str(tmp_path / f"pictures/{row}.png") for row in range(N)])
    assert [p.data for p in every(same)] == [p.data for p in every(found)]


def test_a_missing_or_broken_picture_is_a_tile_and_a_sentence(tmp_path):
    rows = [p.row for p in every(audited(arrays()))]
    file = saved(tmp_path)
    (tmp_path / f"pictures/{rows[0]}.png").unlink()
    (tmp_path / f"pictures/{rows[1]}.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    whole = (tmp_path / f"pictures/{rows[2]}.png").read_bytes()
    (tmp_path / f"pictures/{rows[2]}.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"pictures/{rows[3]}.png").write_text("<svg onload='alert(1)'/>")
    found = audited(file)
    (said,) = [limit for limit in found.limits if "cannot be read" in limit]
    assert said.startswith("4 pictures of images.csv cannot be read: ") and f"{rows[0]}.png" in said
    assert [p.row for p in every(found) if not p.data] == rows[:4]
    document = Document(page(found))
    tiles = [words for words, _ in document.all("span", **{"class": "tile"})]
    assert tiles == [f"{row}.png" for row in rows[:4]]


@pytest.mark.parametrize("odd", ["", "a\0b", "..", "/", "x" * 5000, "http://evil.example/a.png"])
def test_odd_paths_are_tiles(odd):
    found = audited([odd or "nothing"] * N)
    assert every(found) and not any(p.data for p in every(found))
    assert "evil.example" not in page(found)


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F", "I"])
def test_pictures_of_every_mode(tmp_path, kind):
    ramp = np.add.outer(np.arange(90), np.arange(90))
    if kind == "I;16":
        image = Image.fromarray((ramp * 300).astype(np.uint16))
    elif kind in ("F", "I"):
        image = Image.fromarray(ramp.astype(np.float32 if kind == "F" else np.int32))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert(kind)
    image.save(tmp_path / "a.tiff")
    name, data = pictures._of_file(tmp_path, "a.tiff", 0)
    assert name == "a.tiff" and data
    seen = np.asarray(shown(Picture(0, "", "", 1, name, data)).convert("L"), dtype=float)
    assert seen.shape == (90, 90) and seen[80:, 80:].mean() > seen[:10, :10].mean() + 60


def test_what_is_seen_through_is_white_and_a_turned_photograph_stands_upright(tmp_path):
    Image.new("RGBA", (80, 80), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = Picture(0, "", "", 1, "", pictures._of_file(tmp_path, "clear.png", 0)[1])
    assert shown(clear).getpixel((40, 40)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (100, 50)).save(tmp_path / "turned.jpg", exif=exif)
    turned = Picture(0, "", "", 1, "", pictures._of_file(tmp_path, "turned.jpg", 0)[1])
    assert shown(turned).size == (50, 100)


def test_a_bomb_is_a_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (50, 50)).save(tmp_path / "bomb.png")
    assert pictures._of_file(tmp_path, "bomb.png", 0) == ("bomb.png", "")


def test_bytes_as_data_sets_in_parquet_hold_them(tmp_path):
    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    held = [{"bytes": png(pixels), "path": None} for pixels in arrays()]
    pd.DataFrame({"image": held, "label": 1}).to_parquet(tmp_path / "d.parquet")
    for found in (audited(tmp_path / "d.parquet"), audited({"image": [h["bytes"] for h in held]})):
        for p in every(found):
            assert shown(p).convert("L").getpixel((0, 0)) == p.row % 256


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (300, 200, 3)])
def test_arrays_of_every_shape(shape):
    for p in every(audited(arrays(shape=shape))):
        assert abs(shown(p).convert("L").getpixel((0, 0)) - p.row % 256) <= 2
        assert p.name == f"row {p.row}"
        if shape[0] == 8:  # as squares, not as a blur
            assert shown(p).size == (64, 64)


@pytest.mark.parametrize(
    "images, said",
    [
        (arrays().astype(float) / 255, "float64 of shape (400, 8, 8, 3)"),
        (arrays(shape=(3, 8, 8)), "uint8 of shape (400, 3, 8, 8)"),
        (arrays(shape=(0, 8)), "of shape (400, 0, 8)"),
        (arrays(N - 1), "399 rows"),
        (np.arange(N), "row 0 is 0, not a path"),
        ({"a": ["x"] * N, "b": ["y"] * N}, "name the column with the paths of the images"),
        ([None] * N, "row 0 is None, not a path"),
    ],
    ids=lambda x: x[:12] if isinstance(x, str) else "",
)
def test_what_are_no_pictures_is_one_sentence(images, said):
    assert said in refused(audited, images)


def test_without_pillow_one_sentence_says_so(monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pictures need pillow" in refused(pictures._images, None)


def test_the_images_of_a_study_are_those_of_its_records_or_refused():
    cfg = grids.study("digits")(1)[0]
    data = load(cfg)
    y = np.concatenate([data.test.y, data.left_out.y])
    panel = SimpleNamespace(teachers=[SimpleNamespace(config=cfg)], y=y)
    images = given.images_of(panel, "data")
    assert images.shape == (len(y), 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], data.test.x[0])
    np.testing.assert_array_equal(images[-1], data.left_out.x[-1])
    panel.y = y[::-1]
    assert "not the images" in refused(given.images_of, panel, "data")


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def saved_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    noise = np.random.default_rng(0).integers(0, 256, (N, 300, 300, 3), dtype=np.uint8)
    return audited(noise).save(folder / "a.html")


def test_the_page_is_small_and_every_picture_has_a_sentence_of_its_own(saved_page):
    html, facts, _ = saved_page
    assert html.stat().st_size < 3_000_000
    document = Document(html.read_text())
    said = [a["alt"] for _, a in document.all("img") if a["alt"].startswith("Example ")]
    lost = json.loads(facts.read_text())["lost"]
    assert len(said) == len(set(said)) == len(lost) >= 12
    assert all(len(s.split()) >= 6 and s.endswith(".") for s in said)
    assert not document.all("script")
    for p, alt in zip(lost, said, strict=True):
        assert f"a {p['label']} that teacher and student call {p['wrong']}." in alt


@pytest.mark.parametrize("width, in_a_row", [(320, 3), (390, 4), (1280, 6)])
def test_how_it_looks(browser, saved_page, width, in_a_row):
    browser.get("about:blank")  # what Chromium shows at its start asks for much
    browser.get_log("performance")
    look(browser, width)
    browser.get(saved_page[0].as_uri())
    assert len(requested(browser)) == 1
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.tiles img')].map(e => "
        "e.getBoundingClientRect().toJSON())"
    )
    assert all((round(box["width"]), round(box["height"])) == (64, 64) for box in boxes)
    assert sum(box["top"] == boxes[0]["top"] for box in boxes) == in_a_row
    for scheme in ("light", "dark"):
        look(browser, width, scheme)
        found = browser.execute_script(CONTRAST, ".tiles strong, .tiles em, .tiles small")
        assert len(found) > 30 and min(found)[0] >= 4.5
