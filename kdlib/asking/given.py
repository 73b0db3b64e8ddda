"""Audits of what is at hand: runs on record, and what the parameters of the notebook name."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdlib.auditing.audit import audit
from kdlib.auditing.found import places
from kdlib.auditing.students import audit_students, named_files
from kdlib.config import KdlibError, count_of
from kdlib.evidence.panel import panel
from kdlib.pages.pictures import images_of
from kdlib.reading.names import REDUCED, ROLES
from kdlib.reading.read import Source
from kdlib.reading.sentences import repeated
from kdlib.study.done import complete_seeds, some_seeds
from kdlib.study.grids import study
from kdlib.study.parameters import check_names
from kdlib.study.part import lacking


def audit_study(name, pair=None, method="kd", seeds=None, images=None, **how):
    """The Audit of a method of a study on record, on all images that no run saw.

    The baseline is one-hot training. pair: "teacher/student", by default the study's first.
    method: or a list of several, of which the Students are returned, with as many training runs as
    the one that has fewest. images: the folder of the data set, so that pictures show what was
    lost; see cifar.find. how: title, say; see audit. KdlibError for a pair or method that the study
    does not have, and for runs that are not on record.
    """
    methods = [method] if isinstance(method, str) else method
    p = _on_record(name, pair, methods, seeds)
    group_names = np.array(p.group_names)
    class_names = tuple(p.teachers[0].facts["class_names"])
    groups = None
    if p.group_names != class_names:
        groups = Source(f"groups of {name}", {"": group_names[p.group]}, None)
    counts = None
    if p.study.bucket_edges:
        counts = {"group": group_names, "count": p.train_counts}
    runs = min(len(p.runs[m]) for m in methods)
    students = {m: _sources(p, m)[:runs] for m in methods}
    compare = audit_students
    if isinstance(method, str):
        students = students[method]
        compare = audit
    return compare(
        Source(f"labels of {name}", {"": np.asarray(p.y)}, None),
        _sources(p, "teacher")[:runs],
        students,
        _sources(p, "one_hot"),
        groups,
        classes=class_names,
        train_counts=counts,
        edges=p.study.bucket_edges or (100, 20),
        images=images and images_of(p, images),
        **how,
    )


def _on_record(name, pair, methods, seeds):
    """The Panel of what an audit of a study is asked for, also of methods that it did not plan."""
    if "one_hot" in methods:
        raise KdlibError("--method one_hot: it is the baseline; choose one to compare with it.")
    chosen = study(name).part([pair] if pair else [], ["one_hot", "kd", *methods])
    chosen = replace(chosen, pairs=chosen.pairs[:1])
    seeds = seeds or complete_seeds(chosen) or some_seeds(name)
    if seeds > chosen.seeds:
        raise KdlibError(f"--seeds {seeds}: study {name} plans {count_of(chosen.seeds, 'seed')}.")
    if said := lacking("audit", chosen, seeds):
        raise KdlibError(f"study {name}: {said}")
    return panel(chosen, chosen.pairs[0], seeds)


def _sources(p, role):
    """[Source] of what each network of a method of a Panel, or teacher, predicted."""
    sources = []
    for run, x in zip(p.records(role), p.predictions(role), strict=True):
        reduced = (x.predicted, x.log_p[:, 0], x.log_p[:, 1])
        columns = dict(zip(REDUCED, reduced, strict=True))
        sources.append(Source(run.config.key(), columns, None, run.facts["weights_sha256"]))
    return sources


FILES = ("labels", "teacher", "student", "baseline", "groups", "weights", "train_counts", "classes")
OF_FILES = (*FILES, "kind", "worst", "edges", "missing_groups", "by", "search")
OF_STUDY = ("pair", "method", "seeds")
OF_FOLDER = ("image_size", "mean", "std", "batch")
SEVERAL = (*ROLES, "kind", "by", "method")  # options that are lists
PARAMETERS = (*FILES, "kind", "by", "missing_groups", "search", "images")  # of the notebook
PARAMETERS += ("study", "pair", "method", "out")


def students_of(options):
    """({name: [Path]} of the students that --student names, names of all that are compared).

    Both are empty where one student without a name is audited.
    """
    if options["image_folder"]:
        return {}, ()
    files = named_files(options["student"] or ())
    named = {name: [Path(file) for file in of] for name, of in files.items()}
    methods = options["method"] or []
    if len(set(methods)) < len(methods):
        raise KdlibError(f"--method {' '.join(methods)}: a method is named twice.")
    return named, tuple(named) or tuple(methods if len(methods) > 1 else ())


def asked(options, out, say=None, progress=None):
    """The Audit, or Students, of the options of the command line: of files, networks, or records.

    say, progress: see audit. KdlibError for options that do not go together, or a page `out` that
    would overwrite a file.
    """
    _check(options)
    named, names = students_of(options)
    places(out, read_by(options, named), names)  # refused before the work, not after it
    how = {"title": options["title"] or "", "say": say, "progress": progress}
    if options["study"]:
        method = list(names) or (options["method"] or ["kd"])[0]
        of_study = options["study"], options["pair"], method, options["seeds"], options["images"]
        return audit_study(*of_study, **how)
    how |= {name: options[name] for name in OF_FILES if options[name] is not None}
    if options["kind"]:
        how["kind"] = _kinds(options["kind"])
    if options["image_folder"]:
        from kdlib.asking.images import audit_folder  # needs torch

        how |= {name: options[name] for name in OF_FOLDER if options[name] is not None}
        models = {role: how.pop(role) for role in ROLES if role in how}
        return audit_folder(options["image_folder"], models, **how)
    how["images"] = options["images"]
    if named:
        del how["student"]
        return audit_students(**how, students=named)
    return audit(**how)


def _check(options):
    """KdlibError for options that do not go together, or lack what an audit needs."""
    folder = options["image_folder"]
    for role in ROLES:
        for one in options[role] or ():
            if not folder and str(one).startswith(("torchvision:", "timm:", "kdlib:")):
                raise KdlibError(f"--{role} {one}: a network needs --image-folder DIR.")
    wrong = dict.fromkeys(OF_FOLDER, "goes with --image-folder only")
    needed = ("labels", "teacher", "student")
    lacking = "needs --{} FILE; or --study NAME, which audits runs on record"
    if folder:
        why = "does not go with --image-folder, which has the labels"
        wrong = dict.fromkeys(("labels", "images", "study", *OF_STUDY), why)
        needed = ("teacher", "student")
        lacking = "of --image-folder needs --{} LIBRARY:NAME@FILE"
    elif options["study"]:
        why = "does not go with --study, which takes everything from records"
        wrong |= dict.fromkeys(OF_FILES, why)
        needed = ()
    else:
        wrong |= dict.fromkeys(OF_STUDY, "does not go with files, only with --study")
    for name in needed:
        if options[name] is None:
            raise KdlibError(f"an audit {lacking.format(name)}.")
    for name, why in wrong.items():
        if options[name] is not None:
            raise KdlibError(f"--{name.replace('_', '-')} {why}.")


def read_by(options, named):
    """The files that an audit reads: every Path among its options, or of named students (named)."""
    options = options | ({"student": sum(named.values(), [])} if named else {})
    read = []
    for name, value in options.items():
        several = value if isinstance(value, list) else [value]
        files = [one for one in several if isinstance(one, Path)]
        if options["image_folder"] and name in ROLES:  # LIBRARY:NAME@FILE, or with a colon
            files = [Path(re.split("[:@]", str(one), maxsplit=2)[-1]) for one in files]
            files = [file.expanduser() for file in files]
        read += files
    return read


def _kinds(texts):
    """One kind, or {role: kind}, of texts such as logits or student=logits."""
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if not all(equals for _, equals, _ in pairs):
        said = " ".join(texts)
        raise KdlibError(f"--kind {said}: must be one kind, or ROLE=KIND, as in student=logits.")
    if role := repeated(role for role, _, _ in pairs):
        raise KdlibError(f"--kind {' '.join(texts)}: {role} has two kinds, and may have one.")
    return {role: kind for role, _, kind in pairs}


def check_parameters(namespace):
    """The options that asked takes, by the parameters of notebooks/audit_your_model.ipynb.

    The notebook calls check_parameters(globals()). A parameter is text, "" for none; of models and
    columns also a list, or texts with commas between them. The study counts where no file is named.
    KdlibError for a name that papermill was given and the notebook does not know, for a value that
    is no text, and for what does not go together.
    """
    check_names(namespace, PARAMETERS)
    known = (*PARAMETERS, *OF_FILES, *OF_STUDY, *OF_FOLDER, "image_folder", "title")
    options = dict.fromkeys(known)
    for name in PARAMETERS:
        given = namespace[name]
        if isinstance(given, str):
            given = given.split(",") if name in SEVERAL else [given]
        are_texts = isinstance(given, list) and all(isinstance(one, str) for one in given)
        if not are_texts or len(given) > 1 and name not in SEVERAL:
            or_list = ", or a list of texts" if name in SEVERAL else ""
            raise KdlibError(
                f"notebook parameter {name}={namespace[name]!r}: must be text{or_list}."
            )
        kept = [one.strip() for one in given if one.strip()]
        if name in (*FILES, "search", "images"):
            kept = [Path(one) for one in kept]
        if kept:
            options[name] = kept if name in SEVERAL else kept[0]
    if any(options[name] for name in FILES):
        options |= dict.fromkeys(("study", *OF_STUDY))
    if options["kind"] == ["auto"]:
        options["kind"] = None
    if students_of(options)[1]:
        raise KdlibError(
            "notebook parameters name several students or methods; python -m kdlib audit compares "
            "them."
        )
    _check(options)
    return options
