"""One run: trained(cfg) is its network, run(cfg) its record.

What is on disk is read, what is missing is done."""

import contextlib
import functools
import time
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from kdlib import cuda
from kdlib.config import Config, KdlibError, networks_of
from kdlib.methods import METHODS, needs_margins
from kdlib.models import build
from kdlib.rivals import post_hoc_tau, prior_of
from kdlib.step import Run, method_loss
from kdlib.study import datasets, records, weights
from kdlib.study.boosting import fit
from kdlib.study.files import claim, look_again
from kdlib.study.kept import Kept
from kdlib.study.machine import default_device, machine
from kdlib.study.records import Record
from kdlib.study.table_cache import teacher_of
from kdlib.study.watch import log, warn, watch
from kdlib.teacher import Table, measured_margins, near_chance, weights_sha256
from kdlib.train import predict

# of a Config, those that its Data depend on
DATA_FIELDS = ("dataset", "draw_seed", "imbalance", "profile", "fold", "label_noise", "with_val")


class TeacherError(KdlibError):
    """A teacher that cannot teach, or is not the one the students at hand learned from."""


@functools.lru_cache(maxsize=2)
def _load(cfg, folder, device):
    plain = datasets.load(replace(cfg, with_val=False), folder)
    loaded = datasets.with_val(plain) if cfg.with_val else plain
    if str(device).startswith("cuda"):
        cuda.settings()  # before anything is computed there, tables and predictions too
    # The hash is of the splits as dealt: a run with_val is to be compared with one without.
    return loaded.to(device), plain.sha256()


def load(cfg, folder=None, device="cpu"):
    """(Data on the device, its sha256) of a Config. The last two are kept in memory."""
    fields = {name: getattr(cfg, name) for name in DATA_FIELDS}
    any_network = networks_of(cfg.dataset)[0]  # all share the Data
    return _load(Config(student=any_network, **fields), folder, device)


@dataclass(frozen=True)
class Outcome:
    """What came of runs that were begun together."""

    seconds: float = 0.0
    elsewhere: list = field(default_factory=list)  # Configs that other processes have claimed
    failures: list = field(default_factory=list)  # exceptions, each of which stopped a run
    full: bool = False  # they do not fit into the memory of a GPU at once


def run(cfg, folder=None, device=None):
    """The record of a Config: read if it is there, else the run is done, its teacher first."""
    for error in together([cfg], folder, device).failures:
        raise error
    return records.read(cfg)


def together(configs, folder=None, device=None, deadline=None, wait=True):
    """Do in lockstep what has no record; the Outcome. None may be another's teacher.

    What another process has claimed is waited for, or left alone with wait=False. deadline:
    time.monotonic() at which a run that is not done gives up (OutOfTime). What stops a run stops no
    other; what was finished is on record."""
    device = device or default_device()
    todo, elsewhere, failures, seconds = {}, [], [], 0.0
    with _collected(failures), contextlib.ExitStack() as held:
        # in the same order everywhere, or two processes could wait for each other
        for key, cfg in sorted({c.key(): c for c in configs if not records.exists(c)}.items()):
            if held.enter_context(claim(key, records.folder(), wait)):
                todo[key] = cfg
            else:
                elsewhere.append(cfg)
        if todo:
            look_again(records.folder())
        # in the order asked for; another process may have done some before it gave up its claim
        mine = [c for c in dict.fromkeys(configs) if c.key() in todo and not records.exists(c)]
        try:
            stopped, seconds = _do(mine, folder, device, deadline)
            failures += stopped
        except torch.OutOfMemoryError:
            return Outcome(elsewhere=elsewhere, full=True)
    return Outcome(seconds, elsewhere, failures)


def trained(cfg, folder=None, device=None):
    """The trained network of a Config: its weights if they are there, else it is trained.

    A network that is trained again on another machine has other last bits. It is refused while
    students of the first one are on record, because they could not be paired with new ones."""
    device = device or default_device()
    with claim(cfg.key(), records.folder()):
        record = records.read(cfg) if records.exists(cfg) else None
        if record is None or not weights.path_of(cfg.key()).exists():
            for error in _do([cfg], folder, device)[0]:
                raise error
            record = records.read(cfg)
    model = build(cfg.student, len(record.facts["class_names"]), cfg.seed)
    weights.read_into(model, cfg.key(), record.facts["weights_sha256"])
    return model.to(device)


@contextlib.contextmanager
def _collected(failures):
    """What stops a run in this block is appended to `failures`, so that others go on.

    It comes without its traceback, which would keep networks and tables in memory."""
    try:
        yield
    except KdlibError as error:
        failures.append(error.with_traceback(None))


class _Ready(NamedTuple):
    """A run that can be fitted; `facts` known so far; `evaluations` filled during the run."""

    run: Run
    facts: dict
    evaluations: dict
    kept: Kept


def _do(configs, folder, device, deadline=None):
    """Prepare, fit, predict, write: (what stopped a run, each; seconds beside loading the data).

    Data are loaded once in a process, which says nothing of a run. torch.OutOfMemoryError: several
    do not fit into a GPU at once."""
    failures, ready, teachers = [], [], {}
    start = time.monotonic()
    try:
        with _collected(failures):
            for cfg in configs:
                load(cfg, folder, device)
        if failures:
            return failures, 0.0
        start = time.monotonic()
        for cfg in configs:
            with _collected(failures):
                ready.append(_ready(cfg, folder, device, deadline, teachers, len(configs)))
        began = time.monotonic()
        outcomes = fit([r.run for r in ready]) if ready else []
        seconds = (time.monotonic() - began) / max(1, len(ready))
        for r, outcome in zip(ready, outcomes, strict=True):
            with _collected(failures):
                _write(r, outcome, seconds, len(ready))
    except torch.OutOfMemoryError:
        if len(configs) > 1:
            raise
        failures = [
            KdlibError(
                f"Run {configs[0].key()} stopped: it does not fit into the memory of the GPU; "
                "another process may hold it (`nvidia-smi` says), or a smaller batch_size helps."
            )
        ]
    return failures, time.monotonic() - start


def _ready(cfg, folder, device, deadline, teachers, count):
    """The _Ready run of a Config, one of `count`; see _teacher for `teachers`."""
    data, data_sha256 = load(cfg, folder, device)
    facts = {"data_sha256": data_sha256}
    teacher = None
    margins = None
    if cfg.teacher:
        teacher, margins, more = _teacher(cfg, data, data_sha256, folder, device, teachers)
        facts |= more
    model = build(cfg.student, data.classes, cfg.seed).to(device)
    same = machine(device, cfg.precision)
    same |= {"data": data_sha256, "teacher": facts.get("teacher_sha256")}
    del same["git"]  # a run may go on with later code
    kept = Kept(cfg.key(), same, count, warn)
    none_yet = {"val_accuracy_by_group": {}, "val_accuracy_by_half": {}}
    evaluations = kept.before.get("evaluations", none_yet)
    if state := kept.before.get("state"):
        log(f"{cfg.key()} goes on after epoch {state['epoch']}/{cfg.epochs}")
    after_epoch = functools.partial(watch, cfg, model, data, evaluations, deadline, kept)
    loss = method_loss(cfg, margins, data.train)
    run = Run(cfg, model, loss, data, teacher, after_epoch, state)
    return _Ready(run, facts, evaluations, kept)


def _write(ready, outcome, seconds, count):
    """Write the record of a fitted run, and its weights. outcome: of fit, which may be an error."""
    if isinstance(outcome, KdlibError):
        raise outcome
    cfg, model, data = ready.run.cfg, ready.run.model, ready.run.data
    held = {name: split for name, split in data.splits().items() if name != "train"}
    logits = {name: predict(model, split.x, data) for name, split in held.items()}
    tau = None
    if METHODS[cfg.method].adjusted:
        prior = prior_of(data.train).cpu()
        tau = post_hoc_tau(logits["val"], data.val.y.cpu(), prior)
        logits = {name: values - tau * prior.log() for name, values in logits.items()}
    before = ready.kept.before
    facts = ready.facts | {
        "class_names": data.class_names,
        "group_names": data.group_names,
        "train_counts": torch.bincount(data.train.group, minlength=len(data.group_names)).tolist(),
        "weights_sha256": weights_sha256(model),
        "curves": outcome,
        "post_hoc_tau": tau,
        **ready.evaluations,
        "seconds": round(before["seconds"] + seconds, 2),
        "together": count,
        **machine(data.train.x.device, cfg.precision),
    }
    facts["git"] = " then ".join(dict.fromkeys([*before["commits"], facts["git"]]))
    _refuse_another(cfg, facts["weights_sha256"])
    weights.write_to(weights.path_of(cfg.key()), model)
    splits = {name: records.predictions(logits[name], split) for name, split in held.items()}
    records.write(Record(cfg, facts, splits))
    ready.kept.remove()


def _refuse_another(cfg, sha256):
    """TeacherError if students on record learned from an earlier network of this Config."""
    if not records.exists(cfg) or records.read(cfg).facts["weights_sha256"] == sha256:
        return
    students = records.taught_by(cfg.key())
    if students:
        raise TeacherError(
            f"Teacher {cfg.key()}, trained again here, has other weights than the one that "
            f"{len(students)} recorded students learned from (the first is {students[0]}); put "
            f"{weights.path_of(cfg.key())} back, or delete those records and the teacher's."
        )


def _teacher(cfg, data, data_sha256, folder, device, teachers):
    """(teacher, margins or None, facts) of a Config with a teacher.

    `teachers`: those of the runs beside it, to share."""
    teacher_cfg, *fold_cfgs = cfg.dependencies()
    shared = (teacher_cfg, cfg.seed, cfg.epochs)  # a table on a CPU holds the views of one schedule
    if shared not in teachers:
        model = _checked_teacher(cfg, data, folder, device)
        teachers[shared] = model, teacher_of(model, data, data_sha256, cfg, log, warn)
    model, teacher = teachers[shared]
    margins = None
    if needs_margins(cfg):
        how = (cfg.margin_source, cfg.margin_level, cfg.margin_kind, cfg.margin_temperature)
        fold_models = [trained(c, folder, device) for c in fold_cfgs]
        margins = measured_margins(data, model, *how, fold_models)
    facts = {
        "teacher_key": teacher_cfg.key(),
        "teacher_sha256": weights_sha256(model),
        "teacher_logits": "table" if isinstance(teacher, Table) else "live",
        "teacher_margin_val": _rounded(measured_margins(data, model)),
        "teacher_margin_train": _rounded(measured_margins(data, model, "train")),
        "margins": None if margins is None else _rounded(margins),
        "fold_teacher_keys": [c.key() for c in fold_cfgs],
    }
    return teacher, margins, facts


def _checked_teacher(cfg, data, folder, device):
    """The trained network of cfg's teacher, or TeacherError if it is near chance."""
    teacher_cfg = cfg.teacher_config()
    model = trained(teacher_cfg, folder, device)
    val = records.read(teacher_cfg).splits["val"]
    accuracy = np.mean([val.right[val.y == c].mean() for c in np.unique(val.y)])
    if near_chance(accuracy, data.classes):
        raise TeacherError(
            f"Teacher {teacher_cfg.key()} is near chance ({100 * accuracy:.1f} % on val, "
            f"{data.classes} classes); train it longer or choose another recipe before distilling."
        )
    log(f"{cfg.key()} teacher {teacher_cfg.key()} val accuracy {100 * accuracy:.2f} %")
    return model


def _rounded(tensor):
    return [round(float(v), 6) for v in tensor.cpu()]
