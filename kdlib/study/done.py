"""How far a study is: from the names of files alone, and without anything heavy."""

from kdlib.config import KdlibError
from kdlib.study.files import exists
from kdlib.study.grids import study


def complete_seeds(name):
    """How many first seeds of a study have all their records; 0 to the planned number."""
    chosen = study(name)
    missing = [r.seed for r in chosen.runs if not r.extra and not exists(r.config)]
    return min(missing, default=chosen.seeds)


def some_seeds(name):
    """complete_seeds, of which there must be one: else KdlibError saying how to get it."""
    done = complete_seeds(name)
    if not done:
        raise KdlibError(
            f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them."
        )
    return done
