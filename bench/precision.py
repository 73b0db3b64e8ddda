"""Is bf16 as good as fp32? `python -m bench precision STUDY` trains both and compares by bucket.

Seeds are paired."""

import argparse
from dataclasses import replace

import numpy as np
from kdlib.evidence.metrics import BUCKETS, buckets, by_group

from kdlib.study.grids import study
from kdlib.study.sweep import sweep

METHODS = ("one_hot", "kd")
# points; performance.md, section 3
BOUNDS = {"overall": 0.3, "many": 0.6, "medium": 0.6, "few": 0.6}
# an interval of 90 % inside the bounds is a test of equivalence at 5 % (two one-sided tests)
LEVEL = 0.90


def accuracies(record, edges):
    """{"overall", "many", "medium", "few": accuracy on test_plus, in percent}.

    Classes count alike in each."""
    facts = record.facts
    counts = by_group(record.test_plus(), len(facts["group_names"]), len(facts["class_names"]))
    rate, bucket = 100 * counts["correct"] / counts["n"], buckets(facts["train_counts"], edges)
    by_bucket = {name: rate[bucket == k].mean() for k, name in enumerate(BUCKETS)}
    return {"overall": rate.mean(), **by_bucket}


def compare(differences, bound):
    """(mean, low, high, equivalent) of paired differences in points, one per seed.

    low, high: Student's interval at LEVEL; equivalent: it lies inside the bound."""
    from scipy.stats import t

    d = np.asarray(differences, dtype=np.float64)
    half = t.ppf((1 + LEVEL) / 2, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    low, high = d.mean() - half, d.mean() + half
    return d.mean(), low, high, bool(-bound < low and high < bound)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench precision", description=__doc__)
    parser.add_argument("study", metavar="STUDY")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    args = parser.parse_args(arguments)
    chosen = study(args.study)
    if args.seeds < 2:
        parser.error("--seeds: at least 2, or there is nothing to test")
    pair, seeds = chosen.pairs[0], range(args.seeds)
    full = [chosen.config(pair, method, seed) for method in METHODS for seed in seeds]
    half = [replace(cfg, precision="bf16") for cfg in full]
    records = sweep([*full, *half], args.data, args.device)
    found = [accuracies(record, chosen.bucket_edges) for record in records]
    passed = True
    print(
        f"{' -> '.join(pair)}, bf16 minus fp32, points, mean and 90 % interval over "
        f"{args.seeds} seeds"
    )
    for m, method in enumerate(METHODS):
        first = m * args.seeds
        fp32 = found[first : first + args.seeds]
        bf16 = found[len(full) + first : len(full) + first + args.seeds]
        for name, bound in BOUNDS.items():
            pairs = [b[name] - a[name] for a, b in zip(fp32, bf16, strict=True)]
            mean, low, high, equivalent = compare(pairs, bound)
            passed &= equivalent
            word, interval = "PASS" if equivalent else "FAIL", f"({low:+.2f} to {high:+.2f})"
            print(f"{word} {method} {name}: {mean:+.2f} {interval}, bound {bound}")
    yes, no = "bf16 may be published for this study", "equivalence is not shown: fp32 stays"
    print(yes if passed else no)
    return int(not passed)
