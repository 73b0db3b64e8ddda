"""The rules of PROTOCOL.md, section 5: a Panel in, Findings with their p-values out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdlib.evidence import counts
from kdlib.evidence.significance import agreement, holm
from kdlib.evidence.stats import (
    Interval,
    correlation_with_gain,
    interval,
    partial_rank_correlation,
    rank_correlation,
    welch,
)
from kdlib.evidence.words import labels_read, number, told, told_p
from kdlib.methods import entry, name_of

HARM = -0.5  # points: the smallest mean loss that F2b calls harm
AVERAGE_MARGIN = 1.0  # points: F4
LOWEST_ACCURACY = 5.0  # per cent on val: below it nothing can be harmed in a bucket
COLLINEAR = 0.95  # correlation of margin and accuracy: variances inflated tenfold
LEVEL = 0.05  # of all findings of a pair together (Holm)
LEAST_SEEDS = 4  # for a verdict: with fewer, tests over networks are far from their level
CLAIMS = {
    "F1": "Distillation raises the student's average accuracy.",
    "F1 tuned": "Distillation with the constant weight chosen on val raises average accuracy.",
    "F2a": "The gain is not the same for all classes.",
    "F2b": "The rarest classes lose accuracy, by an estimated half point or more.",
    "F3a": "The teacher's margin is larger in the classes that gain more.",
    "F3b": "Errors of the teacher are transferred: students repeat its wrong labels more often "
    "than one-hot networks do, and than students of other teachers.",
    "F3c": "Errors of the teacher are amplified: in its weakest classes distillation helps less "
    "than in the rest, and students exceed its errors by more.",
    "F4": "Compared with distillation, the remedy lifts the rarest classes and costs less than a "
    "point on average.",
}
ANOTHER_TEACHER = "Distillation helps less in the teacher's weakest classes than in the rest."


def claim_of(p, name):
    """The claim of a finding in words."""
    claim = CLAIMS[name if name in CLAIMS else name.split()[0]]
    if name == "F3c" and p.pair[0] != p.pair[1]:
        claim = ANOTHER_TEACHER
    if not p.study.bucket_edges:
        claim = claim.replace("rarest classes", "classes it knows least")
    return claim.replace("classes", p.study.groups[1])


def names_of(p):
    """The names of the findings of a panel, in order."""
    tuned = ["F1 tuned"] if "kd_tuned" in p.runs else []
    return ["F1", *tuned, *list(CLAIMS)[2:7], *(f"F4 {name_of(m)}" for m in remedies(p))]


def verdict_bucket(p):
    """The rarest bucket where one_hot reaches 5 % on val; balanced: the lowest tenth; or None."""
    accuracy = p.val_accuracy("one_hot").mean(axis=0)
    for index in (2, 1, 0) if p.study.bucket_edges else (2,):
        members = p.buckets_by_seed == index
        of_members = np.broadcast_to(accuracy, members.shape)[members]
        if of_members.size and of_members.mean() >= LOWEST_ACCURACY:
            return index
    return None


def classes(p, bucket):
    """The groups of a bucket in words."""
    name, groups = p.bucket_names[bucket], p.study.groups[1]
    return f"{name}-shot {groups}" if p.study.bucket_edges else f"{groups} of the {name}"


@dataclass(frozen=True)
class Finding:
    """What a rule finds in a panel, before the correction for the number of findings."""

    name: str
    result: Interval  # of the number that decides
    holds: float  # p-value of the claim; 1 where the numbers do not point that way
    contradicted: float  # of the opposite claim
    say: Callable  # () -> the numbers in words
    method: str = "kd"
    unit: str = "points"
    digits: int = 1
    tests: int = 1  # of which one is enough
    second: Interval | None = None  # of what has to be shown as well
    besides: str = ""  # the same in words
    opposite: str = "the opposite"  # what `contradicted` is the p-value of

    @property
    def p(self):
        """p-value of whichever of the two the numbers point to."""
        return min(self.holds, self.contradicted)


def above(result, threshold=0.0):
    """p of the claim that the true value is above the threshold; 1 where the estimate is not."""
    return np.nan_to_num(result.p(threshold), nan=1.0) if result.estimate > threshold else 1.0


def below(result, threshold=0.0):
    """p of the claim that the true value is below the threshold; 1 where the estimate is not."""
    return np.nan_to_num(result.p(threshold), nan=1.0) if result.estimate < threshold else 1.0


def _together(*numbers):
    """p-values that all of several (Interval, threshold) are above, and that one is below."""
    holds = max(above(*number) for number in numbers)
    return holds, min(1.0, len(numbers) * min(below(*number) for number in numbers))


def helps_on_average(p, method):
    """F1: the average gain is above 0."""
    result = p.gain(method, p.average)
    name = "F1" if method == "kd" else "F1 tuned"

    def say():
        return f"{name_of(method)} changes average accuracy by {told(result)}"

    return Finding(name, result, above(result), below(result), say, method)


def not_uniform(p):
    """F2a: few-shot and many-shot classes do not gain alike, or seeds agree on which gain."""
    filled = [index for index in range(3) if (p.bucket == index).any()]
    contrast = p.gain("kd", p.in_bucket(filled[-1]) - p.in_bucket(filled[0]))
    covariance, agree = agreement(p.halves("kd"), p.halves("one_hot"))
    rarest, most = classes(p, filled[-1]), classes(p, filled[0])

    def say():
        return (
            f"gain of the {rarest} minus that of the {most}: {told(contrast)}; agreement of seeds "
            f"on which {p.study.groups[1]} gain: covariance {number(covariance, 'points²', 2)}, "
            f"{told_p(agree)}"
        )

    either = min(1.0, 2 * np.nanmin([contrast.p(), agree, 1.0]))
    return Finding("F2a", contrast, either, 1.0, say, tests=2)


def rarest_lose(p):
    """F2b: the verdict bucket loses, by an estimate of at least half a point."""
    bucket = verdict_bucket(p)
    result = p.gain("kd", p.in_bucket(bucket))

    def say():
        return f"{name_of('kd')} changes accuracy in the {classes(p, bucket)} by {told(result)}"

    holds = below(result) if result.estimate <= HARM else 1.0
    opposite = "a loss of less than half a point, or of a gain,"
    return Finding("F2b", result, holds, above(result, HARM), say, opposite=opposite)


def margin_predicts(p):
    """F3a: rank correlation across groups of the gain with the other seeds' teachers' margin."""
    gains, baselines = p.group_gain("kd"), len(p.runs["one_hot"])
    traits = [
        counts.others(values)[: len(gains)] for values in (p.margins, p.val_accuracy("teacher"))
    ]
    result = correlation_with_gain(rank_correlation, gains, baselines, traits[0])

    def say():
        alike = rank_correlation(*traits)
        fixed = f"cannot be told, since both rank them almost alike ({number(alike.mean(), '', 3)})"
        if not (np.abs(alike) >= COLLINEAR).any():
            rest = correlation_with_gain(partial_rank_correlation, gains, baselines, *traits)
            fixed = told(rest, "", 2)
        sizes = np.broadcast_to(p.train_counts, gains.shape)
        images = correlation_with_gain(rank_correlation, gains, baselines, sizes)
        parts = [
            f"rank correlation across {p.study.groups[1]} between the teacher's margin and the "
            f"gain: {told(result, '', 2)}",
            f"with the teacher's accuracy held fixed: {fixed}",
            f"between the number of training images and the gain: {told(images, '', 2)}",
        ]
        return "; ".join(parts if np.ptp(p.train_counts) else parts[:2])

    return Finding("F3a", result, above(result), below(result), say, unit="", digits=2)


def errors_transferred(p):
    """F3b: the student gives the teacher's wrong label, beyond what its accuracy explains.

    Compared with what one-hot students would copy if they erred as often; and with what it copies
    of the other seeds' teachers, since whatever makes students alike makes them copy any teacher.
    """
    of_teacher, of_baseline = p.copied_by_pool(len(p.runs["kd"]))
    of_all = p.average[0]
    errors = (p.contrast(method, of_all) * -1 + 100 for method in ("kd", "one_hot"))
    copies = p.copied_by_itself("kd")
    result = welch(*counts.beyond_accuracy(copies, of_teacher, of_baseline, *errors))
    own = interval(*p.copied_of_own("kd"))

    def say():
        return (
            "where the teacher is wrong, the share of distilled students that give its wrong label "
            "differs from that of one-hot students, scaled to as many errors, by "
            f"{told(result)}, and from the share for teachers that they were not trained on by "
            f"{told(own)}"
        )

    tested = _together((result, 0.0), (own, 0.0))
    return Finding("F3b", result, *tested, say, second=own, besides="an excess over other teachers")


def errors_amplified(p):
    """F3c: (student error - teacher error) in the weakest fifth of groups minus that in the rest.

    It is above that of one-hot students; and, in self-distillation, above 0."""
    weights = weakest_fifth(p)[: len(p.runs["kd"])]
    result, second = p.gain("kd", -weights), None
    if p.pair[0] == p.pair[1]:
        second = interval(*amplification(p, "kd", weights))

    def say():
        own = f", and from the teacher's own by {told(second)}" if second else ""
        weakest = p.gain("kd", np.maximum(weights, 0))
        return (
            f"the error in the teacher's weakest fifth of {p.study.groups[1]}, minus that in the "
            f"rest, differs from that of one-hot students by {told(result)}{own}; in the "
            f"weakest fifth itself, distillation changes accuracy by {told(weakest)}"
        )

    tested = _together(*((number, 0.0) for number in (result, second) if number))
    besides = "an excess over the teacher" if second else ""
    return Finding("F3c", result, *tested, say, second=second, besides=besides)


def weakest_fifth(p):
    """Weights (S, G) of the weakest fifth of groups minus the rest.

    Weakest on val, for the teachers of the other seeds."""
    accuracy = counts.others(p.val_accuracy("teacher"))
    k = int(np.ceil(accuracy.shape[1] / 5))
    weak = counts.rank_from_highest(-accuracy) < k
    return weak / k - ~weak / (accuracy.shape[1] - k)


def amplification(p, method, weights):
    """A contrast of (student error - teacher error) in points: GroupMeans (S,).

    Each student is compared with its own teacher. weights (S, G): of the groups."""
    weights = weights[: len(p.records(method))]
    return p.contrast("teacher", weights) - p.contrast(method, weights)


def mitigated(p, method):
    """F4: the average is not a point below that of kd, and the verdict bucket is above it."""
    bucket = verdict_bucket(p)
    average, rare = (p.gain(method, weights, "kd") for weights in (p.average, p.in_bucket(bucket)))

    def say():
        read = labels_read(p.runs[method][0].config) or "no labels beyond those it trains on"
        return (
            f"compared with distillation, {name_of(method)} changes average accuracy by "
            f"{told(average)} and that of the {classes(p, bucket)} by {told(rare)}; it reads {read}"
        )

    tested = _together((average, -AVERAGE_MARGIN), (rare, 0.0))
    name, besides = f"F4 {name_of(method)}", "an average that is kept"
    return Finding(name, rare, *tested, say, method, second=average, besides=besides)


def remedies(p):
    """The methods that F4 is about."""
    return [m for m in p.runs if (known := entry(m)) and known.remedy]


def findings(p):
    """Every Finding of a panel of at least two seeds, in order."""
    average = [helps_on_average(p, m) for m in ("kd", "kd_tuned") if m in p.runs]
    if verdict_bucket(p) is None:
        return average
    return [
        *average,
        not_uniform(p),
        rarest_lose(p),
        margin_predicts(p),
        errors_transferred(p),
        errors_amplified(p),
        *(mitigated(p, m) for m in remedies(p)),
    ]


def decided(found):
    """[(Finding, word, Holm's p)] of those with enough networks, corrected for their number.

    "holds" or "contradicted" where the corrected p is at most LEVEL; else "not decided"."""
    enough = [f for f in found if f.result.n >= LEAST_SEEDS]
    corrected = holm([f.p for f in enough])
    return [(f, _word(f, p), float(p)) for f, p in zip(enough, corrected, strict=True)]


def _word(finding, corrected):
    if corrected > LEVEL:
        return "not decided"
    return "holds" if finding.holds <= finding.contradicted else "contradicted"
