"""Config: what it takes, what it refuses and in which words, and what a key stands for."""

import dataclasses
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import baseline_of

from kdlib import config
from kdlib.config import DEFAULTS, Config, KdlibError, built, count_of, did_you_mean
from kdlib.methods import METHODS, loss_fields

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
WORDS = [name for name, field in FIELDS.items() if "words" in field.metadata]
RANGES = {n: field.metadata["range"] for n, field in FIELDS.items() if "range" in field.metadata}
ELSEWHERE = {  # a value of each loss field that is not its default
    "teacher": "cnn",
    "teacher_seed": 5,
    "teacher_method": "logit_adjusted",
    "alpha": 0.5,
    "temperature": 2.0,
    "soften": "teacher",
    "margin_source": "train",
    "margin_level": "example",
    "margin_kind": "max",
    "margin_temperature": 2.0,
    "margin_reading": "A",
    "margin_scale": 2.0,
    "smoothing": 0.2,
    "tau": 2.0,
    "balance": 0.9,
    "beta": 1.0,
    "step_size": 0.1,
}
SUPERCLASS = {"dataset": "superclass", "student": "resnet8"}
HUGE = 10**6000  # more digits than Python writes out
RISING = "must be in rising order, each above 0 and below epochs=40"
CROSSFIT = {"method": "ada_alpha", "teacher": "cnn", "margin_source": "crossfit"}


def plain(method, **fields):
    """A Config of a method, with a teacher if it has one."""
    teacher = {"teacher": "cnn"} if "teacher" in METHODS[method].knobs else {}
    return Config(method=method, **(teacher | fields))


@pytest.mark.parametrize("method", METHODS)
def test_a_field_that_the_method_ignores_must_be_at_its_default(method):
    assert set(ELSEWHERE) == loss_fields()
    plain(method)
    for name in loss_fields() - set(METHODS[method].knobs):
        said = f"field {name}=.*{method!r} does not use it; leave it at {DEFAULTS[name]!r}"
        with pytest.raises(KdlibError, match=said):
            plain(method, **{name: ELSEWHERE[name]})


@pytest.mark.parametrize("name", WORDS)
def test_a_word_that_is_not_allowed_is_named_with_those_that_are(name):
    with pytest.raises(KdlibError, match=f"Config field {name}='nonsense'") as e:
        Config(**{name: "nonsense"})
    assert all(str(word) in str(e.value) for word in FIELDS[name].metadata["words"])


@pytest.mark.parametrize("name", RANGES)
def test_ranges_include_their_ends_and_nothing_beyond(name):
    kind = float if isinstance(DEFAULTS[name], float) else int
    low, high = RANGES[name]
    checked = config.checked  # the field alone, whatever the others are
    assert [checked(name, kind(end)) for end in (low, high)] == [low, high]
    for value in (kind(low - 1), kind(high + 1), float("inf"), float("nan")):
        with pytest.raises(KdlibError, match=f"Config field {name}="):
            Config(**{name: value})


def test_numbers_without_a_range_are_none():
    numbers = {name for name, field in FIELDS.items() if re.search("int|float", str(field.type))}
    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", FIELDS)
def test_the_right_type_of_every_field_is_said(name):
    with pytest.raises(KdlibError, match=f"^Config field {name}=.*must be ") as e:
        Config(**{name: object()})
    assert "\n" not in str(e.value)


class Text(str):
    """Text to most of Python, but not JSON's."""


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words for it")


WRONG = (  # for any field
    *(10**400, HUGE, -HUGE, (HUGE,), (True,), ("1",), (None,), float("nan"), float("inf")),
    *("nonsense", "two\nlines", "\udc80", "x" * 10**5, Text("digits"), b"digits", {}, 1j),
    *(np.int64(1), np.float64(0.5), np.str_("digits"), np.bool_(True), np.zeros((9, 9))),
    *(Unspeakable(), object(), Config, range(3), [[]]),
)


@pytest.mark.parametrize("name", FIELDS)
def test_every_wrong_value_is_one_short_line_that_names_the_field(name):
    booleans = () if isinstance(DEFAULTS[name], bool) else (True, False)
    for value in (*WRONG, *booleans):
        with pytest.raises(KdlibError) as e:
            Config(**{name: value})
        said = str(e.value)
        assert re.match(f"Config field {name}[=:]", said) and said.endswith(".")
        assert "\n" not in said and len(said) < 600


ONE_TYPE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers() | st.integers(-3, 50),
    st.floats(),
    st.sampled_from(sorted({str(w) for n in WORDS for w in FIELDS[n].metadata["words"]})),
    st.lists(st.integers(-3, 50), max_size=3),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ONE_TYPE, max_size=5))
def test_fields_are_refused_by_name_or_make_a_run_that_json_brings_back(fields):
    try:
        cfg = Config(**fields)
    except KdlibError as e:
        assert re.match(rf"Config field ({'|'.join(FIELDS)})[=:]", str(e)) and "\n" not in str(e)
        return
    again = Config.from_dict(json.loads(json.dumps(cfg.fields())))
    assert again == cfg and again.key() == cfg.key()
    assert all(of.teacher is None for of in cfg.dependencies())


def test_minus_zero_is_zero():
    assert Config(lr=-0.0).key() == Config(lr=0.0).key() == Config(lr=0).key()


def test_a_config_survives_a_dictionary_and_json_lists():
    cfg = Config(method="kd", teacher="cnn", decay="step", milestones=(3, 5), epochs=8)
    again = Config.from_dict({**dataclasses.asdict(cfg), "milestones": [3, 5]})
    assert again == cfg == built(cfg.fields()) and again.key() == cfg.key()
    assert hash(again) == hash(cfg) and cfg.fields() == dataclasses.asdict(cfg)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 1
    with pytest.raises(KdlibError, match="'epoch' is unknown: did you mean 'epochs'"):
        Config.from_dict({"epoch": 3})


def test_a_config_is_built_once_but_not_for_another_type_of_value():
    assert built({"seed": 3}) is built({"seed": 3}) == Config(seed=3)
    built({"nesterov": True})
    with pytest.raises(KdlibError, match="nesterov=1: must be true or false"):
        built({"nesterov": 1})


def test_a_key_is_readable_a_file_name_and_of_its_recipe(monkeypatch):
    cfg = Config(dataset="cifar20", method="kd", teacher="resnet20", student="resnet8", seed=3)
    assert re.fullmatch(r"cifar20_resnet20-resnet8_kd_s3_[0-9a-f]{10}", cfg.key())
    before = cfg.key()
    monkeypatch.setattr(config, "RECIPE", config.RECIPE + 1)
    assert replace(cfg).key() != before


@pytest.mark.parametrize("seed", [0, 1, 999])
@pytest.mark.parametrize("teacher", ["cnn", "cnn_small"])
def test_the_default_teacher_seed_is_never_the_seed(seed, teacher):
    cfg = Config(method="kd", teacher=teacher, seed=seed)
    assert cfg.teacher_seed == cfg.teacher_config().seed == 1000 + seed
    assert baseline_of(cfg).seed == seed
    with pytest.raises(KdlibError, match="has no teacher"):
        Config().teacher_config()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"label_noise": 1.5}, "label_noise=1.5: must lie between 0 and 1"),
        ({"nesterov": 1}, "nesterov=1: must be true or false"),
        ({"with_val": 1}, "with_val=1: must be true or false"),
        ({"milestones": (1.5,)}, "milestones=(1.5,): must be a tuple of whole numbers"),
        *(
            ({"decay": "step", "milestones": wrong}, f"milestones={wrong}: {RISING}")
            for wrong in ((3, 40), (41,), (0, 3), (-1,), (7, 3), (3, 3))
        ),
        (
            {"decay": "step", "milestones": (HUGE,)},
            f"milestones=a value of type tuple: {RISING}",
        ),
        (
            {"method": "kd", "teacher": "cnn", "seed": 10**6},
            "teacher_seed=1001000: must lie between 0 and 1000000",
        ),
        ({"draw_seed": "0"}, "draw_seed='0': must be a whole number or nothing"),
        ({"dataset": "superclas"}, "did you mean 'superclass'"),
        ({"method": "decoupledkd", "teacher": "cnn"}, "did you mean 'decoupled_kd'"),
        ({"method": "kd", "teacher": "cnn", "balance": 1.0}, "between 0 and 0.999999"),
        ({"method": "balanced_kd"}, "teacher: method 'balanced_kd' needs one of cnn, cnn_small."),
        (
            {"method": "kd", "dataset": "cifar10", "student": "resnet8"},
            "resnet110-conv, resnet8x2.",  # none of those of tables
        ),
        ({"student": "resnet8"}, "does not read what 'digits' holds; cnn, cnn_small do."),
        (
            {"dataset": "cifar10"},
            "student='cnn_small': does not read what 'cifar10' holds; resnet8, ",
        ),
        (
            {"method": "kd", "dataset": "adult", "student": "mlp"},
            "teacher: method 'kd' needs one of mlp, mlp_small, logistic, boosted_trees.",
        ),
        (
            {"method": "kd", "teacher": "cnn_small", "teacher_seed": 0},
            "teacher_seed=0: in self-distillation the teacher would be the baseline itself",
        ),
        (
            {"method": "kd", "teacher": "cnn", "teacher_method": "group_dro"},
            "allowed are one_hot, logit_adjusted",
        ),
        (
            {"method": "ada_alpha", "teacher": "cnn", "margin_level": "example"},
            "margin_level='example': there are no held-out margins",
        ),
        (
            {"method": "ada_margin", "teacher": "cnn", "margin_source": "train"},
            "margin_source: reading 'B' of ada_margin takes its margin from each training image",
        ),
        (
            {**CROSSFIT, "teacher_method": "logit_adjusted"},
            "teacher_method: the teachers of a crossfit are trained by 'one_hot'",
        ),
        (
            {**SUPERCLASS, "method": "ada_margin", "teacher": "resnet8", "margin_reading": "A"},
            "in 'superclass' they are not",
        ),
        ({"method": "post_hoc", "fold": 1}, "fold: only teachers of a crossfit"),
        ({"with_val": True, "fold": 1}, "with_val: only a method without a teacher"),
        ({"milestones": (3,)}, "milestones: only decay='step' uses milestones and decay_factor"),
        ({"decay_factor": 0.2}, "milestones: only decay='step' uses"),
        ({"epochs": 3, "warmup": 3}, "warmup=3: must be less than epochs=3"),
        ({"profile": "step"}, "profile: without imbalance there is no profile"),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(wrong, said):
    with pytest.raises(KdlibError, match="^Config field ") as e:
        Config(**wrong)
    assert said in str(e.value) and "\n" not in str(e.value)


TAIL = {"dataset": "cifar20", "draw_seed": 0, "imbalance": 20.0, "epochs": 40, "warmup": 8}
TAUGHT = {"teacher": "resnet20", "temperature": 2.0}


@pytest.mark.parametrize(
    "method, more, key",
    [
        ("one_hot", {}, "cifar20_resnet8_one_hot_s0_c2f0a98d23"),
        ("kd", TAUGHT, "cifar20_resnet20-resnet8_kd_s0_743d617ee2"),
        ("ada_alpha", TAUGHT, "cifar20_resnet20-resnet8_ada_alpha_s0_a7984c8d80"),
        ("ada_margin", TAUGHT, "cifar20_resnet20-resnet8_ada_margin_s0_e919899cae"),
    ],
)
def test_keys_of_configs_from_before_the_rivals_are_what_they_were(method, more, key):
    """Records in the repository answer to these; a new field at its default is no part of a key."""
    assert Config(**TAIL, student="resnet8", method=method, **more).key() == key
    assert Config().key() == "digits_cnn_small_one_hot_s0_c65eca07e6"  # pinned before with_val


def test_every_field_that_is_not_at_its_default_has_a_key_of_its_own():
    new = {"label_noise": 0.2, "nesterov": True, "with_val": True}
    others = [{name: value} for name, value in new.items()]
    others += [{"dataset": d, "student": "resnet8"} for d in ("cifar100", "superclass")]
    assert len({Config(**fields).key() for fields in [{}, *others]}) == 1 + len(others)
    for method in METHODS:
        base = plain(method, draw_seed=3)
        varied = {name: ELSEWHERE[name] for name in METHODS[method].knobs if name != "teacher"}
        varied.pop("margin_level", None)
        if method == "ada_margin":
            base = replace(base, margin_reading="C")
        keys = {replace(base, **{name: value}).key() for name, value in varied.items()}
        assert len(keys | {base.key()}) == len(varied) + 1
    ada = plain("ada_alpha", margin_source="train")
    levels = FIELDS["margin_level"].metadata["words"]
    assert len({replace(ada, margin_level=level).key() for level in levels}) == 4


@pytest.mark.parametrize("method", METHODS)
def test_only_a_method_without_a_teacher_that_chooses_nothing_on_val_may_train_on_val(method):
    if method in ("one_hot", "label_smoothing", "logit_adjusted", "group_dro"):
        cfg = plain(method, with_val=True)
        assert cfg.key() != plain(method).key() and baseline_of(cfg) == Config()
        return
    with pytest.raises(KdlibError, match="^Config field with_val: only a method without") as e:
        plain(method, with_val=True)
    assert str(e.value).count(".") == 1 and "\n" not in str(e.value)


@pytest.mark.parametrize("method", METHODS)
def test_baseline_and_teacher_are_plain_runs_of_the_same_data_and_recipe(method):
    recipe = {"label_noise": 0.2, "nesterov": True, "imbalance": 10.0, "lr": 0.03}
    knobs = {k: ELSEWHERE[k] for k in METHODS[method].knobs if k != "margin_level"}
    if method == "ada_margin":
        knobs["margin_source"] = "val"
    for trained_by in ("one_hot", "logit_adjusted") if knobs.get("teacher") else (None,):
        if trained_by:
            knobs["teacher_method"] = trained_by
        cfg = Config(method=method, seed=4, **recipe, **knobs)
        assert baseline_of(cfg) == Config(seed=4, **recipe)
        if trained_by:
            teacher = Config(method=trained_by, student="cnn", seed=5, **recipe)
            assert cfg.teacher_config() == teacher and cfg.dependencies() == [teacher]


def test_a_crossfit_depends_on_its_teacher_and_on_that_of_each_fold():
    teacher, *folds = Config(**CROSSFIT, seed=2).dependencies()
    assert teacher == Config(student="cnn", seed=1002)
    assert folds == [replace(teacher, fold=k) for k in range(5)]
    assert Config().dependencies() == []


def test_the_first_that_begins_with_a_word_is_meant_before_the_one_spelled_most_alike():
    known = ["cifar10", "cifar20-lt", "cifar20-short", "temperature"]
    assert did_you_mean("cifar20", known).startswith("did you mean 'cifar20-lt'? Allowed: cifar10")
    assert did_you_mean("cifer10", known).startswith("did you mean 'cifar10'? ")
    assert (
        did_you_mean("", known) == did_you_mean("xyz", known) == f"allowed are {', '.join(known)}."
    )


@pytest.mark.parametrize(
    "number, words", [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds"), (1200, "1,200 seeds")]
)
def test_one_thing_is_not_said_in_the_plural(number, words):
    assert count_of(number, "seed") == words
    assert count_of(number, "class", "classes").endswith("class" if number == 1 else "classes")
