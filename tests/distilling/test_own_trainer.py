"""AdaAlpha in people's own trainers: timm's task, margins on any loader, docs/own_trainer.md."""

import copy
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import Mixup
from timm.data.distributed_sampler import OrderedDistributedSampler
from timm.loss import SoftTargetCrossEntropy
from timm.task import LogitDistillationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from kdlib.config import KdlibError
from kdlib.distilling.margins import margins_of
from kdlib.distilling.timm_task import AdaAlphaTask
from tests.refusals import refused

N, C, T = 12, 4, 3.0
MARGINS = torch.tensor([0.9, 0.1, 0.0, 1.0])
GROUP_OF = [1, 0, 1, 0]  # the group of each class


@pytest.fixture
def pair():
    """(student, teacher), which are normalised differently."""
    torch.manual_seed(0)
    student = timm.create_model("test_resnet", num_classes=C)
    teacher = timm.create_model("test_efficientnet", num_classes=C)
    nn.init.normal_(teacher.get_classifier().weight, std=30.0)  # sure of itself
    assert student.pretrained_cfg["mean"] != teacher.pretrained_cfg["mean"]
    return student.eval(), teacher.eval()


@pytest.fixture
def batch():
    """(images as the student gets them, classes)"""
    g = torch.Generator().manual_seed(1)
    return torch.randn(N, 3, 32, 32, generator=g), torch.arange(N) % C


def task_of(pair, margin=None):
    return AdaAlphaTask(*pair, margin, temperature=T, verbose=False).eval()


def asked(pair, x):
    """Logits of both, (N, C) float64 of numpy; the teacher's of images in its own normalisation."""
    student, teacher = pair
    pixels = x
    for network, sign in ((student, 1), (teacher, -1)):
        mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
        pixels = pixels * std + mean if sign == 1 else (pixels - mean) / std
    with torch.no_grad():
        return student(x).double().numpy(), teacher(pixels).double().numpy()


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss_by_hand(f, t, y, alpha):
    """Mean over the examples of (1 - alpha) cross-entropy + alpha T^2 KL, of logits in float64."""
    label = -np.log(softmax(f)[np.arange(len(y)), y])
    p, q = softmax(t / T), softmax(f / T)
    return np.mean((1 - alpha) * label + alpha * T**2 * (p * np.log(p / q)).sum(axis=1))


def margins_by_hand(t, y, group, groups):
    p = softmax(t)
    of_label = p[np.arange(len(y)), y]
    margin = of_label - (1 - of_label) / (p.shape[1] - 1)
    return [max(0, margin[group == g].mean()) for g in range(groups)]


def gradients(task, x, target):
    task.zero_grad()
    task(x, target)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in task.trainable_module.parameters()])


# ---------------------------------------------------------------- the task and its loss


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equal_margins_are_timms_task_with_complementary_weights(pair, batch, alpha):
    x, y = batch
    ours = task_of(pair, torch.full((C,), alpha))
    timms = LogitDistillationTask(*pair, task_loss_weight=1 - alpha, temperature=T, verbose=False)
    timms.eval()
    assert ours(x, y)["loss"].item() == pytest.approx(timms(x, y)["loss"].item(), abs=1e-6)
    assert torch.equal(ours(x, y)["output"], timms(x, y)["output"])
    torch.testing.assert_close(gradients(ours, x, y), gradients(timms, x, y), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["classes", "columns", "pair"])
def test_each_class_or_group_has_its_weight(pair, batch, form):
    x, y = batch
    group = y if form == "classes" else torch.arange(N) // 4
    f, t = asked(pair, x)
    target = {"classes": y, "columns": torch.stack((y, group), dim=1), "pair": [y, group]}
    by_hand = loss_by_hand(f, t, y.numpy(), MARGINS.numpy()[group])
    loss = task_of(pair, MARGINS)(x, target[form])["loss"]
    assert loss.item() == pytest.approx(by_hand, abs=1e-5)


def test_a_soft_target_gives_the_mean_of_the_losses_of_its_labels(pair, batch):
    x, y = batch
    np.random.seed(0)
    x, soft = Mixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=C, mode="elem")(x, y)
    task = task_of(pair, MARGINS)
    by_hand = 0
    for i in range(N):
        for c in range(C):
            by_hand += soft[i, c] * task(x[i : i + 1], torch.tensor([c]))["loss"] / N
    assert task(x, soft)["loss"].item() == pytest.approx(by_hand.item(), abs=1e-5)
    ours = task_of(pair, torch.full((C,), 0.3))
    weights = {"task_loss_weight": 0.7, "temperature": T, "verbose": False}
    timms = LogitDistillationTask(*pair, SoftTargetCrossEntropy(), **weights).eval()
    assert ours(x, soft)["loss"].item() == pytest.approx(timms(x, soft)["loss"].item(), abs=1e-6)


def test_in_half_precision_the_loss_is_that_of_the_rounded_logits(pair, batch):
    x, y = batch
    task = task_of(pair, MARGINS)
    soft = 0.9 * nn.functional.one_hot(y, C) + 0.1 / C
    with torch.autocast("cpu", torch.bfloat16):
        found = [task(x, y), task(x, soft)]
        t = task.teacher_logits(x).double().numpy()
    f = found[0]["output"]
    assert f.dtype == torch.bfloat16
    f = f.detach().double().numpy()
    assert found[0]["loss"].item() == pytest.approx(
        loss_by_hand(f, t, y.numpy(), MARGINS.numpy()[y]), abs=1e-5
    )
    of_label = [loss_by_hand(f, t, np.full(N, c), np.float64(MARGINS[c])) for c in range(C)]
    by_hand = 0.9 * loss_by_hand(f, t, y.numpy(), MARGINS.numpy()[y]) + 0.1 * np.mean(of_label)
    assert found[1]["loss"].item() == pytest.approx(by_hand, abs=1e-5)


def test_compiled_and_with_averaged_weights_it_is_the_same(pair, batch):
    alone = task_of(pair, MARGINS)(*batch)["loss"].item()
    task = task_of(pair, MARGINS)
    task.compile(backend="eager")
    task.setup_ema(decay=0.5)
    assert task(*batch)["loss"].item() == pytest.approx(alone, abs=1e-6)
    weight = pair[0].get_classifier().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    task.update_ema()
    mean = task.get_trainable_module(ema=True).module.get_classifier().weight
    torch.testing.assert_close(mean, before + 0.5)
    assert torch.equal(task.get_checkpoint_state(ema=True)["task_state_ema"]["margin"], MARGINS)


def test_gradients_reach_the_student_alone_and_its_training_leaves_the_teacher_as_it_was(
    pair, batch
):
    before = {name: tensor.clone() for name, tensor in pair[1].state_dict().items()}
    task = task_of(pair, MARGINS).train()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = task(*batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(p.grad is not None for p in pair[0].parameters())
    assert all(p.grad is None for p in task.teacher.parameters())
    for name, tensor in pair[1].state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_margins_come_back_with_the_weights(pair, batch, tmp_path):
    task, other = task_of(pair, MARGINS), task_of(pair, torch.zeros(C))
    other.load_state_dict(task.state_dict())
    assert torch.equal(other.margin, MARGINS)
    student = timm.create_model("test_resnet", num_classes=C)
    resumed = task_of((student, pair[1]))
    optimizer = torch.optim.SGD(pair[0].parameters(), lr=0.1)
    saver = CheckpointSaver(pair[0], optimizer, checkpoint_dir=tmp_path, task=task)
    saver.save_checkpoint(epoch=1, metric=0.0)
    resume_task_checkpoint(resumed, tmp_path / "last.pth.tar", log_info=False)
    assert torch.equal(resumed.margin, MARGINS)
    assert torch.equal(resumed(*batch)["loss"], task(*batch)["loss"])


def test_it_is_measured_in_the_teachers_normalisation(pair, batch):
    x, y = batch
    task = task_of(pair)
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    _, t = asked(pair, x)
    by_hand = margins_by_hand(t, y.numpy(), y.numpy(), C)
    assert max(by_hand) > 0.05
    assert task.measure(loader).tolist() == pytest.approx(by_hand, abs=1e-5)
    assert torch.equal(task.margin, margins_of(task.teacher_logits, loader))
    other = TensorDataset(x, torch.stack((y, y % 3), dim=1))
    by_hand = margins_by_hand(t, y.numpy(), y.numpy() % 3, 3)
    assert task.measure(DataLoader(other, batch_size=5)).tolist() == pytest.approx(
        by_hand, abs=1e-5
    )


def test_what_fills_the_last_batch_of_a_process_does_not_count(pair, batch):
    x, y = batch[0][:9], torch.arange(9) // 2 % C
    examples = TensorDataset(x, y)
    sampler = OrderedDistributedSampler(examples, num_replicas=2, rank=1)
    assert len(list(sampler)) == 5  # 1, 3, 5, 7 and one that the other process has
    _, t = asked(pair, x[1::2])
    by_hand = margins_by_hand(t, y[1::2].numpy(), y[1::2].numpy(), C)
    found = task_of(pair).measure(DataLoader(examples, batch_size=2, sampler=sampler))
    assert found.tolist() == pytest.approx(by_hand, abs=1e-5)


def test_classes_of_a_group_share_its_margin(pair, batch):
    x, y = batch
    task = task_of(pair)
    found = task.measure(DataLoader(TensorDataset(x, y), batch_size=5), GROUP_OF).tolist()
    _, t = asked(pair, x)
    by_group = margins_by_hand(t, y.numpy(), np.array(GROUP_OF)[y], 2)
    assert found == pytest.approx([by_group[g] for g in GROUP_OF], abs=1e-5)
    assert task(x, y)["loss"].isfinite()


@pytest.mark.parametrize(
    ("margin", "target", "said"),
    [
        (None, torch.arange(N) % C, "no margins"),
        (torch.ones(3), torch.arange(N) % C, "margin has the shape (3,)"),
        (torch.ones(3), torch.full((N, C), 1 / C), "Soft targets"),
        (torch.ones(C), torch.full((N, 2), 1 / 2), "Soft targets"),
        (torch.ones(C), torch.ones(N, C).long(), "A target has the shape (12, 4)"),
        (torch.ones(2), [torch.arange(N) % C, torch.arange(N)], "group[2] is 2"),
        (2 * torch.ones(C), torch.arange(N) % C, "margin[0] is 2"),
    ],
    ids=["none", "few", "mixed groups", "other classes", "columns", "group", "above 1"],
)
def test_what_it_cannot_use_it_refuses(pair, batch, margin, target, said):
    assert said in refused(task_of(pair, margin), batch[0], target)


# ---------------------------------------------------------------- several processes


@pytest.fixture
def one_process(tmp_path):
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_under_ddp_it_has_the_same_gradients(pair, batch, one_process):
    x, y = batch
    task = task_of(pair, MARGINS)
    alone = gradients(task, x, y)
    task.prepare_distributed()
    assert type(task.trainable_module).__name__ == "DistributedDataParallel"
    assert torch.equal(gradients(task, x, y), alone)
    assert not any(p.requires_grad for p in task.teacher.parameters())
    measured = task.measure(DataLoader(TensorDataset(x, y), batch_size=5))
    assert measured.max() > 0.05


def of_part(rank, folder, x, y):
    """Margins that one of two processes gets, of its part of the examples, in a file."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    examples = TensorDataset(x, y)
    sampler = DistributedSampler(examples, shuffle=False)  # shows one example twice
    loader = DataLoader(examples, batch_size=2, sampler=sampler)
    valid = len(range(rank, len(y), 2))
    torch.save(margins_of(lambda x: 5 * x, loader, limit=valid), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_each_of_two_processes_gets_the_margins_of_all_examples(tmp_path):
    x, y = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    x[torch.arange(7), y] += 1
    torch.multiprocessing.start_processes(of_part, (tmp_path, x, y), 2, start_method="fork")
    by_hand = margins_by_hand(5 * x.double().numpy(), y.numpy(), y.numpy(), 3)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == pytest.approx(by_hand, abs=1e-5)


# ---------------------------------------------------------------- margins on any loader


class Words(nn.Module):
    """A network as those of Hugging Face, whose Trainer keeps the columns that forward names."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.drop = nn.Dropout(0.5)
        self.layer = nn.Linear(6, C)

    def forward(self, pixel_values, labels=None):
        return SimpleNamespace(logits=self.layer(self.drop(pixel_values)))


class Rows(Dataset):
    """Dictionaries as the Trainer of Hugging Face takes them."""

    def __init__(self, n, **more):
        self.y = torch.arange(n) % C
        self.x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
        self.x[torch.arange(n), self.y] += 3
        self.more = more

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        more = {name: values[i] for name, values in self.more.items()}
        return {"pixel_values": self.x[i], "labels": self.y[i]} | more


@pytest.mark.parametrize("groups", ["classes", "of the batch", "of classes"])
def test_margins_are_those_summed_by_hand_and_the_teacher_stays_as_it_was(groups):
    teacher = Words()
    named = {"group": torch.arange(30) % 7} if groups == "of the batch" else {}
    rows = Rows(30, **named)
    of_class = GROUP_OF if groups == "of classes" else None
    found = margins_of(teacher, DataLoader(rows, batch_size=8), of_class)
    t = teacher.layer(rows.x).double().detach().numpy()
    y = rows.y.numpy()
    group = {"classes": y, "of the batch": np.arange(30) % 7, "of classes": np.array(GROUP_OF)[y]}
    by_hand = margins_by_hand(t, y, group[groups], max(group[groups]) + 1)
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6) and max(by_hand) > 0
    assert teacher.training and found.dtype == torch.float32


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "yields no example"),
        ([(3 * torch.eye(3), torch.tensor([0, 1, 1]))], "Group 2 has no example"),
        ([(3 * torch.eye(3), torch.tensor([0, 1, 3]))], "y[2] is 3"),
        ([(3 * torch.eye(3), torch.arange(3), ["a", "b", "c"])], "must be whole numbers"),
        ([(torch.eye(3).softmax(dim=1), torch.arange(3))], "probabilities"),
    ],
    ids=["empty", "group", "label", "names", "probabilities"],
)
def test_a_loader_that_cannot_be_used_is_refused(batches, said):
    assert said in refused(margins_of, lambda x: x, batches)


@pytest.mark.parametrize(
    ("group_of", "said"),
    [
        ([0, 1], "group_of: has the shape (2,), must hold the group of each of the 3 classes."),
        ([[0, 1, 1]], "group_of: has the shape (1, 3), must hold"),
        (["a", "b", "b"], "groups: must be whole numbers from 0 on, not"),
        ([0.0, 1.0, 1.0], "groups: must be whole numbers from 0 on, not float64."),
        ([0, -1, 1], "group[1] is -1, but must lie between 0 and 1"),
        ([0, 2, 2], "Group 1 has no example"),
    ],
)
def test_groups_of_classes_that_cannot_be_are_refused(group_of, said):
    batches = [(3 * torch.eye(3), torch.arange(3))]
    assert said in refused(margins_of, lambda x: x, batches, group_of)


# ---------------------------------------------------------------- the page

PAGE = (Path(__file__).parents[2] / "docs/own_trainer.md").read_text()


def blocks():
    """{heading: the python block below it}"""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        for code in re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S):
            found[section.splitlines()[0]] = code
    assert PAGE.count("```python") == len(found)
    return found


def ran(heading, **names):
    """What the block leaves behind, and what was there before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(blocks()[heading], f"docs/own_trainer.md, {heading}", "exec"), names)
    return names


class Stand:
    """A stand-in for the trainer of an absent library: two steps, on the CPU."""

    def __init__(self, model=None, args=None, train_dataset=None, **options):
        self.model, self.args, self.train_dataset = model, args, train_dataset

    def steps(self, batches, parameters, loss_of):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for batch in batches:
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()

    def train(self):  # of Hugging Face
        batches = DataLoader(self.train_dataset, batch_size=8)
        loss_of = lambda batch: self.compute_loss(self.model.train(), batch)  # noqa: E731
        self.steps(batches, self.model.parameters(), loss_of)

    def fit(self, module, batches):  # of Lightning
        module.train()
        [group] = module.configure_optimizers().param_groups
        self.steps(batches, group["params"], lambda batch: module.training_step(batch, 0))


@pytest.fixture
def libraries(monkeypatch, tmp_path):
    """transformers and lightning: themselves where they are installed, else what stands in."""
    monkeypatch.chdir(tmp_path)
    stand_ins = {
        "transformers": {
            "Trainer": Stand,
            "TrainingArguments": lambda *_, **__: SimpleNamespace(device="cpu"),
        },
        "lightning": {"LightningModule": nn.Module, "Trainer": Stand},
    }
    for name, held in stand_ins.items():
        try:
            __import__(name)
        except ImportError:
            module = ModuleType(name)
            vars(module).update(held)
            monkeypatch.setitem(sys.modules, name, module)


class Plain(nn.Sequential):
    def __init__(self, seed):
        torch.manual_seed(seed)
        super().__init__(nn.Dropout(0.1), nn.Linear(6, C))


def weights_of(network):
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def plain_loaders():
    rows = Rows(32)
    examples = TensorDataset(rows.x, rows.y)
    return {
        "train": DataLoader(examples, batch_size=8),
        "held_out": DataLoader(examples, batch_size=8),
    }


def check_step(student, teacher, x, y, margin, loss):
    """That a loss is the one by hand, with temperature 2."""
    student.eval()
    with torch.no_grad():
        f, t = student(x).double(), teacher.eval()(x).double()
    label = nn.CrossEntropyLoss(reduction="none")(f, y)
    p, q = (t / 2).softmax(dim=1), (f / 2).softmax(dim=1)
    alpha = margin.double()[y]
    by_hand = (1 - alpha) * label + alpha * 4 * (p * (p / q).log()).sum(dim=1)
    assert loss.item() == pytest.approx(by_hand.mean().item(), abs=1e-5)


def test_the_ten_lines_train_the_student():
    student, teacher = Plain(0).eval(), Plain(1)
    untrained, before = copy.deepcopy(student), weights_of(teacher)
    x, y = Rows(32).x, Rows(32).y
    names = ran(
        "A plain loop",
        student=student,
        teacher=teacher,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.1),
        train=[(x, y)],
        held_out=plain_loaders()["held_out"],
    )
    check_step(untrained, teacher, x, y, names["margin"], names["loss"])
    assert not torch.equal(weights_of(student), weights_of(untrained))
    assert torch.equal(weights_of(teacher), before)
    t = teacher(x).double().detach().numpy()
    by_hand = margins_by_hand(t, y.numpy(), y.numpy(), C)
    assert names["margin"].tolist() == pytest.approx(by_hand, abs=1e-5) and max(by_hand) > 0.05


def test_the_block_of_timm_trains_a_student_on_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for c in range(2):
            (tmp_path / split / f"class{c}").mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 128, (40, 40, 3), dtype=np.uint8) + np.uint8(120 * c)
                Image.fromarray(pixels).save(tmp_path / split / f"class{c}" / f"{i}.png")
    torch.manual_seed(0)
    trained = timm.create_model("test_efficientnet", num_classes=2)
    nn.init.normal_(trained.get_classifier().weight, std=30.0)
    save_file(trained.state_dict(), tmp_path / "teacher.safetensors")
    names = ran(
        "timm",
        folder=tmp_path,
        student_name="test_resnet",
        teacher_name="test_efficientnet",
        weights=str(tmp_path / "teacher.safetensors"),
        classes=2,
        batch_size=4,
        epochs=2,
    )
    task = names["task"]
    for name, tensor in names["teacher"].cpu().state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
    assert names["margin"].shape == (2,) and names["margin"].max() > 0
    assert torch.equal(task.margin, names["margin"]) and names["loss"].isfinite()
    assert names["student"].get_classifier().weight.grad.abs().sum() > 0


def test_the_trainer_of_hugging_face_has_the_loss(libraries, tmp_path):
    from transformers import TrainingArguments

    student, teacher = Words(0), Words(1)
    before = weights_of(student), weights_of(teacher)
    rows = Rows(32)
    usual = {"max_steps": 2, "use_cpu": True, "report_to": [], "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(tmp_path), **usual, disable_tqdm=True)
    names = ran(
        "Hugging Face Trainer",
        student=student,
        teacher=teacher,
        arguments=arguments,
        train_set=rows,
        held_out=DataLoader(rows, batch_size=8),
    )
    assert not torch.equal(weights_of(student), before[0])
    assert torch.equal(weights_of(teacher), before[1])
    inputs = {"pixel_values": rows.x, "labels": rows.y}
    loss, outputs = names["trainer"].compute_loss(student.eval(), inputs, return_outputs=True)
    assert torch.equal(outputs.logits, student.layer(rows.x)) and len(inputs) == 2
    check_step(student.layer, teacher.layer, rows.x, rows.y, names["margin"], loss)


def test_the_module_of_lightning_has_the_loss(libraries):
    student, teacher = Plain(0), Plain(1)
    before = weights_of(student), weights_of(teacher)
    loaders = plain_loaders()
    names = ran("Lightning", student=student, teacher=teacher, epochs=1, **loaders)
    assert not torch.equal(weights_of(student), before[0])
    assert torch.equal(weights_of(teacher), before[1])
    x, y = loaders["train"].dataset.tensors
    module = names["Distilled"](student, teacher, names["margin"]).train()
    student.eval()
    check_step(student, teacher, x, y, names["margin"], module.training_step((x, y), 0))


def test_the_change_of_timms_script_names_arguments_that_the_task_takes_and_refuses(pair):
    [diff] = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.M | re.S)
    kept = re.findall(r"^ +(\w+)=", diff, re.M)
    dropped = re.findall(r"^- +(\w+)=", diff, re.M)
    assert len(kept) == 6 and len(dropped) == 4
    values = {"student_model": pair[0], "teacher_model": pair[1], "temperature": T}
    given = {name: values.get(name) for name in kept}
    AdaAlphaTask(**given | {"verbose": False})
    for name in dropped:
        with pytest.raises(KdlibError, match=name):
            AdaAlphaTask(**given | {"verbose": False, name: 1})
