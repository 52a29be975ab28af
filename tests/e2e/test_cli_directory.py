"""The directory in which a run keeps its work: whose broker it asks, who else may use it, and what is removed at the end."""
import fcntl
import os
import signal
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, Broker, wait_until
from test_cli import read_lines, rows_done, run, write_rows
from test_cli_outputs import start


def score(rows, output, *more, model=DEMO, **options):
    return run("score", rows, "-o", output, "--model", model, "--threads", "1", *more, **options)


@pytest.fixture
def rows(directory):
    return write_rows(directory / "in.jsonl", 20)


def private_pid(data):
    """The broker that a run has started there, once it listens."""
    wait_until(lambda: list(data.glob("broker.sock.*")), 60)
    return int((data / "lock").read_text())


def kill_private(data):
    """Kills it; returns once the directory is free."""
    os.kill(private_pid(data), signal.SIGKILL)
    with open(data / "lock") as lock:
        wait_until(lambda: not locked(lock))


def locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


# ---- whose broker ----

@pytest.mark.parametrize("more", [[], ["--quant", "int8"], ["--head", "lm:1,2:softmax"]], ids=lambda more: " ".join(more) or "plain")
@pytest.mark.parametrize("name", ["d", "out.assay"])
def test_a_service_has_the_directory(directory, rows, name, more):
    """Its scores are of another model, or of other options: none of them is this run's."""
    named = [] if name == "out.assay" else ["--data", directory / name]
    with Broker(directory / name, model=MODELS / "reward") as broker:
        for model in (MODELS / "seqcls", directory / "nonexistent"):
            done = score(rows, directory / "out", "--force", *named, *more, model=model)
            assert done.returncode == 75 and f"a broker (process {broker.process.pid}) runs on" in done.stderr, done.stderr
            assert "--model" in done.stderr and "--data" in done.stderr and not (directory / "out").exists()
        assert broker.sql("select count(*) from jobs") == [(0,)]
        assert run("score", rows, "-o", directory / "out", "--data", broker.data).returncode == 0


def test_a_service_takes_the_directory_over(directory):
    """The run's broker dies, and a service is started there before the run sees it."""
    rows, data = write_rows(directory / "in.jsonl", 1500, low=100, high=300), directory / "d"
    process = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1", "--data", data)
    wait_until(lambda: rows_done(data / "assay.db") > 0, 60)
    process.send_signal(signal.SIGSTOP)
    kill_private(data)
    with Broker(data, model=MODELS / "reward") as broker:
        process.send_signal(signal.SIGCONT)
        words = process.communicate(timeout=60 * PATIENCE)[1]
        assert process.returncode == 75 and f"a broker (process {broker.process.pid}) runs on" in words, words
        assert not (directory / "out").exists()


def test_nobody_else_gives_work_to_a_run_s_broker(directory):
    """It would be deleted with the directory."""
    rows, more = write_rows(directory / "in.jsonl", 1500, low=100, high=300), write_rows(directory / "more.jsonl", 5)
    process = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1")
    data = directory / "out.assay"
    private_pid(data)
    done = run("submit", more, "--key", "monday", "--data", data, "--timeout", "2")
    assert done.returncode == 69, done
    words = process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 0 and len(read_lines(directory / "out")) == 1500 and not data.exists(), words


# ---- what is removed ----

@pytest.mark.parametrize("name", ["notes.txt", "assay.db.mine", "folder"])
def test_files_of_the_user_s_stay(directory, rows, name):
    assert score(rows, directory / "out", "--keep-data").returncode == 0
    data = directory / "out.assay"
    if name == "folder":
        (data / name).mkdir()
    else:
        (data / name).write_text("mine\n")
    for _ in range(2):
        done = score(rows, directory / "out", "--force")
        assert done.returncode == 0 and f"because of '{name}'" in done.stderr, done.stderr
        assert {path.name for path in data.iterdir()} == {name, "score.lock"}
    (data / name).rmdir() if name == "folder" else (data / name).unlink()
    done = score(rows, directory / "out", "--force")
    assert done.returncode == 0 and done.stderr == "" and not data.exists()


def test_work_that_a_service_took_there_stays(directory):
    """It came and went while the run could not see it."""
    rows, data = write_rows(directory / "in.jsonl", 1500, low=100, high=300), directory / "out.assay"
    more = write_rows(directory / "more.jsonl", 5)
    process = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1")
    wait_until(lambda: rows_done(data / "assay.db") > 0, 60)
    process.send_signal(signal.SIGSTOP)
    kill_private(data)
    with Broker(data) as broker:
        assert run("submit", more, "--key", "monday", "--data", data).returncode == 0
    process.send_signal(signal.SIGCONT)
    words = process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 0 and len(read_lines(directory / "out")) == 1500, words
    assert broker.sql("select count(*) from jobs where key = 'monday'") == [(1,)]


# ---- names ----

def test_names_that_begin_with_at(directory):
    """ZeroMQ takes them for abstract sockets, which are no files."""
    write_rows(directory / "in.jsonl", 5)
    for more in (["-o", "@abs"], ["-o", "out", "--data", "@d"]):
        done = run("score", "in.jsonl", "--model", DEMO, "--threads", "1", *more, cwd=directory)
        assert done.returncode == 0 and len(read_lines(directory / more[1])) == 5, done.stderr
    with Broker(directory / "@e") as broker:
        assert run("jobs", "--data", "@e", cwd=directory).returncode == 0
        broker.stop()
    process = subprocess.Popen([BIN / "assayd", "--model", DEMO, "--data", "@e", "--exit-with-parent"], cwd=directory, stderr=subprocess.DEVNULL)
    wait_until(lambda: run("jobs", "--data", "@e", "--timeout", "1", cwd=directory).returncode == 0, 60)
    process.terminate()
    assert process.wait(timeout=30 * PATIENCE) == 0


@pytest.mark.parametrize("verb", [("jobs",), ("submit", "in.jsonl", "--key", "k"), ("score", "in.jsonl"), ("top",)])
def test_control_characters_are_told_at_once(directory, verb):
    write_rows(directory / "in.jsonl", 5)
    done = run(*verb, "--data", "a\nb", "--timeout", "30", timeout=20, cwd=directory)
    assert done.returncode == 78 and "control character" in done.stderr and "\n" not in done.stderr[:-1], done


def test_a_log_that_is_a_pipe(directory):
    """Nobody reads it, so to open it waited for ever; no signal ended that."""
    data, rows = directory / "d", directory / "rows.jsonl"
    data.mkdir(mode=0o700)
    os.mkfifo(data / "assayd.log")
    rows.write_text('{"input_ids": [1, 2]}\n')
    done = run("score", rows, "-o", directory / "out", "--model", MODELS / "seqcls", "--data", data)
    assert done.returncode == 74 and "assayd.log: " in done.stderr, done.stderr
    assert not (directory / "out").exists() and (data / "assayd.log").is_fifo()
