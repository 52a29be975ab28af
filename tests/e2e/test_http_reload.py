"""assay-http before a broker that loads other checkpoints while it runs (`reload`): no request and no batch gets the scores of
another checkpoint than its own."""
import json
import threading
import time

import pytest
from harness import MODELS, PATIENCE, ROOT, Broker, Refused, wait_until
from http_harness import Http, float32
from test_http_batches import OVER, Batches, lines, score_of
from test_models import alone, changed_model

MODEL = MODELS / "demo-reward"
pytestmark = pytest.mark.skipif("### reload" not in (ROOT / "schema/PROTOCOL.md").read_text(), reason="this broker has no reload")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def other(tmp_path):
    return changed_model(tmp_path / "other", -0.5)


def scores_of(reply):
    return [float32(one["probs"][0]) for one in reply["data"]]


def reload(client, model):
    """Also where workers that had this checkpoint before are still ending."""
    def ask():
        try:
            return client.call("reload", dir=str(model), timeout=60)
        except Refused as e:
            assert e.code == "not_ready", e
            return None

    wait_until(ask)


def test_requests_during_reloads(directory, tmp_path, other):
    """While two checkpoints take turns under one name, each reply has one's scores, whole, or is 503; after each the new one's come."""
    ids = [[5, 9, 11, 42], [7, 8], [30, 4, 61]]
    rows = [{"ids": row} for row in ids]
    models = {"old": MODEL, "new": other}
    expected = {name: alone(tmp_path / name, models, name, rows) for name in models}
    replies, stops = [], threading.Event()
    with Broker(directory / "d", model=f"m={MODEL}") as broker, Http(directory, broker) as http, broker.client() as client:
        def ask():
            while not stops.is_set() and len(replies) < 100000:
                replies.append(http.ask("POST", "/classify", json.dumps({"input": ids, "model": "m"}), JSON))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        [thread.start() for thread in threads]
        for turn in range(3):
            name = ("new", "old")[turn % 2]
            reload(client, models[name])
            wait_until(lambda: (reply := http.post("/classify", {"input": ids}))[0] == 200 and scores_of(reply[1]) == expected[name])
        stops.set()
        [thread.join(60 * PATIENCE) for thread in threads]
    found = {name: 0 for name in models}
    for status, _, text in replies:
        if status == 503:
            assert "another checkpoint" in json.loads(text)["error"]["message"]
            continue
        assert status == 200, text
        [name] = [name for name in models if expected[name] == scores_of(json.loads(text))]
        found[name] += 1
    assert all(found.values()), found


@pytest.mark.parametrize("restarts", [False, True], ids=["goes-on", "started-anew"])
def test_a_batch_during_a_reload(directory, tmp_path, other, restarts):
    """It ends with the checkpoint that it was begun with, also where assay-http is killed meanwhile; the next one has the new one's scores."""
    bodies = [{"input": [[k % 90, 5, 7, k // 90] * 40]} for k in range(300)]
    rows = [{"ids": body["input"][0]} for body in bodies]
    expected = {name: alone(tmp_path / name, {name: model}, name, rows) for name, model in (("old", MODEL), ("new", other))}
    with Broker(directory / "d", model=f"m={MODEL}", options=["--max-batch-tokens", 512, "--threads", 1]) as broker, broker.client() as client:
        http = Batches(directory, broker)
        http.start()
        batch = http.begin(lines(bodies))
        wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
        reload(client, other)
        if restarts:
            http.kill9()
            http.start()
        second = http.begin(lines(bodies[:50]))
        for one, name, n in ((batch, "old", 300), (second, "new", 50)):
            done = http.wait(one, 90)
            answers, errors = http.output(done)
            assert done["status"] == "completed" and not errors, done
            assert [score_of(answers[f"r{k}"]) for k in range(n)] == expected[name][:n]
        http.stop()


def test_batches_begun_after_a_reload(directory, tmp_path, other):
    """Each has the new checkpoint's scores, also where assay-http, busy with a batch of the earlier one, has yet to hear of it."""
    bodies = [{"input": [[k % 90, 5, 7, k // 90] * 40]} for k in range(600)]
    expected = alone(tmp_path / "new", {"m": other}, "m", [{"ids": body["input"][0]} for body in bodies[:3]])
    with Broker(directory / "d", model=f"m={MODEL}", options=["--max-batch-tokens", 512, "--threads", 1]) as broker, broker.client() as client:
        with Batches(directory, broker) as http:
            earlier = http.begin(lines(bodies))
            wait_until(lambda: http.batch(earlier)["request_counts"]["completed"] > 0)
            reload(client, other)
            begun = []
            for _ in range(30):
                begun.append(http.begin(lines(bodies[:3])))
                time.sleep(0.04)
            for one in begun:
                done = wait_until(lambda: (b := http.batch(one)) and (b["status"] in OVER or b["errors"]) and b, 60)
                assert done["status"] == "completed", done
                assert [score_of(http.output(done)[0][f"r{k}"]) for k in range(3)] == expected
