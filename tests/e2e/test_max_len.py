"""A broker that is started again on its data with another --max-len, or another checkpoint."""
import json
import subprocess
import time

import msgpack
import pytest

import harness
from harness import BIN, MODELS, Broker, Refused, wait_until


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


def cut(n, length, first=0):
    return [{"ids": [(first + i + j) % 200 for j in range(length)], "truncate": True} for i in range(n)]


def begin(directory, max_len, rows, key="cut"):
    with Broker(directory, options=["--max-len", max_len]) as broker, broker.client() as client:
        assert client.submit(key, rows, seal=False)["state"] == "open"
        wait_until(lambda: client.call("status", job=key)["done"] == len(rows))


def test_a_job_has_one_truncation(tmp_path):
    rows, more = cut(20, 30), cut(20, 30, first=100)
    begin(tmp_path / "d", 10, rows)
    with Broker(tmp_path / "d", options=["--max-len", 20]) as broker, broker.client() as client:
        reason = "made with rows truncated to 10 tokens, the broker truncates to 20 (--max-len)"
        status = client.call("status", job="cut")
        assert (status["state"], status["reason"]) == ("paused", reason)
        assert broker.sql("select state, reason from jobs") == [("paused", reason)]
        assert [j["key"] for j in client.call("jobs", state="paused")["jobs"]] == ["cut"]
        assert client.submit("cut", rows, seal=False)["state"] == "paused"  # it was there already
        with pytest.raises(Refused, match="wrong_state.*held: made with rows truncated to 10"):
            client.submit("cut", more, chunk=1)
        with pytest.raises(Refused, match="wrong_state"):
            client.call("resume", job="cut")
        client.submit("another", more)
        assert {r["n_tokens"] for r in client.results("another")} == {20}
    with Broker(tmp_path / "d", options=["--max-len", 10]) as broker, broker.client() as client:
        assert client.call("status", job="cut")["state"] == "open"
        assert broker.sql("select key, state, reason from jobs") == [("cut", "open", None), ("another", "done", "made with rows "
                          "truncated to 20 tokens, the broker truncates to 10 (--max-len)")]
        assert "truncated to 20" in client.call("status", job="another")["made_otherwise"]
        done = subprocess.run([BIN / "assay", "status", "another", "--data", broker.data], capture_output=True, text=True)
        assert "its scores are not this broker's: " in done.stdout and "truncated to 20" in done.stdout, done
        assert client.submit("cut", more, chunk=1)["accepted"] == 20
        assert {r["n_tokens"] for r in client.results("cut")} == {10}


def test_another_truncation_may_be_accepted(tmp_path):
    begin(tmp_path / "d", 10, cut(5, 30))
    with Broker(tmp_path / "d", options=["--max-len", 20]) as broker, broker.client() as client:
        assert client.call("resume", job="cut", accept_mode=True)["state"] == "open"
        client.submit("cut", cut(5, 30, first=100), chunk=1, seal=False)
        wait_until(lambda: client.call("status", job="cut")["done"] == 10)
        broker.kill9()
    with Broker(tmp_path / "d", options=["--max-len", 20]) as broker, broker.client() as client:
        assert client.call("status", job="cut")["state"] == "open"
    with Broker(tmp_path / "d", options=["--max-len", 10]) as broker, broker.client() as client:
        assert "truncated to 20" in client.call("status", job="cut")["reason"]


def test_whole_rows_depend_on_a_smaller_limit_only(tmp_path):
    """A row that asked for truncation and was taken whole would be cut by a smaller limit."""
    begin(tmp_path / "d", 100, cut(5, 30), key="whole")
    begin(tmp_path / "d", 100, distinct(5, 30), key="never")
    for max_len, states in [(29, ["paused", "open"]), (30, ["open", "open"]), (200, ["open", "open"])]:
        with Broker(tmp_path / "d", options=["--max-len", max_len]) as broker, broker.client() as client:
            assert [client.call("status", job=key)["state"] for key in ("whole", "never")] == states
            assert [state for (state,) in broker.sql("select state from jobs order by job")] == states
    with Broker(tmp_path / "d", options=["--max-len", 29]) as broker, broker.client() as client:
        assert "rows of up to 30 tokens, the broker truncates to 29" in client.call("status", job="whole")["reason"]


@pytest.mark.parametrize("whole", [False, True])
def test_score_begins_anew_under_another_truncation(tmp_path, whole):
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"id": i, "input_ids": r["ids"]}) + "\n" for i, r in enumerate(distinct(1500, 30))))
    command = [harness.BIN / "assay", "score", lines, "-o", tmp_path / "out.jsonl", "--data", tmp_path / "d", "--truncate"]
    with Broker(tmp_path / "d", options=["--max-len", 10]) as broker, broker.client() as client:
        first = subprocess.run(command, capture_output=True, text=True)
        assert first.returncode == 0, first.stderr
        key = client.call("jobs")["jobs"][0]["key"]
    if not whole:  # as if it had been killed after the first chunk
        with Broker(tmp_path / "d", options=["--max-len", 10]) as broker, broker.client() as client:
            client.call("purge", job=key)
            chunk = [{"id": i, "ids": harness.ids_bytes(r["ids"]), "truncate": True} for i, r in enumerate(distinct(512, 30))]
            client.submit(key, chunk, seal=False)
    with Broker(tmp_path / "d", options=["--max-len", 20]):
        again = subprocess.run(command, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert "truncated to 10" in again.stderr and "scoring anew" in again.stderr
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(results) == 1500 and {r["n_tokens"] for r in results} == {20}


def texts(first, end, words=1):
    return [{"id": i, "prompt": f"{i} + {i + 1}?", "response": f"It is {2 * i + 1}. " + "blah " * words} for i in range(first, end)]


def other_template(directory):
    (directory / "other.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}")
    return ["--chat-template", directory / "other.jinja"]


def alone(client, rows):
    return [row["score"] for row in client.call("score", rows=rows)["rows"]]


@pytest.mark.parametrize("chunk", [1, 2])
def test_texts_of_a_job_are_written_by_one_broker(tmp_path, chunk):
    """A broker that was started once with another template takes none, whether or not they close a gap."""
    model, rows = MODELS / "demo-reward", texts(0, 6)
    with Broker(tmp_path / "d", model=model) as broker, broker.client() as client:
        client.submit("job", rows[:2], chunk=0, seal=False)
        if chunk == 1:
            client.submit("job", rows[4:], chunk=2)
    with Broker(tmp_path / "d", model=model, options=other_template(tmp_path)) as broker, broker.client() as client:
        for more in (rows[2:4], [{"ids": [1]}]):
            with pytest.raises(Refused, match="wrong_state.*held: made with checkpoint"):
                client.submit("job", more, chunk=1, seal=chunk == 2)
        assert client.submit("job", rows[:2], chunk=0, seal=False)["accepted"] == 2  # as before: there already
    with Broker(tmp_path / "d", model=model) as broker, broker.client() as client:
        client.submit("job", rows[2:4], chunk=1, seal=chunk == 2)
        expected = alone(client, rows[:6 if chunk == 1 else 4])
        assert [row["score"] for row in sorted(client.results("job"), key=lambda row: row["i"])] == expected


def send_closing(client, rows):
    """The chunk that closes a gap, in front of one that takes a while to place; the reply comes at its end."""
    client.number += 1
    client.socket.send(msgpack.packb({"v": 1, "op": "submit", "id": client.number, "key": "job", "chunk": 1, "rows": rows, "seal": False}))


def test_kept_texts_wait_for_their_broker(tmp_path):
    """Killed while they are placed, and started once with another template."""
    model, rows = MODELS / "demo-reward", texts(0, 9000, 60)
    with Broker(tmp_path / "d", model=model) as broker, broker.client() as client:
        client.submit("job", rows[:1], seal=False)
        wait_until(lambda: client.call("status", job="job")["done"] == 1)
        client.call("pause", job="job")
        client.submit("job", rows[2:], chunk=2)
        send_closing(client, rows[1:2])
        wait_until(lambda: broker.sql("select placed from job")[0][0] > 1, step=0.001)
        broker.kill9()
    placed, = broker.sql("select placed from job")[0]
    with Broker(tmp_path / "d", model=model, options=other_template(tmp_path)) as broker, broker.client() as client:
        assert len(client.call("score", rows=[{"text": "a"}])["rows"]) == 1
        time.sleep(0.5)
        assert broker.sql("select placed from job")[0][0] == placed
    with Broker(tmp_path / "d", model=model) as broker, broker.client() as client:
        wait_until(lambda: broker.sql("select placed from job")[0][0] == 9000)
        client.call("resume", job="job")
        wait_until(lambda: client.call("status", job="job")["done"] >= 60)
        found = {row["i"]: row["score"] for row in client.call("results", job="job", limit=60)["rows"]}
        assert [found[i] for i in sorted(found)] == alone(client, [rows[i] for i in sorted(found)])
        client.call("cancel", job="job")


@pytest.mark.parametrize("free", [False, True])
def test_a_purged_job_takes_no_message_that_waited(tmp_path, free):
    """Cancelled and purged while its chunks are placed; then the key may be another job's."""
    rows = texts(0, 9000, 60)
    with Broker(tmp_path / "d", model=MODELS / "demo-reward") as broker, broker.client() as client, broker.client() as other:
        client.submit("job", rows[2:], chunk=2)
        client.submit("job", rows[:1], chunk=0, seal=False)
        send_closing(client, rows[1:2])
        wait_until(lambda: broker.sql("select placed from job")[0][0] > 1, step=0.001)
        other.call("cancel", job="job")
        other.call("purge", job="job")
        if free:
            other.submit("job", [{"id": "new", "ids": [1]}], chunk=2)
        reply = client.receive(30)
        assert not reply["ok"] and "the job went" in reply["err"]["message"], reply
        assert [job["accepted"] for job in other.call("jobs")["jobs"]] == [1] * free
