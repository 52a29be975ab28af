"""assay-worker itself: its options, its exit codes, and what it does with a terminal's signals."""
import json
import os
import signal
import subprocess
import time

import pytest
from harness import BIN, DEMO, PATIENCE, Broker, wait_until

WORKER = BIN / "assay-worker"
HANDED_OVER = ["--control", "ipc:///nowhere", "--input-fd", "0", "--output-fd", "0"]


def run(*args):
    return subprocess.run([WORKER, *map(str, args)], capture_output=True, text=True, timeout=60 * PATIENCE,
                          stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments, code, word", [
    ([], 64, "--model"),
    (["--model"], 64, "--help"),
    (["--nonsense"], 64, "nonsense"),
    (["--model", DEMO, "left over"], 64, "left over"),
    (["--model", DEMO], 64, "assayd"),
    (["--model", DEMO, "--rank", "x"], 64, "--rank"),
    (["--model", DEMO, "--rank", "-1"], 64, "--rank"),
    (["--model", DEMO, "--threads", "4294967297"], 64, "--threads"),
    (["--describe", "--model", DEMO, "--log-level", "loud"], 64, "loud"),
    (["--describe", "--model", "/nowhere"], 78, "/nowhere"),
    (["--describe", "--model", DEMO, "--tp", "3"], 78, "tp 3"),
    (["--describe", "--model", DEMO, "--tp", "0"], 78, "tp 0"),
    (["--model", DEMO, *HANDED_OVER, "--parent-fd", "999"], 69, "broker_gone"),
])
def test_bad_options_are_refused_by_name(arguments, code, word):
    done = run(*arguments)
    assert done.returncode == code and word in done.stderr and done.stdout == "", (done.returncode, done.stderr)


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0 and "Examples:" in done.stdout and "--describe" in done.stdout


def test_describe_is_one_line_of_json():
    done = run("--describe", "--model", DEMO)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["architecture"] == "Qwen2ForRewardModel"


def test_signals_of_a_terminal_leave_the_ranks_alone(directory):
    """Ctrl-C reaches every process of the terminal; the broker alone decides when a rank ends."""
    with Broker(directory / "d", options=["--tp", 2]) as broker, broker.client() as client:
        pids = wait_until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids())
        assert client.call("score", rows=[{"ids": [1, 2, 3]}])["ok"]
        for pid in pids:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        assert client.call("score", rows=[{"ids": [4, 5, 6]}])["ok"]
        assert sorted(broker.worker_pids()) == sorted(pids)


def test_how_busy_the_ranks_are(directory):
    """By SQL, for anybody: seconds of computing, of those since the rank was ready, as of its last batch."""
    with Broker(directory / "d", options=["--tp", 2, "--max-batch-tokens", 256]) as broker, broker.client() as client:
        def look():
            return broker.sql('select rank, busy_s, up_s, batches from workers order by rank')
        wait_until(lambda: [row[3] for row in look()] == [0, 0] and len(broker.worker_pids()) == 2)
        assert [row[1:3] for row in look()] == [(0, 0), (0, 0)]
        time.sleep(0.5)
        client.submit("k", [{"ids": [k % 400 + 1] * 64} for k in range(400)])
        assert len(client.results("k")) == 400
        rows = wait_until(lambda: (rows := look()) and rows[0][3] == 100 and rows)
        for _, busy, up, _ in rows:
            assert 0 < busy < up - 0.4 and up < 60 * PATIENCE, rows
        info = client.call("info")["workers"]
        assert [w["busy_us"] / 1e6 for w in info] == [row[1] for row in rows] and info[0]["up_us"] > info[0]["busy_us"]


@pytest.mark.parametrize("noise", ["head -c 3000000 /dev/zero | tr '\\0' x", "head -c 300000 /dev/zero | tr '\\0' x >&2"])
def test_a_worker_that_says_too_much(directory, noise):
    """More than a pipe holds, on either stream, while the broker asks for the model: an error, not a wait for ever."""
    worker = directory / "worker"
    worker.write_text(f"#!/bin/sh\n{noise}\nexit 3\n")
    worker.chmod(0o755)
    done = subprocess.run([BIN / "assayd", "--model", DEMO, "--data", directory / "d", "--worker", worker], capture_output=True, text=True,
                          timeout=30 * PATIENCE)
    assert done.returncode != 0 and done.stderr
