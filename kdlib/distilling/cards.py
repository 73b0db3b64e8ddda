"""A card beside each student's weights, and an index of a run: Markdown.

Names from data are escaped. Accuracies are in per cent, gains in points over the baseline.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import __version__
from kdlib.auditing.ci import cell, code, prose, table
from kdlib.config import KdlibError, count_of
from kdlib.distilling.audited import group_names
from kdlib.distilling.choice import BASELINE, labels_read, stem
from kdlib.evidence.resample import Groups, average_means, degrees_of_examples
from kdlib.evidence.stats import interval
from kdlib.evidence.words import brief, number, told
from kdlib.methods import entry, name_of
from kdlib.study.files import whole_file

WORST = 10  # groups in the table
NAMED = 20  # harmed groups by name
SMALL = 10  # test images, below which a group says little
NETWORKS = ("teacher", "student")
NETWORK = re.compile(r"(\w+):([^:@]+)")  # LIBRARY:NAME, before the file of its weights
LOADS = {  # library: (what is imported, the network without its weights)
    "torchvision": ("import torchvision", 'torchvision.models.get_model("{}", num_classes={})'),
    "timm": ("import timm", 'timm.create_model("{}", num_classes={})'),
    "kdlib": ("from kdlib.models import MODELS", 'MODELS["{}"]({})'),
}


def network_of(about):
    """LIBRARY:NAME of the student, without a file of weights that it began with."""
    found = NETWORK.match(about["student"])
    if found is None or found[1] not in LOADS:
        raise KdlibError(f"student {about['student']}: must be LIBRARY:NAME of {', '.join(LOADS)}.")
    return found[0]


def write_cards(out, listing, methods, about, audits, chosen):
    """Write a card beside the weights of each student, and README.md in the folder of the run.

    methods: {method: [results.Trained]}. audits: {method that distils: Audit}. chosen: Choice."""
    for runs in methods.values():
        for one in runs:
            path = out / "students" / f"{stem(one.method, one.seed)}.md"
            _write(path, card(one, listing, about, audits, chosen))
    _write(out / "README.md", index(methods, audits, chosen))


def _write(path, text):
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


# ---------------------------------------------------------------- the card of a student


def card(one, listing, about, audits, chosen):
    """The card of a student, results.Trained, as Markdown; see write_cards."""
    library, name = network_of(about).split(":")
    file = f"{stem(one.method, one.seed)}.safetensors"
    distils = one.method != BASELINE
    classes = count_of(len(listing.class_names), "class", "classes")
    taught = f"with a teacher, {code(about['teacher'], None)}" if distils else "without a teacher"
    shipped = "It is the student that this run chose to ship."
    if chosen.file != f"students/{file}":
        shipped = f"It is **not** the student that this run chose to ship: that is `{chosen.file}`."
    size = about["size"]
    mean, std = (", ".join(f"{value:.4g}" for value in about[of]) for of in ("mean", "std"))
    parts = [
        _front_matter(library, distils),
        f"# {stem(one.method, one.seed)}",
        f"{prose(name)} of {library} for images of {classes}, trained {taught}. {shipped}",
        "## Input and output",
        f"Images in RGB of {size} x {size} pixels, their values from 0 to 1, less the mean {mean}, "
        f"over the deviation {std}. Out come scores (logits), one for each of {classes}; their "
        "names, in that order, stand in the file as `class_names`, JSON, beside `mean`, `std`, "
        '`network` and `size`: `safetensors.safe_open(FILE, "pt").metadata()`.',
        _snippet(library, name, len(listing.class_names), file),
        "## How it was trained",
        _training(one, listing, about),
        "## How accurate it is on test images",
        _accuracy(one, listing, audits),
        "## Its worst groups",
        _worst(one, listing, audits),
        "## What it must not be taken for",
        _limits(one, listing),
        "## Licence",
        _licence(distils),
    ]
    return "\n\n".join(parts) + "\n"


def _licence(distils):
    learned, of = "the images", "the licence of these"
    if distils:
        learned, of = "the images, and the teacher's answers to them", "the licences of both"
    return (
        f"This card grants none. The weights were learned from {learned}; whether they may be "
        f"passed on depends on {of}, which only you know."
    )


def _front_matter(library, distils):
    tags = ["image-classification", *(["knowledge-distillation"] if distils else []), "kdlib"]
    return "\n".join(
        ["---", f"library_name: {library}", "pipeline_tag: image-classification", "tags:"]
        + [*(f"- {tag}" for tag in tags), "---"]
    )


def _snippet(library, name, classes, file):
    """Five lines of Python that load it."""
    imported, network = LOADS[library]
    lines = [
        imported,
        "from safetensors.torch import load_file",
        f"model = {network.format(name, classes)}",
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
    ]
    return "\n".join(["```python", *lines, "```"])


def _training(one, listing, about):
    known = entry(one.method)
    of = f"{name_of(one.method)} (`{one.method}`{', ' + prose(known.about) if known else ''})"
    counts = ", ".join(
        f"{len(getattr(listing, split)):,} {what}"
        for split, what in (("train", "to train on"), ("val", "held out"), ("test", "to test on"))
    )
    kinds = count_of(len(listing.class_names), "class", "classes")
    if tuple(listing.group_names) != tuple(listing.class_names):
        kinds += f" and {count_of(len(listing.group_names), 'group')}"
    lines = [
        f"Method: {of}, seed {one.seed}",
        f"Images: {prose(Path(listing.folder).name)}; {counts}; {kinds}",
        prose(labels_read([one.method], about)),
    ]
    told_already = ("mean", "std", "size", "teacher_sha256")
    for what, words in about.items():
        no_teacher = what == "teacher" and one.method == BASELINE
        if what not in told_already and not no_teacher:
            name = what.replace("_", " ").capitalize()
            asked = what in NETWORKS  # to be copied as they are
            lines.append(f"{name}: {code(words, None)}" if asked else prose(f"{name}: {words}"))
    lines.append(f"kdlib {__version__}")
    return "\n".join(f"- {line}" for line in lines)


def accuracies(x):
    """(over all images, over groups alike) Interval of one network's accuracy, of new test images.

    x: Predictions. As an audit has it of a single student."""
    kept, index = np.unique(x.group, return_inverse=True)
    found = []
    for members in (Groups.everybody(len(x.y)), Groups.of(index, kept)):
        means = average_means(x.right[None], members) * 100
        df = degrees_of_examples(members, np.ones(len(x.y)))
        found.append(interval(*means, alone=df).within(0, 100))
    return found


def _accuracy(one, listing, audits):
    """Table of this network beside the baseline and the teacher, and its method's gain."""
    own = accuracies(one.test)
    rows = [["this network", *(brief(of, signed=False) for of in own)]]
    a = audits.get(one.method) or next(iter(audits.values()))
    for role in ("baseline", "teacher"):
        metrics = (a.metrics[f"{role}_{what}"] for what in ("accuracy", "average"))
        rows.append([role, *(brief(of, signed=False) for of in metrics)])
    lines = table(["", "over all images", "mean of the groups"], rows)
    said = "In per cent, with 95 % intervals; the baseline is the mean of "
    said += f"{count_of(_baselines(a), 'training run')} without a teacher."
    if one.method != BASELINE:
        runs = count_of(a.seeds, "training run")
        gain = told(a.metrics["average_gain"])
        said += f" The gain of `{one.method}`, of {runs}, over it is {gain} on average over groups."
    return "\n".join([*lines, "", said])


def _baselines(a):
    return sum(role == "baseline" for role, _, _ in a.inputs)


def _of_groups(one, listing):
    """DataFrame, one row per group with a test image: group, n, accuracy of this network."""
    groups = len(listing.group_names)
    n = np.bincount(one.test.group, minlength=groups)
    right = np.bincount(one.test.group, weights=one.test.right, minlength=groups)
    found = pd.DataFrame({"group": group_names(listing), "n": n, "right": right})
    found = found[found.n > 0]
    return found.assign(accuracy=100 * found.right / found.n)


def _worst(one, listing, audits):
    """Table of the groups in which this network is least accurate, and the harmed ones."""
    groups = _of_groups(one, listing)
    worst = groups.sort_values("accuracy", kind="stable").head(WORST)
    header = ["group", "test images", "accuracy, %"]
    a = audits.get(one.method)
    if a is not None:
        header += ["gain, points", "finding"]
        by_name = a.groups.assign(estimate=a.groups.gain).set_index("group")
    rows = []
    for r in worst.itertuples():
        row = [cell(r.group), f"{r.n:,}", number(r.accuracy, "", signed=False)]
        if a is not None:
            of = by_name.loc[r.group]
            row += [brief(of), of.finding]
        rows.append(row)
    said = f"All {count_of(len(groups), 'group')}, the least accurate first."
    if len(rows) < len(groups):
        said = (
            f"The {len(rows)} of {count_of(len(groups), 'group')} in which this network is least "
            "accurate. They were chosen on the images that score them, so on new images they are "
            "probably somewhat better, and others may be worse."
        )
    lines = [*table(header, rows), "", said]
    return "\n".join([*lines, *(["", _harmed(one, a)] if a is not None else [])])


def _harmed(one, a):
    """Sentences on the groups that the method harms."""
    said = (
        f"Gains are those of `{one.method}` over the baseline, the mean of all its training runs, "
        "with 95 % intervals. "
    )
    lost = a.groups[a.groups.finding == "harmed"].sort_values("gain", kind="stable")
    every = count_of(len(a.groups), "group")
    if not len(lost):
        return f"{said}None of {every} is clearly harmed; smaller harm may have gone unseen."
    named = [f"{cell(r.group)} ({number(r.gain)})" for r in lost.head(NAMED).itertuples()]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    verb = "is" if len(lost) == 1 else "are"
    return (
        f"{said}{len(lost)} of {every} {verb} harmed, at a false discovery rate of 5 %: "
        f"{', '.join(named)}{more}."
    )


def _limits(one, listing):
    """Sentences on what the numbers do not say."""
    n = np.bincount(one.test.group, minlength=len(listing.group_names))
    lines = [
        "A judge of images from elsewhere: it was tested on images of the data set it was trained "
        "on; other cameras, places or times may give another accuracy.",
        "A judge of what is none of its classes: it always names one of them.",
        "Fair to groups that were not looked at: accuracy is known of the groups of this run only.",
        "Sure where it sounds sure: its scores were not calibrated; the report says how far off "
        "they are.",
    ]
    if small := int((n < SMALL).sum()):
        lines.append(
            f"Tested in every group: {small:,} of {count_of(len(n), 'group')} have fewer than "
            f"{SMALL} test images, or none."
        )
    return "\n".join(f"- {line}" for line in lines)


# ---------------------------------------------------------------- the index of a run


def index(methods, audits, chosen):
    """What lies in the folder of a run, and how to audit it again, as Markdown."""
    files = {}
    for method, runs in methods.items():
        stems = [stem(method, one.seed) for one in runs]
        files[method] = " ".join(f"predictions/{name}-test.npz" for name in stems)
    labels = "predictions/labels-test.npz"
    command = [
        "python -m kdlib audit",
        f"--labels {labels}",
        f"--groups {labels}:group",
        "--teacher predictions/teacher-test.npz",
        f"--baseline {files.pop(BASELINE)}",
        f"--student {' '.join(f'{method}={of}' for method, of in files.items())}",
    ]
    lines = [
        "# A distillation and its audit",
        "",
        *(f"{prose(sentence)}\n" for sentence in (*chosen.said, chosen.labels)),
        "- `report.html`: whom distillation hurt, with `report.json` and `report.csv`"
        + (", and a page for each method" if len(audits) > 1 else ""),
        "- `students/`: the weights of each student (safetensors), a card that names its worst "
        "groups, and its recipe and curves (JSON)",
        "- `predictions/`: what each network says of each image",
        "",
        "To audit the same predictions again, by other groups or with more options:",
        "",
        "```sh",
        " \\\n  ".join(command),
        "```",
    ]
    return "\n".join(lines) + "\n"
