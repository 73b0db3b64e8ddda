"""How far a study is: from the names of files alone, and without anything heavy."""

import functools

from kdlib.config import KdlibError, count_of
from kdlib.study.files import exists
from kdlib.study.grids import STUDIES, study


def complete_seeds(name):
    """How many first seeds of a study have all their records; 0 to the planned number."""
    chosen = study(name)
    missing = [r.seed for r in chosen.runs if not r.extra and not exists(r.config)]
    return min(missing, default=chosen.seeds)


def on_record(configs):
    """How many runs are on record, in words."""
    done = sum(exists(cfg) for cfg in configs)
    return f"{done} of {count_of(len(configs), 'run')} on record"


def needed(chosen, seeds):
    """The Configs that pages of the first seeds of a Study show; of extras, those on record."""
    others = {run.config.key() for run in chosen.runs if not run.extra}
    return [cfg for cfg in chosen(seeds) if cfg.key() in others or exists(cfg)]


def some_seeds(name):
    """complete_seeds, of which there must be one: else KdlibError saying how to get it."""
    done = complete_seeds(name)
    if not done:
        raise KdlibError(
            f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them."
        )
    return done


def baselines(chosen, pair, setting=None):
    """Configs of the pool of a pair that are on record and planned, by this study or another.

    What was only explored with (parameters.overridden) is in no pool but that of its page."""
    own = {run.config.key() for run in chosen.runs}
    some = [cfg for cfg in chosen.pool(pair, setting) if exists(cfg)]
    return [cfg for cfg in some if cfg.key() in own or cfg.key() in _planned()]


@functools.cache
def _planned():
    """The keys of all runs that any study plans."""
    return {run.config.key() for s in STUDIES.values() for run in s.runs}
