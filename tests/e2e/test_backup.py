"""assay backup and assay export: copies of a broker that works, and results in files."""
import csv
import gzip
import io
import json
import random
import re
import subprocess
import threading

import msgpack
import pytest
import zmq
from harness import BIN, FAULTY_WORKER, MODELS, PATIENCE, Broker, wait_until


def assay(*arguments, timeout=120):
    return subprocess.run([BIN / "assay", *map(str, arguments)], capture_output=True, text=True, timeout=timeout * PATIENCE)


def rows_of(n, seed=0):
    rng = random.Random(seed)
    return [{"id": f"r{k}", "ids": [rng.randrange(20, 250) for _ in range(40)]} for k in range(n)]


def scores(client, key):
    return sorted((row["i"], row["id"], row["score"]) for row in client.results(key))


def test_a_copy_goes_on_exactly(tmp_path):
    """Taken while rows are sent, computed, purged: the copy opens, finishes its jobs, and has the same bits."""
    with Broker(tmp_path / "d", options=["--max-batch-tokens", 256, "--retain-ephemeral", "0s"]) as broker, broker.client() as client:
        client.submit("done", rows_of(50, 1))
        expected = {"done": scores(client, "done")}
        client.submit("large", rows_of(600, 2))
        client.submit("open", rows_of(20, 3), seal=False)
        wait_until(lambda: broker.sql("select done from job where key = 'large'")[0][0] > 20)
        stop = threading.Event()

        def load():
            with broker.client() as other:
                k = 0
                while not stop.is_set():
                    other.call("score", rows=rows_of(3, 1000 + k), ephemeral=True)
                    k += 1

        thread = threading.Thread(target=load)
        thread.start()
        try:
            done = assay("backup", tmp_path / "copy", "--data", broker.data)
        finally:
            stop.set()
            thread.join()
        assert done.returncode == 0 and re.match(r"(1 job|\d+ jobs) copied;", done.stdout) and "1 jobs" not in done.stdout, (done.stdout, done.stderr)
        assert [path.name for path in (tmp_path / "copy").iterdir()] == ["assay.db"]
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700 and (tmp_path / "copy/assay.db").stat().st_mode & 0o777 == 0o600
        client.submit("later", rows_of(5, 4))
        expected["large"] = scores(client, "large")
        client.submit("open", rows_of(20, 5), chunk=1)
        expected["open"] = scores(client, "open")
    assert assay("scrub", "--data", tmp_path / "copy").returncode == 0
    with Broker(tmp_path / "copy") as broker, broker.client() as client:
        before = broker.sql("select done, placed from job where key = 'large'")[0]
        assert before[1] == 600
        client.submit("open", rows_of(20, 3), chunk=0, seal=False)  # sent again: it is there
        client.submit("open", rows_of(20, 5), chunk=1)
        for key, rows in expected.items():
            assert scores(client, key) == rows
        assert "later" not in {job["key"] for job in client.call("jobs")["jobs"]}


def test_without_a_broker_and_over_again(tmp_path):
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        client.submit("k", rows_of(5))
        expected = scores(client, "k")
    done = assay("backup", tmp_path / "copy", "--data", tmp_path / "d", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == {"jobs": 1}
    again = assay("backup", tmp_path / "copy", "--data", tmp_path / "d")
    assert again.returncode == 64 and "assay.db" in again.stderr
    with Broker(tmp_path / "copy") as broker, broker.client() as client:
        assert scores(client, "k") == expected
        used = assay("backup", tmp_path / "copy", "--data", tmp_path / "d")
        assert used.returncode == 64


def test_what_cannot_be_copied_leaves_nothing(tmp_path):
    none = assay("backup", tmp_path / "copy", "--data", tmp_path / "none")
    assert none.returncode == 66 and not (tmp_path / "copy").exists()
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/assay.db").write_bytes(b"no database" * 100)
    bad = assay("backup", tmp_path / "copy", "--data", tmp_path / "d")
    assert bad.returncode in (65, 78) and not (tmp_path / "copy").exists()
    (tmp_path / "file").write_text("")
    with Broker(tmp_path / "e"):
        pass
    taken = assay("backup", tmp_path / "file", "--data", tmp_path / "e")
    assert taken.returncode == 74 and "file" in taken.stderr


def test_a_copy_without_room_leaves_nothing(tmp_path):
    """`ulimit -f` ends the writing."""
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        client.submit("k", rows_of(2000))
        wait_until(lambda: broker.sql("select accepted from job") == [(2000,)])
        command = f"ulimit -f 100; exec '{BIN}/assay' backup '{tmp_path}/copy' --data '{broker.data}'"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode != 0 and not (tmp_path / "copy").exists(), (done, list(tmp_path.iterdir()))


# ---- export ----

MIXED = [{"id": "a,\"b\"", "ids": [5, 6, 7]}, {"ids": [8, 9]}, {"id": 7, "ids": [100000]}, {"id": "ü\n\0x", "ids": [3]}]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A broker with a job whose results come in another order than its rows, and one with a row that failed."""
    path = tmp_path_factory.mktemp("export")
    with Broker(path / "d", model=MODELS / "demo-reward", options=["--max-batch-tokens", 64]) as broker, broker.client() as client:
        client.submit("rows", [{"id": f"r{k}", "ids": [7 + k % 400] * (1 + k * 37 % 60)} for k in range(100)])
        client.results("rows")
        client.submit("mixed", MIXED)
        client.results("mixed")
        client.submit("open", rows_of(3), seal=False)
        yield broker, client


def test_rows_in_order(tmp_path, exported):
    broker, client = exported
    printed = [json.loads(line) for line in assay("results", "rows", "--data", broker.data).stdout.splitlines()]
    done = assay("export", "rows", "--data", broker.data)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [line["id"] for line in lines] == [f"r{k}" for k in range(100)]
    assert sorted(map(str, lines)) == sorted(map(str, printed))
    by_completion = assay("export", "rows", "--order", "completion", "--data", broker.data)
    assert [json.loads(line) for line in by_completion.stdout.splitlines()] == printed


def test_csv_reads_back(tmp_path, exported):
    broker, client = exported
    out = tmp_path / "rows.csv.gz"
    done = assay("export", "mixed", "-o", out, "--csv", "--data", broker.data)
    assert done.returncode == 1, done.stderr  # a row failed
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(out.read_bytes()).decode(), newline="")))
    assert [row["i"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["id"] for row in rows] == ["a,\"b\"", "", "7", "ü\n\0x"]
    assert rows[2]["error_code"] == "bad_token" and rows[2]["score"] == "" and rows[2]["error_message"]
    expected = {row["i"]: row["score"] for row in client.results("mixed")}
    for row in rows[:2] + rows[3:]:
        assert abs(float(row["score"]) - expected[int(row["i"])]) <= abs(expected[int(row["i"])]) * 1e-7


def test_an_export_is_whole_or_absent(tmp_path, exported):
    broker, _ = exported
    done = assay("export", "open", "-o", tmp_path / "out", "--data", broker.data)
    assert done.returncode == 75 and "not finished" in done.stderr and not (tmp_path / "out").exists()
    none = assay("export", "nobody", "-o", tmp_path / "out", "--data", broker.data)
    assert none.returncode == 65 and not (tmp_path / "out").exists()
    inside = assay("export", "rows", "-o", broker.data / "assay.db", "--data", broker.data)
    assert inside.returncode != 0 and broker.sql("select count(*) from job")[0][0] >= 3


class Between:
    """Stands between a command and its broker, and calls `step` before the second request for results."""

    def __init__(self, broker, step):
        self.context, self.endpoint = zmq.Context(), f"ipc://{broker.data}/between.sock"
        self.front, self.back = self.context.socket(zmq.ROUTER), self.context.socket(zmq.DEALER)
        self.front.bind(self.endpoint)
        self.back.connect(broker.endpoint)
        self.step, self.n_pages, self.over = step, 0, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.over = True
        self.thread.join()
        self.context.destroy(linger=0)

    def run(self):
        while not self.over:
            if not self.front.poll(50):
                continue
            sender, *frames = self.front.recv_multipart()
            self.n_pages += msgpack.unpackb(frames[-1])["op"] == "results"
            if self.n_pages == 2 and self.step:
                self.step()
                self.step = None
            self.back.send_multipart(frames)
            self.front.send_multipart([sender, *self.back.recv_multipart()])


@pytest.mark.parametrize("order", ["input", "completion"])
def test_rows_that_are_retried_meanwhile_come_once_or_not_at_all(tmp_path, order):
    with Broker(tmp_path / "d", model=MODELS / "demo-reward", worker=FAULTY_WORKER) as broker, broker.client() as client:
        client.submit("k", [{"ids": [5, 9, 6] if k < 2 else [3, 4]} for k in range(1500)])
        assert sum(row["error"] is not None for row in client.results("k")) == 2

        def retry():
            with broker.client() as other:
                other.call("retry", job="k")
                wait_until(lambda: other.call("status", job="k")["state"] == "done")
        with Between(broker, retry) as between:
            out = ("export", "k", "-o", tmp_path / "out", "--order", order, "--connect", between.endpoint)
            done = assay(*out)
            assert done.returncode == 75 and "rows of it were queued again" in done.stderr and not (tmp_path / "out").exists(), done
            assert assay(*out).returncode == 1 and len((tmp_path / "out").read_text().splitlines()) == 1500


def test_a_cancelled_job_says_what_is_missing(tmp_path, exported):
    broker, client = exported
    client.submit("cancelled", rows_of(3), seal=False)
    wait_until(lambda: client.call("status", job="cancelled")["done"] == 3)
    client.call("pause", job="cancelled")
    client.submit("cancelled", rows_of(2, 9), chunk=1)
    client.call("cancel", job="cancelled")
    done = assay("export", "cancelled", "--data", broker.data)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3 and "2 rows unfinished" in done.stderr


def test_csv_loses_nothing(tmp_path):
    """What has no column of its own is in `more`."""
    with Broker(tmp_path / "d") as broker, broker.client() as client:  # a process reward model
        client.submit("steps", [{"id": "a", "prompt": "1 + 1", "steps": ["1 + 1 = 2", "2"]}])
        expected = {row["id"]: row for row in client.results("steps")}
        done = assay("export", "steps", "--csv", "--data", broker.data)
        for row in csv.DictReader(io.StringIO(done.stdout, newline="")):
            more = json.loads(row["more"] or "{}")
            wanted = expected[row["id"]]
            assert set(more) == set(wanted) - {"i", "id", "score", "chosen", "rejected", "n_tokens", "error"}
            assert more.get("steps") is None or len(more["steps"]) == len(wanted["steps"])
