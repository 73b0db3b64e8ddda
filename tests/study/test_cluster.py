"""What a driver does about its workers, with a Ray of the test; test_two_nodes.py has one."""

import collections
import socket
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from synthetic import record

import kdlib.study
from kdlib import __main__ as cli
from kdlib.config import Config, KdlibError
from kdlib.study import kept, records, sweep
from kdlib.study.experiment import Outcome
from kdlib.study.watch import OutOfTime
from kdlib.study.weights import WeightsError

ray = pytest.importorskip("ray", reason='Ray is not installed; pip install ".[ray]"')
from kdlib.study import cluster, crew, node  # noqa: E402

CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn", temperature=2.0, teacher_seed=7)
SEEDS = [replace(CFG, seed=s) for s in range(5)]


def write(cfg, where=None):
    role = "kd" if cfg.teacher else "one_hot"
    records.write(record(cfg, role, cfg.seed, 0.5, margin=[0.5] * 10), where)


# ---------------------------------------------------------------- a Ray of the test


class FakeRay:
    """As much of Ray as a Crew uses. A question is answered when somebody asks for the answer.

    nodes: {name: cores}. A worker does what `do` of the test does."""

    ObjectRef = type("ObjectRef", (), {})

    def __init__(self, nodes, do):
        self.up, self.do, self.killed = dict(nodes), do, 0
        self.taken = collections.Counter()
        self.wrong = {}  # node: what its hello says

    def nodes(self):
        return [
            {"Alive": True, "NodeID": name, "Resources": {"CPU": cores}}
            for name, cores in self.up.items()
        ]

    def remote(self, cls):
        def begin(told):
            name = next(n for n, cores in self.up.items() if self.taken[n] < cores)
            self.taken[name] += 1
            return FakeActor(self, name)

        return SimpleNamespace(options=lambda **how: SimpleNamespace(remote=begin))

    def wait(self, refs, num_returns=1, timeout=None):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        return ref() if callable(ref) else ref

    def put(self, value):
        return value

    def kill(self, actor):
        self.taken[actor.name] -= 1
        self.killed += 1


class FakeActor:
    def __init__(self, of, name):
        self.of, self.name = of, name
        self.hello = self._method(lambda token: (name, True, of.wrong.get(name, "")))
        self.shares = self._method(
            lambda configs, jobs: node.Answer(shares={c.key(): 1.0 for c in configs})
        )
        self.do = self._method(lambda *asked: of.do(name, *asked))

    def _method(self, answer):
        return SimpleNamespace(remote=lambda *asked: lambda: answer(*asked))


@pytest.fixture
def fake(records_folder, monkeypatch):
    """A function: nodes and what a worker does -> the FakeRay, to which sweeps connect."""

    def made(nodes, do):
        found = FakeRay(nodes, do)
        monkeypatch.setattr(cluster, "ray", found)
        monkeypatch.setattr(crew, "ray", found)
        place = cluster.Cluster()
        monkeypatch.setattr(cluster, "connect", lambda address: place)
        return found

    return made


def swept(configs, **more):
    return sweep.sweep(configs, device="cpu", ray="auto", **more)


# ---------------------------------------------------------------- losses


def test_lost_runs_are_done_again_and_one_that_is_lost_three_times_is_one_sentence(fake):
    asked, bad = [], SEEDS[1].key()

    def do(name, configs, left, sent):
        asked.extend(cfg.key() for cfg in configs)
        first = asked.count(SEEDS[3].key()) == 1 and configs == [SEEDS[3]]
        if first or configs == [SEEDS[1]]:
            raise ray.exceptions.ActorDiedError()
        write(*configs)
        return node.Answer()

    rays = fake({"a": 1, "b": 1}, do)
    with pytest.raises(
        KdlibError, match=f"^Run {bad} was lost 3 times, last on node [ab] \\(its w"
    ):
        swept(SEEDS)
    assert [records.exists(cfg) for cfg in SEEDS] == [True, False, True, True, True]
    assert [asked.count(cfg.key()) for cfg in SEEDS] == [1, 3, 1, 2, 1]
    assert rays.taken.total() == 0  # all workers are gone


def test_a_run_that_was_on_record_when_its_worker_died_is_not_done_again(fake):
    asked = []

    def do(name, configs, left, sent):
        asked.extend(configs)
        write(*configs)
        if len(asked) == 2:
            raise ray.exceptions.ActorUnavailableError("gone", None)
        return node.Answer()

    fake({"a": 1}, do)
    assert [r.config for r in swept(SEEDS)] == SEEDS
    assert asked == SEEDS


def test_a_run_that_fails_fails_alone_and_what_another_process_has_claimed_waits(fake, monkeypatch):
    claimed = []

    def do(name, configs, left, sent):
        if configs == [SEEDS[0]]:
            return node.Answer(failures=[KdlibError("Node a: it is ill")])
        if configs == [SEEDS[2]] and not claimed:
            claimed.append(1)
            return node.Answer(elsewhere=configs)
        write(*configs)
        return node.Answer()

    fake({"a": 1}, do)
    monkeypatch.setattr("kdlib.study.plan.OFTEN", 0.01)
    with pytest.raises(KdlibError, match="^Node a: it is ill$"):
        swept(SEEDS)
    assert claimed and [records.exists(cfg) for cfg in SEEDS] == [False, True, True, True, True]


def test_a_node_without_the_data_is_left_out_and_named_once(fake, capsys):
    def do(name, configs, left, sent):
        if name == "bare":
            return node.Answer(unfit="Node bare: cifar100 was not found.")
        write(*configs)
        return node.Answer()

    fake({"bare": 2, "b": 1}, do)
    assert [r.config for r in swept(SEEDS)] == SEEDS
    said = "warning: Node bare: cifar100 was not found. The node is left out.\n"
    assert capsys.readouterr().err == said
    fake({"bare": 2}, do)
    with pytest.raises(KdlibError, match="^Node bare: cifar100 was not found.$"):
        swept([replace(CFG, seed=9)])


def test_a_node_with_another_torch_does_nothing(fake, capsys):
    def do(name, configs, left, sent):
        assert name == "b"
        write(*configs)
        return node.Answer()

    rays = fake({"old": 1, "b": 1}, do)
    rays.wrong["old"] = "Node old has torch 2.9."
    assert [r.config for r in swept(SEEDS)] == SEEDS
    assert capsys.readouterr().err == "warning: Node old has torch 2.9. The node is left out.\n"


def test_a_node_that_was_left_out_and_is_gone_takes_no_place_of_others(fake):
    asked = []

    def do(name, configs, left, sent):
        rays.up.pop("old", None)
        asked.append(name)
        if len(asked) == 2:
            raise ray.exceptions.ActorDiedError()
        write(*configs)
        return node.Answer()

    rays = fake({"old": 1, "b": 1}, do)
    rays.wrong["old"] = "Node old has torch 2.9."
    assert [r.config for r in swept(SEEDS)] == SEEDS
    assert asked == ["b"] * 6


def test_workers_come_with_new_nodes_and_a_budget_is_sent_in_seconds(fake, monkeypatch):
    monkeypatch.setattr(crew, "LOOK", 0.0)
    names, lefts = [], []

    def do(name, configs, left, sent):
        names.append(name)
        lefts.append(left)
        rays.up["late"] = 1
        write(*configs)
        return node.Answer()

    rays = fake({"a": 1}, do)
    swept(SEEDS, budget=60.0, jobs=2)
    assert set(names) == {"a", "late"} and names[0] == "a"
    assert all(50 < left <= 60 for left in lefts)


def test_a_cluster_without_a_core_or_a_gpu_is_one_sentence(fake):
    fake({}, None)
    with pytest.raises(KdlibError, match="^No node of the cluster has a CPU for a run; add one"):
        swept(SEEDS)


def test_a_cluster_that_is_taken_is_waited_for_and_one_that_is_gone_is_not(fake, capsys):
    rays = fake({"a": 1}, None)
    few = crew.Crew(None, {"CPU": 1})
    few.hire(1)
    few.hoped -= 100.0
    for _ in range(2):
        few.hopeful()
    assert capsys.readouterr().out.startswith("waiting for room on the cluster")
    few.answers(1.0)
    few.hopeful()  # its worker has come
    few.close()
    gone = crew.Crew(None, {"CPU": 1})
    rays.up.clear()
    gone.hire(1)
    gone.hopeful()
    gone.hoped -= 100.0
    with pytest.raises(KdlibError, match="^No node of the cluster has room for a run any more"):
        gone.hopeful()


# ---------------------------------------------------------------- files that come and go


@pytest.fixture
def sent_back(tmp_path):
    """The files of a run as a node packs them."""
    write(CFG, tmp_path)
    (tmp_path / f"{CFG.key()}{node.RECORD[0]}").write_bytes(b"weights")
    return node.packed(CFG.key(), tmp_path)


def test_what_comes_back_is_written_whole_and_the_json_last(sent_back, records_folder, monkeypatch):
    written, plain = [], node.write_whole

    def write_whole(path, content):
        written.append(path.suffix)
        plain(path, content)

    monkeypatch.setattr(node, "write_whole", write_whole)
    records_folder.mkdir()
    kept.path_of(CFG.key()).write_bytes(b"of an earlier try")
    node.unpacked(CFG, sent_back)
    assert tuple(written) == node.RECORD and records.read(CFG).config == CFG
    assert {p.suffix for p in records_folder.iterdir()} == set(node.RECORD)
    node.unpacked(CFG, dict.fromkeys(sent_back, b"of somebody slower"))
    assert records.read(CFG).config == CFG


@pytest.mark.parametrize("suffix", node.RECORD[1:])
def test_what_is_no_record_is_refused_and_nothing_of_it_written(suffix, sent_back, records_folder):
    name = CFG.key() + suffix
    sent_back[name] = sent_back[name][:-20]
    with pytest.raises(records.RecordError):
        node.unpacked(CFG, sent_back)
    assert not records_folder.exists()


def test_what_is_no_record_is_asked_for_again_until_it_was_thrice(fake, sent_back, records_folder):
    asked = []

    def do(name, configs, left, sent):
        asked.append(configs)
        return node.Answer(files={CFG.key(): sent_back | {f"{CFG.key()}.json": b"{}"}})

    fake({"a": 1}, do)
    with pytest.raises(
        KdlibError, match="was lost 3 times, last on node a .what came back is no r"
    ):
        swept([CFG])
    assert len(asked) == 3 and not records.exists(CFG)


def test_a_teacher_without_its_weights_cannot_be_sent(fake, records_folder, monkeypatch):
    rays = fake({"a": 1}, None)
    monkeypatch.setattr(FakeActor, "_method", apart(FakeActor._method))
    write(KD.teacher_config())
    with pytest.raises(KdlibError, match=f"{KD.teacher_config().key()}.* is missing, and without"):
        swept([KD])
    assert rays.taken.total() == 0


def apart(method):
    """A worker's methods, but that it shares no folder."""

    def changed(self, answer):
        def other(*asked):
            found = answer(*asked)
            return (found[0], False, found[2]) if isinstance(found, tuple) else found

        return method(self, other)

    return changed


# ---------------------------------------------------------------- a worker by itself


@pytest.fixture
def worker(monkeypatch, tmp_path, records_folder):
    """A function: what is told otherwise -> a Worker in this process, which shares no folder."""
    context = SimpleNamespace(get_node_id=lambda: "abcdef0123")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "no data"))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KDLIB_RECORDS", "put back when the test ends")

    def made(**otherwise):
        told = node.Told("cpu", True, node.versions(), None, "usual", str(records_folder), "cache")
        return node.Worker(replace(told, **otherwise))

    return made


NAME = f"{socket.gethostname()} (abcdef)"


def test_a_worker_says_what_its_node_has_otherwise(worker, tmp_path):
    (tmp_path / "token").touch()
    assert worker().hello(tmp_path / "token") == (NAME, True, "")
    other = worker(versions=node.versions() | {"torch": "1.0"})
    _, shared, wrong = other.hello(tmp_path / "other")
    assert not shared
    torch = node.versions()["torch"]
    assert wrong.startswith(f"Node {NAME} has torch {torch} where this machine has 1.0")


def test_a_worker_without_the_data_set_says_so_and_names_its_node(worker):
    outcome = worker().do([replace(CFG, dataset="cifar100", student="resnet8")], 60.0, [])
    assert outcome.unfit.startswith(f"Node {NAME}: cifar100 was not found: looked in")
    assert "\n" not in outcome.unfit


def test_a_run_that_failed_before_it_logged_anything_says_why(worker, monkeypatch):
    """So does one whose teacher's weights are damaged."""
    failed = Outcome(failures=[WeightsError("t.safetensors: not weights.")])
    monkeypatch.setattr(node, "together", lambda *_, wait: failed)
    answer = worker().do([CFG], 60.0, [])
    assert list(map(str, answer.failures)) == [f"Node {NAME}: t.safetensors: not weights."]
    assert answer.log == ""


def test_a_run_that_found_no_time_goes_on_on_another_node_from_what_came_back(worker):
    first = worker().do([CFG], 0.0, [])
    [late] = first.failures
    assert isinstance(late, OutOfTime) and str(late).startswith(f"Node {NAME}: Run {CFG.key()}")
    [found] = first.files.values()
    assert list(found) == [f".{CFG.key()}.kept"]
    second = worker().do([CFG], 60.0, [found])
    assert second.failures == [] and "goes on after epoch 1/2" in second.log
    assert [name.removeprefix(CFG.key()) for name in second.files[CFG.key()]] == list(node.RECORD)


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address, why",
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("127.0.0.1:99999", "nothing answers there"),
        ("ray://head:10001", "clients from outside are not served"),
        ("nonsense", "Invalid address format"),
    ],
)
def test_a_wrong_address_is_one_sentence_at_once(address, why):
    start = time.monotonic()
    with pytest.raises(KdlibError, match=f"^--ray {address}: {why}.*`ray start --head`") as error:
        cluster.connect(address)
    assert time.monotonic() - start < 2 and "\n" not in str(error.value)


def test_without_ray_the_command_line_says_how_to_get_it(monkeypatch, capsys):
    for name in [
        m for m in sys.modules if m.startswith("kdlib.study.c") or m == "kdlib.study.node"
    ]:
        if name.rpartition(".")[2] in ("cluster", "crew", "node"):
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(kdlib.study, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["run", "digits", "--seeds", "1", "--ray", "auto"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdlib: this command needs ray, which is not installed; ")
    assert 'pip install ".[ray]"' in said and said.count("\n") == 1
