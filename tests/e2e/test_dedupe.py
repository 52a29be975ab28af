"""Rows that are the same: one is computed, the others take its result; with --score-cache also across jobs and restarts."""
import os
import random
import sqlite3
import struct
import subprocess
import time
from pathlib import Path

import pytest
from harness import BIN, FAULTY_WORKER, MODELS, PATIENCE, Broker, ids_bytes, random_key, wait_until

NOT_A_NUMBER, KILLS, SLOW = 9, 7, 11  # tests/chaos/faulty_worker.c


def distinct(n, seed=1):
    rng = random.Random(seed)
    return [{"ids": ids_bytes([100 + rng.randrange(300) for _ in range(rng.randint(3, 40))] + [k % 400, 100 + k // 400])} for k in range(n)]


def repeated(rows, times, seed=2):
    """Each row so many times, near and far, with an id that says which one it is."""
    out = [{**row, "id": k} for k, row in enumerate(rows) for _ in range(times)]
    near = len(out) // 2
    tail = out[near:]
    random.Random(seed).shuffle(tail)
    return out[:near] + tail


def bits(rows):
    """Everything that a result has, by index; floats as they are: equal means the same bits."""
    return [{k: v for k, v in row.items()} for row in sorted(rows, key=lambda row: row["i"])]


def computed(broker):
    """Sequences that groups were given."""
    return broker.sql("select coalesce(sum(rows), 0) from batches")[0][0]


def cache_files(broker):
    return sorted(broker.data.glob("score-cache-*"))


def copies(client, key):
    status = client.call("status", job=key)
    return status["copied"], status["cached"]


def pools():
    return [{}, {"pool": {"type": "ALL"}}, {"pool": {"type": "MEAN"}}, {"pool": {"type": "CLS", "activation": "sigmoid"}},
            {"pool": {"type": "POSITIONS", "positions": [2, 0]}}, {"pool": {"type": "POSITIONS", "positions": [1]}}]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_of_each_is_computed_and_the_bits_are_the_same(directory, dtype):
    rows = repeated([{**row, **pool} for row in distinct(60) for pool in pools()], 4)
    with Broker(directory / "plain", options=["--no-dedupe", "--dtype", dtype]) as broker, broker.client() as client:
        client.submit("plain", rows)
        expected = bits(client.results("plain"))
        assert computed(broker) == len(rows) and copies(client, "plain") == (0, 0)
    with Broker(directory / "d", options=["--no-prefix-sharing", "--dtype", dtype]) as broker, broker.client() as client:
        client.submit("twins", rows)
        assert bits(client.results("twins")) == expected
        assert computed(broker) == 360
        assert copies(client, "twins") == (3 * 360, 0)
        assert broker.sql("select copied, cached, done from jobs") == [(3 * 360, 0, 4 * 360)]
        counters = client.call("info")["counters"]
        assert counters["rows_copied"] == 3 * 360 and counters["rows_done"] == 4 * 360
        assert counters["tokens"] == broker.sql("select sum(tokens) from batches")[0][0]
        client.submit("another", rows[:100])  # of another job nothing is taken
        client.results("another")
        assert computed(broker) == 360 + len({row["id"] for row in rows[:100]})
        assert not cache_files(broker)


def test_sequences_of_responses_and_pairs(directory):
    pair = {"chosen": "3 + 4 = 7", "rejected": "3 + 4 = 8"}
    many = {"prompt": "3 + 4?", "responses": ["7", "8", "7", "9"]}
    rows = [{**pair, "id": 0}, {**many, "id": 1}, {**pair, "id": 2}, {"text": "3 + 4 = 7", "id": 3}, {**many, "id": 4}] * 3
    model = MODELS / "demo-reward"
    with Broker(directory / "plain", model=model, options=["--no-dedupe"]) as broker, broker.client() as client:
        expected = client.call("score", rows=rows)["rows"]
        assert all(row["error"] is None for row in expected)
    with Broker(directory / "d", model=model) as broker, broker.client() as client:
        reply = client.call("score", rows=rows, key="shapes")
        assert reply["rows"] == expected
        assert computed(broker) == 2 + 3  # the text is the pair's first, and two of the responses are the same
        assert copies(client, "shapes") == (15 - 2, 0)


def test_a_restart_and_another_job_find_the_cache(directory):
    rows = repeated([{**row, **pool} for row in distinct(40) for pool in pools()], 2)
    options = ["--score-cache", "8M"]
    broker = Broker(directory / "d", options=options)
    with broker, broker.client() as client:
        client.submit("first", rows)
        expected = bits(client.results("first"))
        assert computed(broker) == 240
        client.submit("second", rows)
        assert bits(client.results("second")) == expected
        assert computed(broker) == 240 and sum(copies(client, "second")) == 480
        assert copies(client, "second")[1] >= 240
        for path in cache_files(broker):
            assert path.stat().st_mode & 0o777 == 0o600, path
    with broker, broker.client() as client:
        client.submit("third", rows)
        assert bits(client.results("third")) == expected
        assert computed(broker) == 240
        status = client.call("status", job="third")
        assert status["cached"] >= 240 and status["copied"] + status["cached"] == status["done"] == 480
        client.submit("fresh", rows, fresh=True)
        assert bits(client.results("fresh")) == expected
        assert computed(broker) == 480 and copies(client, "fresh") == (240, 0)
        # What was copied can be verified: that is scored again, whatever the cache has.
        done = subprocess.run([BIN / "assay", "verify", "third", "--sample", "50", "--data", broker.data], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert computed(broker) >= 480 + 30


def test_other_pooling_other_model_no_hit(directory):
    rows = distinct(50)
    options = ["--score-cache", "4M"]
    with Broker(directory / "d", model=MODELS / "demo", options=options) as broker, broker.client() as client:
        client.submit("a", rows)
        client.results("a")
        client.submit("sigmoid", [{**row, "pool": {"type": "LAST", "activation": "sigmoid"}} for row in rows])
        client.results("sigmoid")
        client.submit("cls", [{**row, "pool": {"type": "CLS"}} for row in rows])
        client.results("cls")
        assert computed(broker) == 150
        client.submit("positions", [{**row, "pool": {"type": "POSITIONS", "positions": [0]}} for row in rows])
        client.results("positions")
        client.submit("positions 1", [{**row, "pool": {"type": "POSITIONS", "positions": [1]}} for row in rows])
        client.results("positions 1")
        assert computed(broker) == 250
    scores = {}
    for model in ("reward", "demo", "reward"):
        with Broker(directory / "d", model=MODELS / model, options=options) as broker, broker.client() as client:
            before, key = computed(broker), random_key()
            client.submit(key, rows)
            found = [row["score"] for row in bits(client.results(key))]
            assert scores.setdefault(model, found) == found
            assert computed(broker) - before == (50 if len(scores) == 1 else 0)
    assert scores["demo"] != scores["reward"]


def test_accepted_under_another_mode(directory):
    rows, options = repeated(distinct(200), 2), ["--score-cache", "4M", "--max-batch-tokens", 64]
    broker = Broker(directory / "d", options=options)
    with broker, broker.client() as client:
        client.submit("job", rows[:100], seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 100)
    broker.command += ["--tp", "2"]
    with broker, broker.client() as client:
        assert client.call("status", job="job")["state"] == "paused"
        client.call("resume", job="job", accept_mode=True)
        client.submit("job", rows, chunk=1)
        client.results("job")
        before = computed(broker)
        client.submit("again", rows)
        client.results("again")
        assert computed(broker) == before  # all under the present mode by now
        modes = broker.sql("select m.text, count(*) from result r join mode m using (mode) where job = 1 group by 1 order by 2")
        assert [n for _, n in modes] == [100, 400] and "tp=2" in modes[1][0] and "tp=1" in modes[0][0]


def test_killed_in_the_middle(directory):
    rows = repeated(distinct(1500), 3)
    with Broker(directory / "plain", options=["--no-dedupe"]) as broker, broker.client() as client:
        client.submit("plain", rows)
        expected = bits(client.results("plain"))
    broker = Broker(directory / "d", options=["--score-cache", "4M", "--max-batch-tokens", 256])
    broker.start()
    with broker.client() as client:
        client.submit("job", rows)
    for turn in range(4):
        with broker.client() as client:
            wait_until(lambda: client.call("status", job="job")["done"] > 300 * (turn + 1))
        broker.kill9()
        broker.start()
    with broker.client() as client:
        assert bits(client.results("job", timeout=120)) == expected
        status = client.call("status", job="job")
        assert status["done"] == 4500 and status["copied"] + status["cached"] >= 2500
    assert broker.stop() == 0
    for path in broker.data.glob("score-cache-?.db"):
        assert sqlite3.connect(path).execute("pragma integrity_check").fetchall() == [("ok",)]


def test_the_bound_is_kept(directory):
    options, size = ["--score-cache", "4M", "--max-batch-tokens", 8192], 4 << 20
    with Broker(directory / "d", options=options) as broker, broker.client() as client:
        for turn in range(5):
            rows = [{"ids": ids_bytes([5] * 60 + [turn, k % 500, k // 500, 3]), "pool": {"type": "ALL"}} for k in range(2000)]
            key = random_key()
            client.submit(key, rows)
            while client.call("status", job=key)["state"] != "done":
                assert sum(path.stat().st_size for path in cache_files(broker)) <= size
                time.sleep(0.02)
        assert sum(path.stat().st_size for path in cache_files(broker)) <= size
        before = computed(broker)
        client.submit("again", rows[-500:])  # the latest are there
        client.results("again")
        assert computed(broker) == before
        client.submit("long ago", [{"ids": ids_bytes([5] * 60 + [0, k, 0, 3]), "pool": {"type": "ALL"}} for k in range(300)])
        client.results("long ago")
        assert computed(broker) == before + 300


@pytest.mark.parametrize("damage", ["noise", "foreign", "text", "flipped"])
def test_a_damaged_cache(directory, damage):
    rows = distinct(600)
    broker = Broker(directory / "d", options=["--score-cache", "4M"])
    with broker, broker.client() as client:
        client.submit("first", rows)
        expected = [row["score"] for row in bits(client.results("first"))]
    rng = random.Random(5)
    for path in broker.data.glob("score-cache-?.db"):
        content = bytearray(path.read_bytes())
        if damage == "noise":
            content[len(content) // 3:] = rng.randbytes(len(content) - len(content) // 3)
        if damage == "text":
            content = b"these are my notes\n" * 100
        if damage == "flipped":  # a bit in every 200 bytes or so, but not where SQLite would see it at once
            for _ in range(len(content) // 200):
                content[rng.randrange(2048, len(content)) if len(content) > 2048 else 0] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        if damage == "foreign":
            path.unlink()
            sqlite3.connect(path).execute("create table score(key, value)").connection.close()
    with broker, broker.client() as client:
        client.submit("second", rows)
        assert [row["score"] for row in bits(client.results("second"))] == expected
        client.submit("third", rows)
        assert [row["score"] for row in bits(client.results("third"))] == expected
        assert copies(client, "third")[1] > 500 or damage == "flipped"
        if damage in ("foreign", "text"):
            assert broker.words().count("event=score_cache_moved_aside") == 2
            assert len(list(broker.data.glob("score-cache-?.db.bad"))) == 2


def test_a_cache_that_cannot_be_had_is_done_without(directory):
    broker = Broker(directory / "d", options=["--score-cache", "4M"])
    for name in ("score-cache-0.db", "score-cache-1.db", "score-cache-0.db.bad", "score-cache-1.db.bad"):
        (broker.data / name / "in the way").mkdir(parents=True)
    with broker, broker.client() as client:
        client.submit("job", repeated(distinct(20), 2))
        assert len(client.results("job")) == 40 and computed(broker) == 20
        assert broker.words().count("event=score_cache_off") == 1


def test_a_full_disk_costs_the_cache_alone(directory):
    data = directory / "d"
    data.mkdir(mode=0o700)
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "none", data], capture_output=True).returncode != 0:
        pytest.skip("needs a file system of its own (root)")
    try:
        options = ["--score-cache", "64M", "--min-free-bytes", 16 << 20]
        with Broker(data, options=options) as broker, broker.client() as client:
            rows = distinct(300)
            client.submit("job", rows, seal=False)
            client.call("pause", job="job")
            client.submit("job", distinct(300, seed=8), chunk=1)
            free = os.statvfs(data)
            filler = data / "filler"
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - (8 << 20)))
            client.call("resume", job="job")
            assert len(client.results("job")) == 600
            assert broker.words().count("event=score_cache_disk_full") == 1
            filler.unlink()
            more = distinct(300, seed=9)  # of the others some may be in the cache, from before the disk was full
            client.submit("again", more)
            client.results("again")
            wait_until(lambda: broker.words().count("event=score_cache_disk_has_room") == 1)
            client.submit("and again", more)
            client.results("and again")
            assert copies(client, "and again")[1] == 300
    finally:
        subprocess.run(["umount", "-l", data], check=True)


def test_errors(directory):
    """Errors are the duplicates' too, that of a row that kills its group as well: no other is tried. Retried, they are forgotten."""
    bad, killer = [30, NOT_A_NUMBER], [31, KILLS]
    rows = [{"ids": [20, 21]}] * 3 + [{"ids": bad}] * 40 + [{"ids": [22, 23]}] * 3
    with Broker(directory / "d", worker=FAULTY_WORKER, options=["--score-cache", "4M"]) as broker, broker.client() as client:
        reply = client.call("score", rows=rows, key="errors", timeout_ms=60000)["rows"]
        codes = [row["error"] and row["error"]["code"] for row in reply]
        assert codes == [None] * 3 + ["non_finite"] * 40 + [None] * 3
        assert copies(client, "errors") == (4, 0) and computed(broker) == 3
        assert client.call("retry", job="errors")["retried"] == 40
        wait_until(lambda: client.call("status", job="errors")["state"] == "done", 60)
        assert client.call("status", job="errors")["failed"] == 40
        assert copies(client, "errors") == (4, 0) and computed(broker) == 4  # it was tried again, once
        many = [{"ids": [20 + k % 3, 40 + k]} for k in range(300)]
        client.submit("killers", [{"ids": killer}] * 3, seal=False)
        wait_until(lambda: client.call("status", job="killers")["done"] == 3, 60)
        client.submit("killers", many, chunk=1, seal=False)
        wait_until(lambda: client.call("status", job="killers")["done"] == 303, 60)
        client.submit("killers", [{"ids": killer}] * 2 + many[:2], chunk=2)
        reply = bits(client.results("killers", timeout=120))
        killed = [row for row in reply if row["error"]]
        assert [row["i"] for row in killed] == [0, 1, 2, 303, 304]
        assert {row["error"]["code"] for row in killed} == {"worker_killed"} and len({row["error"]["message"] for row in killed}) == 1
        assert broker.sql("select i, attempts from rows where attempts > 0") == [(0, 3)]
        assert client.call("retry", job="killers")["retried"] == 5
        wait_until(lambda: client.call("status", job="killers")["state"] == "done", 60)
        assert client.call("status", job="killers")["failed"] == 5
        assert broker.sql("select i from rows where attempts > 0") == [(0,)]


def tables(broker):
    """Files of hints that the broker has mapped; none has a name in its folder."""
    assert not list(broker.data.glob("twins-*"))
    lines = Path(f"/proc/{broker.process.pid}/maps").read_text().splitlines()
    return [line for line in lines if f"{broker.data}/twins-" in line]


def test_killed_and_no_cache(directory):
    """A job finds its rows again after SIGKILL; none is computed twice but those that were under way. What lies there is not looked into."""
    rows = distinct(6000)
    broker = Broker(directory / "d", options=["--max-batch-tokens", 2048])
    broker.start()
    with broker.client() as client:
        client.submit("job", rows, seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 6000, 120)
        assert computed(broker) == 6000 and len(tables(broker)) == 1
    broker.kill9()
    broker.start()
    with broker.client() as client:
        client.submit("job", rows, chunk=1, seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 12000, 120)
        assert computed(broker) == 6000 and copies(client, "job") == (6000, 0) and len(tables(broker)) == 1
    broker.kill9()
    for ending in ("map", "new"):
        (broker.data / f"twins-1.{ending}").write_bytes(random.Random(5).randbytes(100000))
    broker.start()
    with broker.client() as client:
        client.submit("job", rows, chunk=2)
        results = bits(client.results("job", timeout=120))
        assert computed(broker) == 6000 and copies(client, "job") == (12000, 0)
        assert [row["score"] for row in results[:6000]] == [row["score"] for row in results[6000:12000]] == [row["score"] for row in results[12000:]]
        wait_until(lambda: not tables(broker))  # the job is over
    assert broker.stop() == 0


def test_a_start_without_dedupe(directory):
    """What it computes is found by the next one that does compare."""
    rows = distinct(5000)
    broker = Broker(directory / "d")
    with broker, broker.client() as client:
        client.submit("job", rows[:4000], seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 4000, 120)
        assert len(tables(broker)) == 1
    broker.command += ["--no-dedupe"]
    (broker.data / "twins-1.map").write_bytes(b"of a version before")
    with broker, broker.client() as client:
        client.submit("job", rows[4000:], chunk=1, seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 5000, 120)
        assert not tables(broker)
    broker.command.remove("--no-dedupe")
    with broker, broker.client() as client:
        client.submit("job", rows, chunk=2)
        client.results("job")
        assert computed(broker) == 5000 and copies(client, "job") == (5000, 0)


def test_cancel_pause_purge_while_duplicates_wait(directory):
    slow = [{"ids": [40 + k] + [SLOW] * 5} for k in range(30)]
    with Broker(directory / "d", worker=FAULTY_WORKER, options=["--max-batch-tokens", 12]) as broker, broker.client() as client:
        client.submit("cancelled", [row for row in slow for _ in range(50)])
        client.submit("paused", [row for row in slow for _ in range(50)])
        wait_until(lambda: client.call("status", job="cancelled")["done"] > 60)
        client.call("cancel", job="cancelled")
        client.call("pause", job="paused")
        assert client.call("purge", job="cancelled")["jobs"] == 1
        time.sleep(0.5)
        done = client.call("status", job="paused")["done"]
        assert done < 1500
        client.call("resume", job="paused")
        rows = client.results("paused")
        assert sorted(row["i"] for row in rows) == list(range(1500))
        assert len({row["score"] for row in rows}) == 30
        client.submit("cancelled", slow)
        assert len(client.results("cancelled")) == 30


def test_many_the_same_do_not_keep_others_waiting(directory):
    n = 60000
    with Broker(directory / "d") as broker, broker.client() as client:
        for chunk in range(n // 10000):
            client.submit("same", [{"ids": ids_bytes([1, 2, 3, 4])}] * 10000, chunk=chunk, seal=chunk == n // 10000 - 1)
        start = time.monotonic()
        client.call("score", rows=distinct(20), timeout_ms=60000)
        waited, done = time.monotonic() - start, client.call("status", job="same")["done"]
        assert done < n, "too few rows to tell"
        assert waited < 2 * PATIENCE
        wait_until(lambda: client.call("status", job="same")["state"] == "done", 60)
        assert computed(broker) == 21 and copies(client, "same") == (n - 1, 0)


def test_score_passes_the_options_on(directory):
    lines = directory / "rows.jsonl"
    lines.write_text("".join('{"input_ids": [%d, 2, 3]}\n' % (k % 10) for k in range(50)))
    for options, batches in ((["--score-cache", "4M"], 10), (["--no-dedupe"], 50)):
        data = directory / options[0][2:]
        done = subprocess.run([BIN / "assay", "score", lines, "-o", directory / "out", "--model", MODELS / "demo", "--data", data, "--keep-data", "--force", *options],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        db = sqlite3.connect(data / "assay.db")
        assert db.execute("select sum(rows) from batches").fetchone() == (batches,)
        db.close()


def test_what_the_command_line_says(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("monday", repeated(distinct(10), 3))
        client.results("monday")
        status = subprocess.run([BIN / "assay", "status", "monday", "--data", broker.data], capture_output=True, text=True)
        assert "copied 20, from the cache 0" in status.stdout
        top = subprocess.run([BIN / "assay", "top", "--data", broker.data], capture_output=True, text=True)
        assert "rows copied 20" in top.stdout
    lines = directory / "rows.jsonl"
    lines.write_text('{"input_ids": [1, 2]}\n{"input_ids": [1, 2]}\n{"input_ids": []}\n')
    done = subprocess.run([BIN / "assay", "score", lines, "--model", MODELS / "demo", "--data", directory / "d"], capture_output=True, text=True)
    assert done.returncode == 1 and "3 rows, 1 failed, 1 copied" in done.stderr
    for size in ("4095K", "4", "-1", "4X", "4MB", "", "M", "1025T", "99999999999999999999"):
        done = subprocess.run([BIN / "assayd", "--model", "x", "--score-cache", size], capture_output=True, text=True)
        assert done.returncode == os.EX_USAGE and "--score-cache: expected a size" in done.stderr, size
    done = subprocess.run([BIN / "assayd", "--model", "x", "--score-cache", "4096K", "--no-dedupe"], capture_output=True, text=True)
    assert done.returncode == os.EX_USAGE and "no-dedupe" in done.stderr
