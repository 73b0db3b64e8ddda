"""The whole program that docs/own_trainer.md shows, run as it stands."""

import copy
import re
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score

PAGE = (Path(__file__).parents[2] / "docs" / "own_trainer.md").read_text()
SECTION = PAGE.split("## A whole program\n")[1]


@pytest.fixture(scope="module")
def ran():
    """(the names that the block leaves behind, the lines it prints)"""
    (block,) = re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)
    printed = []
    names = {"print": printed.append}
    with torch.random.fork_rng():
        exec(compile(block, "own_trainer.md", "exec"), names)
    return names, printed


def predicted(network, ran):
    x, test = ran[0]["x"], ran[0]["test"]
    with torch.no_grad():
        return network(x[test]).argmax(dim=1).numpy()


def test_the_student_learns_and_its_accuracy_in_each_group_is_printed(ran):
    names, printed = ran
    y = names["y"][names["test"]].numpy()
    untrained = copy.deepcopy(names["student"])
    for layer in untrained:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    accuracy = accuracy_score(y, predicted(names["student"], ran))
    assert accuracy > 0.6 and accuracy > accuracy_score(y, predicted(untrained, ran)) + 0.3
    by_group = recall_score(y, predicted(names["student"], ran), average=None)
    assert printed == [f"digit {k}: accuracy {share:.2f}" for k, share in enumerate(by_group)]


def test_the_digits_are_long_tailed_and_no_example_has_two_uses(ran):
    names, _ = ran
    counts = torch.bincount(names["y"][names["train"]], minlength=10)
    assert counts[0] > 5 * counts[9] > 0
    of_each = [set(names[name].tolist()) for name in ("train", "held_out", "test")]
    assert sum(map(len, of_each)) == len(set.union(*of_each))


def test_the_teacher_is_frozen_and_its_margins_are_those_of_held_out_examples(ran):
    names, _ = ran
    teacher, held_out = names["teacher"], names["held_out"]
    assert not teacher.training and not names["teacher_logits"].requires_grad
    p = teacher(names["x"][held_out]).softmax(dim=1)
    y = names["y"][held_out]
    for k, margin in enumerate(names["margin"].tolist()):
        mine = p[y == k]
        others = (mine.sum(dim=1) - mine[:, k]) / 9
        by_hand = (mine[:, k] - others).mean().item()
        assert margin == pytest.approx(min(1, max(0, by_hand)), abs=1e-5)
    assert 0.3 < names["margin"].min() < names["margin"].max() <= 1
