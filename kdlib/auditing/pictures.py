"""Thumbnails of what the student lost: the teacher's mistakes that it took over.

An example is shown where the teacher is wrong, the student gives the teacher's wrong label, and the
baseline, if there is one, is right. Pictures come as paths, or as arrays of bytes. S students, T
teachers, n baselines, N examples.
"""

import io
import warnings
from pathlib import Path

import numpy as np

from kdlib.auditing.tables import CHANGED
from kdlib.config import count_of
from kdlib.evidence.words import number
from kdlib.pages.pictures import ROWS, SIDE, Row, address, each_of, lost_by, thumbnail
from kdlib.reading.names import plain
from kdlib.reading.read import file_and_columns
from kdlib.reading.sentences import AuditError, listed, printable, quoted

COLUMNS = ("image", "images", "path", "paths", "file", "filename", "imagepath", "filepath")


def alt(p):
    """What a Picture shows, as a sentence that no other picture of the page has."""
    label, wrong, name = (printable(text) for text in (p.label, p.wrong, p.name))
    return f"Example {p.row} ({name}), a {label} that teacher and student call {wrong}."


def told_lost(lost):
    """The examples that pictures show, for JSON: one dictionary each."""
    return [
        {"group": row.group, "row": p.row, "image": p.name}
        | {"label": p.label, "wrong": p.wrong, "students": p.students}
        for row in lost
        for p in row.pictures
    ]


def pictures_of(source, y, predicted, class_names, members, table):
    """((Row, ...), sentences: what could not be shown) of the pictures of a Source.

    y (N,) int64; predicted: {role: (S, N)}; members: Groups; table: Audit.groups. The groups that
    are harmed, or else those that gain least. KdlibError for what are no pictures.
    """
    images = _images(source)
    found = lost_in(y, predicted)
    reference = "baseline" if "baseline" in predicted else "teacher"
    with_some = _groups_to_show(table, [found.some[rows].any() for rows in members.examples])
    lost, shown = [], []
    for g in with_some:
        some = members.examples[g]
        some = some[found.some[some]]
        new = some[~np.isin(some, shown)]
        pictures = found.pictures(new, each_of(with_some), y, class_names, images)
        shown += [p.row for p in pictures]
        of = table.iloc[g]
        # not what it is called, which depends on how many students are compared
        gain = f"{number(of.gain)} over the {reference}"
        note = f"{gain}; {len(pictures)} of {len(some):,} such examples"
        if pictures:
            lost.append(Row(of.group, note, pictures))
    return tuple(lost), _limits(source, lost)


def lost_in(y, predicted):
    """Found: each student stands beside its own teacher, or the only one."""
    teachers, students = predicted["teacher"], predicted["student"]
    its = teachers[np.arange(len(students)) % len(teachers)]
    return lost_by(y, students, predicted.get("baseline"), its)


def _groups_to_show(table, lost):
    """Indices of the groups to show, harmed ones if there are any, from the lowest gain."""
    some = table[np.array(lost, dtype=bool)].sort_values(["gain", "group"], kind="stable")
    if (hurt := some.finding.isin([lost for lost, _ in CHANGED.values()])).any():
        some = some[hurt]
    return [table.index.get_loc(k) for k in some.head(ROWS).index]


def _limits(source, lost):
    """Sentences on pictures that are missing from the page."""
    missing = [p.name for row in lost for p in row.pictures if not p.data]
    if not missing:
        return []
    what = count_of(len(missing), "picture")
    return [f"{what} of {printable(Path(source.name).name)} cannot be read: {listed(missing)}."]


# ---------------------------------------------------------------- pictures as addresses


def _images(found):
    """A function of a row -> (name, address of the image, or "")."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise AuditError("--images: pictures need pillow (pip install pillow).") from None
    arrays = [values for values in found.columns.values() if np.ndim(values) >= 3]
    if arrays:
        return _of_arrays(found, arrays[0])
    values = found.ids  # where a column of paths was taken for the ids that it is as well
    if values is None or any(plain(name) in COLUMNS for name in found.columns):
        values = found.columns[found.one(COLUMNS, "the paths of the images")]
    folder = file_and_columns(found.name)[0].parent if found.sha256 else Path()
    for row, value in enumerate(values):
        if not isinstance(value, (str, Path, bytes, dict)):
            what = f"the image in row {row} is {quoted(value)}"
            raise found.error(f"{what}, not a path; arrays of images are uint8, (N, H, W, 3).")
    return lambda row: _of_file(folder, values[row], row)


def _of_arrays(found, images):
    shape = images.shape[1:]
    right = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if images.dtype != np.uint8 or not right or 0 in shape:
        raise found.error(
            f"images are arrays of uint8, (N, H, W, 3) or (N, H, W), not {images.dtype} of shape "
            f"{images.shape}."
        )
    return lambda row: (f"row {row}", address(np.array(images[row])))


def _of_file(folder, value, row):
    """(name, address) of a path, or of bytes, which data sets in Parquet hold as {bytes, path}."""
    import PIL.Image

    path = value
    if isinstance(value, dict):
        path = value.get("path") or f"row {row}"
        value = value.get("bytes") or path
    name = Path(path).name if isinstance(path, (str, Path)) else f"row {row}"
    try:
        file = io.BytesIO(value) if isinstance(value, bytes) else folder / value
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as image:
            image.draft("RGB", (SIDE, SIDE))  # of a large JPEG no more than is needed
            return name, thumbnail(image)
    except Exception:  # of a missing or damaged file, pillow raises a dozen classes
        return name, ""
