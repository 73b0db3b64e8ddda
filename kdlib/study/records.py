"""What one run leaves behind: <key>.json and <key>.npz in the records folder.

They are written whole or not at all, and read with checks."""

import functools
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass, field

import numpy as np

from kdlib.config import RECIPE, Config, KdlibError
from kdlib.study.files import exists, folder, whole_file

SPLITS = ("val", "test", "left_out")
ARRAYS = ("y", "group", "predicted", "log_p")
REMEMBERED = 400  # records, of about 100 kB each and what was computed of them


class RecordError(KdlibError):
    """A record that cannot be believed, refused by name."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted for each example of a split, in its fixed order."""

    y: np.ndarray  # (N,) int, class
    group: np.ndarray  # (N,) int, subgroup
    predicted: np.ndarray  # (N,) int
    log_p: np.ndarray  # (N, 2 or more) float16: log-probability of the label, of the prediction

    @property
    def right(self):
        return self.predicted == self.y


def predictions(logits, split):
    """Predictions of a split from its logits (N, C), a CPU tensor."""
    log_p = logits.double().log_softmax(dim=1)
    largest, predicted = log_p.max(dim=1)
    y = split.y.cpu()
    values = np.column_stack([log_p.gather(1, y[:, None]).numpy(), largest.numpy()])
    small = np.int16 if logits.shape[1] > 127 else np.int8
    return Predictions(
        y.numpy().astype(np.int16),
        split.group.cpu().numpy().astype(np.int16),
        predicted.numpy().astype(small),
        values.clip(min=np.finfo(np.float16).min).astype(np.float16),
    )


def labels_sha256(split):
    """Hash of the labels and groups of a split of Predictions, in order."""
    labels = split.y.astype("<i2").tobytes() + split.group.astype("<i2").tobytes()
    return hashlib.sha256(labels).hexdigest()


@dataclass(frozen=True, eq=False)
class Record:
    """config: of the run; facts: everything else in the JSON file; splits: name -> Predictions.

    Nothing of it may be changed: whoever reads the same files is given the same Record."""

    config: Config
    facts: dict
    splits: dict
    # what was computed of it alone, see Panel.remembered
    memory: dict = field(default_factory=dict, init=False, repr=False)

    def test_plus(self):
        """Test and left_out together: everything the run never saw in any choice."""
        both = self.splits["test"], self.splits["left_out"]
        arrays = (np.concatenate([getattr(split, name) for split in both]) for name in ARRAYS)
        return Predictions(*arrays)


def write(record, where=None):
    """Write a record. The JSON file comes last, so that it is there only when all is."""
    path = (where or folder()) / record.config.key()
    arrays = {}
    for name, split in record.splits.items():
        arrays |= {f"{name}_{array}": getattr(split, array) for array in ARRAYS}
    with whole_file(path.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, **arrays)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
    facts = {"recipe": RECIPE, "config": record.config.fields(), **record.facts}
    facts["npz_sha256"] = sha256
    facts["labels_sha256"] = {name: labels_sha256(split) for name, split in record.splits.items()}
    with whole_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")


def read(cfg, where=None):
    """The record of a Config, in memory once it was read, as long as its files are the same.

    RecordError naming the file if it is missing, corrupt, or of another run."""
    path = (where or folder()) / f"{cfg.key()}.json"
    if not exists(cfg, where):
        raise RecordError(
            f"{path}: there is no record of this run; `python -m kdlib run STUDY` makes it."
        )
    return _read(cfg, path, _state(path), _state(path.with_suffix(".npz")))


def _state(path):
    """What differs after a file was written again; None where there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=REMEMBERED)
def _read(cfg, path, *_):
    try:
        facts = json.loads(path.read_text())
        stored, recipe = Config.from_dict(facts.pop("config")), facts.pop("recipe")
        sha256, labels = facts.pop("npz_sha256"), facts.pop("labels_sha256")
    except KdlibError as e:
        raise RecordError(f"{path}: {e}") from None
    except (ValueError, AttributeError, TypeError, KeyError) as e:
        raise _refused(path, f"not a record ({type(e).__name__}: {e})") from None
    if recipe != RECIPE:
        raise _refused(path, f"made with recipe {recipe}, this is recipe {RECIPE}")
    for name, asked in cfg.fields().items():
        if asked != (found := getattr(stored, name)):
            raise _refused(path, f"field {name} is {found!r}, asked for was {asked!r}")
    splits = _read_arrays(path.with_suffix(".npz"), sha256)
    for name, split in splits.items():
        if labels_sha256(split) != labels.get(name):
            said = f"the labels of {name} are not those the record was written with"
            raise _refused(path, said)
    return Record(stored, facts, splits)


def _read_arrays(path, sha256):
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            hashes = f"sha256 {found[:12]}..., expected {sha256[:12]}..."
            raise _refused(path, f"truncated or changed ({hashes})")
        splits = {}
        with np.load(path, allow_pickle=False) as arrays:
            for name in SPLITS:
                splits[name] = Predictions(*(arrays[f"{name}_{array}"] for array in ARRAYS))
        return splits
    except FileNotFoundError:
        raise _refused(path, "missing beside its JSON file") from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as e:
        said = f"not the arrays of a record ({type(e).__name__}: {e})"
        raise _refused(path, said) from None


def _refused(path, why):
    return RecordError(f"{path}: {why}; delete it and run again.")


def check_pair(record, other):
    """RecordError unless two records may be compared.

    That needs the same data, the same labels in the same order, and the same teacher weights."""
    a, b = record.config.key(), other.config.key()
    if record.facts["data_sha256"] != other.facts["data_sha256"]:
        raise RecordError(
            f"Records {a} and {b} are of different data; delete the one that is not of yours and "
            "run again."
        )
    for name in SPLITS:
        if labels_sha256(record.splits[name]) != labels_sha256(other.splits[name]):
            raise RecordError(
                f"Records {a} and {b} have different {name} labels; delete one and run again."
            )
    taught = record.facts.get("teacher_key") == b
    if taught and record.facts["teacher_sha256"] != other.facts["weights_sha256"]:
        raise RecordError(
            f"Record {a} learned from other weights than those of record {b}; delete {a} and run "
            "again."
        )
