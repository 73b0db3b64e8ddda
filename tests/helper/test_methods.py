"""One entry says everything about a method: added at run time, it trains, is compared and drawn."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch.nn.functional as F

from kdlib import losses, rivals
from kdlib.config import DEFAULTS, Config, KdlibError
from kdlib.distilling.recipe import check_methods, offered
from kdlib.evidence.panel import panel
from kdlib.evidence.rules import remedies
from kdlib.evidence.words import labels_read
from kdlib.methods import (
    ARMS,
    METHODS,
    Method,
    arms,
    entry,
    look_of,
    loss_fields,
    name_of,
    needs_margins,
)
from kdlib.pages import gains
from kdlib.step import method_loss
from kdlib.study.experiment import run
from kdlib.study.grids import STUDIES


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_has_a_loss_fields_of_config_and_a_look(name):
    method = METHODS[name]
    assert set(method.knobs) <= DEFAULTS.keys()
    assert any(hasattr(module, f"{name}_of") for module in (losses, rivals))
    assert look_of(name_of(name)) == method.look and name_of(name) == method.title


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_another_method_with_some_fields_set(name):
    fields = ARMS[name].fields
    method = fields["method"]
    own = {"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}
    assert Config(**own, **fields) != Config(method=method, **own)
    assert arms(name, "kd") == {name: fields, "kd": {}}
    assert entry("teacher").title == "teacher" and entry("made up") is None


def squared(cfg, margins, train):
    """Squared distance of the probabilities from the label's."""

    def loss(logits, batch):
        wanted = F.one_hot(batch.y, logits.shape[1])
        return (logits.softmax(dim=1) - wanted).square().sum(dim=1)

    return loss


def test_a_method_that_is_added_is_trained_compared_and_drawn(records_folder, monkeypatch):
    mine = Method("my own loss", ("#123456", "P"), loss=squared)
    monkeypatch.setitem(METHODS, "mine", mine)
    small = replace(STUDIES["digits"], seeds=2, pairs=STUDIES["digits"].pairs[:1])
    shared = {**small.shared, "epochs": 3, "warmup": 0}
    small = replace(small, shared=shared).with_methods(["mine"])
    for cfg in small():
        run(cfg)
    p = panel(small, small.pairs[0], 2)
    assert [r.config.method for r in p.records("mine")] == ["mine", "mine"]
    shown = gains.plot_gain_by_bucket(p)
    assert "my own loss" in shown.svg().decode() and look_of("my own loss") == ("#123456", "P")
    rows = gains.gain_by_bucket(p, ["mine"]).set_index("bucket")
    by_hand = p.accuracy("mine").observed.mean() - p.accuracy("one_hot").observed.mean()
    assert rows.estimate["average"] == pytest.approx(by_hand)


def test_a_loss_that_is_not_one_number_for_each_image_is_refused(records_folder, monkeypatch):
    def mean(cfg, margins, train):
        return lambda logits, batch: F.cross_entropy(logits, batch.y)

    monkeypatch.setitem(METHODS, "mine", Method("my own loss", ("#123456", "P"), loss=mean))
    with pytest.raises(KdlibError, match=r"'mine': its loss has the shape \(\), but must be one n"):
        run(Config(method="mine", epochs=1, batch_size=32))
    assert not list(records_folder.glob("*.json"))


def test_a_knob_that_is_no_field_of_config_is_named(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method("my own loss", ("#123456", "P"), ("temprature",)))
    for method in ("mine", "one_hot"):
        with pytest.raises(KdlibError) as refused:
            Config(method=method)
        said = "'temprature' is unknown, but kdlib/methods.py has it as a knob: did you mean 'temp"
        assert said in str(refused.value)


def test_what_a_method_reads_is_known_from_its_entry(monkeypatch):
    knobs = METHODS["ada_alpha"].knobs
    mine = Method("my own loss", ("#123456", "P"), knobs, loss=squared, remedy=True)
    monkeypatch.setitem(METHODS, "mine", mine)
    cfg = Config(method="mine", teacher="cnn")
    assert needs_margins(cfg) and labels_read(cfg) == "labels of val, for its margins"
    crossfit = replace(cfg, margin_source="crossfit")
    assert needs_margins(crossfit) and labels_read(crossfit) == ""
    by_image = replace(cfg, margin_source="train", margin_level="example")
    assert not needs_margins(by_image) and labels_read(by_image) == ""
    with pytest.raises(KdlibError, match="needs the teacher's margins"):
        method_loss(cfg)
    assert remedies(SimpleNamespace(runs={"kd": [], "mine": [], "ada_made_up": []})) == ["mine"]
    for name in ("kd", "post_hoc", "ada_alpha_crossfit", "one_hot_with_val", "group_dro", "mine"):
        here = name in offered()
        assert here == (name not in ("post_hoc", "one_hot_with_val", "kd_adjusted_teacher"))
    monkeypatch.setitem(METHODS, "mine", replace(mine, whole_batch=True))
    with pytest.raises(KdlibError, match="all images of a batch"):
        check_methods(["one_hot", "mine"], processes=2)


def test_a_method_that_nobody_knows_is_refused_with_the_nearest(monkeypatch):
    with pytest.raises(KdlibError, match="did you mean 'decoupled_kd'"):
        STUDIES["digits"].with_methods(["decoupled"])
    with pytest.raises(KdlibError, match="method='mine'"):
        Config(method="mine")
    with monkeypatch.context() as m:
        m.setitem(METHODS, "mine", Method("my own loss", ("#123456", "P"), loss=squared))
        cfg = Config(method="mine")
        taught = Method("my own loss", ("#123456", "P"), METHODS["kd"].knobs, loss=squared)
        m.setitem(METHODS, "mine", taught)
        student = Config(method="mine", teacher="cnn")
    for ask in (lambda: method_loss(cfg), student.teacher_config, student.dependencies):
        with pytest.raises(
            KdlibError, match="this process has no method 'mine'; add it to kdlib/methods.py, or "
        ):
            ask()  # as in another process of a sweep


def test_fields_that_belong_to_a_loss_are_those_that_some_method_reads():
    assert {"alpha", "tau", "margin_source"} <= loss_fields() and "lr" not in loss_fields()
