"""What own students predicted, on disk and in an audit; their weights.

    RUN/predictions/kd-s0-test.npz   what a network says of each image, as `kdlib audit` reads it
    RUN/students/kd-s0.safetensors   weights, and what is needed to use them; beside it a card
    RUN/report.html                  the audit, which begins with the student to ship

`about` is the recipe in words, {what: words}. Used by name are teacher and student (as they were
asked for, such as torchvision:resnet18), epochs, size (pixels), mean and std (three numbers each);
and, if they are there, teacher_sha256, margin_source and margin_reading. The rest is shown as it
stands. N examples, C classes.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kdlib import __version__
from kdlib.asking.networks import METADATA, named
from kdlib.config import KdlibError
from kdlib.distilling.audited import apt, audited, called, group_names, train_counts
from kdlib.distilling.cards import write_cards
from kdlib.distilling.choice import BASELINE, by_method, choose, stem
from kdlib.reading.names import REDUCED
from kdlib.reading.read import source
from kdlib.reading.sentences import AuditError, encodable
from kdlib.study.files import whole_file
from kdlib.study.records import Predictions, reduced
from kdlib.study.weights import write_to


@dataclass(frozen=True)
class Trained:
    """A student after its training."""

    method: str
    seed: int
    val: Predictions
    test: Predictions
    sha256: str  # of its weights


# ---------------------------------------------------------------- predictions


def predictions(logits, examples):
    """Predictions of Examples, from logits (N, C) in their order, a CPU tensor.

    Of any number of classes, whereas the records of a study hold int16 and float16."""
    predicted, log_p = reduced(logits, torch.from_numpy(examples.y))
    return Predictions(examples.y, examples.group, predicted, log_p.astype(np.float32))


def place(out, network, split):
    """Where the predictions of a network are, such as choice.stem("kd", 0) or "teacher"."""
    return Path(out) / "predictions" / f"{network}-{split}.npz"


def write_predictions(path, examples, x):
    """Write Predictions of Examples, whole or not at all. KdlibError where a score is no number."""
    bad = ~np.isfinite(x.log_p).all(axis=1)
    if bad.any():
        raise KdlibError(
            f"{path}: not written, as the network gives no finite score for "
            f"{examples.names[np.argmax(bad)]} and {int(bad.sum()) - 1:,} more; its training "
            "diverged, and a lower learning rate helps."
        )
    columns = (x.predicted, x.log_p[:, 0], x.log_p[:, 1])
    _write(path, examples, dict(zip(REDUCED, columns, strict=True)))


def _ids(examples):
    return np.array([encodable(name) for name in examples.names], dtype=str)


def _write(path, examples, columns):
    with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, id=_ids(examples), **columns)


def read_predictions(path, examples):
    """Predictions of Examples that write_predictions wrote.

    KdlibError, in one sentence, for a file that is damaged or of other images."""
    try:
        found = source(Path(path), "predictions")
    except AuditError as error:
        raise KdlibError(f"{str(error).rstrip('.')}; delete it and run again.") from None
    ids = np.array([]) if found.ids is None else found.ids
    alike = all(np.shape(of) == ids.shape for of in found.columns.values())
    if [*found.columns] != [*REDUCED] or not alike or not np.array_equal(ids, _ids(examples)):
        raise found.error("is not of the images of this split; delete it and run again.")
    predicted, *log_p = found.columns.values()
    log_p = np.column_stack(log_p)
    if predicted.dtype.kind != "i" or not np.isfinite(log_p).all():
        raise found.error("does not hold log-probabilities of its images; delete it and run again.")
    return Predictions(examples.y, examples.group, predicted, log_p)


# ---------------------------------------------------------------- weights


def save_weights(path, model, about, listing):
    """Write the weights of a network as safetensors, and what is needed to use them.

    Equal weights are equal bytes."""
    facts = {
        "class_names": list(map(encodable, listing.class_names)),
        "kdlib": __version__,
        "mean": list(about["mean"]),
        "network": named(about["student"]).network,
        "size": about["size"],
        "std": list(about["std"]),
    }
    write_to(path, model, {METADATA: json.dumps(facts, ensure_ascii=False)})


# ---------------------------------------------------------------- the audit


def finished(out, listing, teacher, students, about, say=None):
    """The Audit of what distils on test images, or the Students where several methods do.

    Writes the page, its JSON and CSV, labels beside the predictions, and a card for each student.
    listing: its train, val and test. teacher: its Predictions of val and test. students: [Trained],
    of which BASELINE is one method; see above for about. say: called with each sentence on what
    was read, but for the recipe and those of the listing. KdlibError for what cannot be audited."""
    methods = by_method(students)
    distilled = [method for method in methods if method != BASELINE]
    if BASELINE not in methods or not distilled:
        raise KdlibError(f"students: needs {BASELINE} and a method that distils.")
    own = (recipe_of(about), *listing.read)
    found = audited(listing, teacher[1], methods, about["teacher"], say)
    audits = found.audits if len(distilled) > 1 else {distilled[0]: found}
    sha256 = {stem(one.method, one.seed): one.sha256 for one in students}
    sha256 |= {about["teacher"]: about.get("teacher_sha256", "")}
    sha256 |= {called(listing): listing.sha256()}
    counts = train_counts(listing)
    for method, a in audits.items():
        inputs = tuple((role, name, sha256.get(name, sha)) for role, name, sha in a.inputs)
        groups = a.groups.assign(n_train=[counts[name] for name in a.groups.group])
        warnings = tuple(map(apt, a.warnings))
        more = {"inputs": inputs, "groups": groups, "warnings": warnings}
        audits[method] = replace(a, **more, read=(*own, *a.read))
    chosen = choose(students, listing, audits, about)
    if len(distilled) > 1:
        found = replace(found, audits=audits, shared=own, choice=chosen)
    else:
        found = replace(audits[distilled[0]], choice=chosen)
    for split in ("val", "test"):
        examples = getattr(listing, split)
        group = np.array(group_names(listing))[examples.group]
        _write(place(out, "labels", split), examples, {"label": examples.y, "group": group})
    found.save(Path(out) / "report.html")
    write_cards(Path(out), listing, methods, about, audits, chosen)
    return found


def recipe_of(about):
    """The recipe in a sentence."""
    words = []
    for what, of in about.items():
        if what == "teacher_sha256":
            continue
        shown = ", ".join(map(str, of)) if isinstance(of, (list, tuple)) else of
        words.append(f"{what.replace('_', ' ')} {shown}")
    return f"Recipe: {'; '.join(words)}."
