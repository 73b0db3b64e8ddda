"""Audits of models: the numbers of an audit of their logits, whatever the batches and the models
look like, and models that are afterwards as they were before."""

import collections
import copy
import functools
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused
from scipy.special import expit
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import kdlib
from kdlib.asking.reduced import Reduced
from kdlib.auditing.progress import PARTS

N, C, WIDTH = 90, 3, 5
RNG = np.random.default_rng(0)
Y = np.arange(N) % C
X = torch.tensor(np.eye(WIDTH)[Y] + 0.6 * RNG.normal(size=(N, WIDTH)), dtype=torch.float32)
GROUP = RNG.integers(0, 2, N)
NAMED = np.array(["old", "young"])[GROUP]
HALVES = {"resamples": 20, "progress": False}


def network(seed, classes=C):
    """A module whose outputs differ in eval mode, and that changes its inputs in place."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Dropout(0.1, inplace=True),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(WIDTH),
        nn.Linear(WIDTH, 16),
        nn.Dropout(0.5),
        nn.Linear(16, classes),
    )
    module(X.clone())  # statistics of its own
    return module


TEACHER, STUDENT, BASELINE = map(network, range(3))


def logits_of(module, x=X):
    """(N, C) of a module in eval mode, asked at once."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        return module(x.clone()).numpy()


def batches(x=X, y=Y, *more, size=32, **options):
    """A loader in order, whose last batch is smaller."""
    held = [torch.as_tensor(part) for part in (x, y, *more)]
    return DataLoader(TensorDataset(*held), batch_size=size, **options)


def ask(teacher=TEACHER, student=STUDENT, loader=None, **options):
    loader = batches() if loader is None else loader
    return kdlib.audit_models(teacher, student, loader, **HALVES | options)


def by_hand(*models, **options):
    """The audit of the logits of modules."""
    return kdlib.audit(Y, *map(logits_of, models), resamples=20, **options)


def same(found, other, tolerance=1e-9):
    """Whether two audits have the same numbers."""
    assert found.metrics.keys() == other.metrics.keys()
    for name, value in found.metrics.items():
        values = [getattr(v, "estimate", v) for v in (value, other.metrics[name])]
        np.testing.assert_allclose(*values, atol=tolerance, err_msg=name)
    for name in ("groups", "calibration", "transfer"):
        mine, others = getattr(found, name), getattr(other, name)
        pd.testing.assert_frame_equal(mine, others, check_exact=False, atol=tolerance)


def never(*_):
    raise AssertionError("was asked although the options are wrong")


# ---------------------------------------------------------------- the same numbers


def test_numbers_are_those_of_an_audit_of_the_logits_and_of_scikit_learn():
    found = ask(baseline=BASELINE)
    same(found, by_hand(TEACHER, STUDENT, BASELINE))
    for role, module in {"teacher": TEACHER, "student": STUDENT, "baseline": BASELINE}.items():
        logits = logits_of(module)
        right = 100 * accuracy_score(Y, logits.argmax(axis=1))
        assert found.metrics[f"{role}_accuracy"].estimate == pytest.approx(right, abs=1e-9)
        p = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(float)
        loss = log_loss(Y, p / p.sum(axis=1, keepdims=True))
        assert found.metrics[f"{role}_log_loss"] == pytest.approx(loss, abs=1e-6)


def test_several_seeds_are_asked_in_their_order():
    teachers, students, baselines = (list(map(network, s)) for s in ((0, 3), (1, 4), (2, 5, 6)))
    found = kdlib.audit_models(teachers, students, batches(), baselines, **HALVES)
    logits = [list(map(logits_of, modules)) for modules in (teachers, students, baselines)]
    same(found, kdlib.audit(Y, *logits, kind="logits", resamples=20))
    assert [role for role, _, _ in found.inputs][1:] == ["teacher"] * 2 + ["student"] * 2 + [
        "baseline"
    ] * 3


@pytest.mark.parametrize("size", [1, 7, N, 1000])
def test_the_size_of_a_batch_changes_nothing(size):
    same(ask(loader=batches(size=size)), by_hand(TEACHER, STUDENT))


LABELS = {
    "(B, 1)": torch.as_tensor(Y)[:, None],
    "floats": torch.as_tensor(Y).float(),
    "bytes": torch.as_tensor(Y).to(torch.uint8),
    "one-hot": nn.functional.one_hot(torch.as_tensor(Y)),
    "one-hot floats": nn.functional.one_hot(torch.as_tensor(Y)).double(),
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_of_every_form(form):
    same(ask(loader=batches(X, LABELS[form])), by_hand(TEACHER, STUDENT))


class ByName(nn.Module):
    """Takes inputs by name and returns an object with logits, as Hugging Face's models do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, left=None, right=None):
        return SimpleNamespace(loss=None, logits=self.module(torch.cat([left, right], dim=1)))


def test_dictionaries_go_to_the_model_by_name_and_without_the_labels():
    held = [{"left": X[i, :2], "right": X[i, 2:], "labels": Y[i], "idx": str(i)} for i in range(N)]
    found = ask(ByName(TEACHER), ByName(STUDENT), DataLoader(held, batch_size=32))
    same(found, by_hand(TEACHER, STUDENT))
    # one tensor alone goes by place
    held = collections.UserDict(pixel_values=X.clone(), label=[float(label) for label in Y])
    same(ask(loader=[held]), by_hand(TEACHER, STUDENT))


Pair = collections.namedtuple("Pair", "logits aux")
FORMS = {
    "tuple of one": lambda logits: (logits,),
    "logits beside hidden states": lambda logits: (logits, (X, X), torch.zeros(())),
    "named tuple": lambda logits: Pair(logits, logits[:, :1]),
    "dictionary": lambda logits: {"loss": torch.zeros(()), "logits": logits, "features": X},
    "dictionary of one": lambda logits: {"out": logits},
    "array": lambda logits: logits.numpy(),
    "double": lambda logits: logits.double(),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_every_form(form):
    found = ask(lambda x: FORMS[form](TEACHER(x)), lambda x: FORMS[form](STUDENT(x)))
    same(found, by_hand(TEACHER, STUDENT))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is(precision):
    found = ask(lambda x: TEACHER(x).to(precision), lambda x: STUDENT(x).to(precision))
    rounded = [torch.tensor(logits_of(m)).to(precision).float().numpy() for m in (TEACHER, STUDENT)]
    same(found, kdlib.audit(Y, *rounded, resamples=20))


def test_autocast_is_left_to_whoever_asks():
    with torch.autocast("cpu", torch.bfloat16):
        found = ask()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = [copy.deepcopy(m).eval()(X.clone()) for m in (TEACHER, STUDENT)]
    assert rounded[0].dtype == torch.bfloat16
    rounded = [logits.float().numpy() for logits in rounded]
    same(found, kdlib.audit(Y, *rounded, resamples=20), 1e-6)


def test_a_generator_is_read_once_and_every_model_sees_each_batch_once():
    calls = collections.Counter()

    def counting(name, module):
        def model(x):
            calls[name, len(x)] += 1
            return module(x)

        return model

    loader = ((X[i : i + 40].clone(), torch.as_tensor(Y[i : i + 40])) for i in range(0, N, 40))
    found = ask(counting("teacher", TEACHER), counting("student", STUDENT), loader)
    same(found, by_hand(TEACHER, STUDENT))
    assert calls == {(role, n): k for role in ("teacher", "student") for n, k in ((40, 2), (10, 1))}


def test_a_model_that_changes_its_inputs_changes_them_for_no_other():
    def spoiling(x):
        logits = TEACHER(x.clone())
        x.zero_()
        return logits

    held = {"x": X.clone(), "y": torch.as_tensor(Y)}
    same(ask(spoiling, loader=[held]), by_hand(TEACHER, STUDENT))
    assert torch.equal(held["x"], X)


def test_masked_classes_may_have_minus_infinity():
    def masked(x):
        logits = TEACHER(x)
        logits[:, 0] = -torch.inf
        return logits

    expected = logits_of(TEACHER)
    expected[:, 0] = -np.inf
    same(ask(masked), kdlib.audit(Y, expected, logits_of(STUDENT), resamples=20))


def test_of_every_example_seven_numbers_are_kept_however_many_classes_there_are():
    model = Reduced(lambda x: x, "teacher")
    for start in range(0, 4000, 100):
        y = np.zeros(100, dtype=int)
        model.add(model.scores((torch.randn(100, 1000),), {}, 100, start), y, start)
    kept = [array for part in model.parts for array in part]
    assert sum(array.nbytes for array in kept) == 4000 * 7 * 8
    assert all(array.base is None for array in kept)


# ---------------------------------------------------------------- probabilities and one score


def test_a_softmax_at_the_end_is_noticed_and_said():
    found = ask(nn.Sequential(TEACHER, nn.Softmax(dim=1)))
    same(found, by_hand(TEACHER, STUDENT), 1e-4)
    assert "teacher: Sequential on cpu; probabilities of 3 classes." in found.read
    assert "student: Sequential on cpu; logits of 3 classes." in found.read


def test_probabilities_that_are_said_to_be_logits_are_refused():
    said = refused(ask, lambda x: TEACHER(x).softmax(dim=1), kind={"teacher": "logits"})
    assert said == (
        "teacher: said to be logits, but every row is a probability already; "
        "a softmax would be taken twice."
    )


def test_what_yields_no_batches_or_would_lose_the_weights_is_refused():
    assert (
        refused(kdlib.audit_models, TEACHER, STUDENT, None) == "loader: NoneType yields no batches."
    )
    before = copy.deepcopy(TEACHER.state_dict())
    assert "device 'meta': torch cannot use it" in refused(ask, device="meta")
    for name, kept in TEACHER.state_dict().items():
        assert torch.equal(kept, before[name])


def test_a_row_that_adds_up_to_one_by_chance_does_not_make_logits_probabilities():
    logits = logits_of(TEACHER)
    logits[0] = [0.2, 0.3, 0.5]
    found = ask(lambda x: x, lambda x: -x, batches(logits, Y, size=1))
    same(found, kdlib.audit(Y, logits, -logits, kind="logits", resamples=20))


def of_two(kind):
    """(labels, one score of each example, the two that it stands for)."""
    z = logits_of(network(7, 1))[:, 0].astype(np.float64)
    two = np.column_stack([np.zeros(N), z])
    return Y % 2, z if kind == "logits" else expit(z), two


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_one_score_is_that_of_the_second_class(kind, shape):
    y, score, two = of_two(kind)
    asked = "auto" if kind == "logits" else kind
    loader = batches(score.reshape(shape), y)
    classes = ["no", "yes"]
    found = ask(lambda x: x, lambda x: x.flip(0), loader, kind=asked, classes=classes)
    flipped = np.concatenate([part[::-1] for part in np.split(two, [32, 64])])
    expected = kdlib.audit(y, two, flipped, kind="logits", classes=classes, resamples=20)
    same(found, expected)
    word = {"logits": "logit", "probabilities": "probability"}[kind]
    assert any(f"its one score is the {word} of 'yes'." in line for line in found.read)


def test_one_score_from_0_to_1_is_ambiguous():
    y, score, _ = of_two("probabilities")
    said = refused(ask, lambda x: x, lambda x: x, batches(score, y))
    assert said.startswith("teacher: gives one number from 0 to 1") and "kind='logits'" in said
    found = ask(lambda x: x, lambda x: -x, batches(score, y), kind="logits")
    two = np.column_stack([np.zeros(N), score])
    same(found, kdlib.audit(y, two, -two, kind="logits", resamples=20))


# ---------------------------------------------------------------- models as they were before


def state(module):
    """What must not change: modes, parameters, statistics, gradients."""
    modes = [part.training for part in module.modules()]
    tensors = [value.clone() for value in module.state_dict().values()]
    return (
        modes,
        tensors,
        [p.grad for p in module.parameters()],
        [p.device for p in module.parameters()],
    )


def unchanged(module, before):
    modes, tensors, grads, devices = state(module)
    assert (modes, grads, devices) == (before[0], before[2], before[3])
    assert all(map(torch.equal, tensors, before[1]))


@pytest.mark.parametrize("stop", [None, ValueError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_every_submodule_is_restored_whatever_happens(stop, device):
    modules = [network(0).train(), network(1).eval()]
    modules[0][2].eval()  # frozen statistics in a network that trains
    modules[1][4].train()  # dropout that is on in one that does not
    before = list(map(state, modules))

    def loader():
        yield from batches()
        if stop:
            raise stop

    if stop:
        with pytest.raises(type(stop)):
            ask(*modules, loader(), device=device)
    else:
        same(ask(*modules, loader(), device=device), by_hand(*modules))
    for module, its in zip(modules, before, strict=True):
        unchanged(module, its)
    assert torch.is_grad_enabled()


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ask(lambda x: TEACHER(x) + torch.rand(1), loader=batches(shuffle=True))
    assert torch.equal(torch.rand(4), expected)


def test_what_a_module_caches_can_be_trained_with_afterwards():
    class Caching(nn.Linear):
        cache = None

        def forward(self, x):
            if self.cache is None:
                self.cache = torch.linspace(1, 2, WIDTH)
            return nn.functional.linear(x, self.weight * self.cache)

    module = Caching(WIDTH, C)
    ask(module)
    module(X.clone()).sum().backward()
    assert module.weight.grad is not None


def test_compiled_and_scripted_modules_are_restored_too():
    with warnings.catch_warnings(action="ignore"):  # scripting is deprecated
        module = nn.Linear(WIDTH, C).train()
        scripted = torch.jit.script(nn.Linear(WIDTH, C)).train()
        compiled = torch.compile(module, backend="eager")
        same(ask(compiled, scripted), by_hand(module, scripted))
    assert compiled.training and module.training and scripted.training


class Held:
    def __init__(self, module):
        self.module = module

    def __call__(self, x):
        return self.module(x)


def function_of(module):
    return lambda x: module(x)


def test_a_module_that_puts_itself_into_training_mode_is_refused():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = network(1)

        def forward(self, x):
            self.inside.train()
            return self.inside(x)

    restless = Restless().eval()
    said = refused(ask, restless)
    assert said.startswith("teacher: went into training mode in the batch from example 0 on")
    assert not restless.inside.training


@pytest.mark.parametrize(
    "wrap",
    [
        Held,
        function_of,
        lambda module: module.forward,
        lambda module: Held(module).__call__,
        lambda module: functools.partial(lambda m, x: m(x), module),
        lambda module: (lambda several: lambda x: several[0](x))([module]),
    ],
    ids=["object", "function", "method", "method of an object", "partial", "list"],
)
def test_modules_that_a_function_refers_to_are_in_eval_mode(wrap):
    module = network(8).train()
    before = state(module)
    found = ask(wrap(module))
    same(found, by_hand(module, STUDENT))
    unchanged(module, before)
    assert "teacher, student: Sequential on cpu; logits of 3 classes." in found.read


def test_a_function_whose_module_cannot_be_found_is_said_to_be_called_as_it_is():
    found = ask(lambda x: x[:, :C])
    assert any("teacher: a function of no module" in line for line in found.read)


# ---------------------------------------------------------------- groups, order, options


def test_groups_by_table_by_function_and_by_the_batch_are_one():
    expected = by_hand(TEACHER, STUDENT, groups=NAMED)
    same(ask(groups=NAMED), expected)
    by_number = batches(X, Y, GROUP)
    same(ask(loader=by_number, groups=lambda batch: np.array(["old", "young"])[batch[2]]), expected)
    held = [(X[i], Y[i], str(NAMED[i])) for i in range(N)]
    found = ask(loader=DataLoader(held, batch_size=32))
    same(found, expected)
    assert "the groups are what the batches hold besides inputs and labels." in found.read[1]
    held = [{"x": X[i], "y": Y[i], "group": str(NAMED[i])} for i in range(N)]
    same(ask(loader=DataLoader(held, batch_size=32)), expected)
    # a table counts, not the batch
    same(ask(loader=by_number, groups=NAMED), expected)


def test_a_function_may_return_several_columns():
    both = {"sex": GROUP, "age": NAMED}
    found = ask(
        loader=batches(X, Y, GROUP),
        groups=lambda batch: {"sex": batch[2], "age": [["old", "young"][g] for g in batch[2]]},
    )
    same(found, by_hand(TEACHER, STUDENT, groups=both))


def test_groups_are_shuffled_with_the_examples():
    torch.manual_seed(0)
    found = ask(loader=batches(X, Y, GROUP, shuffle=True))
    expected = by_hand(TEACHER, STUDENT, groups=GROUP)
    for column in ("n", "teacher", "student", "gain"):
        np.testing.assert_allclose(found.groups[column], expected.groups[column], atol=1e-9)


def test_what_differs_for_every_example_is_no_group_and_said():
    found = ask(loader=batches(X, Y, np.arange(N)))
    same(found, by_hand(TEACHER, STUDENT))
    assert "is taken for ids." in found.read[1]


def test_rows_of_a_table_are_refused_where_the_loader_has_another_order():
    for options in ({"groups": NAMED}, {"weights": np.ones(N)}):
        said = refused(ask, loader=batches(shuffle=True), **options)
        assert said.startswith(f"{[*options][0]}: is given in the order of the examples, but")
    random = WeightedRandomSampler(torch.ones(N), N)
    assert "with replacement" in refused(ask, loader=batches(sampler=random))
    for sampler, wrong in ((random, "with replacement"), (RandomSampler(range(N)), "in another;")):
        data = TensorDataset(X, torch.as_tensor(Y))
        inside = DataLoader(data, batch_sampler=BatchSampler(sampler, 32, drop_last=False))
        assert wrong in refused(ask, loader=inside, groups=NAMED)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(TensorDataset(X, torch.as_tensor(Y)))

    stream = DataLoader(Stream(), batch_size=32)
    same(ask(loader=stream, groups=NAMED), by_hand(TEACHER, STUDENT, groups=NAMED))


def test_a_matrix_beside_the_labels_is_of_groups_or_asks_which_column_is():
    members = np.column_stack([GROUP, 1 - GROUP, np.ones(N, dtype=int)])
    expected = by_hand(TEACHER, STUDENT, groups=members)
    same(ask(loader=batches(X, Y, members)), expected)
    metadata = np.column_stack([GROUP, np.arange(N)])
    said = refused(ask, loader=batches(X, Y, metadata))
    assert "int64 of shape (32, 2), which are no groups; say which column is, as in" in said
    chosen = ask(loader=batches(X, Y, metadata), groups=lambda batch: batch[2][:, 0])
    same(chosen, by_hand(TEACHER, STUDENT, groups=GROUP))
    same(ask(loader=batches(X, Y, metadata), groups=GROUP), chosen)


def test_rows_of_another_number_are_refused_before_the_work():
    said = refused(ask, never, never, groups=NAMED[:-1])
    assert said == "groups: has 89 rows, but the loader 90 examples."


def test_examples_that_the_loader_leaves_out_are_said():
    found = ask(loader=batches(drop_last=True))
    assert found.n == 64 and any("drop_last" in line for line in found.read)


def test_options_are_those_of_an_audit():
    options = {"weights": RNG.uniform(1, 2, N), "worst": 2, "title": "ours", "groups": NAMED}
    options |= {"train_counts": {"old": 10, "young": 500}, "edges": (100, 20)}
    found = ask(**options)
    same(found, by_hand(TEACHER, STUDENT, **options))
    assert (found.title, found.worst) == ("ours", 2)


@pytest.mark.parametrize("names", [("3", "1", "2"), ("1", "0", "10"), ("cat", "dog", "newt")])
def test_classes_called_by_numbers_keep_their_places(names):
    found = ask(classes=names)
    assert found.class_names == names
    expected = by_hand(TEACHER, STUDENT).groups.set_index("group")
    mine = found.groups.set_index("group")
    for place, name in enumerate(names):
        assert mine.gain[name] == pytest.approx(expected.gain[str(place)], abs=1e-9)


def test_a_class_that_never_occurs_is_a_class_all_the_same():
    wide = network(9, 7)
    assert ask(wide, network(10, 7)).class_names == tuple("0123456")


def test_progress_is_shown_on_request_and_never_needed(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    same(ask(progress=True), by_hand(TEACHER, STUDENT))
    assert capsys.readouterr().err == ""


def test_a_function_is_told_the_parts_of_the_audit():
    told = []
    ask(progress=told.append)
    assert told == list(PARTS)


# ---------------------------------------------------------------- refusals


def spoiled(module, value, example):
    """A module whose first score of an example is a value."""

    def model(x):
        chosen = (x == X[example]).all(dim=1)
        logits = module(x)
        logits[chosen, 0] = value
        return logits

    return model


def soft():
    y = nn.functional.one_hot(torch.as_tensor(Y)).double()
    y[50] = torch.tensor([0.2, 0.3, 0.5])
    return y


def at(row, value, dtype=int):
    y = Y.astype(dtype)
    y[row] = value
    return y


BATCHES = {
    "no example": ([], "loader: yields no example"),
    "an empty generator": (iter(()), "a generator that was read before has nothing left."),
    "inputs alone": ([X], "loader: a batch is one Tensor and has no labels"),
    "a list of inputs": ([[X]], "loader: a batch is a list of 1 and has no labels"),
    "no label": ([{"x": X, "age": X}], "loader: a batch holds x, age; call its labels labels"),
    "no input": ([{"labels": Y, "x": "text"}], "no tensor is left for the model."),
    "one example": (TensorDataset(X, torch.as_tensor(Y)), "loader: yields single examples"),
    "text": ([(X, list("abc") * 30)], "labels: must be whole numbers"),
    "soft labels": (
        batches(X, soft()),
        "labels: label in example 50 is [0.2 0.3 0.5], not one class",
    ),
    "fractions": (
        batches(X, at(40, 0.5, float)),
        "labels: label in example 40 is 0.5, not a whole",
    ),
    "NaN": (batches(X, at(40, np.nan, float)), "labels: label in example 40 is nan, not a whole"),
    "infinity": (
        batches(X, at(40, np.inf, float)),
        "labels: label in example 40 is inf, not a whole",
    ),
    "too large": (
        batches(X, at(70, C)),
        "labels: label in example 70 is 3, not a number from 0 to 2.",
    ),
    "too small": (
        batches(X, at(70, -100)),
        "labels: label in example 70 is -100, not a number from",
    ),
    "ragged labels": ([(X, [[1], [1, 2]])], "labels: a batch holds what is no array ("),
    "maps": ([(X, torch.zeros(N, 4, 4))], "labels: must be whole numbers, one for each example"),
    "too few labels": ([(X, torch.as_tensor(Y[:9]))], "(90, 3) for 9 examples"),
}


@pytest.mark.parametrize("what", BATCHES)
def test_batches_that_cannot_be_used_are_one_sentence(what):
    loader, says = BATCHES[what]
    assert says in refused(ask, loader=loader)


MODELS = {
    "maps": (
        lambda x: torch.zeros(len(x), C, 4, 4),
        "student: returns float32 of shape (32, 3, 4, 4)",
    ),
    "classes": (lambda x: x.argmax(dim=1), "student: returns int64 of shape (32,) for 32 examples"),
    "one row": (lambda x: x[0, :C], "student: returns float32 of shape (3,) for 32 examples"),
    "sparse": (lambda x: x[:, :C].to_sparse(), "student: a batch holds what is no array ("),
    "ragged": (lambda x: SimpleNamespace(logits=[[1.0], [1.0, 2.0]]), "no array ("),
    "no class": (lambda x: x[:, :0], "student: returns float32 of shape (32, 0)"),
    "two matrices": (
        lambda x: (x, x[:, :C]),
        "student: returns a tuple in which the scores cannot",
    ),
    "nothing": (lambda x: None, "student: returns a NoneType in which the scores cannot be told"),
    "other classes": (lambda x: x, "student: gives scores of 5 classes, but teacher of 3"),
    "NaN": (spoiled(STUDENT, torch.nan, 41), "student: a score in example 41 is nan, not a finite"),
    "infinity": (
        spoiled(STUDENT, torch.inf, 64),
        "student: a score in example 64 is inf, not a finite",
    ),
    "sigmoids": (lambda x: STUDENT(x).sigmoid(), "like neither logits nor probabilities"),
    "a file": ("student.npz", "student: str is neither a module of torch nor a function"),
    "no model": ([], "an audit needs a teacher and a student."),
    "three": ([STUDENT] * 3, "teacher: 2 of them, but the number of students is 3;"),
    "the same twice": ([STUDENT, STUDENT], "holds the same as"),
}


@pytest.mark.parametrize("what", MODELS)
def test_models_that_cannot_be_used_are_one_sentence(what):
    student, says = MODELS[what]
    teacher = [TEACHER, BASELINE] if what == "three" else TEACHER
    assert says in refused(ask, teacher, student)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"kind": "logit"}, "kind 'logit': did you mean 'logits'?"),
        ({"kind": "classes"}, "models must give scores"),
        ({"worst": "2"}, "worst '2': must be a whole number"),
        ({"resamples": 1}, "resamples 1: must be"),
        ({"edges": (1, 2)}, "edges (1, 2)"),
        ({"classes": ["a", "a"]}, "is there twice"),
        ({"groups": "nowhere.csv"}, "nowhere.csv: "),
        ({"weights": "nowhere.csv"}, "nowhere.csv: "),
        ({"device": "abacus"}, "device 'abacus': torch cannot use it"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_the_work(options, says):
    assert says in refused(ask, never, never, **options)


def test_a_misspelt_option_is_a_type_error_before_the_work():
    with pytest.raises(TypeError, match="wurst"):
        ask(never, never, wurst=3)


def test_names_of_classes_must_be_as_many_as_the_scores():
    said = refused(ask, classes=["a", "b"])
    assert said == "teacher: gives scores of 3 classes, but 2 names of classes came with it."


@pytest.mark.parametrize("first, last", [(1, 2), (2, 1), (3, 4)])
def test_a_model_whose_scores_become_more_or_fewer_is_refused(first, last):
    def model(x):
        return x[:, : first if len(x) == 32 else last]

    scores = "1 score" if last == 1 else f"{last} scores"
    said = refused(ask, model, model, batches(X, Y % 2))
    start = "teacher: returns"
    assert (
        said
        == f"{start} {scores} for each example in the batch from example 64 on, but {first} before."
    )


def test_probabilities_that_are_none_are_refused_with_their_example():
    said = refused(ask, kind="probabilities")
    assert said.startswith("teacher: the row of scores in example 0 is [")
    assert said.endswith("], not one of probabilities.")


def test_an_error_of_a_model_names_it_and_the_batch():
    def model(x):
        if len(x) < 32:
            raise RuntimeError("theirs")
        return STUDENT(x)

    with pytest.raises(RuntimeError, match="theirs") as error:
        ask(student=model)
    assert error.value.__notes__ == ["kdlib: from the student, in the batch from example 64 on"]


def test_groups_of_another_number_are_refused():
    said = refused(ask, groups=lambda batch: [1, 2])
    assert said.startswith("groups: (2,) is their shape in a batch of 32 examples from example 0")


def test_groups_of_another_shape_are_refused():
    said = refused(ask, groups=lambda batch: torch.rand(len(batch[0]), 2, 2))
    assert said.startswith("groups: a batch has float32 of shape (32, 2, 2), which are no groups")
    flags = torch.zeros(N, 2, dtype=int)
    held = [(X, torch.as_tensor(Y), flags), (X, torch.as_tensor(Y), flags[:, 0])]
    assert refused(ask, loader=held) == "groups: batches differ in shape from example 90 on."
    column = ask(loader=batches(X, Y, GROUP[:, None]))
    same(column, by_hand(TEACHER, STUDENT, groups=GROUP))
