"""A Ray cluster of two nodes on this machine. It takes a minute to start: `make test-cluster`."""

import os
import time
from dataclasses import replace

import pytest

from kdlib.config import Config, KdlibError
from kdlib.study import records, sweep
from kdlib.study.experiment import together

if "ray" not in os.environ.get("KDLIB_REQUIRE", "").split(","):
    pytest.skip("`make test-cluster` starts a Ray cluster", allow_module_level=True)

import ray
from ray.cluster_utils import Cluster

from kdlib.study import cluster, crew

CFG = Config(imbalance=50, draw_seed=0, epochs=2, batch_size=32, lr=0.05)
KD = replace(CFG, method="kd", teacher="cnn", temperature=2.0, teacher_seed=7)
RUNS = [*(replace(CFG, seed=s) for s in range(13)), *(replace(KD, seed=s) for s in range(6))]
TEACHER = KD.teacher_config()  # the twentieth
SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def nodes():
    """(the Cluster of Ray's, its second node, ours), both nodes with one core."""
    for _ in range(4):
        two = Cluster()
        try:
            two.add_node(**SMALL, include_dashboard=False)
            second = two.add_node(**SMALL)
            break
        except Exception:  # Ray's own, of no other kind: on a busy machine it gives up too soon
            two.shutdown()
    else:
        pytest.fail("Ray did not start, four times")
    yield two, second, cluster.connect(two.address)
    ray.shutdown()
    two.shutdown()


@pytest.fixture
def place(nodes, records_folder, tmp_path, monkeypatch):
    """Our Cluster, its workers gone; records and tables of their own."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    yield nodes[2]
    nodes[2].close()


@pytest.fixture
def used(monkeypatch):
    """{node: how many runs it did}."""
    found = {}
    plain = cluster.Cluster._note

    def note(self, hand, outcome, *more):
        found[hand.node] = found.get(hand.node, 0) + len(hand.configs) * (outcome is not None)
        return plain(self, hand, outcome, *more)

    monkeypatch.setattr(cluster.Cluster, "_note", note)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """{key: weights_sha256} of all runs by one process, each by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(tmp_path_factory.mktemp("alone")))
        for cfg in [TEACHER, *RUNS]:
            together([cfg])
        return {cfg.key(): weights(cfg) for cfg in [TEACHER, *RUNS]}


def weights(cfg):
    return records.read(cfg).facts["weights_sha256"]


def both_ready(place):
    """Have a worker on each node, its data at hand, before the first run, which is short."""
    place._have_crew(None, "cpu", 2)
    crew, until = place.crew, time.monotonic() + 240
    while len(crew.idle) < 2:
        crew.hire(2)
        crew.answers(1.0)
        assert time.monotonic() < until
    for hand in [crew.idle.pop(), crew.idle.pop()]:
        crew.ask(hand, "shares", RUNS[:1], 2)
    while len(crew.idle) < 2:
        crew.idle += [hand for hand, _ in crew.answers(1.0)]
        assert time.monotonic() < until


def lines(folder, what):
    """{key: lines of the log that say this of it}."""
    found = {}
    for line in (folder / "runs.log").read_text().splitlines():
        _, _, key, *words = line.split()
        if what in " ".join(words):
            found[key] = found.get(key, 0) + 1
    return found


def test_twenty_runs_over_both_nodes_have_the_weights_of_one_process(
    place, used, alone, records_folder
):
    both_ready(place)
    done = sweep.sweep(RUNS, ray="auto")
    assert [r.config for r in done] == RUNS
    assert {cfg.key(): weights(cfg) for cfg in [TEACHER, *RUNS]} == alone
    assert len(used) == 2 and sum(used.values()) == 20 and min(used.values()) > 1
    assert lines(records_folder, "epoch 2/2") == dict.fromkeys(alone, 1)
    assert {r.facts["threads"] for r in done} == {1}
    assert not list(records_folder.glob(".tmp*"))  # the token among them


def test_where_no_folder_is_shared_records_come_back_and_are_the_same(
    place, used, alone, records_folder, monkeypatch
):
    plain = crew.Crew.__init__

    def hidden(self, *told):
        plain(self, *told)
        self.token += "-unseen"

    monkeypatch.setattr(crew.Crew, "__init__", hidden)
    both_ready(place)
    sweep.sweep(RUNS, ray="auto")
    assert {cfg.key(): weights(cfg) for cfg in [TEACHER, *RUNS]} == alone
    assert len(used) == 2 and sum(used.values()) == 20
    assert lines(records_folder, "epoch 2/2") == dict.fromkeys(alone, 1)
    # nobody claimed a run there, because nobody worked there
    left = {
        p.name
        for p in records_folder.iterdir()
        if p.suffix not in (".json", ".npz", ".safetensors")
    }
    assert {name for name in left if not name.endswith(".safetensors")} == {"runs.log"}


def test_without_its_data_set_a_study_is_one_sentence_that_names_the_node(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(KdlibError, match=r"^Node \S+ \(\w{6}\): cifar100 was not found: looked in"):
        sweep.sweep(
            [replace(CFG, dataset="cifar100", student="resnet8")], tmp_path / "empty", ray="auto"
        )


def test_the_runs_of_a_node_that_is_killed_are_done_again_and_no_other_is(
    nodes, place, used, records_folder
):
    two, second, _ = nodes
    both_ready(place)
    todo = [replace(cfg, epochs=240) for cfg in RUNS[:8]]  # of 3 s each, at least
    plain, killed = place._give, []

    def give(hand, configs, plan, failures):
        plain(hand, configs, plan, failures)
        if len(plan.done) >= 2 and not killed and second.node_id[:6] in hand.node:
            time.sleep(0.5)  # into the run
            two.remove_node(second, allow_graceful=False)
            killed.append(configs[0].key())

    place._give = give
    try:
        sweep.sweep(todo, ray="auto")
    finally:
        del place._give
    assert killed and list(lines(records_folder, "lost on node")) == killed
    finished = lines(records_folder, "epoch 240/240")
    assert finished.keys() == {cfg.key() for cfg in todo} and set(finished.values()) == {1}
    assert [records.read(cfg).config for cfg in todo] == todo
