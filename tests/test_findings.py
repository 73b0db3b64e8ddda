"""The rules of PROTOCOL.md on records whose right verdict is known by construction."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import FEW, GROUPS, PAIR, SELF, TINY, but, made, write_study

from kdlib import anchors, findings, readme
from kdlib.config import KdlibError
from kdlib.findings import Part, others, panels, verdict_word
from kdlib.stats import interval
from kdlib.studies import STUDIES

HELPS_MANY_HARMS_FEW = {"one_hot": but(0.6, few=0.5), "placebo": but(0.6, few=0.5), "kd": but(0.8, few=0.2)}
NOISE = ("one_hot", "placebo", "kd", "ada_alpha", "ada_margin")


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))


def words(panel):
    return {card["finding"]: card["verdict"] for card in findings.pair_verdicts(panel)}


def card(panel, finding):
    return next(c for c in findings.pair_verdicts(panel) if c["finding"] == finding)


def held(card):
    return {part.label: part.holds for part in card["parts"]}


# ---------------------------------------------------------------- F1 and F2

def test_better_on_average_and_worse_where_rare():
    panel = made(**HELPS_MANY_HARMS_FEW)
    f1, f2 = card(panel, "F1"), card(panel, "F2")
    assert f1["verdict"] == "reproduced" and "+10.0 points" in f1["sentence"]      # (8 * 20 - 2 * 30) / 10
    assert held(f2)["few loses"] == "yes" and "−30.0 points" in f2["parts"][0].sentence
    assert held(f2)["seeds agree on the classes"] == "yes"
    assert f2["verdict"] == "reproduced"


def test_the_opposite_is_contradicted():
    panel = made(one_hot=but(0.8, few=0.4), kd=but(0.6, few=0.6))
    assert words(panel)["F1"] == "contradicted"                 # the average falls ...
    assert held(card(panel, "F2"))["few loses"] == "no"         # ... and the rare classes gain


def test_equal_gains_with_precision_contradict_non_uniformity():
    panel = made(one_hot=0.6, kd=0.8)
    assert words(panel)["F1"] == "reproduced"
    assert held(card(panel, "F2")) == {"few loses": "no", "seeds agree on the classes": "open"}
    assert words(panel)["F2"] == "contradicted"


def test_no_effect_is_inconclusive_and_says_what_would_be_seen():
    panel = made(shuffled=NOISE)
    f1, f2 = card(panel, "F1"), card(panel, "F2")
    assert (f1["verdict"], f2["verdict"]) == ("inconclusive", "inconclusive")
    for c in (f1, f2):
        part = findings.helps_on_average(panel)[0] if c is f1 else findings.not_uniform(panel)[0]
        assert part.detectable > 0.5
        assert f"smallest effect that this study would find (\"{part.label}\"): {part.detectable:.1f} points." in c["sentence"]


def test_no_effect_with_precision_contradicts_a_harm():
    assert held(card(made(), "F2"))["few loses"] == "no"              # the interval is [0, 0], above −0.5


def test_a_harm_below_half_a_point_is_no_harm():
    """0.25 points in the few bucket, without any noise: clear, and too small to be called harm."""
    def kd(seed, split):
        return but(0.7, g9=0.65 if split == "test" and seed == 0 else 0.7)
    panel = made(kd=kd)      # one of 2 * 2 * 20 images in one of four seeds, so few: (−2.5 / 2) / 4 points
    part = findings.not_uniform(panel)[0]
    assert part.holds == "open" and "−0.3 points" in part.sentence


def test_the_mean_harm_must_be_half_a_point_exactly(monkeypatch):
    panel = made(**HELPS_MANY_HARMS_FEW)
    monkeypatch.setattr(findings, "HARM", -30.0)      # the harm is 30 points, give or take the last bit
    monkeypatch.setattr(findings, "bucket_mean", lambda p, b: lambda v: np.round(v[..., FEW].mean(axis=-1), 6))
    assert findings.not_uniform(panel)[0].holds == "yes"
    monkeypatch.setattr(findings, "HARM", -30.01)
    assert findings.not_uniform(panel)[0].holds == "open"


def test_agreement_is_of_other_images():
    """Seeds that agree only on one half of the images do not agree on the classes."""
    panel = made(seeds=4, one_hot=0.7, kd=0.7)
    half = findings._halves(panel.group)
    for g in range(GROUPS):
        assert half[panel.group == g].sum() == 20
    np.testing.assert_array_equal(half, findings._halves(panel.group))
    shared = np.random.default_rng(3).normal(size=GROUPS)[panel.group] * half

    class Half(type(panel)):
        __hash__ = type(panel).__hash__

        def right(self, method):
            return shared[None] + np.zeros((self.seeds, 1)) if method == "kd" else np.zeros((self.seeds, len(shared)))

    one_sided = Half(panel.study, panel.pair, panel.seeds, panel.runs, panel.teachers, panel.split)
    assert findings.not_uniform(one_sided)[1].holds == "open"


# ---------------------------------------------------------------- seeds

def test_one_seed_is_not_testable():
    panel = made(seeds=1, **HELPS_MANY_HARMS_FEW)
    cards = findings.pair_verdicts(panel)
    assert {c["verdict"] for c in cards} == {"not testable"} and len(cards) == 5
    assert all(part.holds == "open" for c in cards for part in c["parts"])
    assert "one seed: no interval" in cards[0]["sentence"]


@pytest.mark.parametrize(("seeds", "preliminary"), [(2, True), (3, True), (4, False)])
def test_fewer_seeds_than_planned_are_preliminary(seeds, preliminary):
    for c in findings.pair_verdicts(made(seeds=seeds, **HELPS_MANY_HARMS_FEW)):
        assert (c["preliminary"], c["seeds"], c["planned"]) == (preliminary, seeds, 4)


def test_the_sign_flip_p_and_its_floor_are_printed():
    assert "sign-flip p = 0.125 (floor 0.125)" in card(made(**HELPS_MANY_HARMS_FEW), "F1")["sentence"]   # 2 / 2^4


# ---------------------------------------------------------------- F3

def test_copied_errors_are_found_and_the_placebo_does_not_fire():
    panel = made(copies=("kd",))
    assert held(card(panel, "F3"))["teacher errors are copied"] == "yes"
    f3 = next(c for c in findings.placebo_verdicts(panel) if c["finding"] == "F3")
    assert held(f3)["teacher errors are copied"] == "open"
    np.testing.assert_allclose(findings.copied_share(panel, "kd").observed, 100)     # it errs wherever the teacher does


def test_copied_share_by_hand():
    panel = made(copies=("kd",), teacher=but(0.8, g0=0.5), kd=but(0.9, g0=1))
    share = []
    for seed in range(4):
        teacher, kd = panel.predicted("teacher")[seed], panel.predicted("kd")[seed]
        copies = wrong = 0.0
        for g in range(GROUPS):
            here = [i for i in range(len(panel.y)) if panel.group[i] == g]
            copies += sum(teacher[i] != g and kd[i] == teacher[i] for i in here) / len(here)
            wrong += sum(teacher[i] != g for i in here) / len(here)
        share.append(100 * copies / wrong)
    np.testing.assert_allclose(findings.copied_share(panel, "kd").observed, share)
    np.testing.assert_allclose(share, 100 * (9 * 0.1) / (9 * 0.2 + 0.5))


def test_students_that_copy_less_than_the_placebo():
    panel = made(copies=("placebo",), one_hot=but(0.7, few=0.3), kd=but(0.5, few=0.8))
    assert held(card(panel, "F3")) == {"margin predicts gain": "no", "teacher errors are copied": "no"}
    assert card(panel, "F3")["verdict"] == "contradicted"


def test_others():
    np.testing.assert_allclose(others(np.array([[1.0, 10], [2, 20], [6, 60]])), [[4, 40], [3.5, 35], [1.5, 15]])


def test_the_margin_is_of_the_other_seeds_teachers():
    """Two seeds with opposite margins; the gain follows the margin of the other one: correlation +1, with one's own −1."""
    up, down = np.linspace(0.1, 0.9, GROUPS), np.linspace(0.9, 0.1, GROUPS)
    rising = np.linspace(0.3, 0.75, GROUPS)                         # steps of 0.05: whole images
    panel = made(replace(TINY, seeds=2), one_hot=0.3, kd=lambda seed, split: (rising[::-1], rising)[seed],
                 margin=lambda seed: (up, down)[seed])
    part = findings.transferred_and_amplified(panel)[0]
    assert "+1.00 (" in part.sentence


def test_margin_predicts_gain():
    gains = but(0.6) + np.linspace(0.3, -0.15, GROUPS)
    panel = made(one_hot=0.6, kd=gains, copies=("kd",))              # margins fall from class 0 to class 9, as the gains
    assert card(panel, "F3")["verdict"] == "reproduced"
    opposite = made(one_hot=0.6, kd=gains[::-1], copies=("kd",))
    assert card(opposite, "F3")["verdict"] == "partly reproduced"
    assert card(opposite, "F3")["sentence"].startswith(
        "Holds: teacher errors are copied; does not or is open: margin predicts gain (no). Rank correlation")


def test_amplification_by_hand():
    """Weakest fifth = two classes, chosen by the other seed's teacher: classes 0 and 1 for seed 0, 8 and 9 for seed 1."""
    def teacher(seed, split):
        weak = but(0.8, g8=0.1, g9=0.1) if seed == 0 else but(0.8, g0=0.1, g1=0.1)
        return weak if split == "val" else 0.9
    kd = but(0.7, g0=0.5, g1=0.3, g8=0.2, g9=0.1)
    panel = made(replace(TINY, pairs=(SELF,), seeds=2), teacher=teacher, kd=kd)
    excess = 100 * (0.9 - kd)
    seed0 = excess[[0, 1]].mean() - excess[2:].mean()
    seed1 = excess[[8, 9]].mean() - excess[:8].mean()
    assert abs(seed0 - seed1) > 10
    np.testing.assert_allclose(findings.amplification(panel, "kd").observed, [seed0, seed1], atol=1e-9)


@pytest.mark.parametrize(("placebo", "holds"), [(0.7, "yes"), (but(0.7, few=0.2), "open"), (but(0.7, few=0.1), "no")])
def test_amplified_needs_more_than_the_placebo(placebo, holds):
    study = replace(TINY, pairs=(SELF,))
    panel = made(study, teacher=but(0.8, few=0.6), kd=but(0.7, few=0.2), placebo=placebo)
    assert held(card(panel, "F3"))["errors are amplified"] == holds


def test_errors_spread_evenly_are_not_amplified():
    panel = made(replace(TINY, pairs=(SELF,)), teacher=but(0.8, few=0.6), kd=but(0.6, few=0.6))
    assert held(card(panel, "F3"))["errors are amplified"] == "no"


def test_amplification_only_in_self_distillation():
    assert len(findings.transferred_and_amplified(made())) == 2
    assert len(findings.transferred_and_amplified(made(replace(TINY, pairs=(SELF,))))) == 3


# ---------------------------------------------------------------- F4

KD = {"one_hot": but(0.7, few=0.5), "placebo": but(0.7, few=0.5), "kd": but(0.8, few=0.2)}


def test_a_mitigation_that_keeps_the_average_and_lifts_the_few():
    verdicts = words(made(**KD, ada_alpha=but(0.8, few=0.5), ada_margin=but(0.4, few=0.1)))
    assert verdicts["F4 AdaAlpha"] == "reproduced"
    assert verdicts["F4 AdaMargin"] == "not reproduced"              # loses everywhere, yet never "contradicted"


def test_a_mitigation_that_pays_with_the_average():
    f4 = card(made(**KD, ada_alpha=but(0.6, few=0.5)), "F4 AdaAlpha")
    assert held(f4) == {"keeps the average": "no", "lifts the few bucket": "yes", "spares the few bucket": "yes"}
    assert f4["verdict"] == "partly reproduced"


def test_a_mitigation_that_does_not_lift_enough():
    f4 = card(made(**KD, ada_alpha=but(0.8, few=0.3)), "F4 AdaAlpha")
    assert held(f4) == {"keeps the average": "yes", "lifts the few bucket": "yes", "spares the few bucket": "no"}


@pytest.mark.parametrize(("method", "margin"), [("keeps the average", 1.0), ("spares the few bucket", 1.5)])
def test_margins_of_non_inferiority(method, margin):
    assert {"keeps the average": findings.AVERAGE_MARGIN, "spares the few bucket": findings.BUCKET_MARGIN}[method] == margin
    noiseless = replace(TINY, seeds=2)
    f4 = card(made(noiseless), "F4 AdaAlpha")                         # no difference at all: [0, 0]
    assert held(f4)[method] == "yes"


def test_no_difference_lifts_nothing():
    assert held(card(made(), "F4 AdaAlpha"))["lifts the few bucket"] == "open"


# ---------------------------------------------------------------- the bucket that decides

def on_val(few, rest=0.7, elsewhere=0.7):
    return lambda seed, split: (np.where(FEW, few, rest) if split == "val" else elsewhere)


@pytest.mark.parametrize(("few", "bucket"), [(0.1, "few"), (0.05, "few"), (0.0, "medium")])
def test_a_bucket_on_the_floor_decides_nothing(few, bucket):
    """Read on val, not on test: there one-hot is at 70 %."""
    panel = made(seeds=2, one_hot=on_val(few))
    assert panel.bucket_names[findings.verdict_bucket(panel)] == bucket
    assert findings.not_uniform(panel)[0].label == f"{bucket} loses"
    assert findings.mitigated(panel, "ada_alpha")[1].label == f"lifts the {bucket} bucket"


def test_only_the_many_are_above_the_floor():
    rest = np.where(np.arange(GROUPS) < 4, 0.5, 0)
    panel = made(seeds=2, one_hot=lambda seed, split: rest if split == "val" else 0.7)
    assert panel.bucket_names[findings.verdict_bucket(panel)] == "many"


def test_all_on_the_floor_leaves_only_the_average():
    panel = made(one_hot=on_val(0, 0))
    for cards in findings.pair_verdicts(panel), findings.placebo_verdicts(panel):
        assert [c["finding"] for c in cards] == ["F1", "F2", "F3", "F4"]
        assert cards[0]["verdict"] != "not testable"                  # the average needs no bucket
        assert {c["verdict"] for c in cards[1:]} == {"not testable"}
        for c in cards[1:]:
            assert c["sentence"] == "One-hot is below 5 % on val in every bucket: nothing can be harmed."


# ---------------------------------------------------------------- words

@pytest.mark.parametrize(("held", "word"), [
    (["yes"], "reproduced"), (["yes", "yes", "yes"], "reproduced"), (["no"], "contradicted"), (["open"], "inconclusive"),
    (["yes", "open"], "partly reproduced"), (["yes", "no"], "partly reproduced"), (["no", "open"], "contradicted"),
    (["open", "open"], "inconclusive")])
def test_verdict_word(held, word):
    parts = [Part("a", h, "") for h in held]
    assert verdict_word(parts, 2) == word
    assert verdict_word(parts, 1) == "not testable"
    assert verdict_word(parts, 2, reconstructed=True) == word.replace("contradicted", "not reproduced")


def test_cards_say_what_the_report_needs():
    for c in findings.pair_verdicts(made(shuffled=NOISE)):
        assert set(c) == {"study", "finding", "pair", "claim", "verdict", "sentence", "preliminary", "seeds", "planned", "parts"}
        assert c["pair"] == "cnn → cnn_small" and c["sentence"].endswith(".") and ".." not in c["sentence"]
        assert c["sentence"][0] == c["sentence"][0].upper() and "nan" not in c["sentence"].lower()


def test_the_placebo_reproduces_nothing():
    panel = made(shuffled=("placebo", "one_hot"), copies=("kd",), **HELPS_MANY_HARMS_FEW)
    cards = findings.placebo_verdicts(panel)
    assert [c["finding"] for c in cards] == ["F1", "F2", "F3", "F4"]
    assert "reproduced" not in {c["verdict"] for c in cards if c["finding"] != "F4"}
    assert "placebo changes the average by" in cards[0]["sentence"].lower()


def test_verdicts_of_a_study(monkeypatch):
    study = replace(TINY, pairs=(PAIR, SELF))
    monkeypatch.setitem(STUDIES, "tiny", study)
    with pytest.raises(KdlibError, match="study tiny has no complete seed on record; `python -m kdlib run tiny` makes them"):
        findings.verdicts("tiny")
    write_study(study, seeds=3, **HELPS_MANY_HARMS_FEW)
    assert findings.complete_seeds("tiny") == 3 and findings.at_hand() == ["digits", "tiny"]   # the same Configs
    cards = findings.verdicts("tiny")
    assert [c["pair"] for c in cards] == ["cnn → cnn_small"] * 5 + ["cnn_small → cnn_small"] * 5
    assert {c["seeds"] for c in cards} == {3} and all(c["preliminary"] for c in cards)
    assert {c["seeds"] for c in findings.verdicts("tiny", 2)} == {2}
    assert list(findings.short(cards).columns) == ["finding", "pair", "verdict", "numbers"]


def test_the_answer_of_the_readme(monkeypatch):
    for name in reversed(list(STUDIES)):   # so that undoing it keeps their order
        monkeypatch.delitem(STUDIES, name)
    monkeypatch.setitem(STUDIES, "tiny", replace(TINY, demonstration=True))
    write_study(TINY, seeds=3, **HELPS_MANY_HARMS_FEW)
    nothing, svg = readme.answer()
    assert nothing.startswith("No study is on record yet; `make report` shows the demonstration.\n") and svg is None
    assert anchors.markdown() in nothing
    monkeypatch.setitem(STUDIES, "tiny", replace(TINY, demonstration=False))
    answer, svg = readme.answer()
    assert "](docs/answer.svg)" in answer and svg.startswith(b"<?xml")
    assert "Tiny (`tiny`), 3 of 4 planned seeds, preliminary:" in answer
    assert "| F1 | cnn → cnn_small | **reproduced** | *average gain: yes* (distillation changes the average by +10.0 points" in answer
    assert answer.count("\n| F") == 5 and answer.count("\n| **F") == 5    # in words, and short
    average = interval(*panels("tiny")[0].gain("kd").map(lambda groups: groups.mean(axis=-1)))
    assert (f"| **F1** {findings.CLAIMS['F1']} | **reproduced**<br>average gain: yes, "
            f"+{average.estimate:.1f} (+{average.low:.1f} to +{average.high:.1f}) |\n") in answer.replace("\u00a0", " ")
    methods = {**TINY.methods, "kd_tuned": {"method": "kd", "alpha": 0.5}}
    rivals = replace(TINY, name="tiny-rivals", kind="rivals", methods=methods, demonstration=False)
    monkeypatch.setitem(STUDIES, "tiny-rivals", rivals)
    write_study(rivals, seeds=2, **HELPS_MANY_HARMS_FEW)
    answer, _ = readme.answer()
    assert "(`tiny-rivals`), 2 of 4 planned seeds, preliminary:\n\n- cnn → cnn_small: no other method has both" in answer


def test_a_correlation_of_ties_is_not_called_one_seed():
    f3 = card(made(), "F3")
    assert held(f3)["margin predicts gain"] == "open" and f3["verdict"] == "inconclusive"
    assert "gain: not defined (every value tied, or nothing to count)" in f3["sentence"]
    assert "one seed" not in f3["sentence"] and "nan" not in f3["sentence"]


def test_numbers_have_a_real_minus_and_a_unit():
    assert findings.number(-1.25) == "−1.2 points" and findings.number(0.5, "", 2) == "+0.50"
