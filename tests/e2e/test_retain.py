"""Jobs that go by themselves: those that have been over for --retain, and those that nobody needs any more."""
import json
import random
import subprocess
import time

import msgpack
import pytest
from client_harness import Client
from harness import BIN, PATIENCE, Broker, Refused, wait_until

NONE_LEFT = "select (select count(*) from purge) + (select count(*) from ephemeral)"


def rows_of(n, seed=0):
    rng = random.Random(seed)
    return [{"id": k, "ids": [rng.randrange(20, 500) for _ in range(12)]} for k in range(n)]


def keys(client):
    return {job["key"] for job in client.call("jobs")["jobs"]}


def score_file(tmp_path, broker, *more, n=5):
    source = tmp_path / "rows.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(n)))
    command = [BIN / "assay", "score", source, "-o", tmp_path / "out.jsonl", "--data", broker.data, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)


def test_jobs_go_when_they_have_been_over_for_long(tmp_path):
    with Broker(tmp_path / "d", options=["--retain", "2s"]) as broker, broker.client() as client:
        client.submit("open", rows_of(2), seal=False)
        client.submit("done", rows_of(3))
        assert len(client.results("done")) == 3 and keys(client) == {"open", "done"}
        wait_until(lambda: keys(client) == {"open"}, timeout=30)
        wait_until(lambda: broker.sql(NONE_LEFT) == [(0,)])
        assert broker.sql("select count(*) from result") == [(2,)]
        client.submit("open", [], chunk=1)
        assert len(client.results("open")) == 2  # over now, and to be read for a while


def test_by_default_jobs_stay(tmp_path):
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "0s"]) as broker, broker.client() as client:
        client.submit("done", rows_of(3))
        client.call("score", rows=rows_of(2), key="kept")
        client.call("score", rows=rows_of(2), key="gone", ephemeral=True)
        wait_until(lambda: keys(client) == {"done", "kept"})
        time.sleep(1.2)
        assert keys(client) == {"done", "kept"}


def test_a_score_command_lets_its_job_go(tmp_path):
    """Once its output is whole; with --key, or where rows failed, the job stays."""
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "1s"]) as broker, broker.client() as client:
        assert score_file(tmp_path, broker).returncode == 0
        first = (tmp_path / "out.jsonl").read_text()
        wait_until(lambda: keys(client) == set())
        assert score_file(tmp_path, broker, "--key", "named").returncode == 0
        assert (tmp_path / "out.jsonl").read_text() == first
        (tmp_path / "rows.jsonl").write_text('{"id": 1, "ids": [1000000]}\n{"id": 2, "ids": [7]}\n')
        assert score_file(tmp_path, broker).returncode == 1
        time.sleep(2.5)
        assert len(keys(client)) == 2 and "named" in keys(client)


def test_an_interrupted_command_finds_its_job(tmp_path):
    """Killed before its output is whole, its job stays however long it takes until the command comes again."""
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "0s"]) as broker, broker.client() as client:
        source = tmp_path / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(3000)))
        command = [BIN / "assay", "score", source, "-o", tmp_path / "out.jsonl", "--data", broker.data]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_until(lambda: (broker.sql("select sum(done) from job")[0][0] or 0) > 0)
        process.kill()
        process.communicate()
        [key] = keys(client)
        wait_until(lambda: broker.sql("select accepted = done from job") == [(1,)], timeout=60)
        time.sleep(1.5)
        assert keys(client) == {key}
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.wait(120 * PATIENCE) == 0
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == list(range(3000))
        wait_until(lambda: keys(client) == set())


def test_a_job_that_is_sent_again_stays(tmp_path):
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "3s"]) as broker, broker.client() as client:
        client.submit("k", rows_of(3))
        client.results("k")
        client.call("purge", job="k", ephemeral=True)
        client.submit("k", rows_of(3))
        client.submit("other", rows_of(3))
        client.results("other")
        client.call("purge", job="other", ephemeral=True)
        wait_until(lambda: keys(client) == {"k"}, timeout=30)


@pytest.mark.parametrize("fields,field", [({}, "job"), ({"older_than_s": 5}, "job"), ({"job": "open"}, "job"), ({"job": "none"}, "job")])
def test_what_may_not_go(tmp_path, fields, field):
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        client.submit("open", rows_of(3), seal=False)
        with pytest.raises(Refused) as refused:
            client.call("purge", ephemeral=True, **fields)
        assert refused.value.code in ("bad_request", "wrong_state", "unknown_job")
        assert broker.sql("select count(*) from ephemeral") == [(0,)]


@pytest.mark.parametrize("option,value", [("--retain", "0"), ("--retain", "soon"), ("--retain", "1w"), ("--retain-ephemeral", "-1s")])
def test_ages_are_checked(tmp_path, option, value):
    done = subprocess.run([BIN / "assayd", "--model", "x", option, value], capture_output=True, text=True)
    assert done.returncode == 64 and option in done.stderr and value in done.stderr


def test_thousands_of_calls_leave_no_trace(tmp_path):
    """After some thousand calls more the file is as large as after the first thousand, but for the records of batches."""
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "0s"]) as broker:
        def many(n):
            """A thousand calls, up to 50 at a time: each sync is of several."""
            with broker.client() as client:
                for k in range(1050):
                    if k < 1000:
                        call = {"v": 1, "op": "score", "id": k, "rows": rows_of(2, n * 1000 + k), "ephemeral": True}
                        client.socket.send(msgpack.packb(call))
                    if k >= 50:
                        assert client.receive()["ok"]

        many(0)
        pages = broker.sql("pragma page_count")[0][0]
        for n in (1, 2, 3):
            many(n)
        wait_until(lambda: broker.sql(NONE_LEFT) == [(0,)])
        wait_until(lambda: broker.sql("pragma freelist_count") == [(0,)])
        assert broker.sql("select count(*) from row") == broker.sql("select count(*) from job") == [(0,)]
        assert broker.sql("pragma page_count")[0][0] < pages + 20  # of 8 KiB: all the records of batches


def test_kills_among_purges_lose_nothing_else(tmp_path):
    """The broker is killed again and again while jobs go; the others have every row and score."""
    broker = Broker(tmp_path / "d", options=["--retain-ephemeral", "0s"])
    expected, rng = {}, random.Random(7)
    for kill in range(6):
        broker.start()
        with broker.client() as client:
            for k in range(10):
                client.call("score", rows=rows_of(40, 1000 * kill + k), ephemeral=True)
            key = f"kept-{kill}"
            client.submit(key, rows_of(30, 77 + kill))
            expected[key] = sorted((row["i"], row["score"]) for row in client.results(key))
            time.sleep(rng.random())
        broker.kill9()
    with broker, broker.client() as client:
        wait_until(lambda: keys(client) == set(expected))
        for key, rows in expected.items():
            assert sorted((row["i"], row["score"]) for row in client.results(key)) == rows
        wait_until(lambda: broker.sql(NONE_LEFT) == [(0,)])
        assert broker.sql("select count(*) from row") == broker.sql("select count(*) from result") == [(180,)]
    done = subprocess.run([BIN / "assay", "scrub", "--data", broker.data], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_python_client_lets_jobs_go(tmp_path):
    with Broker(tmp_path / "d", options=["--retain-ephemeral", "0s"]) as broker, broker.client() as client:
        calls = Client(broker.endpoint)
        assert len(calls.score(rows_of(3))) == len(calls.score(rows_of(3), key="kept")) == 3
        wait_until(lambda: keys(client) == {"kept"})


def test_a_job_stays_while_it_is_read(tmp_path):
    """However short --retain is: a reader that takes its time gets every page, and then the job goes."""
    with Broker(tmp_path / "d", options=["--retain", "1s"]) as broker, broker.client() as client:
        job = client.submit("a", [{"id": k, "ids": [k % 300, 7, 11]} for k in range(80)])["job"]
        rows, after, done = [], 0, False
        while not done:
            reply = client.call("results", job=job, after=after, limit=10, wait_ms=10000)
            rows, after, done = rows + reply["rows"], reply["next"], reply["done"]
            time.sleep(0.6)
        assert sorted(row["id"] for row in rows) == list(range(80))
        wait_until(lambda: broker.sql("select count(*) from jobs") == [(0,)])
