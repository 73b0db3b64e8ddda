"""README.md and PROTOCOL.md say what is: links, commands, Python, the primary configurations, the
rules."""

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

from kdlib.__main__ import COMMANDS
from kdlib.auditing.gate import condition
from kdlib.config import DEFAULTS, Config, KdlibError
from kdlib.data import long_tail_counts
from kdlib.evidence import choice
from kdlib.evidence.findings import panels
from kdlib.evidence.panel import HALVES
from kdlib.evidence.rules import AVERAGE_MARGIN, CLAIMS, HARM, LEVEL, LOWEST_ACCURACY
from kdlib.methods import METHODS, entry, name_of
from kdlib.options import parse
from kdlib.pages import results
from kdlib.pages.render import read_parameters
from kdlib.study import cifar
from kdlib.study.done import complete_seeds
from kdlib.study.grids import JUDGED, PRIMARY, STUDIES

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "RESULTS.md", "PROTOCOL.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("data/README.md", "docs/audit.md", "docs/many_machines.md"),
    *("docs/distil.md", "docs/own_trainer.md"),
)
PAGES = {name: (ROOT / name).read_text() for name in DOCUMENTS}
README, PROTOCOL = PAGES["README.md"], PAGES["PROTOCOL.md"]
GENERATED = re.compile(r"<!-- (answer|claims):start -->\n.*?<!-- \1:end -->\n", re.S)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
WHOLE_COMMAND = re.compile(r"`((?:make|python -m kdlib|papermill) [^`]+)`")  # in running text


def commands(page):
    """Every shell command of a page as a list of words, from fenced blocks and from running
    text."""
    text = GENERATED.sub("", page)
    lines = "\n".join(
        block for language, block in FENCE.findall(text) if language in ("", "sh")
    ).splitlines()
    lines += [" ".join(found.split()) for found in WHOLE_COMMAND.findall(FENCE.sub("", text))]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def section(page, marker):
    """The rows of the table below <!-- marker -->, header first: lists of cells without
    backticks."""
    lines = page.split(f"<!-- {marker} -->\n")[1].split("\n\n")[0].splitlines()
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines
    ]
    assert set("".join(rows[1])) == {"-"} and len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


# ---------------------------------------------------------------- links, words and the map


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page):
    prose = re.sub(r"`[^`]+`", "", FENCE.sub("", PAGES[page]))
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    folder = (ROOT / page).parent
    assert not [link for link in links if "://" not in link and not (folder / link).exists()]


def test_readme_links_what_a_reader_needs():
    links = set(re.findall(r"\]\(([^)]+)\)", README))
    assert {"PROTOCOL.md", "data/README.md", "CITATION.cff", "LICENSE"} <= links
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "MIT"


def test_the_map_names_every_module_of_the_helper_and_every_room():
    rows = re.findall(r"^\| (`kdlib/.*?) \| .", README, re.M)
    mapped = re.findall(r"`kdlib/(\w+(?:\.py|/))`", " ".join(rows))
    here = [p.name for p in (ROOT / "kdlib").glob("*.py") if p.stem != "__init__"]
    here += [f"{p.parent.name}/" for p in (ROOT / "kdlib").glob("*/__init__.py")]
    assert sorted(mapped) == sorted(here)


def test_the_loop_is_the_one_that_is_run_for_the_page_on_trainers():
    loops = []
    for page in (README, PAGES["docs/own_trainer.md"]):
        block = next(code for language, code in FENCE.findall(page) if language == "python")
        loops.append([line.partition("  #")[0] for line in block.splitlines()])
    assert loops[0] == loops[1]


def test_readme_is_read_in_minutes():
    authored = GENERATED.sub("", README)  # claims have a line each
    assert authored.count("\n") <= 120 and len(authored.encode()) <= 7700


def test_answer_and_claims_have_their_place_and_no_measured_number_is_typed_beside_them():
    assert GENERATED.findall(README) == ["answer", "claims"]
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:%|±|points?|per cent)", GENERATED.sub("", README))


def test_the_two_commands_stand_before_any_table():
    assert README.index("make report") < re.search(r"^\|", README, re.M).start()


# ---------------------------------------------------------------- commands


def check_make(words):
    """`make -n` runs nothing. It takes any file for a target, hence .PHONY."""
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert {word for word in words if "=" not in word} <= set(targets)
    subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, check=True)


def check_kdlib(words):
    """Parsed, never run; studies and data sets must exist. STUDY stands for any."""
    parsed = vars(parse(words, COMMANDS))
    for text in parsed.get("fail_if", ()):
        condition(text)
    assert {parsed.get("study") or "STUDY", *parsed.get("studies", ())} <= {*STUDIES, "STUDY"}
    assert not parsed.get("name") or parsed["name"] in (*cifar.NAMES, "adult")


def check_papermill(words):
    """`papermill notebook output -p name value ...`: the notebook knows the names and takes the
    values."""
    path, output, *options = words
    assert output.endswith(".ipynb") and len(options) % 3 == 0 and set(options[::3]) <= {"-p"}
    # as papermill does
    values = [int(value) if value.isdigit() else value for value in options[2::3]]
    given = dict(zip(options[1::3], values, strict=True))
    notebook = nbformat.read(ROOT / path, as_version=4)
    known = read_parameters(notebook.cells[1].source, path)
    injected = ["# Parameters", *(f"{name} = {value!r}" for name, value in given.items())]
    names = {name: default for name, (default, _) in known.items()}
    # the cell that imports and checks, as it runs there
    exec(notebook.cells[2].source, {**names, **given, "In": ["\n".join(injected)]})
    assert notebook.metadata.kernelspec.name == "python3"


def check(words):
    match words:
        case ["make", *rest]:
            check_make(rest)
        case ["python", "-m", "kdlib", *rest]:
            check_kdlib(rest)
        case ["torchrun", "--nproc-per-node", _, "-m", "kdlib", *rest]:
            check_kdlib(rest)
        case ["papermill", *rest]:
            check_papermill(rest)
        case ["sbatch", *_, "--wrap", line]:
            check(shlex.split(line))
        case ["ssh", "-n", "$host", line, "&"]:
            folder, command = line.split("; ")
            assert folder == "cd $PWD"
            check(shlex.split(command.partition(".venv/bin/")[2]))
        case _:
            assert words in [
                ["source", ".venv/bin/activate"],
                ["export", "KDLIB_DATA=/where/the/data/are"],
                ["export", "KDLIB_RECORDS=/shared/records"],
                ["export", "KDLIB_RECORDS=/shared/records", "KDLIB_DATA=/shared/data"],
                ["for", "host", "in", "a", "b;", "do"],
                ["done;", "wait"],
                ["ray", "start", "--head"],
                ["ray", "start", "--address", "HOST:PORT"],
            ]


TOLD = sorted({tuple(words) for page in PAGES.values() for words in commands(page)})


@pytest.mark.parametrize("words", TOLD, ids=" ".join)
def test_every_command_is_understood(words):
    check(list(words))


NOTEBOOK = "papermill notebooks/01_gains_are_not_uniform.ipynb out.ipynb"


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        ("make reports", AssertionError, "reports"),
        ("pip install kdlib", AssertionError, "pip"),
        ("python -m kdlib rnu digits", KdlibError, "rnu"),
        ("python -m kdlib run digits --sedes 3", KdlibError, "sedes"),
        ("python -m kdlib run digit", AssertionError, "digit"),
        ("sbatch --wrap 'python -m kdlib rnu digits'", KdlibError, "rnu"),
        (f"{NOTEBOOK} -p sedes 8", KdlibError, "'sedes' is unknown"),
        (f"{NOTEBOOK} -p seeds eight", KdlibError, "seeds='eight': must be a whole number"),
    ],
)
def test_a_wrong_command_is_noticed(wrong, error, says):
    with pytest.raises(error, match=says):
        check(shlex.split(wrong))


def test_the_commands_a_reader_needs_are_there():
    told = {" ".join(words) for words in commands(README)}
    assert {f"make {target}" for target in ("report", "test", "lab", "help")} <= told
    verbs = ("run cifar20-lt", "data get cifar100", "status", "doctor")
    assert {f"python -m kdlib {verb}" for verb in verbs} <= told
    assert any(command.startswith("papermill ") for command in told)


# ---------------------------------------------------------------- PROTOCOL.md's tables


def stated(cell, default):
    """The value that a cell of the tables states for a Config field; "–" is the default."""
    if cell == "–":
        return default
    if isinstance(default, tuple):
        return tuple(int(number) for number in cell.split(", "))
    return cell if isinstance(default, str) else float(cell)


FINDINGS = {name: study for name, study in STUDIES.items() if study.kind in JUDGED}


def test_protocol_states_every_study():
    header, *rows = section(PROTOCOL, "primary:studies")
    assert header == ["field", *FINDINGS]
    for column, study in enumerate(FINDINGS.values(), start=1):
        told = {row[0]: row[column] for row in rows}
        pairs = "; ".join(" → ".join(pair) for pair in study.pairs)
        assert told["pairs (teacher → student)"] == pairs
        assert told["methods"] == ", ".join(study.methods)
        assert told["seeds"] == str(study.seeds)
        assert told["one-hot seeds"] == str(len(study.seeds_of("one_hot", study.seeds)))
        assert told["demonstration"] == ("yes" if study.demonstration else "no")
        assert told["bucket_edges"] == (", ".join(map(str, study.bucket_edges)) or "–")
        assert told["worst"] == ", ".join(map(str, study.worst))


@pytest.mark.parametrize("name", FINDINGS)
def test_protocol_states_every_field_of_every_primary_run(name):
    study, (header, *common) = STUDIES[name], section(PROTOCOL, "primary:studies")
    methods, *loss = section(PROTOCOL, "primary:methods")
    common = {row[0]: row[header.index(name)] for row in common}
    of_loss = {knob for method in PRIMARY for knob in METHODS[method].knobs}
    assert {row[0] for row in loss} == of_loss - {"teacher"} | {"with_val"}
    assert set(methods[1:]) == {m for other in FINDINGS.values() for m in other.methods}
    for pair in study.pairs:
        for method, fields in study.methods.items():
            of_method = fields.get("method", method)
            cells = {row[0]: row[methods.index(method)] for row in loss}
            knobs = set(METHODS[of_method].knobs)
            named = {knob for knob, cell in cells.items() if cell != "–"}
            assert named - {"with_val"} == knobs - {"teacher"}
            cells |= {knob: common[knob] for knob, cell in cells.items() if cell == "of the study"}
            first = study.teacher_seeds.get(pair, 1000)
            for seed in study.seeds_of(method, study.seeds):
                cfg = study.config(pair, method, seed)
                told = {"student": pair[1], "method": of_method, "seed": seed}
                told["with_val"] = cells["with_val"] == "yes"
                told["teacher"] = pair[0] if "teacher" in knobs else None
                of_teacher = cells["teacher_seed"] == "1000 + seed"
                told["teacher_seed"] = first + seed if of_teacher else None
                # those of rivals are read by none of these methods
                for field in {field.name for field in dataclasses.fields(Config)} - set(told):
                    cell = {**common, **cells}.get(field, "–")
                    told[field] = stated(cell, DEFAULTS[field])
                assert told == dataclasses.asdict(cfg)


def test_protocol_states_what_rivals_and_knobs_change():
    rows = section(PROTOCOL, "beyond")[1:]
    wanted = {}
    for study in STUDIES.values():
        beyond = set(study.methods) - set(PRIMARY) if study.kind in ("rivals", "knobs") else ()
        for method in beyond:
            fields = {"method": method, **study.methods[method]}
            said = ", ".join(f"{k} = {v}" for k, v in fields.items())
            wanted[study.kind, name_of(method)] = said
    assert {(kind, name): fields for kind, name, fields, *_ in rows} == wanted
    rivals = set(STUDIES["cifar20-lt-rivals"].methods) - set(PRIMARY)
    about = {name: what for kind, name, _, what in rows if kind == "rivals"}
    assert about == {name_of(m): entry(m).about for m in rivals}


def test_protocol_states_the_settings_of_ablations_and_recipes():
    header, *rows = section(PROTOCOL, "settings")
    told = {row[0]: row[1:] for row in rows}
    assert set(told) == {s.name for s in STUDIES.values() if s.kind in ("ablations", "recipe")}
    for name, (seeds, settings) in told.items():
        study = STUDIES[name]
        some = [setting for setting in study.settings if setting]
        levels = [", ".join(f"{k} = {v}" for k, v in setting.items()) for setting in some]
        if study.kind == "recipe":
            levels = [choice.in_words(level) for step in study.steps for level in step.levels]
        assert settings == "; ".join(levels) and seeds == str(study.seeds)


def test_the_recipe_is_what_val_chose_and_passes_the_training_check(monkeypatch):
    """From the committed records: each step of a complete search takes what the study has."""
    monkeypatch.delenv("KDLIB_RECORDS", raising=False)
    recipes = [s for s in STUDIES.values() if s.kind == "recipe" and not s.demonstration]
    for study in recipes:
        seeds = complete_seeds(study.name)
        if not seeds:
            continue
        base = STUDIES[study.name.removesuffix("-recipe")]
        table = choice.scores(study, seeds)
        chosen = set(", ".join(table[table.chosen == "yes"].level).split(", "))
        searched = {k for step in study.steps for k in step.levels[0]}
        fields = {k: base.shared[k] for k in searched if k in base.shared}
        fields["temperature"] = base.distilled["temperature"]
        if "alpha" in searched:
            fields["alpha"] = base.methods["kd_tuned"]["alpha"]
        if study.epochs:
            check = choice.training_check(study, seeds).set_index("epochs")
            word = check.passes[base.shared["epochs"]]
            if word == "no":  # D27, and whoever sees the study is told
                assert study.name == "superclass-small-recipe" and set(check.passes) == {"no"}
                assert "recipe fails the training check" in choice.check_failed(base)[0]
            if word != "yes":
                assert fields.pop("epochs") == max(study.epochs)
            if complete_seeds(base.name):  # students tell the margin
                assert word != "not known" and choice.check_of(panels(base.name)[0])[0] == word
        assert {choice.in_words({k: v}) for k, v in fields.items()} <= chosen


@pytest.mark.parametrize("name, largest, classes", [("digits", 100, 10), ("cifar20-lt", 400, 20)])
def test_protocol_states_the_sizes_of_the_draws(name, largest, classes):
    header, *rows = section(PROTOCOL, "splits")
    cell = rows[0][header.index(name)]
    counts = long_tail_counts(largest, STUDIES[name].shared["imbalance"], classes)
    assert cell.endswith(f"{sum(counts):,} images, {counts[0]} down to {counts[-1]}")


def test_protocol_states_the_rules_and_their_thresholds():
    header, *rows = section(PROTOCOL, "rules")
    assert [row[0].strip("*") for row in rows] == [name for name in CLAIMS if name != "F1 tuned"]
    numbers = [
        [float(n) for row in rows for n in re.findall(r"-?\d+\.\d+", row[k])] for k in (3, 4)
    ]
    assert numbers == [[HARM, -AVERAGE_MARGIN], [HARM, -AVERAGE_MARGIN]]
    assert f"at least {LOWEST_ACCURACY:.0f} % accuracy on **val**" in PROTOCOL
    assert (
        f"at a corrected p of at most {LEVEL}" in PROTOCOL
        and f"averaged over {HALVES} splits" in PROTOCOL
    )
    gate = PROTOCOL.split("**The gate** (D19)")[1].split("\n\n")[0]
    for number in (
        f"less than {choice.LEAST_CHANGE:g} point",
        f"at least {choice.LEAST_MARGIN}",
        f"below {choice.LEAST_FEW_SHOT:g} %",
    ):
        assert number in " ".join(gate.split())


def test_the_answer_is_what_the_committed_records_say(monkeypatch):
    monkeypatch.delenv("KDLIB_RECORDS", raising=False)
    answer, claims, figure, everything = results.texts(results.kept(PAGES["RESULTS.md"]))
    for mark, text in (("answer", answer), ("claims", claims)):
        assert f"<!-- {mark}:start -->\n{text}<!-- {mark}:end -->\n" in README
    assert everything == PAGES["RESULTS.md"]
    assert figure is None or (ROOT / results.FIGURE).read_bytes() == figure
