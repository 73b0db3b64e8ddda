"""A card beside each student's weights, and an index of a run: Markdown, by card.md.j2, run.md.j2.

Names from data are escaped. Accuracies are in per cent, gains in points over the baseline.
"""

import re
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kdlib import __version__
from kdlib.asking.networks import named
from kdlib.auditing.ci import cell, code, prose, table
from kdlib.auditing.found import write
from kdlib.auditing.headline import in_words, words_of
from kdlib.config import count_of
from kdlib.distilling.audited import group_names
from kdlib.distilling.choice import BASELINE, harms, labels_told, stem
from kdlib.evidence.counts import by_group
from kdlib.evidence.resample import Groups, average_means, degrees_of_examples
from kdlib.evidence.stats import interval
from kdlib.evidence.words import brief, number, told
from kdlib.methods import entry, name_of

WORST = 10  # groups in the table
NAMED = 20  # harmed groups by name
SMALL = 10  # test images, below which a group says little
LOADS = {  # library: (what is imported, the network without its weights)
    "torchvision": ("import torchvision", 'torchvision.models.get_model("{}", num_classes={})'),
    "timm": ("import timm", 'timm.create_model("{}", num_classes={})'),
    "kdlib": ("from kdlib.models import MODELS", 'MODELS["{}"]({})'),
}
ISOLATES = re.compile("[\N{FIRST STRONG ISOLATE}\N{POP DIRECTIONAL ISOLATE}]")  # of within_text
SAID = ("mean", "std", "size", "teacher_sha256")  # of about, not in its list
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    "prose": lambda text: prose(ISOLATES.sub("", text)),
    "name_of": name_of,
    "code": lambda text: code(text, None),
    "colours": lambda values: ", ".join(f"{value:.4g}" for value in values),
}


def write_cards(out, listing, methods, about, audits, chosen):
    """Write a card beside the weights of each student, and README.md in the folder of the run.

    methods: {method: [results.Trained]}. audits: {method that distils: Audit}. chosen: Choice."""
    files = {}
    for method, runs in methods.items():
        stems = [stem(method, one.seed) for one in runs]
        files[method] = " ".join(f"predictions/{name}-test.npz" for name in stems)
        for one, name in zip(runs, stems, strict=True):
            text = card(one, listing, about, audits, chosen)
            write(out / "students" / f"{name}.md", text, f"--out {out}")
    index = TEMPLATES.get_template("run.md.j2")
    text = index.render(chosen=chosen, files=files, baseline=BASELINE)
    write(out / "README.md", text, f"--out {out}")


def card(one, listing, about, audits, chosen):
    """The card of a student, results.Trained, as Markdown; see write_cards."""
    student = named(about["student"])
    own = audits.get(one.method)
    a = own or next(iter(audits.values()))
    counts = by_group(one.test, len(listing.group_names), len(listing.class_names))
    tested = int((counts["n"] > 0).sum())
    baselines = sum(role == "baseline" for role, _, _ in a.inputs)
    lost = f"It {harms(own, NAMED)}, at a false discovery rate of 5 %." if own else ""
    return TEMPLATES.get_template("card.md.j2").render(
        one=one,
        stem=stem(one.method, one.seed),
        distils=own is not None,
        listing=listing,
        about=about,
        library=student.library,
        name=student.name,
        loads=LOADS[student.library],
        classes=count_of(len(listing.class_names), "class", "classes"),
        chosen=chosen,
        ships=(one.method, one.seed) == (chosen.method, chosen.seed),
        entry=entry(one.method),
        labels=labels_told([one.method], about),
        recipe=_recipe(about, own is not None),
        version=__version__,
        accuracy=_accuracy(one, a),
        baselines=count_of(baselines, "training run"),
        runs=count_of(a.seeds, "training run"),
        gain=told(a.metrics["average_gain"]),
        worst=_worst(counts, group_names(listing), own),
        tested=count_of(tested, "group"),
        all_shown=tested <= WORST,
        harmed=lost,
        small=int((counts["n"] < SMALL).sum()),
        groups=count_of(len(listing.group_names), "group"),
        SMALL=SMALL,
    )


def _recipe(about, distils):
    """Lines of the recipe, but for what stands elsewhere on the card."""
    lines = []
    for what, words in about.items():
        name = what.replace("_", " ").capitalize()
        if what in ("teacher", "student"):  # to be copied as they are
            lines += [f"{name}: {code(words, None)}"] if distils or what == "student" else []
        elif what not in SAID:
            lines.append(prose(f"{name}: {words}"))
    return lines


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


def _accuracy(one, a):
    """Lines of a table: this network beside the baseline and the teacher of an Audit."""
    found = {"this network": accuracies(one.test)}
    for role in ("baseline", "teacher"):
        found[role] = [a.metrics[f"{role}_{what}"] for what in ("accuracy", "average")]
    rows = [[role, *(brief(of, signed=False) for of in both)] for role, both in found.items()]
    return table(["", "over all images", "mean of the groups"], rows)


def _worst(counts, names, a):
    """Lines of a table: the groups in which this network is least accurate, with their gains.

    counts: by_group of its test images. a: the Audit of its method, None of the baseline."""
    header = ["group", "test images", "accuracy, %"]
    if a is not None:
        header += ["gain, points", "finding"]
        gains = in_words(a.groups, words_of(a)).assign(estimate=a.groups.gain).set_index("group")
    tested = np.flatnonzero(counts["n"])
    accuracy = 100 * counts["correct"] / np.maximum(counts["n"], 1)
    rows = []
    for g in tested[np.argsort(accuracy[tested], kind="stable")][:WORST]:
        row = [cell(names[g]), f"{counts['n'][g]:,}", number(accuracy[g], "", signed=False)]
        if a is not None:
            row += [brief(gains.loc[names[g]]), gains.finding[names[g]]]
        rows.append(row)
    return table(header, rows)
