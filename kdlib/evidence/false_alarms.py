"""How often each rule fires on nothing.

Baselines of a study are dealt at random into method and baseline, and judged by the same rules."""

import functools
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np

from kdlib.evidence import rules
from kdlib.methods import name_of
from kdlib.study.facts import is_share, parsed, table_of
from kdlib.study.files import cache_folder, claim, read_file, write_whole

LARGEST = 2**20  # bytes of a file of the cache
SPLITS = 500  # of the baselines
IN_A_DEMONSTRATION = 100


def false_alarms(p, splits=None):
    """{finding: share of random splits of the baselines in which its rule fires}.

    "any": at least one of the pair's; and for each remedy, as "idle F4 ...", the share in which
    baselines in its place pass against the real distillation.

    In a split as many baselines as the study has seeds pose as distillation, and the rest is the
    pool; for each remedy others of that rest pose as it. Teachers and margins stay, but no network
    poses as the student of itself. Whatever fires is a false alarm, except that "the rarest classes
    lose" is rightly contradicted. Where distillation harms, doing nothing is better than it: then a
    remedy that passes need not be more than idle. {} where the baselines are too few: fewer than
    two would be left. Kept in the cache, since it takes a minute."""
    pool = p.runs["one_hot"]
    splits = splits or (IN_A_DEMONSTRATION if p.study.demonstration else SPLITS)
    if p.seeds < rules.LEAST_SEEDS or len(pool) < p.seeds + 2 or rules.verdict_bucket(p) is None:
        return {}
    path = cache_folder() / f"false-alarms-{_digest(p, splits)}.json"
    if found := _cached(path):
        return found
    with claim(path.stem, path.parent):  # pages that are built side by side ask for the same
        if found := _cached(path):
            return found
        rng = np.random.default_rng(0)
        shares = _fired(p, splits, rng) | _idle(p, splits, rng)
        write_whole(path, json.dumps(shares))
    return shares


def _cached(path):
    """The shares in a file of the cache; None where there is none, or a damaged one."""
    try:
        found = parsed(read_file(path, LARGEST))
    except (OSError, ValueError):
        return None
    return found if "any" in found and table_of(is_share, found) else None


def _fired(p, splits, rng):
    counts = Counter()
    known = set()
    for _ in range(splits):
        found = rules.decided(rules.findings(posing(p, rng)))
        known |= {f.name for f, *_ in found}
        holds = {f.name for f, word, _ in found if word == "holds"}
        contradicted = {f.name for f, word, _ in found if word == "contradicted"}
        fired = holds | (contradicted - {"F2b"})
        counts.update(fired | {"any"} if fired else ())
    names = (*(name for name in rules.names_of(p) if name in known), "any")
    return {name: counts[name] / splits for name in names}


def _idle(p, splits, rng):
    real = rules.findings(p)
    pool = p.runs["one_hot"]
    shares = {}
    for method in (m for m in rules.remedies(p) if len(p.runs[m]) >= rules.LEAST_SEEDS):
        name = f"F4 {name_of(method)}"
        others = [f for f in real if f.name != name]
        passed = 0
        for _ in range(splits):
            some = rng.permutation(len(pool))[: len(p.runs[method])]
            idle = rules.mitigated(p.posing(**{method: tuple(pool[k] for k in some)}), method)
            _, word, _ = rules.decided([*others, idle])[-1]
            passed += word == "holds"
        shares[f"idle {name}"] = passed / splits
    return shares


def posing(p, rng):
    """The panel with baselines in the place of every method, and the rest of them as baselines.

    Distillation with a tuned weight is compared with the pool too, so it needs networks of its own;
    where they are too few it is left out."""
    pool = p.runs["one_hot"]
    seeds = p.seeds
    teachers = [t.config for t in p.teachers]
    while True:
        order = [pool[k] for k in rng.permutation(len(pool))]
        if all(run.config != teacher for run, teacher in zip(order, teachers, strict=False)):
            break
    runs = {"kd": order[:seeds], "kd_tuned": (), "one_hot": order[seeds:]}
    if "kd_tuned" in p.runs and len(pool) >= 2 * seeds + 2:
        runs |= {"kd_tuned": order[seeds : 2 * seeds], "one_hot": order[2 * seeds :]}
    spare = order[seeds:]
    for method in rules.remedies(p):
        some = rng.permutation(len(spare))[: len(p.runs[method])]
        runs[method] = [spare[k] for k in some]
    return p.posing(**{method: tuple(some) for method, some in runs.items()})


def _digest(p, splits):
    """Of everything that the shares depend on: records, seeds, rules."""
    methods = (*p.runs, "teacher")
    of_records = [[m, [r.facts["weights_sha256"] for r in p.records(m)]] for m in methods]
    facts = [splits, p.study.name, p.split, p.buckets_by_seed.tolist(), of_records, _code()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@functools.cache
def _code():
    """Hash of the code of the rules, and of all that they count with."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
