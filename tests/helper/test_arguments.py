"""What the losses refuse, in which words, and what they must not refuse."""

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from torch.func import vmap

from kdlib import arguments, losses, rivals
from kdlib.arguments import TAKES, WHOLE, trusted
from kdlib.config import Config
from kdlib.losses import ada_alpha, distill, kd, label_margin, margin, one_hot
from kdlib.models import build
from kdlib.step import Run, method_loss
from kdlib.study.experiment import load
from kdlib.teacher import frozen, group_margins
from kdlib.train import fit

N, C, G = 40, 5, 3
FUNCTIONS = {
    name: function
    for name, function in {**vars(losses), **vars(rivals), "group_margins": group_margins}.items()
    if inspect.isfunction(function) and hasattr(function, "__wrapped__")
}
CHECKED = [
    (name, argument)
    for name, function in FUNCTIONS.items()
    for argument in inspect.signature(function).parameters
]
TENSORS = [pair for pair in CHECKED if pair[1] in TAKES and () not in TAKES[pair[1]].shapes]


def right(name, dtype=torch.float32):
    """{argument: value} that the function of that name takes."""
    g = torch.Generator().manual_seed(0)
    f, t = (3 * torch.randn(N, C, generator=g).to(dtype) for _ in range(2))
    values = {
        "logits": f,
        "teacher_logits": t,
        "p": t.softmax(dim=1),
        "y": torch.arange(N) % C,
        "group": torch.arange(N) % G,
        "margin": torch.tensor([0.1, 0.5, 0.9]),
        "margins": torch.linspace(-1, 1, N),
        "alpha": torch.linspace(0, 1, N),
        "rho": torch.linspace(-1, 2, C),
        "prior": torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]),
        "weight": torch.tensor([0.2, 0.4, 0.8, 1.6, 2.0]),
        "counts": torch.tensor([40, 30, 15, 10, 5]),
        "part": torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 1]]),
        "temperature": 2.0,
        "group_names": ("a", "b", "c"),
    }
    known = inspect.signature(FUNCTIONS[name]).parameters
    return {argument: value for argument, value in values.items() if argument in known}


def said(name, **wrong):
    """What the function of that name says when these of its arguments are wrong."""
    sentence = refused(FUNCTIONS[name], **right(name) | wrong)
    assert sentence.startswith(f"{name}: ")
    return sentence


# ---------------------------------------------------------------- all of them


def test_every_loss_checks_its_arguments():
    names = {"one_hot", "distill", "kd", "ada_alpha", "ada_margin", "margin", "label_margin"}
    names |= {"logit_adjusted", "balanced_kd", "decoupled_kd", "long_tailed_kd", "post_hoc_tau"}
    assert set(FUNCTIONS) == names | {"effective_weights", "group_margins"}
    for module in (losses, rivals):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and "logits" in inspect.signature(function).parameters:
                assert name in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_arguments_give_what_the_loss_gives_unchecked(name):
    checked = FUNCTIONS[name](**right(name))
    plain = FUNCTIONS[name].__wrapped__(**right(name))
    assert torch.equal(torch.as_tensor(checked), torch.as_tensor(plain))


@pytest.mark.parametrize("name, argument", TENSORS)
def test_a_list_an_array_and_a_wrong_shape_are_refused_by_name(name, argument):
    value = right(name)[argument]
    for wrong, kind in ((value.tolist(), "list"), (value.numpy(), "ndarray")):
        sentence = said(name, **{argument: wrong})
        assert f"{argument} is of type {kind}, but must be a torch tensor" in sentence
    for wrong in (value[None], value[..., None], value.sum()):
        sentence = said(name, **{argument: wrong})
        assert f"{argument} has the shape {tuple(wrong.shape)}, but must have the shape" in sentence


PAIRS = [pair for pair in TENSORS if pair[1] in ("teacher_logits", "y", "group", "prior", "weight")]


@pytest.mark.parametrize("name, argument", [pair for pair in PAIRS if pair[0] != "label_margin"])
def test_a_tensor_that_does_not_fit_the_first_is_refused_though_torch_would_broadcast(
    name, argument
):
    for wrong in (right(name)[argument][:1], right(name)[argument][1:]):
        assert f"{argument} has the shape {tuple(wrong.shape)}" in said(name, **{argument: wrong})


@pytest.mark.parametrize("name, argument", [pair for pair in TENSORS if pair[1] in ("y", "group")])
def test_labels_and_groups_out_of_range_or_of_another_type_are_refused(name, argument):
    whole = right(name)[argument]
    last = whole.max().item()
    for place, wrong in ((3, -1), (7, -100), (0, last + 1)):
        changed = whole.clone()
        changed[place] = wrong
        words = f"{argument}[{place}] is {wrong}, but must lie between 0 and {last}: "
        assert words in said(name, **{argument: changed})
    for dtype in (torch.float32, torch.bool, torch.uint8, torch.int32):
        words = f"{argument} is of {dtype}, but must be of torch.int64: {argument}.long() helps"
        assert words in said(name, **{argument: whole.to(dtype)})


LOGITS = [pair for pair in TENSORS if pair[1] in ("logits", "teacher_logits")]


@pytest.mark.parametrize("name, argument", LOGITS)
def test_probabilities_in_place_of_logits_are_refused_in_every_precision(name, argument):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        p = right(name)[argument].softmax(dim=1).to(dtype)
        for wrong in (p, torch.eye(C, dtype=dtype)[torch.arange(N) % C]):  # one-hot rows too
            words = f"{argument} holds probabilities, but must hold logits: pass the scores"
            assert words in said(name, **{argument: wrong})
    for rounded in (p.half().float(), p.mul(1e4).round() / 1e4):  # as they come from a file
        assert "holds probabilities" in said(name, **{argument: rounded})
    assert f"{argument} is of torch.int64" in said(name, **{argument: p.long()})


@pytest.mark.parametrize("name, argument", LOGITS)
def test_what_may_be_logits_is_taken(name, argument):
    f = right(name)[argument]
    scores = (
        f.log_softmax(dim=1),
        f.clamp(min=0),
        torch.zeros_like(f),
        f.softmax(dim=1) * 1.01,
        f.softmax(dim=1) - 0.01,
    )
    for good in scores:
        FUNCTIONS[name](**right(name) | {argument: good})


@pytest.mark.parametrize("name, argument", [pair for pair in TENSORS if pair[1] not in WHOLE])
def test_what_is_not_finite_is_refused_but_in_a_student_that_diverges(name, argument):
    for wrong in (torch.nan, torch.inf, -torch.inf):
        for dtype in (torch.float16, torch.float32, torch.float64):
            changed = right(name)[argument].to(dtype)
            at = (1,) * changed.ndim
            changed[at] = wrong
            if argument == "logits":
                FUNCTIONS[name](**right(name) | {argument: changed})
                continue
            words = f"{argument}{list(at)} is {wrong}, but must "
            assert words in said(name, **{argument: changed})


@pytest.mark.parametrize("name, argument", LOGITS)
def test_one_score_of_two_classes_is_refused_with_what_makes_two_of_it(name, argument):
    given = right(name)
    alone = {a: given[a][:, :1] for a in ("logits", "teacher_logits") if a in given}
    alone |= {"y": torch.zeros(N).long()} if "y" in given else {}
    words = f"has the shape ({N}, 1), but must hold two classes or more: one score f of"
    assert words in said(name, **alone)
    f = torch.randn(N, 1)
    two = torch.cat([0 * f, f], dim=1)
    y = torch.arange(N) % 2
    by_sigmoid = torch.nn.functional.binary_cross_entropy_with_logits(
        f[:, 0], y.float(), reduction="none"
    )
    assert torch.allclose(one_hot(two, y), by_sigmoid, atol=1e-6)


def test_a_row_alone_may_sum_to_one_by_chance_and_a_batch_may_be_empty():
    assert kd(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 2), torch.tensor([0])).shape == (1,)
    none = torch.zeros(0, dtype=torch.int64)
    f = torch.zeros(0, C)
    assert ada_alpha(f, f, none, none.clone(), torch.ones(G)).shape == (0,)


@pytest.mark.parametrize("name", [name for name, argument in LOGITS if argument != "logits"])
def test_the_teacher_gets_no_gradient_and_the_student_the_same(name):
    given = right(name)
    teacher = given["teacher_logits"].clone().requires_grad_()
    student = given.get("logits", teacher).clone().requires_grad_()
    grads = []
    for t in (given["teacher_logits"], teacher):
        both = {"logits": student, "teacher_logits": t}
        value = FUNCTIONS[name](**given | {k: both[k] for k in both if k in given}).sum()
        if name == "label_margin":
            assert not value.requires_grad
            continue
        grads.append(torch.autograd.grad(value, student, retain_graph=True)[0])
        assert teacher.grad is None and not torch.equal(grads[0], torch.zeros(N, C))
        assert torch.equal(grads[0], grads[-1])
        value.backward()
        assert teacher.grad is None


# ---------------------------------------------------------------- one by one


@pytest.mark.parametrize("wrong", [-0.1, 1.1, torch.nan, -torch.inf])
@pytest.mark.parametrize(
    "name, argument", [("ada_alpha", "margin"), ("kd", "alpha"), ("margin", "p")]
)
def test_weights_outside_0_and_1_are_refused_with_their_place(name, argument, wrong):
    changed = right(name)[argument].clone()
    at = (2,) * changed.ndim
    changed[at] = wrong
    assert f"{argument}{list(at)} is {wrong}, but must lie between 0 and 1: " in said(
        name, **{argument: changed}
    )
    nearly = right(name)[argument].clone()
    nearly[at] = 1 + 5e-7  # a mean of ones in float32
    FUNCTIONS[name](**right(name) | {argument: nearly})


def test_margins_of_examples_in_place_of_groups_are_refused():
    """By their length where groups are the classes, or where the batch shows that it has far fewer
    groups; by their values wherever the teacher is sure and wrong."""
    given = right("ada_alpha")
    of_examples = label_margin(given["teacher_logits"], given["y"])
    assert "margin[" in said("ada_alpha", margin=of_examples)
    inside = of_examples.clamp(0, 1)
    words = f"an entry for each of the {N} examples of the batch, but must have one for each group"
    assert words in said("ada_alpha", margin=inside)
    same = {"y": given["y"], "group": given["y"]}
    assert f"({N},), but must have the shape ({C} groups)" in said(
        "ada_alpha", margin=inside, **same
    )
    assert "group_margins" in said("ada_alpha", margin=inside)
    few = said("ada_alpha", margin=inside[:2])
    assert "group[2] is 2, but must lie between 0 and 1: " in few


def test_a_batch_may_lack_groups_and_have_as_many_examples_as_there_are_groups():
    given = right("ada_alpha")
    ada_alpha(**given | {"group": torch.zeros(N, dtype=torch.int64)})
    ada_alpha(**given | {"margin": torch.rand(1000)})  # of groups of which the batch has three
    g = torch.Generator().manual_seed(0)
    ada_alpha(**given | {"margin": torch.rand(N), "group": torch.randint(N, (N,), generator=g)})
    eight = {name: given[name][:8] for name in ("logits", "teacher_logits", "y", "group")}
    ada_alpha(**eight | {"group": torch.zeros(8).long()}, margin=torch.rand(8))
    classes = {"y": torch.zeros(C).long(), "group": torch.zeros(C).long()}
    ada_alpha(given["logits"][:C], given["teacher_logits"][:C], **classes, margin=torch.rand(C))


@pytest.mark.parametrize(
    "name, wrong, words",
    [
        ("kd", {"alpha": 1.5}, "alpha is 1.5, but must lie between 0 and 1: "),
        ("kd", {"alpha": torch.rand(N, 1)}, f"shape ({N} examples) or ()"),
        (
            "kd",
            {"temperature": [2]},
            "temperature is of type list, but must be a number or a torch",
        ),
        ("kd", {"temperature": 0}, "temperature is 0, but must be finite and above 0: "),
        ("distill", {"temperature": -1.0}, "temperature is -1.0, but must be finite and above 0: "),
        ("distill", {"temperature": torch.inf}, "temperature is inf, but must be finite and above"),
        ("kd", {"temperature": torch.tensor(0.0)}, "temperature is 0, but must be finite and"),
        ("logit_adjusted", {"tau": torch.nan}, "tau is nan, but must be finite and 0 or more: "),
        ("logit_adjusted", {"tau": "1"}, "tau is of type str, but must be a number or a torch te"),
        ("decoupled_kd", {"beta": -2}, "beta is -2, but must be finite and 0 or more: "),
        ("effective_weights", {"balance": 3}, "balance is 3, but must lie between 0 and 0.999999"),
        ("effective_weights", {"balance": 1.0}, "balance is 1.0, but must lie between 0 and 0.9"),
        ("label_margin", {"kind": None}, "kind=None: allowed are avg, max, hit."),
        ("group_margins", {"group_names": None}, "group_names is None, but must list a name for"),
        ("distill", {"soften": "techer"}, "soften='techer': did you mean 'teacher'? Allowed: "),
        ("label_margin", {"kind": "mean"}, "kind='mean': allowed are avg, max, hit."),
        ("margin", {"p": torch.randn(N, C)}, "must lie between 0 and 1: logits.softmax(dim=1) "),
        ("ada_margin", {"rho": torch.rand(N)}, f"shape ({N} examples, {C} classes) or ({C} cl"),
        ("logit_adjusted", {"prior": torch.eye(C)[0]}, "prior[1] is 0, but must be finite and"),
        (
            "effective_weights",
            {"counts": torch.tensor([3, 0])},
            "counts[1] is 0, but must be finite",
        ),
        ("group_margins", {"group_names": 3}, "group_names is 3, but must list a name for each"),
        ("group_margins", {"group_names": "ab"}, "group[2] is 2, but must lie between 0 and 1: "),
        ("group_margins", {"margins": torch.full((N,), torch.nan)}, "margins[0] is nan, but must"),
    ],
)
def test_other_arguments_that_would_pass_in_silence_are_refused(name, wrong, words):
    assert words in said(name, **wrong)


def test_numbers_may_be_tensors_and_a_missing_argument_is_pythons_error():
    given = right("kd")
    learned = torch.tensor(2.0, requires_grad=True)
    kd(**given | {"temperature": learned, "alpha": torch.tensor(0.5)}).sum().backward()
    assert learned.grad.isfinite()
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        kd(given["logits"], given["teacher_logits"])
    assert list(inspect.signature(kd).parameters)[:3] == ["logits", "teacher_logits", "y"]


# ---------------------------------------------------------------- when values are looked at


def test_kdlibs_own_loop_checks_nothing_and_trust_ends_with_it(monkeypatch):
    cfg = Config(method="ada_alpha", teacher="cnn", imbalance=50, draw_seed=0, epochs=1)
    data = load(cfg)[0]
    loss = method_loss(cfg, torch.full((10,), 0.5), data.train)
    seen = []
    with monkeypatch.context() as m:
        m.setattr(arguments, "_check", seen.append)
        fit([Run(cfg, build("cnn_small", 10, 0), loss, data, frozen(build("cnn", 10, 1)))])
        assert not seen
        with pytest.raises(ZeroDivisionError), trusted():
            raise ZeroDivisionError
        one_hot(torch.zeros(2, C), torch.zeros(2).long())
        assert len(seen) == 1
    assert "y[0] is -1" in said("one_hot", y=torch.full((N,), -1))


def test_a_loss_compiles_without_a_break_and_compiled_refuses_a_wrong_shape():
    given = right("ada_alpha")
    compiled = torch.compile(ada_alpha, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(**given), ada_alpha(**given))
    breaking = torch.compile(ada_alpha, backend="eager")
    wrong = given | {"teacher_logits": given["teacher_logits"][:, 1:]}
    assert "teacher_logits has the shape" in refused(breaking, **wrong)


def test_a_loss_can_be_mapped_over_examples():
    given = right("kd")

    def alone(f, t, y):
        return kd(f[None], t[None], y[None], 0.3, 2.0)[0]

    f, t, y = (given[name] for name in ("logits", "teacher_logits", "y"))
    assert torch.allclose(vmap(alone)(f, t, y), kd(f, t, y, 0.3, 2.0))


def test_values_on_a_gpu_are_looked_at_in_fewer_and_fewer_calls_and_never_in_a_capture(monkeypatch):
    on_gpu = SimpleNamespace(device=torch.device("cuda"), is_cuda=True)
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(arguments, "_calls", itertools.count(1))
    looked = [call for call in range(1, 101) if arguments._may_look(on_gpu)]
    assert looked == [1, 2, 4, 8, 16, 32, 64]
    capturing = True
    monkeypatch.setattr(arguments, "_calls", itertools.repeat(1))
    assert not arguments._may_look(on_gpu)
    assert arguments._may_look(torch.zeros(1))


def test_values_that_are_not_there_are_not_looked_at():
    meta = {name: value.to("meta") for name, value in right("one_hot").items()}
    assert one_hot(**meta).shape == (N,)
    assert margin(torch.zeros(N, C, device="meta")).shape == (N, C)
    assert distill(*torch.zeros(2, N, C, device="meta"), 2.0).shape == (N,)
