"""UCI Adult (Kohavi 1996) from its own files: checked, encoded, groups by sex and race."""

import contextlib
import hashlib
import sys
import urllib.request
from http.client import HTTPException
from typing import NamedTuple

import numpy as np

from kdlib.study import files
from kdlib.study.cifar import PATIENCE, DataError, unusable

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
FILES = {  # name: sha256 of its rows, joined by \n, without the remark that adult.test begins with
    "adult.data": "ea895aae047aa83ca757e3024a029be8b11806c656ad2c5b1efd8cec28af19ad",
    "adult.test": "10ab70aad17401e173c0096b6775f78362409517422ceb26c80f5f04dbc2e02e",
}
NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
WORDS = {  # the values that adult.names declares; "?", which is missing, where it occurs
    "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov "
    "Without-pay Never-worked ?",
    "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed "
    "Married-spouse-absent Married-AF-spouse",
    "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty "
    "Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing Transport-moving "
    "Priv-house-serv Protective-serv Armed-Forces ?",
    "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    "sex": "Female Male",
    "native-country": "United-States Cambodia England Puerto-Rico Canada Germany "
    "Outlying-US(Guam-USVI-etc) India Japan Greece South China Cuba Iran Honduras Philippines "
    "Italy Poland Jamaica Vietnam Mexico Portugal Ireland France Dominican-Republic Laos Ecuador "
    "Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand Yugoslavia El-Salvador "
    "Trinadad&Tobago Peru Hong Holand-Netherlands ?",
}
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
)
INCOMES = ("<=50K", ">50K")  # the label; the second one is the positive class
GROUPS = tuple(f"{race}, {sex}" for race in WORDS["race"].split() for sex in WORDS["sex"].split())


class Table(NamedTuple):
    """Both files, one after the other; N = 48,842."""

    numbers: np.ndarray  # (N, 5) float64, columns NUMBERS
    words: np.ndarray  # (N, 86) bool, a column for each value of WORDS
    y: np.ndarray  # (N,) int64, index into INCOMES
    group: np.ndarray  # (N,) int64, index into GROUPS
    train: np.ndarray  # (N,) bool, rows of adult.data

    def encoded(self, fitted_on):
        """(N, 91) float32: numbers by mean and standard deviation of some rows, then words.

        Both are rounded to 4 digits, so that they are the same on every machine."""
        some = self.numbers[fitted_on]
        mean, std = some.mean(axis=0).round(4), some.std(axis=0).round(4)
        scaled = (self.numbers - mean) / np.where(std > 0, std, 1)
        return np.hstack([scaled, self.words]).astype(np.float32)


def load_table(data=None):
    """The Table, from the folder that `find` says; DataError if it is not whole."""
    import pandas as pd

    folder = find(data)
    frames = []
    for name in FILES:
        rows = _rows(name, (folder / name).read_bytes(), folder / name)
        cells = [[cell.strip() for cell in row.decode().split(",")] for row in rows]
        frames.append(pd.DataFrame(cells, columns=COLUMNS).assign(train=name == "adult.data"))
    frame = pd.concat(frames, ignore_index=True)
    values = [
        np.array(frame[column])[:, None] == np.array(words.split())
        for column, words in WORDS.items()
    ]
    race, sex = (frame[c].map(WORDS[c].split().index).to_numpy() for c in ("race", "sex"))
    return Table(
        frame[[*NUMBERS]].astype(np.float64).to_numpy(),
        np.hstack(values),
        (frame.income.str.rstrip(".") == INCOMES[1]).to_numpy().astype(np.int64),
        race * len(WORDS["sex"].split()) + sex,
        frame.train.to_numpy(),
    )


def _rows(name, content, where):
    """Rows of a file of FILES, bytes; DataError if they are not the published ones."""
    rows = [line for line in content.splitlines() if line.strip() and not line.startswith(b"|")]
    if (found := hashlib.sha256(b"\n".join(rows)).hexdigest()) != FILES[name]:
        raise unusable(
            f"{where} does not hold the published rows: sha256 {found[:12]}..., expected "
            f"{FILES[name][:12]}...",
            "adult",
        )
    return rows


def find(data=None):
    """The folder adult/ in the folder `data`, else in $KDLIB_DATA, else in data/; or DataError."""
    folder = files.data_folder(data) / "adult"
    for name in FILES:
        if not (folder / name).is_file():
            raise unusable(f"adult was not found: there is no {folder / name}", "adult")
    return folder


def found():
    """A line: where it is, or why it is not found."""
    try:
        return f"adult: in {find()}"
    except DataError as error:
        return str(error)


def download(folder=None, url=None):
    """Fetch what is missing or damaged of the two files: the Path of their folder, checked.

    folder: else $KDLIB_DATA, else data/. url: a folder that holds copies. DataError if it fails."""
    url = (url or URL).rstrip("/")
    to = files.data_folder(folder) / "adult"
    print(f"kdlib: adult: 6 MB from {url} to {to}, if not there already", file=sys.stderr)
    for name in FILES:
        try:
            with contextlib.suppress(DataError, FileNotFoundError):
                _rows(name, (to / name).read_bytes(), to / name)
                continue  # it is there, with the published rows
            with urllib.request.urlopen(f"{url}/{name}", timeout=PATIENCE) as answer:
                content = answer.read()
            _rows(name, content, f"{url}/{name}")  # lest a page of errors be kept
            files.write_whole(to / name, content)
        except (OSError, ValueError, HTTPException) as error:  # the last: of an answer cut short
            raise DataError(
                f"adult could not be fetched from {url} to {to} ({error}): try again, name a "
                "mirror with --url, or set KDLIB_DATA to a folder with adult/adult.data and "
                "adult/adult.test"
            ) from error
    load_table(to.parent)
    return to
