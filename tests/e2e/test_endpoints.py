"""Where a broker listens and a client connects: what is not understood to the last character is refused, and no file and no
socket of somebody else's is taken."""
import os
import socket
import subprocess

import msgpack
import pytest
import zmq
from harness import BIN, DEMO, PATIENCE, Broker, random_key, wait_until

INSECURE = ["--insecure-loopback"]
BAD = [
    "tcp://127.0.0.1:0;0.0.0.0:5574",  # libzmq listens at what is behind the ';'
    "tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://127.0.0.1", "tcp://*:5574", "tcp://0.0.0.0:5574",
    "tcp://localhost:5574", "tcp://lo:5574", "tcp://[::]:5574", "ipc://@assay-test", "ipc://*", "inproc://x",
    "pgm://lo;239.1.1.1:5574", "epgm://lo;239.1.1.1:5574", "vmci://*:5574", "ws://127.0.0.1:5574", "udp://127.0.0.1:5574",
]


def refused(directory, *options):
    """What a broker says that does not start, and its exit code."""
    command = [BIN / "assayd", "--model", DEMO, "--data", directory / "d", "--exit-with-parent", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 * PATIENCE)
    return done.returncode, done.stderr


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("endpoint", BAD)
def test_the_broker_refuses(directory, endpoint):
    code, words = refused(directory, *INSECURE, "--listen", endpoint)
    assert code in (64, 78) and endpoint in words and "--listen" in words, (code, words)
    assert not (directory / "d").exists()


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1;127.0.0.1:2", "ipc://@assay-test", "inproc://x", "tcp://127.0.0.1:*", "5574"])
def test_the_client_refuses(endpoint):
    done = subprocess.run([BIN / "assay", "status", "--connect", endpoint], capture_output=True, text=True, timeout=30 * PATIENCE)
    assert done.returncode == 64 and endpoint in done.stderr, (done.returncode, done.stderr)


def test_tcp_needs_its_flag(directory):
    code, words = refused(directory, "--listen", f"tcp://127.0.0.1:{free_port()}")
    assert code == 78 and "--insecure-loopback" in words, words


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_each_kind_serves(directory):
    ports = [free_port() for _ in range(2)]
    endpoints = [f"ipc://{directory}/a.sock", f"tcp://127.0.0.1:{ports[0]}"] + [f"tcp://[::1]:{ports[1]}"] * has_ipv6()
    options = INSECURE + [word for endpoint in endpoints for word in ("--listen", endpoint)]
    broker = Broker(directory / "d", options=options)
    broker.endpoint = endpoints[0]
    with broker:
        for endpoint in endpoints + [f"tcp://localhost:{ports[0]}"]:
            done = subprocess.run([BIN / "assay", "status", "--connect", endpoint], capture_output=True, text=True, timeout=60 * PATIENCE)
            assert done.returncode == 0, (endpoint, done.stderr)


def test_no_file_is_taken(directory):
    precious = directory / "precious"
    precious.write_text("kept")
    code, words = refused(directory, "--listen", f"ipc://{precious}")
    assert code == 78 and str(precious) in words, words
    assert precious.read_text() == "kept"


def test_no_socket_is_taken(directory):
    """Two brokers, one endpoint: the second does not start, and the first goes on."""
    endpoint = f"ipc://{directory}/shared.sock"
    first = Broker(directory / "first", options=["--listen", endpoint])
    first.endpoint = endpoint
    with first:
        code, words = refused(directory, "--listen", endpoint)
        assert code == 75 and endpoint in words, (code, words)
        with first.client() as client:
            assert client.call("info")["pid"] == first.process.pid
        first.kill9()
        first.start()  # what it left is nobody's


def hears_events(path, client):
    """A new subscriber, once it is known to hear them."""
    with zmq.Context() as context, context.socket(zmq.SUB) as events:
        events.linger = 0
        events.subscribe("")
        events.connect(f"ipc://{path}")
        return wait_until(lambda: client.submit(random_key(), [{"ids": [1]}]) and events.poll(500))


@pytest.mark.parametrize("name", ["broker.sock", "events.sock"])
def test_a_socket_that_is_removed_is_made_again(directory, name):
    """New clients find it, who is connected stays so, and the log says it."""
    with Broker(directory / "d") as broker, broker.client() as before:
        path = broker.data / name
        before.submit("open", None, chunk=1)  # chunk 0 is missing
        before.socket.send(msgpack.packb({"v": 1, "op": "results", "id": 1000, "job": "open", "wait_ms": 60000}))
        before.call("status", job="open")  # so the one before waits
        path.unlink()
        wait_until(path.exists)
        with broker.client() as after:
            assert after.call("cancel", job="open")["state"] == "cancelled"
            assert hears_events(broker.data / "events.sock", after)
        assert before.receive()["id"] == 1000
        wait_until(lambda: "event=listening_again" in broker.words() and name in broker.words())
        os.rename(path, path.with_suffix(".moved"))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with broker.client() as after:
            assert wait_until(lambda: after.call("hello")) and hears_events(broker.data / "events.sock", after)
    assert broker.process.returncode == 0 and not path.exists()


def test_a_socket_that_another_takes_ends_the_broker(directory):
    path = directory / "shared.sock"
    broker = Broker(directory / "d", options=["--listen", f"ipc://{path}"])
    broker.endpoint = f"ipc://{path}"
    try:
        with broker.start().client() as client, socket.socket(socket.AF_UNIX) as other:
            client.submit("open", None, chunk=1)
            client.socket.send(msgpack.packb({"v": 1, "op": "results", "id": 1000, "job": "open", "wait_ms": 60000}))
            client.call("status", job="open")
            other.bind(str(directory / "other.sock"))
            other.listen()
            os.rename(directory / "other.sock", path)
            reply = client.receive()
            assert reply["id"] == 1000 and reply["err"]["code"] == "not_ready" and str(path) in reply["err"]["message"]
            assert broker.process.wait(30 * PATIENCE) == 75
            assert path.exists() and "replaced" in broker.words(), broker.words()
    finally:
        broker.__exit__()


def test_no_socket_is_left_behind(directory):
    path = directory / "a.sock"
    broker = Broker(directory / "d", options=["--listen", f"ipc://{path}"])
    broker.endpoint = f"ipc://{path}"
    with broker:
        assert path.exists() and (broker.data / "events.sock").exists()
    assert broker.process.returncode == 0 and not path.exists() and not list(broker.data.glob("*.sock"))


def test_a_folder_of_others(directory):
    """Where any user can replace the socket."""
    open_folder = directory / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    code, words = refused(directory, "--listen", f"ipc://{open_folder}/a.sock")
    assert code == 78 and str(open_folder) in words, (code, words)
    open_folder.chmod(0o1777)
    broker = Broker(directory / "d", options=["--listen", f"ipc://{open_folder}/a.sock"])
    broker.endpoint = f"ipc://{open_folder}/a.sock"
    with broker:
        assert os.stat(open_folder / "a.sock").st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "a\x7f", "a\u009b2J", "a\u202eb", "n" * 128, b"\xff"])
def test_a_name_that_cannot_be_shown(directory, name):
    code, words = refused(directory, "--served-name", name)
    assert code == 64 and "--served-name" in words and "\x1b" not in words, (code, words)
