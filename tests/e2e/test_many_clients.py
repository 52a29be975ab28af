"""A thousand clients at once, a connection each: everyone gets the answers to its own rows, soon, beside a job that keeps the workers busy."""
import pathlib
import resource
import time

import harness
import msgpack
import pytest
import zmq

CLIENTS = 1000
ROUNDS = 2


def tokens(client, turn):
    """Rows that differ from one another, of 1 to 8 tokens."""
    return [(client * 31 + turn * 7 + k) % 500 for k in range(1 + (client + turn) % 8)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with harness.Broker(tmp_path_factory.mktemp("many") / "d", options=["--max-batch-tokens", 4096]) as b:
        yield b


@pytest.fixture(scope="module")
def expected(broker):
    """The same rows, in one job of one client."""
    rows = [{"ids": harness.ids_bytes(tokens(c, t))} for t in range(ROUNDS) for c in range(CLIENTS)]
    with broker.client() as client:
        client.submit("expected", rows)
        scores = {row["i"]: row["score"] for row in client.results("expected", limit=2000)}
    assert len(scores) == len(rows)
    return {(c, t): scores[t * CLIENTS + c] for t in range(ROUNDS) for c in range(CLIENTS)}


class Crowd:
    """DEALER sockets, each with a connection of its own."""

    def __init__(self, endpoint, n):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, n + 8)
        self.sockets, self.poller = [], zmq.Poller()
        for number in range(n):
            socket = self.context.socket(zmq.DEALER)
            socket.linger = 0
            socket.connect(endpoint)
            self.sockets.append(socket)
            self.poller.register(socket, zmq.POLLIN)
        self.number = {socket: number for number, socket in enumerate(self.sockets)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(linger=0)

    def ask(self, requests, timeout):
        """A request of each; the replies as they come: (client, reply, seconds)."""
        start, deadline = time.monotonic(), time.monotonic() + timeout * harness.PATIENCE
        for socket, request in zip(self.sockets, requests):
            socket.send(msgpack.packb({"v": 1, **request}))
        left = len(self.sockets)
        while left:
            ready = self.poller.poll(1000)
            assert ready or time.monotonic() < deadline, f"{left} clients have no answer"
            for socket, _ in ready:
                reply = msgpack.unpackb(socket.recv())
                yield self.number[socket], reply, time.monotonic() - start
                left -= 1


def memory_kb(broker):
    status = pathlib.Path(f"/proc/{broker.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_everyone_gets_their_own_answers(broker, expected):
    before = memory_kb(broker)
    with Crowd(broker.endpoint, CLIENTS) as crowd:
        for turn in range(ROUNDS):
            requests = [{"op": "score", "id": f"{c}.{turn}", "rows": [{"id": c, "ids": harness.ids_bytes(tokens(c, turn))}]} for c in range(CLIENTS)]
            seen = set()
            for c, reply, _ in crowd.ask(requests, timeout=60):
                assert reply["ok"] and reply["id"] == f"{c}.{turn}", reply
                (row,) = reply["rows"]
                assert (row["id"], row["score"]) == (c, expected[c, turn])
                seen.add(c)
            assert len(seen) == CLIENTS
        assert len(list(pathlib.Path(f"/proc/{broker.process.pid}/fd").iterdir())) > CLIENTS
        grown = memory_kb(broker) - before
    print(f"{CLIENTS} connections: {grown / CLIENTS:.0f} kB each")
    assert grown < 100_000 or "asan" in harness.BIN.parts  # a sanitizer keeps what was freed


def test_more_clients_than_descriptors(tmp_path):
    """Who does not fit is let in when others have gone. (libzmq itself ends a process that has no descriptor left to accept with.)"""
    broker = harness.Broker(tmp_path / "d")
    broker.command = ["prlimit", "--nofile=200:200", *broker.command]
    with broker, Crowd(broker.endpoint, 400) as crowd:
        waiting = set(crowd.sockets)
        for socket in crowd.sockets:
            socket.send(msgpack.packb({"v": 1, "op": "hello"}))
        deadline = time.monotonic() + 60 * harness.PATIENCE
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} clients were never let in"
            answered = [socket for socket, _ in crowd.poller.poll(1500)]
            for socket in answered:
                assert msgpack.unpackb(socket.recv())["ok"]
                crowd.poller.unregister(socket)
                socket.close()
                waiting.remove(socket)
        assert broker.process.poll() is None


def test_a_large_job_starves_nobody(broker):
    """Jobs of the same priority as the large one, behind which they come."""
    row = {"ids": harness.ids_bytes(range(8))}
    with broker.client() as client, Crowd(broker.endpoint, CLIENTS) as crowd:
        for chunk in range(10):
            rows = [{"ids": harness.ids_bytes([k % 200, k // 200, chunk] + [7] * 30)} for k in range(5000)]  # no two are equal
            client.submit("large", rows, chunk=chunk, seal=chunk == 9)
        keys = [f"small-{c}" for c in range(CLIENTS)]
        for _, reply, _ in crowd.ask([{"op": "submit", "key": k, "chunk": 0, "seal": True, "rows": [row]} for k in keys], timeout=60):
            assert reply["ok"], reply
        times = []
        for _, reply, took in crowd.ask([{"op": "results", "job": k, "wait_ms": 30000} for k in keys], timeout=60):
            assert reply["ok"] and len(reply["rows"]) == 1 and reply["rows"][0]["error"] is None
            times.append(took)
        status = client.call("status", job="large")
        print(f"the last of {CLIENTS} small jobs after {max(times):.2f} s; of the large one {status['done']} of {status['total']} rows were done")
        assert status["done"] < status["total"]
        client.call("cancel", job="large")
