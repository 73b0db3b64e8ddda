"""How far a study is: from the names of files alone, and without anything heavy."""

from kdlib.config import KdlibError
from kdlib.study.grids import Study, study
from kdlib.study.records import exists


def complete_seeds(name):
    """How many first seeds of a study have all their records; 0 to the planned number."""
    chosen = study(name)
    if isinstance(chosen, Study):
        by_seed = map(chosen.of_seed, range(chosen.seeds))
    else:
        by_seed = (chosen(seed + 1) for seed in range(chosen.seeds))
    done = 0
    for configs in by_seed:
        if not all(map(exists, configs)):
            break
        done += 1
    return done


def some_seeds(name):
    """complete_seeds, of which there must be one: else KdlibError saying how to get it."""
    done = complete_seeds(name)
    if not done:
        raise KdlibError(
            f"study {name} has no complete seed on record; `python -m kdlib run {name}` makes them."
        )
    return done
