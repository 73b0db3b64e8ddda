"""Is bf16 as good as fp32? Both are trained, seeds paired, and compared by bucket: `python -m bench precision STUDY`."""

import argparse
from dataclasses import replace

import numpy as np

from kdlib.metrics import BUCKETS, buckets, by_group
from kdlib.studies import study
from kdlib.sweep import sweep

METHODS = ("one_hot", "kd")
BOUNDS = {"overall": 0.3, "many": 0.6, "medium": 0.6, "few": 0.6}   # points; performance.md, section 3
LEVEL = 0.90   # an interval of 90 % inside the bounds is a test of equivalence at 5 % (two one-sided tests)


def accuracies(record, edges):
    """Accuracy in percent on test_plus: {"overall", "many", "medium", "few"}; classes count alike in each."""
    counts = by_group(record.test_plus(), len(record.facts["group_names"]), len(record.facts["class_names"]))
    rate, bucket = 100 * counts["correct"] / counts["n"], buckets(record.facts["train_counts"], edges)
    return {"overall": rate.mean(), **{name: rate[bucket == k].mean() for k, name in enumerate(BUCKETS)}}


def compare(differences, bound):
    """(mean, low, high, equivalent) of paired differences, one per seed, in points: Student's interval at LEVEL."""
    from scipy.stats import t
    d = np.asarray(differences, dtype=np.float64)
    half = t.ppf((1 + LEVEL) / 2, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half, bool(-bound < d.mean() - half and d.mean() + half < bound)


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
    full = [chosen.config(chosen.pairs[0], method, seed) for method in METHODS for seed in range(args.seeds)]
    half = [replace(cfg, precision="bf16") for cfg in full]
    records = sweep([*full, *half], args.data, args.device)
    found = [accuracies(record, chosen.bucket_edges) for record in records]
    passed = True
    print(f"{' -> '.join(chosen.pairs[0])}, bf16 minus fp32, points, mean and 90 % interval over {args.seeds} seeds")
    for m, method in enumerate(METHODS):
        first = m * args.seeds
        for name, bound in BOUNDS.items():
            pairs = [found[len(full) + first + s][name] - found[first + s][name] for s in range(args.seeds)]
            mean, low, high, equivalent = compare(pairs, bound)
            passed &= equivalent
            print(f"{'PASS' if equivalent else 'FAIL'} {method} {name}: {mean:+.2f} ({low:+.2f} to {high:+.2f}), bound {bound}")
    print("bf16 may be published for this study" if passed else "equivalence is not shown: fp32 stays")
    return int(not passed)
