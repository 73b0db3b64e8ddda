"""How own students are trained: the Config of each, and the recipes that have a name."""

import re
from dataclasses import dataclass

from kdlib.asking.networks import named
from kdlib.config import Config, KdlibError, choice, count_of, did_you_mean, number
from kdlib.distilling.views import AUGMENTATIONS
from kdlib.methods import ARMS, METHODS, idle_fields, loss_fields

SMALL = 64  # pixels; images up to this size are moved in training, larger ones cut
TEACHER = "teacher"  # name of what is trained on labels alone before the students
TEACHER_SEED = 1000  # of the teacher that is trained here
LEAST_IN_BATCH = 2  # images that a process needs for the statistics of a batch norm

USUAL = {"epochs": 90, "batch_size": 256, "warmup": 5, "weight_decay": 1e-4, "size": 224}
PRESETS = {"imagenet": USUAL | {"batch_size": 512, "decay": "step", "milestones": (30, 60, 80)}}
PRESETS["imagenet-lt"] = PRESETS["imagenet"]
# of these presets: a teacher that is larger than the student, and one like it
PRESET_TEACHERS = ("torchvision:resnet50", "torchvision:resnet18")
PRESET_STUDENT = "torchvision:resnet18"
MOST_SEEDS = TEACHER_SEED  # from 0 on, so that no student has the seed of the teacher
FIELD = re.compile(r"\b([a-z]+(?:_[a-z]+)*)=(?=\S)")  # as a Config calls what a user typed
RATE = 0.1 / 256  # peak learning rate for each image of a batch (Goyal et al. 2017)


@dataclass(frozen=True)
class Own(Config):
    """A network that is trained on own images; see Config. Networks are called LIBRARY:NAME."""

    dataset: str = "own"
    student: str = ""
    teacher: str | None = None
    name: str = ""  # the method, or arm, as a user calls it
    size: int = number(224, 8, 1024)  # pixels of an image's side
    augment: str = choice("resized", AUGMENTATIONS)

    def __post_init__(self):
        try:
            super().__post_init__()
        except KdlibError as error:  # its fields, as the options of the command
            said = str(error).removeprefix("Config field ")
            said = FIELD.sub(lambda found: f"--{found[1].replace('_', '-')} ", said)
            raise KdlibError(said) from None

    def key(self):
        """The name of its files."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.name}{fold}-s{self.seed}"


def own(name, **fields):
    """The Own of a method or arm, without the loss fields that it does not read.

    A name that is neither is that of a teacher, which is trained on labels alone."""
    method = {"method": name if name in METHODS else "one_hot"}
    fields = {"name": name} | fields | (ARMS[name].fields if name in ARMS else method)
    idle = idle_fields(fields["method"])
    return Own(**{field: value for field, value in fields.items() if field not in idle})


def asked(preset, teacher, student, methods, fields):
    """([Named of the teacher, of the student], [Own of each method], fields of Own) of a command.

    Networks are those of a preset where they are not given. KdlibError for what cannot be used."""
    check_methods(methods)
    check_read(methods, fields)
    if preset in PRESETS:
        teacher, student = teacher or PRESET_TEACHERS[0], student or PRESET_STUDENT
    networks = []
    for role, text in (("teacher", teacher), ("student", student)):
        if text is None:
            raise KdlibError(f"--{role}: name a network, as in --{role} torchvision:resnet18.")
        try:
            networks.append(named(text))
        except KdlibError as error:
            raise KdlibError(f"--{role} {error}") from None
    fields = recipe(preset, **fields) | {"student": student, "teacher": networks[0].network}
    return networks, [own(name, **fields) for name in methods], fields


def offered():
    """Methods and arms for own images: none that needs val as training images, another teacher, or
    a choice after training."""
    methods = [name for name, method in METHODS.items() if not method.adjusted]
    lacking = {"with_val", "teacher_method"}
    return [*methods, *(name for name, arm in ARMS.items() if lacking.isdisjoint(arm.fields))]


def check_methods(names, processes=1):
    """KdlibError for methods that own images cannot be trained with, or that leave no question."""
    known = offered()
    for name in names:
        if name not in known:
            raise KdlibError(f"--methods {name!r}: {did_you_mean(name, known)}")
        if processes > 1 and name in METHODS and METHODS[name].whole_batch:
            raise KdlibError(
                f"--methods {name}: it looks at all images of a batch, of which each of the "
                f"{processes} processes has a part; run it in one process."
            )
    if len(set(names)) < len(names):
        raise KdlibError(f"--methods {','.join(names)}: a method is named twice.")
    if "one_hot" not in names or len(names) < 2:
        raise KdlibError(
            "--methods: must name one_hot, the baseline without which nobody can say whom "
            "distillation hurt, and at least one more, such as kd or ada_alpha."
        )


def check_read(names, fields):
    """KdlibError for a field of a loss, other than None, that none of the methods reads."""
    read = set()
    for name in names:
        arm = ARMS[name].fields if name in ARMS else {"method": name}
        read |= set(METHODS[arm["method"]].knobs) - set(arm)
    for field in sorted(loss_fields() & set(fields) - read):
        if fields[field] is not None:
            raise KdlibError(
                f"--{field.replace('_', '-')} {fields[field]}: none of the methods "
                f"{', '.join(names)} reads it; leave it out."
            )


def recipe(preset=None, **given):
    """Fields of Own that all networks of a distillation share; those given as None are usual.

    The learning rate grows with the batch unless it is given; the warm-up fits into few epochs."""
    if preset is not None and preset not in PRESETS:
        raise KdlibError(f"--preset {preset!r}: {did_you_mean(preset, PRESETS)}")
    given = {name: value for name, value in given.items() if value is not None}
    usual = PRESETS[preset] if preset else USUAL
    fields = usual | given
    # checked here, since others are reckoned from them
    Own(**{name: fields[name] for name in ("epochs", "batch_size", "size")})
    if "lr" not in fields:
        fields["lr"] = RATE * fields["batch_size"]
    if "warmup" not in given:
        fields["warmup"] = min(fields["warmup"], fields["epochs"] // 10)
    if "epochs" in given and "milestones" in fields and "milestones" not in given:
        scaled = (round(m * fields["epochs"] / usual["epochs"]) for m in fields["milestones"])
        fields["milestones"] = tuple(sorted({m for m in scaled if 0 < m < fields["epochs"]}))
    return {"augment": "padded" if fields["size"] <= SMALL else "resized"} | fields


def check_batches(counts, batch_size, processes):
    """KdlibError if the last batch of an epoch has too few images for its processes.

    counts: of the training images; several where folds of them are left out, too."""
    least = LEAST_IN_BATCH * processes

    def left_alone(size):
        return next((n for n in counts if n < least or 0 < n % size < least), None)

    if min(counts) < least or batch_size < least:
        raise KdlibError(
            f"--batch-size {batch_size}: {count_of(min(counts), 'training image')} and "
            f"{count_of(processes, 'process', 'processes')}; each needs {LEAST_IN_BATCH} images of "
            "every batch."
        )
    if (images := left_alone(batch_size)) is not None:
        smaller = range(batch_size - 1, least - 1, -1)
        larger = range(batch_size + 1, max(counts) + 1)
        works = next(size for size in (*smaller, *larger) if left_alone(size) is None)
        raise KdlibError(
            f"--batch-size {batch_size}: of {images:,} training images it leaves "
            f"{images % batch_size} for the last batch, and {least} are needed; --batch-size "
            f"{works} works."
        )
