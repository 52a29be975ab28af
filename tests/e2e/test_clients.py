"""tests/clients against real brokers: the Python client through lost replies, kills and full queues; the reward functions as
their frameworks load and call them; the C program."""
import array
import asyncio
import concurrent.futures
import contextlib
import datetime
import importlib.util
import inspect
import json
import multiprocessing
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections import Counter

import msgpack
import pytest
import zmq
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, changed_model, framed_model, random_key, wait_until
from test_models import serve
from test_pad_rule import llama_like

CLIENTS = ROOT / "tests/clients"
sys.path.insert(0, str(CLIENTS))
import assay.parquet  # noqa: E402
from assay import AssayError, AsyncClient, Client, default_endpoint, pack_ids  # noqa: E402
from assay.parquet import rows_from_parquet  # noqa: E402
from assay.trl_reward import assay_reward, make_reward  # noqa: E402

SCORE_ROWS = BIN.parent / "tests/clients/score_rows"


class DealerClient(Client):
    socket_type = zmq.DEALER


async def collect(iterator):
    return [item async for item in iterator]


class Awaited:
    """AsyncClient, each call in a loop of its own, so that the same tests take both."""

    def __init__(self, *arguments, **named):
        self.client = AsyncClient(*arguments, **named)

    def __getattr__(self, name):
        def call(*arguments, **named):
            came = getattr(self.client, name)(*arguments, **named)
            return asyncio.run(collect(came) if inspect.isasyncgen(came) else came)
        return call


@pytest.fixture(params=[Client, DealerClient, Awaited])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    """A reply that is lost is missed sooner."""
    monkeypatch.setattr(assay.core, "POLL_S", 0.5)


@pytest.fixture(scope="module")
def served():
    """A broker with a model that reads text."""
    path = tempfile.mkdtemp(prefix="assay-")
    with Broker(path, model=MODELS / "demo-reward") as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def endpoint(served, monkeypatch):
    """Where the reward functions look for their broker."""
    monkeypatch.setenv("ASSAY_ENDPOINT", served.endpoint)
    return served.endpoint


def some_rows(n, length=20):
    return [{"id": f"r{k}", "ids": [(k * 7 + j) % 500 for j in range(1 + k % length)]} for k in range(n)]


def load_by_path(name):
    """A file as OpenRLHF and verl load it: by its path."""
    spec = importlib.util.spec_from_file_location(name, CLIENTS / f"assay/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_once(broker, key, rows, results):
    """Each row has one result: in what was read, and in the database."""
    assert sorted(result["i"] for result in results) == list(range(len(rows)))
    assert all(result["error"] is None and result["id"] == rows[result["i"]]["id"] for result in results)
    ((job, total, done),) = broker.sql("select job, total, done from jobs where key = ?", key)
    assert (total, done) == (len(rows), len(rows))
    assert broker.sql("select count(*), count(distinct i) from results where job = ?", job) == [(len(rows), len(rows))]


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


# ---- what goes wrong on the way ----

STARTER = concurrent.futures.ThreadPoolExecutor(1)  # a test's broker ends with the thread that started it: this one stays


def kill_and_restart(broker):
    broker.kill9()
    STARTER.submit(broker.start, wait=False).result()


class Middleman(threading.Thread):
    """Stands between clients and a broker, and keeps every request and reply. With `lossy`, the first reply to each request is
    lost on the way. kill_at: {op: numbers}: when the n-th request of that op has gone to the broker, the broker is killed
    and started again, before it has the request or after; a reply that is on its way is lost."""

    def __init__(self, broker, lossy=False, kill_at=None):
        super().__init__()
        self.broker, self.lossy, self.kill_at, self.kills, self.stopping = broker, lossy, kill_at or {}, 0, False
        self.endpoint = f"ipc://{broker.data}/middle.sock"
        self.requests, self.replies, self.seen = [], [], Counter()
        self.context = zmq.Context()
        self.ready = threading.Event()

    def connect(self):
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self.broker.endpoint)
        return socket

    def must_kill(self, op):
        self.seen[op] += 1
        return self.seen[op] in self.kill_at.get(op, ())

    def kill(self):
        time.sleep(0.02 * (self.kills % 2))
        self.kills += 1
        kill_and_restart(self.broker)

    def run(self):
        front, back, asked = self.context.socket(zmq.ROUTER), self.connect(), {}
        front.linger = 0
        front.bind(self.endpoint)
        self.ready.set()
        while not self.stopping:
            if front.poll(10):
                *envelope, body = front.recv_multipart()  # [peer] of a DEALER, [peer, empty] of a REQ
                asked[envelope[0]] = envelope, body
                self.requests.append(body)
                back.send_multipart([envelope[0], b"", body])
                if self.must_kill(msgpack.unpackb(body)["op"]):
                    self.kill()
                    back.close()
                    back = self.connect()
            while back.poll(0):
                peer, _, reply = back.recv_multipart()
                envelope, body = asked[peer]
                self.replies.append((body, msgpack.unpackb(reply)))
                if not (self.lossy and sum(body == earlier for earlier, _ in self.replies) == 1):
                    front.send_multipart([*envelope, reply])
        front.close()
        back.close()

    def __enter__(self):
        self.start()
        self.ready.wait()
        return self

    def __exit__(self, *_):
        self.stopping = True
        self.join()
        self.context.term()


def test_every_reply_is_lost_once(broker, kind):
    """Each request was heard and done, and its reply lost: it comes again, byte for byte, and nothing is stored twice."""
    with Middleman(broker, lossy=True) as middle:
        client, rows = kind(middle.endpoint, resend_s=0.2), some_rows(40)
        key = client.submit(rows, chunk_rows=10)
        results = list(client.results(key))
        scores = client.score(rows[:3])
    check_once(broker, key, rows, results)
    assert [row["score"] for row in scores] == [row["score"] for row in sorted(results, key=lambda row: row["i"])[:3]]
    times = Counter(middle.requests)
    submits = [body for body in times if msgpack.unpackb(body)["op"] == "submit"]
    assert len(submits) == 5 and all(times[body] >= 2 for body in times)


def test_a_search_whose_replies_are_lost(broker, kind):
    """What was appended is there once, and the scores are those of the rows sent whole."""
    rng, rows = random.Random(2), [list(range(40))] * 8
    with Middleman(broker, lossy=True) as middle:
        client = kind(middle.endpoint, resend_s=0.2)
        root = client.open({"ids": list(range(40))})
        beams = client.fork(root, 8)
        for _ in range(3):
            more = [[rng.randrange(500) for _ in range(7)] for _ in beams]
            beams = client.append(beams, [{"ids": ids} for ids in more])
            rows = [ids + what for ids, what in zip(rows, more)]
            found = client.score_sessions(beams)
        assert [row["id"] for row in found] == beams and beams[0].endswith(".3")
        assert [row["score"] for row in found] == [row["score"] for row in client.score([{"ids": ids} for ids in rows])]
        assert client.close_sessions([root, *beams]) == 0  # the first time, whose reply is lost, all are there
    assert all(n >= 2 for n in Counter(middle.requests).values())
    with pytest.raises(AssayError) as error:
        kind(broker.endpoint).score_sessions(beams)
    assert error.value.code == "unknown_session"


class KillsOnceCommitted(Middleman):
    """Its kill comes when the broker has made a job of what it was sent, and before the reply goes on."""

    def kill(self):
        wait_until(lambda: self.broker.sql("select count(*) from jobs") != [(0,)])
        self.kills += 1
        kill_and_restart(self.broker)


def test_a_score_of_sessions_whose_broker_is_killed(directory, kind):
    """The broker has made the job, and forgets the sessions: what is sent again is `unknown_session`, and the results come."""
    more = [[5, 6], [7, 8, 9]]
    with Broker(directory / "d") as broker:
        with KillsOnceCommitted(broker, kill_at={"score": (1,)}) as middle:
            client = kind(middle.endpoint, resend_s=0.3 * PATIENCE)
            sessions = client.append(client.fork(client.open({"ids": [1, 2, 3]}), 2), [{"ids": ids} for ids in more])
            found = client.score_sessions(sessions)
        codes = [reply["err"]["code"] for _, reply in middle.replies if not reply["ok"]]
        assert middle.kills == 1 and codes == ["unknown_session"]
        assert [row["id"] for row in found] == sessions
        client = kind(broker.endpoint)
        assert [row["score"] for row in found] == [row["score"] for row in client.score([{"ids": [1, 2, 3] + ids} for ids in more])]
        with pytest.raises(AssayError) as error:  # those that never came to a job
            client.score_sessions(sessions)
        assert error.value.code == "unknown_session"


def test_a_score_of_sessions_that_takes_long(directory, kind):
    """It goes on under its key, and has a time of its own."""
    with Broker(directory / "d", options=["--max-batch-tokens", 2000]) as broker:
        client = kind(broker.endpoint)
        client.submit([{"ids": [n % 500] * 1000} for n in range(120)], priority=90)
        session = client.open({"ids": [1, 2, 3]})
        with pytest.raises(AssayError) as error:
            client.score_sessions([session], timeout_s=0.2)
        assert error.value.code == "timeout"
        started = time.monotonic()
        found = client.score_sessions([session] * 2)
        assert time.monotonic() - started > assay.core.POLL_S, "too quick to show anything"
        assert [row["id"] for row in found] == [session] * 2 and found[0]["score"] == client.score([{"ids": [1, 2, 3]}])[0]["score"]


def test_chunks_are_as_asked_for(broker):
    """By rows and by bytes, streamed: a row is not drawn before the chunk in front of it is stored."""
    drawn = []

    def source():
        for k in range(40):
            yield {"ids": [k] * 100}
            drawn.append((k, sum(reply["ok"] for _, reply in middle.replies)))

    with Middleman(broker) as middle:
        client = Client(middle.endpoint)
        client.submit(source(), chunk_rows=7)
        by_rows = [msgpack.unpackb(body) for body in middle.requests]
        client.submit([{"ids": [1] * 100}] * 10, chunk_bytes=1000)
        by_bytes = [len(msgpack.unpackb(body)["rows"]) for body in middle.requests[len(by_rows):]]
    assert [len(request["rows"]) for request in by_rows] == [7, 7, 7, 7, 7, 5]
    assert [request["chunk"] for request in by_rows] == list(range(6))
    assert [request["seal"] for request in by_rows] == [False] * 5 + [True]
    assert all(stored >= max(0, k - 1) // 7 for k, stored in drawn)
    assert by_bytes == [2, 2, 2, 2, 2]


def test_a_broker_that_stands_still_is_asked_again(broker):
    """Longer than the first tries wait: their replies come late, to sockets that are gone."""
    client, rows = Client(broker.endpoint, resend_s=0.2), some_rows(30)
    key = random_key()
    broker.process.send_signal(signal.SIGSTOP)
    threading.Timer(1.2, broker.process.send_signal, [signal.SIGCONT]).start()
    client.submit(rows, key=key, chunk_rows=10)
    check_once(broker, key, rows, list(client.results(key)))


def test_broker_killed_while_a_job_is_submitted(directory, kind):
    rows, key = some_rows(1200), random_key()
    with Broker(directory / "d") as broker:
        with Middleman(broker, kill_at={"submit": (1, 5, 12, 20)}) as middle:
            assert kind(middle.endpoint, resend_s=0.5 * PATIENCE).submit(iter(rows), key=key, chunk_rows=50) == key
        assert middle.kills == 4 and max(Counter(middle.requests).values()) >= 2
        check_once(broker, key, rows, list(kind(broker.endpoint).results(key)))
        assert broker.sql("select count(*) from jobs") == [(1,)]


def test_broker_killed_while_results_are_read(directory, kind):
    rows = some_rows(2500)  # more than two replies hold
    with Broker(directory / "d") as broker:
        key = kind(broker.endpoint).submit(rows)
        with Middleman(broker, kill_at={"results": (1, 3, 5)}) as middle:
            results = list(kind(middle.endpoint, resend_s=0.5 * PATIENCE).results(key))
        assert middle.kills == 3
        check_once(broker, key, rows, results)
        again = sorted(kind(broker.endpoint).results(key), key=lambda row: row["i"])
        assert again == sorted(results, key=lambda row: row["i"])


def test_broker_killed_at_any_time_while_it_scores(directory, kind):
    """Not at moments that the client chooses: again and again, until all is scored."""
    rows, calls = [{"ids": [(k + j) % 500 for j in range(100)]} for k in range(64)], 8
    with Broker(directory / "d") as broker:
        client, stop = kind(broker.endpoint, resend_s=0.3 * PATIENCE), threading.Event()
        expected = client.score(rows)

        def killer():
            for pause in (0.11, 0.23, 0.07, 0.31):
                if stop.wait(pause + 0.3 * PATIENCE):
                    return
                kill_and_restart(broker)

        thread = threading.Thread(target=killer)
        thread.start()
        found = [client.score(rows) for _ in range(calls)]
        stop.set()
        thread.join()
        assert all(scores == expected for scores in found)
        assert broker.sql("select count(*), min(total), max(total) from jobs") == [(calls + 1, 64, 64)]


def test_full_queue_is_waited_out(directory):
    """A job of many times what the queue holds."""
    with Broker(directory / "d", options=["--max-queued-bytes", 1 << 16, "--max-batch-tokens", 2000]) as broker:
        rows = [{"id": k, "ids": [(k + j) % 500 for j in range(500)]} for k in range(100)]
        with Middleman(broker) as middle:
            client = Client(middle.endpoint)
            key = client.submit(rows, chunk_rows=16)
            results = list(client.results(key))
        check_once(broker, key, rows, results)
        refused = [body for body, reply in middle.replies if not reply["ok"]]
        assert refused and all(reply["ok"] or reply["err"]["code"] == "queue_full" for _, reply in middle.replies)
        assert all(Counter(middle.requests)[body] >= 2 for body in refused)


def test_full_queue_is_not_waited_out_for_ever(directory):
    with Broker(directory / "d", options=["--max-queued-bytes", 1 << 16]) as broker:
        client, key = Client(broker.endpoint), random_key()
        client.call("submit", key=key, chunk=1, rows=[{"ids": pack_ids([1] * 1000)}] * 15)  # behind a gap
        with pytest.raises(AssayError) as caught:
            client.submit([{"ids": [1] * 1000}] * 5, timeout_s=0.5)
        assert caught.value.code == "queue_full" and caught.value.retry_after_ms > 0


# ---- text, and the frameworks' ways of calling ----

SHAPES = [{"text": "What is 3 + 4?"},
          {"messages": [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]},
          {"prompt": "What is 3 + 4?", "response": "7"}, {"prompt": [{"role": "user", "content": "3 + 4?"}], "completion": "7"},
          {"prompt": "What is 3 + 4?", "responses": ["7", "8", "9"]},
          {"prompt": "What is 3 + 4?", "chosen": "7", "rejected": "8"},
          {"text": "not text: \ud800"}]


def test_every_shape_of_text(served, kind):
    """As plain wire rows they give the same."""
    results = kind(served.endpoint).score(SHAPES)
    with served.client() as plain:
        assert results[:6] == plain.call("score", rows=SHAPES[:6])["rows"]
    assert [sorted(set(row) - {"i", "id", "n_tokens", "pooled_at", "error"}) for row in results[:6]] == [
        ["score"]] * 4 + [["advantages", "best", "margin", "mean", "ranks", "scores", "std"], ["chosen", "margin", "rejected"]]
    assert results[6]["error"]["code"] == "bad_text" and results[6]["score"] is None


def test_responses_and_pairs(served, kind):
    client = kind(served.endpoint)
    of_responses, of_pair = client.score([SHAPES[4], SHAPES[5]])
    assert client.best_of(SHAPES[4]["prompt"], SHAPES[4]["responses"]) == of_responses
    assert client.compare("7", "8", prompt=SHAPES[5]["prompt"]) == {**of_pair, "i": 0}
    assert client.best_of("3 + 4 = ?", ["7", "8"], id="x")["id"] == "x"
    with pytest.raises(AssayError) as error:
        client.best_of("3 + 4 = ?", ["7", "word " * 3 * served.model["max_len"]])
    assert error.value.code == "too_long"
    with pytest.raises(AssayError, match="recipe"):
        client.rank("3 + 4", ["7", "8"])


def test_documents(directory, kind):
    """Under a recipe that writes a query and a document."""
    with Broker(directory / "d", model=MODELS / "recipe-qwen3", options=["--recipe", "qwen3-reranker"]) as broker:
        client, documents = kind(broker.endpoint), ["Paris", "Rome is a capital.", "7"]
        found = client.rank("capital of France", documents, instruction="Find the answer.")
        rows = [{"query": "capital of France", "document": text, "instruction": "Find the answer."} for text in documents]
        assert found["scores"] == [row["score"] for row in client.score(rows)]
        assert sorted(found["ranks"]) == [1, 2, 3] and found["ranks"][found["best"]] == 1


def test_ensembles(directory, tmp_path, kind, monkeypatch):
    """Each model's own bits; a reward is their mean."""
    models = {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5)}
    with serve(directory, models, "ab") as broker:
        client, rows = kind(broker.endpoint), [SHAPES[2], SHAPES[1]]
        each = [client.score(rows, model=name) for name in "ab"]
        found = client.score(rows, models=["a", "b"])
        assert [row["scores"] for row in found] == [[a["score"], b["score"]] for a, b in zip(*each)]
        assert client.rewards(rows, models=("a", "b")) == [row["mean"] for row in found]
        assert client.best_of("3 + 4 = ?", ["7", "8"], models=["a", "b"])["by_model"][1]["scores"] == \
            client.best_of("3 + 4 = ?", ["7", "8"], model="b")["scores"]
        key = client.submit(rows, model="b")
        assert [row["score"] for row in sorted(client.results(key), key=lambda row: row["i"])] == [row["score"] for row in each[1]]
        ask = {"prompts": ["What is "], "completions": ["3 + 4?"]}
        apart = [make_reward(broker.endpoint, model=name)(**ask)[0] for name in "ab"]
        (mean,) = make_reward(broker.endpoint, models=["a", "b"])(**ask)
        assert mean == pytest.approx(sum(apart) / 2, rel=1e-6) and apart[0] != apart[1]


def test_trl_conversational(served, endpoint):
    """As GRPOTrainer calls it: by keyword, every other column beside, messages with more than role and content."""
    prompts = [[{"role": "user", "content": f"What is {n} + 4?"}] for n in range(6)]
    completions = [[{"role": "assistant", "content": str(n + 4), "reasoning_content": None}] for n in range(6)]
    rewards = assay_reward(prompts=prompts, completions=completions, completion_ids=[[1]] * 6, answer=["7"] * 6,
                           trainer_state=None, log_extra=print, log_metric=print)
    rows = [{"prompt": prompt, "response": completion[0]["content"]} for prompt, completion in zip(prompts, completions)]
    assert rewards == [row["score"] for row in Client(endpoint).score(rows)]
    assert all(isinstance(reward, float) for reward in rewards) and assay_reward.__name__ == "assay_reward"


def test_trl_standard(served, endpoint):
    """One text, as the trainer gives it to a reward model; a row that failed is None."""
    too_long = "word " * 3 * served.model["max_len"]
    rewards = assay_reward(prompts=["What is ", "What is "], completions=["3 + 4?", too_long], completion_ids=[[1], [2]])
    (expected,) = Client(endpoint).score([{"text": "What is 3 + 4?"}])
    assert rewards == [expected["score"], None]
    cut = make_reward(endpoint, name="helpfulness", truncate=True)
    assert cut.__name__ == "helpfulness"
    assert all(isinstance(reward, float) for reward in cut(prompts=["", ""], completions=["3 + 4?", too_long]))


def test_trl_one_bad_completion(served, endpoint, caplog):
    """None for it, as the trainer allows; the others are scored, whatever shape the columns have."""
    ask, good = [{"role": "user", "content": "3 + 4?"}], [{"role": "assistant", "content": "7"}]
    bad = [None, 7, [], ["7"], [{"role": "assistant"}], [{"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}],
           [{"role": "assistant", "content": [{"type": "text", "text": "7"}]}], [{"content": "7"}], [{"role": 7, "content": "7"}],
           [{"role": "assistant", "content": "\ud800"}], [{"role": "assistant", "content": "7", "reasoning_content": 5}]]
    rewards = assay_reward(prompts=[ask] * (len(bad) + 2), completions=[good, *bad, good], completion_ids=None, answer=[1] * 13)
    (expected,) = Client(endpoint).score([{"messages": ask + good}])
    assert rewards == [expected["score"], *[None] * len(bad), expected["score"]]
    assert "11 of 13 rows failed" in caplog.text and "expected a text" in caplog.text
    mixed = assay_reward(prompts=["3 + 4?", ask, "3 + 4?", None, "3"], completions=[good, "7", "7", "7", 7])
    assert mixed[:2] == [expected["score"]] * 2 and mixed[2] is not None and mixed[3:] == [None, None]
    assert assay_reward(prompts=[], completions=[]) == []


def test_trl_messages_go_whole(directory, monkeypatch):
    """A template that reads parts and tool calls writes them, as it does for the trainer; what cannot be sent is that row's None."""
    model = framed_model(directory / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}{{ m.name }}: {% for p in m.content or [] %}{{ p.text if p is mapping else p }}{% endfor %}"
        "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %};{% endfor %}")
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 3}}}]
    ask, answer = [{"role": "user", "content": "3 + 4?", "name": None}], {"role": "assistant", "content": None, "tool_calls": calls}
    talk = [answer, {"role": "tool", "name": "add", "content": [{"type": "text", "text": "7"}]}, {"role": "assistant", "content": "7"}]
    bad = [[{**answer, "tool_calls": [object()]}], [{**answer, "tool_calls": [1 << 70]}], [{**answer, 5: 6}], [{"role": "assistant", "content": None}]]
    with Broker(directory / "d", model=model) as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        text = 'user: 3 + 4?;assistant: {"name": "add", "arguments": {"a": 3}};tooladd: 7;assistant: 7;'
        (expected,) = Client().score([{"text": text, "add_special_tokens": False}])
        rewards = assay_reward(prompts=[ask] * 6, completions=[talk, *bad, talk])
    assert rewards == [expected["score"], None, None, None, None, expected["score"]] and expected["score"] is not None


def test_trl_needs_the_pad_token(directory, monkeypatch):
    """The trainer passes over the tokenizer's, whatever config.json says; so config.json must say the same."""
    ask, text = {"prompts": ["What is "], "completions": ["3 + 4?<|eot_id|>"]}, {"text": "What is 3 + 4?<|eot_id|>"}
    model = llama_like(directory)
    (model / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|eot_id|>", "eos_token": "<|end_header_id|>"}))
    with Broker(directory / "off", model=model, options=["--hf-pad-rule", "off"]) as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        assert broker.model["tokenizer"] == {"bos_token": None, "eos_token": 297, "pad_token": 298}
        last, before = [row["score"] for row in Client().score([text, {**text, "hf_pad_rule": True}])]
        assert last != before and assay_reward(**ask) == [before] and make_reward(hf_pad_rule=False)(**ask) == [last]
    config = json.loads((model / "config.json").read_text())
    for n, (pad, names, expected) in enumerate([(None, {}, 298), (297, {}, 298), (298, {"pad_token": None}, 297)]):
        (model / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
        (model / "special_tokens_map.json").write_text(json.dumps(names))
        with Broker(directory / str(n), model=model) as broker:
            monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
            for reward in (assay_reward, make_reward(hf_pad_rule=True)):
                with pytest.raises(ValueError, match=f'found {str(pad).lower()}[.].*"pad_token_id": {expected} into config.json'):
                    reward(**ask)
            assert make_reward(hf_pad_rule=False)(**ask) == [last]


def test_openrlhf(served, endpoint, monkeypatch):
    """As its executor does: the file by its path, the function by position, in a thread, with lists of one."""
    module, found = load_by_path("openrlhf_reward"), {}
    queries = [f"<|im_start|>user\nWhat is {n} + 4?<|im_end|>\n<|im_start|>assistant\n{n + 4}<|im_end|>" for n in range(4)]

    def one(n):
        found[n] = module.reward_func(queries[n:n + 1], [queries[n][:10]], ["7"])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [row["score"] for row in Client(endpoint).score([{"text": query} for query in queries])]
    assert [float(found[n]["rewards"][0]) for n in range(4)] == expected
    together = module.reward_func(queries, queries, [""] * 4)
    assert [float(reward) for reward in together["rewards"]] == [float(score) for score in together["scores"]] == expected
    assert together["extra_logs"] == {"assay_failed": 0.0}
    with pytest.raises(ValueError, match=r"\[1\]"):
        module.reward_func([queries[0], ""], ["", ""], ["", ""])
    monkeypatch.setattr(module, "FAILED_REWARD", -5.0)
    mended = module.reward_func([queries[0], ""], ["", ""], ["", ""])
    assert [float(reward) for reward in mended["rewards"]] == [expected[0], -5.0] and mended["extra_logs"]["assay_failed"] == 1.0


def test_texts_as_the_frameworks_tokenize_them(served, endpoint, directory, monkeypatch):
    """TRL's trainer (for texts) and OpenRLHF's server add no special tokens, whatever the tokenizer would put around a text."""
    text = "<|im_start|>What is 3 + 4?"
    expected, around = [row["score"] for row in Client(endpoint).score([{"text": text}, {"text": f"<|endoftext|>{text}<extra_0>"}])]
    with Broker(directory / "d", model=framed_model(directory / "model")) as framed:
        monkeypatch.setenv("ASSAY_ENDPOINT", framed.endpoint)
        assert Client().score([{"text": text}])[0]["score"] == around != expected
        assert assay_reward(prompts=["<|im_start|>What is "], completions=["3 + 4?"]) == [expected]
        rewards = load_by_path("openrlhf_reward").reward_func([text], [""], [""])["rewards"]
        assert [float(reward) for reward in rewards] == [expected]


def test_openrlhf_scores_the_last_token(served, endpoint, directory, monkeypatch):
    """As its server does, which passes over nothing that the text holds, a pad token at its end neither."""
    text = "What is 3 + 4?<|endoftext|>"
    expected = Client(endpoint).score([{"text": text}])[0]["score"]
    model = framed_model(directory / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": 295}))
    with Broker(directory / "d", model=model, options=["--hf-pad-rule", "on"]) as padded:
        monkeypatch.setenv("ASSAY_ENDPOINT", padded.endpoint)
        assert Client().score([{"text": text, "add_special_tokens": False}])[0]["score"] != expected
        rewards = load_by_path("openrlhf_reward").reward_func([text], [""], [""])["rewards"]
        assert [float(reward) for reward in rewards] == [expected]


class ArrayLike:
    """A list out of a parquet file: numpy's array, as far as that matters."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


def test_verl(served, endpoint):
    """As its reward managers do: by keyword, the configuration's own beside."""
    module = load_by_path("verl_reward")
    messages = [{"role": "user", "content": "What is 5 + 4?"}]
    prompts = ["What is 3 + 4?", messages, ArrayLike(messages)]
    extras = [{"question": prompt, "index": n, "rollout_reward_scores": {}} for n, prompt in enumerate(prompts)]
    rows = [{"prompt": prompt, "response": "9"} for prompt in (prompts[0], messages, messages)]
    expected = [row["score"] for row in Client(endpoint).score(rows)]
    one = [module.compute_score(data_source="sums", solution_str="9", ground_truth="7", extra_info=extra) for extra in extras]
    batch = module.compute_score_batch(data_sources=["sums"] * 3, solution_strs=["9"] * 3, ground_truths=["7"] * 3,
                                       extra_infos=extras)
    assert one == batch == expected and all(isinstance(score, float) for score in one)
    assert module.compute_score(data_source="s", solution_str="9", ground_truth=None, extra_info={"problem": prompts[0]},
                                prompt_key="problem") == expected[0]
    for extra in ({"index": 1}, None):
        with pytest.raises(ValueError, match="'question'"):
            module.compute_score(data_source="s", solution_str="9", ground_truth=None, extra_info=extra)
    too_long = "word " * 3 * served.model["max_len"]
    with pytest.raises(ValueError, match=r"\[0\]"):
        module.compute_score(data_source="s", solution_str=too_long, ground_truth=None, extra_info=extras[0])
    assert module.compute_score(data_source="s", solution_str=too_long, ground_truth=None, extra_info=extras[0],
                                failed_score=-1.0) == -1.0
    odd = module.compute_score_batch(["s"] * 3, ["9", None, "9"], [None] * 3, [extras[0], extras[0], {"question": 5}], failed_score=-1.0)
    assert odd == [expected[0], -1.0, -1.0]


# ---- the C program ----

def score_rows(*arguments, program=SCORE_ROWS):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60 * PATIENCE)


def test_c_program(served):
    done = score_rows(served.endpoint, "What is 3 + 4?", "ids:1,2,3")
    assert done.returncode == 0, done.stderr
    expected = Client(served.endpoint).score([{"text": "What is 3 + 4?"}, {"ids": [1, 2, 3]}])
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [i for i, _ in lines] == ["0", "1"]
    assert [struct.pack("<f", float(score)) for _, score in lines] == [struct.pack("<f", row["score"]) for row in expected]


def test_c_program_says_what_is_wrong(served):
    done = score_rows(served.endpoint, "ids:1", "ids:", "ids:-1")
    assert done.returncode == 1
    assert re.fullmatch(r"0\t\S+\n1\tno_tokens: .+\n2\tbad_token: .+\n", done.stdout), done.stdout
    for arguments, status, words in [((), 64, "ENDPOINT"), ((served.endpoint, "ids:1,,2"), 64, "row 0"),
                                     ((served.endpoint, "ids:1x"), 64, "found 'ids:1x'"), (("nowhere", "ids:1"), 64, "nowhere")]:
        done = score_rows(*arguments)
        assert done.returncode == status and words in done.stderr and done.stdout == ""


def test_c_program_through_a_restart(directory):
    """The broker is killed with the request in its hands: the same bytes go out again."""
    with Broker(directory / "d") as broker:
        (expected,) = Client(broker.endpoint).score([{"ids": [1, 2, 3]}])
        with Middleman(broker, kill_at={"score": (1,)}) as middle:
            done = score_rows(middle.endpoint, "ids:1,2,3")
        assert done.returncode == 0 and "no reply" in done.stderr
        assert len(middle.requests) == 2 and len(set(middle.requests)) == 1
        assert struct.pack("<f", float(done.stdout.split("\t")[1])) == struct.pack("<f", expected["score"])


def test_c_program_needs_nothing_of_assay(directory):
    """Compiled where there is no other file."""
    shutil.copy(CLIENTS / "score_rows.c", directory)
    name = "msgpack-c" if subprocess.run(["pkg-config", "--exists", "msgpack-c"]).returncode == 0 else "msgpack"
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libzmq", name], capture_output=True, text=True, check=True)
    subprocess.run(["cc", "-o", "score_rows", "score_rows.c", *flags.stdout.split()], cwd=directory, check=True)
    assert score_rows(program=directory / "score_rows").returncode == 64


# ---- the package ----

def test_package_installs(directory):
    """With pip, into a folder of its own, nothing left behind in the source; its version is the program's."""
    shutil.copytree(CLIENTS, directory / "clients", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path.name for path in (directory / "clients").iterdir())
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target",
                    directory / "site", directory / "clients"], check=True, timeout=120 * PATIENCE)
    assert sorted(path.name for path in (directory / "clients").iterdir()) == before
    installed = directory / "site/assay"
    assert (installed / "py.typed").exists()
    assert {path.name for path in installed.glob("*.py")} == {path.name for path in (CLIENTS / "assay").glob("*.py")}
    words = "import assay, assay.trl_reward, assay.openrlhf_reward, assay.verl_reward, assay.parquet; print(assay.__file__, assay.__version__)"
    done = subprocess.run([sys.executable, "-c", words], cwd=directory, env={"PYTHONPATH": directory / "site"}, capture_output=True, text=True)
    program = subprocess.run([BIN / "assay", "--version"], capture_output=True, text=True, check=True).stdout
    assert done.stdout.split() == [str(installed / "__init__.py"), program.split()[1]], done.stderr


class FakeParquet:
    """What of pyarrow's ParquetFile the package uses: names, and batches of records."""

    def __init__(self, records):
        self.records, self.schema_arrow, self.asked = records, types.SimpleNamespace(names=list(records[0])), []

    def ParquetFile(self, path):
        return contextlib.nullcontext(self)

    def iter_batches(self, batch_size, columns):
        self.asked.append(columns)
        for record in self.records:
            yield types.SimpleNamespace(to_pylist=lambda: [{name: record[name] for name in columns or record}])


@pytest.fixture
def parquet(monkeypatch):
    def put(records):
        file = FakeParquet(records)
        monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=file))
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", file)
        return file
    return put


def test_rows_of_parquet(served, parquet):
    """tests/clients/checks has pyarrow's own."""
    ask = [{"role": "user", "content": "3 + 4 = ?", "tool_calls": None}]
    file = parquet([{"instruction": ask, "output": "7", "source": "x", "system": None}, {"instruction": ask, "output": "8", "source": "y", "system": "Add."}])
    with pytest.raises(ValueError, match=r"found \['output', 'source'\]"):
        next(rows_from_parquet("f"))
    with pytest.raises(ValueError, match=r"columns \['answer'\], found"):
        next(rows_from_parquet("f", {"response": "answer"}))
    rows = list(rows_from_parquet("f", {"prompt": "instruction", "response": "output", "system": "system"}))
    ask = [{"role": "user", "content": "3 + 4 = ?"}]
    assert rows == [{"prompt": ask, "response": "7"}, {"prompt": ask, "response": "8", "system": "Add."}]
    assert file.asked == [["instruction", "output", "system"]]
    assert all(row["error"] is None for row in Client(served.endpoint).score(rows))


def test_lines_of_parquet(parquet, capsys):
    day = datetime.date(2026, 1, 31)
    file = parquet([{"prompt": "a\n", "n": 1.5, "day": day, "none": None, "image": b"x"}])
    assert assay.parquet.main(["--columns", "prompt,n,day,none", "f"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prompt": "a\n", "n": 1.5, "day": "2026-01-31", "none": None}
    for arguments, code, words in [(["f"], 65, "f: row 1: column 'image': expected what JSON can hold, found bytes"), ([], 64, "usage"),
                                   (["--columns", "prompt,no", "f"], 65, "['no']"), (["--colums", "a", "f"], 64, "usage")]:
        assert assay.parquet.main(arguments) == code and words in capsys.readouterr().err
    file.records = []
    assert assay.parquet.main(["f", "f"]) == 0 and capsys.readouterr().out == ""


def test_both_clients_have_the_same_methods():
    def signatures(kind):
        found = {name: inspect.signature(value) for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
        return {name: [(p.name, p.default) for p in signature.parameters.values()] for name, signature in found.items()}
    assert signatures(Client) == signatures(AsyncClient)
    assert all(value.__doc__ for name, value in vars(Client).items() if inspect.isfunction(value) and name[0] != "_")


# ---- the documents ----

def test_search_as_printed(directory):
    """Its two best beams are right sums: their lowest step is above the wrong ones'."""
    example = re.search(r"## Search.*?```python\n(.*?)```", (CLIENTS / "README.md").read_text(), re.S).group(1)
    assert "ipc://assay-data/broker.sock" in example
    with Broker(directory / "d", model=MODELS / "demo-process", options=["--kv-cache", "16M"]) as broker, broker.client() as client:
        done = subprocess.run([sys.executable, "-c", example.replace("ipc://assay-data/broker.sock", broker.endpoint)], cwd=CLIENTS,
                              capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == 0, done.stderr
        info = client.call("info")
        assert info["sessions"] == 0 and info["workers"][0]["reused"] > 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0].endswith("['3 + 4 = 7', '7 + 5 = 12']") and float(lines[0].split()[0]) > 0.5, lines


@pytest.mark.parametrize("example", [one for one in re.findall(r"```python\n(.*?)```", (CLIENTS / "README.md").read_text(), re.S)
                                     if "def propose" not in one], ids=["jobs", "asyncio"])
def test_readme_as_printed(served, example):
    assert "ipc://assay-data/broker.sock" in example
    done = subprocess.run([sys.executable, "-c", example.replace("ipc://assay-data/broker.sock", served.endpoint)], cwd=CLIENTS,
                          capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3, done.stdout
