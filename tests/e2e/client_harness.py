"""What the tests of tests/clients share: each kind of client, a broker that reads text, and a proxy that loses replies and kills."""
import asyncio
import concurrent.futures
import importlib.util
import inspect
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

import msgpack
import pytest
import zmq
from harness import BIN, MODELS, PATIENCE, ROOT, Broker

CLIENTS = ROOT / "tests/clients"
sys.path.insert(0, str(CLIENTS))
import assay.core  # noqa: E402
from assay import AsyncClient, Client  # noqa: E402

SCORE_ROWS = BIN.parent / "tests/clients/score_rows"


class DealerClient(Client):
    socket_type = zmq.DEALER


async def collect(iterator):
    return [item async for item in iterator]


class Awaited:
    """AsyncClient, each call in a loop of its own, so that the same tests take both."""

    def __init__(self, *arguments, **named):
        self.client = AsyncClient(*arguments, **named)

    def __getattr__(self, name):
        def call(*arguments, **named):
            came = getattr(self.client, name)(*arguments, **named)
            return asyncio.run(collect(came) if inspect.isasyncgen(came) else came)
        return call


@pytest.fixture(params=[Client, DealerClient, Awaited])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    """A reply that is lost is missed sooner."""
    monkeypatch.setattr(assay.core, "POLL_S", 0.5)


@pytest.fixture(scope="module")
def served():
    """A broker with a model that reads text."""
    path = tempfile.mkdtemp(prefix="assay-")
    with Broker(path, model=MODELS / "demo-reward") as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def endpoint(served, monkeypatch):
    """Where the reward functions look for their broker."""
    monkeypatch.setenv("ASSAY_ENDPOINT", served.endpoint)
    return served.endpoint


def some_rows(n, length=20):
    return [{"id": f"r{k}", "ids": [(k * 7 + j) % 500 for j in range(1 + k % length)]} for k in range(n)]


def load_by_path(name):
    """A file as OpenRLHF and verl load it: by its path."""
    spec = importlib.util.spec_from_file_location(name, CLIENTS / f"assay/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_once(broker, key, rows, results):
    """Each row has one result: in what was read, and in the database."""
    assert sorted(result["i"] for result in results) == list(range(len(rows)))
    assert all(result["error"] is None and result["id"] == rows[result["i"]]["id"] for result in results)
    ((job, total, done),) = broker.sql("select job, total, done from jobs where key = ?", key)
    assert (total, done) == (len(rows), len(rows))
    assert broker.sql("select count(*), count(distinct i) from results where job = ?", job) == [(len(rows), len(rows))]


def score_rows(*arguments, program=SCORE_ROWS):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60 * PATIENCE)


STARTER = concurrent.futures.ThreadPoolExecutor(1)  # a test's broker ends with the thread that started it: this one stays


def kill_and_restart(broker):
    broker.kill9()
    STARTER.submit(broker.start, wait=False).result()


class Middleman(threading.Thread):
    """Stands between clients and a broker, and keeps every request and reply. With `lossy`, the first reply to each request is
    lost on the way. kill_at: {op: numbers}: when the n-th request of that op has gone to the broker, the broker is killed
    and started again, before it has the request or after; a reply that is on its way is lost."""

    def __init__(self, broker, lossy=False, kill_at=None):
        super().__init__()
        self.broker, self.lossy, self.kill_at, self.kills, self.stopping = broker, lossy, kill_at or {}, 0, False
        self.endpoint = f"ipc://{broker.data}/middle.sock"
        self.requests, self.replies, self.seen = [], [], Counter()
        self.context = zmq.Context()
        self.ready = threading.Event()

    def connect(self):
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self.broker.endpoint)
        return socket

    def must_kill(self, op):
        self.seen[op] += 1
        return self.seen[op] in self.kill_at.get(op, ())

    def kill(self):
        time.sleep(0.02 * (self.kills % 2))
        self.kills += 1
        kill_and_restart(self.broker)

    def run(self):
        front, back, asked = self.context.socket(zmq.ROUTER), self.connect(), {}
        front.linger = 0
        front.bind(self.endpoint)
        self.ready.set()
        while not self.stopping:
            if front.poll(10):
                *envelope, body = front.recv_multipart()  # [peer] of a DEALER, [peer, empty] of a REQ
                asked[envelope[0]] = envelope, body
                self.requests.append(body)
                back.send_multipart([envelope[0], b"", body])
                if self.must_kill(msgpack.unpackb(body)["op"]):
                    self.kill()
                    back.close()
                    back = self.connect()
            while back.poll(0):
                peer, _, reply = back.recv_multipart()
                envelope, body = asked[peer]
                self.replies.append((body, msgpack.unpackb(reply)))
                if not (self.lossy and sum(body == earlier for earlier, _ in self.replies) == 1):
                    front.send_multipart([*envelope, reply])
        front.close()
        back.close()

    def __enter__(self):
        self.start()
        self.ready.wait()
        return self

    def __exit__(self, *_):
        self.stopping = True
        self.join()
        self.context.term()
