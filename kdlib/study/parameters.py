"""What a notebook is given: names that papermill sets, and overrides of a study to explore with."""

import ast
import contextlib
from dataclasses import replace

from kdlib.config import DEFAULTS, KdlibError, checked, did_you_mean
from kdlib.study.done import complete_seeds
from kdlib.study.grids import JUDGED, STUDIES, study
from kdlib.study.studies import Study, told

FIXED = {  # fields of Config that no override may set, and why
    "dataset": "the study's recipe and its classes are of its own data; choose another study",
    "seed": "a study counts its seeds; the parameter `seeds` says how many",
    "method": "a study compares all its methods",
    "teacher_seed": "teachers are counted with the seeds",
    "fold": "it belongs to the teachers of a crossfit",
    "with_val": "a student with a teacher may not train on the labels of val",
}
OPEN = [name for name in DEFAULTS if name not in FIXED]
NETWORKS = {"teacher", "student"}  # they change the pairs
PARAMETER = "notebook parameter overrides"


def check_names(namespace, known):
    """KdlibError if the cell that papermill injected sets a name that is not known.

    Papermill itself only warns of it."""
    for cell in namespace.get("In", ()):
        if not cell.startswith("# Parameters"):  # the first line papermill writes
            continue
        assignments = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
        names = [target.id for node in assignments for target in node.targets]
        for name in names:
            if name not in known:
                said = f"notebook parameter {name!r} is unknown"
                raise KdlibError(f"{said}: {did_you_mean(name, known)}")


def check_parameters(namespace) -> tuple[Study, int]:
    """(Study, seeds) that a notebook's parameters `study`, `seeds` and `overrides` ask for.

    Call it as check_parameters(globals()). A notebook serves the studies of its `KIND`; those that
    have verdicts take `overrides`, and all that train take `hours`, see sweep. seeds None: those
    that are complete, or where none is, and for a demonstration, all that are planned. KdlibError
    for a name that only papermill knows, a study that is unknown or of another kind, seeds or hours
    out of range, or overrides that overridden refuses."""
    name, seeds, kind = namespace["study"], namespace["seeds"], namespace["KIND"]
    more = [*["overrides"] * (kind in JUDGED), *["hours"] * (kind != "anchors")]
    check_names(namespace, ("study", "seeds", *more))
    fitting = [s.name for s in STUDIES.values() if kind in s.kinds]
    if not isinstance(name, str) or name not in fitting:
        raise KdlibError(f"notebook parameter study={name!r}: {did_you_mean(name, fitting)}")
    chosen = study(name)
    if seeds is not None and (type(seeds) is not int or not 1 <= seeds <= chosen.seeds):
        raise KdlibError(
            f"notebook parameter seeds={seeds!r}: must be a whole number from 1 to {chosen.seeds} "
            f"for {name}, or None."
        )
    hours = namespace.get("hours", 1)
    if type(hours) not in (int, float) or not hours > 0:
        raise KdlibError(f"notebook parameter hours={hours!r}: must be a number above 0.")
    chosen = overridden(chosen, namespace.get("overrides", {}))
    done = 0 if chosen.demonstration else complete_seeds(chosen)
    return chosen, seeds or done or chosen.seeds


def overridden(chosen, overrides) -> Study:
    """The study with other Config fields for all its runs, to explore; {} or "": the study itself.

    overrides: {field: value}, or the same as text (YAML, so JSON too). A method keeps what it sets
    itself, such as the tuned weight of `kd_tuned`. Fields of data and training hold for teachers
    too, which are then trained anew (Config.teacher_config); fields of the loss leave them as they
    are. `student` and `teacher` take the place of one network in every pair; bucket edges, in
    training images, stay. Runs that the study has already are read, not repeated. KdlibError for
    what no run can have, and for what changes no run."""
    fields = _fields(overrides)
    if not fields:
        return chosen
    explored = _with(chosen, fields)
    for pair in explored.pairs:
        for method in explored.methods:
            try:
                explored.config(pair, method, 0, explored.settings[0])
            except KdlibError as error:
                runs = f"{method} of {' → '.join(map(str, pair))} cannot run"
                raise KdlibError(f"{PARAMETER}={fields}: {runs}: {error}") from None
    for name, value in fields.items():
        if not _matters(chosen, fields, name):
            raise KdlibError(
                f"{PARAMETER}: {name}={value!r} leads to no new run: {chosen.name} has them all "
                "already, or its methods do not read this field or set it themselves."
            )
    return explored


def _fields(overrides):
    """{field: value in its canonical type} of the parameter; KdlibError for a wrong one."""
    fields = _read(overrides) if isinstance(overrides, str) else overrides
    if not isinstance(fields, dict):
        raise KdlibError(
            f"{PARAMETER}={overrides!r:.100}: must be fields of Config with their values, as in "
            "{temperature: 4, student: resnet14}."
        )
    found = {}
    for name, value in fields.items():
        if name in FIXED:
            raise KdlibError(f"{PARAMETER}: {name} cannot be overridden: {FIXED[name]}.")
        if name not in OPEN:
            raise KdlibError(f"{PARAMETER}: {name!r} is unknown: {did_you_mean(name, OPEN)}")
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)  # YAML takes 1e-5 for text
        try:
            found[name] = checked(name, value)
        except KdlibError as error:
            raise KdlibError(f"{PARAMETER}: {error}") from None
    return found


def _read(text):
    """What a text says in YAML, None if nothing; papermill's -p gives every value as text."""
    import yaml  # here, since the command line needs none

    try:
        return yaml.safe_load(text) or {}
    # a date or a number that there cannot be, and brackets in thousands
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _with(chosen, fields):
    """The study with these fields, unchecked."""
    pairs, seeds = [], {}
    for teacher, student in chosen.pairs:
        pair = fields.get("teacher", teacher), fields.get("student", student)
        pairs.append(pair)
        first = chosen.teacher_seeds.get((teacher, student))
        # the same teachers, unless they would be the baselines
        if first is not None and pair[0] == teacher != pair[1]:
            seeds[pair] = first
    setting = {name: value for name, value in fields.items() if name not in NETWORKS}
    return replace(
        chosen,
        name=f"{chosen.name}-exploratory",
        title=f"Exploratory ({told(fields)}): {chosen.title}",
        pairs=tuple(dict.fromkeys(pairs)),
        settings=(setting,),
        teacher_seeds=seeds,
        overrides=fields,
    )


def _matters(chosen, fields, name):
    """Whether there are runs that one of the fields alone makes another."""
    others = {n: value for n, value in fields.items() if n != name}
    try:
        without = _with(chosen, others)()
    except KdlibError:  # it makes the others possible, as decay does with milestones
        return True
    return not set(_with(chosen, fields)()) <= set(without)
