"""What a search found on val: the scores of its levels, and the gate for its recipe."""

import numpy as np
import pandas as pd

from kdlib.evidence.resample import GroupMeans
from kdlib.evidence.stats import welch
from kdlib.evidence.words import number
from kdlib.study import records

LEAST_CHANGE = 1.0  # points by which doubling the epochs may still change one_hot's average
LEAST_MARGIN = 0.9  # of the teacher on its own training images, mean over images
CHANGE = "change at twice the epochs"
MARGIN = "teacher's margin on its training images"
LEAST_FEW_SHOT = 2.0  # per cent on val in every few-shot class, mean over seeds
PASSES = {"yes": "passes", "no": "does not pass", "not known": "is not known to pass"}


def _val(cfg):
    """(G,) per cent: accuracy of a run on val by group."""
    val = records.read(cfg).splits["val"]
    return np.array([100 * val.right[val.group == g].mean() for g in np.unique(val.group)])


def scores(search, seeds):
    """DataFrame: accuracy on val, in per cent, of every level of every step, by seed and as a mean.

    `chosen` marks the level that a step chose."""
    rows = []
    for step in search.steps:
        of_step = []
        for level in step.levels:
            runs = [
                [_val(search.config(step, level, m, s)).mean() for m in step.methods]
                for s in range(search.seeds_of(step, seeds))
            ]
            per_seed = np.mean(runs, axis=1)
            of_step.append(
                {
                    "question": step.question,
                    "level": f"teacher = {level['student']}" if step.teachers else in_words(level),
                    "mean": per_seed.mean(),
                    "per_seed": tuple(per_seed),
                    "seeds": len(per_seed),
                }
            )
        best = max(of_step, key=lambda row: row["mean"])  # ties go to the first
        if search.epochs and "epochs" in step.levels[0]:  # the fewest that pass the gate, if any
            rows_of_gate = [] if step.fields else gate(search, seeds).itertuples()
            passed = [f"epochs = {row.epochs}" for row in rows_of_gate if row.passes == "yes"]
            best = next((row for row in of_step if row["level"] in passed), None)
        rows += [{**row, "chosen": "yes" if row is best else ""} for row in of_step]
    return pd.DataFrame(rows)


def in_words(level):
    """A level as text: batch_size = 32, lr = 0.1."""
    return ", ".join(
        f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in level.items()
    )


def gate(search, seeds):
    """DataFrame: each number of epochs whose double was run too, and whether it is enough.

    change: what twice the epochs add to one_hot's average on val. lowest: accuracy in the weakest
    few-shot class. margin: of the teacher on its own training images, known only for the chosen
    number of epochs, where students record it."""
    rows = []
    chosen = search.shared["epochs"]
    # a step with fields of its own tried the lengths of another recipe
    step = next(s for s in search.steps if "epochs" in s.levels[0] and not s.fields)
    some = range(search.seeds_of(step, seeds))

    def one_hot(level):
        """(S, G) per cent on val."""
        return np.array([_val(search.config(step, level, "one_hot", s)) for s in some])

    for epochs in search.epochs:
        longer = {"epochs": 2 * epochs}
        if longer not in step.levels:
            continue
        here, there = one_hot({"epochs": epochs}), one_hot(longer)
        change = there.mean() - here.mean()
        low, high = _interval(there.mean(axis=1), here.mean(axis=1))
        first = records.read(search.config(step, {"epochs": epochs}, "one_hot", 0))
        counts = np.array(first.facts["train_counts"])
        margin = _teacher_margin(search, seeds, counts) if epochs == chosen else np.nan
        lowest = here.mean(axis=0)[counts < search.bucket_edges[1]].min()
        enough = abs(change) < LEAST_CHANGE and lowest >= LEAST_FEW_SHOT
        word = "not known" if enough and np.isnan(margin) else "no"
        if enough and margin >= LEAST_MARGIN:
            word = "yes"
        rows.append(
            {
                "epochs": epochs,
                "average": here.mean(),
                CHANGE: change,
                "low": low,
                "high": high,
                "lowest few-shot class": lowest,
                MARGIN: margin,
                "passes": word,
            }
        )
    return pd.DataFrame(rows)


def _interval(a, b):
    """(low, high) of the 95 % interval of a - b, means over networks; NaN with one network."""
    found = welch(*(GroupMeans(values, np.tile(values, (2, 1))) for values in (a, b)))
    return found.low, found.high


def _teacher_margin(search, seeds, counts):
    """Mean margin over their training images of the teachers of the chosen recipe.

    NaN before a student records it."""
    step = next(step for step in search.steps if "kd" in step.methods)
    students = [search.config(step, step.levels[0], "kd", s) for s in range(seeds)]
    if not all(map(records.exists, students)):
        return np.nan
    margins = [records.read(cfg).facts["teacher_margin_train"] for cfg in students]
    return np.mean([np.average(margin, weights=counts) for margin in margins])


def headline(search, seeds):
    """What val chose and whether the gate is passed, in sentences."""
    table = scores(search, seeds)
    chosen = "; ".join(table[table.chosen == "yes"].level)
    said = [f"{search.title}: the search chose {chosen}."]
    if search.epochs:
        row = gate(search, seeds).set_index("epochs").loc[search.shared["epochs"]]
        word = PASSES[row.passes]
        ends = f"{number(row.low, '', 1)} to {number(row.high, '', 1)}"
        said.append(
            f"With {search.shared['epochs']} epochs, the recipe {word} the gate. Twice the epochs "
            f"change the average by {number(row[CHANGE], digits=2)} (95 % interval over networks "
            f"{ends}; required: less than {LEAST_CHANGE:g}); the teacher's margin on its training "
            f"images is {row[MARGIN]:.3f} (at least {LEAST_MARGIN:g}); the lowest few-shot class "
            f"is at {row['lowest few-shot class']:.1f} % (at least {LEAST_FEW_SHOT:g})."
        )
    return said
