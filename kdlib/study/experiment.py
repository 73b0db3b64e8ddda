"""One run: trained(cfg) is its network, run(cfg) its record.

What is on disk is read, what is missing is done."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from kdlib import cuda
from kdlib.config import Config, KdlibError
from kdlib.losses import method_loss, needs_margins
from kdlib.models import build
from kdlib.rivals import post_hoc_tau, prior_of
from kdlib.step import Run
from kdlib.study import datasets, records
from kdlib.study.files import ROOT, claim, whole_file
from kdlib.study.kept import Kept
from kdlib.study.records import Record
from kdlib.study.table_cache import teacher_of
from kdlib.teacher import Table, measured_margins, weights_sha256
from kdlib.train import fit, predict

EVALUATIONS = 8  # on val during a run, for the learning curves
# of a Config, those that its Data depend on
DATA_FIELDS = ("dataset", "draw_seed", "imbalance", "profile", "fold", "label_noise", "with_val")


class OutOfTime(KdlibError):
    """A run that gave up at its deadline."""


class TeacherError(KdlibError):
    """A teacher that cannot teach, or is not the one the students at hand learned from."""


def default_device():
    """The device of runs: "cuda" where torch can use it, else "cpu".

    An NVIDIA device that torch cannot use is worth a warning."""
    if torch.cuda.is_available():
        return "cuda"
    if os.path.exists("/proc/driver/nvidia/version"):
        print(
            "warning: there is an NVIDIA device but torch cannot use it (`python -m kdlib doctor` "
            "says why); using the CPU",
            file=sys.stderr,
        )
    return "cpu"


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
    return _load(Config(**fields), folder, device)


# ---------------------------------------------------------------- one run, or several in lockstep


def run(cfg, folder=None, device=None):
    """The record of a Config: read if it is there, else the run is done, its teacher first."""
    (outcome,) = together([cfg], folder, device)
    if isinstance(outcome, KdlibError):
        raise outcome
    return outcome


def together(configs, folder=None, device=None, deadline=None):
    """For each Config, in order, its record, or the KdlibError that stopped it alone.

    What is missing is done in lockstep. None of them may be another's teacher. deadline:
    time.time() at which a run that is not done gives up (OutOfTime). torch.OutOfMemoryError: they
    do not fit into a GPU at once; what was finished is on record."""
    device = device or default_device()
    with contextlib.ExitStack() as held:
        for key in sorted({c.key() for c in configs if not records.exists(c)}):
            held.enter_context(claim(key, records.folder()))
        todo = [cfg for cfg in dict.fromkeys(configs) if not records.exists(cfg)]
        done = dict(zip(todo, _do(todo, folder, device, deadline), strict=True))
    return [
        done[cfg] if isinstance(done.get(cfg), KdlibError) else _attempt(records.read, cfg)
        for cfg in configs
    ]


def trained(cfg, folder=None, device=None):
    """The trained network of a Config: its weights if they are there, else it is trained.

    A network that is trained again on another machine has other last bits. It is refused while
    students of the first one are on record, because they could not be paired with new ones."""
    device = device or default_device()
    path = records.folder() / f"{cfg.key()}.pt"
    with claim(cfg.key(), records.folder()):
        record = records.read(cfg) if records.exists(cfg) else None
        if record is None or not path.exists():
            (outcome,) = _do([cfg], folder, device, expected=record)
            if isinstance(outcome, KdlibError):
                raise outcome
            record = outcome
    model = build(cfg.student, len(record.facts["class_names"]), cfg.seed).to(device)
    model.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    if weights_sha256(model) != record.facts["weights_sha256"]:
        raise TeacherError(f"{path}: not the weights of its record; delete it to train them again.")
    return model


class _Ready(NamedTuple):
    """A run that can be fitted; `facts` known so far; `evaluations` filled during the run."""

    run: Run
    facts: dict
    evaluations: dict
    kept: Kept


def _attempt(function, *arguments):
    """What a function returns, or the KdlibError it raises."""
    try:
        return function(*arguments)
    except KdlibError as error:
        return error


def _do(configs, folder, device, deadline=None, expected=None):
    """Prepare, fit, predict, write: a Record or KdlibError for each Config.

    `expected`: an earlier record of the only Config, whose weights should come out again."""
    try:
        teachers = {}
        outcomes = [
            _attempt(_ready, cfg, folder, device, deadline, teachers, len(configs))
            for cfg in configs
        ]
        ready = {k: r for k, r in enumerate(outcomes) if isinstance(r, _Ready)}
        runs = [r.run for r in ready.values()]
        start = time.perf_counter()
        curves = fit(runs) if runs else ()
        seconds = (time.perf_counter() - start) / max(1, len(runs))
        for (k, r), curve in zip(ready.items(), curves, strict=True):
            outcomes[k] = _attempt(_record, r, curve, seconds, len(runs), expected)
        return outcomes
    except torch.OutOfMemoryError:
        if len(configs) > 1:
            raise
        error = KdlibError(
            f"Run {configs[0].key()} stopped: it does not fit into the memory of the GPU; another "
            "process may hold it (`nvidia-smi` says), or a smaller batch_size helps."
        )
        return [error]


def _ready(cfg, folder, device, deadline, teachers, together):
    """The _Ready run of a Config; see _teacher for `teachers`, and Kept for `together`."""
    data, data_sha256 = load(cfg, folder, device)
    facts, teacher, margins = {"data_sha256": data_sha256}, None, None
    if cfg.teacher:
        teacher, margins, more = _teacher(cfg, data, data_sha256, folder, device, teachers)
        facts |= more
    model = build(cfg.student, data.classes, cfg.seed).to(device)
    same = {"data": data_sha256, "teacher": facts.get("teacher_sha256")}
    same |= machine(device, cfg.precision)
    del same["git"]  # a run may go on with later code
    kept = Kept(cfg.key(), same, together, _warn)
    none_yet = {"val_accuracy_by_group": {}, "val_accuracy_by_half": {}}
    evaluations = kept.before.get("evaluations", none_yet)
    state = kept.before.get("state")
    if state:
        _log(f"{cfg.key()} goes on after epoch {state['epoch']}/{cfg.epochs}")
    watch = functools.partial(_watch, cfg, model, data, evaluations, deadline, kept)
    loss = method_loss(cfg, margins, data.train)
    run_of_it = Run(cfg, model, loss, data, teacher, watch, state)
    return _Ready(run_of_it, facts, evaluations, kept)


def _record(ready, curves, seconds, together, expected):
    """The Record of a fitted run, written with its weights. Raises what stopped the run."""
    if isinstance(curves, KdlibError):
        raise curves
    cfg, model, data = ready.run.cfg, ready.run.model, ready.run.data
    held = {name: split for name, split in data.splits().items() if name != "train"}
    logits = {name: predict(model, split.x, data) for name, split in held.items()}
    tau = None
    if cfg.method == "post_hoc":
        prior = prior_of(data.train).cpu()
        tau = post_hoc_tau(logits["val"], data.val.y.cpu(), prior)
        logits = {name: values - tau * prior.log() for name, values in logits.items()}
    splits = {name: records.predictions(logits[name], split) for name, split in held.items()}
    facts = ready.facts | {
        "class_names": data.class_names,
        "group_names": data.group_names,
        "train_counts": torch.bincount(data.train.group, minlength=len(data.group_names)).tolist(),
        "weights_sha256": weights_sha256(model),
        "curves": curves,
        "post_hoc_tau": tau,
        **ready.evaluations,
        "seconds": round(ready.kept.before["seconds"] + seconds, 2),
        "together": together,
        **machine(data.train.x.device, cfg.precision),
    }
    facts["git"] = " then ".join(dict.fromkeys([*ready.kept.before["commits"], facts["git"]]))
    if expected and expected.facts["weights_sha256"] != facts["weights_sha256"]:
        _refuse_if_paired(cfg)
    with whole_file(records.folder() / f"{cfg.key()}.pt") as temporary:
        torch.save(model.state_dict(), temporary)
    record = Record(cfg, facts, splits)
    records.write(record)
    ready.kept.remove()
    return record


def _refuse_if_paired(cfg):
    """TeacherError if students on record learned from an earlier network of this Config."""
    named = f'"teacher_key": "{cfg.key()}"'
    students = [p.stem for p in records.folder().glob("*.json") if named in p.read_text()]
    if students:
        raise TeacherError(
            f"Teacher {cfg.key()}, trained again here, has other weights than the one that "
            f"{len(students)} recorded students learned from (the first is {students[0]}); put its "
            f".pt file back into {records.folder()}, or delete those records and the teacher's."
        )


def _teacher(cfg, data, data_sha256, folder, device, teachers):
    """(teacher, margins or None, facts) of a Config with a teacher.

    `teachers`: those of the runs beside it, to share."""
    teacher_cfg, *fold_cfgs = cfg.dependencies()
    shared = (teacher_cfg, cfg.seed, cfg.epochs)  # a table on a CPU holds the views of one schedule
    if shared not in teachers:
        model = _checked_teacher(cfg, data, folder, device)
        teachers[shared] = model, teacher_of(model, data, data_sha256, cfg, _log, _warn)
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
    accuracy = np.mean([val.right[val.group == g].mean() for g in np.unique(val.group)])
    if accuracy < 2 / data.classes:
        raise TeacherError(
            f"Teacher {teacher_cfg.key()} is near chance ({100 * accuracy:.1f} % on val, "
            f"{data.classes} classes); train it longer or choose another recipe before distilling."
        )
    _log(f"{cfg.key()} teacher {teacher_cfg.key()} val accuracy {100 * accuracy:.2f} %")
    return model


def _rounded(tensor):
    return [round(float(v), 6) for v in tensor.cpu()]


def _watch(cfg, model, data, evaluations, deadline, kept, epoch, curves, state):
    """After an epoch: a line in the log, and now and then accuracies on val and the state.

    Accuracies are measured at most EVALUATIONS times a run, by group and by half of val. OutOfTime
    once the deadline is past."""
    _log(f"{cfg.key()} epoch {epoch + 1}/{cfg.epochs} loss {curves['loss'][-1]:.4f}")
    due = {round(cfg.epochs * (k + 1) / EVALUATIONS) for k in range(EVALUATIONS)}
    if epoch + 1 in due:
        y, group = data.val.y.cpu(), data.val.group.cpu()
        right = (predict(model, data.val.x, data).argmax(dim=1) == y).double()
        half, groups = data.val_half.cpu(), len(data.group_names)

        def rates(some):
            hits = torch.bincount(group[some], right[some], groups)
            return hits / torch.bincount(group[some], minlength=groups)

        by_group = [round(v, 4) for v in rates(half >= 0).tolist()]
        by_half = [round(rates(half == k).mean().item(), 4) for k in (0, 1)]
        evaluations["val_accuracy_by_group"][epoch + 1] = by_group
        evaluations["val_accuracy_by_half"][epoch + 1] = by_half
    late = deadline and time.time() > deadline and epoch + 1 < cfg.epochs
    if late or kept.due():
        kept.write(git_sha(), state=state(), evaluations=evaluations)
    if late:
        raise OutOfTime(
            f"Run {cfg.key()} stopped after epoch {epoch + 1} of {cfg.epochs}: its time is up; "
            "it goes on from there."
        )


def _warn(line):
    _log(line)
    print(f"warning: {line}", file=sys.stderr)


def _log(line):
    with open(records.folder() / "runs.log", "a") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def machine(device, precision="fp32"):
    """Where and with what a run was done, for its record.

    fp32 on a GPU lets convolutions and products use TF32. Runs repeat bit for bit where `processor`
    and `versions` are the same, and differ where its kernels differ."""
    processor = _processor()
    name, kernels = processor["name"], {}
    if str(device).startswith("cuda"):
        name = torch.cuda.get_device_name()
        kernels = {"kernels": {"graphs": cuda.Captured.graphs}}
    return {
        "device": name,
        **kernels,
        "processor": processor,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "git": git_sha(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


@functools.cache
def _processor():
    """{name, family, model, capability} of the processor; None: not known here.

    The last is that of torch's kernels, such as AVX2 or AVX512."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        lines = [line.split(":", 1) for line in f if ":" in line]
    facts = {key.strip(): value.strip() for key, value in reversed(lines)}  # of the first core
    return {
        "name": facts.get("model name", platform.processor() or platform.machine()),
        "family": facts.get("cpu family"),
        "model": facts.get("model"),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


@functools.cache
def git_sha():
    """Commit of the code, with "+" where tracked code differs from it.

    Outside a clone it is what $KDLIB_GIT says, else "unknown"."""

    def git(*words):
        how = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        return subprocess.run(["git", *words], **how).stdout.strip()

    try:
        if not (ROOT / ".git").exists():  # git would look in the folders above
            raise FileNotFoundError
        changed = git("status", "--porcelain", "--untracked-files=no", "kdlib")
        return git("rev-parse", "HEAD")[:12] + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KDLIB_GIT") or "unknown"
