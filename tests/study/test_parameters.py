"""Overrides of a study: which fields reach which runs, what is refused before anything trains, and
that nothing of it is ever counted."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import but, write_study

from kdlib.config import DEFAULTS, KdlibError
from kdlib.evidence import findings
from kdlib.evidence.panel import panel
from kdlib.study.done import complete_seeds
from kdlib.study.grids import STUDIES, study
from kdlib.study.parameters import FIXED, OPEN, check_parameters, overridden
from kdlib.study.provenance import provenance

DIGITS, CIFAR20, SMALL = (STUDIES[name] for name in ("digits", "cifar20-lt", "cifar100-lt-small"))
SHORT = STUDIES["cifar20-short"]  # of two pairs


def by_run(chosen, method, seed=0, pair=None):
    return chosen.config(pair or chosen.pairs[0], method, seed, chosen.settings[0])


# ---------------------------------------------------------------- what they reach


def test_without_overrides_it_is_the_study_itself():
    assert all(overridden(DIGITS, nothing) is DIGITS for nothing in ({}, "", "{}"))
    asked = {"study": "digits", "seeds": 2, "KIND": "findings", "overrides": {}}
    assert check_parameters(asked) == (DIGITS, 2)


@pytest.mark.parametrize(
    "text", ["{temperature: 8, student: cnn}", '{"temperature": 8.0, "student": "cnn"}']
)
def test_text_says_the_same_as_a_dictionary(text):
    explored = overridden(DIGITS, {"temperature": 8, "student": "cnn"})
    assert overridden(DIGITS, text)() == explored()
    assert overridden(DIGITS, text).overrides == explored.overrides


def test_a_field_of_the_loss_reaches_the_methods_that_read_it_and_no_teacher():
    explored = overridden(DIGITS, {"temperature": 8})
    assert explored.name == "digits-exploratory" and explored.overrides == {"temperature": 8.0}
    assert by_run(explored, "one_hot") == by_run(DIGITS, "one_hot")  # on record already
    for method in ("kd", "ada_alpha", "ada_margin"):
        ours, theirs = by_run(explored, method), by_run(DIGITS, method)
        assert ours == replace(theirs, temperature=8.0) and ours.key() != theirs.key()
        assert ours.teacher_config() == theirs.teacher_config()


def test_a_field_of_the_training_reaches_every_run_and_the_teachers():
    explored = overridden(DIGITS, {"epochs": 10, "lr": 0.1})
    runs = explored(1)
    assert {(cfg.epochs, cfg.lr) for cfg in runs} == {(10, 0.1)}
    assert by_run(explored, "kd").teacher_config() in runs
    assert not set(runs) & set(DIGITS())
    assert len(runs) == len(DIGITS(1))


def test_what_a_method_sets_itself_stays():
    explored = overridden(CIFAR20, {"alpha": 0.25})
    assert by_run(explored, "kd").alpha == 0.25 and by_run(explored, "kd_tuned").alpha == 0.5
    changed = set(explored(1)) - set(CIFAR20(1))
    assert {cfg.method for cfg in changed} == {"kd"}  # the only one that reads it and sets none


def test_networks_take_the_place_of_one_in_every_pair():
    explored = overridden(SHORT, {"student": "resnet14"})
    assert explored.pairs == (("resnet20", "resnet14"), ("resnet8", "resnet14"))
    assert by_run(explored, "kd").teacher_config() == by_run(SHORT, "kd").teacher_config()
    assert {cfg.student for cfg in explored(1) if cfg.teacher} == {"resnet14"}
    of_teacher = overridden(SHORT, {"teacher": "resnet14"})
    assert of_teacher.pairs == (("resnet14", "resnet8"),)  # two pairs become one
    assert by_run(of_teacher, "one_hot") == by_run(SHORT, "one_hot")


def test_teachers_of_seeds_of_their_own_stay_unless_they_would_be_the_baselines():
    assert by_run(SMALL, "kd").teacher_seed == 0
    of_student = overridden(SMALL, {"student": "resnet14"})
    assert by_run(of_student, "kd").teacher_config() == by_run(SMALL, "kd").teacher_config()
    assert by_run(overridden(SMALL, {"student": "resnet32"}), "kd").teacher_seed == 1000
    assert by_run(overridden(SMALL, {"teacher": "resnet14"}), "kd").teacher_seed == 1000


# ---------------------------------------------------------------- what is refused

NEW = "leads to no new run"
REFUSED = [
    ([4], "must be fields of Config with their values, as in {temperature: 4, student: resnet14}"),
    ("temperature", "overrides='temperature': must be fields of Config"),
    ("a: b: c", "overrides='a: b: c': must be fields of Config"),
    (None, "overrides=None: must be fields of Config"),
    ("lr: 2020-13-45", "overrides='lr: 2020-13-45': must be fields of Config"),  # no such date
    ("epochs: " + 5000 * "1", "must be fields of Config"),  # more digits than Python reads
    pytest.param(5000 * "[", "must be fields of Config", id="thousands of brackets"),
    ({"temperature": 10**40}, f"temperature={10**40}: must lie between 0.001 and 1000.0"),
    ({"temperature": "nan"}, "temperature=nan: must lie between 0.001 and 1000.0"),
    ({"temprature": 4}, "overrides: 'temprature' is unknown: did you mean 'temperature'?"),
    ({4: 4}, "overrides: 4 is unknown: "),
    ({"temperature": "hot"}, "temperature='hot': must be a number."),
    ({"epochs": 2.5}, "epochs=2.5: must be a whole number"),
    ({"alpha": 1.5}, "alpha=1.5: must lie between 0 and 1"),
    ({"student": "cnn_smal"}, "student='cnn_smal': did you mean 'cnn_small'?"),
    ({"student": "resnet14"}, "does not read what 'digits' holds; cnn, cnn_small do."),
    ({"student": "mlp"}, "student='mlp': does not read what 'digits' holds; cnn, cnn_small do."),
    ({"teacher": None}, "teacher: method 'kd' needs one of cnn, cnn_small."),
    ({"warmup": 40}, "one_hot of cnn → cnn_small cannot run: Config field warmup=40: "),
    ({"milestones": [3]}, "cannot run: Config field milestones: only decay='step'"),
    (
        {"decay": "step", "milestones": [20, 40]},
        "milestones=(20, 40): must be in rising order, each above 0 and below epochs=40.",
    ),
    ({"margin_source": "crossfit"}, "ada_margin of cnn → cnn_small cannot run: "),
    ({"temperature": 4}, f"temperature=4.0 {NEW}: digits has them all"),
    ({"temperature": 8, "tau": 2}, f"tau=2.0 {NEW}"),
    ({"teacher": "cnn_small"}, f"teacher='cnn_small' {NEW}"),  # the second pair
    *[
        ({name: DEFAULTS[name]}, f"{name} cannot be overridden: {why}.")
        for name, why in FIXED.items()
    ],
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=str)
def test_wrong_overrides_are_one_sentence(overrides, said):
    with pytest.raises(KdlibError, match="^notebook parameter overrides") as caught:
        overridden(DIGITS, overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["{lr: 1e-3}", "lr: 1e-3", "{lr: '0.001'}"])
def test_a_number_that_yaml_takes_for_text_is_a_number(text):
    assert overridden(DIGITS, text).overrides == {"lr": 0.001}


def test_every_field_is_open_or_has_a_reason():
    assert set(OPEN) | set(FIXED) == set(DEFAULTS) and not set(OPEN) & set(FIXED)


def test_fields_that_need_each_other_go_together():
    explored = overridden(DIGITS, {"decay": "step", "milestones": [20, 30]})
    assert by_run(explored, "kd").milestones == (20, 30)


def test_only_notebooks_of_findings_take_overrides():
    cells = ["", "# Parameters\noverrides = {'temperature': 4}\n"]
    names = {"In": cells, "study": "digits-knobs", "seeds": 2, "KIND": "knobs", "overrides": {}}
    with pytest.raises(KdlibError, match="'overrides' is unknown: allowed are study, seeds"):
        check_parameters(names)


# ---------------------------------------------------------------- never counted


def written(chosen, seeds, **how):
    """Records of a study, made by hand, with all that provenance tells."""
    of = {"git": "abc", "versions": {}, "device": "cpu", "seconds": 1.0}
    write_study(chosen, seeds, facts=lambda *_: of, **how)


@pytest.fixture
def explored(records_folder):
    """An exploratory study of digits, four seeds on record beside two of the study itself."""
    written(DIGITS, 2)
    found = overridden(DIGITS, {"temperature": 8, "lr": 0.1})
    # half of the eight baselines are teachers, right in 80 %, the others in 70 %
    written(found, 4, kd=but(0.9), shuffled=("kd", "one_hot"))
    return found


def test_exploratory_runs_get_no_verdict(explored, monkeypatch):
    monkeypatch.setattr(findings, "false_alarms", None)  # nor is it asked how often a rule fires
    (p, _) = findings.panels(explored, 4)
    assert p.name == "cnn → cnn_small, temperature = 8, lr = 0.1"
    cards = findings.pair_verdicts(p)
    assert {card["verdict"] for card in cards} == {"not tested"}
    assert all("Exploratory runs get no verdict." in card["sentence"] for card in cards)
    first = cards[0]
    assert first["said"].startswith("Distillation changes average accuracy by +15.0 points")
    assert not first["preliminary"]
    assert findings.verdicts(explored, 4) == []


def test_exploratory_runs_are_in_no_list_of_studies(explored):
    assert explored.name not in STUDIES
    assert complete_seeds("digits") == 2
    with pytest.raises(KdlibError, match="is unknown"):
        study(explored.name)
    source = provenance(explored, 4)
    assert source["exploratory, counted nowhere"] == "temperature = 8, lr = 0.1"
    plain = provenance("digits", 2)
    assert not [label for label in plain if "exploratory" in label] and "not on record" not in plain


def test_provenance_counts_the_runs_that_are_not_on_record(records_folder):
    written(DIGITS, 2)
    (records_folder / f"{DIGITS.config(DIGITS.pairs[0], 'kd', 1).key()}.json").unlink()
    planned = len(DIGITS(2))
    said = f"1 of {planned} planned runs of these seeds"
    assert provenance("digits", 2)["not on record"] == said


def test_exploratory_runs_join_no_pool_of_baselines(records_folder):
    """Eight seeds of a setting of which another study planned three."""
    changes = {"imbalance": 10.0}
    other = replace(STUDIES["digits-ablations"], settings=({}, changes))
    written(other, 3)
    pair = other.pairs[0]

    def seen():
        p = panel(other, pair, 3, setting=changes)
        means = p.accuracy("one_hot").observed.mean(axis=0)
        return len(p.runs["one_hot"]), means, provenance(other, 3)["records sha256"]

    before = seen()
    explored = overridden(DIGITS, changes)
    written(explored, 8, one_hot=lambda seed, split: 0.7 if seed < 3 else 0.3)
    for value, was in zip(seen(), before, strict=True):
        np.testing.assert_array_equal(value, was)
    assert before[0] == 3
    assert len(panel(explored, pair, 8, setting=changes).runs["one_hot"]) == 16  # but its own
