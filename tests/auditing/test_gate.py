"""The gate: conditions, their three states, an earlier audit, Markdown and JUnit for CI."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import mistune
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looking import Document

import kdlib
from kdlib.auditing import ci, gate, page
from kdlib.auditing.facts import Earlier, earlier, facts
from kdlib.auditing.verdicts import Judgement, Verdict, judge, why_unknown
from kdlib.config import KdlibError
from kdlib.evidence.stats import Interval
from kdlib.reading.sentences import AuditError, printable

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "kdlib/auditing/audit.schema.json").read_text())
NAMES = ["cat", "big truck", "sex=f & m", "age (60, 70]", '"quoted"', "@me|<b>`x`\\|"]
ROLES = ("teacher", "student", "baseline")


def world(n=600, seed=0, hurt=(3, 5)):
    """(labels, {role: logits}) of six classes, of which the student loses two."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % len(NAMES)
    logits = {
        role: rng.normal(size=(n, len(NAMES))) + by * np.eye(len(NAMES))[y]
        for role, by in zip(ROLES, (3, 2, 2), strict=True)
    }
    lost = np.isin(y, hurt)
    logits["student"][lost] -= 3 * np.eye(len(NAMES))[y][lost]
    return y, logits


@pytest.fixture(scope="module")
def made():
    return world()


@pytest.fixture(scope="module")
def audited(made):
    y, logits = made
    return kdlib.audit(y, **logits, classes=NAMES, resamples=50)


@pytest.fixture(scope="module")
def alone(made):
    """Without a baseline: no group is called harmed."""
    y, logits = made
    return kdlib.audit(y, logits["teacher"], logits["student"], classes=NAMES, resamples=20)


def one(found, text, against=None):
    """The Verdict of one condition."""
    [verdict] = judge(found, [text], against).verdicts
    return verdict


def gains(y, logits):
    """{name: gain in points} by the definition."""
    right = {role: scores.argmax(axis=1) == y for role, scores in logits.items()}
    return {
        name: 100 * (right["student"][y == c].mean() - right["baseline"][y == c].mean())
        for c, name in enumerate(NAMES)
    }


# ---------------------------------------------------------------- how a condition is written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("groups_harmed > 0", ("groups_harmed", "estimate", None, False, False, ">", 0)),
        ("average_gain.high<0", ("average_gain", "high", None, False, False, "<", 0)),
        ("gain[group=truck] < -2", ("gain", "estimate", "truck", False, False, "<", -2)),
        ("gain[ group = big truck ].low >= 1", ("gain", "low", "big truck", False, False, ">=", 1)),
        ("gain[group=sex=f] < 0", ("gain", "estimate", "sex=f", False, False, "<", 0)),
        ("gain[group=a[0] < 0", ("gain", "estimate", "a[0", False, False, "<", 0)),
        ('q[group="(0, 1]"] <= .05', ("q", "estimate", "(0, 1]", False, False, "<=", 0.05)),
        ('n[group="a \\"b\\" \\n"] < 9', ("n", "estimate", 'a "b" \n', False, False, "<", 9)),
        ("any gain.high < 0", ("gain", "high", None, True, False, "<", 0)),
        ("any\tgain\n<\n-5", ("gain", "estimate", None, True, False, "<", -5)),
        ("change(average_gain) < -1", ("average_gain", "estimate", None, False, True, "<", -1)),
        ("change( gain[group=a] ) < -1", ("gain", "estimate", "a", False, True, "<", -1)),
        ("any change(student) < -1", ("student", "estimate", None, True, True, "<", -1)),
    ],
)
def test_a_condition_says_what_it_asks(text, expected):
    assert dataclasses.astuple(gate.condition(text))[1:] == expected


@pytest.mark.parametrize(
    "text", ["-.5", "-1e-3", "+2", "−3", "5.", "1E+2", "0.25", "+.5e-1", "1000000", "−1.5e−2"]
)
def test_every_way_to_write_a_number_is_one(text):
    asked = gate.condition(f"overall_gain < {text}")
    assert asked.number == float(text.replace("−", "-"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worst_bucket_gian < 1", "did you mean 'worst_bucket_gain'"),
        ("gian[group=a] < 1", "did you mean 'gain'\\? Allowed: gain, teacher, student"),
        ("any gian < 1", "did you mean 'gain'"),
        ("gain < 1", "gain belongs to a group; write gain\\[group=NAME\\], or any gain"),
        ("any average_gain < 1", "allowed are gain, teacher"),
        ("p[group=a] < 0.05", "allowed are gain"),
        ("finding[group=a] < 1", "allowed are gain"),
        ("any gain[group=a] < 1", "leave out one of them"),
        ("change(average_gain.high) < 1", "the interval of a change is not known"),
        ("groups_harmed.low < 1", "has no interval"),
        ("student_log_loss.low < 1", "has no interval"),
        ("student[group=a].low < 1", "has no interval"),
        ('gain[group="\\x"] < 1', "not a valid JSON string"),
        ('gain[group="\n\\x"] < 1', "not a valid JSON string"),
        *(
            (text, "must be a metric")
            for text in (
                "",
                "overall_gain",
                "overall_gain < x",
                "overall_gain < nan",
                "overall_gain < 1e999",
                f"overall_gain < {'9' * 400}",
                "overall_gain < \u0661",
                "overall_gain < .",
                "overall_gain < 1e",
                "overall_gain < --1",
                "overall_gain == 1",
                "overall_gain <> 1",
                "1 < overall_gain",
                "overall_gain < 1 or 1",
                "overall_gain < 1; 2",
                "overall_gain.mid < 1",
                "gain[truck] < 1",
                "gain[group=] < 1",
                "gain[group=a]b] < 1",
                'gain[group="a] < 1',
                "change(average_gain < 1",
                "change average_gain < 1",
                "anygain < 1)",
                "<script> < 1",
                "a\n< 1 \udcff",
            )
        ),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(text, words):
    with pytest.raises(KdlibError, match=words) as refused:
        gate.condition(text)
    assert str(refused.value).startswith(f"--fail-if {text!r}: ") and "\n" not in str(refused.value)


PART = st.sampled_from(["overall_gain", "gain", "any", "change(", ")", "[group=", "a", "]", '"'])
PART |= st.sampled_from([".low", ".high", ".mid", "<", "<=", ">", "==", "-", "−", ".5", "1e", "9"])


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=30) | st.lists(PART | st.just(" "), max_size=12).map("".join))
def test_a_condition_is_understood_or_refused(text):
    try:
        asked = gate.condition(text)
    except KdlibError as error:
        assert "\n" not in str(error) and "--fail-if" in str(error)
    else:
        assert asked.name in (gate.COLUMNS if asked.of_groups else gate.METRICS)
        assert np.isfinite(asked.number) and asked.comparison in text


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(name=st.text(min_size=1, max_size=30))
def test_any_name_of_a_group_can_be_asked_in_double_quotes(name):
    assert gate.condition(f"gain[group={json.dumps(name)}].high < 0").group == name
    assert gate.condition(f"gain[group={json.dumps(name, ensure_ascii=False)}] < 0").group == name
    assert gate.condition(f"gain[group={gate.written(name)}] < 0").group == name


@pytest.mark.parametrize("begin", ["overall_gain < ", "gain[group=", 'gain[group="', "any ", "\\"])
@pytest.mark.parametrize("part", ["1", " ", "\\", "a", '"', "change("])
def test_a_condition_however_long_is_refused_at_once(begin, part):
    start = time.process_time()
    with pytest.raises(KdlibError):
        gate.condition(begin + part * 30_000 + "e")
    assert time.process_time() - start < 5


def test_an_end_is_asked_of_what_has_an_interval_and_of_nothing_else(audited):
    for name, value in audited.metrics.items():
        if isinstance(value, Interval):
            assert gate.condition(f"{name}.low < 0").bound == "low"
        else:
            with pytest.raises(KdlibError, match="has no interval"):
                gate.condition(f"{name}.low < 0")
    assert {"student_copies", "copied_excess"} <= set(audited.metrics)
    assert set(audited.metrics) <= set(gate.METRICS)


def test_every_column_that_can_be_asked_is_one_of_the_groups_table(audited):
    ends = {end for of in gate.ENDS.values() for end in of.values()}
    asked = {*gate.COLUMNS, *ends}
    assert asked <= set(audited.groups.columns)
    # p is not corrected for the number of groups; the others are words
    assert set(audited.groups.columns) - asked == {"group", "p", "finding", "bucket"}


# ---------------------------------------------------------------- met and not met


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("overall_gain < 100", "met"),
        ("overall_gain>=100", "not met"),
        ("average_gain.high <= -50", "not met"),
        ("groups_harmed > 1", "met"),
        ("groups_harmed > 2", "not met"),
        ("average_gain.low > -99.5", "met"),
        (" overall_gain  <  −1e3", "not met"),
        ("student_copies > 100", "not met"),
        ("copied_excess > -1e2", "met"),
        ("gain[group=age (60, 70] < 0", "unknown"),
        ("n[group=cat] >= 100", "met"),
        ("n[group=cat] > 100", "not met"),
    ],
)
def test_a_metric_meets_its_condition_or_does_not(audited, text, state):
    assert one(audited, text).state == state


def test_a_condition_can_ask_for_warnings_and_what_is_0_but_for_rounding_is_not_below(made):
    y, logits = made
    shuffled = np.random.default_rng(0).permutation(logits["student"])
    a = kdlib.audit(y, logits["teacher"], shuffled, logits["baseline"], resamples=2)
    assert a.warnings and a.metrics["warnings"] == len(a.warnings)
    states = [v.state for v in judge(a, ["warnings > 0", "warnings > 9"]).verdicts]
    assert states == ["met", "not met"]
    right = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]).repeat([7, 5, 7], axis=1)
    three = [np.where(r, y[:19], y[:19] + 1) for r in right]
    same = kdlib.audit(y[:19], three[0], three, three[::-1], groups=np.zeros(19), resamples=2)
    assert same.groups.gain[0] == 0
    assert [v.state for v in judge(same, ["any gain < 0"]).verdicts] == ["not met"]


def test_of_a_group_the_value_is_that_of_the_definition(audited, made):
    for name, gain in gains(*made).items():
        verdict = one(audited, f"gain[group={json.dumps(name)}] < {gain + 0.001}")
        assert verdict.value == pytest.approx(gain, abs=1e-9) and verdict.state == "met"
        assert one(audited, f"gain[group={json.dumps(name)}] < {gain - 0.001}").state == "not met"
    row = audited.groups.iloc[1]
    for text, value in (
        ("gain[group=big truck].low < 0", row.low),
        ("gain[group=big truck].high < 0", row.high),
        ("teacher_margin[group=big truck].low > 2", row.margin_low),
        ("student_log_loss[group=big truck] > 9", row.student_log_loss),
        ("student[group=big truck] < 0", row.student),
    ):
        assert one(audited, text).value == value


def test_any_group_is_the_groups_one_by_one(audited):
    table = audited.groups.set_index("group")
    for limit in (-200, -60, -30, -5, 0, 5, 200):
        for column, text in (("gain", "any gain"), ("high", "any gain.high")):
            below = table.index[table[column] < limit]
            verdict = one(audited, f"{text} < {limit}")
            assert verdict.state == ("met" if len(below) else "not met")
            assert verdict.value == table[column].min()
            assert one(audited, f"{text} > {limit}").value == table[column].max()
            assert len(below) == int((re.findall(r"met by (\d+)", verdict.why) or [0])[0])


def test_what_meets_any_is_named_the_farthest_first(audited):
    order = list(audited.groups.sort_values("gain").group)
    verdict = one(audited, "any gain < 200")
    said = [printable(name, 40) for name in order[:3]]
    assert verdict.why.startswith(f"met by 6 groups: {said[0]} (−")
    assert verdict.why.endswith(" and 3 more") and [verdict.why.index(name) for name in said]
    last = one(audited, "any gain > -200").why
    assert last.startswith(f"met by 6 groups: {printable(order[-1], 40)} (")
    lowest = audited.groups.gain.nsmallest(2).mean()
    assert (
        one(audited, f"any gain < {lowest}").why
        == f"met by 1 group: {said[0]} (−{abs(audited.groups.gain.min()):.3g})"
    )


def test_what_is_no_test_is_said_beside_it(audited):
    assert "An estimate is not a test" in one(audited, "gain[group=cat] < -2").note
    assert "An estimate is not a test" in one(audited, "any gain < -2").note
    # 1 - 0.975^6
    assert "in up to 14 % of audits of 6 groups" in one(audited, "any gain.high < 0").note
    assert "in up to 14 % of audits of 6 groups" in one(audited, "any gain.low > 0").note
    for text in ("groups_harmed > 0", "gain[group=cat].high < 0", "any q < 0.05", "any n < 30"):
        assert one(audited, text).note == ""


# ---------------------------------------------------------------- unknown


def test_without_a_baseline_a_condition_is_unknown_and_the_reason_is_said(alone):
    for text, why in (
        (
            "groups_harmed > 0",
            "there is no baseline; groups_worse compares with the teacher instead",
        ),
        (
            "groups_helped > 0",
            "there is no baseline; groups_better compares with the teacher instead",
        ),
        ("copied_excess > 1", "there is no baseline"),
        ("baseline_accuracy < 1", "there is no baseline"),
        ("baseline_log_loss < 1", "there is no baseline"),
        ("baseline[group=cat] < 1", "there is no baseline"),
        ("any baseline_overconfidence > 1", "there is no baseline"),
        ("any n_train < 1", "no training counts were given"),
    ):
        verdict = one(alone, text)
        assert (verdict.state, verdict.value, verdict.why) == ("unknown", None, why)
    assert "groups_worse > 0 is corrected" in one(alone, "any gain.high < 0").note


def test_every_other_reason_why_a_value_is_unknown(audited, made):
    y, logits = made
    classes = {role: scores.argmax(axis=1) for role, scores in logits.items()}
    bare = kdlib.audit(y, **classes, groups=y % 2, resamples=20)
    for text, why in (
        ("worst_bucket_gain < 1", "at least 3 groups are needed; this audit has 2"),
        ("margin_gain_correlation < 1", "at least 3 groups are needed; this audit has 2"),
        ("student_log_loss > 1", "only predicted classes were given for the student"),
        ("teacher_calibration_error > 1", "only predicted classes were given for the teacher"),
        ("any student_overconfidence > 1", "only predicted classes were given for the student"),
        ("gain[group=7] < 1", "there is no such group"),
    ):
        assert (one(bare, text).state, one(bare, text).why) == ("unknown", why)
    assert one(audited, "gain[group=bug truck] < 1").why.endswith(
        "; did you mean [group=big truck]?"
    )
    asked = one(audited, "gain[group=age (60, 70] < 0").why
    assert asked.endswith('; did you mean [group="age (60, 70]"]?')
    perfect = kdlib.audit(y, y, *(classes[role] for role in ROLES[1:]), resamples=20)
    assert "the teacher never errs" in why_unknown(perfect, "copied_excess")
    assert why_unknown(audited, "groups_worse").startswith("gains are over the baseline; groups_ha")


def test_a_value_that_is_no_number_is_unknown_but_cannot_hide_a_group_that_meets(audited):
    table = audited.groups.copy()
    table.loc[0, "gain"] = np.nan
    broken = dataclasses.replace(audited, groups=table)
    assert one(broken, "gain[group=cat] < 200").state == "unknown"
    assert one(broken, "any gain < 200").state == "met"
    verdict = one(broken, "any gain < -200")
    assert (verdict.state, verdict.why) == ("unknown", "not known in 1 group: cat")
    infinite = dataclasses.replace(audited, metrics=audited.metrics | {"student_log_loss": np.inf})
    assert one(infinite, "student_log_loss > 1").state == "unknown"


@pytest.mark.parametrize(
    ("states", "code", "said"),
    [
        ([], 0, "The gate passes: 0 of 0 conditions are met."),
        (["not met"], 0, "The gate passes: 0 of 1 condition is met."),
        (["met"], 1, "The gate fails: 1 of 1 condition is met."),
        (["unknown", "not met"], 3, "The gate is undecided: 0 of 2 conditions are met, 1 unknown."),
        (["unknown", "met", "met"], 1, "The gate fails: 2 of 3 conditions are met, 1 unknown."),
    ],
)
def test_what_is_met_fails_and_what_is_unknown_decides_only_where_nothing_is_met(
    states, code, said
):
    judged = Judgement(tuple(Verdict("x", state, 0.0) for state in states))
    assert (judged.code, judged.said()) == (code, said)


# ---------------------------------------------------------------- an earlier audit


@pytest.fixture(scope="module")
def before(audited, tmp_path_factory):
    """The Earlier of an audit of the same examples whose student was another one."""
    y, logits = world(hurt=(0, 1))
    found = kdlib.audit(y, **logits, classes=NAMES, resamples=20)
    _, file, _ = found.save(tmp_path_factory.mktemp("before") / "before.html")
    return earlier(file)


def test_a_change_is_now_minus_then(audited, made, before):
    now, then = gains(*made), gains(*world(hurt=(0, 1)))
    for name in NAMES:
        verdict = one(audited, f"change(gain[group={json.dumps(name)}]) < -20", before)
        assert verdict.value == pytest.approx(now[name] - then[name], abs=1e-9)
        assert verdict.state == ("met" if now[name] - then[name] < -20 else "not met")
    verdict = one(audited, "any change(gain) < -20", before)
    assert verdict.value == pytest.approx(min(now[name] - then[name] for name in NAMES))
    assert verdict.why.startswith("met by 2 groups: ")
    mean = np.mean(list(now.values())) - np.mean(list(then.values()))
    assert one(audited, "change(average_gain) < 0", before).value == pytest.approx(mean, abs=1e-4)
    assert "without an interval" in verdict.note
    assert one(audited, "change(groups_harmed) > 0", before).value == 0


def test_without_an_earlier_audit_a_change_cannot_be_asked(audited):
    with pytest.raises(KdlibError, match="needs the JSON file of an earlier audit, --against FILE"):
        judge(audited, ["change(average_gain) < -1"])


def spoilt(before, **changes):
    return Earlier("before.json", "", before.facts | changes)


def test_what_one_of_two_audits_lacks_is_unknown(audited, before):
    def rows(change):
        return spoilt(before, groups=[change(dict(row)) for row in before.facts["groups"]])

    less = spoilt(before, groups=before.facts["groups"][1:], metrics={"overall_gain": None})
    for text, why in (
        ("change(gain[group=cat]) < 0", "before.json has no such value of 1 group: cat"),
        ("any change(gain) < -1e3", "before.json has no such value of 1 group: cat"),
        ("change(average_gain) < 0", "before.json has other groups"),
        ("change(groups_harmed) > 0", "before.json has other groups"),
        ("change(overall_gain) < 0", "before.json has no such value"),
        ("change(gain[group=none]) < 0", "there is no such group"),
    ):
        verdict = one(audited, text, less)
        assert (verdict.state, verdict.value is None, verdict.why) == (
            "unknown",
            "any" not in text,
            why,
        )
    table = audited.groups.copy()
    table.loc[0, "gain"] = np.nan
    broken = dataclasses.replace(audited, groups=table)
    assert (
        one(broken, "change(gain[group=cat]) < 0", before).why
        == "it cannot be told from these inputs"
    )
    assert one(broken, "any change(gain) < -1e3", before).why == "not known in 1 group: cat"
    more = spoilt(before, groups=[*before.facts["groups"], {"group": "gone", "gain": 3}])
    verdict = one(audited, "any change(gain) < -1e3", more)
    assert (verdict.state, verdict.why) == ("unknown", "in 1 group: gone, of before.json alone")
    assert one(audited, "any change(gain) < 1e3", more).state == "met"
    for value in (None, "7", [], True, 10**400):
        odd = rows(lambda row, value=value: row | {"gain": value})
        assert one(audited, "change(gain[group=cat]) < 0", odd).state == "unknown"


def test_two_audits_that_are_not_of_the_same_examples_are_said_to_be_so(audited, alone, before):
    assert len(judge(audited, [], before).cautions) == 1
    assert judge(audited, []).cautions == ()
    labels = [{"role": "labels", "name": "y", "sha256": "0"}]
    here = dataclasses.replace(audited, inputs=(("labels", "y.npy", "1"),))
    other = spoilt(before, examples=7, classes=3, inputs=labels, worst_k=2)
    first, *more = judge(here, [], other).cautions
    assert "before.json" in first and "same examples" in first
    assert more == [
        "It has 7 examples, this one 600.",
        "It has 3 classes, this one 6.",
        "The two files of labels differ.",
        "Its worst-k metrics take another number of groups.",
    ]
    verdict = judge(here, ["change(overall_gain) < 9"], other).verdicts[0]
    assert (verdict.state, verdict.why) == ("unknown", "before.json has other examples or labels")
    judged = judge(alone, ["change(average_gain) < 1", "change(student_average) < 1"], before)
    assert "so changes of gains are unknown" in judged.cautions[-1]
    gain, accuracy = judged.verdicts
    assert gain.state == "unknown" and gain.why.endswith("are over the baseline")
    assert accuracy.state == "met"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"cannot be read \(No such file"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b"[1]", "is not a JSON file that an audit has written"),
        (b"{}", "is not a JSON file that an audit has written"),
        (b'{"schema": 2}', "has format version 2; only version 1 can be read"),
        (b'{"schema": 1}', "has no examples"),
        (b'{"schema": 1, "examples": 1, "classes": 2, "reference": "teacher", "inputs": [], '
         b'"metrics": {}, "groups": [{}]}', "one of its groups has no name"),
    ],
)  # fmt: skip
def test_what_is_no_earlier_audit_is_one_sentence(tmp_path, content, words):
    file = tmp_path / "before.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AuditError, match=words) as refused:
        earlier(file)
    assert str(refused.value).startswith(f"--against {file}: ")


# ---------------------------------------------------------------- JSON and page


@pytest.mark.parametrize(
    "case", ["all", "no baseline", "classes", "two groups", "seeds", "overlap", "a bad teacher"]
)
def test_json_is_as_the_schema_says_and_says_all(case, audited, made, before):
    y, logits = made
    t, s, b = (logits[role] for role in ROLES)
    found = {
        "all": lambda: audited,
        "no baseline": lambda: kdlib.audit(y, t, s, resamples=20),
        "classes": lambda: kdlib.audit(y, *(x.argmax(axis=1) for x in (t, s, b)), resamples=20),
        "two groups": lambda: kdlib.audit(y, t, s, b, groups=y % 2, resamples=20),
        "seeds": lambda: kdlib.audit(y, *([x, x + 0.1] for x in (t, s, b)), resamples=20),
        "a bad teacher": lambda: kdlib.audit(y, -t, s, b, resamples=20),
        "overlap": lambda: kdlib.audit(
            y, t, s, b, groups=np.column_stack([y < 4, y > 2]), resamples=20
        ),
    }[case]()
    texts = ["overall_gain < 100", "overall_gain > 100", "gain[group=none] < 0", "any gain < 0"]
    judged = judge(found, [*texts, "change(overall_gain) < 0"], before)
    again = json.loads(json.dumps(facts(found, judged), allow_nan=False))
    jsonschema.validate(again, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert [row["group"] for row in again["groups"]] == list(found.groups.group)
    assert again["limits"] == [*found.cautions(), *found.limits]
    assert set(again["metrics"]) == set(found.metrics) <= set(gate.METRICS)
    assert [row["met"] for row in again["fail_if"]][:3] == [True, False, None]
    assert [row["state"] for row in again["fail_if"]][:3] == ["met", "not met", "unknown"]
    assert again["against"]["sha256"] == before.sha256 and again["against"]["cautions"]
    jsonschema.validate(
        json.loads(json.dumps(facts(found))), SCHEMA, cls=jsonschema.Draft202012Validator
    )


def test_the_schema_refuses_what_is_not_said(audited):
    for spoil in (
        lambda f: f.pop("groups"),
        lambda f: f["groups"][0].update(finding="hurt"),
        lambda f: f.update(more=1),
        lambda f: f["metrics"].update(average_gain="much"),
        lambda f: f["groups"][0].update(ada_alpha=1.5),
        lambda f: f["fail_if"][0].update(state="perhaps"),
        lambda f: f["fail_if"][0].pop("why"),
    ):
        held = json.loads(json.dumps(facts(audited, judge(audited, ["any gain < 0"]))))
        spoil(held)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(held, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_page_says_state_reason_note_and_the_earlier_audit(audited, before):
    texts = ["any gain.high < 0", 'gain[group="@me|<b>`x`\\\\|"] < 200', "gain[group=\u202e] < 0"]
    document = Document(page.page(audited, judge(audited, texts, before)))
    words = " ".join(words for words, _ in document.all("li"))
    for part in (
        "met; the value is",
        "met by 2 groups: ",
        "in up to 14 % of audits of 6 groups",
        "<b>`x`",
        "unknown; there is no such group",
        "gain[group=\\u202e]",
    ):
        assert part in words, part
    said = " ".join(words for words, _ in document.all("p"))
    assert "The gate fails: 2 of 3 conditions are met, 1 unknown." in said
    assert "before.json" in said and "same examples" in said


# ---------------------------------------------------------------- Markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b",
    "a \\| b \\",
    "`code` ``more`` `",
    "``",
    "@everyone and @octo-cat",
    "me@example.org",
    "https://evil.example www.evil.example",
    "[here](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "**bold** _under_ ~~gone~~",
    "# heading",
    "- item",
    "a\n| b | c |\n",
    "#12 $\\frac{1}{2}$",
    "&lt;b&gt; &amp;",
    "\u202egpj.exe \x1b[31m nul\0",
    "<!-- hidden",
    "```\nfence",
]


def rendered(markdown):
    """HTML by a parser of GitHub's tables, links and strike-through."""
    plugins = ["table", "url", "strikethrough", "task_lists"]
    return mistune.create_markdown(escape=False, plugins=plugins)(markdown)


def seen(html):
    """Text of a Document without the spaces that have no width."""
    return html.replace("\u200b", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_data_stay_text_in_markdown(name):
    line = printable(name, None)
    table = ci.table(["name", "again"], [[ci.cell(name), ci.prose(name)]])
    lines = [f"Text {ci.prose(name)}.", "", f"- {ci.prose(name)}", "", *table, "", ci.code(name)]
    document = Document(rendered("\n".join(lines)))
    tags = {tag for tag, _, _ in document.tags}
    assert tags <= {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code"}, tags
    cells = [seen(words) for words, _ in document.all("td")]
    assert (
        cells == [line, line]
        or [" ".join(cell.split()) for cell in cells] == [" ".join(line.split())] * 2
    )
    assert " ".join(line.split()) in " ".join(seen(document.all("li")[0][0]).split())
    # a mention, an address or an issue that GitHub would find in text, outside of code
    for words, _ in [*document.all("li"), document.all("td")[1]]:
        assert not re.search(r"@\w|#\d|://|www\.", words)


def test_the_summary_has_headline_gate_groups_and_what_was_read(audited, before):
    found = dataclasses.replace(
        audited,
        title="Night *run* <b>",
        read=("6 classes | cat … @me.",),
        warnings=("the student is near chance: same order?",),
    )
    judged = judge(found, ["groups_harmed > 0", "any gain < -5", "gain[group=x|y] < 0"], before)
    text = ci.summary(found, judged, "audit.html")
    document = Document(rendered(text))
    headings = [words for tag in ("h2", "h3") for words, _ in document.all(tag)]
    assert headings == [
        "Night *run* <b>",
        "The gate fails: 2 of 3 conditions are met, 1 unknown",
        "Groups worse, gain over the baseline",
        "What was read",
    ]
    rows = [words for words, _ in document.all("td")]
    assert rows[:3] == ["groups_harmed > 0", "met", "2"]
    assert rows[8:12] == ["gain[group=x|y] < 0", "unknown", "–", "there is no such group"]
    assert {seen(rows[12]), seen(rows[16])} == {NAMES[3], NAMES[5]}
    text = seen(" ".join(words for words, _ in document.all("p") + document.all("li")))
    for part in (
        found.headline()[0].replace("\xa0", " "),
        "Warning: the student is near chance",
        "before.json",
        "An estimate is not a test",
        "6 classes | cat … @me.",
        "audit.html",
    ):
        assert part in text, part


def test_the_summary_lists_ten_groups_at_most_and_those_that_lose_most():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 2600)
    group = np.arange(2600) % 13
    scores = {role: rng.normal(size=(2600, 3)) + 4 * np.eye(3)[y] for role in ROLES}
    worse = np.arange(2600) % 130 < 13 + group * 6
    scores["student"][worse] -= 9 * np.eye(3)[y][worse]
    found = kdlib.audit(y, **scores, groups=group, resamples=20)
    assert found.metrics["groups_harmed"] > 10
    text = ci.summary(found, Judgement(), "audit.html")
    assert f"(first 10 of {found.metrics['groups_harmed']})" in text and "gate" not in text
    rows = re.findall(r"^\| `(\d+)` \|", text, re.M)
    assert rows == list(found.groups.sort_values(["gain", "group"]).group[:10])
    none = dataclasses.replace(found, groups=found.groups.assign(finding=""))
    assert "harmed, gain" not in ci.summary(none, Judgement(), "a")
    worse = found.groups.assign(finding=found.groups.finding.replace("harmed", "worse"))
    alone = dataclasses.replace(found, groups=worse, reference="teacher")
    said = ci.summary(alone, Judgement(), "a")
    assert "### Groups worse, gain over the teacher (first 10" in said


# ---------------------------------------------------------------- JUnit


def test_junit_counts_failures_and_errors_and_names_every_condition(audited):
    texts = ["groups_harmed > 0", "groups_harmed > 9", "gain[group=none] < 0", "any gain < -5"]
    judged = judge(audited, texts)
    root = ET.fromstring(ci.junit(judged, 1.5))
    [suite] = root
    for element in (root, suite):
        numbers = [element.get(name) for name in ("tests", "failures", "errors")]
        assert numbers == ["4", "2", "1"]
        assert element.get("name") == "kdlib audit" and float(element.get("time")) == 1.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    assert suite.get("skipped") == "0" and root.tag == "testsuites" and suite.tag == "testsuite"
    cases = list(suite)
    assert [case.get("name") for case in cases] == texts
    assert all(case.tag == "testcase" and case.get("classname") for case in cases)
    assert all(float(case.get("time")) == 0 for case in cases)
    assert [[part.tag for part in case] for case in cases] == [
        ["failure"],
        [],
        ["error"],
        ["failure"],
    ]
    assert cases[0][0].get("message") == "met: the value is 2"
    assert cases[2][0].get("message") == "unknown: there is no such group"
    assert cases[3][0].text.startswith("An estimate is not a test")


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=40))
def test_junit_is_xml_whatever_the_text(text):
    judged = Judgement(
        (Verdict(text, "met", 1.0, text, text), Verdict(text, "unknown", None, text))
    )
    written = ci.junit(judged, 0).encode()
    case = ET.fromstring(written).find(".//testcase")
    assert case.get("name") == printable(text, None)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    y, logits = world(120)
    np.save(folder / "y.npy", y)
    for role, scores in logits.items():
        np.save(folder / f"{role}.npy", scores)
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


USUAL = {"--classes": ["names.txt"]}
BASELINE = ("--baseline", "baseline.npy")
WRITTEN = ("audit.html", "audit.json", "audit.csv", "s.md", "j.xml")
HARM = ("--fail-if", "groups_harmed > 0")


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (["overall_gain > 100"], 0),
        (["overall_gain < 100", "overall_gain > 100"], 1),
        (["gain[group=none] < 0", "overall_gain > 100"], 3),
        (["gain[group=none] < 0", "overall_gain < 100"], 1),
    ],
)
def test_exit_codes_a_line_for_each_condition_and_every_file(command, tmp_path, conditions, code):
    words = [word for text in conditions for word in ("--fail-if", text)]
    got, out, err = command(*BASELINE, *words, "--summary", "s.md", "--junit", "j.xml")
    assert got == code and "audit.html, audit.json, audit.csv" in out.splitlines()
    lines = [line for line in (out + err).splitlines() if line.startswith("kdlib: condition ")]
    assert len(lines) == len(conditions)
    assert len(err.splitlines()) == sum("condition not met" not in line for line in lines)
    for text, row in zip(
        conditions, json.loads(Path("audit.json").read_text())["fail_if"], strict=True
    ):
        assert any(line.startswith(f"kdlib: condition {row['state']}: {text}; ") for line in lines)
    assert all((tmp_path / name).stat().st_size > 100 for name in WRITTEN)
    assert len(ET.parse("j.xml").findall(".//testcase")) == len(conditions)
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fail-if", "overall_gian < 1"], "did you mean 'overall_gain'"),
        (["--fail-if", "change(overall_gain) < 1"], "needs the JSON file of an earlier audit"),
        (["--gate", "gate.txt"], "gate.txt, line 4: 'overall_gian < 1': did you mean"),
        (["--gate", "change.txt"], "change.txt, line 1: 'change(overall_gain) < 1': needs"),
        (["--gate", "empty.txt"], "--gate empty.txt: contains no conditions."),
        (["--gate", "bytes.txt"], "--gate bytes.txt: cannot be read"),
        (["--gate", "nope.txt"], "--gate nope.txt: cannot be read (No such file"),
        (["--gate", "."], "--gate .: cannot be read"),
        (["--against", "y.npy"], "--against y.npy: is not valid JSON"),
        (["--junit", "j.xml"], "there are no conditions to report"),
        (["--summary", "-"], "--summary -: must be the name of a file"),
        (["--summary", "."], "no ordinary file"),
        (["--summary", "/dev/null"], "no ordinary file"),
        (["--summary", "y.npy"], "--summary y.npy: would write over what this audit reads"),
        (["--summary", "names.txt"], "would write over what this audit reads"),
        (["--summary", "x/../audit.json"], "would write over what --out writes"),
        ([*HARM, "--junit", "good.txt", "--gate", "good.txt"], "this audit reads"),
        ([*HARM, "--junit", "s.md", "--summary", "s.md"], "--summary writes"),
        (["--against", "audit.json"], "would write over audit.json, which this audit reads"),
        (["--summary", "y.npy/s.md"], "cannot be written"),
        (["--summary", "a" * 300], "cannot be written"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    command, tmp_path, monkeypatch, options, words
):
    monkeypatch.setattr(page, "page", lambda *_: "")
    (tmp_path / "gate.txt").write_text("# ours\n\noverall_gain < 100\noverall_gian < 1\n")
    (tmp_path / "change.txt").write_text("change(overall_gain) < 1")
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "good.txt").write_text("overall_gain > 100\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "audit.json").write_text(json.dumps(SMALLEST))
    kept = {file: file.read_bytes() for file in tmp_path.iterdir() if file.suffix != ".json"}
    code, out, err = command(*options)
    assert code == 2 and "points" not in out and err.count("\n") == 1 and words in err
    assert printable(err[:-1], None) == err[:-1]
    assert all(file.read_bytes() == content for file, content in kept.items())


SMALLEST = {"schema": 1, "examples": 1, "classes": 2, "reference": "teacher"}
SMALLEST |= {"inputs": [], "metrics": {}, "groups": []}


def test_conditions_from_a_file_come_after_those_of_the_line(command, tmp_path):
    (tmp_path / "gate.txt").write_text(
        "\ufeff# ours\r\n\r\n  any gain < -200 \r\ngain[group=big truck] < -200\n", newline=""
    )
    code, _, err = command(*BASELINE, "--gate", "gate.txt", "--fail-if", "overall_gain > 100")
    assert code == 0 and not err
    rows = json.loads((tmp_path / "audit.json").read_text())["fail_if"]
    assert [row["condition"] for row in rows] == [
        "overall_gain > 100",
        "any gain < -200",
        "gain[group=big truck] < -200",
    ]


def test_an_audit_is_held_against_an_earlier_one(command, tmp_path):
    assert command(*BASELINE, "--out", "before.html")[0] == 0
    against = ("--against", "before.json", "--fail-if")
    code, out, err = command(*BASELINE, *against, "any change(gain) < -1")
    assert code == 0 and not err and "from the earlier audit in before.json" in out
    student = np.load(tmp_path / "student.npy")
    student[np.arange(len(student)) % 6 == 0] *= -1
    np.save(tmp_path / "student.npy", student)
    code, out, err = command(*BASELINE, *against, "any change(gain) < -1", "--summary", "s.md")
    assert code == 1 and "met by 1 group: cat (−" in err
    assert "before.json" in (tmp_path / "s.md").read_text()
    assert command(*BASELINE, *against, "change(gain[group=cat]) < -1")[0] == 1
    assert command(*BASELINE, *against, "change(gain[group=big truck]) < -1")[0] == 0
    assert command(*against, "change(average_gain) < -1")[0] == 3  # no baseline here


def test_the_summary_of_a_step_is_added_to_and_any_other_file_is_replaced(
    command, tmp_path, monkeypatch
):
    step = tmp_path / "step_summary"
    step.write_text("# Before\n\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    for times in (1, 2):
        assert command("--summary", "s.md", "--title", "one")[0] == 0
        assert (tmp_path / "s.md").read_text().count("## one") == 1
        assert command("--summary", step, "--title", "two")[0] == 0
        assert step.read_text().startswith("# Before\n\n## two\n")
        assert step.read_text().count("## two") == times


# ---------------------------------------------------------------- docs/audit.md


def test_the_step_for_continuous_integration_works(files, tmp_path):
    """On two commits: the first is what the second is held against, and the second fails."""
    readme = (ROOT / "docs/audit.md").read_text()
    [block] = re.findall(r"^```yaml\n(.*?)^```$", readme, re.M | re.S)
    step, upload = yaml.safe_load(block)
    assert upload["if"] == "always()" and upload["with"]["path"] == "audit.*"
    for file in files.iterdir():
        (tmp_path / file.name.replace("labels", "y")).write_bytes(file.read_bytes())
    (tmp_path / "teacher.npy").rename(tmp_path / "t.npy")
    for name, role in (("s", "student"), ("b", "baseline"), ("good", "baseline")):
        scores = np.load(tmp_path / f"{role}.npy")
        for run in range(3):
            scale = 1 + run / 10 + (name == "good") / 20  # each file is of a network of its own
            np.save(tmp_path / f"{name}{run}.npy", scores * scale)
    environment = os.environ | {
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run(script):
        how = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(["bash", "-e", "-c", script], **how)

    first = re.sub(r"\bs(\d).npy", r"good\1.npy", step["run"])
    first = re.sub(r'--fail-if "change.*?--against \S+', "--fail-if 'overall_gain < -99'", first)
    done = run(first)
    assert done.returncode == 0, done.stderr
    (tmp_path / "main").mkdir()
    (tmp_path / "audit.json").rename(tmp_path / "main/audit.json")
    done = run(step["run"])
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("kdlib: condition met: ") == 2
    assert (tmp_path / "summary").read_text().count("## Whom did this") == 2
    assert ET.parse(tmp_path / "audit.xml").getroot().get("failures") == "2"


def test_the_conditions_that_are_shown_are_understood():
    readme = (ROOT / "docs/audit.md").read_text()
    shown = [text for text in re.findall(r"`([^`\n]+ [<>] [^`\n]+)`", readme) if "--" not in text]
    assert len(shown) >= 6
    for text in shown:
        gate.condition(text)
