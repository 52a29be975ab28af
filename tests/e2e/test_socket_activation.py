"""assay-http with a socket that somebody else has opened: systemd's protocol, by systemd-socket-activate and by hand."""
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, Broker, wait_until

BODY = b'{"prompt": "3 + 4 = ?", "response": "7"}'
ROW = b"POST /rm HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("d"), model=MODELS / "demo-reward") as running:
        with running.client() as client:
            wait_until(lambda: client.call("info")["workers"][0]["state"] == "ready")
        yield running


def listening(address="127.0.0.1", family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.bind((address, 0))
    s.listen(16)
    return s


def start(path, broker, descriptors, options=(), fds=None, pid="$$"):
    """With these as descriptors 3 and on, and LISTEN_PID its own number, which only the child knows."""
    moved = [os.dup(s.fileno()) for s in descriptors]
    places = range(3, 3 + len(moved))

    def place():
        high = [os.dup2(fd, 200 + k) for k, fd in enumerate(moved)]
        for fd, at in zip(high, places):
            os.dup2(fd, at)
            os.close(fd)

    command = f'LISTEN_PID={pid} exec "$0" "$@"'
    env = {**os.environ, "LISTEN_FDS": str(len(moved) if fds is None else fds)}
    with open(path, "wb") as log:
        process = subprocess.Popen(["sh", "-c", command, BIN / "assay-http", "--data", broker.data, *options], stderr=log, env=env, preexec_fn=place,
                                   close_fds=False)
    for fd in moved:
        os.close(fd)
    return process


def ask(port):
    """A connection that has sent a row."""
    s = socket.create_connection(("127.0.0.1", port), timeout=60 * PATIENCE)
    s.sendall(ROW)
    return s


def answer(s):
    reply = http.client.HTTPResponse(s)
    reply.begin()
    text = reply.read().decode()
    s.close()
    return reply.status, text


def test_clients_that_came_before_are_answered(tmp_path, broker):
    """Also while nobody is there between two starts."""
    with listening() as s:
        port, scores = s.getsockname()[1], set()
        for turn in range(3):
            early = [ask(port) for _ in range(3)]
            process = start(tmp_path / "log", broker, [s], ["--listen", "127.0.0.1:1"])
            try:
                for one in [*early, ask(port)]:
                    status, text = answer(one)
                    assert status == 200, text
                    scores.add(text)
                log = (tmp_path / "log").read_text()
                assert f"url=http://127.0.0.1:{port} " in log and "socket=inherited" in log and "127.0.0.1:1 " not in log
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30 * PATIENCE) == 0
        assert len(scores) == 1


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not there")
def test_systemds_own_activator(tmp_path, broker):
    with listening() as s:
        port = s.getsockname()[1]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", BIN / "assay-http", "--data", broker.data], stderr=log)
    try:
        words = lambda: (tmp_path / "log").read_text()
        wait_until(lambda: "Listening on" in words())
        assert "event=listening" not in words()
        assert answer(ask(port))[0] == 200
        assert re.search(rf"event=listening url=http://127.0.0.1:{port} .*socket=inherited", words())
    finally:
        process.terminate()
        assert process.wait(30 * PATIENCE) == 0


def refused(path, broker, descriptors, **more):
    process = start(path, broker, descriptors, **more)
    try:
        return process.wait(30 * PATIENCE), path.read_text()
    finally:
        process.kill()


def test_refusals(tmp_path, broker):
    path = tmp_path / "log"
    with listening() as s, listening() as other, listening("0.0.0.0") as everywhere, socket.socket() as silent, open(path.with_suffix(".txt"), "w") as file:
        code, words = refused(path, broker, [s, other])
        assert code == 64 and "LISTEN_FDS: expected one socket, found '2'" in words
        code, words = refused(path, broker, [file])
        assert code == 64 and "expected a TCP socket that listens as descriptor 3, found no socket" in words
        code, words = refused(path, broker, [silent])
        assert code == 64 and "found another socket" in words
        code, words = refused(path, broker, [everywhere])
        assert code == 78 and "LISTEN_FDS (the socket of systemd): expected an address of this machine alone" in words
        code, words = refused(path, broker, [s], fds="x")
        assert code == 64 and "found 'x'" in words


def test_what_is_meant_for_another_process_is_left_alone(tmp_path, broker):
    with listening() as s:
        process = start(tmp_path / "log", broker, [s], ["--listen", "127.0.0.1:0"], pid="1")
        try:
            found = wait_until(lambda: re.search(r"url=http://127.0.0.1:(\d+) ", (tmp_path / "log").read_text()))
            assert int(found.group(1)) != s.getsockname()[1] and "inherited" not in (tmp_path / "log").read_text()
        finally:
            process.terminate()
            process.wait(30 * PATIENCE)
