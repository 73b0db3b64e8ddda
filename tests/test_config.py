"""Config: what it takes, what it refuses and in which words, and what a key stands for."""

import dataclasses
import re

import pytest

from kdlib import config
from kdlib.config import ALLOWED, DEFAULTS, KNOBS, MODELS, RANGES, Config, KdlibError
from kdlib.studies import PRIMARY_METHODS, STUDIES

LOSS_FIELDS = sorted({k for ks in KNOBS.values() for k in ks})
ELSEWHERE = {"teacher": "cnn", "teacher_seed": 5, "alpha": 0.5, "temperature": 2.0, "soften": "teacher",
             "margin_source": "train", "margin_kind": "max", "margin_temperature": 2.0,
             "margin_level": "example", "margin_reading": "A", "margin_scale": 2.0}


@pytest.mark.parametrize("method", KNOBS)
def test_a_field_that_the_method_ignores_must_be_at_its_default(method):
    assert set(ELSEWHERE) == set(LOSS_FIELDS)
    base = {"method": method, **({"teacher": "cnn"} if "teacher" in KNOBS[method] else {})}
    Config(**base)
    for name in set(LOSS_FIELDS) - set(KNOBS[method]):
        with pytest.raises(KdlibError, match=f"field {name}=.*{method!r} does not use it; leave it at"):
            Config(**base, **{name: ELSEWHERE[name]})


@pytest.mark.parametrize("name", ALLOWED)
def test_a_word_that_is_not_allowed_is_named_with_those_that_are(name):
    with pytest.raises(KdlibError, match=f"Config field {name}='nonsense'") as e:
        Config(**{name: "nonsense"})
    assert all(str(word) in str(e.value) for word in ALLOWED[name])


@pytest.mark.parametrize("name", RANGES)
def test_ranges_include_their_ends_and_nothing_beyond(name):
    low, high = RANGES[name]
    kind = type(DEFAULTS[name]) if isinstance(DEFAULTS[name], float) else int
    for value in (low - 1, high + 1, float("inf"), float("nan")):
        with pytest.raises(KdlibError, match=f"Config field {name}="):
            Config(**{name: kind(value) if abs(value) < 1e9 else value})


def test_the_right_type_of_every_field_is_said():
    for field in dataclasses.fields(Config):
        with pytest.raises(KdlibError, match=f"^Config field {field.name}=.*must be ") as e:
            Config(**{field.name: object()})
        assert "\n" not in str(e.value)


def test_a_config_survives_a_dictionary_and_json_lists():
    cfg = Config(method="kd", teacher="cnn", decay="step", milestones=(3, 5), epochs=8)
    again = Config.from_dict({**dataclasses.asdict(cfg), "milestones": [3, 5]})
    assert again == cfg and again.key() == cfg.key() and hash(again) == hash(cfg)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 1


def test_a_key_is_readable_a_file_name_and_of_its_recipe(monkeypatch):
    cfg = Config(dataset="cifar20", method="kd", teacher="resnet20", student="resnet8", seed=3)
    assert re.fullmatch(r"cifar20_resnet20-resnet8_kd_s3_[0-9a-f]{10}", cfg.key())
    before = cfg.key()
    monkeypatch.setattr(config, "RECIPE", config.RECIPE + 1)
    assert cfg.key() != before


def test_the_default_teacher_seed_is_never_the_seed():
    for seed in (0, 1, 999):
        for teacher in ("cnn", "cnn_small"):
            cfg = Config(method="kd", teacher=teacher, seed=seed)
            assert cfg.teacher_seed == cfg.teacher_config().seed == 1000 + seed != cfg.baseline_config().seed
    with pytest.raises(KdlibError, match="has no teacher"):
        Config().teacher_config()


def test_the_placebo_draws_from_a_stream_no_other_run_has():
    placebo = [Config(method="placebo", seed=s).stream for s in range(20)]
    others = [Config(seed=s).stream for s in (*range(20), *range(1000, 1020))]
    assert not set(placebo) & set(others) and len(set(placebo)) == 20


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_one_run_of_each_kind_and_its_teachers_first(name):
    study = STUDIES[name]
    configs = study(2)
    keys = [c.key() for c in configs]
    assert len(set(keys)) == len(keys)
    for cfg in configs:
        assert all(keys.index(d.key()) < keys.index(cfg.key()) for d in cfg.dependencies())
    for pair in study.pairs:
        for seed in range(2):
            wanted = [study.config(pair, method, seed) for method in PRIMARY_METHODS]
            assert all(c.key() in keys and c.student == pair[1] and c.seed == seed for c in wanted)
            assert {c.baseline_config().key() for c in wanted} == {wanted[0].key()}
            assert {c.teacher for c in wanted} == {None, pair[0]} and pair[0] in MODELS
