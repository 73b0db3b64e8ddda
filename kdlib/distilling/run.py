"""A distillation of one's own: a baseline and students side by side, and whom they hurt."""

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from kdlib.asking.networks import named
from kdlib.config import FOLDS, KdlibError
from kdlib.distilling import prepared, processes, results
from kdlib.distilling.listing import Listing
from kdlib.distilling.listing import listing as listed
from kdlib.distilling.lockstep import Lockstep, progress
from kdlib.distilling.networks import check_output, fresh, given
from kdlib.distilling.prepared import Teacher, asked
from kdlib.distilling.recipe import TEACHER_SEED, check_batches, check_methods, own, recipe
from kdlib.distilling.steps import Once, shared
from kdlib.distilling.views import OwnData
from kdlib.losses import needs_margins
from kdlib.step import Run, method_loss
from kdlib.study.files import check_writable, whole_file
from kdlib.study.kept import Kept
from kdlib.study.machine import default_device, machine
from kdlib.study.records import predictions
from kdlib.study.table_cache import teacher_of
from kdlib.teacher import frozen, weights_sha256
from kdlib.train import fit

METHODS = ("one_hot", "kd", "ada_alpha")  # by default


@dataclass(frozen=True)
class Setting:
    """What all networks of a distillation share."""

    out: Path
    listing: Listing
    data: OwnData
    data_sha256: str
    fields: dict  # of Own
    device: str
    say: object  # a function of a sentence; does nothing but in the first process


def distil(
    data,
    teacher,
    student,
    methods=METHODS,
    out="distilled",
    *,
    groups=None,
    seeds=1,
    preset=None,
    mean=None,
    std=None,
    teacher_classes=None,
    skip_corrupt=False,
    workers=None,
    device=None,
    say=print,
    **given_fields,
):
    """Train students of a teacher on own images, and audit them; see docs/distil.md.

    data: a folder, or a table of paths and labels; see listing.listing.
    teacher, student: LIBRARY:NAME, with @FILE or @pretrained for weights; a teacher without any is
        trained here, on labels alone.
    methods: of methods.METHODS and ARMS, one_hot among them.
    out: the folder of what is made. What is there already of the same distillation is kept.
    given_fields: of recipe.Own, such as epochs, size, batch_size, lr, temperature, alpha.

    Returns the Audit, or Students, of the test images; None in all processes of torchrun but the
    first. KdlibError, in one sentence, for anything that cannot be used."""
    check_methods(methods)
    fields = recipe(preset, **given_fields)
    networks = {"student": named(student), "teacher": named(teacher)}
    with processes.joined(device or default_device()) as device:
        say = _silent if processes.rank() else say
        check_methods(methods, processes.count())
        with processes.first_alone():
            check_writable(Path(out))
            found = listed(data, groups, skip_corrupt=skip_corrupt, say=say)
        check_batches(len(found.train), fields["batch_size"], processes.count())
        network = fresh(networks["student"], len(found.class_names), 0)
        check_output(network, len(found.class_names), fields["size"])
        looks = _colours(networks["student"], network, mean, std)
        workers = prepared.default_workers() if workers is None else workers
        images = prepared.data_of(found, fields["size"], fields["augment"], *looks, device, workers)
        sha256 = prepared.fingerprint(found, images)
        setting = Setting(Path(out), found, images, sha256, fields, device, say)
        try:
            return _distilled(setting, networks, methods, seeds, teacher_classes)
        except torch.OutOfMemoryError:
            raise KdlibError(
                f"--batch-size {fields['batch_size']}: does not fit into the memory of the GPU, in "
                "which all methods are trained side by side; a smaller one, or fewer --methods at "
                "a time, do."
            ) from None


def _silent(line):
    pass


def _distilled(setting, networks, methods, seeds, teacher_classes):
    """The Audit, or Students, of what is trained here."""
    text = networks["teacher"].text
    configs = []
    for seed in range(seeds):
        shared_fields = setting.fields | {"student": networks["student"].text, "seed": seed}
        shared_fields |= {"teacher": text, "teacher_seed": TEACHER_SEED}
        configs.append([own(name, **shared_fields) for name in methods])
    teacher = _teacher(setting, networks["teacher"], teacher_classes)
    margins = _margins(setting, configs[0], teacher, text)
    for of_seed in configs:
        train(setting, of_seed, teacher, margins)
    if processes.rank():
        return None
    trained = [_read(setting, cfg) for of_seed in configs for cfg in of_seed]
    splits = (setting.data.val, setting.data.test)
    said = map(predictions, (teacher.val, teacher.test), splits)
    about = {}
    return results.finished(setting.out, setting.listing, tuple(said), trained, about, setting.say)


# ---------------------------------------------------------------- the teacher and its margins


def _teacher(setting, asked_for, names_file):
    """The Teacher; one without weights is trained first."""
    if asked_for.file is None:
        asked_for = _trained_here(setting, own("teacher", **_of_teacher(setting, asked_for)))
    one = given(asked_for, setting.listing.class_names, names_file)
    for sentence in one.said:
        setting.say(sentence)
    module = prepared.in_frame(one.module, setting.data, one.mean, one.std)
    found = asked(module, one.sha256, setting.data)
    setting.say(prepared.accuracies(found, setting.data))
    return found


def _of_teacher(setting, network):
    return setting.fields | {"student": network.text, "seed": TEACHER_SEED}


def _trained_here(setting, cfg, data=None):
    """The Named of a network that is trained on labels alone, and kept beside the students."""
    train(setting, [cfg], data=data)
    return named(f"{cfg.student.partition('@')[0]}@{_weights(setting, cfg)}")


def _margins(setting, configs, teacher, text):
    """{name of a method: (G,) margins of the teacher} of those that read them."""
    margins, data = {}, setting.data
    wanted = [cfg for cfg in configs if needs_margins(cfg)]
    models = ()
    if any(cfg.margin_source == "crossfit" for cfg in wanted):
        models = [_of_fold(setting, named(text), k) for k in range(FOLDS)]
    for cfg in wanted:
        if cfg.margin_source == "crossfit":
            values, group = prepared.crossfit_margins(models, data, cfg)
        else:
            values, group = prepared.held_out_margins(teacher, data, cfg)
        by_group, said = prepared.margins_by_group(values, group, data.group_names)
        if cfg.margin_level == "all":
            by_group = by_group[data.train.group.cpu()].mean().expand(len(by_group))
        margins[cfg.name] = by_group.to(data.train.y.device)
        for sentence in said:
            setting.say(f"{cfg.name}: {sentence}")
    return margins


def _of_fold(setting, network, k):
    """The network of a teacher that was not shown fold k of the training images."""
    network = named(network.text.partition("@")[0])
    cfg = own("teacher", fold=k, **_of_teacher(setting, network))
    data = prepared.without_fold(setting.data, k)
    one = given(_trained_here(setting, cfg, data), setting.listing.class_names)
    return prepared.in_frame(one.module, setting.data, one.mean, one.std)


# ---------------------------------------------------------------- training


def train(setting, configs, teacher=None, margins=None, data=None):
    """Train in lockstep those that are not there yet, and write them."""
    todo = [cfg for cfg in configs if not _there(setting, cfg, teacher)]
    if not todo:
        return
    data = data or setting.data
    kept = _kept(setting, todo, teacher)
    before = kept.before.get("states", {})
    going = [cfg for cfg in todo if cfg.key() in before or not before]
    lockstep = Lockstep(kept, [cfg.key() for cfg in going])
    name = ", ".join(cfg.key() for cfg in going)
    epochs = going[0].epochs
    total = epochs * len(data.train)
    done = max((state["epoch"] for state in before.values()), default=0)
    start = time.monotonic()
    with progress(name, total, done * len(data.train), setting.say) as told:
        ask = _live(setting, teacher, going[0]) if teacher else None
        runs = [_run(setting, cfg, data, ask, margins, lockstep, before) for cfg in going]
        outcomes = fit(runs, shared(told))
    seconds = kept.before["seconds"] + time.monotonic() - start
    failures = [cfg.key() + " diverged before it was stopped" for cfg in todo if cfg not in going]
    for run, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, KdlibError):
            failures.append(str(outcome))
        else:
            _write(setting, run, outcome, teacher, seconds)
    processes.wait()
    if failures:
        raise KdlibError(
            f"{'; '.join(failures).rstrip('.')}; the others are kept in {setting.out}."
        )
    kept.remove()


def _kept(setting, todo, teacher):
    """The Kept of runs in lockstep."""
    same = machine(setting.device, todo[0].precision)
    del same["git"]  # they may go on with later code
    same |= {"data": setting.data_sha256, "teacher": teacher and teacher.sha256}
    same["configs"] = [cfg.fields() for cfg in todo]
    name = f"{todo[0].key()}-and-{len(todo) - 1}"
    return Kept(name, same, 1, setting.say, setting.out)


def _live(setting, teacher, cfg):
    """The teacher as it is asked in a step: of images in memory its table, where there is room."""
    data = setting.data
    if isinstance(data.train.x, torch.Tensor) and processes.count() == 1:
        return teacher_of(teacher.module, data, setting.data_sha256, cfg, _silent, setting.say)
    return Once(frozen(teacher.module))


def _run(setting, cfg, data, ask, margins, lockstep, before):
    """The Run of a Config."""
    network = fresh(named(cfg.student), data.classes, cfg.seed).to(setting.device)
    loss = method_loss(cfg, (margins or {}).get(cfg.name), data.train)

    def after_epoch(epoch, curves, state):
        lockstep.after_epoch(cfg.key(), epoch, state)

    teacher = ask if cfg.teacher else None
    return Run(cfg, network, loss, data, teacher, after_epoch, before.get(cfg.key()))


# ---------------------------------------------------------------- what is written


def _folder(setting, cfg):
    return setting.out / ("teachers" if cfg.name == "teacher" else "students")


def _weights(setting, cfg):
    return _folder(setting, cfg) / f"{cfg.key()}.safetensors"


def _facts(setting, cfg, teacher):
    """What must be the same for a network on disk to be the one that is asked for."""
    sha256 = teacher.sha256 if teacher and cfg.teacher else None
    same = {"config": cfg.fields(), "data": setting.data_sha256, "teacher_sha256": sha256}
    return json.loads(json.dumps(same))  # as it will be read


def _there(setting, cfg, teacher):
    """Whether a network is on disk. KdlibError if another one is, in its place."""
    path = _weights(setting, cfg).with_suffix(".json")
    if not path.exists():
        return False
    held = json.loads(path.read_text())
    for name, value in _facts(setting, cfg, teacher).items():
        if held[name] == value:
            continue
        what = {"data": "other images", "teacher_sha256": "another teacher"}.get(name)
        if what is None:
            field = next(f for f, v in value.items() if held[name].get(f) != v)
            what = f"{field}={held[name].get(field)!r}, and {value[field]!r} is asked for"
        raise KdlibError(f"{path}: is of {what}; choose another --out, or delete that folder.")
    return True


def _write(setting, run, curves, teacher, seconds):
    """Write what a network predicts, its weights and, when all is there, its facts."""
    cfg, data = run.cfg, setting.data
    splits = {} if cfg.name == "teacher" else {"val": data.val, "test": data.test}
    logits = {name: processes.predicted(run.model, of.x, data) for name, of in splits.items()}
    if processes.rank():
        return
    for name, split in splits.items():
        examples = getattr(setting.listing, name)
        file = setting.out / "predictions" / f"{cfg.key()}-{name}.npz"
        results.write_predictions(file, examples, predictions(logits[name], split))
    results.save_weights(_weights(setting, cfg), run.model, setting.listing, data, cfg)
    facts = _facts(setting, cfg, teacher) | {
        "weights_sha256": weights_sha256(run.model),
        "curves": curves,
        "seconds": round(seconds, 1),
        **machine(setting.device, cfg.precision),
    }
    with whole_file(_weights(setting, cfg).with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=1))
