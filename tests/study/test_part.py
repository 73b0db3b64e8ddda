"""Parts of studies: which runs they hold, and what is compared."""

import itertools
import re
import shlex

import pytest

from kdlib import __main__ as cli
from kdlib.config import KdlibError
from kdlib.options import parse
from kdlib.study import done, part
from kdlib.study.grids import STUDIES, study
from kdlib.study.part import lacking, part_of
from kdlib.study.studies import Grid

GRIDS = {name: s for name, s in STUDIES.items() if isinstance(s, Grid)}


@pytest.fixture
def there(monkeypatch):
    """The set of Configs that are taken to be on record."""
    there = set()
    monkeypatch.setattr(done, "exists", there.__contains__)
    monkeypatch.setattr(part, "exists", there.__contains__)
    return there


def by_hand(s, pairs, methods, seeds):
    """The runs of seeds with their teachers, as a reader of PROTOCOL.md counts them."""
    found = set()
    for setting, pair, method in itertools.product(s.settings, pairs, methods):
        numbers = [k for k in seeds if k < s.fewer.get(method, s.seeds)]
        if method == "one_hot":  # further ones belong to the seeds in turn
            numbers = [k for k in range(max(s.seeds, s.baselines)) if k % s.seeds in seeds]
        for cfg in (s.config(pair, method, k, setting) for k in numbers):
            found |= {cfg, *cfg.dependencies()}
    return found


@pytest.mark.parametrize("name", GRIDS)
def test_a_part_holds_its_pairs_methods_and_seeds_their_teachers_and_nothing_else(name):
    s = GRIDS[name]
    pair, methods, last = s.pairs[-1], [*s.methods][:3:2], s.seeds - 1
    asked = ["/".join(pair)]
    assert set(part_of(s, asked, methods).configs) == by_hand(s, [pair], methods, range(s.seeds))
    assert set(part_of(s, asked).configs) == by_hand(s, [pair], s.methods, range(s.seeds))
    of_seeds = part_of(s, asked, methods, f"1-{last}").configs
    assert set(of_seeds) == by_hand(s, [pair], methods, range(1, s.seeds))
    seen = part_of(s, seeds=f"{last}-{last}").configs
    assert set(seen) == by_hand(s, s.pairs, s.methods, [last])
    at = {cfg: place for place, cfg in enumerate(seen)}
    assert all(at[teacher] < at[cfg] for cfg in seen for teacher in cfg.dependencies())


@pytest.mark.parametrize("name", STUDIES)
def test_seeds_are_counted_from_zero_and_parts_make_up_the_whole(name):
    s = STUDIES[name]
    assert part_of(s).configs == s() and part_of(s, seeds="1").configs == s(1)
    assert part_of(s, seeds="0-0").configs == s(1)
    one_by_one = [part_of(s, seeds=f"{k}-{k}").configs for k in range(s.seeds)]
    assert set().union(*one_by_one) == set(s())
    assert set(part_of(s, seeds=f"0-{s.seeds - 1}").configs) == set(s())


def test_a_part_is_named_by_the_seeds_in_the_names_of_its_records():
    pair = ["cnn_small/cnn_small"]
    asked = part_of(study("digits"), pair, ["kd", "one_hot"], "2-3").configs
    named = [re.search(r"(kd|one_hot)_s\d+", cfg.key())[0] for cfg in asked]
    ours = ["kd_s2", "kd_s3", "one_hot_s1002", "one_hot_s1003", "one_hot_s2", "one_hot_s3"]
    assert sorted(named) == ours


def test_pairs_and_methods_may_be_several_and_come_once():
    digits = study("digits")
    both = ["cnn/cnn_small", "cnn_small/cnn_small"]
    assert set(part_of(digits, both).configs) == set(digits())
    twice = part_of(digits, both[:1] * 2, ["kd", "kd"], "1").configs
    assert twice == part_of(digits, both[:1], ["kd"], "1").configs and len(twice) == 2
    # a method that a study made up, with fields of its own
    knobs = study("digits-knobs")
    (name,) = [m for m in knobs.methods if m == "AdaAlpha, margin at T = 4"]
    teacher, made = part_of(knobs, methods=[name], seeds="1").configs
    assert made.margin_temperature == 4.0 and teacher == made.teacher_config()


SIXTEEN = (
    "must be a number from 1 to 16, for the first ones, or a range such as 0-15, as study digits "
    "has 16 planned seeds."
)
PAIRS = "Allowed: cnn/cnn_small, cnn_small/cnn_small."


@pytest.mark.parametrize(
    "name, asked, said",
    [
        *(
            ("digits", {"seeds": text}, f"--seeds {text}: {SIXTEEN}")
            for text in ("0", "17", "-1", "2-16", "5-2", "2-", "-", "", "1,2", "1.5", "9" * 5000)
        ),
        ("cifar100-recipe", {"seeds": "2"}, "--seeds 2: must be a number from 1 to 1,"),
        ("digits", {"pairs": ["cnn-cnn_small"]}, f"did you mean 'cnn/cnn_small'? {PAIRS}"),
        ("digits", {"pairs": ["cnn_small/cnn"]}, "study digits has no pair 'cnn_small/cnn': "),
        ("digits", {"methods": ["ada"]}, "has no method 'ada': did you mean 'ada_alpha'?"),
        ("digits", {"methods": ["teacher"]}, "has no method 'teacher': allowed are one_hot, kd,"),
        ("digits-recipe", {"pairs": ["cnn/cnn_small"]}, "has no pairs or methods to choose from."),
        ("anchors", {"methods": ["kd"]}, "study anchors has no pairs or methods to choose from."),
        (
            "cifar20-lt",
            {"methods": ["ada_alpha_crossfit", "one_hot_with_val"], "seeds": "4-7"},
            "--seeds 4-7: study cifar20-lt plans 4 seeds of ada_alpha_crossfit and "
            "one_hot_with_val.",
        ),
    ],
)
def test_what_a_study_does_not_have_is_one_sentence(name, asked, said):
    with pytest.raises(KdlibError) as e:
        part_of(study(name), **asked)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_planned_methods_are_not_compared_and_others_over_the_seeds_that_can_be(there):
    digits = study("digits")
    assert part_of(digits, methods=["kd"]).compared is None
    asked = {"pairs": ["cnn/cnn_small"], "methods": ["label_smoothing"]}
    assert part_of(digits, **asked).seeds == 16  # nothing is there to be compared with
    there |= by_hand(digits, digits.pairs[:1], ["one_hot", "kd"], range(3))
    some = part_of(digits, **asked)
    assert [cfg.seed for cfg in some.configs] == [0, 1, 2] and some.seeds == 3
    assert [*some.compared.methods] == ["one_hot", "kd", "label_smoothing"]
    assert some.compared.pairs == digits.pairs[:1]


def test_what_a_comparison_lacks_comes_with_the_command_that_makes_it(there):
    digits = study("digits")
    some = part_of(digits, ["cnn/cnn_small"], ["label_smoothing"], "2-3")
    there |= set(some.configs)
    said = lacking("comparison", some.compared, some.seeds)
    wanted = by_hand(some.compared, digits.pairs[:1], some.compared.methods, range(4))
    assert len(wanted - there) == 14
    lacks = "no comparison of the first 4 seeds yet, for want of 14 runs"
    assert said.startswith(f"{lacks}: python -m kdlib run digits ")
    args = parse(shlex.split(said.partition("python -m kdlib ")[2]), cli.COMMANDS)
    again = part_of(study(args.study), args.pair, args.method, args.seeds)
    assert set(again.configs) == wanted
    there |= wanted
    assert lacking("comparison", some.compared, 4) == lacking("audit", again.compared, 4) == ""
