"""SIGKILL at random moments, of broker and ranks, against a log of what was acknowledged and what was shown.

A submitter sends chunks and remembers each acknowledgement; a reader follows the cursor and remembers each result; the
killer kills. At the end: every acknowledged row has exactly one result, nothing shown was ever different, and the
scores are those of an undisturbed run, bit for bit. ASSAY_KILLS sets how many kills (default 200).
"""
import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import msgpack
import pytest
from harness import BIN, Broker, Refused, ids_bytes, random_key, wait_until

KILLS = int(os.environ.get("ASSAY_KILLS", "200"))
CHUNK = 25


def row_of(n):
    rng = random.Random(n)
    return {"id": n, "ids": ids_bytes([rng.randrange(20, 500) for _ in range(rng.randint(10, 120))])}


class Log:
    """What the broker promised and what it showed."""

    def __init__(self):
        self.acknowledged, self.shown, self.problems = set(), {}, []

    def show(self, row):
        value = (row["id"], row["score"], row["error"] and row["error"]["code"])
        before = self.shown.setdefault(row["i"], value)
        if before != value:
            self.problems.append(f"row {row['i']} was shown as {before} and as {value}")


def submitter(broker, key, log, stop):
    """Chunk after chunk, each sent again until acknowledged."""
    chunk = 0
    while not stop.is_set():
        rows = [row_of(chunk * CHUNK + k) for k in range(CHUNK)]
        try:
            with broker.client(timeout=1.5) as client:
                client.submit(key, rows, chunk=chunk, seal=False)
            log.acknowledged.update(range(chunk * CHUNK, (chunk + 1) * CHUNK))
            chunk += 1
        except TimeoutError:
            continue
        while not stop.is_set() and len(log.acknowledged) - len(log.shown) > 600:
            time.sleep(0.02)
    log.chunks = chunk


def reader(broker, key, log, stop):
    """The cursor, asked again after every crash from where it was."""
    after = 0
    while not stop.is_set():
        try:
            with broker.client(timeout=1.5) as client:
                while not stop.is_set():
                    reply = client.call("results", job=key, after=after, wait_ms=200)
                    for row in reply["rows"]:
                        log.show(row)
                    after = reply["next"]
        except TimeoutError:
            continue
        except Exception as error:  # unknown_job before the first chunk
            if "unknown_job" not in str(error):
                log.problems.append(repr(error))
            time.sleep(0.05)


def kill_something(broker, rng):
    """The broker, or a rank, or both."""
    ranks = broker.worker_pids()
    victim = rng.random()
    if victim < 0.5 and ranks:
        with contextlib.suppress(ProcessLookupError):  # it may have gone by itself since
            os.kill(rng.choice(ranks), signal.SIGKILL)
    if victim >= 0.4:
        broker.kill9()
        broker.start(wait=False)


def seal(client, key, chunk):
    """End the job after the last acknowledged chunk, or after one that was stored although its acknowledgement was lost."""
    try:
        client.submit(key, None, chunk=chunk)
    except Refused as refused:
        assert refused.code == "key_reused"
        client.submit(key, None, chunk=chunk + 1)


@pytest.mark.parametrize("ranks", [["--tp", 2], ["--pp", 3]], ids=["tp", "pp"])
def test_kill_9(directory, ranks):
    rng = random.Random(int(os.environ.get("ASSAY_SEED", "1")))
    options = [*ranks, "--max-batch-tokens", 1024]
    broker, log, stop, key = Broker(directory / "d", options=options), Log(), threading.Event(), random_key()
    broker.start()
    threads = [threading.Thread(target=work, args=(broker, key, log, stop)) for work in (submitter, reader)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            time.sleep(rng.random() * rng.choice([0.05, 0.3, 0.8]))
            kill_something(broker, rng)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    broker.kill9()
    with broker:
        with broker.client() as client:
            seal(client, key, log.chunks)
            final = client.results(key, timeout=180)
            total = client.call("status", job=key)["total"]
        for row in final:
            log.show(row)
        assert log.problems == []
        assert len(final) == total and sorted(row["i"] for row in final) == list(range(total))
        assert log.acknowledged <= {row["i"] for row in final}
        assert all(row["error"] is None and row["id"] == row["i"] for row in final)
        assert broker.sql("pragma integrity_check") == [("ok",)]
        scores = {row["i"]: row["score"] for row in final}
    print(f"{KILLS} kills, {total} rows, 0 lost, 0 doubled")
    with Broker(directory / "calm", options=options) as calm, calm.client() as client:
        sample = sorted(scores)[:: max(1, len(scores) // 300)]
        again = client.call("score", rows=[row_of(n) for n in sample], timeout_ms=60000)["rows"]
        assert [row["score"] for row in again] == [scores[n] for n in sample]


def kill_while_written(broker, rng, key, chunk, rows):
    """Send a chunk, and kill the broker soon after the first of its rows are in the log."""
    with broker.client() as client, broker.client() as other:
        client.socket.send(msgpack.packb({"v": 1, "op": "submit", "key": key, "chunk": chunk, "rows": rows}))
        wait_until(lambda: other.call("info")["wal_bytes"] > 1 << 20, step=0)
        time.sleep(rng.random() * 0.1)
        broker.kill9()
    broker.start()


def reply_of(client, **fields):
    """The reply to a submit, or None when the broker ended first."""
    try:
        return client.submit("job", fields.pop("rows"), seal=False, **fields)
    except TimeoutError:
        return None


def kill_while_placed(broker, rng, chunk, rows, before):
    """Send a chunk past a gap and the one that closes it; kill the broker in the middle of either. Returns what was acknowledged
    and how many rows were placed."""
    acknowledged, killer = set(), threading.Timer(rng.random() * rng.choice([0.3, 1, 2]), broker.kill9)
    with broker.client(timeout=4) as client:
        killer.start()
        for k in (chunk + 1, chunk):
            if reply_of(client, chunk=k, rows=rows if k > chunk else before):
                acknowledged.add(k)
    killer.join()
    placed = broker.sql("select placed from job")[0][0]
    broker.start()
    return acknowledged, placed


def test_kill_9_while_kept_chunks_are_placed(directory):
    """Chunks past a gap, and many rows that are born failed: pieces of them are written, then their rows placed, in many
    transactions. What was acknowledged is there, and each row once, in its place."""
    rng, broker = random.Random(int(os.environ.get("ASSAY_SEED", "1"))), Broker(directory / "d")
    rows = [{"id": i, "ids": ids_bytes([i % 256, i // 256, *range(400)])} for i in range(5000)]
    failing = [{"id": i, "ids": [100_000]} for i in range(3000)]
    broker.start()
    with broker.client() as client:
        client.submit("job", [{"id": 0, "ids": [1]}], seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 1)
        client.call("pause", job="job")
    chunk, expected, partial, lost = 1, [0], 0, 0
    for kill in range(max(8, KILLS // 20)):
        before = failing if kill % 2 else [{"id": 7, "ids": [2, 3]}]
        acknowledged, placed = kill_while_placed(broker, rng, chunk, rows, before)
        sizes = {chunk: len(before), chunk + 1: len(rows)}
        with broker.client(timeout=60) as client:
            accepted = client.call("status", job="job")["accepted"]
            assert accepted >= len(expected) + sum(sizes[k] for k in acknowledged), (accepted, acknowledged)
            assert accepted - len(expected) in (0, *sizes.values(), sum(sizes.values()))
            partial += placed not in (len(expected), len(expected) + len(before), len(expected) + sum(sizes.values()))
            lost += len(acknowledged) < 2
            client.submit("job", before, chunk=chunk, seal=False)  # the same again
            client.submit("job", rows, chunk=chunk + 1, seal=False)
            wait_until(lambda: client.call("status", job="job")["accepted"] == broker.sql("select placed from job")[0][0], timeout=60)
        expected += [row["id"] for row in before + rows]
        chunk += 2
    wait_until(lambda: broker.sql("select count(*) from piece") == [(0,)], timeout=60)
    assert [row[0] for row in broker.sql("select id from rows order by i")] == expected
    failed = sum(3000 for kill in range(max(8, KILLS // 20)) if kill % 2)
    assert broker.sql("select failed, done, next_seq from job") == [(failed, failed + 1, failed + 2)]
    assert broker.sql("select count(*), count(distinct i), count(distinct cursor) from results") == [(failed + 1,) * 3]
    assert broker.stop() == 0 and lost > 0
    print(f"{max(8, KILLS // 20)} kills, {lost} before both replies, {partial} within a chunk")
    done = subprocess.run([BIN / "assay", "scrub", "--data", broker.data], capture_output=True, text=True)
    assert done.returncode == 0 and "all as written" in done.stdout, (done.stdout, done.stderr)


def test_kill_9_while_rows_are_written(directory):
    """Large chunks, whose rows are written in many transactions: each is there whole or not at all, and can be sent again."""
    rng, broker = random.Random(int(os.environ.get("ASSAY_SEED", "1"))), Broker(directory / "d")
    rows = [{"id": i, "ids": ids_bytes([i % 256, i // 256, *range(500)])} for i in range(9000)]
    broker.start()
    with broker.client() as client:
        client.submit("job", [{"ids": [1]}], seal=False)
        client.call("pause", job="job")
    chunk, lost = 1, 0
    for kill in range(max(8, KILLS // 20)):
        key = f"new {kill}" if kill % 2 else "job"
        kill_while_written(broker, rng, key, 0 if kill % 2 else chunk, rows)
        with broker.client() as client:
            accepted = {job["key"]: job["accepted"] for job in client.call("jobs")["jobs"]}
            before = 0 if kill % 2 else 1 + (chunk - 1) * len(rows)
            assert accepted.pop(key, 0) in (before, before + len(rows)), accepted
            lost += client.call("status", job="job")["accepted"] == before
            client.submit(key, rows, 0 if kill % 2 else chunk, seal=False)
            if kill % 2:
                client.call("cancel", job=key)
                client.call("purge", job=key)
            chunk += kill % 2 == 0
    with broker.client() as client:
        assert client.call("status", job="job")["accepted"] == 1 + (chunk - 1) * len(rows)
    wait_until(lambda: broker.sql("select * from purge") == [], timeout=60)
    assert broker.sql("select count(*), max(row & 0xffffffff) from row") == [(1 + (chunk - 1) * len(rows), (chunk - 1) * len(rows))]
    assert broker.stop() == 0 and lost > 0
    done = subprocess.run([BIN / "assay", "scrub", "--data", broker.data], capture_output=True, text=True)
    assert done.returncode == 0 and "all as written" in done.stdout, (done.stdout, done.stderr)
