"""How a recipe is chosen on val, step by step. What came out: evidence/choice.py."""

from dataclasses import dataclass, field

from kdlib.config import Config
from kdlib.methods import METHODS, loss_fields


@dataclass(frozen=True)
class Step:
    """One choice: the best level by the mean accuracy on val of `methods`, the first of equals.

    Of epochs, where there is a gate, the fewest that pass it."""

    question: str
    levels: tuple  # of Config fields
    methods: tuple = ("one_hot",)
    fields: dict = field(default_factory=dict)  # that hold in this step alone
    seeds: int = 0  # where a step needs more than the others
    teachers: bool = False  # teachers are trained: their seeds are 1000 higher


@dataclass(frozen=True)
class Search:
    """Steps of a choice as a study: called, it gives the Configs of its runs.

    No other study has its seeds."""

    name: str
    title: str
    about: str
    steps: tuple  # in order; each with what the ones before it chose
    shared: dict  # Config fields of every run, as chosen
    pairs: tuple  # one (teacher, student)
    bucket_edges: tuple
    epochs: tuple = ()  # lengths among which the gate looks for the shortest; (): no gate
    seeds: int = 2
    first_seed: int = 900
    kind: str = "recipe"
    demonstration: bool = False
    settings: tuple = ({},)
    worst: tuple = ()

    @property
    def methods(self):
        """{name: Config fields that differ}, as of any study."""
        return {method: {} for step in self.steps for method in step.methods}

    def config(self, step, level, method, seed):
        """The Config of one level of a step."""
        teacher, student = self.pairs[0]
        run = {"student": student, "method": method, "teacher": teacher}
        fields = self.shared | run | step.fields | level
        idle = loss_fields() - set(METHODS[method].knobs)
        start = self.first_seed + 1000 * step.teachers
        return Config(seed=start + seed, **{k: v for k, v in fields.items() if k not in idle})

    def seeds_of(self, step, seeds=None):
        """How many seeds of a step belong to the first `seeds` of the search; None: all it has."""
        return max(self.seeds, step.seeds) if seeds in (None, self.seeds) else seeds

    def __call__(self, seeds=None):
        """All runs of the first `seeds` seeds, each once, by step, teachers before students."""
        configs = {}
        for step in self.steps:
            for seed in range(self.seeds_of(step, seeds)):
                for level in step.levels:
                    for method in step.methods:
                        cfg = self.config(step, level, method, seed)
                        for c in (*cfg.dependencies(), cfg):
                            configs.setdefault(c.key(), c)
        return list(configs.values())
