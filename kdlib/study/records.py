"""What one run leaves behind: <key>.json and <key>.npz in the records folder.

They are written whole or not at all, and every fact and array is checked when they are read."""

import contextlib
import functools
import hashlib
import io
import json
import os
from dataclasses import dataclass, field

import numpy as np

from kdlib.config import RECIPE, Config, KdlibError
from kdlib.study.facts import SEAL, SPLITS, check, laid_out, parsed, sealed
from kdlib.study.files import exists, folder, read_file, write_whole

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
    y = split.y.cpu()
    predicted, log_p = reduced(logits, y)
    small = np.int16 if logits.shape[1] > 127 else np.int8
    return Predictions(
        y.numpy().astype(np.int16),
        split.group.cpu().numpy().astype(np.int16),
        predicted.astype(small),
        log_p.astype(np.float16),
    )


def reduced(logits, y):
    """(predicted (N,) int64, log_p (N, 2) float64) of logits (N, C), labels (N,), CPU tensors."""
    log_p = logits.double().log_softmax(dim=1)
    largest, predicted = log_p.max(dim=1)
    both = np.column_stack([log_p.gather(1, y[:, None]).numpy(), largest.numpy()])
    return predicted.numpy(), both.clip(min=np.finfo(np.float16).min)


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
    """Write a record. The JSON file comes last, so that it is there only when all is.

    RecordError for what `read` would refuse."""
    path = (where or folder()) / record.config.key()
    arrays = {}
    for name, split in record.splits.items():
        arrays |= {f"{name}_{array}": getattr(split, array) for array in ARRAYS}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    facts = record.facts | {
        "npz_sha256": hashlib.sha256(content.getbuffer()).hexdigest(),
        "labels_sha256": {name: labels_sha256(split) for name, split in record.splits.items()},
    }
    try:
        facts = parsed(laid_out(facts).encode())  # as they will be read
        check(facts, record.config)
        _check_arrays(record.splits, facts)
    except (KdlibError, ValueError) as error:
        raise RecordError(f"{path}: not written: {str(error).rstrip('.')}.") from None
    facts = sealed({"recipe": RECIPE, "config": record.config.fields(), **facts})
    for suffix, data in ((".npz", content.getvalue()), (".json", laid_out(facts).encode())):
        write_whole(path.with_suffix(suffix), data)


def paths(where=None):
    """The JSON files of all records in a folder, in order.

    Files that are hidden are no records, nor are links to nothing."""
    found = sorted((where or folder()).glob("[!.]*.json"))
    return [path for path in found if not path.is_symlink() or os.path.exists(path)]


def taught_by(key):
    """The keys of the runs on record that the run of a key taught. Damaged files do not count."""
    named = f'"teacher_key": "{key}"'.encode()
    found = []
    for path in paths():
        with contextlib.suppress(OSError, ValueError):
            if named in read_file(path):
                found.append(path.stem)
    return found


def read(cfg, where=None):
    """The record of a Config, kept in memory for as long as its files stay the same.

    RecordError naming the file if it is missing, corrupt, or of another run."""
    path = (where or folder()) / f"{cfg.key()}.json"
    if not exists(cfg, where):
        raise RecordError(
            f"{path}: there is no record of this run; `python -m kdlib run STUDY` makes it."
        )
    return _read(cfg, path, _state(path), _state(path.with_suffix(".npz")))


def _state(path):
    """What differs once a file was written again; None where there is no file."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=REMEMBERED)
def _read(cfg, path, *_):
    try:
        written = parsed(read_file(path))
        facts = dict(written)
        recipe, fields = facts.pop("recipe", None), facts.pop("config", None)
        if recipe != RECIPE:
            raise ValueError(f"made with recipe {recipe!r:.60}, this is recipe {RECIPE}")
        if type(fields) is not dict:
            raise ValueError(f"config is {fields!r:.60}, must be fields and their values")
        stored = Config.from_dict(fields)
        for name, asked in cfg.fields().items():
            if asked != (found := getattr(stored, name)):
                raise ValueError(f"field {name} is {found!r}, asked for was {asked!r}")
        if facts.pop(SEAL, None) is None:
            raise ValueError("it has no seal")
        check(facts, stored)
        if written != sealed(written):
            raise ValueError("changed since it was written (its seal is of other facts)")
    except (KdlibError, OSError, ValueError) as error:
        raise _refused(path, error) from None
    sha256, labels = facts.pop("npz_sha256"), facts.pop("labels_sha256")
    splits = _read_arrays(path.with_suffix(".npz"), sha256, facts)
    for name, split in splits.items():
        if labels_sha256(split) != labels[name]:
            said = f"the labels of {name} are not those the record was written with"
            raise _refused(path, said)
    return Record(stored, facts, splits)


def _read_arrays(path, sha256, facts):
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise _refused(path, "missing beside its JSON file") from None
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        hashes = f"sha256 {found[:12]}..., expected {sha256[:12]}..."
        raise _refused(path, f"truncated or changed ({hashes})")
    try:
        splits = {}
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in SPLITS:
                splits[name] = Predictions(*(arrays[f"{name}_{array}"] for array in ARRAYS))
        _check_arrays(splits, facts)
        return splits
    # zipfile, zlib and numpy raise a dozen classes on damaged bytes
    except Exception as error:
        said = f"not the arrays of a record ({type(error).__name__}: {error})"
        raise _refused(path, said) from None


def _check_arrays(splits, facts):
    """ValueError unless these can be the arrays of a record with these facts."""
    classes, groups = len(facts["class_names"]), len(facts["group_names"])
    for name, split in splits.items():
        for array, below in (("y", classes), ("group", groups), ("predicted", classes)):
            values = getattr(split, array)
            if values.dtype.kind != "i" or values.shape != (len(split.y),):
                raise ValueError(f"{name}_{array} is {values.dtype} of shape {values.shape}")
            if len(values) and not 0 <= values.min() <= values.max() < below:
                raise ValueError(f"{name}_{array} holds numbers that are not from 0 to {below - 1}")
        log_p = split.log_p
        if log_p.dtype != np.float16 or log_p.ndim != 2 or log_p.shape[1] < 2:
            raise ValueError(f"{name}_log_p is {log_p.dtype} of shape {log_p.shape}")
        if len(log_p) != len(split.y) or not (np.isfinite(log_p) & (log_p <= 0)).all():
            raise ValueError(f"{name}_log_p does not hold log-probabilities of its examples")


def _refused(path, why):
    if isinstance(why, OSError):
        why = f"cannot be read ({why.strerror})"
    if isinstance(why, json.JSONDecodeError):
        why = "cut short or changed, so that it is no JSON"
    files = f"{path.stem}.json and {path.stem}.npz"
    return RecordError(
        f"{path}: {str(why).rstrip('.')}; delete {files} there and run again, or put back the ones "
        "that git has."
    )


def check_pair(record, other):
    """RecordError unless two records may be compared.

    That needs the same data, names and, where both are of the same training set, counts; the same
    labels in the same order; and the same teacher weights."""
    a, b = record.config.key(), other.config.key()
    shared = {"data_sha256": "data", "class_names": "classes", "group_names": "groups"}
    if all(getattr(record.config, n) == getattr(other.config, n) for n in ("fold", "with_val")):
        shared["train_counts"] = "counts of training images"
    for name, what in shared.items():
        if record.facts[name] != other.facts[name]:
            raise RecordError(
                f"Records {a} and {b} are of different {what}; delete the one that is not yours "
                "and run again."
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
