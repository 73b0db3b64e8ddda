"""From models to an audit in one call: each batch of data is shown once to every model.

Nothing of N x C is kept: of each example remain the predicted class, its log-probability and the
label's, as `scores` computes them from files. N examples, B of them in a batch, C classes. Needs
torch.
"""

import contextlib
import inspect
import itertools

from kdlib.asking.batches import Examples, check_order, labels_of, parts_of
from kdlib.asking.reduced import Reduced, home_of
from kdlib.auditing.audit import audit, check_options, kinds_of
from kdlib.config import count_of
from kdlib.reading.classes import given_names
from kdlib.reading.inputs import check_roles, titles
from kdlib.reading.read import Source, source
from kdlib.reading.sentences import AuditError, reason
from kdlib.study.files import in_notebook

try:
    import torch
except ModuleNotFoundError as error:
    sentence = 'kdlib.audit_models needs torch: pip install ".[torch]" in the clone of kdlib'
    raise ModuleNotFoundError(sentence, name=error.name) from None


def audit_models(
    teacher, student, loader, baseline=None, groups=None, *, device=None, progress=True, **options
):
    """The Audit of a student and its teacher, who are asked here.

    teacher, student, baseline: modules of torch or functions of a batch's inputs, or lists of them,
        as in kdlib.audit. What they return are scores (B, C), or (B,) or (B, 1) of the second of
        two classes: a tensor, an object with .logits, or a tuple or dictionary with one matrix.
    loader: a DataLoader, or whatever yields batches. A batch is (inputs, labels), (inputs, labels,
        more), or a dictionary with the labels as "labels", "label" or "y" and the inputs as the
        other tensors. Labels are whole numbers from 0, (B,) or (B, 1), or one-hot rows.
    groups: as in kdlib.audit, rows in the order of the loader; or a function of a batch that
        returns names or numbers (B,), or a dictionary of such columns. By default `more`, or what
        a dictionary calls "group": names or numbers (B,). Where these differ for all examples they
        are taken as ids, and the classes are the groups; so they are where there is nothing.
    progress: whether a bar of the batches is shown; a function is also told the parts of the audit,
        as in kdlib.audit.
    device: where the models run. By default each stays where it is, and the batches go there.
    options: of kdlib.audit.

    Modules, also those that a function refers to, run in eval mode, without gradients, under the
    autocast that is on. Afterwards, also after an error, every submodule is in the mode and on the
    device it was before, and torch's random numbers go on as if nothing had been drawn.

    KdlibError, in one sentence, for anything that cannot be used.
    """
    kinds = _checked(options)  # before the work
    names = given_names(options.pop("classes", None))
    tables = {}
    for what, of in {"groups": groups, "weights": options.get("weights")}.items():
        if of is not None and not callable(of):
            tables[what] = source(of, what)
    check_order(loader, tables.values())
    models = _models({"teacher": teacher, "student": student, "baseline": baseline}, kinds)
    everyone = list(itertools.chain(*models.values()))
    examples = Examples(groups)
    with as_asked(everyone, device):
        _ask(everyone, loader, examples, names, progress)
    if callable(progress):
        options["progress"] = progress
    labels, found_groups = examples.sources(names)
    if getattr(loader, "drop_last", False):
        labels.note("the loader leaves out its last, incomplete batch (drop_last=True).")
    answers = {role: [model.source(names) for model in of] for role, of in models.items()}
    options["classes"] = names or tuple(map(str, range(everyone[0].classes)))
    return audit(labels, **answers, **options | {"groups": found_groups} | tables)


def _checked(options):
    """{role: kind of its scores}; AuditError for wrong options, TypeError for a misspelt one."""
    bound = inspect.signature(audit).bind(None, None, None, **options)
    bound.apply_defaults()
    kinds = kinds_of(bound.arguments["kind"])
    if "classes" in kinds.values():
        raise AuditError("kind 'classes': models must give scores; kdlib.audit takes classes.")
    checked = ("edges", "worst", "resamples", "seed", "missing_groups")
    check_options(*(bound.arguments[name] for name in checked))
    return kinds


def _models(given, kinds):
    """{role: [Reduced]} of what is given for each role: one model or several."""
    found = {}
    for role, of_role in given.items():
        several = list(of_role) if isinstance(of_role, (list, tuple)) else [of_role]
        if several in ([], [None]):
            continue
        found[role] = []
        for name, model in zip(titles(role, several), several, strict=True):
            if not callable(model):
                raise AuditError(
                    f"{name}: {type(model).__name__} is neither a module of torch nor a function; "
                    "kdlib.audit takes files and arrays."
                )
            found[role].append(Reduced(model, name, kinds[role]))
    check_roles(found)
    return found


def _ask(models, loader, examples, names, progress):
    """Show every batch of a loader to every model, which keeps what it says; examples the rest."""
    for batch in with_progress(loader, desc="models", unit="batch") if progress else loader:
        if isinstance(batch, AuditError):  # raised in a worker it would carry a traceback
            raise batch
        args, named, labels, more = parts_of(batch)
        y = labels_of(labels, examples.n)
        for model in models:
            scores = model.scores(args, named, len(y), examples.n)
            classes = _check_width(model, models[0], names)
            found = Source("labels", {}, start=examples.n)
            wrong = (y < 0) | (y >= classes)
            found.refuse(wrong, y, "label", f"a number from 0 to {classes - 1}")
            model.add(scores, y, examples.n)
        examples.add(y, more, batch)
    if not examples.n:
        raise AuditError(
            "loader: yields no example; a generator that was read before has nothing left."
        )


def _check_width(model, first, names):
    """The number of classes; AuditError unless a model has as many as the first and as names."""
    gives = f"{model.name}: gives scores of {count_of(model.classes, 'class', 'classes')}"
    if model.classes != first.classes:
        others = f"{first.name} of {first.classes}; an audit needs models of the same classes"
        raise AuditError(f"{gives}, but {others}.")
    if names and len(names) != model.classes:
        came = count_of(len(names), "name")
        raise AuditError(f"{gives}, but {came} of classes came with it.")
    return model.classes


def with_progress(items, **shown):
    """The items, with a bar on a terminal or in a notebook if tqdm is there; shown: its options."""
    try:
        from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets
    except ModuleNotFoundError:
        return items
    quiet = False if in_notebook() else None  # None: where there is no terminal
    return tqdm(items, disable=quiet, **shown)


# ---------------------------------------------------------------- modules, as they were before


@contextlib.contextmanager
def as_asked(models, device=None):
    """Modules of models in eval mode, on a device, without gradients; and afterwards as before.

    Not torch.inference_mode: what a module caches in it, such as rotary embeddings, could not be
    trained with afterwards.
    """
    modules = list(dict.fromkeys(itertools.chain(*(model.modules for model in models))))
    parts = dict.fromkeys(itertools.chain(*(module.modules() for module in modules)))
    training = [(part, part.training) for part in parts]
    homes = [(module, home_of([module])) for module in modules]
    if device is not None:
        _check_device(device, modules)
    try:
        for module in modules:
            module.eval()
            if device is not None:
                module.to(device)
        devices = {home_of([module]) for module in modules} - {None}
        gpus = [where.index for where in devices if where.type == "cuda"]
        with torch.no_grad(), torch.random.fork_rng(gpus):
            yield
    finally:
        for part, was in training:
            part.training = was
        for module, home in homes:
            if device is not None and home is not None:
                module.to(home)


def _check_device(device, modules):
    """AuditError for a device that torch cannot use, or modules that cannot be moved as a whole."""
    try:
        torch.zeros(1, device=device).tolist()  # meta, on which weights are lost, holds no numbers
    except (RuntimeError, AssertionError, TypeError) as error:
        raise AuditError(f"device {device!r}: torch cannot use it ({reason(error)}).") from None
    for module in modules:
        if len({parameter.device for parameter in module.parameters()}) > 1:
            raise AuditError(
                f"device {device!r}: {type(module).__name__} lies on several devices; "
                "leave the device out."
            )
