"""`assay scrub`: says what in a database is not as it was written; beside a broker and without one."""
import contextlib
import json
import os
import shutil
import sqlite3
import struct
import subprocess

import pytest

from harness import BIN, PATIENCE, Broker, Refused, wait_until


def scrub(data, *options):
    return subprocess.run([BIN / "assay", "scrub", "--data", data, *options], capture_output=True, text=True, timeout=60)


def fill(client):
    rows = [{"ids": [k + 1] * (3 + k % 9)} for k in range(150)]
    client.submit("sound", rows, priority=1)
    client.submit("steps", [{"ids": [k + 1, 5, 6], "pool": {"type": "ALL"}, "id": k} for k in range(20)])
    client.submit("refused", [{"ids": [1]}, {"ids": [-1]}])
    for key in ("sound", "steps", "refused"):
        client.results(key)
    client.call("submit", key="gap", chunk=1, rows=[{"ids": [7, 8]}] * 3, seal=True)


def served(client, key):
    try:
        return client.results(key)
    except Refused:
        return None


def test_a_whole_database_is_as_written(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        assert "event=job_lost" not in broker.words() and "event=damaged" not in broker.words()
        fill(client)
        beside = scrub(broker.data)
        assert (beside.returncode, beside.stdout) == (0, "4 jobs, 172 rows, 172 results: all as written\n"), beside
    done = scrub(directory / "d", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"jobs": 4, "rows": 172, "results": 172, "without_checksum": 0, "damaged": []}


def test_a_lost_job_s_number_is_not_given_again(directory):
    """A disk that lost the write of jobs' records: their rows would be a new job's."""
    with Broker(directory / "d") as broker, broker.client() as client:
        fill(client)
    with contextlib.closing(sqlite3.connect(directory / "d" / "assay.db")) as db, db:
        db.execute("delete from job where job > 1")
    with Broker(directory / "d") as broker, broker.client() as client:
        words = broker.words()
        assert [f"event=job_lost job={job} " in words for job in (1, 2, 3)] == [False, True, True], words
        assert client.submit("new", [{"ids": [9]}, {"ids": [8]}])["job"] == 5  # 4, which waits for its first chunk, too
        assert [row["i"] for row in client.results("new")] == [0, 1]
    done = scrub(directory / "d")
    assert done.returncode == 65 and "rows of job 2, which is not there" in done.stdout, done


def set_rowid(path, table, cell, rowid):
    """Changes a record's number, of one byte, on the table's only page."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        (page,) = db.execute("select rootpage from sqlite_schema where name = ?", [table]).fetchone()
        (size,) = db.execute("pragma page_size").fetchone()
    data = bytearray(path.read_bytes())
    begin = (page - 1) * size
    assert data[begin] == 13  # a leaf
    at = begin + int.from_bytes(data[begin + 8 + 2 * cell:][:2], "big")
    while data[at] & 128:  # the record's length comes first
        at += 1
    data[at + 1] = rowid
    path.write_bytes(data)


@pytest.mark.parametrize("cell,rowid", [(0, 3), (1, 3), (1, 6), (2, 1)])
def test_jobs_out_of_order(directory, cell, rowid):
    """A flipped bit in a job's number: scrub and whoever pages through the jobs went in a circle, and nothing was said."""
    with Broker(directory / "d") as broker, broker.client() as client:
        for key in "abc":
            client.submit(key, [{"ids": [1, 2]}])
            client.results(key)
    with contextlib.closing(sqlite3.connect(directory / "d" / "assay.db")) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    for name in ("assay.db-wal", "assay.db-shm", "synced"):
        (directory / "d" / name).unlink(missing_ok=True)
    set_rowid(directory / "d" / "assay.db", "job", cell, rowid)
    done = scrub(directory / "d")
    assert done.returncode == 65 and "out of order" in done.stdout and len(done.stdout) < 4000, done
    with Broker(directory / "d") as broker, broker.client() as client:
        assert "event=damaged error=" in broker.words() and "assay scrub" in broker.words()
        after, seen = 0, []
        with contextlib.suppress(Refused):
            while jobs := (reply := client.call("jobs", after=after, limit=1))["jobs"]:
                seen += [job["job"] for job in jobs]
                after = reply["next"]
        assert seen == sorted(set(seen)) and len(seen) <= 3


@pytest.mark.parametrize("change", ["chunk = 3", "chunk = 1", "n_rows = n_rows + 1", "seal = 0", "digest = randomblob(16)"])
def test_a_damaged_chunk_past_a_gap(directory, change):
    """Its rows were acknowledged: scrub finds it, the start says that it has to be sent again, and then the job ends."""
    rows = [[{"ids": [10 * k + i + 1]} for i in range(3)] for k in range(3)]
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("gap", rows[0], seal=False)
        client.submit("gap", rows[2], 2)
    with contextlib.closing(sqlite3.connect(directory / "d" / "assay.db")) as db, db:
        db.execute(f"update chunk set {change} where chunk = 2")
    done = scrub(directory / "d")
    assert done.returncode == 65 and "the record of chunk" in done.stdout, done
    with Broker(directory / "d") as broker, broker.client() as client:
        assert "event=chunk_damaged job=1" in broker.words(), broker.words()
        client.submit("gap", rows[1], 1, seal=False)
        client.submit("gap", rows[2], 2)
        results = client.results("gap")
        assert sorted(row["i"] for row in results) == list(range(9)) and all(row["error"] is None for row in results)
    done = scrub(directory / "d")
    assert done.returncode == 0, done


def test_a_damaged_chunk_that_is_placed(directory):
    """Nothing is lost; sent again, it is not known whether it is the same."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("whole", [{"ids": [1]}])
        client.results("whole")
    with contextlib.closing(sqlite3.connect(directory / "d" / "assay.db")) as db, db:
        db.execute("update chunk set digest = randomblob(16)")
    done = scrub(directory / "d")
    assert done.returncode == 65 and "the record of chunk 0" in done.stdout, done
    with Broker(directory / "d") as broker, broker.client() as client:
        with pytest.raises(Refused) as refused:
            client.submit("whole", [{"ids": [1]}])
        assert refused.value.code == "damaged" and "chunk 0" in str(refused.value)
        assert len(client.results("whole")) == 1


def test_each_damage_is_named(directory):
    """One record of each kind, changed behind the broker's back."""
    with Broker(directory / "d") as broker, broker.client() as client:
        fill(client)
    row, steps = 1 << 32, 2 << 32
    db = sqlite3.connect(directory / "d" / "assay.db")
    for sql in (f"update row set n_tokens = n_tokens + 1 where row = {row + 3}",
                f"delete from row where row = {row + 5}",
                "update row_input set ids = zeroblob(length(ids)) where row = (select max(row) from row_input where row < 2 << 32)",
                f"update result set score = score + 1 where row = {row + 9}",
                f"delete from result where row = {row + 11}",
                f"update result set vector_json = '[1,2]' where row = {steps + 2}",
                f"update result set vector = x'{struct.pack('<3f', 1, 2, 3).hex()}' where row = {steps + 4}",
                f"update block set failed = 1 where block = {steps >> 6}",
                "update job set priority = 7 where job = 1", "update job set done = 1 where job = 3",
                "update piece set bytes = zeroblob(length(bytes)) where job = 4", "update chunk set pending = pending + 1 where job = 4",
                "insert into piece values (11, 0, 0, x'00')",
                "update chunk set n_rows = 9 where job = 3", f"update row set row = row + {8 << 32} where row = {steps + 7}"):
        db.execute(sql)
    db.commit()
    db.close()
    done = scrub(directory / "d", "--json")
    assert done.returncode == 65, done
    found = {(f["key"], f["i"], f["what"].split(" at ")[0].split(":")[0]) for f in json.loads(done.stdout)["damaged"]}
    wanted = {("sound", 3, "the row"), ("sound", 5, "the row"), ("sound", 9, "the result"), ("sound", None, "results"),
              ("steps", 2, "what SQL shows of its values"), ("steps", 4, "the result"), ("sound", None, "its record"),
              ("steps", None, "states of its rows and its counters do not agree, or are damaged"),
              ("refused", None, "its record"), ("gap", None, "rows of chunk 1, which waits"), ("gap", None, "the number of bytes of chunk 1, which waits"),
              (None, None, "chunks of job 11, which is not there"),
              ("steps", 7, "the row"), (None, None, "rows of job 10, which is not there"),
              ("refused", None, "expected 2 rows in its chunks, found 9")}
    assert wanted <= found, wanted - found
    assert {i for key, i, what in found if key == "sound" and what == "the row"} >= set(range(128, 150))
    text = scrub(directory / "d")
    assert text.returncode == 65 and "job 1 (sound), row 3: the row\n" in text.stdout and text.stdout.endswith(" damaged\n")


def test_what_cannot_be_read_is_said(directory):
    missing = scrub(directory / "none")
    assert missing.returncode == 66 and "assay.db" in missing.stderr
    with Broker(directory / "d") as broker, broker.client() as client:
        fill(client)
    path = directory / "d" / "assay.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    assert scrub(directory / "d").returncode == 65
    path.write_bytes(b"no database" * 1000)
    text = scrub(directory / "d")
    assert text.returncode == 65 and "nothing can be read: " in text.stdout and text.stdout.endswith(" 1 damaged\n"), text.stdout


@pytest.mark.parametrize("options", [[], ["--no-dedupe"]])
def test_a_broker_serves_the_rest(directory, options):
    """Damaged rows that are queued, and damaged results: errors of theirs, the others as ever; what can be computed again is."""
    rows = [{"ids": [k % 97 + 1] * (3 + k % 9), "id": k} for k in range(300)]
    with Broker(directory / "d", options=options) as broker, broker.client() as client:
        client.submit("first", rows[:100])
        whole = {row["i"]: row for row in client.results("first")}
        client.call("submit", key="held-back", chunk=1, rows=rows[:5], seal=True)
        client.call("submit", key="queued", chunk=0, rows=rows, seal=True, priority=-5)
    with sqlite3.connect(directory / "d" / "assay.db") as db:
        job = db.execute("select job from job where key = 'queued'").fetchone()[0] << 32
        db.execute(f"delete from result where row between {job} and {job + 299}")
        db.execute(f"update job set done = 0, finished_ms = null where job = {job >> 32}")
        db.execute(f"delete from result where row = {(1 << 32) + 30}")
        db.execute(f"update row set n_values = 3 where row = {job + 7}")
        db.execute(f"delete from row where row = {job + 8}")
        db.execute(f"update row_input set ids = zeroblob(length(ids)) where row = {job + 256}")
        db.execute(f"update result set score = score + 1 where row = {(1 << 32) + 20}")
        db.execute("update piece set bytes = zeroblob(length(bytes))")
    db.close()
    with Broker(directory / "d", options=options) as broker, broker.client() as client:
        got = {row["i"]: row for row in client.results("queued")}
        damaged = {i for i, row in got.items() if row["error"] and row["error"]["code"] == "damaged"}
        assert len(got) == 300 and {7, 8} <= damaged <= {7, 8} | set(range(256, 300)) and len(damaged) > 2
        assert all(got[i]["score"] == whole[i]["score"] for i in range(100) if i not in damaged)
        with pytest.raises(Refused, match="internal: .* missing"):  # and is computed again
            client.results("first")
        first = wait_until(lambda: served(client, "first"))
        assert [(row["i"], row["error"]["code"]) for row in first if row["error"]] == [(20, "damaged")]
        assert sorted(row["i"] for row in first) == list(range(100))
        assert client.call("retry", job="queued")["kept"] == len(damaged)
        assert client.call("retry", job="first")["retried"] == 1
        assert {row["i"]: row["score"] for row in client.results("first")} == {i: row["score"] for i, row in whole.items()}
        client.submit("held-back", rows[:4], chunk=0, seal=False)
        codes = [row["error"] and row["error"]["code"] for row in client.results("held-back")]
        assert codes.count("damaged") == 5 and codes.count(None) == 4


def test_a_damaged_job_is_listed_by_the_state_that_it_shows(directory):
    """Finished or not, beside jobs that were paused by somebody: each list of a state, read in pages, has those that `jobs` shows in it."""
    with Broker(directory / "d") as broker, broker.client() as client:
        for key in "abcdefg":
            client.submit(key, [{"ids": [1, 2, 3]}], seal=key not in "cf")
        for key in "abdeg":
            client.results(key)
        for key in "bc":
            client.call("pause", job=key)
    with sqlite3.connect(directory / "d" / "assay.db") as db:
        db.execute("update job set priority = 7 where key in ('b', 'd', 'e', 'f')")
    db.close()
    with Broker(directory / "d") as broker, broker.client() as client:
        shown = {job["key"]: job["state"] for job in client.call("jobs")["jobs"]}
        assert shown == {"a": "done", "b": "paused", "c": "paused", "d": "paused", "e": "paused", "f": "paused", "g": "done"}
        for state in ("open", "queued", "running", "paused", "done", "cancelled"):
            keys, after = [], 0
            while page := client.call("jobs", state=state, after=after, limit=2):
                keys += [job["key"] for job in page["jobs"]]
                after = page["next"]
                if not page["jobs"]:
                    break
            assert keys == [key for key in shown if shown[key] == state], state


def flip_a_bit(wal):
    with open(wal, "r+b") as file:
        file.seek(wal.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 16]))


def lose_and_touch(wal):
    """As `cp -r` may leave the times."""
    wal.unlink()
    wal.with_name("assay.db").touch()


def empty_and_touch(wal):
    os.truncate(wal, 0)
    wal.with_name("assay.db").touch()


@pytest.mark.parametrize("damage", [flip_a_bit, lambda wal: os.truncate(wal, wal.stat().st_size // 2), lambda wal: wal.unlink(),
                                    lose_and_touch, empty_and_touch])
def test_acknowledged_work_is_not_missing_in_silence(directory, damage):
    """Of a log that was synced, SQLite takes what is before the damage."""
    rows = [{"ids": [k + 1] * 40} for k in range(100)]
    broker = Broker(directory / "d").start()
    with broker.client() as client:
        client.submit("k", rows[:1], seal=False)
        client.call("pause", job="k")
        for chunk in range(1, 21):
            client.submit("k", rows, chunk=chunk, seal=False)
    broker.kill9()
    wal, whole = broker.data / "assay.db-wal", directory / "whole"
    shutil.copy(wal, whole)
    damage(wal)
    for _ in range(2):
        done = subprocess.run(broker.command, capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == 78 and "assay.db-wal: expected the " in done.stderr and "`synced`" in done.stderr, done
        done = scrub(broker.data)
        assert done.returncode == 65 and "assay.db-wal: expected the " in done.stdout, done
    shutil.copy(whole, wal)
    with broker, broker.client() as client:
        assert client.call("status", job="k")["accepted"] == 2001


def test_a_log_that_another_program_brought_over_is_not_missed(directory):
    """Who opens the database to write and closes it last copies the log into it and deletes it."""
    broker = Broker(directory / "d").start()
    with broker.client() as client:
        client.submit("k", [{"ids": [k + 1] * 40} for k in range(300)], seal=False)
    broker.kill9()
    with contextlib.closing(sqlite3.connect(broker.data / "assay.db")) as db:
        db.execute("select 1 from jobs").fetchall()
    assert not (broker.data / "assay.db-wal").exists()
    os.utime(broker.data / "assay.db", (1, 1))
    assert scrub(broker.data).returncode == 0
    with broker, broker.client() as client:
        assert client.call("status", job="k")["accepted"] == 300


def varint(data, at):
    value = 0
    while True:
        value = value << 7 | data[at] & 127
        at += 1
        if data[at - 1] < 128:
            return value, at


def result_cells(data):
    """Where in the file the results of job 1 are: of each the byte that says its job is 1, and where its row's number ends."""
    for page in range(0, len(data), 8192):
        if data[page] != 10:  # a leaf of what has a key
            continue
        for k in range(int.from_bytes(data[page + 3:page + 5], "big")):
            cell = page + int.from_bytes(data[page + 8 + 2 * k:page + 10 + 2 * k], "big")
            _, head = varint(data, cell)
            size, at = varint(data, head)
            types = []
            while at < head + size:
                kind, at = varint(data, at)
                types.append(kind)
            if len(types) == 12 and types[0] == 9 and types[2] in (5, 6):  # 9: the number 1; 5, 6: six and eight bytes
                yield head + 1, head + size + {9: 0, 1: 1, 2: 2}[types[1]] + {5: 6, 6: 8}[types[2]] - 1


@pytest.mark.parametrize("what", ["job", "row"])
def test_done_means_that_each_row_was_given(directory, what):
    """A bit flips in a result's job, and it would be nobody's; or in its row, and another one would come twice."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("k", [{"ids": [k % 300 + 1] * (3 + k % 9)} for k in range(189)])
        whole = {row["i"]: row["score"] for row in client.results("k")}
    path = directory / "d" / "assay.db"
    data = bytearray(path.read_bytes())
    cells = list(result_cells(data))
    assert len(cells) > 100
    job, row = cells[len(cells) // 2]
    data[job if what == "job" else row] ^= 1 if what == "job" else 8
    path.write_bytes(data)
    assert scrub(directory / "d").returncode == 65
    with Broker(directory / "d") as broker, broker.client() as client:
        rows = wait_until(lambda: served(client, "k"))
        assert sorted(row["i"] for row in rows) == list(range(189))
        damaged = [row["i"] for row in rows if row["error"]]
        assert len(damaged) == (0 if what == "job" else 1)
        assert all(row["score"] == whole[row["i"]] for row in rows if row["i"] not in damaged)
        if damaged:
            client.call("retry", job="k")
            rows = wait_until(lambda: served(client, "k"))
            assert {row["i"]: row["score"] for row in rows} == whole and len(rows) == 189
