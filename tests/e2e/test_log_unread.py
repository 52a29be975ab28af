"""A stderr that takes no more: a pipe or a socket that nobody reads, a terminal that Ctrl-S has stopped. Broker and ranks
lose lines of their log, and count them; they never wait."""
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import time
import tty

import pytest

from harness import BIN, PATIENCE, Broker, wait_until

LINE = json.dumps({"id": "a", "input_ids": [15, 11, 42, 7]}) + "\n"


def fill(fd):
    """Write until no more goes in, without setting O_NONBLOCK on what the broker gets."""
    mine = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        try:
            while True:
                os.write(mine, b"." * (size - 1) + b"\n")
        except BlockingIOError:
            pass
    os.close(mine)


class Pipe:
    def __init__(self):
        self.reader, self.writer = os.pipe()

    def stop(self):
        fill(self.writer)

    def go_on(self):
        pass


class Terminal:
    def __init__(self):
        self.reader, self.writer = pty.openpty()
        tty.setraw(self.writer)

    def stop(self):
        termios.tcflow(self.writer, termios.TCOOFF)

    def go_on(self):
        termios.tcflow(self.writer, termios.TCOON)


class Socket:
    """What a service manager gives its services."""

    def __init__(self):
        self.ends = socket.socketpair()
        self.reader, self.writer = (end.fileno() for end in self.ends)

    def stop(self):
        try:
            while True:
                self.ends[1].send(b"." * 1023 + b"\n", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def go_on(self):
        pass


def read_all(fd):
    """What is there, until nothing came for a moment."""
    text = b""
    while select.select([fd], [], [], 0.5)[0]:
        text += os.read(fd, 1 << 16)
    return text.decode(errors="replace")


def score(broker):
    run = subprocess.run([BIN / "assay", "score", "--data", broker.data, "--timeout", str(5 * int(PATIENCE))],
                         input=LINE, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)["score"]


def kill_a_rank(broker):
    """Kill one of two; both are there anew."""
    old = set(wait_until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids(), 60))
    os.kill(min(old), signal.SIGKILL)
    wait_until(lambda: len(set(broker.worker_pids()) - old) == 2, 60)


@pytest.mark.parametrize("kind", [Pipe, Terminal, Socket])
def test_a_log_that_nobody_reads_stops_nothing(directory, kind):
    sink = kind()
    with Broker(directory, options=["--log-level", "debug", "--tp", "2"], stderr=sink.writer) as broker:
        before = score(broker)
        read_all(sink.reader)
        sink.stop()
        for _ in range(2):
            kill_a_rank(broker)
            assert score(broker) == before
        assert not fcntl.fcntl(sink.writer, fcntl.F_GETFL) & os.O_NONBLOCK

        read_all(sink.reader)
        sink.go_on()
        words = ""

        def told():
            nonlocal words
            words += read_all(sink.reader)
            return "event=log_lines_lost n=" in words

        kill_a_rank(broker)
        wait_until(told, 60)
        assert all(line[:1] in ("2", ".", "") for line in words.splitlines()), words  # none begins within another
        sink.stop()
        assert broker.stop() == 0


def test_the_last_words_wait_no_longer_than_a_moment(directory):
    """A broker that cannot start has one line to say."""
    sink = Pipe()
    sink.stop()
    start = time.monotonic()
    process = subprocess.Popen([BIN / "assayd", "--model", directory, "--data", directory / "data"], stderr=sink.writer)
    assert process.wait(30 * PATIENCE) == 78
    assert time.monotonic() - start < 10 * PATIENCE
