"""Published numbers beside ours, by the same recipes.

What passes was fixed in advance: PROTOCOL.md, section 8. Wang et al.'s numbers are a comparison,
without pass or fail."""

import numpy as np
import pandas as pd

from kdlib.evidence.counts import BUCKETS, buckets
from kdlib.evidence.panel import panel
from kdlib.evidence.stats import interval, worst
from kdlib.evidence.words import all_of, brief
from kdlib.methods import name_of
from kdlib.pages.shown import Table, over_seeds, plus_minus
from kdlib.study import records
from kdlib.study.anchors import ANCHORS
from kdlib.study.done import complete_seeds
from kdlib.study.grids import study as study_of
from kdlib.study.studies import told

EDGES = (100, 20)  # training images: many-shot classes have more than 100, few-shot under 20


def _records(rows, seeds):
    """For each row, the records of its seeds that exist.

    RecordError naming a record whose data or teacher differ from those of the other records."""
    by_data, out = {}, []
    for row in rows:
        done = []
        for cfg in filter(records.exists, map(row.config, range(seeds))):
            record = records.read(cfg)
            data = cfg.dataset, cfg.draw_seed, cfg.imbalance
            records.check_pair(record, by_data.setdefault(data, record))
            for teacher in filter(records.exists, cfg.dependencies()):
                records.check_pair(record, records.read(teacher))
            done.append(record)
        out.append(done)
    return out


def _accuracies(record):
    """Accuracies in per cent on all official test images, val and test together.

    First over all images; then in each bucket, where every class counts alike, as in the sources.
    """
    parts = [record.splits["val"], record.splits["test"]]
    right = np.concatenate([split.right for split in parts])
    y = np.concatenate([split.y for split in parts])
    of_class = 100 * np.bincount(y, right) / np.bincount(y)
    bucket = buckets(record.facts["train_counts"], EDGES)
    by_bucket = [of_class[bucket == b].mean() for b in np.unique(bucket)]
    return [100 * right.sum() / len(right), *by_bucket]


def _published(values):
    """A published value, or range, for a cell."""
    return " to ".join(f"{value:.2f}" for value in values)


def table(study=ANCHORS, seeds=None):
    """DataFrame with a row per anchor: what was published, beside ours.

    Columns: setting, source, published, ours (mean over seeds, last epoch, all official test
    images) with its 95 % t interval, seeds on record, and "pass", "explain", "preliminary" (fewer
    seeds than planned) or "not run"."""
    rows = []
    of_rows = _records(study.rows, seeds or study.seeds)
    for row, done in zip(study.rows, of_rows, strict=True):
        found = over_seeds([_accuracies(record)[0] for record in done] or [np.nan])
        source = f"{row.source} (second-hand)" if row.second_hand else row.source
        what = {"setting": row.setting, "source": source, "published": _published(row.published)}
        ours = {"ours": found.estimate, "low": found.low, "high": found.high, "seeds": len(done)}
        rows.append(what | ours | {"result": row.word(found.estimate, len(done), study.seeds)})
    return pd.DataFrame(rows)


def so_far(study=ANCHORS, seeds=None):
    """How many published numbers were compared, however few seeds, and what is missed."""
    rows = zip(study.rows, table(study, seeds).itertuples(), strict=True)
    done = [(anchor, row) for anchor, row in rows if row.seeds]
    missed = [
        max(min(anchor.published) - row.ours, row.ours - max(anchor.published))
        for anchor, row in done
        if anchor.word(row.ours, study.seeds, study.seeds) != "pass"
    ]
    said = f"Of {len(study.rows)} published numbers that a correct implementation must reach, "
    if not done:
        return f"{said}none has been compared yet."
    away = f", by {all_of([f'{points:.1f}' for points in missed])} points" if missed else ""
    fewest = min(row.seeds for _, row in done)
    recipes = len({anchor.config(0).key() for anchor, _ in done})
    return (
        f"{said}{len(done)} have been compared so far, by {recipes} recipes of ours with at least "
        f"{fewest} of {study.seeds} seeds. Reached: {len(done) - len(missed)}; missed: "
        f"{len(missed)}{away}."
    )


def by_bucket(study=ANCHORS, seeds=None):
    """DataFrame: for each long-tailed anchor, a row for all classes and one per bucket.

    Columns: setting, classes, published ("–": not published), ours with its 95 % t interval over
    seeds or "not run", seeds on record. Per cent, all official test images."""
    long_tailed = [row for row in study.rows if row.config(0).imbalance > 1]
    rows = []
    of_rows = _records(long_tailed, seeds or study.seeds)
    for row, done in zip(long_tailed, of_rows, strict=True):
        ours = [_accuracies(record) for record in done]
        theirs = [row.published, *((value,) for value in row.buckets)]
        for k, name in enumerate(("all", *BUCKETS)):
            published = _published(theirs[k]) if k < len(theirs) else "–"
            found = over_seeds([accuracies[k] for accuracies in ours] or [np.nan])
            printed = brief(found, 2, signed=False) if done else "not run"
            cells = {"setting": row.setting, "classes": name, "published": published}
            rows.append(cells | {"ours": printed, "seeds": len(done)})
    return pd.DataFrame(rows)


def markdown_table(header, rows):
    """A table as Markdown; every cell is text."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([head.replace("|  |", "| |"), "|" + "---|" * len(header), *body])


def markdown(study=ANCHORS):
    """The table as Markdown, published beside ours; below it the buckets of what was run."""
    rows = []
    found = table(study).rename(columns={"ours": "estimate"})
    for anchor, row in zip(study.rows, found.itertuples(), strict=True):
        ours = brief(row, 2, signed=False)
        seeds = f"{row.seeds} of {study.seeds}"
        result = row.result
        if (
            result == "preliminary"
            and anchor.word(row.estimate, study.seeds, study.seeds) != "pass"
        ):
            result = "preliminary, outside so far"
        rows.append([row.setting, row.source, row.published, ours, seeds, result])
    header = ["setting", "source", "published", "ours (95 % interval)", "seeds", ""]
    found = by_bucket(study)
    found = found[found.seeds > 0]
    parts = [markdown_table(header, rows)]
    if len(found):
        parts.append("By bucket, where every class of a bucket counts alike:")
        parts.append(markdown_table(found.columns, found.astype(str).to_numpy().tolist()))
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- Wang et al. 2023: a comparison

SELF = ("resnet56", "resnet56")
# (study, pair): {method: (average, worst class)}, as printed there; PROTOCOL.md, section 1
WANG = {
    ("cifar100", SELF): {
        "one_hot": ("72.42±0.16", "42.22±0.90"),
        "kd": ("74.61±0.15", "43.81±0.58"),
        "ada_margin": ("73.58±0.11", "43.91±1.11"),
        "ada_alpha": ("74.15±0.08", "45.46±0.67"),
        "W's robust student": ("73.22", "48.40"),
    },
    ("cifar100", ("resnet56", "resnet32")): {
        "kd": ("73.19±0.10", "41.82±1.12"),
        "ada_margin": ("71.92±0.17", "42.22±1.65"),
        "ada_alpha": ("72.93", "41.50"),
    },
    ("cifar100-lt", SELF): {
        "one_hot": ("43.33±0.16", "0"),
        "kd": ("46.01±0.16", "0"),
        "ada_margin": ("31.26±0.21", "0"),
        "ada_alpha": ("42.52±0.08", "0"),
        "logit_adjusted": ("50.40±0.12", "4.39±0.66"),
        "W's robust student": ("43.94", "14.52"),
    },
    ("cifar10", SELF): {
        "one_hot": ("93.74±0.05", "86.48±0.32"),
        "kd": ("94.34±0.07", "87.66±0.40"),
        "ada_margin": ("93.69±0.06", "88.42±0.36"),
        "ada_alpha": ("94.31±0.01", "88.33±0.14"),
    },
    ("cifar10-lt", SELF): {
        "one_hot": ("76.27±0.20", "57.26±0.55"),
        "kd": ("77.39±0.10", "60.12±0.56"),
        "ada_margin": ("72.69±0.24", "47.52±0.95"),
        "ada_alpha": ("70.83±0.28", "43.64±1.09"),
        "logit_adjusted": ("81.36", "71.60"),
    },
}


def comparison():
    """DataFrame: Wang et al.'s average and worst class beside ours on our test half.

    "not run": our study has no complete seed. "not planned": our study has no such run. Peak rate,
    temperature, test half and (long tails) the draw differ."""
    rows = []
    for (name, pair), methods in WANG.items():
        chosen = study_of(name)
        seeds = complete_seeds(name)
        ours = panel(chosen, pair, seeds, "test") if seeds and pair in chosen.pairs else None
        for method, (published, published_worst) in methods.items():
            planned = pair in chosen.pairs and method in chosen.methods
            average = lowest = "not run" if planned else "not planned"
            run = ours is not None and method in ours.runs
            if run:
                accuracy = ours.accuracy(method)
                average = plus_minus(interval(*accuracy.map(np.mean, axis=-1)), 2)
                lowest = plus_minus(interval(*accuracy.map(worst, k=1)), 2)
            what = {"study": name, "pair": " → ".join(pair), "method": name_of(method)}
            of_average = {"W, average": published, "ours, average": average}
            of_worst = {"W, worst class": published_worst, "ours, worst class": lowest}
            rows.append(what | of_average | of_worst | {"seeds": seeds if run else 0})
    return pd.DataFrame(rows)


def deviations(p):
    """Table of what differs from the paper or its re-run, from the Configs: one row per choice."""
    study, kd, ada = p.study, *(p.runs[m][0].config for m in ("kd", "ada_alpha"))
    unstated = "not stated in what we could read"
    data = "CIFAR-100, CIFAR-10, their long-tailed versions, ImageNet (re-run: Wang et al. 2023)"
    networks = (
        f"{p.name}, {kd.epochs} epochs, batch {kd.batch_size}, learning rate {kd.lr:g}, "
        f"{kd.decay} decay"
    )
    theirs = "ResNet-56 to ResNet-56 or -32, 256 epochs on the long tail (re-run)"
    whose = {"both": "of teacher and student", "teacher": "of the teacher alone"}[kd.soften]
    teacher = f"T = {kd.temperature:g} {whose}, alpha = {kd.alpha:g}"
    of = "group, or of its label," if "ada_alpha_by_label" in p.runs else "group"
    alpha = (
        f"alpha is the margin of the {of} on {ada.margin_source}, T = {ada.margin_temperature:g}"
    )
    labels = "AdaAlpha reads the labels of val for its margins"
    if "ada_alpha_crossfit" in p.runs:
        labels += ", unless these come from crossfit"
    seeds = f"{p.seeds} of {study.seeds} planned, {len(p.runs['one_hot'])} baselines"
    rows = [
        ("data", f"{study.name}: {study.about}", data),
        ("networks", networks, theirs),
        ("temperature", teacher, "T in {1, 3, 5} on the teacher's side only (re-run)"),
        ("AdaAlpha", alpha, "formula not given in what we could read: reconstructed"),
        ("extra labels", labels, unstated),
        ("seeds", seeds, unstated),
    ]
    if "ada_margin" in p.runs:
        reading = f"reading {p.runs['ada_margin'][0].config.margin_reading}"
        rows.insert(4, ("AdaMargin", reading, "reconstructed; other readings are sensitivity"))
    if study.demonstration:
        rows.insert(0, ("status", "a demonstration, not a reproduction", "–"))
    if study.overrides:
        rows.insert(0, ("status", f"exploratory: {told(study.overrides)}; no verdict", "–"))
    found = pd.DataFrame(rows, columns=["choice", "here", "in the paper or its re-run"])
    return Table(found, "What differs from the paper or its re-run")
