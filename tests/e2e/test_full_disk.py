"""A disk that is full, and a database that somebody else has locked: what is there is served, work waits, and goes on by itself."""
import os
import resource
import shutil
import sqlite3
import subprocess
import time

import pytest
from harness import BIN, PATIENCE, Broker, Refused, random_key, wait_until

ROWS = [{"id": k, "ids": [k, 5, 6]} for k in range(20)]
MIB = 1 << 20


@pytest.fixture
def small_disk(directory):
    """A file system of 64 MiB, with a folder for a broker's data."""
    disk = directory / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", disk]).returncode != 0:
        pytest.skip("SKIPPED: a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk):
    """Takes what room there is."""
    with open(disk / "filler", "ab", buffering=0) as file:
        block = bytes(MIB)
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[:len(block) // 2]


def start(disk, **options):
    broker = Broker(disk / "d", options=["--min-free-bytes", "0", "--max-batch-tokens", "64"], **options)
    broker.log_path = disk.parent / "log"
    return broker


def submit_large(client, key, n_rows=8000):
    """Rows that take some megabytes and are never computed."""
    client.submit(key, ROWS[:1], seal=False)
    client.call("pause", job=key)
    for chunk in range(1, 9):
        rows = [{"id": k, "ids": [(chunk * 7919 + k * 31 + i * i) % 400 for i in range(500)]} for k in range(n_rows // 8)]
        client.submit(key, rows, chunk=chunk, seal=chunk == 8)
    client.call("cancel", job=key)


def refused(client, *arguments, **fields):
    with pytest.raises(Refused) as caught:
        client.call(*arguments, **fields)
    return caught.value


def accepts(client, key):
    try:
        return client.submit(key, ROWS)
    except Refused as error:
        assert error.code == "queue_full"
        return None


def test_reads_and_a_purge_on_a_full_disk(small_disk):
    broker = start(small_disk)
    try:
        with broker.start().client() as client:
            client.submit("done", ROWS)
            assert len(client.results("done")) == len(ROWS)
            submit_large(client, "large")
            client.submit("waits", ROWS)
            client.call("pause", job="waits")
            # The log is copied in idle moments: all of it would find no room in what is held back for a purge.
            wait_until(lambda: (broker.data / "assay.db").stat().st_size > 4 * MIB)
        broker.kill9()
        fill(small_disk)
        (broker.data / "reserve").unlink(missing_ok=True)  # results had it
        fill(small_disk)
        for _ in range(2):  # each start finds its way
            with broker.start().client() as client:
                assert len(client.results("done")) == len(ROWS)
                assert client.call("status", job="large")["state"] == "cancelled"
                fill(small_disk)  # also what the log gave back
                error = refused(client, "submit", key="new", chunk=0, rows=ROWS, seal=True).err
                assert error["code"] == "queue_full" and "disk" in error["message"], error
                assert broker.process.poll() is None
            broker.kill9()
        with broker.start().client() as client:
            assert client.call("purge", job="large")["jobs"] == 1
            wait_until(lambda: not broker.sql("select 1 from purge") and os.statvfs(small_disk).f_bavail > 100, timeout=60)
            client.call("resume", job="waits")
            assert len(client.results("waits")) == len(ROWS)
            wait_until(lambda: accepts(client, "new"))  # once the log is cut
            assert len(client.results("new")) == len(ROWS)
        assert broker.stop() == 0, broker.words()
    finally:
        broker.__exit__()


def says_why(broker, client, key, word):
    """Whoever asks, or waits, hears why nothing goes on."""
    wait_until(lambda: word in client.call("status", job=key).get("unwritten", ""))
    wait_until(lambda: word in client.call("info").get("unwritten", ""))
    with pytest.raises(Refused) as caught:
        client.call("score", rows=[{"ids": [5, 6]}], timeout_ms=1000)
    assert caught.value.code == "queue_full" or word in caught.value.err["message"], caught.value.err
    for verb in (["wait", key], ["results", key, "--follow"]):
        waits = subprocess.Popen([BIN / "assay", *verb, "--data", broker.data], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            line = waits.stderr.readline()
        finally:
            waits.terminate()
            waits.communicate()
        assert line.startswith("assay") and "waiting: results cannot be written" in line and word in line, line
    wait_until(lambda: f"results cannot be written, that is tried again: {broker.data}" in subprocess.run(
        [BIN / "assay", "status", key, "--data", broker.data], capture_output=True, text=True).stdout)


def test_results_wait_for_room(small_disk):
    """Neither a row nor the broker is lost when results of accepted work find no room, even in what was held back."""
    broker = start(small_disk)
    key = random_key()
    n = 12000
    try:
        with broker.start().client() as client:
            client.submit(key, [{"id": k, "ids": [k % 400, k // 400, 5, 6, 7]} for k in range(n // 2)], seal=False)
            client.submit(key, [{"id": k, "ids": [k % 400, k // 400, 8]} for k in range(n // 2)], chunk=1)

            def is_full():
                fill(small_disk)
                (broker.data / "reserve").unlink(missing_ok=True)
                return "event=disk_full error" in broker.words()
            wait_until(is_full)
            time.sleep(1)
            fill(small_disk)
            done = client.call("status", job=key)["done"]
            assert broker.process.poll() is None and done < n
            before = broker.words().count("event=disk_has_room")
            says_why(broker, client, key, "full")
            if broker.words().count("event=disk_has_room") != before:  # not whenever something small was written
                assert client.call("status", job=key)["done"] > done  # the log's own room, used again, was enough for some
            assert client.call("results", job=key, after=0)["rows"] or done == 0
            (small_disk / "filler").unlink()
            assert sorted(row["i"] for row in client.results(key, timeout=120)) == list(range(n))
        wait_until(lambda: "event=disk_has_room" in broker.words())
        assert broker.stop() == 0
    finally:
        broker.__exit__()


def test_a_start_with_no_room_at_all(small_disk):
    """Not even for the start itself: what is there is served, and all goes on once there is room."""
    broker = start(small_disk)
    try:
        with broker.start().client() as client:
            client.submit("done", ROWS)
            assert len(client.results("done")) == len(ROWS)
            client.submit("waits", [{"id": k, "ids": [k % 400, k // 400, 9]} for k in range(5000)])
        assert broker.stop() == 0  # nothing in the log
        for _ in range(2):
            for name in ("reserve", "reserve-purge"):
                (broker.data / name).unlink(missing_ok=True)
            fill(small_disk)
            with broker.start().client() as client:
                assert len(client.results("done")) == len(ROWS)
                assert "event=nothing_can_be_written" in broker.words()
                assert refused(client, "purge", older_than_s=0).code == "queue_full"
                assert refused(client, "submit", key="done", chunk=0, rows=ROWS, seal=True).code == "queue_full"
                done = client.call("status", job="waits")["done"]
            broker.kill9()
        with broker.start().client() as client:
            assert client.call("status", job="waits")["done"] == done
            (small_disk / "filler").unlink()
            assert sorted(row["i"] for row in client.results("waits")) == list(range(5000))
        assert "event=database_can_be_written" in broker.words() and broker.stop() == 0
    finally:
        broker.__exit__()


def locked(broker):
    """Somebody who writes to the database, for long."""
    connection = sqlite3.connect(broker.data / "assay.db", isolation_level=None, timeout=30)
    connection.execute("begin immediate")
    return connection


def test_a_database_that_is_locked(directory):
    with Broker(directory / "d", options=["--max-batch-tokens", "64"]) as broker, broker.client() as client:
        client.submit("done", ROWS)
        assert len(client.results("done")) == len(ROWS)
        client.submit("runs", [{"id": k, "ids": [k % 400, k // 400, 9]} for k in range(4000)])
        other = locked(broker)
        error = refused(client, "submit", key="new", chunk=0, rows=ROWS, seal=True).err
        assert error["code"] == "queue_full" and "another process has the database locked" in error["message"], error
        until = time.monotonic() + 3  # longer than it was waited before the broker ended
        while time.monotonic() < until:
            assert len(client.call("results", job="done")["rows"]) == len(ROWS)
            time.sleep(0.1)
        other.rollback()
        assert sorted(row["i"] for row in client.results("runs")) == list(range(4000))
        wait_until(lambda: accepts(client, "new"))
        assert len(client.results("new")) == len(ROWS)
        words = broker.words()
        assert "event=database_locked" in words and "event=database_unlocked" in words, words
        other.close()


def test_a_start_while_it_is_locked(directory):
    broker = Broker(directory / "d")
    with broker, broker.client() as client:
        client.submit("waits", ROWS[:1], seal=False)
        client.call("pause", job="waits")
        client.submit("waits", ROWS[1:], chunk=1)
    other = locked(broker)
    with broker, broker.client() as client:
        assert client.call("status", job="waits")["state"] == "paused"
        assert refused(client, "resume", job="waits").code == "queue_full"
        other.rollback()
        wait_until(lambda: "event=database_can_be_written" in broker.words())
        client.call("resume", job="waits")
        assert len(client.results("waits")) == len(ROWS)
    other.close()


def limit_files(n_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_limit_on_the_size_of_files_is_a_full_disk(directory):
    """`ulimit -f`: no signal ends the broker, and what it acknowledged is there."""
    broker = Broker(directory / "d")
    broker.command = ["/bin/bash", "-c", "ulimit -f 3000; exec \"$@\"", "bash", *broker.command]
    with broker, broker.client() as client:
        client.submit("done", ROWS)
        assert len(client.results("done")) == len(ROWS)
        accepted = 0
        with pytest.raises(Refused) as caught:
            for chunk in range(100):
                rows = [{"ids": [(chunk * 7919 + k * 31 + i * i) % 400 for i in range(500)]} for k in range(300)]
                accepted += client.call("submit", key="large", chunk=chunk, rows=rows, seal=False)["accepted"]
        assert caught.value.code == "queue_full" and "ulimit -f" in caught.value.err["message"], caught.value
        assert len(client.results("done")) == len(ROWS) and broker.process.poll() is None
    assert broker.process.returncode == 0, broker.words()
    broker.command = broker.command[4:]
    with broker, broker.client() as client:
        assert client.call("status", job="large")["accepted"] == accepted > 0
        assert client.call("cancel", job="large")["state"] == "cancelled"


def test_a_start_with_too_low_a_limit_on_files(directory):
    broker = Broker(directory / "d")
    for n_bytes in (0, 30000, 100000):
        done = subprocess.run(broker.command, capture_output=True, text=True, timeout=60 * PATIENCE, preexec_fn=limit_files(n_bytes))
        assert done.returncode == 74 and "ulimit -f" in done.stderr, done
    with broker, broker.client() as client:
        client.submit("k", ROWS)
        assert len(client.results("k")) == len(ROWS)
