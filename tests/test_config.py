"""Config: what it takes, what it refuses and in which words, and what a key stands for."""

import dataclasses
import re

import pytest

from kdlib import config
from kdlib.config import ALLOWED, DEFAULTS, RANGES, Config, KdlibError
from kdlib.methods import METHODS, loss_fields

LOSS_FIELDS = sorted(loss_fields())
ELSEWHERE = {
    "teacher": "cnn",
    "teacher_seed": 5,
    "alpha": 0.5,
    "temperature": 2.0,
    "soften": "teacher",
    "margin_source": "train",
    "margin_kind": "max",
    "margin_temperature": 2.0,
    "margin_level": "example",
    "margin_reading": "A",
    "margin_scale": 2.0,
    "teacher_method": "logit_adjusted",
    "smoothing": 0.2,
    "tau": 2.0,
    "balance": 0.9,
    "beta": 1.0,
    "step_size": 0.1,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_field_that_the_method_ignores_must_be_at_its_default(method):
    assert set(ELSEWHERE) == set(LOSS_FIELDS)
    base = {"method": method, **({"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {})}
    Config(**base)
    for name in set(LOSS_FIELDS) - set(METHODS[method].knobs):
        with pytest.raises(
            KdlibError, match=f"field {name}=.*{method!r} does not use it; leave it at"
        ):
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
    assert dataclasses.replace(cfg).key() != before


def test_the_default_teacher_seed_is_never_the_seed():
    for seed in (0, 1, 999):
        for teacher in ("cnn", "cnn_small"):
            cfg = Config(method="kd", teacher=teacher, seed=seed)
            assert (
                cfg.teacher_seed
                == cfg.teacher_config().seed
                == 1000 + seed
                != cfg.baseline_config().seed
            )
    with pytest.raises(KdlibError, match="has no teacher"):
        Config().teacher_config()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"label_noise": 1.5}, "label_noise=1.5: must lie between 0 and 1"),
        ({"nesterov": 1}, "nesterov=1: must be bool"),
        ({"dataset": "superclas"}, "did you mean 'superclass'"),
        ({"method": "decoupledkd", "teacher": "cnn"}, "did you mean 'decoupled_kd'"),
        ({"method": "balanced_kd"}, "teacher: method 'balanced_kd' needs one of"),
        ({"method": "post_hoc", "tau": 0.5}, "does not use it"),
        (
            {"method": "balanced_kd", "teacher": "cnn", "balance": 1.0},
            "balance=1.0: must lie between 0 and 0.999999",
        ),
        (
            {"method": "decoupled_kd", "teacher": "cnn", "soften": "teacher"},
            "method 'decoupled_kd' does not use it",
        ),
        (
            {"method": "kd", "teacher": "cnn", "teacher_method": "group_dro"},
            "Allowed: one_hot, logit_adjusted",
        ),
        (
            {
                "method": "ada_alpha",
                "teacher": "cnn",
                "margin_source": "crossfit",
                "teacher_method": "logit_adjusted",
            },
            "teacher_method: the teachers of a crossfit are trained by 'one_hot'",
        ),
        (
            {
                "dataset": "superclass",
                "method": "ada_margin",
                "teacher": "resnet8",
                "margin_reading": "A",
            },
            "in 'superclass' they are not",
        ),
        ({"method": "post_hoc", "fold": 1}, "fold: only teachers of a crossfit"),
        ({"with_val": 1}, "with_val=1: must be bool"),
    ],
)
def test_what_the_new_fields_refuse_is_one_sentence(wrong, said):
    with pytest.raises(KdlibError, match="^Config field ") as e:
        Config(**wrong)
    assert said in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "key",
    [
        "cifar20_resnet8_one_hot_s0_c2f0a98d23",
        "cifar20_resnet20-resnet8_kd_s0_743d617ee2",
        "cifar20_resnet20-resnet8_ada_alpha_s0_a7984c8d80",
        "cifar20_resnet20-resnet8_ada_margin_s0_e919899cae",
    ],
)
def test_keys_of_configs_from_before_the_rivals_are_what_they_were(key):
    """Records in the repository answer to these; a new field at its default is no part of a key."""
    method = next(m for m in METHODS if f"_{m}_s0" in key)
    recipe = {
        "dataset": "cifar20",
        "draw_seed": 0,
        "imbalance": 20.0,
        "epochs": 40,
        "warmup": 8,
        "student": "resnet8",
    }
    assert (
        Config(
            **recipe,
            method=method,
            **({"teacher": "resnet20", "temperature": 2.0} if METHODS[method].knobs else {}),
        ).key()
        == key
    )


def test_every_new_field_has_a_key_of_its_own():
    new = {"label_noise": 0.2, "nesterov": True, "dataset": "superclass", "with_val": True}
    assert len({Config(**{k: v}).key() for k, v in new.items()} | {Config().key()}) == len(new) + 1
    for method, knobs in ((name, m.knobs) for name, m in METHODS.items()):
        base = Config(
            method=method, **({"teacher": "cnn"} if "teacher" in knobs else {}), draw_seed=3
        )
        varied = {
            k: v
            for k, v in ELSEWHERE.items()
            if k in knobs and k not in ("margin_level", "margin_source", "teacher")
        }
        if "margin_reading" in varied:
            base, varied = (
                dataclasses.replace(base, margin_reading="C"),
                varied | {"margin_source": "train"},
            )
        keys = {dataclasses.replace(base, **{k: v}).key() for k, v in varied.items()} | {base.key()}
        assert len(keys) == len(varied) + 1
    levels = [
        Config(method="ada_alpha", teacher="cnn", margin_level=level, margin_source="train")
        for level in ALLOWED["margin_level"]
    ]
    assert len({c.key() for c in levels}) == 3


def test_only_a_method_without_a_teacher_that_chooses_nothing_on_val_may_train_on_val():
    allowed = []
    for method in METHODS:
        fields = {"method": method, "with_val": True}
        if "teacher" in METHODS[method].knobs:
            fields["teacher"] = "cnn"
        try:
            Config(**fields)
            allowed.append(method)
        except KdlibError as e:
            assert str(e).startswith("Config field with_val: only a method without a teacher")
            assert str(e).count(".") == 1 and "\n" not in str(e)
    assert allowed == ["one_hot", "label_smoothing", "logit_adjusted", "group_dro"]
    with pytest.raises(KdlibError, match="^Config field with_val: .* no fold of a crossfit"):
        Config(fold=1, with_val=True)


def test_training_on_val_is_no_part_of_the_key_of_a_run_that_does_not():
    old = {name: value for name, value in DEFAULTS.items() if name != "with_val"}
    assert (
        Config.from_dict(old).key() == "digits_cnn_small_one_hot_s0_c65eca07e6"
    )  # pinned before the field
    assert (
        Config(**old, with_val=False).key()
        == Config(**old).key()
        != Config(**old, with_val=True).key()
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_baseline_of_every_method_is_the_plain_run_of_the_same_data_and_recipe(method):
    plain = {
        "student": "cnn_small",
        "seed": 4,
        "label_noise": 0.2,
        "nesterov": True,
        "imbalance": 10.0,
        "lr": 0.03,
    }
    loss = {k: ELSEWHERE[k] for k in METHODS[method].knobs if k != "margin_level"}
    cfg = Config(
        method=method,
        **plain,
        **(loss | ({"margin_source": "val"} if method == "ada_margin" else {})),
    )
    assert cfg.baseline_config() == Config(**plain)


@pytest.mark.parametrize("trained_by", ALLOWED["teacher_method"])
def test_a_teacher_is_trained_by_its_own_method_on_the_same_data(trained_by):
    cfg = Config(
        method="kd",
        teacher="cnn",
        temperature=2.0,
        seed=2,
        teacher_method=trained_by,
        label_noise=0.2,
        nesterov=True,
    )
    expected = Config(method=trained_by, student="cnn", seed=1002, label_noise=0.2, nesterov=True)
    assert cfg.teacher_config() == expected and cfg.dependencies() == [expected]
    assert cfg.baseline_config().method == "one_hot"
