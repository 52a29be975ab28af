"""Rows of sessions go to the replica that has their beginning in its KV cache: a search computes hardly more tokens on several replicas
than on one, and the same scores."""
import os
import random
import signal
import threading

import pytest
from harness import MODELS, Broker, changed_model, ids_bytes, wait_until

OPTIONS = ["--kv-cache", "64M", "--max-batch-tokens", 2048]


def all_ready(client):
    return all(worker["state"] == "ready" for worker in client.call("info")["workers"])


def some_ids(rng, n):
    return [rng.randrange(20, 250) for _ in range(n)]


def search(client, seed, width=12, steps=5, between=None, **of_row):
    """A beam search over one prompt: a quarter of the beams goes on each time, four ways. The scores of each step, in order."""
    rng = random.Random(seed)
    root = client.call("open", row={"ids": ids_bytes(some_ids(rng, 400)), **of_row})["session"]
    beams, found = client.call("fork", session=root, n=width)["sessions"], []
    for step in range(steps):
        more = [{"ids": ids_bytes(some_ids(rng, 15))} for _ in beams]
        beams = client.call("append", sessions=beams, more=more)["sessions"]
        if between:
            between(step)
        rows = client.call("score", sessions=beams, timeout=120, timeout_ms=100_000)["rows"]
        assert all(row["error"] is None for row in rows), rows
        found.append([row["score"] if "score" in row else row["mean"] for row in rows])
        best = sorted(range(len(rows)), key=lambda i: found[-1][i])[-(width // 4):]
        kept = [name for i in best for name in client.call("fork", session=beams[i], n=4)["sessions"]]
        client.call("close", sessions=beams)
        beams = kept
    client.call("close", sessions=[root, *beams])
    return found


def computed(client):
    """Tokens of each worker that were computed."""
    return [worker["tokens"] - worker["reused"] for worker in client.call("info")["workers"]]


def searches(broker, seeds, between=None, **of_row):
    """Searches of as many clients at once, each over a prompt of its own."""
    found = {}

    def one(seed):
        with broker.client() as client:
            found[seed] = search(client, seed, between=between, **of_row)
    threads = [threading.Thread(target=one, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(seeds)
    return found


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("seeds", [range(1), range(4)], ids=["one", "four"])
def test_a_search_on_several_replicas(directory, replicas, seeds):
    found = {}
    for n in (1, replicas):
        with Broker(directory / str(n), model=MODELS / "seqcls", options=[*OPTIONS, "--replicas", n]) as broker, broker.client() as client:
            wait_until(lambda: all_ready(client))
            found[n] = searches(broker, seeds), sum(computed(client))
    assert found[replicas][0] == found[1][0]
    assert found[replicas][1] <= 1.1 * found[1][1], found


def test_sessions_of_one_score_that_live_apart(directory):
    """Their rows come in one message, in any order: each batch is of one replica's."""
    found = {}
    for n in (1, 2):
        with Broker(directory / str(n), model=MODELS / "seqcls", options=[*OPTIONS, "--replicas", n]) as broker, broker.client() as client:
            wait_until(lambda: all_ready(client))
            rng, scores = random.Random(9), []
            names = [client.call("open", row={"ids": ids_bytes(some_ids(rng, 500))})["session"] for _ in range(12)]
            for _ in range(4):
                rng.shuffle(names)
                names = client.call("append", sessions=names, more=[{"ids": ids_bytes(some_ids(rng, 10))} for _ in names])["sessions"]
                scores += [row["score"] for row in client.call("score", sessions=names, timeout=120)["rows"]]
            found[n] = scores, computed(client)
    assert found[2][0] == found[1][0]
    assert sum(found[2][1]) <= 1.1 * sum(found[1][1]) and min(found[2][1]) > 0, found


def test_a_replica_that_dies_in_the_middle(directory):
    """At rest, and while it computes. The other goes on with what was its own."""
    with Broker(directory / "one", model=MODELS / "seqcls", options=OPTIONS) as broker:
        truth = searches(broker, range(2))
    with Broker(directory / "two", model=MODELS / "seqcls", options=[*OPTIONS, "--replicas", 2]) as broker, broker.client() as client:
        wait_until(lambda: all_ready(client))
        lock, kills = threading.Lock(), []

        def kill(step):
            with lock:
                if step in (1, 3) and step not in kills:
                    kills.append(step)
                    worker = client.call("info")["workers"][len(kills) % 2]
                    os.kill(worker["pid"], signal.SIGKILL)
        assert searches(broker, range(2), kill) == truth
        assert kills == [1, 3] and wait_until(lambda: sum(worker["restarts"] for worker in client.call("info")["workers"]) == 2)


def test_two_models_each_with_replicas(directory, tmp_path):
    """A session of each, and sessions that both score: each model has homes of its own."""
    models = ["--model", f"b={changed_model(tmp_path / 'b', -0.5)}", *OPTIONS]
    found = {}
    for n in (1, 2):
        with Broker(directory / str(n), model=f"a={MODELS}/demo-reward", options=[*models, "--replicas", n]) as broker, broker.client() as client:
            wait_until(lambda: all_ready(client))
            how = ({"model": "a"}, {"model": "b"}, {"models": ["a", "b"]})
            found[n] = [search(client, seed, **of_row) for seed, of_row in enumerate(how)], sum(computed(client))
    assert found[2][0] == found[1][0]
    assert found[2][1] <= 1.1 * found[1][1], found


def test_a_home_that_starts_anew_with_an_adapter(directory):
    with Broker(directory / "one", model=MODELS / "reward", options=OPTIONS) as broker, broker.client() as client:
        truth = search(client, 5)
    with Broker(directory / "two", model=MODELS / "reward", options=[*OPTIONS, "--replicas", 2]) as broker, broker.client() as client, \
            broker.client() as other:
        wait_until(lambda: all_ready(client))

        def add(step):
            if step == 2:
                other.call("adapter_add", name="all", dir=str(MODELS / "lora/reward-all"), timeout=120)
        assert search(client, 5, between=add) == truth


def test_work_does_not_wait_for_a_busy_home(directory):
    """Of many rows of one session's forks the other replica computes some, too."""
    with Broker(directory / "d", model=MODELS / "seqcls", options=["--kv-cache", "64M", "--max-batch-tokens", 512, "--replicas", 2,
                                                                 "--no-prefix-sharing"]) as broker, broker.client() as client:
        wait_until(lambda: all_ready(client))
        rng = random.Random(1)
        root = client.call("open", row={"ids": ids_bytes(some_ids(rng, 400))})["session"]
        client.call("score", sessions=[root], timeout=60)
        first = computed(client)
        assert min(first) == 0 and max(first) >= 400  # with its canary
        beams = client.call("fork", session=root, n=200)["sessions"]
        beams = client.call("append", sessions=beams, more=[{"ids": ids_bytes(some_ids(rng, 30))} for _ in beams])["sessions"]
        client.call("score", sessions=beams, timeout=120)
        assert all(now > before for now, before in zip(computed(client), first))
