"""A real broker in a directory of its own, and clients that know nothing but schema/PROTOCOL.md."""
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
import uuid

import msgpack
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ASSAY_BIN", ROOT / "build/cpu/bin")).resolve()
MODELS = ROOT / "tests/models"
DEMO = MODELS / "demo"
FAULTY_WORKER = BIN.parent / "tests/chaos/faulty_worker"
# Sanitizers and a shared machine make everything slower; a test waits this much longer than it should need.
PATIENCE = float(os.environ.get("ASSAY_PATIENCE", "1"))


def ids_bytes(ids) -> bytes:
    """Token ids as the wire's little-endian int32."""
    return struct.pack(f"<{len(ids)}i", *ids)


class Refused(Exception):
    """A reply with ok: false."""

    def __init__(self, err):
        super().__init__(f"{err['code']}: {err.get('field', '')} {err['message']}")
        self.code, self.err = err["code"], err


class Client:
    """One socket; REQ or DEALER with the same bodies."""

    def __init__(self, endpoint, kind="DEALER", timeout=30.0):
        self.context = zmq.Context()
        self.kind, self.timeout, self.number = kind, timeout * PATIENCE, 0
        self.socket = self.context.socket(zmq.REQ if kind == "REQ" else zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def close(self):
        self.socket.close()
        self.context.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def receive(self, timeout=None):
        """The next reply's body, decoded."""
        if not self.socket.poll(int((timeout or self.timeout) * 1000)):
            raise TimeoutError("no reply")
        frames = self.socket.recv_multipart()
        assert len(frames) == 1, frames
        return msgpack.unpackb(frames[0], strict_map_key=True)

    def raw(self, body: bytes, timeout=None):
        """Send bytes as they are; the reply decoded."""
        self.socket.send(body)
        return self.receive(timeout)

    def call(self, op, timeout=None, **fields):
        """One request; the reply's map, or Refused."""
        self.number += 1
        reply = self.raw(msgpack.packb({"v": 1, "op": op, "id": self.number, **fields}), timeout)
        while reply["id"] is not None and reply["id"] < self.number:
            reply = self.receive(timeout)  # the answer to a request that was given up
        assert reply["id"] == self.number and reply["v"] == 1, reply
        if not reply["ok"]:
            raise Refused(reply["err"])
        return reply

    def submit(self, key, rows, chunk=0, seal=True, **fields):
        fields = {"seal": True, **fields} if seal else fields
        if rows is not None:
            fields["rows"] = rows
        return self.call("submit", key=key, chunk=chunk, **fields)

    def results(self, job, timeout=60.0, **fields):
        """Every result of a job, by the cursor, until the broker says that it is done."""
        rows, after, deadline = [], 0, time.monotonic() + timeout * PATIENCE
        while True:
            reply = self.call("results", job=job, after=after, wait_ms=1000, **fields)
            rows += reply["rows"]
            after = reply["next"]
            if reply["done"]:
                return rows
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(rows)} results of {self.call('status', job=job)}")


class Broker:
    """An assayd process. kill9() and start() again are part of the tests' life."""

    def __init__(self, directory, model=DEMO, options=(), worker=None, env=None, stderr=None):
        self.data = pathlib.Path(directory)
        self.stderr = stderr
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.endpoint = f"ipc://{self.data}/broker.sock"
        self.log_path = self.data / "assayd.log"
        self.command = [str(BIN / "assayd"), "--model", str(model), "--data", str(self.data), "--exit-with-parent",
                        *map(str, options)]
        if worker:
            self.command += ["--worker", str(worker)]
        if "--threads" not in self.command:
            self.command += ["--threads", "2"]
        self.env = {**os.environ, **(env or {})}
        self.process = None

    def start(self, wait=True):
        """Start; with wait, until it answers hello."""
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen(self.command, stderr=self.stderr or self.log, stdout=self.log, env=self.env)
        if wait:
            with self.client() as client:
                deadline = time.monotonic() + 60 * PATIENCE
                while True:
                    try:
                        self.model = client.call("hello", timeout=1.0)["model"]
                        return self
                    except TimeoutError:
                        assert self.process.poll() is None, self.words()
                        assert time.monotonic() < deadline, self.words()
        return self

    def words(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def client(self, kind="DEALER", **options):
        return Client(self.endpoint, kind, **options)

    def kill9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=30):
        """SIGTERM; the exit code."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout * PATIENCE)

    def sql(self, query, *parameters):
        """Rows of a query through a read-only connection, as any reader would."""
        connection = sqlite3.connect(f"file:{self.data}/assay.db?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()

    def worker_pids(self):
        """Ranks that are alive now, by the process table."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
                parent = int(stat.rsplit(")", 1)[1].split()[1])
                state = stat.rsplit(")", 1)[1].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid and state != "Z":
                pids.append(int(entry.name))
        return pids

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill9()
        self.log.close()


def wait_until(condition, timeout=20.0, step=0.02):
    """Poll a condition; its value once true."""
    deadline = time.monotonic() + timeout * PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(step)
    raise TimeoutError("condition never became true")


def vectors():
    """Golden files written by the oracle, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests/vectors").glob("*.json"))}


def framed_model(to):
    """demo-reward, with a tokenizer that puts tokens around a text: 295 <|endoftext|> before it, 298 <extra_0> behind it."""
    shutil.copytree(MODELS / "demo-reward", to)
    tokenizer = json.loads((to / "tokenizer.json").read_text())
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<|endoftext|>", "<extra_0>"))
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [first, text, last], "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}, last],
        "special_tokens": {token: {"id": token, "ids": [n], "tokens": [token]} for token, n in (("<|endoftext|>", 295), ("<extra_0>", 298))}}
    (to / "tokenizer.json").write_text(json.dumps(tokenizer))
    return to


def changed_model(to, factor, base="demo-reward"):
    """The same model with another head, so the same tokenizer and another checkpoint."""
    shutil.copytree(MODELS / base, to)
    path = to / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    tensor = json.loads(data[8:8 + size])["score.2.weight"]
    begin, end = (8 + size + offset for offset in tensor["data_offsets"])
    if tensor["dtype"] == "F32":
        values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
        data[begin:end] = struct.pack(f"<{len(values)}f", *(factor * v for v in values))
    else:  # BF16: the upper half of a float32
        values = [struct.unpack("<f", b"\0\0" + data[at:at + 2])[0] for at in range(begin, end, 2)]
        data[begin:end] = b"".join(struct.pack("<f", factor * v)[2:] for v in values)
    path.write_bytes(data)
    return to


def random_key(prefix="t"):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
