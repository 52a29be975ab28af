"""v2's second half: `vllm serve` and a broker with assay-http, the same checkpoint, the same client, in turns."""
import contextlib
import http.client
import json
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile
import time

import area_vllm
import common
from common import HERE, SCRATCH, TOKENS, Row, harness, say
from http_harness import Http

# The shape, and with how many clients how many rows are sent in a turn.
LOADS = {"tiny": {1: 32, 16: 128, 64: 192, 256: 256}, "0.5b": {1: 2, 16: 16}}
TURNS = {"tiny": min(3, area_vllm.TURNS), "0.5b": 1}
NAMES = {"tiny": "2 layers of 256", "0.5b": "the 0.5B shape" + (f", {area_vllm.LAYERS} layers" if area_vllm.LAYERS < 24 else "")}


class AssayServer:
    path = "/classify"

    def __init__(self, directory, model, dtype):
        self.directory, self.model = directory, "assay"
        options = ["--threads", common.CORES, *(["--dtype", "bf16"] if dtype == "bfloat16" else [])]
        self.broker = harness.Broker(directory / "d", model=model, options=options)

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(self.broker)
        self.http = self.stack.enter_context(Http(self.directory, self.broker, ["--served-model-name", "assay"]))
        self.port = self.http.port
        return self

    def __exit__(self, *why):
        return self.stack.__exit__(*why)

    def processor_seconds(self):
        return area_vllm.processor_seconds(self.broker.process.pid) + area_vllm.processor_seconds(self.http.process.pid)


class VllmServer:
    def __init__(self, model, dtype):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.model = "vllm"
        self.command = [os.environ["PEER_VLLM"], "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "vllm",
                        "--runner", "pooling", "--tokenizer", area_vllm.tokenizer(), "--dtype", dtype, "--max-model-len", TOKENS, "--host", "127.0.0.1",
                        "--port", self.port, "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(list(map(str, self.command)), stdout=self.log, stderr=self.log, start_new_session=True,
                                        env={**os.environ, **area_vllm.ENVIRONMENT})
        harness.wait_until(self.is_ready, timeout=600, step=0.5)
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise SystemExit(f"bench: vllm serve ended:\n{self.log.read()[-4000:]}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def processor_seconds(self):
        return area_vllm.processor_seconds(self.process.pid)


def load(server, clients, rows):
    """What http_load.py found, and the servers' processor time."""
    before = server.processor_seconds()
    command = [os.environ["PEER_VLLM"], HERE / "http_load.py", f"http://127.0.0.1:{server.port}/classify", clients, server.model]
    done = subprocess.run(list(map(str, command)), input="\n".join(map(json.dumps, rows)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {done.stderr[-3000:]}")
    return {**json.loads(done.stdout), "processor": server.processor_seconds() - before}


def checkpoint(shape):
    if shape == "0.5b":
        return area_vllm.checkpoint()
    directory = SCRATCH / f"label-{shape}"
    if not (directory / "config.json").exists():
        subprocess.run([os.sys.executable, HERE / "make_big.py", directory, "--shape", shape, "--label"], check=True)
    return directory


def measure(shape, dtype):
    """By the number of clients, pairs of what both found."""
    model, limit = checkpoint(shape), {"tiny": 4000, "0.5b": 150000}[shape]
    found = {clients: [] for clients in LOADS[shape]}
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path:
        with VllmServer(model, dtype) as peer, AssayServer(pathlib.Path(path), model, dtype) as own:
            for server in (own, peer):
                load(server, 4, area_vllm.fresh(4, limit=limit))
            for turn in range(TURNS[shape]):
                for clients, n in LOADS[shape].items():
                    rows = area_vllm.fresh(n, limit=limit)
                    pair = [load(server, clients, rows) for server in ((own, peer) if turn % 2 == 0 else (peer, own))]
                    found[clients].append(pair if turn % 2 == 0 else pair[::-1])
                    ours, theirs = found[clients][-1]
                    say(f"v2: {NAMES[shape]}, {dtype}, {clients} clients: {n / ours['seconds']:.1f} rows/s / {n / theirs['seconds']:.1f}, processor "
                        f"{ours['processor']:.2f} s / {theirs['processor']:.2f} s")
    return found


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def rows_of(shape, dtype, found):
    apart = max(abs(a - b) for pairs in found.values() for ours, theirs in pairs for a, b in zip(ours["scores"], theirs["scores"]))
    for clients, pairs in found.items():
        n = LOADS[shape][clients]
        what = f"{NAMES[shape]}, {dtype}, rows of {TOKENS} tokens, {clients} client{'s' if clients > 1 else ''}"
        for key, unit in (("seconds", "rows/s"), ("processor", "rows/s a processor")):
            rates = [n / statistics.median(pair[k][key] for pair in pairs) for k in (0, 1)]
            ratio = statistics.median(pair[1][key] / pair[0][key] for pair in pairs)
            yield Row("v2", f"{what}: assay-http / vllm serve" if key == "seconds" else "the same by processor time of the servers",
                      f"{rates[0]:.1f} {unit}", f"{rates[1]:.1f} {unit}", ratio)
        if clients == 1:
            for share, name in ((0.5, "p50"), (0.99, "p99")):
                each = [percentile([s for pair in pairs for s in pair[k]["each"]], share) * 1e3 for k in (0, 1)]
                yield Row("v2", f"the same, {name} of the latency", f"{each[0]:.1f} ms", f"{each[1]:.1f} ms", each[1] / each[0])
    yield Row("v2", f"the same, {NAMES[shape]}, {dtype}: largest difference of a score", "", f"{apart:.1e}", None)


def beside_vllm():
    if not os.environ.get("PEER_VLLM"):
        yield Row("v2", "rows/s of assay-http / vllm serve", area_vllm.MISSING, "", None)
        return
    for shape in LOADS:
        for dtype in ("float32", "bfloat16"):
            yield from rows_of(shape, dtype, measure(shape, dtype))
