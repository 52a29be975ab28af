"""tests/clients against real brokers: the Python client's scores, jobs and refusals."""
import array
import asyncio
import inspect
import multiprocessing
import pickle
import re
import struct
import threading
import time

import pytest
from client_harness import check_once, kind, score_rows, short_polls, some_rows  # noqa: F401
from harness import PATIENCE, Broker, random_key, wait_until
from assay import AssayError, AsyncClient, Client, default_endpoint


# ---- scoring ----

def test_score_is_in_the_order_of_the_rows(broker, kind):
    rows = some_rows(300)
    results = kind(broker.endpoint).score(rows)
    with broker.client() as plain:
        expected = plain.call("score", rows=rows)["rows"]
    assert results == expected and [row["i"] for row in results] == list(range(300))


def test_scores_that_came_outlast_their_job(directory):
    """The last message, which deletes the job, is sent again where its reply is lost: there is no such job then."""
    class Again(Client):
        def call(self, op, **fields):
            reply = super().call(op, **fields)
            if op == "purge":
                wait_until(lambda: started.sql("select count(*) from job") == [(0,)])
                reply = super().call(op, **fields)
            return reply
    with Broker(directory / "d", options=["--retain-ephemeral", "0s"]) as started:
        assert Again(started.endpoint).score([{"ids": [5, 6]}])[0]["error"] is None


def test_ids_in_every_form(broker):
    ids = [5, 6, 7, 8, 300]
    forms = [ids, tuple(ids), iter(ids), array.array("q", ids), struct.pack("<5i", *ids), bytearray(struct.pack("<5i", *ids))]
    results = Client(broker.endpoint).score([{"ids": form} for form in forms])
    assert len({row["score"] for row in results}) == 1 and results[0]["n_tokens"] == 5


def test_a_bad_row_is_its_own_error(broker):
    rows = [{"ids": [1, 2]}, {"ids": [2 ** 40]}, {"ids": [1, -1]}, {"ids": []}, {"ids": [3]}]
    client = Client(broker.endpoint)
    codes = [row["error"] and row["error"]["code"] for row in client.score(rows)]
    assert codes == [None, "bad_token", "bad_token", "no_tokens", None]
    rewards = client.rewards(rows)
    assert [reward is None for reward in rewards] == [False, True, True, True, False]


def test_rewards_are_of_one_number_a_row(broker):
    with pytest.raises(ValueError, match="steps"):
        Client(broker.endpoint).rewards([{"ids": [1, 2], "pool": {"type": "ALL"}}])


def test_what_is_refused_is_named(broker, kind):
    client = kind(broker.endpoint)
    key = client.submit([{"ids": [1]}])

    def refused(call, *arguments, **named):
        with pytest.raises(AssayError) as caught:
            call(*arguments, **named)
        assert str(caught.value).startswith(caught.value.code) and caught.value.message in str(caught.value)
        return caught.value.code, caught.value.field

    assert refused(client.status, "no-such-job") == ("unknown_job", "job")
    assert refused(client.score, [{"ids": [1]}, {"ids": [1], "pool": {"type": "last"}}]) == ("bad_request", "rows[1].pool.type")
    assert refused(client.score, [{"ids": [1.5]}])[1] == "rows[0].ids[0]"
    assert refused(client.submit, [{"ids": [2]}], key=key)[0] == "key_reused"
    assert refused(client.call, "results", job=key, limit=0) == ("bad_request", "limit")
    with pytest.raises(TypeError, match="dict"):
        client.score([[1, 2, 3]])


def test_an_error_can_be_sent_to_another_process():
    error = pickle.loads(pickle.dumps(AssayError("queue_full", "too much", "rows", 1000)))
    assert (error.code, error.message, error.field, error.retry_after_ms) == ("queue_full", "too much", "rows", 1000)
    assert str(error) == "queue_full: rows: too much"


def test_no_broker_is_unavailable(directory, kind):
    start = time.monotonic()
    with pytest.raises(AssayError) as caught:
        kind(f"ipc://{directory}/none.sock", timeout_s=0.5, resend_s=0.1).hello()
    assert caught.value.code == "unavailable" and str(directory) in str(caught.value)
    assert 0.5 <= time.monotonic() - start < 5 * PATIENCE


def test_default_endpoint(monkeypatch):
    monkeypatch.delenv("ASSAY_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_endpoint() == "ipc:///state/assay/broker.sock"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_endpoint() == "ipc:///home/me/.local/state/assay/broker.sock"
    monkeypatch.setenv("ASSAY_ENDPOINT", "tcp://127.0.0.1:5555")
    assert default_endpoint() == Client().endpoint == "tcp://127.0.0.1:5555"


@pytest.mark.parametrize("endpoint", ["ipc://@name", "ipc://*", "ipc://", "inproc://a", "tcp://127.0.0.1", "tcp://*:5555",
                                      "tcp://127.0.0.1:0", "tcp://127.0.0.1:1;127.0.0.1:2", "/tmp/assay/broker.sock"])
def test_endpoint_that_is_none(endpoint):
    with pytest.raises(ValueError, match=re.escape(repr(endpoint))):
        Client(endpoint)
    done = score_rows(endpoint, "ids:1")
    assert done.returncode == 64 and endpoint in done.stderr, done.stderr


# ---- jobs ----

def test_job_from_submit_to_done(broker, kind):
    client, rows = kind(broker.endpoint), some_rows(1000)
    key = client.submit(iter(rows), chunk_rows=64, meta={"from": "a test"})
    assert client.wait(key)["state"] == "done"
    check_once(broker, key, rows, list(client.results(key)))
    assert client.status(key)["done"] == 1000
    assert key in [job["key"] for job in client.jobs()] and key in [job["key"] for job in client.jobs(state="done")]
    assert key not in [job["key"] for job in client.jobs(state="open")]
    assert client.hello()["protocol"] == 1 and client.info()["counters"]["rows_done"] >= 1000


def test_submitted_again_is_the_same_job(broker):
    """Another process, the same key and rows."""
    client, rows, key = Client(broker.endpoint), some_rows(100), random_key()
    for _ in range(2):
        assert client.submit(iter(rows), key=key, chunk_rows=30) == key
    check_once(broker, key, rows, list(client.results(key)))
    assert client.score(rows[:5], key=f"{key}-s") == client.score(rows[:5], key=f"{key}-s")
    assert broker.sql("select total from jobs where key = ?", f"{key}-s") == [(5,)]


def test_no_rows(broker):
    client = Client(broker.endpoint)
    key = client.submit([])
    assert client.wait(key)["total"] == 0 and list(client.results(key)) == [] and client.score([]) == []


def test_cursor_goes_on_elsewhere(broker):
    rows = some_rows(50)
    key = Client(broker.endpoint).submit(rows)
    Client(broker.endpoint).wait(key)
    first = Client(broker.endpoint).page(key, limit=20)
    assert len(first["rows"]) == 20 and not first["done"]
    check_once(broker, key, rows, first["rows"] + list(Client(broker.endpoint).results(key, after=first["next"])))


def test_timeouts_leave_the_job_alive(broker, kind):
    client, rows, key = kind(broker.endpoint), some_rows(5), random_key()
    client.call("submit", key=key, chunk=0, rows=[], seal=True)
    paused = random_key()
    client.call("submit", key=paused, chunk=0, rows=[{"ids": [1]}])
    client.call("pause", job=paused)
    client.call("submit", key=paused, chunk=1, rows=[{"ids": [2]}], seal=True)
    for wait in (lambda: client.wait(paused, timeout_s=0.2), lambda: list(client.results(paused, timeout_s=0.2))):
        with pytest.raises(AssayError) as caught:
            wait()
        assert caught.value.code == "timeout" and paused in caught.value.message
    client.call("resume", job=paused)
    assert client.wait(paused)["done"] == 2
    assert client.score(rows, timeout_s=30 * PATIENCE)[4]["error"] is None


def test_score_of_a_job_that_does_not_end(directory, kind):
    """Timeout, then cancelled by someone else: named, and never a short list."""
    with Broker(directory / "d", options=["--max-batch-tokens", 64]) as broker:
        client, rows, key = kind(broker.endpoint), [{"ids": [k % 500] * 59 + [k // 500]} for k in range(2000)], random_key()
        with pytest.raises(AssayError) as caught:
            client.score(rows, timeout_s=0.3, key=key)
        assert caught.value.code == "timeout" and key in caught.value.message
        canceller = threading.Timer(0.2, kind(broker.endpoint).cancel, [key])
        canceller.start()
        with pytest.raises(AssayError) as caught:
            client.score(rows, key=key)
        canceller.join()
        assert caught.value.code == "wrong_state" and "of 2000 rows" in caught.value.message
        assert client.wait(key)["state"] == "cancelled"
        with pytest.raises(AssayError) as caught:
            list(client.results(key))
        assert caught.value.code == "wrong_state" and "rows unfinished" in caught.value.message


def test_one_client_for_many_threads(broker):
    client, scores = Client(broker.endpoint), {}

    def one(n):
        scores[n] = [row["score"] for row in client.score([{"ids": [n + 1] * k} for k in range(1, 6)])]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = client.score([{"ids": [n + 1] * k} for n in range(16) for k in range(1, 6)])
    assert [score for n in range(16) for score in scores[n]] == [row["score"] for row in alone]


def score_in_child(client, rows, queue):
    queue.put(client.score(rows))


def test_a_client_in_a_forked_child(broker):
    """The parent has used it before; sockets of a parent would not work in a child."""
    client, rows = Client(broker.endpoint), some_rows(5)
    expected = client.score(rows)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=score_in_child, args=(client, rows, queue))
    child.start()
    assert queue.get(timeout=30 * PATIENCE) == expected
    child.join()
    assert client.score(rows) == expected


def test_many_tasks_at_once(broker):
    """Of one loop, with rows from an `async for` among them; a task that is cancelled disturbs none."""
    client, rows = AsyncClient(broker.endpoint), some_rows(40)

    async def source():
        for row in rows:
            await asyncio.sleep(0)
            yield row

    async def all_of_them():
        waits = asyncio.create_task(client.wait("no-such-job"))
        lost = asyncio.create_task(client.score(rows))
        await asyncio.sleep(0)
        lost.cancel()
        found = await asyncio.gather(client.score(source()), *[client.score(rows[k:k + 5]) for k in range(0, 40, 5)])
        with pytest.raises(AssayError, match="unknown_job"):
            await waits
        return found

    whole, *parts = asyncio.run(all_of_them())
    assert [row["score"] for row in whole] == [row["score"] for part in parts for row in part]
    assert [row["id"] for row in whole] == [row["id"] for row in rows]


def test_jobs_are_controlled(broker, kind):
    client, key = kind(broker.endpoint), random_key()
    client.call("submit", key=key, chunk=0, rows=[{"ids": [1]}, {"ids": []}])
    assert client.pause(key) == "paused" and client.resume(key) == "open"
    client.call("submit", key=key, chunk=1, seal=True)
    assert client.wait(key)["failed"] == 1
    assert {name: client.retry(key)[name] for name in ("retried", "kept", "state")} == {"retried": 0, "kept": 1, "state": "done"}
    assert client.purge(key) == 1 and client.purge(key) == 0
    with pytest.raises(AssayError, match="unknown_job"):
        client.status(key)
    paused = random_key()
    client.call("submit", key=paused, chunk=0, rows=[{"ids": [1]}])
    client.pause(paused)
    assert client.cancel(paused) == "cancelled" and client.wait(paused)["state"] == "cancelled"


def test_both_clients_have_the_same_methods():
    def signatures(kind):
        found = {name: inspect.signature(value) for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
        return {name: [(p.name, p.default) for p in signature.parameters.values()] for name, signature in found.items()}
    assert signatures(Client) == signatures(AsyncClient)
    assert all(value.__doc__ for name, value in vars(Client).items() if inspect.isfunction(value) and name[0] != "_")
