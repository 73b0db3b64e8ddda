"""README's answer and RESULTS.md, of studies whose right verdict is known by construction."""

import re
from dataclasses import replace

import pytest
from synthetic import ROLES, SELF, TINY, but, write_study

from kdlib.evidence import choice, findings, rules
from kdlib.pages import anchors, results
from kdlib.pages import answer as answer_page
from kdlib.study.grids import STUDIES

HELPS_MANY_HARMS_FEW = {"one_hot": but(0.6, few=0.5), "kd": but(0.8, few=0.2)}
FIVE = replace(TINY, seeds=5, demonstration=False)


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    """No record and no study but those that a test makes."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    for name in reversed(list(STUDIES)):  # so that undoing it keeps their order
        monkeypatch.delitem(STUDIES, name)


def test_a_demonstration_is_no_answer(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", replace(FIVE, demonstration=True))
    write_study(FIVE, seeds=4, **HELPS_MANY_HARMS_FEW)
    answer, claims, svg, everything = results.texts()
    assert (
        claims == ""
        and answer == "No study is on record yet; `make report` shows the demonstration.\n"
    )
    assert svg is None and anchors.markdown() in everything


def cells(answer):
    """{first cell: the others} of the table in an answer."""
    rows = [line.strip("| ").split(" | ") for line in answer.splitlines() if line.startswith("| ")]
    return {label.removeprefix("**").split("**")[0]: found for label, *found in rows}


def test_the_answer_says_who_gains_who_loses_and_what_the_remedy_does(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    write_study(FIVE, seeds=4, **HELPS_MANY_HARMS_FEW, ada_alpha=but(0.8, few=0.5))
    answer, claims, svg, everything = results.texts()
    assert svg.startswith(b"<?xml") and f'<img src="{results.FIGURE}"' in answer
    assert "\n*Accuracy minus that of the same network trained on labels alone" in answer
    found = cells(claims.replace("\u00a0", " "))
    assert found["claim"] == ["`tiny`"]
    # (8 * 20 - 2 * 30) / 10 points on average, 30 fewer and 30 more in the rarest classes
    assert found["F1"][0].startswith("**holds**<br>+10.0 (+")
    assert found["F2b"][0].startswith("**holds**<br>−30.0 (−")
    assert re.match(r"\*\*holds\*\*<br>\+30.0 \(\+.*\)<br>\+6.0 \(\+", found["F4 AdaAlpha"][0])
    beyond = cells(everything.replace("\u00a0", " "))
    assert beyond["AdaAlpha minus one-hot, in the rarest classes"] == ["0.0"]
    assert not [label for label in beyond if "one tuned weight" in label]  # it was not run
    # 8 classes at 60 % and 2 at 50 %
    assert beyond["accuracy of one-hot, %: on average; in the rarest classes"] == ["58.0; 50.0"]
    # margins from 0.9 down to 0.1: of the rarest two 0.189 and 0.1
    assert beyond["weight of the teacher in AdaAlpha, in the rarest classes"] == ["0.14"]
    assert "** 4 distilled and 4 one-hot ones in `tiny`. " in claims
    # 4 baselines are too few for a control
    assert found["any finding decided, on the matched control"] == ["–"]
    words = [found[name][0].split("**")[1] for name in ("F1", "F2b", "F3b", "F3c", "F4 AdaAlpha")]
    assert words == ["holds", "holds", "not decided", "contradicted", "holds"]
    assert answer.startswith(
        "- **Tiny** (`tiny`, 4 of 5 planned distilled networks; our training check is not "
        "complete). Distillation raises average accuracy by 10.0 points, the rarest classes lose "
        "30.0 points, amplification of the teacher's errors is contradicted and AdaAlpha lifts the "
        "rarest classes by 30.0 points over distillation (over one-hot: 0.0 points); of the 5 "
        "claims below, 1 is not decided.\n\n<img"
    )
    assert "must reach, none has been compared yet." in claims
    assert "the few-shot classes (fewer than 7 training images each) of `tiny`." in claims
    assert "In the rarest classes the weight is 0.14 in `tiny`. " in claims
    reads = "of 200 held-out images in `tiny` (20 in each class, beside 296 training images in all)"
    assert f"It reads the labels {reads}." in claims


def test_the_answer_marks_what_the_matched_control_does_too(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    write_study(FIVE, seeds=4, **HELPS_MANY_HARMS_FEW, ada_alpha=but(0.8, few=0.5))
    shares = {"F1": 0.1, "any": 0.1, "idle F4 AdaAlpha": 0.588}
    monkeypatch.setattr(findings, "false_alarms", lambda p: shares)
    answer, claims, _, everything = results.texts()
    found = cells(claims)
    assert found["F1"][0].startswith("**holds†**") and found["F2b"][0].startswith("**holds**")
    assert found["F4 AdaAlpha"][0].startswith("**holds†**")
    lead = answer.partition("\n")[0]
    assert "average accuracy by 10.0 points†, the rarest classes lose 30.0 points, " in lead
    assert "(over one-hot: 0.0 points)†; of the 5 claims" in lead
    assert "\n\n† F1, `tiny`: This rule also fires on the matched control" in claims
    assert "\n\n† F4 AdaAlpha, `tiny`: The matched control passes too" in claims
    assert found["any finding decided, on the matched control"] == ["10.0 %"]
    label = "passes our training check; change of the average by twice the epochs"
    assert found[label] == ["not known; not run"]
    assert everything.count("**holds†**<br>") == 2 and everything.count("\n† F") == 2
    assert everything.count("| **holds†** |") == 2


def test_what_is_not_decided_is_no_claim_and_says_what_would_have_been_found(monkeypatch):
    monkeypatch.setattr(findings, "false_alarms", lambda p: {})
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    write_study(FIVE, seeds=3, **HELPS_MANY_HARMS_FEW)
    answer, claims, *_ = results.texts()
    assert "is not complete). None of the claims below is decided.\n" in answer
    assert "A verdict needs 4 distilled networks" in claims
    write_study(FIVE, seeds=4, one_hot=but(0.6), kd=but(0.6), shuffled=ROLES)
    claims = results.texts()[1]
    (panel,) = findings.panels("tiny")
    sizes = {card["finding"]: card["smallest"] for card in findings.pair_verdicts(panel)}
    assert cells(claims)["F1"][0].startswith("**not decided**<br>")
    found = f"of {sizes['F2b']} by distillation or of {sizes['F4 AdaAlpha']} by AdaAlpha over"
    assert f"studies would find a change in the rarest classes {found} distillation;" in claims


def test_the_results_state_every_finding_and_what_lies_beyond(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    write_study(FIVE, seeds=4, **HELPS_MANY_HARMS_FEW)
    *_, everything = results.texts()
    assert "## Tiny (`tiny`), 4 of 5 planned seeds, preliminary" in everything
    in_words = "| F1 | cnn → cnn_small | **holds** | Distillation changes average accuracy by +10.0"
    assert in_words in everything
    assert everything.count("\n| F") == 8 and everything.count("\n| **F") == 8
    panel = findings.panels("tiny")[0]
    average = panel.gain("kd", panel.average)
    cell = f"+{average.estimate:.1f} (+{average.low:.1f} to +{average.high:.1f})"
    short = f"| **F1** {rules.CLAIMS['F1']} | **holds**<br>{cell} |\n"
    assert short in everything.replace("\u00a0", " ")
    methods = {**TINY.methods, "kd_tuned": {"method": "kd", "alpha": 0.5}}
    rivals = replace(FIVE, name="tiny-rivals", kind="rivals", methods=methods)
    monkeypatch.setitem(STUDIES, "tiny-rivals", rivals)
    write_study(rivals, seeds=2, **HELPS_MANY_HARMS_FEW)
    _, claims, _, everything = results.texts()
    assert (
        "(`tiny-rivals`), 2 of 5 planned seeds, preliminary\n\n- cnn → cnn_small: no other"
        in everything
    )
    assert re.search(r"- \*\*Rivals\.\*\* cnn → cnn_small: .* clearly beat AdaAlpha both", claims)


def test_a_superseded_study_gives_no_answer_while_there_is_another(monkeypatch):
    old = replace(FIVE, name="old", title="Old", superseded=True)
    itself = replace(FIVE, pairs=(SELF,))
    monkeypatch.setattr(findings, "false_alarms", lambda p: {})  # of eight baselines, half a minute
    monkeypatch.setitem(STUDIES, "old", old)
    write_study(old, seeds=4, **HELPS_MANY_HARMS_FEW)
    assert "- **Old** (`old`, 4 of 5" in results.texts()[0]
    assert results.texts()[3].count("no search has tried") == 0  # it was known to be too short
    monkeypatch.setitem(STUDIES, "tiny", itself)
    write_study(itself, seeds=4, teacher=but(0.6, few=0.5), **HELPS_MANY_HARMS_FEW)
    answer, claims, _, everything = results.texts()
    assert "- **Tiny** (`tiny`, 4 of 5" in answer and "`old`" not in answer + claims
    assert (
        everything.index("## Tiny") < everything.index("## Published") < everything.index("## Old")
    )


def test_what_was_computed_from_records_outside_the_repository_stays_until_they_are_here(
    tmp_path, monkeypatch
):
    page, beside = tmp_path / "README.md", tmp_path / "RESULTS.md"
    page.write_text(
        "<!-- answer:start -->\n<!-- answer:end -->\n<!-- claims:start -->\n<!-- claims:end -->\n"
    )
    results.publish(page)
    assert results.kept(beside.read_text()) == ""
    beside.write_text(results.texts("## Old\n\n- a number")[3])
    results.publish(page)
    assert results.kept(beside.read_text()) == "## Old\n\n- a number"
    monkeypatch.setattr(results, "_anew", lambda: "## New")
    results.publish(page)
    assert results.kept(beside.read_text()) == "## New" and "Old" not in beside.read_text()


def test_the_answer_says_how_much_other_studies_decide_and_what_has_no_runs(monkeypatch):
    other = replace(FIVE, name="other", title="Other", bucket_edges=())
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    monkeypatch.setitem(STUDIES, "other", other)
    longer = FIVE.shared | {"epochs": 41}
    monkeypatch.setitem(STUDIES, "none", replace(FIVE, name="none", title="None", shared=longer))
    for study in (FIVE, other):
        write_study(study, seeds=4, **HELPS_MANY_HARMS_FEW)
    _, claims, _, everything = results.texts()
    words = {c["finding"]: c["verdict"] for c in findings.verdicts("other")}
    assert words["F1"] == words["F2a"] == "holds"
    decided = [
        f"{name} {'is ' * (word != 'holds')}{word}"
        for name, word in words.items()
        if word != "not decided"
    ]
    left = f"{8 - len(decided)} of 8 findings are not decided"
    told = f"\n\nOther studies with verdicts: in `other` {', '.join([*decided, left])}.\n"
    assert claims.endswith(told) and cells(claims)["claim"] == ["`tiny`"]
    title = "## Studies that are not complete enough for verdicts\n\n"
    assert f"{title}- Without a complete seed: `none`.\n" in everything


def test_another_study_of_rare_classes_stands_beside_the_answer(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", replace(FIVE, shared=FIVE.shared | {"epochs": 41}))
    monkeypatch.setitem(STUDIES, "other", replace(FIVE, name="other", title="Other"))
    same = {"one_hot": but(0.6), "kd": but(0.6), "ada_alpha": but(0.6)}
    write_study(STUDIES["tiny"], seeds=4, **same)
    write_study(STUDIES["other"], seeds=4, **HELPS_MANY_HARMS_FEW, ada_alpha=but(0.8, few=0.5))
    answer, claims, svg, _ = results.texts()
    found = cells(claims)
    assert found["claim"] == ["`tiny`", "`other`"]
    none, lowered = found["F2b"]
    assert none.startswith("**not decided**") and lowered.startswith("**holds**<br>−30.0")
    nothing, some = answer.splitlines()[:2]
    assert nothing.endswith(" None of the claims below is decided.")
    assert some.startswith("- **Other** (`other`, 4 of 5") and "lose 30.0 points" in some
    assert "\n*Left `tiny`, right `other`: accuracy minus that of the same" in answer
    assert svg.count(b"Tiny") == svg.count(b"Other") > 0  # the titles of two axes
    shown = answer_page.plot_side_by_side([findings.panels(name)[0] for name in STUDIES])
    left, right = shown.figure.axes
    assert left.get_ylim() == right.get_ylim()
    low, high = left.get_ylim()
    assert low < shown.table.low.min() < shown.table.high.max() < high


def test_the_training_check_is_told_as_far_as_runs_without_a_search_show_it(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    margins = {"teacher_margin_train": [1.0] * 9 + [0.0]}  # of the class with 2 of 296 images
    margin = 294 / 296
    facts = {"facts": lambda method, seed: margins if method == "kd" else {}}
    write_study(FIVE, seeds=4, one_hot=but(0.6, few=0.5, g9=0.0), **facts)
    said = (
        f"margin on its training images is {margin:.3f} (at least 0.9); the lowest few-shot class"
    )
    assert choice.check_of(findings.panels("tiny")[0]) == ("no", "")
    everything = results.texts()[3]
    assert (
        f"Judged by its own runs, this recipe fails the training check: the teacher's {said}"
        in everything
    )
    assert "is at 0.0 % (at least 2)." in everything
    # four teachers and four baselines, four students of each of three methods
    assert "number of runs: a processor (4 ada_alpha, 4 ada_margin, 4 kd, 8 one_hot)." in everything


def test_a_balanced_study_may_lead(monkeypatch):
    balanced = replace(FIVE, bucket_edges=())
    monkeypatch.setattr(findings, "false_alarms", lambda p: {})
    monkeypatch.setitem(STUDIES, "tiny", balanced)
    write_study(balanced, seeds=4, **HELPS_MANY_HARMS_FEW)
    assert "our training check is not complete). Distillation raises" in results.texts()[0]


def test_a_study_with_too_few_seeds_gives_no_answer_while_another_has_enough(monkeypatch):
    early = replace(FIVE, name="early", title="Early", shared=FIVE.shared | {"epochs": 41})
    monkeypatch.setattr(findings, "false_alarms", lambda p: {})
    monkeypatch.setitem(STUDIES, "early", early)
    monkeypatch.setitem(STUDIES, "tiny", FIVE)
    write_study(early, seeds=2, **HELPS_MANY_HARMS_FEW)
    write_study(FIVE, seeds=4, **HELPS_MANY_HARMS_FEW)
    answer, claims, _, everything = results.texts()
    assert "- **Tiny** (`tiny`, 4 of 5" in answer and "`early`" not in answer + claims
    assert everything.index("## Tiny") < everything.index("## Early (`early`), 2 of 5")
