"""The pre-registered grids: STUDIES[name](seeds) -> list of Configs. Each pair and method has one primary Config.

PROTOCOL.md gives the reasons, and says when each choice was made."""

import ast
from dataclasses import dataclass

from kdlib.config import KNOBS, Config, KdlibError, did_you_mean

PRIMARY_METHODS = ("one_hot", "kd", "ada_alpha", "ada_margin", "placebo")


@dataclass(frozen=True)
class Study:
    """A named list of runs: pairs x methods x seeds over shared fields."""

    name: str
    title: str
    about: str
    pairs: tuple                 # of (teacher, student); the first one is the headline
    seeds: int                   # planned
    shared: dict                 # Config fields of every run
    distilled: dict              # Config fields of every run with a teacher
    bucket_edges: tuple          # training images: many > first, few < second, medium between
    worst: tuple                 # k of the worst-k metrics
    methods: tuple = PRIMARY_METHODS
    demonstration: bool = False

    def config(self, pair, method, seed):
        """The primary Config of a method for one (teacher, student) and seed."""
        teacher, student = pair
        loss = {"teacher": teacher, **self.distilled} if "teacher" in KNOBS[method] else {}
        return Config(student=student, method=method, seed=seed, **loss, **self.shared)

    def __call__(self, seeds=None):
        """All runs of the first `seeds` seeds, each once, seed by seed, teachers before their students."""
        configs = {}
        for seed in range(self.seeds if seeds is None else seeds):
            for pair in self.pairs:
                for method in self.methods:
                    cfg = self.config(pair, method, seed)
                    for c in (*cfg.dependencies(), cfg):
                        configs.setdefault(c.key(), c)
        return list(configs.values())


def study(name):
    """The Study of that name, or KdlibError with the known ones."""
    if name not in STUDIES:
        raise KdlibError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def check_parameters(namespace):
    """The Study that a notebook's parameters `study` and `seeds` ask for; call it as check_parameters(globals()).

    KdlibError for an unknown name in papermill's injected cell (which papermill itself only warns of), an unknown study, or
    seeds out of range."""
    for cell in namespace.get("In", ()):
        if cell.startswith("# Parameters"):   # the first line papermill writes
            names = [t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for t in node.targets]
            for name in names:
                if name not in ("study", "seeds"):
                    raise KdlibError(f"notebook parameter {name!r} is unknown: {did_you_mean(name, ('study', 'seeds'))}")
    name, seeds = namespace["study"], namespace["seeds"]
    if not isinstance(name, str):
        raise KdlibError(f"notebook parameter study={name!r}: must be one of {', '.join(STUDIES)}.")
    chosen = study(name)
    if type(seeds) is not int or not 1 <= seeds <= chosen.seeds:
        raise KdlibError(f"notebook parameter seeds={seeds!r}: must be a whole number from 1 to {chosen.seeds} for {name}.")
    return chosen


DIGITS = {"dataset": "digits", "draw_seed": 0, "imbalance": 50.0, "epochs": 40, "warmup": 4, "batch_size": 32,
          "lr": 0.05, "weight_decay": 5e-4}
CIFAR20 = {"dataset": "cifar20", "draw_seed": 0, "imbalance": 20.0, "epochs": 40, "warmup": 8, "batch_size": 128,
           "lr": 0.1, "weight_decay": 5e-4}

STUDIES = {
    "digits": Study(
        name="digits", title="Handwritten digits, long-tailed",
        about="1,797 real 8x8 images of scikit-learn; a demonstration that runs on any computer, not a reproduction.",
        pairs=(("cnn", "cnn_small"), ("cnn_small", "cnn_small")), seeds=8, shared=DIGITS, distilled={"temperature": 2.0},
        bucket_edges=(30, 7), worst=(1, 3), demonstration=True),
    "cifar20-lt": Study(
        name="cifar20-lt", title="Twenty classes of CIFAR-100, long-tailed",
        about="The first fine class of each CIFAR-100 superclass, 400 down to 20 training images; sized for a CPU.",
        pairs=(("resnet20", "resnet8"), ("resnet8", "resnet8")), seeds=6, shared=CIFAR20, distilled={"temperature": 2.0},
        bucket_edges=(150, 45), worst=(1, 3, 6)),
}
