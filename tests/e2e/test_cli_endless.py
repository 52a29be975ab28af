"""Inputs that take for ever to read: a signal ends the reading, whatever is read."""
import gzip
import os
import signal
import subprocess
import threading

import pytest
from harness import DEMO, PATIENCE, wait_until
from test_cli import ASSAY, write_rows
from test_cli_more import Terminal
from test_cli_outputs import HELLO, SilentBroker

READ = 32 << 20  # bytes, by which the input is being read
EMPTY_ZSTD = bytes.fromhex("28b52ffd2000010000")
PIPED = {
    "blank lines": (b"", b"\n" * 65536),
    "a line": (b'{"text": "', b"a" * 65536),
    "zeros behind gzip": (gzip.compress(b""), b"\0" * 65536),
    "empty members of gzip": (b"", gzip.compress(b"") * 4096),
    "empty frames of zstd": (b"", EMPTY_ZSTD * 8192),
}


def start(verb, directory, path):
    rest = ["--key", "k", "--data", directory] if verb == "submit" else ["-o", directory / "out", "--model", DEMO]
    return subprocess.Popen([ASSAY, verb, str(path), *map(str, rest)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup ignores it


def is_reading(process):
    """The private broker that is started before reads nothing as itself: the count is this process's."""
    with open(f"/proc/{process.pid}/io") as f:
        return int(f.readline().split()[1]) > READ


def pour(pipe, first, rest):
    try:
        pipe.write(first)
        while True:
            pipe.write(rest)
    except BrokenPipeError:
        pass


def check_end(process, how):
    wait_until(lambda: is_reading(process), 60)
    process.send_signal(how)
    try:
        assert process.wait(timeout=5 * PATIENCE) == 128 + how
    finally:
        process.kill()
        process.wait()
    words = process.stderr.read().decode()
    assert "stopped" in words and "Interrupted" not in words, words


@pytest.fixture(params=["score", "submit"])
def verb(request, directory):
    if request.param == "score":
        yield "score"
        return
    with SilentBroker(directory, hello=HELLO):
        yield "submit"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_file_without_a_newline(directory, verb, how):
    with open(directory / "sparse.jsonl", "w") as f:
        os.truncate(f.fileno(), 40 << 30)
    process = start(verb, directory, directory / "sparse.jsonl")
    check_end(process, how)


def test_a_device_without_an_end(directory, verb):
    check_end(start(verb, directory, "/dev/zero"), signal.SIGINT)


@pytest.mark.parametrize("what", PIPED)
def test_a_pipe_without_a_row(directory, verb, what):
    process = start(verb, directory, "-")
    pouring = threading.Thread(target=pour, args=(process.stdin, *PIPED[what]))
    pouring.start()
    check_end(process, signal.SIGTERM)
    pouring.join()


def test_a_terminal_is_shown_how_many_rows_there_are(directory):
    """They are counted beside the reading."""
    rows = write_rows(directory / "in.jsonl", 3000)
    terminal = Terminal("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1")
    assert terminal.end() == 0
    assert b"/3000 rows" in terminal.bytes
