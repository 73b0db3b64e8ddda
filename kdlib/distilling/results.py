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
from safetensors import torch as safetensors

from kdlib import __version__
from kdlib.config import KdlibError, count_of
from kdlib.distilling.audited import apt, audited, called, group_names, train_counts, unseen
from kdlib.distilling.cards import network_of, write_cards
from kdlib.distilling.choice import BASELINE, by_method, choose, stem
from kdlib.reading.names import REDUCED
from kdlib.reading.read import source
from kdlib.reading.sentences import encodable, listed
from kdlib.study.files import whole_file
from kdlib.study.records import Predictions

LOWEST = float(np.finfo(np.float16).min)  # a log-probability that is written, as in records
HIDDEN = ("teacher_sha256",)  # of about: stands with the files


@dataclass(frozen=True)
class Trained:
    """A student after its training."""

    method: str
    seed: int
    val: Predictions
    test: Predictions
    sha256: str  # of its weights


# ---------------------------------------------------------------- predictions


def reduced(logits, y):
    """(predicted (B,) int64, log_p (B, 2) float32) of logits (B, C) and labels y (B,), tensors.

    log_p: of the label, of the predicted class. Of any number of classes, whereas the records of a
    study hold int16 and float16."""
    log_p = logits.double().log_softmax(dim=1)
    largest, predicted = log_p.max(dim=1)
    label = log_p.gather(1, y.to(log_p.device)[:, None])[:, 0]
    both = np.column_stack([label.cpu().numpy(), largest.cpu().numpy()])
    return predicted.cpu().numpy(), both.clip(min=LOWEST).astype(np.float32)


def predictions(logits, examples):
    """Predictions of Examples, from logits (N, C) in their order."""
    predicted, log_p = reduced(logits, torch.from_numpy(np.asarray(examples.y, np.int64)))
    return Predictions(examples.y, examples.group, predicted, log_p)


def place(out, network, split):
    """Where the predictions of a network are, such as choice.stem("kd", 0) or "teacher"."""
    return Path(out) / "predictions" / f"{network}-{split}.npz"


def write_predictions(path, examples, x):
    """Write Predictions of Examples, whole or not at all. KdlibError where a score is no number."""
    log_p = np.asarray(x.log_p[:, :2], dtype=np.float32)
    bad = ~np.isfinite(log_p).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise KdlibError(
            f"{path}: not written, as the network gives no finite score for "
            f"{examples.names[row]} and {int(bad.sum()) - 1:,} more; its training diverged, and a "
            "lower learning rate helps."
        )
    columns = (np.asarray(x.predicted, dtype=np.int64), log_p[:, 0], log_p[:, 1])
    _write(path, {"id": _ids(examples)} | dict(zip(REDUCED, columns, strict=True)))


def write_labels(path, examples, names):
    """Write what `kdlib audit` needs beside predictions: labels, and the group of each image.

    names: of the groups."""
    groups = np.array(names)[examples.group]
    label = np.asarray(examples.y, dtype=np.int64)
    _write(path, {"id": _ids(examples), "label": label, "group": groups})


def _ids(examples):
    return np.array([encodable(name) for name in examples.names], dtype=str)


def _write(path, columns):
    with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **columns)


def read_predictions(path, examples):
    """Predictions of Examples that write_predictions wrote.

    KdlibError, in one sentence, for a file that is damaged or of other images."""
    found = source(Path(path), "predictions")
    if found.ids is None or list(found.columns) != list(REDUCED):
        own = listed([*found.columns])
        raise found.error(f"holds {own}, which are no predictions of a distillation.")
    n = len(examples)
    if len(found.ids) != n or (found.ids != _ids(examples)).any():
        of = count_of(len(found.ids), "image")
        raise found.error(
            f"is of {of} that are not those of this split, or come in another order; delete it "
            "and run again."
        )
    predicted, *log_p = found.columns.values()
    log_p = np.column_stack(log_p) if all(np.shape(of) == (n,) for of in log_p) else np.zeros(0)
    sound = predicted.shape == (n,) and predicted.dtype.kind == "i" and (predicted >= 0).all()
    if not sound or log_p.shape != (n, 2) or not (np.isfinite(log_p) & (log_p <= 0)).all():
        raise found.error("does not hold log-probabilities of its images; delete it and run again.")
    return Predictions(examples.y, examples.group, predicted, log_p.astype(np.float32))


# ---------------------------------------------------------------- weights


def save_weights(path, model, about, listing):
    """Write the weights of a network as safetensors, and what is needed to use them.

    Equal weights are equal bytes."""
    whole = {"memory_format": torch.contiguous_format}
    held = {name: of.detach().cpu().clone(**whole) for name, of in model.state_dict().items()}
    facts = {
        "class_names": json.dumps(list(map(encodable, listing.class_names)), ensure_ascii=False),
        "kdlib": __version__,
        "mean": json.dumps(list(about["mean"])),
        "network": network_of(about),
        "size": str(about["size"]),
        "std": json.dumps(list(about["std"])),
    }
    with whole_file(path) as temporary:
        temporary.write_bytes(_in_order(safetensors.save(held, facts)))


def _in_order(content):
    """The bytes of a safetensors file, with its metadata in the order of their names.

    The library writes them in another order each time. A file is the length of its header (8 bytes,
    little-endian), the header, JSON that is filled with blanks to a multiple of 8, the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


# ---------------------------------------------------------------- the audit


def finished(out, listing, teacher, students, about, say=None):
    """The Audit of what distils on test images, or the Students where several methods do.

    Writes the page, its JSON and CSV, labels beside the predictions, and a card for each student.
    listing: its train, val and test. teacher: its Predictions of val and test. students: [Trained],
    of which BASELINE is one method; see above for about. say: called with each sentence on what
    was read, but for those of the listing. KdlibError for what cannot be audited."""
    methods = by_method(students)
    distilled = [method for method in methods if method != BASELINE]
    if BASELINE not in methods or not distilled:
        raise KdlibError(f"students: needs {BASELINE} and a method that distils.")
    own = (_recipe(about), *listing.read, *unseen(listing))
    for sentence in (own[0], *unseen(listing)) if say else ():
        say(sentence)
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
        [found] = audits.values()
        found = replace(found, choice=chosen)
    for split in ("val", "test"):
        examples = getattr(listing, split)
        write_labels(place(out, "labels", split), examples, group_names(listing))
    found.save(Path(out) / "report.html")
    write_cards(Path(out), listing, methods, about, audits, chosen)
    return found


def _recipe(about):
    """The recipe in a sentence."""
    words = [f"{what.replace('_', ' ')} {_shown(of)}" for what, of in about.items()]
    shown = [said for what, said in zip(about, words, strict=True) if what not in HIDDEN]
    return f"Trained with {'; '.join(shown)}."


def _shown(value):
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
