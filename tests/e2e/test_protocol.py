"""The message protocol, as a client that has read PROTOCOL.md uses it."""
import random
import threading
import time

import msgpack
import pytest
import zmq
from harness import Broker, Refused, ids_bytes, random_key


def some_rows(n, seed=1, low=4, high=60):
    rng = random.Random(seed)
    return [{"id": f"r{k}", "ids": ids_bytes([rng.randrange(500) for _ in range(rng.randint(low, high))])}
            for k in range(n)]


def test_hello_says_what_is_needed(client):
    hello = client.call("hello")
    assert hello["protocol"] == 1
    model = hello["model"]
    assert model["architecture"] == "Qwen2ForRewardModel" and len(model["digest"]) == 64
    assert model["max_len"] > 0 and model["tokenizer"] is None
    assert {"max_message_bytes", "max_rows_per_message", "max_tokens_per_row", "max_queued_bytes"} <= set(
        hello["limits"])


def test_submit_and_results(client):
    key = random_key()
    reply = client.submit(key, some_rows(20))
    assert reply["accepted"] == 20 and reply["total"] == 20
    rows = client.results(key)
    assert sorted(row["i"] for row in rows) == list(range(20))
    for row in rows:
        assert row["id"] == f"r{row['i']}" and row["error"] is None
        assert isinstance(row["score"], float)
        assert row["pooled_at"][0]["i"] == row["n_tokens"] - 1
    status = client.call("status", job=key)
    assert status["state"] == "done" and status["done"] == status["total"] == 20 and status["failed"] == 0
    assert client.call("status", job=reply["job"])["key"] == key


def test_ids_as_array_and_as_bin_score_the_same(client):
    ids = [5, 6, 7, 8, 300]
    reply = client.call("score", rows=[{"ids": ids}, {"ids": ids_bytes(ids)}])
    assert reply["rows"][0]["score"] == reply["rows"][1]["score"]


def test_score_is_float32_on_the_wire(client):
    client.socket.send(msgpack.packb({"v": 1, "op": "score", "id": 1, "rows": [{"ids": [1, 2, 3]}]}))
    assert client.socket.poll(30000)
    body = client.socket.recv()
    at = body.index(b"\xa5score") + 6
    assert body[at] == 0xCA, hex(body[at])


def test_same_chunk_again_is_the_same_answer(client):
    key, rows = random_key(), some_rows(5)
    first = client.submit(key, rows)
    again = client.submit(key, rows)
    for reply in (first, again):
        reply.pop("id")
        reply.pop("state")
    assert first == again
    assert len(client.results(key)) == 5


def test_other_contents_under_the_same_key_are_refused(client):
    key = random_key()
    client.submit(key, some_rows(5))
    with pytest.raises(Refused) as refused:
        client.submit(key, some_rows(5, seed=2))
    assert refused.value.code == "key_reused"


def test_chunks_in_any_order(client):
    key, rows = random_key(), some_rows(40)
    chunks = [(n, rows[n * 10:(n + 1) * 10]) for n in range(4)]
    for n in (2, 0, 3):
        client.submit(key, chunks[n][1], chunk=n, seal=n == 3)
    assert client.call("status", job=key)["total"] is None
    assert client.submit(key, chunks[1][1], chunk=1, seal=False)["total"] == 40
    results = client.results(key)
    assert {row["i"]: row["id"] for row in results} == {k: f"r{k}" for k in range(40)}


def test_seal_without_rows(client):
    key = random_key()
    client.submit(key, some_rows(3), seal=False)
    assert client.call("status", job=key)["state"] == "open"
    client.submit(key, None, chunk=1)
    assert len(client.results(key)) == 3
    with pytest.raises(Refused):
        client.submit(key, some_rows(3), chunk=2, seal=False)


def test_errors_in_content_are_the_rows_own(client):
    limits = client.call("hello")["model"]["max_len"]
    rows = [{"ids": [1, 2, 3]}, {"ids": [1, 10 ** 6]}, {"ids": [-1]}, {"ids": []}, {"ids": [1] * (limits + 1)},
            {"ids": [1] * (limits + 1), "truncate": True}, {"ids": [1, 2], "pool": {"type": "STEP", "step_token": 9}},
            {"ids": [1, 2], "pool": {"type": "POSITIONS", "positions": [2]}}, {"ids": [2 ** 40]},
            {"ids": [1, 2], "adapter": "x"}]
    reply = client.call("score", rows=rows)
    codes = [row["error"]["code"] if row["error"] else None for row in reply["rows"]]
    assert codes == [None, "bad_token", "bad_token", "no_tokens", "too_long", None, "no_step_token", "bad_position",
                     "bad_token", "unknown_adapter"]
    assert all((row["score"] is None) == (row["error"] is not None) for row in reply["rows"])


def test_poolings(client):
    ids = [5, 9, 6, 9, 7]
    pools = [{"type": "LAST"}, {"type": "CLS"}, {"type": "ALL"}, {"type": "STEP", "step_token": 9},
             {"type": "POSITIONS", "positions": [4, 0]}, {"type": "MEAN"}, {"type": "LAST", "activation": "sigmoid"}]
    rows = client.call("score", rows=[{"ids": ids, "pool": pool} for pool in pools])["rows"]
    last, cls, all_, step, positions, mean, sigmoid = rows
    assert all_["steps"] == [cls["score"], step["steps"][0], all_["steps"][2], step["steps"][1], last["score"]]
    assert positions["steps"] == [last["score"], cls["score"]]
    assert abs(mean["score"] - sum(all_["steps"]) / 5) < 1e-5
    assert 0 < sigmoid["score"] < 1
    assert [at["i"] for at in step["pooled_at"]] == [1, 3] and step["pooled_at"][0]["id"] == 9


def test_cursor_gives_each_row_once_while_they_finish(client):
    key = random_key()
    client.submit(key, some_rows(200, high=200))
    seen, after = [], 0
    while True:
        reply = client.call("results", job=key, after=after, limit=7, wait_ms=200)
        seen += [row["i"] for row in reply["rows"]]
        after = reply["next"]
        if reply["done"]:
            break
    assert sorted(seen) == list(range(200)) and len(seen) == 200


def test_results_wait_is_answered_by_the_event(broker):
    with broker.client() as waiter, broker.client() as submitter:
        key = random_key()
        submitter.submit(key, some_rows(1), seal=False)
        first = waiter.call("results", job=key, after=0, wait_ms=20000)
        assert len(first["rows"]) == 1
        waiter.socket.send(msgpack.packb(
            {"v": 1, "op": "results", "id": 99, "job": key, "after": first["next"], "wait_ms": 20000}))
        assert not waiter.socket.poll(100)
        start = time.monotonic()
        submitter.submit(key, some_rows(1, seed=3), chunk=1)
        reply = waiter.receive()
        assert reply["id"] == 99 and [row["i"] for row in reply["rows"]] == [1]
        assert time.monotonic() - start < 10


def test_wait_ends_empty(client):
    key = random_key()
    client.submit(key, some_rows(1), seal=False)
    first = client.call("results", job=key, after=0, wait_ms=20000)
    reply = client.call("results", job=key, after=first["next"], wait_ms=50)
    assert reply["rows"] == [] and not reply["done"] and reply["next"] == first["next"]


def test_pause_resume_cancel(client):
    key = random_key()
    client.submit(key, some_rows(2), seal=False)
    assert client.call("pause", job=key)["state"] == "paused"
    client.submit(key, some_rows(3, seed=4), chunk=1)
    time.sleep(0.3)
    assert client.call("status", job=key)["done"] <= 2
    assert client.call("resume", job=key)["state"] != "paused"
    assert len(client.results(key)) == 5
    other = random_key()
    client.call("pause", job=client.submit(other, some_rows(3), seal=False)["job"])
    assert client.call("cancel", job=other)["state"] == "cancelled"
    assert client.call("results", job=other, after=0, wait_ms=1000)["done"]
    with pytest.raises(Refused):
        client.submit(other, some_rows(1), chunk=1)


def test_priority_goes_first(broker):
    with broker.client() as client:
        low, high = random_key("low"), random_key("high")
        client.submit(low, some_rows(1500, high=300), priority=-5)
        client.submit(high, some_rows(20), priority=5)
        client.results(high)
        status = client.call("status", job=low)
        assert status["done"] < status["total"]
        client.call("cancel", job=low)


def test_small_job_is_not_starved(broker):
    with broker.client() as client:
        big, small = random_key("big"), random_key("small")
        client.submit(big, some_rows(2000, high=300))
        client.submit(small, some_rows(10))
        client.results(small)
        status = client.call("status", job=big)
        assert status["done"] < status["total"]
        client.call("cancel", job=big)


def test_score_timeout_names_the_key_and_the_job_lives_on(broker):
    with broker.client() as client:
        with pytest.raises(Refused) as refused:
            client.call("score", rows=some_rows(400, low=200, high=300), timeout_ms=1, key="slow-" + random_key())
        assert refused.value.code == "timeout" and "slow-" in refused.value.err["message"]
        key = [job["key"] for job in client.call("jobs")["jobs"] if job["key"].startswith("slow-")][0]
        assert len(client.results(key)) == 400


def test_jobs_and_info(client):
    key = random_key()
    number = client.submit(key, some_rows(1))["job"]
    client.results(key)
    jobs = client.call("jobs", after=number - 1)["jobs"]
    assert jobs[0]["key"] == key and jobs[0]["state"] == "done"
    assert isinstance(client.call("info"), dict)


def test_unknown_job(client):
    for op in ("status", "results", "cancel", "pause", "resume", "retry"):
        with pytest.raises(Refused) as refused:
            client.call(op, job="no-such-job")
        assert refused.value.code == "unknown_job"


def test_events_are_numbered(broker):
    context = zmq.Context()
    events = context.socket(zmq.SUB)
    events.linger = 0
    events.connect(f"ipc://{broker.data}/events.sock")
    key = random_key("event")
    events.subscribe(key)
    time.sleep(0.3)
    with broker.client() as client:
        client.submit(key, some_rows(30))
        client.results(key)
    seen = []
    while events.poll(1500):
        topic, body = events.recv_multipart()
        assert topic.decode() == key
        seen.append(msgpack.unpackb(body))
        if seen[-1]["state"] == "done":
            break
    assert seen and seen[-1]["done"] == 30
    numbers = [event["seq"] for event in seen]
    assert numbers == sorted(set(numbers))
    events.close()
    context.term()


def test_many_clients_at_once(broker):
    scores = {}

    def one(n):
        with broker.client("REQ" if n % 2 else "DEALER") as client:
            scores[n] = client.call("score", rows=[{"ids": [1, 2, 3, 4]}])["rows"][0]["score"]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scores) == 20 and len(set(scores.values())) == 1


def test_views(broker):
    with broker.client() as client:
        key = random_key()
        client.submit(key, [{"id": "good", "ids": [1, 2, 3]}, {"id": 7, "ids": []}])
        rows = {row["i"]: row for row in client.results(key)}
    job, state, done, total, failed = broker.sql("select job,state,done,total,failed from jobs where key = ?", key)[0]
    assert (state, done, total, failed) == ("done", 2, 2, 1)
    assert broker.sql("select i,id,state,n_tokens from rows where job = ? order by i", job) == [
        (0, "good", "done", 3), (1, 7, "failed", 0)]
    found = broker.sql("select i,id,score,error_code from results where job = ? order by i", job)
    assert abs(found[0][2] - rows[0]["score"]) < 1e-6 and found[1][3] == "no_tokens"
    assert broker.sql("select i,code from errors where job = ?", job) == [(1, "no_tokens")]
    assert broker.sql("select count(*) from workers")[0][0] >= 1
    assert broker.sql("select sum(rows) from throughput")[0][0] >= 1
    assert broker.sql("select count(*) from batches")[0][0] >= 1


def test_full_queue_says_when_to_come_again(directory):
    """Bytes of unfinished rows are bounded, also those of chunks past a gap; what was accepted is kept."""
    with Broker(directory / "d", options=["--max-queued-bytes", 1 << 16]) as small, small.client() as client:
        key, rows = random_key(), [{"ids": ids_bytes([1] * 500)} for _ in range(25)]
        client.submit(key, rows, chunk=1, seal=False)
        with pytest.raises(Refused) as refused:
            client.submit(key, rows, chunk=2, seal=False)
        assert refused.value.code == "queue_full" and refused.value.err["retry_after_ms"] > 0
        assert client.submit(key, rows, chunk=1, seal=False)["accepted"] == 25  # known already: the same answer
        with pytest.raises(Refused):
            client.submit(random_key(), rows)
        client.submit(key, rows, chunk=0, seal=False)  # fills the gap: refusing it would block the queue for ever
        client.submit(key, None, chunk=2)
        assert len(client.results(key)) == 50
        assert client.submit(random_key(), rows)["accepted"] == 25
        with pytest.raises(Refused) as refused:  # more than the queue ever holds: no use to wait
            client.submit(random_key(), [{"ids": [1] * 500}] * 200)
        assert refused.value.code == "too_large" and refused.value.err["field"] == "rows"
