"""What notebooks/10_distil_your_own.ipynb calls: its parameters checked, its results shown."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup, escape

from kdlib.auditing import comparison
from kdlib.auditing.figures import gain_by_group
from kdlib.auditing.headline import words_of
from kdlib.auditing.page import appendix
from kdlib.config import KdlibError, checked
from kdlib.distilling import example
from kdlib.distilling.checks import check_command
from kdlib.distilling.choice import BASELINE
from kdlib.distilling.recipe import Own, asked
from kdlib.pages.shown import Headline, Table
from kdlib.study.parameters import check_names

PARAMETERS = ("data", "teacher", "student", "methods", "groups", "teacher_classes", "seeds")
PARAMETERS += ("epochs", "size", "batch_size", "lr", "temperature", "augment", "out")
NETWORKS = ("teacher", "student")
# what those that cannot be left out name
NEEDED = dict.fromkeys(NETWORKS, "a network, such as torchvision:resnet18, for images of your own")
NEEDED |= {"methods": "one_hot, the baseline, and others", "out": "a folder"}
TEXTS = ("data", *NETWORKS, "groups", "teacher_classes", "augment", "out")
FIELDS = ("epochs", "size", "batch_size", "lr", "temperature", "augment")  # of Own
PARAMETER = "notebook parameter"


# ---------------------------------------------------------------- parameters


def check_parameters(namespace):
    """What run.distil is given beside the images, by the parameters of the notebook.

    The notebook calls check_parameters(globals()). Texts are "" and numbers None where nothing is
    asked for; methods are a text with commas between them, or a list. Without `data`, networks and
    recipe are by default those of the example. KdlibError for a name that papermill was given and
    the notebook does not know, for a wrong type, and for what distil would refuse unseen."""
    check_names(namespace, PARAMETERS)
    given = {name: _value(name, namespace[name]) for name in PARAMETERS}
    given = {name: value for name, value in given.items() if value is not None}
    if given.pop("data", None) is None:
        given = example.RECIPE | given
    for name, what in NEEDED.items():
        if name not in given:
            raise KdlibError(f"{PARAMETER} {name}={namespace[name]!r}: must name {what}.")
    data = namespace["data"] or f"{given['out']}/images"
    fields = {name: given.get(name) for name in FIELDS}
    as_usual = None, (None, None), (None, None)  # workers, and the colours
    rest = given.get("teacher_classes")
    try:
        networks, *_ = asked(None, given["teacher"], given["student"], given["methods"], fields)
        check_command(data, given["out"], networks, given.get("seeds", 1), *as_usual, rest)
    except KdlibError as error:
        raise KdlibError(f"{PARAMETER}{_as_parameter(str(error))}") from None
    return given


def _as_parameter(said):
    """A sentence that begins with an option of the command, with a parameter in its place."""
    option, _, rest = said.partition(" ")
    if not option.startswith("--"):
        return f"s: {said}"
    return f" {option.removeprefix('--').replace('-', '_')} {rest}"


def _value(name, value):
    """The value of a parameter, None where nothing is asked for; KdlibError for a wrong type."""
    if name == "methods":
        several = value.split(",") if isinstance(value, str) else value
        if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            raise KdlibError(f"{PARAMETER} methods={value!r}: must be text, or a list of texts.")
        return [one.strip() for one in several if one.strip()] or None
    if name in TEXTS and not isinstance(value, str):
        raise KdlibError(f"{PARAMETER} {name}={value!r}: must be text.")
    if value is None or name in TEXTS and not value.strip():
        return None
    if name not in FIELDS:
        return value
    try:
        return checked(name, value, Own)
    except KdlibError as error:
        raise KdlibError(str(error).replace("Config field", PARAMETER)) from None


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True)
class Said:
    """Sentences, as paragraphs of a notebook. Called with one more, it prints and keeps it."""

    sentences: list = field(default_factory=list)

    def __call__(self, sentence):
        print(sentence, flush=True)
        self.sentences.append(sentence)

    def _repr_html_(self):
        return "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)


def audits_of(found):
    """{method: Audit} of what distil returns, which for one method is its Audit alone."""
    distilled = [method for method in found.choice.table.method if method != BASELINE]
    return found.audits if len(distilled) > 1 else {distilled[0]: found}


def answer(found, data):
    """[Headline, Said]: which student to ship; whom the methods hurt, how far to trust all this.

    data: the parameter, "" for the example."""
    first, *more = found.headline()
    warnings = [f"Warning: {sentence}" for sentence in found.warnings]
    return [Headline([*warnings, first]), Said([*more, *([] if data else [example.SAID])])]


def figures(found):
    """[Shown]: the gains of all methods, where there are several; the gain by group of each."""
    audits = audits_of(found)
    shown = []
    if len(audits) > 1:
        shown = [comparison.gain_by_student(found.table, found.first.worst, found.reference)]
    for method, a in audits.items():
        figure = gain_by_group(a.groups, a.reference, words_of(a))
        words = figure.sentence[0].lower() + figure.sentence[1:]
        shown.append(replace(figure, sentence=f"{method}: {words}"))
    return shown


def tables(found):
    """What the choice was made by; the methods side by side; every group of each method."""
    about = (
        "Accuracy on validation images in per cent, a mean over training runs; images: how many "
        "there are of a method's worst groups; allowed: the average is not below the baseline's"
    )
    choice = Table(found.choice.table, about)
    every = []
    for method, a in audits_of(found).items():
        groups = appendix(a, f"report-{method}")
        words = groups.caption[0].lower() + groups.caption[1:]
        every.append(replace(groups, caption=f"{method}: {words}"))
    said = Said([found.choice.rule, found.choice.labels])
    return [said, choice, found.look.overview(found), *every]


def links(found, out):
    """Said, with links: the pages of what was found in a folder, and the student to ship."""
    audits = audits_of(found)
    ship = found.choice.file
    whole = _link(out, "report.html")
    said = [Markup("The audit as a page, with its numbers in files beside it: {}.").format(whole)]
    if len(audits) > 1:
        each = Markup(", ").join(_link(out, f"report-{method}.html") for method in audits)
        said.append(Markup("A page for each method: {}.").format(each))
    both = _link(out, ship), _link(out, Path(ship).with_suffix(".md"))
    said.append(Markup("The student to ship: {}; its model card: {}.").format(*both))
    return Said(said)


def _link(out, file):
    """A link to a file in a folder, from the folder where the notebook is run."""
    path = Path(out) / file
    address = quote(Path(os.path.relpath(path)).as_posix())
    return Markup('<a href="{}">{}</a>').format(address, path)
