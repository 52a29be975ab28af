"""Starts that cannot succeed: they end, and everyone who waits hears why."""
import json
import os
import shutil
import signal
import struct
import subprocess
import time

import msgpack
import pytest
from harness import BIN, DEMO, PATIENCE, Broker, Refused, random_key, wait_until

ROW = '{"id": "a", "input_ids": [1, 2, 3]}\n'


def with_nan(to):
    """The demo with a weight that is not a number, in the head."""
    shutil.copytree(DEMO, to)
    data = bytearray((to / "model.safetensors").read_bytes())
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    at = 8 + n + header["score.2.bias"]["data_offsets"][0]
    data[at : at + 4] = struct.pack("<f", float("nan"))
    (to / "model.safetensors").write_bytes(data)
    return to


def worker_that(directory, does):
    """The real worker, but that a rank does something else: shell."""
    path = directory / "worker.sh"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--describe*) exec {BIN}/assay-worker "$@";; esac\n{does}\n')
    path.chmod(0o755)
    return path


def assay(*args):
    return subprocess.run([BIN / "assay", *map(str, args)], capture_output=True, text=True, timeout=90 * PATIENCE)


def test_nan_weights_end_a_score(directory):
    rows = directory / "rows.jsonl"
    rows.write_text(ROW)
    done = assay("score", rows, "-o", directory / "out", "--model", with_nan(directory / "m"))
    assert done.returncode == 78 and "finite" in done.stderr and "weights" in done.stderr, done


STARTS = [("exit 78", "exit code 78", 78), ("exec /nonexistent/library", "exit code 127", 78), ("kill -9 $$", "signal 9", 69)]


@pytest.mark.parametrize("does,words,code", STARTS, ids=[words.replace(" ", "-") for _, words, _ in STARTS])
def test_everyone_who_waits_hears_it(directory, does, words, code):
    go, tries = directory / "go", directory / "tries"
    waits = f"echo x >> {tries}; if [ $(wc -l < {tries}) -gt 2 ]; then while [ ! -e {go} ]; do sleep 0.05; done; fi"
    broker, key = Broker(directory / "d", worker=worker_that(directory, f"{waits}\n{does}")), random_key()
    with broker, broker.client() as client, broker.client() as other:
        client.submit(key, [{"ids": [1, 2, 3]}])
        waits = subprocess.Popen([BIN / "assay", "wait", key, "--data", broker.data, "--timeout", "1"], stderr=subprocess.PIPE, text=True)
        info = wait_until(lambda: (lambda reply: "failure" in reply and reply)(client.call("info")))
        assert info["state"] == "starting" and words in info["failure"]
        status = client.call("status", job=key)
        assert words in status["failure"] and status["state"] == "queued"
        assert words in assay("status", key, "--data", broker.data).stdout
        assert words in assay("top", "--data", broker.data).stdout
        go.touch()
        with pytest.raises(Refused) as refused:
            other.call("score", rows=[{"ids": [4]}], timeout_ms=80000, timeout=90)
        assert refused.value.code == "not_ready" and words in str(refused.value)
        assert broker.process.wait(60 * PATIENCE) == code
        last = broker.words().strip().splitlines()[-1]
        assert "event=failed" in last and words in last
        heard = waits.communicate(timeout=30 * PATIENCE)[1]
        assert waits.returncode != 0 and words in heard, heard


def test_who_waits_hears_that_the_checkpoint_is_gone(directory):
    """Also while what the broker has just written is not on the disk yet."""
    model = directory / "m"
    shutil.copytree(DEMO, model)
    broker = Broker(directory / "d", model=model, options=["--threads", 1])
    with broker, broker.client() as client, broker.client() as other:
        wait_until(lambda: client.call("info")["state"] == "ready")
        client.submit("open", None, chunk=1)  # chunk 0 is missing
        client.socket.send(msgpack.packb({"v": 1, "op": "results", "id": 1000, "job": "open", "wait_ms": 60000}))
        client.call("status", job="open")  # so the one before waits
        shutil.rmtree(model)
        os.kill(client.call("info")["workers"][0]["pid"], signal.SIGKILL)
        with pytest.raises(Refused) as refused:
            other.call("score", rows=[{"ids": [4]}], timeout_ms=60000)
        assert refused.value.code == "not_ready" and str(model) in str(refused.value)
        reply = client.receive()
        assert reply["id"] == 1000 and reply["err"]["code"] == "not_ready" and str(model) in reply["err"]["message"]
        assert broker.process.wait(30 * PATIENCE) == 78


def test_a_score_hears_it_while_it_waits_and_at_the_end(directory):
    rows = directory / "rows.jsonl"
    rows.write_text(ROW)
    done = assay("score", rows, "-o", directory / "out", "--model", DEMO, "--worker", worker_that(directory, "exit 74"))
    assert done.returncode not in (0, 1) and "exit code 74" in done.stderr and "GPU" in done.stderr, done
    assert len(done.stderr.splitlines()) >= 2, done.stderr  # once while it was tried again, once at the end


def test_a_group_that_cannot_start_ends_nothing_while_another_serves(directory):
    one = worker_that(directory, f'mkdir {directory}/lock 2>/dev/null && exec {BIN}/assay-worker "$@"\nsleep 0.1; exit 78')
    with Broker(directory / "d", worker=one, options=["--replicas", "2"]) as broker, broker.client() as client:
        info = wait_until(lambda: (lambda reply: reply["state"] == "ready" and max(w["restarts"] for w in reply["workers"]) > 3
                                   and reply)(client.call("info")))
        assert "exit code 78" in info["failure"]
        assert client.call("score", rows=[{"ids": [1, 2]}])["rows"][0]["error"] is None
        status = client.submit(random_key(), [{"ids": [3, 4]}])
        assert "failure" not in client.call("status", job=status["job"])


def test_a_start_that_succeeds_in_the_end(directory):
    tries = directory / "tries"
    late = worker_that(directory, f'echo x >> {tries}; [ $(wc -l < {tries}) -lt 3 ] && exit 74\nexec {BIN}/assay-worker "$@"')
    with Broker(directory / "d", worker=late) as broker, broker.client() as client:
        assert client.call("score", rows=[{"ids": [1, 2]}], timeout_ms=60000, timeout=70)["rows"][0]["error"] is None
        info = client.call("info")
        assert info["state"] == "ready" and "failure" not in info


def test_the_brokers_own_reason_reaches_the_score(directory):
    """A broker that ends at each start with an I/O error: here its database is a folder."""
    rows = directory / "rows.jsonl"
    rows.write_text(ROW)
    (directory / "work").mkdir(mode=0o700)
    (directory / "work/assay.db").mkdir()
    started = time.monotonic()
    done = assay("score", rows, "-o", directory / "out", "--data", directory / "work", "--model", DEMO)
    assert done.returncode not in (0, 1) and "assay.db" in done.stderr, (done, time.monotonic() - started)


# ---- what a parent leaves to its child ----

@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(directory, closed):
    """The numbers go to no file of the broker: its log would be written there, and its lock was taken for none."""
    data = directory / "d"
    command = f'exec "$0" --model {DEMO} --data {data} --threads 1 {closed}'
    process = subprocess.Popen(["sh", "-c", command, BIN / "assayd"])
    try:
        broker = Broker(data)
        with broker.client() as client:
            assert client.call("hello", timeout=60 * PATIENCE)["ok"]
            assert client.call("score", rows=[{"ids": [1, 2]}])["rows"][0]["error"] is None
        assert (data / "synced").stat().st_size == 64 and (data / "lock").read_text() == f"{process.pid}\n"
        for fd in (1, 2) if "2>" in closed else (0,):
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == "/"
    finally:
        process.terminate()
        assert process.wait(20 * PATIENCE) == 0


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_signals_of_the_parent(directory, how):
    """SIGCHLD that is ignored, signals that are blocked: inherited, and then nothing could be waited for, or ended."""
    rows = directory / "rows.jsonl"
    rows.write_text(ROW)
    numbers = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT]

    def inherit():
        if how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    done = subprocess.run([BIN / "assay", "score", rows, "--model", DEMO], preexec_fn=inherit, capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    assert done.returncode == 0 and json.loads(done.stdout)["error"] is None, done
    process = subprocess.Popen([BIN / "assay", "score", "-", "-o", directory / "out", "--model", DEMO], preexec_fn=inherit,
                               stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_until(lambda: (directory / "out.part").exists(), 30)
    process.terminate()
    assert process.wait(30 * PATIENCE) == 143
    process.stdin.close()
