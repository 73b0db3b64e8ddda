"""What a distillation leaves in its folder: weights, predictions, and the facts of each network.

A network is there when its facts are, which are written last."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdlib.asking.networks import named
from kdlib.config import KdlibError
from kdlib.distilling import processes, results
from kdlib.distilling.listing import Listing
from kdlib.distilling.recipe import TEACHER
from kdlib.distilling.views import AUGMENTATIONS, OwnData
from kdlib.study.files import claim, write_whole
from kdlib.study.machine import machine
from kdlib.teacher import weights_sha256

CHANGED = "other images, or was trained before these images or their colours were changed"
FILE = "file_sha256"  # a fact: of the file of the weights
BEGINS = "student_begins_with"
NETWORKS = ("teacher", "student")
IN_WORDS = (*NETWORKS, "augment")


@dataclass(frozen=True)
class Setting:
    """What all networks of a distillation share."""

    out: Path
    listing: Listing
    data: OwnData
    data_sha256: str
    fields: dict  # of Own
    device: str
    say: Callable  # of a sentence; does nothing but in the first process

    @property
    def about(self):
        """The recipe, as results tell it."""
        shown = {name: value for name, value in self.fields.items() if name not in IN_WORDS}
        looks = {"mean": self.data.mean, "std": self.data.std}
        views = {"views in training": AUGMENTATIONS[self.fields["augment"]]}
        return {name: self.fields[name] for name in NETWORKS} | shown | looks | views


@contextlib.contextmanager
def alone(out):
    """A block in which no other command writes into the folder. KdlibError if one does already."""
    if processes.rank():
        yield
        return
    with claim("distill", out, wait=False) as held:
        if not held:
            raise KdlibError(
                f"--out {out}: another command is at work there; wait until it has ended, or "
                "choose another folder."
            )
        yield


def weights_of(setting, cfg):
    """The file of a network's weights."""
    folder = "teachers" if cfg.name == TEACHER else "students"
    return setting.out / folder / f"{cfg.key()}.safetensors"


def recipe_of(cfg):
    """The fields of an Own, where weights that a student begins with count by their content."""
    asked = named(cfg.student)
    begins = asked.file
    if isinstance(begins, Path):
        begins = _sha256(begins)
    return cfg.fields() | {"student": asked.network, BEGINS: begins}


def _facts(setting, cfg, teacher):
    """What must be the same for a network on disk to be the one that is asked for."""
    sha256 = teacher.sha256 if teacher and cfg.teacher else None
    same = {"config": recipe_of(cfg), "data": setting.data_sha256, "teacher_sha256": sha256}
    return json.loads(json.dumps(same))  # as it will be read


def is_there(setting, cfg, teacher):
    """Whether a network is on disk. KdlibError if another one is, in its place."""
    weights = weights_of(setting, cfg)
    path = weights.with_suffix(".json")
    if not path.exists():
        return False
    held = _read_facts(path)
    for name, value in _facts(setting, cfg, teacher).items():
        if held.get(name) == value:
            continue
        what = {"data": CHANGED, "teacher_sha256": "another teacher"}.get(name)
        if what is None:
            before = dict(held.get(name) or {})
            fields = [*value, *before]  # those of another version may be others
            field = next(field for field in fields if before.get(field) != value.get(field))
            what = f"{field}={before.get(field)!r}, and {value.get(field)!r} is asked for"
            if field == BEGINS:
                what = "a student that began with other weights"
        raise KdlibError(f"{path}: is of {what}; choose another --out, or delete {setting.out}.")
    if not all(file.exists() for file in (weights, *(of for of, _ in _predictions(setting, cfg)))):
        return False
    if held.get(FILE) != _sha256(weights):
        raise KdlibError(f"{weights}: changed since it was written; delete it and run again.")
    return True


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read_facts(path):
    try:
        held = json.loads(path.read_text())
        return dict(held) | {"weights_sha256": held["weights_sha256"]}
    except (ValueError, TypeError, KeyError) as error:
        raise KdlibError(f"{path}: is damaged ({error}); delete it and run again.") from None


def _predictions(setting, cfg):
    """[(file, "val" or "test")] of what a network predicts; a teacher's are written later."""
    names = () if cfg.name == TEACHER else ("val", "test")
    return [(results.place(setting.out, cfg.key(), name), name) for name in names]


def trained(setting, cfg):
    """The results.Trained of a student on disk."""
    held = _read_facts(weights_of(setting, cfg).with_suffix(".json"))
    said = {}
    for file, name in _predictions(setting, cfg):
        said[name] = results.read_predictions(file, getattr(setting.listing, name))
    return results.Trained(cfg.name, cfg.seed, **said, sha256=held["weights_sha256"])


def write_teacher(setting, teacher):
    """Write what a prepared.Teacher predicts; its Predictions of val and test."""
    said = []
    for name, logits in (("val", teacher.val), ("test", teacher.test)):
        examples = getattr(setting.listing, name)
        said.append(results.predictions(logits, examples))
        results.write_predictions(results.place(setting.out, TEACHER, name), examples, said[-1])
    return said


def write(setting, run, curves, teacher, seconds):
    """Write what a network predicts, its weights and, when all is there, its facts."""
    cfg, data = run.cfg, setting.data
    files = _predictions(setting, cfg)
    logits = {}
    for _, name in files:
        logits[name] = processes.predicted(run.model, getattr(data, name).x, data)
    if processes.rank():
        return
    for file, name in files:
        examples = getattr(setting.listing, name)
        results.write_predictions(file, examples, results.predictions(logits[name], examples))
    about = setting.about | {"student": cfg.student}
    results.save_weights(weights_of(setting, cfg), run.model, about, setting.listing)
    facts = _facts(setting, cfg, teacher) | {
        "weights_sha256": weights_sha256(run.model),
        FILE: _sha256(weights_of(setting, cfg)),
        "curves": curves,
        "seconds": round(seconds, 1),
        **machine(setting.device, cfg.precision),
    }
    write_whole(weights_of(setting, cfg).with_suffix(".json"), json.dumps(facts, indent=1))
