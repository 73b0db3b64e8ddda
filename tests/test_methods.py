"""One entry says everything about a method: added at run time, it trains, is compared and drawn."""

from dataclasses import fields, replace

import pytest
import torch.nn.functional as F

from kdlib.config import Config, KdlibError
from kdlib.evidence.metrics import panel
from kdlib.methods import ARMS, METHODS, Method, arms, look_of, loss_fields, name_of
from kdlib.pages import gains
from kdlib.study.experiment import run
from kdlib.study.grids import STUDIES


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_names_a_loss_and_fields_of_config(name):
    method = METHODS[name]
    assert set(method.knobs) <= {field.name for field in fields(Config)}
    module, _, function = method.loss.partition(":")
    exec(f"from kdlib.{module} import {function}")
    assert look_of(name_of(name)) == (method.colour, method.marker)


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_another_method_with_some_fields_set(name):
    arm = ARMS[name]
    own = {"teacher": "cnn"} if "teacher" in METHODS[arm.method].knobs else {}
    cfg = Config(method=arm.method, **own, **arm.fields)
    assert cfg != Config(method=arm.method, **own)
    assert arms(name) == {name: {"method": arm.method, **arm.fields}}


def squared(cfg, margins, train):
    """Squared distance of the probabilities from the label's."""

    def loss(logits, batch):
        wanted = F.one_hot(batch.y, logits.shape[1])
        return (logits.softmax(dim=1) - wanted).square().sum(dim=1)

    return loss


@pytest.fixture
def mine(records_folder, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method("my own loss", squared, "#123456", "P"))
    return "mine"


def test_a_method_that_is_added_is_trained_compared_and_drawn(mine):
    small = replace(STUDIES["digits"], seeds=2, pairs=STUDIES["digits"].pairs[:1])
    small = replace(small, shared={**small.shared, "epochs": 3, "warmup": 0}).with_methods([mine])
    for cfg in small():
        run(cfg)
    p = panel(small, small.pairs[0], 2)
    assert [r.config.method for r in p.records(mine)] == ["mine", "mine"]
    shown = gains.plot_gain_by_bucket(p)
    assert "my own loss" in shown.svg().decode() and look_of("my own loss") == ("#123456", "P")
    rows = gains.gain_by_bucket(p, [mine]).set_index("bucket")
    by_hand = p.accuracy(mine).observed.mean() - p.accuracy("one_hot").observed.mean()
    assert rows.estimate["average"] == pytest.approx(by_hand)


def test_a_method_that_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(KdlibError, match="did you mean 'decoupled_kd'"):
        STUDIES["digits"].with_methods(["decoupled"])
    with pytest.raises(KdlibError, match="method='mine'"):
        Config(method="mine")


def test_fields_that_belong_to_a_loss_stay_at_their_defaults_elsewhere():
    assert {"alpha", "tau", "margin_source"} <= loss_fields() and "lr" not in loss_fields()
    with pytest.raises(KdlibError, match="method 'one_hot' does not use it"):
        Config(alpha=0.5)
