"""The Python client through lost replies, kills and full queues."""
import random
import signal
import threading
import time
from collections import Counter

import msgpack
import pytest
from client_harness import Middleman, check_once, kill_and_restart, kind, short_polls, some_rows  # noqa: F401
from harness import PATIENCE, Broker, random_key, wait_until
import assay.core
from assay import AssayError, Client, pack_ids


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
