"""During a run: its log, its accuracies on val now and then, its state, and its deadline."""

import contextlib
import math
import sys
import time

import torch

from kdlib.config import KdlibError
from kdlib.study.files import folder
from kdlib.study.machine import git_sha
from kdlib.train import predict

EVALUATIONS = 8  # on val during a run, for the learning curves


class OutOfTime(KdlibError):
    """A run that gave up at its deadline."""


def watch(cfg, model, data, evaluations, deadline, kept, epoch, curves, state):
    """After an epoch: a line in the log, and now and then accuracies on val and the state.

    Accuracies are measured at most EVALUATIONS times a run. OutOfTime past the deadline."""
    done = epoch + 1
    log(f"{cfg.key()} epoch {done}/{cfg.epochs} loss {curves['loss'][-1]:.4f}")
    if done in {round(cfg.epochs * (k + 1) / EVALUATIONS) for k in range(EVALUATIONS)}:
        by_group, by_half = _val_accuracy(model, data)
        evaluations["val_accuracy_by_group"][done] = by_group
        evaluations["val_accuracy_by_half"][done] = by_half
    late = deadline is not None and time.monotonic() > deadline and done < cfg.epochs
    if late or kept.due():
        kept.write(git_sha(), state=state(), evaluations=evaluations)
    if late:
        raise OutOfTime(
            f"Run {cfg.key()} stopped after epoch {done} of {cfg.epochs}: its time is up; "
            "it goes on from there."
        )


def _val_accuracy(model, data):
    """([accuracy of each group], [of each half, mean over its groups]) on val.

    None where there is no example."""
    y, group, half = data.val.y.cpu(), data.val.group.cpu(), data.val_half.cpu()
    right = (predict(model, data.val.x, data).argmax(dim=1) == y).double()
    groups = len(data.group_names)

    def rounded(rate):
        return None if math.isnan(rate) else round(rate, 4)

    def rates(some):
        hits = torch.bincount(group[some], right[some], groups)
        return hits / torch.bincount(group[some], minlength=groups)

    by_group = [rounded(v) for v in rates(half >= 0).tolist()]
    return by_group, [rounded(rates(half == k).mean().item()) for k in (0, 1)]


def warn(line):
    log(line)
    print(f"warning: {line}", file=sys.stderr)


def log_file():
    """Where runs write what they do, line by line."""
    return folder() / "runs.log"


def log(line):
    """A line in the log; where none can be written, a run goes on without."""
    with contextlib.suppress(OSError), open(log_file(), "a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
