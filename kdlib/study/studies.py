"""What a study is: a name and a list of runs. A Grid crosses its parts, a Search takes steps."""

import functools
import itertools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kdlib.config import Config, KdlibError, built, did_you_mean
from kdlib.methods import ARMS, METHODS, arms, idle_fields

MOST_SEEDS = 64  # of a study
CLASSES = ("class", "classes")


class Planned(NamedTuple):
    """A run of a study: it belongs to the first `seed` + 1 seeds; an extra keeps none waiting."""

    config: Config
    seed: int
    extra: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A named list of runs, compared by pair and setting where there are pairs."""

    name: str
    title: str
    about: str
    kind: str  # see grids.KINDS; those of grids.JUDGED have verdicts, all else is sensitivity
    seeds: int  # planned
    pairs: tuple = ()  # of (teacher, student); the first one is the headline
    settings: tuple = ({},)  # of Config fields that differ, for all methods alike; {}: none
    methods: dict = field(default_factory=dict)  # name: Config fields
    # training images: many > first, few < second, medium between; (): tenths by teacher margin
    bucket_edges: tuple = ()
    worst: tuple = ()  # k of the worst-k metrics
    groups: tuple = CLASSES  # what its groups are called: one of them, several
    demonstration: bool = False
    outside: bool = False  # its records are too large for the repository
    superseded: bool = False  # shown last, and never as the answer while there is another
    overrides: dict = field(default_factory=dict)  # of who explores: see parameters.overridden

    @property
    def kinds(self):
        """Kinds of the pages that show it, see grids.KINDS."""
        hidden = self.kind == "findings" and self.groups != CLASSES
        return (self.kind, "hidden") if hidden else (self.kind,)

    @functools.cached_property
    def runs(self):
        """All planned runs, in order, teachers before their students, some more than once.

        Each kind of study has a method `plan` that yields them; it may leave out teachers."""
        found = []
        for run in self.plan():
            found += [run._replace(config=cfg) for cfg in run.config.dependencies()]
            found.append(run)
        return found

    def __call__(self, seeds=None):
        """The Configs of the first `seeds` seeds, by default of all, or of a range; each once."""
        some = seeds if isinstance(seeds, range) else range(self.seeds if seeds is None else seeds)
        return list({r.config.key(): r.config for r in self.runs if r.seed in some}.values())

    def with_methods(self, names):
        """The study with methods beside those it planned; they take part in no verdict."""
        known = dict.fromkeys((*self.methods, *METHODS, *ARMS))
        for name in names:
            if name not in known:
                said = f"study {self.name} has no method {name!r}"
                raise KdlibError(f"{said}: {did_you_mean(name, known)}")
        return replace(self, methods=self.methods | arms(*names) | self.methods)

    def part(self, pairs=(), methods=()):
        """The study with these pairs alone, each "teacher/student", and these methods alone, also
        such as it did not plan; (): with all. Teachers come with their students."""
        if not self.pairs and (pairs or methods):
            raise KdlibError(f"study {self.name} has no pairs or methods to choose from.")
        known = {"/".join(pair): pair for pair in self.pairs}
        for pair in pairs:
            if pair not in known:
                said = f"study {self.name} has no pair {pair!r}"
                raise KdlibError(f"{said}: {did_you_mean(pair, known)}")
        some = dict.fromkeys(known[pair] for pair in pairs or known)
        fields = self.with_methods(methods).methods
        kept = {name: fields[name] for name in methods or fields}
        return replace(self, pairs=tuple(some), methods=kept)


def told(fields):
    """Config fields in words: temperature = 4, decay = step."""
    values = {n: f"{v:g}" if isinstance(v, float) else v for n, v in fields.items()}
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def run_of(fields):
    """The Config of a run, without the loss fields that its method does not read."""
    idle = idle_fields(fields["method"])
    return built({name: value for name, value in fields.items() if name not in idle})


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid(Study):
    """Settings x pairs x methods x seeds over shared fields."""

    kind: str = "findings"
    shared: dict  # Config fields of every run
    distilled: dict  # Config fields of every run with a teacher
    baselines: int = 0  # seeds of one_hot, if more than `seeds`
    fewer: dict = field(default_factory=dict)  # method: its seeds, if fewer than `seeds`
    teacher_seeds: dict = field(default_factory=dict)  # pair: its first teacher's, if not 1000

    def config(self, pair, method, seed, setting=None):
        """The Config of a method for one (teacher, student), a seed and a setting."""
        teacher, student = pair
        fields = {"student": student, "seed": seed, "teacher": teacher}
        if pair in self.teacher_seeds:
            fields["teacher_seed"] = self.teacher_seeds[pair] + seed
        changes = {"method": method, **(setting or {}), **self.methods[method]}
        return run_of(fields | self.shared | self.distilled | changes)

    def seeds_of(self, method, seeds):
        """Which seeds of a method belong to the first `seeds` of the study.

        Further baselines are dealt out among them."""
        if method == "one_hot":
            return [k for k in range(max(self.baselines, self.seeds)) if k % self.seeds < seeds]
        return list(range(min(seeds, self.fewer.get(method, seeds))))

    def plan(self):
        """Seed by seed; last come methods of fewer seeds, which no seed has to wait for."""
        for extra, seed in itertools.product((False, True), range(self.seeds)):
            methods = [method for method in self.methods if (method in self.fewer) == extra]
            for setting, pair, method in itertools.product(self.settings, self.pairs, methods):
                for k in self.seeds_of(method, self.seeds)[seed :: self.seeds]:
                    yield Planned(self.config(pair, method, k, setting), seed, extra)

    def pool(self, pair, setting=None):
        """Configs of every network that may be a baseline of a pair: one_hot training of its
        student, also as a teacher, but not with the seeds that a recipe was chosen with."""
        seeds = [*range(MOST_SEEDS), *range(1000, 1000 + MOST_SEEDS)]
        return [self.config(pair, "one_hot", k, setting) for k in seeds]


@dataclass(frozen=True)
class Step:
    """One choice: the best level by the mean accuracy on val of `methods`, the first of equals.

    Of epochs, where there is a training check, the fewest that pass it. With `shows`, the level
    that passes and in which kd loses most: see choice.settings."""

    question: str
    levels: tuple  # of Config fields
    methods: tuple = ("one_hot",)
    fields: dict = field(default_factory=dict)  # that hold in this step alone
    seeds: int = 0  # where a step needs more than the others
    teachers: bool = False  # teachers are trained: their seeds are 1000 higher
    shows: bool = False  # the setting of a demonstration, chosen for its effect


@dataclass(frozen=True, kw_only=True, eq=False)
class Search(Study):
    """How a recipe is chosen on val, step by step, with seeds that no other study has.

    What came out: evidence/choice.py."""

    kind: str = "recipe"
    seeds: int = 2
    steps: tuple  # in order; each with what the ones before it chose
    shared: dict  # Config fields of every run, as chosen
    pair: tuple  # (teacher, student)
    epochs: tuple = ()  # of which the training check takes the shortest; (): no check
    first_seed: int = 900

    def config(self, step, level, method, seed):
        """The Config of one level of a step."""
        teacher, student = self.pair
        start = self.first_seed + 1000 * step.teachers
        run = {"student": student, "method": method, "teacher": teacher, "seed": start + seed}
        return run_of(self.shared | run | step.fields | level)

    def seeds_of(self, step, seeds=None):
        """How many seeds of a step belong to the first `seeds` of the search; None: all it has."""
        return max(self.seeds, step.seeds) if seeds in (None, self.seeds) else seeds

    def plan(self):
        """Step by step. The further seeds of a step belong to the last seed of the search."""
        for step in self.steps:
            for seed in range(self.seeds_of(step)):
                for level, method in itertools.product(step.levels, step.methods):
                    cfg = self.config(step, level, method, seed)
                    yield Planned(cfg, min(seed, self.seeds - 1))
