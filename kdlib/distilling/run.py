"""A distillation of one's own: a baseline and students side by side, and whom they hurt."""

import contextlib
from dataclasses import replace
from pathlib import Path

import torch

from kdlib import cuda
from kdlib.asking.images import MOST_WORKERS
from kdlib.asking.networks import named
from kdlib.config import FOLDS, KdlibError
from kdlib.data import fold_of
from kdlib.distilling import prepared, processes, rehearsal, results, training, written
from kdlib.distilling.checks import check_command
from kdlib.distilling.imagenet import imagenet_lt
from kdlib.distilling.listing import listing
from kdlib.distilling.networks import check_output, colours, fresh, given
from kdlib.distilling.recipe import TEACHER_SEED, asked, check_batches, check_methods, own
from kdlib.distilling.views import NO_WORKER, died
from kdlib.methods import needs_margins
from kdlib.study.files import available_cores, check_writable
from kdlib.study.machine import default_device

METHODS = ("one_hot", "kd", "ada_alpha")  # by default
NO_MEMORY = "DefaultCPUAllocator"  # how torch tells that a CPU has no more


def distil(
    data,
    teacher=None,
    student=None,
    methods=METHODS,
    out="distilled",
    *,
    groups=None,
    seeds=1,
    preset=None,
    mean=None,
    std=None,
    teacher_classes=None,
    teacher_mean=None,
    teacher_std=None,
    skip_corrupt=False,
    workers=None,
    device=None,
    dry_run=False,
    say=print,
    **fields,
):
    """Train students of a teacher on own images, and audit them; see docs/distil.md.

    data: a folder, or a table of paths and labels; see listing.listing.
    teacher, student: LIBRARY:NAME, with @FILE or @pretrained for weights; a teacher without any is
        trained here, on labels alone. Only a preset has networks of its own.
    methods: of methods.METHODS and ARMS, one_hot among them.
    out: the folder of what is made. What is there already of the same distillation is kept.
    groups: a table of the group of each image, by its path; by default the classes.
    mean, std: of the colours that the student is shown; teacher_mean, teacher_std: the teacher.
    dry_run: read everything, say how long the training would take here, and stop.
    fields: of recipe.Own, such as epochs, size, batch_size, lr, temperature, alpha.

    Returns the Audit, or Students, of the test images; None in all processes of torchrun but the
    first. KdlibError, in one sentence, for anything that cannot be used."""
    # what is wrong is said before anything is read
    networks, configs, fields = asked(preset, teacher, student, methods, fields)
    asked_teacher, asked_student = networks
    looks, teacher_looks = (mean, std), (teacher_mean, teacher_std)
    check_command(data, out, networks, seeds, workers, looks, teacher_looks, teacher_classes)
    out = Path(out).expanduser()
    together = processes.joined(device or default_device())
    memory = _within_memory(fields["size"], fields["batch_size"])
    with together as device, memory, processes.untouched(device):
        say = (lambda line: None) if processes.rank() else say
        if device == "cuda":
            cuda.settings()
        check_methods(methods, processes.count())
        with processes.first_alone():
            check_writable(out)
            read = imagenet_lt if preset == "imagenet-lt" else listing
            found = read(data, groups=groups, skip_corrupt=skip_corrupt, say=say)
            network = fresh(asked_student, len(found.class_names), 0, say)  # which may be fetched
        counts = prepared.counts(found.train, configs)
        check_batches(counts, fields["batch_size"], processes.count())
        check_output(network, len(found.class_names), fields["size"], asked_student.text)
        looks = colours(asked_student, network, *looks)
        if workers is None:
            workers = min(MOST_WORKERS, available_cores() // processes.local_count())
        how = (fields["size"], fields["augment"], *looks, device, workers)
        images = prepared.data_of(found, *how)
        again = prepared.repeated(found, images)
        for sentence in (*prepared.enlarged(found.train, fields["size"]), *again):
            say(sentence)
        found = replace(found, read=(*found.read, *again))
        sha256 = prepared.fingerprint(found, images, fields["size"])
        setting = written.Setting(out, found, images, sha256, fields, device, say)
        if dry_run:
            if asked_teacher.file is not None:
                one = _given(setting, asked_teacher, teacher_classes, *teacher_looks)
                for sentence in one.said:
                    say(sentence)
            say(rehearsal.told(setting, _parts(setting, asked_teacher, methods, seeds)))
            return None
        say(results.recipe_of(setting.about))
        with written.alone(out):
            one = _teacher(setting, asked_teacher, teacher_classes, *teacher_looks)
            return _students(setting, one, asked_teacher, methods, seeds)


@contextlib.contextmanager
def _within_memory(size, batch_size):
    """A block of work for which memory may be too small."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise KdlibError(
            f"--batch-size {batch_size}: does not fit into the memory of the GPU, in which all "
            "methods are trained side by side; use a smaller one, or fewer --methods at a time."
        ) from None
    except RuntimeError as error:
        if NO_MEMORY in str(error):
            raise KdlibError(
                f"--size {size}, --batch-size {batch_size}: do not fit into memory; smaller images "
                "or batches do."
            ) from None
        if NO_WORKER not in str(error):
            raise
        raise died(error) from None


def _configs(setting, methods, seed):
    """The Own of each method."""
    fields = setting.fields | {"seed": seed, "teacher_seed": TEACHER_SEED}
    return [own(name, **fields) for name in methods]


def _parts(setting, asked_teacher, methods, seeds):
    """[(Own of what is trained side by side, how often)] of a whole distillation."""
    students = _configs(setting, methods, 0)
    parts = [(students, seeds)]
    crossfit = any(cfg.margin_source == "crossfit" for cfg in students)
    times = (asked_teacher.file is None) + (FOLDS - 1) * crossfit  # each lacks a fold
    if times:
        fields = setting.fields | {"student": asked_teacher.network}
        parts.append(([own(written.TEACHER, **fields)], times))
    return parts


def _students(setting, teacher, asked_teacher, methods, seeds):
    """The Audit, or Students, of what a Teacher teaches here."""
    configs = [_configs(setting, methods, seed) for seed in range(seeds)]
    margins, of_margins = _margins(setting, configs[0], teacher, asked_teacher)
    for of_seed in configs:
        training.train(setting, of_seed, teacher, margins)
    if processes.rank():
        return None
    students = [written.trained(setting, cfg) for of_seed in configs for cfg in of_seed]
    said = written.write_teacher(setting, teacher)
    about = setting.about | {"teacher_sha256": teacher.sha256}
    listed = replace(setting.listing, read=(*setting.listing.read, *teacher.said, *of_margins))
    return results.finished(setting.out, listed, said, students, about, setting.say)


# ---------------------------------------------------------------- the teacher and its margins


def _teacher(setting, network, names_file, mean, std):
    """The Teacher; one without weights is trained first."""
    helps = "its classes may come in another order (--teacher-classes), or its images in other "
    helps += "colours (--teacher-mean, --teacher-std)"
    if network.file is None:
        network = _trained_here(setting, network)
        helps = "train longer, or with another learning rate"
    one = _given(setting, network, names_file, mean, std)
    module = prepared.in_frame(one.module, setting.data, one.mean, one.std)
    found = prepared.asked(module, one, setting.data, helps)
    for sentence in found.said:
        setting.say(sentence)
    return found


def _given(setting, network, names_file=None, mean=None, std=None):
    """The Given of a teacher with weights, which takes images of this size."""
    names = setting.listing.class_names
    one = given(network, names, names_file, mean, std)
    check_output(one.module, len(names), setting.fields["size"], network.text)
    return one


def _trained_here(setting, network, fold=None):
    """The Named of a network that is trained on labels alone, and kept beside the students.

    fold: of the training images, which it is not shown."""
    fields = setting.fields | {"student": network.network, "seed": TEACHER_SEED, "fold": fold}
    cfg = own(written.TEACHER, **fields)
    data = setting.data
    if fold is not None:
        others = fold_of(data.train.y.cpu()) != fold
        data = replace(data, train=data.train[others])
    training.train(setting, [cfg], data=data)
    return named(f"{network.network}@{written.weights_of(setting, cfg)}")


def _margins(setting, configs, teacher, network):
    """({name of a method that reads margins: (G,) those of the teacher, or (C,)}, sentences)."""
    margins = {}
    sentences = []
    data = setting.data
    wanted = [cfg for cfg in configs if needs_margins(cfg)]
    models = ()
    if any(cfg.margin_source == "crossfit" for cfg in wanted):
        models = [_of_fold(setting, network, k) for k in range(FOLDS)]
    for cfg in wanted:
        values, group = prepared.margins(teacher, models, data, cfg)
        names = data.class_names if cfg.margin_level == "class" else data.group_names
        by_group, said = prepared.margins_by_group(values, group, names)
        if cfg.margin_level == "all":
            by_group = by_group[data.train.group.cpu()].mean().expand(len(by_group))
        margins[cfg.name] = by_group.to(data.train.y.device)
        sentences += [f"{cfg.name}: {sentence}" for sentence in said]
    for sentence in sentences:
        setting.say(sentence)
    return margins, sentences


def _of_fold(setting, network, fold):
    """The network of a teacher that was not shown a fold, as one that is asked."""
    one = given(_trained_here(setting, network, fold), setting.listing.class_names)
    return prepared.in_frame(one.module, setting.data, one.mean, one.std)
