"""Audits of what is at hand: runs on record, and what the parameters of the notebook name."""

from pathlib import Path

import numpy as np

from kdlib.auditing.audit import audit
from kdlib.auditing.found import places
from kdlib.auditing.students import audit_students, named_files
from kdlib.config import KdlibError, did_you_mean
from kdlib.evidence.panel import panel
from kdlib.methods import ARMS, METHODS
from kdlib.pages.pictures import images_of
from kdlib.reading.names import REDUCED, ROLES
from kdlib.reading.read import Source
from kdlib.study.done import some_seeds
from kdlib.study.grids import check_names, study


def audit_study(name, pair=None, method="kd", seeds=None, images=None, **how):
    """The Audit of a method of a study on record, on all images that no run saw.

    The baseline is one-hot training. pair: "teacher/student", by default the study's first.
    method: or a list of several, of which the Students are returned, with as many training runs as
    the one that has fewest. images: the folder of the data set, so that pictures show what was
    lost; see cifar.find. how: title, say; see audit. KdlibError for a pair or method that the study
    does not have.
    """
    methods = [method] if isinstance(method, str) else method
    chosen = study(name)
    if not chosen.pairs:
        raise KdlibError(f"study {name} has no methods to compare.")
    pair = pair or "/".join(chosen.pairs[0])
    # also those that were added and run
    chosen = chosen.with_methods([m for m in methods if m in (*METHODS, *ARMS)])
    pairs = {"/".join(p): p for p in chosen.pairs}
    asked_for = [("pair", pair, pairs), *(("method", m, chosen.methods) for m in methods)]
    for what, value, known in asked_for:
        if value not in known:
            raise KdlibError(f"study {name} has no {what} {value!r}: {did_you_mean(value, known)}")
    p = panel(chosen, pairs[pair], seeds or some_seeds(name))

    def columns(role):
        sources = []
        for run, x in zip(p.records(role), p.predictions(role), strict=True):
            reduced = (x.predicted, x.log_p[:, 0], x.log_p[:, 1])
            named = dict(zip(REDUCED, reduced, strict=True))
            sources.append(Source(run.config.key(), named, None, run.facts["weights_sha256"]))
        return sources

    group_names, class_names = np.array(p.group_names), tuple(p.teachers[0].facts["class_names"])
    groups = None
    if p.group_names != class_names:
        groups = Source(f"groups of {name}", {"": group_names[p.group]}, None)
    counts = None
    if chosen.bucket_edges:
        counts = {"group": group_names, "count": p.train_counts}
    runs = min(len(p.runs[m]) for m in methods)
    students = {m: columns(m)[:runs] for m in methods}
    compare = audit_students
    if isinstance(method, str):
        students, compare = students[method], audit
    return compare(
        Source(f"labels of {name}", {"": np.asarray(p.y)}, None),
        columns("teacher")[:runs],
        students,
        columns("one_hot"),
        groups,
        classes=class_names,
        train_counts=counts,
        edges=chosen.bucket_edges or (100, 20),
        images=images and images_of(p, images),
        **how,
    )


OF_FOLDER = ("image_size", "mean", "std", "batch")
FILES = ("labels", "teacher", "student", "baseline", "groups", "weights", "train_counts", "classes")


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
    """The Audit that the command line asks for, or Students: of files, or of runs on record.

    say, progress: see audit. KdlibError for options that do not go together, or a page `out` that
    would overwrite a file."""
    if options["image_folder"]:
        return _asked_of_folder(options, out, say, progress)
    _check_without_folder(options)
    named, names = students_of(options)
    ours = {name: options[name] for name in ("pair", "method", "seeds")}
    files = {name: options[name] for name in (*FILES, "worst", "edges", "missing_groups")}
    files |= {name: options[name] for name in ("by", "search")}
    files["kind"] = options["kind"] and _kinds(options["kind"])
    excluded, why = ours, "files, only with --study."
    if options["study"]:
        excluded, why = files, "--study, which takes everything from records."
    for name, value in excluded.items():
        if value is not None:
            raise KdlibError(f"--{name.replace('_', '-')} does not go with {why}")
    for name in ("labels", "teacher", "student"):
        if not options["study"] and files[name] is None:
            raise KdlibError(
                f"an audit needs --{name} FILE; or --study NAME, which audits runs on record."
            )
    # refused before the work, not after it
    places(out, read_by(options), names)
    how = {"title": options["title"] or "", "say": say, "progress": progress}
    how["images"] = options["images"]
    if options["study"]:
        method = list(names) or (ours["method"] or ["kd"])[0]
        return audit_study(options["study"], ours["pair"], method, ours["seeds"], **how)
    files = {name: of for name, of in files.items() if of is not None}
    if named:
        del files["student"]
        return audit_students(**files, students=named, **how)
    return audit(**files, **how)


def read_by(options):
    """The files that an audit reads: every Path among its options, without a student's name."""
    named, _ = students_of(options)
    options = options | ({"student": sum(named.values(), [])} if named else {})
    read = []
    for value in options.values():
        several = value if isinstance(value, list) else [value]
        read += [one for one in several if isinstance(one, Path)]
    return read


def _kinds(texts):
    """One kind, or {role: kind}, of texts such as logits or student=logits."""
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if not all(equals for _, equals, _ in pairs):
        said = " ".join(texts)
        raise KdlibError(f"--kind {said}: must be one kind, or ROLE=KIND, as in student=logits.")
    return {role: kind for role, _, kind in pairs}


def _check_without_folder(options):
    """KdlibError for options and models that only a folder of images goes with."""
    for name in OF_FOLDER:
        if options[name] is not None:
            raise KdlibError(f"--{name.replace('_', '-')} goes with --image-folder only.")
    for role in ROLES:
        for one in options[role] or ():
            if str(one).startswith(("torchvision:", "timm:")):
                raise KdlibError(f"--{role} {one}: a network needs --image-folder DIR.")


def _asked_of_folder(options, out, say, progress):
    """The Audit that the command line asks for, of networks on a folder of images."""
    for name in ("labels", "images", "study", "pair", "method", "seeds"):
        if options[name] is not None:
            raise KdlibError(f"--{name} does not go with --image-folder, which has the labels.")
    for name in ("teacher", "student"):
        if options[name] is None:
            raise KdlibError(f"an audit of --image-folder needs --{name} LIBRARY:NAME:FILE.")
    from kdlib.asking.images import audit_folder  # needs torch
    from kdlib.asking.networks import named

    files = [options[name] for name in (*FILES, "search") if name not in ROLES]
    for role in ROLES:
        files += [named(text).file for text in options[role] or ()]
    places(out, [file for file in files if file is not None])
    taken = (*FILES[1:], *OF_FOLDER, "worst", "edges", "missing_groups", "title")
    taken += ("by", "search")
    given = {name: options[name] for name in taken if options[name] is not None}
    if options["kind"]:
        given["kind"] = _kinds(options["kind"])
    return audit_folder(options["image_folder"], **given, say=say, progress=progress)


# ---------------------------------------------------------------- from a notebook

PARAMETERS = (*FILES, "kind", "study", "pair", "method", "out")


def check_parameters(namespace):
    """{name: value} of the parameters of notebooks/audit_your_model.ipynb.

    The notebook calls check_parameters(globals()). A file is a path, "" for none; of the models
    also a list, or paths with commas between them, one per seed. KdlibError for a name that
    papermill was given and the notebook does not know, a value that is no text, or files that do
    not suffice.
    """
    check_names(namespace, PARAMETERS)
    given = {name: namespace[name] for name in PARAMETERS}
    for name, value in given.items():
        several = isinstance(value, list) and name in ROLES
        if not all(isinstance(one, str) for one in (value if several else [value])):
            or_list = ", or a list of paths" if name in ROLES else ""
            has = f"notebook parameter {name}={value!r}"
            raise KdlibError(f"{has}: must be a path as text{or_list}.")
    needed = [name for name in ("labels", "teacher", "student") if not given[name]]
    if needed and any(given[name] for name in FILES):
        raise KdlibError(
            f"notebook parameter {needed[0]}: name its file; "
            "an audit needs labels, teacher and student."
        )
    return given


def audit_given(given):
    """The Audit of what check_parameters returned: of files, or without any, of a study."""
    if not given["labels"]:
        return audit_study(given["study"], given["pair"] or None, given["method"])
    files = {name: given[name] or None for name in FILES}
    for role in ROLES:
        if isinstance(files[role], str):
            files[role] = [part.strip() for part in files[role].split(",")]
    return audit(**files, kind=given["kind"])
