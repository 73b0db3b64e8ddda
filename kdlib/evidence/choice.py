"""What a search found on val: the scores of its levels, and the training check of its recipe."""

import numpy as np
import pandas as pd

from kdlib.evidence.resample import GroupMeans
from kdlib.evidence.stats import welch
from kdlib.evidence.words import brief, number
from kdlib.study import records
from kdlib.study.done import complete_seeds
from kdlib.study.grids import STUDIES
from kdlib.study.studies import told as in_words

LEAST_CHANGE = 1.0  # points by which doubling the epochs may still change one_hot's average
LEAST_MARGIN = 0.9  # of the teacher on its own training images, mean over images
CHANGE = "change at twice the epochs"
MARGIN = "teacher's margin on its training images"
LEAST_FEW_SHOT = 2.0  # per cent on val in every few-shot class, mean over seeds
AVERAGE, FEW = "average gain", "few-shot gain"
ONE_SEED = "one seed: no interval"
PASSES = {"yes": "passes", "no": "fails", "not known": "is not known to pass"}


def scores(search, seeds):
    """DataFrame: accuracy on val, in per cent, of every level of every step, by seed and as a mean.

    `chosen` marks the level that a step chose; of epochs, one for each choice of other fields."""
    rows = []
    for step in search.steps:
        if step.shows:
            continue
        of_step = []
        for level in step.levels:
            found = [_accuracies(search, step, level, m, seeds) for m in step.methods]
            per_seed = np.mean([of_method.mean(axis=1) for of_method in found], axis=0)
            of_step.append(
                {
                    "question": step.question,
                    "level": f"teacher = {level['student']}" if step.teachers else in_words(level),
                    "mean": per_seed.mean(),
                    "per_seed": tuple(per_seed),
                    "seeds": len(per_seed),
                }
            )
        # ties go to the first, in spite of rounding
        first = max(of_step, key=lambda row: round(row["mean"], 9))
        best = [first["level"]]
        if search.epochs and "epochs" in step.levels[0]:
            best = [] if step.fields else _shortest(search, seeds)
        rows += [{**row, "chosen": "yes" if row["level"] in best else ""} for row in of_step]
    return pd.DataFrame(rows)


def _shortest(search, seeds):
    """Levels in words: the fewest epochs that pass the check, if any, for all else in a level."""
    found = {}
    for row in training_check(search, seeds).to_dict("records"):
        level = {name: row[name] for name in _lengths(search).levels[0]}
        if row["passes"] == "yes":
            found.setdefault(in_words(level | {"epochs": ""}), in_words(level))
    return list(found.values())


def _lengths(search):
    """The step that tries lengths of training; one with fields of its own is of another recipe."""
    return next(s for s in search.steps if "epochs" in s.levels[0] and not s.fields)


def training_check(search, seeds):
    """DataFrame: each number of epochs whose double was run too, and whether it is enough.

    change: what twice the epochs add to one_hot's average on val. lowest: accuracy in the weakest
    few-shot class. margin: of the teacher on its own training images, where students record it."""
    lengths = _lengths(search)
    rows = []
    for level in lengths.levels:
        longer = level | {"epochs": 2 * level["epochs"]}
        if level["epochs"] in search.epochs and longer in lengths.levels:
            rows.append(_passes(search, level, level, seeds))
    return pd.DataFrame(rows)


def _passes(search, length, setting, seeds):
    """A row of training_check: one_hot at a length, and teachers of the setting of a student."""
    twice = length | {"epochs": 2 * length["epochs"]}
    both = [_accuracies(search, _lengths(search), of, "one_hot", seeds) for of in (length, twice)]
    here, there = both
    change = _difference(there.mean(axis=1), here.mean(axis=1))
    counts = _counts(search, length)
    margin = _teacher_margin(search, seeds, counts, setting)
    lowest = here.mean(axis=0)[counts < search.bucket_edges[1]].min()
    enough = abs(change.estimate) < LEAST_CHANGE and lowest >= LEAST_FEW_SHOT
    word = "not known" if enough and np.isnan(margin) else "no"
    if enough and margin >= LEAST_MARGIN:
        word = "yes"
    return {
        **length,
        "average": here.mean(),
        CHANGE: change.estimate,
        "low": change.low,
        "high": change.high,
        "lowest few-shot class": lowest,
        MARGIN: margin,
        "passes": word,
    }


def _accuracies(search, step, level, method, seeds):
    """(S, G) per cent on val of the networks of a level."""
    found = []
    for seed in range(search.seeds_of(step, seeds)):
        val = records.read(search.config(step, level, method, seed)).splits["val"]
        found.append([100 * val.right[val.group == g].mean() for g in np.unique(val.group)])
    return np.array(found)


def _counts(search, length):
    """(G,) training images of each group."""
    first = search.config(_lengths(search), length, "one_hot", 0)
    return np.array(records.read(first).facts["train_counts"])


def _difference(a, b):
    """The Interval of a - b, means over networks; without ends with one network."""
    # as if every redraw of the examples were what was observed: it covers networks alone
    return welch(*(GroupMeans(values, np.tile(values, (2, 1))) for values in (a, b)))


def _teacher_margin(search, seeds, counts, setting):
    """Mean margin over their training images of the teachers of a setting.

    Students record it: of the first level of the search with its fields, else of the study. NaN
    where there are none."""
    steps = [step for step in search.steps if "kd" in step.methods]
    levels = [(step, level, "kd") for step in steps for level in step.levels]
    candidates = [[search.config(*of, s) for s in range(seeds)] for of in levels]
    study = STUDIES.get(search.name.removesuffix("-recipe"))
    if study:
        own = [study.config(search.pair, "kd", s) for s in range(study.seeds)]
        candidates.append([cfg for cfg in own if records.exists(cfg)])
    fitting = (runs for runs in candidates if runs and setting.items() <= runs[0].fields().items())
    students = next(fitting, [])
    if not students or not all(map(records.exists, students)):
        return np.nan
    margins = [records.read(cfg).facts["teacher_margin_train"] for cfg in students]
    return np.mean([np.average(margin, weights=counts) for margin in margins])


# ---------------------------------------------------------------- a demonstration


def settings(search, seeds):
    """DataFrame: what kd changes on val in every setting of a demonstration, which one is chosen.

    Gains over one_hot are in points, each with its standard error over networks. Chosen is, among
    settings that pass the check (all, if none does), the one with the lowest few-shot gain whose
    average gain is not below 0, or else the one with the highest average gain. None: no such search
    was made."""
    step = next((step for step in search.steps if step.shows), None)
    if step is None:
        return None
    rows = []
    for level in step.levels:
        length = {name: level[name] for name in _lengths(search).levels[0]}
        few = _counts(search, length) < search.bucket_edges[1]
        kd = _accuracies(search, step, level, "kd", seeds)
        one_hot = _accuracies(search, _lengths(search), length, "one_hot", seeds)
        row = dict(level)
        for name, groups in ((AVERAGE, few | True), (FEW, few)):
            found = _difference(*(v[:, groups].mean(axis=1) for v in (kd, one_hot)))
            # ties on paper differ by about 1e-14
            row |= {name: round(found.estimate, 9), f"{name}, standard error": found.se}
        row["passes"] = _passes(search, length, level, seeds)["passes"]
        rows.append(row)
    allowed = [row for row in rows if row["passes"] == "yes"] or rows
    keeps = [row for row in allowed if row[AVERAGE] >= 0]
    best = max(allowed, key=lambda row: row[AVERAGE])
    if keeps:
        best = min(keeps, key=lambda row: row[FEW])
    return pd.DataFrame([{**row, "chosen": "yes" if row is best else ""} for row in rows])


def headline(search, seeds):
    """What val chose and whether the training check is passed, in sentences."""
    table = scores(search, seeds)
    shown = settings(search, seeds)
    of_recipe = [_of_recipe(search, seeds)[-1]] if search.epochs else []
    if shown is not None:
        return [_said_of_setting(search, shown), *of_recipe]
    chosen = "; ".join(table[table.chosen == "yes"].level)
    said = f"The search chose {chosen}."
    return [said, *of_recipe, *_by_chance(search, table)]


def _by_chance(search, table):
    """A sentence for each step whose best level leads by less than its seeds differ."""
    said = []
    # of epochs not the best is taken, but the fewest that are enough
    for step in (step for step in search.steps if "epochs" not in step.levels[0]):
        ordered = table[table.question == step.question].sort_values("mean")
        lead = ordered["mean"].diff().iloc[-1]
        spread = np.ptp(ordered.per_seed.iloc[-1])
        if lead < spread:
            said.append(
                f"{step.question}: the best level leads by {number(lead, signed=False)}, less than "
                f"its seeds differ ({number(spread, '', signed=False)}), so that it may be the "
                "best by chance."
            )
    return said


def _of_recipe(search, seeds):
    """Of the recipe that a study has: (whether it passes the training check; what twice the
    epochs change, with its interval; a sentence on both)."""
    length = {name: search.shared[name] for name in _lengths(search).levels[0]}
    row = _passes(search, length, length | {"teacher": search.pair[0]}, seeds)
    change = brief(pd.Series(row).rename({CHANGE: "estimate"}))
    ends = f"95 % interval over networks {number(row['low'], '')} to {number(row['high'], '')}"
    said = (
        f"With {search.shared['epochs']} epochs, the recipe {PASSES[row['passes']]} the training "
        f"check. Twice the epochs change the average by {number(row[CHANGE], digits=2)} ("
        f"{ONE_SEED if np.isnan(row['low']) else ends}; required: less than {LEAST_CHANGE:g}); "
        f"{_conditions(row[MARGIN], row['lowest few-shot class'])}."
    )
    return row["passes"], change, said


def check_failed(study):
    """[A sentence] if the search of a study's recipe is complete and it fails the check."""
    passes, _, said = _searched(study) or ("", "", "")
    before = "These networks may be trained too little (the page on their recipe says more)."
    return [f"{before} {said}"] if passes == "no" else []


def check_of(p):
    """Whether a Panel passes the training check, see PASSES; and what twice the epochs change."""
    unsearched = _of_own_runs(p) if p.study.bucket_edges else ("not known", "")
    return (_searched(p.study) or unsearched)[:2]


def check_without_search(p):
    """[A sentence] on the check by a Panel's own runs, where no search tried longer ones; [] of
    balanced data, where no class is few-shot, and of what is superseded."""
    judged = p.study.kind == "findings" and p.study.bucket_edges and not p.study.superseded
    return [_of_own_runs(p)[-1]] if judged and not _search_of(p.study) else []


def _search_of(study):
    """The search that tried lengths of training for a study's recipe, which several may share."""
    searches = [s for s in STUDIES.values() if s.kind == "recipe" and s.epochs]
    return next((s for s in searches if s.shared == study.shared), None)


def _searched(study):
    """_of_recipe of the search of a study's recipe; None where there is no seed of one."""
    search = _search_of(study)
    seeds = complete_seeds(search) if search else 0
    return _of_recipe(search, seeds) if seeds else None


def _of_own_runs(p):
    """_of_recipe, as far as a Panel's own runs show it: longer ones were not tried."""
    margins = [r.facts["teacher_margin_train"] for r in p.runs["kd"]]
    margin = np.mean([np.average(m, weights=p.train_counts) for m in margins])
    few = p.train_counts < p.study.bucket_edges[1]
    lowest = p.val_accuracy("one_hot").mean(axis=0)[few].min()
    passes = margin >= LEAST_MARGIN and lowest >= LEAST_FEW_SHOT
    how = "passes what they show of" if passes else "fails"
    said = (
        f"{p.name}: no search has tried whether longer training changes these networks. Judged by "
        f"its own runs, this recipe {how} the training check: {_conditions(margin, lowest)}."
    )
    return "not known" if passes else "no", "", said


def _conditions(margin, lowest):
    """Two conditions of the check, in words."""
    known = "not known yet" if np.isnan(margin) else f"{margin:.3f}"
    return (
        f"the teacher's margin on its training images is {known} (at least {LEAST_MARGIN:g}); the "
        f"lowest few-shot class is at {lowest:.1f} % (at least {LEAST_FEW_SHOT:g})"
    )


def _said_of_setting(search, table):
    """What the chosen setting of a demonstration changes on val, and that it was chosen for it."""
    step = next(step for step in search.steps if step.shows)
    row = table[table.chosen == "yes"].iloc[0]
    chosen = in_words({name: row[name] for name in step.levels[0]})
    gains = []
    for name in (AVERAGE, FEW):
        error = row[f"{name}, standard error"]
        spread = ONE_SEED if np.isnan(error) else f"standard error {error:.1f}"
        gains.append(f"{number(row[name])} ({spread})")
    return (
        f"Among {len(table)} settings, {(table.passes == 'yes').sum()} of which pass the training "
        f"check, the search chose {chosen}, where distillation changes accuracy on val by "
        f"{gains[0]} on average and by {gains[1]} in the few-shot classes. The choice favours a "
        "loss there: it makes a demonstration, and no evidence."
    )
