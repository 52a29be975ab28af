"""A broker that is started again on its data with another --max-len, or another checkpoint."""
import pytest

import harness
from harness import MODELS, Broker, wait_until


def distinct(n, length):
    return [{"id": i, "ids": [(i * 7 + j * j + i // 200 * j) % 200 for j in range(length)]} for i in range(n)]


def killed_with_work(directory, key, rows, options=(), model=harness.DEMO):
    """A data directory in which these rows wait, in a paused job: the broker that took them was killed."""
    with Broker(directory, model=model, options=options) as broker, broker.client() as client:
        client.submit(key, [{"id": "before", "ids": [1]}], seal=False)
        client.call("pause", job=key)
        client.submit(key, rows, chunk=1)
        broker.kill9()


def test_longer_rows_end_without_a_worker(tmp_path):
    rows = distinct(40, 30)
    rows[5] = {"id": "two", "chosen": "3", "rejected": "3 + 4 is 7, and 7 is the sum of both of these"}
    rows[6] = {"id": "short", "ids": [1, 2, 3]}
    model = MODELS / "demo-reward"
    killed_with_work(tmp_path / "d", "first", rows, model=model)
    with Broker(tmp_path / "d", model=model, options=["--max-len", 20]) as broker, broker.client() as client:
        client.call("resume", job="first")
        found = {r["i"] - 1: r for r in client.results("first")}
        assert len(found) == 41
        for i in set(range(40)) - {5, 6}:
            assert found[i]["error"]["code"] == "too_long"
            assert "at most 20 tokens" in found[i]["error"]["message"] and "--max-len" in found[i]["error"]["message"]
            assert "found 30" in found[i]["error"]["message"]
        assert found[5]["error"]["code"] == "too_long" and found[5]["error"]["message"].startswith("rejected: ")
        assert found[6]["error"] is None
        info = client.call("info")
        assert info["counters"]["batches_lost"] == 0 and info["workers"][0]["restarts"] == 0
        assert info["counters"]["tokens"] in (3, 4)  # of the two short rows alone
        assert client.submit("second", [{"ids": [4, 5]}])["accepted"] == 1
        assert client.results("second")[0]["error"] is None
    with Broker(tmp_path / "d", model=model) as broker, broker.client() as client:
        assert client.call("retry", job="first")["retried"] == 39
        wait_until(lambda: client.call("status", job="first")["done"] == 41)
        assert client.call("status", job="first")["failed"] == 0


@pytest.mark.parametrize("now,code,said", [
    ("seqcls", "bad_token", "found a larger one"),
    ("seqcls-3-labels", "bad_request", "expected 3 values under this checkpoint's head, found 1")])
def test_a_job_moved_to_another_checkpoint(tmp_path, now, code, said):
    """resume with accept_mode may bring rows to a checkpoint that cannot take them."""
    killed_with_work(tmp_path / "d", "moved", [{"ids": [7, 500 if code == "bad_token" else 7]}])
    with Broker(tmp_path / "d", model=MODELS / now) as broker, broker.client() as client:
        assert client.call("status", job="moved")["state"] == "paused"
        client.call("resume", job="moved", accept_mode=True)
        found = {r["i"]: r for r in client.results("moved")}
        assert found[1]["error"]["code"] == code and said in found[1]["error"]["message"], found
        assert client.call("info")["counters"]["batches_lost"] == 0
