"""A broker that is there and does not answer: stopped, without room for a connection, ended by a signal."""
import os
import resource
import signal
import time

import pytest
from harness import DEMO, PATIENCE, Broker, wait_until
from test_cli import read_lines, rows_done, run, write_rows
from test_cli_outputs import start

STEPS = ["--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024"]


@pytest.fixture
def rows(directory):
    return write_rows(directory / "in.jsonl", 2500, low=200, high=300)


def has_begun(directory):
    return wait_until(lambda: rows_done(directory / "out.assay/assay.db") > 0, 60)


def broker_of(directory):
    return int((directory / "out.assay/lock").read_text())


def is_there(pid):
    """Not as a zombie, which whoever adopts orphans here may leave."""
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stopped_private_broker_is_given_up(directory, rows):
    process = start("score", rows, "-o", directory / "out", *STEPS, "--timeout", "3")
    has_begun(directory)
    os.kill(broker := broker_of(directory), signal.SIGSTOP)
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 69 and "nothing heard for 3 s" in words and "it is stopped" in words, words
    assert "out.assay/assayd.log" in words and (directory / "out.assay/assayd.log").exists()
    assert "start one with" not in words and "goes on from there" in words
    wait_until(lambda: not is_there(broker))
    write_rows(rows, 20)
    assert run("score", rows, "-o", directory / "out", *STEPS).returncode == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_private_broker_is_no_reason_to_stay(directory, rows, how):
    process = start("score", rows, "-o", directory / "out", *STEPS, "--timeout", "3600")
    has_begun(directory)
    os.kill(broker := broker_of(directory), signal.SIGSTOP)
    process.send_signal(how)
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 128 + how and "stopped" in words, words
    wait_until(lambda: not is_there(broker))


def test_a_private_broker_that_could_hear_nobody(directory):
    """It would have no descriptor for a connection."""
    rows = write_rows(directory / "in.jsonl", 20)
    process = start("score", rows, "-o", directory / "out", *STEPS, "--timeout", "2",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 74 and "ulimit -n" in words and "assayd.log" in words, words
    assert (directory / "out.assay/assayd.log").exists()


def test_a_pause_of_all_is_no_silence(directory):
    """Ctrl-Z stops the broker with the client; what then passes is nobody's."""
    rows = write_rows(directory / "in.jsonl", 300, low=200, high=300)
    process = start("score", rows, "-o", directory / "out", *STEPS, "--timeout", "3", start_new_session=True)
    has_begun(directory)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGCONT)
    words = process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 0, words
    assert len(read_lines(directory / "out")) == 300


def test_verify_has_no_more_patience_than_asked_for(directory):
    rows = write_rows(directory / "in.jsonl", 5)
    with Broker(directory / "d") as broker:
        data = ["--data", broker.data]
        assert run("submit", rows, "--key", "k", *data).returncode == 0 and run("wait", "k", *data).returncode == 0
        assert run("verify", "k", *data, "--timeout", "1").returncode in (0, 69)  # 69: the machine is slow
        broker.process.send_signal(signal.SIGSTOP)
        done = run("verify", "k", *data, "--timeout", "1")
        broker.process.send_signal(signal.SIGCONT)
    assert done.returncode == 69 and "(waited 1 s)" in done.stderr, done.stderr


def test_the_limit_that_ends_a_broker_is_named(directory):
    """And no line of its log that has nothing to do with it."""
    rows = write_rows(directory / "in.jsonl", 20)
    done = run("score", rows, "-o", directory / "out", *STEPS,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
    assert done.returncode == 74 and "exit code 74" in done.stderr and "ulimit -f" in done.stderr, done.stderr
    assert "event=listening" not in done.stderr and "event=" not in done.stderr.split("its log")[0], done.stderr
    assert (directory / "out.assay/assayd.log").exists()
