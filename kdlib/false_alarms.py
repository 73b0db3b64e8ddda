"""How often each rule fires on nothing: baselines of a study, dealt at random into method and baseline, by the same rules."""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from kdlib import metrics, rules, stats
from kdlib.readers import cache_folder
from kdlib.records import whole_file

SPLITS = 500  # of the baselines
IN_A_DEMONSTRATION = 100


def false_alarms(p, splits=None):
    """{finding: share of random splits of the baselines in which its rule fires}, and "any": at least one of the pair's.

    In a split as many baselines as the study has seeds pose as distillation, and the rest is the pool. For each remedy, others
    of that rest pose as it. Teachers and margins stay, but no network poses as the student of itself. Whatever fires is a false
    alarm, except that "the rarest classes lose" is rightly contradicted. {} where the baselines are too few: fewer than two
    would be left. Kept in the cache, since a page needs minutes of it."""
    pool = p.runs["one_hot"]
    splits = splits or (IN_A_DEMONSTRATION if p.study.demonstration else SPLITS)
    if p.seeds < 2 or len(pool) < p.seeds + 2 or rules.verdict_bucket(p) is None:
        return {}
    path = cache_folder() / f"false-alarms-{_digest(p, splits)}.json"
    if path.exists():
        return json.loads(path.read_text())
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(splits):
        fired = [
            f.name
            for f, word, _ in rules.decided(rules.findings(posing(p, rng)))
            if word == "holds" or word == "contradicted" and f.name != "F2b"
        ]
        for name in {*fired, *(["any"] if fired else [])}:
            counts[name] = counts.get(name, 0) + 1
    names = [f.name for f in rules.findings(p)]
    shares = {name: counts.get(name, 0) / splits for name in (*names, "any")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(shares))
    return shares


def posing(p, rng):
    """The panel with baselines in the place of every method, and the rest of them as baselines."""
    pool = p.runs["one_hot"]
    teachers = [t.config for t in p.teachers]
    while True:
        order = rng.permutation(len(pool))
        taken, rest = ([pool[k] for k in part] for part in (order[: p.seeds], order[p.seeds :]))
        if all(run.config != teacher for run, teacher in zip(taken, teachers, strict=True)):
            break
    runs = {"kd": tuple(taken), "one_hot": tuple(rest)}
    for method in ("kd_tuned", *rules.mitigations(p)):
        if method in p.runs:
            seeds = min(len(p.runs[method]), len(rest))
            runs[method] = tuple(rest[k] for k in rng.permutation(len(rest))[:seeds])
    return p.posing(**runs)


def _digest(p, splits):
    """Of everything that the shares depend on: records, seeds, rules."""
    of_records = [
        [m, [r.facts["weights_sha256"] for r in p.records(m)]] for m in (*p.runs, "teacher")
    ]
    facts = [splits, p.study.name, p.split, p.buckets_by_seed.tolist(), of_records, _code()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@functools.cache
def _code():
    """Hash of the code of the rules."""
    files = [Path(module.__file__) for module in (rules, metrics, stats)] + [Path(__file__)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
