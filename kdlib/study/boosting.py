"""Boosted trees: grown by scikit-learn, kept as a module of torch like every other network."""

import numpy as np
import torch

from kdlib import train
from kdlib.config import KdlibError
from kdlib.models import DEPTH, LEAVES, TREES, BoostedTrees

COLUMNS_A_SPLIT = 0.5  # share of the columns that a split may choose from: seeds differ by it


def fit(runs):
    """The same as train.fit, of runs with boosted trees among them."""
    networks = [run for run in runs if not isinstance(run.model, BoostedTrees)]
    outcomes = iter(train.fit(networks) if networks else ())
    return [grown(run) if isinstance(run.model, BoostedTrees) else next(outcomes) for run in runs]


def grown(run):
    """Grow the trees of a run in place: its curves, or what stopped it, as train.fit returns them.

    An epoch is a share of the trees, cfg.epochs shares in all: the curves hold the mean loss on the
    training rows with the trees so far. Rate and regularisation are scikit-learn's defaults."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    rows = run.data.train
    booster = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        max_features=COLUMNS_A_SPLIT,
        early_stopping=False,
        random_state=run.cfg.seed,
    )
    with threadpool_limits(1, "openmp"):  # sums do not depend on the number of cores
        x, y = rows.x.cpu().numpy(), rows.y.cpu().numpy()
        booster.fit(x, y)
        signs = np.where(y == 1, -1.0, 1.0)
        # of the first tree, of the first two, and so on
        losses = [np.logaddexp(0, signs * s).mean() for s in booster.staged_decision_function(x)]
    curves = {"loss": [], "cross_entropy": []}
    done = 0
    for epoch in range(run.cfg.epochs):
        upto = max(1, round(TREES * (epoch + 1) / run.cfg.epochs))
        take(run.model, booster, range(done, upto))
        done = upto
        for curve in curves.values():
            curve.append(float(losses[upto - 1]))
        if run.after_epoch:
            try:
                run.after_epoch(epoch, curves, lambda: None)
            except KdlibError as error:  # it stops this run alone
                return error
    return curves


@torch.no_grad()
def take(model, booster, some):
    """Copy some trees of a HistGradientBoostingClassifier, and its base, into a BoostedTrees."""
    model.base.fill_(float(booster._baseline_prediction.item()))
    for number in some:
        nodes = booster._predictors[number][0].nodes
        leaf = nodes["is_leaf"].astype(bool)
        itself = np.arange(len(nodes))
        values = {
            "feature": np.where(leaf, 0, nodes["feature_idx"]),
            "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
            "left": np.where(leaf, itself, nodes["left"]),
            "right": np.where(leaf, itself, nodes["right"]),
            "value": np.where(leaf, nodes["value"], 0.0),
        }
        for name, of in values.items():
            getattr(model, name)[number, : len(nodes)] = torch.as_tensor(of.astype(np.float64))
