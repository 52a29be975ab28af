"""What a command says where it cannot give all: of a job that is not finished, cancelled or kept from going on, and when it
is stopped itself."""
import json
import os
import pty
import re
import signal
import subprocess
import termios
import tty

import pytest
from harness import BIN, PATIENCE, Broker, wait_until

ASSAY = str(BIN / "assay")
ROWS = [{"id": n, "ids": [n % 250, n // 250] * 100} for n in range(800)]


def start(*args, **options):
    return subprocess.Popen([ASSAY, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            text=True, **options)


def run(*args):
    return subprocess.run([ASSAY, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120 * PATIENCE)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("u") / "d", options=["--max-batch-tokens", 512, "--hang-ms", 600000]) as running:
        yield running


@pytest.fixture
def stopped(broker):
    """The broker, while its worker computes nothing."""
    pids = wait_until(broker.worker_pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield broker
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def submitted(broker, key, rows=ROWS, **fields):
    with broker.client() as client:
        client.submit(key, rows, **fields)
    return key, "--data", broker.data


def test_results_of_a_job_that_is_not_finished(broker):
    """`assay results > file` is no success while rows are missing."""
    with broker.client() as client:
        job = submitted(broker, "running")
        wait_until(lambda: client.call("status", job="running")["done"] > 0)
        client.call("pause", job="running")
        wait_until(lambda: client.call("status", job="running")["running"] == 0)
        done = client.call("status", job="running")["done"]
        found = run("results", *job)
        assert len(found.stdout.splitlines()) == done < len(ROWS) and found.returncode == 75
        assert f"is not finished (paused): {done} of {len(ROWS)} rows are" in found.stderr and "--follow" in found.stderr
        client.call("resume", job="running")
        assert run("wait", *job).returncode == 0
        found = run("results", *job)
        assert len(found.stdout.splitlines()) == len(ROWS) and (found.returncode, found.stderr) == (0, "")


def test_results_of_an_open_job(broker):
    with broker.client() as client:
        job = submitted(broker, "open", ROWS[:5], seal=False)
        wait_until(lambda: client.call("status", job="open")["done"] == 5)
        found = run("results", *job)
        assert len(found.stdout.splitlines()) == 5 and found.returncode == 75
        assert "is not finished (open): 5 of at least 5 rows are" in found.stderr


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_results_of_a_job_that_is_cancelled(broker, options):
    key = f"cancelled{len(options)}"
    with broker.client() as client:
        job = submitted(broker, key)
        follow = start("results", *job, *options) if options else None
        wait_until(lambda: client.call("status", job=key)["done"] > 100)
        client.call("cancel", job=key)
        status = client.call("status", job=key)
        out, words = follow.communicate(timeout=60 * PATIENCE) if follow else (None, None)
        if not follow:
            follow = run("results", *job)
            out, words = follow.stdout, follow.stderr
        assert len(out.splitlines()) == status["done"] < len(ROWS)
        assert f"was cancelled with {status['cancelled']} rows unfinished" in words and follow.returncode == 1
        assert status["cancelled"] == len(ROWS) - status["done"]


def test_follow_says_what_blocks_a_job(stopped):
    with stopped.client() as client:
        job = submitted(stopped, "paused", ROWS[:20])
        client.call("pause", job="paused")
        follow = start("results", *job, "--follow")
        assert "waiting: job 'paused' is paused; `assay resume" in follow.stderr.readline()
        os.kill(stopped.worker_pids()[0], signal.SIGCONT)
        client.call("resume", job="paused")
        out, words = follow.communicate(timeout=60 * PATIENCE)
        assert len(out.splitlines()) == 20 and follow.returncode == 0, words


def test_follow_says_that_a_job_is_held(directory):
    with Broker(directory / "d") as broker:
        os.kill(wait_until(broker.worker_pids)[0], signal.SIGSTOP)
        job = submitted(broker, "held", ROWS[:20])
        broker.kill9()
    with Broker(directory / "d", options=["--quant", "int8"]) as broker:
        follow = start("results", *job, "--follow")
        line = follow.stderr.readline()
        assert "waiting: job 'held' is held:" in line and "--accept-mode" in line, line
        assert run("resume", *job, "--accept-mode").returncode == 0
        out, words = follow.communicate(timeout=60 * PATIENCE)
        assert len(out.splitlines()) == 20 and follow.returncode == 0, words


def test_submit_says_what_blocks_its_job(directory):
    """Of a job that was there already: it is paused, held, or finished under another mode."""
    rows, more = directory / "rows.jsonl", directory / "more.jsonl"
    lines = [json.dumps({"id": row["id"], "input_ids": row["ids"]}) + "\n" for row in ROWS]
    rows.write_text("".join(lines[:20]))
    more.write_text("".join(lines[:21]))
    data = ("--data", directory / "d")
    with Broker(directory / "d") as broker, broker.client() as client:
        assert run("submit", rows, "--key", "over", *data).stderr == ""
        assert run("wait", "over", *data).returncode == 0
        os.kill(wait_until(broker.worker_pids)[0], signal.SIGSTOP)
        client.call("pause", job=client.submit("open", [{"ids": [1]}], seal=False)["job"])
        assert run("submit", rows, "--key", "waits", *data).stderr == ""
        client.call("pause", job="waits")
        done = run("submit", rows, "--key", "waits", *data)
        assert done.returncode == 0 and "job 'waits' is paused; `assay resume waits` lets it go on" in done.stderr, done
        broker.kill9()
    with Broker(directory / "d", options=["--quant", "int8"]):
        done = run("submit", rows, "--key", "waits", *data)
        assert done.returncode == 0 and "20 rows accepted" in done.stdout, done
        assert "job 'waits' is held, and its rows are not scored: " in done.stderr and "quant=int8" in done.stderr, done
        assert "`assay resume waits --accept-mode` goes on all the same, another key begins anew" in done.stderr, done
        done = run("submit", rows, "--key", "over", *data)
        assert done.returncode == 0 and "job 'over' was there already: it is finished, and was made with checkpoint " in done.stderr, done
        done = run("submit", rows, "--key", "open", *data)  # a chunk that it does not have
        assert done.returncode == 65 and "key_reused" in done.stderr, done


def test_score_says_what_blocks_its_job(stopped, directory):
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": row["id"], "input_ids": row["ids"]}) + "\n" for row in ROWS[:20]))
    with stopped.client() as client:
        process = start("score", path, "-o", directory / "out.jsonl", "--key", "scored", "--data", stopped.data)
        wait_until(lambda: any(job["key"] == "scored" and job["total"] == 20 for job in client.call("jobs")["jobs"]))
        client.call("pause", job="scored")
        assert "waiting: job 'scored' is paused" in process.stderr.readline()
        os.kill(stopped.worker_pids()[0], signal.SIGCONT)
        client.call("resume", job="scored")
        assert process.wait(60 * PATIENCE) == 0
    assert len((directory / "out.jsonl").read_text().splitlines()) == 20


# ---- verify ----

def verifications(client):
    return [job["key"] for job in client.call("jobs")["jobs"] if job["key"].startswith("verify-")]


def test_verify_that_is_stopped_leaves_nothing(broker):
    """It says how far it came, and what came of that."""
    with broker.client() as client:
        job = submitted(broker, "verified")
        assert run("wait", *job).returncode == 0
        process = start("verify", *job, "--sample", len(ROWS))
        wait_until(lambda: any(key.endswith("-1") for key in verifications(client)))
        worker = broker.worker_pids()[0]
        os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        out, words = process.communicate(timeout=60 * PATIENCE)
        os.kill(worker, signal.SIGCONT)
        assert process.returncode == 143
        compared = int(words.split("stopped after ")[1].split(f" of {len(ROWS)} rows")[0])
        assert 256 <= compared < len(ROWS) and f"{compared} rows scored again, {compared} equal in every bit, 0 not" in out, (out, words)
        wait_until(lambda: not verifications(client))


def test_verify_says_what_blocks_it(broker):
    with broker.client() as client:
        job = submitted(broker, "verified too", ROWS[:20])
        assert run("wait", *job).returncode == 0
        worker = broker.worker_pids()[0]
        os.kill(worker, signal.SIGSTOP)
        process = start("verify", *job, "--timeout", 3 * int(PATIENCE))
        key = wait_until(lambda: verifications(client))[0]
        client.call("pause", job=key)
        assert f"waiting: job '{key}' is paused" in process.stderr.readline()
        os.kill(worker, signal.SIGCONT)
        client.call("resume", job=key)
        out, words = process.communicate(timeout=60 * PATIENCE)
        assert process.returncode == 0 and "20 rows scored again, 20 equal" in out, words
        assert not verifications(client)


# ---- a terminal that is stopped ----

def catches(pid, number):
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", open(f"/proc/{pid}/status").read())
    return int(caught.group(1), 16) >> (number - 1) & 1


@pytest.mark.parametrize("command", [["wait"], ["results", "--follow"], ["status", "--watch"], ["top"]])
def test_a_signal_ends_a_command_whose_terminal_is_stopped(stopped, command):
    """Ctrl-S lets it wait, but not once it is told to end."""
    main, terminal = pty.openpty()
    tty.setraw(terminal)
    key = "shown-" + command[0]
    job = submitted(stopped, key, ROWS[:3])
    arguments = [command[0], *job, *command[1:]] if command[0] != "top" else ["top", *job[1:]]
    process = subprocess.Popen([ASSAY, *map(str, arguments)], stdin=terminal, stdout=terminal, stderr=terminal)
    if command[0] != "results":
        os.read(main, 1)
    termios.tcflow(terminal, termios.TCOOFF)
    with stopped.client() as client:
        client.call("pause", job=key)  # something to tell
        if command[0] != "top":
            wait_until(lambda: "wait_woken" in open(f"/proc/{process.pid}/wchan").read() or command[0] == "results", 10)
    wait_until(lambda: catches(process.pid, signal.SIGTERM), 10)
    process.terminate()
    assert process.wait(20 * PATIENCE) == 143
    os.close(main)
    os.close(terminal)
